package console_test

import (
	"strings"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
)

// TestCheckToken checks what the page says about tokens of all kinds, and that no page or address
// contains them.
func TestCheckToken(t *testing.T) {
	s := open(t)
	namespaces(t, s, keystore.Namespace{ID: "acme"}, keystore.Namespace{ID: "eu"})
	p := s.signedIn(t, "Ada", "*=@client-admin")
	ben, benToken := s.member(t, "Ben", "acme=read")
	mint := func(name string) (*keystore.Key, string) {
		t.Helper()
		k, token, err := s.keys.MintKey(ctx, root, manage.KeySpec{Name: name, Namespace: "acme",
			Owner: ben, Home: &keystore.Grant{Permissions: permissions(t, "read")}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		return k, token.Reveal()
	}
	live, token := mint("Live")
	revoked, revokedToken := mint("Gone")
	if _, _, err := s.keys.RevokeKey(ctx, root, revoked.ID, "leaked", false,
		manage.ChangeOptions{}); err != nil {
		t.Fatal(err)
	}
	rotated, rotatedToken := mint("Rotated")
	if _, _, _, err := s.keys.RotateKey(ctx, root, rotated.ID, 0,
		manage.ChangeOptions{}); err != nil {
		t.Fatal(err)
	}
	check := func(who *person, token string, texts ...string) answer {
		t.Helper()
		a := who.post("/apikeys/check", "token", token).want(200, texts...)
		if text := strings.TrimSpace(token); strings.Contains(a.Text, text) ||
			strings.Contains(a.At.String(), text) {
			t.Errorf("the page or its address contains the token: %s", a.At)
		}
		return a
	}
	p.get("/apikeys/check").want(200, "Check token")
	for _, text := range []string{token, " " + token + "\n", "Bearer " + token,
		"secret-token:" + token} {
		check(p, text, "This token works", "Live", "Ben", "/apikeys/keys/"+live.ID+"/revoke")
	}
	check(p, revokedToken, "is refused", "Gone", "is revoked", "leaked").lacks("Revoke key…")
	check(p, rotatedToken, "is refused", "was rotated")
	check(p, token[:len(token)-1]+"!", "is refused", "incomplete").lacks("Live")
	check(p, "nothing like a token", "is refused").lacks("Live")
	derive := func(life time.Duration) string {
		t.Helper()
		derived, err := keystore.Derive(token, keystore.Caveats{ExpiresAt: time.Now().Add(life)})
		if err != nil {
			t.Fatal(err)
		}
		return derived
	}
	check(p, derive(-time.Hour), "is refused", "This derived token has expired").
		lacks("Create another key")
	for _, text := range []string{derive(time.Hour), "secret-token:" + derive(time.Hour)} {
		check(p, text, "This derived token works", "until it expires", "Live").
			lacks("with the permissions of the key")
	}
	check(p, derive(time.Hour*24*400), "is refused", "valid for too long").lacks("Live")
	p.post("/apikeys/check", "token", " ").want(422, "Paste a token")

	check(p, benToken, "This member token works", "Ben", "/apikeys/members/"+ben)
	off := false
	if _, _, err := s.keys.EditMember(ctx, root, ben, manage.MemberPatch{Active: &off},
		manage.ChangeOptions{}); err != nil {
		t.Fatal(err)
	}
	check(p, benToken, "This member token is refused", "Disabled", "when the member is enabled").
		lacks("the key is transferred")
	check(p, token, "is refused", "acts for is disabled")

	// visitors that may not read the key or the member learn nothing
	stranger := s.signedIn(t, "Eve", "eu=@client-admin")
	check(stranger, token, "is refused", "No key that you may see").lacks("Live", "Ben", live.ID)
	check(stranger, benToken, "is refused", "No member that you may see").lacks("Ben", ben)
	s.signedIn(t, "Nobody").post("/apikeys/check", "token", token).want(403)

	// a token in an address is refused, with a hint
	p.get("/apikeys/keys?q="+token).want(400, "Check a token").lacks(token)
	if strings.Contains(s.log.String(), token) {
		t.Error("the log contains the token")
	}
}
