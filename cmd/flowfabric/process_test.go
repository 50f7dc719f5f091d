package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/backend/remote"
)

// patience bounds every wait of these tests; none of them comes near it.
const patience = 30 * time.Second

// serving is a "flowfabric serve" in a process of its own.
type serving struct {
	t   *testing.T
	cmd *exec.Cmd
	url string

	mu   sync.Mutex
	logs bytes.Buffer
	seen chan string // lines of standard error
	done chan struct{}
}

// Write keeps what the process says on standard error and passes on its lines.
func (s *serving) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.logs.Write(p)
	for line := range strings.Lines(string(p)) {
		select {
		case s.seen <- line:
		default: // nobody waits for it; it is in the buffer
		}
	}
	return len(p), nil
}

func (s *serving) log() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.logs.String()
}

// cleanEnviron is an environment without settings.
func cleanEnviron(extra ...string) []string {
	var env []string
	for _, entry := range os.Environ() {
		if !strings.HasPrefix(entry, "FF_") {
			env = append(env, entry)
		}
	}
	return append(env, extra...)
}

// start starts a server in a directory, on a free port, and waits until it is
// ready.
func start(t *testing.T, dir string, environ []string, args ...string) *serving {
	t.Helper()
	s := &serving{t: t, seen: make(chan string, 1000), done: make(chan struct{})}
	s.cmd = exec.Command(binary, append([]string{"serve", "--listen-addr", "127.0.0.1:0"}, args...)...)
	s.cmd.Dir, s.cmd.Env, s.cmd.Stderr = dir, cleanEnviron(environ...), s
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ready := make(chan string, 1)
	go func() {
		in := bufio.NewScanner(out)
		for in.Scan() {
			if rest, ok := strings.CutPrefix(in.Text(), "FlowFabric is ready at "); ok {
				url, _, _ := strings.Cut(rest, " ")
				ready <- url
			}
		}
		_ = s.cmd.Wait()
		close(s.done)
	}()
	t.Cleanup(func() {
		_ = s.cmd.Process.Kill()
		<-s.done
	})
	select {
	case s.url = <-ready:
	case <-s.done:
		t.Fatalf("ended before it was ready:\n%s", s.log())
	case <-time.After(patience):
		t.Fatalf("not ready:\n%s", s.log())
	}
	return s
}

// await waits until a line of the log holds the text.
func (s *serving) await(text string) {
	s.t.Helper()
	limit := time.After(patience)
	for !strings.Contains(s.log(), text) {
		select {
		case <-s.seen:
		case <-limit:
			s.t.Fatalf("no %q in the log:\n%s", text, s.log())
		}
	}
}

func (s *serving) signal(sig os.Signal) {
	s.t.Helper()
	if err := s.cmd.Process.Signal(sig); err != nil {
		s.t.Fatal(err)
	}
}

// exits waits for the end and checks the exit code.
func (s *serving) exits(code int) {
	s.t.Helper()
	select {
	case <-s.done:
	case <-time.After(patience):
		s.t.Fatalf("it does not end:\n%s", s.log())
	}
	if got := s.cmd.ProcessState.ExitCode(); got != code {
		s.t.Errorf("exit code %d, want %d:\n%s", got, code, s.log())
	}
}

// stop ends the server in good order.
func (s *serving) stop() {
	s.t.Helper()
	s.signal(syscall.SIGTERM)
	s.exits(exitOK)
}

func (s *serving) run(args ...string) result {
	return runWith(s.t.Context(), nil, "", append(args, "--server", s.url)...)
}

func (s *serving) connect(opts ...remote.Option) *remote.Backend {
	s.t.Helper()
	b, err := remote.Open(s.t.Context(), s.url, opts...)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = b.Close() })
	return b
}

// execute runs the program to its end in a directory.
func execute(t *testing.T, dir string, environ []string, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, args...)
	var out, errs bytes.Buffer
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = dir, cleanEnviron(environ...), &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return result{cmd.ProcessState.ExitCode(), out.String(), errs.String()}
}

