package sqlstore

import (
	"bytes"
	"context"
	"slices"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/rules"
)

// view reads one execution from a snapshot; nil when there is none.
func (s *Store) view(c Conn, op string, id flowfabric.ExecutionID, aside bool) (*row, error) {
	key := keyOf(id)
	q := c.Stmt(qSelectRow)
	q.Int(int64(key.part))
	q.Blob(key.uuid[:])
	ok, err := q.Next()
	if err != nil || !ok {
		return nil, err
	}
	r, err := s.readRow(op, q, key)
	q.Stop()
	if err != nil || !aside {
		return r, err
	}
	return r, s.readAside(c, r)
}

// read runs fn on one execution of one snapshot; r is nil when there is none.
func (s *Store) read(ctx context.Context, op string, id flowfabric.ExecutionID, aside bool, fn func(c Conn, r *row) error) error {
	if err := rules.ValidateExecutionID(id, s.parts); err != nil {
		return err
	}
	return s.db.Read(ctx, func(c Conn) error {
		r, err := s.view(c, op, id, aside)
		if err != nil {
			return err
		}
		return fn(c, r)
	})
}

// GetExecution returns the record.
func (s *Store) GetExecution(ctx context.Context, id flowfabric.ExecutionID) (x *flowfabric.Execution, err error) {
	err = s.read(ctx, "get_execution", id, false, func(_ Conn, r *row) error {
		if r == nil {
			return notFound(id)
		}
		x = rules.Record(r.st, s.labelOf(r.bucket))
		x.RequiredCapabilities = slices.Clone(x.RequiredCapabilities) // the bucket's
		return nil
	})
	return x, err
}

// DescribeExecution returns a snapshot, nil when there is none.
func (s *Store) DescribeExecution(ctx context.Context, id flowfabric.ExecutionID) (snap *flowfabric.ExecutionSnapshot, err error) {
	err = s.read(ctx, "describe_execution", id, true, func(_ Conn, r *row) error {
		if r != nil {
			snap = rules.Describe(r.st, s.labelOf(r.bucket))
		}
		return nil
	})
	return snap, err
}

// GetExecutionState returns the public state.
func (s *Store) GetExecutionState(ctx context.Context, id flowfabric.ExecutionID) (state flowfabric.PublicState, err error) {
	err = s.read(ctx, "get_execution_state", id, false, func(_ Conn, r *row) error {
		if r == nil {
			return notFound(id)
		}
		state = r.state
		return nil
	})
	return state, err
}

var (
	qSelectInput  = &Query{`select encoding, data from inputs where xid = ?`}
	qSelectResult = &Query{`select encoding, data from results where xid = ?`}
	qSelectOlder  = &Query{`select rec from attempts where xid = ? and idx = ?`}
	qListOlder    = &Query{`select rec from attempts where xid = ? and idx >= ? order by idx limit ?`}
)

func readPayload(c Conn, q *Query, xid int64) (encoding string, data []byte, ok bool, err error) {
	st := c.Stmt(q)
	st.Int(xid)
	ok, err = st.Next()
	if err != nil || !ok {
		return "", nil, false, err
	}
	encoding, data = st.ColText(0), st.ColBlob(1, nil)
	if data == nil {
		data = []byte{}
	}
	st.Stop()
	return encoding, data, true, nil
}

// GetExecutionResult returns the stored result of a completed execution.
func (s *Store) GetExecutionResult(ctx context.Context, id flowfabric.ExecutionID) (res flowfabric.ExecutionResult, err error) {
	err = s.read(ctx, "get_execution_result", id, false, func(c Conn, r *row) error {
		if r == nil || r.state != flowfabric.PublicCompleted {
			return nil
		}
		var err error
		res.Encoding, res.Payload, res.Present, err = readPayload(c, qSelectResult, r.xid)
		return err
	})
	return res, err
}

// GetExecutionInput returns the stored input.
func (s *Store) GetExecutionInput(ctx context.Context, id flowfabric.ExecutionID) (in flowfabric.ExecutionInput, err error) {
	err = s.read(ctx, "get_execution_input", id, false, func(c Conn, r *row) error {
		if r == nil {
			return notFound(id)
		}
		var err error
		in.Encoding, in.Payload, err = s.input(c, r.xid)
		return err
	})
	return in, err
}

func (s *Store) input(c Conn, xid int64) (encoding string, data []byte, err error) {
	encoding, data, ok, err := readPayload(c, qSelectInput, xid)
	if err == nil && !ok {
		err = corrupt("read_input", "input_payload", "missing")
	}
	return encoding, data, err
}

