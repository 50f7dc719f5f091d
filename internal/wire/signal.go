package wire

import (
	"net/url"
	"strconv"

	"github.com/flowfabric/flowfabric"
)

// SignalRequest is the body of POST E/signal. (Specification 08, section 4.4.)
type SignalRequest struct {
	ExecutionRef
	WaitpointID     flowfabric.WaitpointID `json:"waitpoint_id" format:"uuid"`
	WaitpointToken  *string                `json:"waitpoint_token,omitempty" doc:"Required: the waitpoint's credential."`
	SignalName      string                 `json:"signal_name" maxLength:"128"`
	SignalID        *flowfabric.SignalID   `json:"signal_id,omitempty" format:"uuid" doc:"Minted by the server when absent; given, the call is safe to repeat."`
	SignalCategory  *string                `json:"signal_category,omitempty" maxLength:"64" default:"custom"`
	SourceType      *string                `json:"source_type,omitempty" maxLength:"64" default:"external_api"`
	SourceIdentity  *string                `json:"source_identity,omitempty" maxLength:"256" doc:"Default: the token's name, anonymous without authentication."`
	Payload         *[]byte                `json:"payload,omitempty" doc:"Base64, at most 65,536 raw bytes."`
	PayloadEncoding *string                `json:"payload_encoding,omitempty" maxLength:"64" default:"json"`
	CorrelationID   *string                `json:"correlation_id,omitempty" maxLength:"256"`
	IdempotencyKey  *string                `json:"idempotency_key,omitempty" maxLength:"256" doc:"Remembered per waitpoint for dedup_ttl_ms."`
	CreatedAt       *flowfabric.Millis     `json:"created_at,omitempty" doc:"The sender's claim, for information."`
	DedupTTLMs      *int64                 `json:"dedup_ttl_ms,omitempty" minimum:"1" maximum:"604800000" default:"86400000"`
}

// NewSignalRequest makes the body of POST E/signal.
func NewSignalRequest(a flowfabric.DeliverSignalArgs) SignalRequest {
	s := a.Signal
	return SignalRequest{
		WaitpointID: a.WaitpointID, WaitpointToken: opt(a.Token.Reveal()), SignalName: s.Name, SignalID: opt(s.SignalID),
		SignalCategory: opt(s.Category), SourceType: opt(s.SourceType), SourceIdentity: &s.SourceIdentity,
		Payload: bytesPtr(s.Payload), PayloadEncoding: opt(s.PayloadEncoding), CorrelationID: opt(s.CorrelationID),
		IdempotencyKey: opt(s.IdempotencyKey), CreatedAt: opt(s.CreatedAt), DedupTTLMs: opt(s.DedupTTLMs),
	}
}

// Args returns the contract's arguments; sender is the source identity of a body
// that names none.
func (r SignalRequest) Args(id flowfabric.ExecutionID, sender string) (flowfabric.DeliverSignalArgs, error) {
	a := flowfabric.DeliverSignalArgs{
		ExecutionID: id, WaitpointID: r.WaitpointID, Token: flowfabric.NewWaitpointToken(val(r.WaitpointToken)),
		Signal: flowfabric.Signal{
			SignalID: val(r.SignalID), Name: r.SignalName, Category: val(r.SignalCategory), SourceType: val(r.SourceType), SourceIdentity: sender,
			Payload: val(r.Payload), PayloadEncoding: val(r.PayloadEncoding), CorrelationID: val(r.CorrelationID),
			IdempotencyKey: val(r.IdempotencyKey), CreatedAt: val(r.CreatedAt), DedupTTLMs: val(r.DedupTTLMs),
		},
	}
	if r.SourceIdentity != nil {
		a.Signal.SourceIdentity = *r.SourceIdentity
	}
	if err := r.Check(id); err != nil {
		return a, err
	}
	if err := emptyRefused("signal_id", r.SignalID); err != nil {
		return a, err
	}
	if err := emptyRefused("signal_category", r.SignalCategory); err != nil {
		return a, err
	}
	if err := emptyRefused("source_type", r.SourceType); err != nil {
		return a, err
	}
	return a, zeroRefused("dedup_ttl_ms", r.DedupTTLMs)
}

