package browser

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/chromedp/chromedp/kb"

	"github.com/caddy-apikeys/caddy-apikeys/tests/chromium"
	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

// githubDocument writes GitHub's OpenAPI document, with 1,223 operations, and returns its path.
func githubDocument(t *testing.T) string {
	t.Helper()
	root, err := gate.Root()
	if err != nil {
		t.Fatal(err)
	}
	packed, err := os.Open(filepath.Join(root, "caddymodule", "route", "testdata", "openapi",
		"github.json.gz"))
	if err != nil {
		t.Fatal(err)
	}
	defer packed.Close()
	text, err := gzip.NewReader(packed)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "github.json")
	out, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(out, text); err != nil {
		t.Fatal(err)
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

// permissionsOf returns the permissions of a key in its home namespace.
func permissionsOf(t *testing.T, g *gate.Gate, id string) (list []string) {
	t.Helper()
	grant := g.Show(t, id)["grants"].([]any)[0].(gate.JSON)
	for _, p := range grant["permissions"].([]any) {
		list = append(list, p.(string))
	}
	slices.Sort(list)
	return list
}

// TestLargeTable chooses calls of GitHub's API, by opening a resource and by searching, with and
// without JavaScript.
func TestLargeTable(t *testing.T) {
	t.Parallel()
	g := gate.Start(t, gate.Config{Site: strings.Replace(site, "public",
		"openapi "+githubDocument(t)+"\n\tpublic", 1)})
	_, token := member(t, g, "ada", everywhere)
	for name, look := range map[string]chromium.Look{"with script": {},
		"without script": {NoScript: true}} {
		t.Run(name, func(t *testing.T) {
			page := signedIn(t, g, token, look)
			page.Open("/apikeys/keys/new")
			page.Fill("Name", "Bot "+name)
			page.Click("Custom")
			page.Sees("1,223 calls.", "0 selected.")
			page.Picture("table")
			page.DoesNotSee("/gists/public")
			page.Click("gists 20 calls")
			if look.NoScript {
				page.Click("Show all 20 calls of gists")
			}
			page.Click("gists:gists-list-public")
			page.Click("issues 58 calls")
			page.Click("All reads issues:read")
			if !look.NoScript { // what a box implies
				page.Sees("/issues/{issue_number}/lock")
				const row = "#f-permissions-issues tr.%s td:nth-child(2) p:last-child::after"
				for class, want := range map[string]string{"read": `"Included"`, "write": "none"} {
					if got := page.Style(fmt.Sprintf(row, class), "content"); got != want {
						t.Errorf("the calls that %s have the note %s, want %s", class, got, want)
					}
				}
			}
			if got := page.Style(".operations", "table-layout"); got != "fixed" {
				t.Errorf("the columns of the tables are %s", got)
			}
			page.Fill("Find calls", "post pulls reviews")
			page.Submit("Find calls")
			page.Sees("of 1,223 calls match.", "2 selected.")
			page.Click("pulls:pulls-create-review")
			if !look.NoScript {
				page.Sees("3 selected.")
			}
			if !page.Offers("Show all 58 calls of issues") {
				t.Error("the search has loaded calls that it has not found, which moves those below")
			}
			page.Picture("table-found")
			if page.Value("Name") != "Bot "+name {
				t.Errorf("the name is now %q", page.Value("Name"))
			}
			page.Click("Create key")
			id := string(newToken(t, page))[3:15]
			if got := permissionsOf(t, g, id); !slices.Equal(got, []string{
				"gists:gists-list-public", "issues:read", "pulls:pulls-create-review"}) {
				t.Errorf("the key has %v", got)
			}
		})
	}
	page := signedIn(t, g, token, chromium.Look{Width: 360})
	page.Open("/apikeys/keys/new")
	page.Steady()
	page.Click("Custom")
	page.Accessible()

	t.Run("a group that loads slowly", func(t *testing.T) {
		held, release := make(chan bool, 2), make(chan bool)
		page := signedInAt(t, slowGroups(t, g, "issues", held, release), token, chromium.Look{})
		page.Open("/apikeys/keys/new")
		page.Click("Custom")
		page.Click("issues 58 calls")
		<-held
		page.Click("All reads issues:read") // so that the results have the group, too
		page.Fill("Find calls", "post pulls reviews")
		page.Sees("of 1,223 calls match.")
		close(release)
		<-held // it has answered
		// The next answer appears only after the browser has had time to read the late one.
		page.Focus("Show all 34 calls of pulls")
		page.Press(kb.Enter)
		page.Sees("/pulls/{pull_number}/files")
		page.DoesNotSee("/issues/{issue_number}/lock")
		if !page.Offers("Show all 58 calls of issues") {
			t.Error("the late answer has replaced a part of the results")
		}
	})
}

// slowGroups returns the address of a proxy before the console. It sends to held when it has a
// request for the calls of a resource, waits until release is closed, and sends to held again when
// it has answered.
func slowGroups(t *testing.T, g *gate.Gate, resource string, held, release chan bool) string {
	t.Helper()
	target, err := url.Parse(g.URL)
	if err != nil {
		t.Fatal(err)
	}
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.Host = r.In.Host // the console compares it with the origin
		},
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) {}, // the browser has gone
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		if strings.Contains(string(body), "&again=permissions_open%3D"+resource) {
			held <- true
			select {
			case <-release:
			case <-r.Context().Done(): // the browser does not want it any more
			}
			defer func() { held <- true }()
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	return server.URL
}

