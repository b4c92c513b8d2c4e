package keystore

import (
	"fmt"
	"iter"
	"slices"
	"unique"
)

// A Policy is what decisions depend on besides the key: all of it is small, and every node holds it whole.
type Policy struct {
	Revision   Revision    // of the newest change to any of it
	Namespaces []Namespace // newest first, as the other two
	Roles      []Role      // without the built-in ones
	Members    []Member    // without root
}

// A Directory is a policy as it is used. It does not change once made. Ids are compared byte by byte.
type Directory struct {
	revision   Revision
	policy     *Policy
	namespaces map[string]*Namespace
	roles      map[RoleID]*Set
	members    map[string]*member
	logins     map[string]*member
}

// member is a Member as it is used.
type member struct {
	*Member
	holds *holding
}

// unreadable lists the rows that cannot be read, each with why.
func (p *Policy) unreadable() (list []string) {
	add := func(why, format string, args ...any) {
		if why != "" {
			list = append(list, fmt.Sprintf(format, args...)+": "+why)
		}
	}
	for _, ns := range p.Namespaces {
		add(ns.Unreadable, "namespace %s", ns.ID)
	}
	for _, r := range p.Roles {
		add(r.Unreadable, "role %s of namespace %s", r.Name, r.Namespace)
	}
	for _, m := range p.Members {
		add(m.Unreadable, "member %s", m.ID)
	}
	return list
}

// NewDirectory readies a policy, which must not change any more.
func NewDirectory(p *Policy) *Directory { return newDirectory(p, nil) }

func newDirectory(p *Policy, counts *requestCounts) *Directory {
	d := &Directory{
		revision: p.Revision, policy: p,
		namespaces: make(map[string]*Namespace, len(p.Namespaces)),
		roles:      make(map[RoleID]*Set, len(p.Roles)+len(builtinRoles)),
		members:    make(map[string]*member, len(p.Members)),
		logins:     make(map[string]*member),
	}
	for i := range p.Namespaces {
		ns := &p.Namespaces[i]
		ns.ID, ns.Parent, ns.Kind = canonical(ns.ID), canonical(ns.Parent), canonical(ns.Kind)
		d.namespaces[ns.ID] = ns
	}
	if counts != nil {
		counts.keep(d)
	}
	for i := range p.Namespaces {
		ns := &p.Namespaces[i]
		if ns.Unreadable == "" {
			ns.Unreadable = d.defect(ns)
		}
		if counts != nil {
			ns.counts = counts.of(ns.ID)
		}
	}
	for _, list := range [][]Role{builtinRoles, p.Roles} {
		for _, r := range list {
			d.roles[r.ID()] = NewSet(r.Permissions...)
		}
	}
	for i := range p.Members {
		m := &member{&p.Members[i], holdingOf(p.Members[i].Grants, "")}
		d.members[m.ID] = m
		if m.Login != "" {
			d.logins[m.Login] = m
		}
	}
	return d
}

// Namespace returns the namespace of that id, nil when there is none.
func (d *Directory) Namespace(id string) *Namespace { return d.namespaces[id] }

// role returns what a role that a grant in a namespace names stands for, nil when there is none.
func (d *Directory) role(namespace, name string) *Set {
	if s := d.roles[RoleID{namespace, name}]; s != nil {
		return s
	}
	return d.roles[RoleID{AnyNamespace, name}]
}

// upward yields a namespace and then its ancestors, the nearest first. It stops after maxDepth+1 of
// them, because rows edited with SQL may form a cycle.
func (d *Directory) upward(ns *Namespace) iter.Seq[*Namespace] {
	return func(yield func(*Namespace) bool) {
		for at, n := ns, 0; at != nil && n <= maxDepth && yield(at); n++ {
			if at.Parent == "" {
				return
			}
			at = d.namespaces[at.Parent]
		}
	}
}

// depth returns the level of a namespace: 1 without a parent, more than maxDepth if it is nested
// too deep. It also returns whether the namespace is its own ancestor.
func (d *Directory) depth(ns *Namespace) (level int, cycle bool) {
	for at := range d.upward(ns) {
		if level++; at.Parent == ns.ID {
			return maxDepth + 1, true
		}
	}
	return level, false
}

