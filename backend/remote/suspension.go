package remote

import (
	"context"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/rules"
	"github.com/flowfabric/flowfabric/internal/wire"
)

// Suspend gives the lease up and waits. Only a call with an idempotency key is
// repeated by itself.
func (b *Backend) Suspend(ctx context.Context, a flowfabric.SuspendArgs) (flowfabric.SuspendResult, error) {
	a, err := rules.PrepareSuspend(a)
	if err != nil {
		return flowfabric.SuspendResult{}, err
	}
	path, err := b.attemptOf(ctx, wire.RouteAttemptSuspend, a.ExecutionID, a.Fence)
	if err != nil {
		return flowfabric.SuspendResult{}, err
	}
	c := post("suspend", path, wire.NewSuspendRequest(a))
	c.repeat = a.IdempotencyKey != ""
	var r wire.SuspendResponse
	if _, err := b.do(ctx, c, &r); err != nil {
		return flowfabric.SuspendResult{}, err
	}
	return r.Result(), nil
}

// ResumeExecution ends a suspension for an operator.
func (b *Backend) ResumeExecution(ctx context.Context, a flowfabric.ResumeExecutionArgs) (flowfabric.ResumeExecutionResult, error) {
	const op = "resume_execution"
	a, err := rules.PrepareResume(a)
	if err != nil {
		return flowfabric.ResumeExecutionResult{}, err
	}
	if a.Trigger != flowfabric.ResumeTriggerOperator {
		return flowfabric.ResumeExecutionResult{}, unsupported(op, "the trigger %s is the engine's own", a.Trigger)
	}
	var r wire.ResumeResponse
	_, err = b.do(ctx, post(op, wire.Path(wire.RouteExecutionResume, string(a.ExecutionID)), wire.NewResumeRequest(a)), &r)
	return r.Result(), err
}

// GetSuspension returns nil, nil for an execution that has never been suspended.
func (b *Backend) GetSuspension(ctx context.Context, id flowfabric.ExecutionID) (*flowfabric.Suspension, error) {
	if err := checkID(id); err != nil {
		return nil, err
	}
	c := get("get_suspension", wire.Path(wire.RouteExecutionSuspension, string(id)), nil)
	var r wire.Suspension
	if _, err := b.do(ctx, c, &r); err != nil {
		if isCode(err, flowfabric.CodeSuspensionNotFound) {
			return nil, nil
		}
		return nil, err
	}
	s, err := r.Record()
	if err != nil {
		return nil, c.fault("the answer's condition can't be read").Wrap(err)
	}
	return s, nil
}

// ListSuspended returns one page of suspended executions. Its cursor is the
// server's.
func (b *Backend) ListSuspended(ctx context.Context, a flowfabric.ListSuspendedArgs) (flowfabric.ListSuspendedResult, error) {
	const op = "list_suspended"
	parts, err := b.partitions(ctx)
	if err != nil {
		return flowfabric.ListSuspendedResult{}, err
	}
	if _, err := rules.ValidateListSuspended(a, parts); err != nil {
		return flowfabric.ListSuspendedResult{}, err
	}
	if a.Namespace, err = oneNamespace(op, a.Namespace, a.Namespaces); err != nil {
		return flowfabric.ListSuspendedResult{}, err
	}
	var p wire.Page[flowfabric.SuspendedExecution]
	if _, err := b.do(ctx, get(op, wire.RouteSuspended, wire.ListSuspendedQuery(a)), &p); err != nil {
		return flowfabric.ListSuspendedResult{}, err
	}
	r := flowfabric.ListSuspendedResult{Executions: p.Items}
	if p.NextCursor != nil {
		r.NextCursor = *p.NextCursor
	}
	return r, nil
}
