package flowfabric

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// waitingTask is a task that has just been claimed by hand.
func waitingTask(t *testing.T, f *fakeBackend) (*Worker, *Task) {
	t.Helper()
	w := newTestWorker(t, f, testConfig(2))
	f.add(1, "work", "")
	return w, claimOne(t, w)
}

func ready(key string) SuspendOptions { return SuspendOptions{Condition: Single(key, ByName("ready"))} }

// TestSuspendEndsTheTask: only a Suspended outcome stops renewal, gives the
// permit back and makes further calls task_consumed. (Specification 03, section
// 4.2.)
func TestSuspendEndsTheTask(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.deployment = "here"
		w, task := waitingTask(t, f)
		defer closeWorker(t, w)
		fresh := task.Handle()
		if fresh.Kind != HandleFresh || fresh.Fence != task.Fence() || fresh.Backend != "here" {
			t.Errorf("handle %+v", fresh)
		}
		o := ready("go")
		o.Continuation, o.Timeout, o.Behavior = "step 2", 90*time.Second, TimeoutEscalate
		s, err := task.Suspend(t.Context(), o)
		must(t, err)
		got, found := s.Waitpoint("go")
		if !found || len(s.Waitpoints) != 1 || got.Token.IsZero() || s.SuspensionID == "" {
			t.Errorf("suspended %+v", s)
		}
		if strings.Contains(fmt.Sprintf("%v %+v", s, s), got.Token.Reveal()) {
			t.Error("the token is printed")
		}
		want := fresh.suspended(s.SuspensionID)
		if s.Handle != want || task.Handle() != want || !want.Fence.Empty() || want.Kind != HandleSuspended {
			t.Errorf("handles %+v, %+v", s.Handle, task.Handle())
		}
		a := f.suspends[0]
		if *a.TimeoutMs != 90_000 || a.TimeoutBehavior != TimeoutEscalate || a.ReasonCode != SuspendWaitingForSignal ||
			a.ContinuationMetadataPointer != "step 2" || a.IdempotencyKey != "" || a.RequestedBy != RequestedByWorker {
			t.Errorf("args %+v", a)
		}
		if w.permits.inUse() != 0 || !errors.Is(context.Cause(task.Context()), ErrTaskConsumed) {
			t.Errorf("%d permits, cause %v", w.permits.inUse(), context.Cause(task.Context()))
		}
		time.Sleep(10 * time.Second)
		if len(f.renewedAt()) != 0 {
			t.Error("renewed after the suspend")
		}
		calls := len(f.suspends)
		_, again := task.Suspend(t.Context(), o)
		_, made := task.CreatePendingWaitpoint(t.Context(), "k", time.Minute)
		_, closed := task.CloseWaitpoint(t.Context(), NewWaitpointID(), "")
		for name, err := range map[string]error{"suspend": again, "create": made, "close": closed, "complete": task.Complete(t.Context(), nil)} {
			if !errors.Is(err, ErrTaskConsumed) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if len(f.suspends) != calls || f.count("complete_executions") != 0 {
			t.Error("a spent task made a call")
		}
	})
}

// TestSpec03_S21_SuspendedHandle: no store call is seen, with a key or without;
// the same of another backend's handle and of a fence that is not whole.
func TestSpec03_S21_SuspendedHandle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		w, task := waitingTask(t, f)
		defer closeWorker(t, w)
		fresh := task.Handle()
		s, err := task.Suspend(t.Context(), ready("go"))
		must(t, err)
		keyed := ready("go")
		keyed.IdempotencyKey = "key"
		other, empty, part := fresh, fresh, fresh
		other.Backend = "elsewhere"
		empty.Fence = Fence{}
		part.Fence.LeaseEpoch = 0
		for name, c := range map[string]struct {
			h    TaskHandle
			o    SuspendOptions
			want error
		}{
			"suspended":       {s.Handle, ready("go"), ErrAlreadySuspended},
			"suspended keyed": {s.Handle, keyed, ErrAlreadySuspended},
			"other backend":   {other, ready("go"), ErrHandleFromOtherBackend},
			"no fence":        {empty, ready("go"), ErrFenceRequired},
			"partial fence":   {part, ready("go"), ErrPartialFenceTriple},
		} {
			if _, err := w.SuspendHandle(t.Context(), c.h, c.o); !errors.Is(err, c.want) {
				t.Errorf("%s: %v", name, err)
			} else if name == "suspended" && AsError(err).Detail("suspension_id") != string(s.SuspensionID) {
				t.Errorf("%s: details %v", name, AsError(err).Details)
			}
		}
		if _, err := w.ObserveSignals(t.Context(), other); !errors.Is(err, ErrHandleFromOtherBackend) {
			t.Errorf("observe: %v", err)
		}
		if len(f.suspends) != 1 || f.count("observe_signals") != 0 {
			t.Errorf("%d suspends, %d reads", len(f.suspends), f.count("observe_signals"))
		}
	})
}

