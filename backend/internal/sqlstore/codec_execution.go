package sqlstore

import (
	"encoding/json"
	"math"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/rules"
)

var (
	phases = newEnum("lifecycle_phase", flowfabric.PhaseSubmitted, flowfabric.PhaseRunnable, flowfabric.PhaseActive,
		flowfabric.PhaseSuspended, flowfabric.PhaseTerminal)
	ownerships = newEnum("ownership_state", flowfabric.OwnershipUnowned, flowfabric.OwnershipLeased,
		flowfabric.OwnershipLeaseExpired, flowfabric.OwnershipLeaseRevoked)
	eligibilities = newEnum("eligibility_state", flowfabric.EligibleNow, flowfabric.NotEligibleUntilTime,
		flowfabric.BlockedByDependencies, flowfabric.BlockedByBudget, flowfabric.BlockedByQuota, flowfabric.BlockedByRoute,
		flowfabric.BlockedByLaneState, flowfabric.BlockedByOperator, flowfabric.EligibilityNotApplicable)
	blockings = newEnum("blocking_reason", flowfabric.ReasonNone, flowfabric.ReasonWaitingForWorker,
		flowfabric.ReasonWaitingForRetryBackoff, flowfabric.ReasonWaitingForResumeDelay, flowfabric.ReasonWaitingForDelay,
		flowfabric.ReasonWaitingForChildren, flowfabric.ReasonWaitingForBudget, flowfabric.ReasonWaitingForQuota,
		flowfabric.ReasonWaitingForCapableWorker, flowfabric.ReasonWaitingForLocalityMatch, flowfabric.ReasonPausedByPolicy,
		flowfabric.ReasonPausedByOperator, flowfabric.ReasonWaitingForSignal, flowfabric.ReasonWaitingForApproval,
		flowfabric.ReasonWaitingForCallback, flowfabric.ReasonWaitingForToolResult)
	outcomes = newEnum("terminal_outcome", flowfabric.OutcomeNone, flowfabric.OutcomeSuccess, flowfabric.OutcomeFailed,
		flowfabric.OutcomeCancelled, flowfabric.OutcomeExpired, flowfabric.OutcomeSkipped)
	attemptPhases = newEnum("attempt_state", flowfabric.AttemptNone, flowfabric.AttemptPendingFirst, flowfabric.AttemptRunning,
		flowfabric.AttemptInterrupted, flowfabric.AttemptPendingRetry, flowfabric.AttemptPendingReplay, flowfabric.AttemptTerminal)
	publicStates = newEnum("public_state", flowfabric.PublicStates()...)
	attemptTypes = newEnum("attempt_type", flowfabric.AttemptType(""), flowfabric.AttemptTypeInitial, flowfabric.AttemptTypeRetry,
		flowfabric.AttemptTypeReclaim, flowfabric.AttemptTypeReplay, flowfabric.AttemptTypeFallback)
	attemptStates = newEnum("attempt.attempt_state", flowfabric.AttemptState(""), flowfabric.AttemptStarted, flowfabric.AttemptSuspended,
		flowfabric.AttemptEndedSuccess, flowfabric.AttemptEndedFailure, flowfabric.AttemptEndedCancelled,
		flowfabric.AttemptInterruptedReclaimed)
	pauseKinds = newEnum("pause_kind", flowfabric.PauseKind(""), flowfabric.PauseSuspension, flowfabric.PauseWorkerDelay,
		flowfabric.PauseWaitingChildren)
	claimKinds = newEnum("claim_kind", flowfabric.ClaimKind(""), flowfabric.ClaimNew, flowfabric.ClaimResume, flowfabric.ClaimReclaim)
	sources    = newEnum("source", flowfabric.Source(""), flowfabric.SourceLeaseHolder, flowfabric.SourceOperatorOverride,
		flowfabric.SourceFlowCascade, flowfabric.SourceSystemTimeout)
	issuers = newEnum("issued_by", flowfabric.IssuedBy(""), flowfabric.IssuedByScheduler, flowfabric.IssuedByDirect,
		flowfabric.IssuedByOperator)
	receiptOps = newEnum("receipt.op", flowfabric.ReceiptOp(""), flowfabric.ReceiptComplete, flowfabric.ReceiptFail,
		flowfabric.ReceiptCancel, flowfabric.ReceiptDelay, flowfabric.ReceiptWaitingChildren, flowfabric.ReceiptExpire,
		flowfabric.ReceiptReclaimCap)
)

