// Package admin is the REST interface under /apikeys/v1 through which operators manage keys, with
// its OpenAPI document and a page that lists its operations.
//
// An [API] turns requests into calls of the key store and errors into problem documents. It decides
// nothing itself: permissions, validation and the audit log belong to the key store. The package
// knows neither Caddy nor how callers authenticate. The server that embeds it says who calls
// ([WithCaller]) and which handlers it has ([API.Declare], [API.RuleBy]).
//
// Start with operation.go: register adds an operation and puts the checks in front of it. kind.go
// holds the operations that all kinds of objects share. keys.go holds the largest kind. body.go,
// parameters.go and fields.go refuse input that huma accepts but the interface does not. problem.go
// turns errors into answers.
//
// The settings of huma are process-wide variables. This package never changes them, because other
// modules of the same Caddy may use huma with its defaults.
package admin

import (
	"context"
	"log/slog"
	"net/http"
	"path"
	"strings"
	"sync/atomic"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
)

const (
	openAPIPath = api.Prefix + "/openapi.json"
	docsPath    = api.Prefix + "/docs"
	healthPath  = api.Prefix + "/health"
)

// Open reports whether a path is served to requests without a caller.
func Open(path string) bool {
	return path == openAPIPath || path == docsPath || path == healthPath || path == leaksPath
}

type callerKey struct{}

// WithCaller sets the caller of a request. The server must have authenticated it.
func WithCaller(ctx context.Context, c manage.Caller) context.Context {
	return context.WithValue(ctx, callerKey{}, c)
}

type requestIDKey struct{}

// WithRequestID sets the id that identifies a request in the server's log. Problem documents repeat
// it.
func WithRequestID(ctx context.Context, id string) context.Context {
	return context.WithValue(ctx, requestIDKey{}, id)
}

// An API serves the paths under /apikeys/v1/. It is safe for concurrent use.
type API struct {
	keys    *manage.Keystore
	logger  *slog.Logger
	mux     *http.ServeMux
	huma    huma.API
	handler http.Handler

	key       kind[keystore.Key, api.Key, api.KeyPatch, api.KeyChanged]
	importKey *huma.Schema // the schema of one element of an import

	writeTimeout time.Duration // for one page of an export
	idleTimeout  time.Duration // for a body
	memory       memory        // shared by all requests

	reason   atomic.Pointer[string] // see NotReached
	leakKeys atomic.Pointer[LeakKeys]
	rule     atomic.Pointer[Rule]
	declared atomic.Pointer[[]api.Operation] // sorted, without duplicates
}

// New returns the interface to a key store. A nil key store stands for a database that has not been
// reached yet: the API then serves the documents, reports that the node is unhealthy and refuses
// all other requests.
func New(ks *manage.Keystore, logger *slog.Logger) *API {
	a := &API{keys: ks, logger: logger, mux: http.NewServeMux(), writeTimeout: writeTimeout,
		idleTimeout: idleTimeout}
	a.memory.limit = DefaultMemory
	a.huma = humago.New(a.mux, a.config())
	a.key = a.keyKind()
	a.registerKeys()
	a.registerImport()
	a.registerPrefixes()
	a.registerSelf()
	a.registerUsage()
	a.registerNamespaces()
	a.registerRoles()
	a.registerPlans()
	a.registerMembers()
	a.registerAudit()
	a.registerNodes()
	a.registerWebhooks()
	a.registerDecisions()
	a.registerLeaks()
	a.registerPermissions()
	a.registerDocuments()

	// Any page can make a browser send cookies and reach the loopback interface. Therefore the API
	// refuses changes from another origin.
	cross := http.NewCrossOriginProtection()
	cross.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a.write(w, r, newProblem(http.StatusForbidden, "cross_origin",
			"this change was requested by a page of another origin"))
	}))
	a.handler = cross.Handler(http.HandlerFunc(a.route))
	return a
}

// NotReached sets the reason that callers get until the database has been reached. An empty reason
// refers them to the log.
func (a *API) NotReached(reason string) { a.reason.Store(&reason) }

// ServeHTTP answers every request, including those for unknown paths.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	ctx, acct := withAccount(r.Context(), &a.memory)
	defer acct.close()
	a.handler.ServeHTTP(w, r.WithContext(ctx))
}

// route passes requests to the mux. It answers with problem documents where the mux would answer
// with a text or a redirect.
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
		var recorded headerOnly
		handler.ServeHTTP(&recorded, r)
		if recorded.status == http.StatusMethodNotAllowed {
			w.Header().Set("Allow", recorded.Header().Get("Allow"))
			a.write(w, r, newProblem(recorded.status, "method_not_allowed",
				"this path does not support the method; the Allow header lists the supported ones"))
			return
		}
	}
	a.write(w, r, newProblem(http.StatusNotFound, "not_found",
		"nothing exists at this path; "+openAPIPath+" lists all paths"))
}

// headerOnly records an answer of the mux without its body.
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
