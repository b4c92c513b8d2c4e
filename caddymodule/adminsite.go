package caddymodule

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/caddy-apikeys/caddy-apikeys/admin"
	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/admin/console"
	"github.com/caddy-apikeys/caddy-apikeys/caddymodule/redact"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
)

const adminSiteDirective = "api_keys_admin"

func init() {
	caddy.RegisterModule(AdminSite{})
	httpcaddyfile.RegisterDirective(adminSiteDirective, parseAdminSite)
	httpcaddyfile.RegisterDirectiveOrder(adminSiteDirective, httpcaddyfile.Before, "respond")
}

// AdminSite serves the management of API keys on a site. It answers all requests under `/apikeys/`
// and passes on the others. `/apikeys/` is a web console in which members sign in with their token.
// `/apikeys/v1/` is the REST API. REST requests authenticate with the token of a member or key in
// `Authorization: Bearer` or `X-API-Key`, and require permissions on `admin…` resources. Any valid
// key may read `/apikeys/v1/self` and its own usage, and revoke itself. A derived token may only
// read `/apikeys/v1/self`. `openapi.json`, `docs`, `health` and `leaks` require no token.
//
// If the same site has `api_key`, add `public /apikeys/*` to it. Otherwise it refuses member tokens
// and removes keys from the request. Caddy logs a warning at the start if that line is missing.
type AdminSite struct {
	// A placeholder for the user that an earlier handler has authenticated, such as
	// `{http.auth.user.id}` after `basic_auth`. A request without a token comes from the member
	// with this login. Never use a placeholder that clients can set themselves. Default is none:
	// requests need a token.
	TrustUser string `json:"trust_user,omitempty"`

	// A placeholder for the groups of that user, such as `{http.auth.user.groups}`: a JSON array of
	// strings, or a list with commas or spaces. A user who is not a member acts for the groups that
	// are members of kind `group` with this login. It requires `trust_user`. Never use a
	// placeholder that clients can set themselves. Default is none.
	TrustGroups string `json:"trust_groups,omitempty"`

	// The realm in the `WWW-Authenticate` header of a 401: ASCII without quotes and backslashes.
	// Default is `api`.
	Realm string `json:"realm,omitempty"`

	auth   Handler           // finds and verifies the credential
	user   string            // TrustUser without the braces
	groups string            // TrustGroups without the braces
	server *caddyhttp.Server // nil if no server runs the handler
}

// sitePath is the path under which the console and the REST API are served.
const sitePath = "/apikeys"

// CaddyModule returns the Caddy module information.
func (AdminSite) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.api_keys_admin",
		New: func() caddy.Module { return new(AdminSite) },
	}
}

// Provision sets up the handler.
func (s *AdminSite) Provision(ctx caddy.Context) error {
	if err := s.compile(); err != nil {
		return err
	}
	if err := s.checkGroups(); err != nil {
		return err
	}
	if err := checkRoutes(ctx); err != nil {
		return err
	}
	s.auth.forAdmin, s.auth.Namespace, s.auth.Realm = true, keystore.HomeNamespace, s.Realm
	redact.Declare(redact.Source{Kind: redact.Cookie, Name: console.SecureCookie},
		redact.Source{Kind: redact.Cookie, Name: console.PlainCookie})
	if err := s.auth.Provision(ctx); err != nil {
		return err
	}
	s.server, _ = ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	s.auth.app.sites = append(s.auth.app.sites, s)
	return nil
}

// warnIfUnreachable logs a warning if an api_key of the same site refuses requests for s. All
// handlers must be provisioned.
func (s *AdminSite) warnIfUnreachable() {
	if s.server == nil {
		return
	}
	if found, refuses := s.refusedIn(s.server.Routes, false); found && refuses {
		s.auth.logger.Warn("api_key on the same site refuses requests for "+adminSiteDirective+
			": "+publicAdvice, zap.String("at", s.auth.app.lines[refusedCheck]))
	}
}

const publicAdvice = "add `public /apikeys/*` to api_key; " + adminSiteDirective +
	" requires a token itself"

// refusedIn looks for s in routes. It reports whether an api_key refuses requests before they reach
// s or, if s is not found, before they leave the routes. The parameter refuses says whether an
// api_key before the routes refuses them. An api_key in a route with matchers counts only if s is
// in that route too.
func (s *AdminSite) refusedIn(routes caddyhttp.RouteList, refuses bool) (found, refused bool) {
	for _, route := range routes {
		within := refuses
		for _, handler := range route.Handlers {
			switch h := handler.(type) {
			case *Handler:
				within = within || !h.rules.isPublic(sitePath+"/") ||
					!h.rules.isPublic(api.Prefix+"/keys")
			case *AdminSite:
				if h == s {
					return true, within
				}
			case *caddyhttp.Subroute:
				if found, within = s.refusedIn(h.Routes, within); found {
					return true, within
				}
			}
		}
		if len(route.MatcherSets) == 0 && route.Group == "" {
			refuses = within
		}
	}
	return false, refuses
}

