package api

import (
	"net/http"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/wire"
)

func registryRoutes() []*route {
	namespace := param{name: "namespace", kind: "string", doc: "Operators may leave it out."}
	return []*route{
		{
			id: "register_worker", method: http.MethodPut, pattern: wire.RouteWorkerInstance, scopes: ScopeWork,
			summary: "Registers a worker process, or refreshes its registration.", status: http.StatusCreated,
			also: map[int]string{http.StatusOK: "refreshed."},
			codes: []flowfabric.Code{
				flowfabric.CodeDuplicateWorkerInstance, flowfabric.CodeInstanceIDReassigned, flowfabric.CodeInvalidCapabilities,
				flowfabric.CodeIDMismatch, flowfabric.CodeNamespaceForbidden,
			},
			variants: map[string][]string{"registered": {"next_expiry_at"}, "refreshed": {"next_expiry_at"}},
			endpoint: serves[wire.RegisterWorkerRequest, wire.RegisterWorkerResponse](registerWorker),
		},
		{
			id: "heartbeat_worker", method: http.MethodPost, pattern: wire.RouteWorkerInstanceHeartbeat, scopes: ScopeWork,
			summary:  "Keeps a registration alive; it never revives one.",
			codes:    []flowfabric.Code{flowfabric.CodeIDMismatch, flowfabric.CodeNamespaceForbidden},
			variants: map[string][]string{"refreshed": {"next_expiry_at"}, "not_registered": nil},
			endpoint: serves[wire.HeartbeatRequest, wire.HeartbeatResponse](heartbeatWorker),
		},
		{
			id: "remove_worker", method: http.MethodDelete, pattern: wire.RouteWorkerInstance, scopes: ScopeWork | ScopeOperate,
			summary: "Removes a registration: its own by a worker, any by an operator, who may revoke its leases as well.",
			query: []param{
				{name: "namespace", kind: "string", required: true}, {name: "reason", kind: "string", required: true, doc: "1..256 bytes."},
				{name: "revoke_leases", kind: "boolean", doc: "Default false."},
			},
			codes:    []flowfabric.Code{flowfabric.CodeNamespaceForbidden},
			variants: map[string][]string{"marked": {"revoked_leases"}, "not_registered": {"revoked_leases"}},
			endpoint: serves[none, wire.RemoveWorkerResponse](removeWorker),
		},
		{
			id: "list_workers", method: http.MethodGet, pattern: wire.RouteWorkerInstances, scopes: ScopeWork | ScopeOperate,
			summary:  "Live registrations by namespace and instance.",
			query:    []param{namespace, {name: "lane_id", kind: "string"}, {name: "limit", kind: "integer", doc: "1..10000, default 1000."}, cursorParam},
			codes:    []flowfabric.Code{flowfabric.CodeInvalidCursor, flowfabric.CodeNamespaceForbidden},
			endpoint: serves[none, wire.Page[flowfabric.WorkerRegistration]](listWorkers),
		},
		{
			id: "get_worker", method: http.MethodGet, pattern: wire.RouteWorkerInstance, scopes: ScopeWork | ScopeOperate,
			summary: "One live registration.", query: []param{namespace},
			codes:    []flowfabric.Code{flowfabric.CodeWorkerNotFound, flowfabric.CodeNamespaceForbidden},
			endpoint: serves[none, flowfabric.WorkerRegistration](getWorker),
		},
		{
			id: "list_worker_leases", method: http.MethodGet, pattern: wire.RouteWorkerInstanceLeases, scopes: ScopeWork | ScopeOperate,
			summary:  "What the instance holds now, as tasks: the way back from a lost answer of a claim.",
			query:    []param{namespace, limitParam, cursorParam},
			codes:    []flowfabric.Code{flowfabric.CodeInvalidCursor, flowfabric.CodeNamespaceForbidden},
			endpoint: serves[none, wire.Page[wire.Task]](listWorkerLeases),
		},
		{
			id: "explain_routing", method: http.MethodGet, pattern: wire.RouteExecutionRouting, scopes: ScopeRead,
			summary: "Which live workers cover the execution's requirement, and what the others lack.",
			endpoint: readExecution(flowfabric.Backend.ExplainRouting, shown(func(r *flowfabric.RoutingExplanation) flowfabric.RoutingExplanation {
				return wire.NewRouting(*r)
			})),
		},
	}
}

func registerWorker(c *call) error {
	instance, err := c.instanceID()
	if err != nil {
		return err
	}
	var body wire.RegisterWorkerRequest
	if err := c.decode(&body); err != nil {
		return err
	}
	args, err := body.Args(instance)
	if err != nil {
		return err
	}
	if err := c.name(args.Namespace); err != nil {
		return err
	}
	r, err := c.api.backend.RegisterWorker(c.ctx, args)
	if err != nil {
		return err
	}
	status := http.StatusOK
	if r.Outcome == flowfabric.WorkerRegistered {
		status = http.StatusCreated
	}
	return c.json(status, wire.NewRegisterWorkerResponse(r))
}

