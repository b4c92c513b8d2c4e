package manage

import (
	"context"
	"slices"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/node"
)

const (
	// sessionUseInterval is the minimum time between two stored uses of a session, and the interval
	// at which expired sessions are deleted.
	sessionUseInterval = 5 * time.Minute
	// sessionCleanupTimeout bounds the removal of expired sessions.
	sessionCleanupTimeout = 4 * time.Second
	// sessionPrefix is the prefix of a session's secret. The secret has the format and the tag of a
	// token, so that a forged one is refused without a database query.
	sessionPrefix = "session"
)

// OpenSession creates a session for a member's token and returns the session's secret, for a
// cookie. The token must have just been looked up and found valid.
func (k *Keystore) OpenSession(ctx context.Context, token *keystore.Record) (string, error) {
	secret, now := k.TokenKey().Generate(sessionPrefix, keystore.NewID()), k.Now()
	s := keystore.Session{
		ID: secret.Digest(), Token: token.Digest, CreatedAt: now, UsedAt: now,
	}
	if err := k.Database().InsertSession(ctx, s); err != nil {
		return "", k.StoreFailed("opening a session", err)
	}
	return secret.Reveal(), nil
}

// LookupSession is [node.Node.LookupMember] for the token that a session was opened with. The
// outcome of an expired or unknown session is [keystore.Unknown].
func (k *Keystore) LookupSession(
	ctx context.Context, session string, now time.Time,
) (node.Answer, error) {
	id, ok := k.sessionID(session)
	if !ok {
		return node.Answer{Outcome: keystore.Malformed}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, node.QueryTimeout)
	defer cancel()
	s, err := k.Database().Session(ctx, id)
	switch {
	case isNotFound(err):
		return node.Answer{Outcome: keystore.Unknown}, nil
	case err != nil:
		return node.Answer{}, k.StoreFailed("reading a session", err)
	}
	a, err := k.LookupMemberDigest(ctx, s.Token, now)
	if err != nil {
		return node.Answer{}, err
	}
	at := time.Unix(0, a.Now).UTC()
	if s.Expired(at) {
		return node.Answer{Outcome: keystore.Unknown}, nil
	}
	if at.Sub(s.UsedAt) >= sessionUseInterval {
		if err := k.Database().UseSession(ctx, s.ID, at); err != nil {
			return node.Answer{}, k.StoreFailed("storing the use of a session", err)
		}
	}
	return a, nil
}

// CloseSession ends a session on every node. An unknown session is not an error. CloseSession
// accesses the database only if the tag proves that this deployment created the session, because
// anyone can send a cookie.
func (k *Keystore) CloseSession(ctx context.Context, session string) error {
	id, ok := k.sessionID(session)
	if !ok {
		return nil
	}
	_, err := k.Database().Session(ctx, id)
	// Deleting an absent session confirms on the standbys that it is deleted.
	if err == nil || isNotFound(err) && k.Standbys() {
		err = k.Database().DeleteSession(ctx, id)
	}
	if err != nil && !isNotFound(err) {
		return k.StoreFailed("closing a session", err)
	}
	return nil
}

// Sessions returns the sessions of the calling member's token, the most recently used first, and
// the index of the one with this secret, or -1 if it is not among them.
func (k *Keystore) Sessions(
	ctx context.Context, c Caller, secret string,
) (list []keystore.Session, current int, err error) {
	token, err := k.ownToken(ctx, c)
	if err != nil || token == nil {
		return nil, -1, err
	}
	if list, err = k.Database().SessionsOf(ctx, token.Secrets[0].Digest); err != nil {
		return nil, -1, k.StoreFailed("reading sessions", err)
	}
	list = slices.DeleteFunc(list, func(s keystore.Session) bool { return s.Expired(k.Now()) })
	id, ok := k.sessionID(secret)
	current = slices.IndexFunc(list, func(s keystore.Session) bool { return ok && s.ID == id })
	return list, current, nil
}

// CloseSessions ends all sessions of the calling member's token, on every node.
func (k *Keystore) CloseSessions(ctx context.Context, c Caller) error {
	token, err := k.ownToken(ctx, c)
	if err != nil || token == nil {
		return err
	}
	if err := k.Database().DeleteSessionsOf(ctx, token.Secrets[0].Digest); err != nil {
		return k.StoreFailed("closing sessions", err)
	}
	return nil
}

// ownToken returns the key of the calling member's token, or nil if it has none.
func (k *Keystore) ownToken(ctx context.Context, c Caller) (*keystore.Key, error) {
	tokens, err := k.MemberTokens(ctx, c, []string{c.Member()})
	if token, ok := tokens[c.Member()]; ok && len(token.Secrets) > 0 {
		return &token, nil
	}
	return nil, err
}

// sessionID returns the id of the session with this secret. ok is false unless the tag proves that
// this deployment created the secret for a session.
func (k *Keystore) sessionID(session string) (id keystore.Digest, ok bool) {
	secret, err := keystore.ParseToken(session)
	if err != nil || secret.Prefix() != sessionPrefix || !k.TokenKey().Verify(secret) {
		return keystore.Digest{}, false
	}
	return secret.Digest(), true
}

// deleteExpiredSessions deletes sessions that were unused for too long or are too old.
func (k *Keystore) deleteExpiredSessions(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, sessionCleanupTimeout)
	defer cancel()
	now := k.Now()
	if err := k.Database().DeleteSessions(ctx, now.Add(-keystore.SessionIdle),
		now.Add(-keystore.SessionLife)); err != nil {
		_ = k.StoreFailed("deleting expired sessions", err)
	}
}
