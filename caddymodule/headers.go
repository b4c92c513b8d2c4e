package caddymodule

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-apikeys/caddy-apikeys/caddymodule/internal/ascii"
	"github.com/caddy-apikeys/caddy-apikeys/caddymodule/redact"
)

const identityPrefix = "x-apikey-"

// isIdentityHeader reports whether a name folds to X-Apikey-*, any byte that is not a letter or digit
// counting as `-`: so do CGI, PHP and the like when they make variables of headers.
func isIdentityHeader(name string) bool {
	return len(name) >= len(identityPrefix) && foldsTo(name[:len(identityPrefix)], identityPrefix)
}

func foldsTo(name, folded string) bool {
	if len(name) != len(folded) {
		return false
	}
	for i := range len(name) {
		if foldSeparator(name[i]) != folded[i] {
			return false
		}
	}
	return true
}

func foldSeparator(c byte) byte {
	if !ascii.IsAlphanumeric(c) {
		return '-'
	}
	return ascii.Lower(c)
}

// spoofable are headers that some frameworks let override what we have decided on: always, or
// unless a trusted proxy has set them.
var spoofable, spoofableUnlessTrusted = []string{
	"x-http-method-override", "x-http-method", "x-method-override", "x-original-url",
	"x-original-uri", "x-original-method", "x-rewrite-url",
}, []string{
	"x-forwarded-uri", "x-forwarded-method", "x-forwarded-prefix", "x-forwarded-port",
	"x-forwarded-user",
}

// isDropped reports whether a request header must not reach the upstream.
func isDropped(name string, trusted bool) bool {
	if len(name) < len("x-") || ascii.Lower(name[0]) != 'x' || ascii.IsAlphanumeric(name[1]) {
		return false
	}
	fold := func(folded string) bool { return foldsTo(name, folded) }
	return isIdentityHeader(name) || slices.ContainsFunc(spoofable, fold) || !trusted &&
		slices.ContainsFunc(spoofableUnlessTrusted, fold)
}

// cleanHeaders takes out of r what a client may have put there to be taken for what only we set, or
// to escape our decision. trusted says that the peer is a trusted proxy. The text of hidden is
// replaced wherever an upstream may read it, such as in a Referer.
func cleanHeaders(r *http.Request, trusted bool, hidden []credential) {
	for name, lines := range r.Header {
		if isDropped(name, trusted) {
			delete(r.Header, name)
		} else {
			redactLines(lines, hidden)
		}
	}
	for i := range hidden {
		r.Host = hidden[i].redact(r.Host)
	}
	if r.Header["Connection"] != nil {
		cleanConnection(r.Header)
	}
	if r.Header["Upgrade"] != nil && !isWebSocket(r) {
		// The tunnel would carry requests that no one decides on.
		delete(r.Header, "Upgrade")
		delete(r.Header, "Http2-Settings")
	}
	if r.Trailer != nil {
		cleanTrailers(r, hidden)
	}
}

func redactLines(lines []string, hidden []credential) {
	for i := range hidden {
		for j, line := range lines {
			lines[j] = hidden[i].redact(line)
		}
	}
}

// isWebSocket reports whether the only upgrade asked for is the one to WebSocket.
func isWebSocket(r *http.Request) bool {
	upgrade := r.Header["Upgrade"]
	return len(upgrade) == 1 && strings.EqualFold(upgrade[0], "websocket") &&
		r.Method == http.MethodGet && r.ProtoMajor == 1 && r.ProtoMinor == 1
}

// cleanConnection takes our names out of Connection: whoever forwards the request would remove the
// headers so named, after we have set them.
func cleanConnection(header http.Header) {
	if !slices.ContainsFunc(header["Connection"], namesIdentityHeader) {
		return
	}
	var lines []string
	for _, line := range header["Connection"] {
		var kept []string
		for token := range strings.SplitSeq(line, ",") {
			if token = strings.Trim(token, " \t"); token != "" && !isIdentityHeader(token) {
				kept = append(kept, token)
			}
		}
		if kept != nil {
			lines = append(lines, strings.Join(kept, ", "))
		}
	}
	if lines == nil {
		delete(header, "Connection")
		return
	}
	header["Connection"] = lines
}

func namesIdentityHeader(line string) bool {
	for token := range strings.SplitSeq(line, ",") {
		if isIdentityHeader(strings.Trim(token, " \t")) {
			return true
		}
	}
	return false
}

// cleanTrailers drops names from the request's trailers (see deleteTrailers), and the text of hidden.
// net/http adds to the same map what comes at the end of the body, undeclared trailers too, so it
// is looked at again then. Without any declared trailer there is no map, and later ones go to the
// server's own copy of the request, which no handler sees.
func cleanTrailers(r *http.Request, hidden []credential) {
	deleteTrailers(r.Trailer)
	r.Body = &trailerBody{ReadCloser: r.Body, trailer: r.Trailer, hidden: slices.Clone(hidden)}
}

