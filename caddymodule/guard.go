package caddymodule

import (
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/caddyauth"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/headers"
	maphandler "github.com/caddyserver/caddy/v2/modules/caddyhttp/map"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/rewrite"

	"github.com/caddy-apikeys/caddy-apikeys/caddymodule/redact"
)

// A guard follows the routes of a server as a request does and looks for mistakes that leave an
// upstream open or that make an option useless. It knows the matchers of a route only by their
// configuration, so it warns and never refuses anything.
type guard struct {
	server   *caddyhttp.Server
	dangers  []danger
	site     *guardedSite
	required map[string]bool // upstreams that an api_key protects somewhere
	opens    []openUpstream
	invoked  map[string]bool // named routes
	handlers int             // api_key handlers
}

// A danger is a finding about a handler; of is nil if it is about none.
type danger struct {
	check, problem, advice string
	of                     any
	option, value          string // the option of the handler that it is about
	certain                bool   // whether it is certainly a mistake
}

// A guardedSite is a site of the Caddyfile: a route that is for its hosts only, or the rest of the
// server.
type guardedSite struct {
	name    string
	hosts   []string
	keys    []*Handler
	console bool // whether it has an api_keys_admin
}

// An openUpstream is reached without an api_key.
type openUpstream struct {
	handler any
	to      string
	site    *guardedSite
	partly  bool // whether an api_key is for some of the requests
	before  bool // whether an api_key follows that is never reached
}

// passed is what a request has passed when it comes to a handler.
type passed struct {
	key      bool                      // an api_key, whatever the request is
	some     [][]caddyhttp.MatcherSets // an api_key, if one of these lists of matchers matches
	keys     []*Handler                // those of key
	assigned []assignment              // placeholders that have got other values
	stripped string                    // the prefix that was removed from the path
	answered bool                      // by a handler that calls no further one
	open     int                       // the index of the open upstream that has answered, plus one
}

func (p passed) clone() passed {
	p.some, p.keys = slices.Clone(p.some), slices.Clone(p.keys)
	p.assigned = slices.Clone(p.assigned)
	return p
}

// Checks and problems that have a warning of their own at the start.
const (
	refusedCheck    = "sites"
	withoutKeyCheck = "sites_without_key"
	orderCheck      = "order"
	orderProblem    = "rate_limit runs before api_key, so all callers share one limit"
)

// guardServers returns the dangers of servers. Their routes must have their handlers and matchers.
func guardServers(servers []*caddyhttp.Server) []danger {
	g := &guard{required: make(map[string]bool)}
	for _, server := range servers {
		g.server, g.invoked = server, make(map[string]bool)
		rest := &guardedSite{name: strings.Join(server.Listen, " ")}
		var sites []*guardedSite
		state := passed{}
		for _, r := range server.Routes {
			g.site = rest
			if hosts := routeHosts(r); hosts != nil && r.Terminal {
				g.site = &guardedSite{name: strings.Join(hosts, " "), hosts: hosts}
				sites = append(sites, g.site)
			}
			state = g.follow(caddyhttp.RouteList{r}, state, nil)
		}
		for _, site := range append(sites, rest) {
			g.checkSite(site)
		}
	}
	if g.handlers > 0 {
		g.checkOpen()
	}
	return g.dangers
}

// routeHosts returns the hosts that a route is for, or nil if it is for all.
func routeHosts(r caddyhttp.Route) (hosts []string) {
	for _, set := range r.MatcherSets {
		for _, m := range set {
			if h, ok := m.(*caddyhttp.MatchHost); ok {
				hosts = append(hosts, *h...)
			}
		}
	}
	return hosts
}

func (g *guard) add(of any, check, problem, advice string) {
	g.dangers = append(g.dangers, danger{check: check, problem: problem, advice: advice, of: of})
}

// addOption is add for one option of a handler.
func (g *guard) addOption(of any, option, value, check, problem, advice string) {
	g.dangers = append(g.dangers, danger{check: check, problem: problem, advice: advice, of: of,
		option: option, value: value})
}

