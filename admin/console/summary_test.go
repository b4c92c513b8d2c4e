package console

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
)

// TestSummaries checks the line that sums up a row of the audit log.
func TestSummaries(t *testing.T) {
	v := &visit{known: map[string]string{"m_1": "Ada", "m_2": "Ben"}}
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	const key = `"name":"CI","namespace":"default","owner":"m_1","active":true`
	for _, test := range []struct{ action, before, after, want string }{
		{"key.mint", "null", `{` + key + `,"grants":[{"namespace":"default","permissions":["read"]}]}`,
			"Read-Only in default, for Ada"},
		{"key.mint", "null", `{` + key + `,"expires_at":"2027-01-01T00:00:00Z","grants":[
			{"namespace":"default","permissions":["read","write"],"connected":true},
			{"namespace":"acme","permissions":["a:b","c:d","e:f","g:h"],"roles":["clerk"]},
			{"namespace":"eu","permissions":["read"]}]}`,
			"Read & Write in default and its children, a:b, c:d, e:f and 1 more and role clerk " +
				"in acme, and in 1 more namespace, for Ada, expires 2027-01-01T00:00:00Z"},
		{"key.edit", `{` + key + `}`, `{"name":"CI","namespace":"default","owner":"m_2","active":true}`,
			"Owner: Ada → Ben"},
		{"key.edit", `{` + key + `}`, `{"name":"D","namespace":"default","owner":"m_3","active":false,
			"plan":"gold"}`, "Deactivated; Renamed from CI; and 2 more fields"},
		{"key.edit", `{"allowed_ips":["10.0.0.0/8"]}`, `{"allowed_ips":["::1/128"]}`,
			"Allowed addresses: added ::1/128, removed 10.0.0.0/8"},
		{"key.rotate", `{}`, `{"secrets":[{"created_at":"2026-01-02T03:04:05Z"},
			{"created_at":"2026-01-01T00:00:00Z","expires_at":"2026-01-03T03:04:05Z"}]}`,
			"The old token works until 2026-01-03T03:04:05Z"},
		{"key.rotate", `{}`, `{"secrets":[{"created_at":"2026-01-02T03:04:05Z"}]}`,
			"The old token stopped working"},
		{"key.revoke", `{}`, `{"revoke_reason":"leaked"}`, "Reason: leaked"},
		{"key.delete", `{` + key + `}`, "null", ""},
		{"member.create", "null", `{"name":"Ada","kind":"person","grants":[{"namespace":"*",
			"permissions":[],"roles":["client-admin"]}]}`, "Role client-admin in all namespaces"},
		{"member.edit", `{"kind":"person","active":true}`, `{"kind":"person","active":false}`,
			"Disabled"},
		{"member.token", "null", `{"name":"Ada","allowed_ips":["::1/128"]}`,
			"Never expires, only from ::1/128"},
		{"key.edit", `{"grants":[]}`, `{"grants":[{"namespace":"default","permissions":["write"]}]}`,
			"Permissions: added write in default"},
		{"plan.create", "null", `{"name":"gold","namespace":"*","rate_limit":{"requests":20,"per":"1m",
			"burst":20},"quota":{"requests":5,"per":"month","shadow":true}}`,
			"20 requests per minute; 5 units per month, counted but not enforced"},
		{"namespace.edit", `{"edit_policy":"free"}`, `{"edit_policy":"grow_only","max_lifetime":"90d"}`,
			"Edits of keys: Add and remove permissions → Only add permissions; " +
				"Maximum lifetime: none → 90 days"},
		{"namespace.create", "null", `{"name":"Acme","kind":"tenant"}`, "Kind tenant"},
		{"role.create", "null", `{"permissions":["orders:read","orders:search"]}`,
			"orders:read, orders:search"},
		{"role.edit", `{"permissions":"orders:read"}`, `{"permissions":["orders:read","a:b"]}`,
			"Permissions: added a:b"},
	} {
		got := v.change(api.AuditRow{Action: test.action, At: at,
			Before: json.RawMessage(test.before), After: json.RawMessage(test.after)})
		if got.Summary != test.want {
			t.Errorf("%s: %q, want %q", test.action, got.Summary, test.want)
		}
	}
	revoked := v.change(api.AuditRow{Action: "key.revoke", Before: json.RawMessage("{}"),
		After: json.RawMessage(`{"created_by":"m_1","owner":"m_3","revoked_by":"m_2"}`)})
	for _, d := range revoked.Changes {
		want := map[string]string{"Created by": "Ada", "Owner": "m_3", "Revoked by": "Ben"}[d.Field]
		if d.After != want {
			t.Errorf("%s: %q, want %q", d.Field, d.After, want)
		}
	}
}

// TestShowMoments checks that times in a text become time elements, and that the rest is escaped.
func TestShowMoments(t *testing.T) {
	got := string(showMoments(`<b>created 2026-01-02T03:04:05.6Z & 2026-99-99T00:00:00Z`))
	if want := `&lt;b&gt;created <time datetime="2026-01-02T03:04:05Z">2026-01-02 03:04 UTC</time>` +
		` &amp; 2026-99-99T00:00:00Z`; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if showMoments("") != "" || !strings.Contains(string(showMoments("a")), "a") {
		t.Error("a text without a time has changed")
	}
}
