package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/config"
)

func TestSpan(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0ms", 999 * time.Millisecond: "999ms", 1500 * time.Millisecond: "1.5s", 2 * time.Second: "2s", 42 * time.Second: "42s",
		time.Minute: "1m", 90 * time.Second: "1m30s", 45 * time.Minute: "45m", 45*time.Minute + 10*time.Second: "45m",
		3*time.Hour + 4*time.Minute: "3h04m", 3 * time.Hour: "3h", 30 * time.Hour: "30h", 72 * time.Hour: "3d",
	} {
		if got := span(d); got != want {
			t.Errorf("span(%v) = %q, want %q", d, got, want)
		}
	}
	p := newPrinter(&bytes.Buffer{}, outputTable, time.UnixMilli(100_000))
	for at, want := range map[flowfabric.Millis]string{0: "", 100_000: "now", 97_000: "3s ago", 160_000: "in 1m"} {
		if got := p.when(at); got != want {
			t.Errorf("when(%d) = %q, want %q", at, got, want)
		}
	}
}

// TestTextOfOthersIsHarmless keeps escape sequences of payloads and reasons off
// the terminal.
func TestTextOfOthersIsHarmless(t *testing.T) {
	got := clean("a\x1b[31mb\nc\u202Ed\x00\x7f\u009b")
	if strings.ContainsAny(got, "\x1b\n\u202E\x00\x7f\u009b") {
		t.Errorf("clean left %q", got)
	}
	if short(strings.Repeat("ä", 10), 4) != "äää…" {
		t.Errorf("short = %q", short(strings.Repeat("ä", 10), 4))
	}
}

func TestTablesArePlainAwayFromATerminal(t *testing.T) {
	var out bytes.Buffer
	p := newPrinter(&out, outputTable, time.Now())
	if err := p.table("none", []string{"A", "LONGER", "C"}, [][]string{{"1", p.good("x"), ""}, {"22", "y", "z"}}); err != nil {
		t.Fatal(err)
	}
	if want := "A   LONGER  C\n1   x       -\n22  y       z\n"; out.String() != want {
		t.Errorf("got\n%s want\n%s", out.String(), want)
	}
}

func TestExitCodes(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want int
	}{
		{nil, 0},
		{errors.New("x"), 1},
		{context.Canceled, 1},
		{usagef("x"), 2},
		{fmt.Errorf("deep: %w", &config.Refusal{Variable: "FF_X"}), 2},
		{flowfabric.InvalidInput("x", "y"), 2},
		{flowfabric.NewError(flowfabric.CodeUnsupportedOperation, "x"), 1},
		{flowfabric.NewError(flowfabric.CodeExecutionNotFound, "x"), 3},
		{flowfabric.NewError(flowfabric.CodeExecutionNotActive, "x"), 4},
		{flowfabric.NewError(flowfabric.CodeLeaseRevoked, "x"), 4},
		{flowfabric.NewError(flowfabric.CodeStoreUnavailable, "x"), 1},
		{flowfabric.NewError(flowfabric.CodePartitionCountMismatch, "x"), 2},
		{flowfabric.NewError(flowfabric.CodeLaneIntakeClosed, "x"), 1},
		{&codeError{1, flowfabric.InvalidInput("x", "y")}, 1},
	} {
		if got := exitCode(tt.err); got != tt.want {
			t.Errorf("exitCode(%v) = %d, want %d", tt.err, got, tt.want)
		}
	}
}

func TestLogLevels(t *testing.T) {
	var out bytes.Buffer
	log := newLogger(&out, config.Log{Level: slog.LevelWarn, Components: map[string]slog.Level{"scheduler": slog.LevelDebug, "http": slog.LevelError}}, false)
	log.Info("no 1")
	log.Warn("yes 1")
	log.With("component", "scheduler").Debug("yes 2")
	log.Debug("yes 3", "component", "scheduler")
	log.With("component", "http").Warn("no 2")
	log.With("component", "http").Info("yes 4", "audit", true)
	log.With("audit", true).Info("yes 5")
	log.Debug("no 3", "audit", true)
	log.WithGroup("g").With("component", "scheduler").Debug("no 4")
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 5 || strings.Contains(out.String(), "no ") {
		t.Errorf("logged:\n%s", out.String())
	}
	for _, line := range lines {
		if !json.Valid([]byte(line)) {
			t.Errorf("%q is no JSON", line)
		}
	}
	out.Reset()
	newLogger(&out, config.Log{}, true).Info("hello")
	if !strings.Contains(out.String(), "msg=hello") {
		t.Errorf("on a terminal: %s", out.String())
	}
}

