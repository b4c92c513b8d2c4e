package durability

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

// site returns the n-th configuration. Caddy closes WebSockets at a reload unless
// stream_close_delay is set. They have a proxy of their own, because Caddy 2.11.9 has a data race
// between a reload and requests through a proxy with stream_close_delay (connectionsCloseTimer in
// reverseproxy/streaming.go).
func site(n int) string {
	return fmt.Sprintf(`api_key
		header Config %d
		reverse_proxy /ws {$GATE_UPSTREAM} {
			stream_close_delay 10m
		}
		reverse_proxy {$GATE_UPSTREAM}`, n)
}

func webSocket(t *testing.T, g *gate.Gate, token gate.Token) *websocket.Conn {
	t.Helper()
	c, answer, err := websocket.Dial(t.Context(), g.URL+"/ws",
		&websocket.DialOptions{HTTPHeader: map[string][]string{"Authorization": {"Bearer " +
			string(token)}}})
	if err != nil {
		t.Fatal(err, answer)
	}
	t.Cleanup(func() { c.CloseNow() })
	return c
}

func echo(t *testing.T, c *websocket.Conn, text string) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := c.Write(ctx, websocket.MessageText, []byte(text)); err != nil {
		return err
	}
	_, got, err := c.Read(ctx)
	if err == nil && string(got) != text {
		err = fmt.Errorf("sent %q, received %q", text, got)
	}
	return err
}

// TestReload checks that two reloads under load keep cached keys, metrics and running requests.
func TestReload(t *testing.T) {
	t.Parallel()
	g := gate.Start(t, gate.Config{Site: site(0)})
	warm := g.Mint(t, gate.JSON{"name": "warm", "access": "read_only"})
	open := g.Mint(t, gate.JSON{"name": "open", "access": "read_only"})
	client, url := g.Client(t, gate.HTTP1)
	socket := webSocket(t, g, open.Token)
	requests := func() float64 { return g.Metric(t, "caddy_apikeys_requests_total", "outcome=ok") }
	lookups := func() float64 { return g.Metric(t, "caddy_apikeys_lookups_total", "tier=database") }
	g.Get(t, "/", warm.Token)
	counted, asked := requests(), lookups()
	if counted != 2 || asked != 2 {
		t.Fatalf("before: %v requests, %v look-ups in the database, want 2 and 2", counted, asked)
	}

	var sent atomic.Int64
	ctx, cancel := context.WithCancel(t.Context())
	var load sync.WaitGroup
	for range 2 {
		load.Go(func() {
			for ctx.Err() == nil {
				got := gate.Ask(t.Context(), client, url+"/", warm.Token)
				if errors.Is(got.Err, io.EOF) || errors.Is(got.Err, syscall.ECONNRESET) {
					// Caddy closes idle connections when it reloads; this one was about to be used.
					continue
				}
				sent.Add(1)
				if got.Status != 200 {
					t.Errorf("during a reload: %v %v", got, got.Err)
					return
				}
			}
		})
	}
	for n := 1; n <= 2; n++ {
		if r := g.Reload(t, gate.Config{Site: site(n),
			APIKeys: fmt.Sprintf("local_cache %d", 1000*n)}); r.Exit != 0 {
			t.Fatal(r)
		}
		if got := gate.Ask(t.Context(), client, url+"/",
			warm.Token); got.Header.Get("Config") != fmt.Sprint(n) {
			t.Errorf("after reload %d: %v", n, got)
		}
		sent.Add(1)
		if err := echo(t, socket, "still there"); err != nil {
			t.Errorf("the WebSocket after reload %d: %v", n, err)
		}
	}
	cancel()
	load.Wait()
	if got, want := requests(), counted+float64(sent.Load()); got != want {
		t.Errorf("%v requests counted over two reloads, want %v", got, want)
	}
	if got := lookups(); got != asked {
		t.Errorf("%v look-ups in the database for a key that was cached", got-asked)
	}

	// A request that a former configuration accepted is cut as well.
	g.Revoke(t, open.ID)
	if err := echo(t, socket, "cut"); err == nil || strings.Contains(err.Error(), "deadline") {
		t.Errorf("the WebSocket of a revoked key is still open: %v", err)
	}
}

