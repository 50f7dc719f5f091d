package backendtest

import (
	"github.com/flowfabric/flowfabric"
)

// readScenarios: specification 01, sections 8.10 and 8.11.
func readScenarios(r *runner) {
	r.scenario("01.35 describe an unknown identifier", func(s *scene) {
		snap, err := s.Backend.DescribeExecution(s.ctx, idOn(5))
		s.ok(err)
		s.that(snap == nil, "a snapshot of nothing: %+v", snap)
	})

	r.scenario("01.35 a stored public state that is none is a corrupt record", func(s *scene) {
		id := s.create()
		s.corrupt(id, "public_state")
		_, err := s.Backend.DescribeExecution(s.ctx, id)
		s.assertCode(err, flowfabric.CodeCorruptRecord)
		s.assertMentions(err, "public_state")
	})

	r.scenario("01.8.11 decoding is strict", func(s *scene) {
		for _, field := range []string{"created_at", "last_mutation_at", "lifecycle_phase"} {
			id, _ := s.createClaimed()
			s.corrupt(id, field)
			_, err := s.Backend.DescribeExecution(s.ctx, id)
			s.that(err != nil, "a spoiled %s was read", field)
			s.assertCode(err, flowfabric.CodeCorruptRecord)
			s.assertMentions(err, field)
		}
	})

	r.scenario("01.8.12 a malformed member is a corrupt record, not skipped", func(s *scene) {
		id := s.create(onPartition(testPartition))
		s.corrupt(id, "public_state")
		_, err := s.Backend.ListExecutions(s.ctx, flowfabric.ListExecutionsArgs{Partition: testPartition})
		s.assertCode(err, flowfabric.CodeCorruptRecord)
	})

	r.scenario("01.36 describe after claim and after complete", func(s *scene) {
		id := s.create(withTags("app.name", "x"), withKind("report"))
		claimedAt := s.now()
		task := s.claim(id)
		s.advance(2000)
		_, err := s.renew(task, testTTL)
		s.ok(err)
		d := s.describe(id)
		s.equal("attempt", *d.CurrentAttempt, flowfabric.CurrentAttempt{AttemptID: task.AttemptID, AttemptIndex: 0})
		s.equal("lease", *d.CurrentLease, flowfabric.CurrentLease{
			LeaseEpoch: 1, WorkerInstanceID: workerA.instance, ExpiresAt: s.now() + flowfabric.Millis(testTTL), AttemptIndex: 0, LastHeartbeatAt: s.now(),
		})
		s.that(d.ProgressPct == nil && d.ProgressMessage == "", "there is progress")
		s.equal("started_at", d.StartedAt, claimedAt)
		s.equal("kind, lane, namespace, tags", facts(d.Kind, d.LaneID, d.Namespace, d.Tags), "report work test map[app.name:x]")
		s.equal("blocking reason", d.BlockingReason, flowfabric.BlockingReason(""))
		s.complete(task)
		d = s.describe(id)
		s.that(d.CurrentLease == nil, "an ended execution has a lease")
		s.equal("attempt still shown", d.CurrentAttempt.AttemptIndex, uint32(0))
	})

	r.scenario("01.36 a lapsed lease nobody marked still shows", func(s *scene) {
		id, task := s.createClaimed()
		s.advanceTo(task.LeaseExpiresAt + 1)
		d := s.describe(id)
		s.that(d.CurrentLease != nil && d.CurrentLease.ExpiresAt < s.now(), "lease is %+v", d.CurrentLease)
		s.is(id, activeVector())
		s.lapse(task)
		s.that(s.describe(id).CurrentLease == nil, "a marked lapse still shows a lease")
	})

	r.scenario("01.8.10 reads of an unknown execution", func(s *scene) {
		id := idOn(5)
		s.missing(id)
	})

	r.scenario("01.8.10 GetExecution gives the record", func(s *scene) {
		id := s.create(withKey("key-1"), withCapabilities("b", "a"), withPriority(4))
		task := s.claimBy(id, workerA.can("a", "b", "c"))
		rec := s.record(id)
		s.equal("identity", facts(rec.ExecutionID == id, rec.CreatorIdentity, rec.IdempotencyKey, rec.Priority), "true tester key-1 4")
		s.equal("required capabilities", rec.RequiredCapabilities, []string{"a", "b"})
		s.equal("lease mirror", facts(rec.CurrentLeaseID == task.Fence.LeaseID, rec.CurrentLeaseEpoch, rec.CurrentWorkerID, rec.CurrentWorkerInstanceID, rec.CurrentLane),
			facts(true, 1, "pool-a", "a-1", "work"))
		s.that(len(rec.SpecDigest) == 64, "spec_digest is %q", rec.SpecDigest)
		s.equal("terminal_seq", rec.TerminalSeq, uint64(0))
		s.complete(task)
		rec = s.record(id)
		s.equal("lease mirror after the end", facts(rec.CurrentLeaseID, rec.CurrentLeaseEpoch, rec.CurrentWorkerID, rec.LeaseExpiresAt), facts("", 1, "", 0))
		s.equal("terminal_seq", rec.TerminalSeq, uint64(1))
		state, err := s.Backend.GetExecutionState(s.ctx, id)
		s.ok(err)
		s.equal("state", state, flowfabric.PublicCompleted)
	})

	r.scenario("01.8.10 ReadExecutionContext", func(s *scene) {
		id := s.create(withPayload([]byte("in")), withTags("a.b", "c"), withPolicy(`{"timeout_policy":{"attempt_timeout_ms":777}}`))
		c, err := s.Backend.ReadExecutionContext(s.ctx, id)
		s.ok(err)
		s.that(c.AttemptType == "" && c.PolicySnapshot == nil, "an unclaimed execution has an attempt: %+v", c)
		s.claim(id)
		c, err = s.Backend.ReadExecutionContext(s.ctx, id)
		s.ok(err)
		s.equal("context", facts(string(c.Payload), c.PayloadEncoding, c.Kind, c.Tags, c.AttemptType), "in json task map[a.b:c] initial")
		s.that(c.PolicySnapshot != nil && c.PolicySnapshot.TimeoutMs == 777, "policy snapshot is %+v", c.PolicySnapshot)
	})

	r.scenario("contract: what is given away is a copy", func(s *scene) {
		id := s.create(withTags("a.b", "c"), withPayload([]byte("in")))
		in, err := s.Backend.GetExecutionInput(s.ctx, id)
		s.ok(err)
		in.Payload[0] = 'X'
		s.describe(id).Tags["a.b"] = "changed"
		in, err = s.Backend.GetExecutionInput(s.ctx, id)
		s.ok(err)
		s.equal("input", string(in.Payload), "in")
		s.equal("tags", s.describe(id).Tags, tags("a.b", "c"))
	})
}

