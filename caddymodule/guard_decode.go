package caddymodule

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/caddyauth"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/intercept"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-apikeys/caddy-apikeys/caddymodule/route"
)

// A decoder decodes routes, whose handlers and matchers are then not provisioned.
type decoder struct {
	paths map[any]string // of the handlers in the configuration
	sites []*AdminSite
}

// servers returns the servers of a configuration of the HTTP app with their handlers and matchers.
// An unknownHandler or unknownMatcher replaces each module that this program does not have.
func (d *decoder) servers(raw json.RawMessage) (servers []*caddyhttp.Server, err error) {
	var app struct {
		Servers map[string]*caddyhttp.Server `json:"servers"`
	}
	if len(raw) == 0 {
		return nil, nil
	}
	if err := json.Unmarshal(raw, &app); err != nil {
		return nil, err
	}
	for _, name := range slices.Sorted(maps.Keys(app.Servers)) {
		server, path := app.Servers[name], "apps/http/servers/"+name
		if server == nil {
			continue
		}
		if err := d.routes(server.Routes, path+"/routes"); err != nil {
			return nil, err
		}
		for name, named := range server.NamedRoutes {
			if named == nil {
				continue
			}
			one := caddyhttp.RouteList{*named}
			if err := d.routes(one, path+"/named_routes/"+name); err != nil {
				return nil, err
			}
			*named = one[0]
		}
		if server.Errors != nil {
			if err := d.routes(server.Errors.Routes, path+"/errors/routes"); err != nil {
				return nil, err
			}
		}
		servers = append(servers, server)
	}
	return servers, nil
}

// routes sets the handlers and matchers of routes from their JSON.
func (d *decoder) routes(routes caddyhttp.RouteList, path string) error {
	for i := range routes {
		r := &routes[i]
		sets, err := decodeMatchers(r.MatcherSetsRaw)
		if err != nil {
			return err
		}
		r.MatcherSets = append(r.MatcherSets, sets...)
		for j, raw := range r.HandlersRaw {
			handler, err := d.handler(raw, fmt.Sprintf("%s/%d/handle/%d", path, i, j))
			if err != nil {
				return err
			}
			if handler != nil {
				r.Handlers = append(r.Handlers, handler)
			}
		}
	}
	return nil
}

// responses sets the handlers and matchers of the routes that handle responses.
func (d *decoder) responses(list []caddyhttp.ResponseHandler, path string) error {
	for i, response := range list {
		if err := d.routes(response.Routes,
			fmt.Sprintf("%s/handle_response/%d/routes", path, i)); err != nil {
			return err
		}
	}
	return nil
}

// An unknownMatcher is one that this program does not have.
type unknownMatcher struct {
	Name string
	Raw  json.RawMessage
}

func decodeMatchers(raw caddyhttp.RawMatcherSets) (sets caddyhttp.MatcherSets, err error) {
	for _, rawSet := range raw {
		set := caddyhttp.MatcherSet{}
		for _, name := range slices.Sorted(maps.Keys(rawSet)) {
			m, err := decodeMatcher(name, rawSet[name])
			if err != nil {
				return nil, err
			}
			set = append(set, m)
		}
		sets = append(sets, set)
	}
	return sets, nil
}

func decodeMatcher(name string, raw json.RawMessage) (any, error) {
	info, err := caddy.GetModule("http.matchers." + name)
	if err != nil {
		return unknownMatcher{name, raw}, nil //nolint:nilerr // its routes still count
	}
	m := info.New()
	if err := json.Unmarshal(raw, m); err != nil {
		return nil, err
	}
	if not, ok := m.(*caddyhttp.MatchNot); ok {
		not.MatcherSets, err = decodeMatchers(not.MatcherSetsRaw)
	}
	return m, err
}

// An unknownHandler is one that this program does not have.
type unknownHandler struct{}

func (unknownHandler) ServeHTTP(
	w http.ResponseWriter, r *http.Request, next caddyhttp.Handler,
) error {
	return next.ServeHTTP(w, r)
}

// handler decodes one handler and the routes and providers in it.
func (d *decoder) handler(raw json.RawMessage, path string) (caddyhttp.MiddlewareHandler, error) {
	var named struct{ Handler string }
	if err := json.Unmarshal(raw, &named); err != nil {
		return nil, err
	}
	info, err := caddy.GetModule("http.handlers." + named.Handler)
	if err != nil {
		return unknownHandler{}, nil //nolint:nilerr // nothing is known about it
	}
	module := info.New()
	if err := json.Unmarshal(raw, module); err != nil {
		return nil, err
	}
	d.paths[module] = path
	switch h := module.(type) {
	case *Handler:
		h.rules = new(rules)
		for _, text := range h.Public {
			if h.rules.public, err = route.AddPattern(h.rules.public, "public", text,
				true); err != nil {
				return nil, err
			}
		}
	case *AdminSite:
		d.sites = append(d.sites, h)
	case *caddyhttp.Subroute:
		if err := d.routes(h.Routes, path+"/routes"); err != nil {
			return nil, err
		}
	case *reverseproxy.Handler:
		if err := d.responses(h.HandleResponse, path); err != nil {
			return nil, err
		}
	case *intercept.Intercept:
		if err := d.responses(h.HandleResponse, path); err != nil {
			return nil, err
		}
	case *caddyauth.Authentication:
		h.Providers = make(map[string]caddyauth.Authenticator)
		for name := range h.ProvidersRaw {
			h.Providers[name] = nil
			if info, err := caddy.GetModule("http.authentication.providers." + name); err == nil {
				h.Providers[name], _ = info.New().(caddyauth.Authenticator)
			}
		}
	}
	handler, _ := module.(caddyhttp.MiddlewareHandler)
	return handler, nil
}
