package sqlite

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	zs "zombiezen.com/go/sqlite"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/backend/backendtest"
	"github.com/flowfabric/flowfabric/backend/internal/sqlstore"
)

// quiet opens a store without engine duties on a clock of the test's own.
func quiet(t *testing.T, path string, clk Clock) *Backend {
	t.Helper()
	b, err := Open(t.Context(), Config{Path: path, Clock: clk, NoEngine: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	return b
}

func created(t *testing.T, b *Backend, change ...func(*flowfabric.CreateExecutionArgs)) flowfabric.ExecutionID {
	t.Helper()
	a := flowfabric.CreateExecutionArgs{Namespace: "test", LaneID: "work", Kind: "task", CreatorIdentity: "tester"}
	for _, c := range change {
		c(&a)
	}
	res, err := flowfabric.CreateExecution(t.Context(), b, a)
	if err != nil {
		t.Fatal(err)
	}
	return res.ExecutionID
}

// A page filtered by tag is filled although other executions with tags stand
// before those that have it, and its cursor tells exactly whether more follows.
func TestPagesByTagAreFilled(t *testing.T) {
	b := quiet(t, "", backendtest.NewClock())
	var want []flowfabric.ExecutionID
	for i := range 60 {
		id := flowfabric.ExecutionID(fmt.Sprintf("{fp:3}:%08d-0000-4000-8000-000000000000", i))
		value := "other"
		if i%20 == 19 {
			value = "wanted"
			want = append(want, id)
		}
		created(t, b, func(a *flowfabric.CreateExecutionArgs) { a.ExecutionID, a.Tags = id, map[string]string{"a.b": value} })
	}
	args := flowfabric.ListExecutionsArgs{Partition: 3, Limit: 2, Tags: map[string]string{"a.b": "wanted"}}
	first, err := b.ListExecutions(t.Context(), args)
	if err != nil || len(first.Executions) != 2 || first.Executions[0].ExecutionID != want[0] || first.NextCursor != want[1] {
		t.Fatalf("first page %+v, %v", first, err)
	}
	args.Cursor = first.NextCursor
	second, err := b.ListExecutions(t.Context(), args)
	if err != nil || len(second.Executions) != 1 || second.Executions[0].ExecutionID != want[2] || second.NextCursor != "" {
		t.Fatalf("second page %+v, %v", second, err)
	}
}

// A grant that lapsed while no process had the file open hides its execution from
// nobody: the first claim finds it, before any tick.
func TestGrantLapsedWhileClosed(t *testing.T) {
	clk := backendtest.NewClock()
	path := filepath.Join(t.TempDir(), "flow.db")
	b := quiet(t, path, clk)
	id := created(t, b)
	_, err := b.IssueClaimGrant(t.Context(), flowfabric.IssueClaimGrantArgs{ExecutionID: id, LaneID: "work", WorkerID: "w",
		WorkerInstanceID: "w-1", GrantTTLMs: 1000})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	clk.Advance(2_000_000_000)

	b = quiet(t, path, clk)
	res, err := b.ClaimTasks(t.Context(), flowfabric.ClaimTasksArgs{WorkerID: "x", WorkerInstanceID: "x-1",
		Lanes: []flowfabric.LaneID{"work"}, MaxTasks: 1, LeaseTTLMs: 1000})
	if err != nil || len(res.Tasks) != 1 || res.Tasks[0].ExecutionID != id {
		t.Fatalf("claimed %+v, %v", res.Tasks, err)
	}
}

// What has served its time does not stay for ever.
func TestSpentRowsAreTrimmed(t *testing.T) {
	clk := backendtest.NewClock()
	b := quiet(t, "", clk)
	for i := range 3 {
		created(t, b, func(a *flowfabric.CreateExecutionArgs) { a.IdempotencyKey = fmt.Sprint("k", i) })
		nonce := fmt.Sprintf("00000000-0000-4000-8000-00000000000%d", i)
		if _, err := b.RegisterWorker(t.Context(), flowfabric.RegisterWorkerArgs{Namespace: "test", WorkerID: "w", WorkerInstanceID: "w-1",
			Lanes: []flowfabric.LaneID{"work"}, InstanceNonce: nonce}); err != nil {
			t.Fatal(err)
		}
		if _, err := b.DeregisterWorker(t.Context(), flowfabric.MarkWorkerDeadArgs{Namespace: "test", WorkerInstanceID: "w-1", Reason: "done"}); err != nil {
			t.Fatal(err)
		}
	}
	if keys, events := rows(t, b, "idempotency"), rows(t, b, "worker_events"); keys != 3 || events != 6 {
		t.Fatalf("%d keys, %d events before", keys, events)
	}
	clk.Advance(23 * 3600_000_000_000)
	created(t, b, func(a *flowfabric.CreateExecutionArgs) { a.IdempotencyKey = "young" })
	clk.Advance(3600_001_000_000)
	if _, err := b.TrimFeeds(t.Context()); err != nil {
		t.Fatal(err)
	}
	if keys, events := rows(t, b, "idempotency"), rows(t, b, "worker_events"); keys != 1 || events != 0 {
		t.Errorf("%d keys, %d events after", keys, events)
	}
}

func rows(t *testing.T, b *Backend, table string) int64 {
	t.Helper()
	b.writer.connMu.Lock()
	defer b.writer.connMu.Unlock()
	stmt, _, err := b.writer.conn.c.PrepareTransient("select count(*) from " + table)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = stmt.Finalize() }()
	if _, err := stmt.Step(); err != nil {
		t.Fatal(err)
	}
	return stmt.ColumnInt64(0)
}

// One event that does not decode is told once, after what came before it, and
// reading goes on behind it.
func TestBadEventIsPassed(t *testing.T) {
	clk := backendtest.NewClock()
	b := quiet(t, "", clk)
	var ids []flowfabric.ExecutionID
	for i := range 3 {
		ids = append(ids, created(t, b, func(a *flowfabric.CreateExecutionArgs) {
			a.ExecutionID = flowfabric.MakeExecutionID(uint16(i), uuid.New())
		}))
		if _, err := b.CancelExecution(t.Context(), flowfabric.CancelExecutionArgs{ExecutionID: ids[len(ids)-1], Source: flowfabric.SourceOperatorOverride}); err != nil {
			t.Fatal(err)
		}
	}
	meddle(t, b, `update events set rec = x'ff' where feed = 1 and pos = 2`)
	read := func(from string) (flowfabric.ReadFeedResult, error) {
		return b.ReadFeed(t.Context(), flowfabric.ReadFeedArgs{Feed: flowfabric.FeedCompletions, Start: from})
	}
	first, err := read(flowfabric.FeedStartEarliest)
	if err != nil || len(first.Events) != 1 || first.Events[0].ExecutionID != ids[0] || !first.HasMore {
		t.Fatalf("before the bad event: %+v, %v", first, err)
	}
	_, err = read(first.NextCursor)
	bad := flowfabric.AsError(err)
	if flowfabric.CodeOf(err) != flowfabric.CodeCorruptRecord || bad.Detail("event_id") != "1-1" {
		t.Fatalf("at the bad event: %v", err)
	}
	cursor, _ := bad.Detail("cursor").(string)
	last, err := read(cursor)
	if err != nil || len(last.Events) != 1 || last.Events[0].ExecutionID != ids[2] || last.HasMore {
		t.Fatalf("behind the bad event: %+v, %v", last, err)
	}
}

// TestFailureInAGroup lets one operation of a group fail: the others are carried
// out all the same, once each, and the writer remembers nothing of the failed
// attempt.
func TestFailureInAGroup(t *testing.T) {
	b := quiet(t, "", backendtest.NewClock())
	ctx := t.Context()
	args := flowfabric.CreateExecutionArgs{Namespace: "test", LaneID: "work", Kind: "task", CreatorIdentity: "tester",
		Policy: []byte(`{"routing_requirements":{"required_capabilities":["gpu"]}}`)}
	old, err := flowfabric.CreateExecution(ctx, b, args)
	if err != nil {
		t.Fatal(err)
	}
	held, release := make(chan struct{}), make(chan struct{})
	var all sync.WaitGroup
	all.Go(func() {
		_ = b.Write(ctx, 1, func(*sqlstore.Tx) error {
			close(held)
			<-release
			return nil
		})
	})
	<-held
	refused := errors.New("refused on purpose")
	var failure error
	results := make([]flowfabric.CreateExecutionResult, 20)
	var tasks []flowfabric.ClaimedExecution
	for i := range results {
		all.Go(func() {
			a := args
			a.IdempotencyKey = "one"
			results[i], _ = flowfabric.CreateExecution(ctx, b, a)
		})
	}
	all.Go(func() { failure = b.Write(ctx, 1, func(*sqlstore.Tx) error { return refused }) })
	all.Go(func() {
		res, err := b.ClaimTasks(ctx, flowfabric.ClaimTasksArgs{WorkerID: "w", WorkerInstanceID: "w-1", Lanes: []flowfabric.LaneID{"work"},
			Capabilities: []string{"gpu"}, MaxTasks: 1, LeaseTTLMs: 1000})
		if err != nil {
			t.Error(err)
		}
		tasks = res.Tasks
	})
	for waiting := 0; waiting < len(results)+2; runtime.Gosched() {
		b.writer.mu.Lock()
		waiting = len(b.writer.queue)
		b.writer.mu.Unlock()
	}
	close(release)
	all.Wait()
	if !errors.Is(failure, refused) && flowfabric.AsError(failure) == nil {
		t.Errorf("the failing operation got %v", failure)
	}
	made := 0
	for _, r := range results {
		if r.Outcome == flowfabric.OutcomeCreated {
			made++
		}
		if r.ExecutionID != results[0].ExecutionID {
			t.Errorf("one key gave %s and %s", r.ExecutionID, results[0].ExecutionID)
		}
	}
	if made != 1 || len(tasks) != 1 || tasks[0].ExecutionID != old.ExecutionID && tasks[0].ExecutionID != results[0].ExecutionID {
		t.Errorf("%d created, claimed %+v", made, tasks)
	}
	lane, err := b.GetLane(ctx, "work")
	if err != nil || lane.Counts[flowfabric.PublicActive] != 1 || lane.Counts[flowfabric.PublicWaiting] != 1 {
		t.Errorf("counts %v, %v", lane.Counts, err)
	}
}

// What was trimmed between the look at the published heads and the read of the
// log is a gap, not a silent loss.
func TestTrimmedWhileReading(t *testing.T) {
	b := quiet(t, "", backendtest.NewClock())
	for range 4 {
		id := created(t, b, func(a *flowfabric.CreateExecutionArgs) { a.ExecutionID = flowfabric.MakeExecutionID(3, uuid.New()) })
		if _, err := b.CancelExecution(t.Context(), flowfabric.CancelExecutionArgs{ExecutionID: id, Source: flowfabric.SourceOperatorOverride}); err != nil {
			t.Fatal(err)
		}
	}
	args := flowfabric.ReadFeedArgs{Feed: flowfabric.FeedCompletions, Start: flowfabric.FeedStartEarliest, Limit: 1}
	first, err := b.ReadFeed(t.Context(), args)
	if err != nil {
		t.Fatal(err)
	}
	meddle(t, b, `delete from events where feed = 1 and seq in (2, 3)`)
	args.Start, args.Limit = first.NextCursor, 10
	rest, err := b.ReadFeed(t.Context(), args)
	if err != nil || len(rest.Gaps) != 1 || rest.Gaps[0] != (flowfabric.Gap{Partition: 3, MissedFromSeq: 2, MissedToSeq: 3}) ||
		len(rest.Events) != 1 || rest.Events[0].EventID != "3-4" {
		t.Fatalf("read %+v, %v", rest, err)
	}
	args.Start = rest.NextCursor
	if end, err := b.ReadFeed(t.Context(), args); err != nil || len(end.Gaps)+len(end.Events) > 0 {
		t.Errorf("behind it: %+v, %v", end, err)
	}
}

// The clock begins no earlier than anything stored, also where no event tells
// when.
func TestClockSetBackBetweenStarts(t *testing.T) {
	clk := backendtest.NewClock()
	path := filepath.Join(t.TempDir(), "flow.db")
	b := quiet(t, path, clk)
	id := created(t, b)
	was := b.Now()
	snap, err := b.DescribeExecution(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	for _, crash := range []bool{false, true} {
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
		if crash { // nothing was saved on the way out
			forgetClock(t, path)
		}
		b = quiet(t, path, setBack{clk})
		if now := b.Now(); now < was || now < snap.LastMutationAt {
			t.Errorf("crash %t: the clock begins at %d, stored is %d", crash, now, was)
		}
	}
}

func forgetClock(t *testing.T, path string) {
	t.Helper()
	c, err := zs.OpenConn(path, zs.OpenReadWrite)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	stmt, _, err := c.PrepareTransient(`delete from config where name = 'clock'`)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = stmt.Finalize() }()
	if _, err := stmt.Step(); err != nil || c.Changes() != 1 {
		t.Fatalf("%d rows, %v", c.Changes(), err)
	}
}

type setBack struct{ *backendtest.Clock }

func (c setBack) Now() time.Time { return c.Clock.Now().Add(-time.Hour) }

// A registration that does not decode keeps no store from opening.
func TestBadRegistration(t *testing.T) {
	b := quiet(t, "", backendtest.NewClock())
	meddle(t, b, `insert into workers (namespace, instance, rec) values ('test', 'w-1', '{')`)
	if _, err := b.RegisterWorker(t.Context(), flowfabric.RegisterWorkerArgs{Namespace: "test", WorkerID: "w", WorkerInstanceID: "w-1",
		Lanes: []flowfabric.LaneID{"work"}, InstanceNonce: uuid.NewString()}); err != nil {
		t.Fatal(err)
	}
}

// An input that is gone stops nobody else's task: its execution is held for an
// operator, and the batch brings the others.
func TestClaimWithoutInput(t *testing.T) {
	b := quiet(t, "", backendtest.NewClock())
	bad, good := created(t, b), created(t, b, func(a *flowfabric.CreateExecutionArgs) { a.Payload = []byte("in") })
	u := bad.UUID()
	meddle(t, b, `delete from inputs where xid = (select xid from executions where part = ? and uuid = ?)`, int64(bad.Partition()), u[:])
	args := flowfabric.ClaimTasksArgs{WorkerID: "w", WorkerInstanceID: "w-1", Lanes: []flowfabric.LaneID{"work"}, MaxTasks: 5, LeaseTTLMs: 30_000}
	res, err := b.ClaimTasks(t.Context(), args)
	if err != nil {
		t.Fatal(err)
	}
	if len(res.Tasks) != 1 || res.Tasks[0].ExecutionID != good || string(res.Tasks[0].Payload) != "in" {
		t.Fatalf("tasks %+v, want the one whose input is there", res.Tasks)
	}
	x, err := b.GetExecution(t.Context(), bad)
	if err != nil {
		t.Fatal(err)
	}
	if x.OwnershipState != flowfabric.OwnershipLeaseRevoked || !x.ReclaimHold || x.LeaseRevokeReason != "corrupt_record" {
		t.Errorf("the execution is %s, held %t, revoked for %q", x.OwnershipState, x.ReclaimHold, x.LeaseRevokeReason)
	}
	if res, err = b.ClaimTasks(t.Context(), args); err != nil || len(res.Tasks) != 0 {
		t.Errorf("a second claim: %d tasks, %v", len(res.Tasks), err)
	}
	_, err = b.IssueGrantAndClaim(t.Context(), flowfabric.IssueGrantAndClaimArgs{ExecutionID: bad, WorkerID: "w", WorkerInstanceID: "w-1",
		LeaseTTLMs: 30_000, OperatorOverride: true})
	if flowfabric.CodeOf(err) != flowfabric.CodeCorruptRecord {
		t.Errorf("a claim of the execution itself: %v, want corrupt_record", err)
	}
}

// warnings keeps the warnings that are logged.
type warnings struct {
	slog.Handler
	mu   sync.Mutex
	list []slog.Record
}

func (w *warnings) Enabled(context.Context, slog.Level) bool { return true }

func (w *warnings) Handle(_ context.Context, r slog.Record) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if r.Level == slog.LevelWarn {
		w.list = append(w.list, r)
	}
	return nil
}

