package adversarial

import (
	"net"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

// shop is the OpenAPI document of the tests below. The API is served under /v1.
const shop = `
openapi: 3.1.0
info: {title: Shop, version: "1"}
servers: [{url: "https://shop.example/v1"}]
paths:
  /orders:
    get: {tags: [Orders], operationId: listOrders, summary: List orders}
    post: {tags: [Orders], operationId: createOrder}
  /orders/{id}:
    get: {tags: [Orders], operationId: showOrder}
    put: {tags: [Orders], operationId: pay}
    post: {tags: [Orders], operationId: repeat}
  /orders/{id}:cancel:
    post: {tags: [Orders], operationId: cancel}
  /orders/mine:
    get: {tags: [Orders], operationId: mine}
  /files/{name}.json:
    get: {tags: [Files], operationId: json}
  /files/{name}:
    get: {tags: [Files], operationId: file}
  /Admin/users:
    get: {tags: [Admin], operationId: read}
`

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestOpenAPI(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "shop.yaml")
	write(t, file, shop)
	w := start(t, gate.Config{APIKey: "strict\nopenapi " + file +
		"\noperation orders:search read POST /v1/orders/search\noperation orders:close write GET " +
		"/v1/orders/{id}/close"})
	bearer := map[string][]string{}
	for name, permissions := range map[string]string{
		"All": "*", "Read": "read", "Write": "write", "OrdersRead": "orders:read",
		"Show": "orders:showOrder", "Mine": "orders:mine", "Search": "orders:search",
		"Repeat": "orders:repeat", "Cancel": "orders:cancel", "Close": "orders:close",
		"Json": "files:json", "Users": "api-admin:op-read", "Root": "admin:*",
	} {
		w.mint(t, name, gate.JSON{"permissions": strings.Fields(permissions)})
		bearer[name] = []string{"Authorization: Bearer {" + name + "}"}
	}
	var rows []row
	add := func(want, send string, keys string) {
		for key := range strings.FieldsSeq(keys) {
			rows = append(rows, row{what: send + " with " + key + " is " + want, send: send,
				header: bearer[key], want: want, as: key})
		}
	}
	const ok, forbidden = "200", "403 insufficient_permission"

	add(ok, "GET /v1/orders/7", "All Read OrdersRead Show")
	add(ok, "HEAD /v1/orders/7", "All Read OrdersRead Show")
	add(forbidden, "GET /v1/orders/7", "Write Mine Search Json Users Root")
	add(forbidden, "PUT /v1/orders/7", "Read OrdersRead Show")
	add(ok, "GET /v1/Admin/users", "All Read Users")
	add(forbidden, "GET /v1/Admin/users", "OrdersRead Root")

	// Requests that match no operation.
	for _, send := range []string{"GET /v1", "GET /", "GET /orders/7", "GET /v1/orders/7/lines",
		"DELETE /v1/orders/7", "OPTIONS /v1/orders/7", "PATCH /v1/orders", "GET /v1/files/a/b.json",
		"GET /v1/files", "GET /v1x/orders", "GET /v1/ordersx", "PUT /v1/orders",
		"GET /v1/orders:cancel", "GET /v1/admin/users/1"} {
		add(forbidden, send, "All Read Show")
	}
	rows = append(rows, row{what: "no key, no operation", send: "GET /nothing",
		want: "401 missing_key"})
	rows = append(rows, row{what: "an unknown method, no operation", send: "PURGE /nothing",
		header: bearer["All"], want: "405 method_not_allowed"})
	rows = append(rows, row{what: "a method override", send: "GET /v1/orders/7",
		header: append([]string{"X-HTTP-Method-Override: PUT"}, bearer["Show"]...), want: ok,
		as: "Show", gone: []string{"X-HTTP-Method-Override"}})

	// The more literal path wins, in every spelling, because an upstream that ignores case or
	// decodes serves that path.
	for _, path := range []string{"/v1/orders/mine", "/v1/orders/mine/", "/v1/orders/Mine",
		"/v1/orders/%6dine", "/v1/orders/%6Dine/", "/V1/Orders/MINE"} {
		add(ok, "GET "+path, "Read OrdersRead Mine")
		add(forbidden, "GET "+path, "Show")
	}
	for _, path := range []string{"/v1/orders/min", "/v1/orders/mine2", "/v1/orders/%20mine",
		"/v1/orders/-mine"} {
		add(ok, "GET "+path, "Show")
		add(forbidden, "GET "+path, "Mine")
	}
	for _, path := range []string{"/v1/files/a.json", "/v1/files/A.JSON", "/v1/files/a.b.json",
		"/v1/files/a%6ason.json"} {
		add(ok, "GET "+path, "Read Json")
	}
	for _, path := range []string{"/v1/files/.json", "/v1/files/a.jso", "/v1/files/a.json5",
		"/v1/files/json", "/v1/files/ajson"} {
		add(ok, "GET "+path, "Read")
		add(forbidden, "GET "+path, "Json")
	}
	for _, path := range []string{"/v1/orders/7:cancel", "/v1/orders/7%3Acancel",
		"/v1/orders/7:CANCEL/", "/v1/orders/::cancel"} {
		add(ok, "POST "+path, "Write Cancel")
		add(forbidden, "POST "+path, "Read Repeat Search")
	}
	add(forbidden, "POST /v1/orders/:cancel", "Cancel Read")
	add(ok, "POST /v1/orders/:cancel", "Repeat")

	// An `operation` makes this POST a read. A case-sensitive upstream, or one that matches before
	// it decodes, reads any other spelling of the last segment as an id.
	for _, path := range []string{"/v1/orders/search", "/v1/orders/search/"} {
		add(ok, "POST "+path, "Read OrdersRead Search")
		add(forbidden, "POST "+path, "Write Repeat")
	}
	for _, path := range []string{"/v1/orders/SEARCH", "/v1/orders/Search", "/v1/orders/%73earch",
		"/v1/orders/searc%68/", "/v1/ORDERS/search", "/V1/orders/search", "/v%31/orders/search",
		"/v1/orders/%20search", "/v1/orders/searchx"} {
		add(forbidden, "POST "+path, "Read OrdersRead Search")
		add(ok, "POST "+path, "Write Repeat")
	}
	// An `operation` makes this GET a write. A case-insensitive upstream closes the order for each
	// of these spellings.
	for _, path := range []string{"/v1/orders/7/close", "/v1/orders/7/close/", "/v1/orders/7/CLOSE",
		"/v1/orders/7/%63lose", "/V1/Orders/7/Close"} {
		add(ok, "GET "+path, "Write Close")
		add(ok, "HEAD "+path, "Close")
		add(forbidden, "GET "+path, "Read OrdersRead Show")
	}
	// Targets that are not canonical are refused before the table is consulted.
	for _, end := range []string{"../orders/7", "x/../7", "%2e%2e/orders/7", "7%2f", "7;x", "7%00",
		`7\x`, "/7", "%256dine", "mine.", "mine%20", "search%c2%a0"} {
		rows = append(rows, row{what: "not canonical " + end, send: "GET /v1/orders/" + end,
			header: bearer["All"], want: "400 non_canonical_target"})
	}
	w.run(t, rows)

	got := w.Do(t, gate.Request{Method: "GET", Target: "/nothing",
		Header: w.expandAll(t, bearer["All"])})
	if body := got.JSON(); body["needed"] != "" ||
		!strings.Contains(body["detail"].(string), "The API declares no such operation") {
		t.Errorf("a request that matches no operation: %v", body)
	}
}

