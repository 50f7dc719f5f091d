package server_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/server"
)

const absentID = "{fp:7}:00000000-0000-4000-8000-000000000000"

func TestScenario05CreateAndShow(t *testing.T) {
	f := serve(t, server.Config{})
	a := f.call("POST", "/v1/executions", spec.with(fields{"priority": 5})).want(201)
	if o := a.object(); o["outcome"] != "created" || o["public_state"] != "waiting" {
		t.Fatalf("created %s", a.body)
	}
	id := a.text("execution_id")
	got := f.call("GET", e(id), nil).want(200)
	o := got.object()
	if o["namespace"] != "default" || o["lane_id"] != "main" || o["priority"] != 5.0 || o["execution_kind"] != "llm_call" ||
		o["public_state"] != "waiting" || o["terminal_outcome"] != "none" {
		t.Errorf("shows %s", got.body)
	}
	var raw map[string]json.RawMessage
	got.decode(&raw)
	if strings.ContainsAny(string(raw["created_at"]), `."eE`) {
		t.Errorf("created_at %s", raw["created_at"])
	}
	if string(raw["tags"]) != "{}" {
		t.Errorf("tags %s", raw["tags"])
	}
	// The raw form of the path, HEAD, and the state alone.
	if raw := f.call("GET", "/v1/executions/"+id, nil).want(200); string(raw.body) != string(got.body) {
		t.Errorf("raw path shows %s", raw.body)
	}
	if head := f.call("HEAD", e(id), nil).want(200); len(head.body) != 0 || head.header.Get("Content-Length") == "" {
		t.Errorf("HEAD %v %q", head.header, head.body)
	}
	if s := f.call("GET", e(id, "/state"), nil).want(200); s.text("public_state") != "waiting" {
		t.Errorf("state %s", s.body)
	}
}

func TestScenario06IdempotencyKey(t *testing.T) {
	f := serve(t, server.Config{})
	keyed := spec.with(fields{"idempotency_key": "k-1"})
	id := f.call("POST", "/v1/executions", keyed).want(201).text("execution_id")
	same := f.call("POST", "/v1/executions", keyed).want(200).object()
	if same["outcome"] != "duplicate" || same["execution_id"] != id || same["same_spec"] != true {
		t.Errorf("repeat %v", same)
	}
	other := f.call("POST", "/v1/executions", keyed.with(fields{"payload": "b3RoZXI="})).want(200).object()
	if other["outcome"] != "duplicate" || other["execution_id"] != id || other["same_spec"] != false {
		t.Errorf("other payload %v", other)
	}
	header := f.call("POST", "/v1/executions", spec, "Idempotency-Key", "k-1").want(200).object()
	if header["execution_id"] != id {
		t.Errorf("key in the header %v", header)
	}
	f.call("POST", "/v1/executions", keyed, "Idempotency-Key", "k-2").problem(400, flowfabric.CodeIDMismatch)
	var page struct{ Items []any }
	f.call("GET", "/v1/executions", nil).want(200).decode(&page)
	if len(page.Items) != 1 {
		t.Errorf("%d executions exist", len(page.Items))
	}
}

func TestScenario07AbsentAndMalformedID(t *testing.T) {
	f := serve(t, server.Config{})
	f.call("GET", e(absentID), nil).problem(404, flowfabric.CodeExecutionNotFound)
	for id, kind := range map[string]string{
		"nonsense": flowfabric.KindMissingTag,
		"{fp:07}:00000000-0000-4000-8000-000000000000": flowfabric.KindInvalidPartitionIndex,
		"{fp:7}:00000000-0000-4000-8000-00000000000Z":  flowfabric.KindInvalidUUID,
	} {
		p := f.call("GET", e(id), nil).problem(400, flowfabric.CodeInvalidExecutionID)
		if details(p)["kind"] != kind {
			t.Errorf("%s: details %v, want kind %s", id, p["details"], kind)
		}
	}
	f.call("POST", "/v1/executions", spec.with(fields{"execution_id": "nonsense"})).problem(400, flowfabric.CodeInvalidExecutionID)
}

