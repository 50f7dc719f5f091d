package sqlstore

import (
	"context"
	"math"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/rules"
)

// sweepBatch is how many executions one step of a sweep changes, sweepExamined
// how many it looks at.
const (
	sweepBatch    = 200
	sweepExamined = 2_000
)

// MarkLeaseExpiredIfDue makes a lapse visible.
func (s *Store) MarkLeaseExpiredIfDue(ctx context.Context, id flowfabric.ExecutionID) (res flowfabric.MarkLeaseExpiredResult, err error) {
	err = s.change(ctx, id, func(tx *Tx, st *rules.State) (fx rules.Effects, err error) {
		res, fx = rules.MarkLeaseExpired(st, tx.Now)
		return fx, fx.Err
	})
	if flowfabric.CodeOf(err) == flowfabric.CodeExecutionNotFound {
		return flowfabric.MarkLeaseExpiredResult{Outcome: flowfabric.UpkeepAlreadySatisfied, Reason: string(flowfabric.CodeExecutionNotFound)}, nil
	}
	return res, err
}

// PromoteDelayed makes a delayed execution eligible when its time has come.
func (s *Store) PromoteDelayed(ctx context.Context, id flowfabric.ExecutionID) (out flowfabric.UpkeepOutcome, err error) {
	err = s.change(ctx, id, func(tx *Tx, st *rules.State) (fx rules.Effects, err error) {
		out, fx = rules.PromoteDelayed(st, tx.Now)
		return fx, fx.Err
	})
	if flowfabric.CodeOf(err) == flowfabric.CodeExecutionNotFound {
		return flowfabric.UpkeepCleaned, nil
	}
	return out, err
}

// ExpireExecution acts on a passed attempt timeout or execution deadline.
func (s *Store) ExpireExecution(ctx context.Context, id flowfabric.ExecutionID, reason flowfabric.ExpireReason) (out flowfabric.UpkeepOutcome, err error) {
	err = s.change(ctx, id, func(tx *Tx, st *rules.State) (fx rules.Effects, err error) {
		out, fx = rules.Expire(st, reason, tx.Now, jitter)
		return fx, fx.Err
	})
	if flowfabric.CodeOf(err) == flowfabric.CodeExecutionNotFound {
		return flowfabric.UpkeepCleaned, nil
	}
	return out, err
}

// Purge deletes an ended execution whose retention has passed, whole.
func (s *Store) Purge(ctx context.Context, id flowfabric.ExecutionID) (out flowfabric.UpkeepOutcome, err error) {
	if err := rules.ValidateExecutionID(id, s.parts); err != nil {
		return "", err
	}
	var refused error
	err = s.write(ctx, func(tx *Tx) error {
		var r *row
		var err error
		if r, refused, err = tx.find(id); err != nil || refused != nil {
			return err
		}
		if !rules.Purgeable(r.st, tx.Now) {
			out = flowfabric.UpkeepNotYetDue
			return nil
		}
		out = flowfabric.UpkeepPurged
		return tx.purge(r)
	})
	if flowfabric.CodeOf(refused) == flowfabric.CodeExecutionNotFound {
		return flowfabric.UpkeepCleaned, err
	}
	if err == nil {
		err = refused
	}
	return out, err
}

var (
	qDeleteRow      = &Query{`delete from executions where xid = ?`}
	qDeleteInput    = &Query{`delete from inputs where xid = ?`}
	qDeleteTags     = &Query{`delete from execution_tags where xid = ?`}
	qDeleteAttempts = &Query{`delete from attempts where xid = ?`}
)

func (tx *Tx) purge(r *row) error {
	queries := []*Query{qDeleteRow, qDeleteInput, qDeleteResult}
	if r.hasTags || len(r.st.Tags) > 0 {
		queries = append(queries, qDeleteTags)
	}
	if r.st.Exec.TotalAttemptCount > 1 {
		queries = append(queries, qDeleteAttempts)
	}
	if r.st.Wait != nil {
		if err := tx.dropWait(r); err != nil {
			return err
		}
	}
	for _, query := range queries {
		q := tx.conn.Stmt(query)
		q.Int(r.xid)
		if err := q.Exec(); err != nil {
			return err
		}
	}
	tx.count(r.st.Exec.LaneID, stateSlot(r.state), -1)
	tx.member(r.bucket, -1)
	tx.s.cache.drop(r.key)
	return nil
}

