package rules_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/rules"
)

// The tests of this file are named by the scenarios of specification 01,
// section 12.

func TestSpec01_S04_Names(t *testing.T) {
	for name, tc := range map[string]struct {
		change createOption
		field  string
		reason any
	}{
		"lane of 64 bytes":  {func(a *flowfabric.CreateExecutionArgs) { a.LaneID = flowfabric.LaneID(strings.Repeat("l", 64)) }, "", nil},
		"lane of 65 bytes":  {func(a *flowfabric.CreateExecutionArgs) { a.LaneID = flowfabric.LaneID(strings.Repeat("l", 65)) }, "lane_id", "too_long"},
		"empty lane":        {func(a *flowfabric.CreateExecutionArgs) { a.LaneID = "" }, "lane_id", "empty"},
		"newline in lane":   {func(a *flowfabric.CreateExecutionArgs) { a.LaneID = "bad\nlane" }, "lane_id", "non_printable"},
		"brace in lane":     {func(a *flowfabric.CreateExecutionArgs) { a.LaneID = "a{b" }, "lane_id", "brace"},
		"accent in lane":    {func(a *flowfabric.CreateExecutionArgs) { a.LaneID = "é" }, "lane_id", "non_printable"},
		"any namespace":     {func(a *flowfabric.CreateExecutionArgs) { a.Namespace = "*" }, "namespace", "wildcard"},
		"space in kind":     {func(a *flowfabric.CreateExecutionArgs) { a.Kind = "a b" }, "execution_kind", "non_printable"},
		"kind of 128 bytes": {func(a *flowfabric.CreateExecutionArgs) { a.Kind = strings.Repeat("k", 128) }, "", nil},
		"kind of 129 bytes": {func(a *flowfabric.CreateExecutionArgs) { a.Kind = strings.Repeat("k", 129) }, "execution_kind", "too_long"},
		"no creator":        {func(a *flowfabric.CreateExecutionArgs) { a.CreatorIdentity = "" }, "creator_identity", "empty"},
		"creator too long":  {func(a *flowfabric.CreateExecutionArgs) { a.CreatorIdentity = strings.Repeat("c", 257) }, "creator_identity", "too_long"},
		"control in key":    {func(a *flowfabric.CreateExecutionArgs) { a.IdempotencyKey = "a\tb" }, "idempotency_key", "non_printable"},
		"key not UTF-8":     {func(a *flowfabric.CreateExecutionArgs) { a.IdempotencyKey = "a\xff" }, "idempotency_key", "not_utf8"},
		"key too long":      {func(a *flowfabric.CreateExecutionArgs) { a.IdempotencyKey = strings.Repeat("k", 257) }, "idempotency_key", "too_long"},
		"encoding too long": {func(a *flowfabric.CreateExecutionArgs) { a.PayloadEncoding = strings.Repeat("e", 65) }, "payload_encoding", "too_long"},
		"negative delay":    {func(a *flowfabric.CreateExecutionArgs) { a.DelayUntil = -1 }, "delay_until", nil},
		"flow no UUID":      {func(a *flowfabric.CreateExecutionArgs) { a.FlowID = "flow" }, "flow_id", "invalid_uuid"},
		"partition too large": {func(a *flowfabric.CreateExecutionArgs) {
			a.ExecutionID = "{fp:256}:00000000-0000-0000-0000-000000000000"
		}, "execution_id", "partition_out_of_range"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := rules.PrepareCreate(createArgs(tc.change), parts, nil)
			if tc.field == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			wantCode(t, err, flowfabric.CodeInvalidInput)
			wantDetail(t, err, "field", tc.field)
			wantDetail(t, err, "reason", tc.reason)
		})
	}
}

func TestSpec01_S05_CreateWithoutDelay(t *testing.T) {
	w := newWorld(t)
	w.wantVector(vWaiting)
	if w.s.Exec.CreatedAt != start || w.s.Exec.LastMutationAt != start || !w.fx.Offered {
		t.Errorf("created %d, mutated %d, offered %v", w.s.Exec.CreatedAt, w.s.Exec.LastMutationAt, w.fx.Offered)
	}
	if p := rules.Place(w.s, w.now); !p.Offered || p.DueAt != 0 || p.PrioKey != int64(start) {
		t.Errorf("placement %+v", p)
	}
}

