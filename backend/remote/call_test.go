package remote

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestOpenRefuses(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "absent")
	for name, tc := range map[string]struct {
		url   string
		opts  []Option
		field string
	}{
		"empty token":     {"http://x", []Option{WithToken("")}, "token"},
		"blank token":     {"http://x", []Option{WithToken(" ")}, "token"},
		"newline":         {"http://x", []Option{WithToken("sesame-open\nsesame")}, "token"},
		"space inside":    {"http://x", []Option{WithToken("sesame open")}, "token"},
		"not ASCII":       {"http://x", []Option{WithToken("sésame")}, "token"},
		"no token file":   {"http://x", []Option{WithTokenFile(missing)}, "token_file"},
		"nil client":      {"http://x", []Option{WithHTTPClient(nil)}, "http_client"},
		"nil logger":      {"http://x", []Option{WithLogger(nil)}, "logger"},
		"nil tls":         {"http://x", []Option{WithTLSConfig(nil)}, "tls_config"},
		"no scheme":       {"x:9090", nil, "base_url"},
		"empty":           {"", nil, "base_url"},
		"ftp":             {"ftp://x", nil, "base_url"},
		"no host":         {"http:///v1", nil, "base_url"},
		"only a port":     {"http://:9090", nil, "base_url"},
		"query":           {"http://x?a=b", nil, "base_url"},
		"fragment":        {"http://x#a", nil, "base_url"},
		"password":        {"http://u:sesame@x", nil, "base_url"},
		"control":         {"http://x\n", nil, "base_url"},
		"port not number": {"http://x:y", nil, "base_url"},
	} {
		_, err := Open(t.Context(), tc.url, tc.opts...)
		var config *flowfabric.ConfigError
		if !errors.As(err, &config) || config.Field != tc.field || !errors.Is(err, flowfabric.ErrInvalidInput) {
			t.Errorf("%s: got %v, want a ConfigError of %s", name, err, tc.field)
			continue
		}
		if strings.Contains(fmt.Sprintf("%v %+v %#v", err, err, config), "sesame") {
			t.Errorf("%s: the error shows the secret: %v", name, err)
		}
	}
}

func TestOpenTrimsSlashes(t *testing.T) {
	for text, want := range map[string]string{"http://x///": "http://x", "https://x:1/a/b/": "https://x:1/a/b", "http://x": "http://x"} {
		b, err := Open(t.Context(), text)
		if err != nil || b.base != want {
			t.Errorf("%s: got %v, %v", text, b, err)
		}
	}
}

func TestTokenIsSentAndNeverShown(t *testing.T) {
	const token = "sesame-sesame-sesame"
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(token+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	s := &script{replies: []reply{problem(503, "store_unavailable", "retryable_transport", true), problem(401, "unauthenticated", "unauthorized", false)}}
	server := httptest.NewServer(s)
	defer server.Close()
	b, err := Open(t.Context(), server.URL, WithTokenFile(file), WithLogger(slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))))
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	b.pause = func(context.Context, time.Duration) error { return nil }
	_, err = b.GetLane(t.Context(), "l")
	if flowfabric.CodeOf(err) != flowfabric.CodeUnauthenticated {
		t.Fatal(err)
	}
	if got := s.headers[0].Get("Authorization"); got != "Bearer "+token {
		t.Fatalf("sent %q", got)
	}
	slog.New(slog.NewJSONHandler(&log, nil)).Info("backend", "backend", b, "value", b.token)
	text := fmt.Sprintf("%v %+v %#v %s %v %+v %#v", b, b, b, log.String(), err, b.token, b.token)
	if strings.Contains(text, "sesame") || !strings.Contains(text, "repeating") {
		t.Fatalf("shown: %s", text)
	}
}

func TestProblemBecomesTheError(t *testing.T) {
	want := flowfabric.NewError(flowfabric.CodeExecutionNotActive, "it has ended").With("terminal_outcome", flowfabric.OutcomeCancelled).With("lease_epoch", uint64(1<<53-1)).
		With("missing", []string{"cuda", "gpu"}).With("ratio", 0.5).With("n", -3)
	body, _ := json.Marshal(wire.NewProblem(want))
	b, _ := open(t, reply{status: 409, body: string(body), header: http.Header{"Content-Type": {"application/problem+json; charset=utf-8"}}})
	_, err := b.ChangePriority(t.Context(), flowfabric.ChangePriorityArgs{ExecutionID: testID})
	e := flowfabric.AsError(err)
	if e == nil || e.Code != want.Code || e.Class != want.Class || e.Retryable || e.Message != want.Message || e.Op != "change_priority" {
		t.Fatalf("got %#v", e)
	}
	details := map[string]any{"terminal_outcome": "cancelled", "lease_epoch": int64(1<<53 - 1), "missing": []string{"cuda", "gpu"}, "ratio": 0.5, "n": int64(-3)}
	if diff := cmp.Diff(details, e.Details); diff != "" {
		t.Fatal(diff)
	}
}

