package demo

import (
	"context"
	"fmt"
	"sync"

	"github.com/flowfabric/flowfabric"
)

// feedWaitMs is how long one read of a feed waits for an event.
const feedWaitMs = 1000

// watch follows the completions feed of this run and knows which executions have
// ended.
type watch struct {
	*stage
	// finished is closed when every execution has ended.
	finished chan struct{}

	cursor string
	mu     sync.Mutex
	ended  map[flowfabric.ExecutionID]bool
}

func newWatch(s *stage) *watch {
	return &watch{stage: s, finished: make(chan struct{}), cursor: flowfabric.FeedStartEarliest, ended: make(map[flowfabric.ExecutionID]bool, len(s.executions))}
}

// done counts the executions of this run that have ended.
func (w *watch) done() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.ended)
}

// catchUp reads the feed up to its present end.
func (w *watch) catchUp(ctx context.Context) error {
	for more := true; more; {
		var err error
		if more, err = w.read(ctx, 0); err != nil {
			return err
		}
	}
	return nil
}

// follow reads the feed until every execution has ended.
func (w *watch) follow(ctx context.Context) error {
	for {
		if w.done() == len(w.executions) {
			close(w.finished)
			return nil
		}
		if _, err := w.read(ctx, feedWaitMs); err != nil {
			return err
		}
		w.Show.Progress(w.done(), len(w.executions))
	}
}

// read takes one batch of completion events in and reports whether there is
// more.
func (w *watch) read(ctx context.Context, waitMs int64) (bool, error) {
	answer, err := w.backend.ReadFeed(ctx, flowfabric.ReadFeedArgs{
		Feed: flowfabric.FeedCompletions, Start: w.cursor, Filter: flowfabric.FeedFilter{LaneID: w.run.lane()},
		Limit: flowfabric.MaxFeedLimit, BlockMs: waitMs,
	})
	if err != nil {
		return false, err
	}
	w.cursor = answer.NextCursor
	for _, e := range answer.Events {
		w.note(e.ExecutionID)
	}
	if len(answer.Gaps) > 0 {
		return answer.HasMore, w.ask(ctx)
	}
	return answer.HasMore, nil
}

func (w *watch) note(id flowfabric.ExecutionID) {
	if _, ours := w.executions[id]; !ours {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ended[id] = true
}

// ask reads the states of the outstanding executions: the way round events that
// the feed no longer holds.
func (w *watch) ask(ctx context.Context) error {
	for id := range w.executions {
		state, err := w.backend.GetExecutionState(ctx, id)
		if err != nil {
			return err
		}
		if state.Terminal() {
			w.note(id)
		}
	}
	return nil
}

// followReclaims tells of every execution that is taken over while it happens,
// until ctx ends. The report does not depend on it.
func (w *watch) followReclaims(ctx context.Context) {
	cursor, told, wait := flowfabric.FeedStartNow, 0, int64(0) // the first read only finds where to start
	for last := false; !last; wait = feedWaitMs {
		if ctx.Err() != nil { // once more, without waiting: the last take-overs precede the end closely
			ctx, wait, last = context.WithoutCancel(ctx), 0, true
		}
		answer, err := w.backend.ReadFeed(ctx, flowfabric.ReadFeedArgs{
			Feed: flowfabric.FeedLeases, Start: cursor, BlockMs: wait, Limit: flowfabric.MaxFeedLimit,
			Filter: flowfabric.FeedFilter{LaneID: w.run.lane(), Kinds: []string{flowfabric.EventReclaimed}},
		})
		if err != nil && ctx.Err() != nil {
			continue
		}
		if err != nil { // the report will meet the same fault, and fail with it
			return
		}
		cursor = answer.NextCursor
		for _, e := range answer.Events {
			if told++; told <= shownReclaims {
				w.Show.Say(fmt.Sprintf("reclaimed %s from %s: %s takes over", printable(w.executions[e.ExecutionID]), e.PrevWorkerInstanceID, e.WorkerInstanceID))
			}
		}
	}
}
