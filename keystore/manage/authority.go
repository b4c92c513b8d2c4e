package manage

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// A Caller is who asks for a managing operation. The zero value may do nothing.
type Caller struct {
	root   bool
	record *keystore.Record // the credential: a key that manages, or a member's token
	member string           // the member that acts; empty: a key, or nobody
	from   string
}

// Root is whoever Caddy's admin endpoint lets in: the member `root`, who may do everything. from is
// the address it comes from.
func Root(from string) Caller { return Caller{root: true, member: keystore.RootMember, from: from} }

// KeyCaller is a key that manages, just looked up and found alive.
func KeyCaller(r *keystore.Record, from string) Caller { return Caller{record: r, from: from} }

// MemberCaller is a member, by its own token that was just looked up and found alive.
func MemberCaller(token *keystore.Record, from string) Caller {
	return Caller{record: token, member: token.Owner, from: from}
}

// fresh is reading under the database's current policy. It waits for the caller's turn to read;
// done ends the turn.
func (k *Keystore) beginRead(ctx context.Context, c Caller) (auth authority, done func(), err error) {
	if done, err = k.reads.take(ctx, c); err != nil {
		return auth, nil, err
	}
	err = k.WithCurrent(ctx, func() error {
		policy,
			err := k.CurrentPolicy(func(since keystore.Position) (*keystore.Policy,
			error) {
			return k.Database().Policy(ctx, since)
		})
		if err != nil {
			return err
		}
		auth = k.authorityUnder(c, policy)
		return nil
	})
	if err != nil {
		done()
		return auth, nil, k.StoreFailed("reading namespaces, roles and members", err)
	}
	return auth, done, nil
}

// Actor is the caller's id in `created_by`, `revoked_by` and the audit log: [keystore.RootMember],
// a member's id, a key's id, or empty for the zero Caller.
func (c Caller) Actor() string {
	if c.member != "" || c.record == nil {
		return c.member
	}
	return c.record.KeyID
}

// Member is the member that acts, empty for a key.
func (c Caller) Member() string { return c.member }

// Credential is the id of the key, or of the record of the member's token, that the caller has
// shown; empty for neither.
func (c Caller) Credential() string {
	if c.record == nil {
		return ""
	}
	return c.record.KeyID
}

// May refuses a caller that may do an operation ("read", "create", …) on an admin resource
// ("admin.keys", …) in no namespace at all: KindForbidden. Each managing operation checks for
// itself what it is about; this is to say so before a body is read.
func (k *Keystore) May(c Caller, resource, operation string) error {
	return k.authorityOf(c).requireAnywhere(resource, operation)
}

// MayIn reports whether a caller may do an operation on an admin resource in one namespace, or with
// [keystore.AnyNamespace] in all of them. It is for what people are offered: each managing
// operation checks for itself.
func (k *Keystore) MayIn(c Caller, resource, operation, namespace string) bool {
	return k.authorityOf(c).may(resource, operation, namespace)
}

// The product's own resources.
const (
	adminKeys       = "admin.keys"
	adminNamespaces = "admin.namespaces"
	adminRoles      = "admin.roles"
	adminMembers    = "admin.members"
	adminAudit      = "admin.audit"
	adminNodes      = "admin.nodes"
)

// authority is what a caller holds under one policy. It is made from what the node knows to read,
// and anew inside the transaction to change.
type authority struct {
	root   bool
	actor  string // id in created_by, revoked_by and the audit log
	member string // that acts; empty: a key
	from   string
	// id of the key, or of the record of the member's token, that was shown; empty for neither
	credential string
	owner      string // whom the caller's new keys act for
	policy     *keystore.Directory
	keyGrants  *keystore.CompiledGrants // of a key that acts, nil otherwise
	// of the member that acts, or that the key acts for; nil: root, whom nothing bounds
	memberGrants *keystore.CompiledGrants
	expiresAt    time.Time
	allowedIPs   []netip.Prefix
}

// reading is the caller's authority as this node sees it.
func (k *Keystore) authorityOf(c Caller) authority { return k.authorityUnder(c, k.Policy()) }

