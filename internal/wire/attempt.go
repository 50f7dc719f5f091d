package wire

import (
	"net/url"
	"strconv"

	"github.com/flowfabric/flowfabric"
)

// Attempt is an attempt with its usage.
type Attempt struct {
	flowfabric.Attempt
	Usage flowfabric.Usage `json:"usage" doc:"Units per dimension, possibly none."`
}

// NewAttempt makes the wire form of an attempt.
func NewAttempt(a flowfabric.Attempt) Attempt {
	usage := a.Usage
	if usage == nil {
		usage = flowfabric.Usage{}
	}
	return Attempt{Attempt: a, Usage: usage}
}

// Record returns the contract's attempt.
func (a Attempt) Record() flowfabric.Attempt {
	out := a.Attempt
	if len(a.Usage) > 0 {
		out.Usage = a.Usage
	}
	return out
}

// ListAttemptsQuery returns the parameters of GET E/attempts.
func ListAttemptsQuery(a flowfabric.ListAttemptsArgs) url.Values {
	q := url.Values{}
	setInt(q, "from", a.From)
	setInt(q, "limit", a.Limit)
	return q
}

// ParseListAttempts reads the parameters of GET E/attempts; a cursor wins over
// from.
func ParseListAttempts(id flowfabric.ExecutionID, q url.Values) (flowfabric.ListAttemptsArgs, error) {
	a := flowfabric.ListAttemptsArgs{ExecutionID: id}
	from, _, err := QueryInt(q, "from", 0, 1<<32-1)
	if err != nil {
		return a, err
	}
	a.From = uint32(from)
	if a.Limit, err = QueryLimit(q, flowfabric.MaxListLimit); err != nil {
		return a, err
	}
	text, err := QueryText(q, "cursor")
	if err != nil || text == "" {
		return a, err
	}
	position, err := DecodeCursor(ListAttempts, string(id), attemptFilters, text)
	if err != nil {
		return a, err
	}
	n, err := strconv.ParseUint(position, 10, 32)
	if err != nil {
		return a, invalidCursor("malformed")
	}
	a.From = uint32(n)
	return a, nil
}

// attemptFilters is empty: from is a position, no filter.
var attemptFilters = url.Values{}

// NewAttemptsPage makes the answer of GET E/attempts.
func NewAttemptsPage(id flowfabric.ExecutionID, r flowfabric.ListAttemptsResult) Page[Attempt] {
	p := Page[Attempt]{Items: make([]Attempt, len(r.Attempts))}
	for i, a := range r.Attempts {
		p.Items[i] = NewAttempt(a)
	}
	if r.Next != nil {
		p.NextCursor = opt(EncodeCursor(ListAttempts, string(id), attemptFilters, strconv.FormatUint(uint64(*r.Next), 10)))
	}
	return p
}

// AttemptsResult returns the contract's result of a page.
func AttemptsResult(id flowfabric.ExecutionID, p Page[Attempt]) (flowfabric.ListAttemptsResult, error) {
	r := flowfabric.ListAttemptsResult{Attempts: make([]flowfabric.Attempt, len(p.Items))}
	for i, a := range p.Items {
		r.Attempts[i] = a.Record()
	}
	if p.NextCursor == nil {
		return r, nil
	}
	a, err := ParseListAttempts(id, url.Values{"cursor": {*p.NextCursor}})
	r.Next = &a.From
	return r, err
}

// CompleteRequest is the body of POST A/complete.
type CompleteRequest struct {
	AttemptRef
	Fence           *Fence  `json:"fence,omitempty" doc:"Required."`
	Payload         *[]byte `json:"payload,omitempty" doc:"The result, base64; absent stores none."`
	PayloadEncoding *string `json:"payload_encoding,omitempty" maxLength:"64" default:"json"`
}

// NewCompleteRequest makes the body of POST A/complete.
func NewCompleteRequest(a flowfabric.CompleteExecutionArgs) CompleteRequest {
	return CompleteRequest{Fence: NewFence(a.Fence), Payload: bytesPtr(a.Result), PayloadEncoding: opt(a.ResultEncoding)}
}

