package rules

import (
	"github.com/flowfabric/flowfabric"
)

// PublicState derives the public label from the six dimensions. It is total: an
// impossible vector gives a safe label, and [Check] reports it. (Specification
// 01, section 4.2.)
func PublicState(v flowfabric.StateVector) flowfabric.PublicState {
	switch v.LifecyclePhase {
	case flowfabric.PhaseTerminal:
		return publicOutcome(v.TerminalOutcome)
	case flowfabric.PhaseSuspended:
		return flowfabric.PublicSuspended
	case flowfabric.PhaseActive:
		return flowfabric.PublicActive
	case flowfabric.PhaseRunnable:
		return publicRunnable(v.EligibilityState)
	}
	return flowfabric.PublicWaiting
}

func publicOutcome(o flowfabric.TerminalOutcome) flowfabric.PublicState {
	switch o {
	case flowfabric.OutcomeSuccess:
		return flowfabric.PublicCompleted
	case flowfabric.OutcomeCancelled:
		return flowfabric.PublicCancelled
	case flowfabric.OutcomeExpired:
		return flowfabric.PublicExpired
	case flowfabric.OutcomeSkipped:
		return flowfabric.PublicSkipped
	}
	return flowfabric.PublicFailed
}

func publicRunnable(e flowfabric.EligibilityState) flowfabric.PublicState {
	switch e {
	case flowfabric.NotEligibleUntilTime:
		return flowfabric.PublicDelayed
	case flowfabric.BlockedByDependencies:
		return flowfabric.PublicWaitingChildren
	case flowfabric.BlockedByBudget, flowfabric.BlockedByQuota:
		return flowfabric.PublicRateLimited
	}
	return flowfabric.PublicWaiting
}

// Check reports the first validity constraint V1 to V11 that the state breaks,
// as invariant_violation with the detail "rule". (Specification 01, section
// 4.4.)
func Check(s *State) error {
	e := &s.Exec
	rule, what := checkPhase(e)
	if rule == "" {
		rule, what = checkAttempt(e)
	}
	if rule == "" && !reasonFits(&e.StateVector) {
		rule, what = "V11", "blocking reason does not fit the state"
	}
	if rule == "" && e.PublicState != PublicState(e.StateVector) {
		rule, what = "V11", "public state is not the derived one"
	}
	if rule == "" {
		return nil
	}
	v := &e.StateVector
	return flowfabric.NewError(flowfabric.CodeInvariantViolation,
		"%s of %s: %s (%s/%s/%s/%s/%s/%s)", rule, e.ExecutionID, what, v.LifecyclePhase, v.OwnershipState,
		v.EligibilityState, v.BlockingReason, v.TerminalOutcome, v.AttemptState).With("rule", rule)
}

// checkPhase is V1 to V4 and V8.
func checkPhase(e *flowfabric.Execution) (rule, what string) {
	owned := e.OwnershipState != flowfabric.OwnershipUnowned
	ended := e.TerminalOutcome != flowfabric.OutcomeNone
	applicable := e.EligibilityState != flowfabric.EligibilityNotApplicable
	switch e.LifecyclePhase {
	case flowfabric.PhaseActive:
		if !owned {
			return "V2", "active without owner"
		}
		if applicable {
			return "V4", "active with an eligibility"
		}
	case flowfabric.PhaseRunnable:
		if owned {
			return "V1", "runnable with an owner"
		}
		if !applicable {
			return "V4", "runnable without eligibility"
		}
	case flowfabric.PhaseSuspended, flowfabric.PhaseTerminal:
		if owned {
			return "V1", "suspended or terminal with an owner"
		}
		if applicable {
			return "V4", "suspended or terminal with an eligibility"
		}
	default:
		return "V11", "phase is not one that is stored"
	}
	if ended != (e.LifecyclePhase == flowfabric.PhaseTerminal) {
		return "V3", "outcome and phase contradict each other"
	}
	if e.OwnershipState == flowfabric.OwnershipLeased && (e.CurrentLeaseID == "" || e.CurrentAttemptID == "" ||
		e.CurrentWorkerInstanceID == "" || e.LeaseExpiresAt == 0) {
		return "V8", "leased without lease, attempt, instance or expiry"
	}
	return "", ""
}

