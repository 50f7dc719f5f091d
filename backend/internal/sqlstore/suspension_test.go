package sqlstore_test

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	zs "zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/backend/backendtest"
	"github.com/flowfabric/flowfabric/backend/sqlite"
)

// forgetWaiting takes a file back to the schema before there were suspensions.
func forgetWaiting(t *testing.T, c *zs.Conn) {
	t.Helper()
	for _, table := range []string{"suspensions", "satisfiers", "waitpoints", "signals", "signal_payloads", "signal_dedup", "suspend_replays", "secrets"} {
		if err := sqlitex.ExecuteTransient(c, "drop table "+table, nil); err != nil {
			t.Fatal(err)
		}
	}
	for _, sql := range []string{"delete from config where name = 'waitpoint_kid'", "delete from schema_version where version >= 3"} {
		if err := sqlitex.ExecuteTransient(c, sql, nil); err != nil {
			t.Fatal(err)
		}
	}
}

// waitingStore is a store with an execution that a worker holds.
type waitingStore struct {
	*sqlite.Backend
	t   *testing.T
	clk *backendtest.Clock
}

func openWaiting(t *testing.T, path string) *waitingStore {
	t.Helper()
	clk := backendtest.NewClock()
	return &waitingStore{Backend: openStore(t, path, clk), t: t, clk: clk}
}

func (w *waitingStore) claimed() flowfabric.ClaimedExecution {
	w.t.Helper()
	createIn(w.t, w.Backend, bucketSpace, 0)
	return w.claim()
}

func (w *waitingStore) claim() flowfabric.ClaimedExecution {
	w.t.Helper()
	res := must(w.ClaimTasks(w.t.Context(), claimArgs(bucketSpace, 1)))(w.t)
	if len(res.Tasks) != 1 {
		w.t.Fatalf("claimed %d", len(res.Tasks))
	}
	return res.Tasks[0]
}

func waitFor(task flowfabric.ClaimedExecution, c flowfabric.ResumeCondition, keys ...string) flowfabric.SuspendArgs {
	a := flowfabric.SuspendArgs{ExecutionID: task.ExecutionID, Fence: task.Fence, ReasonCode: flowfabric.SuspendWaitingForSignal, ResumeCondition: c}
	for _, key := range keys {
		a.Waitpoints = append(a.Waitpoints, flowfabric.WaitpointBinding{WaitpointKey: key})
	}
	return a
}

func (w *waitingStore) suspend(a flowfabric.SuspendArgs) flowfabric.SuspendResult {
	w.t.Helper()
	return must(w.Suspend(w.t.Context(), a))(w.t)
}

func (w *waitingStore) pending(task flowfabric.ClaimedExecution, key string) flowfabric.PendingWaitpoint {
	w.t.Helper()
	return must(w.CreatePendingWaitpoint(w.t.Context(), flowfabric.CreatePendingWaitpointArgs{ExecutionID: task.ExecutionID, Fence: task.Fence,
		WaitpointKey: key, ExpiresInMs: 60_000}))(w.t)
}

func signalTo(id flowfabric.ExecutionID, p flowfabric.BoundWaitpoint, name string) flowfabric.DeliverSignalArgs {
	return flowfabric.DeliverSignalArgs{ExecutionID: id, WaitpointID: p.WaitpointID, Token: p.Token,
		Signal: flowfabric.Signal{Name: name, SourceIdentity: "tester", Payload: []byte(name)}}
}

func (w *waitingStore) deliver(a flowfabric.DeliverSignalArgs) flowfabric.DeliverSignalResult {
	w.t.Helper()
	return must(w.DeliverSignal(w.t.Context(), a))(w.t)
}

func (w *waitingStore) state(id flowfabric.ExecutionID) flowfabric.PublicState {
	w.t.Helper()
	return must(w.GetExecutionState(w.t.Context(), id))(w.t)
}

// tick lets time pass and the duties of the store run.
func (w *waitingStore) tick(d time.Duration) flowfabric.TickResult {
	w.t.Helper()
	w.clk.Advance(d)
	return must(w.Tick(w.t.Context(), flowfabric.TickArgs{}))(w.t)
}

