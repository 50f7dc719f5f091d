package engine

import (
	"context"
	"hash/maphash"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/flowfabric/flowfabric"
)

// Bounds of the fairness state. What is beyond is forgotten, which costs a
// lane or tenant at most its present turn.
const (
	maxSharers = 4096
	maxScopes  = 1024
	// maxLag is how far a sharer's served/weight may be from the virtual time:
	// the lag stays within ±2·weight grants. (Specification 02, section 7.1.)
	maxLag = 2.0
	// weightsFor is how long the lanes' weights are believed.
	weightsFor = time.Second
)

// fairness holds whose turn it is: between lanes, and between the tenants of a
// lane. It is shared by all requests of the process and lives in memory only.
type fairness struct {
	mu    sync.Mutex
	turns turns
	lanes map[flowfabric.LaneID]*laneShare

	seed     maphash.Seed
	weights  atomic.Pointer[map[flowfabric.LaneID]flowfabric.Lane]
	loadedAt atomic.Int64 // ns since epoch; 0: load anew
	loading  sync.Mutex
	epoch    time.Time
}

// turns is the clock of one group of sharers. The sharer with the lowest pass,
// which is its served/weight, goes first.
type turns struct {
	// now is the virtual time: the pass of the sharer picked last.
	now float64
	// looks counts the looks at the group's candidates.
	looks uint64
	// last is the latest look of each scope. A sharer that its scope has not seen
	// in its latest look has been empty since.
	last map[uint64]uint64
}

// share is the account of one sharer.
type share struct {
	pass  float64
	seen  uint64 // the look that last found it non-empty
	scope uint64 // who looked then
}

type laneShare struct {
	share
	id      flowfabric.LaneID
	turns   turns
	tenants map[flowfabric.Namespace]*share
}

func newFairness() *fairness {
	return &fairness{lanes: make(map[flowfabric.LaneID]*laneShare), seed: maphash.MakeSeed(), epoch: time.Now()}
}

// forgetWeights makes the next claim read the lanes' weights anew.
func (f *fairness) forgetWeights() { f.loadedAt.Store(0) }

// laneWeights returns the lanes' records, at most a second old. One caller at a
// time refreshes them; the others go on with what is known. When they cannot be
// read the last ones count, or weight 1 for all.
func (f *fairness) laneWeights(ctx context.Context, store flowfabric.Store, log *slog.Logger) map[flowfabric.LaneID]flowfabric.Lane {
	known := f.weights.Load()
	if known != nil && f.fresh() {
		return *known
	}
	if known == nil {
		f.loading.Lock()
	} else if !f.loading.TryLock() {
		return *known
	}
	defer f.loading.Unlock()
	if known = f.weights.Load(); known != nil && f.fresh() {
		return *known
	}
	f.loadedAt.Store(int64(time.Since(f.epoch)) + 1)
	lanes, err := store.LaneWeights(ctx)
	if err != nil {
		log.WarnContext(ctx, "weights of lanes not read", "error", err)
		if known != nil {
			return *known
		}
	}
	f.weights.Store(&lanes)
	return lanes
}

// bounded reports whether the lane has a bound on its concurrency, as far as is
// known: then an execution that ends lets another one in.
func (f *fairness) bounded(lane flowfabric.LaneID) bool {
	known := f.weights.Load()
	return known != nil && (*known)[lane].MaxConcurrency > 0
}

func (f *fairness) fresh() bool {
	at := f.loadedAt.Load()
	return at > 0 && int64(time.Since(f.epoch))-at < int64(weightsFor)
}

// picker is the hold of one request on the fairness. It implements
// [flowfabric.Picker] and allocates nothing per pick.
type picker struct {
	fair    *fairness
	weights map[flowfabric.LaneID]flowfabric.Lane
	// laneScope and tenantScope tell which requests see the same candidates:
	// absence means emptiness only to those who could have seen.
	laneScope, tenantScope uint64
	// lane and tenant are those of the last look-up.
	lane     *laneShare
	tenant   *share
	tenantNS flowfabric.Namespace
}

// picker returns the picker of one request, whose lanes and capabilities are in
// normal form.
func (f *fairness) picker(args *flowfabric.ClaimCandidatesArgs) *picker {
	var h maphash.Hash
	h.SetSeed(f.seed)
	add := func(s string) {
		h.WriteString(s)
		h.WriteByte('\n')
	}
	add(string(args.Namespace))
	for _, n := range args.Namespaces {
		add(string(n))
	}
	h.WriteByte(0)
	for _, c := range args.Capabilities {
		add(c)
	}
	p := &picker{fair: f, tenantScope: h.Sum64()}
	h.WriteByte(0)
	for _, l := range args.Lanes {
		add(string(l))
	}
	p.laneScope = h.Sum64()
	return p
}

