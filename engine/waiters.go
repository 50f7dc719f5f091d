package engine

import (
	"container/heap"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/flowfabric/flowfabric"
)

// waiters holds the claims that wait for work. A waiter is registered before the
// scan that finds nothing; after it the waiter either parks, or, when something
// it could take has turned up meanwhile, scans again. An event wakes at most as
// many parked waiters as it tells of executions, those waiting longest first.
//
// No wake-up gets lost on the way. What a waiter was woken for it owes a look
// at. A waiter that timed out or failed did not look, and passes its debt on. One
// that took as much as it was woken for, but saw that more is left, may have
// taken something else; it leaves its debt as a doubt to somebody who is looking
// anyway, and only when there is nobody wakes another. A look that leaves nothing
// behind settles all debts.
//
// Waiters that ask for the same lanes, capabilities and namespaces form a class,
// so that an event is matched against few classes and not against every waiter.
type waiters struct {
	limit int
	n     atomic.Int64 // registered
	idle  atomic.Int64 // parked

	mu      sync.Mutex
	seq     uint64 // arrivals
	offers  uint64 // offers dealt so far
	classes map[classKey]*class
	byLane  map[flowfabric.LaneID]laneIndex
	woken   []*waiter // scratch of handle
}

// laneIndex holds a lane's classes by the one namespace they ask for, "" for
// those that ask for several or all.
type laneIndex map[flowfabric.Namespace][]*class

type classKey struct{ lanes, capabilities, namespaces string }

// class is a set of waiters that can take the same work.
type class struct {
	key          classKey
	lanes        []flowfabric.LaneID
	capabilities []string
	namespace    flowfabric.Namespace
	namespaces   []flowfabric.Namespace // when not nil, the only ones
	parked       parkedHeap
	busy         []*waiter // those woken or scanning, in no order
	// offers counts what turned up for the class while no parked waiter was left
	// to take it: whoever is scanning looks again.
	offers uint64
	// settled is what was offered when a scan began that left nothing behind.
	settled uint64
	// unused is set by a look that finds no waiter; the next one drops the class.
	unused bool
}

// waiter is one waiting claim. Its fields belong to waiters.mu, wake excepted.
type waiter struct {
	class *class
	seq   uint64 // order of arrival
	max   int    // how many executions it takes at most
	// wake gets one token per move from parked to woken.
	wake  chan struct{}
	place int // index in class.parked or class.busy
	state waiterState
	// seenOffers is class.offers, and seen waiters.offers, when the present scan
	// began: it sees what was offered until then.
	seenOffers, seen uint64
	// owed is what the waiter was woken for and has not yet looked at.
	owed []offer
	room int // what it can still take of the batch of events being handled
}

type waiterState uint8

const (
	scanning waiterState = iota
	parked
	woken
)

// offer tells that n executions of one bucket became claimable. An empty
// namespace means any.
type offer struct {
	lane      flowfabric.LaneID
	namespace flowfabric.Namespace
	required  []string
	n         int
	number    uint64 // a scan that began at or after this offer sees it
	doubt     bool   // it may have been taken
}

func newWaiters(limit int) *waiters {
	return &waiters{limit: limit, classes: make(map[classKey]*class), byLane: make(map[flowfabric.LaneID]laneIndex)}
}

func (ws *waiters) len() int { return int(ws.n.Load()) }

// register adds a waiter that is about to scan. It fails with too_many_waiters.
func (ws *waiters) register(args *flowfabric.ClaimCandidatesArgs) (*waiter, error) {
	key := keyOf(args)
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if int(ws.n.Load()) >= ws.limit {
		return nil, flowfabric.NewError(flowfabric.CodeTooManyWaiters, "%d claims wait already", ws.limit).With("max", ws.limit)
	}
	c := ws.classes[key]
	if c == nil {
		c = ws.addClass(key, args)
	}
	c.unused = false
	ws.n.Add(1)
	ws.seq++
	w := &waiter{class: c, seq: ws.seq, max: args.Max}
	c.addBusy(w)
	ws.begin(w)
	return w, nil
}

