package sqlstore

import (
	"context"
	"encoding/base64"
	"fmt"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/rules"
)

var (
	qSelectSuspension = &Query{`select open_at, rec from suspensions where xid = ?`}
	qUpsertSuspension = &Query{`insert into suspensions (xid, part, uuid, bucket, open_at, rec) values (?, ?, ?, ?, ?, ?)
		on conflict (xid) do update set open_at = excluded.open_at, rec = excluded.rec`}
	qDeleteSuspension = &Query{`delete from suspensions where xid = ?`}
	qListSatisfiers   = &Query{`select rec from satisfiers where xid = ? order by n`}
	qInsertSatisfiers = &Query{`insert into satisfiers (xid, n, rec) values (?, ?, ?)`}
	qDeleteSatisfiers = &Query{`delete from satisfiers where xid = ?`}
	qListSuspended    = &Query{`select part, uuid, bucket, open_at, rec from suspensions
		where open_at is not null and part <= ? and (part, open_at, uuid) > (?, ?, ?) order by part, open_at, uuid limit ?`}

	qSelectReplay = &Query{`select rec, expires_at from suspend_replays where xid = ? and lease = ? and key = ?`}
	qUpsertReplay = &Query{`insert into suspend_replays (xid, lease, key, rec, expires_at) values (?, ?, ?, ?, ?)
		on conflict (xid, lease, key) do update set rec = excluded.rec, expires_at = excluded.expires_at`}
	qDeleteReplays = &Query{`delete from suspend_replays where xid = ?`}
)

// neverDue stands in the order of open suspensions for one without a timeout.
const neverDue = int64(1) << 62

// openAt is where a suspension stands among the open ones; 0 means nowhere.
func openAt(st *rules.State) int64 {
	switch {
	case st.Wait == nil || st.Wait.Suspension == nil || st.Wait.Suspension.ClosedAt != 0:
		return 0
	case st.Exec.LifecyclePhase != flowfabric.PhaseSuspended:
		return 0
	case st.Wait.Suspension.TimeoutAt == 0:
		return neverDue
	}
	return int64(st.Wait.Suspension.TimeoutAt)
}

// readWait reads what the execution waits or has waited on, which lies apart
// from its row.
func (s *Store) readWait(c Conn, op string, r *row) (err error) {
	w := &rules.Wait{}
	if w.Suspension, r.openAt, err = readSuspension(c, op, r); err != nil {
		return err
	}
	if w.Open, err = readOpenWaitpoints(c, op, r.xid); err != nil {
		return err
	}
	if w.LastSeq, err = readLastSeq(c, r.xid); err != nil {
		return err
	}
	if mayBuffer(w.Open) {
		if w.Buffered, err = readBuffered(c, op, r); err != nil {
			return err
		}
	}
	r.st.Wait = w
	return nil
}

// mayBuffer reports whether signals can be buffered on any of the waitpoints.
func mayBuffer(open []rules.Waitpoint) bool {
	for i := range open {
		if open[i].State == flowfabric.WaitpointPending && open[i].SignalCount > 0 {
			return true
		}
	}
	return false
}

// readSuspension reads the current or last suspension, nil when there was none.
func readSuspension(c Conn, op string, r *row) (x *rules.Suspension, at int64, err error) {
	q := c.Stmt(qSelectSuspension)
	q.Int(r.xid)
	ok, err := q.Next()
	if err != nil || !ok {
		return nil, 0, err
	}
	if !q.ColNull(0) {
		at = q.ColInt(0)
	}
	rec := q.ColBlob(1, nil)
	q.Stop()
	if x, err = decodeSuspension(op, r.st.Exec.ExecutionID, rec); err != nil {
		return nil, 0, err
	}
	r.moved, err = readSatisfiers(c, op, r.xid, x)
	return x, at, err
}

// maxRecordSatisfiers is how many satisfiers the record of a suspension holds
// before they move to a block of their own.
const maxRecordSatisfiers = 64

// moved tells which satisfiers of a suspension lie in blocks of their own: so many
// signals, and so many of each node's.
type moved struct {
	of      flowfabric.SuspensionID
	blocks  int64
	signals int
	nodes   []int
}