// SignalResponse is accepted or duplicate.
type SignalResponse struct {
	Outcome              flowfabric.DeliverOutcome `json:"outcome" enum:"accepted,duplicate"`
	SignalID             flowfabric.SignalID       `json:"signal_id,omitempty" doc:"accepted only."`
	ExistingSignalID     flowfabric.SignalID       `json:"existing_signal_id,omitempty" doc:"duplicate only: the first signal."`
	Effect               flowfabric.SignalEffect   `json:"effect" doc:"What the signal did; of a duplicate, the first one's now."`
	RequiresConfirmation bool                      `json:"requires_confirmation,omitempty" doc:"Buffered: send it again should the execution not leave active soon."`
}

// NewSignalResponse makes the answer to a delivery.
func NewSignalResponse(r flowfabric.DeliverSignalResult) SignalResponse {
	out := SignalResponse{Outcome: r.Outcome, Effect: r.Effect, RequiresConfirmation: r.RequiresConfirmation}
	if r.Outcome == flowfabric.DeliverDuplicate {
		out.ExistingSignalID = r.SignalID
	} else {
		out.SignalID = r.SignalID
	}
	return out
}

// Result returns the contract's result.
func (r SignalResponse) Result() flowfabric.DeliverSignalResult {
	out := flowfabric.DeliverSignalResult{Outcome: r.Outcome, SignalID: r.SignalID, Effect: r.Effect, RequiresConfirmation: r.RequiresConfirmation}
	if r.Outcome == flowfabric.DeliverDuplicate {
		out.SignalID = r.ExistingSignalID
	}
	return out
}

// ApprovalRequest is the body of POST E/approval-signal.
type ApprovalRequest struct {
	ExecutionRef
	LaneID            flowfabric.LaneID      `json:"lane_id" doc:"Must be the execution's."`
	WaitpointID       flowfabric.WaitpointID `json:"waitpoint_id" format:"uuid"`
	SignalName        string                 `json:"signal_name" maxLength:"128" doc:"By convention approved or rejected."`
	IdempotencySuffix string                 `json:"idempotency_suffix" maxLength:"128" doc:"Makes the idempotency key approval:<signal_name>:<suffix>."`
	DecidedBy         string                 `json:"decided_by" maxLength:"256" doc:"Becomes the source identity."`
	SignalID          *flowfabric.SignalID   `json:"signal_id,omitempty" format:"uuid"`
	DedupTTLMs        *int64                 `json:"dedup_ttl_ms,omitempty" minimum:"1" maximum:"604800000" default:"86400000"`
	Payload           *[]byte                `json:"payload,omitempty" doc:"Base64, at most 65,536 raw bytes."`
	PayloadEncoding   *string                `json:"payload_encoding,omitempty" maxLength:"64" default:"json"`
}

// NewApprovalRequest makes the body of POST E/approval-signal.
func NewApprovalRequest(a flowfabric.DeliverApprovalSignalArgs) ApprovalRequest {
	return ApprovalRequest{LaneID: a.LaneID, WaitpointID: a.WaitpointID, SignalName: a.SignalName, IdempotencySuffix: a.IdempotencySuffix, DecidedBy: a.DecidedBy,
		SignalID: opt(a.SignalID), DedupTTLMs: opt(a.DedupTTLMs), Payload: bytesPtr(a.Payload), PayloadEncoding: opt(a.PayloadEncoding)}
}

