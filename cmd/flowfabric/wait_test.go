package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/engine"
	"github.com/flowfabric/flowfabric/internal/model"
)

const testSecret = "c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00"

// desk is a store with executions that wait, and a command line to it.
type desk struct {
	t *testing.T
	b flowfabric.Backend
	// do runs a command line with something on standard input; asks tells that a
	// person sits there.
	do func(asks bool, input string, args ...string) result
}

// lanesUsed numbers the lanes of these tests.
var lanesUsed atomic.Int64

// modelBackend is the model with an engine beside it.
type modelBackend struct {
	*model.Store
	flowfabric.Scheduling
	flowfabric.Waits
	flowfabric.Administration
	eng *engine.Engine
}

func (b *modelBackend) ReadFeed(ctx context.Context, a flowfabric.ReadFeedArgs) (flowfabric.ReadFeedResult, error) {
	return b.eng.ReadFeed(ctx, a)
}

// Close leaves the store open, since every command closes what it opened.
func (b *modelBackend) Close() error { return nil }

// atDesks runs a test with commands that open the store themselves, and with
// commands that ask a server.
func atDesks(t *testing.T, test func(t *testing.T, d *desk)) {
	t.Run("store", func(t *testing.T) { test(t, openDesk(t)) })
	t.Run("server", func(t *testing.T) { test(t, serverDesk(t)) })
}

func openDesk(t *testing.T) *desk {
	t.Helper()
	m := model.New(model.Config{Clock: func() flowfabric.Millis { return flowfabric.Millis(time.Now().UnixMilli()) }})
	eng, err := engine.New(m, engine.Config{DisableDuties: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := eng.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = eng.Close() })
	if _, err := m.SeedWaitpointSecret(t.Context(), flowfabric.DefaultKID, testSecret); err != nil {
		t.Fatal(err)
	}
	b := &modelBackend{Store: m, Scheduling: eng, Waits: eng, Administration: eng, eng: eng}
	open := func(context.Context, target) (flowfabric.Backend, error) { return b, nil }
	return &desk{t: t, b: b, do: func(asks bool, input string, args ...string) result {
		return runAt(t.Context(), asks, open, input, args...)
	}}
}

func serverDesk(t *testing.T) *desk {
	t.Helper()
	d := deploy(t)
	return &desk{t: t, b: d.backend, do: func(asks bool, input string, args ...string) result {
		return runAt(t.Context(), asks, openTarget, input, append(args, "--server", d.url)...)
	}}
}

func runAt(ctx context.Context, asks bool, open func(context.Context, target) (flowfabric.Backend, error), input string, args ...string) result {
	var out, errs bytes.Buffer
	env := &environment{in: strings.NewReader(input), out: &out, err: &errs, asks: asks, environ: []string{"USER=tester"}, now: time.Now, open: open}
	code := run(ctx, env, args)
	return result{code, out.String(), errs.String()}
}

func (d *desk) exits(code int, args ...string) result {
	d.t.Helper()
	return d.answers(code, "", args...)
}

func (d *desk) ok(args ...string) result {
	d.t.Helper()
	return d.answers(exitOK, "", args...)
}

// answers runs a command line with something on standard input.
func (d *desk) answers(code int, input string, args ...string) result {
	d.t.Helper()
	r := d.do(false, input, args...)
	if r.code != code {
		d.t.Fatalf("flowfabric %s: exit code %d, want %d\n%s%s", strings.Join(args, " "), r.code, code, r.out, r.err)
	}
	return r
}

func (d *desk) json(v any, args ...string) {
	d.t.Helper()
	d.ok(append(args, "--output", "json")...).decode(d.t, v)
}

// claim claims a fresh execution, in a lane of its own.
func (d *desk) claim() flowfabric.ClaimedExecution {
	d.t.Helper()
	lane := flowfabric.LaneID(fmt.Sprintf("review-%d", lanesUsed.Add(1)))
	created, err := flowfabric.CreateExecution(d.t.Context(), d.b, flowfabric.CreateExecutionArgs{
		Namespace: "default", LaneID: lane, Kind: "k", CreatorIdentity: "t"})
	if err != nil {
		d.t.Fatal(err)
	}
	res, err := d.b.ClaimTasks(d.t.Context(), flowfabric.ClaimTasksArgs{WorkerID: "pool", WorkerInstanceID: "pool-1",
		Lanes: []flowfabric.LaneID{lane}, Namespace: "default", MaxTasks: 1, LeaseTTLMs: 60_000})
	if err != nil || len(res.Tasks) != 1 || res.Tasks[0].ExecutionID != created.ExecutionID {
		d.t.Fatalf("claimed %+v, %v", res, err)
	}
	return res.Tasks[0]
}

