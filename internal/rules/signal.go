package rules

import (
	"slices"

	"github.com/flowfabric/flowfabric"
)

// DeliverInput is what a store brings to a delivery.
type DeliverInput struct {
	Args flowfabric.DeliverSignalArgs // prepared
	// Target is the waitpoint of the id, as found; nil when there is none.
	Target *StoredWaitpoint
	// Same is the signal of the id that the execution has recorded already, Dedup
	// the first signal of a live entry for (waitpoint, idempotency key).
	Same, Dedup *flowfabric.RecordedSignal
	Ring        KeyRing
	// Approval: an operator delivers, the token is the stored one, and what is
	// missing is said openly. LaneID is the lane the operator named.
	Approval bool
	LaneID   flowfabric.LaneID
}

// DeliverSignal authenticates a signal, records it and evaluates it. s is nil for
// an unknown execution. A refused token leaves its mark on an existing one.
// (Specification 03, section 4.3.)
func DeliverSignal(s *State, in DeliverInput, now flowfabric.Millis) (flowfabric.DeliverSignalResult, Effects, error) {
	var none flowfabric.DeliverSignalResult
	if err := approvable(s, &in); err != nil {
		return none, Effects{}, err
	}
	if fx, err := authenticate(s, &in, now); err != nil {
		return none, fx, err
	}
	first := in.Dedup
	if in.Same != nil {
		if in.Same.WaitpointID != in.Args.WaitpointID {
			return none, Effects{}, flowfabric.NewError(flowfabric.CodeSignalIDConflict, "signal %s was sent to another waitpoint", in.Args.Signal.SignalID)
		}
		first = in.Same
	}
	t := begin(s, now)
	if first != nil {
		t.signalEvent(flowfabric.EventDeduped, first, flowfabric.EffectDuplicateInFeeds)
		t.fx.Changed = true // the event alone; the record stays as it is
		return flowfabric.DeliverSignalResult{Outcome: flowfabric.DeliverDuplicate, SignalID: first.SignalID, Effect: first.Effect}, t.fx, nil
	}
	if err := signalable(s, &in, now); err != nil {
		return none, Effects{}, err
	}
	g := t.record(&in)
	fx, err := t.finish()
	if err != nil {
		return none, fx, err
	}
	return flowfabric.DeliverSignalResult{Outcome: flowfabric.DeliverAccepted, SignalID: g.SignalID, Effect: g.Effect,
		RequiresConfirmation: g.Effect == flowfabric.EffectBuffered}, fx, nil
}

// approvable makes the checks that an operator's delivery has before the token.
// (Specification 03, section 4.4.)
func approvable(s *State, in *DeliverInput) error {
	switch {
	case !in.Approval:
		return nil
	case s == nil:
		return flowfabric.NewError(flowfabric.CodeExecutionNotFound, "no execution %s", in.Args.ExecutionID)
	case in.Target == nil || in.Target.ExecutionID != s.Exec.ExecutionID:
		return waitpointNotFound(in.Args.WaitpointID)
	case in.LaneID != s.Exec.LaneID:
		return flowfabric.NewError(flowfabric.CodeInvalidInput, "lane_mismatch: the execution is on another lane").
			With("field", "lane_id").With("reason", "lane_mismatch")
	}
	in.Args.Token = in.Target.Token
	return nil
}

// authenticate verifies the token before anything of the state is told.
// (Specification 03, section 5.3.)
func authenticate(s *State, in *DeliverInput, now flowfabric.Millis) (Effects, error) {
	known := s != nil && in.Target != nil && in.Target.ExecutionID == s.Exec.ExecutionID
	key := ""
	if in.Target != nil {
		key = in.Target.WaitpointKey
	}
	_, err := in.Ring.Verify(in.Args.Token, in.Args.ExecutionID, in.Args.WaitpointID, key, known, now)
	switch flowfabric.CodeOf(err) {
	case flowfabric.CodeMissingToken, flowfabric.CodeInvalidToken:
	default:
		return Effects{}, err
	}
	if s == nil {
		return Effects{}, err
	}
	t := begin(s, now)
	s.Exec.LastHMACValidationFailedAt = max(now, s.Exec.LastHMACValidationFailedAt)
	fx := t.settle()
	if fx.Err != nil {
		return Effects{}, fx.Err
	}
	return fx, err
}

