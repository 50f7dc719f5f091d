package waitpoint_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/rules"
	"github.com/flowfabric/flowfabric/waitpoint"
)

// engine is a backend with one execution and one waitpoint, which the first
// signal closes.
type engine struct {
	flowfabric.Backend
	mu        sync.Mutex
	execution flowfabric.ExecutionID
	waitpoint flowfabric.WaitpointID
	token     flowfabric.WaitpointToken
	closed    bool
	signals   []flowfabric.Signal
	calls     int
	fail      error
}

func newEngine() *engine {
	return &engine{
		execution: flowfabric.DefaultPartitionConfig().NewExecutionID("default"), waitpoint: flowfabric.NewWaitpointID(),
		token: flowfabric.NewWaitpointToken("k1:" + strings.Repeat("0123456789abcdef", 4)),
	}
}

func (e *engine) ReadWaitpointToken(_ context.Context, id flowfabric.ExecutionID, w flowfabric.WaitpointID) (flowfabric.WaitpointToken, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.calls++
	switch {
	case e.fail != nil:
		return flowfabric.WaitpointToken{}, e.fail
	case id != e.execution:
		return flowfabric.WaitpointToken{}, flowfabric.NewError(flowfabric.CodeExecutionNotFound, "no execution")
	case w != e.waitpoint || e.closed:
		return flowfabric.WaitpointToken{}, nil
	}
	return e.token, nil
}

func (e *engine) DeliverSignal(_ context.Context, a flowfabric.DeliverSignalArgs) (flowfabric.DeliverSignalResult, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.calls++
	if _, err := rules.PrepareDeliver(a); err != nil {
		return flowfabric.DeliverSignalResult{}, err
	}
	if a.ExecutionID != e.execution || a.WaitpointID != e.waitpoint || a.Token != e.token {
		return flowfabric.DeliverSignalResult{}, flowfabric.NewError(flowfabric.CodeInvalidToken, "refused")
	}
	for _, s := range e.signals {
		if s.IdempotencyKey != "" && s.IdempotencyKey == a.Signal.IdempotencyKey {
			return flowfabric.DeliverSignalResult{Outcome: flowfabric.DeliverDuplicate, SignalID: s.SignalID, Effect: flowfabric.EffectResumed}, nil
		}
	}
	if e.closed {
		return flowfabric.DeliverSignalResult{}, flowfabric.NewError(flowfabric.CodeWaitpointClosed, "waitpoint %s is closed", a.WaitpointID).With("state", "closed")
	}
	e.signals, e.closed = append(e.signals, a.Signal), true
	return flowfabric.DeliverSignalResult{Outcome: flowfabric.DeliverAccepted, SignalID: a.Signal.SignalID, Effect: flowfabric.EffectResumed}, nil
}

// TestSpec03_S41_VerifyAndDeliver: the function tells the refusals apart.
func TestSpec03_S41_VerifyAndDeliver(t *testing.T) {
	e := newEngine()
	ctx, client := t.Context(), flowfabric.NewClient(e)
	signal := flowfabric.Signal{Name: "ready", IdempotencyKey: "1"}
	tampered := flowfabric.NewWaitpointToken(strings.TrimSuffix(e.token.Reveal(), "f") + "e")
	other := flowfabric.DefaultPartitionConfig().NewExecutionID("default")
	for name, c := range map[string]struct {
		execution flowfabric.ExecutionID
		waitpoint flowfabric.WaitpointID
		token     flowfabric.WaitpointToken
		want      error
	}{
		"waitpoint unknown": {e.execution, flowfabric.NewWaitpointID(), e.token, flowfabric.ErrUnknownWaitpoint},
		"execution unknown": {other, e.waitpoint, e.token, flowfabric.ErrUnknownWaitpoint},
		"tampered":          {e.execution, e.waitpoint, tampered, flowfabric.ErrTokenMismatch},
		"a part":            {e.execution, e.waitpoint, flowfabric.NewWaitpointToken("k1:"), flowfabric.ErrTokenMismatch},
		"none":              {e.execution, e.waitpoint, flowfabric.WaitpointToken{}, flowfabric.ErrTokenMismatch},
		"none, unknown":     {e.execution, flowfabric.NewWaitpointID(), flowfabric.WaitpointToken{}, flowfabric.ErrUnknownWaitpoint},
	} {
		_, err := waitpoint.VerifyAndDeliver(ctx, client, c.execution, c.waitpoint, c.token, signal)
		if !errors.Is(err, c.want) || !errors.Is(err, flowfabric.ClassUnauthorized) {
			t.Errorf("%s: %v", name, err)
		}
		if strings.Contains(err.Error(), "0123456789abcdef") {
			t.Errorf("%s: the error shows the token", name)
		}
	}
	if len(e.signals) != 0 {
		t.Error("a refused signal was delivered")
	}
	out, err := waitpoint.VerifyAndDeliver(ctx, client, e.execution, e.waitpoint, e.token, signal)
	if err != nil || out.Status != flowfabric.SignalTriggeredResume {
		t.Errorf("right: %+v, %v", out, err)
	}
	e.fail = flowfabric.NewError(flowfabric.CodeInsufficientScope, "no")
	if _, err := waitpoint.VerifyAndDeliver(ctx, client, e.execution, e.waitpoint, e.token, signal); !errors.Is(err, flowfabric.ErrInsufficientScope) {
		t.Errorf("another error: %v", err)
	}
}

