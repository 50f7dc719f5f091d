// Package rules is the state machine of FlowFabric as pure functions: a record
// and a request in, the changed record and the effects out. It does no I/O, has
// no clock and no randomness of its own. The SQL stores call it inside their
// transactions, and the tests use it as the model of every store.
//
// A rule reads top to bottom as check, change, report. It mutates the State it
// is given only when it also sets Effects.Changed; a refusal that leaves a trace
// (a lapse found by a late write) returns both the error and the effects, and
// the store then keeps the change and returns the error.
package rules

import (
	"github.com/flowfabric/flowfabric"
)

// State is everything that the transitions of one execution read and write.
type State struct {
	Exec flowfabric.Execution
	// Policy is the frozen policy; never nil.
	Policy *flowfabric.Policy
	// Attempt is the attempt of the highest index, nil before the first claim.
	// Earlier ones are final and live apart (Effects.Superseded).
	Attempt *flowfabric.Attempt
	// Grant is the last grant: live, lapsed, or kept after the execution ended.
	Grant *Grant
	// Lease holds what the execution's lease mirror does not.
	Lease LeaseDetail
	// Tags are needed for the envelopes of events.
	Tags map[string]string
	// Wait is what the execution waits or has waited on; nil for one that never
	// had a waitpoint or a suspension.
	Wait *Wait
}

// Wait is the waiting of one execution: what its transitions read of suspension,
// waitpoints and signals.
type Wait struct {
	// Suspension is the current or last one; nil before the first.
	Suspension *Suspension
	// Open are the waitpoints that are not final, ordered by id.
	Open []Waitpoint
	// Buffered are the signals that are buffered on pending waitpoints, in order of
	// Seq, without payloads. There may be thousands: what they point to is never
	// changed, so that copies of the list share it.
	Buffered []*flowfabric.RecordedSignal
	// LastSeq is the Seq of the last recorded signal, so also how many there are.
	LastSeq uint64
}

// Suspension is the record of a suspension with the state of its condition.
type Suspension struct {
	flowfabric.Suspension // without Progress
	// Nodes holds the satisfiers of each single and count node, in depth-first
	// order of the leaves.
	Nodes [][]string
}

// Waitpoint is a waitpoint as the store keeps it. (Specification 03, section
// 2.2.)
type Waitpoint struct {
	WaitpointID        flowfabric.WaitpointID
	WaitpointKey       string
	AttemptID          flowfabric.AttemptID
	AttemptIndex       uint32
	SuspensionID       flowfabric.SuspensionID // empty while pending
	State              flowfabric.WaitpointState
	Token              flowfabric.WaitpointToken
	CreatedAt          flowfabric.Millis
	ActivatedAt        flowfabric.Millis
	SatisfiedAt        flowfabric.Millis
	ClosedAt           flowfabric.Millis
	ExpiresAt          flowfabric.Millis
	CloseReason        string
	SignalCount        uint64
	MatchedSignalCount uint64
	LastSignalAt       flowfabric.Millis
}

// WaitChange is what a transition changed of an execution's waiting.
type WaitChange struct {
	// Suspension: State.Wait.Suspension is to be written.
	Suspension bool
	// Waitpoints are to be written as they are, the final ones among them too.
	Waitpoints []Waitpoint
	// New are signals to be recorded, with their payloads.
	New []flowfabric.RecordedSignal
	// Rewritten are recorded signals whose effect or consumption changed, without
	// payloads.
	Rewritten []flowfabric.RecordedSignal
	// Consumed are the satisfiers that State.Wait.Suspension consumed now: to be
	// marked after New and Rewritten.
	Consumed []flowfabric.SignalID
}

// Grant is a grant as the store keeps it.
type Grant struct {
	GrantID          string
	LaneID           flowfabric.LaneID
	Kind             flowfabric.ClaimKind
	WorkerID         flowfabric.WorkerID
	WorkerInstanceID flowfabric.WorkerInstanceID
	CapabilityHash   string
	RouteSnapshot    string
	AdmissionSummary string
	IssuedBy         flowfabric.IssuedBy
	IssuedAt         flowfabric.Millis
	ExpiresAt        flowfabric.Millis
	// Lapsed is set once the lapse has been acted upon (execution offered again,
	// holds given back); the record is kept 60 s more.
	Lapsed bool
}

// LeaseDetail is the part of the lease record that only detailed reads show.
type LeaseDetail struct {
	CapabilityHash  string
	ClaimKind       flowfabric.ClaimKind
	PreviousLeaseID flowfabric.LeaseID
	// TTLMs is the TTL of the claim or last renewal, the default of the next.
	TTLMs int64
	// Deleted is set by a revocation: the record is gone, the mirror stays.
	Deleted bool
}