func TestScenario08BodyLimits(t *testing.T) {
	f := serve(t, server.Config{})
	const large = 3 << 19
	tooLarge := func(a *answer, limit int, route string) {
		t.Helper()
		d := details(a.problem(413, flowfabric.CodePayloadTooLarge))
		if d["limit_bytes"] != float64(limit) || d["route"] != route {
			t.Errorf("details %v", d)
		}
	}
	over := strings.Repeat(" ", large+1)
	tooLarge(f.call("POST", "/v1/executions", over), large, "/v1/executions")
	// Without a declared length.
	tooLarge(f.call("POST", "/v1/executions", io.MultiReader(strings.NewReader(over))), large, "/v1/executions")

	payload := bytes.Repeat([]byte{'x'}, flowfabric.MaxPayloadBytes)
	f.call("POST", "/v1/executions", spec.with(fields{"payload": b64(payload)})).want(201)
	f.call("POST", "/v1/executions", spec.with(fields{"payload": b64(append(payload, 'x'))})).problem(413, flowfabric.CodePayloadTooLarge)

	id := f.create(nil)
	tooLarge(f.call("POST", e(id, "/replay"), strings.Repeat(" ", 64<<10+1)), 64<<10, "/v1/executions/{execution_id}/replay")
	tooLarge(f.call("GET", e(id), strings.Repeat(" ", 64<<10+1)), 64<<10, "/v1/executions/{execution_id}")
}

// TestFieldOverItsLimit: a payload over its limit tells limit and route as a body
// does, and faults name the field as it was sent.
func TestFieldOverItsLimit(t *testing.T) {
	f := serve(t, server.Config{})
	over := b64(make([]byte, flowfabric.MaxPayloadBytes+1))
	p := f.call("POST", "/v1/executions", spec.with(fields{"payload": over})).problem(413, flowfabric.CodePayloadTooLarge)
	if d := details(p); d["limit_bytes"] != float64(flowfabric.MaxPayloadBytes) || d["route"] != "/v1/executions" || d["field"] != "payload" {
		t.Errorf("details %v", d)
	}
	task := f.run()
	p = f.call("POST", task.a("/complete"), fields{"fence": task.Fence, "payload": over}).problem(413, flowfabric.CodePayloadTooLarge)
	if d := details(p); d["route"] != "/v1/executions/{execution_id}/attempts/{attempt_index}/complete" || d["field"] != "payload" {
		t.Errorf("details %v", d)
	}
	p = f.call("POST", task.a("/complete"), fields{"fence": task.Fence, "payload_encoding": strings.Repeat("x", 65)}).problem(400, flowfabric.CodeInvalidInput)
	if details(p)["field"] != "payload_encoding" {
		t.Errorf("details %v", details(p))
	}
	p = f.call("POST", task.a("/fail"), fields{"fence": task.Fence, "reason": "r", "category": "Bad"}).problem(400, flowfabric.CodeInvalidInput)
	if details(p)["field"] != "category" {
		t.Errorf("details %v", details(p))
	}
}

func TestScenario10UnknownField(t *testing.T) {
	f := serve(t, server.Config{})
	p := f.call("POST", "/v1/executions", spec.with(fields{"now": 1})).problem(400, flowfabric.CodeInvalidInput)
	if details(p)["field"] != "now" {
		t.Errorf("details %v", p["details"])
	}
	var page struct {
		Items      []any
		NextCursor *string `json:"next_cursor"`
	}
	f.call("GET", "/v1/executions", nil).want(200).decode(&page)
	if len(page.Items) != 0 || page.NextCursor != nil {
		t.Errorf("something was created: %v", page)
	}
}