// Pick returns the head to take next: of the lane whose turn it is, the highest
// priority; among equal priorities the tenant whose turn it is; within it the
// oldest.
func (p *picker) Pick(heads []flowfabric.Candidate) int {
	if len(heads) == 0 {
		return -1
	}
	f := p.fair
	f.mu.Lock()
	defer f.mu.Unlock()

	f.turns.looks++
	var lane *laneShare
	for i := range heads {
		ln := p.laneOf(heads[i].LaneID)
		if !f.turns.present(&ln.share, p.laneScope) {
			continue
		}
		if lane == nil || ln.pass < lane.pass || ln.pass == lane.pass && ln.id < lane.id {
			lane = ln
		}
	}
	f.turns.note(p.laneScope)

	lane.turns.looks++
	best, bestPass := -1, 0.0
	for i := range heads {
		c := &heads[i]
		if c.LaneID != lane.id {
			continue
		}
		t := p.tenantOf(lane, c.Namespace)
		lane.turns.present(t, p.tenantScope)
		if best < 0 || before(c, t.pass, &heads[best], bestPass) {
			best, bestPass = i, t.pass
		}
	}
	lane.turns.note(p.tenantScope)
	return best
}

// before orders candidates of one lane.
func before(a *flowfabric.Candidate, aPass float64, b *flowfabric.Candidate, bPass float64) bool {
	switch {
	case a.Priority != b.Priority:
		return a.Priority > b.Priority
	case aPass != bPass:
		return aPass < bPass
	case a.CreatedAt != b.CreatedAt:
		return a.CreatedAt < b.CreatedAt
	}
	return a.ID < b.ID
}

// Taken adds 1/weight to the lane and the tenant of a candidate that was granted
// or claimed.
func (p *picker) Taken(c flowfabric.Candidate) {
	laneWeight, tenantWeight := 1, 1
	if l, ok := p.weights[c.LaneID]; ok {
		laneWeight = max(1, l.SchedulingWeight)
		tenantWeight = max(1, l.TenantWeights[c.Namespace])
	}
	f := p.fair
	f.mu.Lock()
	defer f.mu.Unlock()
	lane := p.laneOf(c.LaneID)
	f.turns.charge(&lane.share, laneWeight)
	lane.turns.charge(p.tenantOf(lane, c.Namespace), tenantWeight)
}

// exhausted tells that the request has nothing left to take in its lanes.
func (p *picker) exhausted(lanes []flowfabric.LaneID) {
	f := p.fair
	f.mu.Lock()
	defer f.mu.Unlock()
	f.turns.looks++
	f.turns.note(p.laneScope)
	for _, id := range lanes {
		if ln := f.lanes[id]; ln != nil {
			ln.turns.looks++
			ln.turns.note(p.tenantScope)
		}
	}
}

// laneOf returns a lane's account; a new one starts at the virtual time.
func (p *picker) laneOf(id flowfabric.LaneID) *laneShare {
	if p.lane != nil && p.lane.id == id {
		return p.lane
	}
	f := p.fair
	ln := f.lanes[id]
	if ln == nil {
		if len(f.lanes) >= maxSharers {
			clear(f.lanes)
		}
		ln = &laneShare{share: share{pass: f.turns.now}, id: id, tenants: make(map[flowfabric.Namespace]*share)}
		f.lanes[id] = ln
	}
	p.lane, p.tenant = ln, nil
	return ln
}

// tenantOf returns the account of a namespace in the lane of the last look-up.
func (p *picker) tenantOf(lane *laneShare, ns flowfabric.Namespace) *share {
	if p.lane == lane && p.tenant != nil && p.tenantNS == ns {
		return p.tenant
	}
	t := lane.tenants[ns]
	if t == nil {
		if len(lane.tenants) >= maxSharers {
			clear(lane.tenants)
		}
		t = &share{pass: lane.turns.now}
		lane.tenants[ns] = t
	}
	if p.lane == lane {
		p.tenant, p.tenantNS = t, ns
	}
	return t
}

// present notes that a sharer has candidates in this look, and reports whether
// it was the first note of the look. One that was empty before starts at the
// virtual time, so idleness earns no credit.
func (t *turns) present(s *share, scope uint64) bool {
	if s.seen == t.looks {
		return false
	}
	if t.last[s.scope] != s.seen {
		s.pass = max(s.pass, t.now)
	}
	s.pass = min(max(s.pass, t.now-maxLag), t.now+maxLag)
	s.seen, s.scope = t.looks, scope
	return true
}

// note ends a look of the scope.
func (t *turns) note(scope uint64) {
	if t.last == nil || len(t.last) >= maxScopes {
		t.last = make(map[uint64]uint64, 1)
	}
	t.last[scope] = t.looks
}

func (t *turns) charge(s *share, weight int) {
	t.now = s.pass
	s.pass += 1 / float64(weight)
}
