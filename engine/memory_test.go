package engine_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"testing"
	"time"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/backend/sqlite"
	"github.com/flowfabric/flowfabric/engine"
)

// open returns a memory store with its engine running.
func open(t testing.TB, cfg sqlite.Config) *sqlite.Backend {
	t.Helper()
	b, err := sqlite.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

func create(t testing.TB, b *sqlite.Backend, lane flowfabric.LaneID, ns flowfabric.Namespace, policy string) flowfabric.ExecutionID {
	t.Helper()
	res, err := flowfabric.CreateExecution(t.Context(), b, flowfabric.CreateExecutionArgs{
		LaneID: lane, Namespace: ns, Kind: "k", CreatorIdentity: "test", Policy: []byte(policy),
	})
	if err != nil {
		t.Fatal(err)
	}
	return res.ExecutionID
}

func createMany(t testing.TB, b *sqlite.Backend, n int, lane flowfabric.LaneID, ns flowfabric.Namespace) {
	t.Helper()
	for n > 0 {
		items := make([]flowfabric.CreateExecutionArgs, min(n, flowfabric.MaxBatchItems))
		for i := range items {
			items[i] = flowfabric.CreateExecutionArgs{LaneID: lane, Namespace: ns, Kind: "k", CreatorIdentity: "test"}
		}
		out, err := b.CreateExecutions(t.Context(), items)
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range out {
			if o.Err != nil {
				t.Fatal(o.Err)
			}
		}
		n -= len(items)
	}
}

func grantFor(worker string, lanes ...flowfabric.LaneID) flowfabric.ClaimForWorkerArgs {
	return flowfabric.ClaimForWorkerArgs{WorkerID: "w", WorkerInstanceID: flowfabric.WorkerInstanceID(worker), Lanes: lanes, GrantTTLMs: 60_000}
}

func tasksFor(worker string, n int, lanes ...flowfabric.LaneID) flowfabric.ClaimTasksArgs {
	return flowfabric.ClaimTasksArgs{WorkerID: "w", WorkerInstanceID: flowfabric.WorkerInstanceID(worker), Lanes: lanes, MaxTasks: n, LeaseTTLMs: 60_000}
}

func (p *parked) waitForCount(t testing.TB, b *sqlite.Backend, n int) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for tick := time.NewTicker(time.Millisecond); b.Engine().Stats().ClaimWaiters != n; <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("%d claims wait, want %d", b.Engine().Stats().ClaimWaiters, n)
		}
	}
}

// parked are waiting claims.
type parked struct {
	wg      sync.WaitGroup
	results chan flowfabric.ClaimForWorkerResult
	cancel  context.CancelFunc
}

func park(t testing.TB, b *sqlite.Backend, n int, lane flowfabric.LaneID) *parked {
	ctx, cancel := context.WithCancel(t.Context())
	p := &parked{results: make(chan flowfabric.ClaimForWorkerResult, n), cancel: cancel}
	for i := range n {
		p.wg.Go(func() {
			args := grantFor(fmt.Sprint("w-", i), lane)
			args.WaitMs = 30_000
			res, err := b.ClaimForWorker(ctx, args)
			if err == nil {
				p.results <- res
			} else if err != context.Canceled {
				t.Error(err)
			}
		})
	}
	p.waitForCount(t, b, n)
	return p
}

func (p *parked) end() {
	p.cancel()
	p.wg.Wait()
}

// Scenario 02.36 on a real store: a create answers a waiting claim within 50 ms
// at the median, unsuitable work does not.
func TestWakeUpLatency(t *testing.T) {
	b := open(t, sqlite.Config{})
	p := park(t, b, 1, "a")
	create(t, b, "a", "n", `{"routing_requirements":{"required_capabilities":["gpu"]}}`)
	p.waitForCount(t, b, 1)
	if len(p.results) != 0 {
		t.Fatal("answered by work it cannot do")
	}
	p.end()
	slow := 0
	for range 50 {
		p := park(t, b, 1, "a")
		begun := time.Now()
		create(t, b, "a", "n", "")
		r := <-p.results
		if took := time.Since(begun); r.Grant == nil {
			t.Fatal("answered empty")
		} else if took > 50*time.Millisecond {
			slow++
		}
		p.end()
	}
	if slow > 25 {
		t.Errorf("%d of 50 wake-ups took more than 50 ms", slow)
	}
}

