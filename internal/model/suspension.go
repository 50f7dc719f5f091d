package model

import (
	"cmp"
	"context"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/rules"
)

// Suspend gives a lease up and waits, or finds the condition satisfied already.
func (m *Store) Suspend(ctx context.Context, a flowfabric.SuspendArgs) (res flowfabric.SuspendResult, err error) {
	a, err = rules.PrepareSuspend(a)
	if err != nil {
		return res, err
	}
	if err := rules.ValidateExecutionID(a.ExecutionID, m.cfg.Partitions); err != nil {
		return res, err
	}
	err = m.do(ctx, func(now flowfabric.Millis) (err error) {
		e := m.execs[a.ExecutionID]
		if e == nil {
			return notFound(a.ExecutionID)
		}
		key := replayKey{a.Fence.LeaseID, a.IdempotencyKey}
		if first, there := e.waits.replays[key]; there && a.IdempotencyKey != "" && first.until > now {
			res = first.result
			res.Replayed = true
			return nil
		}
		in := rules.SuspendInput{Args: a, Ring: m.ring}
		for i := range a.Waitpoints {
			in.Stored = append(in.Stored, m.stored(a.ExecutionID.Partition(), a.Waitpoints[i].WaitpointID))
		}
		var fx rules.Effects
		res, fx, err = rules.Suspend(e.st, in, now)
		m.keep(e, &fx, now)
		if err != nil {
			return err
		}
		x := e.st.Wait.Suspension
		if res.Outcome == flowfabric.SuspendAlreadySatisfied {
			res.Signals = e.waits.observed(x.SatisfierSignalIDs)
		}
		if a.IdempotencyKey != "" {
			e.waits.replays[key] = suspendReplay{result: res, until: now + flowfabric.Millis(rules.SuspendReplayTTL(x.TimeoutAt, now))}
		}
		return nil
	})
	return res, err
}

// ResumeExecution ends a suspension whatever its condition.
func (m *Store) ResumeExecution(ctx context.Context, a flowfabric.ResumeExecutionArgs) (flowfabric.ResumeExecutionResult, error) {
	a, invalid := rules.PrepareResume(a)
	return answer(ctx, m, a.ExecutionID, invalid, func(st *rules.State, now flowfabric.Millis) (flowfabric.ResumeExecutionResult, rules.Effects, error) {
		return rules.ResumeExecution(st, a, now)
	})
}

// GetSuspension returns the current or last suspension.
func (m *Store) GetSuspension(ctx context.Context, id flowfabric.ExecutionID) (x *flowfabric.Suspension, err error) {
	err = m.found(ctx, id, func(e *entry) error {
		if e.st.Wait != nil {
			x = rules.ShowSuspension(e.st.Wait.Suspension)
		}
		return nil
	})
	return x, err
}

// ListSuspended pages over the suspended executions, partition by partition.
func (m *Store) ListSuspended(ctx context.Context, a flowfabric.ListSuspendedArgs) (res flowfabric.ListSuspendedResult, err error) {
	limit, err := rules.ValidateListSuspended(a, m.cfg.Partitions)
	if err != nil {
		return res, err
	}
	var after struct {
		part int
		at   flowfabric.Millis
		id   string
	}
	if a.Cursor != "" && !parseCursor(a.Cursor, &after.part, &after.at, &after.id) {
		return res, flowfabric.NewError(flowfabric.CodeInvalidCursor, "malformed cursor")
	}
	if a.Cursor != "" && a.Partition != nil && after.part != int(*a.Partition) {
		return res, flowfabric.NewError(flowfabric.CodeInvalidCursor, "the cursor is not one of this list")
	}
	res.Executions = []flowfabric.SuspendedExecution{}
	err = m.do(ctx, func(flowfabric.Millis) error {
		held := m.all(func(e *entry) bool {
			x := &e.st.Exec
			return x.LifecyclePhase == flowfabric.PhaseSuspended && visible(x.Namespace, a.Namespace, a.Namespaces) &&
				(a.Partition == nil || x.ExecutionID.Partition() == *a.Partition)
		}, bySuspension)
		for _, e := range held {
			x, id := e.st.Wait.Suspension, e.st.Exec.ExecutionID
			at := lastOf(x.TimeoutAt)
			if a.Cursor != "" && cmp.Or(cmp.Compare(int(id.Partition()), after.part), cmp.Compare(at, after.at), cmp.Compare(string(id), after.id)) <= 0 {
				continue
			}
			if len(res.Executions) == limit {
				last := res.Executions[limit-1]
				res.NextCursor = cursor(last.ExecutionID.Partition(), lastOf(last.TimeoutAt), last.ExecutionID)
				return nil
			}
			res.Executions = append(res.Executions, flowfabric.SuspendedExecution{ExecutionID: id, SuspendedAt: x.CreatedAt,
				TimeoutAt: x.TimeoutAt, ReasonCode: x.ReasonCode})
		}
		return nil
	})
	return res, err
}

// bySuspension orders suspended executions by partition, timeout and id.
func bySuspension(a, b *entry) int {
	x, y := a.st.Exec.ExecutionID, b.st.Exec.ExecutionID
	return cmp.Or(cmp.Compare(x.Partition(), y.Partition()),
		cmp.Compare(lastOf(a.st.Wait.Suspension.TimeoutAt), lastOf(b.st.Wait.Suspension.TimeoutAt)), cmp.Compare(x, y))
}

// lastOf puts "no timeout" behind every instant.
func lastOf(at flowfabric.Millis) flowfabric.Millis {
	if at == 0 {
		return flowfabric.MaxInstant + 1
	}
	return at
}

// ExpireSuspension applies a suspension's timeout if it has come.
func (m *Store) ExpireSuspension(ctx context.Context, id flowfabric.ExecutionID) (flowfabric.ExpireSuspensionResult, error) {
	res, err := answer(ctx, m, id, nil, func(st *rules.State, now flowfabric.Millis) (flowfabric.ExpireSuspensionResult, rules.Effects, error) {
		res, fx := rules.ExpireSuspension(st, now)
		return res, fx, nil
	})
	if flowfabric.CodeOf(err) == flowfabric.CodeExecutionNotFound {
		return flowfabric.ExpireSuspensionResult{Outcome: flowfabric.SuspensionTimeoutNotApplied, Reason: string(flowfabric.CodeExecutionNotFound)}, nil
	}
	return res, err
}

// SuspendForBudget suspends an active execution whose budget is spent.
func (m *Store) SuspendForBudget(ctx context.Context, a flowfabric.SuspendForBudgetArgs) (bool, error) {
	if a.SuspensionID == "" {
		a.SuspensionID = flowfabric.NewSuspensionID()
	}
	return answer(ctx, m, a.ExecutionID, nil, func(st *rules.State, now flowfabric.Millis) (bool, rules.Effects, error) {
		done, fx := rules.SuspendForBudget(st, a, now)
		return done, fx, nil
	})
}