// TestSpec03_S20_StaleHandle: without a key the second suspend by the old handle
// learns that the first one stands.
func TestSpec03_S20_StaleHandle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		w, task := waitingTask(t, f)
		defer closeWorker(t, w)
		stale := task.Handle()
		s, err := task.Suspend(t.Context(), ready("go"))
		must(t, err)
		_, err = w.SuspendHandle(t.Context(), stale, ready("go"))
		if !errors.Is(err, ErrAlreadySuspended) || AsError(err).Detail("suspension_id") != string(s.SuspensionID) {
			t.Errorf("got %v", err)
		}
		// A handle that has been written down works as well.
		text, err := json.Marshal(s.Handle)
		must(t, err)
		var read TaskHandle
		must(t, json.Unmarshal(text, &read))
		if read != s.Handle {
			t.Errorf("read back %+v", read)
		}
	})
}

// TestSpec03_S22_SuspendByTriple: as Suspend; the worker's own task ends with it.
func TestSpec03_S22_SuspendByTriple(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		w, task := waitingTask(t, f)
		defer closeWorker(t, w)
		args := SuspendArgs{
			ExecutionID: task.ExecutionID(), ReasonCode: SuspendWaitingForSignal,
			ResumeCondition: AllOf(Single("b", AnySignal()), Single("a", AnySignal()), Single("b", ByName("x"))),
		}
		for name, c := range map[string]struct {
			fence Fence
			want  error
		}{
			"none":    {Fence{}, ErrFenceRequired},
			"partial": {Fence{LeaseID: task.Fence().LeaseID}, ErrPartialFenceTriple},
		} {
			args.Fence = c.fence
			if _, err := w.SuspendByTriple(t.Context(), args); !errors.Is(err, c.want) || len(f.suspends) != 0 {
				t.Errorf("%s: %v, %d calls", name, err, len(f.suspends))
			}
		}
		args.Fence = task.Fence()
		args.Fence.LeaseEpoch++
		if _, err := w.SuspendByTriple(t.Context(), args); !errors.Is(err, ErrStaleLease) {
			t.Errorf("next epoch: %v", err)
		}
		must(t, task.RenewLease(t.Context()))
		args.Fence = task.Fence()
		r, err := w.SuspendByTriple(t.Context(), args)
		if err != nil || r.Outcome != SuspendSuspended || len(r.Waitpoints) != 2 || r.Waitpoints[0].WaitpointKey != "b" {
			t.Errorf("got %+v, %v", r, err)
		}
		if w.permits.inUse() != 0 || task.Handle().Kind != HandleSuspended {
			t.Error("the task lives on")
		}
	})
}

// TestSuspendByHandleOfALostTask suspends what no task of the worker holds.
func TestSuspendByHandleOfALostTask(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		w, task := waitingTask(t, f)
		defer closeWorker(t, w)
		h := task.Handle()
		must(t, task.Abandon(t.Context()))
		r, err := w.SuspendHandle(t.Context(), h, ready("go"))
		if err != nil || r.Suspended == nil || r.Suspended.Handle != h.suspended(r.SuspensionID) {
			t.Errorf("got %+v, %v", r, err)
		}
		signals, err := w.ObserveSignals(t.Context(), r.Suspended.Handle)
		if err != nil || len(signals) != 0 {
			t.Errorf("signals %v, %v", signals, err)
		}
	})
}

// TestSpec03_S15_AlreadySatisfied: the buffered signal meets the condition, the
// lease is kept and renewed, and the signals are there with their payload.
func TestSpec03_S15_AlreadySatisfied(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		w, task := waitingTask(t, f)
		defer closeWorker(t, w)
		made, err := task.CreatePendingWaitpoint(t.Context(), "reply", time.Minute)
		must(t, err)
		if made.Token.IsZero() || made.WaitpointKey != "reply" || strings.Contains(fmt.Sprint(made), made.Token.Reveal()) {
			t.Errorf("made %v", made)
		}
		out, err := DeliverSignalJSON(t.Context(), NewClient(f), task.ExecutionID(), made.WaitpointID, made.Token, Signal{Name: "ready"}, order{7})
		if err != nil || out.Status != SignalAccepted || out.Effect != EffectBuffered || !out.RequiresConfirmation {
			t.Errorf("delivered %+v, %v", out, err)
		}
		r, err := task.TrySuspend(t.Context(), ready("reply").OnPending(made))
		if err != nil || r.Suspended != nil || r.SuspensionID == "" || len(r.Signals) != 1 {
			t.Fatalf("got %+v, %v", r, err)
		}
		if b := f.suspends[0].Waitpoints; len(b) != 1 || !b[0].UsePending || b[0].WaitpointKey != "" {
			t.Errorf("bindings %+v", b)
		}
		signals, err := task.ResumeSignals(t.Context())
		if err != nil || !slices.EqualFunc(signals, r.Signals, func(a, b ResumeSignal) bool { return a.SignalID == b.SignalID }) {
			t.Errorf("signals %+v, %v", signals, err)
		}
		if in, err := SignalPayload[order](signals[0]); err != nil || in.Amount != 7 || signals[0].TimedOut() {
			t.Errorf("payload %+v, %v", in, err)
		}
		time.Sleep(10 * time.Second) // more than three TTLs
		if !task.LeaseHealthy() || len(f.renewedAt()) == 0 || w.permits.inUse() != 1 || task.Handle().Kind != HandleFresh {
			t.Error("the lease is not kept")
		}
		must(t, task.Complete(t.Context(), nil))
	})
}

