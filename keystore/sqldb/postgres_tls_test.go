//go:build unix

package sqldb

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest/postgrestest"
)

// An authority signs certificates.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
	file        string // its certificate, in PEM
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := new(authority)
	var text []byte
	a.certificate, a.key, text = issue(t, a, x509.Certificate{
		Subject: pkix.Name{CommonName: "authority"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign,
	})
	a.file = filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(a.file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return a
}

// issue returns a new certificate, its key, and its PEM. An authority without a certificate signs
// its own.
func issue(
	t *testing.T, by *authority, template x509.Certificate,
) (*x509.Certificate, *ecdsa.PrivateKey, []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template.SerialNumber = big.NewInt(1)
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent, signer := by.certificate, by.key
	if parent == nil {
		parent, signer = &template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, &template, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return certificate, key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// TestPostgresTLS: with sslmode=verify-full every connection is encrypted, and only to the server
// in the URL.
func TestPostgresTLS(t *testing.T) {
	ctx := context.Background()
	s := postgrestest.StartFor(t)
	trusted, other := newAuthority(t), newAuthority(t)
	_, key, certificate := issue(t, trusted,
		x509.Certificate{IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}})
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	s.ServeTLS(t, certificate, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}))
	verified := func(a *authority, hosts ...string) string {
		return s.URL("", hosts...) + "?" +
			url.Values{"sslmode": {"verify-full"}, "sslrootcert": {a.file}}.Encode()
	}

	d := openOnce(t, verified(trusted)+"&application_name=verified")
	if _, err := d.Deployment(ctx, nil); err != nil {
		t.Fatal(err)
	}
	// Includes the connection that listens.
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		got, err := s.Query("",
			"SELECT count(*) FILTER (WHERE query LIKE 'LISTEN %'), bool_and(ssl) FROM "+
				"pg_stat_activity JOIN pg_stat_ssl USING (pid) WHERE application_name = 'verified'")
		if err != nil {
			t.Fatal(err)
		}
		if got == "1|t" {
			break
		}
		if strings.HasSuffix(got, "f") || time.Now().After(deadline) {
			t.Fatalf("listening, encrypted: %s", got)
		}
	}

	_, port, _ := net.SplitHostPort(s.Address())
	for name, row := range map[string]struct{ url, want string }{
		"another authority": {verified(other),
			"not valid for this host or not signed by a trusted authority"},
		"the system's authorities": {s.URL("") + "?sslmode=verify-full",
			"not valid for this host or not signed by a trusted authority"},
		"another name": {verified(trusted, net.JoinHostPort("localhost", port)),
			"not valid for this host or not signed by a trusted authority"},
		"without TLS": {s.URL("") + "?sslmode=disable", "refuses the user or its password"},
	} {
		_, err := OpenPostgres(ctx, row.url)
		if err == nil || !strings.Contains(err.Error(), row.want) || Unreachable(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
