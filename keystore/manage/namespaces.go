package manage

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/node"
)

const (
	maxKind  = 64 // characters in the kind of a namespace
	maxReach = 50 // kinds in the reach of a namespace
)

// FindNamespace returns a namespace that the caller may read.
func (k *Keystore) FindNamespace(
	ctx context.Context, c Caller, id string,
) (*keystore.Namespace, error) {
	list, err := k.ListNamespaces(ctx, c)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(list, func(ns keystore.Namespace) bool { return ns.ID == id })
	if i < 0 {
		return nil, notFound("namespace")
	}
	return &list[i], nil
}

// ListNamespaces returns the namespaces that the caller may read, newest first.
func (k *Keystore) ListNamespaces(ctx context.Context, c Caller) ([]keystore.Namespace, error) {
	auth, done, err := k.beginRead(ctx, c)
	if err != nil {
		return nil, err
	}
	defer done()
	if err := auth.requireAnywhere(adminNamespaces, "read"); err != nil {
		return nil, err
	}
	var list []keystore.Namespace
	for _, ns := range auth.policy.AllNamespaces() {
		if auth.may(adminNamespaces, "read", ns.ID) {
			list = append(list, *ns)
		}
	}
	return list, nil
}

// CreateNamespace creates a namespace from spec, except its CreatedAt and Version. The caller gets
// no permissions in it.
func (k *Keystore) CreateNamespace(
	ctx context.Context, c Caller, spec keystore.Namespace,
) (*keystore.Namespace, error) {
	var ns *keystore.Namespace
	err := k.add(ctx, c, 0, func(tx keystore.Tx, auth authority) error {
		if !auth.may(adminNamespaces, "create", cmp.Or(spec.Parent, keystore.AnyNamespace)) {
			return permissionRequired(adminNamespaces, "create")
		}
		ns = &spec
		ns.CreatedAt, ns.Version = tx.Now(), 1
		if err := checkNamespace(ns, auth.policy, k.Settings().TokenPrefixes,
			new(keystore.Namespace)); err != nil {
			return err
		}
		if err := auth.checkFormerID(tx, ns.ID); err != nil {
			return err
		}
		if err := tx.InsertNamespace(ns); err != nil {
			if errors.Is(err, keystore.ErrExists) {
				return &keystore.Error{Kind: keystore.KindConflict, Code: "exists",
					Detail: fmt.Sprintf("namespace %q already exists", ns.ID), ID: ns.ID}
			}
			return err
		}
		if _, err := k.checkCapacity(tx, auth, false); err != nil {
			return err
		}
		return audit(tx, auth, "namespace.create", ns.ID, []string{ns.ID}, nil, ns)
	})
	return ns, err
}

// checkFormerID refuses the id of a deleted namespace, except to callers that may create namespaces
// in `*`. The API behind the handlers and the audit log may still have the namespace's data
// (docs/authority.md, rule 9).
func (a authority) checkFormerID(tx keystore.Tx, id string) error {
	if a.may(adminNamespaces, "create", keystore.AnyNamespace) {
		return nil
	}
	former, err := tx.FormerNamespace(id)
	if err == nil && former {
		err = &keystore.Error{Kind: keystore.KindConflict, Code: "exists", ID: id,
			Detail: fmt.Sprintf("namespace %q existed before; "+
				"using its id again requires %s:create in namespace %s", id, adminNamespaces,
				keystore.AnyNamespace)}
	}
	return err
}

