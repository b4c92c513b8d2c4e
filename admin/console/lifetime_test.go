package console_test

import (
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// TestLifetimes sets the rules of a namespace for the lifetime of its keys, and creates a key there.
func TestLifetimes(t *testing.T) {
	s := open(t)
	namespaces(t, s, keystore.Namespace{ID: "acme", Name: "Acme"})
	p := s.signedIn(t, "Ada", "*=@client-admin")
	at := "/apikeys/namespaces/acme"
	p.submit(at+"/edit", "max_lifetime", "45", "idle.then", "inactivate", "idle.after", "").want(422,
		`id="f-max_lifetime-error"`, `id="f-idle.after-error"`)
	p.submit(at+"/edit", "max_lifetime", "45d", "idle.then", "inactivate", "idle.after", "90d",
		"on_leak", "revoke").want(200, "New keys must expire within 45 days",
		"Are deactivated after 90 days", "Are revoked")
	want := keystore.Lifecycle{MaxLifetime: 45 * 24 * time.Hour, OnLeak: keystore.LeakRevoke,
		Idle: keystore.IdleRule{After: 90 * 24 * time.Hour, Then: keystore.IdleInactivate}}
	if got := s.keys.Policy().Namespace("acme").Lifecycle; got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	// The form for a new key offers nothing longer.
	form := p.get("/apikeys/keys/new?namespace=acme").want(200, `value="45d"`, `value="30d"`).
		lacks(`value="90d"`, `value="never"`)
	if chosen, _ := form.field("expires"); chosen != "45d" {
		t.Errorf("the expiry is %q", chosen)
	}
	p.submit("/apikeys/keys/new?namespace=acme", "name", "CI", "access", "read_only").want(201,
		"Your new key")
	p.post("/apikeys/keys/new?namespace=acme", "namespace", "acme", "name", "Forever", "access",
		"read_only", "expires", "never").want(422, "because of max_lifetime")
	p.get("/apikeys/keys?expiring=90d").want(200, "CI", "Expires within: <bdi>90 days")
	p.get("/apikeys/keys?unused=7d").want(200, "No keys match")
	p.get("/apikeys/keys?unused=x").want(200, "its address was invalid")
	p.submit(at+"/edit", "max_lifetime", "", "idle.then", "", "on_leak", "notify").want(200,
		"Changes saved", "As configured for the deployment")
	if got := s.keys.Policy().Namespace("acme").Lifecycle; got != (keystore.Lifecycle{}) {
		t.Errorf("%+v", got)
	}
}
