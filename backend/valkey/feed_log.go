package valkey

import (
	"context"
	"slices"
	"sync"
	"time"

	vk "github.com/valkey-io/valkey-go"

	"github.com/flowfabric/flowfabric"
)

// endsKept is how long a known end of a log tells that nothing has been trimmed
// behind it: far less than events are retained.
const endsKept = time.Hour

// feedEnds remembers where the logs of the partitions ended, so that a read that
// finds nothing new need not ask for what was trimmed.
type feedEnds struct {
	mu   sync.Mutex
	logs [len(feeds) + 1]map[uint16]feedEnd // by number of the feed
}

type feedEnd struct {
	seq uint64
	at  time.Time
}

func (e *feedEnds) note(feed byte, part uint16, seq uint64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.logs[feed] == nil {
		e.logs[feed] = make(map[uint16]feedEnd)
	}
	e.logs[feed][part] = feedEnd{seq, time.Now()}
}

func (e *feedEnds) forget(feed byte, part uint16) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.logs[feed], part)
}

// isEnd reports whether the position is known to have been the end of the log a
// while ago.
func (e *feedEnds) isEnd(feed byte, part uint16, seq uint64) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	end, ok := e.logs[feed][part]
	return ok && end.seq == seq && time.Since(end.at) < endsKept
}

// endsOf returns the number of the last event ever written in each of the
// partitions, 0 where there was none.
func (s *Store) endsOf(ctx context.Context, feed flowfabric.Feed, cur *feedCursor, places []int) ([]uint64, error) {
	ends := make([]uint64, len(places))
	key := func(j int) string { return feedKey(s.tag(cur.parts[places[j]]), feed) }
	var cmds []vk.Completed
	for j := range places {
		cmds = append(cmds, s.b.Xrevrange().Key(key(j)).End("+").Start("-").Count(1).Build())
	}
	var empty []int
	for j, got := range s.plain(ctx, cmds...) {
		if got.err != nil {
			return nil, got.err
		}
		list, err := got.msg.ToArray()
		if err != nil {
			return nil, err
		}
		if len(list) == 0 {
			empty = append(empty, j)
			continue
		}
		events, err := readEntry(&list[0], places[j])
		if err != nil {
			return nil, err
		}
		ends[j] = events[len(events)-1].seq
	}
	if err := s.trimmedEnds(ctx, key, empty, ends); err != nil {
		return nil, err
	}
	for j, i := range places {
		s.feedEnds.note(cur.feed, cur.parts[i], ends[j])
	}
	return ends, nil
}

// trimmedEnds fills in the ends of logs that hold no event: 0, or the last one of
// those that were trimmed.
func (s *Store) trimmedEnds(ctx context.Context, key func(int) string, empty []int, ends []uint64) error {
	var cmds []vk.Completed
	for _, j := range empty {
		cmds = append(cmds, s.b.Exists().Key(key(j)).Build())
	}
	var there []int
	for k, got := range s.plain(ctx, cmds...) {
		if got.err != nil {
			return got.err
		}
		if n, err := got.msg.AsInt64(); err == nil && n == 1 {
			there = append(there, empty[k])
		}
	}
	cmds = cmds[:0]
	for _, j := range there {
		cmds = append(cmds, s.b.XinfoStream().Key(key(j)).Build())
	}
	for k, got := range s.plain(ctx, cmds...) {
		if got.err != nil {
			return got.err
		}
		about, err := got.msg.AsMap()
		if err != nil {
			return err
		}
		last := about["last-generated-id"]
		id, err := last.ToString()
		if err != nil {
			return err
		}
		seq, ok := seqOf(id)
		if !ok {
			return corrupt("read_feed", "event", "entry %s is not numbered", id)
		}
		ends[there[k]] = seq
	}
	return nil
}

// logRange is the log of a feed on one partition, while what is to be trimmed of
// it is looked for: every event below low is past retention, none from high on is.
type logRange struct {
	part             uint16
	key              string
	first, low, high uint64
}