// TestFailedReload checks that a configuration that fails to load changes nothing.
func TestFailedReload(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	good := gate.Config{Site: site(0)}
	g := gate.Start(t, good)
	k := g.Mint(t, gate.JSON{"name": "k", "access": "read_only"})
	socket := webSocket(t, g, k.Token)
	g.Get(t, "/", k.Token)
	asked := g.Metric(t, "caddy_apikeys_lookups_total", "tier=database")

	bad := func(options string, also string) gate.Config {
		c := gate.Config{Site: site(1), APIKeys: options}
		c.Caddyfile = c.Text() + also
		return c
	}
	occupied := "\nhttp://:" + port(taken) + " {\n\tbind 127.0.0.1\n\trespond no\n}\n"
	for _, row := range []struct {
		name   string
		config gate.Config
		says   string
	}{
		{"no Caddyfile", gate.Config{Caddyfile: "no such { directive"}, "directive"},
		{"an unknown word", gate.Config{APIKey: "form bearer"}, "unknown option"},
		{"a wrong token key", bad("token_key "+strings.Repeat("0f", 32), ""),
			"token_key"},
		{"a module that does not provision",
			bad("token_prefix zz\nabandon_prefix ak",
				"\nhttp://:0 {\n\troot {nothing\n\ttls internal {\n\t\tca none\n\t}\n}\n"), ""},
		// apps start in random order
		{"a later app that does not start",
			bad("token_prefix zz\nabandon_prefix ak\nlocal_cache 1", occupied),
			"address already in use"},
		{"the same", bad("token_prefix zz\nabandon_prefix ak\nlocal_cache 1", occupied),
			"address already in use"},
		{"the same", bad("token_prefix zz\nabandon_prefix ak\nlocal_cache 1", occupied),
			"address already in use"},
		{"the same, on another database",
			bad("token_prefix zz\ndatabase sqlite {$GATE_DIR}/other.db", occupied),
			"address already in use"},
		{"a prefix of live keys that is not accepted", bad("token_prefix zz", ""), "ak (1)"},
		{"a file that is not a database", bad("database sqlite {$GATE_DIR}/Caddyfile", ""),
			"not an SQLite database"},
	} {
		r := g.Reload(t, row.config)
		if r.Exit == 0 || !strings.Contains(r.Stderr+g.Output(), row.says) {
			t.Errorf("%s: want a failure that says %q, got %v", row.name, row.says, r)
		}
		if got := g.Get(t, "/", k.Token); got.Status != 200 || got.Header.Get("Config") != "0" {
			t.Errorf("after %s: %v", row.name, got)
		}
		if err := echo(t, socket, "still there"); err != nil {
			t.Errorf("the WebSocket after %s: %v", row.name, err)
		}
		if got := g.Metric(t, "caddy_apikeys_lookups_total", "tier=database"); got != asked {
			t.Errorf("after %s, a cached key was looked up in the database", row.name)
		}
		fresh := g.Mint(t, gate.JSON{"name": row.name, "access": "read_only"})
		if !strings.HasPrefix(string(fresh.Token), "ak_") {
			t.Errorf("after %s, tokens have the prefix of the configuration that failed", row.name)
		}
		if got := g.Get(t, "/", fresh.Token); got.Status != 200 {
			t.Errorf("after %s, a new key: %v", row.name, got)
		}
		g.Revoke(t, fresh.ID)
		if got := g.Get(t, "/", fresh.Token); got.Code() != "key_revoked" {
			t.Errorf("after %s, a revoked key: %v", row.name, got)
		}
		asked = g.Metric(t, "caddy_apikeys_lookups_total", "tier=database")
	}
	if r := g.Reload(t, gate.Config{Site: site(2)}); r.Exit != 0 {
		t.Errorf("a valid configuration after the failed ones: %v", r)
	}
	if got := g.Get(t, "/", k.Token); got.Status != 200 || got.Header.Get("Config") != "2" {
		t.Error(got)
	}
}

func port(l net.Listener) string {
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}
