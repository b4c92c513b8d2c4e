// Package browser is the console in real Chromium, on the real binary: what a person does there, by
// whatever means, at each size and in each colour.
package browser

import (
	"strings"
	"testing"

	"github.com/caddy-apikeys/caddy-apikeys/tests/chromium"
	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

func TestMain(m *testing.M) { gate.Main(m, chromium.Close) }

// site has the console before an API, as README.md has it.
const site = `
api_key {
	public /apikeys/*
}
api_keys_admin
reverse_proxy {$GATE_UPSTREAM}`

// looks are the windows and colours that each page is looked at in.
var looks = []chromium.Look{
	{Width: 360}, {Width: 360, Dark: true},
	{Width: 768}, {Width: 768, Dark: true},
	{Width: 1440}, {Width: 1440, Dark: true},
}

// everywhere are the grants of who may do everything.
var everywhere = gate.JSON{"namespace": "*", "roles": []string{"client-admin"}}

// member makes a member, whose login is its name, and its token.
func member(
	t *testing.T, g *gate.Gate, name string, grants ...gate.JSON,
) (id string, token gate.Token) {
	t.Helper()
	member := made(t, g, "/members",
		gate.JSON{"name": name, "kind": "person", "login": name, "grants": grants})
	id = member["id"].(string)
	return id, memberToken(t, g, id)
}

// made is an object that was made with a POST.
func made(t *testing.T, g *gate.Gate, path string, fields gate.JSON) gate.JSON {
	t.Helper()
	r := g.Call(t, "POST", path, fields)
	if r.Status != 201 {
		t.Fatalf("POST %s: %v", path, r)
	}
	return r.JSON()
}

func memberToken(t *testing.T, g *gate.Gate, id string) gate.Token {
	t.Helper()
	r := g.Call(t, "POST", "/members/"+id+"/token", gate.JSON{})
	token, _ := r.JSON()["token"].(string)
	if r.Status != 200 && r.Status != 201 || token == "" {
		t.Fatalf("a token for %s: %v", id, r)
	}
	return gate.Token(token)
}

// signedIn opens a browser and signs in there.
func signedIn(t *testing.T, g *gate.Gate, token gate.Token, look chromium.Look) *chromium.Page {
	t.Helper()
	page := chromium.New(t, g.URL, look)
	page.Open("/apikeys/")
	signIn(page, token)
	page.Sees("Sign out")
	return page
}

func signIn(page *chromium.Page, token gate.Token) {
	page.Fill("Member token", string(token))
	page.Click("Sign in")
}

// loggedIn opens a browser for a user of the site's basic_auth, who types name and password once.
func loggedIn(
	t *testing.T, g *gate.Gate, user, password string, look chromium.Look,
) *chromium.Page {
	t.Helper()
	page := chromium.New(t, g.URL, look)
	page.Open(strings.Replace(g.URL, "://", "://"+user+":"+password+"@", 1) + "/apikeys/")
	return page
}
