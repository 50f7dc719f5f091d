package rules

import (
	"crypto/hmac"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"

	"github.com/flowfabric/flowfabric"
)

// KeyRing is the keys of the waitpoint tokens as a store keeps them, the secrets
// as the hexadecimal text they were given in. (Specification 03, section 5.)
type KeyRing struct {
	Current   string // "" of an empty ring
	Secrets   map[string]string
	ExpiresAt map[string]flowfabric.Millis // of former keys
}

// TokenCause says what is wrong with a token that is refused as invalid_token. It
// is wrapped in that error for the metrics alone, and has no text, so that it is
// told to nobody.
type TokenCause string

// The causes of invalid_token.
const (
	TokenMalformed     TokenCause = "malformed"
	TokenUnknownKID    TokenCause = "unknown_kid"
	TokenUnknownTarget TokenCause = "unknown_target"
	TokenMismatch      TokenCause = "mismatch"
)

// Error is empty.
func (TokenCause) Error() string { return "" }

// TokenCauses are all of them.
func TokenCauses() []TokenCause {
	return []TokenCause{TokenMalformed, TokenUnknownKID, TokenUnknownTarget, TokenMismatch}
}

// Clone returns a copy that shares nothing.
func (r KeyRing) Clone() KeyRing {
	out := KeyRing{Current: r.Current, Secrets: make(map[string]string, len(r.Secrets)), ExpiresAt: make(map[string]flowfabric.Millis, len(r.ExpiresAt))}
	for kid, secret := range r.Secrets {
		out.Secrets[kid] = secret
	}
	for kid, at := range r.ExpiresAt {
		out.ExpiresAt[kid] = at
	}
	return out
}

// Mint makes the token of a waitpoint with the current key. Errors:
// hmac_secret_not_initialized, invalid_secret.
func (r KeyRing) Mint(id flowfabric.ExecutionID, w flowfabric.WaitpointID, key string) (flowfabric.WaitpointToken, error) {
	if r.Current == "" {
		return flowfabric.WaitpointToken{}, errNoSecret()
	}
	secret, err := r.secret(r.Current)
	if err != nil {
		return flowfabric.WaitpointToken{}, err
	}
	return flowfabric.NewWaitpointToken(r.Current + ":" + hex.EncodeToString(digest(secret, id, w, key))), nil
}

// Verify authenticates a presented token for a waitpoint. known is false when
// the execution or waitpoint does not exist, or they do not belong together;
// then the same work is done and the answer is invalid_token. Errors:
// missing_token, invalid_token, hmac_secret_not_initialized, invalid_secret,
// token_expired; the cause of an invalid_token comes beside it.
func (r KeyRing) Verify(t flowfabric.WaitpointToken, id flowfabric.ExecutionID, w flowfabric.WaitpointID, key string, known bool, now flowfabric.Millis) (cause TokenCause, err error) {
	if t.IsZero() {
		return "", flowfabric.NewError(flowfabric.CodeMissingToken, "no waitpoint token was presented")
	}
	kid, presented, ok := t.Parts()
	if !ok {
		return TokenMalformed, InvalidToken().Wrap(TokenMalformed)
	}
	if r.Current == "" {
		return "", errNoSecret()
	}
	if _, there := r.Secrets[kid]; !there {
		return TokenUnknownKID, InvalidToken().Wrap(TokenUnknownKID)
	}
	secret, err := r.secret(kid)
	if err != nil {
		return "", err
	}
	want := digest(secret, id, w, key)
	got, err := hex.DecodeString(presented)
	same := err == nil && hmac.Equal(want, got)
	switch {
	case !known:
		return TokenUnknownTarget, InvalidToken().Wrap(TokenUnknownTarget)
	case !same:
		return TokenMismatch, InvalidToken().Wrap(TokenMismatch)
	case !r.Accepts(kid, now):
		return "", TokenExpired(kid)
	}
	return "", nil
}

// Accepts reports whether tokens of the key are accepted now: it is current, or
// within its grace.
func (r KeyRing) Accepts(kid string, now flowfabric.Millis) bool {
	if kid == r.Current {
		return true
	}
	at, former := r.ExpiresAt[kid]
	return former && at >= now
}

func (r KeyRing) secret(kid string) ([]byte, error) {
	text, ok := r.Secrets[kid]
	if !ok {
		return nil, errNoSecret()
	}
	secret, err := hex.DecodeString(text)
	if err != nil || len(secret) == 0 {
		return nil, flowfabric.NewError(flowfabric.CodeInvalidSecret, "the stored secret of key %s is not hexadecimal", kid)
	}
	return secret, nil
}

// digest is HMAC-SHA256 over execution, waitpoint and key.
func digest(secret []byte, id flowfabric.ExecutionID, w flowfabric.WaitpointID, key string) []byte {
	mac := hmac.New(sha256.New, secret)
	buf := make([]byte, 0, 128)
	buf = append(buf, id...)
	buf = append(buf, '|')
	buf = append(buf, w...)
	buf = append(buf, '|')
	buf = append(buf, key...)
	mac.Write(buf)
	return mac.Sum(nil)
}

// InvalidToken is the one refusal of a token, without any detail.
func InvalidToken() *flowfabric.Error {
	return flowfabric.NewError(flowfabric.CodeInvalidToken, "the waitpoint token is not valid")
}

// TokenExpired is the refusal of a genuine token whose key is past its grace.
func TokenExpired(kid string) *flowfabric.Error {
	return flowfabric.NewError(flowfabric.CodeTokenExpired, "the key %s is not accepted any more", kid)
}

