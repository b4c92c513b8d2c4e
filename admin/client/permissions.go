package client

import (
	"context"
	"iter"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
)

// ListPermissions returns one page of the permission table, sorted by permission. cursor is the
// NextCursor of the previous page. limit is the size of the page: at most 1000, 0 means 100.
func (c *Client) ListPermissions(
	ctx context.Context, cursor string, limit int,
) (api.Operations, error) {
	r := get(api.Prefix + "/permissions")
	r.page(cursor, limit)
	return call[api.Operations](ctx, c, r)
}

// AllPermissions iterates over the permission table, sorted by permission. Iteration stops after an
// error.
func (c *Client) AllPermissions(ctx context.Context) iter.Seq2[api.Operation, error] {
	return all("", func(cursor string) (api.Page[api.Operation], error) {
		page, err := c.ListPermissions(ctx, cursor, maxPage)
		return api.Page[api.Operation](page), err
	})
}
