package api

import (
	"context"
	"net/http"
	"reflect"
	"time"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/wire"
)

func claimRoutes() []*route {
	claimCodes := []flowfabric.Code{
		flowfabric.CodeInvalidCapabilities, flowfabric.CodeTooManyWaiters, flowfabric.CodeInstanceIDReassigned, flowfabric.CodeIDMismatch,
		flowfabric.CodeNamespaceForbidden, flowfabric.CodeOutcomeUnknown, flowfabric.CodeLaneNotFound,
	}
	leasing := []flowfabric.Code{
		flowfabric.CodeInvalidClaimGrant, flowfabric.CodeClaimGrantExpired, flowfabric.CodeExecutionNotLeaseable, flowfabric.CodeLeaseConflict,
		flowfabric.CodeActiveAttemptExists, flowfabric.CodeExecutionNotReclaimable, flowfabric.CodeUseClaimResumedExecution,
		flowfabric.CodeNotAResumedExecution, flowfabric.CodeCapabilityMismatch, flowfabric.CodeInvalidCapabilities, flowfabric.CodeReclaimCapExceeded,
		flowfabric.CodeLeaseExpired, flowfabric.CodeLeaseRevoked, flowfabric.CodeIDMismatch, flowfabric.CodeInvalidPartitionKey,
		flowfabric.CodeOutcomeUnknown,
	}
	return []*route{
		{
			id: "claim_for_worker", method: http.MethodPost, pattern: wire.RouteWorkerClaim, scopes: ScopeWork,
			summary: "Issues a grant for the best execution the worker may run, waiting for one when asked to.",
			also:    map[int]string{http.StatusNoContent: "No work; with FF-More-Candidates: true asking again at once is worth it."},
			codes:   claimCodes, endpoint: serves[wire.ClaimRequest, flowfabric.Grant](claimForWorker),
		},
		{
			id: "claim_tasks", method: http.MethodPost, pattern: wire.RouteWorkerTasks, scopes: ScopeWork,
			summary: "Selects, admits and claims up to max_tasks executions at once; waits for the first only.",
			also:    map[int]string{http.StatusNoContent: "No work; with FF-More-Candidates: true asking again at once is worth it."},
			codes:   claimCodes, endpoint: serves[wire.TasksRequest, wire.TasksResponse](claimTasks),
		},
		{
			id: "claim_execution", method: http.MethodPost, pattern: wire.RouteExecutionClaim, scopes: ScopeWork,
			summary: "Turns a grant into a lease. Safe to repeat with the same lease_id.", codes: leasing,
			endpoint: endpoint{handle: claimGranted, body: reflect.TypeFor[wire.ClaimExecutionRequest](), result: reflect.TypeFor[wire.Task]()},
		},
		{
			id: "release_grant", method: http.MethodPost, pattern: wire.RouteExecutionUngrant, scopes: ScopeWork,
			summary: "Gives an unused grant back; the execution is offered again at once.", codes: []flowfabric.Code{flowfabric.CodeIDMismatch},
			variants: map[string][]string{"released": nil, "not_held": nil},
			endpoint: onExecution[wire.ReleaseGrantRequest](flowfabric.Backend.ReleaseGrant, plain(wire.NewReleaseResponse)),
		},
		{
			id: "issue_reclaim_grant", method: http.MethodPost, pattern: wire.RouteExecutionReclaim, scopes: ScopeOperate | ScopeWork,
			summary: "Aims at one interrupted execution: a grant to reclaim or resume it.",
			codes:   []flowfabric.Code{flowfabric.CodeGrantAlreadyExists, flowfabric.CodeInvalidCapabilities, flowfabric.CodeIDMismatch, flowfabric.CodeOutcomeUnknown},
			variants: map[string][]string{
				"granted":              {"grant"},
				"not_reclaimable":      {"detail"},
				"reclaim_cap_exceeded": {"reclaim_count", "max_reclaim_count"},
			},
			endpoint: onExecution[wire.ReclaimRequest](flowfabric.Backend.IssueReclaimGrant, plain(wire.NewReclaimResponse)),
		},
		{
			id: "issue_grant_and_claim", method: http.MethodPost, pattern: wire.RouteExecutionDirectClaim, scopes: ScopeOperate,
			summary: "Grants and claims one named execution in one step.",
			codes: append([]flowfabric.Code{flowfabric.CodeGrantAlreadyExists, flowfabric.CodeExecutionNotEligible,
				flowfabric.CodeLaneDisabled}, leasing...),
			endpoint: onExecution[wire.DirectClaimRequest](flowfabric.Backend.IssueGrantAndClaim, plain(wire.NewTask)),
		},
	}
}

// selectable checks the namespace a claim names: "*" names none.
func (c *call) selectable(ns flowfabric.Namespace) error {
	if ns == flowfabric.AnyNamespace {
		return nil
	}
	return c.name(ns)
}

func claimForWorker(c *call) error {
	worker, err := c.workerID()
	if err != nil {
		return err
	}
	var body wire.ClaimRequest
	if err := c.decode(&body); err != nil {
		return err
	}
	args, err := body.Args(worker)
	if err != nil {
		return err
	}
	if err := c.selectable(args.Namespace); err != nil {
		return err
	}
	args.Namespaces = c.who.Namespaces
	ctx, cancel := c.waiting()
	defer cancel()
	r, err := c.api.backend.ClaimForWorker(ctx, args)
	var lane flowfabric.LaneID
	if r.Grant != nil {
		lane = r.Grant.LaneID
	}
	if c.cutShort(err) {
		r, err = flowfabric.ClaimForWorkerResult{}, nil
	}
	c.api.metrics.claim(lane, args.Lanes, err)
	if err != nil {
		return err
	}
	if r.Grant == nil {
		return c.noWork(r.More)
	}
	return c.ok(r.Grant)
}

func claimTasks(c *call) error {
	worker, err := c.workerID()
	if err != nil {
		return err
	}
	var body wire.TasksRequest
	if err := c.decode(&body); err != nil {
		return err
	}
	args, err := body.Args(worker)
	if err != nil {
		return err
	}
	if err := c.selectable(args.Namespace); err != nil {
		return err
	}
	args.Namespaces = c.who.Namespaces
	ctx, cancel := c.waiting()
	defer cancel()
	r, err := c.api.backend.ClaimTasks(ctx, args)
	var lane flowfabric.LaneID
	if len(r.Tasks) > 0 {
		lane = r.Tasks[0].LaneID
	}
	if c.cutShort(err) {
		r, err = flowfabric.ClaimTasksResult{}, nil
	}
	c.api.metrics.claim(lane, args.Lanes, err)
	if err != nil {
		return err
	}
	if len(r.Tasks) == 0 {
		return c.noWork(r.More)
	}
	return c.ok(wire.TasksResponse{Tasks: wire.NewTasks(r.Tasks)})
}

func (c *call) noWork(more bool) error {
	if more {
		c.Header().Set(wire.HeaderMoreCandidates, "true")
	}
	return c.empty(http.StatusNoContent)
}

var claimEndpoint = onExecution[wire.ClaimExecutionRequest](claimGrantedOne, plain(wire.NewTask))

func claimGrantedOne(b flowfabric.Backend, ctx context.Context, args flowfabric.ClaimGrantedArgs) (flowfabric.ClaimedExecution, error) {
	start := time.Now()
	task, err := b.ClaimGranted(ctx, args)
	if m, ok := b.(*measured); ok && err == nil {
		m.metrics.claimed(task.LaneID, time.Since(start))
	}
	return task, err
}

func claimGranted(c *call) error { return claimEndpoint.handle(c) }
