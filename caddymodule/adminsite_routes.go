package caddymodule

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/rewrite"

	"github.com/caddy-apikeys/caddy-apikeys/caddymodule/redact"
)

const servesOnlyUnder = adminSiteDirective + " serves only paths under " + sitePath + "/, but "

// checkRoutes fails if no request under /apikeys/ can reach the handler that ctx provisions,
// because the routes around it match other paths or strip a prefix. It accepts routes that rewrite
// the path in any other way.
func checkRoutes(ctx caddy.Context) error {
	const instead = ": write `handle " + sitePath + "/* { " + adminSiteDirective + " }`"
	server, ok := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if !ok {
		return nil
	}
	around := []caddyhttp.RouteList{server.Routes}
	for _, module := range ctx.Modules() {
		if routes, ok := module.(*caddyhttp.Subroute); ok {
			around = append(around, routes.Routes)
		}
	}
	var otherPaths []string
	var stripped string
	for depth, routes := range around {
		for _, route := range routes {
			rewrites := rewritesOf(route)
			if depth == 0 && len(route.HandlersRaw) == 0 {
				continue // a provisioned route, so not the one around the handler
			}
			for _, r := range rewrites {
				if r.StripPathPrefix == "" {
					return nil
				}
				stripped = r.StripPathPrefix
			}
			if len(route.HandlersRaw) == 0 {
				continue
			}
			if otherPaths == nil {
				otherPaths = pathsOutsideSite(route)
			}
			// This route contains the handler: Caddy clears HandlersRaw once all are loaded.
			break
		}
	}
	switch {
	case otherPaths != nil:
		return fmt.Errorf(servesOnlyUnder+"the route around it matches only %s"+instead,
			redact.Argument(strings.Join(otherPaths, " ")))
	case stripped != "":
		return fmt.Errorf(servesOnlyUnder+"the route around it removes %s from the path"+instead,
			redact.Argument(stripped))
	}
	return nil
}

// rewritesOf returns the rewrite handlers of a route, provisioned or not.
func rewritesOf(route caddyhttp.Route) (rewrites []rewrite.Rewrite) {
	for _, handler := range route.Handlers {
		if r, ok := handler.(*rewrite.Rewrite); ok {
			rewrites = append(rewrites, *r)
		}
	}
	for _, raw := range route.HandlersRaw {
		var r struct {
			Handler string `json:"handler"`
			rewrite.Rewrite
		}
		if json.Unmarshal(raw, &r) == nil && r.Handler == "rewrite" {
			rewrites = append(rewrites, r.Rewrite)
		}
	}
	return rewrites
}

// pathsOutsideSite returns the paths that a route matches, or nil if it may match one under
// /apikeys/.
func pathsOutsideSite(route caddyhttp.Route) (paths []string) {
	for _, set := range route.MatcherSets {
		within := true
		for _, matcher := range set {
			if m, ok := matcher.(*caddyhttp.MatchPath); ok && !mayMatchSite(*m) {
				paths = append(paths, *m...)
				within = false
			}
		}
		if within {
			return nil
		}
	}
	return paths
}

// mayMatchSite reports whether a path matcher may match a path under /apikeys/.
func mayMatchSite(paths []string) bool {
	for _, path := range paths {
		fixed := fixedPath(path)
		if strings.HasPrefix(fixed, sitePath) || strings.HasPrefix(sitePath, fixed) &&
			fixed != path {
			return true
		}
	}
	return false
}
