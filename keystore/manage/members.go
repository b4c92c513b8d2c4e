package manage

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/node"
)

// ListMembers returns the members that the caller may read, newest first, each with the grants that
// the caller may read (docs/authority.md, rule 10). A member may read itself.
func (k *Keystore) ListMembers(ctx context.Context, c Caller) ([]keystore.Member, error) {
	auth, done, err := k.beginRead(ctx, c)
	if err != nil {
		return nil, err
	}
	defer done()
	if err := auth.requireAnywhere(adminMembers, "read"); err != nil && len(auth.members) == 0 {
		return nil, err
	}
	var list []keystore.Member
	for _, m := range auth.policy.AllMembers() {
		if visible := auth.visible(m); visible != nil {
			list = append(list, *visible)
		}
	}
	return list, nil
}

// visible returns a member with those grants that the caller may read, or nil if the caller may not
// read the member.
func (a authority) visible(m *keystore.Member) *keystore.Member {
	if slices.Contains(a.members, m.ID) {
		return m
	}
	if m.Unreadable != "" && !a.may(adminMembers, "read", keystore.AnyNamespace) {
		return nil
	}
	visible := *m
	visible.Grants = slices.DeleteFunc(slices.Clone(m.Grants),
		func(g keystore.Grant) bool { return !a.may(adminMembers, "read", g.Namespace) })
	if len(visible.Grants) == 0 &&
		(len(m.Grants) > 0 || a.requireAnywhere(adminMembers, "read") != nil) {
		return nil
	}
	return &visible
}

// FindMember returns a member that the caller may read, with the grants that the caller may read.
func (k *Keystore) FindMember(ctx context.Context, c Caller, id string) (*keystore.Member, error) {
	list, err := k.ListMembers(ctx, c)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(list, func(m keystore.Member) bool { return m.ID == id })
	if i < 0 {
		return nil, notFound("member")
	}
	return &list[i], nil
}

// requireMember refuses a key as caller: keys never change members or their tokens
// (docs/authority.md, rule 11).
func (a authority) requireMember() error {
	if len(a.members) == 0 {
		return &keystore.Error{Kind: keystore.KindForbidden, Code: keystore.Forbidden.Code(),
			Detail: "a key cannot change members or their tokens; use a member's token"}
	}
	return nil
}

// CreateMember creates an active member with the Name, Kind, Login, Grants and Labels of spec.
func (k *Keystore) CreateMember(
	ctx context.Context, c Caller, spec keystore.Member,
) (*keystore.Member, error) {
	var m *keystore.Member
	err := k.add(ctx, c, 0, func(tx keystore.Tx, auth authority) error {
		if err := auth.requireMember(); err != nil {
			return err
		}
		if err := auth.requireAnywhere(adminMembers, "create"); err != nil {
			return err
		}
		m = &keystore.Member{
			ID: keystore.NewMemberID(), Name: spec.Name, Kind: spec.Kind, Login: spec.Login,
			Grants: slices.Clone(spec.Grants), Labels: maps.Clone(spec.Labels), Active: true,
			CreatedAt: tx.Now(), CreatedBy: auth.actor, Version: 1,
		}
		if err := checkMember(m, auth, new(keystore.Member)); err != nil {
			return err
		}
		for _, g := range m.Grants {
			if !auth.may(adminMembers, "create", g.Namespace) {
				return permissionRequired(adminMembers, "create")
			}
		}
		if err := auth.checkGive(nil, m.Grants); err != nil {
			return err
		}
		if err := tx.InsertMember(m); err != nil {
			return loginTaken(err)
		}
		auth, err := k.checkCapacity(tx, auth, false)
		if err != nil {
			return err
		}
		if err := k.checkUngrantedMembers(auth); err != nil {
			return err
		}
		return audit(tx, auth, "member.create", m.ID, m.Touches(), nil, m)
	})
	return m, err
}

func loginTaken(err error) error {
	if errors.Is(err, keystore.ErrExists) {
		return &keystore.Error{Kind: keystore.KindConflict, Code: "exists",
			Detail: "another member has this login"}
	}
	return err
}

