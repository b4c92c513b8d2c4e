package keystore

import (
	"cmp"
	"fmt"
	"iter"
	"maps"
	"slices"
	"sync/atomic"
	"unique"
)

// A Policy holds the rows of all namespaces, roles, plans and members, or of those that have
// changed. Together with a key, they determine every decision. Every node holds all of them in
// memory.
type Policy struct {
	Revision   Revision // of the newest change to one of the rows
	At         Position // of the snapshot from which the rows were read
	Whole      bool     // contains all rows
	Namespaces []Namespace
	Roles      []Role // without the built-in ones
	Plans      []Plan
	Members    []Member // without root
	// Changed lists the objects that have changed, unless the policy is whole. Those without a row
	// in the lists above have been deleted.
	Changed []Object
}

// An Object names a namespace, a role, a plan or a member.
type Object struct {
	Kind      ObjectKind
	Namespace string // only for a role or a plan
	Name      string // the name of a role or a plan, or the id of a namespace or member
}

// ObjectKind is the kind of an [Object].
type ObjectKind string

// Kinds of objects.
const (
	NamespaceObject ObjectKind = "namespace"
	RoleObject      ObjectKind = "role"
	PlanObject      ObjectKind = "plan"
	MemberObject    ObjectKind = "member"
)

// A Directory is an indexed policy. It is immutable and safe for concurrent use. Ids are compared
// byte by byte.
type Directory struct {
	serial     uint64 // differs for each directory
	revision   Revision
	namespaces map[string]*Namespace
	reached    map[string][]*Namespace // by namespace, the descendants in its `reach`
	roles      map[RoleID]*role
	plans      map[PlanID]*Plan
	limited    bool // a namespace has a limit or a default plan
	members    map[string]*member
	logins     map[string]*member // by the logins of persons and services
	groups     map[string]*member // by the logins of groups
	usage      usage
}

type role struct {
	*Role
	set *Set
}

type member struct {
	*Member
	grants *CompiledGrants
}

// UnreadableRows lists the rows that cannot be read, each with the reason.
func (d *Directory) UnreadableRows() (list []string) {
	add := func(reason, format string, args ...any) {
		if reason != "" {
			list = append(list, fmt.Sprintf(format, args...)+": "+reason)
		}
	}
	for _, ns := range d.namespaces {
		add(ns.Unreadable, "namespace %s", ns.ID)
	}
	for _, r := range d.roles {
		add(r.Unreadable, "role %s of namespace %s", r.Name, r.Namespace)
	}
	for _, p := range d.plans {
		add(p.Unreadable, "plan %s of namespace %s", p.Name, p.Namespace)
	}
	for _, m := range d.members {
		add(m.Unreadable, "member %s", m.ID)
	}
	slices.Sort(list)
	return list
}

// RequestCounters provides the counters of requests by namespace.
type RequestCounters interface {
	// Keep drops the counters of namespaces that the directory does not have.
	Keep(d *Directory)
	// Of returns the counters of a namespace.
	Of(namespace string) *OutcomeCounts
}

// NewDirectory returns the directory of a whole policy, which must not be modified afterwards.
func NewDirectory(p *Policy) *Directory { return builtin.With(p, nil) }

// builtin is a directory with only the built-in roles.
var builtin = func() *Directory {
	d := &Directory{roles: make(map[RoleID]*role)}
	for i := range builtinRoles {
		r := &builtinRoles[i]
		d.roles[r.ID()] = &role{r, NewSet(r.Permissions...)}
	}
	return d
}()