// The tags of an execution's record.
const (
	xKind byte = iota + 1
	xCreator
	xFlow
	xIdemKey
	xDigest
	xPriority
	xVector
	xBlockingDetail
	xBlockingRef
	xBlockedUntil
	xBlockedSince
	xAdmissionRefs
	xAttemptID
	xTotalAttempts
	xLeaseID
	xWorkerID
	xWorkerInstance
	xLeaseAcquired
	xLeaseExpires
	xLeaseRenewed
	xLeaseRenewalDeadline
	xEpoch
	xCurrentLane
	xLeaseExpiredAt
	xLeaseRevokedAt
	xRevokeReason
	xHold
	xNotBefore
	xRetryCount
	xReclaimCount
	xFallbackIndex
	xReplayCount
	xTerminalSeq
	xPendingType
	xPendingReason
	xPendingBy
	xPendingPrev
	xDelayUntil
	xDeadline
	xAttemptTimeout
	xSuspensionID
	xWaitpointID
	xFailureReason
	xFailureCategory
	xCancelReason
	xCancelledBy
	xProgressPct
	xProgressMessage
	xProgressAt
	xReceipt
	xCreatedAt
	xStartedAt
	xCompletedAt
	xTransitionAt
	xMutationAt
	xPurgeAfter
	xMismatchAt
	xHMACFailedAt
	xBudgetIDs
	xQuotaIDs
	xEstimates
	xAttempt
	xGrant
	xLeaseDetail
	xCounted
	xLeaseEvent
	xHasTags
	xHasPolicy
	xHasWait
)

