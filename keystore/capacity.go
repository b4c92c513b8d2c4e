package keystore

import (
	"cmp"
	"maps"
)

// Capacity limits how much a deployment can hold. A change that grows beyond a cap is refused with
// [KindInvalid] and the code `capacity`. Removing access always works. Zero fields stand for those
// of [DefaultCapacity].
//
// Caps on namespaces, roles, plans and members exist because every node holds all of them in
// memory. Except for keys, a cap per namespace includes the namespace's descendants, so that
// creating namespaces does not circumvent it.
type Capacity struct {
	Namespaces Caps // per namespace: itself and its descendants
	Roles      Caps
	Plans      Caps
	Members    Caps // per namespace: the grants that members have in it
	Directory  Caps // bytes of all of the above
	// KeysPerNamespace and KeysPerOwner count keys of every status, without members' tokens. Keys
	// that root owns have no cap per owner.
	KeysPerNamespace, KeysPerOwner int64
}

// Caps limit one resource.
type Caps struct {
	Deployment   int64
	PerNamespace int64 // in one namespace and its descendants
}

// DefaultCapacity is the capacity of a deployment that configures none.
var DefaultCapacity = Capacity{
	Namespaces: Caps{20_000, 5_000}, Roles: Caps{20_000, 5_000},
	Plans: Caps{20_000, 5_000}, Members: Caps{20_000, 5_000},
	Directory:        Caps{64 << 20, 16 << 20},
	KeysPerNamespace: 10_000_000, KeysPerOwner: 1_000_000,
}

// WithDefaults returns c with zero fields replaced by those of [DefaultCapacity]. A default cap per
// namespace is at most the cap of the deployment.
func (c Capacity) WithDefaults() Capacity {
	caps := func(c *Caps, d Caps) {
		c.Deployment = cmp.Or(c.Deployment, d.Deployment)
		c.PerNamespace = cmp.Or(c.PerNamespace, min(d.PerNamespace, c.Deployment))
	}
	caps(&c.Namespaces, DefaultCapacity.Namespaces)
	caps(&c.Roles, DefaultCapacity.Roles)
	caps(&c.Plans, DefaultCapacity.Plans)
	caps(&c.Members, DefaultCapacity.Members)
	caps(&c.Directory, DefaultCapacity.Directory)
	c.KeysPerNamespace = cmp.Or(c.KeysPerNamespace, DefaultCapacity.KeysPerNamespace)
	c.KeysPerOwner = cmp.Or(c.KeysPerOwner, DefaultCapacity.KeysPerOwner)
	return c
}

// usage counts the rows of a directory. It is updated with each row that is added or removed.
type usage struct {
	all  Tally
	each map[string]Tally // by namespace, without descendants
}

// A Tally counts the resources of a directory that have caps.
type Tally struct{ Namespaces, Roles, Plans, Members, Bytes int64 }

func (t Tally) plus(o Tally, times int64) Tally {
	return Tally{
		t.Namespaces + times*o.Namespaces, t.Roles + times*o.Roles,
		t.Plans + times*o.Plans, t.Members + times*o.Members, t.Bytes + times*o.Bytes,
	}
}

func (u usage) clone() usage {
	if u.each == nil {
		return usage{each: make(map[string]Tally)}
	}
	return usage{u.all, maps.Clone(u.each)}
}

// rowBytes is the approximate memory of a row or a grant without its texts.
const rowBytes = 200

// Size returns the approximate memory of the namespace in bytes.
func (ns *Namespace) Size() int64 {
	texts := len(ns.ID) + len(ns.Kind) + len(ns.Parent) + len(ns.Name) + len(ns.TokenPrefix) +
		len(ns.ChildPrefix) + len(ns.DefaultPlan)
	return int64(rowBytes+texts) + bytesOf(ns.Reach) + bytesOf(ns.KeyRoles)
}

// Size returns the approximate memory of the role in bytes.
func (r *Role) Size() int64 {
	return int64(rowBytes+len(r.Namespace)+len(r.Name)+len(r.Description)) +
		bytesOfPermissions(r.Permissions)
}

// Size returns the approximate memory of the plan in bytes.
func (p *Plan) Size() int64 {
	return int64(rowBytes + len(p.Namespace) + len(p.Name) + len(p.Description))
}

// Size returns the approximate memory of the member in bytes.
func (m *Member) Size() int64 {
	n := m.ownSize()
	for i := range m.Grants {
		n += m.Grants[i].size()
	}
	return n
}

// ownSize returns the member's size without its grants.
func (m *Member) ownSize() int64 {
	return int64(rowBytes+len(m.ID)+len(m.Name)+len(m.Login)+len(m.CreatedBy)) +
		bytesOfTexts(m.Labels)
}

func (g *Grant) size() int64 {
	return int64(rowBytes+len(g.Namespace)) + bytesOf(g.Roles) + bytesOfPermissions(g.Permissions)
}

// Size returns the approximate memory of the key in bytes.
func (k *Key) Size() int64 {
	n := int64(2*rowBytes + len(k.Name) + len(k.RevokeReason) + len(k.Plan) +
		len(k.LastDerived.Note) + 100*len(k.Secrets) + 40*len(k.AllowedIPs))
	for i := range k.Grants {
		n += k.Grants[i].size()
	}
	return n + bytesOfTexts(k.Metadata)
}

