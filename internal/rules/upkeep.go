package rules

import (
	"github.com/flowfabric/flowfabric"
)

// PromoteDelayed makes a delayed execution eligible once its instant has come.
// (Specification 01, section 9.)
func PromoteDelayed(s *State, now flowfabric.Millis) (flowfabric.UpkeepOutcome, Effects) {
	e := &s.Exec
	if e.LifecyclePhase != flowfabric.PhaseRunnable || e.EligibilityState != flowfabric.NotEligibleUntilTime {
		return flowfabric.UpkeepCleaned, Effects{}
	}
	if e.DelayUntil > now {
		return flowfabric.UpkeepNotYetDue, Effects{}
	}
	return flowfabric.UpkeepPromoted, unblock(s, now)
}

// Expire acts on the attempt timeout or the execution deadline, if it has come;
// otherwise it changes nothing and tells not_yet_due or cleaned.
func Expire(s *State, reason flowfabric.ExpireReason, now flowfabric.Millis, rnd Rand) (flowfabric.UpkeepOutcome, Effects) {
	if reason == flowfabric.ExpireExecutionDeadline {
		return expireDeadline(s, now)
	}
	return expireAttempt(s, now, rnd)
}

// expireAttempt ends an attempt that has run too long: a retry or fallback
// follows as after a failure of category timeout, else the execution expires.
func expireAttempt(s *State, now flowfabric.Millis, rnd Rand) (flowfabric.UpkeepOutcome, Effects) {
	e := &s.Exec
	if e.LifecyclePhase != flowfabric.PhaseActive || e.AttemptTimeoutAt == 0 {
		return flowfabric.UpkeepCleaned, Effects{}
	}
	if e.AttemptTimeoutAt > now {
		return flowfabric.UpkeepNotYetDue, Effects{}
	}
	t := begin(s, now)
	t.endAttempt(attemptEnd{state: flowfabric.AttemptEndedFailure, reason: releasedTimeout, category: categoryTimeout,
		override: true, stream: streamExpired})
	e.FailureReason, e.FailureCategory = releasedTimeout, categoryTimeout
	receipt := t.release(flowfabric.ReceiptExpire, flowfabric.SourceSystemTimeout, releasedTimeout)
	next := t.nextTry(categoryTimeout, rnd)
	outcome := flowfabric.UpkeepRetryScheduled
	if next.typ == "" {
		t.end(flowfabric.OutcomeExpired, causeAttemptTimeout, "")
		outcome = flowfabric.UpkeepExpired
	} else {
		t.schedule(next, releasedTimeout)
	}
	if receipt != nil {
		next.record(receipt, e)
	}
	return outcome, t.settle()
}

// expireDeadline ends the execution in any phase, without retry.
func expireDeadline(s *State, now flowfabric.Millis) (flowfabric.UpkeepOutcome, Effects) {
	e := &s.Exec
	if e.LifecyclePhase == flowfabric.PhaseTerminal || e.ExecutionDeadlineAt == 0 {
		return flowfabric.UpkeepCleaned, Effects{}
	}
	if e.ExecutionDeadlineAt > now {
		return flowfabric.UpkeepNotYetDue, Effects{}
	}
	t := begin(s, now)
	t.endAttempt(attemptEnd{state: flowfabric.AttemptEndedFailure, reason: releasedDeadline, category: categoryDeadline,
		override: true, stream: streamExpired})
	e.FailureReason, e.FailureCategory = releasedDeadline, categoryDeadline
	receipt := t.release(flowfabric.ReceiptExpire, flowfabric.SourceSystemTimeout, releasedDeadline)
	t.end(flowfabric.OutcomeExpired, causeExecutionDeadline, flowfabric.ClosedDeadlineExpired)
	if receipt != nil {
		receipt.PublicState = flowfabric.PublicExpired
	}
	return flowfabric.UpkeepExpired, t.settle()
}

// Purgeable reports whether the execution has ended and its retention is over.
func Purgeable(s *State, now flowfabric.Millis) bool {
	return s.Exec.LifecyclePhase == flowfabric.PhaseTerminal && s.Exec.PurgeAfter <= now
}

// NextDuty returns the first duty whose instant has come, in the order of
// specification 01, section 9; DutyNone when nothing is due. After it has run,
// the rest is looked at anew.
func NextDuty(s *State, now flowfabric.Millis) Duty {
	e := &s.Exec
	if e.LifecyclePhase == flowfabric.PhaseTerminal {
		if Purgeable(s, now) {
			return DutyRetention
		}
		return DutyNone
	}
	switch {
	case reached(e.ExecutionDeadlineAt, now):
		return DutyExecutionDeadline
	case e.LifecyclePhase == flowfabric.PhaseActive && reached(e.AttemptTimeoutAt, now):
		return DutyAttemptTimeout
	case suspensionDue(s, now):
		return DutySuspensionTimeout
	case leaseDuty(s, now):
		return DutyLeaseExpiry
	case s.Grant != nil && !s.Grant.Lapsed && s.Grant.ExpiresAt <= now:
		return DutyGrantLapse
	case e.EligibilityState == flowfabric.NotEligibleUntilTime && e.DelayUntil <= now:
		return DutyDelayedPromotion
	case reached(pendingExpiry(s), now):
		return DutyWaitpointExpiry
	}
	return DutyNone
}

func reached(at, now flowfabric.Millis) bool { return at != 0 && at <= now }

// leaseDuty reports whether the lease expiry duty has anything to do: mark a
// lapse, end what may not be reclaimed any more, or offer again what was to be
// passed over for a while.
func leaseDuty(s *State, now flowfabric.Millis) bool {
	e := &s.Exec
	if overdue(e, now) {
		return true
	}
	return lost(e) && (!e.ReclaimHold && atReclaimCap(s) || reached(e.ReclaimNotBefore, now))
}

// RunDuty applies a duty, if it still is due. DutyRetention is the store's: it
// purges. DutyLeaseExpiry marks a lapse; ends an execution at the reclaim cap
// that is not held; and clears a reclaim_not_before that has passed, which
// offers the execution again. Effects.Err tells that the step would have broken
// a validity rule.
func RunDuty(s *State, d Duty, now flowfabric.Millis, rnd Rand) Effects {
	switch d {
	case DutyExecutionDeadline:
		_, fx := expireDeadline(s, now)
		return fx
	case DutyAttemptTimeout:
		_, fx := expireAttempt(s, now, rnd)
		return fx
	case DutySuspensionTimeout:
		_, fx := ExpireSuspension(s, now)
		return fx
	case DutyLeaseExpiry:
		return runLeaseDuty(s, now)
	case DutyWaitpointExpiry:
		return ExpireWaitpoints(s, now)
	case DutyGrantLapse:
		return LapseGrant(s, now)
	case DutyDelayedPromotion:
		_, fx := PromoteDelayed(s, now)
		return fx
	}
	return Effects{}
}

func runLeaseDuty(s *State, now flowfabric.Millis) Effects {
	e := &s.Exec
	switch {
	case overdue(e, now):
		return markLapsed(s, now)
	case !lost(e):
		return Effects{}
	case !e.ReclaimHold && atReclaimCap(s):
		fx, err := endAtCap(s, now)
		if flowfabric.CodeOf(err) != flowfabric.CodeReclaimCapExceeded {
			fx.Err = err
		}
		return fx
	case reached(e.ReclaimNotBefore, now):
		t := begin(s, now)
		e.ReclaimNotBefore = 0
		t.fx.Offered = Place(s, now).Offered
		return t.settle()
	}
	return Effects{}
}
