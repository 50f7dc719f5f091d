package config

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/flowfabric/flowfabric"
	"github.com/google/go-cmp/cmp"
)

func load(t *testing.T, env ...string) *Loaded {
	t.Helper()
	l, err := Load(Sources{Environ: env})
	if err != nil {
		t.Fatalf("Load(%q): %v", env, err)
	}
	return l
}

func TestDefaultsAreValid(t *testing.T) {
	c := load(t)
	if c.ListenAddr != "127.0.0.1:9090" || c.DataDir != "./flowfabric-data" || c.Backend.Kind != PlaceEmbedded {
		t.Errorf("defaults: %+v", c.Effective())
	}
	if got := c.StorePath(); got != "flowfabric-data/flowfabric.db" {
		t.Errorf("StorePath() = %q", got)
	}
	if c.Authenticated() || !c.Scanners || c.ShutdownTimeout != 45*time.Second || c.WaitpointGrace != 24*time.Hour {
		t.Errorf("defaults: %+v", c.Effective())
	}
	if diff := cmp.Diff([]flowfabric.Feed{"leases", "signals", "tags"}, c.Feeds); diff != "" {
		t.Error(diff)
	}
	if c.Partitions != (flowfabric.PartitionConfig{}) {
		t.Errorf("partitions = %+v, want auto", c.Partitions)
	}
	if c.Intervals["tick"] != 250*time.Millisecond {
		t.Errorf("tick = %s", c.Intervals["tick"])
	}
}

func TestPrecedenceIsFlagEnvironmentFileDefault(t *testing.T) {
	file := filepath.Join(t.TempDir(), "ff.yaml")
	if err := os.WriteFile(file, []byte("lanes: [a, b]\nshutdown_delay: 1s\nlisten-addr: 127.0.0.1:1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := Load(Sources{
		File:    file,
		Environ: []string{"FF_SHUTDOWN_DELAY=2s", "FF_LISTEN_ADDR=127.0.0.1:2"},
		Flags:   map[string]string{"listen-addr": "127.0.0.1:3", "output": "json"},
	})
	if err != nil {
		t.Fatal(err)
	}
	if l.ListenAddr != "127.0.0.1:3" || l.ShutdownDelay != 2*time.Second {
		t.Errorf("got %s %s", l.ListenAddr, l.ShutdownDelay)
	}
	if diff := cmp.Diff([]flowfabric.LaneID{"a", "b"}, l.Lanes); diff != "" {
		t.Error(diff)
	}
	sources := map[string]string{}
	for _, e := range l.Effective() {
		sources[e.Variable] = e.Source
	}
	want := map[string]string{"FF_LISTEN_ADDR": "flag --listen-addr", "FF_SHUTDOWN_DELAY": "environment", "FF_LANES": "file " + file, "FF_SCANNERS": "default"}
	for k, v := range want {
		if sources[k] != v {
			t.Errorf("source of %s = %q, want %q", k, sources[k], v)
		}
	}
}

