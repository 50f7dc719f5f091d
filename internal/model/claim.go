package model

import (
	"context"
	"slices"

	"github.com/google/uuid"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/rules"
)

func newGrantID() string { return uuid.NewString() }

func mint(in *rules.ClaimInput) {
	if in.LeaseID == "" {
		in.LeaseID = flowfabric.NewLeaseID()
	}
	if in.AttemptID == "" {
		in.AttemptID = flowfabric.NewAttemptID()
	}
}

// claim runs a claim rule on one execution and completes the task.
func (m *Store) claim(ctx context.Context, id flowfabric.ExecutionID, rule func(e *entry, now flowfabric.Millis) (rules.Claimed, rules.Effects, error)) (task flowfabric.ClaimedExecution, err error) {
	if err := rules.ValidateExecutionID(id, m.cfg.Partitions); err != nil {
		return task, err
	}
	err = m.do(ctx, func(now flowfabric.Millis) error {
		e := m.execs[id]
		if e == nil {
			return notFound(id)
		}
		c, fx, err := rule(e, now)
		m.keep(e, &fx, now)
		if err != nil {
			return err
		}
		task = withInput(e, c.Task)
		return nil
	})
	return task, err
}

func withInput(e *entry, t flowfabric.ClaimedExecution) flowfabric.ClaimedExecution {
	t.Payload, t.PayloadEncoding = append([]byte{}, e.input.Payload...), e.input.Encoding
	return t
}

// ClaimGranted consumes a grant.
func (m *Store) ClaimGranted(ctx context.Context, a flowfabric.ClaimGrantedArgs) (task flowfabric.ClaimedExecution, err error) {
	if err := rules.ValidateClaimGranted(a); err != nil {
		return task, err
	}
	caps, err := flowfabric.NormalizeCapabilities(flowfabric.CapabilitiesOfWorker, a.Capabilities)
	if err != nil {
		return task, err
	}
	in := rules.ClaimInput{GrantID: a.GrantID, LaneID: a.LaneID, WorkerID: a.WorkerID, WorkerInstanceID: a.WorkerInstanceID,
		Capabilities: caps, LeaseID: a.LeaseID, AttemptID: a.AttemptID, LeaseTTLMs: a.LeaseTTLMs, Expect: a.Expect}
	mint(&in)
	return m.claim(ctx, a.ExecutionID, func(e *entry, now flowfabric.Millis) (rules.Claimed, rules.Effects, error) {
		scheduled := e.st.Grant != nil && e.st.Grant.IssuedBy == flowfabric.IssuedByScheduler
		c, fx, err := rules.ClaimGranted(e.st, in, now)
		if err == nil && fx.Changed {
			e.counted = scheduled
		}
		return c, fx, err
	})
}

// IssueGrantAndClaim grants and claims one named execution in one step.
func (m *Store) IssueGrantAndClaim(ctx context.Context, a flowfabric.IssueGrantAndClaimArgs) (task flowfabric.ClaimedExecution, err error) {
	if err := rules.ValidateGrantAndClaim(a); err != nil {
		return task, err
	}
	caps, err := flowfabric.NormalizeCapabilities(flowfabric.CapabilitiesOfWorker, a.Capabilities)
	if err != nil {
		return task, err
	}
	in := rules.ClaimInput{LaneID: a.LaneID, WorkerID: a.WorkerID, WorkerInstanceID: a.WorkerInstanceID, Capabilities: caps,
		LeaseID: a.LeaseID, AttemptID: a.AttemptID, LeaseTTLMs: a.LeaseTTLMs, IssuedBy: a.IssuedBy,
		OperatorOverride: a.OperatorOverride, RouteSnapshot: a.RouteSnapshot, AdmissionSummary: a.AdmissionSummary}
	if in.IssuedBy == "" {
		in.IssuedBy = flowfabric.IssuedByDirect
	}
	mint(&in)
	return m.claim(ctx, a.ExecutionID, func(e *entry, now flowfabric.Millis) (c rules.Claimed, fx rules.Effects, err error) {
		if !rules.RepeatsClaim(e.st, &in) {
			if err := m.laneOpen(e.st.Exec.LaneID); err != nil {
				return c, fx, err
			}
		}
		c, fx, err = rules.GrantAndClaim(e.st, in, now)
		if err == nil && fx.Changed {
			e.counted = false
		}
		if flowfabric.CodeOf(err) == flowfabric.CodeCapabilityMismatch {
			m.uncovered(bucketOf(e), now)
		}
		return c, fx, err
	})
}

