package main

import (
	"context"
	"fmt"
	"time"

	"github.com/flowfabric/flowfabric"
)

// patientRetry paces a command that goes on while its server is away: pauses
// grow from first to most, and the person is told once for each absence.
type patientRetry struct {
	first, most time.Duration
	// limit ends the patience with one absence; 0 never does.
	limit time.Duration
	// started tells that the server has answered before.
	started bool

	pause time.Duration // of the next try; 0 while all is well
	since time.Time     // when this absence began
}

// succeeded notes an answer.
func (r *patientRetry) succeeded() { r.started, r.pause = true, 0 }

// wait pauses after a failure and reports whether to try again: not when the
// failure is final, the patience is at its end, or ctx ends.
func (r *patientRetry) wait(ctx context.Context, c *cli, err error) bool {
	if !flowfabric.IsRetryable(err) {
		return false
	}
	if r.pause == 0 {
		fmt.Fprintln(c.err, "flowfabric: "+errorLine(err)+"; trying again")
		r.pause, r.since = r.first, time.Now()
	}
	if r.limit > 0 && time.Since(r.since) > r.limit {
		return false
	}
	timer := time.NewTimer(r.pause)
	defer timer.Stop()
	r.pause = min(2*r.pause, r.most)
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
