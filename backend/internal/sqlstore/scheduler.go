package sqlstore

import (
	"context"
	"slices"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/rules"
)

func sortBy[E any](list []E, less func(x, y E) bool) {
	slices.SortFunc(list, func(x, y E) int {
		if less(x, y) {
			return -1
		}
		if less(y, x) {
			return 1
		}
		return 0
	})
}

// Members of a bucket in claim order, read from the index alone.
var qTakeOffered = &Query{`select prio_key, id_rank, uuid from executions where bucket = ? and offered = 1
	order by prio_key, id_rank, uuid limit ?`}

// source is one covered bucket during a claim: its next candidates. Nothing is
// read of a bucket until it is its turn: the writer knows its head.
type source struct {
	b    *bucket
	keys []headKey
	next int
	more bool // the bucket may hold members beyond those read
}

// ClaimCandidates takes up to Max executions in one step.
func (s *Store) ClaimCandidates(ctx context.Context, a flowfabric.ClaimCandidatesArgs) (flowfabric.ClaimCandidatesResult, error) {
	var res flowfabric.ClaimCandidatesResult
	var list []claimed
	var refused error
	err := s.db.Write(ctx, a.Max, func(tx *Tx) error {
		res, list, refused = flowfabric.ClaimCandidatesResult{}, list[:0], nil
		if refused = tx.registerImplicit(&a); refused != nil {
			if flowfabric.AsError(refused) == nil {
				return refused
			}
			return nil
		}
		err := tx.lapseGrants()
		if err == nil {
			list, err = tx.take(&a, &res, list)
		}
		return err
	})
	if err == nil {
		err = refused
	}
	if err != nil {
		return flowfabric.ClaimCandidatesResult{}, err
	}
	res.Tasks, err = s.payload(ctx, list)
	return res, err
}

// sources collects the non-empty buckets that the worker covers, in the lanes
// that yield claims, and labels those nobody covers.
func (tx *Tx) sources(a *flowfabric.ClaimCandidatesArgs, res *flowfabric.ClaimCandidatesResult) ([]*source, error) {
	var out []*source
	examined := 0
	for _, lane := range a.Lanes {
		if l := tx.s.lanes[lane]; l != nil && l.State == flowfabric.LaneDisabled {
			continue
		}
		for b := range tx.s.buckets.lanes[lane] {
			if !visible(b.namespace, a.Namespace, a.Namespaces) {
				continue
			}
			if len(b.required) == 0 || len(flowfabric.MissingCapabilities(b.required, a.Capabilities)) == 0 {
				out = append(out, &source{b: b})
				continue
			}
			if examined++; examined > flowfabric.MaxUncoveredBuckets {
				continue
			}
			was := b.label.UncoveredSince
			if err := tx.uncovered(b); err != nil {
				return nil, err
			}
			if was == 0 && b.label.UncoveredSince != 0 {
				res.UncoveredLabelled++
			}
		}
	}
	return out, nil
}

// full reports whether a lane has reached its max_concurrency.
func (tx *Tx) full(lane flowfabric.LaneID) bool {
	l := tx.s.lanes[lane]
	return l != nil && l.MaxConcurrency > 0 && tx.s.countOf(lane)[leasedSlot]+tx.granted(lane) >= int64(l.MaxConcurrency)
}

// take lets the picker choose among the heads of the covered buckets until it
// has enough.
func (tx *Tx) take(a *flowfabric.ClaimCandidatesArgs, res *flowfabric.ClaimCandidatesResult, list []claimed) ([]claimed, error) {
	sources, err := tx.sources(a, res)
	if err != nil {
		return list, err
	}
	hash := flowfabric.CapabilityDigest(a.Capabilities)
	heads := make([]flowfabric.Candidate, 0, len(sources))
	live := sources[:0]
	for _, src := range sources {
		if tx.full(src.b.lane) {
			continue
		}
		head, ok, err := tx.head(src.b)
		if err != nil {
			return list, err
		}
		if ok {
			src.keys, src.more = append(src.keys, head), src.b.offered > 1
			live = append(live, src)
			heads = append(heads, tx.candidate(src.b, head))
		}
	}
	evaluated := 0
	for len(live) > 0 && len(list)+len(res.Grants) < a.Max {
		if evaluated == flowfabric.MaxEvaluatedCandidates {
			res.More = true
			break
		}
		i := a.Picker.Pick(heads)
		if i < 0 || i >= len(live) {
			break
		}
		src := live[i]
		took, err := tx.takeNext(a, src, hash, res, &list)
		if err != nil {
			return list, err
		}
		evaluated++
		if took {
			a.Picker.Taken(heads[i])
		}
		if tx.full(src.b.lane) {
			live, heads = dropLane(live, heads, src.b.lane)
			continue
		}
		want := a.Max - len(list) - len(res.Grants)
		if want == 0 && src.b.offered > 0 {
			break
		}
		ok, err := tx.advance(src, want)
		if err != nil {
			return list, err
		}
		if ok {
			heads[i] = tx.candidate(src.b, src.keys[src.next])
			continue
		}
		live = slices.Delete(live, i, i+1)
		heads = slices.Delete(heads, i, i+1)
	}
	if len(live) > 0 && len(list)+len(res.Grants) > 0 {
		res.More = true
	}
	return list, nil
}