// TrimFeeds deletes the events of each feed that are past retention.
func (s *Store) TrimFeeds(ctx context.Context) (flowfabric.SweepResult, error) {
	var total flowfabric.SweepResult
	oldest := s.Now() - flowfabric.FeedRetentionMs
	for n, feed := range feeds {
		logs, err := s.oldLogs(ctx, feed, oldest)
		if err != nil {
			return total, err
		}
		var cmds []vk.Completed
		for i := range logs {
			cmds = append(cmds, s.b.Xtrim().Key(logs[i].key).Minid().Exact().Threshold(streamID(logs[i].low)).Build())
		}
		for i, got := range s.plain(ctx, cmds...) {
			if got.err != nil {
				return total, got.err
			}
			// Only whole entries go.
			if entries, err := got.msg.AsInt64(); err != nil {
				return total, err
			} else if entries > 0 {
				total.Rows += int(logs[i].low - logs[i].first)
			}
			s.feedEnds.forget(byte(n+1), logs[i].part)
		}
	}
	return total, nil
}

// oldLogs finds, on every partition, how far the log is past retention, which is
// low in the answer; logs without such events are left out.
func (s *Store) oldLogs(ctx context.Context, feed flowfabric.Feed, oldest flowfabric.Millis) ([]logRange, error) {
	var cmds []vk.Completed
	for part := range s.parts.NumFlowPartitions {
		key := feedKey(s.tag(uint16(part)), feed)
		cmds = append(cmds, s.b.Xrange().Key(key).Start("-").End("+").Count(1).Build(), s.b.Xrevrange().Key(key).End("+").Start("-").Count(1).Build())
	}
	answers := s.plain(ctx, cmds...)
	var logs []logRange
	for part := range s.parts.NumFlowPartitions {
		head, tail := answers[2*part], answers[2*part+1]
		if head.err != nil || tail.err != nil {
			return nil, firstError(head.err, tail.err)
		}
		first, err := outermost(&head.msg, part)
		if err == nil && len(first) == 0 {
			continue
		}
		last, e := outermost(&tail.msg, part)
		if err = firstError(err, e); err != nil || len(last) == 0 {
			s.log.Error("a feed's first or last event cannot be read", "feed", feed, "partition", part, "error", err)
			continue
		}
		l := logRange{part: uint16(part), key: feedKey(s.tag(uint16(part)), feed), first: first[0].seq, low: first[0].seq,
			high: last[len(last)-1].seq + 1}
		if l.high-l.low > flowfabric.FeedRetentionEvents {
			l.low = l.high - flowfabric.FeedRetentionEvents
		}
		if l.low > l.first || eventAt(first[0].v) <= oldest {
			logs = append(logs, l)
		}
	}
	return logs, s.narrow(ctx, logs, oldest)
}

// outermost reads the events of the one entry in an answer, none where there is
// none.
func outermost(msg *vk.ValkeyMessage, part int) ([]entry, error) {
	list, err := msg.ToArray()
	if err != nil || len(list) == 0 {
		return nil, err
	}
	return readEntry(&list[0], part)
}

// narrow searches all the logs at once for the first event that is not too old.
func (s *Store) narrow(ctx context.Context, logs []logRange, oldest flowfabric.Millis) error {
	open := make([]*logRange, len(logs))
	for i := range logs {
		open[i] = &logs[i]
	}
	for {
		open = slices.DeleteFunc(open, func(l *logRange) bool { return l.low >= l.high })
		if len(open) == 0 {
			return nil
		}
		cmds := make([]vk.Completed, len(open))
		for i, l := range open {
			cmds[i] = s.b.Xrange().Key(l.key).Start(streamID(l.low + (l.high-l.low)/2)).End("+").Count(1).Build()
		}
		for i, got := range s.plain(ctx, cmds...) {
			if got.err != nil {
				return got.err
			}
			l := open[i]
			mid := l.low + (l.high-l.low)/2
			list, err := got.msg.ToArray()
			if err != nil {
				return err
			}
			if len(list) == 0 {
				l.high = mid // nothing from there on
				continue
			}
			events, err := readEntry(&list[0], 0)
			if err != nil {
				return err
			}
			// The events of an entry have one instant.
			if eventAt(events[0].v) <= oldest {
				l.low = max(mid, events[len(events)-1].seq) + 1
			} else {
				l.high = mid
			}
		}
	}
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
