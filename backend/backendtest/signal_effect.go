package backendtest

import (
	"github.com/flowfabric/flowfabric"
)

// effectScenarios: specification 03, sections 3.4 and 4.3, and 04, section 5.1:
// what a delivery does in every state of waitpoint and execution, and what the
// feed tells of it.
func effectScenarios(r *runner) {
	for _, c := range deliveryCases() {
		r.scenario("03.4.3 a signal for "+c.name, func(s *scene) {
			at := c.reach(s)
			if c.refusal != "" {
				s.unchanged(at.id, func() {
					_, err := s.tryDeliver(at, "x")
					s.assertCode(err, c.refusal)
				})
				return
			}
			before := s.vector(at.id)
			s.deliver(at, "x", c.effect)
			after := s.vector(at.id)
			s.equal("resumed", after != before, c.effect == flowfabric.EffectResumed)
		})
	}

	r.scenario("03.3.4 what every effect counts", func(s *scene) {
		id, at := s.suspended(flowfabric.AllOf(flowfabric.AllOfNames("a", "x", "y"), flowfabric.Single("b", flowfabric.ByName("z"))))
		counts := func() string {
			x := s.suspension(id)
			return facts(x.SignalCount, x.MatchedSignalCount, len(x.SatisfierSignalIDs), x.LastSignalAt == s.now())
		}
		s.advance(1)
		s.deliver(at[0], "nope", flowfabric.EffectMatcherFailed)
		s.equal("refused by the matcher", counts(), "1 0 0 true")
		s.deliver(at[0], "x", flowfabric.EffectAppended)
		s.equal("appended", counts(), "2 1 1 true")
		s.advance(1)
		s.deliver(at[0], "x", flowfabric.EffectRepeated)
		s.equal("repeated", counts(), "3 1 1 true")
		s.deliver(at[1], "z", flowfabric.EffectAppended)
		s.equal("on the other waitpoint", counts(), "4 2 2 true")
		first := s.deliver(at[0], "y", flowfabric.EffectResumed, keyed("k"))
		s.equal("resumed", counts(), "5 3 3 true")
		s.advance(1)
		s.duplicate(at[0], "y", first, flowfabric.EffectResumed, keyed("k"))
		s.equal("after a duplicate", counts(), "5 3 3 false")
	})

	r.scenario("04.5.1 the feed tells of every delivery", func(s *scene) {
		id, task := s.createClaimed(withTags("a.b", "c"))
		p := s.pending(task, "p")
		buffered := s.deliver(p, "early", flowfabric.EffectBuffered)
		at := s.suspendOn(task, flowfabric.AllOfNames("go", "a", "b"), resumes(flowfabric.ResumePolicy{CloseWaitpointOnResume: ptr(false)}))
		s.advance(1)
		s.deliver(at[0], "nope", flowfabric.EffectMatcherFailed)
		a := s.deliver(at[0], "a", flowfabric.EffectAppended, keyed("k"))
		s.deliver(at[0], "a", flowfabric.EffectRepeated)
		s.duplicate(at[0], "a", a, flowfabric.EffectAppended, keyed("k"))
		s.duplicate(at[0], "a", a, flowfabric.EffectAppended, withSignalID(a))
		s.deliver(at[0], "b", flowfabric.EffectResumed)
		s.deliver(at[0], "late", flowfabric.EffectNoOp)
		for _, token := range []string{"", at[0].token.Reveal() + "0"} { // what is refused is not told
			_, err := s.tryDeliver(at[0], "x", presenting(token))
			s.that(err != nil, "accepted")
		}
		_, err := s.tryDeliver(at[0], "")
		s.assertCode(err, flowfabric.CodeInvalidInput)
		var got []string
		events := s.events(flowfabric.FeedSignals, id)
		for _, e := range events {
			got = append(got, facts(e.Kind, e.SignalName, e.Effect))
		}
		s.equal("events", got, []string{
			"buffered early buffered_for_pending_waitpoint",
			"no_op nope signal_ignored_matcher_failed",
			"appended a appended_to_waitpoint",
			"no_op a appended_to_waitpoint_duplicate",
			"deduped a duplicate",
			"deduped a duplicate",
			"satisfied b resume_condition_satisfied",
			"no_op late no_op",
		})
		first, dup := events[0], events[4]
		s.equal("fields", facts(first.Feed, first.ExecutionID, first.Namespace, first.LaneID, first.Tags, first.SignalID, first.WaitpointID, first.SourceIdentity, first.At),
			facts("signals", id, testNamespace, testLane, tags("a.b", "c"), buffered, p.waitpoint, "alice", s.now()-1))
		s.equal("of a duplicate", facts(dup.SignalID, dup.WaitpointID), facts(a, at[0].waitpoint))
		s.that(first.EventID != "" && first.Outcome == "" && first.LeaseID == "" && first.PublicState == "", "event is %+v", first)
		seen := s.readAll(flowfabric.ReadFeedArgs{Feed: flowfabric.FeedSignals, Start: flowfabric.FeedStartEarliest, Filter: flowfabric.FeedFilter{Kinds: []string{flowfabric.EventSatisfied}}})
		s.equal("by kind", len(seen), 1)
	})

	r.scenario("04.33 with the signals feed off deliveries go on", func(s *scene) {
		off := s.with(Options{Feeds: []flowfabric.Feed{}})
		id, at := off.suspended(flowfabric.AnyOfNames("go", "ready"))
		g := off.deliver(at[0], "ready", flowfabric.EffectResumed)
		got, err := off.tryDeliver(at[0], "ready", withSignalID(g))
		off.ok(err)
		off.equal("repeat", got.Outcome, flowfabric.DeliverDuplicate)
		off.equal("recorded", len(off.signals(id)), 1)
		off.complete(off.claim(id))
		off.equal("completions", len(off.events(flowfabric.FeedCompletions, id)), 1)
	})
}

