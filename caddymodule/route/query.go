package route

import (
	"net/url"
	"strings"
)

// CutPair cuts a raw query at its first separator. Servers differ on whether `;` is a separator.
// Here it is, so that no other server can find a credential that this one has missed.
func CutPair(query string) (pair, rest string) {
	if i := strings.IndexAny(query, "&;"); i >= 0 {
		return query[:i], query[i+1:]
	}
	return query, ""
}

// QueryValue returns the raw value of a NAME=VALUE pair of a query. ok reports whether the pair has
// this name, which may be percent-encoded.
func QueryValue(pair, name string) (value string, ok bool) {
	encoded, value, _ := strings.Cut(pair, "=")
	if encoded == name {
		return value, true
	}
	if !strings.ContainsAny(encoded, "%+") {
		return "", false
	}
	decoded, err := url.QueryUnescape(encoded)
	return value, err == nil && decoded == name
}
