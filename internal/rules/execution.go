package rules

import (
	"strconv"

	"github.com/flowfabric/flowfabric"
)

// ValidateComplete checks the input of a completion.
func ValidateComplete(a flowfabric.CompleteExecutionArgs) error {
	if err := validateID(a.ExecutionID); err != nil {
		return err
	}
	return validateComplete(&a)
}

func validateComplete(a *flowfabric.CompleteExecutionArgs) error {
	if err := validatePayload("result", a.Result); err != nil {
		return err
	}
	if err := validateEncoding("result_encoding", a.ResultEncoding); err != nil {
		return err
	}
	if err := validateHolderSource(a.Source); err != nil {
		return err
	}
	return validateFence(a.Fence, a.Source == flowfabric.SourceOperatorOverride)
}

// Complete ends an active execution with success. (Specification 01, section
// 8.2.)
func Complete(s *State, a flowfabric.CompleteExecutionArgs, now flowfabric.Millis) (flowfabric.CompleteExecutionResult, Effects, error) {
	var none flowfabric.CompleteExecutionResult
	if err := validateComplete(&a); err != nil {
		return none, Effects{}, err
	}
	receipt, fx, err := leaseBound(s, a.Fence, flowfabric.ReceiptComplete, now, true)
	if err != nil {
		return none, fx, err
	}
	if receipt != nil {
		return flowfabric.CompleteExecutionResult{PublicState: receipt.PublicState, Replayed: true}, fx, nil
	}
	t := begin(s, now)
	e := &s.Exec
	t.endAttempt(attemptEnd{state: flowfabric.AttemptEndedSuccess, override: a.Source == flowfabric.SourceOperatorOverride, stream: streamSuccess})
	receipt = t.release(flowfabric.ReceiptComplete, source(a.Source), releasedCompleted)
	e.FailureReason, e.FailureCategory = "", ""
	done := t.end(flowfabric.OutcomeSuccess, causeComplete, "")
	if receipt != nil {
		receipt.PublicState = flowfabric.PublicCompleted
	}
	t.fx.Result = ResultRemoved
	if a.Result != nil {
		size := int64(len(a.Result))
		done.ResultSize = &size
		t.fx.Result, t.fx.ResultPayload, t.fx.ResultEncoding = ResultSet, a.Result, a.ResultEncoding
		if a.ResultEncoding == "" {
			t.fx.ResultEncoding = defaultEncoding
		}
	}
	fx, err = t.finish()
	if err != nil {
		return none, fx, err
	}
	return flowfabric.CompleteExecutionResult{PublicState: e.PublicState}, fx, nil
}

// ValidateFail checks the input of a failure.
func ValidateFail(a flowfabric.FailExecutionArgs) error {
	if err := validateID(a.ExecutionID); err != nil {
		return err
	}
	return validateFail(&a)
}

func validateFail(a *flowfabric.FailExecutionArgs) error {
	if a.Category != "" && !flowfabric.IsFailureCategory(a.Category) {
		return flowfabric.InvalidInput("failure_category", "%q is no failure category", Cut(a.Category, 80))
	}
	if err := validateHolderSource(a.Source); err != nil {
		return err
	}
	return validateFence(a.Fence, a.Source == flowfabric.SourceOperatorOverride)
}

