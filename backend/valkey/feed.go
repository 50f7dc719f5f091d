package valkey

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"hash/fnv"
	"slices"
	"strconv"
	"strings"

	vk "github.com/valkey-io/valkey-go"

	"github.com/flowfabric/flowfabric"
)

// eventField is the one field of a feed's entries.
const eventField = "v"

// feeds are all feeds there are, in the order of their numbers in cursors, from 1.
var feeds = [...]flowfabric.Feed{flowfabric.FeedCompletions, flowfabric.FeedLeases, flowfabric.FeedSignals, flowfabric.FeedTags}

func feedKey(tag string, feed flowfabric.Feed) string { return "ff:feed:" + tag + ":" + string(feed) }

// streamID is the id of a feed's entry with the sequence number.
func streamID(seq uint64) string { return "0-" + strconv.FormatUint(seq, 10) }

func seqOf(id string) (uint64, bool) {
	digits, ok := strings.CutPrefix(id, "0-")
	if !ok {
		return 0, false
	}
	seq, err := strconv.ParseUint(digits, 10, 64)
	return seq, err == nil
}

// feedCursor is a position in a feed: for each partition in scope the last
// number seen.
type feedCursor struct {
	feed  byte
	scope uint64
	parts []uint16
	seqs  []uint64 // beside parts
}

const (
	feedCursorVersion = 2
	maxCursorText     = 4 << 20
	idBytes           = 36
)

