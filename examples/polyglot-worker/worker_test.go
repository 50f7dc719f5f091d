// Package polyglot_test runs the worker of this directory, which is Python and
// speaks nothing but HTTP, against a server on the memory store.
package polyglot_test

import (
	"bytes"
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/backend/sqlite"
	"github.com/flowfabric/flowfabric/server"
)

const token = "polyglot-worker-token"

// serve starts a server on the memory store. Requests go through drop first,
// which may be nil.
func serve(t *testing.T, drop func(http.Handler) http.Handler) (*flowfabric.Client, string) {
	t.Helper()
	store, err := sqlite.Open(t.Context(), sqlite.Config{})
	if err != nil {
		t.Fatal(err)
	}
	srv, err := server.New(store, server.Config{APIToken: token, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	handler := http.Handler(srv)
	if drop != nil {
		handler = drop(srv)
	}
	web := httptest.NewServer(handler)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := srv.Shutdown(ctx); err != nil {
			t.Errorf("shutdown: %v", err)
		}
		web.Close()
		if err := store.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return flowfabric.NewClient(store), web.URL
}

// work runs worker.py until it has run as many executions as it is told to, and
// returns what it printed.
func work(t *testing.T, url, count string) string {
	t.Helper()
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("python3 is missing")
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, python, "worker.py", count)
	cmd.Env = append(cmd.Environ(), "FLOWFABRIC_SERVER="+url, "FLOWFABRIC_TOKEN="+token, "NO_PROXY=*")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		t.Fatalf("worker.py: %v\n%s", err, &out)
	}
	return out.String()
}

func submit(t *testing.T, client *flowfabric.Client, kind, payload string) flowfabric.ExecutionID {
	t.Helper()
	created, err := client.Submit(t.Context(), flowfabric.CreateExecutionArgs{Kind: kind, Payload: []byte(payload)})
	if err != nil {
		t.Fatal(err)
	}
	return created.ExecutionID
}

// ended returns how an execution ended.
func ended(t *testing.T, client *flowfabric.Client, id flowfabric.ExecutionID) flowfabric.WaitExecutionResult {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	result, err := client.Wait(ctx, id)
	if err != nil {
		t.Fatal(err)
	}
	return result
}

func TestWorker(t *testing.T) {
	client, url := serve(t, nil)
	upper := submit(t, client, "upper", "hello")
	divide := submit(t, client, "divide", "[10, 4]")
	zero := submit(t, client, "divide", "[1, 0]")
	out := work(t, url, "3")

	for id, want := range map[flowfabric.ExecutionID]string{upper: "HELLO", divide: "2.5"} {
		if got := ended(t, client, id); got.PublicState != flowfabric.PublicCompleted || string(got.Result) != want {
			t.Errorf("%s: %s %q, want completed %q\n%s", id, got.PublicState, got.Result, want, out)
		}
	}
	got := ended(t, client, zero)
	if got.PublicState != flowfabric.PublicFailed || got.FailureCategory != "handler_error" || !strings.Contains(got.FailureReason, "ZeroDivisionError") {
		t.Errorf("division by zero: %s, category %q, reason %q", got.PublicState, got.FailureCategory, got.FailureReason)
	}
	workers, err := client.Admin().ListWorkers(t.Context(), flowfabric.ListWorkersArgs{})
	if err != nil || len(workers.Workers) != 0 {
		t.Errorf("still registered: %v %v", workers.Workers, err)
	}
}

// The answers of the first claim and of the first completion are lost after the
// server has acted on them. The worker finds its lease again and repeats the
// completion: one attempt, one result.
func TestLostAnswers(t *testing.T) {
	var mu sync.Mutex
	lost := map[string]int{}
	client, url := serve(t, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, operation, _ := strings.Cut(r.URL.Path, "/v1/")
			operation = operation[strings.LastIndexByte(operation, '/')+1:]
			mu.Lock()
			first := (operation == "tasks" || operation == "complete") && lost[operation] == 0
			if first {
				lost[operation]++
			}
			mu.Unlock()
			if !first {
				next.ServeHTTP(w, r)
				return
			}
			next.ServeHTTP(httptest.NewRecorder(), r)
			panic(http.ErrAbortHandler) // cuts the connection
		})
	})
	id := submit(t, client, "upper", "once")
	out := work(t, url, "1")

	if got := ended(t, client, id); string(got.Result) != "ONCE" {
		t.Errorf("result %q\n%s", got.Result, out)
	}
	attempts, err := client.ListAttempts(t.Context(), flowfabric.ListAttemptsArgs{ExecutionID: id})
	if err != nil || len(attempts.Attempts) != 1 {
		t.Errorf("%d attempts, want 1 (%v)", len(attempts.Attempts), err)
	}
	if lost["tasks"] != 1 || lost["complete"] != 1 {
		t.Errorf("lost %v", lost)
	}
}
