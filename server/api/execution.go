package api

import (
	"context"
	"net/http"
	"reflect"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/wire"
)

// leaseBound are the codes of operations that need, or may have, a fence.
var leaseBound = []flowfabric.Code{
	flowfabric.CodeFenceRequired, flowfabric.CodePartialFenceTriple, flowfabric.CodeExecutionNotActive, flowfabric.CodeLeaseRevoked,
	flowfabric.CodeLeaseExpired, flowfabric.CodeStaleLease, flowfabric.CodeIDMismatch, flowfabric.CodeOutcomeUnknown,
}

// override are the codes of an operator's form of a lease-bound operation.
var override = []flowfabric.Code{
	flowfabric.CodeExecutionNotActive, flowfabric.CodeLeaseRevoked, flowfabric.CodeLeaseExpired, flowfabric.CodeIDMismatch,
	flowfabric.CodeOutcomeUnknown,
}

var (
	completedVariants = map[string][]string{"completed": {"public_state", "replayed"}}
	failedVariants    = map[string][]string{
		"retry_scheduled": {"delay_until", "next_attempt_index", "attempt_type", "replayed"},
		"terminal_failed": {"replayed"},
	}
	delayedVariants = map[string][]string{"delayed": {"delay_until", "public_state", "replayed"}}
)

var (
	limitParam  = param{name: "limit", kind: "integer", doc: "1..1000, default 50."}
	cursorParam = param{name: "cursor", kind: "string", doc: "next_cursor of the page before."}
	tagParam    = param{name: "tag", kind: "string", repeated: true, doc: "key:value; all must hold."}
)

