package backendtest

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/flowfabric/flowfabric"
)

// executionScenarios: specification 01, sections 8.2 to 8.5, 8.7 and 8.8.
func executionScenarios(r *runner) {
	r.scenario("01.14 create, claim, complete", func(s *scene) {
		id := s.create(onPartition(testPartition), withPolicy(`{"retention_ms":5000}`))
		task := s.claim(id)
		s.is(id, activeVector())
		s.complete(task)
		s.is(id, endedVector(flowfabric.OutcomeSuccess, flowfabric.AttemptTerminal))
		s.equal("attempt 0", s.attempt(id, 0).AttemptState, flowfabric.AttemptEndedSuccess)
		s.noLease(id)
		s.equal("held", len(s.held(workerA.instance)), 0)
		s.equal("eligible", len(s.eligible()), 0)
		s.equal("listed", s.listed(testPartition), []flowfabric.ExecutionID{id})
		d := s.describe(id)
		s.that(d.StartedAt > 0 && d.StartedAt <= d.CompletedAt, "started_at %d, completed_at %d", d.StartedAt, d.CompletedAt)
		s.equal("purge_after", d.PurgeAfter, d.CompletedAt+5000)
		if s.Clock != nil {
			s.advance(4999)
			s.unchanged(id, s.tick)
		}
	})

	r.scenario("01.15 a result is present only after completion with a payload", func(s *scene) {
		id, task := s.createClaimed()
		s.noResult(id)
		_, err := flowfabric.CompleteExecution(s.ctx, s.Backend, flowfabric.CompleteExecutionArgs{
			ExecutionID: id, Fence: task.Fence, Result: []byte{0x00, 0xFF, 'x'}, ResultEncoding: "raw",
		})
		s.ok(err)
		got, err := s.Backend.GetExecutionResult(s.ctx, id)
		s.ok(err)
		s.equal("result", got, flowfabric.ExecutionResult{Present: true, Payload: []byte{0x00, 0xFF, 'x'}, Encoding: "raw"})

		id, task = s.createClaimed()
		s.complete(task)
		s.noResult(id)

		id, task = s.createClaimed()
		s.completeWith(task, []byte{})
		got, err = s.Backend.GetExecutionResult(s.ctx, id)
		s.ok(err)
		s.that(got.Present && len(got.Payload) == 0, "an empty result reads as %+v", got)
		s.equal("default encoding", got.Encoding, "json")
		s.noResult(idOn(3))
	})

	r.scenario("01.3.2 a result has at most 1,048,576 bytes", func(s *scene) {
		id, task := s.createClaimed()
		s.unchanged(id, func() {
			_, err := flowfabric.CompleteExecution(s.ctx, s.Backend, flowfabric.CompleteExecutionArgs{
				ExecutionID: id, Fence: task.Fence, Result: make([]byte, flowfabric.MaxPayloadBytes+1),
			})
			s.assertCode(err, flowfabric.CodePayloadTooLarge)
		})
		s.completeWith(task, make([]byte, flowfabric.MaxPayloadBytes))
	})

	r.scenario("01.8.2 a batch of completions decides each on its own", func(s *scene) {
		_, a := s.createClaimed()
		bid, b := s.createClaimed()
		_, c := s.createClaimed()
		stale := b.Fence
		stale.LeaseEpoch++
		got, err := s.Backend.CompleteExecutions(s.ctx, []flowfabric.CompleteExecutionArgs{
			{ExecutionID: a.ExecutionID, Fence: a.Fence},
			{ExecutionID: b.ExecutionID, Fence: stale},
			{ExecutionID: idOn(9), Fence: strangeFence()},
			{ExecutionID: c.ExecutionID, Fence: c.Fence, Result: []byte("1")},
			{ExecutionID: c.ExecutionID, Fence: c.Fence, Result: []byte("2")},
		})
		s.ok(err)
		s.equal("answers", len(got), 5)
		s.ok(got[0].Err)
		s.assertCode(got[1].Err, flowfabric.CodeStaleLease)
		s.assertCode(got[2].Err, flowfabric.CodeExecutionNotFound)
		s.ok(got[3].Err)
		s.ok(got[4].Err)
		s.equal("first and repeat", []bool{got[3].Result.Replayed, got[4].Result.Replayed}, []bool{false, true})
		s.is(bid, activeVector())
		_, err = s.Backend.CompleteExecutions(s.ctx, nil)
		s.assertCode(err, flowfabric.CodeInvalidInput)
		_, err = s.Backend.CompleteExecutions(s.ctx, make([]flowfabric.CompleteExecutionArgs, 101))
		s.assertCode(err, flowfabric.CodeBatchTooLarge)
	})

	r.scenario("01.8.3 a failure reason is cut at a character boundary", func(s *scene) {
		id, task := s.createClaimed()
		_, err := s.Backend.FailExecution(s.ctx, flowfabric.FailExecutionArgs{ExecutionID: id, Fence: task.Fence, Reason: "x" + strings.Repeat("é", 3000)})
		s.ok(err)
		reason := s.describe(id).FailureReason
		s.equal("length of the reason", len(reason), 4095)
		s.that(utf8.ValidString(reason), "the reason was cut inside a character")
	})

	r.scenario("01.23 delay pauses the attempt", func(s *scene) {
		id, task := s.createClaimed()
		until := s.now() + 60_000
		got := s.delay(task, 60_000)
		s.equal("result", got, flowfabric.DelayExecutionResult{DelayUntil: until, PublicState: flowfabric.PublicDelayed})
		s.is(id, delayedVector(flowfabric.ReasonWaitingForDelay, flowfabric.AttemptInterrupted))
		a := s.attempt(id, 0)
		s.equal("attempt", facts(a.AttemptState, a.PauseKind, a.SuspendedAt == s.now()), "suspended worker_delay true")
		s.equal("eligible", len(s.eligible()), 0)
		s.equal("held", len(s.held(workerA.instance)), 0)
		d := s.describe(id)
		s.equal("detail", d.BlockingDetail, fmt.Sprintf("delayed until %d", until))
		s.that(d.CurrentAttempt != nil && d.CurrentAttempt.AttemptIndex == 0, "a paused attempt is not shown")
		s.equal("history", s.history(id), []string{"acquired(direct)", "released(worker_delay)"})

		s.promote(id)
		s.is(id, waitingVector(flowfabric.AttemptInterrupted))
		g := s.grant(id, workerB)
		s.equal("kind of the grant", g.Kind, flowfabric.ClaimResume)
		args := consumeArgs(g, workerB)
		args.Expect = flowfabric.ExpectNew
		_, err := s.Backend.ClaimGranted(s.ctx, args)
		s.assertCode(err, flowfabric.CodeUseClaimResumedExecution)
		args.Expect = flowfabric.ExpectResume
		resumed, err := s.Backend.ClaimGranted(s.ctx, args)
		s.ok(err)
		s.equal("attempt", resumed.AttemptID, task.AttemptID)
		s.equal("attempt index and epoch", []uint64{uint64(resumed.AttemptIndex), resumed.Fence.LeaseEpoch}, []uint64{0, 2})
		s.equal("claim kind", resumed.ClaimKind, flowfabric.ClaimResume)
		s.equal("attempt type", resumed.AttemptType, flowfabric.AttemptTypeInitial)
		a = s.attempt(id, 0)
		s.equal("resumed attempt", facts(a.AttemptState, a.PauseKind, a.ResumedAt == s.now(), a.SuspendedAt), "started  true 0")
	})

	r.scenario("01.8.5 delay until an absolute instant, also a past one", func(s *scene) {
		id, task := s.createClaimed()
		got, err := s.Backend.DelayExecution(s.ctx, flowfabric.DelayExecutionArgs{ExecutionID: id, Fence: task.Fence, DelayUntil: 5})
		s.ok(err)
		s.equal("result", got, flowfabric.DelayExecutionResult{DelayUntil: 5, PublicState: flowfabric.PublicDelayed})
		s.is(id, delayedVector(flowfabric.ReasonWaitingForDelay, flowfabric.AttemptInterrupted))
		s.tick()
		s.is(id, waitingVector(flowfabric.AttemptInterrupted))
	})

	r.scenario("01.24 operator cancel from waiting", func(s *scene) {
		id := s.create()
		got := s.operatorCancel(id)
		s.equal("result", got, flowfabric.CancelExecutionResult{
			Outcome: flowfabric.CancelCancelled, PreviousPhase: flowfabric.PhaseRunnable, PublicState: flowfabric.PublicCancelled,
		})
		s.is(id, endedVector(flowfabric.OutcomeCancelled, flowfabric.AttemptPendingFirst))
		s.equal("attempts", len(s.attempts(id)), 0)
		s.equal("eligible", len(s.eligible()), 0)
		d := s.describe(id)
		s.equal("cancellation", d.CancellationReason+"/"+d.CancelledBy, "no longer wanted/operator_override")
	})

	r.scenario("01.24 operator cancel from active", func(s *scene) {
		id, task := s.createClaimed()
		s.equal("previous phase", s.operatorCancel(id).PreviousPhase, flowfabric.PhaseActive)
		s.is(id, endedVector(flowfabric.OutcomeCancelled, flowfabric.AttemptTerminal))
		a := s.attempt(id, 0)
		s.equal("attempt", facts(a.AttemptState, a.FailureReason, a.TerminalizedByOverride), "ended_cancelled cancelled: no longer wanted true")
		s.equal("held", len(s.held(workerA.instance)), 0)
		_, err := s.tryComplete(id, task.Fence)
		s.assertCode(err, flowfabric.CodeExecutionNotActive)
		s.assertDetail(err, "terminal_outcome", "cancelled")
		s.assertDetail(err, "lifecycle_phase", "terminal")
	})

	r.scenario("01.24 operator cancel from paused, lapsed, revoked and blocked", func(s *scene) {
		paused, task := s.createClaimed()
		s.delay(task, 60_000)
		revoked, _ := s.createClaimed()
		s.revoke(revoked)
		blocked := s.create()
		s.pause(blocked)
		lapsed, lt := s.createClaimed()
		s.lapse(lt)
		for _, id := range []flowfabric.ExecutionID{paused, revoked, lapsed} {
			s.operatorCancel(id)
			s.is(id, endedVector(flowfabric.OutcomeCancelled, flowfabric.AttemptTerminal))
			s.equal("attempt", s.attempt(id, 0).AttemptState, flowfabric.AttemptEndedCancelled)
			s.noLease(id)
		}
		s.operatorCancel(blocked)
		s.is(blocked, endedVector(flowfabric.OutcomeCancelled, flowfabric.AttemptPendingFirst))
	})

	r.scenario("01.8.4 a second cancel keeps the first reason", func(s *scene) {
		id := s.create()
		_, err := s.Backend.CancelExecution(s.ctx, flowfabric.CancelExecutionArgs{
			ExecutionID: id, Source: flowfabric.SourceOperatorOverride, Reason: "first", RequestedBy: "ann",
		})
		s.ok(err)
		s.unchanged(id, func() {
			got, err := s.Backend.CancelExecution(s.ctx, flowfabric.CancelExecutionArgs{
				ExecutionID: id, Source: flowfabric.SourceOperatorOverride, Reason: "second", RequestedBy: "bob",
			})
			s.ok(err)
			s.equal("outcome", got.Outcome, flowfabric.CancelAlreadyCancelled)
			s.equal("reason and by", got.CancellationReason+"/"+got.CancelledBy, "first/ann")
		})
	})

	r.scenario("01.8.4 engine sources cancel without a fence and are recorded", func(s *scene) {
		for _, source := range []flowfabric.Source{flowfabric.SourceFlowCascade, flowfabric.SourceSystemTimeout} {
			id, _ := s.createClaimed()
			_, err := s.store().CancelExecution(s.ctx, flowfabric.CancelExecutionArgs{ExecutionID: id, Source: source, Reason: "r"})
			s.ok(err)
			s.equal("cancelled_by", s.describe(id).CancelledBy, string(source))
			s.equal("completions", len(s.events(flowfabric.FeedCompletions, id)), 1)
		}
	})

	r.scenario("01.8.4 cancel of an execution that ended otherwise", func(s *scene) {
		id, task := s.createClaimed()
		s.complete(task)
		s.unchanged(id, func() {
			_, err := s.Backend.CancelExecution(s.ctx, flowfabric.CancelExecutionArgs{ExecutionID: id, Source: flowfabric.SourceOperatorOverride})
			s.assertCode(err, flowfabric.CodeExecutionNotActive)
			s.assertDetail(err, "terminal_outcome", "success")
		})
	})

	r.scenario("01.8.4 a worker cancels with its fence", func(s *scene) {
		id, task := s.createClaimed()
		got, err := s.Backend.CancelExecution(s.ctx, flowfabric.CancelExecutionArgs{ExecutionID: id, Fence: task.Fence, Reason: "bad input"})
		s.ok(err)
		s.equal("outcome", got.Outcome, flowfabric.CancelCancelled)
		s.equal("public state", got.PublicState, flowfabric.PublicCancelled)
		s.equal("cancelled_by", s.describe(id).CancelledBy, "lease_holder")
		s.that(!s.attempt(id, 0).TerminalizedByOverride, "the holder's own cancel is marked an override")
		s.equal("history", s.history(id), []string{"acquired(direct)", "released(cancelled)"})
	})

	r.scenario("01.25 worker cancel without fence", func(s *scene) {
		id, _ := s.createClaimed()
		s.unchanged(id, func() {
			_, err := s.Backend.CancelExecution(s.ctx, flowfabric.CancelExecutionArgs{ExecutionID: id, Reason: "r"})
			s.assertCode(err, flowfabric.CodeFenceRequired)
		})
	})

	r.scenario("01.8.7 ChangePriority re-orders by the original created_at", func(s *scene) {
		first := s.create(onPartition(testPartition), withPriority(5))
		s.tickClock()
		second := s.create(onPartition(testPartition), withPriority(5))
		s.tickClock()
		third := s.create(onPartition(testPartition), withPriority(1))
		s.equal("order", s.eligible(), []flowfabric.ExecutionID{first, second, third})
		got, err := s.Backend.ChangePriority(s.ctx, flowfabric.ChangePriorityArgs{ExecutionID: third, Priority: 20_000})
		s.ok(err)
		s.equal("result", got, flowfabric.ChangePriorityResult{OldPriority: 1, NewPriority: 9000})
		s.equal("order", s.eligible(), []flowfabric.ExecutionID{third, first, second})
		got, err = s.Backend.ChangePriority(s.ctx, flowfabric.ChangePriorityArgs{ExecutionID: first, Priority: -3})
		s.ok(err)
		s.equal("result", got, flowfabric.ChangePriorityResult{OldPriority: 5, NewPriority: 0})
		_, err = s.Backend.ChangePriority(s.ctx, flowfabric.ChangePriorityArgs{ExecutionID: third, Priority: 5})
		s.ok(err)
		s.equal("order", s.eligible(), []flowfabric.ExecutionID{second, third, first})
		again, err := s.Backend.ChangePriority(s.ctx, flowfabric.ChangePriorityArgs{ExecutionID: third, Priority: 5})
		s.ok(err)
		s.equal("repeat", again, flowfabric.ChangePriorityResult{OldPriority: 5, NewPriority: 5})
		s.equal("claimed in order", taskIDs(s.takeTasks(workerA, 10)), []flowfabric.ExecutionID{second, third, first})
	})

	r.scenario("04.38 progress overwrites only what is given", func(s *scene) {
		id, task := s.createClaimed()
		update := func(pct *int32, msg *string) error {
			return s.Backend.UpdateProgress(s.ctx, flowfabric.UpdateProgressArgs{ExecutionID: id, Fence: task.Fence, Pct: pct, Message: msg})
		}
		before := s.lease(id)
		s.ok(update(ptr(int32(40)), ptr("half")))
		s.equal("progress", s.progress(id), "40 half")
		s.ok(update(ptr(int32(60)), nil))
		s.equal("progress", s.progress(id), "60 half")
		s.ok(update(ptr(int32(10)), nil))
		s.ok(update(nil, ptr("")))
		s.equal("progress", s.progress(id), "10 ")
		s.equal("lease", s.lease(id), before)
		s.is(id, activeVector())
		rec := s.record(id)
		s.that(rec.ProgressUpdatedAt > 0, "progress_updated_at is absent")
		s.equal("history", s.history(id), []string{"acquired(direct)"})
	})

	r.scenario("01.8.8 progress limits", func(s *scene) {
		id, task := s.createClaimed()
		s.unchanged(id, func() {
			for name, a := range map[string]flowfabric.UpdateProgressArgs{
				"nothing":      {},
				"over 100":     {Pct: ptr(int32(101))},
				"below 0":      {Pct: ptr(int32(-1))},
				"long message": {Message: ptr(strings.Repeat("m", 4097))},
			} {
				a.ExecutionID, a.Fence = id, task.Fence
				err := s.Backend.UpdateProgress(s.ctx, a)
				s.that(err != nil, "%s was accepted", name)
				s.assertCode(err, flowfabric.CodeInvalidInput)
			}
		})
		s.ok(s.Backend.UpdateProgress(s.ctx, flowfabric.UpdateProgressArgs{
			ExecutionID: id, Fence: task.Fence, Pct: ptr(int32(100)), Message: ptr(strings.Repeat("m", 4096)),
		}))
	})

	r.scenario("01.3.1 progress is kept to the end and emptied by a new attempt", func(s *scene) {
		id, task := s.createClaimed(withPolicy(retryAtOnce))
		s.setProgress(task, 30, "a")
		s.fail(task, "")
		s.equal("progress while a retry is pending", s.progress(id), "30 a")
		task = s.claim(id)
		s.equal("progress of the new attempt", s.progress(id), "")
		s.setProgress(task, 70, "b")
		s.delay(task, 1000)
		s.promote(id)
		task = s.claim(id)
		s.equal("progress after a resume", s.progress(id), "70 b")
		s.complete(task)
		s.equal("progress after the end", s.progress(id), "70 b")
	})

	r.scenario("01.E8 last_mutation_at rises with every write, last_transition_at with the vector's", func(s *scene) {
		id := s.create()
		stamps := func() [2]flowfabric.Millis {
			d := s.describe(id)
			return [2]flowfabric.Millis{d.LastTransitionAt, d.LastMutationAt}
		}
		t0 := s.now()
		s.equal("after create", stamps(), [2]flowfabric.Millis{t0, t0})
		s.advance(10)
		_, err := s.Backend.SetExecutionTags(s.ctx, id, tags("a.b", "c"))
		s.ok(err)
		s.equal("after tags", stamps(), [2]flowfabric.Millis{t0, t0 + 10})
		s.advance(10)
		task := s.claim(id)
		s.equal("after claim", stamps(), [2]flowfabric.Millis{t0 + 20, t0 + 20})
		s.advance(10)
		s.setProgress(task, 1, "x")
		s.equal("after progress", stamps(), [2]flowfabric.Millis{t0 + 20, t0 + 30})
		s.advance(10)
		s.complete(task)
		s.equal("after complete", stamps(), [2]flowfabric.Millis{t0 + 40, t0 + 40})
	})

	r.scenario("01.E6 the epoch rises over retries, resumes, reclaims and replays", func(s *scene) {
		id, task := s.createClaimed(withPolicy(retryAtOnce))
		var epochs []uint64
		note := func() { epochs = append(epochs, task.Fence.LeaseEpoch) }
		note()
		s.fail(task, "")
		task = s.claim(id)
		note()
		s.delay(task, 100)
		s.promote(id)
		task = s.claim(id)
		note()
		s.revoke(id)
		task = s.claim(id)
		note()
		s.complete(task)
		s.replay(id)
		task = s.claim(id)
		note()
		s.equal("epochs", epochs, []uint64{1, 2, 3, 4, 5})
		var types []flowfabric.AttemptType
		for i, a := range s.attempts(id) {
			types = append(types, a.AttemptType)
			s.equal("index", a.AttemptIndex, uint32(i))
		}
		s.equal("attempt types", types, []flowfabric.AttemptType{flowfabric.AttemptTypeInitial, flowfabric.AttemptTypeRetry, flowfabric.AttemptTypeReclaim, flowfabric.AttemptTypeReplay})
	})

	r.scenario("06.8 an operator pauses and unpauses a waiting execution", func(s *scene) {
		id := s.create()
		got, err := s.Backend.PauseExecution(s.ctx, flowfabric.BlockExecutionArgs{ExecutionID: id, Detail: "look first"})
		s.ok(err)
		s.equal("public state", got.PublicState, flowfabric.PublicWaiting)
		s.is(id, pausedVector(flowfabric.AttemptPendingFirst))
		d := s.describe(id)
		s.equal("detail", d.BlockingDetail, "look first")
		s.equal("blocked_since", d.BlockedSince, d.LastTransitionAt)
		s.equal("tasks", len(s.takeTasks(workerA, 10)), 0)
		s.unchanged(id, func() {
			_, err := s.Backend.PauseExecution(s.ctx, flowfabric.BlockExecutionArgs{ExecutionID: id})
			s.assertCode(err, flowfabric.CodeExecutionNotEligible)
		})
		_, err = s.Backend.UnpauseExecution(s.ctx, flowfabric.BlockExecutionArgs{ExecutionID: id})
		s.ok(err)
		s.is(id, waitingVector(flowfabric.AttemptPendingFirst))
		d = s.describe(id)
		s.equal("detail and since", facts(d.BlockingDetail, d.BlockedSince), " 0")
		_, err = s.Backend.UnpauseExecution(s.ctx, flowfabric.BlockExecutionArgs{ExecutionID: id})
		s.assertCode(err, flowfabric.CodeExecutionNotEligible)
		_, err = s.Backend.PauseExecution(s.ctx, flowfabric.BlockExecutionArgs{ExecutionID: idOn(1)})
		s.assertCode(err, flowfabric.CodeExecutionNotFound)
		_, err = s.Backend.PauseExecution(s.ctx, flowfabric.BlockExecutionArgs{ExecutionID: id, Detail: strings.Repeat("d", 4097)})
		s.assertCode(err, flowfabric.CodeInvalidInput)
		s.equal("tasks", len(s.takeTasks(workerA, 10)), 1)
	})
}

func (s *scene) noResult(id flowfabric.ExecutionID) {
	s.t.Helper()
	got, err := s.Backend.GetExecutionResult(s.ctx, id)
	s.ok(err)
	s.that(!got.Present && len(got.Payload) == 0, "there is a result: %+v", got)
}

func (s *scene) progress(id flowfabric.ExecutionID) string {
	s.t.Helper()
	d := s.describe(id)
	if d.ProgressPct == nil {
		return d.ProgressMessage
	}
	return fmt.Sprintf("%d %s", *d.ProgressPct, d.ProgressMessage)
}

func (s *scene) setProgress(task flowfabric.ClaimedExecution, pct int32, msg string) {
	s.t.Helper()
	s.ok(s.Backend.UpdateProgress(s.ctx, flowfabric.UpdateProgressArgs{ExecutionID: task.ExecutionID, Fence: task.Fence, Pct: &pct, Message: &msg}))
}

// tickClock lets a millisecond pass, so that what is created next is younger.
func (s *scene) tickClock() {
	s.t.Helper()
	s.advance(1)
}
