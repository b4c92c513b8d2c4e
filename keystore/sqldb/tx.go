package sqldb

import (
	"context"
	"database/sql"
	"errors"
	"slices"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// tx is one [keystore.Tx].
type tx struct {
	db   *DB
	ctx  context.Context
	conn *sql.Conn // on which sql runs
	sql  *sql.Tx
	now  time.Time // of the change
	// noted is the time that nodes have stored, or zero: see DB.NoteTime. Unlike now, it does not
	// follow a database clock that is ahead for a moment.
	noted time.Time
	// stmts are prepared statements by query, if dialect.prepares: an import runs the same few
	// statements thousands of times.
	stmts  map[string]*sql.Stmt
	many   bool  // dialect.beginMany was run
	failed error // of the database: the transaction must not be committed
	began  time.Time

	policyChanged bool // by this transaction
}

// close rolls back an uncommitted transaction and returns the connection to its pool.
func (t *tx) close() {
	for _, s := range t.stmts {
		s.Close()
	}
	// After a commit, this does nothing. Otherwise the caller has an earlier error.
	_ = t.sql.Rollback()
	if t.many {
		// A broken connection is closed anyway.
		_, _ = t.conn.ExecContext(context.WithoutCancel(t.ctx), t.db.resetMany)
	}
	if t.db.rest > 0 && time.Since(t.began) > t.db.rest {
		t.db.restUntil = time.Now().Add(t.db.rest)
	}
	t.conn.Close()
}

// A statement is an sql.Stmt or an unprepared query.
type statement interface {
	ExecContext(ctx context.Context, args ...any) (sql.Result, error)
	QueryContext(ctx context.Context, args ...any) (*sql.Rows, error)
}

type unprepared struct {
	tx   *sql.Tx
	text string
}

func (s unprepared) ExecContext(ctx context.Context, args ...any) (sql.Result, error) {
	return s.tx.ExecContext(ctx, s.text, args...)
}

func (s unprepared) QueryContext(ctx context.Context, args ...any) (*sql.Rows, error) {
	return s.tx.QueryContext(ctx, s.text, args...)
}

func (t *tx) statement(query string) (statement, error) {
	if t.failed != nil {
		return nil, t.failed
	}
	if !t.db.prepares {
		return unprepared{t.sql, t.db.bind(query)}, nil
	}
	if s := t.stmts[query]; s != nil {
		return s, nil
	}
	s, err := t.sql.PrepareContext(t.ctx, t.db.bind(query))
	if err != nil {
		return nil, t.note(err)
	}
	t.stmts[query] = s
	return s, nil
}

// note keeps the first error of the database and returns it with advice. After it, the transaction
// must not be committed.
func (t *tx) note(err error) error {
	if err == nil {
		return nil
	}
	if t.failed == nil {
		t.failed = t.db.fail(t.ctx, "changing the database", err)
	}
	return t.failed
}

func (t *tx) exec(query string, args ...any) (affected int64, err error) {
	s, err := t.statement(query)
	if err != nil {
		return 0, err
	}
	r, err := s.ExecContext(t.ctx, t.db.texts(args)...)
	if err != nil {
		return 0, t.note(err)
	}
	return r.RowsAffected()
}

// A row is like sql.Row. It notes errors.
type row struct {
	t    *tx
	rows *sql.Rows
	err  error
}

func (t *tx) query(query string, args ...any) (*sql.Rows, error) {
	s, err := t.statement(query)
	if err != nil {
		return nil, err
	}
	rows, err := s.QueryContext(t.ctx, t.db.texts(args)...)
	return rows, t.note(err)
}

// replanned is like query but plans for the current size of the tables.
func (t *tx) replanned(query string, args ...any) (*sql.Rows, error) {
	return t.query(query, append(slices.Clip(t.db.replan), args...)...)
}

func (t *tx) row(query string, args ...any) row {
	rows, err := t.query(query, args...)
	return row{t, rows, err}
}

// Scan returns sql.ErrNoRows if there is no row.
func (r row) Scan(into ...any) error {
	if r.err != nil {
		return r.err
	}
	defer r.rows.Close()
	if !r.rows.Next() {
		if err := r.rows.Err(); err != nil {
			return r.t.note(err)
		}
		return sql.ErrNoRows
	}
	return r.t.note(r.rows.Scan(into...))
}

// found returns ErrNotFound if a statement has affected no row.
func found(affected int64, err error) error {
	if err == nil && affected == 0 {
		return keystore.ErrNotFound
	}
	return err
}

func (t *tx) Now() time.Time { return t.now }

func (t *tx) Key(id string) (*keystore.Key, error) {
	rows, err := t.query(byIDQuery, id)
	keys, err := scanKeys(rows, err, nil)
	if err != nil {
		return nil, t.note(err)
	}
	return one(keys, nil)
}

func (t *tx) Keys(ids []string) ([]keystore.Key, error) {
	array, err := t.db.array(ids)
	if err != nil {
		return nil, err
	}
	rows, err := t.replanned("SELECT "+keyColumns+" FROM keys k"+keyJoins+" WHERE k.id "+t.db.among+
		" ORDER BY k.id", array)
	keys, err := scanKeys(rows, err, nil)
	return keys, t.note(err)
}

func (t *tx) RevokeKeys(reasons map[string]string, by string) error {
	stored := make(map[string]string, len(reasons))
	for id, reason := range reasons {
		stored[t.db.text(id)] = t.db.text(reason)
	}
	object, err := fromJSON(stored)
	if err != nil {
		return err
	}
	_, err = t.exec("UPDATE keys SET revoked_at = ?, revoked_by = ?, revoke_reason = r.value, "+
		"version = version + 1 FROM "+t.db.pairs+
		" r WHERE keys.revoked_at IS NULL AND keys.id = r.key",
		append(slices.Clip(t.db.replan), t.now.UnixMicro(), by, object)...)
	return err
}

func (t *tx) SetOwner(ids []string, owner string) error { return t.setAll(ids, "owner", owner) }

func (t *tx) InactivateKeys(ids []string) error { return t.setAll(ids, "active", 0) }

// setAll sets a column of keys that are not revoked.
func (t *tx) setAll(ids []string, column string, value any) error {
	array, err := t.db.array(ids)
	if err != nil {
		return err
	}
	_, err = t.exec("UPDATE keys SET "+column+" = ?, version = version + 1 WHERE revoked_at IS "+
		"NULL AND id "+t.db.among, append(slices.Clip(t.db.replan), value, array)...)
	return err
}

// UpdateKey changes the secrets before the key, so that the last entry of each secret in the change
// log is computed from the new row of the key.
func (t *tx) UpdateKey(k *keystore.Key) error {
	old, err := t.Key(k.ID)
	if err != nil {
		return err
	}
	present := make(map[keystore.Digest]keystore.Secret, len(old.Secrets))
	for _, s := range old.Secrets {
		present[s.Digest] = s
	}
	spent, err := t.db.spent(t.replanned, k)
	if err != nil {
		return t.note(err)
	}
	var fresh, deriving [][]any
	for _, s := range k.Secrets {
		if _, ok := present[s.Digest]; ok {
			delete(spent, s.Digest)
		} else {
			fresh = append(fresh, secretValues(k, s, nil))
			if s.Deriving != (keystore.DerivingKey{}) {
				deriving = append(deriving, derivingValues(s.Digest, s.Deriving))
			}
		}
	}
	if !spend(spent, k.Secrets) {
		return keystore.ErrSpent
	}
	values, err := keyValues(k)
	if err != nil {
		return err
	}
	if err := t.insertRows("deriving_keys", derivingColumnNames, deriving); err != nil {
		return err
	}
	if err := t.insertSecrets(fresh); err != nil {
		return err
	}
	dropped := present
	for _, s := range k.Secrets {
		was, ok := present[s.Digest]
		delete(dropped, s.Digest)
		if ok && !was.ExpiresAt.Equal(s.ExpiresAt) {
			if _, err := t.exec("UPDATE secrets SET ends_at = ? WHERE digest = ?",
				fromTime(s.ExpiresAt), s.Digest[:]); err != nil {
				return err
			}
		}
	}
	for digest := range dropped {
		if _, err := t.exec("UPDATE secrets SET dropped = 1 WHERE digest = ?",
			digest[:]); err != nil {
			return err
		}
	}
	if err := t.updateLimits(old, k); err != nil {
		return err
	}
	return found(t.exec(updateKey, values...))
}

func (t *tx) updateLimits(old, k *keystore.Key) error {
	if k.KeyLimits == old.KeyLimits {
		return nil
	}
	if _, err := t.exec("DELETE FROM key_limits WHERE key_id = ?", k.ID); err != nil {
		return err
	}
	if k.KeyLimits == (keystore.KeyLimits{}) {
		return nil
	}
	values, err := limitValues(k)
	if err != nil {
		return err
	}
	return t.insertRows("key_limits", limitColumnNames, [][]any{values})
}

// DeleteKey relies on a trigger to drop the secrets.
func (t *tx) DeleteKey(id string) error {
	return found(t.exec("DELETE FROM keys WHERE id = ?", id))
}

func (t *tx) Remembered(scope, key string, since time.Time) (value string, err error) {
	err = t.row("SELECT made FROM remembered WHERE caller = ? AND key = ? AND at >= ?", scope, key,
		since.UnixMicro()).Scan(&value)
	if errors.Is(err, sql.ErrNoRows) {
		return "", nil
	}
	return value, err
}

// maxForgottenValues is how many old values one call of Remember deletes.
const maxForgottenValues = 100

func (t *tx) Remember(scope, key, value string, since time.Time) error {
	if _, err := t.exec("DELETE FROM remembered WHERE (caller, key) IN (SELECT caller, key FROM "+
		"remembered WHERE at < ? ORDER BY at LIMIT ?)", since.UnixMicro(),
		maxForgottenValues); err != nil {
		return err
	}
	_, err := t.exec(`INSERT INTO remembered (caller, key, made, at) VALUES (?, ?, ?, ?)
		ON CONFLICT (caller, key) DO UPDATE SET made = excluded.made, at = excluded.at`,
		scope, key, value, t.now.UnixMicro())
	return err
}
