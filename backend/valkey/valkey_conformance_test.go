package valkey

import (
	"context"
	"strconv"
	"testing"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/backend/backendtest"
	"github.com/flowfabric/flowfabric/internal/valkeytest"
)

// place is what a deployment of the suite lies on: one server or a cluster.
type place struct {
	addrs   []string
	cluster *valkeytest.Cluster
	server  *valkeytest.Server
}

func onServer(t *testing.T) place {
	t.Helper()
	s := valkeytest.Take(t)
	return place{addrs: []string{s.Addr()}, server: s}
}

// onCluster is three primaries, each with a replica.
func onCluster(t *testing.T) place {
	t.Helper()
	c := valkeytest.TakeReplicatedCluster(t)
	return place{addrs: c.Addrs(), cluster: c}
}

// primaries are the servers that are written to.
func (p place) primaries() []*valkeytest.Server {
	if p.cluster == nil {
		return []*valkeytest.Server{p.server}
	}
	return p.cluster.Primaries()
}

// of returns the server that holds a key.
func (p place) of(key string) *valkeytest.Server {
	if p.cluster == nil {
		return p.server
	}
	return p.cluster.Owner(int(slotOf(key)))
}

// must executes a command on the server that holds the key, its first argument.
func (p place) must(command, key string, args ...string) any {
	return p.of(key).Must(append([]string{command, key}, args...)...)
}

func (p place) config() Config { return Config{Addrs: p.addrs, Cluster: p.cluster != nil} }

// forms are what every suite runs on.
var forms = []struct {
	name string
	take func(t *testing.T) place
}{{"standalone", onServer}, {"cluster", onCluster}}

// eachForm runs a suite once for each form. Deployments are on a clock that the
// suite moves.
func eachForm(t *testing.T, suite func(t *testing.T, open func(*testing.T) backendtest.Harness)) {
	for _, f := range forms {
		t.Run(f.name, func(t *testing.T) {
			suite(t, func(t *testing.T) backendtest.Harness { return openConformance(t, f.take, backendtest.Options{}) })
		})
	}
}

// openConformance opens an empty deployment in a place of its own.
func openConformance(t *testing.T, take func(*testing.T) place, o backendtest.Options) backendtest.Harness {
	t.Helper()
	h := openOn(t, take(t), o)
	h.With = func(t *testing.T, o backendtest.Options) backendtest.Harness { return openConformance(t, take, o) }
	return h
}

func openOn(t *testing.T, at place, o backendtest.Options) backendtest.Harness {
	t.Helper()
	cfg := at.config()
	cfg.NoEngine, cfg.StrictLanes, cfg.Feeds, cfg.Testing = true, o.StrictLanes, o.Feeds, Testing{Clock: true}
	cfg.PartitionConfig.NumFlowPartitions = o.FlowPartitions
	b, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	b.minted.Store(0) // every suite begins with a whole run of identifiers on one partition
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
	m := meddler{b: b, at: at}
	return backendtest.Harness{
		Backend: b, Store: b, Clock: clk, Partitioned: true, Corrupt: m.corrupt, Displace: m.displace,
		Reserve: func(_ *testing.T, ns flowfabric.Namespace, key string, id flowfabric.ExecutionID) {
			until := strconv.FormatInt(int64(clk.NowMillis())+60_000, 10)
			tag := b.Store.tag(keyPartition(b.Store.parts, ns, key))
			at.must("SET", "ff:idem:"+tag+":"+string(ns)+":"+key, string(id)+"\n"+until)
		},
		CorruptSecret: func(_ *testing.T, kid string) {
			for part := range b.Store.parts.NumFlowPartitions {
				at.must("HSET", ringKey(b.Store.tag(uint16(part))), "secret:"+kid, "no digits")
			}
			b.Store.rings.forget()
		},
	}
}

// meddler changes what is stored behind the store's back.
type meddler struct {
	b  *Backend
	at place
}

func (m meddler) corrupt(t *testing.T, id flowfabric.ExecutionID, field string) bool {
	t.Helper()
	core := execKey(id, "core")
	switch field {
	case "public_state":
		m.at.must("HSET", core, "public_state", "not_a_real_state")
	case "lifecycle_phase":
		m.at.must("HSET", core, "st", "??")
	case "created_at":
		m.at.must("HDEL", core, "created_at")
	case "last_mutation_at":
		m.at.must("HSET", core, "mutated_at", "yesterday")
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
	if n, _ := m.at.must("ZREM", offered, uuidOf(id)).(int64); n == 0 {
		m.at.must("ZADD", offered, "5", uuidOf(id))
	}
	m.at.must("ZADD", "ff:idx:"+tag+":due", "+inf", uuidOf(id))
}

func TestConformance(t *testing.T) { eachForm(t, backendtest.Run) }

func TestLinearizability(t *testing.T) { eachForm(t, backendtest.RunLinearizability) }

func TestConcurrent(t *testing.T) { eachForm(t, backendtest.RunConcurrent) }

// TestRandom opens one deployment after the other in one place.
func TestRandom(t *testing.T) {
	for _, f := range forms {
		t.Run(f.name, func(t *testing.T) {
			at := f.take(t)
			backendtest.RunRandom(t, func(t *testing.T) backendtest.Harness {
				for _, s := range at.primaries() {
					s.Must("FLUSHALL")
					s.Must("FUNCTION", "FLUSH", "SYNC")
				}
				return openOn(t, at, backendtest.Options{})
			})
		})
	}
}
