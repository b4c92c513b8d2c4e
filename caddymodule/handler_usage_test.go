package caddymodule

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/node"
)

// usageLog is a database that keeps the usage that it receives.
type usageLog struct {
	keystore.Database
	mu   sync.Mutex
	rows []keystore.UsageRow
}

func (db *usageLog) AddUsage(_ context.Context, b keystore.UsageBatch) error {
	db.mu.Lock()
	defer db.mu.Unlock()
	db.rows = append(db.rows, b.Rows...)
	return nil
}

// A usageFixture is a fixture whose usage can be read.
type usageFixture struct {
	*fixture
	log     *usageLog
	running *sync.WaitGroup // requests of sites
}

func newUsageFixture(t testing.TB) usageFixture {
	log := new(usageLog)
	return usageFixture{newFixtureOn(t, func(db keystore.Database) keystore.Database {
		log.Database = db
		return log
	}), log, new(sync.WaitGroup)}
}

// usage closes the key store and returns the usage of a key by operation and outcome. Latencies are
// only counted.
func (h usageFixture) usage(id string) map[string]keystore.UsageCounts {
	h.t.Helper()
	h.running.Wait()
	h.close()
	found := make(map[string]keystore.UsageCounts)
	for _, row := range h.log.rows {
		if row.Key != id {
			continue
		}
		counts := row.UsageCounts
		responses, timed := int64(0), int64(0)
		for _, n := range counts.Status {
			responses += n
		}
		for _, n := range counts.Latency {
			timed += n
		}
		if responses != timed {
			h.t.Errorf("%d responses, but %d with a duration", responses, timed)
		}
		counts.Latency = [6]int64{}
		name := row.Operation + " " + row.Outcome.String()
		sum := found[name]
		sum.Add(&counts)
		found[name] = sum
	}
	return found
}

// check compares the usage of a key with the expected one.
func (h usageFixture) check(id string, want map[string]keystore.UsageCounts) {
	h.t.Helper()
	if got := h.usage(id); !maps.Equal(got, want) {
		h.t.Errorf("counted %+v,\nwant    %+v", got, want)
	}
}

// used returns the usage of one allowed request with a status class, or none if it is 0.
func used(class int, in, out int64) keystore.UsageCounts {
	c := keystore.UsageCounts{Requests: 1, Units: 1, BytesIn: in, BytesOut: out}
	if class > 0 {
		c.Status[class-1] = 1
	}
	return c
}

var refusedOnce = keystore.UsageCounts{Requests: 1}

// usageSite serves a handler with an API, over HTTP/1 and HTTP/2. Like Caddy, it answers errors that
// handlers return.
func (h usageFixture) usageSite(handler caddyhttp.MiddlewareHandler, api caddyhttp.HandlerFunc,
) *httptest.Server {
	site := httptest.NewUnstartedServer(http.HandlerFunc(
		func(w http.ResponseWriter, r *http.Request) {
			h.running.Add(1)
			defer h.running.Done()
			r = caddyhttp.PrepareRequest(r, caddy.NewReplacer(), w, nil)
			if err := handler.ServeHTTP(w, r, api); err != nil {
				var e caddyhttp.HandlerError
				errors.As(err, &e)
				w.WriteHeader(cmp.Or(e.StatusCode, http.StatusInternalServerError))
				_, _ = io.WriteString(w, "an error page")
			}
		}))
	site.Config.ConnContext = withConn
	site.EnableHTTP2 = true
	site.StartTLS()
	h.t.Cleanup(site.Close)
	return site
}

