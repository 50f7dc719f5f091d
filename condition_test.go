package flowfabric_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/flowfabric/flowfabric"
)

// nested is n all_of around each other, with a single inside.
func nested(n int) flowfabric.ResumeCondition {
	c := flowfabric.Single("k", flowfabric.AnySignal())
	for range n {
		c = flowfabric.AllOf(c)
	}
	return c
}

func wildcards(n int) *flowfabric.SignalMatcher {
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprintf("n%d", i)
	}
	return flowfabric.ByNames(names...)
}

// TestSpec03_ConditionRefusals is the table of specification 03, section 3.1,
// with scenarios 12, 13 and 45.
func TestSpec03_ConditionRefusals(t *testing.T) {
	count := func(n int, kind flowfabric.CountKind, keys ...string) flowfabric.ResumeCondition {
		return flowfabric.Count(n, kind, nil, keys...)
	}
	any := flowfabric.AnySignal()
	for _, c := range []struct {
		name, reason, path string
		cond               flowfabric.ResumeCondition
	}{
		{"empty all_of", "allof_empty_members", "<root>", flowfabric.AllOf()},
		{"empty member", "allof_empty_members", "members[1]", flowfabric.AllOf(flowfabric.Single("k", any), flowfabric.AllOf())},
		{"n zero", "count_n_zero", "<root>", count(0, "", "a")},
		{"n negative", "count_n_zero", "<root>", count(-1, "", "a")},
		{"no waitpoints", "count_waitpoints_empty", "<root>", count(1, "")},
		{"n above keys", "count_exceeds_waitpoint_set", "<root>", count(3, "", "a", "b")},
		{"n above different keys", "count_exceeds_waitpoint_set", "<root>", count(2, "", "k1", "k1")},
		{"depth 5", "condition_depth_exceeded", "members[0].members[0].members[0].members[0]", nested(5)},
		{"a count too deep", "condition_depth_exceeded", "members[0].members[0].members[0].members[0]",
			flowfabric.AllOf(flowfabric.AllOf(flowfabric.AllOf(flowfabric.AllOf(count(1, "", "a")))))},
		{"operator in all_of", "condition_member_not_signalable", "members[0]", flowfabric.AllOf(flowfabric.OperatorOnly())},
		{"timeout in all_of", "condition_member_not_signalable", "members[0].members[0]",
			flowfabric.AllOf(flowfabric.AllOf(flowfabric.TimeoutOnly()))},
		{"empty name", "empty_signal_name", "<root>", flowfabric.Single("k", flowfabric.ByName(""))},
		{"empty name in a list", "empty_signal_name", "<root>", flowfabric.Single("k", flowfabric.ByNames("a", ""))},
		{"no matcher", "empty_signal_name", "<root>", flowfabric.Single("k", nil)},
		{"no names", "names_out_of_range", "<root>", flowfabric.Single("k", flowfabric.ByNames())},
		{"65 names", "names_out_of_range", "<root>", flowfabric.Single("k", wildcards(65))},
		{"kind", "unknown_kind", "<root>", flowfabric.ResumeCondition{Kind: "any_of"}},
		{"count kind", "unknown_kind", "<root>", count(1, "distinct_names", "a")},
		{"matcher kind", "unknown_kind", "<root>", flowfabric.Single("k", &flowfabric.SignalMatcher{Kind: "regexp"})},
		{"timeout only", "timeout_only_without_deadline", "<root>", flowfabric.TimeoutOnly()},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := c.cond.Validate(false)
			if !errors.Is(err, flowfabric.ErrInvalidResumeCondition) {
				t.Fatalf("error %v", err)
			}
			e := flowfabric.AsError(err)
			if e.Detail("reason") != c.reason || e.Detail("path") != c.path || !strings.HasPrefix(e.Message, c.reason+" at "+c.path) {
				t.Errorf("reason %v at %v: %s", e.Detail("reason"), e.Detail("path"), e.Message)
			}
		})
	}
}

