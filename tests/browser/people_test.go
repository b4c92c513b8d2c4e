package browser

import (
	"fmt"
	"strings"
	"testing"

	"github.com/caddy-apikeys/caddy-apikeys/tests/chromium"
	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

// testPeoplePages checks the pages around members, as TestPages does those of a site.
func testPeoplePages(t *testing.T, g *gate.Gate, token gate.Token) {
	ben, _ := member(t, g, "bob", everywhere)
	key := g.Mint(t, gate.JSON{"name": "Nightly export", "access": "read_only", "owner": ben})
	page := signedIn(t, g, token, chromium.Look{})
	for name, path := range map[string]string{
		"member-disable":  "/apikeys/members/" + ben + "/disable",
		"member-transfer": "/apikeys/members/" + ben + "/transfer",
		"account":         "/apikeys/account",
		"check":           "/apikeys/check",
		"switch":          "/apikeys/switch?q=nothing",
	} {
		look(t, page, "people-"+name, path)
	}
	page.Show(chromium.Look{})
	page.Open("/apikeys/check")
	page.Fill("Token", string(key.Token))
	page.Click("Check token")
	page.Sees("This token works", "Nightly export")
	page.Steady()
	shown(t, page, "people-checked")
}

// testDisableAndTransfer transfers the keys of a member and disables the member, with and without
// JavaScript.
func testDisableAndTransfer(t *testing.T, g *gate.Gate, token gate.Token) {
	for name, look := range map[string]chromium.Look{"with script": {},
		"without script": {NoScript: true}} {
		t.Run(name, func(t *testing.T) {
			ben, _ := member(t, g, "ben "+name, everywhere)
			member(t, g, "cleo "+name, everywhere)
			key := g.Mint(t, gate.JSON{"name": "Export " + name, "access": "read_only", "owner": ben})
			page := signedIn(t, g, token, look)
			page.Open("/apikeys/members/" + ben)
			page.Click("Disable member…")
			page.Sees("1 active key", "Export "+name)
			page.Click("transfer the keys to another member")
			page.Fill("New owner", "cleo "+name)
			page.Click("Transfer keys")
			page.Sees("1 key transferred to cleo " + name)
			page.Click("Disable member…")
			page.Sees("0 active keys")
			page.Fill("Type ben "+name+" to confirm", "somebody else")
			page.Click("Disable member")
			page.Sees("Type the name ben " + name)
			page.Fill("Type ben "+name+" to confirm", "ben "+name)
			page.Click("Disable member")
			page.Sees("Member ben " + name + " disabled")
			if r := g.Send(t, "GET", "/orders", key.Token, ""); r.Status != 200 {
				t.Errorf("the transferred key: %d", r.Status)
			}
		})
	}
}

// testPastedToken pastes a token into a search: it is checked, and no address contains it.
func testPastedToken(t *testing.T, g *gate.Gate, token gate.Token) {
	key := g.Mint(t, gate.JSON{"name": "Leaked", "access": "read_only"})
	page := signedIn(t, g, token, chromium.Look{})
	page.Open("/apikeys/keys")
	page.Fill("Search", "eyJ0eXAi.eyJleHAi."+strings.Repeat("A", 86)) // shaped like a derived token
	page.Submit("Search")
	page.Sees("This token is refused")
	if at := page.Address(); at != "/apikeys/check" {
		t.Errorf("a derived token leads to %s", at)
	}
	for path, field := range map[string]string{"/apikeys/keys": "Search", "/apikeys/roles": "Search",
		"/apikeys/audit": "Object"} {
		page.Open(path)
		page.Fill(field, " "+string(key.Token))
		page.Submit(field)
		page.Sees("This token works", "Leaked")
		if at := page.Address(); at != "/apikeys/check" {
			t.Errorf("%s: a pasted token leads to %s", path, at)
		}
	}
	page.Click("Revoke key…")
	page.Fill("Type revoke to confirm", "revoke")
	page.Click("Revoke key")
	page.Sees("Key revoked")
	page.Open("/apikeys/check")
	page.Fill("Token", string(key.Token))
	page.Click("Check token")
	page.Sees("This token is refused", "The key is revoked")
	if strings.Contains(page.Text(), string(key.Token)) || page.Value("Another token") != "" {
		t.Error("the page repeats the token")
	}

	// ordinary searches work as before
	page.Open("/apikeys/keys")
	page.Fill("Search", "leak")
	page.Submit("Search")
	page.Sees("Leaked")
	if at := page.Address(); !strings.Contains(at, "q=leak") {
		t.Errorf("a search leads to %s", at)
	}
}

// TestSwitchAmongMany finds one of many namespaces by a part of its name.
func TestSwitchAmongMany(t *testing.T) {
	t.Parallel()
	g := gate.Start(t, gate.Config{Site: site})
	_, token := member(t, g, "ada", everywhere)
	for i := range 101 {
		g.Namespace(t, fmt.Sprintf("tenant-%03d", i), gate.JSON{"name": fmt.Sprint("Customer ", i)})
	}
	for name, look := range map[string]chromium.Look{"with script": {},
		"without script": {NoScript: true}, "small": {Width: 360}} {
		t.Run(name, func(t *testing.T) {
			page := signedIn(t, g, token, look)
			page.Open("/apikeys/keys?status=revoked")
			page.Fill("Namespace shown", "omer 42")
			page.Click("Go")
			page.Sees("In namespace tenant-042.")
			if at := page.Address(); at != "/apikeys/keys?namespace=tenant-042&status=revoked" {
				t.Errorf("at %s", at)
			}
			page.Fill("Namespace shown", "tenant-04")
			page.Click("Go")
			page.Sees("Choose a namespace", "Customer 49")
			if !look.NoScript { // axe-core is a script
				page.Accessible()
			}
			page.Click("Customer 49")
			page.Sees("In namespace tenant-049.")
		})
	}
}

// testAccountInBrowser signs out a second browser.
func testAccountInBrowser(t *testing.T, g *gate.Gate, _ gate.Token) {
	_, token := member(t, g, "grace", everywhere)
	here, there := signedIn(t, g, token, chromium.Look{}), signedIn(t, g, token, chromium.Look{})
	here.Open("/apikeys/keys")
	here.Click("grace")
	here.Sees("My account", "This browser", "Another browser")
	here.Click("Sign out everywhere")
	here.Sees("Member token")
	there.Reload()
	there.Sees("Member token")
}

// TestAuditSummaries shows names and one line for each change.
func TestAuditSummaries(t *testing.T) {
	t.Parallel()
	g := gate.Start(t, gate.Config{Site: site})
	_, token := member(t, g, "ada", everywhere)
	ben, _ := member(t, g, "ben", everywhere)
	key := g.Mint(t, gate.JSON{"name": "CI", "access": "read_only"})
	g.Call(t, "PATCH", "/keys/"+key.ID, gate.JSON{"owner": ben})
	page := signedIn(t, g, token, chromium.Look{Zone: "Asia/Kolkata"})
	page.Open("/apikeys/audit")
	page.Sees("Read-Only in default", "Owner: root → ben", "Role client-admin in all namespaces")
	page.DoesNotSee("UTC", ben)
	page.Open("/apikeys/keys/" + key.ID)
	page.Sees("Owner: root → ben")
}
