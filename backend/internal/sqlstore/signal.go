package sqlstore

import (
	"context"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/rules"
)

// The columns of a signal, as signalAt reads them.
const signalColumns = `seq, uuid, waitpoint, rec`

var (
	qSelectLastSeq = &Query{`select coalesce(max(seq), 0) from signals where xid = ?`}
	// The inner selects are answered by their index alone. Without them SQLite, which
	// knows nothing of how many signals an execution has, walks all of them.
	qListBuffered = &Query{`select ` + signalColumns + ` from signals
		where xid = ? and seq in (select seq from signals where xid = ? and buffered = 1) order by seq`}
	// Two signals share an id only when a sender foresaw that of a timeout's; the
	// later one is meant.
	qSelectSignal = &Query{`select ` + signalColumns + ` from signals
		where xid = ? and seq = (select max(seq) from signals where xid = ? and uuid = ?)`}
	qSelectSeq    = &Query{`select ` + signalColumns + ` from signals where xid = ? and seq = ?`}
	qListSignals  = &Query{`select ` + signalColumns + ` from signals where xid = ? and seq > ? order by seq`}
	qInsertSignal = &Query{`insert into signals (xid, seq, uuid, waitpoint, buffered, rec) values (?, ?, ?, ?, ?, ?)`}
	qUpdateSignal = &Query{`update signals set buffered = ?, rec = ? where xid = ? and seq = ?`}

	qInsertPayload = &Query{`insert into signal_payloads (xid, seq, data) values (?, ?, ?)`}
	qSelectPayload = &Query{`select data from signal_payloads where xid = ? and seq = ?`}

	qSelectDedup = &Query{`select seq, expires_at from signal_dedup where xid = ? and waitpoint = ? and key = ?`}
	qUpsertDedup = &Query{`insert into signal_dedup (xid, waitpoint, key, seq, expires_at) values (?, ?, ?, ?, ?)
		on conflict (xid, waitpoint, key) do update set seq = excluded.seq, expires_at = excluded.expires_at`}

	qDeleteSignals  = &Query{`delete from signals where xid = ?`}
	qDeletePayloads = &Query{`delete from signal_payloads where xid = ?`}
	qDeleteDedup    = &Query{`delete from signal_dedup where xid = ?`}
)

// signalAt decodes the signal that q stands on, without its payload.
func signalAt(q Stmt, op string, r *row) (g flowfabric.RecordedSignal, err error) {
	var id, waitpoint [16]byte
	copy(id[:], q.ColBlob(1, nil))
	copy(waitpoint[:], q.ColBlob(2, nil))
	g = flowfabric.RecordedSignal{ExecutionID: r.st.Exec.ExecutionID, Seq: uint64(q.ColInt(0)),
		SignalID: flowfabric.SignalID(formatUUID(id[:])), WaitpointID: flowfabric.WaitpointID(formatUUID(waitpoint[:]))}
	return g, decodeSignal(op, q.ColBlob(3, nil), &g)
}

// oneSignal reads the signal that a bound query finds, nil when there is none.
func oneSignal(q Stmt, op string, r *row) (*flowfabric.RecordedSignal, error) {
	ok, err := q.Next()
	if err != nil || !ok {
		return nil, err
	}
	g, err := signalAt(q, op, r)
	q.Stop()
	if err != nil {
		return nil, err
	}
	return &g, nil
}

// signalByID reads a signal of an execution, nil when there is none.
func signalByID(c Conn, op string, r *row, id flowfabric.SignalID) (*flowfabric.RecordedSignal, error) {
	if _, ok := parseUUID(string(id)); !ok {
		return nil, nil
	}
	q := c.Stmt(qSelectSignal)
	q.Int(r.xid)
	q.Int(r.xid)
	bindUUID(q, id)
	return oneSignal(q, op, r)
}

func readLastSeq(c Conn, xid int64) (uint64, error) {
	q := c.Stmt(qSelectLastSeq)
	q.Int(xid)
	if _, err := q.Next(); err != nil {
		return 0, err
	}
	seq := uint64(q.ColInt(0))
	q.Stop()
	return seq, nil
}

func readBuffered(c Conn, op string, r *row) (list []*flowfabric.RecordedSignal, err error) {
	q := c.Stmt(qListBuffered)
	q.Int(r.xid)
	q.Int(r.xid)
	for {
		ok, err := q.Next()
		if err != nil || !ok {
			return list, err
		}
		g, err := signalAt(q, op, r)
		if err != nil {
			q.Stop()
			return nil, err
		}
		list = append(list, &g)
	}
}

func readSignalPayload(c Conn, xid int64, seq uint64) ([]byte, error) {
	q := c.Stmt(qSelectPayload)
	q.Int(xid)
	q.Int(int64(seq))
	ok, err := q.Next()
	if err != nil || !ok {
		return nil, err
	}
	data := q.ColBlob(0, nil)
	q.Stop()
	return data, nil
}

