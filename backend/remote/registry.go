package remote

import (
	"context"
	"net/url"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/rules"
	"github.com/flowfabric/flowfabric/internal/wire"
)

// RegisterWorker registers or refreshes a worker process.
func (b *Backend) RegisterWorker(ctx context.Context, a flowfabric.RegisterWorkerArgs) (flowfabric.RegisterWorkerResult, error) {
	if err := rules.ValidateRegister(&a); err != nil {
		return flowfabric.RegisterWorkerResult{}, err
	}
	var r wire.RegisterWorkerResponse
	c := put("register_worker", wire.Path(wire.RouteWorkerInstance, string(a.WorkerInstanceID)), wire.NewRegisterWorkerRequest(a)).idempotent()
	_, err := b.do(ctx, c, &r)
	return r.Result(), err
}

// HeartbeatWorker keeps a registration alive.
func (b *Backend) HeartbeatWorker(ctx context.Context, a flowfabric.HeartbeatWorkerArgs) (flowfabric.HeartbeatWorkerResult, error) {
	if err := rules.ValidateHeartbeat(a); err != nil {
		return flowfabric.HeartbeatWorkerResult{}, err
	}
	var r wire.HeartbeatResponse
	body := wire.HeartbeatRequest{Namespace: a.Namespace, InstanceNonce: a.InstanceNonce}
	c := post("heartbeat_worker", wire.Path(wire.RouteWorkerInstanceHeartbeat, string(a.WorkerInstanceID)), body).idempotent()
	_, err := b.do(ctx, c, &r)
	return r.Result(), err
}

// MarkWorkerDead removes a registration, by an operator.
func (b *Backend) MarkWorkerDead(ctx context.Context, a flowfabric.MarkWorkerDeadArgs) (flowfabric.MarkWorkerDeadResult, error) {
	return b.removeWorker(ctx, "mark_worker_dead", a)
}

// DeregisterWorker removes a registration, by the worker. It is the same route.
func (b *Backend) DeregisterWorker(ctx context.Context, a flowfabric.MarkWorkerDeadArgs) (flowfabric.MarkWorkerDeadResult, error) {
	return b.removeWorker(ctx, "deregister_worker", a)
}

func (b *Backend) removeWorker(ctx context.Context, op string, a flowfabric.MarkWorkerDeadArgs) (flowfabric.MarkWorkerDeadResult, error) {
	if err := rules.ValidateMarkWorkerDead(a); err != nil {
		return flowfabric.MarkWorkerDeadResult{}, err
	}
	var r wire.RemoveWorkerResponse
	_, err := b.do(ctx, remove(op, wire.Path(wire.RouteWorkerInstance, string(a.WorkerInstanceID)), wire.RemoveWorkerQuery(a)), &r)
	return r.Result(), err
}

// GetWorker returns nil, nil without a live registration. The instance nonce is
// not shown over HTTP.
func (b *Backend) GetWorker(ctx context.Context, ns flowfabric.Namespace, instance flowfabric.WorkerInstanceID) (*flowfabric.WorkerRegistration, error) {
	if err := ns.ValidateForWorker(); err != nil {
		return nil, err
	}
	if err := instance.Validate(); err != nil {
		return nil, err
	}
	var w flowfabric.WorkerRegistration
	_, err := b.do(ctx, get("get_worker", wire.Path(wire.RouteWorkerInstance, string(instance)), url.Values{"namespace": {string(ns)}}), &w)
	if isCode(err, flowfabric.CodeWorkerNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	w = wire.Worker(w)
	return &w, nil
}

// ListWorkers returns one page of live registrations.
func (b *Backend) ListWorkers(ctx context.Context, a flowfabric.ListWorkersArgs) (flowfabric.ListWorkersResult, error) {
	var keep visible
	a.Namespace, keep = visibleIn(a.Namespace, a.Namespaces)
	for {
		var p wire.Page[flowfabric.WorkerRegistration]
		if _, err := b.do(ctx, get("list_workers", wire.RouteWorkerInstances, wire.ListWorkersQuery(a)), &p); err != nil {
			return flowfabric.ListWorkersResult{}, err
		}
		r := wire.WorkersResult(p)
		if n := len(r.Workers); n > 0 {
			a.AfterNamespace, a.AfterInstanceID = r.Workers[n-1].Namespace, r.Workers[n-1].WorkerInstanceID
		}
		r.Workers = only(r.Workers, keep, func(w flowfabric.WorkerRegistration) flowfabric.Namespace { return w.Namespace })
		// The caller goes on behind the last row, so a page that was dropped whole
		// can't be left to him.
		if len(r.Workers) > 0 || !r.More {
			return r, nil
		}
	}
}

// ExplainRouting tells which live workers cover an execution's requirement.
func (b *Backend) ExplainRouting(ctx context.Context, id flowfabric.ExecutionID) (*flowfabric.RoutingExplanation, error) {
	if err := checkID(id); err != nil {
		return nil, err
	}
	var r flowfabric.RoutingExplanation
	if _, err := b.do(ctx, get("explain_routing", wire.Path(wire.RouteExecutionRouting, string(id)), nil), &r); err != nil {
		return nil, err
	}
	return &r, nil
}