// wait is an execution that has suspended.
type wait struct {
	id         string
	waitpoints []flowfabric.BoundWaitpoint
}

func (w wait) waitpoint() string { return string(w.waitpoints[0].WaitpointID) }

// suspend has a fresh execution wait on the keys of a condition.
func (d *desk) suspend(c flowfabric.ResumeCondition, change ...func(*flowfabric.SuspendArgs)) wait {
	d.t.Helper()
	task := d.claim()
	args := flowfabric.SuspendArgs{ExecutionID: task.ExecutionID, Fence: task.Fence, ResumeCondition: c, ReasonCode: flowfabric.SuspendWaitingForApproval}
	for _, key := range c.Keys() {
		args.Waitpoints = append(args.Waitpoints, flowfabric.WaitpointBinding{WaitpointKey: key})
	}
	if len(args.Waitpoints) == 0 {
		args.Waitpoints = []flowfabric.WaitpointBinding{{}}
	}
	for _, f := range change {
		f(&args)
	}
	res, err := d.b.Suspend(d.t.Context(), args.WithDefaults())
	if err != nil || res.Outcome != flowfabric.SuspendSuspended {
		d.t.Fatalf("suspend: %+v, %v", res, err)
	}
	return wait{string(task.ExecutionID), res.Waitpoints}
}

func (d *desk) state(id string) flowfabric.PublicState {
	d.t.Helper()
	var x flowfabric.ExecutionSnapshot
	d.json(&x, "execution", "get", id)
	return x.PublicState
}

const absent = "{fp:1}:0190cbe2-5f0c-7d3a-8e55-1c2f3a4b5c6d"
const absentWaitpoint = "0190cbe2-5f0c-4d3a-8e55-1c2f3a4b5c6d"

// TestWhatAnExecutionWaitsFor looks at a suspended execution with every command
// that shows it: specification 03, scenario 37 and section 4.9.
func TestWhatAnExecutionWaitsFor(t *testing.T) {
	atDesks(t, func(t *testing.T, d *desk) {
		minutes := int64(10 * 60_000)
		w := d.suspend(flowfabric.AllOf(
			flowfabric.Single("review", flowfabric.ByNames("approved", "rejected")),
			flowfabric.Count(2, flowfabric.DistinctSources, flowfabric.AnySignal().FromSource("operator"), "quorum"),
		), func(a *flowfabric.SuspendArgs) { a.TimeoutMs, a.TimeoutBehavior = &minutes, flowfabric.TimeoutEscalate })
		token := w.waitpoints[0].Token

		contains(t, d.ok("waitpoint", "list").out, w.id, "waiting_for_approval", "approved or rejected", "in 9m", "escalate")
		list := d.ok("waitpoint", "list", w.id)
		contains(t, list.out, w.waitpoint(), "active", "review", "approved or rejected", "any signal", token.KID())
		get := d.ok("execution", "get", w.id)
		contains(t, get.out, "suspended", "awaits", "approved or rejected on review", "2 different senders: any signal from operator on quorum", "escalate")
		contains(t, d.ok("execution", "explain", w.id).out, "it is suspended (waiting_for_approval, now): waitpoint "+w.waitpoint()+" (and 1 more) awaits",
			"waitpoint approve '"+w.id+"'", "execution resume '"+w.id+"'")

		d.ok("waitpoint", "approve", w.id, string(w.waitpoints[1].WaitpointID), "--by", "ann")
		shown := d.ok("execution", "suspension", w.id)
		contains(t, shown.out, "open", "all of these: 0 of 2", "· approved or rejected on review", "1 so far (operator=1)", "1 received, 1 counted")

		var page struct {
			Items []waitingExecution `json:"items"`
			Next  *string            `json:"next_cursor"`
		}
		d.json(&page, "waitpoint", "list")
		if len(page.Items) != 1 || string(page.Items[0].ExecutionID) != w.id || len(page.Items[0].Waitpoints) != 2 || page.Next != nil {
			t.Errorf("waitpoint list: %+v", page)
		}
		var x flowfabric.Suspension
		raw := d.ok("execution", "suspension", w.id, "--output", "json")
		var doc map[string]json.RawMessage
		raw.decode(t, &doc)
		condition, err := flowfabric.ParseResumeCondition(doc["resume_condition"])
		if err != nil || len(condition.Members) != 2 {
			t.Errorf("resume_condition: %+v, %v", condition, err)
		}
		delete(doc, "resume_condition")
		rest, _ := json.Marshal(doc)
		if err := json.Unmarshal(rest, &x); err != nil || x.SignalCount != 1 || len(x.Progress) != 3 {
			t.Errorf("suspension: %+v, %v", x, err)
		}
		for _, r := range []result{list, get, shown, raw} {
			if strings.Contains(r.out, token.Reveal()) {
				t.Errorf("it shows the token:\n%s", r.out)
			}
		}
		d.ok("execution", "cancel", w.id)
		contains(t, d.ok("execution", "suspension", w.id).out, "closed: cancelled")
		contains(t, d.ok("waitpoint", "list").out, "no execution is suspended")
		contains(t, d.ok("waitpoint", "list", w.id).out, "no open waitpoints")
	})
}