// checkNamespace checks the fields of a namespace. before is the namespace before the change, the
// zero value for a new one.
func checkNamespace(
	ns *keystore.Namespace, d *keystore.Directory, prefixes []string, before *keystore.Namespace,
) error {
	var p fieldErrors
	if !keystore.ValidNamespaceID(ns.ID) {
		p.add("id",
			"must start with a letter or digit and have at most 64 letters, digits, '.', '_', "+
				"'~' and '-'; %q is reserved", keystore.HomeNamespace)
	}
	if before.ID == "" {
		p.secret("id", ns.ID)
	}
	p.name(before.Name, ns.Name)
	p.changedText("kind", before.Kind, ns.Kind, maxKind)
	if ns.EditPolicy == "" {
		ns.EditPolicy = keystore.EditFree
	}
	if ns.EditPolicy != keystore.EditFree && ns.EditPolicy != keystore.EditGrowOnly {
		p.add("edit_policy", "must be %s or %s", keystore.EditFree, keystore.EditGrowOnly)
	}
	if ns.Parent != "" {
		p.namespace(d, "parent", ns.Parent)
		level, cycle := d.Depth(ns)
		if before := d.Namespace(ns.ID); !cycle && (before == nil || before.Parent != ns.Parent) {
			height, descendants := d.Descendants(ns.ID)
			level += height - 1
			p.childPrefixes(d, ns, descendants)
		}
		switch {
		case cycle:
			p.add("parent", "must not be the namespace itself or one of its descendants")
		case level > keystore.MaxDepth:
			p.add("parent", "must leave the namespace and its descendants nested at most %d "+
				"levels deep", keystore.MaxDepth)
		}
	}
	if ns.ChildPrefix != "" && (!keystore.ValidName(ns.ChildPrefix) ||
		len(ns.ChildPrefix) == keystore.MaxNameLen) {
		p.add("child_prefix",
			"must start with a letter or digit and have at most %d letters, digits, '.', '_', "+
				"'~' and '-'", keystore.MaxNameLen-1)
	}
	if len(ns.Reach) > maxReach {
		p.add("reach", "must contain at most %d kinds", maxReach)
	}
	for i, kind := range ns.Reach {
		field := fmt.Sprintf("reach[%d]", i)
		switch {
		case kind == "":
			p.add(field, "must not be empty")
		case !slices.Contains(before.Reach, kind):
			p.text(field, kind, maxKind)
		}
	}
	for i, r := range ns.KeyRoles {
		switch {
		case r == keystore.AnyRole && len(ns.KeyRoles) > 1:
			p.add(fmt.Sprintf("key_roles[%d]", i),
				"must be the only entry if it is %s, which stands for any role", keystore.AnyRole)
		case r != keystore.AnyRole && d.RoleSet(ns.ID, r) == nil:
			p.add(fmt.Sprintf("key_roles[%d]", i),
				"role %q does not exist in this namespace and is not shared; create it first", r)
		}
	}
	p.limits(ns.Limits)
	p.plan(d, "default_plan", ns.ID, ns.DefaultPlan)
	p.lifecycle(&ns.Lifecycle)
	if ns.TokenPrefix != "" && !slices.Contains(prefixes, ns.TokenPrefix) {
		p.add("token_prefix", "must be one that the configuration accepts: %s",
			strings.Join(prefixes, ", "))
	}
	return p.err()
}

// childPrefixes checks that the ids of a namespace and its descendants begin with the ChildPrefix
// of each of its ancestors (docs/authority.md, rule 9).
func (p *fieldErrors) childPrefixes(
	d *keystore.Directory, ns *keystore.Namespace, descendants []*keystore.Namespace,
) {
	for above := range d.Ancestry(d.Namespace(ns.Parent)) {
		unlike := func(ns *keystore.Namespace) bool {
			return !strings.HasPrefix(ns.ID, above.ChildPrefix)
		}
		if i := slices.IndexFunc(descendants, unlike); i >= 0 {
			p.add("parent", "the ids of descendants of namespace %q must begin with %q, and %q "+
				"does not", above.ID, above.ChildPrefix, descendants[i].ID)
		}
		if unlike(ns) {
			p.add("id", "must begin with %q, because of the child_prefix of namespace %q",
				above.ChildPrefix, above.ID)
		}
	}
}

// A NamespacePatch describes changes of a namespace. Nil fields change nothing.
type NamespacePatch struct {
	Name        *string
	EditPolicy  *keystore.EditPolicy
	Parent      *string // empty moves the namespace to the top level
	Reach       *[]string
	KeyRoles    *[]string
	TokenPrefix *string // empty stands for the first prefix in the configuration
	ChildPrefix *string // empty: none
	Limits      LimitsPatch
	DefaultPlan *string // empty removes it
	MaxLifetime *time.Duration
	Idle        *keystore.IdleRule
	OnLeak      *keystore.LeakAction
}

