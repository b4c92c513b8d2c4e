package manage

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// The resources of the permissions to manage keys.
const (
	adminKeys       = "admin.keys"
	adminNamespaces = "admin.namespaces"
	adminRoles      = "admin.roles"
	adminPlans      = "admin.plans"
	adminMembers    = "admin.members"
	adminAudit      = "admin.audit"
	adminNodes      = "admin.nodes"
	adminUsage      = "admin.usage"
	adminWebhooks   = "admin.webhooks"
)

// authority is what a caller may do under one policy. A read determines it under the database's
// current policy (beginRead), a change inside its transaction (authorityIn), and the methods in
// may.go and [Keystore.Permissions] under the node's policy. Its methods implement
// docs/authority.md.
type authority struct {
	root       bool
	actor      string // see Caller.Actor
	identity   string // see Caller.Identity
	person     bool   // whether a person acts for groups
	from       string // the client's address
	credential string // see Caller.Credential
	// members are the member that acts or the enabled groups for which a person acts; empty for a
	// key.
	members   []string
	owners    []string // may own keys that the caller creates: members, or the owner of the key
	policy    *keystore.Directory
	keyGrants *keystore.CompiledGrants // of the key that acts; nil for a member
	// memberGrants are those of members, or of the owner of the key that acts. They are nil for
	// root, which has no limits.
	memberGrants *keystore.CompiledGrants
	// expiresAt and allowedIPs are the restrictions of the credential, and limits the limits of the
	// calling key. authorityIn sets them. Zero means none.
	expiresAt  time.Time
	allowedIPs []netip.Prefix
	limits     keystore.Limits
}

// internalAuthority returns the authority for changes that a node makes on its own. The audit log
// shows their cause in place of an address.
func internalAuthority(cause string) authority {
	return authority{root: true, actor: keystore.RootMember, from: cause,
		policy: keystore.NewDirectory(new(keystore.Policy))}
}

// authorityOf returns the caller's authority under this node's policy.
func (k *Keystore) authorityOf(c Caller) authority { return k.authorityUnder(c, k.Policy()) }

func (k *Keystore) authorityUnder(c Caller, policy *keystore.Directory) authority {
	auth := authority{root: c.root, actor: c.Actor(), identity: c.Identity(),
		person: c.person != nil, members: c.membersUnder(policy), from: c.from,
		credential: c.Credential(), policy: policy}
	auth.owners = auth.members
	if auth.owners == nil && c.record != nil {
		auth.keyGrants, auth.owners = c.record.Grants(), []string{c.record.Owner}
	}
	if !c.root {
		auth.memberGrants = policy.GrantsOf(auth.owners...)
	}
	return auth
}

