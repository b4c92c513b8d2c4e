package manage

import (
	"context"
	"fmt"
	"slices"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/node"
)

// ListRoles returns the roles that the caller may read, newest first and built-in ones last. A
// caller that may read roles in any namespace may read the shared ones.
func (k *Keystore) ListRoles(ctx context.Context, c Caller) ([]keystore.Role, error) {
	auth, done, err := k.beginRead(ctx, c)
	if err != nil {
		return nil, err
	}
	defer done()
	if err := auth.requireAnywhere(adminRoles, "read"); err != nil {
		return nil, err
	}
	return slices.DeleteFunc(auth.policy.AllRoles(), func(r keystore.Role) bool {
		return !auth.mayReadShareable(adminRoles, r.Namespace)
	}), nil
}

// FindRole returns a role that the caller may read.
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

// CreateRole creates a role with the Namespace, Name, Description and Permissions of spec.
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
	role := &keystore.Role{
		Namespace: spec.Namespace, Name: spec.Name, Description: spec.Description,
		Permissions: keystore.NewSet(spec.Permissions...).Permissions(),
		CreatedAt:   tx.Now(), Version: 1,
	}
	if !auth.may(adminRoles, "create", role.Namespace) {
		return nil, permissionRequired(adminRoles, "create")
	}
	if err := checkRole(role, auth.policy); err != nil {
		return nil, err
	}
	if err := checkNameFree("role", role.ID(), auth.policy.RoleIDs()); err != nil {
		return nil, err
	}
	if err := auth.requireCover(role.Namespace, false, role.Permissions); err != nil {
		return nil, err
	}
	if err := tx.InsertRole(role); err != nil {
		return nil, nameTaken(err, "role", role.Namespace, role.Name)
	}
	return role, audit(tx, auth, "role.create", role.Name, role.Touches(), nil, role)
}

func checkRole(r *keystore.Role, d *keystore.Directory) error {
	var p fieldErrors
	p.shareable(d, r.Namespace, r.Name, r.Description)
	p.permissions(r.Permissions)
	return p.err()
}

func (p *fieldErrors) permissions(list []keystore.Permission) {
	switch {
	case len(list) == 0:
		p.add("permissions", "must contain at least one permission")
	case len(list) > maxPermissions:
		p.add("permissions", "must contain at most %d entries", maxPermissions)
	}
	for _, permission := range list {
		p.secret("permissions", permission.Action)
	}
}

// roleFor returns a role on which the caller may do an operation. It checks the version.
func roleFor(
	auth authority, operation string, id keystore.RoleID, o ChangeOptions,
) (*keystore.Role, error) {
	role := auth.policy.Role(id)
	if err := auth.requireOnShareable(adminRoles, operation, id.Namespace, "role",
		role != nil); err != nil {
		return nil, err
	}
	if role.Builtin {
		return nil, &keystore.Error{Kind: keystore.KindConflict, Code: "builtin",
			Detail: "the role " + id.Name + " is built in and cannot be changed; create another " +
				"role", ID: id.Name}
	}
	if err := o.check(role.Version); err != nil {
		return nil, err
	}
	return role, nil
}

// A RolePatch describes changes of a role. Nil fields change nothing.
type RolePatch struct {
	Description *string
	Permissions []keystore.Permission // replaces all permissions
}

// EditRole changes a role. The change applies to every key and member that has the role.
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
			after.Permissions = keystore.NewSet(patch.Permissions...).Permissions()
			after.Unreadable = ""
		} else if before.Unreadable != "" {
			return rowUnreadable("permissions", before.Unreadable)
		}
		after.Version++
		if err := checkRole(&after, auth.policy); err != nil {
			return err
		}
		uses, err := roleUses(tx, auth, id)
		if err != nil {
			return err
		}
		both := keystore.NewSet(slices.Concat(before.Permissions, after.Permissions)...)
		if err := auth.checkRoleUses(id.Namespace, uses, both); err != nil {
			return err
		}
		if err := tx.UpdateRole(&after); err != nil {
			return err
		}
		old := keystore.NewSet(before.Permissions...)
		widens := slices.ContainsFunc(after.Permissions,
			func(p keystore.Permission) bool { return !old.Covers(p) })
		changed, err := k.checkCapacity(tx, auth, !widens)
		if err != nil {
			return err
		}
		if err := checkGrowOnly(tx, auth, changed.policy, before, &after); err != nil {
			return err
		}
		role = &after
		return audit(tx, auth, "role.edit", id.Name, before.Touches(), before, &after)
	})
	return role, p, err
}

