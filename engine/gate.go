package engine

import (
	"sync"
	"time"

	"github.com/flowfabric/flowfabric"
)

// gate counts the calls in flight and, once closed, lets no new one in.
type gate struct {
	mu     sync.Mutex
	n      int
	closed bool
	empty  chan struct{} // closed when the gate is closed and n is 0
}

// enter reports whether the call may go on; the caller then owes a leave.
func (g *gate) enter() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return false
	}
	g.n++
	return true
}

func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.n--
	if g.closed && g.n == 0 {
		close(g.empty)
	}
}

func (g *gate) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return
	}
	g.closed = true
	g.empty = make(chan struct{})
	if g.n == 0 {
		close(g.empty)
	}
}

// idle is closed when the last call has left a closed gate.
func (g *gate) idle() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.empty
}

// pool hands out a bounded number of permits without queueing. (Specification
// 04, section 4.5.)
type pool struct {
	name string
	max  int

	mu     sync.Mutex
	used   int
	closed bool
}

func newPool(name string, size int) *pool { return &pool{name: name, max: size} }

// acquire takes a permit, or fails with resource_exhausted (details pool, max
// and retry_after_ms) or shutting_down.
func (p *pool) acquire() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return errShuttingDown()
	}
	if p.used >= p.max {
		retry := min(5_000, 25*p.max)
		err := flowfabric.NewError(flowfabric.CodeResourceExhausted, "all %d permits of the pool %s are taken", p.max, p.name).
			With("pool", p.name).With("max", p.max).With("retry_after_ms", retry)
		err.RetryAfter = time.Duration(retry) * time.Millisecond
		return err
	}
	p.used++
	return nil
}

func (p *pool) release() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.used--
}

func (p *pool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
}

func (p *pool) inUse() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.used
}
