package route

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/caddy-apikeys/caddy-apikeys/caddymodule/internal/ascii"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// newTestIndex returns an index of `METHOD PATTERN` lines. A pattern after `=` is exact, and after
// `{}` it is an OpenAPI template.
func newTestIndex(t testing.TB, lines ...string) *index {
	t.Helper()
	list := make([]operation, len(lines))
	for i, line := range lines {
		method, text, _ := strings.Cut(line, " ")
		var err error
		o := operation{method: method, place: line,
			need: keystore.Need{Resource: "r", Operation: fmt.Sprint(i)}}
		if template, ok := strings.CutPrefix(text, "{}"); ok {
			o.pattern, err = parseTemplate(template)
		} else {
			text, exact := strings.CutPrefix(text, "=")
			o.pattern, err = splitPattern(text, exact)
		}
		if err != nil {
			t.Fatal(err)
		}
		list[i] = o
	}
	return newIndex(list)
}

func TestIndex(t *testing.T) {
	table := newTestIndex(t,
		"GET /orders", "GET /orders/{id}", "GET /orders/mine", "GET /orders/*/lines/{n}",
		"GET /{any}/x/lines/1", "GET /files/**", "GET /files/a/b", "GET /**",
		"POST =/orders/search", "POST /orders/{id}", "POST =/Weiß/a%20b/{x}", "POST =/a:b/c d/é",
		"PUT {}/files/{name}.json", "PUT {}/files/{a}-{b}", "PUT {}/files/{name}",
		"PUT {}/files/{name}.min.json", "PUT {}/compare/{base}...{head}", "PUT {}/V1/{x}:Cancel",
		"PUT {}/(id='{id}')/{a}{b}/*",
	)
	for path, want := range map[string]string{
		"GET /orders":             "GET /orders",
		"GET /Orders/":            "GET /orders",
		"GET /orders/7":           "GET /orders/{id}",
		"GET /orders/MINE":        "GET /orders/mine",
		"GET /orders/%6dine/":     "GET /orders/mine",
		"GET /orders/a/lines/1":   "GET /orders/*/lines/{n}",
		"GET /orders/x/lines/1":   "GET /{any}/x/lines/1",
		"GET /orders/x/lines/2":   "GET /orders/*/lines/{n}",
		"GET /orders/x/lines":     "GET /**",
		"GET /files":              "GET /files/**",
		"GET /files/a":            "GET /files/**",
		"GET /files/a/b":          "GET /files/a/b",
		"GET /files/a/b/c":        "GET /files/**",
		"GET /":                   "GET /**",
		"get /orders":             "",
		"HEAD /orders":            "",
		"POST /orders/search":     "POST =/orders/search",
		"POST /orders/search/":    "POST =/orders/search",
		"POST /orders/SEARCH":     "POST /orders/{id}",
		"POST /orders/%73earch":   "POST /orders/{id}",
		"POST /orders/search%20":  "POST /orders/{id}",
		"POST /Orders/search":     "POST /orders/{id}",
		"POST /a:b/c%20d/%C3%A9":  "POST =/a:b/c d/é",
		"POST /a%3Ab/c%20d/%C3é":  "",
		"POST /a%3Ab/c%20d/%C3%9": "",
		"POST /a:b/c%20d/%c3%a9":  "",
		"POST /a:b/c%20d/é":       "",
		"PUT /files/a.json":       "PUT {}/files/{name}.json",
		"PUT /files/A.JSON":       "PUT {}/files/{name}.json",
		"PUT /files/.json":        "PUT {}/files/{name}",
		"PUT /files/a-b.json":     "PUT {}/files/{name}.json",
		"PUT /files/a.min.json":   "PUT {}/files/{name}.min.json",
		"PUT /files/a-b":          "PUT {}/files/{a}-{b}",
		"PUT /files/a--":          "PUT {}/files/{a}-{b}",
		"PUT /files/a-":           "PUT {}/files/{name}",
		"PUT /files/-b":           "PUT {}/files/{name}",
		"PUT /files/a%2Db":        "PUT {}/files/{a}-{b}",
		"PUT /files/ab":           "PUT {}/files/{name}",
		"PUT /files/":             "",
		"PUT /compare/a...b":      "PUT {}/compare/{base}...{head}",
		"PUT /compare/a......b":   "PUT {}/compare/{base}...{head}",
		"PUT /compare/a..b":       "",
		"PUT /v1/7:cancel":        "PUT {}/V1/{x}:Cancel",
		"PUT /v1/:cancel":         "",
		"PUT /(id='7')/ab/*":      "PUT {}/(id='{id}')/{a}{b}/*",
		"PUT /(id='')/ab/*":       "",
		"PUT /(id='7')/a/*":       "",
		"PUT /(id='7')/ab/c":      "",
	} {
		method, target, _ := strings.Cut(path, " ")
		got := ""
		if o := table.find(method, target); o != nil {
			got = o.place
		}
		if got != want {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
}

func TestTemplateErrors(t *testing.T) {
	for text, want := range map[string]string{
		"": "must begin with /", "a": "must begin with /", "/a//b": "empty segment",
		"/a/../b": `the segment ".."`, "/./b": `the segment "."`,
		"/a\x00": "has a control character", "/a?b=c": "has a query",
		"/a#b": "has a query or a fragment", "/a/}": "has a } without {",
		"/a{": "has a { that begins no {name}", "/{}": "that begins no {name}",
		"/a%2Fb": "has an encoded slash", "/a%00": "has a control character",
		"/x/{a}%0A": "has a control character", "/a%2e%2e": "which no request can have",
		"/a.": `the segment "a.", which no request can have`, "/{a}.": "which no request can have",
		"/a%20": "which no request can have", "/a;b": "which no request can have",
		"/a%2541": "which no request can have",
		"/{a{b}}": "that begins no {name}", "/{a/b}": "that begins no {name}",
		"/{a}}": "has a } without {",
	} {
		if _, err := parseTemplate(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// TestEscapedTemplates checks that the percent-encoding of a template is decoded, as it is in the
// paths of servers.
func TestEscapedTemplates(t *testing.T) {
	for template, test := range map[string]struct{ match, other string }{
		"/caf%C3%A9/{id}":    {"/caf%c3%a9/7", "/caf/7"},
		"/a%20b":             {"/a%20b", "/a+b"},
		"/%7Bid%7D":          {"/%7Bid%7D", "/7"},
		"/what%3F/{x}%2Ejs":  {"/what%3f/a.js", "/what/a.js"},
		"/%2a":               {"/*", "/a"},
		"/100%":              {"/100%25", "/100"},
		"/100%25":            {"/100%25", "/100"},
		"/users/{id}%3Apoke": {"/users/7:poke", "/users/7"},
	} {
		p, err := parseTemplate(template)
		if err != nil {
			t.Error(err)
			continue
		}
		table := newIndex([]operation{{method: "GET", pattern: p}})
		if table.find("GET", test.match) == nil || table.find("GET", test.other) != nil {
			t.Errorf("%s: %v, %v", template, table.find("GET", test.match),
				table.find("GET", test.other))
		}
	}
}

// referenceFind is a simple implementation of find: it compares all patterns, segment by segment.
func (t *index) referenceFind(method, path string) *operation {
	split := func(s string) []string {
		if s = strings.TrimSuffix(s[1:], "/"); s == "" {
			return nil
		}
		return strings.Split(s, "/")
	}
	words := split(path)
	var best *operation
	var most [2]int
	for i := range t.operations {
		o := &t.operations[i]
		matches := o.method == method && (len(words) == len(o.pattern.segments) || o.pattern.rest &&
			len(words) >= len(o.pattern.segments))
		for j := 0; matches && j < len(o.pattern.segments); j++ {
			matches = o.pattern.segments[j].referenceMatch(words[j], o.pattern.exact)
		}
		if w := referenceWeight(o); matches &&
			(best == nil || w[0] > most[0] || w[0] == most[0] && w[1] > most[1]) {
			most = w
			best = o
		}
	}
	return best
}

func (s segment) referenceMatch(word string, exact bool) bool {
	decoded, err := url.PathUnescape(word)
	if err != nil {
		decoded = word
	}
	switch {
	case s.literal != "" && exact:
		return decoded == s.literal && word == escapeLiteral(s.literal)
	case s.literal != "":
		return ascii.ToLower(decoded) == s.literal
	case s.mixed != "":
		return referenceMixed(s.mixed, ascii.ToLower(decoded))
	}
	return true
}

func referenceMixed(mixed, word string) bool {
	if mixed == "" {
		return word == ""
	}
	if mixed[:1] != parameter {
		return word != "" && word[0] == mixed[0] && referenceMixed(mixed[1:], word[1:])
	}
	for i := 1; i <= len(word); i++ {
		if referenceMixed(mixed[1:], word[i:]) {
			return true
		}
	}
	return false
}

func referenceWeight(o *operation) [2]int {
	var w [2]int
	for _, s := range o.pattern.segments {
		if s.literal != "" {
			w[0]++
		}
		w[1] += len(strings.ReplaceAll(s.mixed, parameter, ""))
	}
	return w
}

func FuzzIndex(f *testing.F) {
	f.Add("GET /a/{x}\nGET /a/b\nPOST =/a/B", "GET /a/%62")
	f.Add("GET {}/a/{x}.json\nGET {}/a/{x}-{y}\nGET {}/{x}{y}/b:c", "GET /a/x-y.json")
	f.Add("GET /**\nGET /a/**\nGET =/a/b c", "GET /a/b%20c/")
	f.Add("GET {}/{a}.{b}.{c}/x\nGET {}/{a}b\nGET /{x}", "GET /a.b..c/x")
	f.Fuzz(func(t *testing.T, lines, call string) {
		var list []operation
		for line := range strings.SplitSeq(lines, "\n") {
			method, text, _ := strings.Cut(line, " ")
			template, open := strings.CutPrefix(text, "{}")
			text, exact := strings.CutPrefix(text, "=")
			p, err := splitPattern(text, exact)
			if open {
				p, err = parseTemplate(template)
			}
			if err == nil && !strings.Contains(text, parameter) {
				list = append(list, operation{method: method, pattern: p,
					place: fmt.Sprint(len(list))})
			}
		}
		method, path, _ := strings.Cut(call, " ")
		if !CanonicalPath(path, true) {
			return
		}
		compareFinds(t, newIndex(list), method, path)
	})
}

func compareFinds(t *testing.T, table *index, method, path string) {
	t.Helper()
	if got, want := table.find(method, path), table.referenceFind(method, path); got != want {
		t.Errorf("%s %s is %+v, want %+v", method, path, got, want)
	}
}

// TestRandomTables compares find with referenceFind on random tables and paths of a few words.
func TestRandomTables(t *testing.T) {
	random := rand.New(rand.NewPCG(7, 11))
	pick := func(words ...string) string { return words[random.IntN(len(words))] }
	segments := []string{"a", "B", "c d", "{x}", "{x}", "{x}.j", "{x}-{y}", "b{x}", "{x}{y}", "é"}
	words := []string{"a", "A", "b", "B", "c%20d", "%61", "a.j", "A.J", "a-b", "a-b.j", "ba",
		"bb-b", "%C3%A9", "x", "-", ".j"}
	hits := 0
	for range 3000 {
		lines := make([]string, 1+random.IntN(12))
		for i := range lines {
			prefix := pick("", "", "=", "{}", "{}", "{}")
			path := ""
			for range 1 + random.IntN(4) {
				path += "/" + pick(segments...)
			}
			if prefix != "{}" {
				path += pick("", "", "/**")
			}
			lines[i] = pick("GET", "PUT") + " " + prefix + path
		}
		table := newTestIndex(t, lines...)
		for range 20 {
			path := ""
			for range 1 + random.IntN(5) {
				path += "/" + pick(words...)
			}
			if table.find("GET", path) != nil {
				hits++
			}
			compareFinds(t, table, "GET", path+pick("", "/"))
		}
	}
	if hits < 1000 {
		t.Errorf("only %d calls match an operation: the test proves nothing", hits)
	}
}

// bigTable returns the index of a large API: a thousand templates in fifty parts, with nested
// collections.
func bigTable(t testing.TB) *index {
	var lines []string
	for part := range 50 {
		for kind := range 5 {
			at := fmt.Sprintf("GET {}/v1/part%d/kind%d", part, kind)
			lines = append(lines, at, at+"/{id}", at+"/{id}/items/{item}.json",
				at+"/{id}/items/{item}")
		}
	}
	return newTestIndex(t, lines...)
}

var bigCalls = []string{"/v1/part37/kind3/4711/items/99", "/V1/Part37/kind3/%34711/items/99.json",
	"/v1/part37/kind3/4711/nothing", "/v2/nothing", "/v1/part49/kind4"}

func TestIndexDoesNotAllocate(t *testing.T) {
	table := bigTable(t)
	for _, path := range bigCalls {
		if n := testing.AllocsPerRun(100, func() { table.find(http.MethodGet, path) }); n != 0 {
			t.Errorf("%s: %v allocations", path, n)
		}
	}
}

func BenchmarkTable(b *testing.B) {
	table := bigTable(b)
	for _, path := range bigCalls {
		b.Run(path[1:], func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				table.find(http.MethodGet, path)
			}
		})
	}
}
