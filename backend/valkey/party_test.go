package valkey

import (
	"context"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/flowfabric/flowfabric"
)

// party is one process of several on one deployment.
type party struct {
	*Backend
	t   testing.TB
	ctx context.Context
}

const (
	partyNamespace flowfabric.Namespace = "default"
	partyLane      flowfabric.LaneID    = "emails"
)

// joinParty opens a process on a place. No duty runs in it, so that nothing is
// found by a sweep. Its claims publish nothing: the leases feed is off.
func joinParty(t testing.TB, at place, change ...func(*Config)) *party {
	t.Helper()
	cfg := at.config()
	cfg.NoEngine, cfg.Feeds = true, []flowfabric.Feed{}
	for _, f := range change {
		f(&cfg)
	}
	b, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	return &party{Backend: b, t: t, ctx: t.Context()}
}

func partitions(n int) func(*Config) {
	return func(c *Config) { c.PartitionConfig.NumFlowPartitions = n }
}

type job struct {
	part     uint16
	ns       flowfabric.Namespace
	caps     string
	payload  int
	priority int32
	change   func(*flowfabric.CreateExecutionArgs)
}

func (j job) args() flowfabric.CreateExecutionArgs {
	a := flowfabric.CreateExecutionArgs{ExecutionID: flowfabric.MakeExecutionID(j.part, uuid.New()), Namespace: partyNamespace, LaneID: partyLane,
		Kind: "send_email", CreatorIdentity: "api", Payload: make([]byte, j.payload)}
	if j.ns != "" {
		a.Namespace = j.ns
	}
	if j.priority != 0 {
		a.Priority = &j.priority
	}
	if j.caps != "" {
		a.Policy, _ = json.Marshal(map[string]any{"routing_requirements": map[string]any{"required_capabilities": strings.Split(j.caps, ",")}})
	}
	if j.change != nil {
		j.change(&a)
	}
	return a
}

func (p *party) create(j job) flowfabric.ExecutionID {
	p.t.Helper()
	return p.createAll(j.args())[0]
}

func (p *party) createAll(items ...flowfabric.CreateExecutionArgs) []flowfabric.ExecutionID {
	p.t.Helper()
	res, err := p.CreateExecutions(p.ctx, items)
	p.ok(err)
	ids := make([]flowfabric.ExecutionID, len(res))
	for i := range res {
		p.ok(res[i].Err)
		ids[i] = res[i].Result.ExecutionID
	}
	return ids
}

func (p *party) ok(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
}

// claimed makes a claim of the party's lane.
func (p *party) claim(max int, wait time.Duration, ns flowfabric.Namespace, caps ...string) []flowfabric.ClaimedExecution {
	p.t.Helper()
	got, err := p.ClaimTasks(p.ctx, flowfabric.ClaimTasksArgs{WorkerID: "worker-1", WorkerInstanceID: "worker-1-7f3a9c", Lanes: []flowfabric.LaneID{partyLane},
		Namespace: ns, Capabilities: caps, MaxTasks: max, LeaseTTLMs: 30_000, WaitMs: wait.Milliseconds()})
	if err != nil {
		p.t.Error(err)
	}
	return got.Tasks
}

func (p *party) complete(task flowfabric.ClaimedExecution, result []byte) {
	p.t.Helper()
	for _, res := range p.completeAll(completion(task, result)) {
		p.ok(res.Err)
	}
}

func (p *party) completeAll(items ...flowfabric.CompleteExecutionArgs) []flowfabric.Item[flowfabric.CompleteExecutionResult] {
	p.t.Helper()
	res, err := p.CompleteExecutions(p.ctx, items)
	p.ok(err)
	return res
}

func (p *party) renew(tasks ...flowfabric.ClaimedExecution) {
	p.t.Helper()
	items := make([]flowfabric.RenewLeaseArgs, len(tasks))
	for i, task := range tasks {
		items[i] = flowfabric.RenewLeaseArgs{ExecutionID: task.ExecutionID, Fence: task.Fence, LeaseTTLMs: 30_000}
	}
	res, err := p.RenewLeases(p.ctx, items)
	p.ok(err)
	for i := range res {
		p.ok(res[i].Err)
	}
}

func completion(task flowfabric.ClaimedExecution, result []byte) flowfabric.CompleteExecutionArgs {
	return flowfabric.CompleteExecutionArgs{ExecutionID: task.ExecutionID, Fence: task.Fence, Result: result}
}

// calls sums how often a command was executed on the place, inside functions too.
func (p place) calls(t testing.TB, command string) int {
	t.Helper()
	n := 0
	for _, s := range p.primaries() {
		n += callsOf(s.Info("commandstats"), command)
	}
	return n
}

func callsOf(stats map[string]string, command string) int {
	calls, _, _ := strings.Cut(strings.TrimPrefix(stats["cmdstat_"+command], "calls="), ",")
	n, _ := strconv.Atoi(calls)
	return n
}

// armedAt reports whether a claimer found too little on a partition.
func (p place) armedAt(part uint16) bool {
	key := laneKey(partitionTag(part), partyLane, "armed")
	return p.must("EXISTS", key) == int64(1)
}

func median(list []time.Duration) time.Duration {
	slices.Sort(list)
	return list[len(list)/2]
}