// With returns the directory with the changes of p, which must not be modified afterwards. It
// copies the maps. If a namespace has changed, it checks all namespaces again. Apart from that, its
// cost depends only on the number of changes. counts provides the counters of the new directory's
// namespaces; nil adds none.
func (d *Directory) With(p *Policy, counts RequestCounters) *Directory {
	d = &Directory{
		serial: serials.Add(1), revision: p.Revision, namespaces: maps.Clone(d.namespaces), reached: d.reached,
		roles: maps.Clone(d.roles), plans: maps.Clone(d.plans), limited: d.limited,
		members: maps.Clone(d.members), logins: maps.Clone(d.logins), groups: maps.Clone(d.groups),
		usage: d.usage.clone(),
	}
	if d.namespaces == nil {
		d.namespaces, d.plans = make(map[string]*Namespace), make(map[PlanID]*Plan)
		d.members, d.logins = make(map[string]*member), make(map[string]*member)
		d.groups = make(map[string]*member)
	}
	moved := len(p.Namespaces) > 0
	for _, o := range p.Changed {
		moved = moved || o.Kind == NamespaceObject
	}
	if moved { // the ancestors of any namespace may have changed, and so may its Unreadable
		for id, ns := range d.namespaces {
			ns := *ns
			d.namespaces[id] = &ns
		}
	}
	for _, o := range p.Changed {
		d.remove(o)
	}
	for i := range p.Namespaces {
		ns := &p.Namespaces[i]
		ns.ID, ns.Parent, ns.Kind = canonical(ns.ID), canonical(ns.Parent), canonical(ns.Kind)
		ns.row = ns.Unreadable
		d.namespaces[ns.ID] = ns
		d.usage.namespace(ns, 1)
	}
	if moved {
		d.limited = false
		for _, ns := range d.namespaces {
			ns.Unreadable = cmp.Or(ns.row, d.Defect(ns))
			d.limited = d.limited || ns.Limits != (Limits{}) || ns.DefaultPlan != "" ||
				ns.LimitsUnreadable
		}
		d.findReached()
	}
	for i := range p.Roles {
		r := &p.Roles[i]
		d.roles[r.ID()] = &role{r, NewSet(r.Permissions...)}
		d.usage.role(r, 1)
	}
	for i := range p.Plans {
		plan := &p.Plans[i]
		d.plans[plan.ID()] = plan
		d.usage.plan(plan, 1)
	}
	for i := range p.Members {
		m := &member{&p.Members[i], CompileGrants(p.Members[i].Grants, "")}
		d.members[m.ID] = m
		if m.Login != "" {
			d.loginsOf(m)[m.Login] = m
		}
		d.usage.member(m.Member, 1)
	}
	if counts != nil {
		counts.Keep(d)
		if moved { // else the namespaces are those of the directory before, with their counters
			for _, ns := range d.namespaces {
				ns.counts = counts.Of(ns.ID)
			}
		}
	}
	return d
}

// remove removes a row that has changed. The caller then adds the new version of a row that still
// exists.
func (d *Directory) remove(o Object) {
	switch o.Kind {
	case NamespaceObject:
		if ns := d.namespaces[o.Name]; ns != nil {
			delete(d.namespaces, o.Name)
			d.usage.namespace(ns, -1)
		}
	case RoleObject:
		id := RoleID{o.Namespace, o.Name}
		if r := d.roles[id]; r != nil && !r.Builtin {
			delete(d.roles, id)
			d.usage.role(r.Role, -1)
		}
	case PlanObject:
		id := PlanID{o.Namespace, o.Name}
		if p := d.plans[id]; p != nil {
			delete(d.plans, id)
			d.usage.plan(p, -1)
		}
	case MemberObject:
		if m := d.members[o.Name]; m != nil {
			delete(d.members, o.Name)
			if logins := d.loginsOf(m); logins[m.Login] == m {
				delete(logins, m.Login)
			}
			d.usage.member(m.Member, -1)
		}
	}
}

// AllNamespaces returns all namespaces, newest first.
func (d *Directory) AllNamespaces() []*Namespace {
	return slices.SortedFunc(maps.Values(d.namespaces), func(a, b *Namespace) int {
		return cmp.Or(b.CreatedAt.Compare(a.CreatedAt), cmp.Compare(b.ID, a.ID))
	})
}

