package api_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/server/api"
)

// TestSpec08_S13_PendingWaitpoints: the listing shows an open waitpoint without
// its token; none for an execution that does not wait.
func TestSpec08_S13_PendingWaitpoints(t *testing.T) {
	s := newSite(t, api.Options{})
	x := s.running("default")
	s.call("GET", x.e("/suspension"), "").problem(404, flowfabric.CodeSuspensionNotFound)
	if empty := s.call("GET", x.e("/pending-waitpoints"), "").want(200); strings.TrimSpace(string(empty.body)) != `{"items":[],"next_cursor":null}` {
		t.Errorf("of an active execution: %s", empty.body)
	}
	token := s.suspended(x)
	page := s.call("GET", x.e("/pending-waitpoints"), "").want(200)
	for field, want := range map[string]string{
		"waitpoint_id": wp1, "waitpoint_key": "k", "execution_id": string(x.id), "state": "active", "condition_kind": "signal", "token_kid": "k1",
		"token_fingerprint": token[3:19], "required_signal_names": "[ready]",
	} {
		if got := page.text("items", 0, field); got != want {
			t.Errorf("%s %q, want %q", field, got, want)
		}
	}
	shown := s.call("GET", x.e("/suspension"), "").want(200)
	if shown.text("suspension_id") != sus1 || shown.text("resume_condition", "kind") != "single" || shown.text("progress", 0, "satisfied") != "false" {
		t.Errorf("suspension %s", shown.body)
	}
	for what, text := range map[string]string{
		"listing": string(page.body), "suspension": string(shown.body), "snapshot": string(s.call("GET", x.e(""), "").body), "log": s.log.String(),
	} {
		secretsStay(t, what, text, token)
	}
	s.call("GET", "/v1/executions/"+absent+"/pending-waitpoints", "").problem(404, flowfabric.CodeExecutionNotFound)
	s.call("GET", x.e("/pending-waitpoints?limit=0"), "").problem(400, flowfabric.CodeInvalidInput)
	s.call("GET", x.e("/pending-waitpoints?cursor=x"), "").problem(400, flowfabric.CodeInvalidCursor)
}

// TestSuspendShapes: what the wire asks of a suspend, and that a refused one
// leaves the lease.
func TestSuspendShapes(t *testing.T) {
	s := newSite(t, api.Options{})
	x := s.running("default")
	whole := x.suspend("")
	without := func(field string) string {
		switch field {
		case "suspension_id":
			return strings.Replace(whole, fmt.Sprintf(`"suspension_id":%q,`, sus1), "", 1)
		case "fence":
			return strings.Replace(whole, x.fence+",", "", 1)
		case "attempt_id":
			return strings.Replace(whole, string(x.claim.Fence.AttemptID), "", 1)
		}
		return ""
	}
	for name, tc := range map[string]struct {
		body  string
		code  flowfabric.Code
		field string
	}{
		"no suspension_id":      {without("suspension_id"), flowfabric.CodeInvalidInput, "suspension_id"},
		"empty suspension_id":   {strings.Replace(whole, sus1, "", 1), flowfabric.CodeInvalidInput, "suspension_id"},
		"no fence":              {without("fence"), flowfabric.CodeFenceRequired, ""},
		"partial fence":         {without("attempt_id"), flowfabric.CodePartialFenceTriple, ""},
		"unknown field":         {x.suspend(`,"now":1`), flowfabric.CodeInvalidInput, "now"},
		"no version":            {strings.Replace(whole, `"v":1,`, "", 1), flowfabric.CodeInvalidResumeCondition, "resume_condition"},
		"condition twice named": {strings.Replace(whole, `"v":1,`, `"v":1,"kind":"count",`, 1), flowfabric.CodeInvalidInput, "resume_condition.kind"},
		"condition of nothing":  {strings.Replace(whole, single, "null", 1), flowfabric.CodeInvalidInput, "resume_condition"},
		"empty key":             {strings.Replace(whole, `"waitpoint_key":"k"}`, `"waitpoint_key":""}`, 1), flowfabric.CodeInvalidWaitpointKey, "waitpoint_key"},
		"two timeouts":          {x.suspend(`,"timeout_ms":5,"timeout_at":5`), flowfabric.CodeInvalidInput, "timeout_at"},
		"timeout_at 0":          {x.suspend(`,"timeout_at":0`), flowfabric.CodeInvalidInput, "timeout_at"},
		"timeout_ms 0":          {x.suspend(`,"timeout_ms":0`), flowfabric.CodeInvalidInput, "timeout_ms"},
		"empty behaviour":       {x.suspend(`,"timeout_behavior":""`), flowfabric.CodeInvalidInput, "timeout_behavior"},
		"the engine's reason":   {strings.Replace(whole, "waiting_for_signal", "paused_by_budget", 1), flowfabric.CodeInvalidInput, "reason_code"},
		"bad resume policy":     {x.suspend(`,"resume_policy":{"resume_delay_ms":-1}`), flowfabric.CodeInvalidInput, "resume_delay_ms"},
	} {
		details := s.call("POST", x.a("/suspend"), tc.body).problem(400, tc.code)
		if tc.field != "" && details["field"] != tc.field {
			t.Errorf("%s: details %v, want field %s", name, details, tc.field)
		}
	}
	s.call("POST", x.e("/attempts/7/suspend"), whole).problem(409, flowfabric.CodeStaleLease)
	s.call("POST", x.a("/suspend"), x.suspend(`,"attempt_index":7`)).problem(400, flowfabric.CodeIDMismatch)
	s.call("POST", x.a("/suspend"), x.suspend(`,"execution_id":"`+absent+`"`)).problem(400, flowfabric.CodeIDMismatch)
	if got := s.state(x); got != "active" {
		t.Errorf("after refusals the execution is %s", got)
	}
	first := s.call("POST", x.a("/suspend"), x.suspend(`,"idempotency_key":"i","timeout_ms":60000,"timeout_behavior":"escalate","continuation_metadata_pointer":"p"`)).want(200)
	again := s.call("POST", x.a("/suspend"), strings.Replace(x.suspend(`,"idempotency_key":"i"`), sus1, wp2, 1)).want(200)
	if again.text("replayed") != "true" || again.text("suspension_id") != sus1 || again.text("waitpoints", 0, "token") != first.text("waitpoints", 0, "token") {
		t.Errorf("repeated %s after %s", again.body, first.body)
	}
	if got := s.call("POST", x.a("/suspend"), whole).problem(409, flowfabric.CodeAlreadySuspended); got["suspension_id"] != sus1 {
		t.Errorf("already suspended: %v", got)
	}
	page := s.call("GET", "/v1/suspended?limit=1", "").want(200)
	if page.text("items", 0, "execution_id") != string(x.id) || page.text("items", 0, "reason_code") != "waiting_for_signal" || page.text("items", 0, "timeout_at") == "" {
		t.Errorf("suspended executions: %s", page.body)
	}
	s.call("GET", "/v1/suspended?limit=1001", "").problem(400, flowfabric.CodeInvalidInput)
	s.call("GET", "/v1/suspended?cursor=x", "").problem(400, flowfabric.CodeInvalidCursor)
}

