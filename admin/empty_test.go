package admin_test

import (
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/danielgtaylor/huma/v2"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
)

// TestEmptyIsNotAbsent sends an empty value for every field whose absence has a meaning. An unset
// variable in a script must not extend the permissions of a key or the items of a list.
func TestEmptyIsNotAbsent(t *testing.T) {
	d := open(t)
	id := d.mint(t, root, readOnly).Key.ID
	var m api.Member
	d.call(t, root, "POST", "/members", `{"name":"Ada","login":"ada"}`).into(t, 201, &m)
	d.call(t, root, "POST", "/namespaces", `{"id":"acme"}`).into(t, 201, new(api.Namespace))
	d.call(t, root, "POST", "/namespaces", `{"id":"eu","parent":"acme"}`).into(t, 201,
		new(api.Namespace))
	for _, test := range []struct {
		method, path, body string
		status             int
		fields             string
	}{
		{"POST", "/keys", `{"name":"a","access":"read_only","namespace":""}`, 422, "namespace"},
		{"POST", "/keys", `{"name":"a","access":"read_only","owner":""}`, 422, "owner"},
		{"POST", "/keys", `{"name":"a","access":"","permissions":["read"]}`, 422, "access"},
		{"POST", "/keys", `{"name":"a","access":"read_only","expires_at":""}`, 422, "expires_at"},
		{"POST", "/keys", `{"name":"a","access":"read_only","allowed_ips":[""]}`, 422,
			"allowed_ips[0]"},
		{"POST", "/keys", `{"name":"a","grants":[{"namespace":"","access":"read_only"}]}`, 422,
			"grants[0].namespace"},
		{"POST", "/keys",
			`{"name":"a","grants":[{"namespace":"acme","access":"","permissions":["read"]}]}`, 422,
			"grants[0].access"},
		{"POST", "/keys/" + id + "/rotate", `{"grace":""}`, 422, "grace"},
		{"POST", "/keys", `{"name":"a","access":"read_only","namespace":null,"owner":null}`, 422,
			"namespace owner"},
		{"POST", "/keys",
			`{"name":"a","grants":[{"namespace":"acme","access":null,"permissions":["read"]}]}`,
			422, "grants[0].access"},
		{"POST", "/keys/" + id + "/rotate", `{"grace":null}`, 422, "grace"},
		{"PATCH", "/keys/" + id, `{"owner":""}`, 422, "owner"},
		{"PATCH", "/keys/" + id, `{"access":""}`, 422, "access"},
		{"PATCH", "/keys/" + id, `{"allowed_ips":[""]}`, 422, "allowed_ips[0]"},
		{"POST", "/members", `{"name":"a","login":""}`, 422, "login"},
		{"PATCH", "/members/" + m.ID, `{"login":""}`, 422, "login"},
		{"POST", "/members/" + m.ID + "/token", `{"expires_at":""}`, 422, "expires_at"},
		{"POST", "/namespaces", `{"id":"b","parent":""}`, 422, "parent"},
		{"POST", "/namespaces", `{"id":"b","token_prefix":""}`, 422, "token_prefix"},
		{"PATCH", "/namespaces/eu", `{"parent":""}`, 422, "parent"},
		{"PATCH", "/namespaces/eu", `{"edit_policy":""}`, 422, "edit_policy"},
		{"PATCH", "/namespaces/eu", `{"token_prefix":""}`, 422, "token_prefix"},
		{"POST", "/verify", `{"token":"x","namespace":""}`, 422, "namespace"},
		{"POST", "/verify", `{"token":"x","permission":""}`, 422, "permission"},
		{"POST", "/keys/import?partial=", `{"keys":[]}`, 422, "partial"},
		{"DELETE", "/keys/" + id + "?wait=", "", 422, "wait"},

		{"GET", "/keys?namespace=%zz", "", 400, ""},
		{"GET", "/keys?cursor=%zz", "", 400, ""},
		{"GET", "/keys?namespace=a;b", "", 400, ""},
		{"GET", "/keys?namespace=acme&namespace=eu", "", 422, "namespace"},
		{"GET", "/keys?namespace=acme&n%61mespace=", "", 422, "namespace"},
		{"GET", "/keys?q=%00", "", 422, "q"},
		{"GET", "/keys?q=%ff", "", 422, "q"},
		{"GET", "/audit?from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z", "", 422, "to"},
		{"GET", "/keys/%00", "", 404, ""},
		{"GET", "/keys/%ff", "", 404, ""},
		{"GET", "/roles/a/%00", "", 404, ""},
	} {
		t.Run(test.method+test.path+test.body, func(t *testing.T) {
			var body any
			if test.body != "" {
				body = test.body
			}
			a := d.call(t, root, test.method, test.path, body)
			p := a.problem(t)
			var fields []string
			for _, e := range p.Errors {
				fields = append(fields, e.Field)
			}
			slices.Sort(fields)
			if p.Status != test.status || strings.Join(fields, " ") != test.fields {
				t.Errorf("%d %v, want %d %s: %s", p.Status, fields, test.status, test.fields,
					a.text)
			}
		})
	}
	line := `{"name":"a","access":"read_only","token":"","sha256":"` + strings.Repeat("a", 64) +
		`"}`
	p := d.call(t, root, "POST", "/keys/import", line, "Content-Type", api.NDJSON).problem(t)
	if p.Status != 422 || len(p.Refused) != 1 || !strings.Contains(p.Refused[0].Detail, "token:") {
		t.Errorf("an empty token in an import: %+v", p)
	}

	// These fields may be empty.
	d.call(t, root, "PATCH", "/namespaces/acme", `{"name":"","kind":""}`).into(t, 200,
		new(api.NamespaceChanged))
	d.call(t, root, "PATCH", "/namespaces/eu", `{"parent":null}`).into(t, 200,
		new(api.NamespaceChanged))
	d.call(t, root, "PATCH", "/members/"+m.ID, `{"login":null}`).into(t, 200,
		new(api.MemberChanged))
	d.call(t, root, "POST", "/keys", `{"name":"a","access":"read_only","expires_at":null}`).into(t,
		201, new(api.Minted))
	d.call(t, root, "POST", "/keys/"+id+"/revoke", `{"reason":""}`).into(t, 200,
		new(api.KeyChanged))
	d.call(t, root, "POST", "/keys/"+id+"/revoke", `{"reason":null}`).into(t, 200,
		new(api.KeyChanged))
}

