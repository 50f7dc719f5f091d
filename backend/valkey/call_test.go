package valkey

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/valkeytest"
)

// Chapter 07, section 4.2: what the store itself answers.
func TestCallErrors(t *testing.T) {
	srv := valkeytest.Take(t)
	s := openTest(t, testConfig(srv.Addr()))
	for _, c := range []struct {
		fn   string
		args []string
		code flowfabric.Code
		kind string
	}{
		{"ff_test_refuse", []string{"stale_lease|4"}, flowfabric.CodeStaleLease, ""},
		{"ff_test_refuse", []string{"execution_not_found|x"}, flowfabric.CodeExecutionNotFound, ""},
		{"ff_test_break", nil, flowfabric.CodeStoreFault, "other"},
		{"ff_test_fail", nil, flowfabric.CodeStoreFault, "protocol"},
		{"ff_no_such_function", nil, flowfabric.CodeLibraryMissing, "script_not_loaded"},
	} {
		for _, err := range []error{
			func() error { _, err := s.call(t.Context(), c.fn, "{fp:7}", c.args...); return err }(),
			s.calls(t.Context(), []request{{fn: c.fn, tag: "{fp:7}", args: c.args}})[0].err,
		} {
			e := wantCode(t, err, c.code)
			if e.Kind != c.kind || e.Op != strings.TrimPrefix(c.fn, "ff_") {
				t.Errorf("%s: kind %q, op %q: %v", c.fn, e.Kind, e.Op, err)
			}
		}
	}
	if _, err := s.read(t.Context(), "ff_test_count", "{fp:7}", "1"); err == nil {
		t.Error("a function that writes was called as one that does not")
	}
}

// One pipeline: a refusal and a fault of one call leave the others alone.
func TestCalls(t *testing.T) {
	srv := valkeytest.Take(t)
	s := openTest(t, testConfig(srv.Addr()))
	got := s.calls(t.Context(), []request{
		{fn: "ff_test_count", tag: "{fp:1}", args: []string{"2"}},
		{fn: "ff_test_refuse", tag: "{fp:2}", args: []string{"stale_lease|4"}},
		{fn: "ff_test_break", tag: "{fp:3}"},
		{fn: "ff_test_count", tag: "{fp:1}", args: []string{"3"}},
		{fn: "ff_test_peek", tag: "{fp:1}", readOnly: true},
	})
	wantCode(t, got[1].err, flowfabric.CodeStaleLease)
	wantCode(t, got[2].err, flowfabric.CodeStoreFault)
	for i, want := range map[int]string{0: "2", 3: "5", 4: "5"} {
		list, err := got[i].msg.ToArray()
		if got[i].err != nil || err != nil || len(list) != 1 {
			t.Fatalf("call %d: %v, %v", i, got[i].err, err)
		}
		text, err := list[0].ToString()
		if err != nil {
			n, _ := list[0].AsInt64()
			text = strconv.FormatInt(n, 10)
		}
		if text != want {
			t.Errorf("call %d: %q, want %s", i, text, want)
		}
	}
	if got := s.calls(t.Context(), nil); len(got) != 0 {
		t.Error("no calls have answers")
	}
}

// Chapter 07, scenario 51: a write whose answer is lost is outcome_unknown and
// not sent again; a read is.
func TestAnswerLost(t *testing.T) {
	srv := valkeytest.Take(t)
	proxy := valkeytest.NewProxy(t, srv.Addr())
	cfg := testConfig(proxy.Addr())
	cfg.RequestTimeout = 500 * time.Millisecond
	s := openTest(t, cfg)
	count := func(tag string) string {
		text, _ := srv.Must("GET", "ff:count:"+tag).(string)
		return text
	}
	for i, f := range []struct {
		fault valkeytest.Fault
		count string
	}{{valkeytest.LoseReply, "1"}, {valkeytest.LoseRequest, ""}, {valkeytest.Silence, "1"}} {
		tag := partitionTag(uint16(10 + i))
		lost := proxy.Inject(f.fault, 1, valkeytest.Contains("ff_test_count"))
		_, err := s.call(t.Context(), "ff_test_count", tag, "1")
		wantCode(t, err, flowfabric.CodeOutcomeUnknown)
		if lost.Hits() != 1 || count(tag) != f.count {
			t.Errorf("fault %d: %d hits, count %q", f.fault, lost.Hits(), count(tag))
		}
		got := s.calls(t.Context(), []request{{fn: "ff_test_count", tag: tag, args: []string{"1"}}})
		if got[0].err != nil {
			t.Errorf("the next call: %v", got[0].err)
		}
		lost = proxy.Inject(f.fault, 1, valkeytest.Contains("ff_test_peek"))
		_, err = s.read(t.Context(), "ff_test_peek", tag)
		if f.fault == valkeytest.Silence {
			wantCode(t, err, flowfabric.CodeStoreTimeout)
		} else if err != nil {
			t.Errorf("fault %d: a read was not repeated: %v", f.fault, err)
		}
		if lost.Hits() != 1 {
			t.Errorf("fault %d: %d hits of the read", f.fault, lost.Hits())
		}
	}
}