func TestSpec01_S06_CreateWithDelay(t *testing.T) {
	until := start + 300_000
	w := newWorld(t, func(a *flowfabric.CreateExecutionArgs) { a.DelayUntil = until })
	w.wantVector("runnable/unowned/not_eligible_until_time/waiting_for_delay/none/pending_first_attempt=delayed")
	if want := fmt.Sprintf("delayed until %d", until); w.s.Exec.BlockingDetail != want {
		t.Errorf("detail %q, want %q", w.s.Exec.BlockingDetail, want)
	}
	if p := rules.Place(w.s, w.now); p.Offered || p.DueAt != until || w.fx.Offered {
		t.Errorf("placement %+v", p)
	}
	past := newWorld(t, func(a *flowfabric.CreateExecutionArgs) { a.DelayUntil = start })
	past.wantVector(vWaiting)
	if past.s.Exec.DelayUntil != 0 {
		t.Errorf("delay_until %d stored", past.s.Exec.DelayUntil)
	}
}

func TestSpec01_S07_PriorityIsClamped(t *testing.T) {
	for given, want := range map[int32]int32{10000: 9000, -5: 0, 50: 50, 9000: 9000} {
		w := newWorld(t, func(a *flowfabric.CreateExecutionArgs) { a.Priority = &given })
		if w.s.Exec.Priority != want {
			t.Errorf("priority %d stored as %d, want %d", given, w.s.Exec.Priority, want)
		}
	}
	fromPolicy := newWorld(t, withPolicy(`{"priority": 99999999999999999999}`))
	if fromPolicy.s.Exec.Priority != 9000 {
		t.Errorf("priority of the policy stored as %d", fromPolicy.s.Exec.Priority)
	}
}

func TestSpec01_S08_SameSpec(t *testing.T) {
	first, err := rules.PrepareCreate(createArgs(withPolicy(`{"max_replay_count":3,"priority":1}`)), parts, nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		change createOption
		same   bool
	}{
		"equal, spelled differently": {withPolicy(` { "priority" : 1, "max_replay_count": 3, "retry_policy": null } `), true},
		"other policy":               {withPolicy(`{"max_replay_count":4,"priority":1}`), false},
		"other payload": {func(a *flowfabric.CreateExecutionArgs) {
			a.Policy, a.Payload = []byte(`{"max_replay_count":3,"priority":1}`), []byte("x")
		}, false},
		"other tags": {func(a *flowfabric.CreateExecutionArgs) {
			a.Policy, a.Tags = []byte(`{"max_replay_count":3,"priority":1}`), map[string]string{"a.b": "c"}
		}, true},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := rules.PrepareCreate(createArgs(tc.change), parts, nil)
			if err != nil {
				t.Fatal(err)
			}
			if got := rules.SameSpec(p, first.State.Exec.SpecDigest); got != tc.same {
				t.Errorf("same_spec %v, want %v", got, tc.same)
			}
		})
	}
	merged, err := rules.PrepareCreate(createArgs(withPolicy(`{"max_replay_count":3,"priority":1}`)), parts, []byte(`{"max_reclaim_count":1,"priority":7}`))
	if err != nil {
		t.Fatal(err)
	}
	if !rules.SameSpec(merged, first.State.Exec.SpecDigest) {
		t.Error("the lane's default policy changed the digest")
	}
	if rules.MaxReclaims(merged.State.Policy) != 1 || merged.State.Exec.Priority != 1 {
		t.Errorf("merged policy %s", merged.PolicyJSON)
	}
	large := bytes.Repeat([]byte("x"), 5000)
	a, _ := rules.PrepareCreate(createArgs(func(a *flowfabric.CreateExecutionArgs) { a.Payload = large }), parts, nil)
	b, _ := rules.PrepareCreate(createArgs(func(a *flowfabric.CreateExecutionArgs) { a.Payload = large[:4999] }), parts, nil)
	if a.State.Exec.SpecDigest == b.State.Exec.SpecDigest {
		t.Error("large payloads share a digest")
	}
}

func TestSpec01_S11_BrokenPolicyIsRefused(t *testing.T) {
	_, err := rules.PrepareCreate(createArgs(withPolicy(`{"retry_policy":{"max_retries":`)), parts, nil)
	wantCode(t, err, flowfabric.CodeInvalidPolicyJSON)
	wantDetail(t, err, "field", "retry_policy.max_retries")
}

