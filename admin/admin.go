// Package admin is the operator's side of the key store: the REST interface under /apikeys/v1, its
// OpenAPI document and a page that lists its operations. It knows nothing of the server it runs in.
package admin

import (
	"context"
	"log/slog"
	"net/http"
	"path"
	"strings"
	"sync/atomic"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
)

const (
	openAPIPath = api.Prefix + "/openapi.json"
	docsPath    = api.Prefix + "/docs"
	healthPath  = api.Prefix + "/health"
)

// Open reports whether a path is served without a caller.
func Open(path string) bool {
	return path == openAPIPath || path == docsPath || path == healthPath
}

type callerKey struct{}

// WithCaller says who makes the request. The door that the request came through has made sure of
// it.
func WithCaller(ctx context.Context, c manage.Caller) context.Context {
	return context.WithValue(ctx, callerKey{}, c)
}

type requestIDKey struct{}

// WithRequestID says by what id the log knows the request. Problem documents repeat it.
func WithRequestID(ctx context.Context, id string) context.Context {
	return context.WithValue(ctx, requestIDKey{}, id)
}

// An API serves the paths under /apikeys/. It is safe for concurrent use.
type API struct {
	keys    *manage.Keystore
	logger  *slog.Logger
	mux     *http.ServeMux
	huma    huma.API
	handler http.Handler

	key       kind[keystore.Key, api.Key, api.KeyPatch, api.KeyChanged]
	importKey *huma.Schema // what one element of an import is validated by

	writeTimeout time.Duration // of a page of an export
	idleTimeout  time.Duration // of a body
	memory       memory        // of all requests

	why      atomic.Pointer[string] // of a nil key store, see NotReached
	rule     atomic.Pointer[Rule]
	declared atomic.Pointer[[]api.Operation] // sorted by place in the list, without repetition
}

// New returns the interface to a key store, nil for one whose database has not been reached yet:
// then only the documents are served, and the health, which is not good.
func New(ks *manage.Keystore, logger *slog.Logger) *API {
	a := &API{keys: ks, logger: logger, mux: http.NewServeMux(), writeTimeout: writeTimeout,
		idleTimeout: idleTimeout}
	a.memory.most = DefaultMemory
	a.huma = humago.New(a.mux, a.config())
	a.key = a.keyKind()
	a.registerKeys()
	a.registerImport()
	a.registerPrefixes()
	a.registerSelf()
	a.registerNamespaces()
	a.registerRoles()
	a.registerMembers()
	a.registerAudit()
	a.registerNodes()
	a.registerDecisions()
	a.registerPermissions()
	a.registerDocuments()

	// Browsers send cookies and pass addresses on the loopback from any page, so no door takes
	// changes from another origin.
	cross := http.NewCrossOriginProtection()
	cross.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a.write(w, r, newProblem(http.StatusForbidden, "cross_origin",
			"this change was asked for by a page of another origin"))
	}))
	a.handler = cross.Handler(http.HandlerFunc(a.route))
	return a
}

// NotReached sets the reason that callers get for a database that has not been reached yet. If why
// is empty, callers are referred to the log.
func (a *API) NotReached(why string) { a.why.Store(&why) }

// ServeHTTP answers everything, what does not exist included.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	ctx, own := withAccount(r.Context(), &a.memory)
	defer own.close()
	a.handler.ServeHTTP(w, r.WithContext(ctx))
}

// route is the mux, but for what it would answer by itself: those are problem documents here, and
// never redirects.
func (a *API) route(w http.ResponseWriter, r *http.Request) {
	if list, ok := strings.CutSuffix(r.URL.Path, "/"); ok && a.huma.OpenAPI().Paths[list] != nil {
		r = r.Clone(r.Context()) // /keys/ is /keys
		r.URL.Path, r.URL.RawPath = list, ""
	}
	handler, pattern := a.mux.Handler(r)
	if pattern != "" && path.Clean(r.URL.Path) == r.URL.Path {
		a.mux.ServeHTTP(w, r)
		return
	}
	if pattern == "" {
		var own headerOnly
		handler.ServeHTTP(&own, r)
		if own.status == http.StatusMethodNotAllowed {
			w.Header().Set("Allow", own.Header().Get("Allow"))
			a.write(w, r, newProblem(own.status, "method_not_allowed",
				"this path does not know the method; the header Allow lists those it knows"))
			return
		}
	}
	a.write(w, r, newProblem(http.StatusNotFound, "not_found",
		"there is nothing at this path; "+openAPIPath+" lists what there is"))
}

// headerOnly keeps what the mux answers by itself.
type headerOnly struct {
	header http.Header
	status int
}

func (h *headerOnly) Header() http.Header {
	if h.header == nil {
		h.header = make(http.Header)
	}
	return h.header
}
func (h *headerOnly) WriteHeader(status int)      { h.status = status }
func (h *headerOnly) Write(b []byte) (int, error) { return len(b), nil }
