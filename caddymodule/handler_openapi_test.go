package caddymodule

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/caddymodule/route"
)

// document writes an OpenAPI document with these paths and returns its file name.
func document(t testing.TB, paths string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "api.yaml")
	if err := os.WriteFile(file, []byte("openapi: 3.1.0\npaths:\n"+paths), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// declaredBy compiles the JSON of a handler, in which FILE stands for a document with these paths.
// It returns the declared operations.
func declaredBy(t testing.TB, config, paths string) ([]api.Operation, error) {
	t.Helper()
	h := new(Handler)
	if err := json.Unmarshal([]byte(strings.ReplaceAll(config, "FILE", document(t, paths))),
		h); err != nil {
		t.Fatal(err)
	}
	rules, err := h.compile()
	if err != nil {
		return nil, err
	}
	return rules.table.Declared, nil
}

func TestPermissionsOfADocument(t *testing.T) {
	const plain = `{"openapi":[{"file":"FILE"}]}`
	for _, test := range []struct{ config, paths, want string }{
		{plain, " /a: {get: {tags: [Orders, x], operationId: listOrders}}",
			"orders:listOrders read GET /a"},
		{plain, " /a: {post: {tags: [Order Items/New], operationId: items/add one}}",
			"order-items-new:items-add-one write POST /a"},
		{plain, " /a: {get: {tags: ['_x.y_'], operationId: -a}}", "x.y_:a read GET /a"},
		{plain, " /a: {get: {tags: [Größe], operationId: größe}}", "gr--e:gr--e read GET /a"},
		{plain, " /Orders/{id}: {delete: {tags: [orders]}}",
			"orders:delete--orders--id- write DELETE /Orders/{id}"},
		{plain, " /: {get: {tags: [注文], operationId: 一覧}}", "default:get-- read GET /"},
		{plain, " /a: {get: {operationId: a}}", "default:a read GET /a"},
		{`{"resource":"shop","openapi":[{"file":"FILE"}]}`,
			" /a: {get: {operationId: a}, put: {tags: [b], operationId: b}}",
			"shop:a read GET /a, b:b write PUT /a"},
		{plain,
			" /a: {get: {tags: [Admin], operationId: a}, put: {tags: [administrators]}, post: " +
				"{tags: [admin.keys]}, patch: {tags: [-admin]}}",
			"api-admin:a read GET /a, api-administrators:put--a write PUT /a, " +
				"api-admin.keys:post--a write POST /a, api-admin:patch--a write PATCH /a"},
		{plain,
			" /a: {get: {operationId: read}, put: {operationId: write}, post: {operationId: '*'}, " +
				"patch: {operationId: Read}}",
			"default:op-read read GET /a, default:op-write write PUT /a, default:post--a write " +
				"POST /a, default:Read write PATCH /a"},
		{plain, " /a: {options: {}, head: {}, trace: {}}",
			"default:options--a read OPTIONS /a, default:head--a read HEAD /a"},
		{`{"methods":{"POST":"read","GET":"write","PUT":"none"},"openapi":[{"file":"FILE"}]}`,
			" /a: {get: {}, put: {}, post: {}}",
			"default:get--a write GET /a, default:post--a read POST /a"},
		{`{"openapi":[{"file":"FILE","base":"/v1/"}]}`, " /a: {get: {}, servers: [{url: /v2}]}",
			"default:get--a read GET /v1/a"},
		{plain, " /a%20b: {get: {}, servers: [{url: '/v%25'}]}",
			"default:get--a-20b read GET /v%25/a%20b"},
		{`{"openapi":[{"file":"FILE","base":"/"}]}`, " /a: {get: {}, servers: [{url: /v2}]}",
			"default:get--a read GET /a"},
		{plain, " /a: {get: {}, servers: [{url: /v2}, {url: 'http://b/V3'}]}",
			"default:get--a read GET /v2/a, default:get--a read GET /V3/a"},
		{`{"operation":[{"permission":"x:y","class":"write","method":"GET","path":"/A"}],"openapi":[{"file":"FILE"}]}`, " /a: {get: {}}", "x:y write GET /A, default:get--a read GET /a"},
	} {
		list, err := declaredBy(t, test.config, test.paths)
		if err != nil {
			t.Errorf("%s: %v", test.paths, err)
			continue
		}
		var got []string
		for _, o := range list {
			got = append(got, fmt.Sprint(o.Permission, " ", o.Class, " ", o.Method, " ", o.Path))
		}
		if got := strings.Join(got, ", "); got != test.want {
			t.Errorf("%s\ngot  %s\nwant %s", test.paths, got, test.want)
		}
	}
}

func TestDocumentErrors(t *testing.T) {
	const plain = `{"openapi":[{"file":"FILE"}]}`
	for _, test := range []struct{ config, paths, want string }{
		{plain, " /a:\n  get: {operationId: x}\n /b:\n  get: {operationId: x}",
			"api.yaml:6: GET /b: its permission would be default:x, the same as for "},
		{plain, " /a-b: {get: {}}\n /a/b: {get: {}}",
			"api.yaml:4: GET /a/b: its permission would be default:get--a-b, the same as for "},
		{plain, " /{id}: {get: {}}\n /{name}/: {get: {}}",
			"api.yaml:4: GET /{name}/: GET /{name}/ already requires default:get---id- ("},
		{plain, " /Users: {get: {operationId: a}}\n /users: {get: {operationId: b}}",
			"GET /users already requires default:a"},
		{plain, " /x{a}.j: {get: {operationId: a}}\n /X{b}.J: {get: {operationId: b}}",
			"GET /X{b}.J already requires default:a"},
		{`{"openapi":[{"file":"FILE"},{"file":"FILE"}]}`, " /a: {get: {}}",
			"its permission would be default:get--a, the same as for "},
		{plain, " /" + strings.Repeat("long/", 50) + ": {get: {}}",
			"must have at most 200 characters; this one has 263: give the operation a shorter operationId"},
		{plain, " /a{: {get: {}}", `the segment "a{" has a { that begins no {name}`},
		{plain, " a: {get: {}}", `the path "a" must begin with /`},
		{plain, " /a: {get: []}", "api.yaml:3: must be an object"},
		{`{"openapi":[{"file":"FILE","base":"v1"}]}`, " /a: {get: {}}",
			`the path "v1/a" must begin with /`},
		{`{"methods":{"GET":"none"},"strict":true,"openapi":[{"file":"FILE"}]}`, " /a: {get: {}}",
			"strict without any operation"},
	} {
		if _, err := declaredBy(t, test.config, test.paths); err == nil ||
			!strings.Contains(err.Error(), test.want) {
			t.Errorf("%s\ngot  %v\nwant %s", test.paths, err, test.want)
		}
	}
}

// TestSkipUnsupported checks that skip_unsupported leaves out operations without a distinct
// permission, reports them, and forbids them under strict. Without it, the whole document is
// refused. The documents are excerpts of public ones.
func TestSkipUnsupported(t *testing.T) {
	h := newFixture(t)
	_, all := h.key("*")
	_, reader := h.key("read")
	for name, test := range map[string]struct {
		paths   string
		refusal string
		leftOut []string
		calls   map[string]int // status with a key that has *, by method and target
		reader  map[string]int
	}{
		"a query (OpenAI)": {
			" /assistants: {get: {operationId: list}}\n /assistants?beta=true: {get: " +
				"{operationId: listBeta}}\n /runs/{id}?beta=true&x: {post: {operationId: run}}\n " +
				"/runs/{any}: {put: {operationId: put}}",
			"has a query or a fragment",
			[]string{"GET /assistants?beta=true", "POST /runs/{id}?beta=true&x"},
			map[string]int{
				"GET /assistants": 200, "GET /assistants?after=1": 200,
				"GET /assistants?beta=true": 403, "GET /assistants?a=b&%62eta=false": 403,
				"GET /assistants?a;beta":     403,
				"HEAD /assistants?beta=true": 403, "POST /runs/1?beta=true": 403,
				"POST /runs/1": 403, "PUT /runs/1?beta=true": 200,
			},
			map[string]int{"GET /assistants": 200},
		},
		"a fragment (Box)": {
			" /files/{id}: {get: {operationId: file}, put: {operationId: update}}\n " +
				"/files/{id}#share: {put: {operationId: share}}\n /links#create: {post: " +
				"{operationId: link}}",
			"has a query or a fragment",
			[]string{"PUT /files/{id}#share", "POST /links#create"},
			map[string]int{"PUT /files/1": 200, "GET /files/1": 200, "POST /links": 403},
			nil,
		},
		"templates of one shape (Xero)": {
			" /reports/{id}: {get: {operationId: byID}, put: {operationId: put}}\n " +
				"/reports/{name}: {get: {operationId: byName}}\n /Reports/{other}/: {get: " +
				"{operationId: third}}\n /{any}/{thing}: {get: {operationId: broad}}",
			"GET /reports/{name} already requires default:byID",
			[]string{"GET /reports/{id}", "GET /reports/{name}", "GET /Reports/{other}/"},
			map[string]int{"GET /reports/1": 403, "HEAD /reports/1": 403, "PUT /reports/1": 200,
				"GET /x/1": 200},
			nil,
		},
		"a trailing slash": {
			" /users: {get: {operationId: list}, post: {operationId: add}}\n /users/: {get: " +
				"{operationId: all}}",
			"GET /users/ already requires default:list",
			[]string{"GET /users", "GET /users/"},
			map[string]int{"GET /users": 403, "GET /users/": 403, "POST /users": 200},
			nil,
		},
		"one name": {
			" /a-b: {get: {}}\n /a/b: {get: {}}\n /c: {get: {}}",
			"its permission would be default:get--a-b",
			[]string{"GET /a-b", "GET /a/b"},
			map[string]int{"GET /a-b": 403, "GET /a/b": 403, "GET /c": 200},
			nil,
		},
		"paths that no request can have": {
			" /a.: {get: {}}\n /a%2Fb: {get: {}}\n b: {get: {}}\n /c: {get: {}}",
			"which no request can have",
			[]string{"GET /a.", "GET /a%2Fb", "GET b"},
			map[string]int{"GET /c": 200},
			nil,
		},
	} {
		t.Run(name, func(t *testing.T) {
			file := document(t, test.paths)
			_, err := (&Handler{OpenAPI: []route.OpenAPI{{File: file}}}).compile()
			if !strings.Contains(errorText(err), test.refusal) {
				t.Error(err)
			}
			options := "namespace acme\nopenapi " + file + " {\nskip_unsupported\n}\n"
			open, strict := h.handler(options), h.handler(options+"strict")
			var leftOut []string
			for _, text := range strict.rules.table.LeftOut {
				call, _, _ := strings.Cut(text, ": ")
				leftOut = append(leftOut, call)
			}
			if !slices.Equal(leftOut, test.leftOut) {
				t.Errorf("left out: %q", strict.rules.table.LeftOut)
			}
			for _, o := range strict.rules.table.Declared {
				if slices.Contains(test.leftOut, o.Method+" "+o.Path) {
					t.Errorf("declared: %+v", o)
				}
			}
			for send, want := range test.calls {
				if a := h.send(strict, send+keyLine(all)); a.StatusCode != want {
					t.Errorf("%s: %d %s, want %d", send, a.StatusCode, a.body, want)
				}
				if a := h.send(open, send+keyLine(all)); a.StatusCode != 200 {
					t.Errorf("%s without strict: %d %s", send, a.StatusCode, a.body)
				}
			}
			for send, want := range test.reader {
				if a := h.send(strict, send+keyLine(reader)); a.StatusCode != want {
					t.Errorf("%s: %d %s, want %d", send, a.StatusCode, a.body, want)
				}
			}
		})
	}
	// A key for one operation has no access to operations that are left out.
	_, narrow := h.key("default:byID")
	file := document(t,
		" /{id}: {get: {operationId: byID}}\n /{name}: {get: {operationId: byName}}\n /x: {get: "+
			"{operationId: x}}")
	if a := h.send(h.handler("namespace acme\nopenapi "+file+" {\nskip_unsupported\n}"),
		"GET /1"+keyLine(narrow)); a.StatusCode != 403 {
		t.Error(a.StatusCode)
	}
	only := document(t, " /a?b: {get: {}}")
	if _, err := (&Handler{Strict: true,
		OpenAPI: []route.OpenAPI{{File: only, SkipUnsupported: true}}}).compile(); err == nil ||
		!strings.Contains(err.Error(), "strict without any operation") {
		t.Error(err)
	}
}

// TestDocumentBesideTheCaddyfile checks that a relative path is relative to the file with the line,
// and that the config changes if the document does.
func TestDocumentBesideTheCaddyfile(t *testing.T) {
	dir := t.TempDir()
	put := func(name, text string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	adapt := func() (string, error) {
		text, err := os.ReadFile(filepath.Join(dir, "Caddyfile"))
		if err != nil {
			t.Fatal(err)
		}
		config, _, err := caddyconfig.GetAdapter("caddyfile").Adapt(text,
			map[string]any{"filename": filepath.Join(dir, "Caddyfile")})
		return string(config), err
	}
	put("Caddyfile",
		":8080\napi_key {\n\topenapi docs/a.yaml\n\tstrict\n\tresource shop\n\timport "+
			"more/options\n}\n")
	put("more/options", "openapi ./b.yaml /b\n")
	put("docs/a.yaml", "openapi: 3.0.0\npaths:\n /a: {get: {}}\n")
	put("more/b.yaml", "openapi: 3.0.0\npaths:\n /b: {get: {}}\n")
	first, err := adapt()
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{`"file":"` + dir + `/docs/a.yaml","sha256":"`,
		`"base":"/b","file":"` + dir + `/more/b.yaml","sha256":"`, `"strict":true`} {
		if !strings.Contains(strings.ReplaceAll(first, " ", ""), part) {
			t.Errorf("no %s in %s", part, first)
		}
	}
	if again, err := adapt(); err != nil || again != first {
		t.Errorf("the same files give another config: %v\n%s", err, again)
	}
	put("docs/a.yaml", "openapi: 3.0.0\npaths:\n /a: {put: {}}\n")
	if changed, err := adapt(); err != nil || changed == first {
		t.Errorf("another document gives the same config: %v", err)
	}
	put("more/b.yaml", "openapi: 3.0.0\npaths:\n /b: {get: {operationId: [x]}}\n")
	if _, err := adapt(); err == nil ||
		!strings.Contains(err.Error(),
			dir+"/more/b.yaml:3: operationId must be a string, at "+dir+"/more/options:1") {
		t.Error(err)
	}
}

func TestStrict(t *testing.T) {
	h := newFixture(t)
	_, all := h.key("*")
	_, reader := h.key("read")
	_, searcher := h.key("orders:search")
	file := document(t,
		" /orders/{id}: {get: {tags: [Orders]}, post: {tags: [Orders], operationId: pay}}\n "+
			"/docs: {get: {}}\n /: {options: {}}")
	options := "namespace acme\nfrom bearer\nfrom header X-Key\npublic /health\noptional\nforeign " +
		"pass\npreflight\noperation orders:search read POST /orders/search\nopenapi " + file
	open, strict := h.handler(options), h.handler(options+"\nstrict")
	for _, test := range []struct {
		send         string
		open, strict int
	}{
		{"GET /orders/7" + keyLine(all), 200, 200},
		{"HEAD /orders/7" + keyLine(reader), 200, 200},
		{"GET /Orders/7/" + keyLine(reader), 200, 200},
		{"PUT /orders/7" + keyLine(all), 200, 403},
		{"GET /orders" + keyLine(all), 200, 403},
		{"GET /" + keyLine(all), 200, 403},
		{"OPTIONS /" + keyLine(reader), 200, 200},
		{"OPTIONS /orders/7" + keyLine(reader), 200, 403},
		{"OPTIONS /orders\nOrigin: https://a.example\nAccess-Control-Request-Method: GET", 204,
			204},
		{"GET /health", 200, 200},
		{"GET /docs", 200, 200},
		{"GET /nothing", 200, 403},
		{"GET /docs\nAuthorization: Bearer of.another.issuer", 200, 200},
		{"GET /nothing\nAuthorization: Bearer of.another.issuer", 200, 403},
		{"GET /nothing" + keyLine(all+"x"), 401, 401},
		{"PURGE /nothing" + keyLine(all), 405, 405},
		{"POST /orders/search" + keyLine(searcher), 200, 200},
		{"POST /orders/search/" + keyLine(reader), 200, 200},
		{"POST /orders/SEARCH" + keyLine(searcher), 403, 403},
		{"POST /orders/SEARCH" + keyLine(reader), 403, 403},
		{"POST /orders/%73earch" + keyLine(reader), 403, 403},
		{"POST /ORDERS/search" + keyLine(reader), 403, 403},
		{"POST /orders/SEARCH" + keyLine(all), 200, 200},
	} {
		for name, want := range map[string]int{"open": test.open, "strict": test.strict} {
			handler := map[string]*Handler{"open": open, "strict": strict}[name]
			if a := h.send(handler, test.send); a.StatusCode != want {
				line, _, _ := strings.Cut(test.send, "\n")
				t.Errorf("%s, %s: %d %s, want %d", line, name, a.StatusCode, a.body, want)
			}
		}
	}
	const want = `{"type":"about:blank","title":"The API key does not allow this request","status":403,"code":"insufficient_permission","detail":"The API declares no such operation, so no permission allows it.","needed":"","namespace":"acme"}`
	if a := h.send(strict, "GET /nothing"+keyLine(all)); a.body != want {
		t.Error(a.body)
	}
}

// TestHeadOfADocument checks that HEAD requires the permission that a document declares for HEAD,
// and that an `operation` line with GET takes precedence over documents for both methods.
func TestHeadOfADocument(t *testing.T) {
	h := &Handler{
		OpenAPI: []route.OpenAPI{{File: document(t,
			" /a: {get: {operationId: a}, head: {operationId: b}}\n /b: {get: {operationId: c}, "+
				"head: {operationId: d}}")}},
		Operation: []route.Operation{{
			Permission: "x:close", Class: "write", Method: "GET", Path: "/a",
		}},
	}
	rules, err := h.compile()
	if err != nil {
		t.Fatal(err)
	}
	for request, want := range map[string]string{"GET /a": "x:close", "HEAD /a": "x:close",
		"GET /b": "default:c", "HEAD /b": "default:d"} {
		method, path, _ := strings.Cut(request, " ")
		_, got, _ := rules.table.Need(method, path, "", rules.methods[method])
		if got != want {
			t.Errorf("%s requires %s, want %s", request, got, want)
		}
	}
	if len(rules.table.Declared) != 5 {
		t.Errorf("HEAD as GET is declared too: %v", rules.table.Declared)
	}
}