// Args returns the contract's arguments of the lease holder.
func (r CompleteRequest) Args(id flowfabric.ExecutionID, index uint32) (flowfabric.CompleteExecutionArgs, error) {
	return flowfabric.CompleteExecutionArgs{ExecutionID: id, Fence: r.Fence.at(index), Source: flowfabric.SourceLeaseHolder,
		Result: val(r.Payload), ResultEncoding: val(r.PayloadEncoding)}, r.Check(id, index)
}

// OperatorCompleteRequest is the body of POST E/complete.
type OperatorCompleteRequest struct {
	ExecutionRef
	Payload         *[]byte `json:"payload,omitempty" doc:"The result, base64; absent stores none."`
	PayloadEncoding *string `json:"payload_encoding,omitempty" maxLength:"64" default:"json"`
}

// NewOperatorCompleteRequest makes the body of POST E/complete.
func NewOperatorCompleteRequest(a flowfabric.CompleteExecutionArgs) OperatorCompleteRequest {
	return OperatorCompleteRequest{Payload: bytesPtr(a.Result), PayloadEncoding: opt(a.ResultEncoding)}
}

// Args returns the contract's arguments of an operator's override.
func (r OperatorCompleteRequest) Args(id flowfabric.ExecutionID) (flowfabric.CompleteExecutionArgs, error) {
	return flowfabric.CompleteExecutionArgs{ExecutionID: id, Source: flowfabric.SourceOperatorOverride,
		Result: val(r.Payload), ResultEncoding: val(r.PayloadEncoding)}, r.ExecutionRef.Check(id)
}

// CompleteResponse is completed.
type CompleteResponse struct {
	Outcome     string                 `json:"outcome" enum:"completed"`
	PublicState flowfabric.PublicState `json:"public_state"`
	Replayed    bool                   `json:"replayed" doc:"Whether this is the answer of an earlier call."`
}

// NewCompleteResponse makes the answer to a completion.
func NewCompleteResponse(r flowfabric.CompleteExecutionResult) CompleteResponse {
	return CompleteResponse{Outcome: "completed", PublicState: r.PublicState, Replayed: r.Replayed}
}

// Result returns the contract's result.
func (r CompleteResponse) Result() flowfabric.CompleteExecutionResult {
	return flowfabric.CompleteExecutionResult{PublicState: r.PublicState, Replayed: r.Replayed}
}

// CompletionItem is one completion of a batch, as A/complete.
type CompletionItem struct {
	ExecutionID     flowfabric.ExecutionID `json:"execution_id"`
	AttemptIndex    uint32                 `json:"attempt_index" doc:"Checked with the fence."`
	Fence           *Fence                 `json:"fence,omitempty" doc:"Required."`
	Payload         *[]byte                `json:"payload,omitempty"`
	PayloadEncoding *string                `json:"payload_encoding,omitempty" maxLength:"64" default:"json"`

	itemFault
}

// NewCompletionItem makes one completion of a batch. The fence need not tell the
// attempt's index.
func NewCompletionItem(a flowfabric.CompleteExecutionArgs, index uint32) CompletionItem {
	return CompletionItem{ExecutionID: a.ExecutionID, AttemptIndex: index, Fence: NewFence(a.Fence),
		Payload: bytesPtr(a.Result), PayloadEncoding: opt(a.ResultEncoding)}
}

// CompletionsRequest is the body of POST /v1/workers/{worker_id}/completions.
type CompletionsRequest struct {
	WorkerID *flowfabric.WorkerID `json:"worker_id,omitempty" doc:"Optional copy of the id in the path."`
	Items    []CompletionItem     `json:"items" minItems:"1" maxItems:"100"`
}