// appendRecord encodes everything of r that is not a column or in the bucket.
func appendRecord(buf []byte, r *row) []byte {
	e := encoder{buf}
	x := &r.st.Exec
	e.str(xKind, x.Kind)
	e.str(xCreator, x.CreatorIdentity)
	e.str(xFlow, string(x.FlowID))
	e.str(xIdemKey, x.IdempotencyKey)
	if x.SpecDigest != "" {
		e.digest(xDigest, x.SpecDigest)
	}
	e.uint(xPriority, uint64(x.Priority))
	e.b = append(e.b, xVector,
		byte(phases.of(x.LifecyclePhase)), byte(ownerships.of(x.OwnershipState)), byte(eligibilities.of(x.EligibilityState)),
		byte(blockings.of(x.BlockingReason)), byte(outcomes.of(x.TerminalOutcome)), byte(attemptPhases.of(x.AttemptState)),
		byte(publicStates.of(x.PublicState)))
	e.str(xBlockingDetail, x.BlockingDetail)
	e.str(xBlockingRef, x.BlockingRef)
	e.ms(xBlockedUntil, x.BlockedUntil)
	e.ms(xBlockedSince, x.BlockedSince)
	e.strs(xAdmissionRefs, x.AdmissionRefs)
	e.str(xAttemptID, string(x.CurrentAttemptID))
	e.uint(xTotalAttempts, uint64(x.TotalAttemptCount))
	e.str(xLeaseID, string(x.CurrentLeaseID))
	e.str(xWorkerID, string(x.CurrentWorkerID))
	e.str(xWorkerInstance, string(x.CurrentWorkerInstanceID))
	e.ms(xLeaseAcquired, x.LeaseAcquiredAt)
	e.ms(xLeaseExpires, x.LeaseExpiresAt)
	e.ms(xLeaseRenewed, x.LeaseLastRenewedAt)
	e.ms(xLeaseRenewalDeadline, x.LeaseRenewalDeadline)
	e.uint(xEpoch, x.CurrentLeaseEpoch)
	e.str(xCurrentLane, string(x.CurrentLane))
	e.ms(xLeaseExpiredAt, x.LeaseExpiredAt)
	e.ms(xLeaseRevokedAt, x.LeaseRevokedAt)
	e.str(xRevokeReason, x.LeaseRevokeReason)
	e.flag(xHold, x.ReclaimHold)
	e.ms(xNotBefore, x.ReclaimNotBefore)
	e.uint(xRetryCount, uint64(x.RetryCount))
	e.uint(xReclaimCount, uint64(x.LeaseReclaimCount))
	e.uint(xFallbackIndex, uint64(x.FallbackIndex))
	e.uint(xReplayCount, uint64(x.ReplayCount))
	e.uint(xTerminalSeq, x.TerminalSeq)
	e.uint(xPendingType, attemptTypes.of(x.PendingAttemptType))
	e.str(xPendingReason, x.PendingReason)
	e.str(xPendingBy, x.PendingRequestedBy)
	e.opt(xPendingPrev, x.PendingPreviousAttemptIndex)
	e.ms(xDelayUntil, x.DelayUntil)
	e.ms(xDeadline, x.ExecutionDeadlineAt)
	e.ms(xAttemptTimeout, x.AttemptTimeoutAt)
	e.str(xSuspensionID, string(x.CurrentSuspensionID))
	e.str(xWaitpointID, string(x.CurrentWaitpointID))
	e.str(xFailureReason, x.FailureReason)
	e.str(xFailureCategory, x.FailureCategory)
	e.str(xCancelReason, x.CancellationReason)
	e.str(xCancelledBy, x.CancelledBy)
	if x.ProgressPct != nil {
		e.uint(xProgressPct, uint64(*x.ProgressPct)+1)
	}
	e.str(xProgressMessage, x.ProgressMessage)
	e.ms(xProgressAt, x.ProgressUpdatedAt)
	if rc := x.ReleaseReceipt; rc != nil {
		e.b = append(e.b, xReceipt)
		e.receipt(rc)
	}
	e.ms(xCreatedAt, x.CreatedAt)
	e.ms(xStartedAt, x.StartedAt)
	e.ms(xCompletedAt, x.CompletedAt)
	e.ms(xTransitionAt, x.LastTransitionAt)
	e.ms(xMutationAt, x.LastMutationAt)
	e.ms(xPurgeAfter, x.PurgeAfter)
	e.ms(xMismatchAt, x.LastCapabilityMismatchAt)
	e.ms(xHMACFailedAt, x.LastHMACValidationFailedAt)
	e.strs(xBudgetIDs, x.BudgetIDs)
	e.strs(xQuotaIDs, x.QuotaPolicyIDs)
	if len(x.EstimatedUsage) > 0 {
		doc, _ := json.Marshal(x.EstimatedUsage)
		e.nested(xEstimates, doc)
	}
	if a := r.st.Attempt; a != nil {
		mark := e.open(xAttempt)
		e.attempt(a)
		e.close(mark)
	}
	if g := r.st.Grant; g != nil {
		mark := e.open(xGrant)
		e.grant(g)
		e.close(mark)
	}
	if r.st.Lease != (rules.LeaseDetail{}) {
		mark := e.open(xLeaseDetail)
		e.leaseDetail(&r.st.Lease)
		e.close(mark)
	}
	e.flag(xCounted, r.counted)
	e.uint(xLeaseEvent, uint64(r.leaseEvent))
	e.flag(xHasTags, len(r.st.Tags) > 0)
	e.flag(xHasPolicy, r.hasPolicy)
	e.flag(xHasWait, r.st.Wait != nil)
	return e.b
}

// open starts a nested record of at most 2 MiB in place; close sets its
// length.
func (e *encoder) open(tag byte) int {
	e.b = append(e.b, tag, 0x80, 0x80, 0)
	return len(e.b)
}

func (e *encoder) close(mark int) {
	n := len(e.b) - mark
	e.b[mark-3] = byte(n) | 0x80
	e.b[mark-2] = byte(n>>7) | 0x80
	e.b[mark-1] = byte(n >> 14)
}

