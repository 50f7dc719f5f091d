package flowfabric

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"
)

// Automatic retries of idempotent operations. (Specification 08, section 5.6.)
const (
	maxAutoRetries = 3
	retryInitial   = 100 * time.Millisecond
)

// backoff doubles from an initial to a highest delay, with full jitter.
type backoff struct {
	initial, max time.Duration
	n            int
}

// next returns the delay before the next try. It is never below the wait the
// error asks for.
func (b *backoff) next(err error) time.Duration {
	ceiling := b.max
	if b.n < 30 {
		ceiling = min(b.max, b.initial<<b.n)
	}
	b.n++
	d := time.Duration(rand.Int64N(int64(ceiling) + 1))
	if e := AsError(err); e != nil {
		d = max(d, e.RetryAfter)
	}
	return d
}

func (b *backoff) reset() { b.n = 0 }

// retry calls op and, when it fails retryably, up to three times more. It is for
// idempotent operations only.
func retry[R any](ctx context.Context, clock Clock, op func(context.Context) (R, error)) (R, error) {
	r, err := op(ctx)
	if !autoRetryable(err) {
		return r, err
	}
	return retryAfter(ctx, clock, err, op)
}

// retryAfter goes on where a first try has failed with err.
func retryAfter[R any](ctx context.Context, clock Clock, err error, op func(context.Context) (R, error)) (R, error) {
	var r R
	wait := backoff{initial: retryInitial, max: retryInitial << maxAutoRetries}
	for range maxAutoRetries {
		if ended := pause(ctx, clock, wait.next(err)); ended != nil {
			return r, ended
		}
		r, err = op(ctx)
		if !autoRetryable(err) {
			return r, err
		}
	}
	return r, err
}

// autoRetryable reports whether an idempotent operation that failed with err is
// repeated. A conflict that time may resolve is left to the caller, and so is
// what a backend over HTTP has repeated itself, as its detail "repeats" tells.
func autoRetryable(err error) bool {
	return err != nil && IsRetryable(err) && !errors.Is(err, ClassConflict) && AsError(err).Detail("repeats") == nil
}

// definite reports whether err is an answer of the engine, so that the outcome
// of the call is known. Transport errors, ended contexts and faults of the store
// or the server are not.
func definite(err error) bool {
	e := AsError(err)
	if e == nil || e.Retryable {
		return false
	}
	return e.Class != ClassRetryableTransport && e.Class != ClassBug
}

// mayHaveHappened reports whether the failed call may have taken effect.
func mayHaveHappened(err error) bool {
	return err != nil && !definite(err) && !errors.Is(err, ClassCapacity) && !errors.Is(err, ClassConflict)
}

// isContextError reports whether err is the plain end of a context.
func isContextError(err error) bool {
	return AsError(err) == nil && (errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded))
}
