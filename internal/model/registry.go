package model

import (
	"cmp"
	"context"
	"iter"
	"maps"
	"slices"
	"strings"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/rules"
)

type workerKey struct {
	namespace flowfabric.Namespace
	instance  flowfabric.WorkerInstanceID
}

func split(s string) iter.Seq[string] { return strings.SplitSeq(s, ",") }

// RegisterWorker registers or refreshes a worker process.
func (m *Store) RegisterWorker(ctx context.Context, a flowfabric.RegisterWorkerArgs) (res flowfabric.RegisterWorkerResult, err error) {
	if err := rules.ValidateRegister(&a); err != nil {
		return res, err
	}
	err = m.do(ctx, func(now flowfabric.Millis) error {
		key := workerKey{a.Namespace, a.WorkerInstanceID}
		w, outcome, err := rules.Register(m.workers[key], a, now)
		if err != nil {
			return err
		}
		m.workers[key] = &w
		m.name(w.Lanes)
		m.liftFor(w, now)
		res = flowfabric.RegisterWorkerResult{Outcome: outcome, NextExpiryAt: w.ExpiresAt}
		return nil
	})
	return res, err
}

// registerImplicit counts a claim request as registration or heartbeat; what it
// mentions lifts labels, also beyond an explicit record.
func (m *Store) registerImplicit(a *flowfabric.ClaimCandidatesArgs, now flowfabric.Millis) error {
	ns := a.Namespace
	if ns == "" {
		ns = flowfabric.AnyNamespace
	}
	key := workerKey{ns, a.WorkerInstanceID}
	w, _, err := rules.RegisterImplicit(m.workers[key], ns, a.WorkerID, a.WorkerInstanceID, a.Lanes, a.Capabilities, a.WaitMs, now)
	if err != nil {
		return err
	}
	m.workers[key] = &w
	m.name(a.Lanes)
	asking := w
	asking.Lanes, asking.Capabilities, asking.ExpiresAt = slices.Sorted(slices.Values(a.Lanes)), a.Capabilities, now+1
	m.liftFor(asking, now)
	return nil
}

// name notes, for good, that a worker has named the lanes.
func (m *Store) name(lanes []flowfabric.LaneID) {
	for _, l := range lanes {
		m.named[l] = true
	}
}

// liftFor takes the labels off all buckets that one worker covers.
func (m *Store) liftFor(w flowfabric.WorkerRegistration, now flowfabric.Millis) {
	for b := range maps.Clone(m.labels) {
		if rules.Covers(w, b.lane, b.namespace, b.requirement(), now) {
			m.lift(b, now)
		}
	}
}

// coveredByAny reports whether one live worker covers the bucket alone.
func (m *Store) coveredByAny(b bucket, now flowfabric.Millis) bool {
	for _, w := range m.workers {
		if rules.Covers(*w, b.lane, b.namespace, b.requirement(), now) {
			return true
		}
	}
	return false
}

// registered is the capability set of an instance's live registration.
func (m *Store) registered(ns flowfabric.Namespace, instance flowfabric.WorkerInstanceID, now flowfabric.Millis) []string {
	for _, n := range []flowfabric.Namespace{ns, flowfabric.AnyNamespace} {
		if w := m.workers[workerKey{n, instance}]; rules.Alive(w, now) {
			return w.Capabilities
		}
	}
	return nil
}

// HeartbeatWorker keeps a live registration alive.
func (m *Store) HeartbeatWorker(ctx context.Context, a flowfabric.HeartbeatWorkerArgs) (res flowfabric.HeartbeatWorkerResult, err error) {
	if err := rules.ValidateHeartbeat(a); err != nil {
		return res, err
	}
	err = m.do(ctx, func(now flowfabric.Millis) error {
		key := workerKey{a.Namespace, a.WorkerInstanceID}
		w, out := rules.Heartbeat(m.workers[key], a, now)
		res = out
		if out.Registered {
			m.workers[key] = &w
		}
		return nil
	})
	return res, err
}

