package backendtest

import (
	"fmt"
	"strings"

	"github.com/flowfabric/flowfabric"
)

// capabilityScenarios: specification 02, section 8.
func capabilityScenarios(r *runner) {
	r.scenario("02.41 required tokens must be covered exactly", func(s *scene) {
		gpu := s.create(withCapabilities("gpu"))
		for _, caps := range [][]string{{"GPU"}, {}, {"gpu2"}, {"cpu"}} {
			_, err := s.tryClaim(gpu, workerA.can(caps...))
			s.assertCode(err, flowfabric.CodeCapabilityMismatch)
			s.equal(fmt.Sprint("tasks for ", caps), len(s.takeTasks(workerA.can(caps...), 5)), 0)
		}
		s.equal("tasks for cpu and gpu", taskIDs(s.takeTasks(workerA.can("gpu", "cpu", "gpu"), 5)), []flowfabric.ExecutionID{gpu})
		free := s.create()
		s.equal("an empty requirement", taskIDs(s.takeTasks(workerB, 5)), []flowfabric.ExecutionID{free})
	})

	r.scenario("02.41 malformed worker tokens are refused everywhere", func(s *scene) {
		id := s.create()
		var many []string
		for i := range 257 {
			many = append(many, fmt.Sprint("t", i))
		}
		s.unchanged(id, func() {
			for detail, caps := range map[string][]string{
				"worker:comma_in_token": {"a,b"}, "worker:control_or_whitespace": {"a b"}, "worker:empty_token": {""},
				"worker:too_many_tokens": many, "worker:too_many_bytes": {strings.Repeat("x", 4097)},
			} {
				w := workerA.can(caps...)
				_, err := s.tryClaim(id, w)
				s.assertCode(err, flowfabric.CodeInvalidCapabilities)
				s.assertMentions(err, detail)
				_, err = s.Backend.ClaimTasks(s.ctx, tasksArgs(w, 1))
				s.assertCode(err, flowfabric.CodeInvalidCapabilities)
				_, err = s.Backend.ClaimForWorker(s.ctx, askArgs(w))
				s.assertCode(err, flowfabric.CodeInvalidCapabilities)
				_, err = s.Backend.RegisterWorker(s.ctx, registerArgs(w, "0190f3c2-7b1a-7c3d-8e4f-0123456789ab"))
				s.assertCode(err, flowfabric.CodeInvalidCapabilities)
			}
		})
		workers, err := s.Backend.ListWorkers(s.ctx, flowfabric.ListWorkersArgs{})
		s.ok(err)
		s.equal("workers", len(workers.Workers), 0)
	})

	r.scenario("02.42 an uncovered bucket is labelled by a claim and lifted by a registration", func(s *scene) {
		gpu := s.create(onPartition(testPartition), withCapabilities("gpu"))
		s.is(gpu, waitingVector(flowfabric.AttemptPendingFirst))
		at := s.now()
		s.equal("tasks of a cpu worker", len(s.takeTasks(workerA.can("cpu"), 5)), 0)
		s.is(gpu, uncoveredVector())
		d := s.describe(gpu)
		s.equal("detail", d.BlockingDetail, "no live worker satisfies: gpu")
		s.equal("nothing is written per member", d.LastMutationAt, d.CreatedAt)
		rec := s.record(gpu)
		s.equal("last_capability_mismatch_at", rec.LastCapabilityMismatchAt, at)
		s.equal("record", rec.EligibilityState, flowfabric.BlockedByRoute)

		s.tickClock()
		younger := s.create(onPartition(testPartition), withCapabilities("gpu"))
		s.is(younger, uncoveredVector())
		_, err := s.Backend.RegisterWorker(s.ctx, registerArgs(workerB.can("gpu", "cuda"), "0190f3c2-7b1a-7c3d-8e4f-0123456789ab"))
		s.ok(err)
		s.is(gpu, waitingVector(flowfabric.AttemptPendingFirst))
		s.equal("at its old place", taskIDs(s.takeTasks(workerB.can("gpu", "cuda"), 5)), []flowfabric.ExecutionID{gpu, younger})
	})

	r.scenario("02.42 with a capable worker alive a claim labels nothing", func(s *scene) {
		s.register(workerB.can("gpu"))
		gpu := s.create(withCapabilities("gpu"))
		s.unchanged(gpu, func() { s.takeTasks(workerA.can("cpu"), 5) })
		s.is(gpu, waitingVector(flowfabric.AttemptPendingFirst))
	})

	r.scenario("02.42 before any worker has named the lane nothing is labelled", func(s *scene) {
		gpu := s.create(withCapabilities("gpu"))
		_, err := s.store().SweepRouteLabels(s.ctx)
		s.ok(err)
		s.is(gpu, waitingVector(flowfabric.AttemptPendingFirst))
		args := tasksArgs(workerA.can("cpu"), 1)
		args.Lanes = []flowfabric.LaneID{"elsewhere"}
		_, err = s.Backend.ClaimTasks(s.ctx, args)
		s.ok(err)
		_, err = s.store().SweepRouteLabels(s.ctx)
		s.ok(err)
		s.is(gpu, waitingVector(flowfabric.AttemptPendingFirst))
	})

	r.scenario("02.8 a covering claim lifts the label before it looks", func(s *scene) {
		gpu := s.create(withCapabilities("gpu"))
		s.takeTasks(workerA.can("cpu"), 1)
		s.is(gpu, uncoveredVector())
		s.equal("tasks", taskIDs(s.takeTasks(workerB.can("gpu"), 1)), []flowfabric.ExecutionID{gpu})
	})

	r.scenario("02.8 lanes may be named in any order, and twice", func(s *scene) {
		gpu := s.create(withCapabilities("gpu"))
		s.takeTasks(workerA.can("cpu"), 1)
		s.is(gpu, uncoveredVector())
		head := s.create(withCapabilities("gpu"), withPriority(9))
		args := tasksArgs(workerB.can("gpu"), 1)
		args.Lanes = []flowfabric.LaneID{"z", testLane, "a", testLane}
		got, err := s.Backend.ClaimTasks(s.ctx, args)
		s.ok(err)
		s.equal("tasks", taskIDs(got.Tasks), []flowfabric.ExecutionID{head})
		s.is(gpu, waitingVector(flowfabric.AttemptPendingFirst))
	})

	r.scenario("02.8 the sweep compares labels with the registry in both directions", func(s *scene) {
		s.register(workerA.can("cpu"))
		s.register(workerB.can("gpu"))
		gpu := s.create(withCapabilities("gpu"))
		_, err := s.store().SweepRouteLabels(s.ctx)
		s.ok(err)
		s.is(gpu, waitingVector(flowfabric.AttemptPendingFirst))
		_, err = s.Backend.MarkWorkerDead(s.ctx, flowfabric.MarkWorkerDeadArgs{Namespace: testNamespace, WorkerInstanceID: workerB.instance, Reason: "gone"})
		s.ok(err)
		_, err = s.store().SweepRouteLabels(s.ctx)
		s.ok(err)
		s.is(gpu, uncoveredVector())
		s.register(workerB.can("gpu"))
		s.is(gpu, waitingVector(flowfabric.AttemptPendingFirst))
	})

	r.scenario("02.8 coverage is by one single worker", func(s *scene) {
		both := s.create(withCapabilities("a", "b"))
		s.register(workerA.can("a"))
		s.register(workerB.can("b"))
		s.takeTasks(workerA.can("a"), 1)
		s.is(both, uncoveredVector())
		s.equal("detail", s.describe(both).BlockingDetail, "no live worker satisfies: a,b")
	})

	r.scenario("02.8 coverage needs the namespace and the lane", func(s *scene) {
		gpu := s.create(withCapabilities("gpu"))
		other := registerArgs(workerB.can("gpu"), "0190f3c2-7b1a-7c3d-8e4f-0123456789ab")
		other.Namespace = "other"
		_, err := s.Backend.RegisterWorker(s.ctx, other)
		s.ok(err)
		s.takeTasks(workerA.can("cpu"), 1)
		s.is(gpu, uncoveredVector())
		lane := registerArgs(workerB.can("gpu"), "0190f3c2-7b1a-7c3d-8e4f-0123456789ab")
		lane.Lanes = []flowfabric.LaneID{"other"}
		_, err = s.Backend.RegisterWorker(s.ctx, lane)
		s.ok(err)
		s.is(gpu, uncoveredVector())
		lane.Lanes = []flowfabric.LaneID{"other", testLane}
		_, err = s.Backend.RegisterWorker(s.ctx, lane)
		s.ok(err)
		s.is(gpu, waitingVector(flowfabric.AttemptPendingFirst))
	})

	r.scenario("02.8 a labelled execution is treated as eligible", func(s *scene) {
		ids := s.backlog(4, func(int) []createOption { return []createOption{withCapabilities("gpu"), onPartition(testPartition)} })
		s.takeTasks(workerA.can("cpu"), 1)
		s.is(ids[0], uncoveredVector())
		s.operatorCancel(ids[0])
		s.is(ids[0], endedVector(flowfabric.OutcomeCancelled, flowfabric.AttemptPendingFirst))
		_, err := s.Backend.ChangePriority(s.ctx, flowfabric.ChangePriorityArgs{ExecutionID: ids[1], Priority: 9})
		s.ok(err)
		s.pause(ids[2])
		s.is(ids[2], pausedVector(flowfabric.AttemptPendingFirst))
		s.is(ids[1], uncoveredVector())
		_, err = s.Backend.UnpauseExecution(s.ctx, flowfabric.BlockExecutionArgs{ExecutionID: ids[2]})
		s.ok(err)
		got := s.takeTasks(workerB.can("gpu"), 5)
		s.equal("first", got[0].ExecutionID, ids[1])
		s.equal("tasks", len(got), 3)
	})

	r.scenario("02.8 an incapable worker never delays work a capable one can take", func(s *scene) {
		s.backlog(150, func(int) []createOption {
			return []createOption{withCapabilities("gpu"), onPartition(testPartition), withPriority(9)}
		})
		free := s.create(onPartition(testPartition))
		s.equal("tasks", taskIDs(s.takeTasks(workerA.can("cpu"), 5)), []flowfabric.ExecutionID{free})
	})

	r.scenario("02.42 many executions of one bucket are labelled and lifted without a write each", func(s *scene) {
		ids := s.backlog(300, func(i int) []createOption {
			return []createOption{withCapabilities("gpu"), onPartition(uint16(i % 16))}
		})
		created := s.describe(ids[0]).LastMutationAt
		s.tickClock()
		s.takeTasks(workerA.can("cpu"), 5)
		for i := 0; i < len(ids); i += 37 {
			s.is(ids[i], uncoveredVector())
			s.equal("last_mutation_at", s.describe(ids[i]).LastMutationAt, created)
		}
		s.register(workerB.can("gpu"))
		for i := 0; i < len(ids); i += 37 {
			s.is(ids[i], waitingVector(flowfabric.AttemptPendingFirst))
			s.equal("last_mutation_at", s.describe(ids[i]).LastMutationAt, created)
		}
	})

	r.scenario("02.8 more than a hundred uncovered buckets do not hide work", func(s *scene) {
		s.backlog(130, func(i int) []createOption {
			return []createOption{withCapabilities(fmt.Sprint("t", i)), withPriority(9)}
		})
		free := s.create()
		s.equal("tasks", taskIDs(s.takeTasks(workerA.can("cpu"), 5)), []flowfabric.ExecutionID{free})
		s.equal("tasks of a capable worker", len(s.takeTasks(workerB.can("t129"), 5)), 1)
	})

	r.scenario("02.8 a dead worker's coverage ends with its ttl", func(s *scene) {
		args := registerArgs(workerB.can("gpu"), "0190f3c2-7b1a-7c3d-8e4f-0123456789ab")
		args.LivenessTTLMs = 1000
		_, err := s.Backend.RegisterWorker(s.ctx, args)
		s.ok(err)
		gpu := s.create(withCapabilities("gpu"))
		s.takeTasks(workerA.can("cpu"), 1)
		s.is(gpu, waitingVector(flowfabric.AttemptPendingFirst))
		s.advance(1000) // nobody has swept it
		s.takeTasks(workerA.can("cpu"), 1)
		s.is(gpu, uncoveredVector())
	})

	r.scenario("02.8 a worker that registers anew to live shorter covers no longer", func(s *scene) {
		args := registerArgs(workerB.can("gpu"), "0190f3c2-7b1a-7c3d-8e4f-0123456789ab")
		args.LivenessTTLMs = 60_000
		_, err := s.Backend.RegisterWorker(s.ctx, args)
		s.ok(err)
		gpu := s.create(withCapabilities("gpu"))
		s.takeTasks(workerA.can("cpu"), 1)
		s.is(gpu, waitingVector(flowfabric.AttemptPendingFirst))
		args.LivenessTTLMs = 1000
		_, err = s.Backend.RegisterWorker(s.ctx, args)
		s.ok(err)
		s.advance(1000)
		s.takeTasks(workerA.can("cpu"), 1)
		s.is(gpu, uncoveredVector())
	})

	r.scenario("02.8 an uncovered bucket is labelled though a lapsed grant hides its member", func(s *scene) {
		s.register(workerA.can("cpu"))
		gpu := s.create(withCapabilities("gpu"))
		_, err := s.store().IssueClaimGrant(s.ctx, grantArgs(gpu, workerB.can("gpu"), 1))
		s.ok(err)
		s.advance(10) // nothing has put it back yet
		_, err = s.Backend.IssueGrantAndClaim(s.ctx, directArgs(gpu, workerA.can("cpu")))
		s.assertCode(err, flowfabric.CodeCapabilityMismatch)
		s.is(gpu, uncoveredVector())
	})

	r.scenario("02.8 ExplainRouting", func(s *scene) {
		id := s.create(withCapabilities("gpu", "cuda"))
		s.register(workerA.can("cpu"))
		ex, err := s.Backend.ExplainRouting(s.ctx, id)
		s.ok(err)
		s.equal("requirement", ex.RequiredCapabilities, []string{"cuda", "gpu"})
		s.equal("workers", ex.Workers, []flowfabric.WorkerCoverage{{WorkerID: "pool-a", WorkerInstanceID: "a-1", Missing: []string{"cuda", "gpu"}}})
		s.that(!ex.Covered, "covered by nobody")
		s.register(workerB.can("gpu", "cuda", "x"))
		ex, err = s.Backend.ExplainRouting(s.ctx, id)
		s.ok(err)
		s.that(ex.Covered && len(ex.Workers) == 2, "explanation is %+v", ex)
	})
}
