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

// source is what one namespace has to offer in one lane during a claim.
type source struct {
	lane flowfabric.LaneID
	ns   flowfabric.Namespace
	t    *tenant
	// b is the bucket with the best candidate, key that candidate.
	b   *bucket
	key headKey
}

// ClaimCandidates takes up to Max executions in one step.
func (s *Store) ClaimCandidates(ctx context.Context, a flowfabric.ClaimCandidatesArgs) (flowfabric.ClaimCandidatesResult, error) {
	var res flowfabric.ClaimCandidatesResult
	var list []claimed
	var refused error
	err := s.db.Write(ctx, a.Max, func(tx *Tx) error {
		res, list, refused = flowfabric.ClaimCandidatesResult{}, list[:0], nil
		hash := flowfabric.CapabilityDigest(a.Capabilities)
		if refused = tx.registerImplicit(&a, hash); refused != nil {
			if flowfabric.AsError(refused) == nil {
				return refused
			}
			return nil
		}
		err := tx.lapseGrants()
		if err == nil {
			list, err = tx.take(&a, hash, &res, list)
		}
		return err
	})
	if err == nil {
		err = refused
	}
	if err != nil {
		return flowfabric.ClaimCandidatesResult{}, err
	}
	var spoilt error
	res.Tasks, spoilt, err = s.payload(ctx, list)
	if err != nil {
		return flowfabric.ClaimCandidatesResult{}, err
	}
	res.More = res.More || spoilt != nil
	return res, nil
}

