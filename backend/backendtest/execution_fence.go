package backendtest

import (
	"maps"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/flowfabric/flowfabric"
)

// fencedOp is one lease-bound operation, called with any fence.
type fencedOp struct {
	name string
	// call makes the operation with valid arguments.
	call func(s *scene, id flowfabric.ExecutionID, f flowfabric.Fence, source flowfabric.Source) error
	// invalid makes it with an argument that input validation refuses; nil where
	// no argument beside the fence can be refused.
	invalid func(s *scene, id flowfabric.ExecutionID, f flowfabric.Fence) error
	refusal flowfabric.Code
	// override tells whether an operator may call it without a fence.
	override bool
	// marks tells whether it marks a lapse that it meets.
	marks bool
}

func fencedOps() []fencedOp {
	return []fencedOp{
		{
			name: "complete", override: true, marks: true, refusal: flowfabric.CodePayloadTooLarge,
			call: func(s *scene, id flowfabric.ExecutionID, f flowfabric.Fence, source flowfabric.Source) error {
				_, err := flowfabric.CompleteExecution(s.ctx, s.Backend, flowfabric.CompleteExecutionArgs{ExecutionID: id, Fence: f, Source: source})
				return err
			},
			invalid: func(s *scene, id flowfabric.ExecutionID, f flowfabric.Fence) error {
				_, err := flowfabric.CompleteExecution(s.ctx, s.Backend, flowfabric.CompleteExecutionArgs{ExecutionID: id, Fence: f, Result: make([]byte, flowfabric.MaxPayloadBytes+1)})
				return err
			},
		},
		{
			name: "fail", override: true, marks: true, refusal: flowfabric.CodeInvalidInput,
			call: func(s *scene, id flowfabric.ExecutionID, f flowfabric.Fence, source flowfabric.Source) error {
				_, err := s.Backend.FailExecution(s.ctx, flowfabric.FailExecutionArgs{ExecutionID: id, Fence: f, Source: source, Reason: "boom"})
				return err
			},
			invalid: func(s *scene, id flowfabric.ExecutionID, f flowfabric.Fence) error {
				_, err := s.Backend.FailExecution(s.ctx, flowfabric.FailExecutionArgs{ExecutionID: id, Fence: f, Category: "No Good"})
				return err
			},
		},
		{
			name: "delay", override: true, marks: true, refusal: flowfabric.CodeInvalidInput,
			call: func(s *scene, id flowfabric.ExecutionID, f flowfabric.Fence, source flowfabric.Source) error {
				_, err := s.Backend.DelayExecution(s.ctx, flowfabric.DelayExecutionArgs{ExecutionID: id, Fence: f, Source: source, DelayMs: ptr(int64(60_000))})
				return err
			},
			invalid: func(s *scene, id flowfabric.ExecutionID, f flowfabric.Fence) error {
				_, err := s.Backend.DelayExecution(s.ctx, flowfabric.DelayExecutionArgs{ExecutionID: id, Fence: f})
				return err
			},
		},
		{
			name: "cancel", marks: true,
			call: func(s *scene, id flowfabric.ExecutionID, f flowfabric.Fence, _ flowfabric.Source) error {
				_, err := s.Backend.CancelExecution(s.ctx, flowfabric.CancelExecutionArgs{ExecutionID: id, Fence: f, Source: flowfabric.SourceLeaseHolder, Reason: "r"})
				return err
			},
		},
		{
			name: "progress", refusal: flowfabric.CodeInvalidInput,
			call: func(s *scene, id flowfabric.ExecutionID, f flowfabric.Fence, _ flowfabric.Source) error {
				return s.Backend.UpdateProgress(s.ctx, flowfabric.UpdateProgressArgs{ExecutionID: id, Fence: f, Pct: ptr(int32(5))})
			},
			invalid: func(s *scene, id flowfabric.ExecutionID, f flowfabric.Fence) error {
				return s.Backend.UpdateProgress(s.ctx, flowfabric.UpdateProgressArgs{ExecutionID: id, Fence: f, Pct: ptr(int32(101))})
			},
		},
		{
			name: "renew", marks: true, refusal: flowfabric.CodeInvalidInput,
			call: func(s *scene, id flowfabric.ExecutionID, f flowfabric.Fence, _ flowfabric.Source) error {
				_, err := flowfabric.RenewLease(s.ctx, s.Backend, flowfabric.RenewLeaseArgs{ExecutionID: id, Fence: f, LeaseTTLMs: testTTL})
				return err
			},
			invalid: func(s *scene, id flowfabric.ExecutionID, f flowfabric.Fence) error {
				_, err := flowfabric.RenewLease(s.ctx, s.Backend, flowfabric.RenewLeaseArgs{ExecutionID: id, Fence: f, LeaseTTLMs: 99})
				return err
			},
		},
		{
			name: "suspend", marks: true,
			call: func(s *scene, id flowfabric.ExecutionID, f flowfabric.Fence, _ flowfabric.Source) error {
				_, err := s.trySuspend(flowfabric.ClaimedExecution{ExecutionID: id, Fence: f}, flowfabric.OperatorOnly())
				return err
			},
		},
		{
			name: "create waitpoint", marks: true,
			call: func(s *scene, id flowfabric.ExecutionID, f flowfabric.Fence, _ flowfabric.Source) error {
				_, err := s.tryPending(pendingArgs(flowfabric.ClaimedExecution{ExecutionID: id, Fence: f}, "key"))
				return err
			},
		},
	}
}