// isAdminPath reports whether a path is under /apikeys/, where an AdminSite answers.
func isAdminPath(path string) bool {
	return path == sitePath || strings.HasPrefix(path, sitePath+"/")
}

// ServeHTTP answers all requests under /apikeys/, unknown paths with 404: they may contain a token,
// which no other handler should receive.
func (s *AdminSite) ServeHTTP(
	w http.ResponseWriter, r *http.Request, next caddyhttp.Handler,
) error {
	if !isAdminPath(r.URL.Path) {
		return next.ServeHTTP(w, r)
	}
	c := call{
		now: time.Now(), w: w, r: r, // read after the request arrived: see node.Node.Lookup
		request: s.auth.request(r), received: originalOf(r), method: r.Method,
		path: r.URL.EscapedPath(), query: r.URL.RawQuery,
	}
	outcome := keystore.BadTarget
	var caller manage.Caller
	if canonicalTarget(r, c.received, c.path, false) {
		if isConsolePath(r.URL.Path) {
			return s.serveConsole(&c)
		}
		caller, outcome = s.authorize(&c)
	}
	s.auth.conclude(&c, outcome)
	switch {
	case outcome == keystore.Forbidden:
		return refusal{outcome: outcome, detail: noMember}.write(w, r)
	case outcome.Refuses():
		return s.auth.refuse(&c)
	}
	if c.running != nil {
		defer c.running.leave(c.keys)
		w, r = c.running.wrap(w, r)
	}
	s.auth.app.manage(w, r, caller)
	return nil
}

const noMember = "No member is signed in: " + adminSiteDirective +
	" trusts users that this site has authenticated. This request has no such user, or the user " +
	"is not an active member and cannot act for a group."

// authorize is [Handler.authorize] for the REST API. It also returns the caller, whose permissions
// the API checks itself.
func (s *AdminSite) authorize(c *call) (caller manage.Caller, outcome keystore.Outcome) {
	class, mapped := s.auth.rules.methods[c.method]
	if !mapped {
		return caller, keystore.Method
	}
	open := admin.Open(c.path)
	var user string
	if !open {
		c.need.Class = class
		user = s.trustedUser(c)
		c.credential, outcome = s.auth.rules.sources.find(c.r.Header, c.query)
		switch {
		case outcome == keystore.Missing && s.user != "":
		case outcome != keystore.OK:
			return caller, outcome
		case user != "":
			return caller, keystore.Ambiguous
		}
	}
	var err error
	c.keys, err = s.auth.app.Await(c.r.Context())
	from := cmp.Or(c.request.clientIP(), peerAddress(c.r))
	switch {
	case open && s.auth.app.hasStarted():
		return manage.Anonymous(from), keystore.Public
	case err != nil:
		return caller, keystore.Unavailable
	case outcome == keystore.Missing:
		return s.callerForUser(c, user, from)
	case c.credential.broken:
		return caller, keystore.Malformed
	}
	if outcome = s.auth.lookUp(c); outcome != keystore.OK {
		return caller, outcome
	}
	if c.member() {
		return manage.MemberCaller(c.record, from), outcome
	}
	return manage.KeyCaller(c.record, from).Narrowed(c.answer.Narrowing), outcome
}

// readsSelf reports whether a call reads its caller's permissions, as any valid credential may.
func readsSelf(c *call) bool {
	return c.need.Class == keystore.Read && c.path == api.Prefix+"/self"
}

// trustedUser returns the user that earlier handlers have authenticated, or "". A user that an
// api_key has set does not count: the creator of a key chooses its name.
func (s *AdminSite) trustedUser(c *call) string {
	if s.user == "" || c.request.outcome == keystore.OK && c.request.record != nil {
		return ""
	}
	return caddy.ToString(c.placeholder(s.user))
}

// placeholder returns the value of a placeholder of a request, or nil.
func (c *call) placeholder(name string) any {
	repl, ok := c.r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	if !ok || name == "" {
		return nil
	}
	value, _ := repl.Get(name)
	return value
}

