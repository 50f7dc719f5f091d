package crashtest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"sync"
	"testing"
	"time"

	"github.com/flowfabric/flowfabric"
)

// TestLostAnswers cuts connections between clients and a server: before the
// request is whole, while the server works on it, before the answer and in the
// middle of it. Every operation is repeated as its replay rule says, and must
// have one effect.
func TestLostAnswers(t *testing.T) {
	s, j := newStation(t), newJournal(t)
	s.start()
	direct := s.connect()
	p := newProxy(t, s.addr, 3, allCuts)
	scenes, each := scenarios(), 20
	maps.Copy(scenes, waitScenarios())
	began := time.Now()
	if testing.Short() {
		each = 3
	}
	var running sync.WaitGroup
	work := make(chan func())
	for range 16 {
		running.Go(func() {
			for f := range work {
				f()
			}
		})
	}
	for range each {
		for name, play := range scenes {
			b := connect(t, p.url())
			x := &scene{t: t, name: name, journal: j, direct: direct, lossy: b}
			work <- func() { play(x) }
		}
	}
	close(work)
	running.Wait()
	p.close()
	t.Logf("%s: %d scenes of each of %d kinds; %s", time.Since(began).Round(time.Millisecond), each, len(scenes), p.summary())

	lost := tasksWithLostAnswers(t, s, j, direct, answerCuts, 3*drainLimit)
	t.Logf("tasks whose answers were lost: %s", lost)
	lost = tasksWithLostAnswers(t, s, j, direct, allCuts, leaseTTL)
	t.Logf("tasks whose requests or answers were lost: %s", lost)
	a := audit(t, direct, j)
	t.Log(a.summary())
	s.close(a)
}

// scene is one execution and what happens to it.
type scene struct {
	t       *testing.T
	name    string
	journal *journal
	direct  flowfabric.Backend // sees everything
	lossy   flowfabric.Backend // loses answers

	*creation
	id    flowfabric.ExecutionID
	lane  flowfabric.LaneID
	fence flowfabric.Fence
	seen  []flowfabric.SignalID // by the claim that resumed
}

const sceneWorker = flowfabric.WorkerInstanceID("scene-1")

func (x *scene) errorf(format string, args ...any) {
	x.t.Helper()
	x.t.Errorf("%s of %s: %s", x.name, x.id, fmt.Sprintf(format, args...))
}

// until repeats a call until it is answered.
func until[R any](x *scene, call func(context.Context) (R, error)) R {
	x.t.Helper()
	ctx, cancel := within(x.t)
	defer cancel()
	for {
		r, err := call(ctx)
		if err == nil {
			return r
		}
		if !unanswered(err) || ctx.Err() != nil {
			x.errorf("%v", err)
			return r
		}
	}
}

// begin creates the execution, by its key or by its identifier.
func (x *scene) begin(policy string, byKey bool) {
	x.creation = x.journal.begin()
	x.lane = flowfabric.LaneID(fmt.Sprintf("scene-%d", x.serial))
	args := flowfabric.CreateExecutionArgs{
		Namespace: Namespace, LaneID: x.lane, Kind: Kind, CreatorIdentity: "crash", Payload: []byte("{}"),
		Policy: json.RawMessage(policy), Tags: map[string]string{serialTag: serialText(x.serial)},
	}
	if byKey {
		x.key = fmt.Sprintf("key-%d", x.serial)
		args.IdempotencyKey = x.key
	} else {
		x.named = flowfabric.DefaultPartitionConfig().NewExecutionID(x.lane)
		args.ExecutionID = x.named
	}
	for range 2 { // once more after the answer
		created := until(x, func(ctx context.Context) (flowfabric.CreateExecutionResult, error) {
			r, err := flowfabric.CreateExecution(ctx, x.lossy, args)
			x.journal.asked(x.creation, r, err)
			return r, err
		})
		x.id = created.ExecutionID
	}
}

// accept takes a claim's answer, and asks once more: the repeat must be answered
// alike.
func (x *scene) accept(kind flowfabric.ClaimKind, index uint32, epoch uint64, claim func(context.Context) (flowfabric.ClaimedExecution, error)) {
	x.t.Helper()
	first := until(x, claim)
	again := until(x, claim)
	if !again.Replayed || again.Fence.LeaseID != first.Fence.LeaseID || again.Fence.LeaseEpoch != first.Fence.LeaseEpoch ||
		again.Fence.AttemptID != first.Fence.AttemptID || again.AttemptIndex != first.AttemptIndex {
		x.errorf("claimed twice with the same lease_id: %+v, then %+v", first.Fence, again.Fence)
	}
	if first.ClaimKind != kind || first.AttemptIndex != index || first.Fence.LeaseEpoch != epoch {
		x.errorf("claimed as %s, attempt %d, epoch %d; want %s, %d, %d", first.ClaimKind, first.AttemptIndex, first.Fence.LeaseEpoch, kind, index, epoch)
	}
	x.fence = first.Fence
	x.report(Report{Op: OpClaim})
}

