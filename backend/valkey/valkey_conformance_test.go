package valkey

import (
	"context"
	"strconv"
	"testing"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/backend/backendtest"
	"github.com/flowfabric/flowfabric/internal/valkeytest"
)

// openConformance opens an empty deployment on a server of its own for one
// scenario, on a clock that the suite moves.
func openConformance(t *testing.T, o backendtest.Options) backendtest.Harness {
	t.Helper()
	return openOn(t, valkeytest.Take(t), o)
}

func openOn(t *testing.T, server *valkeytest.Server, o backendtest.Options) backendtest.Harness {
	t.Helper()
	cfg := Config{Addrs: []string{server.Addr()}, NoEngine: true, StrictLanes: o.StrictLanes, Feeds: o.Feeds, Testing: Testing{Clock: true}}
	cfg.PartitionConfig.NumFlowPartitions = o.FlowPartitions
	b, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	clk := backendtest.NewClock()
	clk.Follow(func(now flowfabric.Millis) {
		if err := b.SetTestClock(context.WithoutCancel(t.Context()), int64(now)); err != nil {
			t.Errorf("set the clock: %v", err)
		}
	})
	m := meddler{t: t, b: b, server: server}
	return backendtest.Harness{
		Backend: b, Store: b, Clock: clk, Corrupt: m.corrupt, Displace: m.displace,
		Reserve: func(_ *testing.T, ns flowfabric.Namespace, key string, id flowfabric.ExecutionID) {
			until := strconv.FormatInt(int64(clk.NowMillis())+60_000, 10)
			tag := b.Store.tag(keyPartition(b.Store.parts, ns, key))
			server.Must("SET", "ff:idem:"+tag+":"+string(ns)+":"+key, string(id)+"\n"+until)
		},
		With: openConformance,
	}
}

// meddler changes what is stored behind the store's back.
type meddler struct {
	t      *testing.T
	b      *Backend
	server *valkeytest.Server
}

func (m meddler) corrupt(t *testing.T, id flowfabric.ExecutionID, field string) bool {
	t.Helper()
	core := execKey(id, "core")
	switch field {
	case "public_state":
		m.server.Must("HSET", core, "public_state", "not_a_real_state")
	case "lifecycle_phase":
		m.server.Must("HSET", core, "st", "??")
	case "created_at":
		m.server.Must("HDEL", core, "created_at")
	case "last_mutation_at":
		m.server.Must("HSET", core, "mutated_at", "yesterday")
	default:
		return false
	}
	return true
}

// displace takes an offered execution out of the order of claimers, puts one that
// is not offered into it, and hides it from the ticks.
func (m meddler) displace(t *testing.T, id flowfabric.ExecutionID) {
	t.Helper()
	list, err := m.b.Store.fields(t.Context(), id, "lane_id", "bk")
	if err != nil {
		t.Fatal(err)
	}
	tag := tagOf(id)
	offered := laneKey(tag, flowfabric.LaneID(list.str(0)), "el:"+list.str(1))
	if n, _ := m.server.Must("ZREM", offered, uuidOf(id)).(int64); n == 0 {
		m.server.Must("ZADD", offered, "5", uuidOf(id))
	}
	m.server.Must("ZADD", "ff:idx:"+tag+":due", "+inf", uuidOf(id))
}

func TestConformance(t *testing.T) {
	backendtest.Run(t, func(t *testing.T) backendtest.Harness { return openConformance(t, backendtest.Options{}) })
}

func TestLinearizability(t *testing.T) {
	backendtest.RunLinearizability(t, func(t *testing.T) backendtest.Harness { return openConformance(t, backendtest.Options{}) })
}

// TestRandom opens one deployment after the other on one server.
func TestRandom(t *testing.T) {
	server := valkeytest.Take(t)
	backendtest.RunRandom(t, func(t *testing.T) backendtest.Harness {
		server.Must("FLUSHALL")
		server.Must("FUNCTION", "FLUSH")
		return openOn(t, server, backendtest.Options{})
	})
}

func TestConcurrent(t *testing.T) {
	backendtest.RunConcurrent(t, func(t *testing.T) backendtest.Harness { return openConformance(t, backendtest.Options{}) })
}