// TestParameters sends each documented query parameter and header empty and twice.
func TestParameters(t *testing.T) {
	d := open(t)
	id := d.mint(t, root, readOnly).Key.ID
	for path, item := range d.Describe().Paths {
		for _, op := range []*huma.Operation{item.Get, item.Post, item.Patch, item.Delete} {
			if op == nil {
				continue
			}
			for _, p := range op.Parameters {
				for _, values := range [][]string{{""}, {"1", "1"}} {
					r := httptest.NewRequest(op.Method, strings.ReplaceAll(path, "{id}", id),
						strings.NewReader("{}"))
					if op.RequestBody != nil {
						r.Header.Set("Content-Type", api.JSON)
					}
					switch p.In {
					case "query":
						for _, v := range values {
							r.URL.RawQuery += p.Name + "=" + v + "&"
						}
					case "header":
						if strings.HasPrefix(p.Name, "If-") && len(values) > 1 {
							continue // a list
						}
						r.Header[p.Name] = values
					default:
						continue
					}
					a := d.send(t, root, r)
					doc := a.problem(t)
					if a.status != 422 || len(doc.Errors) != 1 || doc.Errors[0].Field != p.Name {
						t.Errorf("%s %s with %s %q: %d %s", op.Method, path, p.Name, values,
							a.status, a.text)
					}
				}
			}
		}
	}
}
