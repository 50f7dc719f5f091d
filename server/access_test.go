package server_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/backend/sqlite"
	"github.com/flowfabric/flowfabric/server"
)

// broken is a store that has stopped answering, or panics.
type broken struct {
	flowfabric.Backend
	panics bool
}

func (b *broken) Ping(context.Context) error {
	return flowfabric.NewError(flowfabric.CodeStoreUnavailable, "the store is stopped").WithKind("transport")
}

func (b *broken) DescribeExecution(context.Context, flowfabric.ExecutionID) (*flowfabric.ExecutionSnapshot, error) {
	if b.panics {
		panic("secret payload of the panic")
	}
	return nil, flowfabric.NewError(flowfabric.CodeStoreUnavailable, "the store is stopped").WithKind("transport")
}

func stopped(t *testing.T, panics bool) *broken {
	t.Helper()
	store, err := sqlite.Open(t.Context(), sqlite.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	return &broken{Backend: store, panics: panics}
}

func TestScenario01Probes(t *testing.T) {
	for _, token := range []string{"", sharedToken} {
		f := serve(t, server.Config{APIToken: token})
		for _, path := range []string{"/healthz", "/livez", "/readyz"} {
			if a := f.as("").call("GET", path, nil).want(200); strings.TrimSpace(string(a.body)) != `{"status":"ok"}` {
				t.Errorf("%s %s", path, a.body)
			}
		}
		f.as("").call("GET", "/metrics", nil).want(200)
		f.as("").call("GET", "/openapi.json", nil).want(200)
		f.as("").call("GET", "/v1/capabilities", nil).want(200)
	}
	f := over(t, stopped(t, false), server.Config{})
	f.call("GET", "/healthz", nil).problem(503, flowfabric.CodeStoreUnavailable)
	p := f.call("GET", "/readyz", nil).problem(503, flowfabric.CodeNotReady)
	checks, _ := details(p)["checks"].(map[string]any)
	if checks["store"] != "failing" || checks["shutdown"] != "ok" {
		t.Errorf("checks %v", checks)
	}
	f.call("GET", "/livez", nil).want(200)
	a := f.call("GET", e(absentID), nil)
	if p := a.problem(503, flowfabric.CodeStoreUnavailable); p["kind"] != "transport" || a.header.Get("Retry-After") != "1" {
		t.Errorf("store fault %s %v", a.body, a.header)
	}
}

func TestScenario02Bearer(t *testing.T) {
	routes := [][2]string{
		{"GET", "/v1/executions"}, {"POST", "/v1/executions"}, {"POST", "/v1/executions/batch"}, {"GET", e(absentID)},
		{"POST", e(absentID, "/cancel")}, {"POST", "/v1/workers/w/tasks"}, {"GET", "/v1/lanes"}, {"GET", "/v1/admin/scanners"},
		{"GET", "/v1/feeds/completions"}, {"GET", "/v1/partition-config"},
	}
	wrong := sharedToken[:len(sharedToken)-1] + "X"
	f := serve(t, server.Config{APIToken: sharedToken})
	for _, r := range routes {
		a := f.as("").call(r[0], r[1], nil)
		a.problem(401, flowfabric.CodeUnauthenticated)
		if a.header.Get("WWW-Authenticate") != "Bearer" {
			t.Errorf("%v: headers %v", r, a.header)
		}
	}
	for i, r := range routes {
		f.as([]string{"wrong", wrong}[i%2]).call(r[0], r[1], nil).problem(401, flowfabric.CodeUnauthenticated)
	}
	f.call("GET", "/v1/executions", nil).want(200)
	f.as("").call("GET", "/v1/executions", nil, "Authorization", "bEaReR "+sharedToken).want(200)
	f.as("").call("GET", "/v1/executions?token="+sharedToken, nil).problem(401, flowfabric.CodeUnauthenticated)
	f.as("").call("GET", "/v1/executions", nil, "Authorization", "Basic "+sharedToken).problem(401, flowfabric.CodeUnauthenticated)
}

func TestFailedAuthenticationIsThrottled(t *testing.T) {
	f := serve(t, server.Config{APIToken: sharedToken})
	for range 20 {
		f.as("wrong").call("GET", "/v1/executions", nil).problem(401, flowfabric.CodeUnauthenticated)
	}
	a := f.as("wrong").call("GET", "/v1/executions", nil)
	a.problem(429, flowfabric.CodeClientRateLimited)
	if a.header.Get("Retry-After") == "" {
		t.Errorf("headers %v", a.header)
	}
	f.call("GET", "/v1/executions", nil).problem(429, flowfabric.CodeClientRateLimited)
	f.call("GET", "/livez", nil).want(200)
	f.call("GET", "/v1/capabilities", nil).want(200)
}

func TestScenario03Exposure(t *testing.T) {
	refused := func(cfg server.Config) {
		t.Helper()
		err := cfg.Validate()
		if e := flowfabric.AsError(err); e == nil || e.Detail("field") != "FF_API_TOKEN" || !strings.Contains(e.Message, "0.0.0.0:9090") {
			t.Errorf("error %v", err)
		}
	}
	refused(server.Config{ListenAddr: "0.0.0.0:9090"})
	for _, ok := range []server.Config{
		{ListenAddr: "127.0.0.1:9090"}, {ListenAddr: "[::1]:9090"}, {ListenAddr: "localhost:9090"},
		{ListenAddr: "0.0.0.0:9090", APIToken: sharedToken}, {ListenAddr: ":9090", AllowUnauthenticated: true},
	} {
		if err := ok.Validate(); err != nil {
			t.Errorf("%+v: %v", ok, err)
		}
	}
	if err := (server.Config{ListenAddr: ":9090"}).Validate(); err == nil {
		t.Error("every address is served to everybody")
	}

	// The listener itself is looked at as well.
	var logs bytes.Buffer
	srv, err := server.NewPending(server.Config{Logger: slog.New(slog.NewJSONHandler(&logs, nil))})
	if err != nil {
		t.Fatal(err)
	}
	if err := srv.Serve(public{}); err == nil || !strings.Contains(err.Error(), "FF_API_TOKEN") {
		t.Errorf("served: %v", err)
	}
	if err := srv.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
}

// public is a listener on every address, of which nothing but the address is
// real.
type public struct{ net.Listener }

func (public) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4zero, Port: 9090} }
func (public) Close() error   { return nil }

