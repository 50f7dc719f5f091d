package valkey

import (
	"container/heap"
	"slices"
	"sync"
	"time"

	"github.com/flowfabric/flowfabric"
)

// ready is what a process knows of the offered work: for each bucket of a lane
// the partitions that have members, the best first. It is fed by notices and by
// the process's own calls, and corrected by every visit. What it does not know a
// look finds out. (Specification 02, section 7.1; 07, section 3.6.)
type ready struct {
	mu         sync.Mutex
	partitions int
	lanes      map[flowfabric.LaneID]*readyLane
	// deafened gets a token when a partition of a lane with waiting claims is no
	// longer listened to.
	deafened chan struct{}
}

// readyLane is what is known of one lane.
type readyLane struct {
	id      flowfabric.LaneID
	buckets map[string]*readyBucket // by name
	// looked tells of each partition that its buckets are known: they were looked
	// at, and every insertion since then was heard of.
	looked  []bool
	unknown int
	// armed tells of each partition that the next insertion will be heard of: its
	// wake-up was armed, and nothing was heard of it since then. What nobody here
	// can take disarms it as well.
	armed   []bool
	unarmed int
	// waiting are the kinds of claims that came away short and may still wait.
	waiting []waitingClaim
	// changes counts per partition what was heard of it, so that an answer that is
	// older than the news does not overwrite them.
	changes []uint32
	used    time.Time // last asked for
}

// waitingClaim is what some claims can take that may be waiting until an instant.
type waitingClaim struct {
	capabilities []string
	namespace    flowfabric.Namespace
	namespaces   []flowfabric.Namespace
	until        time.Time
}

// maxWaitingClaims bounds the kinds that are remembered of a lane; what is beyond
// is found by the sweep.
const maxWaitingClaims = 64

// readyBucket is one bucket of a lane over all partitions.
type readyBucket struct {
	name      string
	namespace flowfabric.Namespace
	caps      string
	required  []string
	heads     headHeap
	byPart    map[uint16]*readyHead
}

// offerPlace is where a member stands in the order of claimers: by its key, then by
// the text of its identifier.
type offerPlace struct {
	score int64
	part  uint16
	e     string // bare UUID
}

func (a offerPlace) before(b offerPlace) bool {
	switch {
	case a.score != b.score:
		return a.score < b.score
	case a.part != b.part:
		return partitionTag(a.part) < partitionTag(b.part)
	}
	return a.e < b.e
}

// compare is before as slices.SortFunc wants it.
func (a offerPlace) compare(b offerPlace) int {
	switch {
	case a.before(b):
		return -1
	case b.before(a):
		return 1
	}
	return 0
}

// readyHead is the best member of a bucket on one partition, as far as is known.
type readyHead struct {
	offerPlace
	count int // about how many members there are, at least 1
	place int
}

func (r *ready) lane(id flowfabric.LaneID) *readyLane {
	l := r.lanes[id]
	if l == nil {
		if r.lanes == nil {
			r.lanes = make(map[flowfabric.LaneID]*readyLane)
		}
		l = &readyLane{id: id, buckets: make(map[string]*readyBucket), looked: make([]bool, r.partitions),
			unknown: r.partitions, armed: make([]bool, r.partitions), unarmed: r.partitions, changes: make([]uint32, r.partitions)}
		r.lanes[id] = l
	}
	return l
}

func (l *readyLane) bucket(name string, ns flowfabric.Namespace, caps string) *readyBucket {
	b := l.buckets[name]
	if b == nil {
		b = &readyBucket{name: name, namespace: ns, caps: caps, required: splitList(caps), byPart: make(map[uint16]*readyHead)}
		l.buckets[name] = b
	}
	return b
}

// note tells of a member that entered a bucket. A lane that nobody here has asked
// for is not kept.
func (r *ready) note(lane flowfabric.LaneID, ns flowfabric.Namespace, caps string, at offerPlace) {
	part := at.part
	r.mu.Lock()
	defer r.mu.Unlock()
	l := r.lanes[lane]
	if l == nil || int(part) >= r.partitions {
		return
	}
	l.changes[part]++
	l.bucket(bucketName(ns, caps), ns, caps).raise(at, 1)
	r.disarm(l, part)
}

