package backendtest

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/flowfabric/flowfabric"
)

// waitScenarios: specification 02, section 7.3, and 04, section 6.
func waitScenarios(r *runner) {
	r.scenario("02.36 a waiting claim is answered by a create", func(s *scene) {
		var took []time.Duration
		for i := range 15 {
			w := workerA.as(flowfabric.WorkerInstanceID(fmt.Sprint("w-", i)))
			answer := s.waitForTask(w, 10_000)
			s.untilRegistered(w)
			start := time.Now()
			id := s.create()
			got := <-answer
			took = append(took, time.Since(start))
			s.ok(got.err)
			s.equal("tasks", taskIDs(got.tasks), []flowfabric.ExecutionID{id})
		}
		slices.Sort(took)
		s.that(took[len(took)/2] < 500*time.Millisecond, "median from create to task is %v", took[len(took)/2])
	})

	r.scenario("02.36 an unsuitable execution leaves the waiter waiting", func(s *scene) {
		answer := s.waitForTask(workerA.can("cpu"), 400)
		s.untilRegistered(workerA)
		s.create(withCapabilities("gpu"))
		got := <-answer
		s.ok(got.err)
		s.equal("tasks", len(got.tasks), 0)
	})

	r.scenario("02.36 waits for grants end alike", func(s *scene) {
		grants := make(chan flowfabric.ClaimForWorkerResult, 1)
		errs := make(chan error, 1)
		go func() {
			args := askArgs(workerA)
			args.WaitMs = 10_000
			got, err := s.Backend.ClaimForWorker(s.ctx, args)
			grants <- got
			errs <- err
		}()
		s.untilRegistered(workerA)
		id := s.create()
		got := <-grants
		s.ok(<-errs)
		s.that(got.Grant != nil && got.Grant.ExecutionID == id, "answer is %+v", got)
	})

	r.scenario("02.7.3 every cause of eligibility wakes", func(s *scene) {
		for i, c := range s.eligibilityCauses() {
			id, cause := c.make()
			w := workerB.as(flowfabric.WorkerInstanceID(fmt.Sprint("waiter-", i)))
			answer := s.waitForTask(w, 20_000)
			s.untilRegistered(w)
			began := time.Now()
			cause()
			got := <-answer
			s.ok(got.err)
			s.equal("woken by "+c.name, taskIDs(got.tasks), []flowfabric.ExecutionID{id})
			s.that(time.Since(began) < 10*time.Second, "woken by %s after %v", c.name, time.Since(began))
			s.complete(got.tasks[0])
		}
	})

	r.scenario("02.7.3 every cause of eligibility raises an event after its commit", func(s *scene) {
		for _, c := range s.eligibilityCauses() {
			id, cause := c.make()
			d := s.describe(id)
			events := make(chan flowfabric.WakeEvent, 100)
			stop := s.store().Watch(func(told []flowfabric.WakeEvent) {
				for _, e := range told {
					if e.Kind == flowfabric.WakeEligible && e.LaneID == d.LaneID && (e.Namespace == d.Namespace || e.Namespace == "") {
						select {
						case events <- e:
						default:
						}
					}
				}
			})
			cause()
			select {
			case <-events:
			case <-s.ctx.Done():
				s.t.Fatalf("%s raises no event", c.name)
			}
			stop()
			s.operatorCancel(id)
		}
	})

	r.scenario("02.8 a registration that covers a labelled bucket wakes", func(s *scene) {
		gpu := s.create(withCapabilities("gpu"))
		s.takeTasks(workerA.can("cpu"), 1)
		s.is(gpu, uncoveredVector())
		events := make(chan flowfabric.WakeEvent, 100)
		stop := s.store().Watch(func(told []flowfabric.WakeEvent) {
			for _, e := range told {
				if e.Kind == flowfabric.WakeEligible && slices.Contains(e.Required, "gpu") {
					events <- e
				}
			}
		})
		defer stop()
		s.register(workerB.can("gpu"))
		select {
		case <-events:
		case <-s.ctx.Done():
			s.t.Fatal("the registration raises no event")
		}
	})

	r.scenario("02.7.3 what becomes no one's work raises none", func(s *scene) {
		id, _ := s.createClaimed()
		var woken atomic.Bool
		stop := s.store().Watch(func(told []flowfabric.WakeEvent) {
			for _, e := range told {
				if e.Kind == flowfabric.WakeEligible {
					woken.Store(true)
				}
			}
		})
		_, err := s.Backend.RevokeLease(s.ctx, flowfabric.RevokeLeaseArgs{ExecutionID: id, Hold: true})
		s.ok(err)
		s.create(withDelayUntil(s.now() + 1000))
		stop()
		s.that(!woken.Load(), "a held revocation or a delayed create raised an event")
	})

	r.scenario("02.37 one create wakes one of many waiters", func(s *scene) {
		const n = 100
		ctx, cancel := context.WithCancel(s.ctx)
		defer cancel()
		answers := make(chan waited, n)
		for i := range n {
			w := workerA.as(flowfabric.WorkerInstanceID(fmt.Sprint("w-", i)))
			go func() { answers <- s.askWaiting(ctx, w, 20_000) }()
		}
		for i := range n {
			s.untilRegistered(workerA.as(flowfabric.WorkerInstanceID(fmt.Sprint("w-", i))))
		}
		for round := range 3 {
			id := s.create()
			got := <-answers
			s.ok(got.err)
			s.equal(fmt.Sprint("tasks of round ", round), taskIDs(got.tasks), []flowfabric.ExecutionID{id})
			s.equal("others answered", len(answers), 0)
		}
		cancel()
		for range n - 3 {
			got := <-answers
			s.that(len(got.tasks) == 0, "a waiter got %v without work", taskIDs(got.tasks))
		}
	})

	r.scenario("02.7.3 a waiter that goes away claims nothing", func(s *scene) {
		ctx, cancel := context.WithCancel(s.ctx)
		answer := make(chan waited, 1)
		go func() { answer <- s.askWaiting(ctx, workerA, 20_000) }()
		s.untilRegistered(workerA)
		cancel()
		<-answer
		id := s.create()
		if s.Remote {
			// The server may not have heard of it yet, and then takes back what it
			// cannot deliver: nothing is lost in any case.
			got := <-s.waitForTask(workerB, 30_000)
			s.ok(got.err)
			s.equal("tasks", taskIDs(got.tasks), []flowfabric.ExecutionID{id})
			return
		}
		s.is(id, waitingVector(flowfabric.AttemptPendingFirst))
		s.equal("tasks", taskIDs(s.takeTasks(workerB, 1)), []flowfabric.ExecutionID{id})
	})

	r.scenario("02.7.4 a wait of 0 answers at once, and a batch never waits to fill up", func(s *scene) {
		s.equal("tasks", len(s.takeTasks(workerA, 5)), 0)
		id := s.create()
		args := tasksArgs(workerA, 10)
		args.WaitMs = 30_000
		got, err := s.Backend.ClaimTasks(s.ctx, args)
		s.ok(err)
		s.equal("tasks", taskIDs(got.Tasks), []flowfabric.ExecutionID{id})
	})

	r.scenario("04.36 WaitExecution returns the result of a completion", func(s *scene) {
		id, task := s.createClaimed()
		answer := make(chan flowfabric.WaitExecutionResult, 1)
		errs := make(chan error, 1)
		go func() {
			got, err := s.Backend.WaitExecution(s.ctx, flowfabric.WaitExecutionArgs{ExecutionID: id, WaitMs: 30_000})
			answer <- got
			errs <- err
		}()
		s.completeWith(task, []byte{0, 1, 0xFF})
		got := <-answer
		s.ok(<-errs)
		s.equal("wait", facts(got.PublicState, got.Terminal, got.TimedOut, got.Outcome, got.ResultAvailable, got.Result, got.ResultEncoding, *got.AttemptIndex, got.ReplayCount),
			facts(flowfabric.PublicCompleted, true, false, flowfabric.OutcomeSuccess, true, []byte{0, 1, 0xFF}, "json", 0, 0))
		s.equal("completed_at", got.CompletedAt, s.describe(id).CompletedAt)
	})

	r.scenario("04.36 any number of waiters is answered", func(s *scene) {
		id, task := s.createClaimed()
		const n = 20
		answers := make(chan flowfabric.WaitExecutionResult, n)
		for range n {
			go func() {
				got, err := s.Backend.WaitExecution(s.ctx, flowfabric.WaitExecutionArgs{ExecutionID: id, WaitMs: 30_000})
				if err != nil {
					got.FailureReason = err.Error()
				}
				answers <- got
			}()
		}
		s.fail(task, "permanent")
		for range n {
			got := <-answers
			s.equal("wait", facts(got.PublicState, got.Outcome, got.FailureReason, got.FailureCategory, got.ResultAvailable), "failed failed boom permanent false")
		}
	})

	r.scenario("04.36 a wait that times out", func(s *scene) {
		id, _ := s.createClaimed()
		got, err := s.Backend.WaitExecution(s.ctx, flowfabric.WaitExecutionArgs{ExecutionID: id, WaitMs: 200})
		s.ok(err)
		s.equal("wait", facts(got.PublicState, got.Terminal, got.TimedOut, got.Outcome), "active false true ")
		got, err = s.Backend.WaitExecution(s.ctx, flowfabric.WaitExecutionArgs{ExecutionID: id})
		s.ok(err)
		s.equal("check only", facts(got.PublicState, got.Terminal), "active false")
	})

	r.scenario("04.36 an execution that has ended answers at once", func(s *scene) {
		id, task := s.createClaimed()
		s.completeWith(task, []byte("r"))
		got, err := s.Backend.WaitExecution(s.ctx, flowfabric.WaitExecutionArgs{ExecutionID: id, WaitMs: 30_000, Until: flowfabric.UntilSettled})
		s.ok(err)
		s.equal("wait", facts(got.Outcome, string(got.Result)), "success r")
		got, err = s.Backend.WaitExecution(s.ctx, flowfabric.WaitExecutionArgs{ExecutionID: id, WaitMs: 30_000, OmitResult: true})
		s.ok(err)
		s.equal("without the result", len(got.Result), 0)
		expired := s.create(withDeadline(1))
		s.tick()
		got, err = s.Backend.WaitExecution(s.ctx, flowfabric.WaitExecutionArgs{ExecutionID: expired, WaitMs: 30_000})
		s.ok(err)
		s.equal("expired", facts(got.Outcome, got.AttemptIndex == nil, got.FailureReason), "expired true execution_deadline")
	})

	r.scenario("04.6.1 waits are validated", func(s *scene) {
		id := s.create()
		for name, args := range map[string]flowfabric.WaitExecutionArgs{
			"too long": {ExecutionID: id, WaitMs: 30_001},
			"negative": {ExecutionID: id, WaitMs: -1},
			"until":    {ExecutionID: id, Until: "whenever"},
		} {
			_, err := s.Backend.WaitExecution(s.ctx, args)
			s.that(err != nil, "%s was accepted", name)
			s.assertCode(err, flowfabric.CodeInvalidInput)
		}
		_, err := s.Backend.WaitExecution(s.ctx, flowfabric.WaitExecutionArgs{ExecutionID: idOn(1), WaitMs: 100})
		s.assertCode(err, flowfabric.CodeExecutionNotFound)
	})
}

