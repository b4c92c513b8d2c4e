package caddymodule

import (
	"encoding/json"
	"log/slog"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// warnOfOrder logs a warning for each server on which a rate_limit of the plugin caddy-ratelimit
// uses the key's identity before an api_key has set it. All handlers must be provisioned.
func (a *App) warnOfOrder() {
	for _, server := range a.servers {
		f := orderFinder{server: server, invoked: make(map[string]bool)}
		if f.follow(server.Routes); f.found {
			a.logger.Warn("rate_limit runs before api_key, so all callers share one limit; add "+
				"`order rate_limit after api_key` to the global options",
				slog.String("at", a.lines[orderCheck]))
		}
	}
}

// rateLimitModule is the handler of caddy-ratelimit. In the Caddyfile it comes before basic_auth by
// default, and so before api_key.
const rateLimitModule = "http.handlers.rate_limit"

// An orderFinder looks for a rate_limit that uses placeholders of api_key without an api_key before
// it.
type orderFinder struct {
	server  *caddyhttp.Server
	invoked map[string]bool // named routes
	known   bool            // whether there was an api_key
	found   bool
}

func (f *orderFinder) follow(routes caddyhttp.RouteList) {
	for _, route := range routes {
		before := f.known
		for _, handler := range route.Handlers {
			switch h := handler.(type) {
			case *Handler:
				f.known = true
			case *caddyhttp.Subroute:
				f.follow(h.Routes)
			case *caddyhttp.Invoke:
				if named := f.server.NamedRoutes[h.Name]; named != nil && !f.invoked[h.Name] {
					f.invoked[h.Name] = true
					f.follow(caddyhttp.RouteList{*named})
				}
			case caddy.Module:
				f.found = f.found || !f.known && h.CaddyModule().ID == rateLimitModule &&
					usesIdentity(h)
			}
		}
		if route.Terminal || route.Group != "" { // the routes after it are for other requests
			f.known = before
		}
	}
}

// usesIdentity reports whether the configuration of a handler has a placeholder of api_key.
func usesIdentity(handler any) bool {
	config, err := json.Marshal(handler)
	return err == nil && (strings.Contains(string(config), "{http.api_key.") ||
		strings.Contains(string(config), "{"+userPlaceholder+"}"))
}
