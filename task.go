package flowfabric

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"
)

// ErrAttemptTimeout and ErrExecutionDeadline are causes of a task's context: the
// time of the attempt, or of the whole execution, is over by the worker's own
// estimate. The engine ends the attempt; a completion that reaches the store
// first still stands. Both wrap context.DeadlineExceeded. (Specification 01,
// section 5.2.)
var (
	ErrAttemptTimeout    = fmt.Errorf("flowfabric: attempt timeout: %w", context.DeadlineExceeded)
	ErrExecutionDeadline = fmt.Errorf("flowfabric: execution deadline: %w", context.DeadlineExceeded)
)

// Task is one claimed attempt of an execution, with a permit of its worker and a
// lease that the worker renews. It is spent by the first definite answer of the
// store to Complete, Fail, Cancel or Delay, success or refusal, by a Suspend that
// succeeds, or by Abandon; any further change is then task_consumed without a
// call. After a transport error it is not spent, the renewals go on, and the same call may be repeated:
// a repeat whose first answer was lost gets that answer. (Specification 02,
// section 6; 08, section 5.4.)
type Task struct {
	worker  *Worker
	claimed ClaimedExecution
	ctx     context.Context
	cancel  context.CancelCauseFunc
	// managed tells that the worker's loop runs the task and ends its context.
	managed bool
	spent   atomic.Bool
	ending  atomic.Int32               // calls under way that may end it
	waits   atomic.Pointer[TaskHandle] // what is left of it once suspended
	renewal renewal
}

// newTask makes a task of a claim. The caller has a permit reserved for it. The
// base is the local time at which the lease began at the latest known instant.
func (w *Worker) newTask(parent context.Context, claimed ClaimedExecution, base time.Time, managed bool) *Task {
	t := &Task{worker: w, claimed: claimed, managed: managed}
	w.mu.Lock()
	if w.leases[claimed.Fence.LeaseID] != nil { // adopted before its answer came
		w.mu.Unlock()
		return nil
	}
	w.leases[claimed.Fence.LeaseID] = t
	w.mu.Unlock()
	t.ctx, t.cancel = context.WithCancelCause(parent)
	remaining := w.config.LeaseTTL
	if claimed.StoreTime != 0 && claimed.LeaseExpiresAt != 0 {
		remaining = min(remaining, millis(claimed.LeaseExpiresAt-claimed.StoreTime))
	}
	s := &t.renewal
	s.expiresAt = claimed.LeaseExpiresAt
	s.deadline = base.Add(remaining)
	s.renewAt = w.clock.Now().Add(remaining / renewalsPerTTL)
	t.setTimeout(claimed.AttemptTimeoutAt, base, ErrAttemptTimeout)
	t.setTimeout(claimed.ExecutionDeadlineAt, base, ErrExecutionDeadline)
	w.renewer.add(t)
	return t
}

// setTimeout arms the earlier of the instants it is given, by the store's clock
// at the claim.
func (t *Task) setTimeout(at Millis, base time.Time, cause error) {
	if at == 0 || t.claimed.StoreTime == 0 {
		return
	}
	local := base.Add(millis(at - t.claimed.StoreTime))
	if s := &t.renewal; s.timeoutAt.IsZero() || local.Before(s.timeoutAt) {
		s.timeoutAt, s.timeout = local, cause
	}
}

func millis(m Millis) time.Duration { return time.Duration(m) * time.Millisecond }

// ExecutionID returns the execution's identifier.
func (t *Task) ExecutionID() ExecutionID { return t.claimed.ExecutionID }

// AttemptIndex returns the index of the attempt, from 0.
func (t *Task) AttemptIndex() uint32 { return t.claimed.AttemptIndex }

// AttemptID returns the attempt's identifier.
func (t *Task) AttemptID() AttemptID { return t.claimed.AttemptID }

// AttemptType says why the attempt was made.
func (t *Task) AttemptType() AttemptType { return t.claimed.AttemptType }

// ClaimKind says whether the claim started, resumed or took over an attempt.
func (t *Task) ClaimKind() ClaimKind { return t.claimed.ClaimKind }

// LaneID returns the execution's lane.
func (t *Task) LaneID() LaneID { return t.claimed.LaneID }

