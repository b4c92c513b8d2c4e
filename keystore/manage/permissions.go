package manage

import "github.com/caddy-apikeys/caddy-apikeys/keystore"

// Permissions returns what a caller may do, by the namespaces that its grants name or take in; that
// of [keystore.AnyNamespace] is in all of them.
func (k *Keystore) Permissions(c Caller) map[string][]keystore.Permission {
	auth := k.authorityOf(c)
	if auth.root {
		return map[string][]keystore.Permission{keystore.AnyNamespace: keystore.MustParsePermissions("*", "admin:*")}
	}
	granted := auth.keyGrants
	if granted == nil {
		granted = auth.memberGrants
	}
	may := make(map[string][]keystore.Permission)
	for _, namespace := range auth.policy.Touched(granted, auth.keyGrants != nil) {
		set := auth.policy.SetFor(granted, namespace, false, auth.keyGrants != nil)
		if auth.keyGrants != nil && auth.memberGrants != nil {
			set = keystore.Intersection(set, auth.policy.SetFor(auth.memberGrants, namespace, false, false))
		}
		if list := set.Permissions(); len(list) > 0 {
			may[namespace] = list
		}
	}
	return may
}