// TestLongListOfWaits follows --cursor to the end: specification 03, scenario 48.
func TestLongListOfWaits(t *testing.T) {
	atDesks(t, func(t *testing.T, d *desk) {
		want := map[string]bool{}
		for range 5 {
			want[d.suspend(flowfabric.AnyOfNames("k", "go")).id] = true
		}
		cursor := ""
		for range 10 {
			var page struct {
				Items []waitingExecution `json:"items"`
				Next  *string            `json:"next_cursor"`
			}
			d.json(&page, "waitpoint", "list", "--limit", "2", "--cursor", cursor)
			for _, e := range page.Items {
				if !want[string(e.ExecutionID)] {
					t.Errorf("%s is listed twice, or should not be", e.ExecutionID)
				}
				delete(want, string(e.ExecutionID))
			}
			if page.Next == nil {
				break
			}
			cursor = *page.Next
		}
		if len(want) != 0 {
			t.Errorf("not listed: %v", want)
		}
	})
}

// TestTwoMustApprove is specification 03, scenario 6, decided at the command
// line: a repeat by one person is one decision.
func TestTwoMustApprove(t *testing.T) {
	atDesks(t, func(t *testing.T, d *desk) {
		w := d.suspend(flowfabric.Count(2, flowfabric.DistinctSources, flowfabric.ByName("approved"), "board"))
		var first, again, second delivery
		d.json(&first, "waitpoint", "approve", w.id, "--by", "alice", "--payload", `{"note":"fine"}`)
		d.json(&again, "waitpoint", "approve", w.id, "--by", "alice")
		if first.Outcome != flowfabric.DeliverAccepted || first.Effect != flowfabric.EffectAppended || string(first.WaitpointID) != w.waitpoint() {
			t.Errorf("alice: %+v", first)
		}
		if again.Outcome != flowfabric.DeliverDuplicate || again.ExistingSignalID != first.SignalID || again.SignalID != "" {
			t.Errorf("alice again: %+v", again)
		}
		contains(t, d.ok("waitpoint", "reject", w.id, "--by", "carol").out, "not what the execution waits for")
		d.json(&second, "waitpoint", "approve", w.id) // $USER
		if second.Effect != flowfabric.EffectResumed || d.state(w.id) != flowfabric.PublicWaiting {
			t.Errorf("tester: %+v, %s", second, d.state(w.id))
		}
		var page struct {
			Items []flowfabric.RecordedSignal `json:"items"`
		}
		d.json(&page, "execution", "signals", w.id)
		if len(page.Items) != 3 || page.Items[0].SourceIdentity != "alice" || page.Items[1].SourceIdentity != "carol" || page.Items[2].SourceIdentity != "tester" {
			t.Errorf("signals: %+v", page.Items)
		}
		contains(t, d.ok("execution", "signals", w.id).out, "operator/alice", "signal_ignored_matcher_failed")
		contains(t, d.ok("execution", "signals", w.id, string(first.SignalID)).out, "approval", `{"note":"fine"}`, "operator/alice")
		d.exits(exitNotFound, "execution", "signals", w.id, absentWaitpoint)
		// The suspension is over: there is nothing left to decide.
		contains(t, d.exits(exitNotFound, "waitpoint", "approve", w.id, "--by", "dave").err, "has no open waitpoint")
	})
}

