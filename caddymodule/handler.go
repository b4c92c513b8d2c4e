package caddymodule

import (
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/caddy-apikeys/caddy-apikeys/caddymodule/redact"
	"github.com/caddy-apikeys/caddy-apikeys/caddymodule/route"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/node"
)

func init() {
	caddy.RegisterModule(Handler{})
}

// Handler lets a request through only with an API key that is alive, is good for the namespace that
// the request touches, and allows what its method does. The upstream gets the key's identity in
// `X-Apikey-Id`, `-Name`, `-Namespace`, `-Owner` and `-Permissions`, and never the key itself;
// headers of these names that a client sends are dropped. The keys are those of the app `api_keys`.
//
// Everything that a matcher keeps away from this handler goes on as it came, spoofed headers
// included: use `public` for paths that need no key.
//
// Placeholders: `{http.auth.user.id}` and `{http.api_key.id}` (the key's id),
// `{http.api_key.name}`, `{http.api_key.namespace}`, `{http.api_key.owner}`,
// `{http.api_key.outcome}`.
//
// Path patterns, in all fields that take them, are split at `/`: `{anything}` or `*` is exactly one
// segment, a last `**` or `*` is the rest, also empty, and all else is literal. Case does not
// matter but in `public`, and in an `operation` that reads where its method writes. Among several
// that match, the one with most literal segments counts, then the first.
type Handler struct {
	// Where a request's key may be. A request with more than one is refused. Default is `bearer`,
	// then the header `X-API-Key`.
	From []CredentialSource `json:"from,omitempty"`

	// Path patterns with a segment `{namespace}`, which names the namespace that the request
	// touches. Default is none.
	NamespacePath []string `json:"namespace_path,omitempty"`

	// The namespace of requests that no `namespace_path` matches: an id, a placeholder, or `home`
	// for the key's own. Default is `default`.
	Namespace string `json:"namespace,omitempty"`

	// The resource that permissions such as `orders:read` are about. Default is none: then only
	// `read`, `write` and `*` count.
	Resource string `json:"resource,omitempty"`

	// What methods do: `read`, `write`, or `none` for those to refuse. It adds to, and goes before,
	// the default: GET, HEAD and OPTIONS read; POST, PUT, PATCH and DELETE write; all others are
	// refused. CONNECT and TRACE always are.
	Methods map[string]string `json:"methods,omitempty"`

	// Calls with a permission of their own. Default is none.
	Operation []route.Operation `json:"operation,omitempty"`

	// OpenAPI documents whose operations have permissions of their own. An `operation` for the same
	// calls goes before. Default is none.
	OpenAPI []route.OpenAPI `json:"openapi,omitempty"`

	// Headers that name another resource, such as `X-Amz-Copy-Source`. The path or URI in them is
	// judged like the request's own path. The `Destination` of MOVE and COPY, where `methods` maps
	// these, is always judged. Default is none.
	AlsoJudge []JudgedHeader `json:"also_judge,omitempty"`

	// Whether calls that are none of the operations are forbidden, whatever the key may do. Default
	// is false.
	Strict bool `json:"strict,omitempty"`

	// Calls whose answers list namespaces, to be filtered. Default is none.
	List []route.List `json:"list,omitempty"`

	// Path patterns that need no key, compared with regard to case. Default is none.
	Public []string `json:"public,omitempty"`

	// Whether a request without any key goes on, without identity. Default is false.
	Optional bool `json:"optional,omitempty"`

	// Whether, and for whom, CORS preflights are answered here, without a key. Not beside
	// `forwarded`. Default is not.
	Preflight *Preflight `json:"preflight,omitempty"`

	// Names of the key's metadata that the upstream gets as `X-Apikey-Meta-NAME`. Default is none.
	PassMetadata []string `json:"pass_metadata,omitempty"`

	// `pass` lets bearer credentials without a prefix of ours go on untouched, without identity:
	// access tokens of another issuer, which the upstream judges. Imported keys then come by
	// another source. Default is to refuse them.
	Foreign string `json:"foreign,omitempty"`

	// `allow` lets paths with an encoded slash (%2F) through. Default is to refuse them.
	EncodedSlash string `json:"encoded_slash,omitempty"`

	// Whether the key stays in the request. Default is false.
	PassCredential bool `json:"pass_credential,omitempty"`

	// `caddy` hands refusals to Caddy's error routes. Default is that problem documents (RFC 9457)
	// are written here.
	Errors string `json:"errors,omitempty"`

	// The realm that a 401 names in `WWW-Authenticate`: ASCII without quotes and backslashes.
	// Default is `api`.
	Realm string `json:"realm,omitempty"`

	// Decides for the request that X-Forwarded-Method and X-Forwarded-Uri of a trusted proxy tell
	// of, and answers that proxy: 204 with the identity in response headers, or the refusal.
	// `plain`, or `nginx` where only 401 and 403 may refuse: the others become 403, and
	// `X-Apikey-Code` tells them apart. Default is to decide for the request itself, and to go on.
	Forwarded string `json:"forwarded,omitempty"`

	app        *App
	expected   *expectedHeaders
	rules      *rules
	logger     *zap.Logger
	accessLogs bool
	forAdmin   bool // judges for api_keys_admin
}

