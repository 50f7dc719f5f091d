package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/flowfabric/flowfabric"
)

// Scenario 02.39 and the other limits of a request: refused, nothing asked of
// the store.
func TestClaimRefusesMalformedRequests(t *testing.T) {
	f := newFake()
	e := start(t, f, quiet)
	defer stop(t, e)
	ok := tasksArgs("a")
	ok.Capabilities = []string{strings.Repeat("c", 4096)}
	if _, err := e.ClaimTasks(t.Context(), ok); err != nil {
		t.Errorf("4,096 bytes of capabilities: %v", err)
	}
	before := f.claimCount()
	for field, change := range map[string]func(*flowfabric.ClaimTasksArgs){
		"worker_id":          func(a *flowfabric.ClaimTasksArgs) { a.WorkerID = "" },
		"worker_instance_id": func(a *flowfabric.ClaimTasksArgs) { a.WorkerInstanceID = "a b" },
		"lanes":              func(a *flowfabric.ClaimTasksArgs) { a.Lanes = nil },
		"lanes ":             func(a *flowfabric.ClaimTasksArgs) { a.Lanes = make([]flowfabric.LaneID, 65) },
		"lane_id":            func(a *flowfabric.ClaimTasksArgs) { a.Lanes = []flowfabric.LaneID{"a{"} },
		"namespace":          func(a *flowfabric.ClaimTasksArgs) { a.Namespace = "a b" },
		"max_tasks":          func(a *flowfabric.ClaimTasksArgs) { a.MaxTasks = 0 },
		"max_tasks ":         func(a *flowfabric.ClaimTasksArgs) { a.MaxTasks = 101 },
		"wait_ms":            func(a *flowfabric.ClaimTasksArgs) { a.WaitMs = 30_001 },
		"wait_ms ":           func(a *flowfabric.ClaimTasksArgs) { a.WaitMs = -1 },
		"lease_ttl_ms":       func(a *flowfabric.ClaimTasksArgs) { a.LeaseTTLMs = 99 },
		"lease_ttl_ms ":      func(a *flowfabric.ClaimTasksArgs) { a.LeaseTTLMs = 3_600_001 },
		"grant_ttl_ms":       func(a *flowfabric.ClaimTasksArgs) { a.GrantTTLMs = 60_001 },
		"grant_ttl_ms ":      func(a *flowfabric.ClaimTasksArgs) { a.GrantTTLMs = -1 },
	} {
		args := tasksArgs("a")
		change(&args)
		_, err := e.ClaimTasks(t.Context(), args)
		if flowfabric.CodeOf(err) != flowfabric.CodeInvalidInput || flowfabric.AsError(err).Detail("field") != strings.TrimSpace(field) {
			t.Errorf("%s: %v", field, err)
		}
	}
	for _, ttl := range []int64{0, 60_001} {
		args := grantArgs("a")
		args.GrantTTLMs = ttl
		if _, err := e.ClaimForWorker(t.Context(), args); !errors.Is(err, flowfabric.ErrInvalidInput) {
			t.Errorf("grant TTL %d: %v", ttl, err)
		}
	}
	args := tasksArgs("a")
	args.Capabilities = []string{strings.Repeat("c", 4097)}
	if _, err := e.ClaimTasks(t.Context(), args); !errors.Is(err, flowfabric.ErrInvalidCapabilities) {
		t.Errorf("4,097 bytes of capabilities: %v", err)
	}
	if n := f.claimCount(); n != before {
		t.Errorf("refused requests asked the store %d times", n-before)
	}
}

func TestClaimIsPassedOnInNormalForm(t *testing.T) {
	f := newFake()
	e := start(t, f, quiet)
	defer stop(t, e)
	args := tasksArgs("b", "a", "b")
	args.Capabilities = []string{"gpu", "cpu", "gpu"}
	args.Namespace = flowfabric.AnyNamespace
	if _, err := e.ClaimTasks(t.Context(), args); err != nil {
		t.Fatal(err)
	}
	got := f.args[0]
	if !slices.Equal(got.Lanes, []flowfabric.LaneID{"a", "b"}) || !slices.Equal(got.Capabilities, []string{"cpu", "gpu"}) || got.Namespace != "" || got.GrantTTLMs != 0 {
		t.Errorf("the store was asked %+v", got)
	}
	if !slices.Equal(args.Lanes, []flowfabric.LaneID{"b", "a", "b"}) {
		t.Error("the caller's lanes were changed")
	}
}

