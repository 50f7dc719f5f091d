package model

import (
	"context"
	"maps"
	"slices"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/rules"
)

// CreateExecutions creates a batch, each item on its own.
func (m *Store) CreateExecutions(ctx context.Context, items []flowfabric.CreateExecutionArgs) ([]flowfabric.Item[flowfabric.CreateExecutionResult], error) {
	if err := checkBatch(ctx, len(items)); err != nil {
		return nil, err
	}
	out := make([]flowfabric.Item[flowfabric.CreateExecutionResult], len(items))
	for i := range items {
		out[i].Err = m.do(ctx, func(now flowfabric.Millis) (err error) {
			out[i].Result, err = m.create(items[i], now)
			return err
		})
	}
	return out, nil
}

func (m *Store) create(a flowfabric.CreateExecutionArgs, now flowfabric.Millis) (res flowfabric.CreateExecutionResult, err error) {
	var laneDefault []byte
	if l := m.lanes[a.LaneID]; l != nil {
		laneDefault = l.DefaultPolicy
	}
	p, err := rules.PrepareCreate(a, m.cfg.Partitions, laneDefault)
	if err != nil {
		return res, err
	}
	key := idempotencyKey{p.Args.Namespace, p.Args.IdempotencyKey}
	reserve := key.key != "" && p.DedupWindowMs > 0
	if held, ok := m.keys[key]; reserve && ok && now < held.until {
		if err := p.Adopt(held.id, m.cfg.Partitions); err != nil {
			return res, err
		}
		reserve = false
	}
	id := p.State.Exec.ExecutionID
	bind := func() {
		if reserve {
			m.keys[key] = reservation{id, now + flowfabric.Millis(p.DedupWindowMs)}
		}
	}
	if e := m.execs[id]; e != nil {
		bind()
		return flowfabric.CreateExecutionResult{Outcome: flowfabric.OutcomeDuplicate, ExecutionID: id,
			SameSpec: rules.SameSpec(p, e.st.Exec.SpecDigest)}, nil
	}
	lane, err := m.laneFor(p.Args.LaneID, now)
	if err != nil {
		return res, err
	}
	if err := rules.AdmitsCreate(*lane); err != nil {
		return res, err
	}
	bind()
	st, fx := rules.Create(p, now)
	st.Tags = maps.Clone(st.Tags)
	e := &entry{st: st, input: flowfabric.ExecutionInput{Payload: append([]byte{}, p.Args.Payload...), Encoding: p.Args.PayloadEncoding}}
	m.execs[id] = e
	m.keep(e, &fx, now)
	return flowfabric.CreateExecutionResult{Outcome: flowfabric.OutcomeCreated, ExecutionID: id, PublicState: st.Exec.PublicState}, nil
}

// CompleteExecutions ends a batch, each item on its own.
func (m *Store) CompleteExecutions(ctx context.Context, items []flowfabric.CompleteExecutionArgs) ([]flowfabric.Item[flowfabric.CompleteExecutionResult], error) {
	if err := checkBatch(ctx, len(items)); err != nil {
		return nil, err
	}
	out := make([]flowfabric.Item[flowfabric.CompleteExecutionResult], len(items))
	for i, a := range items {
		out[i].Result, out[i].Err = answer(ctx, m, a.ExecutionID, rules.ValidateComplete(a), func(st *rules.State, now flowfabric.Millis) (flowfabric.CompleteExecutionResult, rules.Effects, error) {
			return rules.Complete(st, a, now)
		})
	}
	return out, nil
}

// answer runs a rule with a result on one execution, once its input is known to
// be valid.
func answer[R any](ctx context.Context, m *Store, id flowfabric.ExecutionID, invalid error, rule func(*rules.State, flowfabric.Millis) (R, rules.Effects, error)) (res R, err error) {
	if invalid != nil {
		return res, invalid
	}
	err = m.change(ctx, id, func(st *rules.State, now flowfabric.Millis) (fx rules.Effects, err error) {
		res, fx, err = rule(st, now)
		return fx, err
	})
	return res, err
}

