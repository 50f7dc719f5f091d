package rules

import (
	"github.com/flowfabric/flowfabric"
)

// startAttempt makes the next attempt, already running under the new lease. An
// empty typ means the pending type, initial when nothing is pending; the pending
// fields are consumed. (Specification 02, section 5.3; 01, section 3.3.)
func (t *step) startAttempt(in *ClaimInput, typ flowfabric.AttemptType, reclaimReason string) {
	s, e := t.s, &t.s.Exec
	a := &flowfabric.Attempt{
		AttemptID: in.AttemptID, ExecutionID: e.ExecutionID, AttemptIndex: e.TotalAttemptCount, AttemptType: typ,
		AttemptState: flowfabric.AttemptStarted, CreatedAt: t.now, StartedAt: t.now,
		LeaseID: e.CurrentLeaseID, LeaseEpoch: e.CurrentLeaseEpoch,
		WorkerID: e.CurrentWorkerID, WorkerInstanceID: e.CurrentWorkerInstanceID,
		PolicySnapshot: flowfabric.PolicySnapshot{
			TimeoutMs: AttemptTimeoutMs(s.Policy, e.FallbackIndex), FallbackIndex: e.FallbackIndex, LaneID: e.LaneID,
			RouteSnapshot: in.RouteSnapshot, AdmissionSummary: in.AdmissionSummary,
		},
	}
	if tier := fallbackTier(s.Policy, e.FallbackIndex); tier != nil {
		a.PolicySnapshot.Provider, a.PolicySnapshot.Model = tier.Provider, tier.Model
	}
	if typ == flowfabric.AttemptTypeReclaim {
		a.ReclaimReason = reclaimReason
	} else {
		consumePending(a, e)
	}
	if a.AttemptIndex > 0 {
		previous := a.AttemptIndex - 1
		a.PreviousAttemptIndex = &previous
	}
	if s.Attempt != nil && t.fx.Superseded == nil {
		t.fx.Superseded = s.Attempt
	}
	s.Attempt = a
	e.TotalAttemptCount++
	e.CurrentAttemptID = a.AttemptID
	e.AttemptTimeoutAt = 0
	if a.PolicySnapshot.TimeoutMs > 0 {
		e.AttemptTimeoutAt = addMs(t.now, a.PolicySnapshot.TimeoutMs)
	}
	e.ProgressPct, e.ProgressMessage, e.ProgressUpdatedAt = nil, "", 0
}

// consumePending gives the attempt its type and lineage.
func consumePending(a *flowfabric.Attempt, e *flowfabric.Execution) {
	a.AttemptType = e.PendingAttemptType
	switch e.PendingAttemptType {
	case "":
		a.AttemptType = flowfabric.AttemptTypeInitial
	case flowfabric.AttemptTypeRetry:
		a.RetryReason = e.PendingReason
	case flowfabric.AttemptTypeFallback:
		tier := e.FallbackIndex
		a.RetryReason, a.FallbackIndex = e.PendingReason, &tier
	case flowfabric.AttemptTypeReplay:
		a.ReplayReason, a.ReplayRequestedBy = e.PendingReason, e.PendingRequestedBy
		a.ReplayedFromAttemptIndex = e.PendingPreviousAttemptIndex
	}
	e.PendingAttemptType, e.PendingReason, e.PendingRequestedBy, e.PendingPreviousAttemptIndex = "", "", "", nil
}

// supersede ends the attempt that a reclaim replaces.
func (t *step) supersede(reason string) {
	t.endAttempt(attemptEnd{state: flowfabric.AttemptInterruptedReclaimed, reason: reason, stream: streamReclaimed})
}

// resumeAttempt continues the paused attempt under the new lease, with the time
// it had left.
func (t *step) resumeAttempt(in *ClaimInput) {
	s, e := t.s, &t.s.Exec
	if s.Attempt == nil {
		return
	}
	a := *s.Attempt
	a.AttemptState = flowfabric.AttemptStarted
	a.ResumedAt = t.now
	e.AttemptTimeoutAt = 0
	if a.TimeoutRemainingMs != nil {
		e.AttemptTimeoutAt = max(1, addMs(t.now, *a.TimeoutRemainingMs))
	}
	a.SuspendedAt, a.PauseKind, a.SuspensionID, a.TimeoutRemainingMs = 0, "", "", nil
	a.LeaseID, a.LeaseEpoch = e.CurrentLeaseID, e.CurrentLeaseEpoch
	a.WorkerID, a.WorkerInstanceID = in.WorkerID, in.WorkerInstanceID
	s.Attempt = &a
	e.CurrentAttemptID = a.AttemptID
}

// pauseAttempt stops the running attempt and saves the time it has left.
func (t *step) pauseAttempt(kind flowfabric.PauseKind) {
	s, e := t.s, &t.s.Exec
	if s.Attempt == nil {
		return
	}
	a := *s.Attempt
	a.AttemptState = flowfabric.AttemptSuspended
	a.SuspendedAt, a.PauseKind = t.now, kind
	if e.AttemptTimeoutAt != 0 {
		left := int64(e.AttemptTimeoutAt - t.now)
		a.TimeoutRemainingMs = &left
	}
	s.Attempt = &a
}