// TestSuspendedPages: the listing over all partitions is walked to its end, and
// its cursor is bound to its filters.
func TestSuspendedPages(t *testing.T) {
	s := newSite(t, api.Options{})
	want := make(map[string]bool)
	for range 5 {
		x := s.running("default")
		body := strings.ReplaceAll(x.suspend(""), wp1, string(flowfabric.NewWaitpointID()))
		s.call("POST", x.a("/suspend"), body).want(200)
		want[string(x.id)] = true
	}
	cursor, pages := "", 0
	for ; ; pages++ {
		r := s.call("GET", "/v1/suspended?limit=2&namespace=default&cursor="+cursor, "").want(200)
		for i := range strings.Count(string(r.body), `"execution_id"`) {
			id := r.text("items", i, "execution_id")
			if !want[id] {
				t.Errorf("%s is listed twice, or is not there", id)
			}
			delete(want, id)
		}
		if cursor = r.text("next_cursor"); cursor == "" {
			break
		}
		if pages == 0 {
			s.call("GET", "/v1/suspended?limit=2&cursor="+cursor, "").problem(400, flowfabric.CodeInvalidCursor)
		}
		if pages > 300 {
			t.Fatal("the list has no end")
		}
	}
	if len(want) > 0 {
		t.Errorf("not listed: %v", want)
	}
}

// TestOperatorResume: E/resume ends a wait once.
func TestOperatorResume(t *testing.T) {
	s := newSite(t, api.Options{})
	x := s.running("default")
	s.call("POST", x.e("/resume"), `{"reason":"r"}`).problem(409, flowfabric.CodeExecutionNotSuspended)
	s.suspended(x)
	s.call("POST", x.e("/resume"), `{}`).problem(400, flowfabric.CodeInvalidInput)
	s.call("POST", x.e("/resume"), `{"reason":"r","resume_delay_ms":-1}`).problem(400, flowfabric.CodeInvalidInput)
	s.call("POST", x.e("/resume"), `{"reason":"r","trigger":"budget_recovered"}`).problem(400, flowfabric.CodeInvalidInput)
	r := s.call("POST", x.e("/resume"), `{"reason":"r","resume_delay_ms":5000}`).want(200)
	if r.text("outcome") != "resumed" || r.text("public_state") != "delayed" {
		t.Errorf("resumed %s", r.body)
	}
	s.call("POST", x.e("/resume"), `{"reason":"r"}`).problem(409, flowfabric.CodeExecutionNotSuspended)
	if got := s.call("GET", x.e("/suspension"), "").want(200).text("close_reason"); got != "operator_resume" {
		t.Errorf("closed %s", got)
	}
}