// TestUsageOfResponses checks what is counted of the responses of an API.
func TestUsageOfResponses(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, make([]byte, 100_000), 0o600); err != nil {
		t.Fatal(err)
	}
	read := func(r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }
	for _, test := range []struct {
		name, method, body string
		api                func(w http.ResponseWriter, r *http.Request) error
		want               keystore.UsageCounts
	}{
		{"nothing is written", "GET", "", func(http.ResponseWriter, *http.Request) error {
			return nil
		}, used(2, 0, 0)},
		{"the status is implicit", "GET", "", func(w http.ResponseWriter, _ *http.Request) error {
			_, _ = io.WriteString(w, "hello")
			return nil
		}, used(2, 0, 5)},
		{"a body in both directions", "POST", "question",
			func(w http.ResponseWriter, r *http.Request) error {
				read(r)
				w.WriteHeader(http.StatusCreated)
				_, _ = io.WriteString(w, "answer")
				return nil
			}, used(2, 8, 6)},
		{"a part of the body is read", "POST", "question",
			func(w http.ResponseWriter, r *http.Request) error {
				_, _ = io.ReadFull(r.Body, make([]byte, 3))
				w.WriteHeader(http.StatusConflict)
				return nil
			}, used(4, 3, 0)},
		{"HEAD", "HEAD", "", func(w http.ResponseWriter, _ *http.Request) error {
			_, _ = io.WriteString(w, "not sent")
			return nil
		}, used(2, 0, 0)},
		{"204", "DELETE", "", func(w http.ResponseWriter, _ *http.Request) error {
			w.WriteHeader(http.StatusNoContent)
			_, _ = io.WriteString(w, "not sent")
			return nil
		}, used(2, 0, 0)},
		{"304", "GET", "", func(w http.ResponseWriter, _ *http.Request) error {
			w.WriteHeader(http.StatusNotModified)
			return nil
		}, used(3, 0, 0)},
		{"1xx first", "GET", "", func(w http.ResponseWriter, _ *http.Request) error {
			w.WriteHeader(http.StatusEarlyHints)
			w.WriteHeader(http.StatusInternalServerError)
			return nil
		}, used(5, 0, 0)},
		{"a file", "GET", "", func(w http.ResponseWriter, r *http.Request) error {
			http.ServeFile(w, r, file)
			return nil
		}, used(2, 0, 100_000)},
		{"copied", "GET", "", func(w http.ResponseWriter, _ *http.Request) error {
			_, _ = io.Copy(w, io.LimitReader(zeros{}, 70_000))
			return nil
		}, used(2, 0, 70_000)},
		{"a stream", "GET", "", func(w http.ResponseWriter, _ *http.Request) error {
			for range 3 {
				_, _ = io.WriteString(w, "data: x\n\n")
				if err := http.NewResponseController(w).Flush(); err != nil {
					t.Error(err)
				}
			}
			return nil
		}, used(2, 0, 27)},
		{"only flushed", "GET", "", func(w http.ResponseWriter, _ *http.Request) error {
			w.(http.Flusher).Flush()
			return errBadGateway
		}, used(2, 0, 0)},
		{"a bad gateway", "GET", "", func(http.ResponseWriter, *http.Request) error {
			return fmt.Errorf("wrapped: %w", errBadGateway)
		}, used(5, 0, 0)},
		{"any other error", "GET", "", func(http.ResponseWriter, *http.Request) error {
			return caddyhttp.Error(0, io.ErrUnexpectedEOF)
		}, used(5, 0, 0)},
		{"a panic before the status", "GET", "", func(http.ResponseWriter, *http.Request) error {
			panic(http.ErrAbortHandler)
		}, used(0, 0, 0)},
		{"a panic in mid-stream", "GET", "", func(w http.ResponseWriter, _ *http.Request) error {
			_, _ = io.WriteString(w, "begun")
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}, used(2, 0, 5)},
	} {
		for _, protocol := range []string{"http/1.1", "h2"} {
			t.Run(test.name+" "+protocol, func(t *testing.T) {
				h := newUsageFixture(t)
				key, token := h.key("read write")
				site := h.usageSite(h.handler("namespace acme"), test.api)
				client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true,
					ForceAttemptHTTP2: protocol == "h2",
					TLSClientConfig: &tls.Config{InsecureSkipVerify: true,
						NextProtos: []string{protocol}}}}
				r, err := http.NewRequestWithContext(t.Context(), test.method, site.URL,
					strings.NewReader(test.body))
				if err != nil {
					t.Fatal(err)
				}
				r.Header.Set("Authorization", "Bearer "+token)
				if res, err := client.Do(r); err == nil {
					_, _ = io.Copy(io.Discard, res.Body)
					_ = res.Body.Close()
				}
				site.Close() // waits for the handler
				operation := "read ok"
				if test.method == "POST" || test.method == "DELETE" {
					operation = "write ok"
				}
				h.check(key.ID, map[string]keystore.UsageCounts{operation: test.want})
			})
		}
	}
}

