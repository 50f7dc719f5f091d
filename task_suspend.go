package flowfabric

import (
	"context"
	"slices"
	"time"
)

// SuspendOptions say how a task waits. (Specification 03, section 4.2.)
type SuspendOptions struct {
	// Reason is why it waits, default waiting_for_signal.
	Reason SuspendReason
	// Condition says when the wait is over. Required.
	Condition ResumeCondition
	// Timeout, from the store's now, or TimeoutAt ends the wait as Behavior says;
	// at most one of them. Neither means that of the execution's policy, else
	// none.
	Timeout   time.Duration
	TimeoutAt time.Time
	// Behavior is the policy's by default, else fail.
	Behavior TimeoutBehavior
	// Policy says how the execution resumes; its zero value is the default.
	Policy ResumePolicy
	// Continuation is the handler's own note to itself, at most 4096 bytes: where
	// to go on. [Task.LastSuspension] gives it back after the resume.
	Continuation string
	// IdempotencyKey, at most 256 bytes, makes the suspend repeatable. Without one
	// it is never repeated after a lost answer.
	IdempotencyKey string
	// SuspensionID is minted when empty.
	SuspensionID SuspensionID
	// Pending are the waitpoints made before by [Task.CreatePendingWaitpoint];
	// identifier and key suffice. Every key of the condition that none of them has
	// gets a fresh waitpoint.
	Pending []PendingWaitpoint
	// Waitpoints, when given, are the bindings as they are; then Pending must be
	// empty.
	Waitpoints []WaitpointBinding
}

// OnPending returns the options with pending waitpoints to wait on.
func (o SuspendOptions) OnPending(waitpoints ...*PendingWaitpoint) SuspendOptions {
	o.Pending = slices.Clone(o.Pending)
	for _, w := range waitpoints {
		o.Pending = append(o.Pending, *w)
	}
	return o
}

// args makes the input of the store's Suspend.
func (o SuspendOptions) args(id ExecutionID, fence Fence) (SuspendArgs, error) {
	args := SuspendArgs{
		ExecutionID: id, Fence: fence, SuspensionID: o.SuspensionID, Waitpoints: o.Waitpoints, ResumeCondition: o.Condition,
		ResumePolicy: o.Policy, ReasonCode: o.Reason, TimeoutBehavior: o.Behavior,
		ContinuationMetadataPointer: o.Continuation, IdempotencyKey: o.IdempotencyKey,
	}
	if args.ReasonCode == "" {
		args.ReasonCode = SuspendWaitingForSignal
	}
	if o.Timeout < 0 {
		return args, InvalidInput("timeout_ms", "is %v, must be above 0", o.Timeout).With("reason", "out_of_range")
	}
	if o.Timeout > 0 {
		ms := wholeMs(o.Timeout)
		args.TimeoutMs = &ms
	}
	if !o.TimeoutAt.IsZero() {
		args.TimeoutAt = Millis(max(o.TimeoutAt.UnixMilli(), 1))
	}
	if len(o.Waitpoints) > 0 && len(o.Pending) > 0 {
		return args, InvalidInput("waitpoints", "are given beside pending waitpoints")
	}
	if len(o.Waitpoints) == 0 {
		args.Waitpoints = bindings(o.Condition, o.Pending)
	}
	return args.WithDefaults(), nil
}

// wholeMs is a positive duration in milliseconds, at least one.
func wholeMs(d time.Duration) int64 { return max(d.Milliseconds(), 1) }

// bindings binds the keys of a condition, in depth-first order: each to the
// pending waitpoint that has it, else to a fresh one. A condition without keys
// takes the pending waitpoint, else one fresh waitpoint. What is left of the
// pending ones comes last, for the store to refuse.
func bindings(c ResumeCondition, pending []PendingWaitpoint) []WaitpointBinding {
	var bound []WaitpointBinding
	pending = slices.Clone(pending)
	keys := c.Keys()
	for _, key := range keys {
		b := WaitpointBinding{WaitpointKey: key}
		if i := slices.IndexFunc(pending, func(p PendingWaitpoint) bool { return p.key() == key }); i >= 0 {
			b = WaitpointBinding{WaitpointID: pending[i].WaitpointID, UsePending: true}
			pending = slices.Delete(pending, i, i+1)
		}
		bound = append(bound, b)
	}
	for _, p := range pending {
		bound = append(bound, WaitpointBinding{WaitpointID: p.WaitpointID, UsePending: true})
	}
	if len(bound) == 0 && (c.Kind == ConditionOperatorOnly || c.Kind == ConditionTimeoutOnly) {
		bound = append(bound, WaitpointBinding{})
	}
	return bound
}

