package openapi

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest/linear"
)

// write writes files into a new directory and returns the path of the first one.
func write(t testing.TB, files ...string) string {
	t.Helper()
	dir := t.TempDir()
	for i := 0; i < len(files); i += 2 {
		name := filepath.Join(dir, files[i])
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(files[i+1]), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, files[0])
}

// show formats operations as `LINE METHOD bases path id|tag|summary`.
func show(d *Document) string {
	var out strings.Builder
	for _, o := range d.Operations {
		_, line, _ := strings.Cut(filepath.Base(o.Place), ":")
		fmt.Fprintf(&out, "%s %s %q %s %s|%s|%s\n", line, o.Method, o.Bases, o.Path, o.ID, o.Tag,
			o.Summary)
	}
	return out.String()
}

func TestRead(t *testing.T) {
	for name, test := range map[string]struct {
		files []string
		want  string // empty: an error
	}{
		"YAML": {[]string{"a.yaml", `
openapi: 3.0.3
info: {title: A, version: "1"}
paths:
  /orders:
    summary: all
    get:
      operationId: listOrders
      tags: [Orders, Other]
      summary: List
    post:
      tags: []
  x-more: 7
  /orders/{id}:
    parameters: []
    delete: {}
`}, `8 GET [""] /orders listOrders|Orders|List
12 POST [""] /orders ||
16 DELETE [""] /orders/{id} ||
`},
		"JSON": {[]string{"a.json", `{
"openapi":"3.1.0",
"paths":{"/a":{
 "get":{"operationId":"\ud83d\ude00","tags":[
"x"]},
	"put":{"deprecated":true,"x":1.5,"y":null}}}}`},
			"4 GET [\"\"] /a 😀|x|\n6 PUT [\"\"] /a ||\n"},
		"a byte order mark": {[]string{"a.json",
			"\ufeff{\"openapi\":\"3.1\",\"paths\":{\"/a\":{\"get\":{}}}}"}, "1 GET [\"\"] /a ||\n"},
		"a number as operationId": {[]string{"a.yaml",
			"openapi: 3.1\npaths: {/a: {get: {operationId: 7, tags: [null], summary: ~}}}"},
			"2 GET [\"\"] /a 7||\n"},
		"a server with a query": {[]string{"a.yaml", `
openapi: 3.0.0
servers: [{url: "https://a.example/v1/"}, {url: "/v%32?"}]
paths:
  /a: {get: {}}
  /b: {servers: [{url: /b}], get: {}, put: {servers: [{url: "//c/d"}]}, post: {servers: []}}
`}, ""},
		"base paths": {[]string{"a.yaml", `
openapi: 3.0.0
servers: [{url: "https://a.example/v1/"}, {url: "http://b.example:8080/v1"}, {url: "https://c.example"}, {url: "/v%32"}]
paths:
  /a: {get: {}}
  /b: {servers: [{url: /b}], get: {}, put: {servers: [{url: "//c/d"}]}, post: {servers: []}}
`}, `5 GET ["/v1" "" "/v2"] /a ||
6 GET ["/b"] /b ||
6 PUT ["/d"] /b ||
6 POST [""] /b ||
`},
		"variables of a server": {[]string{"a.yaml", `
openapi: 3.0.0
servers:
- url: "{scheme}://{host}/{base}/{v}"
  variables: {scheme: {default: https}, host: {default: a/b}, base: {default: api}, v: {default: v1, enum: [v1, v2]}}
paths: {/a: {get: {}}}
`}, `6 GET ["/api/v1" "/api/v2"] /a ||
`},
		"references": {[]string{"a.yaml", `
openapi: 3.1.0
paths:
  /a: {$ref: "#/components/pathItems/A%7E1~0"}
  /b: {$ref: parts/b.json}
  /c: {$ref: "./parts/b.json#/nested/0", put: {operationId: own}}
  /d:
    get: {$ref: "parts/op%20s.yaml#/d"}
components: {pathItems: {A/~: {get: {operationId: a}}}}
`, "parts/b.json", `{"get":{"operationId":"b"},"nested":[{"$ref":"op%20s.yaml#/c"}]}`, "parts/op s.yaml", "\nd: {operationId: d}\nc: {get: {operationId: c}}\n"}, `9 GET [""] /a a||
1 GET [""] /b b||
6 PUT [""] /c own||
3 GET [""] /c c||
8 GET [""] /d d||
`},
		"fields beside a reference": {[]string{"a.yaml", `
openapi: 3.1.0
paths:
  /a: {$ref: "#/components/pathItems/A", x-a: 1, put: {operationId: put}, summary: Own, servers: [{url: /v1}]}
  /b:
    get: {$ref: "#/x-op", summary: Own, tags: [beside]}
x-op: {operationId: b, summary: Other, description: x}
components:
  pathItems:
    A: {$ref: "#/components/pathItems/B", delete: {operationId: delete}, summary: There}
    B: {get: {operationId: get}, x-a: 2}
`}, `4 PUT ["/v1"] /a put||
10 DELETE ["/v1"] /a delete||
11 GET ["/v1"] /a get||
6 GET [""] /b b|beside|Own
`},
		"anchors and merges": {[]string{"a.yaml", `
openapi: 3.0.0
x-common: &common {tags: [Shared], summary: From elsewhere}
x-more: &more {<<: *common, summary: More}
paths:
  /a: &a
    get: {<<: *common, operationId: a, summary: Own}
    put: {<<: [*more, *common], operationId: b}
  /b: *a
`}, `7 GET [""] /a a|Shared|Own
8 PUT [""] /a b|Shared|More
7 GET [""] /b a|Shared|Own
8 PUT [""] /b b|Shared|More
`},
	} {
		d, err := Read(write(t, test.files...))
		switch {
		case test.want == "" && err == nil:
			t.Errorf("%s: no error", name)
		case test.want == "":
		case err != nil:
			t.Errorf("%s: %v", name, err)
		case show(d) != test.want:
			t.Errorf("%s\ngot\n%swant\n%s", name, show(d), test.want)
		}
	}
}

