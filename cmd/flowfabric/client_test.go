package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/config"
)

func defaultLog() config.Log { return config.Log{} }

func TestSubmitAndLook(t *testing.T) {
	d := deploy(t)
	var created struct {
		Outcome     string `json:"outcome"`
		ExecutionID string `json:"execution_id"`
		PublicState string `json:"public_state"`
		SameSpec    *bool  `json:"same_spec"`
	}
	submit := []string{"submit", "greet", "--payload", `{"name":"Ada"}`, "--priority", "7", "--tag", "team.name=research", "--idempotency-key", "k1"}
	d.json(&created, submit...)
	if created.Outcome != "created" || created.PublicState != "waiting" {
		t.Errorf("created = %+v", created)
	}
	id := created.ExecutionID
	d.json(&created, submit...)
	if created.Outcome != "duplicate" || created.ExecutionID != id || created.SameSpec == nil || !*created.SameSpec {
		t.Errorf("repeat = %+v", created)
	}
	contains(t, d.ok(append(submit, "--lane", "other")...).out, id, "submitted before, with another")

	var snapshot flowfabric.ExecutionSnapshot
	d.json(&snapshot, "execution", "get", id)
	if snapshot.Kind != "greet" || snapshot.Priority != 7 || snapshot.Tags["team.name"] != "research" || string(snapshot.ExecutionID) != id {
		t.Errorf("snapshot = %+v", snapshot)
	}
	contains(t, d.ok("execution", "get", id).out, id, "waiting", "greet", "team.name=research")
	contains(t, d.ok("execution", "list").out, "EXECUTION", id, "greet")
	contains(t, d.ok("execution", "list", "--state", "completed").out, "no executions")

	x, err := d.backend.GetExecution(t.Context(), snapshot.ExecutionID)
	if err != nil || x.CreatorIdentity != "cli:tester" {
		t.Errorf("creator = %+v, %v", x, err)
	}
}

func TestPayloadSources(t *testing.T) {
	d := deploy(t)
	file := filepath.Join(t.TempDir(), "payload")
	if err := os.WriteFile(file, []byte{0xFF, 0xFE, 0}, 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		input          string
		args           []string
		want, encoding string
	}{
		{"", nil, "", "json"},
		{"", []string{"--payload", `{"a":1}`}, `{"a":1}`, "json"},
		{"", []string{"--payload", "plain"}, "plain", "text"},
		{"", []string{"--payload-file", file}, "\xff\xfe\x00", "binary"},
		{"from stdin", []string{"-"}, "from stdin", "text"},
		{"from stdin", []string{"--payload-file", "-", "--encoding", "csv"}, "from stdin", "csv"},
	}
	for _, tt := range tests {
		r := d.runIn(tt.input, append([]string{"submit", "k", "--output", "json"}, tt.args...)...)
		var created struct {
			ExecutionID flowfabric.ExecutionID `json:"execution_id"`
		}
		r.decode(t, &created)
		in, err := d.backend.GetExecutionInput(t.Context(), created.ExecutionID)
		if err != nil || string(in.Payload) != tt.want || in.Encoding != tt.encoding {
			t.Errorf("%v: stored %q as %q, %v", tt.args, in.Payload, in.Encoding, err)
		}
	}
}

func TestUsageErrorsExit2(t *testing.T) {
	d := deploy(t)
	for _, args := range [][]string{
		{"bogus"}, {"execution", "bogus"}, {"submit"}, {"submit", "k", "extra"}, {"submit", "k", "--no-such-flag"},
		{"submit", "k", "--payload", "x", "--payload-file", "y"}, {"submit", "k", "--payload-file", "/does/not/exist"},
		{"submit", "k", "--tag", "novalue"}, {"submit", "k", "--tag", "bad=1"}, {"submit", "a kind"},
		{"submit", "k", "--policy", "{"}, {"submit", "k", "--policy", `{"unknown":1}`}, {"submit", "k", "--delay", "10"},
		{"execution", "get", "not-an-id"}, {"execution", "list", "--limit", "0"}, {"execution", "list", "--state", "running"},
		{"execution", "list", "--cursor", "garbage"}, {"execution", "list", "--partition", "256"},
		{"execution", "priority", "{fp:1}:0190cbe2-5f0c-7d3a-8e55-1c2f3a4b5c6d", "high"},
		{"events", "nothing"}, {"wait", "{fp:1}:0190cbe2-5f0c-7d3a-8e55-1c2f3a4b5c6d", "--until", "never"},
		{"scanner", "run", "nothing"}, {"token", "new", "--scopes", "root"}, {"lane", "pause"},
		{"lane", "set", "l", "--weight", "0"}, {"worker", "run"}, {"worker", "run", "--exec", "true", "--concurrency", "0"},
		{"backup", "x"}, {"version", "--output", "xml"}, {"partition", "collisions", "--lanes", "a,a"},
		{"execution", "reclaim", "{fp:1}:0190cbe2-5f0c-7d3a-8e55-1c2f3a4b5c6d", "--worker", "w"},
	} {
		r := d.run(args...)
		if r.code != exitUsage {
			t.Errorf("%v: exit code %d\n%s%s", args, r.code, r.out, r.err)
		}
		if !strings.HasPrefix(r.err, "flowfabric: ") || strings.Count(r.err, "\n") != 1 {
			t.Errorf("%v: %q is not one line", args, r.err)
		}
	}
}

