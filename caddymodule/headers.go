package caddymodule

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-apikeys/caddy-apikeys/caddymodule/internal/ascii"
	"github.com/caddy-apikeys/caddy-apikeys/caddymodule/redact"
)

// identityPrefix is the folded prefix of the identity headers.
const identityPrefix = "x-apikey-"

// isIdentityHeader reports whether a name folds to X-Apikey-*: see foldsTo.
func isIdentityHeader(name string) bool {
	return len(name) >= len(identityPrefix) && foldsTo(name[:len(identityPrefix)], identityPrefix)
}

// foldsTo reports whether a header name equals folded, ignoring case. Any byte that is not a letter
// or digit counts as `-`, because CGI and PHP turn all of them into the same variable name.
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

// spoofable are headers with which some frameworks let a client override the method, path or user
// of a request. Those of spoofableUnlessTrusted may come from a trusted proxy.
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

// cleanHeaders removes headers with which a client could spoof an identity or circumvent the
// decision. trusted says that the peer is a trusted proxy. It also replaces the text of the hidden
// credentials in all other headers, such as Referer.
func cleanHeaders(r *http.Request, trusted bool, hidden []credential) {
	var connection, upgrade bool
	for name, lines := range r.Header {
		if isDropped(name, trusted) {
			delete(r.Header, name)
			continue
		}
		redactLines(lines, hidden)
		connection = connection || name == "Connection"
		upgrade = upgrade || name == "Upgrade"
	}
	for i := range hidden {
		r.Host = hidden[i].redact(r.Host)
	}
	if connection {
		cleanConnection(r.Header)
	}
	if upgrade && !isWebSocket(r) {
		// The tunnel would carry requests past this handler.
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
			if clean := hidden[i].redact(line); clean != line { // a write also costs GC time
				lines[j] = clean
			}
		}
	}
}

// isWebSocket reports whether r asks only for an upgrade to WebSocket.
func isWebSocket(r *http.Request) bool {
	upgrade := r.Header["Upgrade"]
	return len(upgrade) == 1 && strings.EqualFold(upgrade[0], "websocket") &&
		r.Method == http.MethodGet && r.ProtoMajor == 1 && r.ProtoMinor == 1
}

// cleanConnection removes identity headers from Connection. A proxy would remove the headers that
// it names after we have set them.
func cleanConnection(header http.Header) {
	if !slices.ContainsFunc(header["Connection"], namesIdentityHeader) {
		return
	}
	var lines []string
	for _, line := range header["Connection"] {
		var names []string
		for name := range strings.SplitSeq(line, ",") {
			if name = strings.Trim(name, " \t"); name != "" && !isIdentityHeader(name) {
				names = append(names, name)
			}
		}
		if names != nil {
			lines = append(lines, strings.Join(names, ", "))
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

// cleanTrailers removes trailers (see deleteTrailers) and redacts the hidden credentials in the
// others. It does so now and at the end of the body, when net/http adds trailers to the same map,
// even undeclared ones. If the client declares no trailer, there is no map and no handler sees any.
func cleanTrailers(r *http.Request, hidden []credential) {
	deleteTrailers(r.Trailer)
	r.Body = &trailerBody{ReadCloser: r.Body, trailer: r.Trailer, hidden: slices.Clone(hidden)}
}

// deleteTrailers deletes trailers that are removed or checked as headers, because an upstream may
// merge trailers into the headers.
func deleteTrailers(trailer http.Header) {
	for name := range trailer {
		if isDropped(name, false) || foldsTo(name, "destination") {
			delete(trailer, name)
		}
	}
}

// A trailerBody cleans the trailers at the end of the body.
type trailerBody struct {
	io.ReadCloser
	trailer http.Header
	hidden  []credential
}

func (b *trailerBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err == io.EOF {
		deleteTrailers(b.trailer)
		for _, lines := range b.trailer {
			redactLines(lines, b.hidden)
		}
	}
	return n, err
}

// redactQuery redacts the hidden credentials in the query.
func redactQuery(r *http.Request, received original, hidden []credential) {
	for i := range hidden {
		c := &hidden[i]
		holds := func(query string) bool { return query != "" && c.redact(query) != query }
		if holds(r.URL.RawQuery) || received.url != nil && holds(received.url.RawQuery) {
			setQuery(r, c.redact)
		}
	}
}

// redact replaces the credential in a text.
func (c *credential) redact(text string) string {
	if len(text) < len(c.token) { // most headers; the encoded form is not shorter
		return text
	}
	text = redactSecret(text, c.token)
	if c.raw != c.token {
		text = redactSecret(text, c.raw)
	}
	return text
}

// shortSecret is the length from which a secret is assumed never to occur in a text by coincidence.
// Imported secrets may be shorter, even plain words such as `Mozilla/`.
const shortSecret = 20

// redactSecret replaces a secret in a text, also where its characters are percent-encoded. It
// replaces a short secret only where it is the whole value of a parameter or list element, and not
// encoded.
func redactSecret(text, secret string) string {
	switch {
	case secret == "":
		return text
	case len(secret) >= shortSecret:
		return redactEncoded(strings.ReplaceAll(text, secret, redact.Replacement), secret)
	case !strings.Contains(text, secret):
		return text
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

// redactEncoded replaces a secret some of whose characters are percent-encoded.
func redactEncoded(text, secret string) string {
	if strings.IndexByte(text, '%') < 0 {
		return text
	}
	decoded := make([]byte, 0, len(text))
	for i := 0; i < len(text); {
		c, next := decodePercent(text, i)
		decoded, i = append(decoded, c), next
	}
	hidden := []byte(secret)
	var out strings.Builder
	i := 0 // where the next character of decoded is in text
	skip := func(n int) {
		for range n {
			_, i = decodePercent(text, i)
		}
	}
	for {
		n := bytes.Index(decoded, hidden)
		if n < 0 {
			return out.String() + text[i:]
		}
		decoded = decoded[n+len(hidden):]
		begin := i
		skip(n)
		out.WriteString(text[begin:i] + redact.Replacement)
		skip(len(hidden))
	}
}

// decodePercent returns the character at text[i], which may be percent-encoded (RFC 3986 §2.1), and
// where the next one begins. An invalid escape is not decoded.
func decodePercent(text string, i int) (c byte, next int) {
	if text[i] == '%' && i+2 < len(text) && ascii.IsHex(text[i+1]) && ascii.IsHex(text[i+2]) {
		return ascii.Unhex(text[i+1])<<4 | ascii.Unhex(text[i+2]), i + 3
	}
	return text[i], i + 1
}

// setQuery changes the query of r and of the original request. FastCGI sends the original query,
// Caddy restores it for error routes, and any handler may use `{http.request.orig_uri}`.
//
// If an earlier handler has copied the request, as tracing and forward_auth do, Caddy's replacer
// and error routes read another context than that of r. So setQuery changes the original URL in
// place, and sets the placeholder in the replacer, where it takes precedence.
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
	}
	// In place, because Caddy's replacer refers to r.
	*r = *r.WithContext(context.WithValue(r.Context(), caddyhttp.OriginalRequestCtxKey, original))
}

// changeURI returns uri with a changed query.
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

// A headerSetter sets headers. Their values are in one array, which takes fewer allocations.
// Requests do not share the array, because Caddy's header handlers change values in place.
type headerSetter struct {
	http.Header
	values []string // set so far; set appends to it
}

// set replaces a header, whose name is in canonical form.
func (h *headerSetter) set(name string, values ...string) {
	first := len(h.values)
	h.values = append(h.values, values...)
	h.Header[name] = h.values[first:len(h.values):len(h.values)]
}
