package flowfabric

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// Limits of resume conditions. (Specification 03, section 7.)
const (
	MaxConditionDepth = 4
	MaxConditionBytes = 8192
	MaxMatcherNames   = 64
	conditionVersion  = 1
)

// ConditionKind is the kind of a node of a resume condition.
type ConditionKind string

// The kinds of condition.
const (
	ConditionSingle       ConditionKind = "single"
	ConditionAllOf        ConditionKind = "all_of"
	ConditionCount        ConditionKind = "count"
	ConditionOperatorOnly ConditionKind = "operator_only"
	ConditionTimeoutOnly  ConditionKind = "timeout_only"
)

// CountKind says what a Count counts as distinct.
type CountKind string

// The kinds of count; the zero value counts as DistinctWaitpoints.
const (
	DistinctWaitpoints CountKind = "distinct_waitpoints"
	DistinctSignals    CountKind = "distinct_signals"
	DistinctSources    CountKind = "distinct_sources" // source_type and source_identity together
)

// MatcherKind is the kind of a signal matcher.
type MatcherKind string

// The kinds of matcher.
const (
	MatchByName   MatcherKind = "by_name"
	MatchByNames  MatcherKind = "by_names"
	MatchWildcard MatcherKind = "wildcard"
)

// SignalMatcher accepts signals by name and, where given, by source type and
// category; all are compared exactly.
type SignalMatcher struct {
	Kind           MatcherKind `json:"kind"`
	Name           string      `json:"name,omitempty"`
	Names          []string    `json:"names,omitempty"`
	SourceType     string      `json:"source_type,omitempty"`
	SignalCategory string      `json:"signal_category,omitempty"`
}

// Accepts reports whether the matcher accepts a signal. A nil matcher accepts
// any.
func (m *SignalMatcher) Accepts(name, category, sourceType string) bool {
	if m == nil {
		return true
	}
	if m.SourceType != "" && m.SourceType != sourceType || m.SignalCategory != "" && m.SignalCategory != category {
		return false
	}
	switch m.Kind {
	case MatchByName:
		return m.Name == name
	case MatchByNames:
		return slices.Contains(m.Names, name)
	}
	return m.Kind == MatchWildcard
}

// required returns the names the matcher asks for, nil for any.
func (m *SignalMatcher) required() []string {
	switch {
	case m == nil:
		return nil
	case m.Kind == MatchByName:
		return []string{m.Name}
	case m.Kind == MatchByNames:
		return m.Names
	}
	return nil
}

// ByName accepts signals of one name.
func ByName(name string) *SignalMatcher { return &SignalMatcher{Kind: MatchByName, Name: name} }

// ByNames accepts signals of any of 1..64 names.
func ByNames(names ...string) *SignalMatcher {
	return &SignalMatcher{Kind: MatchByNames, Names: names}
}

// AnySignal accepts every signal.
func AnySignal() *SignalMatcher { return &SignalMatcher{Kind: MatchWildcard} }

// FromSource also asks for a source type, and returns the matcher.
func (m *SignalMatcher) FromSource(sourceType string) *SignalMatcher {
	m.SourceType = sourceType
	return m
}

// InCategory also asks for a category, and returns the matcher.
func (m *SignalMatcher) InCategory(category string) *SignalMatcher {
	m.SignalCategory = category
	return m
}

// ResumeCondition is the rule over signals that says when a wait is over. Build
// it with [Single], [AllOf], [Count] and the other builders, or read it with
// [ParseResumeCondition]. (Specification 03, section 3.1.)
type ResumeCondition struct {
	Kind         ConditionKind
	WaitpointKey string            // single
	Matcher      *SignalMatcher    // single; optional in a count, where nil accepts any
	Members      []ResumeCondition // all_of
	N            int               // count
	CountKind    CountKind         // count
	Waitpoints   []string          // count: the keys it listens to
}

// Single is satisfied by one signal on the waitpoint that the matcher accepts.
func Single(key string, m *SignalMatcher) ResumeCondition {
	return ResumeCondition{Kind: ConditionSingle, WaitpointKey: key, Matcher: m}
}