// corrupt spoils a field of a stored record, or skips the scenario.
func (s *scene) corrupt(id flowfabric.ExecutionID, field string) {
	s.t.Helper()
	if s.Corrupt == nil || !s.Corrupt(s.t, id, field) {
		s.t.Skipf("the harness cannot spoil %s", field)
	}
}

// missing fails unless every read and operation says that the execution does not
// exist.
func (s *scene) missing(id flowfabric.ExecutionID) {
	s.t.Helper()
	snap, err := s.Backend.DescribeExecution(s.ctx, id)
	s.ok(err)
	s.that(snap == nil, "there is a snapshot")
	s.noResult(id)
	got, err := s.Backend.GetExecutionTags(s.ctx, id)
	s.ok(err)
	s.equal("tags", len(got), 0)
	for name, call := range map[string]func() error{
		"GetLease":             func() error { _, err := s.Backend.GetLease(s.ctx, id); return err },
		"GetExecution":         func() error { _, err := s.Backend.GetExecution(s.ctx, id); return err },
		"GetExecutionState":    func() error { _, err := s.Backend.GetExecutionState(s.ctx, id); return err },
		"GetExecutionInput":    func() error { _, err := s.Backend.GetExecutionInput(s.ctx, id); return err },
		"ReadExecutionContext": func() error { _, err := s.Backend.ReadExecutionContext(s.ctx, id); return err },
		"GetAttempt":           func() error { _, err := s.Backend.GetAttempt(s.ctx, id, 0); return err },
		"GetCurrentAttempt":    func() error { _, err := s.Backend.GetCurrentAttempt(s.ctx, id); return err },
		"ListAttempts": func() error {
			_, err := s.Backend.ListAttempts(s.ctx, flowfabric.ListAttemptsArgs{ExecutionID: id})
			return err
		},
		"SetExecutionTags":   func() error { _, err := s.Backend.SetExecutionTags(s.ctx, id, tags("a.b", "c")); return err },
		"RemoveExecutionTag": func() error { _, err := s.Backend.RemoveExecutionTag(s.ctx, id, "a.b"); return err },
		"CancelExecution": func() error {
			_, err := s.Backend.CancelExecution(s.ctx, flowfabric.CancelExecutionArgs{ExecutionID: id, Source: flowfabric.SourceOperatorOverride})
			return err
		},
		"ReplayExecution": func() error {
			_, err := s.Backend.ReplayExecution(s.ctx, flowfabric.ReplayExecutionArgs{ExecutionID: id})
			return err
		},
		"ChangePriority": func() error {
			_, err := s.Backend.ChangePriority(s.ctx, flowfabric.ChangePriorityArgs{ExecutionID: id})
			return err
		},
		"PauseExecution": func() error {
			_, err := s.Backend.PauseExecution(s.ctx, flowfabric.BlockExecutionArgs{ExecutionID: id})
			return err
		},
		"UnpauseExecution": func() error {
			_, err := s.Backend.UnpauseExecution(s.ctx, flowfabric.BlockExecutionArgs{ExecutionID: id})
			return err
		},
		"RevokeLease": func() error {
			_, err := s.Backend.RevokeLease(s.ctx, flowfabric.RevokeLeaseArgs{ExecutionID: id})
			return err
		},
		"ReleaseReclaimHold": func() error { _, err := s.Backend.ReleaseReclaimHold(s.ctx, id); return err },
		"IssueGrantAndClaim": func() error { _, err := s.tryClaim(id, workerA); return err },
		"ClaimGranted": func() error {
			_, err := s.consume(flowfabric.Grant{ExecutionID: id, GrantID: "g", LaneID: testLane}, workerA)
			return err
		},
		"IssueReclaimGrant": func() error { _, err := s.reclaimGrant(id, workerA); return err },
		"ExplainRouting":    func() error { _, err := s.Backend.ExplainRouting(s.ctx, id); return err },
		"WaitExecution": func() error {
			_, err := s.Backend.WaitExecution(s.ctx, flowfabric.WaitExecutionArgs{ExecutionID: id})
			return err
		},
	} {
		if err := call(); flowfabric.CodeOf(err) != flowfabric.CodeExecutionNotFound {
			s.t.Errorf("%s of a missing execution gives %v, want execution_not_found", name, err)
		}
	}
	if !s.Remote {
		_, err := s.Backend.GetExecutionPolicy(s.ctx, id)
		s.assertCode(err, flowfabric.CodeExecutionNotFound)
	}
	for _, op := range fencedOps() {
		if err := op.call(s, id, strangeFence(), flowfabric.SourceLeaseHolder); flowfabric.CodeOf(err) != flowfabric.CodeExecutionNotFound {
			s.t.Errorf("%s of a missing execution gives %v, want execution_not_found", op.name, err)
		}
	}
}
