package valkey

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/valkeytest"
	"github.com/google/uuid"
)

const (
	testPartitions = 8
	testEpoch      = flowfabric.Millis(1_750_000_000_000)
)

// routed is a store, or two on one deployment, with a clock that stands still and
// the executions that a test makes.
type routed struct {
	*Store
	t    *testing.T
	ctx  context.Context
	now  flowfabric.Millis
	mu   sync.Mutex
	told []flowfabric.WakeEvent
	// heard gets what was told as it comes.
	heard chan flowfabric.WakeEvent
}

// hears waits until the store tells of a lane.
func (r *routed) hears(kind flowfabric.WakeKind, lane flowfabric.LaneID) {
	r.t.Helper()
	for {
		select {
		case e := <-r.heard:
			if e.Kind == kind && e.LaneID == lane {
				return
			}
		case <-r.ctx.Done():
			r.t.Fatalf("nothing is heard of lane %s", lane)
		}
	}
}

func openRouted(t *testing.T, change ...func(*Config)) *routed {
	t.Helper()
	return joinRouted(t, valkeytest.Take(t), change...)
}

func joinRouted(t *testing.T, server *valkeytest.Server, change ...func(*Config)) *routed {
	t.Helper()
	cfg := Config{Addrs: []string{server.Addr()}, NoEngine: true, Testing: Testing{Clock: true},
		PartitionConfig: flowfabric.PartitionConfig{NumFlowPartitions: testPartitions}}
	for _, f := range change {
		f(&cfg)
	}
	return openWith(t, cfg)
}

