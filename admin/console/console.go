package console

import (
	"context"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
)

// Root is the path of the console.
const Root = "/apikeys"

// A Visitor describes the user of a request. The server that embeds the console fills it in.
type Visitor struct {
	Caller  manage.Caller    // zero: not signed in
	Outcome keystore.Outcome // why Caller is zero
	// Trusted means that the server has authenticated the user, so there is neither a session nor a
	// sign-in.
	Trusted bool
	Session string // the value of the session cookie, valid or not; empty: no cookie
	Address string // the client's address
	Beside  bool   // whether the API has the same address as the console
	Secure  bool   // whether the connection uses TLS
	// SignIn looks up a token and decides about it, as for a request to the REST interface.
	SignIn func(token string) (*keystore.Record, keystore.Outcome)
}

// A Console serves the pages. It is safe for concurrent use.
type Console struct {
	keys    *manage.Keystore
	api     http.Handler // the REST interface
	logger  *slog.Logger
	mux     *http.ServeMux
	guesses guesses

	resources atomic.Pointer[[]string] // named by handlers, sorted
}

// New returns the console of a key store. A nil key store stands for a database that has not been
// reached yet, which the pages then report. api is the REST interface of the key store.
func New(keys *manage.Keystore, api http.Handler, logger *slog.Logger) *Console {
	c := &Console{keys: keys, api: api, logger: logger, mux: http.NewServeMux()}
	for _, p := range c.pages() {
		c.mux.HandleFunc(p.pattern, c.serve(p))
	}
	return c
}

// Declare replaces the resources that handlers name. The resources of declared operations need not
// be included: the REST interface lists them.
func (c *Console) Declare(resources []string) {
	resources = slices.Compact(slices.Sorted(slices.Values(resources)))
	c.resources.Store(&resources)
}

// A page is one address and its handler.
type page struct {
	pattern string // for [http.ServeMux]
	needs   string // the permission required in some namespace, [anyMember] or [anybody]
	handle  func(*visit) error
}

const (
	anyMember = ""
	anybody   = "-" // no sign-in required
)

func (c *Console) pages() []page {
	return slices.Concat(
		signInPages(),
		keyPages(),
		overviewPages(),
		hygienePages(),
		progressPages(),
		themePages(),
		rolePages(),
		planPages(),
		namespacePages(),
		memberPages(),
		auditPages(),
		nodePages(),
		webhookPages(),
		checkPages(),
		switchPages(),
		accountPages(),
	)
}

// navigation lists the sections of the console and the permission that each requires.
var navigation = []struct {
	Label, path, needs string
	everywhere         bool // whether the permission is required in all namespaces
}{
	{"Keys", keysPath, anyMember, false},
	{"Overview", overviewPath, "admin.usage:read", false},
	{"Hygiene", hygienePath, "admin.keys:read", false},
	{"Check a token", checkPath, "admin.keys:read", false},
	{"Roles", rolesPath, "admin.roles:read", false},
	{"Plans", plansPath, "admin.plans:read", false},
	{"Namespaces", namespacesPath, "admin.namespaces:read", false},
	{"Members", membersPath, "admin.members:read", false},
	{"Audit", auditPath, "admin.audit:read", false},
	{"Servers", nodesPath, "admin.nodes:read", true},
	{"Webhooks", webhooksPath, "admin.webhooks:read", true},
}

// policy is the Content-Security-Policy: everything comes from this server.
const policy = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; " +
	"connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"

// maxForm is the maximum length of a form in bytes. The longest forms have a few thousand fields.
const maxForm = 256 << 10

type visitKey struct{}

