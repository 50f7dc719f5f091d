package valkey

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/valkeytest"
)

// lossRig has two stores on one deployment: one sees everything, the other loses
// what the proxy is told to lose.
type lossRig struct {
	t             *testing.T
	ctx           context.Context
	server        *valkeytest.Server
	proxy         *valkeytest.Proxy
	direct, lossy *Backend
	runs          int
}

func newLossRig(t *testing.T) *lossRig {
	t.Helper()
	return newLossRigOn(t, valkeytest.Take(t))
}

func newLossRigOn(t *testing.T, srv *valkeytest.Server) *lossRig {
	t.Helper()
	r := &lossRig{t: t, ctx: t.Context(), server: srv, proxy: valkeytest.NewProxy(t, srv.Addr())}
	r.direct, r.lossy = r.open(srv.Addr()), r.open(r.proxy.Addr())
	return r
}

// open opens a store that does nothing by itself, on a clock that stands still.
func (r *lossRig) open(addr string) *Backend {
	r.t.Helper()
	b, err := Open(r.ctx, Config{Addrs: []string{addr}, NoEngine: true, RequestTimeout: time.Second,
		PartitionConfig: flowfabric.PartitionConfig{NumFlowPartitions: testPartitions},
		Testing:         Testing{Clock: true, DeploymentCheck: time.Hour, LibraryCheck: time.Hour, Heartbeat: time.Hour}})
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() {
		if err := b.Close(); err != nil {
			r.t.Errorf("close: %v", err)
		}
	})
	if err := b.SetTestClock(r.ctx, int64(testEpoch)); err != nil {
		r.t.Fatal(err)
	}
	return b
}

// lostRun is one run of an operation on an execution of its own.
type lostRun struct {
	*lossRig
	lane     flowfabric.LaneID
	ns       flowfabric.Namespace
	id       flowfabric.ExecutionID
	lease    flowfabric.LeaseID
	attempt  flowfabric.AttemptID
	instance flowfabric.WorkerInstanceID
	nonce    string
	fence    flowfabric.Fence
	grant    string
	// Of waits.
	signal     flowfabric.SignalID
	suspension flowfabric.SuspensionID
	waitpoint  flowfabric.WaitpointID
	wait       flowfabric.BoundWaitpoint
}

func (r *lossRig) run() *lostRun {
	r.runs++
	x := &lostRun{lossRig: r, lane: flowfabric.LaneID(fmt.Sprintf("lane-%04d", r.runs)), ns: flowfabric.Namespace(fmt.Sprintf("space-%04d", r.runs)),
		lease: flowfabric.NewLeaseID(), attempt: flowfabric.NewAttemptID(), instance: flowfabric.WorkerInstanceID(fmt.Sprintf("inst-%04d", r.runs)),
		nonce: uuid.NewString(), signal: flowfabric.NewSignalID(), suspension: flowfabric.NewSuspensionID(), waitpoint: flowfabric.NewWaitpointID()}
	x.id = flowfabric.MakeExecutionID(uint16(r.runs%testPartitions), uuid.New())
	return x
}

func (x *lostRun) ok(err error) {
	x.t.Helper()
	if err != nil {
		x.t.Fatal(err)
	}
}

func (x *lostRun) createArgs(change func(*flowfabric.CreateExecutionArgs)) flowfabric.CreateExecutionArgs {
	a := flowfabric.CreateExecutionArgs{ExecutionID: x.id, Namespace: x.ns, LaneID: x.lane, Kind: "k", CreatorIdentity: "me", Payload: []byte("{}"),
		Policy: json.RawMessage(`{"retry_policy":{"max_retries":1,"backoff":{"type":"fixed","delay_ms":0}}}`), Tags: map[string]string{"a.b": "c"}}
	if change != nil {
		change(&a)
	}
	return a
}

func (x *lostRun) create(change ...func(*flowfabric.CreateExecutionArgs)) {
	x.t.Helper()
	for _, f := range append(change, nil)[:1] {
		got, err := flowfabric.CreateExecution(x.ctx, x.direct, x.createArgs(f))
		x.ok(err)
		x.id = got.ExecutionID
	}
}

func (x *lostRun) grantAndClaim(b *Backend) (flowfabric.ClaimedExecution, error) {
	return b.IssueGrantAndClaim(x.ctx, flowfabric.IssueGrantAndClaimArgs{ExecutionID: x.id, WorkerID: "pool", WorkerInstanceID: x.instance,
		LeaseID: x.lease, AttemptID: x.attempt, LeaseTTLMs: 30_000})
}

// claim creates the execution and claims it.
func (x *lostRun) claim() {
	x.t.Helper()
	x.create()
	task, err := x.grantAndClaim(x.direct)
	x.ok(err)
	x.fence = task.Fence
}

