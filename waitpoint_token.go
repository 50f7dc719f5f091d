package flowfabric

import (
	"fmt"
	"log/slog"
	"strings"
)

// MaxKIDBytes is the limit on a key identifier.
const MaxKIDBytes = 64

// tokenDigestLen is the length of a token's digest in hexadecimal digits.
const tokenDigestLen = 64

// WaitpointToken is the credential of one waitpoint, "<kid>:<digest>". It prints,
// logs and marshals as "<kid>:<REDACTED:len=64>"; [WaitpointToken.Reveal] gives
// the real value. The zero token is "none". (Specification 03, section 5.)
type WaitpointToken struct{ value string }

// NewWaitpointToken takes a token as it was presented, well formed or not.
func NewWaitpointToken(s string) WaitpointToken { return WaitpointToken{s} }

// Reveal returns the token itself.
func (t WaitpointToken) Reveal() string { return t.value }

// IsZero reports that there is no token.
func (t WaitpointToken) IsZero() bool { return t.value == "" }

// Parts returns the key identifier and the digest; ok is false when the token is
// malformed.
func (t WaitpointToken) Parts() (kid, digest string, ok bool) {
	kid, digest, ok = strings.Cut(t.value, ":")
	if !ok || !ValidKID(kid) || len(digest) != tokenDigestLen {
		return "", "", false
	}
	for i := range len(digest) {
		if c := digest[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return "", "", false
		}
	}
	return kid, digest, true
}

// KID returns the key identifier, "" of a malformed token.
func (t WaitpointToken) KID() string {
	kid, _, _ := t.Parts()
	return kid
}

// Fingerprint returns the first 16 digits of the digest, which identify a token
// without giving it away; "" of a malformed token.
func (t WaitpointToken) Fingerprint() string {
	_, digest, ok := t.Parts()
	if !ok {
		return ""
	}
	return digest[:16]
}

// String redacts the token; of a malformed one it prints no byte.
func (t WaitpointToken) String() string {
	kid, digest, ok := t.Parts()
	switch {
	case ok:
		return fmt.Sprintf("%s:<REDACTED:len=%d>", kid, len(digest))
	case t.value == "":
		return "<no token>"
	}
	return "<malformed token>"
}

// GoString redacts the token.
func (t WaitpointToken) GoString() string { return t.String() }

// Format redacts the token, whatever the verb.
func (t WaitpointToken) Format(f fmt.State, verb rune) { _, _ = fmt.Fprint(f, t.String()) }

// LogValue redacts the token.
func (t WaitpointToken) LogValue() slog.Value { return slog.StringValue(t.String()) }

// MarshalText redacts the token, so that JSON made of it by accident gives
// nothing away.
func (t WaitpointToken) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// ValidKID reports whether s is 1..64 characters of [A-Za-z0-9._-].
func ValidKID(s string) bool {
	if s == "" || len(s) > MaxKIDBytes {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '.' && c != '_' && c != '-' {
			return false
		}
	}
	return true
}
