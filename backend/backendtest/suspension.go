package backendtest

import (
	"fmt"
	"strings"

	"github.com/flowfabric/flowfabric"
)

// suspensionScenarios: specification 03, section 4.2: giving the lease up.
func suspensionScenarios(r *runner) {
	r.scenario("03.1 suspend on a fresh waitpoint", func(s *scene) {
		id, task := s.createClaimed(onPartition(testPartition))
		a := suspendArgs(task, flowfabric.Single("go", flowfabric.ByName("ready")))
		at := s.suspendWith(a)
		s.that(at[0].token.KID() != "", "no token: %s", at[0].token)
		s.stillSuspended(id, flowfabric.ReasonWaitingForSignal)
		d := s.describe(id)
		s.equal("detail and waitpoint", facts(d.BlockingDetail, d.CurrentWaitpointID),
			facts(fmt.Sprintf("suspended: waitpoint %s awaiting waiting_for_signal", at[0].waitpoint), at[0].waitpoint))
		s.that(d.CurrentLease == nil, "a lease in the snapshot: %+v", d.CurrentLease)
		rec := s.record(id)
		s.equal("record", facts(rec.CurrentSuspensionID, rec.CurrentWaitpointID, rec.CurrentAttemptID, rec.CurrentLeaseEpoch),
			facts(a.SuspensionID, at[0].waitpoint, task.Fence.AttemptID, 1))
		s.equal("mirror of the lease", facts(rec.CurrentLeaseID, rec.CurrentWorkerID, rec.CurrentWorkerInstanceID, rec.LeaseAcquiredAt, rec.LeaseExpiresAt, rec.AttemptTimeoutAt),
			facts("", "", "", 0, 0, 0))
		s.that(rec.ReleaseReceipt == nil, "a suspend wrote a receipt: %+v", rec.ReleaseReceipt)
		s.noLease(id)
		s.equal("history", s.history(id), []string{"acquired(direct)", "released(suspend)"})
		s.equal("held", len(s.held(workerA.instance)), 0)
		s.equal("expired leases", len(s.expired(task.LeaseExpiresAt+1)), 0)
		s.equal("eligible", len(s.eligible()), 0)
		s.advance(2 * testTTL)
		s.tick()
		s.stillSuspended(id, flowfabric.ReasonWaitingForSignal)
		s.equal("tasks", len(s.takeTasks(workerB, 5)), 0)
		_, err := s.tryClaim(id, workerB)
		s.assertCode(err, flowfabric.CodeExecutionNotEligible)
	})

	r.scenario("03.2.1 the record of a suspension", func(s *scene) {
		id, task := s.createClaimed(withPolicy(`{"timeout_policy":{"attempt_timeout_ms":100000}}`))
		began := s.now()
		s.advance(1000)
		a := suspendArgs(task, flowfabric.AllOfWaitpoints("b", "a"), timesOut(5000, flowfabric.TimeoutExpire), because(flowfabric.SuspendWaitingForCallback))
		a.ContinuationMetadataPointer, a.RequestedBy = "step-7", flowfabric.RequestedByPolicy
		a.ResumePolicy = flowfabric.ResumePolicy{ResumeDelayMs: 7, ConsumeMatchedSignals: ptr(false)}
		at := s.suspendWith(a)
		x := s.suspension(id)
		s.equal("whose", facts(x.SuspensionID, x.ExecutionID, x.AttemptID, x.AttemptIndex, x.LeaseEpoch), facts(a.SuspensionID, id, task.Fence.AttemptID, 0, 1))
		s.equal("waitpoints", x.Waitpoints, []flowfabric.WaitpointRef{{WaitpointID: at[0].waitpoint, WaitpointKey: "b"}, {WaitpointID: at[1].waitpoint, WaitpointKey: "a"}})
		s.equal("why", facts(x.ReasonCode, x.RequestedBy, x.ContinuationMetadataPointer), "waiting_for_callback policy step-7")
		s.equal("when", []flowfabric.Millis{x.CreatedAt, x.TimeoutAt, x.EscalatedAt, x.SatisfiedAt, x.ClosedAt, x.LastSignalAt}, []flowfabric.Millis{began + 1000, began + 6000, 0, 0, 0, 0})
		s.equal("behaviour", x.TimeoutBehavior, flowfabric.TimeoutExpire)
		s.equal("condition", string(x.ResumeCondition.JSON()), string(a.ResumeCondition.JSON()))
		s.equal("policy", x.ResumePolicy, a.ResumePolicy.WithDefaults())
		s.that(x.AttemptTimeoutRemainingMs != nil && *x.AttemptTimeoutRemainingMs == 99_000, "attempt_timeout_remaining_ms is %v", x.AttemptTimeoutRemainingMs)
		s.equal("counters", facts(x.SignalCount, x.MatchedSignalCount, len(x.SatisfierSignalIDs), x.CloserSignalID, x.CloseReason), "0 0 0  ")
	})

	r.scenario("03.3.7 the attempt is paused, and goes on with the time it had left", func(s *scene) {
		id, task := s.createClaimed(withPolicy(`{"timeout_policy":{"attempt_timeout_ms":10000}}`))
		s.advance(4000)
		a := suspendArgs(task, flowfabric.AnyOfNames("go", "ready"))
		at := s.suspendWith(a)
		p := s.attempt(id, 0)
		s.equal("paused", facts(p.AttemptState, p.PauseKind, p.SuspendedAt, p.SuspensionID), facts("suspended", "suspension", s.now(), a.SuspensionID))
		s.that(p.TimeoutRemainingMs != nil && *p.TimeoutRemainingMs == 6000, "timeout_remaining_ms is %v", p.TimeoutRemainingMs)
		s.advance(3_600_000)
		s.tick()
		s.deliver(at[0], "ready", flowfabric.EffectResumed)
		s.equal("until the claim", s.attempt(id, 0).AttemptState, flowfabric.AttemptSuspended)
		again := s.claimBy(id, workerB)
		s.equal("attempt timeout", again.AttemptTimeoutAt, s.now()+6000)
		p = s.attempt(id, 0)
		s.equal("resumed", facts(p.AttemptState, p.PauseKind, p.SuspendedAt, p.SuspensionID, p.ResumedAt), facts("started", "", 0, "", s.now()))
		s.that(p.TimeoutRemainingMs == nil, "timeout_remaining_ms is still %v", p.TimeoutRemainingMs)
		s.advance(6000)
		s.tick()
		s.is(id, endedVector(flowfabric.OutcomeExpired, flowfabric.AttemptTerminal))
	})

	r.scenario("03.3.6 every reason blocks for its reason", func(s *scene) {
		for reason, blocking := range map[flowfabric.SuspendReason]flowfabric.BlockingReason{
			flowfabric.SuspendWaitingForSignal:         flowfabric.ReasonWaitingForSignal,
			flowfabric.SuspendStepBoundary:             flowfabric.ReasonWaitingForSignal,
			flowfabric.SuspendWaitingForApproval:       flowfabric.ReasonWaitingForApproval,
			flowfabric.SuspendWaitingForCallback:       flowfabric.ReasonWaitingForCallback,
			flowfabric.SuspendWaitingForToolResult:     flowfabric.ReasonWaitingForToolResult,
			flowfabric.SuspendWaitingForOperatorReview: flowfabric.ReasonPausedByOperator,
			flowfabric.SuspendManualPause:              flowfabric.ReasonPausedByOperator,
			flowfabric.SuspendPausedByPolicy:           flowfabric.ReasonPausedByPolicy,
		} {
			id, at := s.suspended(flowfabric.OperatorOnly(), because(reason))
			s.stillSuspended(id, blocking)
			s.equal("detail", s.describe(id).BlockingDetail, fmt.Sprintf("suspended: waitpoint %s awaiting %s", at[0].waitpoint, reason))
			s.equal("reason_code", s.suspension(id).ReasonCode, reason)
		}
		id, task := s.createClaimed()
		s.unchanged(id, func() {
			for _, reason := range []flowfabric.SuspendReason{"", "bored", flowfabric.SuspendPausedByBudget} {
				_, err := s.trySuspend(task, flowfabric.OperatorOnly(), because(reason))
				s.assertField(err, "reason_code")
			}
		})
	})

	r.scenario("03.4.2 what a suspend is given is checked before anything is looked at", func(s *scene) {
		id, task := s.createClaimed()
		c := flowfabric.Single("go", flowfabric.AnySignal())
		s.unchanged(id, func() {
			for _, bad := range badSuspends() {
				for _, where := range []flowfabric.ExecutionID{id, idOn(1)} {
					a := suspendArgs(task, c)
					a.ExecutionID = where
					bad.spoil(&a)
					_, err := s.Backend.Suspend(s.ctx, a)
					if flowfabric.CodeOf(err) != bad.code {
						s.t.Fatalf("%s: %v%s, want %s", bad.name, err, details(err), bad.code)
					}
					if bad.mentions != "" {
						s.assertMentions(err, bad.mentions)
					}
				}
			}
		})
		s.suspendOn(task, c)
	})

	r.scenario("03.4.2 the order of the checks", func(s *scene) {
		c := flowfabric.AllOfWaitpoints("a", "b")
		id, task := s.createClaimed()
		p := s.pending(task, "other")
		other, otherTask := s.createClaimed(onPartition(id.Partition()))
		foreign := s.pending(otherTask, "b")
		a := suspendArgs(task, c)
		taken := a.Waitpoints[0]
		taken.WaitpointID = p.waitpoint
		try := func(change func(a *flowfabric.SuspendArgs)) error {
			b := a
			b.Waitpoints = append([]flowfabric.WaitpointBinding(nil), a.Waitpoints...)
			change(&b)
			_, err := s.Backend.Suspend(s.ctx, b)
			return err
		}
		unknown := flowfabric.WaitpointBinding{WaitpointID: flowfabric.NewWaitpointID(), UsePending: true}
		s.unchanged(id, func() {
			// The fence comes before the waitpoints,
			s.assertCode(try(func(a *flowfabric.SuspendArgs) { a.Fence.LeaseEpoch++; a.Waitpoints[0] = unknown }), flowfabric.CodeStaleLease)
			// they before the comparison of the keys, one after the other.
			s.assertCode(try(func(a *flowfabric.SuspendArgs) { a.Waitpoints[0], a.Waitpoints[1] = unknown, taken }), flowfabric.CodeWaitpointNotFound)
			s.assertCode(try(func(a *flowfabric.SuspendArgs) { a.Waitpoints[0], a.Waitpoints[1] = taken, unknown }), flowfabric.CodeWaitpointAlreadyExists)
			err := try(func(a *flowfabric.SuspendArgs) {
				a.Waitpoints[1] = flowfabric.WaitpointBinding{WaitpointID: p.waitpoint, UsePending: true}
			})
			s.assertCode(err, flowfabric.CodeInvalidInput)
			s.assertMentions(err, "waitpoint_key_mismatch")
			s.assertCode(try(func(a *flowfabric.SuspendArgs) {
				a.Waitpoints[1] = flowfabric.WaitpointBinding{WaitpointID: foreign.waitpoint, UsePending: true}
			}), flowfabric.CodeInvalidWaitpointForExecution)
		})
		s.equal("waitpoints of the other", s.open(other), "b pending")
		s.equal("a refused suspend spends no id", len(s.suspendWith(a)), 2)
	})

	r.scenario("03.4.2 a fresh id must be new, whatever became of the old one", func(s *scene) {
		id, task := s.createClaimed(onPartition(testPartition))
		closed, expired, pending := s.pending(task, "a"), s.pending(task, "b"), s.pending(task, "c")
		_, err := s.operatorClose(closed)
		s.ok(err)
		_, foreignTask := s.createClaimed(onPartition(testPartition))
		foreign := s.pending(foreignTask, "x")
		s.deliver(expired, "x", flowfabric.EffectBuffered)
		s.unchanged(id, func() {
			for _, used := range []address{closed, expired, pending, foreign} {
				a := suspendArgs(task, flowfabric.OperatorOnly())
				a.Waitpoints[0].WaitpointID = used.waitpoint
				_, err := s.Backend.Suspend(s.ctx, a)
				s.assertCode(err, flowfabric.CodeWaitpointAlreadyExists)
			}
		})
	})

	r.scenario("03.4.2 of a pending waitpoint its existence, state and owner are checked, in this order", func(s *scene) {
		id, task := s.createClaimed(onPartition(testPartition))
		closed, expired := s.pending(task, "a"), pendingArgs(task, "a")
		expired.ExpiresInMs = 1000
		_, err := s.tryPending(expired)
		s.ok(err)
		_, err = s.operatorClose(closed)
		s.ok(err)
		open := s.pending(task, "a")
		s.revoke(id)
		next := s.claimBy(id, workerB)
		other, otherTask := s.createClaimed(onPartition(testPartition))
		s.advance(1000)
		for _, tried := range []flowfabric.ClaimedExecution{next, otherTask} { // another attempt, another execution
			for _, c := range []struct {
				waitpoint flowfabric.WaitpointID
				code      flowfabric.Code
			}{
				{flowfabric.NewWaitpointID(), flowfabric.CodeWaitpointNotFound},
				{closed.waitpoint, flowfabric.CodeWaitpointNotPending},
				{expired.WaitpointID, flowfabric.CodePendingWaitpointExpired},
				{open.waitpoint, flowfabric.CodeInvalidWaitpointForExecution},
			} {
				s.unchanged(other, func() {
					_, err := s.trySuspend(tried, flowfabric.Single("a", flowfabric.AnySignal()), onPending(address{waitpoint: c.waitpoint, key: "a"}))
					s.assertCode(err, c.code)
				})
			}
		}
	})

	r.scenario("03.14 the keys of the waitpoints are those of the condition", func(s *scene) {
		id, task := s.createClaimed()
		s.unchanged(id, func() {
			for name, a := range map[string]flowfabric.SuspendArgs{
				"another key":  rekeyed(suspendArgs(task, flowfabric.Single("a", flowfabric.AnySignal())), "b"),
				"one too few":  rekeyed(suspendArgs(task, flowfabric.AllOfWaitpoints("a", "b")), "a"),
				"one too many": rekeyed(suspendArgs(task, flowfabric.Single("a", flowfabric.AnySignal())), "a", "b"),
				"two for none": rekeyed(suspendArgs(task, flowfabric.OperatorOnly()), "a", "b"),
			} {
				_, err := s.Backend.Suspend(s.ctx, a)
				s.that(err != nil, "%s was accepted", name)
				s.assertCode(err, flowfabric.CodeInvalidInput)
				s.assertMentions(err, "waitpoint_key_mismatch")
			}
		})
		// The stored key of a pending waitpoint counts.
		p := s.pending(task, "a")
		s.unchanged(id, func() {
			a := suspendArgs(task, flowfabric.AllOfWaitpoints("a", "b"))
			a.Waitpoints[1] = flowfabric.WaitpointBinding{WaitpointID: p.waitpoint, UsePending: true}
			_, err := s.Backend.Suspend(s.ctx, a)
			s.assertCode(err, flowfabric.CodeInvalidInput)
			s.assertMentions(err, "duplicate_binding")
		})
	})

	r.scenario("03.19 a suspend repeated under its key gives the first answer", func(s *scene) {
		id, task := s.createClaimed()
		c := flowfabric.AllOfWaitpoints("a", "b")
		a := suspendArgs(task, c, repeatable("k"))
		first, err := s.Backend.Suspend(s.ctx, a)
		s.ok(err)
		s.that(!first.Replayed, "the first suspend is a repeat")
		want := first
		want.Replayed = true
		for _, b := range []flowfabric.SuspendArgs{a, suspendArgs(task, c, repeatable("k")), suspendArgs(task, flowfabric.OperatorOnly(), repeatable("k"))} {
			s.unchanged(id, func() {
				got, err := s.Backend.Suspend(s.ctx, b)
				s.ok(err)
				s.equal("repeat", got, want)
			})
		}
		s.equal("history", s.history(id), []string{"acquired(direct)", "released(suspend)"})
		s.unchanged(id, func() {
			_, err := s.trySuspend(task, c, repeatable("another"))
			s.assertCode(err, flowfabric.CodeAlreadySuspended)
		})
		// The answer stands although the world has gone on.
		s.rotate("k7", secretOf("7"), 1)
		s.resume(id)
		next := s.claimBy(id, workerB)
		s.unchanged(id, func() {
			got, err := s.Backend.Suspend(s.ctx, a)
			s.ok(err)
			s.equal("repeat", got, want)
		})
		// The key belongs to the lease.
		got, err := s.Backend.Suspend(s.ctx, suspendArgs(next, c, repeatable("k")))
		s.ok(err)
		s.that(!got.Replayed && got.Waitpoints[0].Token.KID() == "k7", "the other lease's suspend: %+v", got)
		s.operatorCancel(id)
		again, err := s.Backend.Suspend(s.ctx, a)
		s.ok(err)
		s.equal("repeat after the end", again, want)
	})

	r.scenario("03.19 the answer is kept until a minute after the timeout", func(s *scene) {
		_, task := s.createClaimed()
		a := suspendArgs(task, flowfabric.OperatorOnly(), repeatable("k"), timesOut(1000, flowfabric.TimeoutFail))
		s.suspendWith(a)
		s.advance(60_999)
		got, err := s.Backend.Suspend(s.ctx, a)
		s.ok(err)
		s.that(got.Replayed, "forgotten before its time")
		s.advance(2)
		_, err = s.Backend.Suspend(s.ctx, a)
		s.assertCode(err, flowfabric.CodeAlreadySuspended)

		_, task = s.createClaimed()
		a = suspendArgs(task, flowfabric.OperatorOnly(), repeatable("k"))
		a.TimeoutAt = s.now() - 600_000
		s.suspendWith(a)
		s.advance(59_999)
		got, err = s.Backend.Suspend(s.ctx, a)
		s.ok(err)
		s.that(got.Replayed, "an answer is kept for a minute at least")

		_, task = s.createClaimed()
		a = suspendArgs(task, flowfabric.OperatorOnly(), repeatable("k"))
		s.suspendWith(a)
		s.advance(604_799_999)
		got, err = s.Backend.Suspend(s.ctx, a)
		s.ok(err)
		s.that(got.Replayed, "forgotten before its week is over")
		s.advance(2)
		_, err = s.Backend.Suspend(s.ctx, a)
		s.assertCode(err, flowfabric.CodeAlreadySuspended)
	})

	r.scenario("03.19 a repeated already_satisfied", func(s *scene) {
		id, task := s.createClaimed()
		p := s.pending(task, "go")
		s.deliver(p, "ready", flowfabric.EffectBuffered, carrying([]byte("data")))
		a := suspendArgs(task, flowfabric.AnyOfNames("go", "ready"), onPending(p), repeatable("k"))
		first, err := s.Backend.Suspend(s.ctx, a)
		s.ok(err)
		first.Replayed = true
		s.unchanged(id, func() {
			got, err := s.Backend.Suspend(s.ctx, a)
			s.ok(err)
			s.equal("repeat", got, first)
			s.equal("payload", string(got.Signals[0].Payload), "data")
		})
		s.complete(task)
	})

	r.scenario("03.20 a suspend repeated without a key", func(s *scene) {
		id, task := s.createClaimed()
		a := suspendArgs(task, flowfabric.OperatorOnly())
		s.suspendWith(a)
		s.unchanged(id, func() {
			_, err := s.trySuspend(task, flowfabric.Single("go", flowfabric.AnySignal()))
			s.assertCode(err, flowfabric.CodeAlreadySuspended)
			s.assertDetail(err, "suspension_id", a.SuspensionID)
			for _, change := range []func(f *flowfabric.Fence){
				func(f *flowfabric.Fence) { f.LeaseID = flowfabric.NewLeaseID() },
				func(f *flowfabric.Fence) { f.LeaseEpoch++ },
				func(f *flowfabric.Fence) { f.AttemptID = flowfabric.NewAttemptID() },
			} {
				other := task
				change(&other.Fence)
				_, err := s.trySuspend(other, flowfabric.OperatorOnly())
				s.assertCode(err, flowfabric.CodeExecutionNotActive)
				s.assertDetail(err, "lifecycle_phase", "suspended")
			}
		})
		s.resume(id)
		s.unchanged(id, func() {
			_, err := s.trySuspend(task, flowfabric.OperatorOnly())
			s.assertCode(err, flowfabric.CodeExecutionNotActive)
		})
		s.claimBy(id, workerB)
		s.unchanged(id, func() {
			_, err := s.trySuspend(task, flowfabric.OperatorOnly())
			s.assertCode(err, flowfabric.CodeStaleLease)
		})
	})

	r.scenario("03.21 after a suspend the old fence is good for nothing", func(s *scene) {
		id, task := s.createClaimed()
		s.suspendOn(task, flowfabric.OperatorOnly())
		s.unchanged(id, func() {
			for _, op := range fencedOps() {
				if op.name != "suspend" {
					s.assertCode(op.call(s, id, task.Fence, flowfabric.SourceLeaseHolder), flowfabric.CodeExecutionNotActive)
				}
			}
			s.equal("signals for the suspended handle", len(s.observe(task)), 0)
		})
	})

	r.scenario("03.22 suspend by the triple", func(s *scene) {
		id, task := s.createClaimed()
		a := suspendArgs(task, flowfabric.OperatorOnly())
		try := func(f flowfabric.Fence) error {
			b := a
			b.Fence = f
			_, err := s.Backend.Suspend(s.ctx, b)
			return err
		}
		s.unchanged(id, func() {
			s.assertCode(try(flowfabric.Fence{LeaseID: task.Fence.LeaseID, LeaseEpoch: 2, AttemptID: task.Fence.AttemptID}), flowfabric.CodeStaleLease)
			s.assertCode(try(flowfabric.Fence{LeaseID: task.Fence.LeaseID}), flowfabric.CodePartialFenceTriple)
			s.assertCode(try(flowfabric.Fence{}), flowfabric.CodeFenceRequired)
		})
		s.ok(try(flowfabric.Fence{LeaseID: task.Fence.LeaseID, LeaseEpoch: 1, AttemptID: task.Fence.AttemptID}))
		x := s.suspension(id)
		s.equal("suspension", facts(x.AttemptID, x.AttemptIndex, x.LeaseEpoch), facts(task.Fence.AttemptID, 0, 1))
	})

	r.scenario("03.4.2 the next suspend replaces the record", func(s *scene) {
		id, at := s.suspended(flowfabric.Single("a", flowfabric.AnySignal()))
		first := s.suspension(id).SuspensionID
		s.deliver(at[0], "x", flowfabric.EffectResumed)
		s.equal("closed record", s.closed(id, flowfabric.ClosedResumed).SuspensionID, first)
		task := s.claim(id)
		s.equal("still there while it runs", s.suspension(id).SuspensionID, first)
		a := suspendArgs(task, flowfabric.OperatorOnly())
		s.suspendWith(a)
		x := s.suspension(id)
		s.equal("second", facts(x.SuspensionID, x.LeaseEpoch, x.SignalCount, len(x.SatisfierSignalIDs), x.CloserSignalID, x.CloseReason), facts(a.SuspensionID, 2, 0, 0, "", ""))
		s.equal("seen by the attempt", len(s.observe(task)), 0)
	})

	r.scenario("03.4.9 GetSuspension of what never waited", func(s *scene) {
		id := s.create()
		x, err := s.Backend.GetSuspension(s.ctx, id)
		s.ok(err)
		s.that(x == nil, "a suspension: %+v", x)
		_, err = s.Backend.GetSuspension(s.ctx, idOn(1))
		s.assertCode(err, flowfabric.CodeExecutionNotFound)
	})

	r.scenario("04.6.1 a wait until settled ends at a suspend", func(s *scene) {
		id, task := s.createClaimed()
		answer := make(chan flowfabric.WaitExecutionResult, 1)
		errs := make(chan error, 1)
		go func() {
			got, err := s.Backend.WaitExecution(s.ctx, flowfabric.WaitExecutionArgs{ExecutionID: id, WaitMs: 30_000, Until: flowfabric.UntilSettled})
			answer <- got
			errs <- err
		}()
		s.suspendOn(task, flowfabric.OperatorOnly())
		got := <-answer
		s.ok(<-errs)
		s.equal("wait", facts(got.PublicState, got.Terminal, got.TimedOut, got.Outcome), "suspended false false ")
		got, err := s.Backend.WaitExecution(s.ctx, flowfabric.WaitExecutionArgs{ExecutionID: id, WaitMs: 30_000, Until: flowfabric.UntilSettled})
		s.ok(err)
		s.equal("wait of what is suspended", facts(got.PublicState, got.TimedOut), "suspended false")
		got, err = s.Backend.WaitExecution(s.ctx, flowfabric.WaitExecutionArgs{ExecutionID: id, WaitMs: 100, Until: flowfabric.UntilTerminal})
		s.ok(err)
		s.equal("wait for the end", facts(got.PublicState, got.TimedOut), "suspended true")
	})

	r.scenario("04.33 a suspend in the lease feed", func(s *scene) {
		id, task := s.createClaimed()
		s.suspendOn(task, flowfabric.OperatorOnly())
		s.resume(id)
		again := s.claimBy(id, workerB)
		s.complete(again)
		events := s.events(flowfabric.FeedLeases, id)
		var got []string
		for _, e := range events {
			got = append(got, eventLabel(e))
		}
		s.equal("events", got, []string{"acquired(direct)", "released(suspend)", "resumed", "released(completed)"})
		s.equal("released", facts(events[1].LeaseID, events[1].LeaseEpoch, events[1].WorkerInstanceID, events[1].AttemptID), facts(task.Fence.LeaseID, 1, "a-1", task.Fence.AttemptID))
	})

	r.scenario("02.44 a suspended execution counts in its lane", func(s *scene) {
		id, _ := s.suspended(flowfabric.OperatorOnly())
		s.settleLanes()
		lane, err := s.Backend.GetLane(s.ctx, testLane)
		s.ok(err)
		s.equal("counts", facts(lane.Counts[flowfabric.PublicSuspended], lane.Counts[flowfabric.PublicActive]), "1 0")
		s.resume(id)
		s.settleLanes()
		lane, err = s.Backend.GetLane(s.ctx, testLane)
		s.ok(err)
		s.equal("counts", facts(lane.Counts[flowfabric.PublicSuspended], lane.Counts[flowfabric.PublicWaiting]), "0 1")
	})
}