// beginRead waits until the caller may read from the database and returns its authority under the
// database's current policy. The caller must call done after its reads.
func (k *Keystore) beginRead(
	ctx context.Context, c Caller,
) (auth authority, done func(), err error) {
	if done, err = k.reads.acquire(ctx, c); err != nil {
		return auth, nil, err
	}
	err = k.WithCurrent(ctx, func() error {
		policy, err := k.CurrentPolicy(
			func(since keystore.Position) (*keystore.Policy, error) {
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
		return auth, nil, k.StoreFailed("reading namespaces, roles, plans and members", err)
	}
	return auth, done, nil
}

// beginLongRead is beginRead for reads that may take long. They use the context that it returns, which
// ends after readTimeout.
func (k *Keystore) beginLongRead(ctx context.Context, c Caller) (
	_ context.Context, auth authority, done func(), err error,
) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	auth, release, err := k.beginRead(ctx, c)
	if err != nil {
		cancel()
		return nil, auth, nil, err
	}
	return ctx, auth, func() { release(); cancel() }, nil
}

// authorityIn returns the caller's authority inside the transaction of a change. It refuses a
// caller that was revoked, rotated or disabled after it sent the request, and one whose login now
// belongs to nobody or to somebody else (docs/authority.md, rule 5).
func (k *Keystore) authorityIn(c Caller, tx keystore.Tx) (authority, error) {
	policy, err := k.policyIn(tx)
	if err != nil {
		return authority{}, err
	}
	auth := k.authorityUnder(c, policy)
	if c.root {
		return auth, nil
	}
	if c.record != nil {
		key, err := tx.Key(c.record.KeyID)
		if err == nil {
			err = checkCallingKey(key, c.record.Digest, tx.Now())
		} else if isNotFound(err) {
			err = forbidden("key_revoked", "the caller's credential has been deleted")
		}
		if err != nil {
			return auth, err
		}
		if auth.keyGrants != nil {
			auth.keyGrants = keystore.CompileGrants(key.Grants, key.Owner)
			auth.owners = []string{key.Owner}
			auth.memberGrants = policy.GrantsOf(key.Owner)
			auth.limits = policy.KeyLimits(key.Namespace, key.KeyLimits)
		}
		auth.expiresAt, auth.allowedIPs = key.ExpiresAt, key.AllowedIPs
	}
	if auth.memberGrants == keystore.NoGrants && auth.actor != "" {
		return auth, forbidden(keystore.OwnerDisabled.Code(),
			"the calling member, or the owner of the calling key, is disabled, or the caller's "+
				"login is no longer that of the member or group")
	}
	return auth, nil
}

// checkCallingKey refuses a key or member token that is not active, and a token that was replaced.
func checkCallingKey(key *keystore.Key, token keystore.Digest, now time.Time) error {
	if status := key.Status(now); status != keystore.StatusActive {
		return forbidden("key_"+string(status), "the caller's credential is "+string(status))
	}
	if !key.Accepts(token, now) {
		return forbidden("key_revoked", "the caller's token has been replaced by another")
	}
	return nil
}

func forbidden(code, detail string) error {
	return &keystore.Error{Kind: keystore.KindForbidden, Code: code, Detail: detail}
}

// policyIn returns the policy inside a transaction.
func (k *Keystore) policyIn(tx keystore.Tx) (*keystore.Directory, error) {
	policy, err := k.CurrentPolicy(tx.Policy)
	if err != nil {
		return nil, fmt.Errorf("reading namespaces, roles, plans and members: %w", err)
	}
	return policy, nil
}

// everySet reports whether f returns true for each set that limits the caller in a namespace: the
// permissions of the key and those of its owner, or those of the member. If connected, the sets
// contain only permissions from grants that also apply in the namespace's children.
func (a authority) everySet(
	namespace string, connected bool, f func(*keystore.Set) bool,
) bool {
	if a.root {
		return true
	}
	return (a.keyGrants == nil || f(a.policy.SetFor(a.keyGrants, namespace, connected, true))) &&
		(a.memberGrants == nil || f(a.policy.SetFor(a.memberGrants, namespace, connected, false)))
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

// covers reports whether the caller's permissions in a namespace cover p (docs/authority.md,
// rule 2). If connected, only connected grants count.
func (a authority) covers(namespace string, connected bool, p keystore.Permission) bool {
	return a.everySet(namespace, connected, func(s *keystore.Set) bool { return s.Covers(p) })
}

// uncovered returns the first permission of a list that the caller's permissions in a namespace do
// not cover. covering caches the sets that cover the list, because many namespaces share a few
// sets; it may be nil.
func (a authority) uncovered(
	namespace string, connected bool, list []keystore.Permission, covering map[*keystore.Set]bool,
) (p keystore.Permission, found bool) {
	a.everySet(namespace, connected, func(s *keystore.Set) bool {
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

// readable returns the namespaces in which the caller may read a resource. If these are all
// namespaces, all is true and the list is nil.
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

// requireAnywhere refuses a caller unless it may do the operation in some namespace.
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
	p := resource + ":" + operation
	return &keystore.Error{Kind: keystore.KindForbidden, Code: keystore.Forbidden.Code(),
		Detail: "permission " + p + " is required", Needed: p}
}

// requireEverywhere refuses a caller that may not do the operation in all namespaces.
func (a authority) requireEverywhere(resource, operation string) error {
	if a.may(resource, operation, keystore.AnyNamespace) {
		return nil
	}
	refusal := permissionRequired(resource, operation)
	refusal.Detail += " in namespace " + keystore.AnyNamespace
	return refusal
}

// requireOn checks an operation on an object of a namespace. An object that the caller may not read
// is not found (docs/authority.md, rule 10). kind names the object in the refusal.
func (a authority) requireOn(resource, operation, namespace, kind string) error {
	switch {
	case a.may(resource, operation, namespace):
		return nil
	case a.may(resource, "read", namespace):
		return permissionRequired(resource, operation)
	}
	return notFound(kind)
}

func notFound(kind string) error {
	return &keystore.Error{Kind: keystore.KindNotFound, Code: "not_found",
		Detail: kind + " not found"}
}

// exceedsCaller refuses a change that gives more than the caller has.
func exceedsCaller(format string, args ...any) error {
	return forbidden("exceeds_caller", fmt.Sprintf(format, args...))
}

// checkGive checks what a change of grants adds; before is nil for a new object. The caller's
// permissions in a grant's namespace must cover each added permission and each permission of an
// added role. For connected grants, only the caller's connected grants count (docs/authority.md,
// rule 6).
func (a authority) checkGive(before, after []keystore.Grant) error {
	if a.root {
		return nil
	}
	for i := range after {
		g := &after[i]
		if !keystore.HasGrant(before, g) {
			switch {
			case g.Namespace == keystore.AnyNamespace && !a.hasGrantEverywhere():
				return exceedsCaller(
					"giving a grant in all namespaces requires a grant in all namespaces")
			case !a.hasAnyIn(g.Namespace):
				return exceedsCaller("the caller has no permissions in namespace %q", g.Namespace)
			}
		}
		for _, p := range a.policy.Added(before, g) {
			if !a.covers(g.Namespace, g.Connected, p) {
				return exceedsCaller("the caller does not have %s in namespace %q%s", p,
					g.Namespace, connectedSuffix(g.Connected))
			}
		}
	}
	return nil
}

// hasAnyIn reports whether the caller has any permission in a namespace, or would have if the
// namespace existed. Other callers must not learn whether it exists.
func (a authority) hasAnyIn(namespace string) bool {
	return a.everySet(namespace, false,
		func(s *keystore.Set) bool { return len(s.Permissions()) > 0 })
}

// describe returns how a refusal refers to a namespace. Its id is named only to callers that have
// permissions in it.
func (a authority) describe(namespace string) string {
	if a.hasAnyIn(namespace) {
		return "namespace " + strconv.Quote(namespace)
	}
	return "a namespace in which the caller has no permissions"
}

func connectedSuffix(connected bool) string {
	if connected {
		return " in a connected grant"
	}
	return ""
}

// hasGrantEverywhere reports whether the caller, and the owner of a key that acts, have a grant in
// all namespaces.
func (a authority) hasGrantEverywhere() bool {
	for _, grants := range []*keystore.CompiledGrants{a.keyGrants, a.memberGrants} {
		if grants != nil && !grants.Everywhere() {
			return false
		}
	}
	return true
}

// checkGiveBelow is checkGive for the descendants that grants of keys reach (docs/authority.md,
// rule 3). actsForOwner says that the caller acts for the key's owner. The owner's grants then
// limit the key, so those of the calling member, or of the calling key's owner, are not checked.
func (a authority) checkGiveBelow(before, after []keystore.Grant, actsForOwner bool) error {
	if a.root {
		return nil
	}
	if actsForOwner {
		a.memberGrants = nil
	}
	for i := range after {
		g := &after[i]
		data := slices.DeleteFunc(a.policy.Added(before, g), keystore.Permission.IsAdmin)
		if err := a.requireCoverBelow(g.Namespace, data); err != nil {
			return err
		}
	}
	return nil
}

// requireCoverBelow refuses permissions unless those of the caller cover them in every descendant
// that the `reach` of a namespace includes.
func (a authority) requireCoverBelow(ancestor string, list []keystore.Permission) error {
	if len(list) == 0 {
		return nil
	}
	covering := make(map[*keystore.Set]bool)
	for _, ns := range a.policy.ReachedFrom(ancestor) {
		if p, found := a.uncovered(ns.ID, false, list, covering); found {
			return exceedsCaller("%s would also apply in %s, through the reach of namespace %q, "+
				"and the caller does not have it there", p, a.describe(ns.ID), ancestor)
		}
	}
	return nil
}

// requireCover refuses permissions unless those of the caller cover them in a namespace.
func (a authority) requireCover(
	namespace string, connected bool, list []keystore.Permission,
) error {
	if p, found := a.uncovered(namespace, connected, list, nil); found {
		return exceedsCaller("the caller does not have %s in %s%s", p, a.describe(namespace),
			connectedSuffix(connected))
	}
	return nil
}

// checkActsFor refuses a caller that does not act for a member (docs/authority.md, rule 7). A
// caller that may not read the member must not learn whether it exists.
func (a authority) checkActsFor(id string) error {
	switch {
	case a.root, slices.Contains(a.members, id):
		return nil
	case len(a.members) == 0:
		return exceedsCaller("a key acts only for its own owner")
	case id == keystore.RootMember:
		return exceedsCaller("only root acts for root")
	}
	m := a.policy.Member(id)
	mayNotUpdate := func(g keystore.Grant) bool {
		return !a.may(adminMembers, "update", g.Namespace)
	}
	if m == nil || a.visible(m) == nil || m.Unreadable != "" ||
		slices.ContainsFunc(m.Grants, mayNotUpdate) {
		return exceedsCaller("acting for member %s requires %s:update in every namespace in "+
			"which it has a grant", id, adminMembers)
	}
	if err := a.requireAnywhere(adminMembers, "update"); err != nil { // m may have no grants
		return err
	}
	if err := a.checkGive(nil, m.Grants); err != nil {
		return exceedsCaller("acting for this member requires all of its permissions: %s", err)
	}
	return nil
}

// checkSignIn refuses a caller that may not let somebody sign in as a member, or act for a group.
// That person could list, read and revoke the keys that the member owns, so it requires more than
// acting for the member (docs/authority.md, rule 7). homes returns the home namespaces of these
// keys.
func (a authority) checkSignIn(id string, homes func(member string) ([]string, error)) error {
	if err := a.checkActsFor(id); err != nil || slices.Contains(a.members, id) ||
		a.may(adminMembers, "update", keystore.AnyNamespace) {
		return err
	}
	list, err := homes(id)
	if err != nil {
		return err
	}
	for _, home := range list {
		if !a.may(adminMembers, "update", home) {
			return exceedsCaller("%s:update is required in the home namespace of each key of the "+
				"member to create its token, set its login or enable it; it is missing in %s: ask "+
				"somebody who has it, or transfer or revoke the keys first",
				adminMembers, a.describe(home))
		}
	}
	return nil
}

// checkLimits checks that a key which another key creates or widens expires no later, is accepted
// from no other addresses and has no higher limits (docs/authority.md, rule 11). Members have no
// such limits.
func (a authority) checkLimits(k *keystore.Key) error {
	if len(a.members) > 0 {
		return nil
	}
	return a.checkCredentialLimits(k)
}

// checkCredentialLimits checks the expiry, the addresses and the limits of a key against those of
// the calling credential.
func (a authority) checkCredentialLimits(k *keystore.Key) error {
	if !a.expiresAt.IsZero() && (k.ExpiresAt.IsZero() || k.ExpiresAt.After(a.expiresAt)) {
		return exceedsCaller("the key must expire no later than the caller's credential, at %s",
			a.expiresAt.Format(time.RFC3339))
	}
	if len(a.allowedIPs) > 0 && !within(k.AllowedIPs, a.allowedIPs) {
		return exceedsCaller("the allowed addresses must be among those of the caller's credential")
	}
	return a.checkCovers(a.policy.KeyLimits(k.Namespace, k.KeyLimits))
}

// checkCovers checks that a calling key gives no limits higher than its own. Members have no
// limits.
func (a authority) checkCovers(l keystore.Limits) error {
	if !a.limits.Covers(l) {
		return exceedsCaller("rate_limit and quota must not exceed those of the calling key")
	}
	return nil
}

// within reports whether each address in inner is also in outer. An empty list contains all
// addresses.
func within(inner, outer []netip.Prefix) bool {
	if len(outer) == 0 {
		return true
	}
	for _, in := range inner {
		contains := func(out netip.Prefix) bool {
			return out.Bits() <= in.Bits() && out.Contains(in.Addr())
		}
		if !slices.ContainsFunc(outer, contains) {
			return false
		}
	}
	return len(inner) > 0
}
