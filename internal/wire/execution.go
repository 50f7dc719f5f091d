package wire

import (
	"encoding/json"
	"net/url"
	"strconv"

	"github.com/flowfabric/flowfabric"
)

// CreateExecutionRequest is the body of POST /v1/executions and an item of the
// batch. (Specification 08, section 4.1.)
type CreateExecutionRequest struct {
	Namespace           flowfabric.Namespace    `json:"namespace" maxLength:"128" doc:"1..128 bytes of 0x21..0x7E without braces."`
	LaneID              flowfabric.LaneID       `json:"lane_id" maxLength:"64" doc:"1..64 bytes of printable ASCII without braces."`
	Kind                string                  `json:"execution_kind" maxLength:"128" doc:"1..128 bytes of printable ASCII without spaces."`
	Payload             []byte                  `json:"payload" doc:"Opaque input, base64, at most 1,048,576 raw bytes."`
	ExecutionID         *flowfabric.ExecutionID `json:"execution_id,omitempty" doc:"Minted by the server when absent."`
	FlowID              *flowfabric.FlowID      `json:"flow_id,omitempty" doc:"Places the execution on the flow's partition."`
	JoinFlow            *bool                   `json:"join_flow,omitempty" default:"true" doc:"False: flow_id is placement only."`
	PayloadEncoding     *string                 `json:"payload_encoding,omitempty" maxLength:"64" default:"json" doc:"Free text that travels unchanged."`
	Priority            *int32                  `json:"priority,omitempty" default:"0" doc:"Clamped to 0..9000; higher runs first."`
	CreatorIdentity     *string                 `json:"creator_identity,omitempty" maxLength:"256" doc:"Default: the token's name, anonymous without authentication."`
	IdempotencyKey      *string                 `json:"idempotency_key,omitempty" maxLength:"256" doc:"Equal keys of one namespace create one execution."`
	Tags                map[string]string       `json:"tags,omitempty" doc:"At most 128; keys as prefix.name."`
	Policy              json.RawMessage         `json:"policy,omitempty" wire:"policy" doc:"The execution's policy; absent means all defaults."`
	DelayUntil          *flowfabric.Millis      `json:"delay_until,omitempty" doc:"Not claimable before; Unix milliseconds of the store's clock."`
	ExecutionDeadlineAt *flowfabric.Millis      `json:"execution_deadline_at,omitempty" doc:"Absolute deadline; Unix milliseconds of the store's clock."`

	itemFault
}

// NewCreateExecutionRequest makes the body of a create. A flow id is placement
// only, as in the contract.
func NewCreateExecutionRequest(a flowfabric.CreateExecutionArgs) CreateExecutionRequest {
	r := CreateExecutionRequest{
		Namespace:           a.Namespace,
		LaneID:              a.LaneID,
		Kind:                a.Kind,
		Payload:             nonNil(a.Payload),
		ExecutionID:         opt(a.ExecutionID),
		FlowID:              opt(a.FlowID),
		PayloadEncoding:     opt(a.PayloadEncoding),
		Priority:            a.Priority,
		CreatorIdentity:     &a.CreatorIdentity,
		IdempotencyKey:      opt(a.IdempotencyKey),
		Tags:                a.Tags,
		Policy:              a.Policy,
		DelayUntil:          opt(a.DelayUntil),
		ExecutionDeadlineAt: opt(a.ExecutionDeadlineAt),
	}
	if r.FlowID != nil {
		join := false
		r.JoinFlow = &join
	}
	return r
}

