package benchmark

import (
	"context"
	"time"

	"github.com/flowfabric/flowfabric"
)

// retainedLane holds the executions that a store retains before a measurement.
// It outlives runs, so that a filled store is used again.
const retainedLane = flowfabric.LaneID("bench-retained")

// fill brings the store to Retained ended executions. It creates, claims and
// completes in batches; what an earlier run left counts.
func (r *runner) fill(ctx context.Context) error {
	if r.Retained == 0 {
		return nil
	}
	held, err := r.retained(ctx)
	if err != nil {
		return err
	}
	missing := r.Retained - held
	if missing <= 0 {
		return nil
	}
	retention := uint64(flowfabric.MaxRetentionMs)
	policy := (&flowfabric.Policy{RetentionMs: &retention}).JSON()
	r.Progress.Phase("retain", missing)
	todo := &share{left: missing}
	return parallel(ctx, r.Workers, func(ctx context.Context, i int) error {
		for n := todo.take(r.Batch); n > 0; n = todo.take(r.Batch) {
			if err := r.retain(ctx, i, n, policy); err != nil {
				return err
			}
			r.Progress.Add(n)
		}
		return nil
	})
}

// retain creates n executions and then ends as many. They need not be the same
// ones: every worker leaves the lane with as many as it found.
func (r *runner) retain(ctx context.Context, worker, n int, policy []byte) error {
	var t tally
	if err := r.create(ctx, retainedLane, n, r.RetainedPayloadBytes, policy, &t); err != nil {
		return err
	}
	for n > 0 {
		tasks, err := r.claim(ctx, retainedLane, worker, n, time.Second, &t)
		if err != nil {
			return err
		}
		if len(tasks) == 0 {
			if err := ctx.Err(); err != nil {
				return err
			}
			continue
		}
		if err := r.complete(ctx, tasks, &t); err != nil {
			return err
		}
		n -= len(tasks)
	}
	return nil
}

// retained counts the ended executions of the retained lane.
func (r *runner) retained(ctx context.Context) (int, error) {
	status, err := r.backend.GetLane(ctx, retainedLane)
	if flowfabric.CodeOf(err) == flowfabric.CodeLaneNotFound {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	total := int64(0)
	for state, n := range status.Counts {
		if state.Terminal() {
			total += n
		}
	}
	return int(total), nil
}
