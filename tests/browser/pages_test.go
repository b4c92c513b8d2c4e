package browser

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/tests/chromium"
	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

// TestPages checks each page in several windows and colour schemes: the accessibility rules hold,
// nothing is wider than the window or moves, and the Tab key reaches every control.
func TestPages(t *testing.T) {
	t.Parallel()
	receivers, _ := newReceivers(t)
	g := gate.Start(t, gate.Config{APIKeys: webhooks(receivers+"/works", receivers+"/fails"),
		Site: strings.Replace(site, "public", "operation orders:search read GET /v1/orders\n\t"+
			"operation orders:place write POST /v1/orders\n\tpublic", 1)})
	hooks := awaitWebhooks(t, g, 2)
	ada, token := member(t, g, "ada", everywhere)
	ben, _ := member(t, g, "ben", gate.JSON{"namespace": "default", "roles": []string{"viewer"}})
	for _, id := range []string{"acme-uk", "acme-fr"} {
		if id == "acme-uk" {
			g.Namespace(t, "acme", gate.JSON{"name": "Acme Group", "edit_policy": "grow_only"})
		}
		g.Namespace(t, id, gate.JSON{"parent": "acme", "max_lifetime": "90d",
			"idle": gate.JSON{"after": "90d", "then": "inactivate"}})
	}
	team := create(t, g, "/members", gate.JSON{"name": "Operations", "kind": "group",
		"login": "ops", "grants": []gate.JSON{everywhere}})["id"].(string)
	create(t, g, "/roles", gate.JSON{"namespace": "acme", "name": "billing",
		"permissions": []string{"orders:read"}})
	create(t, g, "/plans", gate.JSON{"namespace": "acme", "name": "gold",
		"description": "For customers who pay",
		"rate_limit":  gate.JSON{"requests": 100, "per": "1s", "burst": 200},
		"quota":       gate.JSON{"requests": 100_000, "per": "month", "shadow": true}})
	home := g.Mint(t, gate.JSON{"name": "ERP", "namespace": "acme",
		"permissions": []string{"orders:search"}, "roles": []string{"billing"}, "connected": true,
		"plan": "gold", "rate_limit": gate.JSON{"requests": 20, "per": "1m"},
		"grants":      []gate.JSON{{"namespace": "default", "access": "read_only"}},
		"allowed_ips": []string{"10.0.0.0/8"}, "expires_at": "2041-01-01T00:00:00Z", "owner": ada})
	key := "/apikeys/keys/" + home.ID
	g.Rotate(t, home.ID, "24h")
	revoked := g.Mint(t, gate.JSON{"name": "Gone", "access": "read_only"})
	g.Revoke(t, revoked.ID)
	busy := g.Mint(t, gate.JSON{"name": "Busy", "permissions": []string{"orders:search"},
		"quota": gate.JSON{"requests": 3, "per": "day"}})
	for range 3 {
		calls(t, g, busy.Token, map[string]int{"/v1/orders": 200, "POST /v1/orders": 403})
	}
	used := "/keys/" + busy.ID + "/usage?step=day"
	gate.Until(t, "the requests are in "+used, func() bool {
		total := g.Call(t, "GET", used, nil).JSON()["total"].(gate.JSON)
		return total["allowed"] == 3.0 && total["denied"].(gate.JSON)["forbidden"] == 3.0
	})
	sleeping := g.Mint(t, gate.JSON{"name": "Asleep", "access": "read_write", "active": false})

	look(t, chromium.New(t, g.URL, chromium.Look{}), "sign-in", "/apikeys/sign-in")
	type place struct{ name, path string }
	places := []place{
		{"not-found", "/apikeys/nothing/here"},
		{"keys-none", "/apikeys/keys?q=nothing"},
		{"keys-mine", "/apikeys/keys?namespace=acme-uk&owner=" + ada},
		{"keys", "/apikeys/keys"},
		{"key", key},
		{"key-used", "/apikeys/keys/" + busy.ID},
		{"overview", "/apikeys/overview"},
		{"hygiene", "/apikeys/hygiene"},
		{"hygiene-list", "/apikeys/hygiene/never_used"},
		{"key-inactive", "/apikeys/keys/" + sleeping.ID},
		{"key-revoked", "/apikeys/keys/" + revoked.ID},
		{"key-new", "/apikeys/keys/new?namespace=acme"},
		{"key-edit", key + "/edit"},
		{"key-rotate", key + "/rotate"},
		{"key-revoke", key + "/revoke"},
		{"key-delete", "/apikeys/keys/" + revoked.ID + "/delete"},
		{"roles", "/apikeys/roles"},
		{"role", "/apikeys/roles/acme/billing"},
		{"role-new", "/apikeys/roles/new?namespace=acme"},
		{"plans", "/apikeys/plans"},
		{"plan", "/apikeys/plans/acme/gold"},
		{"plan-new", "/apikeys/plans/new?namespace=acme"},
		{"namespaces", "/apikeys/namespaces"},
		{"namespace", "/apikeys/namespaces/acme"},
		{"namespace-new", "/apikeys/namespaces/new"},
		{"members", "/apikeys/members"},
		{"member", "/apikeys/members/" + ada},
		{"member-new", "/apikeys/members/new"},
		{"audit", "/apikeys/audit"},
		{"nodes", "/apikeys/nodes"},
		{"role-edit", "/apikeys/roles/acme/billing/edit"},
		{"role-delete", "/apikeys/roles/acme/billing/delete"},
		{"plan-edit", "/apikeys/plans/acme/gold/edit"},
		{"plan-delete", "/apikeys/plans/acme/gold/delete"},
		{"namespace-edit", "/apikeys/namespaces/acme-uk/edit"},
		{"namespace-delete", "/apikeys/namespaces/acme-uk/delete"},
		{"member-edit", "/apikeys/members/" + ada + "/edit"},
		{"member-token", "/apikeys/members/" + ada + "/token"},
		{"member-delete", "/apikeys/members/" + ada + "/delete"},
		{"namespace-lifetime", "/apikeys/namespaces/acme-uk"},
		{"member-group", "/apikeys/members/" + team},
		{"member-group-edit", "/apikeys/members/" + team + "/edit"},
		{"webhooks", "/apikeys/webhooks"},
		{"webhook", "/apikeys/webhooks/" + hooks["works"]},
		{"webhook-fails", "/apikeys/webhooks/" + hooks["fails"]},
		{"progress", fmt.Sprintf("/apikeys/progress?revision=1&since=%d",
			time.Now().UnixMilli())},
	}
	for part := range slices.Chunk(places, (len(places)+3)/4) {
		t.Run(part[0].name+" and so on", func(t *testing.T) {
			t.Parallel()
			page := signedIn(t, g, token, chromium.Look{})
			for _, p := range part {
				look(t, page, p.name, p.path)
			}
		})
	}
	page := signedIn(t, g, token, chromium.Look{})
	page.Open(key)
	page.Click("Derive a token")
	page.Sees("caddy apikeys derive", "--expires 15m")
	shown(t, page, "key-derive")
	page.Click("Copy Command line")
	page.Sees("Copied")
	page.Open("/apikeys/keys/new?namespace=acme")
	page.Fill("Name", strings.Repeat("too long ", 30))
	page.Click("Custom")
	page.Click("Create key")
	page.Sees("Must contain at most 200 characters.")
	shown(t, page, "key-new-errors")
	page.Click("Limits")
	page.Fill("Plan", "gold")
	page.Sees("gold: 100 requests per second, burst 200; 100,000 units per month")
	page.Fill("Plan", "Default of the namespace")
	page.Fill("Name", "Shop")
	page.Click("orders:search")
	page.Click("Create key")
	page.Sees("It will not be shown again")
	shown(t, page, "token")
	page.Open("/apikeys/plans/new")
	page.Fill("Name", "silver")
	page.Fill("Requests", "20")
	page.Fill("Duration", "1w")
	page.Click("Create plan")
	page.Sees("Must be a duration from 1s to 24h")
	shown(t, page, "plan-new-errors")
	page.Fill("Duration", "1m")
	page.Click("Create plan")
	page.Sees("20 requests per minute")
	page.Open("/apikeys/members/" + ben + "/token")
	page.Click("Create token")
	page.Sees("It will not be shown again")
	shown(t, page, "member-token-shown")
	page.Click("Copy the token")
	page.Sees("Copied")
}