// Args returns the contract's arguments. CreatorIdentity is empty when absent;
// [CreateExecutionRequest.CreatorGiven] tells that from an empty one.
func (r CreateExecutionRequest) Args() (flowfabric.CreateExecutionArgs, error) {
	if r.fault != nil {
		return flowfabric.CreateExecutionArgs{}, r.fault
	}
	if r.ExecutionID != nil {
		if _, err := flowfabric.ParseExecutionID(string(*r.ExecutionID)); err != nil {
			return flowfabric.CreateExecutionArgs{}, err
		}
	}
	if r.FlowID != nil && (r.JoinFlow == nil || *r.JoinFlow) {
		return flowfabric.CreateExecutionArgs{}, flowfabric.NewError(flowfabric.CodeUnsupportedOperation,
			"members of a flow can't be created here; join_flow false makes flow_id placement only").
			With("operation", "create_execution_in_flow")
	}
	return flowfabric.CreateExecutionArgs{
		ExecutionID:         val(r.ExecutionID),
		FlowID:              val(r.FlowID),
		Namespace:           r.Namespace,
		LaneID:              r.LaneID,
		Kind:                r.Kind,
		Payload:             r.Payload,
		PayloadEncoding:     val(r.PayloadEncoding),
		Priority:            r.Priority,
		DelayUntil:          val(r.DelayUntil),
		ExecutionDeadlineAt: val(r.ExecutionDeadlineAt),
		CreatorIdentity:     val(r.CreatorIdentity),
		IdempotencyKey:      val(r.IdempotencyKey),
		Tags:                r.Tags,
		Policy:              r.Policy,
	}, nil
}

// CreatorGiven reports whether the body names a creator.
func (r CreateExecutionRequest) CreatorGiven() bool { return r.CreatorIdentity != nil }

// CreateExecutionResponse is created or duplicate.
type CreateExecutionResponse struct {
	Outcome     flowfabric.CreateOutcome `json:"outcome" enum:"created,duplicate" doc:"Whether this call made the execution."`
	ExecutionID flowfabric.ExecutionID   `json:"execution_id" doc:"The execution, of a duplicate the first one."`
	PublicState flowfabric.PublicState   `json:"public_state,omitempty" doc:"created only."`
	SameSpec    *bool                    `json:"same_spec,omitempty" doc:"duplicate only: whether kind, lane, payload and policy are the first one's."`
}

// NewCreateExecutionResponse makes the answer to a create.
func NewCreateExecutionResponse(r flowfabric.CreateExecutionResult) CreateExecutionResponse {
	out := CreateExecutionResponse{Outcome: r.Outcome, ExecutionID: r.ExecutionID, PublicState: r.PublicState}
	if r.Outcome == flowfabric.OutcomeDuplicate {
		out.SameSpec = &r.SameSpec
	}
	return out
}

// Result returns the contract's result.
func (r CreateExecutionResponse) Result() flowfabric.CreateExecutionResult {
	return flowfabric.CreateExecutionResult{Outcome: r.Outcome, ExecutionID: r.ExecutionID, PublicState: r.PublicState, SameSpec: val(r.SameSpec)}
}

// CreateExecutionsRequest is the body of POST /v1/executions/batch.
type CreateExecutionsRequest struct {
	Executions []CreateExecutionRequest `json:"executions" minItems:"1" maxItems:"100" doc:"Each independent of the others."`
}

// CreateExecutionsItem is the creation, or the problem of that item alone.
type CreateExecutionsItem struct {
	Outcome     flowfabric.CreateOutcome `json:"outcome,omitempty" enum:"created,duplicate"`
	ExecutionID flowfabric.ExecutionID   `json:"execution_id,omitempty"`
	PublicState flowfabric.PublicState   `json:"public_state,omitempty"`
	SameSpec    *bool                    `json:"same_spec,omitempty"`
	Problem     *Problem                 `json:"problem,omitempty"`
}

// CreateExecutionsResponse has one item per execution, in order.
type CreateExecutionsResponse struct {
	Items []CreateExecutionsItem `json:"items"`
}

// NewCreateExecutionsResponse makes the answer to a batch of creates.
func NewCreateExecutionsResponse(items []flowfabric.Item[flowfabric.CreateExecutionResult]) CreateExecutionsResponse {
	out := CreateExecutionsResponse{Items: make([]CreateExecutionsItem, len(items))}
	for i, item := range items {
		if item.Err != nil {
			out.Items[i].Problem = itemProblem(item.Err)
			continue
		}
		c := NewCreateExecutionResponse(item.Result)
		out.Items[i] = CreateExecutionsItem{Outcome: c.Outcome, ExecutionID: c.ExecutionID, PublicState: c.PublicState, SameSpec: c.SameSpec}
	}
	return out
}