// Namespace returns the execution's namespace.
func (t *Task) Namespace() Namespace { return t.claimed.Namespace }

// Kind returns the execution kind.
func (t *Task) Kind() string { return t.claimed.Kind }

// FlowID returns the flow the execution belongs to, "" for none.
func (t *Task) FlowID() FlowID { return t.claimed.FlowID }

// Payload returns the input. It must not be modified.
func (t *Task) Payload() []byte { return t.claimed.Payload }

// PayloadEncoding returns the input's encoding hint.
func (t *Task) PayloadEncoding() string { return t.claimed.PayloadEncoding }

// Tags returns the tags at the claim. The map must not be modified.
func (t *Task) Tags() map[string]string { return t.claimed.Tags }

// PolicySnapshot returns what the attempt froze of policy and route.
func (t *Task) PolicySnapshot() PolicySnapshot { return t.claimed.PolicySnapshot }

// LeaseReclaimCount returns how often the execution was taken over.
func (t *Task) LeaseReclaimCount() uint32 { return t.claimed.LeaseReclaimCount }

// WorkerInstanceID returns the instance that holds the lease.
func (t *Task) WorkerInstanceID() WorkerInstanceID { return t.claimed.WorkerInstanceID }

// Fence returns the proof of ownership that every write carries.
func (t *Task) Fence() Fence { return t.claimed.Fence }

// LeaseExpiresAt returns the last confirmed end of the lease, store time.
func (t *Task) LeaseExpiresAt() Millis {
	t.worker.renewer.mu.Lock()
	defer t.worker.renewer.mu.Unlock()
	return t.renewal.expiresAt
}

// AttemptTimeoutAt returns when the attempt times out, store time; 0 for never.
func (t *Task) AttemptTimeoutAt() Millis { return t.claimed.AttemptTimeoutAt }

// ExecutionDeadlineAt returns the execution's deadline, store time; 0 for none.
func (t *Task) ExecutionDeadlineAt() Millis { return t.claimed.ExecutionDeadlineAt }

// Replayed reports that the claim repeated an earlier one of the same lease.
func (t *Task) Replayed() bool { return t.claimed.Replayed }

// StoreTime returns the store's time at the claim.
func (t *Task) StoreTime() Millis { return t.claimed.StoreTime }

// Context returns the context in which the task's work must run. It is cancelled
// with a cause: stale_lease, lease_expired, lease_revoked, execution_not_active
// or execution_not_found when the lease is lost, [ErrAttemptTimeout] or
// [ErrExecutionDeadline] when the time is over, shutting_down when the worker
// drains. Once the task is over it ends with task_consumed.
func (t *Task) Context() context.Context { return t.ctx }

// LeaseHealthy reports whether the lease is believed to be held: false after a
// definite loss, at 3 failed renewals in a row, or past the last confirmed
// expiry.
func (t *Task) LeaseHealthy() bool {
	r := t.worker.renewer
	r.mu.Lock()
	defer r.mu.Unlock()
	s := &t.renewal
	return s.lost == nil && s.failures < unhealthyFailures && s.deadline.After(r.clock.Now())
}

// RenewalFailures returns how many renewals have failed in a row.
func (t *Task) RenewalFailures() int {
	t.worker.renewer.mu.Lock()
	defer t.worker.renewer.mu.Unlock()
	return t.renewal.failures
}

// lost returns why the lease is gone, nil while it may be held.
func (t *Task) lost() error {
	t.worker.renewer.mu.Lock()
	defer t.worker.renewer.mu.Unlock()
	return t.renewal.lost
}

// busy reports whether the task is over or about to be.
func (t *Task) busy() bool { return t.spent.Load() || t.ending.Load() > 0 }

func (t *Task) renewArgs() RenewLeaseArgs {
	return RenewLeaseArgs{
		ExecutionID: t.claimed.ExecutionID,
		Fence:       t.claimed.Fence,
		LeaseTTLMs:  t.worker.config.LeaseTTL.Milliseconds(),
	}
}

func (t *Task) consumed() error {
	return NewError(CodeTaskConsumed, "the task is over").With("execution_id", string(t.claimed.ExecutionID))
}

