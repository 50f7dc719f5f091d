package valkey

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/backend/backendtest"
	"github.com/flowfabric/flowfabric/internal/valkeytest"
)

// reader is a store on a server of its own, with a clock that the test moves.
type reader struct {
	*Store
	t      *testing.T
	server *valkeytest.Server
	clock  *backendtest.Clock
}

func newReader(t *testing.T) *reader {
	t.Helper()
	server := valkeytest.Take(t)
	s := openTest(t, Config{Addrs: []string{server.Addr()}, NoEngine: true, Testing: Testing{Clock: true}})
	clk := backendtest.NewClock()
	clk.Follow(func(now flowfabric.Millis) {
		if err := s.setTestClock(context.WithoutCancel(t.Context()), int64(now)); err != nil {
			t.Errorf("set the clock: %v", err)
		}
	})
	return &reader{Store: s, t: t, server: server, clock: clk}
}

func (s *reader) ok(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *reader) create(part uint16, change ...func(*flowfabric.CreateExecutionArgs)) flowfabric.ExecutionID {
	s.t.Helper()
	a := flowfabric.CreateExecutionArgs{ExecutionID: flowfabric.MakeExecutionID(part, uuid.New()), Namespace: "test", LaneID: "work", Kind: "task",
		CreatorIdentity: "tester", Payload: []byte("in")}
	for _, f := range change {
		f(&a)
	}
	res, err := flowfabric.CreateExecution(s.t.Context(), s, a)
	s.ok(err)
	return res.ExecutionID
}

func (s *reader) claim(id flowfabric.ExecutionID, instance flowfabric.WorkerInstanceID) flowfabric.ClaimedExecution {
	s.t.Helper()
	task, err := s.IssueGrantAndClaim(s.t.Context(), flowfabric.IssueGrantAndClaimArgs{ExecutionID: id, WorkerID: "pool", WorkerInstanceID: instance, LeaseTTLMs: 30_000})
	s.ok(err)
	return task
}

func (s *reader) cancel(id flowfabric.ExecutionID) {
	s.t.Helper()
	_, err := s.CancelExecution(s.t.Context(), flowfabric.CancelExecutionArgs{ExecutionID: id, Source: flowfabric.SourceOperatorOverride})
	s.ok(err)
}

// ended creates executions on a partition and cancels them.
func (s *reader) ended(part uint16, n int) (ids []flowfabric.ExecutionID) {
	s.t.Helper()
	for range n {
		id := s.create(part)
		s.cancel(id)
		ids = append(ids, id)
	}
	return ids
}

func (s *reader) readFeed(a flowfabric.ReadFeedArgs) flowfabric.ReadFeedResult {
	s.t.Helper()
	if a.Feed == "" {
		a.Feed = flowfabric.FeedCompletions
	}
	res, err := s.ReadFeed(s.t.Context(), a)
	s.ok(err)
	return res
}

func seqs(events []flowfabric.Event) (out []string) {
	for _, ev := range events {
		out = append(out, ev.EventID)
	}
	return out
}