func TestSpec01_S13_PayloadLimit(t *testing.T) {
	fits := func(a *flowfabric.CreateExecutionArgs) { a.Payload = make([]byte, flowfabric.MaxPayloadBytes) }
	if _, err := rules.PrepareCreate(createArgs(fits), parts, nil); err != nil {
		t.Error(err)
	}
	over := func(a *flowfabric.CreateExecutionArgs) { a.Payload = make([]byte, flowfabric.MaxPayloadBytes+1) }
	_, err := rules.PrepareCreate(createArgs(over), parts, nil)
	wantCode(t, err, flowfabric.CodePayloadTooLarge)
	wantDetail(t, err, "limit", flowfabric.MaxPayloadBytes)
	wantDetail(t, err, "actual", flowfabric.MaxPayloadBytes+1)
}

func TestSpec01_S14_CreateClaimComplete(t *testing.T) {
	w := newWorld(t)
	w.now += 10
	task := w.claim()
	w.wantVector(vActive)
	if w.s.Exec.StartedAt != w.now || task.AttemptIndex != 0 || task.Fence.LeaseEpoch != 1 || task.AttemptType != flowfabric.AttemptTypeInitial {
		t.Errorf("task %+v", task)
	}
	w.now += 10
	if err := w.complete(task.Fence); err != nil {
		t.Fatal(err)
	}
	w.wantVector(vCompleted)
	e, a := &w.s.Exec, w.s.Attempt
	if a.AttemptState != flowfabric.AttemptEndedSuccess || a.EndedAt != w.now || a.TerminalizedByOverride {
		t.Errorf("attempt %+v", a)
	}
	if e.CurrentLeaseID != "" || e.LeaseExpiresAt != 0 || e.CurrentLeaseEpoch != 1 || e.TerminalSeq != 1 || e.CompletedAt != w.now ||
		e.PurgeAfter != w.now+flowfabric.DefaultRetentionMs || e.CurrentAttemptID != task.AttemptID {
		t.Errorf("record %+v", e)
	}
	if w.fx.Result != rules.ResultSet || string(w.fx.ResultPayload) != "done" || w.fx.ResultEncoding != "json" || w.fx.StreamClosed != "attempt_success" {
		t.Errorf("effects %+v", w.fx)
	}
	if got := strings.Join(w.kinds(), " "); got != "acquired released completed" {
		t.Errorf("events %s", got)
	}
	done := w.logs[2]
	if done.Cause != "complete" || done.Outcome != flowfabric.OutcomeSuccess || *done.ResultSize != 4 || *done.AttemptIndex != 0 || *done.ReplayCount != 0 {
		t.Errorf("completion %+v", done)
	}
	released := w.logs[1]
	if released.Reason != "completed" || released.LeaseID != task.Fence.LeaseID || released.WorkerInstanceID != "w-1" || released.LeaseEpoch != 1 {
		t.Errorf("released %+v", released)
	}
	if p := rules.Place(w.s, w.now); p.Offered || p.DueAt != e.PurgeAfter || p.Holder != "" || p.LeaseExpiresAt != 0 {
		t.Errorf("placement %+v", p)
	}
}

func TestSpec01_S15_AbsentAndEmptyResult(t *testing.T) {
	w := newWorld(t)
	task := w.claim()
	_, fx, err := rules.Complete(w.s, flowfabric.CompleteExecutionArgs{Fence: task.Fence}, w.now)
	if err != nil || fx.Result != rules.ResultRemoved || fx.Events[1].ResultSize != nil {
		t.Errorf("effects %+v, error %v", fx, err)
	}
	w = newWorld(t)
	task = w.claim()
	_, fx, err = rules.Complete(w.s, flowfabric.CompleteExecutionArgs{Fence: task.Fence, Result: []byte{}}, w.now)
	if err != nil || fx.Result != rules.ResultSet || *fx.Events[1].ResultSize != 0 {
		t.Errorf("effects %+v, error %v", fx, err)
	}
}

func TestSpec01_S16_StaleFence(t *testing.T) {
	w := newWorld(t)
	task := w.claim()
	before := *w.s
	for name, f := range map[string]flowfabric.Fence{
		"lease":   {LeaseID: stranger, LeaseEpoch: 1, AttemptID: task.AttemptID},
		"epoch":   {LeaseID: task.Fence.LeaseID, LeaseEpoch: 2, AttemptID: task.AttemptID},
		"attempt": {LeaseID: task.Fence.LeaseID, LeaseEpoch: 1, AttemptID: stranger},
		"index":   {LeaseID: task.Fence.LeaseID, LeaseEpoch: 1, AttemptID: task.AttemptID, AttemptIndex: new(uint32(7))},
	} {
		t.Run(name, func(t *testing.T) {
			wantCode(t, w.complete(f), flowfabric.CodeStaleLease)
			if w.fx.Changed || w.s.Exec.LastMutationAt != before.Exec.LastMutationAt {
				t.Error("a refused call changed the state")
			}
		})
	}
	if err := w.complete(task.Fence); err != nil {
		t.Error(err)
	}
}