// readResumeSignals reads signals of an execution as the resumed worker sees
// them, in order of seq. One that is not there is corrupt_record.
func readResumeSignals(c Conn, op string, r *row, ids []flowfabric.SignalID) ([]flowfabric.ResumeSignal, error) {
	found := make([]flowfabric.RecordedSignal, 0, len(ids))
	for _, id := range ids {
		g, err := signalByID(c, op, r, id)
		if err != nil {
			return nil, err
		}
		if g == nil {
			return nil, corrupt(op, "satisfier_signal_ids", "there is no such signal")
		}
		if g.Payload, err = readSignalPayload(c, r.xid, g.Seq); err != nil {
			return nil, err
		}
		found = append(found, *g)
	}
	return rules.ObservedSignals(found), nil
}

func (tx *Tx) insertSignal(r *row, g *flowfabric.RecordedSignal) error {
	q := tx.conn.Stmt(qInsertSignal)
	q.Int(r.xid)
	q.Int(int64(g.Seq))
	bindUUID(q, g.SignalID)
	bindUUID(q, g.WaitpointID)
	bindFlag(q, g.Effect == flowfabric.EffectBuffered)
	q.Blob(encodeSignal(g))
	if err := q.Exec(); err != nil || len(g.Payload) == 0 {
		return err
	}
	q = tx.conn.Stmt(qInsertPayload)
	q.Int(r.xid)
	q.Int(int64(g.Seq))
	q.Blob(g.Payload)
	return q.Exec()
}

func (tx *Tx) rewriteSignal(r *row, g *flowfabric.RecordedSignal) error {
	q := tx.conn.Stmt(qUpdateSignal)
	bindFlag(q, g.Effect == flowfabric.EffectBuffered)
	q.Blob(encodeSignal(g))
	q.Int(r.xid)
	q.Int(int64(g.Seq))
	return q.Exec()
}

// consumeSignal notes that the current suspension has consumed a satisfier.
func (tx *Tx) consumeSignal(r *row, id flowfabric.SignalID) error {
	g, err := signalByID(tx.conn, "consume_signal", r, id)
	if err != nil {
		return err
	}
	if g == nil {
		return corrupt("consume_signal", "satisfier_signal_ids", "there is no such signal")
	}
	g.ConsumedAt, g.ConsumedBySuspensionID = tx.Now, r.st.Wait.Suspension.SuspensionID
	return tx.rewriteSignal(r, g)
}

// DeliverSignal authenticates, records and evaluates a signal.
func (s *Store) DeliverSignal(ctx context.Context, a flowfabric.DeliverSignalArgs) (res flowfabric.DeliverSignalResult, err error) {
	if a, err = rules.PrepareDeliver(a); err != nil {
		return res, err
	}
	return s.deliver(ctx, rules.DeliverInput{Args: a})
}

// DeliverApprovalSignal delivers an operator's decision.
func (s *Store) DeliverApprovalSignal(ctx context.Context, a flowfabric.DeliverApprovalSignalArgs) (res flowfabric.DeliverSignalResult, err error) {
	d, err := rules.PrepareApproval(a)
	if err != nil {
		return res, err
	}
	return s.deliver(ctx, rules.DeliverInput{Args: d, Approval: true, LaneID: a.LaneID})
}

func (s *Store) deliver(ctx context.Context, in rules.DeliverInput) (res flowfabric.DeliverSignalResult, err error) {
	if err := rules.ValidateExecutionID(in.Args.ExecutionID, s.parts); err != nil {
		return res, err
	}
	var refused error
	err = s.write(ctx, func(tx *Tx) (err error) {
		res, refused, err = tx.deliver(in)
		return err
	})
	if err == nil {
		err = refused
	}
	if err != nil {
		return flowfabric.DeliverSignalResult{}, err
	}
	return res, nil
}

// deliver is one delivery. An execution that is not there is left to the rule,
// which refuses it like a wrong token.
func (tx *Tx) deliver(in rules.DeliverInput) (res flowfabric.DeliverSignalResult, refused, fault error) {
	in.Ring = tx.s.ring
	r, err := tx.load(in.Args.ExecutionID)
	if err == nil && r != nil {
		err = tx.recall(r, &in)
	}
	if err != nil {
		refused, fault = sortFault(err)
		return res, refused, fault
	}
	var st *rules.State
	if r != nil {
		st = r.st
	}
	res, fx, refused := rules.DeliverSignal(st, in, tx.Now)
	if r == nil || !fx.Changed {
		return res, refused, nil
	}
	if refused == nil && res.Outcome == flowfabric.DeliverAccepted && in.Args.Signal.IdempotencyKey != "" {
		if err := tx.saveDedup(r, &in.Args); err != nil {
			return res, nil, err
		}
	}
	return res, refused, tx.save(r, &fx)
}

