package gate

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/coder/websocket"
)

func TestMain(m *testing.M) { Main(m) }

// bare is a configuration without the plugin's handlers. It shows whether the harness changes
// requests.
const bare = `{
	admin {$GATE_ADMIN}
	auto_https disable_redirects
	skip_install_trust
	grace_period 2s
}
http://:{$GATE_HTTP} {
	bind 127.0.0.1
	reverse_proxy {$GATE_UPSTREAM}
}
https://:{$GATE_HTTPS} {
	bind 127.0.0.1
	tls {$GATE_DIR}/cert.pem {$GATE_DIR}/key.pem
	reverse_proxy {$GATE_UPSTREAM}
}
`

func TestRequestsReachTheUpstreamAsSent(t *testing.T) {
	g := Start(t, Config{Caddyfile: bare})
	for _, protocol := range Protocols {
		for _, r := range []Request{
			{Target: "/a//b/../%2e%2E/c;d?x=1;y"},
			{Method: "PURGE", Target: "/"},
			{Method: "POST", Body: strings.Repeat("x", 100<<10)},
			{Header: []string{"X-Twice: 1", "X-Twice: 2"}},
			{Method: "POST", Body: "b", Header: []string{"Trailer: X-T"},
				Trailer: []string{"X-T: 1"}},
			{Header: []string{"X-Long: " + strings.Repeat("x", 10<<10)}},
		} {
			r.Protocol = protocol
			got := g.Do(t, r)
			if got.Status != 200 || len(got.Reached) != 1 {
				t.Errorf("%v %s: want 200 and one request upstream, got %v", protocol, r.method(),
					got)
				continue
			}
			at := got.Reached[0]
			if at.Method != r.method() || at.Target != r.target() || at.Host != r.host() ||
				at.Body != r.Body || !strings.HasPrefix(at.Wire, r.method()+" "+r.target()) {
				t.Errorf("%v %s: upstream got %s %s %s", protocol, r.method(), at.Method, at.Target,
					at.Host)
			}
			for _, line := range append(r.Header, r.Trailer...) {
				if name, value, _ := strings.Cut(line, ": "); name != "Trailer" &&
					!strings.Contains(fmt.Sprint(at.Header[name], at.Trailer[name]), value) {
					t.Errorf("%v: the upstream did not get %.20s", protocol, line)
				}
			}
		}
	}
}

func TestMalformedRequests(t *testing.T) {
	g := Start(t, Config{Caddyfile: bare})
	block := append(Request{}.fields(), Field{Name: "X-Upper", Value: "1"})
	if r := g.DoHTTP2(t, block, "", nil); r.Err == nil || len(r.Reached) != 0 {
		t.Errorf("upper-case field name over HTTP/2: want a reset stream, got %v", r)
	}
	if r := g.Raw(t, "GET / HTTP/1.1\r\nHost: a\r\nX : 1\r\n\r\n"); len(r) != 1 ||
		r[0].Status != 400 {
		t.Errorf("space before the colon: want 400, got %v", r)
	}
	if r := g.Raw(t, "GET /1 HTTP/1.1\r\nHost: a\r\n\r\n"+
		"GET /2 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"); len(r) != 2 ||
		len(r[0].Reached) != 2 {
		t.Errorf("two requests on one connection: got %v", r)
	}
}

func TestStreams(t *testing.T) {
	g := Start(t, Config{Caddyfile: bare})
	for _, protocol := range Protocols {
		client, url := g.Client(t, protocol)
		ctx, cancel := context.WithCancel(t.Context())
		request, _ := http.NewRequestWithContext(ctx, "GET", url+"/sse", nil)
		response, err := client.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(response.Body, make([]byte, 100)); err != nil {
			t.Errorf("%v: events: %v", protocol, err)
		}
		cancel()
		if response, err = client.Get(url + "/download?bytes=1000000"); err != nil {
			t.Fatal(err)
		}
		if n, err := io.Copy(io.Discard, response.Body); n != 1000000 || err != nil {
			t.Errorf("%v: download of %d bytes, %v", protocol, n, err)
		}
	}
	c, _, err := websocket.Dial(t.Context(), g.URL+"/ws", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.CloseNow()
	c.Write(t.Context(), websocket.MessageText, []byte("hello"))
	if _, message, err := c.Read(t.Context()); string(message) != "hello" {
		t.Errorf("WebSocket: %q, %v", message, err)
	}
}

func TestStopKillRestartReload(t *testing.T) {
	for _, socket := range []bool{false, true} {
		g := Start(t, Config{Caddyfile: bare, AdminSocket: socket})
		g.Restart(t)
		g.Kill()
		g.Start(t)
		if r := g.Reload(t, Config{Caddyfile: strings.ReplaceAll(bare,
			"reverse_proxy {$GATE_UPSTREAM}", "respond changed")}); r.Exit != 0 {
			t.Error(r)
		}
		if r := g.Get(t, "/", ""); string(r.Body) != "changed" {
			t.Errorf("after a reload: %v", r)
		}
		if r := g.Reload(t, Config{Caddyfile: "no such { directive"}); r.Exit == 0 {
			t.Error("a bad Caddyfile was loaded")
		}
	}
}

// recordingT records the errors of a test.
type recordingT struct {
	testing.TB
	errors []string
}

func (r *recordingT) Errorf(format string, args ...any) {
	r.errors = append(r.errors, fmt.Sprintf(format, args...))
}

func TestLeaksAreFoundAndNotShown(t *testing.T) {
	g := Start(t, Config{Caddyfile: strings.ReplaceAll(bare, "reverse_proxy",
		"log\nreverse_proxy")})
	token := "ak_" + strings.Repeat("leak", 15)[:58]
	g.Get(t, "/?in_the_log="+token, "")
	Until(t, "the access log has the request",
		func() bool { return strings.Contains(g.Output(), "in_the_log") })
	defer func() { // so that other tests do not search for the token of this one
		watched.Lock()
		defer watched.Unlock()
		delete(watched.tokens, token)
	}()
	watchAll("token: " + token + "\n")
	r := &recordingT{TB: t}
	g.finish(r)
	if len(r.errors) != 1 {
		t.Errorf("want one error, got %d", len(r.errors))
	}
	for _, text := range append(r.errors,
		fmt.Sprintf("%v %#v %s %q", Token(token), Token(token), Token(token), Token(token)),
		Response{Body: []byte(token)}.String()) {
		if strings.Contains(text, token) {
			t.Error("a failure message shows a token")
		}
	}
}
