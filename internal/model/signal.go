package model

import (
	"context"
	"slices"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/rules"
)

// DeliverSignal authenticates, records and evaluates a signal.
func (m *Store) DeliverSignal(ctx context.Context, a flowfabric.DeliverSignalArgs) (flowfabric.DeliverSignalResult, error) {
	a, err := rules.PrepareDeliver(a)
	if err != nil {
		return flowfabric.DeliverSignalResult{}, err
	}
	return m.deliver(ctx, rules.DeliverInput{Args: a})
}

// DeliverApprovalSignal delivers an operator's decision.
func (m *Store) DeliverApprovalSignal(ctx context.Context, a flowfabric.DeliverApprovalSignalArgs) (flowfabric.DeliverSignalResult, error) {
	d, err := rules.PrepareApproval(a)
	if err != nil {
		return flowfabric.DeliverSignalResult{}, err
	}
	return m.deliver(ctx, rules.DeliverInput{Args: d, Approval: true, LaneID: a.LaneID})
}

func (m *Store) deliver(ctx context.Context, in rules.DeliverInput) (res flowfabric.DeliverSignalResult, err error) {
	id, g := in.Args.ExecutionID, &in.Args.Signal
	if err := rules.ValidateExecutionID(id, m.cfg.Partitions); err != nil {
		return res, err
	}
	err = m.do(ctx, func(now flowfabric.Millis) (err error) {
		in.Ring = m.ring
		in.Target = m.stored(id.Partition(), in.Args.WaitpointID)
		e := m.execs[id]
		if e == nil {
			res, _, err = rules.DeliverSignal(nil, in, now)
			return err
		}
		key := dedupKey{in.Args.WaitpointID, g.IdempotencyKey}
		in.Same = e.waits.signal(g.SignalID)
		if first, there := e.waits.dedup[key]; there && g.IdempotencyKey != "" && first.until > now {
			in.Dedup = e.waits.signal(first.signal)
		}
		var fx rules.Effects
		res, fx, err = rules.DeliverSignal(e.st, in, now)
		m.keep(e, &fx, now)
		if err == nil && res.Outcome == flowfabric.DeliverAccepted && g.IdempotencyKey != "" {
			e.waits.dedup[key] = dedupEntry{g.SignalID, now + flowfabric.Millis(g.DedupTTLMs)}
		}
		return err
	})
	return res, err
}

// ObserveSignals returns the signals that ended the attempt's last suspension.
func (m *Store) ObserveSignals(ctx context.Context, a flowfabric.ObserveSignalsArgs) (out []flowfabric.ResumeSignal, err error) {
	if err := rules.ValidateObserveSignals(a); err != nil {
		return nil, err
	}
	out = []flowfabric.ResumeSignal{}
	err = m.found(ctx, a.ExecutionID, func(e *entry) error {
		ids, err := rules.ResumeSignalIDs(e.st, a.AttemptID)
		if err == nil {
			out = slices.Concat(out, e.waits.observed(ids))
		}
		return err
	})
	return out, err
}

// ListSignals pages over the recorded signals, without payloads.
func (m *Store) ListSignals(ctx context.Context, a flowfabric.ListSignalsArgs) (res flowfabric.ListSignalsResult, err error) {
	limit, err := rules.ValidateListSignals(a)
	if err != nil {
		return res, err
	}
	res.Signals = []flowfabric.RecordedSignal{}
	err = m.found(ctx, a.ExecutionID, func(e *entry) error {
		for _, g := range e.waits.signals {
			if g.Seq <= a.After || a.WaitpointID != "" && g.WaitpointID != a.WaitpointID || a.UnconsumedOnly && g.ConsumedAt != 0 {
				continue
			}
			if len(res.Signals) == limit {
				res.Next = res.Signals[limit-1].Seq
				return nil
			}
			g.Payload = nil
			res.Signals = append(res.Signals, g)
		}
		return nil
	})
	return res, err
}

// GetSignal returns a signal with its payload.
func (m *Store) GetSignal(ctx context.Context, id flowfabric.ExecutionID, signal flowfabric.SignalID) (out *flowfabric.RecordedSignal, err error) {
	err = m.found(ctx, id, func(e *entry) error {
		g := e.waits.signal(signal)
		if g == nil {
			return flowfabric.NewError(flowfabric.CodeSignalNotFound, "the execution has no signal %s", signal)
		}
		found := *g
		found.Payload = slices.Clone(g.Payload)
		out = &found
		return nil
	})
	return out, err
}
