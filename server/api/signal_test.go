package api_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/server/api"
)

// flipped changes the last digit of a token.
func flipped(token string) string {
	last := "0"
	if strings.HasSuffix(token, "0") {
		last = "1"
	}
	return token[:len(token)-1] + last
}

// TestSpec08_S14_DeliverSignal: a wrong token changes nothing, the right one
// resumes; the resumed worker reads the signal.
func TestSpec08_S14_DeliverSignal(t *testing.T) {
	s := newSite(t, api.Options{})
	x := s.running("default")
	token := s.suspended(x)
	s.call("POST", x.e("/signal"), signal(wp1, flipped(token), "ready", "")).problem(403, flowfabric.CodeInvalidToken)
	s.call("POST", x.e("/signal"), signal(wp1, "", "ready", "")).problem(403, flowfabric.CodeMissingToken)
	s.call("POST", x.e("/signal"), fmt.Sprintf(`{"waitpoint_id":%q,"signal_name":"ready"}`, wp1)).problem(403, flowfabric.CodeMissingToken)
	if got := s.state(x); got != "suspended" {
		t.Fatalf("after wrong tokens the execution is %s", got)
	}
	sid := string(flowfabric.NewSignalID())
	body := signal(wp1, token, "ready", fmt.Sprintf(`,"signal_id":%q,"payload":%q,"correlation_id":"c","dedup_ttl_ms":1000`, sid, b64("\x00\xff")))
	r := s.call("POST", x.e("/signal"), body).want(200)
	if r.text("outcome") != "accepted" || r.text("signal_id") != sid || r.text("effect") != "resume_condition_satisfied" {
		t.Errorf("delivered %s", r.body)
	}
	r = s.call("POST", x.e("/signal"), body).want(200)
	if r.text("outcome") != "duplicate" || r.text("existing_signal_id") != sid || r.text("signal_id") != "" || r.text("effect") != "resume_condition_satisfied" {
		t.Errorf("repeated %s", r.body)
	}
	list := s.call("GET", x.e("/signals"), "").want(200)
	if list.text("items", 0, "signal_id") != sid || list.text("items", 0, "payload") != "" || list.text("items", 0, "source_identity") != "anonymous" ||
		list.text("items", 0, "source_type") != "external_api" || list.text("items", 0, "signal_category") != "custom" {
		t.Errorf("listed %s", list.body)
	}
	one := s.call("GET", x.e("/signals/"+sid), "").want(200)
	if one.text("payload") != b64("\x00\xff") || one.text("payload_encoding") != "json" || one.text("seq") != "1" {
		t.Errorf("shown %s", one.body)
	}
	if got := s.call("GET", x.e("/signals?unconsumed_only=true"), "").want(200); strings.Contains(string(got.body), sid) {
		t.Errorf("consumed, but listed: %s", got.body)
	}
	s.call("GET", x.e("/signals/"+wp2), "").problem(404, flowfabric.CodeSignalNotFound)
	s.call("GET", x.e("/signals/x"), "").problem(400, flowfabric.CodeInvalidInput)
	again := s.claim(x.id)
	resumed := s.call("POST", again.a("/resume-signals"), "{"+again.fence+"}").want(200)
	if resumed.text("items", 0, "signal_id") != sid || resumed.text("items", 0, "payload") != b64("\x00\xff") || resumed.text("next_cursor") != "" {
		t.Errorf("the worker sees %s", resumed.body)
	}
	s.call("POST", again.a("/resume-signals"), fmt.Sprintf(`{"fence":{"attempt_id":%q}}`, again.claim.Fence.AttemptID)).want(200)
	s.call("POST", again.a("/resume-signals"), `{}`).problem(400, flowfabric.CodeFenceRequired)
	s.call("POST", again.a("/resume-signals"), `{"fence":{"lease_epoch":1}}`).problem(400, flowfabric.CodePartialFenceTriple)
	s.call("POST", x.e("/signal"), signal(wp1, token, "late", "")).problem(409, flowfabric.CodeWaitpointClosed)
	text := s.metrics()
	for _, line := range []string{`ff_signals_total{outcome="accepted"} 1`, `ff_signals_total{outcome="duplicate"} 1`, `ff_signals_total{outcome="invalid_token"} 1`,
		`ff_signals_total{outcome="missing_token"} 2`, `ff_signals_total{outcome="waitpoint_closed"} 1`, `ff_signals_total{outcome="error"} 0`} {
		if !strings.Contains(text, line+"\n") {
			t.Errorf("no %s in the metrics", line)
		}
	}
	secretsStay(t, "log", s.log.String(), token)
	secretsStay(t, "metrics", text, token)
}

