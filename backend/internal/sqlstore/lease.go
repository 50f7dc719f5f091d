package sqlstore

import (
	"context"
	"slices"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/rules"
)

// RenewLeases renews a batch, each item on its own.
func (s *Store) RenewLeases(ctx context.Context, items []flowfabric.RenewLeaseArgs) ([]flowfabric.Item[flowfabric.RenewLeaseResult], error) {
	return batch(ctx, s, items,
		func(a *flowfabric.RenewLeaseArgs) (flowfabric.ExecutionID, error) {
			return a.ExecutionID, rules.ValidateRenew(*a)
		},
		func(tx *Tx, st *rules.State, a *flowfabric.RenewLeaseArgs) (flowfabric.RenewLeaseResult, rules.Effects, error) {
			return rules.Renew(st, *a, tx.Now)
		})
}

// RevokeLease takes a lease away without ending the execution.
func (s *Store) RevokeLease(ctx context.Context, a flowfabric.RevokeLeaseArgs) (res flowfabric.RevokeLeaseResult, err error) {
	if err := rules.ValidateRevoke(a); err != nil {
		return res, err
	}
	err = s.change(ctx, a.ExecutionID, func(tx *Tx, st *rules.State) (fx rules.Effects, err error) {
		res, fx, err = rules.Revoke(st, a, tx.Now)
		return fx, err
	})
	return res, err
}

// ReleaseReclaimHold lets a held execution be reclaimed again.
func (s *Store) ReleaseReclaimHold(ctx context.Context, id flowfabric.ExecutionID) (released bool, err error) {
	err = s.change(ctx, id, func(tx *Tx, st *rules.State) (fx rules.Effects, err error) {
		released, fx = rules.ReleaseHold(st, tx.Now)
		return fx, nil
	})
	return released, err
}

// GetLease returns the lease in detail.
func (s *Store) GetLease(ctx context.Context, id flowfabric.ExecutionID) (l *flowfabric.Lease, err error) {
	err = s.read(ctx, "get_lease", id, false, func(_ Conn, r *row) (err error) {
		if r == nil {
			return notFound(id)
		}
		l, err = rules.GetLease(r.st, s.Now())
		return err
	})
	return l, err
}

var qSelectEvent = &Query{`select part, seq, at, prev, rec from events where feed = ? and pos = ?`}

// GetLeaseHistory follows the chain of an execution's lease events backwards,
// as far as the feed keeps them, and returns a page of it, oldest first.
func (s *Store) GetLeaseHistory(ctx context.Context, a flowfabric.LeaseHistoryArgs) (res flowfabric.LeaseHistoryResult, err error) {
	limit, err := listLimit(a.Limit, flowfabric.DefaultListLimit, flowfabric.MaxListLimit)
	if err != nil {
		return res, err
	}
	err = s.read(ctx, "get_lease_history", a.ExecutionID, false, func(c Conn, r *row) error {
		if r == nil {
			return notFound(a.ExecutionID)
		}
		events := []flowfabric.Event{}
		for pos := r.leaseEvent; pos != 0; {
			q := c.Stmt(qSelectEvent)
			q.Int(int64(feedNumbers.of(flowfabric.FeedLeases)))
			q.Int(pos)
			ok, err := q.Next()
			if err != nil {
				return err
			}
			if !ok {
				break
			}
			part, seq, at, prev, rec := uint16(q.ColInt(0)), uint64(q.ColInt(1)), flowfabric.Millis(q.ColInt(2)), q.ColInt(3), q.ColBlob(4, nil)
			q.Stop()
			if seq <= a.After {
				break
			}
			ev, err := decodeEvent(flowfabric.FeedLeases, part, seq, at, rec)
			if err != nil {
				return err
			}
			events = append(events, ev)
			pos = prev
		}
		slices.Reverse(events)
		if len(events) > limit {
			events = events[:limit]
			res.Next = events[limit-1].Seq
		}
		res.Events = events
		return nil
	})
	return res, err
}

var (
	qListHeld = &Query{`select xid, bucket, state, offered, prio_key, due_at, holder, rec, part, uuid from executions
		where holder = ? and (part > ? or (part = ? and uuid > ?)) order by part, uuid`}
	qListLapsed = &Query{`select xid, bucket, state, offered, prio_key, due_at, holder, rec, part, uuid from executions
		where holder is not null and part >= ? and part < ?`}
)