// rest is the suspension without what has moved.
func (m *moved) rest(x *rules.Suspension) *rules.Suspension {
	if m.blocks == 0 {
		return x
	}
	left := *x
	left.SatisfierSignalIDs = x.SatisfierSignalIDs[m.signals:]
	left.Nodes = make([][]string, len(x.Nodes))
	for i, set := range x.Nodes {
		left.Nodes[i] = set[m.nodes[i]:]
	}
	return &left
}

// all notes that everything has moved.
func (m *moved) all(x *rules.Suspension) {
	m.of, m.signals, m.nodes = x.SuspensionID, len(x.SatisfierSignalIDs), make([]int, len(x.Nodes))
	m.blocks++
	for i, set := range x.Nodes {
		m.nodes[i] = len(set)
	}
}

// readSatisfiers puts the satisfiers that have moved before those of the record.
// Every matched signal is one.
func readSatisfiers(c Conn, op string, xid int64, x *rules.Suspension) (m moved, err error) {
	m.of = x.SuspensionID
	if x.MatchedSignalCount <= uint64(len(x.SatisfierSignalIDs)) {
		return m, nil
	}
	last := *x
	x.SatisfierSignalIDs, x.Nodes = nil, make([][]string, len(last.Nodes))
	q := c.Stmt(qListSatisfiers)
	q.Int(xid)
	for {
		ok, err := q.Next()
		if err != nil {
			return m, err
		}
		if !ok {
			break
		}
		if err := decodeSatisfiers(op, q.ColBlob(0, nil), x); err != nil {
			q.Stop()
			return m, err
		}
		m.all(x)
	}
	x.SatisfierSignalIDs = append(x.SatisfierSignalIDs, last.SatisfierSignalIDs...)
	for i, set := range last.Nodes {
		x.Nodes[i] = append(x.Nodes[i], set...)
	}
	if x.MatchedSignalCount != uint64(len(x.SatisfierSignalIDs)) {
		return m, corrupt(op, "satisfier_signal_ids", "a block is missing")
	}
	return m, nil
}

// moveSatisfiers returns what the record is to hold, once satisfiers have moved to
// a block if there are too many.
func (tx *Tx) moveSatisfiers(r *row, x *rules.Suspension) (*rules.Suspension, error) {
	if r.moved.of != x.SuspensionID {
		if r.moved.blocks > 0 {
			q := tx.conn.Stmt(qDeleteSatisfiers)
			q.Int(r.xid)
			if err := q.Exec(); err != nil {
				return nil, err
			}
		}
		r.moved = moved{of: x.SuspensionID}
	}
	rest := r.moved.rest(x)
	if len(rest.SatisfierSignalIDs) <= maxRecordSatisfiers {
		return rest, nil
	}
	q := tx.conn.Stmt(qInsertSatisfiers)
	q.Int(r.xid)
	q.Int(r.moved.blocks)
	q.Blob(encodeSatisfiers(rest))
	if err := q.Exec(); err != nil {
		return nil, err
	}
	r.moved.all(x)
	return r.moved.rest(x), nil
}

// saveWait writes what a transition changed of an execution's waiting.
func (tx *Tx) saveWait(r *row, change *rules.WaitChange) error {
	if change.Suspension && r.st.Wait.Suspension != nil {
		if err := tx.saveSuspension(r); err != nil {
			return err
		}
	}
	for i := range change.Waitpoints {
		if err := tx.saveWaitpoint(r, &change.Waitpoints[i]); err != nil {
			return err
		}
	}
	for i := range change.New {
		if err := tx.insertSignal(r, &change.New[i]); err != nil {
			return err
		}
	}
	for i := range change.Rewritten {
		if err := tx.rewriteSignal(r, &change.Rewritten[i]); err != nil {
			return err
		}
	}
	for _, id := range change.Consumed {
		if err := tx.consumeSignal(r, id); err != nil {
			return err
		}
	}
	return nil
}

func (tx *Tx) saveSuspension(r *row) error {
	r.openAt = openAt(r.st)
	rec, err := tx.moveSatisfiers(r, r.st.Wait.Suspension)
	if err != nil {
		return err
	}
	q := tx.conn.Stmt(qUpsertSuspension)
	q.Int(r.xid)
	q.Int(int64(r.key.part))
	q.Blob(r.key.uuid[:])
	q.Int(r.bucket.id)
	bindMillis(q, flowfabric.Millis(r.openAt))
	q.Blob(encodeSuspension(rec))
	return q.Exec()
}