var (
	qListDue = &Query{`select xid, bucket, state, offered, prio_key, due_at, holder, rec, part, uuid from executions
		where due_at <= ? order by due_at, xid limit ?`}
	qNextDue = &Query{`select min(due_at) from executions where due_at is not null`}
)

// Tick acts on what is due, in order of due time, one step per batch.
func (s *Store) Tick(ctx context.Context, a flowfabric.TickArgs) (flowfabric.TickResult, error) {
	limit := a.Limit
	if limit <= 0 {
		limit = sweepBatch
	}
	due := false
	err := s.db.Read(ctx, func(c Conn) error {
		q := c.Stmt(qNextDue)
		ok, err := q.Next()
		if err != nil {
			return err
		}
		due = ok && !q.ColNull(0) && flowfabric.Millis(q.ColInt(0)) <= s.Now()
		q.Stop()
		return nil
	})
	res := flowfabric.TickResult{Duties: make(map[string]int)}
	if err != nil {
		return res, err
	}
	if !due {
		return res, s.nextDue(ctx, &res)
	}
	err = s.db.Write(ctx, limit, func(tx *Tx) error {
		res = flowfabric.TickResult{Duties: make(map[string]int)}
		return tx.tick(limit, &res)
	})
	if err != nil {
		return flowfabric.TickResult{Duties: map[string]int{}}, err
	}
	return res, s.nextDue(ctx, &res)
}

func (s *Store) nextDue(ctx context.Context, res *flowfabric.TickResult) error {
	return s.db.Read(ctx, func(c Conn) error {
		q := c.Stmt(qNextDue)
		ok, err := q.Next()
		if err == nil && ok && !q.ColNull(0) {
			res.NextDue = flowfabric.Millis(q.ColInt(0))
		}
		q.Stop()
		return err
	})
}

func (tx *Tx) tick(limit int, res *flowfabric.TickResult) error {
	q := tx.conn.Stmt(qListDue)
	q.Int(int64(tx.Now))
	q.Int(int64(limit))
	var keys []rowKey
	for {
		ok, err := q.Next()
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		key := rowKey{part: uint16(q.ColInt(8))}
		q.ColBlob(9, key.uuid[:0])
		keys = append(keys, key)
	}
	res.More = len(keys) == limit
	for _, key := range keys {
		res.Examined++
		r, err := tx.load(executionID(key))
		if err != nil {
			if flowfabric.AsError(err) == nil {
				return err
			}
			if err := tx.putOff(key, err, res); err != nil {
				return err
			}
			continue
		}
		if r == nil {
			continue
		}
		if err := tx.runDuties(r, res); err != nil {
			return err
		}
	}
	return nil
}

var qDeferDue = &Query{`update executions set due_at = ? where part = ? and uuid = ?`}

// badItemDelayMs puts off an execution that does not decode or would break a
// validity rule, so that one bad item never stops a partition.
const badItemDelayMs = 10_000

func (tx *Tx) putOff(key rowKey, cause error, res *flowfabric.TickResult) error {
	res.Errors++
	tx.s.cfg.Logger.Error("a due execution cannot be acted upon and is put off", "execution_id", executionID(key), "error", cause)
	q := tx.conn.Stmt(qDeferDue)
	q.Int(int64(tx.Now) + badItemDelayMs)
	q.Int(int64(key.part))
	q.Blob(key.uuid[:])
	return q.Exec()
}

// runDuties applies the due duties of one execution, each on what the former
// left, and re-scores it.
func (tx *Tx) runDuties(r *row, res *flowfabric.TickResult) error {
	for range 8 {
		d := rules.NextDuty(r.st, tx.Now)
		if d == rules.DutyNone {
			break
		}
		res.Duties[string(d)]++
		if d == rules.DutyRetention {
			return tx.purge(r)
		}
		fx := rules.RunDuty(r.st, d, tx.Now, jitter)
		if fx.Err != nil {
			r.place.DueAt = tx.Now + badItemDelayMs
			return tx.putOff(r.key, fx.Err, res)
		}
		if !fx.Changed {
			break
		}
		if err := tx.save(r, &fx); err != nil {
			return err
		}
	}
	return tx.rescore(r)
}

