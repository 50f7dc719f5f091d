package valkey

import (
	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/rules"
)

// Answers of the library that no caller gets to see: the call is repeated, or an
// error that is known already is given.
const (
	kindKIDMoved     = "kid_moved"     // the token was made with a key that is not current
	kindNoToken      = "no_token"      // the caller could make no token, and its ring is the present one
	kindTokenRefused = "token_refused" // the refusal of a token is noted
)

// kindOfError is the kind of an error, "" without any.
func kindOfError(err error) string {
	if e := flowfabric.AsError(err); e != nil {
		return e.Kind
	}
	return ""
}

// makeWaitRefusal makes the refusals of suspensions, waitpoints, signals and
// secrets, as internal/rules does; nil for a code that is none of them.
func makeWaitRefusal(code flowfabric.Code, d *details) *flowfabric.Error {
	switch code {
	case kindKIDMoved, kindNoToken, kindTokenRefused:
		return flowfabric.NewError(flowfabric.CodeInternal, "the library answered %s", string(code)).WithKind(string(code))
	case flowfabric.CodeAlreadySuspended:
		return flowfabric.NewError(code, "this lease has suspended the execution already").With("suspension_id", d.next())
	case "timeout_at_in_past":
		return flowfabric.NewError(flowfabric.CodeInvalidInput, "timeout_at_in_past: %d is more than %d ms before the store's now",
			d.int(), flowfabric.SuspendTimeoutToleranceMs).With("field", "timeout_at").With("reason", "timeout_at_in_past")
	case "bad_binding":
		return badBinding(d.next(), d.next(), d.int())
	case flowfabric.CodeExecutionNotSuspended:
		state := d.next()
		return flowfabric.NewError(code, "execution is %s", state).With("public_state", state).With("lifecycle_phase", d.next())
	case flowfabric.CodeRotationConflict:
		return flowfabric.NewError(code, "key %s exists with another secret", d.next())
	}
	if e := makeWaitpointRefusal(code, d); e != nil {
		return e
	}
	return makeSignalRefusal(code, d)
}

// badBinding tells that keys of waitpoints and condition do not agree. kind is that
// of a condition that takes exactly one waitpoint, where that is the matter.
func badBinding(reason, kind string, n int64) *flowfabric.Error {
	text := "two waitpoints have the same key"
	switch {
	case kind != "":
		return flowfabric.NewError(flowfabric.CodeInvalidInput, "%s: %s takes exactly one waitpoint, not %d", reason, kind, n).
			With("field", "waitpoints").With("reason", reason)
	case reason == "waitpoint_key_mismatch":
		text = "the condition refers to other keys than the waitpoints have"
	}
	return flowfabric.NewError(flowfabric.CodeInvalidInput, "%s: %s", reason, text).With("field", "waitpoints").With("reason", reason)
}

func makeWaitpointRefusal(code flowfabric.Code, d *details) *flowfabric.Error {
	switch code {
	case flowfabric.CodeWaitpointAlreadyExists:
		return flowfabric.NewError(code, "waitpoint %s exists already", d.next())
	case flowfabric.CodeWaitpointNotFound:
		return flowfabric.NewError(code, "the execution has no waitpoint %s", d.next())
	case flowfabric.CodeInvalidWaitpointForExecution:
		return flowfabric.NewError(code, "waitpoint %s is of another execution or attempt", d.next()).With("field", "waitpoints")
	case flowfabric.CodePendingWaitpointExpired:
		return flowfabric.NewError(code, "waitpoint %s expired at %d", d.next(), d.int())
	case flowfabric.CodeWaitpointNotTokenBound:
		return flowfabric.NewError(code, "waitpoint %s has no token", d.next())
	case flowfabric.CodeWaitpointNotPending, flowfabric.CodeWaitpointInUse:
		id, state := d.next(), d.next()
		return flowfabric.NewError(code, "waitpoint %s is %s", id, state).With("state", state)
	case flowfabric.CodeWaitpointLimitExceeded:
		limit := int(d.int())
		return flowfabric.NewError(code, "the execution would have more than %d open waitpoints", limit).With("limit", limit)
	case flowfabric.CodeWaitpointClosed:
		return flowfabric.NewError(code, "waitpoint %s is closed", d.next())
	}
	return nil
}

func makeSignalRefusal(code flowfabric.Code, d *details) *flowfabric.Error {
	switch code {
	case flowfabric.CodeInvalidToken:
		return rules.InvalidToken()
	case flowfabric.CodeTokenExpired:
		return rules.TokenExpired(d.next())
	case flowfabric.CodeHMACSecretNotInitialized:
		return flowfabric.NewError(code, "the key ring of the waitpoint tokens is empty")
	case flowfabric.CodeTargetNotSignalable:
		return flowfabric.NewError(code, "the execution has ended").With("terminal_outcome", d.next())
	case flowfabric.CodeSignalLimitExceeded:
		scope, limit := d.next(), uint64(d.int())
		return flowfabric.NewError(code, "the %s has %d signals", scope, limit).With("scope", scope).With("limit", limit)
	case flowfabric.CodeSignalIDConflict:
		return flowfabric.NewError(code, "signal %s was sent to another waitpoint", d.next())
	case "lane_mismatch":
		return flowfabric.NewError(flowfabric.CodeInvalidInput, "lane_mismatch: the execution is on another lane").
			With("field", "lane_id").With("reason", "lane_mismatch")
	}
	return nil
}
