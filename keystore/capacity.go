package keystore

import (
	"cmp"
	"maps"
)

// Capacity is how much a deployment may hold. Only growth beyond a cap is refused, as KindInvalid
// `capacity`; removing access always works. Zero values are replaced by those of [DefaultCapacity].
//
// Every node holds all namespaces, roles and members in memory. A cap per namespace counts the
// namespace with its descendants, except for keys, so that nobody gets around it by creating
// namespaces.
type Capacity struct {
	Namespaces Caps // of a namespace: its descendants and itself
	Roles      Caps
	Members    Caps // of a namespace: the grants that members have there
	Directory  Caps // the bytes of all of these
	// KeysPerNamespace and KeysPerOwner count keys whatever their status, members' own tokens left
	// out. Keys that act for root have no cap per owner.
	KeysPerNamespace, KeysPerOwner int64
}

// Caps limit how much there may be of a resource.
type Caps struct {
	Deployment   int64
	PerNamespace int64 // in one namespace and its descendants
}

// DefaultCapacity is the capacity of zero [node.Settings].
var DefaultCapacity = Capacity{
	Namespaces: Caps{20_000, 5_000}, Roles: Caps{20_000, 5_000}, Members: Caps{20_000, 5_000},
	Directory:        Caps{64 << 20, 16 << 20},
	KeysPerNamespace: 10_000_000, KeysPerOwner: 1_000_000,
}

func (c Capacity) WithDefaults() Capacity {
	caps := func(c *Caps, d Caps) {
		c.Deployment = cmp.Or(c.Deployment, d.Deployment)
		c.PerNamespace = cmp.Or(c.PerNamespace, min(d.PerNamespace, c.Deployment))
	}
	caps(&c.Namespaces, DefaultCapacity.Namespaces)
	caps(&c.Roles, DefaultCapacity.Roles)
	caps(&c.Members, DefaultCapacity.Members)
	caps(&c.Directory, DefaultCapacity.Directory)
	c.KeysPerNamespace = cmp.Or(c.KeysPerNamespace, DefaultCapacity.KeysPerNamespace)
	c.KeysPerOwner = cmp.Or(c.KeysPerOwner, DefaultCapacity.KeysPerOwner)
	return c
}

// usage counts what a directory holds. It is updated with each row that is added or removed.
type usage struct {
	all  Tally
	each map[string]Tally // by namespace, without descendants
}

// A tally counts each resource that has caps.
type Tally struct{ Namespaces, Roles, Members, Bytes int64 }

func (t Tally) plus(o Tally, times int64) Tally {
	return Tally{
		t.Namespaces + times*o.Namespaces, t.Roles + times*o.Roles,
		t.Members + times*o.Members, t.Bytes + times*o.Bytes,
	}
}

func (u usage) clone() usage {
	if u.each == nil {
		return usage{each: make(map[string]Tally)}
	}
	return usage{u.all, maps.Clone(u.each)}
}

// rowBytes is the approximate memory of a row or a grant besides its texts.
const rowBytes = 200

// Size returns about how many bytes the namespace takes in memory.
func (ns *Namespace) Size() int64 {
	return int64(rowBytes+len(ns.ID)+len(ns.Kind)+len(ns.Parent)+len(ns.Name)+len(ns.TokenPrefix)+len(ns.ChildPrefix)) +
		bytesOf(ns.Reach) + bytesOf(ns.KeyRoles)
}

// Size returns about how many bytes the role takes in memory.
func (r *Role) Size() int64 {
	return int64(rowBytes+len(r.Namespace)+len(r.Name)+len(r.Description)) + bytesOfPermissions(r.Permissions)
}

// Size returns about how many bytes the member takes in memory.
func (m *Member) Size() int64 {
	n := m.ownSize()
	for i := range m.Grants {
		n += m.Grants[i].size()
	}
	return n
}

// ownSize leaves out the grants.
func (m *Member) ownSize() int64 {
	return int64(rowBytes+len(m.ID)+len(m.Name)+len(m.Login)+len(m.CreatedBy)) + bytesOfTexts(m.Labels)
}

func (g *Grant) size() int64 {
	return int64(rowBytes+len(g.Namespace)) + bytesOf(g.Roles) + bytesOfPermissions(g.Permissions)
}

// Size returns about how many bytes the key takes in memory.
func (k *Key) Size() int64 {
	n := int64(2*rowBytes+len(k.Name)+len(k.RevokeReason)) + 100*int64(len(k.Secrets)) + 40*int64(len(k.AllowedIPs))
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

// Size returns about how many bytes the row takes in memory.
func (r *AuditRow) Size() int64 {
	return int64(2*rowBytes+len(r.Before)+len(r.After)) + bytesOf(r.Namespaces)
}

// namespace counts a namespace, or with times -1 uncounts it. role and member do the same.
func (u *usage) namespace(ns *Namespace, times int64) {
	u.add(ns.ID, Tally{Namespaces: 1, Bytes: ns.Size()}, times)
}

func (u *usage) role(r *Role, times int64) {
	u.add(r.Namespace, Tally{Roles: 1, Bytes: r.Size()}, times)
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

// ungranted stands for the namespace of members without any grant.
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

// below returns what each namespace holds together with its descendants, of one that is its own
// ancestor at least a part. It takes time in proportion to the number of namespaces, however deep
// they are nested.
func (d *Directory) TallyByNamespace() map[string]Tally {
	sums := make(map[string]Tally, len(d.namespaces))
	children := make(map[string]int, len(d.namespaces)) // whose sums are not known yet
	for id, ns := range d.namespaces {
		sums[id] = d.usage.each[id] // without shared roles, and grants in all namespaces
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

const DirectoryBytes = "directory_bytes"

// Scopes of a [CapacityUse].
const (
	ScopeDeployment = "deployment"
	ScopeNamespace  = "namespace"
	ScopeOwner      = "owner"
)

// A CapacityUse is the use of one cap.
type CapacityUse struct {
	Resource string // "namespaces", "roles", "members", "directory_bytes" or "keys"
	// "deployment", "namespace" or "owner": of the last two, the one that holds most
	Scope string
	Used  int64
	Cap   int64
}

// uses returns the counts of a tally with their caps.
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
		{"members", scope, t.Members, of(c.Members)},
		{DirectoryBytes, scope, t.Bytes, of(c.Directory)},
	}
}

// fits reports whether one namespace may hold so much.
func (c *Capacity) Fits(t Tally) bool {
	return t.Namespaces <= c.Namespaces.PerNamespace && t.Roles <= c.Roles.PerNamespace &&
		t.Members <= c.Members.PerNamespace && t.Bytes <= c.Directory.PerNamespace
}

func (u CapacityUse) Grows(before CapacityUse) bool {
	return u.Used > u.Cap && u.Used > before.Used
}

// Total counts what the whole directory holds.
func (d *Directory) Total() Tally { return d.usage.all }

// Ungranted counts the members without any grant.
func (d *Directory) Ungranted() Tally { return d.usage.each[ungranted] }
