package server

import (
	"context"
	"log/slog"
	"time"

	"github.com/flowfabric/flowfabric/server/api"
)

// Intervals of the duties of a serving process. (Specification 08, section 8.)
const (
	gaugeEvery = 15 * time.Second
	certsEvery = 15 * time.Second
	warnEvery  = time.Hour
)

// startDuties runs what a serving process does beside answering: the gauges of
// lanes, a look at the certificates, and the hourly warning of a server open to
// everybody.
func (s *Server) startDuties(ctx context.Context, a *api.API) {
	s.every(ctx, gaugeEvery, func() {
		if err := a.GaugeLanes(ctx); err != nil && ctx.Err() == nil {
			s.log.WarnContext(ctx, "gauges of lanes not set", "error", err)
		}
	})
	if s.certs != nil {
		s.every(ctx, certsEvery, func() {
			if !s.certs.changed() {
				return
			}
			if err := s.certs.load(); err != nil {
				s.log.ErrorContext(ctx, "certificates not reloaded; the former ones stay", "error", err)
			}
		})
	}
	if s.cfg.AllowUnauthenticated && !s.tokens.Enabled() {
		s.every(ctx, warnEvery, func() {
			s.log.LogAttrs(ctx, slog.LevelWarn, "authentication is off and FF_ALLOW_UNAUTHENTICATED is set: everybody who can reach this server may do everything")
		})
	}
}

// every runs do now and then at the interval, until ctx ends.
func (s *Server) every(ctx context.Context, interval time.Duration, do func()) {
	s.duties.Go(func() {
		t := time.NewTicker(interval)
		defer t.Stop()
		for {
			do()
			select {
			case <-t.C:
			case <-ctx.Done():
				return
			}
		}
	})
}
