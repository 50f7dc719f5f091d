package flowfabric

import (
	"context"
	"slices"
)

// Limits of suspensions. (Specification 03, section 7.)
const (
	MaxContinuationBytes         = 4096
	MaxSuspendIdempotencyBytes   = 256
	SuspendTimeoutToleranceMs    = 600_000
	MaxSuspendReplayTTLMs        = 604_800_000
	SuspendReplayGraceMs         = 60_000
	DefaultSuspendedLimit        = 100
	MaxResumeReasonBytes         = 4096
	ResumeTargetRunnable         = "runnable"
	ResumeTriggerOperator        = "operator"
	ResumeTriggerBudgetRecovered = "budget_recovered"
)

// SuspendReason says why an execution waits. (Specification 03, section 3.6.)
type SuspendReason string

// The reasons. SuspendPausedByBudget is the engine's own.
const (
	SuspendWaitingForSignal         SuspendReason = "waiting_for_signal"
	SuspendStepBoundary             SuspendReason = "step_boundary"
	SuspendWaitingForApproval       SuspendReason = "waiting_for_approval"
	SuspendWaitingForCallback       SuspendReason = "waiting_for_callback"
	SuspendWaitingForToolResult     SuspendReason = "waiting_for_tool_result"
	SuspendWaitingForOperatorReview SuspendReason = "waiting_for_operator_review"
	SuspendManualPause              SuspendReason = "manual_pause"
	SuspendPausedByPolicy           SuspendReason = "paused_by_policy"
	SuspendPausedByBudget           SuspendReason = "paused_by_budget"
)

// BlockingReason is the blocking reason of an execution suspended for the reason,
// "" for an unknown one.
func (r SuspendReason) BlockingReason() BlockingReason {
	switch r {
	case SuspendWaitingForSignal, SuspendStepBoundary:
		return ReasonWaitingForSignal
	case SuspendWaitingForApproval:
		return ReasonWaitingForApproval
	case SuspendWaitingForCallback:
		return ReasonWaitingForCallback
	case SuspendWaitingForToolResult:
		return ReasonWaitingForToolResult
	case SuspendWaitingForOperatorReview, SuspendManualPause:
		return ReasonPausedByOperator
	case SuspendPausedByPolicy:
		return ReasonPausedByPolicy
	case SuspendPausedByBudget:
		return ReasonWaitingForBudget
	}
	return ""
}

// SuspendRequester says on whose wish an execution was suspended.
type SuspendRequester string

// The requesters; the zero value counts as RequestedByWorker.
const (
	RequestedByWorker        SuspendRequester = "worker"
	RequestedByOperator      SuspendRequester = "operator"
	RequestedByPolicy        SuspendRequester = "policy"
	RequestedByTimeoutPolicy SuspendRequester = "system_timeout_policy"
)

// TimeoutBehavior says what a suspension's timeout does. (Specification 03,
// section 3.5.)
type TimeoutBehavior string

// The timeout behaviours; the zero value is the policy's, else TimeoutFail.
const (
	TimeoutFail       TimeoutBehavior = "fail"
	TimeoutCancel     TimeoutBehavior = "cancel"
	TimeoutExpire     TimeoutBehavior = "expire"
	TimeoutAutoResume TimeoutBehavior = "auto_resume_with_timeout_signal"
	TimeoutEscalate   TimeoutBehavior = "escalate"
)

// SuspensionCloseReason says what ended a suspension.
type SuspensionCloseReason string

// The close reasons.
const (
	ClosedResumed           SuspensionCloseReason = "resumed"
	ClosedAlreadySatisfied  SuspensionCloseReason = "already_satisfied"
	ClosedOperatorResume    SuspensionCloseReason = "operator_resume"
	ClosedBudgetRecovered   SuspensionCloseReason = "budget_recovered"
	ClosedTimedOutFail      SuspensionCloseReason = "timed_out_fail"
	ClosedTimedOutCancel    SuspensionCloseReason = "timed_out_cancel"
	ClosedTimedOutExpire    SuspensionCloseReason = "timed_out_expire"
	ClosedTimedOutResume    SuspensionCloseReason = "timed_out_auto_resume"
	ClosedCancelled         SuspensionCloseReason = "cancelled"
	ClosedDeadlineExpired   SuspensionCloseReason = "deadline_expired"
	ClosedNeverCommitted    SuspensionCloseReason = "never_committed"    // of a waitpoint
	ClosedSuperseded        SuspensionCloseReason = "superseded"         // of a waitpoint
	ClosedExecutionTerminal SuspensionCloseReason = "execution_terminal" // of a waitpoint
)

