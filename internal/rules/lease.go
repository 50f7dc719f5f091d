package rules

import (
	"github.com/flowfabric/flowfabric"
)

// ValidateRenew checks the input of a renewal.
func ValidateRenew(a flowfabric.RenewLeaseArgs) error {
	if err := validateID(a.ExecutionID); err != nil {
		return err
	}
	return validateRenew(&a)
}

func validateRenew(a *flowfabric.RenewLeaseArgs) error {
	if a.LeaseTTLMs != 0 {
		if err := validateLeaseTTL(a.LeaseTTLMs); err != nil {
			return err
		}
	}
	return validateFence(a.Fence, false)
}

// Renew extends the lease to now + ttl; the TTL of the claim or last renewal
// holds when none is given. An overdue lease is marked instead, and the call
// refused with lease_expired. (Specification 02, section 4.1.)
func Renew(s *State, a flowfabric.RenewLeaseArgs, now flowfabric.Millis) (flowfabric.RenewLeaseResult, Effects, error) {
	var none flowfabric.RenewLeaseResult
	if err := validateRenew(&a); err != nil {
		return none, Effects{}, err
	}
	if _, fx, err := leaseBound(s, a.Fence, "", now, true); err != nil {
		return none, fx, err
	}
	ttl := a.LeaseTTLMs
	if ttl == 0 {
		ttl = s.Lease.TTLMs
	}
	if ttl == 0 {
		ttl = flowfabric.DefaultLeaseTTLMs
	}
	t := begin(s, now)
	s.Lease.TTLMs = ttl
	t.extend(ttl)
	fx, err := t.finish()
	if err != nil {
		return none, fx, err
	}
	return flowfabric.RenewLeaseResult{LeaseEpoch: s.Exec.CurrentLeaseEpoch, ExpiresAt: s.Exec.LeaseExpiresAt}, fx, nil
}

// extend writes the instants of a lease taken or renewed now.
func (t *step) extend(ttl int64) {
	e := &t.s.Exec
	e.LeaseLastRenewedAt = t.now
	e.LeaseExpiresAt = t.now + flowfabric.Millis(ttl)
	e.LeaseRenewalDeadline = t.now + flowfabric.Millis(2*ttl/3)
}

// MarkLeaseExpired makes a lapse visible; it acts only on an active execution
// whose lease is past its expiry. The reason execution_not_found is the store's
// to give. (Specification 02, section 4.2.)
func MarkLeaseExpired(s *State, now flowfabric.Millis) (flowfabric.MarkLeaseExpiredResult, Effects) {
	satisfied := func(reason string) (flowfabric.MarkLeaseExpiredResult, Effects) {
		return flowfabric.MarkLeaseExpiredResult{Outcome: flowfabric.UpkeepAlreadySatisfied, Reason: reason}, Effects{}
	}
	e := &s.Exec
	switch {
	case e.LifecyclePhase != flowfabric.PhaseActive:
		return satisfied("not_active")
	case e.OwnershipState == flowfabric.OwnershipLeaseExpired:
		return satisfied("already_expired")
	case e.OwnershipState == flowfabric.OwnershipLeaseRevoked:
		return satisfied("already_revoked")
	case e.LeaseExpiresAt > now:
		return satisfied("not_yet_expired")
	}
	return flowfabric.MarkLeaseExpiredResult{Outcome: flowfabric.UpkeepMarkedExpired}, markLapsed(s, now)
}

// markLapsed takes an active execution from leased to lapsed. The mirror is kept
// for diagnosis, and the attempt record stays started.
func markLapsed(s *State, now flowfabric.Millis) Effects {
	t := begin(s, now)
	e := &s.Exec
	t.leaseEvent(flowfabric.EventExpired)
	t.lose(flowfabric.OwnershipLeaseExpired, detailAwaitReclaim, reasonLeaseExpired)
	e.LeaseExpiredAt = now
	t.fx.Offered = true
	return t.settle()
}