// CaddyModule returns the Caddy module information.
func (Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.api_key",
		New: func() caddy.Module { return new(Handler) },
	}
}

// Provision sets up the handler. It runs under `caddy validate` too, so it touches neither network
// nor disk, but for the OpenAPI documents, which are a part of the config.
func (h *Handler) Provision(ctx caddy.Context) error {
	server, served := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if served {
		h.expected = expectedByServer(server)
	}
	var err error
	if h.rules, err = h.compile(); err != nil {
		return err
	}
	app, err := ctx.App(appName)
	if err != nil {
		return fmt.Errorf("loading the app %s: %w", appName, err)
	}
	h.app, h.logger = app.(*App), ctx.Logger()
	h.app.declare(h.rules.table.Declared, h.Resource)
	declared := h.rules.sources.declared()
	redact.Declare(declared...)
	redact.WarnOfReadableKeys(ctx, h.app, declared)
	if left := h.rules.table.LeftOut; len(left) > 0 {
		h.logger.Warn("operations of OpenAPI documents left out", zap.Int("operations", len(left)),
			zap.Bool("forbidden", h.Strict), zap.Strings("left_out", firstOf(left)))
	}
	for _, text := range h.almostPatterns() {
		h.logger.Warn("a path pattern has *, { or } in the middle of a segment, where they stand "+
			"for themselves: "+
			"only a whole segment, between two slashes, can be * or {name}",
			zap.String("pattern", text))
	}
	if served {
		h.accessLogs = server.Logs != nil
		server.RegisterConnContext(withConn)
		if !slices.Contains(h.app.servers, server) {
			h.app.servers = append(h.app.servers, server)
		}
	}
	return nil
}

// ServeHTTP decides on a request, and lets it go on or answers it.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	c := call{now: time.Now(), w: w, r: r} // now is after the request arrived: see Keystore.Lookup
	req := h.request(r)
	c.request, c.repeated = req, req.record != nil && req.outcome == keystore.OK
	if h.Forwarded != "" {
		return h.serveForwarded(&c)
	}
	c.method, c.path, c.query = r.Method, r.URL.EscapedPath(), r.URL.RawQuery
	outcome := keystore.BadTarget
	if canonicalTarget(r, c.path, h.rules.encodedSlash) {
		outcome = h.judge(&c)
	}
	h.conclude(&c, outcome)
	switch {
	case outcome.Refuses():
		return h.refuse(&c)
	case outcome == keystore.Preflight:
		h.Preflight.answer(w, r, h.rules.allow)
		return nil
	case outcome != keystore.OK:
		if !c.repeated {
			var hidden []credential
			if outcome == keystore.Public && isAdminPath(r.URL.Path) {
				hidden = h.keepForAdmin(&c)
			}
			cleanHeaders(r, req.trusted, hidden)
		}
		// sees nothing; who is let through as public or foreign is the API's to judge
		if outcome == keystore.Anonymous {
			return h.serveNext(&c, w, r, next)
		}
		return next.ServeHTTP(w, r)
	}
	defer c.running.leave(c.keys)
	h.clean(&c)
	req.identify(r.Header, h.rules.metadata)
	w, r = c.running.follow(w, r)
	err := h.serveNext(&c, w, r, next)
	c.running.finish()
	return err
}

// clean takes the credential out of a request that goes on, and what only we may set.
func (h *Handler) clean(c *call) {
	var hidden []credential
	if !h.PassCredential && c.credential.source != nil {
		hidden = []credential{c.credential}
		c.credential.source.remove(c.r)
		redactQuery(c.r, hidden)
	}
	cleanHeaders(c.r, c.request.trusted, hidden)
}

// A call is one request as one handler judges it.
type call struct {
	w   http.ResponseWriter
	r   *http.Request
	now time.Time
	// the same on the database's clock, in Unix nanoseconds, once a record is found
	at      int64
	request *request // what all handlers know of it
	// repeated says that an earlier handler has let the request through for a key: this one uses
	// the same. The earlier one may have returned, as in handle_errors, so this one watches over
	// the request too.
	repeated bool
	// unwatched says that a revoke is not to cut the request.
	unwatched bool

	method string
	path   string // canonical, escaped
	query  string

	need       keystore.Need
	wanted     string              // the id of the namespace
	targets    []secondTarget      // resources that headers name, except public ones
	blamed     *secondTarget       // the target that was refused; nil: the request itself
	policy     *keystore.Directory // as it was when the call was decided on
	namespace  *keystore.Namespace
	record     *keystore.Record // once found
	keys       *manage.Keystore // once needed
	credential credential       // once found
	session    string           // of the console, in place of a credential
	running    *runningRequest  // once entered
	status     int              // of a refusal; zero: the outcome's
}

