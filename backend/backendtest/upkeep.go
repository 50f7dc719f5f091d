package backendtest

import (
	"sync"

	"github.com/flowfabric/flowfabric"
)

// upkeepScenarios: specification 01, section 9, and 02, section 11.
func upkeepScenarios(r *runner) {
	r.scenario("01.34 an ended execution is purged completely", func(s *scene) {
		id, task := s.createClaimed(onPartition(testPartition), withKey("k"), withTags("a.b", "c"), withPolicy(`{"retention_ms":5000}`))
		s.completeWith(task, []byte("r"))
		s.equal("purge_after", s.describe(id).PurgeAfter, s.now()+5000)
		s.advance(4999)
		out, err := s.store().Purge(s.ctx, id)
		s.ok(err)
		s.that(out != flowfabric.UpkeepPurged, "purged before its time")
		s.that(s.describe(id) != nil, "gone before its time")
		s.advance(1 + 60_000)
		s.tick()
		s.missing(id)
		s.equal("listed", len(s.listed(testPartition)), 0)
		s.equal("completions outlive it", len(s.events(flowfabric.FeedCompletions, id)), 1)
		again := s.create(withKey("k"))
		s.that(again != id, "the key still names the purged execution")
		s.equal("the identifier is free again", s.create(withID(id)), id)
		s.noResult(id)
		s.equal("attempts", len(s.attempts(id)), 0)
		s.equal("tags", len(s.describe(id).Tags), 0)
	})

	r.scenario("01.9 Purge of what is not due, not ended or not there", func(s *scene) {
		live := s.create()
		s.unchanged(live, func() {
			_, err := s.store().Purge(s.ctx, live)
			s.ok(err)
		})
		_, err := s.store().Purge(s.ctx, idOn(1))
		s.ok(err)
		now := s.create(withPolicy(`{"retention_ms":0}`))
		s.operatorCancel(now)
		out, err := s.store().Purge(s.ctx, now)
		s.ok(err)
		s.equal("retention 0", out, flowfabric.UpkeepPurged)
		s.missing(now)
	})

	r.scenario("01.9 a replay that committed first wins over the purge", func(s *scene) {
		id := s.create(withPolicy(`{"retention_ms":1000}`))
		s.operatorCancel(id)
		s.advance(100_000)
		s.replay(id)
		s.tick()
		s.is(id, waitingVector(flowfabric.AttemptPendingReplay))
	})

	r.scenario("01.9 PromoteDelayed acts when due, and cleans otherwise", func(s *scene) {
		promote := func(id flowfabric.ExecutionID) flowfabric.UpkeepOutcome {
			out, err := s.store().PromoteDelayed(s.ctx, id)
			s.ok(err)
			return out
		}
		id := s.create(withDelayUntil(s.now() + 1000))
		s.advance(999)
		s.unchanged(id, func() { s.equal("early", promote(id), flowfabric.UpkeepNotYetDue) })
		s.advance(1)
		s.equal("due", promote(id), flowfabric.UpkeepPromoted)
		s.is(id, waitingVector(flowfabric.AttemptPendingFirst))
		d := s.describe(id)
		s.equal("delay and detail", facts(d.DelayUntil, d.BlockingDetail), "0 ")
		s.unchanged(id, func() { s.equal("again", promote(id), flowfabric.UpkeepCleaned) })
		s.equal("unknown", promote(idOn(1)), flowfabric.UpkeepCleaned)
		s.claim(id)
		s.unchanged(id, func() { s.equal("active", promote(id), flowfabric.UpkeepCleaned) })
	})

	r.scenario("01.9 a promoted execution keeps its place by created_at", func(s *scene) {
		at := onPartition(testPartition)
		old := s.create(at, withDelayUntil(s.now()+1000))
		s.tickClock()
		young := s.create(at)
		s.advance(1000)
		s.tick()
		s.equal("order", s.eligible(), []flowfabric.ExecutionID{old, young})
	})

	r.scenario("01.9 the tick acts on everything due in one pass", func(s *scene) {
		here := onPartition(testPartition) // each has a limit of its own
		delayed := s.backlog(60, func(int) []createOption { return []createOption{here, withDelayUntil(s.now() + 1000)} })
		lapsed, _ := s.createClaimed(here)
		expired := s.create(here, withDeadline(s.now()+500))
		purged := s.create(here, withPolicy(`{"retention_ms":100}`))
		s.operatorCancel(purged)
		granted := s.create(here)
		g := s.grant(granted, workerB)
		s.advance(testTTL)
		res, err := s.store().Tick(s.ctx, flowfabric.TickArgs{Limit: 10})
		s.ok(err)
		s.that(res.More && res.Examined <= 10, "a tick of 10: %+v", res)
		s.tick()
		for _, id := range delayed {
			s.is(id, waitingVector(flowfabric.AttemptPendingFirst))
		}
		s.is(lapsed, interruptedVector(flowfabric.OwnershipLeaseExpired))
		s.is(expired, endedVector(flowfabric.OutcomeExpired, flowfabric.AttemptPendingFirst))
		s.missing(purged)
		s.that(contains(s.eligible(), granted), "the lapsed grant still hides its execution")
		_, err = s.consume(g, workerB)
		s.assertCode(err, flowfabric.CodeClaimGrantExpired)
		res, err = s.store().Tick(s.ctx, flowfabric.TickArgs{})
		s.ok(err)
		s.equal("nothing left", len(res.Duties), 0)
	})

	r.scenario("01.9 the tick says when it must look next", func(s *scene) {
		s.create(withDelayUntil(s.now() + 5000))
		s.create(withDelayUntil(s.now() + 3000))
		res, err := s.store().Tick(s.ctx, flowfabric.TickArgs{})
		s.ok(err)
		s.equal("next due", res.NextDue, s.now()+3000)
	})

	r.scenario("01.9 one bad item never stops a partition", func(s *scene) {
		bad := s.create(onPartition(testPartition), withDelayUntil(s.now()+1000))
		good := s.create(onPartition(testPartition), withDelayUntil(s.now()+2000))
		s.corrupt(bad, "public_state")
		s.advance(2000)
		failures := 0
		for range 20 {
			res, err := s.store().Tick(s.ctx, flowfabric.TickArgs{})
			s.ok(err)
			failures += res.Errors
			if !res.More {
				break
			}
		}
		s.that(failures > 0, "the bad item was not counted")
		s.is(good, waitingVector(flowfabric.AttemptPendingFirst))
		s.equal("tasks", taskIDs(s.takeTasks(workerA, 5)), []flowfabric.ExecutionID{good})
	})

	r.scenario("01.9 several engines may tick at once", func(s *scene) {
		ids := s.backlog(40, func(int) []createOption { return []createOption{withDeadline(s.now() + 10)} })
		s.advance(10)
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for range 20 {
					if r, err := s.store().Tick(s.ctx, flowfabric.TickArgs{Limit: 10}); err != nil || !r.More {
						return
					}
				}
			})
		}
		wg.Wait()
		s.tick()
		for _, id := range ids {
			s.equal("completions", len(s.events(flowfabric.FeedCompletions, id)), 1)
		}
	})

	r.scenario("01.9 ExpireExecution where there is nothing to expire", func(s *scene) {
		for _, reason := range []flowfabric.ExpireReason{flowfabric.ExpireAttemptTimeout, flowfabric.ExpireExecutionDeadline} {
			_, err := s.store().ExpireExecution(s.ctx, idOn(1), reason)
			s.ok(err)
			id, _ := s.createClaimed(withPolicy(`{"timeout_policy":{"attempt_timeout_ms":1000,"execution_deadline_ms":1000}}`))
			s.advance(999)
			s.unchanged(id, func() {
				_, err := s.store().ExpireExecution(s.ctx, id, reason)
				s.ok(err)
			})
		}
	})

	r.scenario("01.33 reconcile restores an execution that fell out of its order", func(s *scene) {
		if s.Displace == nil {
			s.t.Skip("the harness cannot break an index")
		}
		first := s.create(onPartition(testPartition))
		s.tickClock()
		lost := s.create(onPartition(testPartition))
		s.tickClock()
		last := s.create(onPartition(testPartition))
		active, _ := s.createClaimed(onPartition(testPartition))
		s.Displace(s.t, lost)
		s.Displace(s.t, active)
		s.that(!contains(s.eligible(), lost), "the execution is still in its order")
		res := s.reconcile(testPartition)
		s.equal("examined", res.Examined, 4)
		s.that(res.Repaired >= 2, "repaired %d", res.Repaired)
		s.equal("order", s.eligible(), []flowfabric.ExecutionID{first, lost, last})
		s.is(active, activeVector())
		res = s.reconcile(testPartition)
		s.equal("repaired by a second pass", res.Repaired+res.Removed, 0)
	})

	r.scenario("01.33 reconcile goes over a partition in steps", func(s *scene) {
		for range 7 {
			s.create(onPartition(testPartition))
		}
		args := flowfabric.ReconcileArgs{Partition: testPartition, Limit: 3}
		var steps []int
		for range 10 {
			res, err := s.store().Reconcile(s.ctx, args)
			s.ok(err)
			steps = append(steps, res.Examined)
			if args.Cursor = res.Next; args.Cursor == "" {
				break
			}
		}
		s.equal("examined per step", steps, []int{3, 3, 1})
	})

	r.scenario("01.33 reconcile finds nothing to repair after ordinary work", func(s *scene) {
		for _, c := range columns() {
			c.reach(s)
		}
		granted := s.create(onPartition(testPartition))
		s.grant(granted, workerA)
		for _, id := range s.everything() {
			s.unchanged(id, func() {
				res := s.reconcile(id.Partition())
				s.equal("repaired", res.Repaired+res.Removed, 0)
				s.equal("violations", len(res.Violations), 0)
			})
		}
	})

	r.scenario("01.33 reconcile does not repair what only waits for a duty", func(s *scene) {
		granted := s.create(onPartition(testPartition))
		s.grant(granted, workerA)
		s.advance(1)
		leased := s.create(onPartition(testPartition))
		s.claim(leased)
		s.advance(1)
		delayed := s.create(onPartition(testPartition), withDelayUntil(s.now()+1_000))
		s.advance(100_000) // grant, lease and delay are over, and no tick has seen it
		res := s.reconcile(testPartition)
		s.equal("examined", res.Examined, 3)
		s.equal("repaired", res.Repaired+res.Removed, 0)
		s.tick()
		s.equal("order", s.eligible(), []flowfabric.ExecutionID{granted, leased, delayed})
		res = s.reconcile(testPartition)
		s.equal("repaired after the tick", res.Repaired+res.Removed, 0)
	})

	r.scenario("02.L9 no execution is lost", func(s *scene) {
		var ids []flowfabric.ExecutionID
		for _, c := range columns() {
			id, _ := c.reach(s)
			ids = append(ids, id)
		}
		for _, id := range ids {
			d := s.describe(id)
			if d.LifecyclePhase == flowfabric.PhaseRunnable {
				s.that(d.BlockingReason != "", "%s names no reason", id)
			}
			if d.EligibilityState == flowfabric.BlockedByOperator {
				_, err := s.Backend.UnpauseExecution(s.ctx, flowfabric.BlockExecutionArgs{ExecutionID: id})
				s.ok(err)
			}
		}
		s.advance(4_000_000)
		s.tick()
		for len(s.completeSome(50)) > 0 {
		}
		for _, id := range ids {
			if snap, err := s.Backend.DescribeExecution(s.ctx, id); err == nil && snap != nil {
				s.that(snap.PublicState.Terminal(), "%s is %s", id, snap.PublicState)
			}
		}
	})
}

