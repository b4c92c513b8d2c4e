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

// A KeyPatch changes what is not nil.
type KeyPatch struct {
	Name   *string
	Active *bool
	// of the home grant, as the two that follow; not beside Grants
	Permissions   *[]keystore.Permission
	Roles         *[]string
	Connected     *bool
	Grants        *[]keystore.Grant // all there are
	Edits         GrantEdits
	ExpiresAt     *time.Time
	AllowedIPs    *[]netip.Prefix
	Owner         *string
	Metadata      map[string]*string // merged into what is there (RFC 7396): nil removes a name
	ClearMetadata bool               // removes all names first
	NewRoles      []keystore.Role    // see KeySpec
}

// GrantEdits change grants by their parts, whatever else they hold: namespaces are removed first,
// then parts, then parts are added. A Grant without a namespace is in the home namespace.
type GrantEdits struct {
	Add              []keystore.Grant
	Remove           []keystore.Grant // their permissions, roles and connected
	RemoveNamespaces []string         // with all that the grant there gives
}

func (e *GrantEdits) empty() bool { return len(e.Add)+len(e.Remove)+len(e.RemoveNamespaces) == 0 }

// apply returns the grants that edits make of those of a key homed in a namespace. Removing what a
// key does not have is an error: the caller would take it for removed where something else still
// gives it.
func (e *GrantEdits) apply(p *fieldErrors, grants []keystore.Grant, home string) []keystore.Grant {
	in := func(namespace string) int {
		return slices.IndexFunc(grants,
			func(g keystore.Grant) bool { return g.Namespace == namespace })
	}
	for i, namespace := range e.RemoveNamespaces {
		at := in(namespace)
		if at < 0 {
			p.add(fmt.Sprintf("remove_namespaces[%d]", i), "the key has no grant in %q", namespace)
			continue
		}
		grants = slices.Delete(grants, at, at+1)
	}
	for i, r := range e.Remove {
		field, namespace := fmt.Sprintf("remove[%d].", i), cmp.Or(r.Namespace, home)
		at := in(namespace)
		if at < 0 {
			p.add(field+"namespace", "the key has no grant in %q", namespace)
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
				"the key has none in %q: add a permission or a role", namespace)
		}
	}
	return grants
}

// without returns a list without some of its elements, which must be in it.
func without[T comparable](p *fieldErrors, field, namespace string, list, remove []T) []T {
	for i, v := range remove {
		if !slices.Contains(list, v) {
			p.add(fmt.Sprintf("%s[%d]", field, i), "the key's grant in %q does not list %v",
				namespace, v)
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
		if len(patch.NewRoles) > 0 {
			names := patch.rolesOr(before)
			if auth, err = k.createRoles(tx, auth, before.Namespace, patch.NewRoles, &names); err != nil {
				return err
			}
			patch.Roles = &names
		}
		if key, err = patch.apply(auth, before); err != nil {
			return err
		}
		if err := authorise(auth, before, key); err != nil {
			return err
		}
		if key.Owner != before.Owner {
			if err := k.keyCapacityIn(tx, auth).own(key); err != nil {
				return err
			}
		}
		return updateKey(tx, auth, "key.edit", before, key)
	})
	return key, p, err
}

// rolesOr returns the home grant's roles: the patch's, or those that the key has.
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
	var p fieldErrors
	after := *before
	after.Grants, after.AllowedIPs = slices.Clone(before.Grants), slices.Clone(before.AllowedIPs)
	set(&after.Name, patch.Name)
	set(&after.Active, patch.Active)
	set(&after.AllowedIPs, patch.AllowedIPs)
	set(&after.Owner, patch.Owner)
	if patch.ExpiresAt != nil &&
		!patch.ExpiresAt.Truncate(time.Microsecond).Equal(before.ExpiresAt) {
		p.add("expires_at", "is fixed when the key is made and never changes; make another key")
	}
	after.Metadata = merged(before.Metadata, patch.Metadata, patch.ClearMetadata)
	patchesHome := patch.Permissions != nil || patch.Roles != nil || patch.Connected != nil
	switch {
	case patchesHome && patch.Grants != nil:
		p.add("grants",
			"replaces all grants, so the home grant's permissions, access, roles and connected "+
				"cannot stand beside it")
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
	p.changedText("name", before.Name, after.Name, maxName)
	p.texts("metadata", before.Metadata, after.Metadata)
	p.addresses(after.AllowedIPs)
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
	normaliseKey(&after)
	return &after, nil
}

func set[T any](field *T, value *T) {
	if value != nil {
		*field = *value
	}
}

// authorise checks what an edit adds (spec 7a.1), and that a namespace which lets keys only grow
// has it so.
func authorise(auth authority, before, after *keystore.Key) error {
	had := before.Grants
	if after.Owner != before.Owner {
		if err := auth.checkActsFor(after.Owner); err != nil {
			return err
		}
		had = nil // checked like a mint
	}
	if after.Active && !before.Active || !within(after.AllowedIPs, before.AllowedIPs) {
		had = nil // as if all of it were given anew
	}
	if err := auth.checkGive(had, after.Grants); err != nil {
		return err
	}
	if auth.policy.Adds(had, after.Grants) {
		if err := auth.checkLimits(after); err != nil {
			return err
		}
		owned := after.Owner != before.Owner || after.Owner == auth.owner
		if err := auth.checkGiveBelow(had, after.Grants, owned); err != nil {
			return err
		}
	}
	if ns := auth.policy.Namespace(after.Namespace); ns != nil &&
		ns.EditPolicy == keystore.EditGrowOnly {
		if lost := lostPermission(auth.policy, before.Grants, auth.policy, after.Grants); lost != "" {
			return growOnlyError([]keystore.FieldError{{Field: "grants",
				Detail: "key " + after.ID + " would lose " + lost}}, after.ID)
		}
	}
	return nil
}

func growOnlyError(fields []keystore.FieldError, id string) error {
	return &keystore.Error{Kind: keystore.KindInvalid, Code: "grow_only",
		Detail: "keys of this namespace can be given more, and lose nothing; make another key", Fields: fields, ID: id}
}

// loses names something that grants gave under one policy and others do not give under another,
// empty for nothing.
func lostPermission(
	d *keystore.Directory, before []keystore.Grant, then *keystore.Directory,
	after []keystore.Grant,
) string {
	has := keystore.CompileGrants(after, "")
	for i := range before {
		g := &before[i]
		gave := d.Expand(g)
		if p, lost := missingIn(then.SetFor(has, g.Namespace, g.Connected, true), gave); lost {
			return p.String() + " in " + g.Namespace
		}
		data := gave.Data()
		for _, ns := range d.ReachedFrom(g.Namespace) {
			if p, lost := missingIn(then.SetIn(has, ns, true), data); lost {
				return p.String() + " in " + ns.ID
			}
		}
	}
	return ""
}

// missingIn returns a permission that a set does not cover of another one.
func missingIn(s, other *keystore.Set) (keystore.Permission, bool) {
	for _, p := range other.Permissions() {
		if !s.Covers(p) {
			return p, true
		}
	}
	return keystore.Permission{}, false
}
