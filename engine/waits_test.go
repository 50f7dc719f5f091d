package engine

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"

	"github.com/flowfabric/flowfabric"
)

func newID() flowfabric.ExecutionID { return flowfabric.MakeExecutionID(0, uuid.New()) }

func (e *Engine) waitInBackground(ctx context.Context, args flowfabric.WaitExecutionArgs) chan answer[flowfabric.WaitExecutionResult] {
	return async(func() (flowfabric.WaitExecutionResult, error) { return e.WaitExecution(ctx, args) })
}

func TestWaitRefusesMalformedRequests(t *testing.T) {
	e := start(t, newFake(), quiet)
	defer stop(t, e)
	for want, args := range map[error]flowfabric.WaitExecutionArgs{
		flowfabric.ErrInvalidExecutionID: {ExecutionID: "x"},
		flowfabric.ErrInvalidInput:       {ExecutionID: newID(), WaitMs: 30_001},
		flowfabric.ErrExecutionNotFound:  {ExecutionID: newID(), WaitMs: 1000},
	} {
		if _, err := e.WaitExecution(t.Context(), args); !errors.Is(err, want) {
			t.Errorf("%+v: %v", args, err)
		}
	}
	if _, err := e.WaitExecution(t.Context(), flowfabric.WaitExecutionArgs{ExecutionID: newID(), Until: "soon"}); !errors.Is(err, flowfabric.ErrInvalidInput) {
		t.Error(err)
	}
}

// Scenario 04.36: completion with bytes, failure as an ordinary result, timeout.
func TestWaitIsFulfilledByCompletion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		e := start(t, f, quiet)
		defer stop(t, e)
		id := newID()
		f.set(id, flowfabric.PublicActive, flowfabric.OutcomeNone, 0)
		begun := time.Now()
		c := e.waitInBackground(t.Context(), flowfabric.WaitExecutionArgs{ExecutionID: id, WaitMs: 30_000})
		bare := e.waitInBackground(t.Context(), flowfabric.WaitExecutionArgs{ExecutionID: id, WaitMs: 30_000, OmitResult: true})
		time.Sleep(100 * time.Millisecond)
		if n := e.Stats().Waits; n != 2 {
			t.Errorf("%d permits in use", n)
		}
		f.complete(id, 0, "\xff\x00")
		f.tell(completion(id, 0))
		r := <-c
		if r.err != nil || time.Since(begun) != 100*time.Millisecond {
			t.Fatalf("%+v after %v", r, time.Since(begun))
		}
		if w := r.v; !w.Terminal || w.TimedOut || w.Outcome != flowfabric.OutcomeSuccess || string(w.Result) != "\xff\x00" || w.ResultEncoding != "json" || !w.ResultAvailable || *w.AttemptIndex != 0 {
			t.Errorf("got %+v", w)
		}
		if r := <-bare; !r.v.ResultAvailable || r.v.Result != nil {
			t.Errorf("without the result: %+v", r)
		}

		f.set(id, flowfabric.PublicFailed, flowfabric.OutcomeFailed, 0)
		if w, err := e.WaitExecution(t.Context(), flowfabric.WaitExecutionArgs{ExecutionID: id, WaitMs: 1000}); err != nil || w.Outcome != flowfabric.OutcomeFailed || !w.Terminal {
			t.Errorf("failed: %+v, %v", w, err)
		}
		f.set(id, flowfabric.PublicActive, flowfabric.OutcomeNone, 0)
		begun = time.Now()
		w, err := e.WaitExecution(t.Context(), flowfabric.WaitExecutionArgs{ExecutionID: id, WaitMs: 200})
		if err != nil || !w.TimedOut || w.Terminal || w.PublicState != flowfabric.PublicActive || time.Since(begun) != 200*time.Millisecond {
			t.Errorf("timeout: %+v, %v after %v", w, err, time.Since(begun))
		}
	})
}