func (s *site) metrics() string { return string(s.call("GET", "/metrics", "").want(200).body) }

// TestSignalShapes: what the wire asks of a signal.
func TestSignalShapes(t *testing.T) {
	s := newSite(t, api.Options{Tokens: tokens(t, "")})
	s.token = apiToken
	x := s.running("default")
	token := s.suspended(x)
	for more, field := range map[string]string{
		`,"signal_id":""`: "signal_id", `,"signal_category":""`: "signal_category", `,"source_type":""`: "source_type", `,"source_identity":""`: "source_identity",
		`,"dedup_ttl_ms":0`: "dedup_ttl_ms", `,"resume_delay_ms":0`: "resume_delay_ms", `,"signal_category":"timeout"`: "signal_category", `,"source_type":"engine"`: "source_type",
	} {
		if details := s.call("POST", x.e("/signal"), signal(wp1, token, "n", more)).problem(400, flowfabric.CodeInvalidInput); details["field"] != field {
			t.Errorf("%s: %v", more, details)
		}
	}
	s.call("POST", x.e("/signal"), signal(wp1, token, "n", `,"execution_id":"`+absent+`"`)).problem(400, flowfabric.CodeIDMismatch)
	s.call("POST", x.e("/signal"), signal(wp1, token, "n", `,"execution_id":"`+string(x.id)+`"`)).want(200)
	// Scenario 49 of chapter 03: the limit of the body comes before the token.
	large := signal(wp1, "wrong", "n", `,"payload":"`+strings.Repeat("A", 300<<10)+`"`)
	if details := s.call("POST", x.e("/signal"), large).problem(413, flowfabric.CodePayloadTooLarge); details["limit_bytes"] != 262144.0 {
		t.Errorf("limit %v", details)
	}
	s.call("POST", x.e("/signal"), signal(wp1, token, "n", `,"payload":"`+b64(strings.Repeat("x", 65_537))+`"`)).problem(413, flowfabric.CodePayloadTooLarge)
	s.call("POST", x.e("/signal"), signal(wp1, token, "n", `,"payload":"`+b64(strings.Repeat("x", 65_536))+`"`)).want(200)
	s.call("POST", x.e("/signal"), signal(wp1, token, "n", `,"payload":""`)).want(200)
	list := s.call("GET", x.e("/signals?limit=2"), "").want(200)
	if got := list.text("items", 0, "source_identity"); got != "default" {
		t.Errorf("the shared token sends as %q", got)
	}
	next := s.call("GET", x.e("/signals?limit=2&cursor="+list.text("next_cursor")), "").want(200)
	if next.text("items", 0, "seq") != "3" || next.text("next_cursor") != "" {
		t.Errorf("second page %s", next.body)
	}
	s.call("GET", x.e("/signals?limit=2&unconsumed_only=true&cursor="+list.text("next_cursor")), "").problem(400, flowfabric.CodeInvalidCursor)
	one := s.call("GET", x.e("/signals/"+next.text("items", 0, "signal_id")), "").want(200)
	if strings.Contains(string(one.body), `"payload"`) {
		t.Errorf("an empty payload is shown: %s", one.body[:min(200, len(one.body))])
	}
}