func TestAnswersWithoutProblem(t *testing.T) {
	read := func(b *Backend) error { _, err := b.GetLane(t.Context(), "l"); return err }
	change := func(b *Backend) error { _, err := b.DeleteLane(t.Context(), "l"); return err }
	for status, want := range map[int][2]flowfabric.Code{
		429: {flowfabric.CodeClientRateLimited, flowfabric.CodeClientRateLimited},
		502: {flowfabric.CodeStoreUnavailable, flowfabric.CodeOutcomeUnknown},
		503: {flowfabric.CodeStoreUnavailable, flowfabric.CodeOutcomeUnknown},
		504: {flowfabric.CodeStoreTimeout, flowfabric.CodeOutcomeUnknown},
		500: {flowfabric.CodeStoreFault, flowfabric.CodeStoreFault},
		302: {flowfabric.CodeStoreFault, flowfabric.CodeStoreFault},
		400: {flowfabric.CodeStoreFault, flowfabric.CodeStoreFault},
		401: {flowfabric.CodeUnauthenticated, flowfabric.CodeUnauthenticated},
		403: {flowfabric.CodeInsufficientScope, flowfabric.CodeInsufficientScope},
		404: {flowfabric.CodeRouteNotFound, flowfabric.CodeRouteNotFound},
		405: {flowfabric.CodeMethodNotAllowed, flowfabric.CodeMethodNotAllowed},
		413: {flowfabric.CodePayloadTooLarge, flowfabric.CodePayloadTooLarge},
		415: {flowfabric.CodeUnsupportedMediaType, flowfabric.CodeUnsupportedMediaType},
	} {
		for i, do := range []func(*Backend) error{read, change} {
			b, _ := open(t, reply{status: status, body: "<html>proxy</html>", header: http.Header{"Content-Type": {"text/html"}, "Location": {"/elsewhere"}}})
			err := do(b)
			e := flowfabric.AsError(err)
			retryable := status == 429 || status == 502 || status == 503 || status == 504
			if e == nil || e.Code != want[i] || e.Retryable != retryable {
				t.Errorf("%d, case %d: got %v", status, i, err)
			}
		}
	}
	for _, body := range []string{"", "<html>", `{"lane_id":5}`, `[]`} {
		b, s := open(t, reply{status: 200, body: body})
		if e := flowfabric.AsError(read(b)); e == nil || e.Code != flowfabric.CodeStoreFault || e.Kind != "protocol" || len(s.heard) != 1 {
			t.Errorf("answer %q: got %v", body, e)
		}
	}
}

