package sqldb

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// lookedThrough is how many keys one page may look at for what no index finds: of each part for a text, of all that fit for an order.
const lookedThrough = 10_000

// maxUnion is how many namespaces are merged from as many ordered index scans; more are filtered out of one scan of all.
const maxUnion = 50

// A clause is a piece of a query, with the arguments for the places in it.
type clause struct {
	sql  string
	args []any
}

// everyKey is the condition that all fit.
var everyKey = clause{sql: "1 = 1"}

// and is the condition that both hold.
func (c clause) and(other clause) clause {
	return clause{c.sql + " AND " + other.sql, slices.Concat(c.args, other.args)}
}

// Keys implements [keystore.Database].
func (d *DB) Keys(ctx context.Context, f keystore.KeyFilter, cursor string, limit int) ([]keystore.Key, string, error) {
	o, err := orderOf(f.Sort)
	if err != nil {
		return nil, "", err
	}
	from := everyKey
	if cursor != "" {
		if from, err = o.after(cursor); err != nil {
			return nil, "", err
		}
	}
	parts, err := d.parts(f)
	if err != nil || len(parts) == 0 {
		return nil, "", err
	}
	var found clause // places and ids
	var end string
	if o.indexed {
		found, end, err = d.indexed(ctx, f, &o, parts, from, limit+1)
	} else {
		found, err = d.sorted(ctx, f, &o, parts, from)
	}
	if err != nil {
		return nil, "", d.fail(ctx, "listing keys", err)
	}
	query := "SELECT " + keyColumns + " FROM (" + found.sql + o.by("1", "2") + " LIMIT ?) p JOIN keys k ON k.id = p.id" + keyJoins + o.by("p.place", "k.id")
	rows, err := d.query(ctx, d.readers, query, append(found.args, limit+1)...)
	keys, err := scanKeys(rows, err, nil)
	if err != nil {
		return nil, "", d.fail(ctx, "listing keys", err)
	}
	if len(keys) <= limit {
		return keys, end, nil
	}
	return keys[:limit], o.cursor(&keys[limit-1]), nil
}

// indexed is for an order that an index has. With a text not all keys may be looked at: end is the cursor of the last that is, empty if there are no more.
func (d *DB) indexed(ctx context.Context, f keystore.KeyFilter, o *order, parts []clause, from clause, limit int) (found clause, end string, err error) {
	where := d.conditions(f).and(from)
	if f.Text != "" {
		if end, err = d.horizon(ctx, o, parts, from); err != nil {
			return clause{}, "", err
		}
		if end != "" {
			to, err := o.upTo(end)
			if err != nil {
				return clause{}, "", err
			}
			where = where.and(to)
		}
	}
	return o.union(parts, where, " LIMIT ?", limit), end, nil
}

// horizon is the cursor of the last key up to which every part may be looked at; empty: there are no more.
func (d *DB) horizon(ctx context.Context, o *order, parts []clause, from clause) (string, error) {
	firsts := o.union(parts, from, " LIMIT 1 OFFSET ?", d.lookedThrough-1)
	last, err := list(d.read(ctx), func(scan func(...any) error) (k keystore.Key, err error) {
		return k, scan(timeTo{&k.CreatedAt}, &k.ID)
	}, firsts.sql+o.by("1", "2")+" LIMIT 1", firsts.args...)
	if err != nil || len(last) == 0 {
		return "", err
	}
	return o.cursor(&last[0]), nil
}

// sorted is for an order that no index has: all keys that fit are sorted, which may not be many.
func (d *DB) sorted(ctx context.Context, f keystore.KeyFilter, o *order, parts []clause, from clause) (clause, error) {
	tooMany := invalid("sort", fmt.Sprintf("is for %d keys at most, and more fit: choose a namespace, an owner or a status, or sort by created_at", d.lookedThrough))
	if f.Text != "" {
		if end, err := d.horizon(ctx, &byCreation, parts, everyKey); err != nil {
			return clause{}, err
		} else if end != "" {
			return clause{}, tooMany
		}
	}
	fit := byCreation.union(parts, d.conditions(f), " LIMIT ?", d.lookedThrough+1)
	n, err := list(d.read(ctx), func(scan func(...any) error) (n int, err error) { return n, scan(&n) }, "SELECT count(*) FROM ("+fit.sql+") AS fit", fit.args...)
	if err != nil {
		return clause{}, err
	}
	if n[0] > d.lookedThrough {
		return clause{}, tooMany
	}
	return clause{
		"SELECT " + o.place + " AS place, k.id FROM (" + fit.sql + ") AS fit JOIN keys k ON k.id = fit.id LEFT JOIN last_uses u ON u.key_id = k.id WHERE " + from.sql,
		slices.Concat(fit.args, from.args),
	}, nil
}