// begin notes that the waiter is about to scan.
func (ws *waiters) begin(w *waiter) {
	w.state = scanning
	w.seenOffers, w.seen = w.class.offers, ws.offers
}

// park makes the waiter wait, unless something turned up for its class since its
// scan began; then it reports false and the waiter is to scan again.
func (ws *waiters) park(w *waiter, left leftover) bool {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	w.owed = nil // it has looked
	if left == nothingLeft {
		w.class.settle(w.seen)
	}
	if w.class.offers != w.seenOffers {
		ws.begin(w)
		return false
	}
	if w.wake == nil {
		w.wake = make(chan struct{}, 1)
	}
	w.class.removeBusy(w)
	w.state = parked
	heap.Push(&w.class.parked, w)
	ws.idle.Add(1)
	return true
}

// resume begins the scan of a woken waiter.
func (ws *waiters) resume(w *waiter) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	ws.begin(w)
}

// leftover says what a waiter that leaves has left behind.
type leftover uint8

const (
	nothingLeft leftover = iota
	notLooked            // its last scan failed: what it was woken for may be there
	workLeft             // its last scan saw more than it took
)

// leave removes the waiter, which took so many, and settles its debts.
func (ws *waiters) leave(w *waiter, left leftover, took int) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if w.state == parked {
		heap.Remove(&w.class.parked, w.place)
		ws.idle.Add(-1)
	} else {
		w.class.removeBusy(w)
	}
	ws.n.Add(-1)
	if w.state == woken {
		left = notLooked
	}
	owed := w.owed
	w.owed = nil
	if left == nothingLeft {
		if w.state == scanning {
			w.class.settle(w.seen)
		}
		return
	}
	if left == workLeft && len(owed) == 0 && len(w.class.busy) == 0 {
		ws.wakeOldest(w.class) // somebody saw to it already, unless an event got lost
	}
	for _, o := range owed {
		if ws.isSettled(o) {
			continue
		}
		n := min(o.n, took)
		took -= n
		if o.n -= n; o.n == 0 || o.doubt {
			ws.leaveDoubt(o)
			continue
		}
		ws.offer(o)
	}
	ws.endBatch()
}

// leaveDoubt passes on an offer that may have been taken.
func (ws *waiters) leaveDoubt(o offer) {
	o.n, o.doubt = 1, true
	if w := ws.looking(o); w != nil {
		w.owe(o)
		return
	}
	ws.offer(o)
}

// isSettled reports whether somebody who could take the offer has looked after
// it was made, and found or left nothing.
func (ws *waiters) isSettled(o offer) (settled bool) {
	eachTaking(ws.byLane[o.lane], o, func(c *class) { settled = settled || c.settled >= o.number })
	return settled
}

func (c *class) settle(seen uint64) { c.settled = max(c.settled, seen) }

// maxAsked bounds the search for somebody who is looking anyway.
const maxAsked = 16

// looking returns a waiter whose scan, present or to come, sees the offer.
func (ws *waiters) looking(o offer) (found *waiter) {
	asked := 0
	eachTaking(ws.byLane[o.lane], o, func(c *class) {
		for i := len(c.busy) - 1; i >= 0 && found == nil && asked < maxAsked; i-- {
			asked++
			if w := c.busy[i]; w.state == woken || w.seen >= o.number {
				found = w
			}
		}
	})
	return found
}

// owe adds a doubt to the waiter's debts, unless it has a debt of that bucket.
func (w *waiter) owe(o offer) {
	for i := range w.owed {
		if d := &w.owed[i]; d.lane == o.lane && d.namespace == o.namespace && slices.Equal(d.required, o.required) {
			return
		}
	}
	w.owed = append(w.owed, o)
}

func (c *class) addBusy(w *waiter) {
	w.place = len(c.busy)
	c.busy = append(c.busy, w)
}

func (c *class) removeBusy(w *waiter) {
	last := len(c.busy) - 1
	moved := c.busy[last]
	c.busy[w.place] = moved
	moved.place = w.place
	c.busy[last] = nil
	c.busy = c.busy[:last]
}