// FailExecution ends an attempt with a failure.
func (m *Store) FailExecution(ctx context.Context, a flowfabric.FailExecutionArgs) (flowfabric.FailExecutionResult, error) {
	return answer(ctx, m, a.ExecutionID, rules.ValidateFail(a), func(st *rules.State, now flowfabric.Millis) (flowfabric.FailExecutionResult, rules.Effects, error) {
		return rules.Fail(st, a, now, m.cfg.Rand)
	})
}

// CancelExecution ends an execution as cancelled.
func (m *Store) CancelExecution(ctx context.Context, a flowfabric.CancelExecutionArgs) (flowfabric.CancelExecutionResult, error) {
	return answer(ctx, m, a.ExecutionID, rules.ValidateCancel(a), func(st *rules.State, now flowfabric.Millis) (flowfabric.CancelExecutionResult, rules.Effects, error) {
		return rules.Cancel(st, a, now)
	})
}

// DelayExecution pauses an attempt until later.
func (m *Store) DelayExecution(ctx context.Context, a flowfabric.DelayExecutionArgs) (flowfabric.DelayExecutionResult, error) {
	return answer(ctx, m, a.ExecutionID, rules.ValidateDelay(a), func(st *rules.State, now flowfabric.Millis) (flowfabric.DelayExecutionResult, rules.Effects, error) {
		return rules.Delay(st, a, now)
	})
}

// ReplayExecution runs an ended execution again.
func (m *Store) ReplayExecution(ctx context.Context, a flowfabric.ReplayExecutionArgs) (flowfabric.ReplayExecutionResult, error) {
	return answer(ctx, m, a.ExecutionID, rules.ValidateReplay(a), func(st *rules.State, now flowfabric.Millis) (flowfabric.ReplayExecutionResult, rules.Effects, error) {
		return rules.Replay(st, a, now)
	})
}

// ChangePriority re-orders a waiting execution.
func (m *Store) ChangePriority(ctx context.Context, a flowfabric.ChangePriorityArgs) (flowfabric.ChangePriorityResult, error) {
	return answer(ctx, m, a.ExecutionID, rules.ValidateChangePriority(a), func(st *rules.State, now flowfabric.Millis) (flowfabric.ChangePriorityResult, rules.Effects, error) {
		return rules.ChangePriority(st, a, now)
	})
}

// UpdateProgress overwrites the progress of a running attempt.
func (m *Store) UpdateProgress(ctx context.Context, a flowfabric.UpdateProgressArgs) error {
	if err := rules.ValidateUpdateProgress(a); err != nil {
		return err
	}
	return m.change(ctx, a.ExecutionID, func(st *rules.State, now flowfabric.Millis) (rules.Effects, error) {
		return rules.UpdateProgress(st, a, now)
	})
}

// PauseExecution blocks a waiting execution for the operator.
func (m *Store) PauseExecution(ctx context.Context, a flowfabric.BlockExecutionArgs) (flowfabric.BlockExecutionResult, error) {
	return answer(ctx, m, a.ExecutionID, rules.ValidatePause(a), func(st *rules.State, now flowfabric.Millis) (flowfabric.BlockExecutionResult, rules.Effects, error) {
		return rules.Pause(st, a, now)
	})
}

// UnpauseExecution undoes PauseExecution.
func (m *Store) UnpauseExecution(ctx context.Context, a flowfabric.BlockExecutionArgs) (flowfabric.BlockExecutionResult, error) {
	return answer(ctx, m, a.ExecutionID, rules.ValidatePause(a), func(st *rules.State, now flowfabric.Millis) (flowfabric.BlockExecutionResult, rules.Effects, error) {
		return rules.Unpause(st, a, now)
	})
}

// SetExecutionTags upserts tags and returns how many pairs were given.
func (m *Store) SetExecutionTags(ctx context.Context, id flowfabric.ExecutionID, tags map[string]string) (int, error) {
	if err := rules.ValidateSetTags(tags); err != nil {
		return 0, err
	}
	err := m.change(ctx, id, func(st *rules.State, now flowfabric.Millis) (rules.Effects, error) {
		return rules.SetTags(st, tags, now)
	})
	if err != nil {
		return 0, err
	}
	return len(tags), nil
}

