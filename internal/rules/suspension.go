package rules

import (
	"slices"
	"strconv"

	"github.com/flowfabric/flowfabric"
)

// SuspendInput is what a store brings to a suspend.
type SuspendInput struct {
	Args flowfabric.SuspendArgs // prepared
	// Stored are the waitpoints that the bindings name, in their order, as found in
	// the store whatever execution they are of; nil where there is none.
	Stored []*StoredWaitpoint
	Ring   KeyRing
}

// SuspendReplayTTL is how long the outcome of a suspend with an idempotency key is
// kept, in milliseconds. (Specification 03, section 4.2.)
func SuspendReplayTTL(timeoutAt, now flowfabric.Millis) int64 {
	if timeoutAt == 0 {
		return flowfabric.MaxSuspendReplayTTLMs
	}
	ttl := int64(timeoutAt-now) + flowfabric.SuspendReplayGraceMs
	return min(max(ttl, flowfabric.SuspendReplayGraceMs), flowfabric.MaxSuspendReplayTTLMs)
}

// Suspend gives the lease up and waits, unless buffered signals already satisfy
// the condition: then the lease is kept. The store has looked for the replay of
// an earlier call. Signals in the result come without payloads. (Specification
// 03, section 4.2.)
func Suspend(s *State, in SuspendInput, now flowfabric.Millis) (flowfabric.SuspendResult, Effects, error) {
	var none flowfabric.SuspendResult
	a := &in.Args
	if err := alreadySuspended(s, a.Fence); err != nil {
		return none, Effects{}, err
	}
	if _, fx, err := leaseBound(s, a.Fence, "", now, true); err != nil {
		return none, fx, err
	}
	timeoutAt, behavior, err := timeoutOf(s, a, now)
	if err != nil {
		return none, Effects{}, err
	}
	bound, err := bind(s, &in, now)
	if err != nil {
		return none, Effects{}, err
	}
	t := begin(s, now)
	x := &Suspension{Suspension: flowfabric.Suspension{
		SuspensionID: a.SuspensionID, ExecutionID: s.Exec.ExecutionID, AttemptID: s.Exec.CurrentAttemptID,
		LeaseID: s.Exec.CurrentLeaseID, LeaseEpoch: s.Exec.CurrentLeaseEpoch,
		ReasonCode: a.ReasonCode, RequestedBy: a.RequestedBy, CreatedAt: now,
		ResumeCondition: a.ResumeCondition, ResumePolicy: a.ResumePolicy, ContinuationMetadataPointer: a.ContinuationMetadataPointer,
	}}
	if s.Attempt != nil {
		x.AttemptIndex = s.Attempt.AttemptIndex
	}
	if timeoutAt != 0 {
		x.TimeoutAt, x.TimeoutBehavior = timeoutAt, behavior
	}
	if s.Exec.AttemptTimeoutAt != 0 {
		left := int64(s.Exec.AttemptTimeoutAt - now)
		x.AttemptTimeoutRemainingMs = &left
	}
	for i := range bound {
		x.Waitpoints = append(x.Waitpoints, flowfabric.WaitpointRef{WaitpointID: bound[i].WaitpointID, WaitpointKey: bound[i].WaitpointKey})
	}
	t.supersedeWaits()
	met := t.replayBuffered(x, bound)
	if met {
		t.closeAtOnce(x, bound)
	} else {
		t.suspend(x, bound)
	}
	if err := withinOpenLimit(s.Wait, 0); err != nil {
		*s = t.old
		return none, Effects{}, err
	}
	fx, err := t.finish()
	if err != nil {
		return none, fx, err
	}
	return suspendResult(s, x, bound, met), fx, nil
}

func suspendResult(s *State, x *Suspension, bound []Waitpoint, met bool) flowfabric.SuspendResult {
	res := flowfabric.SuspendResult{Outcome: flowfabric.SuspendSuspended, SuspensionID: x.SuspensionID}
	if met {
		res.Outcome = flowfabric.SuspendAlreadySatisfied
	}
	for i := range bound {
		b := flowfabric.BoundWaitpoint{WaitpointID: bound[i].WaitpointID, WaitpointKey: bound[i].WaitpointKey}
		if !met {
			b.Token = bound[i].Token
		}
		res.Waitpoints = append(res.Waitpoints, b)
	}
	return res
}