// MarkWorkerDead removes a registration and, when asked to, revokes what the
// instance holds.
func (m *Store) MarkWorkerDead(ctx context.Context, a flowfabric.MarkWorkerDeadArgs) (res flowfabric.MarkWorkerDeadResult, err error) {
	if err := rules.ValidateMarkWorkerDead(a); err != nil {
		return res, err
	}
	err = m.do(ctx, func(now flowfabric.Millis) error {
		key := workerKey{a.Namespace, a.WorkerInstanceID}
		res.Marked = rules.Alive(m.workers[key], now)
		delete(m.workers, key)
		if !a.RevokeLeases {
			return nil
		}
		reason := rules.Cut("worker_dead: "+a.Reason, flowfabric.MaxRevokeReasonBytes)
		held := m.all(func(e *entry) bool {
			return rules.Place(e.st, now).Holder == a.WorkerInstanceID && visible(e.st.Exec.Namespace, a.Namespace, nil)
		}, byPlace)
		for _, e := range held {
			got, fx, err := rules.Revoke(e.st, flowfabric.RevokeLeaseArgs{Reason: reason, RevokedBy: "reconciler"}, now)
			m.keep(e, &fx, now)
			if err != nil {
				return err
			}
			if got.Outcome == flowfabric.RevokeRevoked {
				res.RevokedLeases++
			}
		}
		return nil
	})
	return res, err
}

// DeregisterWorker is the worker's own form of MarkWorkerDead.
func (m *Store) DeregisterWorker(ctx context.Context, a flowfabric.MarkWorkerDeadArgs) (flowfabric.MarkWorkerDeadResult, error) {
	return m.MarkWorkerDead(ctx, a)
}

// GetWorker returns a live registration, nil when there is none.
func (m *Store) GetWorker(ctx context.Context, ns flowfabric.Namespace, instance flowfabric.WorkerInstanceID) (w *flowfabric.WorkerRegistration, err error) {
	if err := ns.ValidateForWorker(); err != nil {
		return nil, err
	}
	if err := instance.Validate(); err != nil {
		return nil, err
	}
	err = m.do(ctx, func(now flowfabric.Millis) error {
		if known := m.workers[workerKey{ns, instance}]; rules.Alive(known, now) {
			found := *known
			w = &found
		}
		return nil
	})
	return w, err
}

// ListWorkers lists live registrations by (namespace, instance).
func (m *Store) ListWorkers(ctx context.Context, a flowfabric.ListWorkersArgs) (res flowfabric.ListWorkersResult, err error) {
	limit, err := limitOf(a.Limit, flowfabric.DefaultWorkersLimit, flowfabric.MaxWorkersLimit)
	if err != nil {
		return res, err
	}
	res.Workers = []flowfabric.WorkerRegistration{}
	after := flowfabric.WorkerRegistration{Namespace: a.AfterNamespace, WorkerInstanceID: a.AfterInstanceID}
	err = m.do(ctx, func(now flowfabric.Millis) error {
		for _, w := range m.workers {
			if !rules.Alive(w, now) || a.Namespace != "" && w.Namespace != a.Namespace || a.Namespaces != nil && !slices.Contains(a.Namespaces, w.Namespace) ||
				a.LaneID != "" && !slices.Contains(w.Lanes, a.LaneID) || byWorker(*w, after) <= 0 {
				continue
			}
			res.Workers = append(res.Workers, *w)
		}
		return nil
	})
	slices.SortFunc(res.Workers, byWorker)
	if len(res.Workers) > limit {
		res.Workers, res.More = res.Workers[:limit], true
	}
	return res, err
}

func byWorker(a, b flowfabric.WorkerRegistration) int {
	return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.WorkerInstanceID, b.WorkerInstanceID))
}

// ExplainRouting says which live workers could run the execution.
func (m *Store) ExplainRouting(ctx context.Context, id flowfabric.ExecutionID) (out *flowfabric.RoutingExplanation, err error) {
	err = m.found(ctx, id, func(e *entry) error {
		now := m.cfg.Clock()
		x, label := &e.st.Exec, m.labels[bucketOf(e)]
		out = &flowfabric.RoutingExplanation{ExecutionID: id, LaneID: x.LaneID, Namespace: x.Namespace,
			RequiredCapabilities: append([]string{}, x.RequiredCapabilities...), Workers: []flowfabric.WorkerCoverage{},
			UncoveredSince: label.UncoveredSince, LastCapabilityMismatchAt: max(label.LastMismatchAt, x.LastCapabilityMismatchAt)}
		for _, w := range m.workers {
			if !rules.Covers(*w, x.LaneID, x.Namespace, nil, now) {
				continue
			}
			missing := append([]string{}, flowfabric.MissingCapabilities(x.RequiredCapabilities, w.Capabilities)...)
			out.Covered = out.Covered || len(missing) == 0
			out.Workers = append(out.Workers, flowfabric.WorkerCoverage{WorkerID: w.WorkerID, WorkerInstanceID: w.WorkerInstanceID, Missing: missing})
		}
		slices.SortFunc(out.Workers, func(a, b flowfabric.WorkerCoverage) int { return cmp.Compare(a.WorkerInstanceID, b.WorkerInstanceID) })
		return nil
	})
	return out, err
}