func (x *lostRun) fail(b *Backend, category string) (flowfabric.FailExecutionResult, error) {
	return b.FailExecution(x.ctx, flowfabric.FailExecutionArgs{ExecutionID: x.id, Fence: x.fence, Reason: "as planned", Category: category})
}

func (x *lostRun) revoke(b *Backend, hold bool) (flowfabric.RevokeLeaseResult, error) {
	return b.RevokeLease(x.ctx, flowfabric.RevokeLeaseArgs{ExecutionID: x.id, Hold: hold})
}

func (x *lostRun) register(b *Backend) (flowfabric.RegisterWorkerResult, error) {
	return b.RegisterWorker(x.ctx, flowfabric.RegisterWorkerArgs{Namespace: x.ns, WorkerID: "pool", WorkerInstanceID: x.instance,
		Lanes: []flowfabric.LaneID{x.lane}, Capabilities: []string{"cpu"}, InstanceNonce: x.nonce})
}

func (x *lostRun) issueGrant(b *Backend) (flowfabric.Grant, error) {
	return b.IssueClaimGrant(x.ctx, flowfabric.IssueClaimGrantArgs{ExecutionID: x.id, LaneID: x.lane, WorkerID: "pool", WorkerInstanceID: x.instance,
		GrantTTLMs: 5000, IssuedBy: flowfabric.IssuedByScheduler})
}

func (x *lostRun) granted() {
	x.t.Helper()
	x.create()
	g, err := x.issueGrant(x.direct)
	x.ok(err)
	x.grant = g.GrantID
}

var (
	anyHash  = regexp.MustCompile(`[0-9a-f]{64}`) // the lane's name goes in
	anyUUID  = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`)
	anyGrant = regexp.MustCompile(`"grant_id":"[^"]*"`)
	anyPart  = regexp.MustCompile(`\{fp:\d+\}`)
	anyEvent = regexp.MustCompile(`"(event_id|cursor)":"[^"]*"`)
)

// effects tells everything there is of the run, without what differs between runs.
func (x *lostRun) effects() string {
	var b strings.Builder
	show := func(what string, v any, err error) {
		text, _ := json.Marshal(v)
		fmt.Fprintf(&b, "%s: %s %v\n", what, text, flowfabric.CodeOf(err))
	}
	e, err := x.direct.GetExecution(x.ctx, x.id)
	show("record", e, err)
	d, err := x.direct.DescribeExecution(x.ctx, x.id)
	show("snapshot", d, err)
	attempts, err := x.direct.ListAttempts(x.ctx, flowfabric.ListAttemptsArgs{ExecutionID: x.id})
	show("attempts", attempts.Attempts, err)
	result, err := x.direct.GetExecutionResult(x.ctx, x.id)
	show("result", result, err)
	lane, err := x.direct.GetLane(x.ctx, x.lane)
	show("lane", lane, err)
	workers, err := x.direct.ListWorkers(x.ctx, flowfabric.ListWorkersArgs{Namespace: x.ns})
	show("workers", workers.Workers, err)
	eligible, err := x.direct.ListEligible(x.ctx, flowfabric.ListEligibleArgs{LaneID: x.lane, Limit: 10, Capabilities: []string{"cpu"}})
	show("eligible", len(eligible), err)
	suspension, err := x.direct.GetSuspension(x.ctx, x.id)
	show("suspension", suspension, err)
	open, err := x.direct.ListPendingWaitpoints(x.ctx, flowfabric.ListPendingWaitpointsArgs{ExecutionID: x.id})
	for i := range open.Waitpoints { // the token is another one in every run
		open.Waitpoints[i].TokenFingerprint = ""
	}
	show("waitpoints", open, err)
	signals, err := x.direct.ListSignals(x.ctx, flowfabric.ListSignalsArgs{ExecutionID: x.id})
	show("signals", signals, err)
	for _, feed := range []flowfabric.Feed{flowfabric.FeedLeases, flowfabric.FeedCompletions, flowfabric.FeedSignals} {
		for at := flowfabric.FeedStartEarliest; ; {
			page, err := x.direct.ReadFeed(x.ctx, flowfabric.ReadFeedArgs{Feed: feed, Start: at, Limit: flowfabric.MaxFeedLimit})
			if err != nil {
				show("feed", nil, err)
				break
			}
			for _, ev := range page.Events {
				if ev.LaneID == x.lane && ev.Kind != flowfabric.EventDeduped { // which tells of the repeat
					show("event", ev, nil)
				}
			}
			if at = page.NextCursor; !page.HasMore {
				break
			}
		}
	}
	names := make(map[string]string)
	text := anyUUID.ReplaceAllStringFunc(anyHash.ReplaceAllString(b.String(), "HASH"), func(id string) string {
		if names[id] == "" {
			names[id] = fmt.Sprintf("<%d>", len(names))
		}
		return names[id]
	})
	text = strings.ReplaceAll(strings.ReplaceAll(strings.ReplaceAll(text, string(x.lane), "LANE"), string(x.ns), "SPACE"), string(x.instance), "INSTANCE")
	return anyEvent.ReplaceAllString(anyPart.ReplaceAllString(anyGrant.ReplaceAllString(text, "GRANT"), "PART"), "EVENT")
}

