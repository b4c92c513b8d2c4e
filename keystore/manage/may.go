package manage

import "github.com/caddy-apikeys/caddy-apikeys/keystore"

// The methods in this file say what a caller may do under this node's current policy. They exist to
// refuse a request early and to decide what an interface offers. Every operation checks for itself.

// May refuses a caller unless it may do an operation ("read", "create", …) on an admin resource
// ("admin.keys", …) in some namespace. The error is of kind [keystore.KindForbidden].
func (k *Keystore) May(c Caller, resource, operation string) error {
	return k.authorityOf(c).requireAnywhere(resource, operation)
}

// MayIn reports whether a caller may do an operation on an admin resource in a namespace, or in all
// namespaces for [keystore.AnyNamespace].
func (k *Keystore) MayIn(c Caller, resource, operation, namespace string) bool {
	return k.authorityOf(c).may(resource, operation, namespace)
}

// MayGive returns a function that reports whether a caller may give a permission in a namespace.
func (k *Keystore) MayGive(c Caller, namespace string) func(keystore.Permission) bool {
	var limits []*keystore.Set
	k.authorityOf(c).everySet(namespace, false, func(s *keystore.Set) bool {
		limits = append(limits, s)
		return true
	})
	return func(p keystore.Permission) bool {
		for _, s := range limits {
			if !s.Covers(p) {
				return false
			}
		}
		return true
	}
}

// MayConnect reports whether a caller may give at least one permission in a connected grant in a
// namespace.
func (k *Keystore) MayConnect(c Caller, namespace string) bool {
	return k.authorityOf(c).everySet(namespace, true,
		func(s *keystore.Set) bool { return len(s.Permissions()) > 0 })
}

// MayRotate reports whether a member may rotate a key's token. For a caller that is a key, it does
// not check the limits of docs/authority.md, rule 11: only members use interfaces that call it.
func (k *Keystore) MayRotate(c Caller, key *keystore.Key) bool {
	auth := k.authorityOf(c)
	return auth.may(adminKeys, "update", key.Namespace) && auth.checkToken(key) == nil
}

// MayActFor reports whether a caller may create keys that a member owns. A token or a login of the
// member requires more: see [Keystore.MaySignInAs].
func (k *Keystore) MayActFor(c Caller, member string) bool {
	return k.authorityOf(c).checkActsFor(member) == nil
}

// MayMember reports whether a caller may do an operation on a member in every namespace in which
// the member has a grant, including grants that the caller may not read.
func (k *Keystore) MayMember(c Caller, operation, id string) bool {
	_, err := memberFor(k.authorityOf(c), operation, id, false, ChangeOptions{})
	return err == nil
}