// Fail ends the running attempt with a failure: a fallback or a retry follows if
// the policy allows one, else the execution ends failed. (Specification 01,
// sections 5.1 and 8.3.)
func Fail(s *State, a flowfabric.FailExecutionArgs, now flowfabric.Millis, rnd Rand) (flowfabric.FailExecutionResult, Effects, error) {
	var none flowfabric.FailExecutionResult
	if err := validateFail(&a); err != nil {
		return none, Effects{}, err
	}
	receipt, fx, err := leaseBound(s, a.Fence, flowfabric.ReceiptFail, now, true)
	if err != nil {
		return none, fx, err
	}
	if receipt != nil {
		return failResult(receipt, true), fx, nil
	}
	reason, category := cleanReason(a.Reason), a.Category
	if category == "" {
		category = categoryTransient
	}
	t := begin(s, now)
	e := &s.Exec
	t.endAttempt(attemptEnd{state: flowfabric.AttemptEndedFailure, reason: reason, category: category,
		override: a.Source == flowfabric.SourceOperatorOverride, stream: streamFailure})
	e.FailureReason, e.FailureCategory = reason, category
	next := t.nextTry(category, rnd)
	why := releasedFailed
	if next.typ != "" {
		why = releasedRetry
	}
	receipt = t.release(flowfabric.ReceiptFail, source(a.Source), why)
	if next.typ == "" {
		t.end(flowfabric.OutcomeFailed, causeFail, "")
	} else {
		t.schedule(next, reason)
	}
	if receipt == nil {
		receipt = &flowfabric.ReleaseReceipt{}
	}
	next.record(receipt, e)
	fx, err = t.finish()
	if err != nil {
		return none, fx, err
	}
	return failResult(receipt, false), fx, nil
}

func failResult(r *flowfabric.ReleaseReceipt, replayed bool) flowfabric.FailExecutionResult {
	if !r.RetryScheduled {
		return flowfabric.FailExecutionResult{Outcome: flowfabric.FailTerminal, Replayed: replayed}
	}
	return flowfabric.FailExecutionResult{Outcome: flowfabric.FailRetryScheduled, DelayUntil: r.DelayUntil,
		NextAttemptIndex: r.NextAttemptIndex, AttemptType: r.AttemptType, Replayed: replayed}
}

// try is what follows a failed attempt; an empty typ is the end.
type try struct {
	typ   flowfabric.AttemptType
	delay int64
	at    flowfabric.Millis
}

// nextTry decides by the stored policy what follows a failure of the category,
// and counts it. (Specification 01, section 5.1.)
func (t *step) nextTry(category string, rnd Rand) try {
	e, p := &t.s.Exec, t.s.Policy
	if fallsBack(p, category) && fallbackTier(p, e.FallbackIndex+1) != nil {
		e.FallbackIndex++
		return try{typ: flowfabric.AttemptTypeFallback, at: t.now}
	}
	if retryable(p, category) && e.RetryCount < MaxRetries(p) {
		delay := Backoff(p, e.RetryCount, rnd)
		e.RetryCount++
		return try{typ: flowfabric.AttemptTypeRetry, delay: delay, at: addMs(t.now, delay)}
	}
	return try{}
}

// schedule makes the next attempt pending, at once or after the backoff.
func (t *step) schedule(next try, reason string) {
	e := &t.s.Exec
	t.dropGrant()
	e.PendingAttemptType, e.PendingReason, e.PendingRequestedBy = next.typ, reason, ""
	e.PendingPreviousAttemptIndex = nil
	index := int64(-1)
	if t.s.Attempt != nil {
		e.PendingPreviousAttemptIndex = &t.s.Attempt.AttemptIndex
		index = int64(t.s.Attempt.AttemptIndex)
	}
	e.CurrentAttemptID = ""
	e.AttemptState = flowfabric.AttemptPendingRetry
	if next.delay == 0 {
		t.makeEligible()
		return
	}
	t.makeDelayed(next.at, flowfabric.ReasonWaitingForRetryBackoff, "retry backoff until "+
		strconv.FormatInt(int64(next.at), 10)+" (attempt "+strconv.FormatInt(index, 10)+" failed: "+reason+")")
}

// record writes the outcome into the receipt.
func (n try) record(r *flowfabric.ReleaseReceipt, e *flowfabric.Execution) {
	r.PublicState = PublicState(e.StateVector)
	if n.typ == "" {
		return
	}
	r.RetryScheduled, r.AttemptType, r.DelayUntil, r.NextAttemptIndex = true, n.typ, n.at, e.TotalAttemptCount
}

// ValidateCancel checks the input of a cancel.
func ValidateCancel(a flowfabric.CancelExecutionArgs) error {
	if err := validateID(a.ExecutionID); err != nil {
		return err
	}
	return validateCancel(&a)
}