func (e *encoder) digest(tag byte, hexDigest string) {
	e.b = append(e.b, tag)
	raw := make([]byte, 0, 32)
	for i := 0; i+1 < len(hexDigest); i += 2 {
		raw = append(raw, unhex(hexDigest[i])<<4|unhex(hexDigest[i+1]))
	}
	e.rawString(string(raw))
}

func (e *encoder) receipt(rc *flowfabric.ReleaseReceipt) {
	e.b = append(e.b, byte(receiptOps.of(rc.Op)), byte(sources.of(rc.Source)))
	e.rawString(string(rc.LeaseID))
	e.b = appendUvarint(e.b, rc.LeaseEpoch)
	e.rawString(string(rc.AttemptID))
	state, phase := uint64(0), uint64(0)
	if rc.PublicState != "" {
		state = publicStates.of(rc.PublicState) + 1
	}
	if rc.PreviousPhase != "" {
		phase = phases.of(rc.PreviousPhase) + 1
	}
	retry := byte(0)
	if rc.RetryScheduled {
		retry = 1
	}
	e.b = append(e.b, byte(state), byte(phase), retry, byte(attemptTypes.of(rc.AttemptType)))
	e.b = appendUvarint(e.b, uint64(rc.DelayUntil))
	e.b = appendUvarint(e.b, uint64(rc.NextAttemptIndex))
}

func (d *decoder) receipt() *flowfabric.ReleaseReceipt {
	rc := &flowfabric.ReleaseReceipt{}
	rc.Op = receiptOps.label(d, uint64(d.octet("receipt")))
	rc.Source = sources.label(d, uint64(d.octet("receipt")))
	rc.LeaseID = flowfabric.LeaseID(d.str("receipt.lease_id"))
	rc.LeaseEpoch = d.uint("receipt.lease_epoch")
	rc.AttemptID = flowfabric.AttemptID(d.str("receipt.attempt_id"))
	if v := d.octet("receipt"); v > 0 {
		rc.PublicState = publicStates.label(d, uint64(v-1))
	}
	if v := d.octet("receipt"); v > 0 {
		rc.PreviousPhase = phases.label(d, uint64(v-1))
	}
	rc.RetryScheduled = d.octet("receipt") == 1
	rc.AttemptType = attemptTypes.label(d, uint64(d.octet("receipt")))
	rc.DelayUntil = d.ms("receipt.delay_until")
	rc.NextAttemptIndex = d.uint32("receipt.next_attempt_index")
	return rc
}

func (d *decoder) octet(field string) byte {
	if len(d.b) == 0 {
		d.fail(field, "truncated")
		return 0
	}
	v := d.b[0]
	d.b = d.b[1:]
	return v
}

