package rules

import (
	"maps"
	"slices"
	"strings"

	"github.com/flowfabric/flowfabric"
)

// labelled reports whether the label of its bucket shows on the execution: it is
// eligible, and no live worker covers the bucket.
func labelled(e *flowfabric.Execution, l Label) bool {
	return l.UncoveredSince != 0 && e.LifecyclePhase == flowfabric.PhaseRunnable && e.EligibilityState == flowfabric.EligibleNow
}

// applyLabel makes a copy of the record read as the label says.
func applyLabel(e *flowfabric.Execution, l Label) {
	e.LastCapabilityMismatchAt = max(e.LastCapabilityMismatchAt, l.LastMismatchAt)
	if !labelled(e, l) {
		return
	}
	e.EligibilityState, e.BlockingReason = flowfabric.BlockedByRoute, flowfabric.ReasonWaitingForCapableWorker
	e.BlockingDetail = detailNoWorker + strings.Join(e.RequiredCapabilities, ",")
}

// Record returns a copy of the record with the label of its bucket applied. It
// shares nothing with the state.
func Record(s *State, l Label) *flowfabric.Execution {
	e := s.Exec
	e.RequiredCapabilities = slices.Clone(e.RequiredCapabilities)
	e.BudgetIDs = slices.Clone(e.BudgetIDs)
	e.QuotaPolicyIDs = slices.Clone(e.QuotaPolicyIDs)
	e.EstimatedUsage = maps.Clone(e.EstimatedUsage)
	e.AdmissionRefs = slices.Clone(e.AdmissionRefs)
	e.PendingPreviousAttemptIndex = copyOf(e.PendingPreviousAttemptIndex)
	e.ProgressPct = copyOf(e.ProgressPct)
	e.ReleaseReceipt = copyOf(e.ReleaseReceipt)
	applyLabel(&e, l)
	return &e
}

// Describe returns the snapshot of the execution, tags included. It shares
// nothing with the state. (Specification 01, section 8.11.)
func Describe(s *State, l Label) *flowfabric.ExecutionSnapshot {
	e := s.Exec
	applyLabel(&e, l)
	out := &flowfabric.ExecutionSnapshot{
		ExecutionID: e.ExecutionID, FlowID: e.FlowID, LaneID: e.LaneID, Namespace: e.Namespace, Kind: e.Kind,
		Priority: e.Priority, PublicState: e.PublicState, LifecyclePhase: e.LifecyclePhase,
		OwnershipState: e.OwnershipState, EligibilityState: e.EligibilityState,
		BlockingDetail: e.BlockingDetail, BlockingRef: e.BlockingRef, BlockedUntil: e.BlockedUntil, BlockedSince: e.BlockedSince,
		TerminalOutcome: e.TerminalOutcome, AttemptState: e.AttemptState,
		ProgressPct: copyOf(e.ProgressPct), ProgressMessage: e.ProgressMessage,
		FailureReason: e.FailureReason, FailureCategory: e.FailureCategory,
		CancellationReason: e.CancellationReason, CancelledBy: e.CancelledBy,
		TotalAttemptCount: e.TotalAttemptCount, RetryCount: e.RetryCount, LeaseReclaimCount: e.LeaseReclaimCount, ReplayCount: e.ReplayCount,
		CreatedAt: e.CreatedAt, StartedAt: e.StartedAt, CompletedAt: e.CompletedAt, DelayUntil: e.DelayUntil,
		ExecutionDeadlineAt: e.ExecutionDeadlineAt, PurgeAfter: e.PurgeAfter,
		LastTransitionAt: e.LastTransitionAt, LastMutationAt: e.LastMutationAt,
		Tags: maps.Clone(s.Tags),
	}
	if out.Tags == nil {
		out.Tags = map[string]string{}
	}
	if e.BlockingReason != flowfabric.ReasonNone {
		out.BlockingReason = e.BlockingReason
	}
	if e.LifecyclePhase == flowfabric.PhaseSuspended {
		out.CurrentWaitpointID = e.CurrentWaitpointID
	}
	index, claimed := e.CurrentAttemptIndex()
	if claimed && e.CurrentAttemptID != "" {
		out.CurrentAttempt = &flowfabric.CurrentAttempt{AttemptID: e.CurrentAttemptID, AttemptIndex: index}
	}
	if e.OwnershipState == flowfabric.OwnershipLeased {
		out.CurrentLease = &flowfabric.CurrentLease{LeaseEpoch: e.CurrentLeaseEpoch, WorkerInstanceID: e.CurrentWorkerInstanceID,
			ExpiresAt: e.LeaseExpiresAt, AttemptIndex: index, LastHeartbeatAt: e.LeaseLastRenewedAt}
	}
	return out
}

func copyOf[T any](p *T) *T {
	if p == nil {
		return nil
	}
	v := *p
	return &v
}