// fenceScenarios: specification 01, section 6: the order in which the checks of
// every lease-bound operation are made.
func fenceScenarios(r *runner) {
	for _, op := range fencedOps() {
		if op.invalid != nil {
			r.scenario("01.6 "+op.name+": input validation comes first", func(s *scene) {
				s.assertCode(op.invalid(s, idOn(1), flowfabric.Fence{}), op.refusal)
				id, task := s.createClaimed()
				s.unchanged(id, func() { s.assertCode(op.invalid(s, id, task.Fence), op.refusal) })
			})
		}

		r.scenario("01.6 "+op.name+": the fence's shape comes before existence", func(s *scene) {
			unknown := idOn(1)
			whole := strangeFence()
			for _, part := range []flowfabric.Fence{
				{LeaseID: whole.LeaseID},
				{LeaseEpoch: 1},
				{AttemptID: whole.AttemptID},
				{LeaseID: whole.LeaseID, LeaseEpoch: 1},
				{LeaseID: whole.LeaseID, AttemptID: whole.AttemptID},
				{LeaseEpoch: 1, AttemptID: whole.AttemptID},
			} {
				s.assertCode(op.call(s, unknown, part, flowfabric.SourceLeaseHolder), flowfabric.CodePartialFenceTriple)
				if op.override {
					s.assertCode(op.call(s, unknown, part, flowfabric.SourceOperatorOverride), flowfabric.CodePartialFenceTriple)
				}
			}
			s.assertCode(op.call(s, unknown, flowfabric.Fence{}, flowfabric.SourceLeaseHolder), flowfabric.CodeFenceRequired)
			s.assertCode(op.call(s, unknown, whole, flowfabric.SourceLeaseHolder), flowfabric.CodeExecutionNotFound)
		})

		r.scenario("01.6 "+op.name+": an execution that is not active tells what happened", func(s *scene) {
			fresh := s.create()
			s.unchanged(fresh, func() {
				err := op.call(s, fresh, strangeFence(), flowfabric.SourceLeaseHolder)
				s.assertCode(err, flowfabric.CodeExecutionNotActive)
				s.assertDetail(err, "terminal_outcome", "none")
				s.assertDetail(err, "lifecycle_phase", "runnable")
				s.assertDetail(err, "lease_epoch", 0)
				s.assertDetail(err, "attempt_id", "")
			})
			ended, task := s.createClaimed()
			s.complete(task)
			s.unchanged(ended, func() {
				err := op.call(s, ended, strangeFence(), flowfabric.SourceLeaseHolder)
				s.assertCode(err, flowfabric.CodeExecutionNotActive)
				s.assertDetail(err, "terminal_outcome", "success")
				s.assertDetail(err, "lifecycle_phase", "terminal")
				s.assertDetail(err, "lease_epoch", 1)
				s.assertDetail(err, "attempt_id", task.AttemptID)
			})
		})

		r.scenario("01.6 "+op.name+": a revoked or lapsed lease comes before the comparison", func(s *scene) {
			revoked, task := s.createClaimed()
			s.revoke(revoked)
			s.unchanged(revoked, func() {
				s.assertCode(op.call(s, revoked, task.Fence, flowfabric.SourceLeaseHolder), flowfabric.CodeLeaseRevoked)
				s.assertCode(op.call(s, revoked, strangeFence(), flowfabric.SourceLeaseHolder), flowfabric.CodeLeaseRevoked)
			})
			lapsed, task := s.createClaimed()
			s.lapse(task)
			s.unchanged(lapsed, func() {
				s.assertCode(op.call(s, lapsed, task.Fence, flowfabric.SourceLeaseHolder), flowfabric.CodeLeaseExpired)
				s.assertCode(op.call(s, lapsed, strangeFence(), flowfabric.SourceLeaseHolder), flowfabric.CodeLeaseExpired)
			})
		})

		r.scenario("01.6 "+op.name+": any differing part is a stale lease", func(s *scene) {
			id, task := s.createClaimed()
			good := task.Fence
			lease, epoch, attempt, index := good, good, good, good
			lease.LeaseID = flowfabric.NewLeaseID()
			epoch.LeaseEpoch++
			attempt.AttemptID = flowfabric.NewAttemptID()
			index.AttemptIndex = ptr(uint32(1))
			s.unchanged(id, func() {
				for _, f := range []flowfabric.Fence{lease, epoch, attempt, index} {
					s.assertCode(op.call(s, id, f, flowfabric.SourceLeaseHolder), flowfabric.CodeStaleLease)
				}
				if op.override {
					s.assertCode(op.call(s, id, lease, flowfabric.SourceOperatorOverride), flowfabric.CodeStaleLease)
				}
			})
			good.AttemptIndex = ptr(uint32(0))
			s.ok(op.call(s, id, good, flowfabric.SourceLeaseHolder))
		})

		r.scenario("01.17 "+op.name+" at exactly lease_expires_at", func(s *scene) {
			id, task := s.createClaimed()
			s.advanceTo(task.LeaseExpiresAt)
			if !op.marks {
				s.unchanged(id, func() {
					s.assertCode(op.call(s, id, task.Fence, flowfabric.SourceLeaseHolder), flowfabric.CodeLeaseExpired)
				})
				return
			}
			s.assertCode(op.call(s, id, task.Fence, flowfabric.SourceLeaseHolder), flowfabric.CodeLeaseExpired)
			s.is(id, interruptedVector(flowfabric.OwnershipLeaseExpired))
			s.equal("detail", s.describe(id).BlockingDetail, "lease expired, awaiting reclaim")
			s.equal("attempt", s.attempt(id, 0).AttemptState, flowfabric.AttemptStarted)
			s.equal("history", s.history(id), []string{"acquired(direct)", "expired"})
			s.equal("held", len(s.held(workerA.instance)), 0)
			s.unchanged(id, func() {
				s.assertCode(op.call(s, id, task.Fence, flowfabric.SourceLeaseHolder), flowfabric.CodeLeaseExpired)
			})
			rec := s.record(id)
			s.equal("lease_expired_at", rec.LeaseExpiredAt, s.now())
			s.equal("mirror kept", rec.CurrentLeaseID, task.Fence.LeaseID)
		})

		r.scenario("01.17 "+op.name+" a millisecond earlier stands", func(s *scene) {
			id, task := s.createClaimed()
			s.advanceTo(task.LeaseExpiresAt - 1)
			s.ok(op.call(s, id, task.Fence, flowfabric.SourceLeaseHolder))
		})

		if op.override {
			r.scenario("01.6 "+op.name+": an operator override needs an active, validly leased execution", func(s *scene) {
				override := func(id flowfabric.ExecutionID) error {
					return op.call(s, id, flowfabric.Fence{}, flowfabric.SourceOperatorOverride)
				}
				s.assertCode(override(idOn(1)), flowfabric.CodeExecutionNotFound)
				fresh := s.create()
				s.unchanged(fresh, func() { s.assertCode(override(fresh), flowfabric.CodeExecutionNotActive) })
				revoked, _ := s.createClaimed()
				s.revoke(revoked)
				s.unchanged(revoked, func() { s.assertCode(override(revoked), flowfabric.CodeLeaseRevoked) })
				active, _ := s.createClaimed()
				s.ok(override(active))
				s.equal("overridden", s.attempt(active, 0).TerminalizedByOverride, op.name != "delay")
				s.assertCode(override(active), flowfabric.CodeExecutionNotActive)
				due, task := s.createClaimed()
				s.advanceTo(task.LeaseExpiresAt)
				s.assertCode(override(due), flowfabric.CodeLeaseExpired)
				s.is(due, interruptedVector(flowfabric.OwnershipLeaseExpired))
			})
			continue
		}
		if op.name != "cancel" {
			continue
		}
		r.scenario("01.6 cancel: other sources ignore the fence", func(s *scene) {
			id, _ := s.createClaimed()
			_, err := s.Backend.CancelExecution(s.ctx, flowfabric.CancelExecutionArgs{
				ExecutionID: id, Source: flowfabric.SourceOperatorOverride, Fence: flowfabric.Fence{LeaseID: flowfabric.NewLeaseID()},
			})
			s.ok(err)
		})
	}

	r.scenario("01.16 complete with a wrong lease_id, then with the right one", func(s *scene) {
		id, task := s.createClaimed()
		wrong := task.Fence
		wrong.LeaseID = flowfabric.NewLeaseID()
		s.unchanged(id, func() {
			_, err := s.tryComplete(id, wrong)
			s.assertCode(err, flowfabric.CodeStaleLease)
		})
		s.complete(task)
	})

	r.scenario("01.18 partial fence, no fence, operator override", func(s *scene) {
		id, task := s.createClaimed()
		_, err := s.tryComplete(id, flowfabric.Fence{LeaseID: task.Fence.LeaseID})
		s.assertCode(err, flowfabric.CodePartialFenceTriple)
		_, err = s.tryComplete(id, flowfabric.Fence{})
		s.assertCode(err, flowfabric.CodeFenceRequired)
		got, err := flowfabric.CompleteExecution(s.ctx, s.Backend, flowfabric.CompleteExecutionArgs{ExecutionID: id, Source: flowfabric.SourceOperatorOverride})
		s.ok(err)
		s.equal("result", got, flowfabric.CompleteExecutionResult{PublicState: flowfabric.PublicCompleted})
		s.that(s.attempt(id, 0).TerminalizedByOverride, "the attempt is not marked overridden")
		_, err = s.tryComplete(id, task.Fence)
		s.assertCode(err, flowfabric.CodeExecutionNotActive)
	})

	r.scenario("01.6 unknown sources and malformed fences are invalid input", func(s *scene) {
		id, task := s.createClaimed()
		s.unchanged(id, func() {
			for _, call := range []func(flowfabric.Source) error{
				func(src flowfabric.Source) error {
					_, err := flowfabric.CompleteExecution(s.ctx, s.Backend, flowfabric.CompleteExecutionArgs{ExecutionID: id, Fence: task.Fence, Source: src})
					return err
				},
				func(src flowfabric.Source) error {
					_, err := s.Backend.CancelExecution(s.ctx, flowfabric.CancelExecutionArgs{ExecutionID: id, Fence: task.Fence, Source: src})
					return err
				},
			} {
				s.assertField(call("nobody"), "source")
			}
			bad := task.Fence
			bad.LeaseID = flowfabric.LeaseID(strings.ToUpper(uuid.NewString()))
			_, err := s.tryComplete(id, bad)
			s.assertCode(err, flowfabric.CodeInvalidInput)
		})
	})

	r.scenario("01.8.5 a delay takes exactly one of delay_until and delay_ms", func(s *scene) {
		id, task := s.createClaimed()
		s.unchanged(id, func() {
			for name, a := range map[string]flowfabric.DelayExecutionArgs{
				"both":     {DelayUntil: 5, DelayMs: ptr(int64(5))},
				"neither":  {},
				"negative": {DelayMs: ptr(int64(-1))},
				"before 0": {DelayUntil: -1},
			} {
				a.ExecutionID, a.Fence = id, task.Fence
				_, err := s.Backend.DelayExecution(s.ctx, a)
				s.that(err != nil, "%s was accepted", name)
				s.assertCode(err, flowfabric.CodeInvalidInput)
			}
		})
		s.delay(task, 0)
	})
}

