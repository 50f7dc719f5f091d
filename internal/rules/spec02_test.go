package rules_test

import (
	"strings"
	"testing"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/rules"
)

// The tests of this file are named by the scenarios of specification 02,
// section 14.

func (w *world) renew(f flowfabric.Fence, ttlMs int64) error {
	w.t.Helper()
	_, fx, err := rules.Renew(w.s, flowfabric.RenewLeaseArgs{Fence: f, LeaseTTLMs: ttlMs}, w.now)
	w.did(fx)
	return err
}

func (w *world) revoke(a flowfabric.RevokeLeaseArgs) (flowfabric.RevokeLeaseResult, error) {
	w.t.Helper()
	r, fx, err := rules.Revoke(w.s, a, w.now)
	w.did(fx)
	return r, err
}

// lapse lets the lease run out and marks it.
func (w *world) lapse() {
	w.t.Helper()
	w.now = w.s.Exec.LeaseExpiresAt
	w.tick()
	w.wantVector(vLapsed)
}

func (w *world) reclaimGrant(lane flowfabric.LaneID, caps ...string) (flowfabric.IssueReclaimGrantResult, error) {
	w.t.Helper()
	r, fx, err := rules.IssueReclaimGrant(w.s, rules.GrantInput{GrantID: "g-" + w.uuid(), LaneID: lane, WorkerID: "w",
		WorkerInstanceID: "w-1", Capabilities: caps, TTLMs: 5000, IssuedBy: flowfabric.IssuedByOperator}, w.now)
	w.did(fx)
	return r, err
}

func TestSpec02_S01_Claim(t *testing.T) {
	w := newWorld(t)
	task := w.claim()
	l, err := rules.GetLease(w.s, w.now+1000)
	if err != nil {
		t.Fatal(err)
	}
	if l.LeaseEpoch != 1 || l.ExpiresAt != w.now+30_000 || l.RenewalDeadline != w.now+20_000 || l.RemainingMs != 29_000 ||
		l.AcquiredAt != w.now || l.LastRenewedAt != w.now || l.ClaimKind != flowfabric.ClaimNew || l.LeaseID != task.Fence.LeaseID {
		t.Errorf("lease %+v", l)
	}
	if p := rules.Place(w.s, w.now); p.Offered || p.Holder != "w-1" || p.LeaseExpiresAt != l.ExpiresAt || p.DueAt != l.ExpiresAt {
		t.Errorf("placement %+v", p)
	}
	ev := w.logs[0]
	if ev.Kind != flowfabric.EventAcquired || ev.Reason != "direct" || ev.ExpiresAt != l.ExpiresAt || ev.WorkerID != "w" || *ev.AttemptIndex != 0 {
		t.Errorf("event %+v", ev)
	}
	if held := rules.Held(w.s); held == nil || held.Fence != task.Fence || held.AttemptID != task.AttemptID {
		t.Errorf("held %+v", held)
	}
}

func TestSpec02_S02_S06_Renew(t *testing.T) {
	w := newWorld(t)
	task := w.claim()
	w.now += 5000
	r, fx, err := rules.Renew(w.s, flowfabric.RenewLeaseArgs{Fence: task.Fence}, w.now)
	if err != nil || r.ExpiresAt != w.now+30_000 || r.LeaseEpoch != 1 || len(fx.Events) != 0 {
		t.Errorf("result %+v, effects %+v, error %v", r, fx, err)
	}
	if err := w.renew(task.Fence, 1000); err != nil || w.s.Exec.LeaseExpiresAt != w.now+1000 {
		t.Errorf("expires at %d, error %v", w.s.Exec.LeaseExpiresAt, err)
	}
	if r, _, err = rules.Renew(w.s, flowfabric.RenewLeaseArgs{Fence: task.Fence}, w.now); err != nil || r.ExpiresAt != w.now+1000 {
		t.Errorf("the last TTL is not the default: %+v, %v", r, err)
	}
	for _, ms := range []int64{99, 3_600_001, -1} {
		wantCode(t, w.renew(task.Fence, ms), flowfabric.CodeInvalidInput)
	}
	if w.s.Exec.LeaseExpiresAt != w.now+1000 {
		t.Error("a refused renewal moved the expiry")
	}
}