// TestProgress watches a change that one of two nodes has not applied.
func TestProgress(t *testing.T) {
	t.Parallel()
	lease := gate.Config{Site: site, APIKeys: "lease 2m"}
	g := gate.Start(t, lease)
	lease.DataOf = g
	other := gate.Start(t, lease)
	_, token := member(t, g, "ada", everywhere)
	for name, look := range map[string]chromium.Look{"with script": {},
		"without script": {NoScript: true}} {
		t.Run(name, func(t *testing.T) {
			key := g.Mint(t, gate.JSON{"name": "Till " + name, "access": "read_only"})
			page := signedIn(t, g, token, look)
			page.Open("/apikeys/keys/" + key.ID + "/revoke")
			page.Fill("Type revoke to confirm", "revoke")
			other.Pause(t)
			defer other.Resume()
			page.Click("Revoke key")
			page.Sees("Key revoked", "Till "+name, "Applied on 1 of 2 servers.")
			at := page.Address()
			page.Picture("progress-pending")
			if !look.NoScript {
				page.Sees("seconds left")
				page.Accessible()
			}
			page.Open("/apikeys/keys/" + key.ID)
			page.Sees("Applied on 1 of 2 servers.")
			page.Picture("key-pending")
			page.Click("Show progress")
			if page.Address() != at {
				t.Errorf("the progress page is at %s, was at %s", page.Address(), at)
			}
			other.Resume()
			page.Sees("Key revoked", "Till "+name, "Applied on all servers (2 of 2)")
			if page.Address() != at {
				t.Errorf("the page has gone to %s", page.Address())
			}
			page.Click("Continue")
			page.Sees("Revoked")
			page.DoesNotSee("Not yet applied")
		})
	}
}

// testShortcuts uses the console by shortcuts.
func testShortcuts(t *testing.T, g *gate.Gate, token gate.Token) {
	g.Mint(t, gate.JSON{"name": "Till", "access": "read_only"})
	page := signedIn(t, g, token, chromium.Look{})

	page.Press("/")
	page.Press("?nk") // typed, not shortcuts
	if !strings.HasSuffix(page.Value("Search"), "?nk") {
		t.Fatalf("the search holds %q", page.Value("Search"))
	}
	page.Open("/apikeys/roles")
	page.Press("?")
	page.Sees("Keyboard shortcuts", "Single-key shortcuts")
	page.Accessible()
	page.Picture("help")
	page.Press(kb.Escape)
	page.Press("n")
	page.Sees("Access level")
	if page.Address() != "/apikeys/keys/new" {
		t.Errorf("n leads to %s", page.Address())
	}

	page.Open("/apikeys/roles")
	page.Click("Go to…")
	page.Accessible()
	page.Picture("palette")
	page.Fill("Page or action", "audit")
	page.Press(kb.Enter)
	page.Sees("Verify log")
	page.Click("Go to…")
	page.Fill("Page or action", "till")
	page.Press(kb.Enter)
	page.Sees("Till", "Clear filters")
	if page.Address() != "/apikeys/keys?q=till" {
		t.Errorf("a search from the palette leads to %s", page.Address())
	}
	// A pasted token is checked, and gets into no address.
	page.Click("Go to…")
	page.Fill("Page or action", string(token))
	page.Sees("Check this token")
	page.Leave(kb.Enter)
	page.Sees("Check a token")
	if strings.Contains(page.Address(), string(token)) {
		t.Error("the token of the palette is in the address")
	}

	// Single-key shortcuts can be turned off (WCAG 2.1.4).
	page.Open("/apikeys/roles")
	page.Click("Keyboard shortcuts")
	page.Click("Single-key shortcuts")
	page.Touch("Close")
	page.Open("/apikeys/roles")
	page.Press("n?")
	page.Click("Keyboard shortcuts")
	if page.Value("Single-key shortcuts") != "" {
		t.Error("the setting is lost")
	}
	page.Click("Single-key shortcuts")
	page.Touch("Close")

	// Nothing that was typed is lost.
	page.Open("/apikeys/keys/new")
	page.Fill("Name", "Half")
	page.Press(kb.Tab + "n")
	page.Click("Read & Write")
	page.Press("n")
	if page.Value("Name") != "Half" {
		t.Errorf("the name is %q", page.Value("Name"))
	}
}

