package gate

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
)

// Key is a key and the token that minting or rotating returned.
type Key struct {
	ID    string
	Token Token
	JSON  JSON // the key as the API shows it
}

// Call sends a request to the management API on Caddy's admin endpoint. The path is relative to
// /apikeys/v1. A string body is sent unchanged, nil is no body, and anything else is sent as JSON.
// Further headers are `Name: value`.
func (g *Gate) Call(t testing.TB, method, path string, body any, header ...string) Response {
	t.Helper()
	return g.admin(t, method, "/apikeys/v1"+path, body, header...)
}

func (g *Gate) admin(t testing.TB, method, path string, body any, header ...string) Response {
	t.Helper()
	var content io.Reader
	switch body := body.(type) {
	case nil:
	case string:
		content = strings.NewReader(body)
	default:
		text, err := json.Marshal(body)
		if err != nil {
			t.Fatal(err)
		}
		content = bytes.NewReader(text)
	}
	host := g.Admin
	if g.config.AdminSocket {
		host = "localhost"
	}
	r, err := http.NewRequestWithContext(t.Context(), method, "http://"+host+path, content)
	if err != nil {
		t.Fatal(err)
	}
	if t.Context().Err() != nil { // in a Cleanup, the test's context is cancelled
		r = r.WithContext(context.Background())
	}
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	for _, line := range header {
		name, value, _ := strings.Cut(line, ": ")
		r.Header.Set(name, value)
	}
	answer, err := (&http.Transport{DialContext: g.dialAdmin, DisableKeepAlives: true}).RoundTrip(r)
	if err != nil {
		t.Fatalf("%s %s on the admin endpoint: %v\n%s", method, path, err, redact(g.Output()))
	}
	defer answer.Body.Close()
	got := Response{Status: answer.StatusCode, Header: answer.Header}
	got.Body, got.Err = io.ReadAll(answer.Body)
	watchAll(string(got.Body))
	return got
}

func (g *Gate) dialAdmin(ctx context.Context, network, address string) (net.Conn, error) {
	if path, socket := strings.CutPrefix(g.Admin, "unix/"); socket {
		network, address = "unix", path
	}
	return new(net.Dialer).DialContext(ctx, network, address)
}

// must is Call, and ends the test unless the status is the expected one.
func (g *Gate) must(t testing.TB, status int, method, path string, body any) JSON {
	t.Helper()
	r := g.Call(t, method, path, body)
	if r.Status != status {
		t.Fatalf("%s %s: want %d, got %v", method, path, status, r)
	}
	return r.JSON()
}

func key(t testing.TB, answer JSON) Key {
	t.Helper()
	object, _ := answer["key"].(JSON)
	id, _ := object["id"].(string)
	token, _ := answer["token"].(string)
	if id == "" || token == "" {
		t.Fatal("the response has no key and token")
	}
	Watch(token)
	return Key{ID: id, Token: Token(token), JSON: object}
}

// Mint creates a key from the fields of POST /keys.
func (g *Gate) Mint(t testing.TB, fields JSON) Key {
	t.Helper()
	return key(t, g.must(t, 201, "POST", "/keys", fields))
}

// Namespace creates a namespace; all fields are optional.
func (g *Gate) Namespace(t testing.TB, id string, fields JSON) JSON {
	t.Helper()
	body := JSON{"id": id, "kind": "tenant", "name": id}
	for name, value := range fields {
		body[name] = value
	}
	return g.must(t, 201, "POST", "/namespaces", body)
}

// Show returns the current state of a key.
func (g *Gate) Show(t testing.TB, id string) JSON {
	t.Helper()
	return g.must(t, 200, "GET", "/keys/"+id, nil)
}

// Patch edits a key, checks that the change is complete, and returns the response.
func (g *Gate) Patch(t testing.TB, id string, fields JSON) JSON {
	t.Helper()
	return complete(t, g.must(t, 200, "PATCH", "/keys/"+id, fields))
}

// Revoke revokes a key, checks that the change is complete, and returns the response.
func (g *Gate) Revoke(t testing.TB, id string) JSON {
	t.Helper()
	return complete(t, g.must(t, 200, "POST", "/keys/"+id+"/revoke", JSON{"reason": "test"}))
}

// Rotate replaces the token of a key. The old token stays valid for grace, which may be "0s".
func (g *Gate) Rotate(t testing.TB, id, grace string) Key {
	t.Helper()
	return key(t, complete(t, g.must(t, 200, "POST", "/keys/"+id+"/rotate", JSON{"grace": grace})))
}

// Import imports keys with the fields of Mint and `token` or `sha256`.
func (g *Gate) Import(t testing.TB, keys ...JSON) JSON {
	t.Helper()
	for _, fields := range keys {
		if token, plain := fields["token"].(string); plain {
			Watch(token)
		}
	}
	return g.must(t, 201, "POST", "/keys/import", JSON{"keys": keys})
}

func complete(t testing.TB, answer JSON) JSON {
	t.Helper()
	propagation, _ := answer["propagation"].(JSON)
	if propagation["complete"] != true {
		t.Fatalf("want a complete change, got propagation %v", propagation)
	}
	return answer
}
