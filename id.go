package flowfabric

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/google/uuid"
)

// ExecutionID names one execution for life. Its text is "{fp:N}:<uuid>", where N
// is the partition (0..65535, decimal without leading zeros) and the UUID is
// lower-case, hyphenated, of any version. Only that canonical text is accepted,
// so equal identifiers are equal strings. The zero value "" means "none".
// (Specification 01, section 2.)
type ExecutionID string

// The kinds of failure [ParseExecutionID] reports in the detail "kind".
const (
	KindMissingTag            = "missing_tag"
	KindInvalidPartitionIndex = "invalid_partition_index"
	KindInvalidUUID           = "invalid_uuid"
)

// ParseExecutionID checks that s is a canonical execution identifier. It fails
// with invalid_execution_id and the detail "kind": missing_tag,
// invalid_partition_index or invalid_uuid. It never compares the partition with
// a deployment's partition count.
func ParseExecutionID(s string) (ExecutionID, error) {
	fail := func(kind string) (ExecutionID, error) {
		return "", NewError(CodeInvalidExecutionID, "execution id %q: %s", clip(s, 120), kind).With("kind", kind)
	}
	rest, ok := strings.CutPrefix(s, "{fp:")
	if !ok {
		return fail(KindMissingTag)
	}
	num, id, ok := strings.Cut(rest, "}:")
	if !ok {
		return fail(KindMissingTag)
	}
	if _, ok := parseCanonicalUint16(num); !ok {
		return fail(KindInvalidPartitionIndex)
	}
	if !isCanonicalUUID(id) {
		return fail(KindInvalidUUID)
	}
	return ExecutionID(s), nil
}

// MakeExecutionID composes the identifier of the execution u on a partition.
func MakeExecutionID(partition uint16, u uuid.UUID) ExecutionID {
	buf := make([]byte, 0, 48)
	buf = append(buf, "{fp:"...)
	buf = strconv.AppendUint(buf, uint64(partition), 10)
	buf = append(buf, "}:"...)
	buf = append(buf, u.String()...)
	return ExecutionID(buf)
}

// Partition returns the partition embedded in the identifier, 0 for "".
func (id ExecutionID) Partition() uint16 {
	rest, ok := strings.CutPrefix(string(id), "{fp:")
	if !ok {
		return 0
	}
	num, _, ok := strings.Cut(rest, "}:")
	if !ok {
		return 0
	}
	n, _ := parseCanonicalUint16(num)
	return n
}

// UUID returns the UUID embedded in the identifier, the nil UUID for "".
func (id ExecutionID) UUID() uuid.UUID {
	if len(id) < 36 {
		return uuid.Nil
	}
	u, err := uuid.Parse(string(id[len(id)-36:]))
	if err != nil {
		return uuid.Nil
	}
	return u
}

// MarshalText returns the canonical text.
func (id ExecutionID) MarshalText() ([]byte, error) { return []byte(id), nil }

// UnmarshalText applies the checks of [ParseExecutionID].
func (id *ExecutionID) UnmarshalText(b []byte) error {
	v, err := ParseExecutionID(string(b))
	if err != nil {
		return err
	}
	*id = v
	return nil
}

// FlowID, AttemptID, LeaseID, SuspensionID, WaitpointID and SignalID are UUIDs in
// canonical text form. The engine
// mints random (version 4) ones. The zero value "" means "none".
type (
	// FlowID names a flow.
	FlowID string
	// AttemptID names one attempt of an execution.
	AttemptID string
	// LeaseID names one lease; the claimer mints it, so that a repeated claim is
	// recognised.
	LeaseID string
	// SuspensionID names one waiting episode of an execution.
	SuspensionID string
	// WaitpointID names one waitpoint; it is never used again, not even after the
	// waitpoint has closed.
	WaitpointID string
	// SignalID names one signal; the sender mints it, so that a repeated delivery
	// is recognised.
	SignalID string
)

// UnmarshalText refuses what is not a UUID in canonical text form; the empty text
// gives "", no flow.
func (f *FlowID) UnmarshalText(b []byte) error { return unmarshalUUID(f, "flow_id", b) }

// UnmarshalText refuses what is not a UUID in canonical text form; the empty text
// gives "", no attempt.
func (a *AttemptID) UnmarshalText(b []byte) error { return unmarshalUUID(a, "attempt_id", b) }

// UnmarshalText refuses what is not a UUID in canonical text form; the empty text
// gives "", no lease.
func (l *LeaseID) UnmarshalText(b []byte) error { return unmarshalUUID(l, "lease_id", b) }

// UnmarshalText refuses what is not a UUID in canonical text form; the empty text
// gives "", no suspension.
func (s *SuspensionID) UnmarshalText(b []byte) error { return unmarshalUUID(s, "suspension_id", b) }

// UnmarshalText refuses what is not a UUID in canonical text form; the empty text
// gives "", no waitpoint.
func (w *WaitpointID) UnmarshalText(b []byte) error { return unmarshalUUID(w, "waitpoint_id", b) }

// UnmarshalText refuses what is not a UUID in canonical text form; the empty text
// gives "", no signal.
func (s *SignalID) UnmarshalText(b []byte) error { return unmarshalUUID(s, "signal_id", b) }

func unmarshalUUID[T ~string](id *T, field string, b []byte) error {
	if len(b) > 0 {
		if err := ValidateUUID(field, string(b)); err != nil {
			return err
		}
	}
	*id = T(b)
	return nil
}

// NewAttemptID mints a random attempt identifier.
func NewAttemptID() AttemptID { return AttemptID(uuid.NewString()) }

