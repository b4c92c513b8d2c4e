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
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/fileserver"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/headers"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/intercept"
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
	// replacing is whether the routes replace an error or another response. What they proxy to may
	// be a server of error pages, so it is open only if an api_key protects it elsewhere.
	replacing bool
}

// A danger is a mistake, or a possible one, that a guard has found.
type danger struct {
	check, problem, advice string
	of                     any    // the handler that it is about, if any
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
	partly  bool // whether an api_key checks some of the requests
	before  bool // whether an api_key follows that is never reached
	instead bool // whether its response replaces another one
}

// passed says what is known about the requests that reach a handler: which handlers they have
// passed and how these have changed them.
type passed struct {
	key      bool                      // every request has passed an api_key
	some     [][]caddyhttp.MatcherSets // like key, for the requests that match one of these lists
	keys     []*Handler                // the api_keys that every request has passed
	assigned []assignment              // placeholders that have got other values
	given    []caddyhttp.MatcherSets   // matchers that match the request after the last rewrite
	rewrites int                       // how many handlers have changed the path
	stripped string                    // the prefix that was removed from the path
	answered bool                      // by a handler that calls no further one
	open     int                       // the index of the open upstream that has answered, plus one
}

func (p passed) clone() passed {
	p.some, p.keys = slices.Clone(p.some), slices.Clone(p.keys)
	p.assigned, p.given = slices.Clone(p.assigned), slices.Clone(p.given)
	return p
}

// uncertain is a condition that is never known to be true.
var uncertain = caddyhttp.MatcherSets{{unknownMatcher{}}}

// rewrite notes that a handler changes the path. Matchers before it have matched the former path.
func (p *passed) rewrite() {
	settle := func(conditions []caddyhttp.MatcherSets) []caddyhttp.MatcherSets {
		if impliesAll(p.given, conditions) {
			return nil
		}
		return []caddyhttp.MatcherSets{uncertain}
	}
	for i := range p.some {
		p.some[i] = settle(p.some[i])
	}
	for i := range p.assigned {
		p.assigned[i].when = settle(p.assigned[i].when)
	}
	p.given = nil
	p.rewrites++
}

// add adds to p the difference between start and end, for requests that match all of under.
func (p *passed) add(start, end passed, under ...caddyhttp.MatcherSets) {
	if end.rewrites > start.rewrites {
		p.rewrite()
	}
	some := end.some[len(start.some):]
	if end.key && !start.key {
		some = append(some, nil)
	}
	for _, conditions := range some {
		p.some = append(p.some, slices.Concat(under, conditions))
	}
	p.key = p.key || complementary(p.some)
	for _, a := range end.assigned[len(start.assigned):] {
		a.when = slices.Concat(under, a.when)
		p.assigned = append(p.assigned, a)
	}
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
		sites := g.followSites(server.Routes, rest, nil)
		if server.Errors != nil {
			g.replacing = true
			sites = g.followSites(server.Errors.Routes, rest, sites)
			g.replacing = false
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

// followSites follows the routes of a server. Those that are for no site belong to rest. It returns
// sites and the sites that it has found.
func (g *guard) followSites(
	routes caddyhttp.RouteList, rest *guardedSite, sites []*guardedSite,
) []*guardedSite {
	state := passed{}
	for len(routes) > 0 {
		g.site = rest
		n := slices.IndexFunc(routes, isSite)
		switch n {
		case 0:
			hosts := routeHosts(routes[0])
			at := slices.IndexFunc(sites, func(s *guardedSite) bool {
				return slices.Equal(s.hosts, hosts)
			})
			if at < 0 {
				at = len(sites)
				sites = append(sites, &guardedSite{name: strings.Join(hosts, " "), hosts: hosts})
			}
			g.site = sites[at]
			n = 1
		case -1:
			n = len(routes)
		}
		state = g.follow(routes[:n], state, nil)
		routes = routes[n:]
	}
	return sites
}

// isSite reports whether a route is what the Caddyfile calls a site with hosts.
func isSite(r caddyhttp.Route) bool { return r.Terminal && routeHosts(r) != nil }

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

// follow follows routes in their order. p describes the requests that reach the first route, and
// the result those that leave the last one. within are the matchers of the routes around them.
func (g *guard) follow(
	routes caddyhttp.RouteList, p passed, within []caddyhttp.MatcherSets,
) passed {
	// Only one route of a group runs. So p is the state before the group, and next that after it.
	next, group := p.clone(), ""
	earlier := make(map[string][]caddyhttp.MatcherSets) // of routes of a group that do not answer
	for _, r := range routes {
		if r.Group == "" || r.Group != group {
			p, group = next.clone(), r.Group
		}
		p.assignMatches(r.MatcherSets)
		next.assignMatches(r.MatcherSets)
		inner, around := p.clone(), within
		var under []caddyhttp.MatcherSets
		if len(r.MatcherSets) > 0 {
			inner.given = append(inner.given, r.MatcherSets)
			around = append(slices.Clone(within), r.MatcherSets)
			under = append(under, r.MatcherSets)
		}
		if slices.ContainsFunc(earlier[r.Group], func(sets caddyhttp.MatcherSets) bool {
			return !exclude(sets, r.MatcherSets)
		}) {
			under = append(under, uncertain)
		}
		end := g.handle(r.Handlers, inner, around)
		switch {
		case len(r.MatcherSets) == 0 && r.Group == "" && !r.Terminal:
			next = end
		case !r.Terminal && !end.answered:
			next.add(p, end, under...)
			switch {
			case r.Group == "":
			case end.rewrites > p.rewrites: // the other matchers have matched another path
				earlier[r.Group] = append(earlier[r.Group], nil)
			default:
				earlier[r.Group] = append(earlier[r.Group], r.MatcherSets)
			}
		case len(r.MatcherSets) == 0:
			p.answered, next.answered = true, true
		}
	}
	return next
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
			p.stripped = h.StripPathPrefix // another rewrite may restore the path
			p.rewrite()
		case *reverseproxy.Handler:
			end := g.responses(h.HandleResponse, p, within)
			if passesOn(h) {
				p = end
			} else {
				p = g.upstream(h, upstreamsOf(h), p)
			}
		case *intercept.Intercept:
			g.responses(h.HandleResponse, p, within)
		default:
			p = g.other(handler, p)
		}
	}
	return p
}

