//go:build unix

package sharedcache

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest/redistest"
)

// operator returns a client with all permissions.
func operator(t *testing.T, s *redistest.Server) *redis.Client {
	t.Helper()
	c := redis.NewClient(&redis.Options{Addr: s.Addr(), Protocol: 2})
	t.Cleanup(func() { c.Close() })
	return c
}

// wantNoneDenied fails if a user was refused a command or a name.
func wantNoneDenied(t *testing.T, s *redistest.Server) {
	t.Helper()
	denied, err := operator(t, s).ACLLog(context.Background(), 10).Result()
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range denied {
		t.Errorf("denied: %s %s", entry.Reason, entry.Object)
	}
}

// fakeServer starts a server that answers each request with the result of answer.
func fakeServer(t *testing.T, answer func(request string) string) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	serve := func(c net.Conn) {
		defer c.Close()
		buf := make([]byte, 4096)
		for {
			n, err := c.Read(buf)
			if err != nil {
				return
			}
			fmt.Fprintf(c, "%s\r\n", answer(string(buf[:n])))
		}
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go serve(c)
		}
	}()
	return l.Addr().String()
}

// A cache is a cache under test.
type cache struct {
	*Redis
	failures *atomic.Int32 // that it reported
	lines    chan string   // of its log; unread lines are dropped
}

// open opens a cache, which is closed at the end of the test. The default timeout is the longest
// one, because a busy machine may need more than the usual default for an answer.
func open(t *testing.T, url string) cache {
	t.Helper()
	if !strings.Contains(url, "timeout=") {
		separator := "?"
		if strings.Contains(url, "?") {
			separator = "&"
		}
		url += separator + "timeout=1s"
	}
	c := cache{failures: new(atomic.Int32), lines: make(chan string, 100)}
	var err error
	c.Redis, err = OpenRedis(Options{URL: url, Logger: slog.New(lineLog{c.lines}),
		Failed: func() { c.failures.Add(1) }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

type lineLog struct{ lines chan string }

func (lineLog) Enabled(context.Context, slog.Level) bool { return true }
func (l lineLog) WithAttrs([]slog.Attr) slog.Handler     { return l }
func (l lineLog) WithGroup(string) slog.Handler          { return l }

func (l lineLog) Handle(_ context.Context, r slog.Record) error {
	line := r.Message
	r.Attrs(func(a slog.Attr) bool {
		line += " " + a.String()
		return true
	})
	select {
	case l.lines <- line:
	default:
	}
	return nil
}

// wantLine waits for a log line that contains a text.
func (c cache) wantLine(t *testing.T, text string) string {
	t.Helper()
	timer := time.NewTimer(time.Minute)
	defer timer.Stop()
	for {
		select {
		case line := <-c.lines:
			if strings.Contains(line, text) {
				return line
			}
		case <-timer.C:
			t.Fatalf("no log line with %q within a minute", text)
		}
	}
}

// eventually calls f until it returns true. A Put does not report when it is done, and is dropped
// if the server takes too long, so f repeats it.
func eventually(t *testing.T, condition string, f func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(time.Minute); !f(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("not within a minute: %s", condition)
		}
	}
}

// answer calls Get until the server answers. It returns nil if there is no value.
func (c cache) answer(t *testing.T, name string) (value []byte) {
	t.Helper()
	eventually(t, "the server answers", func() bool {
		var err error
		value, err = c.Get(ctx, name)
		return err == nil
	})
	return value
}

// works waits until Get returns a value that Put has stored, and a booking is made.
func (c cache) works(t *testing.T) {
	t.Helper()
	name := fmt.Sprintf("apikeys:{e}:%d", time.Now().UnixNano())
	eventually(t, "a value comes back", func() bool {
		c.Put(name, []byte("value"), time.Minute)
		got, err := c.Get(context.Background(), name)
		return err == nil && string(got) == "value"
	})
	c.booked(t, keystore.Booking{Name: name + ":rate", Limit: minutely, Known: after(1)})
}

// certificates creates a self-signed certificate for 127.0.0.1, as ca.pem and key.pem in a
// directory.
func certificates(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	write := func(name, kind string, der []byte) {
		if err := os.WriteFile(filepath.Join(dir, name),
			pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore:   time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth,
			x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	write("ca.pem", "CERTIFICATE", der)
	write("key.pem", "PRIVATE KEY", private)
	return dir
}
