package browser

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/network"

	"github.com/caddy-apikeys/caddy-apikeys/tests/chromium"
	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

func testSignIn(t *testing.T, g *gate.Gate, _ gate.Token) {
	ada, token := member(t, g, "sue", everywhere)

	for name, look := range map[string]chromium.Look{"with script": {},
		"without script": {NoScript: true}} {
		t.Run(name, func(t *testing.T) {
			page := chromium.New(t, g.URL, look)
			page.Open("/apikeys/keys?q=erp")
			page.Sees("Sign in")
			signIn(page, "akm_nonsense")
			page.Sees("This is not the token of a member.")
			if page.Status != 422 || page.Value("Member token") != "" {
				t.Errorf("a wrong token: status %d, and the field holds %d characters", page.Status,
					len(page.Value("Member token")))
			}
			signIn(page, token)
			page.Sees("Sign out")
			if page.Address() != "/apikeys/keys?q=erp" {
				t.Errorf("signing in led to %s", page.Address())
			}

			// Without JavaScript, going back shows the first page that was loaded with a cookie,
			// even if the cookie is gone.
			page.Click("Keys")
			page.Click("Sign out")
			page.Sees("Sign in")
			if cookies := page.Cookies(); len(cookies) != 0 {
				t.Errorf("after signing out the browser still has %d cookies", len(cookies))
			}
			page.Back()
			page.Sees("Member token")
			page.Open("/apikeys/keys")
			page.DoesNotSee("Sign out")
		})
	}

	t.Run("going back after signing out", func(t *testing.T) {
		page := signedIn(t, g, token, chromium.Look{})
		page.Click("Sign out")
		page.Back()
		page.Sees("Member token")
	})

	t.Run("the cookie", func(t *testing.T) {
		for url, secure := range map[string]bool{g.URL: false, g.TLSURL: true} {
			page := chromium.New(t, url, chromium.Look{})
			page.Open("/apikeys/")
			signIn(page, token)
			page.Sees("Sign out")
			cookies := page.Cookies()
			if len(cookies) != 1 {
				t.Fatalf("%s: %d cookies", url, len(cookies))
			}
			if c := cookies[0]; !c.HTTPOnly || c.Secure != secure ||
				c.SameSite != network.CookieSameSiteStrict || c.Path != "/apikeys/" {
				t.Errorf("%s: cookie %s: HttpOnly %v, Secure %v, SameSite %v, Path %s", url, c.Name,
					c.HTTPOnly, c.Secure, c.SameSite, c.Path)
			}
		}
	})

	t.Run("signing out ends one session", func(t *testing.T) {
		here, there := signedIn(t, g, token, chromium.Look{}),
			signedIn(t, g, token, chromium.Look{})
		here.Click("Sign out")
		there.Click("Keys")
		there.Sees("Sign out")
	})

	t.Run("a new token ends all sessions", func(t *testing.T) {
		page := signedIn(t, g, token, chromium.Look{})
		token = memberToken(t, g, ada)
		page.Click("Keys")
		page.Sees("Your session has ended")
		signIn(page, token)
		page.Sees("Sign out")
	})

	t.Run("disabling a member ends its session", func(t *testing.T) {
		bob, token := member(t, g, "rob", gate.JSON{"namespace": "default",
			"roles": []string{"developer"}})
		page := signedIn(t, g, token, chromium.Look{})
		page.Click("Keys")
		page.Sees("Sign out")
		if r := g.Call(t, "PATCH", "/members/"+bob, gate.JSON{"active": false}); r.Status != 200 {
			t.Fatalf("disabling bob: %v", r)
		}
		page.Click("Keys")
		page.Sees("This member has been disabled.")
		page.DoesNotSee("Sign out")
		signIn(page, token)
		page.Sees("The member of this token has been disabled.")
	})

	t.Run("the token of a key is refused", func(t *testing.T) {
		key := g.Mint(t, gate.JSON{"name": "CI", "access": "read_only"})
		page := chromium.New(t, g.URL, chromium.Look{})
		page.Open("/apikeys/")
		signIn(page, key.Token)
		page.Sees("This is the token of a key.")
	})
}

// testOtherOrigins links and posts to the console from pages of other origins. Requests from
// another site do not send the session cookie. Another port is the same site, so that its requests
// do send the cookie.
func testOtherOrigins(t *testing.T, g *gate.Gate, token gate.Token) {
	key := g.Mint(t, gate.JSON{"name": "CI", "access": "read_only"})

	stranger := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		fmt.Fprintf(w, `<!doctype html><html lang=en><title>Stranger</title>
			<link rel=icon href="data:,"><a href="%s/apikeys/keys">Look at the keys</a>
			<form method=post action="%s/apikeys/keys/%s/revoke">
				<input type=hidden name=name value=CI><input type=hidden name=confirm value=CI>
				<button>Win a prize</button>
			</form>`, g.URL, g.URL, key.ID)
	}))
	t.Cleanup(stranger.Close)

	for name, url := range map[string]string{"same site": stranger.URL,
		"another site": strings.Replace(stranger.URL, "127.0.0.1", "localhost", 1)} {
		t.Run(name, func(t *testing.T) {
			page := chromium.New(t, g.URL, chromium.Look{})
			page.Open("/apikeys/")
			signIn(page, token) // Chromium reports an unsent cookie that it did not get from the site
			page.Sees("Sign out")
			page.AllowOrigin(url)

			page.Open(url)
			page.Click("Look at the keys")
			page.Sees("Sign out")

			page.Open(url)
			page.Click("Win a prize")
			page.Sees("A page of another site requested this change. Nothing was changed.")
			if page.Status != 403 {
				t.Errorf("a change asked for by %s: status %d", url, page.Status)
			}
			if status := g.Show(t, key.ID)["status"]; status != "active" {
				t.Fatalf("the key is %v", status)
			}
		})
	}
}

func TestGuessesAreThrottled(t *testing.T) {
	t.Parallel()
	g := gate.Start(t, gate.Config{Site: site})
	page := chromium.New(t, g.URL, chromium.Look{})
	page.Open("/apikeys/")
	for tries := 0; page.Status != 429; tries++ {
		if tries == 100 {
			t.Fatal("100 wrong tokens are not throttled")
		}
		signIn(page, gate.Token(fmt.Sprintf("akm_guess%d", tries)))
	}
	page.Sees("There were too many wrong tokens from your address. Try again in")
	page.Accessible()
}

// TestTrustedUser checks the console behind basic_auth, where no one enters a token.
func TestTrustedUser(t *testing.T) {
	t.Parallel()
	const password = "$2a$04$.J9JRYKrUue6irXnxtPajOWiEV/xEMClKnYOmpqzXHcumLE5SqOvS" // of "secret"
	g := gate.Start(t, gate.Config{Site: `
		basic_auth /apikeys/* {
			ada ` + password + `
			eve ` + password + `
		}
		api_keys_admin {
			trust_user {http.auth.user.id}
		}
		respond 404`})
	member(t, g, "ada", everywhere)
	page := loggedIn(t, g, "ada", "secret", chromium.Look{})
	page.Sees("Keys", "ada")
	page.DoesNotSee("Sign in", "Sign out")
	page.Click("Keys")
	page.Sees("ada")

	page = loggedIn(t, g, "eve", "secret", chromium.Look{})
	page.Sees("No member matches your login")
	if page.Status != 403 {
		t.Errorf("a user who is no member: status %d", page.Status)
	}
}
