package rules_test

import (
	"testing"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/rules"
)

// Timeouts, deadlines, replay and retention, by the scenarios of specification
// 01, section 12.

func TestSpec01_S30_AttemptTimeout(t *testing.T) {
	for _, tc := range []struct{ policy, vector string }{
		{`{"timeout_policy":{"attempt_timeout_ms":40000}}`, vExpired},
		{`{"timeout_policy":{"attempt_timeout_ms":40000},"retry_policy":{}}`, vBackoff},
	} {
		w := newWorld(t, withPolicy(tc.policy))
		task := w.claim()
		for range 4 {
			w.now += 10_000
			_, fx, err := rules.Renew(w.s, flowfabric.RenewLeaseArgs{Fence: task.Fence, LeaseTTLMs: ttl}, w.now)
			if err != nil {
				t.Fatal(err)
			}
			w.did(fx)
		}
		if ran := w.tick(); len(ran) != 1 || ran[0] != rules.DutyAttemptTimeout {
			t.Fatalf("ran %v", ran)
		}
		w.wantVector(tc.vector)
		a := w.s.Attempt
		if a.AttemptState != flowfabric.AttemptEndedFailure || a.FailureReason != "attempt_timeout" || a.FailureCategory != "timeout" ||
			!a.TerminalizedByOverride || w.fx.StreamClosed != "expired" || w.s.Exec.FailureReason != "attempt_timeout" {
			t.Errorf("attempt %+v", a)
		}
		if w.logs[1].Kind != flowfabric.EventReleased || w.logs[1].Reason != "attempt_timeout" {
			t.Errorf("events %+v", w.logs)
		}
		_, _, err := rules.Renew(w.s, flowfabric.RenewLeaseArgs{Fence: task.Fence}, w.now)
		wantCode(t, err, flowfabric.CodeExecutionNotActive)
	}
}

func TestAttemptTimeoutAlsoEndsLapsedAttempts(t *testing.T) {
	w := newWorld(t, withPolicy(`{"timeout_policy":{"attempt_timeout_ms":40000},"retry_policy":{"backoff":{"type":"fixed","delay_ms":0}}}`))
	w.claim()
	w.now += 30_000
	w.tick()
	w.wantVector(vLapsed)
	w.grant(60_000)
	w.now += 10_000
	if ran := w.tick(); len(ran) != 1 || ran[0] != rules.DutyAttemptTimeout {
		t.Fatalf("ran %v", ran)
	}
	w.wantVector("runnable/unowned/eligible_now/waiting_for_worker/none/pending_retry_attempt=waiting")
	if !rules.Place(w.s, w.now).Offered {
		t.Error("the grant of the former state still hides the execution")
	}
}

func TestSpec01_S31_ExecutionDeadline(t *testing.T) {
	w := newWorld(t, func(a *flowfabric.CreateExecutionArgs) { a.ExecutionDeadlineAt = start + 100 })
	if p := rules.Place(w.s, w.now); p.DueAt != start+100 {
		t.Errorf("placement %+v", p)
	}
	w.now += 100
	w.tick()
	w.wantVector("terminal/unowned/not_applicable/none/expired/pending_first_attempt=expired")
	if w.s.Exec.FailureReason != "execution_deadline" || w.s.Exec.FailureCategory != "deadline" || w.s.Attempt != nil {
		t.Errorf("record %+v", w.s.Exec)
	}
	outcome, fx := rules.Expire(w.s, flowfabric.ExpireExecutionDeadline, w.now, nil)
	if outcome != flowfabric.UpkeepCleaned || fx.Changed {
		t.Errorf("outcome %s", outcome)
	}
	suspended := newWorld(t, withPolicy(`{"timeout_policy":{"execution_deadline_ms":500}}`))
	suspended.claim()
	suspend(suspended)
	suspended.now += 500
	suspended.tick()
	suspended.wantVector(vExpired)
	if x := suspended.s.Wait.Suspension; x.CloseReason != flowfabric.ClosedDeadlineExpired || suspended.s.Attempt.FailureReason != "execution_deadline" {
		t.Errorf("effects %+v", suspended.fx)
	}
}

func TestSpec01_S32_Replay(t *testing.T) {
	w := newWorld(t, withPolicy(retry3))
	f := w.claim().Fence
	w.fail(f, "permanent")
	w.wantVector(vFailed)
	for n := uint32(1); n <= flowfabric.DefaultMaxReplays; n++ {
		w.now += 1000
		r, fx, err := rules.Replay(w.s, flowfabric.ReplayExecutionArgs{}, w.now)
		if err != nil {
			t.Fatal(err)
		}
		w.did(fx)
		w.wantVector(vReplayed)
		e := &w.s.Exec
		if r.ReplayCount != n || e.ReplayCount != n || e.RetryCount != 0 || e.FailureReason != "" || fx.Result != rules.ResultRemoved ||
			e.CompletedAt != 0 || e.PurgeAfter != 0 || e.CurrentAttemptID != "" || !fx.Offered || len(fx.Events) != 0 {
			t.Errorf("record %+v", e)
		}
		task := w.claim()
		a := w.s.Attempt
		if a.AttemptType != flowfabric.AttemptTypeReplay || a.ReplayReason != "manual" || a.ReplayRequestedBy != "operator" ||
			*a.ReplayedFromAttemptIndex != n-1 || task.Fence.LeaseEpoch != uint64(n)+1 || e.TerminalSeq != uint64(n) {
			t.Errorf("attempt %+v", a)
		}
		_, _, err = rules.Replay(w.s, flowfabric.ReplayExecutionArgs{}, w.now)
		wantCode(t, err, flowfabric.CodeExecutionNotTerminal)
		if err := w.complete(task.Fence); err != nil {
			t.Fatal(err)
		}
		if last := w.logs[len(w.logs)-1]; *last.ReplayCount != n {
			t.Errorf("completion %+v", last)
		}
	}
	_, _, err := rules.Replay(w.s, flowfabric.ReplayExecutionArgs{}, w.now)
	wantCode(t, err, flowfabric.CodeMaxReplaysExhausted)
}