// alreadySuspended refuses the repeat of the suspend that holds now. (Step 5.)
func alreadySuspended(s *State, f flowfabric.Fence) error {
	x := openSuspension(s)
	if x == nil || x.LeaseID != f.LeaseID || x.LeaseEpoch != f.LeaseEpoch || x.AttemptID != f.AttemptID {
		return nil
	}
	return flowfabric.NewError(flowfabric.CodeAlreadySuspended, "this lease has suspended the execution already").
		With("suspension_id", string(x.SuspensionID))
}

// openSuspension returns the suspension that holds now, nil without one.
func openSuspension(s *State) *Suspension {
	if s.Exec.LifecyclePhase != flowfabric.PhaseSuspended || s.Wait == nil || s.Wait.Suspension == nil || s.Wait.Suspension.ClosedAt != 0 {
		return nil
	}
	return s.Wait.Suspension
}

// timeoutOf is the instant and behaviour of the timeout to be; 0 for none.
func timeoutOf(s *State, a *flowfabric.SuspendArgs, now flowfabric.Millis) (flowfabric.Millis, flowfabric.TimeoutBehavior, error) {
	policy := s.Policy.SuspensionPolicy
	behavior := a.TimeoutBehavior
	if behavior == "" && policy != nil {
		behavior = flowfabric.TimeoutBehavior(policy.TimeoutBehavior)
	}
	if behavior == "" {
		behavior = flowfabric.TimeoutFail
	}
	switch {
	case a.TimeoutAt != 0:
		if a.TimeoutAt < now-flowfabric.SuspendTimeoutToleranceMs {
			return 0, "", flowfabric.NewError(flowfabric.CodeInvalidInput, "timeout_at_in_past: %d is more than %d ms before the store's now",
				a.TimeoutAt, flowfabric.SuspendTimeoutToleranceMs).With("field", "timeout_at").With("reason", "timeout_at_in_past")
		}
		return a.TimeoutAt, behavior, nil
	case a.TimeoutMs != nil:
		return waitInstant(now, *a.TimeoutMs), behavior, nil
	case policy != nil && policy.DefaultTimeoutMs != nil && *policy.DefaultTimeoutMs > 0:
		return waitInstant(now, *policy.DefaultTimeoutMs), behavior, nil
	}
	return 0, "", nil
}

// waitInstant adds a duration to an instant, clamped to 2^53 - 1.
func waitInstant(now flowfabric.Millis, ms int64) flowfabric.Millis {
	return min(addMs(now, ms), flowfabric.MaxInstant)
}

// bind makes the waitpoints of the suspension to be out of the bindings: pending
// ones as stored, fresh ones with new tokens. (Steps 7 and 8.)
func bind(s *State, in *SuspendInput, now flowfabric.Millis) ([]Waitpoint, error) {
	bound := make([]Waitpoint, 0, len(in.Args.Waitpoints))
	keys := make([]string, 0, len(in.Args.Waitpoints))
	for i := range in.Args.Waitpoints {
		w, err := bindOne(s, &in.Args.Waitpoints[i], in.Stored[i], now)
		if err != nil {
			return nil, err
		}
		bound = append(bound, w)
		keys = append(keys, w.WaitpointKey)
	}
	if err := KeysAgree(&in.Args.ResumeCondition, keys); err != nil {
		return nil, err
	}
	for i := range bound {
		if !bound[i].Token.IsZero() {
			continue
		}
		token, err := in.Ring.Mint(s.Exec.ExecutionID, bound[i].WaitpointID, bound[i].WaitpointKey)
		if err != nil {
			return nil, err
		}
		bound[i].Token = token
	}
	return bound, nil
}