// handle deals out what became claimable.
func (ws *waiters) handle(events []flowfabric.WakeEvent) {
	if ws.n.Load() == 0 {
		return
	}
	ws.mu.Lock()
	defer ws.mu.Unlock()
	for i := range events {
		if ev := &events[i]; ev.Kind == flowfabric.WakeEligible {
			ws.offers++
			ws.offer(offer{lane: ev.LaneID, namespace: ev.Namespace, required: ev.Required, n: max(1, ev.Count), number: ws.offers})
		}
	}
	ws.endBatch()
}

// endBatch forgets who was woken by the offers that belong together.
func (ws *waiters) endBatch() {
	clear(ws.woken)
	ws.woken = ws.woken[:0]
}

// offer wakes parked waiters for o.n executions, fewer when they take several
// each. When none is left it is noted for those who are scanning.
func (ws *waiters) offer(o offer) {
	idx := ws.byLane[o.lane]
	if idx == nil {
		return
	}
	for _, w := range ws.woken { // woken a moment ago and not yet scanning
		if o.n == 0 {
			return
		}
		if w.room > 0 && slices.Contains(w.class.lanes, o.lane) && w.class.takes(o) {
			w.take(&o)
		}
	}
	for o.n > 0 {
		c := longestWaiting(idx, o)
		if c == nil {
			break
		}
		w := ws.wakeOldest(c)
		w.room = w.max
		w.take(&o)
		ws.woken = append(ws.woken, w)
	}
	if o.n == 0 {
		return
	}
	eachTaking(idx, o, func(c *class) { c.offers++ })
}

// take puts as much of the offer as the waiter has room for to its account.
func (w *waiter) take(o *offer) {
	n := min(o.n, w.room)
	mine := *o
	mine.n = n
	w.owed = append(w.owed, mine)
	w.room -= n
	o.n -= n
}

// longestWaiting returns the class with the parked waiter that has waited
// longest of all that can take the offer, nil without any.
func longestWaiting(idx laneIndex, o offer) *class {
	var best *class
	eachTaking(idx, o, func(c *class) {
		if len(c.parked) > 0 && (best == nil || c.parked[0].seq < best.parked[0].seq) {
			best = c
		}
	})
	return best
}

// eachTaking calls f for every class of a lane that can take the offer.
func eachTaking(idx laneIndex, o offer, f func(*class)) {
	visit := func(classes []*class) {
		for _, c := range classes {
			if c.takes(o) {
				f(c)
			}
		}
	}
	if o.namespace == "" {
		for _, classes := range idx {
			visit(classes)
		}
		return
	}
	visit(idx[o.namespace])
	visit(idx[""])
}

// laneChanged lets the longest waiting of every class of a lane look, unless
// somebody of the class is about to: the lane's state or settings have changed,
// or it has room again below its bound. An empty lane means all lanes.
func (ws *waiters) laneChanged(lane flowfabric.LaneID) {
	if ws.n.Load() == 0 {
		return
	}
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if lane != "" {
		ws.lookIn(ws.byLane[lane])
		return
	}
	for _, idx := range ws.byLane {
		ws.lookIn(idx)
	}
}

func (ws *waiters) lookIn(idx laneIndex) {
	for _, classes := range idx {
		for _, c := range classes {
			ws.look(c)
		}
	}
}

// look has somebody of the class look anew.
func (ws *waiters) look(c *class) {
	c.offers++
	for _, w := range c.busy {
		if w.state == woken {
			return
		}
	}
	ws.wakeOldest(c)
}

// wakeOldest wakes the class's longest waiting parked waiter and returns it, nil
// without any.
func (ws *waiters) wakeOldest(c *class) *waiter {
	if len(c.parked) == 0 {
		return nil
	}
	w := heap.Pop(&c.parked).(*waiter)
	ws.idle.Add(-1)
	c.addBusy(w)
	w.state = woken
	w.room = 0
	w.owed = nil
	w.wake <- struct{}{} // never blocks: one token per move from parked
	return w
}

