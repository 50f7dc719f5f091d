package valkey

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/valkeytest"
)

// commandsOf tells which commands something executes on a server, those inside
// functions included.
func commandsOf(t testing.TB, server *valkeytest.Server, do func()) string {
	t.Helper()
	count := func() map[string]int {
		counts := make(map[string]int)
		for field, stat := range server.Info("commandstats") {
			name, ok := strings.CutPrefix(field, "cmdstat_")
			calls, _, _ := strings.Cut(strings.TrimPrefix(stat, "calls="), ",")
			n, err := strconv.Atoi(calls)
			if ok && err == nil && name != "info" && !strings.HasPrefix(name, "hello") && !strings.HasPrefix(name, "client") && name != "auth" {
				counts[name] = n
			}
		}
		return counts
	}
	before := count()
	do()
	after := count()
	var list []string
	for _, name := range slices.Sorted(maps.Keys(after)) {
		if n := after[name] - before[name]; n > 0 {
			list = append(list, fmt.Sprint(name, " ", n))
		}
	}
	return strings.Join(list, ", ")
}

// Chapter 07, scenario 32: the commands of each operation, as table 7.1 has them.
// Ours, with the leases feed on, execute in addition an XADD for each event, and an
// SPUBLISH for each ending and for what a call leaves else in the leases feed. A
// claim looks at what it leaves, for the map of the claimer (ZRANGE), and where that
// is nothing arms (SET, HLEN).
func TestScenario32Commands(t *testing.T) {
	at := onServer(t)
	p := joinParty(t, at, partitions(1), func(c *Config) { c.Feeds = []flowfabric.Feed{flowfabric.FeedLeases} })
	p.create(job{}) // the lane and its bucket are made, the worker is known
	p.complete(p.claim(1, 0, "")[0], nil)
	batch := func(n int) []flowfabric.CreateExecutionArgs {
		items := make([]flowfabric.CreateExecutionArgs, n)
		for i := range items {
			items[i] = job{}.args()
		}
		return items
	}
	var tasks, large []flowfabric.ClaimedExecution
	var id flowfabric.ExecutionID
	completions := func(n int) (items []flowfabric.CompleteExecutionArgs) {
		for range n {
			items = append(items, completion(tasks[0], []byte("result")))
			tasks = tasks[1:]
		}
		return items
	}
	for _, c := range []struct {
		name string
		do   func()
		want string
	}{
		{"create, somebody armed", func() { p.create(job{}) }, "del 1, fcall 1, hexists 1, hset 1, set 1, spublish 1, time 1, zadd 2"},
		{"create", func() { id = p.create(job{}) }, "del 1, fcall 1, hexists 1, hset 1, set 1, time 1, zadd 2"},
		{"create, repeated", func() {
			p.createAll(job{change: func(a *flowfabric.CreateExecutionArgs) { a.ExecutionID = id }}.args())
		}, "fcall 1, getrange 1, set 1, time 1"},
		{"create, batch of 16", func() { p.createAll(batch(16)...) }, "del 1, fcall 1, hexists 1, hset 16, set 16, time 1, zadd 2"},
		{"claim", func() { tasks = append(tasks, p.claim(1, 0, "")...) },
			"fcall 1, get 1, hmget 1, hset 2, spublish 1, time 1, xadd 1, zadd 1, zpopmin 1, zrange 1"},
		{"claim, batch of 16", func() { tasks = append(tasks, p.claim(16, 0, "")...) },
			"fcall 1, get 16, hmget 16, hset 17, spublish 1, time 1, xadd 2, zadd 1, zpopmin 1, zrange 1"},
		{"claim of the last", func() { tasks = append(tasks, p.claim(1, 0, "")...) },
			"fcall 1, get 1, hlen 1, hmget 1, hset 2, set 1, spublish 1, time 1, xadd 1, zadd 1, zpopmin 1, zrange 1"},
		{"claim, nothing there", func() { p.claim(1, 0, "") }, ""},
		{"create, batch of 16 with 4 KiB", func() {
			items := batch(16)
			for i := range items {
				items[i].Payload = make([]byte, 4096)
			}
			p.createAll(items...)
		}, "del 1, fcall 1, hexists 1, hset 16, set 16, spublish 1, time 1, zadd 2"},
		{"claim, batch of 16 with 4 KiB", func() { large = p.claim(16, 0, "") },
			"fcall 1, hlen 1, hmget 16, hset 17, mget 1, set 1, spublish 1, time 1, xadd 2, zadd 1, zpopmin 1, zrange 1"},
		{"complete, batch of 16 with 4 KiB", func() {
			items := make([]flowfabric.CompleteExecutionArgs, len(large))
			for i, task := range large {
				items[i] = completion(task, nil)
			}
			p.completeAll(items...)
		}, "fcall 1, hdel 1, hmget 16, hset 16, spublish 1, time 1, xadd 4, zadd 1"},
		{"renew", func() { p.renew(tasks[0]) }, "fcall 1, hmget 1, hset 1, time 1"},
		{"renew, batch of 16", func() { p.renew(tasks[:16]...) }, "fcall 1, hmget 16, hset 16, time 1"},
		{"complete", func() { p.complete(tasks[0], nil); tasks = tasks[1:] },
			"fcall 1, hdel 1, hmget 1, hset 1, spublish 1, time 1, xadd 2, zadd 1"},
		{"complete with a result", func() { p.completeAll(completions(1)...) },
			"fcall 1, hdel 1, hmget 1, hset 1, set 1, spublish 1, time 1, xadd 2, zadd 1"},
		{"complete with results, batch of 14", func() { p.completeAll(completions(14)...) },
			"fcall 1, hdel 1, hmget 14, hset 14, set 14, spublish 1, time 1, xadd 4, zadd 1"},
		{"fail, nothing follows", func() {
			_, err := p.FailExecution(t.Context(), flowfabric.FailExecutionArgs{ExecutionID: tasks[0].ExecutionID, Fence: tasks[0].Fence, Reason: "r", Category: "permanent"})
			p.ok(err)
			tasks = tasks[1:]
		}, "fcall 1, getrange 1, hdel 1, hgetall 1, hset 1, spublish 1, time 1, xadd 2, zadd 1"},
		{"describe, active", func() { _, err := p.DescribeExecution(t.Context(), tasks[0].ExecutionID); p.ok(err) }, "fcall_ro 1, getrange 1, hgetall 1, hmget 1, time 1"},
		{"state", func() { _, err := p.GetExecutionState(t.Context(), tasks[0].ExecutionID); p.ok(err) }, "hmget 1"},
		{"revoke", func() {
			_, err := p.RevokeLease(t.Context(), flowfabric.RevokeLeaseArgs{ExecutionID: tasks[0].ExecutionID})
			p.ok(err)
		}, "del 1, fcall 1, hexists 1, hgetall 1, hset 2, spublish 2, time 1, xadd 1, zadd 2"},
		{"cancel", func() {
			_, err := p.CancelExecution(t.Context(), flowfabric.CancelExecutionArgs{ExecutionID: tasks[0].ExecutionID, Source: flowfabric.SourceOperatorOverride})
			p.ok(err)
		}, "fcall 1, hdel 2, hgetall 1, hset 1, spublish 1, time 1, xadd 2, zadd 1, zrem 1"},
		{"replay", func() {
			_, err := p.ReplayExecution(t.Context(), flowfabric.ReplayExecutionArgs{ExecutionID: tasks[0].ExecutionID})
			p.ok(err)
		}, "del 1, fcall 1, getrange 1, hdel 1, hexists 1, hgetall 1, hset 2, time 1, unlink 1, zadd 2"},
		{"grant", func() {
			got, err := p.ClaimForWorker(t.Context(), flowfabric.ClaimForWorkerArgs{WorkerID: "worker-1", WorkerInstanceID: "worker-1-7f3a9c", Lanes: []flowfabric.LaneID{partyLane}, GrantTTLMs: 60_000})
			p.ok(err)
			if got.Grant == nil {
				t.Error("nothing is granted")
			}
		}, "fcall 1, hgetall 1, hlen 1, hset 1, set 1, time 1, zadd 1, zpopmin 1, zrange 1"},
		{"tick, nothing due", func() { _, err := p.Tick(t.Context(), flowfabric.TickArgs{}); p.ok(err) }, "fcall 1, time 1, zrange 1"},
	} {
		if got := commandsOf(t, at.server, c.do); got != c.want {
			t.Errorf("%s:\n got %s\nwant %s", c.name, got, c.want)
		}
	}
	// A pass over 256 idle partitions is a few calls, with one command a partition.
	at = onServer(t)
	p = joinParty(t, at)
	got := commandsOf(t, at.server, func() { _, err := p.Tick(t.Context(), flowfabric.TickArgs{}); p.ok(err) })
	if want := "fcall 4, time 4, zrange 256"; got != want {
		t.Errorf("tick of 256 idle partitions:\n got %s\nwant %s", got, want)
	}
}

