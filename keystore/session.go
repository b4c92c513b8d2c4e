package keystore

import "time"

// A Session authenticates a browser, on every node, as the member whose token opened it. It ends
// when it expires, when that token is replaced or expires, and when the member is disabled.
type Session struct {
	ID        Digest // of the secret in the browser's cookie
	Token     Digest // of the member's token
	CreatedAt time.Time
	UsedAt    time.Time // written at most once in five minutes
}

const (
	// SessionIdle is how long an unused session lasts.
	SessionIdle = time.Hour
	// SessionLife is the maximum duration of a session.
	SessionLife = 12 * time.Hour
	// MaxSessions is the maximum number of sessions per token.
	MaxSessions = 50
)

// Expired reports whether the session has expired at now. It does not check the token.
func (s *Session) Expired(now time.Time) bool {
	return now.Sub(s.UsedAt) >= SessionIdle || now.Sub(s.CreatedAt) >= SessionLife
}
