package valkey

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/backend/backendtest"
)

// stage is a party on a clock that stands still.
type stage struct {
	*party
	at    place
	clock *backendtest.Clock
}

func openStage(t *testing.T, at place, o backendtest.Options) *stage {
	t.Helper()
	h := openOn(t, at, o)
	return &stage{party: &party{Backend: h.Backend.(*Backend), t: t, ctx: t.Context()}, at: at, clock: h.Clock}
}

func (s *stage) advance(ms int64) { s.clock.Advance(time.Duration(ms) * time.Millisecond) }

func (s *stage) tick() flowfabric.TickResult {
	s.t.Helper()
	r, err := s.Tick(s.ctx, flowfabric.TickArgs{})
	s.ok(err)
	if r.Errors > 0 || r.More {
		s.t.Fatalf("tick: %+v", r)
	}
	return r
}

// core is a field of core, "" for none.
func (s *stage) core(id flowfabric.ExecutionID, field string) string {
	v, _ := s.at.must("HGET", execKey(id, "core"), field).(string)
	return v
}

func (s *stage) wantListpack(id flowfabric.ExecutionID) {
	s.t.Helper()
	if e := s.at.of(execKey(id, "core")).Must("OBJECT", "ENCODING", execKey(id, "core")); e != "listpack" {
		s.t.Errorf("core is a %v", e)
	}
}

// due is the score of an execution in the index, "" without an entry.
func (s *stage) due(id flowfabric.ExecutionID) string {
	v, _ := s.at.must("ZSCORE", "ff:idx:"+tagOf(id)+":due", uuidOf(id)).(string)
	return v
}

// keys lists the keys of the place by a pattern.
func (p place) keys(pattern string) (all []string) {
	for _, s := range p.primaries() {
		list, _ := s.Must("KEYS", pattern).([]any)
		for _, k := range list {
			all = append(all, k.(string))
		}
	}
	slices.Sort(all)
	return all
}

// Chapter 07, scenarios 3 and 5: every key of a partition has one hash tag and lies
// in one slot, whatever the deployment an identifier was minted for.
func TestScenario3And5KeysOfAPartition(t *testing.T) {
	at := onCluster(t)
	s := openStage(t, at, backendtest.Options{FlowPartitions: 1024, Feeds: []flowfabric.Feed{flowfabric.FeedLeases}})
	id := flowfabric.PartitionConfig{NumFlowPartitions: 4}.NewExecutionIDOn("", 3)
	s.createAll(job{payload: 100, change: func(a *flowfabric.CreateExecutionArgs) {
		a.ExecutionID, a.Tags, a.Policy = id, map[string]string{"app.k": "v"}, []byte(`{"retry_policy":{"max_retries":1,"backoff":{"type":"fixed","delay_ms":0}}}`)
	}}.args())
	_, err := s.PauseExecution(s.ctx, flowfabric.BlockExecutionArgs{ExecutionID: id, Detail: strings.Repeat("x", 100)})
	s.ok(err)
	_, err = s.UnpauseExecution(s.ctx, flowfabric.BlockExecutionArgs{ExecutionID: id})
	s.ok(err)
	task := s.claim(1, 0, "")[0]
	_, err = s.FailExecution(s.ctx, flowfabric.FailExecutionArgs{ExecutionID: id, Fence: task.Fence, Reason: strings.Repeat("y", 200)})
	s.ok(err)
	s.complete(s.claim(1, 0, "")[0], []byte("result"))
	prefix := "ff:exec:{fp:3}:" + uuidOf(id) + ":"
	var want []string
	for _, what := range []string{"attempts", "core", "def", "result", "tags", "text"} {
		want = append(want, prefix+what)
	}
	if diff := cmp.Diff(want, at.keys("ff:exec:*")); diff != "" {
		t.Errorf("keys of the execution (-want +got):\n%s", diff)
	}
	slot := at.cluster.Slot("ff:{fp:3}")
	n := 0
	for _, key := range at.keys("*{fp:3}*") {
		n++
		if strings.Count(key, "{") != 1 || strings.Count(key, "}") != 1 {
			t.Errorf("the tag of %q", key)
		}
		if at.cluster.Slot(key) != slot || int(slotOf(key)) != slot {
			t.Errorf("%q is in slot %d, not %d", key, at.cluster.Slot(key), slot)
		}
	}
	if n < 12 { // core, def, ..., due, lanes, buckets, armed, two feeds
		t.Errorf("only %d keys of the partition", n)
	}
}

