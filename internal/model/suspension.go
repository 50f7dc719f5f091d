package model

import (
	"context"

	"github.com/flowfabric/flowfabric"
)

func (s *Store) unsupported(op string) error {
	return flowfabric.NewError(flowfabric.CodeUnsupportedOperation, "%s is not built yet", op)
}

func (s *Store) Suspend(ctx context.Context, a flowfabric.SuspendArgs) (res flowfabric.SuspendResult, err error) {
	return res, s.unsupported("Suspend")
}

func (s *Store) ResumeExecution(ctx context.Context, a flowfabric.ResumeExecutionArgs) (res flowfabric.ResumeExecutionResult, err error) {
	return res, s.unsupported("ResumeExecution")
}

func (s *Store) GetSuspension(ctx context.Context, id flowfabric.ExecutionID) (res *flowfabric.Suspension, err error) {
	return res, s.unsupported("GetSuspension")
}

func (s *Store) ListSuspended(ctx context.Context, a flowfabric.ListSuspendedArgs) (res flowfabric.ListSuspendedResult, err error) {
	return res, s.unsupported("ListSuspended")
}

func (s *Store) CreatePendingWaitpoint(ctx context.Context, a flowfabric.CreatePendingWaitpointArgs) (res flowfabric.PendingWaitpoint, err error) {
	return res, s.unsupported("CreatePendingWaitpoint")
}

func (s *Store) CloseWaitpoint(ctx context.Context, a flowfabric.CloseWaitpointArgs) (res flowfabric.CloseWaitpointOutcome, err error) {
	return res, s.unsupported("CloseWaitpoint")
}

func (s *Store) ListPendingWaitpoints(ctx context.Context, a flowfabric.ListPendingWaitpointsArgs) (res flowfabric.ListPendingWaitpointsResult, err error) {
	return res, s.unsupported("ListPendingWaitpoints")
}

func (s *Store) ReadWaitpointToken(ctx context.Context, id flowfabric.ExecutionID, w flowfabric.WaitpointID) (res flowfabric.WaitpointToken, err error) {
	return res, s.unsupported("ReadWaitpointToken")
}

func (s *Store) DeliverSignal(ctx context.Context, a flowfabric.DeliverSignalArgs) (res flowfabric.DeliverSignalResult, err error) {
	return res, s.unsupported("DeliverSignal")
}

func (s *Store) DeliverApprovalSignal(ctx context.Context, a flowfabric.DeliverApprovalSignalArgs) (res flowfabric.DeliverSignalResult, err error) {
	return res, s.unsupported("DeliverApprovalSignal")
}

func (s *Store) ObserveSignals(ctx context.Context, a flowfabric.ObserveSignalsArgs) (res []flowfabric.ResumeSignal, err error) {
	return res, s.unsupported("ObserveSignals")
}

func (s *Store) ListSignals(ctx context.Context, a flowfabric.ListSignalsArgs) (res flowfabric.ListSignalsResult, err error) {
	return res, s.unsupported("ListSignals")
}

func (s *Store) GetSignal(ctx context.Context, id flowfabric.ExecutionID, g flowfabric.SignalID) (res *flowfabric.RecordedSignal, err error) {
	return res, s.unsupported("GetSignal")
}

func (s *Store) RotateWaitpointSecret(ctx context.Context, a flowfabric.RotateWaitpointSecretArgs) (res flowfabric.RotateWaitpointSecretResult, err error) {
	return res, s.unsupported("RotateWaitpointSecret")
}

func (s *Store) ListWaitpointKIDs(ctx context.Context) (res flowfabric.WaitpointKIDs, err error) {
	return res, s.unsupported("ListWaitpointKIDs")
}

func (s *Store) ExpireSuspension(ctx context.Context, id flowfabric.ExecutionID) (res flowfabric.ExpireSuspensionResult, err error) {
	return res, s.unsupported("ExpireSuspension")
}

func (s *Store) SuspendForBudget(ctx context.Context, a flowfabric.SuspendForBudgetArgs) (res bool, err error) {
	return res, s.unsupported("SuspendForBudget")
}

func (s *Store) SeedWaitpointSecret(ctx context.Context, kid, secret string) (res flowfabric.SeedWaitpointSecretResult, err error) {
	return res, s.unsupported("SeedWaitpointSecret")
}
