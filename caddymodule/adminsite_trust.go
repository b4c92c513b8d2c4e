package caddymodule

import (
	"reflect"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/caddyauth"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/headers"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"go.uber.org/zap"
)

// warnIfSpoofable logs a warning for each header that s trusts although no handler before it
// replaces the header of the client. All handlers must be provisioned.
func (s *AdminSite) warnIfSpoofable() {
	if s.server == nil {
		return
	}
	for _, placeholder := range []string{s.user, s.groups} {
		header, ok := strings.CutPrefix(placeholder, "http.request.header.")
		if !ok {
			continue
		}
		if found, replaced := s.replacedIn(s.server.Routes, header); found && !replaced {
			s.auth.logger.Warn(
				"api_keys_admin trusts a request header that no handler before it replaces",
				zap.String("header", header))
		}
	}
}

// replacedIn looks for s in routes. It reports whether a handler before s, or any handler if s is
// not found, replaces a header of the request. A handler that is not a part of Caddy may do so. A
// request that a terminal route without s has handled does not reach s.
func (s *AdminSite) replacedIn(routes caddyhttp.RouteList, header string) (found, replaced bool) {
	for _, route := range routes {
		before := replaced
		for _, handler := range route.Handlers {
			within := false
			switch h := handler.(type) {
			case *AdminSite:
				if h == s {
					return true, replaced
				}
			case *Handler:
			case *headers.Handler:
				within = replaces(h.Request, header)
			case *caddyhttp.Subroute:
				found, within = s.replacedIn(h.Routes, header)
			case *reverseproxy.Handler: // forward_auth
				for _, response := range h.HandleResponse {
					_, in := s.replacedIn(response.Routes, header)
					within = within || in
				}
			case *caddyhttp.Invoke:
				within = true // the routes that it runs are not known here
			case *caddyauth.Authentication:
				for _, provider := range h.Providers {
					within = within || !ofCaddy(provider)
				}
			default:
				within = !ofCaddy(h)
			}
			if replaced = replaced || within; found {
				return true, replaced
			}
		}
		if route.Terminal {
			replaced = before
		}
	}
	return false, replaced
}

// replaces reports whether operations on headers set or delete one.
func replaces(ops *headers.HeaderOps, header string) bool {
	if ops == nil {
		return false
	}
	for name := range ops.Set {
		if strings.EqualFold(name, header) {
			return true
		}
	}
	for _, pattern := range ops.Delete {
		if headerMatches(strings.ToLower(pattern), strings.ToLower(header)) {
			return true
		}
	}
	return false
}

// ofCaddy reports whether the type of a module is a part of Caddy.
func ofCaddy(module any) bool {
	t := reflect.TypeOf(module)
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	return strings.HasPrefix(t.PkgPath(), "github.com/caddyserver/caddy/v2/")
}
