package flowfabric

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"
)

// running is a worker whose loop runs.
type running struct {
	*Worker
	stop func()
	done chan error
}

func run(t *testing.T, w *Worker) *running {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{Worker: w, stop: cancel, done: make(chan error, 1)}
	go func() { r.done <- w.Run(ctx) }()
	return r
}

func (r *running) end(t *testing.T) {
	t.Helper()
	r.stop()
	if err := <-r.done; err != nil {
		t.Errorf("run: %v", err)
	}
}

type order struct{ Amount int }
type receipt struct{ Paid int }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestResultMapping is scenario 37 of chapter 08.
func TestResultMapping(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		w := newTestWorker(t, f, testConfig(4))
		root := errors.New("root cause")
		raw := func(kind string, fn func(ctx context.Context, t *Task) ([]byte, error)) {
			must(t, HandleRaw(w, kind, func(ctx context.Context, task *Task, _ []byte) ([]byte, error) { return fn(ctx, task) }))
		}
		must(t, Handle(w, "typed", func(_ context.Context, _ *Task, in order) (receipt, error) { return receipt{in.Amount}, nil }))
		raw("error", func(context.Context, *Task) ([]byte, error) { return nil, fmt.Errorf("outer: %w", root) })
		raw("hidden", func(context.Context, *Task) ([]byte, error) { return nil, &hidingError{root} })
		raw("long", func(context.Context, *Task) ([]byte, error) { return nil, errors.New(strings.Repeat("é", 5000)) })
		raw("panic", func(context.Context, *Task) ([]byte, error) { panic(root) })
		raw("goexit", func(context.Context, *Task) ([]byte, error) { runtime.Goexit(); return nil, nil })
		raw("fail", func(context.Context, *Task) ([]byte, error) {
			return nil, fmt.Errorf("wrapped: %w", Fail("provider_error", root))
		})
		raw("bad_category", func(context.Context, *Task) ([]byte, error) { return nil, Fail("Bad", root) })
		raw("cancel", func(context.Context, *Task) ([]byte, error) { return nil, CancelTask("not needed") })
		raw("missing", func(ctx context.Context, _ *Task) ([]byte, error) { _, err := Use[*time.Time](ctx); return nil, err })
		raw("state", func(ctx context.Context, _ *Task) ([]byte, error) { s, err := Use[string](ctx); return []byte(s), err })
		raw("done", func(ctx context.Context, task *Task) ([]byte, error) {
			_ = task.Complete(ctx, []byte("own"))
			return []byte("other"), errors.New("ignored")
		})
		raw("large", func(context.Context, *Task) ([]byte, error) { return make([]byte, MaxPayloadBytes+1), nil })
		must(t, Provide(w, "provided"))
		delays := 0
		raw("delay", func(_ context.Context, task *Task) ([]byte, error) {
			if delays++; delays == 1 {
				return nil, DelayFor(time.Minute)
			}
			return []byte(task.ClaimKind()), nil
		})
		r := run(t, w)
		client := NewClient(f)
		submit := func(kind, payload string) fakeExecution {
			created, _, err := client.SubmitAndWait(t.Context(), CreateExecutionArgs{Kind: kind, Payload: []byte(payload)})
			if err != nil {
				t.Fatal(err)
			}
			return f.get(created.ExecutionID)
		}
		for kind, want := range map[string]struct{ payload, category, reason string }{
			"error":        {"", "handler_error", "outer: root cause"},
			"hidden":       {"", "handler_error", "hides: root cause"},
			"panic":        {"", "handler_panic", "panic: root cause"},
			"goexit":       {"", "handler_panic", "the handler ended its goroutine"},
			"unknown":      {"", "runtime_no_handler", `no handler for execution kind "unknown"`},
			"typed":        {`{"Amount":"x"}`, "extractor_payload_decode", "Amount"},
			"fail":         {"", "provider_error", "wrapped: root cause"},
			"bad_category": {"", "handler_error", "root cause"},
			"missing":      {"", "extractor_missing_state", "*time.Time"},
			"large":        {"", "handler_error", "limit 1048576"},
		} {
			e := submit(kind, want.payload)
			if e.state != PublicFailed || e.category != want.category || !strings.Contains(e.reason, want.reason) {
				t.Errorf("%s: %s, %s, %q", kind, e.state, e.category, e.reason)
			}
		}
		if e := submit("long", ""); len(e.reason) > MaxReasonBytes || len(e.reason) < MaxReasonBytes-1 || !utf8.ValidString(e.reason) {
			t.Errorf("long: %d bytes", len(e.reason))
		}
		if e := submit("typed", `{"Amount":7}`); e.state != PublicCompleted || string(e.result) != `{"Paid":7}` {
			t.Errorf("typed: %s %s", e.state, e.result)
		}
		if e := submit("cancel", ""); e.state != PublicCancelled || e.reason != "not needed" {
			t.Errorf("cancel: %s %s", e.state, e.reason)
		}
		if e := submit("state", ""); string(e.result) != "provided" {
			t.Errorf("state: %s", e.result)
		}
		if e := submit("done", ""); string(e.result) != "own" {
			t.Errorf("done: %s", e.result)
		}
		start := time.Now()
		if e := submit("delay", ""); string(e.result) != "resume" || e.attempts != 1 || time.Since(start) != time.Minute {
			t.Errorf("delay: %s, %d attempts, %v", e.result, e.attempts, time.Since(start))
		}
		r.end(t)
		if w.permits.inUse() != 0 {
			t.Error("permits leaked")
		}
	})
}

