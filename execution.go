package flowfabric

import (
	"context"
	"encoding/json"
)

// Limits of an execution. (Specification 01, section 11.)
const (
	MaxPayloadBytes         = 1 << 20
	MaxPriority             = 9000
	MaxReasonBytes          = 4096
	MaxTags                 = 128
	MaxTagKeyBytes          = 256
	MaxTagValueBytes        = 4096
	MaxProgressMessageBytes = 4096
	MaxBatchItems           = 100
	MaxListLimit            = 1000
	DefaultListLimit        = 50
	MaxListExamined         = 10_000
	MaxWaitMs               = 30_000
)

// Fence is the triple that proves ownership of an execution: it names one lease
// of one attempt. The zero Fence is "no fence". (Specification 02, section 3.)
type Fence struct {
	LeaseID    LeaseID   `json:"lease_id"`
	LeaseEpoch uint64    `json:"lease_epoch"`
	AttemptID  AttemptID `json:"attempt_id"`
	// AttemptIndex, when set, must be the current attempt's index as well; a
	// difference counts as a stale fence. HTTP sets it from the path.
	AttemptIndex *uint32 `json:"-"`
}

// Empty reports that no part of the triple is given.
func (f Fence) Empty() bool { return f.LeaseID == "" && f.LeaseEpoch == 0 && f.AttemptID == "" }

// Complete reports that all three parts of the triple are given.
func (f Fence) Complete() bool { return f.LeaseID != "" && f.LeaseEpoch != 0 && f.AttemptID != "" }

// Source says on whose behalf an operation acts.
type Source string

// The sources. The zero value counts as SourceLeaseHolder.
const (
	SourceLeaseHolder      Source = "lease_holder"
	SourceOperatorOverride Source = "operator_override"
	SourceFlowCascade      Source = "flow_cascade"
	SourceSystemTimeout    Source = "system_timeout"
)

// AttemptType says why an attempt was made.
type AttemptType string

// The attempt types.
const (
	AttemptTypeInitial  AttemptType = "initial"
	AttemptTypeRetry    AttemptType = "retry"
	AttemptTypeReclaim  AttemptType = "reclaim"
	AttemptTypeReplay   AttemptType = "replay"
	AttemptTypeFallback AttemptType = "fallback"
)