func TestSpec01_S17_CompleteAtExpiry(t *testing.T) {
	w := newWorld(t)
	task := w.claim()
	w.now = w.s.Exec.LeaseExpiresAt
	wantCode(t, w.complete(task.Fence), flowfabric.CodeLeaseExpired)
	w.wantVector(vLapsed)
	if !w.fx.Changed || !w.fx.Offered || w.fx.StreamClosed != "lease_expired" || w.s.Exec.BlockingDetail != "lease expired, awaiting reclaim" {
		t.Errorf("effects %+v, detail %q", w.fx, w.s.Exec.BlockingDetail)
	}
	wantCode(t, w.complete(task.Fence), flowfabric.CodeLeaseExpired)
	if w.fx.Changed || w.count(flowfabric.EventExpired) != 1 {
		t.Errorf("second try: effects %+v, events %v", w.fx, w.kinds())
	}
	if w.s.Attempt.AttemptState != flowfabric.AttemptStarted || w.s.Exec.CurrentLeaseID == "" {
		t.Error("the attempt record or the mirror was touched")
	}
}

func TestSpec01_S18_FenceShapeAndOverride(t *testing.T) {
	w := newWorld(t)
	task := w.claim()
	wantCode(t, w.complete(flowfabric.Fence{LeaseID: task.Fence.LeaseID}), flowfabric.CodePartialFenceTriple)
	wantCode(t, w.complete(flowfabric.Fence{}), flowfabric.CodeFenceRequired)
	wantCode(t, w.complete(flowfabric.Fence{LeaseID: "x", LeaseEpoch: 1, AttemptID: task.AttemptID}), flowfabric.CodeInvalidInput)
	_, fx, err := rules.Complete(w.s, flowfabric.CompleteExecutionArgs{Source: flowfabric.SourceOperatorOverride}, w.now)
	if err != nil {
		t.Fatal(err)
	}
	w.did(fx)
	w.wantVector(vCompleted)
	if !w.s.Attempt.TerminalizedByOverride {
		t.Error("attempt is not marked as overridden")
	}
	_, _, err = rules.Complete(w.s, flowfabric.CompleteExecutionArgs{Source: flowfabric.SourceOperatorOverride}, w.now)
	wantCode(t, err, flowfabric.CodeExecutionNotActive)
	wantDetail(t, err, "terminal_outcome", "success")
	wantDetail(t, err, "lifecycle_phase", "terminal")
	wantDetail(t, err, "lease_epoch", uint64(1))

	lapsed := newWorld(t)
	lapsed.claim()
	lapsed.now = lapsed.s.Exec.LeaseExpiresAt
	_, fx, err = rules.Complete(lapsed.s, flowfabric.CompleteExecutionArgs{Source: flowfabric.SourceOperatorOverride}, lapsed.now)
	lapsed.did(fx)
	wantCode(t, err, flowfabric.CodeLeaseExpired)
	lapsed.wantVector(vLapsed)
}

const retry3 = `{"retry_policy":{"max_retries":3,"backoff":{"type":"fixed","delay_ms":10}}}`

func TestSpec01_S19_FailSchedulesRetry(t *testing.T) {
	w := newWorld(t, withPolicy(retry3))
	task := w.claim()
	r := w.fail(task.Fence, "")
	w.wantVector(vBackoff)
	if r.Outcome != flowfabric.FailRetryScheduled || r.DelayUntil != w.now+10 || r.NextAttemptIndex != 1 || r.AttemptType != flowfabric.AttemptTypeRetry {
		t.Errorf("result %+v", r)
	}
	e := &w.s.Exec
	if want := fmt.Sprintf("retry backoff until %d (attempt 0 failed: boom)", w.now+10); e.BlockingDetail != want {
		t.Errorf("detail %q, want %q", e.BlockingDetail, want)
	}
	snap := rules.Describe(w.s, rules.Label{})
	if e.RetryCount != 1 || snap.CurrentAttempt != nil || e.TotalAttemptCount != 1 || w.s.Attempt.AttemptState != flowfabric.AttemptEndedFailure ||
		w.s.Attempt.FailureCategory != "transient" {
		t.Errorf("record %+v", e)
	}
	w.now += 9
	if ran := w.tick(); len(ran) != 0 {
		t.Errorf("promoted early: %v", ran)
	}
	w.now++
	w.tick()
	w.wantVector("runnable/unowned/eligible_now/waiting_for_worker/none/pending_retry_attempt=waiting")
	next := w.claim()
	a := w.s.Attempt
	if next.AttemptIndex != 1 || a.AttemptType != flowfabric.AttemptTypeRetry || a.RetryReason != "boom" || *a.PreviousAttemptIndex != 0 ||
		next.Fence.LeaseEpoch != 2 || len(w.past) != 1 || w.past[0].AttemptIndex != 0 || e.PendingAttemptType != "" {
		t.Errorf("attempt %+v", a)
	}
}

