package rules

import (
	"slices"
	"strings"

	"github.com/flowfabric/flowfabric"
)

// ownMark is the satisfier of a single node: the node itself.
const ownMark = "1"

// leavesOf returns the single and count nodes in depth-first order: Nodes of a
// suspension has one set of satisfiers for each.
func leavesOf(c *flowfabric.ResumeCondition) []*flowfabric.ResumeCondition {
	var leaves []*flowfabric.ResumeCondition
	c.Walk(func(n *flowfabric.ResumeCondition, _ string) {
		if n.Kind == flowfabric.ConditionSingle || n.Kind == flowfabric.ConditionCount {
			leaves = append(leaves, n)
		}
	})
	return leaves
}

// listensTo reports whether a leaf listens to a waitpoint key.
func listensTo(leaf *flowfabric.ResumeCondition, key string) bool {
	if leaf.Kind == flowfabric.ConditionSingle {
		return leaf.WaitpointKey == key
	}
	return slices.Contains(leaf.Waitpoints, key)
}

// satisfierOf is what a signal adds to a leaf that accepts it.
func satisfierOf(leaf *flowfabric.ResumeCondition, g *flowfabric.RecordedSignal) string {
	if leaf.Kind == flowfabric.ConditionSingle {
		return ownMark
	}
	switch leaf.CountKind {
	case flowfabric.DistinctSignals:
		return string(g.SignalID)
	case flowfabric.DistinctSources:
		return g.SourceType + "/" + g.SourceIdentity
	}
	return string(g.WaitpointID)
}

// evaluate feeds a signal to the condition: the one rule of specification 03,
// section 3.3. It returns the signal's effect, and the satisfiers with what the
// signal added; nodes itself is left as it is.
func evaluate(c *flowfabric.ResumeCondition, nodes [][]string, g *flowfabric.RecordedSignal) (flowfabric.SignalEffect, [][]string) {
	effect, added := flowfabric.EffectNotInCondition, false
	after := nodes
	for i, leaf := range leavesOf(c) {
		if !listensTo(leaf, g.WaitpointKey) {
			continue
		}
		if !leaf.Matcher.Accepts(g.SignalName, g.SignalCategory, g.SourceType) {
			if effect == flowfabric.EffectNotInCondition {
				effect = flowfabric.EffectMatcherFailed
			}
			continue
		}
		effect = flowfabric.EffectRepeated
		if s := satisfierOf(leaf, g); !slices.Contains(after[i], s) {
			if !added {
				after, added = slices.Clone(nodes), true
			}
			after[i] = append(slices.Clip(after[i]), s)
		}
	}
	switch {
	case !added:
		return effect, nodes
	case satisfied(c, after):
		return flowfabric.EffectResumed, after
	}
	return flowfabric.EffectAppended, after
}

// satisfied reports whether the condition's root is satisfied.
func satisfied(c *flowfabric.ResumeCondition, nodes [][]string) bool {
	leaf := 0
	return nodeSatisfied(c, nodes, &leaf)
}

// nodeSatisfied visits all of a subtree, so that leaf counts on.
func nodeSatisfied(c *flowfabric.ResumeCondition, nodes [][]string, leaf *int) bool {
	switch c.Kind {
	case flowfabric.ConditionSingle, flowfabric.ConditionCount:
		have, want := 0, max(c.N, 1)
		if *leaf < len(nodes) {
			have = len(nodes[*leaf])
		}
		*leaf++
		return have >= want
	case flowfabric.ConditionAllOf:
		all := true
		for i := range c.Members {
			all = nodeSatisfied(&c.Members[i], nodes, leaf) && all
		}
		return all
	}
	return false
}

// progress tells how far each node is, in depth-first order.
func progress(c *flowfabric.ResumeCondition, nodes [][]string) []flowfabric.ConditionProgress {
	out := []flowfabric.ConditionProgress{}
	leaf := 0
	c.Walk(func(n *flowfabric.ResumeCondition, path string) {
		p := flowfabric.ConditionProgress{Path: path, Kind: n.Kind}
		at := leaf
		p.Satisfied = nodeSatisfied(n, nodes, &at)
		switch n.Kind {
		case flowfabric.ConditionAllOf:
			at = leaf
			for i := range n.Members {
				if nodeSatisfied(&n.Members[i], nodes, &at) {
					p.SatisfierCount++
				}
			}
		case flowfabric.ConditionSingle, flowfabric.ConditionCount:
			if leaf < len(nodes) {
				p.SatisfierCount = len(nodes[leaf])
				p.SourcesByType = sourcesByType(n, nodes[leaf])
			}
			leaf++
		}
		out = append(out, p)
	})
	return out
}

func sourcesByType(n *flowfabric.ResumeCondition, satisfiers []string) map[string]int {
	if n.Kind != flowfabric.ConditionCount || n.CountKind != flowfabric.DistinctSources || len(satisfiers) == 0 {
		return nil
	}
	types := make(map[string]int)
	for _, s := range satisfiers {
		kind, _, _ := strings.Cut(s, "/")
		types[kind]++
	}
	return types
}
