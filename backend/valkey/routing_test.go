package valkey

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"
	vk "github.com/valkey-io/valkey-go"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/rules"
	"github.com/flowfabric/flowfabric/internal/valkeytest"
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
		strconv.Itoa(priority), "", "", "", "", "", "", "", "")
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
	if len(tokens) == 0 {
		args = append(args, uuid.NewString(), uuid.NewString())
	}
	for _, token := range tokens {
		args = append(args, uuid.NewString(), uuid.NewString(), token)
	}
	msg, err := r.call(r.ctx, "ff_claim_next", r.tag(part), args...)
	r.ok(err)
	list, err := msg.ToArray()
	r.ok(err)
	var out []flowfabric.ExecutionID
	for _, m := range list[3:] {
		task, err := decodeTask("claim_tasks", part, lane, &m)
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

func TestLaneComesIntoBeingOnce(t *testing.T) {
	r := openRouted(t)
	_, err := r.GetLane(r.ctx, "a b:c")
	r.code(err, flowfabric.CodeLaneNotFound)
	lanes := make(chan flowfabric.Lane, 20)
	for range cap(lanes) {
		go func() {
			l, _, err := r.lane(r.ctx, "a b:c")
			if err != nil {
				t.Error(err)
			}
			lanes <- l
		}()
	}
	for range cap(lanes) {
		equal(t, "lane", <-lanes, flowfabric.Lane{LaneID: "a b:c", State: flowfabric.LaneActive, SchedulingWeight: 1, Revision: 1, CreatedAt: testEpoch, UpdatedAt: testEpoch})
	}
	page, err := r.ListLanes(r.ctx, flowfabric.ListLanesArgs{})
	r.ok(err)
	equal(t, "lanes", len(page.Lanes), 1)
}

func TestStrictLanes(t *testing.T) {
	r := openRouted(t, func(c *Config) { c.StrictLanes, c.Lanes = true, []flowfabric.LaneID{"configured"} })
	_, _, err := r.lane(r.ctx, "configured")
	r.ok(err)
	_, _, err = r.lane(r.ctx, "a")
	r.code(err, flowfabric.CodeLaneNotFound)
	_, err = r.SetLaneState(r.ctx, flowfabric.SetLaneStateArgs{LaneID: "a", State: flowfabric.LanePaused})
	r.code(err, flowfabric.CodeLaneNotFound)
	_, err = r.UpdateLane(r.ctx, flowfabric.UpdateLaneArgs{LaneID: "a"})
	r.code(err, flowfabric.CodeLaneNotFound)
	r.ok(r.DeclareLanes(r.ctx, []flowfabric.LaneID{"b", "a"}))
	r.ok(r.DeclareLanes(r.ctx, []flowfabric.LaneID{"a", "b"}))
	l, named, err := r.lane(r.ctx, "a")
	r.ok(err)
	equal(t, "lane", fmt.Sprintf("%v %v %v", l.State, l.Revision, named), "active 1 false")
}

func TestConcurrentUpdatesOfALaneAreAllKept(t *testing.T) {
	r := openRouted(t)
	const n = 16
	errs := make(chan error, n)
	for i := range n {
		go func() {
			_, err := r.UpdateLane(r.ctx, flowfabric.UpdateLaneArgs{LaneID: "a", TenantWeights: map[flowfabric.Namespace]int{"x": i + 1}})
			errs <- err
		}()
	}
	for range n {
		r.ok(<-errs)
	}
	l, err := r.GetLane(r.ctx, "a")
	r.ok(err)
	equal(t, "revision", l.Revision, uint64(n+1))
	old := l.Revision - 1
	_, err = r.UpdateLane(r.ctx, flowfabric.UpdateLaneArgs{LaneID: "a", ExpectedRevision: &old})
	r.code(err, flowfabric.CodeRevisionConflict)
	equal(t, "events", r.events(), []string{"4 a   1"})
}

func TestLaneIsRememberedForASecondUnlessTold(t *testing.T) {
	server := valkeytest.Take(t)
	r := joinRouted(t, server)
	other := joinRouted(t, server)
	for _, s := range []*routed{r, other} {
		_, _, err := s.lane(s.ctx, "a")
		s.ok(err)
	}
	was, err := r.readLane(r.ctx, "a")
	r.ok(err)
	paused, _, err := rules.SetLaneState(was.Lane, flowfabric.SetLaneStateArgs{LaneID: "a", State: flowfabric.LanePaused}, r.now)
	r.ok(err)
	_, ok, err := r.putLane(r.ctx, was, paused) // nobody is told
	r.ok(err)
	equal(t, "written", ok, true)
	state := func() flowfabric.LaneState {
		l, _, err := other.lane(other.ctx, "a")
		other.ok(err)
		return l.State
	}
	mine, _, err := r.lane(r.ctx, "a")
	r.ok(err)
	equal(t, "one's own change", mine.State, flowfabric.LanePaused)
	equal(t, "another's before a second has passed", state(), flowfabric.LaneActive)
	other.advance(1000)
	equal(t, "after a second", state(), flowfabric.LanePaused)
	r.setLane("a", flowfabric.LaneActive)
	other.hears(flowfabric.WakeLane, "a")
	equal(t, "after the notice", state(), flowfabric.LaneActive)
	if !other.adminNotice("lane a") || !other.adminNotice("worker ns") || other.adminNotice("library") {
		t.Error("a notice is not told from others")
	}
}

func TestChangesOfLanesArePublished(t *testing.T) {
	server := valkeytest.Take(t)
	r := joinRouted(t, server)
	got := make(chan string, 10)
	ctx, cancel := context.WithCancel(r.ctx)
	defer cancel()
	ready := make(chan struct{})
	client := server.Client()
	dedicated, release := client.Dedicate()
	defer release()
	_ = dedicated.SetPubSubHooks(vk.PubSubHooks{
		OnSubscription: func(vk.PubSubSubscription) { close(ready) },
		OnMessage:      func(m vk.PubSubMessage) { got <- m.Message },
	})
	r.ok(dedicated.Do(ctx, dedicated.B().Ssubscribe().Channel(channelAdmin).Build()).Error())
	<-ready
	r.setLane("a b", flowfabric.LanePaused)
	equal(t, "notice", <-got, "lane a b")
	r.register("ns", "i", []flowfabric.LaneID{"a b"})
	_, err := r.DeregisterWorker(r.ctx, flowfabric.MarkWorkerDeadArgs{Namespace: "ns", WorkerInstanceID: "i", Reason: "bye"})
	r.ok(err)
	equal(t, "notice", <-got, "worker ns")
}

func TestLaneCountsAndDeletion(t *testing.T) {
	r := openRouted(t)
	for p := range uint16(testPartitions) {
		r.create(p, "a", "ns", "", 0)
		r.create(p, "a", "ns", "gpu", 3)
		r.advance(1)
		r.create(p, "b", "ns", "", 0)
	}
	for _, lane := range []flowfabric.LaneID{"a", "b"} {
		_, _, err := r.lane(r.ctx, lane)
		r.ok(err)
	}
	taken := r.claim(0, "a", "ns", "", "i")
	equal(t, "claimed", len(taken), 1)
	l, err := r.GetLane(r.ctx, "a")
	r.ok(err)
	equal(t, "states", len(l.Counts), len(flowfabric.PublicStates()))
	equal(t, "counts", fmt.Sprint(l.Counts[flowfabric.PublicWaiting], l.Counts[flowfabric.PublicActive]), "15 1")
	equal(t, "oldest", l.OldestEligibleAt, testEpoch) // by priority 3, whose members come first
	page, err := r.ListLanes(r.ctx, flowfabric.ListLanesArgs{After: "a"})
	r.ok(err)
	equal(t, "page", fmt.Sprintf("%v %v %v %v", page.Lanes[0].LaneID, page.Lanes[0].OldestEligibleAt-testEpoch, page.Lanes[0].Counts[flowfabric.PublicWaiting], page.More), "b 1 8 false")
	page, err = r.ListLanes(r.ctx, flowfabric.ListLanesArgs{Limit: 1})
	r.ok(err)
	equal(t, "page", fmt.Sprintf("%v %v", page.Lanes[0].LaneID, page.More), "a true")
	_, err = r.ListLanes(r.ctx, flowfabric.ListLanesArgs{Limit: -1})
	r.code(err, flowfabric.CodeInvalidInput)

	_, err = r.DeleteLane(r.ctx, "a")
	r.code(err, flowfabric.CodeLaneNotEmpty)
	r.setLane("a", flowfabric.LaneDisabled)
	_, err = r.DeleteLane(r.ctx, "a")
	equal(t, "live", r.code(err, flowfabric.CodeLaneNotEmpty).Details["live"], any(int64(16)))
	r.ok(r.DeclareLanes(r.ctx, []flowfabric.LaneID{"empty"}))
	r.setLane("empty", flowfabric.LaneDisabled)
	gone, err := r.DeleteLane(r.ctx, "empty")
	r.ok(err)
	equal(t, "gone", gone, true)
	gone, err = r.DeleteLane(r.ctx, "empty")
	r.ok(err)
	equal(t, "gone twice", gone, false)
	weights, err := r.LaneWeights(r.ctx)
	r.ok(err)
	equal(t, "lanes", len(weights), 2)
	_, _, err = r.lane(r.ctx, "empty")
	r.ok(err)
	weights, err = r.LaneWeights(r.ctx)
	r.ok(err)
	equal(t, "state of the lane made anew", weights["empty"].State, flowfabric.LaneActive)
}

func TestCountsOfALargePartition(t *testing.T) {
	r := openRouted(t)
	for range 40 {
		for range 64 {
			r.create(3, "a", "ns", "", 0)
		}
	}
	c, err := r.countLanes(r.ctx)
	r.ok(err)
	equal(t, "counted", fmt.Sprint(c.live("a"), c.examined), "2560 2560")
}

func TestDisabledLaneIsSweptBothWays(t *testing.T) {
	r := openRouted(t)
	var ids []flowfabric.ExecutionID
	for i := range 450 {
		ids = append(ids, r.create(1, "a", "ns", []string{"", "gpu"}[i%2], 0))
	}
	lapsed := r.claim(1, "a", "ns", "", "i")[0]
	_, err := r.RevokeLease(r.ctx, flowfabric.RevokeLeaseArgs{ExecutionID: lapsed, Reason: "r", RevokedBy: "operator"})
	r.ok(err)
	other := r.create(1, "b", "ns", "", 0)
	first := r.setLane("a", flowfabric.LaneDisabled)
	equal(t, "unchanged", first.Unchanged, false)
	count := func(letter string) (n int) {
		for _, id := range ids {
			if strings.HasPrefix(r.core(id, "st"), letter) {
				n++
			}
		}
		return n
	}
	equal(t, "blocked by the change itself", count("L"), sweepBatch)
	sweep := func() {
		for range 10 {
			res, err := r.SweepLanes(r.ctx)
			r.ok(err)
			if !res.More {
				return
			}
		}
		t.Error("the sweep never ends")
	}
	sweep()
	equal(t, "blocked", count("L"), 449)
	equal(t, "the revoked lease", r.core(lapsed, "st"), "Vi")
	equal(t, "another lane", r.core(other, "st"), "Wf")
	equal(t, "claimed", len(r.claim(1, "a", "ns", "gpu", "i")), 0)
	late := r.create(1, "a", "ns", "", 0)
	sweep()
	equal(t, "a later arrival", r.core(late, "st"), "Lf")
	r.events()
	r.setLane("a", flowfabric.LaneActive)
	sweep()
	equal(t, "blocked after enabling", count("L")+count("W"), 449)
	equal(t, "waiting after enabling", count("W"), 449)
	equal(t, "claimed", len(r.claim(1, "a", "ns", "gpu", "i")), 1)
	res, err := r.SweepLanes(r.ctx)
	r.ok(err)
	equal(t, "a second sweep", res, flowfabric.SweepResult{})
}

func TestBucketRegistryIsRememberedByVersion(t *testing.T) {
	r := openRouted(t)
	at := laneAt{2, "a"}
	list := func(sets []*laneBuckets, err error) string {
		r.ok(err)
		var names []string
		for _, b := range sets[0].list {
			names = append(names, fmt.Sprint(b.namespace, b.required))
		}
		slices.Sort(names)
		return sets[0].version + " " + strings.Join(names, " ")
	}
	equal(t, "empty", list(r.bucketsOf(r.ctx, at)), " ")
	r.create(2, "a", "ns", "", 0)
	r.create(2, "a", "ns", "cuda,gpu", 0)
	equal(t, "remembered", list(r.bucketsOf(r.ctx, at)), " ")
	equal(t, "read anew", list(r.refreshBuckets(r.ctx, at)), "2 ns[] ns[cuda gpu]")
	equal(t, "remembered", list(r.bucketsOf(r.ctx, at)), "2 ns[] ns[cuda gpu]")
	if got := bucketName("ns", "cuda,gpu"); len(got) != 16 || got == bucketName("ns", "") {
		t.Errorf("name is %q", got)
	}
}

func TestLabels(t *testing.T) {
	r := openRouted(t)
	gpu := bucketAt{laneAt{1, "a"}, bucket{bucketName("ns", "gpu"), "ns", []string{"gpu"}}}
	again := bucketAt{laneAt{2, "a"}, gpu.bucket}
	empty := bucketAt{laneAt{3, "a"}, gpu.bucket}
	r.create(1, "a", "ns", "gpu", 0)
	r.create(1, "a", "ns", "gpu", 0)
	r.create(2, "a", "ns", "gpu", 0)
	mark := func() int {
		n, err := r.uncovered(r.ctx, []bucketAt{gpu, again, empty})
		r.ok(err)
		return n
	}
	labelled := func() string {
		l, err := r.label(r.ctx, gpu.laneAt, gpu.name)
		r.ok(err)
		since, last := "-", "-"
		if l.UncoveredSince > 0 {
			since = strconv.Itoa(int(l.UncoveredSince - testEpoch))
		}
		if l.LastMismatchAt > 0 {
			last = strconv.Itoa(int(l.LastMismatchAt - testEpoch))
		}
		return since + " " + last
	}
	sweep := func() int {
		res, err := r.SweepRouteLabels(r.ctx)
		r.ok(err)
		return res.Rows
	}
	equal(t, "before anybody named the lane", mark()+sweep(), 0)
	r.register("ns", "cpu", []flowfabric.LaneID{"a"}, "cpu")
	equal(t, "labelled", mark(), 1)
	equal(t, "label", labelled(), "0 0")
	r.advance(999)
	equal(t, "labelled again", mark(), 0)
	equal(t, "label within a second", labelled(), "0 0")
	r.advance(1)
	mark()
	equal(t, "label after a second", labelled(), "0 1000")
	l, err := r.label(r.ctx, empty.laneAt, empty.name)
	r.ok(err)
	equal(t, "an empty bucket", l.UncoveredSince, 0)

	r.events()
	r.register("other", "gpu", []flowfabric.LaneID{"a"}, "gpu")
	r.register("ns", "gpu", []flowfabric.LaneID{"b"}, "gpu")
	equal(t, "label after workers that do not cover it", labelled(), "0 1000")
	r.register("ns", "gpu", []flowfabric.LaneID{"b", "a"}, "cuda", "gpu")
	equal(t, "label after one that does", labelled(), "- 1000")
	equal(t, "events", r.events(), []string{"1 a ns gpu 1", "1 a ns gpu 2"})
	equal(t, "with a worker that covers it", mark()+sweep(), 0)

	_, err = r.MarkWorkerDead(r.ctx, flowfabric.MarkWorkerDeadArgs{Namespace: "ns", WorkerInstanceID: "gpu", Reason: "gone"})
	r.ok(err)
	equal(t, "labelled by the sweep", sweep(), 2)
	equal(t, "label", labelled(), "1000 1000")
	r.register(flowfabric.AnyNamespace, "any", []flowfabric.LaneID{"a"}, "gpu")
	equal(t, "label after one that serves all", labelled(), "- 1000")

	// A registration runs out; that it covered is not remembered for longer.
	equal(t, "covered", mark(), 0)
	r.advance(60_000)
	equal(t, "labelled when it has run out", mark(), 1)
	r.ok(r.call1("ff_register_worker", registryTag("ns"), "x", "pool", uuid.NewString(), "60000",
		`{"namespace":"ns","worker_id":"pool","worker_instance_id":"x","lanes":["a"],"capabilities":["gpu"]}`))
	equal(t, "lifted by the sweep", sweep(), 2)
}

func (r *routed) call1(fn, tag string, args ...string) error {
	_, err := r.call(r.ctx, fn, tag, args...)
	return err
}

func TestEmptyBucketsLeaveAfterADay(t *testing.T) {
	r := openRouted(t)
	id := r.create(1, "a", "ns", "gpu", 0)
	kept := r.create(1, "a", "ns", "", 0)
	taken := r.claim(1, "a", "ns", "gpu", "i")
	equal(t, "claimed", taken, []flowfabric.ExecutionID{id})
	sweep := func() {
		_, err := r.SweepRouteLabels(r.ctx)
		r.ok(err)
	}
	names := func() []string {
		sets, err := r.refreshBuckets(r.ctx, laneAt{1, "a"})
		r.ok(err)
		out := []string{sets[0].version}
		for _, b := range sets[0].list {
			out = append(out, strings.Join(b.required, ","))
		}
		return out
	}
	sweep()
	r.advance(24 * 3_600_000)
	sweep()
	equal(t, "buckets", names(), []string{"3", ""})
	_, err := r.RevokeLease(r.ctx, flowfabric.RevokeLeaseArgs{ExecutionID: id, Reason: "r", RevokedBy: "operator"})
	r.ok(err)
	equal(t, "buckets", len(names()), 3)
	equal(t, "claimed", r.claim(1, "a", "ns", "", "i"), []flowfabric.ExecutionID{kept})
}

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
	n, err := r.uncovered(r.ctx, []bucketAt{gpu})
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

func TestSlots(t *testing.T) {
	r := openRouted(t)
	take := func(n int) slots {
		t.Helper()
		got, err := r.takeSlots(r.ctx, "a b", 3, n)
		r.ok(err)
		return got
	}
	one := flowfabric.MakeExecutionID(1, uuid.New())
	first := take(2)
	equal(t, "first", len(first.tokens), 2)
	second := take(5)
	equal(t, "what is left", len(second.tokens), 1)
	equal(t, "above the bound", len(take(1).tokens), 0)
	r.events()
	r.ok(r.settleSlots(r.ctx, first, slotUse{id: one, holder: first.tokens[0]}, slotUse{id: one, holder: first.tokens[1], lapsesAt: r.now + 5000}))
	equal(t, "events where all are used", r.events(), nil)
	r.ok(r.settleSlots(r.ctx, second))
	equal(t, "events of a slot that somebody wanted", r.events(), []string{"4 a b   1"})
	equal(t, "freed", len(take(2).tokens), 1)
	r.advance(4999)
	equal(t, "before the grant lapses", len(take(1).tokens), 0)
	r.advance(1)
	equal(t, "when it has", len(take(1).tokens), 1)
	r.advance(slotLapseMs)
	equal(t, "slots of a claim that never told", len(take(5).tokens), 2)
	// Beside the bound: a grant aimed at one execution.
	r.ok(r.settleSlots(r.ctx, slots{lane: "a b"}, slotUse{id: one, holder: "aimed", lapsesAt: r.now + 5000}))
	r.advance(slotLapseMs)
	equal(t, "without a bound", len(must(r.takeSlots(r.ctx, "free", 0, 7))(r).tokens), 7)
	_, err := r.freeSlots(r.ctx, map[flowfabric.LaneID][]string{"a b": {slotMember(one, first.tokens[0])}})
	r.ok(err)
	equal(t, "all free", len(take(5).tokens), 3)
}

func must[T any](v T, err error) func(*routed) T {
	return func(r *routed) T {
		r.t.Helper()
		r.ok(err)
		return v
	}
}

func TestNeverMoreSlotsThanTheBound(t *testing.T) {
	r := openRouted(t)
	const claimers, bound = 20, 7
	counts := make(chan int, claimers)
	for range claimers {
		go func() {
			got, err := r.takeSlots(r.ctx, "a", bound, 2)
			if err != nil {
				t.Error(err)
			}
			counts <- len(got.tokens)
		}()
	}
	sum := 0
	for range claimers {
		sum += <-counts
	}
	equal(t, "taken", sum, bound)
}

func TestSlotsOfLeasesAreFreedByTheOutbox(t *testing.T) {
	r := openRouted(t)
	const lane = flowfabric.LaneID("a:b c")
	r.bound(lane, 2)
	for range 3 {
		r.create(4, lane, "ns", "", 0)
	}
	held, err := r.takeSlots(r.ctx, lane, 2, 5)
	r.ok(err)
	ids := r.claim(4, lane, "ns", "", "i", held.tokens...)
	equal(t, "claimed", len(ids), 2)
	var used []slotUse
	for _, id := range ids {
		used = append(used, slotUse{id: id, holder: r.core(id, "slot")})
	}
	r.ok(r.settleSlots(r.ctx, held, used...))
	r.events()
	_, err = r.RevokeLease(r.ctx, flowfabric.RevokeLeaseArgs{ExecutionID: ids[0], Reason: "r", RevokedBy: "operator"})
	r.ok(err)
	n, err := r.drainOutbox(r.ctx, 4)
	r.ok(err)
	equal(t, "drained", n, 1)
	equal(t, "one is free", len(must(r.takeSlots(r.ctx, lane, 2, 2))(r).tokens), 1)
	r.events()
	_, err = r.RevokeLease(r.ctx, flowfabric.RevokeLeaseArgs{ExecutionID: ids[1], Reason: "r", RevokedBy: "operator"})
	r.ok(err)
	res, err := r.sweepOutbox(r.ctx)
	r.ok(err)
	equal(t, "swept", res, flowfabric.SweepResult{Rows: 1})
	r.hears(flowfabric.WakeLane, lane)
	res, err = r.sweepOutbox(r.ctx)
	r.ok(err)
	equal(t, "swept again", res, flowfabric.SweepResult{})
	last, err := r.takeSlots(r.ctx, lane, 2, 1)
	r.ok(err)
	id := r.claim(4, lane, "ns", "", "i", last.tokens...)[0]
	r.ok(r.settleSlots(r.ctx, last, slotUse{id: id, holder: r.core(id, "slot")}))
	_, err = r.RevokeLease(r.ctx, flowfabric.RevokeLeaseArgs{ExecutionID: id, Reason: "r", RevokedBy: "operator"})
	r.ok(err)
	equal(t, "taken at once, whoever drains", len(must(r.takeSlots(r.ctx, lane, 2, 5))(r).tokens), 1)
}

func TestSlotsHealThemselves(t *testing.T) {
	r := openRouted(t)
	r.bound("a", 2)
	r.create(4, "a", "ns", "", 0)
	// A claim whose process died before it told.
	held, err := r.takeSlots(r.ctx, "a", 2, 1)
	r.ok(err)
	ids := r.claim(4, "a", "ns", "", "i", held.tokens...)
	r.advance(slotLapseMs)
	// A holder whose lease has never been, and one that is a grant.
	ghost := flowfabric.MakeExecutionID(5, uuid.New())
	r.ok(r.settleSlots(r.ctx, slots{lane: "a"}, slotUse{id: ghost, holder: "x"}, slotUse{id: ghost, holder: "g", lapsesAt: r.now + 5000}))
	res, err := r.SweepLanes(r.ctx)
	r.ok(err)
	equal(t, "corrected", res, flowfabric.SweepResult{Rows: 2})
	holders, err := r.slotHolders(r.ctx, "a")
	r.ok(err)
	equal(t, "holders", holders, []string{slotMember(ids[0], held.tokens[0])})
	equal(t, "beside the lease and the grant", len(must(r.takeSlots(r.ctx, "a", 2, 1))(r).tokens), 0)
	res, err = r.SweepLanes(r.ctx)
	r.ok(err)
	equal(t, "corrected by a second sweep", res, flowfabric.SweepResult{})
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
