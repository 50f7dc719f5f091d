package server_test

import (
	"context"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/backend/sqlite"
	"github.com/flowfabric/flowfabric/server"
)

// slow is a store one of whose reads lasts until it is let go.
type slow struct {
	*sqlite.Backend
	begun chan struct{}
	let   chan struct{}
}

func (s *slow) GetExecutionState(ctx context.Context, id flowfabric.ExecutionID) (flowfabric.PublicState, error) {
	close(s.begun)
	<-s.let
	return s.Backend.GetExecutionState(ctx, id)
}

// listening is a fixture whose server has a listener of its own.
func listening(t *testing.T, backend flowfabric.Backend, cfg server.Config) (*fixture, <-chan error) {
	t.Helper()
	cfg.Logger = quiet()
	srv, err := server.New(backend, cfg)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	f := &fixture{server: srv, client: &client{t: t, base: "http://" + l.Addr().String(), http: &http.Client{Transport: transport}}}
	return f, done
}

func TestScenario33Shutdown(t *testing.T) {
	store, err := sqlite.Open(t.Context(), sqlite.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	backend := &slow{Backend: store, begun: make(chan struct{}), let: make(chan struct{})}
	f, served := listening(t, backend, server.Config{ShutdownDelay: 300 * time.Millisecond})
	id := f.create(nil)

	answers := map[string]chan *answer{"running": make(chan *answer, 1), "wait": make(chan *answer, 1), "claim": make(chan *answer, 1), "feed": make(chan *answer, 1)}
	send := func(name, method, path string, body any) {
		go func() {
			a, err := f.try(context.Background(), method, path, body)
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			answers[name] <- a
		}()
	}
	send("running", "GET", e(id, "/state"), nil)
	send("wait", "GET", e(id, "/wait?wait_ms=20000"), nil)
	send("claim", "POST", "/v1/workers/w/tasks", claimBody.with(fields{"wait_ms": 20_000, "lane_id": "empty"}))
	send("feed", "GET", "/v1/feeds/completions?block_ms=20000", nil)
	s := f.open("/v1/feeds/completions/sse")
	s.until("retry")
	<-backend.begun
	f.eventually("the waits are under way", func() bool {
		return f.metric("ff_waits_in_use") == "1" && f.metric("ff_sse_clients") == "1" &&
			f.call("GET", "/v1/worker-instances/w-1", nil).status == 200
	})

	start := time.Now()
	stopped := make(chan error, 1)
	go func() { stopped <- f.server.Shutdown(context.Background()) }()
	f.eventually("readyz turns while the server still serves", func() bool {
		a, err := f.try(context.Background(), "GET", "/readyz", nil)
		if err != nil {
			return true // the delay is over
		}
		if a.status == 503 {
			a.problem(503, flowfabric.CodeNotReady)
			return true
		}
		return false
	})
	if a := <-answers["wait"]; a == nil || a.want(200).object()["timed_out"] != true || a.text("public_state") != "waiting" {
		t.Errorf("wait %v", a)
	}
	if a := <-answers["claim"]; a == nil || a.status != 204 {
		t.Errorf("claim %v", a)
	}
	if a := <-answers["feed"]; a == nil || a.want(200).text("next_cursor") == "" {
		t.Errorf("feed %v", a)
	}
	if ev := s.until("shutdown"); ev.data != "{}" {
		t.Errorf("shutdown event %v", ev)
	}
	select {
	case err := <-stopped:
		t.Fatalf("stopped with a request under way: %v", err)
	default:
	}
	close(backend.let)
	if a := <-answers["running"]; a == nil || a.want(200).text("public_state") != "waiting" {
		t.Errorf("running %v", a)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
	if took := time.Since(start); took > 15*time.Second {
		t.Errorf("took %v", took)
	}
	if _, err := f.try(context.Background(), "GET", "/livez", nil); err == nil {
		t.Error("still serving")
	}
	if err := f.server.Shutdown(context.Background()); err != nil {
		t.Errorf("a second shutdown: %v", err)
	}
}

// TestNewRequestsAreRefused: on a connection kept alive, after shutdown has begun.
func TestNewRequestsAreRefused(t *testing.T) {
	f := serve(t, server.Config{})
	f.create(nil)
	if err := f.server.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	a := f.call("GET", "/v1/executions", nil)
	a.problem(503, flowfabric.CodeShuttingDown)
	if a.header.Get("Retry-After") != "1" {
		t.Errorf("headers %v", a.header)
	}
	f.call("GET", "/livez", nil).want(200)

	// Others in the process still get work from the backend.
	r, err := f.store.ClaimTasks(t.Context(), flowfabric.ClaimTasksArgs{WorkerID: "w", WorkerInstanceID: "w-1",
		Lanes: []flowfabric.LaneID{"main"}, MaxTasks: 1, LeaseTTLMs: 30_000})
	if err != nil || len(r.Tasks) != 1 {
		t.Errorf("claimed %v, %v", r.Tasks, err)
	}
}

// TestShutdownDoesNotWaitForTheSilent: neither a client that has connected and
// not asked yet, nor one that stops in the middle of its request, holds up a
// shutdown beyond what its phases give.
func TestShutdownDoesNotWaitForTheSilent(t *testing.T) {
	store, err := sqlite.Open(t.Context(), sqlite.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	for name, c := range map[string]struct {
		says  string
		limit time.Duration
	}{
		"not asked yet":          {"", 4 * time.Second},
		"silent in its headers":  {"GET /livez HTTP/1.1\r\nHost: x\r\n", 4 * time.Second},
		"silent within its body": {"POST /v1/executions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{", 20 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if c.limit > 5*time.Second && testing.Short() {
				t.Skip("takes the 15 s that a request under way has")
			}
			f, served := listening(t, store, server.Config{})
			conn, err := net.Dial("tcp", strings.TrimPrefix(f.base, "http://"))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if _, err := conn.Write([]byte(c.says)); err != nil {
				t.Fatal(err)
			}
			f.call("GET", "/livez", nil).want(200) // so the server has accepted the connection before
			start := time.Now()
			if err := f.server.Shutdown(context.Background()); err != nil {
				t.Error(err)
			}
			if took := time.Since(start); took > c.limit {
				t.Errorf("the shutdown took %v", took)
			}
			if err := <-served; err != nil {
				t.Error(err)
			}
		})
	}
}

func TestShutdownTimeout(t *testing.T) {
	store, err := sqlite.Open(t.Context(), sqlite.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	backend := &slow{Backend: store, begun: make(chan struct{}), let: make(chan struct{})}
	f, served := listening(t, backend, server.Config{ShutdownTimeout: 50 * time.Millisecond})
	id := f.create(nil)
	done := make(chan struct{})
	go func() {
		_, _ = f.try(context.Background(), "GET", e(id, "/state"), nil) // cut off
		close(done)
	}()
	<-backend.begun
	err = f.server.Shutdown(context.Background())
	if flowfabric.CodeOf(err) != flowfabric.CodeShutdownTimeout {
		t.Errorf("error %v", err)
	}
	close(backend.let)
	<-done
	if err := <-served; err != nil {
		t.Error(err)
	}
}

// TestPending: before there is a store only /livez is good.
func TestPending(t *testing.T) {
	srv, err := server.NewPending(server.Config{Logger: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	c := &client{t: t, base: "http://" + l.Addr().String(), http: &http.Client{Transport: transport}}
	if a := c.call("GET", "/livez", nil); a.status != 200 {
		t.Errorf("livez %d", a.status)
	}
	for _, path := range []string{"/readyz", "/healthz", "/v1/executions"} {
		if a := c.call("GET", path, nil); a.status != 503 || !strings.Contains(string(a.body), "not_ready") {
			t.Errorf("%s %d %s", path, a.status, a.body)
		}
	}
	store, err := sqlite.Open(t.Context(), sqlite.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = store.Close() }()
	if err := srv.Attach(store); err != nil {
		t.Fatal(err)
	}
	if err := srv.Attach(store); err == nil {
		t.Error("attached twice")
	}
	c.call("GET", "/readyz", nil).want(200)
	c.create(nil)
	transport.CloseIdleConnections()
	if err := srv.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}
