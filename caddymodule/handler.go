package caddymodule

import (
	"cmp"
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

// Handler requires a valid API key that has the required permission in the namespace that a request
// accesses. The upstream receives the key's identity in `X-Apikey-Id`, `-Name`, `-Namespace`,
// `-Owner` and `-Permissions`, or in those of them that `identity` selects, but not the key itself.
// Headers with these names from clients are removed. The app `api_keys` stores the keys.
//
// Requests excluded by a matcher bypass this handler unchanged, including any spoofed identity
// headers: use `public` for paths that need no key.
//
// Placeholders: `{http.auth.user.id}` and `{http.api_key.id}` (the key's id),
// `{http.api_key.name}`, `{http.api_key.namespace}`, `{http.api_key.owner}`,
// `{http.api_key.outcome}`, and `{http.api_key.note}` (that of a derived token).
//
// Path patterns are split at `/`. `{anything}` or `*` matches exactly one segment, a final `**` or
// `*` matches any rest, even an empty one, and everything else is literal. Patterns ignore case,
// except in `public` and in an `operation` that gives a write method the class read. If several
// patterns match, the one with the most literal segments is used; of equals, the first.
type Handler struct {
	// The sources of a request's key. A request with more than one key is refused. Default is
	// `bearer` and the header `X-API-Key`.
	From []CredentialSource `json:"from,omitempty"`

	// Path patterns with a segment `{namespace}`, the namespace that the request accesses. Default
	// is none.
	NamespacePath []string `json:"namespace_path,omitempty"`

	// The namespace of requests that no `namespace_path` matches: an id, a placeholder, or `home`
	// for the key's own. Default is `default`.
	Namespace string `json:"namespace,omitempty"`

	// The resource in permissions such as `orders:read`. Default is none: only `read`, `write` and
	// `*` apply.
	Resource string `json:"resource,omitempty"`

	// The class of methods: `read`, `write`, or `none` to refuse them. It overrides the default:
	// GET, HEAD and OPTIONS read; POST, PUT, PATCH and DELETE write; all others are refused.
	// CONNECT and TRACE are always refused.
	Methods map[string]string `json:"methods,omitempty"`

	// Operations with their own permission. Default is none.
	Operation []route.Operation `json:"operation,omitempty"`

	// OpenAPI documents whose operations have their own permissions. An `operation` for the same
	// requests takes precedence. Default is none.
	OpenAPI []route.OpenAPI `json:"openapi,omitempty"`

	// Headers that name another resource, such as `X-Amz-Copy-Source`. The path or URI in them is
	// checked like the request's own path. The `Destination` of MOVE and COPY is always checked if
	// `methods` maps these methods. Default is none.
	AlsoJudge []JudgedHeader `json:"also_judge,omitempty"`

	// Whether requests that match no operation are forbidden, whatever permissions the key has.
	// Default is false.
	Strict bool `json:"strict,omitempty"`

	// Operations whose responses list namespaces and are filtered. Default is none.
	List []route.List `json:"list,omitempty"`

	// Path patterns that need no key. They are case-sensitive. Default is none.
	Public []string `json:"public,omitempty"`

	// Whether a request without a key is passed on, without identity headers. Default is false.
	Optional bool `json:"optional,omitempty"`

	// Answers CORS preflights without a key. It cannot be combined with `forwarded`. Default is not
	// to answer them.
	Preflight *Preflight `json:"preflight,omitempty"`

	// The identity headers that the upstream receives: `id`, `name`, `namespace`, `owner` and
	// `permissions`, or `none` alone. Default is all five.
	Identity []string `json:"identity,omitempty"`

	// Names of metadata that the upstream receives as `X-Apikey-Meta-NAME`. Default is none.
	PassMetadata []string `json:"pass_metadata,omitempty"`

	// `pass` passes on requests with a bearer token that has no accepted prefix, was not created by
	// this deployment and is not a derived token, without identity headers: the upstream must
	// verify these access tokens of another issuer. Imported keys then need another source. Default
	// is to refuse such tokens.
	Foreign string `json:"foreign,omitempty"`

	// `allow` accepts paths with an encoded slash (%2F). Default is to refuse them.
	EncodedSlash string `json:"encoded_slash,omitempty"`

	// The response header in which the API reports the total cost of the request in units of a
	// quota. It is removed from the response. The cost of the operation is charged before the
	// request is passed on, and the rest when the API responds. It cannot be combined with
	// `forwarded`. Default is none.
	Charge string `json:"charge,omitempty"`

	// `off` omits the headers `RateLimit` and `RateLimit-Policy`. Default is to send them if the
	// key is limited.
	LimitHeaders string `json:"limit_headers,omitempty"`

	// Whether the request keeps its key. Default is false.
	PassCredential bool `json:"pass_credential,omitempty"`

	// `caddy` passes refusals to Caddy's error routes. Default is to answer with a problem document
	// (RFC 9457).
	Errors string `json:"errors,omitempty"`

	// The realm in the `WWW-Authenticate` header of a 401: ASCII without quotes and backslashes.
	// Default is `api`.
	Realm string `json:"realm,omitempty"`

	// Decides on the request described by X-Forwarded-Method and X-Forwarded-Uri of a trusted proxy
	// and answers the proxy: 204 with the identity in response headers, or the refusal. `plain`, or
	// `nginx` for proxies that understand only 401 and 403: other refusals become 403, and
	// `X-Apikey-Code` names their code. Default is to decide on the request itself and pass it on.
	Forwarded string `json:"forwarded,omitempty"`

	app        *App
	expected   *expectedHeaders
	rules      *rules
	logger     *zap.Logger
	accessLogs bool
	forAdmin   bool // whether it is the Handler inside an AdminSite
}

// CaddyModule returns the Caddy module information.
func (Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.api_key",
		New: func() caddy.Module { return new(Handler) },
	}
}

