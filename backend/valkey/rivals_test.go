package valkey

import (
	"sync"
	"testing"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/valkeytest"
)

// leased makes executions, so many on each partition, whose leases have lapsed.
func (r *lossRig) leased(perPartition int) (n int) {
	r.t.Helper()
	for range perPartition * testPartitions {
		x := r.run()
		x.lane = "lapsed"
		x.claim()
		n++
	}
	return n
}

// setClock sets the clock of the store and what stores go by.
func (r *lossRig) setClock(now flowfabric.Millis, stores ...*Backend) {
	r.t.Helper()
	for _, b := range stores {
		if err := b.SetTestClock(r.ctx, int64(now)); err != nil {
			r.t.Fatal(err)
		}
	}
}

// expiries counts the leases that the feed says have expired.
func (r *lossRig) expiries() (n int) {
	r.t.Helper()
	for at := flowfabric.FeedStartEarliest; ; {
		page, err := r.direct.ReadFeed(r.ctx, flowfabric.ReadFeedArgs{Feed: flowfabric.FeedLeases, Start: at, Limit: flowfabric.MaxFeedLimit})
		if err != nil {
			r.t.Fatal(err)
		}
		for _, e := range page.Events {
			if e.Kind == flowfabric.EventExpired {
				n++
			}
		}
		if at = page.NextCursor; !page.HasMore {
			return n
		}
	}
}

// Chapter 07, scenario 46: servers that tick the same partitions at once count
// each expiry once.
func TestExpiriesAreCountedOnce(t *testing.T) {
	r := newLossRig(t)
	want := r.leased(20)
	r.setClock(testEpoch+40_000, r.direct, r.lossy)
	var mu sync.Mutex
	var wg sync.WaitGroup
	counted := 0
	for _, b := range []*Backend{r.direct, r.lossy, r.direct, r.lossy} {
		wg.Go(func() {
			for range 3 * foreignEvery {
				res, err := b.Tick(r.ctx, flowfabric.TickArgs{Limit: 7})
				if err != nil || res.Errors > 0 {
					t.Errorf("tick: %+v, %v", res, err)
				}
				mu.Lock()
				counted += res.Duties["lease_expiry"]
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if got := r.expiries(); counted != want || got != want {
		t.Errorf("%d expiries counted, %d told, want %d", counted, got, want)
	}
	r.clean()
}

// Chapter 07, scenario 47: what a server does not do any more another one does,
// within 4 of its intervals and before it knows.
func TestShareOfADeadServerIsServed(t *testing.T) {
	r := newLossRig(t)
	want := r.leased(2)
	alive := r.open(r.server.Addr()) // it knows of the others, which tick no more
	own := 0
	for p := range uint16(testPartitions) {
		if alive.mine(p) {
			own++
		}
	}
	if own == testPartitions {
		t.Fatal("the server takes itself to be alone")
	}
	r.setClock(testEpoch+40_000, alive, r.direct)
	counted := 0
	for range foreignEvery {
		res, err := alive.Tick(r.ctx, flowfabric.TickArgs{})
		if err != nil {
			t.Fatal(err)
		}
		counted += res.Duties["lease_expiry"]
	}
	if counted != want {
		t.Errorf("%d of %d expiries in %d ticks", counted, want, foreignEvery)
	}
}

// Chapter 07, scenario 52, and section 4.2: at maxmemory no operation that may
// write has any effect, and all of them work again when there is room.
func TestEveryOperationMeetsAFullStore(t *testing.T) {
	r := newLossRigOn(t, valkeytest.Start(t, valkeytest.Options{}))
	for _, op := range append(lostOps(), lostWaitOps()...) {
		t.Run(op.name, func(t *testing.T) {
			r.t = t
			calm, x := r.run(), r.run()
			for _, y := range []*lostRun{calm, x} {
				if op.setup != nil {
					op.setup(y)
				}
			}
			before := x.effects()
			r.server.Must("CONFIG", "SET", "maxmemory", "1mb")
			_, err := op.do(x, r.lossy)
			r.server.Must("CONFIG", "SET", "maxmemory", "0")
			full := x.effects()
			if e := flowfabric.AsError(err); e == nil || e.Code != flowfabric.CodeStoreFull || e.Class != flowfabric.ClassCapacity {
				t.Errorf("full: %v", err)
			}
			if full != before {
				t.Errorf("a refused call:%s", difference(full, before))
			}
			if _, err := op.do(x, r.lossy); err != nil {
				t.Errorf("with room again: %v", err)
			}
			if _, err := op.do(calm, r.direct); err != nil {
				t.Fatal(err)
			}
			if got, want := x.effects(), calm.effects(); got != want {
				t.Errorf("afterwards:%s", difference(got, want))
			}
		})
	}
	r.t = t
	r.clean()
}