func executionRoutes() []*route {
	return []*route{
		{
			id: "create_execution", method: http.MethodPost, pattern: wire.RouteExecutions, scopes: ScopeSubmit, limit: wire.LimitLarge,
			summary: "Creates an execution; with wait_ms it waits for the end as well.",
			query:   []param{{name: "wait_ms", kind: "integer", doc: "0..30000; 0, the default, does not wait."}},
			status:  http.StatusCreated,
			waited:  reflect.TypeFor[wire.SubmitAndWaitResponse](),
			also: map[int]string{
				http.StatusOK:       "duplicate; or, with wait_ms, ended in time.",
				http.StatusAccepted: "With wait_ms: not ended in time.",
			},
			codes: []flowfabric.Code{
				flowfabric.CodePartitionMismatch, flowfabric.CodeInvalidPolicyJSON, flowfabric.CodeInvalidCapabilities, flowfabric.CodeInvalidTagKey,
				flowfabric.CodeInvalidExecutionID, flowfabric.CodeIDMismatch, flowfabric.CodeLaneIntakeClosed, flowfabric.CodeLaneNotFound,
				flowfabric.CodeNamespaceForbidden, flowfabric.CodeResourceExhausted, flowfabric.CodeUnsupportedOperation, flowfabric.CodeOutcomeUnknown,
			},
			variants: map[string][]string{"created": {"execution_id", "public_state"}, "duplicate": {"execution_id", "same_spec"}},
			endpoint: serves[wire.CreateExecutionRequest, wire.CreateExecutionResponse](createExecution),
		},
		{
			id: "create_executions", method: http.MethodPost, pattern: wire.RouteExecutionsBatch, scopes: ScopeSubmit, limit: wire.LimitBulk,
			summary:  "Creates 1..100 executions, each independent of the others.",
			codes:    []flowfabric.Code{flowfabric.CodeBatchTooLarge, flowfabric.CodeInvalidExecutionID, flowfabric.CodeOutcomeUnknown},
			endpoint: serves[wire.CreateExecutionsRequest, wire.CreateExecutionsResponse](createExecutions),
		},
		{
			id: "list_executions", method: http.MethodGet, pattern: wire.RouteExecutions, scopes: ScopeRead,
			summary: "Lists executions by partition and id.",
			query: []param{
				{name: "partition", kind: "integer", doc: "Only this partition; absent: all."},
				{name: "namespace", kind: "string"}, {name: "lane_id", kind: "string"}, {name: "flow_id", kind: "string"},
				{name: "public_state", kind: "string", repeated: true, doc: "Any of them."},
				tagParam, {name: "execution_kind", kind: "string"}, limitParam, cursorParam,
			},
			codes:    []flowfabric.Code{flowfabric.CodeInvalidCursor, flowfabric.CodeNamespaceForbidden},
			endpoint: serves[none, wire.Page[flowfabric.ExecutionSummary]](listExecutions),
		},
		{
			id: "describe_execution", method: http.MethodGet, pattern: wire.RouteExecution, scopes: ScopeRead,
			summary:  "The execution's snapshot: one consistent version, tags included.",
			endpoint: readExecution(flowfabric.Backend.DescribeExecution, snapshotAnswer),
		},
		{
			id: "get_execution_state", method: http.MethodGet, pattern: wire.RouteExecutionState, scopes: ScopeRead,
			summary: "The public state alone.",
			endpoint: readExecution(flowfabric.Backend.GetExecutionState, shown(func(s flowfabric.PublicState) wire.StateResponse {
				return wire.StateResponse{PublicState: s}
			})),
		},
		{
			id: "wait_execution", method: http.MethodGet, pattern: wire.RouteExecutionWait, scopes: ScopeRead,
			summary: "Waits for the execution's end, and tells its state in any case.",
			query: []param{
				{name: "wait_ms", kind: "integer", doc: "0..30000, default 30000; 0 checks only."},
				{name: "until", kind: "string", doc: "terminal (default) or settled: terminal or suspended."},
				{name: "include_result", kind: "boolean", doc: "Default true."},
			},
			codes:    []flowfabric.Code{flowfabric.CodeResourceExhausted},
			endpoint: serves[none, wire.WaitExecutionResponse](waitExecution),
		},
		{
			id: "get_execution_input", method: http.MethodGet, pattern: wire.RouteExecutionInput, scopes: ScopeRead | ScopeWork,
			summary:  "The input as it was sent.",
			endpoint: endpoint{handle: getInput, media: wire.MediaBytes},
		},
		{
			id: "get_execution_result", method: http.MethodGet, pattern: wire.RouteExecutionResult, scopes: ScopeRead | ScopeWork,
			summary:  "The result as it was stored.",
			codes:    []flowfabric.Code{flowfabric.CodeResultNotFound},
			endpoint: endpoint{handle: getResult, media: wire.MediaBytes},
		},
		{
			id: "read_execution_context", method: http.MethodGet, pattern: wire.RouteExecutionContext, scopes: ScopeRead | ScopeWork,
			summary:  "What a worker reads after a claim: input, kind, tags, and what the attempt froze.",
			endpoint: readExecution(flowfabric.Backend.ReadExecutionContext, shown(wire.NewContextResponse)),
		},
		{
			id: "cancel_execution", method: http.MethodPost, pattern: wire.RouteExecutionCancel, scopes: ScopeOperate,
			summary: "Cancels an execution, whoever holds it.",
			codes:   []flowfabric.Code{flowfabric.CodeExecutionNotActive, flowfabric.CodeIDMismatch, flowfabric.CodeOutcomeUnknown},
			variants: map[string][]string{
				"cancelled":         {"execution_id", "previous_phase", "public_state", "replayed?"},
				"already_cancelled": {"cancellation_reason", "cancelled_by"},
			},
			endpoint: audited("execution cancelled", onExecution[wire.CancelRequest](flowfabric.Backend.CancelExecution, wire.NewCancelResponse)),
		},
		{
			id: "complete_execution", method: http.MethodPost, pattern: wire.RouteExecutionComplete, scopes: ScopeOperate, limit: wire.LimitLarge,
			summary: "Ends an active execution with success, in its worker's stead.", codes: override, variants: completedVariants,
			endpoint: onExecution[wire.OperatorCompleteRequest](completeOne, plain(wire.NewCompleteResponse)),
		},
		{
			id: "fail_execution", method: http.MethodPost, pattern: wire.RouteExecutionFail, scopes: ScopeOperate,
			summary: "Ends an active execution's attempt as failed, in its worker's stead.", codes: override, variants: failedVariants,
			endpoint: serves[wire.OperatorFailRequest, wire.FailResponse](failExecution),
		},
		{
			id: "delay_execution", method: http.MethodPost, pattern: wire.RouteExecutionDelay, scopes: ScopeOperate,
			summary: "Pauses an active execution's attempt until a time, in its worker's stead.", codes: override, variants: delayedVariants,
			endpoint: onExecution[wire.OperatorDelayRequest](flowfabric.Backend.DelayExecution, plain(wire.NewDelayResponse)),
		},
		{
			id: "change_priority", method: http.MethodPut, pattern: wire.RouteExecutionPriority, scopes: ScopeSubmit,
			summary:  "Changes the priority of a waiting execution.",
			codes:    []flowfabric.Code{flowfabric.CodeExecutionNotEligible, flowfabric.CodeIDMismatch},
			variants: map[string][]string{"changed": {"old_priority", "new_priority"}},
			endpoint: onExecution[wire.PriorityRequest](flowfabric.Backend.ChangePriority, plain(wire.NewPriorityResponse)),
		},
		{
			id: "replay_execution", method: http.MethodPost, pattern: wire.RouteExecutionReplay, scopes: ScopeOperate,
			summary:  "Runs an ended execution again.",
			codes:    []flowfabric.Code{flowfabric.CodeExecutionNotTerminal, flowfabric.CodeMaxReplaysExhausted, flowfabric.CodeIDMismatch},
			variants: map[string][]string{"replayed": {"public_state", "replay_count", "replayed"}},
			endpoint: onExecution[wire.ReplayRequest](flowfabric.Backend.ReplayExecution, plain(wire.NewReplayResponse)),
		},
		{
			id: "pause_execution", method: http.MethodPost, pattern: wire.RouteExecutionPause, scopes: ScopeOperate,
			summary:  "Holds a waiting execution back until it is unpaused.",
			codes:    []flowfabric.Code{flowfabric.CodeExecutionNotEligible, flowfabric.CodeIDMismatch},
			variants: map[string][]string{"paused": {"public_state"}},
			endpoint: onExecution[wire.PauseRequest](flowfabric.Backend.PauseExecution, blockAnswer("paused")),
		},
		{
			id: "unpause_execution", method: http.MethodPost, pattern: wire.RouteExecutionUnpause, scopes: ScopeOperate,
			summary:  "Lets a paused execution run.",
			codes:    []flowfabric.Code{flowfabric.CodeExecutionNotEligible, flowfabric.CodeIDMismatch},
			variants: map[string][]string{"unpaused": {"public_state"}},
			endpoint: onExecution[wire.PauseRequest](flowfabric.Backend.UnpauseExecution, blockAnswer("unpaused")),
		},
		{
			id: "set_execution_tags", method: http.MethodPut, pattern: wire.RouteExecutionTags, scopes: ScopeSubmit | ScopeOperate,
			summary:  "Sets tags beside those that are there.",
			limit:    wire.LimitControl,
			codes:    []flowfabric.Code{flowfabric.CodeInvalidTagKey, flowfabric.CodeIDMismatch},
			endpoint: serves[wire.SetTagsRequest, wire.SetTagsResponse](setTags),
		},
		{
			id: "set_execution_tag", method: http.MethodPut, pattern: wire.RouteExecutionTag, scopes: ScopeSubmit | ScopeOperate,
			summary:  "Sets one tag.",
			codes:    []flowfabric.Code{flowfabric.CodeInvalidTagKey, flowfabric.CodeIDMismatch},
			endpoint: serves[wire.SetTagRequest, wire.SetTagsResponse](setTag),
		},
		{
			id: "remove_execution_tag", method: http.MethodDelete, pattern: wire.RouteExecutionTag, scopes: ScopeSubmit | ScopeOperate,
			summary:  "Removes one tag.",
			codes:    []flowfabric.Code{flowfabric.CodeInvalidTagKey},
			variants: map[string][]string{"removed": nil, "absent": nil},
			endpoint: serves[none, wire.RemoveTagResponse](removeTag),
		},
		{
			id: "get_execution_tags", method: http.MethodGet, pattern: wire.RouteExecutionTags, scopes: ScopeRead,
			summary: "All tags; none for an unknown execution.",
			endpoint: readExecution(flowfabric.Backend.GetExecutionTags, shown(func(tags map[string]string) wire.TagsResponse {
				if tags == nil {
					tags = map[string]string{}
				}
				return wire.TagsResponse{Tags: tags}
			})),
		},
		{
			id: "get_execution_tag", method: http.MethodGet, pattern: wire.RouteExecutionTag, scopes: ScopeRead,
			summary:  "One tag.",
			codes:    []flowfabric.Code{flowfabric.CodeTagNotFound, flowfabric.CodeInvalidTagKey},
			endpoint: serves[none, wire.TagResponse](getTag),
		},
	}
}