// decodeRecord fills r from an encoded record; part, uuid and bucket are set.
func decodeRecord(op string, rec []byte, r *row) error {
	d := decoder{b: rec, op: op}
	st := r.st
	x := &st.Exec
	for tag, ok := d.next(); ok; tag, ok = d.next() {
		switch tag {
		case xKind:
			x.Kind = d.str("execution_kind")
		case xCreator:
			x.CreatorIdentity = d.str("creator_identity")
		case xFlow:
			x.FlowID = flowfabric.FlowID(d.str("flow_id"))
		case xIdemKey:
			x.IdempotencyKey = d.str("idempotency_key")
		case xDigest:
			x.SpecDigest = hexOf(d.str("spec_digest"))
		case xPriority:
			x.Priority = int32(d.uint32("priority"))
		case xVector:
			d.vector(&x.StateVector)
		case xBlockingDetail:
			x.BlockingDetail = d.str("blocking_detail")
		case xBlockingRef:
			x.BlockingRef = d.str("blocking_ref")
		case xBlockedUntil:
			x.BlockedUntil = d.ms("blocked_until")
		case xBlockedSince:
			x.BlockedSince = d.ms("blocked_since")
		case xAdmissionRefs:
			x.AdmissionRefs = d.strs("admission_refs")
		case xAttemptID:
			x.CurrentAttemptID = flowfabric.AttemptID(d.str("current_attempt_id"))
		case xTotalAttempts:
			x.TotalAttemptCount = d.uint32("total_attempt_count")
		case xLeaseID:
			x.CurrentLeaseID = flowfabric.LeaseID(d.str("current_lease_id"))
		case xWorkerID:
			x.CurrentWorkerID = flowfabric.WorkerID(d.str("current_worker_id"))
		case xWorkerInstance:
			x.CurrentWorkerInstanceID = flowfabric.WorkerInstanceID(d.str("current_worker_instance_id"))
		case xLeaseAcquired:
			x.LeaseAcquiredAt = d.ms("lease_acquired_at")
		case xLeaseExpires:
			x.LeaseExpiresAt = d.ms("lease_expires_at")
		case xLeaseRenewed:
			x.LeaseLastRenewedAt = d.ms("lease_last_renewed_at")
		case xLeaseRenewalDeadline:
			x.LeaseRenewalDeadline = d.ms("lease_renewal_deadline")
		case xEpoch:
			x.CurrentLeaseEpoch = d.uint("current_lease_epoch")
		case xCurrentLane:
			x.CurrentLane = flowfabric.LaneID(d.str("current_lane"))
		case xLeaseExpiredAt:
			x.LeaseExpiredAt = d.ms("lease_expired_at")
		case xLeaseRevokedAt:
			x.LeaseRevokedAt = d.ms("lease_revoked_at")
		case xRevokeReason:
			x.LeaseRevokeReason = d.str("lease_revoke_reason")
		case xHold:
			x.ReclaimHold = d.flag("reclaim_hold")
		case xNotBefore:
			x.ReclaimNotBefore = d.ms("reclaim_not_before")
		case xRetryCount:
			x.RetryCount = d.uint32("retry_count")
		case xReclaimCount:
			x.LeaseReclaimCount = d.uint32("lease_reclaim_count")
		case xFallbackIndex:
			x.FallbackIndex = d.uint32("fallback_index")
		case xReplayCount:
			x.ReplayCount = d.uint32("replay_count")
		case xTerminalSeq:
			x.TerminalSeq = d.uint("terminal_seq")
		case xPendingType:
			x.PendingAttemptType = attemptTypes.label(&d, d.uint("pending_attempt_type"))
		case xPendingReason:
			x.PendingReason = d.str("pending_reason")
		case xPendingBy:
			x.PendingRequestedBy = d.str("pending_requested_by")
		case xPendingPrev:
			x.PendingPreviousAttemptIndex = d.opt("pending_previous_attempt_index")
		case xDelayUntil:
			x.DelayUntil = d.ms("delay_until")
		case xDeadline:
			x.ExecutionDeadlineAt = d.ms("execution_deadline_at")
		case xAttemptTimeout:
			x.AttemptTimeoutAt = d.ms("attempt_timeout_at")
		case xSuspensionID:
			x.CurrentSuspensionID = flowfabric.SuspensionID(d.str("current_suspension_id"))
		case xWaitpointID:
			x.CurrentWaitpointID = flowfabric.WaitpointID(d.str("current_waitpoint_id"))
		case xFailureReason:
			x.FailureReason = d.str("failure_reason")
		case xFailureCategory:
			x.FailureCategory = d.str("failure_category")
		case xCancelReason:
			x.CancellationReason = d.str("cancellation_reason")
		case xCancelledBy:
			x.CancelledBy = d.str("cancelled_by")
		case xProgressPct:
			if v := d.opt("progress_pct"); v != nil {
				n := int32(min(*v, math.MaxInt32))
				x.ProgressPct = &n
			}
		case xProgressMessage:
			x.ProgressMessage = d.str("progress_message")
		case xProgressAt:
			x.ProgressUpdatedAt = d.ms("progress_updated_at")
		case xReceipt:
			x.ReleaseReceipt = d.receipt()
		case xCreatedAt:
			x.CreatedAt = d.ms("created_at")
		case xStartedAt:
			x.StartedAt = d.ms("started_at")
		case xCompletedAt:
			x.CompletedAt = d.ms("completed_at")
		case xTransitionAt:
			x.LastTransitionAt = d.ms("last_transition_at")
		case xMutationAt:
			x.LastMutationAt = d.ms("last_mutation_at")
		case xPurgeAfter:
			x.PurgeAfter = d.ms("purge_after")
		case xMismatchAt:
			x.LastCapabilityMismatchAt = d.ms("last_capability_mismatch_at")
		case xHMACFailedAt:
			x.LastHMACValidationFailedAt = d.ms("last_hmac_validation_failed_at")
		case xBudgetIDs:
			x.BudgetIDs = d.strs("budget_ids")
		case xQuotaIDs:
			x.QuotaPolicyIDs = d.strs("quota_policy_ids")
		case xEstimates:
			if err := json.Unmarshal(d.nested("estimated_usage"), &x.EstimatedUsage); err != nil {
				d.fail("estimated_usage", "%v", err)
			}
		case xAttempt:
			sub := decoder{b: d.nested("attempt"), op: op}
			st.Attempt = sub.attempt(x.ExecutionID)
			if d.err == nil {
				d.err = sub.err
			}
		case xGrant:
			sub := decoder{b: d.nested("grant"), op: op}
			st.Grant = sub.grant()
			if d.err == nil {
				d.err = sub.err
			}
		case xLeaseDetail:
			sub := decoder{b: d.nested("lease"), op: op}
			sub.leaseDetail(&st.Lease)
			if d.err == nil {
				d.err = sub.err
			}
		case xCounted:
			r.counted = d.flag("counted")
		case xLeaseEvent:
			r.leaseEvent = int64(d.uint("lease_event"))
		case xHasTags:
			r.hasTags = d.flag("tags")
		case xHasPolicy:
			r.hasPolicy = d.flag("policy")
		case xHasWait:
			r.hasWait = d.flag("wait")
		default:
			d.fail("record", "unknown field %d", tag)
		}
	}
	if d.err != nil {
		return d.err
	}
	return checkRecord(op, x)
}