// reconcile goes over one partition to its end.
func (s *scene) reconcile(partition uint16) flowfabric.ReconcileResult {
	s.t.Helper()
	var sum flowfabric.ReconcileResult
	args := flowfabric.ReconcileArgs{Partition: partition}
	for range 1000 {
		res, err := s.store().Reconcile(s.ctx, args)
		s.ok(err)
		sum.Examined += res.Examined
		sum.Repaired += res.Repaired
		sum.Removed += res.Removed
		sum.Violations = append(sum.Violations, res.Violations...)
		if res.Next == "" {
			return sum
		}
		args.Cursor = res.Next
	}
	s.t.Fatal("the reconcile never comes to an end")
	return sum
}

// administrationScenarios: what every backend tells about itself.
func administrationScenarios(r *runner) {
	r.scenario("08.4.7 ping, description, partition counts", func(s *scene) {
		s.ok(s.Backend.Ping(s.ctx))
		info, err := s.Backend.Describe(s.ctx)
		s.ok(err)
		s.that(info.Family != "" && info.Version != "", "description is %+v", info)
		cfg, err := s.Backend.PartitionConfig(s.ctx)
		s.ok(err)
		s.ok(cfg.Validate())
	})

	r.scenario("08.4.7 scanners are listed and run by name", func(s *scene) {
		scanners, err := s.Backend.ListScanners(s.ctx)
		s.ok(err)
		s.that(len(scanners) > 0, "no scanners")
		for _, sc := range scanners {
			got, err := s.Backend.RunScanner(s.ctx, sc.Name)
			s.ok(err)
			s.equal("name", got.Name, sc.Name)
			s.that(got.Cycles > sc.Cycles, "%s was not run", sc.Name)
		}
		_, err = s.Backend.RunScanner(s.ctx, "no_such_duty")
		s.assertCode(err, flowfabric.CodeInvalidInput)
	})

	r.scenario("08.4.7 reconcile runs as a job", func(s *scene) {
		s.create(onPartition(testPartition))
		job, err := s.Backend.StartReconcile(s.ctx, ptr(testPartition))
		s.ok(err)
		for job.State == "running" {
			s.ok(s.ctx.Err())
			job, err = s.Backend.GetReconcile(s.ctx, job.JobID)
			s.ok(err)
		}
		s.equal("job", facts(job.State, job.Partitions, job.Examined, job.Repaired), "done 1 1 0")
		_, err = s.Backend.GetReconcile(s.ctx, "nope")
		s.assertCode(err, flowfabric.CodeInvalidInput)
		_, err = s.Backend.StartReconcile(s.ctx, ptr(uint16(60_000)))
		s.assertCode(err, flowfabric.CodeInvalidInput)
	})

	r.scenario("08.4.7 a draining process issues no grants", func(s *scene) {
		id := s.create()
		s.ok(s.Backend.SetDraining(s.ctx, true))
		s.that(s.ask(workerA) == nil, "a grant while draining")
		s.ok(s.Backend.SetDraining(s.ctx, false))
		g := s.ask(workerA)
		s.that(g != nil && g.ExecutionID == id, "no grant after draining")
	})

	r.scenario("contract: Close is idempotent", func(s *scene) {
		s.ok(s.Backend.Close())
		s.ok(s.Backend.Close())
		_, err := s.tryCreate()
		s.that(err != nil, "a closed backend works on")
	})
}