func (s *Store) encodeCursor(c *feedCursor) string {
	b := make([]byte, 0, 64+len(c.parts)*4)
	b = append(b, feedCursorVersion)
	b = append(b, s.deploymentID...)
	b = append(b, c.feed)
	b = binary.LittleEndian.AppendUint64(b, c.scope)
	prev := uint16(0)
	for i, p := range c.parts {
		if c.seqs[i] == 0 {
			continue
		}
		b = binary.AppendUvarint(b, uint64(p-prev))
		b = binary.AppendUvarint(b, c.seqs[i])
		prev = p
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

func badCursor(detail string) error {
	return flowfabric.NewError(flowfabric.CodeInvalidCursor, "feed cursor: %s", detail).With("reason", detail)
}

// decodeCursor reads the text of a cursor into c, whose feed, scope and
// partitions are those of the read.
func (s *Store) decodeCursor(text string, c *feedCursor) error {
	b, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil || len(text) > maxCursorText || len(b) < 1+idBytes+1+8 || b[0] != feedCursorVersion {
		return badCursor("malformed")
	}
	if string(b[1:1+idBytes]) != s.deploymentID {
		return badCursor("wrong_store")
	}
	b = b[1+idBytes:]
	if b[0] != c.feed {
		return badCursor("wrong_feed")
	}
	if binary.LittleEndian.Uint64(b[1:9]) != c.scope {
		return badCursor("wrong_scope")
	}
	b = b[9:]
	part := uint64(0)
	for len(b) > 0 {
		d, n := binary.Uvarint(b)
		if n <= 0 {
			return badCursor("malformed")
		}
		seq, m := binary.Uvarint(b[n:])
		if m <= 0 {
			return badCursor("malformed")
		}
		part += d
		if part >= uint64(s.parts.NumFlowPartitions) {
			return badCursor("malformed")
		}
		i, ok := slices.BinarySearch(c.parts, uint16(part))
		if !ok {
			return badCursor("malformed")
		}
		c.seqs[i] = seq
		b = b[n+m:]
	}
	return nil
}

// scopeOf sorts the partitions of a read, all when none is named, and gives the
// digest that a cursor of the same scope carries.
func scopeOf(named []uint16, count int) (parts []uint16, digest uint64) {
	if len(named) == 0 {
		parts = make([]uint16, count)
		for i := range parts {
			parts[i] = uint16(i)
		}
		return parts, 0
	}
	parts = slices.Clone(named)
	slices.Sort(parts)
	parts = slices.Compact(parts)
	h := fnv.New64a()
	for _, p := range parts {
		_, _ = h.Write([]byte{byte(p), byte(p >> 8)})
	}
	return parts, h.Sum64()
}

// ReadFeed reads one batch of a feed; it never waits. Within a partition events
// come in their order, between partitions by their instants as far as they have
// been read. An event that does not decode is corrupt_record with the details
// "event_id" and "cursor", from which reading goes on behind it; events before it
// are delivered first.
func (s *Store) ReadFeed(ctx context.Context, a flowfabric.ReadFeedArgs) (res flowfabric.ReadFeedResult, err error) {
	n := slices.Index(feeds[:], a.Feed) + 1
	if n == 0 {
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
	cur := feedCursor{feed: byte(n)}
	cur.parts, cur.scope = scopeOf(a.Partitions, s.parts.NumFlowPartitions)
	cur.seqs = make([]uint64, len(cur.parts))
	r := feedRead{s: s, feed: a.Feed, filter: &a.Filter, limit: limit, cur: &cur, res: &res}
	res.Events, res.Gaps = []flowfabric.Event{}, []flowfabric.Gap{}
	switch a.Start {
	case "", flowfabric.FeedStartNow:
		if cur.seqs, err = s.endsOf(ctx, a.Feed, &cur, everyPlace(&cur)); err != nil {
			return flowfabric.ReadFeedResult{}, err
		}
		res.NextCursor = s.encodeCursor(&cur)
		return res, nil
	case flowfabric.FeedStartEarliest:
		r.earliest = true
	default:
		if err := s.decodeCursor(a.Start, &cur); err != nil {
			return res, err
		}
	}
	if err := r.run(ctx); err != nil {
		return flowfabric.ReadFeedResult{}, err
	}
	res.NextCursor = s.encodeCursor(&cur)
	return res, nil
}

// feedRead is one read of a feed.
type feedRead struct {
	s        *Store
	feed     flowfabric.Feed
	filter   *flowfabric.FeedFilter
	limit    int
	cur      *feedCursor
	res      *flowfabric.ReadFeedResult
	earliest bool // begins at whatever is retained: nothing is missed
	scanned  int
}

func everyPlace(c *feedCursor) []int {
	places := make([]int, len(c.parts))
	for i := range places {
		places[i] = i
	}
	return places
}

// entry is one event as read: where it stands and what it says.
type entry struct {
	place int // index of the partition in the cursor
	seq   uint64
	at    flowfabric.Millis
	v     string
}

const (
	// scanBound is how many events one read looks at.
	scanBound = flowfabric.MaxListExamined
	// partBatch is the least number of entries asked of a partition at once, and
	// manyPartBatch that where more than manyParts are asked. An entry may hold up to
	// 16 events.
	partBatch, manyPartBatch, manyParts = 8, 2, 16
)

// run reads rounds of events until the limit is reached or nothing is left.
func (r *feedRead) run(ctx context.Context) error {
	places := everyPlace(r.cur)
	for first := true; len(places) > 0; first = false {
		least := partBatch
		if len(places) > manyParts {
			least = manyPartBatch
		}
		count := min(max((r.limit-len(r.res.Events))/len(places)+1, least), r.limit)
		entries, full, err := r.round(ctx, places, count, first)
		if err != nil {
			return err
		}
		more, err := r.deliver(entries)
		if err != nil {
			return err
		}
		places = full
		if more || len(places) > 0 && (len(r.res.Events) == r.limit || r.scanned >= scanBound) {
			r.res.HasMore = true
			return nil
		}
	}
	return nil
}

// round reads up to count events of each of the partitions, in order of their
// instants, and tells which partitions may have more. The first round also looks
// for what was trimmed.
func (r *feedRead) round(ctx context.Context, places []int, count int, first bool) (entries []entry, full []int, err error) {
	s, cur := r.s, r.cur
	cmds := make([]vk.Completed, len(places))
	for j, i := range places {
		cmds[j] = s.b.Xrange().Key(feedKey(s.tag(cur.parts[i]), r.feed)).Start(streamID(cur.seqs[i] + 1)).End("+").Count(int64(count)).Build()
	}
	var empty []int
	for j, got := range s.plain(ctx, cmds...) {
		i := places[j]
		if got.err != nil {
			return nil, nil, got.err
		}
		list, err := got.msg.ToArray()
		if err != nil {
			return nil, nil, err
		}
		if len(list) == 0 {
			empty = append(empty, i)
			continue
		}
		if len(list) == count {
			full = append(full, i)
		}
		last := flowfabric.Millis(0)
		for k := range list {
			events, err := readEntry(&list[k], i)
			if err != nil {
				return nil, nil, err
			}
			for _, e := range events {
				if e.seq <= cur.seqs[i] {
					continue // read before, with what stands beside it unread
				}
				// One partition's clock may have been set back; its order is what counts.
				e.at = max(eventAt(e.v), last)
				last = e.at
				entries = append(entries, e)
			}
		}
		if len(list) < count {
			s.feedEnds.note(cur.feed, cur.parts[i], entries[len(entries)-1].seq)
		}
	}
	if first {
		if err := r.lookBehind(ctx, empty); err != nil {
			return nil, nil, err
		}
	}
	slices.SortStableFunc(entries, func(x, y entry) int { return int(min(max(x.at-y.at, -1), 1)) })
	return entries, full, nil
}

// readEntry reads the events of an entry of a feed; there is at least one. Several
// are numbered up to the entry's id.
func readEntry(msg *vk.ValkeyMessage, place int) ([]entry, error) {
	parts, err := msg.ToArray()
	if err != nil || len(parts) != 2 {
		return nil, corrupt("read_feed", "event", "malformed entry")
	}
	fields, err := parts[1].ToArray()
	if err != nil {
		return nil, corrupt("read_feed", "event", "malformed entry")
	}
	last, ok := seqOf(elements(parts).str(0))
	if !ok {
		return nil, corrupt("read_feed", "event", "entry %s is not numbered", elements(parts).str(0))
	}
	n := max(len(fields)/2, 1)
	if uint64(n) > last {
		return nil, corrupt("read_feed", "event", "entry %s holds %d", elements(parts).str(0), n)
	}
	events := make([]entry, n)
	for k := range events {
		events[k] = entry{place: place, seq: last - uint64(n-1-k)}
		if elements(fields).str(2*k) == eventField {
			events[k].v = elements(fields).str(2*k + 1)
		}
	}
	return events, nil
}

// lookBehind deals with the partitions that had nothing to read: their position
// is the end of the log, or lies before what was trimmed, or ahead of the log. It
// asks only where the end is not known to be at the position.
func (r *feedRead) lookBehind(ctx context.Context, empty []int) error {
	s, cur := r.s, r.cur
	var ask []int
	for _, i := range empty {
		if r.earliest || !s.feedEnds.isEnd(cur.feed, cur.parts[i], cur.seqs[i]) {
			ask = append(ask, i)
		}
	}
	ends, err := s.endsOf(ctx, r.feed, cur, ask)
	if err != nil {
		return err
	}
	// An event may have come since. What has still nothing to read is trimmed.
	var behind []int
	for j, i := range ask {
		switch {
		case cur.seqs[i] > ends[j]:
			return badCursor("ahead_of_log")
		case cur.seqs[i] < ends[j]:
			behind = append(behind, j)
		}
	}
	cmds := make([]vk.Completed, len(behind))
	for k, j := range behind {
		i := ask[j]
		cmds[k] = s.b.Xrange().Key(feedKey(s.tag(cur.parts[i]), r.feed)).Start(streamID(cur.seqs[i] + 1)).End("+").Count(1).Build()
	}
	for k, got := range s.plain(ctx, cmds...) {
		if got.err != nil {
			return got.err
		}
		i, end := ask[behind[k]], ends[behind[k]]
		switch list, err := got.msg.ToArray(); {
		case err != nil:
			return err
		case len(list) > 0:
			r.res.HasMore = true
		case r.earliest:
			cur.seqs[i] = end
		default:
			r.gap(i, end)
		}
	}
	return nil
}

// gap notes that everything from the position of a partition up to seq is gone,
// and moves the position there.
func (r *feedRead) gap(place int, seq uint64) {
	r.res.Gaps = append(r.res.Gaps, flowfabric.Gap{Partition: r.cur.parts[place], MissedFromSeq: r.cur.seqs[place] + 1, MissedToSeq: seq})
	r.cur.seqs[place] = seq
}

// deliver takes events into the answer until it is full; more tells that some
// were left.
func (r *feedRead) deliver(entries []entry) (more bool, err error) {
	s, cur, res := r.s, r.cur, r.res
	for k := range entries {
		e := &entries[k]
		if len(res.Events) == r.limit {
			return true, nil
		}
		r.scanned++
		part := cur.parts[e.place]
		if e.seq > cur.seqs[e.place]+1 {
			if r.earliest && cur.seqs[e.place] == 0 {
				cur.seqs[e.place] = e.seq - 1
			} else {
				r.gap(e.place, e.seq-1)
			}
		}
		ev, err := decodeEvent(r.feed, part, s.tag(part), e.seq, e.v)
		if err != nil && len(res.Events)+len(res.Gaps) > 0 {
			return true, nil // what came before it is delivered first; the next read tells
		}
		cur.seqs[e.place] = e.seq
		if err != nil {
			return false, flowfabric.AsError(err).With("event_id", ev.EventID).With("cursor", s.encodeCursor(cur))
		}
		if !passes(&ev, r.filter) {
			continue
		}
		ev.Cursor = s.encodeCursor(cur)
		res.Events = append(res.Events, ev)
	}
	slices.SortFunc(res.Gaps, func(x, y flowfabric.Gap) int { return int(x.Partition) - int(y.Partition) })
	return false, nil
}

func passes(ev *flowfabric.Event, f *flowfabric.FeedFilter) bool {
	switch {
	case f.Namespace != "" && ev.Namespace != f.Namespace,
		f.FlowID != "" && ev.FlowID != f.FlowID,
		f.ExecutionID != "" && ev.ExecutionID != f.ExecutionID,
		f.LaneID != "" && ev.LaneID != f.LaneID,
		f.Namespaces != nil && !slices.Contains(f.Namespaces, ev.Namespace),
		len(f.Kinds) > 0 && !slices.Contains(f.Kinds, ev.Kind):
		return false
	}
	for k, v := range f.Tags {
		if got, ok := ev.Tags[k]; !ok || got != v {
			return false
		}
	}
	return true
}
