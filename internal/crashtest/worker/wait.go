package main

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/crashtest"
)

// pendingTTL is how long a waitpoint waits for its suspend.
const pendingTTL = time.Minute

// waiter does the waits of one execution's plan.
type waiter struct {
	backend flowfabric.Backend
	end     *doom
	task    *flowfabric.Task
	plan    crashtest.Plan
}

// wait suspends the task until it has waited as often as its plan says, each time
// with the count as the continuation pointer. It returns the signals that ended
// the attempt's last wait, or the error that ends the handler. A new attempt
// waits anew.
func (w *waiter) wait(ctx context.Context) ([]flowfabric.SignalID, error) {
	for w.plan.Waits > 0 {
		last, err := until(ctx, w.task.LastSuspension)
		if err != nil {
			return nil, err
		}
		done := 0
		if last != nil {
			if done, err = strconv.Atoi(last.ContinuationMetadataPointer); err != nil {
				return nil, err
			}
		}
		if done >= w.plan.Waits {
			return w.seen(ctx)
		}
		if err := w.suspend(ctx, done); !errors.Is(err, flowfabric.ErrAlreadySatisfied) {
			return nil, err
		}
		w.end.at(crashtest.PointSatisfied)
	}
	return nil, nil
}

// seen returns what came to end the attempt's last wait.
func (w *waiter) seen(ctx context.Context) ([]flowfabric.SignalID, error) {
	signals, err := until(ctx, w.task.ResumeSignals)
	var ids []flowfabric.SignalID
	for _, s := range signals {
		ids = append(ids, s.SignalID)
	}
	return ids, err
}

// suspend begins the next wait. Its error ends the handler, unless it is
// already_satisfied.
func (w *waiter) suspend(ctx context.Context, done int) error {
	key := string(w.plan.Wait) + "-" + strconv.Itoa(done)
	options := flowfabric.SuspendOptions{Condition: w.plan.Wait.Condition(key), Continuation: strconv.Itoa(done + 1)}
	switch w.plan.Act {
	case crashtest.ActWaitBare:
		return w.suspendBare(ctx, options)
	case crashtest.ActWaitPending:
		made, err := until(ctx, func(ctx context.Context) (*flowfabric.PendingWaitpoint, error) {
			return w.task.CreatePendingWaitpoint(ctx, key, pendingTTL)
		})
		if err != nil {
			return err
		}
		w.end.at(crashtest.PointCreated)
		if err := w.letSignalsCome(ctx, made.WaitpointID); err != nil {
			return err
		}
		w.end.at(crashtest.PointBuffered)
		if options = options.OnPending(made); w.plan.Die != "" || rand.IntN(2) == 0 {
			return w.suspendKeyed(ctx, options, string(made.WaitpointID))
		}
	}
	if w.plan.Die != "" {
		return w.suspendKeyed(ctx, options, key)
	}
	return flowfabric.SuspendOn(options)
}

// letSignalsCome gives the sender a little time. A worker that is to die with
// signals, or because of them, waits for them.
func (w *waiter) letSignalsCome(ctx context.Context, waitpoint flowfabric.WaitpointID) error {
	want := 0
	switch w.plan.Die {
	case crashtest.PointBuffered, crashtest.PointSatisfied:
		want = len(w.plan.Wait.Signals())
	}
	if err := work(ctx, rand.N(20*time.Millisecond), false); err != nil || want == 0 {
		return err
	}
	for {
		page, err := until(ctx, func(ctx context.Context) (flowfabric.ListSignalsResult, error) {
			return w.backend.ListSignals(ctx, flowfabric.ListSignalsArgs{ExecutionID: w.task.ExecutionID(), WaitpointID: waitpoint})
		})
		if err != nil || len(page.Signals) >= want {
			return err
		}
		if err := work(ctx, 10*time.Millisecond, false); err != nil {
			return err
		}
	}
}

// suspendBare suspends without an idempotency key. After a lost answer it asks
// again: a suspend that came about makes it already_suspended, or a stale lease
// once others go on.
func (w *waiter) suspendBare(ctx context.Context, options flowfabric.SuspendOptions) error {
	_, err := until(ctx, func(ctx context.Context) (*flowfabric.Suspended, error) { return w.task.Suspend(ctx, options) })
	if err != nil {
		return err
	}
	w.end.at(crashtest.PointSuspended)
	return flowfabric.ErrTaskConsumed
}

func (w *waiter) suspendKeyed(ctx context.Context, options flowfabric.SuspendOptions, key string) error {
	options.IdempotencyKey = key
	return w.suspendBare(ctx, options)
}

// until repeats a call until it is answered, as long as the context lives.
func until[R any](ctx context.Context, call func(context.Context) (R, error)) (R, error) {
	for {
		r, err := call(ctx)
		e := flowfabric.AsError(err)
		if err == nil || ctx.Err() != nil || e == nil || !e.Retryable {
			return r, err
		}
		if err := work(ctx, 20*time.Millisecond, false); err != nil {
			return r, err
		}
	}
}

// doom is where a mortal worker ends: at one point of a first attempt. Such a
// worker has one task at a time.
type doom struct {
	says   *reporter
	mortal bool
	over   atomic.Bool
	task   atomic.Pointer[flowfabric.Task]
	point  atomic.Pointer[crashtest.Point]
}

// plan says where the end is to be, if at all.
func (d *doom) plan(t *flowfabric.Task, p crashtest.Point) {
	if !d.mortal || t.AttemptIndex() > 0 {
		p = ""
	}
	d.task.Store(t)
	d.point.Store(&p)
	if t.ClaimKind() == flowfabric.ClaimResume {
		d.at(crashtest.PointResumed)
	}
}

// at ends the worker if this is the point.
func (d *doom) at(p crashtest.Point) {
	if !d.mortal || *d.point.Load() != p {
		return
	}
	if d.over.Swap(true) {
		select {} // the end is near
	}
	d.says.report(crashtest.Report{Op: crashtest.OpDying, Die: p, Execution: d.task.Load().ExecutionID()})
	self, err := os.FindProcess(os.Getpid())
	if err == nil {
		err = self.Kill()
	}
	panic(err) // a process that kills itself does not come here
}

// sending ends the worker while a request is on its way, or once it is answered.
func (d *doom) sending() {
	if d.mortal && *d.point.Load() == crashtest.PointSending {
		time.AfterFunc(rand.N(3*time.Millisecond), func() { d.at(crashtest.PointSending) })
	}
}
