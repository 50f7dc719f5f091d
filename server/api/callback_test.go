package api_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/server/api"
)

const tokenHeader = "FF-Waitpoint-Token"

var requestMarks = regexp.MustCompile(`"(request_id|instance)":"[^"]*"`)

// TestSpec08_S16_UniformRefusals: a wrong token, an unknown waitpoint, an unknown
// execution and a pair that does not belong together are answered alike.
func TestSpec08_S16_UniformRefusals(t *testing.T) {
	s := newSite(t, api.Options{Tokens: tokens(t, ""), CallbackRate: -1})
	s.token = apiToken
	x, y := s.running("default"), s.running("default")
	token := s.suspended(x)
	s.token = ""
	unknown := running{id: absent}
	var first string
	for what, r := range map[string]reply{
		"wrong digest":      s.call("POST", x.callback(wp1), "", tokenHeader, flipped(token)),
		"malformed":         s.call("POST", x.callback(wp1), "", tokenHeader, "nonsense"),
		"unknown key":       s.call("POST", x.callback(wp1), "", tokenHeader, "k9"+token[2:]),
		"unknown waitpoint": s.call("POST", x.callback(wp2), "", tokenHeader, token),
		"unknown execution": s.call("POST", unknown.callback(wp1), "", tokenHeader, token),
		"foreign pair":      s.call("POST", y.callback(wp1), "", tokenHeader, token),
	} {
		r.problem(403, flowfabric.CodeInvalidToken)
		text := fmt.Sprint(requestMarks.ReplaceAllString(string(r.body), ""), r.head["Content-Type"], r.head["Cache-Control"])
		if first == "" {
			first = text
		}
		if text != first {
			t.Errorf("%s: %s, but elsewhere %s", what, text, first)
		}
	}
	s.call("POST", x.callback(wp1), "").problem(403, flowfabric.CodeMissingToken)
	s.call("POST", unknown.callback(wp1), "").problem(403, flowfabric.CodeMissingToken)
	s.call("POST", "/v1/callbacks/nonsense/"+wp1, "", tokenHeader, token).problem(400, flowfabric.CodeInvalidExecutionID)
	s.call("POST", x.callback("nonsense"), "", tokenHeader, token).problem(400, flowfabric.CodeInvalidInput)
	s.token = apiToken
	if got := s.state(x); got != "suspended" {
		t.Errorf("the execution is %s", got)
	}
	secretsStay(t, "log", s.log.String(), token)
}

// TestSpec08_S44_OneAnswer: whatever a callback does, its answer is the same; a
// caller with the token may learn that it came too late.
func TestSpec08_S44_OneAnswer(t *testing.T) {
	s := newSite(t, api.Options{CallbackRate: -1})
	x := s.running("default")
	token := s.suspended(x)
	for name, tc := range map[string]struct{ body, header string }{
		"not in the condition":   {`{"signal_name":"other","source_identity":"hook","payload":"AQI=","correlation_id":"c"}`, token},
		"token in the body":      {fmt.Sprintf(`{"waitpoint_token":%q,"idempotency_key":"i"}`, token), ""},
		"duplicate":              {fmt.Sprintf(`{"waitpoint_token":%q,"idempotency_key":"i"}`, token), ""},
		"both, equal":            {fmt.Sprintf(`{"waitpoint_token":%q}`, token), token},
		"no body":                {"", token},
		"copies of the path":     {fmt.Sprintf(`{"execution_id":%q,"waitpoint_id":%q}`, x.id, wp1), token},
		"an API token too":       {`{}`, token},
		"resumes, or comes late": {`{"signal_name":"other"}`, token},
	} {
		header := []string{}
		if tc.header != "" {
			header = []string{tokenHeader, tc.header}
		}
		r := s.call("POST", x.callback(wp1), tc.body, header...).want(202)
		if string(r.body) != "{\"outcome\":\"accepted\"}\n" || r.head.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: %s %v", name, r.body, r.head)
		}
	}
	resumed := s.call("POST", x.callback(wp1), `{"signal_name":"ready"}`, tokenHeader, token).want(202)
	if string(resumed.body) != "{\"outcome\":\"accepted\"}\n" {
		t.Errorf("resumed %s", resumed.body)
	}
	if got := s.state(x); got != "waiting" {
		t.Fatalf("the execution is %s", got)
	}
	s.call("POST", x.callback(wp1), `{"signal_name":"ready"}`, tokenHeader, token).problem(409, flowfabric.CodeWaitpointClosed)
	list := s.call("GET", x.e("/signals"), "").want(200)
	for i := range strings.Count(string(list.body), `"seq"`) {
		if list.text("items", i, "source_type") != "webhook" || list.text("items", i, "signal_category") != "callback" {
			t.Errorf("recorded %s", list.body)
		}
		name, sender := list.text("items", i, "signal_name"), list.text("items", i, "source_identity")
		if sender != "callback" && sender != "hook" || name != "callback" && name != "other" && name != "ready" {
			t.Errorf("recorded %s from %s", name, sender)
		}
	}
	secretsStay(t, "log", s.log.String(), token)
}

