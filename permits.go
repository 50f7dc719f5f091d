package flowfabric

import "sync"

// permits bounds how many tasks a worker holds: its running tasks plus its
// claims in progress never exceed the limit. (Specification 02, section 6.1.)
type permits struct {
	limit int
	// freed receives a token, never more than one, whenever permits come back.
	freed chan struct{}

	mu   sync.Mutex
	used int
}

func newPermits(limit int) *permits {
	return &permits{limit: limit, freed: make(chan struct{}, 1)}
}

// take reserves up to n permits and returns how many it got, 0 when none is
// free.
func (p *permits) take(n int) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n = max(0, min(n, p.limit-p.used))
	p.used += n
	return n
}

// give returns n permits.
func (p *permits) give(n int) {
	if n == 0 {
		return
	}
	p.mu.Lock()
	p.used -= n
	p.mu.Unlock()
	select {
	case p.freed <- struct{}{}:
	default:
	}
}

func (p *permits) inUse() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.used
}