// TestServeInEmptyDirectory is scenario 31 of specification 08: an embedded start
// without settings serves within two seconds and keeps its secret.
func TestServeInEmptyDirectory(t *testing.T) {
	dir := t.TempDir()
	began := time.Now()
	s := start(t, dir, nil)
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("ready after %s", took)
	}
	res, err := http.Get(s.url + "/readyz")
	if err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("readyz: %v %v", res, err)
	}
	res.Body.Close()
	secret := filepath.Join(dir, "flowfabric-data", "waitpoint_secret")
	first, err := os.ReadFile(secret)
	if err != nil {
		t.Fatal(err)
	}
	for path, mode := range map[string]os.FileMode{
		secret:               0o600,
		filepath.Dir(secret): os.ModeDir | 0o700,
		filepath.Join(filepath.Dir(secret), "flowfabric.db"): 0o600,
	} {
		if info, err := os.Stat(path); err != nil || info.Mode() != mode {
			t.Errorf("%s: mode %v, want %v, %v", path, info.Mode(), mode, err)
		}
	}
	if r := s.run("submit", "k", "--id", "{fp:3}:0190cbe2-5f0c-7d3a-8e55-1c2f3a4b5c6d"); r.code != exitOK {
		t.Fatalf("submit: %+v", r)
	}
	s.stop()

	s = start(t, dir, nil)
	if again, err := os.ReadFile(secret); err != nil || !bytes.Equal(again, first) {
		t.Errorf("the secret changed, %v", err)
	}
	if r := s.run("execution", "get", "{fp:3}:0190cbe2-5f0c-7d3a-8e55-1c2f3a4b5c6d"); r.code != exitOK {
		t.Errorf("after the restart: %+v", r)
	}
	s.stop()

	if err := os.Truncate(secret, 0); err != nil {
		t.Fatal(err)
	}
	r := execute(t, dir, nil, "serve", "--listen-addr", "127.0.0.1:0")
	if r.code != exitUsage {
		t.Errorf("with a truncated secret: %+v", r)
	}
	contains(t, r.err, "waitpoint_secret", "malformed")
	if strings.Contains(r.err, strings.TrimSpace(string(first))) {
		t.Error("the refusal shows the secret")
	}
}

// TestSecondServer is scenario 32: a second server on the same data directory
// exits 1 and names the holder.
func TestSecondServer(t *testing.T) {
	dir := t.TempDir()
	s := start(t, dir, nil)
	r := execute(t, dir, nil, "serve", "--listen-addr", "127.0.0.1:0")
	if r.code != exitFailed {
		t.Errorf("second server: %+v", r)
	}
	contains(t, r.err, "in use by", "process")

	_, port, _ := net.SplitHostPort(strings.TrimPrefix(s.url, "http://"))
	for _, data := range []string{"flowfabric-data", "other"} {
		r = execute(t, dir, nil, "serve", "--listen-addr", "127.0.0.1:"+port, "--data-dir", data)
		if r.code != exitFailed {
			t.Errorf("port in use: %+v", r)
		}
		contains(t, r.err, "FF_LISTEN_ADDR", port, "in use")
		if named := strings.Contains(r.err, "process"); named != (data == "flowfabric-data") {
			t.Errorf("data directory %s: %q", data, r.err)
		}
	}
	if r := s.run("doctor"); r.code != exitOK {
		t.Errorf("the first server suffers: %+v", r)
	}
	s.stop()
}