// Section 4.2: a store that is gone is store_unavailable, and is found again.
func TestStoreGone(t *testing.T) {
	srv := valkeytest.Start(t, valkeytest.Options{})
	s := openTest(t, testConfig(srv.Addr()))
	if n := firstNumber(t, s, "ff_test_count", "{fp:1}", "1"); n != 1 {
		t.Fatalf("count %d", n)
	}
	id := s.deploymentID
	srv.Kill()
	var err error
	for i := 0; flowfabric.CodeOf(err) != flowfabric.CodeStoreUnavailable; i++ {
		if _, err = s.call(t.Context(), "ff_test_count", "{fp:1}", "1"); err == nil || i == 10 {
			t.Fatalf("call %d to a store that is gone: %v", i, err)
		}
	}
	if e := flowfabric.AsError(err); e.Kind != "transport" || !e.Retryable {
		t.Errorf("kind %q, retryable %v", e.Kind, e.Retryable)
	}
	err = nil // a connection that was open tells of its loss first
	for i := 0; flowfabric.CodeOf(err) != flowfabric.CodeStoreUnavailable; i++ {
		if err = s.Ping(t.Context()); err == nil || i == 10 {
			t.Fatalf("ping %d of a store that is gone: %v", i, err)
		}
	}
	srv.Restart() // empty
	srv.Must("HSET", keyConfig, "deployment_id", id)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for {
		if _, err := s.call(ctx, "ff_test_count", "{fp:1}", "1"); err == nil {
			break
		} else if ctx.Err() != nil {
			t.Fatalf("the store is not found again: %v", err)
		}
	}
}