func bindOne(s *State, b *flowfabric.WaitpointBinding, stored *StoredWaitpoint, now flowfabric.Millis) (Waitpoint, error) {
	if !b.UsePending {
		if stored != nil {
			return Waitpoint{}, waitpointExists(b.WaitpointID)
		}
		w := Waitpoint{WaitpointID: b.WaitpointID, WaitpointKey: b.WaitpointKey, AttemptID: s.Exec.CurrentAttemptID, CreatedAt: now}
		if s.Attempt != nil {
			w.AttemptIndex = s.Attempt.AttemptIndex
		}
		return w, nil
	}
	switch {
	case stored == nil:
		return Waitpoint{}, waitpointNotFound(b.WaitpointID)
	case stored.State == flowfabric.WaitpointExpired,
		stored.State == flowfabric.WaitpointPending && stored.ExpiresAt <= now:
		return Waitpoint{}, flowfabric.NewError(flowfabric.CodePendingWaitpointExpired, "waitpoint %s expired at %d", b.WaitpointID, stored.ExpiresAt)
	case stored.State != flowfabric.WaitpointPending:
		return Waitpoint{}, flowfabric.NewError(flowfabric.CodeWaitpointNotPending, "waitpoint %s is %s", b.WaitpointID, stored.State).
			With("state", string(stored.State))
	case stored.ExecutionID != s.Exec.ExecutionID || stored.AttemptID != s.Exec.CurrentAttemptID:
		return Waitpoint{}, flowfabric.NewError(flowfabric.CodeInvalidWaitpointForExecution,
			"waitpoint %s is of another execution or attempt", b.WaitpointID).With("field", "waitpoints")
	case stored.Token.IsZero():
		return Waitpoint{}, flowfabric.NewError(flowfabric.CodeWaitpointNotTokenBound, "waitpoint %s has no token", b.WaitpointID)
	}
	return stored.Waitpoint, nil
}

// replayBuffered feeds the signals buffered on the bound pending waitpoints to
// the condition, in order of acceptance, and reports whether it is satisfied.
// bound and x get their counters. (Specification 03, section 3.2.)
func (t *step) replayBuffered(x *Suspension, bound []Waitpoint) bool {
	x.Nodes = make([][]string, len(leavesOf(&x.ResumeCondition)))
	met := false
	waits := t.waiting()
	others := waits.Buffered[:0]
	for _, buffered := range waits.Buffered {
		i := slices.IndexFunc(bound, func(w Waitpoint) bool { return w.WaitpointID == buffered.WaitpointID })
		if i < 0 {
			others = append(others, buffered)
			continue
		}
		g := *buffered
		x.SignalCount++
		x.LastSignalAt = g.AcceptedAt
		if met {
			g.Effect = flowfabric.EffectNoOp
		} else {
			g.Effect, x.Nodes = evaluate(&x.ResumeCondition, x.Nodes, &g)
		}
		if g.Effect.Matched() {
			bound[i].MatchedSignalCount++
			x.MatchedSignalCount++
			x.SatisfierSignalIDs = append(x.SatisfierSignalIDs, g.SignalID)
		}
		if g.Effect == flowfabric.EffectResumed {
			met = true
			x.CloserSignalID = g.SignalID
		}
		t.fx.Wait.Rewritten = append(t.fx.Wait.Rewritten, g)
	}
	waits.Buffered = others
	return met
}

// closeAtOnce records the suspension that was satisfied before it began.
func (t *step) closeAtOnce(x *Suspension, bound []Waitpoint) {
	w := t.waiting()
	x.TimeoutAt, x.TimeoutBehavior = 0, ""
	x.SatisfiedAt, x.ClosedAt, x.CloseReason = t.now, t.now, flowfabric.ClosedAlreadySatisfied
	w.Suspension = x
	t.fx.Wait.Suspension = true
	for i := range bound {
		bound[i].SuspensionID = x.SuspensionID
		bound[i].SatisfiedAt = t.now
		t.closeWaitpoint(&bound[i], string(flowfabric.ClosedAlreadySatisfied))
	}
	t.consume(x)
}

// suspend makes the suspension hold: waitpoints active, lease given up.
func (t *step) suspend(x *Suspension, bound []Waitpoint) {
	e := &t.s.Exec
	for i := range bound {
		w := &bound[i]
		w.State, w.SuspensionID, w.ActivatedAt, w.ExpiresAt = flowfabric.WaitpointActive, x.SuspensionID, t.now, x.TimeoutAt
		t.putWaitpoint(w)
	}
	t.waiting().Suspension = x
	t.fx.Wait.Suspension = true
	t.pauseAttempt(flowfabric.PauseSuspension)
	if t.s.Attempt != nil {
		a := *t.s.Attempt
		a.SuspensionID = x.SuspensionID
		t.s.Attempt = &a
	}
	t.giveUp(releasedSuspend)
	t.unblock()
	e.LifecyclePhase, e.OwnershipState = flowfabric.PhaseSuspended, flowfabric.OwnershipUnowned
	e.EligibilityState, e.AttemptState = flowfabric.EligibilityNotApplicable, flowfabric.AttemptInterrupted
	e.BlockingReason = x.ReasonCode.BlockingReason()
	e.CurrentSuspensionID = x.SuspensionID
	if len(x.Waitpoints) > 0 {
		e.CurrentWaitpointID = x.Waitpoints[0].WaitpointID
		e.BlockingDetail = "suspended: waitpoint " + string(e.CurrentWaitpointID) + " awaiting " + string(x.ReasonCode)
	}
}