// TestCallbackShapes: callers can set no more than the body has, and no two
// tokens.
func TestCallbackShapes(t *testing.T) {
	s := newSite(t, api.Options{CallbackRate: -1})
	x := s.running("default")
	token := s.suspended(x)
	for body, field := range map[string]string{
		`{"source_type":"user"}`: "source_type", `{"signal_category":"approval"}`: "signal_category", `{"signal_id":"` + wp1 + `"}`: "signal_id",
		`{"dedup_ttl_ms":5}`: "dedup_ttl_ms", `{"signal_name":""}`: "signal_name", `{"signal_name":"__x"}`: "signal_name", `{"source_identity":""}`: "source_identity",
	} {
		if d := s.call("POST", x.callback(wp1), body, tokenHeader, token).problem(400, flowfabric.CodeInvalidInput); d["field"] != field {
			t.Errorf("%s: %v", body, d)
		}
	}
	s.call("POST", x.callback(wp1), `{"waitpoint_token":"k1:x"}`, tokenHeader, token).problem(400, flowfabric.CodeIDMismatch)
	s.call("POST", x.callback(wp1), "", tokenHeader, token, tokenHeader, token).problem(400, flowfabric.CodeInvalidInput)
	s.call("POST", x.callback(wp1), `{"waitpoint_id":"`+wp2+`"}`, tokenHeader, token).problem(400, flowfabric.CodeIDMismatch)
	s.call("POST", x.callback(wp1), `{"execution_id":"`+absent+`"}`, tokenHeader, token).problem(400, flowfabric.CodeIDMismatch)
	s.call("POST", x.callback(wp1), `{"payload":"`+strings.Repeat("A", 300<<10)+`"}`).problem(413, flowfabric.CodePayloadTooLarge)
	s.call("POST", x.callback(wp1)+"?waitpoint_token="+token, "").problem(403, flowfabric.CodeMissingToken)
	s.call("GET", x.callback(wp1), "").problem(405, flowfabric.CodeMethodNotAllowed)
	if got := s.call("GET", x.e("/signals"), "").want(200); strings.TrimSpace(string(got.body)) != `{"items":[],"next_cursor":null}` {
		t.Errorf("refused, but recorded: %s", got.body)
	}
}

// TestCallbackLimits: each address and each waitpoint has its own limit, which
// wrong tokens use up as well.
func TestCallbackLimits(t *testing.T) {
	s := newSite(t, api.Options{CallbackRate: 0.001, TrustedProxies: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}})
	x := s.running("default")
	token := s.suspended(x)
	const via = "X-Forwarded-For"
	s.call("POST", x.callback(wp1), "", tokenHeader, "wrong", via, "198.51.100.1").problem(403, flowfabric.CodeInvalidToken)
	limited := s.call("POST", x.callback(wp2), "", tokenHeader, token, via, "198.51.100.1")
	limited.problem(429, flowfabric.CodeClientRateLimited)
	if limited.head.Get("Retry-After") == "" {
		t.Errorf("no Retry-After: %v", limited.head)
	}
	s.call("POST", x.callback(wp1), "", tokenHeader, token, via, "198.51.100.2").want(202)
	// A waitpoint takes 60 a minute, and a burst of twice that, from everywhere.
	started, n := time.Now(), 2
	for ; ; n++ {
		r := s.call("POST", x.callback(wp1), "", tokenHeader, "wrong", via, fmt.Sprintf("198.51.%d.%d", n/250, 3+n%250))
		if r.code == 429 {
			break
		}
		r.problem(403, flowfabric.CodeInvalidToken)
		if n > 122+int(time.Since(started).Seconds()) {
			t.Fatalf("%d callbacks to one waitpoint", n)
		}
	}
	if n < 2*api.CallbacksPerWaitpoint {
		t.Errorf("limited after %d callbacks", n)
	}
	s.call("POST", x.callback(wp2), "", tokenHeader, "wrong", via, "198.51.200.1").problem(403, flowfabric.CodeInvalidToken)
	// The general limit of requests is not theirs, nor are they counted in it.
	general := newSite(t, api.Options{RateLimit: 0.001, CallbackRate: -1})
	for range 3 {
		general.call("POST", x.callback(wp1), "", tokenHeader, "wrong").problem(403, flowfabric.CodeInvalidToken)
	}
	general.call("GET", "/v1/suspended", "").want(200)
	general.call("GET", "/v1/suspended", "").problem(429, flowfabric.CodeClientRateLimited)
}

