package config

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/flowfabric/flowfabric/backend/valkey"
)

// Specification 07, section 12, and 08, section 6.1: URL and settings make one
// connection.
func TestValkeyStore(t *testing.T) {
	file := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(file, []byte("from a file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	async := valkey.Durability{Mode: valkey.DurabilityAsync, Timeout: time.Second}
	for _, c := range []struct {
		name    string
		environ []string
		want    valkey.Config
	}{
		{"plain", []string{"FF_BACKEND=valkey"}, valkey.Config{Addrs: []string{"localhost:6379"}, Durability: async}},
		{"settings", []string{"FF_BACKEND=valkey", "FF_VALKEY_HOST=db", "FF_VALKEY_PORT=7000", "FF_VALKEY_USERNAME=ann", "FF_VALKEY_PASSWORD=pw",
			"FF_VALKEY_TLS=1", "FF_VALKEY_SERVER_NAME=x", "FF_VALKEY_REQUEST_TIMEOUT=2s", "FF_VALKEY_DURABILITY=replicated:2", "FF_ALLOW_REDIS=1"},
			valkey.Config{Addrs: []string{"db:7000"}, Username: "ann", Password: "pw", TLS: &valkey.TLS{ServerName: "x"}, AllowRedis: true,
				RequestTimeout: 2 * time.Second, Durability: valkey.Durability{Mode: valkey.DurabilityReplicated, Replicas: 2, Timeout: time.Second}}},
		{"cluster", []string{"FF_BACKEND=valkey", "FF_VALKEY_ADDRS=a:1, b:2", "FF_VALKEY_CLUSTER=true"},
			valkey.Config{Addrs: []string{"a:1", "b:2"}, Cluster: true, Durability: async}},
		{"password file", []string{"FF_BACKEND=valkey://ann@db", "FF_VALKEY_PASSWORD_FILE=" + file},
			valkey.Config{Addrs: []string{"db:6379"}, Username: "ann", PasswordFile: file, Durability: async}},
		{"url", []string{"FF_BACKEND=valkeys://ann:pw@db:7000?durability=fsync", "FF_VALKEY_PORT=7000", "FF_VALKEY_PASSWORD=pw"},
			valkey.Config{Addrs: []string{"db:7000"}, Username: "ann", Password: "pw", TLS: &valkey.TLS{},
				Durability: valkey.Durability{Mode: valkey.DurabilityFsync, Timeout: time.Second}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			loaded, err := Load(Sources{Environ: c.environ})
			if err != nil {
				t.Fatal(err)
			}
			got, err := loaded.StoreConfig()
			if err != nil {
				t.Fatal(err)
			}
			if c.want.RequestTimeout == 0 {
				c.want.RequestTimeout = 5 * time.Second
			}
			c.want.ConnectTimeout = 5 * time.Second
			if diff := cmp.Diff(c.want, got, cmpopts.IgnoreFields(valkey.Config{}, "Testing", "Lanes")); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if loaded.DataDir != "" || loaded.StorePath() != "" {
				t.Errorf("data directory %q, path %q", loaded.DataDir, loaded.StorePath())
			}
			if s, err := loaded.EnsureSecret(false); len(Refusals(err)) != 1 {
				t.Errorf("a shared store got the secret %s, %v", s.Origin, err)
			}
		})
	}
}