// height returns how many levels a namespace spans together with its descendants.
func (d *Directory) height(id string) int {
	highest := 1
	for _, ns := range d.namespaces {
		if ns.ID == id {
			continue
		}
		levels := 1
		for at := range d.upward(ns) {
			if levels++; at.Parent == id {
				highest = max(highest, levels)
				break
			}
		}
	}
	return highest
}

// defect returns why the API would refuse the id or the parent of a namespace, or the empty string.
// Such rows come from SQL.
func (d *Directory) defect(ns *Namespace) string {
	if !ValidNamespaceID(ns.ID) {
		return "no namespace can have this id"
	}
	switch level, cycle := d.depth(ns); {
	case cycle:
		return fmt.Sprintf("it is its own ancestor through its parent %q", ns.Parent)
	case level > maxDepth:
		return fmt.Sprintf("it is nested more than %d levels deep, "+
			"or below a namespace that is its own ancestor", maxDepth)
	}
	return ""
}

// ancestor reports whether above is an ancestor of below. An unreadable namespace has no ancestors.
func (d *Directory) ancestor(above string, below *Namespace) bool {
	if above == "" || below.Unreadable != "" {
		return false
	}
	for at := range d.upward(below) {
		if at.Parent == above {
			return true
		}
	}
	return false
}

// unreadable reports whether the row of a namespace is unreadable, so that grants in it count
// nowhere.
func (d *Directory) unreadable(namespace string) bool {
	ns := d.namespaces[namespace]
	return ns != nil && ns.Unreadable != ""
}

// memberOf returns whom a login that Caddy has verified stands for; nil: nobody, or one that is disabled.
func (d *Directory) memberOf(login string) *member {
	m := d.logins[login]
	if login == "" || m == nil || !m.Active {
		return nil
	}
	return m
}

// canonical returns one copy of equal strings, for the few that a million keys share.
func canonical(s string) string { return unique.Make(s).Value() }

// aliveOwner reports whether the member that a key acts for is there and active.
func (d *Directory) aliveOwner(id string) bool {
	if id == RootMember {
		return true
	}
	m := d.members[id]
	return m != nil && m.Active
}

// setIn is what a holding gives in a namespace. Only keys' grants reach below
// through a namespace's `reach`. In one that is unreadable only grants in all namespaces count.
func (d *Directory) setIn(h *holding, ns *Namespace, key bool) *Set {
	var parts []*Set
	for i := range h.grants {
		switch g := &h.grants[i]; {
		case g.namespace == AnyNamespace:
			parts = append(parts, d.gives(g))
		case ns.Unreadable != "" || d.unreadable(g.namespace):
		case g.namespace == ns.ID || g.connected && g.namespace == ns.Parent:
			parts = append(parts, d.gives(g))
		case key && d.reaches(g.namespace, ns):
			parts = append(parts, d.gives(g).data())
		}
	}
	switch len(parts) {
	case 0:
		return nil
	case 1:
		return parts[0]
	}
	return Union(parts...)
}

// reaches reports whether a namespace's `reach` takes in one below it.
func (d *Directory) reaches(above string, below *Namespace) bool {
	ns := d.namespaces[above]
	if ns == nil {
		return false
	}
	return slices.Contains(ns.Reach, below.Kind) && d.ancestor(above, below)
}

// reachedFrom lists the namespaces that the `reach` of one takes in.
func (d *Directory) reachedFrom(above string) (list []*Namespace) {
	if ns := d.namespaces[above]; ns == nil || len(ns.Reach) == 0 {
		return nil
	}
	for _, ns := range d.namespaces {
		if d.reaches(above, ns) {
			list = append(list, ns)
		}
	}
	return list
}

// gives is a grant's permissions and those of its roles, which are roles of the grant's namespace or shared ones.
func (d *Directory) gives(g *compiledGrant) *Set {
	if len(g.roles) == 0 {
		return g.set
	}
	parts := []*Set{g.set}
	for _, name := range g.roles {
		parts = append(parts, d.role(g.namespace, name))
	}
	return Union(parts...)
}
