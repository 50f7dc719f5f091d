package flowfabric

import "context"

// WakeEvent tells, after a commit, that something others may wait for has
// happened. It is a hint: whoever is woken looks for himself. (Specification
// 02, section 7.3.)
type WakeEvent struct {
	Kind      WakeKind
	Partition uint16
	// Lane, Namespace and Required are set for WakeEligible.
	LaneID    LaneID
	Namespace Namespace
	Required  []string
	// Count is how many executions became eligible, at least 1.
	Count int
	// ExecutionID is set for WakeSettled.
	ExecutionID ExecutionID
	// Completion is set for WakeSettled when the execution ended.
	Completion *Event
	// Feed is set for WakeFeed.
	Feed Feed
}

// WakeKind says what a WakeEvent tells of.
type WakeKind uint8

// The kinds of wake events.
const (
	WakeEligible WakeKind = iota + 1 // an execution may be claimed
	WakeSettled                      // an execution ended or was suspended
	WakeFeed                         // a feed has new events
	WakeLane                         // a lane's state or settings changed
	WakeDue                          // something became due earlier than known
)

// Candidate is an execution a claim may take, as a store shows it to a Picker.
type Candidate struct {
	LaneID    LaneID
	Namespace Namespace
	Priority  int32
	CreatedAt Millis
	// ID breaks ties: the execution's identifier.
	ID ExecutionID
}

// Picker chooses, out of the best candidates of each bucket, or of each lane and
// namespace, the one to take next: it holds the scheduler's fairness between
// lanes and tenants.
type Picker interface {
	// Pick returns the index of the head to take, or -1 to stop. Heads are never
	// empty.
	Pick(heads []Candidate) int
	// Taken tells that the picked candidate was granted or claimed.
	Taken(c Candidate)
}

// ClaimCandidatesArgs is the input of ClaimCandidates.
type ClaimCandidatesArgs struct {
	WorkerID         WorkerID
	WorkerInstanceID WorkerInstanceID
	Lanes            []LaneID
	Capabilities     []string // normal form: sorted, without duplicates
	Namespace        Namespace
	Namespaces       []Namespace
	Max              int
	// GrantTTLMs > 0 issues grants; otherwise candidates are claimed at once
	// with LeaseTTLMs.
	GrantTTLMs int64
	LeaseTTLMs int64
	// WaitMs is added to the TTL of an implicit registration.
	WaitMs int64
	Picker Picker
}

// ClaimCandidatesResult holds what was taken. UncoveredLabelled counts buckets
// labelled in this call.
type ClaimCandidatesResult struct {
	Grants            []Grant
	Tasks             []ClaimedExecution
	More              bool
	UncoveredLabelled int
}

// IssueClaimGrantArgs is the input of IssueClaimGrant. (Specification 02,
// section 5.1.)
type IssueClaimGrantArgs struct {
	ExecutionID      ExecutionID
	LaneID           LaneID
	WorkerID         WorkerID
	WorkerInstanceID WorkerInstanceID
	Capabilities     []string
	GrantTTLMs       int64
	RouteSnapshot    string
	AdmissionSummary string
	AdmissionRefs    []string
	IssuedBy         IssuedBy
}

// UpkeepOutcome tells how an engine-internal operation on one execution ended.
type UpkeepOutcome string

// The outcomes of engine-internal operations.
const (
	UpkeepMarkedExpired    UpkeepOutcome = "marked_expired"
	UpkeepAlreadySatisfied UpkeepOutcome = "already_satisfied"
	UpkeepPromoted         UpkeepOutcome = "promoted"
	UpkeepNotYetDue        UpkeepOutcome = "not_yet_due"
	UpkeepCleaned          UpkeepOutcome = "cleaned"
	UpkeepRetryScheduled   UpkeepOutcome = "retry_scheduled"
	UpkeepExpired          UpkeepOutcome = "expired"
	UpkeepPurged           UpkeepOutcome = "purged"
)

// MarkLeaseExpiredResult is marked_expired, or already_satisfied with a Reason:
// not_yet_expired, already_expired, already_revoked, not_active or
// execution_not_found.
type MarkLeaseExpiredResult struct {
	Outcome UpkeepOutcome
	Reason  string
}

