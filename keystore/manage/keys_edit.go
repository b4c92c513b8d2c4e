package manage

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/node"
)

// A KeyPatch describes changes of a key. Nil fields change nothing.
type KeyPatch struct {
	Name   *string
	Active *bool
	// Permissions, Roles and Connected replace parts of the home grant. They must be nil if Grants
	// is set.
	Permissions   *[]keystore.Permission
	Roles         *[]string
	Connected     *bool
	Grants        *[]keystore.Grant // replaces all grants
	Edits         GrantEdits
	ExpiresAt     *time.Time // must be the key's present one, which cannot change
	AllowedIPs    *[]netip.Prefix
	Owner         *string
	Metadata      map[string]*string // merged into the key's (RFC 7396); nil removes a name
	ClearMetadata bool               // removes all names before Metadata is merged
	Limits        LimitsPatch
	Plan          *string         // empty stands for the default plan of the home namespace
	NewRoles      []keystore.Role // see KeySpec
	wrong         fieldErrors     // see KeySpec
}

// GrantEdits add parts to grants and remove parts from them, and keep the rest. RemoveNamespaces
// comes first, then Remove, then Add. A Grant without a namespace is in the home namespace.
type GrantEdits struct {
	Add              []keystore.Grant
	Remove           []keystore.Grant // permissions, roles and Connected to remove
	RemoveNamespaces []string         // namespaces whose grants to remove
}

func (e *GrantEdits) empty() bool { return len(e.Add)+len(e.Remove)+len(e.RemoveNamespaces) == 0 }

// apply returns the edited grants of a key with this home namespace. Removing a part that a grant
// does not contain is an error. Otherwise the caller would believe that the key no longer has it,
// although it may have it through a role.
func (e *GrantEdits) apply(p *fieldErrors, grants []keystore.Grant, home string) []keystore.Grant {
	in := func(namespace string) int {
		return slices.IndexFunc(grants,
			func(g keystore.Grant) bool { return g.Namespace == namespace })
	}
	for i, namespace := range e.RemoveNamespaces {
		at := in(namespace)
		if at < 0 {
			p.add(fmt.Sprintf("remove_namespaces[%d]", i),
				"must be a namespace of the key's grants; %q is not", namespace)
			continue
		}
		grants = slices.Delete(grants, at, at+1)
	}
	for i, r := range e.Remove {
		field, namespace := fmt.Sprintf("remove[%d].", i), cmp.Or(r.Namespace, home)
		at := in(namespace)
		if at < 0 {
			p.add(field+"namespace",
				"must be a namespace of the key's grants; %q is not", namespace)
			continue
		}
		g := &grants[at]
		g.Permissions = without(p, field+"permissions", namespace, g.Permissions, r.Permissions)
		g.Roles = without(p, field+"roles", namespace, g.Roles, r.Roles)
		g.Connected = g.Connected && !r.Connected
		if len(g.Permissions)+len(g.Roles) == 0 {
			grants = slices.Delete(grants, at, at+1)
		}
	}
	for i, a := range e.Add {
		namespace := cmp.Or(a.Namespace, home)
		at := in(namespace)
		if at < 0 {
			at = len(grants)
			grants = append(grants, keystore.Grant{Namespace: namespace})
		}
		g := &grants[at]
		g.Permissions = slices.Concat(g.Permissions, a.Permissions)
		g.Roles = slices.Concat(g.Roles, a.Roles)
		g.Connected = g.Connected || a.Connected
		if len(g.Permissions)+len(g.Roles) == 0 {
			p.add(fmt.Sprintf("add[%d].permissions", i),
				"must not be empty unless the grant in %q has a permission or a role", namespace)
		}
	}
	return grants
}

// without returns a list without some of its elements. An element that is not in the list is an
// error.
func without[T comparable](p *fieldErrors, field, namespace string, list, remove []T) []T {
	for i, v := range remove {
		if !slices.Contains(list, v) {
			p.add(fmt.Sprintf("%s[%d]", field, i),
				"must be in the key's grant in %q; %v is not", namespace, v)
		}
	}
	return slices.DeleteFunc(slices.Clone(list),
		func(v T) bool { return slices.Contains(remove, v) })
}

// EditKey changes a key.
func (k *Keystore) EditKey(
	ctx context.Context, c Caller, id string, patch KeyPatch, o ChangeOptions,
) (*keystore.Key, node.Propagation, error) {
	var key *keystore.Key
	p, err := k.change(ctx, c, o.Wait, func(tx keystore.Tx, auth authority) error {
		before, err := keyToUpdate(tx, auth, id, o)
		if err != nil {
			return err
		}
		patch := patch
		patch.wrong = fieldErrorsOf(ctx)
		if len(patch.NewRoles) > 0 {
			names := patch.rolesOr(before)
			auth, err = k.createRoles(tx, auth, before.Namespace, patch.NewRoles, &names,
				&patch.wrong)
			if err != nil {
				return err
			}
			patch.Roles = &names
		}
		if key, err = patch.apply(auth, before); err != nil {
			return err
		}
		if err := authorize(auth, before, key); err != nil {
			return err
		}
		if key.Owner != before.Owner {
			if err := k.keyCapacityIn(tx, auth).checkOwner(key); err != nil {
				return err
			}
		}
		return updateKey(tx, auth, "key.edit", before, key)
	})
	return key, p, err
}

// rolesOr returns the roles of the home grant after the patch.
func (patch KeyPatch) rolesOr(before *keystore.Key) []string {
	if patch.Roles != nil {
		return slices.Clone(*patch.Roles)
	}
	if g := before.HomeGrant(); g != nil {
		return slices.Clone(g.Roles)
	}
	return nil
}