// Chapter 07, scenario 6: an identifier of a partition that the deployment does not
// have is refused before the store is asked.
func TestScenario6PartitionOutOfRange(t *testing.T) {
	at := onServer(t)
	s := openStage(t, at, backendtest.Options{})
	id := flowfabric.MakeExecutionID(300, uuid.New())
	fence := flowfabric.Fence{LeaseID: flowfabric.NewLeaseID(), LeaseEpoch: 1, AttemptID: flowfabric.NewAttemptID()}
	item := func(list any, err error) error {
		if err != nil {
			return err
		}
		switch l := list.(type) {
		case []flowfabric.Item[flowfabric.CreateExecutionResult]:
			return l[0].Err
		case []flowfabric.Item[flowfabric.CompleteExecutionResult]:
			return l[0].Err
		case []flowfabric.Item[flowfabric.RenewLeaseResult]:
			return l[0].Err
		}
		return nil
	}
	s.create(job{}) // lanes and the like are known then
	before := at.server.Info("stats")["total_commands_processed"]
	for name, op := range map[string]func() error{
		"create": func() error {
			a := job{}.args()
			a.ExecutionID = id
			l, err := s.CreateExecutions(s.ctx, []flowfabric.CreateExecutionArgs{a})
			return item(l, err)
		},
		"complete": func() error {
			l, err := s.CompleteExecutions(s.ctx, []flowfabric.CompleteExecutionArgs{{ExecutionID: id, Fence: fence}})
			return item(l, err)
		},
		"renew": func() error {
			l, err := s.RenewLeases(s.ctx, []flowfabric.RenewLeaseArgs{{ExecutionID: id, Fence: fence, LeaseTTLMs: 30_000}})
			return item(l, err)
		},
		"fail": func() error {
			_, err := s.FailExecution(s.ctx, flowfabric.FailExecutionArgs{ExecutionID: id, Fence: fence, Reason: "r"})
			return err
		},
		"cancel": func() error {
			_, err := s.CancelExecution(s.ctx, flowfabric.CancelExecutionArgs{ExecutionID: id, Source: flowfabric.SourceOperatorOverride})
			return err
		},
		"replay": func() error {
			_, err := s.ReplayExecution(s.ctx, flowfabric.ReplayExecutionArgs{ExecutionID: id})
			return err
		},
		"revoke": func() error {
			_, err := s.RevokeLease(s.ctx, flowfabric.RevokeLeaseArgs{ExecutionID: id})
			return err
		},
		"pause": func() error {
			_, err := s.PauseExecution(s.ctx, flowfabric.BlockExecutionArgs{ExecutionID: id})
			return err
		},
		"tags":     func() error { _, err := s.SetExecutionTags(s.ctx, id, map[string]string{"app.k": "v"}); return err },
		"describe": func() error { _, err := s.DescribeExecution(s.ctx, id); return err },
		"get":      func() error { _, err := s.GetExecution(s.ctx, id); return err },
		"state":    func() error { _, err := s.GetExecutionState(s.ctx, id); return err },
		"input":    func() error { _, err := s.GetExecutionInput(s.ctx, id); return err },
		"result":   func() error { _, err := s.GetExecutionResult(s.ctx, id); return err },
		"attempts": func() error {
			_, err := s.ListAttempts(s.ctx, flowfabric.ListAttemptsArgs{ExecutionID: id})
			return err
		},
	} {
		e := flowfabric.AsError(op())
		if e == nil || e.Code != flowfabric.CodeInvalidInput || e.Details["reason"] != "partition_out_of_range" {
			t.Errorf("%s: %v", name, e)
		}
	}
	b, _ := strconv.Atoi(before)
	after, _ := strconv.Atoi(at.server.Info("stats")["total_commands_processed"])
	if after > b+4 { // reading the number takes some: connecting, INFO
		t.Errorf("%d commands reached the store", after-b)
	}
}

