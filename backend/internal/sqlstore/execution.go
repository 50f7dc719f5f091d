package sqlstore

import (
	"context"
	"maps"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/rules"
)

func notFound(id flowfabric.ExecutionID) error {
	return flowfabric.NewError(flowfabric.CodeExecutionNotFound, "no execution %s", id)
}

// checkBatch refuses an empty batch and one over the limit.
func checkBatch(n int) error {
	if n == 0 {
		return flowfabric.InvalidInput("items", "the batch is empty")
	}
	if n > flowfabric.MaxBatchItems {
		return flowfabric.NewError(flowfabric.CodeBatchTooLarge, "%d items, limit %d", n, flowfabric.MaxBatchItems).
			With("limit", flowfabric.MaxBatchItems).With("actual", n)
	}
	return nil
}

// change runs one rule on one execution: load, apply, save. A refusal is
// returned as it is, after what it left behind has been saved.
func (s *Store) change(ctx context.Context, id flowfabric.ExecutionID, apply func(tx *Tx, st *rules.State) (rules.Effects, error)) error {
	if err := rules.ValidateExecutionID(id, s.parts); err != nil {
		return err
	}
	var refused error
	err := s.write(ctx, func(tx *Tx) error {
		refused = nil
		return tx.change(id, &refused, func(st *rules.State) (rules.Effects, error) { return apply(tx, st) })
	})
	if err != nil {
		return err
	}
	return refused
}

// find loads the execution an operation is about. One that is not there or does
// not decode refuses that operation alone, and nothing else in its group.
func (tx *Tx) find(id flowfabric.ExecutionID) (r *row, refused, err error) {
	r, err = tx.load(id)
	switch {
	case flowfabric.AsError(err) != nil:
		return nil, err, nil
	case err == nil && r == nil:
		return nil, notFound(id), nil
	}
	return r, nil, err
}

func (tx *Tx) change(id flowfabric.ExecutionID, refused *error, apply func(st *rules.State) (rules.Effects, error)) error {
	r, no, err := tx.find(id)
	if err != nil || no != nil {
		*refused = no
		return err
	}
	fx, err := apply(r.st)
	*refused = err
	if !fx.Changed {
		return nil
	}
	return tx.save(r, &fx)
}

