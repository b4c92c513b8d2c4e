package caddymodule

import (
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/caddyauth"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/headers"
	maphandler "github.com/caddyserver/caddy/v2/modules/caddyhttp/map"

	"github.com/caddy-apikeys/caddy-apikeys/caddymodule/redact"
)

// An assignment sets a placeholder of the request.
type assignment struct {
	name  string                  // of the placeholder; that of a header may begin or end in *
	from  []string                // the value consists of these; nil if the placeholder is deleted
	when  []caddyhttp.MatcherSets // a request that matches all of these has the assignment
	maybe bool                    // the new value may be the earlier one, or contain it
	lazy  bool                    // from is evaluated when the placeholder is used
}

const (
	headerPlaceholder = "http.request.header."
	varsPlaceholder   = "http.vars."
	regexpPlaceholder = "http.regexp"
)

// writable has the beginnings of placeholders whose value every client can choose.
var writable = []string{headerPlaceholder, "http.request.cookie.", "http.request.uri",
	"http.request.orig_", "http.request.body", "http.request.host", "http.request.port",
	"http.request.method", "http.request.proto", "http.request.tls.server_name",
	"http.matchers.file.", "http.url_pattern."}

// placeholderName returns the name of a placeholder, with the name of a header in lower case,
// because Caddy ignores its case.
func placeholderName(name string) string {
	if header, ok := strings.CutPrefix(name, headerPlaceholder); ok {
		return headerPlaceholder + strings.ToLower(header)
	}
	return name
}

// gives reports whether the assignment sets the placeholder with this name.
func (a *assignment) gives(name string) bool {
	header, ok := strings.CutPrefix(name, headerPlaceholder)
	pattern, patternOK := strings.CutPrefix(a.name, headerPlaceholder)
	if ok && patternOK {
		return headerMatches(pattern, header)
	}
	group, ok := strings.CutPrefix(name, a.name+".")
	return a.name == name ||
		ok && strings.HasPrefix(a.name+".", regexpPlaceholder+".") && !strings.Contains(group, ".")
}

// removes reports whether a placeholder certainly has no value any more.
func (p *passed) removes(name string) bool {
	for _, a := range slices.Backward(p.assigned) {
		if a.gives(name) {
			return a.from == nil && len(a.when) == 0 && !a.maybe
		}
	}
	return false
}

func (p *passed) assign(name string, maybe bool, from ...string) {
	p.assigned = append(p.assigned,
		assignment{name: placeholderName(name), from: from, maybe: maybe})
}

// assignHeaders applies operations on headers in Caddy's order.
func (p *passed) assignHeaders(ops *headers.HeaderOps) {
	if ops == nil {
		return
	}
	remove := func(all bool) {
		for _, pattern := range ops.Delete {
			if all == (pattern == "*") {
				p.assign(headerPlaceholder+pattern, false)
			}
		}
	}
	remove(true)
	for _, name := range slices.Sorted(maps.Keys(ops.Add)) {
		p.assign(headerPlaceholder+name, true, ops.Add[name]...)
	}
	for _, name := range slices.Sorted(maps.Keys(ops.Set)) {
		p.assign(headerPlaceholder+name, false, append([]string{""}, ops.Set[name]...)...)
	}
	remove(false)
	for _, name := range slices.Sorted(maps.Keys(ops.Replace)) {
		for _, r := range ops.Replace[name] { // the header may not contain the text to replace
			p.assign(headerPlaceholder+name, true, r.Replace)
		}
	}
}

// assignUnknown is for a handler that is not part of Caddy. It is assumed to replace every header.
func (p *passed) assignUnknown() { p.assign(headerPlaceholder+"*", false, "") }

// assignVars is for `vars`, which can also replace the user that `basic_auth` has set.
func (p *passed) assignVars(vars caddyhttp.VarsMiddleware) {
	for _, name := range slices.Sorted(maps.Keys(vars)) {
		from := caddy.ToString(vars[name])
		p.assign(varsPlaceholder+name, false, from)
		if name == "http.auth.user.id" {
			p.assign(name, false, from)
		}
	}
}

// assignMap is for `map`, which is evaluated when one of its destinations is used. Of several maps
// with the same destination, the first one decides.
func (p *passed) assignMap(h *maphandler.Handler) {
	from := append([]string{h.Source}, h.Defaults...)
	for _, m := range h.Mappings {
		for _, output := range m.Outputs {
			from = append(from, caddy.ToString(output))
		}
	}
	for _, name := range h.Destinations {
		p.assigned = append(p.assigned, assignment{name: placeholderName(strings.Trim(name, "{}")),
			from: from, maybe: true, lazy: true})
	}
}

// assignMatches is for matchers with regular expressions, whose groups become placeholders.
func (p *passed) assignMatches(sets caddyhttp.MatcherSets) {
	assign := func(m *caddyhttp.MatchRegexp, from string) {
		if m == nil {
			return
		}
		p.assign(regexpPlaceholder, true, from)
		if m.Name != "" {
			p.assign(regexpPlaceholder+"."+m.Name, true, from)
		}
	}
	for _, set := range sets {
		for _, m := range set {
			switch m := m.(type) {
			case *caddyhttp.MatchNot: // the placeholders remain when it excludes a request
				p.assignMatches(m.MatcherSets)
			case *caddyhttp.MatchPathRE:
				assign(&m.MatchRegexp, "{http.request.uri.path}")
			case *caddyhttp.MatchHeaderRE:
				for name, re := range *m {
					assign(re, "{"+headerPlaceholder+name+"}")
				}
			case *caddyhttp.MatchVarsRE:
				for name, re := range *m {
					if !strings.HasPrefix(name, "{") {
						name = "{" + varsPlaceholder + name + "}"
					}
					assign(re, name)
				}
			}
		}
	}
}

