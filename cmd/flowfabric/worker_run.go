package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/flowfabric/flowfabric"
	"github.com/spf13/cobra"
)

type workerRunOptions struct {
	command      string
	pool         string
	instance     string
	namespace    string
	lanes        []string
	kinds        []string
	capabilities []string
	concurrency  int
	leaseTTL     time.Duration
	drain        time.Duration
	limit        int
}

func (c *cli) workerRunCommand() *cobra.Command {
	var o workerRunOptions
	cmd := &cobra.Command{
		Use:   "run --exec COMMAND",
		Short: "Run a worker that executes a shell command",
		Long: `Run a worker that executes a shell command for each execution it claims: the
payload is its standard input, its standard output becomes the result. Exit code 0
completes the execution; any other fails the attempt, with the last lines of
standard error as the reason, and the execution's policy decides whether it is
tried again.

The command finds what it runs in FLOWFABRIC_EXECUTION_ID, FLOWFABRIC_KIND,
FLOWFABRIC_LANE, FLOWFABRIC_NAMESPACE and FLOWFABRIC_ATTEMPT. The lease is renewed
while it runs; when the lease is lost, or the attempt times out, the command is
killed.

Interrupting the worker stops claiming, lets running commands finish, and hands
back what does not finish within --drain-timeout.`,
		Example: `  flowfabric worker run --exec 'jq -c "{greeting: (\"Hello, \" + .name)}"'
  flowfabric worker run --kind resize --lane media --concurrency 4 --exec './resize.sh'`,
		Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.command == "" {
				return usagef("--exec is missing; give the command to run for each execution")
			}
			return c.with(cmd.Context(), func(b flowfabric.Backend) error { return c.runWorker(cmd.Context(), b, &o) })
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.command, "exec", "", "shell command to run for each execution")
	f.StringVar(&o.pool, "worker", "shell", "name of the pool (worker_id)")
	f.StringVar(&o.instance, "instance", "", "name of this process (default: host, process id and a random part)")
	f.StringVar(&o.namespace, "namespace", "default", "namespace to serve; * serves all")
	f.StringSliceVar(&o.lanes, "lane", []string{string(flowfabric.DefaultLane)}, "lane to serve; repeatable")
	f.StringSliceVar(&o.kinds, "kind", nil, "kind to run; others fail (default: every kind); repeatable")
	f.StringSliceVar(&o.capabilities, "capability", nil, "capability to offer; repeatable")
	f.IntVar(&o.concurrency, "concurrency", 1, "executions to run at once, 1..100")
	f.DurationVar(&o.leaseTTL, "lease-ttl", 30*time.Second, "how long a lease holds without renewal, 1s..1h")
	f.DurationVar(&o.drain, "drain-timeout", 30*time.Second, "how long running commands may finish at the end")
	f.IntVar(&o.limit, "limit", 0, "stop after this many executions (default: no limit)")
	return cmd
}

func (c *cli) runWorker(ctx context.Context, b flowfabric.Backend, o *workerRunOptions) error {
	if o.concurrency < 1 || o.concurrency > flowfabric.MaxClaimTasks {
		return usagef("--concurrency %d must be 1..%d", o.concurrency, flowfabric.MaxClaimTasks)
	}
	lanes := make([]flowfabric.LaneID, len(o.lanes))
	for i, l := range o.lanes {
		lanes[i] = flowfabric.LaneID(l)
	}
	w, err := flowfabric.NewWorker(ctx, b, flowfabric.WorkerConfig{
		WorkerID: flowfabric.WorkerID(o.pool), WorkerInstanceID: flowfabric.WorkerInstanceID(o.instance),
		Namespace: flowfabric.Namespace(o.namespace), Lanes: lanes, Capabilities: o.capabilities,
		MaxConcurrentTasks: o.concurrency, LeaseTTL: o.leaseTTL, DrainTimeout: o.drain,
		Logger: slog.New(slog.NewTextHandler(c.err, &slog.HandlerOptions{Level: slog.LevelWarn})),
	})
	if err != nil {
		return err
	}
	if !c.printer().wantsJSON() {
		fmt.Fprintf(c.err, "worker %s serves %s; stop it with Ctrl-C\n", w.Config().WorkerInstanceID, joined(lanes))
	}
	s := &shellWorker{cli: c, worker: w, options: o, left: int64(o.limit)}
	var running sync.WaitGroup
	for range o.concurrency {
		running.Go(func() { s.loop(ctx) })
	}
	closed := make(chan error, 1)
	stopWatching := context.AfterFunc(ctx, func() { closed <- w.Close() })
	running.Wait()
	if !stopWatching() {
		return <-closed
	}
	return firstError(s.failure, w.Close())
}