// CreateExecutions creates a batch, each item on its own.
func (s *Store) CreateExecutions(ctx context.Context, items []flowfabric.CreateExecutionArgs) ([]flowfabric.Item[flowfabric.CreateExecutionResult], error) {
	if err := checkBatch(len(items)); err != nil {
		return nil, err
	}
	out := make([]flowfabric.Item[flowfabric.CreateExecutionResult], len(items))
	prepared := make([]*rules.Prepared, len(items))
	n := 0
	for i := range items {
		args := items[i]
		if args.ExecutionID == "" && args.FlowID == "" {
			args.ExecutionID = s.mintID(args.LaneID)
		}
		p, err := rules.PrepareCreate(args, s.parts, s.laneDefault(args.LaneID))
		if err != nil {
			out[i].Err = err
			continue
		}
		prepared[i] = p
		n++
	}
	if n == 0 {
		return out, nil
	}
	err := s.db.Write(ctx, n, func(tx *Tx) error {
		for i, p := range prepared {
			if p == nil {
				continue
			}
			out[i] = flowfabric.Item[flowfabric.CreateExecutionResult]{}
			if err := tx.create(p, items[i].ExecutionID == "", &out[i]); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// mintRun is how many identifiers in a row are minted on one partition.
const mintRun = 64

// mintID mints the identifier of a standalone execution. Runs of them share a
// partition, round and round: all partitions fill alike, and what is created
// together lies together in the index of identifiers.
func (s *Store) mintID(lane flowfabric.LaneID) flowfabric.ExecutionID {
	turn := (s.minted.Add(1) - 1) / mintRun
	return s.parts.NewExecutionIDOn(lane, uint16(turn%uint64(s.parts.NumFlowPartitions)))
}

var (
	qSelectKey = &Query{`select part, uuid, expires_at from idempotency where namespace = ? and key = ?`}
	qUpsertKey = &Query{`insert into idempotency (namespace, key, part, uuid, expires_at) values (?, ?, ?, ?, ?)
		on conflict (namespace, key) do update set part = excluded.part, uuid = excluded.uuid, expires_at = excluded.expires_at`}
)

// create makes one execution. An identifier that this very call has minted is
// not looked for: the unique index would refuse it.
func (tx *Tx) create(p *rules.Prepared, minted bool, out *flowfabric.Item[flowfabric.CreateExecutionResult]) error {
	id := p.State.Exec.ExecutionID
	reserve := p.Args.IdempotencyKey != "" && p.DedupWindowMs > 0
	if reserve {
		reserved, err := tx.reserved(p)
		if err != nil {
			return err
		}
		if reserved != "" {
			if p.Args.FlowID != "" && reserved.Partition() != tx.s.parts.FlowPartition(p.Args.FlowID) {
				out.Err = flowfabric.NewError(flowfabric.CodePartitionMismatch, "the key is bound to %s, which is not on the flow's partition", reserved)
				return nil
			}
			id, reserve, minted = reserved, false, false
		}
	}
	var r *row
	var err error
	if !minted {
		r, err = tx.load(id)
	}
	if err != nil {
		if flowfabric.AsError(err) == nil {
			return err
		}
		out.Err = err
		return nil
	}
	if r != nil {
		out.Result = flowfabric.CreateExecutionResult{Outcome: flowfabric.OutcomeDuplicate, ExecutionID: id,
			SameSpec: rules.SameSpec(p, r.st.Exec.SpecDigest)}
		if reserve {
			return tx.reserve(p, id)
		}
		return nil
	}
	lane, err := tx.lane(p.State.Exec.LaneID)
	if err != nil {
		if flowfabric.AsError(err) == nil {
			return err
		}
		out.Err = err
		return nil
	}
	if err := rules.AdmitsCreate(lane.Lane); err != nil {
		out.Err = err
		return nil
	}
	if reserve {
		if err := tx.reserve(p, id); err != nil {
			return err
		}
	}
	st, fx := rules.Create(p, tx.Now)
	st.Exec.ExecutionID = id
	st.Tags = maps.Clone(st.Tags) // the caller's map stays the caller's
	b, err := tx.bucketOf(&st.Exec)
	if err != nil {
		return err
	}
	// Share the bucket's strings: thousands of rows carry them.
	st.Exec.LaneID, st.Exec.Namespace, st.Exec.RequiredCapabilities = b.lane, b.namespace, b.required
	r = &row{key: keyOf(id), bucket: b, st: st}
	if err := tx.insert(r, p.Args.Payload, p.Args.PayloadEncoding, p.PolicyJSON, &fx); err != nil {
		return err
	}
	if len(st.Tags) > 0 {
		if err := tx.putTags(r, st.Tags); err != nil {
			return err
		}
	}
	out.Result = flowfabric.CreateExecutionResult{Outcome: flowfabric.OutcomeCreated, ExecutionID: id, PublicState: st.Exec.PublicState}
	return nil
}

// reserved returns the identifier that a live reservation binds the key to.
func (tx *Tx) reserved(p *rules.Prepared) (flowfabric.ExecutionID, error) {
	q := tx.conn.Stmt(qSelectKey)
	q.Text(string(p.Args.Namespace))
	q.Text(p.Args.IdempotencyKey)
	ok, err := q.Next()
	if err != nil || !ok {
		return "", err
	}
	k := rowKey{part: uint16(q.ColInt(0))}
	copy(k.uuid[:], q.ColBlob(1, nil))
	until := flowfabric.Millis(q.ColInt(2))
	q.Stop()
	if tx.Now >= until {
		return "", nil
	}
	return executionID(k), nil
}

func (tx *Tx) reserve(p *rules.Prepared, id flowfabric.ExecutionID) error {
	k := keyOf(id)
	q := tx.conn.Stmt(qUpsertKey)
	q.Text(string(p.Args.Namespace))
	q.Text(p.Args.IdempotencyKey)
	q.Int(int64(k.part))
	q.Blob(k.uuid[:])
	q.Int(int64(tx.Now) + p.DedupWindowMs)
	return q.Exec()
}

// CompleteExecutions ends a batch, each item on its own.
func (s *Store) CompleteExecutions(ctx context.Context, items []flowfabric.CompleteExecutionArgs) ([]flowfabric.Item[flowfabric.CompleteExecutionResult], error) {
	return batch(ctx, s, items,
		func(a *flowfabric.CompleteExecutionArgs) (flowfabric.ExecutionID, error) {
			return a.ExecutionID, rules.ValidateComplete(*a)
		},
		func(tx *Tx, st *rules.State, a *flowfabric.CompleteExecutionArgs) (flowfabric.CompleteExecutionResult, rules.Effects, error) {
			return rules.Complete(st, *a, tx.Now)
		})
}

// batch runs a rule on every item of a batch in one step, in input order.
func batch[A, R any](ctx context.Context, s *Store, items []A, check func(*A) (flowfabric.ExecutionID, error),
	apply func(*Tx, *rules.State, *A) (R, rules.Effects, error)) ([]flowfabric.Item[R], error) {
	if err := checkBatch(len(items)); err != nil {
		return nil, err
	}
	out := make([]flowfabric.Item[R], len(items))
	ids := make([]flowfabric.ExecutionID, len(items))
	bad := make([]error, len(items))
	for i := range items {
		id, err := check(&items[i])
		if idErr := rules.ValidateExecutionID(id, s.parts); idErr != nil {
			err = idErr
		}
		ids[i], bad[i] = id, err
	}
	err := s.db.Write(ctx, len(items), func(tx *Tx) error {
		for i := range items {
			out[i] = flowfabric.Item[R]{Err: bad[i]}
			if bad[i] != nil {
				continue
			}
			err := tx.change(ids[i], &out[i].Err, func(st *rules.State) (fx rules.Effects, err error) {
				out[i].Result, fx, err = apply(tx, st, &items[i])
				return fx, err
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// FailExecution ends an attempt with a failure.
func (s *Store) FailExecution(ctx context.Context, a flowfabric.FailExecutionArgs) (res flowfabric.FailExecutionResult, err error) {
	if err := rules.ValidateFail(a); err != nil {
		return res, err
	}
	err = s.change(ctx, a.ExecutionID, func(tx *Tx, st *rules.State) (fx rules.Effects, err error) {
		res, fx, err = rules.Fail(st, a, tx.Now, jitter)
		return fx, err
	})
	return res, err
}

// CancelExecution ends an execution as cancelled.
func (s *Store) CancelExecution(ctx context.Context, a flowfabric.CancelExecutionArgs) (res flowfabric.CancelExecutionResult, err error) {
	if err := rules.ValidateCancel(a); err != nil {
		return res, err
	}
	err = s.change(ctx, a.ExecutionID, func(tx *Tx, st *rules.State) (fx rules.Effects, err error) {
		res, fx, err = rules.Cancel(st, a, tx.Now)
		return fx, err
	})
	return res, err
}

// DelayExecution pauses an attempt until later.
func (s *Store) DelayExecution(ctx context.Context, a flowfabric.DelayExecutionArgs) (res flowfabric.DelayExecutionResult, err error) {
	if err := rules.ValidateDelay(a); err != nil {
		return res, err
	}
	err = s.change(ctx, a.ExecutionID, func(tx *Tx, st *rules.State) (fx rules.Effects, err error) {
		res, fx, err = rules.Delay(st, a, tx.Now)
		return fx, err
	})
	return res, err
}

// ReplayExecution runs an ended execution again.
func (s *Store) ReplayExecution(ctx context.Context, a flowfabric.ReplayExecutionArgs) (res flowfabric.ReplayExecutionResult, err error) {
	if err := rules.ValidateReplay(a); err != nil {
		return res, err
	}
	err = s.change(ctx, a.ExecutionID, func(tx *Tx, st *rules.State) (fx rules.Effects, err error) {
		res, fx, err = rules.Replay(st, a, tx.Now)
		return fx, err
	})
	return res, err
}

// ChangePriority re-orders a waiting execution.
func (s *Store) ChangePriority(ctx context.Context, a flowfabric.ChangePriorityArgs) (res flowfabric.ChangePriorityResult, err error) {
	err = s.change(ctx, a.ExecutionID, func(tx *Tx, st *rules.State) (fx rules.Effects, err error) {
		res, fx, err = rules.ChangePriority(st, a, tx.Now)
		return fx, err
	})
	return res, err
}

// UpdateProgress overwrites the progress of a running attempt.
func (s *Store) UpdateProgress(ctx context.Context, a flowfabric.UpdateProgressArgs) error {
	if err := rules.ValidateUpdateProgress(a); err != nil {
		return err
	}
	return s.change(ctx, a.ExecutionID, func(tx *Tx, st *rules.State) (rules.Effects, error) {
		return rules.UpdateProgress(st, a, tx.Now)
	})
}

// PauseExecution blocks a waiting execution until an operator unblocks it.
func (s *Store) PauseExecution(ctx context.Context, a flowfabric.BlockExecutionArgs) (res flowfabric.BlockExecutionResult, err error) {
	if err := rules.ValidatePause(a); err != nil {
		return res, err
	}
	err = s.change(ctx, a.ExecutionID, func(tx *Tx, st *rules.State) (fx rules.Effects, err error) {
		res, fx, err = rules.Pause(st, a, tx.Now)
		return fx, err
	})
	return res, err
}

// UnpauseExecution undoes PauseExecution.
func (s *Store) UnpauseExecution(ctx context.Context, a flowfabric.BlockExecutionArgs) (res flowfabric.BlockExecutionResult, err error) {
	err = s.change(ctx, a.ExecutionID, func(tx *Tx, st *rules.State) (fx rules.Effects, err error) {
		res, fx, err = rules.Unpause(st, a, tx.Now)
		return fx, err
	})
	return res, err
}

var (
	qUpsertTag = &Query{`insert into execution_tags (xid, key, value) values (?, ?, ?)
		on conflict (xid, key) do update set value = excluded.value`}
	qDeleteTag = &Query{`delete from execution_tags where xid = ? and key = ?`}
)

func (tx *Tx) putTags(r *row, tags map[string]string) error {
	for k, v := range tags {
		q := tx.conn.Stmt(qUpsertTag)
		q.Int(r.xid)
		q.Text(k)
		q.Text(v)
		if err := q.Exec(); err != nil {
			return err
		}
	}
	return nil
}

// SetExecutionTags upserts tags: the whole map or nothing.
func (s *Store) SetExecutionTags(ctx context.Context, id flowfabric.ExecutionID, tags map[string]string) (int, error) {
	if err := rules.ValidateSetTags(tags); err != nil {
		return 0, err
	}
	err := s.changeRow(ctx, id, func(tx *Tx, r *row) (rules.Effects, error, error) {
		fx, refused := rules.SetTags(r.st, tags, tx.Now)
		if !fx.Changed {
			return fx, refused, nil
		}
		return fx, refused, tx.putTags(r, tags)
	})
	if err != nil {
		return 0, err
	}
	return len(tags), nil
}

// RemoveExecutionTag removes one tag and reports whether it was there.
func (s *Store) RemoveExecutionTag(ctx context.Context, id flowfabric.ExecutionID, key string) (removed bool, err error) {
	if err := rules.ValidateTagKey(key); err != nil {
		return false, err
	}
	err = s.changeRow(ctx, id, func(tx *Tx, r *row) (rules.Effects, error, error) {
		var fx rules.Effects
		var refused error
		removed, fx, refused = rules.RemoveTag(r.st, key, tx.Now)
		if !fx.Changed {
			return fx, refused, nil
		}
		q := tx.conn.Stmt(qDeleteTag)
		q.Int(r.xid)
		q.Text(key)
		return fx, refused, q.Exec()
	})
	return removed, err
}

// changeRow is change for operations that write beside the record.
func (s *Store) changeRow(ctx context.Context, id flowfabric.ExecutionID, apply func(tx *Tx, r *row) (fx rules.Effects, refused, fault error)) error {
	if err := rules.ValidateExecutionID(id, s.parts); err != nil {
		return err
	}
	var refused error
	err := s.write(ctx, func(tx *Tx) error {
		var r *row
		var err error
		if r, refused, err = tx.find(id); err != nil || refused != nil {
			return err
		}
		fx, no, fault := apply(tx, r)
		if fault != nil {
			return fault
		}
		refused = no
		if !fx.Changed {
			return nil
		}
		return tx.save(r, &fx)
	})
	if err != nil {
		return err
	}
	return refused
}
