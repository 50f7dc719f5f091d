package server_test

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/flowfabric/flowfabric/backend/sqlite"
	"github.com/flowfabric/flowfabric/internal/wire"
	"github.com/flowfabric/flowfabric/server"
)

// BenchmarkLifecycles runs whole lifecycles over HTTP, client and store in the
// same process: create, claim, complete, in batches of 100.
func BenchmarkLifecycles(b *testing.B) {
	store, err := sqlite.Open(b.Context(), sqlite.Config{})
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = store.Close() }()
	srv, err := server.New(store, server.Config{Logger: quiet(), APIToken: sharedToken})
	if err != nil {
		b.Fatal(err)
	}
	web := httptest.NewServer(srv)
	defer web.Close()
	defer func() { _ = srv.Shutdown(b.Context()) }()
	send := func(path string, body any) []byte {
		doc, err := json.Marshal(body)
		if err != nil {
			b.Fatal(err)
		}
		req, err := http.NewRequestWithContext(b.Context(), "POST", web.URL+path, bytes.NewReader(doc))
		if err != nil {
			b.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Authorization", "Bearer "+sharedToken)
		resp, err := web.Client().Do(req)
		if err != nil {
			b.Fatal(err)
		}
		defer func() { _ = resp.Body.Close() }()
		answer, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != 200 {
			b.Fatalf("%s: %d %v %s", path, resp.StatusCode, err, answer)
		}
		return answer
	}
	const batch = 100
	create := make([]fields, batch)
	for i := range create {
		create[i] = spec
	}
	b.ReportAllocs()
	for done := 0; done < b.N; {
		send("/v1/executions/batch", fields{"executions": create})
		var got wire.TasksResponse
		if err := wire.UnmarshalResponse(send("/v1/workers/w/tasks", claimBody.with(fields{"max_tasks": batch})), &got); err != nil {
			b.Fatal(err)
		}
		items := make([]fields, len(got.Tasks))
		for i, task := range got.Tasks {
			items[i] = fields{"execution_id": task.ExecutionID, "attempt_index": task.AttemptIndex, "fence": task.Fence, "payload": "b2s="}
		}
		send("/v1/workers/w/completions", fields{"items": items})
		done += len(got.Tasks)
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "lifecycles/s")
}