// ListWorkerLeases lists what an instance holds now, verified on the records.
func (s *Store) ListWorkerLeases(ctx context.Context, a flowfabric.ListWorkerLeasesArgs) (res flowfabric.ListWorkerLeasesResult, err error) {
	if err := a.WorkerInstanceID.Validate(); err != nil {
		return res, err
	}
	limit, err := listLimit(a.Limit, flowfabric.DefaultListLimit, flowfabric.MaxListLimit)
	if err != nil {
		return res, err
	}
	part, after := int64(-1), []byte{}
	if a.Cursor != "" {
		if _, err := flowfabric.ParseExecutionID(string(a.Cursor)); err != nil {
			return res, flowfabric.NewError(flowfabric.CodeInvalidCursor, "cursor is no execution id")
		}
		k := keyOf(a.Cursor)
		part, after = int64(k.part), k.uuid[:]
	}
	res.Tasks = []flowfabric.ClaimedExecution{}
	err = s.db.Read(ctx, func(c Conn) error {
		q := c.Stmt(qListHeld)
		q.Text(string(a.WorkerInstanceID))
		q.Int(part)
		q.Int(part)
		q.Blob(after)
		var held []*row
		for {
			ok, err := q.Next()
			if err != nil {
				return err
			}
			if !ok {
				break
			}
			r, err := s.heldRow("list_worker_leases", q)
			if err != nil {
				q.Stop()
				return err
			}
			x := &r.st.Exec
			if x.OwnershipState != flowfabric.OwnershipLeased || x.CurrentWorkerInstanceID != a.WorkerInstanceID ||
				!visible(x.Namespace, a.Namespace, a.Namespaces) {
				continue
			}
			if len(held) == limit {
				q.Stop()
				res.NextCursor = held[limit-1].st.Exec.ExecutionID
				break
			}
			held = append(held, r)
		}
		for _, r := range held {
			if err := s.readAside(c, r); err != nil {
				return err
			}
			task := rules.Held(r.st)
			if task == nil {
				continue
			}
			encoding, data, err := s.input(c, r.xid)
			if err != nil {
				return err
			}
			task.Payload, task.PayloadEncoding, task.StoreTime, task.Tags = data, encoding, s.Now(), ownTags(task.Tags)
			res.Tasks = append(res.Tasks, *task)
		}
		return nil
	})
	return res, err
}

func visible(ns, want flowfabric.Namespace, allowed []flowfabric.Namespace) bool {
	if want != "" && want != flowfabric.AnyNamespace && ns != want {
		return false
	}
	return allowed == nil || contains(allowed, ns)
}

func (s *Store) heldRow(op string, q Stmt) (*row, error) {
	key := rowKey{part: uint16(q.ColInt(8))}
	copy(key.uuid[:], q.ColBlob(9, nil))
	return s.readRow(op, q, key)
}

// ListExpiredLeases pages over active executions whose lease has passed, one
// range of partitions a page.
func (s *Store) ListExpiredLeases(ctx context.Context, a flowfabric.ListExpiredLeasesArgs) (res flowfabric.ListExpiredLeasesResult, err error) {
	limit, err := listLimit(a.Limit, flowfabric.DefaultExpiredLeases, flowfabric.MaxExpiredLeasesLimit)
	if err != nil {
		return res, err
	}
	span := a.MaxPartitionsPerCall
	if span == 0 {
		span = flowfabric.DefaultExpiredLeaseSpan
	}
	if span < 1 || span > 65535 {
		return res, flowfabric.InvalidInput("max_partitions_per_call", "is %d, must be 1..65535", a.MaxPartitionsPerCall)
	}
	asOf := a.AsOf
	if asOf < 0 {
		return res, flowfabric.InvalidInput("as_of", "is negative")
	}
	if asOf == 0 {
		asOf = s.Now()
	}
	at := rules.ExpiredCursor{Span: span}
	if a.Cursor != "" {
		if at, err = rules.ParseExpiredCursor(a.Cursor); err != nil || at.First >= s.parts.NumFlowPartitions {
			return res, flowfabric.NewError(flowfabric.CodeInvalidCursor, "malformed cursor")
		}
	}
	res.Leases = []flowfabric.ExpiredLease{}
	var found []flowfabric.ExpiredLease
	err = s.db.Read(ctx, func(c Conn) error {
		q := c.Stmt(qListLapsed)
		q.Int(int64(at.First))
		q.Int(int64(at.First + at.Span))
		for {
			ok, err := q.Next()
			if err != nil || !ok {
				return err
			}
			r, err := s.heldRow("list_expired_leases", q)
			if err != nil {
				q.Stop()
				return err
			}
			x := &r.st.Exec
			if x.OwnershipState == flowfabric.OwnershipLeaseRevoked || x.LeaseExpiresAt > asOf || !visible(x.Namespace, a.Namespace, a.Namespaces) {
				continue
			}
			index, _ := x.CurrentAttemptIndex()
			found = append(found, flowfabric.ExpiredLease{ExecutionID: x.ExecutionID, LeaseID: x.CurrentLeaseID, LeaseEpoch: x.CurrentLeaseEpoch,
				AttemptIndex: index, WorkerInstanceID: x.CurrentWorkerInstanceID, ExpiresAt: x.LeaseExpiresAt,
				Marked: x.OwnershipState == flowfabric.OwnershipLeaseExpired})
		}
	})
	if err != nil {
		return res, err
	}
	slices.SortFunc(found, func(x, y flowfabric.ExpiredLease) int {
		return rules.CompareExpired(x.ExpiresAt, x.ExecutionID, y.ExpiresAt, y.ExecutionID)
	})
	for _, l := range found {
		if at.ID != "" && rules.CompareExpired(l.ExpiresAt, l.ExecutionID, at.At, at.ID) <= 0 {
			continue
		}
		if len(res.Leases) == limit {
			last := res.Leases[limit-1]
			res.NextCursor = rules.ExpiredCursor{First: at.First, Span: at.Span, At: last.ExpiresAt, ID: last.ExecutionID}.String()
			return res, nil
		}
		res.Leases = append(res.Leases, l)
	}
	if next := at.First + at.Span; next < s.parts.NumFlowPartitions {
		res.NextCursor = rules.ExpiredCursor{First: next, Span: at.Span}.String()
	}
	return res, nil
}