// GetExecutionPolicy returns the frozen policy.
func (s *Store) GetExecutionPolicy(ctx context.Context, id flowfabric.ExecutionID) (p *flowfabric.Policy, err error) {
	err = s.read(ctx, "get_execution_policy", id, true, func(_ Conn, r *row) error {
		if r == nil {
			return notFound(id)
		}
		p = r.st.Policy
		return nil
	})
	return p, err
}

// ReadExecutionContext returns what a worker needs beside its fence.
func (s *Store) ReadExecutionContext(ctx context.Context, id flowfabric.ExecutionID) (out flowfabric.ExecutionContext, err error) {
	err = s.read(ctx, "read_execution_context", id, true, func(c Conn, r *row) error {
		if r == nil {
			return notFound(id)
		}
		encoding, data, err := s.input(c, r.xid)
		if err != nil {
			return err
		}
		out = flowfabric.ExecutionContext{Payload: data, PayloadEncoding: encoding, Kind: r.st.Exec.Kind, Tags: r.st.Tags}
		if out.Tags == nil {
			out.Tags = map[string]string{}
		}
		if a := r.st.Attempt; a != nil {
			out.AttemptType = a.AttemptType
			snap := a.PolicySnapshot
			out.PolicySnapshot = &snap
		}
		return nil
	})
	return out, err
}

// GetExecutionTags returns the tags, an empty map when there is none.
func (s *Store) GetExecutionTags(ctx context.Context, id flowfabric.ExecutionID) (map[string]string, error) {
	tags := map[string]string{}
	err := s.read(ctx, "get_execution_tags", id, true, func(_ Conn, r *row) error {
		if r != nil && r.st.Tags != nil {
			tags = r.st.Tags
		}
		return nil
	})
	return tags, err
}

// GetAttempt returns one attempt.
func (s *Store) GetAttempt(ctx context.Context, id flowfabric.ExecutionID, index uint32) (a *flowfabric.Attempt, err error) {
	err = s.read(ctx, "get_attempt", id, false, func(c Conn, r *row) error {
		if r == nil {
			return notFound(id)
		}
		if cur := r.st.Attempt; cur != nil && cur.AttemptIndex == index {
			a = cur
			return nil
		}
		q := c.Stmt(qSelectOlder)
		q.Int(r.xid)
		q.Int(int64(index))
		ok, err := q.Next()
		if err != nil {
			return err
		}
		if !ok {
			return flowfabric.NewError(flowfabric.CodeAttemptNotFound, "%s has no attempt %d", id, index).With("attempt_index", index)
		}
		rec := q.ColBlob(0, nil)
		q.Stop()
		a, err = decodeAttempt(id, rec)
		return err
	})
	return a, err
}

// GetCurrentAttempt returns the attempt of the highest index.
func (s *Store) GetCurrentAttempt(ctx context.Context, id flowfabric.ExecutionID) (a *flowfabric.Attempt, err error) {
	err = s.read(ctx, "get_current_attempt", id, false, func(_ Conn, r *row) error {
		if r == nil {
			return notFound(id)
		}
		if r.st.Attempt == nil {
			return flowfabric.NewError(flowfabric.CodeNoAttemptsExist, "%s was never claimed", id)
		}
		a = r.st.Attempt
		return nil
	})
	return a, err
}

// ListAttempts returns attempts ascending by index.
func (s *Store) ListAttempts(ctx context.Context, args flowfabric.ListAttemptsArgs) (res flowfabric.ListAttemptsResult, err error) {
	limit, err := listLimit(args.Limit, 100, flowfabric.MaxListLimit)
	if err != nil {
		return res, err
	}
	err = s.read(ctx, "list_attempts", args.ExecutionID, false, func(c Conn, r *row) error {
		if r == nil {
			return notFound(args.ExecutionID)
		}
		res.Attempts = []flowfabric.Attempt{}
		q := c.Stmt(qListOlder)
		q.Int(r.xid)
		q.Int(int64(args.From))
		q.Int(int64(limit) + 1)
		for {
			ok, err := q.Next()
			if err != nil {
				return err
			}
			if !ok {
				break
			}
			a, err := decodeAttempt(args.ExecutionID, q.ColBlob(0, nil))
			if err != nil {
				q.Stop()
				return err
			}
			res.Attempts = append(res.Attempts, *a)
		}
		if cur := r.st.Attempt; cur != nil && cur.AttemptIndex >= args.From {
			res.Attempts = append(res.Attempts, *cur)
		}
		if len(res.Attempts) > limit {
			next := res.Attempts[limit].AttemptIndex
			res.Attempts, res.Next = res.Attempts[:limit], &next
		}
		return nil
	})
	return res, err
}