// receiptScenarios: specification 01, section 7.
func receiptScenarios(r *runner) {
	r.scenario("01.26 complete twice with different payloads", func(s *scene) {
		id, task := s.createClaimed()
		s.completeWith(task, []byte("first"))
		s.unchanged(id, func() {
			got, err := flowfabric.CompleteExecution(s.ctx, s.Backend, flowfabric.CompleteExecutionArgs{ExecutionID: id, Fence: task.Fence, Result: []byte("second")})
			s.ok(err)
			s.equal("repeat", got, flowfabric.CompleteExecutionResult{PublicState: flowfabric.PublicCompleted, Replayed: true})
		})
		res, err := s.Backend.GetExecutionResult(s.ctx, id)
		s.ok(err)
		s.equal("payload", string(res.Payload), "first")
	})

	r.scenario("01.27 fail twice", func(s *scene) {
		id, task := s.createClaimed(withPolicy(retryFixed10))
		first := s.fail(task, "")
		s.advance(5)
		s.unchanged(id, func() {
			again := s.fail(task, "permanent")
			s.that(again.Replayed, "the repeat is not marked replayed")
			again.Replayed = false
			s.equal("repeat", again, first)
		})
		s.equal("retry_count", s.describe(id).RetryCount, uint32(1))
	})

	r.scenario("01.27 a final failure repeated", func(s *scene) {
		id, task := s.createClaimed()
		s.fail(task, "")
		s.unchanged(id, func() {
			s.equal("repeat", s.fail(task, ""), flowfabric.FailExecutionResult{Outcome: flowfabric.FailTerminal, Replayed: true})
		})
	})

	r.scenario("01.28 fail repeated after another worker has claimed the retry", func(s *scene) {
		id, task := s.createClaimed(withPolicy(retryFixed10))
		first := s.fail(task, "")
		s.promote(id)
		next := s.claimBy(id, workerB)
		s.unchanged(id, func() {
			again := s.fail(task, "")
			s.that(again.Replayed, "the repeat is not marked replayed")
			s.equal("delay_until", again.DelayUntil, first.DelayUntil)
			_, err := s.tryComplete(id, task.Fence)
			s.assertCode(err, flowfabric.CodeStaleLease)
		})
		// A later release overwrites the receipt.
		s.complete(next)
		_, err := s.tryFail(task, "")
		s.assertCode(err, flowfabric.CodeExecutionNotActive)
		s.assertDetail(err, "terminal_outcome", "success")
	})

	r.scenario("01.29 operator cancels, then the worker's cancel arrives", func(s *scene) {
		id, task := s.createClaimed()
		s.operatorCancel(id)
		s.unchanged(id, func() {
			got, err := s.Backend.CancelExecution(s.ctx, flowfabric.CancelExecutionArgs{ExecutionID: id, Fence: task.Fence, Reason: "mine"})
			s.ok(err)
			s.that(got.Replayed && got.Outcome == flowfabric.CancelCancelled, "worker's cancel: %+v", got)
			_, err = s.tryComplete(id, task.Fence)
			s.assertCode(err, flowfabric.CodeExecutionNotActive)
		})
	})

	r.scenario("01.7 cancel and delay repeated", func(s *scene) {
		id, task := s.createClaimed()
		cancel := func() flowfabric.CancelExecutionResult {
			got, err := s.Backend.CancelExecution(s.ctx, flowfabric.CancelExecutionArgs{ExecutionID: id, Fence: task.Fence, Reason: "r"})
			s.ok(err)
			return got
		}
		first := cancel()
		s.unchanged(id, func() {
			again := cancel()
			s.that(again.Replayed, "the repeat is not marked replayed")
			s.equal("public state", again.PublicState, first.PublicState)
		})

		id, task = s.createClaimed()
		until := s.delay(task, 5000).DelayUntil
		s.advance(100)
		s.unchanged(id, func() {
			s.equal("repeat", s.delay(task, 9000), flowfabric.DelayExecutionResult{DelayUntil: until, PublicState: flowfabric.PublicDelayed, Replayed: true})
		})
	})

	r.scenario("01.7 a receipt outlives the claim, the end and the replay that follow", func(s *scene) {
		id, task := s.createClaimed()
		s.completeWith(task, []byte("x"))
		s.replay(id)
		for _, step := range []func(){func() {}, func() { s.claimBy(id, workerB) }} {
			step()
			s.unchanged(id, func() {
				got, err := s.tryComplete(id, task.Fence)
				s.ok(err)
				s.that(got.Replayed, "the repeat is not marked replayed")
			})
		}
	})

	r.scenario("01.7 another operation, or another source, is no match", func(s *scene) {
		ends := map[string]func(flowfabric.ExecutionID, flowfabric.ClaimedExecution){
			"complete": func(_ flowfabric.ExecutionID, task flowfabric.ClaimedExecution) { s.complete(task) },
			"fail":     func(_ flowfabric.ExecutionID, task flowfabric.ClaimedExecution) { s.fail(task, "") },
			"delay":    func(_ flowfabric.ExecutionID, task flowfabric.ClaimedExecution) { s.delay(task, 60_000) },
			"cancel": func(id flowfabric.ExecutionID, task flowfabric.ClaimedExecution) {
				_, err := s.Backend.CancelExecution(s.ctx, flowfabric.CancelExecutionArgs{ExecutionID: id, Fence: task.Fence})
				s.ok(err)
			},
		}
		for _, name := range slices.Sorted(maps.Keys(ends)) {
			id, task := s.createClaimed()
			ends[name](id, task)
			s.unchanged(id, func() {
				for _, op := range fencedOps() {
					if op.name == name {
						s.ok(op.call(s, id, task.Fence, flowfabric.SourceLeaseHolder))
						continue
					}
					s.assertCode(op.call(s, id, task.Fence, flowfabric.SourceLeaseHolder), flowfabric.CodeExecutionNotActive)
				}
			})
		}
		id, task := s.createClaimed()
		_, err := flowfabric.CompleteExecution(s.ctx, s.Backend, flowfabric.CompleteExecutionArgs{ExecutionID: id, Source: flowfabric.SourceOperatorOverride})
		s.ok(err)
		_, err = s.tryComplete(id, task.Fence)
		s.assertCode(err, flowfabric.CodeExecutionNotActive)
	})

	r.scenario("01.7 a lapse, a revocation and a reclaim write no receipt", func(s *scene) {
		id, task := s.createClaimed(withPolicy(retryAtOnce))
		first := s.fail(task, "")
		second := s.claim(id)
		s.revoke(id)
		third := s.claimBy(id, workerB)
		again := s.fail(task, "")
		s.that(again.Replayed, "the receipt is gone")
		s.equal("next attempt index", again.NextAttemptIndex, first.NextAttemptIndex)
		_, err := s.tryFail(second, "")
		s.assertCode(err, flowfabric.CodeStaleLease)
		s.complete(third)
	})

	r.scenario("01.7 an expiry overwrites the receipt of an earlier release", func(s *scene) {
		id, task := s.createClaimed(withPolicy(`{"timeout_policy":{"attempt_timeout_ms":1000}}`))
		s.advance(1000)
		s.tick()
		for _, op := range fencedOps() {
			s.assertCode(op.call(s, id, task.Fence, flowfabric.SourceLeaseHolder), flowfabric.CodeExecutionNotActive)
		}
		rec := s.record(id)
		s.that(rec.ReleaseReceipt != nil, "no receipt")
		s.equal("receipt", rec.ReleaseReceipt.Op, flowfabric.ReceiptExpire)
	})

	r.scenario("01.7 an unfenced repeat has no receipt match", func(s *scene) {
		id, _ := s.createClaimed()
		override := flowfabric.CompleteExecutionArgs{ExecutionID: id, Source: flowfabric.SourceOperatorOverride}
		_, err := flowfabric.CompleteExecution(s.ctx, s.Backend, override)
		s.ok(err)
		_, err = flowfabric.CompleteExecution(s.ctx, s.Backend, override)
		s.assertCode(err, flowfabric.CodeExecutionNotActive)
		s.assertDetail(err, "terminal_outcome", "success")
	})
}
