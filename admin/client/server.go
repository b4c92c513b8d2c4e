package client

import (
	"context"
	"encoding/json"
	"net/http"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
)

// Verify asks what a request with some credential would be answered.
func (c *Client) Verify(ctx context.Context, q api.VerifyRequest) (api.Verdict, error) {
	return call[api.Verdict](ctx, c, send(http.MethodPost, api.Prefix+"/verify", q))
}

// Self returns who the caller is and what it may do.
func (c *Client) Self(ctx context.Context) (api.Self, error) {
	return call[api.Self](ctx, c, get(api.Prefix+"/self"))
}

// RevokeSelf ends the caller's own key for good.
func (c *Client) RevokeSelf(
	ctx context.Context, why api.RevokeRequest, options ...ChangeOption,
) (api.KeyChanged, error) {
	return call[api.KeyChanged](ctx, c,
		send(http.MethodPost, api.Prefix+"/self/revoke", why, options...))
}

// Health returns how the node that answers stands; that it is not healthy is no error.
func (c *Client) Health(ctx context.Context) (api.Health, error) {
	return call[api.Health](ctx, c, get(api.Prefix+"/health"), http.StatusServiceUnavailable)
}

// CaddyConfig returns the configuration that Caddy runs with, null for none. Only Caddy's admin
// endpoint has it.
func (c *Client) CaddyConfig(ctx context.Context) (json.RawMessage, error) {
	return call[json.RawMessage](ctx, c, get("/config/"))
}
