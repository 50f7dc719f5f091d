package sqlstore

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"hash/fnv"
	"maps"
	"math"
	"slices"

	"github.com/flowfabric/flowfabric"
)

// feedCursor is a position in a feed: everything up to pos has been seen, and
// seqs tells, for each partition in scope, the last number seen, so that a gap
// can be named.
type feedCursor struct {
	feed  flowfabric.Feed
	scope uint64
	pos   int64
	seqs  map[uint16]uint64
}

const feedCursorVersion = 1

func (s *Store) encodeCursor(c *feedCursor) string {
	b := make([]byte, 0, 64+len(c.seqs)*3)
	b = append(b, feedCursorVersion)
	b = append(b, s.incarnation...)
	b = append(b, byte(feedNumbers.of(c.feed)))
	b = binary.LittleEndian.AppendUint64(b, c.scope)
	b = binary.AppendUvarint(b, uint64(c.pos))
	parts := make([]uint16, 0, len(c.seqs))
	for p := range c.seqs {
		parts = append(parts, p)
	}
	slices.Sort(parts)
	prev := uint16(0)
	for _, p := range parts {
		b = binary.AppendUvarint(b, uint64(p-prev))
		b = binary.AppendUvarint(b, c.seqs[p])
		prev = p
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

func badCursor(detail string) error {
	return flowfabric.NewError(flowfabric.CodeInvalidCursor, "feed cursor: %s", detail).With("reason", detail)
}

func (s *Store) decodeCursor(text string, feed flowfabric.Feed, scope uint64) (*feedCursor, error) {
	b, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil || len(text) > 4<<20 || len(b) < 1+36+1+8 || b[0] != feedCursorVersion {
		return nil, badCursor("malformed")
	}
	if string(b[1:37]) != s.incarnation {
		return nil, badCursor("wrong_store")
	}
	if b[37] != byte(feedNumbers.of(feed)) {
		return nil, badCursor("wrong_feed")
	}
	c := &feedCursor{feed: feed, scope: binary.LittleEndian.Uint64(b[38:46]), seqs: make(map[uint16]uint64)}
	if c.scope != scope {
		return nil, badCursor("wrong_scope")
	}
	b = b[46:]
	pos, n := binary.Uvarint(b)
	if n <= 0 || pos > math.MaxInt64 {
		return nil, badCursor("malformed")
	}
	c.pos, b = int64(pos), b[n:]
	part := uint64(0)
	for len(b) > 0 {
		d, n := binary.Uvarint(b)
		if n <= 0 {
			return nil, badCursor("malformed")
		}
		seq, m := binary.Uvarint(b[n:])
		if m <= 0 {
			return nil, badCursor("malformed")
		}
		part += d
		if part >= uint64(s.parts.NumFlowPartitions) {
			return nil, badCursor("malformed")
		}
		c.seqs[uint16(part)] = seq
		b = b[n+m:]
	}
	return c, nil
}

func scopeDigest(parts []uint16) uint64 {
	if len(parts) == 0 {
		return 0
	}
	sorted := slices.Clone(parts)
	slices.Sort(sorted)
	h := fnv.New64a()
	for _, p := range slices.Compact(sorted) {
		_, _ = h.Write([]byte{byte(p), byte(p >> 8)})
	}
	return h.Sum64()
}

var (
	qReadLog   = &Query{`select pos, part, seq, at, rec from events where feed = ? and pos > ? and pos <= ? order by pos limit ?`}
	qTrimLog   = &Query{`delete from events where feed = ? and pos <= ?`}
	qOldestLog = &Query{`select pos, part, seq, at from events where feed = ? order by pos limit ?`}
)

// logState is what a snapshot tells about a feed.
type logState struct {
	last    int64
	heads   map[uint16]uint64
	trimmed map[uint16]uint64
}

// logState copies what is published of a feed. Take it before a snapshot: the
// snapshot then holds at least what it names.
func (s *Store) logState(n int) *logState {
	s.pub.RLock()
	defer s.pub.RUnlock()
	f := &s.pub.heads[n]
	return &logState{last: f.lastPos, heads: maps.Clone(f.seqs), trimmed: maps.Clone(f.trimmed)}
}

// floor is the highest seq of a partition that is no longer retained.
func (st *logState) floor(part uint16) uint64 {
	floor := st.trimmed[part]
	if head := st.heads[part]; head > flowfabric.FeedRetentionEvents {
		floor = max(floor, head-flowfabric.FeedRetentionEvents)
	}
	return floor
}

// ReadFeed reads one batch of a feed; it never waits. An event that does not
// decode is corrupt_record with the details "event_id" and "cursor", from which
// reading goes on behind it; events before it are delivered first.
func (s *Store) ReadFeed(ctx context.Context, a flowfabric.ReadFeedArgs) (res flowfabric.ReadFeedResult, err error) {
	n := int(feedNumbers.of(a.Feed))
	if n < 1 || n >= len(feedNumbers.labels) {
		return res, flowfabric.InvalidInput("feed", "%q is no feed", a.Feed)
	}
	limit, err := listLimit(a.Limit, flowfabric.DefaultFeedLimit, flowfabric.MaxFeedLimit)
	if err != nil {
		return res, err
	}
	if len(a.Filter.Tags) > 8 {
		return res, flowfabric.InvalidInput("tags", "%d pairs, limit 8", len(a.Filter.Tags))
	}
	for _, p := range a.Partitions {
		if int(p) >= s.parts.NumFlowPartitions {
			return res, flowfabric.InvalidInput("partitions", "%d, the deployment has %d", p, s.parts.NumFlowPartitions)
		}
	}
	scope := scopeDigest(a.Partitions)
	var cur *feedCursor
	if a.Start != "" && a.Start != flowfabric.FeedStartNow && a.Start != flowfabric.FeedStartEarliest {
		if cur, err = s.decodeCursor(a.Start, a.Feed, scope); err != nil {
			return res, err
		}
	}
	res.Events, res.Gaps = []flowfabric.Event{}, []flowfabric.Gap{}
	st := s.logState(n)
	if cur != nil && cur.pos == st.last {
		res.NextCursor = a.Start
		return res, nil
	}
	err = s.db.Read(ctx, func(c Conn) error {
		return s.readLog(c, n, &a, st, scope, cur, limit, &res)
	})
	return res, err
}

func (s *Store) readLog(c Conn, n int, a *flowfabric.ReadFeedArgs, st *logState, scope uint64, cur *feedCursor, limit int, res *flowfabric.ReadFeedResult) error {
	inScope := func(p uint16) bool { return len(a.Partitions) == 0 || contains(a.Partitions, p) }
	if cur == nil {
		cur = &feedCursor{feed: a.Feed, scope: scope, seqs: make(map[uint16]uint64)}
		if a.Start == flowfabric.FeedStartEarliest {
			for p := range st.heads {
				if inScope(p) {
					cur.seqs[p] = st.floor(p)
				}
			}
		} else {
			cur.pos = st.last
			for p, seq := range st.heads {
				if inScope(p) {
					cur.seqs[p] = seq
				}
			}
			res.NextCursor = s.encodeCursor(cur)
			return nil
		}
	}
	if cur.pos > st.last {
		return badCursor("ahead_of_log")
	}
	for p := range st.heads {
		if !inScope(p) {
			continue
		}
		if cur.seqs[p] > st.heads[p] {
			return badCursor("ahead_of_log")
		}
		if floor := st.floor(p); cur.seqs[p] < floor {
			res.Gaps = append(res.Gaps, flowfabric.Gap{Partition: p, MissedFromSeq: cur.seqs[p] + 1, MissedToSeq: floor})
			cur.seqs[p] = floor
		}
	}
	slices.SortFunc(res.Gaps, func(x, y flowfabric.Gap) int { return int(x.Partition) - int(y.Partition) })
	const scanBound = flowfabric.MaxListExamined
	q := c.Stmt(qReadLog)
	q.Int(int64(n))
	q.Int(cur.pos)
	q.Int(st.last)
	q.Int(scanBound)
	scanned := 0
	for {
		ok, err := q.Next()
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		if len(res.Events) == limit {
			res.HasMore = true
			q.Stop()
			break
		}
		scanned++
		pos, part, seq := q.ColInt(0), uint16(q.ColInt(1)), uint64(q.ColInt(2))
		if !inScope(part) || seq <= cur.seqs[part] {
			cur.pos = pos
			continue
		}
		if missed := cur.seqs[part] + 1; seq > missed { // trimmed after the look at what is published
			res.Gaps = append(res.Gaps, flowfabric.Gap{Partition: part, MissedFromSeq: missed, MissedToSeq: seq - 1})
			cur.seqs[part] = seq - 1
		}
		ev, err := decodeEvent(a.Feed, part, seq, flowfabric.Millis(q.ColInt(3)), q.ColBlob(4, nil))
		if err != nil && len(res.Events)+len(res.Gaps) > 0 {
			// What came before it is delivered first; the next read tells.
			res.HasMore = true
			q.Stop()
			break
		}
		cur.pos, cur.seqs[part] = pos, seq
		if err != nil {
			q.Stop()
			return flowfabric.AsError(err).With("event_id", ev.EventID).With("cursor", s.encodeCursor(cur))
		}
		if !passes(&ev, &a.Filter) {
			continue
		}
		ev.Cursor = s.encodeCursor(cur)
		res.Events = append(res.Events, ev)
	}
	res.HasMore = res.HasMore || scanned == scanBound
	res.NextCursor = s.encodeCursor(cur)
	return nil
}

func passes(ev *flowfabric.Event, f *flowfabric.FeedFilter) bool {
	if f.Namespace != "" && ev.Namespace != f.Namespace || f.FlowID != "" && ev.FlowID != f.FlowID ||
		f.ExecutionID != "" && ev.ExecutionID != f.ExecutionID || f.LaneID != "" && ev.LaneID != f.LaneID {
		return false
	}
	if f.Namespaces != nil && !contains(f.Namespaces, ev.Namespace) {
		return false
	}
	if len(f.Kinds) > 0 && !contains(f.Kinds, ev.Kind) {
		return false
	}
	return hasTags(ev.Tags, f.Tags)
}

const trimBatch = 2_000

// TrimFeeds deletes the oldest events of each feed that are past retention, in
// bounded steps, and saves the sequence numbers. What else has served its time
// goes with them: idempotency keys past their window, and the registry's log.
func (s *Store) TrimFeeds(ctx context.Context) (flowfabric.SweepResult, error) {
	var total flowfabric.SweepResult
	for n := 1; n < len(feedNumbers.labels); n++ {
		for range 20 {
			var step flowfabric.SweepResult
			err := s.db.Write(ctx, trimBatch/10, func(tx *Tx) (err error) {
				step, err = tx.trimFeed(n)
				return err
			})
			if err != nil {
				return total, err
			}
			total.Rows += step.Rows
			if !step.More {
				break
			}
		}
	}
	if err := s.db.Write(ctx, s.parts.NumFlowPartitions, func(tx *Tx) error { return tx.saveHeadsAndClock() }); err != nil {
		return total, err
	}
	if err := s.trimSpent(ctx); err != nil {
		return total, err
	}
	return total, s.dropBuckets(ctx)
}

func (tx *Tx) trimFeed(n int) (res flowfabric.SweepResult, err error) {
	f := &tx.s.log.feeds[n]
	q := tx.conn.Stmt(qOldestLog)
	q.Int(int64(n))
	q.Int(trimBatch)
	last := int64(0)
	trimmed := make(map[uint16]uint64)
	for {
		ok, err := q.Next()
		if err != nil {
			return res, err
		}
		if !ok {
			break
		}
		part, seq, at := uint16(q.ColInt(1)), uint64(q.ColInt(2)), flowfabric.Millis(q.ColInt(3))
		if at > tx.Now-flowfabric.FeedRetentionMs && seq+flowfabric.FeedRetentionEvents > f.seqs[part] {
			q.Stop()
			break
		}
		last = q.ColInt(0)
		trimmed[part] = seq
		res.Rows++
	}
	if last == 0 {
		return res, nil
	}
	res.More = res.Rows == trimBatch
	q = tx.conn.Stmt(qTrimLog)
	q.Int(int64(n))
	q.Int(last)
	if err := q.Exec(); err != nil {
		return res, err
	}
	for part, seq := range trimmed {
		f.trimmed[part] = seq
		tx.dirty.heads = append(tx.dirty.heads, headChange{feed: n, part: part, seq: seq, trimmed: true})
	}
	f.saved = -1 // the heads must be written with what was trimmed
	return res, tx.saveHeads()
}

// Close saves the feeds' sequence numbers, so that the next start is quick, and
// the clock.
func (s *Store) Close(ctx context.Context) error {
	return s.db.Write(ctx, 1, func(tx *Tx) error { return tx.saveHeadsAndClock() })
}

func (tx *Tx) saveHeadsAndClock() error {
	if err := tx.saveHeads(); err != nil {
		return err
	}
	return tx.saveClock()
}
