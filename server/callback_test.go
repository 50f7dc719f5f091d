package server_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/backend/sqlite"
	"github.com/flowfabric/flowfabric/server"
)

// waitingFor suspends a fresh execution until one signal of a name has come.
func waitingFor(t *testing.T, b flowfabric.Backend, name string) (flowfabric.ExecutionID, flowfabric.BoundWaitpoint) {
	t.Helper()
	created, err := flowfabric.CreateExecution(t.Context(), b, flowfabric.CreateExecutionArgs{Namespace: "default", LaneID: "default", Kind: "k", CreatorIdentity: "t"})
	if err != nil {
		t.Fatal(err)
	}
	res, err := b.ClaimTasks(t.Context(), flowfabric.ClaimTasksArgs{WorkerID: "w", WorkerInstanceID: "w-1", Lanes: []flowfabric.LaneID{"default"},
		Namespace: "default", MaxTasks: 1, LeaseTTLMs: 60_000})
	if err != nil || len(res.Tasks) != 1 {
		t.Fatalf("claimed %+v, %v", res, err)
	}
	suspended, err := b.Suspend(t.Context(), flowfabric.SuspendArgs{ExecutionID: created.ExecutionID, Fence: res.Tasks[0].Fence,
		Waitpoints: []flowfabric.WaitpointBinding{{WaitpointKey: "k"}}, ResumeCondition: flowfabric.Single("k", flowfabric.ByName(name)),
		ReasonCode: flowfabric.SuspendWaitingForCallback}.WithDefaults())
	if err != nil || len(suspended.Waitpoints) != 1 {
		t.Fatalf("suspended %+v, %v", suspended, err)
	}
	return created.ExecutionID, suspended.Waitpoints[0]
}

// TestCallbackListener moves the callbacks to a listener of their own, with the
// main listener's certificate: it serves them and /livez, and nothing else, from
// the start to the shutdown. (Specification 08, section 4.4.)
func TestCallbackListener(t *testing.T) {
	dir := t.TempDir()
	certFile, keyFile := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	certificate(t, certFile, keyFile, "callbacks")
	store, err := sqlite.Open(t.Context(), sqlite.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = store.Close() }()
	srv, err := server.NewPending(server.Config{TLSCertFile: certFile, TLSKeyFile: keyFile, SeparateCallbacks: true, APIToken: sharedToken, Logger: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true, VerifyConnection: func(s tls.ConnectionState) error {
		if name := s.PeerCertificates[0].Subject.CommonName; name != "callbacks" {
			t.Errorf("shows the certificate of %q", name)
		}
		return nil
	}}}
	client := &http.Client{Transport: transport}
	done := make(chan error, 2)
	listen := func(serve func(net.Listener) error) string {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		go func() { done <- serve(l) }()
		return "https://" + l.Addr().String()
	}
	api, callbacks := listen(srv.Serve), listen(srv.ServeCallbacks)
	ask := func(method, url, body string) (int, string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Authorization", "Bearer "+sharedToken)
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, string(text)
	}
	expect := func(method, url, body string, status int, code string) {
		t.Helper()
		if got, text := ask(method, url, body); got != status || !strings.Contains(text, code) {
			t.Errorf("%s %s: %d %s, want %d %s", method, url, got, text, status, code)
		}
	}

	expect("GET", callbacks+"/livez", "", 200, `"ok"`)
	expect("POST", callbacks+"/v1/callbacks/x/y", "{}", 503, "not_ready")
	if err := srv.Attach(store); err != nil {
		t.Fatal(err)
	}
	id, waitpoint := waitingFor(t, store, "paid")
	path := "/v1/callbacks/" + string(id) + "/" + string(waitpoint.WaitpointID)
	body, _ := json.Marshal(map[string]string{"signal_name": "paid", "waitpoint_token": waitpoint.Token.Reveal()})
	expect("POST", api+path, string(body), 404, "route_not_found")
	for _, other := range []string{"/v1/executions", "/readyz", "/healthz", "/metrics", "/openapi.json", "/v1/executions/" + string(id)} {
		expect("GET", callbacks+other, "", 404, "route_not_found")
	}
	expect("POST", callbacks+path, `{"signal_name":"paid"}`, 403, "missing_token")
	expect("POST", callbacks+path, string(body), 202, `{"outcome":"accepted"}`)
	if state, err := store.GetExecutionState(t.Context(), id); err != nil || state != flowfabric.PublicWaiting {
		t.Errorf("the callback left it %s, %v", state, err)
	}

	transport.CloseIdleConnections()
	if err := srv.Shutdown(context.Background()); err != nil {
		t.Error(err)
	}
	for range 2 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if resp, err := client.Get(callbacks + "/livez"); err == nil {
		_ = resp.Body.Close()
		t.Error("the callbacks' listener outlives the shutdown")
	}
}

// TestCallbackSettings: FF_CALLBACKS=false takes the route away,
// FF_CALLBACK_RATE_LIMIT bounds it, and refusals name their setting.
func TestCallbackSettings(t *testing.T) {
	f := serve(t, server.Config{DisableCallbacks: true})
	id, waitpoint := waitingFor(t, f.store, "paid")
	path := "/v1/callbacks/" + string(id) + "/" + string(waitpoint.WaitpointID)
	if a := f.call("POST", path, map[string]string{"waitpoint_token": waitpoint.Token.Reveal()}); a.status != 404 {
		t.Errorf("callbacks are off: %d %s", a.status, a.body)
	}

	f = serve(t, server.Config{CallbackRateLimit: 1})
	id, waitpoint = waitingFor(t, f.store, "paid")
	path = "/v1/callbacks/" + string(id) + "/" + string(waitpoint.WaitpointID)
	limited := false
	for range 4 { // a second's worth of bursts is two
		a := f.call("POST", path, map[string]string{"signal_name": "other", "waitpoint_token": waitpoint.Token.Reveal()})
		limited = limited || a.status == 429 && bytes.Contains(a.body, []byte("client_rate_limited"))
	}
	if !limited {
		t.Error("callbacks are not limited")
	}

	for setting, cfg := range map[string]server.Config{
		"FF_CALLBACK_RATE_LIMIT":  {CallbackRateLimit: server.MaxRateLimit + 1},
		"FF_CALLBACK_ADDR":        {SeparateCallbacks: true, DisableCallbacks: true},
		"FF_WAITPOINT_HMAC_GRACE": {KeyGrace: new(server.MaxKeyGrace + 1)},
	} {
		if err := cfg.Validate(); err == nil || !strings.Contains(err.Error(), setting) {
			t.Errorf("%s: %v", setting, err)
		}
	}
}

// TestKeyGraceOfTheServer: a rotation that does not say its grace gets the
// server's.
func TestKeyGraceOfTheServer(t *testing.T) {
	f := serve(t, server.Config{KeyGrace: new(server.MaxKeyGrace)})
	before := f.store.Now()
	if a := f.call("POST", "/v1/admin/rotate-waitpoint-secret", map[string]string{"new_kid": "k2"}); a.status != 200 {
		t.Fatalf("%d %s", a.status, a.body)
	}
	kids, err := f.store.ListWaitpointKIDs(t.Context())
	if err != nil || kids.CurrentKID != "k2" || len(kids.Verifying) != 1 {
		t.Fatalf("%+v, %v", kids, err)
	}
	if grace := kids.Verifying[0].ExpiresAt - before; grace < flowfabric.Millis(server.MaxKeyGrace.Milliseconds()) {
		t.Errorf("the grace is %d ms", grace)
	}
}
