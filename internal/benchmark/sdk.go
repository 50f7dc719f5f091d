package benchmark

import (
	"context"
	"log/slog"
	"runtime"
	"sync"
	"time"

	"github.com/flowfabric/flowfabric"
)

// maxInFlight bounds the calls, and the tasks, the SDK scenario has under way.
const maxInFlight = 10_000

// runSDK does the same lifecycles as a program on the SDK does: single Submit
// calls from many goroutines, and one worker with many permits and a handler
// that does nothing. The SDK makes batches of both by itself.
func runSDK(ctx context.Context, r *runner, report *Report) error {
	lane := newLane()
	inFlight := min(r.Workers*r.Batch, maxInFlight)
	tallies := make([]tally, inFlight+1)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)

	submit, err := r.submitSingly(ctx, lane, tallies[:inFlight])
	if err != nil {
		return err
	}
	drain, err := r.drainWithWorker(ctx, lane, inFlight, &tallies[inFlight])
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

// submitSingly creates all executions, one a call, with one goroutine a tally.
func (r *runner) submitSingly(ctx context.Context, lane flowfabric.LaneID, tallies []tally) (time.Duration, error) {
	r.Progress.Phase("submit", r.Executions)
	client := flowfabric.NewClient(r.backend, flowfabric.WithNamespace(r.Namespace), flowfabric.WithDefaultLane(lane), flowfabric.WithCreator(creatorIdentity))
	todo := &share{left: r.Executions}
	begin := time.Now()
	err := parallel(ctx, len(tallies), func(ctx context.Context, i int) error {
		t := &tallies[i]
		for todo.take(1) > 0 {
			sent := time.Now()
			created, err := client.Submit(ctx, flowfabric.CreateExecutionArgs{
				Kind: executionKind, Payload: r.payloads.next(r.PayloadBytes), PayloadEncoding: "random",
			})
			if err != nil {
				return err
			}
			t.create.add(time.Since(sent))
			t.created = append(t.created, created.ExecutionID)
			r.Progress.Add(1)
		}
		return nil
	})
	return time.Since(begin), err
}

// drainWithWorker runs one worker until every execution has ended.
func (r *runner) drainWithWorker(ctx context.Context, lane flowfabric.LaneID, permits int, t *tally) (time.Duration, error) {
	r.Progress.Phase("drain", r.Executions)
	running, stop := context.WithCancel(ctx)
	defer stop()
	seen := &observed{Backend: r.backend, tally: t, progress: r.Progress, left: int64(r.Executions), done: stop}
	begin := time.Now()
	w, err := flowfabric.NewWorker(ctx, seen, flowfabric.WorkerConfig{
		WorkerID: "bench", Namespace: r.Namespace, Lanes: []flowfabric.LaneID{lane}, MaxConcurrentTasks: permits,
		Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return 0, err
	}
	var result []byte
	if r.ResultBytes > 0 {
		result = r.payloads.next(r.ResultBytes)
	}
	flowfabric.HandleRaw(w, executionKind, func(context.Context, *flowfabric.Task, []byte) ([]byte, error) { return result, nil })
	if err := w.Run(running); err != nil { // drains and closes
		return 0, err
	}
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	return seen.end.Sub(begin), seen.err
}

// observed is a backend that notes what a worker's calls do and how long they
// take, and tells when the last execution is complete.
type observed struct {
	flowfabric.Backend
	progress Progress
	left     int64
	done     func()

	mu    sync.Mutex
	tally *tally
	end   time.Time
	err   error
}

// ClaimTasks notes how long claims that found work took.
func (o *observed) ClaimTasks(ctx context.Context, args flowfabric.ClaimTasksArgs) (flowfabric.ClaimTasksResult, error) {
	begin := time.Now()
	answer, err := o.Backend.ClaimTasks(ctx, args)
	spent := time.Since(begin)
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(answer.Tasks) > 0 {
		o.tally.claim.add(spent)
	}
	return answer, err
}

// CompleteExecutions notes what was completed. The first failure ends the run.
func (o *observed) CompleteExecutions(ctx context.Context, items []flowfabric.CompleteExecutionArgs) ([]flowfabric.Item[flowfabric.CompleteExecutionResult], error) {
	begin := time.Now()
	answers, err := o.Backend.CompleteExecutions(ctx, items)
	now := time.Now()
	o.mu.Lock()
	defer o.mu.Unlock()
	o.tally.complete.add(now.Sub(begin))
	if err != nil {
		o.fail(err)
		return answers, err
	}
	for i, a := range answers {
		if a.Err != nil {
			o.fail(a.Err)
			continue
		}
		if !a.Result.Replayed {
			o.tally.completed = append(o.tally.completed, items[i].ExecutionID)
			o.left--
		}
	}
	o.progress.Add(len(answers))
	if o.left <= 0 && o.end.IsZero() {
		o.end = now
		o.done()
	}
	return answers, nil
}

func (o *observed) fail(err error) {
	if o.err == nil {
		o.err = err
		o.done()
	}
}