// TestShutdown is scenario 33: readiness ends first, a long poll answers early,
// the exit code is 0.
func TestShutdown(t *testing.T) {
	s := start(t, t.TempDir(), []string{"FF_SHUTDOWN_DELAY=300ms"}, "--backend", "memory")
	created := s.run("submit", "k", "--output", "json")
	var x struct {
		ExecutionID flowfabric.ExecutionID `json:"execution_id"`
	}
	created.decode(t, &x)
	b := s.connect()
	type answer struct {
		res flowfabric.WaitExecutionResult
		err error
	}
	waiting := make(chan answer, 1)
	go func() {
		res, err := b.WaitExecution(context.Background(), flowfabric.WaitExecutionArgs{ExecutionID: x.ExecutionID, WaitMs: 20_000})
		waiting <- answer{res, err}
	}()
	s.awaitMetric("ff_waits_in_use 1")
	began := time.Now()
	s.signal(syscall.SIGTERM)
	s.await("shutting down")
	for { // readiness ends at once, while the server still serves
		res, err := http.Get(s.url + "/readyz")
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, res.Body)
		res.Body.Close()
		if res.StatusCode == http.StatusServiceUnavailable {
			break
		}
		if time.Since(began) > patience {
			t.Fatal("readiness does not end")
		}
	}
	if a := <-waiting; a.err != nil || !a.res.TimedOut || a.res.PublicState != flowfabric.PublicWaiting {
		t.Errorf("the long poll: %+v", a)
	}
	s.exits(exitOK)
	if took := time.Since(began); took > 15*time.Second {
		t.Errorf("the shutdown took %s", took)
	}
}

// awaitMetric asks for the metrics until they hold the text.
func (s *serving) awaitMetric(text string) {
	s.t.Helper()
	for began := time.Now(); time.Since(began) < patience; {
		res, err := http.Get(s.url + "/metrics")
		if err != nil {
			s.t.Fatal(err)
		}
		body, err := io.ReadAll(res.Body)
		res.Body.Close()
		if err != nil {
			s.t.Fatal(err)
		}
		if strings.Contains(string(body), text) {
			return
		}
	}
	s.t.Fatalf("no metric %q", text)
}

func TestSecondSignalEndsAtOnce(t *testing.T) {
	s := start(t, t.TempDir(), []string{"FF_SHUTDOWN_DELAY=40s"}, "--backend", "memory")
	s.signal(syscall.SIGINT)
	s.await("shutting down")
	s.signal(syscall.SIGTERM)
	s.exits(exitFailed)
}

// TestServeRefusals are the start-up refusals: exit code 2, one line that names
// the variable and the value, no port opened and nothing written.
func TestServeRefusals(t *testing.T) {
	tests := []struct {
		environ []string
		want    []string
	}{
		{[]string{"FF_LISTEN_ADDR=0.0.0.0:0"}, []string{"FF_API_TOKEN", "0.0.0.0:0"}},
		{[]string{"FF_CORS_ORIGINS="}, []string{"FF_CORS_ORIGINS"}},
		{[]string{"FF_CORS_ORIGINS=https://good.example,nonsense"}, []string{"FF_CORS_ORIGINS", "nonsense"}},
		{[]string{"FF_TICK_INTERVAL=250"}, []string{"FF_TICK_INTERVAL", "250"}},
		{[]string{"FF_TICK_INTERVAL=0s"}, []string{"FF_TICK_INTERVAL", "0s"}},
		{[]string{"FF_LANES=a,a"}, []string{"FF_LANES", "a,a"}},
		{[]string{"FF_LANES="}, []string{"FF_LANES"}},
		{[]string{"FF_FEEDS=completions,foo"}, []string{"FF_FEEDS", "foo"}},
		{[]string{"FF_API_TOKEN=tooshort"}, []string{"FF_API_TOKEN", "[redacted]"}},
		{[]string{"FF_API_TOKENS_FILE=/does/not/exist"}, []string{"FF_API_TOKENS_FILE", "/does/not/exist"}},
		{[]string{"FF_TLS_CERT_FILE=/does/not/exist", "FF_TLS_KEY_FILE=/nor/this"}, []string{"FF_TLS_CERT_FILE", "/does/not/exist"}},
		{[]string{"FF_BACKEND=valkey://127.0.0.1:1"}, []string{"FF_WAITPOINT_HMAC_SECRET", "shared store"}},
		{[]string{"FF_WAITPOINT_HMAC_SECRET=abc"}, []string{"FF_WAITPOINT_HMAC_SECRET", "[redacted]", "odd"}},
		{[]string{"FF_CALLBACK_ADDR=127.0.0.1:9090"}, []string{"FF_CALLBACK_ADDR", "127.0.0.1:9090", "API listener"}},
		{[]string{"FF_CALLBACK_RATE_LIMIT=many"}, []string{"FF_CALLBACK_RATE_LIMIT", "many"}},
		{[]string{"FF_BACKEND=valkey://u:hunter2@h:6379/1"}, []string{"FF_BACKEND", "only 0", "[redacted]"}},
	}
	for _, tt := range tests {
		t.Run(strings.Join(tt.environ, " "), func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			r := execute(t, dir, tt.environ, "serve")
			if r.code != exitUsage || r.out != "" {
				t.Errorf("%+v", r)
			}
			line := ""
			for l := range strings.Lines(r.err) {
				if strings.HasPrefix(l, "flowfabric: ") {
					line += l
				}
			}
			contains(t, line, tt.want...)
			if strings.Count(line, "\n") != 1 || strings.Contains(r.err, "hunter2") || strings.Contains(r.err, "tooshort") {
				t.Errorf("not one clean line: %q", r.err)
			}
			if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
				t.Errorf("it left %v, %v", entries, err)
			}
		})
	}
}

