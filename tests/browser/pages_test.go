package browser

import (
	"strings"
	"testing"

	"github.com/caddy-apikeys/caddy-apikeys/tests/chromium"
	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

// TestPages looks at each page in every window and colour: no rule of accessibility is broken, nothing is wider than the window or moves, and the Tab
// key reaches every control.
func TestPages(t *testing.T) {
	g := gate.Start(t, gate.Config{Site: site})
	_, token := member(t, g, "ada", everywhere)

	out := chromium.New(t, g.URL, chromium.Look{})
	look(t, out, "sign-in", "/apikeys/sign-in")
	page := signedIn(t, g, token, chromium.Look{})
	look(t, page, "not-found", "/apikeys/nothing/here")
	look(t, page, "keys-none", "/apikeys/keys?q=nothing")
	for name, fields := range hostile {
		fields["name"] = name
		g.Mint(t, fields)
	}
	look(t, page, "keys", "/apikeys/keys")
}

// hostile are names that a page may not stumble over.
var hostile = map[string]gate.JSON{
	`<script>alert("1")</script>`:                   {"access": "read_only"},
	`"><img src=x onerror=alert(1)>`:                {"access": "read_write"},
	strings.Repeat("ohneLeerzeichen", 13) + "ende!": {"access": "read_only"},
	strings.Repeat("mit Leerzeichen ", 12):          {"access": "read_only"},
	"مفتاح الواجهة \u202etxt.exe":                   {"access": "read_only"},
	"鍵管理 🔑 ключ":                                    {"access": "read_only"},
	"{{.Page}} %s &amp; '":                          {"access": "read_only"},
}

// look goes through all that is checked on each page.
func look(t *testing.T, page *chromium.Page, name, path string) {
	t.Helper()
	for _, l := range looks {
		page.Show(l)
		if !l.Dark {
			page.Open(path)
			page.Steady()
		}
		page.Accessible()
		page.Picture(name)
		if l.Dark && l.Width != 768 {
			page.ByKeyboard() // which scrolls
		}
	}
}
