package valkey

import (
	"testing"

	"github.com/flowfabric/flowfabric/internal/valkeytest"
)

func verdicts(t *testing.T, findings []Finding) map[string]Verdict {
	t.Helper()
	m := make(map[string]Verdict)
	for _, f := range findings {
		m[f.Check] = f.Verdict
		if f.Detail == "" || f.Verdict == VerdictFail && f.Advice == "" {
			t.Errorf("%+v says too little", f)
		}
		t.Logf("%s %s: %s → %s", f.Verdict, f.Check, f.Detail, f.Advice)
	}
	return m
}

func wantVerdicts(t *testing.T, got, want map[string]Verdict) {
	t.Helper()
	for check, v := range want {
		if got[check] != v {
			t.Errorf("%s: %q, want %q", check, got[check], v)
		}
	}
}

func TestExamine(t *testing.T) {
	srv := valkeytest.Start(t, valkeytest.Options{Args: []string{"--appendonly", "yes", "--maxmemory", "1gb"}})
	cfg := testConfig(srv.Addr())
	wantVerdicts(t, verdicts(t, Examine(t.Context(), cfg)), map[string]Verdict{
		"store": VerdictOK, "store version": VerdictOK, "eviction": VerdictOK, "memory": VerdictOK, "encodings": VerdictOK,
		"persistence": VerdictOK, "replicas": VerdictWarn, "library": VerdictFail, "deployment": VerdictFail, "clocks": VerdictOK,
	})
	if n := srv.Must("DBSIZE"); n != int64(0) {
		t.Errorf("%v keys were written", n)
	}
	s := openTest(t, cfg)
	wantVerdicts(t, verdicts(t, Examine(t.Context(), cfg)), map[string]Verdict{"library": VerdictOK, "deployment": VerdictOK,
		"waitpoint secrets": VerdictWarn})
	if _, err := s.SeedWaitpointSecret(t.Context(), testKID, testSecret); err != nil {
		t.Fatal(err)
	}
	wantVerdicts(t, verdicts(t, Examine(t.Context(), cfg)), map[string]Verdict{"waitpoint secrets": VerdictOK})
	srv.Must("HSET", "ff:sec:{fp:3}:waitpoint_hmac", "current_kid", "k2")
	wantVerdicts(t, verdicts(t, Examine(t.Context(), cfg)), map[string]Verdict{"waitpoint secrets": VerdictWarn})
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for _, set := range [][]string{{"maxmemory-policy", "volatile-lru"}, {"hash-max-listpack-value", "8"}, {"maxmemory", "1mb"}, {"appendonly", "no"}} {
		srv.Must("CONFIG", "SET", set[0], set[1])
	}
	wantVerdicts(t, verdicts(t, Examine(t.Context(), cfg)), map[string]Verdict{
		"eviction": VerdictFail, "memory": VerdictFail, "encodings": VerdictFail, "persistence": VerdictWarn, "deployment": VerdictWarn,
	})
	cfg.Cluster = true
	wantVerdicts(t, verdicts(t, Examine(t.Context(), cfg)), map[string]Verdict{"mode": VerdictFail})
	cfg.Cluster = false
	srv.Kill()
	wantVerdicts(t, verdicts(t, Examine(t.Context(), cfg)), map[string]Verdict{"store": VerdictFail})
}

func TestExamineCluster(t *testing.T) {
	cluster := valkeytest.StartCluster(t, 3, 1, valkeytest.Options{})
	cfg := testConfig(cluster.Addrs()...)
	cfg.Cluster = true
	openTest(t, cfg)
	wantVerdicts(t, verdicts(t, Examine(t.Context(), cfg)), map[string]Verdict{
		"store": VerdictOK, "store version": VerdictOK, "replicas": VerdictOK, "library": VerdictOK, "deployment": VerdictOK, "clocks": VerdictOK,
	})
	cluster.Primaries()[1].Must("FUNCTION", "FLUSH", "SYNC")
	wantVerdicts(t, verdicts(t, Examine(t.Context(), cfg)), map[string]Verdict{"library": VerdictFail})
}
