package gate

import (
	"crypto/tls"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
)

// Early sends a request without a body over HTTP/3 as TLS early data (RFC 8470), which an attacker
// could replay. The gate needs Config.HTTP3. The handshake may be complete when Caddy handles the
// request.
func (g *Gate) Early(t testing.TB, r Request) Response {
	t.Helper()
	certificate, err := siteCertificate()
	if err != nil {
		t.Fatal(err)
	}
	tickets := &ticketCache{ClientSessionCache: tls.NewLRUClientSessionCache(1),
		came: make(chan struct{}, 16)}
	config := &tls.Config{RootCAs: certificate.roots, ServerName: "localhost",
		NextProtos: []string{http3.NextProtoH3}, ClientSessionCache: tickets}
	address := strings.TrimPrefix(g.TLSURL, "https://")

	first, err := quic.DialAddr(t.Context(), address, config, nil)
	if err != nil {
		t.Fatal(err)
	}
	<-tickets.came
	first.CloseWithError(0, "")

	g.Upstream.Take()
	conn, err := quic.DialAddrEarly(t.Context(), address, config, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.CloseWithError(0, "")
	stream, err := new(http3.Transport).NewClientConn(conn).OpenRequestStream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	request, err := http.NewRequestWithContext(t.Context(), r.method(),
		"https://"+r.host()+r.target(), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range r.Header {
		name, value, _ := strings.Cut(line, ": ")
		request.Header.Add(name, value)
	}
	if err := stream.SendRequestHeader(request); err != nil {
		t.Fatal(err)
	}
	stream.Close()
	response, err := stream.ReadResponse()
	if err != nil {
		return Response{Err: err}
	}
	got := Response{Status: response.StatusCode, Header: response.Header}
	got.Body, got.Err = io.ReadAll(response.Body)
	got.Reached = g.Upstream.Take()
	if !conn.ConnectionState().Used0RTT {
		t.Fatal("Caddy accepted no early data")
	}
	return got
}

type ticketCache struct {
	tls.ClientSessionCache
	came chan struct{}
}

func (c *ticketCache) Put(name string, state *tls.ClientSessionState) {
	c.ClientSessionCache.Put(name, state)
	if state != nil {
		c.came <- struct{}{}
	}
}