// readingUnder is reading under another policy.
func (k *Keystore) authorityUnder(c Caller, policy *keystore.Directory) authority {
	auth := authority{root: c.root, actor: c.Actor(), member: c.member, from: c.from,
		credential: c.Credential(), owner: c.member, policy: policy}
	switch {
	case c.root:
	case c.member != "":
		auth.memberGrants = auth.policy.GrantsOf(c.member)
	case c.record != nil:
		auth.keyGrants, auth.owner, auth.memberGrants = c.record.Grants(), c.record.Owner, auth.policy.GrantsOf(c.record.Owner)
	default:
		auth.memberGrants = keystore.NoGrants
	}
	if c.record != nil {
		auth.allowedIPs = c.record.AllowedIPs
	}
	return auth
}

// changing is the caller's authority at the moment of the change: who was revoked or narrowed since
// the request came in does not get through.
func (k *Keystore) authorityIn(c Caller, tx keystore.Tx) (authority, error) {
	policy, err := k.policyIn(tx)
	if err != nil {
		return authority{}, err
	}
	auth := k.authorityOf(c)
	auth.policy = policy
	if c.root {
		return auth, nil
	}
	if c.record != nil {
		key, err := tx.Key(c.record.KeyID)
		switch {
		case errors.Is(err, keystore.ErrNotFound):
			return auth, &keystore.Error{Kind: keystore.KindForbidden, Code: "key_revoked",
				Detail: "the key that asks has been deleted"}
		case err != nil:
			return auth, err
		case key.Status(tx.Now()) != keystore.StatusActive:
			return auth,
				&keystore.Error{Kind: keystore.KindForbidden,
					Code:   "key_" + string(key.Status(tx.Now())),
					Detail: "the key that asks is " + string(key.Status(tx.Now()))}
		case !key.Accepts(c.record.Digest, tx.Now()):
			return auth, &keystore.Error{Kind: keystore.KindForbidden, Code: "key_revoked",
				Detail: "the key that asks has another token by now"}
		}
		if auth.keyGrants != nil {
			auth.keyGrants, auth.owner = keystore.CompileGrants(key.Grants, key.Owner), key.Owner
		}
		auth.expiresAt, auth.allowedIPs = key.ExpiresAt, key.AllowedIPs
	}
	auth.memberGrants = policy.GrantsOf(auth.owner)
	if auth.memberGrants == keystore.NoGrants && auth.owner != "" {
		return auth,
			&keystore.Error{Kind: keystore.KindForbidden, Code: keystore.OwnerDisabled.Code(),
				Detail: "the member that asks, or that the key acts for, is disabled"}
	}
	return auth, nil
}

// policyIn is the policy inside a transaction.
func (k *Keystore) policyIn(tx keystore.Tx) (*keystore.Directory, error) {
	policy, err := k.CurrentPolicy(tx.Policy)
	if err != nil {
		return nil, fmt.Errorf("reading namespaces, roles and members: %w", err)
	}
	return policy, nil
}

// all asks a question of each set that bounds the caller in a namespace: wide leaves out what
// reaches the namespace alone, without what will be connected to it.
func (a authority) everySet(namespace string, wide bool, ask func(*keystore.Set) bool) bool {
	if a.root {
		return true
	}
	return (a.keyGrants == nil || ask(a.policy.SetFor(a.keyGrants, namespace, wide, true))) &&
		(a.memberGrants == nil || ask(a.policy.SetFor(a.memberGrants, namespace, wide, false)))
}

func need(resource, operation string) keystore.Need {
	n := keystore.Need{Class: keystore.Write, Resource: resource, Operation: operation}
	if operation == "read" {
		n.Class, n.Operation = keystore.Read, ""
	}
	return n
}

// may reports whether the caller may do an operation on a resource of a namespace.
func (a authority) may(resource, operation, namespace string) bool {
	return a.everySet(namespace, false,
		func(s *keystore.Set) bool { return s.Allows(need(resource, operation)) })
}

// covers reports whether the caller holds a permission in a namespace, so that it may give it.
func (a authority) covers(namespace string, wide bool, p keystore.Permission) bool {
	return a.everySet(namespace, wide, func(s *keystore.Set) bool { return s.Covers(p) })
}