// roleUses returns where grants of keys and members contain a role.
func roleUses(tx keystore.Tx, auth authority, id keystore.RoleID) ([]keystore.Reach, error) {
	uses, err := tx.RoleHeld(id)
	if err != nil {
		return nil, err
	}
	for _, m := range auth.policy.AllMembers() {
		for _, g := range m.Grants {
			if slices.Contains(g.Roles, id.Name) &&
				(g.Namespace == id.Namespace || id.Namespace == keystore.AnyNamespace) {
				uses = append(uses,
					keystore.Reach{Namespace: g.Namespace, Connected: g.Connected})
			}
		}
	}
	return uses, nil
}

// checkRoleUses checks that the caller's permissions cover those of a role in the role's own
// namespace, wherever a grant uses the role, and in the descendants that the grants of keys reach
// (docs/authority.md, rule 8).
func (a authority) checkRoleUses(home string, uses []keystore.Reach, s *keystore.Set) error {
	for _, use := range append(uses, keystore.Reach{Namespace: home}) {
		if err := a.requireCover(use.Namespace, use.Connected, s.Permissions()); err != nil {
			return err
		}
		if err := a.requireCoverBelow(use.Namespace, s.Data().Permissions()); err != nil {
			return err
		}
	}
	return nil
}

const (
	// maxNamedKeys is how many keys a refusal names.
	maxNamedKeys = 20
	// maxHarmlessGrants is how many different grants that lose nothing checkGrowOnly remembers.
	// Checking equal grants of a million keys again would keep other changes waiting.
	maxHarmlessGrants = 1000
)

// checkGrowOnly refuses a change of a role by which a key in a `grow_only` namespace would lose a
// permission. changed is the policy after the change.
func checkGrowOnly(
	tx keystore.Tx, auth authority, changed *keystore.Directory, before, after *keystore.Role,
) error {
	kept := keystore.NewSet(after.Permissions...)
	if !slices.ContainsFunc(before.Permissions,
		func(p keystore.Permission) bool { return !kept.Covers(p) }) {
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
	harmless := make(map[*keystore.CompiledGrants]bool) // grants that lose nothing
	err := tx.KeysHolding(before.ID(), homes, func(key *keystore.Key) bool {
		grants := keystore.CompileGrants(key.Grants, "")
		if harmless[grants] {
			return true
		}
		lost := lostPermission(auth.policy, key.Grants, changed, key.Grants)
		if lost == "" && len(harmless) < maxHarmlessGrants {
			harmless[grants] = true
		}
		if lost != "" {
			name := "a key that the caller may not read"
			if auth.mayReadKey(key.ID, key.Namespace, key.Owner) {
				name = fmt.Sprintf("key %q (%s)", key.Name, key.ID)
			}
			fields = append(fields, keystore.FieldError{Field: "permissions",
				Detail: name + " would lose " + lost})
		}
		return len(fields) < maxNamedKeys
	})
	if err == nil && len(fields) > 0 {
		err = growOnlyError(fields, before.Name)
	}
	return err
}

// DeleteRole deletes a role that is not in use, and returns it as it was.
func (k *Keystore) DeleteRole(
	ctx context.Context, c Caller, id keystore.RoleID, o ChangeOptions,
) (*keystore.Role, node.Propagation, error) {
	var role *keystore.Role
	p, err := k.change(ctx, c, o.Wait, func(tx keystore.Tx, auth authority) (err error) {
		if role, err = roleFor(auth, "delete", id, o); err != nil {
			return err
		}
		uses, err := roleUses(tx, auth, id)
		if err != nil {
			return err
		}
		if len(uses) > 0 {
			return &keystore.Error{Kind: keystore.KindConflict, Code: "in_use",
				Detail: fmt.Sprintf("the role is in use in namespace %q; first remove it from "+
					"the members and keys that have it, and delete revoked keys",
					uses[0].Namespace), ID: id.Name}
		}
		for _, ns := range auth.policy.AllNamespaces() {
			if slices.Contains(ns.KeyRoles, id.Name) &&
				(ns.ID == id.Namespace || id.Namespace == keystore.AnyNamespace) {
				return &keystore.Error{Kind: keystore.KindConflict, Code: "in_use",
					Detail: fmt.Sprintf("namespace %q requires this role of its keys; change its "+
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
