package keystore

import (
	"context"
	"time"
)

// SessionStore is the part of a [Database] that stores browser sessions.
type SessionStore interface {
	// InsertSession adds a session with a new ID. Each token keeps its MaxSessions most recently
	// used sessions; the others are deleted.
	InsertSession(ctx context.Context, s Session) error
	// Session returns one session, or ErrNotFound.
	Session(ctx context.Context, id Digest) (*Session, error)
	// SessionsOf returns the sessions of a member's token, the most recently used first.
	SessionsOf(ctx context.Context, token Digest) ([]Session, error)
	// UseSession records a use of a session. It ignores an unknown id and a time that is not later
	// than the stored one.
	UseSession(ctx context.Context, id Digest, at time.Time) error
	// DeleteSession deletes one session. An unknown id is not an error.
	DeleteSession(ctx context.Context, id Digest) error
	// DeleteSessionsOf deletes all sessions of a member's token.
	DeleteSessionsOf(ctx context.Context, token Digest) error
	// DeleteSessions deletes sessions that were last used before one time, or created before
	// another.
	DeleteSessions(ctx context.Context, used, created time.Time) error
}
