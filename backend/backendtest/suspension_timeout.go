package backendtest

import (
	"fmt"

	"github.com/flowfabric/flowfabric"
)

// timeoutScenarios: specification 03, sections 3.5 and 4.6.
func timeoutScenarios(r *runner) {
	r.scenario("03.29 timeout: fail", func(s *scene) {
		id, at := s.timedOut(flowfabric.TimeoutFail)
		s.is(id, endedVector(flowfabric.OutcomeFailed, flowfabric.AttemptTerminal))
		d := s.describe(id)
		s.equal("why", facts(d.FailureReason, d.FailureCategory, d.CurrentWaitpointID), facts("suspension_timeout:fail", "timeout", ""))
		a := s.attempt(id, 0)
		s.equal("attempt", facts(a.AttemptState, a.FailureReason, a.FailureCategory, a.EndedAt), facts("ended_failure", "suspension_timeout:fail", "timeout", s.now()))
		s.closed(id, flowfabric.ClosedTimedOutFail)
		events := s.events(flowfabric.FeedCompletions, id)
		s.equal("completion events", len(events), 1)
		s.equal("completion", facts(events[0].Outcome, events[0].Cause, events[0].FailureReason, events[0].FailureCategory), "failed suspension_timeout suspension_timeout:fail timeout")
		s.ended(id, at)
	})

	r.scenario("03.3.5 timeout: cancel", func(s *scene) {
		id, at := s.timedOut(flowfabric.TimeoutCancel)
		s.is(id, endedVector(flowfabric.OutcomeCancelled, flowfabric.AttemptTerminal))
		d := s.describe(id)
		s.equal("why", facts(d.CancellationReason, d.CancelledBy, d.FailureReason), facts("suspension_timeout:cancel", "system_timeout", ""))
		s.equal("attempt", s.attempt(id, 0).AttemptState, flowfabric.AttemptEndedCancelled)
		s.closed(id, flowfabric.ClosedTimedOutCancel)
		events := s.events(flowfabric.FeedCompletions, id)
		s.equal("completions", len(events), 1)
		s.equal("completion", facts(events[0].Outcome, events[0].Cause), "cancelled suspension_timeout")
		s.ended(id, at)
	})

	r.scenario("03.3.5 timeout: expire", func(s *scene) {
		id, at := s.timedOut(flowfabric.TimeoutExpire)
		s.is(id, endedVector(flowfabric.OutcomeExpired, flowfabric.AttemptTerminal))
		s.equal("why", s.describe(id).FailureReason, "suspension_timeout:expire")
		s.equal("attempt", s.attempt(id, 0).AttemptState, flowfabric.AttemptEndedFailure)
		s.closed(id, flowfabric.ClosedTimedOutExpire)
		events := s.events(flowfabric.FeedCompletions, id)
		s.equal("completions", len(events), 1)
		s.equal("completion", facts(events[0].Outcome, events[0].Cause), "expired suspension_timeout")
		s.ended(id, at)
	})

	r.scenario("03.3.5 a suspension's timeout is final, whatever the retry policy", func(s *scene) {
		id, task := s.createClaimed(withPolicy(retryAtOnce))
		s.suspendOn(task, flowfabric.OperatorOnly(), timesOut(1000, flowfabric.TimeoutFail))
		s.advance(1000)
		s.tick()
		s.is(id, endedVector(flowfabric.OutcomeFailed, flowfabric.AttemptTerminal))
	})

	r.scenario("03.30 timeout: auto-resume with one of three satisfiers", func(s *scene) {
		id, at := s.suspended(flowfabric.AllOfWaitpoints("a", "b", "c"), timesOut(1000, flowfabric.TimeoutAutoResume))
		one := s.deliver(at[1], "x", flowfabric.EffectAppended)
		s.advance(1000)
		s.tick()
		s.is(id, waitingVector(flowfabric.AttemptInterrupted))
		x := s.closed(id, flowfabric.ClosedTimedOutResume)
		signals := s.signals(id)
		s.equal("recorded", len(signals), 2)
		g := s.getSignal(id, signals[1].SignalID)
		s.equal("the timeout's signal", facts(g.SignalName, g.SignalCategory, g.SourceType, g.SourceIdentity, len(g.Payload), g.WaitpointID, g.Effect, g.ConsumedBySuspensionID, g.AcceptedAt, g.Seq),
			facts("timeout", "timeout", "engine", "suspension_timeout", 0, at[0].waitpoint, "resume_condition_satisfied", x.SuspensionID, s.now(), 2))
		s.equal("closer", x.CloserSignalID, g.SignalID)
		s.equal("satisfiers", x.SatisfierSignalIDs, []flowfabric.SignalID{one, g.SignalID})
		for _, w := range at {
			s.gone(w)
		}
		task := s.claimBy(id, workerB)
		s.equal("signals", s.observed(task), []string{"x", "timeout"})
		s.equal("attempt and epoch", facts(task.AttemptIndex, task.Fence.LeaseEpoch), "0 2")
		s.equal("events", signalKinds(s.events(flowfabric.FeedSignals, id)), []string{"appended"})
	})

	r.scenario("03.31 timeout: escalate", func(s *scene) {
		id, task := s.createClaimed()
		at := s.suspendOn(task, flowfabric.AnyOfNames("go", "ready"), timesOut(1000, flowfabric.TimeoutEscalate))
		deadline := s.now() + 1000
		s.advance(1500)
		got := s.expire(id)
		s.equal("result", got, flowfabric.ExpireSuspensionResult{
			Outcome: flowfabric.SuspensionTimeoutApplied, Behavior: flowfabric.TimeoutEscalate, PublicState: flowfabric.PublicSuspended,
		})
		s.stillSuspended(id, flowfabric.ReasonPausedByOperator)
		s.equal("detail", s.describe(id).BlockingDetail, fmt.Sprintf("suspended: timeout passed at %d, awaiting operator", deadline))
		x := s.suspension(id)
		s.equal("suspension", facts(x.ReasonCode, x.EscalatedAt, x.TimeoutAt, x.TimeoutBehavior), facts("waiting_for_operator_review", s.now(), 0, ""))
		w := s.listWaitpoints(id)
		s.equal("waitpoint", facts(len(w), w[0].State, w[0].ExpiresAt, w[0].ConditionKind, w[0].RequiredSignalNames), facts(1, "active", 0, "operator_only", "[]"))
		s.equal("attempt", s.attempt(id, 0).AttemptState, flowfabric.AttemptSuspended)
		s.deliver(at[0], "ready", flowfabric.EffectNotInCondition)
		s.stillSuspended(id, flowfabric.ReasonPausedByOperator)

		// It happens once.
		s.advance(1_000_000)
		s.tick()
		s.unchanged(id, func() { s.equal("again", s.expire(id).Reason, "not_yet_due") })
		s.resume(id)
		s.closed(id, flowfabric.ClosedOperatorResume)
		s.equal("signals", len(s.observe(s.claim(id))), 0)
		s.gone(at[0])
	})

	r.scenario("03.3.5 an escalated suspension may be cancelled", func(s *scene) {
		id, at := s.timedOut(flowfabric.TimeoutEscalate)
		s.operatorCancel(id)
		s.closed(id, flowfabric.ClosedCancelled)
		s.ended(id, at)
	})

	r.scenario("03.13 timeout_only", func(s *scene) {
		id, task := s.createClaimed()
		s.unchanged(id, func() {
			_, err := s.trySuspend(task, flowfabric.TimeoutOnly())
			s.assertCode(err, flowfabric.CodeInvalidResumeCondition)
			s.assertMentions(err, "timeout_only_without_deadline")
		})
		at := s.suspendOn(task, flowfabric.TimeoutOnly(), timesOut(1000, flowfabric.TimeoutAutoResume))
		s.equal("listed", facts(s.listWaitpoints(id)[0].ConditionKind, s.listWaitpoints(id)[0].ExpiresAt), facts("timeout_only", s.now()+1000))
		s.deliver(at[0], "x", flowfabric.EffectNotInCondition)
		s.advance(1000)
		s.tick()
		s.is(id, waitingVector(flowfabric.AttemptInterrupted))
		s.equal("signals", s.observed(s.claim(id)), []string{"timeout"})
	})

	r.scenario("03.46 the resume delay is not for the timeout", func(s *scene) {
		id, _ := s.suspended(flowfabric.OperatorOnly(), timesOut(1000, flowfabric.TimeoutAutoResume), resumes(flowfabric.ResumePolicy{ResumeDelayMs: 5000}))
		s.advance(1000)
		got := s.expire(id)
		s.equal("result", got, flowfabric.ExpireSuspensionResult{
			Outcome: flowfabric.SuspensionTimeoutApplied, Behavior: flowfabric.TimeoutAutoResume, PublicState: flowfabric.PublicWaiting,
		})
		s.is(id, waitingVector(flowfabric.AttemptInterrupted))
	})

	r.scenario("03.3.5 what commits first decides: a signal after the deadline", func(s *scene) {
		id, at := s.suspended(flowfabric.AnyOfNames("go", "ready"), timesOut(1000, flowfabric.TimeoutFail))
		s.advance(5000)
		s.deliver(at[0], "ready", flowfabric.EffectResumed)
		s.is(id, waitingVector(flowfabric.AttemptInterrupted))
		s.tick()
		s.closed(id, flowfabric.ClosedResumed)
		s.unchanged(id, func() { s.equal("late timeout", s.expire(id).Reason, "not_suspended") })
		s.complete(s.claim(id))

		id, at = s.suspended(flowfabric.AnyOfNames("go", "ready"), timesOut(1000, flowfabric.TimeoutFail))
		s.advance(1000)
		s.tick()
		s.ended(id, at)
	})

	r.scenario("03.4.6 ExpireSuspension is never an error", func(s *scene) {
		notApplied := func(id flowfabric.ExecutionID) string {
			got := s.expire(id)
			s.equal("outcome", got.Outcome, flowfabric.SuspensionTimeoutNotApplied)
			return got.Reason
		}
		s.equal("unknown", notApplied(idOn(1)), "execution_not_found")
		active, _ := s.createClaimed()
		for _, id := range []flowfabric.ExecutionID{s.create(), active, s.end()} {
			s.unchanged(id, func() { s.equal("not suspended", notApplied(id), "not_suspended") })
		}
		id, _ := s.suspended(flowfabric.OperatorOnly(), timesOut(1000, flowfabric.TimeoutFail))
		s.advance(999)
		s.tick()
		s.unchanged(id, func() { s.equal("early", notApplied(id), "not_yet_due") })
		s.advance(1)
		s.equal("due", s.expire(id), flowfabric.ExpireSuspensionResult{
			Outcome: flowfabric.SuspensionTimeoutApplied, Behavior: flowfabric.TimeoutFail, PublicState: flowfabric.PublicFailed,
		})
		s.unchanged(id, func() { s.equal("twice", notApplied(id), "not_suspended") })
		id, _ = s.suspended(flowfabric.OperatorOnly())
		s.unchanged(id, func() { s.equal("no timeout", notApplied(id), "not_yet_due") })
	})

	r.scenario("03.4.2 an absolute timeout may be late by ten minutes", func(s *scene) {
		id, task := s.createClaimed()
		at := func(instant flowfabric.Millis) suspendOption {
			return func(a *flowfabric.SuspendArgs) { a.TimeoutAt = instant }
		}
		s.unchanged(id, func() {
			_, err := s.trySuspend(task, flowfabric.OperatorOnly(), at(s.now()-600_001))
			s.assertField(err, "timeout_at")
			s.assertMentions(err, "timeout_at_in_past")
		})
		s.suspendOn(task, flowfabric.OperatorOnly(), at(s.now()-600_000))
		s.stillSuspended(id, flowfabric.ReasonWaitingForSignal)
		s.equal("timeout_at", s.suspension(id).TimeoutAt, s.now()-600_000)
		s.tick()
		s.is(id, endedVector(flowfabric.OutcomeFailed, flowfabric.AttemptTerminal))
	})

	r.scenario("03.4.2 a timeout beyond all instants is the last of them", func(s *scene) {
		id, _ := s.suspended(flowfabric.OperatorOnly(), timesOut(int64(flowfabric.MaxInstant), flowfabric.TimeoutFail))
		s.equal("timeout_at", s.suspension(id).TimeoutAt, flowfabric.MaxInstant)
	})

	r.scenario("03.2.1 timeout and behaviour come from the policy when the worker gives none", func(s *scene) {
		policy := withPolicy(`{"suspension_policy":{"default_timeout_ms":7000,"timeout_behavior":"cancel"}}`)
		for _, c := range []struct {
			name     string
			create   []createOption
			suspend  []suspendOption
			timeout  flowfabric.Millis
			behavior flowfabric.TimeoutBehavior
		}{
			{"nothing anywhere", nil, nil, 0, ""},
			{"a behaviour of no timeout", nil, []suspendOption{func(a *flowfabric.SuspendArgs) { a.TimeoutBehavior = flowfabric.TimeoutCancel }}, 0, ""},
			{"the worker's timeout", nil, []suspendOption{timesOut(5, "")}, 5, flowfabric.TimeoutFail},
			{"the policy's", []createOption{policy}, nil, 7000, flowfabric.TimeoutCancel},
			{"the worker's behaviour", []createOption{policy}, []suspendOption{func(a *flowfabric.SuspendArgs) { a.TimeoutBehavior = flowfabric.TimeoutExpire }}, 7000, flowfabric.TimeoutExpire},
			{"the worker's timeout, the policy's behaviour", []createOption{policy}, []suspendOption{timesOut(5, "")}, 5, flowfabric.TimeoutCancel},
		} {
			id, task := s.createClaimed(c.create...)
			s.suspendOn(task, flowfabric.OperatorOnly(), c.suspend...)
			want := c.timeout
			if want > 0 {
				want += s.now()
			}
			x := s.suspension(id)
			s.equal(c.name, facts(x.TimeoutAt, x.TimeoutBehavior), facts(want, c.behavior))
		}
	})

	r.scenario("01.9 what has passed at once: the deadline before the suspension's timeout", func(s *scene) {
		id, task := s.createClaimed(withDeadline(s.now() + 2000))
		s.suspendOn(task, flowfabric.OperatorOnly(), timesOut(1000, flowfabric.TimeoutCancel))
		s.advance(2000)
		s.tick()
		s.is(id, endedVector(flowfabric.OutcomeExpired, flowfabric.AttemptTerminal))
		s.closed(id, flowfabric.ClosedDeadlineExpired)
		id, task = s.createClaimed(withDeadline(s.now() + 1000))
		s.suspendOn(task, flowfabric.OperatorOnly(), timesOut(2000, flowfabric.TimeoutCancel))
		s.advance(999)
		s.tick()
		s.stillSuspended(id, flowfabric.ReasonWaitingForSignal)
		s.advance(1)
		s.tick()
		s.closed(id, flowfabric.ClosedDeadlineExpired)
	})

	r.scenario("01.9 the tick knows when the next timeout or end of a waitpoint comes", func(s *scene) {
		_, task := s.createClaimed()
		s.suspendOn(task, flowfabric.OperatorOnly(), timesOut(5000, flowfabric.TimeoutFail))
		next := func() flowfabric.Millis {
			got, err := s.store().Tick(s.ctx, flowfabric.TickArgs{})
			s.ok(err)
			return got.NextDue
		}
		s.that(next() <= s.now()+5000, "the tick sleeps over the timeout: %d", next())
		_, task = s.createClaimed(withPriority(1))
		a := pendingArgs(task, "p")
		a.ExpiresInMs = 1000
		_, err := s.tryPending(a)
		s.ok(err)
		s.that(next() <= s.now()+1000, "the tick sleeps over the waitpoint's end: %d", next())
	})

	r.scenario("03.6 the tick applies many timeouts and counts them", func(s *scene) {
		var ids []flowfabric.ExecutionID
		for range 30 {
			id, task := s.createClaimed(onPartition(testPartition))
			s.suspendOn(task, flowfabric.OperatorOnly(), timesOut(1000, flowfabric.TimeoutFail))
			ids = append(ids, id)
		}
		s.advance(1000)
		applied := 0
		for range 100 {
			got, err := s.store().Tick(s.ctx, flowfabric.TickArgs{Limit: 7})
			s.ok(err)
			s.equal("errors", got.Errors, 0)
			applied += got.Duties["suspension_timeout"]
			if !got.More {
				break
			}
		}
		s.equal("applied", applied, len(ids))
		for _, id := range ids {
			s.is(id, endedVector(flowfabric.OutcomeFailed, flowfabric.AttemptTerminal))
		}
	})
}

