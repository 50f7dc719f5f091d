package sqlstore

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"maps"
	"math"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/rules"
)

// newGrantID mints an unguessable grant identifier of 128 random bits.
func newGrantID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return base64.RawURLEncoding.EncodeToString(b[:])
}

// claimed is a claim whose payload is still to be read.
type claimed struct {
	xid  int64
	task flowfabric.ClaimedExecution
}

// payload completes claimed tasks with their inputs, which are written once and
// cannot go away while the lease is held: so they are read outside the writer. A
// task whose stored input does not decode is left out, and its lease revoked and
// held for an operator: nobody could run it. The error is that of the first one,
// or that of the database, and then no task is returned.
func (s *Store) payload(ctx context.Context, list []claimed) (out []flowfabric.ClaimedExecution, spoilt, err error) {
	if len(list) == 0 {
		return nil, nil, nil
	}
	ctx = context.WithoutCancel(ctx)
	out = make([]flowfabric.ClaimedExecution, 0, len(list))
	var bad []flowfabric.ClaimedExecution
	err = s.db.Read(ctx, func(c Conn) error {
		out, bad, spoilt = out[:0], bad[:0], nil
		for i := range list {
			task := list[i].task
			encoding, data, err := s.input(c, list[i].xid)
			if flowfabric.CodeOf(err) == flowfabric.CodeCorruptRecord {
				if bad = append(bad, task); spoilt == nil {
					spoilt = err
				}
				continue
			}
			if err != nil {
				return err
			}
			task.Tags = ownTags(task.Tags) // the writer keeps the map
			task.Payload, task.PayloadEncoding = data, encoding
			out = append(out, task)
		}
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	for i := range bad {
		id := bad[i].ExecutionID
		s.cfg.Logger.Error("a claimed execution's input does not decode; it is held", "execution_id", id, "error", spoilt)
		_, err := s.RevokeLease(ctx, flowfabric.RevokeLeaseArgs{ExecutionID: id, ExpectedLeaseID: bad[i].Fence.LeaseID,
			Reason: string(flowfabric.CodeCorruptRecord), RevokedBy: "backend", Hold: true})
		if err != nil {
			s.cfg.Logger.Warn("its lease is left to expire", "execution_id", id, "error", err)
		}
	}
	return out, spoilt, nil
}

// ownTags is a map that the caller may change, never nil.
func ownTags(tags map[string]string) map[string]string {
	if tags == nil {
		return map[string]string{}
	}
	return maps.Clone(tags)
}

// claimOne runs a claim rule on one named execution.
func (s *Store) claimOne(ctx context.Context, id flowfabric.ExecutionID, check func(tx *Tx, r *row) error,
	apply func(tx *Tx, r *row) (rules.Claimed, rules.Effects, error)) (flowfabric.ClaimedExecution, error) {
	if err := rules.ValidateExecutionID(id, s.parts); err != nil {
		return flowfabric.ClaimedExecution{}, err
	}
	var got claimed
	var refused error
	err := s.write(ctx, func(tx *Tx) error {
		got = claimed{}
		var r *row
		var err error
		if r, refused, err = tx.find(id); err != nil || refused != nil {
			return err
		}
		if check != nil {
			if refused = check(tx, r); refused != nil {
				return nil
			}
		}
		c, fx, err := apply(tx, r)
		refused = err
		got = claimed{r.xid, c.Task}
		if !fx.Changed {
			return nil
		}
		if err := tx.save(r, &fx); err != nil {
			return err
		}
		if refused == nil {
			s.warnReclaims(&c.Task)
		}
		return nil
	})
	if err == nil {
		err = refused
	}
	if err != nil {
		return flowfabric.ClaimedExecution{}, err
	}
	tasks, spoilt, err := s.payload(ctx, []claimed{got})
	if err == nil {
		err = spoilt
	}
	if err != nil {
		return flowfabric.ClaimedExecution{}, err
	}
	return tasks[0], nil
}

// warnReclaims logs a warning at every hundredth reclaim of an execution.
// (Specification 02, section 5.5.)
func (s *Store) warnReclaims(t *flowfabric.ClaimedExecution) {
	if t.ClaimKind == flowfabric.ClaimReclaim && t.LeaseReclaimCount%100 == 0 {
		s.cfg.Logger.Warn("an execution has been reclaimed many times", "execution_id", t.ExecutionID,
			"execution_kind", t.Kind, "lane_id", t.LaneID, "lease_reclaim_count", t.LeaseReclaimCount)
	}
}

// ClaimGranted consumes a grant.
func (s *Store) ClaimGranted(ctx context.Context, a flowfabric.ClaimGrantedArgs) (flowfabric.ClaimedExecution, error) {
	if err := rules.ValidateClaimGranted(a); err != nil {
		return flowfabric.ClaimedExecution{}, err
	}
	caps, err := flowfabric.NormalizeCapabilities("worker", a.Capabilities)
	if err != nil {
		return flowfabric.ClaimedExecution{}, err
	}
	in := rules.ClaimInput{GrantID: a.GrantID, LaneID: a.LaneID, WorkerID: a.WorkerID, WorkerInstanceID: a.WorkerInstanceID,
		Capabilities: caps, CapabilityHash: flowfabric.CapabilityDigest(caps), LeaseID: a.LeaseID, AttemptID: a.AttemptID,
		LeaseTTLMs: a.LeaseTTLMs, Expect: a.Expect}
	mint(&in)
	return s.claimOne(ctx, a.ExecutionID, nil, func(tx *Tx, r *row) (rules.Claimed, rules.Effects, error) {
		scheduled := r.st.Grant != nil && r.st.Grant.IssuedBy == flowfabric.IssuedByScheduler
		c, fx, err := rules.ClaimGranted(r.st, in, tx.Now)
		if err == nil && fx.Changed {
			r.counted = scheduled
		}
		return c, fx, err
	})
}

func mint(in *rules.ClaimInput) {
	if in.LeaseID == "" {
		in.LeaseID = flowfabric.NewLeaseID()
	}
	if in.AttemptID == "" {
		in.AttemptID = flowfabric.NewAttemptID()
	}
}

// IssueGrantAndClaim grants and claims one named execution in one step.
func (s *Store) IssueGrantAndClaim(ctx context.Context, a flowfabric.IssueGrantAndClaimArgs) (flowfabric.ClaimedExecution, error) {
	if err := rules.ValidateGrantAndClaim(a); err != nil {
		return flowfabric.ClaimedExecution{}, err
	}
	caps, err := flowfabric.NormalizeCapabilities("worker", a.Capabilities)
	if err != nil {
		return flowfabric.ClaimedExecution{}, err
	}
	in := rules.ClaimInput{LaneID: a.LaneID, WorkerID: a.WorkerID, WorkerInstanceID: a.WorkerInstanceID, Capabilities: caps,
		CapabilityHash: flowfabric.CapabilityDigest(caps), LeaseID: a.LeaseID, AttemptID: a.AttemptID, LeaseTTLMs: a.LeaseTTLMs,
		IssuedBy: a.IssuedBy, OperatorOverride: a.OperatorOverride, RouteSnapshot: a.RouteSnapshot, AdmissionSummary: a.AdmissionSummary}
	if in.IssuedBy == "" {
		in.IssuedBy = flowfabric.IssuedByDirect
	}
	mint(&in)
	check := func(tx *Tx, r *row) error {
		if rules.RepeatsClaim(r.st, &in) { // a repeat learns what became of it
			return nil
		}
		return s.laneOpen(r.st.Exec.LaneID)
	}
	return s.claimOne(ctx, a.ExecutionID, check, func(tx *Tx, r *row) (rules.Claimed, rules.Effects, error) {
		c, fx, err := rules.GrantAndClaim(r.st, in, tx.Now)
		if err == nil && fx.Changed {
			r.counted = false
		}
		if flowfabric.CodeOf(err) == flowfabric.CodeCapabilityMismatch {
			if e := tx.uncovered(r.bucket); e != nil {
				return c, fx, e
			}
		}
		return c, fx, err
	})
}

// laneOpen refuses claims aimed at a disabled lane.
func (s *Store) laneOpen(id flowfabric.LaneID) error {
	if l := s.lanes[id]; l != nil && l.State == flowfabric.LaneDisabled {
		return flowfabric.NewError(flowfabric.CodeLaneDisabled, "lane %s is disabled", id)
	}
	return nil
}

// IssueClaimGrant writes a grant for one named execution.
func (s *Store) IssueClaimGrant(ctx context.Context, a flowfabric.IssueClaimGrantArgs) (g flowfabric.Grant, err error) {
	if err := rules.ValidateIssueClaimGrant(a); err != nil {
		return g, err
	}
	caps, err := flowfabric.NormalizeCapabilities("worker", a.Capabilities)
	if err != nil {
		return g, err
	}
	in := rules.GrantInput{GrantID: newGrantID(), LaneID: a.LaneID, WorkerID: a.WorkerID, WorkerInstanceID: a.WorkerInstanceID,
		Capabilities: caps, TTLMs: a.GrantTTLMs, RouteSnapshot: a.RouteSnapshot, AdmissionSummary: a.AdmissionSummary,
		AdmissionRefs: a.AdmissionRefs, IssuedBy: a.IssuedBy}
	if in.IssuedBy == "" {
		in.IssuedBy = flowfabric.IssuedByScheduler
	}
	err = s.change(ctx, a.ExecutionID, func(tx *Tx, st *rules.State) (fx rules.Effects, err error) {
		if err := s.laneOpen(a.LaneID); err != nil {
			return fx, err
		}
		g, fx, err = rules.IssueGrant(st, in, tx.Now)
		return fx, err
	})
	return g, err
}

// IssueReclaimGrant aims a grant at one interrupted execution.
func (s *Store) IssueReclaimGrant(ctx context.Context, a flowfabric.IssueReclaimGrantArgs) (res flowfabric.IssueReclaimGrantResult, err error) {
	if err := rules.ValidateIssueReclaimGrant(a); err != nil {
		return res, err
	}
	caps, err := flowfabric.NormalizeCapabilities("worker", a.Capabilities)
	if err != nil {
		return res, err
	}
	in := rules.GrantInput{GrantID: newGrantID(), LaneID: a.LaneID, WorkerID: a.WorkerID, WorkerInstanceID: a.WorkerInstanceID,
		Capabilities: caps, TTLMs: a.GrantTTLMs, IssuedBy: flowfabric.IssuedByOperator}
	err = s.change(ctx, a.ExecutionID, func(tx *Tx, st *rules.State) (fx rules.Effects, err error) {
		in := in
		if a.Capabilities == nil {
			in.Capabilities = s.registeredCapabilities(st.Exec.Namespace, a.WorkerInstanceID, tx.Now)
		}
		if closed := s.laneOpen(st.Exec.LaneID); closed != nil {
			res, fx, err = rules.DenyReclaimGrant(st, in, flowfabric.AsError(closed).Message, tx.Now)
			return fx, err
		}
		res, fx, err = rules.IssueReclaimGrant(st, in, tx.Now)
		return fx, err
	})
	return res, err
}

// ReleaseGrant ends an unused grant at once.
func (s *Store) ReleaseGrant(ctx context.Context, a flowfabric.ReleaseGrantArgs) (released bool, err error) {
	if err := rules.ValidateReleaseGrant(a); err != nil {
		return false, err
	}
	err = s.change(ctx, a.ExecutionID, func(tx *Tx, st *rules.State) (fx rules.Effects, err error) {
		released, fx = rules.ReleaseGrant(st, a, tx.Now)
		return fx, nil
	})
	if flowfabric.CodeOf(err) == flowfabric.CodeExecutionNotFound {
		return false, nil
	}
	return released, err
}

// ListEligible returns candidates in claim order.
func (s *Store) ListEligible(ctx context.Context, a flowfabric.ListEligibleArgs) ([]flowfabric.ExecutionID, error) {
	if err := a.LaneID.Validate(); err != nil {
		return nil, err
	}
	caps, err := flowfabric.NormalizeCapabilities("worker", a.Capabilities)
	if err != nil {
		return nil, err
	}
	limit, err := listLimit(a.Limit, 1, flowfabric.MaxListLimit)
	if err != nil {
		return nil, err
	}
	if s.grants.due(s.Now()) {
		// A scan that meets a lapsed grant treats it as absent at once.
		if err := s.write(ctx, func(tx *Tx) error { return tx.lapseGrants() }); err != nil {
			return nil, err
		}
	}
	s.pub.RLock()
	disabled := s.pub.lanes[a.LaneID].State == flowfabric.LaneDisabled
	s.pub.RUnlock()
	if disabled {
		return nil, nil
	}
	count, read := s.parts.NumFlowPartitions, int64(limit)
	if a.Partitions > 0 && a.Partitions < count {
		count, read = a.Partitions, math.MaxInt64 // until there are enough of the window
	}
	inWindow := func(part uint16) bool {
		d := (int(part) - int(a.FirstPartition) + s.parts.NumFlowPartitions) % s.parts.NumFlowPartitions
		return d < count
	}
	s.bucketMu.RLock()
	var covered []*bucket
	for _, b := range s.buckets.all[a.LaneID] {
		if b.occupied.Load() && visible(b.namespace, a.Namespace, nil) && len(flowfabric.MissingCapabilities(b.required, caps)) == 0 {
			covered = append(covered, b)
		}
	}
	s.bucketMu.RUnlock()
	var best []headKey
	err = s.db.Read(ctx, func(c Conn) error {
		for _, b := range covered {
			q := c.Stmt(qBucketWindow)
			q.Int(b.id)
			q.Int(read)
			for n := 0; n < limit; {
				ok, err := q.Next()
				if err != nil {
					return err
				}
				if !ok {
					break
				}
				k := headKey{prio: q.ColInt(0), rank: q.ColInt(1)}
				if !inWindow(partOfRank(k.rank)) {
					continue
				}
				n++
				q.ColBlob(2, k.uuid[:0])
				best = append(best, k)
			}
			q.Stop()
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	sortBy(best, headKey.less)
	ids := make([]flowfabric.ExecutionID, 0, min(limit, len(best)))
	for i := 0; i < len(best) && i < limit; i++ {
		ids = append(ids, executionID(best[i].rowKey()))
	}
	return ids, nil
}