func TestScenario11Cancel(t *testing.T) {
	f := serve(t, server.Config{})
	id := f.create(nil)
	first := f.call("POST", e(id, "/cancel"), fields{"reason": "first"}).want(200).object()
	if first["outcome"] != "cancelled" || first["execution_id"] != id || first["public_state"] != "cancelled" {
		t.Errorf("cancelled %v", first)
	}
	if s := f.call("GET", e(id, "/state"), nil).want(200); s.text("public_state") != "cancelled" {
		t.Errorf("state %s", s.body)
	}
	again := f.call("POST", e(id, "/cancel"), fields{"reason": "second"}).want(200).object()
	if again["outcome"] != "already_cancelled" || again["cancellation_reason"] != "first" {
		t.Errorf("again %v", again)
	}
}

func TestScenario12Result(t *testing.T) {
	f := serve(t, server.Config{})
	task := f.run()
	f.call("GET", e(task.ExecutionID, "/result"), nil).problem(404, flowfabric.CodeResultNotFound)
	f.call("GET", e(absentID, "/result"), nil).problem(404, flowfabric.CodeExecutionNotFound)
	want := []byte{0xFF, 0xFE, 0x00, 0xC0, 0x80}
	f.call("POST", task.a("/complete"), fields{"fence": task.Fence, "payload": b64(want), "payload_encoding": "bin"}).want(200)
	a := f.call("GET", e(task.ExecutionID, "/result"), nil).want(200)
	if !bytes.Equal(a.body, want) || a.header.Get("Content-Type") != "application/octet-stream" ||
		a.header.Get("FF-Payload-Encoding") != "bin" || a.header.Get("Content-Disposition") != "attachment" {
		t.Errorf("result % x %v", a.body, a.header)
	}
	if in := f.call("GET", e(task.ExecutionID, "/input"), nil).want(200); string(in.body) != "hello" {
		t.Errorf("input %q", in.body)
	}
}

// TestEmptyFiltersAreRefused: a filter that is given is a value, never "all".
func TestEmptyFiltersAreRefused(t *testing.T) {
	f := serve(t, server.Config{})
	for _, path := range []string{
		"/v1/executions?namespace=", "/v1/executions?lane_id=", "/v1/executions?execution_kind=", "/v1/executions?flow_id=", "/v1/executions?public_state=",
		"/v1/feeds/completions?namespace=", "/v1/feeds/completions?lane_id=", "/v1/worker-instances?namespace=", "/v1/worker-instances?lane_id=",
		"/v1/worker-instances/i?namespace=", "/v1/worker-instances/i/leases?namespace=", "/v1/leases/expired?namespace=",
	} {
		_, query, _ := strings.Cut(path, "?")
		p := f.call("GET", path, nil).problem(400, flowfabric.CodeInvalidInput)
		if details, _ := p["details"].(map[string]any); details["field"] != strings.TrimSuffix(query, "=") {
			t.Errorf("%s: %v", path, p)
		}
	}
	f.call("GET", "/v1/feeds/completions?execution_id=", nil).problem(400, flowfabric.CodeInvalidExecutionID)
}

func TestScenario17Pages(t *testing.T) {
	f := serve(t, server.Config{})
	for i := range 15 {
		f.create(fields{"execution_id": fmt.Sprintf("{fp:9}:00000000-0000-4000-8000-%012d", i)})
	}
	for _, path := range []string{"/v1/executions?limit=5&partition=9", "/v1/executions?limit=5", "/v1/executions?limit=5&lane_id=main&public_state=waiting&public_state=delayed"} {
		seen := map[string]bool{}
		cursor, pages := "", 0
		for {
			var page struct {
				Items []struct {
					ExecutionID string `json:"execution_id"`
				}
				NextCursor *string `json:"next_cursor"`
			}
			f.call("GET", path+cursor, nil).want(200).decode(&page)
			pages++
			if len(page.Items) != 5 {
				t.Errorf("%s: page %d has %d items", path, pages, len(page.Items))
			}
			for _, item := range page.Items {
				if seen[item.ExecutionID] {
					t.Errorf("%s: %s twice", path, item.ExecutionID)
				}
				seen[item.ExecutionID] = true
			}
			if page.NextCursor == nil {
				break
			}
			cursor = "&cursor=" + *page.NextCursor
		}
		if pages != 3 || len(seen) != 15 {
			t.Errorf("%s: %d pages, %d executions", path, pages, len(seen))
		}
	}
	f.call("GET", "/v1/executions?limit=0", nil).problem(400, flowfabric.CodeInvalidInput)
	f.call("GET", "/v1/executions?limit=1001", nil).problem(400, flowfabric.CodeInvalidInput)
	f.call("GET", "/v1/executions?cursor=garbage", nil).problem(400, flowfabric.CodeInvalidCursor)
	var page struct {
		NextCursor string `json:"next_cursor"`
	}
	f.call("GET", "/v1/executions?limit=5", nil).want(200).decode(&page)
	f.call("GET", "/v1/executions?limit=5&lane_id=main&cursor="+page.NextCursor, nil).problem(400, flowfabric.CodeInvalidCursor)
	f.call("GET", "/v1/lanes?cursor="+page.NextCursor, nil).problem(400, flowfabric.CodeInvalidCursor)
}

