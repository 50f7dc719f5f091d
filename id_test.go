package flowfabric_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/flowfabric/flowfabric"
)

// TestIdentifiersOutOfJSON: reading JSON applies the checks of parsing.
// (Specification 01, section 2, scenarios 1 and 4.)
func TestIdentifiersOutOfJSON(t *testing.T) {
	read := func(v any, text string) *flowfabric.Error {
		quoted, err := json.Marshal(text)
		if err != nil {
			t.Fatal(err)
		}
		err = json.Unmarshal(quoted, v)
		e := flowfabric.AsError(err)
		if err != nil && e == nil {
			t.Errorf("%q: %v is no error of the table", text, err)
		}
		return e
	}
	const uuid = "0190cbe2-5f0c-7d3a-8e55-1c2f3a4b5c6d"
	for text, kind := range map[string]string{
		"{fp:7}:" + uuid: "", uuid: "missing_tag", "": "missing_tag", "{fp:x}:" + uuid: "invalid_partition_index",
		"{fp:65536}:" + uuid: "invalid_partition_index", "{fp:1}:nope": "invalid_uuid",
	} {
		var id flowfabric.ExecutionID
		e := read(&id, text)
		if kind == "" && (e != nil || string(id) != text) || kind != "" && (e == nil || e.Code != flowfabric.CodeInvalidExecutionID || e.Detail("kind") != kind) {
			t.Errorf("execution id %q: %q, %v", text, id, e)
		}
	}
	for text, reason := range map[string]string{
		strings.Repeat("l", 64): "", "a lane": "", strings.Repeat("l", 65): "too_long", "": "empty", "bad\nlane": "non_printable", "a{b": "brace", "é": "non_printable",
	} {
		lane := flowfabric.LaneID("kept")
		e := read(&lane, text)
		if reason == "" && (e != nil || string(lane) != text) || reason != "" && (e == nil || e.Detail("reason") != reason || e.Detail("field") != "lane_id" || lane != "kept") {
			t.Errorf("lane %q: %q, %v", text, lane, e)
		}
	}
	for name, c := range map[string]struct {
		into any
		good []string
		bad  []string
	}{
		"namespace":          {new(flowfabric.Namespace), []string{"acme", "*", strings.Repeat("n", 128)}, []string{"", "a b", strings.Repeat("n", 129)}},
		"worker_id":          {new(flowfabric.WorkerID), []string{"w"}, []string{"", "w\nork", strings.Repeat("w", 129)}},
		"worker_instance_id": {new(flowfabric.WorkerInstanceID), []string{"w-1"}, []string{"", "w 1", "{w}"}},
		"flow_id":            {new(flowfabric.FlowID), []string{"", uuid}, []string{"x", strings.ToUpper(uuid), "{" + uuid + "}"}},
		"attempt_id":         {new(flowfabric.AttemptID), []string{"", uuid}, []string{"x", strings.ToUpper(uuid)}},
		"lease_id":           {new(flowfabric.LeaseID), []string{"", uuid}, []string{"x", strings.ToUpper(uuid)}},
	} {
		for _, text := range c.good {
			if e := read(c.into, text); e != nil {
				t.Errorf("%s %q: %v", name, text, e)
			}
		}
		for _, text := range c.bad {
			if e := read(c.into, text); e == nil || e.Code != flowfabric.CodeInvalidInput || e.Detail("field") != name {
				t.Errorf("%s %q: %v", name, text, e)
			}
		}
	}
}
