package model

import (
	"context"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/rules"
)

// CreatePendingWaitpoint makes an addressable waitpoint before a suspension.
func (m *Store) CreatePendingWaitpoint(ctx context.Context, a flowfabric.CreatePendingWaitpointArgs) (flowfabric.PendingWaitpoint, error) {
	a, invalid := rules.PrepareCreateWaitpoint(a)
	return answer(ctx, m, a.ExecutionID, invalid, func(st *rules.State, now flowfabric.Millis) (flowfabric.PendingWaitpoint, rules.Effects, error) {
		return rules.CreatePendingWaitpoint(st, a, m.stored(a.ExecutionID.Partition(), a.WaitpointID), m.ring, now)
	})
}

// CloseWaitpoint closes a pending waitpoint.
func (m *Store) CloseWaitpoint(ctx context.Context, a flowfabric.CloseWaitpointArgs) (flowfabric.CloseWaitpointOutcome, error) {
	a, invalid := rules.PrepareCloseWaitpoint(a)
	return answer(ctx, m, a.ExecutionID, invalid, func(st *rules.State, now flowfabric.Millis) (flowfabric.CloseWaitpointOutcome, rules.Effects, error) {
		return rules.CloseWaitpoint(st, a, m.stored(a.ExecutionID.Partition(), a.WaitpointID), now)
	})
}

// ListPendingWaitpoints lists pending and active waitpoints without tokens.
func (m *Store) ListPendingWaitpoints(ctx context.Context, a flowfabric.ListPendingWaitpointsArgs) (res flowfabric.ListPendingWaitpointsResult, err error) {
	limit, err := rules.ValidateListWaitpoints(a)
	if err != nil {
		return res, err
	}
	res.Waitpoints = []flowfabric.Waitpoint{}
	err = m.found(ctx, a.ExecutionID, func(e *entry) error {
		for _, id := range e.waits.ordered() {
			p := e.waits.waitpoints[id]
			if id <= a.After || p.State != flowfabric.WaitpointPending && p.State != flowfabric.WaitpointActive {
				continue
			}
			if len(res.Waitpoints) == limit {
				res.NextCursor = res.Waitpoints[limit-1].WaitpointID
				return nil
			}
			res.Waitpoints = append(res.Waitpoints, rules.ShowWaitpoint(a.ExecutionID, &p, e.st.Wait.Suspension))
		}
		return nil
	})
	return res, err
}

// ReadWaitpointToken returns the token of an open waitpoint.
func (m *Store) ReadWaitpointToken(ctx context.Context, id flowfabric.ExecutionID, waitpoint flowfabric.WaitpointID) (t flowfabric.WaitpointToken, err error) {
	err = m.read(ctx, id, func(e *entry) error {
		if e == nil {
			return nil
		}
		if p, there := e.waits.waitpoints[waitpoint]; there && !p.State.Final() {
			t = p.Token
		}
		return nil
	})
	return t, err
}
