package flowfabric_test

import (
	"context"
	"errors"
	"fmt"
	"log"

	"github.com/flowfabric/flowfabric"
)

// Many executions go to the store in few calls, each with its own answer.
func ExampleClient_SubmitBatch() {
	be := open()
	defer be.Close()
	ctx, client := context.Background(), flowfabric.NewClient(be)
	items := make([]flowfabric.CreateExecutionArgs, 250)
	for i := range items {
		items[i] = flowfabric.CreateExecutionArgs{Kind: "resize", Payload: fmt.Appendf(nil, "%d", i)}
	}
	items[7].Kind = "two words"
	answers, err := client.SubmitBatch(ctx, items)
	if err != nil {
		log.Fatal(err)
	}
	created, refused := 0, 0
	for _, answer := range answers {
		if errors.Is(answer.Err, flowfabric.ErrInvalidInput) {
			refused++
		} else if answer.Result.Outcome == flowfabric.OutcomeCreated {
			created++
		}
	}
	fmt.Println(created, refused)
	n := 0
	for _, err := range client.Executions(ctx, flowfabric.ExecutionQuery{Kind: "resize"}) {
		if err != nil {
			log.Fatal(err)
		}
		n++
	}
	fmt.Println(n)
	// Output:
	// 249 1
	// 249
}

// An idempotency key makes a repeated submission harmless.
func ExampleWithIdempotencyKey() {
	be := open()
	defer be.Close()
	ctx, client := context.Background(), flowfabric.NewClient(be)
	first, _ := flowfabric.SubmitJSON(ctx, client, "charge", 42, flowfabric.WithIdempotencyKey("order-1"))
	second, _ := flowfabric.SubmitJSON(ctx, client, "charge", 42, flowfabric.WithIdempotencyKey("order-1"))
	other, _ := flowfabric.SubmitJSON(ctx, client, "charge", 43, flowfabric.WithIdempotencyKey("order-1"))
	fmt.Println(first.Outcome)
	fmt.Println(second.Outcome, second.SameSpec, second.ExecutionID == first.ExecutionID)
	fmt.Println(other.Outcome, other.SameSpec, other.ExecutionID == first.ExecutionID)
	// Output:
	// created
	// duplicate true true
	// duplicate false true
}

// Cancelling needs no lease. The first reason stands, and an execution that has
// ended otherwise cannot be cancelled.
func ExampleClient_Cancel() {
	be := open()
	defer be.Close()
	ctx, client := context.Background(), flowfabric.NewClient(be)
	created, _ := client.Submit(ctx, flowfabric.CreateExecutionArgs{Kind: "report"})
	cancelled, err := client.Cancel(ctx, created.ExecutionID, "superseded")
	fmt.Println(cancelled.Outcome, cancelled.PublicState, err)
	again, _ := client.Cancel(ctx, created.ExecutionID, "another reason")
	fmt.Println(again.Outcome, again.CancellationReason)
	result, err := client.Result(ctx, created.ExecutionID)
	fmt.Println(result, err)
	// Output:
	// cancelled cancelled <nil>
	// already_cancelled superseded
	// <nil> <nil>
}

// Wait returns when the execution has ended, however it ended.
func ExampleClient_Wait() {
	be := open()
	defer be.Close()
	ctx, client := context.Background(), flowfabric.NewClient(be)
	created, _ := client.Submit(ctx, flowfabric.CreateExecutionArgs{Kind: "report"})
	ended := make(chan flowfabric.WaitExecutionResult)
	go func() {
		result, err := client.Wait(ctx, created.ExecutionID)
		if err != nil {
			log.Fatal(err)
		}
		ended <- result
	}()
	_, _ = client.Cancel(ctx, created.ExecutionID, "not needed")
	result := <-ended
	fmt.Println(result.PublicState, result.Terminal, result.ResultAvailable)
	// Output: cancelled true false
}

// The completions feed tells of every execution that ends.
func ExampleClient_Subscribe() {
	be := open()
	defer be.Close()
	ctx, client := context.Background(), flowfabric.NewClient(be)
	events := client.Subscribe(ctx, flowfabric.FeedCompletions, flowfabric.SubscribeOptions{}) // from now on
	created, _ := client.Submit(ctx, flowfabric.CreateExecutionArgs{Kind: "report"})
	_, _ = client.Cancel(ctx, created.ExecutionID, "not needed")
	for event, err := range events {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(event.Kind, event.Outcome, event.ExecutionID == created.ExecutionID)
		break // event.Cursor resumes here
	}
	// Output: completed cancelled true
}

// The operator's methods: an execution that ended may be replayed, a lane
// closed to new work.
func ExampleAdmin() {
	be := open()
	defer be.Close()
	ctx, client := context.Background(), flowfabric.NewClient(be)
	admin := client.Admin()
	created, _ := client.Submit(ctx, flowfabric.CreateExecutionArgs{Kind: "report"})
	_, _ = client.Cancel(ctx, created.ExecutionID, "by mistake")
	replayed, err := admin.Replay(ctx, flowfabric.ReplayExecutionArgs{ExecutionID: created.ExecutionID})
	fmt.Println(replayed.PublicState, replayed.ReplayCount, err)

	_, _ = admin.PauseLane(ctx, "default", "maintenance")
	_, err = client.Submit(ctx, flowfabric.CreateExecutionArgs{Kind: "report"})
	fmt.Println(flowfabric.CodeOf(err))
	_, _ = admin.ResumeLane(ctx, "default", "")
	_, err = client.Submit(ctx, flowfabric.CreateExecutionArgs{Kind: "report"})
	fmt.Println(err)
	// Output:
	// waiting 1 <nil>
	// lane_intake_closed
	// <nil>
}