// AllOf is satisfied once every member is, in any order.
func AllOf(members ...ResumeCondition) ResumeCondition {
	return ResumeCondition{Kind: ConditionAllOf, Members: members}
}

// Count is satisfied by n distinct satisfiers on the waitpoints; a nil matcher
// accepts any signal. An empty kind is distinct_waitpoints.
func Count(n int, kind CountKind, m *SignalMatcher, keys ...string) ResumeCondition {
	if kind == "" {
		kind = DistinctWaitpoints
	}
	return ResumeCondition{Kind: ConditionCount, N: n, CountKind: kind, Matcher: m, Waitpoints: keys}
}

// OperatorOnly is never satisfied by a signal; only ResumeExecution ends the
// wait.
func OperatorOnly() ResumeCondition { return ResumeCondition{Kind: ConditionOperatorOnly} }

// TimeoutOnly is ended by the timeout, which it needs, or by ResumeExecution.
func TimeoutOnly() ResumeCondition { return ResumeCondition{Kind: ConditionTimeoutOnly} }

// AnyOfNames is satisfied by a signal of any of the names.
func AnyOfNames(key string, names ...string) ResumeCondition { return Single(key, ByNames(names...)) }

// AllOfNames is satisfied once a signal of each of the names has come.
func AllOfNames(key string, names ...string) ResumeCondition {
	members := make([]ResumeCondition, len(names))
	for i, name := range names {
		members[i] = Single(key, ByName(name))
	}
	return AllOf(members...)
}

// AllOfWaitpoints is satisfied once each waitpoint has got any signal.
func AllOfWaitpoints(keys ...string) ResumeCondition {
	members := make([]ResumeCondition, len(keys))
	for i, key := range keys {
		members[i] = Single(key, AnySignal())
	}
	return AllOf(members...)
}

// WithDefaults returns the condition in its normal form, which shares nothing with
// the original: a count without a kind counts distinct waitpoints, and repeated
// keys of a count are collapsed.
func (c ResumeCondition) WithDefaults() ResumeCondition {
	if c.Matcher != nil {
		m := *c.Matcher
		m.Names = slices.Clone(m.Names)
		c.Matcher = &m
	}
	if c.Kind == ConditionCount {
		if c.CountKind == "" {
			c.CountKind = DistinctWaitpoints
		}
		c.Waitpoints = distinctStrings(c.Waitpoints)
	}
	c.Members = slices.Clone(c.Members)
	for i := range c.Members {
		c.Members[i] = c.Members[i].WithDefaults()
	}
	return c
}

// Keys returns the distinct waitpoint keys the condition refers to, in
// depth-first order; none for OperatorOnly and TimeoutOnly.
func (c ResumeCondition) Keys() []string {
	var keys []string
	c.Walk(func(n *ResumeCondition, _ string) {
		for _, k := range n.listens() {
			if !slices.Contains(keys, k) {
				keys = append(keys, k)
			}
		}
	})
	return keys
}

// listens returns the keys a leaf node listens to.
func (c *ResumeCondition) listens() []string {
	switch c.Kind {
	case ConditionSingle:
		return []string{c.WaitpointKey}
	case ConditionCount:
		return c.Waitpoints
	}
	return nil
}