// laneOpen refuses claims aimed at a disabled lane.
func (m *Store) laneOpen(id flowfabric.LaneID) error {
	if l := m.lanes[id]; l != nil && l.State == flowfabric.LaneDisabled {
		return flowfabric.NewError(flowfabric.CodeLaneDisabled, "lane %s is disabled", id)
	}
	return nil
}

// IssueClaimGrant writes a grant for one named execution.
func (m *Store) IssueClaimGrant(ctx context.Context, a flowfabric.IssueClaimGrantArgs) (g flowfabric.Grant, err error) {
	if err := rules.ValidateIssueClaimGrant(a); err != nil {
		return g, err
	}
	caps, err := flowfabric.NormalizeCapabilities(flowfabric.CapabilitiesOfWorker, a.Capabilities)
	if err != nil {
		return g, err
	}
	in := rules.GrantInput{GrantID: newGrantID(), LaneID: a.LaneID, WorkerID: a.WorkerID, WorkerInstanceID: a.WorkerInstanceID,
		Capabilities: caps, TTLMs: a.GrantTTLMs, RouteSnapshot: a.RouteSnapshot, AdmissionSummary: a.AdmissionSummary,
		AdmissionRefs: a.AdmissionRefs, IssuedBy: a.IssuedBy}
	if in.IssuedBy == "" {
		in.IssuedBy = flowfabric.IssuedByScheduler
	}
	return answer(ctx, m, a.ExecutionID, nil, func(st *rules.State, now flowfabric.Millis) (flowfabric.Grant, rules.Effects, error) {
		if err := m.laneOpen(a.LaneID); err != nil {
			return flowfabric.Grant{}, rules.Effects{}, err
		}
		return rules.IssueGrant(st, in, now)
	})
}

// IssueReclaimGrant aims a grant at one interrupted execution.
func (m *Store) IssueReclaimGrant(ctx context.Context, a flowfabric.IssueReclaimGrantArgs) (res flowfabric.IssueReclaimGrantResult, err error) {
	if err := rules.ValidateIssueReclaimGrant(a); err != nil {
		return res, err
	}
	caps, err := flowfabric.NormalizeCapabilities(flowfabric.CapabilitiesOfWorker, a.Capabilities)
	if err != nil {
		return res, err
	}
	in := rules.GrantInput{GrantID: newGrantID(), LaneID: a.LaneID, WorkerID: a.WorkerID, WorkerInstanceID: a.WorkerInstanceID,
		Capabilities: caps, TTLMs: a.GrantTTLMs, IssuedBy: flowfabric.IssuedByOperator}
	return answer(ctx, m, a.ExecutionID, nil, func(st *rules.State, now flowfabric.Millis) (flowfabric.IssueReclaimGrantResult, rules.Effects, error) {
		in := in
		if a.Capabilities == nil {
			in.Capabilities = m.registered(st.Exec.Namespace, a.WorkerInstanceID, now)
		}
		if closed := m.laneOpen(st.Exec.LaneID); closed != nil {
			return rules.DenyReclaimGrant(st, in, flowfabric.AsError(closed).Message, now)
		}
		return rules.IssueReclaimGrant(st, in, now)
	})
}

// ReleaseGrant ends an unused grant at once.
func (m *Store) ReleaseGrant(ctx context.Context, a flowfabric.ReleaseGrantArgs) (released bool, err error) {
	if err := rules.ValidateReleaseGrant(a); err != nil {
		return false, err
	}
	err = m.change(ctx, a.ExecutionID, func(st *rules.State, now flowfabric.Millis) (fx rules.Effects, err error) {
		released, fx = rules.ReleaseGrant(st, a, now)
		return fx, nil
	})
	if flowfabric.CodeOf(err) == flowfabric.CodeExecutionNotFound {
		return false, nil
	}
	return released, err
}

