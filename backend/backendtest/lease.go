package backendtest

import (
	"fmt"
	"slices"
	"strings"

	"github.com/flowfabric/flowfabric"
)

// leaseScenarios: specification 02, sections 3 and 4.
func leaseScenarios(r *runner) {
	r.scenario("02.01 a claim gives a lease", func(s *scene) {
		id := s.create()
		args := directArgs(id, workerA.can("cpu", "gpu"))
		task, err := s.Backend.IssueGrantAndClaim(s.ctx, args)
		s.ok(err)
		s.equal("fence", facts(task.Fence.LeaseID, task.Fence.LeaseEpoch, task.Fence.AttemptID), facts(args.LeaseID, 1, args.AttemptID))
		l := s.lease(id)
		s.equal("lease", facts(l.LeaseID == args.LeaseID, l.LeaseEpoch, l.AttemptIndex, l.AttemptID == args.AttemptID, l.WorkerID, l.WorkerInstanceID, l.LaneID, l.ClaimKind, l.OwnershipState),
			facts(true, 1, 0, true, "pool-a", "a-1", "work", "claim", "leased"))
		s.equal("last_renewed_at", l.LastRenewedAt, l.AcquiredAt)
		s.equal("expires_at", l.ExpiresAt, l.AcquiredAt+30_000)
		s.equal("renewal_deadline", l.RenewalDeadline, l.AcquiredAt+20_000)
		s.equal("held", s.held("a-1"), []flowfabric.ExecutionID{id})
		s.equal("eligible", len(s.eligible("cpu", "gpu")), 0)
		s.equal("expired", len(s.expired(l.ExpiresAt-1)), 0)
		s.equal("expired at its deadline", s.expired(l.ExpiresAt), []flowfabric.ExecutionID{id})
		if s.Clock != nil {
			s.equal("remaining", l.RemainingMs, int64(30_000))
		}
	})

	r.scenario("02.02 renew keeps id and epoch", func(s *scene) {
		id, task := s.createClaimed(withPolicy(`{"timeout_policy":{"attempt_timeout_ms":100000}}`))
		s.advance(10_000)
		got, err := s.renew(task, testTTL)
		s.ok(err)
		s.equal("result", got, flowfabric.RenewLeaseResult{LeaseEpoch: 1, ExpiresAt: s.now() + 30_000})
		l := s.lease(id)
		s.equal("lease", facts(l.LeaseID == task.Fence.LeaseID, l.LeaseEpoch, l.LastRenewedAt, l.RenewalDeadline),
			facts(true, 1, s.now(), s.now()+20_000))
		s.equal("acquired_at", l.AcquiredAt, s.now()-10_000)
		rec := s.record(id)
		s.equal("attempt timeout", rec.AttemptTimeoutAt, task.AttemptTimeoutAt)
		s.equal("history", s.history(id), []string{"acquired(direct)"})
		s.equal("expired at the former deadline", len(s.expired(task.LeaseExpiresAt)), 0)
		s.advanceTo(task.LeaseExpiresAt)
		s.tick()
		s.is(id, activeVector())
		s.advanceTo(got.ExpiresAt)
		s.tick()
		s.is(id, interruptedVector(flowfabric.OwnershipLeaseExpired))
	})

	r.scenario("02.03 renew without, with part of, and with a stale fence", func(s *scene) {
		id, task := s.createClaimed()
		renew := func(f flowfabric.Fence) error {
			_, err := flowfabric.RenewLease(s.ctx, s.Backend, flowfabric.RenewLeaseArgs{ExecutionID: id, Fence: f, LeaseTTLMs: testTTL})
			return err
		}
		s.assertCode(renew(flowfabric.Fence{}), flowfabric.CodeFenceRequired)
		s.assertCode(renew(flowfabric.Fence{AttemptID: task.Fence.AttemptID}), flowfabric.CodePartialFenceTriple)
		wrong := task.Fence
		wrong.LeaseEpoch = 2
		s.assertCode(renew(wrong), flowfabric.CodeStaleLease)
		s.complete(task)
		err := renew(task.Fence)
		s.assertCode(err, flowfabric.CodeExecutionNotActive)
		s.assertDetail(err, "lifecycle_phase", "terminal")
	})

	r.scenario("02.04 renew at exactly expires_at", func(s *scene) {
		id, task := s.createClaimed()
		s.advanceTo(task.LeaseExpiresAt)
		_, err := s.renew(task, testTTL)
		s.assertCode(err, flowfabric.CodeLeaseExpired)
		s.is(id, interruptedVector(flowfabric.OwnershipLeaseExpired))
		s.equal("detail", s.describe(id).BlockingDetail, "lease expired, awaiting reclaim")
		_, err = s.renew(task, testTTL)
		s.assertCode(err, flowfabric.CodeLeaseExpired)
		s.equal("history", s.history(id), []string{"acquired(direct)", "expired"})
	})

	r.scenario("02.05 a lease renewed before the mark", func(s *scene) {
		id, task := s.createClaimed()
		s.advance(testTTL - 1)
		_, err := s.renew(task, testTTL)
		s.ok(err)
		s.advance(1)
		s.unchanged(id, func() {
			got, err := s.store().MarkLeaseExpiredIfDue(s.ctx, id)
			s.ok(err)
			s.equal("result", got, flowfabric.MarkLeaseExpiredResult{Outcome: flowfabric.UpkeepAlreadySatisfied, Reason: "not_yet_expired"})
		})
	})

	r.scenario("02.4.2 MarkLeaseExpiredIfDue is never an error", func(s *scene) {
		mark := func(id flowfabric.ExecutionID) string {
			got, err := s.store().MarkLeaseExpiredIfDue(s.ctx, id)
			s.ok(err)
			s.equal("outcome", got.Outcome, flowfabric.UpkeepAlreadySatisfied)
			return got.Reason
		}
		s.equal("unknown", mark(idOn(1)), "execution_not_found")
		s.equal("waiting", mark(s.create()), "not_active")
		revoked, _ := s.createClaimed()
		s.revoke(revoked)
		s.equal("revoked", mark(revoked), "already_revoked")
		lapsed, task := s.createClaimed()
		s.lapse(task)
		s.equal("lapsed", mark(lapsed), "already_expired")
		s.is(lapsed, interruptedVector(flowfabric.OwnershipLeaseExpired))
		s.equal("held", len(s.held(workerA.instance)), 0)
		l := s.lease(lapsed)
		s.equal("lease kept for reading", facts(l.LeaseID == task.Fence.LeaseID, l.OwnershipState, l.RemainingMs), "true lease_expired_reclaimable 0")
		s.that(contains(s.eligible(), revoked) && contains(s.eligible(), lapsed), "a lapsed or revoked execution is not offered")
	})

	r.scenario("02.06 a shorter ttl shortens the lease, a forbidden one changes nothing", func(s *scene) {
		id := s.create()
		args := directArgs(id, workerA)
		args.LeaseTTLMs = 60_000
		task, err := s.Backend.IssueGrantAndClaim(s.ctx, args)
		s.ok(err)
		got, err := s.renew(task, 1000)
		s.ok(err)
		s.equal("expires_at", got.ExpiresAt, s.now()+1000)
		s.unchanged(id, func() {
			for _, ttl := range []int64{99, 3_600_001, -1} {
				_, err := s.renew(task, ttl)
				s.assertField(err, "lease_ttl_ms")
			}
		})
		got, err = s.renew(task, 100)
		s.ok(err)
		s.equal("shortest", got.ExpiresAt, s.now()+100)
		got, err = s.renew(task, 3_600_000)
		s.ok(err)
		s.equal("longest", got.ExpiresAt, s.now()+3_600_000)
		s.advance(50)
		got, err = s.renew(task, 0)
		s.ok(err)
		s.equal("default is the last ttl", got.ExpiresAt, s.now()+3_600_000)
	})

	r.scenario("02.07 RenewLeases decides each on its own, in order", func(s *scene) {
		_, good := s.createClaimed(onPartition(1))
		_, stale := s.createClaimed(onPartition(2))
		s.advance(5000)
		bad := stale.Fence
		bad.LeaseEpoch = 9
		got, err := s.Backend.RenewLeases(s.ctx, []flowfabric.RenewLeaseArgs{
			{ExecutionID: good.ExecutionID, Fence: good.Fence, LeaseTTLMs: testTTL},
			{ExecutionID: stale.ExecutionID, Fence: bad, LeaseTTLMs: testTTL},
			{ExecutionID: idOn(3), Fence: strangeFence(), LeaseTTLMs: testTTL},
			{ExecutionID: good.ExecutionID, Fence: good.Fence, LeaseTTLMs: 1000},
		})
		s.ok(err)
		s.equal("answers", len(got), 4)
		s.ok(got[0].Err)
		s.equal("first", got[0].Result.ExpiresAt, s.now()+flowfabric.Millis(testTTL))
		s.assertCode(got[1].Err, flowfabric.CodeStaleLease)
		s.assertCode(got[2].Err, flowfabric.CodeExecutionNotFound)
		s.ok(got[3].Err)
		s.equal("one execution twice, in order", s.lease(good.ExecutionID).ExpiresAt, s.now()+1000)
		_, err = s.Backend.RenewLeases(s.ctx, nil)
		s.assertCode(err, flowfabric.CodeInvalidInput)
		_, err = s.Backend.RenewLeases(s.ctx, make([]flowfabric.RenewLeaseArgs, 101))
		s.assertCode(err, flowfabric.CodeBatchTooLarge)
	})

	r.scenario("02.4.1 RenewLeases marks the lapse it meets", func(s *scene) {
		id, task := s.createClaimed()
		s.advanceTo(task.LeaseExpiresAt)
		_, fresh := s.createClaimed()
		got, err := s.Backend.RenewLeases(s.ctx, []flowfabric.RenewLeaseArgs{
			{ExecutionID: id, Fence: task.Fence, LeaseTTLMs: testTTL},
			{ExecutionID: fresh.ExecutionID, Fence: fresh.Fence, LeaseTTLMs: testTTL},
		})
		s.ok(err)
		s.assertCode(got[0].Err, flowfabric.CodeLeaseExpired)
		s.ok(got[1].Err)
		s.is(id, interruptedVector(flowfabric.OwnershipLeaseExpired))
	})

	r.scenario("02.09 revoke", func(s *scene) {
		id, task := s.createClaimed()
		got, err := s.Backend.RevokeLease(s.ctx, flowfabric.RevokeLeaseArgs{ExecutionID: id, Reason: "too slow"})
		s.ok(err)
		s.equal("result", got, flowfabric.RevokeLeaseResult{Outcome: flowfabric.RevokeRevoked, LeaseID: task.Fence.LeaseID, LeaseEpoch: 1})
		s.is(id, interruptedVector(flowfabric.OwnershipLeaseRevoked))
		s.equal("detail", s.describe(id).BlockingDetail, "lease revoked: too slow")
		rec := s.record(id)
		s.equal("revocation", facts(rec.LeaseRevokedAt > 0, rec.LeaseRevokeReason, rec.ReclaimHold), "true too slow false")
		s.noLease(id)
		s.equal("held", len(s.held(workerA.instance)), 0)
		s.equal("history", s.history(id), []string{"acquired(direct)", "revoked(too slow)"})
		s.unchanged(id, func() {
			_, err = s.tryComplete(id, task.Fence)
			s.assertCode(err, flowfabric.CodeLeaseRevoked)
			got, err = s.Backend.RevokeLease(s.ctx, flowfabric.RevokeLeaseArgs{ExecutionID: id, Reason: "again"})
			s.ok(err)
			s.equal("second", got, flowfabric.RevokeLeaseResult{Outcome: flowfabric.RevokeAlreadySatisfied, Reason: "already_revoked"})
		})
		s.equal("reclaimable", s.eligible(), []flowfabric.ExecutionID{id})
	})

	r.scenario("02.09 revoke with the id of an older lease", func(s *scene) {
		id, first := s.createClaimed()
		s.revoke(id)
		s.claimBy(id, workerB)
		s.unchanged(id, func() {
			_, err := s.Backend.RevokeLease(s.ctx, flowfabric.RevokeLeaseArgs{ExecutionID: id, ExpectedLeaseID: first.Fence.LeaseID})
			s.assertCode(err, flowfabric.CodeStaleLease)
		})
	})

	r.scenario("02.4.3 revoke of a lapsed lease", func(s *scene) {
		marked, task := s.createClaimed()
		s.lapse(task)
		s.unchanged(marked, func() {
			got, err := s.Backend.RevokeLease(s.ctx, flowfabric.RevokeLeaseArgs{ExecutionID: marked, ExpectedLeaseID: flowfabric.NewLeaseID()})
			s.ok(err)
			s.equal("marked", got, flowfabric.RevokeLeaseResult{Outcome: flowfabric.RevokeAlreadySatisfied, Reason: "already_expired"})
		})
		due, task := s.createClaimed()
		s.advanceTo(task.LeaseExpiresAt)
		_, err := s.Backend.RevokeLease(s.ctx, flowfabric.RevokeLeaseArgs{ExecutionID: due, ExpectedLeaseID: flowfabric.NewLeaseID()})
		s.assertCode(err, flowfabric.CodeStaleLease)
		got, err := s.Backend.RevokeLease(s.ctx, flowfabric.RevokeLeaseArgs{ExecutionID: due, ExpectedLeaseID: task.Fence.LeaseID})
		s.ok(err)
		s.equal("due", got, flowfabric.RevokeLeaseResult{Outcome: flowfabric.RevokeAlreadySatisfied, Reason: "already_expired"})
		s.is(due, interruptedVector(flowfabric.OwnershipLeaseExpired))
	})

	r.scenario("02.4.3 reasons have 1 to 256 bytes without control characters", func(s *scene) {
		id, _ := s.createClaimed()
		s.unchanged(id, func() {
			for _, reason := range []string{strings.Repeat("r", 257), "a\nb"} {
				_, err := s.Backend.RevokeLease(s.ctx, flowfabric.RevokeLeaseArgs{ExecutionID: id, Reason: reason})
				s.assertField(err, "reason")
			}
		})
		s.revoke(id)
		s.equal("default reason", s.describe(id).BlockingDetail, "lease revoked: operator_revoke")
	})

	r.scenario("02.4.3 a worker revokes its own lease to hand work back at once", func(s *scene) {
		id, task := s.createClaimed()
		_, err := s.Backend.RevokeLease(s.ctx, flowfabric.RevokeLeaseArgs{ExecutionID: id, ExpectedLeaseID: task.Fence.LeaseID, Reason: "worker_abandoned"})
		s.ok(err)
		got := s.takeTasks(workerB, 1)
		s.equal("reclaimed", taskIDs(got), []flowfabric.ExecutionID{id})
		s.equal("claim kind", got[0].ClaimKind, flowfabric.ClaimReclaim)
	})

	r.scenario("02.10 revoked and held, then IssueReclaimGrant", func(s *scene) {
		id, _ := s.createClaimed()
		_, err := s.Backend.RevokeLease(s.ctx, flowfabric.RevokeLeaseArgs{ExecutionID: id, Hold: true})
		s.ok(err)
		s.equal("reclaimable", len(s.eligible()), 0)
		s.equal("tasks", len(s.takeTasks(workerB, 5)), 0)
		got, err := s.reclaimGrant(id, workerB)
		s.ok(err)
		s.equal("outcome", got.Outcome, flowfabric.ReclaimGranted)
		task, err := s.consume(*got.Grant, workerB)
		s.ok(err)
		s.equal("epoch, index", []uint64{task.Fence.LeaseEpoch, uint64(task.AttemptIndex)}, []uint64{2, 1})
		rec := s.record(id)
		s.equal("hold and revocation", facts(rec.ReclaimHold, rec.LeaseRevokedAt, rec.LeaseRevokeReason), "false 0 ")
		a := s.attempt(id, 0)
		s.equal("attempt 0", facts(a.AttemptState, a.FailureReason), "interrupted_reclaimed lease_revoked")
	})

	r.scenario("02.4.3 a hold is set late, and released", func(s *scene) {
		id, _ := s.createClaimed()
		s.revoke(id)
		got, err := s.Backend.RevokeLease(s.ctx, flowfabric.RevokeLeaseArgs{ExecutionID: id, Hold: true})
		s.ok(err)
		s.equal("second revoke", got.Reason, "already_revoked")
		s.equal("tasks while held", len(s.takeTasks(workerB, 5)), 0)
		for i, want := range []bool{true, false} {
			released, err := s.Backend.ReleaseReclaimHold(s.ctx, id)
			s.ok(err)
			s.equal(fmt.Sprintf("release %d", i+1), released, want)
		}
		s.equal("tasks after the release", taskIDs(s.takeTasks(workerB, 5)), []flowfabric.ExecutionID{id})
	})

	r.scenario("02.4.3 the end empties hold and revocation", func(s *scene) {
		id, _ := s.createClaimed()
		_, err := s.Backend.RevokeLease(s.ctx, flowfabric.RevokeLeaseArgs{ExecutionID: id, Hold: true})
		s.ok(err)
		s.operatorCancel(id)
		rec := s.record(id)
		s.that(!rec.ReclaimHold && rec.LeaseRevokedAt == 0, "the end leaves hold or revocation")
	})

	r.scenario("02.11 a lapses, b reclaims", func(s *scene) {
		id, a := s.createClaimed()
		s.lapse(a)
		b := s.claimBy(id, workerB)
		s.unchanged(id, func() {
			_, err := s.tryComplete(id, a.Fence)
			s.assertCode(err, flowfabric.CodeStaleLease)
		})
		s.complete(b)
		s.equal("held by a and b", len(s.held("a-1"))+len(s.held("b-1")), 0)
	})

	r.scenario("02.2.2 the history tells the whole story", func(s *scene) {
		id, a := s.createClaimed(withPolicy(retryAtOnce))
		s.lapse(a)
		b := s.claimBy(id, workerB)
		s.delay(b, 10)
		s.promote(id)
		c := s.claimBy(id, workerB)
		s.fail(c, "")
		d := s.claim(id)
		s.revoke(id)
		e := s.claim(id)
		s.complete(e)
		s.equal("history", s.history(id), []string{
			"acquired(direct)", "expired", "reclaimed", "released(worker_delay)", "resumed", "released(failed_retry_scheduled)",
			"acquired(direct)", "revoked(operator_revoke)", "reclaimed", "released(completed)",
		})
		events := s.leaseEvents(id)
		for i, ev := range events {
			s.that(ev.LeaseID != "" && ev.LeaseEpoch > 0 && ev.AttemptID != "" && ev.AttemptIndex != nil && ev.WorkerID != "" && ev.WorkerInstanceID != "",
				"event %d lacks a field: %+v", i, ev)
			s.equal("execution", ev.ExecutionID, id)
		}
		re := events[2]
		s.equal("reclaimed", facts(re.LeaseID == b.Fence.LeaseID, re.LeaseEpoch, re.PrevLeaseID == a.Fence.LeaseID, re.PrevWorkerInstanceID, *re.PrevAttemptIndex, re.ExpiresAt == b.LeaseExpiresAt),
			facts(true, 2, true, "a-1", 0, true))
		s.equal("previous epoch", re.PrevLeaseEpoch, uint64(1))
		s.equal("acquired", events[6].LeaseID, d.Fence.LeaseID)
	})

	r.scenario("01.6 every release tells its reason", func(s *scene) {
		for want, release := range map[string]func(id flowfabric.ExecutionID, task flowfabric.ClaimedExecution){
			"completed":              func(_ flowfabric.ExecutionID, task flowfabric.ClaimedExecution) { s.complete(task) },
			"failed_retry_scheduled": func(_ flowfabric.ExecutionID, task flowfabric.ClaimedExecution) { s.fail(task, "") },
			"failed_terminal":        func(_ flowfabric.ExecutionID, task flowfabric.ClaimedExecution) { s.fail(task, "permanent") },
			"cancelled":              func(id flowfabric.ExecutionID, _ flowfabric.ClaimedExecution) { s.operatorCancel(id) },
			"worker_delay":           func(_ flowfabric.ExecutionID, task flowfabric.ClaimedExecution) { s.delay(task, 10) },
			"attempt_timeout": func(flowfabric.ExecutionID, flowfabric.ClaimedExecution) {
				s.advance(1000)
				s.tick()
			},
			"execution_deadline": func(id flowfabric.ExecutionID, _ flowfabric.ClaimedExecution) {
				s.advance(2000)
				_, err := s.store().ExpireExecution(s.ctx, id, flowfabric.ExpireExecutionDeadline)
				s.ok(err)
			},
		} {
			id, task := s.createClaimed(withPolicy(`{"timeout_policy":{"attempt_timeout_ms":1000,"execution_deadline_ms":2000},"retry_policy":{}}`))
			release(id, task)
			s.equal("history", s.history(id), []string{"acquired(direct)", "released(" + want + ")"})
			s.equal("held", len(s.held(workerA.instance)), 0)
			rec := s.record(id)
			s.equal("lease mirror", facts(rec.CurrentLeaseID, rec.CurrentWorkerID, rec.CurrentWorkerInstanceID, rec.LeaseAcquiredAt, rec.LeaseExpiresAt, rec.LeaseLastRenewedAt, rec.LeaseRenewalDeadline, rec.CurrentLeaseEpoch),
				facts("", "", "", 0, 0, 0, 0, 1))
			s.that(rec.ReleaseReceipt != nil && rec.ReleaseReceipt.LeaseID == task.Fence.LeaseID, "receipt is %+v", rec.ReleaseReceipt)
		}
	})

	r.scenario("02.4.4 lease history is paged", func(s *scene) {
		id, task := s.createClaimed(withPolicy(`{"retry_policy":{"max_retries":20,"backoff":{"type":"fixed","delay_ms":0}}}`))
		other, ot := s.createClaimed(onPartition(id.Partition()))
		for range 4 {
			s.fail(task, "")
			task = s.claim(id)
		}
		s.complete(ot)
		all := s.leaseEvents(id)
		s.equal("events", len(all), 9)
		var paged []flowfabric.Event
		var after uint64
		for range 4 {
			page, err := s.Backend.GetLeaseHistory(s.ctx, flowfabric.LeaseHistoryArgs{ExecutionID: id, After: after, Limit: 4})
			s.ok(err)
			paged = append(paged, page.Events...)
			if after = page.Next; after == 0 {
				break
			}
		}
		var got, want []string
		for _, e := range paged {
			got = append(got, e.EventID)
		}
		for _, e := range all {
			want = append(want, e.EventID)
			s.that(e.ExecutionID != other, "an event of another execution")
		}
		s.equal("paged", got, want)
		for _, limit := range []int{-1, 1001} {
			_, err := s.Backend.GetLeaseHistory(s.ctx, flowfabric.LeaseHistoryArgs{ExecutionID: id, Limit: limit})
			s.assertCode(err, flowfabric.CodeInvalidInput)
		}
	})

	r.scenario("02.4.4 GetLease of an execution without a lease", func(s *scene) {
		id := s.create()
		s.noLease(id)
		task := s.claim(id)
		s.complete(task)
		s.noLease(id)
	})

	r.scenario("02.4.4 ListWorkerLeases shows what the instance holds, as tasks", func(s *scene) {
		var want []flowfabric.ExecutionID
		for _, p := range []uint16{9, 2, 40, 2} {
			id := s.create(onPartition(p), withTags("a.b", "c"))
			s.claim(id)
			want = append(want, id)
		}
		s.claimBy(s.create(), workerB)
		elsewhere := s.create(withNamespace("other"))
		s.claim(elsewhere)
		slices.SortFunc(want, func(a, b flowfabric.ExecutionID) int {
			if a.Partition() != b.Partition() {
				return int(a.Partition()) - int(b.Partition())
			}
			return strings.Compare(string(a), string(b))
		})
		var got []flowfabric.ExecutionID
		args := flowfabric.ListWorkerLeasesArgs{WorkerInstanceID: "a-1", Namespace: testNamespace, Limit: 3}
		for range 3 {
			page, err := s.Backend.ListWorkerLeases(s.ctx, args)
			s.ok(err)
			got = append(got, taskIDs(page.Tasks)...)
			if args.Cursor = page.NextCursor; args.Cursor == "" {
				break
			}
		}
		s.equal("held", got, want)
		page, err := s.Backend.ListWorkerLeases(s.ctx, flowfabric.ListWorkerLeasesArgs{WorkerInstanceID: "a-1"})
		s.ok(err)
		s.equal("in all namespaces", len(page.Tasks), 5)
		page, err = s.Backend.ListWorkerLeases(s.ctx, flowfabric.ListWorkerLeasesArgs{WorkerInstanceID: "a-1", Namespace: "other"})
		s.ok(err)
		s.equal("in the other", taskIDs(page.Tasks), []flowfabric.ExecutionID{elsewhere})
		s.equal("unknown instance", len(s.held("nobody")), 0)

		task := page.Tasks[0]
		s.equal("fence", task.Fence.LeaseID, s.lease(elsewhere).LeaseID)
		s.equal("task", facts(task.Namespace, task.Kind, string(task.Payload), task.AttemptType, task.ClaimKind.TaskLabel()), `other task {"n":1} initial fresh`)
		s.complete(task)
		s.equal("held after the end", len(s.held("a-1")), 4)
	})

	r.scenario("02.10.4 ListExpiredLeases pages with equal expires_at", func(s *scene) {
		want := make(map[flowfabric.ExecutionID]bool)
		var last flowfabric.ClaimedExecution
		for i := range 25 {
			id, task := s.createClaimed(onPartition(uint16(i % 3)))
			want[id], last = true, task
		}
		revoked, _ := s.createClaimed(onPartition(1))
		s.revoke(revoked)
		_, young := s.createClaimed(onPartition(1))
		_, err := s.renew(young, 3_600_000)
		s.ok(err)
		s.equal("before the deadline", len(s.expired(last.LeaseExpiresAt-1)), 0)
		s.advanceTo(last.LeaseExpiresAt)
		marked := last.ExecutionID
		_, err = s.store().MarkLeaseExpiredIfDue(s.ctx, marked)
		s.ok(err)

		for _, limit := range []int{1, 4, 1000} {
			got := make(map[flowfabric.ExecutionID]bool)
			args := flowfabric.ListExpiredLeasesArgs{Limit: limit}
			for range 400 {
				page, err := s.Backend.ListExpiredLeases(s.ctx, args)
				s.ok(err)
				s.that(len(page.Leases) <= limit, "a page of %d with limit %d", len(page.Leases), limit)
				s.that(slices.IsSortedFunc(page.Leases, func(a, b flowfabric.ExpiredLease) int {
					if a.ExpiresAt != b.ExpiresAt {
						return int(a.ExpiresAt - b.ExpiresAt)
					}
					return strings.Compare(string(a.ExecutionID), string(b.ExecutionID))
				}), "page is not ordered: %+v", page.Leases)
				for _, l := range page.Leases {
					s.that(!got[l.ExecutionID], "%s twice with limit %d", l.ExecutionID, limit)
					got[l.ExecutionID] = true
					s.equal("marked", l.Marked, l.ExecutionID == marked)
					s.equal("entry", facts(l.LeaseEpoch, l.AttemptIndex, l.WorkerInstanceID, l.ExpiresAt), facts(1, 0, "a-1", last.LeaseExpiresAt))
				}
				if args.Cursor = page.NextCursor; args.Cursor == "" {
					break
				}
			}
			s.equal(fmt.Sprintf("expired leases with limit %d", limit), got, want)
		}
		s.claimBy(marked, workerB)
		s.equal("after a reclaim", len(s.expired(0)), 24)
		for _, limit := range []int{-1, 10_001} {
			_, err := s.Backend.ListExpiredLeases(s.ctx, flowfabric.ListExpiredLeasesArgs{Limit: limit})
			s.assertCode(err, flowfabric.CodeInvalidInput)
		}
		_, err = s.Backend.ListExpiredLeases(s.ctx, flowfabric.ListExpiredLeasesArgs{Cursor: "nonsense"})
		s.assertCode(err, flowfabric.CodeInvalidCursor)
	})

	r.scenario("02.10.4 ListExpiredLeases by namespace", func(s *scene) {
		_, task := s.createClaimed()
		other, _ := s.createClaimed(withNamespace("other"))
		s.advanceTo(task.LeaseExpiresAt)
		var got []flowfabric.ExecutionID
		args := flowfabric.ListExpiredLeasesArgs{Namespace: "other"}
		for range 400 {
			page, err := s.Backend.ListExpiredLeases(s.ctx, args)
			s.ok(err)
			for _, l := range page.Leases {
				got = append(got, l.ExecutionID)
			}
			if args.Cursor = page.NextCursor; args.Cursor == "" {
				break
			}
		}
		s.equal("expired", got, []flowfabric.ExecutionID{other})
	})
}

// expired follows ListExpiredLeases to its end.
func (s *scene) expired(asOf flowfabric.Millis) []flowfabric.ExecutionID {
	s.t.Helper()
	var out []flowfabric.ExecutionID
	args := flowfabric.ListExpiredLeasesArgs{AsOf: asOf, MaxPartitionsPerCall: 65535}
	for range 1000 {
		page, err := s.Backend.ListExpiredLeases(s.ctx, args)
		s.ok(err)
		for _, l := range page.Leases {
			out = append(out, l.ExecutionID)
		}
		if page.NextCursor == "" {
			return out
		}
		args.Cursor = page.NextCursor
	}
	s.t.Fatal("ListExpiredLeases never comes to an end")
	return nil
}
