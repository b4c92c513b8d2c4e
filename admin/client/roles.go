package client

import (
	"context"
	"iter"
	"net/http"
	"net/url"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
)

const rolesPath = api.Prefix + "/roles"

// Shared is the namespace of shared roles and plans, and of grants in all namespaces.
const Shared = "*"

func rolePath(namespace, name string) string {
	return rolesPath + "/" + url.PathEscape(namespace) + "/" + url.PathEscape(name)
}

// CreateRole creates a role.
func (c *Client) CreateRole(ctx context.Context, spec api.RoleRequest) (api.Role, error) {
	return call[api.Role](ctx, c, send(http.MethodPost, rolesPath, spec))
}

// ListRoles returns one page of roles, newest first, the built-in ones last. cursor is the
// NextCursor of the previous page. limit is the size of the page: at most 1000, 0 means 100.
func (c *Client) ListRoles(ctx context.Context, cursor string, limit int) (api.Roles, error) {
	r := get(rolesPath)
	r.page(cursor, limit)
	return call[api.Roles](ctx, c, r)
}

// AllRoles iterates over all roles, newest first, the built-in ones last. Iteration stops after an
// error.
func (c *Client) AllRoles(ctx context.Context) iter.Seq2[api.Role, error] {
	return all("", func(cursor string) (api.Roles, error) {
		return c.ListRoles(ctx, cursor, maxPage)
	})
}

// FindRole returns a role.
func (c *Client) FindRole(ctx context.Context, namespace, name string) (api.Role, error) {
	return call[api.Role](ctx, c, get(rolePath(namespace, name)))
}

// EditRole applies patch to a role, for every key and member that has it.
func (c *Client) EditRole(
	ctx context.Context, namespace, name string, patch api.RolePatch, options ...ChangeOption,
) (api.RoleChanged, error) {
	return call[api.RoleChanged](ctx, c,
		send(http.MethodPatch, rolePath(namespace, name), patch, options...))
}

// DeleteRole deletes a role that is not in use.
func (c *Client) DeleteRole(
	ctx context.Context, namespace, name string, options ...ChangeOption,
) (api.RoleChanged, error) {
	return call[api.RoleChanged](ctx, c,
		send(http.MethodDelete, rolePath(namespace, name), nil, options...))
}