// Provision sets up the handler. It runs under `caddy validate` too, so it accesses neither network
// nor disk, except for the OpenAPI documents, which are a part of the config.
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
	redact.WarnIfUnredacted(ctx, h.app, declared, func() string {
		return cmp.Or(lineOf("logs"), unknownLine)
	})
	if left := h.rules.table.LeftOut; len(left) > 0 {
		h.logger.Warn("operations of OpenAPI documents left out", zap.Int("operations", len(left)),
			zap.Bool("forbidden", h.Strict), zap.Strings("left_out", firstOf(left)))
	}
	for _, text := range h.literalWildcards() {
		h.logger.Warn("path pattern has a literal *, { or } within a segment; only a whole "+
			"segment, between two slashes, can be * or {name}",
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

// ServeHTTP decides on a request and passes it on or refuses it.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	// now is read after the request arrived: see node.Node.Lookup
	c := call{now: time.Now(), w: w, r: r, received: originalOf(r)}
	req := h.request(r)
	c.request, c.repeated = req, req.record != nil && req.outcome == keystore.OK
	if h.Forwarded != "" {
		return h.serveForwarded(&c)
	}
	c.method, c.path, c.query = r.Method, r.URL.EscapedPath(), r.URL.RawQuery
	outcome := keystore.BadTarget
	if canonicalTarget(r, c.received, c.path, h.rules.encodedSlash) {
		outcome = h.app.abuse.judge(&c, h.authorize(&c))
	}
	h.conclude(&c, outcome)
	h.announceLimits(&c)
	switch {
	case outcome.Refuses():
		return h.refuse(&c)
	case outcome == keystore.Preflight:
		h.Preflight.answer(w, r, h.rules.allow)
		return nil
	}
	next = h.chargeNext(&c, next)
	if outcome != keystore.OK {
		if !c.repeated {
			var hidden []credential
			if outcome == keystore.Public && isAdminPath(r.URL.Path) {
				hidden = h.keepForAdmin(&c)
			}
			cleanHeaders(r, req.trusted, hidden)
		}
		// Without a key, lists are empty. The API itself decides about public and foreign requests.
		if outcome == keystore.Anonymous {
			return h.serveNext(&c, w, r, next)
		}
		return next.ServeHTTP(w, r)
	}
	var err error
	returned := false
	defer func() {
		cut := c.running.leave(c.keys)
		c.countEnd(err, returned && !cut)
	}()
	h.clean(&c)
	req.identify(r.Header, h.rules)
	w, r = c.running.wrap(w, r)
	if c.counts {
		w = req.transfer.wrap(w, r, c.received.method)
	}
	err = h.serveNext(&c, w, r, next)
	returned = true
	c.running.finish()
	return err
}

// clean removes the credential and spoofed headers from a request that is passed on.
func (h *Handler) clean(c *call) {
	var hidden []credential
	if !h.PassCredential && c.credential.source != nil {
		hidden = []credential{c.credential}
		c.credential.source.remove(c.r)
		redactQuery(c.r, c.received, hidden)
	}
	cleanHeaders(c.r, c.request.trusted, hidden)
}

// A call is one request and what one handler has found out about it.
type call struct {
	w       http.ResponseWriter
	r       *http.Request
	now     time.Time
	request *request // state shared by all handlers
	// repeated says that an earlier handler has accepted the request with a key, which this one
	// uses too. The earlier one may have returned, as in handle_errors, so this one also cuts the
	// request if the key is revoked.
	repeated bool
	// untracked says that a revoke must not cut the request.
	untracked bool

	received original
	method   string
	path     string // canonical, escaped
	query    string

	need          keystore.Need
	permission    string              // the text of need
	cost          int64               // in units: that of the most expensive resource
	namespaceID   string              // of the accessed namespace, which need not exist
	targets       []secondTarget      // resources that headers name, except public ones
	refusedTarget *secondTarget       // the refused target; nil if the request itself is refused
	policy        *keystore.Directory // the snapshot that decided
	namespace     *keystore.Namespace
	record        *keystore.Record // nil until it is found
	answer        node.Answer      // with the record
	keys          *manage.Keystore // nil until it is needed
	credential    credential       // zero until it is found
	untimely      bool             // see node.Answer
	session       string           // console session, used instead of a credential
	running       *runningRequest  // nil until the call is registered
	counts        bool             // in usage, when the call ends
	status        int              // of a refusal; zero for the outcome's own

	limits  node.Charge   // zero until the call is charged, and if its key is not limited
	suspect bool          // whether the client has sent too many invalid credentials
	retry   time.Duration // until it may send another one; set if the option abuse refuses the call
}

// authorize decides on a call whose path is canonical. The outcome is the first reason to refuse
// it, or says how it is passed on.
func (h *Handler) authorize(c *call) keystore.Outcome {
	if outcome := h.checkRequest(c); outcome != keystore.OK {
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
	if outcome = h.checkToken(c); outcome != keystore.OK {
		return outcome
	}
	c.suspect = h.app.abuse.suspects(c)
	return h.lookUp(c)
}

// checkRequest decides on a call whose path is canonical before the credential is known. The
// outcome is OK if it depends on the credential: then checkRequest has found the namespace and the
// need.
func (h *Handler) checkRequest(c *call) keystore.Outcome {
	class, mapped := h.rules.methods[c.method]
	if !mapped {
		return keystore.Method
	}
	if !h.rules.findTargets(c) {
		return keystore.BadTarget
	}
	c.namespaceID = h.rules.namespaceOf(c, c.path)
	switch {
	case len(c.targets) == 0 && h.rules.isPublic(c.path):
		return keystore.Public
	case h.Preflight != nil && isPreflight(c.method, c.r.Header):
		return keystore.Preflight
	}
	var cost int64
	c.need, c.permission, cost = h.rules.table.Need(c.method, c.path, c.query, class)
	c.cost = max(c.cost, cost)
	return keystore.OK
}

// checkToken decides on a call by the form of its credential. The outcome is OK if the decision
// needs the key store.
func (h *Handler) checkToken(c *call) keystore.Outcome {
	switch {
	case c.credential.broken:
		return keystore.Malformed
	case c.credential.source.kind == redact.Cookie && keystore.IsDerived(c.credential.token):
		return keystore.Malformed // a page must not make a browser send it
	case h.Foreign != "" && c.credential.source.bearer && c.keys.Foreign(c.credential.token):
		if !isB64Token(c.credential.token) {
			return keystore.Malformed // it may contain one of our tokens
		}
		return c.unlessUndeclared(keystore.Foreign)
	}
	return keystore.OK
}

// unlessUndeclared is the outcome of a call without a key. A call that is forbidden for every key
// is forbidden without one too.
func (c *call) unlessUndeclared(outcome keystore.Outcome) keystore.Outcome {
	if c.need.Undeclared {
		return keystore.Forbidden
	}
	for i := range c.targets {
		if t := &c.targets[i]; t.otherHost || t.need.Undeclared {
			c.refuseTarget(t)
			return keystore.Forbidden
		}
	}
	return outcome
}

// lookUp looks up the credential, decides on its record, registers the call so that a revoke can
// cut it, and charges it to the limits of the key.
func (h *Handler) lookUp(c *call) keystore.Outcome {
	units := c.request.units
	outcome := h.lookUpUntilUnchanged(c)
	if outcome != keystore.OK && c.request.units != units {
		// It was charged after a wait, and then refused. Its key has no more use of the units, and
		// another key may be charged.
		c.request.units, c.request.limits, c.limits = units, 0, node.Charge{}
	}
	return outcome
}

// lookUpUntilUnchanged is lookUp, except that a refused call may have been charged.
func (h *Handler) lookUpUntilUnchanged(c *call) keystore.Outcome {
	for tries := range maxLookUps {
		if tries > 0 {
			c.now = time.Now()
		}
		answer, err := h.lookUpOnce(c)
		switch {
		case err != nil:
			return keystore.Unavailable
		case answer.Record == nil:
			c.untimely = answer.Untimely
			return answer.Outcome
		}
		c.answer = answer
		if outcome := h.decide(c, answer.Record); outcome != keystore.OK {
			return outcome
		}
		var running *runningRequest
		if c.untracked {
			if !c.keys.Unchanged(answer) {
				continue
			}
		} else if running = newRunningRequest(c.w, c.r); !c.keys.Enter(answer, &running.Running) {
			running.release()
			continue
		}
		outcome, waited := h.charge(c)
		if outcome == keystore.OK && !waited {
			c.running = running
			return outcome
		}
		if running != nil {
			running.leave(c.keys)
		}
		if outcome != keystore.OK {
			return outcome
		}
		// Meanwhile the key may have been revoked, or the lease may have expired.
	}
	return keystore.Unavailable
}

// maxLookUps bounds how often changes of other keys may restart the decision on one request.
const maxLookUps = 100

func (h *Handler) lookUpOnce(c *call) (node.Answer, error) {
	if c.repeated {
		return c.keys.LookupAgain(c.r.Context(), c.request.record, c.request.narrowing, c.now)
	}
	if h.forAdmin && keystore.IsDerived(c.credential.token) && !readsSelf(c) {
		return node.Answer{Outcome: keystore.Malformed}, nil
	}
	if c.session != "" {
		return c.keys.LookupSession(c.r.Context(), c.session, c.now)
	}
	if h.forAdmin && c.member() {
		return c.keys.LookupMember(c.r.Context(), c.credential.token, c.now)
	}
	if c.suspect {
		return c.keys.LookupSuspect(c.r.Context(), c.credential.token, c.now)
	}
	return c.keys.Lookup(c.r.Context(), c.credential.token, c.now)
}

// decide decides on a call with a record.
func (h *Handler) decide(c *call, record *keystore.Record) keystore.Outcome {
	c.record = record
	if h.Namespace == keystore.HomeNamespace && c.namespaceID == "" {
		c.namespaceID = record.Namespace
	}
	c.policy = c.keys.Policy()
	c.namespace = c.policy.Namespace(c.namespaceID)
	q := keystore.Request{Now: c.answer.Now, Policy: c.policy, Namespace: c.namespace, Need: c.need,
		Early: isEarly(c.r), Narrowing: c.answer.Narrowing}
	if len(record.AllowedIPs) > 0 || q.Narrowing != nil && len(q.Narrowing.AllowedIPs) > 0 {
		q.Client = c.request.client()
	}
	outcome := keystore.Decide(record, &q)
	if outcome == keystore.OK {
		outcome = h.decideTargets(c, q)
	}
	if h.forAdmin {
		c.untracked = changesOwnCredential(c) // the revoke would cut its own response
		if outcome == keystore.Forbidden {
			return keystore.OK // the management API checks permissions itself
		}
	}
	return outcome
}

// isEarly reports whether a request arrived as TLS early data, here or at an intermediary (RFC 8470
// §5.1).
func isEarly(r *http.Request) bool {
	return r.TLS != nil && !r.TLS.HandshakeComplete || r.Header["Early-Data"] != nil
}

// conclude records the outcome for placeholders, logs and metrics. A request counts once, and once
// more if a later handler refuses it.
func (h *Handler) conclude(c *call, outcome keystore.Outcome) {
	first := !c.request.decided
	if !first && !outcome.Refuses() && outcome != keystore.OK {
		return // public here, but an earlier handler has decided
	}
	keys := h.app.Keystore()
	if keys != nil && c.namespace == nil {
		c.namespace = keys.Policy().Namespace(c.namespaceID)
	}
	c.request.setOutcome(c, outcome)
	if keys == nil {
		return // the store is not open
	}
	if first || outcome.Refuses() {
		keys.Count(c.namespace, c.record, outcome)
	}
	if outcome == keystore.OK && !c.repeated {
		keys.Used(c.record, c.answer.Narrowing, c.answer.Now, c.request.client)
	}
	h.countDecision(c, outcome)
}

// refuse answers a call whose outcome is a refusal.
func (h *Handler) refuse(c *call) error {
	f := refusal{outcome: c.request.outcome, status: c.status, allow: h.rules.allow,
		challenge: h.rules.challenges.invalid, values: c.request.takeValues()}
	switch f.outcome {
	case keystore.Missing:
		f.challenge = h.rules.challenges.missing
	case keystore.Forbidden:
		f.needed = c.need.String()
		// The namespace may be a token in the path.
		if c.namespaceID != c.credential.token && !keystore.ContainsToken(c.namespaceID) {
			f.namespace = c.namespaceID
		}
		switch {
		case c.refusedTarget != nil:
			f.detail = c.refusedTarget.detail()
		case c.need.Undeclared:
			f.detail = "The API declares no such operation, so no permission allows it."
		}
	case keystore.Limited, keystore.Exhausted:
		if f.violated, f.retry = violations(&c.limits); f.violated == 0 {
			f.retry = c.retry
		}
		f.costs = costDetails(&c.limits, f.violated, c.cost)
	}
	if h.Preflight != nil {
		h.Preflight.allowOrigin(c.w.Header(), c.r.Header)
		exposeLimits(c.w.Header(), c.r.Header)
	}
	if h.Errors != "" {
		h.cleanRefused(c)
		return f.handleError(c.w)
	}
	return f.write(c.w, c.r)
}

// cleanRefused removes credentials and spoofed headers from a refused request, because error routes
// may send it to an upstream.
func (h *Handler) cleanRefused(c *call) {
	var hidden []credential
	if !h.PassCredential {
		hidden = removeAll(c, &h.rules.sources)
		if h.Forwarded != "" {
			delete(c.r.Header, "X-Forwarded-Uri") // cleanHeaders keeps it if the peer is trusted
		}
	}
	cleanHeaders(c.r, c.request.trusted, hidden)
}

// keepForAdmin moves all credentials of a public request under /apikeys/ to adminHeaders. The API
// does not receive them if no api_keys_admin answers the request.
func (h *Handler) keepForAdmin(c *call) []credential {
	if h.PassCredential {
		return nil
	}
	header := make(http.Header)
	for _, from := range []*sources{&h.rules.sources, &adminSources} {
		for i := range from.list {
			if s := &from.list[i]; s.kind == redact.Header && c.r.Header[s.name] != nil {
				header[s.name] = slices.Clone(c.r.Header[s.name])
			}
		}
	}
	hidden := removeAll(c, &h.rules.sources, &adminSources)
	c.request.adminHeaders = header
	return hidden
}

// adminSources are the credential sources of api_keys_admin.
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
	redactQuery(c.r, c.received, hidden)
	return hidden
}

// maxHidden is the maximum number of credentials that are redacted in one request, because each
// costs a search of the whole request. A request with more loses its headers and its query.
const maxHidden = 16

var (
	_ caddy.Provisioner           = (*Handler)(nil)
	_ caddyhttp.MiddlewareHandler = (*Handler)(nil)
)