// Contract: a cancelled context is returned as it is, and does not touch others.
func TestCallCancelled(t *testing.T) {
	srv := valkeytest.Take(t)
	s := openTest(t, testConfig(srv.Addr()))
	ctx, cancel := context.WithCancel(t.Context())
	srv.Pause()
	errs := make(chan error, 3)
	go func() { _, err := s.call(ctx, "ff_test_count", "{fp:1}", "1"); errs <- err }()
	go func() {
		errs <- s.calls(ctx, []request{{fn: "ff_test_count", tag: "{fp:1}", args: []string{"1"}}})[0].err
	}()
	go func() { errs <- s.plain(ctx, s.b.Get().Key("ff:count:{fp:1}").Build())[0].err }()
	other := make(chan error, 1)
	go func() { _, err := s.call(t.Context(), "ff_test_count", "{fp:2}", "1"); other <- err }()
	cancel()
	for range 3 {
		if err := <-errs; !errors.Is(err, context.Canceled) || flowfabric.AsError(err) != nil {
			t.Errorf("got %v", err)
		}
	}
	srv.Resume()
	if err := <-other; err != nil {
		t.Errorf("another caller: %v", err)
	}
	ctx, cancel = context.WithTimeout(t.Context(), time.Nanosecond)
	defer cancel()
	if _, err := s.call(ctx, "ff_test_count", "{fp:1}", "1"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

// Chapter 07, scenario 52.
func TestStoreFull(t *testing.T) {
	srv := valkeytest.Start(t, valkeytest.Options{})
	s := openTest(t, testConfig(srv.Addr()))
	srv.Must("CONFIG", "SET", "maxmemory", "1mb")
	_, err := s.call(t.Context(), "ff_test_count", "{fp:1}", "1")
	e := wantCode(t, err, flowfabric.CodeStoreFull)
	if e.Class != flowfabric.ClassCapacity {
		t.Errorf("class %s", e.Class)
	}
	if got := srv.Must("EXISTS", "ff:count:{fp:1}"); got != int64(0) {
		t.Error("something was written")
	}
	if _, err := s.read(t.Context(), "ff_test_peek", "{fp:1}"); err != nil {
		t.Errorf("a read: %v", err)
	}
	srv.Must("CONFIG", "SET", "maxmemory", "0")
	if n := firstNumber(t, s, "ff_test_count", "{fp:1}", "1"); n != 1 {
		t.Errorf("count %d", n)
	}
}

// Section 4.2: a replica is waited for, but not for ever.
func TestReadOnly(t *testing.T) {
	srv := valkeytest.Start(t, valkeytest.Options{})
	s := openTest(t, testConfig(srv.Addr()))
	srv.Must("REPLICAOF", "127.0.0.1", "1")
	begun := time.Now()
	_, err := s.call(t.Context(), "ff_test_count", "{fp:1}", "1")
	wantCode(t, err, flowfabric.CodeStoreUnavailable)
	if took := time.Since(begun); took < 100*time.Millisecond || took > 5*time.Second {
		t.Errorf("given up after %v", took)
	}
	done := make(chan error, 1)
	go func() { _, err := s.call(t.Context(), "ff_test_count", "{fp:1}", "1"); done <- err }()
	srv.Must("REPLICAOF", "NO", "ONE")
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// Section 12: at most 10,000 calls in flight on a connection.
func TestOverloaded(t *testing.T) {
	srv := valkeytest.Take(t)
	s := openTest(t, testConfig(srv.Addr()))
	n := s.nodes.primaries()[0]
	n.inFlight.Add(nodeInFlight)
	_, err := s.call(t.Context(), "ff_test_count", "{fp:1}", "1")
	wantCode(t, err, flowfabric.CodeBackendOverloaded)
	wantCode(t, s.calls(t.Context(), []request{{fn: "ff_test_count", tag: "{fp:1}", args: []string{"1"}}})[0].err, flowfabric.CodeBackendOverloaded)
	wantCode(t, s.plain(t.Context(), s.b.Get().Key("ff:x").Build())[0].err, flowfabric.CodeBackendOverloaded)
	n.inFlight.Add(-nodeInFlight)
	if got := firstNumber(t, s, "ff_test_count", "{fp:1}", "1"); got != 1 || n.inFlight.Load() != 0 {
		t.Errorf("count %d, %d in flight", got, n.inFlight.Load())
	}
}

// Chapter 07, scenario 50: the change is there, and is told to be unconfirmed.
func TestDurability(t *testing.T) {
	srv := valkeytest.Start(t, valkeytest.Options{Args: []string{"--appendonly", "yes"}})
	cfg := testConfig(srv.Addr())
	cfg.Durability = Durability{Mode: DurabilityReplicated, Timeout: 20 * time.Millisecond}
	async := openTest(t, testConfig(srv.Addr()))
	if got := firstNumber(t, async, "ff_test_count", "{fp:1}", "1"); got != 1 {
		t.Fatal(got)
	}
	s := openTest(t, cfg)
	_, err := s.call(t.Context(), "ff_test_count", "{fp:1}", "1")
	e := wantCode(t, err, flowfabric.CodeDurabilityUnconfirmed)
	if e.Op != "test_count" || e.Class != flowfabric.ClassRetryableTransport {
		t.Errorf("op %q, class %s", e.Op, e.Class)
	}
	if got := srv.Must("GET", "ff:count:{fp:1}"); got != "2" {
		t.Errorf("count %v", got)
	}
	_, err = s.call(t.Context(), "ff_test_refuse", "{fp:1}", "stale_lease|1")
	wantCode(t, err, flowfabric.CodeStaleLease)
	if _, err := s.read(t.Context(), "ff_test_peek", "{fp:1}"); err != nil {
		t.Errorf("a read: %v", err)
	}

	replica := valkeytest.Start(t, valkeytest.Options{})
	host, port, _ := strings.Cut(srv.Addr(), ":")
	replica.Must("REPLICAOF", host, port)
	cfg.Durability.Timeout = 20 * time.Second
	confirmed := openTest(t, cfg)
	if got := firstNumber(t, confirmed, "ff_test_count", "{fp:1}", "1"); got != 3 {
		t.Errorf("count %d", got)
	}
	if got := replica.Must("GET", "ff:count:{fp:1}"); got != "3" {
		t.Errorf("the replica has %v", got)
	}

	// A repeat writes nothing, and yet must not be taken for confirmed.
	replica.Pause()
	cfg.Durability.Timeout = 20 * time.Millisecond
	for range 2 {
		_, err = openTest(t, cfg).call(t.Context(), "ff_test_once", "{fp:1}")
		wantCode(t, err, flowfabric.CodeDurabilityUnconfirmed)
	}
	replica.Resume()

	cfg.Durability = Durability{Mode: DurabilityFsync}
	disk := openTest(t, cfg)
	if got := firstNumber(t, disk, "ff_test_count", "{fp:1}", "1"); got != 4 {
		t.Errorf("count %d", got)
	}
}

func openCluster(t *testing.T, c *valkeytest.Cluster, change func(*Config)) *Store {
	t.Helper()
	cfg := testConfig(c.Addrs()...)
	cfg.Cluster = true
	if change != nil {
		change(&cfg)
	}
	return openTest(t, cfg)
}

// Section 11: slots may move while calls are made. Whatever is acknowledged is
// there once, and nothing runs on a node that has only part of a partition.
func TestSlotMoves(t *testing.T) {
	cluster := valkeytest.StartCluster(t, 3, 0, valkeytest.Options{})
	s := openCluster(t, cluster, nil)
	const tag = "{fp:5}"
	slot := cluster.Slot("ff:" + tag)
	from := cluster.Owner(slot)
	to := cluster.Primaries()[0]
	if to == from {
		to = cluster.Primaries()[1]
	}
	if n := firstNumber(t, s, "ff_test_count", tag, "1"); n != 1 {
		t.Fatalf("count %d", n)
	}
	if err := cluster.BeginMove(from, to, slot); err != nil {
		t.Fatal(err)
	}
	_, err := s.call(t.Context(), "ff_test_count", tag, "1")
	wantCode(t, err, flowfabric.CodeStoreUnavailable)
	done := make(chan error, 1)
	go func() { _, err := s.call(t.Context(), "ff_test_count", tag, "1"); done <- err }()
	if _, err := cluster.MoveKeys(from, to, slot, 100); err != nil {
		t.Fatal(err)
	}
	if err := cluster.FinishMove(from, to, slot); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatalf("a call during the move: %v", err)
	}
	if n := firstNumber(t, s, "ff_test_count", tag, "1"); n != 3 {
		t.Errorf("count %d, want 3", n)
	}

	// And back, under load: exactly what was acknowledged has been counted.
	stop := make(chan struct{})
	var wg sync.WaitGroup
	var mu sync.Mutex
	acknowledged := int64(3)
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				a := s.calls(t.Context(), []request{{fn: "ff_test_count", tag: tag, args: []string{"1"}}})[0]
				if a.err == nil {
					mu.Lock()
					acknowledged++
					mu.Unlock()
				} else if flowfabric.CodeOf(a.err) != flowfabric.CodeStoreUnavailable {
					t.Error(a.err)
				}
			}
		})
	}
	cluster.MoveSlots(to, from, slot)
	cluster.MoveSlots(from, to, slot)
	close(stop)
	wg.Wait()
	if n := firstNumber(t, s, "ff_test_count", tag, "0"); n != acknowledged {
		t.Errorf("count %d, acknowledged %d", n, acknowledged)
	}
}

