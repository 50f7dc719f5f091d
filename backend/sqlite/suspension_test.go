package sqlite

import (
	"bytes"
	"errors"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/backend/backendtest"
	"github.com/flowfabric/flowfabric/backend/internal/sqlstore"
)

// held creates an execution and claims it.
func held(t *testing.T, b *Backend) flowfabric.ClaimedExecution {
	t.Helper()
	created(t, b)
	return claimed(t, b)
}

func claimed(t *testing.T, b *Backend) flowfabric.ClaimedExecution {
	t.Helper()
	res, err := b.ClaimTasks(t.Context(), flowfabric.ClaimTasksArgs{WorkerID: "w", WorkerInstanceID: "w-1", Lanes: []flowfabric.LaneID{"work"},
		Namespace: "test", MaxTasks: 1, LeaseTTLMs: 30_000})
	if err != nil || len(res.Tasks) != 1 {
		t.Fatalf("claimed %d, %v", len(res.Tasks), err)
	}
	return res.Tasks[0]
}

func suspended(t *testing.T, b *Backend, task flowfabric.ClaimedExecution) flowfabric.SuspendResult {
	t.Helper()
	res, err := b.Suspend(t.Context(), flowfabric.SuspendArgs{ExecutionID: task.ExecutionID, Fence: task.Fence,
		Waitpoints: []flowfabric.WaitpointBinding{{WaitpointKey: "k"}}, ReasonCode: flowfabric.SuspendWaitingForSignal,
		ResumeCondition: flowfabric.AllOfNames("k", "a", "b")})
	if err != nil {
		t.Fatal(err)
	}
	return res
}

func delivered(t *testing.T, b *Backend, id flowfabric.ExecutionID, w flowfabric.BoundWaitpoint, name string) (flowfabric.DeliverSignalResult, error) {
	t.Helper()
	return b.DeliverSignal(t.Context(), flowfabric.DeliverSignalArgs{ExecutionID: id, WaitpointID: w.WaitpointID, Token: w.Token,
		Signal: flowfabric.Signal{Name: name, SourceIdentity: "tester", Payload: []byte("p")}})
}

// statements counts the statements of a write by their table.
type statements struct {
	sqlstore.Conn
	mu   sync.Mutex
	seen map[string]int
}

var waitTables = []string{"suspensions", "satisfiers", "waitpoints", "signals", "signal_payloads", "signal_dedup", "suspend_replays", "secrets"}

func (s *statements) Stmt(q *sqlstore.Query) sqlstore.Stmt {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen["all"]++
	for _, table := range waitTables {
		if strings.Contains(q.SQL, " "+table+" ") {
			s.seen[table]++
		}
	}
	return s.Conn.Stmt(q)
}

// watch counts the statements of the writer from now on.
func watch(b *Backend) *statements {
	s := &statements{seen: make(map[string]int)}
	b.writer.connMu.Lock()
	defer b.writer.connMu.Unlock()
	begin := b.writer.hooks.Begin
	b.writer.hooks.Begin = func(c sqlstore.Conn, now flowfabric.Millis) *sqlstore.Tx {
		s.Conn = c
		return begin(s, now)
	}
	return s
}

func (s *statements) take() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	seen := s.seen
	s.seen = make(map[string]int)
	return seen
}