// look opens a page in a narrow and in a wide window, where nothing may move, and then checks it in
// each look.
func look(t *testing.T, page *chromium.Page, name, path string) {
	t.Helper()
	for _, width := range []int{360, 1440} {
		page.Show(chromium.Look{Width: width})
		page.Open(path)
		page.Steady()
	}
	check(page, name)
}

// shown checks the current page in each look. It is for pages without an address of their own, which
// are also the ones with the most parts: so it checks the keyboard in wide windows too.
func shown(t *testing.T, page *chromium.Page, name string) {
	t.Helper()
	check(page, name)
	page.Show(chromium.Look{})
	page.ByKeyboard()
}

// check checks the current page in each look. All rules of axe-core are checked in a wide window and
// light colours, and those of Legible again in a narrow one and dark colours.
func check(page *chromium.Page, name string) {
	for _, l := range looks {
		page.Show(l)
		page.Fits()
		page.Tidy()
		page.Picture(name)
		switch l.Width {
		case 1440:
			page.Accessible()
		case 360:
			page.Legible()
		}
	}
	page.ByKeyboard()
}

// TestHostileNames shows hostile names on every page of a key.
func TestHostileNames(t *testing.T) {
	t.Parallel()
	g := gate.Start(t, gate.Config{Site: site})
	_, token := member(t, g, `<b>ada</b> & "co"`, everywhere)
	names := []string{
		`<script>alert("1")</script>`,
		`"><img src=x onerror=alert(1)>`,
		strings.Repeat("ohneLeerzeichen", 13) + "ende!",
		strings.Repeat("mit Leerzeichen ", 12) + "Ende",
		"مفتاح الواجهة txt.exe",
		"鍵管理 🔑 ключ",
		"{{.Page}} %s &amp; '",
	}
	keys := map[string]gate.Key{}
	for _, name := range names {
		keys[name] = g.Mint(t, gate.JSON{"name": name, "access": "read_only",
			"metadata": gate.JSON{name: name}})
	}
	page := signedIn(t, g, token, chromium.Look{})
	for _, l := range looks {
		page.Show(l)
		page.Open("/apikeys/keys")
		page.Steady()
		page.Picture("hostile-keys")
	}
	for _, name := range names {
		for _, path := range []string{"", "/edit", "/revoke"} {
			page.Show(chromium.Look{Width: 360})
			page.Open("/apikeys/keys/" + keys[name].ID + path)
			page.Sees(strings.Join(strings.Fields(name), " "))
			page.Steady()
		}
	}
	page.Picture("hostile-revoke")
}