// TestSpec03_S18_StrictSuspend: already_satisfied, and the task can complete.
func TestSpec03_S18_StrictSuspend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		w, task := waitingTask(t, f)
		defer closeWorker(t, w)
		made, err := task.CreatePendingWaitpoint(t.Context(), "", time.Minute)
		must(t, err)
		_, err = w.DeliverSignal(t.Context(), task.ExecutionID(), made.WaitpointID, made.Token, Signal{Name: "ready"})
		must(t, err)
		_, err = task.Suspend(t.Context(), ready(made.WaitpointKey).OnPending(made))
		e := AsError(err)
		if !errors.Is(err, ErrAlreadySatisfied) || !errors.Is(err, ClassAlreadyDone) || e.Detail("suspension_id") != string(f.suspends[0].SuspensionID) {
			t.Fatalf("got %v", err)
		}
		signals, err := task.ResumeSignals(t.Context())
		if err != nil || len(signals) != 1 || signals[0].SourceType != SourceTypeWorker || signals[0].SourceIdentity != "pool" {
			t.Errorf("signals %+v, %v", signals, err)
		}
		must(t, task.Complete(t.Context(), nil))
	})
}

// TestRefusedSuspendKeepsTheTask: on every error the task stays live.
func TestRefusedSuspendKeepsTheTask(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		w, task := waitingTask(t, f)
		defer closeWorker(t, w)
		for name, c := range map[string]struct {
			o     SuspendOptions
			code  Code
			calls int
		}{
			"invalid condition": {SuspendOptions{Condition: AllOf()}, CodeInvalidResumeCondition, 1},
			"no such pending":   {ready("k").OnPending(&PendingWaitpoint{WaitpointID: NewWaitpointID(), WaitpointKey: "k"}), CodeWaitpointNotFound, 1},
			"negative timeout":  {SuspendOptions{Condition: TimeoutOnly(), Timeout: -1}, CodeInvalidInput, 0},
			"both":              {SuspendOptions{Pending: []PendingWaitpoint{{}}, Waitpoints: []WaitpointBinding{{}}}, CodeInvalidInput, 0},
		} {
			before := len(f.suspends)
			if _, err := task.TrySuspend(t.Context(), c.o); CodeOf(err) != c.code || len(f.suspends)-before != c.calls {
				t.Errorf("%s: %v, %d calls", name, err, len(f.suspends)-before)
			}
		}
		for _, code := range []Code{CodeStaleLease, CodeAlreadySuspended, CodeExecutionNotActive, CodeStoreUnavailable} {
			f.setBefore(always(NewError(code, "injected"), "suspend"))
			if _, err := task.Suspend(t.Context(), ready("k")); CodeOf(err) != code {
				t.Errorf("%s: %v", code, err)
			}
			if task.spent.Load() || task.busy() || w.permits.inUse() != 1 {
				t.Errorf("%s spent the task", code)
			}
		}
		f.setBefore(nil)
		time.Sleep(10 * time.Second)
		must(t, task.Complete(t.Context(), nil))
	})
}

// TestSpec03_S19_SuspendRetries: never by itself without an idempotency key; with
// one, the answer lost is found again.
func TestSpec03_S19_SuspendRetries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		w, task := waitingTask(t, f)
		defer closeWorker(t, w)
		f.setBefore(always(errStore, "suspend"))
		if _, err := task.Suspend(t.Context(), ready("k")); !errors.Is(err, ErrStoreUnavailable) || len(f.suspends) != 1 {
			t.Errorf("keyless: %v, %d calls", err, len(f.suspends))
		}
		f.setBefore(nil)
		lost := false
		f.setAfter(func(op string) error {
			if op == "suspend" && !lost {
				lost = true
				return NewError(CodeOutcomeUnknown, "lost")
			}
			return nil
		})
		o := ready("k")
		o.IdempotencyKey = "once"
		s, err := task.Suspend(t.Context(), o)
		if err != nil || !s.Replayed || len(f.suspends) != 3 || f.suspends[1].SuspensionID != s.SuspensionID {
			t.Errorf("keyed: %+v, %v, %d calls", s, err, len(f.suspends))
		}
		f.setAfter(nil)
	})
}

