package client

import (
	"context"
	"net/http"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
)

// ReportLeaks reports tokens that have leaked, at most 100. It returns a label for each, once
// on_leak of the namespaces has been applied to their keys on every node. It needs no token.
func (c *Client) ReportLeaks(
	ctx context.Context, reports []api.LeakReport,
) ([]api.LeakLabel, error) {
	return call[[]api.LeakLabel](ctx, c, send(http.MethodPost, api.Prefix+"/leaks", reports))
}