// TestOthersDoNotPayForWaiting: an execution that waits on nothing touches none
// of the tables of waiting, whatever becomes of it; one that does, touches only
// what it changes.
func TestOthersDoNotPayForWaiting(t *testing.T) {
	b := quiet(t, "", backendtest.NewClock())
	ctx := t.Context()
	count := watch(b)
	task := held(t, b)
	renew, err := b.RenewLeases(ctx, []flowfabric.RenewLeaseArgs{{ExecutionID: task.ExecutionID, Fence: task.Fence}})
	if err != nil || renew[0].Err != nil {
		t.Fatal(err, renew[0].Err)
	}
	forget(t, b) // the completion reads the row anew
	if _, err := flowfabric.CompleteExecution(ctx, b, flowfabric.CompleteExecutionArgs{ExecutionID: task.ExecutionID, Fence: task.Fence}); err != nil {
		t.Fatal(err)
	}
	seen := count.take()
	for _, table := range waitTables {
		if seen[table] != 0 {
			t.Errorf("%d statements on %s", seen[table], table)
		}
	}
	if seen["all"] == 0 {
		t.Error("nothing was counted")
	}

	task = held(t, b)
	count.take()
	res := suspended(t, b, task)
	if seen := count.take(); seen["suspensions"] != 1 || seen["waitpoints"] != 2 || seen["signals"] != 0 {
		t.Errorf("a suspend: %v", seen)
	}
	if _, err := delivered(t, b, task.ExecutionID, res.Waitpoints[0], "a"); err != nil {
		t.Fatal(err)
	}
	if seen := count.take(); seen["suspensions"] != 1 || seen["waitpoints"] != 1 || seen["signals"] != 1 || seen["signal_payloads"] != 1 || seen["signal_dedup"] != 0 {
		t.Errorf("a delivery: %v", seen)
	}
}

// forget lets the writer remember nothing, as after a rollback.
func forget(t *testing.T, b *Backend) {
	t.Helper()
	b.writer.connMu.Lock()
	defer b.writer.connMu.Unlock()
	if err := b.writer.hooks.RolledBack(b.writer.conn); err != nil {
		t.Fatal(err)
	}
}

// TestAFailedAuthenticationLeavesItsMark: and only that, on the execution it was
// tried on. (Scenarios 23 and 24.)
func TestAFailedAuthenticationLeavesItsMark(t *testing.T) {
	clk := backendtest.NewClock()
	b := quiet(t, "", clk)
	task := held(t, b)
	res := suspended(t, b, task)
	clk.Advance(1_000_000_000)
	bad := res.Waitpoints[0]
	bad.Token = flowfabric.NewWaitpointToken("k1:" + strings.Repeat("0", 64))
	if _, err := delivered(t, b, task.ExecutionID, bad, "a"); flowfabric.CodeOf(err) != flowfabric.CodeInvalidToken {
		t.Errorf("a wrong token: %v", err)
	}
	forget(t, b)
	x, err := b.GetExecution(t.Context(), task.ExecutionID)
	if err != nil || x.LastHMACValidationFailedAt != clk.NowMillis() || x.PublicState != flowfabric.PublicSuspended {
		t.Errorf("the execution: %+v, %v", x, err)
	}
	other := "{fp:1}:00000000-0000-4000-8000-000000000000"
	before := rows(t, b, "executions")
	if _, err := delivered(t, b, flowfabric.ExecutionID(other), bad, "a"); flowfabric.CodeOf(err) != flowfabric.CodeInvalidToken {
		t.Errorf("an unknown execution: %v", err)
	}
	if rows(t, b, "executions") != before || rows(t, b, "signals") != 0 {
		t.Error("something was written")
	}
}

