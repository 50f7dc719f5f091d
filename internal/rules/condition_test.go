package rules

import (
	"fmt"
	"slices"
	"testing"

	"github.com/flowfabric/flowfabric"
	"pgregory.net/rapid"
)

var (
	someKeys  = []string{"a", "b", "c"}
	someNames = []string{"x", "y", "z"}
)

// drawCondition draws a valid condition of bounded depth.
func drawCondition(t *rapid.T, depth int) flowfabric.ResumeCondition {
	switch kind := rapid.IntRange(0, 2).Draw(t, "kind"); {
	case kind == 0 && depth > 0:
		members := make([]flowfabric.ResumeCondition, rapid.IntRange(1, 3).Draw(t, "members"))
		for i := range members {
			members[i] = drawCondition(t, depth-1)
		}
		return flowfabric.AllOf(members...)
	case kind == 1 && depth > 0:
		keys := rapid.SliceOfNDistinct(rapid.SampledFrom(someKeys), 1, 3, rapid.ID[string]).Draw(t, "keys")
		count := rapid.SampledFrom([]flowfabric.CountKind{flowfabric.DistinctWaitpoints, flowfabric.DistinctSignals, flowfabric.DistinctSources}).Draw(t, "count")
		n := rapid.IntRange(1, 3).Draw(t, "n")
		if count == flowfabric.DistinctWaitpoints {
			n = min(n, len(keys))
		}
		return flowfabric.Count(n, count, drawMatcher(t, true), keys...)
	}
	return flowfabric.Single(rapid.SampledFrom(someKeys).Draw(t, "key"), drawMatcher(t, false))
}

func drawMatcher(t *rapid.T, optional bool) *flowfabric.SignalMatcher {
	var m *flowfabric.SignalMatcher
	switch rapid.IntRange(0, 3).Draw(t, "matcher") {
	case 0:
		m = flowfabric.ByName(rapid.SampledFrom(someNames).Draw(t, "name"))
	case 1:
		m = flowfabric.ByNames(rapid.SliceOfNDistinct(rapid.SampledFrom(someNames), 1, 3, rapid.ID[string]).Draw(t, "names")...)
	case 2:
		m = flowfabric.AnySignal()
	default:
		if optional {
			return nil
		}
		m = flowfabric.AnySignal()
	}
	if rapid.Bool().Draw(t, "by source") {
		m.SourceType = rapid.SampledFrom([]string{"user", "system"}).Draw(t, "source type")
	}
	return m
}

func drawSignals(t *rapid.T) []flowfabric.RecordedSignal {
	out := make([]flowfabric.RecordedSignal, rapid.IntRange(0, 12).Draw(t, "signals"))
	for i := range out {
		key := rapid.SampledFrom(someKeys).Draw(t, "on")
		out[i] = flowfabric.RecordedSignal{
			SignalID: flowfabric.SignalID(fmt.Sprint("s", i)), WaitpointID: flowfabric.WaitpointID("w" + key), WaitpointKey: key,
			SignalName: rapid.SampledFrom(someNames).Draw(t, "called"), SourceType: rapid.SampledFrom([]string{"user", "system"}).Draw(t, "from"),
			SourceIdentity: rapid.SampledFrom([]string{"alice", "bob"}).Draw(t, "who"), SignalCategory: "custom",
		}
	}
	return out
}

// TestSpec03_Evaluation holds specification 03, section 3.3, for any condition
// and signals: it is pure (a second run gives the same effects and leaves the
// sets it was given), monotone (S6), counts every addition, and whether the
// condition is satisfied in the end does not depend on the order.
func TestSpec03_Evaluation(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := drawCondition(t, 3)
		signals := drawSignals(t)
		run := func(signals []flowfabric.RecordedSignal) (effects []flowfabric.SignalEffect, nodes [][]string, met bool) {
			nodes = make([][]string, len(leavesOf(&c)))
			for i := range signals {
				before := cloneNodes(nodes)
				effect, after := evaluate(&c, nodes, &signals[i])
				if !slices.EqualFunc(before, nodes, slices.Equal) {
					t.Fatalf("the satisfiers it was given changed: %v, were %v", nodes, before)
				}
				if effect.Matched() == (size(after) == size(nodes)) {
					t.Fatalf("effect %s, satisfiers %v -> %v", effect, nodes, after)
				}
				if now := satisfied(&c, after); met && !now {
					t.Fatalf("satisfied no more after signal %d", i)
				} else if !met && now && effect != flowfabric.EffectResumed {
					t.Fatalf("signal %d satisfied the condition with effect %s", i, effect)
				} else {
					met = now
				}
				effects, nodes = append(effects, effect), after
			}
			return effects, nodes, met
		}
		effects, _, met := run(signals)
		again, _, _ := run(signals)
		if !slices.Equal(effects, again) {
			t.Fatalf("effects %v, then %v", effects, again)
		}
		backwards := slices.Clone(signals)
		slices.Reverse(backwards)
		if _, _, other := run(backwards); other != met {
			t.Fatalf("satisfied %v, in the other order %v", met, other)
		}
	})
}

func cloneNodes(nodes [][]string) [][]string {
	out := make([][]string, len(nodes))
	for i := range nodes {
		out[i] = slices.Clone(nodes[i])
	}
	return out
}

func size(nodes [][]string) (n int) {
	for _, set := range nodes {
		n += len(set)
	}
	return n
}

// TestProgress: every node is told of, in depth-first order.
func TestProgress(t *testing.T) {
	c := flowfabric.AllOf(
		flowfabric.Count(2, flowfabric.DistinctSources, nil, "a"),
		flowfabric.Single("b", flowfabric.ByName("x")))
	nodes := [][]string{{"user/alice", "user/bob", "system/alice"}, nil}
	got := fmt.Sprintf("%+v", progress(&c, nodes))
	want := fmt.Sprintf("%+v", []flowfabric.ConditionProgress{
		{Path: "<root>", Kind: flowfabric.ConditionAllOf, SatisfierCount: 1},
		{Path: "members[0]", Kind: flowfabric.ConditionCount, Satisfied: true, SatisfierCount: 3, SourcesByType: map[string]int{"user": 2, "system": 1}},
		{Path: "members[1]", Kind: flowfabric.ConditionSingle},
	})
	if got != want {
		t.Errorf("progress\n%s, want\n%s", got, want)
	}
}