// dropWait deletes everything that an execution has waited on.
func (tx *Tx) dropWait(r *row) error {
	for _, query := range []*Query{qDeleteSuspension, qDeleteSatisfiers, qDeleteWaitpoints, qDeleteSignals, qDeletePayloads, qDeleteDedup, qDeleteReplays} {
		q := tx.conn.Stmt(query)
		q.Int(r.xid)
		if err := q.Exec(); err != nil {
			return err
		}
	}
	return nil
}

// Suspend gives a lease up and waits, or finds the condition met already.
func (s *Store) Suspend(ctx context.Context, a flowfabric.SuspendArgs) (res flowfabric.SuspendResult, err error) {
	if a, err = rules.PrepareSuspend(a); err != nil {
		return res, err
	}
	err = s.changeRow(ctx, a.ExecutionID, func(tx *Tx, r *row) (fx rules.Effects, refused, fault error) {
		res, fx, refused, fault = tx.suspend(r, &a)
		return fx, refused, fault
	})
	if err != nil {
		return flowfabric.SuspendResult{}, err
	}
	return res, nil
}

func (tx *Tx) suspend(r *row, a *flowfabric.SuspendArgs) (res flowfabric.SuspendResult, fx rules.Effects, refused, fault error) {
	if a.IdempotencyKey != "" {
		first, err := tx.suspendReplay(r, a)
		if err != nil {
			refused, fault = sortFault(err)
			return res, fx, refused, fault
		}
		if first != nil {
			return *first, fx, nil, nil
		}
	}
	in := rules.SuspendInput{Args: *a, Stored: make([]*rules.StoredWaitpoint, len(a.Waitpoints)), Ring: tx.s.ring}
	for i := range a.Waitpoints {
		w, err := tx.storedWaitpoint("suspend", r, a.Waitpoints[i].WaitpointID)
		if err != nil {
			refused, fault = sortFault(err)
			return res, fx, refused, fault
		}
		in.Stored[i] = w
	}
	res, fx, refused = rules.Suspend(r.st, in, tx.Now)
	if refused != nil {
		return res, fx, refused, nil
	}
	if res.Outcome == flowfabric.SuspendAlreadySatisfied {
		if res.Signals, fault = readResumeSignals(tx.conn, "suspend", r, r.st.Wait.Suspension.SatisfierSignalIDs); fault != nil {
			return res, fx, nil, fault
		}
	}
	if a.IdempotencyKey != "" {
		fault = tx.saveSuspendReplay(r, a, &res)
	}
	return res, fx, nil, fault
}

// sortFault tells a record that does not decode, which refuses its operation
// alone, from a fault of the database. Only for reads before anything changed.
func sortFault(err error) (refused, fault error) {
	if flowfabric.CodeOf(err) == flowfabric.CodeCorruptRecord {
		return err, nil
	}
	return nil, err
}

// suspendReplay returns the answer to an earlier call with the same key under
// the same lease, nil when there is none that still counts.
func (tx *Tx) suspendReplay(r *row, a *flowfabric.SuspendArgs) (*flowfabric.SuspendResult, error) {
	q := tx.conn.Stmt(qSelectReplay)
	q.Int(r.xid)
	q.Text(string(a.Fence.LeaseID))
	q.Text(a.IdempotencyKey)
	ok, err := q.Next()
	if err != nil || !ok {
		return nil, err
	}
	rec, until := q.ColBlob(0, nil), flowfabric.Millis(q.ColInt(1))
	q.Stop()
	if tx.Now >= until {
		return nil, nil
	}
	res, signals, err := decodeReplay(rec)
	if err != nil {
		return nil, err
	}
	if len(signals) > 0 {
		res.Signals, err = readResumeSignals(tx.conn, "suspend", r, signals)
	}
	return &res, err
}

