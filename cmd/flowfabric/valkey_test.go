package main

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/flowfabric/flowfabric/internal/valkeytest"
)

// valkeyEnviron is what a server on a shared store must be given.
func valkeyEnviron() []string { return []string{"FF_WAITPOINT_HMAC_SECRET=" + testSecret} }

// A server on Valkey from its start to its end, with the commands that open the
// store directly beside it.
func TestServeOnValkey(t *testing.T) {
	srv := valkeytest.Take(t)
	url := "valkey://" + srv.Addr()
	dir := t.TempDir()

	r := execute(t, dir, nil, "execution", "list", "--backend", url)
	if r.code == exitOK || !strings.Contains(r.err, "deployment_not_initialized") {
		t.Errorf("a command on an empty store: %+v", r)
	}
	if n := srv.Must("DBSIZE"); n != int64(0) {
		t.Errorf("a command has written %v keys", n)
	}

	s := start(t, dir, valkeyEnviron(), "--backend", url, "--lanes", "a,b")
	if r := s.run("submit", "greet", "--lane", "a", "--payload", `{"name":"Ann"}`); r.code != exitOK {
		t.Fatalf("submit: %+v", r)
	}
	for _, args := range [][]string{{"lane", "list"}, {"lane", "list", "--backend", url}} {
		r := s.run
		if len(args) > 2 {
			r = func(args ...string) result { return execute(t, dir, nil, args...) }
		}
		got := r(args...)
		if got.code != exitOK {
			t.Errorf("%v: %+v", args, got)
		}
		contains(t, got.out, "a", "b")
	}
	var report struct {
		Verdict  string
		Findings []finding
	}
	r = execute(t, dir, nil, "doctor", "--backend", url, "--output", "json")
	if err := json.Unmarshal([]byte(r.out), &report); err != nil || r.code != exitOK {
		t.Fatalf("doctor: %+v, %v", r, err)
	}
	seen := map[string]verdict{}
	for _, f := range report.Findings {
		seen[f.Check] = f.Verdict
	}
	for _, check := range []string{"store version", "eviction", "encodings", "library", "deployment", "clocks", "partitions", "waitpoint key"} {
		if seen[check] != verdictOK {
			t.Errorf("doctor: %s is %q", check, seen[check])
		}
	}
	if v, ok := seen["duties"]; ok { // those of its own engine, which does nothing
		t.Errorf("doctor: duties are %q", v)
	}

	// Waits over the server and beside it: every way sees the same.
	w := s.suspend()
	beside := func(input string, args ...string) result {
		return runWith(t.Context(), nil, input, append(args, "--backend", url)...)
	}
	for _, r := range []result{s.run("waitpoint", "list"), beside("", "waitpoint", "list")} {
		contains(t, r.out, w.id, "go")
	}
	contains(t, beside("", "secret", "status").out, "k1", "makes and verifies")
	if r := beside("", "waitpoint", "token", w.id, w.waitpoint()); r.out != w.waitpoints[0].Token.Reveal()+"\n" {
		t.Errorf("token: exit code %d, %s", r.code, r.err)
	}
	if r := beside(w.waitpoints[0].Token.Reveal(), "signal", w.id, w.waitpoint(), "--name", "go", "--waitpoint-token-file", "-"); r.code != exitOK {
		t.Errorf("signal: %+v", r)
	}
	contains(t, s.run("execution", "signals", w.id).out, "resume_condition_satisfied")
	w = s.suspend()
	if r := beside("", "execution", "resume", w.id); r.code != exitOK {
		t.Errorf("resume: %+v", r)
	}

	second := start(t, dir, valkeyEnviron(), "--backend", url)
	if n := srv.Must("ZCARD", "ff:idx:servers"); n != int64(2) {
		t.Errorf("%v servers are registered", n)
	}
	second.stop()
	s.stop()
	if n := srv.Must("ZCARD", "ff:idx:servers"); n != int64(0) {
		t.Errorf("%v servers are registered after their ends", n)
	}
}

// Chapter 07, scenario 49: a server whose store is wiped is not ready any more,
// and makes nothing anew.
func TestServeOnWipedValkey(t *testing.T) {
	srv := valkeytest.Take(t)
	s := start(t, t.TempDir(), valkeyEnviron(), "--backend", "valkey://"+srv.Addr())
	srv.Must("FLUSHALL")
	s.await("the store was replaced")
	res, err := http.Get(s.url + "/readyz")
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("readiness answers %d", res.StatusCode)
	}
	if r := s.run("submit", "greet"); r.code == exitOK || !strings.Contains(r.err, "store_replaced") {
		t.Errorf("submit: %+v", r)
	}
	if n := srv.Must("EXISTS", "ff:config:partitions"); n != int64(0) {
		t.Error("a deployment was made anew")
	}
	s.stop()
}

// Boot refusals end a start with exit code 2 and one line.
func TestServeOnWrongValkey(t *testing.T) {
	srv := valkeytest.Take(t)
	dir := t.TempDir()
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"--backend", "valkey://" + srv.Addr() + "/?cluster=1"}, "store_mode_mismatch"},
		{[]string{"--backend", "valkey://u:hunter2@" + srv.Addr()}, "store_fault"},
	} {
		begun := time.Now()
		r := execute(t, dir, valkeyEnviron(), append([]string{"serve", "--listen-addr", "127.0.0.1:0"}, c.args...)...)
		if r.code == exitOK || !strings.Contains(r.err, c.want) || strings.Contains(r.err, "hunter2") {
			t.Errorf("%v: %+v", c.args, r)
		}
		if took := time.Since(begun); took > 10*time.Second {
			t.Errorf("%v: took %v", c.args, took)
		}
	}
	for _, args := range [][]string{{"backup", "x.db"}, {"restore", "x.db"}, {"migrate"}} {
		r := execute(t, dir, nil, append(args, "--backend", "valkey://"+srv.Addr())...)
		if r.code != exitUsage || !strings.Contains(r.err, "Valkey keeps its data itself") {
			t.Errorf("%v: %+v", args, r)
		}
	}
}
