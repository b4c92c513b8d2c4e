package caddymodule

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"golang.org/x/net/http/httpguts"

	"github.com/caddy-apikeys/caddy-apikeys/caddymodule/internal/ascii"
	"github.com/caddy-apikeys/caddy-apikeys/caddymodule/redact"
	"github.com/caddy-apikeys/caddy-apikeys/caddymodule/route"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// CredentialSource is a part of a request that can contain a key.
type CredentialSource struct {
	// The kind of source: `bearer` (Authorization: Bearer), `header`, `basic` (the password of
	// Authorization: Basic, or the user name if the password is empty), `query` or `cookie`.
	Type string `json:"type"`

	// The name of the header, query parameter or cookie. Required for these three types, and
	// accepted by no other.
	Name string `json:"name,omitempty"`

	// The scheme before the key in the header, case-insensitive. Accepted only by `header`. Default
	// is none.
	Scheme string `json:"scheme,omitempty"`
}

// sourceSyntax lists the sources in Caddyfile syntax, for error messages.
const sourceSyntax = "bearer, header NAME [SCHEME], basic, query NAME, cookie NAME"

// defaultSources apply if none are configured.
var defaultSources = []CredentialSource{{Type: "bearer"}, {Type: "header", Name: "X-API-Key"}}

// source is a checked CredentialSource.
type source struct {
	kind          redact.Kind
	name          string // of a header in canonical form
	scheme        string // empty if the whole header is the credential
	basic, bearer bool
}

func newSource(c CredentialSource) (source, error) {
	s := source{name: c.Name, scheme: c.Scheme}
	named := false
	switch c.Type {
	case "bearer":
		s.kind, s.name, s.scheme, s.bearer = redact.Header, "Authorization", bearerScheme, true
	case "basic":
		s.kind, s.name, s.scheme, s.basic = redact.Header, "Authorization", "Basic", true
	case "header":
		s.kind, named = redact.Header, true
		s.name = http.CanonicalHeaderKey(c.Name)
		if c.Scheme != "" && !httpguts.ValidHeaderFieldName(c.Scheme) {
			return s, fmt.Errorf("from header %s %s: the scheme must be a token (RFC 9110), such "+
				"as Token", redact.Argument(c.Name), redact.Argument(c.Scheme))
		}
	case "query":
		s.kind, named = redact.Query, true
	case "cookie":
		s.kind, named = redact.Cookie, true
	default:
		return s, fmt.Errorf("from: unknown source %q: must be one of %s",
			redact.Argument(c.Type), sourceSyntax)
	}
	switch {
	case named && c.Name == "":
		return s, fmt.Errorf("from %s requires a name", c.Type)
	case !named && c.Name != "":
		return s, fmt.Errorf("from %s accepts no name, not %q", c.Type, redact.Argument(c.Name))
	case c.Type != "header" && c.Scheme != "":
		return s, fmt.Errorf("from %s accepts no scheme, not %q", c.Type,
			redact.Argument(c.Scheme))
	case named && c.Type != "query" && !httpguts.ValidHeaderFieldName(c.Name):
		return s, fmt.Errorf("from %s: %q is not a valid %s name", c.Type,
			redact.Argument(c.Name), c.Type)
	case c.Type == "header" && isIdentityHeader(c.Name):
		return s, fmt.Errorf("from header %s: headers that begin with X-Apikey- are removed from "+
			"every request", c.Name)
	case c.Type == "header" && slices.Contains(reservedHeaders, s.name):
		return s, fmt.Errorf("from header %s: this header cannot carry a key: use another one, "+
			"such as X-API-Key, or `from cookie NAME`", c.Name)
	}
	return s, nil
}

// reservedHeaders are headers that never reach a handler or have a meaning of their own.
var reservedHeaders = []string{"Host", "Cookie", "Connection", "Upgrade", "Transfer-Encoding",
	"Content-Length", "Trailer", "Te"}

// sources are the credential sources of one handler.
type sources struct {
	list []source
}

// compileSources checks a list of sources. An empty list stands for the default.
func compileSources(configured []CredentialSource) (sources, error) {
	if len(configured) == 0 {
		configured = defaultSources
	}
	var out sources
	for _, c := range configured {
		s, err := newSource(c)
		if err != nil {
			return out, err
		}
		for _, other := range out.list {
			if s.overlaps(other) {
				return out, fmt.Errorf("from %s: another source reads the same %s: every request "+
					"with it would be ambiguous",
					redact.Argument(strings.TrimSpace(c.Type+" "+c.Name+" "+c.Scheme)), s.kind)
			}
		}
		out.list = append(out.list, s)
	}
	return out, nil
}

