package sqldb

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// lookedThrough is how many keys one page may look at for what no index finds: of each part for a
// text, of all that fit for an order.
const lookedThrough = 10_000

// Keys implements [keystore.Database].
func (d *DB) Keys(
	ctx context.Context, f keystore.KeyFilter, cursor string, limit int,
) ([]keystore.Key, string, error) {
	o, err := orderOf(f.Sort)
	if err != nil {
		return nil, "", err
	}
	from := every
	if cursor != "" {
		if from, err = o.after(cursor); err != nil {
			return nil, "", err
		}
	}
	found, end, err := d.page(ctx, f, &o, from, limit+1)
	if err != nil {
		return nil, "", d.fail(ctx, "listing keys", err)
	}
	query := "SELECT " + keyColumns + " FROM (" + found.sql + o.by("1", "2") +
		" LIMIT ?) p JOIN keys k ON k.id = p.id" + keyJoins + o.by("p.place", "k.id")
	rows, err := d.read(ctx)(query, append(found.args, limit+1)...)
	keys, more, err := scanKeysUpTo(keystore.PageBytes, rows, err, nil)
	if err != nil {
		return nil, "", d.fail(ctx, "listing keys", err)
	}
	if len(keys) <= limit && !more {
		return keys, end, nil
	}
	keys = keys[:min(len(keys), limit)]
	return keys, o.cursor(&keys[len(keys)-1]), nil
}

// looksThrough reports whether a filter has conditions that no index answers.
func looksThrough(f keystore.KeyFilter) bool { return f.Text != "" || len(f.Metadata) > 0 }

// page is a query for places and ids. Where not all keys may be looked at, end is the cursor of the
// last that is.
func (d *DB) page(
	ctx context.Context, f keystore.KeyFilter, o *order, from clause, limit int,
) (found clause, end string, err error) {
	parts, where, few, err := d.parts(ctx, f)
	if err != nil {
		return clause{}, "", err
	}
	where = where.and(d.conditions(f))
	looksThrough := looksThrough(f) && !few
	if !o.indexed {
		found, err = d.sorted(ctx, o, parts, where, from, looksThrough)
		return found, "", err
	}
	where = where.and(from)
	if looksThrough {
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

// horizon is the cursor of the last key up to which every part may be looked at; empty: there are
// no more.
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
func (d *DB) sorted(
	ctx context.Context, o *order, parts []clause, where, from clause, looksThrough bool,
) (clause, error) {
	tooMany := invalid("sort",
		fmt.Sprintf("is for %d keys at most, and more fit: choose a namespace, an owner or a "+
			"status, or sort by created_at", d.lookedThrough))
	if looksThrough {
		if end, err := d.horizon(ctx, &byCreation, parts, every); err != nil {
			return clause{}, err
		} else if end != "" {
			return clause{}, tooMany
		}
	}
	fit := byCreation.union(parts, where, " LIMIT ?", d.lookedThrough+1)
	n, err := list(d.read(ctx), func(scan func(...any) error) (n int, err error) {
		return n, scan(&n)
	}, "SELECT count(*) FROM ("+fit.sql+") AS fit", fit.args...)
	if err != nil {
		return clause{}, err
	}
	if n[0] > d.lookedThrough {
		return clause{}, tooMany
	}
	return clause{
		"SELECT " + o.place + " AS place, k.id FROM (" + fit.sql +
			") AS fit JOIN keys k ON k.id = fit.id LEFT JOIN last_uses u ON u.key_id = k.id WHERE " + from.sql,
		slices.Concat(fit.args, from.args),
	}, nil
}

// conditions are those that no way leads to.
func (d *DB) conditions(f keystore.KeyFilter) clause {
	where := clause{sql: d.current + " AND k.personal = 0"}
	if f.Status == keystore.StatusActive {
		where = where.and(ofStatus(f))
	}
	for _, name := range slices.Sorted(maps.Keys(f.Metadata)) {
		where = where.and(clause{d.hasMetadata, []any{name, f.Metadata[name]}})
	}
	if f.Text != "" {
		in := func(expression string) string { return fmt.Sprintf(d.contains, expression) }
		where = where.and(clause{"(" + in("k.name") + " OR " + in("k.id") + " OR " +
			in("k.prefix || '_' || substr(k.id, 1, 8) || '…'") + ")",
			[]any{f.Text, f.Text, f.Text}})
	}
	return where
}

func ofStatus(f keystore.KeyFilter) clause {
	now := f.Now.UnixMicro()
	switch f.Status {
	case keystore.StatusRevoked:
		return clause{sql: "k.revoked_at IS NOT NULL"}
	case keystore.StatusExpired:
		return clause{"k.revoked_at IS NULL AND k.expires_at <= ?", []any{now}}
	case keystore.StatusInactive:
		return clause{"k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > ?) AND " +
			"k.active = 0", []any{now}}
	case keystore.StatusActive:
		return clause{"k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > ?) AND " +
			"k.active = 1", []any{now}}
	}
	return clause{sql: "1 = 0"}
}

func badCursor() error {
	return invalid("cursor", "is not one that this server gave out: start without one")
}

func invalid(field, detail string) error {
	return &keystore.Error{Kind: keystore.KindInvalid, Code: "invalid_fields",
		Detail: "the " + field + " " + detail,
		Fields: []keystore.FieldError{{Field: field, Detail: detail}}}
}
