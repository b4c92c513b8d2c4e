package caddymodule

import (
	"context"
	"log/slog"
	"sync/atomic"
)

// reloadableLog is the slog.Handler of objects that survive a reload. Each config has its own logs
// and closes them at its end, so the handler is redirected to those of the next config.
type reloadableLog struct {
	current *atomic.Pointer[slog.Logger]
	// derive applies the calls of WithAttrs and WithGroup. It is nil if there were none.
	derive func(slog.Handler) slog.Handler
}

func newReloadableLog(first *slog.Logger) *reloadableLog {
	l := &reloadableLog{current: new(atomic.Pointer[slog.Logger])}
	l.moveTo(first)
	return l
}

// moveTo makes all loggers on l write to logger from now on.
func (l *reloadableLog) moveTo(logger *slog.Logger) { l.current.Store(logger) }

func (l *reloadableLog) handler() slog.Handler {
	h := l.current.Load().Handler()
	if l.derive != nil {
		h = l.derive(h)
	}
	return h
}

// Enabled implements slog.Handler.
func (l *reloadableLog) Enabled(ctx context.Context, level slog.Level) bool {
	return l.current.Load().Enabled(ctx, level)
}

// Handle implements slog.Handler.
func (l *reloadableLog) Handle(ctx context.Context, record slog.Record) error {
	return l.handler().Handle(ctx, record)
}

// WithAttrs implements slog.Handler.
func (l *reloadableLog) WithAttrs(attrs []slog.Attr) slog.Handler {
	return l.with(func(h slog.Handler) slog.Handler { return h.WithAttrs(attrs) })
}

// WithGroup implements slog.Handler.
func (l *reloadableLog) WithGroup(name string) slog.Handler {
	return l.with(func(h slog.Handler) slog.Handler { return h.WithGroup(name) })
}

// with returns a handler on the same log that also applies add.
func (l *reloadableLog) with(add func(slog.Handler) slog.Handler) slog.Handler {
	earlier := l.derive
	if earlier == nil {
		return &reloadableLog{l.current, add}
	}
	return &reloadableLog{l.current, func(h slog.Handler) slog.Handler { return add(earlier(h)) }}
}
