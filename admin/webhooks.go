package admin

import (
	"context"
	"net/http"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
	"github.com/danielgtaylor/huma/v2"
)

const webhooksPath = api.Prefix + "/webhooks"

func (a *API) registerWebhooks() {
	register(a, huma.Operation{
		OperationID: "list-webhooks", Method: http.MethodGet, Path: webhooksPath,
		Summary: "List webhooks with their latest deliveries", Tags: []string{"webhooks"},
		Description: "The permission is required in *.",
	}, "admin.webhooks:read", a.listWebhooks)
	register(a, huma.Operation{
		OperationID: "replay-webhook", Method: http.MethodPost, Path: webhooksPath + "/{id}/replay",
		Summary: "Replay events, or retry now", Tags: []string{"webhooks"},
		Description: "Moves the webhook to a time or an event, and delivers from there on. It " +
			"also restarts a webhook that has stopped. The permission is required in *.",
		RequestBody: jsonBody(false, api.JSON),
	}, "admin.webhooks:replay", a.replayWebhook)
	register(a, huma.Operation{
		OperationID: "test-webhook", Method: http.MethodPost, Path: webhooksPath + "/{id}/test",
		Summary: "Send an event of type webhook.test", Tags: []string{"webhooks"},
		Description: "The webhook receives it after the events that are due, whatever its " +
			"filters are. The permission is required in *.",
		RequestBody: jsonBody(false, api.JSON),
	}, "admin.webhooks:replay", a.testWebhook)
}

func (a *API) listWebhooks(
	ctx context.Context, c manage.Caller, _ *struct{},
) (*page[api.Webhooks], error) {
	list, err := a.keys.ListWebhooks(ctx, c)
	if err != nil {
		return nil, err
	}
	return showPage(list, "", showWebhook), nil
}

func showWebhook(w *manage.WebhookStatus) api.Webhook {
	out := api.Webhook{
		ID: w.ID, URL: w.URL, Events: append([]string{}, w.Events...),
		Namespaces: append([]string{}, w.Namespaces...), State: "active", Node: nilIfEmpty(w.Node),
		Position: w.Position, Backlog: w.Backlog, Attempts: w.Attempts,
		RetryAt: nilIfZero(w.RetryAt), StoppedAt: nilIfZero(w.StoppedAt), UpdatedAt: w.SavedAt,
		Deliveries: make([]api.WebhookDelivery, len(w.Deliveries)),
	}
	switch {
	case out.StoppedAt != nil:
		out.State = "stopped"
	case w.Node == "":
		out.State = "waiting"
	case w.Attempts > 0:
		out.State = "retrying"
	}
	for i, d := range w.Deliveries {
		out.Deliveries[i] = api.WebhookDelivery{Event: d.Event, Type: d.Type, At: d.At,
			DurationMS: d.Took.Milliseconds(), Error: nilIfEmpty(d.Error)}
		if d.Status != 0 {
			out.Deliveries[i].Status = &w.Deliveries[i].Status
		}
	}
	if len(out.Deliveries) > 0 {
		out.LastError = out.Deliveries[0].Error
	}
	return out
}

type replayWebhookInput struct {
	ByID
	Body api.ReplayRequest
}

type testWebhookInput struct {
	ByID
	Body struct{}
}

func (a *API) replayWebhook(
	ctx context.Context, c manage.Caller, in *replayWebhookInput,
) (*page[api.Webhook], error) {
	var from manage.ReplayFrom
	if at, err := time.Parse(time.RFC3339, in.Body.From); err == nil {
		from.At = at
	} else {
		from.Event = in.Body.From
	}
	return signalled(a.keys.ReplayWebhook(ctx, c, in.ID, from))
}

func (a *API) testWebhook(
	ctx context.Context, c manage.Caller, in *testWebhookInput,
) (*page[api.Webhook], error) {
	return signalled(a.keys.TestWebhook(ctx, c, in.ID))
}

func signalled(w *manage.WebhookStatus, err error) (*page[api.Webhook], error) {
	if err != nil {
		return nil, err
	}
	return &page[api.Webhook]{showWebhook(w)}, nil
}
