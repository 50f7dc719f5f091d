package benchmark

import (
	"context"
	"fmt"

	"github.com/flowfabric/flowfabric"
)

// Verification is the proof that the measured work was done: what the callers
// saw, execution by execution, and what the store counts.
type Verification struct {
	Created    int `json:"created"`
	Completed  int `json:"completed"`
	Lost       int `json:"lost"`
	Duplicated int `json:"duplicated"`
}

// count compares, by identifier, what was created with what was completed.
func count(tallies []tally) Verification {
	var v Verification
	seen := make(map[flowfabric.ExecutionID]int)
	for i := range tallies {
		v.Created += len(tallies[i].created)
		for _, id := range tallies[i].created {
			seen[id] = 0
		}
	}
	v.Duplicated = v.Created - len(seen) // one identifier given twice
	for i := range tallies {
		for _, id := range tallies[i].completed {
			if _, ours := seen[id]; !ours {
				v.Duplicated++
				continue
			}
			seen[id]++
		}
	}
	for _, n := range seen {
		switch {
		case n == 0:
			v.Lost++
		case n > 1:
			v.Duplicated += n - 1
			v.Completed++
		default:
			v.Completed++
		}
	}
	return v
}

// verify fails unless every execution was completed exactly once, by what the
// workers saw and by what the store counts in the lane.
func (r *runner) verify(ctx context.Context, lane flowfabric.LaneID, tallies []tally, report *Report) error {
	v := count(tallies)
	report.Verified = v
	if v.Created != r.Executions || v.Completed != r.Executions || v.Lost != 0 || v.Duplicated != 0 {
		return fmt.Errorf("the backend broke its promise: %d executions, created %d, completed %d, lost %d, duplicated %d",
			r.Executions, v.Created, v.Completed, v.Lost, v.Duplicated)
	}
	status, err := r.backend.GetLane(ctx, lane)
	if err != nil {
		return err
	}
	for state, n := range status.Counts {
		want := int64(0)
		if state == flowfabric.PublicCompleted {
			want = int64(r.Executions)
		}
		if n != want {
			return fmt.Errorf("the store counts %d executions %s in the lane, not %d", n, state, want)
		}
	}
	if status.Counts[flowfabric.PublicCompleted] != int64(r.Executions) {
		return fmt.Errorf("the store counts no completed executions in the lane")
	}
	return nil
}
