package waitpoint_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/backend/sqlite"
	"github.com/flowfabric/flowfabric/waitpoint"
)

// A service takes callbacks on a route of its own.
func ExampleBridge() {
	ctx := context.Background()
	be, err := sqlite.Open(ctx, sqlite.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer be.Close()
	quiet := slog.New(slog.DiscardHandler)
	client := flowfabric.NewClient(be)
	mux := http.NewServeMux()
	mux.Handle("/hooks/{execution_id}/{waitpoint_id}", &waitpoint.Bridge{Client: client, Logger: quiet})
	service := httptest.NewServer(mux)
	defer service.Close()

	w, err := flowfabric.NewWorker(ctx, be, flowfabric.WorkerConfig{
		WorkerID: "shop", Lanes: []flowfabric.LaneID{"default"}, Logger: quiet,
	})
	if err != nil {
		log.Fatal(err)
	}
	defer w.Close()
	created, err := flowfabric.SubmitJSON(ctx, client, "order", "a book")
	if err != nil {
		log.Fatal(err)
	}
	tasks, err := w.ClaimTasks(ctx, 1)
	if err != nil || len(tasks) != 1 {
		log.Fatal(err)
	}
	s, err := tasks[0].Suspend(ctx, flowfabric.SuspendOptions{
		Condition: flowfabric.Single("payment", flowfabric.ByName("paid")),
	})
	if err != nil {
		log.Fatal(err)
	}

	// What the payment provider does, with the URL and the token it was given.
	payment := s.Waitpoints[0]
	url := service.URL + "/hooks/" + string(created.ExecutionID) + "/" + string(payment.WaitpointID)
	call := func(token string) {
		req, err := http.NewRequest(http.MethodPost, url, strings.NewReader(`{"signal_name": "paid", "idempotency_key": "payment-17"}`))
		if err != nil {
			log.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set(waitpoint.HeaderToken, token)
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			log.Fatal(err)
		}
		defer res.Body.Close()
		if _, err := io.Copy(io.Discard, res.Body); err != nil {
			log.Fatal(err)
		}
		fmt.Println(res.StatusCode)
	}
	call("k1:" + strings.Repeat("0", 64)) // a guess
	call(payment.Token.Reveal())
	call(payment.Token.Reveal()) // the provider repeats it

	seen, err := client.Inspect(ctx, created.ExecutionID)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(seen.PublicState)
	// Output:
	// 403
	// 202
	// 202
	// waiting
}