// TestRefusals states the start-up refusals: the line names the variable and,
// unless it is secret, the value.
func TestRefusals(t *testing.T) {
	const token = "a-token-of-sixteen-bytes"
	secret64 := strings.Repeat("ab", 32)
	tests := []struct {
		env  string // comma-less assignments separated by newlines
		want []string
	}{
		{"FF_LISTEN_ADDR=0.0.0.0:9090", []string{"FF_LISTEN_ADDR", "0.0.0.0:9090", "FF_API_TOKEN"}},
		{"FF_LISTEN_ADDR=:9090", []string{"FF_API_TOKEN"}},
		{"FF_LISTEN_ADDR=nowhere", []string{"FF_LISTEN_ADDR", "nowhere", "host:port"}},
		{"FF_LISTEN_ADDR=127.0.0.1:99999", []string{"FF_LISTEN_ADDR"}},
		{"FF_API_TOKEN=", []string{"FF_API_TOKEN", "empty"}},
		{"FF_API_TOKEN=   ", []string{"FF_API_TOKEN", "empty"}},
		{"FF_API_TOKEN=short", []string{"FF_API_TOKEN", Redacted, "16"}},
		{"FF_API_TOKEN=sixteen bytes and a blank", []string{"FF_API_TOKEN", Redacted, "illegal"}},
		{"FF_CORS_ORIGINS=", []string{"FF_CORS_ORIGINS", "empty"}},
		{"FF_CORS_ORIGINS=https://a.example,b.example", []string{"FF_CORS_ORIGINS", `"b.example" is no origin`}},
		{"FF_CORS_ORIGINS=https://a.example:99999", []string{"FF_CORS_ORIGINS", "is no origin"}},
		{"FF_CORS_ORIGINS=https://a.example/path", []string{"FF_CORS_ORIGINS", "is no origin"}},
		{"FF_CORS_ORIGINS=*,https://a.example", []string{"FF_CORS_ORIGINS", "alone"}},
		{"FF_TICK_INTERVAL=250", []string{"FF_TICK_INTERVAL", `"250"`, "unit"}},
		{"FF_TICK_INTERVAL=0s", []string{"FF_TICK_INTERVAL", `"0s"`}},
		{"FF_TICK_INTERVAL=0", []string{"FF_TICK_INTERVAL", "unit"}},
		{"FF_TICK_INTERVAL=2h", []string{"FF_TICK_INTERVAL", "1h"}},
		{"FF_LANES=a,a", []string{"FF_LANES", `"a" twice`}},
		{"FF_LANES=", []string{"FF_LANES", "empty"}},
		{"FF_LANES=a{b", []string{"FF_LANES", "a{b"}},
		{"FF_LANES=a,", []string{"FF_LANES"}},
		{"FF_FEEDS=completions,foo", []string{"FF_FEEDS", "foo"}},
		{"FF_FLOW_PARTITIONS=0", []string{"FF_FLOW_PARTITIONS", "1..65535"}},
		{"FF_FLOW_PARTITIONS=65536", []string{"FF_FLOW_PARTITIONS"}},
		{"FF_SCANNERS=yes", []string{"FF_SCANNERS", `"yes"`, "1, 0, true or false"}},
		{"FF_BACKEND=", []string{"FF_BACKEND", "empty"}},
		{"FF_BACKEND=mysql", []string{"FF_BACKEND", "mysql", Available}},
		{"FF_BACKEND=valkey://user:hunter2@host:6379/3", []string{"FF_BACKEND", "valkey://user:[redacted]@host:6379/3", "only 0"}},
		{"FF_BACKEND=valkey://user:hun/ter2@host:6379", []string{"FF_BACKEND", "valkey://user:[redacted]@host:6379"}},
		{"FF_BACKEND=valkey://host?nonsense=1", []string{"FF_BACKEND", "nonsense"}},
		{"FF_BACKEND=valkey://host\nFF_VALKEY_HOST=other", []string{"FF_VALKEY_HOST", "contradicts FF_BACKEND"}},
		{"FF_BACKEND=valkey://host:7000\nFF_VALKEY_PORT=7001", []string{"FF_VALKEY_PORT", "contradicts FF_BACKEND"}},
		{"FF_BACKEND=valkey://host\nFF_VALKEY_ADDRS=a:1", []string{"FF_VALKEY_ADDRS", "contradicts FF_BACKEND"}},
		{"FF_BACKEND=valkey://host?cluster=1\nFF_VALKEY_CLUSTER=false", []string{"FF_VALKEY_CLUSTER", "contradicts FF_BACKEND"}},
		{"FF_BACKEND=valkey://u:p@host\nFF_VALKEY_PASSWORD=hunter2", []string{"FF_VALKEY_PASSWORD", "contradicts FF_BACKEND"}},
		{"FF_BACKEND=valkeys://host\nFF_VALKEY_TLS=0", []string{"FF_VALKEY_TLS", "contradicts FF_BACKEND"}},
		{"FF_BACKEND=valkey\nFF_VALKEY_CA_FILE=/x", []string{"FF_VALKEY_TLS", "is off"}},
		{"FF_BACKEND=valkey\nFF_VALKEY_ADDRS=a:1,b:1", []string{"FF_BACKEND", "cluster is not set"}},
		{"FF_BACKEND=valkey\nFF_VALKEY_ADDRS=a", []string{"FF_VALKEY_ADDRS", "host:port"}},
		{"FF_BACKEND=valkey\nFF_VALKEY_ADDRS=a:1\nFF_VALKEY_PORT=2", []string{"FF_VALKEY_ADDRS", "contradicts"}},
		{"FF_VALKEY_DB=1", []string{"FF_VALKEY_DB", "0..0"}},
		{"FF_VALKEY_PORT=0", []string{"FF_VALKEY_PORT", "1..65535"}},
		{"FF_VALKEY_DURABILITY=strong", []string{"FF_VALKEY_DURABILITY", "replicated:N"}},
		{"FF_BACKEND=postgres://host/db", []string{"FF_BACKEND", "no postgres store"}},
		{"FF_BACKEND=http://127.0.0.1:9090", []string{"FF_BACKEND", "not a store"}},
		{"FF_BACKEND=sqlite:/a/x.db\nFF_DATA_DIR=/b", []string{"FF_DATA_DIR", "/b", "contradicts FF_BACKEND"}},
		{"FF_WAITPOINT_HMAC_SECRET=", []string{"FF_WAITPOINT_HMAC_SECRET", "empty"}},
		{"FF_WAITPOINT_HMAC_SECRET=abc", []string{"FF_WAITPOINT_HMAC_SECRET", Redacted, "odd"}},
		{"FF_WAITPOINT_HMAC_SECRET=abcd", []string{"FF_WAITPOINT_HMAC_SECRET", Redacted, "64 to 256"}},
		{"FF_WAITPOINT_HMAC_SECRET=" + strings.Repeat("zz", 32), []string{Redacted, "hexadecimal"}},
		{"FF_WAITPOINT_HMAC_SECRET=" + strings.Repeat("ab", 129), []string{Redacted, "64 to 256"}},
		{"FF_WAITPOINT_HMAC_SECRET=" + secret64 + "\nFF_WAITPOINT_HMAC_SECRET_FILE=/x", []string{"FF_WAITPOINT_HMAC_SECRET_FILE", "beside"}},
		{"FF_WAITPOINT_HMAC_SECRET_FILE=/does/not/exist", []string{"FF_WAITPOINT_HMAC_SECRET_FILE", "/does/not/exist"}},
		{"FF_WAITPOINT_HMAC_KID=a:b", []string{"FF_WAITPOINT_HMAC_KID", "a:b"}},
		{"FF_WAITPOINT_HMAC_GRACE=721h", []string{"FF_WAITPOINT_HMAC_GRACE", "721h"}},
		{"FF_CALLBACKS=maybe", []string{"FF_CALLBACKS", "maybe"}},
		{"FF_CALLBACK_ADDR=nowhere", []string{"FF_CALLBACK_ADDR", "nowhere", "host:port"}},
		{"FF_CALLBACK_ADDR=127.0.0.1:1\nFF_CALLBACKS=false", []string{"FF_CALLBACK_ADDR", "FF_CALLBACKS"}},
		{"FF_CALLBACK_ADDR=127.0.0.1:9090", []string{"FF_CALLBACK_ADDR", "is the API listener"}},
		{"FF_CALLBACK_ADDR=127.0.0.1:1\nFF_METRICS_ADDR=127.0.0.1:1", []string{"FF_CALLBACK_ADDR", "FF_METRICS_ADDR"}},
		{"FF_CALLBACK_RATE_LIMIT=-1", []string{"FF_CALLBACK_RATE_LIMIT", "-1"}},
		{"FF_CALLBACK_RATE_LIMIT=1.5", []string{"FF_CALLBACK_RATE_LIMIT", "1.5"}},
		{"FF_TLS_CERT_FILE=c.pem", []string{"FF_TLS_CERT_FILE", "FF_TLS_KEY_FILE"}},
		{"FF_TLS_CLIENT_CA_FILE=c.pem", []string{"FF_TLS_CLIENT_CA_FILE"}},
		{"FF_METRICS_AUTH=1", []string{"FF_METRICS_AUTH", "FF_API_TOKEN"}},
		{"FF_TRUSTED_PROXIES=10.0.0.1", []string{"FF_TRUSTED_PROXIES", "10.0.0.1"}},
		{"FF_MAX_CONCURRENT_WAITS=0", []string{"FF_MAX_CONCURRENT_WAITS"}},
		{"FF_SHUTDOWN_DELAY=45s", []string{"FF_SHUTDOWN_DELAY", "FF_SHUTDOWN_TIMEOUT"}},
		{"FF_LOG_LEVEL=loud", []string{"FF_LOG_LEVEL", "loud"}},
		{"FF_LOG_FORMAT=xml", []string{"FF_LOG_FORMAT", "xml"}},
		{"FF_API_TOKEN=" + token + "\nFF_API_TOKEN_FILE=/x", []string{"FF_API_TOKEN_FILE", "beside FF_API_TOKEN"}},
	}
	for _, tt := range tests {
		t.Run(strings.ReplaceAll(tt.env, "\n", " "), func(t *testing.T) {
			_, err := Load(Sources{Environ: strings.Split(tt.env, "\n")})
			refusals := Refusals(err)
			if len(refusals) == 0 {
				t.Fatalf("accepted, err = %v", err)
			}
			line := refusals[0].Error()
			for _, want := range tt.want {
				if !strings.Contains(line, want) {
					t.Errorf("line %q lacks %q", line, want)
				}
			}
			if strings.ContainsAny(line, "\n") {
				t.Errorf("more than one line: %q", line)
			}
			for _, secret := range []string{"hunter2", secret64, token} {
				if strings.Contains(line, secret) {
					t.Errorf("line shows a secret: %q", line)
				}
			}
		})
	}
}

