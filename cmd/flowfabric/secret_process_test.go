package main

import (
	"bytes"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/flowfabric/flowfabric"
)

// suspend has an execution of the server wait for the signal "go".
func (s *serving) suspend() wait {
	s.t.Helper()
	d := &desk{t: s.t, b: s.connect()}
	return d.suspend(flowfabric.AnyOfNames("k", "go"))
}

// deliver sends the signal with the token that the wait was given.
func (s *serving) deliver(w wait) result {
	s.t.Helper()
	return runWith(s.t.Context(), nil, w.waitpoints[0].Token.Reveal(), "signal", w.id, w.waitpoint(), "--name", "go", "--waitpoint-token-file", "-", "--server", s.url)
}

// TestTokensOutliveARestart is scenario 31 of specification 08: a token from
// before works after a restart; so it does when the secret file is gone, since the
// store has its own keys, and nothing is made anew (section 6.2).
func TestTokensOutliveARestart(t *testing.T) {
	dir := t.TempDir()
	secret := filepath.Join(dir, "flowfabric-data", "waitpoint_secret")
	s := start(t, dir, nil)
	first, second := s.suspend(), s.suspend()
	if kid := first.waitpoints[0].Token.KID(); kid != "k1" {
		t.Errorf("the first token is made with %q", kid)
	}
	s.stop()

	s = start(t, dir, nil)
	if r := s.deliver(first); r.code != exitOK || !strings.Contains(r.out, "resumed the execution") {
		t.Errorf("after a restart: %+v", r)
	}
	s.stop()
	made, err := os.ReadFile(secret)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(s.log(), "rotated since") {
		t.Errorf("the server's own secret is told as another:\n%s", s.log())
	}

	if err := os.Remove(secret); err != nil {
		t.Fatal(err)
	}
	s = start(t, dir, nil)
	s.await("the secret file is missing; the store's own keys hold")
	if r := s.deliver(second); r.code != exitOK {
		t.Errorf("without the file: %+v", r)
	}
	if kid := s.suspend().waitpoints[0].Token.KID(); kid != "k1" {
		t.Errorf("a new token is made with %q", kid)
	}
	s.stop()
	if _, err := os.Stat(secret); !os.IsNotExist(err) {
		t.Errorf("a secret was made beside a store that has keys: %v", err)
	}
	if strings.Contains(s.log(), strings.TrimSpace(string(made))) || strings.Contains(s.log(), second.waitpoints[0].Token.Reveal()) {
		t.Error("the log shows the secret or a token")
	}
}

// TestStartKeepsTheStoresKey is specification 03, scenario 43, and the first
// start with a kid of one's own.
func TestStartKeepsTheStoresKey(t *testing.T) {
	dir := t.TempDir()
	environ := []string{"FF_WAITPOINT_HMAC_SECRET=" + testSecret, "FF_WAITPOINT_HMAC_KID=main"}
	s := start(t, dir, environ)
	if kid := s.suspend().waitpoints[0].Token.KID(); kid != "main" {
		t.Errorf("tokens are made with %q", kid)
	}
	if _, err := os.Stat(filepath.Join(dir, "flowfabric-data", "waitpoint_secret")); !os.IsNotExist(err) {
		t.Errorf("a configured secret was written to a file: %v", err)
	}
	if r := s.run("secret", "rotate", "--kid", "k2", "--generated"); r.code != exitOK {
		t.Fatalf("rotate: %+v", r)
	}
	s.stop()

	for name, environ := range map[string][]string{
		"the former key":          environ,
		"the key, another secret": {"FF_WAITPOINT_HMAC_SECRET=" + strings.Repeat("ab", 32), "FF_WAITPOINT_HMAC_KID=k2"},
		"another key":             {"FF_WAITPOINT_HMAC_SECRET=" + testSecret, "FF_WAITPOINT_HMAC_KID=k9"},
	} {
		s := start(t, dir, environ)
		s.await("which was rotated since; the store's holds")
		if n := strings.Count(s.log(), "rotated since"); n != 1 {
			t.Errorf("%s: %d warnings", name, n)
		}
		var kids flowfabric.WaitpointKIDs
		s.run("secret", "status", "--output", "json").decode(t, &kids)
		if kids.CurrentKID != "k2" || len(kids.Verifying) != 1 || kids.Verifying[0].KID != "main" {
			t.Errorf("%s: the ring is %+v", name, kids)
		}
		s.stop()
		if strings.Contains(s.log(), testSecret) {
			t.Errorf("%s: the log shows the secret", name)
		}
	}
}

// TestMemoryKeepsNoSecret: each start of a memory store has a secret of its own,
// and leaves nothing on disk (specification 08, section 6.2).
func TestMemoryKeepsNoSecret(t *testing.T) {
	dir := t.TempDir()
	s := start(t, dir, nil, "--backend", "memory")
	w := s.suspend()
	if r := s.deliver(w); r.code != exitOK {
		t.Errorf("%+v", r)
	}
	res, err := http.Get(s.url + "/readyz")
	if err != nil || res.StatusCode != http.StatusOK {
		t.Errorf("readyz: %v, %v", res, err)
	}
	res.Body.Close()
	s.stop()
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
		t.Errorf("it left %v, %v", entries, err)
	}
}