// signalable makes the checks of state and limits. (Steps 4 and 5.)
func signalable(s *State, in *DeliverInput, now flowfabric.Millis) error {
	w := in.Target
	switch {
	case s.Exec.LifecyclePhase == flowfabric.PhaseTerminal:
		return flowfabric.NewError(flowfabric.CodeTargetNotSignalable, "the execution has ended").
			With("terminal_outcome", string(s.Exec.TerminalOutcome))
	case w.State.Final(), w.State == flowfabric.WaitpointPending && w.ExpiresAt <= now:
		return flowfabric.NewError(flowfabric.CodeWaitpointClosed, "waitpoint %s is closed", w.WaitpointID)
	}
	limit := uint64(deref(s.Policy.MaxSignalsPerExecution, flowfabric.DefaultMaxSignals))
	if s.Wait.LastSeq >= limit {
		return signalLimit("execution", limit)
	}
	if w.State == flowfabric.WaitpointPending && buffered(s.Wait, w.WaitpointID) >= flowfabric.MaxBufferedSignals {
		return signalLimit("waitpoint", flowfabric.MaxBufferedSignals)
	}
	return nil
}

func signalLimit(scope string, limit uint64) error {
	return flowfabric.NewError(flowfabric.CodeSignalLimitExceeded, "the %s has %d signals", scope, limit).
		With("scope", scope).With("limit", limit)
}

func buffered(w *Wait, id flowfabric.WaitpointID) (n int) {
	for i := range w.Buffered {
		if w.Buffered[i].WaitpointID == id {
			n++
		}
	}
	return n
}

// record keeps the signal, and does what its effect is. (Step 6.)
func (t *step) record(in *DeliverInput) *flowfabric.RecordedSignal {
	w := t.waiting()
	w.LastSeq++
	target := in.Target.Waitpoint
	a := &in.Args.Signal
	g := flowfabric.RecordedSignal{
		SignalID: a.SignalID, ExecutionID: t.s.Exec.ExecutionID, WaitpointID: target.WaitpointID, WaitpointKey: target.WaitpointKey,
		SignalName: a.Name, SignalCategory: a.Category, SourceType: a.SourceType, SourceIdentity: a.SourceIdentity,
		Payload: a.Payload, PayloadEncoding: a.PayloadEncoding, CorrelationID: a.CorrelationID, IdempotencyKey: a.IdempotencyKey,
		CreatedAt: a.CreatedAt, AcceptedAt: t.now, Seq: w.LastSeq,
	}
	x := w.Suspension
	switch {
	case target.State == flowfabric.WaitpointPending:
		g.Effect = flowfabric.EffectBuffered
		kept := g
		kept.Payload = nil
		w.Buffered = append(w.Buffered, &kept)
	case target.State == flowfabric.WaitpointSatisfied:
		g.Effect = flowfabric.EffectNoOp
	case x.EscalatedAt != 0:
		g.Effect = flowfabric.EffectNotInCondition
	default:
		g.Effect, x.Nodes = evaluate(&x.ResumeCondition, x.Nodes, &g)
	}
	t.fx.Wait.New = append(t.fx.Wait.New, g)
	if target.State == flowfabric.WaitpointActive || target.State == flowfabric.WaitpointSatisfied && x != nil && x.SuspensionID == target.SuspensionID {
		t.satisfy(x, &target, &g)
	} else {
		target.SignalCount++
		target.LastSignalAt = g.AcceptedAt
	}
	t.putWaitpoint(&target)
	t.signalEvent(eventOf(g.Effect), &g, g.Effect)
	if g.Effect == flowfabric.EffectResumed {
		keep := x.ResumePolicy.CloseWaitpointOnResume
		t.closeSuspension(flowfabric.ClosedResumed, keep != nil && !*keep)
		t.resume(x.ResumePolicy.ResumeDelayMs)
	}
	return &t.fx.Wait.New[len(t.fx.Wait.New)-1]
}

// eventOf is the kind of feed event of an effect. (Specification 04, section 5.)
func eventOf(e flowfabric.SignalEffect) string {
	switch e {
	case flowfabric.EffectResumed:
		return flowfabric.EventSatisfied
	case flowfabric.EffectAppended:
		return flowfabric.EventAppended
	case flowfabric.EffectBuffered:
		return flowfabric.EventBuffered
	}
	return flowfabric.EventNoOp
}

func (t *step) signalEvent(kind string, g *flowfabric.RecordedSignal, effect flowfabric.SignalEffect) {
	ev := t.event(flowfabric.FeedSignals, kind)
	ev.SignalID, ev.SignalName, ev.WaitpointID = g.SignalID, g.SignalName, g.WaitpointID
	ev.SourceIdentity, ev.Effect = g.SourceIdentity, effect
}

// ObservedSignals puts signals into the order of their acceptance, as a resumed
// worker sees them.
func ObservedSignals(recorded []flowfabric.RecordedSignal) []flowfabric.ResumeSignal {
	slices.SortFunc(recorded, func(a, b flowfabric.RecordedSignal) int { return int(int64(a.Seq) - int64(b.Seq)) })
	out := make([]flowfabric.ResumeSignal, len(recorded))
	for i := range recorded {
		out[i] = recorded[i].ResumeSignal()
	}
	return out
}
