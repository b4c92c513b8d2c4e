package manage

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/node"
)

// ListRoles returns the roles the caller may read, newest first, the built-in ones last. Whoever
// may read roles anywhere may read the shared ones.
func (k *Keystore) ListRoles(ctx context.Context, c Caller) ([]keystore.Role, error) {
	auth, done, err := k.beginRead(ctx, c)
	if err != nil {
		return nil, err
	}
	defer done()
	if err := auth.requireAnywhere(adminRoles, "read"); err != nil {
		return nil, err
	}
	return slices.DeleteFunc(auth.policy.AllRoles(),
		func(r keystore.Role) bool { return !auth.mayReadRole(r.Namespace) }), nil
}

func (a authority) mayReadRole(namespace string) bool {
	return a.may(adminRoles, "read", namespace) || namespace == keystore.AnyNamespace &&
		a.requireAnywhere(adminRoles, "read") == nil
}

// FindRole returns a role the caller may read.
func (k *Keystore) FindRole(
	ctx context.Context, c Caller, id keystore.RoleID,
) (*keystore.Role, error) {
	list, err := k.ListRoles(ctx, c)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(list, func(r keystore.Role) bool { return r.ID() == id })
	if i < 0 {
		return nil, notFound("role")
	}
	return &list[i], nil
}

// CreateRole makes one of spec's Namespace, Name, Description and Permissions.
func (k *Keystore) CreateRole(
	ctx context.Context, c Caller, spec keystore.Role,
) (*keystore.Role, error) {
	var role *keystore.Role
	err := k.add(ctx, c, 0, func(tx keystore.Tx, auth authority) (err error) {
		if role, err = createRole(tx, auth, spec); err == nil {
			_, err = k.checkCapacity(tx, auth, false)
		}
		return err
	})
	return role, err
}

func createRole(tx keystore.Tx, auth authority, spec keystore.Role) (*keystore.Role, error) {
	role := &keystore.Role{Namespace: spec.Namespace, Name: spec.Name,
		Description: spec.Description,
		Permissions: keystore.NewSet(spec.Permissions...).Permissions(), CreatedAt: tx.Now(), Version: 1}
	if !auth.may(adminRoles, "create", role.Namespace) {
		return nil, permissionRequired(adminRoles, "create")
	}
	if err := checkRole(role, auth.policy); err != nil {
		return nil, err
	}
	for id := range auth.policy.RoleIDs() {
		if strings.EqualFold(id.Name, role.Name) &&
			(id.Namespace == role.Namespace || id.Namespace == keystore.AnyNamespace ||
				role.Namespace == keystore.AnyNamespace) {
			return nil, &keystore.Error{Kind: keystore.KindConflict, Code: "exists",
				Detail: fmt.Sprintf("a role %q exists in namespace %q; a name is shared or local, "+
					"never both, whatever its case", id.Name, id.Namespace), ID: role.Name}
		}
	}
	if err := auth.requireCover(role.Namespace, false, role.Permissions); err != nil {
		return nil, err
	}
	if err := tx.InsertRole(role); err != nil {
		if errors.Is(err, keystore.ErrExists) {
			return nil, &keystore.Error{Kind: keystore.KindConflict, Code: "exists",
				Detail: fmt.Sprintf("role %q exists in namespace %q", role.Name,
					role.Namespace), ID: role.Name}
		}
		return nil, err
	}
	return role, audit(tx, auth, "role.create", role.Name, role.Touches(), nil, role)
}

func checkRole(r *keystore.Role, d *keystore.Directory) error {
	var p fieldErrors
	if r.Namespace != keystore.AnyNamespace {
		p.namespace(d, "namespace", r.Namespace)
	}
	if !keystore.ValidRoleName(r.Name) {
		p.add("name", "is a letter or digit, then up to 63 of these, '.', '_', '~' or '-'")
	}
	p.secret("name", r.Name)
	p.text("description", r.Description, maxDescription)
	p.permissions(r.Permissions)
	return p.err()
}

