package keystore

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"time"
)

// A Caller is who asks for a managing operation. The zero value may do nothing.
type Caller struct {
	root   bool
	record *Record // the credential: a key that manages, or a member's token
	member string  // the member that acts; empty: a key, or nobody
	from   string
}

// Root is whoever Caddy's admin endpoint lets in: the member `root`, who may do everything. from is
// the address it comes from.
func Root(from string) Caller { return Caller{root: true, member: RootMember, from: from} }

// KeyCaller is a key that manages, just looked up and found alive.
func KeyCaller(r *Record, from string) Caller { return Caller{record: r, from: from} }

// MemberCaller is a member, by its own token that was just looked up and found alive.
func MemberCaller(token *Record, from string) Caller {
	return Caller{record: token, member: token.Owner, from: from}
}

// fresh is reading under the database's current policy. It waits for the caller's turn to read;
// done ends the turn.
func (k *Keystore) fresh(ctx context.Context, c Caller) (by authority, done func(), err error) {
	if done, err = k.turns.take(ctx, c); err != nil {
		return by, nil, err
	}
	err = k.withCurrent(ctx, func() error {
		policy,
			err := k.current(func(since Position) (*Policy,
			error) {
			return k.db.Policy(ctx, since)
		})
		if err != nil {
			return err
		}
		by = k.readingUnder(c, policy)
		return nil
	})
	if err != nil {
		done()
		return by, nil, k.storeFailed("reading namespaces, roles and members", err)
	}
	return by, done, nil
}

// withCurrent calls f, which uses current. If this node is too far behind for that, it catches up
// and calls f once more.
func (k *Keystore) withCurrent(ctx context.Context, f func() error) error {
	err := f()
	if errors.Is(err, ErrTruncated) {
		if err = k.renewAnew(ctx); err == nil {
			err = f()
		}
	}
	return err
}

// current returns the node's directory with the changes since its position, which it gets from
// read. It fails with ErrTruncated if they are not known.
func (k *Keystore) current(read func(since Position) (*Policy, error)) (*Directory, error) {
	at := *k.node.position.Load() // the directory has all changes up to there, and may have more
	held := k.node.directory.Load()
	if at.Revision < 0 {
		return nil, ErrTruncated
	}
	p, err := read(at)
	if err != nil || p == nil {
		return held, err
	}
	return held.with(p, nil), nil
}

// MemberByLogin returns the caller that a user whom Caddy has verified stands for; nobody, or a
// member that is disabled, is the zero Caller. now was read after the request arrived. An error
// means that it cannot be known.
func (k *Keystore) MemberByLogin(
	ctx context.Context, login, from string, now time.Time,
) (Caller, error) {
	if err := k.underLease(ctx, cachedClock(k.clock.of(now))); err != nil {
		return Caller{}, err
	}
	m := k.Policy().memberOf(login)
	if m == nil {
		return Caller{}, nil
	}
	return Caller{member: m.ID, from: from}, nil
}

// Actor is the caller's id in `created_by`, `revoked_by` and the audit log: [RootMember], a
// member's id, a key's id, or empty for the zero Caller.
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
	return k.reading(c).anywhere(resource, operation)
}

// MayIn reports whether a caller may do an operation on an admin resource in one namespace, or with
// [AnyNamespace] in all of them. It is for what people are offered: each managing operation checks
// for itself.
func (k *Keystore) MayIn(c Caller, resource, operation, namespace string) bool {
	return k.reading(c).may(resource, operation, namespace)
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
	policy     *Directory
	key        *holding // of a key that acts, nil otherwise
	// of the member that acts, or that the key acts for; nil: root, whom nothing bounds
	owns       *holding
	expiresAt  time.Time
	allowedIPs []netip.Prefix
}

// nothing is held by a member that is not there, or disabled. No member has it.
var nothing = new(holding)

// reading is the caller's authority as this node sees it.
func (k *Keystore) reading(c Caller) authority { return k.readingUnder(c, k.Policy()) }

