package sqldb

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"slices"
	"strconv"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

const (
	auditColumns = "seq, at, actor, source, action, object, namespaces, before, after, hash"
	readingAudit = "reading the audit log"
)

func scanAudit(scan func(...any) error) (a keystore.AuditRow, err error) {
	var namespaces string
	if err := scan(&a.Seq, timeTo{&a.At}, &a.Actor, &a.From, &a.Action, &a.Object, &namespaces,
		&a.Before, &a.After, digestTo{&a.Hash}); err != nil {
		return a, err
	}
	return a, json.Unmarshal([]byte(namespaces), &a.Namespaces)
}

func (t *tx) LastAudit() (*keystore.AuditRow, error) {
	rows, err := list(t.query, scanAudit,
		"SELECT "+auditColumns+" FROM audit ORDER BY seq DESC LIMIT 1")
	if err != nil || len(rows) == 0 {
		return nil, t.note(err)
	}
	return &rows[0], nil
}

// Audits implements [keystore.Database].
func (d *DB) Audits(
	ctx context.Context, f keystore.AuditFilter, cursor string, limit int,
) ([]keystore.AuditRow, string, error) {
	var within seqBounds
	if cursor != "" {
		before, err := strconv.ParseInt(cursor, 10, 64)
		if err != nil {
			return nil, "", badCursor()
		}
		within = append(within, clause{"<", []any{before}})
	}
	parts, err := d.auditParts(ctx, f, within)
	if err != nil {
		return nil, "", d.fail(ctx, readingAudit, err)
	}
	for i, p := range parts {
		parts[i] = clause{"SELECT * FROM (" + p.sql + " ORDER BY 1 DESC LIMIT ?) AS part",
			append(p.args, limit+1)}
	}
	page := joined(" UNION ", parts)
	left := int64(keystore.PageBytes)
	rows, err := list(d.read(ctx), func(scan func(...any) error) (a keystore.AuditRow, err error) {
		if left <= 0 {
			return a, errEnough
		}
		a, err = scanAudit(scan)
		left -= a.Size()
		return a, err
	},
		"SELECT "+auditColumns+" FROM audit WHERE seq IN (SELECT page.id FROM ("+page.sql+
			" ORDER BY 1 DESC LIMIT ?) AS page) ORDER BY seq DESC",
		append(page.args, limit+1)...)
	if err != nil && !errors.Is(err, errEnough) {
		return nil, "", d.fail(ctx, readingAudit, err)
	}
	if len(rows) <= limit && err == nil {
		return rows, "", nil
	}
	rows = rows[:min(len(rows), limit)]
	return rows, strconv.FormatInt(rows[len(rows)-1].Seq, 10), nil
}

// seqBounds limit the rows to examine. Each bound is a comparison operator with a Seq.
type seqBounds []clause

func (s seqBounds) of(table string) clause {
	all := always
	for _, bound := range s {
		all = all.and(clause{table + ".seq " + bound.sql + " ?", bound.args})
	}
	return all
}

// auditParts returns queries for the Seqs of the matching rows, by the most selective access path.
func (d *DB) auditParts(
	ctx context.Context, f keystore.AuditFilter, within seqBounds,
) ([]clause, error) {
	where := clause{sql: d.current}
	if f.Namespaces != nil {
		array, err := d.array(f.Namespaces)
		if err != nil {
			return nil, err
		}
		where = where.and(clause{d.touchesOnly, []any{array}})
	}
	if !f.From.IsZero() || !f.To.IsZero() {
		during := always
		if !f.From.IsZero() {
			during = during.and(clause{"a.at >= ?", []any{f.From.UnixMicro()}})
		}
		if !f.To.IsZero() {
			during = during.and(clause{"a.at < ?", []any{f.To.UnixMicro()}})
		}
		limit := math.MaxInt32
		if f.To.IsZero() { // the page is among the newest rows
			limit = d.maxScan
		}
		bounds, err := d.boundsOf(ctx, during, limit)
		if err != nil {
			return nil, err
		}
		where, within = where.and(during), append(within, bounds...)
	}
	paths, err := d.auditPaths(f, within)
	if err != nil {
		return nil, err
	}
	picked, rest, _, err := d.choose(ctx, paths, false)
	if err != nil {
		return nil, err
	}
	var parts []clause
	switch {
	case picked < 0:
		parts = []clause{within.of("a").within("SELECT a.seq AS id FROM audit a WHERE ", "")}
	case len(paths[picked].ordered) == 0:
		parts = []clause{d.joinIDs(paths[picked].ids,
			"audit a WHERE a.seq = ids.id").within("SELECT a.seq AS id FROM ", "")}
	default:
		parts = paths[picked].ordered
	}
	for i := range parts {
		parts[i] = parts[i].and(rest).and(where)
	}
	return parts, nil
}

