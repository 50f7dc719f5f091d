package flowfabric

import "context"

// Limits of signals. (Specification 03, section 7.)
const (
	MaxSignalPayloadBytes    = 65_536
	MaxSignalNameBytes       = 128
	MaxSignalWordBytes       = 64 // category, source type
	MaxSourceIdentityBytes   = 256
	MaxCorrelationIDBytes    = 256
	MaxBufferedSignals       = 1_000 // per pending waitpoint
	DefaultSignalDedupTTLMs  = 86_400_000
	MaxSignalDedupTTLMs      = 604_800_000
	MaxIdempotencySuffix     = 128
	DefaultSignalEncoding    = "json"
	SignalCategoryApproval   = "approval"
	SignalCategoryRejection  = "rejection"
	SignalCategoryCallback   = "callback"
	SignalCategoryToolResult = "tool_result"
	SignalCategoryContinue   = "continue"
	SignalCategoryCustom     = "custom"
	SignalCategoryTimeout    = "timeout" // the engine's own
	SourceTypeExternalAPI    = "external_api"
	SourceTypeWebhook        = "webhook"
	SourceTypeOperator       = "operator"
	SourceTypeWorker         = "worker"
	SourceTypeFlow           = "flow_coordinator"
	SourceTypeUser           = "user"
	SourceTypeSystem         = "system"
	SourceTypeEngine         = "engine" // the engine's own
	SignalNameTimeout        = "timeout"
	SignalNameApproved       = "approved"
	SignalNameRejected       = "rejected"
)

// SignalEffect is what a delivered signal did. (Specification 03, section 3.4.)
type SignalEffect string

// The effects.
const (
	EffectResumed          SignalEffect = "resume_condition_satisfied"
	EffectAppended         SignalEffect = "appended_to_waitpoint"
	EffectRepeated         SignalEffect = "appended_to_waitpoint_duplicate"
	EffectMatcherFailed    SignalEffect = "signal_ignored_matcher_failed"
	EffectNotInCondition   SignalEffect = "signal_ignored_not_in_condition"
	EffectBuffered         SignalEffect = "buffered_for_pending_waitpoint"
	EffectNoOp             SignalEffect = "no_op"
	EffectNeverActivated   SignalEffect = "no_op_waitpoint_never_activated"
	EffectDuplicateInFeeds SignalEffect = "duplicate" // in the signals feed only
)

// Matched reports whether the effect added a satisfier.
func (e SignalEffect) Matched() bool { return e == EffectResumed || e == EffectAppended }

// Signal is what a sender gives. (Specification 03, section 2.3.)
type Signal struct {
	// SignalID is minted when empty; a sender that repeats a delivery keeps it.
	SignalID SignalID
	Name     string // 1..128 bytes; "__" at the start is refused
	// Category and SourceType are [a-z][a-z0-9_]*, at most 64 bytes; empty means
	// "custom" and "external_api". "timeout" and "engine" are the engine's own.
	Category       string
	SourceType     string
	SourceIdentity string // 1..256 bytes
	// Payload is at most 65,536 bytes; empty is the same as none.
	Payload         []byte
	PayloadEncoding string // a hint of at most 64 bytes; empty means "json"
	CorrelationID   string // at most 256 bytes
	IdempotencyKey  string // at most 256 bytes
	// CreatedAt is the sender's claim, for information only; 0 for none.
	CreatedAt Millis
	// DedupTTLMs is how long the idempotency key is remembered, 1..604,800,000;
	// 0 means 86,400,000.
	DedupTTLMs int64
}

// RecordedSignal is a signal as the store keeps it. Listings leave the payload
// out.
type RecordedSignal struct {
	SignalID               SignalID     `json:"signal_id"`
	ExecutionID            ExecutionID  `json:"execution_id"`
	WaitpointID            WaitpointID  `json:"waitpoint_id"`
	WaitpointKey           string       `json:"waitpoint_key"`
	SignalName             string       `json:"signal_name"`
	SignalCategory         string       `json:"signal_category"`
	SourceType             string       `json:"source_type"`
	SourceIdentity         string       `json:"source_identity"`
	Payload                []byte       `json:"payload,omitempty"`
	PayloadEncoding        string       `json:"payload_encoding,omitempty"`
	CorrelationID          string       `json:"correlation_id,omitempty"`
	IdempotencyKey         string       `json:"idempotency_key,omitempty"`
	CreatedAt              Millis       `json:"created_at,omitempty"`
	AcceptedAt             Millis       `json:"accepted_at"`
	Seq                    uint64       `json:"seq"` // total order within the execution, from 1
	Effect                 SignalEffect `json:"effect"`
	ConsumedAt             Millis       `json:"consumed_at,omitempty"`
	ConsumedBySuspensionID SuspensionID `json:"consumed_by_suspension_id,omitempty"`
}

// ResumeSignal is a satisfier as the resumed worker sees it.
type ResumeSignal struct {
	SignalID        SignalID `json:"signal_id"`
	SignalName      string   `json:"signal_name"`
	SignalCategory  string   `json:"signal_category"`
	SourceType      string   `json:"source_type"`
	SourceIdentity  string   `json:"source_identity"`
	CorrelationID   string   `json:"correlation_id,omitempty"`
	AcceptedAt      Millis   `json:"accepted_at"`
	Payload         []byte   `json:"payload,omitempty"`
	PayloadEncoding string   `json:"payload_encoding,omitempty"`
}

// DeliverSignalArgs is the input of DeliverSignal.
type DeliverSignalArgs struct {
	ExecutionID ExecutionID
	WaitpointID WaitpointID
	Token       WaitpointToken
	Signal      Signal
}