// readingUnder is reading under another policy.
func (k *Keystore) readingUnder(c Caller, policy *Directory) authority {
	by := authority{root: c.root, actor: c.Actor(), member: c.member, from: c.from,
		credential: c.Credential(), owner: c.member, policy: policy}
	switch {
	case c.root:
	case c.member != "":
		by.owns = by.policy.holds(c.member)
	case c.record != nil:
		by.key, by.owner, by.owns = c.record.held, c.record.Owner, by.policy.holds(c.record.Owner)
	default:
		by.owns = nothing
	}
	if c.record != nil {
		by.allowedIPs = c.record.AllowedIPs
	}
	return by
}

// holds returns what bounds a member, and keys that act for it; nil for root.
func (d *Directory) holds(member string) *holding {
	if member == RootMember {
		return nil
	}
	if m := d.members[member]; m != nil && m.Active {
		return m.holds
	}
	return nothing
}

// changing is the caller's authority at the moment of the change: who was revoked or narrowed since
// the request came in does not get through.
func (k *Keystore) changing(c Caller, tx Tx) (authority, error) {
	policy, err := k.policyIn(tx)
	if err != nil {
		return authority{}, err
	}
	by := k.reading(c)
	by.policy = policy
	if c.root {
		return by, nil
	}
	if c.record != nil {
		key, err := tx.Key(c.record.KeyID)
		switch {
		case errors.Is(err, ErrNotFound):
			return by, &Error{Kind: KindForbidden, Code: "key_revoked",
				Detail: "the key that asks has been deleted"}
		case err != nil:
			return by, err
		case key.Status(tx.Now()) != StatusActive:
			return by, &Error{Kind: KindForbidden, Code: "key_" + string(key.Status(tx.Now())),
				Detail: "the key that asks is " + string(key.Status(tx.Now()))}
		case !key.opens(c.record.Digest, tx.Now()):
			return by, &Error{Kind: KindForbidden, Code: "key_revoked",
				Detail: "the key that asks has another token by now"}
		}
		if by.key != nil {
			by.key, by.owner = holdingOf(key.Grants, key.Owner), key.Owner
		}
		by.expiresAt, by.allowedIPs = key.ExpiresAt, key.AllowedIPs
	}
	by.owns = policy.holds(by.owner)
	if by.owns == nothing && by.owner != "" {
		return by, &Error{Kind: KindForbidden, Code: OwnerDisabled.Code(),
			Detail: "the member that asks, or that the key acts for, is disabled"}
	}
	return by, nil
}

// policyIn is the policy inside a transaction.
func (k *Keystore) policyIn(tx Tx) (*Directory, error) {
	policy, err := k.current(tx.Policy)
	if err != nil {
		return nil, fmt.Errorf("reading namespaces, roles and members: %w", err)
	}
	return policy, nil
}

// all asks a question of each set that bounds the caller in a namespace: wide leaves out what
// reaches the namespace alone, without what will be connected to it.
func (a authority) all(namespace string, wide bool, ask func(*Set) bool) bool {
	if a.root {
		return true
	}
	return (a.key == nil || ask(a.policy.heldIn(a.key, namespace, wide, true))) &&
		(a.owns == nil || ask(a.policy.heldIn(a.owns, namespace, wide, false)))
}

// heldIn is what a holding gives in a namespace, or in all of them: [AnyNamespace].
func (d *Directory) heldIn(h *holding, namespace string, wide, key bool) *Set {
	if ns := d.namespaces[namespace]; ns != nil && !wide {
		return d.setIn(h, ns, key)
	}
	var parts []*Set
	for i := range h.grants {
		g := &h.grants[i]
		here := g.namespace == namespace && g.connected && !d.broken(namespace)
		if g.namespace == AnyNamespace || here {
			parts = append(parts, d.gives(g))
		}
	}
	return Union(parts...)
}

func need(resource, operation string) Need {
	n := Need{Class: Write, Resource: resource, Operation: operation}
	if operation == "read" {
		n.Class, n.Operation = Read, ""
	}
	return n
}

// may reports whether the caller may do an operation on a resource of a namespace.
func (a authority) may(resource, operation, namespace string) bool {
	return a.all(namespace, false, func(s *Set) bool { return s.Allows(need(resource, operation)) })
}

// covers reports whether the caller holds a permission in a namespace, so that it may give it.
func (a authority) covers(namespace string, wide bool, p Permission) bool {
	return a.all(namespace, wide, func(s *Set) bool { return s.Covers(p) })
}

