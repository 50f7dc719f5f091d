package sqlstore

import (
	"strings"
	"sync/atomic"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/rules"
)

// A bucket is the set of executions of one (lane, namespace, required
// capability set). Descriptors live for ever and all in memory; what changes is
// how many members are offered and whether a live worker covers it.
type bucket struct {
	id        int64
	lane      flowfabric.LaneID
	namespace flowfabric.Namespace
	required  []string
	label     rules.Label

	// occupied lets readers pass over buckets without offered members.
	occupied atomic.Bool

	// Kept by the writer.
	offered int
	head    headKey // best offered member; valid while known
	known   bool
	best    flowfabric.Candidate // the member last described as a candidate, by bestKey
	bestKey headKey
	server  workerKey // a registration that covered the bucket when last looked
}

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
	// lanes holds the non-empty buckets of each lane.
	lanes map[flowfabric.LaneID]map[*bucket]struct{}
	// all holds every bucket of each lane, by id.
	all map[flowfabric.LaneID][]*bucket
	// labelled holds the labelled buckets of each lane.
	labelled map[flowfabric.LaneID]map[*bucket]struct{}
	lastID   int64
}

func newBucketSet() *bucketSet {
	return &bucketSet{
		byID: make(map[int64]*bucket), byKey: make(map[bucketKey]*bucket),
		lanes: make(map[flowfabric.LaneID]map[*bucket]struct{}), all: make(map[flowfabric.LaneID][]*bucket),
		labelled: make(map[flowfabric.LaneID]map[*bucket]struct{}),
	}
}

func (b *bucketSet) add(x *bucket) {
	b.byID[x.id] = x
	b.byKey[bucketKey{x.lane, x.namespace, strings.Join(x.required, ",")}] = x
	b.all[x.lane] = append(b.all[x.lane], x)
	b.lastID = max(b.lastID, x.id)
	b.noteLabel(x, x.label.UncoveredSince != 0)
}

// noteLabel keeps the list of a lane's labelled buckets.
func (b *bucketSet) noteLabel(x *bucket, labelled bool) {
	set := b.labelled[x.lane]
	if !labelled {
		delete(set, x)
		return
	}
	if set == nil {
		set = make(map[*bucket]struct{})
		b.labelled[x.lane] = set
	}
	set[x] = struct{}{}
}

func (b *bucketSet) setOffered(x *bucket, n int) {
	x.offered = n
	x.occupied.Store(n > 0)
	set := b.lanes[x.lane]
	if n <= 0 {
		delete(set, x)
		return
	}
	if set == nil {
		set = make(map[*bucket]struct{})
		b.lanes[x.lane] = set
	}
	set[x] = struct{}{}
}

var (
	qSelectBuckets = &Query{`select bucket, lane, namespace, required, uncovered_since, last_mismatch_at from buckets
		order by bucket`}
	qInsertBucket = &Query{`insert into buckets (bucket, lane, namespace, required) values (?, ?, ?, ?)`}
	qLabelBucket  = &Query{`update buckets set uncovered_since = ?, last_mismatch_at = ? where bucket = ?`}
	qCountOffered = &Query{`select bucket, count(*) from executions where offered = 1 group by bucket`}
	qBucketHead   = &Query{`select prio_key, id_rank, uuid from executions where bucket = ? and offered = 1
		order by prio_key, id_rank, uuid limit 1`}
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
	if err := q.Exec(); err != nil {
		return nil, err
	}
	s.bucketMu.Lock()
	s.buckets.add(b)
	s.bucketMu.Unlock()
	return b, nil
}

// place keeps a bucket's count and head right when a member moves.
func (tx *Tx) place(r *row, old rules.Placement) {
	b := r.bucket
	if r.place.Offered == old.Offered && (!old.Offered || r.place.PrioKey == old.PrioKey) {
		return
	}
	n := b.offered
	if old.Offered {
		n--
		if b.known && b.head == r.headKey(old) {
			b.known = false
		}
	}
	if r.place.Offered {
		n++
		if k := r.headKey(r.place); b.known && k.less(b.head) {
			b.head = k
		} else if n == 1 {
			b.head, b.known = k, true
		}
	}
	tx.s.buckets.setOffered(b, n)
}

// head returns the key of the best offered member of a non-empty bucket.
func (tx *Tx) head(b *bucket) (headKey, bool, error) {
	if b.known {
		return b.head, true, nil
	}
	q := tx.conn.Stmt(qBucketHead)
	q.Int(b.id)
	ok, err := q.Next()
	if err != nil || !ok {
		return headKey{}, false, err
	}
	b.head = headKey{prio: q.ColInt(0), rank: q.ColInt(1)}
	copy(b.head.uuid[:], q.ColBlob(2, nil))
	b.known = true
	q.Stop()
	return b.head, true, nil
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
			set.setOffered(b, int(q.ColInt(1)))
		}
	}
	s.bucketMu.Lock()
	s.buckets = set
	s.bucketMu.Unlock()
	return nil
}
