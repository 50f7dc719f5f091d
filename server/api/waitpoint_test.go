package api_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/server/api"
)

// TestSpec03_S15_PendingWaitpoint: a signal that comes before the suspend is
// buffered, and then satisfies it; the lease is kept.
func TestSpec03_S15_PendingWaitpoint(t *testing.T) {
	s := newSite(t, api.Options{})
	x := s.running("default")
	create := func(more string) string {
		return fmt.Sprintf(`{%s,"waitpoint_key":"k","expires_in_ms":60000,"waitpoint_id":%q%s}`, x.fence, wp1, more)
	}
	s.call("POST", x.a("/waitpoints"), strings.Replace(create(""), `"k"`, `""`, 1)).problem(400, flowfabric.CodeInvalidWaitpointKey)
	s.call("POST", x.a("/waitpoints"), strings.Replace(create(""), wp1, "", 1)).problem(400, flowfabric.CodeInvalidInput)
	s.call("POST", x.a("/waitpoints"), strings.Replace(create(""), "60000", "0", 1)).problem(400, flowfabric.CodeInvalidInput)
	s.call("POST", x.a("/waitpoints"), strings.Replace(create(""), x.fence+",", "", 1)).problem(400, flowfabric.CodeFenceRequired)
	made := s.call("POST", x.a("/waitpoints"), create("")).want(201)
	token := made.text("token")
	if made.text("waitpoint_id") != wp1 || made.text("waitpoint_key") != "k" || made.text("expires_at") == "" || made.head.Get("Cache-Control") != "no-store" {
		t.Errorf("made %s %v", made.body, made.head)
	}
	if again := s.call("POST", x.a("/waitpoints"), create("")).want(201); again.text("token") != token {
		t.Errorf("made again %s", again.body)
	}
	r := s.call("POST", x.e("/signal"), signal(wp1, token, "ready", `,"payload":"`+b64("early")+`"`)).want(200)
	if r.text("effect") != "buffered_for_pending_waitpoint" || r.text("requires_confirmation") != "true" {
		t.Errorf("buffered %s", r.body)
	}
	body := strings.Replace(x.suspend(""), `,"waitpoint_key":"k"}`, "}", 1)
	done := s.call("POST", x.a("/suspend"), body).want(200)
	if done.text("outcome") != "already_satisfied" || done.text("signals", 0, "payload") != b64("early") || strings.Contains(string(done.body), "token") {
		t.Errorf("suspended %s", done.body)
	}
	if got := s.state(x); got != "active" {
		t.Errorf("the execution is %s", got)
	}
}

// TestCloseWaitpoint: by its worker, and by an operator.
func TestCloseWaitpoint(t *testing.T) {
	s := newSite(t, api.Options{})
	x := s.running("default")
	for _, id := range []string{wp1, wp2} {
		s.call("POST", x.a("/waitpoints"), fmt.Sprintf(`{%s,"waitpoint_key":"k","expires_in_ms":60000,"waitpoint_id":%q}`, x.fence, id)).want(201)
	}
	s.call("POST", x.a("/waitpoints/"+wp1+"/close"), "{}").problem(400, flowfabric.CodeFenceRequired)
	s.call("POST", x.a("/waitpoints/"+wp1+"/close"), "{"+x.fence+`,"reason":""}`).problem(400, flowfabric.CodeInvalidInput)
	s.call("POST", x.a("/waitpoints/"+wp1+"/close"), "{"+x.fence+`,"waitpoint_id":"`+wp2+`"}`).problem(400, flowfabric.CodeIDMismatch)
	s.call("POST", x.e("/attempts/7/waitpoints/"+wp1+"/close"), "{"+x.fence+"}").problem(409, flowfabric.CodeStaleLease)
	s.call("POST", x.a("/waitpoints/x/close"), "{"+x.fence+"}").problem(400, flowfabric.CodeInvalidInput)
	for i, want := range []string{"closed", "already_closed"} {
		if r := s.call("POST", x.a("/waitpoints/"+wp1+"/close"), "{"+x.fence+`,"reason":"not needed"}`).want(200); r.text("outcome") != want {
			t.Errorf("close %d: %s", i, r.body)
		}
		if r := s.call("POST", x.e("/waitpoints/"+wp2+"/close"), "").want(200); r.text("outcome") != want {
			t.Errorf("operator's close %d: %s", i, r.body)
		}
	}
	s.call("POST", x.e("/waitpoints/"+sus1+"/close"), "").problem(404, flowfabric.CodeWaitpointNotFound)
	s.call("POST", x.a("/suspend"), strings.ReplaceAll(x.suspend(""), wp1, sus1)).want(200)
	s.call("POST", x.e("/waitpoints/"+sus1+"/close"), "").problem(409, flowfabric.CodeWaitpointInUse)
}

// TestSpec08_S15_RawToken: the token of an open waitpoint, for the scope admin
// alone, never cached and always audited.
func TestSpec08_S15_RawToken(t *testing.T) {
	file := "[" + named("ops", "ops-token-0123456789", "operate") + "}]"
	s := newSite(t, api.Options{Tokens: tokens(t, file)})
	s.token = apiToken
	x := s.running("default")
	token := s.suspended(x)
	r := s.call("GET", x.e("/waitpoints/"+wp1+"/token"), "").want(200)
	if r.text("token") != token || r.head.Get("Cache-Control") != "no-store" {
		t.Errorf("shown %s %v", r.body, r.head)
	}
	for _, target := range []string{x.e("/waitpoints/" + wp2 + "/token"), "/v1/executions/" + absent + "/waitpoints/" + wp1 + "/token"} {
		none := s.call("GET", target, "")
		none.problem(404, flowfabric.CodeWaitpointNotFound)
		if none.head.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: %v", target, none.head)
		}
	}
	s.call("POST", x.e("/resume"), `{"reason":"r"}`).want(200)
	s.call("GET", x.e("/waitpoints/"+wp1+"/token"), "").problem(404, flowfabric.CodeWaitpointNotFound)
	if n := strings.Count(s.log.String(), `msg="waitpoint token read"`); n != 4 {
		t.Errorf("%d reads are audited, want 4: %s", n, s.log)
	}
	if !strings.Contains(s.log.String(), "audit=true token=default") || !strings.Contains(s.log.String(), "waitpoint_id="+wp1+" found=true") {
		t.Errorf("audited %s", s.log)
	}
	secretsStay(t, "log", s.log.String(), token)
	s.token = "ops-token-0123456789"
	s.call("GET", x.e("/waitpoints/"+wp1+"/token"), "").problem(403, flowfabric.CodeInsufficientScope)
}
