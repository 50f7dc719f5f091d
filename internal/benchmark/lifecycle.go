package benchmark

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/flowfabric/flowfabric"
)

// drainWait is how long a worker that finds nothing waits for work while others
// still run theirs.
const drainWait = time.Second

// newLane names a lane of its own for one run, so that nobody else's executions
// are claimed or counted.
func newLane() flowfabric.LaneID {
	var b [6]byte
	rand.Read(b[:]) // never fails
	return flowfabric.LaneID("bench-" + hex.EncodeToString(b[:]))
}

// runLifecycle submits all executions, then drains them, then checks them. The
// two phases do not overlap, so each rate is a rate of its own.
func runLifecycle(ctx context.Context, r *runner, report *Report) error {
	lane := newLane()
	tallies := make([]tally, r.Workers)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)

	submit, err := r.submit(ctx, lane, tallies)
	if err != nil {
		return err
	}
	drain, err := r.drain(ctx, lane, tallies)
	if err != nil {
		return err
	}

	runtime.ReadMemStats(&after)
	report.time(submit, drain)
	report.AllocsPerLifecycle = round1(float64(after.Mallocs-before.Mallocs) / float64(r.Executions))
	report.latencies(tallies)
	if err := r.verify(ctx, lane, tallies, report); err != nil {
		return err
	}
	return r.dropLane(ctx, lane)
}

// submit creates all executions with Workers concurrent submitters.
func (r *runner) submit(ctx context.Context, lane flowfabric.LaneID, tallies []tally) (time.Duration, error) {
	r.Progress.Phase("submit", r.Executions)
	todo := &share{left: r.Executions}
	begin := time.Now()
	err := parallel(ctx, r.Workers, func(ctx context.Context, i int) error {
		for n := todo.take(r.Batch); n > 0; n = todo.take(r.Batch) {
			if err := r.create(ctx, lane, n, r.PayloadBytes, nil, &tallies[i]); err != nil {
				return err
			}
			r.Progress.Add(n)
		}
		return nil
	})
	return time.Since(begin), err
}

// errDrained ends the waiting claims once all work is done.
var errDrained = errors.New("drained")

// drain claims and completes with Workers concurrent workers until every
// execution has ended.
func (r *runner) drain(ctx context.Context, lane flowfabric.LaneID, tallies []tally) (time.Duration, error) {
	r.Progress.Phase("drain", r.Executions)
	ctx, drained := context.WithCancelCause(ctx)
	defer drained(nil)
	var done atomic.Int64
	begin := time.Now()
	var end time.Time
	err := parallel(ctx, r.Workers, func(ctx context.Context, i int) error {
		t := &tallies[i]
		for ctx.Err() == nil {
			tasks, err := r.claim(ctx, lane, i, r.Batch, drainWait, t)
			if err != nil {
				return err
			}
			if len(tasks) == 0 {
				continue
			}
			if err := r.complete(ctx, tasks, t); err != nil {
				return err
			}
			r.Progress.Add(len(tasks))
			if done.Add(int64(len(tasks))) == int64(r.Executions) {
				end = time.Now()
				drained(errDrained)
			}
		}
		return nil
	})
	if errors.Is(context.Cause(ctx), errDrained) {
		return end.Sub(begin), nil
	}
	return 0, err
}

// dropLane removes the run's lane, which nobody will name again.
func (r *runner) dropLane(ctx context.Context, lane flowfabric.LaneID) error {
	_, err := r.backend.SetLaneState(ctx, flowfabric.SetLaneStateArgs{LaneID: lane, State: flowfabric.LaneDisabled, Reason: "benchmark over"})
	if err != nil {
		return err
	}
	_, err = r.backend.DeleteLane(ctx, lane)
	return err
}