// TestCallbackListener: the separate handler serves callbacks and /livez, and
// nothing else; the API then serves no callbacks; both can be off.
func TestCallbackListener(t *testing.T) {
	s := newSite(t, api.Options{HideCallbacks: true})
	x := s.running("default")
	token := s.suspended(x)
	s.call("POST", x.callback(wp1), "", tokenHeader, token).problem(404, flowfabric.CodeRouteNotFound)
	if strings.Contains(string(s.call("GET", "/openapi.json", "").want(200).body), "callbacks") {
		t.Error("the document lists a route that is served elsewhere")
	}
	s.handler = s.api.CallbackHandler()
	s.call("POST", x.callback(wp1), "", tokenHeader, token).want(202)
	s.call("GET", "/livez", "").want(200)
	for _, target := range []string{"/healthz", "/readyz", "/metrics", "/openapi.json", "/v1/capabilities", "/v1/executions", x.e(""), "/"} {
		s.call("GET", target, "").problem(404, flowfabric.CodeRouteNotFound)
	}
	s.call("POST", x.e("/signal"), signal(wp1, token, "ready", "")).problem(404, flowfabric.CodeRouteNotFound)

	off := newSite(t, api.Options{DisableCallbacks: true})
	off.call("POST", x.callback(wp1), "", tokenHeader, token).problem(404, flowfabric.CodeRouteNotFound)
	off.handler = off.api.CallbackHandler()
	off.call("POST", x.callback(wp1), "", tokenHeader, token).problem(404, flowfabric.CodeRouteNotFound)
	off.call("GET", "/livez", "").want(200)

	on := newSite(t, api.Options{})
	if !strings.Contains(string(on.call("GET", "/openapi.json", "").want(200).body), `"/v1/callbacks/{execution_id}/{waitpoint_id}"`) {
		t.Error("the document does not list the callback")
	}
	if got := on.call("GET", "/v1/capabilities", "").want(200).text("supports", "deliver_callback"); got != "true" {
		t.Errorf("supports deliver_callback: %s", got)
	}
}

// TestCallbackCORS: browsers are let in only by a setting of its own.
func TestCallbackCORS(t *testing.T) {
	list, err := api.ParseCORS("https://a.example")
	if err != nil {
		t.Fatal(err)
	}
	x := running{id: absent}
	for _, tc := range []struct {
		opt          api.Options
		origin, want string
	}{
		{api.Options{}, "https://a.example", ""},
		{api.Options{CORS: list}, "https://a.example", ""},
		{api.Options{CallbackCORS: true}, "https://b.example", "*"},
		{api.Options{CORS: list, CallbackCORS: true}, "https://a.example", "https://a.example"},
		{api.Options{CORS: list, CallbackCORS: true}, "https://b.example", ""},
	} {
		s := newSite(t, tc.opt)
		for _, handler := range []http.Handler{s.api, s.api.CallbackHandler()} {
			s.handler = handler
			r := s.call("POST", x.callback(wp1), "", tokenHeader, "wrong", "Origin", tc.origin).want(403)
			pre := s.call("OPTIONS", x.callback(wp1), "", "Origin", tc.origin, "Access-Control-Request-Method", "POST").want(204)
			for _, head := range []http.Header{r.head, pre.head} {
				if got := head.Get("Access-Control-Allow-Origin"); got != tc.want {
					t.Errorf("%+v: origin %s is let in as %q, want %q", tc.opt, tc.origin, got, tc.want)
				}
			}
			allowed := pre.head.Get("Access-Control-Allow-Headers")
			if (tc.want != "") != strings.Contains(allowed, "ff-waitpoint-token") || strings.Contains(allowed, "authorization") {
				t.Errorf("%+v: headers %q", tc.opt, allowed)
			}
		}
	}
	s := newSite(t, api.Options{CORS: list})
	if got := s.call("GET", "/v1/suspended", "", "Origin", "https://a.example").want(200).head.Get("Access-Control-Allow-Origin"); got != "https://a.example" {
		t.Errorf("other routes: %q", got)
	}
}