func validateCancel(a *flowfabric.CancelExecutionArgs) error {
	if err := validateText("requested_by", a.RequestedBy, 0, maxRequesterBytes); err != nil {
		return err
	}
	switch a.Source {
	case "", flowfabric.SourceLeaseHolder:
		return validateFence(a.Fence, false)
	case flowfabric.SourceOperatorOverride, flowfabric.SourceFlowCascade, flowfabric.SourceSystemTimeout:
		return nil
	}
	return flowfabric.InvalidInput("source", "%q is unknown", Cut(string(a.Source), 80))
}

// Cancel ends the execution as cancelled: from any phase but the terminal one,
// except for the lease holder, who must hold a valid lease. (Specification 01,
// section 8.4.)
func Cancel(s *State, a flowfabric.CancelExecutionArgs, now flowfabric.Millis) (flowfabric.CancelExecutionResult, Effects, error) {
	var none flowfabric.CancelExecutionResult
	if err := validateCancel(&a); err != nil {
		return none, Effects{}, err
	}
	e, src := &s.Exec, source(a.Source)
	if src == flowfabric.SourceLeaseHolder {
		receipt, fx, err := leaseBound(s, a.Fence, flowfabric.ReceiptCancel, now, true)
		if err != nil {
			return none, fx, err
		}
		if receipt != nil {
			return flowfabric.CancelExecutionResult{Outcome: flowfabric.CancelCancelled, PreviousPhase: receipt.PreviousPhase,
				PublicState: receipt.PublicState, Replayed: true}, fx, nil
		}
	} else if e.LifecyclePhase == flowfabric.PhaseTerminal {
		if e.TerminalOutcome != flowfabric.OutcomeCancelled {
			return none, Effects{}, notActive(e)
		}
		return flowfabric.CancelExecutionResult{Outcome: flowfabric.CancelAlreadyCancelled, PublicState: e.PublicState,
			CancellationReason: e.CancellationReason, CancelledBy: e.CancelledBy}, Effects{}, nil
	}
	t := begin(s, now)
	previous, reason := e.LifecyclePhase, cleanReason(a.Reason)
	t.endAttempt(attemptEnd{state: flowfabric.AttemptEndedCancelled, reason: "cancelled: " + reason, category: categoryCancelled,
		override: src != flowfabric.SourceLeaseHolder, stream: streamCancelled})
	receipt := t.release(flowfabric.ReceiptCancel, src, releasedCancelled)
	e.CancellationReason, e.CancelledBy = reason, a.RequestedBy
	if e.CancelledBy == "" {
		e.CancelledBy = string(src)
	}
	t.end(flowfabric.OutcomeCancelled, cancelCause(src), flowfabric.ClosedCancelled)
	if receipt != nil {
		receipt.PublicState, receipt.PreviousPhase = flowfabric.PublicCancelled, previous
	}
	fx, err := t.finish()
	if err != nil {
		return none, fx, err
	}
	return flowfabric.CancelExecutionResult{Outcome: flowfabric.CancelCancelled, PreviousPhase: previous, PublicState: e.PublicState}, fx, nil
}

// cancelCause marks the completion of a cancel that nobody asked for by hand.
func cancelCause(src flowfabric.Source) string {
	switch src {
	case flowfabric.SourceFlowCascade, flowfabric.SourceSystemTimeout:
		return string(src)
	}
	return causeCancel
}

// ValidateDelay checks the input of a delay.
func ValidateDelay(a flowfabric.DelayExecutionArgs) error {
	if err := validateID(a.ExecutionID); err != nil {
		return err
	}
	return validateDelay(&a)
}

func validateDelay(a *flowfabric.DelayExecutionArgs) error {
	switch {
	case (a.DelayUntil != 0) == (a.DelayMs != nil):
		return flowfabric.InvalidInput("delay_until", "exactly one of delay_until and delay_ms is needed")
	case a.DelayUntil < 0:
		return flowfabric.InvalidInput("delay_until", "must be above 0")
	case a.DelayMs != nil && *a.DelayMs < 0:
		return flowfabric.InvalidInput("delay_ms", "must not be negative")
	}
	if err := validateHolderSource(a.Source); err != nil {
		return err
	}
	return validateFence(a.Fence, a.Source == flowfabric.SourceOperatorOverride)
}

