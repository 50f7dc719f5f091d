package backendtest

import (
	"fmt"
	"slices"
	"strings"

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

// listScenarios: specification 01, section 8.12.
func listScenarios(r *runner) {
	r.scenario("01.37 fifteen executions in pages of five", func(s *scene) {
		var want []flowfabric.ExecutionID
		for range 15 {
			want = append(want, s.create(onPartition(testPartition)))
		}
		slices.Sort(want)
		s.create(onPartition(testPartition + 1))
		var got []flowfabric.ExecutionID
		var cursors []bool
		var cursor flowfabric.ExecutionID
		for range 3 {
			page, err := s.Backend.ListExecutions(s.ctx, flowfabric.ListExecutionsArgs{Partition: testPartition, Limit: 5, Cursor: cursor})
			s.ok(err)
			s.equal("page size", len(page.Executions), 5)
			got = append(got, summaryIDs(page.Executions)...)
			cursor = page.NextCursor
			cursors = append(cursors, cursor != "")
		}
		s.equal("identifiers", got, want)
		s.equal("cursors", cursors, []bool{true, true, false})
		page, err := s.Backend.ListExecutions(s.ctx, flowfabric.ListExecutionsArgs{Partition: testPartition})
		s.ok(err)
		s.equal("default limit takes all", len(page.Executions), 15)
	})

	r.scenario("01.37 limits and cursors are refused, not clamped", func(s *scene) {
		for _, limit := range []int{-1, 1001} {
			_, err := s.Backend.ListExecutions(s.ctx, flowfabric.ListExecutionsArgs{Partition: testPartition, Limit: limit})
			s.assertField(err, "limit")
		}
		for _, cursor := range []flowfabric.ExecutionID{"nonsense", idOn(testPartition + 1)} {
			_, err := s.Backend.ListExecutions(s.ctx, flowfabric.ListExecutionsArgs{Partition: testPartition, Cursor: cursor})
			s.assertCode(err, flowfabric.CodeInvalidCursor)
		}
		_, err := s.Backend.ListExecutions(s.ctx, flowfabric.ListExecutionsArgs{Partition: 60_000})
		s.assertField(err, "partition")
	})

	r.scenario("01.8.12 the summary shows the record", func(s *scene) {
		id := s.create(onPartition(testPartition), withKind("k"), withPriority(9))
		s.operatorCancel(id)
		page, err := s.Backend.ListExecutions(s.ctx, flowfabric.ListExecutionsArgs{Partition: testPartition})
		s.ok(err)
		s.equal("rows", page.Executions, []flowfabric.ExecutionSummary{{
			ExecutionID: id, Namespace: testNamespace, LaneID: testLane, Kind: "k",
			PublicState: flowfabric.PublicCancelled, Priority: 9, CreatedAt: s.describe(id).CreatedAt,
		}})
	})

	r.scenario("01.8.12 all filters must hold", func(s *scene) {
		at := onPartition(testPartition)
		plainID := s.create(at)
		tagged := s.create(at, withTags("a.x", "1", "a.y", "2"))
		other := s.create(at, withNamespace("other"), withLane("other"), withKind("other"))
		done := s.create(at)
		s.operatorCancel(done)
		for name, c := range map[string]struct {
			args flowfabric.ListExecutionsArgs
			want []flowfabric.ExecutionID
		}{
			"namespace":      {flowfabric.ListExecutionsArgs{Namespace: "other"}, []flowfabric.ExecutionID{other}},
			"namespaces":     {flowfabric.ListExecutionsArgs{Namespaces: []flowfabric.Namespace{"other", "none"}}, []flowfabric.ExecutionID{other}},
			"no namespace":   {flowfabric.ListExecutionsArgs{Namespaces: []flowfabric.Namespace{}}, nil},
			"lane":           {flowfabric.ListExecutionsArgs{LaneID: "other"}, []flowfabric.ExecutionID{other}},
			"kind":           {flowfabric.ListExecutionsArgs{Kind: "other"}, []flowfabric.ExecutionID{other}},
			"state":          {flowfabric.ListExecutionsArgs{PublicStates: []flowfabric.PublicState{flowfabric.PublicCancelled}}, []flowfabric.ExecutionID{done}},
			"states":         {flowfabric.ListExecutionsArgs{PublicStates: []flowfabric.PublicState{flowfabric.PublicCancelled, flowfabric.PublicWaiting}}, []flowfabric.ExecutionID{plainID, tagged, other, done}},
			"flow":           {flowfabric.ListExecutionsArgs{FlowID: "0190f3c2-7b1a-7c3d-8e4f-0123456789ab"}, nil},
			"tag":            {flowfabric.ListExecutionsArgs{Tags: tags("a.x", "1")}, []flowfabric.ExecutionID{tagged}},
			"tags":           {flowfabric.ListExecutionsArgs{Tags: tags("a.x", "1", "a.y", "2")}, []flowfabric.ExecutionID{tagged}},
			"one tag of two": {flowfabric.ListExecutionsArgs{Tags: tags("a.x", "1", "a.y", "3")}, nil},
			"kind and state": {flowfabric.ListExecutionsArgs{Kind: "other", PublicStates: []flowfabric.PublicState{flowfabric.PublicCancelled}}, nil},
		} {
			if c.args.Namespaces != nil && s.Remote {
				continue // a token decides there
			}
			c.args.Partition = testPartition
			page, err := s.Backend.ListExecutions(s.ctx, c.args)
			s.ok(err)
			slices.Sort(c.want)
			s.equal("filter by "+name, summaryIDs(page.Executions), c.want)
			s.equal("cursor of "+name, page.NextCursor, flowfabric.ExecutionID(""))
		}
		_, err := s.Backend.ListExecutions(s.ctx, flowfabric.ListExecutionsArgs{Partition: testPartition, PublicStates: []flowfabric.PublicState{"nope"}})
		s.assertCode(err, flowfabric.CodeInvalidInput)
	})

	r.scenario("01.8.12 a filtered page goes on behind its cursor", func(s *scene) {
		var want []flowfabric.ExecutionID
		for i := range 12 {
			id := s.create(onPartition(testPartition), withKind([]string{"odd", "even"}[i%2]))
			if i%2 == 0 {
				want = append(want, id)
			}
		}
		slices.Sort(want)
		var got []flowfabric.ExecutionID
		args := flowfabric.ListExecutionsArgs{Partition: testPartition, Kind: "odd", Limit: 4}
		for range 12 {
			page, err := s.Backend.ListExecutions(s.ctx, args)
			s.ok(err)
			got = append(got, summaryIDs(page.Executions)...)
			if page.NextCursor == "" {
				break
			}
			args.Cursor = page.NextCursor
		}
		s.equal("identifiers", got, want)
	})

	r.scenario("01.8.12 forward only: created later, purged between pages", func(s *scene) {
		at := func(n int) flowfabric.ExecutionID {
			return flowfabric.ExecutionID(fmt.Sprintf("{fp:7}:%08d-0000-4000-8000-000000000000", n))
		}
		for _, n := range []int{10, 20, 30} {
			s.create(withID(at(n)), withPolicy(`{"retention_ms":0}`))
		}
		page, err := s.Backend.ListExecutions(s.ctx, flowfabric.ListExecutionsArgs{Partition: 7, Limit: 1})
		s.ok(err)
		s.equal("cursor", page.NextCursor, at(10))
		s.create(withID(at(5)))
		s.create(withID(at(15)))
		s.operatorCancel(at(20))
		_, err = s.store().Purge(s.ctx, at(20))
		s.ok(err)
		page, err = s.Backend.ListExecutions(s.ctx, flowfabric.ListExecutionsArgs{Partition: 7, Cursor: page.NextCursor})
		s.ok(err)
		s.equal("the rest", summaryIDs(page.Executions), []flowfabric.ExecutionID{at(15), at(30)})
	})
}

// tagScenarios: specification 01, section 8.9.
func tagScenarios(r *runner) {
	r.scenario("01.38 set, add, remove", func(s *scene) {
		id := s.create()
		n, err := s.Backend.SetExecutionTags(s.ctx, id, tags("cairn.a", "1", "cairn.b", "2"))
		s.ok(err)
		s.equal("count", n, 2)
		n, err = s.Backend.SetExecutionTags(s.ctx, id, tags("cairn.c", "3"))
		s.ok(err)
		s.equal("count", n, 1)
		s.equal("tags", s.describe(id).Tags, tags("cairn.a", "1", "cairn.b", "2", "cairn.c", "3"))
		n, err = s.Backend.SetExecutionTags(s.ctx, id, tags("cairn.a", "one"))
		s.ok(err)
		s.equal("count of an upsert", n, 1)
		removed, err := s.Backend.RemoveExecutionTag(s.ctx, id, "cairn.c")
		s.ok(err)
		s.that(removed, "the tag was not removed")
		s.unchanged(id, func() {
			removed, err = s.Backend.RemoveExecutionTag(s.ctx, id, "cairn.c")
			s.ok(err)
			s.that(!removed, "removed twice")
		})
		got, err := s.Backend.GetExecutionTags(s.ctx, id)
		s.ok(err)
		s.equal("tags", got, tags("cairn.a", "one", "cairn.b", "2"))
	})

	r.scenario("01.38 malformed keys are refused whole", func(s *scene) {
		id := s.create(withTags("a.b", "c"))
		s.unchanged(id, func() {
			for _, key := range []string{"no_dot", "Cairn.x", "cairn.", "cairn..x", "a.b-c", ".x", "1a.b", "", "a." + strings.Repeat("x", 255)} {
				_, err := s.Backend.SetExecutionTags(s.ctx, id, tags("ok.key", "v", key, "v"))
				s.that(err != nil, "key %q was accepted", key)
				s.assertCode(err, flowfabric.CodeInvalidTagKey)
				_, err = s.Backend.RemoveExecutionTag(s.ctx, id, key)
				s.that(err != nil, "key %q was accepted by the removal", key)
				s.assertCode(err, flowfabric.CodeInvalidTagKey)
				_, err = s.tryCreate(withTags(key, "v"))
				s.assertCode(err, flowfabric.CodeInvalidTagKey)
			}
			_, err := s.Backend.SetExecutionTags(s.ctx, id, nil)
			s.assertCode(err, flowfabric.CodeInvalidInput)
			_, err = s.Backend.SetExecutionTags(s.ctx, id, tags("a.b", strings.Repeat("v", 4097)))
			s.assertCode(err, flowfabric.CodeInvalidInput)
			_, err = s.Backend.SetExecutionTags(s.ctx, id, tags("a.b", "\xff"))
			s.assertCode(err, flowfabric.CodeInvalidInput)
		})
		_, err := s.Backend.SetExecutionTags(s.ctx, id, tags("a."+strings.Repeat("x", 254), strings.Repeat("v", 4096), "a_1.b.c_2", "é"))
		s.ok(err)
	})

	r.scenario("01.38 a missing execution has no tags and takes none", func(s *scene) {
		id := idOn(2)
		got, err := s.Backend.GetExecutionTags(s.ctx, id)
		s.ok(err)
		s.equal("tags", len(got), 0)
		_, err = s.Backend.SetExecutionTags(s.ctx, id, tags("a.b", "c"))
		s.assertCode(err, flowfabric.CodeExecutionNotFound)
		_, err = s.Backend.SetExecutionTags(s.ctx, id, tags("bad", "c"))
		s.assertCode(err, flowfabric.CodeInvalidTagKey)
	})

	r.scenario("01.8.9 at most 128 tags after the merge", func(s *scene) {
		many := make(map[string]string)
		for i := range 128 {
			many[fmt.Sprintf("a.k%d", i)] = "v"
		}
		id := s.create(func(a *flowfabric.CreateExecutionArgs) { a.Tags = many })
		s.unchanged(id, func() {
			_, err := s.Backend.SetExecutionTags(s.ctx, id, tags("a.one_more", "v"))
			s.assertCode(err, flowfabric.CodeInvalidInput)
		})
		_, err := s.Backend.SetExecutionTags(s.ctx, id, tags("a.k0", "again"))
		s.ok(err)
		many["a.k128"] = "v"
		_, err = s.tryCreate(func(a *flowfabric.CreateExecutionArgs) { a.Tags = many })
		s.assertCode(err, flowfabric.CodeInvalidInput)
	})

	r.scenario("01.8.9 tags may be set in every phase, and each write is a mutation", func(s *scene) {
		id, task := s.createClaimed(withTags("a.b", "c"))
		s.complete(task)
		v := s.vector(id)
		before := s.describe(id)
		s.advance(5)
		_, err := s.Backend.SetExecutionTags(s.ctx, id, tags("a.b", "c"))
		s.ok(err)
		after := s.describe(id)
		s.equal("last_mutation_at", after.LastMutationAt, before.LastMutationAt+5)
		s.equal("last_transition_at", after.LastTransitionAt, before.LastTransitionAt)
		s.is(id, v)
	})
}