// Args returns the contract's arguments.
func (r ApprovalRequest) Args(id flowfabric.ExecutionID) (flowfabric.DeliverApprovalSignalArgs, error) {
	a := flowfabric.DeliverApprovalSignalArgs{ExecutionID: id, LaneID: r.LaneID, WaitpointID: r.WaitpointID, SignalID: val(r.SignalID), SignalName: r.SignalName,
		IdempotencySuffix: r.IdempotencySuffix, DecidedBy: r.DecidedBy, DedupTTLMs: val(r.DedupTTLMs), Payload: val(r.Payload), PayloadEncoding: val(r.PayloadEncoding)}
	if err := r.Check(id); err != nil {
		return a, err
	}
	if err := emptyRefused("signal_id", r.SignalID); err != nil {
		return a, err
	}
	return a, zeroRefused("dedup_ttl_ms", r.DedupTTLMs)
}

// The defaults of a callback.
const (
	CallbackName   = "callback"
	CallbackSender = "callback"
)

// CallbackRequest is the body of POST
// /v1/callbacks/{execution_id}/{waitpoint_id}, from a party that has nothing but
// the waitpoint's token.
type CallbackRequest struct {
	ExecutionRef
	WaitpointID     *flowfabric.WaitpointID `json:"waitpoint_id,omitempty" doc:"Optional copy of the id in the path."`
	WaitpointToken  *string                 `json:"waitpoint_token,omitempty" doc:"Unless it comes in the header FF-Waitpoint-Token."`
	SignalName      *string                 `json:"signal_name,omitempty" maxLength:"128" default:"callback"`
	SourceIdentity  *string                 `json:"source_identity,omitempty" maxLength:"256" default:"callback"`
	Payload         *[]byte                 `json:"payload,omitempty" doc:"Base64, at most 65,536 raw bytes."`
	PayloadEncoding *string                 `json:"payload_encoding,omitempty" maxLength:"64" default:"json"`
	CorrelationID   *string                 `json:"correlation_id,omitempty" maxLength:"256"`
	IdempotencyKey  *string                 `json:"idempotency_key,omitempty" maxLength:"256"`
}

// Args returns the contract's arguments. token is that of the header, "" without
// one; a body that gives another one is id_mismatch.
func (r CallbackRequest) Args(id flowfabric.ExecutionID, waitpoint flowfabric.WaitpointID, token string) (flowfabric.DeliverSignalArgs, error) {
	given := val(r.WaitpointToken)
	a := flowfabric.DeliverSignalArgs{ExecutionID: id, WaitpointID: waitpoint, Token: flowfabric.NewWaitpointToken(token)}
	if token == "" {
		a.Token = flowfabric.NewWaitpointToken(given)
	} else if given != "" && given != token {
		return a, flowfabric.NewError(flowfabric.CodeIDMismatch, "the header %s and the body's waitpoint_token differ", HeaderWaitpointToken).
			With("field", "waitpoint_token")
	}
	if err := r.Check(id); err != nil {
		return a, err
	}
	if err := (WaitpointRef{r.WaitpointID}).Check(waitpoint); err != nil {
		return a, err
	}
	a.Signal = flowfabric.Signal{
		Name: CallbackName, SourceIdentity: CallbackSender, Category: flowfabric.SignalCategoryCallback, SourceType: flowfabric.SourceTypeWebhook,
		Payload: val(r.Payload), PayloadEncoding: val(r.PayloadEncoding), CorrelationID: val(r.CorrelationID), IdempotencyKey: val(r.IdempotencyKey),
	}
	if r.SignalName != nil {
		a.Signal.Name = *r.SignalName
	}
	if r.SourceIdentity != nil {
		a.Signal.SourceIdentity = *r.SourceIdentity
	}
	return a, nil
}

// CallbackResponse is accepted, whatever the signal did.
type CallbackResponse struct {
	Outcome string `json:"outcome" enum:"accepted"`
}

// ResumeSignalsRequest is the body of POST A/resume-signals. It is a read, so
// that of the fence the attempt alone is needed.
type ResumeSignalsRequest struct {
	AttemptRef
	Fence *Fence `json:"fence,omitempty" doc:"Required; its attempt_id is enough."`
}