// sources collects what the worker can take from, in the lanes that yield
// claims, and labels buckets that nobody covers.
func (tx *Tx) sources(a *flowfabric.ClaimCandidatesArgs, hash string, res *flowfabric.ClaimCandidatesResult) ([]source, error) {
	var out []source
	examine := flowfabric.MaxUncoveredBuckets
	for _, lane := range a.Lanes {
		if l := tx.s.lanes[lane]; l != nil && l.State == flowfabric.LaneDisabled {
			continue
		}
		full := tx.full(lane)
		c := tx.s.buckets.coverage(lane, hash, a.Capabilities)
		err := c.eachTenant(a.Namespace, a.Namespaces, func(ns flowfabric.Namespace, t *tenant) error {
			if err := tx.examine(t, &examine, res); err != nil || full {
				return err
			}
			src := source{lane: lane, ns: ns, t: t}
			ok, err := tx.advance(&src, a.Max)
			if ok {
				out = append(out, src)
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// examine looks at the tenant's buckets that the worker does not cover, as many
// as are left to look at, and labels those that nobody covers. The next claim
// goes on behind them.
func (tx *Tx) examine(t *tenant, left *int, res *flowfabric.ClaimCandidatesResult) error {
	for n := len(t.foreign); n > 0 && *left > 0; n-- {
		if t.next >= len(t.foreign) {
			t.next = 0
		}
		e := t.foreign[t.next]
		if e.b.offered == 0 {
			last := len(t.foreign) - 1
			t.foreign[t.next] = t.foreign[last]
			t.foreign[last] = nil
			t.foreign = t.foreign[:last]
			e.foreign = false
			continue
		}
		t.next++
		*left--
		was := e.b.label.UncoveredSince
		if err := tx.uncovered(e.b); err != nil {
			return err
		}
		if was == 0 && e.b.label.UncoveredSince != 0 {
			res.UncoveredLabelled++
		}
	}
	return nil
}

// full reports whether a lane has reached its max_concurrency.
func (tx *Tx) full(lane flowfabric.LaneID) bool {
	l := tx.s.lanes[lane]
	return l != nil && l.MaxConcurrency > 0 && tx.s.countOf(lane)[leasedSlot]+tx.granted(lane) >= int64(l.MaxConcurrency)
}

// take lets the picker choose among the heads of what the worker can take from
// until it has enough.
func (tx *Tx) take(a *flowfabric.ClaimCandidatesArgs, hash string, res *flowfabric.ClaimCandidatesResult, list []claimed) ([]claimed, error) {
	live, err := tx.sources(a, hash, res)
	if err != nil {
		return list, err
	}
	heads := make([]flowfabric.Candidate, len(live))
	for i := range live {
		heads[i] = tx.candidate(live[i].b, live[i].key)
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
		src := &live[i]
		took, err := tx.takeNext(a, src, hash, res, &list)
		if err != nil {
			return list, err
		}
		evaluated++
		if took {
			a.Picker.Taken(heads[i])
		}
		if tx.full(src.lane) {
			live, heads = dropLane(live, heads, src.lane)
			continue
		}
		want := a.Max - len(list) - len(res.Grants)
		if want == 0 && src.t.left() {
			break
		}
		ok, err := tx.advance(src, want)
		if err != nil {
			return list, err
		}
		if ok {
			heads[i] = tx.candidate(src.b, src.key)
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

// advance moves a source to its best candidate, false when there is none.
func (tx *Tx) advance(src *source, want int) (ok bool, err error) {
	src.b, src.key, err = tx.front(src.t, want)
	return src.b != nil, err
}

// dropLane leaves out the sources of a lane that has reached its bound.
func dropLane(live []source, heads []flowfabric.Candidate, lane flowfabric.LaneID) ([]source, []flowfabric.Candidate) {
	n := 0
	for i := range live {
		if live[i].lane != lane {
			live[n], heads[n] = live[i], heads[i]
			n++
		}
	}
	return live[:n], heads[:n]
}

// takeNext takes the candidate a source stands at. One that does not decode, or
// that the rule refuses though the order offers it, is withheld and counts as
// not taken.
func (tx *Tx) takeNext(a *flowfabric.ClaimCandidatesArgs, src *source, hash string, res *flowfabric.ClaimCandidatesResult, list *[]claimed) (bool, error) {
	key := src.key.rowKey()
	r, err := tx.loadKey(key)
	if flowfabric.CodeOf(err) == flowfabric.CodeCorruptRecord {
		return false, tx.withhold(src.b, src.key, err)
	}
	if err != nil {
		return false, err
	}
	if r == nil {
		src.b.forget()
		return false, nil
	}
	refused, err := tx.takeOne(a, r, hash, res, list)
	if err != nil || refused == nil {
		return err == nil, err
	}
	if !r.place.Offered || r.headKey(r.place) != src.key { // it has left the order
		return false, nil
	}
	r.place.Offered = false
	return false, tx.withhold(src.b, src.key, refused)
}

// takeOne grants or claims one candidate; refused tells why the rule did not.
func (tx *Tx) takeOne(a *flowfabric.ClaimCandidatesArgs, r *row, hash string, res *flowfabric.ClaimCandidatesResult, list *[]claimed) (refused, err error) {
	if a.GrantTTLMs > 0 {
		g, fx, refused := rules.OfferGrant(r.st, rules.GrantInput{GrantID: newGrantID(), LaneID: r.bucket.lane, WorkerID: a.WorkerID,
			WorkerInstanceID: a.WorkerInstanceID, Capabilities: a.Capabilities, TTLMs: a.GrantTTLMs, IssuedBy: flowfabric.IssuedByScheduler}, tx.Now)
		if fx.Changed {
			if err := tx.save(r, &fx); err != nil {
				return refused, err
			}
		}
		if refused == nil {
			res.Grants = append(res.Grants, g)
		}
		return refused, nil
	}
	in := rules.ClaimInput{LaneID: r.bucket.lane, WorkerID: a.WorkerID, WorkerInstanceID: a.WorkerInstanceID, Capabilities: a.Capabilities,
		CapabilityHash: hash, LeaseTTLMs: a.LeaseTTLMs, IssuedBy: flowfabric.IssuedByScheduler}
	mint(&in)
	c, fx, refused := rules.GrantAndClaim(r.st, in, tx.Now)
	if fx.Changed {
		r.counted = refused == nil
		if err := tx.save(r, &fx); err != nil {
			return refused, err
		}
	}
	if refused == nil {
		tx.s.warnReclaims(&c.Task)
		*list = append(*list, claimed{r.xid, c.Task})
	}
	return refused, nil
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

var qWithhold = &Query{`update executions set offered = 0 where part = ? and uuid = ?`}

// withhold takes a candidate that cannot be taken out of the order of claimers,
// so that it stands in nobody's way. A reconcile names it, and puts it back once
// it is sound.
func (tx *Tx) withhold(b *bucket, k headKey, cause error) error {
	key := k.rowKey()
	tx.s.cfg.Logger.Error("a candidate cannot be taken and is withheld", "execution_id", executionID(key), "error", cause)
	q := tx.conn.Stmt(qWithhold)
	q.Int(int64(key.part))
	q.Blob(key.uuid[:])
	if err := q.Exec(); err != nil {
		return err
	}
	b.withdraw(k)
	return nil
}
