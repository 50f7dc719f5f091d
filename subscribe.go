package flowfabric

import (
	"context"
	"fmt"
	"iter"
	"time"
)

// Subscriptions. (Specification 04, section 5.2.)
const (
	subscribeBackoffFirst = 200 * time.Millisecond
	subscribeBackoffMax   = 5 * time.Second
	subscribeBlockMs      = MaxWaitMs
	subscribeBatch        = 256
	promptAnswer          = 50 * time.Millisecond
)

// SubscribeOptions says where a subscription starts and what it selects.
type SubscribeOptions struct {
	// Start is [FeedStartNow], [FeedStartEarliest], or the cursor of the last
	// event seen. "" means now: events committed after the call returns.
	Start string
	// Partitions limits the subscription; empty means all.
	Partitions []uint16
	// Filter selects events. Its namespace is the client's or worker's own when
	// empty; "*" means all.
	Filter FeedFilter
}

// GapError tells a subscriber that events were trimmed before it could read
// them: it must look at the executions themselves. It comes before any later
// event of its partition, and the subscription goes on behind it.
type GapError struct{ Gap }

// Error names the partition and the missing range.
func (e *GapError) Error() string {
	return fmt.Sprintf("flowfabric: feed events %d to %d of partition %d are gone", e.MissedFromSeq, e.MissedToSeq, e.Partition)
}

// subscribe yields the events of a feed until ctx ends or the feed refuses. A
// disconnect is bridged: the feed is read on from where it was, with pauses of
// 200 ms doubling to 5 s.
func subscribe(ctx context.Context, b Feeds, clock Clock, feed Feed, own Namespace, o SubscribeOptions) iter.Seq2[Event, error] {
	if o.Filter.Namespace == "" {
		o.Filter.Namespace = own
	}
	if o.Filter.Namespace == AnyNamespace {
		o.Filter.Namespace = ""
	}
	args := ReadFeedArgs{Feed: feed, Start: o.Start, Partitions: o.Partitions, Filter: o.Filter, Limit: 1}
	if args.Start == "" {
		args.Start = FeedStartNow
	}
	var refused error
	if args.Start == FeedStartNow { // fixes the position before the caller goes on
		answer, err := retry(ctx, clock, func(ctx context.Context) (ReadFeedResult, error) { return b.ReadFeed(ctx, args) })
		args.Start, refused = answer.NextCursor, err
	}
	args.Limit, args.BlockMs = subscribeBatch, subscribeBlockMs
	return func(yield func(Event, error) bool) {
		if refused != nil {
			yield(Event{}, refused)
			return
		}
		(&subscription{feeds: b, clock: clock, args: args}).run(ctx, yield)
	}
}

// subscription is one walk along a feed.
type subscription struct {
	feeds Feeds
	clock Clock
	args  ReadFeedArgs
}

func (s *subscription) run(ctx context.Context, yield func(Event, error) bool) {
	wait := backoff{initial: subscribeBackoffFirst, max: subscribeBackoffMax}
	for {
		asked := s.clock.Now()
		answer, err := s.feeds.ReadFeed(ctx, s.args)
		if ctx.Err() != nil {
			yield(Event{}, ctx.Err())
			return
		}
		if behind := behindBadEvent(err); behind != "" {
			if !yield(Event{}, err) {
				return
			}
			s.args.Start = behind
			continue
		}
		if err != nil && !IsRetryable(err) {
			yield(Event{}, err)
			return
		}
		if err == nil {
			s.args.Start = answer.NextCursor
			if !deliver(answer, yield) {
				return
			}
		}
		idle := len(answer.Events) == 0 && len(answer.Gaps) == 0 && s.clock.Now().Sub(asked) < promptAnswer
		if err == nil && (answer.HasMore || !idle) {
			wait.reset()
			continue
		}
		// A failure, or a server that answers waits at once, as one that drains.
		if ended := pause(ctx, s.clock, wait.next(err)); ended != nil {
			yield(Event{}, ended)
			return
		}
	}
}

// behindBadEvent is the cursor behind an event that does not decode, "" for any
// other error.
func behindBadEvent(err error) string {
	if e := AsError(err); e != nil && e.Code == CodeCorruptRecord {
		cursor, _ := e.Detail("cursor").(string)
		return cursor
	}
	return ""
}

// deliver yields one batch, gaps first.
func deliver(answer ReadFeedResult, yield func(Event, error) bool) bool {
	for _, gap := range answer.Gaps {
		if !yield(Event{}, &GapError{gap}) {
			return false
		}
	}
	for _, event := range answer.Events {
		if !yield(event, nil) {
			return false
		}
	}
	return true
}

// Subscribe yields the events of a feed from the options' start on, until ctx
// ends or the loop breaks. Delivery is at least once and ordered per partition;
// an event's Cursor resumes a later subscription behind it. Disconnects are
// bridged. Trimmed events are announced by a [*GapError], after which the
// sequence goes on, as it does after an event that does not decode
// (corrupt_record, details event_id); any other error is its last element: ctx's own,
// invalid_cursor, invalid_input, or unsupported_operation where a backend has no
// such feed. (Specification 04, section 5.2.)
func (w *Worker) Subscribe(ctx context.Context, feed Feed, options SubscribeOptions) iter.Seq2[Event, error] {
	return subscribe(ctx, w.backend, w.clock, feed, w.config.Namespace, options)
}

// Subscribe is [Worker.Subscribe] for a client.
func (c *Client) Subscribe(ctx context.Context, feed Feed, options SubscribeOptions) iter.Seq2[Event, error] {
	return subscribe(ctx, c.backend, c.clock, feed, c.namespace, options)
}
