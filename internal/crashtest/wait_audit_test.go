package crashtest

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/flowfabric/flowfabric"
)

// waits is what the store holds of an execution's waits, and what was sent to it.
type waits struct {
	suspension *flowfabric.Suspension
	signals    []flowfabric.RecordedSignal
	open       []flowfabric.Waitpoint
	events     map[flowfabric.SignalID][]flowfabric.Event
	sent       []*delivery
}

// signal returns a recorded signal, nil when it is not there.
func (w *waits) signal(id flowfabric.SignalID) *flowfabric.RecordedSignal {
	for i := range w.signals {
		if w.signals[i].SignalID == id {
			return &w.signals[i]
		}
	}
	return nil
}

// checkWaits compares the waits of all executions with what was acknowledged of
// them.
func (a *auditor) checkWaits() {
	a.t.Helper()
	a.readFeed(flowfabric.FeedSignals, func(h *held, e flowfabric.Event) {
		if h.waits.events == nil {
			h.waits.events = make(map[flowfabric.SignalID][]flowfabric.Event)
		}
		h.waits.events[e.SignalID] = append(h.waits.events[e.SignalID], e)
	})
	for _, d := range a.journal.deliveries {
		if h := a.all[d.execution]; h != nil {
			h.waits.sent = append(h.waits.sent, d)
		} else if !a.journal.lossy {
			a.t.Errorf("a signal was sent to %s, which does not exist", d.execution)
		}
	}
	a.readWaits()
	for _, h := range a.all {
		a.checkWait(h)
	}
}

// readWaits reads suspensions, signals and open waitpoints.
func (a *auditor) readWaits() {
	a.t.Helper()
	work := make(chan *held)
	var readers sync.WaitGroup
	for range 8 {
		readers.Go(func() {
			for h := range work {
				if err := a.readWait(h); err != nil {
					a.t.Errorf("%s: %v", h.ExecutionID, err)
				}
			}
		})
	}
	for _, h := range a.all {
		work <- h
	}
	close(work)
	readers.Wait()
}

func (a *auditor) readWait(h *held) (err error) {
	ctx, w := a.t.Context(), &h.waits
	if w.suspension, err = a.client.GetSuspension(ctx, h.ExecutionID); err != nil {
		return err
	}
	if w.suspension == nil && len(w.sent) == 0 && len(w.events) == 0 {
		return nil
	}
	for s, err := range a.client.Signals(ctx, flowfabric.ListSignalsArgs{ExecutionID: h.ExecutionID, Limit: 1000}) {
		if err != nil {
			return err
		}
		w.signals = append(w.signals, s)
	}
	for p, err := range a.client.PendingWaitpoints(ctx, h.ExecutionID) {
		if err != nil {
			return err
		}
		w.open = append(w.open, p)
	}
	return nil
}

// checkWait checks that what is held of an execution's waits fits together: every
// wait is over, by one signal at most, and what was acknowledged of the signals
// is so.
func (a *auditor) checkWait(h *held) {
	a.t.Helper()
	w := &h.waits
	wrong := func(format string, args ...any) {
		a.t.Helper()
		a.t.Errorf("%s (%s): %s", h.ExecutionID, h.PublicState, fmt.Sprintf(format, args...))
	}
	if len(w.open) > 0 || w.suspension != nil && w.suspension.ClosedAt == 0 {
		wrong("has ended, with %d open waitpoints: %+v", len(w.open), w.suspension)
	}
	a.checkSignals(h, wrong)
	a.checkClosers(h, wrong)
	a.checkSeen(h, wrong)
	if a.journal.lossy {
		return
	}
	for _, d := range w.sent {
		checkDelivery(w, d, wrong)
	}
}

// checkSignals checks the recorded signals: numbered without a gap, none twice,
// none that nobody sent, and each told of once.
func (a *auditor) checkSignals(h *held, wrong func(string, ...any)) {
	w := &h.waits
	ids, keys := make(map[flowfabric.SignalID]bool), make(map[string]bool)
	for i, s := range w.signals {
		if s.Seq != uint64(i)+1 || ids[s.SignalID] {
			wrong("signal %d is %s, numbered %d", i, s.SignalID, s.Seq)
		}
		ids[s.SignalID] = true
		key := string(s.WaitpointID) + " " + s.IdempotencyKey
		if s.IdempotencyKey != "" && keys[key] {
			wrong("two signals have the idempotency key %s", key)
		}
		keys[key] = true
		if s.Effect == flowfabric.EffectBuffered {
			wrong("signal %s is still buffered", s.SignalID)
		}
		if s.SourceType == flowfabric.SourceTypeEngine { // a timeout's: nobody sent it, and the feed does not tell of it
			continue
		}
		if !slices.ContainsFunc(w.sent, func(d *delivery) bool { return d.signal.SignalID == s.SignalID && d.waitpoint == s.WaitpointID }) {
			wrong("nobody sent signal %s", s.SignalID)
		}
		told := 0
		for _, e := range w.events[s.SignalID] {
			if e.Effect == flowfabric.EffectDuplicateInFeeds {
				continue
			}
			told++
			if e.Effect != s.Effect && e.Effect != flowfabric.EffectBuffered || e.WaitpointID != s.WaitpointID {
				wrong("signal %s with effect %s is told of as %+v", s.SignalID, s.Effect, e)
			}
		}
		if told != 1 {
			wrong("signal %s is told of %d times", s.SignalID, told)
		}
	}
	for id := range w.events {
		if !ids[id] {
			wrong("signal %s is told of, but not recorded", id)
		}
	}
}

