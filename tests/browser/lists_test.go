package browser

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/tests/chromium"
	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

// TestKeyTables checks that no column of the tables of keys is cut off, however long the names are.
func TestKeyTables(t *testing.T) {
	t.Parallel()
	g := gate.Start(t, gate.Config{Site: site})
	ada, token := member(t, g, "Ada Lovelace of the analytical engine", everywhere)
	gone, _ := member(t, g, "somebody.with.a.long.login@example.com", everywhere)
	const namespace = "customer-with-a-very-long-id-in-western-europe"
	g.Namespace(t, namespace, gate.JSON{})
	create(t, g, "/roles", gate.JSON{"namespace": namespace, "name": "invoices-and-statements",
		"permissions": []string{"invoices:read"}})
	in := func(days int) string {
		return time.Now().AddDate(0, 0, days).UTC().Format(time.RFC3339)
	}
	for i, fields := range []gate.JSON{
		{"name": "ERP", "access": "read_write"},
		{"name": strings.Repeat("ohneLeerzeichen", 12), "access": "read_only", "namespace": namespace},
		{"name": strings.Repeat("mit Leerzeichen ", 12), "namespace": namespace, "permissions": []string{
			"statements-of-accounts:listAllStatementsOfOneYear", "invoices:read", "invoices:write",
			"stock:read", "stock:write"}, "roles": []string{"invoices-and-statements"}},
		{"name": "Soon", "access": "read_only", "expires_at": in(3)},
		{"name": "Later", "access": "read_only", "expires_at": in(330)},
		{"name": "Asleep", "access": "read_only", "active": false},
	} {
		for _, owner := range []string{ada, gone} {
			fields["owner"] = owner
			k := g.Mint(t, fields)
			if i == 0 {
				calls(t, g, k.Token, map[string]int{"/": 200})
				used := "/keys/" + k.ID + "/usage?step=day"
				gate.Until(t, "the request is in "+used, func() bool {
					return g.Call(t, "GET", used, nil).JSON()["total"].(gate.JSON)["allowed"] == 1.0
				})
			}
		}
	}
	if r := g.Call(t, "PATCH", "/members/"+gone, gate.JSON{"active": false}); r.Status != 200 {
		t.Fatalf("disabling: %v", r)
	}
	page := signedIn(t, g, token, chromium.Look{})
	for name, path := range map[string]string{"all-keys": "/apikeys/keys",
		"my-keys": "/apikeys/keys?owner=" + ada} {
		page.Open(path)
		page.Sees("INACTIVE", "in 3 days", "Edit")
		page.Steady()
		for _, width := range []int{980, 1169, 1180, 1265, 1280, 1440, 1920} {
			page.Show(chromium.Look{Width: width})
			page.Fits()
			page.Uncut()
			page.Picture(fmt.Sprintf("%s-%d", name, width))
		}
	}
	page.Show(chromium.Look{})
	page.Open("/apikeys/keys?owner=" + ada)
	page.Click("Revoke… ERP")
	page.Sees("Type revoke to confirm")
	page.Open("/apikeys/keys?status=owner_disabled")
	page.Sees("Owner disabled", "5 keys")
	page.Click("ERP")
	page.Sees("Every server refuses the key because its owner,", "is disabled.",
		"Permissions (not in effect)", "Every call (read and write)")
	shown(t, page, "key-owner-disabled")
}

