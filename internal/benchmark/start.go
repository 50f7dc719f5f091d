package benchmark

import (
	"context"
	"log/slog"
	"time"

	"github.com/flowfabric/flowfabric"
)

// Of the start latency's measurement.
const (
	startWarmUps = 20
	// startPause lets the worker go back to waiting before the next submission.
	startPause = 2 * time.Millisecond
)

// measureStart measures, on an otherwise idle system, the time from the call
// that submits an execution to the first line of its handler: one execution at a
// time, with a worker of the SDK that waits for work.
func (r *runner) measureStart(ctx context.Context, report *Report) error {
	if r.StartSamples <= 0 {
		return nil
	}
	r.Progress.Phase("start latency", r.StartSamples)
	lane := newLane()
	w, err := flowfabric.NewWorker(ctx, r.backend, flowfabric.WorkerConfig{
		WorkerID: "bench", Namespace: r.Namespace, Lanes: []flowfabric.LaneID{lane}, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return err
	}
	started := make(chan time.Time, 1)
	flowfabric.HandleRaw(w, executionKind, func(context.Context, *flowfabric.Task, []byte) ([]byte, error) {
		started <- time.Now()
		return nil, nil
	})
	running, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- w.Run(running) }()

	latencies, err := r.startSamples(ctx, lane, started)
	stop()
	if runErr := <-ended; err == nil {
		err = runErr
	}
	if closeErr := w.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return err
	}
	report.StartLatencyMs = latencies.percentiles()
	return r.dropLane(ctx, lane)
}

func (r *runner) startSamples(ctx context.Context, lane flowfabric.LaneID, started <-chan time.Time) (samples, error) {
	var latencies samples
	pause := time.NewTicker(startPause)
	defer pause.Stop()
	for i := range startWarmUps + r.StartSamples {
		begin := time.Now()
		created, err := flowfabric.CreateExecution(ctx, r.backend, flowfabric.CreateExecutionArgs{
			Namespace: r.Namespace, LaneID: lane, Kind: executionKind, CreatorIdentity: creatorIdentity,
			Payload: r.payloads.next(r.PayloadBytes), PayloadEncoding: "random",
		})
		if err != nil {
			return nil, err
		}
		select {
		case at := <-started:
			if i >= startWarmUps {
				latencies.add(at.Sub(begin))
				r.Progress.Add(1)
			}
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if err := r.awaitEnd(ctx, created.ExecutionID); err != nil {
			return nil, err
		}
		pause.Reset(startPause)
		<-pause.C
	}
	return latencies, nil
}

func (r *runner) awaitEnd(ctx context.Context, id flowfabric.ExecutionID) error {
	for {
		answer, err := r.backend.WaitExecution(ctx, flowfabric.WaitExecutionArgs{ExecutionID: id, WaitMs: 5000, OmitResult: true})
		if err != nil || answer.Terminal {
			return err
		}
	}
}
