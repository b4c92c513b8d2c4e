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

// Root is where the pages live.
const Root = "/apikeys"

// A Visitor is what the door that a request came through knows of it.
type Visitor struct {
	Caller  manage.Caller    // zero: nobody is signed in
	Outcome keystore.Outcome // with the zero Caller: why
	// the server has let the user in before: there is no session, and no token to ask for
	Trusted bool
	Session string // what the session's cookie holds, good or not; empty: no cookie
	Address string // where the request comes from
	Beside  bool   // the API is at the address that the console is at
	Secure  bool   // by TLS
	// SignIn looks up what somebody gives as a token, and judges it as the REST interface's door
	// does.
	SignIn func(token string) (*keystore.Record, keystore.Outcome)
}

// A Console serves the pages. It is safe for concurrent use.
type Console struct {
	keys    *manage.Keystore
	api     http.Handler // the REST interface
	logger  *slog.Logger
	mux     *http.ServeMux
	guesses guesses

	resources atomic.Pointer[[]string] // that handlers name, sorted
}

// New returns the pages for a key store, nil for one whose database has not been reached yet: then
// they say so. api is the REST interface to it.
func New(keys *manage.Keystore, api http.Handler, logger *slog.Logger) *Console {
	c := &Console{keys: keys, api: api, logger: logger, mux: http.NewServeMux()}
	for _, p := range c.pages() {
		c.mux.HandleFunc(p.pattern, c.serve(p))
	}
	return c
}

// Declare replaces the resources that handlers name. Those of their operations the REST interface
// has.
func (c *Console) Declare(resources []string) {
	resources = slices.Compact(slices.Sorted(slices.Values(resources)))
	c.resources.Store(&resources)
}

// A page is one address with what it does.
type page struct {
	pattern string // of [http.ServeMux]
	needs   string // the permission that the visitor must hold somewhere, [anyMember] or [anybody]
	handle  func(*visit) error
}

const (
	anyMember = ""
	anybody   = "-" // who is not signed in, too
)

func (c *Console) pages() []page {
	return slices.Concat(
		signInPages(),
		keyPages(),
		progressPages(),
		rolePages(),
		namespacePages(),
		memberPages(),
		auditPages(),
		nodePages(),
	)
}

// navigation lists the parts of the console, for who may read them.
var navigation = []struct {
	Label, path, needs string
	everywhere         bool // it takes the permission in all namespaces
}{
	{"Keys", keysPath, anyMember, false},
	{"Roles", rolesPath, "admin.roles:read", false},
	{"Namespaces", namespacesPath, "admin.namespaces:read", false},
	{"Members", membersPath, "admin.members:read", false},
	{"Audit", auditPath, "admin.audit:read", false},
	{"Nodes", nodesPath, "admin.nodes:read", true},
}

// policy allows what the pages are made of, from here and nowhere else.
const policy = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; " +
	"form-action 'self'; frame-ancestors 'none'; base-uri 'none'"

// maxForm is how long a form may be, in bytes. The longest that pages make have a few thousand
// fields.
const maxForm = 256 << 10

type visitKey struct{}

// ServeHTTP answers everything, what does not exist included.
func (c *Console) ServeHTTP(w http.ResponseWriter, r *http.Request, who Visitor) {
	h := w.Header()
	h.Set("Content-Security-Policy", policy)
	h.Set("X-Content-Type-Options", "nosniff")
	// with no-referrer, browsers send `Origin: null` beside a form, which is nobody's
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
	if err != nil || repeats(q) || holdsToken(q, "") || keystore.ContainsToken(r.URL.Path) {
		v.r = r.Clone(r.Context())
		v.r.URL = &url.URL{Path: Root + "/"} // the page and the sign-in would repeat the address
		v.refuse(http.StatusBadRequest, "Address not understood",
			"It is malformed, repeats a parameter or contains a token. Choose the filters again.")
		return
	}
	// The zero value of the protection: an Origin that is not the host's, or Sec-Fetch-Site that
	// says so, and a method that is not safe.
	if err := new(http.CrossOriginProtection).Check(r); err != nil {
		v.refuse(http.StatusForbidden, "Not from here",
			"This change was asked for by a page of another site. Nothing was changed.")
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	r = r.WithContext(context.WithValue(r.Context(), visitKey{}, v))
	v.r = r
	c.mux.ServeHTTP(&plain{ResponseWriter: w, v: v}, r)
}

// serve is what all pages have before them.
func (c *Console) serve(p page) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		v := r.Context().Value(visitKey{}).(*visit)
		v.r = r // with the values of the path
		if p.needs != anybody && !v.admitted(p.needs) {
			return
		}
		if r.Method == http.MethodPost {
			if err := r.ParseForm(); err != nil {
				v.refuse(http.StatusBadRequest, "The form did not arrive",
					"It was cut off, or is longer than this server takes. Nothing was changed.")
				return
			}
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

// holdsToken reports whether a form or a query holds a token in another field than except.
func holdsToken(form url.Values, except string) bool {
	for name, values := range form {
		if name != except && keystore.ContainsToken(name+"\n"+strings.Join(values, "\n")) {
			return true
		}
	}
	return false
}

// repeats reports whether a parameter is given more than once. Only one of them would be used, so
// the page could show more than was asked for.
func repeats(q url.Values) bool {
	for _, values := range q {
		if len(values) > 1 {
			return true
		}
	}
	return false
}

// admitted answers who may not see a page, and reports whether the visitor may.
func (v *visit) admitted(needs string) bool {
	switch {
	case v.Caller.Member() != "":
		if needs == anyMember || v.may(needs) {
			return true
		}
		v.refuse(http.StatusForbidden, "Not for you",
			"This page takes the permission "+needs+
				", which you hold in no namespace. Who manages members can give it to you.")
	case v.Outcome == keystore.Unavailable:
		v.w.Header().Set("Retry-After", "1")
		v.refuse(http.StatusServiceUnavailable, "The key database is away",
			"Nothing can be shown or changed at the moment. This server goes on trying; reload "+
				"the page in a while.")
	case v.Outcome == keystore.Early:
		v.refuse(http.StatusTooEarly, "Please try again",
			"This request came before the connection was safe.")
	case v.Trusted:
		v.refuse(http.StatusForbidden, "You are no member here",
			"This site has let you in, but no active member has your login. Who manages members "+
				"can set it.")
	case v.Outcome == keystore.Address:
		v.refuse(http.StatusForbidden, "Not from this address",
			"Your token may not be used from "+v.Address+".")
	case v.fromElsewhere():
		v.bounce()
	default:
		v.askToSignIn()
	}
	return false
}

// plain replaces the text that the mux answers by itself with pages.
type plain struct {
	http.ResponseWriter
	v *visit
}

func (p *plain) WriteHeader(status int) {
	if status == http.StatusMethodNotAllowed {
		p.v.refuse(status, "Not that way", "This address takes no "+p.v.r.Method+".")
		return
	}
	p.v.refuse(http.StatusNotFound, "There is no such page",
		"The address may be mistyped, or what was there is gone.")
}

// Write drops the mux's own words.
func (p *plain) Write(b []byte) (int, error) { return len(b), nil }
