package scenarios

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

// TestRequestID checks that a refusal has the request id of the access log if the site uses
// {http.request.uuid}, and no request id otherwise.
func TestRequestID(t *testing.T) {
	t.Parallel()
	const site = `
		%s
		api_key {
			public /apikeys/*
		}
		api_keys_admin
		reverse_proxy {$GATE_UPSTREAM}`
	requests := []gate.Request{
		{Target: "/v1/items"},
		{Target: "/v1/items", Header: []string{"Authorization: Bearer nonsense"}},
		{Target: "/apikeys/v1/keys"},
		{Target: "/apikeys/v1/nothing", Header: []string{"Authorization: Bearer TOKEN"}},
		{Target: "/apikeys/v1/keys", Header: []string{"Authorization: Bearer TOKEN"}},
		{Target: "/apikeys/v1/keys?nonsense=1", Header: []string{"Authorization: Bearer TOKEN"}},
		{Method: "POST", Target: "/apikeys/v1/keys",
			Header: []string{"Authorization: Bearer TOKEN", "Content-Type: application/json"},
			Body:   "{"},
		{Method: "POST", Target: "/apikeys/v1/keys",
			Header: []string{"Authorization: Bearer TOKEN", "Content-Type: application/json"},
			Body:   `{}`},
	}
	ask := func(g *gate.Gate, r gate.Request, token gate.Token) (id string,
		response gate.Response) {
		for i, line := range r.Header {
			header := strings.Replace(line, "TOKEN", string(token), 1)
			r.Header = append(append(append([]string(nil), r.Header[:i]...), header),
				r.Header[i+1:]...)
		}
		response = g.Do(t, r)
		var p struct {
			Status    int
			RequestID string `json:"request_id"`
		}
		if err := json.Unmarshal(response.Body, &p); err != nil ||
			p.Status != response.Status || response.Status < 400 {
			t.Errorf("%v: %v: %d %s", r, err, response.Status, response.Body)
		}
		return p.RequestID, response
	}
	g := gate.Start(t, gate.Config{Site: fmt.Sprintf(site,
		"header X-Request-Id {http.request.uuid}")})
	plain := gate.Start(t, gate.Config{Site: fmt.Sprintf(site, "")})
	key := gate.JSON{"name": "a", "permissions": []string{"read", "admin.roles:*"}}
	token, other := g.Mint(t, key).Token, plain.Mint(t, key).Token
	for _, r := range requests {
		id, response := ask(g, r, token)
		if id == "" || id != response.Header.Get("X-Request-Id") {
			t.Errorf("%s %s: request_id %q, X-Request-Id %q", r.Method, r.Target, id,
				response.Header.Get("X-Request-Id"))
		}
		gate.Until(t, "the access log has "+id,
			func() bool { return strings.Contains(g.AccessLog(), `"uuid":"`+id+`"`) })
		if id, _ := ask(plain, r, other); id != "" {
			t.Errorf("%s %s: request_id %q on a site that has none", r.Method, r.Target, id)
		}
	}
	// A header of the client is not a request id.
	if id, _ := ask(plain, gate.Request{Target: "/v1/items",
		Header: []string{"X-Request-Id: mine"}}, other); id != "" {
		t.Errorf("request_id %q is the client's", id)
	}
}
