package caddymodule

import (
	"cmp"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-apikeys/caddy-apikeys/admin"
	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

const adminSiteDirective = "api_keys_admin"

func init() {
	caddy.RegisterModule(AdminSite{})
	httpcaddyfile.RegisterHandlerDirective(adminSiteDirective, parseAdminSite)
	httpcaddyfile.RegisterDirectiveOrder(adminSiteDirective, httpcaddyfile.Before, "respond")
}

// AdminSite serves the management of API keys on a site, under `/apikeys/v1/`; requests for other paths go on. Whoever asks
// needs a key that holds permissions on `admin…` resources, as `Authorization: Bearer` or `X-API-Key`, and may do what
// these allow. Any live key may read `/apikeys/v1/self`; `openapi.json`, `docs` and `health` need none.
//
// Where the same site has `api_key`, add `public /apikeys/*` to it, or it takes the key out of the request.
type AdminSite struct {
	gate Handler // judges what is judged alike
}

// CaddyModule returns the Caddy module information.
func (AdminSite) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers." + adminSiteDirective,
		New: func() caddy.Module { return new(AdminSite) },
	}
}

// Provision sets up the handler.
func (s *AdminSite) Provision(ctx caddy.Context) error {
	s.gate.Namespace = keystore.HomeNamespace
	return s.gate.Provision(ctx)
}

// ServeHTTP answers requests under /apikeys/v1/.
func (s *AdminSite) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	if !strings.HasPrefix(r.URL.Path, api.Prefix+"/") {
		return next.ServeHTTP(w, r)
	}
	c := call{
		now: time.Now(), w: w, r: r, // now is after the request arrived: see Keystore.Lookup
		request: s.gate.request(r), method: r.Method, path: r.URL.EscapedPath(), query: r.URL.RawQuery,
	}
	outcome := keystore.BadTarget
	if canonicalTarget(r, false) {
		outcome = s.judge(&c)
	}
	s.gate.conclude(&c, outcome)
	if outcome.Refuses() {
		return s.gate.refuse(&c)
	}
	if c.running != nil {
		defer c.running.leave(c.keys)
		w, r = c.running.follow(w, r)
	}
	var caller keystore.Caller
	if outcome == keystore.OK {
		caller = keystore.KeyCaller(c.record, cmp.Or(c.request.clientIP, peerAddress(r)))
	}
	s.gate.app.store.Load().manage(w, r, caller)
	return nil
}

// judge is [Handler.judge] for this door: what a key needs here, the API knows.
func (s *AdminSite) judge(c *call) keystore.Outcome {
	class, mapped := s.gate.rules.methods[c.method]
	if !mapped {
		return keystore.Method
	}
	open := admin.Open(c.path)
	if !open {
		c.need = keystore.Need{Class: class, Resource: "admin"}
		var outcome keystore.Outcome
		if c.credential, outcome = s.gate.rules.sources.find(c.r.Header, c.query); outcome != keystore.OK {
			return outcome
		}
	}
	var err error
	if c.keys, err = s.gate.app.Await(c.r.Context()); err != nil {
		return keystore.Unavailable
	}
	switch {
	case open:
		return keystore.Public
	case c.credential.broken:
		return keystore.Malformed
	}
	return s.lookUp(c)
}

func (s *AdminSite) lookUp(c *call) keystore.Outcome {
	for {
		answer, err := c.keys.Lookup(c.r.Context(), c.credential.token, c.now)
		switch {
		case err != nil:
			return keystore.Unavailable
		case answer.Record == nil:
			return answer.Outcome
		}
		switch outcome := s.gate.decide(c, answer.Record); {
		case outcome != keystore.OK && outcome != keystore.Forbidden:
			return outcome
		case !manages(answer.Record) && !readsItself(c):
			return keystore.Forbidden
		case changesItself(c):
			return keystore.OK // what it does would cut it before it is answered
		}
		running := follow(c.w, c.r)
		if c.keys.Enter(answer, &running.Running) {
			c.running = running
			return keystore.OK
		}
		running.release()
		c.now = time.Now()
	}
}

// manages reports whether a key holds any permission on the product's own resources.
func manages(r *keystore.Record) bool {
	return slices.ContainsFunc(r.Grants, func(g keystore.NamespaceSet) bool {
		return slices.ContainsFunc(g.Set.Permissions(), keystore.Permission.IsAdmin)
	})
}

const selfPath = api.Prefix + "/self"

// readsItself reports whether a call is what any live key may do.
func readsItself(c *call) bool { return c.need.Class == keystore.Read && c.path == selfPath }

// changesItself reports whether a call is about the key that it is made with.
func changesItself(c *call) bool {
	if c.need.Class == keystore.Read {
		return false
	}
	own := api.Prefix + "/keys/" + c.record.KeyID
	return strings.HasPrefix(c.path, selfPath+"/") || c.path == own || strings.HasPrefix(c.path, own+"/")
}

func parseAdminSite(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	site := new(AdminSite)
	return site, site.UnmarshalCaddyfile(h.Dispenser)
}

// UnmarshalCaddyfile sets up the handler from Caddyfile tokens. Syntax:
//
//	api_keys_admin [<matcher>]
func (*AdminSite) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // api_keys_admin
	if d.NextArg() {
		return d.Errf("%s takes no arguments, this one has %q", adminSiteDirective, d.Val())
	}
	if d.NextBlock(0) {
		return d.Errf("unknown word %q in %s: it knows none yet", d.Val(), adminSiteDirective)
	}
	return nil
}

var (
	_ caddy.Provisioner           = (*AdminSite)(nil)
	_ caddyhttp.MiddlewareHandler = (*AdminSite)(nil)
	_ caddyfile.Unmarshaler       = (*AdminSite)(nil)
)
