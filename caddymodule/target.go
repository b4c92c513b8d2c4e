package caddymodule

import (
	"net/http"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-apikeys/caddy-apikeys/caddymodule/route"
)

// canonicalTarget reports whether the path of r is canonical, both as received and as it will be
// passed on: see [route.CanonicalPath]. sent is the latter, the EscapedPath of r's URL. A target in
// absolute form is not canonical, because net/http replaces the Host header with its authority.
func canonicalTarget(r *http.Request, sent string, encodedSlash bool) bool {
	if r.Method == http.MethodConnect && r.URL.Path == "" {
		// CONNECT has no path (RFC 9112 §3.2.3) and is refused for its method.
		return true
	}
	if r.URL.Opaque != "" {
		return false
	}
	if !route.CanonicalPath(sent, encodedSlash) {
		return false
	}
	received := r.RequestURI
	if original, ok := r.Context().Value(caddyhttp.OriginalRequestCtxKey).(http.Request); ok {
		received = original.RequestURI // earlier handlers may have rewritten r
	}
	// A handler has created the request, such as templates for httpInclude.
	if received == "" {
		return true
	}
	received, _, _ = strings.Cut(received, "?")
	return received == sent || route.CanonicalPath(received, encodedSlash)
}