// TestPartitionCountsAreFixed is scenario 45: another count is refused and the
// store stays as it was.
func TestPartitionCountsAreFixed(t *testing.T) {
	dir := t.TempDir()
	start(t, dir, []string{"FF_TICK_INTERVAL=250ms", "FF_FLOW_PARTITIONS=16"}).stop()
	r := execute(t, dir, nil, "serve", "--listen-addr", "127.0.0.1:0", "--flow-partitions", "128")
	if r.code != exitUsage {
		t.Errorf("%+v", r)
	}
	contains(t, r.err, "partition_count_mismatch", "16", `FF_FLOW_PARTITIONS="128"`)
	s := start(t, dir, nil) // auto takes the store's
	parts, err := s.connect().PartitionConfig(t.Context())
	if err != nil || parts.NumFlowPartitions != 16 {
		t.Errorf("partitions %+v, %v", parts, err)
	}
	s.stop()
}

// TestEmptyFeeds is scenario 53.
func TestEmptyFeeds(t *testing.T) {
	s := start(t, t.TempDir(), []string{"FF_FEEDS="}, "--backend", "memory")
	if r := s.run("submit", "k", "--tag", "a.b=c"); r.code != exitOK {
		t.Fatalf("%+v", r)
	}
	if r := s.run("worker", "run", "--limit", "1", "--exec", "true"); r.code != exitOK {
		t.Fatalf("%+v", r)
	}
	for feed, want := range map[string]int{"completions": 1, "leases": 0, "tags": 0, "signals": 0} {
		r := s.run("events", feed, "--output", "json")
		if r.code != exitOK || strings.Count(r.out, "\n") != want {
			t.Errorf("%s: %+v", feed, r)
		}
	}
	s.stop()
}

// TestOpenServerWarns is the other half of scenario 3.
func TestOpenServerWarns(t *testing.T) {
	s := start(t, t.TempDir(), []string{"FF_ALLOW_UNAUTHENTICATED=true", "FF_LISTN_ADDR=1"}, "--backend", "memory", "--lanes", "a,b")
	s.await("authentication is off")
	s.await("unknown variable FF_LISTN_ADDR; did you mean FF_LISTEN_ADDR?")
	contains(t, s.run("lane", "list").out, "a  ", "b  ")
	s.stop()
}