// timedOut creates an execution whose wait on three waitpoints has timed out.
func (s *scene) timedOut(b flowfabric.TimeoutBehavior) (flowfabric.ExecutionID, []address) {
	s.t.Helper()
	id, at := s.suspended(flowfabric.AllOfWaitpoints("a", "b", "c"), timesOut(1000, b))
	s.advance(999)
	s.tick()
	s.stillSuspended(id, flowfabric.ReasonWaitingForSignal)
	s.advance(1)
	s.tick()
	return id, at
}

// ended fails unless an execution that waited has ended with all that belongs to
// its wait: no waitpoint is open, and none takes a signal.
func (s *scene) ended(id flowfabric.ExecutionID, at []address) {
	s.t.Helper()
	s.that(s.publicState(id).Terminal(), "%s has not ended", id)
	s.equal("open waitpoints", s.open(id), "")
	s.equal("eligible", len(s.eligible()), 0)
	for _, w := range at {
		s.unchanged(id, func() {
			_, err := s.tryDeliver(w, "late")
			s.assertCode(err, flowfabric.CodeTargetNotSignalable)
		})
		s.equal("token", s.readToken(id, w.waitpoint), "")
	}
	_, err := s.tryResume(id, nil)
	s.assertCode(err, flowfabric.CodeExecutionNotSuspended)
	for _, x := range s.listSuspended(flowfabric.ListSuspendedArgs{Partition: ptr(id.Partition())}) {
		s.that(x.ExecutionID != id, "%s is still listed as suspended", id)
	}
}

func signalKinds(events []flowfabric.Event) []string {
	var out []string
	for _, e := range events {
		out = append(out, e.Kind)
	}
	return out
}
