package backendtest

import (
	"github.com/flowfabric/flowfabric"
)

// replay replays an ended execution.
func (s *scene) replay(id flowfabric.ExecutionID) flowfabric.ReplayExecutionResult {
	s.t.Helper()
	got, err := s.Backend.ReplayExecution(s.ctx, flowfabric.ReplayExecutionArgs{ExecutionID: id})
	s.ok(err)
	return got
}

// replayScenarios: specification 01, section 8.6.
func replayScenarios(r *runner) {
	r.scenario("01.32 replay of a failed execution", func(s *scene) {
		id, task := s.createClaimed(withPolicy(`{"retry_policy":{"max_retries":1,"backoff":{"type":"fixed","delay_ms":0}}}`), withTags("a.b", "c"))
		s.fail(task, "")
		task = s.claim(id)
		s.setProgress(task, 10, "x")
		s.fail(task, "")
		started := s.describe(id).StartedAt
		s.advance(1000)

		got, err := s.Backend.ReplayExecution(s.ctx, flowfabric.ReplayExecutionArgs{ExecutionID: id, Reason: "fixed the input", RequestedBy: "ann"})
		s.ok(err)
		s.equal("result", got, flowfabric.ReplayExecutionResult{PublicState: flowfabric.PublicWaiting, ReplayCount: 1})
		s.is(id, waitingVector(flowfabric.AttemptPendingReplay))
		d := s.describe(id)
		s.equal("counters", []uint32{d.ReplayCount, d.RetryCount, d.LeaseReclaimCount, d.TotalAttemptCount}, []uint32{1, 0, 0, 2})
		s.equal("failure and progress", d.FailureReason+d.FailureCategory+s.progress(id), "")
		s.equal("completed_at, purge_after", d.CompletedAt+d.PurgeAfter, flowfabric.Millis(0))
		s.equal("started_at", d.StartedAt, started)
		s.equal("tags", d.Tags, tags("a.b", "c"))
		s.that(d.CurrentAttempt == nil, "a pending replay shows an attempt")
		s.noResult(id)
		s.equal("attempt records", len(s.attempts(id)), 2)
		s.equal("completions", len(s.events(flowfabric.FeedCompletions, id)), 1)

		again := s.claim(id)
		s.equal("attempt type", again.AttemptType, flowfabric.AttemptTypeReplay)
		s.that(again.Fence.LeaseEpoch > task.Fence.LeaseEpoch, "the epoch did not rise")
		a := s.attempt(id, 2)
		s.equal("lineage", a.ReplayReason+"/"+a.ReplayRequestedBy, "fixed the input/ann")
		s.equal("previous and replayed from", []uint32{*a.PreviousAttemptIndex, *a.ReplayedFromAttemptIndex}, []uint32{1, 1})
		s.equal("retries are allowed anew", s.fail(again, "").Outcome, flowfabric.FailRetryScheduled)
	})

	r.scenario("01.32 replay of a completed execution removes its result", func(s *scene) {
		id, task := s.createClaimed()
		s.completeWith(task, []byte("r"))
		s.replay(id)
		s.noResult(id)
		s.completeWith(s.claim(id), []byte("s"))
		res, err := s.Backend.GetExecutionResult(s.ctx, id)
		s.ok(err)
		s.equal("result", string(res.Payload), "s")
	})

	r.scenario("01.32 replay of an execution that never ran", func(s *scene) {
		id := s.create()
		s.operatorCancel(id)
		s.replay(id)
		s.is(id, waitingVector(flowfabric.AttemptPendingReplay))
		d := s.describe(id)
		s.equal("cancellation", d.CancellationReason+d.CancelledBy, "")
		s.claim(id)
		a := s.attempt(id, 0)
		s.equal("attempt type", a.AttemptType, flowfabric.AttemptTypeReplay)
		s.that(a.ReplayedFromAttemptIndex == nil && a.PreviousAttemptIndex == nil, "a first attempt names one before it")
		s.equal("default lineage", a.ReplayReason+"/"+a.ReplayRequestedBy, "manual/operator")
	})

	r.scenario("01.32 the replay after the last is refused", func(s *scene) {
		id := s.create()
		s.operatorCancel(id)
		for i := range 10 {
			s.equal("replay count", s.replay(id).ReplayCount, uint32(i+1))
			s.operatorCancel(id)
		}
		s.unchanged(id, func() {
			_, err := s.Backend.ReplayExecution(s.ctx, flowfabric.ReplayExecutionArgs{ExecutionID: id})
			s.assertCode(err, flowfabric.CodeMaxReplaysExhausted)
		})
		none := s.create(withPolicy(`{"max_replay_count":0}`))
		s.operatorCancel(none)
		_, err := s.Backend.ReplayExecution(s.ctx, flowfabric.ReplayExecutionArgs{ExecutionID: none})
		s.assertCode(err, flowfabric.CodeMaxReplaysExhausted)
	})

	r.scenario("01.32 replay of a live execution", func(s *scene) {
		id, _ := s.createClaimed()
		s.unchanged(id, func() {
			_, err := s.Backend.ReplayExecution(s.ctx, flowfabric.ReplayExecutionArgs{ExecutionID: id})
			s.assertCode(err, flowfabric.CodeExecutionNotTerminal)
		})
		_, err := s.Backend.ReplayExecution(s.ctx, flowfabric.ReplayExecutionArgs{ExecutionID: idOn(1)})
		s.assertCode(err, flowfabric.CodeExecutionNotFound)
	})

	r.scenario("01.8.6 expected_replay_count is looked at first", func(s *scene) {
		id := s.create(withPolicy(`{"max_replay_count":1}`))
		expect := func(n uint32) (flowfabric.ReplayExecutionResult, error) {
			return s.Backend.ReplayExecution(s.ctx, flowfabric.ReplayExecutionArgs{ExecutionID: id, ExpectedReplayCount: &n})
		}
		_, err := expect(0)
		s.assertCode(err, flowfabric.CodeExecutionNotTerminal) // equal: the other checks decide
		_, err = expect(3)
		s.assertCode(err, flowfabric.CodeExecutionNotTerminal)
		s.operatorCancel(id)
		_, err = expect(3)
		s.assertCode(err, flowfabric.CodeInvalidInput)
		got, err := expect(0)
		s.ok(err)
		s.equal("first", got, flowfabric.ReplayExecutionResult{PublicState: flowfabric.PublicWaiting, ReplayCount: 1})
		s.unchanged(id, func() {
			got, err = expect(0)
			s.ok(err)
			s.equal("repeat", got, flowfabric.ReplayExecutionResult{PublicState: flowfabric.PublicWaiting, ReplayCount: 1, Replayed: true})
		})
		task := s.claim(id)
		got, err = expect(0)
		s.ok(err)
		s.that(got.Replayed, "a repeat after the claim is not replayed")
		s.complete(task)
		_, err = expect(0)
		s.assertCode(err, flowfabric.CodeInvalidInput)
		_, err = expect(1)
		s.assertCode(err, flowfabric.CodeMaxReplaysExhausted)
	})

	r.scenario("01.5.2 replay arms the deadline anew", func(s *scene) {
		duration := s.create(withPolicy(`{"timeout_policy":{"execution_deadline_ms":1000}}`))
		future := s.create(withDeadline(s.now() + 5000))
		past := s.create(withDeadline(s.now() + 500))
		for _, id := range []flowfabric.ExecutionID{duration, future, past} {
			s.operatorCancel(id)
		}
		at := s.describe(future).ExecutionDeadlineAt
		s.advance(700)
		for _, id := range []flowfabric.ExecutionID{duration, future, past} {
			s.replay(id)
		}
		s.equal("duration", s.describe(duration).ExecutionDeadlineAt, s.now()+1000)
		s.equal("absolute, ahead", s.describe(future).ExecutionDeadlineAt, at)
		s.equal("absolute, past", s.describe(past).ExecutionDeadlineAt, flowfabric.Millis(0))
		s.advance(1000)
		s.tick()
		s.is(duration, endedVector(flowfabric.OutcomeExpired, flowfabric.AttemptPendingReplay))
		s.is(past, waitingVector(flowfabric.AttemptPendingReplay))
	})

	r.scenario("01.3.4 a replayed execution goes ahead of younger work", func(s *scene) {
		old := s.create(onPartition(testPartition))
		s.tickClock()
		young := s.create(onPartition(testPartition))
		s.operatorCancel(old)
		s.tickClock()
		s.replay(old)
		s.equal("order", s.eligible(), []flowfabric.ExecutionID{old, young})
	})
}