// Results returns the contract's results.
func (r CreateExecutionsResponse) Results() []flowfabric.Item[flowfabric.CreateExecutionResult] {
	out := make([]flowfabric.Item[flowfabric.CreateExecutionResult], len(r.Items))
	for i, item := range r.Items {
		if item.Problem != nil {
			out[i].Err = itemError(item.Problem)
			continue
		}
		out[i].Result = CreateExecutionResponse{Outcome: item.Outcome, ExecutionID: item.ExecutionID, PublicState: item.PublicState, SameSpec: item.SameSpec}.Result()
	}
	return out
}

// SubmitAndWaitResponse is the answer to a create with wait_ms: the creation and
// the state at the end of the wait. (Specification 04, section 6.2.)
type SubmitAndWaitResponse struct {
	Outcome         flowfabric.CreateOutcome   `json:"outcome" enum:"created,duplicate"`
	ExecutionID     flowfabric.ExecutionID     `json:"execution_id"`
	SameSpec        *bool                      `json:"same_spec,omitempty"`
	PublicState     flowfabric.PublicState     `json:"public_state"`
	TerminalOutcome flowfabric.TerminalOutcome `json:"terminal_outcome,omitempty"`
	WaitFields
}

// NewSubmitAndWaitResponse joins a creation and a wait.
func NewSubmitAndWaitResponse(c flowfabric.CreateExecutionResult, w flowfabric.WaitExecutionResult) SubmitAndWaitResponse {
	return SubmitAndWaitResponse{
		Outcome:         c.Outcome,
		ExecutionID:     c.ExecutionID,
		SameSpec:        NewCreateExecutionResponse(c).SameSpec,
		PublicState:     w.PublicState,
		TerminalOutcome: w.Outcome,
		WaitFields:      waitFieldsOf(w),
	}
}

// WaitFields are common to E/wait and a create with wait_ms.
type WaitFields struct {
	Terminal        bool               `json:"terminal" doc:"Whether the execution has ended."`
	TimedOut        bool               `json:"timed_out" doc:"Whether the wait ran out."`
	AttemptIndex    *uint32            `json:"attempt_index,omitempty"`
	ReplayCount     uint32             `json:"replay_count"`
	CompletedAt     *flowfabric.Millis `json:"completed_at,omitempty"`
	FailureCategory string             `json:"failure_category,omitempty"`
	FailureReason   string             `json:"failure_reason,omitempty"`
	ResultAvailable bool               `json:"result_available"`
	Payload         *[]byte            `json:"payload,omitempty" doc:"The result, base64."`
	PayloadEncoding string             `json:"payload_encoding,omitempty"`
}

func waitFieldsOf(w flowfabric.WaitExecutionResult) WaitFields {
	f := WaitFields{
		Terminal:        w.Terminal,
		TimedOut:        w.TimedOut,
		AttemptIndex:    w.AttemptIndex,
		ReplayCount:     w.ReplayCount,
		CompletedAt:     opt(w.CompletedAt),
		FailureCategory: w.FailureCategory,
		FailureReason:   w.FailureReason,
		ResultAvailable: w.ResultAvailable,
		Payload:         bytesPtr(w.Result),
		PayloadEncoding: w.ResultEncoding,
	}
	return f
}

// WaitExecutionResponse is the answer of GET E/wait.
type WaitExecutionResponse struct {
	PublicState flowfabric.PublicState     `json:"public_state"`
	Outcome     flowfabric.TerminalOutcome `json:"outcome,omitempty" doc:"How it ended; absent while live."`
	WaitFields
}

// NewWaitExecutionResponse makes the answer to a wait.
func NewWaitExecutionResponse(w flowfabric.WaitExecutionResult) WaitExecutionResponse {
	return WaitExecutionResponse{PublicState: w.PublicState, Outcome: w.Outcome, WaitFields: waitFieldsOf(w)}
}

