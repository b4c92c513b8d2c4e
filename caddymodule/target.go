package caddymodule

import (
	"net/http"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-apikeys/caddy-apikeys/caddymodule/route"
)

// canonicalTarget reports whether the path of r, as it will be sent on (its URL's EscapedPath) and
// as it came, is read in the same way by everyone who may read it: see CanonicalPath. An
// absolute-form target is not, since net/http lets its authority replace the Host line.
func canonicalTarget(r *http.Request, sent string, encodedSlash bool) bool {
	if r.Method == http.MethodConnect && r.URL.Path == "" {
		// it has an authority and no path (RFC 9112 §3.2.3), and is refused for its method
		return true
	}
	if r.URL.Opaque != "" {
		return false
	}
	if !route.CanonicalPath(sent, encodedSlash) {
		return false
	}
	came := r.RequestURI
	if original, ok := r.Context().Value(caddyhttp.OriginalRequestCtxKey).(http.Request); ok {
		came = original.RequestURI // earlier handlers may have rewritten r
	}
	// not from the wire: a handler made the request, such as templates for httpInclude
	if came == "" {
		return true
	}
	came, _, _ = strings.Cut(came, "?")
	return came == sent || route.CanonicalPath(came, encodedSlash)
}