func TestTokenRefusals(t *testing.T) {
	for _, token := range []string{" ", "                    ", "short", "0123456789abcde\n", "0123456789abcdef ü"} {
		err := server.Config{APIToken: token}.Validate()
		if e := flowfabric.AsError(err); e == nil || e.Detail("field") != "FF_API_TOKEN" || strings.Contains(e.Message, token+"x") {
			t.Errorf("%q: %v", token, err)
		}
		if err != nil && len(token) > 5 && strings.TrimSpace(token) != "" && strings.Contains(err.Error(), token) {
			t.Errorf("the token is in %v", err)
		}
	}
	for name, cfg := range map[string]server.Config{
		"FF_SHUTDOWN_DELAY":       {ShutdownDelay: -1},
		"FF_RATE_LIMIT":           {RateLimit: -1},
		"FF_MAX_CONCURRENT_WAITS": {MaxWaits: -1},
		"FF_API_TOKENS_FILE":      {APITokensFile: filepath.Join(t.TempDir(), "none")},
		"FF_TLS_KEY_FILE":         {TLSCertFile: "x"},
		"FF_TLS_CERT_FILE":        {TLSKeyFile: "x"},
		"FF_TLS_CLIENT_CA_FILE":   {TLSClientCAFile: "x"},
		"FF_LISTEN_ADDR":          {ListenAddr: "nonsense"},
	} {
		if e := flowfabric.AsError(cfg.Validate()); e == nil || e.Detail("field") != name {
			t.Errorf("%s: %v", name, cfg.Validate())
		}
	}
}

