package caddymodule

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"

	_ "github.com/caddyserver/caddy/v2/modules/caddyhttp/encode"

	_ "github.com/caddyserver/caddy/v2/modules/caddyhttp/encode/gzip"

	_ "github.com/caddyserver/caddy/v2/modules/caddyhttp/fileserver"

	_ "github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	_ "github.com/caddyserver/caddy/v2/modules/caddypki"

	_ "github.com/caddyserver/caddy/v2/modules/caddytls"

	_ "github.com/caddyserver/caddy/v2/modules/caddytls/standardstek"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	_ "github.com/caddyserver/caddy/v2/modules/filestorage"
	"github.com/quic-go/quic-go/http3"
)

// A streamer is an upstream whose requests run until one side ends them.
type streamer struct {
	*httptest.Server
	began chan string // receives the path of each started request
	ended chan string // receives the path when the upstream has noticed the end
}

func newStreamer(t *testing.T) *streamer {
	s := &streamer{began: make(chan string, 8), ended: make(chan string, 8)}
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

func (s *streamer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	defer func() { s.ended <- r.URL.Path }()
	switch r.URL.Path {
	case "/events": // silent after the first event
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, "data: hello\n\n")
		_ = http.NewResponseController(w).Flush()
		s.began <- r.URL.Path
		<-r.Context().Done()
	case "/download":
		w.Header().Set("Content-Length", "1099511627776")
		s.began <- r.URL.Path
		chunk := make([]byte, 1<<16)
		for {
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
	case "/upload":
		s.began <- r.URL.Path
		_, _ = io.Copy(io.Discard, r.Body)
	case "/waiting": // no response until the end
		s.began <- r.URL.Path
		<-r.Context().Done()
	case "/websocket":
		conn, buffered, err := http.NewResponseController(w).Hijack()
		if err != nil {
			panic(err)
		}
		defer func() { _ = conn.Close() }()
		_, _ = io.WriteString(conn,
			"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: "+
				"Upgrade\r\n\r\nhello")
		s.began <- r.URL.Path
		_, _ = io.Copy(io.Discard, buffered) // until the other side ends
	}
}

// startSite runs a Caddyfile site with api_key. It returns its address and the key store.
func startSite(
	t *testing.T, g *instance, options, upstream string,
) (addr string, keys *manage.Keystore) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr = listener.Addr().String()
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf("{\n\tadmin unix/%s\n\tpersist_config "+
		"off\n\tskip_install_trust\n\tstorage file_system %s\n\tauto_https "+
		"disable_redirects\n\tapi_keys {\n\t\tdatabase sqlite %s\n\t}\n\tlog {\n\t\toutput "+
		"discard\n\t}\n}\n"+
		"%s {\n\tlog {\n\t\toutput discard\n\t}\n\t%s\n\troute {\n\tencode gzip\n\tapi_key "+
		"{\n\t\tnamespace acme\n%s\n\t}\n\tfile_server /big {\n\t\troot %s\n\t}\n\treverse_proxy "+
		"%s\n}\n}\n",
		g.path("a.sock"), g.path("storage"), g.path("keys.db"), "https://"+addr, "tls internal",
		options, g.dir, strings.TrimPrefix(upstream, "http://"))
	config, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(text), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := caddy.Load(config, true); err != nil {
		t.Fatal(err)
	}
	keys = runningApp().Keystore()
	if keys.Policy().Namespace("acme") == nil {
		if _, err := keys.CreateNamespace(t.Context(), manage.Root("test"),
			keystore.Namespace{ID: "acme", Kind: "account", Name: "acme"}); err != nil {
			t.Fatal(err)
		}
	}
	for deadline := time.Now().Add(atOnce); ; { // Caddy creates the certificate in the background
		conn, err := tls.Dial("tcp", addr, tlsTo(addr, "http/1.1"))
		if err == nil {
			_ = conn.Close()
			return addr, keys
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

func tlsTo(addr string, protocols ...string) *tls.Config {
	host, _, _ := net.SplitHostPort(addr)
	return &tls.Config{InsecureSkipVerify: true, ServerName: host, NextProtos: protocols}
}

// stalledBody sends a few bytes and then blocks until it is closed.
func stalledBody() io.Reader {
	reader, writer := io.Pipe()
	go func() { _, _ = io.WriteString(writer, "first") }()
	return reader
}

// TestRevokeCutsRunningRequests checks that a revoke returns only after all running requests of the
// key have been cut (docs/api_key.md, rule 14).
func TestRevokeCutsRunningRequests(t *testing.T) {
	upstream := newStreamer(t)
	g := newInstance(t)
	addr, keys := startSite(t, g, "", upstream.URL)
	h := &fixture{t: t, keys: keys}
	for _, path := range []string{"/events", "/download", "/upload", "/waiting"} {
		t.Run("HTTP/1.1"+path, func(t *testing.T) {
			key, token := h.key("read write")
			conn := dialSite(t, addr)
			if path == "/upload" {
				_,
					_ = fmt.Fprintf(conn,
					"POST %s HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer "+
						"%s\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n", path, addr, token)
			} else {
				_,
					_ = fmt.Fprintf(conn,
					"GET %s HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\n\r\n", path, addr,
					token)
			}
			awaitPath(t, upstream.began, path)
			revoke(t, keys, key.ID)
			if _, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
				t.Error("the connection is still open")
			}
			awaitPath(t, upstream.ended, path)
		})
		overStreams := func(t *testing.T, transport http.RoundTripper) {
			ctx, cancel := context.WithTimeout(t.Context(), atOnce)
			defer cancel()
			send := func(method, path, token string, body io.Reader) (*http.Response, error) {
				r, err := http.NewRequestWithContext(ctx, method, "https://"+addr+path, body)
				if err != nil {
					t.Fatal(err)
				}
				r.Header.Set("Authorization", "Bearer "+token)
				return transport.RoundTrip(r)
			}
			key, token := h.key("read write")
			streamErr := make(chan error, 1)
			go func() {
				method, body := http.MethodGet, io.Reader(nil)
				if path == "/upload" {
					method, body = http.MethodPost, stalledBody()
				}
				response, err := send(method, path, token, body)
				if err == nil {
					_, err = io.Copy(io.Discard, response.Body)
					_ = response.Body.Close()
				}
				streamErr <- err
			}()
			awaitPath(t, upstream.began, path)
			revoke(t, keys, key.ID)
			if err := <-streamErr; err == nil || errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("the stream was not reset: %v", err)
			}
			awaitPath(t, upstream.ended, path)

			_, other := h.key("read") // the connection stays open
			kept := true
			ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
				GotConn: func(info httptrace.GotConnInfo) { kept = info.Reused }})
			response, err := send(http.MethodGet, "/", other, nil)
			if err != nil {
				t.Fatal(err)
			}
			_ = response.Body.Close()
			// The transport of http3 drops the connection itself.
			if _, ours := transport.(*http.Transport); ours && !kept {
				t.Error("the connection was closed")
			}
			awaitPath(t, upstream.ended, "/")
		}
		t.Run("HTTP/2"+path, func(t *testing.T) {
			transport := &http.Transport{TLSClientConfig: tlsTo(addr, "h2"),
				ForceAttemptHTTP2: true}
			defer transport.CloseIdleConnections()
			overStreams(t, transport)
		})
		t.Run("HTTP/3"+path, func(t *testing.T) {
			transport := &http3.Transport{TLSClientConfig: tlsTo(addr)}
			defer func() { _ = transport.Close() }()
			overStreams(t, transport)
		})
	}
}