// overlaps reports whether both sources would read the same header, parameter or cookie.
func (s source) overlaps(o source) bool {
	return s.kind == o.kind && s.name == o.name &&
		(s.scheme == "" || o.scheme == "" || strings.EqualFold(s.scheme, o.scheme))
}

const bearerScheme = "Bearer"

// challenges are the values of WWW-Authenticate in a 401 (RFC 9110 §11.6.1).
type challenges struct{ missing, invalid []string }

// challenges returns one challenge for each source that reads Authorization with a scheme. It
// returns that of Bearer if there are none, because a 401 needs a challenge.
func (s sources) challenges(realm string) (c challenges) {
	add := func(scheme string) {
		challenge := scheme + ` realm="` + realm + `"`
		c.missing = append(c.missing, challenge)
		if scheme == bearerScheme {
			challenge += `, error="invalid_token"` // RFC 6750 §3.1
		}
		c.invalid = append(c.invalid, challenge)
	}
	for _, source := range s.list {
		switch {
		case source.name != "Authorization" || source.scheme == "":
		case strings.EqualFold(source.scheme, bearerScheme):
			add(bearerScheme)
		default:
			add(source.scheme)
		}
	}
	if c.missing == nil {
		add(bearerScheme)
	}
	return c
}

// widest returns the source with which to judge a token whose source is not known. Unlike the others,
// cookies carry no derived tokens, and `bearer` also carries the tokens that `foreign pass` passes
// on.
func (s sources) widest() *source {
	at := slices.IndexFunc(s.list, func(s source) bool { return s.bearer })
	if at < 0 {
		at = slices.IndexFunc(s.list, func(s source) bool { return s.kind != redact.Cookie })
	}
	return &s.list[max(0, at)]
}

// declared returns the sources for the log encoder.
func (s sources) declared() []redact.Source {
	out := make([]redact.Source, len(s.list))
	for i, source := range s.list {
		out[i] = redact.Source{Kind: source.kind, Name: source.name}
	}
	return out
}

// A credential is the text of a credential in a request. It need not be a valid token.
type credential struct {
	token  string // decoded
	raw    string // as encoded in the request
	broken bool   // whether decoding failed
	source *source
}

// find returns the one credential of a request. The outcome is [keystore.OK], [keystore.Missing] or
// [keystore.Ambiguous].
func (s *sources) find(header http.Header, rawQuery string) (credential, keystore.Outcome) {
	var found credential
	for i := range s.list {
		source := &s.list[i]
		c, n := source.find(header, rawQuery)
		if n > 1 || n == 1 && found.source != nil {
			return credential{}, keystore.Ambiguous
		}
		if n == 1 {
			found, found.source = c, source
		}
	}
	if found.token == "" && !found.broken {
		return credential{}, keystore.Missing
	}
	return found, keystore.OK
}

// find returns the credential in the source and how many there are. It may stop counting at 2. The
// credential is valid only if n is 1.
func (s *source) find(header http.Header, rawQuery string) (c credential, n int) {
	switch s.kind {
	case redact.Header:
		lines := header[s.name]
		if len(lines) != 1 {
			return c, len(lines)
		}
		value, ok := cutScheme(lines[0], s.scheme)
		if !ok {
			return c, 0
		}
		c, n = credential{token: value, raw: value}, 1
		if s.basic {
			c.token, c.broken = basicToken(value)
		}
	case redact.Query:
		for rest := rawQuery; rest != "" && n < 2; {
			var pair string
			pair, rest = route.CutPair(rest)
			if value, ok := route.QueryValue(pair, s.name); ok {
				c.raw = value
				n++
			}
		}
		if n == 1 {
			token, err := url.QueryUnescape(c.raw)
			c.token, c.broken = token, err != nil
		}
	case redact.Cookie:
		for _, line := range header["Cookie"] {
			for _, pair := range cookiePairs(line) {
				if value, ok := s.cookie(pair); ok {
					c.token, c.raw = value, value
					n++
				}
			}
		}
	}
	c.token = keystore.TrimSecretToken(c.token)
	return c, n
}