// rekeyed binds fresh waitpoints of other keys.
func rekeyed(a flowfabric.SuspendArgs, keys ...string) flowfabric.SuspendArgs {
	a.Waitpoints = nil
	for _, key := range keys {
		a.Waitpoints = append(a.Waitpoints, flowfabric.WaitpointBinding{WaitpointID: flowfabric.NewWaitpointID(), WaitpointKey: key})
	}
	return a
}

// badSuspend is one way to ask for a suspend that is refused unseen.
type badSuspend struct {
	name     string
	spoil    func(a *flowfabric.SuspendArgs)
	code     flowfabric.Code
	mentions string
}

func badSuspends() []badSuspend {
	invalid := flowfabric.CodeInvalidInput
	keys := func(keys ...string) func(a *flowfabric.SuspendArgs) {
		return func(a *flowfabric.SuspendArgs) { *a = rekeyed(*a, keys...) }
	}
	many := make([]string, 65)
	for i := range many {
		many[i] = fmt.Sprint("k", i)
	}
	return []badSuspend{
		{"no waitpoint", keys(), invalid, "waitpoints_empty"},
		{"65 waitpoints", keys(many...), invalid, "too_many_waitpoints"},
		{"one key twice", keys("go", "go"), invalid, "duplicate_binding"},
		{"one id twice", func(a *flowfabric.SuspendArgs) {
			*a = rekeyed(*a, "go", "on")
			a.Waitpoints[1].WaitpointID = a.Waitpoints[0].WaitpointID
		}, invalid, "duplicate_binding"},
		{"a long key", keys(strings.Repeat("k", 257)), flowfabric.CodeInvalidWaitpointKey, ""},
		{"a key with a control character", keys("a\nb"), flowfabric.CodeInvalidWaitpointKey, ""},
		{"a key that is no text", keys("a\xffb"), flowfabric.CodeInvalidWaitpointKey, ""},
		{"no waitpoint id", func(a *flowfabric.SuspendArgs) { a.Waitpoints[0].WaitpointID = "nine" }, invalid, "waitpoint_id"},
		{"no suspension id", func(a *flowfabric.SuspendArgs) { a.SuspensionID = "nine" }, invalid, "suspension_id"},
		{"an unknown requester", func(a *flowfabric.SuspendArgs) { a.RequestedBy = "nobody" }, invalid, "requested_by"},
		{"both timeouts", func(a *flowfabric.SuspendArgs) { a.TimeoutMs, a.TimeoutAt = ptr(int64(5)), flowfabric.MaxInstant }, invalid, "timeout_at"},
		{"timeout 0", func(a *flowfabric.SuspendArgs) { a.TimeoutMs = ptr(int64(0)) }, invalid, "timeout_ms"},
		{"timeout before the beginning", func(a *flowfabric.SuspendArgs) { a.TimeoutAt = -1 }, invalid, "timeout_at"},
		{"an unknown behaviour", func(a *flowfabric.SuspendArgs) { a.TimeoutBehavior = "explode" }, invalid, "timeout_behavior"},
		{"an unknown target", func(a *flowfabric.SuspendArgs) { a.ResumePolicy.ResumeTarget = "the moon" }, invalid, "resume_target"},
		{"a negative delay", func(a *flowfabric.SuspendArgs) { a.ResumePolicy.ResumeDelayMs = -1 }, invalid, "resume_delay_ms"},
		{"a long continuation", func(a *flowfabric.SuspendArgs) { a.ContinuationMetadataPointer = strings.Repeat("c", 4097) }, invalid, "continuation_metadata_pointer"},
		{"a long key of the repeat", func(a *flowfabric.SuspendArgs) { a.IdempotencyKey = strings.Repeat("i", 257) }, invalid, "idempotency_key"},
		{"no fence", func(a *flowfabric.SuspendArgs) { a.Fence = flowfabric.Fence{} }, flowfabric.CodeFenceRequired, ""},
		{"half a fence", func(a *flowfabric.SuspendArgs) { a.Fence.LeaseID = "" }, flowfabric.CodePartialFenceTriple, ""},
		{"a bad condition", func(a *flowfabric.SuspendArgs) { a.ResumeCondition = flowfabric.AllOf() }, flowfabric.CodeInvalidResumeCondition, "allof_empty_members"},
	}
}
