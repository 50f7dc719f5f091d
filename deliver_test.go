package flowfabric

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// suspendedExecutions makes n executions that wait for "ready".
func suspendedExecutions(t *testing.T, f *fakeBackend, n int) []ExecutionID {
	t.Helper()
	w := newTestWorker(t, f, testConfig(n))
	defer closeWorker(t, w)
	ids := f.add(n, "work", "")
	tasks, err := w.ClaimTasks(t.Context(), n)
	must(t, err)
	for _, task := range tasks {
		_, err := task.Suspend(t.Context(), ready("go"))
		must(t, err)
	}
	return ids
}

// TestSpec03_S34_WebhookRetries: the signal that resumed is a duplicate when it
// comes again. Automatic retries are recognised by the id minted for the call.
func TestSpec03_S34_WebhookRetries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		id := suspendedExecutions(t, f, 1)[0]
		waitpoint, token := f.primary(id)
		c := NewClient(f, WithCreator("hook"))
		lost := false
		f.setAfter(func(op string) error {
			if op == "deliver_signal" && !lost {
				lost = true
				return NewError(CodeOutcomeUnknown, "lost")
			}
			return nil
		})
		out, err := c.DeliverSignal(t.Context(), id, waitpoint, token, Signal{Name: "ready", IdempotencyKey: "event-1"})
		if err != nil || out.Status != SignalDuplicate || out.Effect != EffectResumed || len(f.delivered) != 2 {
			t.Fatalf("%+v, %v, %d calls", out, err, len(f.delivered))
		}
		first, second := f.delivered[0].Signal, f.delivered[1].Signal
		if first.SignalID == "" || first.SignalID != second.SignalID || out.SignalID != first.SignalID {
			t.Errorf("ids %s, %s, %s", first.SignalID, second.SignalID, out.SignalID)
		}
		if first.SourceIdentity != "hook" || first.SourceType != SourceTypeExternalAPI || first.Category != SignalCategoryCustom {
			t.Errorf("signal %+v", first)
		}
		again, err := c.DeliverSignal(t.Context(), id, waitpoint, token, Signal{Name: "ready", IdempotencyKey: "event-1"})
		if err != nil || again != out {
			t.Errorf("again: %+v, %v", again, err)
		}
		if _, err = c.DeliverSignal(t.Context(), id, waitpoint, token, Signal{Name: "ready"}); !errors.Is(err, ErrWaitpointClosed) {
			t.Errorf("another signal: %v", err)
		}
		for name, bad := range map[string]WaitpointToken{"missing_token": {}, "invalid_token": NewWaitpointToken("k1:0")} {
			calls := len(f.delivered)
			if _, err := c.DeliverSignal(t.Context(), id, waitpoint, bad, Signal{Name: "x"}); CodeOf(err) != Code(name) || len(f.delivered) != calls+1 {
				t.Errorf("%s: %v", name, err)
			}
		}
		if _, err := DeliverSignalJSON(t.Context(), c, id, waitpoint, token, Signal{}, func() {}); !errors.Is(err, ErrInvalidInput) {
			t.Errorf("payload that does not encode: %v", err)
		}
	})
}

func TestSignalPayload(t *testing.T) {
	if v, err := SignalPayload[*order](ResumeSignal{}); v != nil || err != nil {
		t.Errorf("none: %v, %v", v, err)
	}
	if _, err := SignalPayload[order](ResumeSignal{Payload: []byte("{")}); err == nil {
		t.Error("broken JSON decoded")
	}
	timeout := ResumeSignal{SignalName: SignalNameTimeout, SignalCategory: SignalCategoryTimeout, SourceType: SourceTypeEngine}
	if !timeout.TimedOut() || (ResumeSignal{SignalName: SignalNameTimeout}).TimedOut() {
		t.Error("TimedOut")
	}
}

// TestOperatorsOfWaits drives the operator's methods.
func TestOperatorsOfWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		ids := suspendedExecutions(t, f, 3)
		id := ids[0]
		waitpoint, token := f.primary(id)
		ctx, c := t.Context(), NewClient(f, WithCreator("alice"))
		a := c.Admin()
		if got, err := a.ReadWaitpointToken(ctx, id, waitpoint); got != token || err != nil {
			t.Errorf("token %v, %v", got, err)
		}
		if _, err := a.CloseWaitpoint(ctx, id, waitpoint, ""); !errors.Is(err, ErrWaitpointInUse) {
			t.Errorf("close: %v", err)
		}
		out, err := a.DeliverApprovalSignal(ctx, DeliverApprovalSignalArgs{
			ExecutionID: id, LaneID: "default", WaitpointID: waitpoint, SignalName: SignalNameApproved, IdempotencySuffix: "1",
		})
		if err != nil || out.Status != SignalAccepted {
			t.Errorf("approval: %+v, %v", out, err)
		}
		g, err := c.GetSignal(ctx, id, out.SignalID)
		if err != nil || g.SourceIdentity != "alice" || g.SourceType != SourceTypeOperator || g.IdempotencyKey != "approval:approved:1" {
			t.Errorf("signal %+v, %v", g, err)
		}
		if s, err := c.GetSuspension(ctx, id); err != nil || s.CloseReason != "" {
			t.Errorf("suspension %+v, %v", s, err)
		}
		if r, err := a.ResumeExecution(ctx, ResumeExecutionArgs{ExecutionID: id}); err != nil || r.PublicState != PublicWaiting {
			t.Errorf("resume: %+v, %v", r, err)
		}
		if _, err := a.ResumeExecution(ctx, ResumeExecutionArgs{ExecutionID: id}); !errors.Is(err, ErrExecutionNotSuspended) {
			t.Errorf("resume again: %v", err)
		}
		if r, err := a.RotateWaitpointSecret(ctx, RotateWaitpointSecretArgs{NewKID: "k2"}); err != nil || r.NewKID != "k2" {
			t.Errorf("rotate: %+v, %v", r, err)
		}
		if r, err := a.ListWaitpointKIDs(ctx); err != nil || r.CurrentKID != DefaultKID {
			t.Errorf("kids: %+v, %v", r, err)
		}
	})
}

