package flowfabric

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// primary returns the address of an execution's wait.
func (f *fakeBackend) primary(id ExecutionID) (WaitpointID, WaitpointToken) {
	f.mu.Lock()
	defer f.mu.Unlock()
	x := f.executions[id].wait
	w := x.waitpoints[x.suspension.Waitpoints[0].WaitpointID]
	return w.id, w.token
}

// onReady is a handler that waits for the signal "ready" and returns what it saw.
func onReady(o SuspendOptions) RawHandler {
	return func(ctx context.Context, t *Task, _ []byte) ([]byte, error) {
		signals, err := t.ResumeSignals(ctx)
		if err != nil {
			return nil, err
		}
		if len(signals) == 0 {
			return nil, fmt.Errorf("wrapped: %w", SuspendOn(o))
		}
		last, err := t.LastSuspension(ctx)
		if err != nil {
			return nil, err
		}
		return fmt.Appendf(nil, "%s %s %s", t.ClaimKind(), signals[0].Payload, last.ContinuationMetadataPointer), nil
	}
}

// TestSuspendOn: the permit is given back while the execution waits, and the
// handler is called from the top for the same attempt.
func TestSuspendOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		w := newTestWorker(t, f, testConfig(1))
		o := ready("go")
		o.Continuation = "note"
		must(t, HandleRaw(w, "work", onReady(o)))
		id := f.add(1, "work", "")[0]
		r := run(t, w)
		synctest.Wait()
		if e := f.get(id); e.state != PublicSuspended || w.permits.inUse() != 1 { // that of the claim under way
			t.Errorf("%s, %d permits", e.state, w.permits.inUse())
		}
		if a := f.suspends[0]; a.IdempotencyKey == "" {
			t.Error("the suspend cannot be repeated")
		}
		client := NewClient(f)
		waitpoint, token := f.primary(id)
		out, err := client.DeliverSignal(t.Context(), id, waitpoint, token, Signal{Name: "other"})
		if err != nil || out.Status != SignalAccepted || out.Effect != EffectMatcherFailed {
			t.Errorf("other: %+v, %v", out, err)
		}
		out, err = client.DeliverSignal(t.Context(), id, waitpoint, token, Signal{Name: "ready", Payload: []byte("42")})
		if err != nil || out.Status != SignalTriggeredResume {
			t.Errorf("ready: %+v, %v", out, err)
		}
		ended, err := client.Wait(t.Context(), id)
		if e := f.get(id); err != nil || string(ended.Result) != "resume 42 note" || e.attempts != 1 || e.epoch != 2 {
			t.Errorf("%s, %d attempts, epoch %d, %v", ended.Result, e.attempts, e.epoch, err)
		}
		r.end(t)
		if w.permits.inUse() != 0 {
			t.Error("permits leaked")
		}
	})
}

// TestSuspendOnSatisfied: the handler is called again at once, on the same claim.
func TestSuspendOnSatisfied(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		w := newTestWorker(t, f, testConfig(1))
		client := NewClient(f)
		calls := 0
		must(t, HandleRaw(w, "work", func(ctx context.Context, task *Task, _ []byte) ([]byte, error) {
			calls++
			if signals, err := task.ResumeSignals(ctx); err != nil || len(signals) > 0 {
				return fmt.Appendf(nil, "%s after %d calls", signals[0].SignalName, calls), err
			}
			made, err := task.CreatePendingWaitpoint(ctx, "reply", time.Minute)
			if err != nil {
				return nil, err
			}
			if _, err := client.DeliverSignal(ctx, task.ExecutionID(), made.WaitpointID, made.Token, Signal{Name: "ready"}); err != nil {
				return nil, err
			}
			return nil, SuspendOn(ready("reply").OnPending(made))
		}))
		created, ended, err := runOne(t, w, "work")
		if e := f.get(created); err != nil || string(ended.Result) != "ready after 2 calls" || e.epoch != 1 {
			t.Errorf("%s, epoch %d, %v", ended.Result, e.epoch, err)
		}
	})
}

// runOne runs a worker for one execution.
func runOne(t *testing.T, w *Worker, kind string) (ExecutionID, WaitExecutionResult, error) {
	t.Helper()
	r := run(t, w)
	defer r.end(t)
	created, ended, err := NewClient(w.Backend()).SubmitAndWait(t.Context(), CreateExecutionArgs{Kind: kind})
	return created.ExecutionID, ended, err
}

