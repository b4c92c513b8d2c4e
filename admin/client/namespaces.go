package client

import (
	"context"
	"iter"
	"net/http"
	"net/url"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
)

const namespacesPath = api.Prefix + "/namespaces"

func namespacePath(id string) string { return namespacesPath + "/" + url.PathEscape(id) }

// CreateNamespace creates a namespace.
func (c *Client) CreateNamespace(
	ctx context.Context, spec api.NamespaceRequest,
) (api.Namespace, error) {
	return call[api.Namespace](ctx, c, send(http.MethodPost, namespacesPath, spec))
}

// ListNamespaces returns one page of namespaces, newest first. cursor is the NextCursor of the
// previous page. limit is the size of the page: at most 1000, 0 means 100.
func (c *Client) ListNamespaces(
	ctx context.Context, cursor string, limit int,
) (api.Namespaces, error) {
	r := get(namespacesPath)
	r.page(cursor, limit)
	return call[api.Namespaces](ctx, c, r)
}

// AllNamespaces iterates over all namespaces, newest first. Iteration stops after an error.
func (c *Client) AllNamespaces(ctx context.Context) iter.Seq2[api.Namespace, error] {
	return all("", func(cursor string) (api.Namespaces, error) {
		return c.ListNamespaces(ctx, cursor, maxPage)
	})
}

// SearchNamespaces is ListNamespaces for the namespaces whose id or name contains a text, ignoring
// case.
func (c *Client) SearchNamespaces(
	ctx context.Context, text, cursor string, limit int,
) (api.Namespaces, error) {
	r := get(namespacesPath)
	r.parameter("q", text)
	r.page(cursor, limit)
	return call[api.Namespaces](ctx, c, r)
}

// FindNamespace returns a namespace.
func (c *Client) FindNamespace(ctx context.Context, id string) (api.Namespace, error) {
	return call[api.Namespace](ctx, c, get(namespacePath(id)))
}

// EditNamespace applies patch to a namespace.
func (c *Client) EditNamespace(
	ctx context.Context, id string, patch api.NamespacePatch, options ...ChangeOption,
) (api.NamespaceChanged, error) {
	return call[api.NamespaceChanged](ctx, c,
		send(http.MethodPatch, namespacePath(id), patch, options...))
}

// DeleteNamespace deletes an empty namespace.
func (c *Client) DeleteNamespace(
	ctx context.Context, id string, options ...ChangeOption,
) (api.NamespaceChanged, error) {
	return call[api.NamespaceChanged](ctx, c,
		send(http.MethodDelete, namespacePath(id), nil, options...))
}