// BySignals reports whether the reason is one after which the resumed worker sees
// the signals.
func (r SuspensionCloseReason) BySignals() bool {
	return r == ClosedResumed || r == ClosedAlreadySatisfied || r == ClosedTimedOutResume
}

// WaitpointBinding attaches one waitpoint to a suspension: a fresh one by id and
// key, or a pending one by id alone (UsePending).
type WaitpointBinding struct {
	// WaitpointID of a fresh binding is minted when empty.
	WaitpointID WaitpointID
	// WaitpointKey of a fresh binding is 1..256 bytes; empty means "wpk:" and the
	// id. UsePending bindings have none.
	WaitpointKey string
	UsePending   bool
}

// ResumePolicy says how an execution resumes. (Specification 03, section 3.7.)
type ResumePolicy struct {
	// ResumeTarget is only ever "runnable", the default.
	ResumeTarget  string `json:"resume_target"`
	ResumeDelayMs int64  `json:"resume_delay_ms"`
	// CloseWaitpointOnResume and ConsumeMatchedSignals default to true (nil).
	CloseWaitpointOnResume *bool `json:"close_waitpoint_on_resume"`
	ConsumeMatchedSignals  *bool `json:"consume_matched_signals"`
}

// SuspendArgs is the input of Suspend, and of SuspendByTriple, which differ only
// in where the caller has the fence from. (Specification 03, section 4.2.)
type SuspendArgs struct {
	ExecutionID  ExecutionID
	Fence        Fence        // required
	SuspensionID SuspensionID // minted when empty
	// Waitpoints are 1..64 bindings; the first is the primary one.
	Waitpoints      []WaitpointBinding
	ResumeCondition ResumeCondition
	ResumePolicy    ResumePolicy
	ReasonCode      SuspendReason
	RequestedBy     SuspendRequester
	// TimeoutMs (> 0, from the store's now) or TimeoutAt; at most one. Neither
	// means the execution policy's default_timeout_ms, else no timeout.
	TimeoutMs       *int64
	TimeoutAt       Millis
	TimeoutBehavior TimeoutBehavior
	// ContinuationMetadataPointer is the caller's, at most 4096 bytes.
	ContinuationMetadataPointer string
	// IdempotencyKey, at most 256 bytes, makes the call repeatable.
	IdempotencyKey string
}

// SuspendOutcome tells how a suspend ended.
type SuspendOutcome string

// The outcomes of a suspend.
const (
	SuspendSuspended        SuspendOutcome = "suspended"
	SuspendAlreadySatisfied SuspendOutcome = "already_satisfied"
)

// BoundWaitpoint is a waitpoint of a suspension with its token, in the answer to
// the suspend only.
type BoundWaitpoint struct {
	WaitpointID  WaitpointID
	WaitpointKey string
	Token        WaitpointToken
}

// SuspendResult is Suspended{SuspensionID, Waitpoints with tokens} or
// AlreadySatisfied{SuspensionID, Waitpoints without tokens, Signals}: then the
// lease is kept. Waitpoints are in the order of the bindings.
type SuspendResult struct {
	Outcome      SuspendOutcome
	SuspensionID SuspensionID
	Waitpoints   []BoundWaitpoint
	Signals      []ResumeSignal
	// Replayed: the answer to an earlier call with the same idempotency key.
	Replayed bool
}

// WaitpointRef names a waitpoint of a suspension.
type WaitpointRef struct {
	WaitpointID  WaitpointID `json:"waitpoint_id"`
	WaitpointKey string      `json:"waitpoint_key"`
}

