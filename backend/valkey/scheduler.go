package valkey

import (
	"context"
	"hash/fnv"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	vk "github.com/valkey-io/valkey-go"

	"github.com/flowfabric/flowfabric"
)

const (
	priorityStep = 1_000_000_000_000
	// peekDepth is how many members of a bucket a look asks for.
	peekDepth = 16
	// maxBucketsNamed is how many buckets one claim names.
	maxBucketsNamed = 64
	// readySweepEvery is how often the map of a lane is checked as a whole.
	readySweepEvery = 5 * time.Second
	// maxArmRounds is how often a claim that comes away short looks again because
	// news came while it looked.
	maxArmRounds = 10
	// rearmAfter is how long a lane's waiting claims may be deaf to a partition, and
	// rearmShare the share of the time that may go into changing that.
	rearmAfter = 2 * time.Millisecond
	rearmShare = 20
	// readyKeptFor is how long a lane's map is kept after it was last asked for.
	readyKeptFor = 5 * time.Minute
)

// scanCursor moves the window in which a claim without hints begins.
type scanCursor struct{ n atomic.Uint64 }

// claim is one claim request on its way.
type claim struct {
	s      *Store
	a      *flowfabric.ClaimCandidatesArgs
	caps   string
	digest string
	ttl    string
	lanes  []claimLane
	res    flowfabric.ClaimCandidatesResult
	seen   int // candidates evaluated
	spoilt bool
	armed  int // rounds of arm
	owed   map[groupKey]int
}

// groupKey names a group over the rounds of a request.
type groupKey struct {
	lane      flowfabric.LaneID
	namespace flowfabric.Namespace
}

func (g *claimGroup) key() groupKey { return groupKey{g.lane.id, g.visible} }

// claimLane is one lane of a request that yields claims.
type claimLane struct {
	id    flowfabric.LaneID
	limit int // max_concurrency; 0 = none
	full  bool
	// start is where a look at all partitions begins.
	start   int
	covered map[string]bool // bucket name → whether the asker covers it
}

// group is the buckets of one lane and namespace that the asker covers: those a
// claim on one partition merges.
type claimGroup struct {
	lane    *claimLane
	heads   []partHead // in order
	visible flowfabric.Namespace
}

// partHead is the best of a group on one partition.
type partHead struct {
	offerPlace
	count   int
	buckets []string
}

// ClaimCandidates grants or claims up to Max executions. What is best it takes
// from the process's map of where work is; each visit of a partition is one atomic
// step of the store and corrects the map.
func (s *Store) ClaimCandidates(ctx context.Context, a flowfabric.ClaimCandidatesArgs) (flowfabric.ClaimCandidatesResult, error) {
	if err := s.registerImplicit(ctx, &a); err != nil {
		return flowfabric.ClaimCandidatesResult{}, err
	}
	c := claim{s: s, a: &a, caps: strings.Join(a.Capabilities, ",")}
	if c.caps != "" {
		c.digest = flowfabric.CapabilityDigest(a.Capabilities)
	}
	ttl := a.LeaseTTLMs
	if a.GrantTTLMs > 0 {
		ttl = a.GrantTTLMs
	}
	c.ttl = strconv.FormatInt(ttl, 10)
	if err := c.open(ctx); err != nil {
		return flowfabric.ClaimCandidatesResult{}, err
	}
	if err := s.lapseGrants(ctx); err != nil {
		return flowfabric.ClaimCandidatesResult{}, err
	}
	err := c.run(ctx)
	if err == nil {
		err = c.label(ctx)
	}
	c.res.More = c.res.More || c.spoilt
	return c.res, err
}

// open looks up the lanes and leaves out those that are disabled.
func (c *claim) open(ctx context.Context) error {
	h := fnv.New64a()
	_, _ = h.Write([]byte(c.a.WorkerInstanceID))
	window := c.s.scans.n.Add(1) - 1
	parts := uint64(len(c.s.tags))
	start := int((h.Sum64()%parts + window*flowfabric.MaxPartitionsPerScan) % parts)
	views, err := c.s.peekLanes(ctx, c.a.Lanes...)
	if err != nil {
		return err
	}
	for i, id := range c.a.Lanes {
		if views[i].exists && views[i].State == flowfabric.LaneDisabled {
			continue
		}
		c.lanes = append(c.lanes, claimLane{id: id, limit: views[i].MaxConcurrency, start: start, covered: make(map[string]bool)})
	}
	return nil
}

