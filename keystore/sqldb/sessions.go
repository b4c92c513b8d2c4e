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
	const operation = "reading a session"
	rows, err := d.query(ctx, d.readers,
		"SELECT digest, token, created_at, used_at FROM sessions WHERE digest = ? AND "+d.current,
		id[:])
	if err != nil {
		return nil, d.fail(ctx, operation, err)
	}
	defer rows.Close()
	var found *keystore.Session
	for rows.Next() {
		found = new(keystore.Session)
		if err := rows.Scan(digestTo{&found.ID}, digestTo{&found.Token}, timeTo{&found.CreatedAt},
			timeTo{&found.UsedAt}); err != nil {
			return nil, d.fail(ctx, operation, err)
		}
	}
	if err := rows.Err(); err != nil {
		return nil, d.fail(ctx, operation, err)
	}
	if found == nil {
		return nil, keystore.ErrNotFound
	}
	return found, nil
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

// DeleteSessions implements [keystore.Database].
func (d *DB) DeleteSessions(ctx context.Context, used, created time.Time) error {
	return d.exec(ctx, d.uses, "deleting expired sessions",
		"DELETE FROM sessions WHERE (used_at < ? OR created_at < ?)"+d.unforced, used.UnixMicro(),
		created.UnixMicro())
}
