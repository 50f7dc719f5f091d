package flowfabric

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// Bounds of policy fields. (Specification 01, section 5; 04, section 2.5; 06,
// section 3.1.)
const (
	MaxBudgetIDs           = 16
	MaxQuotaPolicyIDs      = 8
	MaxUsageDimensions     = 64
	MaxUsageUnits          = 1<<53 - 1
	MaxStreamRetention     = 1_000_000
	MaxStreamTTLMs         = 31_536_000_000
	maxUsageDimensionBytes = 64
)

// The types of a backoff.
const (
	BackoffFixed       = "fixed"
	BackoffExponential = "exponential"
)

// ParsePolicy reads a policy document strictly. An empty document, or null, is
// the policy of all defaults. An unknown or repeated field, a wrong type, a
// required field absent or null and every broken rule of specification 01,
// section 5, is invalid_policy_json with the details "field" (dotted name) and
// "pointer" (RFC 6901); null counts as absent for an optional field. A fault in
// the required capabilities is invalid_capabilities with the detail "reason"
// "required:<fault>". Required capabilities come back in normal form.
func ParsePolicy(raw []byte) (*Policy, error) {
	if len(bytes.TrimSpace(raw)) == 0 {
		return &Policy{}, nil
	}
	doc, fault := parseJSON(raw)
	if fault != nil {
		return nil, policyFault(fault.path, "%s at byte %d", fault.what, fault.offset)
	}
	if doc.kind == jsonNull {
		return &Policy{}, nil
	}
	var r policyReader
	p := r.policy(&doc)
	if r.err != nil {
		return nil, r.err
	}
	return p, nil
}

// MergePolicy returns the policy document over, completed by the top-level
// fields of base that over lacks; null counts as lacking. An empty document
// lacks everything. Both must be JSON objects, else invalid_policy_json; their
// fields are not looked at.
func MergePolicy(base, over json.RawMessage) (json.RawMessage, error) {
	b, err := policyFields(base)
	if err != nil {
		return nil, err
	}
	o, err := policyFields(over)
	if err != nil {
		return nil, err
	}
	if len(b.keys) == 0 {
		return over, nil
	}
	if len(o.keys) == 0 {
		return base, nil
	}
	out := make([]byte, 0, len(base)+len(over))
	out = append(out, '{')
	add := func(doc []byte, key string, v *jsonValue) {
		if len(out) > 1 {
			out = append(out, ',')
		}
		name, _ := json.Marshal(key) // a string always marshals
		out = append(out, name...)
		out = append(out, ':')
		out = append(out, doc[v.start:v.end]...)
	}
	given := make(map[string]bool, len(o.keys))
	for i, key := range o.keys {
		if o.items[i].kind == jsonNull {
			continue
		}
		given[key] = true
		add(over, key, &o.items[i])
	}
	for i, key := range b.keys {
		if !given[key] {
			add(base, key, &b.items[i])
		}
	}
	return append(out, '}'), nil
}

func policyFields(raw json.RawMessage) (jsonValue, error) {
	if len(bytes.TrimSpace(raw)) == 0 {
		return jsonValue{}, nil
	}
	v, fault := parseJSON(raw)
	if fault != nil {
		return v, policyFault(fault.path, "%s at byte %d", fault.what, fault.offset)
	}
	if v.kind != jsonObject && v.kind != jsonNull {
		return v, policyFault(nil, "is a JSON %s, not an object", v.kind)
	}
	return v, nil
}

// policyFault names the field by its path from the top of the policy.
func policyFault(path []string, format string, args ...any) *Error {
	field := strings.Join(path, ".")
	if field == "" {
		field = "policy"
	}
	var pointer strings.Builder
	for _, step := range path {
		pointer.WriteByte('/')
		pointer.WriteString(strings.NewReplacer("~", "~0", "/", "~1").Replace(step))
	}
	return NewError(CodeInvalidPolicyJSON, "%s: %s", clip(field, 200), fmt.Sprintf(format, args...)).
		With("field", field).With("pointer", pointer.String())
}

// policyReader turns a parsed document into a [Policy]. It stops at the first
// fault, which it keeps in err.
type policyReader struct {
	path []string
	err  error
}

