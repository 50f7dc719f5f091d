package flowfabric

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"strconv"
)

// Limits of waitpoint secrets. (Specification 03, section 5.2.)
const (
	DefaultKID           = "k1"
	MinSecretHexDigits   = 64
	MaxSecretHexDigits   = 256
	DefaultKeyGraceMs    = 86_400_000
	MaxKeyGraceMs        = 1<<53 - 1
	PoolAdminRotate      = "admin_rotate"
	AdminRotateTimeoutMs = 120_000
)

// RotateWaitpointSecretArgs is the input of RotateWaitpointSecret. It prints, logs
// and marshals with the secret redacted.
type RotateWaitpointSecretArgs struct {
	NewKID string // 1..64 of [A-Za-z0-9._-], else invalid_kid
	// NewSecretHex is 64..256 hexadecimal digits, even in number, else
	// invalid_secret_hex. It is never shown again.
	NewSecretHex string
	GraceMs      *int64 // 0..2^53-1, else invalid_grace_ms; nil means 86,400,000
}

// String shows the arguments with the secret redacted.
func (a RotateWaitpointSecretArgs) String() string {
	grace := "<nil>"
	if a.GraceMs != nil {
		grace = strconv.FormatInt(*a.GraceMs, 10)
	}
	return fmt.Sprintf("{NewKID:%s NewSecretHex:%s GraceMs:%s}", a.NewKID, a.shownSecret(), grace)
}

func (a RotateWaitpointSecretArgs) shownSecret() string {
	if a.NewSecretHex == "" {
		return ""
	}
	return "[redacted]"
}

// Format is String, whatever the verb.
func (a RotateWaitpointSecretArgs) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, a.String()) }

// LogValue is String.
func (a RotateWaitpointSecretArgs) LogValue() slog.Value { return slog.StringValue(a.String()) }

// MarshalJSON redacts the secret.
func (a RotateWaitpointSecretArgs) MarshalJSON() ([]byte, error) {
	type plain RotateWaitpointSecretArgs
	a.NewSecretHex = a.shownSecret()
	return json.Marshal(plain(a))
}

// RotateOutcome tells what a rotation did to one copy of the key ring.
type RotateOutcome string

// The outcomes of a rotation.
const (
	RotateRotated RotateOutcome = "rotated"
	RotateNoop    RotateOutcome = "noop"
)

// RotatedCopy is the outcome for one copy of the key ring, or its error. A store
// with one ring answers one entry, of partition 0.
type RotatedCopy struct {
	Partition   uint16
	Outcome     RotateOutcome
	PreviousKID string // "" when the ring was empty
	// Removed is how many keys past their grace went.
	Removed int
	Err     error
}

// RotateWaitpointSecretResult has one entry a copy.
type RotateWaitpointSecretResult struct {
	NewKID string
	Copies []RotatedCopy
}

// VerifyingKey is a former key that is still accepted.
type VerifyingKey struct {
	KID       string `json:"kid"`
	ExpiresAt Millis `json:"expires_at"`
}

// WaitpointKIDs is the key ring without its secrets: CurrentKID is "" of an empty
// ring; Verifying holds only keys accepted now, ordered by kid.
type WaitpointKIDs struct {
	CurrentKID string         `json:"current_kid"`
	Verifying  []VerifyingKey `json:"verifying"`
}

// Secrets is the operator's hold on the key ring of the waitpoint tokens.
// (Specification 03, section 5.)
type Secrets interface {
	// RotateWaitpointSecret makes a key the current one in every copy of the ring;
	// the former one still verifies for the grace. Repeating it converges. One
	// rotation runs at a time in a deployment: resource_exhausted, pool
	// admin_rotate. Errors of a copy, rotation_conflict among them, are in its
	// entry; the call fails only on invalid input or when every copy failed.
	RotateWaitpointSecret(ctx context.Context, args RotateWaitpointSecretArgs) (RotateWaitpointSecretResult, error)
	ListWaitpointKIDs(ctx context.Context) (WaitpointKIDs, error)
}

// SeedOutcome tells what the seeding of a key at boot found.
type SeedOutcome string

// The outcomes of a seeding.
const (
	SeedInstalled SeedOutcome = "installed" // the ring was empty
	SeedUnchanged SeedOutcome = "unchanged" // the same key is current
	SeedRepaired  SeedOutcome = "repaired"  // current without its secret, which was put back
	SeedKept      SeedOutcome = "kept"      // another key or secret is current: the stored ring stands
)

// SeedWaitpointSecretResult counts the copies of the ring by outcome.
type SeedWaitpointSecretResult struct {
	Copies map[SeedOutcome]int
	// CurrentKID is the ring's current key afterwards.
	CurrentKID string
}