func (c *claim) taken() int { return len(c.res.Grants) + len(c.res.Tasks) }

func (c *claim) want() int { return c.a.Max - c.taken() }

// run takes until it has enough or nothing is left. It begins with a look at what
// is not known, so that nothing better is passed over.
func (c *claim) run(ctx context.Context) error {
	for c.want() > 0 {
		if err := c.look(ctx); err != nil {
			return err
		}
		groups := c.groups()
		if len(groups) == 0 {
			again, err := c.arm(ctx)
			if err != nil || !again {
				return err
			}
			continue
		}
		if c.seen >= flowfabric.MaxEvaluatedCandidates {
			c.res.More = true
			return nil
		}
		if err := c.visit(ctx, groups); err != nil {
			return err
		}
	}
	c.res.More = len(c.groups()) > 0
	return nil
}

// arm makes sure that a claim which comes away short hears of the next insertion:
// it looks again at the partitions whose wake-up went off since they were looked
// at. It reports whether there were any.
func (c *claim) arm(ctx context.Context) (again bool, err error) {
	r := &c.s.ready
	if c.a.WaitMs > 0 {
		until := time.Now().Add(time.Duration(c.a.WaitMs) * time.Millisecond)
		for i := range c.lanes {
			r.expect(c.lanes[i].id, waitingClaim{c.a.Capabilities, c.a.Namespace, c.a.Namespaces, until})
		}
	}
	if c.armed++; c.armed > maxArmRounds {
		return false, nil
	}
	for i := range c.lanes {
		lane := &c.lanes[i]
		if lane.full {
			continue
		}
		parts := r.deafTo(lane.id)
		if len(parts) == 0 {
			continue
		}
		again = true
		if err := c.s.peek(ctx, lane.id, parts); err != nil {
			return false, err
		}
	}
	return again, nil
}

// groups collects, for each lane and namespace, the partitions on which the asker
// can take something, best first and no more than it can use.
func (c *claim) groups() []claimGroup {
	r := &c.s.ready
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []claimGroup
	for i := range c.lanes {
		lane := &c.lanes[i]
		if lane.full {
			continue
		}
		l := r.lane(lane.id)
		l.used = time.Now()
		first := len(out)
		for name, b := range l.buckets {
			if len(b.heads) == 0 || !visible(b.namespace, c.a.Namespace, c.a.Namespaces) {
				continue
			}
			covers, known := lane.covered[name]
			if !known {
				covers = len(flowfabric.MissingCapabilities(b.required, c.a.Capabilities)) == 0
				lane.covered[name] = covers
			}
			if !covers {
				continue
			}
			at := slices.IndexFunc(out[first:], func(g claimGroup) bool { return g.visible == b.namespace })
			if at < 0 {
				out = append(out, claimGroup{lane: lane, visible: b.namespace})
				at = len(out) - 1 - first
			}
			out[first+at].add(b, c.want())
		}
	}
	for i := range out {
		slices.SortFunc(out[i].heads, func(x, y partHead) int { return x.compare(y.offerPlace) })
	}
	return out
}

// add merges the best partitions of a bucket into the group: as many as could be
// visited.
func (g *claimGroup) add(b *readyBucket, want int) {
	for _, h := range best(b.heads, want+1) {
		i := slices.IndexFunc(g.heads, func(p partHead) bool { return p.part == h.part })
		if i < 0 {
			g.heads = append(g.heads, partHead{offerPlace: h.offerPlace, count: h.count, buckets: []string{b.name}})
			continue
		}
		p := &g.heads[i]
		p.count += h.count
		if h.before(p.offerPlace) {
			p.offerPlace = h.offerPlace
		}
		if len(p.buckets) < maxBucketsNamed {
			p.buckets = append(p.buckets, b.name)
		}
	}
}

// best returns the n best of a heap in order, without changing it.
func best(h headHeap, n int) []*readyHead {
	if len(h) == 0 {
		return nil
	}
	out := make([]*readyHead, 0, min(n, len(h)))
	front := []int{0}
	for len(out) < n && len(front) > 0 {
		k := 0
		for i := range front {
			if h.Less(front[i], front[k]) {
				k = i
			}
		}
		at := front[k]
		front[k] = front[len(front)-1]
		front = front[:len(front)-1]
		out = append(out, h[at])
		for _, child := range []int{2*at + 1, 2*at + 2} {
			if child < len(h) {
				front = append(front, child)
			}
		}
	}
	return out
}