var qSetDue = &Query{`update executions set due_at = ?, offered = ? where xid = ?`}

// rescore brings due_at and offered up to what the record says: due_at may have
// been earlier than the truth, and time alone may offer an execution again.
func (tx *Tx) rescore(r *row) error {
	now := placeOf(r.st, tx.Now)
	if now.DueAt == r.place.DueAt && now.Offered == r.place.Offered {
		return nil
	}
	old := r.place
	r.place.DueAt, r.place.Offered = now.DueAt, now.Offered
	q := tx.conn.Stmt(qSetDue)
	bindMillis(q, now.DueAt)
	bindFlag(q, now.Offered)
	q.Int(r.xid)
	if err := q.Exec(); err != nil {
		return err
	}
	tx.place(r, old)
	if now.Offered && !old.Offered {
		tx.offer(r)
	}
	return nil
}

// Reconcile checks and repairs the index columns of a part of one partition.
func (s *Store) Reconcile(ctx context.Context, a flowfabric.ReconcileArgs) (flowfabric.ReconcileResult, error) {
	var res flowfabric.ReconcileResult
	if int(a.Partition) >= s.parts.NumFlowPartitions {
		return res, flowfabric.InvalidInput("partition", "is %d, the deployment has %d", a.Partition, s.parts.NumFlowPartitions)
	}
	limit := a.Limit
	if limit <= 0 {
		limit = 100
	}
	after := []byte{}
	if a.Cursor != "" {
		k := keyOf(a.Cursor)
		after = k.uuid[:]
	}
	type wrong struct{ id flowfabric.ExecutionID }
	var suspects []wrong
	err := s.db.Read(ctx, func(c Conn) error {
		q := c.Stmt(qListRows)
		q.Int(int64(a.Partition))
		q.Blob(after)
		q.Int(int64(limit) + 1)
		var rows []*row
		for {
			ok, err := q.Next()
			if err != nil {
				return err
			}
			if !ok {
				break
			}
			if res.Examined == limit {
				q.Stop()
				res.Next = rows[len(rows)-1].st.Exec.ExecutionID
				break
			}
			res.Examined++
			key := rowKey{part: a.Partition}
			copy(key.uuid[:], q.ColBlob(8, nil))
			r, err := s.readRow("reconcile", q, key)
			if err == nil && r.hasPolicy { // the reclaim cap decides on places
				err = s.readAside(c, r)
			}
			if err == nil && r.hasWait {
				err = s.readWait(c, "reconcile", r)
			}
			if err != nil {
				res.Violations = append(res.Violations, string(executionID(key))+": "+err.Error())
				r = &row{key: key, st: &rules.State{Exec: flowfabric.Execution{ExecutionID: executionID(key)}}}
			} else if misplaced(r, s.Now()) || strayWait(r) || waitFault(r) != nil || rules.Check(r.st) != nil {
				suspects = append(suspects, wrong{executionID(key)})
			}
			rows = append(rows, r)
		}
		return nil
	})
	if err != nil || len(suspects) == 0 {
		return res, err
	}
	found := res
	err = s.db.Write(ctx, len(suspects), func(tx *Tx) error {
		res = found
		for _, w := range suspects {
			if err := tx.repair(w.id, &res); err != nil {
				return err
			}
		}
		return nil
	})
	return res, err
}

// misplaced reports columns that contradict the record. A due instant earlier
// than the truth is no fault, nor is a row that time alone offers again, by the
// lapse of a grant, while it is due: the next tick offers it.
func misplaced(r *row, now flowfabric.Millis) bool {
	p := placeOf(r.st, now)
	waits := p.Offered && r.place.DueAt != 0 && r.place.DueAt <= now
	return p.Offered != r.place.Offered && !waits || p.PrioKey != r.place.PrioKey || p.Holder != r.place.Holder ||
		p.DueAt != r.place.DueAt && (r.place.DueAt == 0 || p.DueAt != 0 && p.DueAt < r.place.DueAt)
}

