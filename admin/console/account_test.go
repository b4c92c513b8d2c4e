package console_test

import (
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
)

// TestAccount shows the token and the sessions of the visitor, and signs all of them out.
func TestAccount(t *testing.T) {
	s := open(t)
	id, token := s.member(t, "Ada", "*=@client-admin")
	here, there := s.person(t), s.person(t)
	for _, p := range []*person{there, here} {
		p.signIn(token).want(200)
	}
	other, _ := s.member(t, "Ben", "*=read")
	a := here.get("/apikeys/account").want(200, "My account", "This browser", "Another browser",
		"Never", "Any", "client-admin", "/apikeys/members/"+id+"/token").lacks(token)
	if n := strings.Count(a.Text, "Signed in <time"); n != 2 {
		t.Errorf("%d sessions, want 2", n)
	}
	for _, p := range []*person{there, here} {
		text := p.get("/apikeys/account").Text
		if strings.Index(text, "This browser") > strings.Index(text, "Another browser") {
			t.Error("the session of this browser is not the first")
		}
	}
	here.get("/apikeys/keys").want(200, `href="/apikeys/account"`)
	if a := here.post("/apikeys/account/sign-out"); a.At.Path != "/apikeys/sign-in" {
		t.Errorf("signing out everywhere leads to %s", a.At)
	}
	for _, p := range []*person{there, here} {
		if a := p.get("/apikeys/account"); a.At.Path != "/apikeys/sign-in" {
			t.Errorf("a session is left: %s", a.At)
		}
	}
	here.signIn(token).want(200)
	here.get("/apikeys/members/"+other).want(200, "Created <time", "never expires", "never used")
	without, err := s.keys.CreateMember(ctx, root, keystore.Member{Name: "Without"})
	if err != nil {
		t.Fatal(err)
	}
	here.get("/apikeys/members/"+without.ID).want(200,
		`<dt>Token</dt><dd><span class="muted">None</span>`)
	here.get("/apikeys/members").want(200, `data-label="Token"><span class="muted">None</span>`,
		`data-label="Token">Never expires`)

	// a user whom the site signs in has no session
	s.trusted = "without"
	if _, _, err := s.keys.EditMember(ctx, root, without.ID,
		manage.MemberPatch{Login: &s.trusted}, manage.ChangeOptions{}); err != nil {
		t.Fatal(err)
	}
	p := s.person(t)
	p.get("/apikeys/account").want(200, "You have no token. This site signs you in.",
		"No browser is signed in")
	p.post("/apikeys/account/sign-out").want(200, "All sessions are signed out")
}

// TestSwitchNamespace finds a namespace by a part of its id or name, and returns to the list.
func TestSwitchNamespace(t *testing.T) {
	s := open(t)
	for i := range 101 {
		namespaces(t, s, keystore.Namespace{ID: fmt.Sprintf("tenant-%03d", i),
			Name: fmt.Sprintf("Customer %d", 1000+i)})
	}
	p := s.signedIn(t, "Ada", "*=@client-admin")
	a := p.get("/apikeys/keys?status=revoked&owner=root").want(200, `action="/apikeys/switch"`)
	next, _ := a.field("next")
	find := func(text string) answer {
		t.Helper()
		return p.get("/apikeys/switch?q=" + text + "&next=" + url.QueryEscape(next))
	}
	for text, want := range map[string]string{
		"tenant-042": "/apikeys/keys?namespace=tenant-042&owner=root&status=revoked",
		"-042":       "/apikeys/keys?namespace=tenant-042&owner=root&status=revoked",
		"oMER+1042":  "/apikeys/keys?namespace=tenant-042&owner=root&status=revoked",
		"":           "/apikeys/keys?owner=root&status=revoked",
		"default":    "/apikeys/keys?namespace=default&owner=root&status=revoked",
	} {
		if a := find(text).want(200); a.At.RequestURI() != want {
			t.Errorf("%q leads to %s, want %s", text, a.At.RequestURI(), want)
		}
	}
	find("tenant-04").want(200, "Choose a namespace", "Customer 1049",
		"/apikeys/keys?namespace=tenant-049&amp;owner=root&amp;status=revoked").lacks("tenant-050</code>")
	find("tenant").want(200, "There are more")
	find("nothing").want(200, "No namespace that you may see")
	for _, next := range []string{"//evil.example/", "///evil.example/../apikeys/x",
		"/%252Fevil.example/../apikeys/x", "/apikeys/../x", "https://evil.example/apikeys/keys"} {
		a := p.get("/apikeys/switch?q=default&next=" + next)
		if a.At.Path != "/apikeys/keys" {
			t.Errorf("%s leads to %s", next, a.At)
		}
	}
	// a member sees only what it may
	one := s.signedIn(t, "Ben", "tenant-007=read")
	if a := one.get("/apikeys/switch?q=tenant-007"); a.At.Query().Get("namespace") != "tenant-007" {
		t.Errorf("a member's own namespace leads to %s", a.At)
	}
	one.get("/apikeys/switch?q=tenant-008").want(200, "No namespace").lacks("Customer")
	one.get("/apikeys/keys").want(200).lacks(`id="switch"`)
}
