package api

import (
	"sync"
	"time"

	"github.com/flowfabric/flowfabric"
)

// pool bounds how many calls of a kind are under way. Permits are taken without
// queueing. (Specification 04, section 4.5.)
type pool struct {
	name string
	max  int

	mu     sync.Mutex
	inUse  int
	closed bool
}

// The default sizes of pools.
const (
	DefaultWaits             = 1024
	DefaultFeedSubscriptions = 256
	DefaultStreamOps         = 64
	DefaultStreamSSE         = 256
)

func newPool(name string, size, byDefault int) *pool {
	if size <= 0 {
		size = byDefault
	}
	return &pool{name: name, max: size}
}

// acquire takes a permit and returns how to give it back; the return is
// idempotent. A full pool is resource_exhausted, a closed one shutting_down.
func (p *pool) acquire() (func(), error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, flowfabric.NewError(flowfabric.CodeShuttingDown, "the server is shutting down")
	}
	if p.inUse >= p.max {
		err := flowfabric.NewError(flowfabric.CodeResourceExhausted, "all %d permits of %s are taken", p.max, p.name).
			With("pool", p.name).With("max", p.max)
		err.RetryAfter = time.Duration(min(5000, 25*p.max)) * time.Millisecond
		return nil, err
	}
	p.inUse++
	return sync.OnceFunc(p.release), nil
}

func (p *pool) release() {
	p.mu.Lock()
	p.inUse--
	p.mu.Unlock()
}

// used returns the number of permits taken.
func (p *pool) used() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.inUse
}

// close makes every further acquire fail with shutting_down.
func (p *pool) close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
}
