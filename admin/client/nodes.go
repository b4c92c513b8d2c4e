package client

import (
	"context"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
)

// ListNodes returns all nodes, oldest first.
func (c *Client) ListNodes(ctx context.Context) (api.Nodes, error) {
	return call[api.Nodes](ctx, c, get(api.Prefix+"/nodes"))
}
