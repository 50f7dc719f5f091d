package rules_test

import (
	"testing"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/rules"
)

func TestPublicStateIsTotal(t *testing.T) {
	const (
		runnable, active, suspended, terminal = flowfabric.PhaseRunnable, flowfabric.PhaseActive, flowfabric.PhaseSuspended, flowfabric.PhaseTerminal
	)
	for _, tc := range []struct {
		phase       flowfabric.LifecyclePhase
		eligibility flowfabric.EligibilityState
		outcome     flowfabric.TerminalOutcome
		want        flowfabric.PublicState
	}{
		{terminal, "", flowfabric.OutcomeSuccess, flowfabric.PublicCompleted},
		{terminal, "", flowfabric.OutcomeFailed, flowfabric.PublicFailed},
		{terminal, "", flowfabric.OutcomeCancelled, flowfabric.PublicCancelled},
		{terminal, "", flowfabric.OutcomeExpired, flowfabric.PublicExpired},
		{terminal, "", flowfabric.OutcomeSkipped, flowfabric.PublicSkipped},
		{terminal, "", flowfabric.OutcomeNone, flowfabric.PublicFailed},
		{suspended, flowfabric.EligibleNow, flowfabric.OutcomeNone, flowfabric.PublicSuspended},
		{active, flowfabric.BlockedByBudget, flowfabric.OutcomeNone, flowfabric.PublicActive},
		{runnable, flowfabric.EligibleNow, flowfabric.OutcomeNone, flowfabric.PublicWaiting},
		{runnable, flowfabric.NotEligibleUntilTime, flowfabric.OutcomeNone, flowfabric.PublicDelayed},
		{runnable, flowfabric.BlockedByDependencies, flowfabric.OutcomeNone, flowfabric.PublicWaitingChildren},
		{runnable, flowfabric.BlockedByBudget, flowfabric.OutcomeNone, flowfabric.PublicRateLimited},
		{runnable, flowfabric.BlockedByQuota, flowfabric.OutcomeNone, flowfabric.PublicRateLimited},
		{runnable, flowfabric.BlockedByRoute, flowfabric.OutcomeNone, flowfabric.PublicWaiting},
		{runnable, flowfabric.BlockedByLaneState, flowfabric.OutcomeNone, flowfabric.PublicWaiting},
		{runnable, flowfabric.BlockedByOperator, flowfabric.OutcomeNone, flowfabric.PublicWaiting},
		{runnable, flowfabric.EligibilityNotApplicable, flowfabric.OutcomeNone, flowfabric.PublicWaiting},
		{flowfabric.PhaseSubmitted, "", "", flowfabric.PublicWaiting},
		{"nonsense", "nonsense", "nonsense", flowfabric.PublicWaiting},
	} {
		v := flowfabric.StateVector{LifecyclePhase: tc.phase, EligibilityState: tc.eligibility, TerminalOutcome: tc.outcome}
		if got := rules.PublicState(v); got != tc.want {
			t.Errorf("%+v: %s, want %s", v, got, tc.want)
		}
	}
}