// Effects is what a rule wants done in the same atomic step as the record's
// change.
type Effects struct {
	// Changed: the State was mutated and must be written.
	Changed bool
	// Superseded is the former State.Attempt, final, when a new attempt took its
	// place.
	Superseded *flowfabric.Attempt
	// Events are feed events in order, without sequence numbers. Envelopes are
	// filled.
	Events []flowfabric.Event
	// Result says what becomes of the stored result.
	Result ResultChange
	// Payload and encoding of the result to store, for ResultSet.
	ResultPayload  []byte
	ResultEncoding string
	// Offered: the execution became claimable; raise an eligibility event.
	Offered bool
	// StreamClosed, when not empty, is the reason with which the attempt's open
	// output stream is to be closed (streams primitive).
	StreamClosed string
	// StreamAttempt is the attempt whose stream StreamClosed means.
	StreamAttempt uint32
	// Owed are admission references to be given back on other partitions
	// (outbox entries of the budget and quota primitives).
	Owed []string
	// Wait is what is to be written of State.Wait; nil when nothing is.
	Wait *WaitChange
	// Err is set by duties, which return no error of their own: the step would
	// have broken a validity rule, and nothing was changed.
	Err error
}

// ResultChange says what a transition does to the stored result.
type ResultChange uint8

// What may become of a stored result.
const (
	ResultKept ResultChange = iota
	ResultSet
	ResultRemoved
)

// Prepared is a validated create.
type Prepared struct {
	// State is the execution to be, but for times and a minted identifier.
	State State
	// Args are the arguments with defaults filled in.
	Args flowfabric.CreateExecutionArgs
	// PolicyJSON is the effective policy as stored.
	PolicyJSON []byte
	// DedupWindowMs is how long the idempotency key is reserved; 0 without one.
	DedupWindowMs int64
	DelayUntil    flowfabric.Millis
	// DeadlineAt is the absolute deadline, DeadlineMs a duration from creation.
	DeadlineAt flowfabric.Millis
	DeadlineMs int64
}

// ClaimInput is what a claim brings, whatever operation it came through.
type ClaimInput struct {
	GrantID          string // empty for the fused form
	LaneID           flowfabric.LaneID
	WorkerID         flowfabric.WorkerID
	WorkerInstanceID flowfabric.WorkerInstanceID
	Capabilities     []string // normal form
	CapabilityHash   string   // digest of Capabilities; computed when empty
	LeaseID          flowfabric.LeaseID
	AttemptID        flowfabric.AttemptID
	LeaseTTLMs       int64
	Expect           flowfabric.ClaimExpect
	IssuedBy         flowfabric.IssuedBy
	OperatorOverride bool
	RouteSnapshot    string
	AdmissionSummary string
}

// Claimed is the outcome of a claim; the store completes it with payload and
// tags.
type Claimed struct {
	Task flowfabric.ClaimedExecution
}

// GrantInput is what an issuing of a grant brings.
type GrantInput struct {
	GrantID          string // minted by the caller
	LaneID           flowfabric.LaneID
	WorkerID         flowfabric.WorkerID
	WorkerInstanceID flowfabric.WorkerInstanceID
	Capabilities     []string // normal form
	TTLMs            int64
	RouteSnapshot    string
	AdmissionSummary string
	AdmissionRefs    []string
	IssuedBy         flowfabric.IssuedBy
}

// Label is the route label of a bucket that no live worker covers.
type Label struct {
	UncoveredSince flowfabric.Millis // zero: not labelled
	LastMismatchAt flowfabric.Millis
}

// Duty names one time-based duty, in the order in which they are looked at when
// several instants have passed at once.
type Duty string

// The duties of a tick.
const (
	DutyNone              Duty = ""
	DutyExecutionDeadline Duty = "execution_deadline"
	DutyAttemptTimeout    Duty = "attempt_timeout"
	DutySuspensionTimeout Duty = "suspension_timeout"
	DutyWaitpointExpiry   Duty = "waitpoint_expiry"
	DutyLeaseExpiry       Duty = "lease_expiry"
	DutyGrantLapse        Duty = "grant_lapse"
	DutyDelayedPromotion  Duty = "delayed_promotion"
	DutyRetention         Duty = "retention"
)

// Placement says in which orders an execution stands: what a store indexes.
type Placement struct {
	// Offered: eligible or reclaimable, without a live grant, hold or
	// reclaim_not_before in the future. Claimers see exactly these.
	Offered bool
	// PrioKey is created_at - priority*10^12; lowest first.
	PrioKey int64
	// DueAt is the next instant at which a tick must look at the execution;
	// 0 means never.
	DueAt flowfabric.Millis
	// Holder is the instance that holds a lease, marked lapsed ones excluded.
	Holder flowfabric.WorkerInstanceID
	// LeaseExpiresAt is set while active with a lease not revoked: the order of
	// ListExpiredLeases.
	LeaseExpiresAt flowfabric.Millis
}

// Rand returns a uniform integer in [0, n); used for jitter only.
type Rand func(n int64) int64