// head is the beginning of a document, before its paths.
const head = "openapi: 3.0.0\npaths:\n"

func TestReadErrors(t *testing.T) {
	for text, want := range map[string]string{
		"":   "a.yaml: the file is empty",
		"[]": "a.yaml:1: must be an object with named fields",
		"paths: {}": "a.yaml:1: this is not an OpenAPI document: the field " +
			"openapi is missing",
		"swagger: '2.0'\npaths: {}":    "this is Swagger 2.0: convert it to OpenAPI 3",
		"info: {}\nopenapi: 3.2.0":     "a.yaml:2: OpenAPI 3.2.0 is not supported: must be 3.0 or 3.1",
		"openapi: 3.10.0":              "OpenAPI 3.10.0 is not supported",
		"openapi: 3.1.0\nwebhooks: {}": "must have at least one operation",
		head + " /a: {}":               "must have at least one operation",
		head + " /a: {get: {}":         "a.yaml: yaml: line 2: did not find expected",
		"{\n\"openapi\": \"3.0.0\",\n,\n}": "a.yaml:3: invalid character ',' looking for " +
			"beginning of object key string",
		head + " /a: []":           "a.yaml:3: must be an object",
		head + " /a:\n  get: read": "a.yaml:4: must be an object",
		head + " /a:\n  GET: {}":   "a.yaml:4: GET: methods must be in lower case: get",
		head + " /a: {get: {}}\n /b: {get: {}}\n /a: {put: {}}": "a.yaml:5: the field \"/a\" occurs " +
			"twice",
		head + " /a:\n  get: {}\n  get: {}":              "a.yaml:5: the field \"get\" occurs twice",
		head + " /a:\n  get:\n   tags: Orders":           "a.yaml:5: tags must be a list",
		head + " /a:\n  get:\n   operationId: [a]":       "a.yaml:5: operationId must be a string",
		head + " /a: {$ref: 'https://a.example/x.yaml'}": "a.yaml:3: $ref \"https://a.example/x.yaml\": must refer to a local file",
		head + " /a: {$ref: '#/nothing/here'}": "a.yaml:3: $ref \"#/nothing/here\": \"nothing\" does " +
			"not exist",
		head + " /a: {$ref: '#nothing'}":    "the part after # must begin with /",
		head + " /a: {$ref: b.yaml}":        "b.yaml: no such file",
		head + " /a: {$ref: .}":             "is not a regular file",
		head + " /a: {$ref: '#/paths/~1a'}": "must not be circular",
		head + " /a: {$ref: '#/x', get: {}}\nx: {get: {}}": "a.yaml:3: get is next to a $ref and in " +
			"its target (",
		head + " /a: {get: {$ref: '#/x', operationId: a}}\nx: {operationId: b}": "operationId is next " +
			"to a $ref",
		head + " /a: &a {<<: *a, get: {}}":                                                    "must not be circular",
		"openapi: 3.0.0\nservers: {}\npaths: {/a: {get: {}}}":                                 "a.yaml:2: servers must be a list",
		"openapi: 3.0.0\nservers: [{url: v1}]\npaths: {/a: {get: {}}}":                        "a.yaml:2: server \"v1\": a relative URL depends on the address of the document",
		"openapi: 3.0.0\nservers: [{url: '/{v}'}]\npaths: {/a: {get: {}}}":                    "every variable must have a value",
		"openapi: 3.0.0\nservers: [{url: '/a%2Fb'}]\npaths: {/a: {get: {}}}":                  "an encoded slash",
		"openapi: 3.0.0\nservers: [{url: '/%zz'}]\npaths: {/a: {get: {}}}":                    "invalid percent-encoding",
		"openapi: 3.0.0\nservers: [{url: 'http://a?b'}]\npaths: {/a: {get: {}}}":              "must not have a query",
		head + " /a: {get: {}, servers: [7]}":                                                 "a.yaml:3: must be an object",
		head + " /a: {get: {}, servers: [{url: '/{v}', variables: {v: {enum: 7}}}]}":          "enum must be a list",
		"openapi: 3.0.0\nx: &x [*y]\n":                                                        "unknown anchor",
		"openapi: 3.0.0\npaths: {/a: {get: {<<: 7}}}":                                         "must be an object",
		"openapi: 3.0.0\npaths: {/a: {get: &a {<<: [*a, *a, *a, *a, *a, *a, *a, *a], b: c}}}": "circular",
	} {
		_, err := Read(write(t, "a.yaml", text))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s\ngot  %v\nwant %s", text, err, want)
		}
	}
	if _, err := Read(t.TempDir()); err == nil || !strings.Contains(err.Error(), "is not a regular file") {
		t.Error(err)
	}
}

