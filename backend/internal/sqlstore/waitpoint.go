package sqlstore

import (
	"context"
	"slices"
	"strings"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/rules"
)

var (
	qSelectWaitpoint = &Query{`select xid, rec from waitpoints where part = ? and uuid = ?`}
	qSelectID        = &Query{`select uuid from executions where xid = ?`}
	qListOpen        = &Query{`select uuid, rec from waitpoints where xid = ? and open = 1 and uuid > ? order by uuid`}
	qUpsertWaitpoint = &Query{`insert into waitpoints (part, uuid, xid, open, rec) values (?, ?, ?, ?, ?)
		on conflict (part, uuid) do update set open = excluded.open, rec = excluded.rec`}
	qDeleteWaitpoints = &Query{`delete from waitpoints where xid = ?`}
)

// bindUUID binds a canonical UUID, zeros for anything else.
func bindUUID[T ~string](q Stmt, id T) {
	u, _ := parseUUID(string(id))
	q.Blob(u[:])
}

// readOpenWaitpoints reads the waitpoints of an execution that are not final.
func readOpenWaitpoints(c Conn, op string, xid int64) (list []rules.Waitpoint, err error) {
	err = walkOpen(c, op, xid, "", func(w *rules.Waitpoint) bool {
		list = append(list, *w)
		return true
	})
	return list, err
}

// walkOpen visits the waitpoints of an execution that are not final, in the
// order of their ids, until visit returns false.
func walkOpen(c Conn, op string, xid int64, after flowfabric.WaitpointID, visit func(w *rules.Waitpoint) bool) error {
	q := c.Stmt(qListOpen)
	q.Int(xid)
	if after == "" {
		q.Blob(nil)
	} else {
		bindUUID(q, after)
	}
	for {
		ok, err := q.Next()
		if err != nil || !ok {
			return err
		}
		var key [16]byte
		copy(key[:], q.ColBlob(0, nil))
		w, err := decodeWaitpoint(op, flowfabric.WaitpointID(formatUUID(key[:])), q.ColBlob(1, nil))
		if err != nil {
			q.Stop()
			return err
		}
		if !visit(&w) {
			q.Stop()
			return nil
		}
	}
}

// waitpointByID reads a waitpoint of the partition, whatever execution it is of:
// its row number comes with it. ok is false when there is none.
func waitpointByID(c Conn, op string, part uint16, id flowfabric.WaitpointID) (xid int64, w rules.Waitpoint, ok bool, err error) {
	if _, canonical := parseUUID(string(id)); !canonical {
		return 0, w, false, nil
	}
	q := c.Stmt(qSelectWaitpoint)
	q.Int(int64(part))
	bindUUID(q, id)
	if ok, err = q.Next(); err != nil || !ok {
		return 0, w, false, err
	}
	xid = q.ColInt(0)
	rec := q.ColBlob(1, nil)
	q.Stop()
	w, err = decodeWaitpoint(op, id, rec)
	return xid, w, err == nil, err
}

// storedWaitpoint is the waitpoint as the rules want it: from memory when it is
// an open one of the execution at hand, else as it is stored; nil when there is
// none.
func (tx *Tx) storedWaitpoint(op string, r *row, id flowfabric.WaitpointID) (*rules.StoredWaitpoint, error) {
	if wait := r.st.Wait; wait != nil {
		i, found := slices.BinarySearchFunc(wait.Open, id, func(w rules.Waitpoint, id flowfabric.WaitpointID) int {
			return strings.Compare(string(w.WaitpointID), string(id))
		})
		if found {
			return &rules.StoredWaitpoint{ExecutionID: r.st.Exec.ExecutionID, Waitpoint: wait.Open[i]}, nil
		}
	}
	xid, w, ok, err := waitpointByID(tx.conn, op, r.key.part, id)
	if err != nil || !ok {
		return nil, err
	}
	if xid == r.xid {
		return &rules.StoredWaitpoint{ExecutionID: r.st.Exec.ExecutionID, Waitpoint: w}, nil
	}
	q := tx.conn.Stmt(qSelectID)
	q.Int(xid)
	if ok, err = q.Next(); err != nil {
		return nil, err
	}
	owner := rowKey{part: r.key.part}
	if !ok {
		return nil, corrupt(op, "waitpoint.execution_id", "there is no such execution")
	}
	copy(owner.uuid[:], q.ColBlob(0, nil))
	q.Stop()
	return &rules.StoredWaitpoint{ExecutionID: executionID(owner), Waitpoint: w}, nil
}