// Args returns the contract's arguments of the lease holders, and beside them
// what is wrong with an item.
func (r CompletionsRequest) Args(worker flowfabric.WorkerID) ([]flowfabric.CompleteExecutionArgs, []error, error) {
	if r.WorkerID != nil {
		if err := match("worker_id", string(*r.WorkerID), string(worker)); err != nil {
			return nil, nil, err
		}
	}
	out := make([]flowfabric.CompleteExecutionArgs, len(r.Items))
	var refused []error
	for i := range r.Items {
		item := &r.Items[i]
		refused = refuseItem(refused, len(out), i, item.fault)
		out[i] = flowfabric.CompleteExecutionArgs{ExecutionID: item.ExecutionID, Fence: item.Fence.at(item.AttemptIndex), Source: flowfabric.SourceLeaseHolder,
			Result: val(item.Payload), ResultEncoding: val(item.PayloadEncoding)}
	}
	return out, refused, nil
}

// CompletionResult is the answer to one completion of a batch, or its problem.
type CompletionResult struct {
	ExecutionID flowfabric.ExecutionID `json:"execution_id"`
	Outcome     string                 `json:"outcome,omitempty" enum:"completed"`
	PublicState flowfabric.PublicState `json:"public_state,omitempty"`
	Replayed    bool                   `json:"replayed,omitempty"`
	Problem     *Problem               `json:"problem,omitempty"`
}

// CompletionsResponse has one item per completion, in order.
type CompletionsResponse struct {
	Items []CompletionResult `json:"items"`
}

// NewCompletionsResponse makes the answer to a batch of completions.
func NewCompletionsResponse(args []flowfabric.CompleteExecutionArgs, items []flowfabric.Item[flowfabric.CompleteExecutionResult]) CompletionsResponse {
	out := CompletionsResponse{Items: make([]CompletionResult, len(items))}
	for i, item := range items {
		out.Items[i].ExecutionID = args[i].ExecutionID
		if item.Err != nil {
			out.Items[i].Problem = itemProblem(item.Err)
			continue
		}
		out.Items[i].Outcome, out.Items[i].PublicState, out.Items[i].Replayed = "completed", item.Result.PublicState, item.Result.Replayed
	}
	return out
}

// Results returns the contract's results.
func (r CompletionsResponse) Results() []flowfabric.Item[flowfabric.CompleteExecutionResult] {
	out := make([]flowfabric.Item[flowfabric.CompleteExecutionResult], len(r.Items))
	for i, item := range r.Items {
		if item.Problem != nil {
			out[i].Err = itemError(item.Problem)
			continue
		}
		out[i].Result = flowfabric.CompleteExecutionResult{PublicState: item.PublicState, Replayed: item.Replayed}
	}
	return out
}

// FailRequest is the body of POST A/fail.
type FailRequest struct {
	AttemptRef
	Fence    *Fence  `json:"fence,omitempty" doc:"Required."`
	Reason   string  `json:"reason" doc:"Cut at 4096 bytes."`
	Category *string `json:"category,omitempty" default:"transient" pattern:"^[a-z0-9][a-z0-9_.-]{0,63}$"`
}

// NewFailRequest makes the body of POST A/fail.
func NewFailRequest(a flowfabric.FailExecutionArgs) FailRequest {
	return FailRequest{Fence: NewFence(a.Fence), Reason: a.Reason, Category: opt(a.Category)}
}

// Args returns the contract's arguments of the lease holder.
func (r FailRequest) Args(id flowfabric.ExecutionID, index uint32) (flowfabric.FailExecutionArgs, error) {
	return flowfabric.FailExecutionArgs{ExecutionID: id, Fence: r.Fence.at(index), Source: flowfabric.SourceLeaseHolder,
		Reason: r.Reason, Category: val(r.Category)}, r.Check(id, index)
}

// OperatorFailRequest is the body of POST E/fail.
type OperatorFailRequest struct {
	ExecutionRef
	Reason   string  `json:"reason" doc:"Cut at 4096 bytes."`
	Category *string `json:"category,omitempty" default:"transient" pattern:"^[a-z0-9][a-z0-9_.-]{0,63}$"`
}

