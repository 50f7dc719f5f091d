package engine

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/flowfabric/flowfabric"
)

// waitFor makes a waiting claim in the background.
func waitFor(e *Engine, ctx context.Context, args flowfabric.ClaimTasksArgs) chan answer[flowfabric.ClaimTasksResult] {
	if args.WaitMs == 0 {
		args.WaitMs = 10_000
	}
	return async(func() (flowfabric.ClaimTasksResult, error) { return e.ClaimTasks(ctx, args) })
}

// Scenario 02.36: a waiting claim is answered by a create at once; an unsuitable
// one leaves it waiting until its time is up.
func TestWaitingClaimIsWoken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.blind = true
		e := start(t, f, quiet)
		defer stop(t, e)
		begun := time.Now()
		c := waitFor(e, t.Context(), tasksArgs("a"))
		synctest.Wait()
		f.offer(newWork("a", "n", 1, "gpu"))
		f.offer(newWork("b", "n", 1))
		synctest.Wait()
		if f.claimCount() != 1 {
			t.Errorf("unsuitable work caused %d scans", f.claimCount()-1)
		}
		time.Sleep(3 * time.Second)
		f.offer(newWork("a", "n", 2))
		if r := <-c; r.err != nil || len(r.v.Tasks) != 1 || time.Since(begun) != 3*time.Second {
			t.Errorf("got %+v after %v", r, time.Since(begun))
		}
		begun = time.Now()
		c = waitFor(e, t.Context(), tasksArgs("a"))
		if r := <-c; r.err != nil || len(r.v.Tasks) != 0 || time.Since(begun) != 10*time.Second {
			t.Errorf("got %+v after %v", r, time.Since(begun))
		}
	})
}

// Scenario 02.37: one create wakes exactly one of a hundred.
func TestNoHerd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		e := start(t, f, quiet)
		defer stop(t, e)
		done := make(chan int, 100)
		for i := range 100 {
			go func() {
				args := grantArgs("a")
				args.WaitMs = 10_000
				if res, err := e.ClaimForWorker(t.Context(), args); err == nil && res.Grant != nil {
					done <- i
				}
			}()
			synctest.Wait() // they come one after the other
		}
		before := f.claimCount()
		f.offer(newWork("a", "n", 1))
		synctest.Wait()
		if len(done) != 1 || <-done != 0 {
			t.Fatal("not exactly the one waiting longest got the grant")
		}
		if n := f.claimCount() - before; n != 1 {
			t.Errorf("one create caused %d scans", n)
		}
		if n := e.Stats().ClaimWaiters; n != 99 {
			t.Errorf("%d still wait", n)
		}
		// Three at once in one event: the three waiting longest.
		f.offer(newWork("a", "n", 1), newWork("a", "n", 2), newWork("a", "n", 3))
		synctest.Wait()
		if n := f.claimCount() - before; n != 4 || len(done) != 3 {
			t.Errorf("four creates caused %d scans, the last three woke %d", n, len(done))
		}
		for range 3 {
			if i := <-done; i > 3 {
				t.Errorf("waiter %d went before its turn", i)
			}
		}
	})
}

// A waiter that takes several is woken once for several.
func TestOneWaiterTakesABatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		e := start(t, f, quiet)
		defer stop(t, e)
		args := tasksArgs("a")
		args.MaxTasks = 10
		first := waitFor(e, t.Context(), args)
		synctest.Wait()
		second := waitFor(e, t.Context(), args)
		synctest.Wait()
		before := f.claimCount()
		var list []work
		for i := range 12 {
			list = append(list, newWork("a", flowfabric.Namespace(fmt.Sprint(i%2)), i))
		}
		f.offer(list...) // twelve events
		a, b := len((<-first).v.Tasks), len((<-second).v.Tasks)
		if a+b != 12 || min(a, b) != 2 {
			t.Errorf("they got %d and %d", a, b)
		}
		if n := f.claimCount() - before; n != 2 {
			t.Errorf("%d scans", n)
		}
	})
}

