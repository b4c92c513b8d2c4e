package keystore

// Sees reports whether the key may see, in a list of namespaces of a kind, that ns is one of them: its home is, and so is one where it
// allows the call that lists them (spec section 6). nil stands for a namespace that does not exist, which nobody sees.
func (r *Record) Sees(ns *Namespace, kind string, call Need) bool {
	return ns != nil && ns.Kind == kind && (ns.ID == r.Namespace || r.allows(ns, call))
}
