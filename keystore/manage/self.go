package manage

import "github.com/caddy-apikeys/caddy-apikeys/keystore"

// Permissions returns what a caller may do, by the namespaces that its grants name or take in; that
// of [keystore.AnyNamespace] is in all of them.
func (k *Keystore) Permissions(c Caller) map[string][]keystore.Permission {
	by := k.reading(c)
	if by.root {
		return map[string][]keystore.Permission{keystore.AnyNamespace: keystore.MustParsePermissions("*", "admin:*")}
	}
	granted := by.key
	if granted == nil {
		granted = by.owns
	}
	may := make(map[string][]keystore.Permission)
	for _, namespace := range by.policy.Touched(granted, by.key != nil) {
		set := by.policy.SetFor(granted, namespace, false, by.key != nil)
		if by.key != nil && by.owns != nil {
			set = keystore.Intersection(set, by.policy.SetFor(by.owns, namespace, false, false))
		}
		if list := set.Permissions(); len(list) > 0 {
			may[namespace] = list
		}
	}
	return may
}
