package remote_test

import (
	"context"
	"errors"
	"log/slog"
	"net/http/httptest"
	"slices"
	"testing"
	"time"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/backend/backendtest"
	"github.com/flowfabric/flowfabric/backend/remote"
	"github.com/flowfabric/flowfabric/backend/sqlite"
	"github.com/flowfabric/flowfabric/server"
)

const serverToken = "conformance-token-0123456789"

// helped is a remote backend that asks the store for what no route has: the full
// record and the policy of an execution that the route finds, the lanes that a
// deployment with strict lanes declares at its start, and the sources that HTTP
// can't say, which are the engine's and an operator's with a fence.
type helped struct {
	*remote.Backend
	store *sqlite.Backend
}

func (h helped) GetExecution(ctx context.Context, id flowfabric.ExecutionID) (*flowfabric.Execution, error) {
	if _, err := h.Backend.GetExecution(ctx, id); err != nil {
		return nil, err
	}
	return h.store.GetExecution(ctx, id)
}

func (h helped) GetExecutionPolicy(ctx context.Context, id flowfabric.ExecutionID) (*flowfabric.Policy, error) {
	if _, err := h.Backend.GetExecutionPolicy(ctx, id); !errors.Is(err, flowfabric.ErrUnsupportedOperation) {
		return nil, err
	}
	return h.store.GetExecutionPolicy(ctx, id)
}

func (h helped) DeclareLanes(ctx context.Context, lanes []flowfabric.LaneID) error {
	if err := h.Backend.DeclareLanes(ctx, lanes); !errors.Is(err, flowfabric.ErrLaneNotFound) {
		return err
	}
	return h.store.DeclareLanes(ctx, lanes)
}

func silent(s flowfabric.Source, f flowfabric.Fence) bool {
	switch s {
	case flowfabric.SourceFlowCascade, flowfabric.SourceSystemTimeout:
		return true
	case flowfabric.SourceOperatorOverride:
		return !f.Empty()
	}
	return false
}

func (h helped) CompleteExecutions(ctx context.Context, items []flowfabric.CompleteExecutionArgs) ([]flowfabric.Item[flowfabric.CompleteExecutionResult], error) {
	if slices.ContainsFunc(items, func(a flowfabric.CompleteExecutionArgs) bool { return silent(a.Source, a.Fence) }) {
		return h.store.CompleteExecutions(ctx, items)
	}
	return h.Backend.CompleteExecutions(ctx, items)
}

func (h helped) FailExecution(ctx context.Context, a flowfabric.FailExecutionArgs) (flowfabric.FailExecutionResult, error) {
	if silent(a.Source, a.Fence) {
		return h.store.FailExecution(ctx, a)
	}
	return h.Backend.FailExecution(ctx, a)
}

func (h helped) CancelExecution(ctx context.Context, a flowfabric.CancelExecutionArgs) (flowfabric.CancelExecutionResult, error) {
	if silent(a.Source, flowfabric.Fence{}) {
		return h.store.CancelExecution(ctx, a)
	}
	return h.Backend.CancelExecution(ctx, a)
}

func (h helped) DelayExecution(ctx context.Context, a flowfabric.DelayExecutionArgs) (flowfabric.DelayExecutionResult, error) {
	if silent(a.Source, a.Fence) {
		return h.store.DelayExecution(ctx, a)
	}
	return h.Backend.DelayExecution(ctx, a)
}

// openConformance opens an empty store in memory, a server over it, and the
// remote backend over that.
func openConformance(t *testing.T, o backendtest.Options) backendtest.Harness {
	t.Helper()
	clock := backendtest.NewClock()
	cfg := sqlite.Config{Clock: clock, NoEngine: true, StrictLanes: o.StrictLanes, Feeds: o.Feeds}
	if o.FlowPartitions > 0 {
		cfg.PartitionConfig = flowfabric.DefaultPartitionConfig()
		cfg.PartitionConfig.NumFlowPartitions = o.FlowPartitions
	}
	store, err := sqlite.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	b := serve(t, store)
	return backendtest.Harness{
		Backend: helped{b, store}, Store: store, Clock: clock,
		With: func(t *testing.T, o backendtest.Options) backendtest.Harness { return openConformance(t, o) },
	}
}

// serve starts a server over a store and opens the remote backend over it.
func serve(t *testing.T, store flowfabric.Backend) *remote.Backend {
	t.Helper()
	srv, err := server.New(store, server.Config{APIToken: serverToken, DisableDuties: true, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	web := httptest.NewServer(srv)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := srv.Shutdown(ctx); err != nil {
			t.Errorf("shutdown: %v", err)
		}
		web.Close()
	})
	b, err := remote.Open(t.Context(), web.URL, remote.WithToken(serverToken))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	return b
}

func TestConformance(t *testing.T) {
	backendtest.Run(t, func(t *testing.T) backendtest.Harness { return openConformance(t, backendtest.Options{}) })
}

func TestLinearizability(t *testing.T) {
	backendtest.RunLinearizability(t, func(t *testing.T) backendtest.Harness { return openConformance(t, backendtest.Options{}) })
}

func TestConcurrent(t *testing.T) {
	backendtest.RunConcurrent(t, func(t *testing.T) backendtest.Harness { return openConformance(t, backendtest.Options{}) })
}

func TestRandom(t *testing.T) {
	if testing.Short() {
		t.Skip("random operations over HTTP are left out of short runs")
	}
	backendtest.RunRandomFewer(t, 30, func(t *testing.T) backendtest.Harness { return openConformance(t, backendtest.Options{}) })
}