// Scenario 02.38: four eligible, ten asked for.
func TestClaimTasksTakesWhatThereIs(t *testing.T) {
	f := newFake()
	e := start(t, f, quiet)
	defer stop(t, e)
	for i := range 4 {
		f.add(newWork("a", "n", 10-i))
	}
	args := tasksArgs("a")
	args.MaxTasks, args.WaitMs = 10, 30_000
	res, err := e.ClaimTasks(t.Context(), args)
	if err != nil || len(res.Tasks) != 4 || res.More {
		t.Fatalf("got %d tasks, more %v, %v", len(res.Tasks), res.More, err)
	}
	if f.claimCount() != 1 {
		t.Errorf("asked the store %d times", f.claimCount())
	}
	grant, err := e.ClaimForWorker(t.Context(), grantArgs("a"))
	if err != nil || grant.Grant != nil || grant.More {
		t.Errorf("no_work: %+v, %v", grant, err)
	}
}

func TestErrorAfterFirstSuccessEndsTheBatch(t *testing.T) {
	f := &failLater{fakeStore: newFake()}
	f.add(newWork("a", "n", 1))
	cfg := quiet
	cfg.Logger = slog.New(slog.DiscardHandler)
	e, err := New(f, cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer stop(t, e)
	args := tasksArgs("a")
	args.MaxTasks = 2
	res, err := e.ClaimTasks(t.Context(), args)
	if err != nil || len(res.Tasks) != 1 {
		t.Errorf("got %d tasks, %v", len(res.Tasks), err)
	}
	if _, err = e.ClaimTasks(t.Context(), args); !errors.Is(err, flowfabric.ErrStoreUnavailable) {
		t.Errorf("an error with nothing taken: %v", err)
	}
}

type failLater struct{ *fakeStore }

func (f *failLater) ClaimCandidates(ctx context.Context, args flowfabric.ClaimCandidatesArgs) (flowfabric.ClaimCandidatesResult, error) {
	res, _ := f.fakeStore.ClaimCandidates(ctx, args)
	return res, flowfabric.NewError(flowfabric.CodeStoreUnavailable, "lost")
}

// What was claimed for a client that went away meanwhile is given back at once.
func TestClientGoneDuringTheClaim(t *testing.T) {
	f := newFake()
	e := start(t, f, quiet)
	defer stop(t, e)
	f.add(newWork("a", "n", 1), newWork("a", "n", 2))
	var gone context.CancelFunc
	f.onClaim = func(int) error { gone(); return nil }
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	gone = cancel
	if _, err := e.ClaimForWorker(ctx, grantArgs("a")); err != context.Canceled {
		t.Errorf("grant: %v", err)
	}
	if len(f.released) != 1 || f.released[0].WorkerID != "w" || f.released[0].GrantID == "" {
		t.Errorf("released %+v", f.released)
	}
	ctx2, cancel2 := context.WithCancel(t.Context())
	defer cancel2()
	gone = cancel2
	if _, err := e.ClaimTasks(ctx2, tasksArgs("a")); err != context.Canceled {
		t.Errorf("tasks: %v", err)
	}
	if len(f.revoked) != 1 || f.revoked[0].Reason != "worker_abandoned" || f.revoked[0].ExpectedLeaseID == "" || f.revoked[0].RevokedBy != "worker" {
		t.Errorf("revoked %+v", f.revoked)
	}
	if _, err := e.ClaimTasks(ctx2, tasksArgs("a")); err != context.Canceled {
		t.Errorf("gone before: %v", err)
	}
	if f.claimCount() != 2 {
		t.Errorf("claimed for a client that was gone before")
	}
}

func TestDrainingAnswersEmpty(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		e := start(t, f, quiet)
		defer stop(t, e)
		begun := time.Now()
		args := tasksArgs("a")
		args.WaitMs = 20_000
		parked := async(func() (flowfabric.ClaimTasksResult, error) { return e.ClaimTasks(t.Context(), args) })
		synctest.Wait()
		if err := e.SetDraining(t.Context(), true); err != nil || !e.Draining() {
			t.Fatal(err)
		}
		if r := <-parked; r.err != nil || len(r.v.Tasks) != 0 || time.Since(begun) != 0 {
			t.Errorf("waiter: %+v after %v", r, time.Since(begun))
		}
		f.offer(newWork("a", "n", 1))
		if res, err := e.ClaimTasks(t.Context(), tasksArgs("a")); err != nil || len(res.Tasks) != 0 {
			t.Errorf("draining: %+v, %v", res, err)
		}
		begun = time.Now()
		if res, err := e.ClaimTasks(t.Context(), args); err != nil || len(res.Tasks) != 0 || time.Since(begun) > time.Second {
			t.Errorf("draining, waiting: %+v, %v after %v", res, err, time.Since(begun))
		}
		if err := e.SetDraining(t.Context(), false); err != nil {
			t.Fatal(err)
		}
		if res, err := e.ClaimTasks(t.Context(), args); err != nil || len(res.Tasks) != 1 {
			t.Errorf("resumed: %+v, %v", res, err)
		}
	})
}

