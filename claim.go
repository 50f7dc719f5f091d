package flowfabric

import "context"

// Limits of grants and claims. (Specification 02, section 13.)
const (
	MaxGrantTTLMs          = 60_000
	DefaultGrantTTLMs      = 5_000
	GrantKeptMs            = 60_000
	MaxClaimTasks          = 100
	MaxLanesPerRequest     = 64
	MaxEvaluatedCandidates = 100
	MaxUncoveredBuckets    = 100
	MaxPartitionsPerScan   = 32
	MaxWaiters             = 10_000
)

// Grant is the right to claim one execution once: what the scheduler hands to a
// worker. ClaimGrant and ReclaimGrant of the specification are this type, told
// apart by Kind. (Specification 02, section 2.3.)
type Grant struct {
	ExecutionID  ExecutionID `json:"execution_id"`
	PartitionKey string      `json:"partition_key"` // "{fp:N}", opaque to clients
	GrantID      string      `json:"grant_id"`
	ExpiresAt    Millis      `json:"expires_at"`
	LaneID       LaneID      `json:"lane_id"`
	Kind         ClaimKind   `json:"kind"`
}

// IssuedBy says who issued a grant.
type IssuedBy string

// The issuers.
const (
	IssuedByScheduler IssuedBy = "scheduler"
	IssuedByDirect    IssuedBy = "direct"
	IssuedByOperator  IssuedBy = "operator"
)

// ClaimedExecution is one claimed attempt as the store hands it over: all a
// worker needs to run it. On the wire it is called Task. (Specification 08,
// section 4.3.)
type ClaimedExecution struct {
	ExecutionID         ExecutionID
	AttemptIndex        uint32
	AttemptID           AttemptID
	AttemptType         AttemptType
	ClaimKind           ClaimKind
	LaneID              LaneID
	Namespace           Namespace
	Kind                string // the execution kind
	FlowID              FlowID
	Payload             []byte
	PayloadEncoding     string
	Tags                map[string]string
	PolicySnapshot      PolicySnapshot
	LeaseReclaimCount   uint32
	WorkerInstanceID    WorkerInstanceID
	Fence               Fence
	LeaseExpiresAt      Millis
	AttemptTimeoutAt    Millis
	ExecutionDeadlineAt Millis
	// Replayed is true when the claim was a repeat with the same lease_id.
	Replayed bool
	// StoreTime is the store's now at the claim, for converting instants.
	StoreTime Millis
}

// ClaimExpect fixes which kind of claim a caller accepts.
type ClaimExpect string

// What a claim may expect; the zero value accepts any kind.
const (
	ExpectAny     ClaimExpect = ""
	ExpectNew     ClaimExpect = "claim"   // ClaimExecution
	ExpectResume  ClaimExpect = "resume"  // ClaimResumedExecution
	ExpectReclaim ClaimExpect = "reclaim" // ReclaimExecution
)

// ClaimGrantedArgs is the input of ClaimGranted, ClaimExecution,
// ClaimResumedExecution and ReclaimExecution. (Specification 02, section 5.3.)
type ClaimGrantedArgs struct {
	ExecutionID      ExecutionID
	GrantID          string
	LaneID           LaneID
	WorkerID         WorkerID
	WorkerInstanceID WorkerInstanceID
	Capabilities     []string
	LeaseID          LeaseID   // minted when empty; keep it over retries
	AttemptID        AttemptID // minted when empty; unused on resume
	LeaseTTLMs       int64
	Expect           ClaimExpect
}

// IssueReclaimGrantArgs is the input of IssueReclaimGrant.
type IssueReclaimGrantArgs struct {
	ExecutionID      ExecutionID
	WorkerID         WorkerID
	WorkerInstanceID WorkerInstanceID
	LaneID           LaneID
	Capabilities     []string // nil: those of the live registration
	GrantTTLMs       int64    // 1..60,000; HTTP and the SDK default to 5,000
}

// ReclaimGrantOutcome tells how IssueReclaimGrant ended.
type ReclaimGrantOutcome string

// The outcomes of IssueReclaimGrant.
const (
	ReclaimGranted        ReclaimGrantOutcome = "granted"
	ReclaimNotReclaimable ReclaimGrantOutcome = "not_reclaimable"
	ReclaimCapExceeded    ReclaimGrantOutcome = "reclaim_cap_exceeded"
)

