package route

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/caddy-apikeys/caddy-apikeys/caddymodule/internal/ascii"
)

// pathBytes classifies the bytes of a path: 'p' for plain bytes, '/' for the slash, and 0 for bytes
// that need canonicalEscaped.
var pathBytes = func() (class [256]byte) {
	for _, c := range []byte("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.~!$&'()*+,=:@") {
		class[c] = 'p'
	}
	class['/'] = '/'
	return class
}()

// CanonicalPath reports whether an escaped path is unambiguous (docs/api_key.md, rule 2). Such a
// path begins with a slash and has none of these, raw or encoded:
//   - a segment that ends in a dot or in white space;
//   - an empty segment, except the last;
//   - a backslash, `;`, `#`, a control byte or invalid UTF-8;
//   - an encoded dot, or an encoded slash unless encodedSlash is true;
//   - an encoded percent sign before two hexadecimal digits, which is a double encoding, or a raw
//     one without them.
//
// A segment that ends in a dot is `.`, `..`, or one that file systems and frameworks treat like the
// segment without the dot. CanonicalPath takes time linear in the length of the path.
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

// canonicalEscaped is CanonicalPath for paths that have bytes other than plain ones.
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

// endsPlainly reports whether a segment ends in neither a dot nor a character that programs trim:
// white space (Unicode's White_Space), or an invisible character that some treat as white space.
func endsPlainly(segment []byte) bool {
	last, _ := utf8.DecodeLastRune(segment)
	switch last {
	case '.', '\u180e', '\u200b', '\ufeff':
		return false
	}
	return !unicode.IsSpace(last)
}

// IsOneURI reports whether the value of a header can be a single URI. It must not have white space
// or control bytes. Nor may it have a comma before another path or URI, because proxies join two
// values that way.
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

// Locate returns the escaped path and the query of a URI in a header, and reports whether the URI
// is on another host than the request. If relative is true, a value without a leading slash is
// relative to the root. The path is empty if the value is empty or its query is ambiguous.
func Locate(value, host string, relative bool) (path, query string, otherHost bool) {
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
		path, otherHost = rest[len(authority):], !sameHost(scheme, authority, host)
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
		// A program that reads the query as part of the path would see another path.
		return "", "", otherHost
	}
	return path, query, otherHost
}

// sameHost reports whether the authority of a URI is the host of a request. The default port of the
// scheme is ignored.
func sameHost(scheme, authority, host string) bool {
	port := ":80"
	if strings.EqualFold(scheme, "https") {
		port = ":443"
	}
	authority, host = strings.TrimSuffix(authority, port), strings.TrimSuffix(host, port)
	return authority != "" && ascii.ToLower(authority) == ascii.ToLower(host)
}
