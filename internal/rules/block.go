package rules

import (
	"github.com/flowfabric/flowfabric"
)

// maxBlockDetailBytes bounds the text an operator gives with a pause.
const maxBlockDetailBytes = 4096

// ValidatePause checks the input of Pause and Unpause.
func ValidatePause(a flowfabric.BlockExecutionArgs) error {
	if err := validateID(a.ExecutionID); err != nil {
		return err
	}
	return validateText("detail", a.Detail, 0, maxBlockDetailBytes)
}

// Pause blocks an eligible execution for the operator: BlockForAdmission with
// paused_by_operator. (Specification 06, section 8.)
func Pause(s *State, a flowfabric.BlockExecutionArgs, now flowfabric.Millis) (flowfabric.BlockExecutionResult, Effects, error) {
	var none flowfabric.BlockExecutionResult
	if err := validateText("detail", a.Detail, 0, maxBlockDetailBytes); err != nil {
		return none, Effects{}, err
	}
	e := &s.Exec
	if e.LifecyclePhase == flowfabric.PhaseTerminal {
		return none, Effects{}, notActive(e)
	}
	if !blockable(s, now) {
		return none, Effects{}, notEligible(e)
	}
	fx := block(s, flowfabric.BlockedByOperator, flowfabric.ReasonPausedByOperator, a.Detail, now)
	if fx.Err != nil {
		return none, Effects{}, fx.Err
	}
	return flowfabric.BlockExecutionResult{PublicState: e.PublicState}, fx, nil
}

// Unpause makes an execution paused by an operator eligible again:
// UnblockExecution with expected reason paused_by_operator.
func Unpause(s *State, _ flowfabric.BlockExecutionArgs, now flowfabric.Millis) (flowfabric.BlockExecutionResult, Effects, error) {
	if !blockedFor(&s.Exec, flowfabric.ReasonPausedByOperator) {
		return flowfabric.BlockExecutionResult{}, Effects{}, notEligible(&s.Exec)
	}
	fx := unblock(s, now)
	if fx.Err != nil {
		return flowfabric.BlockExecutionResult{}, Effects{}, fx.Err
	}
	return flowfabric.BlockExecutionResult{PublicState: s.Exec.PublicState}, fx, nil
}

// BlockForLane takes an eligible execution of a disabled lane off the order of
// claimers; one with a live grant stays. (Specification 02, section 9.)
func BlockForLane(s *State, now flowfabric.Millis) Effects {
	if !blockable(s, now) {
		return Effects{}
	}
	detail := "lane " + string(s.Exec.LaneID) + " is disabled"
	return block(s, flowfabric.BlockedByLaneState, flowfabric.ReasonPausedByPolicy, detail, now)
}

// UnblockForLane puts back what BlockForLane took.
func UnblockForLane(s *State, now flowfabric.Millis) Effects {
	if !blockedFor(&s.Exec, flowfabric.ReasonPausedByPolicy) {
		return Effects{}
	}
	return unblock(s, now)
}

// blockable reports whether the execution is eligible, unowned and without a
// live grant.
func blockable(s *State, now flowfabric.Millis) bool {
	return s.Exec.LifecyclePhase == flowfabric.PhaseRunnable && s.Exec.EligibilityState == flowfabric.EligibleNow && !LiveGrant(s, now)
}

func blockedFor(e *flowfabric.Execution, reason flowfabric.BlockingReason) bool {
	return e.LifecyclePhase == flowfabric.PhaseRunnable && e.BlockingReason == reason
}

func block(s *State, state flowfabric.EligibilityState, reason flowfabric.BlockingReason, detail string, now flowfabric.Millis) Effects {
	t := begin(s, now)
	e := &s.Exec
	t.dropGrant()
	e.EligibilityState, e.BlockingReason = state, reason
	t.unblock()
	e.BlockingDetail, e.BlockedSince = detail, now
	return t.settle()
}

func unblock(s *State, now flowfabric.Millis) Effects {
	t := begin(s, now)
	t.makeEligible()
	return t.settle()
}
