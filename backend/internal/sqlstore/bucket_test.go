package sqlstore_test

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	zs "zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/backend/backendtest"
	"github.com/flowfabric/flowfabric/backend/sqlite"
)

const (
	bucketLane  = flowfabric.LaneID("default")
	bucketSpace = flowfabric.Namespace("tenant")
)

// openStore opens a store whose clock and duties are the test's.
func openStore(t *testing.T, path string, clk *backendtest.Clock) *sqlite.Backend {
	t.Helper()
	b, err := sqlite.Open(t.Context(), sqlite.Config{Path: path, Clock: clk, NoEngine: true, WaitpointSecretHex: strings.Repeat("ab", 32)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	return b
}

func must[T any](v T, err error) func(t *testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// createIn creates one execution that requires the tokens.
func createIn(t *testing.T, b *sqlite.Backend, ns flowfabric.Namespace, priority int32, tokens ...string) flowfabric.ExecutionID {
	t.Helper()
	args := flowfabric.CreateExecutionArgs{Namespace: ns, LaneID: bucketLane, Kind: "k", CreatorIdentity: "test", Priority: &priority}
	if len(tokens) > 0 {
		args.Policy = []byte(`{"routing_requirements":{"required_capabilities":["` + strings.Join(tokens, `","`) + `"]}}`)
	}
	res := must(flowfabric.CreateExecution(t.Context(), b, args))(t)
	return res.ExecutionID
}

func claimArgs(ns flowfabric.Namespace, n int, tokens ...string) flowfabric.ClaimTasksArgs {
	return flowfabric.ClaimTasksArgs{WorkerID: "w", WorkerInstanceID: flowfabric.WorkerInstanceID("w-" + strings.Join(tokens, "-")),
		Lanes: []flowfabric.LaneID{bucketLane}, Namespace: ns, Capabilities: tokens, MaxTasks: n, LeaseTTLMs: 30_000}
}

// TestManyBuckets compares what claims of several capability sets take from many
// buckets with a sorted list, while executions come, change their priority, are
// cancelled and lapse.
func TestManyBuckets(t *testing.T) {
	clk := backendtest.NewClock()
	b := openStore(t, "", clk)
	rnd := rand.New(rand.NewPCG(2, 7))
	tokens := []string{"a", "b", "c", "d", "e"}
	some := func() []string {
		var set []string
		for _, tok := range tokens {
			if rnd.IntN(2) == 0 {
				set = append(set, tok)
			}
		}
		return set
	}
	type member struct {
		id       flowfabric.ExecutionID
		priority int32
		at       flowfabric.Millis
		required []string
		revoked  bool
	}
	var waiting, held []member
	order := func(x, y member) int {
		switch {
		case x.priority != y.priority:
			return int(y.priority - x.priority)
		case x.at != y.at:
			return int(x.at - y.at)
		}
		return strings.Compare(string(x.id), string(y.id))
	}
	for step := range 3_000 {
		switch op := rnd.IntN(20); {
		case op < 11:
			if rnd.IntN(3) == 0 {
				clk.Advance(time.Millisecond)
			}
			m := member{priority: int32(rnd.IntN(3)), at: clk.NowMillis(), required: some()}
			m.id = createIn(t, b, bucketSpace, m.priority, m.required...)
			waiting = append(waiting, m)
		case op < 17:
			caps, n := some(), 1+rnd.IntN(12)
			slices.SortFunc(waiting, order)
			var want []flowfabric.ExecutionID
			rest := waiting[:0:0]
			for _, m := range waiting {
				if len(want) < n && len(flowfabric.MissingCapabilities(m.required, caps)) == 0 {
					want = append(want, m.id)
					held = append(held, m)
					continue
				}
				rest = append(rest, m)
			}
			waiting = rest
			res := must(b.ClaimTasks(t.Context(), claimArgs(bucketSpace, n, caps...)))(t)
			var got []flowfabric.ExecutionID
			for _, task := range res.Tasks {
				got = append(got, task.ExecutionID)
			}
			if d := cmp.Diff(want, got); d != "" {
				t.Fatalf("step %d: a claim with %v took (-want +got):\n%s", step, caps, d)
			}
		case op == 17 && len(waiting) > 0:
			m := &waiting[rnd.IntN(len(waiting))]
			if m.revoked { // not runnable: its priority stands
				continue
			}
			m.priority = int32(rnd.IntN(3))
			must(b.ChangePriority(t.Context(), flowfabric.ChangePriorityArgs{ExecutionID: m.id, Priority: m.priority}))(t)
		case op == 18 && len(waiting) > 0:
			i := rnd.IntN(len(waiting))
			must(b.CancelExecution(t.Context(), flowfabric.CancelExecutionArgs{ExecutionID: waiting[i].id, Source: flowfabric.SourceOperatorOverride}))(t)
			waiting = slices.Delete(waiting, i, i+1)
		case op == 19 && len(held) > 0: // it comes back to its old place
			i := rnd.IntN(len(held))
			must(b.RevokeLease(t.Context(), flowfabric.RevokeLeaseArgs{ExecutionID: held[i].id}))(t)
			held[i].revoked = true
			waiting = append(waiting, held[i])
			held = slices.Delete(held, i, i+1)
		}
	}
	checkMemory(t, b)
}

// counting picks the best head and notes how many it was offered.
type counting struct{ most int }

func (c *counting) Pick(heads []flowfabric.Candidate) int {
	c.most = max(c.most, len(heads))
	best := 0
	for i := range heads {
		if heads[i].Priority > heads[best].Priority ||
			heads[i].Priority == heads[best].Priority && heads[i].CreatedAt < heads[best].CreatedAt {
			best = i
		}
	}
	return best
}

func (c *counting) Taken(flowfabric.Candidate) {}

// TestClaimLooksAtFewHeads: what a claim looks at does not grow with the number
// of buckets. (Specification 00, D25.)
func TestClaimLooksAtFewHeads(t *testing.T) {
	clk := backendtest.NewClock()
	b := openStore(t, "", clk)
	const buckets = 300
	all := make([]string, buckets)
	for i := range buckets {
		all[i] = fmt.Sprintf("cap%03d", i)
		createIn(t, b, bucketSpace, 0, all[i])
		clk.Advance(time.Millisecond)
	}
	p := &counting{}
	for range 3 {
		res := must(b.ClaimCandidates(t.Context(), flowfabric.ClaimCandidatesArgs{WorkerID: "w", WorkerInstanceID: "w-1",
			Lanes: []flowfabric.LaneID{bucketLane}, Namespace: bucketSpace, Capabilities: all, Max: 100, LeaseTTLMs: 30_000, Picker: p}))(t)
		if len(res.Tasks) != 100 {
			t.Fatalf("took %d of 100", len(res.Tasks))
		}
	}
	if p.most != 1 {
		t.Errorf("a claim of one lane and namespace was shown %d heads", p.most)
	}
	checkMemory(t, b)
}

// TestEmptyBucketsLeave: a bucket that has had no member for 24 h leaves the
// registry, also over a restart, and comes back with its next member.
// (Specification 07, section 3.6.)
func TestEmptyBucketsLeave(t *testing.T) {
	clk := backendtest.NewClock()
	path := filepath.Join(t.TempDir(), "flow.db")
	b := openStore(t, path, clk)
	kept := createIn(t, b, bucketSpace, 0, "kept")
	var gone []flowfabric.ExecutionID
	for i := range 5 {
		gone = append(gone, createIn(t, b, bucketSpace, 0, fmt.Sprint("gone", i)))
	}
	must(b.ClaimTasks(t.Context(), claimArgs(bucketSpace, 5, "other")))(t) // labels them all
	for _, id := range gone {
		must(b.CancelExecution(t.Context(), flowfabric.CancelExecutionArgs{ExecutionID: id, Source: flowfabric.SourceOperatorOverride}))(t)
	}
	buckets := func(b *sqlite.Backend) (n int) {
		for _, line := range memory(t, b) {
			if strings.HasPrefix(line, "bucket ") {
				n++
			}
		}
		return n
	}
	trim := func(b *sqlite.Backend) {
		t.Helper()
		must(b.TrimFeeds(t.Context()))(t)
	}
	clk.Advance(25 * time.Hour)
	trim(b)
	if n := buckets(b); n != 6 {
		t.Fatalf("%d buckets are known while their executions are retained, want 6", n)
	}
	clk.Advance(30 * 24 * time.Hour)
	must(b.Tick(t.Context(), flowfabric.TickArgs{}))(t) // retention
	trim(b)
	if n := buckets(b); n != 6 {
		t.Fatalf("%d buckets are known right after the purge, want 6", n)
	}
	clk.Advance(23 * time.Hour)
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	b = openStore(t, path, clk)
	trim(b)
	if n := buckets(b); n != 6 {
		t.Fatalf("%d buckets are known after 23 h, want 6", n)
	}
	clk.Advance(time.Hour)
	trim(b)
	if n := buckets(b); n != 1 {
		t.Fatalf("%d buckets are known after 24 h, want 1", n)
	}
	checkMemory(t, b)
	again := createIn(t, b, bucketSpace, 0, "gone1")
	res := must(b.ClaimTasks(t.Context(), claimArgs(bucketSpace, 5, "gone1", "kept")))(t)
	var got []flowfabric.ExecutionID
	for _, task := range res.Tasks {
		got = append(got, task.ExecutionID)
	}
	if d := cmp.Diff([]flowfabric.ExecutionID{kept, again}, got); d != "" {
		t.Errorf("claimed (-want +got):\n%s", d)
	}
	checkMemory(t, b)
}

// TestBucketMembersMigrate: a store of the first schema learns how many members
// its buckets have.
func TestBucketMembersMigrate(t *testing.T) {
	clk := backendtest.NewClock()
	path := filepath.Join(t.TempDir(), "flow.db")
	b := openStore(t, path, clk)
	for i := range 7 {
		createIn(t, b, bucketSpace, 0, fmt.Sprint("c", i%3))
	}
	want := memory(t, b)
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	c := must(zs.OpenConn(path, zs.OpenReadWrite))(t)
	forgetWaiting(t, c)
	for _, sql := range []string{"alter table buckets drop column members", "alter table buckets drop column empty_since",
		"delete from schema_version where version >= 2"} {
		if err := sqlitex.ExecuteTransient(c, sql, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, memory(t, openStore(t, path, clk))); d != "" {
		t.Errorf("what is remembered before (-) and after (+) the migration:\n%s", d)
	}
}
