package model

import (
	"context"
	"maps"
	"slices"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/rules"
)

func laneNotFound(id flowfabric.LaneID) error {
	return flowfabric.NewError(flowfabric.CodeLaneNotFound, "lane %q is unknown", id)
}

// laneFor returns a lane, making it when it is named for the first time.
func (m *Store) laneFor(id flowfabric.LaneID, now flowfabric.Millis) (*flowfabric.Lane, error) {
	if l := m.lanes[id]; l != nil {
		return l, nil
	}
	if m.cfg.StrictLanes {
		return nil, laneNotFound(id)
	}
	l := rules.NewLane(id, now)
	m.lanes[id] = &l
	return &l, nil
}

// DeclareLanes makes lanes that do not exist yet.
func (m *Store) DeclareLanes(ctx context.Context, lanes []flowfabric.LaneID) error {
	for _, id := range lanes {
		if err := id.Validate(); err != nil {
			return err
		}
	}
	return m.do(ctx, func(now flowfabric.Millis) error {
		for _, id := range lanes {
			if m.lanes[id] == nil {
				l := rules.NewLane(id, now)
				m.lanes[id] = &l
			}
		}
		return nil
	})
}

// status counts what can be counted in a lane.
func (m *Store) status(l *flowfabric.Lane, now flowfabric.Millis) flowfabric.LaneStatus {
	st := flowfabric.LaneStatus{Lane: *l, Counts: make(map[flowfabric.PublicState]int64)}
	for _, p := range flowfabric.PublicStates() {
		st.Counts[p] = 0
	}
	live := int64(0)
	for _, e := range m.execs {
		x := &e.st.Exec
		if x.LaneID != l.LaneID {
			continue
		}
		st.Counts[x.PublicState]++
		if !x.PublicState.Terminal() {
			live++
		}
		if rules.Place(e.st, now).Offered && (st.OldestEligibleAt == 0 || x.CreatedAt < st.OldestEligibleAt) {
			st.OldestEligibleAt = x.CreatedAt
		}
	}
	st.Drained = l.State == flowfabric.LaneDraining && live == 0
	return st
}

// GetLane returns a lane with its counts.
func (m *Store) GetLane(ctx context.Context, id flowfabric.LaneID) (st flowfabric.LaneStatus, err error) {
	if err := id.Validate(); err != nil {
		return st, err
	}
	err = m.do(ctx, func(now flowfabric.Millis) error {
		l := m.lanes[id]
		if l == nil {
			return laneNotFound(id)
		}
		st = m.status(l, now)
		return nil
	})
	return st, err
}

// ListLanes returns lanes ordered by id.
func (m *Store) ListLanes(ctx context.Context, a flowfabric.ListLanesArgs) (res flowfabric.ListLanesResult, err error) {
	limit, err := limitOf(a.Limit, flowfabric.DefaultListLimit, flowfabric.MaxListLimit)
	if err != nil {
		return res, err
	}
	res.Lanes = []flowfabric.LaneStatus{}
	err = m.do(ctx, func(now flowfabric.Millis) error {
		for _, id := range slices.Sorted(maps.Keys(m.lanes)) {
			if id <= a.After {
				continue
			}
			if len(res.Lanes) == limit {
				res.More = true
				return nil
			}
			res.Lanes = append(res.Lanes, m.status(m.lanes[id], now))
		}
		return nil
	})
	return res, err
}

// UpdateLane changes a lane's settings.
func (m *Store) UpdateLane(ctx context.Context, a flowfabric.UpdateLaneArgs) (out flowfabric.Lane, err error) {
	if err := rules.ValidateUpdateLane(a); err != nil {
		return out, err
	}
	err = m.do(ctx, func(now flowfabric.Millis) error {
		l := m.lanes[a.LaneID]
		if l == nil {
			if a.ExpectedRevision != nil || m.cfg.StrictLanes {
				return laneNotFound(a.LaneID)
			}
			fresh := rules.NewLane(a.LaneID, now)
			l = &fresh
		}
		if out, err = rules.UpdateLane(*l, a, now); err != nil {
			return err
		}
		kept := out
		m.lanes[a.LaneID] = &kept
		m.wakeLane(a.LaneID)
		return nil
	})
	if err != nil {
		return flowfabric.Lane{}, err
	}
	return out, nil
}

func (m *Store) wakeLane(id flowfabric.LaneID) {
	m.wake = append(m.wake, flowfabric.WakeEvent{Kind: flowfabric.WakeLane, LaneID: id, Count: 1})
}

// SetLaneState moves a lane to another state, and its members with it.
func (m *Store) SetLaneState(ctx context.Context, a flowfabric.SetLaneStateArgs) (out flowfabric.SetLaneStateResult, err error) {
	if err := rules.ValidateSetLaneState(a); err != nil {
		return out, err
	}
	err = m.do(ctx, func(now flowfabric.Millis) error {
		l := m.lanes[a.LaneID]
		if l == nil {
			if m.cfg.StrictLanes {
				return laneNotFound(a.LaneID)
			}
			fresh := rules.NewLane(a.LaneID, now)
			l = &fresh
		}
		next, unchanged, err := rules.SetLaneState(*l, a, now)
		if err != nil {
			return err
		}
		out = flowfabric.SetLaneStateResult{Lane: next, Unchanged: unchanged}
		m.lanes[a.LaneID] = &next
		if !unchanged {
			m.wakeLane(a.LaneID)
			m.sweepLane(a.LaneID, now)
		}
		return nil
	})
	return out, err
}

// sweepLane moves the members of a lane to where its state wants them.
func (m *Store) sweepLane(id flowfabric.LaneID, now flowfabric.Millis) (moved int) {
	disabled := m.laneOpen(id) != nil
	for _, e := range m.all(func(e *entry) bool { return e.st.Exec.LaneID == id }, byClaim) {
		var fx rules.Effects
		if disabled {
			fx = rules.BlockForLane(e.st, now)
		} else {
			fx = rules.UnblockForLane(e.st, now)
		}
		if fx.Changed {
			m.keep(e, &fx, now)
			moved++
		}
	}
	return moved
}

// DeleteLane removes a disabled lane without non-terminal executions.
func (m *Store) DeleteLane(ctx context.Context, id flowfabric.LaneID) (gone bool, err error) {
	if err := id.Validate(); err != nil {
		return false, err
	}
	err = m.do(ctx, func(now flowfabric.Millis) error {
		l := m.lanes[id]
		if l == nil {
			return nil
		}
		live := int64(0)
		for p, n := range m.status(l, now).Counts {
			if !p.Terminal() {
				live += n
			}
		}
		if l.State != flowfabric.LaneDisabled || live > 0 {
			return flowfabric.NewError(flowfabric.CodeLaneNotEmpty, "lane %q is %s with %d live executions", id, l.State, live).
				With("state", string(l.State)).With("live", live)
		}
		delete(m.lanes, id)
		m.wakeLane(id)
		gone = true
		return nil
	})
	return gone, err
}

// LaneWeights returns all lanes.
func (m *Store) LaneWeights(ctx context.Context) (map[flowfabric.LaneID]flowfabric.Lane, error) {
	out := make(map[flowfabric.LaneID]flowfabric.Lane)
	err := m.do(ctx, func(flowfabric.Millis) error {
		for id, l := range m.lanes {
			out[id] = *l
		}
		return nil
	})
	return out, err
}
