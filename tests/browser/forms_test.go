package browser

import (
	"crypto/sha256"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp/kb"

	"github.com/caddy-apikeys/caddy-apikeys/tests/chromium"
	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

// bothLooks are the windows with and without JavaScript.
var bothLooks = map[string]chromium.Look{"with script": {}, "without script": {NoScript: true}}

// accessibleIn checks the accessibility rules and the dark colours, which needs JavaScript.
func accessibleIn(page *chromium.Page, look chromium.Look) {
	if look.NoScript {
		return
	}
	page.Accessible()
	dark := look
	dark.Dark = true
	page.Show(dark)
	page.Legible()
	page.Show(look)
}

// TestChoosingInLists checks that arrow keys in a list change nothing but its value (WCAG 3.2.2):
// Enter, leaving the list and the button apply it, and the focus stays.
func TestChoosingInLists(t *testing.T) {
	t.Parallel()
	g := gate.Start(t, gate.Config{Site: site})
	_, token := member(t, g, "ada", everywhere)
	for _, id := range []string{"acme", "other"} {
		g.Namespace(t, id, gate.JSON{})
	}
	g.Mint(t, gate.JSON{"name": "Till", "access": "read_only"}) // without keys there are no filters
	page := signedIn(t, g, token, chromium.Look{})
	stays := func(address string) {
		t.Helper()
		if now := page.Address(); now != address {
			t.Fatalf("at %s, want %s", now, address)
		}
	}
	focused := func(id string) {
		t.Helper()
		if now := page.Focused(); now != id {
			t.Errorf("the focus is on %s, want %s", now, id)
		}
	}

	page.Open("/apikeys/keys")
	page.Focus("Status")
	page.Press(kb.ArrowDown + kb.ArrowDown)
	stays("/apikeys/keys")
	chosen := page.Value("Status")
	if chosen == "Any" {
		t.Fatal("the arrow keys did not change the list")
	}
	page.Submit("Status")
	if !strings.Contains(page.Address(), "status=inactive") || page.Value("Status") != chosen {
		t.Errorf("Enter led to %s", page.Address())
	}
	focused("status-filter")
	page.Press(kb.ArrowDown)
	address := page.Address()
	stays(address)
	page.Click("Filter")
	if page.Address() == address {
		t.Error("the button changed nothing")
	}
	focused("filter")

	page.Open("/apikeys/keys")
	page.Focus("Status")
	page.Press(kb.ArrowDown)
	page.Leave(kb.Tab) // to the next field
	if !strings.Contains(page.Address(), "status=active") {
		t.Errorf("leaving the list led to %s", page.Address())
	}

	page.Open("/apikeys/keys")
	page.Focus("Namespace shown")
	page.Press(kb.ArrowDown)
	stays("/apikeys/keys")
	page.Submit("Namespace shown")
	stays("/apikeys/keys?namespace=other")
	focused("switch")

	// The form for a key has its own list of namespaces, which keeps what was typed.
	page.Open("/apikeys/keys/new")
	if page.Offers("Namespace shown") {
		t.Error("a form has the switcher, which would leave it")
	}
	page.Fill("Name", "Shop")
	page.Focus("Namespace")
	page.Press(kb.ArrowUp)
	page.Sees("Create key")
	if page.Value("Name") != "Shop" {
		t.Fatal("the arrow key left the form")
	}
	before := page.Value("Namespace")
	page.Submit("Namespace")
	page.Sees("All children of " + before)
	if page.Value("Name") != "Shop" || page.Value("Namespace") != before {
		t.Errorf("the name is %q", page.Value("Name"))
	}
	focused("f-namespace")
}

// testEnterCreatesNoKey checks that Enter in a field leads to a review, and that the token is shown
// once: going back and reloading show the page of the key, without a question of the browser.
func testEnterCreatesNoKey(t *testing.T, g *gate.Gate, token gate.Token) {
	for name, look := range bothLooks {
		t.Run(name, func(t *testing.T) {
			page := signedIn(t, g, token, look)
			page.Click("Create key")
			page.Fill("Name", name)
			page.Submit("Name")
			page.Sees("Review key", "Nothing is created yet", name, "Read-Only")
			page.Picture("key-review")
			accessibleIn(page, look)
			page.Click("Edit again")
			if page.Value("Name") != name {
				t.Errorf("the name is %q", page.Value("Name"))
			}
			if page.Value("In 90 days") != "on" {
				t.Error("the key does not expire in 90 days")
			}
			page.Click("Never")
			page.Click("Review")
			page.Sees("Expires Never")
			page.Click("Create key")
			secret := newToken(t, page)
			if look.NoScript {
				return
			}
			if !strings.HasPrefix(page.Address(), "/apikeys/keys/") ||
				strings.HasSuffix(page.Address(), "/new") {
				t.Errorf("the token is at %s", page.Address())
			}
			page.Click("Roles")
			page.Back()
			page.Sees("History", name)
			page.DoesNotSee(string(secret))
			page.Reload()
			page.Sees("History", name)
			page.DoesNotSee(string(secret))
		})
	}
}

// testSamples shows a call with the new token in four languages.
func testSamples(t *testing.T, g *gate.Gate, token gate.Token) {
	for name, look := range bothLooks {
		t.Run(name, func(t *testing.T) {
			look.Width = 360
			page := signedIn(t, g, token, look)
			page.Open("/apikeys/keys/new")
			page.Fill("Name", name)
			page.Click("Create key")
			page.Sees("curl -H")
			page.Steady()
			page.DoesNotSee("import urllib.request", "await fetch", "http.NewRequest")
			page.Click("Python")
			page.Sees("import urllib.request")
			page.DoesNotSee("curl -H")
			page.Click("JavaScript")
			page.Sees("await fetch")
			page.Click("Go")
			page.Sees("http.NewRequest")
			if look.NoScript == page.Offers("Test now") {
				t.Error("only the script can test the token")
			}
			if !look.NoScript {
				page.Click("Test now")
				page.Sees("The token works: 200 OK.")
				page.Picture("token-tested")
			}
			accessibleIn(page, look)
		})
	}
}

// testSessionEndsInForm signs in again in the middle of a form.
func testSessionEndsInForm(t *testing.T, g *gate.Gate, _ gate.Token) {
	ada, token := member(t, g, "eve", everywhere)
	for name, look := range bothLooks {
		t.Run(name, func(t *testing.T) {
			page := signedIn(t, g, token, look)
			page.Click("Create key")
			page.Fill("Name", name)
			page.Click("Read & Write")
			token = memberToken(t, g, ada)
			page.Click("Create key")
			page.Sees("The form shows it again after you sign in")
			page.Picture("sign-in-form-kept")
			accessibleIn(page, look)
			if page.Focused() != "f-token" {
				t.Errorf("the focus is on %s", page.Focused())
			}
			signIn(page, token)
			page.Sees("Nothing has been saved yet", "Create key")
			page.Picture("key-new-kept")
			accessibleIn(page, look)
			if page.Value("Name") != name || page.Value("Read & Write") != "on" {
				t.Errorf("the name is %q", page.Value("Name"))
			}
			page.Click("Create key")
			newToken(t, page)
		})
	}
}

// testLongForm signs in again in the middle of a form that only the script can keep.
func testLongForm(t *testing.T, g *gate.Gate, _ gate.Token) {
	ada, token := member(t, g, "lea", everywhere)
	page := signedIn(t, g, token, chromium.Look{})
	page.Open("/apikeys/keys/new")
	page.Fill("Name", "ERP")
	page.Click("Addresses, owner and metadata")
	var metadata strings.Builder
	for i := range 120 {
		fmt.Fprintf(&metadata, "%d=%x\n", i, sha256.Sum256([]byte{byte(i)}))
	}
	page.Fill("Metadata optional", metadata.String())
	token = memberToken(t, g, ada)
	page.Click("Create key")
	page.Sees("The form shows it again after you sign in")
	signIn(page, "akm_wrong")
	page.Sees("not the token of a member")
	signIn(page, token)
	page.Sees("Nothing has been saved yet", "Create key")
	if page.Value("Name") != "ERP" || page.Value("Metadata optional") != metadata.String() {
		t.Errorf("the form has %q and %q", page.Value("Name"), page.Value("Metadata optional"))
	}
	page.Open("/apikeys/keys/new") // without what was typed
	if page.Value("Name") != "" {
		t.Errorf("a new form has the name %q", page.Value("Name"))
	}
}

// testTwoEditors edits a key in two windows.
func testTwoEditors(t *testing.T, g *gate.Gate, _ gate.Token) {
	_, adas := member(t, g, "kim", everywhere)
	_, bens := member(t, g, "ben", everywhere)
	for name, look := range bothLooks {
		t.Run(name, func(t *testing.T) {
			key := g.Mint(t, gate.JSON{"name": "ERP", "access": "read_only"})
			edit := "/apikeys/keys/" + key.ID + "/edit"
			look.Width = 360
			ada, ben := signedIn(t, g, adas, look), signedIn(t, g, bens, look)
			ada.Open(edit)
			ada.Fill("Name", "Ada's name")
			ben.Open(edit)
			ben.Fill("Name", "Ben's name")
			ben.Click("Read & Write")
			ben.Click("Save changes")
			ben.Sees("Changes saved")

			ada.Click("Save changes")
			ada.Sees("Someone changed this key while you were editing", "Edited by ben",
				"You had not changed Access", "Ada's name", "Ben's name")
			if ada.Status != 412 {
				t.Errorf("status %d", ada.Status)
			}
			if ada.Value("Read & Write") != "on" || ada.Value("Keep mine") != "on" {
				t.Error("the form does not have the changes")
			}
			accessibleIn(ada, look)
			ada.Steady()
			ada.Picture("key-conflict")
			ada.Click("Take theirs")
			ada.Click("Save changes")
			ada.Sees("Changes saved", "Ben's name")
			ada.DoesNotSee("Ada's name")
		})
	}
}

// testErrorsTakeTheFocus checks that the errors of a form take the focus, that their links lead to
// the inputs, and that each input is described by its error.
func testErrorsTakeTheFocus(t *testing.T, g *gate.Gate, token gate.Token) {
	g.Namespace(t, "focused", gate.JSON{"key_roles": []string{"*"}})
	page := signedIn(t, g, token, chromium.Look{})
	page.Open("/apikeys/keys/new?namespace=focused")
	page.Fill("Name", strings.Repeat("too long ", 30))
	page.Click("Addresses, owner and metadata")
	page.Fill("Metadata optional", "team")
	page.Click("Create key")
	page.Sees("Must contain at most 200 characters.", "must have the form name=value",
		"at least one role")
	if !strings.Contains(page.Focused(), `role="alert"`) {
		t.Errorf("the focus is on %s", page.Focused())
	}
	page.Accessible()
	for _, id := range []string{"f-name", "f-roles", "f-metadata"} {
		page.Jump(id)
		if now := page.Focused(); now != id {
			t.Errorf("the link to %s gives the focus to %s", id, now)
		}
	}

	page.Open("/apikeys/members/new")
	page.Fill("Name", "Cleo")
	page.Fill("Namespace of grant 1", "Choose a namespace")
	page.Click("Create member")
	page.Sees("Choose a namespace.")
	page.Accessible()
	page.Jump("f-grants[0].namespace")
	if now := page.Focused(); now != "f-grants[0].namespace" {
		t.Errorf("the focus is on %s", now)
	}
}

// testGrowOnlyForms shows the forms of keys whose permissions are permanent, and of keys that no
// longer work.
func testGrowOnlyForms(t *testing.T, g *gate.Gate, _ gate.Token) {
	ada, token := member(t, g, "max", everywhere)
	g.Namespace(t, "growing", gate.JSON{"edit_policy": "grow_only"})
	g.Namespace(t, "growing-eu", gate.JSON{"parent": "growing"})
	key := g.Mint(t, gate.JSON{"name": "ERP", "namespace": "growing", "access": "read_write",
		"grants": []gate.JSON{{"namespace": "growing-eu", "access": "read_write"}}})
	old := g.Mint(t, gate.JSON{"name": "Old", "access": "read_only", "owner": ada,
		"expires_at": time.Now().Add(2 * time.Second).UTC().Format(time.RFC3339)})
	gate.Until(t, "the key has expired", func() bool {
		return g.Show(t, old.ID)["status"] == "expired"
	})
	page := signedIn(t, g, token, chromium.Look{})
	for _, width := range []int{360, 1440} {
		page.Show(chromium.Look{Width: width})
		for name, path := range map[string]string{
			"key-new-grow-only":  "/apikeys/keys/new?namespace=growing",
			"key-edit-grow-only": "/apikeys/keys/" + key.ID + "/edit",
			"key-rotate-expired": "/apikeys/keys/" + old.ID + "/rotate",
			"key-new-like":       "/apikeys/keys/new?like=" + old.ID,
		} {
			page.Open(path)
			page.Steady()
			page.Accessible()
			page.Picture(name)
		}
	}
	page.Open("/apikeys/keys/" + key.ID + "/edit")
	page.Sees("The key would lose write.")
	page.Open("/apikeys/keys/" + old.ID)
	if page.Offers("Rotate token") {
		t.Error("the token of an expired key can be rotated")
	}
	page.Click("Create a key like this")
	page.Sees("With the values of Old.")
	page.Click("Create key")
	newToken(t, page)
}
