package sqldb

import (
	"context"
	"database/sql"
	"encoding/json"
	"strconv"
	"strings"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

const (
	auditColumns = "seq, at, actor, source, action, object, namespaces, before, after, hash"
	readingAudit = "reading the audit log"
)

func scanAudit(scan func(...any) error) (a keystore.AuditRow, err error) {
	var namespaces string
	if err := scan(&a.Seq, timeTo{&a.At}, &a.Actor, &a.From, &a.Action, &a.Object, &namespaces, &a.Before, &a.After, digestTo{&a.Hash}); err != nil {
		return a, err
	}
	return a, json.Unmarshal([]byte(namespaces), &a.Namespaces)
}

func (t *tx) LastAudit() (*keystore.AuditRow, error) {
	rows, err := list(t.query, scanAudit, "SELECT "+auditColumns+" FROM audit ORDER BY seq DESC LIMIT 1")
	if err != nil || len(rows) == 0 {
		return nil, t.note(err)
	}
	return &rows[0], nil
}

// Audits implements [keystore.Database].
func (d *DB) Audits(ctx context.Context, f keystore.AuditFilter, cursor string, limit int) ([]keystore.AuditRow, string, error) {
	where, args := []string{d.current}, []any{}
	add := func(condition string, value any) {
		where, args = append(where, condition), append(args, value)
	}
	if cursor != "" {
		before, err := strconv.ParseInt(cursor, 10, 64)
		if err != nil {
			return nil, "", badCursor()
		}
		add("seq < ?", before)
	}
	if f.Namespaces != nil {
		array, err := d.array(f.Namespaces)
		if err != nil {
			return nil, "", err
		}
		add(d.touchesOnly, array)
	}
	for _, is := range []struct{ column, value string }{{"actor", f.Actor}, {"action", f.Action}, {"object", f.Object}} {
		if is.value != "" {
			add(is.column+" = ?", is.value)
		}
	}
	if !f.From.IsZero() {
		add("at >= ?", f.From.UnixMicro())
	}
	if !f.To.IsZero() {
		add("at < ?", f.To.UnixMicro())
	}
	read := func(query string, args ...any) (*sql.Rows, error) { return d.query(ctx, d.readers, query, args...) }
	rows, err := list(read, scanAudit, "SELECT "+auditColumns+" FROM audit WHERE "+strings.Join(where, " AND ")+" ORDER BY seq DESC LIMIT ?", append(args, limit+1)...)
	if err != nil {
		return nil, "", d.fail(ctx, readingAudit, err)
	}
	if len(rows) <= limit {
		return rows, "", nil
	}
	return rows[:limit], strconv.FormatInt(rows[limit-1].Seq, 10), nil
}

// AuditChain implements [keystore.Database].
func (d *DB) AuditChain(ctx context.Context, after int64, f func(*keystore.AuditRow) error) error {
	rows, err := d.query(ctx, d.readers, "SELECT "+auditColumns+" FROM audit WHERE seq > ? AND "+d.current+" ORDER BY seq", after)
	if err != nil {
		return d.fail(ctx, readingAudit, err)
	}
	defer rows.Close()
	for rows.Next() {
		row, err := scanAudit(rows.Scan)
		if err != nil {
			return d.fail(ctx, readingAudit, err)
		}
		if err := f(&row); err != nil {
			return err
		}
	}
	return d.fail(ctx, readingAudit, rows.Err())
}
