package backendtest

import (
	"bytes"
	"fmt"
	"strings"
	"sync"

	"github.com/flowfabric/flowfabric"
)

// signalScenarios: specification 03, sections 2.3, 4.3, 4.4 and 4.9: what is
// recorded, what is a repeat, and what is refused.
func signalScenarios(r *runner) {
	r.scenario("03.2.3 the record of a signal", func(s *scene) {
		id, at := s.suspended(flowfabric.AllOfNames("go", "a", "b"))
		x := signalArgs(at[0], "a", from("webhook", "hook-1"), inCategory("tool_result"), keyed("key"), carrying([]byte("data")))
		x.Signal.CorrelationID, x.Signal.CreatedAt, x.Signal.PayloadEncoding = "c-1", 77, "text"
		_, err := s.Backend.DeliverSignal(s.ctx, x)
		s.ok(err)
		want := flowfabric.RecordedSignal{
			SignalID: x.Signal.SignalID, ExecutionID: id, WaitpointID: at[0].waitpoint, WaitpointKey: "go", SignalName: "a", SignalCategory: "tool_result",
			SourceType: "webhook", SourceIdentity: "hook-1", Payload: []byte("data"), PayloadEncoding: "text", CorrelationID: "c-1", IdempotencyKey: "key",
			CreatedAt: 77, AcceptedAt: s.now(), Seq: 1, Effect: flowfabric.EffectAppended,
		}
		s.equal("record", *s.getSignal(id, x.Signal.SignalID), want)
		listed := want
		listed.Payload = nil
		s.equal("listed, without the payload", s.signals(id), []flowfabric.RecordedSignal{listed})

		plain := flowfabric.DeliverSignalArgs{ExecutionID: id, WaitpointID: at[0].waitpoint, Token: at[0].token, Signal: flowfabric.Signal{Name: "b", SourceIdentity: "s"}}
		got, err := s.Backend.DeliverSignal(s.ctx, plain)
		s.ok(err)
		g := s.getSignal(id, got.SignalID)
		s.equal("defaults", facts(g.SignalCategory, g.SourceType, g.PayloadEncoding, len(g.Payload), g.CreatedAt, g.IdempotencyKey, g.Seq), "custom external_api  0 0  2")
	})

	r.scenario("03.33 one idempotency key twice", func(s *scene) {
		id, at := s.suspended(flowfabric.AllOfNames("go", "a", "b"))
		first := s.deliver(at[0], "a", flowfabric.EffectAppended, keyed("k"))
		s.duplicate(at[0], "b", first, flowfabric.EffectAppended, keyed("k"))
		x := s.suspension(id)
		s.equal("recorded, counted", facts(len(s.signals(id)), x.SignalCount, x.MatchedSignalCount), "1 1 1")
		s.deliver(at[0], "b", flowfabric.EffectResumed, keyed("l"))
	})

	r.scenario("03.34 the webhook retries the signal that resumed", func(s *scene) {
		id, at := s.suspended(flowfabric.AnyOfNames("go", "ready"))
		g := s.deliver(at[0], "ready", flowfabric.EffectResumed, keyed("k"))
		s.duplicate(at[0], "ready", g, flowfabric.EffectResumed, keyed("k"))
		s.duplicate(at[0], "ready", g, flowfabric.EffectResumed, withSignalID(g))
		s.unchanged(id, func() {
			_, err := s.tryDeliver(at[0], "ready", keyed("another"))
			s.assertCode(err, flowfabric.CodeWaitpointClosed)
		})
		s.complete(s.claim(id))
		s.duplicate(at[0], "ready", g, flowfabric.EffectResumed, keyed("k"))
		s.duplicate(at[0], "ready", g, flowfabric.EffectResumed, withSignalID(g))
		s.unchanged(id, func() {
			_, err := s.tryDeliver(at[0], "ready", keyed("another"))
			s.assertCode(err, flowfabric.CodeTargetNotSignalable)
		})
	})

	r.scenario("03.44 the dedup entry lives as long as its first signal said", func(s *scene) {
		_, at := s.suspended(flowfabric.Count(9, flowfabric.DistinctSignals, nil, "a", "b"))
		first := s.deliver(at[0], "x", flowfabric.EffectAppended, keyed("k"), remembered(1000))
		s.deliver(at[1], "x", flowfabric.EffectAppended, keyed("k"), remembered(1000))
		s.advance(500)
		s.duplicate(at[0], "x", first, flowfabric.EffectAppended, keyed("k"), remembered(604_800_000))
		s.advance(1100)
		second := s.deliver(at[0], "x", flowfabric.EffectAppended, keyed("k"))
		s.duplicate(at[0], "x", second, flowfabric.EffectAppended, keyed("k"))
		s.duplicate(at[0], "x", first, flowfabric.EffectAppended, withSignalID(first)) // the record outlives the entry
		s.advance(flowfabric.DefaultSignalDedupTTLMs - 1)
		s.duplicate(at[0], "x", second, flowfabric.EffectAppended, keyed("k"))
		s.advance(2)
		s.deliver(at[0], "x", flowfabric.EffectAppended, keyed("k"))
	})

	r.scenario("03.4.3 one signal id on two waitpoints", func(s *scene) {
		id, at := s.suspended(flowfabric.AllOfWaitpoints("a", "b"))
		g := s.deliver(at[0], "x", flowfabric.EffectAppended)
		s.unchanged(id, func() {
			_, err := s.tryDeliver(at[1], "x", withSignalID(g))
			s.assertCode(err, flowfabric.CodeSignalIDConflict)
		})
		other, theirs := s.suspended(flowfabric.Single("a", flowfabric.AnySignal()))
		s.deliver(theirs[0], "x", flowfabric.EffectResumed, withSignalID(g)) // of another execution it is another signal
		s.equal("recorded", len(s.signals(other)), 1)
	})

	r.scenario("03.4.3 the id is asked before the key", func(s *scene) {
		_, at := s.suspended(flowfabric.Count(9, flowfabric.DistinctSignals, nil, "a", "b"))
		one := s.deliver(at[0], "x", flowfabric.EffectAppended, keyed("k"))
		two := s.deliver(at[0], "x", flowfabric.EffectAppended)
		three := s.deliver(at[1], "x", flowfabric.EffectAppended)
		s.duplicate(at[0], "x", two, flowfabric.EffectAppended, withSignalID(two), keyed("k"))
		s.duplicate(at[0], "x", one, flowfabric.EffectAppended, keyed("k"))
		_, err := s.tryDeliver(at[0], "x", withSignalID(three), keyed("k"))
		s.assertCode(err, flowfabric.CodeSignalIDConflict)
	})

	r.scenario("03.40 the limit of signals of an execution", func(s *scene) {
		id, task := s.createClaimed(withPolicy(`{"max_signals_per_execution":3}`))
		p := s.pending(task, "p")
		first := s.deliver(p, "x", flowfabric.EffectBuffered, keyed("k"))
		at := s.suspendOn(task, flowfabric.AllOfNames("go", "a", "b"), timesOut(1000, flowfabric.TimeoutAutoResume))
		s.deliver(at[0], "x", flowfabric.EffectMatcherFailed)
		s.deliver(at[0], "a", flowfabric.EffectAppended)
		s.unchanged(id, func() {
			for _, w := range []address{at[0], p} {
				_, err := s.tryDeliver(w, "b")
				s.assertCode(err, flowfabric.CodeSignalLimitExceeded)
				s.assertDetail(err, "scope", "execution")
			}
		})
		s.duplicate(p, "x", first, flowfabric.EffectBuffered, keyed("k"))
		// The timeout's own signal is not held back.
		s.advance(1000)
		s.tick()
		s.closed(id, flowfabric.ClosedTimedOutResume)
		s.equal("recorded", len(s.signals(id)), 4)
	})

	r.scenario("03.40 of a limit of 0 nothing is recorded", func(s *scene) {
		id, task := s.createClaimed(withPolicy(`{"max_signals_per_execution":0}`))
		at := s.suspendOn(task, flowfabric.Single("go", flowfabric.AnySignal()))
		s.unchanged(id, func() {
			_, err := s.tryDeliver(at[0], "x")
			s.assertCode(err, flowfabric.CodeSignalLimitExceeded)
		})
	})

	r.scenario("03.49 payloads", func(s *scene) {
		id, at := s.suspended(flowfabric.Count(9, flowfabric.DistinctSignals, nil, "go"))
		big := bytes.Repeat([]byte{0, 0xFF, 0xC3, '\n'}, flowfabric.MaxSignalPayloadBytes/4)
		g := s.deliver(at[0], "x", flowfabric.EffectAppended, carrying(big))
		s.that(bytes.Equal(s.getSignal(id, g).Payload, big), "the payload reads back otherwise")
		s.unchanged(id, func() {
			_, err := s.tryDeliver(at[0], "x", carrying(append(big, 0)))
			s.assertCode(err, flowfabric.CodePayloadTooLarge)
		})
		g = s.deliver(at[0], "x", flowfabric.EffectAppended, carrying([]byte{}))
		s.that(s.getSignal(id, g).Payload == nil, "an empty payload does not read back as absent")
		g = s.deliver(at[0], "x", flowfabric.EffectAppended, carrying([]byte{0}))
		s.equal("one NUL", s.getSignal(id, g).Payload, []byte{0})
	})

	r.scenario("03.49 payloads reach the resumed worker byte for byte", func(s *scene) {
		id, at := s.suspended(flowfabric.AllOfNames("go", "a", "b"))
		odd := []byte("\x00\xff{\"not\": json\xc3\x28\x00")
		s.deliver(at[0], "a", flowfabric.EffectAppended, carrying(odd))
		s.deliver(at[0], "b", flowfabric.EffectResumed)
		got := s.observe(s.claim(id))
		s.equal("payload", got[0].Payload, odd)
		s.that(got[1].Payload == nil, "a payload out of nothing: %q", got[1].Payload)
	})

	r.scenario("03.4.3 signals are validated before the token is looked at", func(s *scene) {
		id, at := s.suspended(flowfabric.Single("go", flowfabric.AnySignal()))
		long := strings.Repeat("x", 257)
		s.unchanged(id, func() {
			for name, bad := range map[string]struct {
				spoil func(g *flowfabric.Signal)
				field string
			}{
				"no name":             {func(g *flowfabric.Signal) { g.Name = "" }, "signal_name"},
				"a long name":         {func(g *flowfabric.Signal) { g.Name = long[:129] }, "signal_name"},
				"a reserved name":     {func(g *flowfabric.Signal) { g.Name = "__x" }, "signal_name"},
				"a reserved category": {func(g *flowfabric.Signal) { g.Category = "timeout" }, "signal_category"},
				"a bad category":      {func(g *flowfabric.Signal) { g.Category = "Custom" }, "signal_category"},
				"a long category":     {func(g *flowfabric.Signal) { g.Category = long[:65] }, "signal_category"},
				"a reserved source":   {func(g *flowfabric.Signal) { g.SourceType = "engine" }, "source_type"},
				"a bad source":        {func(g *flowfabric.Signal) { g.SourceType = "7up" }, "source_type"},
				"a long identity":     {func(g *flowfabric.Signal) { g.SourceIdentity = long }, "source_identity"},
				"a long correlation":  {func(g *flowfabric.Signal) { g.CorrelationID = long }, "correlation_id"},
				"a long key":          {func(g *flowfabric.Signal) { g.IdempotencyKey = long }, "idempotency_key"},
				"a short memory":      {func(g *flowfabric.Signal) { g.DedupTTLMs = -1 }, "dedup_ttl_ms"},
				"a long memory":       {func(g *flowfabric.Signal) { g.DedupTTLMs = 604_800_001 }, "dedup_ttl_ms"},
				"an id like no id":    {func(g *flowfabric.Signal) { g.SignalID = "x" }, "signal_id"},
			} {
				for _, where := range []address{at[0], strangeAddress(id), strangeAddress(idOn(1))} {
					a := signalArgs(where, "x")
					bad.spoil(&a.Signal)
					_, err := s.Backend.DeliverSignal(s.ctx, a)
					s.that(err != nil, "%s was accepted", name)
					s.assertField(err, bad.field)
				}
			}
		})
		s.deliver(at[0], strings.Repeat("n", 128), flowfabric.EffectResumed, from("a0_", strings.Repeat("i", 256)), keyed(strings.Repeat("k", 256)), remembered(604_800_000))
	})

	r.scenario("03.39 an approval without the token", func(s *scene) {
		id, at := s.suspended(flowfabric.Single("go", flowfabric.ByName("approved").FromSource("operator").InCategory("approval")))
		deliver := func(a flowfabric.DeliverApprovalSignalArgs) (flowfabric.DeliverSignalResult, error) {
			return s.Backend.DeliverApprovalSignal(s.ctx, a)
		}
		a := approvalArgs(at[0], "approved", "r-1")
		a.Payload = []byte("yes")
		s.unchanged(id, func() {
			wrong := a
			wrong.LaneID = "elsewhere"
			_, err := deliver(wrong)
			s.assertCode(err, flowfabric.CodeInvalidInput)
			s.assertMentions(err, "lane_mismatch")
			for field, spoil := range map[string]func(a *flowfabric.DeliverApprovalSignalArgs){
				"idempotency_suffix": func(a *flowfabric.DeliverApprovalSignalArgs) { a.IdempotencySuffix = "" },
				"decided_by":         func(a *flowfabric.DeliverApprovalSignalArgs) { a.DecidedBy = "" },
				"signal_name":        func(a *flowfabric.DeliverApprovalSignalArgs) { a.SignalName = "" },
			} {
				bad := a
				spoil(&bad)
				_, err := deliver(bad)
				s.assertField(err, field)
			}
			unknown := a
			unknown.WaitpointID = flowfabric.NewWaitpointID()
			_, err = deliver(unknown)
			s.assertCode(err, flowfabric.CodeWaitpointNotFound)
			unknown.ExecutionID = idOn(1)
			_, err = deliver(unknown)
			s.assertCode(err, flowfabric.CodeExecutionNotFound)
		})
		got, err := deliver(approvalArgs(at[0], "rejected", "r-1"))
		s.ok(err)
		s.equal("rejected", got.Effect, flowfabric.EffectMatcherFailed)
		got, err = deliver(a)
		s.ok(err)
		s.equal("approved", got, flowfabric.DeliverSignalResult{Outcome: flowfabric.DeliverAccepted, SignalID: a.SignalID, Effect: flowfabric.EffectResumed})
		g := s.getSignal(id, a.SignalID)
		s.equal("record", facts(g.SignalName, g.SignalCategory, g.SourceType, g.SourceIdentity, g.IdempotencyKey, string(g.Payload)), "approved approval operator carol approval:approved:r-1 yes")
		again := approvalArgs(at[0], "approved", "r-1")
		again.DecidedBy = "dave"
		got, err = deliver(again)
		s.ok(err)
		s.equal("repeated", got, flowfabric.DeliverSignalResult{Outcome: flowfabric.DeliverDuplicate, SignalID: a.SignalID, Effect: flowfabric.EffectResumed})
		_, err = deliver(approvalArgs(at[0], "approved", "r-2"))
		s.assertCode(err, flowfabric.CodeWaitpointClosed)
		s.complete(s.claim(id))
		_, err = deliver(approvalArgs(at[0], "approved", "r-2"))
		s.assertCode(err, flowfabric.CodeTargetNotSignalable)
	})

	r.scenario("03.39 approvals of other places", func(s *scene) {
		id, _ := s.suspended(flowfabric.OperatorOnly())
		_, task := s.createClaimed(onPartition(id.Partition()))
		p := s.pending(task, "p")
		got, err := s.Backend.DeliverApprovalSignal(s.ctx, approvalArgs(p, "approved", "1"))
		s.ok(err)
		s.equal("on a pending one", facts(got.Effect, got.RequiresConfirmation), "buffered_for_pending_waitpoint true")
		p.id = id
		s.unchanged(id, func() {
			_, err = s.Backend.DeliverApprovalSignal(s.ctx, approvalArgs(p, "approved", "1"))
			s.assertCode(err, flowfabric.CodeWaitpointNotFound)
		})
	})

	r.scenario("03.4.9 ListSignals and GetSignal", func(s *scene) {
		id, at := s.suspended(flowfabric.Count(9, flowfabric.DistinctSignals, nil, "a", "b"))
		var ids []flowfabric.SignalID
		for i := range 5 {
			ids = append(ids, s.deliver(at[i%2], fmt.Sprint("n", i), flowfabric.EffectAppended, carrying([]byte{byte(i)})))
		}
		page, err := s.Backend.ListSignals(s.ctx, flowfabric.ListSignalsArgs{ExecutionID: id, Limit: 2})
		s.ok(err)
		s.equal("first page", facts(signalNames(page.Signals), page.Next), "[n0 n1] 2")
		page, err = s.Backend.ListSignals(s.ctx, flowfabric.ListSignalsArgs{ExecutionID: id, After: page.Next, Limit: 3})
		s.ok(err)
		s.equal("second page", facts(signalNames(page.Signals), page.Next), "[n2 n3 n4] 0")
		page, err = s.Backend.ListSignals(s.ctx, flowfabric.ListSignalsArgs{ExecutionID: id, WaitpointID: at[1].waitpoint, Limit: 1})
		s.ok(err)
		s.equal("of one waitpoint", facts(signalNames(page.Signals), page.Next), "[n1] 2")
		s.equal("rest", signalNames(s.listSignals(flowfabric.ListSignalsArgs{ExecutionID: id, WaitpointID: at[1].waitpoint, After: page.Next})), []string{"n3"})
		s.equal("of an unknown waitpoint", len(s.listSignals(flowfabric.ListSignalsArgs{ExecutionID: id, WaitpointID: flowfabric.NewWaitpointID()})), 0)
		for i, g := range s.signals(id) {
			s.equal("seq", g.Seq, uint64(i+1))
			s.that(len(g.Payload) == 0, "a payload in the listing")
			s.equal("payload", s.getSignal(id, ids[i]).Payload, []byte{byte(i)})
		}
		s.equal("none", len(s.signals(s.create())), 0)
		for _, limit := range []int{-1, 1001} {
			_, err := s.Backend.ListSignals(s.ctx, flowfabric.ListSignalsArgs{ExecutionID: id, Limit: limit})
			s.assertCode(err, flowfabric.CodeInvalidInput)
		}
		_, err = s.Backend.ListSignals(s.ctx, flowfabric.ListSignalsArgs{ExecutionID: idOn(1)})
		s.assertCode(err, flowfabric.CodeExecutionNotFound)
		_, err = s.Backend.GetSignal(s.ctx, id, flowfabric.NewSignalID())
		s.assertCode(err, flowfabric.CodeSignalNotFound)
		other := s.create(onPartition(id.Partition()))
		_, err = s.Backend.GetSignal(s.ctx, other, ids[0])
		s.assertCode(err, flowfabric.CodeSignalNotFound)
	})

	r.scenario("03.7 a webhook retried fifty times at once resumes once", func(s *scene) {
		id, at := s.suspended(flowfabric.AnyOfNames("go", "ready"))
		const n = 50
		results, errs := make([]flowfabric.DeliverSignalResult, n), make([]error, n)
		var wg sync.WaitGroup
		for i := range n {
			wg.Go(func() { results[i], errs[i] = s.tryDeliver(at[0], "ready", keyed("hook")) })
		}
		wg.Wait()
		outcomes := make(map[flowfabric.DeliverOutcome]int)
		for i := range n {
			s.ok(errs[i])
			s.equal("first", facts(results[i].SignalID, results[i].Effect), facts(results[0].SignalID, "resume_condition_satisfied"))
			outcomes[results[i].Outcome]++
		}
		s.equal("outcomes", outcomes, map[flowfabric.DeliverOutcome]int{flowfabric.DeliverAccepted: 1, flowfabric.DeliverDuplicate: n - 1})
		s.equal("recorded", s.effects(id), []string{"ready resume_condition_satisfied"})
		s.equal("closer", s.closed(id, flowfabric.ClosedResumed).CloserSignalID, results[0].SignalID)
		counts := make(map[string]int)
		for _, e := range s.events(flowfabric.FeedSignals, id) {
			counts[e.Kind]++
		}
		s.equal("events", counts, map[string]int{"satisfied": 1, "deduped": n - 1})
		s.claim(id)
	})
}