// checkAttempt is V5 to V7, V9 and V10.
func checkAttempt(e *flowfabric.Execution) (rule, what string) {
	running := e.AttemptState == flowfabric.AttemptRunning
	interrupted := e.AttemptState == flowfabric.AttemptInterrupted
	switch e.LifecyclePhase {
	case flowfabric.PhaseActive:
		leased := e.OwnershipState == flowfabric.OwnershipLeased
		if leased != running {
			return "V5", "running attempt and lease contradict each other"
		}
		if !leased && !interrupted {
			return "V6", "lease lapsed or revoked, attempt not interrupted"
		}
		return "", ""
	case flowfabric.PhaseSuspended:
		if !interrupted {
			return "V7", "suspended without interrupted attempt"
		}
	case flowfabric.PhaseRunnable:
		if e.AttemptState == flowfabric.AttemptNone || e.AttemptState == flowfabric.AttemptTerminal {
			return "V9", "runnable with no attempt to come"
		}
	case flowfabric.PhaseTerminal:
		if !terminalAttemptFits(e) {
			return "V10", "attempt state does not fit the ending"
		}
	}
	if running {
		return "V5", "running attempt without lease"
	}
	return "", ""
}

func terminalAttemptFits(e *flowfabric.Execution) bool {
	if e.TotalAttemptCount > 0 {
		return e.AttemptState == flowfabric.AttemptTerminal
	}
	switch e.TerminalOutcome {
	case flowfabric.OutcomeSkipped:
		return e.AttemptState == flowfabric.AttemptNone
	case flowfabric.OutcomeCancelled, flowfabric.OutcomeExpired:
		return e.AttemptState == flowfabric.AttemptPendingFirst ||
			e.AttemptState == flowfabric.AttemptPendingReplay && e.ReplayCount > 0
	}
	return false
}

// reasonFits is the table of specification 01, section 4.3.
func reasonFits(v *flowfabric.StateVector) bool {
	suspended := v.LifecyclePhase == flowfabric.PhaseSuspended
	switch v.BlockingReason {
	case flowfabric.ReasonNone:
		return v.LifecyclePhase == flowfabric.PhaseTerminal || v.OwnershipState == flowfabric.OwnershipLeased
	case flowfabric.ReasonWaitingForWorker:
		return v.EligibilityState == flowfabric.EligibleNow ||
			v.LifecyclePhase == flowfabric.PhaseActive && v.OwnershipState != flowfabric.OwnershipLeased
	case flowfabric.ReasonWaitingForRetryBackoff, flowfabric.ReasonWaitingForResumeDelay, flowfabric.ReasonWaitingForDelay:
		return v.EligibilityState == flowfabric.NotEligibleUntilTime
	case flowfabric.ReasonWaitingForChildren:
		return v.EligibilityState == flowfabric.BlockedByDependencies
	case flowfabric.ReasonWaitingForBudget:
		return v.EligibilityState == flowfabric.BlockedByBudget || suspended
	case flowfabric.ReasonWaitingForQuota:
		return v.EligibilityState == flowfabric.BlockedByQuota
	case flowfabric.ReasonWaitingForCapableWorker, flowfabric.ReasonWaitingForLocalityMatch:
		return v.EligibilityState == flowfabric.BlockedByRoute
	case flowfabric.ReasonPausedByPolicy:
		return v.EligibilityState == flowfabric.BlockedByLaneState || suspended
	case flowfabric.ReasonPausedByOperator:
		return v.EligibilityState == flowfabric.BlockedByOperator || suspended
	case flowfabric.ReasonWaitingForSignal, flowfabric.ReasonWaitingForApproval,
		flowfabric.ReasonWaitingForCallback, flowfabric.ReasonWaitingForToolResult:
		return suspended
	}
	return false
}

