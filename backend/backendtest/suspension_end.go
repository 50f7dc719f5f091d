package backendtest

import (
	"slices"
	"strings"

	"github.com/flowfabric/flowfabric"
)

// suspendedScenarios: specification 03, sections 4.8 to 4.10: what happens to a
// wait from outside, and how waits are listed.
func suspendedScenarios(r *runner) {
	r.scenario("03.32 cancel while suspended", func(s *scene) {
		id, at := s.suspended(flowfabric.AllOfWaitpoints("a", "b", "c"))
		s.deliver(at[0], "x", flowfabric.EffectAppended)
		got := s.operatorCancel(id)
		s.equal("result", facts(got.Outcome, got.PreviousPhase, got.PublicState), "cancelled suspended cancelled")
		s.is(id, endedVector(flowfabric.OutcomeCancelled, flowfabric.AttemptTerminal))
		s.equal("attempt", s.attempt(id, 0).AttemptState, flowfabric.AttemptEndedCancelled)
		x := s.closed(id, flowfabric.ClosedCancelled)
		s.equal("suspension", facts(x.ClosedAt, x.SatisfiedAt, x.CloserSignalID, len(x.SatisfierSignalIDs)), facts(s.now(), 0, "", 1))
		s.ended(id, at)
		s.equal("history", s.history(id), []string{"acquired(direct)", "released(suspend)"})
		s.equal("completions", len(s.events(flowfabric.FeedCompletions, id)), 1)
	})

	r.scenario("03.4.8 the execution's deadline while suspended", func(s *scene) {
		id, task := s.createClaimed(withDeadline(s.now() + 1000))
		at := s.suspendOn(task, flowfabric.OperatorOnly())
		s.advance(1000)
		s.tick()
		s.is(id, endedVector(flowfabric.OutcomeExpired, flowfabric.AttemptTerminal))
		d := s.describe(id)
		s.equal("why", facts(d.FailureReason, d.FailureCategory), "execution_deadline deadline")
		a := s.attempt(id, 0)
		s.equal("attempt", facts(a.AttemptState, a.FailureReason), "ended_failure execution_deadline")
		s.closed(id, flowfabric.ClosedDeadlineExpired)
		s.ended(id, at)
	})

	r.scenario("03.3.7 the attempt's timeout does not run while suspended", func(s *scene) {
		id, task := s.createClaimed(withPolicy(`{"timeout_policy":{"attempt_timeout_ms":1000}}`))
		s.suspendOn(task, flowfabric.OperatorOnly())
		s.advance(100_000)
		s.tick()
		out, err := s.store().ExpireExecution(s.ctx, id, flowfabric.ExpireAttemptTimeout)
		s.ok(err)
		s.that(out != flowfabric.UpkeepExpired, "the attempt timed out while paused")
		s.stillSuspended(id, flowfabric.ReasonWaitingForSignal)
	})

	r.scenario("03.S8 every end closes the waitpoints that are still pending", func(s *scene) {
		for name, end := range map[string]func(id flowfabric.ExecutionID, task flowfabric.ClaimedExecution){
			"complete": func(_ flowfabric.ExecutionID, task flowfabric.ClaimedExecution) { s.complete(task) },
			"fail":     func(_ flowfabric.ExecutionID, task flowfabric.ClaimedExecution) { s.fail(task, "permanent") },
			"cancel":   func(id flowfabric.ExecutionID, _ flowfabric.ClaimedExecution) { s.operatorCancel(id) },
			"attempt timeout": func(flowfabric.ExecutionID, flowfabric.ClaimedExecution) {
				s.advance(5000)
				s.tick()
			},
			"deadline": func(id flowfabric.ExecutionID, _ flowfabric.ClaimedExecution) {
				s.advance(3000)
				out, err := s.store().ExpireExecution(s.ctx, id, flowfabric.ExpireExecutionDeadline)
				s.ok(err)
				s.equal("outcome", out, flowfabric.UpkeepExpired)
			},
			"reclaim cap": func(id flowfabric.ExecutionID, task flowfabric.ClaimedExecution) {
				s.revoke(id)
				_, err := s.tryClaim(id, workerB)
				s.that(err != nil, "reclaimed over the cap")
			},
			"suspension timeout": func(_ flowfabric.ExecutionID, task flowfabric.ClaimedExecution) {
				s.suspendOn(task, flowfabric.OperatorOnly(), timesOut(10, flowfabric.TimeoutCancel))
				s.advance(10)
				s.tick()
			},
			"cancel while suspended": func(id flowfabric.ExecutionID, task flowfabric.ClaimedExecution) {
				s.suspendOn(task, flowfabric.OperatorOnly())
				s.operatorCancel(id)
			},
		} {
			deadline := flowfabric.Millis(50_000)
			if name == "deadline" {
				deadline = 3000
			}
			id, task := s.createClaimed(withDeadline(s.now()+deadline), withPolicy(`{"max_reclaim_count":0,"timeout_policy":{"attempt_timeout_ms":5000}}`))
			p := s.pending(task, "p")
			g := s.deliver(p, "x", flowfabric.EffectBuffered)
			end(id, task)
			s.that(s.publicState(id).Terminal(), "not ended by %s", name)
			s.ended(id, []address{p})
			s.equal("buffered signal after "+name, s.getSignal(id, g).Effect, flowfabric.EffectNeverActivated)
			s.advance(200_000)
			s.unchanged(id, s.tick)
		}
	})

	r.scenario("03.4.2 pending waitpoints are the attempt's that made them", func(s *scene) {
		for name, again := range map[string]func(id flowfabric.ExecutionID, task flowfabric.ClaimedExecution){
			"reclaim": func(id flowfabric.ExecutionID, _ flowfabric.ClaimedExecution) { s.revoke(id) },
			"retry":   func(_ flowfabric.ExecutionID, task flowfabric.ClaimedExecution) { s.fail(task, "") },
		} {
			id, task := s.createClaimed(withPolicy(retryAtOnce))
			p := s.pending(task, "go")
			g := s.deliver(p, "ready", flowfabric.EffectBuffered)
			again(id, task)
			next := s.claimBy(id, workerB)
			s.that(next.Fence.AttemptID != task.Fence.AttemptID, "%s continues the attempt", name)
			s.equal("still open", s.open(id), "go pending")
			s.unchanged(id, func() {
				_, err := s.trySuspend(next, flowfabric.AnyOfNames("go", "ready"), onPending(p))
				s.assertCode(err, flowfabric.CodeInvalidWaitpointForExecution)
			})
			s.deliver(p, "more", flowfabric.EffectBuffered)
			s.suspendOn(next, flowfabric.AnyOfNames("go", "ready"))
			s.deliver(p, "even more", flowfabric.EffectBuffered)
			s.equal("effect", s.getSignal(id, g).Effect, flowfabric.EffectBuffered)
			s.operatorCancel(id)
			s.equal("effects", s.effects(id), []string{
				"ready no_op_waitpoint_never_activated", "more no_op_waitpoint_never_activated", "even more no_op_waitpoint_never_activated",
			})
		}
	})

	r.scenario("03.1 pending waitpoints outlive delays and suspensions of their attempt", func(s *scene) {
		id, task := s.createClaimed()
		p := s.pending(task, "go")
		s.delay(task, 10)
		s.deliver(p, "while delayed", flowfabric.EffectBuffered)
		s.promote(id)
		task = s.claim(id)
		s.suspendOn(task, flowfabric.OperatorOnly())
		s.deliver(p, "while suspended", flowfabric.EffectBuffered)
		s.resume(id)
		task = s.claim(id)
		r := s.satisfied(task, flowfabric.AllOfNames("go", "while delayed", "while suspended"), onPending(p))
		s.equal("signals", len(r.Signals), 2)
	})

	r.scenario("03.2.1 a replay leaves the former wait as it is", func(s *scene) {
		id, task := s.createClaimed()
		p := s.pending(task, "p")
		s.deliver(p, "early", flowfabric.EffectBuffered)
		at := s.suspendOn(task, flowfabric.Single("a", flowfabric.AnySignal()))
		s.operatorCancel(id)
		before, signals := s.suspension(id), s.signals(id)
		s.replay(id)
		s.equal("suspension", s.suspension(id), before)
		s.equal("signals", s.signals(id), signals)
		s.gone(at[0])
		s.gone(p)
		next := s.claim(id)
		s.equal("seen by the new attempt", len(s.observe(next)), 0)
		again := s.suspendOn(next, flowfabric.Single("a", flowfabric.AnySignal()))
		s.deliver(again[0], "x", flowfabric.EffectResumed)
		s.equal("seq goes on", s.signals(id)[1].Seq, uint64(2))
	})

	r.scenario("01.34 a purge takes waits, waitpoints and signals with it", func(s *scene) {
		id, task := s.createClaimed(onPartition(testPartition), withPolicy(`{"retention_ms":1000}`))
		at := s.suspendOn(task, flowfabric.Single("a", flowfabric.AnySignal()), repeatable("k"))
		g := s.deliver(at[0], "x", flowfabric.EffectResumed, keyed("once"))
		next := s.claim(id)
		p := s.pending(next, "p")
		s.complete(next)
		s.advance(1000)
		out, err := s.store().Purge(s.ctx, id)
		s.ok(err)
		s.equal("outcome", out, flowfabric.UpkeepPurged)
		s.noWait(id, g, at[0])
		s.noWait(id, g, p)
		// The identifier begins a second life without any of it.
		_, task = s.createClaimed(withID(id), withPolicy(`{"retention_ms":1000}`))
		x, err := s.Backend.GetSuspension(s.ctx, id)
		s.ok(err)
		s.that(x == nil, "a suspension of the former life: %+v", x)
		s.equal("signals and waitpoints", facts(len(s.signals(id)), s.open(id)), "0 ")
		fresh := s.suspendOn(task, flowfabric.Single("a", flowfabric.AnySignal()))
		s.deliver(fresh[0], "y", flowfabric.EffectResumed, keyed("once"))
		s.equal("seq", s.signals(id)[0].Seq, uint64(1))
	})

	r.scenario("03.50 suspend for a spent budget", func(s *scene) {
		id, task := s.createClaimed(withPolicy(`{"timeout_policy":{"attempt_timeout_ms":9000},"suspension_policy":{"default_timeout_ms":7000}}`))
		suspension := flowfabric.NewSuspensionID()
		args := flowfabric.SuspendForBudgetArgs{ExecutionID: id, Fence: task.Fence, BudgetID: "b-1", SuspensionID: suspension, Detail: "budget b-1 is spent"}
		stale := args
		stale.Fence.LeaseEpoch = 9
		s.unchanged(id, func() { s.that(!s.forBudget(stale), "suspended with a fence that does not hold") })
		s.that(s.forBudget(args), "not suspended")
		s.stillSuspended(id, flowfabric.ReasonWaitingForBudget)
		d := s.describe(id)
		s.equal("blocking", facts(d.BlockingRef, d.BlockingDetail, d.CurrentWaitpointID), facts("b-1", "budget b-1 is spent", ""))
		x := s.suspension(id)
		s.equal("suspension", facts(x.SuspensionID, x.ReasonCode, x.RequestedBy, len(x.Waitpoints), x.TimeoutAt, x.TimeoutBehavior, x.ResumeCondition.Kind, x.ResumePolicy.ResumeDelayMs),
			facts(suspension, "paused_by_budget", "policy", 0, 0, "", "operator_only", 0))
		s.equal("history", s.history(id), []string{"acquired(direct)", "released(suspend)"})
		s.equal("attempt", s.attempt(id, 0).AttemptState, flowfabric.AttemptSuspended)
		s.unchanged(id, func() { s.that(!s.forBudget(args), "suspended twice") })
		s.noteRefusal(id, func() {
			_, err := s.tryDeliver(strangeAddress(id), "x")
			s.assertCode(err, flowfabric.CodeInvalidToken)
		})
		s.advance(100_000)
		s.tick()
		s.stillSuspended(id, flowfabric.ReasonWaitingForBudget)
		got, err := s.store().ResumeExecution(s.ctx, flowfabric.ResumeExecutionArgs{ExecutionID: id, Trigger: flowfabric.ResumeTriggerBudgetRecovered})
		s.ok(err)
		s.equal("public state", got.PublicState, flowfabric.PublicWaiting)
		s.closed(id, flowfabric.ClosedBudgetRecovered)
		s.equal("blocking_ref", s.describe(id).BlockingRef, "")
		next := s.claim(id)
		s.equal("attempt", next.Fence.AttemptID, task.Fence.AttemptID)
		s.equal("signals", len(s.observe(next)), 0)
	})

	r.scenario("03.4.10 the close-out of a budget knows only the epoch", func(s *scene) {
		id, task := s.createClaimed()
		args := flowfabric.SuspendForBudgetArgs{ExecutionID: id, Fence: flowfabric.Fence{LeaseEpoch: 2}, BudgetID: "b", Detail: "d"}
		s.unchanged(id, func() { s.that(!s.forBudget(args), "another epoch") })
		s.unchanged(id, func() {
			unknown := args
			unknown.ExecutionID = idOn(1)
			_, err := s.store().SuspendForBudget(s.ctx, unknown)
			s.assertCode(err, flowfabric.CodeExecutionNotFound)
		})
		args.Fence.LeaseEpoch = 1
		s.that(s.forBudget(args), "not suspended")
		s.operatorCancel(id)
		s.closed(id, flowfabric.ClosedCancelled)
		_, err := s.tryComplete(id, task.Fence)
		s.assertCode(err, flowfabric.CodeExecutionNotActive)
		s.unchanged(id, func() { s.that(!s.forBudget(args), "suspended after its end") })
	})

	r.scenario("03.6 reconcile finds a suspended execution that fell out of every order", func(s *scene) {
		if s.Displace == nil {
			s.t.Skip("the harness cannot break an index")
		}
		id, task := s.createClaimed(onPartition(testPartition))
		s.suspendOn(task, flowfabric.OperatorOnly(), timesOut(1000, flowfabric.TimeoutFail))
		pending, task := s.createClaimed(onPartition(testPartition))
		a := pendingArgs(task, "p")
		a.ExpiresInMs = 1000
		_, err := s.tryPending(a)
		s.ok(err)
		s.Displace(s.t, id)
		s.Displace(s.t, pending)
		res := s.reconcile(testPartition)
		s.that(res.Repaired >= 2 && len(res.Violations) == 0, "reconciled: %+v", res)
		s.equal("eligible", len(s.eligible()), 0)
		s.stillSuspended(id, flowfabric.ReasonWaitingForSignal)
		s.equal("listed", suspendedIDs(s.listSuspended(flowfabric.ListSuspendedArgs{Partition: ptr(testPartition)})), []flowfabric.ExecutionID{id})
		s.advance(1000)
		s.tick()
		s.is(id, endedVector(flowfabric.OutcomeFailed, flowfabric.AttemptTerminal))
		s.equal("open", s.open(pending), "")
		res = s.reconcile(testPartition)
		s.equal("repaired by a second pass", facts(res.Repaired+res.Removed, len(res.Violations)), "0 0")
	})

	r.scenario("02.44 a draining lane with a suspended execution", func(s *scene) {
		id, at := s.suspended(flowfabric.AnyOfNames("go", "ready"))
		s.laneIs(testLane, flowfabric.LaneDraining)
		s.settleLanes()
		drained := func() bool {
			lane, err := s.Backend.GetLane(s.ctx, testLane)
			s.ok(err)
			return lane.Drained
		}
		s.that(!drained(), "drained with an execution suspended")
		s.deliver(at[0], "ready", flowfabric.EffectResumed)
		s.complete(s.claim(id))
		s.settleLanes()
		s.that(drained(), "not drained after the end")
	})

	r.scenario("03.4.9 ListSuspended: order, pages, namespaces", func(s *scene) {
		var want []flowfabric.ExecutionID
		add := func(ns flowfabric.Namespace, opts ...suspendOption) flowfabric.ExecutionID {
			id, task := s.createClaimed(onPartition(testPartition), withNamespace(ns), withLane(testLane))
			s.suspendOn(task, flowfabric.OperatorOnly(), opts...)
			return id
		}
		never := []flowfabric.ExecutionID{add(testNamespace), add("other"), add(testNamespace)}
		late, soon := add(testNamespace, timesOut(9000, "")), add("other", timesOut(1000, ""))
		same := []flowfabric.ExecutionID{add(testNamespace, timesOut(5000, "")), add(testNamespace, timesOut(5000, "")), add(testNamespace, timesOut(5000, ""))}
		slices.Sort(never)
		slices.Sort(same)
		want = append(append(append(want, soon), same...), append([]flowfabric.ExecutionID{late}, never...)...)
		here := ptr(testPartition)
		s.equal("order", suspendedIDs(s.listSuspended(flowfabric.ListSuspendedArgs{Partition: here})), want)
		for _, limit := range []int{1, 2, 3, 8} {
			s.equal("pages", suspendedIDs(s.pagesOfSuspended(flowfabric.ListSuspendedArgs{Partition: here, Limit: limit})), want)
		}
		theirs := []flowfabric.ExecutionID{soon, never[slices.IndexFunc(never, func(id flowfabric.ExecutionID) bool { return s.describe(id).Namespace == "other" })]}
		for _, limit := range []int{1, 100} {
			s.equal("namespace", suspendedIDs(s.pagesOfSuspended(flowfabric.ListSuspendedArgs{Partition: here, Namespace: "other", Limit: limit})), theirs)
		}
		first := s.listSuspended(flowfabric.ListSuspendedArgs{Partition: here, Limit: 1})[0]
		s.equal("entry", first, flowfabric.SuspendedExecution{ExecutionID: soon, SuspendedAt: s.now(), TimeoutAt: s.now() + 1000, ReasonCode: flowfabric.SuspendWaitingForSignal})

		elsewhere, task := s.createClaimed(onPartition(testPartition + 1))
		s.suspendOn(task, flowfabric.OperatorOnly(), timesOut(1, ""))
		all := append(append([]flowfabric.ExecutionID(nil), want...), elsewhere)
		for _, limit := range []int{3, 100} {
			s.equal("partition after partition", suspendedIDs(s.pagesOfSuspended(flowfabric.ListSuspendedArgs{Limit: limit})), all)
		}
	})

	r.scenario("03.4.9 ListSuspended follows what happens", func(s *scene) {
		id, at := s.suspended(flowfabric.AnyOfNames("go", "ready"), timesOut(1000, flowfabric.TimeoutEscalate))
		other, _ := s.suspended(flowfabric.OperatorOnly(), timesOut(5000, flowfabric.TimeoutFail), func(a *flowfabric.SuspendArgs) {})
		s.advance(1000)
		s.tick()
		got := s.listSuspended(flowfabric.ListSuspendedArgs{Partition: ptr(id.Partition())})
		i := slices.IndexFunc(got, func(x flowfabric.SuspendedExecution) bool { return x.ExecutionID == id })
		s.that(i >= 0, "an escalated execution is not listed")
		s.equal("escalated", facts(got[i].TimeoutAt, got[i].ReasonCode), "0 waiting_for_operator_review")
		s.deliver(at[0], "ready", flowfabric.EffectNotInCondition)
		s.resume(id)
		s.equal("left", suspendedIDs(s.pagesOfSuspended(flowfabric.ListSuspendedArgs{})), []flowfabric.ExecutionID{other})
		for _, a := range []flowfabric.ListSuspendedArgs{{Limit: -1}, {Limit: 1001}, {Partition: ptr(uint16(60_000))}, {Namespace: "a{b"}} {
			_, err := s.Backend.ListSuspended(s.ctx, a)
			s.assertCode(err, flowfabric.CodeInvalidInput)
		}
		_, err := s.Backend.ListSuspended(s.ctx, flowfabric.ListSuspendedArgs{Cursor: strings.Repeat("?", 9)})
		s.assertCode(err, flowfabric.CodeInvalidCursor)
		s.suspended(flowfabric.OperatorOnly())
		page, err := s.Backend.ListSuspended(s.ctx, flowfabric.ListSuspendedArgs{Limit: 1})
		s.ok(err)
		elsewhere := page.Executions[0].ExecutionID.Partition() ^ 1
		_, err = s.Backend.ListSuspended(s.ctx, flowfabric.ListSuspendedArgs{Partition: &elsewhere, Cursor: page.NextCursor})
		s.assertCode(err, flowfabric.CodeInvalidCursor)
	})
}

