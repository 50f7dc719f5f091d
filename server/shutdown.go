package server

import (
	"context"
	"net/http"
	"sync"
	"time"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/server/api"
)

const (
	// phaseTimeout bounds each phase of a shutdown.
	phaseTimeout = 15 * time.Second
	// partingTime is how long connections may stay once all requests have been
	// answered or cut off.
	partingTime = time.Second
)

// Shutdown ends the server in order, within ShutdownTimeout: /readyz turns at
// once, and after ShutdownDelay no new connection, request or grant is taken; long
// polls answer early and event streams say goodbye; requests under way finish,
// and are cut off after 15 s; then the duties end. Phases that overrun are logged
// and counted. When the whole time runs out the answer is shutdown_timeout. The
// backend is left open, and issues grants again for whoever else uses it in this
// process. A second call waits for the first. (Specification 08, section 6.3.)
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	first := !s.stopping
	s.stopping = true
	servers := s.https
	backend := s.backend
	s.mu.Unlock()
	if !first {
		select {
		case <-s.finished:
			return s.result
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.ShutdownTimeout)
	defer cancel()
	defer close(s.finished)
	s.result = s.shutdown(ctx, servers, backend)
	return s.result
}

func (s *Server) shutdown(ctx context.Context, servers []*http.Server, backend flowfabric.Backend) error {
	a := s.api.Load()
	if a != nil {
		a.SetUnready()
		s.delay(ctx)
		a.Refuse()
		if err := backend.SetDraining(ctx, true); err != nil {
			s.log.WarnContext(ctx, "grants not stopped", "error", err)
		}
		a.EndWaits()
		defer s.resumeGrants(a, backend)
	}
	var closing sync.WaitGroup
	for _, srv := range servers {
		// The listener is closed at once; connections as they fall idle.
		closing.Go(func() { _ = srv.Shutdown(ctx) }) // what is left is closed below
	}
	if a != nil {
		s.phase(ctx, "requests", a.Idle)
	}
	s.cut()
	s.stop()
	s.phase(ctx, "scanners", func(ctx context.Context) bool { return waited(ctx, &s.duties) })
	s.unseen()
	s.phase(ctx, "connections", func(ctx context.Context) bool {
		// Whoever stays has not asked for anything yet, or is silent in the middle of
		// asking: only closing his connection ends that.
		parting, cancel := context.WithTimeout(ctx, partingTime)
		defer cancel()
		if waited(parting, &closing) {
			return true
		}
		closeAll(servers)
		return waited(ctx, &closing)
	})
	closeAll(servers)
	if err := ctx.Err(); err != nil {
		return flowfabric.NewError(flowfabric.CodeShutdownTimeout, "the server was not idle within %v", s.cfg.ShutdownTimeout).Wrap(err)
	}
	return nil
}

func closeAll(servers []*http.Server) {
	for _, srv := range servers {
		_ = srv.Close()
	}
}

// resumeGrants undoes what the shutdown did to the backend: through this server
// nobody gets a grant any more, but the backend may have other users.
func (s *Server) resumeGrants(a *api.API, backend flowfabric.Backend) {
	if a.Drained() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if err := backend.SetDraining(ctx, false); err != nil {
		s.log.DebugContext(ctx, "grants not resumed", "error", err)
	}
}

// delay waits while the server is still serving, so that whoever sends it
// requests can notice that it is going.
func (s *Server) delay(ctx context.Context) {
	if s.cfg.ShutdownDelay <= 0 {
		return
	}
	t := time.NewTimer(s.cfg.ShutdownDelay)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// phase waits for one phase, at most 15 s.
func (s *Server) phase(ctx context.Context, name string, wait func(context.Context) bool) {
	ctx, cancel := context.WithTimeout(ctx, phaseTimeout)
	defer cancel()
	if wait(ctx) {
		return
	}
	s.metrics.ShutdownTimeout(name)
	s.log.WarnContext(ctx, "a phase of the shutdown overran", "phase", name)
}

// waited reports whether wg came to its end before ctx.
func waited(ctx context.Context, wg *sync.WaitGroup) bool {
	done := make(chan struct{})
	go func() {
		wg.Wait()
		close(done)
	}()
	select {
	case <-done:
		return true
	case <-ctx.Done():
		return false
	}
}