// A log that was trimmed whole still tells where it ended: readers behind learn of
// the gap, and its numbers go on.
func TestFeedTrimmedToNothing(t *testing.T) {
	s := newReader(t)
	start := s.readFeed(flowfabric.ReadFeedArgs{}).NextCursor
	s.ended(4, 2)
	late := s.readFeed(flowfabric.ReadFeedArgs{Start: start, Limit: 1}).NextCursor
	s.ended(9, 1)
	s.clock.Advance(flowfabric.FeedRetentionMs * time.Millisecond)
	swept, err := s.TrimFeeds(t.Context())
	s.ok(err)
	if swept.Rows != 3 {
		t.Errorf("%d events were trimmed", swept.Rows)
	}
	got := s.readFeed(flowfabric.ReadFeedArgs{Start: start})
	same(t, "gaps", got.Gaps, []flowfabric.Gap{{Partition: 4, MissedFromSeq: 1, MissedToSeq: 2}, {Partition: 9, MissedFromSeq: 1, MissedToSeq: 1}})
	same(t, "gaps further on", s.readFeed(flowfabric.ReadFeedArgs{Start: late}).Gaps,
		[]flowfabric.Gap{{Partition: 4, MissedFromSeq: 2, MissedToSeq: 2}, {Partition: 9, MissedFromSeq: 1, MissedToSeq: 1}})
	same(t, "told once", s.readFeed(flowfabric.ReadFeedArgs{Start: got.NextCursor}).Gaps, []flowfabric.Gap(nil))
	earliest := s.readFeed(flowfabric.ReadFeedArgs{Start: flowfabric.FeedStartEarliest})
	same(t, "gaps from the earliest", earliest.Gaps, []flowfabric.Gap(nil))
	now := s.readFeed(flowfabric.ReadFeedArgs{})
	s.ended(4, 1)
	for name, from := range map[string]string{"the gap": got.NextCursor, "the earliest": earliest.NextCursor, "now": now.NextCursor} {
		next := s.readFeed(flowfabric.ReadFeedArgs{Start: from})
		same(t, "events after "+name, seqs(next.Events), []string{"4-3"})
		same(t, "gaps after "+name, next.Gaps, []flowfabric.Gap(nil))
	}
}

// What is past retention is found by the instants and by the number of events.
func TestFeedRetention(t *testing.T) {
	s := newReader(t)
	for i := range 37 {
		s.ended(uint16(i%2), 1)
		s.clock.Advance(time.Hour)
	}
	swept, err := s.TrimFeeds(t.Context())
	s.ok(err)
	got := s.readFeed(flowfabric.ReadFeedArgs{Start: flowfabric.FeedStartEarliest})
	oldest := s.clock.NowMillis() - flowfabric.FeedRetentionMs
	if len(got.Events) != 23 || swept.Rows != 14 {
		t.Fatalf("%d of 37 events stay, %d went", len(got.Events), swept.Rows)
	}
	for _, ev := range got.Events {
		if ev.At <= oldest {
			t.Errorf("%s is of %d, the oldest may be of %d", ev.EventID, ev.At, oldest)
		}
	}
	if again, err := s.TrimFeeds(t.Context()); err != nil || again.Rows != 0 {
		t.Errorf("a second sweep: %+v, %v", again, err)
	}

	key := feedKey(s.tag(30), flowfabric.FeedCompletions)
	at := strconv.FormatInt(int64(s.clock.NowMillis()), 10)
	value := "completed\n" + testUUID + "\nns\nlane\n\n" + at + "\n\n\n\nsuccess\n0\ncomplete\n\n\n"
	args := []string{"EVAL", "for i = 1, ARGV[2] do redis.call('XADD', KEYS[1], '0-*', 'v', ARGV[1]) end", "1", key, value, strconv.Itoa(flowfabric.FeedRetentionEvents + 7)}
	s.server.Must(args...)
	if swept, err = s.TrimFeeds(t.Context()); err != nil || swept.Rows != 7 {
		t.Errorf("over the number: %+v, %v", swept, err)
	}
	first := s.readFeed(flowfabric.ReadFeedArgs{Start: flowfabric.FeedStartEarliest, Partitions: []uint16{30}, Limit: 1})
	same(t, "first of the rest", seqs(first.Events), []string{"30-8"})
}

