package engine

import (
	"context"
	"sync"
	"time"
)

// drain is the switch that stops this process from issuing grants.
type drain struct {
	mu sync.Mutex
	on bool
	ch chan struct{} // closed while on
}

// active reports whether the engine issues no grants.
func (d *drain) active() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.on
}

// begun is closed when draining begins, or has begun.
func (d *drain) begun() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.channel()
}

func (d *drain) channel() chan struct{} {
	if d.ch == nil {
		d.ch = make(chan struct{})
	}
	return d.ch
}

func (d *drain) set(on bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.on == on {
		return
	}
	d.on = on
	if on {
		close(d.channel())
		return
	}
	d.ch = nil
}

// SetDraining stops (true) or resumes (false) the issuing of grants by this
// process. While it drains, claims find no work: those that wait are answered at
// once, new ones that ask to wait after at most a second, so that workers which
// ask again and again do so gently. Everything else goes on. (Specification 08,
// section 4.7.)
func (e *Engine) SetDraining(ctx context.Context, draining bool) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	e.drain.set(draining)
	return nil
}

// Draining reports whether this process issues no grants.
func (e *Engine) Draining() bool { return e.drain.active() }

// pause holds back the empty answer to a claim that asked to wait, for at most a
// second.
func (e *Engine) pause(ctx context.Context, waitMs int64) error {
	if waitMs == 0 {
		return nil
	}
	t := time.NewTimer(min(time.Duration(waitMs)*time.Millisecond, recheckEvery))
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-e.closing:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