// IssueReclaimGrantResult is granted{Grant}, not_reclaimable{Detail} or
// reclaim_cap_exceeded{ReclaimCount, MaxReclaimCount}.
type IssueReclaimGrantResult struct {
	Outcome         ReclaimGrantOutcome
	Grant           *Grant
	Detail          string
	ReclaimCount    uint32
	MaxReclaimCount uint32
}

// ReleaseGrantArgs is the input of ReleaseGrant.
type ReleaseGrantArgs struct {
	ExecutionID ExecutionID
	GrantID     string
	WorkerID    WorkerID
}

// IssueGrantAndClaimArgs is the input of the fused grant and claim.
type IssueGrantAndClaimArgs struct {
	ExecutionID      ExecutionID
	WorkerID         WorkerID
	WorkerInstanceID WorkerInstanceID
	Capabilities     []string
	LeaseID          LeaseID
	AttemptID        AttemptID
	LeaseTTLMs       int64
	// LaneID, when set, must be the execution's lane.
	LaneID LaneID
	// OperatorOverride skips capabilities and admission, never ownership.
	OperatorOverride bool
	IssuedBy         IssuedBy // default direct
	RouteSnapshot    string
	AdmissionSummary string
}

// ListEligibleArgs selects claimable executions in claim order: those of a lane
// in a window of partitions, in the buckets the capabilities cover.
type ListEligibleArgs struct {
	LaneID         LaneID
	Namespace      Namespace // "" or "*": all
	Capabilities   []string
	FirstPartition uint16
	Partitions     int // how many from FirstPartition on, modulo the count; 0 means all
	Limit          int // 1..1000; 0 means 1
}

// Claims is the claim primitive's part of the contract: the operations on one
// named execution.
type Claims interface {
	ClaimGranted(ctx context.Context, args ClaimGrantedArgs) (ClaimedExecution, error)
	IssueReclaimGrant(ctx context.Context, args IssueReclaimGrantArgs) (IssueReclaimGrantResult, error)
	// ReleaseGrant reports whether the grant was held and is now released.
	ReleaseGrant(ctx context.Context, args ReleaseGrantArgs) (bool, error)
	IssueGrantAndClaim(ctx context.Context, args IssueGrantAndClaimArgs) (ClaimedExecution, error)
	// ListEligible returns at most Limit candidates, best first: the first by
	// order of each partition when Limit is 1 per partition. It is a hint; the
	// claim decides.
	ListEligible(ctx context.Context, args ListEligibleArgs) ([]ExecutionID, error)
}

// ClaimForWorkerArgs is the input of ClaimForWorker. (Specification 02, section
// 7.2.)
type ClaimForWorkerArgs struct {
	WorkerID         WorkerID
	WorkerInstanceID WorkerInstanceID
	Lanes            []LaneID // 1..64
	Capabilities     []string
	Namespace        Namespace   // only its executions; "" or "*": all the caller may see
	Namespaces       []Namespace // when not nil, all the caller may see
	GrantTTLMs       int64       // 1..60,000
	WaitMs           int64       // 0..30,000
}

// ClaimForWorkerResult is granted{Grant} or, with a nil Grant, no_work{More}.
type ClaimForWorkerResult struct {
	Grant *Grant
	// More tells that asking again at once is worth it.
	More bool
}

// ClaimTasksArgs is the input of ClaimTasks. (Specification 02, section 7.4.)
type ClaimTasksArgs struct {
	WorkerID         WorkerID
	WorkerInstanceID WorkerInstanceID
	Lanes            []LaneID
	Capabilities     []string
	Namespace        Namespace
	Namespaces       []Namespace
	MaxTasks         int   // 1..100
	LeaseTTLMs       int64 // 100..3,600,000
	GrantTTLMs       int64 // 1..60,000; 0 means 5,000; validated, otherwise unused since grant and claim are fused
	WaitMs           int64 // 0..30,000
}

// ClaimTasksResult holds 0..MaxTasks tasks in claim order.
type ClaimTasksResult struct {
	Tasks []ClaimedExecution
	More  bool
}

// Scheduling is what the engine beside a store answers: claims that choose.
type Scheduling interface {
	ClaimForWorker(ctx context.Context, args ClaimForWorkerArgs) (ClaimForWorkerResult, error)
	ClaimTasks(ctx context.Context, args ClaimTasksArgs) (ClaimTasksResult, error)
}