func (tx *Tx) saveSuspendReplay(r *row, a *flowfabric.SuspendArgs, res *flowfabric.SuspendResult) error {
	ttl := rules.SuspendReplayTTL(r.st.Wait.Suspension.TimeoutAt, tx.Now)
	q := tx.conn.Stmt(qUpsertReplay)
	q.Int(r.xid)
	q.Text(string(a.Fence.LeaseID))
	q.Text(a.IdempotencyKey)
	q.Blob(encodeReplay(res))
	q.Int(int64(tx.Now) + ttl)
	return q.Exec()
}

// ResumeExecution ends a suspension whatever its condition.
func (s *Store) ResumeExecution(ctx context.Context, a flowfabric.ResumeExecutionArgs) (res flowfabric.ResumeExecutionResult, err error) {
	if a, err = rules.PrepareResume(a); err != nil {
		return res, err
	}
	err = s.change(ctx, a.ExecutionID, func(tx *Tx, st *rules.State) (fx rules.Effects, err error) {
		res, fx, err = rules.ResumeExecution(st, a, tx.Now)
		return fx, err
	})
	return res, err
}

// ExpireSuspension applies a suspension's timeout if it has come.
func (s *Store) ExpireSuspension(ctx context.Context, id flowfabric.ExecutionID) (res flowfabric.ExpireSuspensionResult, err error) {
	err = s.change(ctx, id, func(tx *Tx, st *rules.State) (fx rules.Effects, err error) {
		res, fx = rules.ExpireSuspension(st, tx.Now)
		return fx, fx.Err
	})
	if flowfabric.CodeOf(err) == flowfabric.CodeExecutionNotFound {
		return flowfabric.ExpireSuspensionResult{Outcome: flowfabric.SuspensionTimeoutNotApplied,
			Reason: string(flowfabric.CodeExecutionNotFound)}, nil
	}
	return res, err
}

// SuspendForBudget suspends an active execution whose budget is spent.
func (s *Store) SuspendForBudget(ctx context.Context, a flowfabric.SuspendForBudgetArgs) (suspended bool, err error) {
	if a.SuspensionID == "" {
		a.SuspensionID = flowfabric.NewSuspensionID()
	}
	err = s.change(ctx, a.ExecutionID, func(tx *Tx, st *rules.State) (fx rules.Effects, err error) {
		suspended, fx = rules.SuspendForBudget(st, a, tx.Now)
		return fx, fx.Err
	})
	return suspended, err
}

// GetSuspension returns the current or last suspension, nil when there was none.
func (s *Store) GetSuspension(ctx context.Context, id flowfabric.ExecutionID) (out *flowfabric.Suspension, err error) {
	err = s.read(ctx, "get_suspension", id, false, func(c Conn, r *row) error {
		if r == nil {
			return notFound(id)
		}
		x, err := s.suspensionOf(c, "get_suspension", r)
		if err == nil && x != nil {
			out = rules.ShowSuspension(x)
		}
		return err
	})
	return out, err
}

// suspensionOf reads the suspension of a row read from a snapshot.
func (s *Store) suspensionOf(c Conn, op string, r *row) (*rules.Suspension, error) {
	if !r.hasWait {
		return nil, nil
	}
	x, _, err := readSuspension(c, op, r)
	return x, err
}

// suspendedPlace is a place in the order of open suspensions.
type suspendedPlace struct {
	part uint16
	at   int64
	uuid [16]byte
}

const suspendedCursor = "su1 %d %d %s"

func (p suspendedPlace) String() string {
	return base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, suspendedCursor, p.part, p.at, formatUUID(p.uuid[:])))
}

func parseSuspendedPlace(s string) (p suspendedPlace, ok bool) {
	raw, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil || len(raw) > 100 {
		return p, false
	}
	var id string
	if _, err := fmt.Sscanf(string(raw), suspendedCursor, &p.part, &p.at, &id); err != nil {
		return p, false
	}
	p.uuid, ok = parseUUID(id)
	return p, ok && p.String() == s
}