// lose takes the lease away from its holder without ending the attempt.
func (t *step) lose(ownership flowfabric.OwnershipState, detail, stream string) {
	e := &t.s.Exec
	e.OwnershipState = ownership
	e.AttemptState = flowfabric.AttemptInterrupted
	e.BlockingReason = flowfabric.ReasonWaitingForWorker
	e.BlockingDetail = detail
	if t.s.Attempt != nil {
		t.fx.StreamClosed, t.fx.StreamAttempt = stream, t.s.Attempt.AttemptIndex
	}
	t.owe()
}

// ValidateRevoke checks the input of a revocation.
func ValidateRevoke(a flowfabric.RevokeLeaseArgs) error {
	if err := validateID(a.ExecutionID); err != nil {
		return err
	}
	return validateRevoke(&a)
}

func validateRevoke(a *flowfabric.RevokeLeaseArgs) error {
	switch a.RevokedBy {
	case "", revokedByOperator, "worker", "reconciler", "backend":
	default:
		return flowfabric.InvalidInput("revoked_by", "%q is unknown", Cut(a.RevokedBy, 80))
	}
	return validateLine("reason", a.Reason, 0, flowfabric.MaxRevokeReasonBytes)
}

// Revoke takes the lease away now, without ending the execution. With Hold
// nothing reclaims it automatically. (Specification 02, section 4.3.)
func Revoke(s *State, a flowfabric.RevokeLeaseArgs, now flowfabric.Millis) (flowfabric.RevokeLeaseResult, Effects, error) {
	var none flowfabric.RevokeLeaseResult
	if err := validateRevoke(&a); err != nil {
		return none, Effects{}, err
	}
	satisfied := func(reason string) flowfabric.RevokeLeaseResult {
		return flowfabric.RevokeLeaseResult{Outcome: flowfabric.RevokeAlreadySatisfied, Reason: reason}
	}
	e := &s.Exec
	switch {
	case e.LifecyclePhase != flowfabric.PhaseActive:
		return none, Effects{}, notActive(e)
	case e.OwnershipState == flowfabric.OwnershipLeaseRevoked:
		fx, err := holdRevoked(s, a.Hold, now)
		return satisfied("already_revoked"), fx, err
	case e.OwnershipState == flowfabric.OwnershipLeaseExpired:
		return satisfied("already_expired"), Effects{}, nil
	case a.ExpectedLeaseID != "" && a.ExpectedLeaseID != e.CurrentLeaseID:
		return none, Effects{}, staleLease(e)
	case e.LeaseExpiresAt <= now:
		fx := markLapsed(s, now)
		return satisfied("already_expired"), fx, fx.Err
	}
	reason, by := a.Reason, a.RevokedBy
	if reason == "" {
		reason = defaultRevokeReason
	}
	if by == "" {
		by = revokedByOperator
	}
	t := begin(s, now)
	ev := t.leaseEvent(flowfabric.EventRevoked)
	ev.Reason, ev.RevokedBy = reason, by
	t.lose(flowfabric.OwnershipLeaseRevoked, detailRevoked+reason, reasonLeaseRevoked)
	e.LeaseRevokedAt, e.LeaseRevokeReason, e.ReclaimHold = now, reason, a.Hold
	s.Lease.Deleted = true
	t.fx.Offered = !a.Hold
	fx, err := t.finish()
	if err != nil {
		return none, fx, err
	}
	return flowfabric.RevokeLeaseResult{Outcome: flowfabric.RevokeRevoked, LeaseID: e.CurrentLeaseID, LeaseEpoch: e.CurrentLeaseEpoch}, fx, nil
}

// holdRevoked sets the hold on a lease that is revoked already, if asked for and
// missing.
func holdRevoked(s *State, hold bool, now flowfabric.Millis) (Effects, error) {
	if !hold || s.Exec.ReclaimHold {
		return Effects{}, nil
	}
	t := begin(s, now)
	s.Exec.ReclaimHold = true
	return t.finish()
}

