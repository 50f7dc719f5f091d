package crashtest

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/flowfabric/flowfabric"
)

// passing is the life of an execution whose worker dies at a point of its first
// wait, and what must be left of it.
type passing struct {
	Point
	act Act
	// attempts is how many attempts it takes at least: a worker that dies suspended
	// leaves its attempt to the next one, one that dies with a lease does not.
	attempts int
	// dead is what the signals for the attempt that died have come to.
	dead flowfabric.SignalEffect
}

// passings are the instants between every two steps of suspending and resuming.
func passings() []passing {
	return []passing{
		{Point: PointCreated, act: ActWaitPending, attempts: 2, dead: flowfabric.EffectNeverActivated},
		{Point: PointBuffered, act: ActWaitPending, attempts: 2, dead: flowfabric.EffectNeverActivated},
		{Point: PointSatisfied, act: ActWaitPending, attempts: 2, dead: flowfabric.EffectResumed},
		{Point: PointSending, act: ActWait, attempts: 1},
		{Point: PointSending, act: ActWaitBare, attempts: 1},
		{Point: PointUnheard, act: ActWait, attempts: 1},
		{Point: PointUnheard, act: ActWaitBare, attempts: 1},
		{Point: PointSuspended, act: ActWaitBare, attempts: 1},
		{Point: PointResumed, act: ActWait, attempts: 2, dead: flowfabric.EffectResumed},
		{Point: PointCompleting, act: ActWait, attempts: 2, dead: flowfabric.EffectResumed},
	}
}

// Chapter 03, sections 3.2 and 4.2: a worker is killed between every two steps of
// a wait. Whatever it leaves, the execution completes, and every signal has one
// effect: that of the attempt it was for. A signal for a waitpoint on which nobody
// suspended never acts, and the new attempt's own waitpoint takes the next one.
func TestWorkerKilledBetweenStepsOfWait(t *testing.T) {
	s, j := newStation(t), newJournal(t)
	s.start()
	b := s.connect()
	sender := plainSender(t, j, s.connect())
	plans := make(map[flowfabric.ExecutionID]passing)
	for n, p := range slices.Concat(passings(), passings(), passings()) {
		c := j.begin()
		payload, err := json.Marshal(Plan{Serial: c.serial, Act: p.act, Wait: Waits()[n/len(passings())], Waits: 1, Die: p.Point})
		if err != nil {
			t.Fatal(err)
		}
		created, err := flowfabric.CreateExecution(t.Context(), b, flowfabric.CreateExecutionArgs{Namespace: Namespace, LaneID: "default", Kind: Kind,
			CreatorIdentity: "crash", Payload: payload, Tags: map[string]string{serialTag: serialText(c.serial)}})
		if !j.asked(c, created, err) {
			t.Fatal(err)
		}
		plans[created.ExecutionID] = p
	}
	mortals := newCrew(t, s.url(), "mortal", j, "-lease-ttl", leaseTTL.String(), "-claim-wait", "100ms", "-tasks", "1", "-mortal")
	hands := []*hand{mortals.hire(), mortals.hire(), mortals.hire()}
	began := time.Now()
	eventually(t, 2*patience, "not everything has ended", func() bool {
		for i, h := range hands {
			select {
			case <-h.done:
				hands[i] = mortals.hire()
			default:
			}
		}
		return backlog(t.Context(), b) == 0
	})
	t.Logf("%d workers in %s", mortals.started, time.Since(began).Round(time.Millisecond))
	sender.stop()
	for _, h := range hands {
		h.awaitReady(t)
		h.dismiss(t)
	}
	a := audit(t, b, j)
	dead := make(map[Point]int)
	for _, r := range j.reports {
		if r.Op == OpDying {
			dead[r.Die]++
			plans[r.Execution].check(t, a.all[r.Execution])
		}
	}
	for _, p := range passings() {
		if dead[p.Point] == 0 {
			t.Errorf("no worker died at %s", p.Point)
		}
	}
	t.Logf("died: %v", dead)
	t.Log(a.summary())
	s.close(a)
}

// check checks what became of an execution.
func (p passing) check(t *testing.T, h *held) {
	t.Helper()
	wrong := func(format string, args ...any) {
		t.Helper()
		t.Errorf("%s, whose worker died at %s by %s: %s", h.ExecutionID, p.Point, p.act, fmt.Sprintf(format, args...))
	}
	if h.PublicState != flowfabric.PublicCompleted {
		wrong("is %s", h.PublicState)
		return
	}
	attempts := len(h.attempts)
	if attempts < p.attempts {
		wrong("took %d attempts, want %d", attempts, p.attempts)
	}
	// The signals to each waitpoint, in the order the waitpoints were made.
	byWaitpoint, order := make(map[flowfabric.WaitpointID][]flowfabric.SignalEffect), []flowfabric.WaitpointID{}
	for _, s := range h.waits.signals {
		if byWaitpoint[s.WaitpointID] == nil {
			order = append(order, s.WaitpointID)
		}
		byWaitpoint[s.WaitpointID] = append(byWaitpoint[s.WaitpointID], s.Effect)
	}
	if len(order) == 0 || len(order) > attempts {
		wrong("signals came to %d waitpoints in %d attempts", len(order), attempts)
		return
	}
	if last := byWaitpoint[order[len(order)-1]]; last[len(last)-1] != flowfabric.EffectResumed {
		wrong("the last wait's signals are %v", last)
	}
	if p.dead == "" {
		return
	}
	first := byWaitpoint[order[0]]
	if len(order) > 1 && (first[len(first)-1] != p.dead || p.dead == flowfabric.EffectNeverActivated && first[0] != p.dead) {
		wrong("the signals of the attempt that died are %v, want %s", first, p.dead)
	}
	if len(order) < 2 && p.Point != PointCreated {
		wrong("no signals came for the attempt that died")
	}
}
