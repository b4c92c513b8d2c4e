package keystore

// MaySee reports whether a list of namespaces of one kind may show ns to the key (docs/api_key.md,
// rule 15): ns is the key's home, an ancestor of its home, or a namespace in which the key and its
// owner allow the request for the list. A nil ns stands for a namespace that does not exist.
func (r *Record) MaySee(d *Directory, ns *Namespace, kind string, list Need) bool {
	if ns == nil || ns.Kind != kind {
		return false
	}
	home := d.Namespace(r.Namespace)
	return ns == home || home != nil && d.ancestor(ns.ID, home) || r.grants.in(d, ns).allows(&list)
}
