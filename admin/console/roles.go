package console

import (
	"cmp"
	"net/url"
	"slices"
	"strings"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/admin/client"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

const rolesPath = Root + "/roles"

func rolePages() []page {
	const one = rolesPath + "/{namespace}/{name}"
	return []page{
		{"GET " + rolesPath, "admin.roles:read", listRoles},
		{"GET " + rolesPath + "/new", "admin.roles:create", newRole},
		{"POST " + rolesPath + "/new", "admin.roles:create", createRole},
		{"GET " + one, "admin.roles:read", showRole},
		{"GET " + one + "/edit", "admin.roles:update", editRole},
		{"POST " + one + "/edit", "admin.roles:update", saveRole},
		{"GET " + one + "/delete", "admin.roles:delete", askToDeleteRole},
		{"POST " + one + "/delete", "admin.roles:delete", deleteRole},
	}
}

type rolesPage struct {
	Roles []roleLine
	Next  *string
}

// A roleLine is a role in a list.
type roleLine struct {
	api.Role
	Keys string // how many keys have it; empty: not counted
}

// RoleLink returns the address of a role's page.
func (v *visit) RoleLink(namespace, name string, more ...string) string {
	return v.link(rolesPath + "/" + url.PathEscape(namespace) + "/" +
		url.PathEscape(name) + strings.Join(more, ""))
}

// listRoles shows the roles that grants in the switcher's namespace can name: the namespace's own
// and the shared ones.
func listRoles(v *visit) error {
	var match func(api.Role) bool
	if in, text := v.namespace(), v.query("q"); in+text != "" {
		match = func(r api.Role) bool {
			return (in == "" || r.Namespace == in || r.Namespace == keystore.AnyNamespace) &&
				contains(text, append(r.Permissions, r.Name, r.Description)...)
		}
	}
	list, next, err := selected(v.query("cursor"), v.listRoles, match)
	if err != nil {
		return err
	}
	p := rolesPage{Next: next}
	for _, r := range list {
		p.Roles = append(p.Roles, roleLine{r, v.keysWith(keystore.KeyFilter{Role: r.Name,
			In: inNamespace(r.Namespace)})})
	}
	return v.show("roles", "Roles", p)
}

// maxDependents is the number of dependents of an object that a page lists.
const maxDependents = 20

// hasRole reports whether one of the grants names a role.
func hasRole(grants []api.Grant, r api.Role) bool {
	return slices.ContainsFunc(grants, func(g api.Grant) bool {
		return slices.Contains(g.Roles, r.Name) &&
			(g.Namespace == r.Namespace || r.Namespace == keystore.AnyNamespace)
	})
}

// roleDependents returns the namespaces, members and keys that use a role, as far as the visitor
// may see them, and whether there are more.
func (v *visit) roleDependents(r api.Role) (dependents []dependent, more bool) {
	for _, ns := range v.namespaces() {
		if slices.Contains(ns.KeyRoles, r.Name) &&
			(ns.ID == r.Namespace || r.Namespace == keystore.AnyNamespace) {
			dependents = append(dependents,
				dependent{Kind: "All keys of namespace", Name: ns.ID,
					Link: v.NamespaceLink(ns.ID)})
		}
	}
	if v.may("admin.members:read") {
		members, err := collect(v.api.AllMembers(v.ctx))
		for _, m := range members {
			if err == nil && hasRole(m.Grants, r) {
				dependents = append(dependents,
					dependent{Kind: "Member", Name: shownName(m.Name, m.ID),
						Link: v.MemberLink(m.ID)})
			}
		}
	}
	keys, err := v.api.ListKeys(v.ctx, client.KeyFilter{Role: r.Name, Limit: maxRead})
	for _, k := range keys.Items {
		if err == nil && hasRole(k.Grants, r) {
			dependents = append(dependents, v.keyDependent(k))
		}
	}
	if len(dependents) > maxDependents {
		return dependents[:maxDependents], true
	}
	return dependents, keys.NextCursor != nil
}

// RoleKeys returns the address of the list of the keys that have a role.
func (v *visit) RoleKeys(r api.Role) string {
	return v.link(keysPath, "role", r.Name, "namespace", inNamespace(r.Namespace))
}

// inNamespace returns the value of the switcher for the keys that can use a role or a plan of a
// namespace.
func inNamespace(id string) string {
	if id == keystore.AnyNamespace {
		return ""
	}
	return id
}

type rolePage struct {
	Role       api.Role
	Dependents []dependent
	More       bool
	Keys       string // see removal
}

func (v *visit) roleFromPath() (api.Role, error) {
	return v.api.FindRole(v.ctx, v.r.PathValue("namespace"), v.r.PathValue("name"))
}

func showRole(v *visit) error {
	r, err := v.roleFromPath()
	if err != nil {
		return err
	}
	dependents, more := v.roleDependents(r)
	return v.show("role", r.Name, rolePage{r, dependents, more, v.RoleKeys(r)})
}

type roleForm struct {
	Role   *api.Role // nil: a new role
	Places []choice  // namespaces for a new role
	Table  []resource
}

// writeRoleForm shows the form for a role, or for a new one if r is nil. The table is that of
// visit.table.
func (v *visit) writeRoleForm(r *api.Role, table []resource, f *form) error {
	p, title := roleForm{Role: r, Table: table}, "Create role"
	if r == nil {
		p.Places = v.places("admin.roles:create", "Shared by all namespaces")
	} else {
		title = "Edit " + r.Name
	}
	return v.again("role_form", title, p, f)
}

func newRole(v *visit) error {
	table, err := v.table()
	if err != nil {
		return err
	}
	return v.writeRoleForm(nil, table, cmp.Or(v.kept(), blank("namespace", v.namespace())))
}

func createRole(v *visit) error {
	f := v.form()
	table, err := v.table()
	if err != nil {
		return err
	}
	spec := api.RoleRequest{
		Namespace: f.Value("namespace"), Name: strings.TrimSpace(f.Value("name")),
		Description: strings.TrimSpace(f.Value("description")),
		Permissions: orEmpty(f.permissions("permissions")),
	}
	if step := f.again(); step != "" {
		if step == codeStep {
			if f.require("name"); f.Ok() {
				f.Code = v.createCode("/roles", spec, roleCommand(spec))
			}
		}
		return v.writeRoleForm(nil, table, f)
	}
	created, err := v.api.CreateRole(v.ctx, spec)
	if err != nil {
		if f.fail(err) {
			return v.writeRoleForm(nil, table, f)
		}
		return err
	}
	return v.done(v.RoleLink(created.Namespace, created.Name),
		notice{Title: "Role " + created.Name + " created", Text: "Keys and members can now use it."})
}

// roleEdit returns the edit of a role, with the table of its form.
func (v *visit) roleEdit(r api.Role) (*edit, []resource, error) {
	table, err := v.table()
	if err != nil {
		return nil, nil, err
	}
	now := blank("description", r.Description)
	now.setPermissions(table, r.Permissions)
	return newEdit("role", r.Name, r.Namespace, r.Version, now, func(f *form) (l aspectList) {
		l.text(f, "description", "Description")
		l.add("permissions", "Permissions", sorted(f.permissions("permissions")), "permissions",
			"permissions_more")
		return l
	}), table, nil
}

func editRole(v *visit) error {
	r, err := v.roleFromPath()
	if err != nil {
		return err
	}
	e, table, err := v.roleEdit(r)
	if err != nil {
		return err
	}
	return v.writeRoleForm(&r, table, cmp.Or(v.kept(), e.now))
}

func saveRole(v *visit) error {
	r, err := v.roleFromPath()
	if err != nil {
		return err
	}
	e, table, err := v.roleEdit(r)
	if err != nil {
		return err
	}
	f := v.form()
	again := func() error { return v.writeRoleForm(&r, table, f) }
	if v.merge(e, f) || f.again() != "" {
		return again()
	}
	patch := api.RolePatch{Permissions: api.Some(orEmpty(f.permissions("permissions")))}
	if f.values.Has("description") {
		patch.Description = api.Some(strings.TrimSpace(f.Value("description")))
	}
	done, err := v.api.EditRole(v.ctx, r.Namespace, r.Name, patch, f.ifVersion(),
		client.Wait(shortWait))
	if err != nil {
		return unsaved(v, f, err, saveRole, again)
	}
	return v.changed(v.RoleLink(r.Namespace, r.Name),
		"Changes saved for all keys and members that have the role", done.Propagation)
}

func (v *visit) roleRemoval(r api.Role) removal {
	p := removal{
		Section: "Roles", Kind: "role", Name: r.Name, List: v.link(rolesPath),
		Back: v.RoleLink(r.Namespace, r.Name),
		Text: "Keys and members can no longer use the role. The audit log keeps its changes.",
	}
	p.Dependents, p.More = v.roleDependents(r)
	p.Keys = v.RoleKeys(r)
	return p
}

func askToDeleteRole(v *visit) error {
	r, err := v.roleFromPath()
	if err != nil {
		return err
	}
	return v.ask("delete", "Delete "+r.Name, v.roleRemoval(r))
}

func deleteRole(v *visit) error {
	r, err := v.roleFromPath()
	if err != nil {
		return err
	}
	done, err := v.api.DeleteRole(v.ctx, r.Namespace, r.Name, client.Wait(shortWait))
	if err != nil {
		f := v.form()
		if f.fail(err) {
			return v.again("delete", "Delete "+r.Name, v.roleRemoval(r), f)
		}
		return err
	}
	return v.changed(v.link(rolesPath), "Role "+r.Name+" deleted", done.Propagation)
}
