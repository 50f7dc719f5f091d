package flowfabric

import "encoding/json"

// Defaults and limits of a policy. (Specification 01, sections 5 and 11.)
const (
	DefaultMaxRetries      = 3
	DefaultMaxReclaims     = 1000
	DefaultMaxReplays      = 10
	DefaultDedupWindowMs   = 86_400_000
	DefaultRetentionMs     = 86_400_000
	MaxRetentionMs         = 31_536_000_000
	DefaultMaxSignals      = 10_000
	MaxCapabilityTokens    = 256
	MaxCapabilityBytes     = 4096
	DefaultBackoffInitial  = 1000
	DefaultBackoffMax      = 60_000
	DefaultBackoffMultiple = 2.0
)

// Policy is an execution's policy, frozen at creation. Nil fields are absent and
// take the default named beside them. (Specification 01, section 5.)
type Policy struct {
	Priority    *int64       `json:"priority,omitempty"`     // 0; clamped to 0..9000
	DelayUntil  *Millis      `json:"delay_until,omitempty"`  // none
	RetryPolicy *RetryPolicy `json:"retry_policy,omitempty"` // none: no retries

	TimeoutPolicy       *TimeoutPolicy       `json:"timeout_policy,omitempty"`       // none
	MaxReclaimCount     *uint32              `json:"max_reclaim_count,omitempty"`    // 1000
	MaxReplayCount      *uint32              `json:"max_replay_count,omitempty"`     // 10
	RoutingRequirements *RoutingRequirements `json:"routing_requirements,omitempty"` // none
	FallbackPolicy      *FallbackPolicy      `json:"fallback_policy,omitempty"`      // none
	SuspensionPolicy    *SuspensionPolicy    `json:"suspension_policy,omitempty"`    // none
	StreamPolicy        *StreamPolicy        `json:"stream_policy,omitempty"`        // none

	BudgetIDs      []string         `json:"budget_ids,omitempty"`       // at most 16
	QuotaPolicyIDs []string         `json:"quota_policy_ids,omitempty"` // at most 8
	EstimatedUsage map[string]int64 `json:"estimated_usage,omitempty"`

	DedupWindowMs          *uint64 `json:"dedup_window_ms,omitempty"`           // 86,400,000; 0 = no dedup
	RetentionMs            *uint64 `json:"retention_ms,omitempty"`              // 86,400,000; at most 31,536,000,000
	MaxSignalsPerExecution *uint32 `json:"max_signals_per_execution,omitempty"` // 10,000
}

// RetryPolicy says how failures are retried.
type RetryPolicy struct {
	MaxRetries          *uint32  `json:"max_retries,omitempty"` // 3; excludes the first attempt
	Backoff             *Backoff `json:"backoff,omitempty"`     // exponential 1000 / 60000 / 2.0
	RetryableCategories []string `json:"retryable_categories,omitempty"`
}

// Backoff is {type:"fixed", delay_ms} or {type:"exponential", initial_delay_ms,
// max_delay_ms, multiplier}, either with jitter.
type Backoff struct {
	Type           string   `json:"type"`
	DelayMs        *int64   `json:"delay_ms,omitempty"`
	InitialDelayMs *int64   `json:"initial_delay_ms,omitempty"`
	MaxDelayMs     *int64   `json:"max_delay_ms,omitempty"`
	Multiplier     *float64 `json:"multiplier,omitempty"`
	Jitter         *bool    `json:"jitter,omitempty"`
}

// TimeoutPolicy limits attempts and the execution as a whole.
type TimeoutPolicy struct {
	AttemptTimeoutMs    *int64 `json:"attempt_timeout_ms,omitempty"`
	ExecutionDeadlineMs *int64 `json:"execution_deadline_ms,omitempty"`
}

// RoutingRequirements says which workers may run the execution.
type RoutingRequirements struct {
	RequiredCapabilities []string `json:"required_capabilities,omitempty"`
	PreferredLocality    string   `json:"preferred_locality,omitempty"`
	IsolationLevel       string   `json:"isolation_level,omitempty"`
}

// FallbackPolicy is an ordered list of tiers; tier 0 is the primary.
type FallbackPolicy struct {
	Tiers      []FallbackTier `json:"tiers"`
	Categories []string       `json:"categories,omitempty"` // provider_error, rate_limited_by_provider, model_unavailable
}

// FallbackTier is one way to run an attempt.
type FallbackTier struct {
	Provider  string `json:"provider"`
	Model     string `json:"model"`
	TimeoutMs *int64 `json:"timeout_ms,omitempty"`
}

// SuspensionPolicy gives defaults for suspensions.
type SuspensionPolicy struct {
	DefaultTimeoutMs *int64 `json:"default_timeout_ms,omitempty"`
	TimeoutBehavior  string `json:"timeout_behavior,omitempty"` // fail
}

// StreamPolicy gives defaults for the attempts' output streams.
type StreamPolicy struct {
	DurabilityMode  string  `json:"durability_mode,omitempty"`
	RetentionMaxlen *uint64 `json:"retention_maxlen,omitempty"` // 10000
	RetentionTTLMs  *uint64 `json:"retention_ttl_ms,omitempty"`
}

// JSON returns the policy as a document for [CreateExecutionArgs].
func (p *Policy) JSON() json.RawMessage {
	if p == nil {
		return nil
	}
	b, err := json.Marshal(p)
	if err != nil { // only a NaN or infinite multiplier can fail; the parser then names it
		return json.RawMessage(`{"retry_policy":{"backoff":{"type":"exponential","multiplier":null}}}`)
	}
	return b
}
