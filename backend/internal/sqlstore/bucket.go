package sqlstore

import (
	"context"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/rules"
)

// A bucket is the set of executions of one (lane, namespace, required
// capability set). Descriptors are all in memory; one that has had no member at
// all for bucketKeptMs goes. What changes is how many members are offered and
// whether a live worker covers the bucket.
type bucket struct {
	id        int64
	lane      flowfabric.LaneID
	namespace flowfabric.Namespace
	required  []string
	label     rules.Label

	// occupied lets readers pass over buckets without offered members.
	occupied atomic.Bool
	// emptySince is when the last member went, 0 while there are members.
	emptySince atomic.Int64

	// Kept by the writer.
	members int // executions in any state
	offered int
	// window holds the first of the offered members in claim order: there is none
	// between its members that it does not hold. Empty, it says nothing.
	window  []headKey
	entries []*entry             // its places in the coverages of its lane
	best    flowfabric.Candidate // the member last described as a candidate, by bestKey
	bestKey headKey
	server  workerKey // a registration that covered the bucket when last looked
}

// The bounds of a window: what it is read with at least, and what it may grow
// to.
const (
	minWindow = 16
	maxWindow = 256
)

// bucketKeptMs is how long a bucket without members stays known: 24 h.
// (Specification 07, section 3.6.)
const bucketKeptMs = 24 * 60 * 60 * 1000

// headKey orders members of a bucket.
type headKey struct {
	prio int64
	rank int64
	uuid [16]byte
}

func (h headKey) less(o headKey) bool {
	if h.prio != o.prio {
		return h.prio < o.prio
	}
	if h.rank != o.rank {
		return h.rank < o.rank
	}
	return string(h.uuid[:]) < string(o.uuid[:])
}

func (h headKey) rowKey() rowKey { return rowKey{part: partOfRank(h.rank), uuid: h.uuid} }

func (r *row) headKey(p rules.Placement) headKey {
	return headKey{prio: p.PrioKey, rank: idRank(r.key.part), uuid: r.key.uuid}
}

type bucketKey struct {
	lane      flowfabric.LaneID
	namespace flowfabric.Namespace
	required  string
}

// bucketSet indexes the buckets by id, by key and by lane.
type bucketSet struct {
	byID  map[int64]*bucket
	byKey map[bucketKey]*bucket
	// all holds every bucket of each lane, by id.
	all map[flowfabric.LaneID][]*bucket
	// labelled holds the labelled buckets of each lane.
	labelled map[flowfabric.LaneID]map[*bucket]struct{}
	lastID   int64

	coverages coverageSet
}

func newBucketSet() *bucketSet {
	return &bucketSet{
		byID: make(map[int64]*bucket), byKey: make(map[bucketKey]*bucket),
		all: make(map[flowfabric.LaneID][]*bucket), labelled: make(map[flowfabric.LaneID]map[*bucket]struct{}),
		coverages: newCoverageSet(),
	}
}

func (b *bucketSet) add(x *bucket) {
	b.byID[x.id] = x
	b.byKey[x.key()] = x
	b.all[x.lane] = append(b.all[x.lane], x)
	b.lastID = max(b.lastID, x.id)
	b.noteLabel(x, x.label.UncoveredSince != 0)
	b.coverages.join(x)
}

func (b *bucketSet) remove(x *bucket) {
	delete(b.byID, x.id)
	delete(b.byKey, x.key())
	b.all[x.lane] = slices.DeleteFunc(b.all[x.lane], func(o *bucket) bool { return o == x })
	if len(b.all[x.lane]) == 0 {
		delete(b.all, x.lane)
	}
	b.noteLabel(x, false)
	b.coverages.leave(x)
}

func (x *bucket) key() bucketKey {
	return bucketKey{x.lane, x.namespace, strings.Join(x.required, ",")}
}

// noteLabel keeps the list of a lane's labelled buckets.
func (b *bucketSet) noteLabel(x *bucket, labelled bool) {
	set := b.labelled[x.lane]
	if !labelled {
		delete(set, x)
		if set != nil && len(set) == 0 {
			delete(b.labelled, x.lane)
		}
		return
	}
	if set == nil {
		set = make(map[*bucket]struct{})
		b.labelled[x.lane] = set
	}
	set[x] = struct{}{}
}

func (x *bucket) setOffered(n int) {
	x.offered = n
	x.occupied.Store(n > 0)
}