// lostOp is an operation that may write, and how it may be repeated.
type lostOp struct {
	name  string
	setup func(*lostRun)
	do    func(*lostRun, *Backend) (any, error)
	// refused is what a repeat may be answered when the first call was carried out.
	refused []flowfabric.Code
	// again checks the answer of a repeat beside that of an undisturbed call.
	again func(first, second any) bool
	// commands are those that get lost, by a part of them; default all.
	commands string
}

const (
	anyCommand = "ff:"
	// anyWrite is what an operation is tested with that reads something of every
	// lane there is.
	anyWrite = "FCALL\r\n"
)

func lostOps() []lostOp {
	fenced := func(x *lostRun) { x.claim() }
	ended := func(x *lostRun) {
		x.claim()
		_, err := x.fail(x.direct, "permanent")
		x.ok(err)
	}
	revoked := func(hold bool) func(*lostRun) {
		return func(x *lostRun) {
			x.claim()
			_, err := x.revoke(x.direct, hold)
			x.ok(err)
		}
	}
	created := func(x *lostRun) { x.create() }
	sameTask := func(a, b any) bool {
		f, s := a.(flowfabric.ClaimedExecution), b.(flowfabric.ClaimedExecution)
		return f.AttemptIndex == s.AttemptIndex && f.ClaimKind == s.ClaimKind && f.Fence.LeaseEpoch == s.Fence.LeaseEpoch &&
			f.LeaseExpiresAt == s.LeaseExpiresAt && bytes.Equal(f.Payload, s.Payload)
	}
	same := func(a, b any) bool {
		texts := [2]string{fmt.Sprintf("%+v", a), fmt.Sprintf("%+v", b)}
		for i := range texts {
			texts[i] = strings.ReplaceAll(texts[i], "Replayed:true", "Replayed:false")
		}
		return texts[0] == texts[1]
	}
	dead := func(x *lostRun) {
		x.claim()
		_, err := x.register(x.direct)
		x.ok(err)
	}
	pct, msg, delay, weight := int32(40), "on the way", int64(5000), 7
	revision := uint64(1)
	return []lostOp{
		{name: "create by id", do: func(x *lostRun, b *Backend) (any, error) {
			return flowfabric.CreateExecution(x.ctx, b, x.createArgs(nil))
		}},
		{name: "create by key", do: func(x *lostRun, b *Backend) (any, error) {
			got, err := flowfabric.CreateExecution(x.ctx, b, x.createArgs(func(a *flowfabric.CreateExecutionArgs) {
				a.ExecutionID, a.IdempotencyKey = "", "key"
			}))
			if err == nil {
				x.id = got.ExecutionID
			}
			return got, err
		}},
		{name: "create by key and id", do: func(x *lostRun, b *Backend) (any, error) {
			return flowfabric.CreateExecution(x.ctx, b, x.createArgs(func(a *flowfabric.CreateExecutionArgs) { a.IdempotencyKey = "key" }))
		}},
		{name: "claim granted", setup: func(x *lostRun) { x.granted() }, again: sameTask, do: func(x *lostRun, b *Backend) (any, error) {
			return b.ClaimGranted(x.ctx, flowfabric.ClaimGrantedArgs{ExecutionID: x.id, GrantID: x.grant, LaneID: x.lane, WorkerID: "pool",
				WorkerInstanceID: x.instance, LeaseID: x.lease, AttemptID: x.attempt, LeaseTTLMs: 30_000})
		}},
		{name: "claim fused", setup: created, again: sameTask, do: func(x *lostRun, b *Backend) (any, error) { return x.grantAndClaim(b) }},
		{name: "reclaim fused", setup: func(x *lostRun) {
			x.claim()
			_, err := x.revoke(x.direct, false)
			x.ok(err)
			x.lease, x.attempt = flowfabric.NewLeaseID(), flowfabric.NewAttemptID()
		}, again: sameTask, do: func(x *lostRun, b *Backend) (any, error) { return x.grantAndClaim(b) }},
		{name: "renew", setup: fenced, again: same, do: func(x *lostRun, b *Backend) (any, error) {
			return flowfabric.RenewLease(x.ctx, b, flowfabric.RenewLeaseArgs{ExecutionID: x.id, Fence: x.fence, LeaseTTLMs: 40_000})
		}},
		{name: "complete", setup: fenced, again: same, do: func(x *lostRun, b *Backend) (any, error) {
			return flowfabric.CompleteExecution(x.ctx, b, flowfabric.CompleteExecutionArgs{ExecutionID: x.id, Fence: x.fence, Result: []byte("1")})
		}},
		{name: "fail", setup: fenced, again: same, do: func(x *lostRun, b *Backend) (any, error) { return x.fail(b, "permanent") }},
		{name: "fail with a retry", setup: fenced, again: same, do: func(x *lostRun, b *Backend) (any, error) { return x.fail(b, "transient") }},
		{name: "cancel", setup: fenced, again: same, do: func(x *lostRun, b *Backend) (any, error) {
			return b.CancelExecution(x.ctx, flowfabric.CancelExecutionArgs{ExecutionID: x.id, Fence: x.fence, Reason: "enough"})
		}},
		{name: "cancel by an operator", setup: created, do: func(x *lostRun, b *Backend) (any, error) {
			return b.CancelExecution(x.ctx, flowfabric.CancelExecutionArgs{ExecutionID: x.id, Source: flowfabric.SourceOperatorOverride, Reason: "enough", RequestedBy: "me"})
		}},
		{name: "delay", setup: fenced, again: same, do: func(x *lostRun, b *Backend) (any, error) {
			return b.DelayExecution(x.ctx, flowfabric.DelayExecutionArgs{ExecutionID: x.id, Fence: x.fence, DelayMs: &delay})
		}},
		{name: "replay", setup: ended, again: same, do: func(x *lostRun, b *Backend) (any, error) {
			return b.ReplayExecution(x.ctx, flowfabric.ReplayExecutionArgs{ExecutionID: x.id, RequestedBy: "me", ExpectedReplayCount: new(uint32)})
		}},
		{name: "priority", setup: created, do: func(x *lostRun, b *Backend) (any, error) {
			return b.ChangePriority(x.ctx, flowfabric.ChangePriorityArgs{ExecutionID: x.id, Priority: 7})
		}},
		{name: "progress", setup: fenced, do: func(x *lostRun, b *Backend) (any, error) {
			return nil, b.UpdateProgress(x.ctx, flowfabric.UpdateProgressArgs{ExecutionID: x.id, Fence: x.fence, Pct: &pct, Message: &msg})
		}},
		{name: "pause", setup: created, refused: []flowfabric.Code{flowfabric.CodeExecutionNotEligible}, do: func(x *lostRun, b *Backend) (any, error) {
			return b.PauseExecution(x.ctx, flowfabric.BlockExecutionArgs{ExecutionID: x.id, Detail: "wait"})
		}},
		{name: "unpause", setup: func(x *lostRun) {
			x.create()
			_, err := x.direct.PauseExecution(x.ctx, flowfabric.BlockExecutionArgs{ExecutionID: x.id, Detail: "wait"})
			x.ok(err)
		}, refused: []flowfabric.Code{flowfabric.CodeExecutionNotEligible}, do: func(x *lostRun, b *Backend) (any, error) {
			return b.UnpauseExecution(x.ctx, flowfabric.BlockExecutionArgs{ExecutionID: x.id})
		}},
		{name: "set tags", setup: created, again: same, do: func(x *lostRun, b *Backend) (any, error) {
			return b.SetExecutionTags(x.ctx, x.id, map[string]string{"d.e": "f"})
		}},
		{name: "remove tag", setup: created, do: func(x *lostRun, b *Backend) (any, error) { return b.RemoveExecutionTag(x.ctx, x.id, "a.b") }},
		{name: "grant", setup: created, refused: []flowfabric.Code{flowfabric.CodeGrantAlreadyExists}, do: func(x *lostRun, b *Backend) (any, error) {
			return x.issueGrant(b)
		}},
		{name: "release grant", setup: func(x *lostRun) { x.granted() }, do: func(x *lostRun, b *Backend) (any, error) {
			return b.ReleaseGrant(x.ctx, flowfabric.ReleaseGrantArgs{ExecutionID: x.id, GrantID: x.grant, WorkerID: "pool"})
		}},
		{name: "reclaim grant", setup: revoked(false), refused: []flowfabric.Code{flowfabric.CodeGrantAlreadyExists}, do: func(x *lostRun, b *Backend) (any, error) {
			return b.IssueReclaimGrant(x.ctx, flowfabric.IssueReclaimGrantArgs{ExecutionID: x.id, WorkerID: "pool", WorkerInstanceID: x.instance, LaneID: x.lane, GrantTTLMs: 5000})
		}},
		{name: "revoke", setup: fenced, do: func(x *lostRun, b *Backend) (any, error) { return x.revoke(b, true) }},
		{name: "release hold", setup: revoked(true), do: func(x *lostRun, b *Backend) (any, error) { return b.ReleaseReclaimHold(x.ctx, x.id) }},
		{name: "register", again: func(_, second any) bool { return second.(flowfabric.RegisterWorkerResult).NextExpiryAt > testEpoch },
			do: func(x *lostRun, b *Backend) (any, error) { return x.register(b) }},
		{name: "heartbeat", setup: dead, again: same, do: func(x *lostRun, b *Backend) (any, error) {
			return b.HeartbeatWorker(x.ctx, flowfabric.HeartbeatWorkerArgs{Namespace: x.ns, WorkerInstanceID: x.instance, InstanceNonce: x.nonce})
		}},
		{name: "deregister", setup: dead, do: func(x *lostRun, b *Backend) (any, error) {
			return b.DeregisterWorker(x.ctx, flowfabric.MarkWorkerDeadArgs{Namespace: x.ns, WorkerInstanceID: x.instance, Reason: "bye"})
		}},
		{name: "worker dead", setup: dead, commands: anyWrite, do: func(x *lostRun, b *Backend) (any, error) {
			return b.MarkWorkerDead(x.ctx, flowfabric.MarkWorkerDeadArgs{Namespace: x.ns, WorkerInstanceID: x.instance, Reason: "gone", RevokeLeases: true})
		}},
		{name: "declare lane", do: func(x *lostRun, b *Backend) (any, error) {
			return nil, b.DeclareLanes(x.ctx, []flowfabric.LaneID{x.lane})
		}},
		{name: "lane settings", setup: func(x *lostRun) {
			x.ok(x.direct.DeclareLanes(x.ctx, []flowfabric.LaneID{x.lane}))
		}, refused: []flowfabric.Code{flowfabric.CodeRevisionConflict}, do: func(x *lostRun, b *Backend) (any, error) {
			return b.UpdateLane(x.ctx, flowfabric.UpdateLaneArgs{LaneID: x.lane, SchedulingWeight: &weight, ExpectedRevision: &revision})
		}},
		{name: "lane state", setup: created, do: func(x *lostRun, b *Backend) (any, error) {
			return b.SetLaneState(x.ctx, flowfabric.SetLaneStateArgs{LaneID: x.lane, State: flowfabric.LanePaused, Reason: "why"})
		}},
		{name: "delete lane", setup: func(x *lostRun) {
			x.ok(x.direct.DeclareLanes(x.ctx, []flowfabric.LaneID{x.lane}))
			_, err := x.direct.SetLaneState(x.ctx, flowfabric.SetLaneStateArgs{LaneID: x.lane, State: flowfabric.LaneDisabled})
			x.ok(err)
		}, do: func(x *lostRun, b *Backend) (any, error) { return b.DeleteLane(x.ctx, x.lane) }},
	}
}

