package wire

import (
	"encoding/json"
	"net/url"

	"github.com/flowfabric/flowfabric"
)

// WaitpointBinding is one waitpoint of a suspend: with a key it is fresh, without
// one it is a pending waitpoint made before.
type WaitpointBinding struct {
	WaitpointID  flowfabric.WaitpointID `json:"waitpoint_id" format:"uuid"`
	WaitpointKey *string                `json:"waitpoint_key,omitempty" maxLength:"256" doc:"Of a fresh waitpoint; a pending one has its key already."`
}

// WaitResumePolicy says how an execution resumes. (Specification 03, section 3.7.)
type WaitResumePolicy struct {
	ResumeTarget           *string `json:"resume_target,omitempty" enum:"runnable" default:"runnable"`
	ResumeDelayMs          *int64  `json:"resume_delay_ms,omitempty" minimum:"0" default:"0"`
	CloseWaitpointOnResume *bool   `json:"close_waitpoint_on_resume,omitempty" default:"true"`
	ConsumeMatchedSignals  *bool   `json:"consume_matched_signals,omitempty" default:"true"`
}

// SuspendRequest is the body of POST A/suspend. (Specification 08, section 4.3.)
type SuspendRequest struct {
	AttemptRef
	Fence           *Fence                       `json:"fence,omitempty" doc:"Required."`
	SuspensionID    flowfabric.SuspensionID      `json:"suspension_id" format:"uuid" doc:"Minted by the caller."`
	ReasonCode      flowfabric.SuspendReason     `json:"reason_code" enum:"waiting_for_signal,step_boundary,waiting_for_approval,waiting_for_callback,waiting_for_tool_result,waiting_for_operator_review,manual_pause,paused_by_policy"`
	Waitpoints      []WaitpointBinding           `json:"waitpoints" minItems:"1" maxItems:"64" doc:"The first is the primary one."`
	ResumeCondition json.RawMessage              `json:"resume_condition" doc:"One object with v 1 beside its kind: single, all_of, count, operator_only or timeout_only."`
	ResumePolicy    *WaitResumePolicy            `json:"resume_policy,omitempty"`
	RequestedBy     *flowfabric.SuspendRequester `json:"requested_by,omitempty" enum:"worker,operator,policy,system_timeout_policy" default:"worker"`
	TimeoutAt       *flowfabric.Millis           `json:"timeout_at,omitempty" doc:"Unix milliseconds of the store's clock; at most one of the two times."`
	TimeoutMs       *int64                       `json:"timeout_ms,omitempty" minimum:"1" doc:"From the store's now."`
	TimeoutBehavior *flowfabric.TimeoutBehavior  `json:"timeout_behavior,omitempty" enum:"fail,cancel,expire,auto_resume_with_timeout_signal,escalate" doc:"Default: the policy's, else fail."`
	Continuation    *string                      `json:"continuation_metadata_pointer,omitempty" maxLength:"4096" doc:"The caller's own."`
	IdempotencyKey  *string                      `json:"idempotency_key,omitempty" maxLength:"256" doc:"Makes the call safe to repeat."`
}

// NewSuspendRequest makes the body of POST A/suspend. The arguments have their
// defaults filled in.
func NewSuspendRequest(a flowfabric.SuspendArgs) SuspendRequest {
	r := SuspendRequest{
		Fence: NewFence(a.Fence), SuspensionID: a.SuspensionID, ReasonCode: a.ReasonCode, Waitpoints: make([]WaitpointBinding, len(a.Waitpoints)),
		ResumeCondition: a.ResumeCondition.JSON(), RequestedBy: opt(a.RequestedBy),
		ResumePolicy: &WaitResumePolicy{
			ResumeTarget: opt(a.ResumePolicy.ResumeTarget), ResumeDelayMs: opt(a.ResumePolicy.ResumeDelayMs),
			CloseWaitpointOnResume: a.ResumePolicy.CloseWaitpointOnResume, ConsumeMatchedSignals: a.ResumePolicy.ConsumeMatchedSignals,
		},
		TimeoutAt: opt(a.TimeoutAt), TimeoutMs: a.TimeoutMs, TimeoutBehavior: opt(a.TimeoutBehavior),
		Continuation: opt(a.ContinuationMetadataPointer), IdempotencyKey: opt(a.IdempotencyKey),
	}
	for i, b := range a.Waitpoints {
		r.Waitpoints[i].WaitpointID = b.WaitpointID
		if !b.UsePending {
			r.Waitpoints[i].WaitpointKey = &b.WaitpointKey
		}
	}
	return r
}

