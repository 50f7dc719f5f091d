package sqlite_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/backend/sqlite"
)

func open(t *testing.T, cfg sqlite.Config) *sqlite.Backend {
	t.Helper()
	b, err := sqlite.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return b
}

func create(t *testing.T, b *sqlite.Backend, change ...func(*flowfabric.CreateExecutionArgs)) flowfabric.ExecutionID {
	t.Helper()
	args := flowfabric.CreateExecutionArgs{Namespace: "test", LaneID: "default", Kind: "test", CreatorIdentity: "test", Payload: []byte(`{"n":1}`)}
	for _, c := range change {
		c(&args)
	}
	res, err := flowfabric.CreateExecution(t.Context(), b, args)
	if err != nil {
		t.Fatal(err)
	}
	return res.ExecutionID
}

func claim(t *testing.T, b *sqlite.Backend, n int) []flowfabric.ClaimedExecution {
	t.Helper()
	res, err := b.ClaimTasks(t.Context(), flowfabric.ClaimTasksArgs{WorkerID: "w", WorkerInstanceID: "w-1", Lanes: []flowfabric.LaneID{"default"},
		Namespace: "test", MaxTasks: n, LeaseTTLMs: 30_000})
	if err != nil {
		t.Fatal(err)
	}
	return res.Tasks
}

func TestReopenKeepsEverything(t *testing.T) {
	path := filepath.Join(t.TempDir(), "deep", "er", "flow.db")
	b := open(t, sqlite.Config{Path: path})
	id := create(t, b, func(a *flowfabric.CreateExecutionArgs) {
		a.Tags = map[string]string{"app.color": "red"}
		a.IdempotencyKey = "once"
		a.Policy = []byte(`{"retry_policy":{"max_retries":2,"backoff":{"type":"fixed","delay_ms":0}},"routing_requirements":{"required_capabilities":["gpu"]}}`)
	})
	other := create(t, b)
	task := claim(t, b, 5)
	if len(task) != 1 || task[0].ExecutionID != other {
		t.Fatalf("claimed %+v, want only %s", task, other)
	}
	before, err := b.DescribeExecution(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	info, err := b.Describe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Fatalf("second close: %v", err)
	}
	if _, err := b.GetExecutionState(t.Context(), id); !errors.Is(err, flowfabric.ErrShuttingDown) {
		t.Fatalf("read after close: %v", err)
	}

	b = open(t, sqlite.Config{Path: path})
	after, err := b.DescribeExecution(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("described %+v, before %+v", after, before)
	}
	again, err := b.Describe(t.Context())
	if err != nil || again.DeploymentID != info.DeploymentID {
		t.Errorf("deployment %q became %q (%v)", info.DeploymentID, again.DeploymentID, err)
	}
	// The lease given before the restart still ends the execution; the caps still
	// route; the key still finds the first.
	if _, err := flowfabric.CompleteExecution(t.Context(), b, flowfabric.CompleteExecutionArgs{ExecutionID: other, Fence: task[0].Fence, Result: []byte("ok")}); err != nil {
		t.Error(err)
	}
	res, err := flowfabric.CreateExecution(t.Context(), b, flowfabric.CreateExecutionArgs{Namespace: "test", LaneID: "default", Kind: "test",
		CreatorIdentity: "test", IdempotencyKey: "once"})
	if err != nil || res.Outcome != flowfabric.OutcomeDuplicate || res.ExecutionID != id {
		t.Errorf("repeat gave %+v, %v", res, err)
	}
	lane, err := b.GetLane(t.Context(), "default")
	if err != nil || lane.Counts[flowfabric.PublicCompleted] != 1 || lane.Counts[flowfabric.PublicWaiting] != 1 {
		t.Errorf("counts %v, %v", lane.Counts, err)
	}
}

func TestOneProcessPerFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "flow.db")
	open(t, sqlite.Config{Path: path})
	_, err := sqlite.Open(t.Context(), sqlite.Config{Path: path})
	if err == nil {
		t.Fatal("a second open succeeded")
	}
	if !strings.Contains(err.Error(), fmt.Sprintf("process %d", os.Getpid())) {
		t.Errorf("the error does not name the holder: %v", err)
	}
}