func (p *fieldErrors) permissions(list []keystore.Permission) {
	switch {
	case len(list) == 0:
		p.add("permissions", "are none: a role gives something")
	case len(list) > maxPermissions:
		p.add("permissions", "are more than %d", maxPermissions)
	}
	for _, permission := range list {
		p.secret("permissions", permission.Action)
	}
}

// coverAll refuses what the caller does not hold in a namespace.
func (a authority) requireCover(namespace string, wide bool, list []keystore.Permission) error {
	if p, found := a.uncovered(namespace, wide, list, nil); found {
		return exceedsCaller("%s in %s%s is more than the caller has", p, a.describe(namespace),
			connectedSuffix(wide))
	}
	return nil
}

func roleFor(
	auth authority, operation string, id keystore.RoleID, o ChangeOptions,
) (*keystore.Role, error) {
	if err := auth.requireAnywhere(adminRoles, operation); err != nil {
		return nil, err
	}
	role := auth.policy.Role(id)
	if role == nil || !auth.mayReadRole(id.Namespace) && !auth.may(adminRoles, operation, id.Namespace) {
		return nil, notFound("role")
	}
	if !auth.may(adminRoles, operation, id.Namespace) {
		return nil, permissionRequired(adminRoles, operation)
	}
	if role.Builtin {
		return nil, &keystore.Error{Kind: keystore.KindConflict, Code: "builtin",
			Detail: "the role " + id.Name +
				" comes with the product and cannot be changed; make another one", ID: id.Name}
	}
	if err := o.check(role.Version); err != nil {
		return nil, err
	}
	return role, nil
}

// A RolePatch changes what is not nil.
type RolePatch struct {
	Description *string
	Permissions []keystore.Permission // all there are, for all who have the role
}

// EditRole changes a role.
func (k *Keystore) EditRole(
	ctx context.Context, c Caller, id keystore.RoleID, patch RolePatch, o ChangeOptions,
) (*keystore.Role, node.Propagation, error) {
	var role *keystore.Role
	p, err := k.change(ctx, c, o.Wait, func(tx keystore.Tx, auth authority) error {
		before, err := roleFor(auth, "update", id, o)
		if err != nil {
			return err
		}
		after := *before
		set(&after.Description, patch.Description)
		if patch.Permissions != nil {
			after.Permissions,
				after.Unreadable = keystore.NewSet(patch.Permissions...).Permissions(), ""
		} else if before.Unreadable != "" {
			return rowUnreadable("permissions", before.Unreadable)
		}
		after.Version++
		if err := checkRole(&after, auth.policy); err != nil {
			return err
		}
		where, err := roleUses(tx, auth, id)
		if err != nil {
			return err
		}
		if err := auth.checkRoleUses(id.Namespace, where,
			keystore.NewSet(slices.Concat(before.Permissions, after.Permissions)...)); err != nil {
			return err
		}
		if err := tx.UpdateRole(&after); err != nil {
			return err
		}
		was := keystore.NewSet(before.Permissions...)
		widens := slices.ContainsFunc(after.Permissions,
			func(p keystore.Permission) bool { return !was.Covers(p) })
		then, err := k.checkCapacity(tx, auth, !widens)
		if err != nil {
			return err
		}
		if err := checkGrowOnly(tx, auth, then.policy, before, &after); err != nil {
			return err
		}
		role = &after
		return audit(tx, auth, "role.edit", id.Name, before.Touches(), before, &after)
	})
	return role, p, err
}

