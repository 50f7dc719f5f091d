package flowfabric

import (
	"slices"
	"strings"
	"unicode/utf8"
)

// The sides of a capability check: whose tokens they are. The side is the first
// half of the detail "reason" of invalid_capabilities.
const (
	CapabilitiesOfWorker = "worker"
	CapabilitiesRequired = "required"
)

// NormalizeCapabilities returns the normal form of a capability set: without
// duplicates, sorted by bytes. A token is non-empty valid UTF-8 without comma,
// without any byte <= 0x20 and without 0x7F; the normal form holds at most 256
// tokens and, joined by commas, 4096 bytes, both inclusive. The side is "worker"
// or "required". A violation is invalid_capabilities with the detail "reason"
// "<side>:<empty_token|comma_in_token|control_or_whitespace|too_many_tokens|
// too_many_bytes>". The result never shares memory with tokens; it is nil for an
// empty set. (Specification 02, section 8.)
func NormalizeCapabilities(side string, tokens []string) ([]string, error) {
	if len(tokens) == 0 {
		return nil, nil
	}
	for _, t := range tokens {
		if fault := capabilityFault(t); fault != "" {
			return nil, invalidCapabilities(side, fault, clip(t, 80))
		}
	}
	normal := slices.Clone(tokens)
	if !slices.IsSorted(normal) {
		slices.Sort(normal)
	}
	normal = slices.Compact(normal)
	if len(normal) > MaxCapabilityTokens {
		return nil, invalidCapabilities(side, "too_many_tokens", "").With("limit", MaxCapabilityTokens).With("actual", len(normal))
	}
	size := len(normal) - 1
	for _, t := range normal {
		size += len(t)
	}
	if size > MaxCapabilityBytes {
		return nil, invalidCapabilities(side, "too_many_bytes", "").With("limit", MaxCapabilityBytes).With("actual", size)
	}
	return normal, nil
}

// CapabilityDigest returns the digest of a set in normal form: FNV-1a 64 of the
// tokens joined by commas, upper and lower half XORed, as 8 lower-case
// hexadecimal digits. It serves logs and audits, never a decision.
func CapabilityDigest(normal []string) string {
	const (
		offset = 14695981039346656037
		prime  = 1099511628211
		digits = "0123456789abcdef"
	)
	h := uint64(offset)
	for i, t := range normal {
		if i > 0 {
			h = (h ^ ',') * prime
		}
		for j := 0; j < len(t); j++ {
			h = (h ^ uint64(t[j])) * prime
		}
	}
	folded := uint32(h>>32) ^ uint32(h)
	var out [8]byte
	for i := range out {
		out[i] = digits[folded>>(28-4*i)&0xF]
	}
	return string(out[:])
}

// MissingCapabilities returns the tokens of required that have lacks, sorted; nil
// when have covers required. Both are in normal form.
func MissingCapabilities(required, have []string) []string {
	var missing []string
	i := 0
	for _, t := range required {
		for i < len(have) && have[i] < t {
			i++
		}
		if i < len(have) && have[i] == t {
			continue
		}
		missing = append(missing, t)
	}
	return missing
}

// capabilityFault names what is wrong with a token, "" when it is well formed.
func capabilityFault(t string) string {
	if t == "" {
		return "empty_token"
	}
	for i := 0; i < len(t); i++ {
		switch c := t[i]; {
		case c == ',':
			return "comma_in_token"
		case c <= 0x20 || c == 0x7F:
			return "control_or_whitespace"
		}
	}
	if !utf8.ValidString(t) {
		return "control_or_whitespace"
	}
	return ""
}

func invalidCapabilities(side, fault, token string) *Error {
	reason := side + ":" + fault
	e := NewError(CodeInvalidCapabilities, "capabilities: %s", strings.ReplaceAll(fault, "_", " ")).
		With("reason", reason).With("field", "capabilities")
	if side == CapabilitiesRequired {
		e.Details["field"] = "routing_requirements.required_capabilities"
	}
	if token != "" {
		e.With("token", token)
	}
	return e
}