func TestNotFoundExits3AndConflict4(t *testing.T) {
	d := deploy(t)
	const absent = "{fp:1}:0190cbe2-5f0c-7d3a-8e55-1c2f3a4b5c6d"
	for _, args := range [][]string{
		{"execution", "get", absent}, {"execution", "cancel", absent}, {"execution", "replay", absent}, {"execution", "explain", absent},
		{"execution", "attempts", absent}, {"execution", "tags", absent}, {"execution", "pause", absent},
		{"wait", absent}, {"result", absent}, {"lane", "get", "never-named"},
	} {
		d.exits(exitNotFound, args...)
	}
	id := d.submit("k")
	for _, args := range [][]string{
		{"execution", "replay", id}, {"execution", "revoke-lease", id}, {"lane", "enable", "default"},
	} {
		r := d.run(args...)
		if args[0] == "lane" && r.code == exitOK { // an active lane stays as it is
			continue
		}
		if r.code != exitConflict {
			t.Errorf("%v: exit code %d\n%s", args, r.code, r.err)
		}
	}
	r := d.exits(exitConflict, "execution", "reclaim", id, "--worker", "w", "--instance", "w-1", "--lane", "elsewhere", "--output", "json")
	contains(t, r.out, "not_reclaimable")
}

func TestSteering(t *testing.T) {
	d := deploy(t)
	id := d.submit("k")
	var out map[string]any
	d.json(&out, "execution", "priority", id, "99999")
	if out["new_priority"] != 9000.0 || out["old_priority"] != 0.0 {
		t.Errorf("priority: %v", out)
	}
	contains(t, d.ok("execution", "pause", id, "--detail", "wait for Bob").out, "paused")
	contains(t, d.ok("execution", "get", id).out, "paused_by_operator", "wait for Bob")
	contains(t, d.ok("execution", "explain", id).out, "an operator has paused it", "execution unpause")
	contains(t, d.ok("execution", "unpause", id).out, "waiting")

	contains(t, d.ok("execution", "tags", id, "a.b=1", "c.d=2").out, "a.b", "c.d")
	d.json(&out, "execution", "tags", id, "--remove", "a.b")
	if tags := out["tags"].(map[string]any); len(tags) != 1 || tags["c.d"] != "2" {
		t.Errorf("tags: %v", tags)
	}

	d.json(&out, "execution", "cancel", id, "--reason", "twice")
	if out["outcome"] != "cancelled" || out["public_state"] != "cancelled" {
		t.Errorf("cancel: %v", out)
	}
	d.json(&out, "execution", "cancel", id, "--reason", "thrice")
	if out["outcome"] != "already_cancelled" || out["cancellation_reason"] != "twice" || out["cancelled_by"] != "cli:tester" {
		t.Errorf("cancel again: %v", out)
	}
	contains(t, d.exits(exitFailed, "wait", id).err, "cancelled")
	contains(t, d.ok("execution", "explain", id).out, "it has ended", "execution replay")
	d.json(&out, "execution", "replay", id)
	if out["replay_count"] != 1.0 || out["public_state"] != "waiting" {
		t.Errorf("replay: %v", out)
	}
}

