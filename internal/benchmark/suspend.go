package benchmark

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"time"

	"github.com/flowfabric/flowfabric"
)

// Of the suspend scenario.
const (
	suspendWarmUps = 20
	suspendKey     = "answer"
	suspendSignal  = "answered"
	// suspendInFlight is how many executions go round at the same time, for each of
	// Workers.
	suspendInFlight = 4
	parkedLane      = flowfabric.LaneID("bench-parked")
)

// SuspendReport is what the suspend scenario found besides.
type SuspendReport struct {
	// RoundTripMs is the time from the call that suspends, through the signal, to
	// the first line of the handler that it resumes: one at a time.
	RoundTripMs Percentiles `json:"round_trip_ms"`
	// Parked is how many other executions were suspended during the second
	// measurement, ParkedRoundTripMs; both are zero without parked ones.
	Parked            int         `json:"parked"`
	ParkedRoundTripMs Percentiles `json:"parked_round_trip_ms"`
	// InFlight executions made RoundTripsPerSecond together; InFlightMs is how long
	// each took.
	InFlight            int         `json:"in_flight"`
	RoundTripsPerSecond float64     `json:"round_trips_per_s"`
	InFlightMs          Percentiles `json:"in_flight_ms"`
}

// runSuspend measures waits: round trips of suspend, signal and resumed handler,
// first one at a time, again beside Parked suspended executions, then as many a
// second as Workers times four in flight make.
func runSuspend(ctx context.Context, r *runner, report *Report) error {
	report.Suspend = &SuspendReport{Parked: r.Parked, InFlight: min(r.Workers*suspendInFlight, r.Executions)}
	alone, err := r.roundTrips(ctx, "one at a time", 1, r.StartSamples, suspendWarmUps)
	if err != nil {
		return err
	}
	report.Suspend.RoundTripMs = alone.samples.percentiles()

	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	all, err := r.roundTrips(ctx, "in flight", report.Suspend.InFlight, r.Executions, 0)
	if err != nil {
		return err
	}
	runtime.ReadMemStats(&after)
	report.AllocsPerLifecycle = round1(float64(after.Mallocs-before.Mallocs) / float64(r.Executions))
	report.Suspend.RoundTripsPerSecond = rate(r.Executions, all.took)
	report.Suspend.InFlightMs = all.samples.percentiles()
	report.OverallPerSecond = report.Suspend.RoundTripsPerSecond
	report.Verified = Verification{Created: all.executions, Completed: all.executions}
	if r.Parked == 0 {
		return nil
	}
	return r.besideParked(ctx, report)
}

// besideParked measures one at a time once more, while Parked executions wait.
func (r *runner) besideParked(ctx context.Context, report *Report) error {
	ids, err := r.park(ctx)
	if err != nil {
		return err
	}
	again, err := r.roundTrips(ctx, "beside parked", 1, r.StartSamples, suspendWarmUps)
	if err != nil {
		return err
	}
	report.Suspend.ParkedRoundTripMs = again.samples.percentiles()
	return r.unpark(ctx, ids)
}

// trips is a set of executions that suspend and are resumed, over and over.
type trips struct {
	client *flowfabric.Client
	note   Progress

	mu         sync.Mutex
	left       int // round trips to begin
	warmUps    int
	open       map[flowfabric.ExecutionID]time.Time // begun, by execution
	executions int
	ended      int
	samples    samples
	took       time.Duration
	begun      time.Time
	err        error
	stop       context.CancelFunc
}

