package manage

import (
	"context"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/node"
)

const (
	// sessionGrain is how far apart two uses lie to be written, and how often sessions that are
	// over are removed.
	sessionUseInterval = 5 * time.Minute
	// sessionPrefix is what a session's secret begins with. It is made like a token, so that a
	// forged one is refused without asking the database.
	sessionPrefix = "session"
)

// OpenSession makes a session of a member's token, which was just looked up and found alive, and
// returns what the browser is to hold: a secret.
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

// LookupSession is [Keystore.LookupMember] for the token that a session was opened with. A session
// that is over or unknown is [keystore.Unknown].
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
			return node.Answer{}, k.StoreFailed("noting the use of a session", err)
		}
	}
	return a, nil
}

// CloseSession ends a session on every node. A session that does not exist is no error. It writes
// only what it knows to be a session of this deployment: anybody can send a cookie.
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
		return k.StoreFailed("ending a session", err)
	}
	return nil
}

// sessionID returns the id of the session that a secret opens, if its tag proves that this
// deployment made it for a session.
func (k *Keystore) sessionID(session string) (id keystore.Digest, ok bool) {
	secret, err := keystore.ParseToken(session)
	if err != nil || secret.Prefix() != sessionPrefix || !k.TokenKey().Verify(secret) {
		return keystore.Digest{}, false
	}
	return secret.Digest(), true
}

// forgetSessions removes those that are over.
func (k *Keystore) deleteExpiredSessions(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, node.QueryTimeout)
	defer cancel()
	now := k.Now()
	if err := k.Database().DeleteSessions(ctx, now.Add(-keystore.SessionIdle),
		now.Add(-keystore.SessionLife)); err != nil {
		_ = k.StoreFailed("removing sessions that are over", err)
	}
}