func TestWaitAndResult(t *testing.T) {
	d := deploy(t)
	id := d.submit("k")
	r := d.exits(exitFailed, "wait", id, "--timeout", "10ms", "--output", "json")
	var end map[string]any
	r.decode(t, &end)
	if end["timed_out"] != true || end["public_state"] != "waiting" {
		t.Errorf("timed out wait: %v", end)
	}
	contains(t, d.exits(exitNotFound, "result", id).err, "result_not_found", "waiting")

	waiting := make(chan result, 1)
	go func() { waiting <- d.run("wait", id) }()
	d.complete(`{"ok":true}`)
	if r := <-waiting; r.code != exitOK || r.out != `{"ok":true}` {
		t.Errorf("wait: %+v", r)
	}
	if r := d.ok("result", id); r.out != `{"ok":true}` {
		t.Errorf("result: %q", r.out)
	}
	file := filepath.Join(t.TempDir(), "out")
	contains(t, d.ok("result", id, "--out", file).out, "11 bytes")
	if b, err := os.ReadFile(file); err != nil || string(b) != `{"ok":true}` {
		t.Errorf("saved %q, %v", b, err)
	}

	submitted := make(chan result, 1)
	go func() { submitted <- d.run("submit", "k", "--wait", "--output", "json") }()
	task := d.claimWhenThere("worker-1")
	if _, err := d.backend.FailExecution(t.Context(), flowfabric.FailExecutionArgs{ExecutionID: task.ExecutionID, Fence: task.Fence, Reason: "no luck", Category: "permanent"}); err != nil {
		t.Fatal(err)
	}
	r = <-submitted
	r.decode(t, &end)
	if r.code != exitFailed || end["outcome"] != "created" || end["terminal_outcome"] != "failed" || end["failure_reason"] != "no luck" {
		t.Errorf("submit --wait: %+v", r)
	}
	contains(t, d.exits(exitFailed, "wait", string(task.ExecutionID)).err, "failed: no luck (permanent)")
}

// claimWhenThere waits for an execution to claim.
func (d *deployment) claimWhenThere(instance string) flowfabric.ClaimedExecution {
	d.t.Helper()
	res, err := d.backend.ClaimTasks(d.t.Context(), flowfabric.ClaimTasksArgs{
		WorkerID: "pool", WorkerInstanceID: flowfabric.WorkerInstanceID(instance), Lanes: []flowfabric.LaneID{flowfabric.DefaultLane},
		Namespace: "default", MaxTasks: 1, LeaseTTLMs: 60_000, WaitMs: 20_000})
	if err != nil || len(res.Tasks) != 1 {
		d.t.Fatalf("claimed %d tasks, %v", len(res.Tasks), err)
	}
	return res.Tasks[0]
}

func TestListPages(t *testing.T) {
	d := deploy(t)
	want := map[string]bool{}
	for i := range 25 {
		want[d.submit(fmt.Sprint("k", i%2))] = true
	}
	for _, limit := range []string{"1", "7", "24", "25", "1000"} {
		seen, cursor := map[string]bool{}, ""
		for {
			var page struct {
				Items []struct {
					ExecutionID string `json:"execution_id"`
				} `json:"items"`
				NextCursor *string `json:"next_cursor"`
			}
			d.json(&page, "execution", "list", "--limit", limit, "--cursor", cursor)
			for _, e := range page.Items {
				if seen[e.ExecutionID] || !want[e.ExecutionID] {
					t.Fatalf("limit %s: %s is listed twice, or is unknown", limit, e.ExecutionID)
				}
				seen[e.ExecutionID] = true
			}
			if page.NextCursor == nil {
				break
			}
			if fmt.Sprint(len(page.Items)) != limit {
				t.Fatalf("limit %s: a page of %d", limit, len(page.Items))
			}
			cursor = *page.NextCursor
		}
		if len(seen) != len(want) {
			t.Errorf("limit %s: %d of %d listed", limit, len(seen), len(want))
		}
	}
	r := d.ok("execution", "list", "--kind", "k0", "--output", "json")
	if n := strings.Count(r.out, `"execution_id"`); n != 13 {
		t.Errorf("%d of kind k0", n)
	}
}

