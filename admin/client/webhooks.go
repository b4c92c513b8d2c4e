package client

import (
	"context"
	"net/http"
	"net/url"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
)

const webhooksPath = api.Prefix + "/webhooks"

// ListWebhooks returns all webhooks.
func (c *Client) ListWebhooks(ctx context.Context) (api.Webhooks, error) {
	return call[api.Webhooks](ctx, c, get(webhooksPath))
}

// ReplayWebhook makes a webhook continue from a point: see [api.ReplayRequest].
func (c *Client) ReplayWebhook(
	ctx context.Context, id string, from api.ReplayRequest,
) (api.Webhook, error) {
	return call[api.Webhook](ctx, c,
		send(http.MethodPost, webhooksPath+"/"+url.PathEscape(id)+"/replay", from))
}

// TestWebhook sends an event of type webhook.test to a webhook.
func (c *Client) TestWebhook(ctx context.Context, id string) (api.Webhook, error) {
	return call[api.Webhook](ctx, c,
		send(http.MethodPost, webhooksPath+"/"+url.PathEscape(id)+"/test", nil))
}