// recall reads what the store knows about the target and about earlier
// deliveries of the same signal.
func (tx *Tx) recall(r *row, in *rules.DeliverInput) (err error) {
	const op = "deliver_signal"
	if in.Target, err = tx.storedWaitpoint(op, r, in.Args.WaitpointID); err != nil {
		return err
	}
	if r.st.Wait == nil || r.st.Wait.LastSeq == 0 {
		return nil
	}
	if in.Same, err = signalByID(tx.conn, op, r, in.Args.Signal.SignalID); err != nil || in.Args.Signal.IdempotencyKey == "" {
		return err
	}
	q := tx.conn.Stmt(qSelectDedup)
	q.Int(r.xid)
	bindUUID(q, in.Args.WaitpointID)
	q.Text(in.Args.Signal.IdempotencyKey)
	ok, err := q.Next()
	if err != nil || !ok {
		return err
	}
	seq, until := q.ColInt(0), flowfabric.Millis(q.ColInt(1))
	q.Stop()
	if tx.Now >= until {
		return nil
	}
	q = tx.conn.Stmt(qSelectSeq)
	q.Int(r.xid)
	q.Int(seq)
	in.Dedup, err = oneSignal(q, op, r)
	return err
}

func (tx *Tx) saveDedup(r *row, a *flowfabric.DeliverSignalArgs) error {
	q := tx.conn.Stmt(qUpsertDedup)
	q.Int(r.xid)
	bindUUID(q, a.WaitpointID)
	q.Text(a.Signal.IdempotencyKey)
	q.Int(int64(r.st.Wait.LastSeq))
	q.Int(int64(tx.Now) + a.Signal.DedupTTLMs)
	return q.Exec()
}

// ObserveSignals returns the signals that ended the attempt's last suspension.
func (s *Store) ObserveSignals(ctx context.Context, a flowfabric.ObserveSignalsArgs) (out []flowfabric.ResumeSignal, err error) {
	const op = "observe_signals"
	if err := rules.ValidateObserveSignals(a); err != nil {
		return nil, err
	}
	err = s.read(ctx, op, a.ExecutionID, false, func(c Conn, r *row) error {
		if r == nil {
			return notFound(a.ExecutionID)
		}
		out = []flowfabric.ResumeSignal{}
		x, err := s.suspensionOf(c, op, r)
		if err != nil || x == nil {
			return err
		}
		r.st.Wait = &rules.Wait{Suspension: x}
		ids, err := rules.ResumeSignalIDs(r.st, a.AttemptID)
		if err != nil || len(ids) == 0 {
			return err
		}
		out, err = readResumeSignals(c, op, r, ids)
		return err
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// ListSignals lists an execution's signals without payloads.
func (s *Store) ListSignals(ctx context.Context, a flowfabric.ListSignalsArgs) (res flowfabric.ListSignalsResult, err error) {
	limit, err := rules.ValidateListSignals(a)
	if err != nil {
		return res, err
	}
	err = s.read(ctx, "list_signals", a.ExecutionID, false, func(c Conn, r *row) error {
		if r == nil {
			return notFound(a.ExecutionID)
		}
		res = flowfabric.ListSignalsResult{Signals: []flowfabric.RecordedSignal{}}
		if !r.hasWait {
			return nil
		}
		return listSignals(c, r, &a, limit, &res)
	})
	return res, err
}

func listSignals(c Conn, r *row, a *flowfabric.ListSignalsArgs, limit int, res *flowfabric.ListSignalsResult) error {
	q := c.Stmt(qListSignals)
	q.Int(r.xid)
	q.Int(int64(min(a.After, 1<<62)))
	for {
		ok, err := q.Next()
		if err != nil || !ok {
			return err
		}
		g, err := signalAt(q, "list_signals", r)
		if err != nil {
			q.Stop()
			return err
		}
		if a.WaitpointID != "" && g.WaitpointID != a.WaitpointID || a.UnconsumedOnly && g.ConsumedAt != 0 {
			continue
		}
		if len(res.Signals) == limit {
			q.Stop()
			res.Next = res.Signals[limit-1].Seq
			return nil
		}
		res.Signals = append(res.Signals, g)
	}
}

// GetSignal returns a signal with its payload.
func (s *Store) GetSignal(ctx context.Context, id flowfabric.ExecutionID, signal flowfabric.SignalID) (g *flowfabric.RecordedSignal, err error) {
	err = s.read(ctx, "get_signal", id, false, func(c Conn, r *row) (err error) {
		if r == nil {
			return notFound(id)
		}
		if g, err = signalByID(c, "get_signal", r, signal); err != nil {
			return err
		}
		if g == nil {
			return flowfabric.NewError(flowfabric.CodeSignalNotFound, "%s has no signal %s", id, signal)
		}
		g.Payload, err = readSignalPayload(c, r.xid, g.Seq)
		return err
	})
	if err != nil {
		return nil, err
	}
	return g, nil
}
