package valkey

import (
	"fmt"
	"runtime"
	"sync/atomic"
	"testing"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/valkeytest"
)

func openBench(b *testing.B) *Store {
	b.Helper()
	return openTest(b, Config{Addrs: []string{valkeytest.Take(b).Addr()}, NoEngine: true})
}

func benchCreate() flowfabric.CreateExecutionArgs {
	return flowfabric.CreateExecutionArgs{Namespace: "bench", LaneID: "bench", Kind: "task", CreatorIdentity: "bench", Payload: make([]byte, 200)}
}

// held creates and claims executions.
func held(b *testing.B, s *Store, n int) []flowfabric.ClaimedExecution {
	b.Helper()
	tasks := make([]flowfabric.ClaimedExecution, n)
	for i := range tasks {
		res, err := flowfabric.CreateExecution(b.Context(), s, benchCreate())
		if err != nil {
			b.Fatal(err)
		}
		tasks[i], err = s.IssueGrantAndClaim(b.Context(), flowfabric.IssueGrantAndClaimArgs{ExecutionID: res.ExecutionID, WorkerID: "w",
			WorkerInstanceID: "w-1", LeaseTTLMs: 3_600_000})
		if err != nil {
			b.Fatal(err)
		}
	}
	return tasks
}

// callers runs f from so many goroutines.
func callers(b *testing.B, n int, f func(b *testing.B, i int) error) {
	var next atomic.Int64
	b.SetParallelism(max(1, n/runtime.GOMAXPROCS(0)))
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := f(b, int(next.Add(1)-1)); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

// BenchmarkFlights tells how many batches at once are worth while, by single
// renewals of many callers.
func BenchmarkFlights(b *testing.B) {
	for _, most := range []int{1, 2, 4} {
		for _, n := range []int{2, 16, 128, 1024} {
			b.Run(fmt.Sprintf("flights=%d/callers=%d", most, n), func(b *testing.B) {
				s := openBench(b)
				s.batches.renewals.most = most
				tasks := held(b, s, 256)
				b.ResetTimer()
				callers(b, n, func(b *testing.B, i int) error {
					t := &tasks[i%len(tasks)]
					_, err := flowfabric.RenewLease(b.Context(), s, flowfabric.RenewLeaseArgs{ExecutionID: t.ExecutionID, Fence: t.Fence})
					return err
				})
			})
		}
	}
}

// BenchmarkCreate creates one execution at a time, from a few callers and from
// many, and batches of 100.
func BenchmarkCreate(b *testing.B) {
	for _, n := range []int{2, 128} {
		b.Run(fmt.Sprintf("callers=%d", n), func(b *testing.B) {
			s := openBench(b)
			callers(b, n, func(b *testing.B, _ int) error {
				_, err := flowfabric.CreateExecution(b.Context(), s, benchCreate())
				return err
			})
		})
	}
	b.Run("batches of 100", func(b *testing.B) {
		s := openBench(b)
		items := make([]flowfabric.CreateExecutionArgs, 100)
		for i := range items {
			items[i] = benchCreate()
		}
		b.ReportAllocs()
		for b.Loop() {
			out, err := s.CreateExecutions(b.Context(), items)
			if err != nil || out[0].Err != nil {
				b.Fatal(err, out[0].Err)
			}
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/100, "ns/execution")
	})
}

// BenchmarkDescribe reads one execution with all that a snapshot shows.
func BenchmarkDescribe(b *testing.B) {
	s := openBench(b)
	tasks := held(b, s, 1)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.DescribeExecution(b.Context(), tasks[0].ExecutionID); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkDecodeState is a read without the store.
func BenchmarkDecodeState(b *testing.B) {
	src := source{core: fieldsOfCore("public_state active", "st Ar", "lane_id work", "namespace test", "created_at 1000", "attempts 1",
		"aid "+testAttempt, "lease_id "+testLease, "epoch 1", "lx 31000", "worker pool", "wi i",
		"started_at 1000", "bk 0123456789abcdef")}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := decodeState("bench", testID, &src); err != nil {
			b.Fatal(err)
		}
	}
}