// TestSHA256 checks that the digest includes referenced files.
func TestSHA256(t *testing.T) {
	sum := func(other string) string {
		d, err := Read(write(t, "a.yaml", head+" /a: {$ref: b.yaml}", "b.yaml", other))
		if err != nil {
			t.Fatal(err)
		}
		return d.SHA256
	}
	if one, two := sum("get: {}"), sum("put: {}"); one == two || one != sum("get: {}") ||
		len(one) != 64 {
		t.Errorf("%s and %s", one, two)
	}
}

func FuzzRead(f *testing.F) {
	f.Add(head + " /a: &a {get: {<<: *a, tags: [b]}, servers: [{url: '/{v}', variables: {v: {default: 1, " +
		"enum: [2]}}}]}")
	f.Add(`{"openapi":"3.1.0","servers":[{"url":"https://a/b"}],"paths":{"/a":{"$ref":"#/components/a"}},"components":{"a":{"get":{"tags":["x"]}}}}`)
	f.Add("openapi: 3.0.0\npaths: &p {/a: *p}")
	f.Add("openapi: 3.0.0\npaths: {/a: {get: {operationId: &x [*x], tags: *x}}}")
	f.Fuzz(func(t *testing.T, text string) {
		d, err := Read(write(t, "a.yaml", text))
		if err == nil && len(d.Operations) == 0 {
			t.Error("no operations and no error")
		}
	})
}