// completeOne is the single form of CompleteExecutions.
func completeOne(b flowfabric.Backend, ctx context.Context, args flowfabric.CompleteExecutionArgs) (flowfabric.CompleteExecutionResult, error) {
	return flowfabric.CompleteExecution(ctx, b, args)
}

func blockAnswer(outcome string) func(flowfabric.ExecutionID, flowfabric.BlockExecutionResult) wire.PauseResponse {
	return func(_ flowfabric.ExecutionID, r flowfabric.BlockExecutionResult) wire.PauseResponse {
		return wire.PauseResponse{Outcome: outcome, PublicState: r.PublicState}
	}
}

func snapshotAnswer(id flowfabric.ExecutionID, s *flowfabric.ExecutionSnapshot) (*flowfabric.ExecutionSnapshot, error) {
	if s == nil {
		return nil, executionNotFound(id)
	}
	if s.Tags == nil {
		s.Tags = map[string]string{}
	}
	return s, nil
}

// createArgs completes the arguments of one create with what the request's
// caller stands for, and checks that it may name the namespace.
func (c *call) createArgs(body *wire.CreateExecutionRequest) (flowfabric.CreateExecutionArgs, error) {
	args, err := body.Args()
	if err != nil {
		return args, err
	}
	if !body.CreatorGiven() {
		args.CreatorIdentity = c.who.Name
	}
	if err := c.name(args.Namespace); err != nil {
		return args, err
	}
	return args, c.admitCreate(args.ExecutionID)
}

