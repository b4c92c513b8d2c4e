package sqldb

import (
	"context"
	"database/sql"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

const (
	namespaceColumns = "id, kind, parent, name, edit_policy, reach, key_roles, token_prefix, child_prefix, created_at, version"
	roleColumns      = "namespace, name, permissions, created_at, version"
	memberColumns    = "id, name, kind, login, grants, active, created_at, created_by, version"

	// newPolicy finds a row unless the policy is the one known. A revision that this database has not come to is not of its history.
	newPolicy = "SELECT policy FROM head WHERE (policy > ? OR revision < ?)"
)

// Policy implements [keystore.Database].
func (d *DB) Policy(ctx context.Context, known keystore.Revision) (*keystore.Policy, error) {
	return d.policyBy(ctx, d.bulk, known)
}

// RenewPolicy implements [keystore.Database].
func (d *DB) RenewPolicy(ctx context.Context, known keystore.Revision) (*keystore.Policy, error) {
	return d.policyBy(ctx, d.lease, known)
}

func (d *DB) policyBy(ctx context.Context, pool *sql.DB, known keystore.Revision) (p *keystore.Policy, err error) {
	err = d.retryLost(ctx, func() error {
		tx, err := pool.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelRepeatableRead, ReadOnly: true})
		if err != nil {
			return err
		}
		defer tx.Rollback()
		p, err = d.policy(known, func(query string, args ...any) (*sql.Rows, error) {
			return tx.QueryContext(ctx, d.bind(query), args...)
		})
		return err
	})
	return p, d.fail(ctx, "reading namespaces, roles and members", err)
}

// Policy reads anew after each change of the transaction's own, since they may all have the same revision.
func (t *tx) Policy(known keystore.Revision) (*keystore.Policy, error) {
	if t.policyChanged {
		known = -1
	}
	p, err := t.db.policy(known, t.query)
	return p, t.note(err)
}

// A querier runs a query that returns rows.
type querier func(query string, args ...any) (*sql.Rows, error)

// policy reads it with queries that see one snapshot. A row in which somebody has made a mistake is read as far as it can be: it must not keep the nodes
// from following the changes.
func (d *DB) policy(known keystore.Revision, q querier) (*keystore.Policy, error) {
	at, err := list(q, scanRevision, newPolicy+" AND "+d.current, known, known)
	if err != nil || len(at) == 0 {
		return nil, err
	}
	p := &keystore.Policy{Revision: at[0]}
	if p.Namespaces, err = list(q, scanNamespace, "SELECT "+namespaceColumns+" FROM namespaces ORDER BY created_at DESC, id DESC"); err != nil {
		return nil, err
	}
	if p.Roles, err = list(q, scanRole, "SELECT "+roleColumns+" FROM roles ORDER BY created_at DESC, namespace DESC, name DESC"); err != nil {
		return nil, err
	}
	if p.Members, err = list(q, scanMember, "SELECT "+memberColumns+" FROM members ORDER BY created_at DESC, id DESC"); err != nil {
		return nil, err
	}
	return p, nil
}