func bytesOfTexts(m map[string]string) (n int64) {
	for name, value := range m {
		n += int64(len(name)+len(value)) + 80
	}
	return n
}

// Size returns the approximate memory of the row in bytes.
func (r *AuditRow) Size() int64 {
	return int64(2*rowBytes+len(r.Before)+len(r.After)) + bytesOf(r.Namespaces)
}

// namespace adds a namespace to the counts if times is 1, and subtracts it if times is -1. The
// methods role, plan and member do the same.
func (u *usage) namespace(ns *Namespace, times int64) {
	u.add(ns.ID, Tally{Namespaces: 1, Bytes: ns.Size()}, times)
}

func (u *usage) role(r *Role, times int64) {
	u.add(r.Namespace, Tally{Roles: 1, Bytes: r.Size()}, times)
}

func (u *usage) plan(p *Plan, times int64) {
	u.add(p.Namespace, Tally{Plans: 1, Bytes: p.Size()}, times)
}

func (u *usage) member(m *Member, times int64) {
	all := Tally{Members: 1, Bytes: m.Size()}
	if len(m.Grants) == 0 {
		u.add(ungranted, all, times)
		return
	}
	u.all = u.all.plus(all, times)
	for i := range m.Grants {
		g := &m.Grants[i]
		u.in(g.Namespace, Tally{Members: 1, Bytes: g.size()}, times)
	}
}

// ungranted is the key in usage.each under which members without grants are counted.
const ungranted = ""

func (u *usage) add(namespace string, t Tally, times int64) {
	u.all = u.all.plus(t, times)
	u.in(namespace, t, times)
}

func (u *usage) in(namespace string, t Tally, times int64) {
	if t = u.each[namespace].plus(t, times); t == (Tally{}) {
		delete(u.each, namespace)
	} else {
		u.each[namespace] = t
	}
}

func bytesOf(list []string) (n int64) {
	for _, s := range list {
		n += int64(len(s)) + 16
	}
	return n
}

func bytesOfPermissions(list []Permission) (n int64) {
	for _, p := range list {
		n += int64(len(p.Resource)+len(p.Action)) + 32
	}
	return n
}

// TallyByNamespace returns the tally of each namespace including its descendants. For a namespace
// that is its own ancestor, it may count only some of them. It takes linear time, however deep
// namespaces are nested.
func (d *Directory) TallyByNamespace() map[string]Tally {
	sums := make(map[string]Tally, len(d.namespaces))
	children := make(map[string]int, len(d.namespaces)) // without sums yet
	for id, ns := range d.namespaces {
		sums[id] = d.usage.each[id] // without shared roles and grants in all namespaces
		children[ns.Parent]++
	}
	for id, ns := range d.namespaces {
		for children[id] == 0 {
			children[id] = -1 // done
			parent := d.namespaces[ns.Parent]
			if parent == nil {
				break
			}
			sums[parent.ID] = sums[parent.ID].plus(sums[id], 1)
			children[parent.ID]--
			id, ns = parent.ID, parent
		}
	}
	return sums
}

// DirectoryBytes is the resource of [Capacity.Directory] in a [CapacityUse].
const DirectoryBytes = "directory_bytes"

// Scopes of a [CapacityUse].
const (
	ScopeDeployment = "deployment"
	ScopeNamespace  = "namespace"
	ScopeOwner      = "owner"
)

// A CapacityUse is the use of one cap.
type CapacityUse struct {
	Resource string // "namespaces", "roles", "plans", "members", "directory_bytes" or "keys"
	Scope    string // for "namespace" and "owner", Used is the highest of all
	Used     int64
	Cap      int64
}

// Uses returns the counts of a tally with their caps in a scope.
func (c *Capacity) Uses(t Tally, scope string) []CapacityUse {
	of := func(c Caps) int64 {
		if scope == ScopeNamespace {
			return c.PerNamespace
		}
		return c.Deployment
	}
	return []CapacityUse{
		{"namespaces", scope, t.Namespaces, of(c.Namespaces)},
		{"roles", scope, t.Roles, of(c.Roles)},
		{"plans", scope, t.Plans, of(c.Plans)},
		{"members", scope, t.Members, of(c.Members)},
		{DirectoryBytes, scope, t.Bytes, of(c.Directory)},
	}
}

// Fits reports whether a tally is within the caps per namespace.
func (c *Capacity) Fits(t Tally) bool {
	return t.Namespaces <= c.Namespaces.PerNamespace && t.Roles <= c.Roles.PerNamespace &&
		t.Plans <= c.Plans.PerNamespace && t.Members <= c.Members.PerNamespace &&
		t.Bytes <= c.Directory.PerNamespace
}

// Grows reports whether u exceeds its cap and is larger than before.
func (u CapacityUse) Grows(before CapacityUse) bool {
	return u.Used > u.Cap && u.Used > before.Used
}

// Total returns the tally of the whole directory.
func (d *Directory) Total() Tally { return d.usage.all }

// Ungranted returns the tally of the members without grants.
func (d *Directory) Ungranted() Tally { return d.usage.each[ungranted] }
