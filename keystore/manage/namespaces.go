package manage

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/node"
)

// maxKind is the length of a namespace's kind, in characters.
const maxKind = 64

// FindNamespace returns a namespace the caller may read.
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

// ListNamespaces returns those the caller may read, newest first.
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

// CreateNamespace makes one of spec, whose CreatedAt and Version do not count. The creator gains
// nothing in it.
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
					Detail: fmt.Sprintf("namespace %q exists", ns.ID), ID: ns.ID}
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

// claim refuses the id of a namespace that was deleted, except to callers that may create
// namespaces anywhere: the API behind the handlers may still hold what belonged to it, and so does
// the audit log.
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

const (
	// maxReach bounds the kinds in a namespace's reach.
	maxReach = 50
)

// check checks a namespace that was changed from before, or is new if that is the zero value.
func checkNamespace(
	ns *keystore.Namespace, d *keystore.Directory, prefixes []string, before *keystore.Namespace,
) error {
	var p fieldErrors
	if !keystore.ValidNamespaceID(ns.ID) {
		p.add("id",
			"is a letter or digit, then up to 63 of these, '.', '_', '~' or '-'; %q is reserved",
			keystore.HomeNamespace)
	}
	if before.ID == "" {
		p.secret("id", ns.ID)
	}
	p.changedText("name", before.Name, ns.Name, maxName)
	p.changedText("kind", before.Kind, ns.Kind, maxKind)
	if ns.EditPolicy == "" {
		ns.EditPolicy = keystore.EditFree
	}
	if ns.EditPolicy != keystore.EditFree && ns.EditPolicy != keystore.EditGrowOnly {
		p.add("edit_policy", "is %s or %s", keystore.EditFree, keystore.EditGrowOnly)
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
			p.add("parent", "%q lies in this namespace itself", ns.Parent)
		case level > keystore.MaxDepth:
			p.add("parent", "namespaces can be nested at most %d levels deep, descendants included",
				keystore.MaxDepth)
		}
	}
	if ns.ChildPrefix != "" && (!keystore.ValidName(ns.ChildPrefix) ||
		len(ns.ChildPrefix) == keystore.MaxNameLen) {
		p.add("child_prefix",
			"must be the beginning of an id: a letter or digit, then up to %d of these, '.', '_', "+
				"'~' or '-'", keystore.MaxNameLen-2)
	}
	if len(ns.Reach) > maxReach {
		p.add("reach", "are more than %d kinds", maxReach)
	}
	for i, kind := range ns.Reach {
		field := fmt.Sprintf("reach[%d]", i)
		switch {
		case kind == "":
			p.add(field, "is empty")
		case !slices.Contains(before.Reach, kind):
			p.text(field, kind, maxKind)
		}
	}
	for i, r := range ns.KeyRoles {
		switch {
		case r == keystore.AnyRole && len(ns.KeyRoles) > 1:
			p.add(fmt.Sprintf("key_roles[%d]", i),
				"%s stands alone: it means that keys have at least one role", keystore.AnyRole)
		case r != keystore.AnyRole && d.RoleSet(ns.ID, r) == nil:
			p.add(fmt.Sprintf("key_roles[%d]", i),
				"there is no role %q in this namespace, and no shared one; create it first", r)
		}
	}
	if ns.TokenPrefix != "" && !slices.Contains(prefixes, ns.TokenPrefix) {
		p.add("token_prefix", "must be one that the configuration accepts: %s",
			strings.Join(prefixes, ", "))
	}
	return p.err()
}

// childPrefixes adds the ids of a namespace and its descendants that do not begin with the
// ChildPrefix of each of its ancestors.
func (p *fieldErrors) childPrefixes(
	d *keystore.Directory, ns *keystore.Namespace, descendants []*keystore.Namespace,
) {
	for above := range d.Ancestry(d.Namespace(ns.Parent)) {
		unlike := func(ns *keystore.Namespace) bool {
			return !strings.HasPrefix(ns.ID,
				above.ChildPrefix)
		}
		if i := slices.IndexFunc(descendants, unlike); i >= 0 {
			p.add("parent", "ids below namespace %q must begin with %q, unlike %q", above.ID,
				above.ChildPrefix, descendants[i].ID)
		}
		if unlike(ns) {
			p.add("id", "must begin with %q, because it is below namespace %q", above.ChildPrefix,
				above.ID)
		}
	}
}