// follow follows routes in their order, within the matchers of the routes around them. It returns
// what a request has passed after them.
func (g *guard) follow(
	routes caddyhttp.RouteList, p passed, within []caddyhttp.MatcherSets,
) passed {
	// Only one route of a group runs, so what a request has passed in it counts after the group.
	var group string
	var inGroup passed
	for _, r := range routes {
		if r.Group != group {
			p, inGroup, group = p.after(inGroup), passed{}, r.Group
		}
		around := within
		if len(r.MatcherSets) > 0 {
			around = append(slices.Clone(within), r.MatcherSets)
			p.assignMatches(r.MatcherSets)
		}
		end := g.handle(r.Handlers, p.clone(), around)
		if group != "" && !r.Terminal && !end.answered {
			inGroup.assigned = append(inGroup.assigned, end.assignedUnder(r, len(p.assigned))...)
		}
		switch {
		case len(r.MatcherSets) == 0 && group == "" && !r.Terminal:
			p = end
		case len(r.MatcherSets) == 0:
			p.answered = p.answered || end.answered || r.Terminal
		case r.Terminal || end.answered: // no request goes on after it
		default:
			inner := end.some[len(p.some):]
			if end.key && !p.key {
				inner = append(inner, nil)
			}
			for _, some := range inner {
				some = append([]caddyhttp.MatcherSets{r.MatcherSets}, some...)
				if group == "" {
					p.some = append(p.some, some)
				} else {
					inGroup.some = append(inGroup.some, some)
				}
			}
			if group == "" {
				p.assigned = append(p.assigned, end.assignedUnder(r, len(p.assigned))...)
			}
			p.key = p.key || complementary(p.some)
		}
	}
	return p.after(inGroup)
}

// after returns what a request has passed after a group of routes.
func (p passed) after(inGroup passed) passed {
	p.some = append(p.some, inGroup.some...)
	p.assigned = append(p.assigned, inGroup.assigned...)
	return p
}

// assignedUnder returns the assignments of a route, which come after the first n.
func (p passed) assignedUnder(r caddyhttp.Route, n int) []assignment {
	inner := slices.Clone(p.assigned[n:])
	for i := range inner {
		if len(r.MatcherSets) == 0 { // the last one of a group, for what the others do not match
			inner[i].maybe = true
			continue
		}
		inner[i].when = append([]caddyhttp.MatcherSets{r.MatcherSets}, inner[i].when...)
	}
	return inner
}

// handle follows the handlers of one route.
func (g *guard) handle(
	handlers []caddyhttp.MiddlewareHandler, p passed, within []caddyhttp.MatcherSets,
) passed {
	for _, handler := range handlers {
		switch h := handler.(type) {
		case *Handler:
			g.handlers++
			g.site.keys = append(g.site.keys, h)
			if p.answered {
				if p.open > 0 {
					g.opens[p.open-1].before = true
				}
				continue
			}
			g.checkKey(h, p, within)
			p.key, p.keys = true, append(p.keys, h)
		case *AdminSite:
			g.site.console = true
			g.checkAdmin(h, p, within)
		case *caddyhttp.Subroute:
			p = g.follow(h.Routes, p, within)
		case *caddyhttp.Invoke:
			if named := g.server.NamedRoutes[h.Name]; named != nil && !g.invoked[h.Name] {
				g.invoked[h.Name] = true
				p = g.follow(caddyhttp.RouteList{*named}, p, within)
				g.invoked[h.Name] = false
			}
		case *headers.Handler:
			p.assignHeaders(h.Request)
		case *caddyhttp.VarsMiddleware:
			p.assignVars(*h)
		case *maphandler.Handler:
			p.assignMap(h)
		case *caddyauth.Authentication:
			p.assignAuthentication(h)
		case *rewrite.Rewrite:
			p.stripped = h.StripPathPrefix // another rewrite may bring the path back
		case *reverseproxy.Handler:
			if passesOn(h) {
				p.assignResponses(g.server, h, within)
			} else {
				p = g.upstream(h, upstreamsOf(h), p, within)
			}
		case *caddyhttp.StaticResponse:
			p.answered = true
		default:
			p = g.other(handler, p, within)
		}
	}
	return p
}

// forwarding are handlers of plugins that answer with the response of a program.
var forwarding = []string{"http.handlers.php", "http.handlers.cgi", "http.handlers.s3proxy"}

func (g *guard) other(handler any, p passed, within []caddyhttp.MatcherSets) passed {
	var id string
	if m, ok := handler.(caddy.Module); ok {
		id = string(m.CaddyModule().ID)
	}
	switch {
	case id == rateLimitModule:
		if !p.key && usesIdentity(handler) {
			g.add(handler, orderCheck, orderProblem,
				"Add `order rate_limit after api_key` to the global options.")
		}
	case slices.Contains(forwarding, id):
		return g.upstream(handler, strings.TrimPrefix(id, "http.handlers."), p, within)
	case !ofCaddy(handler):
		p.assignUnknown()
	}
	return p
}