// Chapter 07, scenarios 26 and 27.
func TestScenario26And27LayoutOfACycle(t *testing.T) {
	for _, f := range forms {
		t.Run(f.name, func(t *testing.T) {
			at := f.take(t)
			s := openStage(t, at, backendtest.Options{})
			id := s.create(job{part: 9, payload: 200})
			s.wantListpack(id)
			if n, _ := at.must("HLEN", execKey(id, "core")).(int64); n > 9 {
				t.Errorf("core has %d fields after create", n)
			}
			if n := at.must("ZCARD", "ff:idx:{fp:9}:due"); n != int64(1) || s.due(id) != "inf" {
				t.Errorf("due has %v entries, the execution's is %q", n, s.due(id))
			}
			s.advance(1)
			late := s.create(job{part: 10, change: func(a *flowfabric.CreateExecutionArgs) { a.ExecutionDeadlineAt = s.clock.NowMillis() + 5_000 }})
			if at := s.due(late); at != strconv.FormatInt(int64(s.clock.NowMillis())+5_000, 10) {
				t.Errorf("with a deadline due is %q", at)
			}
			task := s.claim(1, 0, "")[0]
			if task.ExecutionID != id {
				t.Fatalf("claimed %s", task.ExecutionID)
			}
			s.wantListpack(id)
			s.complete(task, []byte("result"))
			s.wantListpack(id)
			keys := execKey(id, "")
			if got := at.keys(strings.ReplaceAll(keys, "{", "\\{") + "*"); !slices.Equal(got, []string{keys + "core", keys + "def", keys + "result"}) {
				t.Errorf("keys left: %v", got)
			}
		})
	}
}

// Chapter 07, scenario 28.
func TestScenario28LongText(t *testing.T) {
	s := openStage(t, onServer(t), backendtest.Options{})
	id := s.create(job{})
	detail := strings.Repeat("d", 500)
	_, err := s.PauseExecution(s.ctx, flowfabric.BlockExecutionArgs{ExecutionID: id, Detail: detail})
	s.ok(err)
	s.wantListpack(id)
	d, err := s.DescribeExecution(s.ctx, id)
	s.ok(err)
	if d.BlockingDetail != detail {
		t.Errorf("described as %q", d.BlockingDetail)
	}
}

