package sqlstore

import (
	"sync"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/rules"
)

// liveGrants is the writer's list of grants that have not been acted upon: so a
// claim treats a lapsed grant as absent at once, and a lane's max_concurrency
// counts what is granted but not yet claimed.
//
// The writer changes it; readers may ask whether a grant is due.
type liveGrants struct {
	mu    sync.Mutex
	byKey map[rowKey]liveGrant
	lanes map[flowfabric.LaneID]int64 // issued by the scheduler
	// soonest is no later than the first lapse, so that most claims need look no
	// further.
	soonest flowfabric.Millis
}

type liveGrant struct {
	lane      flowfabric.LaneID
	expiresAt flowfabric.Millis
	scheduled bool
}

func newLiveGrants() *liveGrants {
	return &liveGrants{byKey: make(map[rowKey]liveGrant), lanes: make(map[flowfabric.LaneID]int64)}
}

func (g *liveGrants) note(r *row) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.forget(r.key)
	if r.st.Grant == nil || r.st.Grant.Lapsed {
		return
	}
	n := liveGrant{r.bucket.lane, r.st.Grant.ExpiresAt, r.st.Grant.IssuedBy == flowfabric.IssuedByScheduler}
	if len(g.byKey) == 0 || n.expiresAt < g.soonest {
		g.soonest = n.expiresAt
	}
	g.byKey[r.key] = n
	if n.scheduled {
		g.lanes[n.lane]++
	}
}

func (g *liveGrants) reset() {
	g.mu.Lock()
	defer g.mu.Unlock()
	clear(g.byKey)
	clear(g.lanes)
}

// due reports whether a grant has lapsed that nobody has acted upon.
func (g *liveGrants) due(now flowfabric.Millis) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.byKey) == 0 || now < g.soonest {
		return false
	}
	first := true
	for _, l := range g.byKey {
		if first || l.expiresAt < g.soonest {
			g.soonest, first = l.expiresAt, false
		}
	}
	return now >= g.soonest
}

func (g *liveGrants) drop(k rowKey) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.forget(k)
}

func (g *liveGrants) forget(k rowKey) {
	old, ok := g.byKey[k]
	if !ok {
		return
	}
	delete(g.byKey, k)
	if old.scheduled {
		g.lanes[old.lane]--
	}
}

func (tx *Tx) granted(lane flowfabric.LaneID) int64 { return tx.s.grants.lanes[lane] }

// lapseGrants offers again what lapsed grants have hidden.
func (tx *Tx) lapseGrants() error {
	if !tx.s.grants.due(tx.Now) {
		return nil
	}
	var due []rowKey
	for k, g := range tx.s.grants.byKey {
		if tx.Now >= g.expiresAt {
			due = append(due, k)
		}
	}
	for _, k := range due {
		r, err := tx.loadKey(k)
		if err != nil && flowfabric.AsError(err) == nil {
			return err
		}
		if r == nil { // gone, or it does not decode, as the tick will tell
			tx.s.grants.drop(k)
			continue
		}
		fx := rules.LapseGrant(r.st, tx.Now)
		if !fx.Changed {
			tx.s.grants.note(r)
			continue
		}
		if err := tx.save(r, &fx); err != nil {
			return err
		}
	}
	return nil
}

var qGrantsAtBoot = &Query{`select xid, bucket, state, offered, prio_key, due_at, holder, rec, part, uuid from executions
	where due_at <= ? and offered = 0 and (state = ? or state = ?)`}

// loadGrants finds the grants of a former process that nobody has acted upon,
// live or lapsed: their executions are due within the longest grant TTL.
func (s *Store) loadGrants(c Conn) error {
	now := s.db.Now()
	s.grants.reset()
	q := c.Stmt(qGrantsAtBoot)
	q.Int(int64(now) + flowfabric.MaxGrantTTLMs)
	q.Int(int64(publicStates.of(flowfabric.PublicWaiting)))
	q.Int(int64(publicStates.of(flowfabric.PublicActive)))
	for {
		ok, err := q.Next()
		if err != nil || !ok {
			return err
		}
		r, err := s.heldRow("load_grants", q)
		if err != nil {
			continue // a read or an audit names it; it hides nothing here
		}
		s.grants.note(r)
	}
}