// list returns what a query finds, each row as scan reads it.
func list[T any](q querier, scan func(into func(...any) error) (T, error), query string, args ...any) ([]T, error) {
	rows, err := q(query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out []T
	for rows.Next() {
		v, err := scan(rows.Scan)
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, rows.Err()
}

func scanRevision(scan func(...any) error) (r keystore.Revision, err error) {
	return r, scan(&r)
}

func scanNamespace(scan func(...any) error) (ns keystore.Namespace, err error) {
	var reach, roles string
	if err := scan(&ns.ID, &ns.Kind, &ns.Parent, &ns.Name, &ns.EditPolicy, &reach, &roles, &ns.TokenPrefix, &ns.ChildPrefix, timeTo{&ns.CreatedAt}, &ns.Version); err != nil {
		return ns, err
	}
	if ns.Reach, err = toList(reach); err == nil {
		ns.KeyRoles, err = toList(roles)
	}
	if err != nil {
		ns.Reach, ns.KeyRoles, ns.Unreadable = nil, nil, err.Error()
	}
	return ns, nil
}

func scanRole(scan func(...any) error) (r keystore.Role, err error) {
	var permissions string
	if err := scan(&r.Namespace, &r.Name, &permissions, timeTo{&r.CreatedAt}, &r.Version); err != nil {
		return r, err
	}
	words, err := toList(permissions)
	if err == nil {
		r.Permissions, err = toPermissions(words)
	}
	if err != nil {
		r.Unreadable = err.Error()
	}
	return r, nil
}

func scanMember(scan func(...any) error) (m keystore.Member, err error) {
	var grants string
	if err := scan(&m.ID, &m.Name, &m.Kind, &m.Login, &grants, &m.Active, timeTo{&m.CreatedAt}, &m.CreatedBy, &m.Version); err != nil {
		return m, err
	}
	if m.Grants, err = toGrants(grants); err != nil {
		m.Unreadable = err.Error()
	}
	return m, nil
}

// changePolicy runs a statement that changes a namespace, a role or a member.
func (t *tx) changePolicy(statement string, args ...any) (affected int64, err error) {
	t.policyChanged = true
	return t.exec(statement, args...)
}

// inserted turns "there is one already" into ErrExists.
func inserted(affected int64, err error) error {
	if err == nil && affected == 0 {
		return keystore.ErrExists
	}
	return err
}

func namespaceValues(ns *keystore.Namespace) ([]any, error) {
	reach, err := fromList(ns.Reach)
	if err != nil {
		return nil, err
	}
	roles, err := fromList(ns.KeyRoles)
	return []any{ns.Kind, ns.Parent, ns.Name, ns.EditPolicy, reach, roles, ns.TokenPrefix, ns.ChildPrefix,
		ns.CreatedAt.UnixMicro(), ns.Version, ns.ID}, err
}

func (t *tx) InsertNamespace(ns *keystore.Namespace) error {
	values, err := namespaceValues(ns)
	if err != nil {
		return err
	}
	return inserted(t.changePolicy(`INSERT INTO namespaces (kind, parent, name, edit_policy, reach, key_roles, token_prefix, child_prefix, created_at, version, id)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`, values...))
}

func (t *tx) UpdateNamespace(ns *keystore.Namespace) error {
	values, err := namespaceValues(ns)
	if err != nil {
		return err
	}
	return found(t.changePolicy(`UPDATE namespaces SET kind = ?, parent = ?, name = ?, edit_policy = ?, reach = ?, key_roles = ?, token_prefix = ?,
		child_prefix = ?, created_at = ?, version = ? WHERE id = ?`, values...))
}

func (t *tx) DeleteNamespace(id string) error {
	return found(t.changePolicy("DELETE FROM namespaces WHERE id = ?", id))
}

func (t *tx) FormerNamespace(id string) (former bool, err error) {
	err = t.row("SELECT EXISTS (SELECT 1 FROM former_namespaces WHERE id = ?)", id).Scan(&former)
	return former, err
}

func (t *tx) InsertRole(r *keystore.Role) error {
	permissions, err := fromList(fromPermissions(r.Permissions))
	if err != nil {
		return err
	}
	return inserted(t.changePolicy("INSERT INTO roles ("+roleColumns+") VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
		r.Namespace, r.Name, permissions, r.CreatedAt.UnixMicro(), r.Version))
}

func (t *tx) UpdateRole(r *keystore.Role) error {
	permissions, err := fromList(fromPermissions(r.Permissions))
	if err != nil {
		return err
	}
	return found(t.changePolicy("UPDATE roles SET permissions = ?, version = ? WHERE namespace = ? AND name = ?", permissions, r.Version, r.Namespace, r.Name))
}

func (t *tx) DeleteRole(id keystore.RoleID) error {
	return found(t.changePolicy("DELETE FROM roles WHERE namespace = ? AND name = ?", id.Namespace, id.Name))
}

func memberValues(m *keystore.Member) ([]any, error) {
	grants, err := fromGrants(m.Grants)
	return []any{m.Name, m.Kind, m.Login, grants, fromBool(m.Active), m.CreatedAt.UnixMicro(), m.CreatedBy, m.Version, m.ID}, err
}

func (t *tx) InsertMember(m *keystore.Member) error {
	values, err := memberValues(m)
	if err != nil {
		return err
	}
	return inserted(t.changePolicy(`INSERT INTO members (name, kind, login, grants, active, created_at, created_by, version, id)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`, values...))
}

// UpdateMember looks for the login first: PostgreSQL would end the transaction.
func (t *tx) UpdateMember(m *keystore.Member) error {
	values, err := memberValues(m)
	if err != nil {
		return err
	}
	var missing, taken bool
	err = t.row("SELECT NOT EXISTS (SELECT 1 FROM members WHERE id = ?), EXISTS (SELECT 1 FROM members WHERE login = ? AND login <> '' AND id <> ?)",
		m.ID, m.Login, m.ID).Scan(&missing, &taken)
	switch {
	case err != nil:
		return err
	case missing:
		return keystore.ErrNotFound
	case taken:
		return keystore.ErrExists
	}
	_, err = t.changePolicy(`UPDATE members SET name = ?, kind = ?, login = ?, grants = ?, active = ?, created_at = ?, created_by = ?, version = ?
		WHERE id = ?`, values...)
	return err
}

func (t *tx) DeleteMember(id string) error {
	return found(t.changePolicy("DELETE FROM members WHERE id = ?", id))
}