var (
	qSelectBuckets = &Query{`select bucket, lane, namespace, required, uncovered_since, last_mismatch_at, members, empty_since
		from buckets order by bucket`}
	qInsertBucket = &Query{`insert into buckets (bucket, lane, namespace, required, empty_since) values (?, ?, ?, ?, ?)`}
	qLabelBucket  = &Query{`update buckets set uncovered_since = ?, last_mismatch_at = ? where bucket = ?`}
	qAddMembers   = &Query{`update buckets set members = members + ?, empty_since = ? where bucket = ?`}
	qDeleteBucket = &Query{`delete from buckets where bucket = ?`}
	qCountOffered = &Query{`select bucket, count(*) from executions where offered = 1 group by bucket`}
	// Members of a bucket in claim order, read from the index alone.
	qBucketWindow = &Query{`select prio_key, id_rank, uuid from executions where bucket = ? and offered = 1
		order by prio_key, id_rank, uuid limit ?`}
)

// bucket returns a descriptor by id; it is safe for readers.
func (s *Store) bucket(id int64) *bucket {
	s.bucketMu.RLock()
	defer s.bucketMu.RUnlock()
	return s.buckets.byID[id]
}

// bucketOf returns the bucket of a new execution, making it when it is the
// first of its kind.
func (tx *Tx) bucketOf(x *flowfabric.Execution) (*bucket, error) {
	s := tx.s
	key := bucketKey{x.LaneID, x.Namespace, strings.Join(x.RequiredCapabilities, ",")}
	if b := s.buckets.byKey[key]; b != nil {
		return b, nil
	}
	b := &bucket{id: s.buckets.lastID + 1, lane: x.LaneID, namespace: x.Namespace, required: x.RequiredCapabilities}
	q := tx.conn.Stmt(qInsertBucket)
	q.Int(b.id)
	q.Text(string(b.lane))
	q.Text(string(b.namespace))
	q.Text(key.required)
	q.Int(int64(tx.Now))
	if err := q.Exec(); err != nil {
		return nil, err
	}
	b.emptySince.Store(int64(tx.Now))
	s.bucketMu.Lock()
	s.buckets.add(b)
	s.bucketMu.Unlock()
	return b, nil
}

// place keeps a bucket's count and window right when a member moves.
func (tx *Tx) place(r *row, old rules.Placement) {
	if r.place.Offered == old.Offered && (!old.Offered || r.place.PrioKey == old.PrioKey) {
		return
	}
	if old.Offered {
		r.bucket.withdraw(r.headKey(old))
	}
	if r.place.Offered {
		k := r.headKey(r.place)
		r.bucket.admit(k)
		tx.s.buckets.coverages.offered(r.bucket, k)
	}
}

// admit adds an offered member.
func (x *bucket) admit(k headKey) {
	n := len(x.window)
	whole := n == x.offered && n < maxWindow
	if whole || n > 0 && k.less(x.window[n-1]) {
		i := n
		for i > 0 && k.less(x.window[i-1]) { // mostly the last, or close to it
			i--
		}
		x.window = slices.Insert(x.window, i, k)
		if len(x.window) > maxWindow {
			x.window = x.window[:maxWindow]
		}
	}
	x.setOffered(x.offered + 1)
}

// withdraw takes an offered member away.
func (x *bucket) withdraw(k headKey) {
	x.setOffered(max(0, x.offered-1))
	n := len(x.window)
	if n == 0 || x.window[n-1].less(k) {
		return
	}
	i := slices.Index(x.window, k)
	if i < 0 { // it should be there: what else may be wrong?
		x.forget()
		return
	}
	x.window = slices.Delete(x.window, i, i+1)
}

// forget makes the next look read the bucket's members anew.
func (x *bucket) forget() { x.window = x.window[:0] }

// head returns the key of the best offered member of a bucket, false when there
// is none. When it must read, it reads as many as the caller wants.
func (tx *Tx) head(b *bucket, want int) (headKey, bool, error) {
	if len(b.window) > 0 {
		return b.window[0], true, nil
	}
	if b.offered == 0 {
		return headKey{}, false, nil
	}
	limit := min(max(want, minWindow), maxWindow)
	q := tx.conn.Stmt(qBucketWindow)
	q.Int(b.id)
	q.Int(int64(limit))
	for {
		ok, err := q.Next()
		if err != nil {
			b.forget()
			return headKey{}, false, err
		}
		if !ok {
			break
		}
		k := headKey{prio: q.ColInt(0), rank: q.ColInt(1)}
		q.ColBlob(2, k.uuid[:0])
		b.window = append(b.window, k)
	}
	if len(b.window) < limit { // all there are
		b.setOffered(len(b.window))
	}
	if len(b.window) == 0 {
		return headKey{}, false, nil
	}
	return b.window[0], true, nil
}

