package admin_test

import (
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
)

const readOnly = `{"name":"CI","access":"read_only"}`

// TestRefusals sends requests that are invalid in one way to a store with the key {id}, the revoked
// key {revoked}, the namespace acme and its plan gold, which is in use.
func TestRefusals(t *testing.T) {
	d := open(t)
	key := d.mint(t, root,
		`{"name":"existing","access":"read_only","expires_at":"2037-01-01T00:00:00Z"}`).Key.ID
	revoked := d.mint(t, root, readOnly).Key.ID
	d.call(t, root, "POST", "/keys/"+revoked+"/revoke", nil).into(t, 200, new(api.KeyChanged))
	d.call(t, root, "POST", "/namespaces", `{"id":"acme"}`).into(t, 201, new(api.Namespace))
	d.call(t, root, "POST", "/plans", `{"namespace":"acme","name":"gold"}`).into(t, 201,
		new(api.Plan))
	d.mint(t, root, `{"name":"CI","namespace":"acme","access":"read_only","plan":"gold"}`)
	names := strings.NewReplacer("{id}", key, "{revoked}", revoked)
	long := strings.Repeat("x", 300)

	for _, test := range []struct {
		method, path, body string
		header             string // name: value, joined with |
		status             int
		code               string
		fields             string // the fields in errors, joined with a space
	}{
		// Unknown paths, objects and methods.
		{"GET", "/", "", "", 404, "not_found", ""},
		{"GET", "/nodes//", "", "", 404, "not_found", ""},
		{"POST", "/keys//rotate", "{}", "", 404, "not_found", ""},
		{"DELETE", "/keys/", "", "", 405, "method_not_allowed", ""},
		{"POST", "/nodes", "{}", "", 405, "method_not_allowed", ""},
		{"GET", "/permissions?cursor=x", "", "", 422, "invalid_fields", "cursor"},
		{"GET", "/permissions?limit=1001", "", "", 422, "invalid_fields", "limit"},
		{"POST", "/permissions", "", "", 405, "method_not_allowed", ""},
		{"GET", "/keys/{id}/uses", "", "", 404, "not_found", ""},
		{"GET", "/keys/aaaaaaaaaaaa/usage", "", "", 404, "not_found", ""},
		{"POST", "/usage", "{}", "", 405, "method_not_allowed", ""},
		{"GET", "/self/usage", "", "", 409, "no_key", ""},

		// Parameters of usage.
		{"GET", "/usage?step=week", "", "", 422, "invalid_fields", "step"},
		{"GET", "/usage?from=yesterday", "", "", 422, "invalid_fields", "from"},
		{"GET", "/usage?from=2026-01-01T00:00:00Z&to=2026-01-01T00:00:00Z", "", "", 422,
			"invalid_fields", "from"},
		{"GET", "/usage?from=1969-01-01T00:00:00Z&step=month", "", "", 422, "invalid_fields",
			"from"},
		{"GET", "/usage?from=2020-01-01T00:00:00Z&step=minute", "", "Accept: text/csv", 422,
			"invalid_fields", "from"},
		{"GET", "/usage?group_by=color&limit=1001", "", "", 422, "invalid_fields",
			"group_by limit"},
		{"GET", "/usage?namespace=*", "", "", 422, "invalid_fields", "namespace"},
		{"GET", "/keys/{id}/usage?group_by=key", "", "", 422, "invalid_fields", "group_by"},
		{"GET", "/keys/{id}/usage?step=", "", "", 422, "invalid_fields", "step"},

		// More unknown objects and methods.
		{"GET", "/keys/aaaaaaaaaaaa/", "", "", 404, "not_found", ""},
		{"GET", "/keys/aaaaaaaaaaaa", "", "", 404, "not_found", ""},
		{"GET", "/keys/a%2F..%2Fb", "", "", 404, "not_found", ""},
		{"POST", "/keys/aaaaaaaaaaaa/revoke", "", "", 404, "not_found", ""},
		{"POST", "/keys/aaaaaaaaaaaa/rotate", "", "", 404, "not_found", ""},
		{"DELETE", "/keys/aaaaaaaaaaaa", "", "", 404, "not_found", ""},
		{"PATCH", "/keys/aaaaaaaaaaaa", "{}", "", 404, "not_found", ""},
		{"GET", "/namespaces/nowhere", "", "", 404, "not_found", ""},
		{"PATCH", "/namespaces/nowhere", `{"name":"x"}`, "", 404, "not_found", ""},
		{"DELETE", "/namespaces/nowhere", "", "", 404, "not_found", ""},
		{"PUT", "/keys", "", "", 405, "method_not_allowed", ""},
		{"OPTIONS", "/keys/{id}", "", "", 405, "method_not_allowed", ""},

		// Bodies that cannot be read.
		{"POST", "/keys", readOnly, "Content-Type:", 415, "unsupported_media_type", ""},
		{"POST", "/keys", readOnly, "Content-Type: text/plain", 415, "unsupported_media_type", ""},
		{"POST", "/keys", readOnly, "Content-Type: application/x-www-form-urlencoded", 415,
			"unsupported_media_type", ""},
		{"POST", "/keys", readOnly, "Content-Type: application/merge-patch+json", 415,
			"unsupported_media_type", ""},
		{"POST", "/keys", readOnly, "Content-Type: application/json; charset=latin1", 415,
			"unsupported_media_type", ""},
		{"POST", "/keys", readOnly, "Content-Encoding: gzip", 415, "unsupported_media_type", ""},
		{"POST", "/keys/{id}/revoke", "{}", "Content-Type:", 415, "unsupported_media_type", ""},
		{"POST", "/keys/import", "{}", "Content-Type: text/plain", 415, "unsupported_media_type",
			""},
		{"POST", "/keys", "", "Content-Type: application/json", 400, "syntax", ""},
		{"POST", "/keys", "{", "", 400, "syntax", ""},
		{"POST", "/keys", readOnly + "x", "", 400, "syntax", ""},
		{"POST", "/keys", readOnly + readOnly, "", 400, "syntax", ""},
		{"POST", "/keys", `{"name":"a","name":"b","access":"read_only"}`, "", 400, "syntax", ""},
		{"POST", "/keys", `{"name":"a","metadata":{"a":"1","a":"2"},"access":"read_only"}`, "", 400,
			"syntax", ""},
		{"POST", "/keys", "{\"name\":\"\xff\",\"access\":\"read_only\"}", "", 400, "syntax", ""},
		{"POST", "/keys", strings.Repeat("[", 100) + strings.Repeat("]", 100), "", 400, "syntax",
			""},
		{"PATCH", "/keys/{id}", "nope", "", 400, "syntax", ""},
		{"POST", "/verify", "nope", "", 400, "syntax", ""},
		{"POST", "/keys", `{"name":"` + strings.Repeat("x", 1<<20) + `"}`, "", 413, "too_large",
			""},

		// Fields of a new key.
		{"POST", "/keys", "[]", "", 422, "invalid_fields", "body"},
		{"POST", "/keys", "null", "", 422, "invalid_fields", "body"},
		{"POST", "/keys", `{"access":"read_only"}`, "", 422, "invalid_fields", "name"},
		{"POST", "/keys", `{"name":null,"access":"read_only"}`, "", 422, "invalid_fields", "name"},
		{"POST", "/keys", `{"name":"","access":"read_only"}`, "", 422, "invalid_fields", "name"},
		{"POST", "/keys", `{"name":"` + long + `","access":"read_only"}`, "", 422, "invalid_fields",
			"name"},
		{"POST", "/keys", `{"name":"a\u0000b","access":"read_only"}`, "", 422, "invalid_fields",
			"name"},
		{"POST", "/keys", `{"name":"a\nb","access":"read_only"}`, "", 422, "invalid_fields",
			"name"},
		{"POST", "/keys", `{"name":"a"}`, "", 422, "invalid_fields", "permissions"},
		{"POST", "/keys", `{"name":"a","access":"custom"}`, "", 422, "invalid_fields",
			"permissions"},
		{"POST", "/keys", `{"name":"a","access":"admin"}`, "", 422, "invalid_fields", "access"},
		{"POST", "/keys", `{"name":"a","access":"read_only","permissions":["write"]}`, "", 422,
			"invalid_fields", "access"},
		{"POST", "/keys", `{"name":"a","permissions":["Orders:read","read",7]}`, "", 422,
			"invalid_fields", "permissions[2]"},
		{"POST", "/keys", `{"name":"a","permissions":["Orders:read","read","a:"]}`, "", 422,
			"invalid_fields", "permissions[0] permissions[2]"},
		{"POST", "/keys", `{"Name":"a","naem":"a","access":"read_only"}`, "", 422, "invalid_fields",
			"Name naem name"},
		{"POST", "/keys", `{"name":"a","access":"read_only","namespace":"nowhere"}`, "", 422,
			"invalid_fields", "namespace"},
		{"POST", "/keys", `{"name":"a","grants":[{"namespace":"nowhere","access":"read_only"}]}`,
			"", 422, "invalid_fields", "grants[0].namespace"},
		{"POST", "/keys", `{"name":"a","grants":[{"access":"read_only"}]}`, "", 422,
			"invalid_fields", "grants[0].namespace"},
		{"POST", "/keys",
			`{"name":"a","grants":[{"namespace":"acme","access":"read_only","more":1}]}`, "", 422,
			"invalid_fields", "grants[0].more"},
		{"POST", "/keys", `{"name":"a","grants":[{"namespace":"acme","permissions":["a b"]}]}`, "",
			422, "invalid_fields", "grants[0].permissions[0]"},
		{"POST", "/keys", `{"name":"a","grants":[null]}`, "", 422, "invalid_fields", "grants[0]"},
		{"POST", "/keys", `{"name":"a","access":"read_only","expires_at":"tomorrow"}`, "", 422,
			"invalid_fields", "expires_at"},
		{"POST", "/keys", `{"name":"a","access":"read_only","expires_at":"2001-01-01T00:00:00Z"}`,
			"", 422, "invalid_fields", "expires_at"},
		{"POST", "/keys", `{"name":"a","access":"read_only","expires_at":"0001-01-01T00:00:00Z"}`,
			"", 422, "invalid_fields", "expires_at"},
		{"POST", "/keys", `{"name":"a","access":"read_only","expires_at":1893456000}`, "", 422,
			"invalid_fields", "expires_at"},
		{"POST", "/keys",
			`{"name":"a","access":"read_only",
				"allowed_ips":["10.0.0.0/33","fe80::1%eth0","localhost"]}`,
			"", 422, "invalid_fields", "allowed_ips[0] allowed_ips[1] allowed_ips[2]"},
		{"POST", "/keys", `{"name":"a","access":"read_only","metadata":{"a":1}}`, "", 422,
			"invalid_fields", "metadata.a"},
		{"POST", "/keys", `{"name":"a","access":"read_only","metadata":{"a":"` +
			strings.Repeat("x", 4100) + `"}}`, "", 422, "invalid_fields", "metadata metadata.a"},
		{"POST", "/keys", `{"name":"a","access":"read_only","owner":"m_1"}`, "", 422,
			"invalid_fields", "owner"},
		{"POST", "/keys", `{"name":"a","access":"read_only","active":"yes"}`, "", 422,
			"invalid_fields", "active"},
		{"POST", "/keys", `{"name":"a","roles":["nope"],"access":"read_only"}`, "", 422,
			"invalid_fields", "roles"},
		{"POST", "/keys",
			`{"name":"a","access":"read_only","rate_limit":{"requests":1,"per":"1s"},"quota":{}}`,
			"", 422, "invalid_fields", "quota.per quota.requests"},
		{"POST", "/keys", `{"name":"a","access":"read_only","rate_limit":{"per":"1s"}}`, "", 422,
			"invalid_fields", "rate_limit.requests"},
		{"POST", "/keys", `{"name":"a","access":"read_only","rate_limit":{"requests":0,"per":"1s"}}`,
			"", 422, "invalid_fields", "rate_limit.requests"},
		{"POST", "/keys",
			`{"name":"a","access":"read_only","rate_limit":{"requests":-1,"per":"1s","burst":0}}`, "",
			422, "invalid_fields", "rate_limit.burst rate_limit.requests"},
		{"POST", "/keys",
			`{"name":"a","access":"read_only",
				"rate_limit":{"requests":100000001,"per":"1s","burst":9223372036854775808}}`, "", 422,
			"invalid_fields", "rate_limit.burst rate_limit.requests"},
		// All limits are checked at once.
		{"POST", "/keys",
			`{"name":"a","access":"read_only","rate_limit":{"requests":1,"per":"25h"},
				"quota":{"requests":0,"per":"year"}}`, "", 422,
			"invalid_fields", "quota.per quota.requests rate_limit.per"},
		{"POST", "/keys",
			`{"name":"a","access":"read_only","rate_limit":{"burst":1e3},"quota":{"requests":5}}`,
			"", 422, "invalid_fields",
			"quota.per rate_limit.burst rate_limit.per rate_limit.requests"},
		{"POST", "/plans",
			`{"namespace":"acme","name":"a","rate_limit":{"per":"25h"},"quota":{"per":"year"}}`, "",
			422, "invalid_fields",
			"quota.per quota.requests rate_limit.per rate_limit.requests"},
		{"POST", "/keys",
			`{"name":"a","access":"read_only",
				"rate_limit":{"requests":100000001,"per":"1s","burst":100000001}}`, "", 422,
			"invalid_fields", "rate_limit.burst rate_limit.requests"},
		{"POST", "/keys",
			`{"name":"a","access":"read_only","rate_limit":{"requests":1.0,"per":"1s","burst":1e3}}`, "",
			422, "invalid_fields", "rate_limit.burst rate_limit.requests"},
		{"POST", "/keys",
			`{"name":"a","access":"read_only","rate_limit":{"requests":"1","per":1}}`, "", 422,
			"invalid_fields", "rate_limit.per rate_limit.requests"},
		{"POST", "/keys", `{"name":"a","access":"read_only","rate_limit":{"requests":1,"per":"soon"}}`,
			"", 422, "invalid_fields", "rate_limit.per"},
		{"POST", "/keys", `{"name":"a","access":"read_only","rate_limit":{"requests":1,"per":"999ms"}}`,
			"", 422, "invalid_fields", "rate_limit.per"},
		{"POST", "/keys", `{"name":"a","access":"read_only","rate_limit":{"requests":1,"per":"24h1s"}}`,
			"", 422, "invalid_fields", "rate_limit.per"},
		{"POST", "/keys",
			`{"name":"a","access":"read_only","rate_limit":{"requests":1,"per":"1.0000001s"}}`, "", 422,
			"invalid_fields", "rate_limit.per"},
		{"POST", "/keys", `{"name":"a","access":"read_only","rate_limit":{"requests":1,"per":"day"}}`,
			"", 422, "invalid_fields", "rate_limit.per"},
		{"POST", "/keys",
			`{"name":"a","access":"read_only","rate_limit":{"requests":1,"Per":"1s","window":"1s"}}`, "",
			422, "invalid_fields", "rate_limit.Per rate_limit.window"},
		{"POST", "/keys", `{"name":"a","access":"read_only","rate_limit":[1]}`, "", 422,
			"invalid_fields", "rate_limit"},
		{"POST", "/keys", `{"name":"a","access":"read_only","rate_limit":100}`, "", 422,
			"invalid_fields", "rate_limit"},
		{"POST", "/keys",
			`{"name":"a","access":"read_only","rate_limit":{"unlimited":true,"requests":1},
				"quota":{"unlimited":true,"per":"day"}}`, "", 422, "invalid_fields",
			"quota.unlimited rate_limit.unlimited"},
		{"POST", "/keys", `{"name":"a","access":"read_only","quota":{"requests":1,"per":"1s"}}`, "",
			422, "invalid_fields", "quota.per"},
		{"POST", "/keys",
			`{"name":"a","access":"read_only","quota":{"requests":1000000000000001,"per":"day"}}`, "",
			422, "invalid_fields", "quota.requests"},
		{"POST", "/keys",
			`{"name":"a","access":"read_only","quota":{"requests":1,"per":"day","burst":1}}`, "", 422,
			"invalid_fields", "quota.burst"},
		{"POST", "/keys", `{"name":"a","access":"read_only","plan":""}`, "", 422, "invalid_fields",
			"plan"},
		{"POST", "/keys", `{"name":"a","access":"read_only","plan":{"name":"gold"}}`, "", 422,
			"invalid_fields", "plan"},
		{"POST", "/keys", `{"name":"a","access":"read_only","plan":"gold"}`, "", 422,
			"invalid_fields", "plan"},
		{"POST", "/keys",
			`{"name":"a","access":"read_only",
				"new_roles":[{"name":"x","permissions":["read","a:"]},{"permissions":["a"]}]}`,
			"", 422, "invalid_fields", "new_roles[1].name"},
		{"POST", "/keys",
			`{"name":"a","access":"read_only",
				"new_roles":[{"name":"x","permissions":["read","a:"]}]}`,
			"", 422, "invalid_fields", "new_roles[0].permissions[1]"},
		{"POST", "/keys",
			`{"name":"a","access":"read_only",
				"new_roles":[{"name":"viewer","permissions":["read"]}]}`, "", 409, "exists", ""},
		// All errors are reported at once, also those of values that cannot be converted.
		{"POST", "/keys", `{"name":"` + long + `","permissions":["Orders:read"],
				"allowed_ips":["nowhere"],"rate_limit":{"requests":1,"per":"1w"},
				"new_roles":[{"name":"no good","permissions":["read"]}],
				"grants":[{"namespace":"gone","access":"read_only"}]}`, "", 422, "invalid_fields",
			"allowed_ips[0] grants[0].namespace name new_roles[0].name permissions[0] " +
				"rate_limit.per"},
		{"PATCH", "/keys/{id}", `{"name":"` + long + `","permissions":["Orders:read"],
				"allowed_ips":["nowhere"],"new_roles":[{"name":"no good","permissions":["a:b"]}]}`,
			"", 422, "invalid_fields", "allowed_ips[0] name new_roles[0].name permissions[0]"},
		{"POST", "/keys/import?partial=0",
			`{"keys":[{"name":"a","token":"a-credential",
				"new_roles":[{"name":"x","permissions":["read"]}]}]}`, "", 422, "invalid_fields", ""},
		{"POST", "/keys?dry_run=1", readOnly, "", 422, "invalid_fields", "dry_run"},
		{"POST", "/keys", readOnly, "Idempotency-Key: " + long, 422, "invalid_fields",
			"Idempotency-Key"},

		// Changes of a key.
		{"PATCH", "/keys/{id}", `{"name":null}`, "", 422, "invalid_fields", "name"},
		{"PATCH", "/keys/{id}", `{"name":""}`, "", 422, "invalid_fields", "name"},
		{"PATCH", "/keys/{id}", `{"id":"x","status":"revoked"}`, "", 422, "invalid_fields",
			"id status"},
		{"PATCH", "/keys/{id}", `{"expires_at":"2038-01-01T00:00:00Z"}`, "", 422, "invalid_fields",
			"expires_at"},
		{"PATCH", "/keys/{id}", `{"expires_at":null}`, "", 422, "invalid_fields", "expires_at"},
		{"PATCH", "/keys/{id}",
			`{"access":"read_only","grants":[{"namespace":"acme","access":"read_only"}]}`, "", 422,
			"invalid_fields", "grants"},
		{"PATCH", "/keys/{id}", `{"access":"read_only","permissions":["read"]}`, "", 422,
			"invalid_fields", "access"},
		{"PATCH", "/keys/{id}", `{"permissions":[]}`, "", 422, "invalid_fields", "permissions"},
		{"PATCH", "/keys/{id}", `{"grants":null}`, "", 422, "invalid_fields", "permissions"},
		{"PATCH", "/keys/{id}", `{"rate_limit":{"burst":5}}`, "", 422, "invalid_fields",
			"rate_limit.per rate_limit.requests"},
		{"PATCH", "/keys/{id}", `{"quota":{"requests":0,"per":"day"}}`, "", 422, "invalid_fields",
			"quota.requests"},
		{"PATCH", "/keys/{id}", `{"plan":"gold"}`, "", 422, "invalid_fields", "plan"},
		{"PATCH", "/keys/{id}", `{"owner":"m_1"}`, "", 422, "invalid_fields", "owner"},
		{"PATCH", "/keys/{id}?wait=6m", `{"name":"b"}`, "", 422, "invalid_fields", "wait"},
		{"PATCH", "/keys/{id}?wait=-1s", `{"name":"b"}`, "", 422, "invalid_fields", "wait"},
		{"PATCH", "/keys/{id}?wait=soon", `{"name":"b"}`, "", 422, "invalid_fields", "wait"},
		{"PATCH", "/keys/{id}", `{"name":"b"}`, `If-Match: "7"`, 412, "version_mismatch", ""},
		{"PATCH", "/keys/{id}", `{"name":"b"}`, `If-Match: W/"1"`, 412, "version_mismatch", ""},
		{"PATCH", "/keys/{id}", `{"name":"b"}`, `If-Match: 1`, 412, "version_mismatch", ""},
		{"POST", "/keys/{id}/revoke", "", `If-Match: "7"`, 412, "version_mismatch", ""},
		{"POST", "/keys/{id}/rotate", "", `If-Match: "7"`, 412, "version_mismatch", ""},
		{"DELETE", "/keys/{revoked}", "", `If-Match: "7"`, 412, "version_mismatch", ""},
		{"PATCH", "/keys/{revoked}", `{"name":"b"}`, "", 409, "revoked", ""},
		{"POST", "/keys/{revoked}/rotate", "", "", 409, "revoked", ""},
		{"DELETE", "/keys/{id}", "", "", 409, "not_revoked", ""},
		{"POST", "/keys/{id}/rotate", `{"grace":"soon"}`, "", 422, "invalid_fields", "grace"},
		{"POST", "/keys/{id}/rotate", `{"grace":"-1s"}`, "", 422, "invalid_fields", "grace"},
		{"POST", "/keys/{id}/rotate", `{"grace":"721h"}`, "", 422, "invalid_fields", "grace"},
		{"POST", "/keys/{id}/rotate", `{"grace":60}`, "", 422, "invalid_fields", "grace"},
		{"POST", "/keys/{id}/revoke", `{"raeson":"x"}`, "", 422, "invalid_fields", "raeson"},
		{"POST", "/self/revoke", "", "", 409, "no_key", ""},

		// Lists.
		{"GET", "/keys?limit=0", "", "", 422, "invalid_fields", "limit"},
		{"GET", "/keys?limit=1001", "", "", 422, "invalid_fields", "limit"},
		{"GET", "/keys?limit=many", "", "", 422, "invalid_fields", "limit"},
		{"GET", "/keys?status=dead", "", "", 422, "invalid_fields", "status"},
		{"GET", "/keys?namespace=a%20b", "", "", 422, "invalid_fields", "namespace"},
		{"GET", "/keys?home=a%20b", "", "", 422, "invalid_fields", "home"},
		{"GET", "/keys?name=x", "", "", 422, "invalid_fields", "name"},
		{"GET", "/keys?q=" + long, "", "", 422, "invalid_fields", "q"},
		{"GET", "/namespaces?limit=0", "", "", 422, "invalid_fields", "limit"},
		{"GET", "/namespaces?cursor=x", "", "", 422, "invalid_fields", "cursor"},

		// Namespaces.
		{"POST", "/namespaces", `{}`, "", 422, "invalid_fields", "id"},
		{"POST", "/namespaces", `{"id":"a/b"}`, "", 422, "invalid_fields", "id"},
		{"POST", "/namespaces", `{"id":"home"}`, "", 422, "invalid_fields", "id"},
		{"POST", "/namespaces", `{"id":"b","name":"` + long + `"}`, "", 422, "invalid_fields",
			"name"},
		{"POST", "/namespaces", `{"id":"b","edit_policy":"frozen"}`, "", 422, "invalid_fields",
			"edit_policy"},
		{"POST", "/namespaces", `{"id":"b","parent":"nowhere"}`, "", 422, "invalid_fields",
			"parent"},
		{"POST", "/namespaces",
			`{"id":"b","reach":[""],"key_roles":["member"],"token_prefix":"ak_b"}`, "", 422,
			"invalid_fields", "key_roles[0] reach[0] token_prefix"},
		{"POST", "/namespaces", `{"id":"acme"}`, "", 409, "exists", ""},
		{"POST", "/namespaces", `{"id":"default"}`, "", 409, "exists", ""},
		{"PATCH", "/namespaces/acme", `{"kind":"account"}`, "", 422, "invalid_fields", "kind"},
		{"PATCH", "/namespaces/acme", `{"id":"other"}`, "", 422, "invalid_fields", "id"},
		{"PATCH", "/namespaces/acme", `{"parent":"acme"}`, "", 422, "invalid_fields", "parent"},
		{"PATCH", "/namespaces/acme", `{"reach":"x"}`, "", 422, "invalid_fields", "reach"},
		{"PATCH", "/namespaces/acme", `{"name":"x"}`, `If-Match: "7"`, 412, "version_mismatch", ""},
		{"POST", "/namespaces",
			`{"id":"b","rate_limit":{},"quota":{"requests":1,"per":"week"},"default_plan":"gold"}`, "",
			422, "invalid_fields", "quota.per rate_limit.per rate_limit.requests"},
		{"POST", "/namespaces", `{"id":"b","rate_limit":{},"default_plan":"gold"}`, "", 422,
			"invalid_fields", "default_plan rate_limit.per rate_limit.requests"},
		{"POST", "/namespaces", `{"id":"b","default_plan":"gold"}`, "", 422, "invalid_fields",
			"default_plan"},
		{"PATCH", "/namespaces/acme", `{"default_plan":"silver"}`, "", 422, "invalid_fields",
			"default_plan"},
		{"PATCH", "/namespaces/acme", `{"quota":{"requests":1,"per":"1h"}}`, "", 422,
			"invalid_fields", "quota.per"},
		{"PATCH", "/namespaces/acme", `{"kind":"account","rate_limit":{"requests":1}}`, "", 422,
			"invalid_fields", "kind rate_limit.per"},
		{"DELETE", "/namespaces/acme", "", "", 409, "in_use", ""},
		{"DELETE", "/namespaces/default", "", "", 409, "in_use", ""},

		// Roles.
		{"GET", "/roles/acme/nope", "", "", 404, "not_found", ""},
		{"GET", "/roles/viewer", "", "", 404, "not_found", ""},
		{"PATCH", "/roles/acme/nope", `{}`, "", 404, "not_found", ""},
		{"DELETE", "/roles/acme/nope", "", "", 404, "not_found", ""},
		{"GET", "/roles?limit=0", "", "", 422, "invalid_fields", "limit"},
		{"POST", "/roles", `{"name":"a"}`, "", 422, "invalid_fields", "namespace permissions"},
		{"POST", "/roles", `{"namespace":"nowhere","name":"a b","permissions":[]}`, "", 422,
			"invalid_fields", "name namespace permissions"},
		{"POST", "/roles", `{"namespace":"acme","name":"a","permissions":["read","A:b"]}`, "", 422,
			"invalid_fields", "permissions[1]"},
		{"POST", "/roles", `{"namespace":"acme","name":"viewer","permissions":["read"]}`, "", 409,
			"exists", ""},
		{"POST", "/roles", `{"namespace":"acme","name":"Viewer","permissions":["read"]}`, "", 409,
			"exists", ""},
		{"POST", "/keys",
			`{"name":"a","access":"read_only",
				"new_roles":[{"name":"b","permissions":["read"]},{"name":"B","permissions":["read"]}]}`,
			"", 409, "exists", ""},
		{"PATCH", "/roles/*/viewer", `{"permissions":["read"]}`, "", 409, "builtin", ""},
		{"PATCH", "/roles/*/viewer", `{"name":"reader","namespace":"acme"}`, "", 422,
			"invalid_fields", "name namespace"},
		{"DELETE", "/roles/*/viewer", "", "", 409, "builtin", ""},

		// Plans.
		{"GET", "/plans/acme/nope", "", "", 404, "not_found", ""},
		{"GET", "/plans/gold", "", "", 404, "not_found", ""},
		{"PATCH", "/plans/acme/nope", `{}`, "", 404, "not_found", ""},
		{"DELETE", "/plans/acme/nope", "", "", 404, "not_found", ""},
		{"GET", "/plans?limit=0", "", "", 422, "invalid_fields", "limit"},
		{"GET", "/plans?cursor=x", "", "", 422, "invalid_fields", "cursor"},
		{"GET", "/plans?namespace=a%20b", "", "", 422, "invalid_fields", "namespace"},
		{"GET", "/plans?name=gold", "", "", 422, "invalid_fields", "name"},
		{"POST", "/plans", `{"namespace":"acme"}`, "", 422, "invalid_fields", "name"},
		{"POST", "/plans", `{"namespace":"nowhere","name":"a b"}`, "", 422, "invalid_fields",
			"name namespace"},
		{"POST", "/plans",
			`{"namespace":"acme","name":"silver","rate_limit":{"requests":1,"per":"25h"}}`, "", 422,
			"invalid_fields", "rate_limit.per"},
		{"POST", "/plans", `{"namespace":"acme","name":"gold"}`, "", 409, "exists", ""},
		{"POST", "/plans", `{"namespace":"acme","name":"GOLD"}`, "", 409, "exists", ""},
		{"POST", "/plans", `{"namespace":"*","name":"gold"}`, "", 409, "exists", ""},
		{"PATCH", "/plans/acme/gold", `{"name":"silver","namespace":"*"}`, "", 422,
			"invalid_fields", "name namespace"},
		{"PATCH", "/plans/acme/gold", `{"rate_limit":{"requests":5}}`, "", 422, "invalid_fields",
			"rate_limit.per"},
		{"PATCH", "/plans/acme/gold", `{"description":"x"}`, `If-Match: "7"`, 412,
			"version_mismatch", ""},
		{"DELETE", "/plans/acme/gold", "", `If-Match: "7"`, 412, "version_mismatch", ""},
		{"DELETE", "/plans/acme/gold", "", "", 409, "in_use", ""},

		// Members.
		{"GET", "/members/m_000000000000", "", "", 404, "not_found", ""},
		{"PATCH", "/members/m_000000000000", `{"name":"x"}`, "", 404, "not_found", ""},
		{"DELETE", "/members/m_000000000000", "", "", 404, "not_found", ""},
		{"POST", "/members/m_000000000000/token", "", "", 404, "not_found", ""},
		{"PATCH", "/members/root", `{"name":"x"}`, "", 409, "builtin", ""},
		{"POST", "/members/root/token", "", "", 409, "builtin", ""},
		{"POST", "/members", `{}`, "", 422, "invalid_fields", "name"},
		{"POST", "/members", `{"name":"a","kind":"robot"}`, "", 422, "invalid_fields", "kind"},
		{"POST", "/members", `{"name":"a","id":"m_1","active":false}`, "", 422, "invalid_fields",
			"active id"},
		{"POST", "/members", `{"name":"a","grants":[{"namespace":"nowhere","roles":["nope"]}]}`, "",
			422, "invalid_fields", "grants[0].namespace grants[0].roles"},
		{"POST", "/members", `{"name":"a","grants":[{"namespace":"acme","permissions":["a b"]}]}`,
			"", 422, "invalid_fields", "grants[0].permissions[0]"},
		{"POST", "/members/root/token",
			`{"expires_at":"0001-01-01T00:00:00Z","allowed_ips":["localhost"]}`, "", 422,
			"invalid_fields", "allowed_ips[0] expires_at"},

		// The audit log.
		{"GET", "/audit?from=yesterday", "", "", 422, "invalid_fields", "from"},
		{"GET", "/audit?since=2026-01-01T00:00:00Z", "", "", 422, "invalid_fields", "since"},
		{"GET", "/audit?cursor=x", "", "", 422, "invalid_fields", "cursor"},
		{"POST", "/audit", "{}", "", 405, "method_not_allowed", ""},

		// The decision.
		{"POST", "/verify", `{}`, "", 422, "invalid_fields", "token"},
		{"POST", "/verify", `{"token":"x","permission":"Orders"}`, "", 422, "invalid_fields",
			"permission"},
	} {
		t.Run(test.method+test.path+" "+
			test.body[:min(len(test.body), 60)]+test.header[:min(len(test.header), 40)],
			func(t *testing.T) {
				var body any
				if test.body != "" {
					body = test.body
				}
				var header []string
				if name, value, ok := strings.Cut(test.header, ":"); ok {
					header = []string{name, strings.TrimSpace(value)}
				}
				a := d.call(t, root, test.method, names.Replace(test.path), body, header...)
				p := a.problem(t)
				if p.Status != test.status || p.Code != test.code {
					t.Fatalf("%d %s, want %d %s: %s", p.Status, p.Code, test.status, test.code,
						a.text)
				}
				var fields []string
				for _, e := range p.Errors {
					fields = append(fields, e.Field)
					if e.Detail == "" {
						t.Errorf("the error of %s has no detail", e.Field)
					}
				}
				slices.Sort(fields)
				if got := strings.Join(fields, " "); got != test.fields {
					t.Errorf("errors name %q, want %q: %s", got, test.fields, a.text)
				}
				if test.status == 405 && a.header.Get("Allow") == "" {
					t.Error("405 without Allow")
				}
				if a.header.Get("Cache-Control") != "no-store" {
					t.Error("the answer may be cached")
				}
			})
	}

	// None of these requests changes anything.
	var k api.Key
	d.call(t, root, "GET", "/keys/"+key, nil).into(t, 200, &k)
	if k.Version != 1 || k.Name != "existing" || k.Status != "active" {
		t.Errorf("a refused request changed the key: %+v", k)
	}
	var list api.Keys
	d.call(t, root, "GET", "/keys", nil).into(t, 200, &list)
	if len(list.Items) != 3 {
		t.Errorf("%d keys, want 3", len(list.Items))
	}
}