// Place says in which orders the execution stands at now. A lease that is
// overdue but not marked yet is not offered: its duty marks it first.
func Place(s *State, now flowfabric.Millis) Placement {
	e := &s.Exec
	p := Placement{PrioKey: int64(e.CreatedAt) - int64(e.Priority)*1_000_000_000_000}
	switch e.LifecyclePhase {
	case flowfabric.PhaseActive:
		p.DueAt = e.AttemptTimeoutAt
		if e.OwnershipState != flowfabric.OwnershipLeaseRevoked {
			p.LeaseExpiresAt = e.LeaseExpiresAt
		}
		if e.OwnershipState == flowfabric.OwnershipLeased {
			p.Holder = e.CurrentWorkerInstanceID
			p.DueAt = sooner(p.DueAt, e.LeaseExpiresAt)
			break
		}
		p.DueAt = sooner(p.DueAt, e.ReclaimNotBefore)
		if !e.ReclaimHold && atReclaimCap(s) {
			p.DueAt = sooner(p.DueAt, lostAt(e))
		}
		p.Offered = !e.ReclaimHold && e.ReclaimNotBefore <= now && !LiveGrant(s, now)
	case flowfabric.PhaseRunnable:
		p.Offered = e.EligibilityState == flowfabric.EligibleNow && !LiveGrant(s, now)
		if e.EligibilityState == flowfabric.NotEligibleUntilTime {
			p.DueAt = e.DelayUntil
		}
	case flowfabric.PhaseSuspended:
		if s.Wait != nil && s.Wait.Suspension != nil {
			p.DueAt = s.Wait.Suspension.TimeoutAt
		}
	case flowfabric.PhaseTerminal:
		p.DueAt = e.PurgeAfter
		return p
	}
	p.DueAt = sooner(p.DueAt, e.ExecutionDeadlineAt)
	p.DueAt = sooner(p.DueAt, pendingExpiry(s))
	if s.Grant != nil && !s.Grant.Lapsed {
		p.DueAt = sooner(p.DueAt, s.Grant.ExpiresAt)
	}
	return p
}

// sooner returns the earlier instant; zero means never.
func sooner(a, b flowfabric.Millis) flowfabric.Millis {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}

// lostAt is when the lease lapsed or was revoked.
func lostAt(e *flowfabric.Execution) flowfabric.Millis {
	if e.OwnershipState == flowfabric.OwnershipLeaseRevoked {
		return e.LeaseRevokedAt
	}
	return e.LeaseExpiredAt
}

// lost reports whether the execution is active with a lease lapsed (and marked)
// or revoked: it may be reclaimed.
func lost(e *flowfabric.Execution) bool {
	return e.LifecyclePhase == flowfabric.PhaseActive && e.OwnershipState != flowfabric.OwnershipLeased
}

// overdue reports whether a lease is past its expiry and nobody has marked it.
func overdue(e *flowfabric.Execution, now flowfabric.Millis) bool {
	return e.LifecyclePhase == flowfabric.PhaseActive && e.OwnershipState == flowfabric.OwnershipLeased && e.LeaseExpiresAt <= now
}

// step is a transition in the making: the state as it was, to be put back when
// the new one breaks a rule, and the effects collected so far.
type step struct {
	s   *State
	now flowfabric.Millis
	fx  Effects
	old State
}

// begin keeps the state as it is. Slices, maps and pointers are shared with it,
// so a transition replaces them and never writes through them.
func begin(s *State, now flowfabric.Millis) step {
	return step{s: s, now: now, old: *s}
}

// finish stamps the record and checks it. On a violation the state is put back
// and the effects are void.
func (t *step) finish() (Effects, error) {
	e := &t.s.Exec
	e.PublicState = PublicState(e.StateVector)
	if e.StateVector != t.old.Exec.StateVector {
		e.LastTransitionAt = max(t.now, e.LastTransitionAt)
	}
	e.LastMutationAt = max(t.now, e.LastMutationAt)
	if err := Check(t.s); err != nil {
		*t.s = t.old
		return Effects{}, err
	}
	t.fx.Changed = true
	return t.fx, nil
}

// settle is finish for rules that report a violation in Effects.Err.
func (t *step) settle() Effects {
	fx, err := t.finish()
	fx.Err = err
	return fx
}

// addMs adds a duration to an instant without overflow.
func addMs(at flowfabric.Millis, ms int64) flowfabric.Millis {
	const latest = flowfabric.Millis(1<<63 - 1)
	if ms > 0 && at > latest-flowfabric.Millis(ms) {
		return latest
	}
	return at + flowfabric.Millis(ms)
}