// member notes that a bucket has gained or lost members; the group writes it
// once.
func (tx *Tx) member(b *bucket, n int) {
	if tx.dirty.buckets == nil {
		tx.dirty.buckets = make(map[*bucket]int, 2)
	}
	tx.dirty.buckets[b] += n
	b.members += n
}

func (tx *Tx) flushMembers() error {
	for b, n := range tx.dirty.buckets {
		since := int64(0)
		if b.members == 0 {
			since = int64(tx.Now)
		}
		if n == 0 && since == b.emptySince.Load() {
			continue
		}
		q := tx.conn.Stmt(qAddMembers)
		q.Int(int64(n))
		q.Int(since)
		q.Int(b.id)
		if err := q.Exec(); err != nil {
			return err
		}
		b.emptySince.Store(since)
	}
	return nil
}

// spentBucket reports whether a bucket has been without members for long enough
// to go.
func spentBucket(b *bucket, now flowfabric.Millis) bool {
	since := b.emptySince.Load()
	return since != 0 && int64(now)-since >= bucketKeptMs
}

// dropBuckets removes buckets that have been without members for 24 h, in
// bounded steps. A creation that needs one again makes it anew.
func (s *Store) dropBuckets(ctx context.Context) error {
	for {
		spent, now := 0, s.Now()
		s.bucketMu.RLock()
		for _, b := range s.buckets.byID {
			if spentBucket(b, now) {
				spent++
			}
		}
		s.bucketMu.RUnlock()
		if spent == 0 {
			return nil
		}
		dropped := 0
		err := s.db.Write(ctx, min(spent, sweepBatch), func(tx *Tx) (err error) {
			dropped, err = tx.dropBuckets()
			return err
		})
		if err != nil || dropped < sweepBatch {
			return err
		}
	}
}

func (tx *Tx) dropBuckets() (dropped int, err error) {
	for _, b := range tx.s.buckets.byID {
		if b.members > 0 || !spentBucket(b, tx.Now) {
			continue
		}
		q := tx.conn.Stmt(qDeleteBucket)
		q.Int(b.id)
		if err := q.Exec(); err != nil {
			return dropped, err
		}
		delete(tx.dirty.buckets, b)
		tx.s.bucketMu.Lock()
		tx.s.buckets.remove(b)
		tx.s.bucketMu.Unlock()
		if dropped++; dropped == sweepBatch {
			break
		}
	}
	return dropped, nil
}

// label sets or lifts a bucket's route label.
func (tx *Tx) label(b *bucket, l rules.Label) error {
	q := tx.conn.Stmt(qLabelBucket)
	q.Int(int64(l.UncoveredSince))
	q.Int(int64(l.LastMismatchAt))
	q.Int(b.id)
	if err := q.Exec(); err != nil {
		return err
	}
	was, is := b.label.UncoveredSince != 0, l.UncoveredSince != 0
	tx.s.buckets.noteLabel(b, is)
	if is && !was {
		tx.s.buckets.coverages.labelled(b)
	}
	tx.s.bucketMu.Lock()
	b.label = l
	tx.s.bucketMu.Unlock()
	if was && !is && b.offered > 0 {
		tx.wake = append(tx.wake, flowfabric.WakeEvent{Kind: flowfabric.WakeEligible, LaneID: b.lane, Namespace: b.namespace,
			Required: b.required, Count: b.offered})
	}
	return nil
}

// labelOf is the label as a reader sees it.
func (s *Store) labelOf(b *bucket) rules.Label {
	s.bucketMu.RLock()
	defer s.bucketMu.RUnlock()
	return b.label
}

func (s *Store) loadBuckets(c Conn) error {
	set := newBucketSet()
	q := c.Stmt(qSelectBuckets)
	for {
		ok, err := q.Next()
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		b := &bucket{id: q.ColInt(0), lane: flowfabric.LaneID(q.ColText(1)), namespace: flowfabric.Namespace(q.ColText(2))}
		if req := q.ColText(3); req != "" {
			b.required = strings.Split(req, ",")
		}
		b.label = rules.Label{UncoveredSince: flowfabric.Millis(q.ColInt(4)), LastMismatchAt: flowfabric.Millis(q.ColInt(5))}
		b.members = int(q.ColInt(6))
		if since := q.ColInt(7); b.members == 0 {
			if since == 0 { // of a schema that did not note it
				since = int64(s.db.Now())
			}
			b.emptySince.Store(since)
		}
		set.add(b)
	}
	q = c.Stmt(qCountOffered)
	for {
		ok, err := q.Next()
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		if b := set.byID[q.ColInt(0)]; b != nil {
			b.setOffered(int(q.ColInt(1)))
		}
	}
	s.bucketMu.Lock()
	s.buckets = set
	s.bucketMu.Unlock()
	return nil
}
