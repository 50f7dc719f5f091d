package valkey

import (
	"container/heap"
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
}

// readyLane is what is known of one lane.
type readyLane struct {
	id      flowfabric.LaneID
	buckets map[string]*readyBucket // by name
	// looked tells of each partition that its buckets are known: they were looked
	// at, and every insertion since then was heard of.
	looked  []bool
	unknown int
	// changes counts per partition what was heard of it, so that an answer that is
	// older than the news does not overwrite them.
	changes []uint32
	used    time.Time // last asked for
	swept   time.Time // last looked at as a whole
}

// readyBucket is one bucket of a lane over all partitions.
type readyBucket struct {
	name      string
	namespace flowfabric.Namespace
	caps      string
	required  []string
	heads     headHeap
	byPart    map[uint16]*readyHead
}

// readyHead is the best member of a bucket on one partition, as far as is known.
type readyHead struct {
	part  uint16
	score int64
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
			unknown: r.partitions, changes: make([]uint32, r.partitions)}
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
func (r *ready) note(lane flowfabric.LaneID, part uint16, ns flowfabric.Namespace, caps string, score int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	l := r.lanes[lane]
	if l == nil || int(part) >= r.partitions {
		return
	}
	l.changes[part]++
	l.bucket(bucketName(ns, caps), ns, caps).raise(part, score, 1)
}

// raise notes that a partition has n more members, the best at score or better.
func (b *readyBucket) raise(part uint16, score int64, n int) {
	h := b.byPart[part]
	if h == nil {
		h = &readyHead{part: part, score: score, count: n}
		b.byPart[part] = h
		heap.Push(&b.heads, h)
		return
	}
	h.count += n
	if score < h.score {
		h.score = score
		heap.Fix(&b.heads, h.place)
	}
}

// set notes the head of a partition as a visit found it.
func (b *readyBucket) set(part uint16, score int64, count int) {
	h := b.byPart[part]
	if h == nil {
		b.raise(part, score, max(count, 1))
		return
	}
	h.score, h.count = score, max(count, 1)
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
		clear(l.looked)
		l.unknown = r.partitions
	}
}

// unknown makes one partition unknown.
func (r *ready) unknown(lane flowfabric.LaneID, part uint16) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if l := r.lane(lane); l.looked[part] {
		l.looked[part] = false
		l.unknown++
	}
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

// visited notes what a claim left in the buckets of a partition: the score of the
// best member that stays, or none. News that came since the claim began stand.
func (r *ready) visited(lane flowfabric.LaneID, part uint16, since uint32, names []string, left bool, score int64, took int) {
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
			if l.looked[part] {
				l.looked[part] = false
				l.unknown++
			}
		case !left:
			b.remove(part)
		case h == nil && len(names) > 1:
		default:
			n := 1
			if h != nil {
				n = h.count - took
			}
			b.set(part, score, n)
		}
	}
}

// saw notes what a look found on a partition.
func (r *ready) saw(lane flowfabric.LaneID, part uint16, since uint32, found []peeked) {
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
		if h := b.byPart[part]; stale && h != nil {
			continue
		}
		b.set(part, f.heads[0].score, len(f.heads))
	}
	if stale {
		return
	}
	for name, b := range l.buckets {
		if !present[name] {
			b.remove(part)
		}
	}
}

// headHeap orders the partitions of a bucket, the best head first.
type headHeap []*readyHead

func (h headHeap) Len() int { return len(h) }
func (h headHeap) Less(i, j int) bool {
	if h[i].score != h[j].score {
		return h[i].score < h[j].score
	}
	return h[i].part < h[j].part
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
