package valkey

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/valkeytest"
)

// logged is a logger that tells of each line.
type logged struct{ lines chan string }

func newLogged() *logged { return &logged{make(chan string, 1000)} }

func (l *logged) Enabled(context.Context, slog.Level) bool { return true }
func (l *logged) WithAttrs([]slog.Attr) slog.Handler       { return l }
func (l *logged) WithGroup(string) slog.Handler            { return l }
func (l *logged) Handle(_ context.Context, r slog.Record) error {
	select {
	case l.lines <- r.Message:
	default:
	}
	return nil
}

// wait returns when a line with the text has come.
func (l *logged) wait(t *testing.T, text string) {
	t.Helper()
	for {
		select {
		case line := <-l.lines:
			if strings.Contains(line, text) {
				return
			}
		case <-time.After(30 * time.Second):
			t.Fatalf("no line %q", text)
		}
	}
}

// eventually repeats check, at the pace of the duties under test.
func eventually(t testing.TB, what string, check func() bool) {
	t.Helper()
	limit := time.After(30 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !check() {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatal("never: " + what)
		}
	}
}

// Chapter 07, scenario 19.
func TestLibraryLoadedOnce(t *testing.T) {
	srv := valkeytest.Take(t)
	openTest(t, testConfig(srv.Addr()))
	openTest(t, testConfig(srv.Addr()))
	if n := commandCalls(t, srv, "function|load"); n != 1 {
		t.Errorf("FUNCTION LOAD was called %d times", n)
	}
}

// Chapter 07, scenarios 20 and 21, and the rest of section 5.1.
func TestLibraryVersions(t *testing.T) {
	for _, c := range []struct {
		name           string
		stored         libraryOptions
		upgrade, force bool
		code           flowfabric.Code
		kept           bool
	}{
		{name: "higher revision stays", stored: libraryOptions{revision: 1000}, kept: true},
		{name: "lower revision is replaced", stored: libraryOptions{revision: 1}},
		{name: "higher abi", stored: libraryOptions{abi: 99}, code: flowfabric.CodeLibraryTooNew, kept: true},
		{name: "higher abi, upgrade allowed", stored: libraryOptions{abi: 99}, upgrade: true, code: flowfabric.CodeLibraryTooNew, kept: true},
		{name: "lower abi", stored: libraryOptions{abi: -1}, code: flowfabric.CodeLibraryAbiMismatch, kept: true},
		{name: "lower abi, upgrade allowed", stored: libraryOptions{abi: -1}, upgrade: true},
		{name: "other content", stored: libraryOptions{extra: "-- other"}, code: flowfabric.CodeLibraryAbiMismatch, kept: true},
		{name: "other content, forced", stored: libraryOptions{extra: "-- other"}, force: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			srv := valkeytest.Take(t)
			if c.stored.revision == 1 {
				c.stored.revision = -1 // below every one
			}
			source, stored := buildLibrary(c.stored)
			srv.Must("FUNCTION", "LOAD", source)
			cfg := testConfig(srv.Addr())
			cfg.AllowLibraryUpgrade, cfg.ForceLibraryReload = c.upgrade, c.force
			s, err := open(t.Context(), cfg)
			if err == nil {
				defer s.Close()
			}
			if flowfabric.CodeOf(err) != c.code {
				t.Errorf("got %v, want %q", err, c.code)
			}
			now := srv.Must("FCALL_RO", "ff_version", "0")
			if kept := now == stored.String(); kept != c.kept {
				t.Errorf("stored %s, now %v", stored, now)
			}
			if c.code != "" && srv.Must("EXISTS", keyConfig) != int64(0) {
				t.Error("a refused boot has made a deployment")
			}
		})
	}
}