// parts are by home namespaces, and by owner.
func (d *DB) parts(f keystore.KeyFilter) (parts []clause, err error) {
	if f.Namespaces == nil && f.Visible == nil {
		return []clause{everyKey}, nil
	}
	homes := f.Namespaces
	switch {
	case homes == nil:
		homes = f.Visible
	case f.Visible != nil:
		homes = slices.DeleteFunc(slices.Clone(homes), func(ns string) bool { return !slices.Contains(f.Visible, ns) })
	}
	homes = slices.Compact(slices.Sorted(slices.Values(homes)))
	if len(homes) <= maxUnion {
		for _, ns := range homes {
			parts = append(parts, clause{"k.namespace = ?", []any{ns}})
		}
	} else {
		array, err := d.array(homes)
		if err != nil {
			return nil, err
		}
		// The || keeps SQLite from sorting what it finds by namespace.
		parts = append(parts, clause{"k.namespace || '' " + d.among, []any{array}})
	}
	if f.Visible == nil || f.OrOwner == "" {
		return parts, nil
	}
	owned := clause{"k.owner = ?", []any{f.OrOwner}}
	if f.Namespaces != nil {
		array, err := d.array(f.Namespaces)
		if err != nil {
			return nil, err
		}
		owned = clause{owned.sql + " AND k.namespace || '' " + d.among, append(owned.args, array)}
	}
	return append(parts, owned), nil
}

// array is a list of texts for the dialect's conditions.
func (d *DB) array(texts []string) (string, error) {
	stored := make([]string, len(texts))
	for i, s := range texts {
		stored[i] = d.text(s)
	}
	return fromJSON(stored)
}

// conditions are all of a filter's but for the namespaces and who may see them.
func (d *DB) conditions(f keystore.KeyFilter) clause {
	where, args := []string{d.current, "k.personal = 0"}, []any{}
	add := func(condition string, values ...any) {
		where, args = append(where, condition), append(args, values...)
	}
	now := f.Now.UnixMicro()
	switch f.Status {
	case keystore.StatusRevoked:
		add("k.revoked_at IS NOT NULL")
	case keystore.StatusExpired:
		add("k.revoked_at IS NULL AND k.expires_at <= ?", now)
	case keystore.StatusInactive:
		add("k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > ?) AND k.active = 0", now)
	case keystore.StatusActive:
		add("k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > ?) AND k.active = 1", now)
	case "":
	default:
		add("1 = 0")
	}
	if f.Owner != "" {
		add("k.owner = ?", f.Owner)
	}
	if f.CreatedBy != "" {
		add("k.created_by = ?", f.CreatedBy)
	}
	if f.Role != "" {
		add("EXISTS (SELECT 1 FROM held h WHERE h.key_id = k.id AND h.role = ?)", f.Role)
	}
	if f.Text != "" {
		in := func(expression string) string { return fmt.Sprintf(d.contains, expression) }
		add("("+in("k.name")+" OR "+in("k.id")+" OR "+in("k.prefix || '_' || substr(k.id, 1, 8) || '…'")+")", f.Text, f.Text, f.Text)
	}
	return clause{strings.Join(where, " AND "), args}
}

func badCursor() error {
	return invalid("cursor", "is not one that this server gave out: start without one")
}

func invalid(field, detail string) error {
	return &keystore.Error{Kind: keystore.KindInvalid, Code: "invalid_fields", Detail: "the " + field + " " + detail,
		Fields: []keystore.FieldError{{Field: field, Detail: detail}}}
}
