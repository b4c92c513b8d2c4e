package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	maphandler "github.com/caddyserver/caddy/v2/modules/caddyhttp/map"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/rewrite"
	"golang.org/x/net/http/httpguts"

	"github.com/caddy-apikeys/caddy-apikeys/admin"
	"github.com/caddy-apikeys/caddy-apikeys/caddymodule/redact"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// maxVerifyHosts is the maximum number of hosts that rule tries if the question names none.
const maxVerifyHosts = 100

// rule is an [admin.Rule]. It returns the decisions of this configuration's handlers on a request,
// as far as they do not need the key store. If the question names no host, all hosts must agree.
func (a *App) rule(q admin.Request) ([]admin.Ruling, error) {
	if !strings.HasPrefix(q.Target, "/") {
		return nil, verifyError("path", "must begin with /")
	}
	if !httpguts.ValidHeaderFieldName(q.Method) { // both are tokens (RFC 9110 §5.6.2)
		return nil, verifyError("method", "must be a method such as GET")
	}
	name, port, err := splitHost(q.Host)
	if err != nil {
		return nil, verifyError("host",
			"must be a host such as api.example.com or api.example.com:8443")
	}
	target, err := url.ParseRequestURI(q.Target)
	if err != nil || strings.Contains(q.Target, " ") {
		//nolint:nilerr // the answer: net/http refuses such a target
		return []admin.Ruling{{Outcome: keystore.BadTarget}}, nil
	}
	var agreed []admin.Ruling
	var agreedHost string
	servers := a.servers
	if listening := listeningOn(servers, port); len(listening) > 0 {
		servers = listening // else another program forwards this port to any of the servers
	}
	for _, server := range servers {
		hosts := []string{name}
		if name == "" {
			hosts = append(hosts, hostsOf(server.Routes)...)
		}
		if len(hosts) > maxVerifyHosts {
			return nil, verifyError("host",
				"is required, because the configuration has more than %d hosts", maxVerifyHosts)
		}
		for _, host := range hosts {
			t := tracer{app: a, server: server, question: &q, groups: make(map[string]bool)}
			t.follow(server.Routes, t.request(host, target))
			switch {
			case t.err != nil:
				return nil, t.err
			case len(t.rulings) == 0:
			case agreed == nil:
				agreed, agreedHost = t.rulings, describeHost(host, server)
			case !slices.Equal(agreed, t.rulings):
				return nil,
					verifyError("host",
						"is required, because the api_key handlers of %s and %s decide differently",
						agreedHost, describeHost(host, server))
			}
		}
	}
	if agreed == nil {
		return nil, verifyError("path",
			"reaches no api_key handler: such a request needs no key, or no site has this host")
	}
	return agreed, nil
}

func verifyError(field, format string, args ...any) error {
	return &keystore.Error{Kind: keystore.KindInvalid, Code: "invalid_fields",
		Detail: "some fields are not valid",
		Fields: []keystore.FieldError{{Field: field, Detail: fmt.Sprintf(format, args...)}}}
}

// splitHost splits a host into name and port. The port is 0 if there is none.
func splitHost(host string) (name string, port uint16, err error) {
	if !httpguts.ValidHostHeader(host) {
		return "", 0, errors.New("invalid host")
	}
	name, digits, err := net.SplitHostPort(host)
	if err != nil {
		return host, 0, nil //nolint:nilerr // the error means that there is no port
	}
	n, err := strconv.ParseUint(digits, 10, 16)
	return name, uint16(n), err
}

// listeningOn returns the servers that listen on a port.
func listeningOn(servers []*caddyhttp.Server, port uint16) (found []*caddyhttp.Server) {
	for _, server := range servers {
		if slices.ContainsFunc(server.Listen, func(text string) bool {
			address, err := caddy.ParseNetworkAddress(text)
			return err == nil && !address.IsUnixNetwork() && address.StartPort <= uint(port) &&
				uint(port) <= address.EndPort
		}) {
			found = append(found, server)
		}
	}
	return found
}

func describeHost(host string, server *caddyhttp.Server) string {
	if host == "" {
		host = "any host"
	}
	return redact.Argument(host + " on " + strings.Join(server.Listen, " "))
}

// hostsOf returns the hosts in the matchers of routes, with an example for each wildcard.
func hostsOf(routes caddyhttp.RouteList) (hosts []string) {
	for _, route := range routes {
		for _, set := range route.MatcherSets {
			for _, matcher := range set {
				if m, ok := matcher.(*caddyhttp.MatchHost); ok {
					for _, host := range *m {
						hosts = append(hosts, strings.ReplaceAll(host, "*", "any"))
					}
				}
			}
		}
		for _, handler := range route.Handlers {
			if s, ok := handler.(*caddyhttp.Subroute); ok {
				hosts = append(hosts, hostsOf(s.Routes)...)
			}
		}
	}
	slices.Sort(hosts)
	return slices.Compact(hosts)
}

