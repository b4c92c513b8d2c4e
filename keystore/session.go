package keystore

import "time"

// A Session lets a browser go on as the member whose token it was opened with, on every node. It
// ends with the token: when that is replaced, expires, or the member is disabled.
type Session struct {
	ID        Digest // of what the browser holds
	Token     Digest // of the member's token
	CreatedAt time.Time
	UsedAt    time.Time // at most sessionGrain late
}

const (
	// SessionIdle is how long a session lasts unused.
	SessionIdle = time.Hour
	// SessionLife is how long a session lasts at most.
	SessionLife = 12 * time.Hour
	// MaxSessions is how many sessions one token has at most.
	MaxSessions = 50
)

// over reports whether the session has ended by itself.
func (s *Session) Expired(now time.Time) bool {
	return now.Sub(s.UsedAt) >= SessionIdle || now.Sub(s.CreatedAt) >= SessionLife
}