// Execution is the record of one execution without payloads, policy and tags.
// Optional fields are zero when absent. (Specification 01, section 3.1.)
type Execution struct {
	ExecutionID     ExecutionID `json:"execution_id"`
	Namespace       Namespace   `json:"namespace"`
	LaneID          LaneID      `json:"lane_id"`
	Kind            string      `json:"execution_kind"`
	CreatorIdentity string      `json:"creator_identity"`
	FlowID          FlowID      `json:"flow_id,omitempty"`
	IdempotencyKey  string      `json:"idempotency_key,omitempty"`
	SpecDigest      string      `json:"spec_digest"`

	// RequiredCapabilities is sorted and without duplicates.
	RequiredCapabilities []string         `json:"required_capabilities,omitempty"`
	BudgetIDs            []string         `json:"budget_ids,omitempty"`
	QuotaPolicyIDs       []string         `json:"quota_policy_ids,omitempty"`
	EstimatedUsage       map[string]int64 `json:"estimated_usage,omitempty"`
	// Priority is 0..9000; higher runs first.
	Priority int32 `json:"priority"`

	StateVector
	BlockingDetail string   `json:"blocking_detail,omitempty"`
	BlockingRef    string   `json:"blocking_ref,omitempty"`
	BlockedUntil   Millis   `json:"blocked_until,omitempty"`
	BlockedSince   Millis   `json:"blocked_since,omitempty"`
	AdmissionRefs  []string `json:"admission_refs,omitempty"`

	// CurrentAttemptID is empty before the first claim and while a new attempt
	// is pending.
	CurrentAttemptID AttemptID `json:"current_attempt_id,omitempty"`
	// TotalAttemptCount is the number of attempts ever made, so the index of the
	// next one; the current attempt's index is one less.
	TotalAttemptCount uint32 `json:"total_attempt_count"`

	CurrentLeaseID          LeaseID          `json:"current_lease_id,omitempty"`
	CurrentWorkerID         WorkerID         `json:"current_worker_id,omitempty"`
	CurrentWorkerInstanceID WorkerInstanceID `json:"current_worker_instance_id,omitempty"`
	LeaseAcquiredAt         Millis           `json:"lease_acquired_at,omitempty"`
	LeaseExpiresAt          Millis           `json:"lease_expires_at,omitempty"`
	LeaseLastRenewedAt      Millis           `json:"lease_last_renewed_at,omitempty"`
	LeaseRenewalDeadline    Millis           `json:"lease_renewal_deadline,omitempty"`
	CurrentLeaseEpoch       uint64           `json:"current_lease_epoch"`
	CurrentLane             LaneID           `json:"current_lane,omitempty"`
	LeaseExpiredAt          Millis           `json:"lease_expired_at,omitempty"`
	LeaseRevokedAt          Millis           `json:"lease_revoked_at,omitempty"`
	LeaseRevokeReason       string           `json:"lease_revoke_reason,omitempty"`
	ReclaimHold             bool             `json:"reclaim_hold,omitempty"`
	ReclaimNotBefore        Millis           `json:"reclaim_not_before,omitempty"`

	RetryCount        uint32 `json:"retry_count"`
	LeaseReclaimCount uint32 `json:"lease_reclaim_count"`
	FallbackIndex     uint32 `json:"fallback_index"`
	ReplayCount       uint32 `json:"replay_count"`
	TerminalSeq       uint64 `json:"terminal_seq"`

	// PendingAttemptType is retry, fallback, replay or empty.
	PendingAttemptType          AttemptType `json:"pending_attempt_type,omitempty"`
	PendingReason               string      `json:"pending_reason,omitempty"`
	PendingRequestedBy          string      `json:"pending_requested_by,omitempty"`
	PendingPreviousAttemptIndex *uint32     `json:"pending_previous_attempt_index,omitempty"`

	DelayUntil          Millis `json:"delay_until,omitempty"`
	ExecutionDeadlineAt Millis `json:"execution_deadline_at,omitempty"`
	AttemptTimeoutAt    Millis `json:"attempt_timeout_at,omitempty"`

	CurrentSuspensionID SuspensionID `json:"current_suspension_id,omitempty"`
	CurrentWaitpointID  WaitpointID  `json:"current_waitpoint_id,omitempty"`

	FailureReason      string `json:"failure_reason,omitempty"`
	FailureCategory    string `json:"failure_category,omitempty"`
	CancellationReason string `json:"cancellation_reason,omitempty"`
	CancelledBy        string `json:"cancelled_by,omitempty"`

	ProgressPct       *int32 `json:"progress_pct,omitempty"`
	ProgressMessage   string `json:"progress_message,omitempty"`
	ProgressUpdatedAt Millis `json:"progress_updated_at,omitempty"`

	ReleaseReceipt *ReleaseReceipt `json:"release_receipt,omitempty"`

	CreatedAt                  Millis `json:"created_at"`
	StartedAt                  Millis `json:"started_at,omitempty"`
	CompletedAt                Millis `json:"completed_at,omitempty"`
	LastTransitionAt           Millis `json:"last_transition_at"`
	LastMutationAt             Millis `json:"last_mutation_at"`
	PurgeAfter                 Millis `json:"purge_after,omitempty"`
	LastCapabilityMismatchAt   Millis `json:"last_capability_mismatch_at,omitempty"`
	LastHMACValidationFailedAt Millis `json:"last_hmac_validation_failed_at,omitempty"`
}

// CurrentAttemptIndex returns the index of the latest attempt and whether there
// has been one.
func (e *Execution) CurrentAttemptIndex() (uint32, bool) {
	if e.TotalAttemptCount == 0 {
		return 0, false
	}
	return e.TotalAttemptCount - 1, true
}

// ReceiptOp names the operation a release receipt belongs to.
type ReceiptOp string

// The operations that write receipts.
const (
	ReceiptComplete        ReceiptOp = "complete"
	ReceiptFail            ReceiptOp = "fail"
	ReceiptCancel          ReceiptOp = "cancel"
	ReceiptDelay           ReceiptOp = "delay"
	ReceiptWaitingChildren ReceiptOp = "waiting_children"
	ReceiptExpire          ReceiptOp = "expire"
	ReceiptReclaimCap      ReceiptOp = "reclaim_cap"
)

