package model_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/backend/backendtest"
	"github.com/flowfabric/flowfabric/engine"
	"github.com/flowfabric/flowfabric/internal/model"
)

// backend is the model with an engine beside it.
type backend struct {
	flowfabric.Store
	flowfabric.Scheduling
	flowfabric.Waits
	flowfabric.Administration
	eng   *engine.Engine
	model *model.Store
}

func (b *backend) Close() error {
	return errors.Join(b.eng.Close(), b.model.Close())
}

// ReadFeed is the engine's, which waits.
func (b *backend) ReadFeed(ctx context.Context, a flowfabric.ReadFeedArgs) (flowfabric.ReadFeedResult, error) {
	return b.eng.ReadFeed(ctx, a)
}

func open(t *testing.T, o backendtest.Options) backendtest.Harness {
	t.Helper()
	clk := backendtest.NewClock()
	cfg := model.Config{Clock: clk.NowMillis, Feeds: o.Feeds, StrictLanes: o.StrictLanes, Rand: rand.Int64N, Partitions: flowfabric.DefaultPartitionConfig()}
	if o.FlowPartitions > 0 {
		cfg.Partitions.NumFlowPartitions = o.FlowPartitions
	}
	m := model.New(cfg)
	eng, err := engine.New(m, engine.Config{DisableDuties: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := eng.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	b := &backend{Store: m, Scheduling: eng, Waits: eng, Administration: eng, eng: eng, model: m}
	t.Cleanup(func() { _ = b.Close() })
	return backendtest.Harness{Backend: b, Store: m, Clock: clk,
		With: func(t *testing.T, o backendtest.Options) backendtest.Harness { return open(t, o) }}
}

// TestConformance holds the model itself against the suite: what the other
// stores are compared with must be right.
func TestConformance(t *testing.T) {
	backendtest.Run(t, func(t *testing.T) backendtest.Harness { return open(t, backendtest.Options{}) })
}
