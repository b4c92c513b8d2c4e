package gate

import (
	"crypto/tls"
	"net/http"
	"testing"
)

// Client is an ordinary client for streams and uploads, and the address to use it with. It follows no redirects, adds no
// Accept-Encoding and ends with the test.
func (g *Gate) Client(t testing.TB, p Protocol) (client *http.Client, url string) {
	t.Helper()
	certificate, err := siteCertificate()
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{
		DisableCompression: true,
		TLSClientConfig:    &tls.Config{RootCAs: certificate.roots},
		ForceAttemptHTTP2:  true,
	}
	t.Cleanup(transport.CloseIdleConnections)
	client = &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	if p == HTTP2 {
		return client, g.TLSURL
	}
	return client, g.URL
}