// Sections 5.2 and 11: after a failover calls go to the new primary.
func TestFailover(t *testing.T) {
	cluster := valkeytest.StartCluster(t, 3, 1, valkeytest.Options{})
	s := openCluster(t, cluster, nil)
	for p := range uint16(64) {
		firstNumber(t, s, "ff_test_count", s.tag(p), "1")
	}
	cluster.KillPrimary(0)
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	for p := uint16(0); p < 64; {
		_, err := s.call(ctx, "ff_test_count", s.tag(p), "1")
		switch {
		case err == nil:
			p++
		case ctx.Err() != nil:
			t.Fatal(err)
		case !errors.Is(err, flowfabric.ClassRetryableTransport):
			t.Fatalf("partition %d: %v", p, err)
		}
	}
	if err := s.checkLibrary(t.Context()); err != nil {
		t.Error(err)
	}
	if err := s.Ping(t.Context()); err != nil {
		t.Error(err)
	}
}

// Chapter 07, scenario 13, and the versions of all nodes.
func TestAllNodesAreLookedAt(t *testing.T) {
	cluster := valkeytest.StartCluster(t, 2+1, 1, valkeytest.Options{})
	s := openCluster(t, cluster, nil)
	infos, err := s.allInfos(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var seen []string
	for _, i := range infos {
		seen = append(seen, i.addr)
	}
	want := cluster.Addrs()
	slices.Sort(seen)
	slices.Sort(want)
	if !slices.Equal(seen, want) {
		t.Errorf("looked at %v of %v", seen, want)
	}
}

func BenchmarkCall(b *testing.B) {
	srv := valkeytest.Take(b)
	s := openTest(b, testConfig(srv.Addr()))
	ctx := b.Context()
	b.ReportAllocs()
	b.SetParallelism(32)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := s.call(ctx, "ff_test_count", "{fp:1}", "1"); err != nil {
				b.Error(err)
			}
		}
	})
}