// NewOperatorFailRequest makes the body of POST E/fail.
func NewOperatorFailRequest(a flowfabric.FailExecutionArgs) OperatorFailRequest {
	return OperatorFailRequest{Reason: a.Reason, Category: opt(a.Category)}
}

// Args returns the contract's arguments of an operator's override.
func (r OperatorFailRequest) Args(id flowfabric.ExecutionID) (flowfabric.FailExecutionArgs, error) {
	return flowfabric.FailExecutionArgs{ExecutionID: id, Source: flowfabric.SourceOperatorOverride, Reason: r.Reason, Category: val(r.Category)},
		r.ExecutionRef.Check(id)
}

// FailResponse is retry_scheduled or terminal_failed.
type FailResponse struct {
	Outcome          flowfabric.FailOutcome `json:"outcome" enum:"retry_scheduled,terminal_failed"`
	DelayUntil       *flowfabric.Millis     `json:"delay_until,omitempty"`
	NextAttemptIndex *uint32                `json:"next_attempt_index,omitempty"`
	AttemptType      flowfabric.AttemptType `json:"attempt_type,omitempty"`
	Replayed         bool                   `json:"replayed" doc:"Whether this is the answer of an earlier call."`
}

// NewFailResponse makes the answer to a failure.
func NewFailResponse(r flowfabric.FailExecutionResult) FailResponse {
	out := FailResponse{Outcome: r.Outcome, Replayed: r.Replayed}
	if r.Outcome == flowfabric.FailRetryScheduled {
		out.DelayUntil, out.NextAttemptIndex, out.AttemptType = &r.DelayUntil, &r.NextAttemptIndex, r.AttemptType
	}
	return out
}

// Result returns the contract's result.
func (r FailResponse) Result() flowfabric.FailExecutionResult {
	return flowfabric.FailExecutionResult{Outcome: r.Outcome, DelayUntil: val(r.DelayUntil), NextAttemptIndex: val(r.NextAttemptIndex),
		AttemptType: r.AttemptType, Replayed: r.Replayed}
}

// AttemptCancelRequest is the body of POST A/cancel.
type AttemptCancelRequest struct {
	AttemptRef
	Fence       *Fence  `json:"fence,omitempty" doc:"Required."`
	Reason      string  `json:"reason" doc:"Cut at 4096 bytes."`
	RequestedBy *string `json:"requested_by,omitempty"`
}

// NewAttemptCancelRequest makes the body of POST A/cancel.
func NewAttemptCancelRequest(a flowfabric.CancelExecutionArgs) AttemptCancelRequest {
	return AttemptCancelRequest{Fence: NewFence(a.Fence), Reason: a.Reason, RequestedBy: opt(a.RequestedBy)}
}

// Args returns the contract's arguments of the lease holder.
func (r AttemptCancelRequest) Args(id flowfabric.ExecutionID, index uint32) (flowfabric.CancelExecutionArgs, error) {
	return flowfabric.CancelExecutionArgs{ExecutionID: id, Fence: r.Fence.at(index), Source: flowfabric.SourceLeaseHolder,
		Reason: r.Reason, RequestedBy: val(r.RequestedBy)}, r.Check(id, index)
}

// DelayRequest is the body of POST A/delay: exactly one of the two times.
type DelayRequest struct {
	AttemptRef
	Fence      *Fence             `json:"fence,omitempty" doc:"Required."`
	DelayUntil *flowfabric.Millis `json:"delay_until,omitempty" doc:"Unix milliseconds of the store's clock."`
	DelayMs    *int64             `json:"delay_ms,omitempty" minimum:"0" doc:"From the store's now."`
}

// NewDelayRequest makes the body of POST A/delay.
func NewDelayRequest(a flowfabric.DelayExecutionArgs) DelayRequest {
	return DelayRequest{Fence: NewFence(a.Fence), DelayUntil: opt(a.DelayUntil), DelayMs: a.DelayMs}
}