// checkMember checks the fields of a member and normalizes its grants. before is the member before
// the change, the zero value for a new one.
func checkMember(m *keystore.Member, auth authority, before *keystore.Member) error {
	var p fieldErrors
	if m.Kind == "" {
		m.Kind = keystore.Person
	}
	switch kinds := []keystore.MemberKind{keystore.Person, keystore.Service, keystore.Group}; {
	case !slices.Contains(kinds, m.Kind):
		p.add("kind", "must be %s, %s or %s", keystore.Person, keystore.Service, keystore.Group)
	case before.ID != "" && (m.Kind == keystore.Group) != (before.Kind == keystore.Group):
		p.add("kind", "cannot change to or from %s; create another member and transfer the keys "+
			"to it", keystore.Group)
	}
	if m.Name == "" {
		p.add("name", "is required")
	}
	p.name(before.Name, m.Name)
	p.changedText("login", before.Login, m.Login, maxName)
	p.texts("labels", before.Labels, m.Labels)
	p.grants(auth, "", m.Grants, false)
	if err := p.err(); err != nil {
		return err
	}
	normalize(m.Grants, "")
	return nil
}

// A MemberPatch describes changes of a member. Nil fields change nothing.
type MemberPatch struct {
	Name   *string
	Kind   *keystore.MemberKind
	Login  *string           // empty removes the login
	Grants *[]keystore.Grant // replaces all grants that the caller may read
	Active *bool             // false disables the member and all keys that it owns

	Labels      map[string]*string // merged into the member's (RFC 7396); nil removes a name
	ClearLabels bool               // removes all names before Labels is merged
}

// memberFor returns a member on which the caller may do an operation. It checks the version. The
// caller needs the permission in every namespace in which the member has a grant or, with anywhere,
// in any namespace.
func memberFor(
	auth authority, operation, id string, anywhere bool, o ChangeOptions,
) (*keystore.Member, error) {
	if err := auth.requireMember(); err != nil {
		return nil, err
	}
	if err := auth.requireAnywhere(adminMembers, operation); err != nil {
		return nil, err
	}
	if id == keystore.RootMember {
		return nil, &keystore.Error{Kind: keystore.KindConflict, Code: "builtin",
			Detail: "the member root cannot be changed and has no token", ID: id}
	}
	m := auth.policy.Member(id)
	if m == nil || auth.visible(m) == nil {
		return nil, notFound("member")
	}
	if m.Unreadable != "" && !auth.root {
		return nil, &keystore.Error{Kind: keystore.KindConflict, Code: "unreadable", ID: id,
			Detail: "the member's row cannot be read; only root can change it: " + m.Unreadable}
	}
	if !anywhere {
		for _, g := range m.Grants {
			if !auth.may(adminMembers, operation, g.Namespace) {
				return nil, permissionRequired(adminMembers, operation)
			}
		}
	}
	return m, o.check(m.Version)
}

// EditMember changes a member.
func (k *Keystore) EditMember(
	ctx context.Context, c Caller, id string, patch MemberPatch, o ChangeOptions,
) (*keystore.Member, node.Propagation, error) {
	var m *keystore.Member
	p, err := k.change(ctx, c, o.Wait, func(tx keystore.Tx, auth authority) error {
		onlyGrants := patch.Name == nil && patch.Kind == nil && patch.Login == nil &&
			patch.Active == nil && patch.Labels == nil && !patch.ClearLabels
		before, err := memberFor(auth, "update", id, onlyGrants, o)
		if err != nil {
			return err
		}
		after := *before
		set(&after.Name, patch.Name)
		set(&after.Kind, patch.Kind)
		set(&after.Login, patch.Login)
		set(&after.Active, patch.Active)
		after.Labels = merged(before.Labels, patch.Labels, patch.ClearLabels)
		if patch.Grants != nil {
			if after.Grants, err = auth.replaceGrants(before, *patch.Grants); err != nil {
				return err
			}
		} else {
			after.Grants = slices.Clone(before.Grants)
		}
		if after.Unreadable = ""; before.Unreadable != "" && patch.Grants == nil {
			return rowUnreadable("grants", before.Unreadable)
		}
		if err := checkMember(&after, auth, before); err != nil {
			return err
		}
		if after.Login != before.Login || after.Active && !before.Active {
			if err := auth.checkSignIn(id, tx.OwnedHomes); err != nil {
				return err
			}
		}
		after.Version++
		if err := tx.UpdateMember(&after); err != nil {
			return loginTaken(err)
		}
		narrows := !auth.policy.Adds(before.Grants, after.Grants)
		if _, err := k.checkCapacity(tx, auth, narrows); err != nil {
			return err
		}
		m = auth.visible(&after)
		if m == nil {
			m = &keystore.Member{ID: after.ID, Name: after.Name, Version: after.Version}
		}
		return audit(tx, auth, "member.edit", id, union(before.Touches(), after.Touches()), before,
			&after)
	})
	return m, p, err
}