// ConditionProgress is how far one node of a condition is.
type ConditionProgress struct {
	Path           string        `json:"path"` // "<root>", "members[0].members[2]"
	Kind           ConditionKind `json:"kind"`
	Satisfied      bool          `json:"satisfied"`
	SatisfierCount int           `json:"satisfier_count"` // of an all_of: its satisfied members
	// SourcesByType counts the distinct sources of a distinct_sources count.
	SourcesByType map[string]int `json:"sources_by_type,omitempty"`
}

// Suspension is the record of one waiting episode. (Specification 03, section
// 2.1.)
type Suspension struct {
	SuspensionID                SuspensionID          `json:"suspension_id"`
	ExecutionID                 ExecutionID           `json:"execution_id"`
	AttemptID                   AttemptID             `json:"attempt_id"`
	AttemptIndex                uint32                `json:"attempt_index"`
	LeaseID                     LeaseID               `json:"-"` // part of the fence: never shown
	LeaseEpoch                  uint64                `json:"lease_epoch"`
	Waitpoints                  []WaitpointRef        `json:"waitpoints"`
	ReasonCode                  SuspendReason         `json:"reason_code"`
	RequestedBy                 SuspendRequester      `json:"requested_by"`
	CreatedAt                   Millis                `json:"created_at"`
	TimeoutAt                   Millis                `json:"timeout_at,omitempty"`
	TimeoutBehavior             TimeoutBehavior       `json:"timeout_behavior,omitempty"`
	ResumeCondition             ResumeCondition       `json:"resume_condition"`
	ResumePolicy                ResumePolicy          `json:"resume_policy"`
	ContinuationMetadataPointer string                `json:"continuation_metadata_pointer,omitempty"`
	AttemptTimeoutRemainingMs   *int64                `json:"attempt_timeout_remaining_ms,omitempty"`
	SignalCount                 uint64                `json:"signal_count"`
	MatchedSignalCount          uint64                `json:"matched_signal_count"`
	LastSignalAt                Millis                `json:"last_signal_at,omitempty"`
	EscalatedAt                 Millis                `json:"escalated_at,omitempty"`
	SatisfiedAt                 Millis                `json:"satisfied_at,omitempty"`
	ClosedAt                    Millis                `json:"closed_at,omitempty"`
	CloseReason                 SuspensionCloseReason `json:"close_reason,omitempty"`
	CloserSignalID              SignalID              `json:"closer_signal_id,omitempty"`
	SatisfierSignalIDs          []SignalID            `json:"satisfier_signal_ids,omitempty"`
	// Progress has one entry a node of the condition, in depth-first order.
	Progress []ConditionProgress `json:"progress"`
}

// ResumeExecutionArgs is the input of ResumeExecution. (Specification 03,
// section 4.5.)
type ResumeExecutionArgs struct {
	ExecutionID ExecutionID
	Trigger     string // operator (default); budget_recovered is the engine's
	Reason      string // cut at 4096 bytes
	// ResumeDelayMs overrides the suspension's resume policy; >= 0.
	ResumeDelayMs *int64
}

// ResumeExecutionResult is the new public state: waiting or delayed.
type ResumeExecutionResult struct {
	PublicState PublicState
}

// ListSuspendedArgs is the input of ListSuspended. Limit is 1..1000; 0 means 100.
type ListSuspendedArgs struct {
	Partition  *uint16 // nil: all, one after the other
	Namespace  Namespace
	Namespaces []Namespace
	Cursor     string // opaque
	Limit      int
}

// SuspendedExecution is one entry of ListSuspended.
type SuspendedExecution struct {
	ExecutionID ExecutionID   `json:"execution_id"`
	SuspendedAt Millis        `json:"suspended_at"`
	TimeoutAt   Millis        `json:"timeout_at,omitempty"`
	ReasonCode  SuspendReason `json:"reason_code"`
}

// ListSuspendedResult is one page; within a partition it is ordered by
// (timeout_at, none last, execution id). NextCursor "" is the end.
type ListSuspendedResult struct {
	Executions []SuspendedExecution
	NextCursor string
}