// apply returns the patched key.
func (patch KeyPatch) apply(auth authority, before *keystore.Key) (*keystore.Key, error) {
	p := slices.Clone(patch.wrong)
	after := *before
	after.Grants, after.AllowedIPs = slices.Clone(before.Grants), slices.Clone(before.AllowedIPs)
	set(&after.Name, patch.Name)
	set(&after.Active, patch.Active)
	set(&after.AllowedIPs, patch.AllowedIPs)
	set(&after.Owner, patch.Owner)
	patch.Limits.apply(&after.Limits)
	set(&after.Plan, patch.Plan)
	if patch.ExpiresAt != nil &&
		!patch.ExpiresAt.Truncate(time.Microsecond).Equal(before.ExpiresAt) {
		p.add("expires_at", "cannot change after the key was created; create another key")
	}
	after.Metadata = merged(before.Metadata, patch.Metadata, patch.ClearMetadata)
	patchesHome := patch.Permissions != nil || patch.Roles != nil || patch.Connected != nil
	switch {
	case patchesHome && patch.Grants != nil:
		p.add("grants", "must not be combined with permissions, access, roles or connected, "+
			"because it replaces all grants")
	case !patch.Edits.empty():
		after.Grants = patch.Edits.apply(&p, after.Grants, after.Namespace)
	case patch.Grants != nil:
		after.Grants = slices.Clone(*patch.Grants)
	case patchesHome:
		home := after.HomeGrant()
		if home == nil {
			after.Grants = slices.Insert(after.Grants, 0,
				keystore.Grant{Namespace: after.Namespace})
			home = &after.Grants[0]
		}
		set(&home.Permissions, patch.Permissions)
		set(&home.Roles, patch.Roles)
		set(&home.Connected, patch.Connected)
	}
	p.name(before.Name, after.Name)
	p.texts("metadata", before.Metadata, after.Metadata)
	p.addresses(after.AllowedIPs)
	p.limits(after.Limits)
	if after.Plan != before.Plan {
		p.plan(auth.policy, "plan", after.Namespace, after.Plan)
	}
	if after.Owner != before.Owner {
		p.owner(auth, after.Owner)
	}
	if patchesHome || patch.Grants != nil || !patch.Edits.empty() {
		p.keyRoles(auth.policy.Namespace(after.Namespace), &after)
		p.grants(auth, after.Namespace, after.Grants, patchesHome)
	}
	if err := p.err(); err != nil {
		return nil, err
	}
	normalizeKey(&after)
	return &after, nil
}

func set[T any](field *T, value *T) {
	if value != nil {
		*field = *value
	}
}

// authorize checks what an edit of a key adds (docs/authority.md, rule 6), and what it removes from
// a key in a `grow_only` namespace.
func authorize(auth authority, before, after *keystore.Key) error {
	had := before.Grants
	if after.Owner != before.Owner {
		if err := auth.checkActsFor(after.Owner); err != nil {
			return err
		}
		had = nil // checked like a new key
	}
	raises := !auth.policy.KeyLimits(before.Namespace, before.KeyLimits).
		Covers(auth.policy.KeyLimits(after.Namespace, after.KeyLimits))
	if after.Active && !before.Active || !within(after.AllowedIPs, before.AllowedIPs) || raises {
		had = nil // counts as giving everything
	}
	if err := auth.checkGive(had, after.Grants); err != nil {
		return err
	}
	if raises || auth.policy.Adds(had, after.Grants) {
		if err := auth.checkLimits(after); err != nil {
			return err
		}
		actsForOwner := after.Owner != before.Owner || slices.Contains(auth.owners, after.Owner)
		if err := auth.checkGiveBelow(had, after.Grants, actsForOwner); err != nil {
			return err
		}
	}
	if ns := auth.policy.Namespace(after.Namespace); ns != nil &&
		ns.EditPolicy == keystore.EditGrowOnly {
		lost := lostPermission(auth.policy, before.Grants, auth.policy, after.Grants)
		if lost != "" {
			return growOnlyError([]keystore.FieldError{{Field: "grants",
				Detail: "key " + after.ID + " would lose " + lost}}, after.ID)
		}
	}
	return nil
}

func growOnlyError(fields []keystore.FieldError, id string) error {
	return &keystore.Error{Kind: keystore.KindInvalid, Code: "grow_only",
		Detail: "the namespace's edit policy is grow_only: its keys cannot lose permissions; " +
			"create another key", Fields: fields, ID: id}
}

// lostPermission returns the text of a permission, with its namespace, that the grants before give
// under the old policy and the grants after do not give under the changed one. It returns an empty
// string if there is none.
func lostPermission(
	old *keystore.Directory, before []keystore.Grant, changed *keystore.Directory,
	after []keystore.Grant,
) string {
	has := keystore.CompileGrants(after, "")
	for i := range before {
		g := &before[i]
		gave := old.Expand(g)
		if p, lost := missingIn(changed.SetFor(has, g.Namespace, g.Connected, true), gave); lost {
			return p.String() + " in " + g.Namespace
		}
		data := gave.Data()
		for _, ns := range old.ReachedFrom(g.Namespace) {
			if p, lost := missingIn(changed.SetIn(has, ns, true), data); lost {
				return p.String() + " in " + ns.ID
			}
		}
	}
	return ""
}

// missingIn returns a permission of another set that s does not cover.
func missingIn(s, other *keystore.Set) (keystore.Permission, bool) {
	for _, p := range other.Permissions() {
		if !s.Covers(p) {
			return p, true
		}
	}
	return keystore.Permission{}, false
}