// priorityOf reads the priority out of an order key. No execution waits for 15
// years.
func (c *claim) priorityOf(score int64) int64 {
	return min(max((int64(c.s.Now())-score+priorityStep/2)/priorityStep, 0), flowfabric.MaxPriority)
}

// boundFor is the highest order key of what has at least the priority.
func (c *claim) boundFor(priority int64) string {
	return strconv.FormatInt(int64(c.s.Now())-priority*priorityStep+priorityStep/2, 10)
}

// visitPlan is one call to one partition.
type visitPlan struct {
	group *claimGroup
	index int // of the group
	head  partHead
	n     int
	bound string
	since uint32
	slots slots
	tasks newTasks
}

// visit lets the picker share out what is wanted among the groups, and takes each
// group's share from its best partitions, all in one pipeline.
func (c *claim) visit(ctx context.Context, groups []claimGroup) error {
	shares, order := c.shareOut(groups)
	var plans []visitPlan
	for i := range groups {
		if shares[i] > 0 {
			plans = c.plan(plans, i, shares[i], groups)
		}
	}
	reqs := make([]request, 0, len(plans))
	for i := range plans {
		p := &plans[i]
		if err := c.takeSlots(ctx, p); err != nil {
			return err
		}
		p.since = c.s.ready.change(p.group.lane.id, p.head.part)
		if p.n > 0 {
			reqs = append(reqs, c.request(p))
		}
	}
	answers := c.s.calls(ctx, reqs)
	c.readDefs(ctx, plans, answers)
	var first error
	k := 0
	from := claimed{len(c.res.Grants), len(c.res.Tasks)}
	took := make([]int, 0, len(plans)) // the group of each that was taken
	for i := range plans {
		p := &plans[i]
		if p.n == 0 {
			continue
		}
		err := answers[k].err
		if err == nil {
			before := c.taken()
			err = c.accept(ctx, p, answers[k].msg)
			for range c.taken() - before {
				took = append(took, p.index)
			}
		} else {
			c.settle(ctx, p, nil)
		}
		if err != nil && first == nil {
			first = err
		}
		k++
	}
	if len(groups) > 1 {
		for _, i := range took {
			shares[i]--
		}
		for i, n := range shares {
			if n > 0 {
				if c.owed == nil {
					c.owed = make(map[groupKey]int)
				}
				c.owed[groups[i].key()] = n
			}
		}
		c.res.Grants = slices.Concat(c.res.Grants[:from.grants], inTurn(c.res.Grants[from.grants:], took, order))
		c.res.Tasks = slices.Concat(c.res.Tasks[:from.tasks], inTurn(c.res.Tasks[from.tasks:], took, order))
	}
	return first
}

// readDefs reads what the tasks in the answers leave out.
func (c *claim) readDefs(ctx context.Context, plans []visitPlan, answers []answer) {
	if c.a.GrantTTLMs > 0 {
		return
	}
	var all []*newTasks
	k := 0
	for i := range plans {
		p := &plans[i]
		if p.n == 0 {
			continue
		}
		if list, err := elementsOf("ff_claim_next", &answers[k].msg, 3); answers[k].err == nil && err == nil {
			p.tasks.now, p.tasks.list = list.ms(0), list[3:]
			all = append(all, &p.tasks)
		}
		k++
	}
	c.s.readDefs(ctx, all)
}

// claimed counts what a request had got.
type claimed struct{ grants, tasks int }

// inTurn brings what several groups yielded into the order in which it was their
// turn. groups tells of each whose it is.
func inTurn[T any](got []T, groups, order []int) []T {
	if len(got) == 0 {
		return nil
	}
	queues := make(map[int][]int, 4)
	for i := range got {
		queues[groups[i]] = append(queues[groups[i]], i)
	}
	out := make([]T, 0, len(got))
	for _, g := range order {
		if q := queues[g]; len(q) > 0 {
			out = append(out, got[q[0]])
			queues[g] = q[1:]
		}
	}
	return out
}