// namespaceFor returns a namespace on which the caller may do an operation. It checks the version.
func namespaceFor(
	auth authority, operation, id string, o ChangeOptions,
) (*keystore.Namespace, error) {
	if err := auth.requireAnywhere(adminNamespaces, operation); err != nil {
		return nil, err
	}
	ns := auth.policy.Namespace(id)
	if ns == nil {
		return nil, notFound("namespace")
	}
	if err := auth.requireOn(adminNamespaces, operation, id, "namespace"); err != nil {
		return nil, err
	}
	return ns, o.check(ns.Version)
}

// EditNamespace changes a namespace.
func (k *Keystore) EditNamespace(
	ctx context.Context, c Caller, id string, patch NamespacePatch, o ChangeOptions,
) (*keystore.Namespace, node.Propagation, error) {
	var ns *keystore.Namespace
	p, err := k.change(ctx, c, o.Wait, func(tx keystore.Tx, auth authority) error {
		before, err := namespaceFor(auth, "update", id, o)
		if err != nil {
			return err
		}
		after := *before
		set(&after.Name, patch.Name)
		set(&after.EditPolicy, patch.EditPolicy)
		set(&after.Parent, patch.Parent)
		set(&after.Reach, patch.Reach)
		set(&after.KeyRoles, patch.KeyRoles)
		set(&after.TokenPrefix, patch.TokenPrefix)
		set(&after.ChildPrefix, patch.ChildPrefix)
		patch.Limits.apply(&after.Limits)
		set(&after.DefaultPlan, patch.DefaultPlan)
		set(&after.MaxLifetime, patch.MaxLifetime)
		set(&after.Idle, patch.Idle)
		set(&after.OnLeak, patch.OnLeak)
		after.Version++
		after.Unreadable, after.ListsUnreadable, after.LimitsUnreadable = "", false, false
		switch {
		case before.ListsUnreadable && (patch.Reach == nil || patch.KeyRoles == nil):
			return rowUnreadable("reach and key_roles", before.Unreadable)
		case before.LimitsUnreadable && !patch.Limits.whole():
			return rowUnreadable("rate_limit and quota", before.Unreadable)
		}
		if after.ChildPrefix != before.ChildPrefix &&
			!auth.may(adminNamespaces, "create", cmp.Or(before.Parent, keystore.AnyNamespace)) {
			// Otherwise an administrator of the namespace could remove the restriction.
			return permissionRequired(adminNamespaces, "create")
		}
		if err := auth.checkNamespaceLimits(before, &after); err != nil {
			return err
		}
		if after.Parent != before.Parent {
			if err := auth.checkMove(before, after.Parent); err != nil {
				return err
			}
		}
		if err := checkNamespace(&after, auth.policy, k.Settings().TokenPrefixes,
			before); err != nil {
			return err
		}
		if err := tx.UpdateNamespace(&after); err != nil {
			return err
		}
		changed, err := k.checkCapacity(tx, auth, false)
		if err != nil {
			return err
		}
		if err := auth.checkNewReach(changed.policy); err != nil {
			return err
		}
		ns = &after
		return audit(tx, auth, "namespace.edit", id, []string{id}, before, &after)
	})
	return ns, p, err
}

// checkNamespaceLimits checks that the caller may change the limits or the default plan of a
// namespace, or move a namespace that has them. Otherwise an administrator of the namespace could
// remove its limits (docs/authority.md, rule 14).
func (a authority) checkNamespaceLimits(before, after *keystore.Namespace) error {
	changed := after.Limits != before.Limits || after.DefaultPlan != before.DefaultPlan
	limited := before.Limits != keystore.Limits{} || before.DefaultPlan != ""
	if !changed && (!limited || after.Parent == before.Parent) {
		return nil
	}
	if !a.may(adminNamespaces, "update", cmp.Or(before.Parent, keystore.AnyNamespace)) {
		refusal := permissionRequired(adminNamespaces, "update")
		refusal.Detail += " in the namespace's parent, or in " + keystore.AnyNamespace +
			" if it has none, to change limits or the default plan, or to move a namespace " +
			"that has them"
		return refusal
	}
	if after.Limits != before.Limits {
		if err := a.checkCovers(after.Over(keystore.Limits{})); err != nil {
			return err
		}
	}
	if after.DefaultPlan != before.DefaultPlan {
		var l keystore.Limits
		if plan := a.policy.PlanFor(after.ID, after.DefaultPlan); plan != nil {
			l = plan.Limits
		}
		return a.checkCovers(l.Over(keystore.Limits{}))
	}
	return nil
}

