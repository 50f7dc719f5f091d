package server_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"go.uber.org/goleak"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/backend/sqlite"
	"github.com/flowfabric/flowfabric/server"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const sharedToken = "0123456789abcdef-shared"

// fixture is a server over a store in memory, with a client.
type fixture struct {
	*client
	store  *sqlite.Backend
	server *server.Server
	web    *httptest.Server
}

// client speaks HTTP to a server.
type client struct {
	t     *testing.T
	base  string
	token string
	http  *http.Client
}

// quiet is a logger for tests that say nothing about logs.
func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// serve starts a server over a fresh store.
func serve(t *testing.T, cfg server.Config) *fixture {
	t.Helper()
	store, err := sqlite.Open(t.Context(), sqlite.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	f := over(t, store, cfg)
	f.store = store
	return f
}

// over starts a server over any backend.
func over(t *testing.T, backend flowfabric.Backend, cfg server.Config) *fixture {
	t.Helper()
	if cfg.Logger == nil {
		cfg.Logger = quiet()
	}
	srv, err := server.New(backend, cfg)
	if err != nil {
		t.Fatal(err)
	}
	web := httptest.NewServer(srv)
	f := &fixture{server: srv, web: web, client: &client{t: t, base: web.URL, token: cfg.APIToken, http: web.Client()}}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := srv.Shutdown(ctx); err != nil {
			t.Errorf("shutdown: %v", err)
		}
		web.Close()
	})
	return f
}

// as returns a client with another token.
func (c *client) as(token string) *client {
	other := *c
	other.token = token
	return &other
}

// answer is a response, read to its end.
type answer struct {
	t      *testing.T
	what   string
	status int
	header http.Header
	body   []byte
}

// call sends a request. body may be nil, a string, or anything JSON can hold;
// header comes in pairs.
func (c *client) call(method, path string, body any, header ...string) *answer {
	c.t.Helper()
	a, err := c.try(c.t.Context(), method, path, body, header...)
	if err != nil {
		c.t.Fatal(err)
	}
	return a
}

func (c *client) try(ctx context.Context, method, path string, body any, header ...string) (*answer, error) {
	var r io.Reader
	switch b := body.(type) {
	case nil:
	case string:
		r = strings.NewReader(b)
	case io.Reader:
		r = b
	default:
		doc, err := json.Marshal(b)
		if err != nil {
			return nil, err
		}
		r = bytes.NewReader(doc)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, r)
	if err != nil {
		return nil, err
	}
	if r != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Del(header[i])
		if header[i+1] != "" {
			req.Header.Set(header[i], header[i+1])
		}
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	return &answer{t: c.t, what: method + " " + path, status: resp.StatusCode, header: resp.Header, body: b}, nil
}

// want checks the status, and what every answer has.
func (a *answer) want(status int) *answer {
	a.t.Helper()
	if a.status != status {
		a.t.Fatalf("%s: status %d, want %d: %s", a.what, a.status, status, a.body)
	}
	if a.header.Get("FF-Store-Time-Ms") == "" || a.header.Get("X-Request-Id") == "" {
		a.t.Errorf("%s: headers %v", a.what, a.header)
	}
	return a
}

// problem checks that the answer is the problem document of a code.
func (a *answer) problem(status int, code flowfabric.Code) map[string]any {
	a.t.Helper()
	a.want(status)
	p := a.object()
	info, _ := code.Info()
	if a.header.Get("Content-Type") != "application/problem+json" || p["code"] != string(code) ||
		p["type"] != "urn:flowfabric:error:"+string(code) || p["class"] != string(info.Class) || p["title"] != info.Title ||
		p["status"] != float64(status) || p["retryable"] != info.Retryable || p["request_id"] != a.header.Get("X-Request-Id") ||
		p["instance"] == "" || p["detail"] == "" {
		a.t.Fatalf("%s: problem %s", a.what, a.body)
	}
	return p
}

func details(p map[string]any) map[string]any {
	d, _ := p["details"].(map[string]any)
	return d
}

func (a *answer) object() map[string]any {
	a.t.Helper()
	var m map[string]any
	if err := json.Unmarshal(a.body, &m); err != nil {
		a.t.Fatalf("%s: %v: %s", a.what, err, a.body)
	}
	return m
}

// text returns a text field of the answer.
func (a *answer) text(name string) string {
	a.t.Helper()
	s, ok := a.object()[name].(string)
	if !ok {
		a.t.Fatalf("%s: no text %q in %s", a.what, name, a.body)
	}
	return s
}

// decode reads the answer into v.
func (a *answer) decode(v any) {
	a.t.Helper()
	if err := json.Unmarshal(a.body, v); err != nil {
		a.t.Fatalf("%s: %v: %s", a.what, err, a.body)
	}
}

// fields is a JSON object to send.
type fields map[string]any

// with returns a copy with other fields.
func (f fields) with(more fields) fields {
	out := fields{}
	for k, v := range f {
		out[k] = v
	}
	for k, v := range more {
		if v == nil {
			delete(out, k)
			continue
		}
		out[k] = v
	}
	return out
}

// spec is a create that works.
var spec = fields{"namespace": "default", "lane_id": "main", "execution_kind": "llm_call", "payload": "aGVsbG8="}

// create makes an execution and returns its id.
func (c *client) create(more fields) string {
	c.t.Helper()
	return c.call("POST", "/v1/executions", spec.with(more)).want(201).text("execution_id")
}

// e is the path of an execution.
func e(id string, rest ...string) string {
	return "/v1/executions/" + url.PathEscape(id) + strings.Join(rest, "")
}

// task is what a test needs of a claimed attempt.
type task struct {
	ExecutionID  string         `json:"execution_id"`
	AttemptIndex int            `json:"attempt_index"`
	AttemptID    string         `json:"attempt_id"`
	ClaimKind    string         `json:"claim_kind"`
	Payload      string         `json:"payload"`
	Fence        map[string]any `json:"fence"`
}

// a is the path of the task's attempt.
func (t task) a(rest string) string {
	return e(t.ExecutionID, fmt.Sprintf("/attempts/%d%s", t.AttemptIndex, rest))
}

var claimBody = fields{"worker_instance_id": "w-1", "lane_id": "main", "lease_ttl_ms": 30_000}

// claim claims up to n tasks.
func (c *client) claim(n int, more fields) []task {
	c.t.Helper()
	a := c.call("POST", "/v1/workers/w/tasks", claimBody.with(fields{"max_tasks": n}).with(more))
	if a.status == 204 {
		return nil
	}
	var got struct{ Tasks []task }
	a.want(200).decode(&got)
	return got.Tasks
}

// run creates an execution and claims it.
func (c *client) run() task {
	c.t.Helper()
	id := c.create(nil)
	tasks := c.claim(1, nil)
	if len(tasks) != 1 || tasks[0].ExecutionID != id {
		c.t.Fatalf("claimed %v, want %s", tasks, id)
	}
	return tasks[0]
}

func b64(b []byte) string { return base64.StdEncoding.EncodeToString(b) }

func newUUID() string { return uuid.NewString() }