// counted matches the k-th of the commands with a text, from 0 on.
func counted(k int, of string) func([]byte) bool {
	n := -1
	return func(command []byte) bool {
		if !bytes.Contains(command, []byte(of)) || bytes.Contains(command, []byte("SUBSCRIBE")) {
			return false
		}
		n++
		return n == k
	}
}

// Chapter 07, section 4.2 and scenario 51: every operation meets a lost request
// and a lost answer at each of its commands. A write says so, as outcome_unknown,
// and its repeat has no second effect; a read is repeated unseen.
func TestEveryOperationMeetsLostAnswers(t *testing.T) {
	r := newLossRig(t)
	for _, op := range append(lostOps(), lostWaitOps()...) {
		t.Run(op.name, func(t *testing.T) {
			r.t = t
			calm := r.run()
			if op.setup != nil {
				op.setup(calm)
			}
			want, err := op.do(calm, r.direct)
			if err != nil {
				t.Fatal(err)
			}
			effects, unknown := calm.effects(), 0
			for _, fault := range []valkeytest.Fault{valkeytest.LoseReply, valkeytest.LoseRequest} {
				for k := 0; ; k++ {
					x := r.run()
					if op.setup != nil {
						op.setup(x)
					}
					lost := r.proxy.Inject(fault, 1, counted(k, cmp.Or(op.commands, anyCommand)))
					got, err := op.do(x, r.lossy)
					hit := lost.Hits() > 0
					lost.Remove()
					if err != nil {
						unknown++
						if code := flowfabric.CodeOf(err); !hit || code != flowfabric.CodeOutcomeUnknown {
							t.Errorf("fault %d at command %d, met %v: %v", fault, k, hit, err)
						}
						if got, err = op.do(x, r.lossy); err != nil && !slices.Contains(op.refused, flowfabric.CodeOf(err)) {
							t.Errorf("fault %d at command %d: the repeat: %v", fault, k, err)
						}
					}
					if err == nil && op.again != nil && !op.again(want, got) {
						t.Errorf("fault %d at command %d: the repeat answers\n%+v\nan undisturbed call\n%+v", fault, k, got, want)
					}
					if now := x.effects(); now != effects {
						t.Errorf("fault %d at command %d, then a repeat:%s", fault, k, difference(now, effects))
					}
					if !hit {
						break
					}
					if k == 20 {
						t.Fatal("no end of commands")
					}
				}
			}
			if unknown == 0 {
				t.Error("no loss ever showed")
			}
		})
	}
	r.t = t
	r.clean()
}

