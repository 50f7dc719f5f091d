package main

import (
	"fmt"
	"strings"

	"github.com/flowfabric/flowfabric"
)

// awaited says in a few words what ends a suspension.
func awaited(x *flowfabric.Suspension) string {
	switch {
	case x.EscalatedAt != 0:
		return "an operator, since its timeout has passed"
	case x.ReasonCode == flowfabric.SuspendPausedByBudget:
		return "its budget, or an operator"
	}
	return conditionText(&x.ResumeCondition, len(x.Waitpoints) > 1)
}

// conditionText says a condition in a few words; keyed names the waitpoints too.
func conditionText(c *flowfabric.ResumeCondition, keyed bool) string {
	switch c.Kind {
	case flowfabric.ConditionSingle:
		text := matcherText(c.Matcher)
		if keyed {
			text += " on " + clean(c.WaitpointKey)
		}
		return text
	case flowfabric.ConditionCount:
		text := countText(c)
		if keyed {
			text += " on " + joined(c.Waitpoints)
		}
		return text
	case flowfabric.ConditionAllOf:
		return allOfText(c, keyed)
	case flowfabric.ConditionTimeoutOnly:
		return "its timeout"
	}
	return "an operator"
}

func allOfText(c *flowfabric.ResumeCondition, keyed bool) string {
	parts := make([]string, len(c.Members))
	for i := range c.Members {
		parts[i] = conditionText(&c.Members[i], keyed)
		if c.Members[i].Kind == flowfabric.ConditionAllOf || strings.Contains(parts[i], " or ") {
			parts[i] = "(" + parts[i] + ")"
		}
	}
	return strings.Join(parts, " and ")
}

// countText says what a count counts, without the waitpoints it listens to.
func countText(c *flowfabric.ResumeCondition) string {
	of := ""
	switch c.CountKind {
	case flowfabric.DistinctSources:
		of = plural(c.N, "sender", "different senders")
	case flowfabric.DistinctSignals:
		of = plural(c.N, "signal", "different signals")
	default:
		of = fmt.Sprintf("%d of %s", c.N, plural(len(c.Waitpoints), "waitpoint", "waitpoints"))
	}
	if c.Matcher == nil || (c.Matcher.Kind == flowfabric.MatchWildcard && c.Matcher.SourceType == "" && c.Matcher.SignalCategory == "") {
		return of
	}
	return of + ": " + matcherText(c.Matcher)
}

// matcherText says which signals a matcher accepts.
func matcherText(m *flowfabric.SignalMatcher) string {
	if m == nil {
		return "any signal"
	}
	text := "any signal"
	switch m.Kind {
	case flowfabric.MatchByName:
		text = clean(m.Name)
	case flowfabric.MatchByNames:
		names := make([]string, len(m.Names))
		for i, name := range m.Names {
			names[i] = clean(name)
		}
		text = strings.Join(names, " or ")
	}
	if m.SignalCategory != "" {
		text += " of category " + clean(m.SignalCategory)
	}
	if m.SourceType != "" {
		text += " from " + clean(m.SourceType)
	}
	return text
}

// printCondition prints the tree of a condition, how far each node is.
func (p *printer) printCondition(x *flowfabric.Suspension) error {
	progress := map[string]flowfabric.ConditionProgress{}
	for _, n := range x.Progress {
		progress[n.Path] = n
	}
	var failed error
	x.ResumeCondition.Walk(func(c *flowfabric.ResumeCondition, path string) {
		n := progress[path]
		mark := p.faint("·")
		if n.Satisfied {
			mark = p.good("✓")
		}
		indent := strings.Repeat("  ", 1+strings.Count(path, "members["))
		failed = firstError(failed, p.line("%s%s %s", indent, mark, nodeText(c, n)))
	})
	return failed
}

// nodeText is one line of the tree.
func nodeText(c *flowfabric.ResumeCondition, n flowfabric.ConditionProgress) string {
	switch c.Kind {
	case flowfabric.ConditionAllOf:
		return fmt.Sprintf("all of these: %d of %d", n.SatisfierCount, len(c.Members))
	case flowfabric.ConditionCount:
		text := fmt.Sprintf("%s on %s: %d so far", countText(c), joined(c.Waitpoints), n.SatisfierCount)
		if len(n.SourcesByType) > 0 {
			text += " (" + countsText(n.SourcesByType) + ")"
		}
		return text
	}
	return conditionText(c, true)
}

// countsText prints counts by name, in order of the names.
func countsText(counts map[string]int) string {
	texts := make(map[string]string, len(counts))
	for name, n := range counts {
		texts[name] = fmt.Sprint(n)
	}
	return tagList(texts)
}