// uncovered returns a permission of a list that the caller does not hold in a namespace. It keeps
// in covering, which may be nil, the sets that cover the list: many namespaces share a few.
func (a authority) uncovered(
	namespace string, wide bool, list []keystore.Permission, covering map[*keystore.Set]bool,
) (p keystore.Permission, found bool) {
	a.everySet(namespace, wide, func(s *keystore.Set) bool {
		if covering[s] {
			return true
		}
		i := slices.IndexFunc(list, func(p keystore.Permission) bool { return !s.Covers(p) })
		if found = i >= 0; found {
			p = list[i]
		} else if covering != nil {
			covering[s] = true
		}
		return !found
	})
	return p, found
}

// readable returns the namespaces in which the caller may read a resource; all is true when these
// are all there are.
func (a authority) readable(resource string) (list []string, all bool) {
	if a.may(resource, "read", keystore.AnyNamespace) {
		return nil, true
	}
	list = []string{}
	for ns := range a.policy.Namespaces() {
		if a.may(resource, "read", ns.ID) {
			list = append(list, ns.ID)
		}
	}
	slices.Sort(list)
	return list, false
}

// anywhere refuses a caller that may do the operation in no namespace at all.
func (a authority) requireAnywhere(resource, operation string) error {
	if a.may(resource, operation, keystore.AnyNamespace) {
		return nil
	}
	for ns := range a.policy.Namespaces() {
		if a.may(resource, operation, ns.ID) {
			return nil
		}
	}
	return permissionRequired(resource, operation)
}

func permissionRequired(resource, operation string) *keystore.Error {
	return &keystore.Error{Kind: keystore.KindForbidden, Code: keystore.Forbidden.Code(),
		Detail: fmt.Sprintf("this takes %s:%s", resource, operation), Needed: resource + ":" +
			operation}
}

// on checks an operation on an object of a namespace. What the caller may not read does not exist
// for it (spec 7a.5).
func (a authority) requireOn(resource, operation, namespace, what string) error {
	switch {
	case a.may(resource, operation, namespace):
		return nil
	case a.may(resource, "read", namespace):
		return permissionRequired(resource, operation)
	}
	return notFound(what)
}

func notFound(what string) error {
	return &keystore.Error{Kind: keystore.KindNotFound, Code: "not_found",
		Detail: "there is no such " + what}
}

// exceeds refuses to give what the caller does not hold.
func exceedsCaller(format string, args ...any) error {
	return &keystore.Error{Kind: keystore.KindForbidden, Code: "exceeds_caller",
		Detail: fmt.Sprintf(format, args...)}
}

// give checks what grants add to those that were there before, nil for a new key: each added
// permission, and each of an added role, must be covered by what the caller holds in that
// namespace, with the same reach (spec 7a.1).
func (a authority) checkGive(before, after []keystore.Grant) error {
	if a.root {
		return nil
	}
	for i := range after {
		g := &after[i]
		if !keystore.HasGrant(before, g) {
			switch {
			case g.Namespace == keystore.AnyNamespace && !a.hasGrantEverywhere():
				return exceedsCaller("a grant in all namespaces can be given only by who holds one")
			case !a.hasAnyIn(g.Namespace):
				return exceedsCaller("there is no namespace %q in which the caller holds anything",
					g.Namespace)
			}
		}
		for _, p := range a.policy.Added(before, g) {
			if !a.covers(g.Namespace, g.Connected, p) {
				return exceedsCaller("%s in namespace %q%s is more than the caller has", p, g.Namespace,
					connectedSuffix(g.Connected))
			}
		}
	}
	return nil
}

// knows reports whether the caller holds anything in a namespace, or would if there were such a
// one. To all others it is as if there were none.
func (a authority) hasAnyIn(namespace string) bool {
	return a.everySet(namespace, false, func(s *keystore.Set) bool { return len(s.Permissions()) > 0 })
}

// named is a namespace in the text of a refusal, by its id only for who knows it.
func (a authority) describe(namespace string) string {
	if a.hasAnyIn(namespace) {
		return "namespace " + strconv.Quote(namespace)
	}
	return "a namespace that the caller knows nothing of"
}

func connectedSuffix(connected bool) string {
	if connected {
		return ", connected namespaces included,"
	}
	return ""
}

// holdsAnywhere reports whether all that bounds the caller has a grant in all namespaces.
func (a authority) hasGrantEverywhere() bool {
	for _, h := range []*keystore.CompiledGrants{a.keyGrants, a.memberGrants} {
		if h != nil && !h.Everywhere() {
			return false
		}
	}
	return true
}