func (r *policyReader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = policyFault(r.path, format, args...)
	}
}

// fieldNames names the fields an object of the policy may and must have.
type fieldNames struct{ required, optional []string }

var (
	policyNames = fieldNames{optional: []string{"priority", "delay_until", "retry_policy", "timeout_policy",
		"max_reclaim_count", "max_replay_count", "routing_requirements", "fallback_policy", "suspension_policy",
		"stream_policy", "budget_ids", "quota_policy_ids", "estimated_usage", "dedup_window_ms", "retention_ms",
		"max_signals_per_execution"}}
	retryNames       = fieldNames{optional: []string{"max_retries", "backoff", "retryable_categories"}}
	fixedNames       = fieldNames{required: []string{"type", "delay_ms"}, optional: []string{"jitter"}}
	exponentialNames = fieldNames{required: []string{"type", "initial_delay_ms", "max_delay_ms", "multiplier"}, optional: []string{"jitter"}}
	timeoutNames     = fieldNames{optional: []string{"attempt_timeout_ms", "execution_deadline_ms"}}
	routingNames     = fieldNames{optional: []string{"required_capabilities", "preferred_locality", "isolation_level"}}
	fallbackNames    = fieldNames{required: []string{"tiers"}, optional: []string{"categories"}}
	tierNames        = fieldNames{required: []string{"provider", "model"}, optional: []string{"timeout_ms"}}
	suspensionNames  = fieldNames{optional: []string{"default_timeout_ms", "timeout_behavior"}}
	streamNames      = fieldNames{optional: []string{"durability_mode", "best_effort_ttl_ms", "retention_maxlen", "retention_ttl_ms"}}

	timeoutBehaviors = []string{"fail", "cancel", "expire", "auto_resume_with_timeout_signal", "escalate"}
	durabilityModes  = []string{"durable", "summary", "best_effort"}
)

// each calls read for every field of the object v that is not null, with the
// path leading to it. A field without a name in names is a fault, and so is a
// required one that is null or absent; a null optional one counts as absent.
func (r *policyReader) each(v *jsonValue, names *fieldNames, read func(name string, v *jsonValue)) {
	if v.kind != jsonObject {
		r.fail("must be an object, is a %s", v.kind)
		return
	}
	for i, name := range v.keys {
		item := &v.items[i]
		required := slices.Contains(names.required, name)
		r.path = append(r.path, name)
		switch {
		case !required && !slices.Contains(names.optional, name):
			r.fail("unknown field")
		case item.kind != jsonNull:
			read(name, item)
		case required:
			r.fail("must not be null")
		}
		r.path = r.path[:len(r.path)-1]
		if r.err != nil {
			return
		}
	}
	for _, name := range names.required {
		if !v.has(name) {
			r.path = append(r.path, name)
			r.fail("is required")
			return
		}
	}
}

// list calls read for every element of the array v, with its index as the last
// step of the path. Elements must not be null.
func (r *policyReader) list(v *jsonValue, limit int, read func(v *jsonValue)) {
	if v.kind != jsonArray {
		r.fail("must be an array, is a %s", v.kind)
		return
	}
	if limit > 0 && len(v.items) > limit {
		r.fail("has %d elements, limit %d", len(v.items), limit)
		return
	}
	for i := range v.items {
		r.path = append(r.path, strconv.Itoa(i))
		read(&v.items[i])
		r.path = r.path[:len(r.path)-1]
		if r.err != nil {
			return
		}
	}
}