// TestSpec03_S39_Approval: an operator decides without the token.
func TestSpec03_S39_Approval(t *testing.T) {
	s := newSite(t, api.Options{})
	x := s.running("default")
	token := s.suspended(x)
	approve := func(lane, waitpoint, more string) string {
		return fmt.Sprintf(`{"lane_id":%q,"waitpoint_id":%q,"signal_name":"ready","idempotency_suffix":"1","decided_by":"ada"%s}`, lane, waitpoint, more)
	}
	if d := s.call("POST", x.e("/approval-signal"), approve("other", wp1, "")).problem(400, flowfabric.CodeInvalidInput); fmt.Sprint(d) == "" || !strings.Contains(fmt.Sprint(d), "lane_mismatch") {
		t.Errorf("wrong lane: %v", d)
	}
	s.call("POST", x.e("/approval-signal"), approve("main", wp2, "")).problem(404, flowfabric.CodeWaitpointNotFound)
	s.call("POST", x.e("/approval-signal"), approve("main", wp1, `,"signal_id":""`)).problem(400, flowfabric.CodeInvalidInput)
	s.call("POST", "/v1/executions/"+absent+"/approval-signal", approve("main", wp1, "")).problem(404, flowfabric.CodeExecutionNotFound)
	payload := `,"payload":"` + b64(strings.Repeat("x", 65_536)) + `"`
	if r := s.call("POST", x.e("/approval-signal"), approve("main", wp1, payload)).want(200); r.text("effect") != "resume_condition_satisfied" {
		t.Errorf("approved %s", r.body)
	}
	if r := s.call("POST", x.e("/approval-signal"), approve("main", wp1, "")).want(200); r.text("outcome") != "duplicate" {
		t.Errorf("approved again %s", r.body)
	}
	list := s.call("GET", x.e("/signals"), "").want(200)
	if list.text("items", 0, "source_identity") != "ada" || list.text("items", 0, "signal_category") != "approval" || list.text("items", 0, "source_type") != "operator" {
		t.Errorf("recorded %s", list.body)
	}
	secretsStay(t, "log", s.log.String(), token)
}

// TestForeignSignals: to a token limited to a namespace, a foreign execution and
// an absent one look alike everywhere, and a delivery to either like a wrong
// waitpoint token.
func TestForeignSignals(t *testing.T) {
	file := "[" + named("tenant", "tenant-token-0123456789", "signal", "read", "work", "operate", "admin") + `,"namespaces":["other"]}]`
	s := newSite(t, api.Options{Tokens: tokens(t, file)})
	s.token = apiToken
	x := s.running("default")
	token := s.suspended(x)
	s.token = "tenant-token-0123456789"
	for _, target := range []string{x.e(""), "/v1/executions/" + absent} {
		s.call("POST", target+"/signal", signal(wp1, token, "ready", "")).problem(403, flowfabric.CodeInvalidToken)
		s.call("POST", target+"/signal", signal(wp1, "", "ready", "")).problem(403, flowfabric.CodeMissingToken)
		s.call("POST", target+"/signal", signal(wp1, token, "", "")).problem(400, flowfabric.CodeInvalidInput)
		s.call("GET", target+"/waitpoints/"+wp1+"/token", "").problem(404, flowfabric.CodeWaitpointNotFound)
		for _, route := range []string{"/signals", "/signals/" + wp1, "/suspension", "/pending-waitpoints"} {
			s.call("GET", target+route, "").problem(404, flowfabric.CodeExecutionNotFound)
		}
		s.call("POST", target+"/resume", `{"reason":"r"}`).problem(404, flowfabric.CodeExecutionNotFound)
		s.call("POST", target+"/waitpoints/"+wp1+"/close", "").problem(404, flowfabric.CodeExecutionNotFound)
		s.call("POST", target+"/attempts/0/waitpoints", "{"+x.fence+`,"waitpoint_key":"k","expires_in_ms":1}`).problem(404, flowfabric.CodeExecutionNotFound)
	}
	if got := s.call("GET", "/v1/suspended", "").want(200); strings.Contains(string(got.body), string(x.id)) {
		t.Errorf("a foreign execution is listed: %s", got.body)
	}
	s.call("GET", "/v1/suspended?namespace=default", "").problem(403, flowfabric.CodeNamespaceForbidden)
	s.token = apiToken
	if got := s.state(x); got != "suspended" {
		t.Errorf("the execution is %s", got)
	}
}
