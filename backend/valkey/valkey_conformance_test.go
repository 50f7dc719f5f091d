package valkey

import (
	"context"
	"strconv"
	"testing"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/backend/backendtest"
	"github.com/flowfabric/flowfabric/internal/valkeytest"
)

// place is an empty server or cluster for one deployment.
type place struct {
	addrs   []string
	cluster bool
	// do gives a command on the key to the node that has it.
	do func(verb, key string, args ...string) any
}

func onServer(server *valkeytest.Server) place {
	return place{addrs: []string{server.Addr()}, do: func(verb, key string, args ...string) any {
		return server.Must(append([]string{verb, key}, args...)...)
	}}
}

func onCluster(c *valkeytest.Cluster) place {
	return place{addrs: c.Addrs()[:1], cluster: true, do: func(verb, key string, args ...string) any {
		return c.Owner(c.Slot(key)).Must(append([]string{verb, key}, args...)...)
	}}
}

// openOn opens a deployment for one scenario, on a clock that the suite moves. next
// gives the place of another one.
func openOn(t *testing.T, p place, o backendtest.Options, next func(t *testing.T) place) backendtest.Harness {
	t.Helper()
	cfg := Config{Addrs: p.addrs, Cluster: p.cluster, NoEngine: true, StrictLanes: o.StrictLanes, Feeds: o.Feeds, Testing: Testing{Clock: true}}
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
	return backendtest.Harness{
		Backend: b, Store: b, Clock: clk,
		Corrupt:  func(_ *testing.T, id flowfabric.ExecutionID, field string) bool { return corruptCore(p, id, field) },
		Displace: func(t *testing.T, id flowfabric.ExecutionID) { displace(t, b, p, id) },
		Reserve: func(_ *testing.T, ns flowfabric.Namespace, key string, id flowfabric.ExecutionID) {
			until := strconv.FormatInt(int64(clk.NowMillis())+60_000, 10)
			tag := b.Store.tag(keyPartition(b.Store.parts, ns, key))
			p.do("SET", "ff:idem:"+tag+":"+string(ns)+":"+key, string(id)+"\n"+until)
		},
		With: func(t *testing.T, o backendtest.Options) backendtest.Harness { return openOn(t, next(t), o, next) },
	}
}

// corruptCore spoils a field of the record, where it knows how.
func corruptCore(p place, id flowfabric.ExecutionID, field string) bool {
	core := execKey(id, "core")
	switch field {
	case "public_state":
		p.do("HSET", core, "public_state", "not_a_real_state")
	case "lifecycle_phase":
		p.do("HSET", core, "st", "??")
	case "created_at":
		p.do("HDEL", core, "created_at")
	case "last_mutation_at":
		p.do("HSET", core, "mutated_at", "yesterday")
	default:
		return false
	}
	return true
}

// displace takes an offered execution out of the order of claimers, puts one that
// is not offered into it, and hides it from the ticks.
func displace(t *testing.T, b *Backend, p place, id flowfabric.ExecutionID) {
	t.Helper()
	list, err := b.Store.fields(t.Context(), id, "lane_id", "bk")
	if err != nil {
		t.Fatal(err)
	}
	tag := tagOf(id)
	offered := laneKey(tag, flowfabric.LaneID(list.str(0)), "el:"+list.str(1))
	if n, _ := p.do("ZREM", offered, uuidOf(id)).(int64); n == 0 {
		p.do("ZADD", offered, "5", uuidOf(id))
	}
	p.do("ZADD", "ff:idx:"+tag+":due", "+inf", uuidOf(id))
}

func takeServer(t *testing.T) place { return onServer(valkeytest.Take(t)) }

func takeCluster(t *testing.T) place { return onCluster(valkeytest.TakeCluster(t)) }

// anywhere opens deployments on places of one sort, each empty.
func anywhere(take func(t *testing.T) place) func(t *testing.T) backendtest.Harness {
	return func(t *testing.T) backendtest.Harness { return openOn(t, take(t), backendtest.Options{}, take) }
}

func TestConformance(t *testing.T) { backendtest.Run(t, anywhere(takeServer)) }

func TestConformanceOfCluster(t *testing.T) {
	if testing.Short() {
		t.Skip("the cluster is left out of short runs")
	}
	backendtest.Run(t, anywhere(takeCluster))
}

func TestLinearizability(t *testing.T) { backendtest.RunLinearizability(t, anywhere(takeServer)) }

func TestConcurrent(t *testing.T) { backendtest.RunConcurrent(t, anywhere(takeServer)) }

// TestRandom opens one deployment after the other on one server.
func TestRandom(t *testing.T) {
	server := valkeytest.Take(t)
	backendtest.RunRandom(t, anywhere(func(*testing.T) place {
		server.Must("FLUSHALL")
		server.Must("FUNCTION", "FLUSH")
		return onServer(server)
	}))
}