func (r *policyReader) policy(v *jsonValue) *Policy {
	p := &Policy{}
	r.each(v, &policyNames, func(name string, v *jsonValue) {
		switch name {
		case "priority":
			p.Priority = r.clamped(v)
		case "delay_until":
			at := Millis(r.integer(v, 0, math.MaxInt64))
			p.DelayUntil = &at
		case "retry_policy":
			p.RetryPolicy = r.retry(v)
		case "timeout_policy":
			p.TimeoutPolicy = r.timeout(v)
		case "max_reclaim_count":
			p.MaxReclaimCount = r.count(v)
		case "max_replay_count":
			p.MaxReplayCount = r.count(v)
		case "routing_requirements":
			p.RoutingRequirements = r.routing(v)
		case "fallback_policy":
			p.FallbackPolicy = r.fallback(v)
		case "suspension_policy":
			p.SuspensionPolicy = r.suspension(v)
		case "stream_policy":
			p.StreamPolicy = r.stream(v)
		case "budget_ids":
			p.BudgetIDs = r.uuids(v, MaxBudgetIDs)
		case "quota_policy_ids":
			p.QuotaPolicyIDs = r.uuids(v, MaxQuotaPolicyIDs)
		case "estimated_usage":
			p.EstimatedUsage = r.usage(v)
		case "dedup_window_ms":
			p.DedupWindowMs = r.unsigned(v, 0, math.MaxInt64)
		case "retention_ms":
			p.RetentionMs = r.unsigned(v, 0, MaxRetentionMs)
		case "max_signals_per_execution":
			p.MaxSignalsPerExecution = r.count(v)
		}
	})
	return p
}

func (r *policyReader) retry(v *jsonValue) *RetryPolicy {
	out := &RetryPolicy{}
	r.each(v, &retryNames, func(name string, v *jsonValue) {
		switch name {
		case "max_retries":
			out.MaxRetries = r.count(v)
		case "backoff":
			out.Backoff = r.backoff(v)
		case "retryable_categories":
			out.RetryableCategories = r.categories(v)
			for i, c := range out.RetryableCategories {
				if c == "permanent" || c == "cancelled" {
					r.path = append(r.path, strconv.Itoa(i))
					r.fail("%q can never be retried", c)
					return
				}
			}
		}
	})
	return out
}

func (r *policyReader) backoff(v *jsonValue) *Backoff {
	out := &Backoff{}
	names := &exponentialNames
	for i, key := range v.keys {
		if key == "type" && v.items[i].text == BackoffFixed {
			names = &fixedNames
		}
	}
	r.each(v, names, func(name string, v *jsonValue) {
		switch name {
		case "type":
			out.Type = r.oneOf(v, []string{BackoffFixed, BackoffExponential})
		case "delay_ms":
			out.DelayMs = r.millis(v, 0)
		case "initial_delay_ms":
			out.InitialDelayMs = r.millis(v, 0)
		case "max_delay_ms":
			out.MaxDelayMs = r.millis(v, 0)
		case "multiplier":
			out.Multiplier = r.multiplier(v)
		case "jitter":
			out.Jitter = r.boolean(v)
		}
	})
	if r.err == nil && out.Type == BackoffExponential && *out.MaxDelayMs < *out.InitialDelayMs {
		r.path = append(r.path, "max_delay_ms")
		r.fail("is %d, below initial_delay_ms %d", *out.MaxDelayMs, *out.InitialDelayMs)
	}
	return out
}

func (r *policyReader) timeout(v *jsonValue) *TimeoutPolicy {
	out := &TimeoutPolicy{}
	r.each(v, &timeoutNames, func(name string, v *jsonValue) {
		switch name {
		case "attempt_timeout_ms":
			out.AttemptTimeoutMs = r.millis(v, 1)
		case "execution_deadline_ms":
			out.ExecutionDeadlineMs = r.millis(v, 1)
		}
	})
	return out
}

func (r *policyReader) routing(v *jsonValue) *RoutingRequirements {
	out := &RoutingRequirements{}
	r.each(v, &routingNames, func(name string, v *jsonValue) {
		switch name {
		case "required_capabilities":
			out.RequiredCapabilities = r.capabilities(v)
		case "preferred_locality":
			out.PreferredLocality = r.text(v)
		case "isolation_level":
			out.IsolationLevel = r.text(v)
		}
	})
	return out
}