func TestSpec01_S20_NoRetries(t *testing.T) {
	for _, policy := range []string{"", `{"retry_policy":{"max_retries":0}}`} {
		w := newWorld(t, withPolicy(policy))
		if r := w.fail(w.claim().Fence, ""); r.Outcome != flowfabric.FailTerminal {
			t.Errorf("%s: result %+v", policy, r)
		}
		w.wantVector(vFailed)
		if last := w.logs[len(w.logs)-1]; last.FailureReason != "boom" || last.FailureCategory != "transient" || last.Cause != "fail" {
			t.Errorf("completion %+v", last)
		}
	}
}

func TestSpec01_S21_ExponentialBackoff(t *testing.T) {
	doc := `{"retry_policy":{"max_retries":20,"backoff":{"type":"exponential","initial_delay_ms":1000,"max_delay_ms":60000,"multiplier":2.0,"jitter":%v}}}`
	plain, _ := flowfabric.ParsePolicy([]byte(fmt.Sprintf(doc, false)))
	jittered, _ := flowfabric.ParsePolicy([]byte(fmt.Sprintf(doc, true)))
	for n, want := range []int64{1000, 2000, 4000, 8000, 16000, 32000, 60000, 60000} {
		if got := rules.Backoff(plain, uint32(n), nil); got != want {
			t.Errorf("retry %d after %d ms, want %d", n+1, got, want)
		}
		if got := rules.Backoff(&flowfabric.Policy{RetryPolicy: &flowfabric.RetryPolicy{}}, uint32(n), nil); got != want {
			t.Errorf("default retry %d after %d ms, want %d", n+1, got, want)
		}
		for _, draw := range []int64{0, 1, want/2 - 1, want / 2} {
			got := rules.Backoff(jittered, uint32(n), func(bound int64) int64 {
				if bound != want/2+1 {
					t.Errorf("drawn from [0,%d), want [0,%d)", bound, want/2+1)
				}
				return draw
			})
			if got != want/2+draw {
				t.Errorf("jittered delay %d, want %d", got, want/2+draw)
			}
		}
	}
	if got := rules.Backoff(plain, 4_000_000_000, nil); got != 60000 {
		t.Errorf("late retry after %d ms", got)
	}
	zero, _ := flowfabric.ParsePolicy([]byte(`{"retry_policy":{"backoff":{"type":"exponential","initial_delay_ms":0,"max_delay_ms":9,"multiplier":1e300}}}`))
	if got := rules.Backoff(zero, 100, nil); got != 0 {
		t.Errorf("initial 0 gives %d", got)
	}
	huge, _ := flowfabric.ParsePolicy([]byte(`{"retry_policy":{"backoff":{"type":"exponential","initial_delay_ms":9,"max_delay_ms":9223372036854775807,"multiplier":1e300}}}`))
	if got := rules.Backoff(huge, 100, nil); got != 1<<63-1 {
		t.Errorf("overflow gives %d", got)
	}
	odd, _ := flowfabric.ParsePolicy([]byte(`{"retry_policy":{"backoff":{"type":"fixed","delay_ms":7,"jitter":true}}}`))
	if lo, hi := rules.Backoff(odd, 0, func(int64) int64 { return 0 }), rules.Backoff(odd, 0, func(n int64) int64 { return n - 1 }); lo != 4 || hi != 7 {
		t.Errorf("jitter of 7 lies in %d..%d, want 4..7", lo, hi)
	}
}

