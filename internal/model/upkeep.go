package model

import (
	"cmp"
	"context"
	"maps"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/rules"
)

const tickLimit = 200

// MarkLeaseExpiredIfDue makes a lapse visible.
func (m *Store) MarkLeaseExpiredIfDue(ctx context.Context, id flowfabric.ExecutionID) (flowfabric.MarkLeaseExpiredResult, error) {
	res, err := answer(ctx, m, id, nil, func(st *rules.State, now flowfabric.Millis) (flowfabric.MarkLeaseExpiredResult, rules.Effects, error) {
		res, fx := rules.MarkLeaseExpired(st, now)
		return res, fx, nil
	})
	if flowfabric.CodeOf(err) == flowfabric.CodeExecutionNotFound {
		return flowfabric.MarkLeaseExpiredResult{Outcome: flowfabric.UpkeepAlreadySatisfied, Reason: string(flowfabric.CodeExecutionNotFound)}, nil
	}
	return res, err
}

// PromoteDelayed makes a delayed execution eligible when its time has come.
func (m *Store) PromoteDelayed(ctx context.Context, id flowfabric.ExecutionID) (flowfabric.UpkeepOutcome, error) {
	return m.duty(ctx, id, rules.PromoteDelayed)
}

// ExpireExecution acts on a passed attempt timeout or execution deadline.
func (m *Store) ExpireExecution(ctx context.Context, id flowfabric.ExecutionID, reason flowfabric.ExpireReason) (flowfabric.UpkeepOutcome, error) {
	return m.duty(ctx, id, func(st *rules.State, now flowfabric.Millis) (flowfabric.UpkeepOutcome, rules.Effects) {
		return rules.Expire(st, reason, now, m.cfg.Rand)
	})
}

func (m *Store) duty(ctx context.Context, id flowfabric.ExecutionID, rule func(*rules.State, flowfabric.Millis) (flowfabric.UpkeepOutcome, rules.Effects)) (flowfabric.UpkeepOutcome, error) {
	out, err := answer(ctx, m, id, nil, func(st *rules.State, now flowfabric.Millis) (flowfabric.UpkeepOutcome, rules.Effects, error) {
		out, fx := rule(st, now)
		return out, fx, nil
	})
	if flowfabric.CodeOf(err) == flowfabric.CodeExecutionNotFound {
		return flowfabric.UpkeepCleaned, nil
	}
	return out, err
}

// Purge deletes an ended execution whose retention has passed.
func (m *Store) Purge(ctx context.Context, id flowfabric.ExecutionID) (out flowfabric.UpkeepOutcome, err error) {
	err = m.read(ctx, id, func(e *entry) error {
		switch {
		case e == nil:
			out = flowfabric.UpkeepCleaned
		case !rules.Purgeable(e.st, m.cfg.Clock()):
			out = flowfabric.UpkeepNotYetDue
		default:
			out = flowfabric.UpkeepPurged
			delete(m.execs, id)
		}
		return nil
	})
	return out, err
}

// Tick acts on what is due, in order of due time.
func (m *Store) Tick(ctx context.Context, a flowfabric.TickArgs) (res flowfabric.TickResult, err error) {
	limit := a.Limit
	if limit <= 0 {
		limit = tickLimit
	}
	res.Duties = make(map[string]int)
	err = m.do(ctx, func(now flowfabric.Millis) error {
		dueAt := func(e *entry) flowfabric.Millis { return rules.Place(e.st, now).DueAt }
		due := m.all(func(e *entry) bool { return dueAt(e) != 0 && dueAt(e) <= now }, func(a, b *entry) int {
			return cmp.Or(cmp.Compare(dueAt(a), dueAt(b)), byID(a, b))
		})
		res.More = len(due) >= limit
		for _, e := range due[:min(limit, len(due))] {
			res.Examined++
			m.runDuties(e, &res, now)
		}
		for _, e := range m.execs {
			if at := dueAt(e); at != 0 && (res.NextDue == 0 || at < res.NextDue) {
				res.NextDue = at
			}
		}
		return nil
	})
	return res, err
}

// runDuties applies what is due of one execution, each on what the former left.
func (m *Store) runDuties(e *entry, res *flowfabric.TickResult, now flowfabric.Millis) {
	for {
		d := rules.NextDuty(e.st, now)
		if d == rules.DutyNone {
			return
		}
		if d == rules.DutyRetention {
			delete(m.execs, e.st.Exec.ExecutionID)
			res.Duties[string(d)]++
			return
		}
		fx := rules.RunDuty(e.st, d, now, m.cfg.Rand)
		if !fx.Changed {
			res.Errors++
			return
		}
		m.keep(e, &fx, now)
		res.Duties[string(d)]++
	}
}

// Reconcile finds nothing to repair: the model has no indexes. Records that
// break a validity rule are reported.
func (m *Store) Reconcile(ctx context.Context, a flowfabric.ReconcileArgs) (res flowfabric.ReconcileResult, err error) {
	if int(a.Partition) >= m.cfg.Partitions.NumFlowPartitions {
		return res, flowfabric.InvalidInput("partition", "is %d, the deployment has %d", a.Partition, m.cfg.Partitions.NumFlowPartitions)
	}
	limit := a.Limit
	if limit <= 0 {
		limit = 100
	}
	err = m.do(ctx, func(flowfabric.Millis) error {
		members := m.all(func(e *entry) bool {
			id := e.st.Exec.ExecutionID
			return id.Partition() == a.Partition && id > a.Cursor
		}, byID)
		for _, e := range members {
			if res.Examined == limit {
				res.Next = members[limit-1].st.Exec.ExecutionID
				return nil
			}
			res.Examined++
			if err := rules.Check(e.st); err != nil {
				res.Violations = append(res.Violations, string(e.st.Exec.ExecutionID)+": "+err.Error())
			}
		}
		return nil
	})
	return res, err
}

// SweepRouteLabels compares the labels of all non-empty buckets with the
// registry, in both directions.
func (m *Store) SweepRouteLabels(ctx context.Context) (res flowfabric.SweepResult, err error) {
	err = m.do(ctx, func(now flowfabric.Millis) error {
		for b := range maps.Clone(m.labels) {
			if m.labels[b].UncoveredSince != 0 && m.coveredByAny(b, now) {
				m.lift(b, now)
				res.Rows++
			}
		}
		for lane := range m.named {
			for b := range m.offeredIn(lane, now) {
				if m.labels[b].UncoveredSince == 0 && m.uncovered(b, now) {
					res.Rows++
				}
			}
		}
		return nil
	})
	return res, err
}

// SweepLanes moves members of lanes that were disabled or enabled.
func (m *Store) SweepLanes(ctx context.Context) (res flowfabric.SweepResult, err error) {
	err = m.do(ctx, func(now flowfabric.Millis) error {
		for id := range m.lanes {
			res.Rows += m.sweepLane(id, now)
		}
		return nil
	})
	return res, err
}

// SweepWorkers deletes registrations past their TTL.
func (m *Store) SweepWorkers(ctx context.Context) (res flowfabric.SweepResult, err error) {
	err = m.do(ctx, func(now flowfabric.Millis) error {
		for k, w := range m.workers {
			if !rules.Alive(w, now) {
				delete(m.workers, k)
				res.Rows++
			}
		}
		return nil
	})
	return res, err
}
