package caddymodule

import (
	"net/http"
	"net/url"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-apikeys/caddy-apikeys/caddymodule/route"
)

// canonicalTarget reports whether the path of r is canonical, both as received and as it will be
// passed on: see [route.CanonicalPath]. sent is the latter, the EscapedPath of r's URL. A target in
// absolute form is not canonical, because net/http replaces the Host header with its authority.
func canonicalTarget(r *http.Request, received original, sent string, encodedSlash bool) bool {
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
	uri := r.RequestURI
	if received.url != nil {
		uri = received.uri // earlier handlers may have rewritten r
	}
	// A handler has created the request, such as templates for httpInclude.
	if uri == "" {
		return true
	}
	path, _, _ := strings.Cut(uri, "?")
	return path == sent || route.CanonicalPath(path, encodedSlash)
}

// An original is the target of a request before any rewrite. It is zero if the request did not pass
// through Caddy's server.
type original struct {
	method string
	uri    string   // empty if a handler has created the request
	url    *url.URL // shared by all copies of the request
}

func originalOf(r *http.Request) original {
	o, _ := r.Context().Value(caddyhttp.OriginalRequestCtxKey).(http.Request)
	return original{o.Method, o.RequestURI, o.URL}
}