// Delay gives the lease up and pauses the attempt until an instant. The next
// claim resumes it. (Specification 01, section 8.5.)
func Delay(s *State, a flowfabric.DelayExecutionArgs, now flowfabric.Millis) (flowfabric.DelayExecutionResult, Effects, error) {
	var none flowfabric.DelayExecutionResult
	if err := validateDelay(&a); err != nil {
		return none, Effects{}, err
	}
	receipt, fx, err := leaseBound(s, a.Fence, flowfabric.ReceiptDelay, now, true)
	if err != nil {
		return none, fx, err
	}
	if receipt != nil {
		return flowfabric.DelayExecutionResult{DelayUntil: receipt.DelayUntil, PublicState: receipt.PublicState, Replayed: true}, fx, nil
	}
	until := a.DelayUntil
	if a.DelayMs != nil {
		until = addMs(now, *a.DelayMs)
	}
	t := begin(s, now)
	e := &s.Exec
	t.pauseAttempt(flowfabric.PauseWorkerDelay)
	receipt = t.release(flowfabric.ReceiptDelay, source(a.Source), releasedWorkerDelay)
	e.AttemptState = flowfabric.AttemptInterrupted
	t.makeDelayed(until, flowfabric.ReasonWaitingForDelay, delayedDetail(until))
	if receipt != nil {
		receipt.DelayUntil, receipt.PublicState = until, flowfabric.PublicDelayed
	}
	fx, err = t.finish()
	if err != nil {
		return none, fx, err
	}
	return flowfabric.DelayExecutionResult{DelayUntil: until, PublicState: e.PublicState}, fx, nil
}

// ValidateReplay checks the input of a replay.
func ValidateReplay(a flowfabric.ReplayExecutionArgs) error {
	if err := validateID(a.ExecutionID); err != nil {
		return err
	}
	return validateText("requested_by", a.RequestedBy, 0, maxRequesterBytes)
}

// Replay makes a terminal execution run again, with fresh allowances and without
// result, failure and progress. (Specification 01, section 8.6.)
func Replay(s *State, a flowfabric.ReplayExecutionArgs, now flowfabric.Millis) (flowfabric.ReplayExecutionResult, Effects, error) {
	var none flowfabric.ReplayExecutionResult
	if err := validateText("requested_by", a.RequestedBy, 0, maxRequesterBytes); err != nil {
		return none, Effects{}, err
	}
	e := &s.Exec
	terminal := e.LifecyclePhase == flowfabric.PhaseTerminal
	if want := a.ExpectedReplayCount; want != nil && *want != e.ReplayCount {
		switch {
		case terminal:
			return none, Effects{}, flowfabric.InvalidInput("expected_replay_count", "is %d, the execution was replayed %d times", *want, e.ReplayCount)
		case e.ReplayCount == *want+1:
			return flowfabric.ReplayExecutionResult{PublicState: e.PublicState, ReplayCount: e.ReplayCount, Replayed: true}, Effects{}, nil
		}
	}
	if !terminal {
		return none, Effects{}, flowfabric.NewError(flowfabric.CodeExecutionNotTerminal, "execution is %s", e.PublicState).
			With("public_state", string(e.PublicState))
	}
	if limit := MaxReplays(s.Policy); e.ReplayCount >= limit {
		return none, Effects{}, flowfabric.NewError(flowfabric.CodeMaxReplaysExhausted, "%d of %d replays used", e.ReplayCount, limit).
			With("replay_count", e.ReplayCount).With("max_replay_count", limit)
	}
	t := begin(s, now)
	t.reset(a)
	t.makeEligible()
	fx, err := t.finish()
	if err != nil {
		return none, fx, err
	}
	return flowfabric.ReplayExecutionResult{PublicState: e.PublicState, ReplayCount: e.ReplayCount}, fx, nil
}

