package backendtest

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/flowfabric/flowfabric"
)

// RunConcurrent lets many goroutines create, claim, complete, fail, suspend,
// signal, revoke and cancel at once, and checks at the end that nothing was lost,
// nothing ended twice, every wait was ended once, and that the completions feed
// tells of every ending exactly once.
func RunConcurrent(t *testing.T, open func(t *testing.T) Harness) {
	const creators, workers, cancellers, each = 4, 6, 2, 60
	s := newScene(t, open(t))
	s.seed()
	c := &crowd{s: s, endings: make(map[flowfabric.ExecutionID]map[flowfabric.TerminalOutcome]int)}
	c.creating.Store(creators)

	var wg sync.WaitGroup
	for i := range creators {
		wg.Go(func() { c.create(i, each) })
	}
	for i := range workers {
		wg.Go(func() { c.work(i) })
	}
	for i := range cancellers {
		wg.Go(func() { c.cancel(uint64(i)) })
	}
	wg.Wait()
	c.signalling.Wait()
	if err := c.err.Load(); err != nil {
		t.Fatal(*err)
	}
	s.equal("executions", len(c.ids), creators*each)
	c.checkEnds()
	c.checkFeed()
	c.checkWaits()
}

// crowd is what the goroutines of a concurrent run share.
type crowd struct {
	s *scene
	// creating counts creators still at work, living the executions not ended.
	creating, living atomic.Int64
	err              atomic.Pointer[string]
	signalling       sync.WaitGroup

	mu      sync.Mutex
	ids     []flowfabric.ExecutionID
	endings map[flowfabric.ExecutionID]map[flowfabric.TerminalOutcome]int
	waits   []*crowdWait
}

func (c *crowd) failed(format string, args ...any) {
	msg := fmt.Sprintf(format, args...)
	c.err.CompareAndSwap(nil, &msg)
}

// over reports that the run is to end: an error, or nothing left to do.
func (c *crowd) over() bool {
	return c.err.Load() != nil || c.s.ctx.Err() != nil || (c.creating.Load() == 0 && c.living.Load() == 0)
}

func (c *crowd) ended(id flowfabric.ExecutionID, outcome flowfabric.TerminalOutcome) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.endings[id] == nil {
		c.endings[id] = make(map[flowfabric.TerminalOutcome]int)
	}
	c.endings[id][outcome]++
	c.living.Add(-1)
}

// create creates n executions, each twice under one key.
func (c *crowd) create(creator, n int) {
	defer c.creating.Add(-1)
	for i := range n {
		key := withKey(fmt.Sprintf("%d/%d", creator, i))
		c.living.Add(1)
		first, err := c.s.tryCreate(key, withPolicy(retryAtOnce), onPartition(uint16(i%8)))
		if err != nil {
			c.failed("create: %v", err)
			return
		}
		again, err := c.s.tryCreate(key, withPolicy(retryAtOnce))
		if err != nil || again.Outcome != flowfabric.OutcomeDuplicate || again.ExecutionID != first.ExecutionID {
			c.failed("repeated create: %+v, %v", again, err)
			return
		}
		c.mu.Lock()
		c.ids = append(c.ids, first.ExecutionID)
		c.mu.Unlock()
	}
}

func (c *crowd) work(n int) {
	rnd := rand.New(rand.NewPCG(7, uint64(n)))
	w := worker{id: "pool", instance: flowfabric.WorkerInstanceID(fmt.Sprint("i-", n))}
	for !c.over() {
		args := tasksArgs(w, 1+rnd.IntN(8))
		args.WaitMs = 50
		got, err := c.s.Backend.ClaimTasks(c.s.ctx, args)
		if err != nil {
			c.failed("claim: %v", err)
			return
		}
		for _, task := range got.Tasks {
			c.run(rnd, task)
		}
	}
}

// run ends, retries or gives up one task; losing it to a canceller is no error.
func (c *crowd) run(rnd *rand.Rand, task flowfabric.ClaimedExecution) {
	switch n := rnd.IntN(12); {
	case n > 9:
		c.suspend(task, n == 10)
	case n == 0:
		_, err := c.s.Backend.RevokeLease(c.s.ctx, flowfabric.RevokeLeaseArgs{ExecutionID: task.ExecutionID, ExpectedLeaseID: task.Fence.LeaseID})
		c.tolerate("revoke", err)
		if _, err := c.s.tryComplete(task.ExecutionID, task.Fence); err == nil {
			c.failed("%s was completed after its lease was revoked", task.ExecutionID)
		}
	case n < 3:
		got, err := c.s.tryFail(task, "")
		c.tolerate("fail", err)
		if err == nil && got.Outcome == flowfabric.FailTerminal {
			c.ended(task.ExecutionID, flowfabric.OutcomeFailed)
		}
	default:
		if n < 6 {
			_, err := c.s.renew(task, testTTL)
			c.tolerate("renew", err)
		}
		got, err := c.s.tryComplete(task.ExecutionID, task.Fence)
		c.tolerate("complete", err)
		if err != nil {
			return
		}
		if got.Replayed {
			c.failed("the first completion of %s is a repeat", task.ExecutionID)
		}
		c.ended(task.ExecutionID, flowfabric.OutcomeSuccess)
		if again, err := c.s.tryComplete(task.ExecutionID, task.Fence); err != nil || !again.Replayed {
			c.failed("repeated completion of %s: %+v, %v", task.ExecutionID, again, err)
		}
	}
}