func TestSpec01_S22_Categories(t *testing.T) {
	for _, tc := range []struct {
		policy, category string
		retried          bool
	}{
		{`{"retry_policy":{}}`, "transient", true},
		{`{"retry_policy":{}}`, "permanent", false},
		{`{"retry_policy":{}}`, "cancelled", false},
		{`{"retry_policy":{"retryable_categories":["timeout"]}}`, "transient", false},
		{`{"retry_policy":{"retryable_categories":["timeout"]}}`, "timeout", true},
		{`{"retry_policy":{"retryable_categories":[]}}`, "whatever", true},
	} {
		w := newWorld(t, withPolicy(tc.policy))
		r := w.fail(w.claim().Fence, tc.category)
		if got := r.Outcome == flowfabric.FailRetryScheduled; got != tc.retried {
			t.Errorf("%s, %s: retried %v", tc.policy, tc.category, got)
		}
	}
	w := newWorld(t)
	_, _, err := rules.Fail(w.s, flowfabric.FailExecutionArgs{Fence: w.claim().Fence, Category: "No Good"}, w.now, nil)
	wantCode(t, err, flowfabric.CodeInvalidInput)
	wantDetail(t, err, "field", "failure_category")
}

func TestFallbackTiersComeBeforeRetries(t *testing.T) {
	w := newWorld(t, withPolicy(`{"retry_policy":{"max_retries":1,"backoff":{"type":"fixed","delay_ms":0}},
		"timeout_policy":{"attempt_timeout_ms":9000},
		"fallback_policy":{"tiers":[{"provider":"a","model":"m1"},{"provider":"b","model":"m2","timeout_ms":700}]}}`))
	task := w.claim()
	if task.PolicySnapshot.Provider != "a" || task.PolicySnapshot.TimeoutMs != 9000 || w.s.Exec.AttemptTimeoutAt != w.now+9000 {
		t.Errorf("snapshot %+v", task.PolicySnapshot)
	}
	r := w.fail(task.Fence, "provider_error")
	if r.AttemptType != flowfabric.AttemptTypeFallback || r.DelayUntil != w.now || w.s.Exec.RetryCount != 0 || !w.fx.Offered {
		t.Errorf("result %+v", r)
	}
	w.wantVector("runnable/unowned/eligible_now/waiting_for_worker/none/pending_retry_attempt=waiting")
	task = w.claim()
	if task.AttemptType != flowfabric.AttemptTypeFallback || task.PolicySnapshot.Model != "m2" || task.AttemptTimeoutAt != w.now+700 || *w.s.Attempt.FallbackIndex != 1 {
		t.Errorf("task %+v", task)
	}
	if r = w.fail(task.Fence, "provider_error"); r.AttemptType != flowfabric.AttemptTypeRetry || w.s.Exec.RetryCount != 1 {
		t.Errorf("result %+v", r)
	}
	if r = w.fail(w.claim().Fence, "provider_error"); r.Outcome != flowfabric.FailTerminal {
		t.Errorf("result %+v", r)
	}
}

func TestSpec01_S23_DelayAndResume(t *testing.T) {
	w := newWorld(t, withPolicy(`{"timeout_policy":{"attempt_timeout_ms":100000}}`))
	task := w.claim()
	w.now += 1000
	ms := int64(60_000)
	r, fx, err := rules.Delay(w.s, flowfabric.DelayExecutionArgs{Fence: task.Fence, DelayMs: &ms}, w.now)
	if err != nil {
		t.Fatal(err)
	}
	w.did(fx)
	w.wantVector(vPaused)
	if r.DelayUntil != w.now+60_000 || r.PublicState != flowfabric.PublicDelayed || fx.StreamClosed != "" {
		t.Errorf("result %+v, effects %+v", r, fx)
	}
	a := w.s.Attempt
	if a.AttemptState != flowfabric.AttemptSuspended || a.PauseKind != flowfabric.PauseWorkerDelay || *a.TimeoutRemainingMs != 99_000 || w.s.Exec.AttemptTimeoutAt != 0 {
		t.Errorf("attempt %+v", a)
	}
	w.now = r.DelayUntil
	w.tick()
	w.wantVector("runnable/unowned/eligible_now/waiting_for_worker/none/attempt_interrupted=waiting")
	g := w.grant(5000)
	_, err = w.consume(g, flowfabric.ExpectNew)
	wantCode(t, err, flowfabric.CodeUseClaimResumedExecution)
	resumed, err := w.consume(g, flowfabric.ExpectResume)
	if err != nil {
		t.Fatal(err)
	}
	if resumed.AttemptID != task.AttemptID || resumed.AttemptIndex != 0 || resumed.Fence.LeaseEpoch != 2 || resumed.ClaimKind != flowfabric.ClaimResume ||
		resumed.AttemptTimeoutAt != w.now+99_000 || w.s.Exec.TotalAttemptCount != 1 || w.s.Attempt.PauseKind != "" || w.s.Attempt.ResumedAt != w.now {
		t.Errorf("resumed %+v", resumed)
	}
	if last := w.logs[len(w.logs)-1]; last.Kind != flowfabric.EventResumed || last.ExpiresAt != w.now+flowfabric.Millis(ttl) {
		t.Errorf("event %+v", last)
	}
	_, _, err = rules.Delay(w.s, flowfabric.DelayExecutionArgs{Fence: resumed.Fence, DelayMs: &ms, DelayUntil: 5}, w.now)
	wantCode(t, err, flowfabric.CodeInvalidInput)
	_, _, err = rules.Delay(w.s, flowfabric.DelayExecutionArgs{Fence: resumed.Fence}, w.now)
	wantCode(t, err, flowfabric.CodeInvalidInput)
}

