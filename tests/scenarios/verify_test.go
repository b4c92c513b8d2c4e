package scenarios

import (
	"fmt"
	"strings"
	"testing"

	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

// TestVerifyIsTheDecision checks that /verify and the command `verify` predict the response to a
// request.
func TestVerifyIsTheDecision(t *testing.T) {
	t.Parallel()
	g := gate.Start(t, gate.Config{
		Servers: "trusted_proxies static 127.0.0.1/32",
		Site: `
		handle_path /shop/* {
			api_key {
				namespace_path /{namespace}/**
				resource orders
				operation orders:search read POST /{namespace}/search
				methods write PURGE
				methods none DELETE
				public /acme/terms
			}
			reverse_proxy {$GATE_UPSTREAM}
		}
		handle /own/* {
			api_key {
				namespace home
				strict
				operation things:list read GET /own/things
			}
			reverse_proxy {$GATE_UPSTREAM}
		}
		@wild host wild.example.com
		handle @wild {
			api_key {
				namespace acme
			}
			reverse_proxy {$GATE_UPSTREAM}
		}
		handle {
			api_key
			reverse_proxy {$GATE_UPSTREAM}
		}`,
	})
	g.Namespace(t, "acme", nil)
	acme := g.Mint(t, gate.JSON{"name": "acme", "namespace": "acme",
		"permissions": []string{"orders:read", "orders:search", "things:list"}}).Token
	home := g.Mint(t, gate.JSON{"name": "home", "access": "read_write",
		"allowed_ips": []string{"10.0.0.0/8"}}).Token
	revoked := g.Mint(t, gate.JSON{"name": "revoked", "access": "read_write"})
	g.Revoke(t, revoked.ID)
	const from = "10.1.2.3"
	for _, test := range []struct {
		token                gate.Token
		method, host, target string
		want                 string
	}{
		{acme, "GET", "", "/shop/acme/orders", "200"},
		{acme, "HEAD", "", "/shop/acme/orders", "200"},
		{acme, "POST", "", "/shop/acme/orders", "403 insufficient_permission orders:write acme"},
		{acme, "POST", "", "/shop/acme/search", "200"},
		{acme, "POST", "", "/shop/acme/search/?q=1", "200"},
		{acme, "GET", "", "/shop/rival/orders", "403 insufficient_permission orders:read rival"},
		{acme, "DELETE", "", "/shop/acme/orders", "405 method_not_allowed"},
		{acme, "PURGE", "", "/shop/acme/orders", "403 insufficient_permission orders:write acme"},
		{acme, "GET", "", "/shop/acme/terms", "200"},
		{revoked.Token, "GET", "", "/shop/acme/terms", "200"},
		{acme, "GET", "", "/shop/acme/%2e%2e/terms", "400 non_canonical_target"},
		{acme, "GET", "", "/shop/acme//orders", "400 non_canonical_target"},
		{acme, "GET", "", "/own/things", "200"},
		{acme, "GET", "", "/own/others", "403 insufficient_permission  acme"},
		{acme, "GET", "", "/elsewhere", "403 insufficient_permission read default"},
		{acme, "GET", "wild.example.com", "/elsewhere", "403 insufficient_permission read acme"},
		{home, "GET", "", "/elsewhere", "200"},
		{home, "DELETE", "", "/elsewhere", "200"},
		{home, "GET", "wild.example.com", "/elsewhere", "403 insufficient_permission read acme"},
		{revoked.Token, "GET", "", "/elsewhere", "401 key_revoked"},
		{"ak_nobody", "GET", "", "/elsewhere", "401 invalid_key"},
	} {
		name := test.method + " " + test.host + test.target
		sent := g.Do(t, gate.Request{Method: test.method, Host: test.host, Target: test.target,
			Header: []string{"Authorization: Bearer " + string(test.token),
				"X-Forwarded-For: " + from}})
		question := gate.JSON{"token": string(test.token), "method": test.method,
			"path": test.target, "client_ip": from, "host": "api.example.com"}
		flags := []string{"verify", "--method", test.method, "--path", test.target, "--client-ip",
			from, "--host", "api.example.com"}
		if test.host != "" {
			question["host"], flags[len(flags)-1] = test.host, test.host
		}
		told := g.Call(t, "POST", "/verify", question)
		if told.Status != 200 {
			t.Errorf("%s: verify: %v", name, told)
			continue
		}
		verdict := told.JSON()
		for which, got := range map[string]string{"the request": decision(sent.Status, sent.JSON(),
			sent.Code()),
			"verify": decision(int(verdict["status"].(float64)), verdict, verdict["code"])} {
			if got != test.want {
				t.Errorf("%s: %s: %s, want %s", name, which, got, test.want)
			}
		}
		status := 0
		if test.want != "200" {
			status = 1
		}
		if r := g.APIKeys(t, string(test.token)+"\n", flags...); r.Exit != status ||
			r.Stdout != verdict["outcome"].(string)+"\n" {
			t.Errorf("%s: the command: %v", name, r)
		}
	}
	if r := g.Call(t, "POST", "/verify",
		gate.JSON{"token": string(acme), "path": "/elsewhere"}); r.Status != 422 ||
		!strings.Contains(string(r.Body), `"host"`) {
		t.Errorf("hosts that differ: %v", r)
	}
	if r := g.Call(t, "POST", "/verify",
		gate.JSON{"token": string(acme), "path": "/elsewhere",
			"permission": "read"}); r.Status != 422 {
		t.Errorf("path and permission: %v", r)
	}
}

// decision formats the status and, for a refusal, the code and the missing permission in a problem
// document or a verdict.
func decision(status int, body gate.JSON, code any) string {
	if status < 400 {
		return fmt.Sprint(status)
	}
	text := fmt.Sprint(status, " ", code)
	if status == 403 {
		needed, _ := body["needed"].(string)
		text += fmt.Sprint(" ", needed, " ", body["namespace"])
	}
	return text
}
