package backendtest

import (
	"bytes"
	"context"
	"strings"
	"sync"

	"github.com/google/uuid"

	"github.com/flowfabric/flowfabric"
)

// identifierScenarios: specification 01, section 2.
func identifierScenarios(r *runner) {
	const u = "0190f3c2-7b1a-7c3d-8e4f-0123456789ab"

	r.scenario("01.01 an identifier parses to its text and partition", func(s *scene) {
		id, err := flowfabric.ParseExecutionID("{fp:7}:" + u)
		s.ok(err)
		s.equal("text", string(id), "{fp:7}:"+u)
		s.equal("partition", id.Partition(), uint16(7))
		for text, kind := range map[string]string{
			u:                              flowfabric.KindMissingTag,
			"{fp:7" + u:                    flowfabric.KindMissingTag,
			"{fp:x}:" + u:                  flowfabric.KindInvalidPartitionIndex,
			"{fp:65536}:" + u:              flowfabric.KindInvalidPartitionIndex,
			"{fp:07}:" + u:                 flowfabric.KindInvalidPartitionIndex,
			"{fp:1}:nope":                  flowfabric.KindInvalidUUID,
			"{fp:1}:" + strings.ToUpper(u): flowfabric.KindInvalidUUID,
		} {
			_, err := s.Backend.GetExecutionState(s.ctx, flowfabric.ExecutionID(text))
			s.assertCode(err, flowfabric.CodeInvalidExecutionID)
			s.assertDetail(err, "kind", kind)
		}
	})

	r.scenario("01.02 the partition is read from the identifier", func(s *scene) {
		flow := flowfabric.FlowID(uuid.NewString())
		id := flowfabric.PartitionConfig{NumFlowPartitions: 256}.NewFlowExecutionID(flow)
		n := id.Partition()
		other := flowfabric.PartitionConfig{NumFlowPartitions: 16}
		s.that(other.NewFlowExecutionID(flow).Partition() < 16, "minting ignores the partition count")
		s.equal("partition", id.Partition(), n)
		// A deployment looks an execution up by the embedded number alone.
		far := s.create(withID(idOn(255)))
		s.equal("listed on partition 255", s.listed(255), []flowfabric.ExecutionID{far})
	})

	r.scenario("01.02 a partition beyond the deployment's is refused at the edge", func(s *scene) {
		id := idOn(60_000)
		f := strangeFence()
		calls := map[string]func() error{
			"create":   func() error { _, err := s.tryCreate(withID(id)); return err },
			"complete": func() error { _, err := s.tryComplete(id, f); return err },
			"cancel": func() error {
				_, err := s.Backend.CancelExecution(s.ctx, flowfabric.CancelExecutionArgs{ExecutionID: id, Source: flowfabric.SourceOperatorOverride})
				return err
			},
			"describe": func() error { _, err := s.Backend.DescribeExecution(s.ctx, id); return err },
			"claim":    func() error { _, err := s.tryClaim(id, workerA); return err },
			"lease":    func() error { _, err := s.Backend.GetLease(s.ctx, id); return err },
			"tags": func() error {
				_, err := s.Backend.SetExecutionTags(s.ctx, id, tags("a.b", "c"))
				return err
			},
		}
		for name, call := range calls {
			err := call()
			s.that(err != nil, "%s: no error", name)
			s.assertField(err, "execution_id")
		}
	})

	r.scenario("01.03 minting is deterministic", func(s *scene) {
		cfg, err := s.Backend.PartitionConfig(s.ctx)
		s.ok(err)
		flow := flowfabric.FlowID(uuid.NewString())
		a := cfg.FlowExecutionID(flow, uuid.MustParse(u))
		s.equal("same flow and UUID", cfg.FlowExecutionID(flow, uuid.MustParse(u)), a)
		s.equal("partition of random minting", cfg.NewFlowExecutionID(flow).Partition(), a.Partition())
		zero := cfg.FlowExecutionID(flow, uuid.Nil)
		s.equal("nil UUID", s.create(withID(zero)), zero)
		b := cfg.StandaloneExecutionID(testLane, uuid.MustParse(u))
		s.equal("same lane and UUID", cfg.StandaloneExecutionID(testLane, uuid.MustParse(u)), b)
	})

	r.scenario("01.04 lanes, namespaces and kinds keep to their grammar", func(s *scene) {
		s.create(withLane(flowfabric.LaneID(strings.Repeat("x", 64))))
		s.create(withLane("with a space"))
		for _, c := range []struct {
			lane   string
			reason string
			key    string
			value  any
		}{
			{strings.Repeat("x", 65), "too_long", "length", 65},
			{"", "empty", "", nil},
			{"bad\nlane", "non_printable", "index", 3},
			{"a{b", "brace", "index", 1},
			{"é", "non_printable", "index", 0},
		} {
			_, err := s.tryCreate(withLane(flowfabric.LaneID(c.lane)))
			s.assertField(err, "lane_id")
			s.assertDetail(err, "reason", c.reason)
			if c.key != "" {
				s.assertDetail(err, c.key, c.value)
			}
		}
		for _, ns := range []flowfabric.Namespace{"*", "", "a b", "a{b", flowfabric.Namespace(strings.Repeat("n", 129))} {
			_, err := s.tryCreate(withNamespace(ns))
			s.assertField(err, "namespace")
		}
		s.create(withNamespace(flowfabric.Namespace(strings.Repeat("n", 128))))
		for _, kind := range []string{"a b", "", "é", strings.Repeat("k", 129)} {
			_, err := s.tryCreate(withKind(kind))
			s.assertField(err, "execution_kind")
		}
		s.create(withKind(strings.Repeat("k", 128)))
	})
}

