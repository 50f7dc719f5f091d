package valkey

import (
	"context"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/flowfabric/flowfabric"
)

// clock follows the store's: the local one and what it differs by.
type clock struct {
	offset atomic.Int64 // ms to add to the local clock
	test   atomic.Int64 // what a test has set, 0 for none
}

// Now is the store's clock: the local one plus the difference measured last, at
// Open and every 30 s. In a cluster the primary that is furthest ahead counts.
// The store itself decides by its own clock, never by this.
func (s *Store) Now() flowfabric.Millis {
	if t := s.clock.test.Load(); t != 0 {
		return flowfabric.Millis(t)
	}
	return s.realNow()
}

// realNow is Now that no test has set: registrations of servers go by it.
func (s *Store) realNow() flowfabric.Millis {
	return flowfabric.Millis(time.Now().UnixMilli() + s.clock.offset.Load())
}

// measureClock compares the clocks.
func (s *Store) measureClock(ctx context.Context) error {
	offsets := make(chan int64, len(s.nodes.primaries()))
	err := s.everyNode(ctx, func(ctx context.Context, n *node) error {
		offset, _, err := s.clockOffset(ctx, n)
		if err == nil {
			offsets <- offset
		}
		return err
	})
	if err != nil {
		return err
	}
	close(offsets)
	first, ahead := true, int64(0)
	for o := range offsets {
		if first || o > ahead {
			first, ahead = false, o
		}
	}
	s.clock.offset.Store(ahead)
	return nil
}

// clockOffset returns by how many ms a node's clock is ahead of ours, and how
// long its answer took.
func (s *Store) clockOffset(ctx context.Context, n *node) (int64, time.Duration, error) {
	begun := time.Now()
	a := s.ask(ctx, n, n.client.B().Time().Build())
	took := time.Since(begun)
	if a.err != nil {
		return 0, took, a.err
	}
	parts, err := a.msg.AsStrSlice()
	if err != nil || len(parts) < 2 {
		return 0, took, flowfabric.NewError(flowfabric.CodeStoreFault, "TIME gives no time").WithKind("protocol")
	}
	sec, err1 := strconv.ParseInt(parts[0], 10, 64)
	micro, err2 := strconv.ParseInt(parts[1], 10, 64)
	if err1 != nil || err2 != nil {
		return 0, took, flowfabric.NewError(flowfabric.CodeStoreFault, "TIME gives no number").WithKind("protocol")
	}
	return sec*1000 + micro/1000 - begun.Add(took/2).UnixMilli(), took, nil
}

// SetTestClock sets the instant that the library and Now go by, in Unix ms; 0
// lets the clock go again. It needs Config.Testing.Clock. For tests only.
func (s *Store) SetTestClock(ctx context.Context, ms int64) error { return s.setTestClock(ctx, ms) }

func (s *Store) setTestClock(ctx context.Context, ms int64) error {
	err := s.everyNode(ctx, func(ctx context.Context, n *node) error {
		return s.ask(ctx, n, n.client.B().Arbitrary("FCALL_RO", "ff_test_clock", "0", strconv.FormatInt(ms, 10)).Build()).err
	})
	if err != nil {
		return named(err, "set_test_clock")
	}
	s.clock.test.Store(ms)
	return nil
}