// difference shows the lines in which two texts differ.
func difference(got, want string) string {
	a, b := strings.Split(got, "\n"), strings.Split(want, "\n")
	var out strings.Builder
	for i := range max(len(a), len(b)) {
		var x, y string
		if i < len(a) {
			x = a[i]
		}
		if i < len(b) {
			y = b[i]
		}
		if x != y {
			fmt.Fprintf(&out, "\n%s\nundisturbed:\n%s", x, y)
		}
	}
	return out.String()
}

// clean wants an audit that finds nothing.
func (r *lossRig) clean() {
	r.t.Helper()
	reconcileAll(r.t, r.direct.Store)
}

// reconcileAll audits all partitions and wants nothing to repair.
func reconcileAll(t testing.TB, s *Store) (examined int) {
	t.Helper()
	for part := range s.tags {
		for at := flowfabric.ExecutionID(""); ; {
			res, err := s.Reconcile(t.Context(), flowfabric.ReconcileArgs{Partition: uint16(part), Cursor: at, Limit: 1000})
			if err != nil {
				t.Fatal(err)
			}
			if res.Repaired+res.Removed+len(res.Violations) > 0 {
				t.Errorf("partition %d: %d repaired, %d removed, %v", part, res.Repaired, res.Removed, res.Violations)
			}
			examined += res.Examined
			if at = res.Next; at == "" {
				break
			}
		}
	}
	return examined
}

