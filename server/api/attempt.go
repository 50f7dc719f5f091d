package api

import (
	"context"
	"net/http"
	"reflect"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/wire"
)

func attemptRoutes() []*route {
	return []*route{
		{
			id: "list_attempts", method: http.MethodGet, pattern: wire.RouteExecutionAttempts, scopes: ScopeRead,
			summary: "The attempts of an execution, ascending by index.",
			query: []param{
				{name: "from", kind: "integer", doc: "The index to start at, default 0."},
				{name: "limit", kind: "integer", doc: "1..1000, default 100."}, cursorParam,
			},
			codes:    []flowfabric.Code{flowfabric.CodeInvalidCursor},
			endpoint: serves[none, wire.Page[wire.Attempt]](listAttempts),
		},
		{
			id: "get_current_attempt", method: http.MethodGet, pattern: wire.RouteExecutionCurrent, scopes: ScopeRead,
			summary:  "The attempt of the highest index, with its usage.",
			codes:    []flowfabric.Code{flowfabric.CodeNoAttemptsExist},
			endpoint: serves[none, wire.Attempt](getCurrentAttempt),
		},
		{
			id: "get_attempt", method: http.MethodGet, pattern: wire.RouteAttempt, scopes: ScopeRead,
			summary:  "One attempt, with its usage.",
			codes:    []flowfabric.Code{flowfabric.CodeAttemptNotFound},
			endpoint: serves[none, wire.Attempt](getAttempt),
		},
		{
			id: "update_progress", method: http.MethodPost, pattern: wire.RouteAttemptProgress, scopes: ScopeWork,
			summary: "Overwrites the progress of the running attempt.", codes: leaseBound, variants: map[string][]string{"updated": nil},
			endpoint: onAttempt[wire.ProgressRequest](updateProgress, plain(func(none) wire.ProgressResponse {
				return wire.ProgressResponse{Outcome: "updated"}
			})),
		},
		{
			id: "complete_attempt", method: http.MethodPost, pattern: wire.RouteAttemptComplete, scopes: ScopeWork, limit: wire.LimitLarge,
			summary: "Ends the execution with success. Safe to repeat.", codes: leaseBound, variants: completedVariants,
			endpoint: onAttempt[wire.CompleteRequest](completeOne, plain(wire.NewCompleteResponse)),
		},
		{
			id: "fail_attempt", method: http.MethodPost, pattern: wire.RouteAttemptFail, scopes: ScopeWork,
			summary: "Ends the attempt as failed; the policy decides whether another follows. Safe to repeat.",
			codes:   leaseBound, variants: failedVariants,
			endpoint: endpoint{handle: failAttempt, body: reflect.TypeFor[wire.FailRequest](), result: reflect.TypeFor[wire.FailResponse]()},
		},
		{
			id: "cancel_attempt", method: http.MethodPost, pattern: wire.RouteAttemptCancel, scopes: ScopeWork,
			summary: "Ends the execution as cancelled, by its holder. Safe to repeat.", codes: leaseBound,
			variants: map[string][]string{"cancelled": {"execution_id", "previous_phase", "public_state", "replayed?"}},
			endpoint: onAttempt[wire.AttemptCancelRequest](flowfabric.Backend.CancelExecution, wire.NewCancelResponse),
		},
		{
			id: "delay_attempt", method: http.MethodPost, pattern: wire.RouteAttemptDelay, scopes: ScopeWork,
			summary: "Gives the lease up and goes on with the same attempt at a later time. Safe to repeat.", codes: leaseBound,
			variants: delayedVariants,
			endpoint: onAttempt[wire.DelayRequest](flowfabric.Backend.DelayExecution, plain(wire.NewDelayResponse)),
		},
		{
			id: "complete_attempts", method: http.MethodPost, pattern: wire.RouteWorkerCompletions, scopes: ScopeWork, limit: wire.LimitBulk,
			summary:  "Ends 1..100 executions with success, each on its own.",
			codes:    []flowfabric.Code{flowfabric.CodeBatchTooLarge, flowfabric.CodeIDMismatch, flowfabric.CodeInvalidExecutionID, flowfabric.CodeOutcomeUnknown},
			endpoint: serves[wire.CompletionsRequest, wire.CompletionsResponse](completeAttempts),
		},
	}
}

