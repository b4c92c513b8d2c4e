package caddymodule

import (
	"encoding/json"
	"errors"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
)

// eventPrefix begins the names of our events in Caddy's events app.
const eventPrefix = "apikeys."

// eventName returns the name of a type of events in Caddy: apikeys.key_revoked for key.revoked.
func eventName(kind string) string { return eventPrefix + strings.ReplaceAll(kind, ".", "_") }

// provisionEvents finds Caddy's events app, if it is configured.
func (a *App) provisionEvents() error {
	app, err := a.ctx.AppIfConfigured("events")
	if errors.Is(err, caddy.ErrNotConfigured) {
		return nil
	}
	if err != nil {
		return err
	}
	a.settings.Thresholds = a.settings.Thresholds || len(app.(*caddyevents.App).Subscriptions) > 0
	return nil
}

// emit gives an event of this process to Caddy's events app, and waits for its handlers.
func (a *App) emit(id string, e api.Event) {
	if !a.awaitActive() {
		return
	}
	app, err := a.ctx.AppIfConfigured("events") // another module may have loaded it after Provision
	if err != nil {
		return
	}
	name := eventName(e.Type)
	if events := app.(*caddyevents.App); events.ShouldEmit(name) {
		events.Emit(a.ctx, name, eventData(id, e))
	}
}

// awaitActive waits until all apps of the configuration have started, because the events app must
// not be used while it starts. It returns false if the configuration is not used any more.
func (a *App) awaitActive() bool {
	for !a.active.Load() {
		if app, err := caddy.ActiveContext().AppIfConfigured(appName); err == nil && app == a {
			a.active.Store(true)
			break
		}
		select {
		case <-a.ctx.Done():
			return false
		case <-time.After(50 * time.Millisecond):
		}
	}
	return a.ctx.Err() == nil
}

// eventData returns the data of an event as handlers use it in placeholders: {event.data.key_name}.
// The whole event is in json.
func eventData(id string, e api.Event) map[string]any {
	body, _ := json.Marshal(e) // cannot fail: e was decoded from JSON
	data := map[string]any{"id": id, "type": e.Type, "json": string(body),
		"timestamp": e.Timestamp.Format(time.RFC3339)}
	add := func(prefix string, raw json.RawMessage, fields ...string) {
		var object map[string]any
		if json.Unmarshal(raw, &object) != nil {
			return
		}
		for _, field := range fields {
			if text, ok := object[field].(string); ok {
				data[prefix+field] = text
			}
		}
	}
	add("key_", e.Data["key"], "id", "name", "prefix", "namespace", "owner", "status",
		"expires_at", "last_used_at")
	add("member_", e.Data["member"], "id", "name")
	add("role_", e.Data["role"], "name")
	add("plan_", e.Data["plan"], "name")
	add("actor_", e.Data["actor"], "id", "name", "address")
	add("leak_", e.Data["leak"], "url", "source", "type", "action")
	add("reminder_", e.Data["reminder"], "before", "unused_since")
	for _, field := range []string{"namespace", "reason"} {
		var text string
		if json.Unmarshal(e.Data[field], &text) == nil {
			data[field] = text
		}
	}
	for _, field := range []string{"percent", "used"} {
		if raw, ok := e.Data[field]; ok {
			data[field] = string(raw)
		}
	}
	return data
}
