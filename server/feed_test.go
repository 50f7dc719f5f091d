package server_test

import (
	"bufio"
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/backend/sqlite"
	"github.com/flowfabric/flowfabric/server"
)

// sseEvent is one event of a stream; name "" is a comment or an id alone.
type sseEvent struct{ name, id, data string }

// stream is an open event stream.
type stream struct {
	t      *testing.T
	r      *bufio.Scanner
	header http.Header
	stop   func()
}

// open starts an event stream.
func (c *client) open(path string, header ...string) *stream {
	c.t.Helper()
	ctx, cancel := context.WithCancel(c.t.Context())
	req, err := http.NewRequestWithContext(ctx, "GET", c.base+path, nil)
	if err != nil {
		c.t.Fatal(err)
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := c.http.Do(req)
	if err != nil {
		c.t.Fatal(err)
	}
	if resp.StatusCode != 200 {
		c.t.Fatalf("%s: status %d", path, resp.StatusCode)
	}
	s := &stream{t: c.t, r: bufio.NewScanner(resp.Body), header: resp.Header, stop: func() { cancel(); _ = resp.Body.Close() }}
	c.t.Cleanup(s.stop)
	return s
}

// next reads one event; false at the end of the stream.
func (s *stream) next() (ev sseEvent, ok bool) {
	for s.r.Scan() {
		line := s.r.Text()
		if line == "" {
			return ev, true
		}
		name, value, _ := strings.Cut(line, ": ")
		switch name {
		case "event":
			ev.name = value
		case "id":
			ev.id = value
		case "data":
			ev.data = value
		case "retry":
			ev.name, ev.data = "retry", value
		}
	}
	return ev, false
}

// until reads on to the next event of a name.
func (s *stream) until(name string) sseEvent {
	s.t.Helper()
	for {
		ev, ok := s.next()
		if !ok {
			s.t.Fatalf("the stream ended before %q", name)
		}
		if ev.name == name {
			return ev
		}
	}
}

func (ev sseEvent) execution(t *testing.T) string {
	t.Helper()
	var o struct {
		ExecutionID string `json:"execution_id"`
	}
	if err := json.Unmarshal([]byte(ev.data), &o); err != nil {
		t.Fatalf("%v: %q", err, ev.data)
	}
	return o.ExecutionID
}

func (c *client) cancelled(more fields) string {
	id := c.create(more)
	c.call("POST", e(id, "/cancel"), fields{"reason": "test"}).want(200)
	return id
}

func TestScenario30ResumeEventStream(t *testing.T) {
	f := serve(t, server.Config{APIToken: sharedToken, APITokensFile: tokens(t,
		fields{"name": "tenant", "sha256": digest("tenant-token"), "scopes": []string{"read"}, "namespaces": []string{"a"}},
	)})
	s := f.open("/v1/feeds/completions/sse")
	if s.header.Get("Content-Type") != "text/event-stream" || s.header.Get("Cache-Control") != "no-store" || s.header.Get("X-Accel-Buffering") != "no" {
		t.Errorf("headers %v", s.header)
	}
	if ev, _ := s.next(); ev.name != "retry" || ev.data != "2000" {
		t.Errorf("first %v", ev)
	}
	first := f.cancelled(nil)
	ev := s.until("completions")
	if ev.execution(t) != first || ev.id == "" {
		t.Errorf("event %v", ev)
	}
	s.stop()
	missed := []string{f.cancelled(nil), f.cancelled(nil), f.cancelled(fields{"namespace": "a"})}
	again := f.open("/v1/feeds/completions/sse?cursor=earliest", "Last-Event-ID", ev.id)
	var got []string
	for range missed {
		got = append(got, again.until("completions").execution(t))
	}
	slices.Sort(missed)
	slices.Sort(got)
	if !slices.Equal(missed, got) {
		t.Errorf("after the break %v, want %v", got, missed)
	}
	f.call("GET", "/v1/feeds/completions/sse", nil, "Last-Event-ID", "garbage").problem(400, flowfabric.CodeInvalidCursor)

	// A limited token sees its own namespace and no other.
	tenant := f.as("tenant-token").open("/v1/feeds/completions/sse?cursor=earliest")
	own := f.cancelled(fields{"namespace": "a"})
	f.cancelled(nil)
	last := f.cancelled(fields{"namespace": "a"})
	seen := map[string]bool{}
	for !seen[last] {
		ev := tenant.until("completions")
		if !strings.Contains(ev.data, `"namespace":"a"`) {
			t.Fatalf("foreign event %s", ev.data)
		}
		seen[ev.execution(t)] = true
	}
	if !seen[own] {
		t.Error("an own event is missing")
	}
}

func TestReadFeed(t *testing.T) {
	f := serve(t, server.Config{})
	var batch struct {
		Events []struct {
			ExecutionID string `json:"execution_id"`
			Outcome     string
			Cursor      string
		}
		Gaps       []any
		NextCursor string `json:"next_cursor"`
		HasMore    bool   `json:"has_more"`
	}
	f.call("GET", "/v1/feeds/completions", nil).want(200).decode(&batch)
	if batch.Events == nil || batch.Gaps == nil || batch.NextCursor == "" {
		t.Errorf("empty batch %+v", batch)
	}
	id := f.cancelled(nil)
	f.call("GET", "/v1/feeds/completions?block_ms=10000&cursor="+batch.NextCursor, nil).want(200).decode(&batch)
	if len(batch.Events) != 1 || batch.Events[0].ExecutionID != id || batch.Events[0].Outcome != "cancelled" {
		t.Errorf("batch %+v", batch)
	}
	f.call("GET", "/v1/feeds/completions?cursor=earliest&execution_id="+"%7Bnonsense", nil).problem(400, flowfabric.CodeInvalidExecutionID)
	f.call("GET", "/v1/feeds/completions?limit=0", nil).problem(400, flowfabric.CodeInvalidInput)
	f.call("GET", "/v1/feeds/completions?block_ms=30001", nil).problem(400, flowfabric.CodeInvalidInput)
	f.call("GET", "/v1/feeds/nonsense", nil).problem(400, flowfabric.CodeInvalidInput)
}

func TestScenario53FeedsSwitchedOff(t *testing.T) {
	store, err := sqlite.Open(t.Context(), sqlite.Config{Feeds: []flowfabric.Feed{}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	f := over(t, store, server.Config{})
	held := f.run()
	f.call("POST", held.a("/complete"), fields{"fence": held.Fence}).want(200)
	count := func(feed string) int {
		var batch struct{ Events []any }
		f.call("GET", "/v1/feeds/"+feed+"?cursor=earliest", nil).want(200).decode(&batch)
		return len(batch.Events)
	}
	for _, feed := range []string{"leases", "signals", "tags"} {
		if n := count(feed); n != 0 {
			t.Errorf("%s has %d events", feed, n)
		}
	}
	if n := count("completions"); n != 1 {
		t.Errorf("completions has %d events", n)
	}
}