// Result returns the contract's result.
func (r WaitExecutionResponse) Result() flowfabric.WaitExecutionResult {
	return flowfabric.WaitExecutionResult{
		PublicState:     r.PublicState,
		Terminal:        r.Terminal,
		TimedOut:        r.TimedOut,
		Outcome:         r.Outcome,
		AttemptIndex:    r.AttemptIndex,
		ReplayCount:     r.ReplayCount,
		CompletedAt:     val(r.CompletedAt),
		FailureCategory: r.FailureCategory,
		FailureReason:   r.FailureReason,
		ResultAvailable: r.ResultAvailable,
		Result:          val(r.Payload),
		ResultEncoding:  r.PayloadEncoding,
	}
}

// WaitExecutionQuery returns the parameters of GET E/wait.
func WaitExecutionQuery(a flowfabric.WaitExecutionArgs) url.Values {
	q := url.Values{"wait_ms": {strconv.FormatInt(a.WaitMs, 10)}}
	setText(q, "until", a.Until)
	if a.OmitResult {
		q.Set("include_result", "false")
	}
	return q
}

// ParseWaitExecution reads the parameters of GET E/wait. An absent wait_ms is
// 30,000.
func ParseWaitExecution(id flowfabric.ExecutionID, q url.Values) (flowfabric.WaitExecutionArgs, error) {
	a := flowfabric.WaitExecutionArgs{ExecutionID: id, WaitMs: flowfabric.MaxWaitMs}
	wait, given, err := QueryInt(q, "wait_ms", 0, flowfabric.MaxWaitMs)
	if err != nil {
		return a, err
	}
	if given {
		a.WaitMs = wait
	}
	until, err := QueryText(q, "until")
	if err != nil {
		return a, err
	}
	switch a.Until = flowfabric.WaitUntil(until); a.Until {
	case "", flowfabric.UntilTerminal, flowfabric.UntilSettled:
	default:
		return a, flowfabric.InvalidInput("until", "must be terminal or settled")
	}
	include, err := QueryBool(q, "include_result", true)
	a.OmitResult = !include
	return a, err
}

// StateResponse is the answer of GET E/state, E/pause and E/unpause (these with
// an outcome).
type StateResponse struct {
	PublicState flowfabric.PublicState `json:"public_state"`
}

// ContextResponse is the answer of GET E/context.
type ContextResponse struct {
	Payload         []byte                     `json:"payload"`
	PayloadEncoding string                     `json:"payload_encoding"`
	Kind            string                     `json:"execution_kind"`
	Tags            map[string]string          `json:"tags"`
	AttemptType     flowfabric.AttemptType     `json:"attempt_type,omitempty" doc:"Absent before the first claim."`
	PolicySnapshot  *flowfabric.PolicySnapshot `json:"policy_snapshot,omitempty" doc:"Absent before the first claim."`
}

// NewContextResponse makes the answer of GET E/context.
func NewContextResponse(c flowfabric.ExecutionContext) ContextResponse {
	tags := c.Tags
	if tags == nil {
		tags = map[string]string{}
	}
	return ContextResponse{Payload: nonNil(c.Payload), PayloadEncoding: c.PayloadEncoding, Kind: c.Kind, Tags: tags,
		AttemptType: c.AttemptType, PolicySnapshot: c.PolicySnapshot}
}

// Result returns the contract's result.
func (r ContextResponse) Result() flowfabric.ExecutionContext {
	return flowfabric.ExecutionContext{Payload: r.Payload, PayloadEncoding: r.PayloadEncoding, Kind: r.Kind, Tags: r.Tags,
		AttemptType: r.AttemptType, PolicySnapshot: r.PolicySnapshot}
}

// CancelRequest is the body of POST E/cancel.
type CancelRequest struct {
	ExecutionRef
	Reason      string  `json:"reason" doc:"Cut at 4096 bytes."`
	RequestedBy *string `json:"requested_by,omitempty" doc:"Who asks; shown as cancelled_by."`
}

