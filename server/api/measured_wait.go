package api

import (
	"context"
	"time"

	"github.com/flowfabric/flowfabric"
)

func (b *measured) Suspend(ctx context.Context, a flowfabric.SuspendArgs) (flowfabric.SuspendResult, error) {
	start := time.Now()
	r, err := b.Backend.Suspend(ctx, a)
	b.ops.suspend.done(start, false, err)
	return r, err
}

func (b *measured) ResumeExecution(ctx context.Context, a flowfabric.ResumeExecutionArgs) (flowfabric.ResumeExecutionResult, error) {
	start := time.Now()
	r, err := b.Backend.ResumeExecution(ctx, a)
	b.ops.resumeExecution.done(start, false, err)
	return r, err
}

func (b *measured) GetSuspension(ctx context.Context, id flowfabric.ExecutionID) (*flowfabric.Suspension, error) {
	start := time.Now()
	r, err := b.Backend.GetSuspension(ctx, id)
	b.ops.getSuspension.done(start, false, err)
	return r, err
}

func (b *measured) ListSuspended(ctx context.Context, a flowfabric.ListSuspendedArgs) (flowfabric.ListSuspendedResult, error) {
	start := time.Now()
	r, err := b.Backend.ListSuspended(ctx, a)
	b.ops.listSuspended.done(start, false, err)
	return r, err
}

func (b *measured) CreatePendingWaitpoint(ctx context.Context, a flowfabric.CreatePendingWaitpointArgs) (flowfabric.PendingWaitpoint, error) {
	start := time.Now()
	r, err := b.Backend.CreatePendingWaitpoint(ctx, a)
	b.ops.createPendingWaitpoint.done(start, false, err)
	return r, err
}

func (b *measured) CloseWaitpoint(ctx context.Context, a flowfabric.CloseWaitpointArgs) (flowfabric.CloseWaitpointOutcome, error) {
	start := time.Now()
	r, err := b.Backend.CloseWaitpoint(ctx, a)
	b.ops.closeWaitpoint.done(start, false, err)
	return r, err
}

func (b *measured) ListPendingWaitpoints(ctx context.Context, a flowfabric.ListPendingWaitpointsArgs) (flowfabric.ListPendingWaitpointsResult, error) {
	start := time.Now()
	r, err := b.Backend.ListPendingWaitpoints(ctx, a)
	b.ops.listPendingWaitpoints.done(start, false, err)
	return r, err
}

func (b *measured) ReadWaitpointToken(ctx context.Context, id flowfabric.ExecutionID, waitpoint flowfabric.WaitpointID) (flowfabric.WaitpointToken, error) {
	start := time.Now()
	r, err := b.Backend.ReadWaitpointToken(ctx, id, waitpoint)
	b.ops.readWaitpointToken.done(start, false, err)
	return r, err
}

func (b *measured) DeliverSignal(ctx context.Context, a flowfabric.DeliverSignalArgs) (flowfabric.DeliverSignalResult, error) {
	start := time.Now()
	r, err := b.Backend.DeliverSignal(ctx, a)
	b.ops.deliverSignal.done(start, false, err)
	b.metrics.signalled(r.Outcome, err)
	return r, err
}

func (b *measured) DeliverApprovalSignal(ctx context.Context, a flowfabric.DeliverApprovalSignalArgs) (flowfabric.DeliverSignalResult, error) {
	start := time.Now()
	r, err := b.Backend.DeliverApprovalSignal(ctx, a)
	b.ops.deliverApprovalSignal.done(start, false, err)
	b.metrics.signalled(r.Outcome, err)
	return r, err
}

func (b *measured) ObserveSignals(ctx context.Context, a flowfabric.ObserveSignalsArgs) ([]flowfabric.ResumeSignal, error) {
	start := time.Now()
	r, err := b.Backend.ObserveSignals(ctx, a)
	b.ops.observeSignals.done(start, false, err)
	return r, err
}

func (b *measured) ListSignals(ctx context.Context, a flowfabric.ListSignalsArgs) (flowfabric.ListSignalsResult, error) {
	start := time.Now()
	r, err := b.Backend.ListSignals(ctx, a)
	b.ops.listSignals.done(start, false, err)
	return r, err
}

func (b *measured) GetSignal(ctx context.Context, id flowfabric.ExecutionID, signal flowfabric.SignalID) (*flowfabric.RecordedSignal, error) {
	start := time.Now()
	r, err := b.Backend.GetSignal(ctx, id, signal)
	b.ops.getSignal.done(start, false, err)
	return r, err
}

func (b *measured) RotateWaitpointSecret(ctx context.Context, a flowfabric.RotateWaitpointSecretArgs) (flowfabric.RotateWaitpointSecretResult, error) {
	start := time.Now()
	r, err := b.Backend.RotateWaitpointSecret(ctx, a)
	b.ops.rotateWaitpointSecret.done(start, false, err)
	return r, err
}

func (b *measured) ListWaitpointKIDs(ctx context.Context) (flowfabric.WaitpointKIDs, error) {
	start := time.Now()
	r, err := b.Backend.ListWaitpointKIDs(ctx)
	b.ops.listWaitpointKIDs.done(start, false, err)
	return r, err
}
