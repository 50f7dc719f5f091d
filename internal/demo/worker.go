package demo

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/backend/remote"
)

// executionKind is the kind of the demo's executions.
const executionKind = "demo.file"

// Of a worker process.
const (
	workerPool        = flowfabric.WorkerID("demo")
	workerLivenessTTL = 5 * time.Second
	workerDrain       = 2 * time.Second
)

// brief is what a worker process is told on the first line of its standard
// input. The token travels here and nowhere else.
type brief struct {
	Server      string                      `json:"server"`
	Token       string                      `json:"token"`
	Root        string                      `json:"root"`
	Lane        flowfabric.LaneID           `json:"lane"`
	Instance    flowfabric.WorkerInstanceID `json:"instance"`
	Concurrency int                         `json:"concurrency"`
	LeaseTTL    time.Duration               `json:"lease_ttl"`
	// HoldAfter, when not nil, makes the worker hold its tasks unfinished after
	// so many: it is the one that will be killed.
	HoldAfter *int `json:"hold_after,omitempty"`
}

// RunWorker is the whole of a worker process: it reads its brief from in, then
// works over HTTP until ctx ends or in does, and drains. It tells its parent on
// out that it holds tasks; its log goes to log.
func RunWorker(ctx context.Context, in io.Reader, out, log io.Writer) error {
	lines := bufio.NewReader(in)
	line, err := lines.ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("a demo worker is started by the demo, which briefs it on standard input: %w", err)
	}
	var b brief
	if err := json.Unmarshal(line, &b); err != nil {
		return fmt.Errorf("read the brief: %w", err)
	}
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	go func() {
		io.Copy(io.Discard, lines) // ends when the parent closes our input, or is gone
		stop(errors.New("the parent is gone"))
	}()

	backend, err := remote.Open(ctx, b.Server, remote.WithToken(b.Token))
	if err != nil {
		return err
	}
	defer backend.Close()
	return work(ctx, backend, b, out, log)
}

// work runs the SDK's worker with the demo's handler until ctx ends.
func work(ctx context.Context, backend flowfabric.Backend, b brief, out, log io.Writer) error {
	w, err := flowfabric.NewWorker(ctx, backend, flowfabric.WorkerConfig{
		WorkerID: workerPool, WorkerInstanceID: b.Instance,
		Lanes: []flowfabric.LaneID{b.Lane}, MaxConcurrentTasks: b.Concurrency,
		LeaseTTL: b.LeaseTTL, LivenessTTL: workerLivenessTTL, DrainTimeout: workerDrain,
		Logger: slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelError})),
	})
	if err != nil {
		return err
	}
	var g *gate
	if b.HoldAfter != nil {
		g = &gate{left: *b.HoldAfter, out: out}
	}
	flowfabric.Handle(w, executionKind, func(ctx context.Context, _ *flowfabric.Task, in Input) (Facts, error) {
		facts, err := Analyse(ctx, b.Root, in.Path)
		if err != nil {
			return Facts{}, err
		}
		return facts, g.pass(ctx)
	})
	return w.Run(ctx)
}