// forwarding are handlers of plugins that answer with the response of a program.
var forwarding = []string{"http.handlers.php", "http.handlers.cgi", "http.handlers.s3proxy"}

func (g *guard) other(handler any, p passed) passed {
	var id string
	if m, ok := handler.(caddy.Module); ok {
		id = string(m.CaddyModule().ID)
	}
	switch {
	case answers(handler):
		p.answered = true
	case id == rateLimitModule:
		if !p.key && usesIdentity(handler) {
			g.add(handler, orderCheck, orderProblem,
				"Add `order rate_limit after api_key` to the global options.")
		}
	case slices.Contains(forwarding, id):
		return g.upstream(handler, strings.TrimPrefix(id, "http.handlers."), p)
	case !ofCaddy(handler):
		p.assignUnknown()
	}
	return p
}

// answers reports whether a handler of Caddy answers all requests and calls no further handler.
func answers(handler any) bool {
	switch h := handler.(type) {
	case *caddyhttp.StaticResponse, *caddyhttp.StaticError, *reverseproxy.CopyResponseHandler:
		return true
	case *fileserver.FileServer:
		return !h.PassThru
	}
	return false
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
func (g *guard) upstream(handler any, to string, p passed) passed {
	switch {
	case p.answered:
	case p.key || slices.ContainsFunc(p.some,
		func(some []caddyhttp.MatcherSets) bool { return impliesAll(p.given, some) }):
		if !g.replacing {
			g.required[to] = true
		}
	default:
		g.opens = append(g.opens, openUpstream{handler: handler, to: to, site: g.site,
			partly: len(p.some) > 0, instead: g.replacing})
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
		case o.instead:
			if g.required[o.to] {
				g.add(o.handler, "upstreams", o.site.name+" reaches "+o.to+" without api_key when it "+
					"replaces an error or another response, and another route requires api_key "+
					"for this upstream", "Put api_key into the same block, before the handler "+
					"that reaches the upstream, or proxy to another upstream there.")
			}
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
		if p.removes(headerPlaceholder + strings.ToLower(s.name)) {
			g.addOption(h, "from", c.Name, "sources", "request_header removes "+
				redact.Argument(s.name)+" before api_key reads a key from it",
				"Remove this line of request_header: api_key removes the header itself.")
		}
		if err := expectedByServer(g.server).check(s.name); err != nil {
			g.addOption(h, "from", c.Name, "sources", err.Error(),
				"Without that change, requests with this header count as requests without a key.")
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

// checkPreflight finds preflight options that no request reaches, and origins that no browser
// sends.
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
	g.checkTrust(s, p)
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