// consume notes that the suspension consumes its satisfiers, if its policy does.
func (t *step) consume(x *Suspension) {
	if p := x.ResumePolicy.ConsumeMatchedSignals; p == nil || *p {
		t.fx.Wait.Consumed = append(t.fx.Wait.Consumed, x.SatisfierSignalIDs...)
	}
}

// closeSuspension ends the open suspension and its waitpoints. keepOpen leaves
// the waitpoints open for audit.
func (t *step) closeSuspension(reason flowfabric.SuspensionCloseReason, keepOpen bool) *Suspension {
	w := t.waiting()
	x := w.Suspension
	x.ClosedAt, x.CloseReason = t.now, reason
	if reason.BySignals() {
		x.SatisfiedAt = t.now
		t.consume(x)
	}
	t.fx.Wait.Suspension = true
	for _, open := range slices.Clone(w.Open) {
		if open.State != flowfabric.WaitpointActive {
			continue
		}
		if reason.BySignals() {
			open.SatisfiedAt = t.now
		}
		if keepOpen {
			open.State = flowfabric.WaitpointSatisfied
			t.putWaitpoint(&open)
			continue
		}
		t.closeWaitpoint(&open, string(reason))
	}
	t.s.Exec.CurrentSuspensionID, t.s.Exec.CurrentWaitpointID = "", ""
	return x
}

// resume makes the execution runnable again, at once or after a delay. The
// attempt stays paused until the resumed claim. (Specification 03, section 3.7.)
func (t *step) resume(delayMs int64) {
	e := &t.s.Exec
	e.AttemptState = flowfabric.AttemptInterrupted
	if delayMs > 0 {
		until := waitInstant(t.now, delayMs)
		t.makeDelayed(until, flowfabric.ReasonWaitingForResumeDelay, "resume delay until "+strconv.FormatInt(int64(until), 10))
		return
	}
	t.makeEligible()
}

// endWaits closes what an execution waits on as it ends: the open suspension with
// its reason, all else as execution_terminal.
func (t *step) endWaits(reason flowfabric.SuspensionCloseReason) {
	w := t.s.Wait
	if w == nil {
		return
	}
	if x := w.Suspension; x != nil && x.ClosedAt == 0 {
		t.closeSuspension(reason, false)
	}
	if len(t.s.Wait.Open) == 0 {
		return
	}
	for _, open := range slices.Clone(t.waiting().Open) {
		t.closeWaitpoint(&open, string(flowfabric.ClosedExecutionTerminal))
	}
	t.dropBuffered()
}

// ResumeExecution ends a suspension whatever its condition. (Specification 03,
// section 4.5.)
func ResumeExecution(s *State, a flowfabric.ResumeExecutionArgs, now flowfabric.Millis) (flowfabric.ResumeExecutionResult, Effects, error) {
	var none flowfabric.ResumeExecutionResult
	x := openSuspension(s)
	if x == nil {
		return none, Effects{}, flowfabric.NewError(flowfabric.CodeExecutionNotSuspended, "execution is %s", s.Exec.PublicState).
			With("public_state", string(s.Exec.PublicState)).With("lifecycle_phase", string(s.Exec.LifecyclePhase))
	}
	reason := flowfabric.ClosedOperatorResume
	if a.Trigger == flowfabric.ResumeTriggerBudgetRecovered {
		reason = flowfabric.ClosedBudgetRecovered
	}
	delay := x.ResumePolicy.ResumeDelayMs
	if a.ResumeDelayMs != nil {
		delay = *a.ResumeDelayMs
	}
	t := begin(s, now)
	t.closeSuspension(reason, false)
	t.resume(delay)
	fx, err := t.finish()
	if err != nil {
		return none, fx, err
	}
	return flowfabric.ResumeExecutionResult{PublicState: s.Exec.PublicState}, fx, nil
}