// member reports whether a call's credential is a member's token or a console session.
func (c *call) member() bool {
	return c.session != "" || keystore.HasTokenPrefix(c.credential.token, keystore.MemberPrefix)
}

// changesOwnCredential reports whether a call changes the key or member that it authenticates with.
func changesOwnCredential(c *call) bool {
	if c.need.Class == keystore.Read {
		return false
	}
	if c.session != "" {
		return true // a form of the console may change anything
	}
	own := api.Prefix + "/keys/" + c.record.KeyID
	if c.member() {
		own = api.Prefix + "/members/" + c.record.Owner
	}
	return strings.HasPrefix(c.path, api.Prefix+"/self/") || c.path == own ||
		strings.HasPrefix(c.path, own+"/")
}

func parseAdminSite(h httpcaddyfile.Helper) ([]httpcaddyfile.ConfigValue, error) {
	h.Next() // api_keys_admin
	matchers, err := h.ExtractMatcherSet()
	if err != nil {
		return nil, err
	}
	if raw, ok := matchers["path"]; ok {
		var paths []string
		if err := json.Unmarshal(raw, &paths); err != nil {
			return nil, h.WrapErr(err)
		}
		if !mayMatchSite(paths) {
			h.Next()
			return nil, h.Errf(servesOnlyUnder+"its matcher matches only %s: write `"+
				adminSiteDirective+"` without one", redact.Argument(strings.Join(paths, " ")))
		}
	}
	site := new(AdminSite)
	if err := site.UnmarshalCaddyfile(h.Dispenser); err != nil {
		return nil, err
	}
	return h.NewRoute(matchers, site), nil
}

// UnmarshalCaddyfile sets up the handler from Caddyfile tokens. Syntax:
//
//	api_keys_admin [<matcher>] {
//	    trust_user <placeholder>
//	    trust_groups <placeholder>
//	    realm <text>
//	}
func (s *AdminSite) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // api_keys_admin
	if d.NextArg() {
		return d.Errf("%s: unexpected argument %q: put options in a block",
			adminSiteDirective, redact.Argument(d.Val()))
	}
	for d.NextBlock(0) {
		option, args := d.Val(), d.RemainingArgs()
		field, known := map[string]*string{"trust_user": &s.TrustUser,
			"trust_groups": &s.TrustGroups, "realm": &s.Realm}[option]
		if !known {
			return d.Errf("unknown option %q in %s: must be trust_user, trust_groups or realm",
				redact.Argument(option), adminSiteDirective)
		}
		if d.NextBlock(1) {
			return d.Errf("%s accepts no block", option)
		}
		if err := setArg(d, option, field, args); err != nil {
			return err
		}
		if err := s.compile(); err != nil {
			return d.WrapErr(err)
		}
	}
	if err := s.checkGroups(); err != nil {
		return d.WrapErr(err)
	}
	return nil
}

// compile checks each option.
func (s *AdminSite) compile() error {
	if _, err := realmOr(s.Realm, defaultRealm); err != nil {
		return err
	}
	var err error
	if s.user, err = trusted("trust_user", s.TrustUser, "{http.auth.user.id}"); err != nil {
		return err
	}
	s.groups, err = trusted("trust_groups", s.TrustGroups, "{http.auth.user.groups}")
	return err
}

// checkGroups refuses groups without a user: the audit log names the person.
func (s *AdminSite) checkGroups() error {
	if s.TrustGroups != "" && s.TrustUser == "" {
		return errors.New(
			"trust_groups requires trust_user, which names the person in the audit log")
	}
	return nil
}

// trusted checks the placeholder of an option and returns it without the braces. example is a valid
// one.
func trusted(option, placeholder, example string) (string, error) {
	if placeholder == "" {
		return "", nil
	}
	name, opens := strings.CutPrefix(placeholder, "{")
	name, closes := strings.CutSuffix(name, "}")
	switch {
	case !opens || !closes || strings.ContainsAny(name, "{}") || !strings.HasPrefix(name, "http."):
		return "", fmt.Errorf("%s: %q must be a placeholder of the request, such as %s: otherwise "+
			"all requests come from the same member", option, redact.Argument(placeholder), example)
	case strings.HasPrefix(name, "http.api_key."):
		return "", fmt.Errorf("%s: %s describes a key, not an authenticated user: use %s", option,
			redact.Argument(placeholder), example)
	}
	return name, nil
}

var (
	_ caddy.Provisioner           = (*AdminSite)(nil)
	_ caddyhttp.MiddlewareHandler = (*AdminSite)(nil)
	_ caddyfile.Unmarshaler       = (*AdminSite)(nil)
)