// hidingError does not mention its cause.
type hidingError struct{ cause error }

func (e *hidingError) Error() string { return "hides" }
func (e *hidingError) Unwrap() error { return e.cause }

func TestRegistrationMisuse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newTestWorker(t, newFake(), testConfig(1))
		handler := func(context.Context, *Task, []byte) ([]byte, error) { return nil, nil }
		must(t, HandleRaw(w, "a", handler))
		for name, err := range map[string]error{
			"twice":     HandleRaw(w, "a", handler),
			"bad kind":  HandleRaw(w, "a b", handler),
			"nil":       HandleRaw(w, "b", nil),
			"nil typed": Handle[int, int](w, "c", nil),
		} {
			var refused *ConfigError
			if !errors.As(err, &refused) {
				t.Errorf("%s: %v", name, err)
			}
		}
		var refused *ConfigError
		if err := w.Run(t.Context()); !errors.As(err, &refused) {
			t.Errorf("run: %v", err)
		}
		closeWorker(t, w)

		w = newTestWorker(t, newFake(), testConfig(1))
		must(t, Provide(w, 1))
		if err := Provide(w, 2); !errors.As(err, &refused) {
			t.Errorf("provided twice: %v", err)
		}
		closeWorker(t, w)

		w = newTestWorker(t, newFake(), testConfig(1))
		r := run(t, w)
		synctest.Wait()
		if err := HandleRaw(w, "late", handler); !errors.As(err, &refused) {
			t.Errorf("late: %v", err)
		}
		if err := Provide(w, 3); !errors.As(err, &refused) {
			t.Errorf("late state: %v", err)
		}
		r.stop()
		<-r.done
		if err := w.Run(t.Context()); err == nil {
			t.Error("a closed worker runs")
		}
		if _, err := Use[int](t.Context()); err == nil {
			t.Error("Use outside a task")
		}
	})
}

// TestRunKeepsPermitsUsed: all free permits are asked for in one call, no more
// than two calls are under way, and the limit of tasks holds.
func TestRunKeepsPermitsUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		w := newTestWorker(t, f, testConfig(10))
		var busy, most atomic.Int32
		must(t, HandleRaw(w, "work", func(ctx context.Context, task *Task, _ []byte) ([]byte, error) {
			n := busy.Add(1)
			defer busy.Add(-1)
			for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
			}
			time.Sleep(10 * time.Millisecond)
			return nil, nil
		}))
		r := run(t, w)
		synctest.Wait()
		if len(f.claims) != 1 || f.claims[0].MaxTasks != 10 || f.claims[0].WaitMs != 20_000 || f.claims[0].LeaseTTLMs != 3000 {
			t.Errorf("first claims: %+v", f.claims)
		}
		ids := f.add(1, "work", "")
		synctest.Wait()
		if len(f.claims) != 2 || f.claims[1].MaxTasks != 9 {
			t.Errorf("the permits left are not asked for: %+v", f.claims)
		}
		ids = append(ids, f.add(99, "work", "")...)
		client := NewClient(f)
		start := time.Now()
		for _, id := range ids {
			if _, err := client.Wait(t.Context(), id); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(start); took > 110*time.Millisecond {
			t.Errorf("100 tasks of 10 ms by 10 took %v", took)
		}
		if most.Load() != 10 {
			t.Errorf("%d tasks at once", most.Load())
		}
		synctest.Wait()
		calls := f.count("claim_tasks")
		time.Sleep(10 * time.Second)
		if n := f.count("claim_tasks"); n != calls {
			t.Errorf("an idle worker made %d calls", n-calls)
		}
		r.end(t)
		if f.count("deregister_worker") != 1 || len(f.registered) != 0 {
			t.Error("not deregistered")
		}
	})
}

func TestRunBacksOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		w := newTestWorker(t, f, testConfig(1))
		done := make(chan struct{})
		must(t, HandleRaw(w, "work", func(context.Context, *Task, []byte) ([]byte, error) { close(done); return nil, nil }))
		f.setBefore(always(errStore, "claim_tasks"))
		r := run(t, w)
		time.Sleep(10 * time.Minute)
		if n := f.count("claim_tasks"); n < 3 || n > 200 {
			t.Errorf("%d claims in 10 minutes", n)
		}
		f.setBefore(nil)
		f.add(1, "work", "")
		start := time.Now()
		<-done
		if took := time.Since(start); took > 2*claimBackoffMax {
			t.Errorf("recovery took %v", took)
		}
		r.end(t)
	})
}

// TestRunRestsWhenAnswersComeEarly: a scheduler that drains answers at once.
func TestRunRestsWhenAnswersComeEarly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &drainingBackend{fakeBackend: newFake()}
		w := newTestWorker(t, f, testConfig(1))
		r := run(t, w)
		time.Sleep(time.Minute)
		if n := f.count("claim_tasks"); n < 30 || n > 400 {
			t.Errorf("%d claims in a minute", n)
		}
		r.end(t)
	})
}

type drainingBackend struct{ *fakeBackend }

func (b *drainingBackend) ClaimTasks(ctx context.Context, a ClaimTasksArgs) (ClaimTasksResult, error) {
	return ClaimTasksResult{}, b.enter(ctx, "claim_tasks", a.MaxTasks)
}

// TestRunAdoptsLostClaims: the answer of a claim is lost, its tasks are run all
// the same, once.
func TestRunAdoptsLostClaims(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		w := newTestWorker(t, f, testConfig(4))
		var runs sync.Map
		must(t, HandleRaw(w, "work", func(_ context.Context, task *Task, _ []byte) ([]byte, error) {
			if _, twice := runs.LoadOrStore(task.ExecutionID(), true); twice {
				t.Error("run twice")
			}
			time.Sleep(50 * time.Millisecond)
			return nil, nil
		}))
		var claims atomic.Int32
		f.after = func(op string) error {
			if op == "claim_tasks" && claims.Add(1)%2 == 1 {
				return NewError(CodeOutcomeUnknown, "lost")
			}
			return nil
		}
		ids := f.add(40, "work", "")
		r := run(t, w)
		client := NewClient(f)
		for _, id := range ids {
			if _, err := client.Wait(t.Context(), id); err != nil {
				t.Fatal(err)
			}
			if e := f.get(id); e.attempts != 1 {
				t.Errorf("%d attempts", e.attempts)
			}
		}
		f.setAfter(nil)
		r.end(t)
	})
}

// TestClaimTasksGivesSurplusUp: lost leases over the free permits are revoked.
func TestClaimTasksGivesSurplusUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		w := newTestWorker(t, f, testConfig(3))
		defer closeWorker(t, w)
		ids := f.add(3, "work", "")
		f.setAfter(always(errStore, "claim_tasks"))
		f.setBefore(always(errStore, "list_worker_leases"))
		if _, err := w.ClaimTasks(t.Context(), 3); !errors.Is(err, ErrStoreUnavailable) || w.permits.inUse() != 0 {
			t.Errorf("got %v", err)
		}
		f.setBefore(nil)
		f.setAfter(nil)
		tasks, err := w.ClaimTasks(t.Context(), 2)
		if err != nil || len(tasks) != 2 {
			t.Fatalf("adopted %d: %v", len(tasks), err)
		}
		revoked := slices.IndexFunc(ids, func(id ExecutionID) bool { return f.get(id).revoked })
		if revoked < 0 || f.count("revoke_lease") != 1 || w.permits.inUse() != 2 {
			t.Errorf("revoked %d, calls %d", revoked, f.count("revoke_lease"))
		}
		for _, task := range tasks {
			must(t, task.Complete(t.Context(), nil))
		}
	})
}

func TestRunDrains(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		config := testConfig(3)
		config.DrainTimeout = 10 * time.Second
		w := newTestWorker(t, f, config)
		must(t, HandleRaw(w, "short", func(context.Context, *Task, []byte) ([]byte, error) {
			time.Sleep(5 * time.Second)
			return []byte("done"), nil
		}))
		must(t, HandleRaw(w, "long", func(ctx context.Context, _ *Task, _ []byte) ([]byte, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}))
		must(t, HandleRaw(w, "finish", func(ctx context.Context, _ *Task, _ []byte) ([]byte, error) {
			<-ctx.Done()
			return []byte(context.Cause(ctx).(*Error).Code), nil
		}))
		short, long, finish := f.add(1, "short", "")[0], f.add(1, "long", "")[0], f.add(1, "finish", "")[0]
		r := run(t, w)
		synctest.Wait()
		start := time.Now()
		late := f.add(1, "short", "")[0]
		r.end(t)
		if took := time.Since(start); took != 10*time.Second {
			t.Errorf("the drain took %v", took)
		}
		if f.get(short).state != PublicCompleted || string(f.get(finish).result) != "shutting_down" {
			t.Errorf("short %s, finish %s", f.get(short).state, f.get(finish).result)
		}
		if e := f.get(long); e.state != PublicActive || e.category != "" || !e.revoked {
			t.Errorf("long: %s %q revoked %v", e.state, e.category, e.revoked)
		}
		if f.get(late).state != PublicWaiting {
			t.Error("claimed while draining")
		}
	})
}

func TestDrainLeavesStubbornHandlerBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		config := testConfig(1)
		config.DrainTimeout = time.Second
		w := newTestWorker(t, f, config)
		release := make(chan struct{})
		must(t, HandleRaw(w, "stubborn", func(context.Context, *Task, []byte) ([]byte, error) { <-release; return nil, nil }))
		id := f.add(1, "stubborn", "")[0]
		r := run(t, w)
		synctest.Wait()
		r.stop()
		if err := <-r.done; !errors.Is(err, ErrShutdownTimeout) {
			t.Errorf("got %v", err)
		}
		if !f.get(id).revoked {
			t.Error("the lease is not revoked")
		}
		close(release)
	})
}

// TestRunLosesLease: no terminal call is made, the permit is held until the
// handler returns, and the worker goes on.
func TestRunLosesLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		w := newTestWorker(t, f, testConfig(1))
		release := make(chan struct{})
		must(t, HandleRaw(w, "work", func(ctx context.Context, task *Task, _ []byte) ([]byte, error) {
			if task.AttemptIndex() > 0 {
				return []byte("second"), nil
			}
			<-ctx.Done()
			<-release
			return nil, context.Cause(ctx)
		}))
		id := f.add(1, "work", "")[0]
		r := run(t, w)
		synctest.Wait()
		f.change(func() { f.executions[id].revoked = true })
		time.Sleep(2 * time.Second)
		if w.permits.inUse() != 1 {
			t.Error("the permit was given back while the handler runs")
		}
		close(release)
		if _, err := NewClient(f).Wait(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		if string(f.get(id).result) != "second" || f.count("fail_execution") != 0 {
			t.Errorf("result %s, %d fails", f.get(id).result, f.count("fail_execution"))
		}
		r.end(t)
	})
}

// TestRunSurvivesOutageAtTheEnd: a result is not lost in a short outage.
func TestRunSurvivesOutageAtTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		w := newTestWorker(t, f, testConfig(1))
		must(t, HandleRaw(w, "work", func(context.Context, *Task, []byte) ([]byte, error) {
			f.setBefore(always(errStore, "complete_executions"))
			time.AfterFunc(2500*time.Millisecond, func() { f.setBefore(nil) })
			return []byte("kept"), nil
		}))
		id := f.add(1, "work", "")[0]
		r := run(t, w)
		if _, err := NewClient(f).Wait(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		if e := f.get(id); e.attempts != 1 || string(e.result) != "kept" {
			t.Errorf("%d attempts, result %s", e.attempts, e.result)
		}
		r.end(t)
	})
}

func TestRunCarriesValues(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		type key struct{}
		f := newFake()
		w := newTestWorker(t, f, testConfig(1))
		got := make(chan any, 1)
		must(t, Handle(w, "work", func(ctx context.Context, task *Task, _ struct{}) (any, error) {
			got <- ctx.Value(key{})
			return json.RawMessage("null"), nil
		}))
		ctx, cancel := context.WithCancel(context.WithValue(context.Background(), key{}, "value"))
		done := make(chan error, 1)
		go func() { done <- w.Run(ctx) }()
		f.add(1, "work", "")
		if v := <-got; v != "value" {
			t.Errorf("value %v", v)
		}
		cancel()
		must(t, <-done)
	})
}

func TestRunDirectlyWithoutScheduler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.setBefore(always(NewError(CodeUnsupportedOperation, "no scheduler"), "claim_tasks"))
		config := testConfig(2)
		config.AllowDirectClaim = true
		w := newTestWorker(t, f, config)
		must(t, HandleRaw(w, "work", func(context.Context, *Task, []byte) ([]byte, error) { return nil, nil }))
		ids := f.add(20, "work", "")
		r := run(t, w)
		for _, id := range ids {
			if _, err := NewClient(f).Wait(t.Context(), id); err != nil {
				t.Fatal(err)
			}
		}
		r.end(t)
	})
}
