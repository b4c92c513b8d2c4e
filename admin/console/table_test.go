package console_test

import (
	"compress/gzip"
	"encoding/json"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/html"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// github returns the 1,223 operations of GitHub's REST API: see the NOTICE beside the file.
func github(t testing.TB) (list []api.Operation) {
	t.Helper()
	packed, err := os.Open("../../caddymodule/route/testdata/openapi/github.json.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = packed.Close() }()
	text, err := gzip.NewReader(packed)
	if err != nil {
		t.Fatal(err)
	}
	var document struct {
		Paths map[string]map[string]struct {
			Tags        []string
			OperationID string
			Summary     string
		}
	}
	if err := json.NewDecoder(text).Decode(&document); err != nil {
		t.Fatal(err)
	}
	for path, calls := range document.Paths {
		for method, call := range calls {
			class := "write"
			if method == "get" {
				class = "read"
			}
			list = append(list, api.Operation{
				Permission: call.Tags[0] + ":" + strings.ReplaceAll(call.OperationID, "/", "-"),
				Class:      class, Method: strings.ToUpper(method), Path: path, Summary: call.Summary})
		}
	}
	if len(list) != 1223 {
		t.Fatalf("%d operations", len(list))
	}
	return list
}

// boxes returns the values of the checkboxes of a name, those that are checked with a plus.
func (a answer) boxes(name string) (list []string) {
	each(a.Doc, func(n *html.Node) {
		if attr(n, "name") != name || attr(n, "type") != "checkbox" {
			return
		}
		mark := ""
		if has(n, "checked") {
			mark = "+"
		}
		list = append(list, mark+attr(n, "value"))
	})
	return list
}

func (a answer) elements() (n int) {
	each(a.Doc, func(*html.Node) { n++ })
	return n
}

// TestLargeTable checks that a large permission table stays small until a resource is opened or
// searched, and that checked boxes and typed texts are never lost.
func TestLargeTable(t *testing.T) {
	s := open(t)
	s.api.Declare(github(t))
	p := s.signedIn(t, "Ada", "*=@client-admin")
	const at = "/apikeys/keys/new"
	form := p.get(at).want(200, "1,223 calls.", "Show all 20 calls")
	if n := form.elements(); len(form.Text) > 130_000 || n > 1800 {
		t.Errorf("the form has %d bytes and %d elements", len(form.Text), n)
	}
	if list := form.boxes("permissions"); len(list) > 200 ||
		!slices.Contains(list, "repos:write") || slices.Contains(list, "repos:repos-get") {
		t.Errorf("%d boxes: %v", len(list), list)
	}

	// A button opens a resource, and the form keeps the rest.
	typed := form.fill("name", "Bot", "access", "custom", "permissions", "issues:read", "metadata",
		"team=erp")
	a := p.post(at, append(typed, "again", "permissions_open=repos")...).want(200, ">1 selected")
	list := a.boxes("permissions")
	for _, want := range []string{"repos:repos-get", "repos:repos-delete", "+issues:read"} {
		if !slices.Contains(list, want) {
			t.Errorf("no box %s", want)
		}
	}
	if got, _ := a.field("metadata"); got != "team=erp" || strings.Contains(a.Text, `role="alert"`) {
		t.Errorf("metadata is %q", got)
	}
	if i, j := strings.Index(a.Text, `value="repos:repos-get"`),
		strings.Index(a.Text, `value="repos:repos-delete"`); i > j {
		t.Error("DELETE comes before GET")
	}

	// A search shows the matching calls and those that are checked. It is sent by Enter too, which
	// creates no key.
	typed = a.fill("permissions", "issues:read", "permissions", "repos:repos-get",
		"permissions_find", "post pulls comments")
	a = p.post(at, typed...).want(200, "of 1,223 calls match", "2 selected")
	list = a.boxes("permissions")
	for _, want := range []string{"+repos:repos-get", "+issues:read",
		"pulls:pulls-create-review-comment"} {
		if !slices.Contains(list, want) {
			t.Errorf("no box %s in %v", want, list)
		}
	}
	if slices.Contains(list, "repos:repos-delete") || slices.Contains(list, "gists:read") {
		t.Errorf("boxes that do not match: %v", list)
	}
	typed = a.fill("permissions", "issues:read", "permissions", "repos:repos-get",
		"permissions", "pulls:pulls-create-review-comment")
	token := tokens.FindString(p.post(at, typed...).want(201).Text)
	if got := grantsOf(s.key(t, token[3:15])); got !=
		"default [issues:read pulls:pulls-create-review-comment repos:repos-get] []" {
		t.Error(got)
	}
	p.post(at, a.fill("permissions_find", "nothing at all")...).want(200, "No calls match",
		"nothing at all")
	if all := p.post(at, a.fill("permissions_find", "e")...).want(200).elements(); all > 5000 {
		t.Errorf("a search for e shows %d elements", all)
	}

	// The forms of an existing key and of a role have the same table.
	edit := "/apikeys/keys/" + token[3:15] + "/edit"
	a = p.get(edit).want(200, "3 selected")
	if list := a.boxes("permissions"); !slices.Contains(list, "+repos:repos-get") ||
		slices.Contains(list, "repos:repos-delete") {
		t.Errorf("the boxes of the key: %v", list)
	}
	p.post(edit, a.fill("again", "permissions_open=gists", "name", "Robot")...).want(200,
		"gists:gists-list", `value="Robot"`)
	if k := s.key(t, token[3:15]); k.Name != "Bot" {
		t.Errorf("opening a resource renamed the key to %q", k.Name)
	}
	p.submit("/apikeys/roles/new", "name", "bot", "again", "permissions_open=gists").want(200,
		"gists:gists-list")
	roles(t, s, keystore.Role{Namespace: "default", Name: "bot",
		Permissions: permissions(t, "gists:gists-list")})
	at2 := "/apikeys/roles/default/bot/edit"
	p.submit(at2, "permissions", "gists:gists-get", "again", "permissions_open=gists").want(200,
		`value="gists:gists-get" checked`).lacks(`value="gists:gists-list" checked`)
	p.get("/apikeys/roles/default/bot").want(200, "gists:gists-list").lacks("gists:gists-get")
}

// TestTableOnce checks that the table for a new role comes when it is asked for.
func TestTableOnce(t *testing.T) {
	s := open(t)
	s.api.Declare([]api.Operation{{Permission: "orders:search", Class: "read", Method: "GET",
		Path: "/orders"}})
	p := s.signedIn(t, "Ada", "*=@client-admin")
	a := p.get("/apikeys/keys/new").want(200, "Choose permissions")
	if n := strings.Count(a.Text, `value="orders:search"`); n != 1 {
		t.Errorf("the table is on the page %d times", n)
	}
	a = p.post("/apikeys/keys/new", a.fill("name", "x", "access", "roles", "again",
		"new_role=yes")...).want(200)
	if n := strings.Count(a.Text, `value="orders:search"`); n != 2 {
		t.Errorf("the table is on the page %d times after opening the other one", n)
	}
	token := tokens.FindString(p.post("/apikeys/keys/new", a.fill("new_roles[0].name", "finder",
		"new_roles[0].permissions", "orders:search")...).want(201).Text)
	if got := grantsOf(s.key(t, token[3:15])); got != "default [] [finder]" {
		t.Error(got)
	}
}

// TestCompression checks which pages are compressed, and for whom.
func TestCompression(t *testing.T) {
	s := open(t)
	s.api.Declare(github(t))
	p := s.signedIn(t, "Ada", "*=@client-admin")
	form := p.get("/apikeys/keys/new").fill("name", "CI")
	send := func(method, path, accepted string, fields ...string) *http.Response {
		t.Helper()
		body := make(url.Values)
		for i := 0; i < len(fields); i += 2 {
			body.Add(fields[i], fields[i+1])
		}
		r, err := http.NewRequest(method, s.URL+path, strings.NewReader(body.Encode()))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.Header.Set("Sec-Fetch-Site", "same-origin")
		r.Header.Set("Accept-Encoding", accepted)
		resp, err := p.http.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = resp.Body.Close() })
		if resp.Header.Get("Vary") != "Accept-Encoding" {
			t.Errorf("%s %s: Vary is %q", method, path, resp.Header.Get("Vary"))
		}
		return resp
	}
	asset := ""
	each(p.get("/apikeys/keys").Doc, func(n *html.Node) {
		if n.Data == "script" {
			asset = attr(n, "src")
		}
	})
	for accepted, want := range map[string]string{
		"gzip": "gzip", "br, GZIP;q=0.5, *": "gzip", "deflate,gzip ; q=1": "gzip",
		"": "", "identity": "", "br": "", "gzip;q=0": "", "gzip;q=0.000, br": "", "gzip;q=x": "",
	} {
		for _, path := range []string{"/apikeys/keys/new", asset} {
			resp := send("GET", path, accepted)
			if got := resp.Header.Get("Content-Encoding"); got != want {
				t.Errorf("%s with %q: encoded as %q, want %q", path, accepted, got, want)
			}
		}
	}
	resp := send("HEAD", "/apikeys/keys/new", "gzip")
	if resp.Header.Get("Content-Encoding") != "gzip" {
		t.Error("HEAD differs from GET")
	}

	// BREACH: nobody compresses a page with a token.
	resp = send("POST", "/apikeys/keys/new", "gzip", form...)
	if resp.StatusCode != 201 || resp.Header.Get("Content-Encoding") != "" ||
		resp.Header.Get("Cache-Control") != "no-store, no-transform" {
		t.Errorf("the page with the token: %d %v", resp.StatusCode, resp.Header)
	}
}
