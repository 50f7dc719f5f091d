package flowfabric

import (
	"container/heap"
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"
)

// Renewal. (Specification 02, section 6.3.)
const (
	renewalsPerTTL      = 3
	renewalRetriesInTTL = 15
	minRenewalRetry     = 100 * time.Millisecond
	unhealthyFailures   = 3
)

// renewer keeps the leases of all tasks of a worker: one heap of what is due
// next, one timer for its head, and one RenewLeases call for all that falls due
// while the call before is in flight. A task that ends before its first renewal
// costs it a push and a removal, and no timer.
type renewer struct {
	backend Leases
	clock   Clock
	ttl     time.Duration
	life    context.Context
	log     *slog.Logger

	mu      sync.Mutex
	tasks   renewals
	due     []*Task // waiting for a call
	calls   int
	timer   Timer
	armed   time.Time // when the timer fires; zero when it is not armed
	stopped bool
	pending sync.WaitGroup
}

// renewal is the renewer's part of a task, guarded by the renewer's mutex.
type renewal struct {
	index     int // in the heap; -1 outside
	at        time.Time
	renewAt   time.Time // of the next renewal
	deadline  time.Time // until when the lease is surely held
	timeoutAt time.Time // of the attempt or the execution; zero without one
	timeout   error     // what passes at timeoutAt
	asked     bool      // waits for, or is in, a call
	failures  int       // in a row
	expiresAt Millis    // the last confirmed one, store time
	lost      error     // why the lease is gone for good
}

// schedule sets when the renewer must look at the task next.
func (r *renewal) schedule() {
	r.at = r.deadline
	if !r.asked && r.renewAt.Before(r.at) {
		r.at = r.renewAt
	}
	if !r.timeoutAt.IsZero() && r.timeoutAt.Before(r.at) {
		r.at = r.timeoutAt
	}
}

// ending is a task whose context must be cancelled.
type ending struct {
	task  *Task
	cause error
}

// add takes charge of a task whose renewal times are set.
func (r *renewer) add(t *Task) {
	r.mu.Lock()
	defer r.mu.Unlock()
	t.renewal.index = -1
	if r.stopped {
		return
	}
	t.renewal.schedule()
	heap.Push(&r.tasks, t)
	r.arm()
}

// remove stops renewing a task.
func (r *renewer) remove(t *Task) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.drop(t)
}

func (r *renewer) drop(t *Task) {
	if t.renewal.index >= 0 {
		heap.Remove(&r.tasks, t.renewal.index)
	}
}

// stop ends all renewing and waits for the calls under way to answer; they are
// cut short by the end of life or by their own limit.
func (r *renewer) stop() {
	r.mu.Lock()
	r.stopped = true
	r.due = nil
	for len(r.tasks) > 0 {
		heap.Pop(&r.tasks)
	}
	if r.timer != nil {
		r.timer.Stop()
	}
	r.mu.Unlock()
}

// arm makes sure that the timer fires no later than the head is due. A timer
// that fires early finds nothing to do, which is cheaper than moving it for
// every task.
func (r *renewer) arm() {
	if r.stopped || len(r.tasks) == 0 {
		return
	}
	head := r.tasks[0].renewal.at
	if !r.armed.IsZero() && !head.Before(r.armed) {
		return
	}
	r.armed = head
	wait := max(head.Sub(r.clock.Now()), 0)
	if r.timer == nil {
		r.timer = r.clock.AfterFunc(wait, r.tick)
		return
	}
	r.timer.Reset(wait)
}

// tick acts on what is due.
func (r *renewer) tick() {
	var ended []ending
	r.mu.Lock()
	r.armed = time.Time{}
	now := r.clock.Now()
	for !r.stopped && len(r.tasks) > 0 && !r.tasks[0].renewal.at.After(now) {
		t := r.tasks[0]
		if cause := r.advance(t, now); cause != nil {
			ended = append(ended, ending{t, cause})
		}
	}
	r.flush()
	r.arm()
	r.mu.Unlock()
	r.cancel(ended)
}

// advance acts on the one thing that is due for a task, and returns the cause
// for which its context must be cancelled, if any.
func (r *renewer) advance(t *Task, now time.Time) error {
	s := &t.renewal
	if !s.deadline.After(now) {
		s.lost = NewError(CodeLeaseExpired, "no renewal was confirmed before the lease ran out")
		r.drop(t)
		return s.lost
	}
	var cause error
	if !s.timeoutAt.IsZero() && !s.timeoutAt.After(now) {
		cause, s.timeoutAt = s.timeout, time.Time{}
	}
	if !s.asked && !s.renewAt.After(now) {
		s.asked = true
		r.due = append(r.due, t)
	}
	s.schedule()
	heap.Fix(&r.tasks, s.index)
	return cause
}

