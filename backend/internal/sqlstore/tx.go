package sqlstore

import (
	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/rules"
)

// Tx is a write transaction: a group of operations that commit together.
type Tx struct {
	s    *Store
	conn Conn
	// Now is the store's clock, read once for the group.
	Now flowfabric.Millis

	wake    []flowfabric.WakeEvent
	offered map[*bucket]int
	dirty   struct {
		lanes   map[flowfabric.LaneID]bool
		workers map[workerKey]bool
		counts  map[flowfabric.LaneID]*laneCount
		buckets map[*bucket]int
		heads   []headChange
	}
	scratch []byte
}

var (
	qSelectRow = &Query{`select xid, bucket, state, offered, prio_key, due_at, holder, rec from executions where part = ? and uuid = ?`}
	qInsertRow = &Query{`insert into executions (xid, part, uuid, bucket, state, offered, prio_key, id_rank, due_at, holder, rec)
		values (?, ?, ?, ?, ?, ?, ?, ?, ?, null, ?)`}
	qUpdateRow = &Query{`update executions set state = ?, offered = ?, prio_key = ?, due_at = ?, holder = ?, rec = ? where xid = ?`}
	// A claim or an ending changes no place in the eligible order's columns but
	// offered; a renewal or a note on the record changes no index at all.
	qUpdateRec    = &Query{`update executions set rec = ? where xid = ?`}
	qUpdateRecDue = &Query{`update executions set rec = ?, due_at = ? where xid = ?`}
	qInsertInput  = &Query{`insert into inputs (xid, policy, encoding, data) values (?, ?, ?, ?)`}
	qSelectPolicy = &Query{`select policy from inputs where xid = ?`}
	qSelectTags   = &Query{`select key, value from execution_tags where xid = ? order by key`}
	qUpsertResult = &Query{`insert into results (xid, encoding, data) values (?, ?, ?)
		on conflict (xid) do update set encoding = excluded.encoding, data = excluded.data`}
	qDeleteResult  = &Query{`delete from results where xid = ?`}
	qInsertAttempt = &Query{`insert into attempts (xid, idx, rec) values (?, ?, ?)
		on conflict (xid, idx) do update set rec = excluded.rec`}
	qInsertEvent = &Query{`insert into events (feed, pos, part, seq, at, prev, rec) values (?, ?, ?, ?, ?, ?, ?)`}
)

// load returns the execution's row for a change, nil when there is none. It is
// the locking read of every transition.
func (tx *Tx) load(id flowfabric.ExecutionID) (*row, error) { return tx.loadKey(keyOf(id)) }

func (tx *Tx) loadKey(key rowKey) (*row, error) {
	if r := tx.s.cache.get(key); r != nil {
		return r, nil
	}
	q := tx.conn.Stmt(qSelectRow)
	q.Int(int64(key.part))
	q.Blob(key.uuid[:])
	ok, err := q.Next()
	if err != nil || !ok {
		return nil, err
	}
	r, err := tx.s.readRow("load_execution", q, key)
	q.Stop()
	if err != nil {
		return nil, err
	}
	if err := tx.s.readAside(tx.conn, r); err != nil {
		return nil, err
	}
	if r.hasWait {
		if err := tx.s.readWait(tx.conn, "load_execution", r); err != nil {
			return nil, err
		}
	}
	tx.s.cache.put(r)
	return r, nil
}

// readRow decodes the row that q stands on, columns as in qSelectRow.
func (s *Store) readRow(op string, q Stmt, key rowKey) (*row, error) {
	r := &row{xid: q.ColInt(0), key: key, st: &rules.State{Policy: noPolicy}}
	r.bucket = s.bucket(q.ColInt(1))
	if r.bucket == nil {
		return nil, corrupt(op, "lane_id", "unknown bucket")
	}
	x := &r.st.Exec
	x.ExecutionID = executionID(key)
	x.LaneID, x.Namespace, x.RequiredCapabilities = r.bucket.lane, r.bucket.namespace, r.bucket.required
	state := q.ColInt(2)
	if state < 0 || state >= int64(len(publicStates.labels)) {
		return nil, corrupt(op, "public_state", "unknown value")
	}
	r.state = publicStates.labels[state]
	r.place.Offered = q.ColInt(3) == 1
	r.place.PrioKey = q.ColInt(4)
	r.place.DueAt = flowfabric.Millis(q.ColInt(5))
	r.place.Holder = flowfabric.WorkerInstanceID(q.ColText(6))
	if err := decodeRecord(op, q.ColBlob(7, nil), r); err != nil {
		return nil, err
	}
	if x.PublicState != r.state {
		return nil, corrupt(op, "public_state", "record and column differ")
	}
	r.leased = r.counted && x.OwnershipState == flowfabric.OwnershipLeased
	return r, nil
}

