package sqlite

import (
	"context"
	"errors"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

	zs "zombiezen.com/go/sqlite"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/backend/internal/sqlstore"
)

// Bounds of one group: how many operations, and about how many rows.
const (
	groupOps    = 200
	groupWeight = 1_000
)

// request is one operation waiting for the writer.
type request struct {
	op     func(*sqlstore.Tx) error
	weight int
	err    error
	taken  bool
	done   chan struct{}
}

// writer is the one goroutine that changes the database. It takes everything
// that has collected while the last commit was syncing, runs it in one
// transaction, commits with one fsync, and only then answers. There is no timer:
// a lone operation commits alone, at once.
type writer struct {
	conn  *conn
	clock *clock
	hooks sqlstore.Hooks
	// connMu is held while the connection is in use; the memory form reads on
	// the writer's connection too.
	connMu sync.Mutex

	mu     sync.Mutex
	queue  []*request
	closed bool
	signal chan struct{}
	gone   chan struct{}

	// afterCommit is called after every commit, outside the lock.
	afterCommit func()

	log     *slog.Logger
	broken  error // why the memory could not be read anew after a rollback
	failing bool  // the last commit failed; said once, and once that it is over
}

func newWriter(c *conn, clk *clock, hooks sqlstore.Hooks, log *slog.Logger) *writer {
	return &writer{conn: c, clock: clk, hooks: hooks, log: log, signal: make(chan struct{}, 1), gone: make(chan struct{})}
}

var requests = sync.Pool{New: func() any { return &request{done: make(chan struct{}, 1)} }}

func errClosed() error {
	return flowfabric.NewError(flowfabric.CodeShuttingDown, "the store is closed")
}

// write queues op and waits until it is durable. A context that ends before the
// writer has taken op withdraws it; after that the answer is milliseconds away
// and is waited for.
func (w *writer) write(ctx context.Context, weight int, op func(*sqlstore.Tx) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	r := requests.Get().(*request)
	r.op, r.weight, r.err, r.taken = op, max(weight, 1), nil, false
	w.mu.Lock()
	if w.closed {
		w.mu.Unlock()
		requests.Put(r)
		return errClosed()
	}
	w.queue = append(w.queue, r)
	w.mu.Unlock()
	select {
	case w.signal <- struct{}{}:
	default:
	}
	select {
	case <-r.done:
	case <-ctx.Done():
		if w.withdraw(r) {
			return ctx.Err()
		}
		<-r.done
	}
	err := r.err
	r.op = nil
	requests.Put(r)
	return err
}

func (w *writer) withdraw(r *request) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if r.taken {
		return false
	}
	for i, o := range w.queue {
		if o == r {
			w.queue = append(w.queue[:i], w.queue[i+1:]...)
			return true
		}
	}
	return false
}

// next takes the next group, waiting for one; nil at the end.
func (w *writer) next(group []*request) []*request {
	for {
		w.mu.Lock()
		n, weight := 0, 0
		for n < len(w.queue) && n < groupOps && weight < groupWeight {
			w.queue[n].taken = true
			weight += w.queue[n].weight
			n++
		}
		if n > 0 {
			group = append(group[:0], w.queue[:n]...)
			w.queue = append(w.queue[:0], w.queue[n:]...)
			w.mu.Unlock()
			return group
		}
		if w.closed {
			w.mu.Unlock()
			return nil
		}
		w.mu.Unlock()
		<-w.signal
	}
}

func (w *writer) run() {
	defer close(w.gone)
	var group []*request
	for {
		group = w.next(group)
		if group == nil {
			return
		}
		w.commit(group)
		for _, r := range group {
			r.done <- struct{}{}
		}
		if w.afterCommit != nil {
			w.afterCommit()
		}
	}
}

// commit runs a group in one transaction. When an operation fails, nothing of
// the group stays, and each operation runs again in a transaction of its own.
func (w *writer) commit(group []*request) {
	w.connMu.Lock()
	tx, err := w.attempt(group)
	w.report(err)
	if err == nil {
		w.connMu.Unlock()
		w.hooks.Committed(tx)
		return
	}
	if len(group) == 1 {
		group[0].err = err
		w.connMu.Unlock()
		return
	}
	var published []*sqlstore.Tx
	for i := range group {
		tx, err := w.attempt(group[i : i+1])
		w.report(err)
		group[i].err = err
		if err == nil {
			published = append(published, tx)
		}
	}
	w.connMu.Unlock()
	for _, tx := range published {
		w.hooks.Committed(tx)
	}
}