// flush sends what is due: one call at a time, a further one only for a full
// batch.
func (r *renewer) flush() {
	for len(r.due) > 0 && (r.calls == 0 || (len(r.due) >= MaxBatchItems && r.calls < maxCallsInFlight)) {
		n := min(len(r.due), MaxBatchItems)
		batch := slices.DeleteFunc(slices.Clone(r.due[:n]), func(t *Task) bool { return t.renewal.index < 0 })
		r.due = slices.Delete(r.due, 0, n)
		if len(batch) == 0 {
			continue
		}
		r.calls++
		r.pending.Add(1)
		go r.call(batch)
	}
}

// call renews a batch. It gives up after a third of the TTL: by then every item
// must be tried anew.
func (r *renewer) call(batch []*Task) {
	defer r.pending.Done()
	items := make([]RenewLeaseArgs, len(batch))
	for i, t := range batch {
		items[i] = t.renewArgs()
	}
	ctx, end := withLimit(r.life, r.clock, r.ttl/renewalsPerTTL, context.DeadlineExceeded)
	sent := r.clock.Now()
	answers, err := r.backend.RenewLeases(ctx, items)
	end()
	if err == nil && len(answers) != len(items) {
		err = NewError(CodeInternal, "renewal of %d leases answered with %d items", len(items), len(answers))
	}
	var ended []ending
	r.mu.Lock()
	for i, t := range batch {
		answer := Item[RenewLeaseResult]{Err: err}
		if err == nil {
			answer = answers[i]
		}
		t.renewal.asked = false
		if cause := r.apply(t, sent, answer); cause != nil {
			ended = append(ended, ending{t, cause})
		}
	}
	r.calls--
	r.flush()
	r.arm()
	r.mu.Unlock()
	r.cancel(ended)
}

// apply records the answer to a renewal, and returns the cause when the lease is
// gone for good. The caller holds the mutex.
func (r *renewer) apply(t *Task, sent time.Time, answer Item[RenewLeaseResult]) error {
	s := &t.renewal
	if s.index < 0 {
		return nil
	}
	now := r.clock.Now()
	switch {
	case answer.Err == nil:
		s.failures, s.expiresAt = 0, answer.Result.ExpiresAt
		s.deadline = sent.Add(r.ttl)
		interval := r.ttl / renewalsPerTTL
		s.renewAt = s.renewAt.Add(interval)
		if late := now.Sub(s.renewAt); late >= 0 { // skip the ticks missed
			s.renewAt = s.renewAt.Add(interval * (1 + late/interval))
		}
	case leaseLost(answer.Err):
		s.lost = answer.Err
		r.drop(t)
		return s.lost
	default:
		s.failures++
		s.renewAt = now.Add(max(r.ttl/renewalRetriesInTTL, minRenewalRetry))
		r.log.Debug("renewal failed", "execution_id", t.claimed.ExecutionID, "failures", s.failures, "error", answer.Err)
	}
	s.schedule()
	heap.Fix(&r.tasks, s.index)
	return nil
}

// renewNow renews one task's lease outside the schedule.
func (r *renewer) renewNow(ctx context.Context, t *Task) error {
	sent := r.clock.Now()
	result, err := retry(ctx, r.clock, func(ctx context.Context) (RenewLeaseResult, error) {
		sent = r.clock.Now()
		return RenewLease(ctx, r.backend, t.renewArgs())
	})
	if err != nil && isContextError(err) {
		return err
	}
	r.mu.Lock()
	if err == nil {
		t.renewal.renewAt = r.clock.Now()
	}
	cause := r.apply(t, sent, Item[RenewLeaseResult]{Result: result, Err: err})
	r.arm()
	r.mu.Unlock()
	if cause != nil {
		r.cancel([]ending{{t, cause}})
	}
	return err
}

func (r *renewer) cancel(ended []ending) {
	for _, e := range ended {
		if !e.task.busy() {
			r.log.Warn("task context cancelled", "execution_id", e.task.claimed.ExecutionID,
				"attempt_index", e.task.claimed.AttemptIndex, "cause", e.cause)
		}
		e.task.cancel(e.cause)
	}
}

// leaseLost reports whether a refused renewal means that the lease is gone for
// good.
func leaseLost(err error) bool {
	switch CodeOf(err) {
	case CodeStaleLease, CodeLeaseExpired, CodeLeaseRevoked, CodeExecutionNotActive, CodeExecutionNotFound:
		return true
	}
	return false
}

// renewals is a heap of tasks by when they are due.
type renewals []*Task

func (h renewals) Len() int           { return len(h) }
func (h renewals) Less(i, j int) bool { return h[i].renewal.at.Before(h[j].renewal.at) }

func (h renewals) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].renewal.index, h[j].renewal.index = i, j
}

func (h *renewals) Push(x any) {
	t := x.(*Task)
	t.renewal.index = len(*h)
	*h = append(*h, t)
}

func (h *renewals) Pop() any {
	last := len(*h) - 1
	t := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	t.renewal.index = -1
	return t
}
