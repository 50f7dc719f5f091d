package backendtest

import (
	"github.com/flowfabric/flowfabric"
)

// The vectors in which executions stand. (Specification 01, section 4.)

func waitingVector(attempt flowfabric.AttemptPhase) flowfabric.StateVector {
	return flowfabric.StateVector{
		LifecyclePhase: flowfabric.PhaseRunnable, OwnershipState: flowfabric.OwnershipUnowned, EligibilityState: flowfabric.EligibleNow,
		BlockingReason: flowfabric.ReasonWaitingForWorker, TerminalOutcome: flowfabric.OutcomeNone, AttemptState: attempt, PublicState: flowfabric.PublicWaiting,
	}
}

func delayedVector(reason flowfabric.BlockingReason, attempt flowfabric.AttemptPhase) flowfabric.StateVector {
	v := waitingVector(attempt)
	v.EligibilityState, v.BlockingReason, v.PublicState = flowfabric.NotEligibleUntilTime, reason, flowfabric.PublicDelayed
	return v
}

func pausedVector(attempt flowfabric.AttemptPhase) flowfabric.StateVector {
	v := waitingVector(attempt)
	v.EligibilityState, v.BlockingReason = flowfabric.BlockedByOperator, flowfabric.ReasonPausedByOperator
	return v
}

func laneBlockedVector(attempt flowfabric.AttemptPhase) flowfabric.StateVector {
	v := waitingVector(attempt)
	v.EligibilityState, v.BlockingReason = flowfabric.BlockedByLaneState, flowfabric.ReasonPausedByPolicy
	return v
}

func uncoveredVector() flowfabric.StateVector {
	v := waitingVector(flowfabric.AttemptPendingFirst)
	v.EligibilityState, v.BlockingReason = flowfabric.BlockedByRoute, flowfabric.ReasonWaitingForCapableWorker
	return v
}

func activeVector() flowfabric.StateVector {
	return flowfabric.StateVector{
		LifecyclePhase: flowfabric.PhaseActive, OwnershipState: flowfabric.OwnershipLeased, EligibilityState: flowfabric.EligibilityNotApplicable,
		BlockingReason: flowfabric.ReasonNone, TerminalOutcome: flowfabric.OutcomeNone, AttemptState: flowfabric.AttemptRunning, PublicState: flowfabric.PublicActive,
	}
}

func interruptedVector(ownership flowfabric.OwnershipState) flowfabric.StateVector {
	v := activeVector()
	v.OwnershipState, v.BlockingReason, v.AttemptState = ownership, flowfabric.ReasonWaitingForWorker, flowfabric.AttemptInterrupted
	return v
}

func endedVector(outcome flowfabric.TerminalOutcome, attempt flowfabric.AttemptPhase) flowfabric.StateVector {
	public := map[flowfabric.TerminalOutcome]flowfabric.PublicState{
		flowfabric.OutcomeSuccess: flowfabric.PublicCompleted, flowfabric.OutcomeFailed: flowfabric.PublicFailed, flowfabric.OutcomeCancelled: flowfabric.PublicCancelled,
		flowfabric.OutcomeExpired: flowfabric.PublicExpired, flowfabric.OutcomeSkipped: flowfabric.PublicSkipped,
	}[outcome]
	return flowfabric.StateVector{
		LifecyclePhase: flowfabric.PhaseTerminal, OwnershipState: flowfabric.OwnershipUnowned, EligibilityState: flowfabric.EligibilityNotApplicable,
		BlockingReason: flowfabric.ReasonNone, TerminalOutcome: outcome, AttemptState: attempt, PublicState: public,
	}
}