// RemoveExecutionTag reports whether the tag was there.
func (m *Store) RemoveExecutionTag(ctx context.Context, id flowfabric.ExecutionID, key string) (removed bool, err error) {
	if err := rules.ValidateTagKey(key); err != nil {
		return false, err
	}
	err = m.change(ctx, id, func(st *rules.State, now flowfabric.Millis) (fx rules.Effects, err error) {
		removed, fx, err = rules.RemoveTag(st, key, now)
		return fx, err
	})
	return removed, err
}

// GetExecutionTags returns the tags, an empty map when there is none.
func (m *Store) GetExecutionTags(ctx context.Context, id flowfabric.ExecutionID) (map[string]string, error) {
	tags := map[string]string{}
	err := m.read(ctx, id, func(e *entry) error {
		if e != nil {
			maps.Copy(tags, e.st.Tags)
		}
		return nil
	})
	return tags, err
}

// found is read for questions that fail without the execution.
func (m *Store) found(ctx context.Context, id flowfabric.ExecutionID, ask func(e *entry) error) error {
	return m.read(ctx, id, func(e *entry) error {
		if e == nil {
			return notFound(id)
		}
		return ask(e)
	})
}

// GetExecution returns the record.
func (m *Store) GetExecution(ctx context.Context, id flowfabric.ExecutionID) (x *flowfabric.Execution, err error) {
	err = m.found(ctx, id, func(e *entry) error {
		x = rules.Record(e.st, m.labels[bucketOf(e)])
		return nil
	})
	return x, err
}

// DescribeExecution returns a snapshot, nil when there is no execution.
func (m *Store) DescribeExecution(ctx context.Context, id flowfabric.ExecutionID) (s *flowfabric.ExecutionSnapshot, err error) {
	err = m.read(ctx, id, func(e *entry) error {
		if e != nil {
			s = rules.Describe(e.st, m.labels[bucketOf(e)])
		}
		return nil
	})
	return s, err
}

// GetExecutionState returns the public state.
func (m *Store) GetExecutionState(ctx context.Context, id flowfabric.ExecutionID) (p flowfabric.PublicState, err error) {
	err = m.found(ctx, id, func(e *entry) error {
		p = e.st.Exec.PublicState
		return nil
	})
	return p, err
}

// GetExecutionResult returns the stored result of a completed execution.
func (m *Store) GetExecutionResult(ctx context.Context, id flowfabric.ExecutionID) (res flowfabric.ExecutionResult, err error) {
	err = m.read(ctx, id, func(e *entry) error {
		if e != nil && e.st.Exec.PublicState == flowfabric.PublicCompleted && e.result.Present {
			res = e.result
			res.Payload = append([]byte{}, res.Payload...)
		}
		return nil
	})
	return res, err
}

// GetExecutionInput returns the input.
func (m *Store) GetExecutionInput(ctx context.Context, id flowfabric.ExecutionID) (in flowfabric.ExecutionInput, err error) {
	err = m.found(ctx, id, func(e *entry) error {
		in = e.input
		in.Payload = append([]byte{}, in.Payload...)
		return nil
	})
	return in, err
}

// GetExecutionPolicy returns the frozen policy.
func (m *Store) GetExecutionPolicy(ctx context.Context, id flowfabric.ExecutionID) (p *flowfabric.Policy, err error) {
	err = m.found(ctx, id, func(e *entry) error {
		p, err = flowfabric.ParsePolicy(e.st.Policy.JSON())
		return err
	})
	return p, err
}

// ReadExecutionContext returns what a worker needs beside its fence.
func (m *Store) ReadExecutionContext(ctx context.Context, id flowfabric.ExecutionID) (out flowfabric.ExecutionContext, err error) {
	err = m.found(ctx, id, func(e *entry) error {
		out = flowfabric.ExecutionContext{Payload: append([]byte{}, e.input.Payload...), PayloadEncoding: e.input.Encoding,
			Kind: e.st.Exec.Kind, Tags: map[string]string{}}
		maps.Copy(out.Tags, e.st.Tags)
		if a := e.st.Attempt; a != nil {
			snapshot := a.PolicySnapshot
			out.AttemptType, out.PolicySnapshot = a.AttemptType, &snapshot
		}
		return nil
	})
	return out, err
}