// ReleaseReceipt describes the last release of a lease, so that a repeated call
// whose answer was lost gets the first answer again. (Specification 01,
// section 7.)
type ReleaseReceipt struct {
	Op         ReceiptOp `json:"op"`
	Source     Source    `json:"source"`
	LeaseID    LeaseID   `json:"lease_id"`
	LeaseEpoch uint64    `json:"lease_epoch"`
	AttemptID  AttemptID `json:"attempt_id"`
	// The stored result; which fields are set depends on Op.
	PublicState      PublicState    `json:"public_state,omitempty"`
	PreviousPhase    LifecyclePhase `json:"previous_phase,omitempty"`
	DelayUntil       Millis         `json:"delay_until,omitempty"`
	NextAttemptIndex uint32         `json:"next_attempt_index,omitempty"`
	AttemptType      AttemptType    `json:"attempt_type,omitempty"`
	RetryScheduled   bool           `json:"retry_scheduled,omitempty"`
}

// CreateExecutionArgs is the input of CreateExecution. (Specification 01,
// section 8.1.)
type CreateExecutionArgs struct {
	// ExecutionID is minted when empty.
	ExecutionID ExecutionID
	// FlowID places a minted identifier on the flow's partition; membership is
	// an operation of the flow primitive.
	FlowID    FlowID
	Namespace Namespace // required
	LaneID    LaneID    // required
	Kind      string    // required: 1..128 bytes of printable ASCII without spaces
	// Payload is opaque, at most 1,048,576 bytes.
	Payload []byte
	// PayloadEncoding is a hint of at most 64 bytes; default "json".
	PayloadEncoding string
	// Priority overrides the policy's; clamped to 0..9000.
	Priority *int32
	// DelayUntil overrides the policy's.
	DelayUntil Millis
	// ExecutionDeadlineAt overrides the policy's duration.
	ExecutionDeadlineAt Millis
	CreatorIdentity     string // required: 1..256 bytes
	IdempotencyKey      string
	Tags                map[string]string
	// Policy is the policy document as given; empty means all defaults. See
	// [ParsePolicy] and [Policy.JSON].
	Policy json.RawMessage
}

// CreateOutcome tells how a create ended.
type CreateOutcome string

// The outcomes of a create.
const (
	OutcomeCreated   CreateOutcome = "created"
	OutcomeDuplicate CreateOutcome = "duplicate"
)

// CreateExecutionResult is Created{ExecutionID, PublicState} or
// Duplicate{ExecutionID, SameSpec}.
type CreateExecutionResult struct {
	Outcome     CreateOutcome
	ExecutionID ExecutionID
	PublicState PublicState // created only
	// SameSpec tells whether kind, lane, payload and policy of the repeat have
	// the digest of the first. Duplicate only.
	SameSpec bool
}

// Item is one answer of a batch: the result, or the error of that item alone.
type Item[R any] struct {
	Result R
	Err    error
}

// CompleteExecutionArgs is the input of CompleteExecution.
type CompleteExecutionArgs struct {
	ExecutionID ExecutionID
	Fence       Fence
	Source      Source
	// Result is stored when not nil, also when empty; nil stores no result.
	Result []byte
	// ResultEncoding is a hint of at most 64 bytes; default "json".
	ResultEncoding string
}

// CompleteExecutionResult is Completed.
type CompleteExecutionResult struct {
	PublicState PublicState
	Replayed    bool
}

// FailExecutionArgs is the input of FailExecution.
type FailExecutionArgs struct {
	ExecutionID ExecutionID
	Fence       Fence
	Source      Source
	// Reason is cut at 4096 bytes, at a character boundary.
	Reason string
	// Category is [a-z0-9][a-z0-9_.-]{0,63}; empty is stored as "transient".
	Category string
}

// FailOutcome tells what a failure led to.
type FailOutcome string

// The outcomes of a failure.
const (
	FailRetryScheduled FailOutcome = "retry_scheduled"
	FailTerminal       FailOutcome = "terminal_failed"
)

// FailExecutionResult is RetryScheduled{DelayUntil, NextAttemptIndex,
// AttemptType} or TerminalFailed.
type FailExecutionResult struct {
	Outcome          FailOutcome
	DelayUntil       Millis
	NextAttemptIndex uint32
	AttemptType      AttemptType
	Replayed         bool
}