// TestChoosing lets a person choose what to decide on, and refuses to choose for
// nobody.
func TestChoosing(t *testing.T) {
	atDesks(t, func(t *testing.T, d *desk) {
		contains(t, d.exits(exitUsage, "waitpoint", "approve").err, "EXECUTION is missing")
		d.suspend(flowfabric.AnyOfNames("one", "approved"))
		d.suspend(flowfabric.AllOfWaitpoints("left", "right"))
		var page struct {
			Items []waitingExecution `json:"items"`
		}
		d.json(&page, "waitpoint", "list")
		single := 0
		if len(page.Items) == 2 && len(page.Items[0].Waitpoints) == 2 {
			single = 1
		}
		one, two := string(page.Items[single].ExecutionID), string(page.Items[1-single].ExecutionID)

		r := d.exits(exitUsage, "waitpoint", "approve")
		contains(t, r.out, one, two)
		contains(t, r.err, "nobody is at a terminal")
		contains(t, d.exits(exitUsage, "waitpoint", "approve", two).err, "WAITPOINT is missing", "left", "right")
		if d.state(one) != flowfabric.PublicSuspended {
			t.Fatal("a decision was made for nobody")
		}

		number := map[bool]string{true: "2", false: "1"}
		r = d.do(true, "x\n7\n"+number[single == 1]+"\n", "waitpoint", "approve")
		if r.code != exitOK || d.state(one) != flowfabric.PublicWaiting {
			t.Errorf("chosen: %+v", r)
		}
		contains(t, r.err, one, "Which execution?", `"x" is no number`, `"7" is no number`)
		contains(t, r.out, one, "resumed the execution")

		for _, input := range []string{"", "\n", "1\n"} {
			if r := d.do(true, input, "waitpoint", "approve"); r.code != exitUsage || !strings.Contains(r.err, "nothing was chosen") {
				t.Errorf("%q: %+v", input, r)
			}
		}
		if r := d.do(true, "1\n2\n", "waitpoint", "approve"); r.code != exitOK || !strings.Contains(r.err, "Which waitpoint?") {
			t.Errorf("the second waitpoint: %+v", r)
		}
		if r := d.do(true, "1\n", "waitpoint", "approve", two); r.code == exitOK && d.state(two) != flowfabric.PublicWaiting {
			t.Errorf("both waitpoints approved: %+v", r)
		}
	})
}