// zeros is an endless body without WriteTo.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// readFromWriter notes what ReadFrom receives, as the server does to decide on sendfile.
type readFromWriter struct {
	discard
	from io.Reader
}

func (w *readFromWriter) ReadFrom(r io.Reader) (int64, error) {
	w.from = r
	return io.Copy(io.Discard, r)
}

// TestUsageKeepsSendfile checks that the server's writer receives the file itself.
func TestUsageKeepsSendfile(t *testing.T) {
	h := newUsageFixture(t)
	key, token := h.key("read")
	handler := h.handler("namespace acme")
	source := bytes.NewReader(make([]byte, 1000))
	w := &readFromWriter{discard: discard{make(http.Header)}}
	r := caddyhttp.PrepareRequest(wireRequest(t, "GET /"+keyLine(token)), caddy.NewReplacer(), w,
		nil)
	if err := handler.ServeHTTP(w, r, caddyhttp.HandlerFunc(
		func(w http.ResponseWriter, _ *http.Request) error {
			_, err := w.(io.ReaderFrom).ReadFrom(source)
			return err
		})); err != nil {
		t.Fatal(err)
	}
	if w.from != source {
		t.Errorf("the server's writer reads from a %T", w.from)
	}
	h.check(key.ID, map[string]keystore.UsageCounts{"read ok": used(2, 0, 1000)})
}

// TestUsageOfWebSocket checks that a tunnel counts in both directions, also what the client has sent
// early, and that a revoke ends it.
func TestUsageOfWebSocket(t *testing.T) {
	for _, early := range []string{"", "early"} {
		t.Run(early, func(t *testing.T) {
			h := newUsageFixture(t)
			key, token := h.key("read")
			received := make(chan string, 1)
			site := h.usageSite(h.handler("namespace acme"),
				func(w http.ResponseWriter, _ *http.Request) error {
					w.Header().Set("Connection", "Upgrade")
					w.WriteHeader(http.StatusSwitchingProtocols)
					conn, buffered, err := http.NewResponseController(w).Hijack()
					if err != nil {
						return err
					}
					defer func() { _ = conn.Close() }()
					message := make([]byte, len(early)+len("late"))
					if buffered.Reader.Buffered() == 0 {
						_, err = io.ReadFull(conn, message)
					} else {
						_, err = io.ReadFull(buffered, message)
					}
					received <- string(message)
					_, _ = io.WriteString(conn, "one")
					_, _ = io.WriteString(buffered, "three")
					_ = buffered.Flush()
					_, _ = io.Copy(io.Discard, conn) // until the end
					return err
				})
			conn, err := tls.Dial("tcp", site.Listener.Addr().String(),
				&tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}})
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = conn.Close() }()
			_, _ = fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\n"+
				"Upgrade: websocket\r\nAuthorization: Bearer %s\r\n\r\n%s", token, early)
			reader := bufio.NewReader(conn)
			res, err := http.ReadResponse(reader, nil)
			if err != nil || res.StatusCode != http.StatusSwitchingProtocols {
				t.Fatal(res, err)
			}
			_, _ = io.WriteString(conn, "late")
			if got := <-received; got != early+"late" {
				t.Errorf("received %q", got)
			}
			if _, err := io.ReadFull(reader, make([]byte, len("onethree"))); err != nil {
				t.Fatal(err)
			}
			revoke(t, h.keys, key.ID)
			_, _ = io.Copy(io.Discard, reader)
			site.Close()
			h.check(key.ID, map[string]keystore.UsageCounts{
				"read ok": used(1, int64(len(early+"late")), int64(len("onethree")))})
		})
	}
}