// shellWorker runs a shell command for each task.
type shellWorker struct {
	*cli
	worker  *flowfabric.Worker
	options *workerRunOptions

	mu   sync.Mutex
	left int64 // executions to go; counts only with a limit
	// failure is what ended a loop before its time.
	failure error
}

// take reports whether one more execution may be run.
func (s *shellWorker) take() bool {
	if s.options.limit <= 0 {
		return true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.left--
	return s.left >= 0
}

func (s *shellWorker) giveBack() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.left++
}

// loop claims and runs one task after the other until ctx ends, the limit is
// reached, or a claim is refused for good.
func (s *shellWorker) loop(ctx context.Context) {
	again := patientRetry{first: 100 * time.Millisecond, most: 10 * time.Second}
	for ctx.Err() == nil && s.take() {
		tasks, err := s.worker.ClaimTasks(ctx, 1)
		for _, t := range tasks {
			s.run(t)
		}
		if len(tasks) == 0 {
			s.giveBack()
		}
		switch {
		case err == nil:
			again.succeeded()
		case ctx.Err() != nil:
		case !again.wait(ctx, s.cli, err):
			s.fail(err)
			return
		}
	}
}

// fail keeps the first error that ended a loop.
func (s *shellWorker) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failure == nil {
		s.failure = err
	}
}

// run executes the command for one task and ends the task.
func (s *shellWorker) run(t *flowfabric.Task) {
	start := time.Now()
	result, failure := s.execute(t)
	// A task that got no definite answer must not keep its permit.
	defer func() { _ = t.Abandon(context.WithoutCancel(t.Context())) }()
	var err error
	outcome := flowfabric.PublicCompleted
	switch {
	case t.Context().Err() != nil:
		err = fmt.Errorf("given up: %w", context.Cause(t.Context()))
	case failure != nil:
		outcome = flowfabric.PublicFailed
		err = s.answer(t, func(ctx context.Context) error {
			_, err := t.Fail(ctx, failure.reason, failure.category)
			return err
		})
	default:
		err = s.answer(t, func(ctx context.Context) error { return t.CompleteEncoded(ctx, result, encodingOf(result)) })
	}
	s.report(t, outcome, failure, err, time.Since(start))
}

// How long an answer waits for the store, and the pauses between its repeats.
const (
	answerTimeout = 30 * time.Second
	answerPause   = 100 * time.Millisecond
	longestPause  = 5 * time.Second
)

// answer hands in how the command ended, and does so again for as long as the
// store does not say yes or no and the lease holds. It goes on while the worker
// drains.
func (s *shellWorker) answer(t *flowfabric.Task, end func(context.Context) error) error {
	for pause := answerPause; ; pause = min(2*pause, longestPause) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), answerTimeout)
		err := end(ctx)
		cancel()
		if err == nil || !flowfabric.IsRetryable(err) {
			return err
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-t.Context().Done():
			timer.Stop()
			return err
		}
	}
}

