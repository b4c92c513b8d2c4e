package keystore

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// A Caller is who asks for a managing operation. The zero value may do nothing.
type Caller struct {
	root   bool
	record *Record // a key that manages
	from   string
}

// Root is whoever Caddy's admin endpoint lets in: the member `root`, who may do everything. from is the address it comes from.
func Root(from string) Caller { return Caller{root: true, from: from} }

// KeyCaller is a key that manages, just looked up and found alive.
func KeyCaller(r *Record, from string) Caller { return Caller{record: r, from: from} }

// Actor is the caller's id in `created_by`, `revoked_by` and the audit log: [RootMember], a key's id, or empty for the zero Caller.
func (c Caller) Actor() string {
	if c.root {
		return RootMember
	}
	if c.record == nil {
		return ""
	}
	return c.record.KeyID
}

// May refuses a caller that may do an operation ("read", "create", …) on an admin resource ("admin.keys", …) in no namespace at
// all: KindForbidden. Each managing operation checks for itself what it is about; this is to say so before a body is read.
func (c Caller) May(resource, operation string) error {
	return c.reading().anywhere(resource, operation)
}

// The product's own resources.
const (
	adminKeys       = "admin.keys"
	adminNamespaces = "admin.namespaces"
	adminNodes      = "admin.nodes"
)

// authority is what a caller holds. It is made from the cached record to read, and anew inside the transaction to change.
type authority struct {
	root       bool
	actor      string // id in created_by, revoked_by and the audit log
	from       string
	owner      string // whom the caller's new keys act for
	grants     []NamespaceSet
	expiresAt  time.Time
	allowedIPs []netip.Prefix
}

// reading is the caller's authority as the request's own decision saw it.
func (c Caller) reading() authority {
	if c.record == nil {
		return authority{root: c.root, actor: c.Actor(), owner: RootMember, from: c.from}
	}
	return authority{actor: c.Actor(), owner: c.record.Owner, from: c.from, grants: c.record.Grants, allowedIPs: c.record.AllowedIPs}
}

// changing is the caller's authority at the moment of the change: a key that was revoked or narrowed since the request
// came in does not get through.
func (c Caller) changing(tx Tx) (authority, error) {
	by := c.reading()
	if c.record == nil {
		return by, nil
	}
	key, err := tx.Key(c.record.KeyID)
	switch {
	case errors.Is(err, ErrNotFound):
		return by, &Error{Kind: KindForbidden, Code: "key_revoked", Detail: "the key that asks has been deleted"}
	case err != nil:
		return by, err
	case key.Status(tx.Now()) != StatusActive:
		return by, &Error{Kind: KindForbidden, Code: "key_" + string(key.Status(tx.Now())), Detail: "the key that asks is " + string(key.Status(tx.Now()))}
	}
	by.grants, by.expiresAt, by.allowedIPs = compileGrants(key.Grants), key.ExpiresAt, key.AllowedIPs
	return by, nil
}

// in returns what the caller holds in a namespace: its grants there and its `*` grants. wide leaves out those that reach the
// namespace alone, without what will be connected to it.
func (a authority) in(namespace string, wide bool) *Set {
	var parts []*Set
	for _, g := range a.grants {
		if g.Namespace == AnyNamespace || g.Namespace == namespace && (g.Connected || !wide) {
			parts = append(parts, g.Set)
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
	return a.root || a.in(namespace, false).Allows(need(resource, operation))
}

// readable returns the namespaces in which the caller may read a resource; all is true when these are all there are.
func (a authority) readable(resource string) (list []string, all bool) {
	if a.root || a.may(resource, "read", AnyNamespace) {
		return nil, true
	}
	list = []string{}
	for _, g := range a.grants {
		if !slices.Contains(list, g.Namespace) && a.may(resource, "read", g.Namespace) {
			list = append(list, g.Namespace)
		}
	}
	return list, false
}

// anywhere refuses a caller that may do the operation in no namespace at all.
func (a authority) anywhere(resource, operation string) error {
	if a.root || slices.ContainsFunc(a.grants, func(g NamespaceSet) bool { return g.Set.Allows(need(resource, operation)) }) {
		return nil
	}
	return lacks(resource, operation)
}

func lacks(resource, operation string) *Error {
	return &Error{Kind: KindForbidden, Code: Forbidden.Code(), Detail: fmt.Sprintf("this takes %s:%s", resource, operation), Needed: resource + ":" + operation}
}

// on checks an operation on an object of a namespace. What the caller may not read does not exist for it (spec 7a.5).
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

// give checks what grants add to those that were there before, nil for a new key: each added permission must be covered by what the
// caller holds in that namespace, with the same reach (spec 7a.1).
func (a authority) give(before, after []Grant) error {
	if a.root {
		return nil
	}
	for _, g := range after {
		was := held(before, g.Namespace, g.Connected)
		if g.Namespace == AnyNamespace && !slices.ContainsFunc(a.grants, func(own NamespaceSet) bool { return own.Namespace == AnyNamespace }) && was.String() == "" {
			return exceeds("a grant in all namespaces can be given only by who holds one")
		}
		has := a.in(g.Namespace, g.Connected)
		for _, p := range g.Permissions {
			if !was.Covers(p) && !has.Covers(p) {
				reach := ""
				if g.Connected {
					reach = ", connected namespaces included"
				}
				return exceeds("%s in namespace %q%s is more than the caller has", p, g.Namespace, reach)
			}
		}
	}
	return nil
}

// adds reports whether grants give anything that those before them did not.
func adds(before, after []Grant) bool {
	for _, g := range after {
		was := held(before, g.Namespace, g.Connected)
		for _, p := range g.Permissions {
			if !was.Covers(p) {
				return true
			}
		}
	}
	return false
}

// held is what grants give in exactly one namespace, with at least that reach.
func held(grants []Grant, namespace string, connected bool) *Set {
	for _, g := range grants {
		if g.Namespace == namespace && (g.Connected || !connected) {
			return g.Set()
		}
	}
	return nil
}

// outlive checks that a key which a key makes, or widens, ends no later and may be used from no other address (spec 7a.6).
func (a authority) outlive(k *Key) error {
	if !a.expiresAt.IsZero() && (k.ExpiresAt.IsZero() || k.ExpiresAt.After(a.expiresAt)) {
		return exceeds("the key would outlive the one that makes it, which expires at %s", a.expiresAt.Format(time.RFC3339))
	}
	if len(a.allowedIPs) > 0 && !within(k.AllowedIPs, a.allowedIPs) {
		return exceeds("the key could be used from addresses that the one that makes it may not be used from")
	}
	return nil
}

// within reports whether whoever is in one of inner is in one of outer. An empty list means any address.
func within(inner, outer []netip.Prefix) bool {
	if len(outer) == 0 {
		return true
	}
	for _, in := range inner {
		if !slices.ContainsFunc(outer, func(out netip.Prefix) bool { return out.Bits() <= in.Bits() && out.Contains(in.Addr()) }) {
			return false
		}
	}
	return len(inner) > 0
}