func TestLeases(t *testing.T) {
	d := deploy(t)
	id := d.submit("k")
	task := d.claim("mailer-1")
	contains(t, d.ok("worker", "list").out, "mailer-1", "pool", "default")
	contains(t, d.ok("worker", "leases", "mailer-1").out, id, "fresh")
	if r := d.ok("worker", "leases", "mailer-1", "--output", "json"); strings.Contains(r.out, string(task.Fence.LeaseID)) {
		t.Error("the list of leases shows a fence")
	}
	contains(t, d.ok("execution", "explain", id).out, "running on mailer-1")
	d.ok("lane", "set", "default", "--max-concurrency", "1")
	next := d.submit("k")
	contains(t, d.ok("execution", "explain", next).out, "at its limit: 1 of 1")
	d.ok("execution", "cancel", next)
	d.ok("lane", "set", "default", "--max-concurrency", "0")

	var out map[string]any
	d.json(&out, "execution", "revoke-lease", id, "--hold", "--reason", "hangs")
	if out["outcome"] != "revoked" || out["lease_epoch"] != 1.0 {
		t.Errorf("revoke: %v", out)
	}
	d.json(&out, "execution", "revoke-lease", id)
	if out["outcome"] != "already_satisfied" {
		t.Errorf("revoke again: %v", out)
	}
	contains(t, d.ok("execution", "release-hold", id).out, "released")
	contains(t, d.ok("execution", "release-hold", id).out, "not_held")
	d.json(&out, "execution", "reclaim", id, "--worker", "pool", "--instance", "mailer-2")
	if out["outcome"] != "granted" || out["grant"].(map[string]any)["kind"] != "reclaim" {
		t.Errorf("reclaim: %v", out)
	}
	contains(t, d.ok("execution", "history", id).out, "acquired", "revoked", "hangs", "mailer-1")
	contains(t, d.ok("execution", "attempts", id).out, "initial", "mailer-1")
	contains(t, d.ok("events", "leases", "--execution", id).out, "acquired", "revoked")

	other := d.submit("k")
	if held := d.claim("mailer-3"); string(held.ExecutionID) != other {
		t.Fatalf("claimed %s", held.ExecutionID)
	}
	d.json(&out, "worker", "drain", "mailer-3")
	if out["outcome"] != "marked" || out["revoked_leases"] != 1.0 {
		t.Errorf("drain: %v", out)
	}
	d.json(&out, "worker", "dead", "mailer-3")
	if out["outcome"] != "not_registered" {
		t.Errorf("dead: %v", out)
	}
}

func TestLanes(t *testing.T) {
	d := deploy(t)
	contains(t, d.ok("lane", "set", "media", "--weight", "3", "--max-concurrency", "20", "--tenant-weight", "acme=5",
		"--default-policy", `{"retry_policy":{"max_retries":2}}`).out, "media", "20", "acme=5", "max_retries")
	var lane flowfabric.LaneStatus
	d.json(&lane, "lane", "get", "media")
	if lane.SchedulingWeight != 3 || lane.State != flowfabric.LaneActive {
		t.Errorf("lane = %+v", lane)
	}
	d.exits(exitConflict, "lane", "set", "media", "--weight", "4", "--expected-revision", "999")
	var out map[string]any
	for _, step := range []struct{ verb, state, outcome string }{
		{"pause", "paused", "changed"}, {"pause", "paused", "unchanged"}, {"drain", "draining", "changed"},
		{"resume", "active", "changed"}, {"disable", "disabled", "changed"}, {"enable", "active", "changed"},
	} {
		d.json(&out, "lane", step.verb, "media", "--reason", "because")
		if out["outcome"] != step.outcome || out["lane"].(map[string]any)["state"] != step.state {
			t.Errorf("%s: %v", step.verb, out)
		}
	}
	d.ok("lane", "pause", "media")
	contains(t, d.exits(exitFailed, "submit", "k", "--lane", "media").err, "lane_intake_closed")
	d.exits(exitConflict, "lane", "delete", "media")
	d.ok("lane", "disable", "media")
	contains(t, d.ok("lane", "delete", "media").out, "deleted")
	contains(t, d.ok("lane", "list").out, "no lanes")
	d.submit("k")
	contains(t, d.ok("lane", "list").out, "LANE", "default", "active")
}