// TestReconcileOfWaiting: a suspension in the wrong place is put right, one that
// is open beside an execution not suspended is closed, and a suspended execution
// without suspension is told of. (Invariant S3.)
func TestReconcileOfWaiting(t *testing.T) {
	b := quiet(t, "", backendtest.NewClock())
	reconcile := func(id flowfabric.ExecutionID) flowfabric.ReconcileResult {
		t.Helper()
		res, err := b.Reconcile(t.Context(), flowfabric.ReconcileArgs{Partition: id.Partition(), Limit: 1000})
		if err != nil {
			t.Fatal(err)
		}
		return res
	}
	listed := func() int {
		t.Helper()
		res, err := b.ListSuspended(t.Context(), flowfabric.ListSuspendedArgs{})
		if err != nil {
			t.Fatal(err)
		}
		return len(res.Executions)
	}
	task := held(t, b)
	suspended(t, b, task)
	if res := reconcile(task.ExecutionID); res.Repaired != 0 || len(res.Violations) != 0 {
		t.Errorf("nothing is wrong: %+v", res)
	}
	meddle(t, b, `update suspensions set open_at = null`)
	if n := listed(); n != 0 {
		t.Fatalf("%d listed", n)
	}
	if res := reconcile(task.ExecutionID); res.Repaired != 1 || listed() != 1 {
		t.Errorf("out of its index: %+v, %d listed", res, listed())
	}
	saved := column(t, b, `select rec from suspensions`)
	if _, err := b.ResumeExecution(t.Context(), flowfabric.ResumeExecutionArgs{ExecutionID: task.ExecutionID}); err != nil {
		t.Fatal(err)
	}
	meddle(t, b, `update suspensions set open_at = 5, rec = ?`, saved)
	if res := reconcile(task.ExecutionID); res.Repaired != 1 || len(res.Violations) != 0 || listed() != 0 {
		t.Errorf("a stray suspension: %+v, %d listed", res, listed())
	}
	if x, err := b.GetSuspension(t.Context(), task.ExecutionID); err != nil || x.ClosedAt == 0 {
		t.Errorf("the stray suspension is still open: %+v, %v", x, err)
	}
	if res := reconcile(task.ExecutionID); res.Repaired != 0 {
		t.Errorf("repaired twice: %+v", res)
	}
	suspended(t, b, claimed(t, b))
	meddle(t, b, `delete from suspensions`)
	if res := reconcile(task.ExecutionID); len(res.Violations) != 1 || !strings.Contains(res.Violations[0], "S3") {
		t.Errorf("no suspension at all: %+v", res)
	}
}

func column(t *testing.T, b *Backend, sql string) []byte {
	t.Helper()
	b.writer.connMu.Lock()
	defer b.writer.connMu.Unlock()
	stmt, _, err := b.writer.conn.c.PrepareTransient(sql)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = stmt.Finalize() }()
	if row, err := stmt.Step(); err != nil || !row {
		t.Fatalf("%s: %t, %v", sql, row, err)
	}
	out := make([]byte, stmt.ColumnLen(0))
	stmt.ColumnBytes(0, out)
	return out
}

// TestSpoiltWaiting: records that do not decode are corrupt_record for those who
// ask for them, and hurt nobody else.
func TestSpoiltWaiting(t *testing.T) {
	b := quiet(t, "", backendtest.NewClock())
	ctx := t.Context()
	task := held(t, b)
	id := task.ExecutionID
	res := suspended(t, b, task)
	if _, err := delivered(t, b, id, res.Waitpoints[0], "a"); err != nil {
		t.Fatal(err)
	}
	other := held(t, b)
	for table, ask := range map[string][]func() error{
		"suspensions": {
			func() error { _, err := b.GetSuspension(ctx, id); return err },
			func() error { _, err := b.ListSuspended(ctx, flowfabric.ListSuspendedArgs{}); return err },
			func() error {
				_, err := b.ObserveSignals(ctx, flowfabric.ObserveSignalsArgs{ExecutionID: id, AttemptID: task.Fence.AttemptID})
				return err
			},
			func() error { _, err := delivered(t, b, id, res.Waitpoints[0], "b"); return err },
		},
		"waitpoints": {
			func() error {
				_, err := b.ListPendingWaitpoints(ctx, flowfabric.ListPendingWaitpointsArgs{ExecutionID: id})
				return err
			},
			func() error { _, err := b.ReadWaitpointToken(ctx, id, res.Waitpoints[0].WaitpointID); return err },
			func() error {
				_, err := b.ResumeExecution(ctx, flowfabric.ResumeExecutionArgs{ExecutionID: id})
				return err
			},
		},
		"signals": {
			func() error { _, err := b.ListSignals(ctx, flowfabric.ListSignalsArgs{ExecutionID: id}); return err },
		},
	} {
		good := column(t, b, `select rec from `+table)
		for _, bad := range [][]byte{{0xff}, good[:len(good)-1], {}, append(bytes.Clone(good), 0xfe, 1)} {
			meddle(t, b, `update `+table+` set rec = ?`, bad)
			for i, fn := range ask {
				if err := fn(); flowfabric.CodeOf(err) != flowfabric.CodeCorruptRecord {
					t.Errorf("%s as %x, question %d: %v", table, bad, i, err)
				}
			}
			if out, err := b.RenewLeases(ctx, []flowfabric.RenewLeaseArgs{{ExecutionID: other.ExecutionID, Fence: other.Fence}}); err != nil || out[0].Err != nil {
				t.Errorf("%s: another execution's renewal: %v, %v", table, err, out)
			}
		}
		meddle(t, b, `update `+table+` set rec = ?`, good)
	}
	if _, err := delivered(t, b, id, res.Waitpoints[0], "b"); err != nil {
		t.Errorf("with everything put back: %v", err)
	}
}