func TestReplayWithExpectedCount(t *testing.T) {
	w := newWorld(t)
	w.fail(w.claim().Fence, "")
	want := func(count uint32) (flowfabric.ReplayExecutionResult, error) {
		r, fx, err := rules.Replay(w.s, flowfabric.ReplayExecutionArgs{ExpectedReplayCount: &count}, w.now)
		w.did(fx)
		return r, err
	}
	_, err := want(1)
	wantCode(t, err, flowfabric.CodeInvalidInput)
	if r, err := want(0); err != nil || r.Replayed || r.ReplayCount != 1 {
		t.Errorf("result %+v, error %v", r, err)
	}
	if r, err := want(0); err != nil || !r.Replayed || r.ReplayCount != 1 || w.fx.Changed {
		t.Errorf("result %+v, error %v", r, err)
	}
	_, err = want(5)
	wantCode(t, err, flowfabric.CodeExecutionNotTerminal)
}

func TestReplayAndDeadlines(t *testing.T) {
	for _, tc := range []struct {
		name   string
		policy string
		at     flowfabric.Millis
		want   flowfabric.Millis
	}{
		{"duration starts anew", `{"timeout_policy":{"execution_deadline_ms":5000}}`, 0, start + 1000 + 5000},
		{"absolute one in the future is kept", "", start + 9000, start + 9000},
		{"absolute one past is dropped", "", start + 500, 0},
		{"absolute one wins over a duration, and is kept", `{"timeout_policy":{"execution_deadline_ms":5000}}`, start + 9000, start + 9000},
		{"absolute one wins over a duration, and is dropped", `{"timeout_policy":{"execution_deadline_ms":5000}}`, start + 500, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t, withPolicy(tc.policy), func(a *flowfabric.CreateExecutionArgs) { a.ExecutionDeadlineAt = tc.at })
			w.fail(w.claim().Fence, "")
			w.now += 1000
			_, fx, err := rules.Replay(w.s, flowfabric.ReplayExecutionArgs{}, w.now)
			if err != nil {
				t.Fatal(err)
			}
			w.did(fx)
			if got := w.s.Exec.ExecutionDeadlineAt; got != tc.want {
				t.Errorf("deadline %d, want %d", got, tc.want)
			}
		})
	}
}

func TestReplayOfNeverRun(t *testing.T) {
	w := newWorld(t)
	if _, err := w.cancel(flowfabric.SourceOperatorOverride, flowfabric.Fence{}); err != nil {
		t.Fatal(err)
	}
	_, fx, err := rules.Replay(w.s, flowfabric.ReplayExecutionArgs{Reason: "again", RequestedBy: "ann"}, w.now)
	if err != nil {
		t.Fatal(err)
	}
	w.did(fx)
	w.wantVector(vReplayed)
	if _, err := w.cancel(flowfabric.SourceOperatorOverride, flowfabric.Fence{}); err != nil {
		t.Fatal(err)
	}
	w.wantVector("terminal/unowned/not_applicable/none/cancelled/pending_replay_attempt=cancelled")
	if _, fx, err = rules.Replay(w.s, flowfabric.ReplayExecutionArgs{Reason: "again", RequestedBy: "ann"}, w.now); err != nil {
		t.Fatal(err)
	}
	w.did(fx)
	w.claim()
	a := w.s.Attempt
	if a.AttemptIndex != 0 || a.AttemptType != flowfabric.AttemptTypeReplay || a.ReplayedFromAttemptIndex != nil || a.ReplayReason != "again" || a.ReplayRequestedBy != "ann" {
		t.Errorf("attempt %+v", a)
	}
}

func TestSpec01_S34_Retention(t *testing.T) {
	w := newWorld(t, withPolicy(`{"retention_ms":5000}`))
	if err := w.complete(w.claim().Fence); err != nil {
		t.Fatal(err)
	}
	if w.s.Exec.PurgeAfter != w.now+5000 || rules.Purgeable(w.s, w.now) || rules.NextDuty(w.s, w.now) != rules.DutyNone {
		t.Errorf("purge after %d", w.s.Exec.PurgeAfter)
	}
	if now := w.now + 5000; !rules.Purgeable(w.s, now) || rules.NextDuty(w.s, now) != rules.DutyRetention {
		t.Error("not purgeable")
	}
}