// Between partitions events come in the order of their instants, and a reader far
// behind on one partition gets full pages.
func TestFeedOrderAndCatchUp(t *testing.T) {
	s := newReader(t)
	var want []flowfabric.ExecutionID
	for i := range 60 {
		want = append(want, s.ended(uint16([]int{7, 3, 200}[i%3]), 1)...)
		s.clock.Advance(time.Millisecond)
	}
	var got []flowfabric.ExecutionID
	cursor := flowfabric.FeedStartEarliest
	for pages := 0; ; pages++ {
		res := s.readFeed(flowfabric.ReadFeedArgs{Start: cursor, Limit: 25})
		for _, ev := range res.Events {
			got = append(got, ev.ExecutionID)
		}
		cursor = res.NextCursor
		if !res.HasMore {
			if pages != 2 {
				t.Errorf("%d pages of 25 for 60 events", pages+1)
			}
			break
		}
	}
	same(t, "order", got, want)
	s.ended(5, 120)
	res := s.readFeed(flowfabric.ReadFeedArgs{Start: cursor, Limit: 100})
	if len(res.Events) != 100 || !res.HasMore {
		t.Errorf("a page of 100 holds %d, more %t", len(res.Events), res.HasMore)
	}
	rest := s.readFeed(flowfabric.ReadFeedArgs{Start: res.NextCursor, Limit: 100})
	if len(rest.Events) != 20 || rest.HasMore {
		t.Errorf("the rest holds %d, more %t", len(rest.Events), rest.HasMore)
	}
	none := s.readFeed(flowfabric.ReadFeedArgs{Start: flowfabric.FeedStartEarliest, Filter: flowfabric.FeedFilter{LaneID: "none"}})
	if len(none.Events) != 0 || none.HasMore {
		t.Errorf("a filter that nothing passes: %d, more %t", len(none.Events), none.HasMore)
	}
}

// One event that does not decode is told once, after what came before it, and
// reading goes on behind it.
func TestFeedPassesABadEvent(t *testing.T) {
	s := newReader(t)
	ids := s.ended(1, 1)
	s.server.Must("XADD", feedKey(s.tag(1), flowfabric.FeedCompletions), "0-*", "v", "nonsense")
	ids = append(ids, s.ended(1, 1)...)
	first := s.readFeed(flowfabric.ReadFeedArgs{Start: flowfabric.FeedStartEarliest})
	if len(first.Events) != 1 || first.Events[0].ExecutionID != ids[0] || !first.HasMore {
		t.Fatalf("before the bad event: %+v", first)
	}
	_, err := s.ReadFeed(t.Context(), flowfabric.ReadFeedArgs{Feed: flowfabric.FeedCompletions, Start: first.NextCursor})
	bad := wantCode(t, err, flowfabric.CodeCorruptRecord)
	if bad.Detail("event_id") != "1-2" {
		t.Fatalf("at the bad event: %v %v", err, bad.Details)
	}
	cursor, _ := bad.Detail("cursor").(string)
	last := s.readFeed(flowfabric.ReadFeedArgs{Start: cursor})
	if len(last.Events) != 1 || last.Events[0].ExecutionID != ids[1] || last.HasMore {
		t.Fatalf("behind the bad event: %+v", last)
	}
}

func TestFeedCursorsOfAnotherKind(t *testing.T) {
	s := newReader(t)
	s.ended(1, 3)
	good := s.readFeed(flowfabric.ReadFeedArgs{Start: flowfabric.FeedStartEarliest}).NextCursor
	ahead := feedCursor{feed: 1, parts: []uint16{1}, seqs: []uint64{4}}
	strange := &Store{deploymentID: uuid.NewString()}
	for reason, cursor := range map[string]string{
		"malformed":    good[:10],
		"ahead_of_log": s.encodeCursor(&ahead),
		"wrong_store":  strange.encodeCursor(&ahead),
		"wrong_scope":  s.encodeCursor(&feedCursor{feed: 1, scope: 77}),
		"wrong_feed":   s.encodeCursor(&feedCursor{feed: 2}),
	} {
		_, err := s.ReadFeed(t.Context(), flowfabric.ReadFeedArgs{Feed: flowfabric.FeedCompletions, Start: cursor})
		if e := wantCode(t, err, flowfabric.CodeInvalidCursor); e.Detail("reason") != reason {
			t.Errorf("want %s, got %v", reason, err)
		}
	}
}

