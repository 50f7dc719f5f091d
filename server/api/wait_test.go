package api_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/backend/backendtest"
	"github.com/flowfabric/flowfabric/backend/sqlite"
	"github.com/flowfabric/flowfabric/server/api"
)

const apiToken = "0123456789abcdef-api"

// site is an API over an embedded store whose clock the test moves.
type site struct {
	t       *testing.T
	store   *sqlite.Backend
	api     *api.API
	handler http.Handler
	token   string
	log     *bytes.Buffer
}

func newSite(t *testing.T, opt api.Options) *site {
	t.Helper()
	store, err := sqlite.Open(t.Context(), sqlite.Config{Clock: backendtest.NewClock(), NoEngine: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	s := &site{t: t, store: store, log: new(bytes.Buffer)}
	opt.Logger = slog.New(slog.NewTextHandler(s.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	if s.api, err = api.New(store, opt); err != nil {
		t.Fatal(err)
	}
	s.handler = s.api
	return s
}

// tokens makes an API token of every scope, beside those of a file.
func tokens(t *testing.T, file string) *api.Tokens {
	t.Helper()
	path := ""
	if file != "" {
		path = filepath.Join(t.TempDir(), "tokens.json")
		if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	set, err := api.NewTokens(apiToken, path)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// named is an entry of a tokens file.
func named(name, token string, scopes ...string) string {
	sum := sha256.Sum256([]byte(token))
	list, _ := json.Marshal(scopes)
	return fmt.Sprintf(`{"name":%q,"sha256":%q,"scopes":%s`, name, hex.EncodeToString(sum[:]), list)
}

type reply struct {
	t    *testing.T
	what string
	code int
	head http.Header
	body []byte
}

// call sends a request; header comes in pairs.
func (s *site) call(method, target, body string, header ...string) reply {
	s.t.Helper()
	r := httptest.NewRequestWithContext(s.t.Context(), method, target, strings.NewReader(body))
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	} else {
		r.Body = http.NoBody
	}
	if s.token != "" {
		r.Header.Set("Authorization", "Bearer "+s.token)
	}
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	s.handler.ServeHTTP(w, r)
	got, err := io.ReadAll(w.Result().Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return reply{s.t, method + " " + target, w.Code, w.Header(), got}
}

func (r reply) want(code int) reply {
	r.t.Helper()
	if r.code != code {
		r.t.Fatalf("%s: status %d, want %d: %s", r.what, r.code, code, r.body)
	}
	return r
}

// problem checks the code of a refusal and returns the details.
func (r reply) problem(status int, code flowfabric.Code) map[string]any {
	r.t.Helper()
	var p struct {
		Code    flowfabric.Code
		Details map[string]any
	}
	if err := json.Unmarshal(r.want(status).body, &p); err != nil || p.Code != code {
		r.t.Fatalf("%s: %s, want %s", r.what, r.body, code)
	}
	return p.Details
}

// text returns a field of the answer by its path, as text.
func (r reply) text(path ...any) string {
	r.t.Helper()
	var v any
	if err := json.Unmarshal(r.body, &v); err != nil {
		r.t.Fatalf("%s: %v in %s", r.what, err, r.body)
	}
	for _, step := range path {
		switch step := step.(type) {
		case string:
			m, _ := v.(map[string]any)
			v = m[step]
		case int:
			list, _ := v.([]any)
			if step >= len(list) {
				r.t.Fatalf("%s: no item %d in %s", r.what, step, r.body)
			}
			v = list[step]
		}
	}
	if v == nil {
		return ""
	}
	return fmt.Sprint(v)
}

// running is an execution with a worker's lease on it.
type running struct {
	id    flowfabric.ExecutionID
	fence string
	claim flowfabric.ClaimedExecution
}

func (s *site) running(namespace flowfabric.Namespace) running {
	s.t.Helper()
	ctx := context.Background()
	made, err := flowfabric.CreateExecution(ctx, s.store, flowfabric.CreateExecutionArgs{Namespace: namespace, LaneID: "main", Kind: "k", Payload: []byte("{}"), CreatorIdentity: "test"})
	if err != nil {
		s.t.Fatal(err)
	}
	return s.claim(made.ExecutionID)
}

func (s *site) claim(id flowfabric.ExecutionID) running {
	s.t.Helper()
	claim, err := s.store.IssueGrantAndClaim(context.Background(), flowfabric.IssueGrantAndClaimArgs{
		ExecutionID: id, WorkerID: "w", WorkerInstanceID: "w-1", LeaseTTLMs: 60_000, IssuedBy: flowfabric.IssuedByDirect, OperatorOverride: true,
	})
	if err != nil {
		s.t.Fatal(err)
	}
	fence, _ := json.Marshal(map[string]any{"lease_id": claim.Fence.LeaseID, "lease_epoch": claim.Fence.LeaseEpoch, "attempt_id": claim.Fence.AttemptID})
	return running{id, `"fence":` + string(fence), claim}
}

func (x running) e(rest string) string {
	return "/v1/executions/" + url.PathEscape(string(x.id)) + rest
}
func (x running) a(rest string) string {
	return x.e(fmt.Sprintf("/attempts/%d%s", x.claim.AttemptIndex, rest))
}

func (x running) callback(waitpoint string) string {
	return "/v1/callbacks/" + url.PathEscape(string(x.id)) + "/" + waitpoint
}

const (
	wp1    = "0b1e0000-0000-4000-8000-000000000001"
	wp2    = "0b1e0000-0000-4000-8000-000000000002"
	sus1   = "c3a70000-0000-4000-8000-000000000001"
	absent = "{fp:7}:00000000-0000-4000-8000-000000000000"
	single = `{"v":1,"kind":"single","waitpoint_key":"k","matcher":{"kind":"by_name","name":"ready"}}`
)

// suspend is the body of a suspend on one fresh waitpoint.
func (x running) suspend(more string) string {
	return fmt.Sprintf(`{%s,"suspension_id":%q,"reason_code":"waiting_for_signal","waitpoints":[{"waitpoint_id":%q,"waitpoint_key":"k"}],"resume_condition":%s%s}`,
		x.fence, sus1, wp1, single, more)
}

// suspended suspends an execution and returns the token of its waitpoint.
func (s *site) suspended(x running) string {
	s.t.Helper()
	r := s.call("POST", x.a("/suspend"), x.suspend("")).want(200)
	token := r.text("waitpoints", 0, "token")
	if r.text("outcome") != "suspended" || r.text("suspension_id") != sus1 || r.text("waitpoints", 0, "waitpoint_id") != wp1 || !strings.HasPrefix(token, "k1:") {
		s.t.Fatalf("suspended %s", r.body)
	}
	if r.head.Get("Cache-Control") != "no-store" {
		s.t.Errorf("an answer with a token may be kept: %v", r.head)
	}
	return token
}

func signal(waitpoint, token, name, more string) string {
	return fmt.Sprintf(`{"waitpoint_id":%q,"waitpoint_token":%q,"signal_name":%q%s}`, waitpoint, token, name, more)
}

func b64(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

func (s *site) state(x running) string {
	return s.call("GET", x.e("/state"), "").want(200).text("public_state")
}

// secretsStay checks that a text holds no token.
func secretsStay(t *testing.T, what, text string, tokens ...string) {
	t.Helper()
	for _, token := range tokens {
		_, digest, _ := strings.Cut(token, ":")
		if strings.Contains(text, digest) {
			t.Errorf("%s holds the token: %s", what, text)
		}
	}
}
