package sqldb

import (
	"context"
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
	where := clause{sql: d.current}
	add := func(condition string, value any) { where = where.and(clause{condition, []any{value}}) }
	if cursor != "" {
		before, err := strconv.ParseInt(cursor, 10, 64)
		if err != nil {
			return nil, "", badCursor()
		}
		add("a.seq < ?", before)
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
			add("a."+is.column+" = ?", is.value)
		}
	}
	if !f.From.IsZero() {
		add("a.at >= ?", f.From.UnixMicro())
	}
	if !f.To.IsZero() {
		add("a.at < ?", f.To.UnixMicro())
	}
	parts := auditParts(f)
	if len(parts) == 0 {
		return nil, "", nil
	}
	pages, args := make([]string, len(parts)), []any(nil)
	for i, p := range parts {
		pages[i] = "SELECT seq FROM (SELECT a.seq FROM audit a" + p.sql + " AND " + where.sql + " ORDER BY a.seq DESC LIMIT ?) AS part"
		args = append(append(append(args, p.args...), where.args...), limit+1)
	}
	rows, err := list(d.read(ctx), scanAudit, "SELECT "+auditColumns+" FROM audit WHERE seq IN (SELECT seq FROM ("+strings.Join(pages, " UNION ")+" ORDER BY 1 DESC LIMIT ?) AS page) ORDER BY seq DESC",
		append(args, limit+1)...)
	if err != nil {
		return nil, "", d.fail(ctx, readingAudit, err)
	}
	if len(rows) <= limit {
		return rows, "", nil
	}
	return rows[:limit], strconv.FormatInt(rows[limit-1].Seq, 10), nil
}

// auditParts are of the log: those rows that touch the namespaces in question, when these are few and nothing else says better where to look.
func auditParts(f keystore.AuditFilter) (parts []clause) {
	namespaces := f.Namespaces
	if f.Namespace != "" {
		namespaces = []string{f.Namespace}
	}
	if namespaces == nil || f.Namespace == "" && (f.Object != "" || len(namespaces) > maxUnion) {
		return []clause{{sql: " WHERE 1 = 1"}}
	}
	for _, ns := range namespaces {
		parts = append(parts, clause{" JOIN touched t ON t.seq = a.seq WHERE t.namespace = ?", []any{ns}})
	}
	return parts
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
