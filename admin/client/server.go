package client

import (
	"context"
	"encoding/json"
	"net/http"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
)

// Verify returns the decision about a request with a given credential.
func (c *Client) Verify(ctx context.Context, q api.VerifyRequest) (api.Verdict, error) {
	return call[api.Verdict](ctx, c, send(http.MethodPost, api.Prefix+"/verify", q))
}

// Self returns the caller and its permissions.
func (c *Client) Self(ctx context.Context) (api.Self, error) {
	return call[api.Self](ctx, c, get(api.Prefix+"/self"))
}

// RevokeSelf revokes the caller's own key permanently.
func (c *Client) RevokeSelf(
	ctx context.Context, spec api.RevokeRequest, options ...ChangeOption,
) (api.KeyChanged, error) {
	return call[api.KeyChanged](ctx, c,
		send(http.MethodPost, api.Prefix+"/self/revoke", spec, options...))
}

// Health returns the state of the node that answers. An unhealthy node is not an error.
func (c *Client) Health(ctx context.Context) (api.Health, error) {
	return call[api.Health](ctx, c, get(api.Prefix+"/health"), http.StatusServiceUnavailable)
}

// CaddyConfig returns the running configuration of Caddy, or null if there is none. It is available
// only at Caddy's admin endpoint.
func (c *Client) CaddyConfig(ctx context.Context) (json.RawMessage, error) {
	return call[json.RawMessage](ctx, c, get("/config/"))
}