// CancelExecutionArgs is the input of CancelExecution. Only SourceLeaseHolder
// needs, and only it looks at, the fence.
type CancelExecutionArgs struct {
	ExecutionID ExecutionID
	Fence       Fence
	Source      Source
	Reason      string // cut at 4096 bytes
	RequestedBy string
}

// CancelOutcome tells how a cancel ended.
type CancelOutcome string

// The outcomes of a cancel.
const (
	CancelCancelled        CancelOutcome = "cancelled"
	CancelAlreadyCancelled CancelOutcome = "already_cancelled"
)

// CancelExecutionResult is Cancelled{PreviousPhase, PublicState, Replayed} or
// AlreadyCancelled{CancellationReason, CancelledBy}.
type CancelExecutionResult struct {
	Outcome            CancelOutcome
	PreviousPhase      LifecyclePhase
	PublicState        PublicState
	Replayed           bool
	CancellationReason string
	CancelledBy        string
}

// DelayExecutionArgs is the input of DelayExecution. Exactly one of DelayUntil
// (> 0, may be past) and DelayMs (>= 0, from the store's now) is given.
type DelayExecutionArgs struct {
	ExecutionID ExecutionID
	Fence       Fence
	Source      Source
	DelayUntil  Millis
	DelayMs     *int64
}

// DelayExecutionResult is Delayed.
type DelayExecutionResult struct {
	DelayUntil  Millis
	PublicState PublicState
	Replayed    bool
}

// ReplayExecutionArgs is the input of ReplayExecution.
type ReplayExecutionArgs struct {
	ExecutionID         ExecutionID
	Reason              string // default "manual"
	RequestedBy         string // default "operator"
	ExpectedReplayCount *uint32
}

// ReplayExecutionResult is Replayed.
type ReplayExecutionResult struct {
	PublicState PublicState
	ReplayCount uint32
	Replayed    bool
}

// ChangePriorityArgs is the input of ChangePriority.
type ChangePriorityArgs struct {
	ExecutionID ExecutionID
	Priority    int32 // clamped to 0..9000
}

// ChangePriorityResult is Changed, both values after clamping.
type ChangePriorityResult struct {
	OldPriority int32
	NewPriority int32
}

// UpdateProgressArgs is the input of UpdateProgress: at least one of Pct
// (0..100) and Message (at most 4096 bytes) is given.
type UpdateProgressArgs struct {
	ExecutionID ExecutionID
	Fence       Fence
	Pct         *int32
	Message     *string
}

// BlockExecutionArgs is the input of BlockForAdmission and UnblockExecution
// with the reason paused_by_operator. (Specification 06, section 8.)
type BlockExecutionArgs struct {
	ExecutionID ExecutionID
	Detail      string // at most 4096 bytes; ignored by an unblock
}

// BlockExecutionResult is the state after a block or unblock.
type BlockExecutionResult struct {
	PublicState PublicState
}

// ExecutionResult is a stored result. Present is false when there is none:
// before completion, after a failure, a replay or a purge, for an unknown
// execution, or when the worker completed without a payload.
type ExecutionResult struct {
	Present  bool
	Payload  []byte
	Encoding string
}

// ExecutionInput is a stored input.
type ExecutionInput struct {
	Payload  []byte
	Encoding string
}

// ExecutionContext is what a worker reads after a claim.
type ExecutionContext struct {
	Payload         []byte
	PayloadEncoding string
	Kind            string
	Tags            map[string]string
	AttemptType     AttemptType     // empty before the first claim
	PolicySnapshot  *PolicySnapshot // nil before the first claim
}

// CurrentAttempt is the attempt part of a snapshot.
type CurrentAttempt struct {
	AttemptID    AttemptID `json:"attempt_id"`
	AttemptIndex uint32    `json:"attempt_index"`
}

// CurrentLease is the lease part of a snapshot. It leaves out lease_id, which is
// part of the fence.
type CurrentLease struct {
	LeaseEpoch       uint64           `json:"lease_epoch"`
	WorkerInstanceID WorkerInstanceID `json:"worker_instance_id"`
	ExpiresAt        Millis           `json:"expires_at"`
	AttemptIndex     uint32           `json:"attempt_index"`
	LastHeartbeatAt  Millis           `json:"last_heartbeat_at"`
}