// disarm notes that the next insertion into a partition may not be heard of.
func (r *ready) disarm(l *readyLane, part uint16) {
	if l.armed[part] {
		l.armed[part] = false
		l.unarmed++
	}
	if len(l.waiting) > 0 {
		select {
		case r.deafened <- struct{}{}:
		default:
		}
	}
}

func (l *readyLane) arm(part uint16) {
	if !l.armed[part] {
		l.armed[part] = true
		l.unarmed--
	}
}

// doubt makes a partition unknown.
func (r *ready) doubt(l *readyLane, part uint16) {
	if l.looked[part] {
		l.looked[part] = false
		l.unknown++
	}
	r.disarm(l, part)
}

// expect notes that a claim which came away short may wait in a lane.
func (r *ready) expect(lane flowfabric.LaneID, w waitingClaim) {
	r.mu.Lock()
	defer r.mu.Unlock()
	l := r.lane(lane)
	for i := range l.waiting {
		o := &l.waiting[i]
		if o.namespace == w.namespace && slices.Equal(o.capabilities, w.capabilities) && slices.Equal(o.namespaces, w.namespaces) {
			if o.until.Before(w.until) {
				o.until = w.until
			}
			return
		}
	}
	if len(l.waiting) < maxWaitingClaims {
		l.waiting = append(l.waiting, w)
	}
}

// deaf lists the partitions of a lane on which an insertion would not be heard of
// and some waiting claim knows of nothing to take: what it could take may be there,
// or come there, without a word.
func (r *ready) deaf(lane flowfabric.LaneID) []uint16 {
	r.mu.Lock()
	defer r.mu.Unlock()
	l := r.lanes[lane]
	if l == nil || len(l.waiting) == 0 {
		return nil
	}
	now := time.Now()
	l.waiting = slices.DeleteFunc(l.waiting, func(w waitingClaim) bool { return w.until.Before(now) })
	if l.unarmed == 0 || len(l.waiting) == 0 {
		return nil
	}
	takes := make([][]*readyBucket, len(l.waiting))
	for i := range l.waiting {
		for _, b := range l.buckets {
			if l.waiting[i].takes(b) {
				takes[i] = append(takes[i], b)
			}
		}
	}
	var parts []uint16
	for p := range r.partitions {
		if l.armed[p] {
			continue
		}
		for i := range takes {
			if !slices.ContainsFunc(takes[i], func(b *readyBucket) bool { return b.byPart[uint16(p)] != nil }) {
				parts = append(parts, uint16(p))
				break
			}
		}
	}
	return parts
}

func (w *waitingClaim) takes(b *readyBucket) bool {
	return visible(b.namespace, w.namespace, w.namespaces) && len(flowfabric.MissingCapabilities(b.required, w.capabilities)) == 0
}

// deafTo lists the partitions of a lane on which an insertion would not be heard
// of.
func (r *ready) deafTo(lane flowfabric.LaneID) []uint16 {
	r.mu.Lock()
	defer r.mu.Unlock()
	l := r.lane(lane)
	if l.unarmed == 0 {
		return nil
	}
	parts := make([]uint16, 0, l.unarmed)
	for p := range r.partitions {
		if !l.armed[p] {
			parts = append(parts, uint16(p))
		}
	}
	return parts
}

// raise notes that a partition has n more members, the best at a place or better.
func (b *readyBucket) raise(at offerPlace, n int) {
	h := b.byPart[at.part]
	if h == nil {
		h = &readyHead{offerPlace: at, count: n}
		b.byPart[at.part] = h
		heap.Push(&b.heads, h)
		return
	}
	h.count += n
	if at.before(h.offerPlace) {
		h.offerPlace = at
		heap.Fix(&b.heads, h.place)
	}
}

// set notes the head of a partition as a visit found it.
func (b *readyBucket) set(at offerPlace, count int) {
	h := b.byPart[at.part]
	if h == nil {
		b.raise(at, max(count, 1))
		return
	}
	h.offerPlace, h.count = at, max(count, 1)
	heap.Fix(&b.heads, h.place)
}

func (b *readyBucket) remove(part uint16) {
	h := b.byPart[part]
	if h == nil {
		return
	}
	delete(b.byPart, part)
	heap.Remove(&b.heads, h.place)
}

