package manage

import (
	"errors"
	"fmt"
	"iter"
	"strings"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// The functions in this file are for roles and plans. Each belongs to one namespace or is shared,
// and its name identifies it there.

// mayReadShareable reports whether the caller may read the roles or the plans of a namespace. A
// caller that may read them in any namespace may read the shared ones.
func (a authority) mayReadShareable(resource, namespace string) bool {
	return a.may(resource, "read", namespace) || namespace == keystore.AnyNamespace &&
		a.requireAnywhere(resource, "read") == nil
}

// requireOnShareable checks an operation on a role or a plan of a namespace. kind names the kind of
// object in errors. exists reports whether the object exists.
func (a authority) requireOnShareable(
	resource, operation, namespace, kind string, exists bool,
) error {
	if err := a.requireAnywhere(resource, operation); err != nil {
		return err
	}
	switch may := a.may(resource, operation, namespace); {
	case !exists, !may && !a.mayReadShareable(resource, namespace):
		return notFound(kind)
	case !may:
		return permissionRequired(resource, operation)
	}
	return nil
}

// shareable checks the fields that roles and plans have in common.
func (p *fieldErrors) shareable(d *keystore.Directory, namespace, name, description string) {
	if namespace != keystore.AnyNamespace {
		p.namespace(d, "namespace", namespace)
	}
	if !keystore.ValidName(name) {
		p.add("name", "must start with a letter or digit and have at most 64 letters, digits, "+
			"'.', '_', '~' and '-'")
	}
	p.secret("name", name)
	p.text("description", description, maxDescription)
}

// checkNameFree refuses the name of a new role or plan if another one with this name can be used in
// the same namespace.
func checkNameFree[ID keystore.RoleID | keystore.PlanID](
	kind string, id ID, others iter.Seq[ID],
) error {
	fresh := keystore.RoleID(id)
	for other := range others {
		taken := keystore.RoleID(other)
		if strings.EqualFold(taken.Name, fresh.Name) && (taken.Namespace == fresh.Namespace ||
			taken.Namespace == keystore.AnyNamespace || fresh.Namespace == keystore.AnyNamespace) {
			return &keystore.Error{Kind: keystore.KindConflict, Code: "exists",
				Detail: fmt.Sprintf("%s %q already exists in namespace %q; %s names must "+
					"differ in more than case, and a namespace cannot have a %s with the name "+
					"of a shared one", kind, taken.Name, taken.Namespace, kind, kind),
				ID: fresh.Name}
		}
	}
	return nil
}

// nameTaken turns [keystore.ErrExists] of the database into a refusal.
func nameTaken(err error, kind, namespace, name string) error {
	if errors.Is(err, keystore.ErrExists) {
		return &keystore.Error{Kind: keystore.KindConflict, Code: "exists",
			Detail: fmt.Sprintf("%s %q already exists in namespace %q", kind, name, namespace),
			ID:     name}
	}
	return err
}