// shareOut asks the picker for as many as are wanted, one after the other, as if
// each group went on as it begins. order is whose turn each was.
func (c *claim) shareOut(groups []claimGroup) (shares, order []int) {
	shares = make([]int, len(groups))
	want := c.want()
	// What a group was picked for and has not yielded yet is still its turn.
	for i := range groups {
		k := groups[i].key()
		n := min(c.owed[k], want)
		delete(c.owed, k)
		shares[i], want = n, want-n
		for range n {
			order = append(order, i)
		}
	}
	heads := make([]flowfabric.Candidate, len(groups))
	for i := range groups {
		best := &groups[i].heads[0]
		priority := c.priorityOf(best.score)
		heads[i] = flowfabric.Candidate{LaneID: groups[i].lane.id, Namespace: groups[i].visible,
			Priority: int32(min(priority, flowfabric.MaxPriority)), CreatedAt: flowfabric.Millis(best.score + priority*priorityStep),
			ID: flowfabric.ExecutionID(c.s.tag(best.part) + ":" + best.e)}
	}
	for range want {
		i := c.a.Picker.Pick(heads)
		if i < 0 || i >= len(heads) {
			break
		}
		shares[i]++
		order = append(order, i)
		c.a.Picker.Taken(heads[i])
	}
	return shares, order
}

// plan spreads a group's share over its best partitions: over those of the highest
// priority, as many as seem to hold enough. No visit takes what has a lower
// priority than another head that is known in the lane.
func (c *claim) plan(plans []visitPlan, index, share int, groups []claimGroup) []visitPlan {
	g := &groups[index]
	top := c.priorityOf(g.heads[0].score)
	other := int64(0) // the highest priority among the heads of the lane's other groups
	for i := range groups {
		if o := &groups[i]; o.lane == g.lane && o != g && o.visible != g.visible {
			other = max(other, c.priorityOf(o.heads[0].score))
		}
	}
	for i := range g.heads {
		h := g.heads[i]
		if share == 0 || c.priorityOf(h.score) < top {
			break
		}
		n := min(share, h.count)
		last := i+1 == len(g.heads) || c.priorityOf(g.heads[i+1].score) < top
		if last {
			n = share
		}
		next := other
		if i+1 < len(g.heads) {
			next = max(next, c.priorityOf(g.heads[i+1].score))
		}
		bound := ""
		if next > 0 {
			bound = c.boundFor(min(next, top))
		}
		plans = append(plans, visitPlan{group: g, index: index, head: h, n: n, bound: bound})
		share -= n
		if last {
			break
		}
	}
	return plans
}

// takeSlots takes slots of a lane with max_concurrency; without enough of them the
// visit takes less, and the lane is full for this request.
func (c *claim) takeSlots(ctx context.Context, p *visitPlan) error {
	lane := p.group.lane
	if lane.limit == 0 {
		return nil
	}
	held, err := c.s.takeSlots(ctx, lane.id, lane.limit, p.n)
	if err != nil {
		return err
	}
	if len(held.tokens) < p.n {
		lane.full = true
		p.n = len(held.tokens)
	}
	p.slots = held
	return nil
}

// settle tells what the slots of a visit came to be used for. A failure costs
// nothing but time: what is not settled lapses.
func (c *claim) settle(ctx context.Context, p *visitPlan, used []slotUse) {
	if len(p.slots.tokens) == 0 {
		return
	}
	if err := c.s.settleSlots(ctx, p.slots, used...); err != nil {
		c.s.log.WarnContext(ctx, "slots of a lane are not settled, they lapse", "lane_id", p.group.lane.id, "error", err)
	}
}

// request is the call of a visit.
func (c *claim) request(p *visitPlan) request {
	mode, id := "c", func() string { return string(flowfabric.NewLeaseID()) }
	if c.a.GrantTTLMs > 0 {
		mode, id = "g", newGrantID
	}
	args := make([]string, 0, 11+len(p.head.buckets)+3*p.n)
	args = append(args, string(p.group.lane.id), string(c.a.WorkerID), string(c.a.WorkerInstanceID), c.caps, c.digest, c.ttl, "s", mode,
		strconv.Itoa(p.n), p.bound, strconv.Itoa(len(p.head.buckets)))
	args = append(args, p.head.buckets...)
	p.tasks = newTasks{part: p.head.part, lane: p.group.lane.id, instance: c.a.WorkerInstanceID, ttlMs: c.a.LeaseTTLMs}
	for range p.n {
		own, attempt := id(), ""
		if mode == "c" {
			attempt = string(flowfabric.NewAttemptID())
			p.tasks.ids = append(p.tasks.ids, taskIDs{flowfabric.LeaseID(own), flowfabric.AttemptID(attempt)})
		}
		args = append(args, own, attempt)
		if p.slots.tokens != nil {
			args = append(args, own)
		}
	}
	return request{fn: "ff_claim_next", tag: c.s.tag(p.head.part), args: args}
}