// forget makes every partition of every lane unknown.
func (r *ready) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, l := range r.lanes {
		for p := range r.partitions {
			r.doubt(l, uint16(p))
		}
	}
}

// unknown makes one partition unknown.
func (r *ready) unknown(lane flowfabric.LaneID, part uint16) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.doubt(r.lane(lane), part)
}

// unlooked lists the partitions of a lane that are not known, from start on.
func (r *ready) unlooked(lane flowfabric.LaneID, start int) []uint16 {
	r.mu.Lock()
	defer r.mu.Unlock()
	l := r.lane(lane)
	if l.unknown == 0 {
		return nil
	}
	parts := make([]uint16, 0, l.unknown)
	for i := range r.partitions {
		if p := uint16((start + i) % r.partitions); !l.looked[p] {
			parts = append(parts, p)
		}
	}
	return parts
}

// asked lists the lanes that somebody here has asked for.
func (r *ready) asked() []flowfabric.LaneID {
	r.mu.Lock()
	defer r.mu.Unlock()
	ids := make([]flowfabric.LaneID, 0, len(r.lanes))
	for id := range r.lanes {
		ids = append(ids, id)
	}
	return ids
}

// drop forgets lanes that nobody has asked for in a while.
func (r *ready) drop(before time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, l := range r.lanes {
		if l.used.Before(before) {
			delete(r.lanes, id)
		}
	}
}

// change returns what was heard of a partition so far.
func (r *ready) change(lane flowfabric.LaneID, part uint16) uint32 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.lane(lane).changes[part]
}

// visited notes what a claim left in the buckets of a partition: the place of the
// best member that stays, or none. News that came since the claim began stand.
func (r *ready) visited(lane flowfabric.LaneID, since uint32, names []string, left bool, best offerPlace, took int) {
	part := best.part
	r.mu.Lock()
	defer r.mu.Unlock()
	l := r.lane(lane)
	stale := l.changes[part] != since
	for _, name := range names {
		b := l.buckets[name]
		if b == nil {
			continue
		}
		h := b.byPart[part]
		switch {
		case h == nil && !left:
		case stale:
			r.doubt(l, part)
		case !left:
			b.remove(part)
		case h == nil && len(names) > 1:
		default:
			n := 1
			if h != nil {
				n = h.count - took
			}
			b.set(best, n)
		}
	}
	if !left && !stale {
		l.arm(part)
	}
}

// saw notes what a look found on a partition, which it armed. It returns what was
// not known before.
func (r *ready) saw(lane flowfabric.LaneID, part uint16, since uint32, found []peeked) (news []peeked) {
	r.mu.Lock()
	defer r.mu.Unlock()
	l := r.lane(lane)
	if !l.looked[part] {
		l.looked[part] = true
		l.unknown--
	}
	stale := l.changes[part] != since
	present := make(map[string]bool, len(found))
	for i := range found {
		f := &found[i]
		present[f.bucket] = true
		b := l.bucket(f.bucket, f.namespace, f.caps)
		h := b.byPart[part]
		if h == nil {
			news = append(news, *f)
		} else if stale {
			continue
		}
		b.set(offerPlace{f.heads[0].score, part, f.heads[0].e}, len(f.heads))
	}
	if stale {
		return news
	}
	l.arm(part)
	for name, b := range l.buckets {
		if !present[name] {
			b.remove(part)
		}
	}
	return news
}

// knows reports whether a member of a bucket is known on a partition of a lane that
// is kept.
func (r *ready) knows(lane flowfabric.LaneID, part uint16, name string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	l := r.lanes[lane]
	if l == nil || !l.looked[part] {
		return true // a claim looks anyway
	}
	b := l.buckets[name]
	return b != nil && b.byPart[part] != nil
}

// headHeap orders the partitions of a bucket, the best head first.
type headHeap []*readyHead

func (h headHeap) Len() int { return len(h) }
func (h headHeap) Less(i, j int) bool {
	return h[i].before(h[j].offerPlace)
}
func (h headHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].place, h[j].place = i, j
}
func (h *headHeap) Push(x any) {
	e := x.(*readyHead)
	e.place = len(*h)
	*h = append(*h, e)
}
func (h *headHeap) Pop() any {
	old := *h
	e := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return e
}
