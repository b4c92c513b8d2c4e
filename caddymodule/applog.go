package caddymodule

import (
	"context"
	"log/slog"
	"sync/atomic"
)

// movingLog is the log of what outlives a reload: each config has logs of its own, and closes them
// when it goes.
type movingLog struct {
	current *atomic.Pointer[slog.Logger]
	// adds what WithAttrs and WithGroup were called with; nil: nothing
	derive func(slog.Handler) slog.Handler
}

func newMovingLog(first *slog.Logger) *movingLog {
	l := &movingLog{current: new(atomic.Pointer[slog.Logger])}
	l.moveTo(first)
	return l
}

// moveTo makes all loggers on l write to another one from now on.
func (l *movingLog) moveTo(logger *slog.Logger) { l.current.Store(logger) }

func (l *movingLog) handler() slog.Handler {
	h := l.current.Load().Handler()
	if l.derive != nil {
		h = l.derive(h)
	}
	return h
}

// Enabled is part of slog.Handler.
func (l *movingLog) Enabled(ctx context.Context, level slog.Level) bool {
	return l.current.Load().Enabled(ctx, level)
}

// Handle is part of slog.Handler.
func (l *movingLog) Handle(ctx context.Context, record slog.Record) error {
	return l.handler().Handle(ctx, record)
}

// WithAttrs is part of slog.Handler.
func (l *movingLog) WithAttrs(attrs []slog.Attr) slog.Handler {
	return l.with(func(h slog.Handler) slog.Handler { return h.WithAttrs(attrs) })
}

// WithGroup is part of slog.Handler.
func (l *movingLog) WithGroup(name string) slog.Handler {
	return l.with(func(h slog.Handler) slog.Handler { return h.WithGroup(name) })
}

func (l *movingLog) with(add func(slog.Handler) slog.Handler) slog.Handler {
	earlier := l.derive
	if earlier == nil {
		return &movingLog{l.current, add}
	}
	return &movingLog{l.current, func(h slog.Handler) slog.Handler { return add(earlier(h)) }}
}
