package keystore

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

// maxKind is the length of a namespace's kind, in characters.
const maxKind = 64

// FindNamespace returns a namespace the caller may read.
func (k *Keystore) FindNamespace(ctx context.Context, c Caller, id string) (*Namespace, error) {
	list, err := k.ListNamespaces(ctx, c)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(list, func(ns Namespace) bool { return ns.ID == id })
	if i < 0 {
		return nil, missing("namespace")
	}
	return &list[i], nil
}

// ListNamespaces returns those the caller may read, newest first.
func (k *Keystore) ListNamespaces(ctx context.Context, c Caller) ([]Namespace, error) {
	by := c.reading()
	if err := by.anywhere(adminNamespaces, "read"); err != nil {
		return nil, err
	}
	list, err := k.db.Namespaces(ctx)
	if err != nil {
		return nil, k.storeFailed("reading the namespaces", err)
	}
	return slices.DeleteFunc(list, func(ns Namespace) bool { return !by.may(adminNamespaces, "read", ns.ID) }), nil
}

// CreateNamespace makes one of spec's ID, Kind, Name and EditPolicy.
func (k *Keystore) CreateNamespace(ctx context.Context, c Caller, spec Namespace) (*Namespace, error) {
	var ns *Namespace
	err := k.add(ctx, c, 0, func(tx Tx, by authority) error {
		if !by.may(adminNamespaces, "create", AnyNamespace) { // it has no parent
			return lacks(adminNamespaces, "create")
		}
		ns = &Namespace{ID: spec.ID, Kind: spec.Kind, Name: spec.Name, EditPolicy: spec.EditPolicy, CreatedAt: tx.Now(), Version: 1}
		if err := ns.check(); err != nil {
			return err
		}
		if err := tx.InsertNamespace(ns); err != nil {
			if errors.Is(err, ErrExists) {
				return &Error{Kind: KindConflict, Code: "exists", Detail: fmt.Sprintf("namespace %q exists", ns.ID), ID: ns.ID}
			}
			return err
		}
		return audit(tx, by, "namespace.create", ns.ID, []string{ns.ID}, nil, ns)
	})
	return ns, err
}

func (ns *Namespace) check() error {
	var p problems
	if !ValidNamespaceID(ns.ID) {
		p.add("id", "is a letter or digit, then up to 63 of these, '.', '_', '~' or '-'; %q is reserved", HomeNamespace)
	}
	p.text("name", ns.Name, maxName)
	p.text("kind", ns.Kind, maxKind)
	if ns.EditPolicy == "" {
		ns.EditPolicy = EditFree
	}
	if ns.EditPolicy != EditFree && ns.EditPolicy != EditGrowOnly {
		p.add("edit_policy", "is %s or %s", EditFree, EditGrowOnly)
	}
	return p.err()
}

// A NamespacePatch changes what is not nil.
type NamespacePatch struct {
	Name       *string
	EditPolicy *EditPolicy
}

func namespaceTo(tx Tx, by authority, operation, id string, o ChangeOptions) (*Namespace, error) {
	if err := by.anywhere(adminNamespaces, operation); err != nil {
		return nil, err
	}
	ns, err := tx.Namespace(id)
	switch {
	case isNotFound(err):
		return nil, missing("namespace")
	case err != nil:
		return nil, err
	}
	if err := by.on(adminNamespaces, operation, id, "namespace"); err != nil {
		return nil, err
	}
	if err := o.check(ns.Version); err != nil {
		return nil, err
	}
	return ns, nil
}

// EditNamespace changes a namespace.
func (k *Keystore) EditNamespace(ctx context.Context, c Caller, id string, patch NamespacePatch, o ChangeOptions) (*Namespace, Propagation, error) {
	var ns *Namespace
	p, err := k.change(ctx, c, o.Wait, func(tx Tx, by authority) error {
		before, err := namespaceTo(tx, by, "update", id, o)
		if err != nil {
			return err
		}
		after := *before
		set(&after.Name, patch.Name)
		set(&after.EditPolicy, patch.EditPolicy)
		after.Version++
		if err := after.check(); err != nil {
			return err
		}
		if err := tx.UpdateNamespace(&after); err != nil {
			return err
		}
		ns = &after
		return audit(tx, by, "namespace.edit", id, []string{id}, before, &after)
	})
	return ns, p, err
}

// DeleteNamespace removes an empty namespace and returns what it was.
func (k *Keystore) DeleteNamespace(ctx context.Context, c Caller, id string, o ChangeOptions) (*Namespace, Propagation, error) {
	var ns *Namespace
	p, err := k.change(ctx, c, o.Wait, func(tx Tx, by authority) (err error) {
		if ns, err = namespaceTo(tx, by, "delete", id, o); err != nil {
			return err
		}
		if id == DefaultNamespace {
			return &Error{Kind: KindConflict, Code: "in_use", Detail: "the namespace " + DefaultNamespace + " stays", ID: id}
		}
		user, err := tx.NamespaceInUse(id)
		if err != nil {
			return err
		}
		if user != "" {
			return &Error{Kind: KindConflict, Code: "in_use", Detail: fmt.Sprintf("the namespace is not empty: %s; revoke and delete its keys first", user), ID: id}
		}
		if err := tx.DeleteNamespace(id); err != nil {
			return err
		}
		return audit(tx, by, "namespace.delete", id, []string{id}, ns, nil)
	})
	return ns, p, err
}