// admitCreate keeps a token limited to namespaces from learning, by creating it
// again, of an execution outside them.
func (c *call) admitCreate(id flowfabric.ExecutionID) error {
	if id == "" || !c.who.limited() {
		return nil
	}
	snapshot, err := c.api.backend.DescribeExecution(c.ctx, id)
	if err != nil || snapshot == nil || c.who.sees(snapshot.Namespace) {
		return err
	}
	return executionNotFound(id)
}

// create creates one execution. A duplicate that the token may not see, which a
// key can lead to, is no answer to it.
func (c *call) create(args flowfabric.CreateExecutionArgs) (flowfabric.CreateExecutionResult, error) {
	r, err := flowfabric.CreateExecution(c.ctx, c.api.backend, args)
	if err != nil || r.Outcome != flowfabric.OutcomeDuplicate {
		return r, err
	}
	return r, c.admit(r.ExecutionID)
}

func createExecution(c *call) error {
	query, err := c.query()
	if err != nil {
		return err
	}
	waitMs, _, err := wire.QueryInt(query, "wait_ms", 0, flowfabric.MaxWaitMs)
	if err != nil {
		return err
	}
	var body wire.CreateExecutionRequest
	if err := c.decode(&body); err != nil {
		return err
	}
	if err := idempotencyKey(c.r.Header, &body); err != nil {
		return err
	}
	args, err := c.createArgs(&body)
	if err != nil {
		return err
	}
	if waitMs > 0 {
		return c.submitAndWait(args, waitMs)
	}
	r, err := c.create(args)
	if err != nil {
		return err
	}
	return c.json(createStatus(r), wire.NewCreateExecutionResponse(r))
}