// ListEligible returns candidates in claim order.
func (m *Store) ListEligible(ctx context.Context, a flowfabric.ListEligibleArgs) (ids []flowfabric.ExecutionID, err error) {
	if err := a.LaneID.Validate(); err != nil {
		return nil, err
	}
	caps, err := flowfabric.NormalizeCapabilities(flowfabric.CapabilitiesOfWorker, a.Capabilities)
	if err != nil {
		return nil, err
	}
	limit, err := limitOf(a.Limit, 1, flowfabric.MaxListLimit)
	if err != nil {
		return nil, err
	}
	err = m.do(ctx, func(now flowfabric.Millis) error {
		if m.laneOpen(a.LaneID) != nil {
			return nil
		}
		count := m.cfg.Partitions.NumFlowPartitions
		if a.Partitions > 0 {
			count = min(count, a.Partitions)
		}
		list := m.all(func(e *entry) bool {
			x := &e.st.Exec
			n := m.cfg.Partitions.NumFlowPartitions
			distance := (int(x.ExecutionID.Partition()) - int(a.FirstPartition) + n) % n
			return x.LaneID == a.LaneID && distance < count && visible(x.Namespace, a.Namespace, nil) && rules.Place(e.st, now).Offered &&
				len(flowfabric.MissingCapabilities(x.RequiredCapabilities, caps)) == 0
		}, byClaim)
		ids = make([]flowfabric.ExecutionID, 0, limit)
		for _, e := range list[:min(limit, len(list))] {
			ids = append(ids, e.st.Exec.ExecutionID)
		}
		return nil
	})
	return ids, err
}

// bucket names the executions of one lane, namespace and required set.
type bucket struct {
	lane      flowfabric.LaneID
	namespace flowfabric.Namespace
	required  string
}

func bucketOf(e *entry) bucket {
	x := &e.st.Exec
	return bucket{x.LaneID, x.Namespace, rules.BucketKey(x.RequiredCapabilities)}
}

// offeredIn returns the non-empty buckets of a lane, each in claim order.
func (m *Store) offeredIn(lane flowfabric.LaneID, now flowfabric.Millis) map[bucket][]*entry {
	out := make(map[bucket][]*entry)
	for _, e := range m.all(func(e *entry) bool { return e.st.Exec.LaneID == lane && rules.Place(e.st, now).Offered }, byClaim) {
		b := bucketOf(e)
		out[b] = append(out[b], e)
	}
	return out
}

// full reports whether a lane has reached its max_concurrency.
func (m *Store) full(lane flowfabric.LaneID, now flowfabric.Millis) bool {
	l := m.lanes[lane]
	if l == nil || l.MaxConcurrency == 0 {
		return false
	}
	n := 0
	for _, e := range m.execs {
		if e.st.Exec.LaneID != lane {
			continue
		}
		if e.counted || rules.LiveGrant(e.st, now) && e.st.Grant.IssuedBy == flowfabric.IssuedByScheduler {
			n++
		}
	}
	return n >= l.MaxConcurrency
}

// ClaimCandidates registers the asking worker, lifts labels, and takes what the
// picker chooses out of the heads of the buckets the worker covers.
func (m *Store) ClaimCandidates(ctx context.Context, a flowfabric.ClaimCandidatesArgs) (res flowfabric.ClaimCandidatesResult, err error) {
	err = m.do(ctx, func(now flowfabric.Millis) error {
		if err := m.registerImplicit(&a, now); err != nil {
			return err
		}
		m.take(&a, &res, now)
		return nil
	})
	return res, err
}

func (m *Store) take(a *flowfabric.ClaimCandidatesArgs, res *flowfabric.ClaimCandidatesResult, now flowfabric.Millis) {
	heads := m.covered(a, res, now)
	for evaluated := 0; len(res.Tasks)+len(res.Grants) < a.Max; evaluated++ {
		var candidates []flowfabric.Candidate
		var live [][]*entry
		for _, list := range heads {
			if len(list) > 0 && !m.full(list[0].st.Exec.LaneID, now) {
				x := &list[0].st.Exec
				live = append(live, list)
				candidates = append(candidates, flowfabric.Candidate{LaneID: x.LaneID, Namespace: x.Namespace, Priority: x.Priority,
					CreatedAt: x.CreatedAt, ID: x.ExecutionID})
			}
		}
		if len(live) == 0 {
			return
		}
		if evaluated == flowfabric.MaxEvaluatedCandidates {
			res.More = true
			return
		}
		i := a.Picker.Pick(candidates)
		if i < 0 || i >= len(live) {
			break
		}
		e := live[i][0]
		heads[bucketOf(e)] = live[i][1:]
		if m.takeOne(a, e, res, now) {
			a.Picker.Taken(candidates[i])
		}
	}
	for _, list := range heads {
		left := len(list) > 0 && !m.full(list[0].st.Exec.LaneID, now)
		res.More = res.More || left && len(res.Tasks)+len(res.Grants) > 0
	}
}

