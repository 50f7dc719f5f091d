package valkey

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/flowfabric/flowfabric"
)

// grantsOut remembers by partition when the first grant lapses that this process
// has issued and nobody has acted upon, as far as is known.
type grantsOut struct {
	mu     sync.Mutex
	byPart map[uint16]flowfabric.Millis
	first  atomic.Int64
}

func (g *grantsOut) note(part uint16, expires flowfabric.Millis) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.byPart == nil {
		g.byPart = make(map[uint16]flowfabric.Millis)
	}
	if at, ok := g.byPart[part]; !ok || expires < at {
		g.byPart[part] = expires
	}
	if at := g.first.Load(); at == 0 || int64(expires) < at {
		g.first.Store(int64(expires))
	}
}

// due takes out the partitions whose first grant has lapsed at now.
func (g *grantsOut) due(now flowfabric.Millis) []uint16 {
	if at := g.first.Load(); at == 0 || flowfabric.Millis(at) > now {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	var parts []uint16
	first := flowfabric.Millis(0)
	for part, at := range g.byPart {
		switch {
		case at <= now:
			parts = append(parts, part)
			delete(g.byPart, part)
		case first == 0 || at < first:
			first = at
		}
	}
	g.first.Store(int64(first))
	return parts
}

// lapseGrants acts on the lapsed grants of this process before a claim chooses, so
// that what they hid is offered at its old place.
func (s *Store) lapseGrants(ctx context.Context) error {
	parts := s.granted.due(s.Now())
	if len(parts) == 0 {
		return nil
	}
	reqs := make([]request, len(parts))
	for i, p := range parts {
		reqs[i] = request{fn: "ff_lapse_grants", tag: s.tag(p)}
	}
	for _, a := range s.calls(ctx, reqs) {
		if a.err != nil {
			return a.err
		}
		list, err := a.msg.AsStrSlice()
		if err != nil {
			return badAnswer("ff_lapse_grants")
		}
		for _, line := range list {
			if ev, ok := s.readTold(line); ok {
				s.emit(ev)
			}
		}
	}
	return nil
}
