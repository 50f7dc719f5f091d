package backendtest

import (
	"fmt"
	"strings"

	"github.com/flowfabric/flowfabric"
)

// conditionScenarios: specification 03, sections 3.1 and 3.3: conditions, and
// how signals satisfy them.
func conditionScenarios(r *runner) {
	r.scenario("03.3 another name does not resume", func(s *scene) {
		id, at := s.suspended(flowfabric.Single("go", flowfabric.ByName("ready")))
		s.deliver(at[0], "other", flowfabric.EffectMatcherFailed)
		s.deliver(at[0], "Ready", flowfabric.EffectMatcherFailed)
		s.stillSuspended(id, flowfabric.ReasonWaitingForSignal)
		s.deliver(at[0], "ready", flowfabric.EffectResumed)
		s.is(id, waitingVector(flowfabric.AttemptInterrupted))
	})

	r.scenario("03.4 all of two names on one key", func(s *scene) {
		id, at := s.suspended(flowfabric.AllOfNames("go", "a", "b"))
		first := s.deliver(at[0], "a", flowfabric.EffectAppended, keyed("1"))
		s.deliver(at[0], "a", flowfabric.EffectRepeated, keyed("2"))
		s.stillSuspended(id, flowfabric.ReasonWaitingForSignal)
		closer := s.deliver(at[0], "b", flowfabric.EffectResumed)
		x := s.closed(id, flowfabric.ClosedResumed)
		s.equal("satisfiers", x.SatisfierSignalIDs, []flowfabric.SignalID{first, closer})
		s.equal("closer, counters", facts(x.CloserSignalID, x.SignalCount, x.MatchedSignalCount), facts(closer, 3, 2))
		s.equal("signals", s.observed(s.claim(id)), []string{"a", "b"})
	})

	r.scenario("03.5 any of two names", func(s *scene) {
		id, at := s.suspended(flowfabric.AnyOfNames("go", "x", "y"))
		s.deliver(at[0], "z", flowfabric.EffectMatcherFailed)
		s.deliver(at[0], "y", flowfabric.EffectResumed)
		s.closed(id, flowfabric.ClosedResumed)
	})

	r.scenario("03.6 two distinct sources", func(s *scene) {
		id, at := s.suspended(flowfabric.Count(2, flowfabric.DistinctSources, nil, "go"))
		s.deliver(at[0], "x", flowfabric.EffectAppended, from("user", "alice"))
		s.deliver(at[0], "x", flowfabric.EffectRepeated, from("user", "alice"))
		s.deliver(at[0], "x", flowfabric.EffectResumed, from("user", "bob"))
		s.equal("satisfiers", len(s.closed(id, flowfabric.ClosedResumed).SatisfierSignalIDs), 2)
	})

	r.scenario("03.7 a source is its type and its identity", func(s *scene) {
		id, at := s.suspended(flowfabric.Count(2, flowfabric.DistinctSources, nil, "go"))
		s.deliver(at[0], "x", flowfabric.EffectAppended, from("user", "alice"))
		s.deliver(at[0], "x", flowfabric.EffectResumed, from("system", "alice"))
		s.closed(id, flowfabric.ClosedResumed)

		// No way of writing one pair gives another.
		id, at = s.suspended(flowfabric.Count(3, flowfabric.DistinctSources, nil, "go"))
		s.deliver(at[0], "x", flowfabric.EffectAppended, from("user", "x/alice"))
		s.deliver(at[0], "x", flowfabric.EffectAppended, from("user", "x"))
		s.deliver(at[0], "x", flowfabric.EffectRepeated, from("user", "x/alice"))
		s.deliver(at[0], "x", flowfabric.EffectResumed, from("user", "X"))
		s.closed(id, flowfabric.ClosedResumed)
	})

	r.scenario("03.8 distinct sources of one type", func(s *scene) {
		id, at := s.suspended(flowfabric.Count(2, flowfabric.DistinctSources, flowfabric.AnySignal().FromSource("user"), "go"))
		s.deliver(at[0], "x", flowfabric.EffectMatcherFailed, from("system", "root"))
		s.deliver(at[0], "x", flowfabric.EffectAppended, from("user", "alice"))
		s.deliver(at[0], "x", flowfabric.EffectResumed, from("user", "bob"))
		s.closed(id, flowfabric.ClosedResumed)
	})

	r.scenario("03.3.1 a matcher asks for every part that it names", func(s *scene) {
		_, at := s.suspended(flowfabric.Single("go", flowfabric.ByName("ready").FromSource("user").InCategory("approval")))
		s.deliver(at[0], "ready", flowfabric.EffectMatcherFailed, from("webhook", "alice"), inCategory("approval"))
		s.deliver(at[0], "ready", flowfabric.EffectMatcherFailed, inCategory("callback"))
		s.deliver(at[0], "steady", flowfabric.EffectMatcherFailed, inCategory("approval"))
		s.deliver(at[0], "ready", flowfabric.EffectResumed, inCategory("approval"))
	})

	r.scenario("03.9 two distinct signals", func(s *scene) {
		id, at := s.suspended(flowfabric.Count(2, flowfabric.DistinctSignals, nil, "go"))
		first := s.deliver(at[0], "x", flowfabric.EffectAppended)
		s.duplicate(at[0], "x", first, flowfabric.EffectAppended, withSignalID(first))
		s.stillSuspended(id, flowfabric.ReasonWaitingForSignal)
		s.deliver(at[0], "x", flowfabric.EffectResumed)
		s.closed(id, flowfabric.ClosedResumed)
	})

	r.scenario("03.10 all of three waitpoints", func(s *scene) {
		id, at := s.suspended(flowfabric.AllOfWaitpoints("a", "b", "c"))
		for i := range at {
			for j := range at {
				if i == j {
					continue
				}
				_, err := s.tryDeliver(at[i], "x", presenting(at[j].token.Reveal()))
				s.assertCode(err, flowfabric.CodeInvalidToken)
			}
		}
		s.equal("recorded", len(s.signals(id)), 0)
		s.deliver(at[2], "x", flowfabric.EffectAppended)
		s.deliver(at[0], "x", flowfabric.EffectAppended)
		s.deliver(at[2], "x", flowfabric.EffectRepeated)
		s.deliver(at[1], "x", flowfabric.EffectResumed)
		s.closed(id, flowfabric.ClosedResumed)
		for _, w := range at {
			s.gone(w)
		}
	})

	r.scenario("03.11 counts in an all_of are each satisfied on their own", func(s *scene) {
		id, at := s.suspended(flowfabric.AllOf(
			flowfabric.Count(2, flowfabric.DistinctSources, nil, "k1"),
			flowfabric.Count(2, flowfabric.DistinctSources, nil, "k2"),
		))
		s.deliver(at[0], "x", flowfabric.EffectAppended, from("user", "alice"))
		s.deliver(at[0], "x", flowfabric.EffectAppended, from("user", "bob"))
		s.deliver(at[0], "x", flowfabric.EffectAppended, from("user", "carol"))
		s.stillSuspended(id, flowfabric.ReasonWaitingForSignal)
		s.deliver(at[1], "x", flowfabric.EffectAppended, from("user", "alice"))
		s.deliver(at[1], "x", flowfabric.EffectResumed, from("user", "bob"))
		x := s.closed(id, flowfabric.ClosedResumed)
		s.equal("satisfiers", len(x.SatisfierSignalIDs), 5)
	})

	r.scenario("03.3.3 one signal counts in every node that accepts it", func(s *scene) {
		id, at := s.suspended(flowfabric.AllOf(
			flowfabric.Single("go", flowfabric.ByName("a")),
			flowfabric.Single("go", flowfabric.AnySignal()),
			flowfabric.Count(2, flowfabric.DistinctSignals, nil, "go", "on"),
		))
		s.deliver(at[1], "a", flowfabric.EffectAppended)
		s.deliver(at[0], "a", flowfabric.EffectResumed)
		x := s.closed(id, flowfabric.ClosedResumed)
		s.equal("satisfiers", len(x.SatisfierSignalIDs), 2)
	})

	r.scenario("03.3.1 distinct waitpoints", func(s *scene) {
		id, at := s.suspended(flowfabric.Count(2, flowfabric.DistinctWaitpoints, flowfabric.ByName("x"), "a", "b", "c"))
		s.deliver(at[0], "x", flowfabric.EffectAppended)
		s.deliver(at[0], "x", flowfabric.EffectRepeated, from("user", "bob"))
		s.deliver(at[1], "y", flowfabric.EffectMatcherFailed)
		s.deliver(at[2], "x", flowfabric.EffectResumed)
		s.closed(id, flowfabric.ClosedResumed)
	})

	r.scenario("03.3.1 operator_only hears no signal", func(s *scene) {
		id, at := s.suspended(flowfabric.OperatorOnly())
		s.deliver(at[0], "x", flowfabric.EffectNotInCondition)
		s.stillSuspended(id, flowfabric.ReasonWaitingForSignal)
		s.equal("listed", facts(s.listWaitpoints(id)[0].ConditionKind, s.listWaitpoints(id)[0].RequiredSignalNames), "operator_only []")
		s.resume(id)
	})

	r.scenario("03.12 conditions that are refused, and the deepest that is not", func(s *scene) {
		id, task := s.createClaimed()
		s.unchanged(id, func() {
			for _, bad := range badConditions() {
				_, err := s.trySuspend(task, bad.condition)
				if flowfabric.CodeOf(err) != flowfabric.CodeInvalidResumeCondition {
					s.t.Fatalf("%s at %s: %v%s", bad.reason, bad.path, err, details(err))
				}
				s.assertMentions(err, bad.reason)
				s.assertMentions(err, bad.path)
			}
		})
		_, err := s.renew(task, testTTL)
		s.ok(err)
		at := s.suspendOn(task, nested(3, flowfabric.Count(1, "", nil, "go")))
		s.deliver(at[0], "x", flowfabric.EffectResumed)
	})

	r.scenario("03.45 conditions of 8,192 bytes and of one more", func(s *scene) {
		id, task := s.createClaimed()
		s.unchanged(id, func() {
			_, err := s.trySuspend(task, sized(8193))
			s.assertCode(err, flowfabric.CodeInvalidResumeCondition)
			s.assertMentions(err, "condition_size_exceeded")
		})
		c := sized(8192)
		s.suspendOn(task, c)
		s.equal("read back", string(s.suspension(id).ResumeCondition.JSON()), string(c.JSON()))
	})

	r.scenario("03.3.1 a key listed twice in a count is one", func(s *scene) {
		id, task := s.createClaimed()
		a := rekeyed(suspendArgs(task, flowfabric.Count(2, "", nil, "a", "b", "a")), "a", "b")
		at := s.suspendWith(a)
		s.equal("read back", string(s.suspension(id).ResumeCondition.JSON()), string(a.ResumeCondition.JSON()))
		s.deliver(at[0], "x", flowfabric.EffectAppended)
		s.deliver(at[1], "x", flowfabric.EffectResumed)
	})

	r.scenario("03.3.1 sixty-four waitpoints, and names of every kind", func(s *scene) {
		keys := make([]string, 64)
		for i := range keys {
			keys[i] = fmt.Sprintf("clé %d |,\"", i)
		}
		id, at := s.suspended(flowfabric.Count(64, "", nil, keys...))
		for i, w := range at[:63] {
			s.deliver(w, fmt.Sprint("n", i), flowfabric.EffectAppended)
		}
		s.stillSuspended(id, flowfabric.ReasonWaitingForSignal)
		s.deliver(at[63], "last", flowfabric.EffectResumed)
		s.equal("satisfiers", len(s.closed(id, flowfabric.ClosedResumed).SatisfierSignalIDs), 64)
		s.equal("signals", len(s.observe(s.claim(id))), 64)
	})

	r.scenario("03.4.9 GetSuspension tells how far every node is", func(s *scene) {
		id, at := s.suspended(flowfabric.AllOf(
			flowfabric.Single("a", flowfabric.ByName("x")),
			flowfabric.AllOf(flowfabric.Count(2, flowfabric.DistinctSources, nil, "b"), flowfabric.Single("a", flowfabric.ByName("y"))),
			flowfabric.Count(2, flowfabric.DistinctSignals, nil, "a", "b"),
		))
		s.deliver(at[1], "z", flowfabric.EffectAppended, from("user", "alice"))
		s.deliver(at[1], "z", flowfabric.EffectAppended, from("system", "alice"))
		s.deliver(at[0], "y", flowfabric.EffectAppended)
		progress := func() []string {
			var out []string
			for _, p := range s.suspension(id).Progress {
				out = append(out, facts(p.Path, p.Kind, p.Satisfied, p.SatisfierCount, p.SourcesByType))
			}
			return out
		}
		want := []string{
			"<root> all_of false 2 map[]",
			"members[0] single false 0 map[]",
			"members[1] all_of true 2 map[]",
			"members[1].members[0] count true 2 map[system:1 user:1]",
			"members[1].members[1] single true 1 map[]",
			"members[2] count true 3 map[]",
		}
		s.equal("progress", progress(), want)
		s.resume(id)
		s.equal("progress after the close", progress(), want)
	})
}

