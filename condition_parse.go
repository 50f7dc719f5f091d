package flowfabric

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
)

// ParseResumeCondition reads a condition strictly: one JSON object with "v":1
// beside its kind at the top, and none in the members; unknown and repeated
// fields, wrong types and trailing data are refused, all with
// invalid_resume_condition, the detail "reason" being malformed,
// unsupported_version or unknown_kind. What the condition says is checked by
// [ResumeCondition.Validate]. A count without count_kind counts distinct
// waitpoints.
func ParseResumeCondition(raw []byte) (ResumeCondition, error) {
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	var w conditionJSON
	if err := dec.Decode(&w); err != nil {
		return ResumeCondition{}, badCondition("malformed", "", "%s", decodeFault(err))
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return ResumeCondition{}, badCondition("malformed", "", "data behind the condition")
	}
	if w.V == nil || *w.V != conditionVersion {
		return ResumeCondition{}, badCondition("unsupported_version", "", "v must be %d", conditionVersion)
	}
	w.V = nil
	c, err := w.condition("", 0)
	if err != nil {
		return ResumeCondition{}, err
	}
	return c, exactNames(raw)
}

// conditionNames are the fields of a condition and of its matchers.
var conditionNames = []string{
	"v", "kind", "waitpoint_key", "matcher", "members", "n", "count_kind", "waitpoints", "name", "names", "source_type", "signal_category",
}

// exactNames refuses what encoding/json lets pass: names in another case, and one
// name twice in an object.
func exactNames(raw []byte) error {
	doc, fault := parseJSON(raw)
	if fault != nil {
		return badCondition("malformed", "", "%s at byte %d", fault.what, fault.offset)
	}
	return doc.exactNames()
}

func (v *jsonValue) exactNames() error {
	for _, name := range v.keys {
		if !slices.Contains(conditionNames, name) {
			return badCondition("malformed", "", "unknown field %q", clip(name, 80))
		}
	}
	for i := range v.items {
		if err := v.items[i].exactNames(); err != nil {
			return err
		}
	}
	return nil
}

// decodeFault says what is wrong with a document without showing any of it.
func decodeFault(err error) string {
	var typed *json.UnmarshalTypeError
	var syntax *json.SyntaxError
	switch {
	case errors.As(err, &typed) && typed.Field == "":
		return "the condition must be an object"
	case errors.As(err, &typed):
		return fmt.Sprintf("%s does not fit field %q", typed.Value, typed.Field)
	case errors.As(err, &syntax):
		return fmt.Sprintf("syntax error at byte %d", syntax.Offset)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "the document ends early"
	}
	return clip(err.Error(), 120)
}

// condition takes a node off the wire. Fields that the kind does not have are
// refused.
func (w *conditionJSON) condition(path string, depth int) (c ResumeCondition, err error) {
	if w.V != nil {
		return c, badCondition("unsupported_version", path, "members carry no v")
	}
	if depth > MaxConditionDepth { // one past what Validate accepts, to bound the work
		return c, tooDeep(path)
	}
	if err := w.fits(path); err != nil {
		return c, err
	}
	c = ResumeCondition{Kind: w.Kind, WaitpointKey: w.WaitpointKey, Matcher: w.Matcher, CountKind: w.CountKind}
	if w.Kind == ConditionCount {
		c.Waitpoints = distinctStrings(w.Waitpoints)
		if w.N != nil {
			c.N = *w.N
		}
		if c.CountKind == "" {
			c.CountKind = DistinctWaitpoints
		}
	}
	for i := range w.Members {
		member := fmt.Sprintf("members[%d]", i)
		if path != "" {
			member = path + "." + member
		}
		node, err := w.Members[i].condition(member, depth+1)
		if err != nil {
			return ResumeCondition{}, err
		}
		c.Members = append(c.Members, node)
	}
	return c, nil
}

// fits refuses the fields of one kind on a node of another.
func (w *conditionJSON) fits(path string) error {
	single, all, count := w.Kind == ConditionSingle, w.Kind == ConditionAllOf, w.Kind == ConditionCount
	field := ""
	switch {
	case !single && !all && !count && w.Kind != ConditionOperatorOnly && w.Kind != ConditionTimeoutOnly:
		return badCondition("unknown_kind", path, "%q is no kind of condition", clip(string(w.Kind), 80))
	case w.WaitpointKey != "" && !single:
		field = "waitpoint_key"
	case w.Matcher != nil && !single && !count:
		field = "matcher"
	case w.Members != nil && !all:
		field = "members"
	case w.N != nil && !count:
		field = "n"
	case w.CountKind != "" && !count:
		field = "count_kind"
	case w.Waitpoints != nil && !count:
		field = "waitpoints"
	}
	if field != "" {
		return badCondition("malformed", path, "%s has no %s", w.Kind, field)
	}
	return nil
}
