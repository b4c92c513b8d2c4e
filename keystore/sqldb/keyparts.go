package sqldb

import (
	"context"
	"slices"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// maxUnion is the maximum number of namespaces, or of owners, in a list that merges ordered index
// scans, one for each.
const maxUnion = 50

// parts returns the sources of a list of keys, by the most selective access path. Each part is a
// FROM with a condition. rest is the condition of the other paths. bounded reports whether the
// parts together have at most maxScan keys.
func (d *DB) parts(
	ctx context.Context, f keystore.KeyFilter,
) (parts []clause, rest clause, bounded bool, err error) {
	paths, err := d.keyPaths(ctx, f)
	if err != nil {
		return nil, clause{}, false, err
	}
	picked, rest, bounded, err := d.choose(ctx, paths, scans(f))
	if err != nil {
		return nil, clause{}, false, err
	}
	if picked < 0 {
		return []clause{{sql: "keys k WHERE 1 = 1"}}, rest, false, nil
	}
	if len(paths[picked].ordered) == 0 {
		part := d.joinIDs(paths[picked].ids, "keys k WHERE k.id = ids.id")
		return []clause{part}, rest, bounded, nil
	}
	for _, c := range paths[picked].ordered {
		parts = append(parts, c.within("keys k WHERE ", ""))
	}
	if extra := paths[picked].extra; extra.sql != "" {
		parts = append(parts, d.joinIDs(extra, "keys k WHERE k.id = ids.id"))
	}
	return parts, rest, bounded, nil
}

// keyPaths returns the access paths of a filter, those that are likely to be selective first.
func (d *DB) keyPaths(ctx context.Context, f keystore.KeyFilter) (paths []accessPath, err error) {
	column := func(name, value string) {
		if value != "" {
			plain := clause{name + " = ?", []any{value}}
			paths = append(paths, accessPath{ids: idsOf(plain), ordered: []clause{plain},
				filter: clause{name + " || '' = ?", plain.args}})
		}
	}
	column("k.owner", f.Owner)
	if f.Owners != nil {
		p, err := d.amongPath("k.owner", f.Owners)
		if err != nil {
			return nil, err
		}
		paths = append(paths, p)
	}
	if f.Namespaces != nil || f.Visible != nil {
		p, err := d.scopePath(f)
		if err != nil {
			return nil, err
		}
		paths = append(paths, p)
	}
	if f.In != "" {
		p, err := d.grantPath(ctx, f.In)
		if err != nil {
			return nil, err
		}
		paths = append(paths, p)
	}
	column("k.created_by", f.CreatedBy)
	if f.Status != "" && f.Status != keystore.StatusActive {
		c := ofStatus(f)
		paths = append(paths, accessPath{ids: idsOf(c.and(clause{sql: "k.personal = 0"})),
			ordered: []clause{c}, filter: c})
	}
	if f.Expiring > 0 {
		c := clause{"k.revoked_at IS NULL AND k.expires_at > ? AND k.expires_at <= ?",
			[]any{f.Now.UnixMicro(), f.Now.Add(f.Expiring).UnixMicro()}}
		paths = append(paths, accessPath{ids: idsOf(c.and(clause{sql: "k.personal = 0"})),
			ordered: []clause{c}, filter: c})
	}
	if f.Role != "" {
		ids := clause{"SELECT h.key_id AS id FROM held h WHERE h.role = ?", []any{f.Role}}
		if f.Namespaces != nil {
			array, err := d.array(f.Namespaces)
			if err != nil {
				return nil, err
			}
			ids = ids.and(clause{"h.home " + d.among, []any{array}})
		}
		// Not EXISTS: PostgreSQL might read all keys with the role.
		paths = append(paths, accessPath{ids: ids,
			filter: clause{"k.id = (SELECT h.key_id FROM held h WHERE h.key_id = k.id AND h.role " +
				"= ? LIMIT 1)", []any{f.Role}}})
	}
	if f.Plan != "" {
		// SQLite and PostgreSQL use the index only if the query repeats its condition.
		ids := clause{"SELECT l.key_id AS id FROM key_limits l WHERE l.plan = ? AND l.plan <> ''",
			[]any{f.Plan}}
		if f.Namespaces != nil {
			array, err := d.array(f.Namespaces)
			if err != nil {
				return nil, err
			}
			ids = ids.and(clause{"l.namespace " + d.among, []any{array}})
		}
		paths = append(paths, accessPath{ids: ids,
			filter: clause{"k.id = (SELECT l.key_id FROM key_limits l WHERE l.key_id = k.id AND " +
				"l.plan = ? LIMIT 1)", []any{f.Plan}}})
	}
	return paths, nil
}

func idsOf(condition clause) clause {
	return condition.within("SELECT k.id FROM keys k WHERE ", "")
}

// scopePath returns the access path for the Namespaces, Visible and OrOwners of a filter.
func (d *DB) scopePath(f keystore.KeyFilter) (p accessPath, err error) {
	homes := f.Namespaces
	switch {
	case homes == nil:
		homes = f.Visible
	case f.Visible != nil:
		homes = slices.DeleteFunc(slices.Clone(homes),
			func(ns string) bool { return !slices.Contains(f.Visible, ns) })
	}
	if p, err = d.amongPath("k.namespace", homes); err != nil {
		return p, err
	}
	if f.Visible != nil && len(f.OrOwners) > 0 {
		where := always
		if f.Namespaces != nil {
			array, err := d.array(f.Namespaces)
			if err != nil {
				return p, err
			}
			where = clause{"k.namespace || '' " + d.among, []any{array}}
		}
		owned, err := d.amongPath("k.owner", f.OrOwners)
		if err != nil {
			return p, err
		}
		p.ids = p.ids.join(" UNION ALL ", owned.ids.and(where))
		p.filter = p.filter.join(" OR ", owned.filter.and(where))
		if len(homes) > maxUnion || len(f.OrOwners) > maxUnion {
			p.ordered = nil
		} else {
			for _, c := range owned.ordered {
				p.ordered = append(p.ordered, c.and(where))
			}
		}
	}
	p.filter = p.filter.within("(", ")")
	return p, nil
}

// amongPath returns the access path to the keys with one of these values in an indexed column.
func (d *DB) amongPath(column string, values []string) (p accessPath, err error) {
	values = slices.Compact(slices.Sorted(slices.Values(values)))
	array, err := d.array(values)
	if err != nil {
		return p, err
	}
	among := clause{d.among, []any{array}}
	p.ids = idsOf(among.within(column+" ", ""))
	p.filter = among.within(column+" || '' ", "")
	if len(values) <= maxUnion {
		for _, value := range values {
			p.ordered = append(p.ordered, clause{column + " = ?", []any{value}})
		}
	}
	return p, nil
}

// grantPath returns the access path to the keys whose home is a namespace or that have a grant in
// it. If many have a grant in it, the path scans all keys in the order of pages.
func (d *DB) grantPath(ctx context.Context, namespace string) (p accessPath, err error) {
	home := clause{"k.namespace = ?", []any{namespace}}
	// The table granted has no rows for the home namespaces of keys.
	granted := clause{"SELECT g.key_id AS id FROM granted g WHERE g.namespace = ?",
		[]any{namespace}}
	has := clause{"k.id = (SELECT g.key_id FROM granted g " +
		"WHERE g.key_id = k.id AND g.namespace = ?)", []any{namespace}}
	p = accessPath{
		ids: idsOf(home).join(" UNION ALL ", granted), ordered: []clause{home},
		filter: clause{"k.namespace || '' = ?", home.args}.join(" OR ", has).within("(", ")"),
	}
	found, err := d.mostSelective(ctx, []accessPath{{ids: granted}})
	if found >= 0 {
		p.extra = granted
	} else {
		p.ordered = append(p.ordered, has)
	}
	return p, err
}

// array encodes a list of texts for the dialect's conditions.
func (d *DB) array(texts []string) (string, error) {
	stored := make([]string, len(texts))
	for i, s := range texts {
		stored[i] = d.text(s)
	}
	return fromJSON(stored)
}