func TestEventsAndScanners(t *testing.T) {
	d := deploy(t)
	first, second := d.submit("k"), d.submit("k")
	d.complete(`1`)
	d.complete(`2`)
	r := d.ok("events", "completions", "--output", "json")
	lines := strings.Split(strings.TrimSpace(r.out), "\n")
	if len(lines) != 2 || !strings.Contains(r.out, first) || !strings.Contains(r.out, second) {
		t.Fatalf("events:\n%s", r.out)
	}
	contains(t, d.ok("events", "completions", "--limit", "1").out, "completed", "result=1 byte")

	ctx, cancel := context.WithCancel(t.Context())
	followed := make(chan result, 1)
	go func() {
		followed <- runWith(ctx, nil, "", "events", "completions", "--follow", "--from", "earliest", "--limit", "3", "--server", d.url)
	}()
	third := d.submit("k")
	d.complete(`3`)
	if r := <-followed; r.code != exitOK || !strings.Contains(r.out, third) {
		t.Errorf("follow: %+v", r)
	}
	cancel()
	if r := runWith(ctx, nil, "", "events", "completions", "--server", d.url); r.code != exitFailed {
		t.Errorf("interrupted: %+v", r)
	}

	contains(t, d.ok("scanner", "list").out, "DUTY", "tick", "index_reconciler")
	var duty flowfabric.ScannerStatus
	d.json(&duty, "scanner", "run", "index_reconciler")
	if duty.Name != "index_reconciler" || duty.Cycles == 0 {
		t.Errorf("duty = %+v", duty)
	}
	contains(t, d.ok("drain").out, "no more grants")
	d.exits(exitFailed, "doctor") // a drained server is not ready
	contains(t, d.ok("drain", "--off").out, "issued again")
}

func TestDoctor(t *testing.T) {
	d := deploy(t)
	d.submit("k")
	var report struct {
		Verdict  string
		Findings []finding
	}
	d.json(&report, "doctor", "--repair")
	if report.Verdict == string(verdictFail) {
		t.Errorf("report: %+v", report)
	}
	var checks []string
	for _, f := range report.Findings {
		checks = append(checks, f.Check)
	}
	for _, want := range []string{"store", "partitions", "version", "clock", "readiness", "duties", "indexes", "repair", "workers", "lanes", "waiting work", "expired leases"} {
		if !slices.Contains(checks, want) {
			t.Errorf("no check %q in %v", want, checks)
		}
	}
	contains(t, d.ok("doctor").out, "✓ ok", "store", "CHECK", "k1 makes the tokens")

	r := runWith(t.Context(), nil, "", "doctor", "--server", "http://127.0.0.1:1")
	if r.code != exitFailed || !strings.Contains(r.out, "no server answers") {
		t.Errorf("without a server: %+v", r)
	}
}

func TestWorkerRun(t *testing.T) {
	d := deploy(t)
	good := d.submit("greet", "--payload", `{"name":"Ada"}`)
	r := d.ok("worker", "run", "--limit", "1", "--exec", `read -r in; printf '{"got":%s,"kind":"%s"}' "$in" "$FLOWFABRIC_KIND"`, "--output", "json")
	contains(t, r.out, good, `"outcome":"completed"`)
	if r := d.ok("result", good); r.out != `{"got":{"name":"Ada"},"kind":"greet"}` {
		t.Errorf("result %q", r.out)
	}
	bad := d.submit("greet")
	contains(t, d.ok("worker", "run", "--limit", "1", "--exec", "echo first >&2; echo broken >&2; exit 3").out, bad, "failed", "exit status 3")
	contains(t, d.exits(exitFailed, "wait", bad).err, "exit status 3", "broken", "worker_error")
	other := d.submit("unknown")
	d.ok("worker", "run", "--limit", "1", "--kind", "greet", "--exec", "true")
	contains(t, d.exits(exitFailed, "wait", other).err, "runtime_no_handler")
	contains(t, d.ok("worker", "list").out, "no live workers")
}

