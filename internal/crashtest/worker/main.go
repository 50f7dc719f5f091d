// The worker of the crash tests: it does what each execution's plan says, and
// prints a report for every definite answer of the store. It ends in good order
// when its standard input does.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/backend/remote"
	"github.com/flowfabric/flowfabric/backend/valkey"
	"github.com/flowfabric/flowfabric/internal/crashtest"
)

func main() {
	server := flag.String("server", "", "URL of the server, or of a Valkey store")
	instance := flag.String("instance", "", "name of this process")
	tasks := flag.Int("tasks", 4, "tasks at a time")
	leaseTTL := flag.Duration("lease-ttl", time.Second, "lease TTL")
	claimWait := flag.Duration("claim-wait", time.Second, "how long a claim waits")
	mortal := flag.Bool("mortal", false, "kill this process where an execution's plan says so")
	flag.Parse()
	if err := run(*server, flowfabric.WorkerInstanceID(*instance), *tasks, *leaseTTL, *claimWait, *mortal); err != nil {
		fmt.Fprintln(os.Stderr, "crash worker:", err)
		os.Exit(1)
	}
}

func run(server string, instance flowfabric.WorkerInstanceID, tasks int, leaseTTL, claimWait time.Duration, mortal bool) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	backend, err := open(ctx, server)
	if err != nil {
		return err
	}
	defer backend.Close()
	says := &reporter{instance: instance}
	end := &doom{says: says, mortal: mortal}
	w, err := newWorker(ctx, backend, flowfabric.WorkerConfig{
		WorkerID: "crash", WorkerInstanceID: instance, Namespace: crashtest.Namespace, Lanes: crashtest.Lanes(),
		MaxConcurrentTasks: tasks, LeaseTTL: leaseTTL, ClaimWait: claimWait, DrainTimeout: 5 * time.Second,
		Logger:     slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
		Middleware: []flowfabric.Middleware{func(b flowfabric.Backend) flowfabric.Backend { return &witness{b, says, end} }},
	})
	if err != nil {
		return err
	}
	err = flowfabric.HandleRaw(w, crashtest.Kind, func(ctx context.Context, t *flowfabric.Task, payload []byte) ([]byte, error) {
		return handle(ctx, w.Backend(), end, t, payload)
	})
	if err != nil {
		return err
	}
	says.report(crashtest.Report{Op: crashtest.OpReady})
	if err := w.Run(ctx); err != nil {
		return err
	}
	says.report(crashtest.Report{Op: crashtest.OpStopped})
	return nil
}

// open connects to a server, or to the store itself.
func open(ctx context.Context, url string) (flowfabric.Backend, error) {
	if !valkey.IsURL(url) {
		return remote.Open(ctx, url)
	}
	config, err := valkey.Parse(url)
	if err != nil {
		return nil, err
	}
	config.Role = valkey.RoleWorker
	return valkey.Open(ctx, config)
}

// newWorker begins anew when the store is out of reach, as whoever supervises a
// worker would: over a lossy connection even the repeats of a read may all fail.
func newWorker(ctx context.Context, b flowfabric.Backend, config flowfabric.WorkerConfig) (*flowfabric.Worker, error) {
	for {
		w, err := flowfabric.NewWorker(ctx, b, config)
		if err == nil || !errors.Is(err, flowfabric.ClassRetryableTransport) || ctx.Err() != nil {
			return w, err
		}
	}
}

// handle does what the plan says.
func handle(ctx context.Context, b flowfabric.Backend, end *doom, t *flowfabric.Task, payload []byte) ([]byte, error) {
	var plan crashtest.Plan
	if err := json.Unmarshal(payload, &plan); err != nil {
		return nil, err
	}
	late := plan.Act == crashtest.ActLate
	end.plan(t, plan.Die)
	if err := work(ctx, time.Duration(plan.WorkMs)*time.Millisecond, late); err != nil {
		return nil, err
	}
	first := t.AttemptIndex() == 0
	switch {
	case plan.Act == crashtest.ActFail && first:
		return nil, flowfabric.Fail("permanent", errors.New("as planned"))
	case plan.Act == crashtest.ActRetry && first:
		return nil, flowfabric.Fail("transient", errors.New("as planned"))
	case plan.Act == crashtest.ActDelay && first && t.ClaimKind() == flowfabric.ClaimNew:
		return nil, flowfabric.DelayFor(50 * time.Millisecond)
	}
	signals, err := (&waiter{b, end, t, plan}).wait(ctx)
	if err != nil {
		return nil, err
	}
	end.at(crashtest.PointCompleting)
	result, err := json.Marshal(crashtest.Result{
		Serial: plan.Serial, Instance: t.WorkerInstanceID(), Epoch: t.Fence().LeaseEpoch, Attempt: t.AttemptIndex(),
		Pad: strings.Repeat("x", plan.Pad), Signals: signals,
	})
	if err == nil && late {
		completePastSDK(b, t, result)
	}
	return result, err
}

// work takes its time. Work that is to be late does not mind the end of the
// task's context.
func work(ctx context.Context, d time.Duration, late bool) error {
	done := ctx.Done()
	if late {
		done = nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-done:
		return context.Cause(ctx)
	}
}

// completePastSDK writes under the task's fence though the lease may be lost
// long ago. What the store answers is the witness's to report; without an answer
// the SDK has its turn.
func completePastSDK(b flowfabric.Backend, t *flowfabric.Task, result []byte) {
	_, _ = flowfabric.CompleteExecution(context.Background(), b, flowfabric.CompleteExecutionArgs{
		ExecutionID: t.ExecutionID(), Fence: t.Fence(), Result: result,
	})
}