// testTheme chooses a theme with and without JavaScript.
func testTheme(t *testing.T, g *gate.Gate, token gate.Token) {
	const light, dark = "rgb(255, 255, 255)", "rgb(23, 23, 27)"
	for name, look := range map[string]chromium.Look{"with script": {},
		"without script": {NoScript: true}} {
		t.Run(name, func(t *testing.T) {
			page := signedIn(t, g, token, look)
			for _, step := range []struct{ theme, colour string }{
				{"Dark", dark}, {"Light", light}, {"System", light},
			} {
				if look.NoScript {
					page.Click(step.theme)
				} else {
					page.Touch(step.theme)
				}
				page.Sees("Keys")
				if got := page.Style("header", "background-color"); got != step.colour {
					t.Errorf("with the theme %s the header is %s", step.theme, got)
				}
				if step.theme == "Dark" && !look.NoScript { // axe-core needs JavaScript
					page.Legible()
				}
				page.Open("/apikeys/roles")
				if got := page.Style("header", "background-color"); got != step.colour {
					t.Errorf("on the next page the header is %s, with %s", got, step.theme)
				}
			}
			page.Show(chromium.Look{Dark: true, NoScript: look.NoScript})
			gate.Until(t, "the header is dark with the system's dark theme", func() bool {
				return page.Style("header", "background-color") == dark
			})
		})
	}
}

// testFrame checks what surrounds all pages: notices, narrow tables, filters on a phone, forced
// colours and paper.
func testFrame(t *testing.T, g *gate.Gate, token gate.Token) {
	key := g.Mint(t, gate.JSON{"name": "Till", "access": "read_only"})
	for name, look := range map[string]chromium.Look{"with script": {},
		"without script": {NoScript: true}} {
		page := signedIn(t, g, token, look)
		page.Open("/apikeys/keys/" + key.ID + "/edit")
		page.Fill("Name", "Till "+name)
		page.Click("Save changes")
		page.Sees("Changes saved")
		if got := page.Focused(); !strings.Contains(got, "Changes saved") {
			t.Errorf("%s: after a change the focus is on %q", name, got)
		}
	}

	page := signedIn(t, g, token, chromium.Look{Width: 360})
	if heads := page.Named("columnheader"); !slices.Contains(heads, "Status") {
		t.Errorf("the columns of a narrow table are %q", heads)
	}
	if page.Offers("Status") {
		t.Error("a phone shows all filters at once")
	}
	page.Click("More filters")
	if !page.Offers("Status") {
		t.Error("the button More filters shows no filters")
	}
	page.Open("/apikeys/keys?status=active")
	if page.Value("Status") != "Active" {
		t.Error("a filter in use is hidden")
	}
	page.Steady()

	page.Show(chromium.Look{Forced: true})
	page.Open("/apikeys/keys")
	for _, links := range []string{".side a", ".tabs a"} {
		current := page.Style(links+"[aria-current]", "text-decoration-line")
		if other := page.Style(links+":not([aria-current])", "text-decoration-line"); current == other {
			t.Errorf("in forced colours the current one of %s looks like the others: %s", links,
				current)
		}
	}
	page.Picture("forced-colours")
	page.Show(chromium.Look{})
	gate.Until(t, "the header reaches over the gutter of the scroll bar", func() bool {
		return page.Style("html", "scrollbar-gutter") == "stable" &&
			strings.HasPrefix(page.Style("html", "background-image"), "linear-gradient")
	})
	page.Show(chromium.Look{Print: true})
	gate.Until(t, "paper has the page without the navigation", func() bool {
		return page.Style(".side", "display") == "none" && page.Style(".shell", "display") == "block"
	})
}

// testFirstSteps checks the page of a deployment without keys.
func testFirstSteps(t *testing.T, g *gate.Gate, token gate.Token) {
	page := signedIn(t, g, token, chromium.Look{})
	page.Sees("First steps", "Require keys for your API Done")
	look(t, page, "first-steps", "/apikeys/keys")
}

// testAsCode runs the command that New key shows.
func testAsCode(t *testing.T, g *gate.Gate, token gate.Token) {
	var page *chromium.Page
	for name, look := range map[string]chromium.Look{"scripted": {}, "plain": {NoScript: true}} {
		page = signedIn(t, g, token, look)
		page.Open("/apikeys/keys/new")
		page.Fill("Name", name)
		page.Click("Read & Write")
		page.Click("As code")
		if look.NoScript {
			page.Click("Show code")
		}
		page.Sees("caddy apikeys keys mint", "--name "+name, "--access read_write")
		page.Picture("samples")
		if got := page.Value("Name"); got != name {
			t.Errorf("the name is now %q", got)
		}
	}
	_, command, _ := strings.Cut(page.Text(), "caddy apikeys ")
	command, _, _ = strings.Cut(command, "Caddyfile of a site")
	command, _, _ = strings.Cut(command, "Copy")
	if r := g.APIKeys(t, "", strings.Fields(strings.ReplaceAll(command, `\`, ""))...); r.Exit != 0 {
		t.Errorf("%s: %v", command, r)
	}
}
