package caddymodule

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-apikeys/caddy-apikeys/admin/events"
	"github.com/caddy-apikeys/caddy-apikeys/caddymodule/redact"
)

// WebhookConfig is a receiver of events: changes of keys, members, roles, plans and namespaces,
// reminders before keys expire, and quotas that reach a threshold, in the format of
// [Standard Webhooks](https://www.standardwebhooks.com). One node of the deployment delivers them
// in order, and repeats each one until the receiver answers with a status of 2xx, or with 410,
// which stops the webhook.
type WebhookConfig struct {
	// Where events are sent: `https://HOST/PATH`. The URL, as written here, identifies the webhook:
	// if you change it, the webhook begins again, with the next event. If a part of it is secret,
	// use a placeholder, because REST and the console show the URL. Required.
	URL string `json:"url,omitempty"`

	// The secrets that sign requests, each `whsec_` and 24 to 64 bytes in base64. With several,
	// each request has several signatures, so that a receiver can change from one secret to the
	// next. Required.
	Secrets []string `json:"secrets,omitempty"`

	// The types of events: `key.revoked`, `key.*` or `*`. Default is all.
	Events []string `json:"events,omitempty"`

	// The namespaces whose events are sent: those about the namespaces themselves, and about the
	// keys, roles, plans and quotas in them. Members belong to none, so events about them are then
	// not sent, except those about their tokens, which belong to `default`. Default is all events.
	Namespaces []string `json:"namespaces,omitempty"`

	// Whether the URL may lead to an address that is not public, such as a private one, and begin
	// with `http://`. Default is false.
	AllowPrivate bool `json:"allow_private,omitempty"`
}

// webhook checks the configuration. Its errors do not repeat the URL, which may be secret.
func (c *WebhookConfig) webhook() (w events.Webhook, err error) {
	w = events.Webhook{Shown: c.URL, Events: c.Events, Namespaces: c.Namespaces,
		AllowPrivate: c.AllowPrivate}
	if w.URL, err = expand("webhook", c.URL); err != nil {
		return w, err
	}
	for _, secret := range c.Secrets {
		expanded, err := expand("webhook: secret", secret)
		if err != nil {
			return w, err
		}
		w.Secrets = append(w.Secrets, expanded)
	}
	if err := w.Check(); err != nil {
		return w, fmt.Errorf("webhook: %w", err)
	}
	return w, nil
}

// provisionWebhooks checks all webhooks.
func (a *App) provisionWebhooks() error {
	seen := make(map[string]bool)
	for i := range a.Webhooks {
		w, err := a.Webhooks[i].webhook()
		switch {
		case err != nil:
			return err
		case seen[w.ID()]:
			return errors.New("webhook: two webhooks have the same URL")
		}
		seen[w.ID()] = true
		a.webhooks = append(a.webhooks, w)
		a.settings.Thresholds = a.settings.Thresholds || w.WantsThresholds()
	}
	if len(a.webhooks) > events.MaxWebhooks {
		return fmt.Errorf("webhook: %d webhooks are configured: must be at most %d",
			len(a.webhooks), events.MaxWebhooks)
	}
	return nil
}

const webhookOptionNames = "secret, events, namespace, allow_private"

// parseWebhook parses the option, which can be given several times. Syntax:
//
//	webhook <url> {
//	    secret        <secret> [<former_secret>...]
//	    events        <type>...
//	    namespace     <id>...
//	    allow_private
//	}
func parseWebhook(a *App, d *caddyfile.Dispenser, args []string) error {
	if len(args) != 1 || args[0] == "" {
		return d.Err("webhook requires one URL: https://HOST/PATH, or better {env.NAME} or " +
			"{file.PATH} if a part of it is secret")
	}
	c := &WebhookConfig{URL: args[0]}
	given := make(map[string]bool)
	placeholders := strings.Contains(args[0], "{")
	for d.NextBlock(1) {
		option := d.Val()
		args := d.RemainingArgs()
		switch {
		case given[option]:
			return d.Errf("%s is given twice in webhook", option)
		case option == "allow_private" && len(args) > 0:
			return d.Err("allow_private accepts no arguments")
		case option != "allow_private" && len(args) == 0 &&
			strings.Contains(webhookOptionNames, option):
			return d.Errf("%s requires at least one argument", option)
		}
		given[option] = true
		switch option {
		case "secret":
			c.Secrets = args
			placeholders = placeholders || strings.Contains(strings.Join(args, ""), "{")
		case "events":
			c.Events = args
		case "namespace":
			c.Namespaces = args
		case "allow_private":
			c.AllowPrivate = true
		default:
			return d.Errf("unknown option %q in webhook: must be one of %s",
				redact.Argument(option), webhookOptionNames)
		}
	}
	if slices.ContainsFunc(a.Webhooks, func(w WebhookConfig) bool { return w.URL == c.URL }) {
		return d.Err("webhook: two webhooks have the same URL")
	}
	a.Webhooks = append(a.Webhooks, *c)
	if placeholders { // Provision checks the expanded values
		return nil
	}
	if _, err := c.webhook(); err != nil {
		return d.WrapErr(err)
	}
	return nil
}