// replaceGrants returns a member's grants after those that the caller may read were replaced. A
// grant may change only in a namespace in which the caller may update members and covers the grant
// as it was. The member keeps the grants that the caller may not read.
func (a authority) replaceGrants(
	m *keystore.Member, wanted []keystore.Grant,
) ([]keystore.Grant, error) {
	in := func(list []keystore.Grant, namespace string) []keystore.Grant {
		i := slices.IndexFunc(list, func(g keystore.Grant) bool { return g.Namespace == namespace })
		if i < 0 {
			return nil
		}
		return list[i : i+1]
	}
	visible := a.visible(m).Grants
	for _, g := range m.Grants {
		if in(visible, g.Namespace) != nil {
			continue
		}
		if in(wanted, g.Namespace) != nil {
			return nil, permissionRequired(adminMembers, "read")
		}
		wanted = append(slices.Clone(wanted), g)
	}
	for _, g := range slices.Concat(m.Grants, wanted) {
		before, after := in(m.Grants, g.Namespace), in(wanted, g.Namespace)
		if len(before) == len(after) && sameGrant(before[0], after[0]) {
			continue
		}
		if !a.may(adminMembers, "update", g.Namespace) {
			return nil, permissionRequired(adminMembers, "update")
		}
		if err := a.checkGive(nil, before); err != nil {
			return nil, exceedsCaller(
				"changing a member's grant requires all of its permissions: %s", err)
		}
		if err := a.checkGive(before, after); err != nil {
			return nil, err
		}
	}
	return wanted, nil
}

func sameGrant(a, b keystore.Grant) bool {
	return a.Connected == b.Connected && a.Own() == b.Own() && sameNames(a.Roles, b.Roles)
}

// DeleteMember deletes a member and revokes its token. It returns the member as it was. A member
// that owns keys which are not revoked cannot be deleted.
func (k *Keystore) DeleteMember(
	ctx context.Context, c Caller, id string, o ChangeOptions,
) (*keystore.Member, node.Propagation, error) {
	var m *keystore.Member
	p, err := k.change(ctx, c, o.Wait, func(tx keystore.Tx, auth authority) (err error) {
		if m, err = memberFor(auth, "delete", id, false, o); err != nil {
			return err
		}
		n, err := tx.KeysOwnedBy(id)
		if err != nil {
			return err
		}
		if n > 0 {
			return &keystore.Error{Kind: keystore.KindConflict, Code: "in_use",
				Detail: fmt.Sprintf("the member owns keys that are not revoked (%d); revoke them "+
					"or transfer them first", n), ID: id}
		}
		if err := revokeMemberToken(tx, auth, id, "the member was deleted"); err != nil {
			return err
		}
		if err := tx.DeleteMember(id); err != nil {
			return err
		}
		deleted := m
		m = auth.visible(m)
		return audit(tx, auth, "member.delete", id, deleted.Touches(), deleted, nil)
	})
	return m, p, err
}

// revokeMemberToken revokes a member's token, if it has one.
func revokeMemberToken(tx keystore.Tx, auth authority, member, reason string) error {
	token, err := tx.PersonalKey(member)
	if err != nil || token == nil {
		return err
	}
	_, err = revoke(tx, auth, token, reason)
	return err
}

// MemberTokens returns the keys of the tokens of those members that the caller may read, by member.
// A member without a token is left out. The keys hold digests, which must not be shown.
func (k *Keystore) MemberTokens(
	ctx context.Context, c Caller, members []string,
) (map[string]keystore.Key, error) {
	auth, done, err := k.beginRead(ctx, c)
	if err != nil {
		return nil, err
	}
	defer done()
	readable := slices.DeleteFunc(slices.Clone(members), func(id string) bool {
		m := auth.policy.Member(id)
		return m == nil || auth.visible(m) == nil
	})
	tokens := make(map[string]keystore.Key, len(readable))
	if len(readable) == 0 {
		return tokens, nil
	}
	keys, err := k.Database().MemberTokens(ctx, readable)
	if err != nil {
		return nil, k.StoreFailed("reading the tokens of members", err)
	}
	for _, key := range keys {
		tokens[key.Owner] = key
	}
	return tokens, nil
}