// TestWaitingMigrates: an execution that runs in a store of the schema before
// suspends, once the store is opened anew, and gets a token of the key that the
// opening made.
func TestWaitingMigrates(t *testing.T) {
	path := filepath.Join(t.TempDir(), "flow.db")
	w := openWaiting(t, path)
	task := w.claimed()
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	c := must(zs.OpenConn(path, zs.OpenReadWrite))(t)
	forgetWaiting(t, c)
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if pending := must(sqlite.PendingMigrations(t.Context(), path))(t); len(pending) != 1 {
		t.Fatalf("pending %v, want the one of waiting", pending)
	}
	w.Backend = openStore(t, path, w.clk)
	res := w.suspend(waitFor(task, flowfabric.Single("k", flowfabric.AnySignal()), "k"))
	if res.Outcome != flowfabric.SuspendSuspended || res.Waitpoints[0].Token.KID() != flowfabric.DefaultKID {
		t.Errorf("suspended: %+v", res)
	}
	checkMemory(t, w.Backend)
}

// TestWaitingSurvivesARestart: suspension, buffered signals, keys and answers are
// what they were before the store was closed. (Specification 03, scenarios 16
// and 19.)
func TestWaitingSurvivesARestart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "flow.db")
	w := openWaiting(t, path)
	task := w.claimed()
	p := w.pending(task, "early")
	bound := flowfabric.BoundWaitpoint{WaitpointID: p.WaitpointID, Token: p.Token}
	if res := w.deliver(signalTo(task.ExecutionID, bound, "other")); res.Effect != flowfabric.EffectBuffered {
		t.Fatalf("early signal: %+v", res)
	}
	checkMemory(t, w.Backend)
	a := waitFor(task, flowfabric.AllOf(flowfabric.Single("early", flowfabric.ByName("go")), flowfabric.Single("late", flowfabric.AnySignal())), "late")
	a.Waitpoints = append(a.Waitpoints, flowfabric.WaitpointBinding{WaitpointID: p.WaitpointID, UsePending: true})
	a.IdempotencyKey = "once"
	first := w.suspend(a)
	shown := must(w.GetSuspension(t.Context(), task.ExecutionID))(t)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	w.Backend = openStore(t, path, w.clk)
	a.SuspensionID = flowfabric.NewSuspensionID()
	again := w.suspend(a)
	first.Replayed = true
	if d := cmp.Diff(first, again, cmp.AllowUnexported(flowfabric.WaitpointToken{})); d != "" {
		t.Errorf("the first answer (-) and the repeat (+):\n%s", d)
	}
	if d := cmp.Diff(shown, must(w.GetSuspension(t.Context(), task.ExecutionID))(t)); d != "" {
		t.Errorf("the suspension before (-) and after (+) the restart:\n%s", d)
	}
	listed := must(w.ListSignals(t.Context(), flowfabric.ListSignalsArgs{ExecutionID: task.ExecutionID}))(t)
	if len(listed.Signals) != 1 || listed.Signals[0].Effect != flowfabric.EffectMatcherFailed || listed.Signals[0].Payload != nil {
		t.Errorf("listed %+v", listed.Signals)
	}
	w.deliver(signalTo(task.ExecutionID, bound, "go"))
	if res := w.deliver(signalTo(task.ExecutionID, first.Waitpoints[0], "any")); res.Effect != flowfabric.EffectResumed {
		t.Errorf("the last signal: %+v", res)
	}
	resumed := w.claim()
	if resumed.Fence.AttemptID != task.Fence.AttemptID || resumed.Fence.LeaseEpoch != task.Fence.LeaseEpoch+1 {
		t.Errorf("resumed with %+v, suspended with %+v", resumed.Fence, task.Fence)
	}
	seen := must(w.ObserveSignals(t.Context(), flowfabric.ObserveSignalsArgs{ExecutionID: task.ExecutionID, AttemptID: task.Fence.AttemptID}))(t)
	if len(seen) != 2 || string(seen[0].Payload) != "go" || string(seen[1].Payload) != "any" {
		t.Errorf("resume signals %+v", seen)
	}
	checkMemory(t, w.Backend)
}