// TestWalkOverPartitions follows the list over all partitions, page by page.
func TestWalkOverPartitions(t *testing.T) {
	f := serve(t, server.Config{})
	want := map[string]bool{}
	for range 40 {
		want[f.create(nil)] = true
	}
	cursor, got, last := "", 0, ""
	for pages := 0; ; pages++ {
		if pages > 20 {
			t.Fatal("the list does not end")
		}
		var page struct {
			Items []struct {
				ExecutionID flowfabric.ExecutionID `json:"execution_id"`
			}
			NextCursor *string `json:"next_cursor"`
		}
		f.call("GET", "/v1/executions?limit=7"+cursor, nil).want(200).decode(&page)
		for _, item := range page.Items {
			place := fmt.Sprintf("%05d %s", item.ExecutionID.Partition(), item.ExecutionID)
			if !want[string(item.ExecutionID)] || place <= last {
				t.Errorf("%s after %s", place, last)
			}
			delete(want, string(item.ExecutionID))
			last = place
			got++
		}
		if page.NextCursor == nil {
			break
		}
		cursor = "&cursor=" + *page.NextCursor
	}
	if got != 40 || len(want) != 0 {
		t.Errorf("%d listed, %d missing", got, len(want))
	}
}

func TestScenario41BodyID(t *testing.T) {
	f := serve(t, server.Config{})
	f.create(nil)
	f.create(nil)
	tasks := f.claim(2, nil)
	a, b := tasks[0], tasks[1]
	cancel := func(id any) *answer {
		return f.call("POST", a.a("/cancel"), fields{"fence": a.Fence, "reason": "r"}.with(fields{"execution_id": id}))
	}
	cancel(b.ExecutionID).problem(400, flowfabric.CodeIDMismatch)
	for _, id := range []string{a.ExecutionID, b.ExecutionID} {
		if s := f.call("GET", e(id, "/state"), nil); s.text("public_state") != "active" {
			t.Errorf("%s is %s", id, s.body)
		}
	}
	if got := cancel(a.ExecutionID).want(200); got.text("outcome") != "cancelled" {
		t.Errorf("cancel %s", got.body)
	}
	if got := f.call("POST", b.a("/cancel"), fields{"fence": b.Fence, "reason": "r"}).want(200); got.text("outcome") != "cancelled" {
		t.Errorf("cancel %s", got.body)
	}
	// The operator's form.
	x, y := f.create(nil), f.create(nil)
	f.call("POST", e(x, "/cancel"), fields{"reason": "r", "execution_id": y}).problem(400, flowfabric.CodeIDMismatch)
	f.call("POST", e(x, "/cancel"), fields{"reason": "r", "execution_id": x}).want(200)
}