func heartbeatWorker(c *call) error {
	instance, err := c.instanceID()
	if err != nil {
		return err
	}
	var body wire.HeartbeatRequest
	if err := c.decode(&body); err != nil {
		return err
	}
	args, err := body.Args(instance)
	if err != nil {
		return err
	}
	if err := c.name(args.Namespace); err != nil {
		return err
	}
	r, err := c.api.backend.HeartbeatWorker(c.ctx, args)
	if err != nil {
		return err
	}
	return c.ok(wire.NewHeartbeatResponse(r))
}

// removeWorker is MarkWorkerDead for an operator, DeregisterWorker for a worker.
func removeWorker(c *call) error {
	instance, err := c.instanceID()
	if err != nil {
		return err
	}
	query, err := c.query()
	if err != nil {
		return err
	}
	args, err := wire.ParseRemoveWorker(instance, query)
	if err != nil {
		return err
	}
	if err := c.name(args.Namespace); err != nil {
		return err
	}
	remove := c.api.backend.DeregisterWorker
	if c.has(ScopeOperate) {
		remove = c.api.backend.MarkWorkerDead
	}
	r, err := remove(c.ctx, args)
	if err != nil {
		return err
	}
	if args.RevokeLeases {
		c.audit("leases of a worker revoked", targetAttrs(c)...)
	}
	return c.ok(wire.NewRemoveWorkerResponse(r))
}

// narrow checks the namespace of a read of the registry: workers must name one,
// and of other namespaces a limited token sees nothing.
func (c *call) narrow(ns flowfabric.Namespace) error {
	if ns == "" && !c.has(ScopeOperate) {
		return flowfabric.InvalidInput("namespace", "is required without scope operate")
	}
	return c.name(ns)
}

func listWorkers(c *call) error {
	query, err := c.query()
	if err != nil {
		return err
	}
	args, err := wire.ParseListWorkers(query)
	if err != nil {
		return err
	}
	if err := c.narrow(args.Namespace); err != nil {
		return err
	}
	args.Namespaces = c.who.Namespaces
	r, err := c.api.backend.ListWorkers(c.ctx, args)
	if err != nil {
		return err
	}
	return c.ok(wire.NewWorkersPage(query, r))
}

func getWorker(c *call) error {
	instance, err := c.instanceID()
	if err != nil {
		return err
	}
	query, err := c.query()
	if err != nil {
		return err
	}
	text, err := wire.QueryFilter(query, "namespace")
	if err != nil {
		return err
	}
	ns := flowfabric.Namespace(text)
	if err := c.narrow(ns); err != nil {
		return err
	}
	w, err := c.findWorker(ns, instance)
	if err != nil {
		return err
	}
	if w == nil {
		return flowfabric.NewError(flowfabric.CodeWorkerNotFound, "no live registration of the instance")
	}
	return c.ok(wire.NewWorker(*w))
}

// findWorker returns nil without a live registration. Without a namespace it
// takes the first of the name, by namespace.
func (c *call) findWorker(ns flowfabric.Namespace, instance flowfabric.WorkerInstanceID) (*flowfabric.WorkerRegistration, error) {
	if ns != "" {
		return c.api.backend.GetWorker(c.ctx, ns, instance)
	}
	args := flowfabric.ListWorkersArgs{Namespaces: c.who.Namespaces, Limit: flowfabric.MaxWorkersLimit}
	for {
		r, err := c.api.backend.ListWorkers(c.ctx, args)
		if err != nil {
			return nil, err
		}
		for i := range r.Workers {
			if r.Workers[i].WorkerInstanceID == instance {
				return &r.Workers[i], nil
			}
		}
		if !r.More || len(r.Workers) == 0 {
			return nil, nil
		}
		last := r.Workers[len(r.Workers)-1]
		args.AfterNamespace, args.AfterInstanceID = last.Namespace, last.WorkerInstanceID
	}
}

func listWorkerLeases(c *call) error {
	instance, err := c.instanceID()
	if err != nil {
		return err
	}
	query, err := c.query()
	if err != nil {
		return err
	}
	args, err := wire.ParseListWorkerLeases(instance, query)
	if err != nil {
		return err
	}
	if err := c.selectable(args.Namespace); err != nil {
		return err
	}
	args.Namespaces = c.who.Namespaces
	r, err := c.api.backend.ListWorkerLeases(c.ctx, args)
	if err != nil {
		return err
	}
	return c.ok(wire.NewWorkerLeasesPage(instance, query, r))
}
