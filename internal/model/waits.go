package model

import (
	"maps"
	"slices"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/rules"
)

// waits is what an execution keeps of its waiting beside its state.
type waits struct {
	// waitpoints are all that were ever made.
	waitpoints map[flowfabric.WaitpointID]rules.Waitpoint
	// signals are all that were recorded, in order.
	signals []flowfabric.RecordedSignal
	dedup   map[dedupKey]dedupEntry
	replays map[replayKey]suspendReplay
}

type dedupKey struct {
	waitpoint flowfabric.WaitpointID
	key       string
}

type dedupEntry struct {
	signal flowfabric.SignalID
	until  flowfabric.Millis
}

type replayKey struct {
	lease flowfabric.LeaseID
	key   string
}

type suspendReplay struct {
	result flowfabric.SuspendResult
	until  flowfabric.Millis
}

// keep stores what a transition changed of the waiting.
func (w *waits) keep(id flowfabric.ExecutionID, state *rules.Wait, change *rules.WaitChange, now flowfabric.Millis) {
	if change == nil {
		return
	}
	if w.waitpoints == nil {
		w.waitpoints = make(map[flowfabric.WaitpointID]rules.Waitpoint)
		w.dedup = make(map[dedupKey]dedupEntry)
		w.replays = make(map[replayKey]suspendReplay)
	}
	for _, p := range change.Waitpoints {
		w.waitpoints[p.WaitpointID] = p
	}
	for _, g := range change.New {
		g.ExecutionID, g.Payload = id, slices.Clone(g.Payload)
		w.signals = append(w.signals, g)
	}
	for i := range change.Rewritten {
		if g := w.signal(change.Rewritten[i].SignalID); g != nil {
			g.Effect = change.Rewritten[i].Effect
		}
	}
	for _, consumed := range change.Consumed {
		if g := w.signal(consumed); g != nil {
			g.ConsumedAt, g.ConsumedBySuspensionID = now, state.Suspension.SuspensionID
		}
	}
}

func (w *waits) signal(id flowfabric.SignalID) *flowfabric.RecordedSignal {
	for i := range w.signals {
		if w.signals[i].SignalID == id {
			return &w.signals[i]
		}
	}
	return nil
}

// stored finds a waitpoint on a partition, whatever execution it is of.
func (m *Store) stored(part uint16, id flowfabric.WaitpointID) *rules.StoredWaitpoint {
	for exec, e := range m.execs {
		if exec.Partition() != part {
			continue
		}
		if p, there := e.waits.waitpoints[id]; there {
			return &rules.StoredWaitpoint{ExecutionID: exec, Waitpoint: p}
		}
	}
	return nil
}

// ordered returns the waitpoints in order of their ids.
func (w *waits) ordered() []flowfabric.WaitpointID {
	return slices.Sorted(maps.Keys(w.waitpoints))
}

// observed returns recorded signals as a resumed worker sees them.
func (w *waits) observed(ids []flowfabric.SignalID) []flowfabric.ResumeSignal {
	var recorded []flowfabric.RecordedSignal
	for _, id := range ids {
		if g := w.signal(id); g != nil {
			recorded = append(recorded, *g)
		}
	}
	return rules.ObservedSignals(recorded)
}