var qListRows = &Query{`select xid, bucket, state, offered, prio_key, due_at, holder, rec, uuid from executions
	where part = ? and uuid > ? order by uuid limit ?`}

// ListExecutions lists one partition in identifier order.
func (s *Store) ListExecutions(ctx context.Context, a flowfabric.ListExecutionsArgs) (res flowfabric.ListExecutionsResult, err error) {
	if err := rules.ValidateListExecutions(&a, s.parts); err != nil {
		return res, err
	}
	filtered := a.Namespace != "" || a.Namespaces != nil || a.LaneID != "" || len(a.PublicStates) > 0 || a.Kind != "" || a.FlowID != "" || len(a.Tags) > 0
	after := []byte{}
	if a.Cursor != "" {
		k := keyOf(a.Cursor)
		after = k.uuid[:]
	}
	most := a.Limit
	if filtered {
		most = flowfabric.MaxListExamined
	}
	res.Executions = []flowfabric.ExecutionSummary{}
	err = s.db.Read(ctx, func(c Conn) error {
		w := listWalk{s: s, c: c, args: &a, after: after, most: most}
		for !w.done {
			if err := w.stretch(&res); err != nil {
				return err
			}
		}
		if w.more {
			res.NextCursor = executionID(w.last)
		}
		return nil
	})
	return res, err
}

// listWalk is one listing on its way through a partition.
type listWalk struct {
	s    *Store
	c    Conn
	args *flowfabric.ListExecutionsArgs
	// after is the place behind which the next stretch begins.
	after []byte
	// most is how many executions the listing may examine.
	most, examined int
	last           rowKey
	// done says that the page ends; more, that something lies behind it.
	done, more bool
}

// stretch examines executions until as many match as the page lacks, as far as
// their rows tell, and then looks at their tags. Tags lie apart from the row, and
// no two reads are under way at once.
func (w *listWalk) stretch(res *flowfabric.ListExecutionsResult) error {
	q := w.c.Stmt(qListRows)
	q.Int(int64(w.args.Partition))
	q.Blob(w.after)
	q.Int(int64(w.most-w.examined) + 1)
	lacking := w.args.Limit - len(res.Executions)
	matched := make([]*row, 0, min(lacking, 64))
	for {
		ok, err := q.Next()
		if err != nil {
			return err
		}
		if !ok {
			w.done = true
			break
		}
		if w.examined == w.most || len(matched) == lacking {
			q.Stop()
			w.more = true
			break
		}
		key := rowKey{part: w.args.Partition}
		copy(key.uuid[:], q.ColBlob(8, nil))
		r, err := w.s.readRow("list_executions", q, key)
		if err != nil {
			q.Stop()
			return err
		}
		w.examined++
		w.last = key
		if matches(r, w.args) {
			matched = append(matched, r)
		}
	}
	for _, r := range matched {
		if len(w.args.Tags) > 0 {
			if err := w.s.readAside(w.c, r); err != nil {
				return err
			}
			if !hasTags(r.st.Tags, w.args.Tags) {
				continue
			}
		}
		x := &r.st.Exec
		res.Executions = append(res.Executions, flowfabric.ExecutionSummary{ExecutionID: x.ExecutionID, Namespace: x.Namespace,
			LaneID: x.LaneID, Kind: x.Kind, PublicState: x.PublicState, Priority: x.Priority, CreatedAt: x.CreatedAt})
	}
	if w.done {
		w.more = false
		return nil
	}
	w.after = bytes.Clone(w.last.uuid[:])
	w.done = w.examined == w.most || len(res.Executions) == w.args.Limit
	return nil
}

func matches(r *row, a *flowfabric.ListExecutionsArgs) bool {
	x := &r.st.Exec
	if a.Namespace != "" && x.Namespace != a.Namespace || a.LaneID != "" && x.LaneID != a.LaneID ||
		a.Kind != "" && x.Kind != a.Kind || a.FlowID != "" && x.FlowID != a.FlowID {
		return false
	}
	if a.Namespaces != nil && !contains(a.Namespaces, x.Namespace) {
		return false
	}
	if len(a.PublicStates) > 0 && !contains(a.PublicStates, x.PublicState) {
		return false
	}
	return len(a.Tags) == 0 || r.hasTags
}

func hasTags(have, want map[string]string) bool {
	for k, v := range want {
		if got, ok := have[k]; !ok || got != v {
			return false
		}
	}
	return true
}

func contains[T comparable](list []T, v T) bool {
	for _, x := range list {
		if x == v {
			return true
		}
	}
	return false
}
