package flowfabric_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"time"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/backend/sqlite"
)

// open opens a store in memory with its engine.
func open() *sqlite.Backend {
	be, err := sqlite.Open(context.Background(), sqlite.Config{})
	if err != nil {
		log.Fatal(err)
	}
	return be
}

// newWorker makes a worker of the lane "default" with room for four tasks.
func newWorker(be flowfabric.Backend, change ...func(*flowfabric.WorkerConfig)) *flowfabric.Worker {
	config := flowfabric.WorkerConfig{
		WorkerID: "example", Lanes: []flowfabric.LaneID{"default"}, MaxConcurrentTasks: 4,
		Logger: slog.New(slog.DiscardHandler),
	}
	for _, fn := range change {
		fn(&config)
	}
	w, err := flowfabric.NewWorker(context.Background(), be, config)
	if err != nil {
		log.Fatal(err)
	}
	return w
}

// start runs a worker and returns what stops it.
func start(w *flowfabric.Worker) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- w.Run(ctx) }()
	return func() {
		cancel()
		if err := <-done; err != nil {
			log.Fatal(err)
		}
	}
}

// A failed attempt is tried again as the execution's policy says.
func ExampleWithPolicy_retry() {
	be := open()
	defer be.Close()
	w := newWorker(be)
	flowfabric.Handle(w, "flaky", func(_ context.Context, t *flowfabric.Task, _ string) (string, error) {
		if t.AttemptIndex() < 2 {
			return "", errors.New("not yet")
		}
		return fmt.Sprintf("attempt %d, a %s", t.AttemptIndex(), t.AttemptType()), nil
	})
	defer start(w)()

	retries, delay := uint32(2), int64(10)
	ctx, client := context.Background(), flowfabric.NewClient(be)
	created, err := flowfabric.SubmitJSON(ctx, client, "flaky", "input", flowfabric.WithPolicy(flowfabric.Policy{
		RetryPolicy: &flowfabric.RetryPolicy{
			MaxRetries: &retries,
			Backoff:    &flowfabric.Backoff{Type: "fixed", DelayMs: &delay},
		},
	}))
	if err != nil {
		log.Fatal(err)
	}
	ended, _ := client.Wait(ctx, created.ExecutionID)
	fmt.Println(ended.PublicState, string(ended.Result))
	// Output: completed "attempt 2, a retry"
}

// A handler may give its execution back for a while. The same attempt goes on
// later.
func ExampleDelayFor() {
	be := open()
	defer be.Close()
	w := newWorker(be)
	flowfabric.Handle(w, "poll", func(_ context.Context, t *flowfabric.Task, _ string) (string, error) {
		if t.ClaimKind() != flowfabric.ClaimResume {
			return "", flowfabric.DelayFor(20 * time.Millisecond)
		}
		return fmt.Sprintf("attempt %d, lease epoch %d", t.AttemptIndex(), t.Fence().LeaseEpoch), nil
	})
	defer start(w)()

	client := flowfabric.NewClient(be)
	created, _ := flowfabric.SubmitJSON(context.Background(), client, "poll", "input")
	ended, _ := client.Wait(context.Background(), created.ExecutionID)
	fmt.Println(ended.PublicState, string(ended.Result))
	// Output: completed "attempt 0, lease epoch 2"
}

// A handler chooses the failure category, on which retries depend, or cancels
// its execution.
func ExampleFail() {
	be := open()
	defer be.Close()
	w := newWorker(be)
	flowfabric.Handle(w, "charge", func(_ context.Context, _ *flowfabric.Task, card string) (string, error) {
		switch card {
		case "expired":
			return "", flowfabric.Fail("permanent", errors.New("the card has expired"))
		case "test":
			return "", flowfabric.CancelTask("a test card")
		}
		return "charged", nil
	})
	defer start(w)()

	ctx, client := context.Background(), flowfabric.NewClient(be)
	for _, card := range []string{"valid", "expired", "test"} {
		created, _ := flowfabric.SubmitJSON(ctx, client, "charge", card)
		ended, _ := client.Wait(ctx, created.ExecutionID)
		fmt.Printf("%s: %s %q %q\n", card, ended.PublicState, ended.FailureCategory, ended.FailureReason)
	}
	// Output:
	// valid: completed "" ""
	// expired: failed "permanent" "the card has expired"
	// test: cancelled "" ""
}

// Values that handlers share are provided once and used by their type.
func ExampleProvide() {
	type Greeting string
	be := open()
	defer be.Close()
	w := newWorker(be)
	flowfabric.Provide(w, Greeting("hello"))
	flowfabric.Handle(w, "greet", func(ctx context.Context, _ *flowfabric.Task, name string) (string, error) {
		greeting, err := flowfabric.Use[Greeting](ctx)
		return fmt.Sprintf("%s, %s", greeting, name), err
	})
	defer start(w)()

	client := flowfabric.NewClient(be)
	created, _ := flowfabric.SubmitJSON(context.Background(), client, "greet", "world")
	_, _ = client.Wait(context.Background(), created.ExecutionID)
	result, err := flowfabric.ResultJSON[string](context.Background(), client, created.ExecutionID)
	fmt.Println(*result, err)
	// Output: hello, world <nil>
}