// TestWorkerRunStops interrupts a worker while its command runs: the command
// finishes and its result is kept.
func TestWorkerRunStops(t *testing.T) {
	d := deploy(t)
	id := d.submit("slow")
	started, gate := filepath.Join(t.TempDir(), "started"), filepath.Join(t.TempDir(), "gate")
	for _, fifo := range []string{started, gate} {
		if err := syscall.Mkfifo(fifo, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	done := make(chan result, 1)
	go func() {
		done <- runWith(ctx, nil, "", "worker", "run", "--exec", "echo > "+started+"; read -r line < "+gate+"; echo $line", "--server", d.url)
	}()
	if _, err := os.ReadFile(started); err != nil {
		t.Fatal(err)
	}
	interrupt()
	if err := os.WriteFile(gate, []byte("finished\n"), 0); err != nil {
		t.Fatal(err)
	}
	if r := <-done; r.code != exitOK || !strings.Contains(r.out, "completed") {
		t.Errorf("worker: %+v", r)
	}
	if r := d.ok("result", id); r.out != "finished\n" {
		t.Errorf("result %q", r.out)
	}
}

func TestTargets(t *testing.T) {
	tests := []struct {
		args, environ []string
		want          string // of the target, or of the refusal
	}{
		{nil, nil, "http://127.0.0.1:9090"},
		{nil, []string{"FF_BACKEND=embedded"}, "http://127.0.0.1:9090"},
		{nil, []string{"FF_BACKEND=http://example.test:1/"}, "http://example.test:1"},
		{nil, []string{"FF_BACKEND=sqlite:/x/y.db"}, "/x/y.db"},
		{[]string{"--server", "http://h:1"}, []string{"FF_BACKEND=sqlite:/x/y.db"}, "http://h:1"},
		{[]string{"--backend", "memory:"}, nil, "memory"},
		{[]string{"--backend", "embedded"}, []string{"FF_DATA_DIR=/d"}, "/d/flowfabric.db"},
		{[]string{"--backend", "valkey://u:secret@h:1"}, nil, "valkey://u:[redacted]@h:1"},
		{[]string{"--backend", "valkey"}, []string{"FF_VALKEY_DB=1"}, "FF_VALKEY_DB"},
		{[]string{"--backend", "postgres"}, nil, "no postgres store"},
		{[]string{"--server", "h:1"}, nil, "no server address"},
		{[]string{"--server", "http://h:1", "--backend", "memory:"}, nil, "contradict"},
		{[]string{"--token-file", "/does/not/exist"}, nil, "--token-file"},
	}
	for _, tt := range tests {
		r := ""
		env := &environment{in: strings.NewReader(""), out: &strings.Builder{}, err: &strings.Builder{}, environ: tt.environ, now: nil}
		c := &cli{environment: env}
		root := newRootCommand(env)
		if err := root.PersistentFlags().Parse(tt.args); err != nil {
			t.Fatal(err)
		}
		c.options = clientOptions{server: flagOf(root, "server"), backend: flagOf(root, "backend"), tokenFile: flagOf(root, "token-file")}
		got, err := c.target()
		r = got.String()
		if err != nil {
			r = err.Error()
			if exitCode(err) != exitUsage {
				t.Errorf("%v: exit code %d", tt, exitCode(err))
			}
		}
		if !strings.Contains(r, tt.want) || strings.Contains(r, "secret") {
			t.Errorf("%v %v: %q, want %q", tt.args, tt.environ, r, tt.want)
		}
	}
}

// TestWorkerRunLosesItsLease revokes the lease of a running command: the command
// and what it started are killed, and nothing is reported for it.
func TestWorkerRunLosesItsLease(t *testing.T) {
	d := deploy(t)
	id := d.submit("slow")
	started := filepath.Join(t.TempDir(), "started")
	if err := syscall.Mkfifo(started, 0o600); err != nil {
		t.Fatal(err)
	}
	done := make(chan result, 1)
	go func() {
		done <- d.run("worker", "run", "--limit", "1", "--lease-ttl", "1s", "--exec", "sleep 600 & echo $! > "+started+"; wait")
	}()
	child, err := os.ReadFile(started)
	if err != nil {
		t.Fatal(err)
	}
	d.ok("execution", "revoke-lease", id, "--hold")
	r := <-done
	contains(t, r.out, id, "lost", "lease_revoked")
	pid, err := strconv.Atoi(strings.TrimSpace(string(child)))
	if err != nil {
		t.Fatal(err)
	}
	// It has been sent the kill; dying takes the kernel a moment on a busy machine.
	for began := time.Now(); syscall.Kill(pid, 0) == nil && !zombie(pid); runtime.Gosched() {
		if time.Since(began) > patience {
			t.Fatalf("process %d still runs", pid)
		}
	}
	contains(t, d.ok("execution", "get", id).out, "lease_revoked")
}

// zombie reports whether a process has ended and only its entry is left.
func zombie(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || strings.Contains(string(stat), ") Z ")
}
