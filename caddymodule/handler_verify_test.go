package caddymodule

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-apikeys/caddy-apikeys/admin"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// loadCaddyfile runs a Caddyfile whose sites listen on sockets.
func (g *instance) loadCaddyfile(text string) {
	g.t.Helper()
	adapted, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(strings.ReplaceAll(text,
		"DIR", g.dir)), nil)
	if err != nil {
		g.t.Fatal(err)
	}
	config := g.config(nil)
	if err := json.Unmarshal(adapted, &config); err != nil {
		g.t.Fatal(err)
	}
	g.load(config)
}

// ruleOptions is the beginning of a Caddyfile whose sites import common.
const ruleOptions = `{
	api_keys {
		database sqlite DIR/keys.db
	}
	auto_https off
}
(common) {
	bind unix/DIR/site
}
`

// TestRule checks that the handlers which a request would reach decide, as selected by host, port,
// matchers and rewrites.
func TestRule(t *testing.T) {
	g := newInstance(t)
	g.loadCaddyfile(ruleOptions + `http://a.test {
	import common
	api_key {
		namespace_path /v1/{namespace}/**
		resource orders
		operation orders:search read POST /v1/{namespace}/search
		methods write PURGE
		methods none OPTIONS
		public /open/*
		foreign pass
	}
	respond ok
}
http://b.test, http://*.wild.test {
	import common
	handle_path /api/* {
		api_key {
			namespace_path /{namespace}/**
			strict
			operation things:list read GET /{namespace}/things
		}
		respond ok
	}
	handle /home/* {
		api_key {
			namespace home
		}
		respond ok
	}
	handle {
		respond ok
	}
}
http://c.test {
	import common
	route {
		respond /free ok
		@inside client_ip 10.0.0.0/8
		handle @inside {
			api_key {
				namespace inside
			}
		}
		map {host} {tenant} {
			c.test sea
		}
		vars port {http.request.local.port}
		vars team {http.request.host.labels.1}
		api_key {
			namespace {tenant}
			public /twice
		}
		api_key {
			namespace {vars.team}
		}
		@ours path /mine
		api_key @ours {
			namespace {http.request.header.X-Tenant}
		}
	}
}
http://d.test:81 {
	bind unix/DIR/other
	invoke guarded
}
http://d.test:82 {
	bind unix/DIR/another
	api_key {
		namespace two
		forwarded
	}
	api_key
}
http://e.test {
	import common
	api_key {
		from cookie session
		from header X-Key
	}
	api_key {
		from cookie session
	}
	api_key {
		foreign pass
	}
}
http://f.test {
	import common
	api_key {
		from cookie session
	}
}
&(guarded) {
	api_key {
		namespace one
	}
}
`)
	app := runningApp()
	if len(app.servers) != 3 {
		t.Fatalf("%d servers", len(app.servers))
	}
	token := g.mint(nil)
	derived := deriveToken(t, token, keystore.Caveats{})
	for _, test := range []struct{ method, host, target, want string }{
		{"GET", "a.test", "/v1/acme/x", "ok acme orders:read"},
		{"POST", "a.test", "/v1/acme/x", "ok acme orders:write"},
		{"POST", "A.TEST:8080", "/v1/acme/search", "ok acme orders:search"},
		{"POST", "a.test:80", "/v1/acme/search/", "ok acme orders:search"},
		{"GET", "a.test", "/other?v1=2", "ok default orders:read"},
		{"PURGE", "a.test", "/v1/acme/x", "ok acme orders:write"},
		{"OPTIONS", "a.test", "/v1/acme/x", "method"},
		{"BREW", "a.test", "/v1/acme/x", "method"},
		{"GET", "a.test", "/open/x", "public"},
		{"GET", "a.test", "/open/../v1", "bad_target"},
		{"GET", "a.test", "//v1", "bad_target"},
		{"GET", "a.test", "/v1/%zz", "bad_target"},
		{"GET", "a.test", "/v1/a b", "bad_target"},
		{"GET", "a.test", "/v1/x#y", "bad_target"},
		{"GET", "b.test", "/api/acme/things", "ok acme things:list"},
		{"GET", "b.test", "/api/acme/others", "ok acme "},
		{"GET", "x.wild.test", "/api/acme/things", "ok acme things:list"},
		{"DELETE", "b.test", "/home/x", "ok  write"},
		{"GET", "b.test", "/elsewhere", "path"},
		{"GET", "nowhere.test", "/v1/x", "path"},
		{"GET", "c.test", "/x", "ok sea read, ok c read"},
		{"GET", "c.test", "/twice", "public, ok c read"},
		{"GET", "c.test", "/free", "path"},
		{"GET", "c.test", "/mine", "path"},
		{"GET 10.1.1.1", "c.test", "/x", "ok inside read, ok sea read, ok c read"},
		{"GET 192.0.2.1", "c.test", "/x", "ok sea read, ok c read"},
		{"GET", "d.test", "/x", "host"},
		{"", "a.test", "/x", "method"},
		{"G T", "a.test", "/x", "method"},
		{"GET", "a b", "/x", "host"},
		{"GET", "a.test:99999", "/x", "host"},
		{"GET", "a.test", "x", "path"},
		// Without a host.
		{"GET", "", "/api/acme/things", "host"},
		{"GET", "", "/v1/%", "bad_target"},
	} {
		method, client, _ := strings.Cut(test.method, " ")
		address, err := netip.ParseAddr(client)
		if client != "" && err != nil {
			method = test.method
		}
		got := ruled(app.rule(admin.Request{Method: method, Host: test.host, Target: test.target,
			Client: address, Token: token}))
		if got != test.want {
			t.Errorf("%s %s%s: %s, want %s", test.method, test.host, test.target, got, test.want)
		}
	}
	for _, test := range []struct{ host, token, want string }{
		{"a.test", "theirs", "foreign"},
		{"a.test", "not one, but a text", "malformed"},
		{"a.test", "ak_x", "ok acme orders:read"},
		{"a.test", derived, "ok acme orders:read"},
		// A later handler uses the key that an earlier one has accepted.
		{"e.test", "theirs", "ok default read, ok default read, ok default read"},
		{"e.test", derived, "ok default read, ok default read, ok default read"},
		{"f.test", token, "ok default read"},
		{"f.test", derived, "malformed"},
	} {
		got := ruled(app.rule(admin.Request{Method: "GET", Host: test.host, Target: "/v1/acme/x",
			Token: test.token}))
		if got != test.want {
			t.Errorf("%s, %.5s…: %s, want %s", test.host, test.token, got, test.want)
		}
	}
}