// deleteTrailers takes out of trailers what is judged or dropped as a header: an upstream may merge
// them.
func deleteTrailers(trailer http.Header) {
	for name := range trailer {
		if isDropped(name, false) || foldsTo(name, "destination") {
			delete(trailer, name)
		}
	}
}

type trailerBody struct {
	io.ReadCloser
	trailer http.Header
	hidden  []credential
}

func (b *trailerBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err == io.EOF { //nolint:errorlint // Read returns it bare
		deleteTrailers(b.trailer)
		for _, lines := range b.trailer {
			redactLines(lines, b.hidden)
		}
	}
	return n, err
}

// redactQuery takes the text of hidden out of the query.
func redactQuery(r *http.Request, hidden []credential) {
	original := originalURL(r)
	for i := range hidden {
		c := &hidden[i]
		holds := func(query string) bool { return query != "" && c.redact(query) != query }
		if holds(r.URL.RawQuery) || original != nil && holds(original.RawQuery) {
			setQuery(r, c.redact)
		}
	}
}

// redact replaces the credential in a text.
func (c *credential) redact(text string) string {
	if len(text) < len(c.token) { // as most headers: and what is encoded is longer still
		return text
	}
	text = redactSecret(text, c.token)
	if c.raw != c.token {
		text = redactSecret(text, c.raw)
	}
	return text
}

// shortSecret is how long a secret is at least that stands in no text by chance. Imported ones may
// be shorter, and be words such as `Mozilla/`.
const shortSecret = 20

// redactSecret replaces a secret in a text: a short one only where it is a whole value, of a
// parameter or in a list.
func redactSecret(text, secret string) string {
	switch {
	case secret == "" || !strings.Contains(text, secret):
		return text
	case len(secret) >= shortSecret:
		return strings.ReplaceAll(text, secret, redact.Replacement)
	}
	edge := func(i int) bool {
		return i < 0 || i == len(text) ||
			strings.IndexByte(" \t,;&=?#\"", text[i]) >= 0
	}
	var out strings.Builder
	copied := 0
	for start := 0; start+len(secret) <= len(text); start++ {
		if end := start + len(secret); text[start:end] == secret && edge(start-1) && edge(end) {
			out.WriteString(text[copied:start])
			out.WriteString(redact.Replacement)
			copied, start = end, end-1
		}
	}
	out.WriteString(text[copied:])
	return out.String()
}

// originalURL returns the URL of r as it came, before any rewrite. All copies of r share it.
func originalURL(r *http.Request) *url.URL {
	original, _ := r.Context().Value(caddyhttp.OriginalRequestCtxKey).(http.Request)
	return original.URL
}

// setQuery changes the query of r, wherever an upstream may get it from: FastCGI sends that of the
// original request, Caddy restores it for error routes, and `{http.request.orig_uri}` is there for
// anyone.
//
// When an earlier handler has copied the request, as tracing and forward_auth do, the context of r
// is not the one that Caddy's replacer and error routes read. So the original URL is changed in
// place, and what the placeholders show is set in the replacer, which looks there first.
func setQuery(r *http.Request, change func(string) string) {
	r.URL.RawQuery = change(r.URL.RawQuery)
	r.RequestURI = changeURI(r.RequestURI, change)
	original, ok := r.Context().Value(caddyhttp.OriginalRequestCtxKey).(http.Request)
	if !ok || original.URL == nil {
		return
	}
	query := change(original.URL.RawQuery)
	original.URL.RawQuery = query
	original.RequestURI = changeURI(original.RequestURI, func(string) string { return query })
	if repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok {
		repl.Set("http.request.orig_uri", original.RequestURI)
		repl.Set("http.request.orig_uri.query", query)
		if query != "" {
			query = "?" + query
		}
		repl.Set("http.request.orig_uri.prefixed_query", query)
	}
	// In place, because Caddy's replacer holds on to this very request.
	*r = *r.WithContext(context.WithValue(r.Context(), caddyhttp.OriginalRequestCtxKey, original))
}

func changeURI(uri string, change func(string) string) string {
	path, query, found := strings.Cut(uri, "?")
	if !found {
		return uri
	}
	if query = change(query); query == "" {
		return path
	}
	return path + "?" + query
}

// headerValue is text as the value of a header: percent-encoded outside visible ASCII and for the
// percent sign.
func headerValue(text string) string {
	for i := range len(text) {
		if c := text[i]; c <= ' ' || c > '~' || c == '%' {
			return escapeHeaderValue(text)
		}
	}
	return text
}

func escapeHeaderValue(text string) string {
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(text) {
		if c := text[i]; c <= ' ' || c > '~' || c == '%' {
			b.Write([]byte{'%', hex[c>>4], hex[c&15]})
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}
