package engine

import (
	"context"
	"time"

	"github.com/flowfabric/flowfabric"
)

// maxNamespaceChecks is up to how many namespaces of a class the safety rescan
// asks for one by one; beyond it asks for all, and a false yes costs one scan.
const maxNamespaceChecks = 8

// rescanLoop is the safety net below the events: once a second it looks whether
// there is work for anyone who waits, and wakes the longest waiting of each class
// that has some. One cheap read per class and lane, none without waiters, however
// many waiters a class has. (Specification 02, section 7.3.)
func (e *Engine) rescanLoop() {
	for {
		t := time.NewTimer(jittered(recheckEvery))
		select {
		case <-t.C:
		case <-e.stop:
			t.Stop()
			return
		}
		e.rescan(e.background)
	}
}

type workQuestion struct {
	lane         flowfabric.LaneID
	namespace    flowfabric.Namespace
	capabilities string
}

func (e *Engine) rescan(ctx context.Context) {
	classes := e.waiters.waiting()
	if len(classes) == 0 || e.drain.active() {
		return
	}
	answers := make(map[workQuestion]bool)
	for _, c := range classes {
		work, err := e.hasWork(ctx, c, answers)
		if err != nil {
			e.log.DebugContext(ctx, "safety rescan of waiting claims failed", "error", err)
			return
		}
		if work {
			e.waiters.wakeClass(c)
		}
	}
}

// hasWork reports whether the store shows a candidate that the class could take.
// Classes that differ in lanes or members only share the answers.
func (e *Engine) hasWork(ctx context.Context, c *class, answers map[workQuestion]bool) (bool, error) {
	namespaces := []flowfabric.Namespace{c.namespace}
	if c.namespace == "" && c.namespaces != nil && len(c.namespaces) <= maxNamespaceChecks {
		namespaces = c.namespaces
	}
	for _, lane := range c.lanes {
		for _, ns := range namespaces {
			q := workQuestion{lane: lane, namespace: ns, capabilities: c.key.capabilities}
			work, asked := answers[q]
			if !asked {
				ids, err := e.store.ListEligible(ctx, flowfabric.ListEligibleArgs{LaneID: lane, Namespace: ns, Capabilities: c.capabilities, Limit: 1})
				if err != nil {
					return false, err
				}
				work = len(ids) > 0
				answers[q] = work
			}
			if work {
				return true, nil
			}
		}
	}
	return false, nil
}
