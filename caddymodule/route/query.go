package route

import (
	"net/url"
	"strings"
)

// CutPair cuts a raw query at its first separator. Servers differ on whether `;` is one: for us it
// is, since then no one else finds a credential that we have not seen.
func CutPair(query string) (pair, rest string) {
	if i := strings.IndexAny(query, "&;"); i >= 0 {
		return query[:i], query[i+1:]
	}
	return query, ""
}

// QueryValue returns the raw value of a pair of the query if it has this name.
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