// hook is a service with the bridge under a route of its own.
type hook struct {
	*httptest.Server
	engine *engine
	logged *bytes.Buffer
}

func newHook(t *testing.T, change func(*waitpoint.Bridge)) *hook {
	t.Helper()
	h := &hook{engine: newEngine(), logged: new(bytes.Buffer)}
	bridge := &waitpoint.Bridge{Client: flowfabric.NewClient(h.engine), Logger: slog.New(slog.NewTextHandler(h.logged, nil))}
	if change != nil {
		change(bridge)
	}
	mux := http.NewServeMux()
	mux.Handle("/hooks/{execution_id}/{waitpoint_id}", bridge)
	mux.Handle("/bare/", bridge)
	h.Server = httptest.NewServer(mux)
	t.Cleanup(h.Close)
	return h
}

type answer struct {
	status int
	header http.Header
	body   string
	code   string
}

func (h *hook) post(t *testing.T, method, path, token, body string) answer {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, h.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	if token != "" {
		req.Header.Set(waitpoint.HeaderToken, token)
	}
	res, err := h.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	if res.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("%s may be cached", path)
	}
	var problem struct{ Code string }
	_ = json.Unmarshal(text, &problem)
	return answer{res.StatusCode, res.Header, string(text), problem.Code}
}

func (h *hook) path(e flowfabric.ExecutionID, w flowfabric.WaitpointID) string {
	return "/hooks/" + string(e) + "/" + string(w)
}

// TestSpec03_S41_Bridge: both refusals look alike, and the right token delivers.
func TestSpec03_S41_Bridge(t *testing.T) {
	h := newHook(t, nil)
	e := h.engine
	wrong := "k1:" + strings.Repeat("f", 64)
	secret := e.token.Reveal()
	mismatch := h.post(t, "POST", h.path(e.execution, e.waitpoint), wrong, "")
	unknown := h.post(t, "POST", h.path(e.execution, flowfabric.NewWaitpointID()), wrong, "")
	foreign := h.post(t, "POST", h.path(flowfabric.DefaultPartitionConfig().NewExecutionID("x"), e.waitpoint), secret, "")
	for name, a := range map[string]answer{"mismatch": mismatch, "unknown": unknown, "foreign": foreign} {
		if a.status != http.StatusForbidden || a.code != "invalid_token" || a.header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s: %d %s", name, a.status, a.body)
		}
		if withoutInstance(t, a.body) != withoutInstance(t, mismatch.body) || len(a.header) != len(mismatch.header) {
			t.Errorf("%s is told apart: %s", name, a.body)
		}
	}
	calls := e.calls
	if a := h.post(t, "POST", h.path(e.execution, e.waitpoint), "", "{}"); a.status != http.StatusForbidden || a.code != "missing_token" || e.calls != calls {
		t.Errorf("no token: %d %s", a.status, a.body)
	}
	payload := base64.StdEncoding.EncodeToString([]byte("\x00paid"))
	body := `{"signal_name":"paid","source_identity":"bank","payload":"` + payload + `","correlation_id":"c","idempotency_key":"event-7"}`
	for _, name := range []string{"accepted", "duplicate"} { // scenario 34: the repeat finds the waitpoint closed
		if a := h.post(t, "POST", h.path(e.execution, e.waitpoint), secret, body); a.status != http.StatusAccepted || a.body != `{"outcome":"accepted"}` {
			t.Errorf("%s: %d %s", name, a.status, a.body)
		}
	}
	if len(e.signals) != 1 {
		t.Fatalf("%d signals", len(e.signals))
	}
	s := e.signals[0]
	if s.Name != "paid" || s.SourceIdentity != "bank" || string(s.Payload) != "\x00paid" || s.CorrelationID != "c" ||
		s.Category != flowfabric.SignalCategoryCallback || s.SourceType != flowfabric.SourceTypeWebhook {
		t.Errorf("signal %+v", s)
	}
	if a := h.post(t, "POST", h.path(e.execution, e.waitpoint), secret, ""); a.status != http.StatusConflict || a.code != "waitpoint_closed" {
		t.Errorf("closed: %d %s", a.status, a.body)
	}
	if a := h.post(t, "POST", h.path(e.execution, e.waitpoint), wrong, ""); a.status != http.StatusForbidden || a.code != "invalid_token" {
		t.Errorf("closed, wrong token: %d %s", a.status, a.body)
	}
	if text := h.logged.String(); strings.Contains(text, secret[4:]) || strings.Contains(text, wrong[4:]) || !strings.Contains(text, "token_mismatch") {
		t.Errorf("logged %s", text)
	}
}

