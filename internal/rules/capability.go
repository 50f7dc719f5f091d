package rules

import (
	"strings"

	"github.com/flowfabric/flowfabric"
)

// NormalizeCapabilities is [flowfabric.NormalizeCapabilities].
func NormalizeCapabilities(side string, tokens []string) ([]string, error) {
	return flowfabric.NormalizeCapabilities(side, tokens)
}

// CapabilityDigest is [flowfabric.CapabilityDigest].
func CapabilityDigest(normal []string) string { return flowfabric.CapabilityDigest(normal) }

// Missing is [flowfabric.MissingCapabilities].
func Missing(required, have []string) []string {
	return flowfabric.MissingCapabilities(required, have)
}

// BucketKey returns the text of a required set in normal form: its tokens joined
// by commas. Together with lane and namespace it names a bucket.
func BucketKey(required []string) string { return strings.Join(required, ",") }