func TestSpec01_S24_OperatorCancel(t *testing.T) {
	w := newWorld(t)
	r, err := w.cancel(flowfabric.SourceOperatorOverride, flowfabric.Fence{})
	if err != nil || r.PreviousPhase != flowfabric.PhaseRunnable {
		t.Fatalf("result %+v, error %v", r, err)
	}
	w.wantVector("terminal/unowned/not_applicable/none/cancelled/pending_first_attempt=cancelled")
	if last := w.logs[0]; last.AttemptIndex != nil || last.AttemptID != "" || w.s.Attempt != nil {
		t.Errorf("completion %+v", last)
	}
	again, err := w.cancel(flowfabric.SourceFlowCascade, flowfabric.Fence{})
	if err != nil || again.Outcome != flowfabric.CancelAlreadyCancelled || again.CancellationReason != "stop" || again.CancelledBy != "operator_override" || w.fx.Changed {
		t.Errorf("result %+v, error %v", again, err)
	}

	active := newWorld(t)
	task := active.claim()
	if _, err := active.cancel(flowfabric.SourceFlowCascade, flowfabric.Fence{}); err != nil {
		t.Fatal(err)
	}
	active.wantVector(vCancelled)
	a := active.s.Attempt
	if a.AttemptState != flowfabric.AttemptEndedCancelled || a.FailureReason != "cancelled: stop" || !a.TerminalizedByOverride || active.fx.StreamClosed != "attempt_cancelled" {
		t.Errorf("attempt %+v", a)
	}
	if last := active.logs[len(active.logs)-1]; last.Cause != "flow_cascade" {
		t.Errorf("completion %+v", last)
	}
	err = active.complete(task.Fence)
	wantCode(t, err, flowfabric.CodeExecutionNotActive)
	wantDetail(t, err, "terminal_outcome", "cancelled")

	done := newWorld(t)
	if err := done.complete(done.claim().Fence); err != nil {
		t.Fatal(err)
	}
	_, err = done.cancel(flowfabric.SourceOperatorOverride, flowfabric.Fence{})
	wantCode(t, err, flowfabric.CodeExecutionNotActive)
	wantDetail(t, err, "terminal_outcome", "success")
}

func TestSpec01_S24_CancelWhileSuspended(t *testing.T) {
	w := newWorld(t)
	w.claim()
	suspend(w)
	if _, err := w.cancel(flowfabric.SourceOperatorOverride, flowfabric.Fence{}); err != nil {
		t.Fatal(err)
	}
	w.wantVector(vCancelled)
	wait := w.fx.Wait
	if wait == nil || !wait.Suspension || w.s.Wait.Suspension.CloseReason != flowfabric.ClosedCancelled ||
		len(wait.Waitpoints) != 1 || wait.Waitpoints[0].CloseReason != "cancelled" || len(w.s.Wait.Open) != 0 {
		t.Errorf("waits %+v", wait)
	}
	if w.s.Exec.CurrentSuspensionID != "" || w.s.Exec.CurrentWaitpointID != "" {
		t.Errorf("effects %+v", w.fx)
	}
	if w.s.Attempt.AttemptState != flowfabric.AttemptEndedCancelled || w.s.Attempt.SuspensionID != "" {
		t.Errorf("attempt %+v", w.s.Attempt)
	}
}

// testRing is a key ring of one key.
var testRing = rules.KeyRing{Current: "k1", Secrets: map[string]string{"k1": strings.Repeat("ab", 32)}}

