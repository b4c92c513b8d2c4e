package console

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/admin/client"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

const webhooksPath = Root + "/webhooks"

func webhookPages() []page {
	return []page{
		{"GET " + webhooksPath, "admin.webhooks:read", listWebhooks},
		{"GET " + webhooksPath + "/{id}", "admin.webhooks:read", showWebhook},
		{"POST " + webhooksPath + "/{id}/test", "admin.webhooks:replay", testWebhook},
		{"POST " + webhooksPath + "/{id}", "admin.webhooks:replay", replayWebhook},
	}
}

type webhooksPage struct {
	Webhooks []webhookLine
}

// A webhookLine is a webhook as shown.
type webhookLine struct {
	api.Webhook
	Link    string
	Waiting string // its backlog
}

func webhookAddress(id string) string { return webhooksPath + "/" + url.PathEscape(id) }

func lineOf(v *visit, w *api.Webhook) webhookLine {
	line := webhookLine{Webhook: *w, Link: v.link(webhookAddress(w.ID)), Waiting: "None"}
	if w.Backlog > 0 {
		line.Waiting = count(w.Backlog, "event", "events")
	}
	return line
}

func listWebhooks(v *visit) error {
	list, err := v.api.ListWebhooks(v.ctx)
	if err != nil {
		return err
	}
	var p webhooksPage
	for i := range list.Items {
		p.Webhooks = append(p.Webhooks, lineOf(v, &list.Items[i]))
	}
	return v.show("webhooks", "Webhooks", p)
}

type webhookPage struct {
	webhookLine
	Address string // to post forms to
	Lines   []deliveryLine
	Replays bool // whether the visitor may replay and test
	Code    []code
}

// A deliveryLine is an attempt to deliver an event as shown.
type deliveryLine struct {
	api.WebhookDelivery
	Duration string
}

// findWebhook returns a webhook, or a refusal if it does not exist.
func findWebhook(v *visit) (*api.Webhook, error) {
	list, err := v.api.ListWebhooks(v.ctx)
	if err != nil {
		return nil, err
	}
	for i := range list.Items {
		if list.Items[i].ID == v.r.PathValue("id") {
			return &list.Items[i], nil
		}
	}
	return nil, &client.Error{Problem: api.Problem{Status: http.StatusNotFound, Code: "not_found",
		Title: "Not Found", Detail: "webhook not found"}}
}

func pageOfWebhook(v *visit) (*webhookPage, error) {
	w, err := findWebhook(v)
	if err != nil {
		return nil, err
	}
	p := &webhookPage{webhookLine: lineOf(v, w), Address: webhookAddress(w.ID),
		Replays: v.mayIn("admin.webhooks:replay", keystore.AnyNamespace)}
	day := v.keys.Now().UTC().Truncate(24 * time.Hour).Format(time.RFC3339)
	p.Code = []code{v.curl("/webhooks/"+url.PathEscape(w.ID)+"/replay",
		api.ReplayRequest{From: day})}
	for _, d := range w.Deliveries {
		p.Lines = append(p.Lines, deliveryLine{d, tookText(d.DurationMS)})
	}
	return p, nil
}

// deliveryError returns the error of a delivery as a sentence, which names the receiver.
func deliveryError(text string) string {
	if strings.HasPrefix(text, "answered ") {
		text = "the receiver " + text
	}
	return sentence(text)
}

// tookText returns how long an attempt took, in milliseconds, for people.
func tookText(ms int64) string {
	switch {
	case ms < 1:
		return "under 1 ms"
	case ms < 1000:
		return fmt.Sprint(ms, " ms")
	}
	return fmt.Sprintf("%.1f s", float64(ms)/1000)
}

func showWebhook(v *visit) error {
	p, err := pageOfWebhook(v)
	if err != nil {
		return err
	}
	return v.show("webhook", p.URL, p)
}

func testWebhook(v *visit) error {
	id := v.r.PathValue("id")
	if _, err := v.api.TestWebhook(v.ctx, id); err != nil {
		return err
	}
	return v.done(webhookAddress(id), notice{Title: "Test event queued",
		Text: "The webhook receives it after the events in its backlog. Refresh to see the delivery."})
}

// replayWebhook continues a webhook with the events from a day on, or at once if the field is
// empty.
func replayWebhook(v *visit) error {
	id, f := v.r.PathValue("id"), v.form()
	at, ok := f.day("from")
	if !ok {
		f.wrong("from", "must be a day such as 2026-01-31")
	}
	var from api.ReplayRequest
	if !at.IsZero() {
		from.From = at.Format(time.RFC3339)
	}
	if ok {
		_, err := v.api.ReplayWebhook(v.ctx, id, from)
		if err == nil {
			n := notice{Title: "Retry started", Text: "The webhook sends the next event again."}
			if from.From != "" {
				n = notice{Title: "Replay started", Text: fmt.Sprintf(
					"The webhook receives all events since %s.", at.Format("2 January 2006"))}
			}
			return v.done(webhookAddress(id), n)
		}
		if !f.fail(err) {
			return err
		}
	}
	p, err := pageOfWebhook(v)
	if err != nil {
		return err
	}
	return v.again("webhook", p.URL, p, f)
}
