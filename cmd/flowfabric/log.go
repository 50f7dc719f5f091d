package main

import (
	"context"
	"io"
	"log/slog"

	"github.com/flowfabric/flowfabric/internal/config"
)

// newLogger returns the process's logger: levels may differ per component (the
// attribute "component"), and audit events (the attribute "audit") pass whatever
// the level is. (Specification 08, section 6.5.)
func newLogger(w io.Writer, settings config.Log, terminal bool) *slog.Logger {
	options := &slog.HandlerOptions{Level: slog.LevelDebug}
	var inner slog.Handler
	if settings.Format == "text" || (settings.Format == "" && terminal) {
		inner = slog.NewTextHandler(w, options)
	} else {
		inner = slog.NewJSONHandler(w, options)
	}
	lowest := min(settings.Level, slog.LevelInfo) // audit events are at info
	for _, level := range settings.Components {
		lowest = min(lowest, level)
	}
	return slog.New(&levelHandler{inner: inner, settings: settings, lowest: lowest, level: settings.Level})
}

// levelHandler filters by the component's level.
type levelHandler struct {
	inner    slog.Handler
	settings config.Log
	lowest   slog.Level // of all components
	level    slog.Level // of this logger's component
	audit    bool
	grouped  bool // attributes now belong to a group, not to the logger
}

func (h *levelHandler) Enabled(_ context.Context, level slog.Level) bool { return level >= h.lowest }

func (h *levelHandler) Handle(ctx context.Context, r slog.Record) error {
	level, audit := h.level, h.audit
	if !h.grouped {
		r.Attrs(func(a slog.Attr) bool {
			level, audit = h.look(a, level, audit)
			return true
		})
	}
	if r.Level < level && !(audit && r.Level >= slog.LevelInfo) {
		return nil
	}
	return h.inner.Handle(ctx, r)
}

// look takes the component's level and the audit mark from an attribute.
func (h *levelHandler) look(a slog.Attr, level slog.Level, audit bool) (slog.Level, bool) {
	switch a.Key {
	case "component":
		if own, ok := h.settings.Components[a.Value.String()]; ok {
			level = own
		}
	case "audit":
		audit = audit || (a.Value.Kind() == slog.KindBool && a.Value.Bool())
	}
	return level, audit
}

func (h *levelHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	own := *h
	own.inner = h.inner.WithAttrs(attrs)
	if !h.grouped {
		for _, a := range attrs {
			own.level, own.audit = h.look(a, own.level, own.audit)
		}
	}
	return &own
}

func (h *levelHandler) WithGroup(name string) slog.Handler {
	own := *h
	own.inner, own.grouped = h.inner.WithGroup(name), h.grouped || name != ""
	return &own
}
