// Package wire is the HTTP form of the contract: the request and response bodies
// of every route, the routes' patterns, the problem document, cursors, and the
// strict decoder of request bodies. Client and server share it, so that a name
// or a shape stands in one place only. (Specification 08, sections 2 and 4.)
//
// Every request type has a constructor New…Request, which makes it from the
// arguments of the contract, and a method Args, which turns it back and reports
// what JSON alone can't tell: a path and a body that name different ids, or a
// zero where the contract's zero means "the default". What an operation itself
// checks is left to the operation, so that errors are equal over every backend.
package wire

import "github.com/flowfabric/flowfabric"

// Headers of the API.
const (
	HeaderStoreTime       = "FF-Store-Time-Ms"    // on every response: the store's now
	HeaderMoreCandidates  = "FF-More-Candidates"  // "true": asking again at once is worth it
	HeaderPayloadEncoding = "FF-Payload-Encoding" // of E/input and E/result
	HeaderRequestID       = "X-Request-Id"
	HeaderIdempotencyKey  = "Idempotency-Key"
	HeaderRetryAfter      = "Retry-After"
	HeaderWaitpointToken  = "FF-Waitpoint-Token" // of a callback; never in the URL
)

// Media types of the API.
const (
	MediaJSON    = "application/json"
	MediaProblem = "application/problem+json"
	MediaBytes   = "application/octet-stream"
)

// Body limits in bytes. (Specification 08, section 2.5.)
const (
	LimitControl = 64 << 10
	LimitMedium  = 256 << 10
	LimitLarge   = 3 << 19
	LimitBulk    = 16 << 20
)

// MaxInteger is the largest integer of the wire, 2^53-1.
const MaxInteger = 1<<53 - 1

// ExecutionRef is the optional copy, in a body, of the execution id in the path.
type ExecutionRef struct {
	ExecutionID *flowfabric.ExecutionID `json:"execution_id,omitempty" doc:"Optional copy of the id in the path."`
}

// Check reports id_mismatch when the body names another execution than the path.
func (r ExecutionRef) Check(id flowfabric.ExecutionID) error {
	if r.ExecutionID == nil {
		return nil
	}
	if _, err := flowfabric.ParseExecutionID(string(*r.ExecutionID)); err != nil {
		return err
	}
	return match("execution_id", string(*r.ExecutionID), string(id))
}

// AttemptRef is the optional copy, in a body, of the ids in the path of an
// attempt.
type AttemptRef struct {
	ExecutionRef
	AttemptIndex *uint32 `json:"attempt_index,omitempty" doc:"Optional copy of the index in the path."`
}

// Check reports id_mismatch when the body names another attempt than the path.
func (r AttemptRef) Check(id flowfabric.ExecutionID, index uint32) error {
	if err := r.ExecutionRef.Check(id); err != nil {
		return err
	}
	if r.AttemptIndex != nil && *r.AttemptIndex != index {
		return mismatch("attempt_index")
	}
	return nil
}

// Fence is the triple that proves ownership. Missing parts are zero; the
// operation refuses a partial one.
type Fence struct {
	LeaseID    flowfabric.LeaseID   `json:"lease_id,omitempty" doc:"Opaque; from the task."`
	LeaseEpoch uint64               `json:"lease_epoch,omitempty" doc:"Opaque; from the task."`
	AttemptID  flowfabric.AttemptID `json:"attempt_id,omitempty" doc:"Opaque; from the task."`
}

// NewFence makes the wire form of a fence, nil when it is empty.
func NewFence(f flowfabric.Fence) *Fence {
	if f.Empty() {
		return nil
	}
	return &Fence{LeaseID: f.LeaseID, LeaseEpoch: f.LeaseEpoch, AttemptID: f.AttemptID}
}

// Fence returns the contract's fence; a nil f gives the empty one.
func (f *Fence) Fence() flowfabric.Fence {
	if f == nil {
		return flowfabric.Fence{}
	}
	return flowfabric.Fence{LeaseID: f.LeaseID, LeaseEpoch: f.LeaseEpoch, AttemptID: f.AttemptID}
}

func (f *Fence) at(index uint32) flowfabric.Fence {
	fence := f.Fence()
	fence.AttemptIndex = &index
	return fence
}

// Outcome is a result that has no other field.
type Outcome struct {
	Outcome string `json:"outcome" doc:"What happened."`
}

func match(field, body, path string) error {
	if body == path {
		return nil
	}
	return mismatch(field)
}

func mismatch(field string) error {
	return flowfabric.NewError(flowfabric.CodeIDMismatch, "%s of the body differs from the path", field).With("field", field)
}

// zeroRefused reports invalid_input for an explicit zero where the contract's
// zero stands for "absent".
func zeroRefused(field string, p *int64) error {
	if p != nil && *p == 0 {
		return flowfabric.InvalidInput(field, "must not be 0")
	}
	return nil
}

// emptyRefused reports invalid_input for an explicit empty text where the
// contract's empty one stands for "the default".
func emptyRefused[T ~string](field string, p *T) error {
	if p != nil && *p == "" {
		return flowfabric.InvalidInput(field, "must not be empty").With("reason", "empty")
	}
	return nil
}

// opt returns nil for the zero value, else a pointer to v.
func opt[T comparable](v T) *T {
	var zero T
	if v == zero {
		return nil
	}
	return &v
}

// val returns what p points to, the zero value for nil.
func val[T any](p *T) T {
	if p == nil {
		var zero T
		return zero
	}
	return *p
}

func nonNil[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}

func bytesPtr(b []byte) *[]byte {
	if b == nil {
		return nil
	}
	return &b
}