// A completion that was seen fulfils the wait even if a replay or a purge changed
// the record before it could be read.
func TestWaitIsFulfilledByAnEventOfThePast(t *testing.T) {
	for name, then := range map[string]func(*fakeStore, flowfabric.ExecutionID){
		"purged":   func(f *fakeStore, id flowfabric.ExecutionID) { f.purge(id) },
		"replayed": func(f *fakeStore, id flowfabric.ExecutionID) { f.set(id, flowfabric.PublicWaiting, "none", 3) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFake()
				e := start(t, f, quiet)
				defer stop(t, e)
				id := newID()
				f.set(id, flowfabric.PublicActive, flowfabric.OutcomeNone, 2)
				c := e.waitInBackground(t.Context(), flowfabric.WaitExecutionArgs{ExecutionID: id, WaitMs: 30_000})
				synctest.Wait()
				f.tell(completion(id, 1)) // of an earlier run: does not count
				synctest.Wait()
				if len(c) != 0 {
					t.Fatal("fulfilled by an earlier run")
				}
				f.complete(id, 2, "gone at once")
				then(f, id)
				f.tell(completion(id, 2))
				r := <-c
				if w := r.v; r.err != nil || !w.Terminal || w.ReplayCount != 2 || w.ResultAvailable || w.Result != nil || w.CompletedAt != 4711 || w.Outcome != flowfabric.OutcomeSuccess {
					t.Errorf("got %+v", r)
				}
			})
		})
	}
}

func TestWaitOnAnExecutionPurgedUnseen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		e := start(t, f, quiet)
		defer stop(t, e)
		id := newID()
		f.set(id, flowfabric.PublicActive, flowfabric.OutcomeNone, 0)
		c := e.waitInBackground(t.Context(), flowfabric.WaitExecutionArgs{ExecutionID: id, WaitMs: 30_000})
		synctest.Wait()
		begun := time.Now()
		f.purge(id)
		if r := <-c; !errors.Is(r.err, flowfabric.ErrExecutionNotFound) || time.Since(begun) > time.Second {
			t.Errorf("%+v after %v", r, time.Since(begun))
		}
	})
}

// A completion between the first look and the wait is not missed; a lost event
// costs a second, and idle waits read no records.
func TestWaitMissesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		e := start(t, f, quiet)
		defer stop(t, e)
		id := newID()
		f.set(id, flowfabric.PublicActive, flowfabric.OutcomeNone, 0)
		before := &afterRead{fakeStore: f, then: func() {
			f.complete(id, 0, "r")
			f.tell(completion(id, 0))
		}}
		e.store = before
		begun := time.Now()
		if w, err := e.WaitExecution(t.Context(), flowfabric.WaitExecutionArgs{ExecutionID: id, WaitMs: 5000}); err != nil || string(w.Result) != "r" || time.Since(begun) != 0 {
			t.Errorf("%+v, %v after %v", w, err, time.Since(begun))
		}
		f.set(id, flowfabric.PublicActive, flowfabric.OutcomeNone, 0)
		f.reads = 0
		c := e.waitInBackground(t.Context(), flowfabric.WaitExecutionArgs{ExecutionID: id, WaitMs: 30_000, Until: flowfabric.UntilSettled})
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if f.reads != 1 {
			t.Errorf("an idle wait read %d records", f.reads)
		}
		f.set(id, flowfabric.PublicSuspended, flowfabric.OutcomeNone, 0)
		begun = time.Now()
		if r := <-c; r.err != nil || r.v.Terminal || r.v.TimedOut || r.v.PublicState != flowfabric.PublicSuspended || time.Since(begun) > time.Second {
			t.Errorf("%+v after %v", r, time.Since(begun))
		}
	})
}

type afterRead struct {
	*fakeStore
	then func()
}