// atOnce is how long a test waits for an immediate event. Only a failure takes that long.
const atOnce = 30 * time.Second

func dialSite(t *testing.T, addr string) net.Conn {
	t.Helper()
	conn, err := tls.Dial("tcp", addr, tlsTo(addr, "http/1.1"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(atOnce)); err != nil {
		t.Fatal(err)
	}
	return conn
}

// TestRevokeCutsFileServer checks a handler that ignores the context, Caddy's file_server.
func TestRevokeCutsFileServer(t *testing.T) {
	g := newInstance(t)
	addr, keys := startSite(t, g, "", "127.0.0.1:1")
	file, err := os.Create(g.path("big"))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(file.Truncate(1<<40), file.Close()); err != nil { // sparse
		t.Fatal(err)
	}
	for name, transport := range map[string]http.RoundTripper{
		"HTTP/1.1": &http.Transport{TLSClientConfig: tlsTo(addr, "http/1.1")},
		"HTTP/2":   &http.Transport{TLSClientConfig: tlsTo(addr, "h2"), ForceAttemptHTTP2: true},
		"HTTP/3":   &http3.Transport{TLSClientConfig: tlsTo(addr)},
	} {
		t.Run(name, func(t *testing.T) {
			key, token := (&fixture{t: t, keys: keys}).key("read")
			ctx, cancel := context.WithTimeout(t.Context(), atOnce)
			defer cancel()
			r, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+addr+"/big", nil)
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("Authorization", "Bearer "+token)
			response, err := transport.RoundTrip(r)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = response.Body.Close() }()
			if _,
				err := io.ReadFull(response.Body, make([]byte, 1<<20)); err != nil ||
				response.StatusCode != http.StatusOK {
				t.Fatal(response.StatusCode, err)
			}
			revoke(t, keys, key.ID)
			if _,
				err := io.Copy(io.Discard, response.Body); err == nil ||
				errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("the download continues: %v", err)
			}
		})
	}
}

