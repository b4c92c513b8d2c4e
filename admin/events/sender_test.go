package events

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// TestSign has the example of the specification:
// https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
func TestSign(t *testing.T) {
	s := newSender(&Webhook{Secrets: []string{testSecret, testSecret}})
	got := s.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", []byte(`{"test": 2432232314}`))
	const want = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
	if got != want+" "+want {
		t.Errorf("signature %s, want twice %s", got, want)
	}
}

// sendTo sends a message to a server and returns the results of [sender.send].
func sendTo(t *testing.T, w Webhook, prepare func(*http.Transport)) (int, error) {
	t.Helper()
	w.Secrets = []string{testSecret}
	if err := w.Check(); err != nil {
		t.Fatal(err)
	}
	s := newSender(&w)
	transport := s.client.Transport.(*http.Transport)
	if prepare != nil {
		prepare(transport)
	}
	defer transport.CloseIdleConnections()
	return s.send(t.Context(), &message{"evt_1", "key.created", []byte("{}")}, time.Now())
}

// TestReceivers sends to receivers that misbehave.
func TestReceivers(t *testing.T) {
	followed := false
	target := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		followed = true
	}))
	defer target.Close()
	for name, test := range map[string]struct {
		handler http.HandlerFunc
		status  int
		want    string // in the error; empty for none
	}{
		"ok":      {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) }, 204, ""},
		"failing": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) }, 500, "500"},
		"redirect": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, target.URL, http.StatusTemporaryRedirect)
		}, 307, "redirects are not followed"},
		"a gigabyte": {func(w http.ResponseWriter, _ *http.Request) {
			part := make([]byte, 1<<20)
			for range 1024 {
				if _, err := w.Write(part); err != nil {
					return
				}
			}
		}, 200, ""},
		"long headers": {func(w http.ResponseWriter, _ *http.Request) {
			for i := range 1000 {
				w.Header().Set(fmt.Sprint("X-", i), strings.Repeat("x", 1000))
			}
		}, 0, "headers"},
		"hanging up": {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, 0,
			"EOF"},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(test.handler)
			defer server.Close()
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			status, err := sendTo(t, Webhook{URL: server.URL, AllowPrivate: true}, nil)
			runtime.ReadMemStats(&after)
			if status != test.status || (err != nil) != (test.want != "") ||
				err != nil && !strings.Contains(err.Error(), test.want) {
				t.Errorf("%d %v, want %d %q", status, err, test.status, test.want)
			}
			if grown := after.TotalAlloc - before.TotalAlloc; grown > 32<<20 {
				t.Errorf("%d bytes were allocated", grown)
			}
		})
	}
	if followed {
		t.Error("a redirect was followed")
	}
}

// TestSlowReceiver: an attempt ends after sendTimeout, and a cancelled one at once.
func TestSlowReceiver(t *testing.T) {
	release := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-r.Context().Done():
		case <-release:
		}
	}))
	defer server.Close()
	defer close(release)
	s := newSender(&Webhook{URL: server.URL, Secrets: []string{testSecret}, AllowPrivate: true})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if status, err := s.send(ctx, &message{body: []byte("{}")}, time.Now()); status != 0 ||
		err == nil || strings.Contains(err.Error(), server.URL) {
		t.Errorf("%d %v", status, err)
	}
}

// TestNoHandshake: a receiver that accepts connections and says nothing keeps none of them.
func TestNoHandshake(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	closed := make(chan error, 1)
	go func() {
		conn, err := listener.Accept()
		if err == nil {
			_, err = io.Copy(io.Discard, conn)
			conn.Close()
		}
		closed <- err
	}()
	s := newSender(&Webhook{URL: "https://" + listener.Addr().String(), AllowPrivate: true,
		Secrets: []string{testSecret}})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := s.send(ctx, &message{body: []byte("{}")}, time.Now()); err == nil {
		t.Error("a receiver without TLS got an event")
	}
	select {
	case err := <-closed:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Error("the connection of an attempt that has ended is still open")
	}
}

// TestDeadConnection: after an attempt on an HTTP/2 connection that a firewall has forgotten, the
// next one uses another connection.
func TestDeadConnection(t *testing.T) {
	server := httptest.NewUnstartedServer(http.HandlerFunc(
		func(w http.ResponseWriter, r *http.Request) {
			if r.ProtoMajor != 2 {
				t.Errorf("the request has %s", r.Proto)
			}
		}))
	server.EnableHTTP2 = true
	server.StartTLS()
	defer server.Close()
	s := newSender(&Webhook{URL: server.URL, AllowPrivate: true, Secrets: []string{testSecret}})
	defer s.client.CloseIdleConnections()
	transport := s.client.Transport.(*http.Transport)
	transport.TLSClientConfig = &tls.Config{
		RootCAs: server.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs}
	var first *forgottenConn
	transport.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, address)
		if err == nil && first == nil {
			first = &forgottenConn{Conn: conn}
			return first, nil
		}
		return conn, err
	}
	send := func(timeout time.Duration) error {
		ctx, cancel := context.WithTimeout(t.Context(), timeout)
		defer cancel()
		_, err := s.send(ctx, &message{body: []byte("{}")}, time.Now())
		return err
	}
	if err := send(sendTimeout); err != nil {
		t.Fatal(err)
	}
	first.forgotten.Store(true)
	if err := send(50 * time.Millisecond); err == nil {
		t.Error("an answer came on a connection that is dead")
	}
	if err := send(sendTimeout); err != nil {
		t.Error(err)
	}
}

// A forgottenConn drops what is written to it once it is forgotten.
type forgottenConn struct {
	net.Conn
	forgotten atomic.Bool
}