// claim claims the execution by its name.
func (x *scene) claim(kind flowfabric.ClaimKind, index uint32, epoch uint64) {
	x.t.Helper()
	args := flowfabric.IssueGrantAndClaimArgs{
		ExecutionID: x.id, WorkerID: "crash", WorkerInstanceID: sceneWorker,
		LeaseID: flowfabric.NewLeaseID(), AttemptID: flowfabric.NewAttemptID(), LeaseTTLMs: 60_000,
	}
	x.accept(kind, index, epoch, func(ctx context.Context) (flowfabric.ClaimedExecution, error) {
		return x.lossy.IssueGrantAndClaim(ctx, args)
	})
}

// claimGranted asks the scheduler for a grant and consumes it. A grant whose
// answer is lost lapses, and the execution is offered again.
func (x *scene) claimGranted(kind flowfabric.ClaimKind, index uint32, epoch uint64) {
	x.t.Helper()
	ask := flowfabric.ClaimForWorkerArgs{
		WorkerID: "crash", WorkerInstanceID: sceneWorker, Lanes: []flowfabric.LaneID{x.lane}, Namespace: Namespace,
		GrantTTLMs: 2_000, WaitMs: 3_000,
	}
	granted := until(x, func(ctx context.Context) (*flowfabric.Grant, error) {
		for {
			r, err := x.lossy.ClaimForWorker(ctx, ask)
			if err != nil || r.Grant != nil {
				return r.Grant, err
			}
		}
	})
	if granted == nil || granted.ExecutionID != x.id {
		x.errorf("granted %+v", granted)
		return
	}
	args := flowfabric.ClaimGrantedArgs{
		ExecutionID: x.id, GrantID: granted.GrantID, LaneID: x.lane, WorkerID: "crash", WorkerInstanceID: sceneWorker,
		LeaseID: flowfabric.NewLeaseID(), AttemptID: flowfabric.NewAttemptID(), LeaseTTLMs: 60_000,
	}
	x.accept(kind, index, epoch, func(ctx context.Context) (flowfabric.ClaimedExecution, error) {
		return x.lossy.ClaimGranted(ctx, args)
	})
}

// report hands an acknowledgement to the audit.
func (x *scene) report(r Report) {
	r.Instance, r.Execution, r.Lease, r.Epoch = sceneWorker, x.id, x.fence.LeaseID, x.fence.LeaseEpoch
	x.journal.report(r)
}

// renew renews the lease a few times.
func (x *scene) renew() {
	for range 3 {
		r := until(x, func(ctx context.Context) (flowfabric.RenewLeaseResult, error) {
			return flowfabric.RenewLease(ctx, x.lossy, flowfabric.RenewLeaseArgs{ExecutionID: x.id, Fence: x.fence, LeaseTTLMs: 60_000})
		})
		lease, err := x.direct.GetLease(x.t.Context(), x.id)
		if err != nil || lease.LeaseID != x.fence.LeaseID || lease.LeaseEpoch != x.fence.LeaseEpoch || lease.ExpiresAt < r.ExpiresAt {
			x.errorf("renewed to %d, but the lease is %+v, %v", r.ExpiresAt, lease, err)
		}
		x.report(Report{Op: OpRenew})
	}
}

// complete completes, and once more with another result: the first one stands.
func (x *scene) complete(attempt uint32) {
	x.t.Helper()
	result, err := json.Marshal(Result{Serial: x.serial, Instance: sceneWorker, Epoch: x.fence.LeaseEpoch, Attempt: attempt, Signals: x.seen})
	if err != nil {
		x.errorf("%v", err)
	}
	for _, payload := range [][]byte{result, []byte("another")} {
		r := until(x, func(ctx context.Context) (flowfabric.CompleteExecutionResult, error) {
			return flowfabric.CompleteExecution(ctx, x.lossy, flowfabric.CompleteExecutionArgs{ExecutionID: x.id, Fence: x.fence, Result: payload})
		})
		if r.PublicState != flowfabric.PublicCompleted || !r.Replayed && !bytes.Equal(payload, result) {
			x.errorf("completed: %+v", r)
		}
	}
	x.report(Report{Op: OpComplete, Result: result})
}