// MaySignInAs reports whether a caller may create a token of a member, set its login and enable it.
// It exists to decide what an interface offers, like the methods in may.go, but it has to read from
// the database.
func (k *Keystore) MaySignInAs(ctx context.Context, c Caller, member string) (bool, error) {
	auth, done, err := k.beginRead(ctx, c)
	if err != nil {
		return false, err
	}
	defer done()
	if _, err := memberFor(auth, "update", member, true, ChangeOptions{}); err != nil {
		return false, nil // a refusal
	}
	err = auth.checkSignIn(member, func(member string) ([]string, error) {
		return k.Database().OwnedHomes(ctx, member)
	})
	if refusal, ok := errors.AsType[*keystore.Error](err); ok &&
		refusal.Kind == keystore.KindForbidden {
		return false, nil
	}
	if err != nil {
		return false, k.StoreFailed("reading the namespaces of a member's keys", err)
	}
	return true, nil
}

// A TokenSpec describes a new token of a member.
type TokenSpec struct {
	ExpiresAt  time.Time      // zero means never
	AllowedIPs []netip.Prefix // empty allows all addresses
}

// NewMemberToken creates a token for a member and revokes the previous one. The caller must be
// allowed to let somebody sign in as the member (docs/authority.md, rule 7). It increments the
// member's version, so that a repeated request with the same IfVersion creates no second token.
func (k *Keystore) NewMemberToken(
	ctx context.Context, c Caller, id string, spec TokenSpec, o ChangeOptions,
) (*keystore.Member, keystore.Token, node.Propagation, error) {
	var m *keystore.Member
	var token keystore.Token
	p, err := k.change(ctx, c, o.Wait, func(tx keystore.Tx, auth authority) (err error) {
		before, err := memberFor(auth, "update", id, true, o)
		if err != nil {
			return err
		}
		if before.Kind == keystore.Group {
			return &keystore.Error{Kind: keystore.KindConflict, Code: "no_token", ID: id,
				Detail: "a group has no token; people act for it when they sign in to a site with " +
					"trust_groups. Create a member of kind service for a program"}
		}
		if err := auth.checkSignIn(id, tx.OwnedHomes); err != nil {
			return err
		}
		if before.Unreadable != "" {
			return rowUnreadable("grants", before.Unreadable)
		}
		after := *before
		after.Version++
		key := &keystore.Key{
			ID: keystore.NewID(), Prefix: keystore.MemberPrefix, Name: after.Name,
			Namespace: keystore.DefaultNamespace, Owner: id, Personal: true,
			CreatedBy: auth.actor, Active: true, CreatedAt: tx.Now(),
			ExpiresAt:  spec.ExpiresAt.UTC().Truncate(time.Microsecond),
			AllowedIPs: slices.Clone(spec.AllowedIPs), Version: 1,
		}
		var p fieldErrors
		p.addresses(key.AllowedIPs)
		p.expiry(key.ExpiresAt, tx.Now())
		if err := p.err(); err != nil {
			return err
		}
		// Otherwise a leaked token could replace itself with one that has no limits.
		if slices.Contains(auth.members, id) {
			if err := auth.checkCredentialLimits(key); err != nil {
				return err
			}
		}
		if err := revokeMemberToken(tx, auth, id, "replaced by a new token"); err != nil {
			return err
		}
		normalizeKey(key)
		token = k.TokenKey().Generate(keystore.MemberPrefix, key.ID)
		key.Secrets = []keystore.Secret{{Digest: token.Digest(), CreatedAt: tx.Now()}}
		refused, err := insertKeys(tx, auth, "member.token", []*keystore.Key{key})
		if err != nil {
			return err
		}
		if refused[0] != nil {
			return refused[0]
		}
		m = auth.visible(&after)
		return tx.UpdateMember(&after)
	})
	if err != nil {
		return nil, keystore.Token{}, p, err
	}
	return m, token, p, nil
}
