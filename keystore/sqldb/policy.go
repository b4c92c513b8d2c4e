package sqldb

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

const (
	namespaceColumns = "id, kind, parent, name, edit_policy, reach, key_roles, token_prefix, " +
		"child_prefix, rate_limit, quota, default_plan, max_lifetime, idle_after, idle_then, " +
		"on_leak, created_at, version"
	roleColumns   = "namespace, name, description, permissions, created_at, version"
	planColumns   = "namespace, name, description, rate_limit, quota, created_at, version"
	memberColumns = "id, name, kind, login, grants, labels, active, created_at, created_by, version"

	// policyHead has placeholders for a revision, its mark, and the same revision three more times.
	// It returns the head, and whether the log names every object that has changed since. An
	// earlier release logged changes of 'policy' without an object.
	policyHead = `SELECT h.policy, h.revision,
		coalesce((SELECT mark FROM marks WHERE revision = h.revision), ''),
		NOT EXISTS (SELECT 1 FROM marks WHERE revision = ? AND mark <> ?)
		AND (SELECT count(DISTINCT revision) FROM change_log WHERE revision > ?) = h.revision - ?
		AND NOT EXISTS (SELECT 1 FROM change_log
			WHERE revision > ? AND (kind = 'all' OR kind = 'policy' AND object IS NULL))
		FROM head h WHERE `
	// changed has placeholders for a kind of object and a revision.
	changed = `(SELECT DISTINCT namespace AS home, name AS named FROM change_log
		WHERE kind = 'policy' AND object = ? AND revision > ?) c`
)

// Policy implements [keystore.Database].
func (d *DB) Policy(ctx context.Context, since keystore.Position) (*keystore.Policy, error) {
	return d.policyBy(ctx, d.bulk, since)
}

// RenewPolicy implements [keystore.Database].
func (d *DB) RenewPolicy(ctx context.Context, since keystore.Position) (*keystore.Policy, error) {
	return d.policyBy(ctx, d.lease, since)
}

// policySilence is how long reading a whole policy waits for each row, and how long reading changes
// takes at most.
const policySilence = 10 * time.Second

// policyBy reads a policy in one snapshot, on a connection of the pool.
func (d *DB) policyBy(
	ctx context.Context, pool *sql.DB, since keystore.Position,
) (p *keystore.Policy, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silent := time.AfterFunc(policySilence, func() { cancel(context.DeadlineExceeded) })
	defer silent.Stop()
	err = d.retryLost(ctx, func() error {
		options := sql.TxOptions{Isolation: sql.LevelRepeatableRead, ReadOnly: true}
		tx, err := pool.BeginTx(ctx, &options)
		if err != nil {
			return err
		}
		defer tx.Rollback()
		p, err = d.policy(since, 0, func() { silent.Reset(policySilence) },
			func(query string, args ...any) (*sql.Rows, error) {
				return tx.QueryContext(ctx, d.bind(query), args...)
			})
		return err
	})
	if err != nil && errors.Is(context.Cause(ctx), context.DeadlineExceeded) {
		err = fmt.Errorf("%w: %w", context.DeadlineExceeded, err)
	}
	return p, d.fail(context.WithoutCancel(ctx), "reading namespaces, roles, plans and members", err)
}

// Policy includes every change of the transaction, all of which may have the same revision.
func (t *tx) Policy(since keystore.Position) (*keystore.Policy, error) {
	var own keystore.Revision
	if t.policyChanged {
		own = 1
	}
	p, err := t.db.policy(since, own, func() {}, t.query)
	if errors.Is(err, keystore.ErrTruncated) { // the database has not failed
		return nil, err
	}
	return p, t.note(err)
}

// A querier runs a query that returns rows.
type querier func(query string, args ...any) (*sql.Rows, error)