// TestPurgeTakesTheWaiting: nothing that an execution waited on outlives it.
func TestPurgeTakesTheWaiting(t *testing.T) {
	path := filepath.Join(t.TempDir(), "flow.db")
	w := openWaiting(t, path)
	task := w.claimed()
	p := w.pending(task, "unused")
	early := signalTo(task.ExecutionID, flowfabric.BoundWaitpoint{WaitpointID: p.WaitpointID, Token: p.Token}, "x")
	early.Signal.IdempotencyKey = "k"
	w.deliver(early)
	a := waitFor(task, flowfabric.Single("k", flowfabric.AnySignal()), "k")
	a.IdempotencyKey = "once"
	res := w.suspend(a)
	w.deliver(signalTo(task.ExecutionID, res.Waitpoints[0], "go"))
	if err := must(flowfabric.CompleteExecution(t.Context(), w, flowfabric.CompleteExecutionArgs{ExecutionID: task.ExecutionID, Fence: w.claim().Fence}))(t); err.PublicState != flowfabric.PublicCompleted {
		t.Fatalf("completed: %+v", err)
	}
	w.clk.Advance(400 * 24 * time.Hour)
	for w.tick(0).More {
	}
	if _, err := w.GetExecutionState(t.Context(), task.ExecutionID); !errors.Is(err, flowfabric.ErrExecutionNotFound) {
		t.Fatalf("not purged: %v", err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	c := must(zs.OpenConn(path, zs.OpenReadWrite))(t)
	defer c.Close()
	for _, table := range []string{"suspensions", "satisfiers", "waitpoints", "signals", "signal_payloads", "signal_dedup", "suspend_replays"} {
		if n := must(sqlitex.ResultInt(c.Prep("select count(*) from " + table)))(t); n != 0 {
			t.Errorf("%d rows left in %s", n, table)
		}
	}
}

// TestTimeoutsAndExpiriesAreDuties: a tick applies the timeout of a suspension
// and ends the life of pending waitpoints. (Scenarios 29 and 35.)
func TestTimeoutsAndExpiriesAreDuties(t *testing.T) {
	w := openWaiting(t, "")
	task := w.claimed()
	p := w.pending(task, "never")
	early := signalTo(task.ExecutionID, flowfabric.BoundWaitpoint{WaitpointID: p.WaitpointID, Token: p.Token}, "x")
	w.deliver(early)
	a := waitFor(task, flowfabric.Single("k", flowfabric.AnySignal()), "k")
	ms := int64(120_000)
	a.TimeoutMs = &ms
	w.suspend(a)
	if due := w.tick(time.Second).NextDue; due != p.ExpiresAt {
		t.Errorf("next due %d, want the waitpoint's end %d", due, p.ExpiresAt)
	}
	if res := w.tick(time.Minute); res.Duties["waitpoint_expiry"] != 1 {
		t.Errorf("duties %v", res.Duties)
	}
	g := must(w.ListSignals(t.Context(), flowfabric.ListSignalsArgs{ExecutionID: task.ExecutionID}))(t).Signals[0]
	if g.Effect != flowfabric.EffectNeverActivated {
		t.Errorf("the buffered signal: %s", g.Effect)
	}
	early.Signal.SignalID = flowfabric.NewSignalID()
	if _, err := w.DeliverSignal(t.Context(), early); flowfabric.CodeOf(err) != flowfabric.CodeWaitpointClosed {
		t.Errorf("a signal after the end: %v", err)
	}
	checkMemory(t, w.Backend)
	if res := w.tick(time.Minute); res.Duties["suspension_timeout"] != 1 || w.state(task.ExecutionID) != flowfabric.PublicFailed {
		t.Errorf("duties %v, state %s", res.Duties, w.state(task.ExecutionID))
	}
	checkMemory(t, w.Backend)
}

// TestTimeoutSignalsMayShareAnID: the identifier of a timeout's signal follows
// from the suspension's, which a caller may use twice. The second timeout is
// applied all the same, and the worker sees its signal.
func TestTimeoutSignalsMayShareAnID(t *testing.T) {
	w := openWaiting(t, "")
	task := w.claimed()
	id := flowfabric.NewSuspensionID()
	ms := int64(1_000)
	for round := range 2 {
		a := waitFor(task, flowfabric.TimeoutOnly(), "k")
		a.SuspensionID, a.TimeoutMs, a.TimeoutBehavior = id, &ms, flowfabric.TimeoutAutoResume
		w.suspend(a)
		if res := w.tick(2 * time.Second); res.Duties["suspension_timeout"] != 1 || res.Errors != 0 {
			t.Fatalf("round %d: %+v", round, res)
		}
		task = w.claim()
		seen := must(w.ObserveSignals(t.Context(), flowfabric.ObserveSignalsArgs{ExecutionID: task.ExecutionID, AttemptID: task.Fence.AttemptID}))(t)
		if len(seen) != 1 || seen[0].AcceptedAt != w.clk.NowMillis() {
			t.Errorf("round %d: observed %+v at %d", round, seen, w.clk.NowMillis())
		}
	}
	checkMemory(t, w.Backend)
}

// TestSuspendedInOrder: pages of suspended executions follow partition, timeout
// and id, whatever the page's size, and keep to the namespaces asked for.
func TestSuspendedInOrder(t *testing.T) {
	w := openWaiting(t, "")
	type entry struct {
		part uint16
		at   flowfabric.Millis
		id   flowfabric.ExecutionID
	}
	var want []entry
	for i := range 60 {
		task := w.claimed()
		a := waitFor(task, flowfabric.Single("k", flowfabric.AnySignal()), "k")
		e := entry{task.ExecutionID.Partition(), flowfabric.MaxInstant + 1, task.ExecutionID}
		if i%3 > 0 {
			e.at = w.clk.NowMillis() + flowfabric.Millis(i%7*1000)
			a.TimeoutAt = e.at
		}
		w.suspend(a)
		want = append(want, e)
	}
	slices.SortFunc(want, func(a, b entry) int {
		if a.part != b.part {
			return int(a.part) - int(b.part)
		}
		if a.at != b.at {
			return int(a.at - b.at)
		}
		return strings.Compare(string(a.id), string(b.id))
	})
	for _, limit := range []int{1, 7, 100} {
		var got []flowfabric.ExecutionID
		for a := (flowfabric.ListSuspendedArgs{Limit: limit, Namespace: bucketSpace}); ; {
			page := must(w.ListSuspended(t.Context(), a))(t)
			for _, x := range page.Executions {
				got = append(got, x.ExecutionID)
			}
			if a.Cursor = page.NextCursor; a.Cursor == "" {
				break
			}
		}
		if len(got) != len(want) {
			t.Fatalf("limit %d: %d entries of %d", limit, len(got), len(want))
		}
		for i := range want {
			if got[i] != want[i].id {
				t.Fatalf("limit %d: %s at %d, want %s", limit, got[i], i, want[i].id)
			}
		}
	}
	part := want[0].part
	in := must(w.ListSuspended(t.Context(), flowfabric.ListSuspendedArgs{Partition: &part, Limit: 1}))(t)
	if len(in.Executions) != 1 || in.Executions[0].ExecutionID != want[0].id {
		t.Errorf("partition %d: %+v", part, in.Executions)
	}
	none := must(w.ListSuspended(t.Context(), flowfabric.ListSuspendedArgs{Namespaces: []flowfabric.Namespace{"another"}}))(t)
	if len(none.Executions) != 0 || none.NextCursor != "" {
		t.Errorf("another namespace sees %+v", none)
	}
	for _, cursor := range []string{"x", "c3UxIDEgMg", in.NextCursor + "A", strings.Repeat("A", 500)} {
		if _, err := w.ListSuspended(t.Context(), flowfabric.ListSuspendedArgs{Cursor: cursor}); flowfabric.CodeOf(err) != flowfabric.CodeInvalidCursor {
			t.Errorf("cursor %q: %v", cursor, err)
		}
	}
}

// TestRotationOfTheRing: a rotation is kept over a restart, and a configured
// secret does not displace what an operator has rotated to. (Scenarios 25, 27
// and 43.)
func TestRotationOfTheRing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "flow.db")
	w := openWaiting(t, path)
	task := w.claimed()
	p := w.pending(task, "k")
	a := flowfabric.RotateWaitpointSecretArgs{NewKID: "k2", NewSecretHex: strings.Repeat("cd", 32)}
	for i, want := range []flowfabric.RotateOutcome{flowfabric.RotateRotated, flowfabric.RotateNoop} {
		if res := must(w.RotateWaitpointSecret(t.Context(), a))(t); res.Copies[0].Outcome != want {
			t.Errorf("rotation %d: %+v", i, res.Copies)
		}
	}
	if res, err := w.RotateWaitpointSecret(t.Context(), flowfabric.RotateWaitpointSecretArgs{NewKID: "k2", NewSecretHex: strings.Repeat("ef", 32)}); flowfabric.CodeOf(err) != flowfabric.CodeRotationConflict || len(res.Copies) != 1 {
		t.Errorf("another secret of the same key: %+v, %v", res, err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	w.Backend = openStore(t, path, w.clk)
	kids := must(w.ListWaitpointKIDs(t.Context()))(t)
	if kids.CurrentKID != "k2" || len(kids.Verifying) != 1 || kids.Verifying[0].KID != "k1" {
		t.Errorf("ring after the restart: %+v", kids)
	}
	seeded := must(w.SeedWaitpointSecret(t.Context(), "k1", strings.Repeat("ab", 32)))(t)
	if seeded.Copies[flowfabric.SeedKept] != 1 || seeded.CurrentKID != "k2" {
		t.Errorf("seeded: %+v", seeded)
	}
	if res := w.deliver(signalTo(task.ExecutionID, flowfabric.BoundWaitpoint{WaitpointID: p.WaitpointID, Token: p.Token}, "x")); res.Effect != flowfabric.EffectBuffered {
		t.Errorf("a token of the former key: %+v", res)
	}
	if next := w.pending(task, "other"); next.Token.KID() != "k2" {
		t.Errorf("a new token of %s", next.Token.KID())
	}
	checkMemory(t, w.Backend)
}

// TestOpenRefusesABadSecret: the secret is named by its field, never shown.
func TestOpenRefusesABadSecret(t *testing.T) {
	secret := "not hexadecimal"
	_, err := sqlite.Open(t.Context(), sqlite.Config{NoEngine: true, WaitpointSecretHex: secret})
	if flowfabric.CodeOf(err) != flowfabric.CodeInvalidSecretHex || strings.Contains(fmt.Sprint(err), secret) {
		t.Errorf("opened with a bad secret: %v", err)
	}
}

// TestWaitpointPagesStayFull: closed waitpoints do not shorten a page. (Scenario
// 48.)
func TestWaitpointPagesStayFull(t *testing.T) {
	w := openWaiting(t, "")
	task := w.claimed()
	var ids []flowfabric.WaitpointID
	for i := range 6 {
		ids = append(ids, w.pending(task, fmt.Sprint("k", i)).WaitpointID)
	}
	slices.Sort(ids)
	for _, id := range ids[:3] {
		if out := must(w.CloseWaitpoint(t.Context(), flowfabric.CloseWaitpointArgs{ExecutionID: task.ExecutionID, Fence: task.Fence, WaitpointID: id}))(t); out != flowfabric.WaitpointNowClosed {
			t.Errorf("closed: %s", out)
		}
	}
	page := must(w.ListPendingWaitpoints(t.Context(), flowfabric.ListPendingWaitpointsArgs{ExecutionID: task.ExecutionID, Limit: 2}))(t)
	if len(page.Waitpoints) != 2 || page.Waitpoints[0].WaitpointID != ids[3] || page.NextCursor != ids[4] {
		t.Errorf("first page %+v", page)
	}
	page = must(w.ListPendingWaitpoints(t.Context(), flowfabric.ListPendingWaitpointsArgs{ExecutionID: task.ExecutionID, Limit: 2, After: page.NextCursor}))(t)
	if len(page.Waitpoints) != 1 || page.Waitpoints[0].WaitpointID != ids[5] || page.NextCursor != "" {
		t.Errorf("second page %+v", page)
	}
	for i, id := range ids {
		if token := must(w.ReadWaitpointToken(t.Context(), task.ExecutionID, id))(t); token.IsZero() != (i < 3) {
			t.Errorf("token of waitpoint %d: %s", i, token)
		}
	}
}

// oneInt answers a query about the file of a store that is open.
func oneInt(t *testing.T, path, sql string) (n int64) {
	t.Helper()
	c := must(zs.OpenConn(path, zs.OpenReadOnly))(t)
	defer func() { _ = c.Close() }()
	err := sqlitex.ExecuteTransient(c, sql, &sqlitex.ExecOptions{ResultFunc: func(s *zs.Stmt) error { n = s.ColumnInt64(0); return nil }})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestManySatisfiers: the record that is written at each signal does not grow with
// the satisfiers before, and nothing of them is lost, over a restart and until the
// next suspension takes their place. (Specification 03, sections 3.3 and 7.)
func TestManySatisfiers(t *testing.T) {
	const n = 300
	path := filepath.Join(t.TempDir(), "flow.db")
	w := openWaiting(t, path)
	task := w.claimed()
	c := flowfabric.AllOf(flowfabric.Count(n, flowfabric.DistinctSignals, nil, "k"), flowfabric.Single("k", flowfabric.ByName("go")))
	at := w.suspend(waitFor(task, c, "k")).Waitpoints[0]
	var sent []flowfabric.SignalID
	for i := range n {
		if i == n/2 {
			checkMemory(t, w.Backend)
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			w.Backend = openStore(t, path, w.clk)
		}
		res := w.deliver(signalTo(task.ExecutionID, at, "x"))
		if res.Effect != flowfabric.EffectAppended {
			t.Fatalf("signal %d: %+v", i, res)
		}
		sent = append(sent, res.SignalID)
	}
	checkMemory(t, w.Backend)
	if size := oneInt(t, path, "select max(length(rec)) from suspensions"); size > 10_000 {
		t.Errorf("the record is %d bytes", size)
	}
	x := must(w.GetSuspension(t.Context(), task.ExecutionID))(t)
	if !slices.Equal(x.SatisfierSignalIDs, sent) || x.Progress[1].SatisfierCount != n || !x.Progress[1].Satisfied || x.Progress[2].Satisfied {
		t.Errorf("%d satisfiers, progress %+v", len(x.SatisfierSignalIDs), x.Progress)
	}
	if res := w.deliver(signalTo(task.ExecutionID, at, "go")); res.Effect != flowfabric.EffectResumed {
		t.Fatalf("the last signal: %+v", res)
	}
	seen := must(w.ObserveSignals(t.Context(), flowfabric.ObserveSignalsArgs{ExecutionID: task.ExecutionID, AttemptID: task.Fence.AttemptID}))(t)
	if len(seen) != n+1 || seen[0].SignalID != sent[0] || seen[n-1].SignalID != sent[n-1] {
		t.Errorf("%d resume signals", len(seen))
	}
	unconsumed := must(w.ListSignals(t.Context(), flowfabric.ListSignalsArgs{ExecutionID: task.ExecutionID, UnconsumedOnly: true}))(t)
	if len(unconsumed.Signals) != 0 {
		t.Errorf("%d signals not consumed", len(unconsumed.Signals))
	}
	at = w.suspend(waitFor(w.claim(), c, "k")).Waitpoints[0]
	w.deliver(signalTo(task.ExecutionID, at, "x"))
	checkMemory(t, w.Backend)
	x = must(w.GetSuspension(t.Context(), task.ExecutionID))(t)
	if len(x.SatisfierSignalIDs) != 1 || x.Progress[1].SatisfierCount != 1 || oneInt(t, path, "select count(*) from satisfiers") != 0 {
		t.Errorf("the next suspension: %+v", x)
	}
}