func TestPartitionCountIsFixed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "flow.db")
	seven := flowfabric.PartitionConfig{NumFlowPartitions: 7, NumBudgetPartitions: 1, NumQuotaPartitions: 1}
	b := open(t, sqlite.Config{Path: path, PartitionConfig: seven})
	create(t, b)
	_ = b.Close()
	_, err := sqlite.Open(t.Context(), sqlite.Config{Path: path, PartitionConfig: flowfabric.DefaultPartitionConfig()})
	if !errors.Is(err, flowfabric.ErrPartitionCountMismatch) {
		t.Fatalf("got %v", err)
	}
	b = open(t, sqlite.Config{Path: path})
	if got, _ := b.PartitionConfig(t.Context()); got != seven {
		t.Errorf("partitions %+v", got)
	}
}

func TestBackupWhileWritingAndRestore(t *testing.T) {
	dir := t.TempDir()
	b := open(t, sqlite.Config{Path: filepath.Join(dir, "flow.db")})
	ids := []flowfabric.ExecutionID{create(t, b), create(t, b)}
	feed, err := b.ReadFeed(t.Context(), flowfabric.ReadFeedArgs{Feed: flowfabric.FeedCompletions, Start: flowfabric.FeedStartEarliest})
	if err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var busy sync.WaitGroup
	busy.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				_, _ = flowfabric.CreateExecution(context.Background(), b, flowfabric.CreateExecutionArgs{Namespace: "noise", LaneID: "noise",
					Kind: "noise", CreatorIdentity: "test", Payload: make([]byte, 4096)})
			}
		}
	})
	saved := filepath.Join(dir, "saved.db")
	err = b.Backup(t.Context(), saved, nil)
	close(stop)
	busy.Wait()
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Backup(t.Context(), saved, nil); !errors.Is(err, flowfabric.ErrInvalidInput) {
		t.Errorf("a backup over a file: %v", err)
	}
	back := filepath.Join(dir, "back.db")
	// What a former store of that name left behind must not come back.
	wal, err := os.ReadFile(filepath.Join(dir, "flow.db-wal"))
	if err != nil || len(wal) == 0 {
		t.Fatalf("no log to leave behind: %d bytes, %v", len(wal), err)
	}
	if err := os.WriteFile(back+"-wal", wal, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := sqlite.Restore(t.Context(), saved, back); err != nil {
		t.Fatal(err)
	}
	r := open(t, sqlite.Config{Path: back})
	for _, id := range ids {
		if state, err := r.GetExecutionState(t.Context(), id); err != nil || state != flowfabric.PublicWaiting {
			t.Errorf("%s: %s, %v", id, state, err)
		}
	}
	if tasks := claim(t, r, 10); len(tasks) != 2 {
		t.Errorf("%d of 2 claimed after the restore", len(tasks))
	}
	// A restore is a new incarnation.
	if _, err := r.ReadFeed(t.Context(), flowfabric.ReadFeedArgs{Feed: flowfabric.FeedCompletions, Start: feed.NextCursor}); !errors.Is(err, flowfabric.ErrInvalidCursor) {
		t.Errorf("an old cursor: %v", err)
	}
	if err := sqlite.Restore(t.Context(), filepath.Join(dir, "flow.db.lock"), filepath.Join(dir, "bad.db")); err == nil {
		t.Error("restored from a file that is no backup")
	}
}

func TestCancelledContextWithdraws(t *testing.T) {
	b := open(t, sqlite.Config{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := b.CancelExecution(ctx, flowfabric.CancelExecutionArgs{ExecutionID: create(t, b), Source: flowfabric.SourceOperatorOverride, Reason: "x"}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestPendingMigrations(t *testing.T) {
	path := filepath.Join(t.TempDir(), "flow.db")
	pending, err := sqlite.PendingMigrations(t.Context(), path)
	if err != nil || len(pending) == 0 {
		t.Fatalf("a missing file: %v, %v", pending, err)
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("looking made the file")
	}
	b := open(t, sqlite.Config{Path: path})
	if _, err := sqlite.PendingMigrations(t.Context(), path); err == nil {
		t.Error("looked at a file in use")
	}
	_ = b.Close()
	if pending, err := sqlite.PendingMigrations(t.Context(), path); err != nil || len(pending) != 0 {
		t.Errorf("after opening: %v, %v", pending, err)
	}
}