// checkMove checks that the caller may move a namespace to a new parent, empty for the top level.
// It requires `*` and `admin:*` in the namespace itself, and `admin.namespaces:create` in the new
// parent or, for the top level, in `*` (docs/authority.md, rule 9).
func (a authority) checkMove(ns *keystore.Namespace, parent string) error {
	if !a.may(adminNamespaces, "create", cmp.Or(parent, keystore.AnyNamespace)) {
		return permissionRequired(adminNamespaces, "create")
	}
	return a.requireCover(ns.ID, false, keystore.MustParsePermissions("*", "admin:*"))
}

// checkNewReach refuses a policy under which grants of keys reach a further namespace, unless the
// caller has `*` there, because the change would give keys permissions in it (docs/authority.md,
// rule 9).
func (a authority) checkNewReach(after *keystore.Directory) error {
	if a.root {
		return nil
	}
	all := keystore.MustParsePermissions("*")
	for above := range after.Namespaces() {
		for _, ns := range after.ReachedFrom(above.ID) {
			if !a.policy.Reaches(above.ID, a.policy.Namespace(ns.ID)) {
				if err := a.requireCover(ns.ID, false, all); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// DeleteNamespace deletes a namespace to which no other object refers, and returns it as it was.
func (k *Keystore) DeleteNamespace(
	ctx context.Context, c Caller, id string, o ChangeOptions,
) (*keystore.Namespace, node.Propagation, error) {
	var ns *keystore.Namespace
	p, err := k.change(ctx, c, o.Wait, func(tx keystore.Tx, auth authority) (err error) {
		if ns, err = namespaceFor(auth, "delete", id, o); err != nil {
			return err
		}
		if id == keystore.DefaultNamespace {
			return &keystore.Error{Kind: keystore.KindConflict, Code: "in_use",
				Detail: "the namespace " + keystore.DefaultNamespace + " cannot be deleted", ID: id}
		}
		use, err := namespaceInUse(tx, auth, id)
		if err != nil {
			return err
		}
		if use != "" {
			return &keystore.Error{Kind: keystore.KindConflict, Code: "in_use",
				Detail: fmt.Sprintf("the namespace is in use: %s", use), ID: id}
		}
		if err := tx.DeleteNamespace(id); err != nil {
			return err
		}
		return audit(tx, auth, "namespace.delete", id, []string{id}, ns, nil)
	})
	return ns, p, err
}

// namespaceInUse describes an object that refers to a namespace, empty if there is none. It names
// the object only if the caller may read it.
func namespaceInUse(tx keystore.Tx, auth authority, id string) (string, error) {
	for _, ns := range auth.policy.AllNamespaces() {
		if ns.Parent == id {
			return describeUse(auth.may(adminNamespaces, "read", ns.ID), "namespace", ns.ID,
				"is a child of it"), nil
		}
	}
	for _, r := range auth.policy.AllRoles() {
		if r.Namespace == id {
			return describeUse(auth.mayReadShareable(adminRoles, id), "role", r.Name,
				"belongs to it"), nil
		}
	}
	for _, p := range auth.policy.AllPlans() {
		if p.Namespace == id {
			return describeUse(auth.mayReadShareable(adminPlans, id), "plan", p.Name,
				"belongs to it"), nil
		}
	}
	for _, m := range auth.policy.AllMembers() {
		if slices.ContainsFunc(m.Grants, func(g keystore.Grant) bool { return g.Namespace == id }) {
			return describeUse(auth.visible(m) != nil, "member", m.ID, "has a grant in it"), nil
		}
	}
	user, err := tx.NamespaceInUse(id)
	if err != nil || user == "" {
		return "", err
	}
	key, err := tx.Key(user)
	if err != nil {
		return "", err
	}
	return describeUse(auth.mayReadKey(key.ID, key.Namespace, key.Owner), "key", user,
		"has its home or a grant in it; revoke and delete such keys first"), nil
}

// describeUse describes an object that uses another. It names the object only if the caller may
// read it.
func describeUse(mayRead bool, kind, name, use string) string {
	if mayRead {
		return kind + " " + name + " " + use
	}
	return "a " + kind + " that the caller may not read " + use
}
