package valkey

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/valkeytest"
)

func counts(flow, budget, quota int) flowfabric.PartitionConfig {
	return flowfabric.PartitionConfig{NumFlowPartitions: flow, NumBudgetPartitions: budget, NumQuotaPartitions: quota}
}

// storedHash reads a hash with a connection of its own.
func storedHash(t *testing.T, srv *valkeytest.Server, key string) map[string]string {
	t.Helper()
	list, _ := srv.Must("HGETALL", key).([]any)
	m := make(map[string]string)
	for i := 0; i+1 < len(list); i += 2 {
		m[list[i].(string)] = list[i+1].(string)
	}
	return m
}

// commandCalls reads how often a command was executed.
func commandCalls(t *testing.T, srv *valkeytest.Server, command string) int {
	t.Helper()
	stat := srv.Info("commandstats")["cmdstat_"+command]
	calls, _, _ := strings.Cut(strings.TrimPrefix(stat, "calls="), ",")
	n, _ := strconv.Atoi(calls)
	return n
}

// Chapter 07, scenario 8.
func TestBootOnEmptyStore(t *testing.T) {
	srv := valkeytest.Take(t)
	first := openTest(t, testConfig(srv.Addr()))
	written := storedHash(t, srv, keyConfig)
	if written["num_flow_partitions"] != "256" || written["num_budget_partitions"] != "32" || written["num_quota_partitions"] != "32" ||
		written["schema_version"] != "1" || written["deployment_id"] != first.deploymentID || written["created_at"] == "" {
		t.Errorf("written: %v", written)
	}
	cfg := testConfig(srv.Addr())
	cfg.PartitionConfig = counts(256, 32, 32)
	second := openTest(t, cfg)
	if second.deploymentID != first.deploymentID {
		t.Error("the second boot made another deployment")
	}
	if again := storedHash(t, srv, keyConfig); fmt.Sprint(again) != fmt.Sprint(written) {
		t.Errorf("the second boot wrote %v over %v", again, written)
	}
	info, err := second.Describe(t.Context())
	if err != nil || info.Family != "valkey" || info.DeploymentID != first.deploymentID || info.Version == "" {
		t.Errorf("Describe: %+v, %v", info, err)
	}
	if err := second.Ping(t.Context()); err != nil {
		t.Error(err)
	}
}

// Chapter 07, scenario 9.
func TestBootWithOtherCounts(t *testing.T) {
	srv := valkeytest.Take(t)
	openTest(t, testConfig(srv.Addr()))
	cfg := testConfig(srv.Addr())
	cfg.PartitionConfig = counts(128, 32, 16)
	cfg.Testing.library.revision = 1000
	_, err := open(t.Context(), cfg)
	e := wantCode(t, err, flowfabric.CodePartitionCountMismatch)
	if e.Details["field"] != "num_flow_partitions" || e.Details["stored"] != 256 || e.Details["configured"] != 128 {
		t.Errorf("details: %v", e.Details)
	}
	if v, _ := srv.Must("FCALL_RO", "ff_version", "0").(string); strings.Contains(v, ".1000.") {
		t.Errorf("a refused boot has loaded library %s", v)
	}
	cfg.PartitionConfig = counts(0, 0, 16)
	_, err = open(t.Context(), cfg)
	if e := wantCode(t, err, flowfabric.CodePartitionCountMismatch); e.Details["field"] != "num_quota_partitions" {
		t.Errorf("details: %v", e.Details)
	}
}

// Chapter 07, scenario 10.
func TestBootRace(t *testing.T) {
	srv := valkeytest.Take(t)
	var wg sync.WaitGroup
	errs := make([]error, 8)
	for i := range errs {
		cfg := testConfig(srv.Addr())
		cfg.PartitionConfig = counts(256+256*(i%2), 32, 32)
		wg.Go(func() {
			s, err := open(t.Context(), cfg)
			if errs[i] = err; err == nil {
				_ = s.Close()
			}
		})
	}
	wg.Wait()
	winner := -1
	for i, err := range errs {
		switch {
		case err != nil:
			wantCode(t, err, flowfabric.CodePartitionCountMismatch)
		case winner >= 0 && winner != i%2:
			t.Fatal("servers with different counts have started")
		default:
			winner = i % 2
		}
	}
	if winner < 0 {
		t.Fatal("no server has started")
	}
}