// A woken waiter whose time is up, or whose client is gone, passes on what it
// was woken for; so does one whose scan fails.
func TestWakeUpPassesOn(t *testing.T) {
	for _, how := range []string{"gone", "failed"} {
		t.Run(how, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFake()
				f.blind = true
				e := start(t, f, quiet)
				defer stop(t, e)
				ctx, cancel := context.WithCancel(t.Context())
				first := waitFor(e, ctx, tasksArgs("a"))
				synctest.Wait()
				second := waitFor(e, t.Context(), tasksArgs("a", "b"))
				synctest.Wait()
				f.onClaim = func(n int) error {
					if n != 3 {
						return nil
					}
					if how == "failed" {
						return flowfabric.NewError(flowfabric.CodeStoreUnavailable, "down")
					}
					cancel()
					return nil
				}
				f.offer(newWork("a", "n", 1))
				want := error(context.Canceled)
				if how == "failed" {
					want = flowfabric.ErrStoreUnavailable
				}
				if r := <-first; !errors.Is(r.err, want) {
					t.Errorf("the first: %+v", r)
				}
				synctest.Wait()
				if how == "failed" {
					if r := <-second; len(r.v.Tasks) != 1 {
						t.Errorf("the second: %+v", r)
					}
					return
				}
				// Claimed for a client that had gone: revoked, and the store then tells
				// that the work is there again.
				if len(f.revoked) != 1 {
					t.Fatalf("revoked %+v", f.revoked)
				}
				f.offer(newWork("a", "n", 1))
				if r := <-second; len(r.v.Tasks) != 1 {
					t.Errorf("the second: %+v", r)
				}
			})
		})
	}
}

// A waiter of wider coverage that takes older work leaves what it was woken for
// to the next.
func TestWorkLeftWakesTheNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.blind = true
		e := start(t, f, quiet)
		defer stop(t, e)
		wide := tasksArgs("a", "b")
		first := waitFor(e, t.Context(), wide)
		synctest.Wait()
		second := waitFor(e, t.Context(), tasksArgs("b"))
		synctest.Wait()
		f.add(newWork("a", "n", 1)) // an event that got lost
		f.offer(newWork("b", "n", 2))
		if r := <-first; len(r.v.Tasks) != 1 || r.v.Tasks[0].LaneID != "a" {
			t.Errorf("the first: %+v", r)
		}
		if r := <-second; len(r.v.Tasks) != 1 || r.v.Tasks[0].LaneID != "b" {
			t.Errorf("the second: %+v", r)
		}
	})
}

// A lost event costs at most a second, and looking out for it one cheap read per
// class of waiters.
func TestSafetyRescan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		e := start(t, f, quiet)
		defer stop(t, e)
		const n = 1000
		ctx, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		got := make(chan int, n)
		for range n {
			all.Go(func() {
				args := tasksArgs("a")
				args.WaitMs = 30_000
				if res, err := e.ClaimTasks(ctx, args); err == nil {
					got <- len(res.Tasks)
				}
			})
		}
		synctest.Wait()
		scans := f.claimCount()
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if f.claimCount() != scans {
			t.Errorf("idle waiters caused %d scans", f.claimCount()-scans)
		}
		if f.lookups < 9 || f.lookups > 12 {
			t.Errorf("%d look-ups in 10 s", f.lookups)
		}
		f.add(newWork("a", "n", 1)) // and nobody is told
		time.Sleep(time.Second)
		synctest.Wait()
		if len(got) != 1 || <-got != 1 {
			t.Error("a lost event was not made good within a second")
		}
		cancel()
		all.Wait()
		if e.Stats().ClaimWaiters != 0 {
			t.Error("waiters are left")
		}
		time.Sleep(3 * time.Second)
		if len(e.waiters.waiting()) != 0 || len(e.waiters.classes) != 0 || len(e.waiters.byLane) != 0 {
			t.Error("classes are left")
		}
	})
}

