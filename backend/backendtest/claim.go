package backendtest

import (
	"fmt"
	"sync"

	"github.com/flowfabric/flowfabric"
)

// claimScenarios: specification 02, section 5.
func claimScenarios(r *runner) {
	r.scenario("02.12 a second grant", func(s *scene) {
		id := s.create()
		g1 := s.grant(id, workerA)
		s.equal("grant", facts(g1.ExecutionID == id, g1.PartitionKey, g1.LaneID, g1.Kind, g1.ExpiresAt),
			facts(true, fmt.Sprintf("{fp:%d}", id.Partition()), "work", "claim", s.now()+5000))
		s.that(g1.GrantID != "" && len(g1.GrantID) <= 256, "grant id is %q", g1.GrantID)
		_, err := s.store().IssueClaimGrant(s.ctx, grantArgs(id, workerB, 5000))
		s.assertCode(err, flowfabric.CodeGrantAlreadyExists)
		s.is(id, waitingVector(flowfabric.AttemptPendingFirst))
		s.advance(5000)
		g2 := s.grant(id, workerA)
		_, err = s.consume(g1, workerA)
		s.assertCode(err, flowfabric.CodeInvalidClaimGrant)
		_, err = s.consume(g2, workerA)
		s.ok(err)
	})

	r.scenario("02.13 a lapsed grant, with and without a newer one", func(s *scene) {
		id := s.create()
		g1 := s.grant(id, workerA)
		s.advance(10_000)
		_, err := s.consume(g1, workerA)
		s.assertCode(err, flowfabric.CodeClaimGrantExpired)
		s.tick()
		_, err = s.consume(g1, workerA)
		s.assertCode(err, flowfabric.CodeClaimGrantExpired)
		g2 := s.grant(id, workerA)
		_, err = s.consume(g1, workerA)
		s.assertCode(err, flowfabric.CodeInvalidClaimGrant)
		_, err = s.consume(g2, workerA)
		s.ok(err)
	})

	r.scenario("02.14 a grant presented with another lane", func(s *scene) {
		id := s.create()
		g := s.grant(id, workerA)
		wrong := consumeArgs(g, workerA)
		wrong.LaneID = "other"
		s.unchanged(id, func() {
			_, err := s.Backend.ClaimGranted(s.ctx, wrong)
			s.assertCode(err, flowfabric.CodeInvalidClaimGrant)
		})
		_, err := s.consume(g, workerA)
		s.ok(err)
	})

	r.scenario("02.15 a grant is bound to the worker, not to the instance", func(s *scene) {
		id := s.create()
		g := s.grant(id, workerA)
		_, err := s.consume(g, workerB)
		s.assertCode(err, flowfabric.CodeInvalidClaimGrant)
		task, err := s.consume(g, workerA.as("a-2"))
		s.ok(err)
		s.equal("instance of the task", task.WorkerInstanceID, flowfabric.WorkerInstanceID("a-2"))
		s.equal("instance of the lease", s.lease(id).WorkerInstanceID, flowfabric.WorkerInstanceID("a-2"))
	})

	r.scenario("02.16 a grant consumed at grant_expires_at", func(s *scene) {
		id := s.create()
		g := s.grant(id, workerA)
		s.equal("tasks while granted", len(s.takeTasks(workerB, 5)), 0)
		s.advanceTo(g.ExpiresAt)
		_, err := s.consume(g, workerA)
		s.assertCode(err, flowfabric.CodeClaimGrantExpired)
		s.tick()
		s.equal("tasks after the lapse", taskIDs(s.takeTasks(workerB, 5)), []flowfabric.ExecutionID{id})
	})

	r.scenario("02.11 a scan that meets a lapsed grant treats it as absent at once", func(s *scene) {
		id := s.create()
		g := s.grant(id, workerA)
		s.advanceTo(g.ExpiresAt)
		s.equal("tasks without a tick", taskIDs(s.takeTasks(workerB, 5)), []flowfabric.ExecutionID{id})
	})

	r.scenario("02.17 consume twice", func(s *scene) {
		id := s.create(withTags("a.b", "c"))
		g := s.grant(id, workerA)
		args := consumeArgs(g, workerA)
		first, err := s.Backend.ClaimGranted(s.ctx, args)
		s.ok(err)
		s.unchanged(id, func() {
			other := args
			other.LeaseID = flowfabric.NewLeaseID()
			_, err = s.Backend.ClaimGranted(s.ctx, other)
			s.assertCode(err, flowfabric.CodeInvalidClaimGrant)
			again, err := s.Backend.ClaimGranted(s.ctx, args)
			s.ok(err)
			s.that(again.Replayed, "the repeat is not marked replayed")
			again.Replayed, again.StoreTime = first.Replayed, first.StoreTime
			s.equal("repeat", again, first)
		})
		s.equal("epoch and attempts", facts(s.lease(id).LeaseEpoch, len(s.attempts(id))), "1 1")
	})

	r.scenario("02.5.3 a repeated claim whose lease is gone", func(s *scene) {
		id := s.create()
		args := directArgs(id, workerA)
		_, err := s.Backend.IssueGrantAndClaim(s.ctx, args)
		s.ok(err)
		again, err := s.Backend.IssueGrantAndClaim(s.ctx, args)
		s.ok(err)
		s.that(again.Replayed, "the repeat is not marked replayed")
		s.revoke(id)
		_, err = s.Backend.IssueGrantAndClaim(s.ctx, args)
		s.assertCode(err, flowfabric.CodeLeaseRevoked)
		second := directArgs(id, workerB)
		task, err := s.Backend.IssueGrantAndClaim(s.ctx, second)
		s.ok(err)
		s.advanceTo(task.LeaseExpiresAt)
		_, err = s.Backend.IssueGrantAndClaim(s.ctx, second)
		s.assertCode(err, flowfabric.CodeLeaseExpired)
		_, err = s.store().MarkLeaseExpiredIfDue(s.ctx, id)
		s.ok(err)
		_, err = s.Backend.IssueGrantAndClaim(s.ctx, second)
		s.assertCode(err, flowfabric.CodeLeaseExpired)
	})

	r.scenario("02.18 two workers claim fused at once", func(s *scene) {
		for range 10 {
			id := s.create()
			const n = 8
			var wg sync.WaitGroup
			errs := make([]error, n)
			for i := range n {
				wg.Go(func() {
					_, errs[i] = s.tryClaim(id, worker{id: "pool", instance: flowfabric.WorkerInstanceID(fmt.Sprint("i-", i))})
				})
			}
			wg.Wait()
			won := 0
			for _, err := range errs {
				if err == nil {
					won++
					continue
				}
				if code := flowfabric.CodeOf(err); code != flowfabric.CodeLeaseConflict && code != flowfabric.CodeExecutionNotEligible {
					s.t.Fatalf("a loser got %v", err)
				}
			}
			s.equal("winners", won, 1)
			s.equal("attempts", len(s.attempts(id)), 1)
			s.equal("epoch", s.lease(id).LeaseEpoch, uint64(1))
		}
	})

	r.scenario("02.19 cancelled while granted", func(s *scene) {
		id := s.create()
		g := s.grant(id, workerA)
		s.operatorCancel(id)
		s.unchanged(id, func() {
			_, err := s.consume(g, workerA)
			s.assertCode(err, flowfabric.CodeExecutionNotLeaseable)
		})
	})

	r.scenario("02.19 expired while granted", func(s *scene) {
		id := s.create(withDeadline(s.now() + 1000))
		g := s.grant(id, workerA)
		s.advance(1000)
		s.tick()
		s.is(id, endedVector(flowfabric.OutcomeExpired, flowfabric.AttemptPendingFirst))
		_, err := s.consume(g, workerA)
		s.assertCode(err, flowfabric.CodeExecutionNotLeaseable)
	})

	r.scenario("02.L6 of many claimers with one grant one wins", func(s *scene) {
		id := s.create()
		g := s.grant(id, workerA)
		const n = 8
		var wg sync.WaitGroup
		errs := make([]error, n)
		for i := range n {
			wg.Go(func() { _, errs[i] = s.consume(g, workerA.as(flowfabric.WorkerInstanceID(fmt.Sprint("a-", i)))) })
		}
		wg.Wait()
		won := 0
		for _, err := range errs {
			if err == nil {
				won++
				continue
			}
			s.assertCode(err, flowfabric.CodeInvalidClaimGrant)
		}
		s.equal("winners", won, 1)
		s.equal("attempts", len(s.attempts(id)), 1)
	})

	r.scenario("02.20 claiming a paused attempt as a new one", func(s *scene) {
		id, task := s.createClaimed()
		s.delay(task, 10)
		s.promote(id)
		g := s.grant(id, workerB)
		args := consumeArgs(g, workerB)
		for _, c := range []struct {
			expect flowfabric.ClaimExpect
			code   flowfabric.Code
		}{{flowfabric.ExpectNew, flowfabric.CodeUseClaimResumedExecution}, {flowfabric.ExpectReclaim, flowfabric.CodeExecutionNotReclaimable}} {
			args.Expect = c.expect
			s.unchanged(id, func() {
				_, err := s.Backend.ClaimGranted(s.ctx, args)
				s.assertCode(err, c.code)
			})
		}
		args.Expect = flowfabric.ExpectAny
		resumed, err := s.Backend.ClaimGranted(s.ctx, args)
		s.ok(err)
		s.equal("resumed", facts(resumed.AttemptID == task.AttemptID, resumed.AttemptIndex, resumed.Fence.LeaseEpoch, resumed.ClaimKind), facts(true, 0, 2, "resume"))
		s.equal("history", s.history(id), []string{"acquired(direct)", "released(worker_delay)", "resumed"})
	})

	r.scenario("02.21 a resume grant is consumed once", func(s *scene) {
		id, task := s.createClaimed()
		s.delay(task, 10)
		s.promote(id)
		got, err := s.reclaimGrant(id, workerB)
		s.ok(err)
		s.equal("outcome, kind", facts(got.Outcome, got.Grant.Kind), "granted resume")
		_, err = s.consume(*got.Grant, workerB)
		s.ok(err)
		_, err = s.consume(*got.Grant, workerB)
		s.assertCode(err, flowfabric.CodeInvalidClaimGrant)
	})

	r.scenario("02.21 resuming a never-run execution leaves its grant", func(s *scene) {
		id := s.create()
		args := consumeArgs(s.grant(id, workerA), workerA)
		args.Expect = flowfabric.ExpectResume
		s.unchanged(id, func() {
			_, err := s.Backend.ClaimGranted(s.ctx, args)
			s.assertCode(err, flowfabric.CodeNotAResumedExecution)
		})
		args.Expect = flowfabric.ExpectReclaim
		_, err := s.Backend.ClaimGranted(s.ctx, args)
		s.assertCode(err, flowfabric.CodeExecutionNotReclaimable)
		args.Expect = flowfabric.ExpectNew
		_, err = s.Backend.ClaimGranted(s.ctx, args)
		s.ok(err)
	})

	r.scenario("02.5.3 the capabilities at the claim decide, and a refusal ends the grant", func(s *scene) {
		id := s.create(withCapabilities("gpu", "cuda"))
		g := s.grant(id, workerA.can("gpu", "cuda"))
		_, err := s.consume(g, workerA.can("cpu"))
		s.assertCode(err, flowfabric.CodeCapabilityMismatch)
		s.assertDetail(err, "missing", []string{"cuda", "gpu"})
		_, err = s.consume(g, workerA.can("gpu", "cuda"))
		s.assertCode(err, flowfabric.CodeInvalidClaimGrant)
		s.equal("offered again", s.eligible("gpu", "cuda"), []flowfabric.ExecutionID{id})
	})

	r.scenario("02.5.1 IssueClaimGrant checks in order", func(s *scene) {
		issue := func(a flowfabric.IssueClaimGrantArgs) error {
			_, err := s.store().IssueClaimGrant(s.ctx, a)
			return err
		}
		s.assertCode(issue(grantArgs(idOn(1), workerA, 5000)), flowfabric.CodeExecutionNotFound)
		id := s.create(withCapabilities("gpu"))
		s.unchanged(id, func() {
			for _, ttl := range []int64{-1, 60_001} {
				s.assertField(issue(grantArgs(id, workerA, ttl)), "grant_ttl_ms")
			}
			lane := grantArgs(id, workerA.can("gpu"), 5000)
			lane.LaneID = "other"
			s.assertCode(issue(lane), flowfabric.CodeExecutionNotEligible)
		})
		err := issue(grantArgs(id, workerA.can("cpu"), 5000))
		s.assertCode(err, flowfabric.CodeCapabilityMismatch)
		s.assertDetail(err, "missing", []string{"gpu"})
		rec := s.record(id)
		s.equal("last_capability_mismatch_at", rec.LastCapabilityMismatchAt, s.now())
		s.ok(issue(grantArgs(id, workerA.can("gpu"), 60_000)))
		s.assertCode(issue(grantArgs(id, workerA.can("cpu"), 5000)), flowfabric.CodeGrantAlreadyExists)
	})

	r.scenario("02.2.3 route and admission summary travel into the policy snapshot", func(s *scene) {
		id := s.create()
		a := grantArgs(id, workerA, 5000)
		a.RouteSnapshot, a.AdmissionSummary = `{"rule":"x"}`, "admitted"
		g, err := s.store().IssueClaimGrant(s.ctx, a)
		s.ok(err)
		task, err := s.consume(g, workerA)
		s.ok(err)
		s.equal("snapshot", task.PolicySnapshot.RouteSnapshot+" "+task.PolicySnapshot.AdmissionSummary, `{"rule":"x"} admitted`)
		s.equal("history", s.history(id), []string{"acquired(claim)"})
	})

	r.scenario("02.5.2 ReleaseGrant ends an unused grant at once", func(s *scene) {
		id := s.create()
		g := s.grant(id, workerA)
		release := func(grantID string, w flowfabric.WorkerID) bool {
			ok, err := s.Backend.ReleaseGrant(s.ctx, flowfabric.ReleaseGrantArgs{ExecutionID: id, GrantID: grantID, WorkerID: w})
			s.ok(err)
			return ok
		}
		s.that(!release(g.GrantID, "pool-b"), "another worker released the grant")
		s.that(!release("unknown", "pool-a"), "an unknown grant was released")
		s.equal("tasks while granted", len(s.takeTasks(workerB, 5)), 0)
		s.that(release(g.GrantID, "pool-a"), "the grant was not released")
		s.that(!release(g.GrantID, "pool-a"), "the grant was released twice")
		_, err := s.consume(g, workerA)
		s.assertCode(err, flowfabric.CodeInvalidClaimGrant)
		s.equal("tasks after the release", taskIDs(s.takeTasks(workerB, 5)), []flowfabric.ExecutionID{id})
		s.that(!release(g.GrantID, "pool-a"), "a consumed grant was released")
	})

	r.scenario("02.6 pausing an execution with a live grant is refused", func(s *scene) {
		id := s.create()
		s.grant(id, workerA)
		_, err := s.Backend.PauseExecution(s.ctx, flowfabric.BlockExecutionArgs{ExecutionID: id})
		s.assertCode(err, flowfabric.CodeExecutionNotEligible)
	})

	r.scenario("02.26 a fused claim never steals a valid lease", func(s *scene) {
		id, task := s.createClaimed()
		s.unchanged(id, func() {
			for _, override := range []bool{false, true} {
				args := directArgs(id, workerB)
				args.OperatorOverride = override
				_, err := s.Backend.IssueGrantAndClaim(s.ctx, args)
				s.assertCode(err, flowfabric.CodeLeaseConflict)
			}
		})
		_, err := s.tryClaim(idOn(1), workerB)
		s.assertCode(err, flowfabric.CodeExecutionNotFound)
		s.complete(task)
	})

	r.scenario("02.5.6 a fused claim meets somebody else's grant", func(s *scene) {
		id := s.create()
		g := s.grant(id, workerA)
		_, err := s.tryClaim(id, workerB)
		s.assertCode(err, flowfabric.CodeGrantAlreadyExists)
		s.advanceTo(g.ExpiresAt)
		s.claimBy(id, workerB)
		s.is(id, activeVector())
	})

	r.scenario("02.5.6 a fused claim meets the worker's own grant, and leaves none behind", func(s *scene) {
		id := s.create()
		g := s.grant(id, workerA)
		task := s.claim(id)
		_, err := s.consume(g, workerA)
		s.assertCode(err, flowfabric.CodeInvalidClaimGrant)
		s.complete(task)
	})

	r.scenario("02.5.6 a fused claim names the lane of the execution, or none", func(s *scene) {
		id := s.create()
		args := directArgs(id, workerA)
		args.LaneID = "other"
		if s.Remote {
			args.LaneID = "" // the route takes no lane
		} else {
			s.unchanged(id, func() {
				_, err := s.Backend.IssueGrantAndClaim(s.ctx, args)
				s.assertCode(err, flowfabric.CodeExecutionNotEligible)
			})
			args.LaneID = testLane
		}
		_, err := s.Backend.IssueGrantAndClaim(s.ctx, args)
		s.ok(err)
	})

	r.scenario("02.5.6 a fused claim resumes and reclaims", func(s *scene) {
		id, task := s.createClaimed()
		s.delay(task, 10)
		s.promote(id)
		task = s.claim(id)
		s.equal("resume", facts(task.ClaimKind, task.AttemptIndex), "resume 0")
		s.advanceTo(task.LeaseExpiresAt) // nobody has marked the lapse
		task = s.claimBy(id, workerB)
		s.equal("reclaim", facts(task.ClaimKind, task.AttemptIndex, task.LeaseReclaimCount), "reclaim 1 1")
		s.equal("history", s.history(id), []string{"acquired(direct)", "released(worker_delay)", "resumed", "expired", "reclaimed"})
	})

	r.scenario("02.5.6 a fused claim checks capabilities, an operator's does not", func(s *scene) {
		id := s.create(withCapabilities("gpu"))
		s.unchanged(id, func() {
			_, err := s.tryClaim(id, workerA.can("cpu"))
			s.assertCode(err, flowfabric.CodeCapabilityMismatch)
			s.assertDetail(err, "missing", []string{"gpu"})
		})
		args := directArgs(id, workerA)
		args.OperatorOverride, args.IssuedBy = true, flowfabric.IssuedByOperator
		_, err := s.Backend.IssueGrantAndClaim(s.ctx, args)
		s.ok(err)
		s.equal("history", s.history(id), []string{"acquired(operator)"})
	})

	r.scenario("02.5.3 claims validate their input", func(s *scene) {
		id := s.create()
		s.unchanged(id, func() {
			for field, change := range map[string]func(*flowfabric.IssueGrantAndClaimArgs){
				"lease_ttl_ms":       func(a *flowfabric.IssueGrantAndClaimArgs) { a.LeaseTTLMs = 99 },
				"worker_id":          func(a *flowfabric.IssueGrantAndClaimArgs) { a.WorkerID = "a b" },
				"worker_instance_id": func(a *flowfabric.IssueGrantAndClaimArgs) { a.WorkerInstanceID = "" },
				"lease_id":           func(a *flowfabric.IssueGrantAndClaimArgs) { a.LeaseID = "nope" },
				"attempt_id":         func(a *flowfabric.IssueGrantAndClaimArgs) { a.AttemptID = "nope" },
			} {
				args := directArgs(id, workerA)
				change(&args)
				_, err := s.Backend.IssueGrantAndClaim(s.ctx, args)
				s.that(err != nil, "a bad %s was accepted", field)
				s.assertField(err, field)
			}
			args := directArgs(id, workerA)
			args.LeaseTTLMs = 3_600_001
			_, err := s.Backend.IssueGrantAndClaim(s.ctx, args)
			s.assertField(err, "lease_ttl_ms")
			_, err = s.tryClaim(id, workerA.can("a,b"))
			s.assertCode(err, flowfabric.CodeInvalidCapabilities)
			s.assertMentions(err, "worker:comma_in_token")
		})
		args := directArgs(id, workerA)
		args.LeaseID, args.AttemptID = "", ""
		task, err := s.Backend.IssueGrantAndClaim(s.ctx, args)
		s.ok(err)
		s.that(task.Fence.LeaseID != "" && task.AttemptID != "", "absent ids were not minted: %+v", task.Fence)
	})

	r.scenario("02.5.3 the task carries all a worker needs", func(s *scene) {
		id := s.create(withPayload([]byte("in")), withTags("a.b", "c"), withKind("report"), withDeadline(s.now()+1_000_000),
			withPolicy(`{"timeout_policy":{"attempt_timeout_ms":5000}}`))
		task := s.takeTasks(workerA, 1)[0]
		s.equal("task", facts(task.ExecutionID == id, task.AttemptIndex, task.AttemptType, task.ClaimKind, task.LaneID, task.Namespace, task.Kind, string(task.Payload), task.PayloadEncoding, task.Tags, task.LeaseReclaimCount, task.WorkerInstanceID),
			facts(true, 0, "initial", "claim", "work", "test", "report", "in", "json", tags("a.b", "c"), 0, "a-1"))
		s.equal("instants", []flowfabric.Millis{task.LeaseExpiresAt, task.AttemptTimeoutAt, task.ExecutionDeadlineAt, task.StoreTime},
			[]flowfabric.Millis{s.now() + 30_000, s.now() + 5000, s.now() + 1_000_000, s.now()})
		s.that(task.Fence.Complete() && task.Fence.AttemptID == task.AttemptID, "fence is %+v", task.Fence)
		s.complete(task)
	})
}
