package route

import (
	"net/url"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/caddy-apikeys/caddy-apikeys/caddymodule/internal/ascii"
)

func TestCanonicalPath(t *testing.T) {
	for path, want := range map[string]bool{
		"/": true, "/a": true, "/a/": true, "/a/b.c": true, "/a/.b": true, "/..a": true,
		"/.b.c/d": true, "/a~-_!$&'()*+,=:@": true,
		"/%41dmin": true, "/a%20b": true, "/caf%C3%A9": true, "/café": true, "/100%25": true,
		"/a%25b": true, "/a%25zz": true, "/a%3Fb": true,
		"": false, "a": false, "*": false, "?": false,
		"/a/...": false, "/a.": false, "/a./b": false, "/caf%C3%A9.": false, "/caf%C3%A9./x": false,
		"/a%20": false, "/a%20/b": false, "/a/%20": false, "/a%C2%A0": false,
		"/a%e3%80%80/b": false, "/a%C2%85": false, "/a%EF%BB%BF": false, "/a%E2%80%8B/b": false,
		"//": false, "//a": false, "/a//b": false, "/a//": false,
		"/.": false, "/..": false, "/./a": false, "/a/..": false, "/a/../b": false, "/a/.": false,
		"/%2e%2e/a": false, "/.%2E/a": false, "/a%2Eb": false,
		"/a\\b": false, "/a%5cb": false, "/a;b": false, "/a%3Bb": false, "/a#b": false,
		"/a%23b": false,
		"/%00":   false, "/a%0d%0ab": false, "/a\x7f": false, "/%7f": false, "/\x01": false,
		"/a%2fb": false, "/%2F": false,
		"/%2541": false, "/%252e": false, "/a%25%32e": false, "/a%2525": false,
		"/a%2525252e": false,
		"/%c0%ae":     false, "/%ff": false, "/\xff": false, "/%ed%a0%80": false,
		"/%": false, "/%4": false, "/%zz": false,
	} {
		if got := CanonicalPath(path, false); got != want {
			t.Errorf("%q: %t", path, got)
		}
	}
	for path, want := range map[string]bool{
		"/a%2fb": true, "/a%2F": true,
		"/%2fa": false, "/a/%2f": false, "/a%2f%2fb": false, "/a%2f..%2fb": false, "/..%2fb": false,
		"/a/..%2fb": false, "/a%2f.": false, "/a%2f..": false, "/a%252fb": false,
		"/a.%2fb": false, "/a%20%2fb": false, "/a%20b%2fc": true,
	} {
		if got := CanonicalPath(path, true); got != want {
			t.Errorf("with encoded slashes, %q: %t", path, got)
		}
	}
}

// referenceCanonical is a simple implementation of CanonicalPath, in the order of docs/api_key.md,
// rule 2.
func referenceCanonical(path string, encodedSlash bool) bool {
	lower := strings.ToLower(path)
	decoded, err := url.PathUnescape(path)
	if err != nil || !strings.HasPrefix(path, "/") || strings.Contains(lower, "%2e") ||
		!encodedSlash && strings.Contains(lower, "%2f") || !utf8.ValidString(decoded) {
		return false
	}
	if strings.ContainsAny(decoded, "\\;#\x7f") || strings.Contains(decoded, "//") ||
		strings.ContainsFunc(decoded, func(r rune) bool { return r < ' ' }) {
		return false
	}
	for word := range strings.SplitSeq(decoded, "/") {
		if strings.TrimRight(word, ".") != word ||
			strings.TrimRightFunc(word, unicode.IsSpace) != word ||
			strings.TrimRight(word, "\u180e\u200b\ufeff") != word {
			return false
		}
	}
	for i := range decoded {
		if decoded[i] == '%' && i+2 < len(decoded) && ascii.IsHex(decoded[i+1]) &&
			ascii.IsHex(decoded[i+2]) {
			return false
		}
	}
	return true
}

func FuzzCanonicalPath(f *testing.F) {
	for _, path := range []string{"/a/b", "/a/../b", "/%2e", "/%25%32e", "/a%2f..", "//",
		"/caf%c3%a9/.", "/a%2f%2e", "/;", "/%5C"} {
		f.Add(path, true)
		f.Add(path, false)
	}
	f.Fuzz(func(t *testing.T, path string, encodedSlash bool) {
		if got, want := CanonicalPath(path, encodedSlash),
			referenceCanonical(path, encodedSlash); got != want {
			t.Errorf("%q, %t: %t, want %t", path, encodedSlash, got, want)
		}
	})
}