// TestSpec03_ConditionAccepted is the other side of the limits.
func TestSpec03_ConditionAccepted(t *testing.T) {
	for name, c := range map[string]flowfabric.ResumeCondition{
		"depth 4":           nested(4),
		"64 names":          flowfabric.Single("k", wildcards(64)),
		"count of a source": flowfabric.Count(9, flowfabric.DistinctSources, nil, "k"),
		"operator only":     flowfabric.OperatorOnly(),
		"any of names":      flowfabric.AnyOfNames("k", "x", "y"),
	} {
		if err := c.Validate(false); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := flowfabric.TimeoutOnly().Validate(true); err != nil {
		t.Errorf("timeout only with a timeout: %v", err)
	}
}

// TestSpec03_S45_ConditionSize: 8,192 bytes pass, 8,193 do not.
func TestSpec03_S45_ConditionSize(t *testing.T) {
	of := func(size int) flowfabric.ResumeCondition {
		c := flowfabric.AllOfNames("k")
		for len(c.JSON()) < size-400 {
			c.Members = append(c.Members, flowfabric.Single("k", flowfabric.ByName(strings.Repeat("n", 200))))
		}
		c.Members = append(c.Members, flowfabric.Single("k", flowfabric.ByName("x")))
		c.Members[len(c.Members)-1].Matcher.Name = strings.Repeat("x", 1+size-len(c.JSON()))
		return c
	}
	if c := of(8192); len(c.JSON()) != 8192 || c.Validate(false) != nil {
		t.Errorf("%d bytes: %v", len(c.JSON()), c.Validate(false))
	}
	c := of(8193)
	if err := c.Validate(false); len(c.JSON()) != 8193 || flowfabric.AsError(err).Detail("reason") != "condition_size_exceeded" {
		t.Errorf("%d bytes: %v", len(c.JSON()), err)
	}
}

func TestConditionJSON(t *testing.T) {
	const doc = `{"v":1,"kind":"count","matcher":{"kind":"by_name","name":"approved","source_type":"user"},"n":2,` +
		`"count_kind":"distinct_sources","waitpoints":["review-a","review-b"]}`
	c, err := flowfabric.ParseResumeCondition([]byte(doc))
	if err != nil {
		t.Fatal(err)
	}
	if got := string(c.JSON()); got != doc {
		t.Errorf("written %s", got)
	}
	if keys := c.Keys(); !slices.Equal(keys, []string{"review-a", "review-b"}) {
		t.Errorf("keys %q", keys)
	}
	// Repeated keys are collapsed; an absent count_kind counts waitpoints.
	c, err = flowfabric.ParseResumeCondition([]byte(`{"v":1,"kind":"count","n":1,"waitpoints":["a","b","a"]}`))
	if err != nil || !slices.Equal(c.Waitpoints, []string{"a", "b"}) || c.CountKind != flowfabric.DistinctWaitpoints {
		t.Errorf("%+v, %v", c, err)
	}
	nested := flowfabric.AllOf(flowfabric.Single("b", flowfabric.AnySignal()), flowfabric.AllOfNames("a", "x<y", "z"))
	again, err := flowfabric.ParseResumeCondition(nested.JSON())
	if err != nil || string(again.JSON()) != string(nested.JSON()) {
		t.Errorf("read back %s, %v", again.JSON(), err)
	}
	if keys := nested.Keys(); !slices.Equal(keys, []string{"b", "a"}) {
		t.Errorf("keys %q, want depth-first order", keys)
	}
}

func TestConditionParseRefusals(t *testing.T) {
	for doc, reason := range map[string]string{
		``:                              "malformed",
		`[]`:                            "malformed",
		`{"v":1,"kind":"single"} x`:     "malformed",
		`{"v":1,"kind":"single","a":1}`: "malformed",
		`{"v":1,"kind":"count","n":"2","waitpoints":["a"]}`:                                              "malformed",
		`{"v":1,"kind":"count","n":1.5,"waitpoints":["a"]}`:                                              "malformed",
		`{"v":1,"kind":"single","waitpoint_key":"k","members":[]}`:                                       "malformed",
		`{"kind":"operator_only"}`:                                                                       "unsupported_version",
		`{"v":2,"kind":"operator_only"}`:                                                                 "unsupported_version",
		`{"v":1,"kind":"all_of","members":[{"v":1,"kind":"single"}]}`:                                    "unsupported_version",
		`{"v":1,"kind":"either"}`:                                                                        "unknown_kind",
		`{"v":1}`:                                                                                        "unknown_kind",
		`{"v":1,"kind":"operator_only","waitpoints":["a"]}`:                                              "malformed",
		`{"v":1,"kind":"all_of","members":[{"kind":"single","count_kind":"x"}]}`:                         "malformed",
		`{"v":1,"kind":"all_of","members":[{"kind":"nope"}`:                                              "malformed",
		`{"v":1,"Kind":"operator_only"}`:                                                                 "malformed",
		`{"v":1,"kind":"operator_only","KIND":"timeout_only"}`:                                           "malformed",
		`{"v":1,"kind":"operator_only","kind":"timeout_only"}`:                                           "malformed",
		`{"v":1,"kind":"single","waitpoint_key":"k","matcher":{"kind":"by_name","name":"a","Name":"b"}}`: "malformed",
	} {
		_, err := flowfabric.ParseResumeCondition([]byte(doc))
		if !errors.Is(err, flowfabric.ErrInvalidResumeCondition) || flowfabric.AsError(err).Detail("reason") != reason {
			t.Errorf("%s: %v, want reason %s", doc, err, reason)
		}
	}
}

// A matcher says one thing: fields of another kind beside it are refused and not
// dropped. (Specification 03, section 3.1.)
func TestMatcherOfTwoKinds(t *testing.T) {
	for name, matcher := range map[string]*flowfabric.SignalMatcher{
		"by_name with names":  {Kind: flowfabric.MatchByName, Name: "a", Names: []string{"b"}},
		"by_names with name":  {Kind: flowfabric.MatchByNames, Name: "a", Names: []string{"b"}},
		"wildcard with name":  {Kind: flowfabric.MatchWildcard, Name: "a"},
		"wildcard with names": {Kind: flowfabric.MatchWildcard, Names: []string{"b"}},
	} {
		c := flowfabric.Single("k", matcher)
		if err := c.Validate(false); !errors.Is(err, flowfabric.ErrInvalidResumeCondition) || flowfabric.AsError(err).Detail("reason") != "malformed" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What does not fit is said in words, also where no field can be named.
func TestConditionThatIsNoObject(t *testing.T) {
	for _, doc := range []string{`"x"`, `[]`, `7`, `true`} {
		_, err := flowfabric.ParseResumeCondition([]byte(doc))
		if err == nil || !strings.Contains(err.Error(), "must be an object") {
			t.Errorf("%s: %v", doc, err)
		}
	}
}

func TestRequiredNames(t *testing.T) {
	c := flowfabric.AllOf(flowfabric.Single("k", flowfabric.ByNames("b", "a")), flowfabric.Single("k", flowfabric.ByName("b")),
		flowfabric.Single("other", flowfabric.ByName("c")), flowfabric.Single("open", flowfabric.AnySignal()),
		flowfabric.Single("open", flowfabric.ByName("d")))
	for key, want := range map[string][]string{"k": {"b", "a"}, "other": {"c"}, "open": {}, "none": {}} {
		if got := c.RequiredNames(key); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", key, got, want)
		}
	}
}

// FuzzResumeCondition: whatever is read is refused with the one code, or is
// valid to write and read again the same.
func FuzzResumeCondition(f *testing.F) {
	f.Add([]byte(`{"v":1,"kind":"single","waitpoint_key":"k","matcher":{"kind":"by_name","name":"x"}}`))
	f.Add([]byte(`{"v":1,"kind":"all_of","members":[{"kind":"count","n":2,"waitpoints":["a","b"]},{"kind":"all_of","members":[]}]}`))
	f.Add([]byte(`{"v":1,"kind":"timeout_only"}`))
	f.Add([]byte(`{"v":1,"kind":"count","n":-9223372036854775808,"count_kind":"distinct_signals","waitpoints":["\u0000"]}`))
	f.Fuzz(func(t *testing.T, doc []byte) {
		c, err := flowfabric.ParseResumeCondition(doc)
		if err == nil {
			err = c.Validate(true)
		}
		if err != nil {
			if code := flowfabric.CodeOf(err); code != flowfabric.CodeInvalidResumeCondition && code != flowfabric.CodeInvalidWaitpointKey {
				t.Fatalf("error %v", err)
			}
			return
		}
		written := c.JSON()
		again, err := flowfabric.ParseResumeCondition(written)
		if err != nil || string(again.JSON()) != string(written) || again.Validate(true) != nil {
			t.Fatalf("%s read back as %s, %v", written, again.JSON(), err)
		}
		if !json.Valid(written) {
			t.Fatalf("wrote %q", written)
		}
	})
}

// TestConditionWithDefaults: the normal form is what the JSON form reads back as,
// a count without a kind included, and shares nothing with the original.
func TestConditionWithDefaults(t *testing.T) {
	given := flowfabric.AllOf(
		flowfabric.ResumeCondition{Kind: flowfabric.ConditionCount, N: 1, Waitpoints: []string{"a", "b", "a"}},
		flowfabric.Single("k", flowfabric.ByNames("x", "y")))
	normal := given.WithDefaults()
	read, err := flowfabric.ParseResumeCondition(normal.JSON())
	if err != nil || string(read.JSON()) != string(normal.JSON()) || normal.Members[0].CountKind != flowfabric.DistinctWaitpoints ||
		!slices.Equal(normal.Members[0].Waitpoints, []string{"a", "b"}) {
		t.Errorf("normal form %+v, %v", normal, err)
	}
	if err := normal.Validate(false); err != nil {
		t.Error(err)
	}
	normal.Members[0].Waitpoints[0], normal.Members[1].Matcher.Names[0] = "changed", "changed"
	if given.Members[0].Waitpoints[0] != "a" || given.Members[1].Matcher.Names[0] != "x" || given.Members[0].CountKind != "" {
		t.Errorf("the original changed: %+v", given)
	}
}