// Scenario 02.37 on a real store: 100 waiters, one create.
func TestHundredWaitersOneCreate(t *testing.T) {
	b := open(t, sqlite.Config{})
	p := park(t, b, 100, "a")
	defer p.end()
	for want := 99; want >= 97; want-- {
		create(t, b, "a", "n", "")
		if r := <-p.results; r.Grant == nil {
			t.Fatal("answered empty")
		}
		p.waitForCount(t, b, want)
	}
	if len(p.results) != 0 {
		t.Error("somebody was answered without work")
	}
}

// Scenario 02.40 on a real store.
func TestFairnessOnTheStore(t *testing.T) {
	b := open(t, sqlite.Config{})
	three := 3
	if _, err := b.UpdateLane(t.Context(), flowfabric.UpdateLaneArgs{LaneID: "heavy", SchedulingWeight: &three}); err != nil {
		t.Fatal(err)
	}
	createMany(t, b, 500, "heavy", "n")
	createMany(t, b, 500, "light", "n")
	got := map[flowfabric.LaneID]int{}
	for range 200 {
		res, err := b.ClaimForWorker(t.Context(), grantFor("w-1", "heavy", "light"))
		if err != nil || res.Grant == nil {
			t.Fatal(res, err)
		}
		got[res.Grant.LaneID]++
	}
	for range 2 { // and in batches, the same order
		res, err := b.ClaimTasks(t.Context(), tasksFor("w-1", 100, "heavy", "light"))
		if err != nil || len(res.Tasks) != 100 {
			t.Fatal(len(res.Tasks), err)
		}
		for _, task := range res.Tasks {
			got[task.LaneID]++
		}
	}
	if math.Abs(float64(got["heavy"]-300)) > 6 || math.Abs(float64(got["light"]-100)) > 2 {
		t.Errorf("400 grants went %v", got)
	}

	createMany(t, b, 10_000, "shared", "old")
	createMany(t, b, 50, "shared", "new")
	res, err := b.ClaimTasks(t.Context(), tasksFor("w-1", 100, "shared"))
	if err != nil || len(res.Tasks) != 100 {
		t.Fatal(len(res.Tasks), err)
	}
	for i, task := range res.Tasks[1:] {
		if task.Namespace == res.Tasks[i].Namespace {
			t.Fatalf("tasks %d and %d both went to %s", i, i+1, task.Namespace)
		}
	}
}

// A lane at its bound lets the next one in as soon as one ends.
func TestBoundedLaneRefillsAtOnce(t *testing.T) {
	b := open(t, sqlite.Config{})
	two := 2
	if _, err := b.UpdateLane(t.Context(), flowfabric.UpdateLaneArgs{LaneID: "a", MaxConcurrency: &two}); err != nil {
		t.Fatal(err)
	}
	const n = 40
	createMany(t, b, n, "a", "n")
	begun := time.Now()
	args := tasksFor("w-1", 10, "a")
	args.WaitMs = 30_000
	held := 0
	for done := 0; done < n; {
		res, err := b.ClaimTasks(t.Context(), args)
		if err != nil {
			t.Fatal(err)
		}
		if held += len(res.Tasks); held > 2 {
			t.Fatalf("%d executions of a lane bounded to 2 are held", held)
		}
		next := make(chan error, 1)
		for _, task := range res.Tasks {
			go func() {
				_, err := flowfabric.CompleteExecution(t.Context(), b, flowfabric.CompleteExecutionArgs{ExecutionID: task.ExecutionID, Fence: task.Fence})
				next <- err
			}()
		}
		for range res.Tasks {
			if err := <-next; err != nil {
				t.Fatal(err)
			}
			done++
			held--
		}
	}
	if took := time.Since(begun); took > 10*time.Second {
		t.Errorf("took %v", took)
	}
}