// Args returns the contract's arguments. What the contract would fill in, the
// wire asks for: identifiers, and keys of fresh waitpoints.
func (r SuspendRequest) Args(id flowfabric.ExecutionID, index uint32) (flowfabric.SuspendArgs, error) {
	a := flowfabric.SuspendArgs{
		ExecutionID: id, Fence: r.Fence.at(index), SuspensionID: r.SuspensionID, ReasonCode: r.ReasonCode, RequestedBy: val(r.RequestedBy),
		TimeoutMs: r.TimeoutMs, TimeoutAt: val(r.TimeoutAt), TimeoutBehavior: val(r.TimeoutBehavior),
		ContinuationMetadataPointer: val(r.Continuation), IdempotencyKey: val(r.IdempotencyKey),
	}
	if err := r.Check(id, index); err != nil {
		return a, err
	}
	if err := flowfabric.ValidateUUID("suspension_id", string(r.SuspensionID)); err != nil {
		return a, err
	}
	if err := zeroRefused("timeout_at", (*int64)(r.TimeoutAt)); err != nil {
		return a, err
	}
	if err := emptyRefused("timeout_behavior", r.TimeoutBehavior); err != nil {
		return a, err
	}
	if err := emptyRefused("requested_by", r.RequestedBy); err != nil {
		return a, err
	}
	var err error
	if a.Waitpoints, err = bindings(r.Waitpoints); err != nil {
		return a, err
	}
	if p := r.ResumePolicy; p != nil {
		if err := emptyRefused("resume_target", p.ResumeTarget); err != nil {
			return a, err
		}
		a.ResumePolicy = flowfabric.ResumePolicy{ResumeTarget: val(p.ResumeTarget), ResumeDelayMs: val(p.ResumeDelayMs),
			CloseWaitpointOnResume: p.CloseWaitpointOnResume, ConsumeMatchedSignals: p.ConsumeMatchedSignals}
	}
	if err := distinctNames("resume_condition", r.ResumeCondition); err != nil {
		return a, err
	}
	a.ResumeCondition, err = flowfabric.ParseResumeCondition(r.ResumeCondition)
	return a, err
}