func TestAccepted(t *testing.T) {
	tests := []struct {
		env   string
		check func(*Config) bool
	}{
		{"FF_TICK_INTERVAL=250ms", func(c *Config) bool { return c.Intervals["tick"] == 250*time.Millisecond }},
		{"FF_FEEDS=", func(c *Config) bool { return len(c.Feeds) == 0 }},
		{"FF_FEEDS=completions", func(c *Config) bool { return len(c.Feeds) == 0 }},
		{"FF_METRICS_ADDR=", func(c *Config) bool { return c.MetricsAddr == "" }},
		{"FF_CORS_ORIGINS=*", func(c *Config) bool { return len(c.CORSOrigins) == 1 }},
		{"FF_CORS_ORIGINS=https://a.example, http://localhost:3000", func(c *Config) bool { return len(c.CORSOrigins) == 2 }},
		{"FF_LISTEN_ADDR=0.0.0.0:0\nFF_API_TOKEN=0123456789abcdef", func(c *Config) bool { return c.Authenticated() }},
		{"FF_LISTEN_ADDR=0.0.0.0:0\nFF_ALLOW_UNAUTHENTICATED=true", func(c *Config) bool { return !c.Authenticated() }},
		{"FF_LISTEN_ADDR=[::1]:9090", func(c *Config) bool { return true }},
		{"FF_LISTEN_ADDR=localhost:9090", func(c *Config) bool { return true }},
		{"FF_BACKEND=memory", func(c *Config) bool { return c.DataDir == "" && c.StorePath() == "" }},
		{"FF_BACKEND=memory:", func(c *Config) bool { return c.Backend.Kind == PlaceMemory }},
		{"FF_BACKEND=sqlite:/a/x.db", func(c *Config) bool { return c.StorePath() == "/a/x.db" && c.DataDir == "/a" }},
		{"FF_BACKEND=sqlite:x.db", func(c *Config) bool { return c.StorePath() == "x.db" && c.DataDir == "." }},
		{"FF_BACKEND=sqlite:/a/x.db\nFF_DATA_DIR=/a/", func(c *Config) bool { return c.DataDir == "/a" }},
		{"FF_LOG_LEVEL=warn,scheduler=debug", func(c *Config) bool { return c.Log.Level == 4 && c.Log.Components["scheduler"] == -4 }},
		{"", func(c *Config) bool {
			return c.Callbacks && c.CallbackAddr == "" && !c.CallbackCORS && c.CallbackRateLimit == 10
		}},
		{"FF_CALLBACKS=false\nFF_CALLBACK_RATE_LIMIT=0", func(c *Config) bool { return !c.Callbacks && c.CallbackRateLimit == 0 }},
		{"FF_CALLBACK_ADDR=0.0.0.0:9092\nFF_CALLBACK_CORS=true", func(c *Config) bool { return c.CallbackCORS && c.CallbackAddr == "0.0.0.0:9092" }},
		{"FF_CALLBACK_ADDR=127.0.0.1:0\nFF_LISTEN_ADDR=127.0.0.1:0", func(c *Config) bool { return c.CallbackAddr != "" }},
		{"FF_FLOW_PARTITIONS=128", func(c *Config) bool { return c.Partitions.NumFlowPartitions == 128 }},
	}
	for _, tt := range tests {
		t.Run(tt.env, func(t *testing.T) {
			l := load(t, strings.Split(tt.env, "\n")...)
			if !tt.check(l.Config) {
				t.Errorf("%+v", l.Effective())
			}
		})
	}
}