// ReleaseHold lets a held execution be reclaimed again; it reports whether a
// hold was there.
func ReleaseHold(s *State, now flowfabric.Millis) (bool, Effects) {
	if !s.Exec.ReclaimHold {
		return false, Effects{}
	}
	t := begin(s, now)
	s.Exec.ReclaimHold = false
	t.fx.Offered = Place(s, now).Offered
	return true, t.settle()
}

// GetLease returns the lease record, else lease_not_found: never claimed,
// released, revoked, or lapsed for more than 60 seconds.
func GetLease(s *State, now flowfabric.Millis) (*flowfabric.Lease, error) {
	e := &s.Exec
	if e.CurrentLeaseID == "" || s.Lease.Deleted || s.Attempt == nil ||
		e.LeaseExpiredAt != 0 && now >= e.LeaseExpiredAt+flowfabric.LeaseHistoryGraceMs {
		return nil, flowfabric.NewError(flowfabric.CodeLeaseNotFound, "execution %s holds no lease", e.ExecutionID)
	}
	l := &flowfabric.Lease{
		ExecutionID: e.ExecutionID, LeaseID: e.CurrentLeaseID, LeaseEpoch: e.CurrentLeaseEpoch,
		AttemptID: s.Attempt.AttemptID, AttemptIndex: s.Attempt.AttemptIndex,
		WorkerID: e.CurrentWorkerID, WorkerInstanceID: e.CurrentWorkerInstanceID, LaneID: e.CurrentLane,
		CapabilityHash: s.Lease.CapabilityHash, ClaimKind: s.Lease.ClaimKind, OwnershipState: e.OwnershipState,
		AcquiredAt: e.LeaseAcquiredAt, LastRenewedAt: e.LeaseLastRenewedAt, ExpiresAt: e.LeaseExpiresAt,
		RenewalDeadline: e.LeaseRenewalDeadline, PreviousLeaseID: s.Lease.PreviousLeaseID,
	}
	if e.OwnershipState == flowfabric.OwnershipLeased {
		l.RemainingMs = max(0, int64(e.LeaseExpiresAt-now))
	}
	return l, nil
}

// Held returns the execution as a task of its present holder, nil when nobody
// holds it. Payload, encoding and store time are the store's to fill.
func Held(s *State) *flowfabric.ClaimedExecution {
	if s.Exec.LifecyclePhase != flowfabric.PhaseActive || s.Exec.OwnershipState != flowfabric.OwnershipLeased || s.Attempt == nil {
		return nil
	}
	task := makeTask(s)
	return &task
}

// makeTask describes the current lease and attempt to its holder.
func makeTask(s *State) flowfabric.ClaimedExecution {
	e, a := &s.Exec, s.Attempt
	return flowfabric.ClaimedExecution{
		ExecutionID: e.ExecutionID, AttemptIndex: a.AttemptIndex, AttemptID: a.AttemptID, AttemptType: a.AttemptType,
		ClaimKind: s.Lease.ClaimKind, LaneID: e.LaneID, Namespace: e.Namespace, Kind: e.Kind, FlowID: e.FlowID,
		Tags: s.Tags, PolicySnapshot: a.PolicySnapshot, LeaseReclaimCount: e.LeaseReclaimCount,
		WorkerInstanceID: e.CurrentWorkerInstanceID,
		Fence:            flowfabric.Fence{LeaseID: e.CurrentLeaseID, LeaseEpoch: e.CurrentLeaseEpoch, AttemptID: a.AttemptID},
		LeaseExpiresAt:   e.LeaseExpiresAt, AttemptTimeoutAt: e.AttemptTimeoutAt, ExecutionDeadlineAt: e.ExecutionDeadlineAt,
	}
}