// deaf is a backend whose deliveries a fuzz test looks at.
type deaf struct {
	flowfabric.Backend
	got *flowfabric.DeliverSignalArgs
}

func (d *deaf) Describe(context.Context) (flowfabric.BackendInfo, error) {
	return flowfabric.BackendInfo{Family: "deaf"}, nil
}

func (d *deaf) DeliverSignal(_ context.Context, a flowfabric.DeliverSignalArgs) (flowfabric.DeliverSignalResult, error) {
	d.got = &a
	if !strings.HasPrefix(a.Token.Reveal(), "good") {
		return flowfabric.DeliverSignalResult{}, flowfabric.NewError(flowfabric.CodeInvalidToken, "the token %s is wrong", a.Token.Reveal()).With("cause", "mismatch")
	}
	return flowfabric.DeliverSignalResult{Outcome: flowfabric.DeliverAccepted, SignalID: "s", Effect: flowfabric.EffectResumed}, nil
}

// FuzzCallback throws requests at the one route for untrusted parties: whatever
// comes, the answer is 202 accepted or a problem that shows no token, and what is
// delivered is a webhook's callback to the waitpoint of the path.
func FuzzCallback(f *testing.F) {
	path := "/v1/callbacks/%7Bfp:7%7D:00000000-0000-4000-8000-000000000000/" + wp1
	f.Add(path, "good-0123456789", []byte(`{"signal_name":"n","source_identity":"s","payload":"AQI=","payload_encoding":"json","correlation_id":"c","idempotency_key":"i"}`))
	f.Add(path, "", []byte(`{"waitpoint_token":"good-0123456789","execution_id":"{fp:7}:00000000-0000-4000-8000-000000000000"}`))
	f.Add(path, "bad-0123456789", []byte(`{"source_type":"engine"}`))
	f.Add("/v1/callbacks/x/y", "", []byte(nil))
	f.Add("/livez", "", []byte(nil))
	store := &deaf{}
	a, err := api.New(store, api.Options{CallbackRate: -1})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, target, token string, body []byte) {
		if !strings.HasPrefix(target, "/") || strings.ContainsFunc(target, func(r rune) bool { return r <= ' ' || r > '~' }) {
			return
		}
		r, err := http.NewRequest("POST", "http://x"+target, strings.NewReader(string(body)))
		if err != nil {
			return
		}
		r.Header.Set("Content-Type", "application/json")
		r.Header[http.CanonicalHeaderKey(tokenHeader)] = []string{token}
		r.RemoteAddr = "192.0.2.1:9"
		store.got = nil
		w := httptest.NewRecorder()
		a.CallbackHandler().ServeHTTP(w, r)
		text := w.Body.String()
		if w.Code == http.StatusAccepted {
			if text != "{\"outcome\":\"accepted\"}\n" || store.got == nil {
				t.Fatalf("accepted with %q", text)
			}
		} else if w.Code < 400 || w.Code >= 500 || json.Unmarshal([]byte(text), &struct{}{}) != nil {
			t.Fatalf("answered %d %q", w.Code, text)
		}
		if got := store.got; got != nil {
			if got.Signal.SourceType != "webhook" || got.Signal.Category != "callback" || got.Signal.SignalID != "" || !strings.Contains(r.URL.Path, string(got.WaitpointID)) {
				t.Fatalf("delivered %+v", got)
			}
			if secret := got.Token.Reveal(); len(secret) > 12 && strings.Contains(text, secret) && !strings.Contains(r.URL.Path, secret) {
				t.Fatalf("the answer shows the token: %q", text)
			}
		}
	})
}
