package remote

import (
	"context"

	"github.com/flowfabric/flowfabric"
)

func (s *Backend) unsupported(op string) error {
	return flowfabric.NewError(flowfabric.CodeUnsupportedOperation, "%s is not built yet", op)
}

func (s *Backend) Suspend(ctx context.Context, a flowfabric.SuspendArgs) (res flowfabric.SuspendResult, err error) {
	return res, s.unsupported("Suspend")
}

func (s *Backend) ResumeExecution(ctx context.Context, a flowfabric.ResumeExecutionArgs) (res flowfabric.ResumeExecutionResult, err error) {
	return res, s.unsupported("ResumeExecution")
}

func (s *Backend) GetSuspension(ctx context.Context, id flowfabric.ExecutionID) (res *flowfabric.Suspension, err error) {
	return res, s.unsupported("GetSuspension")
}

func (s *Backend) ListSuspended(ctx context.Context, a flowfabric.ListSuspendedArgs) (res flowfabric.ListSuspendedResult, err error) {
	return res, s.unsupported("ListSuspended")
}

func (s *Backend) CreatePendingWaitpoint(ctx context.Context, a flowfabric.CreatePendingWaitpointArgs) (res flowfabric.PendingWaitpoint, err error) {
	return res, s.unsupported("CreatePendingWaitpoint")
}

func (s *Backend) CloseWaitpoint(ctx context.Context, a flowfabric.CloseWaitpointArgs) (res flowfabric.CloseWaitpointOutcome, err error) {
	return res, s.unsupported("CloseWaitpoint")
}

func (s *Backend) ListPendingWaitpoints(ctx context.Context, a flowfabric.ListPendingWaitpointsArgs) (res flowfabric.ListPendingWaitpointsResult, err error) {
	return res, s.unsupported("ListPendingWaitpoints")
}

func (s *Backend) ReadWaitpointToken(ctx context.Context, id flowfabric.ExecutionID, w flowfabric.WaitpointID) (res flowfabric.WaitpointToken, err error) {
	return res, s.unsupported("ReadWaitpointToken")
}

func (s *Backend) DeliverSignal(ctx context.Context, a flowfabric.DeliverSignalArgs) (res flowfabric.DeliverSignalResult, err error) {
	return res, s.unsupported("DeliverSignal")
}

func (s *Backend) DeliverApprovalSignal(ctx context.Context, a flowfabric.DeliverApprovalSignalArgs) (res flowfabric.DeliverSignalResult, err error) {
	return res, s.unsupported("DeliverApprovalSignal")
}

func (s *Backend) ObserveSignals(ctx context.Context, a flowfabric.ObserveSignalsArgs) (res []flowfabric.ResumeSignal, err error) {
	return res, s.unsupported("ObserveSignals")
}

func (s *Backend) ListSignals(ctx context.Context, a flowfabric.ListSignalsArgs) (res flowfabric.ListSignalsResult, err error) {
	return res, s.unsupported("ListSignals")
}

func (s *Backend) GetSignal(ctx context.Context, id flowfabric.ExecutionID, g flowfabric.SignalID) (res *flowfabric.RecordedSignal, err error) {
	return res, s.unsupported("GetSignal")
}

func (s *Backend) RotateWaitpointSecret(ctx context.Context, a flowfabric.RotateWaitpointSecretArgs) (res flowfabric.RotateWaitpointSecretResult, err error) {
	return res, s.unsupported("RotateWaitpointSecret")
}

func (s *Backend) ListWaitpointKIDs(ctx context.Context) (res flowfabric.WaitpointKIDs, err error) {
	return res, s.unsupported("ListWaitpointKIDs")
}