// suspensionDue reports whether the open suspension's timeout has come.
func suspensionDue(s *State, now flowfabric.Millis) bool {
	x := openSuspension(s)
	return x != nil && reached(x.TimeoutAt, now)
}

// ExpireSuspension applies the timeout of the open suspension, if it has come.
// (Specification 03, sections 3.5 and 4.6.)
func ExpireSuspension(s *State, now flowfabric.Millis) (flowfabric.ExpireSuspensionResult, Effects) {
	stale := func(reason string) (flowfabric.ExpireSuspensionResult, Effects) {
		return flowfabric.ExpireSuspensionResult{Outcome: flowfabric.SuspensionTimeoutNotApplied, Reason: reason}, Effects{}
	}
	x := openSuspension(s)
	switch {
	case s.Exec.LifecyclePhase != flowfabric.PhaseSuspended:
		return stale("not_suspended")
	case x == nil:
		return stale("no_active_suspension")
	case !reached(x.TimeoutAt, now):
		return stale("not_yet_due")
	}
	behavior := x.TimeoutBehavior
	t := begin(s, now)
	e := &s.Exec
	why := "suspension_timeout:" + string(behavior)
	end := attemptEnd{reason: why, category: categoryTimeout, override: true, stream: streamSuspension}
	switch behavior {
	case flowfabric.TimeoutAutoResume:
		t.timeoutSignal()
		t.closeSuspension(flowfabric.ClosedTimedOutResume, false)
		t.resume(0)
	case flowfabric.TimeoutEscalate:
		t.escalate()
	case flowfabric.TimeoutCancel:
		t.endAttempt(attemptEnd{state: flowfabric.AttemptEndedCancelled, override: true, stream: streamSuspension})
		e.CancellationReason, e.CancelledBy = why, string(flowfabric.SourceSystemTimeout)
		t.end(flowfabric.OutcomeCancelled, causeSuspension, flowfabric.ClosedTimedOutCancel)
	case flowfabric.TimeoutExpire:
		end.state = flowfabric.AttemptEndedFailure
		t.endAttempt(end)
		e.FailureReason, e.FailureCategory = why, categoryTimeout
		t.end(flowfabric.OutcomeExpired, causeSuspension, flowfabric.ClosedTimedOutExpire)
	default:
		end.state = flowfabric.AttemptEndedFailure
		t.endAttempt(end)
		e.FailureReason, e.FailureCategory = why, categoryTimeout
		t.end(flowfabric.OutcomeFailed, causeSuspension, flowfabric.ClosedTimedOutFail)
	}
	fx := t.settle()
	if fx.Err != nil {
		return flowfabric.ExpireSuspensionResult{Outcome: flowfabric.SuspensionTimeoutNotApplied}, fx
	}
	return flowfabric.ExpireSuspensionResult{Outcome: flowfabric.SuspensionTimeoutApplied, Behavior: behavior, PublicState: e.PublicState}, fx
}

// timeoutSignal records the signal by which a timeout resumes, on the primary
// waitpoint.
func (t *step) timeoutSignal() {
	w := t.waiting()
	x := w.Suspension
	i := slices.IndexFunc(w.Open, func(o Waitpoint) bool { return o.WaitpointID == t.s.Exec.CurrentWaitpointID })
	if i < 0 {
		return
	}
	primary := w.Open[i]
	w.LastSeq++
	g := flowfabric.RecordedSignal{
		SignalID: TimeoutSignalID(x.SuspensionID), ExecutionID: t.s.Exec.ExecutionID,
		WaitpointID: primary.WaitpointID, WaitpointKey: primary.WaitpointKey,
		SignalName: flowfabric.SignalNameTimeout, SignalCategory: flowfabric.SignalCategoryTimeout,
		SourceType: flowfabric.SourceTypeEngine, SourceIdentity: "suspension_timeout",
		AcceptedAt: t.now, Seq: w.LastSeq, Effect: flowfabric.EffectResumed,
	}
	t.fx.Wait.New = append(t.fx.Wait.New, g)
	t.satisfy(x, &primary, &g)
	t.putWaitpoint(&primary)
}

