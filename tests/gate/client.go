package gate

import (
	"crypto/tls"
	"net/http"
	"testing"

	"github.com/quic-go/quic-go/http3"
)

// Client returns an HTTP client for streams and uploads, and the URL to use it with. The client
// does not follow redirects, does not add Accept-Encoding and is closed when the test ends.
func (g *Gate) Client(t testing.TB, p Protocol) (client *http.Client, url string) {
	t.Helper()
	certificate, err := siteCertificate()
	if err != nil {
		t.Fatal(err)
	}
	client = &http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return http.ErrUseLastResponse
		},
	}
	trust := &tls.Config{RootCAs: certificate.roots}
	if p == HTTP3 {
		transport := &http3.Transport{TLSClientConfig: trust, DisableCompression: true}
		t.Cleanup(func() { transport.Close() })
		client.Transport = transport
		return client, g.TLSURL
	}
	transport := &http.Transport{DisableCompression: true, TLSClientConfig: trust,
		ForceAttemptHTTP2: true}
	t.Cleanup(transport.CloseIdleConnections)
	client.Transport = transport
	if p == HTTP2 {
		return client, g.TLSURL
	}
	return client, g.URL
}