func TestTooManyWaiters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		cfg := quiet
		cfg.MaxWaiters = 2
		e := start(t, f, cfg)
		defer stop(t, e)
		first := waitFor(e, t.Context(), tasksArgs("a"))
		waitFor(e, t.Context(), tasksArgs("a"))
		synctest.Wait()
		before := f.claimCount()
		if r := <-waitFor(e, t.Context(), tasksArgs("a")); !errors.Is(r.err, flowfabric.ErrTooManyWaiters) || !flowfabric.IsRetryable(r.err) {
			t.Errorf("got %+v", r)
		}
		if f.claimCount() != before {
			t.Error("the refused one asked the store")
		}
		if _, err := e.ClaimTasks(t.Context(), tasksArgs("a")); err != nil {
			t.Errorf("a claim that does not wait: %v", err)
		}
		f.offer(newWork("a", "n", 1))
		<-first
		f.offer(newWork("a", "n", 1))
		if r := <-waitFor(e, t.Context(), tasksArgs("a")); r.err != nil {
			t.Errorf("after one has left: %v", r.err)
		}
	})
}

func TestMatchingOfNamespaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.blind = true
		e := start(t, f, quiet)
		defer stop(t, e)
		own, list := tasksArgs("a"), tasksArgs("a")
		own.Namespace = "own"
		list.Namespaces = []flowfabric.Namespace{"x", "y"}
		c1 := waitFor(e, t.Context(), own)
		synctest.Wait()
		c2 := waitFor(e, t.Context(), list)
		synctest.Wait()
		c3 := waitFor(e, t.Context(), tasksArgs("a"))
		synctest.Wait()
		before := f.claimCount()
		f.offer(newWork("a", "z", 1))
		if r := <-c3; len(r.v.Tasks) != 1 {
			t.Errorf("all namespaces: %+v", r)
		}
		f.offer(newWork("a", "y", 1))
		if r := <-c2; len(r.v.Tasks) != 1 {
			t.Errorf("listed namespaces: %+v", r)
		}
		f.offer(newWork("a", "own", 1))
		if r := <-c1; len(r.v.Tasks) != 1 {
			t.Errorf("own namespace: %+v", r)
		}
		if n := f.claimCount() - before; n != 3 {
			t.Errorf("%d scans for three", n)
		}
	})
}

// A lane that was enabled, or whose bound was raised, answers its waiters.
func TestLaneChangeWakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.blind = true
		e := start(t, f, quiet)
		defer stop(t, e)
		c := waitFor(e, t.Context(), tasksArgs("a"))
		synctest.Wait()
		f.add(newWork("a", "n", 1))
		f.tell(flowfabric.WakeEvent{Kind: flowfabric.WakeLane, LaneID: "b"})
		synctest.Wait()
		if len(c) != 0 {
			t.Error("woken by another lane")
		}
		f.tell(flowfabric.WakeEvent{Kind: flowfabric.WakeLane, LaneID: "a"})
		if r := <-c; len(r.v.Tasks) != 1 {
			t.Errorf("got %+v", r)
		}
	})
}

// An event between the scan and the wait is not missed.
func TestEventDuringTheScan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.blind = true
		e := start(t, f, quiet)
		defer stop(t, e)
		after := &afterClaim{fakeStore: f}
		e.store = after
		after.hook = func(n int) {
			if n == 1 { // the scan has found nothing and not yet answered
				f.offer(newWork("a", "n", 1))
			}
		}
		if r := <-waitFor(e, t.Context(), tasksArgs("a")); len(r.v.Tasks) != 1 {
			t.Errorf("got %+v", r)
		}
	})
}

type afterClaim struct {
	*fakeStore
	hook func(n int)
}

func (f *afterClaim) ClaimCandidates(ctx context.Context, args flowfabric.ClaimCandidatesArgs) (flowfabric.ClaimCandidatesResult, error) {
	res, err := f.fakeStore.ClaimCandidates(ctx, args)
	f.hook(f.claimCount())
	return res, err
}

// No interleaving of creates, claims, failures and clients going away leaves work
// beside a waiter that could take it. The safety rescan is blind here, so only
// events can bring them together.
func TestNoLostWakeUp(t *testing.T) {
	rounds := 300
	if testing.Short() {
		rounds = 50
	}
	for range rounds {
		synctest.Test(t, lostWakeUpRound)
	}
}