// NewResumeSignalsRequest makes the body of POST A/resume-signals.
func NewResumeSignalsRequest(a flowfabric.ObserveSignalsArgs) ResumeSignalsRequest {
	return ResumeSignalsRequest{Fence: NewFence(flowfabric.Fence{AttemptID: a.AttemptID})}
}

// Args returns the contract's arguments.
func (r ResumeSignalsRequest) Args(id flowfabric.ExecutionID, index uint32) (flowfabric.ObserveSignalsArgs, error) {
	a := flowfabric.ObserveSignalsArgs{ExecutionID: id, AttemptID: r.Fence.Fence().AttemptID}
	if err := r.Check(id, index); err != nil {
		return a, err
	}
	if r.Fence.Fence().Empty() {
		return a, flowfabric.NewError(flowfabric.CodeFenceRequired, "the fence is missing").With("field", "fence")
	}
	if a.AttemptID == "" {
		return a, flowfabric.NewError(flowfabric.CodePartialFenceTriple, "the fence lacks its attempt_id").With("field", "fence.attempt_id")
	}
	return a, nil
}

// ListSignalsQuery returns the parameters of GET E/signals.
func ListSignalsQuery(a flowfabric.ListSignalsArgs) url.Values {
	q := url.Values{}
	setText(q, "waitpoint_id", a.WaitpointID)
	if a.UnconsumedOnly {
		q.Set("unconsumed_only", "true")
	}
	setInt(q, "limit", a.Limit)
	if a.After != 0 {
		q.Set("cursor", signalsCursor(a.ExecutionID, q, a.After))
	}
	return q
}

func signalsCursor(id flowfabric.ExecutionID, q url.Values, after uint64) string {
	return EncodeCursor(ListSignals, string(id), q, strconv.FormatUint(after, 10))
}

// ParseListSignals reads the parameters of GET E/signals.
func ParseListSignals(id flowfabric.ExecutionID, q url.Values) (flowfabric.ListSignalsArgs, error) {
	a := flowfabric.ListSignalsArgs{ExecutionID: id}
	waitpoint, err := QueryFilter(q, "waitpoint_id")
	if err != nil {
		return a, err
	}
	a.WaitpointID = flowfabric.WaitpointID(waitpoint)
	if a.UnconsumedOnly, err = QueryBool(q, "unconsumed_only", false); err != nil {
		return a, err
	}
	if a.Limit, err = QueryLimit(q, flowfabric.MaxListLimit); err != nil {
		return a, err
	}
	text, err := QueryText(q, "cursor")
	if err != nil || text == "" {
		return a, err
	}
	position, err := DecodeCursor(ListSignals, string(id), q, text)
	if err != nil {
		return a, err
	}
	if a.After, err = strconv.ParseUint(position, 10, 64); err != nil {
		return a, invalidCursor("malformed")
	}
	return a, nil
}

// NewSignalsPage makes the answer of GET E/signals, without payloads. q is the
// request's query.
func NewSignalsPage(id flowfabric.ExecutionID, q url.Values, r flowfabric.ListSignalsResult) Page[flowfabric.RecordedSignal] {
	p := Page[flowfabric.RecordedSignal]{Items: make([]flowfabric.RecordedSignal, len(r.Signals))}
	for i, s := range r.Signals {
		s.Payload = nil
		p.Items[i] = s
	}
	if r.Next != 0 {
		p.NextCursor = opt(signalsCursor(id, q, r.Next))
	}
	return p
}

// SignalsResult returns the contract's result of a page asked for with q.
func SignalsResult(id flowfabric.ExecutionID, q url.Values, p Page[flowfabric.RecordedSignal]) (flowfabric.ListSignalsResult, error) {
	r := flowfabric.ListSignalsResult{Signals: p.Items}
	if p.NextCursor == nil {
		return r, nil
	}
	position, err := DecodeCursor(ListSignals, string(id), q, *p.NextCursor)
	if err != nil {
		return r, err
	}
	r.Next, err = strconv.ParseUint(position, 10, 64)
	return r, err
}