// nested puts a condition into n all_ofs.
func nested(n int, c flowfabric.ResumeCondition) flowfabric.ResumeCondition {
	for range n {
		c = flowfabric.AllOf(c)
	}
	return c
}

// sized makes a condition of exactly n bytes.
func sized(n int) flowfabric.ResumeCondition {
	c := flowfabric.Single("go", flowfabric.ByName("x"))
	c.Matcher.Name = strings.Repeat("x", n-len(c.JSON())+1)
	return c
}

// badCondition is a condition that is refused, with the reason and the place.
type badCondition struct {
	condition    flowfabric.ResumeCondition
	reason, path string
}

func badConditions() []badCondition {
	fine := flowfabric.Single("go", flowfabric.AnySignal())
	names := make([]string, 65)
	for i := range names {
		names[i] = fmt.Sprint("n", i)
	}
	return []badCondition{
		{flowfabric.Count(0, "", nil, "go"), "count_n_zero", "<root>"},
		{flowfabric.Count(1, "", nil), "count_waitpoints_empty", "<root>"},
		{flowfabric.AllOf(), "allof_empty_members", "<root>"},
		{flowfabric.AllOf(fine, flowfabric.AllOf(fine, flowfabric.AllOf())), "allof_empty_members", "members[1].members[1]"},
		{nested(5, fine), "condition_depth_exceeded", "members[0].members[0].members[0].members[0]"},
		{nested(4, flowfabric.Count(1, "", nil, "go")), "condition_depth_exceeded", "members[0].members[0].members[0].members[0]"},
		{flowfabric.Count(3, "", nil, "a", "b"), "count_exceeds_waitpoint_set", "<root>"},
		{flowfabric.Count(2, "", nil, "k1", "k1"), "count_exceeds_waitpoint_set", "<root>"}, // scenario 45
		{flowfabric.AllOf(fine, flowfabric.OperatorOnly()), "condition_member_not_signalable", "members[1]"},
		{flowfabric.AllOf(flowfabric.TimeoutOnly()), "condition_member_not_signalable", "members[0]"},
		{flowfabric.Single("go", flowfabric.ByName("")), "empty_signal_name", "<root>"},
		{flowfabric.Single("go", flowfabric.ByNames("a", "")), "empty_signal_name", "<root>"},
		{flowfabric.Single("go", flowfabric.ByNames()), "names_out_of_range", "<root>"},
		{flowfabric.AnyOfNames("go", names...), "names_out_of_range", "<root>"},
		{flowfabric.TimeoutOnly(), "timeout_only_without_deadline", "<root>"},
	}
}