func (tx *Tx) repair(id flowfabric.ExecutionID, res *flowfabric.ReconcileResult) error {
	tx.s.cache.drop(keyOf(id)) // look at what is stored, not at what is remembered
	r, err := tx.load(id)
	if err != nil || r == nil {
		return err
	}
	for _, err := range []error{rules.Check(r.st), waitFault(r)} {
		if err != nil {
			res.Violations = append(res.Violations, string(id)+": "+err.Error())
			return nil
		}
	}
	if strayWait(r) {
		if err := tx.repairWait(r); err != nil {
			return err
		}
		res.Repaired++
		tx.s.cfg.Logger.Warn("an execution's suspension was repaired", "execution_id", id)
	}
	if !misplaced(r, tx.Now) {
		return nil
	}
	old := r.place
	r.place = placeOf(r.st, tx.Now)
	tx.scratch = appendRecord(tx.scratch[:0], r)
	q := tx.conn.Stmt(qUpdateRow)
	q.Int(int64(publicStates.of(r.state)))
	bindFlag(q, r.place.Offered)
	q.Int(r.place.PrioKey)
	bindMillis(q, r.place.DueAt)
	if r.place.Holder == "" {
		q.Null()
	} else {
		q.Text(string(r.place.Holder))
	}
	q.Blob(tx.scratch)
	q.Int(r.xid)
	if err := q.Exec(); err != nil {
		return err
	}
	tx.place(r, old)
	r.bucket.forget()
	if r.place.Offered && !old.Offered {
		tx.offer(r)
	}
	res.Repaired++
	tx.s.cfg.Logger.Warn("an execution's index columns were repaired", "execution_id", id)
	return nil
}

// SweepRouteLabels compares the labels of all non-empty buckets with the
// registry, in both directions.
func (s *Store) SweepRouteLabels(ctx context.Context) (flowfabric.SweepResult, error) {
	var res flowfabric.SweepResult
	if !s.mayRelabel() {
		return res, nil
	}
	err := s.write(ctx, func(tx *Tx) error {
		res = flowfabric.SweepResult{}
		for _, b := range s.buckets.byID {
			if b.offered == 0 && b.label.UncoveredSince == 0 {
				continue
			}
			covered := tx.covered(b)
			switch {
			case covered && b.label.UncoveredSince != 0:
				if err := tx.label(b, rules.Label{LastMismatchAt: b.label.LastMismatchAt}); err != nil {
					return err
				}
			case !covered && b.label.UncoveredSince == 0 && s.named[b.lane]:
				if err := tx.label(b, rules.Label{UncoveredSince: tx.Now, LastMismatchAt: tx.Now}); err != nil {
					return err
				}
			default:
				continue
			}
			res.Rows++
		}
		return nil
	})
	return res, err
}

// mayRelabel is a cheap look from outside the writer: a store without buckets
// that need a worker has no label to set or lift.
func (s *Store) mayRelabel() bool {
	s.bucketMu.RLock()
	defer s.bucketMu.RUnlock()
	return len(s.buckets.byID) > 0
}

// SweepLanes moves members of lanes that were disabled or enabled.
func (s *Store) SweepLanes(ctx context.Context) (flowfabric.SweepResult, error) {
	var res flowfabric.SweepResult
	s.pub.RLock()
	pending := false
	for _, l := range s.pub.lanes {
		pending = pending || l.SweepPending || l.State == flowfabric.LaneDisabled
	}
	s.pub.RUnlock()
	if !pending {
		return res, nil
	}
	err := s.db.Write(ctx, sweepBatch, func(tx *Tx) error {
		res = flowfabric.SweepResult{}
		for _, l := range s.lanes {
			if !l.SweepPending && l.State != flowfabric.LaneDisabled {
				continue
			}
			n, more, err := tx.sweepLane(l)
			if err != nil {
				return err
			}
			res.Rows += n
			res.More = res.More || more
		}
		return nil
	})
	return res, err
}