func TestScenario04CORS(t *testing.T) {
	for _, bad := range [][]string{{}, {""}, {"https://ok.example", "nonsense"}, {"https://ok.example/path"}, {"*", "https://ok.example"}, {"https://*.example"}} {
		err := server.Config{CORSOrigins: bad}.Validate()
		e := flowfabric.AsError(err)
		if e == nil || e.Detail("field") != "FF_CORS_ORIGINS" {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if err := (server.Config{CORSOrigins: []string{"https://ok.example", "nonsense"}}).Validate(); !strings.Contains(err.Error(), `"nonsense"`) {
		t.Errorf("error %v", err)
	}

	const origin = "https://ok.example"
	none := func(a *answer) {
		t.Helper()
		for name := range a.header {
			if strings.HasPrefix(name, "Access-Control-") {
				t.Errorf("%s: %s", a.what, name)
			}
		}
	}
	off := serve(t, server.Config{})
	none(off.call("GET", "/v1/executions", nil, "Origin", origin).want(200))
	none(off.call("OPTIONS", "/v1/executions", nil, "Origin", origin, "Access-Control-Request-Method", "POST").want(204))

	any := serve(t, server.Config{CORSOrigins: []string{"*"}})
	if a := any.call("GET", "/v1/executions", nil, "Origin", origin).want(200); a.header.Get("Access-Control-Allow-Origin") != "*" || a.header.Get("Access-Control-Allow-Credentials") != "" {
		t.Errorf("headers %v", a.header)
	}

	list := serve(t, server.Config{CORSOrigins: []string{origin}, APIToken: sharedToken})
	a := list.call("GET", "/v1/executions", nil, "Origin", origin).want(200)
	if a.header.Get("Access-Control-Allow-Origin") != origin || a.header.Get("Vary") != "Origin" {
		t.Errorf("headers %v", a.header)
	}
	none(list.call("GET", "/v1/executions", nil, "Origin", "https://other.example").want(200))
	none(list.as("").call("GET", "/v1/executions", nil, "Origin", "https://other.example").want(401))
	pre := list.as("").call("OPTIONS", e(absentID, "/cancel"), nil, "Origin", origin, "Access-Control-Request-Method", "POST").want(204)
	if pre.header.Get("Access-Control-Allow-Methods") != "GET, POST, PUT, DELETE" || pre.header.Get("Access-Control-Max-Age") != "600" ||
		!strings.Contains(pre.header.Get("Access-Control-Allow-Headers"), "authorization") || pre.header.Get("Access-Control-Allow-Origin") != origin {
		t.Errorf("preflight %v", pre.header)
	}
	none(list.as("").call("OPTIONS", "/v1/executions", nil, "Origin", "https://other.example", "Access-Control-Request-Method", "POST").want(204))
	if pre := any.call("OPTIONS", "/v1/executions", nil, "Origin", origin, "Access-Control-Request-Method", "POST"); strings.Contains(pre.header.Get("Access-Control-Allow-Headers"), "authorization") {
		t.Errorf("preflight %v", pre.header)
	}
}

func TestScenario09TokenBeforeSize(t *testing.T) {
	f := serve(t, server.Config{APIToken: sharedToken})
	over := strings.Repeat(" ", 3<<19+1)
	f.as("").call("POST", "/v1/executions", over).problem(401, flowfabric.CodeUnauthenticated)
	f.call("POST", "/v1/executions", over).problem(413, flowfabric.CodePayloadTooLarge)
}

// tokens writes a tokens file and returns its path.
func tokens(t *testing.T, list ...fields) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "tokens.json")
	doc, err := json.Marshal(list)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, doc, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func digest(token string) string {
	sum := sha256.Sum256([]byte(token))
	return hex.EncodeToString(sum[:])
}

func TestScenario46ScopeWork(t *testing.T) {
	f := serve(t, server.Config{APIToken: sharedToken, APITokensFile: tokens(t,
		fields{"name": "worker", "sha256": digest("worker-token"), "scopes": []string{"work"}},
		fields{"name": "reader", "sha256": digest("reader-token"), "scopes": []string{"read"}},
		fields{"name": "operator", "sha256": digest("operator-token"), "scopes": []string{"operate"}},
		fields{"name": "admin", "sha256": digest("admin-token"), "scopes": []string{"admin"}},
		fields{"name": "gone", "sha256": digest("gone-token"), "scopes": []string{"admin"}, "expires_at": 1000},
	)})
	id := f.create(nil)
	worker := f.as("worker-token")
	held := worker.claim(1, nil)
	if len(held) != 1 {
		t.Fatal("a worker claims nothing")
	}
	p := worker.call("POST", e(id, "/cancel"), fields{"reason": "r"}).problem(403, flowfabric.CodeInsufficientScope)
	if required, _ := details(p)["required"].([]any); len(required) != 1 || required[0] != "operate" {
		t.Errorf("details %v", p["details"])
	}
	worker.call("GET", e(id, "/inputs"), nil).want(200)
	worker.call("GET", e(absentID, "/inputs"), nil).problem(404, flowfabric.CodeExecutionNotFound)
	worker.call("GET", e(id, "/input"), nil).want(200)
	worker.call("GET", e(id, "/context"), nil).want(200)
	worker.call("GET", e(id), nil).problem(403, flowfabric.CodeInsufficientScope)
	lease, _ := held[0].Fence["lease_id"].(string)
	for _, path := range []string{"/attempts", "/attempts/current", "/attempts/0"} {
		if got := string(f.as("reader-token").call("GET", e(id, path), nil).want(200).body); strings.Contains(got, lease) {
			t.Errorf("%s shows a reader the fence: %s", path, got)
		}
		if got := string(f.as("operator-token").call("GET", e(id, path), nil).want(200).body); !strings.Contains(got, lease) {
			t.Errorf("%s shows an operator no lease: %s", path, got)
		}
	}
	worker.call("POST", e(id, "/revoke-lease"), fields{}).problem(400, flowfabric.CodeInvalidInput)
	worker.call("POST", e(id, "/revoke-lease"), fields{"expected_lease_id": held[0].Fence["lease_id"], "reason": "worker_abandoned"}).want(200)
	worker.call("GET", "/v1/worker-instances", nil).problem(400, flowfabric.CodeInvalidInput)

	f.as("reader-token").call("GET", e(id), nil).want(200)
	f.as("reader-token").call("POST", "/v1/executions", spec).problem(403, flowfabric.CodeInsufficientScope)
	f.as("operator-token").call("GET", e(id), nil).want(200)
	f.as("operator-token").call("GET", "/v1/admin/scanners", nil).problem(403, flowfabric.CodeInsufficientScope)
	f.as("admin-token").call("GET", "/v1/admin/scanners", nil).want(200)
	f.as("admin-token").call("POST", "/v1/executions", spec).want(201)
	f.as("gone-token").call("GET", e(id), nil).problem(401, flowfabric.CodeUnauthenticated)
}

func TestNamespaceLimits(t *testing.T) {
	f := serve(t, server.Config{APIToken: sharedToken, APITokensFile: tokens(t,
		fields{"name": "tenant", "sha256": digest("tenant-token"), "scopes": []string{"admin"}, "namespaces": []string{"a"}},
	)})
	foreign := f.create(fields{"namespace": "b"})
	own := f.create(fields{"namespace": "a"})
	tenant := f.as("tenant-token")
	tenant.call("GET", e(own), nil).want(200)
	for _, path := range []string{"", "/state", "/result", "/input", "/context", "/attempts", "/lease", "/tags", "/wait?wait_ms=0", "/routing", "/lease-history"} {
		tenant.call("GET", e(foreign, path), nil).problem(404, flowfabric.CodeExecutionNotFound)
	}
	tenant.call("POST", e(foreign, "/cancel"), fields{"reason": "r"}).problem(404, flowfabric.CodeExecutionNotFound)
	tenant.call("POST", "/v1/executions", spec.with(fields{"namespace": "b"})).problem(403, flowfabric.CodeNamespaceForbidden)
	tenant.call("GET", "/v1/executions?namespace=b", nil).problem(403, flowfabric.CodeNamespaceForbidden)
	tenant.call("GET", "/v1/feeds/completions?namespace=b", nil).problem(403, flowfabric.CodeNamespaceForbidden)
	tenant.call("PUT", "/v1/worker-instances/i", fields{"worker_id": "w", "namespace": "*", "lanes": []string{"main"}, "capabilities": []string{}, "instance_nonce": newUUID()}).
		problem(403, flowfabric.CodeNamespaceForbidden)
	var page struct {
		Items []struct {
			ExecutionID string `json:"execution_id"`
		}
	}
	tenant.call("GET", "/v1/executions", nil).want(200).decode(&page)
	if len(page.Items) != 1 || page.Items[0].ExecutionID != own {
		t.Errorf("the tenant sees %v", page)
	}
	if got := tenant.claim(10, nil); len(got) != 1 || got[0].ExecutionID != own {
		t.Errorf("the tenant claims %v", got)
	}
	var batch struct {
		Items []struct {
			Outcome string
			Problem *struct{ Code string }
		}
	}
	tenant.call("POST", "/v1/executions/batch", fields{"executions": []fields{spec.with(fields{"namespace": "b"}), spec.with(fields{"namespace": "a"})}}).
		want(200).decode(&batch)
	if len(batch.Items) != 2 || batch.Items[0].Problem == nil || batch.Items[0].Problem.Code != "namespace_forbidden" || batch.Items[1].Outcome != "created" {
		t.Errorf("batch %v", batch)
	}
	// An id given or a key bound elsewhere leads to no foreign execution either.
	again := spec.with(fields{"namespace": "a", "execution_id": foreign, "idempotency_key": "mine"})
	tenant.call("POST", "/v1/executions", again).problem(404, flowfabric.CodeExecutionNotFound)
	tenant.call("POST", "/v1/executions?wait_ms=1", again).problem(404, flowfabric.CodeExecutionNotFound)
	tenant.call("POST", "/v1/executions/batch", fields{"executions": []fields{again}}).want(200).decode(&batch)
	if len(batch.Items) != 1 || batch.Items[0].Problem == nil || batch.Items[0].Problem.Code != "execution_not_found" {
		t.Errorf("batch of a foreign id: %v", batch)
	}
	if got := tenant.call("POST", "/v1/executions", spec.with(fields{"namespace": "a", "idempotency_key": "mine"})).want(201).text("execution_id"); got == foreign {
		t.Error("the refused creates bound their key")
	}
	f.call("POST", "/v1/executions", spec.with(fields{"namespace": "a", "execution_id": foreign, "idempotency_key": "theirs"})).want(200)
	bound := spec.with(fields{"namespace": "a", "idempotency_key": "theirs"})
	tenant.call("POST", "/v1/executions", bound).problem(404, flowfabric.CodeExecutionNotFound)
	tenant.call("POST", "/v1/executions?wait_ms=1", bound).problem(404, flowfabric.CodeExecutionNotFound)
	held := f.claim(10, fields{"namespace": "b", "worker_instance_id": "w-9"})
	var done struct {
		Items []struct{ Problem *struct{ Code string } }
	}
	tenant.call("POST", "/v1/workers/w/completions", fields{"items": []fields{{"execution_id": foreign, "attempt_index": 0, "fence": held[0].Fence}}}).want(200).decode(&done)
	if done.Items[0].Problem == nil || done.Items[0].Problem.Code != "execution_not_found" {
		t.Errorf("completion %v", done)
	}
}

func TestScenario47BadTokensFileKeepsTheFormer(t *testing.T) {
	path := tokens(t, fields{"name": "x", "sha256": digest("x-token"), "scopes": []string{"read"}})
	var logs bytes.Buffer
	f := serve(t, server.Config{APITokensFile: path, Logger: slog.New(slog.NewJSONHandler(&logs, &slog.HandlerOptions{Level: slog.LevelError}))})
	f.as("x-token").call("GET", "/v1/executions", nil).want(200)
	if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := f.server.Reload(); err == nil {
		t.Error("a bad file was taken")
	}
	f.as("x-token").call("GET", "/v1/executions", nil).want(200)
	if !strings.Contains(logs.String(), `"audit":true`) {
		t.Errorf("logs %s", logs.String())
	}
	doc, _ := json.Marshal([]fields{{"name": "y", "sha256": digest("y-token"), "scopes": []string{"read"}}})
	if err := os.WriteFile(path, doc, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := f.server.Reload(); err != nil {
		t.Error(err)
	}
	f.as("x-token").call("GET", "/v1/executions", nil).problem(401, flowfabric.CodeUnauthenticated)
	f.as("y-token").call("GET", "/v1/executions", nil).want(200)
}

func TestTokensFileRefusals(t *testing.T) {
	good := fields{"name": "x", "sha256": digest("x"), "scopes": []string{"read"}}
	for name, list := range map[string][]fields{
		"unknown field":   {good.with(fields{"token": "plain"})},
		"no name":         {good.with(fields{"name": ""})},
		"short digest":    {good.with(fields{"sha256": "abcd"})},
		"unknown scope":   {good.with(fields{"scopes": []string{"everything"}})},
		"no scope":        {good.with(fields{"scopes": []string{}})},
		"empty list":      {good.with(fields{"namespaces": []string{}})},
		"bad namespace":   {good.with(fields{"namespaces": []string{"a b"}})},
		"name twice":      {good, good.with(fields{"sha256": digest("y")})},
		"digest twice":    {good, good.with(fields{"name": "y"})},
		"expiry no time":  {good.with(fields{"expires_at": "tomorrow"})},
		"digest too long": {good.with(fields{"sha256": digest("x") + "00"})},
	} {
		if err := (server.Config{APITokensFile: tokens(t, list...)}).Validate(); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	text, _ := json.Marshal([]fields{good})
	for name, content := range map[string]string{
		"bracket behind": string(text) + "]", "brace behind": string(text) + "}", "second array": string(text) + "[]",
		"null": "null", "object": "{}", "empty": "",
	} {
		path := filepath.Join(t.TempDir(), "tokens.json")
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := (server.Config{APITokensFile: path}).Validate(); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	ok := good.with(fields{"namespaces": []string{"*"}, "expires_at": "2100-01-01T00:00:00Z"})
	if err := (server.Config{APITokensFile: tokens(t, ok)}).Validate(); err != nil {
		t.Error(err)
	}
}

func TestScenario49Panic(t *testing.T) {
	var logs bytes.Buffer
	f := over(t, stopped(t, true), server.Config{Logger: slog.New(slog.NewTextHandler(&logs, nil))})
	a := f.call("GET", e(absentID), nil)
	a.problem(500, flowfabric.CodeInternal)
	if strings.Contains(string(a.body), "secret") || strings.Contains(string(a.body), "goroutine") {
		t.Errorf("body %s", a.body)
	}
	f.call("GET", "/livez", nil).want(200)
	if !strings.Contains(logs.String(), "goroutine") {
		t.Error("the stack is not logged")
	}
}

func TestRateLimit(t *testing.T) {
	f := serve(t, server.Config{RateLimit: 0.01})
	f.call("GET", "/v1/executions", nil).want(200)
	a := f.call("GET", "/v1/executions", nil)
	a.problem(429, flowfabric.CodeClientRateLimited)
	if a.header.Get("Retry-After") == "" {
		t.Errorf("headers %v", a.header)
	}
	f.call("GET", "/healthz", nil).want(200)
}

func TestMetricsAuth(t *testing.T) {
	f := serve(t, server.Config{APIToken: sharedToken, MetricsAuth: true})
	f.as("").call("GET", "/metrics", nil).problem(401, flowfabric.CodeUnauthenticated)
	f.call("GET", "/metrics", nil).want(200)
}

// TestScenario40Metrics: what a scrape shows, by name.
func TestScenario40Metrics(t *testing.T) {
	store, err := sqlite.Open(t.Context(), sqlite.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	if err := store.DeclareLanes(t.Context(), []flowfabric.LaneID{"main"}); err != nil {
		t.Fatal(err)
	}
	f := over(t, store, server.Config{Version: "v9"})
	held := f.run()
	f.call("POST", held.a("/renew"), fields{"fence": held.Fence}).want(200)
	f.call("POST", held.a("/complete"), fields{"fence": held.Fence}).want(200)
	grant := f.create(nil)
	g := f.call("POST", "/v1/workers/w/claim", fields{"worker_instance_id": "w-1", "lane_id": "main"}).want(200).object()
	f.call("POST", e(grant, "/claim"), fields{"grant": g, "worker_id": "w", "worker_instance_id": "w-1", "lease_ttl_ms": 30_000}).want(200)
	f.eventually("the end is counted", func() bool { return f.metric(`ff_attempt_outcome_total{lane="main",outcome="ok"}`) == "1" })
	for series, want := range map[string]string{
		`ff_build_info{backend="memory",version="v9"}`:                             "1",
		`ff_lease_renewal_total{outcome="ok"}`:                                     "1",
		`ff_http_requests_total{method="POST",path="/v1/executions",status="201"}`: "2",
		`ff_claim_from_grant_duration_seconds_count{lane="main"}`:                  "1",
		`ff_claim_requests_total{lane="main",outcome="granted"}`:                   "2",
		`ff_store_op_duration_seconds_count{op="create_executions"}`:               "2",
		`ff_waits_in_use`:                             "0",
		`ff_stream_ops_in_use`:                        "0",
		`ff_sse_clients`:                              "0",
		`ff_shutdown_timeout_total{phase="requests"}`: "0",
	} {
		if got := f.metric(series); got != want {
			t.Errorf("%s is %q, want %q", series, got, want)
		}
	}
	f.eventually("the lanes are gauged", func() bool {
		return f.metric(`ff_lane_executions{lane="main",public_state="completed"}`) != ""
	})
	body := string(f.call("GET", "/metrics", nil).body)
	for _, name := range []string{"ff_lane_executions", "ff_eligible_oldest_age_seconds", "ff_http_request_duration_seconds_bucket"} {
		if !strings.Contains(body, name) {
			t.Errorf("no %s", name)
		}
	}
	if strings.Contains(body, held.ExecutionID) || strings.Contains(body, "default\"") {
		t.Error("an id or a namespace is in the metrics")
	}
}

func TestSeparateMetrics(t *testing.T) {
	f := serve(t, server.Config{SeparateMetrics: true})
	f.call("GET", "/metrics", nil).problem(404, flowfabric.CodeRouteNotFound)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- f.server.ServeMetrics(l) }()
	resp, err := http.Get("http://" + l.Addr().String() + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != 200 {
		t.Errorf("status %d", resp.StatusCode)
	}
	for path, want := range map[string]int{"/livez": 200, "/v1/executions": 404} {
		resp, err := http.Get("http://" + l.Addr().String() + path)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if resp.StatusCode != want || want == 404 && !strings.Contains(string(body), `"code":"route_not_found"`) {
			t.Errorf("%s beside the metrics: %d %s", path, resp.StatusCode, body)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	http.DefaultClient.CloseIdleConnections()
	if err := f.server.Shutdown(ctx); err != nil {
		t.Error(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestCapabilitiesAndAdministration(t *testing.T) {
	f := serve(t, server.Config{Version: "v9"})
	var caps struct {
		Family        string
		ServerVersion string `json:"server_version"`
		APIVersion    string `json:"api_version"`
		Supports      map[string]bool
		Limits        map[string]int64
	}
	f.call("GET", "/v1/capabilities", nil).want(200).decode(&caps)
	if caps.Family != "memory" || caps.APIVersion != "v1" || caps.ServerVersion != "v9" || !caps.Supports["create_execution"] ||
		caps.Supports["submit_flow"] || caps.Limits["payload_bytes"] != 1<<20 {
		t.Errorf("capabilities %+v", caps)
	}
	if c := f.call("GET", "/v1/partition-config", nil).want(200); c.object()["num_flow_partitions"] != 256.0 {
		t.Errorf("config %s", c.body)
	}
	var scanners struct{ Items []struct{ Name string } }
	f.call("GET", "/v1/admin/scanners", nil).want(200).decode(&scanners)
	if len(scanners.Items) == 0 {
		t.Fatal("no scanners")
	}
	f.call("POST", "/v1/admin/scanners/"+scanners.Items[0].Name+"/run", nil).want(200)
	f.call("POST", "/v1/admin/scanners/nonsense/run", nil).problem(400, flowfabric.CodeInvalidInput)
	job := f.call("POST", "/v1/admin/reconcile", fields{"partition": 3}).want(202).text("job_id")
	f.call("GET", "/v1/admin/reconcile/"+job, nil).want(200)
	f.create(nil)
	if a := f.call("GET", "/v1/admin/partition-collisions", nil).want(200); a.text("severity") != "clean" {
		t.Errorf("collisions %s", a.body)
	}
	f.call("POST", "/v1/admin/drain", nil).want(200)
	f.call("GET", "/readyz", nil).problem(503, flowfabric.CodeNotReady)
	f.call("POST", "/v1/workers/w/claim", fields{"worker_instance_id": "w-1", "lane_id": "main"}).want(204)
	f.call("DELETE", "/v1/admin/drain", nil).want(200)
	f.call("GET", "/readyz", nil).want(200)
	f.call("POST", "/v1/workers/w/claim", fields{"worker_instance_id": "w-1", "lane_id": "main"}).want(200)
	f.call("GET", "/v1/leases/expired", nil).want(200)
}

// untested is a store that says of itself that FlowFabric is not tested on it.
type untested struct{ flowfabric.Backend }

func (untested) Supported() bool { return false }

// Chapter 07, section 12: on a Redis that was let pass, readiness says so; being
// ready is not touched by it.
func TestReadinessTellsOfAStoreThatIsNotSupported(t *testing.T) {
	f := over(t, untested{stopped(t, false).Backend}, server.Config{})
	a := f.call("GET", "/readyz", nil).want(200)
	if got := strings.TrimSpace(string(a.body)); got != `{"status":"ok","store_supported":false}` {
		t.Errorf("ready: %s", got)
	}
	f = over(t, untested{stopped(t, false)}, server.Config{})
	if p := f.call("GET", "/readyz", nil).problem(503, flowfabric.CodeNotReady); details(p)["store_supported"] != false {
		t.Errorf("not ready: %v", details(p))
	}
}