func TestScenario43SubmitAndWait(t *testing.T) {
	f := serve(t, server.Config{})
	start := time.Now()
	a := f.call("POST", "/v1/executions?wait_ms=1000", spec).want(202)
	if took := time.Since(start); took < 900*time.Millisecond || took > 5*time.Second {
		t.Errorf("took %v", took)
	}
	if o := a.object(); o["outcome"] != "created" || o["terminal"] != false || o["timed_out"] != true || o["public_state"] != "waiting" {
		t.Errorf("answer %s", a.body)
	}
	f.call("POST", "/v1/executions?wait_ms=30001", spec).problem(400, flowfabric.CodeInvalidInput)

	// Ended in time: 200, with the result.
	done := make(chan *answer, 1)
	go func() {
		a, err := f.try(t.Context(), "POST", "/v1/executions?wait_ms=20000", spec.with(fields{"lane_id": "other"}))
		if err != nil {
			t.Error(err)
		}
		done <- a
	}()
	tasks := f.claim(1, fields{"lane_id": "other", "wait_ms": 20_000})
	if len(tasks) != 1 {
		t.Fatal("nothing to claim")
	}
	f.call("POST", tasks[0].a("/complete"), fields{"fence": tasks[0].Fence, "payload": "b2s="}).want(200)
	a = <-done
	if o := a.want(200).object(); o["terminal"] != true || o["payload"] != "b2s=" || o["outcome"] != "created" {
		t.Errorf("answer %s", a.body)
	}
}

// TestSubmitAndWaitPermit: without a permit nothing is created.
func TestSubmitAndWaitPermit(t *testing.T) {
	f := serve(t, server.Config{MaxWaits: 1})
	first := f.create(fields{"lane_id": "held"})
	parked := make(chan *answer, 1)
	go func() {
		a, _ := f.try(t.Context(), "GET", e(first, "/wait?wait_ms=20000"), nil)
		parked <- a
	}()
	f.eventually("a wait is under way", func() bool { return f.metric("ff_waits_in_use") == "1" })
	p := f.call("POST", "/v1/executions?wait_ms=1000", spec.with(fields{"idempotency_key": "only"})).problem(429, flowfabric.CodeResourceExhausted)
	if d := details(p); d["pool"] != "waits" || d["max"] != 1.0 || p["retry_after_ms"] != 25.0 {
		t.Errorf("problem %v", p)
	}
	f.call("POST", "/v1/executions", spec.with(fields{"idempotency_key": "only"})).want(201)
	f.call("POST", e(first, "/cancel"), fields{"reason": "enough"}).want(200)
	if a := <-parked; a == nil || a.want(200).object()["outcome"] != "cancelled" {
		t.Errorf("wait %v", a)
	}
}

func TestScenario48StrictBodies(t *testing.T) {
	f := serve(t, server.Config{})
	id := f.create(nil)
	good, _ := json.Marshal(spec)
	for name, body := range map[string]string{
		"duplicated key":  strings.Replace(string(good), "{", `{"lane_id":"main",`, 1),
		"trailing bytes":  string(good) + " x",
		"second document": string(good) + "{}",
		"fraction":        strings.Replace(string(good), "{", `{"priority":1.5,`, 1),
		"too large":       strings.Replace(string(good), "{", `{"delay_until":9007199254740992,`, 1),
		"null required":   strings.Replace(string(good), `"main"`, "null", 1),
		"not base64":      strings.Replace(string(good), "aGVsbG8=", "aGVsbG8", 1),
		"deep":            strings.Replace(string(good), "{", `{"policy":`+strings.Repeat(`[`, 100)+strings.Repeat(`]`, 100)+`,`, 1),
	} {
		a := f.call("POST", "/v1/executions", body)
		if a.status != 400 {
			t.Errorf("%s: %d %s", name, a.status, a.body)
		}
	}
	f.call("POST", e(id, "/cancel"), `{"reason":"a","reason":"b"}`).problem(400, flowfabric.CodeInvalidInput)
	var page struct{ Items []any }
	f.call("GET", "/v1/executions", nil).want(200).decode(&page)
	if len(page.Items) != 1 {
		t.Errorf("%d executions", len(page.Items))
	}
	if s := f.call("GET", e(id, "/state"), nil); s.text("public_state") != "waiting" {
		t.Errorf("state %s", s.body)
	}
}