func TestSpec02_S03_RenewRefusals(t *testing.T) {
	w := newWorld(t)
	f := w.claim().Fence
	wantCode(t, w.renew(flowfabric.Fence{}, ttl), flowfabric.CodeFenceRequired)
	wantCode(t, w.renew(flowfabric.Fence{AttemptID: f.AttemptID}, ttl), flowfabric.CodePartialFenceTriple)
	stale := f
	stale.LeaseEpoch = 9
	wantCode(t, w.renew(stale, ttl), flowfabric.CodeStaleLease)
	if err := w.complete(f); err != nil {
		t.Fatal(err)
	}
	err := w.renew(f, ttl)
	wantCode(t, err, flowfabric.CodeExecutionNotActive)
	wantDetail(t, err, "lifecycle_phase", "terminal")
}

func TestSpec02_S04_RenewAtExpiry(t *testing.T) {
	w := newWorld(t)
	f := w.claim().Fence
	w.now = w.s.Exec.LeaseExpiresAt
	wantCode(t, w.renew(f, ttl), flowfabric.CodeLeaseExpired)
	w.wantVector(vLapsed)
	wantCode(t, w.renew(f, ttl), flowfabric.CodeLeaseExpired)
	if w.count(flowfabric.EventExpired) != 1 || w.s.Exec.LeaseExpiredAt != w.now {
		t.Errorf("events %v", w.kinds())
	}
}

func TestSpec02_S05_MarkLeaseExpired(t *testing.T) {
	w := newWorld(t)
	want := func(outcome flowfabric.UpkeepOutcome, reason string) {
		t.Helper()
		r, fx := rules.MarkLeaseExpired(w.s, w.now)
		w.did(fx)
		if r.Outcome != outcome || r.Reason != reason {
			t.Errorf("result %+v, want %s %s", r, outcome, reason)
		}
	}
	want(flowfabric.UpkeepAlreadySatisfied, "not_active")
	w.claim()
	want(flowfabric.UpkeepAlreadySatisfied, "not_yet_expired")
	w.now = w.s.Exec.LeaseExpiresAt
	want(flowfabric.UpkeepMarkedExpired, "")
	want(flowfabric.UpkeepAlreadySatisfied, "already_expired")
	w.claim()
	if _, err := w.revoke(flowfabric.RevokeLeaseArgs{}); err != nil {
		t.Fatal(err)
	}
	want(flowfabric.UpkeepAlreadySatisfied, "already_revoked")
}

func TestSpec02_S09_Revoke(t *testing.T) {
	w := newWorld(t)
	f := w.claim().Fence
	_, err := w.revoke(flowfabric.RevokeLeaseArgs{ExpectedLeaseID: "older"})
	wantCode(t, err, flowfabric.CodeStaleLease)
	w.wantVector(vActive)
	r, err := w.revoke(flowfabric.RevokeLeaseArgs{})
	if err != nil || r.Outcome != flowfabric.RevokeRevoked || r.LeaseID != f.LeaseID || r.LeaseEpoch != 1 {
		t.Errorf("result %+v, error %v", r, err)
	}
	w.wantVector(vRevoked)
	if w.s.Exec.BlockingDetail != "lease revoked: operator_revoke" || !w.fx.Offered || w.fx.StreamClosed != "lease_revoked" {
		t.Errorf("detail %q, effects %+v", w.s.Exec.BlockingDetail, w.fx)
	}
	if ev := w.logs[len(w.logs)-1]; ev.Kind != flowfabric.EventRevoked || ev.RevokedBy != "operator" || ev.Reason != "operator_revoke" {
		t.Errorf("event %+v", ev)
	}
	wantCode(t, w.complete(f), flowfabric.CodeLeaseRevoked)
	if r, err = w.revoke(flowfabric.RevokeLeaseArgs{}); err != nil || r.Reason != "already_revoked" {
		t.Errorf("result %+v, error %v", r, err)
	}
	_, err = rules.GetLease(w.s, w.now)
	wantCode(t, err, flowfabric.CodeLeaseNotFound)
	if p := rules.Place(w.s, w.now); !p.Offered || p.LeaseExpiresAt != 0 || p.Holder != "" {
		t.Errorf("placement %+v", p)
	}
	_, err = w.revoke(flowfabric.RevokeLeaseArgs{Reason: strings.Repeat("r", 257)})
	wantCode(t, err, flowfabric.CodeInvalidInput)
	idle := newWorld(t)
	_, err = idle.revoke(flowfabric.RevokeLeaseArgs{})
	wantCode(t, err, flowfabric.CodeExecutionNotActive)
}

