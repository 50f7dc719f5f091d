package flowfabric_test

import (
	"context"
	"fmt"
	"log"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/backend/sqlite"
)

// A first program: a store, a worker with one typed handler, and a client that
// submits an execution and waits for its result.
func Example() {
	type Order struct{ Amount int }

	ctx, stop := context.WithCancel(context.Background())
	be, err := sqlite.Open(ctx, sqlite.Config{}) // Path: "flow.db" keeps it on disk
	if err != nil {
		log.Fatal(err)
	}
	defer be.Close()
	w, err := flowfabric.NewWorker(ctx, be, flowfabric.WorkerConfig{WorkerID: "mailer", Lanes: []flowfabric.LaneID{"default"}})
	if err != nil {
		log.Fatal(err)
	}
	flowfabric.Handle(w, "send_receipt", func(ctx context.Context, t *flowfabric.Task, o Order) (string, error) {
		return fmt.Sprintf("paid %d", o.Amount), nil
	})
	done := make(chan error)
	go func() { done <- w.Run(ctx) }() // until ctx ends, then drains

	client := flowfabric.NewClient(be)
	_, ended, err := client.SubmitAndWait(ctx, flowfabric.CreateExecutionArgs{Kind: "send_receipt", Payload: []byte(`{"Amount":42}`)})
	fmt.Println(ended.PublicState, string(ended.Result), err)
	stop()
	fmt.Println("stopped:", <-done)
	// Output:
	// completed "paid 42" <nil>
	// stopped: <nil>
}