// TestFilteredList filters a list, removes the filters, and pages forwards and backwards.
func TestFilteredList(t *testing.T) {
	t.Parallel()
	g := gate.Start(t, gate.Config{Site: site})
	_, token := member(t, g, "ada", everywhere)
	var lines strings.Builder
	for i := range 110 {
		fmt.Fprintf(&lines, `{"name":"Key %03d","access":"read_only","active":%t,"token":`+
			`"credential-%03d"}`+"\n", i, i%2 == 0, i)
	}
	if r := g.Call(t, "POST", "/keys/import", lines.String(),
		"Content-Type: application/x-ndjson"); r.Status != 201 {
		t.Fatalf("importing: %v", r)
	}
	for _, look := range []chromium.Look{{Zone: "Asia/Kolkata"}, {NoScript: true}} {
		page := signedIn(t, g, token, look)
		page.Open("/apikeys/keys?sort=name")
		page.Sees("50 of 110 keys")
		page.Fill("Search", "Key")
		page.Submit("Search")
		if at := page.Address(); !strings.HasSuffix(at, "/apikeys/keys?q=Key&sort=name") {
			t.Errorf("a search is at %s", at)
		}
		page.Choose("Status", "INACTIVE", "Filter")
		page.Sees("50 of 55 keys", "Search: Key", "Status: INACTIVE", "Key 001")
		page.DoesNotSee("Key 000")
		page.Click("Next page")
		page.Sees("5 of 55 keys", "Key 109")
		page.Click("Previous page")
		page.Sees("50 of 55 keys", "Key 001")
		page.Click("Remove the filter Status: INACTIVE")
		page.Sees("Key 000")
		page.DoesNotSee("Status: INACTIVE")
		page.Click("Clear filters")
		if at := page.Address(); !strings.HasSuffix(at, "/apikeys/keys?sort=name") {
			t.Errorf("without filters the list is at %s", at)
		}
		for range 2 {
			page.Click("Next page")
		}
		page.Sees("10 of 110 keys", "Key 109")
		page.Click("Previous page")
		page.Sees("Key 050", "Key 099")
		page.Click("Previous page")
		page.Sees("Key 000")
		page.Open("/apikeys/keys?cursor=old&status=odd")
		page.Sees("The list begins at its first page", "50 of 110 keys")
		page.Click("Expires") // the header of a column
		if focused := page.Focused(); !look.NoScript && focused != "by-expires_at" {
			t.Errorf("after sorting, the focus is on %s", focused)
		}
	}
}

// testBulk changes several keys of a list, with and without JavaScript.
func testBulk(t *testing.T, g *gate.Gate, token gate.Token) {
	g.Namespace(t, "bulk", gate.JSON{})
	create(t, g, "/plans", gate.JSON{"namespace": "bulk", "name": "gold"})
	member(t, g, "ron", everywhere)
	for _, look := range []chromium.Look{{}, {NoScript: true}, {Width: 360}} {
		at := fmt.Sprintf("%d%t", look.Width, look.NoScript)
		named := func(name string) string { return name + " " + at }
		list := "/apikeys/keys?q=" + at
		keys := map[string]gate.Key{}
		for _, name := range []string{"Till", "Shop", "Cart"} {
			fields := gate.JSON{"name": named(name), "access": "read_only"}
			if name != "Cart" {
				fields["namespace"] = "bulk"
			}
			keys[name] = g.Mint(t, fields)
		}
		status := func(name string) string {
			t.Helper()
			return g.Call(t, "GET", "/keys/"+keys[name].ID, nil).JSON()["status"].(string)
		}
		page := signedIn(t, g, token, look)
		page.Open(list)
		page.Click("Deactivate…")
		page.Sees("No key is selected")

		page.Click("Select " + named("Till"))
		page.Click("Select " + named("Shop"))
		if !look.NoScript {
			page.Sees("With the 2 selected keys:")
			page.DoesNotSee("No key is selected")
		}
		page.Picture("bulk-selected")
		page.Click("Deactivate…")
		page.Sees("Deactivate 2 keys", named("Till"), named("Shop"))
		checked(page, look)
		page.Picture("bulk-summary")
		if status("Till") != "active" {
			t.Error("the summary has changed a key")
		}
		page.Click("Deactivate 2 keys")
		page.Sees("2 keys deactivated", "INACTIVE", named("Cart"))
		if status("Till") != "inactive" || status("Shop") != "inactive" || status("Cart") != "active" {
			t.Error("the wrong keys are inactive")
		}

		for _, name := range []string{"Till", "Cart"} {
			page.Click("Select " + named(name))
		}
		page.Click("Set plan…")
		page.Fill("Plan", "gold")
		page.Click("Set the plan of 2 keys")
		page.Sees("Plan set for 1 of 2 keys", "1 key was not changed", named("Cart"))
		checked(page, look)
		page.Picture("bulk-done")
		page.Click("Back to the list")

		for _, name := range []string{"Till", "Shop", "Cart"} {
			page.Click("Select " + named(name))
		}
		page.Click("Transfer…")
		page.Click("Cancel")
		for _, name := range []string{"Till", "Shop"} {
			page.Click("Select " + named(name))
		}
		page.Click("Revoke…")
		page.Fill("Type revoke to confirm", "revoke")
		page.Click("Revoke 2 keys")
		page.Sees("2 keys revoked", "Revoked")
		if status("Till") != "revoked" || status("Shop") != "revoked" || status("Cart") != "active" {
			t.Error("the wrong keys are revoked")
		}
	}
}

// checked checks that a page is accessible and fits into its window. The rules are a script.
func checked(page *chromium.Page, look chromium.Look) {
	if !look.NoScript {
		page.Accessible()
	}
	page.Steady()
}