// Every hundredth reclaim of an execution is worth a warning. (Specification 02,
// section 5.5.)
func TestEveryHundredthReclaimWarns(t *testing.T) {
	said := &warnings{}
	b, err := Open(t.Context(), Config{Clock: backendtest.NewClock(), NoEngine: true, Logger: slog.New(said)})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	id := created(t, b)
	args := flowfabric.ClaimTasksArgs{WorkerID: "w", WorkerInstanceID: "w-1", Lanes: []flowfabric.LaneID{"work"}, MaxTasks: 1, LeaseTTLMs: 30_000}
	for n := range 201 { // the first claim is no reclaim
		want := n / 100
		if n%2 == 0 {
			res, err := b.ClaimTasks(t.Context(), args)
			if err != nil || len(res.Tasks) != 1 {
				t.Fatalf("claim %d: %d tasks, %v", n, len(res.Tasks), err)
			}
		} else {
			_, err := b.IssueGrantAndClaim(t.Context(), flowfabric.IssueGrantAndClaimArgs{ExecutionID: id, WorkerID: "w", WorkerInstanceID: "w-1", LeaseTTLMs: 30_000})
			if err != nil {
				t.Fatal(err)
			}
		}
		if len(said.list) != want {
			t.Fatalf("%d warnings after %d reclaims, want %d", len(said.list), n, want)
		}
		if _, err := b.RevokeLease(t.Context(), flowfabric.RevokeLeaseArgs{ExecutionID: id}); err != nil {
			t.Fatal(err)
		}
	}
}

