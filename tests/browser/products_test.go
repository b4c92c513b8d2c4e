package browser

import (
	"os"
	"regexp"
	"testing"

	"github.com/caddy-apikeys/caddy-apikeys/tests/chromium"
	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

// The tests below follow the procedures of existing products in the console, with and without
// JavaScript. The comments quote the products. The pages in docs/recipes/ have the configurations.

// product runs a recipe, and a procedure with and without JavaScript.
func product(
	t *testing.T, page string, prepare func(*testing.T, *gate.Gate),
	procedure func(*testing.T, *gate.Gate, chromium.Look),
) {
	t.Parallel()
	recipe, err := gate.ReadRecipe("docs/recipes/" + page)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "recipe-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	config, err := recipe.Config(dir, "")
	if err != nil {
		t.Fatal(err)
	}
	g := gate.Start(t, config)
	prepare(t, g)
	t.Run("with script", func(t *testing.T) { procedure(t, g, chromium.Look{}) })
	t.Run("without script", func(t *testing.T) { procedure(t, g, chromium.Look{NoScript: true}) })
}

var tokenShape = regexp.MustCompile(`\b[a-z][a-z0-9_]*_[0-9A-Za-z]{58}\b`)

// newToken returns the token on the page.
func newToken(t *testing.T, page *chromium.Page) gate.Token {
	t.Helper()
	page.Sees("Copy the token now. It will not be shown again.")
	token := tokenShape.FindString(page.Text())
	if token == "" {
		t.Fatalf("%s shows no token", page.Address())
	}
	return gate.Token(token)
}

// calls checks the status of requests with a token, each given as method and path.
func calls(t *testing.T, g *gate.Gate, token gate.Token, want map[string]int) {
	t.Helper()
	for call, status := range want {
		method, path := "GET", call
		if call[0] != '/' {
			method, path = call[:4], call[5:]
		}
		if r := g.Send(t, method, path, token, ""); r.Status != status {
			t.Errorf("%s: want %d, got %v", call, status, r)
		}
	}
}

func TestDeveloperPortal(t *testing.T) {
	tokens := map[string]gate.Token{}
	product(t, "developer-portal.md", func(t *testing.T, g *gate.Gate) {
		g.Namespace(t, "acme", gate.JSON{"kind": "account", "name": "Acme Group",
			"edit_policy": "grow_only"})
		g.Namespace(t, "acme-uk", gate.JSON{"kind": "account", "parent": "acme",
			"edit_policy": "grow_only"})
		g.Namespace(t, "acme-fr", gate.JSON{"kind": "account", "parent": "acme",
			"edit_policy": "grow_only"})
		for name, role := range map[string]string{
			"Ada": "client-admin", "Devi": "developer", "Vera": "viewer",
		} {
			_, tokens[name] = member(t, g, name,
				gate.JSON{"namespace": "acme", "roles": []string{role}, "connected": true})
		}
	}, func(t *testing.T, g *gate.Gate, look chromium.Look) {
		// "Access level of a new key: Read-Only (every GET of the supported APIs), Read & Write
		// (every GET and POST)"
		devi := signedIn(t, g, tokens["Devi"], look)
		all, later := "All accounts", "acme-later"
		if look.NoScript {
			all, later = "All of them", "acme-later-still"
		}
		devi.Click("Create key")
		devi.Choose("Namespace", "acme-uk", "Choose")
		devi.Fill("Name", "Dashboard")
		devi.Click("Read-Only")
		devi.Picture("portal-new-key")
		devi.Click("Create key")
		calls(t, g, newToken(t, devi),
			map[string]int{"/v1/accounts/acme-uk/campaigns": 200,
				"POST /v1/accounts/acme-uk/campaigns": 403, "/v1/accounts/acme-uk/invoices": 403})
		devi.Picture("portal-token")

		devi.Click("Keys")
		devi.Click("Create key")
		devi.Choose("Namespace", "acme-uk", "Choose")
		devi.Fill("Name", "Planner")
		devi.Click("Read & Write")
		devi.Click("Create key")
		calls(t, g, newToken(t, devi),
			map[string]int{"/v1/accounts/acme-uk/campaigns": 200,
				"POST /v1/accounts/acme-uk/campaigns": 200,
				"POST /v1/accounts/acme-uk/invoices":  403})

		// "Custom (tick the calls in a permissions table)"
		devi.Click("Keys")
		devi.Click("Create key")
		devi.Choose("Namespace", "acme-uk", "Choose")
		devi.Fill("Name", "Importer")
		devi.Click("Custom")
		devi.Sees("GET /v1/accounts/{account}/campaigns List the campaigns")
		devi.Click("campaigns:listCampaigns")
		devi.Click("audiences:createAudience")
		devi.Picture("portal-custom")
		devi.Click("Create key")
		importer := newToken(t, devi)
		calls(t, g, importer, map[string]int{"/v1/accounts/acme-uk/campaigns": 200,
			"/v1/accounts/acme-uk/campaigns/7": 403, "POST /v1/accounts/acme-uk/audiences": 200,
			"POST /v1/accounts/acme-uk/campaigns": 403})

		// "The token is displayed once, at creation."
		devi.Click("I have copied it")
		devi.Sees("Importer")
		if tokenShape.MatchString(devi.Text()) {
			t.Error("the key's page shows the token")
		}

		// "An existing key can be given more permissions and can never lose any; to reduce, make a
		// new key."
		devi.Click("Edit key")
		devi.Sees("Permissions of keys in acme-uk can only be added")
		devi.Click("campaigns:showCampaign")
		devi.Picture("portal-edit")
		devi.Click("Save changes")
		devi.Sees("Changes saved", "campaigns:showCampaign")
		devi.Picture("portal-key")
		calls(t, g, importer, map[string]int{"/v1/accounts/acme-uk/campaigns": 200,
			"/v1/accounts/acme-uk/campaigns/7": 200, "POST /v1/accounts/acme-uk/audiences": 200})

		// "A key made in a parent namespace may cover several namespaces, picked by hand, …"
		ada := signedIn(t, g, tokens["Ada"], look)
		ada.Click("Create key")
		ada.Choose("Namespace", "acme – Acme Group", "Choose")
		ada.Fill("Name", "UK and France")
		ada.Click("acme-uk")
		ada.Click("acme-fr")
		ada.Click("Create key")
		picked := newToken(t, ada)

		// "… or all connected accounts, with a switch that also takes in accounts connected later."
		ada.Click("Keys")
		ada.Click("Create key")
		ada.Choose("Namespace", "acme – Acme Group", "Choose")
		ada.Fill("Name", all)
		ada.Click("All children of acme, including future ones")
		ada.Picture("portal-parent")
		ada.Click("Create key")
		connected := newToken(t, ada)
		g.Namespace(t, later, gate.JSON{"kind": "account", "parent": "acme"})
		for namespace, status := range map[string][2]int{
			"acme": {200, 200}, "acme-uk": {200, 200}, "acme-fr": {200, 200}, later: {403, 200},
		} {
			path := "/v1/accounts/" + namespace + "/campaigns"
			calls(t, g, picked, map[string]int{path: status[0]})
			calls(t, g, connected, map[string]int{path: status[1]})
		}

		// "Client Admin and Developer may view and edit keys, Viewer may only view."
		vera := signedIn(t, g, tokens["Vera"], look)
		vera.Sees("Dashboard", "Planner", "Importer", all)
		vera.Click(all)
		for _, control := range []string{
			"Create key", "Edit key", "Rotate token", "Deactivate key", "Revoke key…",
		} {
			if vera.Offers(control) {
				t.Errorf("a viewer is offered %s", control)
			}
		}
		vera.Picture("portal-viewer")
	})
}

func TestAdministrationPortal(t *testing.T) {
	product(t, "administration-portal.md", func(t *testing.T, g *gate.Gate) {
		member(t, g, "sam", everywhere)
	}, func(t *testing.T, g *gate.Gate, look chromium.Look) {
		sam := loggedIn(t, g, "sam", "change-me", look)

		// "A new key has a name, one or several scopes (multiple selection, or all), and Active yes
		// or no."
		sam.Click("Create key")
		name := "Warehouse"
		if look.NoScript {
			name = "Shop"
		}
		sam.Fill("Name", name)
		sam.Click("Custom")
		sam.Click("All of customers")
		sam.Click("All of orders")
		sam.Picture("administration-new-key")
		sam.Click("Create key")

		// "The new key is shown once, in a banner, with a clipboard button."
		token := newToken(t, sam)
		if !look.NoScript {
			sam.Click("Copy the token")
			sam.Sees("Copied")
			if sam.Clipboard() != string(token) {
				t.Error("the clipboard does not hold the token")
			}
		}
		calls(t, g, token, map[string]int{"/customers": 200, "POST /orders": 200, "/reports": 403})

		// "Opening a key by its name lets one change its scopes (either way) …"
		sam.Click("Keys")
		sam.Click(name)
		sam.Click("Edit key")
		sam.Click("All of customers")
		sam.Click("All of reports")
		sam.Click("Save changes")
		sam.Sees("Changes saved")
		calls(t, g, token, map[string]int{"/customers": 403, "POST /orders": 200, "/reports": 200})

		// "… and set Active to no: the table then says INACTIVE and the key stops working."
		sam.Click("Deactivate key")
		sam.Sees("The key is inactive")
		sam.Click("Keys")
		sam.Sees(name, "INACTIVE")
		sam.Picture("administration-keys")
		calls(t, g, token, map[string]int{"POST /orders": 401})

		// "Active can be set back to yes."
		sam.Click(name)
		sam.Click("Edit key")
		sam.Click("Active")
		sam.Click("Save changes")
		sam.Sees("Changes saved")
		calls(t, g, token, map[string]int{"POST /orders": 200})
	})
}

func TestOrganizations(t *testing.T) {
	tokens := map[string]gate.Token{}
	product(t, "organizations.md", func(t *testing.T, g *gate.Gate) {
		g.Namespace(t, "acme", gate.JSON{"kind": "organization"})
		g.Namespace(t, "shop", gate.JSON{"kind": "app", "parent": "acme",
			"reach": []string{"workspace", "usergroup"}})
		g.Namespace(t, "shop-eu", gate.JSON{"kind": "workspace", "parent": "shop"})
		create(t, g, "/roles", gate.JSON{"namespace": "*", "name": "view",
			"permissions": []string{"read", "admin.keys:create"}})
		create(t, g, "/roles", gate.JSON{"namespace": "*", "name": "edit",
			"permissions": []string{"read", "write", "admin.keys:create"}})
		_,
			tokens["Ada"] = member(t, g, "Ada",
			gate.JSON{"namespace": "shop", "roles": []string{"edit"}, "connected": true})
		_,
			tokens["Ben"] = member(t, g, "Ben",
			gate.JSON{"namespace": "shop", "roles": []string{"edit"}},
			gate.JSON{"namespace": "shop-eu", "roles": []string{"view"}})
	}, func(t *testing.T, g *gate.Gate, look chromium.Look) {
		// "After making a key the page shows its id and its secret."
		ada := signedIn(t, g, tokens["Ada"], look)
		ada.Click("Create key")
		ada.Choose("Namespace", "shop", "Choose")
		ada.Fill("Name", "Accounting")
		ada.Click("Read & Write")
		ada.Click("Create key")
		accounting := newToken(t, ada)
		ada.Sees("Id", "Token") // which the product calls a secret
		ada.Picture("organizations-token")

		// "Several keys per namespace are the recommended practice"; "Optional expiry date and
		// time, fixed at creation."
		ada.Click("Keys")
		ada.Click("Create key")
		ada.Choose("Namespace", "shop", "Choose")
		ada.Fill("Name", "Print house")
		ada.Click("On a custom day")
		ada.Fill("Day", "2041-05-06")
		ada.Fill("Time (UTC)", "17:30")
		ada.Picture("organizations-expiry")
		ada.Click("Create key")
		printHouse := newToken(t, ada)
		ada.Click("I have copied it")
		ada.Sees("2041-05-06 17:30")
		calls(t, g, accounting, map[string]int{"/v1/apps/shop/settings": 200,
			"POST /v1/workspaces/shop-eu/pages": 200})
		calls(t, g, printHouse, map[string]int{"/v1/apps/shop/settings": 200})

		// "Everyone finds the keys they made on a page of their own and can revoke them there"
		ada.Click("Keys")
		ada.Click("My keys")
		ada.Sees("Accounting", "Print house")
		ada.Picture("organizations-my-keys")
		ada.Click("Revoke… Print house")
		ada.Fill("Type revoke to confirm", "revoke")
		ada.Click("Revoke key")
		ada.Sees("Key revoked")
		calls(t, g, accounting, map[string]int{"/v1/apps/shop/settings": 200})
		calls(t, g, printHouse, map[string]int{"/v1/apps/shop/settings": 401})
		ada.Click("Keys")
		ada.Click("My keys")
		ada.Sees("Revoked")

		// "A key never has more access than the user who made it: a user without EDIT on a
		// workspace cannot reach it through an application's key either."
		ben := signedIn(t, g, tokens["Ben"], look)
		ben.DoesNotSee("Accounting")
		ben.Click("Create key")
		ben.Choose("Namespace", "shop", "Choose")
		ben.Fill("Name", "Ben's")
		ben.Click("Read & Write")
		ben.Click("Create key")
		calls(t, g, newToken(t, ben), map[string]int{"/v1/workspaces/shop-eu/pages": 200,
			"POST /v1/workspaces/shop-eu/pages": 403})
	})
}

func TestBackOffice(t *testing.T) {
	tokens := map[string]gate.Token{}
	product(t, "back-office.md", func(t *testing.T, g *gate.Gate) {
		g.Namespace(t, "backoffice", gate.JSON{"kind": "programme", "name": "Loyalty programme",
			"key_roles": []string{"*"}})
		create(t, g, "/roles", gate.JSON{"namespace": "*", "name": "issuer",
			"permissions": []string{"*", "admin.keys:read", "admin.roles:read",
				"admin.keys:create"}})
		create(t, g, "/roles", gate.JSON{"namespace": "*", "name": "editor",
			"permissions": []string{"*", "admin.keys:read", "admin.roles:read",
				"admin.keys:update"}})
		create(t, g, "/roles", gate.JSON{"namespace": "backoffice", "name": "cashier",
			"permissions": []string{"points:show", "points:credit"}})
		create(t, g, "/roles", gate.JSON{"namespace": "backoffice", "name": "clerk",
			"permissions": []string{"customers:show", "customers:register"}})
		for name, role := range map[string]string{
			"Ann": "client-admin", "Iris": "issuer", "Ed": "editor",
		} {
			_, tokens[name] = member(t, g, name,
				gate.JSON{"namespace": "backoffice", "roles": []string{role}})
		}
	}, func(t *testing.T, g *gate.Gate, look chromium.Look) {
		till, shop, role := "Till 1", "Web shop", "web-shop"
		if look.NoScript {
			till, shop, role = "Till 2", "Bus tickets", "bus-tickets"
		}

		// "A key cannot be made without a role."
		iris := signedIn(t, g, tokens["Iris"], look)
		iris.Click("Create key")
		iris.Fill("Name", till)
		iris.Click("Create key")
		iris.Sees("role")
		if iris.Status != 422 || iris.Value("Name") != till {
			t.Errorf("without a role: status %d, and the name is “%s”", iris.Status,
				iris.Value("Name"))
		}
		iris.Picture("back-office-no-role")

		// "A role can be picked while making the key or made on the spot, the latter only by a user
		// who holds roles.create."
		if iris.Offers("Create role") {
			t.Error("Iris, who may not create roles, is offered “Create role”")
		}
		iris.Click("cashier")
		iris.Click("Create key")
		tillToken := newToken(t, iris)
		calls(t, g, tillToken, map[string]int{"/points/7": 200, "POST /points/7/credit": 200,
			"/customers/7": 403})

		ann := signedIn(t, g, tokens["Ann"], look)
		ann.Click("Create key")
		ann.Fill("Name", shop)
		ann.Click("Create role")
		ann.Fill("Role name", role)
		if look.NoScript {
			ann.Click("Choose permissions")
		}
		ann.Click("points:debit")
		ann.Picture("back-office-new-role")
		ann.Click("Create key")
		calls(t, g, newToken(t, ann), map[string]int{"POST /points/7/debit": 200,
			"POST /points/7/credit": 403})
		ann.Click("I have copied it")
		ann.Sees(role, "points:debit")

		// "Roles are added to an existing key by editing it." "A role can also be made on the spot
		// while editing a key."
		ed := signedIn(t, g, tokens["Ed"], look)
		if ed.Offers("Create key") {
			t.Error("Ed, who may not create keys, is offered “Create key”")
		}
		ed.Click(till)
		ed.Click("Edit key")
		ed.Click("clerk")
		ed.Click("Save changes")
		ed.Sees("Changes saved")
		calls(t, g, tillToken, map[string]int{"/customers/7": 200})

		ann.Click("Edit key")
		ann.Click("Create role")
		ann.Fill("Role name", "extra-"+role)
		if look.NoScript {
			ann.Click("Choose permissions")
		}
		ann.Click("customers:show")
		ann.Click("Save changes")
		ann.Sees("Changes saved", "extra-"+role, "customers:show")
	})
}

func TestFinanceCloud(t *testing.T) {
	var olga gate.Token
	product(t, "finance-cloud.md", func(t *testing.T, g *gate.Gate) {
		g.Namespace(t, "acme", gate.JSON{"kind": "company", "name": "Acme Inc."})
		create(t, g, "/roles", gate.JSON{"namespace": "acme", "name": "member",
			"permissions": []string{"company:show"}})
		if r := g.Call(t, "PATCH", "/namespaces/acme",
			gate.JSON{"key_roles": []string{"member"}}); r.Status != 200 {
			t.Fatalf("key_roles: %v", r)
		}
		create(t, g, "/roles", gate.JSON{"namespace": "*", "name": "owner",
			"permissions": []string{"*", "admin.keys:read", "admin.keys:create",
				"admin.keys:update", "admin.keys:revoke"}})
		_, olga = member(t, g, "Olga", gate.JSON{"namespace": "acme", "roles": []string{"owner"}})
	}, func(t *testing.T, g *gate.Gate, look chromium.Look) {
		assistant := "Assistant"
		if look.NoScript {
			assistant = "Second assistant"
		}

		// "scopes (`*` for everything, or such as `mcp:read`, `mcp:write`), a role that is always
		// Member (shown, not changeable), expiry date or "Never""
		page := signedIn(t, g, olga, look)
		page.Click("Create key")
		page.Sees("All keys of acme have this role, which cannot be changed here.")
		page.Fill("Name", assistant)
		page.Click("Custom")
		page.Click("All reads mcp:read")
		page.Picture("finance-new-key")
		page.Click("Create key")
		token := newToken(t, page)
		calls(t, g, token, map[string]int{"/mcp": 200, "POST /mcp": 403, "/company": 200,
			"/ledgers": 403})

		// "The full key is displayed only once."
		page.Reload()
		if look.NoScript { // it sends the form again
			page.Sees("This key already exists")
		} else { // it shows the page of the key
			page.Sees(assistant, "History")
		}
		page.DoesNotSee(string(token))
		page.Back()
		page.DoesNotSee(string(token))
		page.Open("/apikeys/keys/new")
		page.Fill("Name", "Looked at twice")
		page.Click("Create key")
		other := newToken(t, page)
		page.Click("Keys")
		page.Back()
		page.DoesNotSee(string(other))
		page.Open("/apikeys/keys")
		page.DoesNotSee(string(token), string(other))

		// "key prefix (`blnk_fdb796a5...`) in the list"
		page.Sees(assistant, string(token[:len("blnk_12345678")])+"…", "Never")

		// "Revoking is immediate and final; a revoked key cannot authenticate and stays in the list
		// with the status "Revoked"."
		page.Click(assistant)
		page.Sees("member")
		page.Click("Revoke key…")
		page.Fill("Reason", "laptop stolen")
		page.Fill("Type revoke to confirm", "revoke")
		page.Click("Revoke key")
		page.Sees("Key revoked", "laptop stolen")
		calls(t, g, token, map[string]int{"/mcp": 401})
		for _, control := range []string{"Edit key", "Activate key", "Rotate token", "Delete key…"} {
			if page.Offers(control) {
				t.Errorf("a revoked key offers %s", control)
			}
		}
		page.Click("Keys")
		page.Sees(assistant, "Revoked")
		page.Picture("finance-keys")
	})
}