// key returns the waitpoint's key, the default one when none is given.
func (p *PendingWaitpoint) key() string {
	if p.WaitpointKey == "" {
		return DefaultWaitpointKeyStart + string(p.WaitpointID)
	}
	return p.WaitpointKey
}

// Suspended is a wait that has begun. Its tokens are shown here and nowhere else
// afterwards but to operators; [WaitpointToken.Reveal] gives their real value.
type Suspended struct {
	// Handle, of kind suspended, is good for [Worker.ObserveSignals].
	Handle       TaskHandle
	SuspensionID SuspensionID
	// Waitpoints are in the order of the keys in the condition; the first is the
	// primary one.
	Waitpoints []BoundWaitpoint
	// Replayed tells that the answer is that to an earlier call with the same
	// idempotency key.
	Replayed bool
}

// Waitpoint returns the waitpoint with a key and whether there is one.
func (s *Suspended) Waitpoint(key string) (BoundWaitpoint, bool) {
	for _, w := range s.Waitpoints {
		if w.WaitpointKey == key {
			return w, true
		}
	}
	return BoundWaitpoint{}, false
}

// TrySuspendResult is how a lenient suspend ended.
type TrySuspendResult struct {
	SuspensionID SuspensionID
	// Suspended is nil when signals that came before met the condition already:
	// then the lease is kept and the task stays usable.
	Suspended *Suspended
	// Signals are, when Suspended is nil, those that met the condition. They are
	// also what [Task.ResumeSignals] returns from then on.
	Signals []ResumeSignal
}

// tried makes the result of a suspend by a handle.
func tried(h TaskHandle, answer SuspendResult, err error) (TrySuspendResult, error) {
	if err != nil {
		return TrySuspendResult{}, err
	}
	r := TrySuspendResult{SuspensionID: answer.SuspensionID, Signals: answer.Signals}
	if answer.Outcome == SuspendSuspended {
		r.Signals = nil
		r.Suspended = &Suspended{
			Handle: h.suspended(answer.SuspensionID), SuspensionID: answer.SuspensionID,
			Waitpoints: answer.Waitpoints, Replayed: answer.Replayed,
		}
	}
	return r, nil
}

// suspend makes the call. Only one with an idempotency key is repeated after a
// transport error.
func (w *Worker) suspend(ctx context.Context, args SuspendArgs) (SuspendResult, error) {
	call := func(ctx context.Context) (SuspendResult, error) {
		r, err := w.backend.Suspend(ctx, args)
		if err == nil && r.Outcome != SuspendSuspended && r.Outcome != SuspendAlreadySatisfied {
			err = NewError(CodeInternal, "a suspend ended as %q", clip(string(r.Outcome), 40))
		}
		return r, err
	}
	if args.IdempotencyKey == "" {
		return call(ctx)
	}
	return retry(ctx, w.clock, call)
}

// Suspend gives the lease up and waits for the condition. It is the strict form:
// signals that came before, on a pending waitpoint, and meet the condition
// already make it the error already_satisfied (class already_done, detail
// suspension_id). The task then stays usable and [Task.ResumeSignals] returns
// the signals; [Task.TrySuspend] gives them at once and without an error.
//
// Once suspended the task is over: renewal stops, the permit is given back, and
// a further change is task_consumed. The same attempt continues later with a new
// claim, of kind resume, on any worker. After an error, whichever, the task is
// still live; when the answer may have been lost the lease may be gone all the
// same, which the next renewal or call tells. Without an idempotency key the
// call is never repeated by itself. Errors: those of [Suspensions].
func (t *Task) Suspend(ctx context.Context, o SuspendOptions) (*Suspended, error) {
	r, err := t.TrySuspend(ctx, o)
	if err != nil {
		return nil, err
	}
	if r.Suspended == nil {
		return nil, NewError(CodeAlreadySatisfied, "signals that came before meet the condition").
			With("execution_id", string(t.claimed.ExecutionID)).With("suspension_id", string(r.SuspensionID))
	}
	return r.Suspended, nil
}

