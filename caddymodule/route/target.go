package route

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/caddy-apikeys/caddy-apikeys/caddymodule/internal/ascii"
)

// pathBytes says what a byte of a path calls for.
var pathBytes = func() (class [256]byte) {
	for _, c := range []byte("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.~!$&'()*+,=:@") {
		class[c] = 'p' // plain
	}
	class['/'] = '/'
	return class // all others: zero, a closer look
}()

// CanonicalPath reports whether an escaped path has a leading slash and none of these, raw or
// encoded: a segment that ends in a dot or in white space, an empty segment but the last, a
// backslash, `;`, `#`, a control byte, an encoded dot, an encoded slash (unless allowed), a percent
// sign before two hex digits, invalid UTF-8. Its time is linear in the path's length.
//
// A segment that ends in a dot is `.`, `..`, or one that file systems and frameworks treat like the
// segment without the dot.
func CanonicalPath(path string, encodedSlash bool) bool {
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

// canonicalEscaped is CanonicalPath for paths with other than plain bytes.
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
		case c == '%' && i+2 < len(decoded) && ascii.IsHex(decoded[i+1]) &&
			ascii.IsHex(decoded[i+2]):
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

// IsOneURI reports whether the value of a header can be one URI. White space and control bytes are
// in none. A comma before another path or URI is how proxies join two values to one.
func IsOneURI(value string) bool {
	for i := range len(value) {
		switch c := value[i]; {
		case c <= ' ' || c == 0x7f:
			return false
		case c == ',' && (strings.HasPrefix(value[i+1:], "/") ||
			strings.Contains(value[i+1:min(len(value), i+len(",https://"))], "://")):
			return false
		}
	}
	return true
}

// Locate returns the escaped path and the query that a URI in a header names, and whether it is on
// another host than the request's. With relative, a value without a leading slash is relative to
// the root.
func Locate(value, host string, relative bool) (path, query string, elsewhere bool) {
	scheme, rest, _ := strings.Cut(value, "://")
	first, _ := cutSegment(value)
	switch {
	case strings.HasPrefix(value, "/"):
		path = value
	case strings.EqualFold(scheme, "http"), strings.EqualFold(scheme, "https"):
		authority := rest
		if i := strings.IndexAny(rest, "/?"); i >= 0 {
			authority = rest[:i]
		}
		path, elsewhere = rest[len(authority):], !sameHost(scheme, authority, host)
		if path == "" {
			path = "/"
		}
	case relative && value != "" && !strings.Contains(first, ":"):
		path = "/" + value
	case value == "":
		return "", "", false
	default:
		return "/", "", true
	}
	path, query, _ = strings.Cut(path, "?")
	if strings.ContainsAny(query, `/\%`) {
		// a program that takes the query for a part of the path would read another path
		return "", "", elsewhere
	}
	return path, query, elsewhere
}

// sameHost reports whether the authority of a URI is the one that a request came for.
func sameHost(scheme, authority, host string) bool {
	port := ":80"
	if strings.EqualFold(scheme, "https") {
		port = ":443"
	}
	authority, host = strings.TrimSuffix(authority, port), strings.TrimSuffix(host, port)
	return authority != "" && ascii.ToLower(authority) == ascii.ToLower(host)
}