func TestRepeats(t *testing.T) {
	unavailable := problem(503, "store_unavailable", "retryable_transport", true)
	index := uint32(0)
	create := flowfabric.CreateExecutionArgs{Namespace: "n", LaneID: "l", Kind: "k", CreatorIdentity: "me"}
	keyed, named := create, create
	keyed.IdempotencyKey, named.ExecutionID = "key", testID
	for name, tc := range map[string]struct {
		do    func(*Backend) error
		calls int
	}{
		"read":         {func(b *Backend) error { _, err := b.GetLane(t.Context(), "l"); return err }, 4},
		"plain create": {func(b *Backend) error { _, err := flowfabric.CreateExecution(t.Context(), b, create); return err }, 1},
		"keyed create": {func(b *Backend) error { _, err := flowfabric.CreateExecution(t.Context(), b, keyed); return err }, 4},
		"named create": {func(b *Backend) error { _, err := flowfabric.CreateExecution(t.Context(), b, named); return err }, 4},
		"keyed batch": {func(b *Backend) error {
			_, err := b.CreateExecutions(t.Context(), []flowfabric.CreateExecutionArgs{keyed, named})
			return err
		}, 4},
		"half keyed": {func(b *Backend) error {
			_, err := b.CreateExecutions(t.Context(), []flowfabric.CreateExecutionArgs{keyed, create})
			return err
		}, 1},
		"fenced": {func(b *Backend) error {
			_, err := b.FailExecution(t.Context(), flowfabric.FailExecutionArgs{ExecutionID: testID, Fence: testFence(&index)})
			return err
		}, 4},
		"override": {func(b *Backend) error {
			_, err := b.FailExecution(t.Context(), flowfabric.FailExecutionArgs{ExecutionID: testID, Source: flowfabric.SourceOperatorOverride})
			return err
		}, 1},
		"claim by grant": {func(b *Backend) error {
			_, err := b.ClaimGranted(t.Context(), flowfabric.ClaimGrantedArgs{ExecutionID: testID, GrantID: "g", LaneID: "l", WorkerID: "w", WorkerInstanceID: "i", LeaseTTLMs: 1000})
			return err
		}, 4},
		"tasks": {func(b *Backend) error {
			_, err := b.ClaimTasks(t.Context(), flowfabric.ClaimTasksArgs{WorkerID: "w", WorkerInstanceID: "i", Lanes: []flowfabric.LaneID{"l"}, MaxTasks: 1, LeaseTTLMs: 1000})
			return err
		}, 1},
		"claim": {func(b *Backend) error {
			_, err := b.ClaimForWorker(t.Context(), flowfabric.ClaimForWorkerArgs{WorkerID: "w", WorkerInstanceID: "i", Lanes: []flowfabric.LaneID{"l"}, GrantTTLMs: 1000})
			return err
		}, 1},
		"cancel": {func(b *Backend) error {
			_, err := b.CancelExecution(t.Context(), flowfabric.CancelExecutionArgs{ExecutionID: testID, Source: flowfabric.SourceOperatorOverride})
			return err
		}, 1},
		"replay": {func(b *Backend) error {
			_, err := b.ReplayExecution(t.Context(), flowfabric.ReplayExecutionArgs{ExecutionID: testID})
			return err
		}, 1},
		"replay expected": {func(b *Backend) error {
			_, err := b.ReplayExecution(t.Context(), flowfabric.ReplayExecutionArgs{ExecutionID: testID, ExpectedReplayCount: ptr[uint32](1)})
			return err
		}, 4},
	} {
		b, s := open(t, unavailable)
		if err := tc.do(b); flowfabric.CodeOf(err) != flowfabric.CodeStoreUnavailable {
			t.Errorf("%s: got %v", name, err)
		}
		if len(s.heard) != tc.calls {
			t.Errorf("%s: %d calls, want %d", name, len(s.heard), tc.calls)
		}
		for _, h := range s.heard {
			if h != s.heard[0] {
				t.Errorf("%s: a repeat differs: %v, then %v", name, s.heard[0], h)
			}
		}
	}
	b, s := open(t, unavailable)
	if _, err := flowfabric.NewClient(b).ReadContext(t.Context(), testID); flowfabric.CodeOf(err) != flowfabric.CodeStoreUnavailable || len(s.heard) != 4 {
		t.Errorf("a client's read: %v, %d calls, want 4", err, len(s.heard))
	}
	b, s = open(t, unavailable, unavailable, ok(`{"lane_id":"l"}`))
	if l, err := b.GetLane(t.Context(), "l"); err != nil || l.LaneID != "l" || len(s.heard) != 3 {
		t.Errorf("success after two repeats: %v, %v, %d calls", l, err, len(s.heard))
	}
	b, s = open(t, problem(409, "lease_revoked", "stale_owner", false))
	if _, err := flowfabric.RenewLease(t.Context(), b, flowfabric.RenewLeaseArgs{ExecutionID: testID, Fence: testFence(&index)}); !flowfabric.IsStaleOwner(err) || len(s.heard) != 1 {
		t.Errorf("a refusal was repeated: %v, %d calls", err, len(s.heard))
	}
	b, s = open(t, problem(409, "lease_conflict", "conflict", true))
	if _, err := b.GetLane(t.Context(), "l"); !flowfabric.IsRetryable(err) || len(s.heard) != 1 {
		t.Errorf("a retryable refusal was repeated: %v, %d calls", err, len(s.heard))
	}
}

func TestPauses(t *testing.T) {
	var pauses []time.Duration
	watch := func(b *Backend) {
		pauses = nil
		b.jitter = func(n int64) int64 { return n }
		b.pause = func(_ context.Context, d time.Duration) error { pauses = append(pauses, d); return nil }
	}
	unavailable := problem(503, "store_unavailable", "retryable_transport", true)
	b, _ := open(t, unavailable)
	watch(b)
	_, _ = b.GetLane(t.Context(), "l")
	if diff := cmp.Diff([]time.Duration{100 * time.Millisecond, 200 * time.Millisecond, 400 * time.Millisecond}, pauses); diff != "" {
		t.Error(diff)
	}

	patient := unavailable
	patient.header = http.Header{"Content-Type": {"application/problem+json"}, "Retry-After": {"7"}}
	b, _ = open(t, patient, ok(`{}`))
	watch(b)
	if _, err := b.GetLane(t.Context(), "l"); err != nil || len(pauses) != 1 || pauses[0] != 7*time.Second {
		t.Errorf("Retry-After 7: %v, pauses %v", err, pauses)
	}

	patient.header = http.Header{"Content-Type": {"application/problem+json"}, "Retry-After": {"3600"}}
	b, s := open(t, patient)
	watch(b)
	_, err := b.GetLane(t.Context(), "l")
	if e := flowfabric.AsError(err); e == nil || e.RetryAfter != time.Hour || len(s.heard) != 1 {
		t.Errorf("Retry-After of an hour: %v, %d calls", err, len(s.heard))
	}

	for range 1000 {
		if n := fullJitter(100); n < 0 || n > 100 {
			t.Fatalf("jitter %d", n)
		}
	}
}

