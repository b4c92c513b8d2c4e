package redact

import (
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/caddy-apikeys/caddy-apikeys/caddymodule/internal/ascii"
)

// Kind is the part of a request that carries a credential.
type Kind string

// The kinds of sources.
const (
	Header Kind = "header"
	Query  Kind = "query" // a query parameter
	Cookie Kind = "cookie"
)

// Source is a header, query parameter or cookie that a handler reads credentials from. The header
// Authorization need not be declared: the log encoder always redacts it and Proxy-Authorization.
type Source struct {
	Kind Kind
	Name string
}

// HiddenByCaddy reports whether Caddy's own encoders redact s. They do not if the server has
// log_credentials.
func (s Source) HiddenByCaddy() bool {
	return s.Kind == Cookie || s.Kind == Header && hiddenByCaddy(s.Name)
}

// hiddenByCaddy reports whether Caddy's own encoders redact a header.
func hiddenByCaddy(header string) bool {
	return strings.EqualFold(header, "Cookie") || strings.EqualFold(header, "Set-Cookie") ||
		strings.EqualFold(header, "Authorization") ||
		strings.EqualFold(header, "Proxy-Authorization")
}

// Declare makes the log encoder redact sources in every log of the process, until the process
// exits. Handlers call it in Provision, before the first request. Declaring a source again changes
// nothing. Declare may be called concurrently.
//
// Unloading a config removes no source. Caddy cleans up the handlers of the old config while their
// requests are still running, because it waits for the grace period only when the process exits.
// These requests write their log entries later.
func Declare(sources ...Source) {
	declaring.Lock()
	defer declaring.Unlock()
	old := redactedSources.Load()
	next := old.with(sources)
	if len(next.sources) != len(old.sources) {
		redactedSources.Store(next)
	}
}

var (
	declaring       sync.Mutex
	redactedSources atomic.Pointer[sourceSet]
)

func init() {
	redactedSources.Store((&sourceSet{}).with([]Source{
		{Header, "Authorization"}, {Header, "Proxy-Authorization"},
	}))
}

// sourceSet is an immutable set of sources, indexed for the log encoder.
type sourceSet struct {
	sources []Source

	headers       []string  // folded, each also as the CGI variable HTTP_NAME that php_fastcgi logs
	headerLengths uint64    // bit n: headers has a name of n bytes; bit 63: of 63 or more
	params        []param   // query parameters and cookies
	lastBytes     [256]bool // the last bytes of the params' names, in either case and not encoded
}

// param is a query parameter or a cookie. In a text it is written name=value.
type param struct {
	name          string
	tail          string // the part of name after its last separator
	query, cookie bool
}

// separators are the bytes that may precede a name in a text: the delimiters of queries and
// cookies, and the punctuation that surrounds a URL in prose and code.
var separators = func() (set [256]bool) {
	for c := range set {
		set[c] = c <= ' ' || strings.IndexByte("?&;#\"'`<>\\/,:([{|=\x7f", byte(c)) >= 0
	}
	return set
}()

// with returns a set of the sources of s and of sources.
func (s *sourceSet) with(sources []Source) *sourceSet {
	next := &sourceSet{sources: slices.Clone(s.sources)}
	for _, source := range sources {
		if source.Kind == Header {
			source.Name = foldHeader(source.Name)
		}
		if source.Name != "" && !slices.Contains(next.sources, source) {
			next.sources = append(next.sources, source)
		}
	}
	for _, source := range next.sources {
		switch source.Kind {
		case Header:
			next.addHeader(source.Name)
		case Query, Cookie:
			next.addParam(source)
		}
	}
	return next
}

// addHeader adds a header whose name is folded.
func (s *sourceSet) addHeader(folded string) {
	for _, name := range []string{folded, "http-" + folded} {
		s.headers = append(s.headers, name)
		s.headerLengths |= 1 << min(len(name), 63)
	}
}

// addParam adds a query parameter or a cookie.
func (s *sourceSet) addParam(source Source) {
	i := slices.IndexFunc(s.params, func(p param) bool { return p.name == source.Name })
	if i < 0 {
		i = len(s.params)
		tail := strings.LastIndexFunc(source.Name,
			func(r rune) bool { return r < 0x80 && separators[r] }) + 1
		s.params = append(s.params, param{name: source.Name, tail: source.Name[tail:]})
	}
	last := source.Name[len(source.Name)-1]
	s.lastBytes[last] = true
	s.lastBytes[ascii.Lower(last)] = true
	s.lastBytes[ascii.Upper(last)] = true
	if last == ' ' {
		s.lastBytes['+'] = true
	}
	if source.Kind == Query {
		s.params[i].query = true
	} else {
		s.params[i].cookie = true
		// With log_credentials Caddy does not redact these headers.
		s.addHeader("cookie")
		s.addHeader("set-cookie")
	}
}

// isHeader reports whether a field of this name has the value of a declared header.
func (s *sourceSet) isHeader(field string) bool {
	if s.headerLengths&(1<<min(len(field), 63)) == 0 {
		return false
	}
	for _, name := range s.headers {
		if equalFolded(field, name) {
			return true
		}
	}
	return false
}

// equalFolded reports whether field equals folded once it is folded.
func equalFolded(field, folded string) bool {
	if len(field) != len(folded) {
		return false
	}
	for i := range len(field) {
		if foldByte(field[i]) != folded[i] {
			return false
		}
	}
	return true
}

// foldHeader returns name in lower case, with `_` replaced by `-` as in CGI variables.
func foldHeader(name string) string {
	folded := []byte(name)
	for i, c := range folded {
		folded[i] = foldByte(c)
	}
	return string(folded)
}

func foldByte(c byte) byte {
	switch {
	case 'A' <= c && c <= 'Z':
		return c + ('a' - 'A')
	case c == '_':
		return '-'
	}
	return c
}