// ExecutionSnapshot is what DescribeExecution returns: one consistent version,
// tags included. (Specification 01, section 8.11; 08, section 4.1.1.)
type ExecutionSnapshot struct {
	ExecutionID         ExecutionID       `json:"execution_id"`
	FlowID              FlowID            `json:"flow_id,omitempty"`
	LaneID              LaneID            `json:"lane_id"`
	Namespace           Namespace         `json:"namespace"`
	Kind                string            `json:"execution_kind"`
	Priority            int32             `json:"priority"`
	PublicState         PublicState       `json:"public_state"`
	LifecyclePhase      LifecyclePhase    `json:"lifecycle_phase"`
	OwnershipState      OwnershipState    `json:"ownership_state"`
	EligibilityState    EligibilityState  `json:"eligibility_state"`
	BlockingReason      BlockingReason    `json:"blocking_reason,omitempty"` // empty for "none"
	BlockingDetail      string            `json:"blocking_detail,omitempty"`
	BlockingRef         string            `json:"blocking_ref,omitempty"`
	BlockedUntil        Millis            `json:"blocked_until,omitempty"`
	BlockedSince        Millis            `json:"blocked_since,omitempty"`
	TerminalOutcome     TerminalOutcome   `json:"terminal_outcome"`
	AttemptState        AttemptPhase      `json:"attempt_state"`
	CurrentAttempt      *CurrentAttempt   `json:"current_attempt,omitempty"`
	CurrentLease        *CurrentLease     `json:"current_lease,omitempty"`
	CurrentWaitpointID  WaitpointID       `json:"current_waitpoint_id,omitempty"`
	ProgressPct         *int32            `json:"progress_pct,omitempty"`
	ProgressMessage     string            `json:"progress_message,omitempty"`
	FailureReason       string            `json:"failure_reason,omitempty"`
	FailureCategory     string            `json:"failure_category,omitempty"`
	CancellationReason  string            `json:"cancellation_reason,omitempty"`
	CancelledBy         string            `json:"cancelled_by,omitempty"`
	TotalAttemptCount   uint32            `json:"total_attempt_count"`
	RetryCount          uint32            `json:"retry_count"`
	LeaseReclaimCount   uint32            `json:"lease_reclaim_count"`
	ReplayCount         uint32            `json:"replay_count"`
	CreatedAt           Millis            `json:"created_at"`
	StartedAt           Millis            `json:"started_at,omitempty"`
	CompletedAt         Millis            `json:"completed_at,omitempty"`
	DelayUntil          Millis            `json:"delay_until,omitempty"`
	ExecutionDeadlineAt Millis            `json:"execution_deadline_at,omitempty"`
	PurgeAfter          Millis            `json:"purge_after,omitempty"`
	LastTransitionAt    Millis            `json:"last_transition_at"`
	LastMutationAt      Millis            `json:"last_mutation_at"`
	Tags                map[string]string `json:"tags"` // never nil
}

// ListExecutionsArgs selects executions of one partition. All filters must hold.
type ListExecutionsArgs struct {
	Partition uint16
	// Cursor is exclusive and must belong to the partition, else invalid_cursor.
	Cursor ExecutionID
	// Limit is 1..1000; 0 means 50. HTTP refuses 0.
	Limit        int
	Namespace    Namespace
	Namespaces   []Namespace // when not nil, only these (a token's)
	LaneID       LaneID
	PublicStates []PublicState // any of them
	Kind         string
	FlowID       FlowID
	Tags         map[string]string
}

// ExecutionSummary is one row of a listing.
type ExecutionSummary struct {
	ExecutionID ExecutionID `json:"execution_id"`
	Namespace   Namespace   `json:"namespace"`
	LaneID      LaneID      `json:"lane_id"`
	Kind        string      `json:"execution_kind"`
	PublicState PublicState `json:"public_state"`
	Priority    int32       `json:"priority"`
	CreatedAt   Millis      `json:"created_at"`
}

// ListExecutionsResult is one page, identifiers ascending by text. NextCursor is
// set if and only if at least one more unexamined execution exists past it; a
// page may be short or empty while it is set.
type ListExecutionsResult struct {
	Executions []ExecutionSummary
	NextCursor ExecutionID
}

