package sqlstore_test

import (
	"context"
	"errors"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/backend/backendtest"
	"github.com/flowfabric/flowfabric/backend/internal/sqlstore"
	"github.com/flowfabric/flowfabric/backend/sqlite"
)

// remembering opens a store that, when its scenario is over, must remember
// exactly what it finds when it forgets everything and reads it anew.
func remembering(t *testing.T, o backendtest.Options) backendtest.Harness {
	t.Helper()
	clk := backendtest.NewClock()
	cfg := sqlite.Config{Clock: clk, NoEngine: true, StrictLanes: o.StrictLanes, Feeds: o.Feeds}
	if o.FlowPartitions > 0 {
		cfg.PartitionConfig = flowfabric.DefaultPartitionConfig()
		cfg.PartitionConfig.NumFlowPartitions = o.FlowPartitions
	}
	b, err := sqlite.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	c := &checked{Backend: b, t: t}
	t.Cleanup(func() { _ = c.Close() })
	return backendtest.Harness{
		Backend: c, Store: c, Clock: clk,
		With: func(t *testing.T, o backendtest.Options) backendtest.Harness { return remembering(t, o) },
	}
}

// checked is a store that is looked at before it closes.
type checked struct {
	*sqlite.Backend
	t    *testing.T
	once sync.Once
}

func (c *checked) Close() error {
	c.once.Do(func() { checkMemory(c.t, c.Backend) })
	return c.Backend.Close()
}

func checkMemory(t *testing.T, b *sqlite.Backend) {
	t.Helper()
	before := memory(t, b)
	refused := errors.New("refused on purpose")
	if err := b.Write(context.Background(), 1, func(*sqlstore.Tx) error { return refused }); err == nil {
		t.Fatal("a failing write succeeded")
	}
	if d := cmp.Diff(before, memory(t, b)); d != "" {
		t.Errorf("what the writer remembered (-) is not what is stored (+):\n%s", d)
	}
}

func memory(t *testing.T, b *sqlite.Backend) (lines []string) {
	t.Helper()
	err := b.Write(context.Background(), 1, func(tx *sqlstore.Tx) (err error) {
		lines, err = sqlstore.Memory(tx)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

func TestMemoryAfterScenarios(t *testing.T) {
	backendtest.Run(t, func(t *testing.T) backendtest.Harness { return remembering(t, backendtest.Options{}) })
}

func TestMemoryAfterRandomOperations(t *testing.T) {
	backendtest.RunRandom(t, func(t *testing.T) backendtest.Harness { return remembering(t, backendtest.Options{}) })
}