func errNoSecret() *flowfabric.Error {
	return flowfabric.NewError(flowfabric.CodeHMACSecretNotInitialized, "the key ring of the waitpoint tokens is empty")
}

// ValidateRotate checks the input of a rotation and returns the grace.
func ValidateRotate(a flowfabric.RotateWaitpointSecretArgs) (graceMs int64, err error) {
	if err := ValidateKey(a.NewKID, a.NewSecretHex); err != nil {
		return 0, err
	}
	if a.GraceMs == nil {
		return flowfabric.DefaultKeyGraceMs, nil
	}
	if *a.GraceMs < 0 || *a.GraceMs > flowfabric.MaxKeyGraceMs {
		return 0, flowfabric.NewError(flowfabric.CodeInvalidGraceMs, "grace_ms is %d, must be 0..%d", *a.GraceMs, int64(flowfabric.MaxKeyGraceMs)).
			With("field", "grace_ms")
	}
	return *a.GraceMs, nil
}

// ValidateKey checks a key identifier and a secret: invalid_kid,
// invalid_secret_hex. The secret is never in the error.
func ValidateKey(kid, secretHex string) error {
	if !flowfabric.ValidKID(kid) {
		return flowfabric.NewError(flowfabric.CodeInvalidKid, "a kid is 1..%d characters of [A-Za-z0-9._-]", flowfabric.MaxKIDBytes).
			With("field", "new_kid")
	}
	n := len(secretHex)
	_, err := hex.DecodeString(secretHex)
	if err != nil || n < flowfabric.MinSecretHexDigits || n > flowfabric.MaxSecretHexDigits {
		return flowfabric.NewError(flowfabric.CodeInvalidSecretHex, "a secret is %d..%d hexadecimal digits, even in number",
			flowfabric.MinSecretHexDigits, flowfabric.MaxSecretHexDigits).With("field", "new_secret_hex")
	}
	return nil
}

// sameSecret compares two secrets, whatever the case of their digits.
func sameSecret(a, b string) bool {
	return hmac.Equal([]byte(strings.ToLower(a)), []byte(strings.ToLower(b)))
}

// Rotate makes a key the current one, in a copy of the ring; changed is false
// when the ring already is as asked. Error: rotation_conflict.
func Rotate(r KeyRing, kid, secretHex string, graceMs int64, now flowfabric.Millis) (out KeyRing, res flowfabric.RotatedCopy, changed bool, err error) {
	stored, there := r.Secrets[kid]
	res = flowfabric.RotatedCopy{Outcome: flowfabric.RotateNoop}
	switch {
	case there && !sameSecret(stored, secretHex):
		return r, flowfabric.RotatedCopy{}, false, flowfabric.NewError(flowfabric.CodeRotationConflict, "key %s exists with another secret", kid)
	case kid == r.Current && there:
		return r, res, false, nil
	case kid == r.Current:
		out = r.Clone()
		out.Secrets[kid] = secretHex
		return out, res, true, nil
	}
	out = r.Clone()
	res = flowfabric.RotatedCopy{Outcome: flowfabric.RotateRotated, PreviousKID: r.Current}
	for former, at := range r.ExpiresAt {
		if at < now && former != kid {
			delete(out.Secrets, former)
			delete(out.ExpiresAt, former)
			res.Removed++
		}
	}
	if r.Current != "" {
		out.ExpiresAt[r.Current] = min(addMs(now, graceMs), flowfabric.MaxInstant)
	}
	delete(out.ExpiresAt, kid)
	out.Secrets[kid] = secretHex
	out.Current = kid
	return out, res, true, nil
}

// Seed installs a key in an empty ring, or repairs a ring whose current key has
// lost its secret.
func Seed(r KeyRing, kid, secretHex string) (out KeyRing, outcome flowfabric.SeedOutcome) {
	switch stored, there := r.Secrets[r.Current]; {
	case r.Current == "":
		out = r.Clone()
		out.Current, out.Secrets[kid] = kid, secretHex
		delete(out.ExpiresAt, kid)
		return out, flowfabric.SeedInstalled
	case r.Current == kid && !there:
		out = r.Clone()
		out.Secrets[kid] = secretHex
		return out, flowfabric.SeedRepaired
	case r.Current == kid && sameSecret(stored, secretHex):
		return r, flowfabric.SeedUnchanged
	}
	return r, flowfabric.SeedKept
}

// KIDs is the ring without its secrets, as of now.
func (r KeyRing) KIDs(now flowfabric.Millis) flowfabric.WaitpointKIDs {
	out := flowfabric.WaitpointKIDs{CurrentKID: r.Current, Verifying: []flowfabric.VerifyingKey{}}
	for kid, at := range r.ExpiresAt {
		if kid != r.Current && at >= now {
			out.Verifying = append(out.Verifying, flowfabric.VerifyingKey{KID: kid, ExpiresAt: at})
		}
	}
	slices.SortFunc(out.Verifying, func(a, b flowfabric.VerifyingKey) int { return strings.Compare(a.KID, b.KID) })
	return out
}

// TimeoutSignalID is the identifier of the signal that a suspension's timeout
// records: the same in every store, so that results can be compared. It is the
// SHA-1 of "suspension_timeout:" and the suspension's id, as a version 5 UUID.
func TimeoutSignalID(id flowfabric.SuspensionID) flowfabric.SignalID {
	sum := sha1.Sum([]byte("suspension_timeout:" + string(id)))
	h := []byte(hex.EncodeToString(sum[:16]))
	h[12], h[16] = '5', 'a'
	return flowfabric.SignalID(string(h[:8]) + "-" + string(h[8:12]) + "-" + string(h[12:16]) + "-" + string(h[16:20]) + "-" + string(h[20:]))
}