// TestStoreMadeByACommand: a store that migrate made has no key yet, so the first
// server writes its secret file; one that another command opened has its own.
func TestStoreMadeByACommand(t *testing.T) {
	dir := t.TempDir()
	data := filepath.Join(dir, "flowfabric-data")
	if r := runWith(t.Context(), nil, "", "migrate", "--data-dir", data); r.code != exitOK {
		t.Fatalf("%+v", r)
	}
	s := start(t, dir, nil)
	if _, err := os.Stat(filepath.Join(data, "waitpoint_secret")); err != nil {
		t.Error(err)
	}
	s.stop()

	opened := filepath.Join(dir, "opened", "flowfabric.db")
	if err := os.Mkdir(filepath.Dir(opened), 0o700); err != nil {
		t.Fatal(err)
	}
	contains(t, runWith(t.Context(), nil, "", "secret", "status", "--backend", "sqlite:"+opened).out, "k1", "makes and verifies")
	s = start(t, dir, nil, "--backend", "sqlite:"+opened)
	s.await("the store's own keys hold")
	w := s.suspend()
	if r := s.deliver(w); r.code != exitOK {
		t.Errorf("%+v", r)
	}
	s.stop()
}

// TestUnreadableSecretChangesNothing: a bad secret file is a refusal, exit code
// 2, and the store is not touched; with the file put right all is as before.
func TestUnreadableSecretChangesNothing(t *testing.T) {
	dir := t.TempDir()
	s := start(t, dir, nil)
	w := s.suspend()
	s.stop()
	secret := filepath.Join(dir, "flowfabric-data", "waitpoint_secret")
	if err := os.Chmod(secret, 0o644); err != nil {
		t.Fatal(err)
	}
	r := execute(t, dir, nil, "serve", "--listen-addr", "127.0.0.1:0")
	if r.code != exitUsage {
		t.Errorf("%+v", r)
	}
	contains(t, r.err, "waitpoint_secret", "chmod 600")
	if err := os.Chmod(secret, 0o600); err != nil {
		t.Fatal(err)
	}
	s = start(t, dir, nil)
	if r := s.deliver(w); r.code != exitOK {
		t.Errorf("%+v", r)
	}
	s.stop()
}

var callbackAddress = regexp.MustCompile(`callbacks have a listener of their own.*(http://127\.0\.0\.1:\d+)`)

// TestCallbacksOfTheirOwn serves callbacks on FF_CALLBACK_ADDR, and nowhere with
// FF_CALLBACKS=false (specification 08, section 4.4).
func TestCallbacksOfTheirOwn(t *testing.T) {
	post := func(base string, w wait, token string) int {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, base+"/v1/callbacks/"+w.id+"/"+w.waitpoint(), bytes.NewReader([]byte(`{"signal_name":"go"}`)))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("FF-Waitpoint-Token", token)
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, res.Body)
		res.Body.Close()
		return res.StatusCode
	}
	s := start(t, t.TempDir(), []string{"FF_CALLBACK_ADDR=127.0.0.1:0"}, "--backend", "memory")
	s.await("callbacks have a listener of their own")
	found := callbackAddress.FindStringSubmatch(s.log())
	if found == nil {
		t.Fatalf("no address in the log:\n%s", s.log())
	}
	own, w := found[1], s.suspend()
	token := w.waitpoints[0].Token.Reveal()
	if status := post(s.url, w, token); status != http.StatusNotFound {
		t.Errorf("at the API's listener: %d", status)
	}
	if status := post(own, w, "k1:"+strings.Repeat("0", 64)); status != http.StatusForbidden {
		t.Errorf("a wrong token: %d", status)
	}
	if status := post(own, w, token); status != http.StatusAccepted {
		t.Errorf("at their own: %d", status)
	}
	contains(t, s.run("execution", "signals", w.id).out, "webhook/callback", "resume_condition_satisfied")
	for path, want := range map[string]int{"/livez": 200, "/readyz": 404, "/v1/executions": 404} {
		res, err := http.Get(own + path)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != want {
			t.Errorf("%s beside the callbacks: %d", path, res.StatusCode)
		}
	}
	s.signal(syscall.SIGTERM)
	s.exits(exitOK)
	if res, err := http.Get(own + "/livez"); err == nil {
		res.Body.Close()
		t.Error("the callbacks' listener outlives the server")
	}
	if strings.Contains(s.log(), token) {
		t.Error("the log shows the token")
	}

	s = start(t, t.TempDir(), []string{"FF_CALLBACKS=false"}, "--backend", "memory")
	w = s.suspend()
	if status := post(s.url, w, w.waitpoints[0].Token.Reveal()); status != http.StatusNotFound {
		t.Errorf("callbacks are off: %d", status)
	}
	s.stop()
}