func (s *scene) forBudget(a flowfabric.SuspendForBudgetArgs) bool {
	s.t.Helper()
	done, err := s.store().SuspendForBudget(s.ctx, a)
	s.ok(err)
	return done
}

// noWait fails unless nothing is left of a purged execution's waits.
func (s *scene) noWait(id flowfabric.ExecutionID, signal flowfabric.SignalID, at address) {
	s.t.Helper()
	_, err := s.tryDeliver(at, "x")
	s.assertCode(err, flowfabric.CodeInvalidToken)
	s.equal("token", s.readToken(id, at.waitpoint), "")
	for name, call := range map[string]func() error{
		"GetSuspension": func() error { _, err := s.Backend.GetSuspension(s.ctx, id); return err },
		"ListPendingWaitpoints": func() error {
			_, err := s.Backend.ListPendingWaitpoints(s.ctx, flowfabric.ListPendingWaitpointsArgs{ExecutionID: id})
			return err
		},
		"ListSignals": func() error {
			_, err := s.Backend.ListSignals(s.ctx, flowfabric.ListSignalsArgs{ExecutionID: id})
			return err
		},
	} {
		if err := call(); flowfabric.CodeOf(err) != flowfabric.CodeExecutionNotFound {
			s.t.Fatalf("%s of a purged execution: %v", name, err)
		}
	}
	_, err = s.Backend.GetSignal(s.ctx, id, signal)
	code := flowfabric.CodeOf(err)
	s.that(code == flowfabric.CodeSignalNotFound || code == flowfabric.CodeExecutionNotFound, "GetSignal of a purged execution: %v", err)
}

func (s *scene) listSuspended(a flowfabric.ListSuspendedArgs) []flowfabric.SuspendedExecution {
	s.t.Helper()
	r, err := s.Backend.ListSuspended(s.ctx, a)
	s.ok(err)
	return r.Executions
}

// pagesOfSuspended follows the cursor to the end.
func (s *scene) pagesOfSuspended(a flowfabric.ListSuspendedArgs) []flowfabric.SuspendedExecution {
	s.t.Helper()
	var out []flowfabric.SuspendedExecution
	for range 10_000 {
		r, err := s.Backend.ListSuspended(s.ctx, a)
		s.ok(err)
		s.that(a.Limit == 0 || len(r.Executions) <= a.Limit, "a page of %d, limit %d", len(r.Executions), a.Limit)
		out = append(out, r.Executions...)
		if r.NextCursor == "" {
			return out
		}
		a.Cursor = r.NextCursor
	}
	s.t.Fatal("the listing never comes to an end")
	return nil
}

func suspendedIDs(rows []flowfabric.SuspendedExecution) []flowfabric.ExecutionID {
	var ids []flowfabric.ExecutionID
	for _, x := range rows {
		ids = append(ids, x.ExecutionID)
	}
	return ids
}
