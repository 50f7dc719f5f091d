package flowfabric

import "context"

// Feed names an ordered log of engine events. (Specification 04, section 5.)
type Feed string

// The feeds. FeedCompletions is always on.
const (
	FeedCompletions Feed = "completions"
	FeedLeases      Feed = "leases"
	FeedSignals     Feed = "signals"
	FeedTags        Feed = "tags"
)

// Limits of feeds.
const (
	FeedRetentionMs     = 24 * 3_600_000
	FeedRetentionEvents = 10_000 // per partition and feed
	MaxFeedLimit        = 1_000
	DefaultFeedLimit    = 100
	MaxEventReasonBytes = 1_024
	FeedStartNow        = "now"
	FeedStartEarliest   = "earliest"
)

// The kinds of events.
const (
	EventCompleted = "completed" // feed completions

	EventAcquired  = "acquired" // feed leases
	EventResumed   = "resumed"
	EventReleased  = "released"
	EventExpired   = "expired"
	EventRevoked   = "revoked"
	EventReclaimed = "reclaimed"

	EventSatisfied = "satisfied" // feed signals
	EventAppended  = "appended"
	EventBuffered  = "buffered"
	EventNoOp      = "no_op"
	EventDeduped   = "deduped"
)

// Event is one record of a feed. Fields that a kind does not have are absent.
type Event struct {
	Feed    Feed   `json:"feed"`
	Kind    string `json:"kind"`
	EventID string `json:"event_id"` // "<partition>-<seq>"
	// Cursor resumes a subscription behind this event; set by feed reads.
	Cursor      string            `json:"cursor,omitempty"`
	Partition   uint16            `json:"-"`
	Seq         uint64            `json:"-"` // dense per partition and feed, in commit order
	ExecutionID ExecutionID       `json:"execution_id"`
	FlowID      FlowID            `json:"flow_id,omitempty"`
	Namespace   Namespace         `json:"namespace"`
	LaneID      LaneID            `json:"lane_id"`
	Tags        map[string]string `json:"tags,omitempty"`
	At          Millis            `json:"at_ms"`

	AttemptIndex *uint32   `json:"attempt_index,omitempty"`
	AttemptID    AttemptID `json:"attempt_id,omitempty"`

	// Completions.
	Outcome         TerminalOutcome `json:"outcome,omitempty"`
	PublicState     PublicState     `json:"public_state,omitempty"`
	ReplayCount     *uint32         `json:"replay_count,omitempty"`
	Cause           string          `json:"cause,omitempty"`
	FailureCategory string          `json:"failure_category,omitempty"`
	FailureReason   string          `json:"failure_reason,omitempty"`
	ResultSize      *int64          `json:"result_size,omitempty"`

	// Leases.
	LeaseID              LeaseID          `json:"lease_id,omitempty"`
	LeaseEpoch           uint64           `json:"lease_epoch,omitempty"`
	WorkerID             WorkerID         `json:"worker_id,omitempty"`
	WorkerInstanceID     WorkerInstanceID `json:"worker_instance_id,omitempty"`
	ExpiresAt            Millis           `json:"expires_at,omitempty"`
	Reason               string           `json:"reason,omitempty"`
	RevokedBy            string           `json:"revoked_by,omitempty"`
	PrevLeaseID          LeaseID          `json:"prev_lease_id,omitempty"`
	PrevLeaseEpoch       uint64           `json:"prev_lease_epoch,omitempty"`
	PrevWorkerInstanceID WorkerInstanceID `json:"prev_worker_instance_id,omitempty"`
	PrevAttemptIndex     *uint32          `json:"prev_attempt_index,omitempty"`

	// Signals. Of a duplicate, SignalID is that of the first.
	SignalID       SignalID     `json:"signal_id,omitempty"`
	SignalName     string       `json:"signal_name,omitempty"`
	WaitpointID    WaitpointID  `json:"waitpoint_id,omitempty"`
	SourceIdentity string       `json:"source_identity,omitempty"`
	Effect         SignalEffect `json:"effect,omitempty"`
}

// Gap tells that events were trimmed before they could be read. Numbers ignore
// the filter.
type Gap struct {
	Partition     uint16 `json:"partition"`
	MissedFromSeq uint64 `json:"missed_from_seq"`
	MissedToSeq   uint64 `json:"missed_to_seq"`
}

// FeedFilter selects events; all conditions must hold.
type FeedFilter struct {
	Namespace   Namespace
	Namespaces  []Namespace       // when not nil, only these (a token's)
	Tags        map[string]string // up to 8
	FlowID      FlowID
	ExecutionID ExecutionID
	LaneID      LaneID
	Kinds       []string
}

// ReadFeedArgs is the input of ReadFeed.
type ReadFeedArgs struct {
	Feed       Feed
	Start      string   // FeedStartNow (also ""), FeedStartEarliest, or a cursor
	Partitions []uint16 // empty: all
	Filter     FeedFilter
	Limit      int   // 1..1000; 0 means 100
	BlockMs    int64 // 0..30,000; how long to wait for a first event
}

// ReadFeedResult is one batch; NextCursor is always set.
type ReadFeedResult struct {
	Events     []Event
	Gaps       []Gap
	NextCursor string
	HasMore    bool
}

// Feeds is the feed primitive's part of the contract.
type Feeds interface {
	ReadFeed(ctx context.Context, args ReadFeedArgs) (ReadFeedResult, error)
}

// WaitUntil says which states fulfil a wait.
type WaitUntil string

// What a wait may be for; the zero value counts as UntilTerminal.
const (
	UntilTerminal WaitUntil = "terminal"
	UntilSettled  WaitUntil = "settled" // terminal or suspended
)

// WaitExecutionArgs is the input of WaitExecution. (Specification 04, section
// 6.1.)
type WaitExecutionArgs struct {
	ExecutionID ExecutionID
	WaitMs      int64 // 0..30,000; 0 checks only
	Until       WaitUntil
	OmitResult  bool
}

// WaitExecutionResult is the state at the end of a wait.
type WaitExecutionResult struct {
	PublicState     PublicState
	Terminal        bool
	TimedOut        bool
	Outcome         TerminalOutcome // empty while live
	AttemptIndex    *uint32
	ReplayCount     uint32
	CompletedAt     Millis
	FailureCategory string
	FailureReason   string
	ResultAvailable bool
	Result          []byte
	ResultEncoding  string
}

// Waits is what the engine beside a store answers: waiting without polling.
type Waits interface {
	WaitExecution(ctx context.Context, args WaitExecutionArgs) (WaitExecutionResult, error)
}