func TestBatchedCreate(t *testing.T) {
	f := serve(t, server.Config{})
	a := f.call("POST", "/v1/executions/batch", fields{"executions": []fields{spec, spec.with(fields{"namespace": "no space"}), spec}}).want(200)
	var got struct {
		Items []struct {
			Outcome string
			Problem *struct{ Code, Class string }
		}
	}
	a.decode(&got)
	if len(got.Items) != 3 || got.Items[0].Outcome != "created" || got.Items[2].Outcome != "created" ||
		got.Items[1].Problem == nil || got.Items[1].Problem.Code != "invalid_input" {
		t.Errorf("batch %s", a.body)
	}
	// A fault of one item's values leaves the others alone; one of the document's
	// form refuses all.
	a = f.call("POST", "/v1/executions/batch", fields{"executions": []fields{spec.with(fields{"priority": 1.5}), spec, {"lane_id": "main"}}}, "X-Request-Id", "r-7").want(200)
	var faulty struct {
		Items []struct {
			Outcome string
			Problem *struct {
				Code, Instance string
				Status         int
				RequestID      string `json:"request_id"`
				Details        map[string]any
			}
		}
	}
	a.decode(&faulty)
	if len(faulty.Items) != 3 || faulty.Items[1].Outcome != "created" {
		t.Fatalf("batch with faulty items %s", a.body)
	}
	for i, field := range map[int]string{0: "priority", 2: "namespace"} {
		p := faulty.Items[i].Problem
		if p == nil || p.Code != "invalid_input" || p.Status != 400 || p.Details["field"] != field || p.RequestID != "r-7" || p.Instance != "/v1/executions/batch" {
			t.Errorf("item %d of %s", i, a.body)
		}
	}
	p := f.call("POST", "/v1/executions/batch", fields{"executions": []fields{spec, spec.with(fields{"now": 1})}}).problem(400, flowfabric.CodeInvalidInput)
	if details, _ := p["details"].(map[string]any); details["field"] != "executions[1].now" {
		t.Errorf("an unknown field is told as %v", p)
	}
	f.call("POST", "/v1/executions/batch", fields{"executions": []fields{}}).problem(400, flowfabric.CodeInvalidInput)
	many := make([]fields, 101)
	for i := range many {
		many[i] = spec
	}
	f.call("POST", "/v1/executions/batch", fields{"executions": many}).problem(400, flowfabric.CodeBatchTooLarge)
}

// TestOperatorsFailureCountsItsRetry: a retry is counted once, whoever failed the
// attempt.
func TestOperatorsFailureCountsItsRetry(t *testing.T) {
	f := serve(t, server.Config{})
	id := f.create(fields{"policy": fields{"retry_policy": fields{"backoff": fields{"type": "fixed", "delay_ms": 60_000}}}})
	if got := f.claim(1, nil); len(got) != 1 {
		t.Fatalf("claimed %v", got)
	}
	if a := f.call("POST", e(id, "/fail"), fields{"reason": "r"}).want(200); a.text("outcome") != "retry_scheduled" {
		t.Fatalf("failure %s", a.body)
	}
	metrics := string(f.call("GET", "/metrics", nil).want(200).body)
	if !strings.Contains(metrics, `ff_attempt_outcome_total{lane="main",outcome="retry"} 1`) {
		t.Error("the retry is not counted")
	}
}