// AllRoles returns all roles, newest first, then the built-in ones.
func (d *Directory) AllRoles() []Role {
	var list []Role
	for _, r := range d.roles {
		if !r.Builtin {
			list = append(list, *r.Role)
		}
	}
	slices.SortFunc(list, func(a, b Role) int {
		return cmp.Or(b.CreatedAt.Compare(a.CreatedAt), cmp.Compare(b.Namespace, a.Namespace),
			cmp.Compare(b.Name, a.Name))
	})
	return append(list, builtinRoles...)
}

// AllPlans returns all plans, newest first.
func (d *Directory) AllPlans() []*Plan {
	return slices.SortedFunc(maps.Values(d.plans), func(a, b *Plan) int {
		return cmp.Or(b.CreatedAt.Compare(a.CreatedAt), cmp.Compare(b.Namespace, a.Namespace),
			cmp.Compare(b.Name, a.Name))
	})
}

// AllMembers returns all members, newest first.
func (d *Directory) AllMembers() []*Member {
	list := make([]*Member, 0, len(d.members))
	for _, m := range d.members {
		list = append(list, m.Member)
	}
	slices.SortFunc(list, func(a, b *Member) int {
		return cmp.Or(b.CreatedAt.Compare(a.CreatedAt), cmp.Compare(b.ID, a.ID))
	})
	return list
}

// Serial returns a number that no other directory of this process has. It identifies a directory
// without keeping it in memory.
func (d *Directory) Serial() uint64 { return d.serial }

var serials atomic.Uint64

// Revision returns the revision of the newest change to the policy.
func (d *Directory) Revision() Revision { return d.revision }

// Namespaces yields all namespaces in no particular order.
func (d *Directory) Namespaces() iter.Seq[*Namespace] { return maps.Values(d.namespaces) }

// Member returns the member with this id, or nil. Root is not in the directory.
func (d *Directory) Member(id string) *Member {
	if m := d.members[id]; m != nil {
		return m.Member
	}
	return nil
}

// Role returns the role with this id, or nil.
func (d *Directory) Role(id RoleID) *Role {
	if r := d.roles[id]; r != nil {
		return r.Role
	}
	return nil
}

// RoleIDs yields the ids of all roles in no particular order.
func (d *Directory) RoleIDs() iter.Seq[RoleID] { return maps.Keys(d.roles) }

// PlanIDs yields the ids of all plans in no particular order.
func (d *Directory) PlanIDs() iter.Seq[PlanID] { return maps.Keys(d.plans) }

// Namespace returns the namespace with this id, or nil.
func (d *Directory) Namespace(id string) *Namespace { return d.namespaces[id] }

// RoleSet returns the permissions of the role that a grant in a namespace refers to by name: a role
// of that namespace or a shared one. It returns nil if the role does not exist.
func (d *Directory) RoleSet(namespace, name string) *Set {
	if r := d.roles[RoleID{namespace, name}]; r != nil {
		return r.set
	}
	if r := d.roles[RoleID{AnyNamespace, name}]; r != nil {
		return r.set
	}
	return nil
}

// Ancestry yields a namespace and then its ancestors, the nearest first. It stops after MaxDepth+1
// namespaces, because rows edited with SQL may form a cycle.
func (d *Directory) Ancestry(ns *Namespace) iter.Seq[*Namespace] {
	return func(yield func(*Namespace) bool) {
		for at, n := ns, 0; at != nil && n <= MaxDepth && yield(at); n++ {
			if at.Parent == "" {
				return
			}
			at = d.namespaces[at.Parent]
		}
	}
}

// Depth returns the level of a namespace: 1 for one without a parent, more than [MaxDepth] for one
// that is nested too deep. It also reports whether the namespace is its own ancestor.
func (d *Directory) Depth(ns *Namespace) (level int, cycle bool) {
	for at := range d.Ancestry(ns) {
		if level++; at.Parent == ns.ID {
			return MaxDepth + 1, true
		}
	}
	return level, false
}