func TestRevokeCutsWebSockets(t *testing.T) {
	upstream := newStreamer(t)
	g := newInstance(t)
	addr, keys := startSite(t, g, "", upstream.URL)
	key, token := (&fixture{t: t, keys: keys}).key("read")

	conn := dialSite(t, addr)
	_, _ = fmt.Fprintf(conn,
		"GET /websocket HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: "+
			"websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: "+
			"dGhlIHNhbXBsZSBub25jZQ==\r\nAuthorization: Bearer %s\r\n\r\n", addr, token)
	reader := bufio.NewReader(conn)
	response, err := http.ReadResponse(reader, nil)
	if err != nil || response.StatusCode != http.StatusSwitchingProtocols {
		t.Fatal(response, err)
	}
	if _, err := io.ReadFull(reader, make([]byte, len("hello"))); err != nil {
		t.Fatal(err)
	}
	awaitPath(t, upstream.began, "/websocket")
	revoke(t, keys, key.ID)
	if _, err := reader.ReadByte(); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the client still reads: %v", err)
	}
	awaitPath(t, upstream.ended, "/websocket")
}

// TestRevokeCutsStalledDownload checks a handler that is blocked in a write because the client does
// not read.
func TestRevokeCutsStalledDownload(t *testing.T) {
	upstream := newStreamer(t)
	g := newInstance(t)
	addr, keys := startSite(t, g, "", upstream.URL)
	key, token := (&fixture{t: t, keys: keys}).key("read")
	conn := dialSite(t, addr)
	_, _ = fmt.Fprintf(conn,
		"GET /download HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\n\r\n", addr, token)
	awaitPath(t, upstream.began, "/download")
	revoke(t, keys, key.ID)
	awaitPath(t, upstream.ended, "/download")
}

func revoke(t *testing.T, keys *manage.Keystore, id string) {
	t.Helper()
	_, propagation, err := keys.RevokeKey(t.Context(), manage.Root("test"), id, "test", false,
		manage.ChangeOptions{Wait: 10 * time.Second})
	if err != nil || !propagation.Complete {
		encoded, _ := json.Marshal(propagation)
		t.Fatalf("%s %v", encoded, err)
	}
}

func awaitPath(t *testing.T, paths <-chan string, want string) {
	t.Helper()
	select {
	case got := <-paths:
		if got != want {
			t.Fatalf("%s, want %s", got, want)
		}
	case <-time.After(atOnce):
		t.Fatalf("waiting for %s", want)
	}
}