// accept takes the answer of a visit.
func (c *claim) accept(ctx context.Context, p *visitPlan, msg vk.ValkeyMessage) error {
	list, err := elementsOf("ff_claim_next", &msg, 3)
	if err != nil {
		return err
	}
	removed := int(list.int(1))
	next := list.str(2)
	key, e, left := strings.Cut(next, " ")
	best := offerPlace{part: p.head.part, e: e}
	if left {
		if best.score, err = strconv.ParseInt(key, 10, 64); err != nil {
			return badAnswer("ff_claim_next")
		}
	}
	lane := p.group.lane
	c.seen += max(removed, 1)
	var first error
	var used []slotUse
	for i := 3; i < len(list); i++ {
		use, err := c.keep(ctx, p, i-3, &list[i])
		switch {
		case err == nil:
			used = append(used, use)
		case flowfabric.CodeOf(err) == flowfabric.CodeCorruptRecord:
			c.spoilt = true // it is held, and hides nothing behind it
		case first == nil:
			first = err
		}
	}
	c.s.ready.visited(lane.id, p.since, p.head.buckets, left, best, removed)
	if next == "look" {
		c.s.ready.unknown(lane.id, p.head.part)
	}
	c.settle(ctx, p, used)
	return first
}

// keep adds the i-th grant or task of an answer to the result.
func (c *claim) keep(ctx context.Context, p *visitPlan, i int, msg *vk.ValkeyMessage) (slotUse, error) {
	if c.a.GrantTTLMs == 0 {
		t, err := c.s.receive(ctx, "claim_tasks", &p.tasks, i)
		if err != nil {
			return slotUse{}, err
		}
		c.res.Tasks = append(c.res.Tasks, t)
		return slotUse{id: t.ExecutionID, holder: string(t.Fence.LeaseID)}, nil
	}
	f, err := elementsOf("ff_claim_next", msg, 4)
	if err != nil {
		return slotUse{}, err
	}
	tag := c.s.tag(p.head.part)
	var d decoder
	g := flowfabric.Grant{ExecutionID: flowfabric.ExecutionID(tag + ":" + f.str(0)), PartitionKey: tag, GrantID: f.str(1),
		ExpiresAt: f.ms(2), LaneID: p.group.lane.id, Kind: claimKind(&d, "grant", f.str(3))}
	c.res.Grants = append(c.res.Grants, g)
	c.s.granted.note(p.head.part, g.ExpiresAt)
	return slotUse{id: g.ExecutionID, holder: g.GrantID, lapsesAt: g.ExpiresAt}, nil
}

// look asks the partitions of which nothing is known: all of them when a lane is
// asked for the first time or notices were missed, later those on which a claim
// left nothing of its own.
func (c *claim) look(ctx context.Context) error {
	for i := range c.lanes {
		lane := &c.lanes[i]
		parts := c.s.ready.unlooked(lane.id, lane.start)
		if len(parts) == 0 {
			continue
		}
		if err := c.s.peek(ctx, lane.id, parts); err != nil {
			return err
		}
	}
	return nil
}

// label labels the buckets that hold work in the asker's lanes and that nobody
// covers.
func (c *claim) label(ctx context.Context) error {
	var list []bucketAt
	c.s.ready.mu.Lock()
	for i := range c.lanes {
		lane := &c.lanes[i]
		examined := 0
		for name, b := range c.s.ready.lane(lane.id).buckets {
			if len(b.heads) == 0 || len(b.required) == 0 || examined == flowfabric.MaxUncoveredBuckets ||
				!visible(b.namespace, c.a.Namespace, c.a.Namespaces) ||
				len(flowfabric.MissingCapabilities(b.required, c.a.Capabilities)) == 0 {
				continue
			}
			examined++
			for _, h := range b.heads {
				list = append(list, bucketAt{laneAt{h.part, lane.id}, bucket{name: name, namespace: b.namespace, required: b.required}})
			}
		}
	}
	c.s.ready.mu.Unlock()
	if len(list) == 0 {
		return nil
	}
	n, err := c.s.uncovered(ctx, list, false)
	c.res.UncoveredLabelled = n
	return err
}