// tolerate takes losing a race to a canceller for what it is.
func (c *crowd) tolerate(op string, err error) {
	if err == nil || flowfabric.CodeOf(err) == flowfabric.CodeExecutionNotActive {
		return
	}
	c.failed("%s: %v", op, err)
}

// cancel cancels about a tenth of the executions.
func (c *crowd) cancel(seed uint64) {
	rnd := rand.New(rand.NewPCG(11, seed))
	for done := 0; done < 12 && !c.over(); done++ {
		c.mu.Lock()
		var id flowfabric.ExecutionID
		if len(c.ids) > 0 {
			id = c.ids[rnd.IntN(len(c.ids))]
		}
		c.mu.Unlock()
		if id == "" {
			continue
		}
		got, err := c.s.Backend.CancelExecution(c.s.ctx, flowfabric.CancelExecutionArgs{ExecutionID: id, Source: flowfabric.SourceOperatorOverride, Reason: "r"})
		c.tolerate("cancel", err)
		if err == nil && got.Outcome == flowfabric.CancelCancelled {
			c.ended(id, flowfabric.OutcomeCancelled)
		}
	}
}

// checkEnds checks that every execution ended once, as its last caller was told.
func (c *crowd) checkEnds() {
	s := c.s
	s.t.Helper()
	for _, id := range c.ids {
		d := s.describe(id)
		s.that(d.LifecyclePhase == flowfabric.PhaseTerminal, "%s is %s", id, d.PublicState)
		s.equal("endings of "+string(id), c.endings[id], map[flowfabric.TerminalOutcome]int{d.TerminalOutcome: 1})
		attempts := s.attempts(id)
		s.equal("attempts of "+string(id), len(attempts), int(d.TotalAttemptCount))
		for i, a := range attempts {
			s.equal("index", a.AttemptIndex, uint32(i))
			s.that(a.Final(), "attempt %d of %s is %s", i, id, a.AttemptState)
		}
	}
	lane, err := s.Backend.GetLane(s.ctx, testLane)
	s.ok(err)
	total := int64(0)
	for state, n := range lane.Counts {
		s.that(state.Terminal() || n == 0, "%d executions of the lane are %s", n, state)
		total += n
	}
	s.equal("counted in the lane", total, int64(len(c.ids)))
}

// checkFeed checks that the feeds tell the same, with numbers without gaps.
func (c *crowd) checkFeed() {
	s := c.s
	s.t.Helper()
	seqs := make(map[uint16][]uint64)
	told := make(map[flowfabric.ExecutionID]map[flowfabric.TerminalOutcome]int)
	for _, e := range s.readAll(flowfabric.ReadFeedArgs{Feed: flowfabric.FeedCompletions, Start: flowfabric.FeedStartEarliest, Limit: 1000}) {
		p, seq := splitEventID(s, e.EventID)
		seqs[p] = append(seqs[p], seq)
		if told[e.ExecutionID] == nil {
			told[e.ExecutionID] = make(map[flowfabric.TerminalOutcome]int)
		}
		told[e.ExecutionID][e.Outcome]++
	}
	s.equal("endings in the feed", told, c.endings)
	for p, got := range seqs {
		s.that(slices.IsSorted(got), "partition %d: events out of order", p)
		s.equal(fmt.Sprint("last seq of partition ", p), got[len(got)-1], uint64(len(got)))
	}
	// Every lease that was given was ended, in good order or by a revocation.
	open := 0
	for _, e := range s.readAll(flowfabric.ReadFeedArgs{Feed: flowfabric.FeedLeases, Start: flowfabric.FeedStartEarliest, Limit: 1000}) {
		switch e.Kind {
		case flowfabric.EventAcquired, flowfabric.EventResumed, flowfabric.EventReclaimed:
			open++
		case flowfabric.EventReleased, flowfabric.EventRevoked, flowfabric.EventExpired:
			open--
		}
	}
	s.equal("leases never ended", max(0, open), 0)
}