func TestTags(t *testing.T) {
	f := serve(t, server.Config{})
	id := f.create(fields{"tags": fields{"app.name": "x"}})
	if a := f.call("PUT", e(id, "/tags"), fields{"tags": fields{"app.a": "1", "app.b": "2"}}).want(200); a.object()["count"] != 2.0 {
		t.Errorf("set %s", a.body)
	}
	f.call("PUT", e(id, "/tags/app.c"), fields{"value": "3"}).want(200)
	if a := f.call("GET", e(id, "/tags/app.c"), nil).want(200); a.text("value") != "3" {
		t.Errorf("tag %s", a.body)
	}
	if a := f.call("DELETE", e(id, "/tags/app.c"), nil).want(200); a.text("outcome") != "removed" {
		t.Errorf("removed %s", a.body)
	}
	if a := f.call("DELETE", e(id, "/tags/app.c"), nil).want(200); a.text("outcome") != "absent" {
		t.Errorf("removed %s", a.body)
	}
	f.call("GET", e(id, "/tags/app.c"), nil).problem(404, flowfabric.CodeTagNotFound)
	f.call("GET", e(id, "/tags/Bad"), nil).problem(400, flowfabric.CodeInvalidTagKey)
	var tags struct{ Tags map[string]string }
	f.call("GET", e(id, "/tags"), nil).want(200).decode(&tags)
	if len(tags.Tags) != 3 || tags.Tags["app.name"] != "x" {
		t.Errorf("tags %v", tags)
	}
	f.call("GET", e(absentID, "/tags"), nil).want(200)
}

func TestMediaTypes(t *testing.T) {
	f := serve(t, server.Config{})
	good, _ := json.Marshal(spec)
	for media, status := range map[string]int{
		"application/json": 201, "application/json; charset=utf-8": 201, `Application/JSON; charset="UTF-8"`: 201,
		"text/plain": 415, "application/json; charset=latin1": 415, "": 415, "application/json; x=y": 415,
	} {
		if a := f.call("POST", "/v1/executions", string(good), "Content-Type", media); a.status != status {
			t.Errorf("%q: %d %s", media, a.status, a.body)
		}
	}
	f.call("POST", "/v1/executions", string(good), "Content-Encoding", "gzip").problem(415, flowfabric.CodeUnsupportedMediaType)
	f.call("POST", "/v1/executions", string(good), "Content-Encoding", "identity").want(201)
}

func TestUnroutedRequests(t *testing.T) {
	f := serve(t, server.Config{})
	for _, path := range []string{"/", "/v1", "/v1/nothing", "/v1/executions/", "//v1/executions", "/v1/../v1/executions", "/v1/./executions", "/v1/flows"} {
		f.call("GET", path, nil).problem(404, flowfabric.CodeRouteNotFound)
	}
	a := f.call("DELETE", "/v1/executions", nil)
	a.problem(405, flowfabric.CodeMethodNotAllowed)
	if got := a.header.Get("Allow"); got != "GET, HEAD, OPTIONS, POST" {
		t.Errorf("Allow %q", got)
	}
	batch := f.call("GET", "/v1/executions/batch", nil)
	batch.problem(405, flowfabric.CodeMethodNotAllowed)
	if got := batch.header.Get("Allow"); got != "OPTIONS, POST" {
		t.Errorf("Allow %q", got)
	}
	f.call("PURGE", "/v1/executions", nil).problem(405, flowfabric.CodeMethodNotAllowed)
	if o := f.call("OPTIONS", "/v1/executions", nil).want(http.StatusNoContent); o.header.Get("Allow") == "" || o.header.Get("Access-Control-Allow-Origin") != "" {
		t.Errorf("OPTIONS %v", o.header)
	}
	f.call("HEAD", "/v1/feeds/completions/sse", nil).want(405)
}

func TestRequestID(t *testing.T) {
	f := serve(t, server.Config{})
	if a := f.call("GET", "/livez", nil, "X-Request-Id", "mine"); a.header.Get("X-Request-Id") != "mine" {
		t.Errorf("request id %q", a.header.Get("X-Request-Id"))
	}
	for _, bad := range []string{"has space", strings.Repeat("x", 129), "ümlaut"} {
		if a := f.call("GET", "/livez", nil, "X-Request-Id", bad); a.header.Get("X-Request-Id") == bad || a.header.Get("X-Request-Id") == "" {
			t.Errorf("request id %q", a.header.Get("X-Request-Id"))
		}
	}
}