// policy reads the changes since a position, with queries that see one snapshot. The last
// `own` revisions always count as changed. It calls alive for each row of a whole policy. It reads
// a corrupted row as far as possible, so that the row does not keep nodes from following the
// changes.
func (d *DB) policy(
	since keystore.Position, own keystore.Revision, alive func(), q querier,
) (*keystore.Policy, error) {
	p := &keystore.Policy{Whole: since.Revision < 0}
	var complete bool
	heads, err := list(q, func(scan func(...any) error) (struct{}, error) {
		return struct{}{}, scan(&p.Revision, &p.At.Revision, &p.At.Mark, &complete)
	}, policyHead+d.current, since.Revision, since.Mark, since.Revision, since.Revision,
		since.Revision)
	switch {
	case err != nil:
		return nil, err
	case len(heads) == 0:
		return nil, errors.New("the table head has no row")
	case p.Whole:
		return p, d.wholePolicy(p, alive, q)
	case !complete:
		return nil, keystore.ErrTruncated
	}
	after := min(since.Revision, p.At.Revision-own)
	if p.Revision <= after {
		return nil, nil
	}
	if p.Namespaces, err = list(q, scanNamespace,
		"SELECT "+namespaceColumns+" FROM "+changed+" JOIN namespaces ON id = c.named",
		keystore.NamespaceObject, after); err != nil {
		return nil, err
	}
	if p.Roles, err = list(q, scanRole,
		"SELECT "+roleColumns+" FROM "+changed+
			" JOIN roles ON namespace = c.home AND name = c.named", keystore.RoleObject,
		after); err != nil {
		return nil, err
	}
	if p.Plans, err = list(q, scanPlan,
		"SELECT "+planColumns+" FROM "+changed+
			" JOIN plans ON namespace = c.home AND name = c.named", keystore.PlanObject,
		after); err != nil {
		return nil, err
	}
	if p.Members, err = list(q, scanMember,
		"SELECT "+memberColumns+" FROM "+changed+" JOIN members ON id = c.named",
		keystore.MemberObject, after); err != nil {
		return nil, err
	}
	p.Changed, err = list(q, scanObject,
		"SELECT DISTINCT object, coalesce(namespace, ''), name FROM change_log WHERE kind = "+
			"'policy' AND revision > ?", after)
	return p, err
}

// wholePolicy reads all rows, the newest first.
func (d *DB) wholePolicy(p *keystore.Policy, alive func(), q querier) (err error) {
	if p.Namespaces, err = list(q, beforeEach(alive, scanNamespace),
		"SELECT "+namespaceColumns+
			" FROM namespaces ORDER BY created_at DESC, id DESC"); err != nil {
		return err
	}
	if p.Roles, err = list(q, beforeEach(alive, scanRole),
		"SELECT "+roleColumns+
			" FROM roles ORDER BY created_at DESC, namespace DESC, name DESC"); err != nil {
		return err
	}
	if p.Plans, err = list(q, beforeEach(alive, scanPlan),
		"SELECT "+planColumns+
			" FROM plans ORDER BY created_at DESC, namespace DESC, name DESC"); err != nil {
		return err
	}
	p.Members, err = list(q, beforeEach(alive, scanMember),
		"SELECT "+memberColumns+" FROM members ORDER BY created_at DESC, id DESC")
	return err
}

type scanner[T any] func(into func(...any) error) (T, error)

// beforeEach returns a scanner that calls f before it reads a row.
func beforeEach[T any](f func(), scan scanner[T]) scanner[T] {
	return func(into func(...any) error) (T, error) {
		f()
		return scan(into)
	}
}

// errEnough stops a list although there are more rows.
var errEnough = errors.New("enough rows")