// covered returns the non-empty buckets the asking worker can serve, and labels
// those that nobody can.
func (m *Store) covered(a *flowfabric.ClaimCandidatesArgs, res *flowfabric.ClaimCandidatesResult, now flowfabric.Millis) map[bucket][]*entry {
	out := make(map[bucket][]*entry)
	examined := 0
	for _, lane := range a.Lanes {
		if m.laneOpen(lane) != nil {
			continue
		}
		for b, list := range m.offeredIn(lane, now) {
			if !visible(b.namespace, a.Namespace, a.Namespaces) {
				continue
			}
			if len(flowfabric.MissingCapabilities(list[0].st.Exec.RequiredCapabilities, a.Capabilities)) == 0 {
				out[b] = list
				continue
			}
			if examined++; examined <= flowfabric.MaxUncoveredBuckets && m.uncovered(b, now) {
				res.UncoveredLabelled++
			}
		}
	}
	return out
}

func (m *Store) takeOne(a *flowfabric.ClaimCandidatesArgs, e *entry, res *flowfabric.ClaimCandidatesResult, now flowfabric.Millis) bool {
	if a.GrantTTLMs > 0 {
		g, fx, err := rules.OfferGrant(e.st, rules.GrantInput{GrantID: newGrantID(), LaneID: e.st.Exec.LaneID, WorkerID: a.WorkerID,
			WorkerInstanceID: a.WorkerInstanceID, Capabilities: a.Capabilities, TTLMs: a.GrantTTLMs, IssuedBy: flowfabric.IssuedByScheduler}, now)
		m.keep(e, &fx, now)
		if err == nil {
			res.Grants = append(res.Grants, g)
		}
		return err == nil
	}
	in := rules.ClaimInput{LaneID: e.st.Exec.LaneID, WorkerID: a.WorkerID, WorkerInstanceID: a.WorkerInstanceID, Capabilities: a.Capabilities,
		LeaseTTLMs: a.LeaseTTLMs, IssuedBy: flowfabric.IssuedByScheduler}
	mint(&in)
	c, fx, err := rules.GrantAndClaim(e.st, in, now)
	if err == nil {
		e.counted = true
	}
	m.keep(e, &fx, now)
	if err == nil {
		res.Tasks = append(res.Tasks, withInput(e, c.Task))
	}
	return err == nil
}

// uncovered labels a bucket that the asking worker cannot serve, when no live
// worker can and its lane has been named; it reports whether the label is new.
// The time of the last mismatch is brought up to date once a second.
func (m *Store) uncovered(b bucket, now flowfabric.Millis) bool {
	if !m.named[b.lane] || m.coveredByAny(b, now) {
		return false
	}
	l := m.labels[b]
	fresh := l.UncoveredSince == 0
	if fresh {
		l.UncoveredSince = now
	}
	if fresh || now-l.LastMismatchAt >= 1000 {
		l.LastMismatchAt = now
	}
	m.labels[b] = l
	return fresh
}

// lift takes a label off and tells waiters of what it covered.
func (m *Store) lift(b bucket, now flowfabric.Millis) {
	l := m.labels[b]
	if l.UncoveredSince == 0 {
		return
	}
	m.labels[b] = rules.Label{LastMismatchAt: l.LastMismatchAt}
	if list := m.offeredIn(b.lane, now)[b]; len(list) > 0 {
		m.wakeEligible(list[0], len(list))
	}
}

func (b bucket) requirement() []string {
	if b.required == "" {
		return nil
	}
	return slices.Collect(split(b.required))
}