// TestSignalWithToken takes the way of an outside party: specification 03,
// scenarios 2, 23, 33 and 34.
func TestSignalWithToken(t *testing.T) {
	atDesks(t, func(t *testing.T, d *desk) {
		w := d.suspend(flowfabric.AnyOfNames("k", "done"))
		token := d.ok("waitpoint", "token", w.id, w.waitpoint())
		if token.out != w.waitpoints[0].Token.Reveal()+"\n" || token.err != "" {
			t.Fatalf("token: %+v", token)
		}
		signal := []string{"signal", w.id, w.waitpoint(), "--name", "done", "--idempotency-key", "once"}

		contains(t, d.exits(exitUsage, signal...).err, "--waitpoint-token-file is missing")
		wrong := strings.TrimSpace(token.out)
		last := map[bool]string{true: "1", false: "0"}[strings.HasSuffix(wrong, "0")]
		wrong = wrong[:len(wrong)-1] + last
		for input, code := range map[string]string{wrong: "invalid_token", "\n": "missing_token", "nonsense": "invalid_token"} {
			r := d.answers(exitFailed, input, append(signal, "--waitpoint-token-file", "-")...)
			contains(t, r.err, code)
			if strings.Contains(r.out+r.err, strings.TrimSpace(input)) && strings.TrimSpace(input) != "" {
				t.Errorf("it shows what was presented: %s", r.err)
			}
		}
		if d.state(w.id) != flowfabric.PublicSuspended {
			t.Fatal("a wrong token resumed the execution")
		}

		file := filepath.Join(t.TempDir(), "token")
		if err := os.WriteFile(file, []byte(token.out), 0o600); err != nil {
			t.Fatal(err)
		}
		r := d.answers(exitOK, "a\x00b\xff", append(signal, "--waitpoint-token-file", file, "--payload-file", "-", "--source-type", "webhook", "--correlation-id", "c-1")...)
		contains(t, r.out, w.id, "resumed the execution")
		var again delivery
		d.answers(exitOK, token.out, append(signal, "--waitpoint-token-file", "-", "--output", "json")...).decode(t, &again)
		if again.Outcome != flowfabric.DeliverDuplicate || again.Effect != flowfabric.EffectResumed {
			t.Errorf("the webhook's retry: %+v", again)
		}
		var s flowfabric.RecordedSignal
		d.json(&s, "execution", "signals", w.id, string(again.ExistingSignalID))
		if string(s.Payload) != "a\x00b\xff" || s.PayloadEncoding != "binary" || s.SourceIdentity != "cli:tester" || s.SourceType != "webhook" || s.CorrelationID != "c-1" {
			t.Errorf("stored: %+v", s)
		}
		contains(t, d.ok("execution", "signals", w.id, string(s.SignalID)).out, "4 bytes of binary")
		d.exits(exitNotFound, "waitpoint", "token", w.id, w.waitpoint())
		d.answers(exitConflict, token.out, "signal", w.id, w.waitpoint(), "--name", "done", "--waitpoint-token-file", "-") // waitpoint_closed
	})
}

// TestResume is the operator's way past any condition: specification 03,
// scenarios 31 and 46.
func TestResume(t *testing.T) {
	atDesks(t, func(t *testing.T, d *desk) {
		delayed := func(a *flowfabric.SuspendArgs) { a.ResumePolicy.ResumeDelayMs = 60_000 }
		w := d.suspend(flowfabric.OperatorOnly(), delayed)
		contains(t, d.ok("execution", "explain", w.id).out, "awaits an operator")
		contains(t, d.ok("waitpoint", "approve", w.id).out, "no signal on this waitpoint ends the wait")
		contains(t, d.ok("execution", "resume", w.id).out, "delayed")
		d.exits(exitConflict, "execution", "resume", w.id)
		w = d.suspend(flowfabric.OperatorOnly(), delayed)
		var res struct {
			Outcome     string                 `json:"outcome"`
			PublicState flowfabric.PublicState `json:"public_state"`
		}
		d.json(&res, "execution", "resume", w.id, "--delay", "0s", "--reason", "by telephone")
		if res.Outcome != "resumed" || res.PublicState != flowfabric.PublicWaiting {
			t.Errorf("%+v", res)
		}
		contains(t, d.ok("execution", "suspension", w.id).out, "closed: operator_resume")
	})
}

// TestPendingWaitpoint signals, and closes, a waitpoint before its worker
// suspends: specification 03, scenarios 15 and 47.
func TestPendingWaitpoint(t *testing.T) {
	atDesks(t, func(t *testing.T, d *desk) {
		task := d.claim()
		made, err := d.b.CreatePendingWaitpoint(t.Context(), flowfabric.CreatePendingWaitpointArgs{ExecutionID: task.ExecutionID, Fence: task.Fence, WaitpointKey: "early", ExpiresInMs: 60_000})
		if err != nil {
			t.Fatal(err)
		}
		id, waitpoint := string(task.ExecutionID), string(made.WaitpointID)
		contains(t, d.ok("waitpoint", "list", id).out, waitpoint, "pending", "early", "not suspended yet")
		var sent delivery
		d.json(&sent, "waitpoint", "approve", id)
		if sent.Effect != flowfabric.EffectBuffered || !sent.RequiresConfirmation {
			t.Errorf("%+v", sent)
		}
		contains(t, d.ok("waitpoint", "close", id, waitpoint, "--reason", "asked twice").out, "closed")
		contains(t, d.ok("waitpoint", "close", id, waitpoint).out, "was closed before")
		contains(t, d.ok("execution", "signals", id).out, "no_op_waitpoint_never_activated")
		w := d.suspend(flowfabric.AnyOfNames("k", "go"))
		contains(t, d.exits(exitConflict, "waitpoint", "close", w.id, w.waitpoint()).err, "waitpoint_in_use")
		d.exits(exitNotFound, "waitpoint", "close", w.id, waitpoint)
	})
}