func (c *forgottenConn) Write(b []byte) (int, error) {
	if c.forgotten.Load() {
		return len(b), nil
	}
	return c.Conn.Write(b)
}

// TestEcho: the error about a receiver that is no HTTP server does not show the URL, of which a part
// may be secret.
func TestEcho(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			request := make([]byte, 1000)
			n, _ := conn.Read(request)
			_, _ = conn.Write(request[:n])
			conn.Close()
		}
	}()
	for _, uri := range []string{"/hook/s3cret", "/hook?token=s3cret", "?s3cret"} {
		_, err = sendTo(t, Webhook{URL: "http://" + listener.Addr().String() + uri,
			AllowPrivate: true}, nil)
		if err == nil || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: %v", uri, err)
		}
	}
}

// TestEchoAnywhere: an error does not show the path, whatever surrounds it. A URL without a path
// hides no error.
func TestEchoAnywhere(t *testing.T) {
	for _, test := range []struct{ sent, text, want string }{
		{"https://example.com/hook/s3cret", "beginning with: `/hook/s3cret`",
			"the receiver does not speak HTTP"},
		{"https://example.com", "read unix /run/a: broken", "read unix /run/a: broken"},
		{"https://example.com/", `malformed HTTP status code "/"`,
			`malformed HTTP status code "/"`},
	} {
		sent, err := url.Parse(test.sent)
		if err != nil {
			t.Fatal(err)
		}
		if got := withoutURL(t.Context(), errors.New(test.text), sent); got.Error() != test.want {
			t.Errorf("%s: %q, want %q", test.sent, got, test.want)
		}
	}
}

// TestCertificates: a certificate of another name or of an unknown authority is refused.
func TestCertificates(t *testing.T) {
	server := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer server.Close()
	_, port, _ := net.SplitHostPort(server.Listener.Addr().String())
	trusting := func(tr *http.Transport) {
		known := server.Client().Transport.(*http.Transport).TLSClientConfig
		tr.TLSClientConfig = &tls.Config{RootCAs: known.RootCAs}
	}
	if _, err := sendTo(t, Webhook{URL: server.URL, AllowPrivate: true}, trusting); err != nil {
		t.Error(err)
	}
	if _, err := sendTo(t, Webhook{URL: server.URL, AllowPrivate: true}, nil); err == nil {
		t.Error("a certificate of an unknown authority was accepted")
	}
	if _, err := sendTo(t, Webhook{URL: "https://localhost:" + port, AllowPrivate: true},
		trusting); err == nil {
		t.Error("a certificate of another name was accepted")
	}
}

// TestPrivate: the address of the connection decides, whatever name leads to it.
func TestPrivate(t *testing.T) {
	server := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		t.Error("a private address got a request")
	}))
	defer server.Close()
	_, port, _ := net.SplitHostPort(server.Listener.Addr().String())
	for _, host := range []string{"127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0",
		"169.254.169.254", "10.0.0.1", "[fe80::1]", "127.1"} {
		_, err := sendTo(t, Webhook{URL: "https://" + host + ":" + port}, nil)
		if err == nil || !errors.Is(err, errPrivate) && host != "127.1" {
			t.Errorf("%s: %v", host, err)
		}
	}
	for address, want := range map[string]bool{
		"8.8.8.8": true, "2606:4700::1111": true, "1.1.1.1": true,
		"192.168.1.1": false, "172.16.0.1": false, "100.64.0.1": false, "fc00::1": false,
		"fe80::1%eth0": false, "::": false, "224.0.0.1": false, "ff02::1": false,
		"255.255.255.255": false, "::ffff:10.0.0.1": false,
		"64:ff9b::8.8.8.8": true, "64:ff9b::10.0.0.1": false, "64:ff9b::127.0.0.1": false,
		"64:ff9b::169.254.169.254": false, "64:ff9b::": false, "64:ff9b::255.255.255.255": false,
		"64:ff9b::1:808:808": false, "::ffff:64:ff9b:808:808": false,
		"::ffff:0:10.0.0.1": false, "4000::1": false, "64:ff9b:1::1": false, "2001:0:a00:1::": false,
		"2002:a00:1::": false, "2001:db8::1": false, "::10.0.0.1": false, "198.18.0.1": false,
	} {
		if public(netip.MustParseAddr(address)) != want {
			t.Errorf("%s is public: %v, want %v", address, !want, want)
		}
	}
}

func TestCheck(t *testing.T) {
	for text, want := range map[string]string{
		"https://example.com/h?a=b": "", "http://example.com": "allow_private",
		"https://u:p@example.com": "user name", "ftp://example.com": "https://", "": "https://HOST",
		"https://": "https://HOST", "https://example.com/#x": "https://HOST", "://": "https://HOST",
		"https://example.com:8443": "", "https://example.com:99999": "port",
		"https://example.com:0": "port",
	} {
		w := Webhook{URL: text, Secrets: []string{testSecret}}
		if err := w.Check(); (err == nil) != (want == "") ||
			err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
	for _, secret := range []string{"", "whsec_", "whsec_c2hvcnQ=", strings.TrimPrefix(testSecret,
		"whsec_"), "whsec_" + strings.Repeat("A", 400), "whsec_***"} {
		w := Webhook{URL: "https://example.com", Secrets: []string{secret}}
		if err := w.Check(); err == nil || len(secret) > 8 && strings.Contains(err.Error(), secret) {
			t.Errorf("secret %q: %v", secret, err)
		}
	}
	w := Webhook{URL: "https://example.com", Secrets: []string{testSecret},
		Events: []string{"keys.*"}}
	if w.Check() == nil {
		t.Error("an unknown kind was accepted")
	}
}
