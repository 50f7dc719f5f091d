package remote

import (
	"context"
	"encoding/json"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/rules"
	"github.com/flowfabric/flowfabric/internal/wire"
)

// RenewLeases renews 1..100 leases. One whose attempt's index is known
// goes to A/renew, the others to the batch route.
func (b *Backend) RenewLeases(ctx context.Context, items []flowfabric.RenewLeaseArgs) ([]flowfabric.Item[flowfabric.RenewLeaseResult], error) {
	if err := checkBatch("items", len(items)); err != nil {
		return nil, err
	}
	out := make([]flowfabric.Item[flowfabric.RenewLeaseResult], len(items))
	if len(items) == 1 {
		if index, ok := b.indexOf(items[0].Fence); ok {
			return out, b.renewOne(ctx, items[0], index, &out[0])
		}
	}
	batch := newBatch(wire.LimitControl)
	for i, a := range items {
		if out[i].Err = rules.ValidateRenew(a); out[i].Err != nil {
			continue
		}
		text, err := json.Marshal(wire.NewRenewalsRequest(items[i : i+1]).Items[0])
		if err != nil {
			return nil, flowfabric.InvalidInput("items", "do not encode").Wrap(err)
		}
		batch.add(i, text, true)
	}
	for _, part := range batch.parts {
		c := post("renew_leases", wire.Path(wire.RouteWorkerRenewals, batchWorker), part.body("items")).idempotent()
		var r wire.RenewalsResponse
		if _, err := b.do(ctx, c, &r); err != nil {
			return nil, err
		}
		if err := spread(c, r.Results(), part.index, out); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (b *Backend) renewOne(ctx context.Context, a flowfabric.RenewLeaseArgs, index uint32, out *flowfabric.Item[flowfabric.RenewLeaseResult]) error {
	if out.Err = rules.ValidateRenew(a); out.Err != nil {
		return nil
	}
	var r wire.RenewResponse
	c := post("renew_lease", attemptPath(wire.RouteAttemptRenew, a.ExecutionID, index), wire.NewRenewRequest(a)).idempotent()
	if _, err := b.do(ctx, c, &r); err != nil {
		return ownItem(err, &out.Err)
	}
	out.Result = r.Result()
	return nil
}

// RevokeLease takes a lease away.
func (b *Backend) RevokeLease(ctx context.Context, a flowfabric.RevokeLeaseArgs) (flowfabric.RevokeLeaseResult, error) {
	if err := rules.ValidateRevoke(a); err != nil {
		return flowfabric.RevokeLeaseResult{}, err
	}
	var r wire.RevokeLeaseResponse
	_, err := b.do(ctx, post("revoke_lease", wire.Path(wire.RouteExecutionRevoke, string(a.ExecutionID)), wire.NewRevokeLeaseRequest(a)), &r)
	return r.Result(), err
}

// ReleaseReclaimHold reports whether a hold was there.
func (b *Backend) ReleaseReclaimHold(ctx context.Context, id flowfabric.ExecutionID) (bool, error) {
	if err := checkID(id); err != nil {
		return false, err
	}
	var r wire.ReleaseResponse
	_, err := b.do(ctx, post("release_reclaim_hold", wire.Path(wire.RouteExecutionReleaseHold, string(id)), nil), &r)
	return r.Released(), err
}

// GetLease returns the lease record, else lease_not_found.
func (b *Backend) GetLease(ctx context.Context, id flowfabric.ExecutionID) (*flowfabric.Lease, error) {
	if err := checkID(id); err != nil {
		return nil, err
	}
	var l flowfabric.Lease
	if _, err := b.do(ctx, get("get_lease", wire.Path(wire.RouteExecutionLease, string(id)), nil), &l); err != nil {
		return nil, err
	}
	return &l, nil
}

// GetLeaseHistory returns one page of lease events, oldest first.
func (b *Backend) GetLeaseHistory(ctx context.Context, a flowfabric.LeaseHistoryArgs) (flowfabric.LeaseHistoryResult, error) {
	if err := checkID(a.ExecutionID); err != nil {
		return flowfabric.LeaseHistoryResult{}, err
	}
	q := wire.LeaseHistoryQuery(a)
	c := get("get_lease_history", wire.Path(wire.RouteExecutionHistory, string(a.ExecutionID)), q)
	var p wire.Page[wire.LeaseEvent]
	if _, err := b.do(ctx, c, &p); err != nil {
		return flowfabric.LeaseHistoryResult{}, err
	}
	r, err := wire.LeaseHistoryResult(a.ExecutionID, q, p)
	if err != nil {
		return flowfabric.LeaseHistoryResult{}, c.fault("the answer's cursor can't be read").Wrap(err)
	}
	return r, nil
}

// ListWorkerLeases returns one page of the leases an instance holds.
func (b *Backend) ListWorkerLeases(ctx context.Context, a flowfabric.ListWorkerLeasesArgs) (flowfabric.ListWorkerLeasesResult, error) {
	if err := a.WorkerInstanceID.Validate(); err != nil {
		return flowfabric.ListWorkerLeasesResult{}, err
	}
	var keep visible
	a.Namespace, keep = visibleIn(a.Namespace, a.Namespaces)
	q := wire.ListWorkerLeasesQuery(a)
	c := get("list_worker_leases", wire.Path(wire.RouteWorkerInstanceLeases, string(a.WorkerInstanceID)), q)
	var p wire.Page[wire.Task]
	answer, err := b.do(ctx, c, &p)
	if err != nil {
		return flowfabric.ListWorkerLeasesResult{}, err
	}
	r, err := wire.WorkerLeasesResult(a.WorkerInstanceID, q, p)
	if err != nil {
		return flowfabric.ListWorkerLeasesResult{}, c.fault("the answer's cursor can't be read").Wrap(err)
	}
	r.Tasks = only(r.Tasks, keep, func(t flowfabric.ClaimedExecution) flowfabric.Namespace { return t.Namespace })
	b.received(r.Tasks, answer)
	return r, nil
}

// ListExpiredLeases returns one page of lapsed leases. Its cursor is the
// server's.
func (b *Backend) ListExpiredLeases(ctx context.Context, a flowfabric.ListExpiredLeasesArgs) (flowfabric.ListExpiredLeasesResult, error) {
	const op = "list_expired_leases"
	var err error
	if a.Namespace, err = oneNamespace(op, a.Namespace, a.Namespaces); err != nil {
		return flowfabric.ListExpiredLeasesResult{}, err
	}
	var p wire.Page[flowfabric.ExpiredLease]
	if _, err := b.do(ctx, get(op, wire.RouteExpiredLeases, wire.ListExpiredLeasesQuery(a)), &p); err != nil {
		return flowfabric.ListExpiredLeasesResult{}, err
	}
	r := flowfabric.ListExpiredLeasesResult{Leases: p.Items}
	if p.NextCursor != nil {
		r.NextCursor = *p.NextCursor
	}
	return r, nil
}