// DeliverOutcome tells how a delivery ended.
type DeliverOutcome string

// The outcomes of a delivery.
const (
	DeliverAccepted  DeliverOutcome = "accepted"
	DeliverDuplicate DeliverOutcome = "duplicate"
)

// DeliverSignalResult is Accepted{SignalID, Effect, RequiresConfirmation} or
// Duplicate{SignalID of the first, its current Effect}.
type DeliverSignalResult struct {
	Outcome  DeliverOutcome
	SignalID SignalID
	Effect   SignalEffect
	// RequiresConfirmation: the signal is buffered; should the worker die before
	// it suspends, it never acts.
	RequiresConfirmation bool
}

// DeliverApprovalSignalArgs is the input of DeliverApprovalSignal.
// (Specification 03, section 4.4.)
type DeliverApprovalSignalArgs struct {
	ExecutionID ExecutionID
	LaneID      LaneID // must be the execution's, else invalid_input, detail lane_mismatch
	WaitpointID WaitpointID
	SignalID    SignalID // minted when empty
	SignalName  string   // by convention approved or rejected
	// IdempotencySuffix makes the idempotency key
	// "approval:<signal_name>:<suffix>"; required.
	IdempotencySuffix string
	DecidedBy         string // required; becomes the source identity
	DedupTTLMs        int64  // as in Signal
	Payload           []byte
	PayloadEncoding   string
}

// ObserveSignalsArgs names the attempt whose resume signals are asked for; an id
// that is none is invalid_input.
type ObserveSignalsArgs struct {
	ExecutionID ExecutionID
	AttemptID   AttemptID
}

// ListSignalsArgs is the input of ListSignals. Limit is 1..1000; 0 means 50.
type ListSignalsArgs struct {
	ExecutionID    ExecutionID
	WaitpointID    WaitpointID // empty: all
	UnconsumedOnly bool
	After          uint64 // the Seq to start after
	Limit          int
}

// ListSignalsResult is one page in Seq order, without payloads; Next is 0 at the
// end.
type ListSignalsResult struct {
	Signals []RecordedSignal
	Next    uint64
}

// Signals is the signal primitive's part of the contract. (Specification 03.)
type Signals interface {
	// DeliverSignal authenticates a signal by the waitpoint's token, records it
	// and evaluates it. Errors: missing_token, invalid_token, token_expired;
	// waitpoint_closed; target_not_signalable; signal_limit_exceeded;
	// payload_too_large, invalid_input; signal_id_conflict;
	// hmac_secret_not_initialized, invalid_secret. An unknown execution or
	// waitpoint is invalid_token.
	DeliverSignal(ctx context.Context, args DeliverSignalArgs) (DeliverSignalResult, error)
	// DeliverApprovalSignal delivers an operator's decision; the store reads the
	// token. Errors: execution_not_found, waitpoint_not_found, invalid_input with
	// detail lane_mismatch, and those of DeliverSignal.
	DeliverApprovalSignal(ctx context.Context, args DeliverApprovalSignalArgs) (DeliverSignalResult, error)
	// ObserveSignals returns the signals that ended the attempt's last suspension,
	// in Seq order; empty when it was not ended by signals.
	ObserveSignals(ctx context.Context, args ObserveSignalsArgs) ([]ResumeSignal, error)
	ListSignals(ctx context.Context, args ListSignalsArgs) (ListSignalsResult, error)
	// GetSignal returns a signal with its payload, else signal_not_found.
	GetSignal(ctx context.Context, id ExecutionID, signal SignalID) (*RecordedSignal, error)
}

// WithDefaults returns the signal with what the sender left out filled in: a
// minted id, category custom, source type external_api, encoding json, the
// default dedup TTL. It checks nothing.
func (s Signal) WithDefaults() Signal {
	if s.SignalID == "" {
		s.SignalID = NewSignalID()
	}
	if s.Category == "" {
		s.Category = SignalCategoryCustom
	}
	if s.SourceType == "" {
		s.SourceType = SourceTypeExternalAPI
	}
	switch {
	case len(s.Payload) == 0: // empty and absent are the same
		s.Payload, s.PayloadEncoding = nil, ""
	case s.PayloadEncoding == "":
		s.PayloadEncoding = DefaultSignalEncoding
	}
	if s.DedupTTLMs == 0 {
		s.DedupTTLMs = DefaultSignalDedupTTLMs
	}
	return s
}

// Signal returns the signal that the approval delivers.
func (a DeliverApprovalSignalArgs) Signal() Signal {
	return Signal{
		SignalID: a.SignalID, Name: a.SignalName, Category: SignalCategoryApproval, SourceType: SourceTypeOperator,
		SourceIdentity: a.DecidedBy, Payload: a.Payload, PayloadEncoding: a.PayloadEncoding, DedupTTLMs: a.DedupTTLMs,
		IdempotencyKey: "approval:" + a.SignalName + ":" + a.IdempotencySuffix,
	}.WithDefaults()
}

// ResumeSignal returns the signal as the resumed worker sees it.
func (s *RecordedSignal) ResumeSignal() ResumeSignal {
	return ResumeSignal{
		SignalID: s.SignalID, SignalName: s.SignalName, SignalCategory: s.SignalCategory, SourceType: s.SourceType,
		SourceIdentity: s.SourceIdentity, CorrelationID: s.CorrelationID, AcceptedAt: s.AcceptedAt,
		Payload: s.Payload, PayloadEncoding: s.PayloadEncoding,
	}
}