// readAside reads the policy and the tags that lie apart from the row.
func (s *Store) readAside(c Conn, r *row) error {
	r.st.Policy = noPolicy
	if r.hasPolicy {
		q := c.Stmt(qSelectPolicy)
		q.Int(r.xid)
		ok, err := q.Next()
		if err != nil {
			return err
		}
		var doc []byte
		if ok {
			doc = q.ColBlob(0, nil)
			q.Stop()
		}
		p, err := flowfabric.ParsePolicy(doc)
		if err != nil {
			return corrupt("load_execution", "policy", err.Error())
		}
		r.st.Policy = p
	}
	if r.hasTags {
		q := c.Stmt(qSelectTags)
		q.Int(r.xid)
		tags := make(map[string]string)
		for {
			ok, err := q.Next()
			if err != nil {
				return err
			}
			if !ok {
				break
			}
			tags[q.ColText(0)] = q.ColText(1)
		}
		r.st.Tags = tags
	}
	return nil
}

var noPolicy = &flowfabric.Policy{}

func executionID(k rowKey) flowfabric.ExecutionID {
	buf := make([]byte, 0, 48)
	buf = append(buf, "{fp:"...)
	buf = appendInt(buf, int64(k.part))
	buf = append(buf, "}:"...)
	buf = append(buf, formatUUID(k.uuid[:])...)
	return flowfabric.ExecutionID(buf)
}

// insert stores a new execution.
func (tx *Tx) insert(r *row, input []byte, encoding string, policy []byte, fx *rules.Effects) error {
	s := tx.s
	s.lastXid++
	r.xid = s.lastXid
	r.place = placeOf(r.st, tx.Now)
	r.state = r.st.Exec.PublicState
	r.hasPolicy = len(policy) > 0
	tx.scratch = appendRecord(tx.scratch[:0], r)
	q := tx.conn.Stmt(qInsertRow)
	q.Int(r.xid)
	q.Int(int64(r.key.part))
	q.Blob(r.key.uuid[:])
	q.Int(r.bucket.id)
	q.Int(int64(publicStates.of(r.state)))
	bindFlag(q, r.place.Offered)
	q.Int(r.place.PrioKey)
	q.Int(idRank(r.key.part))
	bindMillis(q, r.place.DueAt)
	q.Blob(tx.scratch)
	if err := q.Exec(); err != nil {
		return err
	}
	q = tx.conn.Stmt(qInsertInput)
	q.Int(r.xid)
	if r.hasPolicy {
		q.Blob(policy)
	} else {
		q.Null()
	}
	q.Text(encoding)
	q.Blob(input)
	if err := q.Exec(); err != nil {
		return err
	}
	tx.count(r.st.Exec.LaneID, stateSlot(r.state), 1)
	tx.member(r.bucket, 1)
	tx.place(r, rules.Placement{})
	if fx.Offered {
		tx.offer(r)
	}
	s.cache.put(r)
	return nil
}

// save writes a changed execution and everything its transition owes: result,
// superseded attempt, events, counts, wake-ups.
func (tx *Tx) save(r *row, fx *rules.Effects) error {
	if fx.Superseded != nil {
		q := tx.conn.Stmt(qInsertAttempt)
		q.Int(r.xid)
		q.Int(int64(fx.Superseded.AttemptIndex))
		q.Blob(encodeAttempt(fx.Superseded))
		if err := q.Exec(); err != nil {
			return err
		}
	}
	if err := tx.saveResult(r, fx); err != nil {
		return err
	}
	if fx.Wait != nil {
		if err := tx.saveWait(r, fx.Wait); err != nil {
			return err
		}
	}
	for i := range fx.Events {
		if err := tx.event(r, &fx.Events[i]); err != nil {
			return err
		}
	}
	old, oldState, wasLeased := r.place, r.state, r.leased
	r.place = placeOf(r.st, tx.Now)
	r.state = r.st.Exec.PublicState
	r.leased = r.counted && r.st.Exec.OwnershipState == flowfabric.OwnershipLeased
	tx.scratch = appendRecord(tx.scratch[:0], r)
	if err := tx.update(r, old, oldState); err != nil {
		return err
	}
	if r.state != oldState {
		tx.count(r.st.Exec.LaneID, stateSlot(oldState), -1)
		tx.count(r.st.Exec.LaneID, stateSlot(r.state), 1)
	}
	if r.leased != wasLeased {
		n := int64(1)
		if wasLeased {
			n = -1
			tx.wakeBounded(r.bucket.lane)
		}
		tx.count(r.st.Exec.LaneID, leasedSlot, n)
	}
	tx.place(r, old)
	if r.st.Grant != nil || len(tx.s.grants.byKey) > 0 {
		tx.s.grants.note(r)
	}
	if fx.Offered {
		tx.offer(r)
	}
	if settled := r.state.Terminal() || r.state == flowfabric.PublicSuspended; settled && r.state != oldState {
		tx.settled(r, fx)
	}
	if r.state.Terminal() {
		tx.s.cache.drop(r.key)
	}
	return nil
}

