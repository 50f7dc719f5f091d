package backendtest

import (
	"strings"

	"github.com/flowfabric/flowfabric"
)

// reclaimGrant asks for a grant on one interrupted execution.
func (s *scene) reclaimGrant(id flowfabric.ExecutionID, w worker) (flowfabric.IssueReclaimGrantResult, error) {
	return s.Backend.IssueReclaimGrant(s.ctx, flowfabric.IssueReclaimGrantArgs{
		ExecutionID: id, WorkerID: w.id, WorkerInstanceID: w.instance, LaneID: testLane, Capabilities: w.caps, GrantTTLMs: 5000,
	})
}

// reclaimScenarios: specification 02, sections 5.4 and 5.5.
func reclaimScenarios(r *runner) {
	r.scenario("02.22 lapse, IssueReclaimGrant, reclaim", func(s *scene) {
		id, a := s.createClaimed()
		s.lapse(a)
		got, err := s.reclaimGrant(id, workerB)
		s.ok(err)
		s.equal("outcome, kind", facts(got.Outcome, got.Grant.Kind), "granted reclaim")
		args := consumeArgs(*got.Grant, workerB)
		for expect, code := range map[flowfabric.ClaimExpect]flowfabric.Code{flowfabric.ExpectNew: flowfabric.CodeExecutionNotLeaseable, flowfabric.ExpectResume: flowfabric.CodeExecutionNotLeaseable} {
			args.Expect = expect
			s.unchanged(id, func() {
				_, err := s.Backend.ClaimGranted(s.ctx, args)
				s.assertCode(err, code)
			})
		}
		args.Expect = flowfabric.ExpectReclaim
		task, err := s.Backend.ClaimGranted(s.ctx, args)
		s.ok(err)
		s.equal("task", facts(task.Fence.LeaseEpoch, task.AttemptIndex, task.AttemptType, task.ClaimKind, task.LeaseReclaimCount), "2 1 reclaim reclaim 1")
		s.is(id, activeVector())
		old := s.attempt(id, 0)
		s.equal("attempt 0", facts(old.AttemptState, old.FailureReason, old.EndedAt), facts("interrupted_reclaimed", "lease_expired", s.now()))
		fresh := s.attempt(id, 1)
		s.equal("attempt 1", facts(fresh.AttemptType, *fresh.PreviousAttemptIndex, fresh.ReclaimReason), "reclaim 0 lease_expired")
		s.equal("reclaim count", s.describe(id).LeaseReclaimCount, uint32(1))
		s.equal("retry count", s.describe(id).RetryCount, uint32(0))
		s.equal("held", facts(len(s.held("a-1")), len(s.held("b-1"))), "0 1")
		s.equal("previous lease", s.lease(id).PreviousLeaseID, a.Fence.LeaseID)
		rec := s.record(id)
		s.equal("lease_expired_at", rec.LeaseExpiredAt, flowfabric.Millis(0))
	})

	r.scenario("02.5.4 a disabled lane marks the lapse and denies the grant last", func(s *scene) {
		leased, own := s.createClaimed()
		overdue, task := s.createClaimed()
		s.laneIs(testLane, flowfabric.LaneDisabled)
		s.unchanged(leased, func() {
			got, err := s.reclaimGrant(leased, workerB)
			s.ok(err)
			s.equal("validly leased", facts(got.Outcome, got.Detail), "not_reclaimable execution_not_reclaimable")
		})
		_, err := s.renew(own, 10*testTTL)
		s.ok(err)
		s.advanceTo(task.LeaseExpiresAt)
		got, err := s.reclaimGrant(overdue, workerB)
		s.ok(err)
		s.equal("overdue", facts(got.Outcome, got.Detail), "not_reclaimable admission_denied: lane work is disabled")
		s.is(overdue, interruptedVector(flowfabric.OwnershipLeaseExpired))
		s.equal("history", s.history(overdue), []string{"acquired(direct)", "expired"})
	})

	r.scenario("02.23 IssueReclaimGrant where it cannot be had", func(s *scene) {
		leased, _ := s.createClaimed()
		s.unchanged(leased, func() {
			got, err := s.reclaimGrant(leased, workerB)
			s.ok(err)
			s.equal("validly leased", got, flowfabric.IssueReclaimGrantResult{Outcome: flowfabric.ReclaimNotReclaimable, Detail: "execution_not_reclaimable"})
		})
		lapsed := s.create(withCapabilities("gpu", "cuda"))
		s.lapse(s.claimBy(lapsed, workerA.can("gpu", "cuda")))
		s.unchanged(lapsed, func() {
			got, err := s.reclaimGrant(lapsed, workerB.can("cpu"))
			s.ok(err)
			s.equal("worker {cpu}", got, flowfabric.IssueReclaimGrantResult{Outcome: flowfabric.ReclaimNotReclaimable, Detail: "capability_mismatch: cuda,gpu"})
		})
	})

	r.scenario("02.23 ReclaimExecution without a grant", func(s *scene) {
		id, task := s.createClaimed()
		s.lapse(task)
		args := consumeArgs(flowfabric.Grant{ExecutionID: id, GrantID: "none", LaneID: testLane}, workerB)
		args.Expect = flowfabric.ExpectReclaim
		s.unchanged(id, func() {
			_, err := s.Backend.ClaimGranted(s.ctx, args)
			s.assertCode(err, flowfabric.CodeInvalidClaimGrant)
		})
	})

	r.scenario("02.5.4 an overdue lease nobody marked is marked first", func(s *scene) {
		id, task := s.createClaimed()
		s.advanceTo(task.LeaseExpiresAt)
		got, err := s.reclaimGrant(id, workerB)
		s.ok(err)
		s.equal("outcome", got.Outcome, flowfabric.ReclaimGranted)
		s.is(id, interruptedVector(flowfabric.OwnershipLeaseExpired))
		s.equal("history", s.history(id), []string{"acquired(direct)", "expired"})
		_, err = s.reclaimGrant(id, workerA)
		s.assertCode(err, flowfabric.CodeGrantAlreadyExists)
		s.equal("hidden from others", len(s.takeTasks(workerA, 5)), 0)
		_, err = s.consume(*got.Grant, workerB)
		s.ok(err)
	})

	r.scenario("02.5.4 another lane, bad ttl, unknown execution", func(s *scene) {
		id, task := s.createClaimed()
		s.lapse(task)
		args := flowfabric.IssueReclaimGrantArgs{ExecutionID: id, WorkerID: "pool-b", WorkerInstanceID: "b-1", LaneID: "other", GrantTTLMs: 5000}
		s.unchanged(id, func() {
			got, err := s.Backend.IssueReclaimGrant(s.ctx, args)
			s.ok(err)
			s.equal("result", got, flowfabric.IssueReclaimGrantResult{Outcome: flowfabric.ReclaimNotReclaimable, Detail: "lane_mismatch"})
			args.LaneID = testLane
			for _, ttl := range []int64{-1, 60_001} {
				args.GrantTTLMs = ttl
				_, err = s.Backend.IssueReclaimGrant(s.ctx, args)
				s.assertField(err, "grant_ttl_ms")
			}
		})
		_, err := s.reclaimGrant(idOn(1), workerB)
		s.assertCode(err, flowfabric.CodeExecutionNotFound)
	})

	r.scenario("02.5.4 capabilities default to those of the live registration", func(s *scene) {
		id := s.create(withCapabilities("gpu"))
		task := s.claimBy(id, workerA.can("gpu"))
		s.lapse(task)
		got, err := s.reclaimGrant(id, workerB.can())
		s.ok(err)
		s.equal("unregistered", got.Outcome, flowfabric.ReclaimNotReclaimable)
		s.register(workerB.can("gpu"))
		got, err = s.reclaimGrant(id, workerB.can())
		s.ok(err)
		s.equal("registered", got.Outcome, flowfabric.ReclaimGranted)
	})

	r.scenario("02.5.3 a reclaim grant whose execution ended", func(s *scene) {
		id, task := s.createClaimed()
		s.lapse(task)
		got, err := s.reclaimGrant(id, workerB)
		s.ok(err)
		s.operatorCancel(id)
		args := consumeArgs(*got.Grant, workerB)
		args.Expect = flowfabric.ExpectReclaim
		_, err = s.Backend.ClaimGranted(s.ctx, args)
		s.assertCode(err, flowfabric.CodeExecutionNotReclaimable)
	})

	r.scenario("02.24 the reclaim cap", func(s *scene) {
		ways := map[string]func(id flowfabric.ExecutionID){
			"IssueReclaimGrant": func(id flowfabric.ExecutionID) {
				got, err := s.reclaimGrant(id, workerB)
				s.ok(err)
				s.equal("result", got, flowfabric.IssueReclaimGrantResult{Outcome: flowfabric.ReclaimCapExceeded, ReclaimCount: 4, MaxReclaimCount: 4})
			},
			"fused claim": func(id flowfabric.ExecutionID) {
				_, err := s.tryClaim(id, workerB)
				s.assertCode(err, flowfabric.CodeReclaimCapExceeded)
				s.assertDetail(err, "reclaim_count", 4)
				s.assertDetail(err, "max_reclaim_count", 4)
			},
			"scheduler": func(flowfabric.ExecutionID) { s.equal("tasks", len(s.takeTasks(workerB, 5)), 0) },
			"tick":      func(flowfabric.ExecutionID) { s.tick() },
		}
		for name, end := range ways {
			id, task := s.createClaimed(onPartition(testPartition), withPolicy(`{"max_reclaim_count":4}`))
			for range 4 {
				s.revoke(id)
				task = s.claim(id)
			}
			s.lapse(task)
			end(id)
			s.is(id, endedVector(flowfabric.OutcomeFailed, flowfabric.AttemptTerminal))
			d := s.describe(id)
			s.equal("failure by "+name, d.FailureReason+"/"+d.FailureCategory, "max_reclaims_exceeded/infra_crash")
			s.equal("count", d.LeaseReclaimCount, uint32(4))
			s.equal("last attempt", s.attempt(id, 4).AttemptState, flowfabric.AttemptEndedFailure)
			s.equal("completions", len(s.events(flowfabric.FeedCompletions, id)), 1)
			h := s.history(id)
			s.equal("last event", h[len(h)-1], "released(max_reclaims_exceeded)")
			s.noLease(id)
			s.equal("held", len(s.held("a-1")), 0)
			s.equal("eligible", len(s.eligible()), 0)
			s.equal("expired", len(s.expired(0)), 0)
		}
	})

	r.scenario("02.5.5 replay resets the count", func(s *scene) {
		id, _ := s.createClaimed(withPolicy(`{"max_reclaim_count":0}`))
		s.revoke(id)
		_, err := s.tryClaim(id, workerB)
		s.assertCode(err, flowfabric.CodeReclaimCapExceeded)
		s.replay(id)
		s.equal("count", s.describe(id).LeaseReclaimCount, uint32(0))
		s.claim(id)
	})

	r.scenario("02.25 a worker dies and nobody intervenes", func(s *scene) {
		id, task := s.createClaimed()
		s.advanceTo(task.LeaseExpiresAt)
		s.tick()
		g := s.ask(workerB)
		s.that(g != nil, "no grant")
		s.equal("kind", g.Kind, flowfabric.ClaimReclaim)
		next, err := s.consume(*g, workerB)
		s.ok(err)
		s.complete(next)
		s.is(id, endedVector(flowfabric.OutcomeSuccess, flowfabric.AttemptTerminal))
	})

	r.scenario("02.L7 a released reclaim grant offers the execution again", func(s *scene) {
		id, task := s.createClaimed()
		s.lapse(task)
		got, err := s.reclaimGrant(id, workerB)
		s.ok(err)
		s.equal("hidden", len(s.eligible()), 0)
		_, err = s.Backend.ReleaseGrant(s.ctx, flowfabric.ReleaseGrantArgs{ExecutionID: id, GrantID: got.Grant.GrantID, WorkerID: "pool-b"})
		s.ok(err)
		s.equal("offered", s.eligible(), []flowfabric.ExecutionID{id})
		s.equal("reclaimed", strings.Join(labels(s.takeTasks(workerA, 5)), ","), "reclaimed")
	})
}

func labels(tasks []flowfabric.ClaimedExecution) []string {
	var out []string
	for _, t := range tasks {
		out = append(out, t.ClaimKind.TaskLabel())
	}
	return out
}