// Descendants returns the descendants of a namespace. height is the number of levels of the tree
// that they form with the namespace.
func (d *Directory) Descendants(id string) (height int, descendants []*Namespace) {
	height = 1
	for _, ns := range d.namespaces {
		if ns.ID == id {
			continue
		}
		levels := 1
		for at := range d.Ancestry(ns) {
			if levels++; at.Parent == id {
				height, descendants = max(height, levels), append(descendants, ns)
				break
			}
		}
	}
	return height, descendants
}

// Defect returns the reason why the API would refuse the id or the parent of a namespace, or the
// empty string. Only SQL can create such a row.
func (d *Directory) Defect(ns *Namespace) string {
	if !ValidNamespaceID(ns.ID) {
		return "no namespace can have this id"
	}
	switch level, cycle := d.Depth(ns); {
	case cycle:
		return fmt.Sprintf("it is its own ancestor through its parent %q", ns.Parent)
	case level > MaxDepth:
		return fmt.Sprintf("it is nested more than %d levels deep, "+
			"or below a namespace that is its own ancestor", MaxDepth)
	}
	return ""
}

// ancestor reports whether above is an ancestor of below. An unreadable namespace has no ancestors.
func (d *Directory) ancestor(above string, below *Namespace) bool {
	if above == "" || below.Unreadable != "" {
		return false
	}
	for at := range d.Ancestry(below) {
		if at.Parent == above {
			return true
		}
	}
	return false
}

// unreadable reports whether the row of a namespace is unreadable. Grants in such a namespace have
// no effect.
func (d *Directory) unreadable(namespace string) bool {
	ns := d.namespaces[namespace]
	return ns != nil && ns.Unreadable != ""
}

// canonical returns the same copy for equal strings, because a million keys share a few of them.
func canonical(s string) string { return unique.Make(s).Value() }

// OwnerActive reports whether the owner of a key exists and is active.
func (d *Directory) OwnerActive(id string) bool {
	if id == RootMember {
		return true
	}
	m := d.members[id]
	return m != nil && m.Active
}

// findReached determines which namespaces reach which others, in both directions. It walks up from
// each namespace, because comparing all pairs would take minutes.
func (d *Directory) findReached() {
	d.reached = make(map[string][]*Namespace)
	for _, ns := range d.namespaces {
		ns.reachedBy = nil
		if ns.Unreadable != "" {
			continue
		}
		for above := range d.Ancestry(ns) {
			if above != ns && slices.Contains(above.Reach, ns.Kind) {
				ns.reachedBy = append(ns.reachedBy, above.ID)
				d.reached[above.ID] = append(d.reached[above.ID], ns)
			}
		}
	}
}

// Reaches reports whether the `reach` of the namespace above includes its descendant below. The
// latter must come from this directory.
func (d *Directory) Reaches(above string, below *Namespace) bool {
	return slices.Contains(below.reachedBy, above)
}

// ReachedFrom returns the descendants of a namespace that its `reach` includes.
func (d *Directory) ReachedFrom(above string) []*Namespace { return d.reached[above] }

// loginsOf returns the index that has the login of a member of this kind: logins or groups.
func (d *Directory) loginsOf(m *member) map[string]*member {
	if m.Kind == Group {
		return d.groups
	}
	return d.logins
}

// MembersByLogin returns the enabled members that a person acts for. login is the person's verified
// login, groups are the verified names of the person's groups. If a member has the login, even a
// disabled one, the groups do not count. Otherwise, the result has the groups that are members, at
// most maxActingGroups, ordered by id.
func (d *Directory) MembersByLogin(login string, groups []string) (list []*Member) {
	if m := d.logins[login]; m != nil {
		groups = nil
		if m.Active {
			list = append(list, m.Member)
		}
	}
	for _, name := range groups {
		if m := d.groups[name]; m != nil && m.Active {
			list = append(list, m.Member)
		}
	}
	slices.SortFunc(list, func(a, b *Member) int { return cmp.Compare(a.ID, b.ID) })
	list = slices.Compact(list)
	return list[:min(len(list), maxActingGroups)]
}
