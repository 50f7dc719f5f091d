package valkey

import (
	"fmt"
	"strings"
	"testing"

	"github.com/flowfabric/flowfabric"
	"github.com/google/uuid"
)

func TestImplicitRegistrationIsWrittenWhenItSaysSomethingNew(t *testing.T) {
	r := openRouted(t)
	a := flowfabric.ClaimCandidatesArgs{WorkerID: "pool", WorkerInstanceID: "i", Lanes: []flowfabric.LaneID{"z", "a", "z"}, Capabilities: []string{"cpu"}}
	beat := func() flowfabric.Millis {
		w, err := r.GetWorker(r.ctx, flowfabric.AnyNamespace, "i")
		r.ok(err)
		if w == nil {
			return 0
		}
		return w.LastHeartbeatAt - testEpoch
	}
	ask := func() { r.t.Helper(); r.ok(r.registerImplicit(r.ctx, &a)) }
	ask()
	w, err := r.GetWorker(r.ctx, flowfabric.AnyNamespace, "i")
	r.ok(err)
	equal(t, "worker", *w, flowfabric.WorkerRegistration{Namespace: "*", WorkerID: "pool", WorkerInstanceID: "i", Lanes: []flowfabric.LaneID{"a", "z"},
		Capabilities: []string{"cpu"}, Implicit: true, LivenessTTLMs: 60_000, RegisteredAt: testEpoch, LastHeartbeatAt: testEpoch, ExpiresAt: testEpoch + 60_000})
	r.advance(14_999)
	ask()
	equal(t, "within a quarter of its ttl", beat(), 0)
	r.advance(1)
	ask()
	equal(t, "after it", beat(), 15_000)
	r.advance(1)
	a.WaitMs = 10_000
	ask()
	equal(t, "with another wait", beat(), 15_001)
	r.advance(1)
	a.Capabilities = []string{"gpu"}
	ask()
	equal(t, "with other capabilities", beat(), 15_002)
	_, err = r.MarkWorkerDead(r.ctx, flowfabric.MarkWorkerDeadArgs{Namespace: "*", WorkerInstanceID: "i", Reason: "r"})
	r.ok(err)
	equal(t, "dead", beat(), 0)
	ask()
	equal(t, "registered anew", beat(), 15_002)
	a.WorkerID = "other"
	r.code(r.registerImplicit(r.ctx, &a), flowfabric.CodeInstanceIDReassigned)

	allocs := testing.AllocsPerRun(100, func() {
		a.WorkerID = "pool"
		ask()
	})
	if allocs > 0 {
		t.Errorf("asking again allocates %v times", allocs)
	}
}

func TestAClaimOfARegisteredWorkerIsAHeartbeat(t *testing.T) {
	r := openRouted(t)
	r.create(1, "a", "ns", "gpu", 0)
	r.register("ns", "i", []flowfabric.LaneID{"a"}, "cpu")
	gpu := bucketAt{laneAt{1, "a"}, bucket{bucketName("ns", "gpu"), "ns", []string{"gpu"}}}
	n, err := r.uncovered(r.ctx, []bucketAt{gpu}, false)
	r.ok(err)
	equal(t, "labelled", n, 1)
	r.advance(40_000)
	a := flowfabric.ClaimCandidatesArgs{Namespace: "ns", WorkerID: "pool", WorkerInstanceID: "i", Lanes: []flowfabric.LaneID{"a"}, Capabilities: []string{"gpu"}}
	r.ok(r.registerImplicit(r.ctx, &a))
	w, err := r.GetWorker(r.ctx, "ns", "i")
	r.ok(err)
	equal(t, "record", fmt.Sprint(w.Implicit, w.Capabilities, w.LastHeartbeatAt-testEpoch, w.ExpiresAt-testEpoch), "false [cpu] 40000 100000")
	l, err := r.label(r.ctx, gpu.laneAt, gpu.name)
	r.ok(err)
	equal(t, "label of what the claim covers", l.UncoveredSince, 0)
	got := r.register("ns", "i", []flowfabric.LaneID{"a"})
	equal(t, "outcome", got, flowfabric.RegisterWorkerResult{Outcome: flowfabric.WorkerRefreshed, NextExpiryAt: testEpoch + 100_000})
	_, err = r.RegisterWorker(r.ctx, flowfabric.RegisterWorkerArgs{Namespace: "ns", WorkerID: "pool", WorkerInstanceID: "i", Lanes: []flowfabric.LaneID{"a"}, InstanceNonce: uuid.NewString()})
	equal(t, "expires_at", r.code(err, flowfabric.CodeDuplicateWorkerInstance).Details["expires_at"], any(int64(testEpoch+100_000)))
}

