package flowfabric

import (
	"errors"
	"fmt"
	"maps"
	"time"
)

//go:generate go run ./internal/codegen docs/error-codes.md codes.go

// Code is a stable snake_case error code. The table in docs/error-codes.md is
// the only list.
type Code string

// Class groups codes by how a caller reacts. A Class is an error, so that
// errors.Is(err, flowfabric.ClassConflict) tells whether err is of the class.
type Class string

// The classes of errors.
const (
	ClassNotFound           Class = "not_found"
	ClassInvalidInput       Class = "invalid_input"
	ClassConflict           Class = "conflict"
	ClassStaleOwner         Class = "stale_owner"
	ClassAlreadyDone        Class = "already_done"
	ClassCapacity           Class = "capacity"
	ClassAdmissionDenied    Class = "admission_denied"
	ClassExpired            Class = "expired"
	ClassUnauthorized       Class = "unauthorized"
	ClassRetryableTransport Class = "retryable_transport"
	ClassCorruption         Class = "corruption"
	ClassBug                Class = "bug"
)

// Error lets a Class be the target of errors.Is.
func (c Class) Error() string { return "flowfabric: class " + string(c) }

// CodeInfo is a code's row in the table.
type CodeInfo struct {
	Class     Class
	Status    int // HTTP status; 0 where the code never crosses HTTP
	Retryable bool
	Title     string
}

// Info returns the code's row and whether the code is in the table.
func (c Code) Info() (CodeInfo, bool) {
	info, ok := codeTable[c]
	return info, ok
}

// Codes returns a copy of the table.
func Codes() map[Code]CodeInfo { return maps.Clone(codeTable) }

// Error is the one error type of FlowFabric, equal through every store and over
// the wire. errors.Is compares codes with the Err… variables and classes with
// the Class… constants; errors.As gives the details.
type Error struct {
	Code  Code
	Class Class
	// Retryable is true when the very same request, sent again, may succeed.
	Retryable bool
	// Kind is set for store faults only: transport, protocol, timeout, auth,
	// cluster, busy_loading, script_not_loaded or other.
	Kind string
	// Message is the human text of this occurrence. It never holds a secret, a
	// token or a payload.
	Message string
	// Details are facts specific to the code: field, limit, terminal_outcome, ….
	Details map[string]any
	// RetryAfter, when positive, is how long to wait before trying again.
	RetryAfter time.Duration
	// Op is the operation that failed, in snake_case, where known.
	Op string

	cause error
}

// NewError returns an error with the code's class and retryability. A code that
// is not in the table becomes "internal".
func NewError(code Code, format string, args ...any) *Error {
	info, ok := codeTable[code]
	if !ok {
		return &Error{Code: CodeInternal, Class: ClassBug, Message: fmt.Sprintf("unknown code %q: ", code) + fmt.Sprintf(format, args...)}
	}
	return &Error{Code: code, Class: info.Class, Retryable: info.Retryable, Message: fmt.Sprintf(format, args...)}
}

// InvalidInput returns invalid_input with the detail "field".
func InvalidInput(field, format string, args ...any) *Error {
	return NewError(CodeInvalidInput, field+": "+format, args...).With("field", field)
}

// With sets a detail and returns e.
func (e *Error) With(key string, value any) *Error {
	if e.Details == nil {
		e.Details = make(map[string]any, 4)
	}
	e.Details[key] = value
	return e
}

// Wrap sets the cause and returns e.
func (e *Error) Wrap(cause error) *Error {
	e.cause = cause
	return e
}

// WithKind sets the kind of a store fault and returns e.
func (e *Error) WithKind(kind string) *Error {
	e.Kind = kind
	return e
}

// Error gives the code, the message and the cause.
func (e *Error) Error() string {
	s := string(e.Code)
	if e.Op != "" {
		s = e.Op + ": " + s
	}
	if e.Message != "" {
		s += ": " + e.Message
	}
	if e.cause == nil {
		return s
	}
	if text := e.cause.Error(); text != "" {
		s += ": " + text
	}
	return s
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.cause }

// Is reports whether target is an *Error of the same code, or e's class.
func (e *Error) Is(target error) bool {
	switch t := target.(type) {
	case *Error:
		return t.Code == e.Code
	case Class:
		return t == e.Class
	}
	return false
}

// Detail returns a detail by name, nil when absent.
func (e *Error) Detail(key string) any { return e.Details[key] }

// AsError returns the *Error in err's chain, nil when there is none.
func AsError(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	return nil
}

// CodeOf returns the code of err, "" when err carries none.
func CodeOf(err error) Code {
	if e := AsError(err); e != nil {
		return e.Code
	}
	return ""
}

// IsRetryable reports whether the same request, sent again, may succeed.
func IsRetryable(err error) bool {
	e := AsError(err)
	return e != nil && e.Retryable
}

// IsStaleOwner reports whether err says that the caller's lease is gone.
func IsStaleOwner(err error) bool { return errors.Is(err, ClassStaleOwner) }

// IsNotFound reports whether err says that the object does not exist.
func IsNotFound(err error) bool { return errors.Is(err, ClassNotFound) }