func TestRevokeOfAnOverdueLeaseMarksIt(t *testing.T) {
	w := newWorld(t)
	w.claim()
	w.now = w.s.Exec.LeaseExpiresAt
	r, err := w.revoke(flowfabric.RevokeLeaseArgs{})
	if err != nil || r.Outcome != flowfabric.RevokeAlreadySatisfied || r.Reason != "already_expired" || !w.fx.Changed {
		t.Errorf("result %+v, error %v", r, err)
	}
	w.wantVector(vLapsed)
	if r, err = w.revoke(flowfabric.RevokeLeaseArgs{}); err != nil || r.Reason != "already_expired" || w.fx.Changed {
		t.Errorf("result %+v, error %v", r, err)
	}
	if l, err := rules.GetLease(w.s, w.now+59_999); err != nil || l.RemainingMs != 0 || l.OwnershipState != flowfabric.OwnershipLeaseExpired {
		t.Errorf("lease %+v, error %v", l, err)
	}
	_, err = rules.GetLease(w.s, w.now+60_000)
	wantCode(t, err, flowfabric.CodeLeaseNotFound)
}

func TestSpec02_S10_HeldRevocation(t *testing.T) {
	w := newWorld(t)
	w.claim()
	if _, err := w.revoke(flowfabric.RevokeLeaseArgs{Hold: true}); err != nil || w.fx.Offered {
		t.Fatalf("effects %+v, error %v", w.fx, err)
	}
	if rules.Place(w.s, w.now).Offered {
		t.Error("held work is offered")
	}
	_, _, err := rules.OfferGrant(w.s, rules.GrantInput{GrantID: "g", LaneID: "default", WorkerID: "w", WorkerInstanceID: "w-1", TTLMs: 5000}, w.now)
	wantCode(t, err, flowfabric.CodeExecutionNotReclaimable)
	_, _, err = rules.GrantAndClaim(w.s, w.input(), w.now)
	wantCode(t, err, flowfabric.CodeExecutionNotEligible)
	r, err := w.reclaimGrant("default")
	if err != nil || r.Outcome != flowfabric.ReclaimGranted || r.Grant.Kind != flowfabric.ClaimReclaim || r.Grant.PartitionKey[:4] != "{fp:" {
		t.Fatalf("result %+v, error %v", r, err)
	}
	if _, err := w.consume(r.Grant.GrantID, flowfabric.ExpectReclaim); err != nil {
		t.Fatal(err)
	}
	if w.s.Exec.ReclaimHold || w.past[0].AttemptState != flowfabric.AttemptInterruptedReclaimed || w.past[0].FailureReason != "lease_revoked" {
		t.Errorf("past %+v", w.past)
	}

	held := newWorld(t)
	held.claim()
	if _, err := held.revoke(flowfabric.RevokeLeaseArgs{}); err != nil {
		t.Fatal(err)
	}
	if _, err := held.revoke(flowfabric.RevokeLeaseArgs{Hold: true}); err != nil || !held.s.Exec.ReclaimHold {
		t.Errorf("the hold was not set later: %v", err)
	}
	released, fx := rules.ReleaseHold(held.s, held.now)
	held.did(fx)
	if !released || !fx.Offered || held.s.Exec.ReclaimHold {
		t.Errorf("released %v, effects %+v", released, fx)
	}
	if released, _ = rules.ReleaseHold(held.s, held.now); released {
		t.Error("released twice")
	}
}