// wakeLike wakes the longest waiting of those who ask for the same as args,
// unless one of them is about to look.
func (ws *waiters) wakeLike(args *flowfabric.ClaimCandidatesArgs) {
	if ws.idle.Load() == 0 {
		return
	}
	key := keyOf(args)
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if c := ws.classes[key]; c != nil && len(c.busy) == 0 {
		ws.wakeOldest(c)
	}
}

// wakeClass wakes the longest waiting of a class.
func (ws *waiters) wakeClass(c *class) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	ws.wakeOldest(c)
}

// waiting returns the classes that have parked waiters, and forgets classes that
// have been without members since the last call.
func (ws *waiters) waiting() []*class {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	var list []*class
	for _, c := range ws.classes {
		switch {
		case len(c.parked) > 0:
			list = append(list, c)
		case len(c.busy) > 0:
		case c.unused:
			ws.dropClass(c)
		default:
			c.unused = true
		}
	}
	return list
}

func (ws *waiters) addClass(key classKey, args *flowfabric.ClaimCandidatesArgs) *class {
	c := &class{
		key:          key,
		lanes:        slices.Clone(args.Lanes),
		capabilities: slices.Clone(args.Capabilities),
		namespace:    args.Namespace,
		namespaces:   slices.Clone(args.Namespaces),
	}
	ws.classes[key] = c
	for _, lane := range c.lanes {
		idx := ws.byLane[lane]
		if idx == nil {
			idx = make(laneIndex)
			ws.byLane[lane] = idx
		}
		idx[c.namespace] = append(idx[c.namespace], c)
	}
	return c
}

func (ws *waiters) dropClass(c *class) {
	delete(ws.classes, c.key)
	for _, lane := range c.lanes {
		idx := ws.byLane[lane]
		idx[c.namespace] = slices.DeleteFunc(idx[c.namespace], func(o *class) bool { return o == c })
		if len(idx[c.namespace]) == 0 {
			delete(idx, c.namespace)
		}
		if len(idx) == 0 {
			delete(ws.byLane, lane)
		}
	}
}

// takes reports whether members of the class may take the offer, the lane apart.
func (c *class) takes(o offer) bool {
	if o.namespace != "" && c.namespace != "" && c.namespace != o.namespace {
		return false
	}
	if o.namespace != "" && c.namespaces != nil && !slices.Contains(c.namespaces, o.namespace) {
		return false
	}
	return covers(c.capabilities, o.required)
}

// covers reports whether have holds every token of required; both are sorted.
func covers(have, required []string) bool {
	for _, r := range required {
		i, ok := slices.BinarySearch(have, r)
		if !ok {
			return false
		}
		have = have[i+1:]
	}
	return true
}

// keyOf names the class of a request in normal form. Lanes, capabilities and
// namespaces cannot hold the separators.
func keyOf(args *flowfabric.ClaimCandidatesArgs) classKey {
	key := classKey{lanes: string(args.Lanes[0]), capabilities: strings.Join(args.Capabilities, ","), namespaces: string(args.Namespace)}
	if len(args.Lanes) > 1 {
		key.lanes = join(args.Lanes)
	}
	if args.Namespaces != nil {
		key.namespaces += "\n" + join(args.Namespaces)
	}
	return key
}

func join[S ~string](list []S) string {
	var b strings.Builder
	for _, s := range list {
		b.WriteString(string(s))
		b.WriteByte('\n')
	}
	return b.String()
}

// parkedHeap orders parked waiters by arrival.
type parkedHeap []*waiter

func (h parkedHeap) Len() int           { return len(h) }
func (h parkedHeap) Less(i, j int) bool { return h[i].seq < h[j].seq }
func (h parkedHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].place, h[j].place = i, j
}
func (h *parkedHeap) Push(x any) {
	w := x.(*waiter)
	w.place = len(*h)
	*h = append(*h, w)
}
func (h *parkedHeap) Pop() any {
	old := *h
	n := len(old) - 1
	w := old[n]
	old[n] = nil
	*h = old[:n]
	return w
}