// Chapter 07, scenario 11.
func TestBootOnCorruptConfig(t *testing.T) {
	for _, c := range []struct {
		name, field, value string
		code               flowfabric.Code
	}{
		{"count missing", "num_quota_partitions", "", flowfabric.CodePartitionConfigCorrupt},
		{"count no number", "num_flow_partitions", "many", flowfabric.CodePartitionConfigCorrupt},
		{"count out of range", "num_budget_partitions", "70000", flowfabric.CodePartitionConfigCorrupt},
		{"id missing", "deployment_id", "", flowfabric.CodePartitionConfigCorrupt},
		{"schema too new", "schema_version", "2", flowfabric.CodeSchemaTooNew},
	} {
		t.Run(c.name, func(t *testing.T) {
			srv := valkeytest.Take(t)
			openTest(t, testConfig(srv.Addr()))
			if c.value == "" {
				srv.Must("HDEL", keyConfig, c.field)
			} else {
				srv.Must("HSET", keyConfig, c.field, c.value)
			}
			before := storedHash(t, srv, keyConfig)
			_, err := open(t.Context(), testConfig(srv.Addr()))
			wantCode(t, err, c.code)
			if after := storedHash(t, srv, keyConfig); fmt.Sprint(after) != fmt.Sprint(before) {
				t.Errorf("the refused boot has changed %v to %v", before, after)
			}
		})
	}
}

// Chapter 07, scenario 14.
func TestBootOnMisconfiguredStore(t *testing.T) {
	for _, c := range []struct{ setting, value string }{
		{"maxmemory-policy", "allkeys-lru"}, {"hash-max-listpack-value", "32"}, {"hash-max-listpack-entries", "16"},
	} {
		t.Run(c.setting, func(t *testing.T) {
			srv := valkeytest.Start(t, valkeytest.Options{Args: []string{"--" + c.setting, c.value}})
			_, err := open(t.Context(), testConfig(srv.Addr()))
			if e := wantCode(t, err, flowfabric.CodeStoreMisconfigured); e.Details["setting"] != c.setting || e.Details["found"] != c.value {
				t.Errorf("details: %v", e.Details)
			}
		})
	}
	t.Run("fsync without append-only file", func(t *testing.T) {
		srv := valkeytest.Take(t)
		cfg := testConfig(srv.Addr())
		cfg.Durability.Mode = DurabilityFsync
		_, err := open(t.Context(), cfg)
		wantCode(t, err, flowfabric.CodeStoreMisconfigured)
	})
}

// Chapter 07, scenario 14: where CONFIG is forbidden the server only warns.
// Section 12: the ACL of a server is enough.
func TestBootWithACL(t *testing.T) {
	srv := valkeytest.Start(t, valkeytest.Options{Users: []string{
		"default off",
		"ff on >secret ~ff:* &ff:* +@read +@write +@pubsub +@connection +fcall +fcall_ro +function|load +function|list +info +cluster +wait +waitaof +time -@dangerous +info +cluster|slots",
		"poor on >secret ~ff:* +@connection +info",
	}})
	cfg := testConfig(srv.Addr())
	cfg.Username, cfg.Password = "ff", "secret"
	s := openTest(t, cfg)
	if n := firstNumber(t, s, "ff_test_count", "{fp:1}", "1"); n != 1 {
		t.Errorf("count %d", n)
	}
	cfg.Username = "poor"
	_, err := open(t.Context(), cfg)
	if e := wantCode(t, err, flowfabric.CodeStoreFault); e.Kind != "auth" {
		t.Errorf("kind %q: %v", e.Kind, err)
	}
}

// Chapter 07, scenario 16.
func TestBootRegistersLanes(t *testing.T) {
	srv := valkeytest.Take(t)
	cfg := testConfig(srv.Addr())
	cfg.Lanes = []flowfabric.LaneID{"a", "b"}
	openTest(t, cfg)
	for _, lane := range cfg.Lanes {
		if n := srv.Must("SISMEMBER", keyLanes, string(lane)); n != int64(1) {
			t.Errorf("lane %s is not registered", lane)
		}
	}
}