// capabilities has a code of its own: invalid_capabilities, with the fault in
// the detail "reason".
func (r *policyReader) capabilities(v *jsonValue) []string {
	if v.kind != jsonArray {
		r.capabilityFault("not_array", "")
		return nil
	}
	tokens := make([]string, len(v.items))
	for i := range v.items {
		item := &v.items[i]
		if item.kind != jsonString {
			r.capabilityFault("non_string_token", item.text)
			return nil
		}
		tokens[i] = item.text
	}
	normal, err := NormalizeCapabilities(CapabilitiesRequired, tokens)
	if err != nil && r.err == nil {
		r.err = err
	}
	return normal
}

func (r *policyReader) capabilityFault(fault, token string) {
	if r.err == nil {
		r.err = invalidCapabilities(CapabilitiesRequired, fault, token)
	}
}

func (r *policyReader) fallback(v *jsonValue) *FallbackPolicy {
	out := &FallbackPolicy{}
	r.each(v, &fallbackNames, func(name string, v *jsonValue) {
		switch name {
		case "tiers":
			out.Tiers = make([]FallbackTier, 0, len(v.items))
			r.list(v, 0, func(v *jsonValue) { out.Tiers = append(out.Tiers, r.tier(v)) })
		case "categories":
			out.Categories = r.categories(v)
		}
	})
	return out
}

func (r *policyReader) tier(v *jsonValue) (out FallbackTier) {
	r.each(v, &tierNames, func(name string, v *jsonValue) {
		switch name {
		case "provider":
			out.Provider = r.text(v)
		case "model":
			out.Model = r.text(v)
		case "timeout_ms":
			out.TimeoutMs = r.millis(v, 1)
		}
	})
	return out
}

func (r *policyReader) suspension(v *jsonValue) *SuspensionPolicy {
	out := &SuspensionPolicy{}
	r.each(v, &suspensionNames, func(name string, v *jsonValue) {
		switch name {
		case "default_timeout_ms":
			out.DefaultTimeoutMs = r.millis(v, 1)
		case "timeout_behavior":
			out.TimeoutBehavior = r.oneOf(v, timeoutBehaviors)
		}
	})
	return out
}

func (r *policyReader) stream(v *jsonValue) *StreamPolicy {
	out := &StreamPolicy{}
	r.each(v, &streamNames, func(name string, v *jsonValue) {
		switch name {
		case "durability_mode":
			out.DurabilityMode = r.oneOf(v, durabilityModes)
		case "best_effort_ttl_ms":
			r.millis(v, 1)
		case "retention_maxlen":
			out.RetentionMaxlen = r.unsigned(v, 1, MaxStreamRetention)
		case "retention_ttl_ms":
			out.RetentionTTLMs = r.unsigned(v, 1, MaxStreamTTLMs)
		}
	})
	return out
}

// usage reads dimension -> units. Its names are data, so null is a fault.
func (r *policyReader) usage(v *jsonValue) map[string]int64 {
	if v.kind != jsonObject {
		r.fail("must be an object, is a %s", v.kind)
		return nil
	}
	if len(v.keys) > MaxUsageDimensions {
		r.fail("has %d dimensions, limit %d", len(v.keys), MaxUsageDimensions)
		return nil
	}
	out := make(map[string]int64, len(v.keys))
	for i, name := range v.keys {
		r.path = append(r.path, name)
		if !isUsageDimension(name) {
			r.fail("is no dimension name")
		}
		out[name] = r.integer(&v.items[i], 0, MaxUsageUnits)
		r.path = r.path[:len(r.path)-1]
		if r.err != nil {
			return nil
		}
	}
	return out
}

func (r *policyReader) categories(v *jsonValue) []string {
	out := make([]string, 0, len(v.items))
	r.list(v, 0, func(v *jsonValue) {
		c := r.text(v)
		if r.err == nil && !IsFailureCategory(c) {
			r.fail("%q is no failure category", clip(c, 80))
		}
		out = append(out, c)
	})
	return out
}

func (r *policyReader) uuids(v *jsonValue, limit int) []string {
	out := make([]string, 0, len(v.items))
	r.list(v, limit, func(v *jsonValue) {
		id := r.text(v)
		if r.err == nil && !isCanonicalUUID(id) {
			r.fail("%q is not a canonical UUID", clip(id, 80))
		}
		out = append(out, id)
	})
	return out
}