// Suspensions is the suspension primitive's part of the contract. (Specification
// 03, section 4.)
type Suspensions interface {
	// Suspend gives the lease up and waits, or finds the condition met by buffered
	// signals and keeps the lease. Errors: invalid_input (details reason:
	// waitpoints_empty, too_many_waitpoints, waitpoint_key_mismatch,
	// duplicate_binding, timeout_at_in_past), invalid_resume_condition,
	// invalid_waitpoint_key, invalid_waitpoint_for_execution,
	// waitpoint_not_token_bound, waitpoint_not_found, waitpoint_not_pending,
	// waitpoint_already_exists, waitpoint_limit_exceeded,
	// pending_waitpoint_expired, execution_not_found, execution_not_active,
	// stale_lease, lease_expired, lease_revoked, fence_required,
	// partial_fence_triple, already_suspended, hmac_secret_not_initialized,
	// invalid_secret. A refused suspend changes nothing.
	Suspend(ctx context.Context, args SuspendArgs) (SuspendResult, error)
	// ResumeExecution ends a suspension whatever its condition. Errors:
	// execution_not_found, execution_not_suspended.
	ResumeExecution(ctx context.Context, args ResumeExecutionArgs) (ResumeExecutionResult, error)
	// GetSuspension returns the current or last suspension, nil when the execution
	// has never been suspended; execution_not_found.
	GetSuspension(ctx context.Context, id ExecutionID) (*Suspension, error)
	ListSuspended(ctx context.Context, args ListSuspendedArgs) (ListSuspendedResult, error)
}

// ExpireSuspensionOutcome tells how an ExpireSuspension ended.
type ExpireSuspensionOutcome string

// The outcomes of ExpireSuspension.
const (
	SuspensionTimeoutApplied    ExpireSuspensionOutcome = "applied"
	SuspensionTimeoutNotApplied ExpireSuspensionOutcome = "not_applied"
)

// ExpireSuspensionResult is applied{Behavior, PublicState} or
// not_applied{Reason: execution_not_found, not_suspended, no_active_suspension,
// not_yet_due}.
type ExpireSuspensionResult struct {
	Outcome     ExpireSuspensionOutcome
	Behavior    TimeoutBehavior
	PublicState PublicState
	Reason      string
}

// SuspendForBudgetArgs is the input of SuspendForBudget. A fence that no longer
// holds changes nothing; a Fence with only the epoch means the lease epoch seen.
// (Specification 03, section 4.10.)
type SuspendForBudgetArgs struct {
	ExecutionID  ExecutionID
	Fence        Fence
	BudgetID     string
	SuspensionID SuspensionID // minted when empty
	Detail       string       // the blocking detail
}

// WithDefaults returns the arguments with what the caller left out filled in:
// identifiers are minted, keys of fresh bindings made of them, the requester is
// the worker, the resume policy complete, repeated keys of the condition
// collapsed. It checks nothing, and the result shares no list with the caller's.
func (a SuspendArgs) WithDefaults() SuspendArgs {
	if a.SuspensionID == "" {
		a.SuspensionID = NewSuspensionID()
	}
	if a.RequestedBy == "" {
		a.RequestedBy = RequestedByWorker
	}
	a.Waitpoints = slices.Clone(a.Waitpoints)
	for i := range a.Waitpoints {
		if b := &a.Waitpoints[i]; !b.UsePending {
			if b.WaitpointID == "" {
				b.WaitpointID = NewWaitpointID()
			}
			if b.WaitpointKey == "" {
				b.WaitpointKey = DefaultWaitpointKeyStart + string(b.WaitpointID)
			}
		}
	}
	a.ResumeCondition = a.ResumeCondition.WithDefaults()
	a.ResumePolicy = a.ResumePolicy.WithDefaults()
	return a
}

// WithDefaults returns the policy with every field given.
func (p ResumePolicy) WithDefaults() ResumePolicy {
	yes := true
	if p.ResumeTarget == "" {
		p.ResumeTarget = ResumeTargetRunnable
	}
	if p.CloseWaitpointOnResume == nil {
		p.CloseWaitpointOnResume = &yes
	}
	if p.ConsumeMatchedSignals == nil {
		p.ConsumeMatchedSignals = &yes
	}
	return p
}
