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
