package sqlstore

import (
	"container/heap"
	"maps"
	"slices"

	"github.com/flowfabric/flowfabric"
)

// The bounds of what is kept for claims: coverages, and their entries together.
// Beyond them those not used for longest go, a quarter at a time, and are made
// anew when they are asked for again.
const (
	maxCoverages       = 4096
	maxCoverageEntries = 1 << 20
)

// coverageSet holds, per lane and capability set that claims come with, which
// buckets such a claim can take from and in what order, so that a claim looks at
// those it takes from and at no others, however many there are.
type coverageSet struct {
	byKey   map[coverageKey]*coverage
	lanes   map[flowfabric.LaneID][]*coverage
	entries int
	clock   uint64
}

// coverageKey names a coverage. The digest decides nothing: the set itself is
// compared.
type coverageKey struct {
	lane   flowfabric.LaneID
	digest string
}

// coverage is one lane as workers with one capability set see it.
type coverage struct {
	key     coverageKey
	caps    []string
	tenants map[flowfabric.Namespace]*tenant
	entries int
	used    uint64 // the clock at the last use
	// labelled counts the entries on the tenants' lists of that name.
	labelled int
}

// tenant is the part of a coverage that lies in one namespace.
type tenant struct {
	line     line     // covered buckets that may have candidates
	foreign  []*entry // buckets not covered that may have candidates
	labelled []*entry // covered buckets that have been labelled since the last claim
	next     int      // where the next look at the foreign ones goes on
	entries  int
}

// entry is a bucket's place in a coverage.
type entry struct {
	b       *bucket
	in      *coverage
	t       *tenant
	covered bool
	// key is no later in the order than the bucket's head: heads that go are
	// noticed when the entry comes to the front.
	key      headKey
	place    int  // in the tenant's line, -1 outside
	foreign  bool // on the tenant's list of that name
	labelled bool
}

// line is a heap of entries, the best key first.
type line []*entry

func (l line) Len() int           { return len(l) }
func (l line) Less(i, j int) bool { return l[i].key.less(l[j].key) }
func (l line) Swap(i, j int) {
	l[i], l[j] = l[j], l[i]
	l[i].place, l[j].place = i, j
}
func (l *line) Push(x any) {
	e := x.(*entry)
	e.place = len(*l)
	*l = append(*l, e)
}
func (l *line) Pop() any {
	last := len(*l) - 1
	e := (*l)[last]
	(*l)[last] = nil
	*l = (*l)[:last]
	e.place = -1
	return e
}

func newCoverageSet() coverageSet {
	return coverageSet{byKey: make(map[coverageKey]*coverage), lanes: make(map[flowfabric.LaneID][]*coverage)}
}

// coverage returns what claims of the lane with these capabilities see. The
// first such claim makes it, which takes a look at every bucket of the lane.
func (b *bucketSet) coverage(lane flowfabric.LaneID, digest string, caps []string) *coverage {
	s := &b.coverages
	s.clock++
	key := coverageKey{lane, digest}
	c := s.byKey[key]
	if c != nil && slices.Equal(c.caps, caps) {
		c.used = s.clock
		return c
	}
	if c != nil {
		b.dropCoverage(c)
	}
	c = &coverage{key: key, caps: slices.Clone(caps), tenants: make(map[flowfabric.Namespace]*tenant), used: s.clock}
	s.byKey[key] = c
	s.lanes[lane] = append(s.lanes[lane], c)
	for _, x := range b.all[lane] {
		s.enter(c, x)
	}
	if len(s.byKey) > maxCoverages || s.entries > maxCoverageEntries {
		b.dropOldCoverages()
	}
	return c
}

// dropOldCoverages drops what has not been used for longest, down to three
// quarters of the bounds. The one used last stays.
func (b *bucketSet) dropOldCoverages() {
	s := &b.coverages
	list := slices.Collect(maps.Values(s.byKey))
	sortBy(list, func(x, y *coverage) bool { return x.used < y.used })
	for _, c := range list[:len(list)-1] {
		if len(s.byKey) <= maxCoverages*3/4 && s.entries <= maxCoverageEntries*3/4 {
			return
		}
		b.dropCoverage(c)
	}
}

func (b *bucketSet) dropCoverage(c *coverage) {
	s := &b.coverages
	delete(s.byKey, c.key)
	s.lanes[c.key.lane] = slices.DeleteFunc(s.lanes[c.key.lane], func(o *coverage) bool { return o == c })
	if len(s.lanes[c.key.lane]) == 0 {
		delete(s.lanes, c.key.lane)
	}
	for _, x := range b.all[c.key.lane] {
		x.entries = slices.DeleteFunc(x.entries, func(e *entry) bool { return e.in == c })
	}
	s.entries -= c.entries
}

