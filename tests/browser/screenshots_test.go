package browser

import (
	"testing"

	"github.com/caddy-apikeys/caddy-apikeys/tests/chromium"
	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

// TestScreenshots takes the pictures in README.md and docs/api_keys_admin.md (`make screenshots`).
func TestScreenshots(t *testing.T) {
	t.Parallel()
	g := gate.Start(t, gate.Config{Site: `
		api_key {
			namespace_path /v1/workspaces/{namespace}/**
			operation orders:search  read  GET  /v1/workspaces/*/orders
			operation orders:place   write POST /v1/workspaces/*/orders
			operation reports:show   read  GET  /v1/workspaces/*/reports/*
			public /apikeys/*
		}
		api_keys_admin
		reverse_proxy {$GATE_UPSTREAM}`})
	g.Namespace(t, "acme", gate.JSON{"kind": "account", "name": "Acme Inc."})
	g.Namespace(t, "acme-fr", gate.JSON{"kind": "workspace", "parent": "acme",
		"name": "Acme France"})
	g.Namespace(t, "acme-uk", gate.JSON{"kind": "workspace", "parent": "acme", "name": "Acme UK"})
	create(t, g, "/roles", gate.JSON{"namespace": "acme", "name": "billing",
		"permissions": []string{"orders:read"}})
	ada, token := member(t, g, "Ada", everywhere)
	ben, _ := member(t, g, "Ben", gate.JSON{"namespace": "acme", "roles": []string{"developer"},
		"connected": true})

	leaver := g.Mint(t, gate.JSON{"name": "Agency, until June", "namespace": "acme-uk",
		"access": "read_write", "owner": ben})
	g.Revoke(t, leaver.ID)
	g.Mint(t, gate.JSON{"name": "Data warehouse", "namespace": "acme", "access": "read_only",
		"connected": true, "owner": ada})
	g.Mint(t, gate.JSON{"name": "Load test", "namespace": "acme-uk", "access": "read_write",
		"owner": ben, "active": false})
	g.Mint(t, gate.JSON{"name": "Accounting", "namespace": "acme",
		"permissions": []string{"reports:show"}, "roles": []string{"billing"}, "owner": ada,
		"expires_at": "2031-01-01T00:00:00Z"})
	shop := g.Mint(t, gate.JSON{"name": "Web shop", "namespace": "acme-fr",
		"permissions": []string{"orders:place", "orders:search"}, "owner": ben,
		"allowed_ips": []string{"192.0.2.0/24"}})
	g.Patch(t, shop.ID, gate.JSON{"permissions": []string{"orders:place", "orders:search",
		"reports:show"}})
	calls(t, g, leaver.Token, map[string]int{"/v1/workspaces/acme-uk/orders": 401})

	page := signedIn(t, g, token, chromium.Look{Width: 1200, Height: 680})
	page.Open("/apikeys/keys")
	page.Window("keys")
	page.Show(chromium.Look{Width: 1200, Height: 800, Dark: true})
	page.Open("/apikeys/keys/" + shop.ID)
	page.Window("key")

	page.Show(chromium.Look{Width: 1000, Height: 1180})
	page.Open("/apikeys/keys/new?namespace=acme-fr")
	page.Fill("Name", "Newsletter")
	page.Click("Custom")
	page.Click("orders:search")
	page.Window("new-key")
	page.Click("Create key")
	page.Sees("It will not be shown again")
	page.Show(chromium.Look{Width: 1000, Height: 760})
	page.Window("token")
}