// reset clears what belongs to the former run and makes a replay pending.
func (t *step) reset(a flowfabric.ReplayExecutionArgs) {
	s, e := t.s, &t.s.Exec
	e.ReplayCount++
	e.RetryCount, e.LeaseReclaimCount, e.FallbackIndex = 0, 0, 0
	e.CompletedAt, e.PurgeAfter, e.TerminalOutcome = 0, 0, flowfabric.OutcomeNone
	e.FailureReason, e.FailureCategory, e.CancellationReason, e.CancelledBy = "", "", "", ""
	e.ProgressPct, e.ProgressMessage, e.ProgressUpdatedAt = nil, "", 0
	e.CurrentAttemptID = ""
	e.AttemptState = flowfabric.AttemptPendingReplay
	e.PendingAttemptType = flowfabric.AttemptTypeReplay
	e.PendingReason, e.PendingRequestedBy = cleanReason(a.Reason), a.RequestedBy
	if e.PendingReason == "" {
		e.PendingReason = defaultReplayReason
	}
	if e.PendingRequestedBy == "" {
		e.PendingRequestedBy = defaultReplayRequest
	}
	e.PendingPreviousAttemptIndex = nil
	if s.Attempt != nil {
		e.PendingPreviousAttemptIndex = &s.Attempt.AttemptIndex
	}
	if ms := ExecutionDeadlineMs(s.Policy); ms > 0 {
		e.ExecutionDeadlineAt = addMs(t.now, ms)
	} else if e.ExecutionDeadlineAt <= t.now {
		e.ExecutionDeadlineAt = 0
	}
	s.Grant = nil
	t.fx.Result = ResultRemoved
}

// ChangePriority re-orders an eligible execution, at its original age.
// (Specification 01, section 8.7.)
func ChangePriority(s *State, a flowfabric.ChangePriorityArgs, now flowfabric.Millis) (flowfabric.ChangePriorityResult, Effects, error) {
	e := &s.Exec
	if e.LifecyclePhase != flowfabric.PhaseRunnable || e.EligibilityState != flowfabric.EligibleNow {
		return flowfabric.ChangePriorityResult{}, Effects{}, notEligible(e)
	}
	result := flowfabric.ChangePriorityResult{OldPriority: e.Priority, NewPriority: clampPriority(int64(a.Priority))}
	t := begin(s, now)
	e.Priority = result.NewPriority
	t.fx.Offered = Place(s, now).Offered
	fx, err := t.finish()
	if err != nil {
		return flowfabric.ChangePriorityResult{}, fx, err
	}
	return result, fx, nil
}

// ValidateChangePriority checks the input of ChangePriority; any priority is
// accepted and clamped.
func ValidateChangePriority(a flowfabric.ChangePriorityArgs) error { return validateID(a.ExecutionID) }

// ValidateUpdateProgress checks the input of UpdateProgress.
func ValidateUpdateProgress(a flowfabric.UpdateProgressArgs) error {
	if err := validateID(a.ExecutionID); err != nil {
		return err
	}
	return validateProgress(&a)
}

func validateProgress(a *flowfabric.UpdateProgressArgs) error {
	if a.Pct == nil && a.Message == nil {
		return flowfabric.InvalidInput("progress_pct", "progress_pct or progress_message is needed")
	}
	if a.Pct != nil {
		if err := validateRange("progress_pct", int64(*a.Pct), 0, 100); err != nil {
			return err
		}
	}
	if a.Message != nil {
		if err := validateText("progress_message", *a.Message, 0, flowfabric.MaxProgressMessageBytes); err != nil {
			return err
		}
	}
	return validateFence(a.Fence, false)
}

// UpdateProgress overwrites what is given of the progress. An overdue lease only
// refuses it; the lapse is left for others to mark. (Specification 01, section
// 8.8.)
func UpdateProgress(s *State, a flowfabric.UpdateProgressArgs, now flowfabric.Millis) (Effects, error) {
	if err := validateProgress(&a); err != nil {
		return Effects{}, err
	}
	if _, fx, err := leaseBound(s, a.Fence, "", now, false); err != nil {
		return fx, err
	}
	t := begin(s, now)
	e := &s.Exec
	if a.Pct != nil {
		pct := *a.Pct
		e.ProgressPct = &pct
	}
	if a.Message != nil {
		e.ProgressMessage = *a.Message
	}
	e.ProgressUpdatedAt = now
	return t.finish()
}
