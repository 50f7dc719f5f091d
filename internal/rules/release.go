package rules

import (
	"github.com/flowfabric/flowfabric"
)

// leaseBound makes the checks of specification 01, section 6, from step 4 on:
// receipt, phase, revocation, lapse, fence. A receipt that answers the call is
// returned. An overdue lease is marked in the same step, unless mark is false.
// op is empty for operations without receipts.
func leaseBound(s *State, f flowfabric.Fence, op flowfabric.ReceiptOp, now flowfabric.Millis, mark bool) (*flowfabric.ReleaseReceipt, Effects, error) {
	e := &s.Exec
	fenced := !f.Empty()
	if fenced && op != "" && receiptMatches(s, f, op) {
		return e.ReleaseReceipt, Effects{}, nil
	}
	if e.LifecyclePhase != flowfabric.PhaseActive {
		return nil, Effects{}, notActive(e)
	}
	switch e.OwnershipState {
	case flowfabric.OwnershipLeaseRevoked:
		return nil, Effects{}, leaseRevoked(e)
	case flowfabric.OwnershipLeaseExpired:
		return nil, Effects{}, leaseExpired(e)
	}
	if e.LeaseExpiresAt <= now {
		refusal := leaseExpired(e)
		if !mark {
			return nil, Effects{}, refusal
		}
		fx := markLapsed(s, now)
		if fx.Err != nil {
			return nil, Effects{}, fx.Err
		}
		return nil, fx, refusal
	}
	if fenced && !fenceFits(s, f) {
		return nil, Effects{}, staleLease(e)
	}
	return nil, Effects{}, nil
}

// fenceFits reports whether all of the fence names the current lease and attempt.
func fenceFits(s *State, f flowfabric.Fence) bool {
	e := &s.Exec
	if f.LeaseID != e.CurrentLeaseID || f.LeaseEpoch != e.CurrentLeaseEpoch || f.AttemptID != e.CurrentAttemptID {
		return false
	}
	return f.AttemptIndex == nil || s.Attempt != nil && *f.AttemptIndex == s.Attempt.AttemptIndex
}

// receiptMatches reports whether the last release was made by exactly this call:
// same triple, same operation, made by the lease holder; a cancel answers to a
// cancel from any source. (Specification 01, section 7.)
func receiptMatches(s *State, f flowfabric.Fence, op flowfabric.ReceiptOp) bool {
	r := s.Exec.ReleaseReceipt
	if r == nil || r.Op != op || r.LeaseID != f.LeaseID || r.LeaseEpoch != f.LeaseEpoch || r.AttemptID != f.AttemptID {
		return false
	}
	if op != flowfabric.ReceiptCancel && r.Source != flowfabric.SourceLeaseHolder {
		return false
	}
	if f.AttemptIndex == nil || s.Attempt == nil {
		return true
	}
	switch {
	case s.Attempt.AttemptID == r.AttemptID:
		return *f.AttemptIndex == s.Attempt.AttemptIndex
	case r.RetryScheduled:
		return *f.AttemptIndex+1 == r.NextAttemptIndex
	}
	return *f.AttemptIndex < s.Attempt.AttemptIndex
}

func notActive(e *flowfabric.Execution) error {
	return flowfabric.NewError(flowfabric.CodeExecutionNotActive, "execution is %s", e.PublicState).
		With("terminal_outcome", string(e.TerminalOutcome)).
		With("lease_epoch", e.CurrentLeaseEpoch).
		With("lifecycle_phase", string(e.LifecyclePhase)).
		With("attempt_id", string(e.CurrentAttemptID))
}

func leaseExpired(e *flowfabric.Execution) error {
	return flowfabric.NewError(flowfabric.CodeLeaseExpired, "the lease expired at %d", e.LeaseExpiresAt).
		With("lease_epoch", e.CurrentLeaseEpoch)
}

func leaseRevoked(e *flowfabric.Execution) error {
	return flowfabric.NewError(flowfabric.CodeLeaseRevoked, "the lease was revoked: %s", e.LeaseRevokeReason).
		With("lease_epoch", e.CurrentLeaseEpoch)
}

func staleLease(e *flowfabric.Execution) error {
	return flowfabric.NewError(flowfabric.CodeStaleLease, "the fence does not name the current lease and attempt").
		With("lease_epoch", e.CurrentLeaseEpoch)
}

// release gives the lease up: released event, receipt, empty mirror, admissions
// owed. The new receipt is returned for the operation's result; it is nil when
// no lease is shown, neither valid nor lapsed nor revoked. The vector is the
// caller's to set.
func (t *step) release(op flowfabric.ReceiptOp, src flowfabric.Source, reason string) *flowfabric.ReleaseReceipt {
	e := &t.s.Exec
	receipt := &flowfabric.ReleaseReceipt{
		Op: op, Source: src, LeaseID: e.CurrentLeaseID, LeaseEpoch: e.CurrentLeaseEpoch, AttemptID: e.CurrentAttemptID,
	}
	if !t.giveUp(reason) {
		return nil
	}
	e.ReleaseReceipt = receipt
	return receipt
}