// TestListsOfWaits: pages, iterators, the default namespace and retries of reads.
func TestListsOfWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		ids := suspendedExecutions(t, f, 5)
		w, task := waitingTask(t, f)
		defer closeWorker(t, w)
		ctx, c := t.Context(), NewClient(f, WithNamespace("mine"))
		page, err := c.ListSuspended(ctx, SuspendedQuery{Limit: 2})
		if err != nil || len(page.Items) != 2 || page.NextCursor == "" || f.listed[0].Namespace != "mine" {
			t.Errorf("page %+v, %v, %+v", page, err, f.listed[0])
		}
		all := c.Suspended(ctx, SuspendedQuery{Limit: 2, Namespace: AnyNamespace})
		for range 2 { // it may be walked twice
			if n := countOf(t, all); n != 5 {
				t.Errorf("%d suspended", n)
			}
		}
		if n := countOf(t, w.Suspended(ctx, SuspendedQuery{Limit: 2, Cursor: page.NextCursor})); n != 3 {
			t.Errorf("%d suspended behind the cursor", n)
		}
		last := f.listed[len(f.listed)-1]
		if f.listed[1].Namespace != "" || last.Namespace != "default" {
			t.Errorf("namespaces %q, %q", f.listed[1].Namespace, last.Namespace)
		}
		if page, err := w.ListSuspended(ctx, SuspendedQuery{}); err != nil || len(page.Items) != 5 {
			t.Errorf("%+v, %v", page, err)
		}

		f.pageSize = 2
		var made *PendingWaitpoint
		for i := range 5 {
			made, err = task.CreatePendingWaitpoint(ctx, fmt.Sprint("key", i), time.Minute)
			must(t, err)
		}
		for i := range 5 {
			_, err = w.DeliverSignal(ctx, task.ExecutionID(), made.WaitpointID, made.Token, Signal{Name: fmt.Sprint("s", i), Payload: []byte("p")})
			must(t, err)
		}
		if n := countOf(t, c.PendingWaitpoints(ctx, task.ExecutionID())); n != 5 {
			t.Errorf("%d waitpoints", n)
		}
		args := ListSignalsArgs{ExecutionID: task.ExecutionID(), Limit: 2}
		for range 2 {
			if n := countOf(t, c.Signals(ctx, args)); n != 5 {
				t.Errorf("%d signals", n)
			}
		}
		f.setBefore(always(errStore, "list_suspended", "list_signals", "list_pending_waitpoints", "get_suspension"))
		for _, err := range c.Suspended(ctx, SuspendedQuery{}) {
			if !errors.Is(err, ErrStoreUnavailable) {
				t.Errorf("got %v", err)
			}
		}
		for _, err := range c.Signals(ctx, args) {
			if !errors.Is(err, ErrStoreUnavailable) {
				t.Errorf("got %v", err)
			}
		}
		_, _ = c.GetSuspension(ctx, ids[0])
		if f.count("get_suspension") != 4 {
			t.Errorf("%d reads", f.count("get_suspension"))
		}
		f.setBefore(nil)
	})
}

func countOf[T any](t *testing.T, seq func(func(T, error) bool)) (n int) {
	t.Helper()
	for _, err := range seq {
		must(t, err)
		n++
	}
	return n
}

// TestLastSuspension shows only the attempt's own.
func TestLastSuspension(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		w, task := waitingTask(t, f)
		defer closeWorker(t, w)
		if s, err := task.LastSuspension(context.Background()); s != nil || err != nil {
			t.Errorf("never waited: %v, %v", s, err)
		}
		f.change(func() {
			f.executions[task.ExecutionID()].waits().suspension = &Suspension{AttemptID: NewAttemptID(), CloseReason: ClosedResumed}
		})
		if s, err := task.LastSuspension(t.Context()); s != nil || err != nil {
			t.Errorf("an earlier attempt's: %v, %v", s, err)
		}
		if signals, err := task.ResumeSignals(t.Context()); len(signals) != 0 || err != nil {
			t.Errorf("an earlier attempt's signals: %v, %v", signals, err)
		}
		f.setBefore(always(errStore, "get_suspension"))
		if _, err := task.LastSuspension(t.Context()); !errors.Is(err, ErrStoreUnavailable) {
			t.Errorf("got %v", err)
		}
		f.setBefore(nil)
	})
}
