package flowfabric

import "context"

// Limits of the worker registry. (Specification 02, section 13.)
const (
	MinLivenessTTLMs     = 1_000
	MaxLivenessTTLMs     = 600_000
	DefaultLivenessTTLMs = 60_000
	MaxWorkersLimit      = 10_000
	DefaultWorkersLimit  = 1_000
)

// WorkerRegistration is the record of one live worker process. Its key is
// (Namespace, WorkerInstanceID). (Specification 02, section 2.4.)
type WorkerRegistration struct {
	Namespace        Namespace        `json:"namespace"`
	WorkerID         WorkerID         `json:"worker_id"`
	WorkerInstanceID WorkerInstanceID `json:"worker_instance_id"`
	Lanes            []LaneID         `json:"lanes"`
	Capabilities     []string         `json:"capabilities"`
	// Implicit is true when a claim request made the registration.
	Implicit        bool   `json:"implicit"`
	InstanceNonce   string `json:"-"`
	LivenessTTLMs   int64  `json:"liveness_ttl_ms"`
	RegisteredAt    Millis `json:"registered_at"`
	LastHeartbeatAt Millis `json:"last_heartbeat_at"`
	ExpiresAt       Millis `json:"-"`
}

// RegisterWorkerArgs is the input of RegisterWorker.
type RegisterWorkerArgs struct {
	Namespace        Namespace
	WorkerID         WorkerID
	WorkerInstanceID WorkerInstanceID
	Lanes            []LaneID // 1..64
	Capabilities     []string
	LivenessTTLMs    int64  // 1,000..600,000; 0 means 60,000
	InstanceNonce    string // UUID, one per process start
}

// RegisterOutcome tells how a registration ended.
type RegisterOutcome string

// The outcomes of a registration.
const (
	WorkerRegistered RegisterOutcome = "registered"
	WorkerRefreshed  RegisterOutcome = "refreshed"
)

// RegisterWorkerResult is registered or refreshed.
type RegisterWorkerResult struct {
	Outcome      RegisterOutcome
	NextExpiryAt Millis
}

// HeartbeatWorkerArgs is the input of HeartbeatWorker.
type HeartbeatWorkerArgs struct {
	Namespace        Namespace
	WorkerInstanceID WorkerInstanceID
	InstanceNonce    string
}

// HeartbeatWorkerResult is refreshed{NextExpiryAt}, or not_registered when
// Registered is false.
type HeartbeatWorkerResult struct {
	Registered   bool
	NextExpiryAt Millis
}

// MarkWorkerDeadArgs is the input of MarkWorkerDead and DeregisterWorker.
type MarkWorkerDeadArgs struct {
	Namespace        Namespace
	WorkerInstanceID WorkerInstanceID
	Reason           string // 1..256 bytes without control characters
	RevokeLeases     bool
}

// MarkWorkerDeadResult is marked{RevokedLeases}, or not_registered when Marked is
// false; leases may be revoked in both cases.
type MarkWorkerDeadResult struct {
	Marked        bool
	RevokedLeases int
}

// ListWorkersArgs selects live registrations, ordered by (namespace, instance).
type ListWorkersArgs struct {
	Namespace       Namespace // "" lists all namespaces
	Namespaces      []Namespace
	LaneID          LaneID
	AfterNamespace  Namespace
	AfterInstanceID WorkerInstanceID
	Limit           int // 1..10,000; 0 means 1000
}

// ListWorkersResult is one page; More tells that there are others after it.
type ListWorkersResult struct {
	Workers []WorkerRegistration
	More    bool
}

// WorkerCoverage is one live worker's view of an execution's requirement.
type WorkerCoverage struct {
	WorkerID         WorkerID         `json:"worker_id"`
	WorkerInstanceID WorkerInstanceID `json:"worker_instance_id"`
	Missing          []string         `json:"missing"` // sorted; empty: covers
}

// RoutingExplanation is the answer of ExplainRouting.
type RoutingExplanation struct {
	ExecutionID          ExecutionID      `json:"execution_id"`
	LaneID               LaneID           `json:"lane_id"`
	Namespace            Namespace        `json:"namespace"`
	RequiredCapabilities []string         `json:"required_capabilities"`
	Workers              []WorkerCoverage `json:"workers"`
	Covered              bool             `json:"covered"`
	// UncoveredSince is when the bucket was labelled; zero without a label.
	UncoveredSince           Millis `json:"uncovered_since,omitempty"`
	LastCapabilityMismatchAt Millis `json:"last_capability_mismatch_at,omitempty"`
}

// Workers is the worker registry's part of the contract. (Specification 02,
// section 10.)
type Workers interface {
	RegisterWorker(ctx context.Context, args RegisterWorkerArgs) (RegisterWorkerResult, error)
	HeartbeatWorker(ctx context.Context, args HeartbeatWorkerArgs) (HeartbeatWorkerResult, error)
	MarkWorkerDead(ctx context.Context, args MarkWorkerDeadArgs) (MarkWorkerDeadResult, error)
	// DeregisterWorker is the worker's own form of MarkWorkerDead.
	DeregisterWorker(ctx context.Context, args MarkWorkerDeadArgs) (MarkWorkerDeadResult, error)
	// GetWorker returns nil, nil without a live registration.
	GetWorker(ctx context.Context, ns Namespace, instance WorkerInstanceID) (*WorkerRegistration, error)
	ListWorkers(ctx context.Context, args ListWorkersArgs) (ListWorkersResult, error)
	ExplainRouting(ctx context.Context, id ExecutionID) (*RoutingExplanation, error)
}
