package crashtest

import (
	"context"
	"errors"
	"testing"

	"github.com/flowfabric/flowfabric"
)

// follower reads the feed of completions while it is written, over every
// disconnect.
type follower struct {
	t      *testing.T
	cancel context.CancelFunc
	events chan flowfabric.Event
}

// follow begins to read at the feed's begin.
func follow(t *testing.T, b flowfabric.Backend) *follower {
	ctx, cancel := context.WithCancel(t.Context())
	f := &follower{t: t, cancel: cancel, events: make(chan flowfabric.Event, 1<<16)}
	client := flowfabric.NewClient(b, flowfabric.WithNamespace(Namespace))
	go func() {
		defer close(f.events)
		for e, err := range client.Subscribe(ctx, flowfabric.FeedCompletions, flowfabric.SubscribeOptions{Start: flowfabric.FeedStartEarliest}) {
			if err != nil {
				if !errors.Is(err, context.Canceled) {
					t.Errorf("the subscription: %v", err)
				}
				return
			}
			f.events <- e
		}
	}()
	t.Cleanup(func() {
		cancel()
		for range f.events { // until the reader has ended
		}
	})
	return f
}

// check waits for everything that the audit has found, and wants each event
// once, in order.
func (f *follower) check(a *auditor) {
	f.t.Helper()
	want := 0
	for _, h := range a.all {
		want += len(h.endings)
	}
	ctx, cancel := within(f.t)
	defer cancel()
	last := make(map[uint16]uint64)
	for got := 0; got < want; got++ {
		select {
		case e, ok := <-f.events:
			if !ok {
				f.t.Errorf("the subscription ended after %d of %d events", got, want)
				return
			}
			if e.Seq != last[e.Partition]+1 {
				f.t.Errorf("the subscription gave event %d of partition %d after %d", e.Seq, e.Partition, last[e.Partition])
			}
			last[e.Partition] = e.Seq
		case <-ctx.Done():
			f.t.Errorf("the subscription gave %d of %d events", got, want)
			return
		}
	}
	f.cancel()
}
