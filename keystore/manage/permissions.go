package manage

import (
	"slices"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// Permissions returns a caller's permissions in each namespace in which its grants apply. The
// permissions of [keystore.AnyNamespace] apply in all namespaces.
func (k *Keystore) Permissions(c Caller) map[string][]keystore.Permission {
	auth := k.authorityOf(c)
	if auth.root {
		return map[string][]keystore.Permission{
			keystore.AnyNamespace: keystore.MustParsePermissions("*", "admin:*")}
	}
	isKey := auth.keyGrants != nil
	granted := auth.keyGrants
	if !isKey {
		granted = auth.memberGrants
	}
	permissions := make(map[string][]keystore.Permission)
	// Requests that name a namespace that does not exist are refused, even for grants everywhere.
	namespaces := slices.DeleteFunc(slices.Clone(c.narrowing.Namespaces()),
		func(id string) bool { return auth.policy.Namespace(id) == nil })
	if namespaces == nil {
		namespaces = auth.policy.Touched(granted, isKey)
	}
	for _, namespace := range namespaces {
		set := auth.policy.SetFor(granted, namespace, false, isKey)
		if isKey && auth.memberGrants != nil {
			set = keystore.Intersection(set,
				auth.policy.SetFor(auth.memberGrants, namespace, false, false))
		}
		if list := c.narrowing.Left(set, namespace).Permissions(); len(list) > 0 {
			permissions[namespace] = list
		}
	}
	return permissions
}
