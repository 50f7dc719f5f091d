package flowfabric

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"time"
)

// The worker's loop. (Specification 08, section 5.6.)
const (
	maxClaimsInFlight  = 2
	claimBackoffFirst  = 50 * time.Millisecond
	claimBackoffMax    = 30 * time.Second
	settleBackoffFirst = 50 * time.Millisecond
	settleBackoffMax   = 5 * time.Second
)

// Run claims and runs tasks until ctx ends or the worker is closed, then drains
// as [Worker.Close] does and returns its error: nil after a clean end. Permits
// are reserved before claiming; one call asks for all that are free, and at most
// two calls are under way, so that a permit freed while one waits for work does
// not idle. A failing claim is repeated with growing pauses and never ends the
// loop. Run returns at once with the first refused registration of a handler,
// and with invalid_input when called twice.
//
// Handlers run with a context that ends with their lease; it carries the values
// of ctx.
func (w *Worker) Run(ctx context.Context) error {
	if err := w.begin(); err != nil {
		return err
	}
	loop := &runLoop{worker: w, parent: withValues{w.tasks, ctx}, done: make(chan claimOutcome, maxClaimsInFlight)}
	claims, end := endedBy(ctx, w.claims)
	loop.run(claims)
	end()
	return w.Close()
}

// begin marks the loop as started, once.
func (w *Worker) begin() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.misuse != nil {
		return w.misuse
	}
	if w.closing {
		return NewError(CodeShuttingDown, "the worker is closed")
	}
	if w.started {
		return InvalidInput("run", "the worker runs already")
	}
	w.started = true
	return nil
}

// withValues is a context that also carries the values of another one.
type withValues struct {
	context.Context
	values context.Context
}

func (c withValues) Value(key any) any {
	if v := c.Context.Value(key); v != nil {
		return v
	}
	return c.values.Value(key)
}

// runLoop claims and hands out tasks.
type runLoop struct {
	worker *Worker
	parent context.Context // of the tasks' contexts
	done   chan claimOutcome
	// failing grows the pauses after failures, resting those after answers that
	// came empty though there was time left to wait.
	failing, resting backoff
	// paused, while not nil, holds back new claims until it is closed.
	paused chan struct{}
}

// claimOutcome is how one claim call ended.
type claimOutcome struct {
	tasks []*Task
	more  bool
	early bool // it came before the wait was over
	err   error
}

// run claims until ctx ends.
func (l *runLoop) run(ctx context.Context) {
	w := l.worker
	l.failing = backoff{initial: claimBackoffFirst, max: claimBackoffMax}
	l.resting = backoff{initial: claimBackoffFirst, max: w.config.ClaimPollInterval}
	inFlight := 0
	defer func() {
		for range inFlight {
			l.start(<-l.done)
		}
	}()
	for ctx.Err() == nil {
		runtime.Gosched() // lets tasks that are about to end give their permits back
		if n := l.wanted(inFlight); n > 0 {
			inFlight++
			go l.claim(ctx, n)
		}
		select {
		case <-ctx.Done():
			return
		case <-w.permits.freed:
		case <-l.paused:
			l.paused = nil
		case outcome := <-l.done:
			inFlight--
			l.start(outcome)
			l.pauseAfter(outcome)
		}
	}
}

// wanted reserves the permits of the next claim call.
func (l *runLoop) wanted(inFlight int) int {
	if inFlight >= maxClaimsInFlight || l.paused != nil {
		return 0
	}
	return l.worker.permits.take(MaxClaimTasks)
}

// claim makes one claim call with n permits in hand.
func (l *runLoop) claim(ctx context.Context, n int) {
	w := l.worker
	sent := w.clock.Now()
	var o claimOutcome
	o.tasks, o.more, o.err = w.claimBatch(ctx, l.parent, n, true)
	if o.err != nil && w.config.AllowDirectClaim && errors.Is(o.err, ErrUnsupportedOperation) {
		o = l.claimDirectly(ctx)
	}
	o.early = w.config.ClaimWait < time.Millisecond || w.clock.Now().Sub(sent) < w.config.ClaimWait/2
	l.done <- o
}

// claimDirectly is the loop's way where the backend has no scheduler and direct
// claims are allowed.
func (l *runLoop) claimDirectly(ctx context.Context) claimOutcome {
	w := l.worker
	if w.permits.take(1) == 0 {
		return claimOutcome{more: true}
	}
	t, err := w.claimDirectly(ctx)
	if t == nil {
		w.give(1)
		return claimOutcome{err: err}
	}
	t.managed = true
	return claimOutcome{tasks: []*Task{t}, more: true}
}

// start runs the tasks of a claim.
func (l *runLoop) start(o claimOutcome) {
	for _, t := range o.tasks {
		l.worker.running.Add(1)
		go l.worker.execute(t)
	}
}

// pauseAfter holds back new claims where asking again at once would not help:
// after a failure, and after an empty answer that came early, as from a
// scheduler that drains.
func (l *runLoop) pauseAfter(o claimOutcome) {
	var d time.Duration
	switch {
	case o.err != nil && isContextError(o.err):
		return // the loop is about to end
	case o.err != nil:
		d = l.failing.next(o.err)
		l.worker.log.Warn("claiming failed", "error", o.err, "retry_in", d)
	case len(o.tasks) == 0 && !o.more && o.early:
		l.failing.reset()
		d = l.resting.next(nil)
	default:
		l.failing.reset()
		l.resting.reset()
	}
	if d <= 0 || l.paused != nil {
		return
	}
	over := make(chan struct{})
	l.paused = over
	l.worker.clock.AfterFunc(d, func() { close(over) })
}

