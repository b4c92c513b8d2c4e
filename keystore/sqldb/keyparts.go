package sqldb

import (
	"context"
	"slices"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// maxUnion is how many namespaces are merged from as many ordered index scans.
const maxUnion = 50

// parts are where a list looks, each a FROM with a condition, by the way that leads to the fewest
// keys. rest is the condition that the other ways leave; few says that the parts together have no
// more keys than may be looked through.
func (d *DB) parts(
	ctx context.Context, f keystore.KeyFilter,
) (parts []clause, rest clause, few bool, err error) {
	ways, err := d.ways(ctx, f)
	if err != nil {
		return nil, clause{}, false, err
	}
	taken, rest, few, err := d.choose(ctx, ways, looksThrough(f))
	if err != nil {
		return nil, clause{}, false, err
	}
	if taken < 0 {
		return []clause{{sql: "keys k WHERE 1 = 1"}}, rest, false, nil
	}
	if len(ways[taken].ordered) == 0 {
		return []clause{d.through(ways[taken].ids, "keys k WHERE k.id = few.id")}, rest, few, nil
	}
	for _, c := range ways[taken].ordered {
		parts = append(parts, c.within("keys k WHERE ", ""))
	}
	if also := ways[taken].also; also.sql != "" {
		parts = append(parts, d.through(also, "keys k WHERE k.id = few.id"))
	}
	return parts, rest, few, nil
}

// ways are all that a filter has, first those that are likely to lead to few keys.
func (d *DB) ways(ctx context.Context, f keystore.KeyFilter) (ways []way, err error) {
	column := func(name, value string) {
		if value != "" {
			plain := clause{name + " = ?", []any{value}}
			ways = append(ways, way{ids: idsOf(plain), ordered: []clause{plain},
				filter: clause{name + " || '' = ?", plain.args}})
		}
	}
	column("k.owner", f.Owner)
	if f.Namespaces != nil || f.Visible != nil {
		w, err := d.wayOfScope(f)
		if err != nil {
			return nil, err
		}
		ways = append(ways, w)
	}
	if f.In != "" {
		w, err := d.wayOfGrants(ctx, f.In)
		if err != nil {
			return nil, err
		}
		ways = append(ways, w)
	}
	column("k.created_by", f.CreatedBy)
	if f.Status != "" && f.Status != keystore.StatusActive {
		c := ofStatus(f)
		ways = append(ways, way{ids: idsOf(c.and(clause{sql: "k.personal = 0"})),
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
		// No EXISTS: PostgreSQL might read all that have the role.
		ways = append(ways, way{ids: ids,
			filter: clause{"k.id = (SELECT h.key_id FROM held h WHERE h.key_id = k.id AND h.role " +
				"= ? LIMIT 1)", []any{f.Role}}})
	}
	return ways, nil
}

func idsOf(condition clause) clause {
	return condition.within("SELECT k.id FROM keys k WHERE ", "")
}

// wayOfScope is by the namespaces, and by who may see the keys.
func (d *DB) wayOfScope(f keystore.KeyFilter) (w way, err error) {
	homes := f.Namespaces
	switch {
	case homes == nil:
		homes = f.Visible
	case f.Visible != nil:
		homes = slices.DeleteFunc(slices.Clone(homes),
			func(ns string) bool { return !slices.Contains(f.Visible, ns) })
	}
	homes = slices.Compact(slices.Sorted(slices.Values(homes)))
	array, err := d.array(homes)
	if err != nil {
		return w, err
	}
	among := clause{d.among, []any{array}}
	w.ids = idsOf(among.within("k.namespace ", ""))
	w.filter = among.within("k.namespace || '' ", "")
	if len(homes) <= maxUnion {
		for _, ns := range homes {
			w.ordered = append(w.ordered, clause{"k.namespace = ?", []any{ns}})
		}
	}
	if f.Visible != nil && f.OrOwner != "" {
		where := every
		if f.Namespaces != nil {
			if array, err = d.array(f.Namespaces); err != nil {
				return w, err
			}
			where = clause{"k.namespace || '' " + d.among, []any{array}}
		}
		owned := clause{"k.owner = ?", []any{f.OrOwner}}.and(where)
		w.ids = w.ids.join(" UNION ALL ", idsOf(owned))
		w.filter = w.filter.join(" OR ", clause{"k.owner || '' = ?", []any{f.OrOwner}}.and(where))
		if len(homes) <= maxUnion {
			w.ordered = append(w.ordered, owned)
		}
	}
	w.filter = w.filter.within("(", ")")
	return w, nil
}

// wayOfGrants leads to the keys that live in a namespace or have a grant in it. Only where many
// have one are they found in the order of pages, by looking at all keys.
func (d *DB) wayOfGrants(ctx context.Context, namespace string) (w way, err error) {
	home := clause{"k.namespace = ?", []any{namespace}}
	// not of keys that live there
	granted := clause{"SELECT g.key_id AS id FROM granted g WHERE g.namespace = ?",
		[]any{namespace}}
	has := clause{"k.id = (SELECT g.key_id FROM granted g WHERE g.key_id = k.id AND g.namespace = " +
		"?)", []any{namespace}}
	w = way{
		ids: idsOf(home).join(" UNION ALL ", granted), ordered: []clause{home},
		filter: clause{"k.namespace || '' = ?", home.args}.join(" OR ", has).within("(", ")"),
	}
	rare, err := d.rarest(ctx, []way{{ids: granted}})
	if rare >= 0 {
		w.also = granted
	} else {
		w.ordered = append(w.ordered, has)
	}
	return w, err
}

// array is a list of texts for the dialect's conditions.
func (d *DB) array(texts []string) (string, error) {
	stored := make([]string, len(texts))
	for i, s := range texts {
		stored[i] = d.text(s)
	}
	return fromJSON(stored)
}
