package admin_test

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-apikeys/caddy-apikeys/admin"
	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
)

func TestOpenAPI(t *testing.T) {
	d := open(t)
	var doc struct {
		OpenAPI string `json:"openapi"`
		Paths   map[string]map[string]struct {
			OperationID string `json:"operationId"`
			Summary     string
			Parameters  []struct{ Name, In string }
			RequestBody *struct{ Content map[string]any }
			Responses   map[string]any
			Security    []map[string][]string
		}
		Components struct {
			Schemas map[string]any
		}
	}
	a := d.call(t, root, "GET", "/openapi.json", nil)
	a.into(t, 200, &doc)
	if !strings.HasPrefix(doc.OpenAPI, "3.1.") {
		t.Errorf("OpenAPI %s", doc.OpenAPI)
	}
	want := strings.Fields(`
		GET/docs GET/health GET/nodes GET/openapi.json GET/permissions GET/prefixes POST/verify
		POST/leaks
		GET/self POST/self/revoke GET/self/usage GET/usage
		GET/keys POST/keys POST/keys/import DELETE/keys/{id} GET/keys/{id} PATCH/keys/{id}
		GET/keys/{id}/usage POST/keys/{id}/revoke POST/keys/{id}/rotate POST/keys/{id}/grants
		GET/namespaces POST/namespaces
		DELETE/namespaces/{id} GET/namespaces/{id} PATCH/namespaces/{id}
		GET/roles POST/roles
		DELETE/roles/{namespace}/{name} GET/roles/{namespace}/{name} PATCH/roles/{namespace}/{name}
		GET/plans POST/plans
		DELETE/plans/{namespace}/{name} GET/plans/{namespace}/{name} PATCH/plans/{namespace}/{name}
		GET/members POST/members DELETE/members/{id} GET/members/{id} PATCH/members/{id}
		POST/members/{id}/token POST/members/{id}/transfer
		GET/audit GET/audit/export GET/audit/verify
		GET/webhooks POST/webhooks/{id}/replay POST/webhooks/{id}/test`)
	var got []string
	ids := map[string]bool{}
	for path, methods := range doc.Paths {
		for method, op := range methods {
			method = strings.ToUpper(method)
			got = append(got, method+strings.TrimPrefix(path, api.Prefix))
			if op.OperationID == "" || ids[op.OperationID] || op.Summary == "" ||
				op.Responses["default"] == nil {
				t.Errorf("%s %s: id, summary or default answer missing: %+v", method, path, op)
			}
			ids[op.OperationID] = true
			if (op.RequestBody != nil) != (method == "POST" || method == "PATCH") {
				t.Errorf("%s %s: request body %v", method, path, op.RequestBody)
			}
			for _, name := range regexp.MustCompile(`{(\w+)}`).FindAllStringSubmatch(path, -1) {
				declared := slices.ContainsFunc(op.Parameters,
					func(p struct{ Name, In string }) bool {
						return p.Name == name[1] && p.In == "path"
					})
				if !declared {
					t.Errorf("%s %s: %s is not declared", method, path, name[1])
				}
			}
			changes := method == "PATCH" || method == "DELETE" ||
				strings.HasSuffix(path, "/revoke") || strings.HasSuffix(path, "/rotate") ||
				strings.HasSuffix(path, "/token") || strings.HasSuffix(path, "/grants") ||
				strings.HasSuffix(path, "/transfer")
			if (op.Responses["202"] != nil) != changes {
				t.Errorf("%s %s: 202 is %v", method, path, op.Responses["202"])
			}
			if open := slices.Contains([]string{"/docs", "/health", "/openapi.json", "/leaks"},
				strings.TrimPrefix(path, api.Prefix)); open == (op.Security != nil) {
				t.Errorf("%s %s: security %v", method, path, op.Security)
			}
		}
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("documented\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	used := map[string]bool{}
	for _, ref := range regexp.MustCompile(`"\$ref": "([^"]*)"`).FindAllStringSubmatch(a.text, -1) {
		name, ok := strings.CutPrefix(ref[1], "#/components/schemas/")
		if used[name] = true; !ok || doc.Components.Schemas[name] == nil {
			t.Errorf("the reference %s does not resolve", ref[1])
		}
	}
	for name := range doc.Components.Schemas {
		if !used[name] {
			t.Errorf("schema %s is not used", name)
		}
	}
}

// TestBodiesRoundTrip checks that the wire types encode bodies that match the document and that the
// server accepts.
func TestBodiesRoundTrip(t *testing.T) {
	d := open(t)
	m := d.mint(t, root, readOnly)
	for _, patch := range []api.KeyPatch{
		{},
		{Name: api.Some("b"), Active: api.Null[bool](),
			AllowedIPs: api.Some([]string{"192.0.2.1"})},
		{Metadata: api.Some(map[string]*string{"a": nil}), Permissions: api.Some([]string{"read"})},
		{Grants: api.Some([]api.GrantRequest{{Namespace: "default", Access: "read_only"}}),
			Metadata: api.Null[map[string]*string]()},
	} {
		text, err := json.Marshal(patch)
		if err != nil {
			t.Fatal(err)
		}
		var back api.KeyPatch
		if err := json.Unmarshal(text, &back); err != nil ||
			fmt.Sprintf("%+v", back.Active.Sent) != fmt.Sprintf("%+v", patch.Active.Sent) {
			t.Errorf("%s: %v, %+v", text, err, back)
		}
		d.call(t, root, "PATCH", "/keys/"+m.Key.ID, patch).into(t, 200, new(api.KeyChanged))
	}
}

func TestDocs(t *testing.T) {
	d := open(t)
	a := d.call(t, root, "GET", "/docs", nil)
	if a.status != 200 || !strings.HasPrefix(a.header.Get("Content-Security-Policy"),
		"default-src 'none'") {
		t.Errorf("%d %v", a.status, a.header)
	}
	for _, op := range []string{"POST /apikeys/v1/keys/{id}/revoke", "admin.keys:revoke",
		"/apikeys/v1/openapi.json"} {
		if !strings.Contains(a.text, op) {
			t.Errorf("%s is not on the page", op)
		}
	}
	external := regexp.MustCompile(`(?i)(src|href)="?[a-z+]*:?//|<script|@import|url\(`)
	if foreign := external.FindString(a.text); foreign != "" {
		t.Errorf("the page loads something: %s", foreign)
	}
}

// TestPermissionsBeforeDeclare checks that a missing permission table differs from an empty one.
func TestPermissionsBeforeDeclare(t *testing.T) {
	d := open(t)
	bare := &testAPI{API: admin.New(d.keys, slog.New(slog.DiscardHandler)), keys: d.keys}
	if p := bare.call(t, root, "GET", "/permissions", nil).problem(t); p.Status != 503 ||
		p.Code != "unavailable" {
		t.Errorf("%+v", p)
	}
	bare.Declare(nil)
	bare.call(t, root, "GET", "/permissions", nil).into(t, 200, new(api.Operations))
}