// satisfy counts a recorded signal in its waitpoint and suspension.
func (t *step) satisfy(x *Suspension, w *Waitpoint, g *flowfabric.RecordedSignal) {
	w.SignalCount++
	w.LastSignalAt = g.AcceptedAt
	x.SignalCount++
	x.LastSignalAt = g.AcceptedAt
	if g.Effect.Matched() {
		w.MatchedSignalCount++
		x.MatchedSignalCount++
		x.SatisfierSignalIDs = append(slices.Clip(x.SatisfierSignalIDs), g.SignalID)
	}
	if g.Effect == flowfabric.EffectResumed {
		x.CloserSignalID = g.SignalID
	}
	t.fx.Wait.Suspension = true
}

// escalate leaves the execution suspended, for an operator to look at.
func (t *step) escalate() {
	w := t.waiting()
	x, e := w.Suspension, &t.s.Exec
	passed := x.TimeoutAt
	x.EscalatedAt, x.TimeoutAt, x.TimeoutBehavior = t.now, 0, ""
	x.ReasonCode = flowfabric.SuspendWaitingForOperatorReview
	t.fx.Wait.Suspension = true
	for _, open := range slices.Clone(w.Open) {
		if open.State == flowfabric.WaitpointActive {
			open.ExpiresAt = 0
			t.putWaitpoint(&open)
		}
	}
	e.BlockingReason = flowfabric.ReasonPausedByOperator
	e.BlockingDetail = "suspended: timeout passed at " + strconv.FormatInt(int64(passed), 10) + ", awaiting operator"
}

// SuspendForBudget suspends an active execution whose budget is spent; a fence
// that does not hold any more changes nothing. (Specification 03, section 4.10.)
func SuspendForBudget(s *State, a flowfabric.SuspendForBudgetArgs, now flowfabric.Millis) (bool, Effects) {
	e := &s.Exec
	whole := a.Fence.LeaseID != "" || a.Fence.AttemptID != ""
	if e.LifecyclePhase != flowfabric.PhaseActive || e.OwnershipState != flowfabric.OwnershipLeased || e.LeaseExpiresAt <= now ||
		whole && !fenceFits(s, a.Fence) || a.Fence.LeaseEpoch != e.CurrentLeaseEpoch {
		return false, Effects{}
	}
	t := begin(s, now)
	t.supersedeWaits()
	x := &Suspension{Suspension: flowfabric.Suspension{
		SuspensionID: a.SuspensionID, ExecutionID: e.ExecutionID, AttemptID: e.CurrentAttemptID, LeaseID: e.CurrentLeaseID,
		LeaseEpoch: e.CurrentLeaseEpoch, ReasonCode: flowfabric.SuspendPausedByBudget, RequestedBy: flowfabric.RequestedByPolicy,
		CreatedAt: now, ResumeCondition: flowfabric.OperatorOnly(), ResumePolicy: flowfabric.ResumePolicy{}.WithDefaults(),
		Waitpoints: []flowfabric.WaitpointRef{},
	}}
	if s.Attempt != nil {
		x.AttemptIndex = s.Attempt.AttemptIndex
	}
	if e.AttemptTimeoutAt != 0 {
		left := int64(e.AttemptTimeoutAt - now)
		x.AttemptTimeoutRemainingMs = &left
	}
	t.suspend(x, nil)
	e.BlockingDetail, e.BlockingRef = a.Detail, a.BudgetID
	fx := t.settle()
	return fx.Err == nil, fx
}

// ShowSuspension is a suspension's record as it is read, with the progress of its
// condition.
func ShowSuspension(x *Suspension) *flowfabric.Suspension {
	if x == nil {
		return nil
	}
	shown := x.Suspension
	shown.Progress = progress(&x.ResumeCondition, x.Nodes)
	return &shown
}

// ResumeSignalIDs returns the signals that ended the attempt's last suspension,
// in order of acceptance. (Specification 03, section 4.9.)
func ResumeSignalIDs(s *State, attempt flowfabric.AttemptID) ([]flowfabric.SignalID, error) {
	if s.Wait == nil || s.Wait.Suspension == nil {
		return nil, nil
	}
	x := s.Wait.Suspension
	if x.ClosedAt == 0 || x.AttemptID != attempt || !x.CloseReason.BySignals() {
		return nil, nil
	}
	for _, id := range x.SatisfierSignalIDs {
		if err := flowfabric.ValidateUUID("satisfier_signal_ids", string(id)); err != nil {
			return nil, flowfabric.NewError(flowfabric.CodeCorruptRecord, "the suspension names a malformed signal").
				With("field", "satisfier_signal_ids")
		}
	}
	return x.SatisfierSignalIDs, nil
}