// uncovered returns a permission of a list that the caller does not hold in a namespace. It keeps
// in covering, which may be nil, the sets that cover the list: many namespaces share a few.
func (a authority) uncovered(
	namespace string, wide bool, list []Permission, covering map[*Set]bool,
) (p Permission, found bool) {
	a.all(namespace, wide, func(s *Set) bool {
		if covering[s] {
			return true
		}
		i := slices.IndexFunc(list, func(p Permission) bool { return !s.Covers(p) })
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
	if a.may(resource, "read", AnyNamespace) {
		return nil, true
	}
	list = []string{}
	for id := range a.policy.namespaces {
		if a.may(resource, "read", id) {
			list = append(list, id)
		}
	}
	slices.Sort(list)
	return list, false
}

// anywhere refuses a caller that may do the operation in no namespace at all.
func (a authority) anywhere(resource, operation string) error {
	if a.may(resource, operation, AnyNamespace) {
		return nil
	}
	for id := range a.policy.namespaces {
		if a.may(resource, operation, id) {
			return nil
		}
	}
	return lacks(resource, operation)
}

func lacks(resource, operation string) *Error {
	return &Error{Kind: KindForbidden, Code: Forbidden.Code(),
		Detail: fmt.Sprintf("this takes %s:%s", resource, operation), Needed: resource + ":" +
			operation}
}

// on checks an operation on an object of a namespace. What the caller may not read does not exist
// for it (spec 7a.5).
func (a authority) on(resource, operation, namespace, what string) error {
	switch {
	case a.may(resource, operation, namespace):
		return nil
	case a.may(resource, "read", namespace):
		return lacks(resource, operation)
	}
	return missing(what)
}

func missing(what string) error {
	return &Error{Kind: KindNotFound, Code: "not_found", Detail: "there is no such " + what}
}

// exceeds refuses to give what the caller does not hold.
func exceeds(format string, args ...any) error {
	return &Error{Kind: KindForbidden, Code: "exceeds_caller", Detail: fmt.Sprintf(format, args...)}
}

// give checks what grants add to those that were there before, nil for a new key: each added
// permission, and each of an added role, must be covered by what the caller holds in that
// namespace, with the same reach (spec 7a.1).
func (a authority) give(before, after []Grant) error {
	if a.root {
		return nil
	}
	for i := range after {
		g := &after[i]
		if !gives(before, g) {
			switch {
			case g.Namespace == AnyNamespace && !a.holdsAnywhere():
				return exceeds("a grant in all namespaces can be given only by who holds one")
			case !a.knows(g.Namespace):
				return exceeds("there is no namespace %q in which the caller holds anything",
					g.Namespace)
			}
		}
		for _, p := range a.policy.added(before, g) {
			if !a.covers(g.Namespace, g.Connected, p) {
				return exceeds("%s in namespace %q%s is more than the caller has", p, g.Namespace,
					connectedWord(g.Connected))
			}
		}
	}
	return nil
}

// knows reports whether the caller holds anything in a namespace, or would if there were such a
// one. To all others it is as if there were none.
func (a authority) knows(namespace string) bool {
	return a.all(namespace, false, func(s *Set) bool { return len(s.Permissions()) > 0 })
}

// named is a namespace in the text of a refusal, by its id only for who knows it.
func (a authority) named(namespace string) string {
	if a.knows(namespace) {
		return "namespace " + strconv.Quote(namespace)
	}
	return "a namespace that the caller knows nothing of"
}

func connectedWord(connected bool) string {
	if connected {
		return ", connected namespaces included,"
	}
	return ""
}

// gives reports whether grants have one in the same namespace with at least the same reach.
func gives(grants []Grant, g *Grant) bool {
	return slices.ContainsFunc(grants,
		func(b Grant) bool { return b.Namespace == g.Namespace && (b.Connected || !g.Connected) })
}

// holdsAnywhere reports whether all that bounds the caller has a grant in all namespaces.
func (a authority) holdsAnywhere() bool {
	for _, h := range []*holding{a.key, a.owns} {
		if h != nil && !slices.ContainsFunc(h.grants,
			func(g compiledGrant) bool { return g.namespace == AnyNamespace }) {
			return false
		}
	}
	return true
}

// adds reports whether grants give anything that those before them did not.
func (d *Directory) adds(before, after []Grant) bool {
	return slices.ContainsFunc(after,
		func(g Grant) bool { return !gives(before, &g) || len(d.added(before, &g)) > 0 })
}

// added is what a grant gives that those before it did not cover, and all of each role that they
// did not name: whoever has it gets what is added to it later.
func (d *Directory) added(before []Grant, g *Grant) []Permission {
	var was *Set
	var had []string
	if i := slices.IndexFunc(before,
		func(b Grant) bool {
			return b.Namespace == g.Namespace &&
				(b.Connected || !g.Connected)
		}); i >= 0 {
		was, had = d.expand(&before[i]), before[i].Roles
	}
	list := slices.DeleteFunc(slices.Clone(d.expand(g).Permissions()), was.Covers)
	for _, name := range g.Roles {
		if !slices.Contains(had, name) {
			list = append(list, d.role(g.Namespace, name).Permissions()...)
		}
	}
	return list
}

// expand is what a grant gives, roles included.
func (d *Directory) expand(g *Grant) *Set {
	return d.gives(&compiledGrant{namespace: g.Namespace, set: g.own(), roles: g.Roles,
		connected: g.Connected})
}

// giveBelow is give for what keys' grants reach below their namespaces. owned says that the key's
// owner, who bounds it there, holds no more than the caller does.
func (a authority) giveBelow(before, after []Grant, owned bool) error {
	if a.root {
		return nil
	}
	if owned {
		a.owns = nil
	}
	for i := range after {
		g := &after[i]
		if err := a.coverReached(g.Namespace,
			slices.DeleteFunc(a.policy.added(before, g), Permission.IsAdmin)); err != nil {
			return err
		}
	}
	return nil
}

// coverReached refuses permissions unless the caller holds them in all namespaces that the `reach`
// of one takes in.
func (a authority) coverReached(above string, list []Permission) error {
	if len(list) == 0 {
		return nil
	}
	covering := make(map[*Set]bool)
	for _, ns := range a.policy.reachedFrom(above) {
		if p, found := a.uncovered(ns.ID, false, list, covering); found {
			return exceeds("%s reaches down from namespace %q to %s, where it is more than the "+
				"caller has", p, above, a.named(ns.ID))
		}
	}
	return nil
}

// actsFor refuses to act for a member (spec 7a.2): it takes to be that member, or a member who
// holds admin.members:update in every namespace of that one's grants and covers them all; only root
// acts for root. Who may not read a member is not told whether there is one.
func (a authority) actsFor(id string) error {
	switch {
	case a.root, a.member != "" && a.member == id:
		return nil
	case a.member == "":
		return exceeds("a key acts for nobody but its own owner")
	case id == RootMember:
		return exceeds("only root acts for root")
	}
	m := a.policy.members[id]
	if m == nil || a.seenOf(m.Member) == nil || m.Unreadable != "" ||
		slices.ContainsFunc(m.Grants, func(g Grant) bool {
			return !a.may(adminMembers, "update",
				g.Namespace)
		}) {
		return exceeds("to act for member %s takes %s:update in every namespace where it has a "+
			"grant", id, adminMembers)
	}
	if len(m.Grants) == 0 && a.anywhere(adminMembers, "update") != nil {
		return lacks(adminMembers, "update")
	}
	if err := a.give(nil, m.Grants); err != nil {
		return exceeds("to act for this member takes all it holds: %s", err)
	}
	return nil
}

// outlive checks that a key which a key makes, or widens, ends no later and may be used from no
// other address (spec 7a.6).
func (a authority) outlive(k *Key) error {
	if a.member != "" {
		return nil
	}
	return a.bounded(k)
}

// bounded checks a key against the end and the addresses of the credential that asks.
func (a authority) bounded(k *Key) error {
	if !a.expiresAt.IsZero() && (k.ExpiresAt.IsZero() || k.ExpiresAt.After(a.expiresAt)) {
		return exceeds("the key would outlive the one that makes it, which expires at %s",
			a.expiresAt.Format(time.RFC3339))
	}
	if len(a.allowedIPs) > 0 && !within(k.AllowedIPs, a.allowedIPs) {
		return exceeds("the key could be used from addresses that the one that makes it may not " +
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