// Chapter 07, scenario 24.
func TestLibraryWithSyntaxError(t *testing.T) {
	srv := valkeytest.Take(t)
	cfg := testConfig(srv.Addr())
	cfg.Testing.library.extra = "this is no Lua"
	begun := time.Now()
	_, err := open(t.Context(), cfg)
	wantCode(t, err, flowfabric.CodeInternal)
	if took := time.Since(begun); took > 400*time.Millisecond {
		t.Errorf("took %v", took)
	}
	if n := srv.Info("commandstats")["cmdstat_function|load"]; !strings.Contains(n, "rejected_calls=0,failed_calls=1") {
		t.Errorf("FUNCTION LOAD: %s", n)
	}
}

// Chapter 07, scenario 25.
func TestLibraryLoadRetried(t *testing.T) {
	srv := valkeytest.Start(t, valkeytest.Options{})
	srv.Must("REPLICAOF", "127.0.0.1", "1")
	log := newLogged()
	cfg := testConfig(srv.Addr())
	cfg.Logger = slog.New(log)
	opened := make(chan error, 1)
	go func() {
		s, err := open(t.Context(), cfg)
		if err == nil {
			err = s.Close()
		}
		opened <- err
	}()
	log.wait(t, "could not be loaded")
	srv.Must("REPLICAOF", "NO", "ONE")
	if err := <-opened; err != nil {
		t.Fatal(err)
	}
}