// RequiredNames returns the names that matchers for a waitpoint key ask for, in
// the order they are first seen; none when any of them accepts every name.
func (c ResumeCondition) RequiredNames(key string) []string {
	var names []string
	open := false
	c.Walk(func(n *ResumeCondition, _ string) {
		if !slices.Contains(n.listens(), key) {
			return
		}
		required := n.Matcher.required()
		open = open || required == nil
		for _, name := range required {
			if !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	})
	if open || names == nil {
		return []string{}
	}
	return names
}

// Walk calls visit for every node in depth-first order, with its path: "<root>",
// "members[0].members[2]".
func (c *ResumeCondition) Walk(visit func(n *ResumeCondition, path string)) { c.walk("", visit) }

func (c *ResumeCondition) walk(path string, visit func(n *ResumeCondition, path string)) {
	shown := path
	if shown == "" {
		shown = "<root>"
	}
	visit(c, shown)
	for i := range c.Members {
		member := fmt.Sprintf("members[%d]", i)
		if path != "" {
			member = path + "." + member
		}
		c.Members[i].walk(member, visit)
	}
}

// Validate reports what is wrong with the condition as invalid_resume_condition,
// whose message begins with the reason and names the path; details "reason" and
// "path". hasTimeout tells whether the suspension has a timeout.
func (c ResumeCondition) Validate(hasTimeout bool) error {
	if c.Kind == ConditionTimeoutOnly && !hasTimeout {
		return badCondition("timeout_only_without_deadline", "", "a timeout_only condition needs a timeout")
	}
	if err := c.check("", 0); err != nil {
		return err
	}
	if n := len(c.JSON()); n > MaxConditionBytes {
		return badCondition("condition_size_exceeded", "", "the condition is %d bytes, limit %d", n, MaxConditionBytes)
	}
	return nil
}

// rootPath names the outermost node.
const rootPath = "<root>"

func badCondition(reason, path, format string, args ...any) *Error {
	if path == "" {
		path = rootPath
	}
	return NewError(CodeInvalidResumeCondition, "%s at %s: "+format, append([]any{reason, path}, args...)...).
		With("reason", reason).With("path", path).With("field", "resume_condition")
}

// check is the recursive part of Validate; depth counts the composites above.
func (c *ResumeCondition) check(path string, depth int) error {
	switch c.Kind {
	case ConditionSingle:
		if err := checkConditionKey(c.WaitpointKey, path); err != nil {
			return err
		}
		if c.Matcher == nil {
			return badCondition("empty_signal_name", path, "a single needs a matcher; wildcard must be said")
		}
		return c.Matcher.check(path)
	case ConditionAllOf:
		return c.checkAllOf(path, depth+1)
	case ConditionCount:
		return c.checkCount(path, depth+1)
	case ConditionOperatorOnly, ConditionTimeoutOnly:
		if path != "" {
			return badCondition("condition_member_not_signalable", path, "%s cannot stand in an all_of", c.Kind)
		}
		return nil
	}
	return badCondition("unknown_kind", path, "%q is no kind of condition", clip(string(c.Kind), 80))
}

func (c *ResumeCondition) checkAllOf(path string, depth int) error {
	if depth > MaxConditionDepth {
		return tooDeep(path)
	}
	if len(c.Members) == 0 {
		return badCondition("allof_empty_members", path, "an all_of needs members")
	}
	for i := range c.Members {
		member := fmt.Sprintf("members[%d]", i)
		if path != "" {
			member = path + "." + member
		}
		if err := c.Members[i].check(member, depth); err != nil {
			return err
		}
	}
	return nil
}

func (c *ResumeCondition) checkCount(path string, depth int) error {
	if depth > MaxConditionDepth {
		return tooDeep(path)
	}
	switch c.CountKind {
	case DistinctWaitpoints, DistinctSignals, DistinctSources:
	default:
		return badCondition("unknown_kind", path, "%q is no kind of count", clip(string(c.CountKind), 80))
	}
	if c.N < 1 {
		return badCondition("count_n_zero", path, "n is %d, must be at least 1", c.N)
	}
	if len(c.Waitpoints) == 0 {
		return badCondition("count_waitpoints_empty", path, "a count needs waitpoints")
	}
	for _, key := range c.Waitpoints {
		if err := checkConditionKey(key, path); err != nil {
			return err
		}
	}
	if distinct := len(distinctStrings(c.Waitpoints)); c.CountKind == DistinctWaitpoints && c.N > distinct {
		return badCondition("count_exceeds_waitpoint_set", path, "n is %d of %d different waitpoints", c.N, distinct)
	}
	if c.Matcher == nil {
		return nil
	}
	return c.Matcher.check(path)
}

func tooDeep(path string) error {
	return badCondition("condition_depth_exceeded", path, "more than %d composites on a path", MaxConditionDepth)
}

func checkConditionKey(key, path string) error {
	if err := ValidateWaitpointKey(key); err != nil {
		if path == "" {
			path = rootPath
		}
		return AsError(err).With("path", path)
	}
	return nil
}

func (m *SignalMatcher) check(path string) error {
	if m.Name != "" && (m.Kind == MatchByNames || m.Kind == MatchWildcard) {
		return badCondition("malformed", path, "%s has no name", m.Kind)
	}
	if m.Names != nil && (m.Kind == MatchByName || m.Kind == MatchWildcard) {
		return badCondition("malformed", path, "%s has no names", m.Kind)
	}
	switch m.Kind {
	case MatchByName:
		if m.Name == "" {
			return badCondition("empty_signal_name", path, "by_name needs a name")
		}
	case MatchByNames:
		if len(m.Names) < 1 || len(m.Names) > MaxMatcherNames {
			return badCondition("names_out_of_range", path, "by_names has %d names, must have 1..%d", len(m.Names), MaxMatcherNames)
		}
		if slices.Contains(m.Names, "") {
			return badCondition("empty_signal_name", path, "by_names has an empty name")
		}
	case MatchWildcard:
	default:
		return badCondition("unknown_kind", path, "%q is no kind of matcher", clip(string(m.Kind), 80))
	}
	return nil
}

func distinctStrings(list []string) []string {
	out := make([]string, 0, len(list))
	for _, s := range list {
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

// ValidateWaitpointKey reports invalid_waitpoint_key unless the key is 1..256
// bytes of printable UTF-8 without control characters.
func ValidateWaitpointKey(key string) error {
	bad := func(format string, args ...any) error {
		return NewError(CodeInvalidWaitpointKey, "waitpoint_key "+format, args...).With("field", "waitpoint_key")
	}
	if key == "" {
		return bad("must not be empty")
	}
	if len(key) > MaxWaitpointKeyBytes {
		return bad("is %d bytes, limit %d", len(key), MaxWaitpointKeyBytes)
	}
	if strings.ToValidUTF8(key, "") != key {
		return bad("is not valid UTF-8")
	}
	for i, r := range key {
		if r < 0x20 || r >= 0x7F && r < 0xA0 {
			return bad("has a control character at %d", i)
		}
	}
	return nil
}

// conditionJSON is a condition on the wire; V stands in the top object only.
type conditionJSON struct {
	V            *int            `json:"v,omitempty"`
	Kind         ConditionKind   `json:"kind"`
	WaitpointKey string          `json:"waitpoint_key,omitempty"`
	Matcher      *SignalMatcher  `json:"matcher,omitempty"`
	Members      []conditionJSON `json:"members,omitempty"`
	N            *int            `json:"n,omitempty"`
	CountKind    CountKind       `json:"count_kind,omitempty"`
	Waitpoints   []string        `json:"waitpoints,omitempty"`
}

func (c *ResumeCondition) wire() conditionJSON {
	w := conditionJSON{Kind: c.Kind, WaitpointKey: c.WaitpointKey, Matcher: c.Matcher, CountKind: c.CountKind}
	if c.Kind == ConditionCount {
		n := c.N
		w.N, w.Waitpoints = &n, distinctStrings(c.Waitpoints)
	}
	for i := range c.Members {
		w.Members = append(w.Members, c.Members[i].wire())
	}
	return w
}

// JSON returns the condition as compact JSON, with "v":1 at its top and repeated
// keys of a count collapsed: the form that is stored and measured.
func (c ResumeCondition) JSON() json.RawMessage {
	w := c.wire()
	v := conditionVersion
	w.V = &v
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(w); err != nil { // strings, numbers and lists of them always encode
		return nil
	}
	return json.RawMessage(strings.TrimSuffix(b.String(), "\n"))
}

// MarshalJSON is JSON.
func (c ResumeCondition) MarshalJSON() ([]byte, error) { return c.JSON(), nil }

// UnmarshalJSON is [ParseResumeCondition].
func (c *ResumeCondition) UnmarshalJSON(b []byte) error {
	parsed, err := ParseResumeCondition(b)
	if err == nil {
		*c = parsed
	}
	return err
}
