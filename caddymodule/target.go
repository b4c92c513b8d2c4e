package caddymodule

import (
	"net/http"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/caddy-apikeys/caddy-apikeys/caddymodule/internal/ascii"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// canonicalTarget reports whether the path of r, as it will be sent on (its URL's EscapedPath) and
// as it came, is read in the same way by everyone who may read it: see canonicalPath. An
// absolute-form target is not, since net/http lets its authority replace the Host line.
func canonicalTarget(r *http.Request, sent string, encodedSlash bool) bool {
	if r.Method == http.MethodConnect && r.URL.Path == "" {
		// it has an authority and no path (RFC 9112 §3.2.3), and is refused for its method
		return true
	}
	if r.URL.Opaque != "" {
		return false
	}
	if !canonicalPath(sent, encodedSlash) {
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
	return came == sent || canonicalPath(came, encodedSlash)
}

// pathBytes says what a byte of a path calls for.
var pathBytes = func() (class [256]byte) {
	for _, c := range []byte("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.~!$&'()*+,=:@") {
		class[c] = 'p' // plain
	}
	class['/'] = '/'
	return class // all others: zero, a closer look
}()

// canonicalPath reports whether an escaped path has a leading slash and none of these, raw or
// encoded: a segment that ends in a dot or in white space, an empty segment but the last, a
// backslash, `;`, `#`, a control byte, an encoded dot, an encoded slash (unless allowed), a percent
// sign before two hex digits, invalid UTF-8. Its time is linear in the path's length.
//
// A segment that ends in a dot is `.`, `..`, or one that file systems and frameworks treat like the
// segment without the dot.
func canonicalPath(path string, encodedSlash bool) bool {
	if path == "" || path[0] != '/' {
		return false
	}
	for i := 1; i < len(path); i++ {
		switch pathBytes[path[i]] {
		case 'p':
		case '/':
			if path[i-1] == '/' || path[i-1] == '.' {
				return false
			}
		default:
			return canonicalEscaped(path, encodedSlash)
		}
	}
	return path[len(path)-1] != '.'
}

// canonicalEscaped is canonicalPath for paths with other than plain bytes.
func canonicalEscaped(path string, encodedSlash bool) bool {
	decoded := make([]byte, 0, len(path))
	for i := 0; i < len(path); i++ {
		c := path[i]
		if c == '%' {
			if i+2 >= len(path) || !ascii.IsHex(path[i+1]) || !ascii.IsHex(path[i+2]) {
				return false
			}
			c = ascii.Unhex(path[i+1])<<4 | ascii.Unhex(path[i+2])
			i += 2
			if c == '.' || c == '/' && !encodedSlash {
				return false
			}
		}
		if c < ' ' || c == 0x7f || c == '\\' || c == ';' || c == '#' {
			return false
		}
		decoded = append(decoded, c)
	}
	for i, c := range decoded {
		switch {
		case c == '/' && i > 0 && (decoded[i-1] == '/' || !endsPlainly(decoded[:i])):
			return false
		case c == '%' && i+2 < len(decoded) && ascii.IsHex(decoded[i+1]) && ascii.IsHex(decoded[i+2]):
			return false
		}
	}
	return endsPlainly(decoded) && utf8.Valid(decoded)
}

// endsPlainly reports whether a segment ends neither in a dot nor in a character that programs
// trim: white space (Unicode's White_Space) or an invisible character that is treated as white
// space.
func endsPlainly(segment []byte) bool {
	last, _ := utf8.DecodeLastRune(segment)
	switch last {
	case '.', '\u180e', '\u200b', '\ufeff':
		return false
	}
	return !unicode.IsSpace(last)
}