// createScenarios: specification 01, section 8.1.
func createScenarios(r *runner) {
	r.scenario("01.05 create without delay is waiting", func(s *scene) {
		id := s.create(onPartition(testPartition))
		s.is(id, waitingVector(flowfabric.AttemptPendingFirst))
		d := s.describe(id)
		s.equal("created_at = last_mutation_at", d.CreatedAt, d.LastMutationAt)
		s.equal("created_at = last_transition_at", d.CreatedAt, d.LastTransitionAt)
		s.equal("attempts, retries, reclaims, replays",
			[]uint32{d.TotalAttemptCount, d.RetryCount, d.LeaseReclaimCount, d.ReplayCount}, []uint32{0, 0, 0, 0})
		s.that(d.CurrentAttempt == nil && d.CurrentLease == nil, "a fresh execution has an attempt or a lease")
		s.equal("listed", s.listed(testPartition), []flowfabric.ExecutionID{id})
		s.equal("eligible", s.eligible(), []flowfabric.ExecutionID{id})
		s.noLease(id)
		if s.Clock != nil {
			s.equal("created_at", d.CreatedAt, s.now())
			s.unchanged(id, s.tick)
		}
	})

	r.scenario("01.06 create with delay_until is delayed", func(s *scene) {
		at := s.now() + 300_000
		id := s.create(withDelayUntil(at))
		s.is(id, delayedVector(flowfabric.ReasonWaitingForDelay, flowfabric.AttemptPendingFirst))
		d := s.describe(id)
		s.equal("delay_until", d.DelayUntil, at)
		s.that(strings.HasPrefix(d.BlockingDetail, "delayed until "), "detail is %q", d.BlockingDetail)
		s.that(!contains(s.eligible(), id), "a delayed execution is eligible")
		s.equal("tasks", len(s.takeTasks(workerA, 10)), 0)
	})

	r.scenario("01.06 create with a delay_until in the past is waiting", func(s *scene) {
		id := s.create(withDelayUntil(s.now() - 1))
		s.is(id, waitingVector(flowfabric.AttemptPendingFirst))
		s.equal("delay_until", s.describe(id).DelayUntil, flowfabric.Millis(0))
		now := s.create(withDelayUntil(s.now()))
		s.is(now, waitingVector(flowfabric.AttemptPendingFirst))
	})

	r.scenario("01.06 the policy's delay_until holds when the create has none", func(s *scene) {
		id := s.create(withPolicy(`{"delay_until":` + plain(s.now()+5000) + `}`))
		s.equal("delay_until", s.describe(id).DelayUntil, s.now()+5000)
		both := s.create(withPolicy(`{"delay_until":`+plain(s.now()+5000)+`}`), withDelayUntil(s.now()+9000))
		s.equal("delay_until", s.describe(both).DelayUntil, s.now()+9000)
	})

	r.scenario("01.07 priority is clamped and orders", func(s *scene) {
		mid := s.create(onPartition(testPartition), withPriority(50))
		low := s.create(onPartition(testPartition), withPriority(-5))
		high := s.create(onPartition(testPartition), withPriority(10_000))
		s.equal("priorities", []int32{s.describe(high).Priority, s.describe(mid).Priority, s.describe(low).Priority}, []int32{9000, 50, 0})
		s.equal("claim order", s.eligible(), []flowfabric.ExecutionID{high, mid, low})
		fromPolicy := s.create(withPolicy(`{"priority":70}`))
		s.equal("priority of the policy", s.describe(fromPolicy).Priority, int32(70))
		wins := s.create(withPolicy(`{"priority":70}`), withPriority(3))
		s.equal("priority of the create", s.describe(wins).Priority, int32(3))
	})

	r.scenario("01.08 a repeated execution_id is a duplicate", func(s *scene) {
		id := idOn(testPartition)
		s.create(withID(id), withPayload([]byte("first")))
		s.unchanged(id, func() {
			again, err := s.tryCreate(withID(id), withPayload([]byte("first")))
			s.ok(err)
			s.equal("repeat", again, flowfabric.CreateExecutionResult{Outcome: flowfabric.OutcomeDuplicate, ExecutionID: id, SameSpec: true})
			other, err := s.tryCreate(withID(id), withPayload([]byte("second")))
			s.ok(err)
			s.equal("other payload", other, flowfabric.CreateExecutionResult{Outcome: flowfabric.OutcomeDuplicate, ExecutionID: id})
		})
		in, err := s.Backend.GetExecutionInput(s.ctx, id)
		s.ok(err)
		s.equal("stored input", string(in.Payload), "first")
	})

	r.scenario("01.08 same_spec covers kind, lane, payload and policy alone", func(s *scene) {
		base := []createOption{withKey("k"), withPolicy(`{"max_replay_count":2}`)}
		s.create(base...)
		for name, c := range map[string]struct {
			opt  createOption
			same bool
		}{
			"same":     {withKey("k"), true},
			"tags":     {withTags("a.b", "c"), true},
			"priority": {withPriority(7), true},
			"kind":     {withKind("other"), false},
			"lane":     {withLane("other"), false},
			"payload":  {withPayload([]byte("x")), false},
			"policy":   {withPolicy(`{"max_replay_count":3}`), false},
		} {
			again, err := s.tryCreate(append(base, c.opt)...)
			s.ok(err)
			s.equal("outcome with another "+name, again.Outcome, flowfabric.OutcomeDuplicate)
			s.equal("same_spec with another "+name, again.SameSpec, c.same)
		}
	})

	r.scenario("01.09 concurrent creates with one key agree on one execution", func(s *scene) {
		const n = 16
		var wg sync.WaitGroup
		results := make([]flowfabric.CreateExecutionResult, n)
		errs := make([]error, n)
		for i := range n {
			wg.Go(func() { results[i], errs[i] = s.tryCreate(onPartition(uint16(i*3)), withKey("order-1")) })
		}
		wg.Wait()
		created := 0
		for i := range n {
			s.ok(errs[i])
			s.equal("identifier", results[i].ExecutionID, results[0].ExecutionID)
			if results[i].Outcome == flowfabric.OutcomeCreated {
				created++
			}
		}
		s.equal("created", created, 1)
		total := 0
		for i := range n {
			total += len(s.listed(uint16(i * 3)))
		}
		s.equal("executions", total, 1)
	})

	r.scenario("01.10 keys are scoped by namespace", func(s *scene) {
		a := s.create(withNamespace("a"), withKey("k"))
		b := s.create(withNamespace("b"), withKey("k"))
		s.that(a != b, "one execution for two namespaces")
		r, err := s.tryCreate(withNamespace("a"), withKey("k"), withLane("elsewhere"))
		s.ok(err)
		s.equal("lane does not matter", r.ExecutionID, a)
	})

	r.scenario("01.10 a key is free after its window", func(s *scene) {
		policy := withPolicy(`{"dedup_window_ms":1000}`)
		first := s.create(withKey("k"), policy)
		s.advance(999)
		r, err := s.tryCreate(withKey("k"), policy)
		s.ok(err)
		s.equal("inside the window", r.ExecutionID, first)
		s.advance(1)
		second := s.create(withKey("k"), policy)
		s.that(second != first, "the key still names the first execution")
	})

	r.scenario("01.10 the window is never longer than the retention, and 0 is none", func(s *scene) {
		short := withPolicy(`{"retention_ms":500}`)
		first := s.create(withKey("short"), short)
		s.advance(500)
		s.that(s.create(withKey("short"), short) != first, "the key outlives the retention")
		none := withPolicy(`{"dedup_window_ms":0}`)
		once, again := s.create(withKey("none"), none), s.create(withKey("none"), none)
		s.that(once != again, "a window of 0 dedups")
	})

	r.scenario("01.10 a key is bound to the identifier also when that existed", func(s *scene) {
		id := s.create(onPartition(testPartition))
		r, err := s.tryCreate(withID(id), withKey("late"))
		s.ok(err)
		s.equal("outcome", r.Outcome, flowfabric.OutcomeDuplicate)
		r, err = s.tryCreate(withKey("late"))
		s.ok(err)
		s.equal("outcome of the next", r.Outcome, flowfabric.OutcomeDuplicate)
		s.equal("identifier of the next", r.ExecutionID, id)
	})

	r.scenario("01.11 a refused policy leaves nothing behind", func(s *scene) {
		id := idOn(testPartition)
		_, err := s.tryCreate(withID(id), withKey("k"), withTags("a.b", "c"), withPolicy(`{"retry_policy":{"max_retries":`))
		s.assertCode(err, flowfabric.CodeInvalidPolicyJSON)
		snap, err := s.Backend.DescribeExecution(s.ctx, id)
		s.ok(err)
		s.that(snap == nil, "an execution came to be")
		got, err := s.Backend.GetExecutionTags(s.ctx, id)
		s.ok(err)
		s.equal("tags", len(got), 0)
		s.equal("listed", len(s.listed(testPartition)), 0)
		s.that(s.create(withKey("k")) != id, "the key was reserved")
	})

	r.scenario("01.13 payloads come back byte for byte", func(s *scene) {
		raw := []byte{0xFF, 0xFE, 0x00, 0xC0, 0x80}
		id := s.create(withPayload(raw), func(a *flowfabric.CreateExecutionArgs) { a.PayloadEncoding = "x-raw" })
		in, err := s.Backend.GetExecutionInput(s.ctx, id)
		s.ok(err)
		s.equal("input", in.Payload, raw)
		s.equal("encoding", in.Encoding, "x-raw")
		s.equal("input at the claim", s.claim(id).Payload, raw)
		empty := s.create(withPayload(nil))
		in, err = s.Backend.GetExecutionInput(s.ctx, empty)
		s.ok(err)
		s.equal("absent input", len(in.Payload), 0)
		s.equal("default encoding", in.Encoding, "json")
	})

	r.scenario("01.13 a payload has at most 1,048,576 bytes", func(s *scene) {
		big := bytes.Repeat([]byte{0xAB}, flowfabric.MaxPayloadBytes)
		id := s.create(withPayload(big))
		in, err := s.Backend.GetExecutionInput(s.ctx, id)
		s.ok(err)
		s.that(bytes.Equal(in.Payload, big), "a large input changed")
		over := idOn(testPartition)
		_, err = s.tryCreate(withID(over), withPayload(append(big, 0)))
		s.assertCode(err, flowfabric.CodePayloadTooLarge)
		s.assertDetail(err, "limit", flowfabric.MaxPayloadBytes)
		s.assertDetail(err, "actual", flowfabric.MaxPayloadBytes+1)
		s.equal("listed", len(s.listed(testPartition)), 0)
	})

	r.scenario("01.8.1 a create validates its fields", func(s *scene) {
		for field, opt := range map[string]createOption{
			"creator_identity":      func(a *flowfabric.CreateExecutionArgs) { a.CreatorIdentity = strings.Repeat("c", 257) },
			"idempotency_key":       withKey(strings.Repeat("k", 257)),
			"payload_encoding":      func(a *flowfabric.CreateExecutionArgs) { a.PayloadEncoding = strings.Repeat("e", 65) },
			"delay_until":           withDelayUntil(-1),
			"execution_deadline_at": withDeadline(-1),
			"tags":                  withTags("a.b", strings.Repeat("v", 4097)),
		} {
			_, err := s.tryCreate(opt)
			s.assertCode(err, flowfabric.CodeInvalidInput)
			if field != "tags" {
				s.assertField(err, field)
			}
		}
		_, err := s.tryCreate(withKey("a\x07b"))
		s.assertField(err, "idempotency_key")
		_, err = s.tryCreate(withTags("no_dot", "v"))
		s.assertCode(err, flowfabric.CodeInvalidTagKey)
		s.create(withKey(strings.Repeat("k", 256)))
	})

	r.scenario("01.8.1 execution_id and flow_id must lie on one partition", func(s *scene) {
		cfg, err := s.Backend.PartitionConfig(s.ctx)
		s.ok(err)
		flow := flowfabric.FlowID(uuid.NewString())
		n := cfg.FlowPartition(flow)
		onFlow := func(a *flowfabric.CreateExecutionArgs) { a.FlowID = flow }
		_, err = s.tryCreate(withID(idOn((n+1)%uint16(cfg.NumFlowPartitions))), onFlow)
		s.assertCode(err, flowfabric.CodePartitionMismatch)
		id := s.create(onFlow)
		s.equal("partition of the minted identifier", id.Partition(), n)
		s.equal("placement is no membership", s.describe(id).FlowID, flowfabric.FlowID(""))
		same := idOn(n)
		s.equal("agreeing partitions", s.create(withID(same), onFlow), same)
	})

	r.scenario("01.8.1 a crash between reservation and record is healed by the repeat", func(s *scene) {
		if s.Reserve == nil {
			s.t.Skip("the store takes both steps of a create at once")
		}
		reserved := idOn(testPartition)
		s.Reserve(s.t, testNamespace, "k", reserved)
		r, err := s.tryCreate(withKey("k"))
		s.ok(err)
		s.equal("repeat", r, flowfabric.CreateExecutionResult{
			Outcome: flowfabric.OutcomeCreated, ExecutionID: reserved, PublicState: flowfabric.PublicWaiting,
		})
	})

	r.scenario("01.8.1 a repeat that fits the reservation no longer is a partition mismatch", func(s *scene) {
		if s.Reserve == nil {
			s.t.Skip("the store takes both steps of a create at once")
		}
		cfg, err := s.Backend.PartitionConfig(s.ctx)
		s.ok(err)
		flow := flowfabric.FlowID(uuid.NewString())
		s.Reserve(s.t, testNamespace, "k", idOn((cfg.FlowPartition(flow)+1)%uint16(cfg.NumFlowPartitions)))
		_, err = s.tryCreate(withKey("k"), func(a *flowfabric.CreateExecutionArgs) { a.FlowID = flow })
		s.assertCode(err, flowfabric.CodePartitionMismatch)
	})

	r.scenario("01.8.1 a batch creates each on its own, in order", func(s *scene) {
		items := []flowfabric.CreateExecutionArgs{createArgs(withKey("a")), createArgs(withKind("bad kind")), createArgs(withKey("a")), createArgs()}
		got, err := s.Backend.CreateExecutions(s.ctx, items)
		s.ok(err)
		s.equal("answers", len(got), 4)
		s.ok(got[0].Err)
		s.assertField(got[1].Err, "execution_kind")
		s.ok(got[2].Err)
		s.equal("second with the key", got[2].Result, flowfabric.CreateExecutionResult{
			Outcome: flowfabric.OutcomeDuplicate, ExecutionID: got[0].Result.ExecutionID, SameSpec: true,
		})
		s.ok(got[3].Err)
		_, err = s.Backend.CreateExecutions(s.ctx, nil)
		s.assertCode(err, flowfabric.CodeInvalidInput)
		_, err = s.Backend.CreateExecutions(s.ctx, make([]flowfabric.CreateExecutionArgs, flowfabric.MaxBatchItems+1))
		s.assertCode(err, flowfabric.CodeBatchTooLarge)
	})

	r.scenario("contract: a cancelled context is returned as it is", func(s *scene) {
		ctx, cancel := context.WithCancel(s.ctx)
		cancel()
		_, err := s.Backend.DescribeExecution(ctx, idOn(1))
		s.that(err != nil && flowfabric.CodeOf(err) == "", "error is %v", err)
	})
}
