package api

import (
	"context"
	"net/http"
	"reflect"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/wire"
)

func leaseRoutes() []*route {
	return []*route{
		{
			id: "renew_lease", method: http.MethodPost, pattern: wire.RouteAttemptRenew, scopes: ScopeWork,
			summary: "Extends the lease of the running attempt.", codes: leaseBound,
			variants: map[string][]string{"renewed": {"lease_epoch", "expires_at"}},
			endpoint: endpoint{handle: renewLease, body: reflect.TypeFor[wire.RenewRequest](), result: reflect.TypeFor[wire.RenewResponse]()},
		},
		{
			id: "renew_leases", method: http.MethodPost, pattern: wire.RouteWorkerRenewals, scopes: ScopeWork,
			summary:  "Extends 1..100 leases, each on its own.",
			codes:    []flowfabric.Code{flowfabric.CodeBatchTooLarge, flowfabric.CodeIDMismatch, flowfabric.CodeInvalidExecutionID, flowfabric.CodeOutcomeUnknown},
			endpoint: serves[wire.RenewalsRequest, wire.RenewalsResponse](renewLeases),
		},
		{
			id: "revoke_lease", method: http.MethodPost, pattern: wire.RouteExecutionRevoke, scopes: ScopeOperate | ScopeWork,
			summary:  "Takes the lease away without ending the execution. With scope work alone, the caller's own lease.",
			codes:    []flowfabric.Code{flowfabric.CodeExecutionNotActive, flowfabric.CodeStaleLease, flowfabric.CodeIDMismatch, flowfabric.CodeOutcomeUnknown},
			variants: map[string][]string{"revoked": {"lease_id", "lease_epoch"}, "already_satisfied": {"reason"}},
			endpoint: audited("lease revoked", endpoint{handle: revokeLease, body: reflect.TypeFor[wire.RevokeLeaseRequest](), result: reflect.TypeFor[wire.RevokeLeaseResponse]()}),
		},
		{
			id: "release_reclaim_hold", method: http.MethodPost, pattern: wire.RouteExecutionReleaseHold, scopes: ScopeOperate,
			summary:  "Lets a revoked execution be reclaimed again.",
			codes:    []flowfabric.Code{flowfabric.CodeIDMismatch},
			variants: map[string][]string{"released": nil, "not_held": nil},
			endpoint: onExecution[onlyExecution](releaseHold, plain(wire.NewReleaseResponse)),
		},
		{
			id: "get_lease", method: http.MethodGet, pattern: wire.RouteExecutionLease, scopes: ScopeOperate,
			summary: "The lease record, its id included.", codes: []flowfabric.Code{flowfabric.CodeLeaseNotFound},
			endpoint: readExecution(flowfabric.Backend.GetLease, shown(func(l *flowfabric.Lease) *flowfabric.Lease { return l })),
		},
		{
			id: "get_lease_history", method: http.MethodGet, pattern: wire.RouteExecutionHistory, scopes: ScopeOperate,
			summary: "What happened to the execution's leases, oldest first.", codes: []flowfabric.Code{flowfabric.CodeInvalidCursor},
			query:    []param{limitParam, cursorParam},
			endpoint: pageOfExecution(wire.ParseLeaseHistory, flowfabric.Backend.GetLeaseHistory, wire.NewLeaseHistoryPage),
		},
		{
			id: "list_expired_leases", method: http.MethodGet, pattern: wire.RouteExpiredLeases, scopes: ScopeOperate,
			summary: "Lapsed leases nobody has taken over yet, by expiry within a range of partitions.",
			query: []param{
				{name: "as_of", kind: "integer", doc: "Unix milliseconds; default the store's now."}, {name: "namespace", kind: "string"},
				{name: "max_partitions_per_call", kind: "integer", doc: "1..65535, default 32."},
				{name: "limit", kind: "integer", doc: "1..10000, default 1000."}, cursorParam,
			},
			codes:    []flowfabric.Code{flowfabric.CodeInvalidCursor, flowfabric.CodeNamespaceForbidden},
			endpoint: serves[none, wire.Page[flowfabric.ExpiredLease]](listExpiredLeases),
		},
	}
}

// onlyExecution is the body of a route that takes nothing but, optionally, the
// execution id again.
type onlyExecution struct{ wire.EmptyRequest }

// Args returns the id, once the body agrees with it.
func (r onlyExecution) Args(id flowfabric.ExecutionID) (flowfabric.ExecutionID, error) {
	return id, r.Check(id)
}

func releaseHold(b flowfabric.Backend, ctx context.Context, id flowfabric.ExecutionID) (bool, error) {
	return b.ReleaseReclaimHold(ctx, id)
}

var renewEndpoint = onAttempt[wire.RenewRequest](renewOne, plain(wire.NewRenewResponse))

// renewOne is the single form of RenewLeases.
func renewOne(b flowfabric.Backend, ctx context.Context, args flowfabric.RenewLeaseArgs) (flowfabric.RenewLeaseResult, error) {
	return flowfabric.RenewLease(ctx, b, args)
}

func renewLease(c *call) error {
	err := renewEndpoint.handle(c)
	if err != nil {
		c.api.metrics.renewed(0, 1)
		return err
	}
	c.api.metrics.renewed(1, 0)
	return nil
}

func renewLeases(c *call) error {
	worker, err := c.workerID()
	if err != nil {
		return err
	}
	var body wire.RenewalsRequest
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
	items, err := batch(c.ctx, args, refused, c.api.backend.RenewLeases)
	if err != nil {
		c.api.metrics.renewed(0, len(args))
		return err
	}
	failed := 0
	for i := range items {
		if items[i].Err != nil {
			failed++
		}
	}
	c.api.metrics.renewed(len(items)-failed, failed)
	answer := wire.NewRenewalsResponse(args, items)
	for i := range answer.Items {
		c.stamp(answer.Items[i].Problem)
	}
	return c.ok(answer)
}

// revokeLease with scope work alone needs the lease's id, which only its holder
// knows.
func revokeLease(c *call) error {
	id, err := c.executionID()
	if err != nil {
		return err
	}
	var body wire.RevokeLeaseRequest
	if err := c.decode(&body); err != nil {
		return err
	}
	args, err := body.Args(id)
	if err != nil {
		return err
	}
	if !c.has(ScopeOperate) {
		if args.ExpectedLeaseID == "" {
			return flowfabric.InvalidInput("expected_lease_id", "is required with scope work")
		}
		args.RevokedBy = "worker"
	}
	if err := c.admit(id); err != nil {
		return err
	}
	r, err := c.api.backend.RevokeLease(c.ctx, args)
	if err != nil {
		return err
	}
	return c.ok(wire.NewRevokeLeaseResponse(r))
}

func listExpiredLeases(c *call) error {
	query, err := c.query()
	if err != nil {
		return err
	}
	args, err := wire.ParseListExpiredLeases(query)
	if err != nil {
		return err
	}
	if err := c.name(args.Namespace); err != nil {
		return err
	}
	args.Namespaces = c.who.Namespaces
	r, err := c.api.backend.ListExpiredLeases(c.ctx, args)
	if err != nil {
		return err
	}
	return c.ok(wire.NewExpiredLeasesPage(query, r))
}