func TestListShowsWhatWasJustCreated(t *testing.T) {
	s := newReader(t)
	id := func(n int) flowfabric.ExecutionID {
		return flowfabric.ExecutionID(fmt.Sprintf("{fp:3}:%08d-0000-4000-8000-000000000000", n))
	}
	make := func(n int) { s.create(3, func(a *flowfabric.CreateExecutionArgs) { a.ExecutionID = id(n) }) }
	for _, n := range []int{10, 20, 30} {
		make(n)
	}
	page, err := s.ListExecutions(t.Context(), flowfabric.ListExecutionsArgs{Partition: 3, Limit: 1})
	s.ok(err)
	if s.pages.find(3) == nil {
		t.Error("the members are not kept for the next page")
	}
	make(15)
	// Another process's creates show with a delay; what was purged does not show.
	s.server.Must("ZREM", "ff:idx:{fp:3}:due", uuidOf(id(20)))
	s.server.Must("DEL", execKey(id(20), "core"))
	page, err = s.ListExecutions(t.Context(), flowfabric.ListExecutionsArgs{Partition: 3, Cursor: page.NextCursor})
	s.ok(err)
	var got []flowfabric.ExecutionID
	for _, x := range page.Executions {
		got = append(got, x.ExecutionID)
	}
	same(t, "the rest", got, []flowfabric.ExecutionID{id(15), id(30)})
}

// Texts over 64 bytes lie beside core; listings and leases find them.
func TestLongNames(t *testing.T) {
	s := newReader(t)
	ns := flowfabric.Namespace(strings.Repeat("n", 128))
	instance := flowfabric.WorkerInstanceID("-" + strings.Repeat("i", 127))
	id := s.create(8, func(a *flowfabric.CreateExecutionArgs) { a.Namespace = ns })
	plain := s.create(8)
	task := s.claim(id, instance)
	s.claim(plain, "-")
	page, err := s.ListExecutions(t.Context(), flowfabric.ListExecutionsArgs{Partition: 8, Namespace: ns})
	s.ok(err)
	if len(page.Executions) != 1 || page.Executions[0].Namespace != ns || page.Executions[0].Kind != "task" {
		t.Errorf("listed is %+v", page.Executions)
	}
	for who, want := range map[flowfabric.WorkerInstanceID]flowfabric.ExecutionID{instance: id, "-": plain} {
		held, err := s.heldBy(t.Context(), who)
		s.ok(err)
		same(t, "held by "+string(who), held, []flowfabric.ExecutionID{want})
		list, err := s.ListWorkerLeases(t.Context(), flowfabric.ListWorkerLeasesArgs{WorkerInstanceID: who})
		s.ok(err)
		if len(list.Tasks) != 1 || list.Tasks[0].ExecutionID != want || string(list.Tasks[0].Payload) != "in" {
			t.Errorf("%s holds %+v", who, list.Tasks)
		}
	}
	s.clock.Advance(30 * time.Second)
	_, err = s.MarkLeaseExpiredIfDue(t.Context(), plain)
	s.ok(err)
	expired, err := s.ListExpiredLeases(t.Context(), flowfabric.ListExpiredLeasesArgs{Namespace: ns})
	s.ok(err)
	same(t, "expired", expired.Leases, []flowfabric.ExpiredLease{{ExecutionID: id, LeaseID: task.Fence.LeaseID, LeaseEpoch: 1, WorkerInstanceID: instance,
		ExpiresAt: task.LeaseExpiresAt}})
	// The lapsed lease of "-" reads as one of "--" or of "" to none.
	for _, who := range []flowfabric.WorkerInstanceID{"-", "--"} {
		if held, err := s.heldBy(t.Context(), who); err != nil || len(held) != 0 {
			t.Errorf("%s holds %v, %v", who, held, err)
		}
	}
}

