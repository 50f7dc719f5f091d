package remote

import (
	"context"
	"strconv"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/rules"
	"github.com/flowfabric/flowfabric/internal/wire"
)

// GetAttempt returns an attempt with its usage, else attempt_not_found.
func (b *Backend) GetAttempt(ctx context.Context, id flowfabric.ExecutionID, index uint32) (*flowfabric.Attempt, error) {
	if err := checkID(id); err != nil {
		return nil, err
	}
	return b.attempt(ctx, get("get_attempt", attemptPath(wire.RouteAttempt, id, index), nil))
}

// GetCurrentAttempt returns the attempt of the highest index, else
// no_attempts_exist.
func (b *Backend) GetCurrentAttempt(ctx context.Context, id flowfabric.ExecutionID) (*flowfabric.Attempt, error) {
	if err := checkID(id); err != nil {
		return nil, err
	}
	return b.attempt(ctx, get("get_current_attempt", wire.Path(wire.RouteExecutionCurrent, string(id)), nil))
}

func (b *Backend) attempt(ctx context.Context, c call) (*flowfabric.Attempt, error) {
	var r wire.Attempt
	if _, err := b.do(ctx, c, &r); err != nil {
		return nil, err
	}
	a := r.Record()
	return &a, nil
}

// ListAttempts returns one page, ascending by index.
func (b *Backend) ListAttempts(ctx context.Context, a flowfabric.ListAttemptsArgs) (flowfabric.ListAttemptsResult, error) {
	if err := checkID(a.ExecutionID); err != nil {
		return flowfabric.ListAttemptsResult{}, err
	}
	if err := rules.ValidateListAttempts(&a); err != nil {
		return flowfabric.ListAttemptsResult{}, err
	}
	c := get("list_attempts", wire.Path(wire.RouteExecutionAttempts, string(a.ExecutionID)), wire.ListAttemptsQuery(a))
	var p wire.Page[wire.Attempt]
	if _, err := b.do(ctx, c, &p); err != nil {
		return flowfabric.ListAttemptsResult{}, err
	}
	r, err := wire.AttemptsResult(a.ExecutionID, p)
	if err != nil {
		return flowfabric.ListAttemptsResult{}, c.fault("the answer's cursor can't be read").Wrap(err)
	}
	return r, nil
}

func attemptPath(route string, id flowfabric.ExecutionID, index uint32) string {
	return wire.Path(route, string(id), strconv.FormatUint(uint64(index), 10))
}

// attemptOf is the path of a call on the attempt a fence belongs to. A fence that
// does not tell its index is taken to name the latest attempt; the server checks
// the rest of it.
func (b *Backend) attemptOf(ctx context.Context, route string, id flowfabric.ExecutionID, f flowfabric.Fence) (string, error) {
	if f.AttemptIndex != nil {
		return attemptPath(route, id, *f.AttemptIndex), nil
	}
	s, err := b.snapshot(ctx, "describe_execution", id)
	if err != nil {
		return "", err
	}
	return attemptPath(route, id, max(s.TotalAttemptCount, 1)-1), nil
}