// TestRuleFollowsRoutes checks which of several handlers a request reaches.
func TestRuleFollowsRoutes(t *testing.T) {
	g := newInstance(t)
	g.loadCaddyfile(ruleOptions + `http://groups.test {
	import common
	handle /one/* {
		api_key {
			namespace one
		}
	}
	handle {
		api_key {
			namespace two
		}
	}
}
http://ends.test {
	import common
	route /refused {
		api_key {
			methods none GET
		}
		api_key
	}
	route /answered {
		route {
			respond ok
		}
		api_key
	}
	route /failed {
		error 404
		api_key
	}
	route /passed {
		header X-Y z
		api_key {
			namespace one
		}
		api_key {
			namespace two
		}
	}
	route /forwarded/* {
		api_key {
			namespace one
			forwarded
		}
		api_key
	}
	route /invoked {
		invoke passes
		api_key {
			namespace two
		}
	}
	route /empty* {
		api_key {
			namespace {http.request.header.X-Tenant}
			public /empty-public
		}
		api_key
	}
}
http:// {
	import common
	api_key {
		namespace rest
	}
}
&(passes) {
	api_key {
		namespace one
	}
}
`)
	for _, test := range []struct{ host, target, want string }{
		{"groups.test", "/one/x", "ok one read"},
		{"groups.test", "/x", "ok two read"},
		{"ends.test", "/refused", "method"},
		{"ends.test", "/answered", "path"},
		{"ends.test", "/failed", "path"},
		{"ends.test", "/passed", "ok one read, ok two read"},
		{"ends.test", "/forwarded/x", "ok one read"},
		{"ends.test", "/forwarded//x", "bad_target"},
		{"ends.test", "/invoked", "ok one read, ok two read"},
		{"ends.test", "/empty", "path"},
		{"ends.test", "/empty-public", "public, ok default read"},
		{"other.test", "/x", "ok rest read"},
	} {
		got := ruled(runningApp().rule(admin.Request{Method: "GET", Host: test.host,
			Target: test.target}))
		if got != test.want {
			t.Errorf("%s%s: %s, want %s", test.host, test.target, got, test.want)
		}
	}
}