// TestUsageKeepsHalfClose checks that a tunnel can end in one direction and continue in the other.
func TestUsageKeepsHalfClose(t *testing.T) {
	for _, half := range []bool{true, false} {
		t.Run(fmt.Sprint(half), func(t *testing.T) {
			client, server := net.Pipe()
			defer func() { _ = client.Close() }()
			conn := &halfClosed{Conn: server}
			w := &countingWriter{body: new(countingBody)}
			if w.ResponseWriter = (hijackable{conn: server}); half {
				w.ResponseWriter = hijackable{conn: conn}
			}
			hijacked, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Fatal(err)
			}
			closer, ok := hijacked.(interface{ CloseWrite() error })
			if ok != half {
				t.Fatalf("CloseWrite: %v", ok)
			}
			if half && (closer.CloseWrite() != nil || !conn.closed) {
				t.Error("the connection is not closed")
			}
		})
	}
}

type halfClosed struct {
	net.Conn
	closed bool
}

func (c *halfClosed) CloseWrite() error {
	c.closed = true
	return nil
}

type hijackable struct {
	http.ResponseWriter
	conn net.Conn
}

func (h hijackable) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return h.conn, bufio.NewReadWriter(bufio.NewReader(h.conn), bufio.NewWriter(h.conn)), nil
}

// TestUsageOfCutRequests checks what is counted of requests that a revoke or the client has ended.
func TestUsageOfCutRequests(t *testing.T) {
	for _, test := range []struct {
		name  string
		begun bool // whether the response has begun
		want  keystore.UsageCounts
	}{
		{"before the response", false, used(0, 0, 0)},
		{"in mid-stream", true, used(2, 0, 5)},
	} {
		for _, byRevoke := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, by a revoke: %v", test.name, byRevoke), func(t *testing.T) {
				h := newUsageFixture(t)
				key, token := h.key("read")
				began := make(chan bool)
				site := h.usageSite(h.handler("namespace acme"),
					func(w http.ResponseWriter, r *http.Request) error {
						if test.begun {
							_, _ = io.WriteString(w, "begun")
							_ = http.NewResponseController(w).Flush()
						}
						close(began)
						<-r.Context().Done()
						w.WriteHeader(499) // as reverse_proxy does
						return nil
					})
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				r, err := http.NewRequestWithContext(ctx, http.MethodGet, site.URL, http.NoBody)
				if err != nil {
					t.Fatal(err)
				}
				r.Header.Set("Authorization", "Bearer "+token)
				h.running.Go(func() {
					if res, err := site.Client().Do(r); err == nil {
						_, _ = io.Copy(io.Discard, res.Body)
						_ = res.Body.Close()
					}
				})
				<-began
				if byRevoke {
					revoke(t, h.keys, key.ID)
				} else {
					cancel()
				}
				h.check(key.ID, map[string]keystore.UsageCounts{"read ok": test.want})
			})
		}
	}
}

