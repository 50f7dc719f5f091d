package model

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/flowfabric/flowfabric"
)

// feedLog is one feed of all partitions, in the order of their recording. Nothing
// is ever thrown away: floors say what counts as trimmed.
type feedLog struct {
	events []flowfabric.Event
	heads  map[uint16]uint64 // the last number of each partition
	floors map[uint16]uint64 // the last number trimmed for its age
}

// floor is the highest number of a partition that is no longer retained.
func (l *feedLog) floor(part uint16) uint64 {
	floor := l.floors[part]
	if head := l.heads[part]; head > flowfabric.FeedRetentionEvents {
		floor = max(floor, head-flowfabric.FeedRetentionEvents)
	}
	return floor
}

// record appends an event to its feed, unless the feed is switched off.
func (m *Store) record(ev flowfabric.Event) *flowfabric.Event {
	log := m.logs[ev.Feed]
	if log == nil {
		return nil
	}
	log.heads[ev.Partition]++
	ev.Seq = log.heads[ev.Partition]
	ev.EventID = fmt.Sprintf("%d-%d", ev.Partition, ev.Seq)
	ev.Tags = maps.Clone(ev.Tags)
	log.events = append(log.events, ev)
	m.wake = append(m.wake, flowfabric.WakeEvent{Kind: flowfabric.WakeFeed, Partition: ev.Partition, Feed: ev.Feed, Count: 1})
	return &log.events[len(log.events)-1]
}

// ReadFeed reads one batch of a feed; it never waits.
func (m *Store) ReadFeed(ctx context.Context, a flowfabric.ReadFeedArgs) (res flowfabric.ReadFeedResult, err error) {
	switch a.Feed {
	case flowfabric.FeedCompletions, flowfabric.FeedLeases, flowfabric.FeedSignals, flowfabric.FeedTags:
	default:
		return res, flowfabric.InvalidInput("feed", "%q is no feed", a.Feed)
	}
	limit, err := limitOf(a.Limit, flowfabric.DefaultFeedLimit, flowfabric.MaxFeedLimit)
	if err != nil {
		return res, err
	}
	if len(a.Filter.Tags) > 8 {
		return res, flowfabric.InvalidInput("tags", "%d pairs, limit 8", len(a.Filter.Tags))
	}
	for _, p := range a.Partitions {
		if int(p) >= m.cfg.Partitions.NumFlowPartitions {
			return res, flowfabric.InvalidInput("partitions", "%d, the deployment has %d", p, m.cfg.Partitions.NumFlowPartitions)
		}
	}
	err = m.do(ctx, func(flowfabric.Millis) error {
		log := m.logs[a.Feed]
		if log == nil {
			log = &feedLog{}
		}
		res, err = m.readLog(log, &a, limit)
		return err
	})
	return res, err
}

func badCursor(reason string) error {
	return flowfabric.NewError(flowfabric.CodeInvalidCursor, "feed cursor: %s", reason).With("reason", reason)
}

// position finds where a read starts: how many events lie before it.
func (m *Store) position(log *feedLog, a *flowfabric.ReadFeedArgs, scope string) (int, error) {
	switch a.Start {
	case "", flowfabric.FeedStartNow:
		return len(log.events), nil
	case flowfabric.FeedStartEarliest:
		return 0, nil
	}
	var store, feed, was string
	var at int
	switch {
	case !parseCursor(a.Start, &store, &feed, &was, &at) || at < 0:
		return 0, badCursor("malformed")
	case store != fmt.Sprintf("%p", m):
		return 0, badCursor("wrong_store")
	case feed != string(a.Feed):
		return 0, badCursor("wrong_feed")
	case was != scope:
		return 0, badCursor("wrong_scope")
	case at > len(log.events):
		return 0, badCursor("ahead_of_log")
	}
	return at, nil
}

func (m *Store) readLog(log *feedLog, a *flowfabric.ReadFeedArgs, limit int) (res flowfabric.ReadFeedResult, err error) {
	res.Events, res.Gaps = []flowfabric.Event{}, []flowfabric.Gap{}
	scope := scopeOf(a.Partitions)
	at, err := m.position(log, a, scope)
	if err != nil {
		return res, err
	}
	mark := func(n int) string { return cursor(fmt.Sprintf("%p", m), a.Feed, scope, n) }
	missed := make(map[uint16]flowfabric.Gap)
	for ; at < len(log.events); at++ {
		ev := log.events[at]
		if len(a.Partitions) > 0 && !slices.Contains(a.Partitions, ev.Partition) {
			continue
		}
		if ev.Seq <= log.floor(ev.Partition) {
			g, ok := missed[ev.Partition]
			if !ok {
				g = flowfabric.Gap{Partition: ev.Partition, MissedFromSeq: ev.Seq}
			}
			g.MissedToSeq = ev.Seq
			missed[ev.Partition] = g
			continue
		}
		if !passes(&ev, &a.Filter) {
			continue
		}
		if len(res.Events) == limit {
			res.HasMore = true
			break
		}
		ev.Cursor = mark(at + 1)
		res.Events = append(res.Events, ev)
	}
	if a.Start != flowfabric.FeedStartEarliest { // what was trimmed before is no gap to a newcomer
		for _, g := range missed {
			res.Gaps = append(res.Gaps, g)
		}
		slices.SortFunc(res.Gaps, func(x, y flowfabric.Gap) int { return cmp.Compare(x.Partition, y.Partition) })
	}
	res.NextCursor = mark(at)
	return res, nil
}

// scopeOf names a set of partitions without spaces.
func scopeOf(parts []uint16) string {
	if len(parts) == 0 {
		return "all"
	}
	sorted := slices.Compact(slices.Sorted(slices.Values(parts)))
	return strings.ReplaceAll(strings.Trim(fmt.Sprint(sorted), "[]"), " ", ",")
}

func passes(ev *flowfabric.Event, f *flowfabric.FeedFilter) bool {
	if f.Namespace != "" && ev.Namespace != f.Namespace || f.Namespaces != nil && !slices.Contains(f.Namespaces, ev.Namespace) ||
		f.FlowID != "" && ev.FlowID != f.FlowID || f.ExecutionID != "" && ev.ExecutionID != f.ExecutionID ||
		f.LaneID != "" && ev.LaneID != f.LaneID || len(f.Kinds) > 0 && !slices.Contains(f.Kinds, ev.Kind) {
		return false
	}
	return hasTags(ev.Tags, f.Tags)
}

// TrimFeeds lets go of events older than the retention.
func (m *Store) TrimFeeds(ctx context.Context) (res flowfabric.SweepResult, err error) {
	err = m.do(ctx, func(now flowfabric.Millis) error {
		for _, log := range m.logs {
			for _, ev := range log.events {
				if ev.At <= now-flowfabric.FeedRetentionMs && ev.Seq > log.floors[ev.Partition] {
					log.floors[ev.Partition] = ev.Seq
					res.Rows++
				}
			}
		}
		return nil
	})
	return res, err
}
