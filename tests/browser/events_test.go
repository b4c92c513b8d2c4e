package browser

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/caddy-apikeys/caddy-apikeys/tests/chromium"
	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

// newReceivers starts a receiver of webhooks. It reports the id of each event. Requests to /fails get
// an error.
func newReceivers(t *testing.T) (url string, ids <-chan string) {
	t.Helper()
	got := make(chan string, 1000)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/fails" {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		got <- r.Header.Get("webhook-id")
	}))
	t.Cleanup(s.Close)
	return s.URL, got
}

// webhooks returns the options of webhooks.
func webhooks(urls ...string) (options string) {
	for _, url := range urls {
		options += fmt.Sprintf("webhook %s {\nsecret whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n"+
			"events key.* webhook.*\nallow_private\n}\n", url)
	}
	return options
}

// awaitWebhooks waits until a node delivers n webhooks, and returns their ids by the path of their
// URL. They begin with the events after that.
func awaitWebhooks(t *testing.T, g *gate.Gate, n int) map[string]string {
	t.Helper()
	ids := make(map[string]string)
	gate.Until(t, "the webhooks are active", func() bool {
		items, _ := g.Call(t, "GET", "/webhooks", nil).JSON()["items"].([]any)
		for _, item := range items {
			if w := item.(gate.JSON); w["state"] == "active" {
				url := w["url"].(string)
				ids[url[strings.LastIndex(url, "/")+1:]] = w["id"].(string)
			}
		}
		return len(ids) == n
	})
	return ids
}

// TestWebhookPages sends a test event to a webhook, sees its delivery and replays it.
func TestWebhookPages(t *testing.T) {
	t.Parallel()
	url, ids := newReceivers(t)
	g := gate.Start(t, gate.Config{Site: site, APIKeys: webhooks(url + "/works")})
	awaitWebhooks(t, g, 1)
	_, token := member(t, g, "ada", everywhere)
	for name, look := range bothLooks {
		t.Run(name, func(t *testing.T) {
			page := signedIn(t, g, token, look)
			page.Open("/apikeys/webhooks")
			page.Click(url + "/works")
			page.Click("Send test event")
			page.Sees("Test event queued")
			event := <-ids
			gate.Until(t, "the page shows the delivery", func() bool {
				page.Click("Refresh")
				return strings.Contains(page.Text(), event)
			})
			page.Sees("webhook.test", "Delivered 200", " ms")
			page.Fill("From", "2026-01-01")
			page.Click("Replay events")
			page.Sees("Replay started", "The webhook receives all events since 1 January 2026.")
			for again := ""; again != event; {
				again = <-ids
			}
		})
	}
}

// testLifetimeForm sets how long keys of a namespace live, and sees the rules in the form of a key.
func testLifetimeForm(t *testing.T, g *gate.Gate, token gate.Token) {
	g.Namespace(t, "lasting", gate.JSON{})
	page := signedIn(t, g, token, chromium.Look{})
	page.Open("/apikeys/namespaces/lasting")
	page.Click("Edit namespace")
	page.Fill("Maximum lifetime", "45")
	page.Click("Add a row to the audit log")
	page.Click("Save changes")
	page.Sees("Is required to act on unused keys")
	page.Fill("Maximum lifetime", "45d")
	page.Fill("Unused for", "90d")
	page.Click("Save changes")
	page.Sees("New keys must expire within 45 days")
	page.Open("/apikeys/keys/new?namespace=lasting")
	page.Sees("45 days")
}

// testGroupForm creates a member for a team.
func testGroupForm(t *testing.T, g *gate.Gate, token gate.Token) {
	page := signedIn(t, g, token, chromium.Look{})
	page.Open("/apikeys/members")
	page.Click("Create member")
	page.Fill("Name", "Operations")
	page.Click("Group")
	page.Fill("Login", "operators")
	page.Fill("Namespace of grant 1", "default")
	page.Click("viewer")
	page.Click("Create member")
	page.Sees("Operations")
	page.DoesNotSee("Create token")
}