// ExpireReason says which instant an ExpireExecution acts on.
type ExpireReason string

// The reasons to expire an execution.
const (
	ExpireAttemptTimeout    ExpireReason = "attempt_timeout"
	ExpireExecutionDeadline ExpireReason = "execution_deadline"
)

// TickArgs bounds one tick.
type TickArgs struct {
	// Limit is how many due executions one pass looks at; 0 means 200. The Valkey
	// store, which goes through its partitions side by side, looks at as many of each
	// partition, and 0 means 100 there. (Specification 07, section 8.1.)
	Limit int
}

// TickResult counts what a tick did, by duty name: lease_expiry, grant_lapse,
// delayed_promotion, attempt_timeout, execution_deadline, suspension_timeout,
// waitpoint_expiry, retention.
type TickResult struct {
	Examined int
	Duties   map[string]int
	// Errors counts items that failed; a failing item never stops the tick.
	Errors int
	// More tells that due items are left.
	More bool
	// NextDue is the next instant at which something is due; 0 when nothing is.
	NextDue Millis
}

// ReconcileArgs selects one partition, or a part of it.
type ReconcileArgs struct {
	Partition uint16
	Cursor    ExecutionID
	Limit     int // 0 means 100
}

// ReconcileResult counts what was repaired. Violations are vectors that break a
// validity rule: reported, never repaired.
type ReconcileResult struct {
	Examined   int
	Repaired   int
	Removed    int
	Violations []string
	Next       ExecutionID
}

// SweepResult counts what a sweep changed.
type SweepResult struct {
	Rows int
	More bool
}

// Upkeep is the engine-internal part of the contract: duties and the scheduler's
// hold on a store. It has no route. (Specification 01, section 9; 02, section
// 11; 08, section 4.5.)
type Upkeep interface {
	// Now is the store's clock.
	Now() Millis
	// Watch calls handle after every commit that others may wait for, until stop
	// is called. handle must not block.
	Watch(handle func([]WakeEvent)) (stop func())

	// ClaimCandidates registers the asking worker, lifts the labels of buckets it
	// covers, lets the picker choose among the claimable executions, and grants
	// or claims them: one atomic step per partition at most.
	ClaimCandidates(ctx context.Context, args ClaimCandidatesArgs) (ClaimCandidatesResult, error)
	IssueClaimGrant(ctx context.Context, args IssueClaimGrantArgs) (Grant, error)
	MarkLeaseExpiredIfDue(ctx context.Context, id ExecutionID) (MarkLeaseExpiredResult, error)
	PromoteDelayed(ctx context.Context, id ExecutionID) (UpkeepOutcome, error)
	ExpireExecution(ctx context.Context, id ExecutionID, reason ExpireReason) (UpkeepOutcome, error)
	Purge(ctx context.Context, id ExecutionID) (UpkeepOutcome, error)
	// ExpireSuspension applies a suspension's timeout if it has come; never an
	// error for stale work. (Specification 03, section 4.6.)
	ExpireSuspension(ctx context.Context, id ExecutionID) (ExpireSuspensionResult, error)
	// SuspendForBudget suspends an active execution whose budget is spent; it
	// reports whether it did. (Specification 03, section 4.10.)
	SuspendForBudget(ctx context.Context, args SuspendForBudgetArgs) (bool, error)
	// SeedWaitpointSecret installs the key in every copy of the ring that is empty,
	// puts a missing secret of the current key back, and leaves any other ring as
	// it is. (Specification 03, section 5.2.)
	SeedWaitpointSecret(ctx context.Context, kid, secretHex string) (SeedWaitpointSecretResult, error)

	// Tick acts on what is due, over all partitions, in order of due time.
	Tick(ctx context.Context, args TickArgs) (TickResult, error)
	Reconcile(ctx context.Context, args ReconcileArgs) (ReconcileResult, error)
	SweepRouteLabels(ctx context.Context) (SweepResult, error)
	SweepLanes(ctx context.Context) (SweepResult, error)
	SweepWorkers(ctx context.Context) (SweepResult, error)
	TrimFeeds(ctx context.Context) (SweepResult, error)
	// LaneWeights returns the scheduling weights of all lanes; it may be up to a
	// second old.
	LaneWeights(ctx context.Context) (map[LaneID]Lane, error)
}