func bindings(list []WaitpointBinding) ([]flowfabric.WaitpointBinding, error) {
	out := make([]flowfabric.WaitpointBinding, len(list))
	for i, b := range list {
		if err := flowfabric.ValidateUUID("waitpoint_id", string(b.WaitpointID)); err != nil {
			return nil, err
		}
		out[i] = flowfabric.WaitpointBinding{WaitpointID: b.WaitpointID, WaitpointKey: val(b.WaitpointKey), UsePending: b.WaitpointKey == nil}
		if b.WaitpointKey == nil {
			continue
		}
		if err := flowfabric.ValidateWaitpointKey(*b.WaitpointKey); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// BoundWaitpoint is a waitpoint in the answer to a suspend. The token is there
// only when the execution is suspended.
type BoundWaitpoint struct {
	WaitpointID  flowfabric.WaitpointID `json:"waitpoint_id"`
	WaitpointKey string                 `json:"waitpoint_key"`
	Token        string                 `json:"token,omitempty" doc:"suspended only: the credential of the waitpoint's signals."`
}

// SuspendResponse is suspended, or already_satisfied: then the lease is kept.
type SuspendResponse struct {
	Outcome      flowfabric.SuspendOutcome `json:"outcome" enum:"suspended,already_satisfied"`
	SuspensionID flowfabric.SuspensionID   `json:"suspension_id"`
	Waitpoints   []BoundWaitpoint          `json:"waitpoints" doc:"In the order of the request."`
	Signals      []flowfabric.ResumeSignal `json:"signals,omitempty" doc:"already_satisfied only: the signals that met the condition."`
	Replayed     bool                      `json:"replayed" doc:"Whether this is the answer of an earlier call."`
}

// NewSuspendResponse makes the answer to a suspend.
func NewSuspendResponse(r flowfabric.SuspendResult) SuspendResponse {
	out := SuspendResponse{Outcome: r.Outcome, SuspensionID: r.SuspensionID, Waitpoints: make([]BoundWaitpoint, len(r.Waitpoints)), Replayed: r.Replayed}
	for i, w := range r.Waitpoints {
		out.Waitpoints[i] = BoundWaitpoint{WaitpointID: w.WaitpointID, WaitpointKey: w.WaitpointKey}
		if r.Outcome == flowfabric.SuspendSuspended {
			out.Waitpoints[i].Token = w.Token.Reveal()
		}
	}
	if r.Outcome == flowfabric.SuspendAlreadySatisfied {
		out.Signals = nonNil(r.Signals)
	}
	return out
}

// Result returns the contract's result.
func (r SuspendResponse) Result() flowfabric.SuspendResult {
	out := flowfabric.SuspendResult{Outcome: r.Outcome, SuspensionID: r.SuspensionID, Signals: r.Signals, Replayed: r.Replayed}
	if len(r.Waitpoints) > 0 {
		out.Waitpoints = make([]flowfabric.BoundWaitpoint, len(r.Waitpoints))
	}
	for i, w := range r.Waitpoints {
		out.Waitpoints[i] = flowfabric.BoundWaitpoint{WaitpointID: w.WaitpointID, WaitpointKey: w.WaitpointKey, Token: flowfabric.NewWaitpointToken(w.Token)}
	}
	return out
}

// ResumeRequest is the body of POST E/resume.
type ResumeRequest struct {
	ExecutionRef
	Reason        string `json:"reason" doc:"Cut at 4096 bytes."`
	ResumeDelayMs *int64 `json:"resume_delay_ms,omitempty" minimum:"0" doc:"Default: the suspension's resume policy."`
}

// NewResumeRequest makes the body of POST E/resume.
func NewResumeRequest(a flowfabric.ResumeExecutionArgs) ResumeRequest {
	return ResumeRequest{Reason: a.Reason, ResumeDelayMs: a.ResumeDelayMs}
}

// Args returns the contract's arguments of an operator.
func (r ResumeRequest) Args(id flowfabric.ExecutionID) (flowfabric.ResumeExecutionArgs, error) {
	return flowfabric.ResumeExecutionArgs{ExecutionID: id, Trigger: flowfabric.ResumeTriggerOperator, Reason: r.Reason, ResumeDelayMs: r.ResumeDelayMs},
		r.Check(id)
}

// ResumeResponse is resumed.
type ResumeResponse struct {
	Outcome     string                 `json:"outcome" enum:"resumed"`
	PublicState flowfabric.PublicState `json:"public_state" doc:"waiting or delayed; of a held member of a flow, waiting_children."`
}

// NewResumeResponse makes the answer to an operator's resume.
func NewResumeResponse(r flowfabric.ResumeExecutionResult) ResumeResponse {
	return ResumeResponse{Outcome: "resumed", PublicState: r.PublicState}
}

// Result returns the contract's result.
func (r ResumeResponse) Result() flowfabric.ResumeExecutionResult {
	return flowfabric.ResumeExecutionResult{PublicState: r.PublicState}
}

// Suspension is the record of a wait as GET E/suspension shows it.
type Suspension struct {
	flowfabric.Suspension
	ResumeCondition json.RawMessage `json:"resume_condition" doc:"As it was given."`
}

// NewSuspension makes the wire form of a suspension: lists are never null.
func NewSuspension(s flowfabric.Suspension) Suspension {
	s.Waitpoints, s.Progress = nonNil(s.Waitpoints), nonNil(s.Progress)
	return Suspension{Suspension: s, ResumeCondition: s.ResumeCondition.JSON()}
}

// Record returns the contract's suspension.
func (s Suspension) Record() (*flowfabric.Suspension, error) {
	condition, err := flowfabric.ParseResumeCondition(s.ResumeCondition)
	if err != nil {
		return nil, err
	}
	out := s.Suspension
	out.ResumeCondition = condition
	if len(out.Waitpoints) == 0 {
		out.Waitpoints = nil
	}
	return &out, nil
}

// ListSuspendedQuery returns the parameters of GET /v1/suspended. The cursor is
// the server's and opaque.
func ListSuspendedQuery(a flowfabric.ListSuspendedArgs) url.Values {
	q := url.Values{}
	setPartition(q, a.Partition)
	setText(q, "namespace", a.Namespace)
	setInt(q, "limit", a.Limit)
	setText(q, "cursor", a.Cursor)
	return q
}

// ParseListSuspended reads the parameters of GET /v1/suspended.
func ParseListSuspended(q url.Values) (flowfabric.ListSuspendedArgs, error) {
	a := flowfabric.ListSuspendedArgs{}
	partition, given, err := QueryInt(q, "partition", 0, 65535)
	if err != nil {
		return a, err
	}
	if given {
		p := uint16(partition)
		a.Partition = &p
	}
	ns, err := QueryFilter(q, "namespace")
	if err != nil {
		return a, err
	}
	a.Namespace = flowfabric.Namespace(ns)
	if a.Limit, err = QueryLimit(q, flowfabric.MaxListLimit); err != nil {
		return a, err
	}
	text, err := QueryText(q, "cursor")
	if err != nil || text == "" {
		return a, err
	}
	a.Cursor, err = DecodeCursor(ListSuspended, "", q, text)
	return a, err
}

// NewSuspendedPage makes the answer of GET /v1/suspended. q is the request's
// query.
func NewSuspendedPage(q url.Values, r flowfabric.ListSuspendedResult) Page[flowfabric.SuspendedExecution] {
	p := Page[flowfabric.SuspendedExecution]{Items: nonNil(r.Executions)}
	if r.NextCursor != "" {
		p.NextCursor = opt(EncodeCursor(ListSuspended, "", q, r.NextCursor))
	}
	return p
}