// clamped reads an integer of any size; what does not fit is clamped later on.
func (r *policyReader) clamped(v *jsonValue) *int64 {
	n, ok := r.literal(v)
	if !ok && r.err == nil {
		n = math.MaxInt64
		if v.text[0] == '-' {
			n = math.MinInt64
		}
	}
	return &n
}

func (r *policyReader) count(v *jsonValue) *uint32 {
	n := uint32(r.integer(v, 0, math.MaxUint32))
	return &n
}

func (r *policyReader) millis(v *jsonValue, lowest int64) *int64 {
	n := r.integer(v, lowest, math.MaxInt64)
	return &n
}

func (r *policyReader) unsigned(v *jsonValue, lowest, highest int64) *uint64 {
	n := uint64(r.integer(v, lowest, highest))
	return &n
}

func (r *policyReader) integer(v *jsonValue, lowest, highest int64) int64 {
	n, ok := r.literal(v)
	if r.err != nil {
		return lowest
	}
	if !ok || n < lowest || n > highest {
		r.fail("is %s, must be %d..%d", clip(v.text, 40), lowest, highest)
		return lowest
	}
	return n
}

// literal reads an integer; it reports false when the number does not fit.
func (r *policyReader) literal(v *jsonValue) (int64, bool) {
	if v.kind != jsonNumber {
		r.fail("must be an integer, is a %s", v.kind)
		return 0, false
	}
	if strings.ContainsAny(v.text, ".eE") {
		r.fail("must be an integer, is %s", clip(v.text, 40))
		return 0, false
	}
	n, err := strconv.ParseInt(v.text, 10, 64)
	return n, err == nil
}

func (r *policyReader) multiplier(v *jsonValue) *float64 {
	if v.kind != jsonNumber {
		r.fail("must be a number, is a %s", v.kind)
		return nil
	}
	f, err := strconv.ParseFloat(v.text, 64)
	if err != nil || math.IsInf(f, 0) || f < 1 {
		r.fail("is %s, must be finite and at least 1", clip(v.text, 40))
		return nil
	}
	return &f
}

func (r *policyReader) boolean(v *jsonValue) *bool {
	if v.kind != jsonBool {
		r.fail("must be a boolean, is a %s", v.kind)
	}
	b := v.text == "true"
	return &b
}

func (r *policyReader) text(v *jsonValue) string {
	if v.kind != jsonString {
		r.fail("must be a string, is a %s", v.kind)
	}
	return v.text
}

func (r *policyReader) oneOf(v *jsonValue, allowed []string) string {
	s := r.text(v)
	if r.err == nil && !slices.Contains(allowed, s) {
		r.fail("is %q, must be one of %s", clip(s, 80), strings.Join(allowed, ", "))
	}
	return s
}

// IsFailureCategory reports whether c has the form of a failure category:
// [a-z0-9][a-z0-9_.-]{0,63}. (Specification 01, section 5.1.)
func IsFailureCategory(c string) bool {
	if c == "" || len(c) > 64 {
		return false
	}
	for i := 0; i < len(c); i++ {
		b := c[i]
		if b >= 'a' && b <= 'z' || b >= '0' && b <= '9' {
			continue
		}
		if i == 0 || b != '_' && b != '.' && b != '-' {
			return false
		}
	}
	return true
}

// isUsageDimension reports whether s names a dimension: 1 to 64 bytes of
// [a-z][a-z0-9_]*, then perhaps ':' and one or more of [a-z0-9_.-].
// (Specification 06, section 3.1.)
func isUsageDimension(s string) bool {
	base, custom, ok := strings.Cut(s, ":")
	if len(s) > maxUsageDimensionBytes || base == "" || base[0] < 'a' || base[0] > 'z' || ok && custom == "" {
		return false
	}
	for i := 0; i < len(base); i++ {
		if b := base[i]; b != '_' && (b < 'a' || b > 'z') && (b < '0' || b > '9') {
			return false
		}
	}
	for i := 0; i < len(custom); i++ {
		if b := custom[i]; b != '_' && b != '.' && b != '-' && (b < 'a' || b > 'z') && (b < '0' || b > '9') {
			return false
		}
	}
	return true
}
