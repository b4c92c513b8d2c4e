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

// ListMembers returns the members the caller may read, newest first, each with the grants that it
// may see (spec 7a.5). A member may read itself.
func (k *Keystore) ListMembers(ctx context.Context, c Caller) ([]keystore.Member, error) {
	auth, done, err := k.beginRead(ctx, c)
	if err != nil {
		return nil, err
	}
	defer done()
	if err := auth.requireAnywhere(adminMembers, "read"); err != nil && auth.member == "" {
		return nil, err
	}
	var list []keystore.Member
	for _, m := range auth.policy.AllMembers() {
		if seen := auth.visible(m); seen != nil {
			list = append(list, *seen)
		}
	}
	return list, nil
}

// seenOf returns what the caller may see of a member, nil for nothing.
func (a authority) visible(m *keystore.Member) *keystore.Member {
	if a.member == m.ID {
		return m
	}
	if m.Unreadable != "" && !a.may(adminMembers, "read", keystore.AnyNamespace) {
		return nil
	}
	seen := *m
	seen.Grants = slices.DeleteFunc(slices.Clone(m.Grants),
		func(g keystore.Grant) bool { return !a.may(adminMembers, "read", g.Namespace) })
	if len(seen.Grants) == 0 && (len(m.Grants) > 0 || a.requireAnywhere(adminMembers, "read") != nil) {
		return nil
	}
	return &seen
}

// FindMember returns a member the caller may read, with the grants that it may see.
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

// onlyMembers refuses keys: they never write members or their tokens (spec 7a.6).
func (a authority) requireMember() error {
	if a.member == "" {
		return &keystore.Error{Kind: keystore.KindForbidden, Code: keystore.Forbidden.Code(),
			Detail: "a key never changes members or their tokens; a member does, or root"}
	}
	return nil
}

// CreateMember makes one of spec's Name, Kind, Login, Grants and Labels. It is active.
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
		m = &keystore.Member{ID: keystore.NewMemberID(), Name: spec.Name, Kind: spec.Kind,
			Login:  spec.Login,
			Grants: slices.Clone(spec.Grants),
			Labels: maps.Clone(spec.Labels), Active: true, CreatedAt: tx.Now(), CreatedBy: auth.actor,
			Version: 1}
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

// check checks a member that was changed from before, or is new if that is the zero value.
func checkMember(m *keystore.Member, auth authority, before *keystore.Member) error {
	var p fieldErrors
	if m.Kind == "" {
		m.Kind = keystore.Person
	}
	if m.Kind != keystore.Person && m.Kind != keystore.Service {
		p.add("kind", "is %s or %s", keystore.Person, keystore.Service)
	}
	if m.Name == "" {
		p.add("name", "is required")
	}
	p.changedText("name", before.Name, m.Name, maxName)
	p.changedText("login", before.Login, m.Login, maxName)
	p.texts("labels", before.Labels, m.Labels)
	p.grants(auth, "", m.Grants, false)
	if err := p.err(); err != nil {
		return err
	}
	normalise(m.Grants, "")
	return nil
}

// A MemberPatch changes what is not nil.
type MemberPatch struct {
	Name   *string
	Kind   *keystore.MemberKind
	Login  *string           // empty: nobody
	Grants *[]keystore.Grant // all that the caller may see
	Active *bool             // false disables the member and all its keys

	Labels      map[string]*string // as KeyPatch.Metadata
	ClearLabels bool
}

