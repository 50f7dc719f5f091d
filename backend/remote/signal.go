package remote

import (
	"context"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/rules"
	"github.com/flowfabric/flowfabric/internal/wire"
)

// DeliverSignal delivers a signal. Its identifier is minted here when absent, so
// that the call can be repeated.
func (b *Backend) DeliverSignal(ctx context.Context, a flowfabric.DeliverSignalArgs) (flowfabric.DeliverSignalResult, error) {
	a, err := rules.PrepareDeliver(a)
	if err != nil {
		return flowfabric.DeliverSignalResult{}, err
	}
	var r wire.SignalResponse
	_, err = b.do(ctx, post("deliver_signal", wire.Path(wire.RouteExecutionDeliver, string(a.ExecutionID)), wire.NewSignalRequest(a)).idempotent(), &r)
	return r.Result(), err
}

// DeliverApprovalSignal delivers an operator's decision.
func (b *Backend) DeliverApprovalSignal(ctx context.Context, a flowfabric.DeliverApprovalSignalArgs) (flowfabric.DeliverSignalResult, error) {
	if a.SignalID == "" {
		a.SignalID = flowfabric.NewSignalID()
	}
	if _, err := rules.PrepareApproval(a); err != nil {
		return flowfabric.DeliverSignalResult{}, err
	}
	var r wire.SignalResponse
	c := post("deliver_approval_signal", wire.Path(wire.RouteExecutionApproval, string(a.ExecutionID)), wire.NewApprovalRequest(a)).idempotent()
	_, err := b.do(ctx, c, &r)
	return r.Result(), err
}

// ObserveSignals returns the signals that ended the attempt's last suspension.
func (b *Backend) ObserveSignals(ctx context.Context, a flowfabric.ObserveSignalsArgs) ([]flowfabric.ResumeSignal, error) {
	if err := rules.ValidateObserveSignals(a); err != nil {
		return nil, err
	}
	path, err := b.attemptOf(ctx, wire.RouteAttemptResumeSignals, a.ExecutionID, flowfabric.Fence{AttemptID: a.AttemptID})
	if err != nil {
		return nil, err
	}
	c := post("observe_signals", path, wire.NewResumeSignalsRequest(a)).idempotent()
	c.read = true
	var p wire.Page[flowfabric.ResumeSignal]
	if _, err := b.do(ctx, c, &p); err != nil {
		return nil, err
	}
	return p.Items, nil
}

// ListSignals returns one page of an execution's signals, without payloads.
func (b *Backend) ListSignals(ctx context.Context, a flowfabric.ListSignalsArgs) (flowfabric.ListSignalsResult, error) {
	if _, err := rules.ValidateListSignals(a); err != nil {
		return flowfabric.ListSignalsResult{}, err
	}
	q := wire.ListSignalsQuery(a)
	c := get("list_signals", wire.Path(wire.RouteExecutionSignals, string(a.ExecutionID)), q)
	var p wire.Page[flowfabric.RecordedSignal]
	if _, err := b.do(ctx, c, &p); err != nil {
		return flowfabric.ListSignalsResult{}, err
	}
	r, err := wire.SignalsResult(a.ExecutionID, q, p)
	if err != nil {
		return flowfabric.ListSignalsResult{}, c.fault("the answer's cursor can't be read").Wrap(err)
	}
	return r, nil
}

// GetSignal returns a signal with its payload, else signal_not_found.
func (b *Backend) GetSignal(ctx context.Context, id flowfabric.ExecutionID, signal flowfabric.SignalID) (*flowfabric.RecordedSignal, error) {
	if err := checkID(id); err != nil {
		return nil, err
	}
	if err := flowfabric.ValidateUUID("signal_id", string(signal)); err != nil {
		return nil, err
	}
	var s flowfabric.RecordedSignal
	if _, err := b.do(ctx, get("get_signal", wire.Path(wire.RouteExecutionSignal, string(id), string(signal)), nil), &s); err != nil {
		return nil, err
	}
	return &s, nil
}