func TestSpec02_S11_ReclaimFencesTheOldWorker(t *testing.T) {
	w := newWorld(t)
	a := w.claim()
	w.lapse()
	in := w.input()
	in.WorkerInstanceID = "w-2"
	b := w.claimWith(in)
	if b.Fence.LeaseEpoch != 2 || b.AttemptIndex != 1 || b.ClaimKind != flowfabric.ClaimReclaim {
		t.Errorf("task %+v", b)
	}
	wantCode(t, w.complete(a.Fence), flowfabric.CodeStaleLease)
	if err := w.complete(b.Fence); err != nil {
		t.Error(err)
	}
}

func TestSpec02_S12_S13_Grants(t *testing.T) {
	w := newWorld(t)
	first := w.grant(5000)
	if p := rules.Place(w.s, w.now); p.Offered || p.DueAt != w.now+5000 {
		t.Errorf("placement %+v", p)
	}
	w.wantVector(vWaiting)
	_, _, err := rules.IssueGrant(w.s, rules.GrantInput{GrantID: "g", LaneID: "default", WorkerID: "w", TTLMs: 5000}, w.now)
	wantCode(t, err, flowfabric.CodeGrantAlreadyExists)
	_, _, err = rules.GrantAndClaim(w.s, rules.ClaimInput{WorkerID: "other", WorkerInstanceID: "o-1", LeaseTTLMs: ttl}, w.now)
	wantCode(t, err, flowfabric.CodeGrantAlreadyExists)
	w.now += 10_000
	_, err = w.consume(first, "")
	wantCode(t, err, flowfabric.CodeClaimGrantExpired)
	second := w.grant(5000)
	_, err = w.consume(first, "")
	wantCode(t, err, flowfabric.CodeInvalidClaimGrant)
	if _, err = w.consume(second, ""); err != nil {
		t.Error(err)
	}
	if ev := w.logs[len(w.logs)-1]; ev.Reason != "claim" {
		t.Errorf("event %+v", ev)
	}
}

func TestGrantLapseDuty(t *testing.T) {
	w := newWorld(t)
	_, fx, err := rules.OfferGrant(w.s, rules.GrantInput{GrantID: "g", LaneID: "default", WorkerID: "w", TTLMs: 5000, AdmissionRefs: []string{"q1"}}, w.now)
	if err != nil {
		t.Fatal(err)
	}
	w.did(fx)
	w.now += 5000
	if ran := w.tick(); len(ran) != 1 || ran[0] != rules.DutyGrantLapse {
		t.Errorf("ran %v", ran)
	}
	if len(w.fx.Owed) != 1 || !w.fx.Offered || w.s.Exec.AdmissionRefs != nil || !rules.Place(w.s, w.now).Offered {
		t.Errorf("effects %+v", w.fx)
	}
	_, err = w.consume("g", "")
	wantCode(t, err, flowfabric.CodeClaimGrantExpired)

	unacted := newWorld(t)
	_, fx, _ = rules.OfferGrant(unacted.s, rules.GrantInput{GrantID: "g", LaneID: "default", WorkerID: "w", TTLMs: 5000, AdmissionRefs: []string{"q1"}}, unacted.now)
	unacted.did(fx)
	unacted.now += 5000
	unacted.claim()
	if len(unacted.fx.Owed) != 1 || unacted.s.Exec.AdmissionRefs != nil {
		t.Errorf("a lapsed grant's holds went into the new lease: %+v", unacted.fx)
	}
}

func TestSpec02_S14_S15_GrantBelongsToWorkerAndLane(t *testing.T) {
	w := newWorld(t)
	g := w.grant(5000)
	in := w.input()
	in.GrantID, in.LaneID = g, "other"
	_, _, err := rules.ClaimGranted(w.s, in, w.now)
	wantCode(t, err, flowfabric.CodeInvalidClaimGrant)
	in.LaneID, in.WorkerID = "default", "w2"
	_, _, err = rules.ClaimGranted(w.s, in, w.now)
	wantCode(t, err, flowfabric.CodeInvalidClaimGrant)
	in.WorkerID, in.WorkerInstanceID = "w", "w-77"
	c, fx, err := rules.ClaimGranted(w.s, in, w.now)
	if err != nil || c.Task.WorkerInstanceID != "w-77" {
		t.Errorf("task %+v, error %v", c.Task, err)
	}
	w.did(fx)
}