// permissions returns the table as `PERMISSION CLASS METHOD PATH SUMMARY`, read page by page.
func permissions(t *testing.T, g *gate.Gate) (rows []string) {
	t.Helper()
	for more := ""; ; {
		got := g.Call(t, "GET", "/permissions?limit=2"+more, nil)
		if got.Status != 200 {
			t.Fatal(got)
		}
		body := got.JSON()
		for _, item := range body["items"].([]any) {
			o := item.(map[string]any)
			if len(o) != 5 {
				t.Errorf("fields of an operation: %v", o)
			}
			rows = append(rows, strings.TrimSpace(o["permission"].(string)+" "+o["class"].(string)+
				" "+o["method"].(string)+" "+o["path"].(string)+" "+o["summary"].(string)))
		}
		cursor, ok := body["next_cursor"].(string)
		if !ok {
			return rows
		}
		more = "&cursor=" + cursor
	}
}

// TestPermissionTable checks that `caddy reload` reads the OpenAPI document again, and that a
// failed reload changes nothing.
func TestPermissionTable(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	_, port, _ := net.SplitHostPort(taken.Addr().String())
	g := gate.Start(t, gate.Config{})
	if got := permissions(t, g); len(got) != 0 {
		t.Errorf("without any operation: %q", got)
	}
	key := g.Mint(t, gate.JSON{"name": "a", "permissions": []string{"orders:listOrders"}})
	file := filepath.Join(g.Dir, "shop.yaml") // beside the Caddyfile
	config := gate.Config{APIKey: "openapi shop.yaml\noperation x:close write GET /close\nmethods " +
		"none PUT"}
	reload := func(says string) {
		t.Helper()
		r := g.Reload(t, config)
		if (r.Exit == 0) != (says == "") || !strings.Contains(r.Stderr, says) {
			t.Errorf("want an error that says %q, got %v", says, r)
		}
	}
	holds := func(status int, want ...string) {
		t.Helper()
		if got := permissions(t, g); !slices.Equal(got, want) {
			t.Errorf("the table is\n%s\nwant\n%s", strings.Join(got, "\n"),
				strings.Join(want, "\n"))
		}
		if got := g.Get(t, "/v1/orders", key.Token); got.Status != status {
			t.Errorf("%v, want %d", got, status)
		}
	}

	write(t, file, shop)
	reload("")
	first := []string{"api-admin:op-read read GET /v1/Admin/users",
		"files:file read GET /v1/files/{name}", "files:json read GET /v1/files/{name}.json",
		"orders:cancel write POST /v1/orders/{id}:cancel",
		"orders:createOrder write POST /v1/orders",
		"orders:listOrders read GET /v1/orders List orders", "orders:mine read GET /v1/orders/mine",
		"orders:repeat write POST /v1/orders/{id}",
		"orders:showOrder read GET /v1/orders/{id}", "x:close write GET /close"}
	holds(200, first...)

	write(t, file, shop+"  /orders/{name}:\n    get: {operationId: again}\n")
	reload(file + ":24: GET /orders/{name}: GET /v1/orders/{name} already requires orders:showOrder (" +
		file + ":10): remove one of them, at " + g.Dir + "/next.Caddyfile:")
	holds(200, first...)
	write(t, file, shop+"  - ]")
	reload("shop.yaml: yaml: line ")
	holds(200, first...)

	small := "openapi: 3.0.0\npaths: {/v1/orders: {get: {operationId: list}}}\n"
	write(t, file, small)
	good := config
	config.Caddyfile = config.Text() + "\nhttp://:" + port +
		" {\n\tbind 127.0.0.1\n\trespond no\n}\n"
	for range 3 { // apps start in random order
		reload("address already in use")
		holds(200, first...)
	}
	config = good
	reload("")
	holds(403, "default:list read GET /v1/orders", "x:close write GET /close")

	if r := g.Adapt(t, config); r.Exit != 0 || !strings.Contains(r.Stdout, `"file":"`+file+`"`) {
		t.Error(r)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	reload("openapi: stat " + file)
	holds(403, "default:list read GET /v1/orders", "x:close write GET /close")

	member := g.Mint(t, gate.JSON{"name": "m", "permissions": []string{"*"}})
	if got := g.Call(t, "POST", "/verify",
		gate.JSON{"token": string(member.Token),
			"permission": "default:list"}).JSON(); !reflect.DeepEqual(got["outcome"], "ok") {
		t.Error(got)
	}
}
