package crashtest

import (
	"math/rand/v2"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/flowfabric/flowfabric"
)

// TestWorkersKilledUnderLoad kills workers a hundred times and replaces them,
// and lets others sleep past their leases and write when they wake. Whatever a
// worker writes under a lease that is not its own any more must not count.
func TestWorkersKilledUnderLoad(t *testing.T) {
	s, j := newStation(t), newJournal(t)
	s.start()
	b := s.connect()
	workers := newCrew(t, s.url(), "crash", j, "-lease-ttl", leaseTTL.String(), "-claim-wait", "1s", "-tasks", "4")
	stop := make(chan struct{})
	var clients sync.WaitGroup
	for range 2 {
		l := &load{t: t, journal: j, station: s, backend: s.connect(), stop: stop, limit: 60,
			acts: slices.Concat([]Act{ActComplete, ActLate, ActLate, ActLate, ActRetry, ActDelay, ActFail}, waitActs), maxWork: 250, slow: 20}
		clients.Go(l.run)
	}
	sender := startSender(t, j, nil, s.connect(), s.connect())
	hands := make([]*hand, 4)
	for i := range hands {
		hands[i] = workers.hire()
	}
	asleep, late := 0, 0
	for n := range kills() {
		h := rand.IntN(len(hands))
		if n%12 == 3 {
			asleep++
			late += sleepPastLease(t, b, j, hands[h])
		}
		j.awaitAcks(1+rand.IntN(30), time.Duration(10+rand.IntN(150))*time.Millisecond)
		hands[h].kill()
		hands[h] = workers.hire()
	}
	close(stop)
	clients.Wait()
	last := time.Now()
	awaitDrained(t, b, leaseTTL+longestDelay+settling)
	t.Logf("%s after the last kill", time.Since(last).Round(time.Millisecond))
	sender.stop()
	for _, h := range hands {
		h.awaitReady(t)
		h.dismiss(t)
	}
	a := audit(t, b, j)
	t.Logf("%d workers killed, %d slept past their leases and wrote %d times too late; %s", kills(), asleep, late, a.summary())
	if late == 0 && !testing.Short() {
		t.Error("nothing was ever written too late")
	}
	s.close(a)
}

// sleepPastLease stops a worker that holds leases until they have lapsed, or
// until others hold them, and lets it go on. It returns how many completions of
// the worker were refused then.
func sleepPastLease(t *testing.T, b flowfabric.Backend, j *journal, h *hand) (late int) {
	t.Helper()
	h.awaitReady(t)
	leases := func() []flowfabric.ClaimedExecution {
		held, err := b.ListWorkerLeases(t.Context(), flowfabric.ListWorkerLeasesArgs{WorkerInstanceID: h.instance, Limit: 100})
		if err != nil {
			t.Fatal(err)
		}
		return held.Tasks
	}
	refused := func() int {
		return j.count(func(r Report) bool { return r.Instance == h.instance && r.Op == OpComplete && r.Code != "" })
	}
	eventually(t, patience, "the worker holds nothing", func() bool { return len(leases()) > 0 })
	h.signal(syscall.SIGSTOP)
	held := leases()
	before := refused()
	eventually(t, patience, "the leases of a worker that sleeps do not lapse", func() bool { return len(leases()) == 0 })
	if rand.IntN(3) > 0 {
		eventually(t, patience, "the work of a worker that sleeps is not taken over", func() bool {
			return takenOver(t, b, held)
		})
	}
	h.signal(syscall.SIGCONT)
	if len(held) > 0 {
		j.await(leaseTTL, func() bool { return refused() > before })
	}
	return refused() - before
}

// takenOver reports whether every execution has another lease by now, or has
// ended.
func takenOver(t *testing.T, b flowfabric.Backend, held []flowfabric.ClaimedExecution) bool {
	t.Helper()
	for _, h := range held {
		e, err := b.DescribeExecution(t.Context(), h.ExecutionID)
		if err != nil {
			t.Fatal(err)
		}
		if e.CurrentLease == nil && !e.PublicState.Terminal() || e.CurrentLease != nil && e.CurrentLease.LeaseEpoch <= h.Fence.LeaseEpoch {
			return false
		}
	}
	return true
}