// all returns every credential of a request, even if there are several.
func (s *sources) all(header http.Header, rawQuery string) (found []credential) {
	for i := range s.list {
		source := &s.list[i]
		add := func(header http.Header, query string) {
			if c, n := source.find(header, query); n == 1 {
				found = append(found, c)
			}
		}
		switch source.kind {
		case redact.Header:
			for _, line := range header[source.name] {
				add(http.Header{source.name: {line}}, "")
			}
		case redact.Query:
			for rest := rawQuery; rest != ""; {
				var pair string
				pair, rest = route.CutPair(rest)
				add(nil, pair)
			}
		case redact.Cookie:
			for _, line := range header["Cookie"] {
				for _, pair := range cookiePairs(line) {
					add(http.Header{"Cookie": {pair}}, "")
				}
			}
		}
	}
	return found
}

// cutScheme returns the part of value after the scheme and its spaces (RFC 9110 §11.4). It returns
// the whole value if scheme is empty, and false if value has another scheme.
func cutScheme(value, scheme string) (string, bool) {
	if scheme == "" {
		return value, true
	}
	if len(value) < len(scheme) || !strings.EqualFold(value[:len(scheme)], scheme) {
		return "", false
	}
	rest := value[len(scheme):]
	if rest != "" && rest[0] != ' ' {
		return "", false
	}
	return strings.TrimLeft(rest, " "), true
}

// basicToken returns the password, or the user name if the password is empty.
func basicToken(value string) (token string, broken bool) {
	decoded, err := base64.StdEncoding.DecodeString(value)
	if err != nil {
		return "", true
	}
	user, password, colon := strings.Cut(string(decoded), ":")
	if !colon && user != "" {
		return "", true
	}
	if password == "" {
		return user, false
	}
	return password, false
}

// cookiePairs splits a Cookie line and preserves spaces.
func cookiePairs(line string) []string { return strings.Split(line, ";") }

// cookie returns the value of a cookie pair, without quotes, if it has the source's name.
func (s *source) cookie(pair string) (value string, ok bool) {
	name, value, _ := strings.Cut(pair, "=")
	if strings.Trim(name, " \t") != s.name {
		return "", false
	}
	value = strings.Trim(value, " \t")
	if len(value) > 1 && value[0] == '"' && value[len(value)-1] == '"' {
		value = value[1 : len(value)-1]
	}
	return value, true
}

// remove removes every credential from a request. It leaves headers with another scheme alone.
func (s *sources) remove(r *http.Request) {
	for i := range s.list {
		source := &s.list[i]
		if _, n := source.find(r.Header, ""); n > 0 || source.kind == redact.Query {
			source.remove(r)
		}
	}
}

// remove removes the source's header, parameters or cookies from a request.
func (s *source) remove(r *http.Request) {
	switch s.kind {
	case redact.Header:
		delete(r.Header, s.name)
	case redact.Query:
		setQuery(r, s.withoutParameter)
	case redact.Cookie:
		s.removeCookie(r.Header)
	}
}

// withoutParameter returns the query without the pairs that have the source's name, each with one
// separator. The other pairs do not change.
func (s *source) withoutParameter(query string) string {
	var rest []byte
	first := true
	for start := 0; start <= len(query); {
		pair, _ := route.CutPair(query[start:])
		if _, ok := route.QueryValue(pair, s.name); !ok {
			if !first {
				rest = append(rest, query[start-1])
			}
			rest = append(rest, pair...)
			first = false
		}
		start += len(pair) + 1
	}
	return string(rest)
}

func (s *source) removeCookie(header http.Header) {
	var lines []string
	for _, line := range header["Cookie"] {
		pairs := slices.DeleteFunc(cookiePairs(line), func(pair string) bool {
			_, ok := s.cookie(pair)
			return ok
		})
		if line = strings.TrimLeft(strings.Join(pairs, ";"), " \t"); line != "" {
			lines = append(lines, line)
		}
	}
	if lines == nil {
		delete(header, "Cookie")
		return
	}
	header["Cookie"] = lines
}

// isB64Token reports whether s has the form of a bearer token (RFC 6750 §2.1).
func isB64Token(s string) bool {
	body := strings.TrimRight(s, "=")
	for i := range len(body) {
		if !ascii.IsAlphanumeric(body[i]) && strings.IndexByte("-._~+/", body[i]) < 0 {
			return false
		}
	}
	return body != ""
}