// Chapter 07, scenario 29: whatever happens, every execution has one entry in due,
// and every index says what the records say.
func TestScenario29IndexesAfterARandomMix(t *testing.T) {
	operations := 10_000
	if testing.Short() {
		operations = 1_000
	}
	at := onServer(t)
	s := openStage(t, at, backendtest.Options{FlowPartitions: 8})
	rnd := rand.New(rand.NewPCG(29, 7))
	var ids []flowfabric.ExecutionID
	var held []flowfabric.ClaimedExecution
	any := func() flowfabric.ExecutionID { return ids[rnd.IntN(len(ids))] }
	take := func() (task flowfabric.ClaimedExecution, ok bool) {
		if len(held) == 0 {
			return task, false
		}
		i := rnd.IntN(len(held))
		task = held[i]
		held = slices.Delete(held, i, i+1)
		return task, true
	}
	tolerate := func(err error) {
		if e := flowfabric.AsError(err); err != nil && (e == nil || e.Class == flowfabric.ClassBug || e.Class == flowfabric.ClassCorruption) {
			t.Fatal(err)
		}
	}
	caps := []string{"", "cpu", "gpu"}
	done := 0
	for i := range operations {
		switch n := rnd.IntN(20); {
		case n < 6 || len(ids) == 0:
			ids = append(ids, s.create(job{part: uint16(rnd.IntN(8)), caps: caps[rnd.IntN(3)], priority: int32(rnd.IntN(3)), change: func(a *flowfabric.CreateExecutionArgs) {
				switch rnd.IntN(4) {
				case 0:
					a.DelayUntil = s.clock.NowMillis() + flowfabric.Millis(rnd.IntN(10_000))
				case 1:
					a.ExecutionDeadlineAt = s.clock.NowMillis() + flowfabric.Millis(1+rnd.IntN(100_000))
				}
				if a.Policy == nil {
					a.Policy = []byte(`{"retry_policy":{"max_retries":2,"backoff":{"type":"fixed","delay_ms":500}}}`)
				}
			}}))
		case n < 11:
			held = append(held, s.claim(1+rnd.IntN(3), 0, "", caps[1:1+rnd.IntN(3)]...)...)
		case n < 14:
			if task, ok := take(); ok {
				for _, r := range s.completeAll(completion(task, nil)) {
					tolerate(r.Err)
				}
				done++
			}
		case n == 14:
			if task, ok := take(); ok {
				_, err := s.FailExecution(s.ctx, flowfabric.FailExecutionArgs{ExecutionID: task.ExecutionID, Fence: task.Fence, Reason: "r"})
				tolerate(err)
			}
		case n == 15:
			_, err := s.CancelExecution(s.ctx, flowfabric.CancelExecutionArgs{ExecutionID: any(), Source: flowfabric.SourceOperatorOverride})
			tolerate(err)
		case n == 16:
			_, err := s.ReplayExecution(s.ctx, flowfabric.ReplayExecutionArgs{ExecutionID: any()})
			tolerate(err)
		case n == 17:
			_, err := s.RevokeLease(s.ctx, flowfabric.RevokeLeaseArgs{ExecutionID: any(), Hold: rnd.IntN(4) == 0})
			tolerate(err)
		case n == 18:
			_, err := s.PauseExecution(s.ctx, flowfabric.BlockExecutionArgs{ExecutionID: any(), Detail: "d"})
			tolerate(err)
			_, err = s.UnpauseExecution(s.ctx, flowfabric.BlockExecutionArgs{ExecutionID: any()})
			tolerate(err)
		default:
			s.advance(int64(rnd.IntN(3_000)))
			if i%500 == 0 {
				s.advance(90_000_000) // retention passes
			}
			for range 50 {
				r, err := s.Tick(s.ctx, flowfabric.TickArgs{})
				s.ok(err)
				if r.Errors > 0 {
					t.Fatalf("tick: %+v", r)
				}
				if !r.More {
					break
				}
			}
		}
	}
	cores := make(map[string]int)
	for _, key := range at.keys("ff:exec:*:core") {
		cores[key[len("ff:exec:"):strings.IndexByte(key, '}')+1]]++
	}
	all := 0
	for p := range 8 {
		tag := partitionTag(uint16(p))
		if n := at.must("ZCARD", "ff:idx:"+tag+":due"); n != int64(cores[tag]) {
			t.Errorf("%s: %v entries in due, %d executions", tag, n, cores[tag])
		}
		all += cores[tag]
	}
	if all < 50 || done < operations/20 {
		t.Errorf("%d executions are left, %d were completed: the mix does too little", all, done)
	}
	t.Logf("%d of %d executions are left", all, len(ids))
	examined := 0
	for p := range uint16(8) {
		for args := (flowfabric.ReconcileArgs{Partition: p}); ; {
			res, err := s.Reconcile(s.ctx, args)
			s.ok(err)
			if res.Repaired+res.Removed+len(res.Violations) > 0 {
				t.Errorf("the audit finds faults: %+v", res)
			}
			examined += res.Examined
			if args.Cursor = res.Next; args.Cursor == "" {
				break
			}
		}
	}
	if examined != all {
		t.Errorf("the audit looked at %d", examined)
	}
}

// Chapter 07, scenario 30: renewals do not touch due, the tick that meets the old
// instant puts it right.
func TestScenario30LazyRenewal(t *testing.T) {
	s := openStage(t, onServer(t), backendtest.Options{})
	id := s.create(job{})
	task := s.claim(1, 0, "")[0]
	old := s.due(id)
	if want := strconv.FormatInt(int64(s.clock.NowMillis())+30_000, 10); old != want {
		t.Fatalf("due is %s, want %s", old, want)
	}
	for range 20 {
		s.advance(20_000)
		s.renew(task)
	}
	if due := s.due(id); due != old {
		t.Errorf("renewals moved due from %s to %s", old, due)
	}
	if r := s.tick(); r.Duties["lease_expiry"] != 0 {
		t.Errorf("the tick ended the lease: %+v", r)
	}
	if st, due, ends := s.core(id, "st"), s.due(id), s.core(id, "lx"); st != "Ar" || due != ends {
		t.Errorf("state %s, due %s, the lease ends at %s", st, due, ends)
	}
	s.advance(30_000)
	s.tick()
	if st := s.core(id, "st"); st != "Xi" {
		t.Errorf("state %s when the lease is over", st)
	}
}

