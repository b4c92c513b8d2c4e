package sqldb

import (
	"context"
	"database/sql"
	"errors"
	"slices"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

func (t *tx) NamespaceInUse(id string) (key string, err error) {
	err = t.row("SELECT id FROM keys WHERE namespace = ? UNION ALL SELECT key_id FROM granted "+
		"WHERE namespace = ? LIMIT 1", id, id).Scan(&key)
	if errors.Is(err, sql.ErrNoRows) {
		return "", nil
	}
	return key, err
}

func (t *tx) PlanInUse(id keystore.PlanID) (key string, err error) {
	where, args := "plan = ? AND plan <> ''", []any{id.Name}
	if id.Namespace != keystore.AnyNamespace {
		where, args = where+" AND namespace = ?", append(args, id.Namespace)
	}
	err = t.row("SELECT key_id FROM key_limits WHERE "+where+" LIMIT 1", args...).Scan(&key)
	if errors.Is(err, sql.ErrNoRows) {
		return "", nil
	}
	return key, err
}

// KeysCreatedBy first finds the creators that have created any key, because few have. It looks up
// only the first key of each creator, in an index. With a simpler query, PostgreSQL might read all
// keys of a creator that has created most of them.
func (t *tx) KeysCreatedBy(creators ...string) (ids []string, err error) {
	names := make(map[string]string, len(creators))
	for _, id := range creators {
		names[t.db.text(id)] = ""
	}
	object, err := fromJSON(names)
	if err != nil {
		return nil, err
	}
	active, err := list(t.query, scanText,
		"SELECT m.key FROM "+t.db.pairs+
			" m WHERE m.key = (SELECT created_by FROM keys WHERE created_by >= m.key ORDER BY "+
			"created_by, created_at LIMIT 1)", object)
	if err != nil {
		return nil, t.note(err)
	}
	for _, creator := range active {
		created, err := list(t.query, scanText,
			"SELECT id FROM keys WHERE created_by = ? ORDER BY created_at, id", creator)
		if err != nil {
			return nil, t.note(err)
		}
		ids = append(ids, created...)
	}
	return ids, nil
}

func (t *tx) KeysOwnedBy(member string) (n int64, err error) {
	err = t.row("SELECT count(*) FROM keys WHERE owner = ? AND revoked_at IS NULL AND personal = 0",
		member).Scan(&n)
	return n, err
}

func (t *tx) OwnedKeys(member string, limit int) ([]string, error) {
	ids, err := list(t.query, scanText, "SELECT id FROM keys WHERE owner = ? AND revoked_at IS NULL "+
		"AND personal = 0 ORDER BY created_at, id LIMIT ?", member, limit)
	return ids, t.note(err)
}

// ownedHomes is the query for the home namespaces of the keys that a member owns.
var ownedHomes = namespacesIn("keys WHERE owner = ? AND revoked_at IS NULL AND personal = 0")

func (t *tx) OwnedHomes(member string) ([]string, error) {
	homes, err := list(t.query, scanText, ownedHomes, member, member)
	return homes, t.note(err)
}

// OwnedHomes implements [keystore.Database].
func (d *DB) OwnedHomes(ctx context.Context, member string) ([]string, error) {
	homes, err := list(d.read(ctx), scanText, ownedHomes+" AND "+d.current, member, member)
	return homes, d.fail(ctx, "reading the namespaces of a member's keys", err)
}

// namespacesIn returns a query for the different namespaces in rows, which are a table with a
// condition. The query needs the arguments of the condition twice. It looks up one namespace after
// the other in an index, because there may be a million rows in a few namespaces.
func namespacesIn(rows string) string {
	first := "SELECT min(namespace) FROM " + rows
	return "WITH RECURSIVE place (namespace) AS (" + first + " UNION ALL SELECT (" + first +
		" AND namespace > place.namespace) FROM place WHERE namespace IS NOT NULL)" +
		" SELECT namespace FROM place WHERE namespace IS NOT NULL"
}

func (t *tx) PersonalKey(member string) (*keystore.Key, error) {
	rows, err := t.query("SELECT "+keyColumns+" FROM keys k"+keyJoins+
		" WHERE k.owner = ? AND k.personal = 1 AND k.revoked_at IS NULL", member)
	keys, err := scanKeys(rows, err, nil)
	if err != nil || len(keys) == 0 {
		return nil, t.note(err)
	}
	return &keys[0], nil
}

// maxKnownGrants is how many different grants KeysHolding keeps, so that it does not parse them again.
const maxKnownGrants = 1000

func (t *tx) KeysHolding(role keystore.RoleID, homes []string, f func(*keystore.Key) bool) error {
	array, err := t.db.array(homes)
	if err != nil {
		return err
	}
	where, args := heldAs(role)
	rows, err := t.query("SELECT id, name, namespace, owner, grants FROM keys WHERE revoked_at IS "+
		"NULL AND id IN (SELECT key_id FROM held WHERE "+where+" AND home "+t.db.among+")",
		append(args, array)...)
	if err != nil {
		return err
	}
	defer rows.Close()
	known := make(map[string][]keystore.Grant)
	for rows.Next() {
		var k keystore.Key
		var grants string
		if err := rows.Scan(&k.ID, &k.Name, &k.Namespace, &k.Owner, &grants); err != nil {
			return t.note(err)
		}
		var found bool
		if k.Grants, found = known[grants]; !found {
			if k.Grants, err = toGrants(grants); err != nil {
				return unreadable("key "+k.ID, err)
			}
			if len(known) < maxKnownGrants {
				known[grants] = k.Grants
			}
		}
		if !f(&k) {
			return nil
		}
	}
	return t.note(rows.Err())
}

func (t *tx) RoleHeld(role keystore.RoleID) ([]keystore.Reach, error) {
	where, args := heldAs(role)
	query := namespacesIn("held WHERE " + where + " AND connected = ?")
	var out []keystore.Reach
	for _, connected := range []bool{false, true} {
		each := append(args, fromBool(connected))
		namespaces, err := list(t.query, scanText, query, slices.Concat(each, each)...)
		if err != nil {
			return nil, t.note(err)
		}
		for _, ns := range namespaces {
			out = append(out, keystore.Reach{Namespace: ns, Connected: connected})
		}
	}
	return out, nil
}

// heldAs returns the condition on the table held for a role. Grants in any namespace may name a
// shared role.
func heldAs(role keystore.RoleID) (where string, args []any) {
	if role.Namespace == keystore.AnyNamespace {
		return "role = ?", []any{role.Name}
	}
	return "role = ? AND namespace = ?", []any{role.Name, role.Namespace}
}

func scanText(scan func(...any) error) (s string, err error) { return s, scan(&s) }