// passesOn reports whether a proxy only asks another server, as `forward_auth` does: it gets no
// body, and its response decides whether the next handler runs.
func passesOn(h *reverseproxy.Handler) bool {
	return len(h.HandleResponse) > 0 && h.Rewrite != nil && h.Rewrite.Method == "GET"
}

func upstreamsOf(h *reverseproxy.Handler) string {
	var list []string
	for _, u := range h.Upstreams {
		if u == nil {
			continue
		}
		list = append(list, redact.Argument(u.Dial))
	}
	if len(list) == 0 {
		return "dynamic upstreams"
	}
	return strings.Join(list, " ")
}

// upstream checks that a request has passed an api_key when it reaches an upstream.
func (g *guard) upstream(
	handler any, to string, p passed, within []caddyhttp.MatcherSets,
) passed {
	switch {
	case p.answered:
	case p.key || slices.ContainsFunc(p.some,
		func(some []caddyhttp.MatcherSets) bool { return impliesAll(within, some) }):
		g.required[to] = true
	default:
		g.opens = append(g.opens, openUpstream{handler: handler, to: to, site: g.site,
			partly: len(p.some) > 0})
		p.open = len(g.opens)
	}
	p.answered = true
	return p
}

// checkOpen reports the upstreams that are reached without an api_key, once all api_keys are known.
func (g *guard) checkOpen() {
	for _, o := range g.opens {
		switch {
		case o.before:
			g.add(o.handler, orderCheck, "api_key comes after reverse_proxy "+o.to+" in the same route "+
				"and never runs: the upstream needs no key",
				"Move api_key before reverse_proxy, or out of `route`.")
			g.dangers[len(g.dangers)-1].certain = true
		case o.partly:
			g.add(o.handler, "upstreams", "requests that the matcher of api_key excludes reach "+o.to+
				" without a key, with X-Apikey-* headers that the client may have forged",
				"Remove the matcher from api_key, and list the paths that need no key with "+
					"`public`, which removes forged headers.")
		case len(o.site.keys) > 0:
			g.add(o.handler, "upstreams", "a route of "+o.site.name+" reaches "+o.to+
				" without api_key, with X-Apikey-* headers that the client may have forged",
				"Put api_key into this route too. For paths that need no key, list them there with "+
					"`public`, which removes forged headers.")
		case g.required[o.to]:
			g.add(o.handler, "upstreams", o.site.name+" reaches "+o.to+" without api_key, which "+
				"another route requires for it",
				"Put api_key into this site too, or do not proxy to this upstream from it.")
		default:
			g.add(o.handler, withoutKeyCheck, o.site.name+" reaches "+o.to+" and has no api_key",
				"Put api_key into the site if it is an API that requires keys.")
		}
	}
}

// checkKey checks the options of an api_key.
func (g *guard) checkKey(h *Handler, p passed, within []caddyhttp.MatcherSets) {
	configured := h.From
	if len(configured) == 0 {
		configured = defaultSources
	}
	for _, c := range configured {
		s, err := newSource(c)
		if err != nil || s.kind != redact.Header {
			continue
		}
		name := headerPlaceholder + strings.ToLower(s.name)
		if slices.ContainsFunc(p.assigned, func(a assignment) bool {
			return a.from == nil && len(a.when) == 0 && !a.maybe && a.gives(name)
		}) {
			g.addOption(h, "from", c.Name, "sources", "request_header removes "+
				redact.Argument(s.name)+" before api_key reads a key from it",
				"Remove this line of request_header: api_key removes the header itself.")
		}
		if err := expectedByServer(g.server).check(s.name); err != nil {
			g.addOption(h, "from", c.Name, "sources", err.Error(), "Follow the message.")
		}
	}
	if h.Preflight != nil {
		g.checkPreflight(h, within)
	}
}

// headerMatches reports whether a name of a header operation, which may begin or end in *, names a
// header. Both are in lower case, in which Caddy compares them.
func headerMatches(pattern, name string) bool {
	switch {
	case strings.HasPrefix(pattern, "*") && strings.HasSuffix(pattern, "*"):
		return strings.Contains(name, strings.Trim(pattern, "*"))
	case strings.HasPrefix(pattern, "*"):
		return strings.HasSuffix(name, pattern[1:])
	case strings.HasSuffix(pattern, "*"):
		return strings.HasPrefix(name, pattern[:len(pattern)-1])
	}
	return pattern == name
}

