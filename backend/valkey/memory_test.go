package valkey

import (
	"slices"
	"strconv"
	"testing"

	"github.com/flowfabric/flowfabric"
)

// Memory per execution with a payload of 200 bytes, keys and indexes included, the
// capped logs of events apart. (Issue 3 and chapter 07, section 7.4: 1.1 kB active,
// 1.2 kB terminal.) What moves core or def over a size of the allocator shows as 64
// bytes.
const (
	createdBytes  = 1_000
	activeBytes   = 11 * 1_024 / 10
	terminalBytes = 1_200
)

func TestMemoryPerExecution(t *testing.T) {
	n := 20_000
	if testing.Short() {
		n = 4_000
	}
	result := []byte(`{"status":"sent"}`)
	at := onServer(t)
	p := joinParty(t, at, partitions(16), func(c *Config) { c.Feeds = []flowfabric.Feed{flowfabric.FeedLeases} })
	for part := range uint16(16) { // what there is once, whatever the number of executions
		p.create(job{part: part})
	}
	for _, task := range p.claim(16, 0, "") {
		p.complete(task, result)
	}
	usage := func(keys ...string) (sum int) {
		for _, key := range keys {
			b, _ := at.server.Must("MEMORY", "USAGE", key, "SAMPLES", "0").(int64)
			sum += int(b)
		}
		return sum
	}
	logs := func() int { return usage(at.keys("ff:feed:*")...) }
	used := func() int {
		n, _ := strconv.Atoi(at.server.Info("memory")["used_memory"])
		return n
	}
	idle, idleLogs := used(), logs()
	each := func(state string, limit int, sample flowfabric.ExecutionID) {
		t.Helper()
		inLogs := (logs() - idleLogs) / n
		total := (used()-idle)/n - inLogs
		t.Logf("%s: %d bytes (core %d, def %d, result %d; the rest indexes and the table of keys), and %d in the logs of events", state, total,
			usage(execKey(sample, "core")), usage(execKey(sample, "def")), usage(execKey(sample, "result")), inLogs)
		if total > limit {
			t.Errorf("%s: %d bytes, at most %d are wanted", state, total, limit)
		}
	}
	var ids []flowfabric.ExecutionID
	for i := range n / 100 {
		var items []flowfabric.CreateExecutionArgs
		for k := range 100 {
			items = append(items, job{part: uint16((100*i + k) % 16), payload: 200}.args())
		}
		ids = append(ids, p.createAll(items...)...)
	}
	each("created", createdBytes, ids[n/2])
	var tasks []flowfabric.ClaimedExecution
	for len(tasks) < n {
		got := p.claim(100, 0, "")
		if len(got) == 0 {
			t.Fatalf("only %d of %d can be claimed", len(tasks), n)
		}
		tasks = append(tasks, got...)
	}
	each("active", activeBytes, ids[n/2])
	for some := range slices.Chunk(tasks, 100) {
		var items []flowfabric.CompleteExecutionArgs
		for _, task := range some {
			items = append(items, completion(task, result))
		}
		p.completeAll(items...)
	}
	each("terminal", terminalBytes, ids[n/2])
}