// Chapter 07, scenario 31.
func TestScenario31NeverClaimed(t *testing.T) {
	s := openStage(t, onServer(t), backendtest.Options{})
	id := s.create(job{})
	d, err := s.DescribeExecution(s.ctx, id)
	s.ok(err)
	if d.CurrentAttempt != nil || d.CurrentLease != nil || d.CurrentWaitpointID != "" {
		t.Errorf("described with %+v, %+v, %q", d.CurrentAttempt, d.CurrentLease, d.CurrentWaitpointID)
	}
	for _, field := range []string{"aid", "lease_id", "epoch", "lx", "worker", "wi", "blocking_reason",
		"blocking_detail", "failure_reason", "deadline", "delay_until", "flow_id", "grant", "pz", "le", "ae", "attempts", "flags"} {
		s.at.must("HSET", execKey(id, "core"), field, "")
	}
	again, err := s.DescribeExecution(s.ctx, id)
	s.ok(err)
	if diff := cmp.Diff(d, again); diff != "" {
		t.Errorf("with empty fields (-absent +empty):\n%s", diff)
	}
}

// Chapter 07, scenarios 33 and 34.
func TestScenario33And34Batches(t *testing.T) {
	for _, f := range forms {
		t.Run(f.name, func(t *testing.T) {
			at := f.take(t)
			s := openStage(t, at, backendtest.Options{})
			for i := range 3 {
				s.create(job{part: uint16(i % 2)})
			}
			tasks := s.claim(3, 0, "")
			var items []flowfabric.CompleteExecutionArgs
			for _, task := range tasks {
				items = append(items, completion(task, nil))
			}
			items[1].Fence.LeaseEpoch++
			res := s.completeAll(items...)
			s.ok(res[0].Err)
			wantCode(t, res[1].Err, flowfabric.CodeStaleLease)
			s.ok(res[2].Err)
			for i, want := range []string{"cT", "Ar", "cT"} {
				if st := s.core(items[i].ExecutionID, "st"); st != want {
					t.Errorf("item %d is %s", i, st)
				}
			}
			before := len(at.keys("*"))
			many := make([]flowfabric.CreateExecutionArgs, flowfabric.MaxBatchItems+1)
			for i := range many {
				many[i] = job{}.args()
			}
			_, err := s.CreateExecutions(s.ctx, many)
			wantCode(t, err, flowfabric.CodeBatchTooLarge)
			if n := len(at.keys("*")); n != before {
				t.Errorf("%d keys were written", n-before)
			}
		})
	}
}

// watchCommands returns a function that returns the commands executed since then.
func (p place) watchCommands(t *testing.T) func() []string {
	t.Helper()
	conn := p.server.Dial()
	if _, err := conn.Do("MONITOR"); err != nil {
		t.Fatal(err)
	}
	return func() (lines []string) {
		t.Helper()
		const end = "the end of what is watched"
		p.server.Must("ECHO", end)
		for {
			v, err := conn.Receive()
			if err != nil {
				t.Fatal(err)
			}
			line := fmt.Sprint(v)
			if strings.Contains(line, end) {
				return lines
			}
			lines = append(lines, line)
		}
	}
}

