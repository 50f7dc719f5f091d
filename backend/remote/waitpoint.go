package remote

import (
	"context"
	"strconv"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/rules"
	"github.com/flowfabric/flowfabric/internal/wire"
)

// CreatePendingWaitpoint makes a waitpoint before the execution suspends. Its
// identifier is minted here when absent, so that the call can be repeated.
func (b *Backend) CreatePendingWaitpoint(ctx context.Context, a flowfabric.CreatePendingWaitpointArgs) (flowfabric.PendingWaitpoint, error) {
	a, err := rules.PrepareCreateWaitpoint(a)
	if err != nil {
		return flowfabric.PendingWaitpoint{}, err
	}
	path, err := b.attemptOf(ctx, wire.RouteAttemptWaitpoints, a.ExecutionID, a.Fence)
	if err != nil {
		return flowfabric.PendingWaitpoint{}, err
	}
	var r wire.CreateWaitpointResponse
	_, err = b.do(ctx, post("create_pending_waitpoint", path, wire.NewCreateWaitpointRequest(a)).idempotent(), &r)
	return r.Result(), err
}

// CloseWaitpoint closes a pending waitpoint, for the lease holder or for an
// operator.
func (b *Backend) CloseWaitpoint(ctx context.Context, a flowfabric.CloseWaitpointArgs) (flowfabric.CloseWaitpointOutcome, error) {
	a, err := rules.PrepareCloseWaitpoint(a)
	if err != nil {
		return "", err
	}
	const op = "close_waitpoint"
	var r wire.CloseWaitpointResponse
	if override(a.Source, a.Fence) {
		path := wire.Path(wire.RouteWaitpointClose, string(a.ExecutionID), string(a.WaitpointID))
		_, err := b.do(ctx, post(op, path, wire.NewOperatorCloseWaitpointRequest(a)).idempotent(), &r)
		return r.Outcome, err
	}
	index, err := b.attemptIndex(ctx, a.ExecutionID, a.Fence)
	if err != nil {
		return "", err
	}
	path := wire.Path(wire.RouteAttemptWaitpointClose, string(a.ExecutionID), strconv.FormatUint(uint64(index), 10), string(a.WaitpointID))
	_, err = b.do(ctx, post(op, path, wire.NewCloseWaitpointRequest(a)).idempotent(), &r)
	return r.Outcome, err
}

// ListPendingWaitpoints returns one page of open waitpoints, without tokens.
func (b *Backend) ListPendingWaitpoints(ctx context.Context, a flowfabric.ListPendingWaitpointsArgs) (flowfabric.ListPendingWaitpointsResult, error) {
	if _, err := rules.ValidateListWaitpoints(a); err != nil {
		return flowfabric.ListPendingWaitpointsResult{}, err
	}
	q := wire.ListWaitpointsQuery(a)
	c := get("list_pending_waitpoints", wire.Path(wire.RouteExecutionWaitpoints, string(a.ExecutionID)), q)
	var p wire.Page[flowfabric.Waitpoint]
	if _, err := b.do(ctx, c, &p); err != nil {
		return flowfabric.ListPendingWaitpointsResult{}, err
	}
	r, err := wire.WaitpointsResult(a.ExecutionID, q, p)
	if err != nil {
		return flowfabric.ListPendingWaitpointsResult{}, c.fault("the answer's cursor can't be read").Wrap(err)
	}
	return r, nil
}

// ReadWaitpointToken returns the zero token when the server shows none.
func (b *Backend) ReadWaitpointToken(ctx context.Context, id flowfabric.ExecutionID, waitpoint flowfabric.WaitpointID) (flowfabric.WaitpointToken, error) {
	if err := checkID(id); err != nil {
		return flowfabric.WaitpointToken{}, err
	}
	if err := flowfabric.ValidateUUID("waitpoint_id", string(waitpoint)); err != nil {
		return flowfabric.WaitpointToken{}, err
	}
	var r wire.TokenResponse
	_, err := b.do(ctx, get("read_waitpoint_token", wire.Path(wire.RouteWaitpointToken, string(id), string(waitpoint)), nil), &r)
	if isCode(err, flowfabric.CodeWaitpointNotFound) {
		return flowfabric.WaitpointToken{}, nil
	}
	return r.Result(), err
}
