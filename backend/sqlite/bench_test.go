package sqlite_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"path/filepath"
	"sync"
	"testing"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/backend/sqlite"
)

// BenchmarkLifecycle measures whole lifecycles of 4 KiB executions on a file:
// submit all, then drain, 16 workers, in batches.
func BenchmarkLifecycle(b *testing.B) {
	for _, size := range []int{1, 16, 64} {
		b.Run(fmt.Sprintf("batch=%d", size), func(b *testing.B) {
			ctx := context.Background()
			be, err := sqlite.Open(ctx, sqlite.Config{Path: filepath.Join(b.TempDir(), "flow.db")})
			if err != nil {
				b.Fatal(err)
			}
			defer be.Close()
			payload := make([]byte, 4096)
			_, _ = rand.Read(payload)
			b.ReportAllocs()
			b.ResetTimer()
			each(b.N, size, func(n int) {
				items := make([]flowfabric.CreateExecutionArgs, n)
				for i := range items {
					items[i] = flowfabric.CreateExecutionArgs{Namespace: "bench", LaneID: "default", Kind: "bench", CreatorIdentity: "bench", Payload: payload}
				}
				out, err := be.CreateExecutions(ctx, items)
				if err != nil {
					panic(err)
				}
				for _, o := range out {
					if o.Err != nil {
						panic(o.Err)
					}
				}
			})
			submitted := b.Elapsed()
			each(b.N, size, func(n int) {
				res, err := be.ClaimTasks(ctx, flowfabric.ClaimTasksArgs{WorkerID: "w", WorkerInstanceID: "w-1", Lanes: []flowfabric.LaneID{"default"},
					Namespace: "bench", MaxTasks: n, LeaseTTLMs: 30000})
				if err != nil {
					panic(err)
				}
				items := make([]flowfabric.CompleteExecutionArgs, len(res.Tasks))
				for i, t := range res.Tasks {
					items[i] = flowfabric.CompleteExecutionArgs{ExecutionID: t.ExecutionID, Fence: t.Fence}
				}
				if len(items) == 0 {
					return
				}
				out, err := be.CompleteExecutions(ctx, items)
				if err != nil {
					panic(err)
				}
				for _, o := range out {
					if o.Err != nil {
						panic(o.Err)
					}
				}
			})
			b.StopTimer()
			total := b.Elapsed()
			b.ReportMetric(float64(b.N)/submitted.Seconds(), "submit/s")
			b.ReportMetric(float64(b.N)/(total-submitted).Seconds(), "drain/s")
			b.ReportMetric(float64(b.N)/total.Seconds(), "lifecycles/s")
		})
	}
}

// each splits total into calls of at most size over 16 goroutines.
func each(total, size int, call func(n int)) {
	var mu sync.Mutex
	left := total
	take := func() int {
		mu.Lock()
		defer mu.Unlock()
		n := min(size, left)
		left -= n
		return n
	}
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for n := take(); n > 0; n = take() {
				call(n)
			}
		})
	}
	wg.Wait()
}

// BenchmarkClaimManyBuckets measures claims of one task, and its revocation,
// over many non-empty buckets that the worker covers: the number of buckets must
// not show.
func BenchmarkClaimManyBuckets(b *testing.B) {
	for _, buckets := range []int{1, 100, 1_000, 4_000} {
		b.Run(fmt.Sprintf("buckets=%d", buckets), func(b *testing.B) {
			ctx := context.Background()
			be, err := sqlite.Open(ctx, sqlite.Config{})
			if err != nil {
				b.Fatal(err)
			}
			defer be.Close()
			caps := make([]string, 250)
			for i := range caps {
				caps[i] = fmt.Sprintf("c%03d", i)
			}
			items := make([]flowfabric.CreateExecutionArgs, 4_000)
			for i := range items {
				n := i % buckets
				policy := fmt.Sprintf(`{"routing_requirements":{"required_capabilities":["c%03d","c%03d"]}}`, n%125, 125+n/125)
				items[i] = flowfabric.CreateExecutionArgs{Namespace: "bench", LaneID: "default", Kind: "bench", CreatorIdentity: "bench", Policy: []byte(policy)}
			}
			for len(items) > 0 {
				out, err := be.CreateExecutions(ctx, items[:100])
				if err != nil {
					b.Fatal(err)
				}
				for _, o := range out {
					if o.Err != nil {
						b.Fatal(o.Err)
					}
				}
				items = items[100:]
			}
			b.ResetTimer()
			for b.Loop() {
				res, err := be.ClaimTasks(ctx, flowfabric.ClaimTasksArgs{WorkerID: "w", WorkerInstanceID: "w-1", Lanes: []flowfabric.LaneID{"default"},
					Namespace: "bench", Capabilities: caps, MaxTasks: 1, LeaseTTLMs: 30000})
				if err != nil || len(res.Tasks) != 1 {
					b.Fatal(len(res.Tasks), err)
				}
				if _, err := be.RevokeLease(ctx, flowfabric.RevokeLeaseArgs{ExecutionID: res.Tasks[0].ExecutionID}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