// auditPaths returns the access paths of a filter, those that are likely to be selective first.
func (d *DB) auditPaths(f keystore.AuditFilter, within seqBounds) (paths []accessPath, err error) {
	column := func(name, value string) {
		if value != "" {
			query := clause{"SELECT a.seq AS id FROM audit a WHERE " + name + " = ?",
				[]any{value}}.and(within.of("a"))
			paths = append(paths, accessPath{ids: query, ordered: []clause{query},
				filter: clause{name + " || '' = ?", []any{value}}})
		}
	}
	column("a.object", f.Object)
	column("a.actor", f.Actor)
	// The path of Namespaces needs no filter: every part has touchesOnly, which is stricter.
	namespaces, filter := f.Namespaces, always
	if f.Namespace != "" {
		filter = clause{"a.seq = (SELECT t.seq FROM touched t WHERE t.namespace = ? AND t.seq = " +
			"a.seq)", []any{f.Namespace}}
		if namespaces == nil || slices.Contains(namespaces, f.Namespace) {
			namespaces = []string{f.Namespace}
		} else {
			namespaces = []string{}
		}
	}
	if namespaces != nil {
		array, err := d.array(namespaces)
		if err != nil {
			return nil, err
		}
		ids := clause{"SELECT t.seq AS id FROM touched t WHERE t.namespace " + d.among,
			[]any{array}}
		p := accessPath{ids: ids.and(within.of("t")), filter: filter}
		if len(namespaces) <= maxUnion {
			for _, ns := range namespaces {
				part := clause{"SELECT t.seq AS id FROM touched t CROSS JOIN audit a WHERE a.seq " +
					"= t.seq AND t.namespace = ?", []any{ns}}
				p.ordered = append(p.ordered, part.and(within.of("t")))
			}
		}
		paths = append(paths, p)
	}
	column("a.action", f.Action)
	return paths, nil
}

// boundsOf returns the bounds of the rows of a period. Rows of other times may be between them if
// the clock was set back. It returns no bounds if there are more than limit rows.
func (d *DB) boundsOf(ctx context.Context, during clause, limit int) (seqBounds, error) {
	type found struct{ rows, first, last int64 }
	// The count keeps PostgreSQL from finding the first row by reading all rows before it.
	of, err := list(d.read(ctx), func(scan func(...any) error) (of found, err error) {
		return of, scan(&of.rows, &of.first, &of.last)
	},
		"SELECT count(*), coalesce(min(seq), 0), coalesce(max(seq), 0) FROM (SELECT a.seq FROM "+
			"audit a WHERE "+during.sql+" AND "+d.current+" LIMIT ?) AS during",
		append(during.args, int64(limit)+1)...)
	if err != nil || of[0].rows > int64(limit) {
		return nil, err
	}
	return seqBounds{{">=", []any{of[0].first}}, {"<=", []any{of[0].last}}}, nil
}

// chainBytes is where a page of the chain ends: the bytes of Before and After in the rows after the
// first one. The first does not count, because some callers ask for it only to check that it has
// not changed.
const chainBytes = 256 << 10

// AuditChain implements [keystore.Database]. It reads the sizes first, so that it reads no texts
// beyond the page.
func (d *DB) AuditChain(
	ctx context.Context, after int64, limit int,
) ([]keystore.AuditRow, error) {
	const size = "octet_length(before) + octet_length(after)"
	rows, err := list(d.read(ctx), scanAudit,
		"SELECT "+auditColumns+" FROM audit WHERE seq > ? AND "+d.current+`
		AND seq <= (SELECT max(seq) FROM (
			SELECT seq, sum(size) OVER w - first_value(size) OVER w - size AS earlier
			FROM (SELECT seq, `+size+` AS size FROM audit WHERE seq > ?
				ORDER BY seq LIMIT ?) AS next WINDOW w AS (ORDER BY seq)
		) AS page WHERE earlier < ?) ORDER BY seq`, after, after, limit, chainBytes)
	return rows, d.fail(ctx, readingAudit, err)
}