func openWith(t *testing.T, cfg Config) *routed {
	t.Helper()
	s, err := open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	r := &routed{Store: s, t: t, ctx: t.Context(), now: testEpoch, heard: make(chan flowfabric.WakeEvent, 1000)}
	stop := s.Watch(func(list []flowfabric.WakeEvent) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.told = append(r.told, list...)
		for _, e := range list {
			select {
			case r.heard <- e:
			default:
			}
		}
	})
	t.Cleanup(func() {
		stop()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	r.setClock()
	return r
}

func (r *routed) setClock() {
	r.t.Helper()
	r.ok(r.SetTestClock(r.ctx, int64(r.now)))
}

func (r *routed) advance(ms int64) {
	r.t.Helper()
	r.now += flowfabric.Millis(ms)
	r.setClock()
}

func (r *routed) ok(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *routed) code(err error, want flowfabric.Code) *flowfabric.Error {
	r.t.Helper()
	if flowfabric.CodeOf(err) != want {
		r.t.Fatalf("error is %v, want %s", err, want)
	}
	return flowfabric.AsError(err)
}

func equal[T any](t *testing.T, what string, got, want T) {
	t.Helper()
	if g, w := fmt.Sprintf("%+v", got), fmt.Sprintf("%+v", want); g != w {
		t.Errorf("%s is %s, want %s", what, g, w)
	}
}

// create makes an execution on a partition.
func (r *routed) create(part uint16, lane flowfabric.LaneID, ns flowfabric.Namespace, caps string, priority int) flowfabric.ExecutionID {
	r.t.Helper()
	id := flowfabric.MakeExecutionID(part, uuid.New())
	def := strings.Repeat("0", 64) + "1 1 4 0 2\nkcjson{}"
	if caps != "" {
		policy := `{"routing_requirements":{"required_capabilities":["` + strings.ReplaceAll(caps, ",", `","`) + `"]}}`
		def = strings.Repeat("0", 64) + "1 1 4 0 " + strconv.Itoa(len(policy)) + "\nkcjson" + policy
	}
	got, err := r.callStrs(r.ctx, "ff_create_execution", r.tag(part), uuidOf(id), string(lane), string(ns), bucketName(ns, caps), caps, def,
		strconv.Itoa(priority)+strings.Repeat(" ", 7), "")
	r.ok(err)
	if got[0] != "cwaiting" {
		r.t.Fatalf("create gives %q", got[0])
	}
	return id
}

// claim claims up to n executions of one bucket, by the scheduler; tokens are those
// of slots.
func (r *routed) claim(part uint16, lane flowfabric.LaneID, ns flowfabric.Namespace, caps, instance string, tokens ...string) []flowfabric.ExecutionID {
	r.t.Helper()
	args := []string{string(lane), "pool", instance, caps, "", "30000", "s", "c", strconv.Itoa(max(1, len(tokens))), "", "1", bucketName(ns, caps)}
	asked := newTasks{part: part, lane: lane, instance: flowfabric.WorkerInstanceID(instance), ttlMs: 30_000}
	for i := range max(1, len(tokens)) {
		lease, attempt := mint("", "")
		args = append(args, lease, attempt)
		if i < len(tokens) {
			args = append(args, tokens[i])
		}
		asked.ids = append(asked.ids, taskIDs{flowfabric.LeaseID(lease), flowfabric.AttemptID(attempt)})
	}
	msg, err := r.call(r.ctx, "ff_claim_next", r.tag(part), args...)
	r.ok(err)
	list, err := elementsOf("ff_claim_next", &msg, 3)
	r.ok(err)
	asked.now, asked.list = list.ms(0), list[3:]
	var out []flowfabric.ExecutionID
	for i := range asked.list {
		task, err := r.receive(r.ctx, "claim_tasks", &asked, i)
		r.ok(err)
		out = append(out, task.ExecutionID)
	}
	return out
}

func (r *routed) core(id flowfabric.ExecutionID, field string) string {
	r.t.Helper()
	v, err := strs(r.plain(r.ctx, r.b.Hmget().Key("ff:exec:"+tagOf(id)+":"+uuidOf(id)+":core").Field(field).Build())[0])
	r.ok(err)
	return v[0]
}

func (r *routed) register(ns flowfabric.Namespace, instance string, lanes []flowfabric.LaneID, caps ...string) flowfabric.RegisterWorkerResult {
	r.t.Helper()
	got, err := r.RegisterWorker(r.ctx, flowfabric.RegisterWorkerArgs{Namespace: ns, WorkerID: "pool", WorkerInstanceID: flowfabric.WorkerInstanceID(instance),
		Lanes: lanes, Capabilities: caps, InstanceNonce: uuid.NewSHA1(uuid.Nil, []byte(instance)).String()})
	r.ok(err)
	return got
}

func (r *routed) setLane(lane flowfabric.LaneID, state flowfabric.LaneState) flowfabric.SetLaneStateResult {
	r.t.Helper()
	got, err := r.SetLaneState(r.ctx, flowfabric.SetLaneStateArgs{LaneID: lane, State: state})
	r.ok(err)
	return got
}

func (r *routed) bound(lane flowfabric.LaneID, n int) {
	r.t.Helper()
	_, err := r.UpdateLane(r.ctx, flowfabric.UpdateLaneArgs{LaneID: lane, MaxConcurrency: &n})
	r.ok(err)
}

// events lists what the store told of lanes and of eligible work since the last
// time.
func (r *routed) events() []string {
	r.mu.Lock()
	list := r.told
	r.told = nil
	r.mu.Unlock()
	var out []string
	for _, e := range list {
		if e.Kind != flowfabric.WakeLane && e.Kind != flowfabric.WakeEligible {
			continue
		}
		out = append(out, fmt.Sprintf("%d %s %s %s %d", e.Kind, e.LaneID, e.Namespace, strings.Join(e.Required, ","), e.Count))
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func TestRoutingOnACluster(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a cluster")
	}
	cluster := valkeytest.TakeCluster(t)
	cfg := Config{Addrs: cluster.Addrs(), Cluster: true, NoEngine: true, Testing: Testing{Clock: true},
		PartitionConfig: flowfabric.PartitionConfig{NumFlowPartitions: testPartitions}}
	r := openWith(t, cfg)
	for p := range uint16(testPartitions) {
		r.create(p, "a", "ns", "gpu", 0)
	}
	r.bound("a", 2)
	r.register("ns", "cpu", []flowfabric.LaneID{"a", "b"}, "cpu")
	res, err := r.SweepRouteLabels(r.ctx)
	r.ok(err)
	equal(t, "labelled", res.Rows, testPartitions)
	r.register("ns", "gpu", []flowfabric.LaneID{"a"}, "gpu")
	equal(t, "events", r.events(), []string{"1 a ns gpu 1", "4 a   1"})
	r.setLane("a", flowfabric.LaneDisabled)
	l, err := r.GetLane(r.ctx, "a")
	r.ok(err)
	equal(t, "counts", fmt.Sprint(l.Counts[flowfabric.PublicWaiting], l.OldestEligibleAt), "8 0")
	page, err := r.ListWorkers(r.ctx, flowfabric.ListWorkersArgs{})
	r.ok(err)
	equal(t, "workers", len(page.Workers), 2)
	held, err := r.takeSlots(r.ctx, "a", 2, 3)
	r.ok(err)
	equal(t, "slots", len(held.tokens), 2)
	_, err = r.sweepOutbox(r.ctx)
	r.ok(err)
}

func BenchmarkSweeps(b *testing.B) {
	server := valkeytest.Take(b)
	s, err := open(b.Context(), Config{Addrs: []string{server.Addr()}, NoEngine: true})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = s.Close() })
	for name, f := range map[string]func(context.Context) (flowfabric.SweepResult, error){
		"labels": s.SweepRouteLabels, "lanes": s.SweepLanes, "outbox": s.sweepOutbox,
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if _, err := f(b.Context()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	b.Run("count", func(b *testing.B) {
		for b.Loop() {
			if _, err := s.countLanes(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
	})
}
