package flowfabric

// Millis is a point in time: Unix milliseconds of the store's clock. Zero means
// "absent".
type Millis int64

// LifecyclePhase is the first dimension of the state vector: where in its life
// an execution is.
type LifecyclePhase string

// OwnershipState says who owns an execution.
type OwnershipState string

// EligibilityState says whether a runnable execution may be claimed.
type EligibilityState string

// BlockingReason says why a non-terminal, non-active execution is not running.
type BlockingReason string

// TerminalOutcome says how an execution ended.
type TerminalOutcome string

// AttemptPhase is the sixth dimension, attempt_state of the execution: what its
// attempt is doing.
type AttemptPhase string

// PublicState is the one label computed from the six dimensions.
type PublicState string

// The lifecycle phases. PhaseSubmitted is reserved and never stored.
const (
	PhaseSubmitted LifecyclePhase = "submitted"
	PhaseRunnable  LifecyclePhase = "runnable"
	PhaseActive    LifecyclePhase = "active"
	PhaseSuspended LifecyclePhase = "suspended"
	PhaseTerminal  LifecyclePhase = "terminal"
)

// The ownership states.
const (
	OwnershipUnowned      OwnershipState = "unowned"
	OwnershipLeased       OwnershipState = "leased"
	OwnershipLeaseExpired OwnershipState = "lease_expired_reclaimable"
	OwnershipLeaseRevoked OwnershipState = "lease_revoked"
)

// The eligibility states.
const (
	EligibleNow              EligibilityState = "eligible_now"
	NotEligibleUntilTime     EligibilityState = "not_eligible_until_time"
	BlockedByDependencies    EligibilityState = "blocked_by_dependencies"
	BlockedByBudget          EligibilityState = "blocked_by_budget"
	BlockedByQuota           EligibilityState = "blocked_by_quota"
	BlockedByRoute           EligibilityState = "blocked_by_route"
	BlockedByLaneState       EligibilityState = "blocked_by_lane_state"
	BlockedByOperator        EligibilityState = "blocked_by_operator"
	EligibilityNotApplicable EligibilityState = "not_applicable"
)

// The blocking reasons. (Specification 01, section 4.3.)
const (
	ReasonNone                    BlockingReason = "none"
	ReasonWaitingForWorker        BlockingReason = "waiting_for_worker"
	ReasonWaitingForRetryBackoff  BlockingReason = "waiting_for_retry_backoff"
	ReasonWaitingForResumeDelay   BlockingReason = "waiting_for_resume_delay"
	ReasonWaitingForDelay         BlockingReason = "waiting_for_delay"
	ReasonWaitingForChildren      BlockingReason = "waiting_for_children"
	ReasonWaitingForBudget        BlockingReason = "waiting_for_budget"
	ReasonWaitingForQuota         BlockingReason = "waiting_for_quota"
	ReasonWaitingForCapableWorker BlockingReason = "waiting_for_capable_worker"
	ReasonWaitingForLocalityMatch BlockingReason = "waiting_for_locality_match"
	ReasonPausedByPolicy          BlockingReason = "paused_by_policy"
	ReasonPausedByOperator        BlockingReason = "paused_by_operator"
	ReasonWaitingForSignal        BlockingReason = "waiting_for_signal"
	ReasonWaitingForApproval      BlockingReason = "waiting_for_approval"
	ReasonWaitingForCallback      BlockingReason = "waiting_for_callback"
	ReasonWaitingForToolResult    BlockingReason = "waiting_for_tool_result"
)

// The terminal outcomes.
const (
	OutcomeNone      TerminalOutcome = "none"
	OutcomeSuccess   TerminalOutcome = "success"
	OutcomeFailed    TerminalOutcome = "failed"
	OutcomeCancelled TerminalOutcome = "cancelled"
	OutcomeExpired   TerminalOutcome = "expired"
	OutcomeSkipped   TerminalOutcome = "skipped"
)

// The attempt phases.
const (
	AttemptNone          AttemptPhase = "none"
	AttemptPendingFirst  AttemptPhase = "pending_first_attempt"
	AttemptRunning       AttemptPhase = "running_attempt"
	AttemptInterrupted   AttemptPhase = "attempt_interrupted"
	AttemptPendingRetry  AttemptPhase = "pending_retry_attempt"
	AttemptPendingReplay AttemptPhase = "pending_replay_attempt"
	AttemptTerminal      AttemptPhase = "attempt_terminal"
)

// The eleven public states.
const (
	PublicWaiting         PublicState = "waiting"
	PublicDelayed         PublicState = "delayed"
	PublicWaitingChildren PublicState = "waiting_children"
	PublicRateLimited     PublicState = "rate_limited"
	PublicActive          PublicState = "active"
	PublicSuspended       PublicState = "suspended"
	PublicCompleted       PublicState = "completed"
	PublicFailed          PublicState = "failed"
	PublicCancelled       PublicState = "cancelled"
	PublicExpired         PublicState = "expired"
	PublicSkipped         PublicState = "skipped"
)

// PublicStates lists the eleven public states in a fixed order.
func PublicStates() []PublicState {
	return []PublicState{PublicWaiting, PublicDelayed, PublicWaitingChildren, PublicRateLimited, PublicActive,
		PublicSuspended, PublicCompleted, PublicFailed, PublicCancelled, PublicExpired, PublicSkipped}
}

// Terminal reports whether the public state is one of the five endings.
func (p PublicState) Terminal() bool {
	switch p {
	case PublicCompleted, PublicFailed, PublicCancelled, PublicExpired, PublicSkipped:
		return true
	}
	return false
}

// StateVector is the state of an execution in six dimensions, with the public
// state derived from them. The engine writes all seven in one atomic step.
// (Specification 01, section 4.)
type StateVector struct {
	LifecyclePhase   LifecyclePhase   `json:"lifecycle_phase"`
	OwnershipState   OwnershipState   `json:"ownership_state"`
	EligibilityState EligibilityState `json:"eligibility_state"`
	BlockingReason   BlockingReason   `json:"blocking_reason,omitempty"`
	TerminalOutcome  TerminalOutcome  `json:"terminal_outcome"`
	AttemptState     AttemptPhase     `json:"attempt_state"`
	PublicState      PublicState      `json:"public_state"`
}