func TestPauseEndsWithTheContext(t *testing.T) {
	b, _ := open(t, problem(503, "store_unavailable", "retryable_transport", true))
	ctx, cancel := context.WithCancel(t.Context())
	b.pause = func(ctx context.Context, _ time.Duration) error {
		cancel()
		return pause(ctx, time.Hour)
	}
	if _, err := b.GetLane(ctx, "l"); err != context.Canceled {
		t.Fatalf("got %v", err)
	}
}

func TestContextErrorsAreReturnedAsTheyAre(t *testing.T) {
	reached := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		close(reached)
		<-r.Context().Done()
	}))
	defer server.Close()
	b, _ := Open(t.Context(), server.URL)
	defer b.Close()
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-reached; cancel() }()
	if _, err := b.DeleteLane(ctx, "l"); err != context.Canceled {
		t.Fatalf("got %v", err)
	}
	if _, err := b.DeleteLane(ctx, "l"); err != context.Canceled {
		t.Fatalf("got %v", err)
	}
	late, cancel := context.WithDeadline(t.Context(), time.Unix(1, 0))
	defer cancel()
	if _, err := b.GetLane(late, "l"); err != context.DeadlineExceeded {
		t.Fatalf("got %v", err)
	}
	if _, err := Open(ctx, server.URL); err != context.Canceled {
		t.Fatalf("Open: %v", err)
	}
}

func TestCloseEndsCalls(t *testing.T) {
	reached := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		close(reached)
		<-r.Context().Done()
	}))
	defer server.Close()
	b, _ := Open(t.Context(), server.URL)
	go func() { <-reached; _ = b.Close() }()
	if _, err := b.GetLane(t.Context(), "l"); flowfabric.CodeOf(err) != flowfabric.CodeShuttingDown {
		t.Fatalf("under way: %v", err)
	}
	if err := b.Ping(t.Context()); flowfabric.CodeOf(err) != flowfabric.CodeShuttingDown {
		t.Fatalf("later: %v", err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestLostAnswers breaks the connection after the request has arrived.
func TestLostAnswers(t *testing.T) {
	for _, partial := range []string{"", "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{\"outcome\":"} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			conn, _, err := w.(http.Hijacker).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			_, _ = io.WriteString(conn, partial)
			_ = conn.Close()
		}))
		b, _ := Open(t.Context(), server.URL)
		b.pause = func(context.Context, time.Duration) error { return nil }
		_, err := b.SetLaneState(t.Context(), flowfabric.SetLaneStateArgs{LaneID: "l", State: flowfabric.LanePaused})
		if e := flowfabric.AsError(err); e == nil || e.Code != flowfabric.CodeOutcomeUnknown || e.Kind != "transport" || !e.Retryable {
			t.Errorf("change: %v", err)
		}
		_, err = b.GetLane(t.Context(), "l")
		if e := flowfabric.AsError(err); e == nil || e.Code != flowfabric.CodeStoreUnavailable || e.Kind != "transport" {
			t.Errorf("read: %v", err)
		}
		_ = b.Close()
		server.Close()
	}
}

func TestNoConnection(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	_ = listener.Close()
	b, _ := Open(t.Context(), "http://"+address)
	defer b.Close()
	_, err = b.DeleteLane(t.Context(), "l")
	if e := flowfabric.AsError(err); e == nil || e.Code != flowfabric.CodeStoreUnavailable || e.Kind != "transport" || !e.Retryable {
		t.Errorf("got %v", err)
	}
	server := httptest.NewTLSServer(http.NotFoundHandler())
	server.Config.ErrorLog = nil
	defer server.Close()
	secure, _ := Open(t.Context(), server.URL)
	defer secure.Close()
	_, err = secure.GetLane(t.Context(), "l")
	if e := flowfabric.AsError(err); e == nil || e.Code != flowfabric.CodeStoreFault || e.Retryable {
		t.Errorf("unknown authority: %v", err)
	}
}

// silent is a transport whose server never answers.
type silent struct{ deadline time.Duration }

func (s *silent) RoundTrip(r *http.Request) (*http.Response, error) {
	at, _ := r.Context().Deadline()
	s.deadline = time.Until(at)
	<-r.Context().Done()
	return nil, r.Context().Err()
}