// TestSuspendOnLoopEnds: a handler that never looks at its signals.
func TestSuspendOnLoopEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		w := newTestWorker(t, f, testConfig(1))
		client := NewClient(f)
		calls := 0
		must(t, HandleRaw(w, "work", func(ctx context.Context, task *Task, _ []byte) ([]byte, error) {
			calls++
			made, err := task.CreatePendingWaitpoint(ctx, "", time.Minute)
			must(t, err)
			_, err = client.DeliverSignal(ctx, task.ExecutionID(), made.WaitpointID, made.Token, Signal{Name: "ready"})
			must(t, err)
			return nil, SuspendOn(ready(made.WaitpointKey).OnPending(made))
		}))
		id, _, err := runOne(t, w, "work")
		must(t, err)
		e := f.get(id)
		if e.state != PublicFailed || e.category != CategorySuspendLoop || calls != 101 || !strings.Contains(e.reason, "100 times") {
			t.Errorf("%s, %s, %q after %d calls", e.state, e.category, e.reason, calls)
		}
		keys := make([]string, 0, len(f.suspends))
		for _, a := range f.suspends {
			keys = append(keys, a.IdempotencyKey)
		}
		slices.Sort(keys)
		if n := len(slices.Compact(keys)); n != 100 {
			t.Errorf("%d idempotency keys of 100 suspends", n)
		}
	})
}

// TestSuspendOnRefused: a refusal fails the attempt; the loss of the lease does
// not.
func TestSuspendOnRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		w := newTestWorker(t, f, testConfig(1))
		must(t, HandleRaw(w, "bad", func(context.Context, *Task, []byte) ([]byte, error) {
			return nil, SuspendOn(SuspendOptions{Condition: AllOf()})
		}))
		must(t, HandleRaw(w, "early", func(context.Context, *Task, []byte) ([]byte, error) {
			return nil, SuspendOn(SuspendOptions{Condition: TimeoutOnly(), Timeout: -1})
		}))
		must(t, HandleRaw(w, "stale", func(_ context.Context, task *Task, _ []byte) ([]byte, error) {
			if task.AttemptIndex() > 0 {
				return []byte("second"), nil
			}
			f.change(func() { f.executions[task.ExecutionID()].revoked = true })
			return nil, SuspendOn(ready("k"))
		}))
		r := run(t, w)
		client := NewClient(f)
		for kind, reason := range map[string]string{"bad": "allof_empty_members", "early": "timeout_ms"} {
			created, _, err := client.SubmitAndWait(t.Context(), CreateExecutionArgs{Kind: kind})
			must(t, err)
			if e := f.get(created.ExecutionID); e.state != PublicFailed || e.category != CategoryHandlerError || !strings.Contains(e.reason, reason) {
				t.Errorf("%s: %s, %s, %q", kind, e.state, e.category, e.reason)
			}
		}
		fails := f.count("fail_execution")
		created, ended, err := client.SubmitAndWait(t.Context(), CreateExecutionArgs{Kind: "stale"})
		if err != nil || string(ended.Result) != "second" || f.count("fail_execution") != fails || f.get(created.ExecutionID).attempts != 2 {
			t.Errorf("stale: %s, %v", ended.Result, err)
		}
		r.end(t)
	})
}

// TestSuspendOnSurvivesOutage: an outage longer than the automatic retries, with
// the first answer lost.
func TestSuspendOnSurvivesOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		w := newTestWorker(t, f, testConfig(1))
		must(t, HandleRaw(w, "work", onReady(ready("go"))))
		var calls atomic.Int32
		f.setAfter(func(op string) error {
			if op != "suspend" || calls.Add(1) > 6 {
				return nil
			}
			return NewError(CodeOutcomeUnknown, "lost")
		})
		id := f.add(1, "work", "")[0]
		r := run(t, w)
		time.Sleep(time.Minute)
		if e := f.get(id); e.state != PublicSuspended || w.permits.inUse() != 1 || len(e.wait.replays) != 1 {
			t.Errorf("%s, %d permits, %d suspends", e.state, w.permits.inUse(), len(e.wait.replays))
		}
		waitpoint, token := f.primary(id)
		_, err := NewClient(f).DeliverSignal(t.Context(), id, waitpoint, token, Signal{Name: "ready"})
		must(t, err)
		if _, err := NewClient(f).Wait(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		r.end(t)
	})
}

// TestHandlerSuspendsItself: the handler that suspends by hand has the last word.
func TestHandlerSuspendsItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		w := newTestWorker(t, f, testConfig(1))
		must(t, HandleRaw(w, "work", func(ctx context.Context, task *Task, _ []byte) ([]byte, error) {
			_, err := task.Suspend(ctx, ready("go"))
			must(t, err)
			return []byte("ignored"), errors.New("ignored")
		}))
		id := f.add(1, "work", "")[0]
		r := run(t, w)
		synctest.Wait()
		if e := f.get(id); e.state != PublicSuspended || f.count("fail_execution")+f.count("complete_executions") != 0 {
			t.Errorf("%s", e.state)
		}
		// An operator's resume gives no signals.
		_, err := NewClient(f).Admin().ResumeExecution(t.Context(), ResumeExecutionArgs{ExecutionID: id})
		must(t, err)
		synctest.Wait()
		if e := f.get(id); e.state != PublicSuspended || e.epoch != 2 {
			t.Errorf("%s, epoch %d", e.state, e.epoch)
		}
		r.end(t)
	})
}
