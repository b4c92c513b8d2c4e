package console

import (
	"cmp"
	"iter"
	"slices"
	"strings"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/admin/client"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// maxRead is the number of objects that one call for a list requests.
const maxRead = 1000

// selected returns one page of the items that match, and the cursor of the next page. The REST
// interface has no filters for these lists, so selected reads until a page is full, which may make
// it longer than others. A nil match selects everything.
func selected[T any](
	cursor string, list func(cursor string, limit int) (api.Page[T], error), match func(T) bool,
) (found []T, next *string, err error) {
	if match == nil {
		page, err := list(cursor, pageSize)
		return page.Items, page.NextCursor, err
	}
	pages := client.Pages(cursor, func(cursor string) (api.Page[T], error) {
		return list(cursor, maxRead)
	})
	for page, err := range pages {
		if err != nil {
			return nil, nil, err
		}
		for _, item := range page.Items {
			if match(item) {
				found = append(found, item)
			}
		}
		if next = page.NextCursor; len(found) >= pageSize {
			break
		}
	}
	return found, next, nil
}

// collect returns all items of a sequence, or its error.
func collect[T any](items iter.Seq2[T, error]) (all []T, err error) {
	for item, err := range items {
		if err != nil {
			return nil, err
		}
		all = append(all, item)
	}
	return all, nil
}

func (v *visit) listRoles(cursor string, limit int) (api.Roles, error) {
	return v.api.ListRoles(v.ctx, cursor, limit)
}

// roles returns the roles that the visitor may read.
func (v *visit) roles() []api.Role {
	if v.readable == nil {
		v.readable, _ = collect(v.api.AllRoles(v.ctx)) // fails if the visitor may read none
	}
	return v.readable
}

func (v *visit) listMembers(cursor string, limit int) (api.Members, error) {
	return v.api.ListMembers(v.ctx, cursor, limit)
}

// contains reports whether one of the texts contains part, ignoring case.
func contains(part string, texts ...string) bool {
	part = strings.ToLower(part)
	return slices.ContainsFunc(texts,
		func(t string) bool { return strings.Contains(strings.ToLower(t), part) })
}

// reachable returns the namespaces that the visitor may read, and those where it has another
// permission. The latter have only an id and a parent.
func (v *visit) reachable() []api.Namespace {
	list := slices.Clone(v.namespaces())
	known := make(map[string]bool, len(list))
	for _, ns := range list {
		known[ns.ID] = true
	}
	for id := range v.keys.Permissions(v.Caller) {
		if ns := v.keys.Policy().Namespace(id); ns != nil && !known[id] {
			list = append(list, api.Namespace{ID: id, Parent: &ns.Parent})
		}
	}
	return list
}

// places returns the namespaces in which the visitor has a permission, as choices. everywhere,
// unless empty, is the label of the choice of all namespaces, offered to a visitor that has the
// permission there.
func (v *visit) places(permission, everywhere string) []choice {
	var list []choice
	for _, ns := range v.reachable() {
		if v.mayIn(permission, ns.ID) {
			list = append(list, choice{Value: ns.ID, Label: namespaceLabel(ns)})
		}
	}
	slices.SortFunc(list, func(a, b choice) int {
		return cmp.Compare(strings.ToLower(a.Value), strings.ToLower(b.Value))
	})
	if everywhere != "" && v.mayIn(permission, keystore.AnyNamespace) {
		list = append([]choice{{Value: keystore.AnyNamespace, Label: everywhere}}, list...)
	}
	return list
}

// offer adds the value of a form to the choices if it is missing.
func offer(list []choice, value string) []choice {
	if slices.ContainsFunc(list, func(c choice) bool { return c.Value == value }) {
		return list
	}
	return append(list, choice{Value: value, Label: value})
}

func namespaceLabel(ns api.Namespace) string {
	if !keystore.HasGlyph(ns.Name) || strings.EqualFold(ns.Name, ns.ID) {
		return ns.ID
	}
	return ns.ID + " – " + ns.Name
}

// A dependent is an object that uses another one and prevents its deletion.
type dependent struct{ Kind, Name, Link string }

// keyDependent returns a key as a dependent.
func (v *visit) keyDependent(k api.Key) dependent {
	return dependent{"Key, " + k.Status, shownName(k.Name, k.Prefix), v.keyLink(k.ID)}
}

// A removal asks for confirmation before an object is deleted.
type removal struct {
	Section    string      // the label of the section, such as "Roles"
	Kind, Name string      // of the object
	List, Back string      // addresses
	Text       string      // the consequences
	First      string      // what to do with the dependents; empty: remove them
	Transfer   string      // the address of the form to give the keys to a member; empty: none
	Dependents []dependent // as far as the visitor may see them
	More       bool        // whether there are more dependents
	Keys       string      // the address of the list of keys that use it
}