// mainThread is the CPU time of a server's main thread in microseconds.
func mainThread(server *valkeytest.Server) float64 {
	info := server.Info("cpu")
	sum := 0.0
	for _, field := range []string{"used_cpu_sys_main_thread", "used_cpu_user_main_thread"} {
		s, _ := strconv.ParseFloat(info[field], 64)
		sum += s
	}
	return sum * 1e6
}

// emptyLua is a function that does nothing.
const emptyLua = `
redis.register_function('ff_test_empty', function() return {} end)
`

// pipelineDepth is how many calls are on their way at a time.
const pipelineDepth = 64

// BenchmarkStoreCPU prints what the store's main thread spends on each operation and
// on a whole lifecycle (create, claim, complete with a result of 200 bytes), by
// INFO's accounting, with single calls and with batches of 16, all in pipelines of
// 64 calls, with both feeds on. The ratios are to an empty function called in the
// same way in the same run.
func BenchmarkStoreCPU(b *testing.B) {
	for _, size := range []int{1, 16} {
		b.Run(fmt.Sprint("batch=", size), func(b *testing.B) {
			server := valkeytest.Take(b)
			s, err := open(b.Context(), Config{Addrs: []string{server.Addr()}, NoEngine: true, Feeds: []flowfabric.Feed{flowfabric.FeedLeases},
				Testing: Testing{library: libraryOptions{extra: emptyLua}}})
			if err != nil {
				b.Fatal(err)
			}
			defer s.Close()
			c := costs{b: b, s: s, server: server, size: size, spent: make(map[string]float64), made: make(map[string]int)}
			c.round(b) // the lane and its buckets are made
			clear(c.spent)
			clear(c.made)
			for b.Loop() {
				c.round(b)
			}
			c.report(b)
		})
	}
}

