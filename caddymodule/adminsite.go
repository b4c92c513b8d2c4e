package caddymodule

import (
	"cmp"
	"net/http"
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

// AdminSite serves the management of API keys on a site: it answers everything under `/apikeys/`, and requests for other paths
// go on. Whoever asks needs a key, as `Authorization: Bearer` or `X-API-Key`, and may do what its permissions on `admin…`
// resources allow. Any live key may read `/apikeys/v1/self`; `openapi.json`, `docs` and `health` need none.
//
// Where the same site has `api_key`, add `public /apikeys/*` to it, or it takes the key out of the request.
type AdminSite struct {
	gate Handler // judges what is judged alike
}

// sitePath is what a site gives to the management of keys.
const sitePath = "/apikeys"

// CaddyModule returns the Caddy module information.
func (AdminSite) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers." + adminSiteDirective,
		New: func() caddy.Module { return new(AdminSite) },
	}
}

// Provision sets up the handler.
func (s *AdminSite) Provision(ctx caddy.Context) error {
	s.gate.forAdmin, s.gate.Namespace = true, keystore.HomeNamespace
	return s.gate.Provision(ctx)
}

// ServeHTTP answers requests under /apikeys/, the ones for nothing too: `public /apikeys/*` has left the key in them.
func (s *AdminSite) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	if r.URL.Path != sitePath && !strings.HasPrefix(r.URL.Path, sitePath+"/") {
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
	s.gate.app.manage(w, r, caller)
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
		c.need.Class = class
		var outcome keystore.Outcome
		if c.credential, outcome = s.gate.rules.sources.find(c.r.Header, c.query); outcome != keystore.OK {
			return outcome
		}
	}
	var err error
	c.keys, err = s.gate.app.Await(c.r.Context())
	switch {
	case open && s.gate.app.hasStarted():
		return keystore.Public
	case err != nil:
		return keystore.Unavailable
	case c.credential.broken:
		return keystore.Malformed
	}
	return s.gate.lookUp(c)
}

// changesItself reports whether a call is about the key that it is made with.
func changesItself(c *call) bool {
	if c.need.Class == keystore.Read {
		return false
	}
	own := api.Prefix + "/keys/" + c.record.KeyID
	return strings.HasPrefix(c.path, api.Prefix+"/self/") || c.path == own || strings.HasPrefix(c.path, own+"/")
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