// NewCancelRequest makes the body of POST E/cancel.
func NewCancelRequest(a flowfabric.CancelExecutionArgs) CancelRequest {
	return CancelRequest{Reason: a.Reason, RequestedBy: opt(a.RequestedBy)}
}

// Args returns the contract's arguments of an operator's cancel.
func (r CancelRequest) Args(id flowfabric.ExecutionID) (flowfabric.CancelExecutionArgs, error) {
	return flowfabric.CancelExecutionArgs{
		ExecutionID: id,
		Source:      flowfabric.SourceOperatorOverride,
		Reason:      r.Reason,
		RequestedBy: val(r.RequestedBy),
	}, r.Check(id)
}

// CancelResponse is cancelled or already_cancelled.
type CancelResponse struct {
	Outcome            flowfabric.CancelOutcome  `json:"outcome" enum:"cancelled,already_cancelled"`
	ExecutionID        flowfabric.ExecutionID    `json:"execution_id,omitempty"`
	PreviousPhase      flowfabric.LifecyclePhase `json:"previous_phase,omitempty"`
	PublicState        flowfabric.PublicState    `json:"public_state,omitempty"`
	Replayed           bool                      `json:"replayed,omitempty"`
	CancellationReason *string                   `json:"cancellation_reason,omitempty"`
	CancelledBy        *string                   `json:"cancelled_by,omitempty"`
}

// NewCancelResponse makes the answer to a cancel.
func NewCancelResponse(id flowfabric.ExecutionID, r flowfabric.CancelExecutionResult) CancelResponse {
	if r.Outcome == flowfabric.CancelAlreadyCancelled {
		return CancelResponse{Outcome: r.Outcome, CancellationReason: &r.CancellationReason, CancelledBy: &r.CancelledBy, PublicState: r.PublicState}
	}
	return CancelResponse{Outcome: r.Outcome, ExecutionID: id, PreviousPhase: r.PreviousPhase, PublicState: r.PublicState, Replayed: r.Replayed}
}

// Result returns the contract's result.
func (r CancelResponse) Result() flowfabric.CancelExecutionResult {
	return flowfabric.CancelExecutionResult{Outcome: r.Outcome, PreviousPhase: r.PreviousPhase, PublicState: r.PublicState,
		Replayed: r.Replayed, CancellationReason: val(r.CancellationReason), CancelledBy: val(r.CancelledBy)}
}

// ReplayRequest is the body of POST E/replay.
type ReplayRequest struct {
	ExecutionRef
	Reason              *string `json:"reason,omitempty" default:"manual"`
	RequestedBy         *string `json:"requested_by,omitempty" default:"operator"`
	ExpectedReplayCount *uint32 `json:"expected_replay_count,omitempty" doc:"Makes the call safe to repeat."`
	Scope               *string `json:"scope,omitempty" enum:"self" default:"self"`
}

// NewReplayRequest makes the body of POST E/replay.
func NewReplayRequest(a flowfabric.ReplayExecutionArgs) ReplayRequest {
	return ReplayRequest{Reason: opt(a.Reason), RequestedBy: opt(a.RequestedBy), ExpectedReplayCount: a.ExpectedReplayCount}
}

// Args returns the contract's arguments.
func (r ReplayRequest) Args(id flowfabric.ExecutionID) (flowfabric.ReplayExecutionArgs, error) {
	a := flowfabric.ReplayExecutionArgs{ExecutionID: id, Reason: val(r.Reason), RequestedBy: val(r.RequestedBy), ExpectedReplayCount: r.ExpectedReplayCount}
	if r.Scope != nil && *r.Scope != "self" {
		return a, flowfabric.InvalidInput("scope", "must be self")
	}
	return a, r.Check(id)
}

// ReplayResponse is replayed.
type ReplayResponse struct {
	Outcome     string                 `json:"outcome" enum:"replayed"`
	PublicState flowfabric.PublicState `json:"public_state"`
	ReplayCount uint32                 `json:"replay_count"`
	Replayed    bool                   `json:"replayed" doc:"Whether an earlier call with this expectation did it."`
}