// TestZone checks that times are displayed and entered in the viewer's time zone. Without
// JavaScript they are in UTC, and the page says so.
func TestZone(t *testing.T) {
	t.Parallel()
	g := gate.Start(t, gate.Config{Site: site})
	_, token := member(t, g, "ada", everywhere)
	for _, look := range []struct {
		chromium.Look
		zone, shown string
	}{
		{chromium.Look{Zone: "Europe/Berlin"}, "(Europe/Berlin)", "2037-01-31 17:30"},
		{chromium.Look{Zone: "America/St_Johns"}, "(America/St_Johns)", "2037-01-31 17:30"},
		{chromium.Look{Zone: "Europe/Berlin", NoScript: true}, "(UTC)", "2037-01-31 17:30 UTC"},
	} {
		page := signedIn(t, g, token, look.Look)
		page.Open("/apikeys/keys/new")
		page.Fill("Name", "Until then")
		page.Click("On a custom day")
		page.Fill("Day", "2037-01-31")
		page.Fill("Time "+look.zone, "17:30")
		page.Click("Create key")
		page.Sees("It will not be shown again")
		page.Open("/apikeys/keys")
		page.Click("Until then")
		page.Sees(look.shown)
		page.Open("/apikeys/audit")
		page.Sees("From " + look.zone)
		key := g.Call(t, "GET", "/keys?limit=1", nil).JSON()["items"].([]any)[0].(gate.JSON)
		g.Revoke(t, key["id"].(string))
		g.Call(t, "DELETE", "/keys/"+key["id"].(string), nil)
	}
}