// judge decides on a call whose path is canonical: the first thing that is wrong with it, or how it
// goes on.
func (h *Handler) judge(c *call) keystore.Outcome {
	if outcome := h.rule(c); outcome != keystore.OK {
		return outcome
	}
	if c.repeated {
		c.keys = h.app.Keystore()
		return h.lookUp(c)
	}
	var outcome keystore.Outcome
	c.credential, outcome = h.rules.sources.find(c.r.Header, c.query)
	switch {
	case outcome == keystore.Missing && h.Optional:
		return c.unlessUndeclared(keystore.Anonymous)
	case outcome != keystore.OK:
		return outcome
	}
	var err error
	if c.keys, err = h.app.Await(c.r.Context()); err != nil {
		return keystore.Unavailable
	}
	if outcome = h.ruleToken(c); outcome != keystore.OK {
		return outcome
	}
	return h.lookUp(c)
}

// rule decides on a call whose path is canonical before the credential is known. The outcome is OK
// if it depends on the credential: then rule has found the namespace and the need.
func (h *Handler) rule(c *call) keystore.Outcome {
	class, mapped := h.rules.methods[c.method]
	if !mapped {
		return keystore.Method
	}
	if !h.rules.findTargets(c) {
		return keystore.BadTarget
	}
	c.wanted = h.rules.namespaceOf(c, c.path)
	switch {
	case len(c.targets) == 0 && h.rules.isPublic(c.path):
		return keystore.Public
	case h.Preflight != nil && isPreflight(c.method, c.r.Header):
		return keystore.Preflight
	}
	c.need = h.rules.table.Need(c.method, c.path, c.query, class)
	return keystore.OK
}

// ruleToken decides on a call by the form of its credential. The outcome is OK if the key store has
// to be asked.
func (h *Handler) ruleToken(c *call) keystore.Outcome {
	switch {
	case c.credential.broken:
		return keystore.Malformed
	case h.Foreign != "" && c.credential.source.bearer && c.keys.Foreign(c.credential.token):
		if !isB64Token(c.credential.token) {
			return keystore.Malformed // what is not a bearer token may hide one of ours
		}
		return c.unlessUndeclared(keystore.Foreign)
	}
	return keystore.OK
}

// unlessUndeclared is the outcome of a call that goes on without a key. What no key may do, no one
// may without.
func (c *call) unlessUndeclared(outcome keystore.Outcome) keystore.Outcome {
	if c.need.Undeclared {
		return keystore.Forbidden
	}
	for i := range c.targets {
		if t := &c.targets[i]; t.elsewhere || t.need.Undeclared {
			c.blame(t)
			return keystore.Forbidden
		}
	}
	return outcome
}

// lookUp asks what the credential opens, decides on that, and enters the call among those that a
// revoke cuts.
func (h *Handler) lookUp(c *call) keystore.Outcome {
	for range maxLookUps {
		answer, err := h.ask(c)
		switch {
		case err != nil:
			return keystore.Unavailable
		case answer.Record == nil:
			return answer.Outcome
		}
		c.at = answer.Now
		if outcome := h.decide(c, answer.Record); outcome != keystore.OK || c.unwatched {
			return outcome
		}
		running := follow(c.w, c.r)
		if c.keys.Enter(answer, &running.Running) {
			c.running = running
			return keystore.OK
		}
		running.release()
		c.now = time.Now()
	}
	return keystore.Unavailable
}

// maxLookUps bounds how often changes of other keys may make one request begin again.
const maxLookUps = 100

func (h *Handler) ask(c *call) (node.Answer, error) {
	if c.repeated {
		return c.keys.LookupAgain(c.r.Context(), c.request.record, c.now)
	}
	if c.session != "" {
		return c.keys.LookupSession(c.r.Context(), c.session, c.now)
	}
	if h.forAdmin && c.member() {
		return c.keys.LookupMember(c.r.Context(), c.credential.token, c.now)
	}
	return c.keys.Lookup(c.r.Context(), c.credential.token, c.now)
}