// enter gives a bucket its place in a coverage of its lane.
func (s *coverageSet) enter(c *coverage, x *bucket) {
	t := c.tenants[x.namespace]
	if t == nil {
		t = &tenant{}
		c.tenants[x.namespace] = t
	}
	e := &entry{b: x, in: c, t: t, place: -1}
	e.covered = len(x.required) == 0 || len(flowfabric.MissingCapabilities(x.required, c.caps)) == 0
	x.entries = append(x.entries, e)
	t.entries++
	c.entries++
	s.entries++
	if x.offered > 0 {
		e.offer(headKey{prio: -1 << 63}) // the front will tell
	}
	if x.label.UncoveredSince != 0 {
		e.label()
	}
}

// join gives a new bucket its place in every coverage of its lane.
func (s *coverageSet) join(x *bucket) {
	for _, c := range s.lanes[x.lane] {
		s.enter(c, x)
	}
}

// leave takes a bucket out of every coverage.
func (s *coverageSet) leave(x *bucket) {
	for _, e := range x.entries {
		c, t := e.in, e.t
		if e.place >= 0 {
			heap.Remove(&t.line, e.place)
		}
		if e.foreign {
			t.foreign = slices.DeleteFunc(t.foreign, func(o *entry) bool { return o == e })
		}
		if e.labelled {
			t.labelled = slices.DeleteFunc(t.labelled, func(o *entry) bool { return o == e })
			c.labelled--
		}
		c.entries--
		s.entries--
		if t.entries--; t.entries == 0 {
			delete(c.tenants, x.namespace)
		}
	}
	x.entries = nil
}

// offered notes that a member with this key is offered.
func (s *coverageSet) offered(x *bucket, k headKey) {
	for _, e := range x.entries {
		e.offer(k)
	}
}

// labelled notes that the bucket has got a label.
func (s *coverageSet) labelled(x *bucket) {
	for _, e := range x.entries {
		e.label()
	}
}

func (e *entry) offer(k headKey) {
	switch {
	case !e.covered:
		if !e.foreign {
			e.foreign = true
			e.t.foreign = append(e.t.foreign, e)
		}
	case e.place < 0:
		e.key = k
		heap.Push(&e.t.line, e)
	case k.less(e.key):
		e.key = k
		heap.Fix(&e.t.line, e.place)
	}
}

func (e *entry) label() {
	if e.covered && !e.labelled {
		e.labelled = true
		e.t.labelled = append(e.t.labelled, e)
		e.in.labelled++
	}
}

// left reports whether any covered bucket of the tenant has a candidate; it
// reads nothing.
func (t *tenant) left() bool {
	for len(t.line) > 0 && t.line[0].b.offered == 0 {
		heap.Pop(&t.line)
	}
	return len(t.line) > 0
}

// front returns the bucket whose head is the best of the tenant's candidates,
// with that head; nil when there is none. want is how many the caller may take.
func (tx *Tx) front(t *tenant, want int) (*bucket, headKey, error) {
	for t.left() {
		e := t.line[0]
		head, ok, err := tx.head(e.b, want)
		switch {
		case err != nil:
			return nil, headKey{}, err
		case !ok:
			heap.Pop(&t.line)
		case head == e.key:
			return e.b, head, nil
		default:
			e.key = head
			heap.Fix(&t.line, 0)
		}
	}
	return nil, headKey{}, nil
}

// eachTenant calls f for the tenants of the coverage that a request may take
// from.
func (c *coverage) eachTenant(want flowfabric.Namespace, allowed []flowfabric.Namespace, f func(flowfabric.Namespace, *tenant) error) error {
	one := func(ns flowfabric.Namespace) error {
		if t := c.tenants[ns]; t != nil && visible(ns, want, allowed) {
			return f(ns, t)
		}
		return nil
	}
	switch {
	case want != "" && want != flowfabric.AnyNamespace:
		return one(want)
	case allowed != nil && len(allowed) < len(c.tenants):
		for i, ns := range allowed {
			if slices.Contains(allowed[:i], ns) {
				continue
			}
			if err := one(ns); err != nil {
				return err
			}
		}
		return nil
	}
	for ns := range c.tenants {
		if err := one(ns); err != nil {
			return err
		}
	}
	return nil
}