func TestSpec02_S16_GrantExpiresOnTime(t *testing.T) {
	w := newWorld(t)
	g := w.grant(5000)
	w.now += 5000
	_, err := w.consume(g, "")
	wantCode(t, err, flowfabric.CodeClaimGrantExpired)
	if !rules.Place(w.s, w.now).Offered {
		t.Error("a lapsed grant still hides the execution")
	}
}

func TestSpec02_S17_ConsumeTwice(t *testing.T) {
	w := newWorld(t)
	g := w.grant(5000)
	in := w.input()
	in.GrantID = g
	first, fx, err := rules.ClaimGranted(w.s, in, w.now)
	if err != nil {
		t.Fatal(err)
	}
	w.did(fx)
	w.now += 10
	again, fx, err := rules.ClaimGranted(w.s, in, w.now)
	if err != nil || !again.Task.Replayed || fx.Changed || again.Task.Fence != first.Task.Fence || w.s.Exec.CurrentLeaseEpoch != 1 || w.s.Exec.TotalAttemptCount != 1 {
		t.Errorf("again %+v, error %v", again.Task, err)
	}
	fused, fx, err := rules.GrantAndClaim(w.s, in, w.now)
	if err != nil || !fused.Task.Replayed || fx.Changed {
		t.Errorf("fused %+v, error %v", fused.Task, err)
	}
	other := w.input()
	other.GrantID = g
	_, _, err = rules.ClaimGranted(w.s, other, w.now)
	wantCode(t, err, flowfabric.CodeInvalidClaimGrant)
	w.now = w.s.Exec.LeaseExpiresAt
	_, _, err = rules.ClaimGranted(w.s, in, w.now)
	wantCode(t, err, flowfabric.CodeLeaseExpired)
}

func TestSpec02_S19_CancelledWhileGranted(t *testing.T) {
	w := newWorld(t)
	_, fx, err := rules.OfferGrant(w.s, rules.GrantInput{GrantID: "g", LaneID: "default", WorkerID: "w", TTLMs: 5000, AdmissionRefs: []string{"slot"}}, w.now)
	if err != nil {
		t.Fatal(err)
	}
	w.did(fx)
	if _, err := w.cancel(flowfabric.SourceOperatorOverride, flowfabric.Fence{}); err != nil {
		t.Fatal(err)
	}
	if len(w.fx.Owed) != 1 || w.fx.Owed[0] != "slot" {
		t.Errorf("owed %v", w.fx.Owed)
	}
	for range 2 {
		_, err = w.consume("g", "")
		wantCode(t, err, flowfabric.CodeExecutionNotLeaseable)
	}
	if p := rules.Place(w.s, w.now); p.DueAt != w.s.Exec.PurgeAfter {
		t.Errorf("placement %+v", p)
	}
	_, fx, err = rules.Replay(w.s, flowfabric.ReplayExecutionArgs{}, w.now)
	if err != nil {
		t.Fatal(err)
	}
	w.did(fx)
	_, err = w.consume("g", "")
	wantCode(t, err, flowfabric.CodeInvalidClaimGrant)
}

func TestSpec02_S21_ResumeGrant(t *testing.T) {
	w := newWorld(t)
	task := w.claim()
	_, fx, err := rules.Delay(w.s, flowfabric.DelayExecutionArgs{Fence: task.Fence, DelayMs: new(int64(0))}, w.now)
	if err != nil {
		t.Fatal(err)
	}
	w.did(fx)
	w.tick()
	r, err := w.reclaimGrant("default")
	if err != nil || r.Outcome != flowfabric.ReclaimGranted || r.Grant.Kind != flowfabric.ClaimResume {
		t.Fatalf("result %+v, error %v", r, err)
	}
	if _, err := w.consume(r.Grant.GrantID, flowfabric.ExpectResume); err != nil {
		t.Fatal(err)
	}
	_, err = w.consume(r.Grant.GrantID, flowfabric.ExpectResume)
	wantCode(t, err, flowfabric.CodeInvalidClaimGrant)

	fresh := newWorld(t)
	g := fresh.grant(5000)
	_, err = fresh.consume(g, flowfabric.ExpectResume)
	wantCode(t, err, flowfabric.CodeNotAResumedExecution)
	_, err = fresh.consume(g, flowfabric.ExpectReclaim)
	wantCode(t, err, flowfabric.CodeExecutionNotReclaimable)
	if _, err = fresh.consume(g, ""); err != nil {
		t.Error(err)
	}
}