// fail fails the attempt, and once more: the answer must be the same.
func (x *scene) fail(category string, want flowfabric.FailOutcome) (again func()) {
	x.t.Helper()
	args := flowfabric.FailExecutionArgs{ExecutionID: x.id, Fence: x.fence, Reason: "as planned", Category: category}
	call := func(ctx context.Context) (flowfabric.FailExecutionResult, error) {
		return x.lossy.FailExecution(ctx, args)
	}
	first := until(x, call)
	if first.Outcome != want {
		x.errorf("failed: %+v", first)
	}
	x.report(Report{Op: OpFail, Outcome: first.Outcome, Replayed: true})
	again = func() {
		x.t.Helper()
		r := until(x, call)
		if !r.Replayed || r.Outcome != first.Outcome || r.DelayUntil != first.DelayUntil || r.NextAttemptIndex != first.NextAttemptIndex {
			x.errorf("failed: %+v, and once more: %+v", first, r)
		}
	}
	again()
	return again
}

// delay gives the execution back, and once more.
func (x *scene) delay() {
	ms := int64(20)
	args := flowfabric.DelayExecutionArgs{ExecutionID: x.id, Fence: x.fence, DelayMs: &ms}
	call := func(ctx context.Context) (flowfabric.DelayExecutionResult, error) {
		return x.lossy.DelayExecution(ctx, args)
	}
	first := until(x, call)
	again := until(x, call)
	if !again.Replayed || again.DelayUntil != first.DelayUntil {
		x.errorf("delayed: %+v, and once more: %+v", first, again)
	}
	x.report(Report{Op: OpDelay})
	x.awaitEligible()
}

// awaitEligible waits until the execution can be claimed again.
func (x *scene) awaitEligible() {
	ctx, cancel := within(x.t)
	defer cancel()
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for {
		e, err := x.direct.DescribeExecution(ctx, x.id)
		if err != nil {
			x.errorf("%v", err)
			return
		}
		if e.EligibilityState == flowfabric.EligibleNow {
			return
		}
		<-again.C
	}
}

// cancel ends the execution by its worker, and once more.
func (x *scene) cancel() {
	args := flowfabric.CancelExecutionArgs{ExecutionID: x.id, Fence: x.fence, Reason: "as planned"}
	call := func(ctx context.Context) (flowfabric.CancelExecutionResult, error) {
		return x.lossy.CancelExecution(ctx, args)
	}
	first := until(x, call)
	again := until(x, call)
	if first.Outcome != flowfabric.CancelCancelled || !again.Replayed || again.PreviousPhase != first.PreviousPhase {
		x.errorf("cancelled: %+v, and once more: %+v", first, again)
	}
	x.journal.hasCancelled(x.id)
}

// overrule ends the execution by an operator, and once more, for another reason:
// the first one stands.
func (x *scene) overrule() {
	args := flowfabric.CancelExecutionArgs{ExecutionID: x.id, Source: flowfabric.SourceOperatorOverride, Reason: "as planned", RequestedBy: "operator"}
	call := func(ctx context.Context) (flowfabric.CancelExecutionResult, error) {
		return x.lossy.CancelExecution(ctx, args)
	}
	until(x, call)
	args.Reason = "another"
	again := until(x, call)
	if again.Outcome != flowfabric.CancelAlreadyCancelled || again.CancellationReason != "as planned" {
		x.errorf("cancelled once more: %+v", again)
	}
	x.journal.hasCancelled(x.id)
}

// replay runs the execution once more, and asks twice for it.
func (x *scene) replay() {
	args := flowfabric.ReplayExecutionArgs{ExecutionID: x.id, ExpectedReplayCount: new(uint32)}
	call := func(ctx context.Context) (flowfabric.ReplayExecutionResult, error) {
		return x.lossy.ReplayExecution(ctx, args)
	}
	until(x, call)
	again := until(x, call)
	if !again.Replayed || again.ReplayCount != 1 {
		x.errorf("replayed once more: %+v", again)
	}
	x.journal.hasReplayed(x.id)
}