// Chapter 07, scenario 35: work that a claimer cannot run costs its claims nothing.
func TestScenario35OtherBuckets(t *testing.T) {
	at := onServer(t)
	s := openStage(t, at, backendtest.Options{FlowPartitions: 1, Feeds: []flowfabric.Feed{}})
	for range 5 {
		s.create(job{caps: "cpu"})
	}
	if n := len(s.claim(1, 0, "", "cpu")); n != 1 { // the lane is known to this process
		t.Fatalf("claimed %d", n)
	}
	var items []flowfabric.CreateExecutionArgs
	for range 1_000 {
		items = append(items, job{caps: "gpu", priority: 9}.args())
	}
	for some := range slices.Chunk(items, 100) {
		s.createAll(some...)
	}
	if n := len(s.claim(1, 0, "", "cpu")); n != 1 { // labels the bucket
		t.Fatalf("claimed %d", n)
	}
	seen := at.watchCommands(t)
	if n := len(s.claim(1, 0, "", "cpu")); n != 1 {
		t.Fatalf("claimed %d", n)
	}
	calls, gpu := 0, bucketName(partyNamespace, "gpu")
	lines := seen()
	for _, line := range lines {
		if strings.Contains(strings.ToLower(line), `"fcall"`) {
			calls++
		}
		if strings.Contains(line, gpu) {
			t.Errorf("a command of the other bucket: %s", line)
		}
	}
	if calls != 1 {
		t.Errorf("%d calls:\n%s", calls, strings.Join(lines, "\n"))
	}
	d, err := s.DescribeExecution(s.ctx, items[500].ExecutionID)
	s.ok(err)
	if d.EligibilityState != flowfabric.BlockedByRoute || d.BlockingReason != flowfabric.ReasonWaitingForCapableWorker {
		t.Errorf("a member of the other bucket is %s, %s", d.EligibilityState, d.BlockingReason)
	}
	of := func(task flowfabric.ClaimedExecution) bool {
		return slices.ContainsFunc(items, func(a flowfabric.CreateExecutionArgs) bool { return a.ExecutionID == task.ExecutionID })
	}
	both := s.claim(100, 0, "", "cpu", "gpu")
	if len(both) != 100 {
		t.Fatalf("a claim of both buckets gets %d", len(both))
	}
	for i, task := range both {
		if !of(task) {
			t.Fatalf("task %d is not of the higher priority", i)
		}
	}
	if at.must("HGET", laneKey("{fp:0}", partyLane, "buckets"), "u:"+gpu) != nil {
		t.Error("the label is still there")
	}
	var rest []flowfabric.ClaimedExecution
	for range 20 {
		rest = append(rest, s.claim(100, 0, "", "cpu", "gpu")...)
	}
	if len(rest) != 902 {
		t.Fatalf("%d are left", len(rest))
	}
	for _, task := range rest[900:] { // in the order of scores: the others come last
		if of(task) {
			t.Error("work of a lower priority came first")
		}
	}
}

// Chapter 07, scenario 55.
func TestScenario55DisabledLane(t *testing.T) {
	for _, f := range forms {
		t.Run(f.name, func(t *testing.T) {
			at := f.take(t)
			s := openStage(t, at, backendtest.Options{FlowPartitions: 4})
			members := func(what string) (list []string) {
				for p := range uint16(4) {
					all, _ := at.must("ZRANGE", laneKey(partitionTag(p), partyLane, what), "0", "-1", "WITHSCORES").([]any)
					for _, m := range all {
						list = append(list, fmt.Sprint(p, m))
					}
				}
				return list
			}
			bucket := "el:" + bucketName(partyNamespace, "")
			for i := range 500 {
				s.create(job{part: uint16(i % 4), priority: int32(i % 3)})
				s.advance(1)
			}
			before := members(bucket)
			set := func(state flowfabric.LaneState) {
				_, err := s.SetLaneState(s.ctx, flowfabric.SetLaneStateArgs{LaneID: partyLane, State: state, Reason: "r"})
				s.ok(err)
			}
			sweep := func() {
				for range 20 {
					res, err := s.SweepLanes(s.ctx)
					s.ok(err)
					if !res.More {
						return
					}
				}
				t.Fatal("the sweep never ends")
			}
			set(flowfabric.LaneDisabled)
			if n := len(s.claim(10, 0, "")); n != 0 {
				t.Errorf("%d were claimed from a disabled lane", n)
			}
			sweep()
			if got := members("blocked:lane_state"); !slices.Equal(got, before) || len(members(bucket)) != 0 {
				t.Errorf("%d are blocked, %d offered", len(got)/2, len(members(bucket))/2)
			}
			set(flowfabric.LaneActive)
			sweep()
			if got := members(bucket); !slices.Equal(got, before) || len(members("blocked:lane_state")) != 0 {
				t.Errorf("%d are offered again, not in the old order", len(got)/2)
			}
			if n := len(s.claim(10, 0, "")); n != 10 {
				t.Errorf("%d were claimed", n)
			}
		})
	}
}

