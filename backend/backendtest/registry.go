package backendtest

import (
	"fmt"
	"strings"

	"github.com/google/uuid"

	"github.com/flowfabric/flowfabric"
)

// registryScenarios: specification 02, section 10.
func registryScenarios(r *runner) {
	registerWith := func(s *scene, change func(*flowfabric.RegisterWorkerArgs)) (flowfabric.RegisterWorkerResult, error) {
		args := registerArgs(workerA.can("cpu"), uuid.NewString())
		change(&args)
		return s.Backend.RegisterWorker(s.ctx, args)
	}
	heartbeat := func(s *scene, nonce string) flowfabric.HeartbeatWorkerResult {
		s.t.Helper()
		got, err := s.Backend.HeartbeatWorker(s.ctx, flowfabric.HeartbeatWorkerArgs{Namespace: testNamespace, WorkerInstanceID: "a-1", InstanceNonce: nonce})
		s.ok(err)
		return got
	}
	dead := func(s *scene, ns flowfabric.Namespace, reason string) (flowfabric.MarkWorkerDeadResult, error) {
		return s.Backend.MarkWorkerDead(s.ctx, flowfabric.MarkWorkerDeadArgs{Namespace: ns, WorkerInstanceID: "a-1", Reason: reason})
	}

	r.scenario("02.45 register, refresh, reassign", func(s *scene) {
		nonce := uuid.NewString()
		same := func(a *flowfabric.RegisterWorkerArgs) { a.InstanceNonce = nonce }
		at := s.now()
		got, err := registerWith(s, same)
		s.ok(err)
		s.equal("first", got, flowfabric.RegisterWorkerResult{Outcome: flowfabric.WorkerRegistered, NextExpiryAt: at + 60_000})
		s.advance(1000)
		got, err = registerWith(s, func(a *flowfabric.RegisterWorkerArgs) {
			same(a)
			a.Capabilities, a.Lanes, a.LivenessTTLMs = []string{"gpu", "a", "gpu"}, []flowfabric.LaneID{"x", testLane, "x"}, 5000
		})
		s.ok(err)
		s.equal("second", got, flowfabric.RegisterWorkerResult{Outcome: flowfabric.WorkerRefreshed, NextExpiryAt: s.now() + 5000})
		w, err := s.Backend.GetWorker(s.ctx, testNamespace, "a-1")
		s.ok(err)
		s.equal("record", facts(w.WorkerID, w.Capabilities, w.LivenessTTLMs, w.RegisteredAt, w.LastHeartbeatAt, w.Implicit),
			facts("pool-a", []string{"a", "gpu"}, 5000, at, s.now(), false))
		s.equal("lanes", w.Lanes, []flowfabric.LaneID{testLane, "x"})
		_, err = registerWith(s, func(a *flowfabric.RegisterWorkerArgs) { a.WorkerID = "pool-z" })
		s.assertCode(err, flowfabric.CodeInstanceIDReassigned)
		_, err = registerWith(s, func(a *flowfabric.RegisterWorkerArgs) {})
		s.assertCode(err, flowfabric.CodeDuplicateWorkerInstance)
	})

	r.scenario("02.45 heartbeats refresh, and never revive", func(s *scene) {
		nonce := uuid.NewString()
		_, err := registerWith(s, func(a *flowfabric.RegisterWorkerArgs) { a.InstanceNonce, a.LivenessTTLMs = nonce, 5000 })
		s.ok(err)
		s.advance(4999)
		s.equal("in time", heartbeat(s, nonce), flowfabric.HeartbeatWorkerResult{Registered: true, NextExpiryAt: s.now() + 5000})
		s.equal("another nonce", heartbeat(s, uuid.NewString()), flowfabric.HeartbeatWorkerResult{})
		s.advance(5000)
		s.equal("past its ttl", heartbeat(s, nonce), flowfabric.HeartbeatWorkerResult{})
		w, err := s.Backend.GetWorker(s.ctx, testNamespace, "a-1")
		s.ok(err)
		s.that(w == nil, "a worker past its ttl is there")
		got, err := registerWith(s, func(a *flowfabric.RegisterWorkerArgs) { a.InstanceNonce = nonce })
		s.ok(err)
		s.equal("registered anew", got.Outcome, flowfabric.WorkerRegistered)
		_, err = dead(s, testNamespace, "r")
		s.ok(err)
		s.equal("marked dead", heartbeat(s, nonce), flowfabric.HeartbeatWorkerResult{})
	})

	r.scenario("02.45 mark dead twice", func(s *scene) {
		s.register(workerA)
		for _, reason := range []string{strings.Repeat("r", 257), "", "a\nb"} {
			_, err := dead(s, testNamespace, reason)
			s.assertField(err, "reason")
		}
		for i, want := range []bool{true, false} {
			got, err := dead(s, testNamespace, strings.Repeat("r", 256))
			s.ok(err)
			s.equal(fmt.Sprint("mark ", i+1), got, flowfabric.MarkWorkerDeadResult{Marked: want})
		}
		got, err := s.Backend.DeregisterWorker(s.ctx, flowfabric.MarkWorkerDeadArgs{Namespace: testNamespace, WorkerInstanceID: "a-1", Reason: "bye"})
		s.ok(err)
		s.that(!got.Marked, "deregistered twice")
	})

	r.scenario("02.46 a worker past its ttl, not swept", func(s *scene) {
		_, err := registerWith(s, func(a *flowfabric.RegisterWorkerArgs) { a.LivenessTTLMs = 1000 })
		s.ok(err)
		_, task := s.createClaimed()
		s.advance(1000)
		page, err := s.Backend.ListWorkers(s.ctx, flowfabric.ListWorkersArgs{Namespace: testNamespace})
		s.ok(err)
		s.equal("listed", len(page.Workers), 0)
		_, err = s.renew(task, testTTL)
		s.ok(err)
		got, err := registerWith(s, func(a *flowfabric.RegisterWorkerArgs) { a.WorkerID = "pool-z" })
		s.ok(err)
		s.equal("under another worker_id", got.Outcome, flowfabric.WorkerRegistered)
	})

	r.scenario("02.46 the sweep deletes the dead and leaves the living", func(s *scene) {
		_, err := registerWith(s, func(a *flowfabric.RegisterWorkerArgs) { a.LivenessTTLMs = 1000 })
		s.ok(err)
		s.register(workerB)
		s.advance(1000)
		swept, err := s.store().SweepWorkers(s.ctx)
		s.ok(err)
		s.equal("swept", swept.Rows, 1)
		page, err := s.Backend.ListWorkers(s.ctx, flowfabric.ListWorkersArgs{Namespace: testNamespace})
		s.ok(err)
		s.equal("listed", len(page.Workers), 1)
	})

	r.scenario("02.47 the same instance in two namespaces", func(s *scene) {
		for _, ns := range []flowfabric.Namespace{"a", "b"} {
			_, err := registerWith(s, func(a *flowfabric.RegisterWorkerArgs) { a.Namespace = ns })
			s.ok(err)
		}
		got, err := dead(s, "a", "gone")
		s.ok(err)
		s.that(got.Marked, "not marked")
		for ns, want := range map[flowfabric.Namespace]bool{"a": false, "b": true} {
			w, err := s.Backend.GetWorker(s.ctx, ns, "a-1")
			s.ok(err)
			s.equal("alive in "+string(ns), w != nil, want)
		}
	})

	r.scenario("02.10.3 revoking the leases of a dead worker", func(s *scene) {
		s.register(workerA)
		mine1, task := s.createClaimed()
		mine2, _ := s.createClaimed()
		elsewhere := s.create(withNamespace("other"))
		s.claim(elsewhere)
		others := s.create()
		s.claimBy(others, workerB)
		got, err := s.Backend.MarkWorkerDead(s.ctx, flowfabric.MarkWorkerDeadArgs{Namespace: testNamespace, WorkerInstanceID: "a-1", Reason: "crashed", RevokeLeases: true})
		s.ok(err)
		s.equal("result", got, flowfabric.MarkWorkerDeadResult{Marked: true, RevokedLeases: 2})
		for _, id := range []flowfabric.ExecutionID{mine1, mine2} {
			s.is(id, interruptedVector(flowfabric.OwnershipLeaseRevoked))
			s.equal("detail", s.describe(id).BlockingDetail, "lease revoked: worker_dead: crashed")
		}
		s.is(elsewhere, activeVector())
		s.is(others, activeVector())
		_, err = s.tryComplete(mine1, task.Fence)
		s.assertCode(err, flowfabric.CodeLeaseRevoked)
		got, err = s.Backend.MarkWorkerDead(s.ctx, flowfabric.MarkWorkerDeadArgs{Namespace: testNamespace, WorkerInstanceID: "a-1", Reason: "crashed", RevokeLeases: true})
		s.ok(err)
		s.equal("repeat", got, flowfabric.MarkWorkerDeadResult{})
	})

	r.scenario("02.10.3 without revoke_leases leases run on", func(s *scene) {
		s.register(workerA)
		id, task := s.createClaimed()
		_, err := dead(s, testNamespace, "gone")
		s.ok(err)
		s.is(id, activeVector())
		s.complete(task)
	})

	r.scenario("02.10.1 a registration validates its input", func(s *scene) {
		for field, change := range map[string]func(*flowfabric.RegisterWorkerArgs){
			"worker_id":          func(a *flowfabric.RegisterWorkerArgs) { a.WorkerID = "" },
			"worker_instance_id": func(a *flowfabric.RegisterWorkerArgs) { a.WorkerInstanceID = "a b" },
			"namespace":          func(a *flowfabric.RegisterWorkerArgs) { a.Namespace = "" },
			"lanes":              func(a *flowfabric.RegisterWorkerArgs) { a.Lanes = nil },
			"liveness_ttl_ms":    func(a *flowfabric.RegisterWorkerArgs) { a.LivenessTTLMs = 999 },
			"instance_nonce":     func(a *flowfabric.RegisterWorkerArgs) { a.InstanceNonce = "nope" },
		} {
			_, err := registerWith(s, change)
			s.that(err != nil, "a bad %s was accepted", field)
			s.assertField(err, field)
		}
		_, err := registerWith(s, func(a *flowfabric.RegisterWorkerArgs) { a.LivenessTTLMs = 600_001 })
		s.assertField(err, "liveness_ttl_ms")
		_, err = registerWith(s, func(a *flowfabric.RegisterWorkerArgs) { a.Namespace = flowfabric.AnyNamespace })
		s.ok(err)
		page, err := s.Backend.ListWorkers(s.ctx, flowfabric.ListWorkersArgs{})
		s.ok(err)
		s.equal("registered", len(page.Workers), 1)
	})

	r.scenario("02.10.1 a claim registers implicitly and follows the latest claim", func(s *scene) {
		s.takeTasks(workerA.can("cpu"), 1)
		at := s.now()
		w, err := s.Backend.GetWorker(s.ctx, flowfabric.AnyNamespace, "a-1")
		s.ok(err)
		s.that(w != nil && w.Implicit, "registration is %+v", w)
		s.equal("capabilities", w.Capabilities, []string{"cpu"})
		s.equal("ttl", w.LivenessTTLMs, int64(60_000))
		s.advance(1000)
		args := tasksArgs(workerA.can("gpu"), 1)
		args.Lanes = []flowfabric.LaneID{"x"}
		_, err = s.Backend.ClaimTasks(s.ctx, args)
		s.ok(err)
		w, err = s.Backend.GetWorker(s.ctx, flowfabric.AnyNamespace, "a-1")
		s.ok(err)
		s.equal("latest claim", facts(w.Capabilities, w.Lanes, w.RegisteredAt, w.LastHeartbeatAt), facts([]string{"gpu"}, []flowfabric.LaneID{"x"}, at, s.now()))
		args.Namespace = "ns"
		_, err = s.Backend.ClaimTasks(s.ctx, args)
		s.ok(err)
		w, err = s.Backend.GetWorker(s.ctx, "ns", "a-1")
		s.ok(err)
		s.that(w != nil, "a claim with a namespace registers in it")
	})

	r.scenario("02.10.1 an implicit registration outlives the claim's wait", func(s *scene) {
		s.create()
		args := tasksArgs(workerA, 1)
		args.WaitMs = 10_000
		_, err := s.Backend.ClaimTasks(s.ctx, args)
		s.ok(err)
		w, err := s.Backend.GetWorker(s.ctx, flowfabric.AnyNamespace, "a-1")
		s.ok(err)
		s.equal("ttl", w.LivenessTTLMs, int64(70_000))
		s.advance(69_999)
		w, err = s.Backend.GetWorker(s.ctx, flowfabric.AnyNamespace, "a-1")
		s.ok(err)
		s.that(w != nil, "gone before its time")
	})

	r.scenario("02.10.1 a claim of a registered instance is a heartbeat", func(s *scene) {
		nonce := uuid.NewString()
		_, err := registerWith(s, func(a *flowfabric.RegisterWorkerArgs) { a.InstanceNonce, a.LivenessTTLMs = nonce, 10_000 })
		s.ok(err)
		s.advance(9000)
		args := tasksArgs(workerA.can("cpu", "gpu"), 1)
		args.Namespace = testNamespace
		_, err = s.Backend.ClaimTasks(s.ctx, args)
		s.ok(err)
		w, err := s.Backend.GetWorker(s.ctx, testNamespace, "a-1")
		s.ok(err)
		s.equal("explicit record", facts(w.Implicit, w.Capabilities, w.LastHeartbeatAt), facts(false, []string{"cpu"}, s.now()))
		s.equal("its nonce", heartbeat(s, nonce).Registered, true)
	})

	r.scenario("02.10.1 an explicit registration takes over an implicit one", func(s *scene) {
		args := tasksArgs(workerA, 1)
		args.Namespace = testNamespace
		_, err := s.Backend.ClaimTasks(s.ctx, args)
		s.ok(err)
		got, err := registerWith(s, func(*flowfabric.RegisterWorkerArgs) {})
		s.ok(err)
		s.equal("outcome", got.Outcome, flowfabric.WorkerRefreshed)
		w, err := s.Backend.GetWorker(s.ctx, testNamespace, "a-1")
		s.ok(err)
		s.that(!w.Implicit, "still implicit")
		args.WorkerID = "pool-z"
		_, err = s.Backend.ClaimTasks(s.ctx, args)
		s.assertCode(err, flowfabric.CodeInstanceIDReassigned)
	})

	r.scenario("02.10.4 ListWorkers is ordered and paged", func(s *scene) {
		for _, ns := range []flowfabric.Namespace{"b", "a"} {
			for _, instance := range []flowfabric.WorkerInstanceID{"i-2", "i-1", "i-3"} {
				_, err := registerWith(s, func(a *flowfabric.RegisterWorkerArgs) {
					a.Namespace, a.WorkerInstanceID = ns, instance
					if instance == "i-3" {
						a.Lanes = []flowfabric.LaneID{"other"}
					}
				})
				s.ok(err)
			}
		}
		var got []string
		var args flowfabric.ListWorkersArgs
		args.Limit = 4
		for range 3 {
			page, err := s.Backend.ListWorkers(s.ctx, args)
			s.ok(err)
			for _, w := range page.Workers {
				got = append(got, string(w.Namespace)+"/"+string(w.WorkerInstanceID))
				args.AfterNamespace, args.AfterInstanceID = w.Namespace, w.WorkerInstanceID
			}
			if !page.More {
				break
			}
		}
		s.equal("workers", got, []string{"a/i-1", "a/i-2", "a/i-3", "b/i-1", "b/i-2", "b/i-3"})
		page, err := s.Backend.ListWorkers(s.ctx, flowfabric.ListWorkersArgs{Namespace: "b", LaneID: "other"})
		s.ok(err)
		s.equal("by namespace and lane", len(page.Workers), 1)
		for _, limit := range []int{-1, 10_001} {
			_, err := s.Backend.ListWorkers(s.ctx, flowfabric.ListWorkersArgs{Limit: limit})
			s.assertCode(err, flowfabric.CodeInvalidInput)
		}
	})
}