func TestSpec02_S22_Reclaim(t *testing.T) {
	w := newWorld(t)
	old := w.claim()
	w.lapse()
	r, err := w.reclaimGrant("default")
	if err != nil || r.Outcome != flowfabric.ReclaimGranted {
		t.Fatalf("result %+v, error %v", r, err)
	}
	_, err = w.consume(r.Grant.GrantID, flowfabric.ExpectNew)
	wantCode(t, err, flowfabric.CodeExecutionNotLeaseable)
	task, err := w.consume(r.Grant.GrantID, flowfabric.ExpectReclaim)
	if err != nil {
		t.Fatal(err)
	}
	if task.Fence.LeaseEpoch != 2 || task.AttemptIndex != 1 || task.AttemptType != flowfabric.AttemptTypeReclaim || task.LeaseReclaimCount != 1 {
		t.Errorf("task %+v", task)
	}
	if a := w.past[0]; a.AttemptState != flowfabric.AttemptInterruptedReclaimed || a.FailureReason != "lease_expired" || a.EndedAt != w.now {
		t.Errorf("old attempt %+v", a)
	}
	if a := w.s.Attempt; *a.PreviousAttemptIndex != 0 || a.ReclaimReason != "lease_expired" {
		t.Errorf("new attempt %+v", a)
	}
	ev := w.logs[len(w.logs)-1]
	if ev.Kind != flowfabric.EventReclaimed || ev.PrevLeaseID != old.Fence.LeaseID || ev.PrevLeaseEpoch != 1 || *ev.PrevAttemptIndex != 0 ||
		ev.PrevWorkerInstanceID != "w-1" || ev.LeaseEpoch != 2 || *ev.AttemptIndex != 1 {
		t.Errorf("event %+v", ev)
	}
	if l, err := rules.GetLease(w.s, w.now); err != nil || l.PreviousLeaseID != old.Fence.LeaseID || l.ClaimKind != flowfabric.ClaimReclaim {
		t.Errorf("lease %+v, error %v", l, err)
	}
}

func TestSpec02_S23_IssueReclaimGrantRefusals(t *testing.T) {
	gpu := withPolicy(`{"routing_requirements":{"required_capabilities":["gpu"]}}`)
	w := newWorld(t, gpu)
	in := w.input()
	in.Capabilities = []string{"gpu"}
	w.claimWith(in)
	for _, tc := range []struct {
		lane   flowfabric.LaneID
		caps   []string
		detail string
	}{{"default", []string{"gpu"}, "execution_not_reclaimable"}} {
		r, err := w.reclaimGrant(tc.lane, tc.caps...)
		if err != nil || r.Outcome != flowfabric.ReclaimNotReclaimable || r.Detail != tc.detail || w.fx.Changed {
			t.Errorf("result %+v, error %v", r, err)
		}
	}
	w.now = w.s.Exec.LeaseExpiresAt // overdue, nobody has marked it
	r, err := w.reclaimGrant("other", "gpu")
	if err != nil || r.Detail != "lane_mismatch" || !w.fx.Changed {
		t.Errorf("result %+v, error %v", r, err)
	}
	w.wantVector(vLapsed)
	if r, err = w.reclaimGrant("default", "cpu"); err != nil || r.Detail != "capability_mismatch: gpu" || w.fx.Changed {
		t.Errorf("result %+v, error %v", r, err)
	}
	in = w.input()
	in.GrantID = "none"
	_, _, err = rules.ClaimGranted(w.s, in, w.now)
	wantCode(t, err, flowfabric.CodeInvalidClaimGrant)
	if _, err = w.reclaimGrant("default", "gpu"); err != nil {
		t.Fatal(err)
	}
	_, err = w.reclaimGrant("default", "gpu")
	wantCode(t, err, flowfabric.CodeGrantAlreadyExists)
}