// costs measures rounds of lifecycles.
type costs struct {
	b      *testing.B
	s      *Store
	server *valkeytest.Server
	size   int
	spent  map[string]float64
	made   map[string]int
}

// of makes calls in pipelines and counts what they cost for n operations. Several
// pipelines are under way at a time, so that the server is never without work: what
// it costs to fall asleep and wake is not the calls'.
func (c *costs) of(what string, n int, reqs []request) []answer {
	out := make([]answer, len(reqs))
	before := mainThread(c.server)
	var next atomic.Int64
	var callers sync.WaitGroup
	for range 4 {
		callers.Go(func() {
			for {
				from := int(next.Add(pipelineDepth)) - pipelineDepth
				if from >= len(reqs) {
					return
				}
				copy(out[from:], c.s.calls(c.b.Context(), reqs[from:min(from+pipelineDepth, len(reqs))]))
			}
		})
	}
	callers.Wait()
	c.spent[what] += mainThread(c.server) - before
	c.made[what] += n
	for _, a := range out {
		if a.err != nil {
			c.b.Fatal(what, a.err)
		}
	}
	return out
}

// round lives 2,048 lives on 64 partitions.
func (c *costs) round(b *testing.B) {
	const parts, lives = 64, 2_048
	batches := func(fn string, part func(i int) uint16, args func(i int) []string) (reqs []request) {
		for i := 0; i < lives; i += c.size {
			var all []string
			for k := range c.size {
				all = append(all, args(i+k)...)
			}
			reqs = append(reqs, request{fn: fn, tag: c.s.tag(part(i)), args: all})
		}
		return reqs
	}
	part := func(i int) uint16 { return uint16(i / 16 % parts) }
	c.of("empty", lives, slices.Repeat([]request{{fn: "ff_test_empty", tag: "{fp:1}"}}, lives))
	c.of("create", lives, batches(fnCreate, part, func(i int) []string {
		var lane laneView
		made, err := c.s.prepare(b.Context(), job{part: part(i), payload: 200}.args(), &lane)
		if err != nil {
			b.Fatal(err)
		}
		args, err := appendCreate(nil, &made)
		if err != nil {
			b.Fatal(err)
		}
		return args
	}))
	var claims []request
	var asked []newTasks
	for i := 0; i < lives; i += c.size {
		ask := newTasks{part: part(i), lane: partyLane, ttlMs: 30_000}
		args := []string{string(partyLane), "worker-1", "worker-1-instance-0001", "", "", "30000", "s", "c", strconv.Itoa(c.size), "", "1",
			bucketName(partyNamespace, "")}
		for range c.size {
			lease, attempt := mint("", "")
			args = append(args, lease, attempt)
			ask.ids = append(ask.ids, taskIDs{flowfabric.LeaseID(lease), flowfabric.AttemptID(attempt)})
		}
		asked = append(asked, ask)
		claims = append(claims, request{fn: "ff_claim_next", tag: c.s.tag(part(i)), args: args})
	}
	var tasks []flowfabric.ClaimedExecution
	for i, a := range c.of("claim", lives, claims) {
		list, err := elementsOf("ff_claim_next", &a.msg, 3)
		if err != nil {
			b.Fatal(err)
		}
		asked[i].now, asked[i].list = list.ms(0), list[3:]
		for k := range asked[i].list {
			task, err := asked[i].task("claim_tasks", k, asked[i].parts(k))
			if err != nil {
				b.Fatal(err)
			}
			tasks = append(tasks, task)
		}
	}
	if len(tasks) != lives {
		b.Fatalf("%d tasks of %d", len(tasks), lives)
	}
	of := func(i int) uint16 { return tasks[i].ExecutionID.Partition() }
	fence := func(i int) []string {
		return appendFence(nil, tasks[i].ExecutionID, &tasks[i].Fence)
	}
	c.of("renew", lives, batches(fnRenew, of, func(i int) []string { return append(fence(i), "30000") }))
	result := "json\n" + strings.Repeat("x", 200)
	ended := c.of("complete", lives, batches(fnComplete, of, func(i int) []string { return append(fence(i), "l", "1", result) }))
	for _, a := range ended {
		list, err := a.msg.AsStrSlice()
		if err != nil || slices.ContainsFunc(list, func(s string) bool { return s != "ok" }) {
			b.Fatal(list, err)
		}
	}
}