// roleHeld returns where grants of keys and members have a role.
func roleUses(tx keystore.Tx, auth authority, id keystore.RoleID) ([]keystore.Reach, error) {
	where, err := tx.RoleHeld(id)
	if err != nil {
		return nil, err
	}
	for _, m := range auth.policy.AllMembers() {
		for _, g := range m.Grants {
			if slices.Contains(g.Roles, id.Name) &&
				(g.Namespace == id.Namespace || id.Namespace == keystore.AnyNamespace) {
				where = append(where,
					keystore.Reach{Namespace: g.Namespace, Connected: g.Connected})
			}
		}
	}
	return where, nil
}

// governs refuses who does not cover a role wherever a grant takes it (spec 7a.3), nor where keys
// reach with it.
func (a authority) checkRoleUses(home string, where []keystore.Reach, s *keystore.Set) error {
	for _, at := range append(where, keystore.Reach{Namespace: home}) {
		if err := a.requireCover(at.Namespace, at.Connected, s.Permissions()); err != nil {
			return err
		}
		if err := a.coverDescendants(at.Namespace, s.Data().Permissions()); err != nil {
			return err
		}
	}
	return nil
}

// namedKeys is how many keys a refusal names.
const namedKeys = 20

// growsOnly refuses a change of a role that takes something from a key whose namespace lets keys
// only grow. then is the policy after the change.
func checkGrowOnly(
	tx keystore.Tx, auth authority, then *keystore.Directory, before, after *keystore.Role,
) error {
	now := keystore.NewSet(after.Permissions...)
	if !slices.ContainsFunc(before.Permissions,
		func(p keystore.Permission) bool { return !now.Covers(p) }) {
		return nil
	}
	var homes []string
	for _, ns := range auth.policy.AllNamespaces() {
		if ns.EditPolicy == keystore.EditGrowOnly {
			homes = append(homes, ns.ID)
		}
	}
	if len(homes) == 0 {
		return nil
	}
	var fields []keystore.FieldError
	err := tx.KeysHolding(before.ID(), homes, func(key *keystore.Key) bool {
		if lost := lostPermission(auth.policy, key.Grants, then, key.Grants); lost != "" {
			who := "a key that the caller may not read"
			if auth.mayReadKey(key.ID, key.Namespace, key.Owner) {
				who = "key " + key.ID
			}
			fields = append(fields, keystore.FieldError{Field: "permissions",
				Detail: who + " would lose " + lost})
		}
		return len(fields) < namedKeys
	})
	if err == nil && len(fields) > 0 {
		err = growOnlyError(fields, before.Name)
	}
	return err
}

// DeleteRole removes a role that nobody has and returns what it was.
func (k *Keystore) DeleteRole(
	ctx context.Context, c Caller, id keystore.RoleID, o ChangeOptions,
) (*keystore.Role, node.Propagation, error) {
	var role *keystore.Role
	p, err := k.change(ctx, c, o.Wait, func(tx keystore.Tx, auth authority) (err error) {
		if role, err = roleFor(auth, "delete", id, o); err != nil {
			return err
		}
		where, err := roleUses(tx, auth, id)
		if err != nil {
			return err
		}
		if len(where) > 0 {
			return &keystore.Error{Kind: keystore.KindConflict, Code: "in_use",
				Detail: fmt.Sprintf("the role is in use in namespace %q; take it from the keys "+
					"and members that have it first", where[0].Namespace), ID: id.Name}
		}
		for _, ns := range auth.policy.AllNamespaces() {
			if slices.Contains(ns.KeyRoles, id.Name) &&
				(ns.ID == id.Namespace || id.Namespace == keystore.AnyNamespace) {
				return &keystore.Error{Kind: keystore.KindConflict, Code: "in_use",
					Detail: fmt.Sprintf("keys of namespace %q have exactly this role; change its "+
						"key_roles first", ns.ID), ID: id.Name}
			}
		}
		if err := auth.requireCover(id.Namespace, false, role.Permissions); err != nil {
			return err
		}
		if err := tx.DeleteRole(id); err != nil {
			return err
		}
		return audit(tx, auth, "role.delete", id.Name, role.Touches(), role, nil)
	})
	return role, p, err
}