// NewLeaseID mints a random lease identifier.
func NewLeaseID() LeaseID { return LeaseID(uuid.NewString()) }

// NewSuspensionID mints a random suspension identifier.
func NewSuspensionID() SuspensionID { return SuspensionID(uuid.NewString()) }

// NewWaitpointID mints a random waitpoint identifier.
func NewWaitpointID() WaitpointID { return WaitpointID(uuid.NewString()) }

// NewSignalID mints a random signal identifier.
func NewSignalID() SignalID { return SignalID(uuid.NewString()) }

// LaneID names a lane: 1..64 bytes, each 0x20..0x7E, without '{' and '}'.
type LaneID string

// Namespace scopes executions and workers: 1..128 bytes, each 0x21..0x7E,
// without '{' and '}'. "*" is no namespace; only a worker registration may
// carry it, and it then serves all.
type Namespace string

// AnyNamespace is the namespace of a worker that serves all namespaces.
const AnyNamespace Namespace = "*"

// WorkerID names a pool of workers: 1..128 bytes, each 0x21..0x7E, without
// '{' and '}'.
type WorkerID string

// WorkerInstanceID names one worker process; same form as a [WorkerID].
type WorkerInstanceID string

// Limits on identifiers, in bytes.
const (
	MaxLaneIDBytes          = 64
	MaxNamespaceBytes       = 128
	MaxWorkerIDBytes        = 128
	MaxIdempotencyKeyBytes  = 256
	MaxExecutionKindBytes   = 128
	MaxCreatorIdentityBytes = 256
	MaxEncodingBytes        = 64
)

// Validate reports why the lane identifier is unacceptable: invalid_input with
// details field "lane_id" and reason empty, too_long (with length),
// non_printable or brace (with the byte index).
func (l LaneID) Validate() error { return validateToken("lane_id", string(l), MaxLaneIDBytes, 0x20) }

// UnmarshalText applies the checks of Validate.
func (l *LaneID) UnmarshalText(b []byte) error { return unmarshalChecked(l, b, LaneID.Validate) }

// Validate reports why the namespace is unacceptable; "*" is refused.
func (n Namespace) Validate() error {
	if n == AnyNamespace {
		return InvalidInput("namespace", "%q is no namespace", string(n)).With("reason", "wildcard")
	}
	return validateToken("namespace", string(n), MaxNamespaceBytes, 0x21)
}

// ValidateForWorker is Validate, but admits "*".
func (n Namespace) ValidateForWorker() error {
	if n == AnyNamespace {
		return nil
	}
	return n.Validate()
}

// UnmarshalText applies the checks of ValidateForWorker, since the registration
// of a worker may be what is read.
func (n *Namespace) UnmarshalText(b []byte) error {
	return unmarshalChecked(n, b, Namespace.ValidateForWorker)
}

// Validate reports why the worker identifier is unacceptable.
func (w WorkerID) Validate() error {
	return validateToken("worker_id", string(w), MaxWorkerIDBytes, 0x21)
}

// UnmarshalText applies the checks of Validate.
func (w *WorkerID) UnmarshalText(b []byte) error { return unmarshalChecked(w, b, WorkerID.Validate) }

// Validate reports why the worker instance identifier is unacceptable.
func (w WorkerInstanceID) Validate() error {
	return validateToken("worker_instance_id", string(w), MaxWorkerIDBytes, 0x21)
}

// UnmarshalText applies the checks of Validate.
func (w *WorkerInstanceID) UnmarshalText(b []byte) error {
	return unmarshalChecked(w, b, WorkerInstanceID.Validate)
}

func unmarshalChecked[T ~string](id *T, b []byte, check func(T) error) error {
	v := T(b)
	if err := check(v); err != nil {
		return err
	}
	*id = v
	return nil
}

// ValidateUUID reports invalid_input naming field unless s is a UUID in
// canonical text form.
func ValidateUUID(field, s string) error {
	if !isCanonicalUUID(s) {
		return InvalidInput(field, "%q is not a canonical UUID", clip(s, 80)).With("reason", KindInvalidUUID)
	}
	return nil
}

func validateToken(field, s string, limit int, lowest byte) error {
	if s == "" {
		return InvalidInput(field, "must not be empty").With("reason", "empty")
	}
	if len(s) > limit {
		return InvalidInput(field, "is %d bytes, limit %d", len(s), limit).With("reason", "too_long").With("length", len(s))
	}
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c < lowest || c > 0x7E:
			return InvalidInput(field, "has a forbidden byte at %d", i).With("reason", "non_printable").With("index", i)
		case c == '{' || c == '}':
			return InvalidInput(field, "has a brace at %d", i).With("reason", "brace").With("index", i)
		}
	}
	return nil
}

func parseCanonicalUint16(s string) (uint16, bool) {
	if s == "" || len(s) > 5 || (len(s) > 1 && s[0] == '0') {
		return 0, false
	}
	n := 0
	for i := 0; i < len(s); i++ {
		if s[i] < '0' || s[i] > '9' {
			return 0, false
		}
		n = n*10 + int(s[i]-'0')
	}
	if n > 65535 {
		return 0, false
	}
	return uint16(n), true
}

func isCanonicalUUID(s string) bool {
	if len(s) != 36 {
		return false
	}
	for i := 0; i < 36; i++ {
		c := s[i]
		switch i {
		case 8, 13, 18, 23:
			if c != '-' {
				return false
			}
		default:
			if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
				return false
			}
		}
	}
	return true
}

func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return fmt.Sprintf("%s… (%d bytes)", s[:n], len(s))
}
