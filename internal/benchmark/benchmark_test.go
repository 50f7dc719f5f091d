package benchmark_test

import (
	"context"
	"encoding/json"
	"errors"
	"path/filepath"
	"sync"
	"testing"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/backend/sqlite"
	"github.com/flowfabric/flowfabric/internal/benchmark"
	"github.com/google/go-cmp/cmp"
)

func openMemory(ctx context.Context) (flowfabric.Backend, error) {
	return sqlite.Open(ctx, sqlite.Config{})
}

// counts adds up what a benchmark tells of its phases.
type counts struct {
	mu    sync.Mutex
	now   string
	steps map[string]int
}

func (c *counts) Phase(name string, _ int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = name
}

func (c *counts) Add(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.steps == nil {
		c.steps = map[string]int{}
	}
	c.steps[c.now] += n
}

func TestScenariosOnMemory(t *testing.T) {
	for _, scenario := range benchmark.Scenarios() {
		if scenario.Name == "suspend" {
			continue // TestSuspendScenario: it has other phases
		}
		t.Run(scenario.Name, func(t *testing.T) { testOnMemory(t, scenario.Name) })
	}
}

func testOnMemory(t *testing.T, scenario string) {
	progress := &counts{}
	report, err := benchmark.Run(t.Context(), benchmark.Config{
		Scenario: scenario, Backend: "memory:", Open: openMemory, Executions: 500, Workers: 4, PayloadBytes: 512, ResultBytes: 16, Batch: 30,
		StartSamples: 5, Progress: progress, Size: func() (int64, error) { return 0, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	if want := (benchmark.Verification{Created: 500, Completed: 500}); report.Verified != want {
		t.Errorf("verified %+v, want %+v", report.Verified, want)
	}
	if diff := cmp.Diff(map[string]int{"start latency": 5, "submit": 500, "drain": 500}, progress.steps); diff != "" {
		t.Errorf("progress (-want +got):\n%s", diff)
	}
	checkDocument(t, report)
}

// TestSuspendScenario: every round trip is measured, and what was parked is gone
// afterwards.
func TestSuspendScenario(t *testing.T) {
	progress := &counts{}
	var store flowfabric.Backend
	report, err := benchmark.Run(t.Context(), benchmark.Config{
		Scenario: "suspend", Backend: "memory:", Executions: 200, Workers: 3, PayloadBytes: 64, Batch: 8, StartSamples: 5, Parked: 20,
		Progress: progress,
		Open: func(ctx context.Context) (_ flowfabric.Backend, err error) {
			store, err = openMemory(ctx)
			return unclosed{store}, err
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	want := map[string]int{"start latency": 5, "one at a time": 5, "in flight": 200, "park": 20, "beside parked": 5, "unpark": 20}
	if diff := cmp.Diff(want, progress.steps); diff != "" {
		t.Errorf("progress (-want +got):\n%s", diff)
	}
	s := report.Suspend
	if s.RoundTripMs.Calls != 5 || s.ParkedRoundTripMs.Calls != 5 || s.InFlightMs.Calls != 200 || s.InFlight != 12 || s.RoundTripsPerSecond <= 0 {
		t.Errorf("report %+v", s)
	}
	left, err := store.ListSuspended(t.Context(), flowfabric.ListSuspendedArgs{})
	if err != nil || len(left.Executions) != 0 {
		t.Errorf("%d executions are still suspended, %v", len(left.Executions), err)
	}
}

// unclosed is a backend that outlives a benchmark.
type unclosed struct{ flowfabric.Backend }

func (unclosed) Close() error { return nil }

// checkDocument checks that the report's JSON form has every key a reader of the
// output relies on, with a value that can be true.
func checkDocument(t *testing.T, report *benchmark.Report) {
	t.Helper()
	raw, err := json.Marshal(report)
	if err != nil {
		t.Fatal(err)
	}
	var doc map[string]any
	if err := json.Unmarshal(raw, &doc); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"scenario", "backend", "executions", "workers", "payload_bytes", "submit_per_s", "drain_per_s",
		"overall_per_s", "latency_ms", "start_latency_ms", "allocs_per_lifecycle", "bytes_per_execution"} {
		if doc[key] == nil {
			t.Errorf("no %s in %s", key, raw)
		}
	}
	for _, key := range []string{"submit_per_s", "drain_per_s", "overall_per_s", "allocs_per_lifecycle"} {
		if f, _ := doc[key].(float64); f <= 0 {
			t.Errorf("%s is %v", key, doc[key])
		}
	}
	for _, op := range []string{"create", "claim", "complete"} {
		p := report.LatencyMs[op]
		if p.P50 <= 0 || p.P50 > p.P95 || p.P95 > p.P99 {
			t.Errorf("latency of %s is %+v", op, p)
		}
	}
	if p := report.StartLatencyMs; p.P50 <= 0 || p.P50 > p.P99 || p.Calls != 5 {
		t.Errorf("start latency is %+v", p)
	}
	if overall := report.OverallPerSecond; overall >= report.SubmitPerSecond || overall >= report.DrainPerSecond {
		t.Errorf("overall %v is not below submit %v and drain %v", overall, report.SubmitPerSecond, report.DrainPerSecond)
	}
}

func TestRetainedIsReused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "bench.db")
	run := func() map[string]int {
		progress := &counts{}
		_, err := benchmark.Run(t.Context(), benchmark.Config{
			Backend: "sqlite:" + path, Persistent: true,
			Open: func(ctx context.Context) (flowfabric.Backend, error) {
				return sqlite.Open(ctx, sqlite.Config{Path: path})
			},
			Executions: 50, Workers: 3, Retained: 250, RetainedPayloadBytes: 8, StartSamples: -1, Progress: progress,
		})
		if err != nil {
			t.Fatal(err)
		}
		return progress.steps
	}
	if got := run()["retain"]; got != 250 {
		t.Errorf("the first run filled in %d executions, want 250", got)
	}
	if got := run()["retain"]; got != 0 {
		t.Errorf("the second run filled in %d executions, want none", got)
	}
}

func TestRefusedConfigurations(t *testing.T) {
	for name, config := range map[string]benchmark.Config{
		"executions":    {Executions: -1},
		"workers":       {Workers: 5000},
		"payload":       {PayloadBytes: 2 << 20},
		"batch":         {Batch: 101},
		"scenario":      {Scenario: "nonsense"},
		"namespace":     {Namespace: "a b"},
		"retained":      {Retained: -5},
		"result":        {ResultBytes: -1},
		"start-samples": {StartSamples: 1 << 30},
	} {
		config.Open = func(context.Context) (flowfabric.Backend, error) {
			t.Error(name + ": opened a backend")
			return nil, errors.New("opened")
		}
		_, err := benchmark.Run(t.Context(), config)
		if flowfabric.CodeOf(err) != flowfabric.CodeInvalidInput {
			t.Errorf("%s: %v, want invalid_input", name, err)
		}
	}
}

// forgetful completes nothing of what it is asked to, yet says so.
type forgetful struct {
	flowfabric.Backend
	mu   sync.Mutex
	once bool
}

func (f *forgetful) CompleteExecutions(ctx context.Context, items []flowfabric.CompleteExecutionArgs) ([]flowfabric.Item[flowfabric.CompleteExecutionResult], error) {
	f.mu.Lock()
	first := !f.once
	f.once = true
	f.mu.Unlock()
	if !first {
		return f.Backend.CompleteExecutions(ctx, items)
	}
	answers, err := f.Backend.CompleteExecutions(ctx, items[1:])
	return append(answers, flowfabric.Item[flowfabric.CompleteExecutionResult]{}), err
}

func TestLossIsAnError(t *testing.T) {
	_, err := benchmark.Run(t.Context(), benchmark.Config{
		Open: func(ctx context.Context) (flowfabric.Backend, error) {
			b, err := openMemory(ctx)
			return &forgetful{Backend: b}, err
		},
		Executions: 100, Workers: 2, Batch: 10, StartSamples: -1,
	})
	if err == nil {
		t.Fatal("a backend that lost an execution passed")
	}
}

func TestCancelledRun(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	_, err := benchmark.Run(ctx, benchmark.Config{
		Open: func(ctx context.Context) (flowfabric.Backend, error) {
			b, err := openMemory(ctx)
			cancel()
			return b, err
		},
		Executions: 100, StartSamples: -1,
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want context.Canceled", err)
	}
}