// A tracer follows a request through the routes of a server without answering it. It runs the
// matchers and those handlers that only change the request: rewrites, variables and maps.
type tracer struct {
	app      *App
	server   *caddyhttp.Server
	question *admin.Request
	groups   map[string]bool // route groups with a match: their other routes are skipped
	rulings  []admin.Ruling
	err      error
}

// request returns the request in question as Caddy passes it to the server's routes.
func (t *tracer) request(host string, target *url.URL) *http.Request {
	copied := *target // because rewrites change it
	r := &http.Request{
		Method: t.question.Method, RequestURI: t.question.Target, Host: host, URL: &copied,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: make(http.Header),
		Body: http.NoBody,
	}
	client := t.question.Client
	if !client.IsValid() {
		client = netip.IPv4Unspecified() // if the address is missing, Caddy logs an error
	}
	r.RemoteAddr = netip.AddrPortFrom(client, 1).String()
	// Caddy's placeholders require a local address.
	r = r.WithContext(context.WithValue(context.Background(), http.LocalAddrContextKey,
		new(net.TCPAddr)))
	return caddyhttp.PrepareRequest(r, caddy.NewReplacer(), nil, t.server)
}

// follow runs routes. It reports whether the request passes all of them.
func (t *tracer) follow(routes caddyhttp.RouteList, r *http.Request) bool {
	for _, route := range routes {
		if t.groups[route.Group] {
			continue
		}
		matches, err := route.MatcherSets.AnyMatchWithError(r)
		if err != nil {
			return false
		}
		if !matches {
			continue
		}
		if route.Group != "" {
			t.groups[route.Group] = true
		}
		for _, handler := range route.Handlers {
			if !t.handle(handler, r) {
				return false
			}
		}
		if route.Terminal {
			return false
		}
	}
	return true
}

// handle runs a handler. It reports whether the request passes it.
func (t *tracer) handle(handler caddyhttp.MiddlewareHandler, r *http.Request) bool {
	switch h := handler.(type) {
	case *Handler:
		ruling := t.ruling(h, r)
		t.rulings = append(t.rulings, ruling)
		return t.err == nil && !ruling.Outcome.Refuses() && h.Forwarded == ""
	case *caddyhttp.Subroute:
		return t.follow(h.Routes, r)
	case *caddyhttp.Invoke:
		if route := t.server.NamedRoutes[h.Name]; route != nil {
			return t.follow(caddyhttp.RouteList{*route}, r)
		}
	case *rewrite.Rewrite, *caddyhttp.VarsMiddleware, *maphandler.Handler:
		return handler.ServeHTTP(nil, r, nextNoop) == nil
	}
	return !answers(handler)
}

// nextNoop is the next handler for handlers that only change the request.
var nextNoop = caddyhttp.HandlerFunc(func(http.ResponseWriter, *http.Request) error { return nil })

// hasKey reports whether an earlier handler accepts the key. Then later ones use it without a look
// at its token.
func (t *tracer) hasKey() bool {
	return slices.ContainsFunc(t.rulings,
		func(r admin.Ruling) bool { return r.Outcome == keystore.OK })
}

// ruling returns the decision of one handler.
func (t *tracer) ruling(h *Handler, r *http.Request) admin.Ruling {
	c := call{r: r, request: h.request(r), method: r.Method, keys: t.app.Keystore()}
	canonical := false
	if h.Forwarded != "" {
		canonical = h.readForwarded(&c, t.question.Target)
	} else {
		c.path, c.query = r.URL.EscapedPath(), r.URL.RawQuery
		canonical = canonicalTarget(r, originalOf(r), c.path, h.rules.encodedSlash)
	}
	if !canonical {
		return admin.Ruling{Outcome: keystore.BadTarget}
	}
	outcome := h.checkRequest(&c)
	if outcome == keystore.OK && h.rules.placeholder && c.namespaceID == "" {
		t.err = verifyError("path",
			"is not sufficient: api_key takes the namespace from %s, which is empty here; use "+
				"namespace and permission instead",
			redact.Argument(h.Namespace))
	}
	if outcome == keystore.OK && c.keys != nil && !t.hasKey() {
		c.credential = credential{token: keystore.TrimSecretToken(t.question.Token),
			source: h.rules.sources.widest()}
		outcome = h.checkToken(&c)
	}
	return admin.Ruling{Outcome: outcome, Namespace: c.namespaceID, Need: c.need}
}