// dropLane leaves out the buckets of a lane that has reached its bound.
func dropLane(live []*source, heads []flowfabric.Candidate, lane flowfabric.LaneID) ([]*source, []flowfabric.Candidate) {
	n := 0
	for i, src := range live {
		if src.b.lane != lane {
			live[n], heads[n] = src, heads[i]
			n++
		}
	}
	return live[:n], heads[:n]
}

// takeNext takes the next candidate of a bucket; one that does not decode is
// withheld and counts as not taken.
func (tx *Tx) takeNext(a *flowfabric.ClaimCandidatesArgs, src *source, hash string, res *flowfabric.ClaimCandidatesResult, list *[]claimed) (bool, error) {
	key := src.keys[src.next].rowKey()
	src.next++
	r, err := tx.loadKey(key)
	if flowfabric.CodeOf(err) == flowfabric.CodeCorruptRecord {
		return false, tx.withhold(src.b, key, err)
	}
	if err != nil || r == nil {
		return false, err
	}
	return tx.takeOne(a, r, hash, res, list)
}

func (tx *Tx) takeOne(a *flowfabric.ClaimCandidatesArgs, r *row, hash string, res *flowfabric.ClaimCandidatesResult, list *[]claimed) (bool, error) {
	if a.GrantTTLMs > 0 {
		g, fx, err := rules.OfferGrant(r.st, rules.GrantInput{GrantID: newGrantID(), LaneID: r.bucket.lane, WorkerID: a.WorkerID,
			WorkerInstanceID: a.WorkerInstanceID, Capabilities: a.Capabilities, TTLMs: a.GrantTTLMs, IssuedBy: flowfabric.IssuedByScheduler}, tx.Now)
		if fx.Changed {
			if err := tx.save(r, &fx); err != nil {
				return false, err
			}
		}
		if err != nil {
			return false, nil
		}
		res.Grants = append(res.Grants, g)
		return true, nil
	}
	in := rules.ClaimInput{LaneID: r.bucket.lane, WorkerID: a.WorkerID, WorkerInstanceID: a.WorkerInstanceID, Capabilities: a.Capabilities,
		CapabilityHash: hash, LeaseTTLMs: a.LeaseTTLMs, IssuedBy: flowfabric.IssuedByScheduler}
	mint(&in)
	c, fx, err := rules.GrantAndClaim(r.st, in, tx.Now)
	if fx.Changed {
		r.counted = err == nil
		if err := tx.save(r, &fx); err != nil {
			return false, err
		}
	}
	if err != nil {
		return false, nil
	}
	*list = append(*list, claimed{r.xid, c.Task})
	return true, nil
}

// candidate describes a member of a bucket by its place in the order alone.
func (tx *Tx) candidate(b *bucket, k headKey) flowfabric.Candidate {
	if b.best.ID != "" && b.bestKey == k {
		return b.best
	}
	// The key is created_at - priority·10^12; no execution waits for 15 years.
	const step = 1_000_000_000_000
	priority := min(max((int64(tx.Now)-k.prio+step/2)/step, 0), flowfabric.MaxPriority)
	c := flowfabric.Candidate{LaneID: b.lane, Namespace: b.namespace, Priority: int32(priority),
		CreatedAt: flowfabric.Millis(k.prio + priority*step), ID: executionID(k.rowKey())}
	b.best, b.bestKey = c, k
	return c
}

// advance makes sure that src has a next candidate, reading more when it must.
func (tx *Tx) advance(src *source, want int) (bool, error) {
	if src.next < len(src.keys) {
		return true, nil
	}
	if !src.more || src.b.offered == 0 {
		return false, nil
	}
	src.keys, src.next = src.keys[:0], 0
	limit := min(max(want, 1), flowfabric.MaxClaimTasks)
	q := tx.conn.Stmt(qTakeOffered)
	q.Int(src.b.id)
	q.Int(int64(limit))
	for {
		ok, err := q.Next()
		if err != nil {
			return false, err
		}
		if !ok {
			break
		}
		k := headKey{prio: q.ColInt(0), rank: q.ColInt(1)}
		q.ColBlob(2, k.uuid[:0])
		src.keys = append(src.keys, k)
	}
	src.more = len(src.keys) == limit
	return len(src.keys) > 0, nil
}

var qWithhold = &Query{`update executions set offered = 0 where part = ? and uuid = ?`}

// withhold takes a candidate that does not decode out of the order of claimers,
// so that it stands in nobody's way. A reconcile names it, and puts it back once
// it decodes.
func (tx *Tx) withhold(b *bucket, key rowKey, cause error) error {
	tx.s.cfg.Logger.Error("a candidate does not decode and is withheld", "execution_id", executionID(key), "error", cause)
	q := tx.conn.Stmt(qWithhold)
	q.Int(int64(key.part))
	q.Blob(key.uuid[:])
	if err := q.Exec(); err != nil {
		return err
	}
	b.known = false
	tx.s.buckets.setOffered(b, b.offered-1)
	return nil
}