func TestShutdownAnswersWaitersEmpty(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		e := start(t, f, quiet)
		args := tasksArgs("a")
		args.WaitMs = 20_000
		var calls []chan answer[flowfabric.ClaimTasksResult]
		for range 10 {
			calls = append(calls, async(func() (flowfabric.ClaimTasksResult, error) { return e.ClaimTasks(t.Context(), args) }))
		}
		synctest.Wait()
		begun := time.Now()
		stop(t, e)
		for _, c := range calls {
			if r := <-c; r.err != nil || len(r.v.Tasks) != 0 {
				t.Errorf("waiter: %+v", r)
			}
		}
		if time.Since(begun) != 0 {
			t.Errorf("took %v", time.Since(begun))
		}
		if _, err := e.ClaimTasks(t.Context(), args); !errors.Is(err, flowfabric.ErrShuttingDown) {
			t.Errorf("after shutdown: %v", err)
		}
		if err := e.Start(t.Context()); !errors.Is(err, flowfabric.ErrShuttingDown) {
			t.Errorf("start after shutdown: %v", err)
		}
		if n := e.Stats().ClaimWaiters; n != 0 || len(f.watchers) != 0 {
			t.Errorf("%d waiters and %d watchers are left", n, len(f.watchers))
		}
	})
}

func TestShutdownRunsOutOfTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		e := start(t, f, quiet)
		hold := make(chan struct{})
		f.onClaim = func(int) error { <-hold; return nil }
		call := async(func() (flowfabric.ClaimTasksResult, error) { return e.ClaimTasks(t.Context(), tasksArgs("a")) })
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := e.Shutdown(ctx); !errors.Is(err, flowfabric.ErrShutdownTimeout) {
			t.Errorf("got %v", err)
		}
		close(hold)
		if r := <-call; r.err != nil {
			t.Errorf("the call in flight: %v", r.err)
		}
		stop(t, e) // a second call is harmless
	})
}

func TestObserverHearsOfClaims(t *testing.T) {
	f := newFake()
	var seen observed
	cfg := quiet
	cfg.Observer, cfg.MaxWaiters = &seen, 1
	e := start(t, f, cfg)
	defer stop(t, e)
	f.add(newWork("b", "n", 1))
	e.ClaimTasks(t.Context(), tasksArgs("a", "b"))
	e.ClaimForWorker(t.Context(), grantArgs("a", "b"))
	f.onClaim = func(int) error { return flowfabric.NewError(flowfabric.CodeStoreUnavailable, "down") }
	e.ClaimForWorker(t.Context(), grantArgs("a", "b"))
	if want := []string{"b granted", "a no_work", "a error"}; !slices.Equal(seen.claims, want) {
		t.Errorf("heard %q, want %q", seen.claims, want)
	}
}

type observed struct {
	mu     sync.Mutex
	claims []string
	cycles map[string]int
}

func (o *observed) ClaimRequest(lane flowfabric.LaneID, outcome string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.claims = append(o.claims, fmt.Sprint(lane, " ", outcome))
}

func (o *observed) ScannerCycle(name string, rows, errs int, took time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.cycles == nil {
		o.cycles = make(map[string]int)
	}
	o.cycles[name]++
}

func TestConfigIsChecked(t *testing.T) {
	for _, cfg := range []Config{
		{MaxWaits: -1},
		{Intervals: Intervals{Tick: 49 * time.Millisecond}},
		{Intervals: Intervals{FeedTrimmer: time.Hour + 1}},
	} {
		if _, err := New(newFake(), cfg); !errors.Is(err, flowfabric.ErrInvalidInput) {
			t.Errorf("%+v: %v", cfg, err)
		}
	}
}

type answer[T any] struct {
	v   T
	err error
}

// async makes a call in a goroutine of its own.
func async[T any](call func() (T, error)) chan answer[T] {
	c := make(chan answer[T], 1)
	go func() {
		v, err := call()
		c <- answer[T]{v, err}
	}()
	return c
}