// Executions is the execution primitive's part of the contract.
type Executions interface {
	// CreateExecutions creates 1..100 executions, each independent of the others
	// (0: invalid_input, more: batch_too_large). Answers are in input order.
	CreateExecutions(ctx context.Context, items []CreateExecutionArgs) ([]Item[CreateExecutionResult], error)
	// CompleteExecutions ends 1..100 executions with success, each on its own.
	CompleteExecutions(ctx context.Context, items []CompleteExecutionArgs) ([]Item[CompleteExecutionResult], error)
	FailExecution(ctx context.Context, args FailExecutionArgs) (FailExecutionResult, error)
	CancelExecution(ctx context.Context, args CancelExecutionArgs) (CancelExecutionResult, error)
	DelayExecution(ctx context.Context, args DelayExecutionArgs) (DelayExecutionResult, error)
	ReplayExecution(ctx context.Context, args ReplayExecutionArgs) (ReplayExecutionResult, error)
	ChangePriority(ctx context.Context, args ChangePriorityArgs) (ChangePriorityResult, error)
	UpdateProgress(ctx context.Context, args UpdateProgressArgs) error
	// PauseExecution blocks a waiting execution with paused_by_operator; only
	// UnpauseExecution clears it.
	PauseExecution(ctx context.Context, args BlockExecutionArgs) (BlockExecutionResult, error)
	UnpauseExecution(ctx context.Context, args BlockExecutionArgs) (BlockExecutionResult, error)

	// SetExecutionTags upserts tags and returns how many pairs were given.
	SetExecutionTags(ctx context.Context, id ExecutionID, tags map[string]string) (int, error)
	// RemoveExecutionTag reports whether the tag was there.
	RemoveExecutionTag(ctx context.Context, id ExecutionID, key string) (bool, error)
	// GetExecutionTags returns a map, empty when there is none or no execution.
	GetExecutionTags(ctx context.Context, id ExecutionID) (map[string]string, error)

	// GetExecution returns the record or execution_not_found.
	GetExecution(ctx context.Context, id ExecutionID) (*Execution, error)
	// DescribeExecution returns nil, nil when no execution exists at the id.
	DescribeExecution(ctx context.Context, id ExecutionID) (*ExecutionSnapshot, error)
	GetExecutionState(ctx context.Context, id ExecutionID) (PublicState, error)
	// GetExecutionResult never fails for want of a result.
	GetExecutionResult(ctx context.Context, id ExecutionID) (ExecutionResult, error)
	// GetExecutionInput returns the input or execution_not_found.
	GetExecutionInput(ctx context.Context, id ExecutionID) (ExecutionInput, error)
	// GetExecutionPolicy returns the frozen policy or execution_not_found.
	GetExecutionPolicy(ctx context.Context, id ExecutionID) (*Policy, error)
	ReadExecutionContext(ctx context.Context, id ExecutionID) (ExecutionContext, error)
	ListExecutions(ctx context.Context, args ListExecutionsArgs) (ListExecutionsResult, error)

	// GetAttempt returns an attempt with its usage, else attempt_not_found.
	GetAttempt(ctx context.Context, id ExecutionID, index uint32) (*Attempt, error)
	// GetCurrentAttempt returns the attempt of the highest index, else
	// no_attempts_exist.
	GetCurrentAttempt(ctx context.Context, id ExecutionID) (*Attempt, error)
	ListAttempts(ctx context.Context, args ListAttemptsArgs) (ListAttemptsResult, error)
}

// CreateExecution creates one execution.
func CreateExecution(ctx context.Context, b Executions, args CreateExecutionArgs) (CreateExecutionResult, error) {
	return single(b.CreateExecutions(ctx, []CreateExecutionArgs{args}))
}

// CompleteExecution ends one execution with success.
func CompleteExecution(ctx context.Context, b Executions, args CompleteExecutionArgs) (CompleteExecutionResult, error) {
	return single(b.CompleteExecutions(ctx, []CompleteExecutionArgs{args}))
}

func single[R any](items []Item[R], err error) (R, error) {
	var zero R
	if err != nil {
		return zero, err
	}
	if len(items) != 1 {
		return zero, NewError(CodeInternal, "batch of one answered with %d items", len(items))
	}
	return items[0].Result, items[0].Err
}
