package flowfabric

import (
	"context"
	"time"
)

// Clock gives a worker or client its timers. It decides nothing that is stored:
// the store's clock is the only clock there. (Specification 08, section 5.2.)
type Clock interface {
	// Now returns the local time; only differences matter, so it should be
	// monotonic.
	Now() time.Time
	// AfterFunc calls f in its own goroutine once d has passed.
	AfterFunc(d time.Duration, f func()) Timer
}

// Timer is a pending call of a [Clock]; *time.Timer is one.
type Timer interface {
	// Stop prevents the call and reports whether it did.
	Stop() bool
	// Reset moves the call to d from now.
	Reset(d time.Duration) bool
}

// systemClock is the machine's clock.
type systemClock struct{}

func (systemClock) Now() time.Time { return time.Now() }

func (systemClock) AfterFunc(d time.Duration, f func()) Timer { return time.AfterFunc(d, f) }

// pause waits for d, or until ctx ends; then it returns ctx's error.
func pause(ctx context.Context, clock Clock, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	done := make(chan struct{})
	timer := clock.AfterFunc(d, func() { close(done) })
	defer timer.Stop()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// withLimit is context.WithTimeoutCause on a Clock.
func withLimit(ctx context.Context, clock Clock, d time.Duration, cause error) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	timer := clock.AfterFunc(d, func() { cancel(cause) })
	return ctx, func() {
		timer.Stop()
		cancel(context.Canceled)
	}
}

// endedBy returns a context that ends with ctx or with other, whichever comes
// first, carrying the other's cause.
func endedBy(ctx, other context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(other, func() { cancel(context.Cause(other)) })
	return ctx, func() {
		stop()
		cancel(context.Canceled)
	}
}