func TestRegistryPagesSweepAndLog(t *testing.T) {
	r := openRouted(t)
	for _, ns := range []flowfabric.Namespace{"b", "a"} {
		for i := range 5 {
			r.register(ns, fmt.Sprint("i-", i), []flowfabric.LaneID{"l"})
		}
	}
	var got []string
	args := flowfabric.ListWorkersArgs{Limit: 3}
	for more := true; more; {
		page, err := r.ListWorkers(r.ctx, args)
		r.ok(err)
		for _, w := range page.Workers {
			got = append(got, string(w.Namespace)+"/"+string(w.WorkerInstanceID))
			args.AfterNamespace, args.AfterInstanceID = w.Namespace, w.WorkerInstanceID
		}
		more = page.More
	}
	equal(t, "workers", got, []string{"a/i-0", "a/i-1", "a/i-2", "a/i-3", "a/i-4", "b/i-0", "b/i-1", "b/i-2", "b/i-3", "b/i-4"})
	page, err := r.ListWorkers(r.ctx, flowfabric.ListWorkersArgs{Namespaces: []flowfabric.Namespace{"b"}, AfterInstanceID: "i-9"})
	r.ok(err)
	equal(t, "of b", len(page.Workers), 5)
	r.advance(30_000)
	hb, err := r.HeartbeatWorker(r.ctx, flowfabric.HeartbeatWorkerArgs{Namespace: "a", WorkerInstanceID: "i-0", InstanceNonce: uuid.NewSHA1(uuid.Nil, []byte("i-0")).String()})
	r.ok(err)
	equal(t, "heartbeat", hb, flowfabric.HeartbeatWorkerResult{Registered: true, NextExpiryAt: r.now + 60_000})
	r.advance(30_000)
	res, err := r.SweepWorkers(r.ctx)
	r.ok(err)
	equal(t, "swept", res, flowfabric.SweepResult{Rows: 9})
	page, err = r.ListWorkers(r.ctx, flowfabric.ListWorkersArgs{})
	r.ok(err)
	equal(t, "left", len(page.Workers), 1)
	log := func(ns flowfabric.Namespace) int64 {
		n, err := r.plain(r.ctx, r.b.Xlen().Key("ff:idx:"+registryTag(ns)+":log").Build())[0].msg.AsInt64()
		r.ok(err)
		return n
	}
	equal(t, "log", log("a"), 9)
	r.advance(25 * 3_600_000)
	r.register("a", "i-0", []flowfabric.LaneID{"l"})
	equal(t, "log after a day", log("a"), 1)
}

func TestADeadWorkersLeasesAreRevoked(t *testing.T) {
	r := openRouted(t)
	long := flowfabric.Namespace(strings.Repeat("n", 100))
	for _, ns := range []flowfabric.Namespace{"ns", long, "other"} {
		r.register(ns, "i", []flowfabric.LaneID{"a"})
		r.create(1, "a", ns, "", 0)
		r.create(5, "a", ns, "", 0)
		r.claim(1, "a", ns, "", "i")
		r.claim(5, "a", ns, "", "i")
	}
	for _, ns := range []flowfabric.Namespace{"ns", long} {
		for _, want := range []flowfabric.MarkWorkerDeadResult{{Marked: true, RevokedLeases: 2}, {}} {
			got, err := r.MarkWorkerDead(r.ctx, flowfabric.MarkWorkerDeadArgs{Namespace: ns, WorkerInstanceID: "i", Reason: "crashed", RevokeLeases: true})
			r.ok(err)
			equal(t, "result", got, want)
		}
	}
	got, err := r.DeregisterWorker(r.ctx, flowfabric.MarkWorkerDeadArgs{Namespace: "*", WorkerInstanceID: "i", Reason: "crashed", RevokeLeases: true})
	r.ok(err)
	equal(t, "for all", got, flowfabric.MarkWorkerDeadResult{RevokedLeases: 2})
}

func TestExplainRouting(t *testing.T) {
	r := openRouted(t)
	id := r.create(1, "a", "ns", "cuda,gpu", 0)
	r.register("ns", "b-1", []flowfabric.LaneID{"a"}, "gpu")
	r.register("*", "a-1", []flowfabric.LaneID{"a"}, "cuda", "gpu")
	r.register("ns", "c-1", []flowfabric.LaneID{"b"})
	got, err := r.ExplainRouting(r.ctx, id)
	r.ok(err)
	equal(t, "explanation", *got, flowfabric.RoutingExplanation{ExecutionID: id, LaneID: "a", Namespace: "ns", RequiredCapabilities: []string{"cuda", "gpu"},
		Workers: []flowfabric.WorkerCoverage{{WorkerID: "pool", WorkerInstanceID: "a-1", Missing: []string{}}, {WorkerID: "pool", WorkerInstanceID: "b-1", Missing: []string{"cuda"}}}, Covered: true})
	_, err = r.ExplainRouting(r.ctx, flowfabric.MakeExecutionID(1, uuid.New()))
	r.code(err, flowfabric.CodeExecutionNotFound)
}