// TestSecrets rotates the keys: specification 03, scenarios 25 to 27.
func TestSecrets(t *testing.T) {
	atDesks(t, func(t *testing.T, d *desk) {
		contains(t, d.ok("secret", "status").out, "k1", "makes and verifies")
		old := d.suspend(flowfabric.AnyOfNames("k", "go"))
		file := filepath.Join(t.TempDir(), "secret")
		second := strings.Repeat("5e", 32)
		if err := os.WriteFile(file, []byte(second+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		contains(t, d.ok("secret", "rotate", "--kid", "k2", "--secret-file", file, "--grace", "10m").out, "k2 makes the tokens now")
		contains(t, d.ok("secret", "rotate", "--kid", "k2", "--secret-file", file).out, "the current key already")
		r := d.answers(exitConflict, testSecret, "secret", "rotate", "--kid", "k2", "--secret-file", "-")
		contains(t, r.err, "rotation_conflict")
		if strings.Contains(r.err, testSecret) || strings.Contains(r.err, second) {
			t.Errorf("it shows a secret: %s", r.err)
		}
		var kids flowfabric.WaitpointKIDs
		d.json(&kids, "secret", "status")
		if kids.CurrentKID != "k2" || len(kids.Verifying) != 1 || kids.Verifying[0].KID != "k1" {
			t.Errorf("%+v", kids)
		}
		// A token of the former key delivers within its grace.
		d.answers(exitOK, old.waitpoints[0].Token.Reveal(), "signal", old.id, old.waitpoint(), "--name", "go", "--waitpoint-token-file", "-")

		leaked := d.suspend(flowfabric.AnyOfNames("k", "go"))
		var res struct {
			Rotated int      `json:"rotated"`
			Failed  []uint16 `json:"failed"`
			NewKID  string   `json:"new_kid"`
		}
		d.json(&res, "secret", "rotate", "--kid", "k3", "--generated", "--grace", "0s")
		if res.Rotated < 1 || res.Failed == nil || len(res.Failed) != 0 || res.NewKID != "k3" {
			t.Errorf("%+v", res)
		}
		for now := time.Now().UnixMilli(); time.Now().UnixMilli() <= now; { // a grace of 0 s holds for its millisecond
		}
		contains(t, d.answers(exitFailed, leaked.waitpoints[0].Token.Reveal(), "signal", leaked.id, leaked.waitpoint(), "--name", "go", "--waitpoint-token-file", "-").err, "token_expired")
		if kid := d.suspend(flowfabric.AnyOfNames("k", "go")).waitpoints[0].Token.KID(); kid != "k3" {
			t.Errorf("new tokens are made with %s", kid)
		}
	})
}

// TestWaitUsage: wrong use exits 2 in one line, what is not there exits 3.
func TestWaitUsage(t *testing.T) {
	atDesks(t, func(t *testing.T, d *desk) {
		for _, args := range [][]string{
			{"waitpoint", "bogus"}, {"waitpoint", "list", "no-id"}, {"waitpoint", "list", "--limit", "0"}, {"waitpoint", "list", "--limit", "1001"},
			{"waitpoint", "list", absent, "--namespace", "x"}, {"waitpoint", "list", "--cursor", "garbage"},
			{"waitpoint", "token", absent}, {"waitpoint", "token", absent, "x"},
			{"waitpoint", "approve", absent, absentWaitpoint, "extra"}, {"waitpoint", "approve", absent, "x"}, {"waitpoint", "approve", "x"},
			{"waitpoint", "approve", absent, "--payload-file", "-"}, {"waitpoint", "approve", absent, absentWaitpoint, "--payload", "x", "--payload-file", "y"},
			{"waitpoint", "close", absent, "x"},
			{"signal", absent}, {"signal", absent, absentWaitpoint}, {"signal", absent, absentWaitpoint, "--name", "x", "--waitpoint-token", "a", "--waitpoint-token-file", "b"},
			{"signal", absent, absentWaitpoint, "--name", "x", "--waitpoint-token-file", "/does/not/exist"},
			{"signal", absent, absentWaitpoint, "--name", "x", "--waitpoint-token-file", "-", "--payload-file", "-"},
			{"signal", absent, absentWaitpoint, "--name", "__x", "--waitpoint-token", "a"}, {"signal", absent, absentWaitpoint, "--name", "x", "--waitpoint-token", "a", "--category", "timeout"},
			{"signal", absent, absentWaitpoint, "--name", "x", "--waitpoint-token", "a", "--signal-id", "x"},
			{"signal", absent, absentWaitpoint, "--name", "x", "--waitpoint-token", "a", "--dedup-ttl", "169h"},
			{"signal", absent, absentWaitpoint, "--name", "x", "--waitpoint-token", "a", "--dedup-ttl", "-1s"},
			{"signal", absent, absentWaitpoint, "--name", "x", "--waitpoint-token", "a", "--dedup-ttl", "0s"},
			{"execution", "signals"}, {"execution", "signals", absent, "x"}, {"execution", "signals", absent, "--limit", "0"},
			{"execution", "resume"}, {"execution", "resume", absent, "--delay", "-1s"},
			{"secret", "rotate", "--generated"}, {"secret", "rotate", "--kid", "k2"}, {"secret", "rotate", "--kid", "a:b", "--generated"},
			{"secret", "rotate", "--kid", "k2", "--generated", "--secret-file", "x"}, {"secret", "rotate", "--kid", "k2", "--generated", "--grace", "-1s"},
			{"secret", "rotate", "--kid", "k2", "--secret-file", "/dev/null"},
		} {
			r := d.do(false, "", args...)
			if r.code != exitUsage || !strings.HasPrefix(r.err, "flowfabric: ") || strings.Count(r.err, "\n") != 1 {
				t.Errorf("%v: exit code %d\n%s%s", args, r.code, r.out, r.err)
			}
		}
		for _, args := range [][]string{
			{"waitpoint", "list", absent}, {"waitpoint", "token", absent, absentWaitpoint}, {"waitpoint", "approve", absent}, {"waitpoint", "approve", absent, absentWaitpoint},
			{"waitpoint", "close", absent, absentWaitpoint}, {"execution", "signals", absent}, {"execution", "signals", absent, absentWaitpoint},
			{"execution", "resume", absent}, {"execution", "suspension", absent}, {"execution", "suspension", string(d.claim().ExecutionID)},
		} {
			d.exits(exitNotFound, args...)
		}
	})
}

// TestExplanationForPrograms: explain gives programs the suspension with its
// condition as it was given.
func TestExplanationForPrograms(t *testing.T) {
	atDesks(t, func(t *testing.T, d *desk) {
		w := d.suspend(flowfabric.TimeoutOnly(), func(a *flowfabric.SuspendArgs) { a.TimeoutMs = new(int64(60_000)) })
		var e struct {
			Summary    string   `json:"summary"`
			Advice     []string `json:"advice"`
			Suspension struct {
				Condition json.RawMessage           `json:"resume_condition"`
				Waitpoint []flowfabric.WaitpointRef `json:"waitpoints"`
			} `json:"suspension"`
		}
		d.json(&e, "execution", "explain", w.id)
		contains(t, e.Summary, "waitpoint "+w.waitpoint()+" awaits its timeout; timeout in", ": fail")
		if c, err := flowfabric.ParseResumeCondition(e.Suspension.Condition); err != nil || c.Kind != flowfabric.ConditionTimeoutOnly || len(e.Suspension.Waitpoint) != 1 {
			t.Errorf("suspension: %+v, %v", e.Suspension, err)
		}
		if len(e.Advice) != 2 || strings.Contains(strings.Join(e.Advice, " "), "approve") {
			t.Errorf("no approval ends this wait: %v", e.Advice)
		}
	})
}
