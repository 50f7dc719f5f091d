package flowfabric

import "context"

// Limits of a lease. (Specification 02, section 13.)
const (
	MinLeaseTTLMs           = 100
	MaxLeaseTTLMs           = 3_600_000
	DefaultLeaseTTLMs       = 30_000
	LeaseHistoryGraceMs     = 60_000
	MaxRevokeReasonBytes    = 256
	MaxExpiredLeasesLimit   = 10_000
	DefaultExpiredLeases    = 1_000
	DefaultExpiredLeaseSpan = 32
)

// ClaimKind says what a claim, or a grant, does with the attempt.
type ClaimKind string

// The kinds of claim.
const (
	ClaimNew     ClaimKind = "claim"   // a new attempt starts
	ClaimResume  ClaimKind = "resume"  // a paused attempt continues
	ClaimReclaim ClaimKind = "reclaim" // a lapsed or revoked lease is taken over
)

// TaskLabel returns fresh, resumed or reclaimed, the claim_kind of a task.
func (k ClaimKind) TaskLabel() string {
	switch k {
	case ClaimResume:
		return "resumed"
	case ClaimReclaim:
		return "reclaimed"
	}
	return "fresh"
}

// Lease is the current lease of an execution in detail. (Specification 02,
// section 2.1.)
type Lease struct {
	ExecutionID      ExecutionID      `json:"execution_id"`
	LeaseID          LeaseID          `json:"lease_id"`
	LeaseEpoch       uint64           `json:"lease_epoch"`
	AttemptID        AttemptID        `json:"attempt_id"`
	AttemptIndex     uint32           `json:"attempt_index"`
	WorkerID         WorkerID         `json:"worker_id"`
	WorkerInstanceID WorkerInstanceID `json:"worker_instance_id"`
	LaneID           LaneID           `json:"lane_id"`
	CapabilityHash   string           `json:"capability_hash,omitempty"`
	ClaimKind        ClaimKind        `json:"claim_kind"`
	OwnershipState   OwnershipState   `json:"ownership_state"`
	AcquiredAt       Millis           `json:"acquired_at"`
	LastRenewedAt    Millis           `json:"last_renewed_at"`
	ExpiresAt        Millis           `json:"expires_at"`
	RenewalDeadline  Millis           `json:"renewal_deadline"`
	PreviousLeaseID  LeaseID          `json:"previous_lease_id,omitempty"`
	// RemainingMs is 0 when the lease is not valid any more.
	RemainingMs int64 `json:"remaining_ms"`
}

// RenewLeaseArgs is the input of RenewLease.
type RenewLeaseArgs struct {
	ExecutionID ExecutionID
	Fence       Fence
	LeaseTTLMs  int64 // 100..3,600,000; 0 keeps the TTL of the claim or last renewal
}

// RenewLeaseResult is Renewed.
type RenewLeaseResult struct {
	LeaseEpoch uint64
	ExpiresAt  Millis
}

// RevokeLeaseArgs is the input of RevokeLease.
type RevokeLeaseArgs struct {
	ExecutionID     ExecutionID
	ExpectedLeaseID LeaseID
	Reason          string // 1..256 bytes without control characters; default operator_revoke
	Hold            bool   // not to be reclaimed automatically
	// RevokedBy is operator (default), worker, reconciler or backend; for the event.
	RevokedBy string
}

// RevokeOutcome tells how a revocation ended.
type RevokeOutcome string

// The outcomes of a revocation.
const (
	RevokeRevoked          RevokeOutcome = "revoked"
	RevokeAlreadySatisfied RevokeOutcome = "already_satisfied"
)

// RevokeLeaseResult is revoked{LeaseID, LeaseEpoch} or
// already_satisfied{Reason: already_revoked | already_expired}.
type RevokeLeaseResult struct {
	Outcome    RevokeOutcome
	LeaseID    LeaseID
	LeaseEpoch uint64
	Reason     string
}

// LeaseHistoryArgs selects lease events of one execution, oldest first. Limit is
// 1..1000; 0 means 50.
type LeaseHistoryArgs struct {
	ExecutionID ExecutionID
	After       uint64 // the Seq to start after
	Limit       int
}

// LeaseHistoryResult is one page; Next is 0 at the end.
type LeaseHistoryResult struct {
	Events []Event
	Next   uint64
}

// ListWorkerLeasesArgs selects the executions an instance holds now. Limit is
// 1..1000; 0 means 50.
type ListWorkerLeasesArgs struct {
	WorkerInstanceID WorkerInstanceID
	Namespace        Namespace // "" or "*": all
	Namespaces       []Namespace
	Cursor           ExecutionID // exclusive; order is (partition, id text)
	Limit            int
}

// ListWorkerLeasesResult is one page of held leases as tasks.
type ListWorkerLeasesResult struct {
	Tasks      []ClaimedExecution
	NextCursor ExecutionID
}

// ListExpiredLeasesArgs selects lapsed, not yet reclaimed leases.
type ListExpiredLeasesArgs struct {
	AsOf                 Millis // 0 means the store's now
	Cursor               string // opaque
	Limit                int    // 1..10,000; 0 means 1000
	MaxPartitionsPerCall int    // 1..65535; 0 means 32
	Namespace            Namespace
	Namespaces           []Namespace
}

// ExpiredLease is one lapsed lease.
type ExpiredLease struct {
	ExecutionID      ExecutionID      `json:"execution_id"`
	LeaseID          LeaseID          `json:"lease_id"`
	LeaseEpoch       uint64           `json:"lease_epoch"`
	AttemptIndex     uint32           `json:"attempt_index"`
	WorkerInstanceID WorkerInstanceID `json:"worker_instance_id"`
	ExpiresAt        Millis           `json:"expires_at"`
	Marked           bool             `json:"marked"`
}

// ListExpiredLeasesResult is one page from one range of partitions, ordered by
// (expires_at, execution_id) within it; NextCursor "" is the end.
type ListExpiredLeasesResult struct {
	Leases     []ExpiredLease
	NextCursor string
}

// Leases is the lease primitive's part of the contract. (Specification 02,
// section 4.)
type Leases interface {
	// RenewLeases renews 1..100 leases, each on its own, in input order.
	RenewLeases(ctx context.Context, items []RenewLeaseArgs) ([]Item[RenewLeaseResult], error)
	RevokeLease(ctx context.Context, args RevokeLeaseArgs) (RevokeLeaseResult, error)
	// ReleaseReclaimHold reports whether a hold was there.
	ReleaseReclaimHold(ctx context.Context, id ExecutionID) (bool, error)
	// GetLease returns the lease record, else lease_not_found.
	GetLease(ctx context.Context, id ExecutionID) (*Lease, error)
	GetLeaseHistory(ctx context.Context, args LeaseHistoryArgs) (LeaseHistoryResult, error)
	ListWorkerLeases(ctx context.Context, args ListWorkerLeasesArgs) (ListWorkerLeasesResult, error)
	ListExpiredLeases(ctx context.Context, args ListExpiredLeasesArgs) (ListExpiredLeasesResult, error)
}

// RenewLease renews one lease.
func RenewLease(ctx context.Context, b Leases, args RenewLeaseArgs) (RenewLeaseResult, error) {
	return single(b.RenewLeases(ctx, []RenewLeaseArgs{args}))
}