// TestUsageOfDecisions checks which requests count, and how often.
func TestUsageOfDecisions(t *testing.T) {
	const options = "namespace acme\noperation orders:list read GET /orders\n" +
		"operation orders:export read GET /export {\ncost 30\n}\n"
	for _, test := range []struct {
		name, options, wire string
		inner               string // options of another handler, after the first one
		errors              string // options of another handler in handle_errors
		change              func(*manage.KeySpec)
		revoked             bool
		want                map[string]keystore.UsageCounts
	}{
		{name: "an operation", options: options, wire: "GET /orders",
			want: map[string]keystore.UsageCounts{"orders:list ok": used(2, 0, 0)}},
		{name: "its cost", options: options, wire: "GET /export",
			want: map[string]keystore.UsageCounts{
				"orders:export ok": {Requests: 1, Units: 30, Status: [5]int64{1: 1}}}},
		{name: "a resource", options: "namespace acme\nresource orders", wire: "GET /x",
			want: map[string]keystore.UsageCounts{"orders:read ok": used(2, 0, 0)}},
		{name: "forbidden", options: options, wire: "POST /x",
			want: map[string]keystore.UsageCounts{"write forbidden": refusedOnce}},
		{name: "no operation", options: options + "strict", wire: "GET /x",
			want: map[string]keystore.UsageCounts{" forbidden": refusedOnce}},
		{name: "revoked", options: options, wire: "GET /orders", revoked: true,
			want: map[string]keystore.UsageCounts{"orders:list revoked": refusedOnce}},
		{name: "public", options: options + "public /x", wire: "GET /x"},
		{name: "a refusal before the lookup", options: options, wire: "FOO /x"},
		{name: "other targets", options: options + "also_judge read X-Copy-Source",
			wire: "GET /x\nX-Copy-Source: /orders",
			want: map[string]keystore.UsageCounts{"read ok": used(2, 0, 0), "orders:list ok": {}}},
		{name: "a refused target", options: options + "also_judge write X-Copy-Source",
			wire: "GET /x\nX-Copy-Source: /x",
			want: map[string]keystore.UsageCounts{"write forbidden": refusedOnce}},
		{name: "two handlers", options: options, inner: "namespace acme\nresource orders",
			wire: "GET /orders",
			want: map[string]keystore.UsageCounts{"orders:list ok": used(2, 0, 0)}},
		{name: "the second one refuses", options: options, inner: "namespace globex",
			wire: "GET /orders",
			want: map[string]keystore.UsageCounts{"read forbidden": refusedOnce}},
		{name: "the first one is public", options: "public /**", inner: options,
			wire: "GET /orders",
			want: map[string]keystore.UsageCounts{"orders:list ok": used(2, 0, 0)}},
		{name: "the second one is public", options: options, inner: "public /**",
			wire: "GET /orders",
			want: map[string]keystore.UsageCounts{"orders:list ok": used(2, 0, 0)}},
		{name: "an error route after an error of the API", options: options,
			errors: "namespace acme", wire: "GET /orders",
			want: map[string]keystore.UsageCounts{"orders:list ok": used(5, 0, 0)}},
		{name: "an error route after a refusal", options: options + "errors caddy",
			errors: "namespace acme", wire: "POST /orders",
			want: map[string]keystore.UsageCounts{"write forbidden": refusedOnce}},
		{name: "forwarded", options: options + "forwarded",
			wire: "GET /check\nX-Forwarded-Method: GET\nX-Forwarded-Uri: /export",
			want: map[string]keystore.UsageCounts{"orders:export ok": {Requests: 1, Units: 30}}},
		{name: "forwarded and refused", options: options + "forwarded",
			wire: "GET /check\nX-Forwarded-Method: POST\nX-Forwarded-Uri: /x",
			want: map[string]keystore.UsageCounts{"write forbidden": refusedOnce}},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := newUsageFixture(t)
			key, token := h.key("read")
			if test.revoked {
				revoke(t, h.keys, key.ID)
			}
			var handler caddyhttp.MiddlewareHandler = h.handler(test.options)
			if test.inner != "" {
				handler = nest{handler, h.handler(test.inner)}
			}
			if test.errors != "" {
				handler = errorRoute{first: handler, second: h.handler(test.errors), failing: true}
			}
			h.send(handler, test.wire+keyLine(token), trustedPeer)
			if test.want == nil {
				test.want = map[string]keystore.UsageCounts{}
			}
			h.check(key.ID, test.want)
		})
	}
}