// TestASpoiltSecretIsRefused: no token is made of it and none accepted, and the
// lease is kept. (Scenario 42.)
func TestASpoiltSecretIsRefused(t *testing.T) {
	b := quiet(t, "", backendtest.NewClock())
	task := held(t, b)
	meddle(t, b, `update secrets set secret = 'xyz'`)
	_, err := b.Suspend(t.Context(), flowfabric.SuspendArgs{ExecutionID: task.ExecutionID, Fence: task.Fence,
		Waitpoints: []flowfabric.WaitpointBinding{{WaitpointKey: "k"}}, ReasonCode: flowfabric.SuspendWaitingForSignal,
		ResumeCondition: flowfabric.AllOfNames("k", "a")})
	if flowfabric.CodeOf(err) != flowfabric.CodeInvalidSecret {
		t.Errorf("suspended: %v", err)
	}
	if rows(t, b, "waitpoints") != 0 || rows(t, b, "suspensions") != 0 {
		t.Error("a refused suspend wrote something")
	}
	if out, err := b.RenewLeases(t.Context(), []flowfabric.RenewLeaseArgs{{ExecutionID: task.ExecutionID, Fence: task.Fence}}); err != nil || out[0].Err != nil {
		t.Errorf("the lease: %v, %v", err, out)
	}
}