// execute runs one task to its end.
func (w *Worker) execute(t *Task) {
	defer func() {
		t.cancel(ErrTaskConsumed)
		w.running.Add(-1)
		w.notify()
	}()
	// A handler whose task nobody ended must not keep the permit.
	defer func() {
		if t.spend(true) {
			w.log.Warn("task left to its lease", "execution_id", t.claimed.ExecutionID,
				"attempt_index", t.claimed.AttemptIndex, "cause", context.Cause(t.ctx))
		}
	}()
	for satisfied := 0; ; satisfied++ {
		result, err := w.call(t)
		if satisfied == maxSatisfiedAtOnce && suspends(err) {
			err = Fail(CategorySuspendLoop, fmt.Errorf("what the handler waits for had come already %d times in a row", satisfied))
		}
		if t.spent.Load() || !w.settle(t, result, err) {
			return
		}
	}
}

// suspends reports whether a handler that returned err wants to wait.
func suspends(err error) bool {
	var v *verdict
	return errors.As(err, &v) && v.kind == verdictSuspend
}

// call runs the handler of a task. A panic becomes a failure.
func (w *Worker) call(t *Task) (result []byte, err error) {
	handler := w.handlers[t.claimed.Kind] // not written since Run began
	if handler == nil {
		return nil, Fail(CategoryNoHandler, fmt.Errorf("no handler for execution kind %q", t.claimed.Kind))
	}
	returned := false
	defer func() {
		if !returned {
			err = w.panicked(t, recover())
		}
	}()
	result, err = handler(t.ctx, t, t.claimed.Payload)
	returned = true
	return result, err
}

// panicked makes the failure of a handler that did not return. With no panic the
// handler ended its goroutine, after which nothing but deferred calls run: the
// task is then settled here.
func (w *Worker) panicked(t *Task, p any) error {
	text := fmt.Sprint("panic: ", p)
	if p == nil {
		text = "the handler ended its goroutine"
	}
	w.log.Error("handler panicked", "execution_id", t.claimed.ExecutionID, "execution_kind", t.claimed.Kind,
		"panic", text, "stack", string(debug.Stack()))
	err := Fail(CategoryHandlerPanic, errors.New(text))
	if p == nil && !t.spent.Load() {
		w.settle(t, nil, err)
	}
	return err
}

// settle ends a task as its handler's return says. It calls nothing when the
// lease is lost, and leaves a task to its lease, or its timeout to the engine,
// when the handler failed because its context ended for that reason. A call that
// is refused and leaves the task live fails the attempt. It reports whether the
// handler is to be called again, because what it wants to wait for has come.
func (w *Worker) settle(t *Task, result []byte, err error) (again bool) {
	if t.lost() != nil {
		return false
	}
	v, explicit := (*verdict)(nil), false
	if err != nil {
		v, explicit = verdictOf(err)
		if !explicit && t.ctx.Err() != nil {
			return false
		}
	}
	end := func() (failed error) {
		again, failed = w.conclude(t, result, v)
		return failed
	}
	failed := w.persist(t, end)
	if !t.spent.Load() && refused(failed) {
		v = &verdict{kind: verdictFail, category: CategoryHandlerError, reason: errorText(failed)}
		failed = w.persist(t, end)
	}
	if failed != nil {
		w.log.Warn("task not ended as its handler said", "execution_id", t.claimed.ExecutionID,
			"attempt_index", t.claimed.AttemptIndex, "error", failed)
	}
	return again && failed == nil && t.lost() == nil
}

// refused reports whether err turns down what the handler asked for, rather than
// telling that the execution is no longer the worker's.
func refused(err error) bool {
	switch CodeOf(err) {
	case CodeExecutionNotFound, CodeExecutionNotActive, CodeAlreadySuspended, CodeTaskConsumed:
		return false
	}
	return err != nil && definite(err) && !IsStaleOwner(err)
}

// conclude makes the call a verdict asks for; no verdict completes. Again tells
// that a suspend found its condition met.
func (w *Worker) conclude(t *Task, result []byte, v *verdict) (again bool, err error) {
	switch {
	case v == nil:
		return false, t.Complete(w.life, result)
	case v.kind == verdictDelay:
		return false, t.DelayFor(w.life, v.delay)
	case v.kind == verdictCancel:
		return false, t.Cancel(w.life, v.reason)
	case v.kind == verdictSuspend:
		r, err := t.TrySuspend(w.life, v.suspend)
		return err == nil && r.Suspended == nil, err
	}
	_, err = t.Fail(w.life, v.reason, v.category)
	return false, err
}

// persist makes a terminal call and repeats it while its outcome is unknown, for
// as long as the lease is held, at most for another TTL, so that a short outage
// of the store does not lose the result. It returns the last error.
func (w *Worker) persist(t *Task, end func() error) error {
	err := end()
	wait := backoff{initial: settleBackoffFirst, max: settleBackoffMax}
	until := w.clock.Now().Add(w.config.LeaseTTL)
	for err != nil && !definite(err) && !t.spent.Load() {
		held := t.lost() == nil && w.clock.Now().Before(until)
		if !held || pause(w.life, w.clock, wait.next(err)) != nil {
			break
		}
		err = end()
	}
	return err
}