// memberTo returns a member that the caller may do an operation on, at the version it expects: in
// every namespace where it has a grant, unless anywhere is enough.
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
			Detail: "the member root cannot be changed, and has no token", ID: id}
	}
	held := auth.policy.Member(id)
	if held == nil || auth.visible(held) == nil {
		return nil, notFound("member")
	}
	if held.Unreadable != "" && !auth.root {
		return nil, &keystore.Error{Kind: keystore.KindConflict, Code: "unreadable",
			Detail: "nobody but root changes a member whose row cannot be read: " +
				held.Unreadable, ID: id}
	}
	if !anywhere {
		for _, g := range held.Grants {
			if !auth.may(adminMembers, operation, g.Namespace) {
				return nil, permissionRequired(adminMembers, operation)
			}
		}
	}
	return held, o.check(held.Version)
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
			if err := auth.checkActsFor(id); err != nil {
				return err
			}
		}
		after.Version++
		if err := tx.UpdateMember(&after); err != nil {
			return loginTaken(err)
		}
		if _, err := k.checkCapacity(tx, auth, !auth.policy.Adds(before.Grants, after.Grants)); err != nil {
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

// regrant returns a member's grants with those that the caller may see replaced. It changes only
// those of namespaces where it may, and where it covers what the member has.
func (a authority) replaceGrants(m *keystore.Member, wanted []keystore.Grant) ([]keystore.Grant, error) {
	seen := a.visible(m).Grants
	for _, g := range m.Grants {
		if !slices.ContainsFunc(seen,
			func(s keystore.Grant) bool { return s.Namespace == g.Namespace }) {
			if slices.ContainsFunc(wanted,
				func(w keystore.Grant) bool { return w.Namespace == g.Namespace }) {
				return nil, permissionRequired(adminMembers, "read")
			}
			wanted = append(slices.Clone(wanted), g)
		}
	}
	in := func(list []keystore.Grant, namespace string) []keystore.Grant {
		i := slices.IndexFunc(list, func(g keystore.Grant) bool { return g.Namespace == namespace })
		if i < 0 {
			return nil
		}
		return list[i : i+1]
	}
	for _, g := range slices.Concat(m.Grants, wanted) {
		before, after := in(m.Grants, g.Namespace), in(wanted, g.Namespace)
		if len(before) == len(after) && (len(before) == 0 || sameGrant(before[0], after[0])) {
			continue
		}
		if !a.may(adminMembers, "update", g.Namespace) {
			return nil, permissionRequired(adminMembers, "update")
		}
		if err := a.checkGive(nil, before); err != nil {
			return nil, exceedsCaller("to change what a member has takes all of it: %s", err)
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

// DeleteMember removes a member that owns no key which is not revoked, and returns what it was. Its
// token dies.
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
				Detail: fmt.Sprintf("%d keys that are not revoked act for this member; revoke "+
					"them or give them another owner first", n), ID: id}
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

// endToken revokes a member's token, if it has one.
func revokeMemberToken(tx keystore.Tx, auth authority, member, reason string) error {
	token, err := tx.PersonalKey(member)
	if err != nil || token == nil {
		return err
	}
	_, err = revoke(tx, auth, token, reason)
	return err
}

// A TokenSpec bounds a member's token.
type TokenSpec struct {
	ExpiresAt  time.Time // zero: never
	AllowedIPs []netip.Prefix
}

// NewMemberToken gives a member a token; the one it had dies. It takes to act for the member (spec
// 7a.2). The member's version goes up, so that asking again with the version that was seen before
// makes no second token.
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
		if err := auth.checkActsFor(id); err != nil {
			return err
		}
		if before.Unreadable != "" {
			return rowUnreadable("grants", before.Unreadable)
		}
		after := *before
		after.Version++
		key := &keystore.Key{
			ID: keystore.NewID(), Prefix: keystore.MemberPrefix, Name: after.Name,
			Namespace: keystore.DefaultNamespace,
			Owner:     id, Personal: true, CreatedBy: auth.actor,
			Active: true, CreatedAt: tx.Now(),
			ExpiresAt:  spec.ExpiresAt.UTC().Truncate(time.Microsecond),
			AllowedIPs: slices.Clone(spec.AllowedIPs), Version: 1,
		}
		var p fieldErrors
		p.addresses(key.AllowedIPs)
		p.expiry(key.ExpiresAt, tx.Now())
		if err := p.err(); err != nil {
			return err
		}
		// a token that leaks must not free itself from its bounds
		if c.record != nil && c.record.Personal() && id == c.member {
			if err := auth.checkCredentialLimits(key); err != nil {
				return err
			}
		}
		if err := revokeMemberToken(tx, auth, id, "a new token was made"); err != nil {
			return err
		}
		normaliseKey(key)
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