// decide judges what a credential opens.
func (h *Handler) decide(c *call, record *keystore.Record) keystore.Outcome {
	c.record = record
	if h.Namespace == keystore.HomeNamespace && c.wanted == "" {
		c.wanted = record.Namespace
	}
	c.policy = c.keys.Policy()
	c.namespace = c.policy.Namespace(c.wanted)
	q := keystore.Request{Now: c.at, Policy: c.policy, Namespace: c.namespace, Need: c.need,
		Early: isEarly(c.r)}
	if len(record.AllowedIPs) > 0 {
		q.Client = c.request.client()
	}
	outcome := keystore.Decide(record, &q)
	if outcome == keystore.OK {
		outcome = h.decideTargets(c, q)
	}
	if h.forAdmin {
		c.unwatched = changesItself(c) // it would be cut before it is answered
		if outcome == keystore.Forbidden {
			return keystore.OK // the API knows what each operation takes
		}
	}
	return outcome
}

// isEarly reports whether a request came as TLS early data, here or at an intermediary (RFC 8470
// §5.1).
func isEarly(r *http.Request) bool {
	return r.TLS != nil && !r.TLS.HandshakeComplete || r.Header["Early-Data"] != nil
}

// conclude notes the outcome, for placeholders, logs and metrics. A request counts once, and once
// more when a later handler refuses it.
func (h *Handler) conclude(c *call, outcome keystore.Outcome) {
	first := !c.request.noted
	if !first && !outcome.Refuses() && outcome != keystore.OK {
		return // public here, but decided on before
	}
	keys := h.app.Keystore()
	if keys != nil && c.namespace == nil {
		c.namespace = keys.Policy().Namespace(c.wanted)
	}
	c.request.note(c, outcome)
	if keys == nil {
		return // not started: nothing to count in
	}
	if first || outcome.Refuses() {
		keys.Count(c.namespace, outcome)
	}
	if outcome == keystore.OK && !c.repeated {
		keys.Used(c.record, c.at)
	}
}

// refuse answers a call that was concluded with a refusal.
func (h *Handler) refuse(c *call) error {
	f := refusal{outcome: c.request.outcome, status: c.status, allow: h.rules.allow,
		realm: h.rules.realm, schemes: h.rules.schemes}
	if f.outcome == keystore.Forbidden {
		f.needed = c.need.String()
		// a token in the path
		if c.wanted != c.credential.token && !keystore.ContainsToken(c.wanted) {
			f.namespace = c.wanted
		}
		switch {
		case c.blamed != nil:
			f.detail = c.blamed.detail()
		case c.need.Undeclared:
			f.detail = "This is none of the calls that the API declares, so no permission allows " +
				"it."
		}
	}
	if h.Preflight != nil {
		h.Preflight.allowOrigin(c.w.Header(), c.r.Header)
	}
	if h.Errors != "" {
		h.disarm(c)
		return f.hand(c.w)
	}
	return f.write(c.w, c.r)
}

// disarm makes a refused request fit for error routes, which may send it to an upstream.
func (h *Handler) disarm(c *call) {
	var hidden []credential
	if !h.PassCredential {
		hidden = removeAll(c, &h.rules.sources)
		if h.Forwarded != "" {
			delete(c.r.Header, "X-Forwarded-Uri") // of a trusted proxy, so it would stay
		}
	}
	cleanHeaders(c.r, c.request.trusted, hidden)
}

// keepForAdmin removes all credentials from a public request under /apikeys/ and keeps them for
// api_keys_admin, so that the API does not get them where that handler does not answer.
func (h *Handler) keepForAdmin(c *call) []credential {
	if h.PassCredential {
		return nil
	}
	kept := make(http.Header)
	for _, from := range []*sources{&h.rules.sources, &adminSources} {
		for i := range from.list {
			if s := &from.list[i]; s.kind == redact.Header && c.r.Header[s.name] != nil {
				kept[s.name] = slices.Clone(c.r.Header[s.name])
			}
		}
	}
	hidden := removeAll(c, &h.rules.sources, &adminSources)
	c.request.kept = kept
	return hidden
}

// adminSources are what api_keys_admin reads credentials from.
var adminSources, _ = compileSources(nil)

// removeAll removes every credential of these sources from a request and redacts its query. The
// caller redacts the headers.
func removeAll(c *call, from ...*sources) (hidden []credential) {
	for _, s := range from {
		hidden = append(hidden, s.all(c.r.Header, c.query)...)
		s.remove(c.r)
	}
	if len(hidden) > maxHidden {
		hidden = nil
		clear(c.r.Header)
		setQuery(c.r, func(string) string { return "" })
	}
	redactQuery(c.r, hidden)
	return hidden
}

// maxHidden bounds how many credentials of one request are redacted, because each is searched for
// in the whole request. A request with more of them loses its headers and its query.
const maxHidden = 16

var (
	_ caddy.Provisioner           = (*Handler)(nil)
	_ caddyhttp.MiddlewareHandler = (*Handler)(nil)
)
