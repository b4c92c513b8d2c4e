package sqldb

import (
	"context"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// InsertSession implements [keystore.Database].
func (d *DB) InsertSession(ctx context.Context, s keystore.Session) error {
	return d.fail(ctx, "opening a session", d.write(ctx, func(t *tx) error {
		_, err := t.exec("INSERT INTO sessions (digest, token, created_at, used_at) VALUES (?, "+
			"?, ?, ?)", s.ID[:], s.Token[:], s.CreatedAt.UnixMicro(), s.UsedAt.UnixMicro())
		if err != nil {
			return err
		}
		_, err = t.exec("DELETE FROM sessions WHERE digest IN (SELECT digest FROM sessions WHERE "+
			"token = ? ORDER BY used_at DESC, created_at DESC LIMIT ? OFFSET ?)",
			s.Token[:], keystore.MaxSessions, keystore.MaxSessions)
		return err
	}))
}

// Session implements [keystore.Database].
func (d *DB) Session(ctx context.Context, id keystore.Digest) (*keystore.Session, error) {
	found, err := d.sessions(ctx, "digest = ?", id[:])
	if err != nil {
		return nil, err
	}
	if len(found) == 0 {
		return nil, keystore.ErrNotFound
	}
	return &found[0], nil
}

// SessionsOf implements [keystore.Database].
func (d *DB) SessionsOf(ctx context.Context, token keystore.Digest) ([]keystore.Session, error) {
	return d.sessions(ctx, "token = ?", token[:])
}

// sessions returns the sessions that match a condition, the most recently used first.
func (d *DB) sessions(
	ctx context.Context, where string, args ...any,
) (found []keystore.Session, err error) {
	const operation = "reading sessions"
	rows, err := d.query(ctx, d.readers, "SELECT digest, token, created_at, used_at FROM sessions "+
		"WHERE "+where+" AND "+d.current+" ORDER BY used_at DESC, created_at DESC", args...)
	if err != nil {
		return nil, d.fail(ctx, operation, err)
	}
	defer rows.Close()
	for rows.Next() {
		var s keystore.Session
		if err := rows.Scan(digestTo{&s.ID}, digestTo{&s.Token}, timeTo{&s.CreatedAt},
			timeTo{&s.UsedAt}); err != nil {
			return nil, d.fail(ctx, operation, err)
		}
		found = append(found, s)
	}
	return found, d.fail(ctx, operation, rows.Err())
}

// UseSession implements [keystore.Database].
func (d *DB) UseSession(ctx context.Context, id keystore.Digest, at time.Time) error {
	return d.exec(ctx, d.uses, "recording the use of a session",
		"UPDATE sessions SET used_at = ? WHERE digest = ? AND used_at < ?"+d.unforced,
		at.UnixMicro(), id[:], at.UnixMicro())
}

// DeleteSession implements [keystore.Database].
func (d *DB) DeleteSession(ctx context.Context, id keystore.Digest) error {
	return d.fail(ctx, "deleting a session", d.write(ctx, func(t *tx) error {
		_, err := t.exec("DELETE FROM sessions WHERE digest = ?", id[:])
		return err
	}))
}

// DeleteSessionsOf implements [keystore.Database].
func (d *DB) DeleteSessionsOf(ctx context.Context, token keystore.Digest) error {
	return d.fail(ctx, "deleting the sessions of a token", d.write(ctx, func(t *tx) error {
		_, err := t.exec("DELETE FROM sessions WHERE token = ?", token[:])
		return err
	}))
}

// DeleteSessions implements [keystore.Database].
func (d *DB) DeleteSessions(ctx context.Context, used, created time.Time) error {
	return d.exec(ctx, d.uses, "deleting expired sessions",
		"DELETE FROM sessions WHERE (used_at < ? OR created_at < ?)"+d.unforced, used.UnixMicro(),
		created.UnixMicro())
}