func withoutInstance(t *testing.T, problem string) string {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal([]byte(problem), &m); err != nil {
		t.Fatal(err)
	}
	delete(m, "instance")
	text, _ := json.Marshal(m)
	return string(text)
}

// TestSpec03_5_5_BadSignalTellsNothing: a signal that no waitpoint would take is
// answered the same whether the waitpoint is there or not.
func TestSpec03_5_5_BadSignalTellsNothing(t *testing.T) {
	h := newHook(t, nil)
	wrong := strings.TrimSuffix(h.engine.token.Reveal(), "f") + "e"
	for _, body := range []string{`{"signal_name":"__x"}`, `{"source_identity":""}`, `{"idempotency_key":"a\nb"}`, `{"payload":"aGk=","payload_encoding":"` + strings.Repeat("x", 65) + `"}`} {
		there := h.post(t, "POST", h.path(h.engine.execution, h.engine.waitpoint), wrong, body)
		absent := h.post(t, "POST", h.path(h.engine.execution, flowfabric.NewWaitpointID()), wrong, body)
		if there.status != absent.status || withoutInstance(t, there.body) != withoutInstance(t, absent.body) {
			t.Errorf("%s: %d %s of a waitpoint, %d %s of none", body, there.status, there.body, absent.status, absent.body)
		}
	}
}

func TestBridgeReadsThePath(t *testing.T) {
	h := newHook(t, nil)
	e := h.engine
	a := h.post(t, "POST", "/bare/x/"+string(e.execution)+"/"+string(e.waitpoint), "", `{"waitpoint_token":"`+e.token.Reveal()+`"}`)
	if a.status != http.StatusAccepted || len(e.signals) != 1 || e.signals[0].Name != "callback" || e.signals[0].SourceIdentity != "callback" {
		t.Errorf("%d %s, %+v", a.status, a.body, e.signals)
	}
}