func (s *shellWorker) report(t *flowfabric.Task, outcome flowfabric.PublicState, failure *commandFailure, err error, took time.Duration) {
	p := s.printer()
	line := ""
	switch {
	case err != nil:
		line = p.warn("lost") + "  " + errorLine(err)
	case failure != nil:
		line = p.state(outcome) + "  " + short(failure.reason, 100)
	default:
		line = p.state(outcome)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if p.wantsJSON() {
		doc := map[string]any{"execution_id": t.ExecutionID(), "execution_kind": t.Kind(), "attempt_index": t.AttemptIndex(),
			"outcome": outcome, "took_ms": took.Milliseconds()}
		if err != nil {
			doc["outcome"], doc["error"] = "lost", errorLine(err)
		} else if failure != nil {
			doc["failure_reason"] = failure.reason
		}
		_ = p.jsonLine(doc)
		return
	}
	_ = p.line("%s  %s  attempt %d  %s  %s", t.ExecutionID(), clean(t.Kind()), t.AttemptIndex(), span(took), line)
}

// commandFailure is why an attempt failed.
type commandFailure struct{ reason, category string }

// keptErrorOutput is how much of a command's standard error becomes the reason.
const keptErrorOutput = 2048

// execute runs the command with the payload on its standard input.
func (s *shellWorker) execute(t *flowfabric.Task) ([]byte, *commandFailure) {
	if kinds := s.options.kinds; len(kinds) > 0 && !slices.Contains(kinds, t.Kind()) {
		return nil, &commandFailure{fmt.Sprintf("this worker runs %s, not %s", strings.Join(kinds, ", "), t.Kind()), flowfabric.CategoryNoHandler}
	}
	cmd := exec.CommandContext(t.Context(), "/bin/sh", "-c", s.options.command)
	cmd.Stdin = bytes.NewReader(t.Payload())
	out, tail := &boundedBuffer{limit: flowfabric.MaxPayloadBytes}, &tailBuffer{limit: keptErrorOutput}
	cmd.Stdout, cmd.Stderr = out, tail
	cmd.Env = append(slices.Clone(s.environ),
		"FLOWFABRIC_EXECUTION_ID="+string(t.ExecutionID()), "FLOWFABRIC_KIND="+t.Kind(), "FLOWFABRIC_LANE="+string(t.LaneID()),
		"FLOWFABRIC_NAMESPACE="+string(t.Namespace()), "FLOWFABRIC_ATTEMPT="+strconv.FormatUint(uint64(t.AttemptIndex()), 10))
	// The command leads a process group, so that its children end with it and an
	// interrupt at the terminal reaches the worker alone.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	err := cmd.Run()
	if out.over {
		return nil, &commandFailure{fmt.Sprintf("the command printed more than %d bytes", out.limit), "permanent"}
	}
	if err == nil {
		return out.Bytes(), nil
	}
	reason := "command: " + err.Error()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		reason = exit.ProcessState.String()
	}
	if text := strings.TrimSpace(tail.String()); text != "" {
		reason += ": " + text
	}
	return nil, &commandFailure{strings.ToValidUTF8(reason, "\uFFFD"), "worker_error"}
}

// boundedBuffer keeps what is written up to a limit and notes what is over.
type boundedBuffer struct {
	bytes.Buffer
	limit int
	over  bool
}

func (b *boundedBuffer) Write(p []byte) (int, error) {
	if b.Len()+len(p) > b.limit {
		b.over = true
		return 0, errors.New("too much output")
	}
	return b.Buffer.Write(p)
}

// tailBuffer keeps the last bytes written.
type tailBuffer struct {
	kept  []byte
	limit int
}

func (b *tailBuffer) Write(p []byte) (int, error) {
	b.kept = append(b.kept, p...)
	if over := len(b.kept) - b.limit; over > 0 {
		b.kept = append(b.kept[:0], b.kept[over:]...)
	}
	return len(p), nil
}

func (b *tailBuffer) String() string { return string(b.kept) }
