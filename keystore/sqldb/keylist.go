package sqldb

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// maxScan is the maximum number of keys that the database examines for one page if no index answers
// the filter or has the order.
const maxScan = 10_000

// Keys implements [keystore.Database].
func (d *DB) Keys(
	ctx context.Context, f keystore.KeyFilter, cursor string, limit int,
) ([]keystore.Key, string, error) {
	o, err := orderOf(f.Sort)
	if err != nil {
		return nil, "", err
	}
	from := always
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

// scans reports whether a filter has conditions that no index answers.
func scans(f keystore.KeyFilter) bool {
	return f.Text != "" || len(f.Metadata) > 0 || f.Unused > 0
}

// page returns a query for the sort values and ids of a page. If the page may not examine all keys,
// end is the cursor of the last key that it examines.
func (d *DB) page(
	ctx context.Context, f keystore.KeyFilter, o *order, from clause, limit int,
) (found clause, end string, err error) {
	parts, where, bounded, err := d.parts(ctx, f)
	if err != nil {
		return clause{}, "", err
	}
	where, owners, excludes, err := d.conditions(f, where)
	if err != nil {
		return clause{}, "", err
	}
	if !o.indexed {
		found, err = d.sorted(ctx, o, parts, where, from.and(owners), scans(f) && !bounded)
		return found, "", err
	}
	where = where.and(from).and(owners)
	if excludes && !bounded {
		if where, end, err = d.upToLastScanned(ctx, o, parts, from, where); err != nil {
			return clause{}, "", err
		}
	}
	return o.union(parts, where, " LIMIT ?", limit), end, nil
}

// upToLastScanned restricts a condition to the keys that a page may examine. end is the cursor of
// the last of them. If the page may examine all keys, the condition is unchanged and end is empty.
func (d *DB) upToLastScanned(
	ctx context.Context, o *order, parts []clause, from, where clause,
) (bounded clause, end string, err error) {
	end, err = d.lastScanned(ctx, o, parts, from)
	if err != nil || end == "" {
		return where, "", err
	}
	to, err := o.upTo(end)
	return where.and(to), end, err
}

// lastScanned returns the cursor of the last key that the page may examine. It is empty if the page
// may examine all keys.
func (d *DB) lastScanned(
	ctx context.Context, o *order, parts []clause, from clause,
) (string, error) {
	firsts := o.union(parts, from, " LIMIT 1 OFFSET ?", d.maxScan-1)
	last, err := list(d.read(ctx), func(scan func(...any) error) (k keystore.Key, err error) {
		return k, scan(timeTo{&k.CreatedAt}, &k.ID)
	}, firsts.sql+o.by("1", "2")+" LIMIT 1", firsts.args...)
	if err != nil || len(last) == 0 {
		return "", err
	}
	return o.cursor(&last[0]), nil
}

// sorted is page for an order that no index has. It sorts all matching keys, and fails if there are
// more than maxScan.
func (d *DB) sorted(
	ctx context.Context, o *order, parts []clause, where, from clause, scans bool,
) (clause, error) {
	tooMany := invalid("sort",
		fmt.Sprintf("supports at most %d matching keys: choose a namespace, an owner or a "+
			"status, or sort by created_at", d.maxScan))
	if scans {
		if end, err := d.lastScanned(ctx, &byCreation, parts, always); err != nil {
			return clause{}, err
		} else if end != "" {
			return clause{}, tooMany
		}
	}
	fit := byCreation.union(parts, where, " LIMIT ?", d.maxScan+1)
	n, err := d.count(ctx, fit)
	if err != nil {
		return clause{}, err
	}
	if n > d.maxScan {
		return clause{}, tooMany
	}
	return clause{
		"SELECT " + o.place + " AS place, k.id FROM (" + fit.sql +
			") AS fit JOIN keys k ON k.id = fit.id LEFT JOIN last_uses u ON u.key_id = k.id " +
			"WHERE " + from.sql,
		slices.Concat(fit.args, from.args),
	}, nil
}

// count returns the number of rows of a query.
func (d *DB) count(ctx context.Context, query clause) (int, error) {
	n, err := list(d.read(ctx), func(scan func(...any) error) (n int, err error) {
		return n, scan(&n)
	}, "SELECT count(*) FROM ("+query.sql+") AS fit", query.args...)
	if err != nil {
		return 0, err
	}
	return n[0], nil
}

// CountMatching implements [keystore.Database].
func (d *DB) CountMatching(
	ctx context.Context, f keystore.KeyFilter, limit int,
) (n int, ok bool, err error) {
	const operation = "counting the keys of a list"
	parts, where, bounded, err := d.parts(ctx, f)
	if err != nil {
		return 0, false, d.fail(ctx, operation, err)
	}
	if scans(f) && !bounded {
		return 0, false, nil
	}
	n, ok, err = d.countNewest(ctx, f, parts, where, bounded, limit)
	if err != nil {
		return 0, false, d.fail(ctx, operation, err)
	}
	return n, ok, nil
}

// countNewest counts the keys in all parts that match a filter. If the parts are not bounded and
// other conditions may exclude many of their keys, it examines the newest maxScan keys only. ok
// reports whether the older ones cannot change the result.
func (d *DB) countNewest(
	ctx context.Context, f keystore.KeyFilter, parts []clause, where clause, bounded bool, limit int,
) (n int, ok bool, err error) {
	where, owners, excludes, err := d.conditions(f, where)
	if err != nil {
		return 0, false, err
	}
	newest, end := byCreation, ""
	newest.down = true
	where = where.and(owners)
	if excludes && !bounded {
		if where, end, err = d.upToLastScanned(ctx, &newest, parts, always, where); err != nil {
			return 0, false, err
		}
	}
	n, err = d.count(ctx, newest.union(parts, where, " LIMIT ?", limit))
	return min(n, limit), end == "" || n >= limit, err // each part has its own limit
}

// conditions returns the conditions that remain after the picked access path: rest, and those of
// the filter for which there is no access path. owners is the condition for NotOwners. It is
// separate because keys that it excludes count towards the limit of a sorted list. excludes reports
// whether all of them together may exclude many keys. A query for a page or a total must then limit
// how many keys it examines.
func (d *DB) conditions(
	f keystore.KeyFilter, rest clause,
) (where, owners clause, excludes bool, err error) {
	excludes = rest.sql != always.sql || scans(f) || len(f.NotOwners) > 0 ||
		f.Status == keystore.StatusActive
	where, owners = rest.and(clause{sql: d.current + " AND k.personal = 0"}), always
	if len(f.NotOwners) > 0 {
		array, err := d.array(f.NotOwners)
		if err != nil {
			return where, owners, excludes, err
		}
		owners = clause{"NOT (k.owner || '' " + d.among + ")", []any{array}}
	}
	if f.Status == keystore.StatusActive {
		where = where.and(ofStatus(f))
	}
	for _, name := range slices.Sorted(maps.Keys(f.Metadata)) {
		where = where.and(clause{d.hasMetadata, []any{name, f.Metadata[name]}})
	}
	if f.Unused > 0 {
		since := f.Now.Add(-f.Unused).UnixMicro()
		where = where.and(clause{"k.created_at <= ? AND k.revoked_at IS NULL AND " +
			"(k.expires_at IS NULL OR k.expires_at > ?) AND " +
			"coalesce((SELECT l.used_at FROM last_uses l WHERE l.key_id = k.id), 0) <= ?",
			[]any{since, f.Now.UnixMicro(), since}})
	}
	if f.Text != "" {
		in := func(expression string) string { return fmt.Sprintf(d.contains, expression) }
		where = where.and(clause{"(" + in("k.name") + " OR " + in("k.id") + " OR " +
			in("k.prefix || '_' || substr(k.id, 1, 8) || '…'") + ")",
			[]any{f.Text, f.Text, f.Text}})
	}
	return where, owners, excludes, nil
}

// ofStatus returns the condition on the status in a filter, at its Now.
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
	return invalid("cursor", "must be one that this server returned: start without a cursor")
}

func invalid(field, detail string) error {
	return &keystore.Error{Kind: keystore.KindInvalid, Code: "invalid_fields",
		Detail: "the " + field + " " + detail,
		Fields: []keystore.FieldError{{Field: field, Detail: detail}}}
}