// checkPreflight finds preflights that never come, and origins that no preflight has.
func (g *guard) checkPreflight(h *Handler, within []caddyhttp.MatcherSets) {
	if h.Methods["OPTIONS"] == "none" {
		g.addOption(h, "preflight", "", "preflight", "preflights get 405, because `methods` refuses "+
			"OPTIONS", "Remove OPTIONS from `methods none`.")
	}
	for _, sets := range within {
		if !slices.ContainsFunc(sets, acceptsOptions) {
			g.addOption(h, "preflight", "", "preflight", "no preflight reaches this api_key: a "+
				"matcher around it excludes the method OPTIONS", "Add OPTIONS to the matcher.")
			break
		}
	}
	for _, origin := range h.Preflight.Origins {
		u, err := url.Parse(origin)
		if err != nil {
			continue
		}
		switch host := u.Hostname(); {
		case strings.HasSuffix(host, "."):
			g.addOption(h, "preflight", origin, "preflight", "browsers send no origin with a host "+
				"that ends in a dot: "+u.Host, "Remove the dot.")
		case slices.Contains(g.site.hosts, host) && g.ownPort(u):
			g.addOption(h, "preflight", origin, "preflight", u.Scheme+"://"+u.Host+
				" is this site itself, and browsers send no preflight to their own origin",
				"Name the origins of the pages that call the API, or remove this one.")
		}
	}
}

// acceptsOptions reports whether a set of matchers may match a request with the method OPTIONS.
func acceptsOptions(set caddyhttp.MatcherSet) bool {
	for _, m := range set {
		if methods, ok := m.(*caddyhttp.MatchMethod); ok &&
			!slices.Contains(*methods, "OPTIONS") {
			return false
		}
	}
	return true
}

// ownPort reports whether the server listens on the port of a URL.
func (g *guard) ownPort(u *url.URL) bool {
	port := u.Port()
	if port == "" {
		port = map[string]string{"https": "443", "http": "80"}[u.Scheme]
	}
	return slices.ContainsFunc(g.server.Listen, func(address string) bool {
		_, listening, err := net.SplitHostPort(address)
		return err == nil && listening == port
	})
}

// checkAdmin checks that requests for the console and the REST API reach an api_keys_admin. Those
// that an api_key refuses are found by refusedIn.
func (g *guard) checkAdmin(s *AdminSite, p passed, within []caddyhttp.MatcherSets) {
	const advice = "Write `handle " + sitePath + "/* { " + adminSiteDirective + " }`, before other " +
		"`handle` blocks."
	g.checkTrust(s, p, within)
	var outside []string
	for _, sets := range within {
		outside = append(outside, pathsOutsideSite(caddyhttp.Route{MatcherSets: sets})...)
	}
	strips := p.stripped != "" &&
		(outside != nil || strings.HasPrefix(sitePath, strings.TrimSuffix(p.stripped, "/")))
	switch {
	case p.answered:
		g.add(s, "admin_path", "no request reaches "+adminSiteDirective+
			", because a handler before it answers all", advice)
		return
	case strips:
		g.add(s, "admin_path", servesOnlyUnder+"the route around it removes "+
			redact.Argument(p.stripped)+" from the path", advice)
		return
	case outside != nil:
		g.add(s, "admin_path", servesOnlyUnder+"the route around it matches only "+
			redact.Argument(strings.Join(outside, " ")), advice)
		return
	}
	for _, h := range p.keys {
		if !h.rules.isPublic(sitePath+"/") || !h.rules.isPublic(sitePath+"/v1/keys") {
			g.add(h, refusedCheck, "api_key refuses the requests for "+adminSiteDirective+
				" on the same site", publicAdvice)
		}
	}
}

// checkSite checks what depends on all handlers of a site.
func (g *guard) checkSite(site *guardedSite) {
	if site.console {
		return
	}
	for _, h := range site.keys {
		for _, pattern := range h.Public {
			if pattern == sitePath || strings.HasPrefix(pattern, sitePath+"/") {
				g.addOption(h, "public", pattern, "admin_path", fmt.Sprintf("`public %s` lets "+
					"requests under %s/ pass without a key, and the site has no %s",
					redact.Argument(pattern), sitePath, adminSiteDirective),
					"Add "+adminSiteDirective+" to the site, or remove the pattern.")
			}
		}
	}
}