// Args returns the contract's arguments of the lease holder.
func (r DelayRequest) Args(id flowfabric.ExecutionID, index uint32) (flowfabric.DelayExecutionArgs, error) {
	if err := zeroRefused("delay_until", (*int64)(r.DelayUntil)); err != nil {
		return flowfabric.DelayExecutionArgs{}, err
	}
	return flowfabric.DelayExecutionArgs{ExecutionID: id, Fence: r.Fence.at(index), Source: flowfabric.SourceLeaseHolder,
		DelayUntil: val(r.DelayUntil), DelayMs: r.DelayMs}, r.Check(id, index)
}

// OperatorDelayRequest is the body of POST E/delay.
type OperatorDelayRequest struct {
	ExecutionRef
	DelayUntil *flowfabric.Millis `json:"delay_until,omitempty" doc:"Unix milliseconds of the store's clock."`
	DelayMs    *int64             `json:"delay_ms,omitempty" minimum:"0" doc:"From the store's now."`
}

// NewOperatorDelayRequest makes the body of POST E/delay.
func NewOperatorDelayRequest(a flowfabric.DelayExecutionArgs) OperatorDelayRequest {
	return OperatorDelayRequest{DelayUntil: opt(a.DelayUntil), DelayMs: a.DelayMs}
}

// Args returns the contract's arguments of an operator's override.
func (r OperatorDelayRequest) Args(id flowfabric.ExecutionID) (flowfabric.DelayExecutionArgs, error) {
	if err := zeroRefused("delay_until", (*int64)(r.DelayUntil)); err != nil {
		return flowfabric.DelayExecutionArgs{}, err
	}
	return flowfabric.DelayExecutionArgs{ExecutionID: id, Source: flowfabric.SourceOperatorOverride, DelayUntil: val(r.DelayUntil), DelayMs: r.DelayMs},
		r.ExecutionRef.Check(id)
}

// DelayResponse is delayed.
type DelayResponse struct {
	Outcome     string                 `json:"outcome" enum:"delayed"`
	DelayUntil  flowfabric.Millis      `json:"delay_until"`
	PublicState flowfabric.PublicState `json:"public_state"`
	Replayed    bool                   `json:"replayed" doc:"Whether this is the answer of an earlier call."`
}

// NewDelayResponse makes the answer to a delay.
func NewDelayResponse(r flowfabric.DelayExecutionResult) DelayResponse {
	return DelayResponse{Outcome: "delayed", DelayUntil: r.DelayUntil, PublicState: r.PublicState, Replayed: r.Replayed}
}

// Result returns the contract's result.
func (r DelayResponse) Result() flowfabric.DelayExecutionResult {
	return flowfabric.DelayExecutionResult{DelayUntil: r.DelayUntil, PublicState: r.PublicState, Replayed: r.Replayed}
}

// ProgressRequest is the body of POST A/progress: at least one of the two.
type ProgressRequest struct {
	AttemptRef
	Fence           *Fence  `json:"fence,omitempty" doc:"Required."`
	ProgressPct     *int32  `json:"progress_pct,omitempty" minimum:"0" maximum:"100"`
	ProgressMessage *string `json:"progress_message,omitempty" maxLength:"4096"`
}

// NewProgressRequest makes the body of POST A/progress.
func NewProgressRequest(a flowfabric.UpdateProgressArgs) ProgressRequest {
	return ProgressRequest{Fence: NewFence(a.Fence), ProgressPct: a.Pct, ProgressMessage: a.Message}
}

// Args returns the contract's arguments.
func (r ProgressRequest) Args(id flowfabric.ExecutionID, index uint32) (flowfabric.UpdateProgressArgs, error) {
	return flowfabric.UpdateProgressArgs{ExecutionID: id, Fence: r.Fence.at(index), Pct: r.ProgressPct, Message: r.ProgressMessage}, r.Check(id, index)
}

// ProgressResponse is updated.
type ProgressResponse struct {
	Outcome string `json:"outcome" enum:"updated"`
}