// TestBridgeRefusesRequests: none of these makes a call.
func TestBridgeRefusesRequests(t *testing.T) {
	h := newHook(t, nil)
	e := h.engine
	path := h.path(e.execution, e.waitpoint)
	over := `{"payload":"` + base64.StdEncoding.EncodeToString(make([]byte, waitpoint.MaxPayloadBytes+1)) + `"}`
	for name, c := range map[string]struct {
		method, path, body string
		status             int
		code               string
	}{
		"get":               {"GET", path, "", 405, "method_not_allowed"},
		"put":               {"PUT", path, "{}", 405, "method_not_allowed"},
		"300 KiB":           {"POST", path, `{"signal_name":"` + strings.Repeat("x", 300<<10) + `"}`, 413, "payload_too_large"},
		"payload":           {"POST", path, over, 413, "payload_too_large"},
		"no JSON":           {"POST", path, "name=x", 400, "invalid_input"},
		"unknown field":     {"POST", path, `{"category":"x"}`, 400, "invalid_input"},
		"bad execution id":  {"POST", "/hooks/x/" + string(e.waitpoint), "{}", 400, "invalid_execution_id"},
		"bad waitpoint id":  {"POST", "/hooks/" + string(e.execution) + "/x", "{}", 400, "invalid_input"},
		"too short a path":  {"POST", "/bare/", "{}", 400, "invalid_execution_id"},
		"token in the path": {"POST", path + "?waitpoint_token=" + e.token.Reveal(), "{}", 403, "missing_token"},
	} {
		token := e.token.Reveal()
		if c.code == "missing_token" {
			token = ""
		}
		a := h.post(t, c.method, c.path, token, c.body)
		if a.status != c.status || a.code != c.code {
			t.Errorf("%s: %d %s", name, a.status, a.body)
		}
		if c.status == 405 && a.header.Get("Allow") != "POST" {
			t.Errorf("%s: Allow %q", name, a.header.Get("Allow"))
		}
	}
	// A body of unknown length is bounded as well, and the media type is checked.
	for _, media := range []string{"application/json", "text/plain"} {
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, h.URL+path, io.MultiReader(strings.NewReader(strings.Repeat(" ", 300<<10))))
		req.Header.Set("Content-Type", media)
		res, err := h.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		if want := map[string]int{"application/json": 413, "text/plain": 415}[media]; res.StatusCode != want {
			t.Errorf("%s: %d", media, res.StatusCode)
		}
	}
	if e.calls != 0 {
		t.Errorf("%d calls", e.calls)
	}
}

// TestBridgeDecodesItsOwnWay: a service's webhook has a form of its own.
func TestBridgeDecodesItsOwnWay(t *testing.T) {
	var e *engine
	h := newHook(t, func(b *waitpoint.Bridge) {
		b.Decode = func(r *http.Request) (flowfabric.DeliverSignalArgs, error) {
			body, err := io.ReadAll(r.Body)
			if err != nil {
				return flowfabric.DeliverSignalArgs{}, err
			}
			if len(body) == 0 {
				return flowfabric.DeliverSignalArgs{}, errors.New("dsn=postgres://user:password@db")
			}
			return flowfabric.DeliverSignalArgs{
				ExecutionID: e.execution, WaitpointID: e.waitpoint, Token: flowfabric.NewWaitpointToken(r.URL.Query().Get("state")),
				Signal: flowfabric.Signal{Name: "paid", SourceType: flowfabric.SourceTypeWebhook, SourceIdentity: "shop", Payload: body},
			}, nil
		}
	})
	e = h.engine
	if a := h.post(t, "POST", "/bare/", "", ""); a.status != 400 || a.code != "invalid_input" || strings.Contains(a.body, "password") {
		t.Errorf("its error: %d %s", a.status, a.body)
	}
	if a := h.post(t, "POST", "/bare/", "", strings.Repeat("x", 70_000)); a.status != 413 {
		t.Errorf("payload: %d %s", a.status, a.body)
	}
	if a := h.post(t, "POST", "/bare/", "", strings.Repeat("x", 300<<10)); a.status != 413 {
		t.Errorf("body: %d %s", a.status, a.body)
	}
	if a := h.post(t, "POST", "/bare/?state="+e.token.Reveal(), "", "raw"); a.status != 202 || string(e.signals[0].Payload) != "raw" {
		t.Errorf("right: %d %s", a.status, a.body)
	}
}

// TestBridgeHidesFaults: the public learns nothing of the store or of the
// service's own credentials.
func TestBridgeHidesFaults(t *testing.T) {
	h := newHook(t, nil)
	e := h.engine
	for _, c := range []struct {
		err    error
		status int
		code   string
	}{
		{flowfabric.NewError(flowfabric.CodeInsufficientScope, "hidden"), 500, "internal"},
		{flowfabric.NewError(flowfabric.CodeInvalidSecret, "hidden"), 500, "internal"},
		{flowfabric.NewError(flowfabric.CodeTokenExpired, "hidden"), 403, "token_expired"},
		{errors.New("hidden"), 503, "store_unavailable"},
	} {
		e.fail = c.err
		a := h.post(t, "POST", h.path(e.execution, e.waitpoint), e.token.Reveal(), "")
		if a.status != c.status || a.code != c.code || strings.Contains(a.body, "hidden") {
			t.Errorf("%v: %d %s", c.err, a.status, a.body)
		}
		if c.status == 503 && a.header.Get("Retry-After") != "1" {
			t.Errorf("Retry-After %q", a.header.Get("Retry-After"))
		}
	}
}
