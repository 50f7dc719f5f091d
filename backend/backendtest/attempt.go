package backendtest

import (
	"github.com/flowfabric/flowfabric"
)

// attemptScenarios: specification 01, sections 3.3 and 8.10.
func attemptScenarios(r *runner) {
	r.scenario("01.8.10 attempts of an execution never claimed", func(s *scene) {
		id := s.create()
		_, err := s.Backend.GetAttempt(s.ctx, id, 0)
		s.assertCode(err, flowfabric.CodeAttemptNotFound)
		_, err = s.Backend.GetCurrentAttempt(s.ctx, id)
		s.assertCode(err, flowfabric.CodeNoAttemptsExist)
		page, err := s.Backend.ListAttempts(s.ctx, flowfabric.ListAttemptsArgs{ExecutionID: id})
		s.ok(err)
		s.that(len(page.Attempts) == 0 && page.Next == nil, "page is %+v", page)
	})

	r.scenario("01.3.3 the record of a running and of an ended attempt", func(s *scene) {
		id := s.create()
		at := s.now()
		task := s.claim(id)
		a := s.attempt(id, 0)
		s.equal("identity", facts(a.AttemptID == task.AttemptID, a.ExecutionID == id, a.AttemptIndex, a.AttemptType, a.AttemptState),
			facts(true, true, 0, "initial", "started"))
		s.equal("created_at, started_at", []flowfabric.Millis{a.CreatedAt, a.StartedAt}, []flowfabric.Millis{at, at})
		s.equal("lease", facts(a.LeaseID == task.Fence.LeaseID, a.LeaseEpoch, a.WorkerID, a.WorkerInstanceID), facts(true, 1, "pool-a", "a-1"))
		s.that(a.PreviousAttemptIndex == nil && !a.TerminalizedByOverride && a.EndedAt == 0, "attempt is %+v", a)
		s.equal("policy snapshot", a.PolicySnapshot, task.PolicySnapshot)
		s.equal("lane of the snapshot", a.PolicySnapshot.LaneID, testLane)
		s.advance(7)
		s.complete(task)
		a = s.attempt(id, 0)
		s.equal("end", facts(a.AttemptState, a.EndedAt, a.FailureReason), facts("ended_success", at+7, ""))
		current, err := s.Backend.GetCurrentAttempt(s.ctx, id)
		s.ok(err)
		s.equal("current attempt", current, a)
	})

	r.scenario("01.8.10 ListAttempts pages ascending", func(s *scene) {
		id, task := s.createClaimed(withPolicy(`{"retry_policy":{"max_retries":10,"backoff":{"type":"fixed","delay_ms":0}}}`))
		for range 6 {
			s.fail(task, "")
			task = s.claim(id)
		}
		page, err := s.Backend.ListAttempts(s.ctx, flowfabric.ListAttemptsArgs{ExecutionID: id, Limit: 3})
		s.ok(err)
		s.equal("first page", indexes(page.Attempts), []uint32{0, 1, 2})
		s.that(page.Next != nil, "no next page")
		page, err = s.Backend.ListAttempts(s.ctx, flowfabric.ListAttemptsArgs{ExecutionID: id, From: *page.Next, Limit: 4})
		s.ok(err)
		s.equal("second page", indexes(page.Attempts), []uint32{3, 4, 5, 6})
		s.that(page.Next == nil, "a next page after the last attempt")
		page, err = s.Backend.ListAttempts(s.ctx, flowfabric.ListAttemptsArgs{ExecutionID: id})
		s.ok(err)
		s.equal("all", len(page.Attempts), 7)
		current, err := s.Backend.GetCurrentAttempt(s.ctx, id)
		s.ok(err)
		s.equal("current", current.AttemptIndex, uint32(6))
		for _, limit := range []int{-1, 1001} {
			_, err = s.Backend.ListAttempts(s.ctx, flowfabric.ListAttemptsArgs{ExecutionID: id, Limit: limit})
			s.assertCode(err, flowfabric.CodeInvalidInput)
		}
		_, err = s.Backend.GetAttempt(s.ctx, id, 7)
		s.assertCode(err, flowfabric.CodeAttemptNotFound)
	})

	r.scenario("01.E5 an ended attempt record is never rewritten", func(s *scene) {
		id, task := s.createClaimed(withPolicy(retryAtOnce))
		s.fail(task, "")
		first := s.attempt(id, 0)
		s.advance(10)
		second := s.claimBy(id, workerB)
		s.revoke(id)
		third := s.claim(id)
		s.complete(third)
		s.replay(id)
		s.operatorCancel(id)
		s.equal("attempt 0", s.attempt(id, 0), first)
		s.equal("attempt 1", facts(s.attempt(id, 1).AttemptState, s.attempt(id, 1).LeaseID == second.Fence.LeaseID), "interrupted_reclaimed true")
		s.equal("attempt 2", s.attempt(id, 2).AttemptState, flowfabric.AttemptEndedSuccess)
	})

	r.scenario("01.3.1 an execution cancelled while a retry is pending keeps its attempts", func(s *scene) {
		id, task := s.createClaimed(withPolicy(retryFixed10))
		s.fail(task, "")
		s.operatorCancel(id)
		s.is(id, endedVector(flowfabric.OutcomeCancelled, flowfabric.AttemptTerminal))
		s.equal("attempt 0", s.attempt(id, 0).AttemptState, flowfabric.AttemptEndedFailure)
		s.equal("attempts", len(s.attempts(id)), 1)
	})
}

func indexes(attempts []flowfabric.Attempt) []uint32 {
	var out []uint32
	for _, a := range attempts {
		out = append(out, a.AttemptIndex)
	}
	return out
}