// TestBounds checks the limits on nesting and base paths.
func TestBounds(t *testing.T) {
	deep := strings.Repeat("[", 20_000) + strings.Repeat("]", 20_000)
	var list strings.Builder
	for i := range 200 {
		fmt.Fprintf(&list, "{url: /v%d}, ", i)
	}
	servers := list.String()
	values := strings.NewReplacer("{url: /", "", "}", "").Replace(servers)
	for name, test := range map[string]struct{ text, want string }{
		"deep JSON": {`{"openapi":"3.0.0","x":` + deep + "}", "exceeded max depth"},
		"deep YAML": {head + " /a: {get: {}}\nx: " + deep, "exceeded max depth"},
		"servers": {"openapi: 3.0.0\nservers: [" + servers + "]\npaths: {/a: {get: {}}}",
			"servers must have at most 100 different paths"},
		"variables": {"openapi: 3.0.0\nservers: [{url: '/{v}', variables: {v: {enum: [" + values +
			"]}}}]\npaths: {/a: {get: {}}}", "a server must have at most 100 paths"},
	} {
		if _, err := Read(write(t, "a.yaml", test.text)); err == nil ||
			!strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %.300v", name, err)
		}
	}
}

// TestReadTakesLinearTime checks that the time to read a document is proportional to its length.
func TestReadTakesLinearTime(t *testing.T) {
	type shape func(n int) string
	repeat := func(n int, format string) string {
		var out strings.Builder
		for i := range n {
			fmt.Fprintf(&out, format, i)
		}
		return strings.TrimSuffix(out.String(), ",")
	}
	for name, text := range map[string]shape{
		"one line of JSON": func(n int) string {
			return `{"openapi":"3.0.0","paths":{` +
				repeat(n, `"/a/%[1]d":{"get":{"operationId":"a%[1]d"}},`) + "}}"
		},
		"lines of JSON": func(n int) string {
			return `{"openapi":"3.0.0","paths":{` +
				repeat(n, "\n\"/a/%[1]d\":{\n\"get\":{\n\"operationId\":\"a%[1]d\"}},") + "}}"
		},
		"one line of YAML": func(n int) string {
			return "openapi: 3.0.0\npaths: {" +
				repeat(n, "/a/%[1]d: {get: {operationId: a%[1]d}},") + "}"
		},
		"lines of YAML": func(n int) string {
			return head + repeat(n,
				" /a/%[1]d:\n  get:\n   operationId: a%[1]d\n")
		},
		"references": func(n int) string {
			return head + repeat(n, " /a/%[1]d: {$ref: '#/x/%[1]d'}\n") + "x:\n" +
				repeat(n, " %d: {get: {}}\n")
		},
		"references to a list": func(n int) string {
			return head + repeat(n, " /a/%[1]d: {$ref: '#/x/%[1]d'}\n") + "x:\n" +
				repeat(n, " - {get: {n: %d}}\n")
		},
		"merges": func(n int) string {
			return head + repeat(n, " /a/%[1]d: &a%[1]d {get: {}}\n") + repeat(n,
				" /b/%[1]d: {<<: *a%[1]d}\n")
		},
		"unrelated fields": func(n int) string {
			return `{"openapi":"3.0.0","paths":{"/a":{"get":{}}},"x":[` + repeat(n, "[%d],") + "]}"
		},
		"one long text": func(n int) string {
			return `{"openapi":"3.0.0","paths":{"/a":{"get":{}}},"x":"` +
				repeat(n, `\ud83d\ude00 %d`) + `"}`
		},
	} {
		t.Run(name, func(t *testing.T) {
			linear.Check(t, 500, func(size int) func() {
				file := write(t, "a.yaml", text(size))
				return func() {
					if _, err := Read(file); err != nil {
						t.Fatal(err)
					}
				}
			})
		})
	}
}