func TestUnknownNames(t *testing.T) {
	l := load(t, "FF_LISTEN_ADR=127.0.0.1:1", "FF_SOMETHING_ELSE_ENTIRELY=1", "PATH=/bin")
	want := []string{"unknown variable FF_LISTEN_ADR; did you mean FF_LISTEN_ADDR?", "unknown variable FF_SOMETHING_ELSE_ENTIRELY"}
	if diff := cmp.Diff(want, l.Warnings); diff != "" {
		t.Error(diff)
	}

	file := filepath.Join(t.TempDir(), "ff.yaml")
	if err := os.WriteFile(file, []byte("lanse: a\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Load(Sources{Environ: []string{"FF_CONFIG=" + file}})
	if err == nil || !strings.Contains(err.Error(), "unknown key lanse; did you mean lanes?") {
		t.Errorf("err = %v", err)
	}
}

func TestSecretFromFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(path, []byte("0123456789abcdef\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	l := load(t, "FF_API_TOKEN_FILE="+path)
	if l.APIToken != "0123456789abcdef" {
		t.Errorf("token = %q", l.APIToken)
	}
	for _, e := range l.Effective() {
		if strings.Contains(e.Value, "0123456789abcdef") {
			t.Errorf("%s shows the secret", e.Variable)
		}
		if e.Variable == "FF_API_TOKEN" && e.Value != Redacted {
			t.Errorf("FF_API_TOKEN shown as %q", e.Value)
		}
	}
	if s := fmt.Sprintf("%v %+v", l.Config, l.Config); strings.Contains(s, "0123456789abcdef") {
		t.Error("printing the settings shows the secret")
	}

	_, err := Load(Sources{Environ: []string{"FF_API_TOKEN_FILE=" + path}, Flags: map[string]string{"api-token": "fedcba9876543210"}})
	if err == nil {
		t.Error("value and file form together were accepted")
	}
}

func TestEveryRowIsWhole(t *testing.T) {
	seen := map[string]bool{}
	for _, s := range Settings() {
		if s.Doc == "" || s.Group == "" || s.Kind == "" || s.set == nil {
			t.Errorf("%s is incomplete", s.Name)
		}
		if seen[s.Name] {
			t.Errorf("%s is declared twice", s.Name)
		}
		seen[s.Name] = true
	}
}

func TestWaitpointSecretFile(t *testing.T) {
	dir := t.TempDir()
	c := load(t, "FF_DATA_DIR="+dir).Config
	first, err := c.EnsureSecret(false)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, SecretFile)
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 || first.Origin != SecretGenerated || len(first.Hex) != 64 {
		t.Errorf("mode %o, origin %s, %d digits", info.Mode().Perm(), first.Origin, len(first.Hex))
	}
	if s := fmt.Sprintf("%v %#v %+v", first, first, first); strings.Contains(s, first.Hex) {
		t.Error("printing the secret shows it")
	}
	again, err := c.EnsureSecret(false)
	if err != nil || again.Hex != first.Hex || again.Origin != SecretFromFile {
		t.Errorf("second start: %v %v", again.Origin, err)
	}

	refused := func(name string, spoil func()) {
		t.Run(name, func(t *testing.T) {
			spoil()
			_, err := c.EnsureSecret(false)
			if len(Refusals(err)) != 1 || !strings.Contains(err.Error(), path) {
				t.Errorf("err = %v", err)
			}
			if err != nil && strings.Contains(err.Error(), first.Hex) {
				t.Error("refusal shows the secret")
			}
			if strings.Contains(fmt.Sprint(err), "\n") {
				t.Error("more than one line")
			}
		})
	}
	must := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	refused("group readable", func() { must(os.Chmod(path, 0o640)) })
	refused("malformed", func() { must(os.Chmod(path, 0o600)); must(os.WriteFile(path, []byte("xyz"), 0o600)) })
	refused("truncated", func() { must(os.Truncate(path, 0)) })
	refused("directory", func() { must(os.Remove(path)); must(os.Mkdir(path, 0o700)) })
}

func TestMemoryKeepsNoSecretFile(t *testing.T) {
	t.Chdir(t.TempDir())
	c := load(t, "FF_BACKEND=memory").Config
	a, err := c.EnsureSecret(false)
	if err != nil {
		t.Fatal(err)
	}
	b, err := c.EnsureSecret(false)
	if err != nil || a.Hex == b.Hex || a.Path != "" {
		t.Errorf("a.Path = %q, equal %v, err %v", a.Path, a.Hex == b.Hex, err)
	}
	entries, err := os.ReadDir(".")
	if err != nil || len(entries) != 0 {
		t.Errorf("left %v, %v", entries, err)
	}
}

// A store with keys of its own and no secret beside it goes on with them
// (specification 08, section 6.2): nothing is made that would not fit them.
func TestStoreWithKeysAndWithoutFile(t *testing.T) {
	dir := t.TempDir()
	s, err := load(t, "FF_DATA_DIR="+dir).EnsureSecret(true)
	if err != nil || s.Origin != SecretStored || s.Hex != "" {
		t.Errorf("%s %v", s.Origin, err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
		t.Errorf("left %v, %v", entries, err)
	}
}

// A shared store never gets a generated secret, whether it holds keys or not.
func TestSharedStoreNeedsASecret(t *testing.T) {
	t.Chdir(t.TempDir())
	c := load(t, "FF_BACKEND=valkey://127.0.0.1:6379").Config
	for name, ask := range map[string]func() (Secret, error){
		"find": c.FindSecret, "ensure": func() (Secret, error) { return c.EnsureSecret(false) },
		"ensure with keys": func() (Secret, error) { return c.EnsureSecret(true) },
	} {
		_, err := ask()
		if list := Refusals(err); len(list) != 1 || list[0].Variable != "FF_WAITPOINT_HMAC_SECRET" {
			t.Errorf("%s: %v", name, err)
		}
	}
	if entries, err := os.ReadDir("."); err != nil || len(entries) != 0 {
		t.Errorf("left %v, %v", entries, err)
	}
	secret := strings.Repeat("ab", 32)
	s, err := load(t, "FF_BACKEND=valkey://127.0.0.1:6379", "FF_WAITPOINT_HMAC_SECRET="+secret).EnsureSecret(false)
	if err != nil || s.Origin != SecretConfigured || s.Hex != secret {
		t.Errorf("%s %v", s.Origin, err)
	}
}