func (tx *Tx) saveResult(r *row, fx *rules.Effects) error {
	switch fx.Result {
	case rules.ResultSet:
		q := tx.conn.Stmt(qUpsertResult)
		q.Int(r.xid)
		q.Text(fx.ResultEncoding)
		q.Blob(fx.ResultPayload)
		return q.Exec()
	case rules.ResultRemoved:
		if r.st.Exec.ReplayCount == 0 {
			return nil // a result is only ever left behind by an ending before a replay
		}
		q := tx.conn.Stmt(qDeleteResult)
		q.Int(r.xid)
		return q.Exec()
	}
	return nil
}

// update writes the encoded record with as few index changes as the placement
// needs. A due instant that moves later on a lease still held stays as it is:
// the tick re-scores, so a renewal touches no index.
func (tx *Tx) update(r *row, old rules.Placement, oldState flowfabric.PublicState) error {
	same := r.state == oldState && r.place.Offered == old.Offered && r.place.PrioKey == old.PrioKey && r.place.Holder == old.Holder
	if same && r.place.Holder != "" && old.DueAt != 0 && r.place.DueAt > old.DueAt {
		r.place.DueAt = old.DueAt
	}
	if same && r.place.DueAt == old.DueAt {
		q := tx.conn.Stmt(qUpdateRec)
		q.Blob(tx.scratch)
		q.Int(r.xid)
		return q.Exec()
	}
	if same {
		q := tx.conn.Stmt(qUpdateRecDue)
		q.Blob(tx.scratch)
		bindMillis(q, r.place.DueAt)
		q.Int(r.xid)
		return q.Exec()
	}
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
	return q.Exec()
}

// placeOf is the placement of an execution. Unlike the rule's, it keeps the
// holder while the execution is active at all, so that one index finds held and
// lapsed leases alike; reads look at the record.
func placeOf(st *rules.State, now flowfabric.Millis) rules.Placement {
	p := rules.Place(st, now)
	if st.Exec.LifecyclePhase == flowfabric.PhaseActive {
		p.Holder = st.Exec.CurrentWorkerInstanceID
	}
	return p
}

// offer raises an eligibility event, one per bucket and group.
func (tx *Tx) offer(r *row) {
	if tx.offered == nil {
		tx.offered = make(map[*bucket]int, 4)
	}
	if i, ok := tx.offered[r.bucket]; ok {
		tx.wake[i].Count++
		return
	}
	tx.offered[r.bucket] = len(tx.wake)
	tx.wake = append(tx.wake, flowfabric.WakeEvent{
		Kind: flowfabric.WakeEligible, Partition: r.key.part, LaneID: r.bucket.lane, Namespace: r.bucket.namespace,
		Required: r.bucket.required, Count: 1,
	})
}

func (tx *Tx) settled(r *row, fx *rules.Effects) {
	ev := flowfabric.WakeEvent{Kind: flowfabric.WakeSettled, Partition: r.key.part, ExecutionID: r.st.Exec.ExecutionID}
	for i := range fx.Events {
		if fx.Events[i].Feed == flowfabric.FeedCompletions {
			ev.Completion = &fx.Events[i]
		}
	}
	tx.wake = append(tx.wake, ev)
}

func bindMillis(q Stmt, v flowfabric.Millis) {
	if v == 0 {
		q.Null()
		return
	}
	q.Int(int64(v))
}

func bindFlag(q Stmt, v bool) {
	if v {
		q.Int(1)
		return
	}
	q.Int(0)
}