// Claims in batches and grants of the scheduler carry no identifier of the
// caller's: what was claimed is found among the worker's leases, what was granted
// lapses. Nothing is ever leased twice.
func TestSchedulerMeetsLostAnswers(t *testing.T) {
	r := newLossRig(t)
	for _, kind := range []struct{ grants, large bool }{{}, {large: true}, {grants: true}} {
		grants := kind.grants
		for _, fault := range []valkeytest.Fault{valkeytest.LoseReply, valkeytest.LoseRequest} {
			for k := 0; ; k++ {
				x := r.run()
				for range 3 {
					x.id = ""
					x.create(func(a *flowfabric.CreateExecutionArgs) {
						if kind.large { // the definition is read behind the claim
							a.Policy, a.Tags, a.Payload = nil, nil, bytes.Repeat([]byte("x"), 5000)
						}
					})
				}
				lost := r.proxy.Inject(fault, 1, counted(k, anyCommand))
				var err error
				if grants {
					_, err = r.lossy.ClaimForWorker(r.ctx, flowfabric.ClaimForWorkerArgs{WorkerID: "pool", WorkerInstanceID: x.instance,
						Lanes: []flowfabric.LaneID{x.lane}, Namespace: x.ns, GrantTTLMs: 5000})
				} else {
					_, err = r.lossy.ClaimTasks(r.ctx, flowfabric.ClaimTasksArgs{WorkerID: "pool", WorkerInstanceID: x.instance,
						Lanes: []flowfabric.LaneID{x.lane}, Namespace: x.ns, MaxTasks: 2, LeaseTTLMs: 30_000})
				}
				hit := lost.Hits() > 0
				lost.Remove()
				if err != nil && (!hit || flowfabric.CodeOf(err) != flowfabric.CodeOutcomeUnknown) {
					t.Errorf("%+v, fault %d at command %d, met %v: %v", kind, fault, k, hit, err)
				}
				x.settleClaims(grants)
				if !hit {
					break
				}
				if k == 40 {
					t.Fatal("no end of commands")
				}
			}
		}
	}
	r.clean()
}

