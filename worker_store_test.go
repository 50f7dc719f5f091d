package flowfabric_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/flowfabric/flowfabric"
)

// lossy loses the answer of every other claim, after it has taken effect.
type lossy struct {
	flowfabric.Backend
	claims atomic.Int32
}

func (b *lossy) ClaimTasks(ctx context.Context, a flowfabric.ClaimTasksArgs) (flowfabric.ClaimTasksResult, error) {
	r, err := b.Backend.ClaimTasks(ctx, a)
	if err == nil && len(r.Tasks) > 0 && b.claims.Add(1)%2 == 1 {
		return flowfabric.ClaimTasksResult{}, flowfabric.NewError(flowfabric.CodeOutcomeUnknown, "the answer was lost")
	}
	return r, err
}

// TestLostClaimsOnTheStore adopts what the embedded store shows as held.
func TestLostClaimsOnTheStore(t *testing.T) {
	be := open()
	defer be.Close()
	w := newWorker(be, func(c *flowfabric.WorkerConfig) {
		c.Middleware = []flowfabric.Middleware{func(b flowfabric.Backend) flowfabric.Backend { return &lossy{Backend: b} }}
	})
	if err := flowfabric.Handle(w, "double", func(_ context.Context, _ *flowfabric.Task, n int) (int, error) { return 2 * n, nil }); err != nil {
		t.Fatal(err)
	}
	defer start(w)()
	ctx, client := t.Context(), flowfabric.NewClient(be)
	var ids []flowfabric.ExecutionID
	for n := range 20 {
		created, err := flowfabric.SubmitJSON(ctx, client, "double", n)
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, created.ExecutionID)
	}
	for n, id := range ids {
		ended, err := client.Wait(ctx, id)
		if err != nil || string(ended.Result) != fmt.Sprint(2*n) {
			t.Errorf("%d: %s, %v", n, ended.Result, err)
		}
		if s, err := client.Inspect(ctx, id); err != nil || s.TotalAttemptCount != 1 {
			t.Errorf("%d: %v attempts, %v", n, s.TotalAttemptCount, err)
		}
	}
}

// TestWorkerDies: a worker that neither renews nor deregisters loses its lease;
// another one takes the execution over, and the first one's write is refused.
func TestWorkerDies(t *testing.T) {
	be := open()
	defer be.Close()
	ctx, client := t.Context(), flowfabric.NewClient(be)
	created, err := client.Submit(ctx, flowfabric.CreateExecutionArgs{Kind: "work"})
	if err != nil {
		t.Fatal(err)
	}
	dead, err := be.ClaimTasks(ctx, flowfabric.ClaimTasksArgs{
		WorkerID: "dead", WorkerInstanceID: "dead", Lanes: []flowfabric.LaneID{"default"}, MaxTasks: 1, LeaseTTLMs: 100,
	})
	if err != nil || len(dead.Tasks) != 1 {
		t.Fatal(err, dead)
	}
	w := newWorker(be)
	kinds := make(chan flowfabric.ClaimKind, 1)
	_ = flowfabric.HandleRaw(w, "work", func(_ context.Context, task *flowfabric.Task, _ []byte) ([]byte, error) {
		kinds <- task.ClaimKind()
		return []byte("1"), nil
	})
	defer start(w)()
	ended, err := client.Wait(ctx, created.ExecutionID)
	if err != nil || ended.PublicState != flowfabric.PublicCompleted {
		t.Fatalf("%v, %v", ended, err)
	}
	if kind := <-kinds; kind != flowfabric.ClaimReclaim {
		t.Errorf("claimed as %s", kind)
	}
	_, err = flowfabric.CompleteExecution(ctx, be, flowfabric.CompleteExecutionArgs{
		ExecutionID: created.ExecutionID, Fence: dead.Tasks[0].Fence, Source: flowfabric.SourceLeaseHolder,
	})
	if !errors.Is(err, flowfabric.ErrExecutionNotActive) {
		t.Errorf("the dead worker's write: %v", err)
	}
}

// TestRevokedWhileRunning: the handler's context ends with lease_revoked at the
// next renewal.
func TestRevokedWhileRunning(t *testing.T) {
	be := open()
	defer be.Close()
	ctx, client := t.Context(), flowfabric.NewClient(be)
	w := newWorker(be, func(c *flowfabric.WorkerConfig) { c.LeaseTTL = time.Second })
	defer w.Close()
	created, err := client.Submit(ctx, flowfabric.CreateExecutionArgs{Kind: "work"})
	if err != nil {
		t.Fatal(err)
	}
	tasks, err := w.ClaimTasks(ctx, 1)
	if err != nil || len(tasks) != 1 {
		t.Fatal(err)
	}
	if _, err := client.Admin().RevokeLease(ctx, flowfabric.RevokeLeaseArgs{ExecutionID: created.ExecutionID}); err != nil {
		t.Fatal(err)
	}
	<-tasks[0].Context().Done()
	if cause := context.Cause(tasks[0].Context()); !errors.Is(cause, flowfabric.ErrLeaseRevoked) {
		t.Errorf("cause %v", cause)
	}
	if err := tasks[0].Complete(ctx, nil); !errors.Is(err, flowfabric.ErrLeaseRevoked) {
		t.Errorf("complete: %v", err)
	}
}

// TestListsOnTheStore walks the executions of all partitions page by page.
func TestListsOnTheStore(t *testing.T) {
	be := open()
	defer be.Close()
	ctx, client := t.Context(), flowfabric.NewClient(be)
	items := make([]flowfabric.CreateExecutionArgs, 500)
	for i := range items {
		items[i] = flowfabric.CreateExecutionArgs{Kind: "work", Tags: map[string]string{"t.parity": fmt.Sprint(i % 2)}}
	}
	if _, err := client.SubmitBatch(ctx, items); err != nil {
		t.Fatal(err)
	}
	for _, limit := range []int{7, 50, 1000} {
		seen := make(map[flowfabric.ExecutionID]bool)
		for e, err := range client.Executions(ctx, flowfabric.ExecutionQuery{Limit: limit, Tags: map[string]string{"t.parity": "1"}}) {
			if err != nil {
				t.Fatal(err)
			}
			seen[e.ExecutionID] = true
		}
		if len(seen) != 250 {
			t.Errorf("limit %d: %d executions", limit, len(seen))
		}
	}
	var lanes []flowfabric.LaneID
	for lane, err := range client.Lanes(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		lanes = append(lanes, lane.LaneID)
	}
	if len(lanes) != 1 || lanes[0] != flowfabric.DefaultLane {
		t.Errorf("lanes %v", lanes)
	}
}
