package backendtest

import (
	"strings"

	"github.com/flowfabric/flowfabric"
)

// resumeScenarios: specification 03, sections 3.7, 4.5 and 4.9: the end of a
// wait.
func resumeScenarios(r *runner) {
	r.scenario("03.2 the matching signal resumes", func(s *scene) {
		id, task := s.createClaimed(withPriority(5))
		at := s.suspendOn(task, flowfabric.Single("go", flowfabric.ByName("ready")))
		s.advance(10)
		signal := s.deliver(at[0], "ready", flowfabric.EffectResumed)
		s.is(id, waitingVector(flowfabric.AttemptInterrupted))
		s.equal("eligible", s.eligible(), []flowfabric.ExecutionID{id})
		x := s.closed(id, flowfabric.ClosedResumed)
		s.equal("closed", facts(x.ClosedAt, x.SatisfiedAt, x.CloserSignalID, x.SatisfierSignalIDs, x.SignalCount, x.MatchedSignalCount, x.LastSignalAt),
			facts(s.now(), s.now(), signal, []flowfabric.SignalID{signal}, 1, 1, s.now()))
		s.equal("open waitpoints", s.open(id), "")
		s.gone(at[0])
		d := s.describe(id)
		s.equal("snapshot", facts(d.CurrentWaitpointID, d.BlockingDetail, d.TerminalOutcome), facts("", "", "none"))
		again := s.claimBy(id, workerB)
		s.equal("claim", facts(again.ClaimKind, again.AttemptIndex, again.Fence.AttemptID, again.Fence.LeaseEpoch), facts("resume", 0, task.Fence.AttemptID, 2))
		s.equal("signals", s.observed(again), []string{"ready"})
		s.complete(again)
		s.equal("history", s.history(id), []string{"acquired(direct)", "released(suspend)", "resumed", "released(completed)"})
	})

	r.scenario("02.20 a resumed execution is claimed in every way", func(s *scene) {
		ways := map[string]func(id flowfabric.ExecutionID) flowfabric.ClaimedExecution{
			"directly":  func(id flowfabric.ExecutionID) flowfabric.ClaimedExecution { return s.claimBy(id, workerB) },
			"as a task": func(flowfabric.ExecutionID) flowfabric.ClaimedExecution { return s.takeTasks(workerB, 1)[0] },
			"by grant": func(id flowfabric.ExecutionID) flowfabric.ClaimedExecution {
				g := s.grant(id, workerB)
				s.equal("kind of the grant", g.Kind, flowfabric.ClaimResume)
				a := consumeArgs(g, workerB)
				a.Expect = flowfabric.ExpectNew
				_, err := s.Backend.ClaimGranted(s.ctx, a)
				s.assertCode(err, flowfabric.CodeUseClaimResumedExecution)
				task, err := s.consume(g, workerB)
				s.ok(err)
				return task
			},
		}
		for name, way := range ways {
			id, at := s.suspended(flowfabric.AnyOfNames("go", "ready"))
			s.deliver(at[0], "ready", flowfabric.EffectResumed)
			task := way(id)
			s.equal("claimed "+name, facts(task.ExecutionID, task.ClaimKind, task.AttemptIndex, task.Fence.LeaseEpoch), facts(id, "resume", 0, 2))
			s.equal("signals", s.observed(task), []string{"ready"})
			s.complete(task)
		}
	})

	r.scenario("03.36 the resume delay of the policy", func(s *scene) {
		id, at := s.suspended(flowfabric.AnyOfNames("go", "ready"), resumes(flowfabric.ResumePolicy{ResumeDelayMs: 5000}))
		s.deliver(at[0], "ready", flowfabric.EffectResumed)
		s.is(id, delayedVector(flowfabric.ReasonWaitingForResumeDelay, flowfabric.AttemptInterrupted))
		s.equal("delay_until", s.describe(id).DelayUntil, s.now()+5000)
		s.closed(id, flowfabric.ClosedResumed)
		s.advance(4999)
		s.tick()
		s.equal("tasks before", len(s.takeTasks(workerB, 1)), 0)
		_, err := s.tryClaim(id, workerB)
		s.assertCode(err, flowfabric.CodeExecutionNotEligible)
		s.advance(1)
		s.tick()
		s.is(id, waitingVector(flowfabric.AttemptInterrupted))
		task := s.claimBy(id, workerB)
		s.equal("signals", s.observed(task), []string{"ready"})
	})

	r.scenario("03.46 the delay of an operator's resume", func(s *scene) {
		policy := resumes(flowfabric.ResumePolicy{ResumeDelayMs: 5000})
		id, _ := s.suspended(flowfabric.OperatorOnly(), policy)
		got, err := s.tryResume(id, nil)
		s.ok(err)
		s.equal("public state", got.PublicState, flowfabric.PublicDelayed)
		s.equal("delay_until", s.describe(id).DelayUntil, s.now()+5000)
		id, _ = s.suspended(flowfabric.OperatorOnly(), policy)
		got, err = s.tryResume(id, ptr(int64(0)))
		s.ok(err)
		s.equal("public state", got.PublicState, flowfabric.PublicWaiting)
		s.is(id, waitingVector(flowfabric.AttemptInterrupted))
		id, _ = s.suspended(flowfabric.OperatorOnly())
		got, err = s.tryResume(id, ptr(int64(70)))
		s.ok(err)
		s.equal("public state", got.PublicState, flowfabric.PublicDelayed)
		s.equal("delay_until", s.describe(id).DelayUntil, s.now()+70)
	})

	r.scenario("03.4.5 an operator resumes whatever the condition", func(s *scene) {
		id, task := s.createClaimed()
		at := s.suspendOn(task, flowfabric.AllOfNames("go", "a", "b"), resumes(flowfabric.ResumePolicy{CloseWaitpointOnResume: ptr(false)}))
		s.deliver(at[0], "a", flowfabric.EffectAppended)
		s.resume(id)
		s.is(id, waitingVector(flowfabric.AttemptInterrupted))
		x := s.closed(id, flowfabric.ClosedOperatorResume)
		s.equal("closer", facts(x.CloserSignalID, len(x.SatisfierSignalIDs)), " 1")
		s.gone(at[0]) // only a resume by signals leaves waitpoints satisfied
		again := s.claimBy(id, workerB)
		s.equal("attempt", again.Fence.AttemptID, task.Fence.AttemptID)
		s.equal("signals", len(s.observe(again)), 0)
		s.unchanged(id, func() {
			_, err := s.tryResume(id, nil)
			s.assertCode(err, flowfabric.CodeExecutionNotSuspended)
		})
	})

	r.scenario("03.4.5 a resume is validated", func(s *scene) {
		id, _ := s.suspended(flowfabric.OperatorOnly())
		s.unchanged(id, func() {
			_, err := s.tryResume(id, ptr(int64(-1)))
			s.assertField(err, "resume_delay_ms")
		})
		for _, other := range []flowfabric.ExecutionID{s.create(), s.end()} {
			_, err := s.tryResume(other, nil)
			s.assertCode(err, flowfabric.CodeExecutionNotSuspended)
		}
		_, err := s.tryResume(idOn(1), nil)
		s.assertCode(err, flowfabric.CodeExecutionNotFound)
		_, err = s.Backend.ResumeExecution(s.ctx, flowfabric.ResumeExecutionArgs{ExecutionID: id, Reason: strings.Repeat("r", 5000)})
		s.ok(err)
	})

	r.scenario("03.3.7 a resumed execution keeps its place", func(s *scene) {
		at := onPartition(testPartition)
		old, task := s.createClaimed(at)
		w := s.suspendOn(task, flowfabric.AnyOfNames("go", "ready"))
		s.tickClock()
		young := s.create(at)
		high := s.create(at, withPriority(3))
		s.tickClock()
		s.deliver(w[0], "ready", flowfabric.EffectResumed)
		s.equal("order", s.eligible(), []flowfabric.ExecutionID{high, old, young})
	})

	r.scenario("03.3.7 a satisfied waitpoint stays open for audit", func(s *scene) {
		id, task := s.createClaimed()
		keep := resumes(flowfabric.ResumePolicy{CloseWaitpointOnResume: ptr(false)})
		at := s.suspendOn(task, flowfabric.Count(1, "", nil, "a", "b"), keep)
		first := s.deliver(at[0], "x", flowfabric.EffectResumed)
		s.is(id, waitingVector(flowfabric.AttemptInterrupted))
		s.closed(id, flowfabric.ClosedResumed)
		s.equal("listed", s.open(id), "")
		for _, w := range at {
			s.that(s.readToken(id, w.waitpoint) == w.token.Reveal(), "the token of a satisfied waitpoint cannot be read")
		}
		before := s.suspension(id)
		s.deliver(at[1], "y", flowfabric.EffectNoOp)
		s.is(id, waitingVector(flowfabric.AttemptInterrupted))
		after := s.suspension(id)
		s.equal("satisfiers", after.SatisfierSignalIDs, before.SatisfierSignalIDs)
		s.equal("counters", facts(after.SignalCount, after.MatchedSignalCount), "2 1")
		s.duplicate(at[0], "x", first, flowfabric.EffectResumed, withSignalID(first))
		_, err := s.operatorClose(at[0])
		s.assertCode(err, flowfabric.CodeWaitpointInUse)

		again := s.claimBy(id, workerB)
		s.equal("signals", s.observed(again), []string{"x"})
		s.deliver(at[1], "z", flowfabric.EffectNoOp)
		s.suspendOn(again, flowfabric.OperatorOnly())
		s.gone(at[0])
		s.gone(at[1])
		s.equal("effects", s.effects(id), []string{"x resume_condition_satisfied", "y no_op", "z no_op"})
	})

	r.scenario("03.3.7 satisfied waitpoints are superseded by a suspend that finds its condition met", func(s *scene) {
		id, task := s.createClaimed()
		at := s.suspendOn(task, flowfabric.Single("a", flowfabric.AnySignal()), resumes(flowfabric.ResumePolicy{CloseWaitpointOnResume: ptr(false)}))
		s.deliver(at[0], "x", flowfabric.EffectResumed)
		task = s.claim(id)
		p := s.pending(task, "p")
		s.deliver(p, "y", flowfabric.EffectBuffered)
		s.satisfied(task, flowfabric.Single("p", flowfabric.AnySignal()), onPending(p))
		s.gone(at[0])
		s.is(id, activeVector())
	})

	r.scenario("03.3.7 satisfied waitpoints close at the end of the execution", func(s *scene) {
		id, at := s.suspended(flowfabric.Single("a", flowfabric.AnySignal()), resumes(flowfabric.ResumePolicy{CloseWaitpointOnResume: ptr(false)}))
		s.deliver(at[0], "x", flowfabric.EffectResumed)
		s.complete(s.claim(id))
		_, err := s.tryDeliver(at[0], "y")
		s.assertCode(err, flowfabric.CodeTargetNotSignalable)
		s.equal("token", s.readToken(id, at[0].waitpoint), "")
	})

	r.scenario("03.3.7 satisfiers are consumed, unless the policy says no", func(s *scene) {
		for _, consume := range []bool{true, false} {
			id, at := s.suspended(flowfabric.AllOfNames("go", "a", "b"), resumes(flowfabric.ResumePolicy{ConsumeMatchedSignals: ptr(consume)}))
			suspension := s.suspension(id).SuspensionID
			s.deliver(at[0], "a", flowfabric.EffectAppended)
			s.deliver(at[0], "nope", flowfabric.EffectMatcherFailed)
			s.advance(5)
			s.deliver(at[0], "b", flowfabric.EffectResumed)
			var got []string
			for _, g := range s.signals(id) {
				got = append(got, facts(g.SignalName, g.ConsumedAt, g.ConsumedBySuspensionID))
			}
			want := []string{facts("a", 0, ""), facts("nope", 0, ""), facts("b", 0, "")}
			left := []string{"a", "nope", "b"}
			if consume {
				want = []string{facts("a", s.now(), suspension), facts("nope", 0, ""), facts("b", s.now(), suspension)}
				left = []string{"nope"}
			}
			s.equal("consumed", got, want)
			s.equal("unconsumed only", signalNames(s.listSignals(flowfabric.ListSignalsArgs{ExecutionID: id, UnconsumedOnly: true})), left)
			s.equal("seen by the worker", s.observed(s.claim(id)), []string{"a", "b"})
			s.operatorCancel(id)
		}
	})

	r.scenario("03.4.9 the signals of an earlier attempt, or of no wait, are not seen", func(s *scene) {
		id, task := s.createClaimed(withPolicy(retryAtOnce))
		s.equal("never suspended", len(s.observe(task)), 0)
		at := s.suspendOn(task, flowfabric.AnyOfNames("go", "ready"))
		s.equal("still open", len(s.observe(task)), 0)
		s.deliver(at[0], "ready", flowfabric.EffectResumed)
		again := s.claim(id)
		s.equal("resumed", s.observed(again), []string{"ready"})
		s.equal("repeatable", s.observed(again), []string{"ready"})
		s.fail(again, "")
		retry := s.claim(id)
		s.equal("next attempt", len(s.observe(retry)), 0)
		s.equal("the attempt before", s.observed(again), []string{"ready"})
		for _, attempt := range []flowfabric.AttemptID{"", "zz"} { // no attempt, rather than one that has not waited
			_, err := s.Backend.ObserveSignals(s.ctx, flowfabric.ObserveSignalsArgs{ExecutionID: task.ExecutionID, AttemptID: attempt})
			s.assertField(err, "attempt_id")
		}
		_, err := s.Backend.ObserveSignals(s.ctx, flowfabric.ObserveSignalsArgs{ExecutionID: idOn(1), AttemptID: task.Fence.AttemptID})
		s.assertCode(err, flowfabric.CodeExecutionNotFound)
	})

	r.scenario("03.4.9 the worker sees all that a signal says, in the order of acceptance", func(s *scene) {
		id, at := s.suspended(flowfabric.AllOfNames("go", "a", "b"))
		s.deliver(at[0], "b", flowfabric.EffectAppended, carrying([]byte("B")), from("webhook", "hook-1"), inCategory("callback"))
		s.advance(3)
		x := signalArgs(at[0], "a", carrying([]byte("A")))
		x.Signal.CorrelationID, x.Signal.PayloadEncoding = "c-1", "text"
		_, err := s.Backend.DeliverSignal(s.ctx, x)
		s.ok(err)
		got := s.observe(s.claim(id))
		s.equal("signals", len(got), 2)
		s.equal("first", facts(got[0].SignalName, got[0].SignalCategory, got[0].SourceType, got[0].SourceIdentity, got[0].CorrelationID, got[0].AcceptedAt, string(got[0].Payload), got[0].PayloadEncoding),
			facts("b", "callback", "webhook", "hook-1", "", s.now()-3, "B", "json"))
		s.equal("second", facts(got[1].SignalID, got[1].SignalName, got[1].SignalCategory, got[1].SourceType, got[1].SourceIdentity, got[1].CorrelationID, string(got[1].Payload), got[1].PayloadEncoding),
			facts(x.Signal.SignalID, "a", "custom", "user", "alice", "c-1", "A", "text"))
	})
}

func signalNames(signals []flowfabric.RecordedSignal) []string {
	var out []string
	for _, g := range signals {
		out = append(out, g.SignalName)
	}
	return out
}