func TestLeaseHistoryGoesThroughABusyFeed(t *testing.T) {
	s := newReader(t)
	id := s.create(2)
	s.claim(id, "i")
	for range 2 * historyChunk {
		s.server.Must("XADD", feedKey(s.tag(2), flowfabric.FeedLeases), "0-*", "v", "acquired\n"+testUUID+"\nrest")
	}
	s.cancel(id)
	res, err := s.GetLeaseHistory(t.Context(), flowfabric.LeaseHistoryArgs{ExecutionID: id})
	s.ok(err)
	same(t, "history", seqs(res.Events), []string{"2-1", "2-" + strconv.Itoa(2*historyChunk+2)})
	if res.Next != 0 {
		t.Errorf("next is %d", res.Next)
	}
	res, err = s.GetLeaseHistory(t.Context(), flowfabric.LeaseHistoryArgs{ExecutionID: id, Limit: 1})
	s.ok(err)
	if len(res.Events) != 1 || res.Next != 1 {
		t.Errorf("a page of one: %v, next %d", seqs(res.Events), res.Next)
	}
}

// Chapter 07, section 2: where the reservation of an idempotency key lies.
func TestKeyPartition(t *testing.T) {
	parts := flowfabric.PartitionConfig{NumFlowPartitions: 65535}
	crc := uint16(0)
	for _, b := range []byte("ns\x00key") {
		crc = crc<<8 ^ crcTable[byte(crc>>8)^b]
	}
	if got := keyPartition(parts, "ns", "key"); got != crc%65535 {
		t.Errorf("got %d, want %d", got, crc%65535)
	}
}

// Identifiers that the store mints come in runs of one partition each, and all
// partitions fill alike.
func TestMintedIdentifiersShareAPartition(t *testing.T) {
	s := newReader(t)
	s.minted.Store(0) // a process begins anywhere in a run
	items := make([]flowfabric.CreateExecutionArgs, 100)
	for i := range items {
		items[i] = flowfabric.CreateExecutionArgs{Namespace: "test", LaneID: "work", Kind: "task", CreatorIdentity: "tester"}
	}
	count := make(map[uint16]int)
	for range 10 {
		out, err := s.CreateExecutions(t.Context(), items)
		s.ok(err)
		for _, o := range out {
			s.ok(o.Err)
			id := o.Result.ExecutionID
			if got := s.parts.StandaloneExecutionID("work", id.UUID()); got != id {
				t.Fatalf("%s does not lie where the rule puts it, %s", id, got)
			}
			count[id.Partition()]++
		}
	}
	if len(count) != 16 {
		t.Errorf("1,000 identifiers lie on %d partitions", len(count))
	}
	for part, n := range count {
		if n != mintRun && n != 1000%mintRun {
			t.Errorf("%d on partition %d", n, part)
		}
	}
}

// A batch with keys takes each item its own way.
func TestBatchWithKeys(t *testing.T) {
	s := newReader(t)
	args := func(key string, part uint16) flowfabric.CreateExecutionArgs {
		return flowfabric.CreateExecutionArgs{ExecutionID: flowfabric.MakeExecutionID(part, uuid.New()), Namespace: "test", LaneID: "work", Kind: "task",
			CreatorIdentity: "tester", IdempotencyKey: key}
	}
	items := []flowfabric.CreateExecutionArgs{args("a", 1), args("b", 2), args("a", 3), args("", 4), args("b", 5), args("bad\nkey", 6)}
	out, err := s.CreateExecutions(t.Context(), items)
	s.ok(err)
	var got []string
	for i, o := range out {
		which := slices.IndexFunc(items, func(a flowfabric.CreateExecutionArgs) bool { return a.ExecutionID == o.Result.ExecutionID })
		got = append(got, fmt.Sprint(i, " ", o.Result.Outcome, " ", which, " ", flowfabric.CodeOf(o.Err)))
	}
	same(t, "outcomes", got, []string{"0 created 0 ", "1 created 1 ", "2 duplicate 0 ", "3 created 3 ", "4 duplicate 1 ", "5  -1 invalid_input"})
}
