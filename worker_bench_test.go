package flowfabric

import (
	"context"
	"sync/atomic"
	"testing"
)

// instantBackend hands out tasks without limit and takes every completion.
type instantBackend struct {
	*fakeBackend
	left      atomic.Int64
	completed atomic.Int64
	want      int64
	done      chan struct{}
}

func (b *instantBackend) ClaimTasks(ctx context.Context, a ClaimTasksArgs) (ClaimTasksResult, error) {
	n := min(int64(a.MaxTasks), b.left.Load())
	if n <= 0 {
		<-ctx.Done()
		return ClaimTasksResult{}, ctx.Err()
	}
	b.left.Add(-n)
	tasks := make([]ClaimedExecution, n)
	for i := range tasks {
		tasks[i] = ClaimedExecution{ExecutionID: "{fp:0}:x", Kind: "work", Fence: Fence{LeaseID: NewLeaseID()}, StoreTime: 1, LeaseExpiresAt: 30_001}
	}
	return ClaimTasksResult{Tasks: tasks}, nil
}

func (b *instantBackend) CompleteExecutions(_ context.Context, items []CompleteExecutionArgs) ([]Item[CompleteExecutionResult], error) {
	if b.completed.Add(int64(len(items))) == b.want {
		close(b.done)
	}
	return make([]Item[CompleteExecutionResult], len(items)), nil
}

// BenchmarkTask measures what a worker itself costs for one short task: claim,
// handler, completion.
func BenchmarkTask(b *testing.B) {
	backend := &instantBackend{fakeBackend: newFake(), want: int64(b.N), done: make(chan struct{})}
	config := testConfig(100)
	w, err := NewWorker(context.Background(), backend, config)
	if err != nil {
		b.Fatal(err)
	}
	_ = HandleRaw(w, "work", func(context.Context, *Task, []byte) ([]byte, error) { return nil, nil })
	ctx, cancel := context.WithCancel(context.Background())
	finished := make(chan error, 1)
	backend.left.Store(int64(b.N))
	b.ReportAllocs()
	b.ResetTimer()
	go func() { finished <- w.Run(ctx) }()
	<-backend.done
	b.StopTimer()
	cancel()
	<-finished
}