// A NamespacePatch changes what is not nil.
type NamespacePatch struct {
	Name        *string
	EditPolicy  *keystore.EditPolicy
	Parent      *string // empty: none
	Reach       *[]string
	KeyRoles    *[]string
	TokenPrefix *string // empty: the deployment's first
	ChildPrefix *string // empty: none
}

func namespaceFor(auth authority, operation, id string, o ChangeOptions) (*keystore.Namespace, error) {
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
		after.Version++
		after.Unreadable = ""
		written := before.Unreadable == auth.policy.Defect(before) // reach and key_roles can be read
		if !written && (patch.Reach == nil || patch.KeyRoles == nil) {
			return rowUnreadable("reach and key_roles", before.Unreadable)
		}
		if after.ChildPrefix != before.ChildPrefix &&
			!auth.may(adminNamespaces, "create", cmp.Or(before.Parent, keystore.AnyNamespace)) {
			return permissionRequired(adminNamespaces, "create") // else whom it binds could remove it
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
		then, err := k.checkCapacity(tx, auth, false)
		if err != nil {
			return err
		}
		if err := auth.checkNewReach(then.policy); err != nil {
			return err
		}
		ns = &after
		return audit(tx, auth, "namespace.edit", id, []string{id}, before, &after)
	})
	return ns, p, err
}

// move refuses to put a namespace into another: it takes `*` and `admin:*` in the namespace itself,
// held without the new parent's help, and to create namespaces in the new parent, or in `*` when it
// is to have none (spec 7a.4).
func (a authority) checkMove(ns *keystore.Namespace, parent string) error {
	if !a.may(adminNamespaces, "create", cmp.Or(parent, keystore.AnyNamespace)) {
		return permissionRequired(adminNamespaces, "create")
	}
	return a.requireCover(ns.ID, false, keystore.MustParsePermissions("*", "admin:*"))
}

// reachMore refuses a policy under which keys' grants reach down to namespaces that they did not
// reach before, unless the caller holds `*` there: it would give what others hold above.
func (a authority) checkNewReach(then *keystore.Directory) error {
	if a.root {
		return nil
	}
	for above := range then.Namespaces() {
		for _, ns := range then.ReachedFrom(above.ID) {
			before := a.policy.Namespace(ns.ID)
			if before != nil && !a.policy.Reaches(above.ID, before) {
				if err := a.requireCover(ns.ID, false, keystore.MustParsePermissions("*")); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// DeleteNamespace removes an empty namespace and returns what it was.
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
				Detail: "the namespace " + keystore.DefaultNamespace + " stays", ID: id}
		}
		user, err := namespaceInUse(tx, auth, id)
		if err != nil {
			return err
		}
		if user != "" {
			return &keystore.Error{Kind: keystore.KindConflict, Code: "in_use",
				Detail: fmt.Sprintf("the namespace is not empty: %s", user), ID: id}
		}
		if err := tx.DeleteNamespace(id); err != nil {
			return err
		}
		return audit(tx, auth, "namespace.delete", id, []string{id}, ns, nil)
	})
	return ns, p, err
}

// namespaceUser tells of something that keeps a namespace from being deleted, by its id where the
// caller may read it; empty for nothing.
func namespaceInUse(tx keystore.Tx, auth authority, id string) (string, error) {
	told := func(reads bool, what, name, does string) string {
		if reads {
			return what + " " + name + " " + does
		}
		return "a " + what + " that the caller may not read " + does
	}
	for _, ns := range auth.policy.AllNamespaces() {
		if ns.Parent == id {
			return told(auth.may(adminNamespaces, "read", ns.ID), "namespace", ns.ID,
				"lies in it"), nil
		}
	}
	for _, r := range auth.policy.AllRoles() {
		if r.Namespace == id {
			return told(auth.mayReadRole(id), "role", r.Name, "belongs to it"), nil
		}
	}
	for _, m := range auth.policy.AllMembers() {
		if slices.ContainsFunc(m.Grants, func(g keystore.Grant) bool { return g.Namespace == id }) {
			return told(auth.visible(m) != nil, "member", m.ID, "has a grant in it"), nil
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
	return told(auth.mayReadKey(key.ID, key.Namespace, key.Owner), "key", user,
		"lives in it or has a grant in it; revoke and delete its keys first"), nil
}