// suspend suspends an active execution on one fresh waitpoint.
func suspend(w *world) {
	w.t.Helper()
	e := &w.s.Exec
	args, err := rules.PrepareSuspend(flowfabric.SuspendArgs{
		ExecutionID:     e.ExecutionID,
		Fence:           flowfabric.Fence{LeaseID: e.CurrentLeaseID, LeaseEpoch: e.CurrentLeaseEpoch, AttemptID: e.CurrentAttemptID},
		SuspensionID:    flowfabric.SuspensionID(w.uuid()),
		Waitpoints:      []flowfabric.WaitpointBinding{{WaitpointID: flowfabric.WaitpointID(w.uuid()), WaitpointKey: "review"}},
		ResumeCondition: flowfabric.Single("review", flowfabric.ByName("approved")),
		ReasonCode:      flowfabric.SuspendWaitingForSignal,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	_, fx, err := rules.Suspend(w.s, rules.SuspendInput{Args: args, Stored: make([]*rules.StoredWaitpoint, 1), Ring: testRing}, w.now)
	if err != nil {
		w.t.Fatal(err)
	}
	w.did(fx)
}

func TestSpec01_S25_WorkerCancelNeedsFence(t *testing.T) {
	w := newWorld(t)
	task := w.claim()
	_, err := w.cancel(flowfabric.SourceLeaseHolder, flowfabric.Fence{})
	wantCode(t, err, flowfabric.CodeFenceRequired)
	if _, err = w.cancel("", task.Fence); err != nil {
		t.Fatal(err)
	}
	if w.s.Attempt.TerminalizedByOverride || w.s.Exec.CancelledBy != "lease_holder" {
		t.Errorf("cancelled by %s", w.s.Exec.CancelledBy)
	}
}

func TestSpec01_S26_CompleteTwice(t *testing.T) {
	w := newWorld(t)
	task := w.claim()
	if err := w.complete(task.Fence); err != nil {
		t.Fatal(err)
	}
	w.now += 5
	r, fx, err := rules.Complete(w.s, flowfabric.CompleteExecutionArgs{Fence: task.Fence, Result: []byte("other")}, w.now)
	if err != nil || !r.Replayed || r.PublicState != flowfabric.PublicCompleted || fx.Changed || fx.Result != rules.ResultKept {
		t.Errorf("result %+v, effects %+v, error %v", r, fx, err)
	}
	wrongIndex := task.Fence
	wrongIndex.AttemptIndex = new(uint32(3))
	wantCode(t, w.complete(wrongIndex), flowfabric.CodeExecutionNotActive)
	if _, _, err := rules.Fail(w.s, flowfabric.FailExecutionArgs{Fence: task.Fence}, w.now, nil); flowfabric.CodeOf(err) != flowfabric.CodeExecutionNotActive {
		t.Errorf("fail after complete: %v", err)
	}
}

func TestSpec01_S27_28_FailTwice(t *testing.T) {
	w := newWorld(t, withPolicy(retry3))
	task := w.claim()
	first := w.fail(task.Fence, "")
	w.now += 3
	second := w.fail(task.Fence, "permanent")
	if second.DelayUntil != first.DelayUntil || !second.Replayed || w.s.Exec.RetryCount != 1 || w.fx.Changed {
		t.Errorf("second %+v, first %+v", second, first)
	}
	w.now = first.DelayUntil
	w.tick()
	running := w.claim()
	third := w.fail(task.Fence, "")
	if !third.Replayed || third.NextAttemptIndex != 1 || w.fx.Changed {
		t.Errorf("third %+v", third)
	}
	w.wantVector(vActive)
	indexed := task.Fence
	indexed.AttemptIndex = new(uint32(0))
	if r := w.fail(indexed, ""); !r.Replayed {
		t.Error("a receipt with the right index did not match")
	}
	indexed.AttemptIndex = new(uint32(1))
	_, _, err := rules.Fail(w.s, flowfabric.FailExecutionArgs{Fence: indexed}, w.now, nil)
	wantCode(t, err, flowfabric.CodeStaleLease)
	if err := w.complete(running.Fence); err != nil {
		t.Error(err)
	}
	_, _, err = rules.Fail(w.s, flowfabric.FailExecutionArgs{Fence: task.Fence}, w.now, nil)
	wantCode(t, err, flowfabric.CodeExecutionNotActive)
}

func TestSpec01_S29_CancelAfterCancel(t *testing.T) {
	w := newWorld(t)
	task := w.claim()
	if _, err := w.cancel(flowfabric.SourceOperatorOverride, flowfabric.Fence{}); err != nil {
		t.Fatal(err)
	}
	r, err := w.cancel(flowfabric.SourceLeaseHolder, task.Fence)
	if err != nil || !r.Replayed || r.PreviousPhase != flowfabric.PhaseActive || r.PublicState != flowfabric.PublicCancelled {
		t.Errorf("result %+v, error %v", r, err)
	}
	wantCode(t, w.complete(task.Fence), flowfabric.CodeExecutionNotActive)
}