// Chapter 07, scenario 56.
func TestScenario56LapsedGrant(t *testing.T) {
	s := openStage(t, onServer(t), backendtest.Options{})
	id := s.create(job{priority: 4})
	s.advance(1_000)
	score := func() any {
		return s.at.must("ZSCORE", laneKey(tagOf(id), partyLane, "el:"+bucketName(partyNamespace, "")), uuidOf(id))
	}
	before := score()
	if before == nil {
		t.Fatal("not offered")
	}
	got, err := s.ClaimForWorker(s.ctx, flowfabric.ClaimForWorkerArgs{WorkerID: "w", WorkerInstanceID: "i", Lanes: []flowfabric.LaneID{partyLane}, GrantTTLMs: 5_000})
	s.ok(err)
	if got.Grant == nil || got.Grant.ExecutionID != id || score() != nil {
		t.Fatalf("granted %+v, offered at %v", got.Grant, score())
	}
	if due := s.due(id); due != strconv.FormatInt(int64(got.Grant.ExpiresAt), 10) {
		t.Errorf("due is %s, the grant ends at %d", due, got.Grant.ExpiresAt)
	}
	s.advance(4_999)
	s.tick()
	if score() != nil || len(s.claim(1, 0, "")) != 0 {
		t.Error("the execution is offered while the grant holds")
	}
	s.advance(1)
	s.tick()
	if after := score(); after != before {
		t.Errorf("offered at %v, before at %v", after, before)
	}
}

// Chapter 07, scenario 57: what comes while a call is on its way goes together.
func TestScenario57NaturalBatching(t *testing.T) {
	type flight struct {
		reqs []request
		land chan struct{}
	}
	flights := make(chan flight, 100)
	b := batcher{fn: fnRenew, stride: renewStride, tag: partitionTag, most: 2, calls: func(_ context.Context, reqs []request) []answer {
		f := flight{reqs, make(chan struct{})}
		flights <- f
		<-f.land
		answers := make([]answer, len(reqs))
		for i := range answers {
			answers[i].err = errNoNode // nothing to this test
		}
		return answers
	}}
	var all sync.WaitGroup
	put := func(n int) {
		for i := range n {
			all.Go(func() {
				tk := newTicket(1, renewStride)
				tk.args = append(tk.args, make([]string, renewStride)...)
				tk.add(0, uint16(i%4))
				if err := b.do(t.Context(), tk); err != nil {
					t.Error(err)
				}
			})
		}
	}
	put(1)
	first := <-flights // a lone one goes at once
	put(1)
	second := <-flights // and so does a second one
	put(49)
	eventually(t, "the others collect", func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		return len(b.waiting) == 49
	})
	calls := make(map[string]int)
	count := func(f flight) {
		for _, r := range f.reqs {
			calls[r.tag]++
		}
	}
	count(second)
	close(first.land)
	third := <-flights
	count(third)
	if len(third.reqs) != 4 {
		t.Errorf("%d calls for 49 renewals of 4 partitions", len(third.reqs))
	}
	for tag, n := range calls {
		if n > 2 {
			t.Errorf("%d calls of %s", n, tag)
		}
	}
	close(second.land)
	close(third.land)
	all.Wait()
	if len(flights) != 0 {
		t.Error("there were more calls")
	}
}

// Chapter 07, scenario 58: a feed that is off leaves no trace, and completions are
// numbered without gaps.
func TestScenario58FeedsOff(t *testing.T) {
	at := onServer(t)
	s := openStage(t, at, backendtest.Options{FlowPartitions: 1, Feeds: []flowfabric.Feed{}})
	for range 20 {
		s.create(job{change: func(a *flowfabric.CreateExecutionArgs) { a.Tags = map[string]string{"app.k": "v"} }})
	}
	for i, task := range s.claim(20, 0, "") {
		_, err := s.SetExecutionTags(s.ctx, task.ExecutionID, map[string]string{"app.l": "w"})
		s.ok(err)
		if i%2 == 0 {
			s.complete(task, nil)
			continue
		}
		_, err = s.FailExecution(s.ctx, flowfabric.FailExecutionArgs{ExecutionID: task.ExecutionID, Fence: task.Fence, Reason: "r", Category: "permanent"})
		s.ok(err)
	}
	if got := at.keys("ff:feed:*"); !slices.Equal(got, []string{"ff:feed:{fp:0}:completions"}) {
		t.Errorf("streams: %v", got)
	}
	entries, _ := at.must("XRANGE", "ff:feed:{fp:0}:completions", "-", "+").([]any)
	if len(entries) != 20 {
		t.Fatalf("%d events", len(entries))
	}
	for i, e := range entries {
		if id := e.([]any)[0]; id != fmt.Sprintf("0-%d", i+1) {
			t.Errorf("event %d is numbered %v", i, id)
		}
	}
}