func TestTimeouts(t *testing.T) {
	for name, tc := range map[string]struct {
		do   func(*Backend) error
		want time.Duration
		code flowfabric.Code
	}{
		"read":   {func(b *Backend) error { _, err := b.GetLane(context.Background(), "l"); return err }, 130 * time.Second, flowfabric.CodeStoreTimeout},
		"change": {func(b *Backend) error { _, err := b.DeleteLane(context.Background(), "l"); return err }, 130 * time.Second, flowfabric.CodeOutcomeUnknown},
		"ping":   {func(b *Backend) error { return b.Ping(context.Background()) }, 5 * time.Second, flowfabric.CodeStoreTimeout},
		"wait": {func(b *Backend) error {
			_, err := b.WaitExecution(context.Background(), flowfabric.WaitExecutionArgs{ExecutionID: testID, WaitMs: 30_000})
			return err
		}, 35 * time.Second, flowfabric.CodeStoreTimeout},
		"feed": {func(b *Backend) error {
			_, err := b.ReadFeed(context.Background(), flowfabric.ReadFeedArgs{Feed: flowfabric.FeedLeases, BlockMs: 1000})
			return err
		}, 6 * time.Second, flowfabric.CodeStoreTimeout},
		"tasks": {func(b *Backend) error {
			_, err := b.ClaimTasks(context.Background(), flowfabric.ClaimTasksArgs{WorkerID: "w", WorkerInstanceID: "i", Lanes: []flowfabric.LaneID{"l"}, MaxTasks: 1, LeaseTTLMs: 1000, WaitMs: 20_000})
			return err
		}, 25 * time.Second, flowfabric.CodeOutcomeUnknown},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := &silent{}
			b, err := Open(t.Context(), "http://x", WithHTTPClient(&http.Client{Transport: s}))
			if err != nil {
				t.Fatal(err)
			}
			start := time.Now()
			err = tc.do(b)
			e := flowfabric.AsError(err)
			if e == nil || e.Code != tc.code || e.Kind != "timeout" {
				t.Errorf("%s: got %v", name, err)
			}
			if time.Since(start) != tc.want || s.deadline > tc.want {
				t.Errorf("%s: took %v", name, time.Since(start))
			}
		})
	}
}

func TestLargeBatchesAreCut(t *testing.T) {
	var sizes []int
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		sizes = append(sizes, len(body))
		w.Header().Set("Content-Type", "application/json")
		if r.URL.Path == wire.RouteExecutions {
			_, _ = io.WriteString(w, `{"outcome":"created","execution_id":"{fp:0}:n","public_state":"waiting"}`)
			return
		}
		var request wire.CreateExecutionsRequest
		if err := wire.Unmarshal(body, &request); err != nil {
			t.Error(err)
		}
		items := make([]string, len(request.Executions))
		for i, e := range request.Executions {
			items[i] = `{"outcome":"created","execution_id":` + strconv.Quote(*e.IdempotencyKey) + `,"public_state":"waiting"}`
		}
		_, _ = io.WriteString(w, `{"items":[`+strings.Join(items, ",")+`]}`)
	}))
	defer server.Close()
	b, _ := Open(t.Context(), server.URL)
	defer b.Close()
	items := make([]flowfabric.CreateExecutionArgs, 30)
	for i := range items {
		items[i] = flowfabric.CreateExecutionArgs{Namespace: "n", LaneID: "l", Kind: "k", CreatorIdentity: "me", IdempotencyKey: strconv.Itoa(i), Payload: make([]byte, flowfabric.MaxPayloadBytes)}
	}
	items[7].Payload = make([]byte, flowfabric.MaxPayloadBytes+1)
	out, err := b.CreateExecutions(t.Context(), items)
	if err != nil {
		t.Fatal(err)
	}
	for i, item := range out {
		if i == 7 {
			if flowfabric.CodeOf(item.Err) != flowfabric.CodePayloadTooLarge {
				t.Errorf("item 7: %v", item.Err)
			}
			continue
		}
		if item.Err != nil || string(item.Result.ExecutionID) != strconv.Itoa(i) {
			t.Errorf("item %d: %+v", i, item)
		}
	}
	if len(sizes) != 3 {
		t.Errorf("requests of %v bytes", sizes)
	}
	for _, n := range sizes {
		if n > wire.LimitBulk {
			t.Errorf("a body of %d bytes", n)
		}
	}

	// Tags and policy beside a full payload go over the limit of a single create.
	sizes = nil
	big := items[0]
	big.Tags = map[string]string{}
	for i := range 100 {
		big.Tags["a.b"+strconv.Itoa(i)] = strings.Repeat("x", 4096)
	}
	if _, err := flowfabric.CreateExecution(t.Context(), b, big); err != nil || len(sizes) != 1 || sizes[0] <= wire.LimitLarge {
		t.Errorf("a large create: %v, sizes %v", err, sizes)
	}
}

func TestBatchLimits(t *testing.T) {
	b, s := open(t, ok(`{"items":[]}`))
	for name, err := range map[string]error{
		"creates":     second(b.CreateExecutions(t.Context(), nil)),
		"completions": second(b.CompleteExecutions(t.Context(), nil)),
		"renewals":    second(b.RenewLeases(t.Context(), nil)),
	} {
		if flowfabric.CodeOf(err) != flowfabric.CodeInvalidInput {
			t.Errorf("no %s: %v", name, err)
		}
	}
	for name, err := range map[string]error{
		"creates":     second(b.CreateExecutions(t.Context(), make([]flowfabric.CreateExecutionArgs, 101))),
		"completions": second(b.CompleteExecutions(t.Context(), make([]flowfabric.CompleteExecutionArgs, 101))),
		"renewals":    second(b.RenewLeases(t.Context(), make([]flowfabric.RenewLeaseArgs, 101))),
	} {
		if flowfabric.CodeOf(err) != flowfabric.CodeBatchTooLarge {
			t.Errorf("101 %s: %v", name, err)
		}
	}
	if len(s.heard) != 0 {
		t.Errorf("calls were made: %v", s.heard)
	}
	items := []flowfabric.RenewLeaseArgs{{ExecutionID: testID, Fence: testFence(nil)}, {ExecutionID: testID, Fence: testFence(nil)}}
	if _, err := b.RenewLeases(t.Context(), items); flowfabric.CodeOf(err) != flowfabric.CodeStoreFault {
		t.Errorf("an answer with too few items: %v", err)
	}
}