var (
	// State 0 is waiting; the literals let the partial indexes serve.
	qLaneEligible = &Query{`select part, uuid, prio_key, xid from executions
		where bucket = ? and offered = 1 and state = 0 order by prio_key limit ?`}
	qLaneBlocked = &Query{`select part, uuid, prio_key, xid from executions
		where bucket = ? and offered = 0 and state = 0 and (prio_key, xid) > (?, ?) order by prio_key, xid limit ?`}
)

// sweepPlace is how far a pass over the withheld members of a lane has come.
type sweepPlace struct{ bucket, prio, xid int64 }

// sweepLane moves one batch of a lane's members towards what its state demands,
// and clears the mark when none is left. more tells that another step is needed.
func (tx *Tx) sweepLane(l *laneRecord) (moved int, more bool, err error) {
	if l.State == flowfabric.LaneDisabled {
		moved, more, err = tx.blockMembers(l.LaneID)
	} else {
		moved, more, err = tx.unblockMembers(l.LaneID)
	}
	if err != nil || more || !l.SweepPending {
		return moved, more, err
	}
	done := *l
	done.SweepPending = false
	return moved, false, tx.saveLane(&done)
}

// blockMembers takes the offered members off the order of claimers.
func (tx *Tx) blockMembers(lane flowfabric.LaneID) (moved int, more bool, err error) {
	for _, b := range tx.s.buckets.all[lane] {
		if b.offered == 0 {
			continue
		}
		q := tx.conn.Stmt(qLaneEligible)
		q.Int(b.id)
		q.Int(int64(sweepBatch - moved))
		members, err := sweepMembers(q, true)
		if err != nil {
			return moved, false, err
		}
		for _, m := range members {
			n, err := tx.moveMember(b, m, rules.BlockForLane)
			if err != nil {
				return moved, false, err
			}
			moved += n
		}
		if moved >= sweepBatch {
			return moved, true, nil
		}
	}
	return moved, false, nil
}

// unblockMembers looks through the withheld members, granted ones and those that
// an operator paused among them, for those the lane has blocked. A step looks at
// a bounded number and the next one goes on behind it.
func (tx *Tx) unblockMembers(lane flowfabric.LaneID) (moved int, more bool, err error) {
	at := tx.s.sweeps[lane]
	examined := 0
	for _, b := range tx.s.buckets.all[lane] {
		if b.id < at.bucket {
			continue
		}
		if b.id > at.bucket {
			at = sweepPlace{bucket: b.id, prio: math.MinInt64}
		}
		for ended := false; !ended; {
			limit := min(sweepBatch-moved, sweepExamined-examined)
			if limit <= 0 {
				tx.s.sweeps[lane] = at
				return moved, true, nil
			}
			q := tx.conn.Stmt(qLaneBlocked)
			q.Int(b.id)
			q.Int(at.prio)
			q.Int(at.xid)
			q.Int(int64(limit))
			members, err := sweepMembers(q, false)
			if err != nil {
				return moved, false, err
			}
			for _, m := range members {
				n, err := tx.moveMember(b, m, rules.UnblockForLane)
				if err != nil {
					return moved, false, err
				}
				moved += n
				at.prio, at.xid = m.prio, m.xid
			}
			examined += len(members)
			ended = len(members) < limit
		}
	}
	delete(tx.s.sweeps, lane)
	return moved, false, nil
}

// moveMember applies a sweep's rule to one member; one that does not decode is
// passed over.
func (tx *Tx) moveMember(b *bucket, m sweepMember, rule func(*rules.State, flowfabric.Millis) rules.Effects) (int, error) {
	r, err := tx.loadKey(m.key)
	if flowfabric.CodeOf(err) == flowfabric.CodeCorruptRecord {
		if m.offered {
			return 0, tx.withhold(b, headKey{prio: m.prio, rank: idRank(m.key.part), uuid: m.key.uuid}, err)
		}
		return 0, nil
	}
	if err != nil || r == nil {
		return 0, err
	}
	fx := rule(r.st, tx.Now)
	if fx.Err != nil {
		tx.s.cfg.Logger.Error("a member of a lane cannot be moved", "execution_id", executionID(m.key), "error", fx.Err)
	}
	if !fx.Changed {
		return 0, nil
	}
	return 1, tx.save(r, &fx)
}

