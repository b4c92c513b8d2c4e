package keystore

// Permissions returns what a caller may do, by the namespaces that its grants name or take in; that
// of [AnyNamespace] is in all of them.
func (k *Keystore) Permissions(c Caller) map[string][]Permission {
	by := k.reading(c)
	if by.root {
		return map[string][]Permission{AnyNamespace: mustParse("*", "admin:*")}
	}
	granted := by.key
	if granted == nil {
		granted = by.owns
	}
	may := make(map[string][]Permission)
	for _, namespace := range by.policy.touchedBy(granted, by.key != nil) {
		set := by.policy.heldIn(granted, namespace, false, by.key != nil)
		if by.key != nil && by.owns != nil {
			set = intersection(set, by.policy.heldIn(by.owns, namespace, false, false))
		}
		if list := set.Permissions(); len(list) > 0 {
			may[namespace] = list
		}
	}
	return may
}

// touchedBy lists the namespaces that grants name or take in.
func (d *Directory) touchedBy(h *holding, key bool) []string {
	var list []string
	for i := range h.grants {
		g := &h.grants[i]
		list = append(list, g.namespace)
		for id, ns := range d.namespaces {
			if g.connected && ns.Parent == g.namespace || key && d.reaches(g.namespace, ns) {
				list = append(list, id)
			}
		}
	}
	return list
}
