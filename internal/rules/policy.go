package rules

import (
	"slices"

	"github.com/flowfabric/flowfabric"
)

// The failure categories the rules know by name. Others are free text.
const (
	categoryTransient  = "transient"
	categoryPermanent  = "permanent"
	categoryCancelled  = "cancelled"
	categoryTimeout    = "timeout"
	categoryDeadline   = "deadline"
	categoryInfraCrash = "infra_crash"
)

var defaultFallbackCategories = []string{"provider_error", "rate_limited_by_provider", "model_unavailable"}

// defaultPolicy is the policy of every execution created without one. It is
// shared and never written to.
var defaultPolicy = &flowfabric.Policy{}

// MaxRetries returns how many retries the policy allows; without a retry policy
// none, with one 3 unless it says otherwise.
func MaxRetries(p *flowfabric.Policy) uint32 {
	if p.RetryPolicy == nil {
		return 0
	}
	if p.RetryPolicy.MaxRetries == nil {
		return flowfabric.DefaultMaxRetries
	}
	return *p.RetryPolicy.MaxRetries
}

// MaxReclaims returns how many reclaims one run may have, 1000 by default.
func MaxReclaims(p *flowfabric.Policy) uint32 {
	if p.MaxReclaimCount == nil {
		return flowfabric.DefaultMaxReclaims
	}
	return *p.MaxReclaimCount
}

// MaxReplays returns how many replays are allowed, 10 by default.
func MaxReplays(p *flowfabric.Policy) uint32 {
	if p.MaxReplayCount == nil {
		return flowfabric.DefaultMaxReplays
	}
	return *p.MaxReplayCount
}

// RetentionMs returns how long the ended execution is kept, 24 hours by default.
func RetentionMs(p *flowfabric.Policy) int64 {
	if p.RetentionMs == nil {
		return flowfabric.DefaultRetentionMs
	}
	return int64(*p.RetentionMs)
}

// DedupWindowMs returns how long an idempotency key is reserved: the smaller of
// dedup_window_ms (24 hours by default) and the retention; 0 means not at all.
func DedupWindowMs(p *flowfabric.Policy) int64 {
	window := int64(flowfabric.DefaultDedupWindowMs)
	if p.DedupWindowMs != nil {
		window = int64(*p.DedupWindowMs)
	}
	return min(window, RetentionMs(p))
}

// AttemptTimeoutMs returns how long an attempt may run on a fallback tier, 0 for
// without limit. A tier's own timeout overrides the policy's.
func AttemptTimeoutMs(p *flowfabric.Policy, fallbackIndex uint32) int64 {
	if t := fallbackTier(p, fallbackIndex); t != nil && t.TimeoutMs != nil {
		return *t.TimeoutMs
	}
	if p.TimeoutPolicy == nil || p.TimeoutPolicy.AttemptTimeoutMs == nil {
		return 0
	}
	return *p.TimeoutPolicy.AttemptTimeoutMs
}

// ExecutionDeadlineMs returns the duration of the execution deadline, 0 without
// one.
func ExecutionDeadlineMs(p *flowfabric.Policy) int64 {
	if p.TimeoutPolicy == nil || p.TimeoutPolicy.ExecutionDeadlineMs == nil {
		return 0
	}
	return *p.TimeoutPolicy.ExecutionDeadlineMs
}

// RequiredCapabilities returns the required set in normal form.
func RequiredCapabilities(p *flowfabric.Policy) []string {
	if p.RoutingRequirements == nil {
		return nil
	}
	return p.RoutingRequirements.RequiredCapabilities
}

func fallbackTier(p *flowfabric.Policy, index uint32) *flowfabric.FallbackTier {
	if p.FallbackPolicy == nil || int64(index) >= int64(len(p.FallbackPolicy.Tiers)) {
		return nil
	}
	return &p.FallbackPolicy.Tiers[index]
}

// Backoff returns the delay before the retry that follows n earlier ones, in
// milliseconds. The exponential form multiplies step by step, so that every
// store computes the same number; a fraction is dropped and overflow counts as
// the maximum. With jitter the delay is uniform over the integers from ⌈d/2⌉ to
// d, drawn from rnd. (Specification 01, section 5.1.)
func Backoff(p *flowfabric.Policy, n uint32, rnd Rand) int64 {
	d := backoffBase(p, n)
	if d == 0 || rnd == nil || !jitter(p) {
		return d
	}
	lowest := d/2 + d%2
	return lowest + rnd(d-lowest+1)
}

func jitter(p *flowfabric.Policy) bool {
	return p.RetryPolicy != nil && p.RetryPolicy.Backoff != nil && p.RetryPolicy.Backoff.Jitter != nil && *p.RetryPolicy.Backoff.Jitter
}

func backoffBase(p *flowfabric.Policy, n uint32) int64 {
	initial, limit, multiplier := int64(flowfabric.DefaultBackoffInitial), int64(flowfabric.DefaultBackoffMax), flowfabric.DefaultBackoffMultiple
	if p.RetryPolicy != nil && p.RetryPolicy.Backoff != nil {
		b := p.RetryPolicy.Backoff
		if b.Type == flowfabric.BackoffFixed {
			return deref(b.DelayMs, 0)
		}
		initial, limit, multiplier = deref(b.InitialDelayMs, initial), deref(b.MaxDelayMs, limit), deref(b.Multiplier, multiplier)
	}
	if initial == 0 || multiplier == 1 {
		return min(initial, limit)
	}
	d, top := float64(initial), float64(limit)
	for ; n > 0 && d < top; n-- {
		d *= multiplier
	}
	if d >= top {
		return limit
	}
	return int64(d)
}

// retryable reports whether failures of the category are retried.
func retryable(p *flowfabric.Policy, category string) bool {
	if p.RetryPolicy == nil {
		return false
	}
	if listed := p.RetryPolicy.RetryableCategories; len(listed) > 0 {
		return slices.Contains(listed, category)
	}
	return category != categoryPermanent && category != categoryCancelled
}

// fallsBack reports whether failures of the category lead to the next tier.
func fallsBack(p *flowfabric.Policy, category string) bool {
	if p.FallbackPolicy == nil {
		return false
	}
	if listed := p.FallbackPolicy.Categories; len(listed) > 0 {
		return slices.Contains(listed, category)
	}
	return slices.Contains(defaultFallbackCategories, category)
}

func atReclaimCap(s *State) bool {
	return s.Exec.LeaseReclaimCount >= MaxReclaims(s.Policy)
}

func deref[T any](p *T, fallback T) T {
	if p == nil {
		return fallback
	}
	return *p
}