// Chapter 07, scenarios 17 and 18, and section 13.
func TestBootOfWorker(t *testing.T) {
	srv := valkeytest.Take(t)
	worker := testConfig(srv.Addr())
	worker.Role = RoleWorker
	_, err := open(t.Context(), worker)
	wantCode(t, err, flowfabric.CodeDeploymentNotInitialized)
	if n := srv.Must("DBSIZE"); n != int64(0) {
		t.Errorf("a worker has written %v keys", n)
	}
	cfg := testConfig(srv.Addr())
	cfg.PartitionConfig = counts(8, 4, 2)
	openTest(t, cfg)
	w := openTest(t, worker)
	if got, err := w.PartitionConfig(t.Context()); err != nil || got != cfg.PartitionConfig {
		t.Errorf("PartitionConfig %v, %v", got, err)
	}
	srv.Must("FUNCTION", "FLUSH", "SYNC")
	_, err = open(t.Context(), worker)
	wantCode(t, err, flowfabric.CodeLibraryMissing)

	other := testConfig(srv.Addr())
	other.Testing.library.abi = libraryABI + 1
	openTest(t, other)
	_, err = open(t.Context(), worker)
	wantCode(t, err, flowfabric.CodeLibraryAbiMismatch)
}

// A worker started before any server waits for one.
func TestWorkerWaitsForServer(t *testing.T) {
	srv := valkeytest.Take(t)
	proxy := valkeytest.NewProxy(t, srv.Addr())
	looked := proxy.Inject(valkeytest.LoseRequest, 1, valkeytest.Contains(keyConfig))
	worker := testConfig(proxy.Addr())
	worker.Role, worker.BootWait, worker.LibraryWait = RoleWorker, time.Minute, time.Minute
	opened := make(chan error, 1)
	go func() {
		s, err := open(t.Context(), worker)
		if err == nil {
			err = s.Close()
		}
		opened <- err
	}()
	<-looked.Hit()
	openTest(t, testConfig(srv.Addr()))
	if err := <-opened; err != nil {
		t.Fatal(err)
	}
}

// Section 12: the mode is checked, both ways round.
func TestBootInWrongMode(t *testing.T) {
	srv := valkeytest.Take(t)
	cfg := testConfig(srv.Addr())
	cfg.Cluster = true
	_, err := open(t.Context(), cfg)
	wantCode(t, err, flowfabric.CodeStoreModeMismatch)
	cluster := valkeytest.TakeCluster(t)
	_, err = open(t.Context(), testConfig(cluster.Addrs()[0]))
	wantCode(t, err, flowfabric.CodeStoreModeMismatch)
}

// Section 12: a store that is not there is waited for, and no longer than said.
func TestBootWithoutStore(t *testing.T) {
	srv := valkeytest.Start(t, valkeytest.Options{})
	srv.Kill()
	cfg := testConfig(srv.Addr())
	cfg.ConnectWait = 500 * time.Millisecond
	_, err := open(t.Context(), cfg)
	wantCode(t, err, flowfabric.CodeStoreUnavailable)
	opened := make(chan error, 1)
	cfg.ConnectWait = time.Minute
	go func() {
		s, err := open(t.Context(), cfg)
		if err == nil {
			err = s.Close()
		}
		opened <- err
	}()
	srv.Restart()
	if err := <-opened; err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := open(ctx, cfg); err == nil {
		t.Error("opened with a cancelled context")
	}
}