// TestTokensReload is scenario 47, and the tokens of "token new" at work.
func TestTokensReload(t *testing.T) {
	dir := t.TempDir()
	var minted struct {
		Token string     `json:"token"`
		Entry tokenEntry `json:"entry"`
	}
	runWith(t.Context(), nil, "", "token", "new", "--name", "ci", "--scopes", "submit,read", "--output", "json").decode(t, &minted)
	hashed := runWith(t.Context(), nil, minted.Token+"\n", "token", "hash", "--name", "ci", "--scopes", "submit,read")
	tokens, tokenFile := filepath.Join(dir, "tokens.json"), filepath.Join(dir, "token")
	write := func(path, text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(tokens, "["+hashed.out+"]")
	write(tokenFile, minted.Token+"\n")
	s := start(t, dir, nil, "--backend", "memory", "--api-tokens-file", tokens)
	if r := s.run("submit", "k"); r.code != exitFailed || !strings.Contains(r.err, "unauthenticated") || !strings.Contains(r.err, "--token-file") {
		t.Errorf("without a token: %+v", r)
	}
	if r := s.run("submit", "k", "--token-file", tokenFile); r.code != exitOK {
		t.Errorf("with the token: %+v", r)
	}
	if r := runWith(t.Context(), []string{"FF_API_TOKEN=" + minted.Token}, "", "lane", "pause", "default", "--server", s.url); r.code != exitFailed || !strings.Contains(r.err, "insufficient_scope") {
		t.Errorf("without the scope: %+v", r)
	}
	write(tokens, "{not json")
	s.signal(syscall.SIGHUP)
	s.await("not reloaded")
	if r := s.run("submit", "k", "--token-file", tokenFile); r.code != exitOK {
		t.Errorf("after a bad reload: %+v", r)
	}
	write(tokens, "[]")
	s.signal(syscall.SIGHUP)
	s.await("tokens file reloaded")
	if r := s.run("submit", "k", "--token-file", tokenFile); r.code != exitFailed {
		t.Errorf("after the token was removed: %+v", r)
	}
	if strings.Contains(s.log(), minted.Token) {
		t.Error("the log shows the token")
	}
	s.stop()
}

// TestBackupAndRestore copies a store while its server works, and from the file
// alone, and starts a server on the copy.
func TestBackupAndRestore(t *testing.T) {
	dir := t.TempDir()
	s := start(t, dir, nil)
	data := filepath.Join(dir, "flowfabric-data")
	id := "{fp:3}:0190cbe2-5f0c-7d3a-8e55-1c2f3a4b5c6d"
	if r := s.run("submit", "k", "--id", id); r.code != exitOK {
		t.Fatalf("%+v", r)
	}
	live := filepath.Join(dir, "live.db")
	if r := runWith(t.Context(), nil, "", "backup", live, "--data-dir", data); r.code != exitOK || !strings.Contains(r.out, live) {
		t.Fatalf("backup of a live store: %+v", r)
	}
	if r := runWith(t.Context(), nil, "", "backup", live, "--data-dir", data); r.code != exitUsage || !strings.Contains(r.err, "exists") {
		t.Errorf("backup onto a file: %+v", r)
	}
	if r := runWith(t.Context(), nil, "", "restore", live, "--data-dir", data); r.code != exitUsage || !strings.Contains(r.err, "exists") {
		t.Errorf("restore onto a store: %+v", r)
	}
	if r := runWith(t.Context(), nil, "", "execution", "list", "--backend", "sqlite:"+filepath.Join(data, "flowfabric.db")); r.code != exitFailed || !strings.Contains(r.err, "in use by") {
		t.Errorf("a second owner: %+v", r)
	}
	s.stop()
	if _, err := os.Stat(filepath.Join(data, controlSocket)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the control socket is left: %v", err)
	}

	cold := filepath.Join(dir, "cold.db")
	var out struct {
		Bytes int64 `json:"bytes"`
	}
	runWith(t.Context(), nil, "", "backup", cold, "--data-dir", data, "--output", "json").decode(t, &out)
	if out.Bytes == 0 {
		t.Error("an empty backup")
	}
	for i, from := range []string{live, cold} {
		to := filepath.Join(dir, "restored"+string(rune('a'+i)))
		if r := runWith(t.Context(), nil, "", "restore", from, "--data-dir", to); r.code != exitOK {
			t.Fatalf("restore: %+v", r)
		}
		if r := runWith(t.Context(), nil, "", "execution", "get", id, "--backend", "sqlite:"+filepath.Join(to, "flowfabric.db")); r.code != exitOK {
			t.Errorf("restored: %+v", r)
		}
		s := start(t, dir, nil, "--data-dir", to)
		contains(t, s.run("execution", "get", id).out, "waiting")
		s.stop()
	}
	if r := runWith(t.Context(), nil, "", "backup", filepath.Join(dir, "none.db"), "--data-dir", filepath.Join(dir, "nowhere")); r.code != exitFailed {
		t.Errorf("backup of nothing: %+v", r)
	}
}

func TestMigrate(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	var m migration
	runWith(t.Context(), nil, "", "migrate", "--dry-run", "--data-dir", dir, "--output", "json").decode(t, &m)
	if len(m.Steps) == 0 || !m.DryRun {
		t.Errorf("dry run: %+v", m)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the dry run made the store: %v", err)
	}
	contains(t, runWith(t.Context(), nil, "", "migrate", "--data-dir", dir).out, "applied", "0001_foundation.sql")
	runWith(t.Context(), nil, "", "migrate", "--dry-run", "--data-dir", dir, "--output", "json").decode(t, &m)
	if len(m.Steps) != 0 {
		t.Errorf("up to date: %+v", m)
	}
	contains(t, runWith(t.Context(), nil, "", "migrate", "--data-dir", dir).out, "up to date")
}

func TestConfigCheck(t *testing.T) {
	secret := strings.Repeat("ab", 32)
	environ := []string{"FF_WAITPOINT_HMAC_SECRET=" + secret, "FF_API_TOKEN=0123456789abcdef", "FF_LANES=a,b", "FF_WHAT=1"}
	r := runWith(t.Context(), environ, "", "config", "check", "--scanners=false")
	if r.code != exitOK || strings.Contains(r.out+r.err, secret) || strings.Contains(r.out+r.err, "0123456789abcdef") {
		t.Errorf("%+v", r)
	}
	contains(t, r.out, "FF_LANES", "a,b", "environment", "[redacted]", "FF_SCANNERS", "false", "flag --scanners")
	contains(t, r.err, "unknown variable FF_WHAT")
	r = runWith(t.Context(), []string{"FF_LANES=a,a", "FF_TICK_INTERVAL=1"}, "", "config", "check")
	if r.code != exitUsage || strings.Count(r.err, "\n") != 2 {
		t.Errorf("every refusal has its line: %+v", r)
	}
	var out struct {
		Settings []struct{ Variable, Value string }
	}
	runWith(t.Context(), nil, "", "config", "check", "--output", "json").decode(t, &out)
	if len(out.Settings) < 20 {
		t.Errorf("%d settings", len(out.Settings))
	}
}

func TestServeHelpListsEverySetting(t *testing.T) {
	r := runWith(t.Context(), nil, "", "serve", "--help")
	contains(t, r.out, "Store:", "HTTP:", "Authentication:", "--listen-addr", "FF_LISTEN_ADDR", "--api-token-file", "--tick-interval", "--config", "Examples:")
}

// TestClientsOutliveARestart has a wait and a followed feed go on over a restart
// of their server.
func TestClientsOutliveARestart(t *testing.T) {
	dir := t.TempDir()
	s := start(t, dir, nil)
	addr := strings.TrimPrefix(s.url, "http://")
	var ids []string
	for range 2 {
		var x struct {
			ExecutionID string `json:"execution_id"`
		}
		s.run("submit", "k", "--output", "json").decode(t, &x)
		ids = append(ids, x.ExecutionID)
	}
	waiting, following := make(chan result, 1), make(chan result, 1)
	go func() { waiting <- s.run("wait", ids[1]) }()
	go func() { following <- s.run("events", "completions", "--follow", "--from", "earliest", "--limit", "2") }()
	s.awaitMetric("ff_waits_in_use 1")
	if r := s.run("worker", "run", "--limit", "1", "--exec", "echo one"); r.code != exitOK {
		t.Fatalf("%+v", r)
	}
	s.stop()
	s = start(t, dir, nil, "--listen-addr", addr)
	if r := s.run("worker", "run", "--limit", "1", "--exec", "echo two"); r.code != exitOK {
		t.Fatalf("%+v", r)
	}
	if r := <-waiting; r.code != exitOK || r.out != "two\n" {
		t.Errorf("wait: %+v", r)
	}
	r := <-following
	if r.code != exitOK {
		t.Errorf("events: %+v", r)
	}
	contains(t, r.out, ids...)
	s.stop()
}
