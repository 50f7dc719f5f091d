package backendtest

import (
	"fmt"
	"strings"

	"github.com/flowfabric/flowfabric"
)

// schedulerScenarios: specification 02, section 7.
func schedulerScenarios(r *runner) {
	r.scenario("02.31 priorities on one partition", func(s *scene) {
		at := onPartition(testPartition)
		p10, p100, p1000 := s.create(at, withPriority(10)), s.create(at, withPriority(100)), s.create(at, withPriority(1000))
		for _, want := range []flowfabric.ExecutionID{p1000, p100, p10} {
			g := s.ask(workerA)
			s.that(g != nil, "no work")
			s.equal("granted", g.ExecutionID, want)
		}
		s.that(s.ask(workerA) == nil, "a fourth grant")
	})

	r.scenario("02.31 equal priority: older first; a higher one first however young", func(s *scene) {
		at := onPartition(testPartition)
		older := s.create(at, withPriority(8999))
		s.advance(1000)
		younger := s.create(at, withPriority(8999))
		s.advance(1000)
		highest := s.create(at, withPriority(9000))
		s.equal("order", taskIDs(s.takeTasks(workerA, 10)), []flowfabric.ExecutionID{highest, older, younger})
	})

	r.scenario("02.31 equal priority and age: by identifier", func(s *scene) {
		var want []flowfabric.ExecutionID
		for i := range 6 {
			want = append(want, flowfabric.ExecutionID(fmt.Sprintf("{fp:7}:%08d-0000-4000-8000-000000000000", i)))
		}
		for _, i := range []int{3, 0, 5, 1, 4, 2} {
			s.create(withID(want[i]))
		}
		s.equal("order", taskIDs(s.takeTasks(workerA, 10)), want)
	})

	r.scenario("02.7.1 eligible and reclaimable candidates compete in one order", func(s *scene) {
		at := onPartition(testPartition)
		oldest := s.create(at)
		s.tickClock()
		middle := s.create(at)
		s.tickClock()
		youngest := s.create(at)
		s.claim(middle)
		s.revoke(middle)
		tasks := s.takeTasks(workerB, 10)
		s.equal("order", taskIDs(tasks), []flowfabric.ExecutionID{oldest, middle, youngest})
		s.equal("kinds", labels(tasks), []string{"fresh", "reclaimed", "fresh"})
	})

	r.scenario("02.32 an execution on any one partition is found by a single call", func(s *scene) {
		for _, p := range []uint16{0, 1, 31, 32, 127, 254, 255} {
			id := s.create(onPartition(p))
			s.equal(fmt.Sprint("on partition ", p), taskIDs(s.takeTasks(workerA.as(flowfabric.WorkerInstanceID(fmt.Sprint("i-", p))), 1)), []flowfabric.ExecutionID{id})
		}
	})

	r.scenario("02.32 a window of partitions wraps at the last one", func(s *scene) {
		var inside []flowfabric.ExecutionID
		for _, p := range []uint16{3, 254, 255, 0, 1, 2, 253} {
			id := s.create(onPartition(p))
			s.tickClock()
			if p != 3 && p != 253 {
				inside = append(inside, id)
			}
		}
		list := func(first uint16, count, limit int) []flowfabric.ExecutionID {
			ids, err := s.store().ListEligible(s.ctx, flowfabric.ListEligibleArgs{LaneID: testLane, FirstPartition: first, Partitions: count, Limit: limit})
			s.ok(err)
			return ids
		}
		s.equal("five from 254", list(254, 5, 100), inside)
		s.equal("the first two of them", list(254, 5, 2), inside[:2])
		s.equal("none from 100", list(100, 100, 100), []flowfabric.ExecutionID{})
		s.equal("all", len(list(254, 256, 100)), 7)
	})

	r.scenario("02.32 a high priority anywhere is in the next batch", func(s *scene) {
		const n, batch = 96, 16
		var items []flowfabric.CreateExecutionArgs
		for i := range n {
			items = append(items, createArgs(onPartition(uint16(i*7%256))))
		}
		got, err := s.Backend.CreateExecutions(s.ctx, items)
		s.ok(err)
		want := make(map[flowfabric.ExecutionID]bool)
		for _, item := range got {
			s.ok(item.Err)
			want[item.Result.ExecutionID] = true
		}
		urgent := flowfabric.ExecutionID("")
		for round := range n/batch + 1 {
			tasks := s.takeTasks(workerA, batch)
			if urgent != "" {
				s.equal("first of the next batch", tasks[0].ExecutionID, urgent)
				urgent = ""
			}
			for _, t := range tasks {
				delete(want, t.ExecutionID)
			}
			if round == 2 {
				urgent = s.create(onPartition(200), withPriority(10))
			}
		}
		s.equal("left over", len(want), 0)
	})

	r.scenario("02.33 the head is granted but not consumed", func(s *scene) {
		at := onPartition(testPartition)
		head := s.create(at, withPriority(5))
		next := s.create(at)
		s.equal("first", s.ask(workerA).ExecutionID, head)
		g := s.ask(workerB)
		s.that(g != nil, "nothing for the second worker")
		s.equal("second", g.ExecutionID, next)
	})

	r.scenario("02.L7 a grant that ends unused returns the execution to its old place", func(s *scene) {
		at := onPartition(testPartition)
		head := s.create(at)
		s.tickClock()
		next := s.create(at)
		g := s.ask(workerA)
		s.equal("granted", g.ExecutionID, head)
		s.advanceTo(g.ExpiresAt)
		s.equal("order", taskIDs(s.takeTasks(workerB, 10)), []flowfabric.ExecutionID{head, next})
	})

	r.scenario("02.7.2 grants of all three kinds come from one claim", func(s *scene) {
		at := onPartition(testPartition)
		fresh, paused, lost := s.create(at), s.create(at), s.create(at)
		s.delay(s.claim(paused), 10)
		s.promote(paused)
		s.claim(lost)
		s.revoke(lost)
		kinds := make(map[flowfabric.ExecutionID]flowfabric.ClaimKind)
		for range 3 {
			g := s.ask(workerB)
			s.that(g != nil, "no grant")
			kinds[g.ExecutionID] = g.Kind
			_, err := s.consume(*g, workerB)
			s.ok(err)
		}
		s.equal("kinds", kinds, map[flowfabric.ExecutionID]flowfabric.ClaimKind{fresh: flowfabric.ClaimNew, paused: flowfabric.ClaimResume, lost: flowfabric.ClaimReclaim})
		s.equal("history of a scheduled claim", s.history(fresh), []string{"acquired(claim)"})
	})

	r.scenario("02.38 a batch takes what there is", func(s *scene) {
		var want []flowfabric.ExecutionID
		for range 4 {
			want = append(want, s.create(onPartition(testPartition)))
			s.tickClock()
		}
		tasks := s.takeTasks(workerA, 10)
		s.equal("tasks", taskIDs(tasks), want)
		for _, t := range tasks {
			s.is(t.ExecutionID, activeVector())
			s.complete(t)
		}
		s.equal("more", len(s.takeTasks(workerA, 10)), 0)
	})

	r.scenario("02.39 limits are refused and nothing is written", func(s *scene) {
		id := s.create()
		s.unchanged(id, func() {
			for _, n := range []int{-1, 0, 101} {
				_, err := s.Backend.ClaimTasks(s.ctx, tasksArgs(workerA, n))
				s.assertField(err, "max_tasks")
			}
			for field, change := range map[string]func(*flowfabric.ClaimTasksArgs){
				"wait_ms":            func(a *flowfabric.ClaimTasksArgs) { a.WaitMs = 30_001 },
				"lease_ttl_ms":       func(a *flowfabric.ClaimTasksArgs) { a.LeaseTTLMs = 99 },
				"grant_ttl_ms":       func(a *flowfabric.ClaimTasksArgs) { a.GrantTTLMs = 60_001 },
				"worker_id":          func(a *flowfabric.ClaimTasksArgs) { a.WorkerID = "" },
				"worker_instance_id": func(a *flowfabric.ClaimTasksArgs) { a.WorkerInstanceID = "{}" },
				"lane":               func(a *flowfabric.ClaimTasksArgs) { a.Lanes = nil },
				"namespace":          func(a *flowfabric.ClaimTasksArgs) { a.Namespace = "a b" },
			} {
				args := tasksArgs(workerA, 1)
				change(&args)
				_, err := s.Backend.ClaimTasks(s.ctx, args)
				s.that(err != nil, "a bad %s was accepted", field)
				s.assertField(err, field)
			}
			many := tasksArgs(workerA, 1)
			for i := range 65 {
				many.Lanes = append(many.Lanes, flowfabric.LaneID(fmt.Sprint("lane-", i)))
			}
			_, err := s.Backend.ClaimTasks(s.ctx, many)
			s.assertField(err, "lane")
			for _, ttl := range []int64{-1, 0, 60_001} {
				args := askArgs(workerA)
				args.GrantTTLMs = ttl
				_, err := s.Backend.ClaimForWorker(s.ctx, args)
				s.assertField(err, "grant_ttl_ms")
			}
			wide := askArgs(workerA)
			wide.WaitMs = -1
			_, err = s.Backend.ClaimForWorker(s.ctx, wide)
			s.assertField(err, "wait_ms")
			_, err = s.Backend.ClaimTasks(s.ctx, tasksArgs(workerA.can(strings.Repeat("x", 4097)), 1))
			s.assertCode(err, flowfabric.CodeInvalidCapabilities)
		})
		w, err := s.Backend.GetWorker(s.ctx, flowfabric.AnyNamespace, workerA.instance)
		s.ok(err)
		s.that(w == nil, "a refused claim registered the worker")
		s.equal("4096 bytes", len(s.takeTasks(workerA.can(strings.Repeat("x", 4096)), 1)), 1)
	})

	r.scenario("02.40 lanes of weight 3 and 1", func(s *scene) {
		const grants = 200
		s.backlog(grants, func(i int) []createOption { return []createOption{withLane("heavy")} })
		s.backlog(grants, func(i int) []createOption { return []createOption{withLane("light")} })
		_, err := s.Backend.UpdateLane(s.ctx, flowfabric.UpdateLaneArgs{LaneID: "heavy", SchedulingWeight: ptr(3)})
		s.ok(err)
		args := tasksArgs(workerA, 50)
		args.Lanes = []flowfabric.LaneID{"light", "heavy"}
		s.settleLanes()
		count := make(map[flowfabric.LaneID]int)
		for range grants / 50 {
			got, err := s.Backend.ClaimTasks(s.ctx, args)
			s.ok(err)
			for _, t := range got.Tasks {
				count[t.LaneID]++
			}
		}
		s.that(count["heavy"] >= 144 && count["heavy"] <= 156, "200 grants went %v, want 150 ± 6 and 50 ± 2", count)
	})

	r.scenario("02.40 namespaces of equal priority alternate", func(s *scene) {
		s.backlog(100, func(int) []createOption { return []createOption{withNamespace("big"), onPartition(testPartition)} })
		s.tickClock()
		s.backlog(20, func(int) []createOption { return []createOption{withNamespace("small"), onPartition(testPartition)} })
		var got []string
		for _, t := range s.takeTasks(workerA, 20) {
			got = append(got, string(t.Namespace))
		}
		for i := 1; i < len(got); i++ {
			s.that(got[i] != got[i-1], "grants do not alternate: %v", got)
		}
	})

	r.scenario("02.7.1 tenant weights share a lane", func(s *scene) {
		s.backlog(100, func(int) []createOption { return []createOption{withNamespace("big"), onPartition(testPartition)} })
		s.backlog(100, func(int) []createOption { return []createOption{withNamespace("small"), onPartition(testPartition)} })
		_, err := s.Backend.UpdateLane(s.ctx, flowfabric.UpdateLaneArgs{LaneID: testLane, TenantWeights: map[flowfabric.Namespace]int{"big": 3}})
		s.ok(err)
		s.settleLanes()
		count := make(map[flowfabric.Namespace]int)
		for range 2 {
			for _, t := range s.takeTasks(workerA, 40) {
				count[t.Namespace]++
			}
		}
		s.that(count["big"] >= 54 && count["big"] <= 66, "80 grants went %v, want 60 ± 6 and 20 ± 6", count)
	})

	r.scenario("02.7.1 a lane that was idle earns no credit", func(s *scene) {
		s.backlog(40, func(int) []createOption { return []createOption{withLane("busy")} })
		args := tasksArgs(workerA, 30)
		args.Lanes = []flowfabric.LaneID{"busy", "idle"}
		_, err := s.Backend.ClaimTasks(s.ctx, args)
		s.ok(err)
		s.backlog(20, func(int) []createOption { return []createOption{withLane("idle")} })
		args.MaxTasks = 10
		got, err := s.Backend.ClaimTasks(s.ctx, args)
		s.ok(err)
		count := make(map[flowfabric.LaneID]int)
		for _, t := range got.Tasks {
			count[t.LaneID]++
		}
		s.that(count["busy"] >= 3 && count["idle"] >= 3, "10 grants went %v, want about half each", count)
	})

	r.scenario("02.7.1 a higher priority goes before fairness", func(s *scene) {
		s.backlog(10, func(int) []createOption {
			return []createOption{withNamespace("big"), onPartition(testPartition), withPriority(5)}
		})
		s.backlog(10, func(int) []createOption { return []createOption{withNamespace("small"), onPartition(testPartition)} })
		for _, t := range s.takeTasks(workerA, 10) {
			s.equal("namespace", t.Namespace, flowfabric.Namespace("big"))
		}
	})

	r.scenario("02.7.2 a claim sees the namespaces it names", func(s *scene) {
		a, b := s.create(withNamespace("a")), s.create(withNamespace("b"))
		args := tasksArgs(workerA, 5)
		args.Namespace = "b"
		got, err := s.Backend.ClaimTasks(s.ctx, args)
		s.ok(err)
		s.equal("tasks of b", taskIDs(got.Tasks), []flowfabric.ExecutionID{b})
		got, err = s.Backend.ClaimTasks(s.ctx, args)
		s.ok(err)
		s.equal("tasks of b", len(got.Tasks), 0)
		args.Namespace = flowfabric.AnyNamespace
		got, err = s.Backend.ClaimTasks(s.ctx, args)
		s.ok(err)
		s.equal("tasks of all", taskIDs(got.Tasks), []flowfabric.ExecutionID{a})
	})

	r.scenario("02.7.2 a claim sees the lanes it names", func(s *scene) {
		s.create(withLane("a"))
		b := s.create(withLane("b"))
		args := tasksArgs(workerA, 5)
		args.Lanes = []flowfabric.LaneID{"b", "c"}
		got, err := s.Backend.ClaimTasks(s.ctx, args)
		s.ok(err)
		s.equal("tasks", taskIDs(got.Tasks), []flowfabric.ExecutionID{b})
	})

	r.scenario("02.7.4 a claimed execution is hidden, and a batch claims each at most once", func(s *scene) {
		s.backlog(30, func(int) []createOption { return nil })
		seen := make(map[flowfabric.ExecutionID]bool)
		for _, w := range []worker{workerA, workerB, workerA} {
			for _, id := range taskIDs(s.takeTasks(w, 10)) {
				s.that(!seen[id], "%s was claimed twice", id)
				seen[id] = true
			}
		}
		s.equal("claimed", len(seen), 30)
		s.equal("left", len(s.takeTasks(workerA, 10)), 0)
	})
}

// backlog creates n executions in batches.
func (s *scene) backlog(n int, opts func(i int) []createOption) []flowfabric.ExecutionID {
	s.t.Helper()
	var ids []flowfabric.ExecutionID
	for first := 0; first < n; first += flowfabric.MaxBatchItems {
		var items []flowfabric.CreateExecutionArgs
		for i := first; i < min(n, first+flowfabric.MaxBatchItems); i++ {
			items = append(items, createArgs(opts(i)...))
		}
		got, err := s.Backend.CreateExecutions(s.ctx, items)
		s.ok(err)
		for _, item := range got {
			s.ok(item.Err)
			ids = append(ids, item.Result.ExecutionID)
		}
	}
	return ids
}
