package api

import (
	"context"
	"sync"
)

// The phases of a shutdown, in order: [API.SetUnready], [API.Refuse],
// [API.EndWaits], [API.Idle]. (Specification 08, section 6.3.)

// SetUnready makes /readyz fail; requests are served on.
func (a *API) SetUnready() { a.unready.Store(true) }

// Drained reports whether an operator has stopped this process from issuing
// grants.
func (a *API) Drained() bool { return a.drained.Load() }

// Refuse answers every further request, probes excepted, with shutting_down and
// closes its connection.
func (a *API) Refuse() { a.refusing.Store(true) }

// EndWaits makes long polls answer early and event streams say goodbye. Pools
// take nobody in any more.
func (a *API) EndWaits() {
	a.waits.close()
	a.subscriptions.close()
	a.streamOps.close()
	a.startDrain()
}

// Idle waits until no request is under way, or ctx ends; it reports which.
func (a *API) Idle(ctx context.Context) bool {
	a.flight.Lock()
	if a.flight.n == 0 {
		a.flight.Unlock()
		return true
	}
	if a.flight.idle == nil {
		a.flight.idle = make(chan struct{})
	}
	idle := a.flight.idle
	a.flight.Unlock()
	select {
	case <-idle:
		return true
	case <-ctx.Done():
		return false
	}
}

// Watch counts the endings of attempts from the backend's wake events, where it
// has them, until stop is called. It counts what this process commits.
func (a *API) Watch() (stop func()) {
	w, ok := a.raw.(watched)
	if !ok {
		return func() {}
	}
	return sync.OnceFunc(w.Watch(a.metrics.Settled))
}
