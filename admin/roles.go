package admin

import (
	"context"
	"strings"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/node"
)

func (a *API) registerRoles() {
	k := &kind[keystore.Role, api.Role, api.RolePatch, api.RoleChanged]{
		one: "role", many: "roles", of: "/{namespace}/{name}",
		deletes: "Delete a role that is not in use",
		identify: func(r *keystore.Role) identity {
			return identity{r.Namespace + "/" + r.Name, r.CreatedAt, r.Version, r.Size()}
		},
		show: showRole,
		answer: func(r api.Role, _ keystore.Token, p api.Propagation) api.RoleChanged {
			return api.RoleChanged{Role: r, Propagation: p}
		},
		find: func(ctx context.Context, c manage.Caller, id string) (*keystore.Role, error) {
			return a.keys.FindRole(ctx, c, roleID(id))
		},
		edit: a.editRole,
		remove: func(ctx context.Context, c manage.Caller, id string,
			o manage.ChangeOptions) (*keystore.Role, node.Propagation, error) {
			return a.keys.DeleteRole(ctx, c, roleID(id), o)
		},
	}
	list := func(ctx context.Context, c manage.Caller, _ *Paging) ([]keystore.Role, error) {
		return a.keys.ListRoles(ctx, c)
	}
	registerAll(a, k, list, a.createRole)
	k.registerOne(a)
}

func roleID(id string) keystore.RoleID {
	namespace, name, _ := strings.Cut(id, "/")
	return keystore.RoleID{Namespace: namespace, Name: name}
}

func showRole(r *keystore.Role) api.Role {
	return api.Role{
		Namespace: r.Namespace, Name: r.Name, Description: r.Description,
		Permissions: permissionTexts(r.Permissions), Builtin: r.Builtin,
		CreatedAt: nilIfZero(r.CreatedAt), Version: r.Version, Unreadable: r.Unreadable,
	}
}

func (a *API) createRole(
	ctx context.Context, c manage.Caller, r *api.RoleRequest,
) (*keystore.Role, error) {
	var wrong fields
	role := keystore.Role{Namespace: r.Namespace, Name: r.Name, Description: r.Description,
		Permissions: wrong.permissions("", "", r.Permissions)}
	return a.keys.CreateRole(wrong.in(ctx), c, role)
}

func (a *API) editRole(
	ctx context.Context, c manage.Caller, id string, r *api.RolePatch, o manage.ChangeOptions,
) (*keystore.Role, node.Propagation, error) {
	role, err := a.keys.FindRole(ctx, c, roleID(id))
	if err != nil {
		return nil, node.Propagation{}, err
	}
	var wrong fields
	patch := manage.RolePatch{Description: sent(r.Description, "")}
	wrong.fixed("namespace", r.Namespace, role.Namespace)
	wrong.fixed("name", r.Name, role.Name)
	if r.Permissions.Sent {
		patch.Permissions = wrong.permissions("", "", r.Permissions.Or(nil))
	}
	if err := wrong.err(); err != nil {
		return nil, node.Propagation{}, err
	}
	return a.keys.EditRole(ctx, c, roleID(id), patch, o)
}

// newRoles converts the roles to create with a key, in its home namespace.
func (f *fields) newRoles(list []api.NewRole) []keystore.Role {
	out := make([]keystore.Role, len(list))
	for i, r := range list {
		out[i] = keystore.Role{Name: r.Name, Description: r.Description,
			Permissions: f.permissions(index("new_roles", i), "", r.Permissions)}
	}
	return out
}