// settleClaims claims what is left of three executions, and wants each leased
// once, under its first lease.
func (x *lostRun) settleClaims(grants bool) {
	x.t.Helper()
	if grants { // until every grant has lapsed
		x.ok(x.direct.SetTestClock(x.ctx, int64(testEpoch)+6000))
		x.ok(x.lossy.SetTestClock(x.ctx, int64(testEpoch)+6000))
		_, err := x.direct.Tick(x.ctx, flowfabric.TickArgs{})
		x.ok(err)
		defer func() {
			x.ok(x.direct.SetTestClock(x.ctx, int64(testEpoch)))
			x.ok(x.lossy.SetTestClock(x.ctx, int64(testEpoch)))
		}()
	}
	held := make(map[flowfabric.ExecutionID]bool)
	list, err := x.direct.ListWorkerLeases(x.ctx, flowfabric.ListWorkerLeasesArgs{WorkerInstanceID: x.instance})
	x.ok(err)
	for range 3 {
		for _, task := range list.Tasks {
			if held[task.ExecutionID] || task.Fence.LeaseEpoch != 1 || task.AttemptIndex != 0 {
				x.t.Errorf("claimed twice: %+v", task)
			}
			held[task.ExecutionID] = true
		}
		got, err := x.lossy.ClaimTasks(x.ctx, flowfabric.ClaimTasksArgs{WorkerID: "pool", WorkerInstanceID: x.instance,
			Lanes: []flowfabric.LaneID{x.lane}, Namespace: x.ns, MaxTasks: 2, LeaseTTLMs: 30_000})
		x.ok(err)
		list.Tasks = got.Tasks
	}
	if len(held) != 3 {
		x.t.Errorf("%d of 3 executions are leased", len(held))
	}
}

// Section 4.2: a read that gets no answer, however often it is repeated, is
// store_timeout; one that reaches nobody is store_unavailable, like a write.
func TestReadsThatAreLost(t *testing.T) {
	r := newLossRig(t)
	x := r.run()
	x.create()
	for name, read := range map[string]func() error{
		"get":   func() error { _, err := r.lossy.GetExecution(r.ctx, x.id); return err },
		"input": func() error { _, err := r.lossy.GetExecutionInput(r.ctx, x.id); return err },
		"lane":  func() error { _, err := r.lossy.GetLane(r.ctx, x.lane); return err },
		"list": func() error {
			_, err := r.lossy.ListExecutions(r.ctx, flowfabric.ListExecutionsArgs{Partition: x.id.Partition()})
			return err
		},
		"feed": func() error {
			_, err := r.lossy.ReadFeed(r.ctx, flowfabric.ReadFeedArgs{Feed: flowfabric.FeedLeases, Start: flowfabric.FeedStartEarliest})
			return err
		},
		"leases": func() error {
			_, err := r.lossy.ListWorkerLeases(r.ctx, flowfabric.ListWorkerLeasesArgs{WorkerInstanceID: x.instance})
			return err
		},
	} {
		if err := read(); err != nil {
			t.Fatal(name, err)
		}
		lost := r.proxy.Inject(valkeytest.LoseReply, -1, func(c []byte) bool {
			return bytes.Contains(c, []byte("ff:")) && !bytes.Contains(c, []byte("SUBSCRIBE"))
		})
		err := read()
		lost.Remove()
		if e := flowfabric.AsError(err); e == nil || e.Code != flowfabric.CodeStoreTimeout || !errors.Is(err, flowfabric.ClassRetryableTransport) {
			t.Errorf("%s, all answers lost: %v", name, err)
		}
		if lost.Hits() < 2 {
			t.Errorf("%s was not repeated", name)
		}
	}
	r.proxy.Refuse(true)
	r.proxy.CutAll()
	defer r.proxy.Refuse(false)
	for range 5 { // what is sent before the end of a connection is noticed is lost
		_, err := r.lossy.GetExecution(r.ctx, x.id)
		wantCode(t, err, flowfabric.CodeStoreUnavailable)
		if _, err = flowfabric.CreateExecution(r.ctx, r.lossy, x.createArgs(nil)); flowfabric.CodeOf(err) == flowfabric.CodeStoreUnavailable {
			return
		}
	}
	t.Error("a write without a connection is not store_unavailable")
}