// waited is the answer of a waiting claim.
type waited struct {
	tasks []flowfabric.ClaimedExecution
	err   error
}

// waitForTask lets a worker wait for one task.
func (s *scene) waitForTask(w worker, ms int64) <-chan waited {
	answer := make(chan waited, 1)
	go func() { answer <- s.askWaiting(s.ctx, w, ms) }()
	return answer
}

func (s *scene) askWaiting(ctx context.Context, w worker, ms int64) waited {
	args := tasksArgs(w, 1)
	args.WaitMs = ms
	args.Lanes = []flowfabric.LaneID{testLane, "switched"}
	got, err := s.Backend.ClaimTasks(ctx, args)
	return waited{got.Tasks, err}
}

// untilRegistered returns once a claim of the instance has reached the store:
// the claim registers it before it looks for work.
func (s *scene) untilRegistered(w worker) {
	s.t.Helper()
	for {
		got, err := s.Backend.GetWorker(s.ctx, flowfabric.AnyNamespace, w.instance)
		s.ok(err)
		if got != nil {
			return
		}
	}
}

// eligibilityCause makes an execution that nobody may claim, and then lets it
// become work.
type eligibilityCause struct {
	name string
	make func() (id flowfabric.ExecutionID, cause func())
}

// eligibilityCauses are the causes of specification 02, section 7.3.
func (s *scene) eligibilityCauses() []eligibilityCause {
	return []eligibilityCause{
		{"promotion", func() (flowfabric.ExecutionID, func()) {
			id := s.create(withDelayUntil(s.now() + 1000))
			return id, func() { s.promote(id) }
		}},
		{"immediate retry", func() (flowfabric.ExecutionID, func()) {
			id, task := s.createClaimed(withPolicy(retryAtOnce))
			return id, func() { s.fail(task, "") }
		}},
		{"unpause", func() (flowfabric.ExecutionID, func()) {
			id := s.create()
			s.pause(id)
			return id, func() {
				_, err := s.Backend.UnpauseExecution(s.ctx, flowfabric.BlockExecutionArgs{ExecutionID: id})
				s.ok(err)
			}
		}},
		{"replay", func() (flowfabric.ExecutionID, func()) {
			id := s.create()
			s.operatorCancel(id)
			return id, func() { s.replay(id) }
		}},
		{"revocation", func() (flowfabric.ExecutionID, func()) {
			id, _ := s.createClaimed()
			return id, func() { s.revoke(id) }
		}},
		{"lapse", func() (flowfabric.ExecutionID, func()) {
			id, task := s.createClaimed()
			return id, func() { s.lapse(task) }
		}},
		{"hold released", func() (flowfabric.ExecutionID, func()) {
			id, _ := s.createClaimed()
			_, err := s.Backend.RevokeLease(s.ctx, flowfabric.RevokeLeaseArgs{ExecutionID: id, Hold: true})
			s.ok(err)
			return id, func() {
				_, err := s.Backend.ReleaseReclaimHold(s.ctx, id)
				s.ok(err)
			}
		}},
		{"signal", func() (flowfabric.ExecutionID, func()) {
			id, at := s.suspended(flowfabric.AnyOfNames("go", "ready"))
			return id, func() { s.deliver(at[0], "ready", flowfabric.EffectResumed) }
		}},
		{"operator's resume", func() (flowfabric.ExecutionID, func()) {
			id, _ := s.suspended(flowfabric.OperatorOnly())
			return id, func() { s.resume(id) }
		}},
		{"suspension timeout", func() (flowfabric.ExecutionID, func()) {
			id, _ := s.suspended(flowfabric.OperatorOnly(), timesOut(1000, flowfabric.TimeoutAutoResume))
			return id, func() {
				s.advance(1000)
				s.tick()
			}
		}},
		{"lane enabled", func() (flowfabric.ExecutionID, func()) {
			id := s.create(withLane("switched"))
			s.laneIs("switched", flowfabric.LaneDisabled)
			s.sweepLanes()
			return id, func() {
				s.laneIs("switched", flowfabric.LaneActive)
				s.sweepLanes()
			}
		}},
		{"grant lapsed", func() (flowfabric.ExecutionID, func()) {
			id := s.create()
			g := s.grant(id, workerB)
			return id, func() {
				s.advanceTo(g.ExpiresAt)
				s.tick()
			}
		}},
		{"grant released", func() (flowfabric.ExecutionID, func()) {
			id := s.create()
			g := s.grant(id, workerB)
			return id, func() {
				_, err := s.Backend.ReleaseGrant(s.ctx, flowfabric.ReleaseGrantArgs{ExecutionID: id, GrantID: g.GrantID, WorkerID: workerB.id})
				s.ok(err)
			}
		}},
	}
}