func createStatus(r flowfabric.CreateExecutionResult) int {
	if r.Outcome == flowfabric.OutcomeCreated {
		return http.StatusCreated
	}
	return http.StatusOK
}

// idempotencyKey lets the header stand for the body's field.
func idempotencyKey(h http.Header, body *wire.CreateExecutionRequest) error {
	values := h.Values(wire.HeaderIdempotencyKey)
	if len(values) == 0 {
		return nil
	}
	key := values[0]
	if body.IdempotencyKey != nil && *body.IdempotencyKey != key {
		return flowfabric.NewError(flowfabric.CodeIDMismatch, "the header Idempotency-Key and the body's idempotency_key differ").
			With("field", "idempotency_key")
	}
	body.IdempotencyKey = &key
	return nil
}

func createExecutions(c *call) error {
	var body wire.CreateExecutionsRequest
	if err := c.decode(&body); err != nil {
		return err
	}
	n := len(body.Executions)
	if n == 0 {
		return flowfabric.InvalidInput("executions", "must not be empty")
	}
	if n > flowfabric.MaxBatchItems {
		return batchTooLarge("executions", n)
	}
	args := make([]flowfabric.CreateExecutionArgs, n)
	errs := make([]error, n)
	for i := range body.Executions {
		args[i], errs[i] = c.createArgs(&body.Executions[i])
	}
	items, err := batch(c.ctx, args, errs, c.api.backend.CreateExecutions)
	if err != nil {
		return err
	}
	for i := range items {
		if items[i].Err == nil && items[i].Result.Outcome == flowfabric.OutcomeDuplicate {
			items[i].Err = c.admit(items[i].Result.ExecutionID)
		}
	}
	answer := wire.NewCreateExecutionsResponse(items)
	for i := range answer.Items {
		c.stamp(answer.Items[i].Problem)
	}
	return c.ok(answer)
}

func batchTooLarge(field string, n int) error {
	return flowfabric.NewError(flowfabric.CodeBatchTooLarge, "%s has %d items, at most %d", field, n, flowfabric.MaxBatchItems).
		With("field", field).With("limit", flowfabric.MaxBatchItems)
}

// batch hands to op the items that passed the checks before it, and puts
// refusals and answers together in the order of the input.
func batch[A, R any](ctx context.Context, args []A, refused []error, op func(context.Context, []A) ([]flowfabric.Item[R], error)) ([]flowfabric.Item[R], error) {
	passed := make([]A, 0, len(args))
	for i := range args {
		if refused == nil || refused[i] == nil {
			passed = append(passed, args[i])
		}
	}
	var answers []flowfabric.Item[R]
	if len(passed) > 0 {
		var err error
		if answers, err = op(ctx, passed); err != nil {
			return nil, err
		}
		if len(answers) != len(passed) {
			return nil, flowfabric.NewError(flowfabric.CodeInternal, "batch of %d answered with %d items", len(passed), len(answers))
		}
	}
	if len(passed) == len(args) {
		return answers, nil
	}
	out := make([]flowfabric.Item[R], len(args))
	next := 0
	for i := range args {
		if refused[i] != nil {
			out[i].Err = refused[i]
			continue
		}
		out[i] = answers[next]
		next++
	}
	return out, nil
}

