package keystore

// Sees reports whether the key may see, in a list of namespaces of a kind, that ns is one of them:
// its home, an ancestor of that, or one where it and its owner allow the call that lists them (spec
// section 6). nil stands for a namespace that does not exist, which nobody sees.
func (r *Record) Sees(d *Directory, ns *Namespace, kind string, call Need) bool {
	if ns == nil || ns.Kind != kind {
		return false
	}
	home := d.Namespace(r.Namespace)
	return ns == home || home != nil && d.ancestor(ns.ID, home) || r.held.in(d, ns).allows(&call)
}