func TestSpec02_S24_ReclaimCap(t *testing.T) {
	atCap := func(t *testing.T) *world {
		w := newWorld(t, withPolicy(`{"max_reclaim_count":4}`))
		w.claim()
		for range 4 {
			w.lapse()
			w.claim()
		}
		w.now = w.s.Exec.LeaseExpiresAt
		_, fx := rules.MarkLeaseExpired(w.s, w.now)
		w.did(fx)
		return w
	}
	ended := func(t *testing.T, w *world) {
		t.Helper()
		w.wantVector(vFailed)
		e := &w.s.Exec
		if e.FailureReason != "max_reclaims_exceeded" || e.FailureCategory != "infra_crash" || w.s.Attempt.AttemptState != flowfabric.AttemptEndedFailure ||
			w.count(flowfabric.EventCompleted) != 1 || e.LeaseReclaimCount != 4 || e.CurrentLeaseID != "" {
			t.Errorf("record %+v", e)
		}
		n := len(w.logs)
		if w.logs[n-2].Reason != "max_reclaims_exceeded" || w.logs[n-2].WorkerInstanceID != "w-1" {
			t.Errorf("event %+v", w.logs[n-2])
		}
		if p := rules.Place(w.s, w.now); p.Offered || p.Holder != "" || p.LeaseExpiresAt != 0 {
			t.Errorf("placement %+v", p)
		}
	}
	t.Run("IssueReclaimGrant", func(t *testing.T) {
		w := atCap(t)
		r, err := w.reclaimGrant("default")
		if err != nil || r.Outcome != flowfabric.ReclaimCapExceeded || r.ReclaimCount != 4 || r.MaxReclaimCount != 4 {
			t.Errorf("result %+v, error %v", r, err)
		}
		ended(t, w)
	})
	t.Run("OfferGrant", func(t *testing.T) {
		w := atCap(t)
		_, fx, err := rules.OfferGrant(w.s, rules.GrantInput{GrantID: "g", LaneID: "default", WorkerID: "w", TTLMs: 1}, w.now)
		w.did(fx)
		wantCode(t, err, flowfabric.CodeReclaimCapExceeded)
		wantDetail(t, err, "reclaim_count", uint32(4))
		wantDetail(t, err, "max_reclaim_count", uint32(4))
		ended(t, w)
	})
	t.Run("GrantAndClaim", func(t *testing.T) {
		w := atCap(t)
		_, fx, err := rules.GrantAndClaim(w.s, w.input(), w.now)
		w.did(fx)
		wantCode(t, err, flowfabric.CodeReclaimCapExceeded)
		ended(t, w)
	})
	t.Run("duty", func(t *testing.T) {
		w := atCap(t)
		if p := rules.Place(w.s, w.now); p.DueAt > w.now {
			t.Errorf("placement %+v", p)
		}
		if ran := w.tick(); len(ran) != 1 || ran[0] != rules.DutyLeaseExpiry {
			t.Errorf("ran %v", ran)
		}
		ended(t, w)
	})
}

func TestSpec02_S26_FusedNeverSteals(t *testing.T) {
	w := newWorld(t)
	w.claim()
	in := w.input()
	in.OperatorOverride = true
	_, fx, err := rules.GrantAndClaim(w.s, in, w.now)
	wantCode(t, err, flowfabric.CodeLeaseConflict)
	if fx.Changed || w.s.Grant != nil {
		t.Error("a refusal left something behind")
	}
	w.now = w.s.Exec.LeaseExpiresAt // overdue, not marked: no valid lease any more
	task := w.claimWith(in)
	if task.ClaimKind != flowfabric.ClaimReclaim || strings.Join(w.kinds(), " ") != "acquired expired reclaimed" || w.fx.StreamClosed != "lease_expired" {
		t.Errorf("task %+v, events %v", task, w.kinds())
	}
}

