package engine

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/flowfabric/flowfabric"
)

// append commits an event and tells of the feed.
func (f *fakeStore) append(partition uint16, lane flowfabric.LaneID) {
	f.mu.Lock()
	f.events = append(f.events, flowfabric.Event{Feed: flowfabric.FeedCompletions, Partition: partition, LaneID: lane})
	f.mu.Unlock()
	f.tell(flowfabric.WakeEvent{Kind: flowfabric.WakeFeed, Feed: flowfabric.FeedCompletions, Partition: partition})
}

func (e *Engine) readInBackground(ctx context.Context, args flowfabric.ReadFeedArgs) chan answer[flowfabric.ReadFeedResult] {
	args.Feed = flowfabric.FeedCompletions
	return async(func() (flowfabric.ReadFeedResult, error) { return e.ReadFeed(ctx, args) })
}

func TestBlockedFeedReadIsWoken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		e := start(t, f, quiet)
		defer stop(t, e)
		f.append(0, "old")
		begun := time.Now()
		all := e.readInBackground(t.Context(), flowfabric.ReadFeedArgs{BlockMs: 30_000})
		filtered := e.readInBackground(t.Context(), flowfabric.ReadFeedArgs{BlockMs: 30_000, Filter: flowfabric.FeedFilter{LaneID: "b"}})
		synctest.Wait()
		reads := f.feedReads
		f.append(1, "a")
		if r := <-all; r.err != nil || len(r.v.Events) != 1 || r.v.Events[0].LaneID != "a" || time.Since(begun) != 0 {
			t.Errorf("all: %+v after %v", r, time.Since(begun))
		}
		synctest.Wait()
		if n := f.feedReads - reads; n != 2 {
			t.Errorf("one event caused %d reads", n)
		}
		for range 100 { // a busy feed is not read at every commit
			f.append(1, "a")
			time.Sleep(time.Millisecond)
		}
		synctest.Wait()
		if n := f.feedReads - reads; n > 30 {
			t.Errorf("a busy feed caused %d reads", n)
		}
		f.append(1, "b")
		if r := <-filtered; len(r.v.Events) != 1 || r.v.NextCursor != "103" {
			t.Errorf("filtered: %+v", r)
		}
	})
}

func TestFeedReadEndsByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		cfg := quiet
		cfg.MaxFeedReads = 1
		e := start(t, f, cfg)
		begun := time.Now()
		r := <-e.readInBackground(t.Context(), flowfabric.ReadFeedArgs{BlockMs: 10_000})
		if r.err != nil || len(r.v.Events) != 0 || r.v.NextCursor != "0" || time.Since(begun) != 10*time.Second {
			t.Errorf("%+v after %v", r, time.Since(begun))
		}
		if f.feedReads < 11 || f.feedReads > 13 {
			t.Errorf("%d reads in 10 s", f.feedReads)
		}
		// An event nobody told of costs a second.
		c := e.readInBackground(t.Context(), flowfabric.ReadFeedArgs{BlockMs: 10_000})
		synctest.Wait()
		f.mu.Lock()
		f.events = append(f.events, flowfabric.Event{})
		f.mu.Unlock()
		begun = time.Now()
		if r := <-c; len(r.v.Events) != 1 || time.Since(begun) > time.Second {
			t.Errorf("%+v after %v", r, time.Since(begun))
		}
		ctx, cancel := context.WithCancel(t.Context())
		c = e.readInBackground(ctx, flowfabric.ReadFeedArgs{BlockMs: 10_000})
		synctest.Wait()
		if r := <-e.readInBackground(t.Context(), flowfabric.ReadFeedArgs{BlockMs: 1}); !errors.Is(r.err, flowfabric.ErrResourceExhausted) || flowfabric.AsError(r.err).Detail("pool") != "feed_subscriptions" {
			t.Errorf("over the pool: %+v", r)
		}
		if r := <-e.readInBackground(t.Context(), flowfabric.ReadFeedArgs{}); r.err != nil {
			t.Errorf("a read that does not block takes no permit: %v", r.err)
		}
		cancel()
		if r := <-c; r.err != context.Canceled {
			t.Errorf("gone: %+v", r)
		}
		for _, bad := range []int64{-1, 30_001} {
			if r := <-e.readInBackground(t.Context(), flowfabric.ReadFeedArgs{BlockMs: bad}); !errors.Is(r.err, flowfabric.ErrInvalidInput) {
				t.Errorf("block_ms %d: %+v", bad, r)
			}
		}
		if r := <-e.readInBackground(t.Context(), flowfabric.ReadFeedArgs{Start: "x", BlockMs: 10}); !errors.Is(r.err, flowfabric.ErrInvalidCursor) {
			t.Errorf("bad cursor: %+v", r)
		}
		c = e.readInBackground(t.Context(), flowfabric.ReadFeedArgs{BlockMs: 10_000})
		synctest.Wait()
		stop(t, e)
		if r := <-c; r.err != nil || r.v.NextCursor == "" {
			t.Errorf("shutdown: %+v", r)
		}
		if r := <-e.readInBackground(t.Context(), flowfabric.ReadFeedArgs{}); !errors.Is(r.err, flowfabric.ErrShuttingDown) {
			t.Errorf("after shutdown: %+v", r)
		}
		if e.Stats().FeedReads != 0 || len(e.feeds.byFeed) != 0 {
			t.Error("reads are left")
		}
	})
}