type sweepMember struct {
	key       rowKey
	prio, xid int64
	offered   bool
}

func sweepMembers(q Stmt, offered bool) ([]sweepMember, error) {
	var list []sweepMember
	for {
		ok, err := q.Next()
		if err != nil || !ok {
			return list, err
		}
		m := sweepMember{key: rowKey{part: uint16(q.ColInt(0))}, prio: q.ColInt(2), xid: q.ColInt(3), offered: offered}
		q.ColBlob(1, m.key.uuid[:0])
		list = append(list, m)
	}
}

// SweepWorkers deletes registrations past their TTL.
func (s *Store) SweepWorkers(ctx context.Context) (flowfabric.SweepResult, error) {
	var res flowfabric.SweepResult
	now := s.Now()
	s.pub.RLock()
	dead := 0
	for _, w := range s.pub.workers {
		if now >= w.ExpiresAt {
			dead++
		}
	}
	s.pub.RUnlock()
	if dead == 0 {
		return res, nil
	}
	err := s.db.Write(ctx, dead, func(tx *Tx) error {
		res = flowfabric.SweepResult{}
		for k, w := range s.registry.workers {
			if tx.Now < w.reg.ExpiresAt {
				continue
			}
			if res.Rows == sweepBatch {
				res.More = true
				break
			}
			if err := tx.dropWorker(k, "ttl_swept", ""); err != nil {
				return err
			}
			res.Rows++
		}
		return nil
	})
	return res, err
}

var (
	qTrimKeys = &Query{`delete from idempotency where (namespace, key) in
		(select namespace, key from idempotency where expires_at <= ? order by expires_at limit ?)`}
	qTrimWorkers = &Query{`delete from worker_events where id in (select id from worker_events where at < ? order by id limit ?)`}
	qTrimDedup   = &Query{`delete from signal_dedup where (xid, waitpoint, key) in
		(select xid, waitpoint, key from signal_dedup where expires_at <= ? order by expires_at limit ?)`}
	qTrimReplays = &Query{`delete from suspend_replays where (xid, lease, key) in
		(select xid, lease, key from suspend_replays where expires_at <= ? order by expires_at limit ?)`}
	qSpentDedup  = &Query{`select 1 from signal_dedup where expires_at <= ? limit 1`}
	qSpentReplay = &Query{`select 1 from suspend_replays where expires_at <= ? limit 1`}
	qSpentKey    = &Query{`select 1 from idempotency where expires_at <= ? limit 1`}
	qSpentEvent  = &Query{`select 1 from worker_events where id = (select min(id) from worker_events) and at < ?`}
)

// trimSpent deletes expired idempotency keys, of signals and suspends too, and
// old entries of the registry's log, in bounded steps.
func (s *Store) trimSpent(ctx context.Context) error {
	for _, spent := range []struct {
		look, trim *Query
		before     flowfabric.Millis
	}{
		{qSpentKey, qTrimKeys, s.Now()},
		{qSpentDedup, qTrimDedup, s.Now()},
		{qSpentReplay, qTrimReplays, s.Now()},
		{qSpentEvent, qTrimWorkers, s.Now() - flowfabric.FeedRetentionMs},
	} {
		for range 20 {
			left := false
			err := s.db.Read(ctx, func(c Conn) (err error) {
				q := c.Stmt(spent.look)
				q.Int(int64(spent.before))
				left, err = q.Next()
				q.Stop()
				return err
			})
			if err != nil {
				return err
			}
			if !left {
				break
			}
			err = s.db.Write(ctx, trimBatch/10, func(tx *Tx) error {
				q := tx.conn.Stmt(spent.trim)
				q.Int(int64(spent.before))
				q.Int(trimBatch)
				return q.Exec()
			})
			if err != nil {
				return err
			}
		}
	}
	return nil
}
