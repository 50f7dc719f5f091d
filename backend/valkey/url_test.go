package valkey

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/flowfabric/flowfabric"
)

func TestParse(t *testing.T) {
	for _, c := range []struct {
		url  string
		want Config
	}{
		{"valkey://localhost", Config{Addrs: []string{"localhost:6379"}}},
		{"valkey://db:7000/0", Config{Addrs: []string{"db:7000"}}},
		{"redis://[::1]:7000", Config{Addrs: []string{"[::1]:7000"}}},
		{"valkey://[::1]", Config{Addrs: []string{"[::1]:6379"}}},
		{"valkeys://ann:s%2Fc%3Fr@db", Config{Addrs: []string{"db:6379"}, Username: "ann", Password: "s/c?r", TLS: &TLS{}}},
		{"rediss://:pw@db/", Config{Addrs: []string{"db:6379"}, Password: "pw", TLS: &TLS{}}},
		{"valkey://a:1,b:2,c/?cluster=1&durability=replicated:2:500ms&request_timeout=2s&allow_redis=true",
			Config{Addrs: []string{"a:1", "b:2", "c:6379"}, Cluster: true, AllowRedis: true, RequestTimeout: 2 * time.Second,
				Durability: Durability{DurabilityReplicated, 2, 500 * time.Millisecond}}},
		{"valkey://a?tls=true&server_name=x&insecure_skip_verify=1&client_name=me&password_file=/p",
			Config{Addrs: []string{"a:6379"}, TLS: &TLS{ServerName: "x", SkipVerify: true}, ClientName: "me", PasswordFile: "/p"}},
		{"valkey://a?durability=fsync&boot_wait=1s&library_wait=2s&connect_wait=3s&connect_timeout=4s&force_library_reload=1&allow_library_upgrade=1",
			Config{Addrs: []string{"a:6379"}, Durability: Durability{DurabilityFsync, 0, time.Second}, BootWait: time.Second,
				LibraryWait: 2 * time.Second, ConnectWait: 3 * time.Second, ConnectTimeout: 4 * time.Second,
				ForceLibraryReload: true, AllowLibraryUpgrade: true}},
	} {
		got, err := Parse(c.url)
		if err != nil {
			t.Errorf("%s: %v", c.url, err)
			continue
		}
		if diff := cmp.Diff(c.want, got, cmpopts.IgnoreFields(Config{}, "Testing")); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.url, diff)
		}
		if !IsURL(c.url) {
			t.Errorf("%s is taken for no URL", c.url)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for _, url := range []string{
		"http://a", "valkey:a", "valkey://", "valkey://a:0", "valkey://a:70000", "valkey://a/1", "valkey://a,b",
		"valkey://a?nonsense=1", "valkey://a?cluster=maybe", "valkey://a?durability=strong", "valkey://a?durability=replicated:0",
		"valkey://a?durability=replicated:x", "valkey://a?durability=fsync:1:soon", "valkey://a?request_timeout=5", "valkey://a?cluster=1&cluster=0",
		"valkeys://a?tls=false", "valkey://u:p@a?password_file=/p", "valkey://u:hidden%zz@a", "valkey://u:hid/den@a", "valkey://u:hid?den@a",
		"valkeys://a?cert_file=/nowhere", "valkeys://a?ca_file=/nowhere", "valkey://a?request_timeout=1ms",
	} {
		_, err := Parse(url)
		if flowfabric.CodeOf(err) != flowfabric.CodeInvalidInput {
			t.Errorf("%s: got %v, want invalid_input", url, err)
		}
		if err != nil && (strings.Contains(err.Error(), "hid") || strings.Contains(err.Error(), "den")) && strings.Contains(url, "hid") {
			t.Errorf("%s: the error shows the password: %v", url, err)
		}
	}
}