func lostWakeUpRound(t *testing.T) {
	f := newFake()
	f.blind, f.yield = true, true
	failures := rand.IntN(2)
	f.onClaim = func(int) error {
		if failures == 0 || rand.IntN(8) > 0 {
			return nil
		}
		return flowfabric.NewError(flowfabric.CodeStoreUnavailable, "now and then")
	}
	e := start(t, f, quiet)
	defer stop(t, e)
	lanes := []flowfabric.LaneID{"a", "b"}
	tokens := []string{"cpu", "gpu"}
	spaces := []flowfabric.Namespace{"", "x", "y"}
	type waiting struct {
		args flowfabric.ClaimTasksArgs
		done bool
	}
	var mu sync.Mutex
	var claimers []*waiting
	var cancels []context.CancelFunc
	got := 0
	for range 2 + rand.IntN(12) {
		args := tasksArgs(lanes[:1+rand.IntN(2)]...)
		if rand.IntN(3) == 0 {
			args.Lanes = lanes[1:]
		}
		args.Capabilities = tokens[:rand.IntN(3)]
		args.Namespace = spaces[rand.IntN(3)]
		args.MaxTasks = 1 + rand.IntN(3)
		args.WaitMs = 30_000
		w := &waiting{args: args}
		claimers = append(claimers, w)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		if rand.IntN(2) == 0 {
			cancels = append(cancels, cancel)
		}
		go func() {
			res, err := e.ClaimTasks(ctx, args)
			mu.Lock()
			defer mu.Unlock()
			w.done = true
			if err == nil {
				got += len(res.Tasks)
			}
		}()
	}
	if rand.IntN(2) == 0 {
		synctest.Wait() // they all wait when the first event comes
	}
	created := 0
	for range 1 + rand.IntN(3) {
		var list []work
		for range 1 + rand.IntN(5) {
			list = append(list, newWork(lanes[rand.IntN(2)], spaces[1+rand.IntN(2)], rand.IntN(100), tokens[:rand.IntN(3)]...))
		}
		created += len(list)
		go func() {
			for len(list) > 0 {
				n := 1 + rand.IntN(len(list))
				f.offer(list[:n]...)
				list = list[n:]
			}
		}()
	}
	for _, cancel := range cancels {
		go cancel()
	}
	synctest.Wait() // everything has come to rest, and no time has passed
	mu.Lock()
	defer mu.Unlock()
	left := f.left()
	for i := range left {
		for _, w := range claimers {
			if w.done {
				continue
			}
			for _, lane := range w.args.Lanes {
				if left[i].offeredTo(lane, w.args.Namespace, nil, w.args.Capabilities) {
					t.Fatalf("work %+v is left beside a waiter for lanes %q, namespace %q, capabilities %q", left[i], w.args.Lanes, w.args.Namespace, w.args.Capabilities)
				}
			}
		}
	}
	if f.mu.Lock(); got+len(left)+len(f.revoked) != created {
		t.Errorf("of %d created %d were claimed, %d revoked and %d left", created, got, len(f.revoked), len(left))
	}
	f.mu.Unlock()
}

func BenchmarkWaitingClaimWithWork(b *testing.B) {
	f := newFake()
	e := start(b, f, quiet)
	defer stop(b, e)
	args := tasksArgs("a")
	args.WaitMs = 20_000
	item := newWork("a", "n", 1)
	b.ReportAllocs()
	for b.Loop() {
		f.work = append(f.work[:0], item)
		f.args = f.args[:0]
		if res, err := e.ClaimTasks(b.Context(), args); err != nil || len(res.Tasks) != 1 {
			b.Fatal(res, err)
		}
	}
}

func BenchmarkEventWith10000Waiters(b *testing.B) {
	ws := newWaiters(10_000)
	for i := range 10_000 {
		args := &flowfabric.ClaimCandidatesArgs{Lanes: []flowfabric.LaneID{flowfabric.LaneID(fmt.Sprint("lane", i%10))}, Capabilities: []string{fmt.Sprint("cap", i%200)}, Max: 1}
		w, err := ws.register(args)
		if err != nil || !ws.park(w, nothingLeft) {
			b.Fatal(err)
		}
	}
	c := ws.byLane["lane3"][""][1]
	events := []flowfabric.WakeEvent{{Kind: flowfabric.WakeEligible, LaneID: "lane3", Namespace: "n", Required: c.capabilities, Count: 1}}
	b.ReportAllocs()
	for b.Loop() {
		ws.handle(events)
		w := c.busy[0] // the one woken looks and parks again
		<-w.wake
		ws.resume(w)
		ws.park(w, nothingLeft)
	}
}
