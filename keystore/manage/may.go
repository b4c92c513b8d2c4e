package manage

import "github.com/caddy-apikeys/caddy-apikeys/keystore"

// What follows, like [Keystore.MayIn], is for what people are offered, as this node knows policy
// now: each managing operation checks for itself.

// MayGive returns whether a caller may give a permission in a namespace.
func (k *Keystore) MayGive(c Caller, namespace string) func(keystore.Permission) bool {
	var bounds []*keystore.Set
	k.authorityOf(c).everySet(namespace, false, func(s *keystore.Set) bool {
		bounds = append(bounds, s)
		return true
	})
	return func(p keystore.Permission) bool {
		for _, s := range bounds {
			if !s.Covers(p) {
				return false
			}
		}
		return true
	}
}

// MayConnect reports whether a caller may give anything in a namespace so that it takes in those
// connected to it.
func (k *Keystore) MayConnect(c Caller, namespace string) bool {
	return k.authorityOf(c).everySet(namespace, true,
		func(s *keystore.Set) bool { return len(s.Permissions()) > 0 })
}

// MayRotate reports whether a caller may give a key another token.
func (k *Keystore) MayRotate(c Caller, key *keystore.Key) bool {
	auth := k.authorityOf(c)
	return auth.may(adminKeys, "update", key.Namespace) && auth.checkToken(key) == nil
}

// MayActFor reports whether a caller may act for a member: own keys for it, and give it a token.
func (k *Keystore) MayActFor(c Caller, member string) bool {
	return k.authorityOf(c).checkActsFor(member) == nil
}

// MayMember reports whether a caller may do an operation on a member as a whole, grants that it may
// not see included.
func (k *Keystore) MayMember(c Caller, operation, id string) bool {
	_, err := memberFor(k.authorityOf(c), operation, id, false, ChangeOptions{})
	return err == nil
}