// TrySuspend is the lenient form of [Task.Suspend]: a condition that is met
// already is no error but a result without Suspended, and the task stays usable.
func (t *Task) TrySuspend(ctx context.Context, o SuspendOptions) (TrySuspendResult, error) {
	args, err := o.args(t.claimed.ExecutionID, t.claimed.Fence)
	if err != nil {
		return TrySuspendResult{}, err
	}
	held := t.Handle()
	answer, err := t.suspend(ctx, args)
	return tried(held, answer, err)
}

// suspend makes the call for a task, which ends only when it is suspended.
func (t *Task) suspend(ctx context.Context, args SuspendArgs) (SuspendResult, error) {
	held := t.Handle()
	if err := t.begin(); err != nil {
		return SuspendResult{}, err
	}
	defer t.ending.Add(-1)
	answer, err := t.worker.suspend(ctx, args.WithDefaults())
	if err == nil && answer.Outcome == SuspendSuspended {
		left := held.suspended(answer.SuspensionID)
		t.waits.Store(&left)
		t.spend(false)
	}
	return answer, err
}

// CreatePendingWaitpoint makes an address for signals before the task suspends,
// so that what answers faster than the task suspends is not lost: its signals
// are kept until the task suspends with [SuspendOptions.OnPending]. The key
// names the waitpoint in conditions, "" for one made of its identifier; the
// waitpoint lives for ttl unless the task suspends on it. The task goes on as
// before. Errors: those of [Waitpoints].
func (t *Task) CreatePendingWaitpoint(ctx context.Context, key string, ttl time.Duration) (*PendingWaitpoint, error) {
	if t.spent.Load() {
		return nil, t.consumed()
	}
	if ttl <= 0 {
		return nil, InvalidInput("expires_in_ms", "is %v, must be above 0", ttl).With("reason", "out_of_range")
	}
	args := CreatePendingWaitpointArgs{
		ExecutionID: t.claimed.ExecutionID, Fence: t.claimed.Fence, WaitpointKey: key, ExpiresInMs: wholeMs(ttl),
	}.WithDefaults()
	made, err := retry(ctx, t.worker.clock, func(ctx context.Context) (PendingWaitpoint, error) {
		return t.worker.backend.CreatePendingWaitpoint(ctx, args)
	})
	if err != nil {
		return nil, err
	}
	return &made, nil
}

// CloseWaitpoint closes a pending waitpoint the task will not suspend on. The
// reason is at most 256 bytes, "" for proactive_close. Errors: those of
// [Waitpoints].
func (t *Task) CloseWaitpoint(ctx context.Context, id WaitpointID, reason string) (CloseWaitpointOutcome, error) {
	if t.spent.Load() {
		return "", t.consumed()
	}
	return retry(ctx, t.worker.clock, func(ctx context.Context) (CloseWaitpointOutcome, error) {
		return t.worker.backend.CloseWaitpoint(ctx, CloseWaitpointArgs{
			ExecutionID: t.claimed.ExecutionID, WaitpointID: id, Fence: t.claimed.Fence, Source: SourceLeaseHolder, Reason: reason,
		})
	})
}

// ResumeSignals returns the signals that ended the attempt's last suspension, in
// the order they were accepted; the last may be that of the timeout, see
// [ResumeSignal.TimedOut]. It is empty when the attempt has never waited, or
// when an operator ended the wait. It is a read: it may be repeated, and works
// on a task that is over.
func (t *Task) ResumeSignals(ctx context.Context) ([]ResumeSignal, error) {
	return t.worker.ObserveSignals(ctx, t.Handle())
}

// LastSuspension returns the attempt's last suspension, nil when the attempt has
// never waited: its continuation pointer, why it closed, and how far its
// condition had come.
func (t *Task) LastSuspension(ctx context.Context) (*Suspension, error) {
	s, err := retry(ctx, t.worker.clock, func(ctx context.Context) (*Suspension, error) {
		return t.worker.backend.GetSuspension(ctx, t.claimed.ExecutionID)
	})
	if err != nil || s == nil || s.AttemptID != t.claimed.AttemptID {
		return nil, err
	}
	return s, nil
}