func (tx *Tx) saveWaitpoint(r *row, w *rules.Waitpoint) error {
	q := tx.conn.Stmt(qUpsertWaitpoint)
	q.Int(int64(r.key.part))
	bindUUID(q, w.WaitpointID)
	q.Int(r.xid)
	bindFlag(q, !w.State.Final())
	q.Blob(encodeWaitpoint(w))
	return q.Exec()
}

// CreatePendingWaitpoint makes an addressable waitpoint before a suspension.
func (s *Store) CreatePendingWaitpoint(ctx context.Context, a flowfabric.CreatePendingWaitpointArgs) (res flowfabric.PendingWaitpoint, err error) {
	if a, err = rules.PrepareCreateWaitpoint(a); err != nil {
		return res, err
	}
	err = s.changeRow(ctx, a.ExecutionID, func(tx *Tx, r *row) (fx rules.Effects, refused, fault error) {
		stored, err := tx.storedWaitpoint("create_pending_waitpoint", r, a.WaitpointID)
		if err != nil {
			refused, fault = sortFault(err)
			return fx, refused, fault
		}
		res, fx, refused = rules.CreatePendingWaitpoint(r.st, a, stored, tx.s.ring, tx.Now)
		return fx, refused, nil
	})
	if err != nil {
		return flowfabric.PendingWaitpoint{}, err
	}
	return res, nil
}

// CloseWaitpoint closes a pending waitpoint.
func (s *Store) CloseWaitpoint(ctx context.Context, a flowfabric.CloseWaitpointArgs) (out flowfabric.CloseWaitpointOutcome, err error) {
	if a, err = rules.PrepareCloseWaitpoint(a); err != nil {
		return "", err
	}
	err = s.changeRow(ctx, a.ExecutionID, func(tx *Tx, r *row) (fx rules.Effects, refused, fault error) {
		stored, err := tx.storedWaitpoint("close_waitpoint", r, a.WaitpointID)
		if err != nil {
			refused, fault = sortFault(err)
			return fx, refused, fault
		}
		out, fx, refused = rules.CloseWaitpoint(r.st, a, stored, tx.Now)
		return fx, refused, nil
	})
	if err != nil {
		return "", err
	}
	return out, nil
}

// ListPendingWaitpoints lists pending and active waitpoints.
func (s *Store) ListPendingWaitpoints(ctx context.Context, a flowfabric.ListPendingWaitpointsArgs) (res flowfabric.ListPendingWaitpointsResult, err error) {
	limit, err := rules.ValidateListWaitpoints(a)
	if err != nil {
		return res, err
	}
	const op = "list_pending_waitpoints"
	err = s.read(ctx, op, a.ExecutionID, false, func(c Conn, r *row) error {
		if r == nil {
			return notFound(a.ExecutionID)
		}
		res = flowfabric.ListPendingWaitpointsResult{Waitpoints: []flowfabric.Waitpoint{}}
		x, err := s.suspensionOf(c, op, r)
		if err != nil || !r.hasWait {
			return err
		}
		return walkOpen(c, op, r.xid, a.After, func(w *rules.Waitpoint) bool {
			if w.State == flowfabric.WaitpointSatisfied {
				return true
			}
			if n := len(res.Waitpoints); n == limit {
				res.NextCursor = res.Waitpoints[n-1].WaitpointID
				return false
			}
			res.Waitpoints = append(res.Waitpoints, rules.ShowWaitpoint(a.ExecutionID, w, x))
			return true
		})
	})
	return res, err
}

// ReadWaitpointToken returns the token of an open waitpoint of the execution.
func (s *Store) ReadWaitpointToken(ctx context.Context, id flowfabric.ExecutionID, waitpoint flowfabric.WaitpointID) (token flowfabric.WaitpointToken, err error) {
	const op = "read_waitpoint_token"
	err = s.read(ctx, op, id, false, func(c Conn, r *row) error {
		if r == nil || !r.hasWait {
			return nil
		}
		xid, w, ok, err := waitpointByID(c, op, r.key.part, waitpoint)
		if err == nil && ok && xid == r.xid && !w.State.Final() {
			token = w.Token
		}
		return err
	})
	return token, err
}