// roundTrips makes n round trips, and some to warm up, with so many executions
// in flight, through the SDK: one worker, whose handler suspends and then sends
// itself the signal.
func (r *runner) roundTrips(ctx context.Context, phase string, inFlight, n, warmUps int) (*trips, error) {
	if n <= 0 {
		return &trips{}, nil
	}
	r.Progress.Phase(phase, n)
	lane := newLane()
	running, stop := context.WithCancel(ctx)
	defer stop()
	t := &trips{
		client: flowfabric.NewClient(r.backend, flowfabric.WithNamespace(r.Namespace), flowfabric.WithDefaultLane(lane), flowfabric.WithCreator(creatorIdentity)),
		note:   r.Progress, left: n + warmUps, warmUps: warmUps, open: make(map[flowfabric.ExecutionID]time.Time, inFlight),
		executions: inFlight, stop: stop,
	}
	w, err := flowfabric.NewWorker(ctx, r.backend, flowfabric.WorkerConfig{
		WorkerID: "bench", Namespace: r.Namespace, Lanes: []flowfabric.LaneID{lane}, MaxConcurrentTasks: 2 * inFlight,
		Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return nil, err
	}
	flowfabric.HandleRaw(w, executionKind, t.handle)
	items := make([]flowfabric.CreateExecutionArgs, inFlight)
	for i := range items {
		items[i] = flowfabric.CreateExecutionArgs{Kind: executionKind, Payload: r.payloads.next(r.PayloadBytes), PayloadEncoding: "random"}
	}
	t.begun = time.Now()
	created, err := t.client.SubmitBatch(ctx, items)
	if err != nil {
		return nil, err
	}
	for _, c := range created {
		if c.Err != nil {
			return nil, c.Err
		}
	}
	if err := w.Run(running); err != nil {
		return nil, err
	}
	if t.err != nil {
		return nil, t.err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if len(t.samples) != n || t.ended != inFlight {
		return nil, fmt.Errorf("the backend broke its promise: %d round trips of %d, %d executions ended of %d", len(t.samples), n, t.ended, inFlight)
	}
	return t, r.dropLane(ctx, lane)
}

// handle is called with every claim: it notes the end of a round trip and begins
// the next.
func (t *trips) handle(ctx context.Context, task *flowfabric.Task, _ []byte) ([]byte, error) {
	if !t.next(task, time.Now()) {
		err := task.Complete(ctx, nil)
		t.end(err)
		return nil, err
	}
	s, err := task.Suspend(ctx, flowfabric.SuspendOptions{
		Reason: flowfabric.SuspendWaitingForCallback, Condition: flowfabric.Single(suspendKey, flowfabric.ByName(suspendSignal)),
	})
	if err != nil {
		t.fail(err)
		return nil, err
	}
	point := s.Waitpoints[0]
	out, err := t.client.DeliverSignal(ctx, task.ExecutionID(), point.WaitpointID, point.Token, flowfabric.Signal{
		Name: suspendSignal, Category: flowfabric.SignalCategoryCallback, SourceIdentity: creatorIdentity,
	})
	if err == nil && out.Status != flowfabric.SignalTriggeredResume {
		err = fmt.Errorf("a signal that satisfies the condition had effect %q", out.Effect)
	}
	if err != nil {
		t.fail(err)
	}
	return nil, err
}

// next notes that the execution's round trip has ended, if it was on one, and
// reports whether it shall begin another.
func (t *trips) next(task *flowfabric.Task, now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	begun, resumed := t.open[task.ExecutionID()]
	if resumed != (task.ClaimKind() == flowfabric.ClaimResume) && t.err == nil {
		t.err = fmt.Errorf("execution %s came back as %q", task.ExecutionID(), task.ClaimKind())
	}
	if resumed {
		delete(t.open, task.ExecutionID())
		if t.warmUps > 0 {
			t.warmUps--
		} else {
			t.samples.add(now.Sub(begun))
			t.note.Add(1)
		}
	}
	if t.left == 0 || t.err != nil {
		return false
	}
	t.left--
	t.open[task.ExecutionID()] = time.Now()
	return true
}

func (t *trips) end(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err != nil && t.err == nil {
		t.err = err
	}
	t.ended++
	if t.ended == t.executions || t.err != nil {
		t.took = time.Since(t.begun)
		t.stop()
	}
}

func (t *trips) fail(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.err == nil {
		t.err = err
	}
	t.stop()
}

// park suspends Parked executions, each on a waitpoint of its own, for a day.
func (r *runner) park(ctx context.Context) ([]flowfabric.ExecutionID, error) {
	r.Progress.Phase("park", r.Parked)
	todo := &share{left: r.Parked}
	perWorker := make([][]flowfabric.ExecutionID, r.Workers)
	err := parallel(ctx, r.Workers, func(ctx context.Context, i int) error {
		for n := todo.take(r.Batch); n > 0; n = todo.take(r.Batch) {
			ids, err := r.parkSome(ctx, i, n)
			if err != nil {
				return err
			}
			perWorker[i] = append(perWorker[i], ids...)
			r.Progress.Add(n)
		}
		return nil
	})
	var ids []flowfabric.ExecutionID
	for _, some := range perWorker {
		ids = append(ids, some...)
	}
	return ids, err
}

func (r *runner) parkSome(ctx context.Context, worker, n int) (ids []flowfabric.ExecutionID, err error) {
	var t tally
	if err := r.create(ctx, parkedLane, n, r.RetainedPayloadBytes, nil, &t); err != nil {
		return nil, err
	}
	day := int64(24 * time.Hour / time.Millisecond)
	for len(ids) < n && ctx.Err() == nil {
		tasks, err := r.claim(ctx, parkedLane, worker, n-len(ids), time.Second, &t)
		if err != nil {
			return nil, err
		}
		for _, task := range tasks {
			_, err := r.backend.Suspend(ctx, flowfabric.SuspendArgs{
				ExecutionID: task.ExecutionID, Fence: task.Fence, ReasonCode: flowfabric.SuspendWaitingForApproval,
				Waitpoints:      []flowfabric.WaitpointBinding{{WaitpointKey: suspendKey}},
				ResumeCondition: flowfabric.Single(suspendKey, flowfabric.ByName(suspendSignal)), TimeoutMs: &day,
			})
			if err != nil {
				return nil, err
			}
			ids = append(ids, task.ExecutionID)
		}
	}
	return ids, ctx.Err()
}

// unpark cancels what was parked, so that nothing of the run keeps waiting.
func (r *runner) unpark(ctx context.Context, ids []flowfabric.ExecutionID) error {
	r.Progress.Phase("unpark", len(ids))
	todo := &share{left: len(ids)}
	return parallel(ctx, r.Workers, func(ctx context.Context, _ int) error {
		for {
			i, some := todo.next()
			if !some {
				return nil
			}
			_, err := r.backend.CancelExecution(ctx, flowfabric.CancelExecutionArgs{
				ExecutionID: ids[i], Source: flowfabric.SourceOperatorOverride, Reason: "benchmark over",
			})
			if err != nil && !errors.Is(err, flowfabric.ErrExecutionNotActive) {
				return err
			}
			r.Progress.Add(1)
		}
	})
}