func second[R any](_ R, err error) error { return err }

// TestMixedCompletions keeps the order of a batch with an operator's override
// between the holders' completions.
func TestMixedCompletions(t *testing.T) {
	item := `{"execution_id":"x","outcome":"completed","public_state":"completed"}`
	b, s := open(t, ok(`{"items":[`+item+`]}`), ok(`{"outcome":"completed","public_state":"completed","replayed":false}`), problem(409, "stale_lease", "stale_owner", false))
	index := uint32(1)
	held := flowfabric.CompleteExecutionArgs{ExecutionID: testID, Fence: testFence(&index)}
	out, err := b.CompleteExecutions(t.Context(), []flowfabric.CompleteExecutionArgs{held, {ExecutionID: testID, Source: flowfabric.SourceOperatorOverride}, {ExecutionID: testID, Source: "nobody"}})
	if err != nil || out[0].Err != nil || out[1].Err != nil || flowfabric.CodeOf(out[2].Err) != flowfabric.CodeInvalidInput {
		t.Fatalf("%+v, %v", out, err)
	}
	if len(s.heard) != 2 || !strings.Contains(s.heard[0].line, "/completions") || !strings.HasSuffix(s.heard[1].line, "/complete") {
		t.Fatalf("calls %v", s.heard)
	}
	if _, err := flowfabric.CompleteExecution(t.Context(), b, held); !errors.Is(err, flowfabric.ErrStaleLease) {
		t.Fatal(err)
	}
}

func TestFenceWithoutIndex(t *testing.T) {
	b, s := open(t, ok(snapshotJSON), ok(`{"outcome":"terminal_failed","replayed":false}`))
	if _, err := b.FailExecution(t.Context(), flowfabric.FailExecutionArgs{ExecutionID: testID, Fence: testFence(nil), Reason: "r"}); err != nil {
		t.Fatal(err)
	}
	if s.heard[0].line != "GET "+testPath || s.heard[1].line != "POST "+testPath+"/attempts/2/fail" {
		t.Fatalf("calls %v", s.heard)
	}
	old := testFence(nil)
	old.AttemptID = "bbbbbbbb-0000-4000-8000-000000000000"
	b, s = open(t, ok(snapshotJSON), ok(`{"items":[{"attempt_id":"bbbbbbbb-0000-4000-8000-000000000000","attempt_index":1}],"next_cursor":null}`), ok(`{"outcome":"terminal_failed","replayed":true}`))
	for range 2 {
		if _, err := b.FailExecution(t.Context(), flowfabric.FailExecutionArgs{ExecutionID: testID, Fence: old, Reason: "r"}); err != nil {
			t.Fatal(err)
		}
	}
	if len(s.heard) != 4 || s.heard[3].line != "POST "+testPath+"/attempts/1/fail" {
		t.Fatalf("calls %v", s.heard)
	}
	b, _ = open(t, problem(404, "execution_not_found", "not_found", false))
	err := b.UpdateProgress(t.Context(), flowfabric.UpdateProgressArgs{ExecutionID: testID, Fence: testFence(nil), Pct: ptr[int32](1)})
	if !flowfabric.IsNotFound(err) {
		t.Fatal(err)
	}
}