func (f *afterRead) GetExecution(ctx context.Context, id flowfabric.ExecutionID) (*flowfabric.Execution, error) {
	x, err := f.fakeStore.GetExecution(ctx, id)
	if f.then != nil {
		then := f.then
		f.then = nil
		then()
	}
	return x, err
}

// A result that belongs to a later run than the record is not passed off as its
// own.
func TestWaitTellsRunsApart(t *testing.T) {
	f := newFake()
	e := start(t, f, quiet)
	defer stop(t, e)
	id := newID()
	f.complete(id, 0, "first")
	e.store = &afterRead{fakeStore: f, then: func() { f.complete(id, 1, "second") }}
	w, err := e.WaitExecution(t.Context(), flowfabric.WaitExecutionArgs{ExecutionID: id})
	if err != nil || w.ReplayCount != 1 || string(w.Result) != "second" {
		t.Errorf("got %+v, %v", w, err)
	}
}

func TestWaitPool(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		cfg := quiet
		cfg.MaxWaits = 1
		e := start(t, f, cfg)
		defer stop(t, e)
		id := newID()
		f.set(id, flowfabric.PublicActive, flowfabric.OutcomeNone, 0)
		release, err := e.ReserveWait()
		if err != nil {
			t.Fatal(err)
		}
		_, err = e.WaitExecution(t.Context(), flowfabric.WaitExecutionArgs{ExecutionID: id, WaitMs: 1})
		fe := flowfabric.AsError(err)
		if !errors.Is(err, flowfabric.ErrResourceExhausted) || fe.Detail("pool") != "waits" || fe.Detail("max") != 1 || fe.RetryAfter != 25*time.Millisecond {
			t.Errorf("got %v %+v", err, fe)
		}
		if _, err := e.ReserveWait(); !errors.Is(err, flowfabric.ErrResourceExhausted) {
			t.Errorf("a second reservation: %v", err)
		}
		if w, err := e.WaitExecution(t.Context(), flowfabric.WaitExecutionArgs{ExecutionID: id}); err != nil || !w.TimedOut {
			t.Errorf("a check takes no permit: %+v, %v", w, err)
		}
		if w, err := e.WaitReserved(t.Context(), flowfabric.WaitExecutionArgs{ExecutionID: id, WaitMs: 1}); err != nil || !w.TimedOut {
			t.Errorf("with the reservation: %+v, %v", w, err)
		}
		release()
		release()
		ctx, cancel := context.WithCancel(t.Context())
		c := e.waitInBackground(ctx, flowfabric.WaitExecutionArgs{ExecutionID: id, WaitMs: 30_000})
		synctest.Wait()
		cancel()
		if r := <-c; r.err != context.Canceled {
			t.Errorf("got %+v", r)
		}
		if n := e.Stats().Waits; n != 0 || len(e.waits.byID) != 0 {
			t.Errorf("%d permits in use, %d interests", n, len(e.waits.byID))
		}
	})
}

func TestShutdownEndsWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		e := start(t, f, quiet)
		id := newID()
		f.set(id, flowfabric.PublicActive, flowfabric.OutcomeNone, 0)
		c := e.waitInBackground(t.Context(), flowfabric.WaitExecutionArgs{ExecutionID: id, WaitMs: 30_000})
		synctest.Wait()
		stop(t, e)
		if r := <-c; r.err != nil || !r.v.TimedOut || r.v.PublicState != flowfabric.PublicActive {
			t.Errorf("got %+v", r)
		}
		for _, ms := range []int64{0, 1} {
			if _, err := e.WaitExecution(t.Context(), flowfabric.WaitExecutionArgs{ExecutionID: id, WaitMs: ms}); !errors.Is(err, flowfabric.ErrShuttingDown) {
				t.Errorf("wait_ms %d: %v", ms, err)
			}
		}
		if _, err := e.ReserveWait(); !errors.Is(err, flowfabric.ErrShuttingDown) {
			t.Errorf("reservation: %v", err)
		}
	})
}