// Renewing and completing an execution with a payload of 1 MiB writes no page of
// the payload: the log hardly grows. (Specification 07, scenario 62.)
func TestPayloadIsWrittenOnce(t *testing.T) {
	clk := backendtest.NewClock()
	path := filepath.Join(t.TempDir(), "flow.db")
	b := quiet(t, path, clk)
	big := func(a *flowfabric.CreateExecutionArgs) { a.Payload = make([]byte, flowfabric.MaxPayloadBytes) }
	size := func() int64 {
		t.Helper()
		s, err := os.Stat(path + "-wal")
		if err != nil {
			t.Fatal(err)
		}
		return s.Size()
	}
	id := created(t, b, big)
	task, err := b.IssueGrantAndClaim(t.Context(), flowfabric.IssueGrantAndClaimArgs{ExecutionID: id, WorkerID: "w", WorkerInstanceID: "w-1", LeaseTTLMs: 30_000})
	if err != nil {
		t.Fatal(err)
	}
	before := size()
	for range 3 {
		if _, err := flowfabric.RenewLease(t.Context(), b, flowfabric.RenewLeaseArgs{ExecutionID: id, Fence: task.Fence, LeaseTTLMs: 30_000}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := flowfabric.CompleteExecution(t.Context(), b, flowfabric.CompleteExecutionArgs{ExecutionID: id, Fence: task.Fence, Result: []byte("done")}); err != nil {
		t.Fatal(err)
	}
	after := size()
	if grown := after - before; grown <= 0 || grown > 128<<10 {
		t.Errorf("three renewals and the completion grew the log by %d bytes", grown)
	}
	created(t, b, big)
	if grown := size() - after; grown < flowfabric.MaxPayloadBytes {
		t.Errorf("another payload grew the log by %d bytes: this test proves nothing", grown)
	}
}