func TestWithoutCaller(t *testing.T) {
	d := open(t)
	for path, want := range map[string]int{"/keys": 401, "/self": 401, "/health": 200,
		"/openapi.json": 200, "/docs": 200, "/nothing": 404} {
		w := httptest.NewRecorder()
		d.ServeHTTP(w, httptest.NewRequest("GET", api.Prefix+path, nil))
		if w.Code != want {
			t.Errorf("%s: %d, want %d", path, w.Code, want)
		}
		if want == 401 && !strings.HasPrefix(w.Header().Get("WWW-Authenticate"), "Bearer") {
			t.Errorf("%s: 401 without WWW-Authenticate", path)
		}
	}
	if a := d.call(t, manage.Caller{}, "GET", "/keys", nil); a.problem(t).Code != "missing_key" ||
		a.status != 401 {
		t.Errorf("the zero caller: %s", a.text)
	}
}

func TestCrossOrigin(t *testing.T) {
	d := open(t)
	for _, test := range []struct {
		method, path string
		header       []string
		status       int
	}{
		{"POST", "/keys", []string{"Origin", "https://evil.example"}, 403},
		{"POST", "/keys", []string{"Origin", "null"}, 403},
		{"POST", "/keys", []string{"Sec-Fetch-Site", "cross-site"}, 403},
		{"POST", "/keys", []string{"Sec-Fetch-Site", "same-site"}, 403},
		{"POST", "/keys", []string{"Sec-Fetch-Site", "same-origin", "Origin", "http://example.com"},
			201},
		{"POST", "/keys", []string{"Origin", "http://example.com"}, 201}, // httptest's Host
		{"GET", "/keys", []string{"Origin", "https://evil.example"}, 200},
	} {
		var body any
		if test.method == "POST" {
			body = readOnly
		}
		a := d.call(t, root, test.method, test.path, body, test.header...)
		if a.status != test.status {
			t.Errorf("%s with %v: %d, want %d", test.method, test.header, a.status, test.status)
		}
		if test.status == http.StatusForbidden && a.problem(t).Code != "cross_origin" {
			t.Errorf("with %v: %s", test.header, a.text)
		}
	}
}