// giveBelow is give for what keys' grants reach below their namespaces. owned says that the key's
// owner, who bounds it there, holds no more than the caller does.
func (a authority) checkGiveBelow(before, after []keystore.Grant, owned bool) error {
	if a.root {
		return nil
	}
	if owned {
		a.memberGrants = nil
	}
	for i := range after {
		g := &after[i]
		if err := a.coverDescendants(g.Namespace,
			slices.DeleteFunc(a.policy.Added(before, g), keystore.Permission.IsAdmin)); err != nil {
			return err
		}
	}
	return nil
}

// coverReached refuses permissions unless the caller holds them in all namespaces that the `reach`
// of one takes in.
func (a authority) coverDescendants(above string, list []keystore.Permission) error {
	if len(list) == 0 {
		return nil
	}
	covering := make(map[*keystore.Set]bool)
	for _, ns := range a.policy.ReachedFrom(above) {
		if p, found := a.uncovered(ns.ID, false, list, covering); found {
			return exceedsCaller("%s reaches down from namespace %q to %s, where it is more than the "+
				"caller has", p, above, a.describe(ns.ID))
		}
	}
	return nil
}

// actsFor refuses to act for a member (spec 7a.2): it takes to be that member, or a member who
// holds admin.members:update in every namespace of that one's grants and covers them all; only root
// acts for root. Who may not read a member is not told whether there is one.
func (a authority) checkActsFor(id string) error {
	switch {
	case a.root, a.member != "" && a.member == id:
		return nil
	case a.member == "":
		return exceedsCaller("a key acts for nobody but its own owner")
	case id == keystore.RootMember:
		return exceedsCaller("only root acts for root")
	}
	m := a.policy.Member(id)
	if m == nil || a.visible(m) == nil || m.Unreadable != "" ||
		slices.ContainsFunc(m.Grants, func(g keystore.Grant) bool {
			return !a.may(adminMembers, "update",
				g.Namespace)
		}) {
		return exceedsCaller("to act for member %s takes %s:update in every namespace where it has a "+
			"grant", id, adminMembers)
	}
	if len(m.Grants) == 0 && a.requireAnywhere(adminMembers, "update") != nil {
		return permissionRequired(adminMembers, "update")
	}
	if err := a.checkGive(nil, m.Grants); err != nil {
		return exceedsCaller("to act for this member takes all it holds: %s", err)
	}
	return nil
}

// outlive checks that a key which a key makes, or widens, ends no later and may be used from no
// other address (spec 7a.6).
func (a authority) checkLimits(k *keystore.Key) error {
	if a.member != "" {
		return nil
	}
	return a.checkCredentialLimits(k)
}

// bounded checks a key against the end and the addresses of the credential that asks.
func (a authority) checkCredentialLimits(k *keystore.Key) error {
	if !a.expiresAt.IsZero() && (k.ExpiresAt.IsZero() || k.ExpiresAt.After(a.expiresAt)) {
		return exceedsCaller("the key would outlive the one that makes it, which expires at %s",
			a.expiresAt.Format(time.RFC3339))
	}
	if len(a.allowedIPs) > 0 && !within(k.AllowedIPs, a.allowedIPs) {
		return exceedsCaller("the key could be used from addresses that the one that makes it may not " +
			"be used from")
	}
	return nil
}

// within reports whether whoever is in one of inner is in one of outer. An empty list means any
// address.
func within(inner, outer []netip.Prefix) bool {
	if len(outer) == 0 {
		return true
	}
	for _, in := range inner {
		if !slices.ContainsFunc(outer,
			func(out netip.Prefix) bool {
				return out.Bits() <= in.Bits() &&
					out.Contains(in.Addr())
			}) {
			return false
		}
	}
	return len(inner) > 0
}

// MemberByLogin returns the caller for a login that Caddy has verified. For nobody, or a disabled
// member, it returns the zero Caller. now was read after the request arrived. An error means that
// the member cannot be known.
func (k *Keystore) MemberByLogin(
	ctx context.Context, login, from string, now time.Time,
) (Caller, error) {
	m, err := k.LookupLogin(ctx, login, now)
	if m == nil {
		return Caller{}, err
	}
	return Caller{member: m.ID, from: from}, nil
}
