package engine

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/flowfabric/flowfabric"
)

// feedPause is the least time between two looks of a blocked read at a busy feed
// whose events the filter rejects.
const feedPause = 10 * time.Millisecond

// feedReaders holds the blocked reads of feeds. An event wakes all reads of its
// feed, whatever partitions they follow: it does not tell which are concerned.
type feedReaders struct {
	n  atomic.Int64
	mu sync.Mutex
	// byFeed holds the reads that wait at a feed.
	byFeed map[flowfabric.Feed][]*feedReader
}

type feedReader struct {
	woken chan struct{} // one token: look again
}

func (f *feedReaders) register(feed flowfabric.Feed) *feedReader {
	r := &feedReader{woken: make(chan struct{}, 1)}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.byFeed == nil {
		f.byFeed = make(map[flowfabric.Feed][]*feedReader)
	}
	f.byFeed[feed] = append(f.byFeed[feed], r)
	f.n.Add(1)
	return r
}

func (f *feedReaders) remove(feed flowfabric.Feed, r *feedReader) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.n.Add(-1)
	f.byFeed[feed] = slices.DeleteFunc(f.byFeed[feed], func(o *feedReader) bool { return o == r })
	if len(f.byFeed[feed]) == 0 {
		delete(f.byFeed, feed)
	}
}

// handle wakes the reads that wait at a feed with new events.
func (f *feedReaders) handle(events []flowfabric.WakeEvent) {
	if f.n.Load() == 0 {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := range events {
		if events[i].Kind != flowfabric.WakeFeed {
			continue
		}
		for _, r := range f.byFeed[events[i].Feed] {
			r.notify()
		}
	}
}

func (r *feedReader) notify() {
	select {
	case r.woken <- struct{}{}:
	default:
	}
}

// ReadFeed reads a batch of a feed. With BlockMs (0..30,000) an empty answer
// waits for a first event; such a call takes a permit of the pool
// "feed_subscriptions", and NextCursor always says where it got to. At a
// shutdown a waiting read is answered empty. Errors: those of the store,
// invalid_input, resource_exhausted, shutting_down. (Specification 04, section
// 5.3.)
func (e *Engine) ReadFeed(ctx context.Context, args flowfabric.ReadFeedArgs) (flowfabric.ReadFeedResult, error) {
	var none flowfabric.ReadFeedResult
	if err := inRange("block_ms", args.BlockMs, 0, flowfabric.MaxWaitMs); err != nil {
		return none, err
	}
	if !e.calls.enter() {
		return none, errShuttingDown()
	}
	defer e.calls.leave()
	block := time.Duration(args.BlockMs) * time.Millisecond
	args.BlockMs = 0
	if block == 0 {
		return e.store.ReadFeed(ctx, args)
	}
	if err := e.feedPool.acquire(); err != nil {
		return none, err
	}
	defer e.feedPool.release()
	r := e.feeds.register(args.Feed)
	defer e.feeds.remove(args.Feed, r)
	if e.expects != nil {
		defer e.expects.ExpectFeed(ctx, args.Feed)()
	}
	deadline := time.Now().Add(block)
	timeUp := time.NewTimer(block)
	defer timeUp.Stop()
	for busy := false; ; {
		res, err := e.store.ReadFeed(ctx, args)
		if err != nil || len(res.Events) > 0 || len(res.Gaps) > 0 {
			return res, err
		}
		args.Start = res.NextCursor
		if err := ctx.Err(); err != nil {
			return none, err
		}
		if res.HasMore && time.Now().Before(deadline) && !e.isClosing() {
			continue // the filter rejected a whole batch
		}
		woken, again, err := e.parkFeed(ctx, r, busy, timeUp)
		if err != nil {
			return none, err
		}
		if !again {
			return res, nil
		}
		busy = woken
	}
}

// parkFeed waits for new events. woken tells that there are some, again that
// another look is worth while. After an event that the filter rejected, busy, it
// lets a little time pass first, so that a busy feed is not read at every commit.
func (e *Engine) parkFeed(ctx context.Context, r *feedReader, busy bool, timeUp *time.Timer) (woken, again bool, err error) {
	events := r.woken
	pause := jittered(recheckEvery)
	if busy {
		events, pause = nil, feedPause
	}
	recheck := time.NewTimer(pause)
	defer recheck.Stop()
	select {
	case <-events:
		return true, true, nil
	case <-recheck.C:
		return false, true, nil
	case <-timeUp.C:
		return false, false, nil
	case <-e.closing:
		return false, false, nil
	case <-ctx.Done():
		return false, false, ctx.Err()
	}
}
