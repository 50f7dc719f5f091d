package api

import (
	"bufio"
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/flowfabric/flowfabric"
)

// feedBackend answers reads of a feed from a script, then fails.
type feedBackend struct {
	bare
	script []flowfabric.ReadFeedResult
	starts []string
}

func (b *feedBackend) ReadFeed(ctx context.Context, args flowfabric.ReadFeedArgs) (flowfabric.ReadFeedResult, error) {
	b.starts = append(b.starts, args.Start)
	if len(b.script) == 0 {
		return flowfabric.ReadFeedResult{}, flowfabric.NewError(flowfabric.CodeStoreUnavailable, "gone")
	}
	next := b.script[0]
	b.script = b.script[1:]
	return next, nil
}

// TestEventStreamText: gaps, ids on the last event of a batch only, heartbeats
// with the cursor, and an error event at the end.
func TestEventStreamText(t *testing.T) {
	b := &feedBackend{script: []flowfabric.ReadFeedResult{
		{NextCursor: "c1", Gaps: []flowfabric.Gap{{Partition: 3, MissedFromSeq: 1, MissedToSeq: 9}},
			Events: []flowfabric.Event{{Kind: "completed", EventID: "3-10"}, {Kind: "completed", EventID: "3-11"}}},
		{NextCursor: "c2"},
		{NextCursor: "c3", Gaps: []flowfabric.Gap{{Partition: 4, MissedFromSeq: 1, MissedToSeq: 2}}},
	}}
	a, err := New(b, Options{Heartbeat: 10 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	a.ServeHTTP(w, httptest.NewRequest("GET", "/v1/feeds/completions/sse?cursor=c0", nil))
	var got []string
	for line := range strings.Lines(w.Body.String()) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		if name == "data" {
			value = value[:strings.IndexAny(value, ",}")]
		}
		if name != "" {
			got = append(got, name+" "+value)
		}
	}
	want := []string{
		"retry 2000",
		"event gap", `data {"partition":3`,
		"event completions", `data {"feed":""`,
		"event completions", "id c1", `data {"feed":""`,
		"id c2",
		"event gap", "id c3", `data {"partition":4`,
		"event error", `data {"code":"store_unavailable"`,
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("stream\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if !strings.Contains(w.Body.String(), "\n: keep-alive\nid: c2\n\n") {
		t.Errorf("no heartbeat in\n%s", w.Body)
	}
	if strings.Join(b.starts, " ") != "c0 c1 c2 c3" {
		t.Errorf("read from %v", b.starts)
	}
}

// TestErrorBeforeTheFirstByte is an ordinary problem.
func TestErrorBeforeTheFirstByte(t *testing.T) {
	a, err := New(&feedBackend{}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	a.ServeHTTP(w, httptest.NewRequest("GET", "/v1/feeds/completions/sse", nil))
	if w.Code != 503 || w.Header().Get("Content-Type") != "application/problem+json" {
		t.Errorf("%d %v", w.Code, w.Header())
	}
}

// quietBackend has a feed in which nothing happens.
type quietBackend struct{ bare }

func (quietBackend) ReadFeed(ctx context.Context, args flowfabric.ReadFeedArgs) (flowfabric.ReadFeedResult, error) {
	if args.BlockMs > 0 {
		select {
		case <-ctx.Done():
			return flowfabric.ReadFeedResult{}, ctx.Err()
		case <-time.After(time.Duration(args.BlockMs) * time.Millisecond):
		}
	}
	return flowfabric.ReadFeedResult{NextCursor: "quiet"}, nil
}

// TestHeartbeatAndGoodbye: an idle connection is kept alive, and told when the
// server shuts down, without repeating the id.
func TestHeartbeatAndGoodbye(t *testing.T) {
	a, err := New(quietBackend{}, Options{Heartbeat: 5 * time.Millisecond, FeedSubscriptions: 1})
	if err != nil {
		t.Fatal(err)
	}
	web := httptest.NewServer(a)
	defer web.Close()
	resp, err := http.Get(web.URL + "/v1/feeds/completions/sse")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	full, err := http.Get(web.URL + "/v1/feeds/completions?block_ms=1")
	if err != nil {
		t.Fatal(err)
	}
	_ = full.Body.Close()
	if full.StatusCode != 429 {
		t.Errorf("a second subscription: %d", full.StatusCode)
	}
	beats, goodbye := 0, ""
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		switch line := lines.Text(); {
		case strings.HasPrefix(line, ": "):
			if beats++; beats == 3 {
				a.Refuse()
				a.EndWaits()
			}
		case line == "event: shutdown":
			goodbye = "shutdown"
		case goodbye != "" && line != "":
			goodbye += " " + line
		}
	}
	if beats < 3 || goodbye != "shutdown data: {}" {
		t.Errorf("%d heartbeats, goodbye %q", beats, goodbye)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if !a.Idle(ctx) {
		t.Error("the connection is still counted")
	}
}