// check compares the counters of the execution.
func (x *scene) check(want flowfabric.PublicState, attempts, retries, reclaims uint32) {
	x.t.Helper()
	e, err := x.direct.DescribeExecution(x.t.Context(), x.id)
	if err != nil {
		x.errorf("%v", err)
		return
	}
	if e.PublicState != want || e.TotalAttemptCount != attempts || e.RetryCount != retries || e.LeaseReclaimCount != reclaims {
		x.errorf("%s after %d attempts, %d retries, %d reclaims; want %s, %d, %d, %d", e.PublicState, e.TotalAttemptCount, e.RetryCount,
			e.LeaseReclaimCount, want, attempts, retries, reclaims)
	}
}

// scenarios are the lives that executions have in the test.
func scenarios() map[string]func(*scene) {
	const retrying = `{"retry_policy":{"max_retries":1,"backoff":{"type":"fixed","delay_ms":0}}}`
	return map[string]func(*scene){
		"complete": func(x *scene) {
			x.begin("", true)
			x.claim(flowfabric.ClaimNew, 0, 1)
			x.renew()
			x.complete(0)
			x.check(flowfabric.PublicCompleted, 1, 0, 0)
		},
		"grant": func(x *scene) {
			x.begin("", false)
			x.claimGranted(flowfabric.ClaimNew, 0, 1)
			x.complete(0)
			x.check(flowfabric.PublicCompleted, 1, 0, 0)
		},
		"retry": func(x *scene) {
			x.begin(retrying, true)
			x.claim(flowfabric.ClaimNew, 0, 1)
			again := x.fail("transient", flowfabric.FailRetryScheduled)
			x.claim(flowfabric.ClaimNew, 1, 2)
			again() // the attempt that runs now does not mind
			x.complete(1)
			x.check(flowfabric.PublicCompleted, 2, 1, 0)
		},
		"fail": func(x *scene) {
			x.begin("", false)
			x.claim(flowfabric.ClaimNew, 0, 1)
			x.fail("permanent", flowfabric.FailTerminal)
			x.check(flowfabric.PublicFailed, 1, 0, 0)
		},
		"replay": func(x *scene) {
			x.begin("", true)
			x.claim(flowfabric.ClaimNew, 0, 1)
			x.fail("permanent", flowfabric.FailTerminal)
			x.replay()
			x.claim(flowfabric.ClaimNew, 1, 2)
			x.complete(1)
			x.check(flowfabric.PublicCompleted, 2, 0, 0)
		},
		"delay": func(x *scene) {
			x.begin("", true)
			x.claim(flowfabric.ClaimNew, 0, 1)
			x.delay()
			x.claim(flowfabric.ClaimResume, 0, 2)
			x.complete(0)
			x.check(flowfabric.PublicCompleted, 1, 0, 0)
		},
		"cancel": func(x *scene) {
			x.begin("", true)
			x.claim(flowfabric.ClaimNew, 0, 1)
			x.cancel()
			x.check(flowfabric.PublicCancelled, 1, 0, 0)
		},
		"overrule": func(x *scene) {
			x.begin("", false)
			x.overrule()
			x.check(flowfabric.PublicCancelled, 0, 0, 0)
		},
	}
}

// drainLimit is how long a worker with lost answers may take for everything.
const drainLimit = 20 * time.Second

// tasksWithLostAnswers has a worker process claim and complete over a proxy.
// When its leases last longer than the limit, every claim whose answer was lost
// must be found again by the worker: waiting for the lease to lapse is too late.
func tasksWithLostAnswers(t *testing.T, s *station, j *journal, direct flowfabric.Backend, cuts []cut, ttl time.Duration) string {
	t.Helper()
	p := newProxy(t, s.addr, 3, cuts)
	n := 150
	if testing.Short() {
		n = 30
	}
	stop := make(chan struct{})
	close(stop)
	l := &load{t: t, journal: j, station: s, backend: direct, stop: stop, acts: []Act{ActComplete, ActRetry, ActDelay, ActWait, ActWaitPending}, maxWork: 10, slow: n}
	l.client = flowfabric.NewClient(l.backend, flowfabric.WithNamespace(Namespace))
	for range n {
		l.ask(l.wish())
	}
	signals := startSender(t, j, nil, s.connect())
	h := newCrew(t, p.url(), "lossy-"+ttl.String(), j, "-lease-ttl", ttl.String(), "-claim-wait", "1s", "-tasks", "8").hire()
	h.awaitReady(t)
	awaitDrained(t, direct, drainLimit)
	signals.stop()
	p.calm() // so that the worker can take its leave
	h.dismiss(t)
	p.close()
	found := j.count(func(r Report) bool { return r.Instance == h.instance && r.Found })
	return fmt.Sprintf("%d executions, %d claims found again; %s", n, found, p.summary())
}