// checkClosers checks that one signal at most ended each wait, and that one did
// where nobody else could.
func (a *auditor) checkClosers(h *held, wrong func(string, ...any)) {
	w := &h.waits
	closed := make(map[flowfabric.SuspensionID]bool)
	waitpoints := make(map[flowfabric.WaitpointID]bool)
	for _, s := range w.signals {
		if s.Effect != flowfabric.EffectResumed {
			continue
		}
		if s.ConsumedBySuspensionID == "" || closed[s.ConsumedBySuspensionID] || waitpoints[s.WaitpointID] {
			wrong("signal %s ended suspension %q on waitpoint %s, as another did", s.SignalID, s.ConsumedBySuspensionID, s.WaitpointID)
		}
		closed[s.ConsumedBySuspensionID], waitpoints[s.WaitpointID] = true, true
	}
	suspends := 0
	for epoch, reason := range h.released {
		if reason != "suspend" {
			continue
		}
		before, next := h.claim(epoch), h.claim(epoch+1)
		if next == nil {
			timedOut := w.suspension != nil && strings.HasPrefix(string(w.suspension.CloseReason), "timed_out_")
			if h.PublicState != flowfabric.PublicCancelled && !timedOut {
				wrong("was suspended under epoch %d and never claimed again", epoch)
			}
			continue
		}
		suspends++
		if before == nil || next.Kind != flowfabric.EventResumed || next.AttemptID != before.AttemptID {
			wrong("was suspended under epoch %d; the next lease is %+v", epoch, next)
		}
	}
	if len(closed) < suspends && !a.journal.resumed[h.ExecutionID] {
		wrong("%d waits are over, %d of them by signals", suspends, len(closed))
	}
	if s := w.suspension; s != nil && s.CloseReason.BySignals() && !closed[s.SuspensionID] {
		wrong("no signal ended %+v", s)
	}
}

// checkSeen checks that the handler that completed saw the signals that ended the
// last wait of its attempt, and no others.
func (a *auditor) checkSeen(h *held, wrong func(string, ...any)) {
	var r Result
	if h.result == nil || json.Unmarshal(h.result.Payload, &r) != nil || len(h.attempts) == 0 {
		return
	}
	var want []flowfabric.SignalID
	last := h.attempts[len(h.attempts)-1]
	if s := h.waits.suspension; s != nil && s.AttemptID == last.AttemptID && s.CloseReason.BySignals() {
		want = s.SatisfierSignalIDs
	}
	if !slices.Equal(r.Signals, want) {
		wrong("completed with signals %v, the last wait ended by %v", r.Signals, want)
	}
}

// checkDelivery checks that what the sender of a signal was told is so.
func checkDelivery(w *waits, d *delivery, wrong func(string, ...any)) {
	for _, r := range d.acked {
		s := w.signal(r.SignalID)
		switch {
		case s == nil || s.WaitpointID != d.waitpoint:
			wrong("signal %s was acknowledged, but is lost: %+v, %+v", d.signal.SignalID, r, s)
		case r.Outcome == flowfabric.DeliverAccepted && r.SignalID != d.signal.SignalID:
			wrong("signal %s was acknowledged as %s", d.signal.SignalID, r.SignalID)
		case s.Effect != r.Effect && r.Effect != flowfabric.EffectBuffered:
			wrong("signal %s was acknowledged with effect %s and has %s", d.signal.SignalID, r.Effect, s.Effect)
		}
	}
	for _, code := range d.refused {
		if code != flowfabric.CodeWaitpointClosed && code != flowfabric.CodeTargetNotSignalable {
			wrong("signal %s was refused with %s", d.signal.SignalID, code)
		}
		if w.signal(d.signal.SignalID) != nil {
			wrong("signal %s was refused with %s, but is recorded", d.signal.SignalID, code)
		}
	}
}

// waitSummary tells what a journal holds of waits.
func (a *auditor) waitSummary() string {
	j := a.journal
	if len(j.deliveries) == 0 {
		return ""
	}
	effects := make(map[flowfabric.SignalEffect]int)
	refused := make(map[flowfabric.Code]int)
	closed := make(map[flowfabric.SuspensionCloseReason]int)
	duplicates := 0
	for _, d := range j.deliveries {
		for _, r := range d.acked {
			if r.Outcome == flowfabric.DeliverDuplicate {
				duplicates++
			}
		}
		for _, code := range d.refused {
			refused[code]++
		}
	}
	for _, h := range a.all {
		for _, s := range h.waits.signals {
			effects[s.Effect]++
		}
		if h.waits.suspension != nil {
			closed[h.waits.suspension.CloseReason]++
		}
	}
	satisfied := j.count(func(r Report) bool { return r.Op == OpSuspend && r.Satisfied })
	return fmt.Sprintf("%d suspends acknowledged, %d of them satisfied at once, %d pending waitpoints; last suspensions closed %v; "+
		"%d signals sent, recorded %v, %d duplicates, refused %v; ",
		j.accepted(OpSuspend), satisfied, j.accepted(OpWaitpoint), closed, len(j.deliveries), effects, duplicates, refused)
}
