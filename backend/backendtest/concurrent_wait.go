package backendtest

import (
	"fmt"

	"github.com/flowfabric/flowfabric"
)

// crowdWait is one suspension of a concurrent run.
type crowdWait struct {
	at address
	// told counts what the signallers were told of their deliveries.
	told map[string]int
}

// suspend lets the task wait for a signal; early lets the signal come first,
// perhaps. Losing the task to a canceller is no error.
func (c *crowd) suspend(task flowfabric.ClaimedExecution, early bool) {
	condition := flowfabric.Single("go", flowfabric.ByName("ready"))
	w := &crowdWait{told: make(map[string]int)}
	var opts []suspendOption
	if early {
		p, err := c.s.tryPending(pendingArgs(task, "go"))
		c.tolerate("pending waitpoint", err)
		if err != nil {
			return
		}
		w.at = address{task.ExecutionID, p.WaitpointID, p.WaitpointKey, p.Token}
		c.expect(w)
		opts = append(opts, onPending(w.at))
	}
	got, err := c.s.trySuspend(task, condition, opts...)
	c.tolerate("suspend", err)
	switch {
	case err != nil:
	case got.Outcome == flowfabric.SuspendAlreadySatisfied:
		if len(got.Signals) != 1 {
			c.failed("%s: satisfied by %d signals", task.ExecutionID, len(got.Signals))
		}
		_, err := c.s.tryComplete(task.ExecutionID, task.Fence)
		c.tolerate("complete", err)
		if err == nil {
			c.ended(task.ExecutionID, flowfabric.OutcomeSuccess)
		}
	case !early:
		b := got.Waitpoints[0]
		w.at = address{task.ExecutionID, b.WaitpointID, b.WaitpointKey, b.Token}
		c.expect(w)
	}
}

// expect lets three signallers deliver to a wait at once: each one signal under
// one key, twice, and another one of its own, which is not the one waited for.
func (c *crowd) expect(w *crowdWait) {
	c.mu.Lock()
	c.waits = append(c.waits, w)
	c.mu.Unlock()
	for n := range 3 {
		c.signalling.Go(func() {
			c.tell(w, "other", keyed(fmt.Sprint("other-", n)))
			c.tell(w, "ready", keyed("ready"))
			c.tell(w, "ready", keyed("ready"))
		})
	}
}

func (c *crowd) tell(w *crowdWait, name string, opts ...signalOption) {
	got, err := c.s.tryDeliver(w.at, name, opts...)
	label := name + " " + string(got.Outcome) + " " + string(got.Effect)
	switch flowfabric.CodeOf(err) {
	case "":
		if err != nil {
			c.failed("signal: %v", err)
		}
	case flowfabric.CodeWaitpointClosed, flowfabric.CodeTargetNotSignalable:
		label = name + " late"
	default:
		c.failed("signal: %v", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	w.told[label]++
}

// checkWaits checks that every wait ended at most once by its signal, that repeats
// were told so, and that signals and events tell the same.
func (c *crowd) checkWaits() {
	s := c.s
	s.t.Helper()
	s.that(len(c.waits) > 0, "nothing ever waited")
	resumed := make(map[flowfabric.ExecutionID]int)
	for _, w := range c.waits {
		accepted := 0
		for label, n := range w.told {
			switch label {
			case "ready accepted resume_condition_satisfied", "ready accepted buffered_for_pending_waitpoint":
				accepted += n
			}
		}
		s.that(accepted <= 1, "waitpoint %s took its signal %d times: %v", w.at.waitpoint, accepted, w.told)
		if accepted == 0 {
			s.that(w.told["ready late"] == 6, "waitpoint %s never heard its signal: %v", w.at.waitpoint, w.told)
		}
		satisfied := 0
		for _, g := range s.listSignals(flowfabric.ListSignalsArgs{ExecutionID: w.at.id, WaitpointID: w.at.waitpoint}) {
			if g.Effect == flowfabric.EffectResumed {
				satisfied++
			}
		}
		s.that(satisfied <= 1, "waitpoint %s was satisfied %d times", w.at.waitpoint, satisfied)
		resumed[w.at.id] += w.told["ready accepted resume_condition_satisfied"]
	}
	told := make(map[flowfabric.ExecutionID]int)
	for _, e := range s.readAll(flowfabric.ReadFeedArgs{
		Feed: flowfabric.FeedSignals, Start: flowfabric.FeedStartEarliest, Limit: 1000, Filter: flowfabric.FeedFilter{Kinds: []string{flowfabric.EventSatisfied}},
	}) {
		told[e.ExecutionID]++
	}
	for id, n := range resumed {
		s.equal("resumes in the feed of "+string(id), told[id], n)
		s.equal("open waitpoints", s.open(id), "")
	}
}