func getInput(c *call) error {
	id, err := c.executionID()
	if err != nil {
		return err
	}
	if err := c.admit(id); err != nil {
		return err
	}
	input, err := c.api.backend.GetExecutionInput(c.ctx, id)
	if err != nil {
		return err
	}
	return c.raw(input.Payload, input.Encoding)
}

func getResult(c *call) error {
	id, err := c.executionID()
	if err != nil {
		return err
	}
	if err := c.admit(id); err != nil {
		return err
	}
	result, err := c.api.backend.GetExecutionResult(c.ctx, id)
	if err != nil {
		return err
	}
	if result.Present {
		return c.raw(result.Payload, result.Encoding)
	}
	if _, err := c.api.backend.GetExecutionState(c.ctx, id); err != nil {
		return err // execution_not_found rather than a result that is missing
	}
	return flowfabric.NewError(flowfabric.CodeResultNotFound, "the execution has no result")
}

func setTags(c *call) error {
	id, err := c.executionID()
	if err != nil {
		return err
	}
	var body wire.SetTagsRequest
	if err := c.decode(&body); err != nil {
		return err
	}
	if err := body.Check(id); err != nil {
		return err
	}
	return c.putTags(id, body.Tags)
}

func setTag(c *call) error {
	id, err := c.executionID()
	if err != nil {
		return err
	}
	var body wire.SetTagRequest
	if err := c.decode(&body); err != nil {
		return err
	}
	if err := body.Check(id); err != nil {
		return err
	}
	return c.putTags(id, map[string]string{c.r.PathValue("key"): body.Value})
}

func (c *call) putTags(id flowfabric.ExecutionID, tags map[string]string) error {
	if err := c.admit(id); err != nil {
		return err
	}
	n, err := c.api.backend.SetExecutionTags(c.ctx, id, tags)
	if err != nil {
		return err
	}
	return c.ok(wire.SetTagsResponse{Count: n})
}

func removeTag(c *call) error {
	id, err := c.executionID()
	if err != nil {
		return err
	}
	if err := c.admit(id); err != nil {
		return err
	}
	removed, err := c.api.backend.RemoveExecutionTag(c.ctx, id, c.r.PathValue("key"))
	if err != nil {
		return err
	}
	return c.ok(wire.NewRemoveTagResponse(removed))
}

func getTag(c *call) error {
	id, err := c.executionID()
	if err != nil {
		return err
	}
	key := c.r.PathValue("key")
	if !isTagKey(key) {
		return flowfabric.NewError(flowfabric.CodeInvalidTagKey, "the tag key breaks the grammar").With("key", key)
	}
	if err := c.admit(id); err != nil {
		return err
	}
	tags, err := c.api.backend.GetExecutionTags(c.ctx, id)
	if err != nil {
		return err
	}
	value, ok := tags[key]
	if !ok {
		return flowfabric.NewError(flowfabric.CodeTagNotFound, "the tag is not set")
	}
	return c.ok(wire.TagResponse{Value: value})
}

// isTagKey reports whether a key is prefix.name: ^[a-z][a-z0-9_]*\.[a-z0-9_][a-z0-9_.]*$
// of at most 256 bytes.
func isTagKey(key string) bool {
	dot := -1
	for i := 0; i < len(key); i++ {
		ch := key[i]
		word := ch == '_' || (ch >= 'a' && ch <= 'z') || (ch >= '0' && ch <= '9')
		switch {
		case i == 0 && (ch < 'a' || ch > 'z'):
			return false
		case ch == '.' && dot < 0:
			dot = i
		case ch == '.' && i == dot+1, ch != '.' && !word:
			return false
		}
	}
	return dot > 0 && dot < len(key)-1 && len(key) <= flowfabric.MaxTagKeyBytes
}

// audited writes an audit event whenever the endpoint has succeeded.
func audited(what string, e endpoint) endpoint {
	handle := e.handle
	e.handle = func(c *call) error {
		if err := handle(c); err != nil {
			return err
		}
		c.audit(what, targetAttrs(c)...)
		return nil
	}
	return e
}