// checkVector names the validity rule that a vector breaks, or "". (Specification
// 01, section 4.4; the rules that need more than the vector are not among them.)
func checkVector(v flowfabric.StateVector) string {
	active, terminal := v.LifecyclePhase == flowfabric.PhaseActive, v.LifecyclePhase == flowfabric.PhaseTerminal
	runnable := v.LifecyclePhase == flowfabric.PhaseRunnable
	leased := v.OwnershipState == flowfabric.OwnershipLeased
	for _, rule := range []struct {
		name   string
		broken bool
	}{
		{"V1", !active && v.OwnershipState != flowfabric.OwnershipUnowned},
		{"V2", active && v.OwnershipState == flowfabric.OwnershipUnowned},
		{"V3", terminal == (v.TerminalOutcome == flowfabric.OutcomeNone)},
		{"V4", runnable == (v.EligibilityState == flowfabric.EligibilityNotApplicable)},
		{"V5", (active && leased) != (v.AttemptState == flowfabric.AttemptRunning)},
		{"V6", active && !leased && v.AttemptState != flowfabric.AttemptInterrupted},
		{"V7", v.LifecyclePhase == flowfabric.PhaseSuspended && v.AttemptState != flowfabric.AttemptInterrupted},
		{"V9", runnable && (v.AttemptState == flowfabric.AttemptNone || v.AttemptState == flowfabric.AttemptTerminal)},
		{"V10", v.TerminalOutcome == flowfabric.OutcomeSuccess && v.AttemptState != flowfabric.AttemptTerminal},
		{"V11", v.PublicState != derivePublicState(v)},
		{"V11", !reasonFits(v)},
	} {
		if rule.broken {
			return rule.name
		}
	}
	return ""
}

// derivePublicState is the table of specification 01, section 4.2.
func derivePublicState(v flowfabric.StateVector) flowfabric.PublicState {
	switch v.LifecyclePhase {
	case flowfabric.PhaseTerminal:
		return endedVector(v.TerminalOutcome, v.AttemptState).PublicState
	case flowfabric.PhaseSuspended:
		return flowfabric.PublicSuspended
	case flowfabric.PhaseActive:
		return flowfabric.PublicActive
	}
	switch v.EligibilityState {
	case flowfabric.NotEligibleUntilTime:
		return flowfabric.PublicDelayed
	case flowfabric.BlockedByDependencies:
		return flowfabric.PublicWaitingChildren
	case flowfabric.BlockedByBudget, flowfabric.BlockedByQuota:
		return flowfabric.PublicRateLimited
	}
	return flowfabric.PublicWaiting
}

// reasonFits is the table of specification 01, section 4.3.
func reasonFits(v flowfabric.StateVector) bool {
	if v.LifecyclePhase == flowfabric.PhaseTerminal || v.OwnershipState == flowfabric.OwnershipLeased {
		return v.BlockingReason == flowfabric.ReasonNone
	}
	if v.LifecyclePhase == flowfabric.PhaseActive {
		return v.BlockingReason == flowfabric.ReasonWaitingForWorker
	}
	if v.LifecyclePhase == flowfabric.PhaseSuspended {
		return suspendedFor(v.BlockingReason)
	}
	switch v.BlockingReason {
	case flowfabric.ReasonWaitingForWorker:
		return v.EligibilityState == flowfabric.EligibleNow
	case flowfabric.ReasonWaitingForRetryBackoff, flowfabric.ReasonWaitingForResumeDelay, flowfabric.ReasonWaitingForDelay:
		return v.EligibilityState == flowfabric.NotEligibleUntilTime
	case flowfabric.ReasonWaitingForCapableWorker, flowfabric.ReasonWaitingForLocalityMatch:
		return v.EligibilityState == flowfabric.BlockedByRoute
	case flowfabric.ReasonPausedByPolicy:
		return v.EligibilityState == flowfabric.BlockedByLaneState
	case flowfabric.ReasonPausedByOperator:
		return v.EligibilityState == flowfabric.BlockedByOperator
	}
	return false
}

func suspendedFor(r flowfabric.BlockingReason) bool {
	switch r {
	case flowfabric.ReasonWaitingForSignal, flowfabric.ReasonWaitingForApproval, flowfabric.ReasonWaitingForCallback, flowfabric.ReasonWaitingForToolResult,
		flowfabric.ReasonWaitingForBudget, flowfabric.ReasonPausedByPolicy, flowfabric.ReasonPausedByOperator:
		return true
	}
	return false
}
