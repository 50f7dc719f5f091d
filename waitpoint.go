package flowfabric

import "context"

// Limits of waitpoints. (Specification 03, section 7.)
const (
	MaxWaitpointKeyBytes     = 256
	MaxWaitpointsPerSuspend  = 64
	MaxOpenWaitpoints        = 1_000
	MaxCloseReasonBytes      = 256
	DefaultWaitpointsLimit   = 100
	DefaultCloseReason       = "proactive_close"
	MaxInstant               = Millis(1<<53 - 1) // instants of waits are clamped to it
	DefaultWaitpointKeyStart = "wpk:"            // + waitpoint_id: the key of a binding without one
)

// WaitpointState is the state of a waitpoint; closed and expired are final.
type WaitpointState string

// The states of a waitpoint.
const (
	WaitpointPending   WaitpointState = "pending"   // made before a suspension; signals are buffered
	WaitpointActive    WaitpointState = "active"    // of the open suspension; signals are evaluated
	WaitpointSatisfied WaitpointState = "satisfied" // the wait is over, the address stays open for audit
	WaitpointClosed    WaitpointState = "closed"
	WaitpointExpired   WaitpointState = "expired"
)

// Final reports whether the state is closed or expired.
func (s WaitpointState) Final() bool { return s == WaitpointClosed || s == WaitpointExpired }

// CreatePendingWaitpointArgs is the input of CreatePendingWaitpoint.
// (Specification 03, section 4.1.)
type CreatePendingWaitpointArgs struct {
	ExecutionID ExecutionID
	Fence       Fence // required, all of it
	// WaitpointID is minted when empty. A caller that repeats the call after a
	// lost answer keeps it, and gets the same waitpoint again.
	WaitpointID WaitpointID
	// WaitpointKey is 1..256 bytes without control characters; empty means
	// "wpk:" and the id. It names the waitpoint in conditions.
	WaitpointKey string
	ExpiresInMs  int64 // > 0, from the store's now
}

// PendingWaitpoint is what its creator learns of a waitpoint.
type PendingWaitpoint struct {
	WaitpointID  WaitpointID
	WaitpointKey string
	Token        WaitpointToken
	ExpiresAt    Millis
}

// CloseWaitpointArgs is the input of CloseWaitpoint. A worker presents its fence,
// an operator none. (Specification 03, section 4.7.)
type CloseWaitpointArgs struct {
	ExecutionID ExecutionID
	WaitpointID WaitpointID
	Fence       Fence
	Source      Source // SourceLeaseHolder (default) needs the fence, SourceOperatorOverride none
	Reason      string // at most 256 bytes; empty means proactive_close
}

// CloseWaitpointOutcome tells how a close ended.
type CloseWaitpointOutcome string

// The outcomes of a close.
const (
	WaitpointNowClosed     CloseWaitpointOutcome = "closed"
	WaitpointAlreadyClosed CloseWaitpointOutcome = "already_closed"
)

// ConditionKindShown says, in a listing, what the wait on a waitpoint is for.
type ConditionKindShown string

// The kinds a listing shows.
const (
	ShownNone         ConditionKindShown = "none" // pending: there is no condition yet
	ShownSignal       ConditionKindShown = "signal"
	ShownOperatorOnly ConditionKindShown = "operator_only"
	ShownTimeoutOnly  ConditionKindShown = "timeout_only"
)

// Waitpoint is an open waitpoint as listings show it: never the token.
// (Specification 08, section 4.1.2.)
type Waitpoint struct {
	WaitpointID   WaitpointID        `json:"waitpoint_id"`
	WaitpointKey  string             `json:"waitpoint_key"`
	ExecutionID   ExecutionID        `json:"execution_id"`
	State         WaitpointState     `json:"state"` // pending or active
	ConditionKind ConditionKindShown `json:"condition_kind"`
	// RequiredSignalNames are the names that matchers for this key ask for, in the
	// order they are first seen; empty means any.
	RequiredSignalNames []string `json:"required_signal_names"`
	CreatedAt           Millis   `json:"created_at"`
	ActivatedAt         Millis   `json:"activated_at,omitempty"`
	ExpiresAt           Millis   `json:"expires_at,omitempty"`
	TokenKID            string   `json:"token_kid"`
	// TokenFingerprint is the first 16 hexadecimal digits of the token's digest.
	TokenFingerprint string `json:"token_fingerprint"`
}

// ListPendingWaitpointsArgs is the input of ListPendingWaitpoints. Limit is
// 1..1000; 0 means 100.
type ListPendingWaitpointsArgs struct {
	ExecutionID ExecutionID
	After       WaitpointID // exclusive; invalid_cursor when it is no waitpoint id
	Limit       int         // 1..1000; 0 means 100
}

// ListPendingWaitpointsResult is one page ordered by waitpoint id; NextCursor is
// empty at the end. Pages are full as long as open waitpoints remain.
type ListPendingWaitpointsResult struct {
	Waitpoints []Waitpoint
	NextCursor WaitpointID
}

// Waitpoints is the waitpoint primitive's part of the contract. (Specification
// 03.)
type Waitpoints interface {
	// CreatePendingWaitpoint makes an addressable waitpoint before the execution
	// suspends. Errors: execution_not_found, execution_not_active, stale_lease,
	// lease_expired, lease_revoked, fence_required, partial_fence_triple,
	// waitpoint_already_exists, invalid_waitpoint_key, invalid_input,
	// waitpoint_limit_exceeded, hmac_secret_not_initialized, invalid_secret.
	CreatePendingWaitpoint(ctx context.Context, args CreatePendingWaitpointArgs) (PendingWaitpoint, error)
	// CloseWaitpoint closes a pending waitpoint. Errors: waitpoint_not_found,
	// waitpoint_in_use for an active or satisfied one, and for a worker those of
	// the fence.
	CloseWaitpoint(ctx context.Context, args CloseWaitpointArgs) (CloseWaitpointOutcome, error)
	// ListPendingWaitpoints lists pending and active waitpoints without tokens.
	ListPendingWaitpoints(ctx context.Context, args ListPendingWaitpointsArgs) (ListPendingWaitpointsResult, error)
	// ReadWaitpointToken returns the token of an open waitpoint. It is the zero
	// token when the waitpoint is unknown, of another execution, closed or
	// expired. For operators only.
	ReadWaitpointToken(ctx context.Context, id ExecutionID, waitpoint WaitpointID) (WaitpointToken, error)
}

// WithDefaults returns the arguments with a minted id and a key made of it where
// the caller gave none. It checks nothing.
func (a CreatePendingWaitpointArgs) WithDefaults() CreatePendingWaitpointArgs {
	if a.WaitpointID == "" {
		a.WaitpointID = NewWaitpointID()
	}
	if a.WaitpointKey == "" {
		a.WaitpointKey = DefaultWaitpointKeyStart + string(a.WaitpointID)
	}
	return a
}
