package sqlite

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/backend/internal/sqlstore"
)

// TestAFailingOperationHurtsNobodyElse: an operation that fails undoes its
// group, and every other operation of the group still succeeds on its own.
func TestAFailingOperationHurtsNobodyElse(t *testing.T) {
	var logged bytes.Buffer
	b, err := Open(t.Context(), Config{Logger: slog.New(slog.NewTextHandler(&logged, nil)), NoEngine: true})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	// Hold the writer so that the operations collect into one group.
	started, release := make(chan struct{}), make(chan struct{})
	go func() {
		_ = b.Write(context.Background(), 1, func(*sqlstore.Tx) error {
			close(started)
			<-release
			return nil
		})
	}()
	<-started
	create := func() (flowfabric.CreateExecutionResult, error) {
		return flowfabric.CreateExecution(context.Background(), b, flowfabric.CreateExecutionArgs{Namespace: "test", LaneID: "default",
			Kind: "test", CreatorIdentity: "test", Tags: map[string]string{"a.b": "c"}})
	}
	var wg sync.WaitGroup
	ids := make([]flowfabric.ExecutionID, 8)
	for i := range ids {
		wg.Go(func() {
			res, err := create()
			if err != nil {
				t.Errorf("create %d: %v", i, err)
			}
			ids[i] = res.ExecutionID
		})
	}
	bad := errors.New("boom")
	var got, panicked error
	wg.Go(func() { got = b.Write(context.Background(), 1, func(*sqlstore.Tx) error { return bad }) })
	wg.Go(func() { panicked = b.Write(context.Background(), 1, func(*sqlstore.Tx) error { panic("bang") }) })
	waitQueued(b.writer, 10)
	close(release)
	wg.Wait()
	if _, err := create(); err != nil {
		t.Error(err)
	}
	if !errors.Is(got, flowfabric.ErrStoreUnavailable) || !errors.Is(got, bad) {
		t.Errorf("the failing operation got %v", got)
	}
	if !errors.Is(panicked, flowfabric.ErrInternal) {
		t.Errorf("the panicking operation got %v", panicked)
	}
	for _, id := range ids {
		if snap, err := b.DescribeExecution(t.Context(), id); err != nil || snap == nil || snap.Tags["a.b"] != "c" {
			t.Errorf("%s: %+v, %v", id, snap, err)
		}
	}
	lane, err := b.GetLane(t.Context(), "default")
	if err != nil || lane.Counts[flowfabric.PublicWaiting] != int64(len(ids)+1) {
		t.Errorf("counts %v, %v", lane.Counts, err)
	}
	if text := logged.String(); !strings.Contains(text, "cannot commit") || !strings.Contains(text, "commits again") {
		t.Errorf("logged %q", text)
	}
}

// waitQueued returns once n operations wait for the writer.
func waitQueued(w *writer, n int) {
	for {
		w.mu.Lock()
		have := len(w.queue)
		w.mu.Unlock()
		if have >= n {
			return
		}
		runtime.Gosched()
	}
}
