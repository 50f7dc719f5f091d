package backendtest

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/flowfabric/flowfabric"
)

func (s *scene) setLane(lane flowfabric.LaneID, state flowfabric.LaneState) (flowfabric.SetLaneStateResult, error) {
	return s.Backend.SetLaneState(s.ctx, flowfabric.SetLaneStateArgs{LaneID: lane, State: state, Reason: "test"})
}

func (s *scene) laneIs(lane flowfabric.LaneID, state flowfabric.LaneState) {
	s.t.Helper()
	got, err := s.setLane(lane, state)
	s.ok(err)
	s.equal("lane state", got.Lane.State, state)
}

func (s *scene) sweepLanes() {
	s.t.Helper()
	s.settleLanes()
	for range 100 {
		got, err := s.store().SweepLanes(s.ctx)
		s.ok(err)
		if !got.More {
			return
		}
	}
	s.t.Fatal("the lane sweep never comes to an end")
}

// settleLanes lets the second pass for which lane records may be cached.
func (s *scene) settleLanes() {
	s.t.Helper()
	s.advance(1000)
}

// laneScenarios: specification 02, section 9.
func laneScenarios(r *runner) {
	r.scenario("02.9 the table of lane transitions", func(s *scene) {
		// from, to: "" allowed, "=" unchanged, otherwise refused
		table := map[flowfabric.LaneState]map[flowfabric.LaneState]string{
			flowfabric.LaneActive:   {flowfabric.LaneActive: "=", flowfabric.LanePaused: "", flowfabric.LaneDraining: "", flowfabric.LaneDisabled: ""},
			flowfabric.LanePaused:   {flowfabric.LaneActive: "", flowfabric.LanePaused: "=", flowfabric.LaneDraining: "", flowfabric.LaneDisabled: ""},
			flowfabric.LaneDraining: {flowfabric.LaneActive: "", flowfabric.LanePaused: "refused", flowfabric.LaneDraining: "=", flowfabric.LaneDisabled: ""},
			flowfabric.LaneDisabled: {flowfabric.LaneActive: "", flowfabric.LanePaused: "refused", flowfabric.LaneDraining: "refused", flowfabric.LaneDisabled: "="},
		}
		for from, row := range table {
			for to, want := range row {
				lane := flowfabric.LaneID(fmt.Sprintf("%s-%s", from, to))
				s.ok(s.Backend.DeclareLanes(s.ctx, []flowfabric.LaneID{lane}))
				if from != flowfabric.LaneActive {
					s.laneIs(lane, from)
				}
				got, err := s.setLane(lane, to)
				if want == "refused" {
					s.that(err != nil, "%s to %s was accepted", from, to)
					s.assertCode(err, flowfabric.CodeInvalidLaneTransition)
					s.assertDetail(err, "state", from)
					continue
				}
				s.ok(err)
				s.equal(fmt.Sprintf("%s to %s unchanged", from, to), got.Unchanged, want == "=")
				s.equal("state", got.Lane.State, to)
			}
		}
	})

	r.scenario("02.2.5 a lane comes into being when first named", func(s *scene) {
		_, err := s.Backend.GetLane(s.ctx, testLane)
		s.assertCode(err, flowfabric.CodeLaneNotFound)
		s.create()
		l, err := s.Backend.GetLane(s.ctx, testLane)
		s.ok(err)
		s.equal("lane", facts(l.LaneID, l.State, l.SchedulingWeight, l.MaxConcurrency, l.Drained), "work active 1 0 false")
		s.laneIs("by-state", flowfabric.LanePaused)
		_, err = s.Backend.UpdateLane(s.ctx, flowfabric.UpdateLaneArgs{LaneID: "by-update", SchedulingWeight: ptr(7)})
		s.ok(err)
		l, err = s.Backend.GetLane(s.ctx, "by-update")
		s.ok(err)
		s.equal("weight", l.SchedulingWeight, 7)
	})

	r.scenario("02.2.5 with strict lanes unknown names are refused", func(s *scene) {
		strict := s.with(Options{StrictLanes: true})
		_, err := strict.tryCreate()
		s.assertCode(err, flowfabric.CodeLaneNotFound)
		_, err = strict.setLane("unknown", flowfabric.LanePaused)
		s.assertCode(err, flowfabric.CodeLaneNotFound)
		s.ok(strict.store().DeclareLanes(s.ctx, []flowfabric.LaneID{testLane}))
		strict.create()
	})

	r.scenario("02.43 a paused lane takes nothing in and gives work out", func(s *scene) {
		id := s.create(withKey("k"))
		s.laneIs(testLane, flowfabric.LanePaused)
		s.settleLanes()
		_, err := s.tryCreate()
		s.assertCode(err, flowfabric.CodeLaneIntakeClosed)
		s.assertDetail(err, "state", "paused")
		again, err := s.tryCreate(withKey("k"))
		s.ok(err)
		s.equal("an idempotent repeat", again.Outcome, flowfabric.OutcomeDuplicate)
		again, err = s.tryCreate(withID(id))
		s.ok(err)
		s.equal("a repeated identifier", again.Outcome, flowfabric.OutcomeDuplicate)
		s.equal("tasks", taskIDs(s.takeTasks(workerA, 5)), []flowfabric.ExecutionID{id})
		s.laneIs(testLane, flowfabric.LaneActive)
		s.settleLanes()
		s.create()
	})

	r.scenario("02.9 an operator's claim does not reach into a disabled lane", func(s *scene) {
		id := s.create()
		s.laneIs(testLane, flowfabric.LaneDisabled)
		args := flowfabric.IssueGrantAndClaimArgs{ExecutionID: id, LaneID: testLane, WorkerID: workerA.id, WorkerInstanceID: workerA.instance,
			LeaseID: flowfabric.NewLeaseID(), AttemptID: flowfabric.NewAttemptID(), LeaseTTLMs: testTTL, IssuedBy: flowfabric.IssuedByOperator,
			OperatorOverride: true}
		_, err := s.Backend.IssueGrantAndClaim(s.ctx, args)
		s.assertCode(err, flowfabric.CodeLaneDisabled)
		s.laneIs(testLane, flowfabric.LaneActive)
		s.settleLanes()
		s.sweepLanes()
		_, err = s.Backend.IssueGrantAndClaim(s.ctx, args)
		s.ok(err)
	})

	r.scenario("02.43 a disabled lane yields no claims, and enabling brings its work back", func(s *scene) {
		running, task := s.createClaimed()
		waiting := s.create()
		granted := s.create()
		g := s.grant(granted, workerA)
		s.laneIs(testLane, flowfabric.LaneDisabled)
		s.settleLanes()
		_, err := s.tryCreate()
		s.assertCode(err, flowfabric.CodeLaneIntakeClosed)
		s.equal("tasks", len(s.takeTasks(workerA, 5)), 0)
		s.that(s.ask(workerA) == nil, "a grant from a disabled lane")
		_, err = s.store().IssueClaimGrant(s.ctx, grantArgs(waiting, workerA, 5000))
		s.assertCode(err, flowfabric.CodeLaneDisabled)
		_, err = s.consume(g, workerA)
		s.ok(err) // a grant issued before may still be consumed
		_, err = s.renew(task, testTTL)
		s.ok(err)
		s.complete(task)
		s.equal("completed", s.publicState(running), flowfabric.PublicCompleted)

		s.sweepLanes()
		s.is(waiting, laneBlockedVector(flowfabric.AttemptPendingFirst))
		s.equal("detail", s.describe(waiting).BlockingDetail, "lane work is disabled")
		s.laneIs(testLane, flowfabric.LaneActive)
		s.sweepLanes()
		s.is(waiting, waitingVector(flowfabric.AttemptPendingFirst))
		s.equal("tasks after enabling", taskIDs(s.takeTasks(workerA, 5)), []flowfabric.ExecutionID{waiting})
	})

	r.scenario("02.9 later arrivals in a disabled lane are blocked by the sweep too", func(s *scene) {
		delayed := s.create(withDelayUntil(s.now() + 5000))
		lapsed, task := s.createClaimed()
		paused := s.create()
		s.pause(paused)
		s.laneIs(testLane, flowfabric.LaneDisabled)
		s.sweepLanes()
		s.promote(delayed)
		s.lapse(task)
		s.sweepLanes()
		s.is(delayed, laneBlockedVector(flowfabric.AttemptPendingFirst))
		s.is(lapsed, interruptedVector(flowfabric.OwnershipLeaseExpired))
		s.is(paused, pausedVector(flowfabric.AttemptPendingFirst))
		s.equal("tasks", len(s.takeTasks(workerB, 5)), 0)
		s.laneIs(testLane, flowfabric.LaneActive)
		s.sweepLanes()
		s.is(paused, pausedVector(flowfabric.AttemptPendingFirst))
		s.equal("tasks after enabling", len(s.takeTasks(workerB, 5)), 2)
	})

	r.scenario("02.44 a draining lane", func(s *scene) {
		id, task := s.createClaimed()
		s.delay(task, 1000)
		s.laneIs(testLane, flowfabric.LaneDraining)
		s.settleLanes()
		drained := func() bool {
			l, err := s.Backend.GetLane(s.ctx, testLane)
			s.ok(err)
			return l.Drained
		}
		s.that(!drained(), "drained with work left")
		_, err := s.tryCreate()
		s.assertCode(err, flowfabric.CodeLaneIntakeClosed)
		_, err = s.setLane(testLane, flowfabric.LanePaused)
		s.assertCode(err, flowfabric.CodeInvalidLaneTransition)
		s.promote(id)
		tasks := s.takeTasks(workerA, 1)
		s.equal("resumed", labels(tasks), []string{"resumed"})
		s.complete(tasks[0])
		s.that(drained(), "not drained after the last execution ended")
		s.laneIs(testLane, flowfabric.LaneActive)
	})

	r.scenario("02.9 max_concurrency bounds scheduled claims", func(s *scene) {
		s.backlog(6, func(int) []createOption { return nil })
		_, err := s.Backend.UpdateLane(s.ctx, flowfabric.UpdateLaneArgs{LaneID: testLane, MaxConcurrency: ptr(2)})
		s.ok(err)
		s.settleLanes()
		tasks := s.takeTasks(workerA, 5)
		s.equal("first batch", len(tasks), 2)
		s.equal("at the bound", len(s.takeTasks(workerB, 5)), 0)
		s.complete(tasks[0])
		tasks = append(tasks[1:], s.takeTasks(workerB, 5)...)
		s.equal("after one end", len(tasks), 2)
		_, err = s.Backend.UpdateLane(s.ctx, flowfabric.UpdateLaneArgs{LaneID: testLane, MaxConcurrency: ptr(0)})
		s.ok(err)
		s.settleLanes()
		s.equal("without a bound", len(s.takeTasks(workerB, 5)), 3)
	})

	r.scenario("02.9 max_concurrency does not count direct claims, and grants count before their claims", func(s *scene) {
		_, err := s.Backend.UpdateLane(s.ctx, flowfabric.UpdateLaneArgs{LaneID: testLane, MaxConcurrency: ptr(2)})
		s.ok(err)
		s.settleLanes()
		for range 3 {
			s.createClaimed()
		}
		s.backlog(4, func(int) []createOption { return nil })
		g := s.ask(workerB)
		s.that(g != nil, "no grant beside direct claims")
		s.equal("one place left", len(s.takeTasks(workerB, 5)), 1)
		s.that(s.ask(workerB) == nil, "a grant above the bound")
		s.advanceTo(g.ExpiresAt)
		s.tick()
		s.equal("a lapsed grant gives its place back", len(s.takeTasks(workerB, 5)), 1)
	})

	r.scenario("02.9 max_concurrency heals by lapse, revocation and every end", func(s *scene) {
		_, err := s.Backend.UpdateLane(s.ctx, flowfabric.UpdateLaneArgs{LaneID: testLane, MaxConcurrency: ptr(1)})
		s.ok(err)
		s.settleLanes()
		s.backlog(8, func(int) []createOption { return []createOption{withPolicy(retryFixed10)} })
		for name, give := range map[string]func(task flowfabric.ClaimedExecution){
			"fail":   func(task flowfabric.ClaimedExecution) { s.fail(task, "permanent") },
			"retry":  func(task flowfabric.ClaimedExecution) { s.fail(task, "") },
			"delay":  func(task flowfabric.ClaimedExecution) { s.delay(task, 3_600_000) },
			"cancel": func(task flowfabric.ClaimedExecution) { s.operatorCancel(task.ExecutionID) },
			"revoke": func(task flowfabric.ClaimedExecution) { s.revoke(task.ExecutionID) },
			"lapse":  func(task flowfabric.ClaimedExecution) { s.lapse(task) },
		} {
			tasks := s.takeTasks(workerA, 5)
			s.equal("tasks before "+name, len(tasks), 1)
			s.equal("tasks at the bound", len(s.takeTasks(workerB, 5)), 0)
			give(tasks[0])
		}
		s.equal("tasks at the end", len(s.takeTasks(workerA, 5)), 1)
	})

	r.scenario("02.9 UpdateLane keeps what is not given and checks the revision", func(s *scene) {
		l, err := s.Backend.UpdateLane(s.ctx, flowfabric.UpdateLaneArgs{LaneID: testLane, SchedulingWeight: ptr(5)})
		s.ok(err)
		rev := l.Revision
		l, err = s.Backend.UpdateLane(s.ctx, flowfabric.UpdateLaneArgs{LaneID: testLane, MaxConcurrency: ptr(9), ExpectedRevision: &rev})
		s.ok(err)
		s.equal("lane", facts(l.SchedulingWeight, l.MaxConcurrency, l.Revision > rev), "5 9 true")
		_, err = s.Backend.UpdateLane(s.ctx, flowfabric.UpdateLaneArgs{LaneID: testLane, MaxConcurrency: ptr(1), ExpectedRevision: &rev})
		s.assertCode(err, flowfabric.CodeRevisionConflict)
		for _, bad := range []flowfabric.UpdateLaneArgs{
			{SchedulingWeight: ptr(0)}, {SchedulingWeight: ptr(1001)}, {MaxConcurrency: ptr(-1)},
			{TenantWeights: map[flowfabric.Namespace]int{"a": 0}}, {TenantWeights: map[flowfabric.Namespace]int{"a": 1001}},
		} {
			bad.LaneID = testLane
			_, err = s.Backend.UpdateLane(s.ctx, bad)
			s.assertCode(err, flowfabric.CodeInvalidInput)
		}
		_, err = s.Backend.UpdateLane(s.ctx, flowfabric.UpdateLaneArgs{LaneID: testLane, DefaultPolicy: json.RawMessage(`{"nope":1}`)})
		s.assertCode(err, flowfabric.CodeInvalidPolicyJSON)
		_, err = s.Backend.UpdateLane(s.ctx, flowfabric.UpdateLaneArgs{LaneID: "a{b", SchedulingWeight: ptr(5)})
		s.assertCode(err, flowfabric.CodeInvalidInput)
		_, err = s.Backend.SetLaneState(s.ctx, flowfabric.SetLaneStateArgs{LaneID: testLane, State: flowfabric.LanePaused, Reason: strings.Repeat("r", 257)})
		s.assertCode(err, flowfabric.CodeInvalidInput)
		_, err = s.setLane(testLane, "asleep")
		s.assertCode(err, flowfabric.CodeInvalidInput)
	})

	r.scenario("02.2.5 default policy fields are merged at creation", func(s *scene) {
		_, err := s.Backend.UpdateLane(s.ctx, flowfabric.UpdateLaneArgs{LaneID: testLane, DefaultPolicy: json.RawMessage(`{"priority":40,"retry_policy":{"max_retries":1,"backoff":{"type":"fixed","delay_ms":0}}}`)})
		s.ok(err)
		s.settleLanes()
		id, task := s.createClaimed()
		s.equal("priority", s.describe(id).Priority, int32(40))
		s.equal("outcome", s.fail(task, "").Outcome, flowfabric.FailRetryScheduled)
		own := s.create(withPolicy(`{"priority":3}`))
		s.equal("priority", s.describe(own).Priority, int32(3))
		none, task := s.createClaimed(withPolicy(noRetries))
		s.equal("outcome", s.fail(task, "").Outcome, flowfabric.FailTerminal)
		s.equal("priority", s.describe(none).Priority, int32(40))
	})

	r.scenario("02.9 counts, listing and deletion", func(s *scene) {
		a, task := s.createClaimed(withLane("a"))
		s.create(withLane("a"))
		s.create(withLane("b"))
		l, err := s.Backend.GetLane(s.ctx, "a")
		s.ok(err)
		s.equal("counts", facts(l.Counts[flowfabric.PublicActive], l.Counts[flowfabric.PublicWaiting], l.Counts[flowfabric.PublicCompleted]), "1 1 0")
		s.that(l.OldestEligibleAt > 0, "no oldest eligible instant")
		s.complete(task)
		l, err = s.Backend.GetLane(s.ctx, "a")
		s.ok(err)
		s.equal("counts", facts(l.Counts[flowfabric.PublicActive], l.Counts[flowfabric.PublicWaiting], l.Counts[flowfabric.PublicCompleted]), "0 1 1")
		page, err := s.Backend.ListLanes(s.ctx, flowfabric.ListLanesArgs{Limit: 1})
		s.ok(err)
		s.equal("first page", facts(page.Lanes[0].LaneID, page.More), "a true")
		page, err = s.Backend.ListLanes(s.ctx, flowfabric.ListLanesArgs{After: "a"})
		s.ok(err)
		s.equal("second page", facts(page.Lanes[0].LaneID, page.More), "b false")

		_, err = s.Backend.DeleteLane(s.ctx, "a")
		s.assertCode(err, flowfabric.CodeLaneNotEmpty)
		s.laneIs("a", flowfabric.LaneDisabled)
		_, err = s.Backend.DeleteLane(s.ctx, "a")
		s.assertCode(err, flowfabric.CodeLaneNotEmpty)
		for _, id := range s.everything() {
			if s.describe(id).LaneID == "a" && id != a {
				s.operatorCancel(id)
			}
		}
		ok, err := s.Backend.DeleteLane(s.ctx, "a")
		s.ok(err)
		s.that(ok, "the lane was not there")
		_, err = s.Backend.GetLane(s.ctx, "a")
		s.assertCode(err, flowfabric.CodeLaneNotFound)
	})
}

// everything lists every execution of the deployment.
func (s *scene) everything() []flowfabric.ExecutionID {
	s.t.Helper()
	cfg, err := s.Backend.PartitionConfig(s.ctx)
	s.ok(err)
	var out []flowfabric.ExecutionID
	for p := range cfg.NumFlowPartitions {
		out = append(out, s.listed(uint16(p))...)
	}
	return out
}