func TestCheckFindsEveryViolation(t *testing.T) {
	states := map[string]func(t *testing.T) *world{
		"waiting": func(t *testing.T) *world { return newWorld(t) },
		"active": func(t *testing.T) *world {
			w := newWorld(t)
			w.claim()
			return w
		},
		"lapsed": func(t *testing.T) *world {
			w := newWorld(t)
			w.claim()
			w.lapse()
			return w
		},
		"suspended": func(t *testing.T) *world {
			w := newWorld(t)
			w.claim()
			suspend(w)
			return w
		},
		"completed": func(t *testing.T) *world {
			w := newWorld(t)
			if err := w.complete(w.claim().Fence); err != nil {
				t.Fatal(err)
			}
			return w
		},
		"cancelled unrun": func(t *testing.T) *world {
			w := newWorld(t)
			if _, err := w.cancel(flowfabric.SourceOperatorOverride, flowfabric.Fence{}); err != nil {
				t.Fatal(err)
			}
			return w
		},
	}
	for _, tc := range []struct {
		state, rule string
		corrupt     func(e *flowfabric.Execution)
	}{
		{"waiting", "V1", func(e *flowfabric.Execution) { e.OwnershipState = flowfabric.OwnershipLeased }},
		{"suspended", "V1", func(e *flowfabric.Execution) { e.OwnershipState = flowfabric.OwnershipLeaseRevoked }},
		{"completed", "V1", func(e *flowfabric.Execution) { e.OwnershipState = flowfabric.OwnershipLeaseExpired }},
		{"active", "V2", func(e *flowfabric.Execution) { e.OwnershipState = flowfabric.OwnershipUnowned }},
		{"active", "V3", func(e *flowfabric.Execution) { e.TerminalOutcome = flowfabric.OutcomeSuccess }},
		{"completed", "V3", func(e *flowfabric.Execution) { e.TerminalOutcome = flowfabric.OutcomeNone }},
		{"waiting", "V4", func(e *flowfabric.Execution) { e.EligibilityState = flowfabric.EligibilityNotApplicable }},
		{"active", "V4", func(e *flowfabric.Execution) { e.EligibilityState = flowfabric.EligibleNow }},
		{"suspended", "V4", func(e *flowfabric.Execution) { e.EligibilityState = flowfabric.EligibleNow }},
		{"completed", "V4", func(e *flowfabric.Execution) { e.EligibilityState = flowfabric.EligibleNow }},
		{"active", "V5", func(e *flowfabric.Execution) { e.AttemptState = flowfabric.AttemptInterrupted }},
		{"lapsed", "V5", func(e *flowfabric.Execution) { e.AttemptState = flowfabric.AttemptRunning }},
		{"waiting", "V5", func(e *flowfabric.Execution) { e.AttemptState = flowfabric.AttemptRunning }},
		{"lapsed", "V6", func(e *flowfabric.Execution) { e.AttemptState = flowfabric.AttemptPendingRetry }},
		{"suspended", "V7", func(e *flowfabric.Execution) { e.AttemptState = flowfabric.AttemptPendingRetry }},
		{"active", "V8", func(e *flowfabric.Execution) { e.CurrentLeaseID = "" }},
		{"active", "V8", func(e *flowfabric.Execution) { e.CurrentAttemptID = "" }},
		{"active", "V8", func(e *flowfabric.Execution) { e.CurrentWorkerInstanceID = "" }},
		{"active", "V8", func(e *flowfabric.Execution) { e.LeaseExpiresAt = 0 }},
		{"waiting", "V9", func(e *flowfabric.Execution) { e.AttemptState = flowfabric.AttemptNone }},
		{"waiting", "V9", func(e *flowfabric.Execution) { e.AttemptState = flowfabric.AttemptTerminal }},
		{"completed", "V10", func(e *flowfabric.Execution) { e.AttemptState = flowfabric.AttemptPendingFirst }},
		{"completed", "V10", func(e *flowfabric.Execution) { e.TotalAttemptCount = 0 }},
		{"cancelled unrun", "V10", func(e *flowfabric.Execution) { e.AttemptState = flowfabric.AttemptTerminal }},
		{"cancelled unrun", "V10", func(e *flowfabric.Execution) { e.AttemptState = flowfabric.AttemptPendingReplay }},
		{"cancelled unrun", "V10", func(e *flowfabric.Execution) { e.TerminalOutcome = flowfabric.OutcomeSkipped }},
		{"waiting", "V11", func(e *flowfabric.Execution) { e.BlockingReason = flowfabric.ReasonNone }},
		{"waiting", "V11", func(e *flowfabric.Execution) { e.BlockingReason = flowfabric.ReasonWaitingForRetryBackoff }},
		{"waiting", "V11", func(e *flowfabric.Execution) { e.EligibilityState = flowfabric.BlockedByBudget }},
		{"active", "V11", func(e *flowfabric.Execution) { e.BlockingReason = flowfabric.ReasonWaitingForWorker }},
		{"lapsed", "V11", func(e *flowfabric.Execution) { e.BlockingReason = flowfabric.ReasonNone }},
		{"suspended", "V11", func(e *flowfabric.Execution) { e.BlockingReason = flowfabric.ReasonWaitingForWorker }},
		{"completed", "V11", func(e *flowfabric.Execution) { e.BlockingReason = "invented" }},
		{"waiting", "V11", func(e *flowfabric.Execution) { e.PublicState = flowfabric.PublicActive }},
		{"waiting", "V11", func(e *flowfabric.Execution) { e.LifecyclePhase = flowfabric.PhaseSubmitted }},
	} {
		w := states[tc.state](t)
		tc.corrupt(&w.s.Exec)
		err := rules.Check(w.s)
		wantCode(t, err, flowfabric.CodeInvariantViolation)
		wantDetail(t, err, "rule", tc.rule)
	}
}

func TestViolationWritesNothing(t *testing.T) {
	w := newWorld(t)
	task := w.claim()
	w.s.Exec.PendingAttemptType = ""
	w.s.Exec.TotalAttemptCount = 0 // a record that contradicts itself: nothing ever ran
	before := *w.s
	_, fx, err := rules.Complete(w.s, flowfabric.CompleteExecutionArgs{Fence: task.Fence}, w.now)
	wantCode(t, err, flowfabric.CodeInvariantViolation)
	if fx.Changed || len(fx.Events) != 0 || w.s.Exec.StateVector != before.Exec.StateVector || w.s.Attempt != before.Attempt {
		t.Errorf("effects %+v", fx)
	}
	w.now = w.s.Exec.LeaseExpiresAt
	w.s.Exec.ExecutionDeadlineAt = w.now
	if fx := rules.RunDuty(w.s, rules.DutyExecutionDeadline, w.now, nil); fx.Err == nil || fx.Changed {
		t.Errorf("effects %+v", fx)
	}
}