// Chapter 07, scenario 22.
func TestFunctionFlushUnderLoad(t *testing.T) {
	for _, c := range []struct {
		name string
		open func(t *testing.T) (*Store, []*valkeytest.Server)
	}{
		{"standalone", func(t *testing.T) (*Store, []*valkeytest.Server) {
			srv := valkeytest.Take(t)
			return openTest(t, testConfig(srv.Addr())), []*valkeytest.Server{srv}
		}},
		{"cluster", func(t *testing.T) (*Store, []*valkeytest.Server) {
			cluster := valkeytest.TakeCluster(t)
			return openCluster(t, cluster, nil), cluster.Primaries()
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, servers := c.open(t)
			loads := s.lib.loads.Load()
			for _, srv := range servers {
				srv.Must("FUNCTION", "FLUSH", "SYNC")
			}
			var wg sync.WaitGroup
			for i := range 100 {
				wg.Go(func() {
					tag := s.tag(uint16(i))
					var err error
					if i%2 == 0 {
						_, err = s.call(t.Context(), "ff_test_count", tag, "1")
					} else {
						err = s.calls(t.Context(), []request{{fn: "ff_test_count", tag: tag, args: []string{"1"}}})[0].err
					}
					if err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			if n := s.lib.loads.Load() - loads; n != int64(len(servers)) {
				t.Errorf("%d loads on %d nodes", n, len(servers))
			}
			for i := range 100 {
				if n := firstNumber(t, s, "ff_test_count", s.tag(uint16(i)), "0"); n != 1 {
					t.Errorf("call %d was applied %d times", i, n)
				}
			}
		})
	}
}

// Chapter 07, scenario 23.
func TestWorkerWithoutLibrary(t *testing.T) {
	srv := valkeytest.Take(t)
	server := openTest(t, testConfig(srv.Addr()))
	cfg := testConfig(srv.Addr())
	cfg.Role = RoleWorker
	w := openTest(t, cfg)
	srv.Must("FUNCTION", "FLUSH", "SYNC")
	begun := time.Now()
	_, err := w.call(t.Context(), "ff_test_count", "{fp:1}", "1")
	e := wantCode(t, err, flowfabric.CodeLibraryMissing)
	if e.Class != flowfabric.ClassRetryableTransport || time.Since(begun) < 50*time.Millisecond {
		t.Errorf("class %s after %v", e.Class, time.Since(begun))
	}
	if n := commandCalls(t, srv, "function|load"); n != 1 {
		t.Errorf("%d loads", n)
	}
	done := make(chan error, 1)
	w.cfg.LibraryWait = time.Minute
	go func() { _, err := w.call(t.Context(), "ff_test_count", "{fp:1}", "1"); done <- err }()
	if err := server.checkLibrary(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// Section 9: a server finds a missing library by itself.
func TestLibraryCheck(t *testing.T) {
	srv := valkeytest.Take(t)
	cfg := testConfig(srv.Addr())
	cfg.Testing.LibraryCheck = 5 * time.Millisecond
	s := openTest(t, cfg)
	srv.Must("FUNCTION", "FLUSH", "SYNC")
	eventually(t, "the library is back", func() bool {
		v, _ := srv.CLI("FCALL_RO", "ff_version", "0")
		return v == s.lib.version.String()
	})
}

// Chapter 07, scenario 49.
func TestStoreReplaced(t *testing.T) {
	srv := valkeytest.Take(t)
	cfg := testConfig(srv.Addr())
	log := newLogged()
	cfg.Logger = slog.New(log)
	cfg.Testing.DeploymentCheck, cfg.Testing.Heartbeat, cfg.Testing.LibraryCheck = 5*time.Millisecond, 5*time.Millisecond, 5*time.Millisecond
	s := openTest(t, cfg)
	srv.Must("FLUSHALL")
	log.wait(t, "replaced")
	_, err := s.call(t.Context(), "ff_test_count", "{fp:1}", "1")
	e := wantCode(t, err, flowfabric.CodeStoreReplaced)
	if e.Class != flowfabric.ClassRetryableTransport {
		t.Errorf("class %s", e.Class)
	}
	wantCode(t, s.Ping(t.Context()), flowfabric.CodeStoreReplaced)
	_, err = s.read(t.Context(), "ff_test_peek", "{fp:1}")
	wantCode(t, err, flowfabric.CodeStoreReplaced)
	wantCode(t, s.calls(t.Context(), []request{{fn: "ff_test_count", tag: "{fp:1}", args: []string{"1"}}})[0].err, flowfabric.CodeStoreReplaced)
	wantCode(t, s.plain(t.Context(), s.b.Get().Key("ff:x").Build())[0].err, flowfabric.CodeStoreReplaced)
	srv.Must("FLUSHALL")
	for _, duty := range []func(context.Context) error{s.heartbeat, s.checkLibrary, s.checkDeployment} {
		wantCode(t, duty(t.Context()), flowfabric.CodeStoreReplaced)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if n := srv.Must("DBSIZE"); n != int64(0) {
		t.Errorf("%v keys were written", n)
	}
}

// Section 5.2: the library is not loaded into a store that is another one.
func TestNoRepairOfReplacedStore(t *testing.T) {
	srv := valkeytest.Take(t)
	s := openTest(t, testConfig(srv.Addr()))
	srv.Must("FLUSHALL")
	srv.Must("FUNCTION", "FLUSH", "SYNC")
	_, err := s.call(t.Context(), "ff_test_count", "{fp:1}", "1")
	wantCode(t, err, flowfabric.CodeStoreReplaced)
	if n := commandCalls(t, srv, "function|load"); n != 1 {
		t.Errorf("%d loads", n)
	}
}

// Section 9: servers share the partitions, and one that leaves hands over.
func TestShare(t *testing.T) {
	srv := valkeytest.Take(t)
	cfg := testConfig(srv.Addr())
	cfg.Testing.Heartbeat = 10 * time.Millisecond
	servers := []*Store{openTest(t, cfg), openTest(t, cfg), openTest(t, cfg)}
	owners := func(list []*Store) (least, most int) {
		least = len(list)
		for p := range uint16(256) {
			n := 0
			for _, s := range list {
				if s.mine(p) {
					n++
				}
			}
			least, most = min(least, n), max(most, n)
		}
		return least, most
	}
	eventually(t, "each partition has one server", func() bool {
		least, most := owners(servers)
		return least == 1 && most == 1
	})
	for i, s := range servers {
		n := 0
		for p := range uint16(256) {
			if s.mine(p) {
				n++
			}
		}
		if n < 40 || n > 130 {
			t.Errorf("server %d has %d of 256 partitions", i, n)
		}
	}
	before := make([]bool, 256)
	for p := range before {
		before[p] = servers[0].mine(uint16(p))
	}
	if err := servers[2].Close(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "two share the partitions", func() bool {
		least, most := owners(servers[:2])
		return least == 1 && most == 1
	})
	for p, had := range before {
		if had && !servers[0].mine(uint16(p)) {
			t.Errorf("partition %d was taken from a server that stayed", p)
		}
	}
	// One dies without leaving: its registration lapses.
	servers[1].servers.joined.Store(false)
	if err := servers[1].Close(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "one has all", func() bool {
		least, _ := owners(servers[:1])
		return least == 1
	})
}

// A test can set the clock of the library and of the store.
func TestTestClock(t *testing.T) {
	srv := valkeytest.Take(t)
	cfg := testConfig(srv.Addr())
	cfg.Testing.Clock = true
	s := openTest(t, cfg)
	if d := time.Now().UnixMilli() - int64(s.Now()); d < -100 || d > 100 {
		t.Errorf("the clocks differ by %d ms", d)
	}
	const instant = 1_900_000_000_123
	if err := s.setTestClock(t.Context(), instant); err != nil {
		t.Fatal(err)
	}
	msg, err := s.read(t.Context(), "ff_test_now", "{fp:1}")
	if err != nil {
		t.Fatal(err)
	}
	if list, _ := msg.AsIntSlice(); len(list) != 1 || list[0] != instant || s.Now() != instant {
		t.Errorf("the library says %v, the store %d", list, s.Now())
	}
	if err := s.setTestClock(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	if d := time.Now().UnixMilli() - int64(s.Now()); d < -100 || d > 100 {
		t.Errorf("the clocks differ by %d ms", d)
	}
}

// Closing is idempotent and ends calls.
func TestClose(t *testing.T) {
	srv := valkeytest.Take(t)
	s := openTest(t, testConfig(srv.Addr()))
	for range 2 {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if n := srv.Must("ZCARD", keyServers); n != int64(0) {
		t.Errorf("%v servers are registered", n)
	}
	_, err := s.call(t.Context(), "ff_test_count", "{fp:1}", "1")
	wantCode(t, err, flowfabric.CodeShuttingDown)
}

// Chapter 07, scenario 12.
func TestVersions(t *testing.T) {
	for _, c := range []struct {
		info  string
		redis bool
		code  flowfabric.Code
		shown string
	}{
		{info: "redis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:8.0.1\r\n", shown: "8.0.1"},
		{info: "redis_version:7.2.4\r\nserver_name:valkey\r\n", shown: "7.2.4"},
		{info: "redis_version:7.2.4\r\nserver_name:VALKEY\r\n", shown: "7.2.4"},
		{info: "redis_version:7.4.0\r\n", code: flowfabric.CodeUnsupportedStore},
		{info: "redis_version:7.4.0\r\n", redis: true, shown: "7.4.0"},
		{info: "redis_version:7.0.15\r\n", redis: true, code: flowfabric.CodeStoreVersionTooLow},
		{info: "redis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:seven.2\r\n", code: flowfabric.CodeStoreVersionUnreadable},
		{info: "redis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:8\r\n", code: flowfabric.CodeStoreVersionUnreadable},
		{info: "redis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:7.1.9\r\n", code: flowfabric.CodeStoreVersionTooLow},
		{info: "uptime:1\r\n", code: flowfabric.CodeStoreVersionUnreadable},
	} {
		i := parseInfo("node", c.info)
		err := i.checkVersion(c.redis)
		if flowfabric.CodeOf(err) != c.code {
			t.Errorf("%q: got %v, want %q", c.info, err, c.code)
		}
		if text, _ := i.version(); c.shown != "" && text != c.shown {
			t.Errorf("%q: version %q", c.info, text)
		}
	}
	if !lowerVersion("7.2.9", "7.10.0") || lowerVersion("8.0.0", "7.2.9") || lowerVersion("8.0", "8.0") {
		t.Error("versions are compared wrongly")
	}
}

// fakeNode answers like a node of a cluster of one shard with a given version.
type fakeNode struct {
	addr    string
	version atomic.Pointer[string]
	infos   chan struct{} // one for each INFO
}

func startFakeNode(t *testing.T, version string) *fakeNode {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &fakeNode{addr: l.Addr().String(), infos: make(chan struct{}, 100)}
	f.version.Store(&version)
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go f.serve(c)
		}
	}()
	return f
}

func (f *fakeNode) serve(c net.Conn) {
	defer c.Close()
	in := bufio.NewReader(c)
	line := func() string {
		s, err := in.ReadString('\n')
		if err != nil {
			return ""
		}
		return strings.TrimRight(s, "\r\n")
	}
	for {
		head := line()
		if head == "" {
			return
		}
		n, _ := strconv.Atoi(head[1:])
		words := make([]string, n)
		for i := range words {
			line()
			words[i] = line()
		}
		if _, err := io.WriteString(c, f.answer(strings.ToUpper(strings.Join(words, " ")))); err != nil {
			return
		}
	}
}

func (f *fakeNode) answer(command string) string {
	switch {
	case strings.HasPrefix(command, "HELLO"):
		return "%1\r\n+proto\r\n:3\r\n"
	case strings.HasPrefix(command, "INFO"):
		select {
		case f.infos <- struct{}{}:
		default:
		}
		text := "cluster_enabled:1\r\nserver_name:valkey\r\nvalkey_version:" + *f.version.Load() + "\r\nredis_version:7.2.4\r\n"
		return fmt.Sprintf("$%d\r\n%s\r\n", len(text), text)
	case strings.HasPrefix(command, "CLUSTER SLOTS"):
		host, port, _ := net.SplitHostPort(f.addr)
		return fmt.Sprintf("*1\r\n*3\r\n:0\r\n:16383\r\n*3\r\n$%d\r\n%s\r\n:%s\r\n+id\r\n", len(host), host, port)
	case strings.HasPrefix(command, "CONFIG"):
		return "-NOPERM no config\r\n"
	case strings.HasPrefix(command, "PING"):
		return "+PONG\r\n"
	case strings.HasPrefix(command, "CLIENT"):
		return "+OK\r\n"
	}
	return "-ERR not played\r\n"
}

// Chapter 07, scenario 13.
func TestVersionWindow(t *testing.T) {
	f := startFakeNode(t, "7.1.0")
	cfg := testConfig(f.addr)
	cfg.Cluster = true
	cfg.ConnectWait = 500 * time.Millisecond
	_, err := open(t.Context(), cfg)
	e := wantCode(t, err, flowfabric.CodeStoreVersionTooLow)
	if e.Details["found"] != "7.1.0" || e.Details["required"] != "7.2" {
		t.Errorf("details: %v", e.Details)
	}
	if len(f.infos) < 4 { // each try looks twice: for the mode, and for the version
		t.Errorf("the version was read only %d times", len(f.infos))
	}
	for len(f.infos) > 0 {
		<-f.infos
	}
	cfg.ConnectWait = time.Minute
	s := &Store{cfg: cfg, log: slog.New(slog.DiscardHandler), stop: make(chan struct{})}
	if err := s.cfg.complete(); err != nil {
		t.Fatal(err)
	}
	go func() {
		for range 4 {
			<-f.infos
		}
		upgraded := "7.2.0"
		f.version.Store(&upgraded)
	}()
	s.lib.s = s
	if err := s.reach(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s.version != "7.2.0" || !s.supported {
		t.Errorf("version %q, supported %v", s.version, s.supported)
	}
	s.nodes.close()
}