// list returns the rows of a query, each read by scan. If scan returns errEnough, list returns the
// error and the rows before it.
func list[T any](q querier, scan scanner[T], query string, args ...any) ([]T, error) {
	rows, err := q(query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out []T
	for rows.Next() {
		v, err := scan(rows.Scan)
		if errors.Is(err, errEnough) {
			return out, err
		}
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, rows.Err()
}

func scanObject(scan func(...any) error) (o keystore.Object, err error) {
	return o, scan(&o.Kind, &o.Namespace, &o.Name)
}

func scanNamespace(scan func(...any) error) (ns keystore.Namespace, err error) {
	var reach, roles, rate, quota string
	var lifetime, idle int64
	if err := scan(&ns.ID, &ns.Kind, &ns.Parent, &ns.Name, &ns.EditPolicy, &reach, &roles,
		&ns.TokenPrefix, &ns.ChildPrefix, textTo{&rate}, textTo{&quota}, &ns.DefaultPlan,
		&lifetime, &idle, &ns.Idle.Then, &ns.OnLeak, timeTo{&ns.CreatedAt},
		&ns.Version); err != nil {
		return ns, err
	}
	ns.MaxLifetime, ns.Idle.After = toDuration(lifetime), toDuration(idle)
	if ns.Reach, err = toList(reach); err == nil {
		ns.KeyRoles, err = toList(roles)
	}
	if ns.ListsUnreadable = err != nil; ns.ListsUnreadable {
		ns.Reach, ns.KeyRoles = nil, nil
	}
	var limitsErr error
	ns.Limits, limitsErr = toLimits(rate, quota)
	ns.LimitsUnreadable = limitsErr != nil
	if err = errors.Join(err, limitsErr); err != nil {
		ns.Unreadable = err.Error()
	}
	return ns, nil
}

// toDuration reads a number of microseconds. A number written with SQL may be too large.
func toDuration(micros int64) time.Duration {
	return time.Duration(min(micros, keystore.MaxLifetime.Microseconds())) * time.Microsecond
}

func scanPlan(scan func(...any) error) (p keystore.Plan, err error) {
	var rate, quota string
	if err := scan(&p.Namespace, &p.Name, &p.Description, textTo{&rate}, textTo{&quota},
		timeTo{&p.CreatedAt}, &p.Version); err != nil {
		return p, err
	}
	if p.Limits, err = toLimits(rate, quota); err != nil {
		p.Unreadable = err.Error()
	}
	return p, nil
}

func scanRole(scan func(...any) error) (r keystore.Role, err error) {
	var permissions string
	if err := scan(&r.Namespace, &r.Name, &r.Description, &permissions, timeTo{&r.CreatedAt},
		&r.Version); err != nil {
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
	var grants, labels string
	if err := scan(&m.ID, &m.Name, &m.Kind, &m.Login, &grants, &labels, &m.Active,
		timeTo{&m.CreatedAt}, &m.CreatedBy, &m.Version); err != nil {
		return m, err
	}
	if m.Kind == keystore.Group {
		m.Login = strings.TrimPrefix(m.Login, groupLogin)
	}
	if m.Grants, err = toGrants(grants); err != nil {
		m.Unreadable = err.Error()
	}
	if labels != "{}" {
		// The error is ignored, because no decision depends on labels.
		_ = json.Unmarshal([]byte(labels), &m.Labels)
	}
	return m, nil
}

// changePolicy runs a statement that changes a namespace, a role, a plan or a member.
func (t *tx) changePolicy(statement string, args ...any) (affected int64, err error) {
	t.policyChanged = true
	return t.exec(statement, args...)
}

// inserted returns ErrExists if an INSERT … ON CONFLICT DO NOTHING has added no row.
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
	if err != nil {
		return nil, err
	}
	rate, quota, err := fromLimits(ns.Limits)
	return []any{ns.Kind, ns.Parent, ns.Name, ns.EditPolicy, reach, roles, ns.TokenPrefix,
		ns.ChildPrefix, rate, quota, ns.DefaultPlan, ns.MaxLifetime.Microseconds(),
		ns.Idle.After.Microseconds(), ns.Idle.Then, ns.OnLeak,
		ns.CreatedAt.UnixMicro(), ns.Version, ns.ID}, err
}

func (t *tx) InsertNamespace(ns *keystore.Namespace) error {
	values, err := namespaceValues(ns)
	if err != nil {
		return err
	}
	return inserted(t.changePolicy(`INSERT INTO namespaces (kind, parent, name, edit_policy,
			reach, key_roles, token_prefix, child_prefix, rate_limit, quota, default_plan,
			max_lifetime, idle_after, idle_then, on_leak, created_at, version, id)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT DO NOTHING`, values...))
}

func (t *tx) UpdateNamespace(ns *keystore.Namespace) error {
	values, err := namespaceValues(ns)
	if err != nil {
		return err
	}
	return found(t.changePolicy(`UPDATE namespaces SET kind = ?, parent = ?, name = ?,
		edit_policy = ?, reach = ?, key_roles = ?, token_prefix = ?,
		child_prefix = ?, rate_limit = ?, quota = ?, default_plan = ?, max_lifetime = ?,
		idle_after = ?, idle_then = ?, on_leak = ?, created_at = ?, version = ?
		WHERE id = ?`, values...))
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
	return inserted(t.changePolicy("INSERT INTO roles ("+roleColumns+
		") VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
		r.Namespace, r.Name, r.Description, permissions, r.CreatedAt.UnixMicro(), r.Version))
}

func (t *tx) UpdateRole(r *keystore.Role) error {
	permissions, err := fromList(fromPermissions(r.Permissions))
	if err != nil {
		return err
	}
	return found(t.changePolicy("UPDATE roles SET description = ?, permissions = ?, version = ? "+
		"WHERE namespace = ? AND name = ?",
		r.Description, permissions, r.Version, r.Namespace, r.Name))
}

func (t *tx) DeleteRole(id keystore.RoleID) error {
	return found(t.changePolicy("DELETE FROM roles WHERE namespace = ? AND name = ?", id.Namespace,
		id.Name))
}

func (t *tx) InsertPlan(p *keystore.Plan) error {
	rate, quota, err := fromLimits(p.Limits)
	if err != nil {
		return err
	}
	return inserted(t.changePolicy("INSERT INTO plans ("+planColumns+
		") VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
		p.Namespace, p.Name, p.Description, rate, quota, p.CreatedAt.UnixMicro(), p.Version))
}

func (t *tx) UpdatePlan(p *keystore.Plan) error {
	rate, quota, err := fromLimits(p.Limits)
	if err != nil {
		return err
	}
	return found(t.changePolicy("UPDATE plans SET description = ?, rate_limit = ?, quota = ?, "+
		"version = ? WHERE namespace = ? AND name = ?",
		p.Description, rate, quota, p.Version, p.Namespace, p.Name))
}

func (t *tx) DeletePlan(id keystore.PlanID) error {
	return found(t.changePolicy("DELETE FROM plans WHERE namespace = ? AND name = ?", id.Namespace,
		id.Name))
}

// groupLogin precedes the login of a group in the database. Users and groups can thus have the same
// name although the column is unique, and a node of a version without groups never takes a user for
// a group: no login of a user contains a control character.
const groupLogin = "group\x1f"

func storedLogin(m *keystore.Member) string {
	if m.Kind == keystore.Group && m.Login != "" {
		return groupLogin + m.Login
	}
	return m.Login
}

func memberValues(m *keystore.Member) ([]any, error) {
	grants, err := fromGrants(m.Grants)
	if err != nil {
		return nil, err
	}
	labels, err := fromMap(m.Labels)
	return []any{m.Name, m.Kind, storedLogin(m), grants, labels, fromBool(m.Active),
		m.CreatedAt.UnixMicro(), m.CreatedBy, m.Version, m.ID}, err
}

func (t *tx) InsertMember(m *keystore.Member) error {
	values, err := memberValues(m)
	if err != nil {
		return err
	}
	return inserted(t.changePolicy(`INSERT INTO members (name, kind, login, grants, labels, active,
			created_at, created_by, version, id)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`, values...))
}

// UpdateMember searches for the login first, because a unique violation would end the transaction
// in PostgreSQL.
func (t *tx) UpdateMember(m *keystore.Member) error {
	values, err := memberValues(m)
	if err != nil {
		return err
	}
	var missing, taken bool
	err = t.row("SELECT NOT EXISTS (SELECT 1 FROM members WHERE id = ?), EXISTS (SELECT 1 FROM "+
		"members WHERE login = ? AND login <> '' AND id <> ?)",
		m.ID, storedLogin(m), m.ID).Scan(&missing, &taken)
	switch {
	case err != nil:
		return err
	case missing:
		return keystore.ErrNotFound
	case taken:
		return keystore.ErrExists
	}
	_, err = t.changePolicy(`UPDATE members SET name = ?, kind = ?, login = ?, grants = ?,
		labels = ?, active = ?, created_at = ?, created_by = ?, version = ?
		WHERE id = ?`, values...)
	return err
}

func (t *tx) DeleteMember(id string) error {
	return found(t.changePolicy("DELETE FROM members WHERE id = ?", id))
}

func (t *tx) CountOwned(owner string) (int64, error) { return t.countKeys("owner", owner) }
func (t *tx) CountHomed(namespace string) (int64, error) {
	return t.countKeys("namespace", namespace)
}

func (t *tx) countKeys(kind, id string) (n int64, err error) {
	return n, t.row("SELECT coalesce((SELECT n FROM key_counts WHERE kind = ? AND id = ?), 0)",
		kind, id).Scan(&n)
}

// MostKeys implements [keystore.Database].
func (d *DB) MostKeys(ctx context.Context) (owner, namespace int64, err error) {
	_, err = list(d.read(ctx), func(scan func(...any) error) (struct{}, error) {
		return struct{}{}, scan(&owner, &namespace)
	}, `SELECT coalesce((SELECT max(n) FROM key_counts WHERE kind = 'owner' AND id <> ?), 0),
		coalesce((SELECT max(n) FROM key_counts WHERE kind = 'namespace'), 0) WHERE `+d.current,
		keystore.RootMember)
	return owner, namespace, d.fail(ctx, "counting keys", err)
}
