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
	conn *sql.Conn // that sql runs on
	sql  *sql.Tx
	now  time.Time
	// of a database that does not keep them itself: an import runs the same few thousands of times
	stmts  map[string]*sql.Stmt
	many   bool  // rows were added as many
	failed error // of the database: nothing may be committed any more
	began  time.Time

	policyChanged bool // by this transaction
}

// close rolls back what has not been committed.
func (t *tx) close() {
	for _, s := range t.stmts {
		s.Close()
	}
	// after a commit this does nothing, and the error that counts is the one before
	_ = t.sql.Rollback()
	if t.many {
		// a connection that is broken is given up as it is
		_, _ = t.conn.ExecContext(context.WithoutCancel(t.ctx), t.db.manyEnds)
	}
	if t.db.rest > 0 && time.Since(t.began) > t.db.rest {
		t.db.free = time.Now().Add(t.db.rest)
	}
	t.conn.Close()
}

// A statement is an sql.Stmt, or just its text.
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

// note keeps an error of the database, which ends the transaction, and returns it with what to do
// about it.
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

// A row is like sql.Row, with the errors noted.
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

// anew is query, planned for the current tables.
func (t *tx) anew(query string, args ...any) (*sql.Rows, error) {
	return t.query(query, append(slices.Clip(t.db.anew), args...)...)
}

func (t *tx) row(query string, args ...any) row {
	rows, err := t.query(query, args...)
	return row{t, rows, err}
}

// Scan returns sql.ErrNoRows when there is none.
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

// found turns "no such row" into ErrNotFound.
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
	rows, err := t.anew("SELECT "+keyColumns+" FROM keys k"+keyJoins+" WHERE k.id "+t.db.among+
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
		append(slices.Clip(t.db.anew), t.now.UnixMicro(), by, object)...)
	return err
}

// UpdateKey changes the secrets first, so that what the change log says last of each was judged by
// the key's new row.
func (t *tx) UpdateKey(k *keystore.Key) error {
	old, err := t.Key(k.ID)
	if err != nil {
		return err
	}
	present := make(map[keystore.Digest]keystore.Secret, len(old.Secrets))
	for _, s := range old.Secrets {
		present[s.Digest] = s
	}
	spent, err := t.db.spent(t.anew, k)
	if err != nil {
		return t.note(err)
	}
	var fresh [][]any
	for _, s := range k.Secrets {
		if _, ok := present[s.Digest]; ok {
			delete(spent, s.Digest)
		} else {
			fresh = append(fresh, secretValues(k, s, nil))
		}
	}
	if !spend(spent, k.Secrets) {
		return keystore.ErrSpent
	}
	values, err := keyValues(k)
	if err != nil {
		return err
	}
	if err := t.insertSecrets(fresh); err != nil {
		return err
	}
	gone := present
	for _, s := range k.Secrets {
		was, ok := present[s.Digest]
		delete(gone, s.Digest)
		if ok && !was.ExpiresAt.Equal(s.ExpiresAt) {
			if _, err := t.exec("UPDATE secrets SET ends_at = ? WHERE digest = ?",
				fromTime(s.ExpiresAt), s.Digest[:]); err != nil {
				return err
			}
		}
	}
	for digest := range gone {
		if _, err := t.exec("UPDATE secrets SET dropped = 1 WHERE digest = ?",
			digest[:]); err != nil {
			return err
		}
	}
	return found(t.exec(updateKey, values...))
}

// DeleteKey leaves it to a trigger to drop the secrets.
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

func (t *tx) Remember(scope, key, value string, since time.Time) error {
	if _, err := t.exec("DELETE FROM remembered WHERE at < ?", since.UnixMicro()); err != nil {
		return err
	}
	_, err := t.exec(`INSERT INTO remembered (caller, key, made, at) VALUES (?, ?, ?, ?)
		ON CONFLICT (caller, key) DO UPDATE SET made = excluded.made, at = excluded.at`,
		scope, key, value, t.now.UnixMicro())
	return err
}
