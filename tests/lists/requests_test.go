package lists

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

// requests checks the requests that reach the API: they ask for the whole list, uncompressed.
func (w world) requests(t *testing.T) {
	answer := whole(`["acme","globex"]`, isJSON, `ETag: "1"`,
		"Last-Modified: Sat, 21 Nov 2026 23:15:45 GMT", "Accept-Ranges: bytes", "Content-MD5: x",
		"Digest: x", "Content-Digest: x", "Repr-Digest: x", "Cache-Control: public, max-age=60",
		"CDN-Cache-Control: max-age=60", "Surrogate-Control: max-age=60",
		"Expires: Sat, 21 Nov 2099 23:15:45 GMT", "Age: 1", "X-Total-Count: 2", "Set-Cookie: a=b")
	w.answer(func(conn net.Conn, _ *http.Request) { io.WriteString(conn, answer) })
	for _, protocol := range gate.Protocols {
		for _, method := range []string{"GET", "HEAD"} {
			asked := []string{"range: bytes=0-1", "if-range: x", "if-match: x", "if-none-match: x",
				"if-modified-since: Sat, 21 Nov 2026 23:15:45 GMT",
				"if-unmodified-since: Sat, 21 Nov 2026 23:15:45 GMT", "a-im: feed",
				"accept-encoding: br, gzip", "x-other: stays",
				"authorization: Bearer " + string(w.token)}
			if protocol == gate.HTTP1 {
				asked = append(asked, "upgrade: websocket", "connection: upgrade")
			}
			got := w.Do(t, gate.Request{Protocol: protocol, Method: method, Target: "/plain/list",
				Header: asked})
			if got.Status != 200 || method == "GET" && string(got.Body) != `["acme"]` ||
				got.Header.Get("X-Total-Count") != "2" || got.Header.Get("Set-Cookie") == "" {
				t.Errorf("%v %s: %v", protocol, method, got)
			}
			for _, name := range []string{"ETag", "Last-Modified", "Accept-Ranges", "Content-MD5",
				"Digest", "Content-Digest", "Repr-Digest", "CDN-Cache-Control",
				"Surrogate-Control", "Expires", "Age"} {
				if got.Header.Get(name) != "" {
					t.Errorf("%v %s: %s stays", protocol, method, name)
				}
			}
			if length := got.Header.Get("Content-Length"); length != "" && length != "8" ||
				length != "" && method == "HEAD" {
				t.Errorf("%v %s: Content-Length %s", protocol, method, length)
			}
			w.api.mu.Lock()
			reached := w.api.got
			w.api.mu.Unlock()
			for _, line := range asked {
				name, value, _ := strings.Cut(line, ": ")
				want := map[string]string{"accept-encoding": "identity", "x-other": "stays"}[name]
				if reached.Header.Get(name) != want {
					t.Errorf("%v %s: %s: %s reached the API as %q", protocol, method, name, value,
						reached.Header.Get(name))
				}
			}
		}
	}
}

// keys checks which elements each key receives.
func (w world) keys(t *testing.T) {
	const all = `["acme","globex","42",42,"shop","default","none"]`
	w.answer(func(conn net.Conn, _ *http.Request) { io.WriteString(conn, whole(all, isJSON)) })
	acme := w.token
	mint := func(namespace string, fields gate.JSON) gate.Token {
		fields["name"], fields["namespace"] = "list", namespace
		return w.Mint(t, fields).Token
	}
	also := mint("acme", gate.JSON{"access": "read_only",
		"grants": []gate.JSON{{"namespace": "globex", "access": "read_only"}}})
	writes := mint("acme", gate.JSON{"access": "read_only",
		"grants": []gate.JSON{{"namespace": "globex", "permissions": []string{"write"}}}})
	number := mint("42", gate.JSON{"access": "read_only"})
	shop := mint("shop", gate.JSON{"access": "read_only"})
	everywhere := mint("default", gate.JSON{"grants": []gate.JSON{{"namespace": "*",
		"access": "read_only"}}})
	derive := func(token gate.Token, namespaces ...string) gate.Token {
		derived, err := keystore.Derive(string(token), keystore.Caveats{
			ExpiresAt: time.Now().Add(time.Hour), Namespaces: namespaces})
		if err != nil {
			t.Fatal(err)
		}
		gate.Watch(derived)
		return gate.Token(derived)
	}
	for _, row := range []struct {
		what, target string
		token        gate.Token
		want         string
	}{
		{"its own", "/plain/list", acme, `["acme"]`},
		{"its own, as another kind", "/plain/apps", acme, `[]`},
		{"where it has read", "/plain/list", also, `["acme","globex"]`},
		{"not where it has only write", "/plain/list", writes, `["acme"]`},
		{"a namespace that looks like a number", "/plain/list", number, `["42",42]`},
		{"none of the kind", "/plain/list", shop, `[]`},
		{"the kind", "/plain/apps", shop, `["shop"]`},
		{"everywhere", "/plain/list", everywhere, `["acme","globex","42",42]`},
		{"a derived token", "/plain/list", derive(everywhere, "default", "globex"), `["globex"]`},
		{"a derived token that excludes all", "/plain/list", derive(everywhere, "default"), `[]`},
		{"optional, without a key", "/open/list", "", `[]`},
		{"optional, with a key", "/open/list", acme, `["acme"]`},
		{"a foreign token, which the API checks", "/open/list", "eyJhbGciOi.e30.x",
			all},
		{"public", "/open/public", "", all},
	} {
		for _, protocol := range []gate.Protocol{gate.HTTP1, gate.HTTP2, gate.HTTP3} {
			t.Run(fmt.Sprintf("%v/%s", protocol, row.what), func(t *testing.T) {
				client, url := w.Client(t, protocol)
				answer, err := client.Do(get(t, url+row.target, row.token))
				if err != nil {
					t.Fatal(err)
				}
				if body := bodyOf(t, answer); answer.StatusCode != 200 || body != row.want {
					t.Errorf("%d %s, want %s", answer.StatusCode, body, row.want)
				}
			})
		}
	}
	if got := w.Send(t, http.MethodGet, "/plain/list", "", ""); got.Code() != "missing_key" {
		t.Errorf("without a key: %v", got)
	}
}