// NewReplayResponse makes the answer to a replay.
func NewReplayResponse(r flowfabric.ReplayExecutionResult) ReplayResponse {
	return ReplayResponse{Outcome: "replayed", PublicState: r.PublicState, ReplayCount: r.ReplayCount, Replayed: r.Replayed}
}

// Result returns the contract's result.
func (r ReplayResponse) Result() flowfabric.ReplayExecutionResult {
	return flowfabric.ReplayExecutionResult{PublicState: r.PublicState, ReplayCount: r.ReplayCount, Replayed: r.Replayed}
}

// PriorityRequest is the body of PUT E/priority.
type PriorityRequest struct {
	ExecutionRef
	NewPriority int32 `json:"new_priority" doc:"Clamped to 0..9000."`
}

// Args returns the contract's arguments.
func (r PriorityRequest) Args(id flowfabric.ExecutionID) (flowfabric.ChangePriorityArgs, error) {
	return flowfabric.ChangePriorityArgs{ExecutionID: id, Priority: r.NewPriority}, r.Check(id)
}

// PriorityResponse is changed.
type PriorityResponse struct {
	Outcome     string `json:"outcome" enum:"changed"`
	OldPriority int32  `json:"old_priority"`
	NewPriority int32  `json:"new_priority"`
}

// NewPriorityResponse makes the answer to a change of priority.
func NewPriorityResponse(r flowfabric.ChangePriorityResult) PriorityResponse {
	return PriorityResponse{Outcome: "changed", OldPriority: r.OldPriority, NewPriority: r.NewPriority}
}

// Result returns the contract's result.
func (r PriorityResponse) Result() flowfabric.ChangePriorityResult {
	return flowfabric.ChangePriorityResult{OldPriority: r.OldPriority, NewPriority: r.NewPriority}
}

// PauseRequest is the body of POST E/pause and E/unpause.
type PauseRequest struct {
	ExecutionRef
	Detail *string `json:"detail,omitempty" maxLength:"4096" doc:"Why; ignored by unpause."`
}

// Args returns the contract's arguments.
func (r PauseRequest) Args(id flowfabric.ExecutionID) (flowfabric.BlockExecutionArgs, error) {
	return flowfabric.BlockExecutionArgs{ExecutionID: id, Detail: val(r.Detail)}, r.Check(id)
}

// PauseResponse is paused or unpaused.
type PauseResponse struct {
	Outcome     string                 `json:"outcome" enum:"paused,unpaused"`
	PublicState flowfabric.PublicState `json:"public_state"`
}

// SetTagsRequest is the body of PUT E/tags.
type SetTagsRequest struct {
	ExecutionRef
	Tags map[string]string `json:"tags" doc:"Set beside the tags that are there."`
}

// SetTagRequest is the body of PUT E/tags/{key}.
type SetTagRequest struct {
	ExecutionRef
	Value string `json:"value" maxLength:"4096"`
}

// SetTagsResponse tells how many pairs were given.
type SetTagsResponse struct {
	Count int `json:"count"`
}

// RemoveTagResponse is removed or absent.
type RemoveTagResponse struct {
	Outcome string `json:"outcome" enum:"removed,absent"`
}

// NewRemoveTagResponse makes the answer to the removal of a tag.
func NewRemoveTagResponse(removed bool) RemoveTagResponse {
	if removed {
		return RemoveTagResponse{Outcome: "removed"}
	}
	return RemoveTagResponse{Outcome: "absent"}
}

// TagsResponse is the answer of GET E/tags.
type TagsResponse struct {
	Tags map[string]string `json:"tags"`
}

// TagResponse is the answer of GET E/tags/{key}.
type TagResponse struct {
	Value string `json:"value"`
}

// EmptyRequest is the body of a route that takes nothing but, optionally, the
// execution id again.
type EmptyRequest struct {
	ExecutionRef
}