// ServeHTTP answers every request, including those for unknown paths.
func (c *Console) ServeHTTP(w http.ResponseWriter, r *http.Request, who Visitor) {
	h := w.Header()
	h.Set("Content-Security-Policy", policy)
	h.Set("X-Content-Type-Options", "nosniff")
	// With no-referrer, browsers send `Origin: null` with a form, which fails the origin check.
	h.Set("Referrer-Policy", "same-origin")
	if r.URL.Path == Root || r.URL.Path == Root+"/" {
		http.Redirect(w, r, Root+"/keys", http.StatusSeeOther)
		return
	}
	if name, ok := strings.CutPrefix(r.URL.Path, assetsPath); ok {
		serveAsset(w, r, name)
		return
	}
	h.Set("Cache-Control", "no-store")
	v := &visit{Console: c, Visitor: who, w: w, r: r, ctx: r.Context()}
	q, err := url.ParseQuery(r.URL.RawQuery)
	token := holdsToken(q, "") || keystore.ContainsToken(r.URL.Path)
	if err != nil || repeats(q) || token {
		v.r = r.Clone(r.Context())
		v.r.URL = &url.URL{Path: Root + "/"} // the page and the sign-in would repeat the address
		text := "It is malformed or repeats a parameter. Choose the filters again."
		if token {
			text = "It contains a token, which the browser may keep in its history. If the token " +
				"works, rotate it or revoke its key. “Check a token” finds the key."
		}
		v.refuse(http.StatusBadRequest, "Invalid address", text)
		return
	}
	// The zero value refuses unsafe methods if Origin or Sec-Fetch-Site names another site.
	if err := new(http.CrossOriginProtection).Check(r); err != nil {
		v.refuse(http.StatusForbidden, "Request from another site",
			"A page of another site requested this change. Nothing was changed.")
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	r = r.WithContext(context.WithValue(r.Context(), visitKey{}, v))
	v.r = r
	c.mux.ServeHTTP(&muxWriter{ResponseWriter: w, v: v}, r)
}

// serve returns the handler of a page with the checks that all pages share.
func (c *Console) serve(p page) http.HandlerFunc {
	return func(_ http.ResponseWriter, r *http.Request) {
		v := r.Context().Value(visitKey{}).(*visit)
		v.r = r // with the path values
		if p.needs != anybody && !v.admitted(p.needs) {
			return
		}
		if to := v.cleanAddress(); to != "" && r.Method != http.MethodPost {
			v.redirect(to)
			return
		}
		if r.Method == http.MethodPost {
			if err := r.ParseForm(); err != nil {
				v.refuse(http.StatusBadRequest, "Incomplete form",
					"It was truncated or is too long. Nothing was changed.")
				return
			}
		}
		if r.PostForm.Get("again") == keptStep && !v.wrote(r.PostForm) {
			v.redirect(r.URL.RequestURI()) // the form without the input
			return
		}
		if holdsToken(r.PostForm, "token") {
			v.refuse(http.StatusUnprocessableEntity, "A field contains a token",
				"Names, reasons and metadata are shown to others. Nothing was changed. If the "+
					"token works, rotate its key.")
			return
		}
		if p.needs != anybody {
			v.api = c.clientFor(v.Caller)
		}
		if err := p.handle(v); err != nil {
			v.fail(err)
		}
	}
}

// holdsToken reports whether a field of a form or query, other than except, contains a token.
func holdsToken(form url.Values, except string) bool {
	for name, values := range form {
		if name != except && keystore.ContainsToken(name+"\n"+strings.Join(values, "\n")) {
			return true
		}
	}
	return false
}

// repeats reports whether a parameter is repeated. Only one value would be used, so the page could
// show more than requested.
func repeats(q url.Values) bool {
	for _, values := range q {
		if len(values) > 1 {
			return true
		}
	}
	return false
}

// admitted reports whether the visitor may see a page. If not, it answers the request.
func (v *visit) admitted(needs string) bool {
	switch {
	case v.Caller.Actor() != "":
		if needs == anyMember || v.may(needs) {
			return true
		}
		v.refuse(http.StatusForbidden, "Access denied",
			"This page requires the permission "+needs+
				", which you have in no namespace. Ask an administrator for it.")
	case v.Outcome == keystore.Unavailable:
		v.w.Header().Set("Retry-After", "1")
		v.refuse(http.StatusServiceUnavailable, "The key database is unavailable",
			"Nothing can be shown or changed. The server keeps trying; reload the page later.")
	case v.Outcome == keystore.Early:
		v.refuse(http.StatusTooEarly, "Try again",
			"This request was sent before the connection was secure.")
	case v.Trusted:
		v.refuse(http.StatusForbidden, "No member matches your login",
			"This site has signed you in, but no enabled member has your login, and you cannot "+
				"act for a group. Ask an administrator to add you.")
	case v.Outcome == keystore.Address:
		v.refuse(http.StatusForbidden, "Address not allowed",
			"Your token may not be used from "+v.Address+".")
	case v.fromElsewhere():
		v.bounce()
	default:
		v.askToSignIn()
	}
	return false
}

// A muxWriter answers with a page where the mux would answer with a plain text.
type muxWriter struct {
	http.ResponseWriter
	v *visit
}

func (p *muxWriter) WriteHeader(status int) {
	if status == http.StatusMethodNotAllowed {
		p.v.refuse(status, "Method not allowed", "This address does not support "+p.v.r.Method+".")
		return
	}
	p.v.refuse(http.StatusNotFound, "Page not found",
		"The address may be mistyped, or the page no longer exists.")
}

// Write drops the text of the mux.
func (p *muxWriter) Write(b []byte) (int, error) { return len(b), nil }