func TestBindings(t *testing.T) {
	a := PendingWaitpoint{WaitpointID: NewWaitpointID(), WaitpointKey: "a"}
	unnamed := PendingWaitpoint{WaitpointID: NewWaitpointID()}
	stray := PendingWaitpoint{WaitpointID: NewWaitpointID(), WaitpointKey: "stray"}
	fresh := func(key string) WaitpointBinding { return WaitpointBinding{WaitpointKey: key} }
	pending := func(p PendingWaitpoint) WaitpointBinding {
		return WaitpointBinding{WaitpointID: p.WaitpointID, UsePending: true}
	}
	deep := AllOf(AllOf(Single("b", AnySignal())), Count(1, "", nil, "a", "b", "c"))
	for name, c := range map[string]struct {
		condition ResumeCondition
		pending   []PendingWaitpoint
		want      []WaitpointBinding
	}{
		"depth first":       {deep, nil, []WaitpointBinding{fresh("b"), fresh("a"), fresh("c")}},
		"one pending":       {deep, []PendingWaitpoint{a}, []WaitpointBinding{fresh("b"), pending(a), fresh("c")}},
		"default key":       {Single("wpk:"+string(unnamed.WaitpointID), AnySignal()), []PendingWaitpoint{unnamed}, []WaitpointBinding{pending(unnamed)}},
		"operator only":     {OperatorOnly(), nil, []WaitpointBinding{{}}},
		"timeout only":      {TimeoutOnly(), nil, []WaitpointBinding{{}}},
		"operator, pending": {OperatorOnly(), []PendingWaitpoint{a}, []WaitpointBinding{pending(a)}},
		"left over":         {Single("b", AnySignal()), []PendingWaitpoint{stray}, []WaitpointBinding{fresh("b"), pending(stray)}},
		"no condition":      {ResumeCondition{}, nil, nil},
	} {
		if got := bindings(c.condition, c.pending); !slices.Equal(got, c.want) {
			t.Errorf("%s: %+v", name, got)
		}
	}
	args, err := SuspendOptions{Condition: OperatorOnly()}.args("id", Fence{})
	must(t, err)
	if b := args.Waitpoints[0]; b.WaitpointID == "" || b.WaitpointKey != "wpk:"+string(b.WaitpointID) {
		t.Errorf("operator only is bound to %+v", b)
	}
	args, err = SuspendOptions{Condition: TimeoutOnly(), TimeoutAt: time.UnixMilli(1234), Reason: SuspendStepBoundary}.args("id", Fence{})
	if err != nil || args.TimeoutAt != 1234 || args.TimeoutMs != nil || args.ReasonCode != SuspendStepBoundary {
		t.Errorf("%+v, %v", args, err)
	}
}

func TestCreateAndCloseWaitpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		w, task := waitingTask(t, f)
		defer closeWorker(t, w)
		if _, err := task.CreatePendingWaitpoint(t.Context(), "k", 0); !errors.Is(err, ErrInvalidInput) || f.count("create_pending_waitpoint") != 0 {
			t.Errorf("no life: %v", err)
		}
		lost := 0
		f.setAfter(func(op string) error {
			if lost++; op == "create_pending_waitpoint" && lost == 1 {
				return NewError(CodeOutcomeUnknown, "lost")
			}
			return nil
		})
		made, err := task.CreatePendingWaitpoint(t.Context(), "k", time.Nanosecond)
		must(t, err)
		if n := len(f.get(task.ExecutionID()).wait.waitpoints); n != 1 || f.count("create_pending_waitpoint") != 2 {
			t.Errorf("a lost answer made %d waitpoints", n)
		}
		f.setAfter(nil)
		for _, want := range []CloseWaitpointOutcome{WaitpointNowClosed, WaitpointAlreadyClosed} {
			if got, err := task.CloseWaitpoint(t.Context(), made.WaitpointID, ""); got != want || err != nil {
				t.Errorf("close: %s, %v", got, err)
			}
		}
		f.setBefore(always(NewError(CodeStaleLease, "injected"), "create_pending_waitpoint", "close_waitpoint"))
		_, err = task.CreatePendingWaitpoint(t.Context(), "k", time.Minute)
		_, closed := task.CloseWaitpoint(t.Context(), made.WaitpointID, "")
		if !IsStaleOwner(err) || !IsStaleOwner(closed) || task.spent.Load() {
			t.Errorf("stale: %v, %v", err, closed)
		}
		f.setBefore(nil)
		must(t, task.Complete(t.Context(), nil))
	})
}