// deliveryCase is one row of the table of section 4.3.
type deliveryCase struct {
	name    string
	reach   func(s *scene) address
	effect  flowfabric.SignalEffect
	refusal flowfabric.Code
}

func deliveryCases() []deliveryCase {
	keep := resumes(flowfabric.ResumePolicy{CloseWaitpointOnResume: ptr(false)})
	satisfied := func(s *scene) address {
		_, at := s.suspended(flowfabric.Count(1, "", nil, "a", "b"), keep)
		s.deliver(at[0], "first", flowfabric.EffectResumed)
		return at[1]
	}
	pending := func(s *scene) (address, flowfabric.ClaimedExecution) {
		_, task := s.createClaimed(withPolicy(retryFixed10))
		return s.pending(task, "p"), task
	}
	return []deliveryCase{
		{name: "a pending waitpoint of an active execution", effect: flowfabric.EffectBuffered, reach: func(s *scene) address {
			p, _ := pending(s)
			return p
		}},
		{name: "a pending waitpoint of a lapsed execution", effect: flowfabric.EffectBuffered, reach: func(s *scene) address {
			p, task := pending(s)
			s.lapse(task)
			return p
		}},
		{name: "a pending waitpoint of a delayed execution", effect: flowfabric.EffectBuffered, reach: func(s *scene) address {
			p, task := pending(s)
			s.fail(task, "")
			return p
		}},
		{name: "a pending waitpoint of a suspended execution", effect: flowfabric.EffectBuffered, reach: func(s *scene) address {
			p, task := pending(s)
			s.suspendOn(task, flowfabric.OperatorOnly())
			return p
		}},
		{name: "a pending waitpoint past its life", refusal: flowfabric.CodeWaitpointClosed, reach: func(s *scene) address {
			p, _ := pending(s)
			s.advance(60_000)
			return p
		}},
		{name: "an expired waitpoint", refusal: flowfabric.CodeWaitpointClosed, reach: func(s *scene) address {
			p, _ := pending(s)
			s.advance(60_000)
			s.tick()
			return p
		}},
		{name: "a waitpoint closed by its worker", refusal: flowfabric.CodeWaitpointClosed, reach: func(s *scene) address {
			p, task := pending(s)
			_, err := s.closeWaitpoint(flowfabric.CloseWaitpointArgs{ExecutionID: p.id, WaitpointID: p.waitpoint, Fence: task.Fence})
			s.ok(err)
			return p
		}},
		{name: "an active waitpoint", effect: flowfabric.EffectResumed, reach: func(s *scene) address {
			_, at := s.suspended(flowfabric.Single("a", flowfabric.AnySignal()))
			return at[0]
		}},
		{name: "an active waitpoint whose condition is not met by it", effect: flowfabric.EffectAppended, reach: func(s *scene) address {
			_, at := s.suspended(flowfabric.AllOfWaitpoints("a", "b"))
			return at[0]
		}},
		{name: "a satisfied waitpoint of a waiting execution", effect: flowfabric.EffectNoOp, reach: satisfied},
		{name: "a satisfied waitpoint of an active execution", effect: flowfabric.EffectNoOp, reach: func(s *scene) address {
			w := satisfied(s)
			s.claim(w.id)
			return w
		}},
		{name: "a satisfied waitpoint of an ended execution", refusal: flowfabric.CodeTargetNotSignalable, reach: func(s *scene) address {
			w := satisfied(s)
			s.operatorCancel(w.id)
			return w
		}},
		{name: "a waitpoint closed by the resume", refusal: flowfabric.CodeWaitpointClosed, reach: func(s *scene) address {
			id, at := s.suspended(flowfabric.OperatorOnly())
			s.resume(id)
			return at[0]
		}},
		{name: "a pending waitpoint past its life of an ended execution", refusal: flowfabric.CodeTargetNotSignalable, reach: func(s *scene) address {
			p, task := pending(s)
			s.advance(29_000)
			_, err := s.renew(task, 3_600_000)
			s.ok(err)
			s.advance(31_000)
			s.complete(task)
			return p
		}},
		{name: "an active waitpoint of an ended execution", refusal: flowfabric.CodeTargetNotSignalable, reach: func(s *scene) address {
			id, at := s.suspended(flowfabric.Single("a", flowfabric.AnySignal()))
			s.operatorCancel(id)
			return at[0]
		}},
		{name: "a waitpoint of a replayed execution", refusal: flowfabric.CodeWaitpointClosed, reach: func(s *scene) address {
			id, at := s.suspended(flowfabric.Single("a", flowfabric.AnySignal()))
			s.operatorCancel(id)
			s.replay(id)
			return at[0]
		}},
	}
}