func TestOperatorOverrideSkipsCapabilitiesAndHold(t *testing.T) {
	w := newWorld(t, withPolicy(`{"routing_requirements":{"required_capabilities":["gpu","cuda"]}}`))
	_, _, err := rules.GrantAndClaim(w.s, w.input(), w.now)
	wantCode(t, err, flowfabric.CodeCapabilityMismatch)
	if missing := flowfabric.AsError(err).Detail("missing").([]string); strings.Join(missing, " ") != "cuda gpu" {
		t.Errorf("missing %v", missing)
	}
	in := w.input()
	in.OperatorOverride, in.IssuedBy = true, flowfabric.IssuedByOperator
	w.claimWith(in)
	if w.logs[0].Reason != "operator" {
		t.Errorf("event %+v", w.logs[0])
	}
	if _, err := w.revoke(flowfabric.RevokeLeaseArgs{Hold: true}); err != nil {
		t.Fatal(err)
	}
	in = w.input()
	in.OperatorOverride = true
	w.claimWith(in)
}

func TestCapabilityMismatchLeavesATrace(t *testing.T) {
	w := newWorld(t, withPolicy(`{"routing_requirements":{"required_capabilities":["gpu"]}}`))
	w.now += 5
	_, fx, err := rules.IssueGrant(w.s, rules.GrantInput{GrantID: "g", LaneID: "default", WorkerID: "w", TTLMs: 5000}, w.now)
	w.did(fx)
	wantCode(t, err, flowfabric.CodeCapabilityMismatch)
	if w.s.Exec.LastCapabilityMismatchAt != w.now || !fx.Changed || w.s.Grant != nil {
		t.Errorf("record %+v", w.s.Exec)
	}
	_, fx, err = rules.IssueGrant(w.s, rules.GrantInput{GrantID: "g", LaneID: "other", WorkerID: "w", Capabilities: []string{"gpu"}, TTLMs: 5000}, w.now)
	wantCode(t, err, flowfabric.CodeExecutionNotEligible)
	if fx.Changed {
		t.Error("changed")
	}
	_, fx, err = rules.IssueGrant(w.s, rules.GrantInput{GrantID: "g", LaneID: "default", WorkerID: "w", Capabilities: []string{"gpu"}, TTLMs: 5000}, w.now)
	if err != nil {
		t.Fatal(err)
	}
	w.did(fx)
	_, err = w.consume("g", "")
	wantCode(t, err, flowfabric.CodeCapabilityMismatch)
	if w.s.Grant != nil || !w.fx.Offered {
		t.Error("the refused grant was not withdrawn")
	}
}

func TestReleaseGrant(t *testing.T) {
	w := newWorld(t)
	g := w.grant(5000)
	release := func(id string, worker flowfabric.WorkerID) bool {
		ok, fx := rules.ReleaseGrant(w.s, flowfabric.ReleaseGrantArgs{GrantID: id, WorkerID: worker}, w.now)
		w.did(fx)
		return ok
	}
	if release("other", "w") || release(g, "w2") || !release(g, "w") || !w.fx.Offered || release(g, "w") {
		t.Error("released by the wrong caller, or not by the right one")
	}
}

func TestReclaimNotBefore(t *testing.T) {
	w := newWorld(t)
	w.claim()
	w.lapse()
	w.s.Exec.ReclaimNotBefore = w.now + 5000
	if p := rules.Place(w.s, w.now); p.Offered || p.DueAt != w.now+5000 {
		t.Errorf("placement %+v", p)
	}
	_, _, err := rules.OfferGrant(w.s, rules.GrantInput{GrantID: "g", LaneID: "default", WorkerID: "w", TTLMs: 1}, w.now)
	wantCode(t, err, flowfabric.CodeExecutionNotReclaimable)
	w.now += 5000
	if ran := w.tick(); len(ran) != 1 || ran[0] != rules.DutyLeaseExpiry || !w.fx.Offered || w.s.Exec.ReclaimNotBefore != 0 {
		t.Errorf("ran %v, effects %+v", ran, w.fx)
	}
}