// copier is a store whose copy takes until it is told, or cancelled.
type copier struct {
	begun, ended chan struct{}
}

func (c *copier) Backup(ctx context.Context, path string, progress func(int, int)) error {
	progress(3, 4)
	close(c.begun)
	<-ctx.Done()
	close(c.ended)
	return ctx.Err()
}

// TestControl speaks to the socket as no command does, and goes away while a copy
// is being made.
func TestControl(t *testing.T) {
	store := filepath.Join(t.TempDir(), config.StoreFile)
	c := &copier{begun: make(chan struct{}), ended: make(chan struct{})}
	control, err := startControl(socketOf(store), c, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer control.close()
	for _, req := range []controlRequest{{Op: "explode"}, {Op: "backup", Path: "relative"}} {
		conn := dialControl(t.Context(), store)
		err := askControl(t.Context(), conn, req, nil)
		if flowfabric.CodeOf(err) != flowfabric.CodeInvalidInput {
			t.Errorf("%+v: %v", req, err)
		}
		conn.Close()
	}
	conn := dialControl(t.Context(), store)
	if _, err := conn.Write([]byte("no json\n")); err != nil {
		t.Fatal(err)
	}
	if n, err := conn.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Error("nonsense was answered")
	}
	conn.Close()

	ctx, cancel := context.WithCancel(t.Context())
	heard := 0
	asked := make(chan error, 1)
	go func() {
		conn := dialControl(ctx, store)
		defer conn.Close()
		asked <- askControl(ctx, conn, controlRequest{Op: "backup", Path: "/x"}, func(remaining, total int) { heard = total - remaining })
	}()
	<-c.begun
	cancel()
	if err := <-asked; !errors.Is(err, context.Canceled) {
		t.Errorf("given up: %v", err)
	}
	<-c.ended // the server notices
	if heard > 1 {
		t.Errorf("progress %d", heard)
	}
	control.close()
	if conn := dialControl(t.Context(), store); conn != nil {
		t.Error("it answers after its end")
	}
	if _, err := net.Dial("unix", socketOf("/x/other.db")); err == nil {
		t.Error("another store's socket answers")
	}
	if got := socketOf("/x/other.db"); got != "/x/other.db.control.sock" {
		t.Errorf("socket of a named file: %s", got)
	}
}

// TestPatience tries again while a server is away, but not for ever and not
// after a final answer.
func TestPatience(t *testing.T) {
	var said bytes.Buffer
	c := &cli{environment: &environment{err: &said}}
	r := patientRetry{first: time.Millisecond, most: 2 * time.Millisecond, limit: 20 * time.Millisecond}
	away := flowfabric.NewError(flowfabric.CodeStoreUnavailable, "away")
	tries := 0
	for r.wait(t.Context(), c, away) {
		tries++
	}
	if tries < 2 || strings.Count(said.String(), "\n") != 1 {
		t.Errorf("%d tries, said %q", tries, said.String())
	}
	if r.wait(t.Context(), c, flowfabric.InvalidInput("x", "y")) {
		t.Error("a final answer was tried again")
	}
}

// TestDoctorTellsWaitingFromInterrupted: work whose lease lapsed is the business
// of the check of leases, not waiting work.
func TestDoctorTellsWaitingFromInterrupted(t *testing.T) {
	now := time.UnixMilli(10_000_000)
	d := &doctor{cli: &cli{environment: &environment{now: func() time.Time { return now }}}}
	lane := flowfabric.LaneStatus{Lane: flowfabric.Lane{LaneID: "l"}, OldestEligibleAt: 1, Counts: map[flowfabric.PublicState]int64{flowfabric.PublicActive: 1}}
	if f, stuck := d.stuckIn(lane, nil); stuck {
		t.Errorf("interrupted work is told as %+v", f)
	}
	lane.Counts[flowfabric.PublicWaiting] = 2
	if f, stuck := d.stuckIn(lane, nil); !stuck || !strings.Contains(f.Detail, "2 waiting") {
		t.Errorf("waiting work is told as %+v, %v", f, stuck)
	}
}