// ListExecutions lists one partition in identifier order.
func (m *Store) ListExecutions(ctx context.Context, a flowfabric.ListExecutionsArgs) (res flowfabric.ListExecutionsResult, err error) {
	if err := rules.ValidateListExecutions(&a, m.cfg.Partitions); err != nil {
		return res, err
	}
	res.Executions = []flowfabric.ExecutionSummary{}
	err = m.do(ctx, func(flowfabric.Millis) error {
		members := m.all(func(e *entry) bool {
			id := e.st.Exec.ExecutionID
			return id.Partition() == a.Partition && id > a.Cursor
		}, byID)
		for i, e := range members {
			if len(res.Executions) == a.Limit || i == flowfabric.MaxListExamined {
				res.NextCursor = members[i-1].st.Exec.ExecutionID
				return nil
			}
			x := &e.st.Exec
			if !listed(e, &a) {
				continue
			}
			res.Executions = append(res.Executions, flowfabric.ExecutionSummary{ExecutionID: x.ExecutionID, Namespace: x.Namespace,
				LaneID: x.LaneID, Kind: x.Kind, PublicState: x.PublicState, Priority: x.Priority, CreatedAt: x.CreatedAt})
		}
		return nil
	})
	return res, err
}

func listed(e *entry, a *flowfabric.ListExecutionsArgs) bool {
	x := &e.st.Exec
	if a.Namespace != "" && x.Namespace != a.Namespace || a.Namespaces != nil && !slices.Contains(a.Namespaces, x.Namespace) ||
		a.LaneID != "" && x.LaneID != a.LaneID || a.Kind != "" && x.Kind != a.Kind || a.FlowID != "" && x.FlowID != a.FlowID ||
		len(a.PublicStates) > 0 && !slices.Contains(a.PublicStates, x.PublicState) {
		return false
	}
	return hasTags(e.st.Tags, a.Tags)
}

func hasTags(have, want map[string]string) bool {
	for k, v := range want {
		if got, ok := have[k]; !ok || got != v {
			return false
		}
	}
	return true
}

// attempts returns all attempts of an execution, by index.
func (e *entry) attempts() []flowfabric.Attempt {
	out := slices.Clone(e.past)
	if e.st.Attempt != nil {
		out = append(out, *e.st.Attempt)
	}
	return out
}

// GetAttempt returns one attempt.
func (m *Store) GetAttempt(ctx context.Context, id flowfabric.ExecutionID, index uint32) (a *flowfabric.Attempt, err error) {
	err = m.found(ctx, id, func(e *entry) error {
		list := e.attempts()
		if int64(index) >= int64(len(list)) {
			return flowfabric.NewError(flowfabric.CodeAttemptNotFound, "%s has no attempt %d", id, index)
		}
		a = &list[index]
		return nil
	})
	return a, err
}

// GetCurrentAttempt returns the attempt of the highest index.
func (m *Store) GetCurrentAttempt(ctx context.Context, id flowfabric.ExecutionID) (a *flowfabric.Attempt, err error) {
	err = m.found(ctx, id, func(e *entry) error {
		list := e.attempts()
		if len(list) == 0 {
			return flowfabric.NewError(flowfabric.CodeNoAttemptsExist, "%s was never claimed", id)
		}
		a = &list[len(list)-1]
		return nil
	})
	return a, err
}

// ListAttempts returns attempts ascending by index.
func (m *Store) ListAttempts(ctx context.Context, a flowfabric.ListAttemptsArgs) (res flowfabric.ListAttemptsResult, err error) {
	if err := rules.ValidateListAttempts(&a); err != nil {
		return res, err
	}
	err = m.found(ctx, a.ExecutionID, func(e *entry) error {
		list := e.attempts()
		list = list[min(int(a.From), len(list)):]
		if len(list) > a.Limit {
			next := list[a.Limit].AttemptIndex
			list, res.Next = list[:a.Limit], &next
		}
		res.Attempts = append([]flowfabric.Attempt{}, list...)
		return nil
	})
	return res, err
}