// TestUsageOfLimits checks the outcome of limited requests, and units that a response reports.
func TestUsageOfLimits(t *testing.T) {
	h := newUsageFixture(t)
	key, token := h.key("read")
	free, unlimited := h.key("read")
	h.limit(key.ID, keystore.Limits{Rate: daily(1)}, keystore.Limits{})
	handler := h.handler("namespace acme\ncharge X-Usage-Units")
	site := h.usageSite(handler, func(w http.ResponseWriter, _ *http.Request) error {
		w.Header().Set("X-Usage-Units", "40")
		return nil
	})
	for _, token := range []string{token, token, unlimited} {
		fetch(t, site, "/", token, nil)
	}
	charged := used(2, 0, 0)
	charged.Units = 40
	h.check(key.ID, map[string]keystore.UsageCounts{"read ok": charged, "read limited": refusedOnce})
	h.check(free.ID, map[string]keystore.UsageCounts{"read ok": charged})
}

// firstOrElse is a handler with another one in an error route.
type firstOrElse struct{ first, other caddyhttp.MiddlewareHandler }

func (f firstOrElse) ServeHTTP(
	w http.ResponseWriter, r *http.Request, next caddyhttp.Handler,
) error {
	if err := f.first.ServeHTTP(w, r, next); err != nil {
		return f.other.ServeHTTP(w, r, next)
	}
	return nil
}

// TestUsageOfRefusalAfterWait checks that a request whose key is revoked while it waits for units
// uses no units, and that another key which then accepts it is charged.
func TestUsageOfRefusalAfterWait(t *testing.T) {
	h := newUsageFixture(t)
	first := h.handler("namespace acme\nfrom bearer\nerrors caddy\n" +
		"operation orders:export read GET /export {\ncost 1000\n}")
	other := h.handler("namespace acme\nfrom header X-API-Key")
	key, token := h.key("read")
	h.limit(key.ID, keystore.Limits{Quota: monthly(100_000)}, keystore.Limits{})
	otherToken := h.limitedKey(daily(2), keystore.Quota{})
	otherLine := "\nX-API-Key: " + otherToken
	// These wait for their keys. The next request waits only for the quota.
	h.send(first, "GET /"+keyLine(token))
	h.send(other, "GET /"+otherLine)
	conn, peer := net.Pipe()
	defer peer.Close()
	a := h.send(firstOrElse{first, other}, "GET /export"+keyLine(token)+otherLine,
		func(r *http.Request) {
			*r = *r.WithContext(withConn(waitingContext{r.Context(), sync.OnceFunc(func() {
				revoke(t, h.keys, key.ID)
			})}, conn))
		})
	if a.err != nil || a.outcome() != "ok" || a.seen == nil {
		t.Errorf("%v, outcome %s", a.err, a.outcome())
	}
	if got := h.send(other, "GET /"+otherLine).outcome(); got != "limited" {
		t.Errorf("%s: the other key was not charged", got)
	}
	if got := h.usage(key.ID)["orders:export revoked"]; got != refusedOnce {
		t.Errorf("counted %+v", got)
	}
}

// TestUsageOff checks that nothing is counted and the response is not wrapped.
func TestUsageOff(t *testing.T) {
	h := newUsageFixture(t)
	key, token := h.key("read")
	h.keys.Configure(node.Settings{Usage: node.UsageSettings{Off: true}})
	w := httptest.NewRecorder()
	r := caddyhttp.PrepareRequest(wireRequest(t, "GET /"+keyLine(token)), caddy.NewReplacer(), w,
		nil)
	if err := h.handler("namespace acme").ServeHTTP(w, r, caddyhttp.HandlerFunc(
		func(inner http.ResponseWriter, _ *http.Request) error {
			if inner != w {
				t.Errorf("the response is wrapped in a %T", inner)
			}
			return nil
		})); err != nil {
		t.Fatal(err)
	}
	h.check(key.ID, map[string]keystore.UsageCounts{})
}