// Chapter 07, scenario 50: a completion that no replica confirms is there all the
// same, and its repeat has the replay answer; but that is acknowledged only when
// the replicas have what it repeats.
func TestUnconfirmedCompletion(t *testing.T) {
	primary, replica := valkeytest.Start(t, valkeytest.Options{}), valkeytest.Start(t, valkeytest.Options{})
	host, port, _ := strings.Cut(primary.Addr(), ":")
	replica.Must("REPLICAOF", host, port)
	eventually(t, "the replica is linked", func() bool { return replica.Info("replication")["master_link_status"] == "up" })
	r := &lossRig{t: t, ctx: t.Context(), server: primary}
	r.direct = r.open(primary.Addr())
	cfg := Config{Addrs: []string{primary.Addr()}, NoEngine: true, Testing: Testing{Clock: true},
		Durability: Durability{Mode: DurabilityReplicated, Replicas: 1, Timeout: 10 * time.Second}}
	patient, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer patient.Close()
	cfg.Durability.Timeout = 50 * time.Millisecond
	x := r.run()
	x.claim()
	complete := func(b *Backend) (flowfabric.CompleteExecutionResult, error) {
		return flowfabric.CompleteExecution(t.Context(), b, flowfabric.CompleteExecutionArgs{ExecutionID: x.id, Fence: x.fence, Result: []byte("1")})
	}
	eventually(t, "the replica confirms", func() bool {
		_, offset, _ := strings.Cut(primary.Info("replication")["slave0"], "offset=")
		return !strings.HasPrefix(offset, "0,")
	})
	replica.Pause()
	for range 3 { // each on a connection of its own
		hasty, err := Open(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer hasty.Close()
		_, err = complete(hasty)
		if e := wantCode(t, err, flowfabric.CodeDurabilityUnconfirmed); e.Class != flowfabric.ClassRetryableTransport {
			t.Errorf("class %s", e.Class)
		}
	}
	if e, err := r.direct.GetExecution(t.Context(), x.id); err != nil || e.PublicState != flowfabric.PublicCompleted {
		t.Fatalf("%+v, %v", e, err)
	}
	replica.Resume()
	again, err := complete(patient)
	if err != nil || !again.Replayed || again.PublicState != flowfabric.PublicCompleted {
		t.Errorf("the repeat: %+v, %v", again, err)
	}
	if n := x.effects(); strings.Count(n, `"feed":"completions"`) != 1 {
		t.Errorf("completions:\n%s", n)
	}
	if st := replica.Must("HGET", execKey(x.id, "core"), "public_state"); st != "completed" {
		t.Errorf("the replica has %v", st)
	}
}

// Section 4.2: what the store itself answers, and what becomes of it.
func TestRepliesOfTheStore(t *testing.T) {
	for _, c := range []struct {
		text string
		do   reaction
		code flowfabric.Code
		kind string
	}{
		{"MOVED 5 127.0.0.1:7000", look, flowfabric.CodeStoreUnavailable, "cluster"},
		{"ASK 5 127.0.0.1:7000", look, flowfabric.CodeStoreUnavailable, "cluster"},
		{"TRYAGAIN Multiple keys request during rehashing of slot", look, flowfabric.CodeStoreUnavailable, "cluster"},
		{"CLUSTERDOWN The cluster is down", look, flowfabric.CodeStoreUnavailable, "cluster"},
		{"READONLY You can't write against a read only replica.", look, flowfabric.CodeStoreUnavailable, "cluster"},
		{"LOADING Valkey is loading the dataset in memory", wait, flowfabric.CodeStoreUnavailable, "busy_loading"},
		{"MASTERDOWN Link with MASTER is down", wait, flowfabric.CodeStoreUnavailable, "busy_loading"},
		{"BUSY Valkey is busy running a script.", wait, flowfabric.CodeStoreUnavailable, "busy_loading"},
		{"OOM command not allowed when used memory > 'maxmemory'.", giveUp, flowfabric.CodeStoreFull, ""},
		{"NOAUTH Authentication required.", giveUp, flowfabric.CodeStoreFault, "auth"},
		{"WRONGPASS invalid username-password pair or user is disabled.", giveUp, flowfabric.CodeStoreFault, "auth"},
		{"NOPERM User x has no permissions to run the 'fcall' command", giveUp, flowfabric.CodeStoreFault, "auth"},
		{"Function not found", load, flowfabric.CodeLibraryMissing, "script_not_loaded"},
		{"CROSSSLOT Keys in request don't hash to the same slot", giveUp, flowfabric.CodeStoreFault, "protocol"},
		{"WRONGTYPE Operation against a key holding the wrong kind of value", giveUp, flowfabric.CodeStoreFault, "protocol"},
		{"user_function:1: attempt to index nil", giveUp, flowfabric.CodeStoreFault, "other"},
	} {
		do, e := reactToReply(c.text)
		if do != c.do || e.Code != c.code || e.Kind != c.kind {
			t.Errorf("%q: reaction %d, %s, kind %q", c.text, do, e.Code, e.Kind)
		}
		want := map[flowfabric.Code]flowfabric.Class{flowfabric.CodeStoreFull: flowfabric.ClassCapacity, flowfabric.CodeStoreFault: flowfabric.ClassBug}[c.code]
		if e.Class != cmp.Or(want, flowfabric.ClassRetryableTransport) {
			t.Errorf("%q: class %s", c.text, e.Class)
		}
	}
}
