package keystore

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
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

// DefaultCapacity is the capacity of zero [Settings].
var DefaultCapacity = Capacity{
	Namespaces: Caps{20_000, 5_000}, Roles: Caps{20_000, 5_000}, Members: Caps{20_000, 5_000},
	Directory:        Caps{64 << 20, 16 << 20},
	KeysPerNamespace: 10_000_000, KeysPerOwner: 1_000_000,
}

func (c Capacity) withDefaults() Capacity {
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
	all  tally
	each map[string]tally // by namespace, without descendants
}

// A tally counts each resource that has caps.
type tally struct{ namespaces, roles, members, bytes int64 }

func (t tally) plus(o tally, times int64) tally {
	return tally{
		t.namespaces + times*o.namespaces, t.roles + times*o.roles,
		t.members + times*o.members, t.bytes + times*o.bytes,
	}
}

func (u usage) clone() usage {
	if u.each == nil {
		return usage{each: make(map[string]tally)}
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
	u.add(ns.ID, tally{namespaces: 1, bytes: ns.Size()}, times)
}

func (u *usage) role(r *Role, times int64) {
	u.add(r.Namespace, tally{roles: 1, bytes: r.Size()}, times)
}

func (u *usage) member(m *Member, times int64) {
	all := tally{members: 1, bytes: m.Size()}
	if len(m.Grants) == 0 {
		u.add(ungranted, all, times)
		return
	}
	u.all = u.all.plus(all, times)
	for i := range m.Grants {
		g := &m.Grants[i]
		u.in(g.Namespace, tally{members: 1, bytes: g.size()}, times)
	}
}

// ungranted stands for the namespace of members without any grant.
const ungranted = ""

func (u *usage) add(namespace string, t tally, times int64) {
	u.all = u.all.plus(t, times)
	u.in(namespace, t, times)
}

func (u *usage) in(namespace string, t tally, times int64) {
	if t = u.each[namespace].plus(t, times); t == (tally{}) {
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
func (d *Directory) below() map[string]tally {
	sums := make(map[string]tally, len(d.namespaces))
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

const directoryBytes = "directory_bytes"

// A CapacityUse is the use of one cap.
type CapacityUse struct {
	Resource string // "namespaces", "roles", "members", "directory_bytes" or "keys"
	// "deployment", "namespace" or "owner": of the last two, the one that holds most
	Scope string
	Used  int64
	Cap   int64
}

// uses returns the counts of a tally with their caps.
func (c *Capacity) uses(t tally, scope string, of func(Caps) int64) []CapacityUse {
	return []CapacityUse{
		{"namespaces", scope, t.namespaces, of(c.Namespaces)},
		{"roles", scope, t.roles, of(c.Roles)},
		{"members", scope, t.members, of(c.Members)},
		{directoryBytes, scope, t.bytes, of(c.Directory)},
	}
}

// fits reports whether one namespace may hold so much.
func (c *Capacity) fits(t tally) bool {
	return t.namespaces <= c.Namespaces.PerNamespace && t.roles <= c.Roles.PerNamespace &&
		t.members <= c.Members.PerNamespace && t.bytes <= c.Directory.PerNamespace
}

func ofDeployment(c Caps) int64   { return c.Deployment }
func ofOneNamespace(c Caps) int64 { return c.PerNamespace }

// CapacityUses returns the use of each cap except those on keys, as this node knows it.
func (k *Keystore) CapacityUses() []CapacityUse {
	d, c := k.Policy(), &k.settings.Load().Capacity
	var most tally
	for _, t := range d.below() {
		most = tally{
			max(most.namespaces, t.namespaces), max(most.roles, t.roles),
			max(most.members, t.members), max(most.bytes, t.bytes),
		}
	}
	return append(c.uses(d.usage.all, "deployment", ofDeployment),
		c.uses(most, "namespace", ofOneNamespace)...)
}

// CapacityOfKeys is CapacityUses for keys, from the database.
func (k *Keystore) CapacityOfKeys(ctx context.Context) ([]CapacityUse, error) {
	owner, namespace, err := k.db.MostKeys(ctx)
	if err != nil {
		return nil, err
	}
	c := &k.settings.Load().Capacity
	return []CapacityUse{
		{"keys", "namespace", namespace, c.KeysPerNamespace},
		{"keys", "owner", owner, c.KeysPerOwner},
	}, nil
}

// grown returns the authority under the policy as the transaction has changed it. It fails if the
// change increases a count beyond its cap.
//
// A change that only narrows what its object gives may take more text. It is not refused for bytes
// of the deployment, which others may have filled, nor of a namespace if the caller has a grant in
// all namespaces.
func (k *Keystore) grown(tx Tx, by authority, narrows bool) (authority, error) {
	then, err := k.policyIn(tx)
	if err != nil {
		return by, err
	}
	c := &k.settings.Load().Capacity
	before := c.uses(by.policy.usage.all, "", ofDeployment)
	for i, use := range c.uses(then.usage.all, "", ofDeployment) {
		if use.grows(before[i]) && !(narrows && use.Resource == directoryBytes) {
			return by, full("the deployment", use)
		}
	}
	if narrows && by.holdsAnywhere() {
		by.policy = then
		return by, nil
	}
	below := then.below()
	maps.DeleteFunc(below, func(_ string, t tally) bool { return c.fits(t) })
	var was map[string]tally
	if len(below) > 0 {
		was = by.policy.below()
	}
	for _, id := range slices.Sorted(maps.Keys(below)) {
		before := c.uses(was[id], "", ofOneNamespace)
		for i, use := range c.uses(below[id], "", ofOneNamespace) {
			if use.grows(before[i]) {
				return by, full(by.named(id)+" with its descendants", use)
			}
		}
	}
	by.policy = then
	return by, nil
}

// roomForMember refuses a new member while too many have no grant: these count for no namespace,
// and whoever may create members in one could fill the deployment with them. Who may create them in
// all namespaces still can.
func (k *Keystore) roomForMember(by authority) error {
	c := &k.settings.Load().Capacity
	if by.may(adminMembers, "create", AnyNamespace) || c.fits(by.policy.usage.each[ungranted]) {
		return nil
	}
	return full("the deployment", CapacityUse{Resource: "members without a grant",
		Cap: c.Members.PerNamespace})
}

func (u CapacityUse) grows(before CapacityUse) bool {
	return u.Used > u.Cap && u.Used > before.Used
}

// full is the error of a change that would exceed a cap.
func full(what string, use CapacityUse) *Error {
	resource := use.Resource
	if resource == directoryBytes {
		resource = "bytes of namespaces, roles and members"
	}
	return &Error{Kind: KindInvalid, Code: "capacity", Detail: fmt.Sprintf(
		"%s may hold at most %d %s: delete some, "+
			"or have the operator raise this limit in the capacity block of the configuration",
		what, use.Cap, resource)}
}

// A keyRoom checks the new keys of one transaction against the caps on keys. It queries each count
// once.
type keyRoom struct {
	tx       Tx
	by       authority
	capacity *Capacity
	owned    map[string]int64
	homed    map[string]int64
}

func (k *Keystore) roomFor(tx Tx, by authority) *keyRoom {
	return &keyRoom{tx, by, &k.settings.Load().Capacity, make(map[string]int64),
		make(map[string]int64)}
}

// add counts one more key.
func (r *keyRoom) add(k *Key) error {
	if err := r.own(k); err != nil {
		return err
	}
	n, err := count(r.homed, k.Namespace, r.tx.CountHomed)
	if err != nil {
		return err
	}
	if n >= r.capacity.KeysPerNamespace {
		return full(r.by.named(k.Namespace),
			CapacityUse{Resource: "keys", Cap: r.capacity.KeysPerNamespace})
	}
	r.owned[k.Owner]++
	r.homed[k.Namespace]++
	return nil
}

// own checks whether a key's owner may have one more.
func (r *keyRoom) own(k *Key) error {
	if k.Owner == RootMember {
		return nil
	}
	n, err := count(r.owned, k.Owner, r.tx.CountOwned)
	if err == nil && n >= r.capacity.KeysPerOwner {
		err = full("the key's owner", CapacityUse{Resource: "keys", Cap: r.capacity.KeysPerOwner})
	}
	return err
}

func count(
	known map[string]int64, id string, ask func(string) (int64, error),
) (n int64, err error) {
	n, ok := known[id]
	if !ok {
		if n, err = ask(id); err == nil {
			known[id] = n
		}
	}
	return n, err
}