// begin refuses a spent task, else notes that a call that may end it is under
// way.
func (t *Task) begin() error {
	if t.spent.Load() {
		return t.consumed()
	}
	t.ending.Add(1)
	return nil
}

// end takes the answer to such a call: a definite one spends the task.
func (t *Task) end(err error) {
	if err == nil || definite(err) {
		t.spend(false)
	}
	t.ending.Add(-1)
}

// spend ends the task, once: renewal stops and the permit is given back. It
// reports whether this call did it. The lease lives on when nobody ended it.
func (t *Task) spend(leaseLives bool) bool {
	if !t.spent.CompareAndSwap(false, true) {
		return false
	}
	t.worker.renewer.remove(t)
	t.worker.forget(t, leaseLives)
	if !t.managed {
		t.cancel(ErrTaskConsumed)
	}
	t.worker.give(1)
	return true
}

// Complete ends the execution with success. A nil result stores none. Errors:
// payload_too_large above 1,048,576 bytes, found before any call; those of
// specification 01, section 6.
func (t *Task) Complete(ctx context.Context, result []byte) error {
	return t.CompleteEncoded(ctx, result, "")
}

// CompleteEncoded is Complete with a hint of at most 64 bytes on how the result
// is encoded; "" means "json".
func (t *Task) CompleteEncoded(ctx context.Context, result []byte, encoding string) error {
	if len(result) > MaxPayloadBytes {
		return NewError(CodePayloadTooLarge, "result of %d bytes, limit %d", len(result), MaxPayloadBytes).
			With("limit_bytes", MaxPayloadBytes)
	}
	if len(encoding) > MaxEncodingBytes {
		return InvalidInput("result_encoding", "is %d bytes, limit %d", len(encoding), MaxEncodingBytes)
	}
	if err := t.begin(); err != nil {
		return err
	}
	args := CompleteExecutionArgs{
		ExecutionID: t.claimed.ExecutionID, Fence: t.claimed.Fence, Source: SourceLeaseHolder,
		Result: result, ResultEncoding: encoding,
	}
	_, err := t.worker.completer.do(ctx, args)
	if autoRetryable(err) {
		err = t.completeAgain(ctx, args, err)
	}
	t.end(err)
	return err
}

// completeAgain makes the automatic retries of a completion. It stands apart so
// that one that succeeds at once allocates nothing for them.
func (t *Task) completeAgain(ctx context.Context, args CompleteExecutionArgs, err error) error {
	_, err = retryAfter(ctx, t.worker.clock, err, func(ctx context.Context) (CompleteExecutionResult, error) {
		return t.worker.completer.do(ctx, args)
	})
	return err
}

// Fail ends the attempt with a failure, which the execution's policy turns into
// a retry or into the end. The reason is cut at 4096 bytes. The category is
// [a-z0-9][a-z0-9_.-]{0,63}, "" for "transient"; another is invalid_input,
// found before any call.
func (t *Task) Fail(ctx context.Context, reason, category string) (FailOutcome, error) {
	if category != "" && !validCategory(category) {
		return "", InvalidInput("category", "%q is no failure category", clip(category, 80))
	}
	if err := t.begin(); err != nil {
		return "", err
	}
	result, err := retry(ctx, t.worker.clock, func(ctx context.Context) (FailExecutionResult, error) {
		return t.worker.backend.FailExecution(ctx, FailExecutionArgs{
			ExecutionID: t.claimed.ExecutionID, Fence: t.claimed.Fence, Source: SourceLeaseHolder,
			Reason: cutText(reason, MaxReasonBytes), Category: category,
		})
	})
	t.end(err)
	return result.Outcome, err
}

// Cancel ends the execution as cancelled. The reason is cut at 4096 bytes.
func (t *Task) Cancel(ctx context.Context, reason string) error {
	if err := t.begin(); err != nil {
		return err
	}
	_, err := retry(ctx, t.worker.clock, func(ctx context.Context) (CancelExecutionResult, error) {
		return t.worker.backend.CancelExecution(ctx, CancelExecutionArgs{
			ExecutionID: t.claimed.ExecutionID, Fence: t.claimed.Fence, Source: SourceLeaseHolder,
			Reason: cutText(reason, MaxReasonBytes), RequestedBy: string(t.worker.config.WorkerID),
		})
	})
	t.end(err)
	return err
}

