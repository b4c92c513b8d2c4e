// Package browser tests the console in Chromium against a running Caddy: with and without
// JavaScript, by keyboard, and in several window sizes and colour schemes.
package browser

import (
	"net/http"
	"strings"
	"testing"

	"github.com/caddy-apikeys/caddy-apikeys/tests/chromium"
	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

func TestMain(m *testing.M) { gate.Main(m, chromium.Close) }

// site has the console in front of an API, as in README.md.
const site = `
api_key {
	public /apikeys/*
}
api_keys_admin
reverse_proxy {$GATE_UPSTREAM}`

// looks are the window widths and colour schemes in which each page is checked.
var looks = []chromium.Look{{Width: 1440}, {Width: 768}, {Width: 360, Dark: true}}

// everywhere is a grant for everything.
var everywhere = gate.JSON{"namespace": "*", "roles": []string{"client-admin"}}

// TestSite runs tests that share a Caddy and a member, because they do not disturb each other. Each
// has its own keys, and other members or namespaces if it changes them. Together they may try at
// most ten wrong tokens, and open at most 50 sessions of the member.
func TestSite(t *testing.T) {
	t.Parallel()
	g := gate.Start(t, gate.Config{Site: site})
	_, token := member(t, g, "ada", everywhere)
	t.Run("FirstSteps", func(t *testing.T) { testFirstSteps(t, g, token) }) // before there are keys
	for name, test := range map[string]func(*testing.T, *gate.Gate, gate.Token){
		"AccountInBrowser": testAccountInBrowser, "AsCode": testAsCode, "Bulk": testBulk,
		"DisableAndTransfer": testDisableAndTransfer, "EnterCreatesNoKey": testEnterCreatesNoKey,
		"ErrorsTakeTheFocus": testErrorsTakeTheFocus, "Frame": testFrame,
		"GroupForm": testGroupForm, "GrowOnlyForms": testGrowOnlyForms,
		"LifetimeForm": testLifetimeForm, "LongForm": testLongForm,
		"OtherOrigins": testOtherOrigins, "PastedToken": testPastedToken,
		"PeoplePages": testPeoplePages, "Samples": testSamples,
		"SessionEndsInForm": testSessionEndsInForm, "Shortcuts": testShortcuts,
		"SignIn": testSignIn, "Theme": testTheme, "TwoEditors": testTwoEditors,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, g, token)
		})
	}
}

// member creates a member with its name as login, and a token.
func member(
	t *testing.T, g *gate.Gate, name string, grants ...gate.JSON,
) (id string, token gate.Token) {
	t.Helper()
	member := create(t, g, "/members",
		gate.JSON{"name": name, "kind": "person", "login": name, "grants": grants})
	id = member["id"].(string)
	return id, memberToken(t, g, id)
}

// create creates an object with a POST and returns it.
func create(t *testing.T, g *gate.Gate, path string, fields gate.JSON) gate.JSON {
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

// signedIn opens a browser with a new session of a member, and the list of keys. It skips the page
// to sign in, which testSignIn uses.
func signedIn(t *testing.T, g *gate.Gate, token gate.Token, look chromium.Look) *chromium.Page {
	t.Helper()
	return signedInAt(t, g.URL, token, look)
}

// signedInAt is signedIn for a gate with another address.
func signedInAt(t *testing.T, url string, token gate.Token, look chromium.Look) *chromium.Page {
	t.Helper()
	r, err := http.DefaultTransport.RoundTrip(signInRequest(t, url, token))
	if err != nil {
		t.Fatal(err)
	}
	r.Body.Close()
	if r.StatusCode != http.StatusSeeOther {
		t.Fatalf("signing in: status %d", r.StatusCode)
	}
	page := chromium.New(t, url, look)
	page.SetCookies(r.Cookies())
	page.Open("/apikeys/")
	page.Sees("Sign out")
	return page
}

func signInRequest(t *testing.T, url string, token gate.Token) *http.Request {
	t.Helper()
	r, err := http.NewRequest("POST", url+"/apikeys/sign-in",
		strings.NewReader("token="+string(token)))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return r
}

func signIn(page *chromium.Page, token gate.Token) {
	page.Fill("Member token", string(token))
	page.Click("Sign in")
}

// loggedIn opens a browser that sends the name and password of a basic_auth user.
func loggedIn(
	t *testing.T, g *gate.Gate, user, password string, look chromium.Look,
) *chromium.Page {
	t.Helper()
	page := chromium.New(t, g.URL, look)
	page.Open(strings.Replace(g.URL, "://", "://"+user+":"+password+"@", 1) + "/apikeys/")
	return page
}