// report logs the begin and the end of a time in which commits fail. An operation
// that meets a record it cannot read is no failure of the store.
func (w *writer) report(err error) {
	code := flowfabric.CodeOf(err)
	if err != nil && code != flowfabric.CodeStoreFull && code != flowfabric.CodeStoreFault && !errors.Is(err, flowfabric.ClassRetryableTransport) {
		return
	}
	if failed := err != nil; failed != w.failing {
		w.failing = failed
		if failed {
			w.log.Error("the store cannot commit", "error", err)
			return
		}
		w.log.Info("the store commits again")
	}
}

var (
	qBegin    = &sqlstore.Query{SQL: `begin immediate`}
	qCommit   = &sqlstore.Query{SQL: `commit`}
	qRollback = &sqlstore.Query{SQL: `rollback`}
)

func (w *writer) attempt(group []*request) (*sqlstore.Tx, error) {
	if w.broken != nil {
		// The memory does not mirror the file since a rollback: read it anew first.
		if w.broken = w.hooks.RolledBack(w.conn); w.broken != nil {
			return nil, fault(w.broken, flowfabric.CodeStoreUnavailable)
		}
	}
	if err := w.conn.Stmt(qBegin).Exec(); err != nil {
		return nil, fault(err, flowfabric.CodeStoreUnavailable)
	}
	tx := w.hooks.Begin(w.conn, w.clock.now())
	for _, r := range group {
		if err := w.runOne(tx, r); err != nil {
			w.rollback()
			return nil, fault(err, flowfabric.CodeStoreUnavailable)
		}
	}
	if err := w.hooks.Flush(tx); err != nil {
		w.rollback()
		return nil, fault(err, flowfabric.CodeStoreUnavailable)
	}
	if err := w.conn.Stmt(qCommit).Exec(); err != nil {
		w.rollback()
		return nil, fault(err, flowfabric.CodeOutcomeUnknown)
	}
	return tx, nil
}

// runOne keeps a panic of one operation from ending the writer.
func (w *writer) runOne(tx *sqlstore.Tx, r *request) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = flowfabric.NewError(flowfabric.CodeInternal, "panic in a store operation: %v\n%s", p, debug.Stack())
		}
	}()
	r.err = nil
	return r.op(tx)
}

func (w *writer) rollback() {
	_ = w.conn.Stmt(qRollback).Exec() // fails where SQLite has rolled back by itself
	w.broken = w.hooks.RolledBack(w.conn)
}

// stop ends the writer after what is queued.
func (w *writer) stop() {
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	select {
	case w.signal <- struct{}{}:
	default:
	}
	<-w.gone
	// Whatever slipped in between the last group and the end is told so.
	w.mu.Lock()
	rest := w.queue
	w.queue = nil
	w.mu.Unlock()
	for _, r := range rest {
		r.err = errClosed()
		r.done <- struct{}{}
	}
}

// fault turns an error of SQLite into one of the table; others pass.
func fault(err error, code flowfabric.Code) error {
	if flowfabric.AsError(err) != nil {
		return err
	}
	switch zs.ErrCode(err).ToPrimary() {
	case zs.ResultFull:
		return flowfabric.NewError(flowfabric.CodeStoreFull, "the disk is full").Wrap(err)
	case zs.ResultNoMem:
		return flowfabric.NewError(flowfabric.CodeStoreFull, "out of memory").Wrap(err)
	case zs.ResultCorrupt, zs.ResultNotADB:
		return flowfabric.NewError(flowfabric.CodeStoreFault, "the database file is damaged").WithKind("other").Wrap(err)
	case zs.ResultInterrupt:
		return flowfabric.NewError(flowfabric.CodeStoreTimeout, "interrupted").WithKind("timeout").Wrap(err)
	}
	return flowfabric.NewError(code, "%v", err).WithKind("transport").Wrap(err)
}

// Clock is the source of the store's time. The zero Config uses the wall clock.
type Clock interface {
	Now() time.Time
}

type wallClock struct{}

func (wallClock) Now() time.Time { return time.Now() }

// clock never steps back: a step back is held at the last value.
type clock struct {
	src  Clock
	mu   sync.Mutex
	last flowfabric.Millis
}

func (c *clock) now() flowfabric.Millis {
	n := flowfabric.Millis(c.src.Now().UnixMilli())
	c.mu.Lock()
	defer c.mu.Unlock()
	if n > c.last {
		c.last = n
	}
	return c.last
}

// atLeast makes the clock begin no earlier than t.
func (c *clock) atLeast(t flowfabric.Millis) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last = max(c.last, t)
}