func (c *costs) report(b *testing.B) {
	empty := c.spent["empty"] / float64(c.made["empty"])
	total := 0.0
	b.ReportMetric(0, "ns/op") // means nothing here
	b.ReportMetric(empty, "empty-µs")
	for _, what := range []string{"create", "claim", "renew", "complete"} {
		each := c.spent[what] / float64(c.made[what])
		b.ReportMetric(each, what+"-µs")
		b.ReportMetric(each/empty, what+"-ratio")
		if what != "renew" {
			total += each
		}
	}
	b.ReportMetric(total, "lifecycle-µs")
	b.ReportMetric(total/empty, "lifecycle-ratio")
}

// A batch of creates looks once for who waits in a lane, however its lanes alternate.
func TestABatchLooksOnceForWhoWaitsInALane(t *testing.T) {
	at := onServer(t)
	p := joinParty(t, at, partitions(1))
	items := func(n int) []flowfabric.CreateExecutionArgs {
		list := make([]flowfabric.CreateExecutionArgs, n)
		for i := range list {
			list[i] = job{change: func(a *flowfabric.CreateExecutionArgs) { a.LaneID = []flowfabric.LaneID{partyLane, "other"}[i%2] }}.args()
		}
		return list
	}
	p.createAll(items(2)...) // the lanes and their buckets are made
	got := commandsOf(t, at.server, func() { p.createAll(items(6)...) })
	if !strings.HasPrefix(got, "del 2, fcall 1, hexists 2,") {
		t.Errorf("got %s", got)
	}
}