// responses follows the routes of responses. The result describes the requests that continue after
// one of them, as in `forward_auth`.
func (g *guard) responses(
	list []caddyhttp.ResponseHandler, p passed, within []caddyhttp.MatcherSets,
) passed {
	var ends []passed
	outer := g.replacing
	g.replacing = true
	for _, response := range list {
		end := g.follow(response.Routes, p, within)
		if !end.answered && response.StatusCode == "" {
			ends = append(ends, end)
		}
	}
	g.replacing = outer
	var under []caddyhttp.MatcherSets
	if len(ends) > 1 {
		under = append(under, uncertain)
	}
	next := p.clone()
	for _, end := range ends {
		next.add(p, end, under...)
	}
	return next
}

func (p *passed) assignAuthentication(h *caddyauth.Authentication) {
	for _, provider := range h.Providers {
		if !ofCaddy(provider) {
			p.assignUnknown()
		}
	}
}

// ofCaddy reports whether a module is part of Caddy.
func ofCaddy(module any) bool {
	t := reflect.TypeOf(module)
	if t == nil { // this program does not have the module
		return false
	}
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	return strings.HasPrefix(t.PkgPath(), "github.com/caddyserver/caddy/v2/")
}

// origins reports whether clients can choose the values of placeholders.
type origins struct {
	assigned []assignment
	within   []caddyhttp.MatcherSets // all requests match these
	known    map[origin]bool         // the results so far
}

// An origin is the value of a placeholder before the assignment with this index.
type origin struct {
	name   string
	before int
}

// chosen reports whether clients can choose the value of a placeholder before an assignment.
func (o *origins) chosen(name string, before int) bool {
	key := origin{name, before}
	if _, asked := o.known[key]; !asked {
		o.known[key] = false // ends the recursion of a map that refers to itself
		o.known[key] = o.look(name, before)
	}
	return o.known[key]
}

// look computes the result of chosen. It goes through the assignments from the last to the first.
func (o *origins) look(name string, before int) bool {
	given := false
	for i := before - 1; i >= 0; i-- {
		a := &o.assigned[i]
		if !a.gives(name) {
			continue
		}
		given = true
		at := i
		if a.lazy {
			at = before
		}
		if slices.ContainsFunc(a.from, func(text string) bool { return o.chosenIn(text, at) }) {
			return true
		}
		if !a.maybe && impliesAll(o.within, a.when) {
			return false
		}
	}
	// A group whose regular expression is in no matcher comes from an `expression`.
	return !given && strings.HasPrefix(name, regexpPlaceholder+".") || slices.ContainsFunc(writable,
		func(prefix string) bool { return strings.HasPrefix(name, prefix) })
}

var placeholders = regexp.MustCompile(`\{([^{}]+)\}`)

// chosenIn is chosen for all placeholders in a text.
func (o *origins) chosenIn(text string, before int) bool {
	return slices.ContainsFunc(placeholders.FindAllStringSubmatch(text, -1),
		func(found []string) bool { return o.chosen(placeholderName(found[1]), before) })
}

// checkTrust checks that clients cannot choose the names that an api_keys_admin trusts.
func (g *guard) checkTrust(s *AdminSite, p passed) {
	site := caddyhttp.MatcherSet{&caddyhttp.MatchPath{sitePath + "/*"}}
	o := &origins{assigned: p.assigned, known: make(map[origin]bool),
		within: append(slices.Clone(p.given), caddyhttp.MatcherSets{site})}
	for _, trusts := range []struct{ option, placeholder, what string }{
		{"trust_user", s.TrustUser, "the user"}, {"trust_groups", s.TrustGroups, "the groups"},
	} {
		if !o.chosenIn(trusts.placeholder, len(p.assigned)) {
			continue
		}
		problem := trusts.option + " takes " + trusts.what + " from "
		header, ok := strings.CutPrefix(strings.Trim(trusts.placeholder, "{}"), headerPlaceholder)
		header = redact.Argument(header)
		if ok {
			g.addOption(s, trusts.option, "", "trust", problem+"the header "+header+", and clients "+
				"can choose its value: no handler before "+adminSiteDirective+
				" replaces it in all requests",
				"Before "+adminSiteDirective+", let forward_auth replace the header with "+
					"`copy_headers "+header+"`, set it to a value that does not come from the "+
					"client, or remove it. Its matcher must not exclude requests under "+
					sitePath+"/.")
			continue
		}
		g.addOption(s, trusts.option, "", "trust", problem+redact.Argument(trusts.placeholder)+
			", and clients can choose its value",
			"Use a placeholder of the handler that authenticates users, such as "+
				"{http.auth.user.id}, or a header that forward_auth copies.")
	}
}