// ListSuspended lists suspended executions, partition by partition, in the order
// of their timeouts.
func (s *Store) ListSuspended(ctx context.Context, a flowfabric.ListSuspendedArgs) (res flowfabric.ListSuspendedResult, err error) {
	limit, err := rules.ValidateListSuspended(a, s.parts)
	if err != nil {
		return res, err
	}
	from, last := suspendedPlace{}, uint16(s.parts.NumFlowPartitions-1)
	if a.Partition != nil {
		from.part, last = *a.Partition, *a.Partition
	}
	if a.Cursor != "" {
		at, ok := parseSuspendedPlace(a.Cursor)
		if !ok || at.part > last || at.part < from.part {
			return res, flowfabric.NewError(flowfabric.CodeInvalidCursor, "the cursor is not one of this list")
		}
		from = at
	}
	err = s.db.Read(ctx, func(c Conn) error {
		res = flowfabric.ListSuspendedResult{Executions: []flowfabric.SuspendedExecution{}}
		return s.listSuspended(c, &a, from, last, limit, &res)
	})
	return res, err
}

func (s *Store) listSuspended(c Conn, a *flowfabric.ListSuspendedArgs, from suspendedPlace, last uint16, limit int, res *flowfabric.ListSuspendedResult) error {
	q := c.Stmt(qListSuspended)
	q.Int(int64(last))
	q.Int(int64(from.part))
	q.Int(from.at)
	q.Blob(from.uuid[:])
	q.Int(flowfabric.MaxListExamined + 1)
	for examined := 0; ; examined++ {
		ok, err := q.Next()
		if err != nil || !ok {
			return err
		}
		if examined == flowfabric.MaxListExamined || len(res.Executions) == limit {
			q.Stop()
			res.NextCursor = from.String()
			return nil
		}
		from = suspendedPlace{part: uint16(q.ColInt(0)), at: q.ColInt(3)}
		copy(from.uuid[:], q.ColBlob(1, nil))
		entry, ns, err := s.suspendedEntry(q, from)
		if err != nil {
			q.Stop()
			return err
		}
		if visible(ns, a.Namespace, a.Namespaces) {
			res.Executions = append(res.Executions, entry)
		}
	}
}

func (s *Store) suspendedEntry(q Stmt, at suspendedPlace) (e flowfabric.SuspendedExecution, ns flowfabric.Namespace, err error) {
	const op = "list_suspended"
	b := s.bucket(q.ColInt(2))
	if b == nil {
		return e, "", corrupt(op, "lane_id", "unknown bucket")
	}
	id := executionID(rowKey{part: at.part, uuid: at.uuid})
	x, err := decodeSuspension(op, id, q.ColBlob(4, nil))
	if err != nil {
		return e, "", err
	}
	return flowfabric.SuspendedExecution{ExecutionID: id, SuspendedAt: x.CreatedAt, TimeoutAt: x.TimeoutAt, ReasonCode: x.ReasonCode}, b.namespace, nil
}

// waitFault reports a suspended execution whose suspension is not there or is
// over, which nothing can repair. (Specification 03, invariant S3.)
func waitFault(r *row) error {
	if r.st.Exec.LifecyclePhase != flowfabric.PhaseSuspended {
		return nil
	}
	if w := r.st.Wait; w != nil && w.Suspension != nil && w.Suspension.ClosedAt == 0 && w.Suspension.SuspensionID == r.st.Exec.CurrentSuspensionID {
		return nil
	}
	return flowfabric.NewError(flowfabric.CodeInvariantViolation, "S3 of %s: suspended without an open suspension", r.st.Exec.ExecutionID).
		With("rule", "S3")
}

// strayWait reports a suspension that is open although its execution is not
// suspended, or that stands in the wrong place among the open ones.
func strayWait(r *row) bool {
	w := r.st.Wait
	return w != nil && w.Suspension != nil && (r.openAt != openAt(r.st) ||
		w.Suspension.ClosedAt == 0 && r.st.Exec.LifecyclePhase != flowfabric.PhaseSuspended)
}

// repairWait brings a stray suspension and its place among the open ones up to
// what the execution's record says.
func (tx *Tx) repairWait(r *row) error {
	if r.st.Exec.LifecyclePhase != flowfabric.PhaseSuspended && r.st.Wait.Suspension.ClosedAt == 0 {
		w, x := *r.st.Wait, *r.st.Wait.Suspension
		x.ClosedAt = tx.Now
		w.Suspension = &x
		r.st.Wait = &w
	}
	return tx.saveSuspension(r)
}
