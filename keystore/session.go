package keystore

import (
	"context"
	"time"
)

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

	// sessionGrain is how far apart two uses lie to be written, and how often sessions that are
	// over are removed.
	sessionGrain = 5 * time.Minute
	// sessionPrefix is what a session's secret begins with. It is made like a token, so that a
	// forged one is refused without asking the database.
	sessionPrefix = "session"
)

// over reports whether the session has ended by itself.
func (s *Session) over(now time.Time) bool {
	return now.Sub(s.UsedAt) >= SessionIdle || now.Sub(s.CreatedAt) >= SessionLife
}

// OpenSession makes a session of a member's token, which was just looked up and found alive, and
// returns what the browser is to hold: a secret.
func (k *Keystore) OpenSession(ctx context.Context, token *Record) (string, error) {
	secret, now := k.tokenKey.Load().Generate(sessionPrefix, NewID()), k.Now()
	if err := k.db.InsertSession(ctx,
		Session{secret.Digest(), token.Digest, now, now}); err != nil {
		return "", k.storeFailed("opening a session", err)
	}
	return secret.Reveal(), nil
}

// LookupSession is [Keystore.LookupMember] for the token that a session was opened with. A session
// that is over or unknown is [Unknown].
func (k *Keystore) LookupSession(
	ctx context.Context, session string, now time.Time,
) (Answer, error) {
	id, ok := k.sessionID(session)
	if !ok {
		return Answer{Outcome: Malformed}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, loadTimeout)
	defer cancel()
	s, err := k.db.Session(ctx, id)
	switch {
	case isNotFound(err):
		return Answer{Outcome: Unknown}, nil
	case err != nil:
		return Answer{}, k.storeFailed("reading a session", err)
	}
	a, err := k.lookUp(ctx, s.Token, "", now)
	if err != nil {
		return Answer{}, err
	}
	at := time.Unix(0, a.Now).UTC()
	if s.over(at) {
		return Answer{Outcome: Unknown}, nil
	}
	if at.Sub(s.UsedAt) >= sessionGrain {
		if err := k.db.UseSession(ctx, s.ID, at); err != nil {
			return Answer{}, k.storeFailed("noting the use of a session", err)
		}
	}
	return a.forDoor(true), nil
}

// CloseSession ends a session on every node. A session that does not exist is no error. It writes
// only what it knows to be a session of this deployment: anybody can send a cookie.
func (k *Keystore) CloseSession(ctx context.Context, session string) error {
	id, ok := k.sessionID(session)
	if !ok {
		return nil
	}
	_, err := k.db.Session(ctx, id)
	// Deleting an absent session confirms on the standbys that it is deleted.
	if err == nil || isNotFound(err) && k.node.standbys.Load() {
		err = k.db.DeleteSession(ctx, id)
	}
	if err != nil && !isNotFound(err) {
		return k.storeFailed("ending a session", err)
	}
	return nil
}

// sessionID returns the id of the session that a secret opens, if its tag proves that this
// deployment made it for a session.
func (k *Keystore) sessionID(session string) (id Digest, ok bool) {
	secret, err := ParseToken(session)
	if err != nil || secret.Prefix() != sessionPrefix || !k.tokenKey.Load().Verify(secret) {
		return Digest{}, false
	}
	return secret.Digest(), true
}

// forgetSessions removes those that are over.
func (k *Keystore) forgetSessions(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, flushInterval)
	defer cancel()
	now := k.Now()
	if err := k.db.DeleteSessions(ctx, now.Add(-SessionIdle), now.Add(-SessionLife)); err != nil {
		_ = k.storeFailed("removing sessions that are over", err)
	}
}