func TestListExecutions(t *testing.T) {
	config := ok(`{"num_flow_partitions":256,"num_budget_partitions":32,"num_quota_partitions":32}`)
	args := flowfabric.ListExecutionsArgs{Partition: 7, Limit: 5, LaneID: "l", PublicStates: []flowfabric.PublicState{"waiting", "active"}, Tags: map[string]string{"a.b": "c"}}
	cursor := wire.ListExecutionsQuery(args)
	page := ok(`{"items":[{"execution_id":"{fp:7}:a","namespace":"n","lane_id":"l","execution_kind":"k","public_state":"waiting","priority":1,"created_at":2}],"next_cursor":` +
		strconv.Quote(wire.ExecutionsCursor(cursor, testID)) + `}`)
	b, s := open(t, config, page)
	r, err := b.ListExecutions(t.Context(), args)
	if err != nil || len(r.Executions) != 1 || r.NextCursor != testID {
		t.Fatalf("%+v, %v", r, err)
	}
	args.Cursor = r.NextCursor
	if _, err := b.ListExecutions(t.Context(), args); err != nil {
		t.Fatal(err)
	}
	if want := "GET /v1/executions?lane_id=l&limit=5&partition=7&public_state=waiting&public_state=active&tag=a.b%3Ac"; s.heard[1].line != want {
		t.Fatalf("got %s", s.heard[1].line)
	}
	if !strings.Contains(s.heard[2].line, "cursor="+wire.ExecutionsCursor(cursor, testID)) {
		t.Fatalf("got %s", s.heard[2].line)
	}
	calls := len(s.heard)
	args.Cursor = "{fp:8}:11111111-2222-4333-8444-555555555555"
	if _, err := b.ListExecutions(t.Context(), args); flowfabric.CodeOf(err) != flowfabric.CodeInvalidCursor {
		t.Fatal(err)
	}
	args.Cursor, args.Limit = "", 1001
	if _, err := b.ListExecutions(t.Context(), args); flowfabric.CodeOf(err) != flowfabric.CodeInvalidInput {
		t.Fatal(err)
	}
	if len(s.heard) != calls {
		t.Fatalf("refused input was sent: %v", s.heard[calls:])
	}
	args.Limit, args.Namespaces = 5, []flowfabric.Namespace{"a", "b"}
	if r, err := b.ListExecutions(t.Context(), args); err != nil || len(r.Executions) != 0 || r.NextCursor != testID {
		t.Fatalf("rows of other namespaces: %+v, %v", r, err)
	}
}

func TestListEligible(t *testing.T) {
	config := ok(`{"num_flow_partitions":4,"num_budget_partitions":1,"num_quota_partitions":1}`)
	row := func(id string, priority, created int) string {
		return fmt.Sprintf(`{"execution_id":%q,"namespace":"n","lane_id":"l","execution_kind":"k","public_state":"waiting","priority":%d,"created_at":%d}`, id, priority, created)
	}
	b, s := open(t, config, ok(`{"items":[`+row("young", 5, 9)+`,`+row("old", 5, 8)+`],"next_cursor":null}`), ok(`{"items":[`+row("low", 1, 1)+`,`+row("high", 9, 10)+`],"next_cursor":null}`))
	ids, err := b.ListEligible(t.Context(), flowfabric.ListEligibleArgs{LaneID: "l", Namespace: "n", FirstPartition: 3, Partitions: 2, Limit: 3})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]flowfabric.ExecutionID{"high", "old", "young"}, ids); diff != "" {
		t.Error(diff)
	}
	if !strings.Contains(s.heard[1].line, "partition=3") || !strings.Contains(s.heard[2].line, "partition=0") {
		t.Errorf("calls %v", s.heard)
	}
	if _, err := b.ListEligible(t.Context(), flowfabric.ListEligibleArgs{LaneID: "l"}); err != nil || strings.Contains(s.heard[3].line, "partition") {
		t.Errorf("all partitions: %v, %v", err, s.heard[3:])
	}
	if _, err := b.ListEligible(t.Context(), flowfabric.ListEligibleArgs{LaneID: "l", FirstPartition: 4}); flowfabric.CodeOf(err) != flowfabric.CodeInvalidInput {
		t.Error(err)
	}
}

func TestDeclareLanes(t *testing.T) {
	b, s := open(t, ok(`{"lane_id":"a"}`), problem(404, "lane_not_found", "not_found", false), ok(`{"lane_id":"b"}`))
	if err := b.DeclareLanes(t.Context(), []flowfabric.LaneID{"a", "b"}); err != nil {
		t.Fatal(err)
	}
	if len(s.heard) != 3 || s.heard[2] != (heard{"PUT /v1/lanes/b", "{}"}) {
		t.Fatalf("calls %v", s.heard)
	}
	if err := b.DeclareLanes(t.Context(), []flowfabric.LaneID{"a", "b\n"}); flowfabric.CodeOf(err) != flowfabric.CodeInvalidInput || len(s.heard) != 3 {
		t.Fatalf("%v, calls %v", err, s.heard)
	}
}

