package route

import (
	"net/url"
	"strings"
	"testing"

	"github.com/caddy-apikeys/caddy-apikeys/caddymodule/internal/ascii"
)

func TestPattern(t *testing.T) {
	const no = "no"
	for _, test := range []struct{ pattern, path, want string }{
		{"/", "/", ""}, {"/", "/a", no},
		{"/a", "/a", ""}, {"/a", "/a/", ""}, {"/a/", "/a", ""}, {"/a", "/A", ""}, {"/a", "/b", no},
		{"/a", "/", no}, {"/a", "/a/b", no}, {"/a", "/ab", no}, {"/ab", "/a", no},
		{"/a", "/%61", ""}, {"/a", "/%41", ""}, {"/é", "/%C3%A9", ""}, {"/É", "/%C3%A9", no},
		{"/a b", "/a%20b", ""},
		{"/a/*", "/a", ""}, {"/a/*", "/a/", ""}, {"/a/*", "/a/b/c", ""}, {"/a/*", "/ab", no},
		{"/a/**", "/a/b/c", ""}, {"/a/**", "/a", ""}, {"/**", "/", ""}, {"/*", "/a/b", ""},
		{"/*/b", "/a/b", ""}, {"/*/b", "/b", no}, {"/*/b", "/a/c/b", no}, {"/a*", "/a*", ""},
		{"/a*", "/ab", no}, {"/*.js", "/x.js", no},
		{"/{x}", "/a", ""}, {"/{x}", "/", no}, {"/{x}", "/a/b", no},
		{"/{http.request.uri.path}/b", "/a/b", ""}, {"/{}", "/a", no}, {"/{}", "/{}", ""},
		{"/v1/{namespace}/**", "/v1/acme/x", "acme"}, {"/v1/{namespace}/**", "/v1/acme", "acme"},
		{"/v1/{namespace}/**", "/v1/", no}, {"/v1/{namespace}/**", "/V1/Acme/", "Acme"},
		{"/v1/{namespace}", "/v1/a%2Fb", "a/b"}, {"/{x}/{namespace}", "/a/b", "b"},
		{"/{namespace}/x", "/caf%C3%A9/x", "café"},
		{"/%61", "/a", no}, {"/%61", "/%2561", ""},
	} {
		p, err := splitPattern(test.pattern, false)
		if err != nil {
			t.Fatal(err)
		}
		got, ok := p.Match(test.path)
		if !ok {
			got = no
		}
		if got != test.want {
			t.Errorf("%s on %s: %q, want %q", test.pattern, test.path, got, test.want)
		}
	}
	if p, _ := splitPattern("/Health", true); !matches(p, "/Health/") ||
		!matches(p, "/%48ealth") || matches(p, "/health") {
		t.Error("an exact pattern must differ only in case sensitivity")
	}
}

func matches(p Pattern, path string) bool {
	_, ok := p.Match(path)
	return ok
}

func TestPatternErrors(t *testing.T) {
	for text, want := range map[string]string{
		"":                           "must begin with /",
		"a/b":                        "must begin with /",
		"/a//b":                      "empty segment",
		"//":                         "empty segment",
		"/a/**/b":                    "before its end",
		"/a/../b":                    "no request can have",
		"/.":                         "no request can have",
		"/{namespace}/x/{namespace}": "twice",
	} {
		if _, err := splitPattern(text, false); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestPatternOrder(t *testing.T) {
	var list []Pattern
	var err error
	for _, text := range []string{"/**", "/{a}/{b}", "/v1/*", "/v1/{b}", "/{a}/x", "/v1/x"} {
		if list, err = AddPattern(list, "test", text, false); err != nil {
			t.Fatal(err)
		}
	}
	SortPatterns(list)
	var got []string
	for _, p := range list {
		got = append(got, p.text)
	}
	if want := "/v1/x /v1/* /v1/{b} /{a}/x /** /{a}/{b}"; strings.Join(got, " ") != want {
		t.Errorf("%s, want %s", got, want)
	}
	for _, text := range []string{"/*", "/V1/X/", "/*/{z}", "/{c}/x"} {
		if _, err := AddPattern(list, "test", text, false); err == nil {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// referenceMatch is a simple implementation of Match.
func referenceMatch(text, path string, exact bool) (string, bool) {
	split := func(s string) []string {
		s = strings.TrimSuffix(strings.TrimPrefix(s, "/"), "/")
		if s == "" {
			return nil
		}
		return strings.Split(s, "/")
	}
	want, have := split(text), split(path)
	namespace := ""
	for i, word := range want {
		if i == len(want)-1 && (word == "*" || word == "**") {
			return namespace, true
		}
		if i >= len(have) {
			return "", false
		}
		decoded, err := url.PathUnescape(have[i])
		if err != nil {
			return "", false
		}
		switch {
		case word == "{namespace}":
			namespace = decoded
		case word == "*", isParameter(word):
		case exact && word != decoded, !exact && ascii.ToLower(word) != ascii.ToLower(decoded):
			return "", false
		}
	}
	return namespace, len(have) == len(want)
}

func FuzzPattern(f *testing.F) {
	for _, seed := range [][2]string{
		{"/v1/{namespace}/**", "/v1/acme/x"}, {"/a/*/c", "/a/b/c/"}, {"/A%20b/{x}", "/a%20b/%2f"},
		{"/", "/"}, {"/{namespace}", "/%41"}, {"/a/**", "/a"},
	} {
		f.Add(seed[0], seed[1], true)
		f.Add(seed[0], seed[1], false)
	}
	f.Fuzz(func(t *testing.T, text, path string, exact bool) {
		p, err := splitPattern(text, exact)
		if err != nil || !CanonicalPath(path, true) {
			return
		}
		got, ok := p.Match(path)
		if want, wantOK := referenceMatch(text, path, exact); got != want || ok != wantOK {
			t.Errorf("%q on %q: %q %t, want %q %t", text, path, got, ok, want, wantOK)
		}
	})
}

func TestPatternDoesNotAllocate(t *testing.T) {
	p, err := splitPattern("/v1/workspaces/{namespace}/**", false)
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]float64{"/v1/workspaces/acme/items/1": 0,
		"/V1/%77orkspaces/acme": 0, "/v2": 0} {
		if n := testing.AllocsPerRun(100, func() { p.Match(path) }); n != want {
			t.Errorf("%s: %v allocations", path, n)
		}
	}
}
