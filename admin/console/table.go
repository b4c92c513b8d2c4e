package console

import (
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/admin/client"
)

// A resource is a section of the permission table.
type resource struct {
	Name        string
	Permissions []operations
}

// operations are the calls that one permission allows.
type operations struct {
	Permission string
	Calls      []api.Operation
}

// A table is the permission table in a form.
type table struct {
	Form      *form
	Name      string // the name of the checkboxes
	Resources []resource
	key       *keyForm // the form of a key; nil: the form of a role
}

// newTable returns the table of a form. It takes the name of its checkboxes, the resources and, for
// a key, its form.
func newTable(f *form, name string, resources []resource, key ...*keyForm) table {
	t := table{Form: f, Name: name, Resources: resources}
	if len(key) > 0 {
		t.key = key[0]
	}
	return t
}

// ID returns the id of the table, or of an element in it.
func (t table) ID(more ...string) string {
	return strings.Join(append([]string{"f-" +
		strings.NewReplacer("[", "-", "]", "", ".", "-").Replace(t.Name)}, more...), "-")
}

// A box is the checkbox of one permission.
type box struct {
	table
	Permission string
}

// Box returns the checkbox of a permission.
func (t table) Box(permission string) box { return box{t, permission} }

// Checked reports whether the box is checked.
func (b box) Checked() bool { return b.Form.Has(b.Name, b.Permission) || b.Locked() }

// Locked reports whether the permission cannot be removed from the key.
func (b box) Locked() bool {
	return b.key != nil && b.Name == "permissions" && b.key.Locked("permissions", b.Permission)
}

// Barred reports whether the permission cannot be given.
func (b box) Barred() bool {
	if b.key == nil {
		return false
	}
	if b.Name != "permissions" {
		return b.key.barredInRole(b.Permission)
	}
	return b.key.Barred(b.Permission)
}

// Any reports whether a permission of a resource is checked.
func (t table) Any(r resource) bool {
	return slices.ContainsFunc(t.Form.Values(t.Name),
		func(p string) bool { return strings.HasPrefix(p, r.Name+":") })
}

// table returns the permission table: the operations that handlers declare, by resource.
func (v *visit) table() (all []resource, err error) {
	by := make(map[string]map[string][]api.Operation)
	if declared := v.resources.Load(); declared != nil {
		for _, r := range *declared {
			by[r] = make(map[string][]api.Operation)
		}
	}
	for op, err := range v.api.AllPermissions(v.ctx) {
		switch {
		case client.StatusOf(err) == http.StatusForbidden:
			// Reading the table requires admin.keys:read. A visitor without it can type
			// permissions.
			return nil, nil
		case err != nil:
			return nil, err
		}
		r, _, _ := strings.Cut(op.Permission, ":")
		if by[r] == nil {
			by[r] = make(map[string][]api.Operation)
		}
		by[r][op.Permission] = append(by[r][op.Permission], op)
	}
	for _, name := range slices.Sorted(maps.Keys(by)) {
		r := resource{Name: name}
		for _, permission := range slices.Sorted(maps.Keys(by[name])) {
			r.Permissions = append(r.Permissions, operations{permission, by[name][permission]})
		}
		all = append(all, r)
	}
	return all, nil
}

// setPermissions checks the boxes of permissions. It puts permissions without a box into the text
// field.
func (f *form) setPermissions(resources []resource, list []string) {
	offered := map[string]bool{"*": true}
	for _, r := range resources {
		for _, action := range []string{"*", "read", "write"} {
			offered[r.Name+":"+action] = true
		}
		for _, op := range r.Permissions {
			offered[op.Permission] = true
		}
	}
	var others []string
	for _, permission := range list {
		if offered[permission] {
			f.values.Add("permissions", permission)
		} else {
			others = append(others, permission)
		}
	}
	f.values.Set("permissions_more", strings.Join(others, "\n"))
}

// permissions returns the permissions that are checked or typed in the table of that name.
func (f *form) permissions(name string) []string {
	return slices.Concat(f.Values(name), words(f.Value(name+"_more")))
}