func listAttempts(c *call) error {
	id, err := c.executionID()
	if err != nil {
		return err
	}
	query, err := c.query()
	if err != nil {
		return err
	}
	args, err := wire.ParseListAttempts(id, query)
	if err != nil {
		return err
	}
	if err := c.admit(id); err != nil {
		return err
	}
	r, err := c.api.backend.ListAttempts(c.ctx, args)
	if err != nil {
		return err
	}
	for i := range r.Attempts {
		c.withholdFence(&r.Attempts[i])
	}
	return c.ok(wire.NewAttemptsPage(id, r))
}

// withholdFence leaves the lease's identifier out of what is shown to those who
// may not see leases: it is part of the fence.
func (c *call) withholdFence(a *flowfabric.Attempt) {
	if !c.has(ScopeOperate) {
		a.LeaseID = ""
	}
}

func getCurrentAttempt(c *call) error {
	id, err := c.executionID()
	if err != nil {
		return err
	}
	if err := c.admit(id); err != nil {
		return err
	}
	a, err := c.api.backend.GetCurrentAttempt(c.ctx, id)
	if err != nil {
		return err
	}
	c.withholdFence(a)
	return c.ok(wire.NewAttempt(*a))
}

func getAttempt(c *call) error {
	id, index, err := c.attempt()
	if err != nil {
		return err
	}
	if err := c.admit(id); err != nil {
		return err
	}
	a, err := c.api.backend.GetAttempt(c.ctx, id, index)
	if err != nil {
		return err
	}
	c.withholdFence(a)
	return c.ok(wire.NewAttempt(*a))
}

func updateProgress(b flowfabric.Backend, ctx context.Context, args flowfabric.UpdateProgressArgs) (none, error) {
	return none{}, b.UpdateProgress(ctx, args)
}

// failAttempt is onAttempt for a failure.
func failAttempt(c *call) error {
	return onAttempt[wire.FailRequest](c.failOne, plain(wire.NewFailResponse)).handle(c)
}

// failExecution is onExecution for a failure.
func failExecution(c *call) error {
	return onExecution[wire.OperatorFailRequest](c.failOne, plain(wire.NewFailResponse)).handle(c)
}

// failOne fails one attempt; a scheduled retry is counted under the execution's
// lane.
func (c *call) failOne(b flowfabric.Backend, ctx context.Context, args flowfabric.FailExecutionArgs) (flowfabric.FailExecutionResult, error) {
	r, err := b.FailExecution(ctx, args)
	if err == nil && r.Outcome == flowfabric.FailRetryScheduled && !r.Replayed {
		c.countRetry(args.ExecutionID)
	}
	return r, err
}

func (c *call) countRetry(id flowfabric.ExecutionID) {
	snapshot, err := c.api.backend.DescribeExecution(c.ctx, id)
	if err != nil || snapshot == nil {
		return
	}
	c.api.metrics.retried(snapshot.LaneID)
}

func completeAttempts(c *call) error {
	worker, err := c.workerID()
	if err != nil {
		return err
	}
	var body wire.CompletionsRequest
	if err := c.decode(&body); err != nil {
		return err
	}
	args, refused, err := body.Args(worker)
	if err != nil {
		return err
	}
	if len(args) == 0 {
		return flowfabric.InvalidInput("items", "must not be empty")
	}
	if len(args) > flowfabric.MaxBatchItems {
		return batchTooLarge("items", len(args))
	}
	refused = c.admitAll(len(args), refused, func(i int) flowfabric.ExecutionID { return args[i].ExecutionID })
	items, err := batch(c.ctx, args, refused, c.api.backend.CompleteExecutions)
	if err != nil {
		return err
	}
	answer := wire.NewCompletionsResponse(args, items)
	for i := range answer.Items {
		c.stamp(answer.Items[i].Problem)
	}
	return c.ok(answer)
}

// admitAll is admit for each item of a batch that has not been refused already;
// when the token is not limited it leaves the refusals as they are.
func (c *call) admitAll(n int, refused []error, id func(int) flowfabric.ExecutionID) []error {
	if !c.who.limited() {
		return refused
	}
	if refused == nil {
		refused = make([]error, n)
	}
	for i := range refused {
		if refused[i] == nil {
			refused[i] = c.admit(id(i))
		}
	}
	return refused
}