// Chapter 07, scenario 54.
func TestPassword(t *testing.T) {
	srv := valkeytest.Start(t, valkeytest.Options{Password: "first"})
	cfg := testConfig(srv.Addr())
	cfg.ConnectWait = time.Minute
	begun := time.Now()
	for _, password := range []string{"", "wrong"} {
		cfg.Password = password
		_, err := open(t.Context(), cfg)
		e := wantCode(t, err, flowfabric.CodeStoreFault)
		if e.Kind != "auth" || strings.Contains(err.Error(), "wrong") {
			t.Errorf("password %q: kind %q, error %v", password, e.Kind, err)
		}
	}
	if took := time.Since(begun); took > 10*time.Second {
		t.Errorf("took %v: it was retried", took)
	}
	cfg.Password = ""
	cfg.PasswordFile = filepath.Join(t.TempDir(), "password")
	_, err := open(t.Context(), cfg)
	wantCode(t, err, flowfabric.CodeStoreFault)
	write := func(password string) {
		if err := os.WriteFile(cfg.PasswordFile, []byte(password+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("first")
	s := openTest(t, cfg)
	conn := srv.Dial()
	for _, command := range [][]string{{"CONFIG", "SET", "requirepass", "second"}, {"CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"}} {
		if _, err := conn.Do(command...); err != nil {
			t.Fatal(err)
		}
	}
	_, err = s.read(t.Context(), "ff_test_peek", "{fp:1}")
	if e := wantCode(t, err, flowfabric.CodeStoreFault); e.Kind != "auth" {
		t.Errorf("kind %q", e.Kind)
	}
	write("second")
	if _, err := s.read(t.Context(), "ff_test_peek", "{fp:1}"); err != nil {
		t.Errorf("with the new password: %v", err)
	}
	if _, err := conn.Do("CONFIG", "SET", "requirepass", "first"); err != nil { // the harness knows only this one
		t.Fatal(err)
	}
	write("first")
}

// Section 12: TLS, verified against an authority, a client certificate included.
func TestTLS(t *testing.T) {
	certs := valkeytest.NewTLS(t)
	srv := valkeytest.Start(t, valkeytest.Options{TLS: certs})
	cfg := testConfig(srv.Addr())
	cfg.TLS = &TLS{CAFile: certs.CAFile, CertFile: certs.CertFile, KeyFile: certs.KeyFile}
	s := openTest(t, cfg)
	if n := firstNumber(t, s, "ff_test_count", "{fp:1}", "1"); n != 1 {
		t.Errorf("count %d", n)
	}
	cfg.TLS = &TLS{CertFile: certs.CertFile, KeyFile: certs.KeyFile}
	begun := time.Now()
	cfg.ConnectWait = time.Minute
	if _, err := open(t.Context(), cfg); err == nil {
		t.Error("an unknown authority is trusted")
	}
	if took := time.Since(begun); took > 10*time.Second {
		t.Errorf("took %v: it was retried", took)
	}
	cfg.TLS.SkipVerify = true
	openTest(t, cfg)
}

// Section 3.4: which feeds are written is a matter of the deployment.
func TestFeedSwitches(t *testing.T) {
	srv := valkeytest.Take(t)
	first := openTest(t, testConfig(srv.Addr()))
	for _, f := range []flowfabric.Feed{flowfabric.FeedCompletions, flowfabric.FeedLeases, flowfabric.FeedSignals, flowfabric.FeedTags} {
		if !first.feedOn(f) {
			t.Errorf("%s is off", f)
		}
	}
	cfg := testConfig(srv.Addr())
	cfg.Feeds = []flowfabric.Feed{flowfabric.FeedTags}
	openTest(t, cfg)
	cfg = testConfig(srv.Addr())
	cfg.Role = RoleWorker
	w := openTest(t, cfg)
	if !w.feedOn(flowfabric.FeedCompletions) || w.feedOn(flowfabric.FeedLeases) || w.feedOn(flowfabric.FeedSignals) || !w.feedOn(flowfabric.FeedTags) {
		t.Errorf("a worker has the feeds %v", *w.feeds.Load())
	}
}

// The whole boot on a cluster: every primary has the library, and calls and
// pipelines reach the partitions wherever they are.
func TestBootOnCluster(t *testing.T) {
	cluster := valkeytest.TakeCluster(t)
	cfg := testConfig(cluster.Addrs()...)
	cfg.Cluster = true
	s := openTest(t, cfg)
	for _, p := range cluster.Primaries() {
		if v, _ := p.Must("FCALL_RO", "ff_version", "0").(string); v != s.lib.version.String() {
			t.Errorf("%s has library %q", p.Addr(), v)
		}
	}
	reqs := make([]request, 256)
	for i := range reqs {
		reqs[i] = request{fn: "ff_test_count", tag: s.tag(uint16(i)), args: []string{strconv.Itoa(i)}}
	}
	for i, a := range s.calls(t.Context(), reqs) {
		list, _ := a.msg.AsIntSlice()
		if a.err != nil || len(list) != 1 || list[0] != int64(i) {
			t.Errorf("partition %d: %v, %v", i, list, a.err)
		}
	}
	for i, a := range s.plain(t.Context(), s.b.Get().Key("ff:count:{fp:5}").Build(), s.b.Get().Key("ff:count:{fp:200}").Build(), s.b.Get().Key("ff:none:{fp:6}").Build()) {
		text, _ := a.msg.ToString()
		if want := []string{"5", "200", ""}[i]; a.err != nil || text != want {
			t.Errorf("plain read %d: %q, %v", i, text, a.err)
		}
	}
	if s.slotsWrong(cluster) {
		t.Error("slots differ from CLUSTER KEYSLOT")
	}
	if err := s.Ping(t.Context()); err != nil {
		t.Error(err)
	}
}

// Chapter 07, scenario 3: the slot of a key is the cluster's.
func (s *Store) slotsWrong(c *valkeytest.Cluster) bool {
	for _, key := range []string{"ff:{fp:0}", "ff:{fp:255}", "ff:{w:ns}", keyConfig, "ff:exec:{fp:7}:x:core", "a{}b", "{x", ""} {
		if c.Slot(key) != int(slotOf(key)) {
			return true
		}
	}
	return false
}
