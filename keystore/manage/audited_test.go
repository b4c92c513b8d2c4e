package manage

import (
	"net/netip"
	"reflect"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// TestAuditedKey: a key is read from the audit log as it was written, without the digests of its
// tokens.
func TestAuditedKey(t *testing.T) {
	at := time.Date(2026, 3, 1, 12, 0, 0, 123456000, time.UTC)
	key := &keystore.Key{
		ID: "4fWq0sN7aB2c", Prefix: "ak", Name: "ERP", Namespace: "acme", Owner: "m_1",
		CreatedBy: "root", CreatedAt: at, ExpiresAt: at.AddDate(1, 0, 0), Active: true,
		Grants: []keystore.Grant{{Namespace: "acme", Roles: []string{"r"}, Connected: true,
			Permissions: keystore.MustParsePermissions("read")}},
		Secrets:    []keystore.Secret{{CreatedAt: at, Imported: true}},
		AllowedIPs: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")},
		KeyLimits: keystore.KeyLimits{Plan: "p", Limits: keystore.Limits{
			Rate:  keystore.RateLimit{Requests: 5, Per: time.Second, Burst: 9},
			Quota: keystore.Quota{Units: 7, Per: keystore.Day}}},
		Metadata: map[string]string{"a": "b"}, Version: 3,
	}
	for _, k := range []*keystore.Key{key, {ID: "x", RevokedAt: at, RevokedBy: "m_2",
		RevokeReason: "left", CreatedAt: at}} {
		text, err := auditJSON(k)
		if err != nil {
			t.Fatal(err)
		}
		got, err := AuditedKey(text)
		if err != nil || !reflect.DeepEqual(got, k) {
			t.Errorf("%s is read as\n%+v, %v, want\n%+v", text, got, err, k)
		}
	}
	for _, bad := range []string{"", "[]", `{"grants":[{"permissions":["?"]}]}`,
		`{"grants":[{"permissions":"read,write"}]}`} {
		if _, err := AuditedKey(bad); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
}