// The ticker makes a lapse visible and the work is offered again, to somebody who
// waits.
func TestLapsedLeaseReachesAWaiter(t *testing.T) {
	lapses := make(lapseObserver, 100)
	b := open(t, sqlite.Config{Engine: engine.Config{Observer: lapses}})
	id := create(t, b, "a", "n", "")
	args := tasksFor("dies", 1, "a")
	args.LeaseTTLMs = 100
	if res, err := b.ClaimTasks(t.Context(), args); err != nil || len(res.Tasks) != 1 {
		t.Fatal(res, err)
	}
	args = tasksFor("lives", 1, "a")
	args.WaitMs = 20_000
	res, err := b.ClaimTasks(t.Context(), args)
	if err != nil || len(res.Tasks) != 1 || res.Tasks[0].ExecutionID != id || res.Tasks[0].ClaimKind != flowfabric.ClaimReclaim {
		t.Fatalf("%+v, %v", res, err)
	}
	if n := <-lapses; n != 1 {
		t.Errorf("%d leases lapsed", n)
	}
	status, err := b.ListScanners(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range status {
		if s.Errors != 0 {
			t.Errorf("%+v", s)
		}
	}
}

// lapseObserver gets the rows of cycles that marked lapses.
type lapseObserver chan int

func (o lapseObserver) ClaimRequest(flowfabric.LaneID, string) {}

func (o lapseObserver) ScannerCycle(name string, rows, errs int, took time.Duration) {
	if name == "lease_expiry" && rows > 0 {
		o <- rows
	}
}

// WaitExecution and a blocked ReadFeed hear of a completion.
func TestWaitAndFeedOnTheStore(t *testing.T) {
	b := open(t, sqlite.Config{})
	id := create(t, b, "a", "n", "")
	now, err := b.ReadFeed(t.Context(), flowfabric.ReadFeedArgs{Feed: flowfabric.FeedCompletions})
	if err != nil {
		t.Fatal(err)
	}
	type waited struct {
		res flowfabric.WaitExecutionResult
		err error
	}
	wait := make(chan waited, 1)
	feed := make(chan error, 1)
	go func() {
		res, err := b.WaitExecution(t.Context(), flowfabric.WaitExecutionArgs{ExecutionID: id, WaitMs: 20_000})
		wait <- waited{res, err}
	}()
	go func() {
		res, err := b.ReadFeed(t.Context(), flowfabric.ReadFeedArgs{Feed: flowfabric.FeedCompletions, Start: now.NextCursor, BlockMs: 20_000})
		if err == nil && (len(res.Events) != 1 || res.Events[0].ExecutionID != id) {
			err = fmt.Errorf("read %+v", res)
		}
		feed <- err
	}()
	claimed, err := b.ClaimTasks(t.Context(), tasksFor("w-1", 1, "a"))
	if err != nil || len(claimed.Tasks) != 1 {
		t.Fatal(claimed, err)
	}
	task := claimed.Tasks[0]
	if _, err := flowfabric.CompleteExecution(t.Context(), b, flowfabric.CompleteExecutionArgs{ExecutionID: id, Fence: task.Fence, Result: []byte("done")}); err != nil {
		t.Fatal(err)
	}
	if w := <-wait; w.err != nil || string(w.res.Result) != "done" || w.res.Outcome != flowfabric.OutcomeSuccess {
		t.Errorf("wait: %+v", w)
	}
	if err := <-feed; err != nil {
		t.Errorf("feed: %v", err)
	}
}

// Many workers, many creates, each execution claimed exactly once and none left
// behind, with the safety rescan as the only other help.
func TestConcurrentClaimsOnTheStore(t *testing.T) {
	b := open(t, sqlite.Config{})
	const n, workers = 2000, 20
	var mu sync.Mutex
	seen := map[flowfabric.ExecutionID]bool{}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var wg sync.WaitGroup
	for i := range workers {
		wg.Go(func() {
			args := tasksFor(fmt.Sprint("w-", i), 1+i%7, "a", "b")
			if i%3 == 0 {
				args.Lanes = args.Lanes[:1]
			}
			args.WaitMs = 30_000
			for {
				res, err := b.ClaimTasks(ctx, args)
				if err != nil {
					if !errors.Is(err, context.Canceled) {
						t.Error(err)
					}
					return
				}
				mu.Lock()
				for _, task := range res.Tasks {
					if seen[task.ExecutionID] {
						t.Errorf("%s claimed twice", task.ExecutionID)
					}
					seen[task.ExecutionID] = true
				}
				if len(seen) == n {
					cancel()
				}
				mu.Unlock()
			}
		})
	}
	for i := range 4 {
		wg.Go(func() {
			for range n / 400 {
				createMany(t, b, 100, []flowfabric.LaneID{"a", "b"}[i%2], flowfabric.Namespace(fmt.Sprint("n", i)))
			}
		})
	}
	wg.Wait()
	if len(seen) != n {
		t.Errorf("%d of %d were claimed", len(seen), n)
	}
}

func BenchmarkClaimCycle(b *testing.B) {
	s := open(b, sqlite.Config{})
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		args := tasksFor("w-1", 10, "a")
		args.WaitMs = 10_000
		var left []flowfabric.ClaimedExecution
		for pb.Next() {
			if len(left) == 0 {
				createMany(b, s, 10, "a", "n")
				res, err := s.ClaimTasks(b.Context(), args)
				if err != nil {
					b.Fatal(err)
				}
				left = res.Tasks
			}
			left = left[1:]
		}
	})
}