// A task tells how far it is, and anyone can read it.
func ExampleTask_UpdateProgress() {
	be := open()
	defer be.Close()
	w := newWorker(be)
	defer w.Close()
	ctx, client := context.Background(), flowfabric.NewClient(be)
	created, _ := client.Submit(ctx, flowfabric.CreateExecutionArgs{Kind: "import"})
	tasks, err := w.ClaimTasks(ctx, 1)
	if err != nil {
		log.Fatal(err)
	}
	_ = tasks[0].UpdateProgress(ctx, 40, "row 400 of 1000")
	snapshot, _ := client.Inspect(ctx, created.ExecutionID)
	fmt.Println(snapshot.PublicState, *snapshot.ProgressPct, snapshot.ProgressMessage)
	fmt.Println(tasks[0].Complete(ctx, nil))
	// Output:
	// active 40 row 400 of 1000
	// <nil>
}

// Work that requires a capability waits for a worker that has it.
func ExampleWorkerConfig_capabilities() {
	be := open()
	defer be.Close()
	cpu := newWorker(be, func(c *flowfabric.WorkerConfig) {
		c.Capabilities, c.ClaimWait = []string{"cpu"}, time.Nanosecond // does not wait
	})
	defer cpu.Close()
	ctx, client := context.Background(), flowfabric.NewClient(be)
	created, err := flowfabric.SubmitJSON(ctx, client, "train", "model", flowfabric.WithPolicy(flowfabric.Policy{
		RoutingRequirements: &flowfabric.RoutingRequirements{RequiredCapabilities: []string{"gpu"}},
	}))
	if err != nil {
		log.Fatal(err)
	}
	tasks, _ := cpu.ClaimTasks(ctx, 1)
	snapshot, _ := client.Inspect(ctx, created.ExecutionID)
	fmt.Println(len(tasks), snapshot.BlockingReason)

	gpu := newWorker(be, func(c *flowfabric.WorkerConfig) { c.Capabilities = []string{"cpu", "gpu"} })
	defer gpu.Close()
	tasks, _ = gpu.ClaimTasks(ctx, 1)
	fmt.Println(len(tasks), tasks[0].Complete(ctx, nil))
	// Output:
	// 0 waiting_for_capable_worker
	// 1 <nil>
}

// When a worker loses its lease another one takes the execution over, and the
// first one's late result is refused.
func ExampleWorker_ClaimFromReclaimGrant() {
	be := open()
	defer be.Close()
	first, second := newWorker(be), newWorker(be)
	defer first.Close()
	defer second.Close()
	ctx, client := context.Background(), flowfabric.NewClient(be)
	created, _ := client.Submit(ctx, flowfabric.CreateExecutionArgs{Kind: "work"})
	late, err := first.ClaimTasks(ctx, 1)
	if err != nil {
		log.Fatal(err)
	}

	revoked, _ := client.Admin().RevokeLease(ctx, flowfabric.RevokeLeaseArgs{ExecutionID: created.ExecutionID, Hold: true})
	offer, _ := client.Admin().Reclaim(ctx, flowfabric.IssueReclaimGrantArgs{
		ExecutionID: created.ExecutionID, LaneID: "default",
		WorkerID: "example", WorkerInstanceID: second.Config().WorkerInstanceID,
	})
	fmt.Println(revoked.Outcome, offer.Outcome)
	task, err := second.ClaimFromReclaimGrant(ctx, *offer.Grant)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(task.ClaimKind(), task.AttemptIndex(), task.Fence().LeaseEpoch)

	err = late[0].Complete(ctx, []byte(`"late"`))
	fmt.Println(flowfabric.CodeOf(err), flowfabric.IsStaleOwner(err))
	fmt.Println(task.Complete(ctx, []byte(`"in time"`)))
	result, _ := client.Result(ctx, created.ExecutionID)
	fmt.Println(string(result.Payload))
	// Output:
	// revoked granted
	// reclaim 1 2
	// stale_lease true
	// <nil>
	// "in time"
}

// A direct claim bypasses the scheduler. It looks at 32 partitions a call, so
// nil means "ask again".
func ExampleWorker_ClaimNext() {
	be := open()
	defer be.Close()
	w := newWorker(be, func(c *flowfabric.WorkerConfig) { c.AllowDirectClaim = true })
	defer w.Close()
	ctx, client := context.Background(), flowfabric.NewClient(be)
	created, _ := client.Submit(ctx, flowfabric.CreateExecutionArgs{Kind: "work"})
	for range 256 / 32 {
		task, err := w.ClaimNext(ctx)
		if err != nil {
			log.Fatal(err)
		}
		if task != nil {
			fmt.Println(task.ExecutionID() == created.ExecutionID, task.Complete(ctx, nil))
			break
		}
	}
	// Output: true <nil>
}

// The scheduler's grant may be handed on, or given back.
func ExampleWorker_ClaimViaServer() {
	be := open()
	defer be.Close()
	w := newWorker(be)
	defer w.Close()
	ctx, client := context.Background(), flowfabric.NewClient(be)
	_, _ = client.Submit(ctx, flowfabric.CreateExecutionArgs{Kind: "work", Payload: []byte("input")})
	task, err := w.ClaimViaServer(ctx, "default", 0)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(task.Kind(), string(task.Payload()))
	outcome, err := task.Fail(ctx, "no luck", "permanent")
	fmt.Println(outcome, err)
	// Output:
	// work input
	// terminal_failed <nil>
}