// TestSpentKeysOfWaiting: keys of signals and suspends go once their time is
// over, and count no more from the instant on. (Scenario 44.)
func TestSpentKeysOfWaiting(t *testing.T) {
	clk := backendtest.NewClock()
	b := quiet(t, "", clk)
	task := held(t, b)
	ms := int64(1_000)
	res, err := b.Suspend(t.Context(), flowfabric.SuspendArgs{ExecutionID: task.ExecutionID, Fence: task.Fence, IdempotencyKey: "once",
		Waitpoints: []flowfabric.WaitpointBinding{{WaitpointKey: "k"}}, ReasonCode: flowfabric.SuspendWaitingForSignal,
		ResumeCondition: flowfabric.AllOfNames("k", "a", "b"), TimeoutMs: &ms})
	if err != nil {
		t.Fatal(err)
	}
	send := func() flowfabric.DeliverOutcome {
		t.Helper()
		w := res.Waitpoints[0]
		out, err := b.DeliverSignal(t.Context(), flowfabric.DeliverSignalArgs{ExecutionID: task.ExecutionID, WaitpointID: w.WaitpointID, Token: w.Token,
			Signal: flowfabric.Signal{Name: "c", SourceIdentity: "tester", IdempotencyKey: "k", DedupTTLMs: 1000}})
		if err != nil {
			t.Fatal(err)
		}
		return out.Outcome
	}
	for i, want := range []flowfabric.DeliverOutcome{flowfabric.DeliverAccepted, flowfabric.DeliverDuplicate, flowfabric.DeliverAccepted} {
		if got := send(); got != want {
			t.Errorf("delivery %d: %s", i, got)
		}
		clk.Advance(500_000_000)
	}
	if rows(t, b, "signal_dedup") != 1 || rows(t, b, "suspend_replays") != 1 {
		t.Fatal("the keys are not there")
	}
	clk.Advance(120_000_000_000)
	if _, err := b.TrimFeeds(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n, m := rows(t, b, "signal_dedup"), rows(t, b, "suspend_replays"); n != 0 || m != 0 {
		t.Errorf("%d and %d keys left", n, m)
	}
}

// TestFailedGroupOfWaits: when a group is undone and its operations run again,
// each one's answer and what is stored agree.
func TestFailedGroupOfWaits(t *testing.T) {
	b := quiet(t, "", backendtest.NewClock())
	ctx := t.Context()
	task := held(t, b)
	res := suspended(t, b, task)
	started, release := make(chan struct{}), make(chan struct{})
	var all sync.WaitGroup
	all.Go(func() {
		_ = b.Write(ctx, 1, func(*sqlstore.Tx) error {
			close(started)
			<-release
			return nil
		})
	})
	<-started
	effects := make([]flowfabric.SignalEffect, 6)
	for i := range effects {
		all.Go(func() {
			out, err := delivered(t, b, task.ExecutionID, res.Waitpoints[0], []string{"a", "c"}[i%2])
			if err != nil {
				t.Error(err)
			}
			effects[i] = out.Effect
		})
	}
	all.Go(func() { _ = b.Write(ctx, 1, func(*sqlstore.Tx) error { return errors.New("refused on purpose") }) })
	for waiting := 0; waiting < len(effects)+1; runtime.Gosched() {
		b.writer.mu.Lock()
		waiting = len(b.writer.queue)
		b.writer.mu.Unlock()
	}
	close(release)
	all.Wait()
	count := make(map[flowfabric.SignalEffect]int)
	for _, e := range effects {
		count[e]++
	}
	if count[flowfabric.EffectAppended] != 1 || count[flowfabric.EffectRepeated] != 2 || count[flowfabric.EffectMatcherFailed] != 3 {
		t.Errorf("effects %v", count)
	}
	x, err := b.GetSuspension(ctx, task.ExecutionID)
	if err != nil || x.SignalCount != 6 || x.MatchedSignalCount != 1 || rows(t, b, "signals") != 6 {
		t.Errorf("suspension %+v, %v, %d signals", x, err, rows(t, b, "signals"))
	}
}

// TestOneRotationAtATime: a rotation while another one runs is refused, and a
// later one is not.
func TestOneRotationAtATime(t *testing.T) {
	b := quiet(t, "", backendtest.NewClock())
	ctx := t.Context()
	started, release := make(chan struct{}), make(chan struct{})
	var all sync.WaitGroup
	all.Go(func() {
		_ = b.Write(ctx, 1, func(*sqlstore.Tx) error {
			close(started)
			<-release
			return nil
		})
	})
	<-started
	a := flowfabric.RotateWaitpointSecretArgs{NewKID: "k2", NewSecretHex: strings.Repeat("cd", 32)}
	all.Go(func() {
		if _, err := b.RotateWaitpointSecret(ctx, a); err != nil {
			t.Errorf("the first rotation: %v", err)
		}
	})
	for waiting := 0; waiting < 1; runtime.Gosched() { // the first one is queued behind the write that is held
		b.writer.mu.Lock()
		waiting = len(b.writer.queue)
		b.writer.mu.Unlock()
	}
	_, err := b.RotateWaitpointSecret(ctx, a)
	if refused := flowfabric.AsError(err); flowfabric.CodeOf(err) != flowfabric.CodeResourceExhausted || refused.Detail("pool") != flowfabric.PoolAdminRotate {
		t.Errorf("the second rotation: %v", err)
	}
	close(release)
	all.Wait()
	if res, err := b.RotateWaitpointSecret(ctx, a); err != nil || res.Copies[0].Outcome != flowfabric.RotateNoop {
		t.Errorf("a later rotation: %+v, %v", res, err)
	}
}