func TestListeningOn(t *testing.T) {
	servers := []*caddyhttp.Server{
		{Listen: []string{":80"}}, {Listen: []string{"unix//run/site", "127.0.0.1:8000-8002"}},
		{Listen: []string{"tcp/[::1]:8002", ":80"}}, {Listen: []string{"a:b"}},
	}
	for port, want := range map[uint16][]int{
		0: nil, 80: {0, 2}, 7999: nil, 8000: {1}, 8001: {1}, 8002: {1, 2}, 8003: nil,
	} {
		var got []int
		for _, server := range listeningOn(servers, port) {
			got = append(got, slices.Index(servers, server))
		}
		if !slices.Equal(got, want) {
			t.Errorf("port %d: servers %v, want %v", port, got, want)
		}
	}
}

func TestHostsOf(t *testing.T) {
	hosts := func(names ...string) caddyhttp.MatcherSets {
		return caddyhttp.MatcherSets{{&caddyhttp.MatchPath{"/x"}, (*caddyhttp.MatchHost)(&names)}}
	}
	got := hostsOf(caddyhttp.RouteList{
		{MatcherSets: hosts("b.test", "*.a.test")},
		{Handlers: []caddyhttp.MiddlewareHandler{new(caddyhttp.VarsMiddleware), &caddyhttp.Subroute{
			Routes: caddyhttp.RouteList{{MatcherSets: hosts("b.test", "a.test")}}}}},
	})
	if want := []string{"a.test", "any.a.test", "b.test"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// TestRuleOfSeveralSites checks that no host is required if all sites agree.
func TestRuleOfSeveralSites(t *testing.T) {
	g := newInstance(t)
	const site = "http://%s {\n\tbind unix/DIR/site\n\thandle %s {\n\t\tapi_key " +
		"{\n\t\t\tnamespace_path /v1/{namespace}/**\n\t\t\t%s\n\t\t}\n\t}\n}\n"
	g.loadCaddyfile("{\n\tapi_keys {\n\t\tdatabase sqlite DIR/keys.db\n\t}\n}\n" +
		fmt.Sprintf(site, "a.test", "/*", "") + fmt.Sprintf(site, "b.test", "/v1/*",
		"resource orders\n\t\t\tpublic /v1/open"))
	for target, want := range map[string]string{"/v1/acme/x": "host", "/x": "ok default read",
		"/v1/open": "host"} {
		if got := ruled(runningApp().rule(admin.Request{Method: "GET",
			Target: target})); got != want {
			t.Errorf("%s: %s, want %s", target, got, want)
		}
	}
	var many strings.Builder
	for i := range maxVerifyHosts + 1 {
		_, _ = fmt.Fprintf(&many, site, fmt.Sprintf("%d.test", i), "/*", "")
	}
	g.loadCaddyfile("{\n\tapi_keys {\n\t\tdatabase sqlite DIR/keys.db\n\t}\n}\n" + many.String())
	for host, want := range map[string]string{"": "host", "7.test": "ok acme read"} {
		if got := ruled(runningApp().rule(admin.Request{Method: "GET", Host: host,
			Target: "/v1/acme/x"})); got != want {
			t.Errorf("%q: %s, want %s", host, got, want)
		}
	}
}

// ruled returns the rulings or the invalid field as text.
func ruled(rulings []admin.Ruling, err error) string {
	var wrong *keystore.Error
	if errors.As(err, &wrong) {
		return wrong.Fields[0].Field
	}
	var all []string
	for _, r := range rulings {
		text := r.Outcome.String()
		if r.Outcome == keystore.OK {
			text += " " + r.Namespace + " " + r.Need.String()
		}
		all = append(all, text)
	}
	return strings.Join(all, ", ")
}