// Delay gives the execution back until an instant of the store's clock: the
// attempt pauses and is resumed later. An instant in the past is resumed at
// once.
func (t *Task) Delay(ctx context.Context, until time.Time) error {
	return t.delay(ctx, DelayExecutionArgs{DelayUntil: Millis(max(until.UnixMilli(), 1))})
}

// DelayFor is Delay by a duration from the store's now; a negative one counts
// as 0.
func (t *Task) DelayFor(ctx context.Context, d time.Duration) error {
	ms := max(d.Milliseconds(), 0)
	return t.delay(ctx, DelayExecutionArgs{DelayMs: &ms})
}

func (t *Task) delay(ctx context.Context, args DelayExecutionArgs) error {
	if err := t.begin(); err != nil {
		return err
	}
	args.ExecutionID, args.Fence, args.Source = t.claimed.ExecutionID, t.claimed.Fence, SourceLeaseHolder
	_, err := retry(ctx, t.worker.clock, func(ctx context.Context) (DelayExecutionResult, error) {
		return t.worker.backend.DelayExecution(ctx, args)
	})
	t.end(err)
	return err
}

// UpdateProgress records how far the work is: pct 0..100, -1 to leave it as it
// is, and a message of at most 4096 bytes, "" to leave it as it is. It neither
// renews the lease nor spends the task.
func (t *Task) UpdateProgress(ctx context.Context, pct int, message string) error {
	if t.spent.Load() {
		return t.consumed()
	}
	if pct < -1 || pct > 100 {
		return InvalidInput("progress_pct", "is %d, must be 0..100", pct)
	}
	args := UpdateProgressArgs{ExecutionID: t.claimed.ExecutionID, Fence: t.claimed.Fence}
	if value := int32(pct); value >= 0 {
		args.Pct = &value
	}
	if message != "" {
		args.Message = &message
	}
	_, err := retry(ctx, t.worker.clock, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, t.worker.backend.UpdateProgress(ctx, args)
	})
	return err
}

// RenewLease renews the lease now, beside the renewals the worker makes by
// itself.
func (t *Task) RenewLease(ctx context.Context) error {
	if t.spent.Load() {
		return t.consumed()
	}
	return t.worker.renewer.renewNow(ctx, t)
}

// AbandonOption changes what [Task.Abandon] does.
type AbandonOption func(*abandonment)

type abandonment struct{ revoke bool }

// RevokeOnAbandon revokes the lease at once, so that another worker need not
// wait for it to lapse.
func RevokeOnAbandon() AbandonOption { return func(a *abandonment) { a.revoke = true } }

// Abandon drops the task without ending its attempt: renewal stops, the permit
// is given back, and the lease is left to expire or, by option, revoked; then
// the execution is taken over. It does nothing on a spent task. The error is
// that of the revocation.
func (t *Task) Abandon(ctx context.Context, options ...AbandonOption) error {
	var how abandonment
	for _, option := range options {
		option(&how)
	}
	if !t.spend(true) {
		return nil
	}
	t.worker.log.Warn("task abandoned", "execution_id", t.claimed.ExecutionID,
		"attempt_index", t.claimed.AttemptIndex, "revoke", how.revoke)
	if !how.revoke {
		return nil
	}
	return t.worker.revoke(ctx, t.claimed.ExecutionID, t.claimed.Fence.LeaseID)
}

// revoke gives an own lease up.
func (w *Worker) revoke(ctx context.Context, id ExecutionID, lease LeaseID) error {
	_, err := retry(ctx, w.clock, func(ctx context.Context) (RevokeLeaseResult, error) {
		return w.backend.RevokeLease(ctx, RevokeLeaseArgs{
			ExecutionID: id, ExpectedLeaseID: lease, Reason: "worker_abandoned", RevokedBy: "worker",
		})
	})
	if errors.Is(err, ErrExecutionNotActive) || IsNotFound(err) || IsStaleOwner(err) {
		return nil // nothing left to revoke
	}
	return err
}