// checkRecord refuses a record that lacks what every record has.
func checkRecord(op string, x *flowfabric.Execution) error {
	switch {
	case x.PublicState == "":
		return corrupt(op, "public_state", "missing")
	case x.CreatedAt == 0:
		return corrupt(op, "created_at", "missing")
	case x.LastMutationAt == 0:
		return corrupt(op, "last_mutation_at", "missing")
	case x.LaneID.Validate() != nil:
		return corrupt(op, "lane_id", "invalid")
	case x.CurrentAttemptID != "" && x.TotalAttemptCount == 0:
		return corrupt(op, "current_attempt_index", "missing beside an attempt id")
	case x.OwnershipState == flowfabric.OwnershipLeased &&
		(x.CurrentLeaseID == "" || x.CurrentLeaseEpoch == 0 || x.CurrentWorkerInstanceID == "" || x.LeaseExpiresAt == 0):
		return corrupt(op, "current_lease", "a part is missing")
	}
	return nil
}

func (d *decoder) vector(v *flowfabric.StateVector) {
	if len(d.b) < 7 {
		d.fail("state vector", "truncated")
		d.b = nil
		return
	}
	b := d.b[:7]
	d.b = d.b[7:]
	v.LifecyclePhase = phases.label(d, uint64(b[0]))
	v.OwnershipState = ownerships.label(d, uint64(b[1]))
	v.EligibilityState = eligibilities.label(d, uint64(b[2]))
	v.BlockingReason = blockings.label(d, uint64(b[3]))
	v.TerminalOutcome = outcomes.label(d, uint64(b[4]))
	v.AttemptState = attemptPhases.label(d, uint64(b[5]))
	v.PublicState = publicStates.label(d, uint64(b[6]))
}

func hexOf(raw string) string {
	const digits = "0123456789abcdef"
	out := make([]byte, 0, 2*len(raw))
	for i := 0; i < len(raw); i++ {
		out = append(out, digits[raw[i]>>4], digits[raw[i]&15])
	}
	return string(out)
}