// TestInvalidInputIsRefusedBeforeACall lists what must not reach a path or body.
func TestInvalidInputIsRefusedBeforeACall(t *testing.T) {
	b, s := open(t, ok(`{}`))
	for name, err := range map[string]error{
		"state":     second(b.GetExecutionState(t.Context(), "nope")),
		"snapshot":  second(b.DescribeExecution(t.Context(), "")),
		"tags":      second(b.SetExecutionTags(t.Context(), testID, nil)),
		"tag":       second(b.RemoveExecutionTag(t.Context(), testID, "a/b")),
		"lane":      second(b.GetLane(t.Context(), "")),
		"lane 2":    second(b.DeleteLane(t.Context(), "{}")),
		"worker":    second(b.GetWorker(t.Context(), "n", "")),
		"namespace": second(b.GetWorker(t.Context(), "", "i")),
		"claim":     second(b.ClaimTasks(t.Context(), flowfabric.ClaimTasksArgs{WorkerID: "w\nork"})),
		"grant":     second(b.ClaimForWorker(t.Context(), flowfabric.ClaimForWorkerArgs{})),
		"leases":    second(b.ListWorkerLeases(t.Context(), flowfabric.ListWorkerLeasesArgs{})),
		"feed":      second(b.ReadFeed(t.Context(), flowfabric.ReadFeedArgs{Feed: "../x"})),
		"scanner":   second(b.RunScanner(t.Context(), "")),
		"job":       second(b.GetReconcile(t.Context(), "")),
	} {
		if !errors.Is(err, flowfabric.ClassInvalidInput) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if len(s.heard) != 0 {
		t.Errorf("calls were made: %v", s.heard)
	}
	_, err := b.GetExecutionPolicy(t.Context(), testID)
	e := flowfabric.AsError(err)
	if e == nil || e.Code != flowfabric.CodeUnsupportedOperation || e.Detail("operation") != "get_execution_policy" || e.Detail("backend") != "remote" {
		t.Errorf("policy: %v", err)
	}
}

func TestOneNamespace(t *testing.T) {
	for _, tc := range []struct {
		ns      flowfabric.Namespace
		allowed []flowfabric.Namespace
		want    flowfabric.Namespace
		code    flowfabric.Code
	}{
		{"a", nil, "a", ""}, {"", nil, "", ""}, {"a", []flowfabric.Namespace{"b", "a"}, "a", ""}, {"*", []flowfabric.Namespace{"b"}, "b", ""}, {"", []flowfabric.Namespace{"b"}, "b", ""},
		{"", []flowfabric.Namespace{"a", "b"}, "", flowfabric.CodeUnsupportedOperation}, {"c", []flowfabric.Namespace{"a"}, "", flowfabric.CodeUnsupportedOperation}, {"", []flowfabric.Namespace{}, "", flowfabric.CodeUnsupportedOperation},
	} {
		got, err := oneNamespace("op", tc.ns, tc.allowed)
		if got != tc.want || flowfabric.CodeOf(err) != tc.code {
			t.Errorf("%q of %v: got %q, %v", tc.ns, tc.allowed, got, err)
		}
	}
}

func TestListWorkersOfSomeNamespaces(t *testing.T) {
	row := func(ns, instance string) string {
		return fmt.Sprintf(`{"namespace":%q,"worker_id":"w","worker_instance_id":%q,"lanes":[],"capabilities":[],"liveness_ttl_ms":1000}`, ns, instance)
	}
	b, s := open(t, ok(`{"items":[`+row("a", "1")+`],"next_cursor":"x"}`), ok(`{"items":[`+row("b", "2")+`,`+row("c", "3")+`],"next_cursor":null}`))
	r, err := b.ListWorkers(t.Context(), flowfabric.ListWorkersArgs{Namespaces: []flowfabric.Namespace{"b", "d"}, Limit: 1})
	if err != nil || len(r.Workers) != 1 || r.Workers[0].WorkerInstanceID != "2" || r.More {
		t.Fatalf("%+v, %v", r, err)
	}
	args, err := wire.ParseListWorkers(mustQuery(t, s.heard[1].line))
	if err != nil || args.AfterNamespace != "a" || args.AfterInstanceID != "1" {
		t.Fatalf("%+v, %v", args, err)
	}
}

func mustQuery(t *testing.T, line string) url.Values {
	t.Helper()
	_, raw, _ := strings.Cut(line, "?")
	q, err := url.ParseQuery(raw)
	if err != nil {
		t.Fatal(err)
	}
	return q
}

// TestIndexesAreRemembered claims an attempt and ends it without naming its
// index.
func TestIndexesAreRemembered(t *testing.T) {
	b, s := open(t, ok(taskJSON), ok(`{"outcome":"terminal_failed","replayed":false}`))
	task, err := b.ClaimGranted(t.Context(), flowfabric.ClaimGrantedArgs{ExecutionID: testID, GrantID: "g", LaneID: "l", WorkerID: "w", WorkerInstanceID: "i", LeaseTTLMs: 1000})
	if err != nil || task.Fence.AttemptIndex != nil {
		t.Fatalf("%+v, %v", task, err)
	}
	if _, err := b.FailExecution(t.Context(), flowfabric.FailExecutionArgs{ExecutionID: testID, Fence: task.Fence, Reason: "r"}); err != nil {
		t.Fatal(err)
	}
	if s.heard[1].line != "POST "+testPath+"/attempts/2/fail" {
		t.Fatalf("calls %v", s.heard)
	}
	var x indexes
	for i := range uint32(maxIndexes + 10) {
		x.put(flowfabric.AttemptID(strconv.Itoa(int(i))), i)
	}
	if _, ok := x.get("9"); ok || len(x.byID) != maxIndexes {
		t.Fatalf("%d are remembered", len(x.byID))
	}
	if n, ok := x.get("10"); !ok || n != 10 {
		t.Fatal("a late one is forgotten")
	}
}
