package flowfabric_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/flowfabric/flowfabric"
	"github.com/google/go-cmp/cmp"
)

func TestParsePolicyReadsEveryField(t *testing.T) {
	const uuid = "00000000-0000-4000-8000-000000000001"
	got, err := flowfabric.ParsePolicy([]byte(`{
		"priority": 7, "delay_until": 1700000000000,
		"retry_policy": {"max_retries": 5, "retryable_categories": ["timeout", "x.y-z_1"],
			"backoff": {"type": "exponential", "initial_delay_ms": 0, "max_delay_ms": 10, "multiplier": 1.5, "jitter": true}},
		"timeout_policy": {"attempt_timeout_ms": 1, "execution_deadline_ms": 2},
		"max_reclaim_count": 0, "max_replay_count": 4294967295,
		"routing_requirements": {"required_capabilities": ["gpu", "cpu", "gpu"], "preferred_locality": "eu", "isolation_level": "vm"},
		"fallback_policy": {"tiers": [{"provider": "p", "model": "m", "timeout_ms": 9}], "categories": ["provider_error"]},
		"suspension_policy": {"default_timeout_ms": 3, "timeout_behavior": "escalate"},
		"stream_policy": {"durability_mode": "summary", "best_effort_ttl_ms": 15000, "retention_maxlen": 1000000, "retention_ttl_ms": 1},
		"budget_ids": ["` + uuid + `"], "quota_policy_ids": [], "estimated_usage": {"total_tokens": 9007199254740991, "custom:gpu_seconds": 0},
		"dedup_window_ms": 0, "retention_ms": 31536000000, "max_signals_per_execution": 1}`))
	if err != nil {
		t.Fatal(err)
	}
	want := &flowfabric.Policy{
		Priority: new(int64(7)), DelayUntil: new(flowfabric.Millis(1700000000000)),
		RetryPolicy: &flowfabric.RetryPolicy{MaxRetries: new(uint32(5)), RetryableCategories: []string{"timeout", "x.y-z_1"},
			Backoff: &flowfabric.Backoff{Type: "exponential", InitialDelayMs: new(int64(0)), MaxDelayMs: new(int64(10)), Multiplier: new(1.5), Jitter: new(true)}},
		TimeoutPolicy:   &flowfabric.TimeoutPolicy{AttemptTimeoutMs: new(int64(1)), ExecutionDeadlineMs: new(int64(2))},
		MaxReclaimCount: new(uint32(0)), MaxReplayCount: new(uint32(4294967295)),
		RoutingRequirements: &flowfabric.RoutingRequirements{RequiredCapabilities: []string{"cpu", "gpu"}, PreferredLocality: "eu", IsolationLevel: "vm"},
		FallbackPolicy:      &flowfabric.FallbackPolicy{Tiers: []flowfabric.FallbackTier{{Provider: "p", Model: "m", TimeoutMs: new(int64(9))}}, Categories: []string{"provider_error"}},
		SuspensionPolicy:    &flowfabric.SuspensionPolicy{DefaultTimeoutMs: new(int64(3)), TimeoutBehavior: "escalate"},
		StreamPolicy:        &flowfabric.StreamPolicy{DurabilityMode: "summary", RetentionMaxlen: new(uint64(1000000)), RetentionTTLMs: new(uint64(1))},
		BudgetIDs:           []string{uuid}, QuotaPolicyIDs: []string{}, EstimatedUsage: map[string]int64{"total_tokens": 9007199254740991, "custom:gpu_seconds": 0},
		DedupWindowMs: new(uint64(0)), RetentionMs: new(uint64(31536000000)), MaxSignalsPerExecution: new(uint32(1)),
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	again, err := flowfabric.ParsePolicy(got.JSON())
	if err != nil {
		t.Fatal(err)
	}
	got.QuotaPolicyIDs = nil // an empty list and an absent one are the same
	if diff := cmp.Diff(got, again); diff != "" {
		t.Error(diff)
	}
}

func TestParsePolicyOfNothing(t *testing.T) {
	for _, doc := range []string{"", "  \n", "null", " null ", "{}", `{"priority":null,"retry_policy":null,"routing_requirements":null}`} {
		got, err := flowfabric.ParsePolicy([]byte(doc))
		if err != nil || !cmp.Equal(got, &flowfabric.Policy{}) {
			t.Errorf("%q: %+v, %v", doc, got, err)
		}
	}
}

func TestSpec01_S11_ParsePolicyRefuses(t *testing.T) {
	for _, tc := range []struct{ doc, field, pointer string }{
		{`{"retry_policy":{"max_retries":`, "retry_policy.max_retries", "/retry_policy/max_retries"},
		{`[]`, "policy", ""},
		{`"x"`, "policy", ""},
		{`{} {}`, "policy", ""},
		{`{"priority":1,}`, "policy", ""},
		{`{"priority":01}`, "priority", "/priority"},
		{`{"priority":1.5}`, "priority", "/priority"},
		{`{"priority":1e3}`, "priority", "/priority"},
		{`{"priority":"1"}`, "priority", "/priority"},
		{`{"priority":1,"priority":1}`, "priority", "/priority"},
		{`{"nope":1}`, "nope", "/nope"},
		{`{"nope":null}`, "nope", "/nope"},
		{`{"a/b~c":1}`, "a/b~c", "/a~1b~0c"},
		{`{"delay_until":-1}`, "delay_until", "/delay_until"},
		{`{"retry_policy":[]}`, "retry_policy", "/retry_policy"},
		{`{"retry_policy":{"max_retries":-1}}`, "retry_policy.max_retries", "/retry_policy/max_retries"},
		{`{"retry_policy":{"max_retries":4294967296}}`, "retry_policy.max_retries", "/retry_policy/max_retries"},
		{`{"retry_policy":{"retryable_categories":["x","permanent"]}}`, "retry_policy.retryable_categories.1", "/retry_policy/retryable_categories/1"},
		{`{"retry_policy":{"retryable_categories":["cancelled"]}}`, "retry_policy.retryable_categories.0", "/retry_policy/retryable_categories/0"},
		{`{"retry_policy":{"retryable_categories":["A"]}}`, "retry_policy.retryable_categories.0", "/retry_policy/retryable_categories/0"},
		{`{"retry_policy":{"retryable_categories":[null]}}`, "retry_policy.retryable_categories.0", "/retry_policy/retryable_categories/0"},
		{`{"retry_policy":{"backoff":{}}}`, "retry_policy.backoff.type", "/retry_policy/backoff/type"},
		{`{"retry_policy":{"backoff":{"type":"linear"}}}`, "retry_policy.backoff.type", "/retry_policy/backoff/type"},
		{`{"retry_policy":{"backoff":{"type":"fixed"}}}`, "retry_policy.backoff.delay_ms", "/retry_policy/backoff/delay_ms"},
		{`{"retry_policy":{"backoff":{"type":"fixed","delay_ms":null}}}`, "retry_policy.backoff.delay_ms", "/retry_policy/backoff/delay_ms"},
		{`{"retry_policy":{"backoff":{"type":"fixed","delay_ms":-1}}}`, "retry_policy.backoff.delay_ms", "/retry_policy/backoff/delay_ms"},
		{`{"retry_policy":{"backoff":{"type":"fixed","delay_ms":1,"multiplier":2}}}`, "retry_policy.backoff.multiplier", "/retry_policy/backoff/multiplier"},
		{`{"retry_policy":{"backoff":{"type":"exponential","multiplier":null}}}`, "retry_policy.backoff.multiplier", "/retry_policy/backoff/multiplier"},
		{`{"retry_policy":{"backoff":{"type":"exponential","initial_delay_ms":1,"max_delay_ms":1,"multiplier":0.5}}}`, "retry_policy.backoff.multiplier", "/retry_policy/backoff/multiplier"},
		{`{"retry_policy":{"backoff":{"type":"exponential","initial_delay_ms":1,"max_delay_ms":1,"multiplier":1e999}}}`, "retry_policy.backoff.multiplier", "/retry_policy/backoff/multiplier"},
		{`{"retry_policy":{"backoff":{"type":"exponential","initial_delay_ms":2,"max_delay_ms":1,"multiplier":1}}}`, "retry_policy.backoff.max_delay_ms", "/retry_policy/backoff/max_delay_ms"},
		{`{"retry_policy":{"backoff":{"type":"fixed","delay_ms":1,"jitter":1}}}`, "retry_policy.backoff.jitter", "/retry_policy/backoff/jitter"},
		{`{"timeout_policy":{"attempt_timeout_ms":0}}`, "timeout_policy.attempt_timeout_ms", "/timeout_policy/attempt_timeout_ms"},
		{`{"timeout_policy":{"execution_deadline_ms":0}}`, "timeout_policy.execution_deadline_ms", "/timeout_policy/execution_deadline_ms"},
		{`{"fallback_policy":{}}`, "fallback_policy.tiers", "/fallback_policy/tiers"},
		{`{"fallback_policy":{"tiers":null}}`, "fallback_policy.tiers", "/fallback_policy/tiers"},
		{`{"fallback_policy":{"tiers":[{"provider":"p"}]}}`, "fallback_policy.tiers.0.model", "/fallback_policy/tiers/0/model"},
		{`{"fallback_policy":{"tiers":[{"provider":"p","model":"m","timeout_ms":0}]}}`, "fallback_policy.tiers.0.timeout_ms", "/fallback_policy/tiers/0/timeout_ms"},
		{`{"suspension_policy":{"timeout_behavior":"wait"}}`, "suspension_policy.timeout_behavior", "/suspension_policy/timeout_behavior"},
		{`{"stream_policy":{"durability_mode":"maybe"}}`, "stream_policy.durability_mode", "/stream_policy/durability_mode"},
		{`{"stream_policy":{"retention_maxlen":0}}`, "stream_policy.retention_maxlen", "/stream_policy/retention_maxlen"},
		{`{"stream_policy":{"retention_ttl_ms":31536000001}}`, "stream_policy.retention_ttl_ms", "/stream_policy/retention_ttl_ms"},
		{`{"budget_ids":["x"]}`, "budget_ids.0", "/budget_ids/0"},
		{`{"quota_policy_ids":[1,2,3,4,5,6,7,8,9]}`, "quota_policy_ids", "/quota_policy_ids"},
		{`{"estimated_usage":{"Tokens":1}}`, "estimated_usage.Tokens", "/estimated_usage/Tokens"},
		{`{"estimated_usage":{"a:":1}}`, "estimated_usage.a:", "/estimated_usage/a:"},
		{`{"estimated_usage":{"a":null}}`, "estimated_usage.a", "/estimated_usage/a"},
		{`{"estimated_usage":{"a":9007199254740992}}`, "estimated_usage.a", "/estimated_usage/a"},
		{`{"retention_ms":31536000001}`, "retention_ms", "/retention_ms"},
		{`{"dedup_window_ms":-1}`, "dedup_window_ms", "/dedup_window_ms"},
		{"{\"routing_requirements\":{\"preferred_locality\":\"\xff\"}}", "routing_requirements.preferred_locality", "/routing_requirements/preferred_locality"},
		{strings.Repeat(`{"a":`, 40) + "1" + strings.Repeat("}", 40), "", ""},
	} {
		_, err := flowfabric.ParsePolicy([]byte(tc.doc))
		e := flowfabric.AsError(err)
		if e == nil || e.Code != flowfabric.CodeInvalidPolicyJSON {
			t.Errorf("%s: %v", tc.doc, err)
			continue
		}
		if tc.field != "" && (e.Detail("field") != tc.field || e.Detail("pointer") != tc.pointer) {
			t.Errorf("%s: field %v, pointer %v", tc.doc, e.Detail("field"), e.Detail("pointer"))
		}
	}
}

func TestSpec01_S12_RequiredCapabilities(t *testing.T) {
	for doc, reason := range map[string]string{
		`["gpu",42]`:                            "required:non_string_token",
		`"gpu"`:                                 "required:not_array",
		`["a,b"]`:                               "required:comma_in_token",
		`["a b"]`:                               "required:control_or_whitespace",
		`[""]`:                                  "required:empty_token",
		`["東京-gpu"]`:                            "",
		`[]`:                                    "",
		`null`:                                  "",
		`["` + strings.Repeat("x", 4096) + `"]`: "",
		`["` + strings.Repeat("x", 4097) + `"]`: "required:too_many_bytes",
	} {
		_, err := flowfabric.ParsePolicy([]byte(`{"routing_requirements":{"required_capabilities":` + doc + `}}`))
		e := flowfabric.AsError(err)
		switch {
		case reason == "" && err != nil:
			t.Errorf("%.40s: %v", doc, err)
		case reason != "" && (e == nil || e.Code != flowfabric.CodeInvalidCapabilities || e.Detail("reason") != reason):
			t.Errorf("%.40s: %v", doc, err)
		}
	}
}

func TestMergePolicy(t *testing.T) {
	for _, tc := range []struct{ base, over, want string }{
		{``, ``, ``},
		{`{"priority":1}`, ``, `{"priority":1}`},
		{``, `{"priority":1}`, `{"priority":1}`},
		{`{"priority":1,"max_replay_count":2}`, `{"priority":9}`, `{"priority":9,"max_replay_count":2}`},
		{`{"priority":1}`, `{"priority":null,"retention_ms":5}`, `{"retention_ms":5,"priority":1}`},
		{`{"retry_policy":{"max_retries":1}}`, `{"retry_policy":{}}`, `{"retry_policy":{}}`},
		{`null`, `null`, `null`},
	} {
		got, err := flowfabric.MergePolicy(json.RawMessage(tc.base), json.RawMessage(tc.over))
		if err != nil || string(got) != tc.want {
			t.Errorf("%+v: %s, %v", tc, got, err)
		}
	}
	for _, broken := range []string{`[]`, `{`, `{"a":1,"a":2}`} {
		if _, err := flowfabric.MergePolicy(json.RawMessage(`{"priority":1}`), json.RawMessage(broken)); flowfabric.CodeOf(err) != flowfabric.CodeInvalidPolicyJSON {
			t.Errorf("%s: %v", broken, err)
		}
	}
}

func FuzzParsePolicy(f *testing.F) {
	for _, s := range []string{``, `{}`, `null`, `{"priority":1}`, `{"retry_policy":{"backoff":{"type":"fixed","delay_ms":1}}}`,
		`{"estimated_usage":{"a":1,"b:c":2}}`, `{"routing_requirements":{"required_capabilities":["\u0041","b"]}}`, `{"a":{"b":[1,2,{"c":"\ud800"}]}}`,
		`{"retry_policy":{"backoff":{"type":"exponential","initial_delay_ms":1,"max_delay_ms":2,"multiplier":1e300}}}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, doc []byte) {
		p, err := flowfabric.ParsePolicy(doc)
		if err != nil {
			if c := flowfabric.CodeOf(err); c != flowfabric.CodeInvalidPolicyJSON && c != flowfabric.CodeInvalidCapabilities {
				t.Fatal(err)
			}
			return
		}
		if len(strings.TrimSpace(string(doc))) > 0 && !json.Valid(doc) {
			t.Fatalf("accepted what is not JSON: %q", doc)
		}
		canonical := p.JSON()
		again, err := flowfabric.ParsePolicy(canonical)
		if err != nil {
			t.Fatalf("%q gives %s, which does not parse: %v", doc, canonical, err)
		}
		if string(again.JSON()) != string(canonical) {
			t.Fatalf("%s is not canonical: %s", canonical, again.JSON())
		}
	})
}