// giveUp is release without a receipt; it reports whether there was a lease to
// give up.
func (t *step) giveUp(reason string) bool {
	e := &t.s.Exec
	t.owe()
	e.AttemptTimeoutAt = 0
	if e.CurrentLeaseID == "" {
		return false
	}
	t.leaseEvent(flowfabric.EventReleased).Reason = reason
	e.OwnershipState = flowfabric.OwnershipUnowned
	e.CurrentLeaseID, e.CurrentWorkerID, e.CurrentWorkerInstanceID = "", "", ""
	e.LeaseAcquiredAt, e.LeaseExpiresAt, e.LeaseLastRenewedAt, e.LeaseRenewalDeadline = 0, 0, 0, 0
	t.s.Lease = LeaseDetail{}
	return true
}

// owe moves the admissions that grant or lease hold to the outbox.
func (t *step) owe() {
	e := &t.s.Exec
	if len(e.AdmissionRefs) == 0 {
		return
	}
	t.fx.Owed = append(t.fx.Owed, e.AdmissionRefs...)
	e.AdmissionRefs = nil
}

// dropGrant ends a grant that has not been acted upon, as the execution ends or
// leaves the state it was issued for. The record stays, so that its holder
// learns what happened.
func (t *step) dropGrant() {
	if t.s.Grant == nil || t.s.Grant.Lapsed {
		return
	}
	kept := *t.s.Grant
	kept.Lapsed = true
	t.s.Grant = &kept
	t.owe()
}

// attemptEnd is how an attempt ends.
type attemptEnd struct {
	state    flowfabric.AttemptState
	reason   string
	category string
	override bool
	stream   string
}

// endAttempt makes the running or paused attempt final and closes its stream. An
// attempt that has ended is never rewritten.
func (t *step) endAttempt(end attemptEnd) {
	s := t.s
	if s.Attempt == nil || s.Attempt.Final() {
		return
	}
	a := *s.Attempt
	a.AttemptState = end.state
	a.EndedAt = t.now
	a.SuspendedAt, a.PauseKind, a.SuspensionID, a.TimeoutRemainingMs = 0, "", "", nil
	a.FailureReason, a.FailureCategory = end.reason, end.category
	a.TerminalizedByOverride = end.override
	s.Attempt = &a
	t.fx.StreamClosed, t.fx.StreamAttempt = end.stream, a.AttemptIndex
}

// end makes the execution terminal, once attempt and lease are dealt with and
// the failure or cancellation fields are set. waits is the reason with which an
// open suspension closes. It returns the completion event.
func (t *step) end(outcome flowfabric.TerminalOutcome, cause string, waits flowfabric.SuspensionCloseReason) *flowfabric.Event {
	e := &t.s.Exec
	t.dropGrant()
	t.owe()
	t.endWaits(waits)
	e.LifecyclePhase = flowfabric.PhaseTerminal
	e.OwnershipState = flowfabric.OwnershipUnowned
	e.EligibilityState = flowfabric.EligibilityNotApplicable
	e.BlockingReason = flowfabric.ReasonNone
	e.TerminalOutcome = outcome
	switch {
	case e.TotalAttemptCount > 0:
		e.AttemptState = flowfabric.AttemptTerminal
	case outcome == flowfabric.OutcomeSkipped:
		e.AttemptState = flowfabric.AttemptNone
	}
	t.unblock()
	e.DelayUntil, e.AttemptTimeoutAt = 0, 0
	clearLoss(e)
	e.CompletedAt = t.now
	e.PurgeAfter = addMs(t.now, RetentionMs(t.s.Policy))
	e.TerminalSeq++
	return t.completion(cause)
}

// unblock empties what tells why the execution does not run.
func (t *step) unblock() {
	e := &t.s.Exec
	e.BlockingDetail, e.BlockingRef, e.BlockedUntil, e.BlockedSince = "", "", 0, 0
}

// clearLoss empties what a lapse or revocation left.
func clearLoss(e *flowfabric.Execution) {
	e.LeaseExpiredAt, e.LeaseRevokedAt, e.LeaseRevokeReason = 0, 0, ""
	e.ReclaimHold, e.ReclaimNotBefore = false, 0
}

// makeEligible puts a runnable execution where claimers see it.
func (t *step) makeEligible() {
	e := &t.s.Exec
	e.LifecyclePhase = flowfabric.PhaseRunnable
	e.OwnershipState = flowfabric.OwnershipUnowned
	e.EligibilityState = flowfabric.EligibleNow
	e.BlockingReason = flowfabric.ReasonWaitingForWorker
	t.unblock()
	e.DelayUntil = 0
	t.fx.Offered = true
}

// makeDelayed puts a runnable execution off until an instant.
func (t *step) makeDelayed(until flowfabric.Millis, reason flowfabric.BlockingReason, detail string) {
	e := &t.s.Exec
	e.LifecyclePhase = flowfabric.PhaseRunnable
	e.OwnershipState = flowfabric.OwnershipUnowned
	e.EligibilityState = flowfabric.NotEligibleUntilTime
	e.BlockingReason = reason
	t.unblock()
	e.BlockingDetail = detail
	e.DelayUntil = until
}
