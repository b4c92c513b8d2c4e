package leaks

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

func TestMain(m *testing.M) { gate.Main(m) }

// A signer signs reports as GitHub does.
type signer struct {
	t    *testing.T
	key  *ecdsa.PrivateKey
	file string // with the public key, in the form of GitHub's list
}

const keyID = "90a421169f0a406205f1563a953312f0be898d3c7b6c06b681aa86a874555f4a"

func newSigner(t *testing.T) signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	list, err := json.Marshal(gate.JSON{"public_keys": []gate.JSON{{"key_identifier": keyID,
		"key":        string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})),
		"is_current": true}}})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "keys.json")
	if err := os.WriteFile(file, list, 0o600); err != nil {
		t.Fatal(err)
	}
	return signer{t, key, file}
}

// report sends a report of a token to the site of a node. wrong breaks the signature.
func (s signer) report(g *gate.Gate, token gate.Token, wrong bool) gate.Response {
	s.t.Helper()
	body, err := json.Marshal([]gate.JSON{{"token": string(token), "type": "mycompany_api_token",
		"url": "https://github.com/octocat/Hello-World/blob/" +
			"12345600b9cbe38a219f39a9941c9319b600c002/foo/bar.txt", "source": "content"}})
	if err != nil {
		s.t.Fatal(err)
	}
	sum := sha256.Sum256(body)
	signature, err := ecdsa.SignASN1(rand.Reader, s.key, sum[:])
	if err != nil {
		s.t.Fatal(err)
	}
	if wrong {
		signature[len(signature)-1] ^= 1
	}
	return g.Do(s.t, gate.Request{Method: "POST", Target: "/apikeys/v1/leaks", Body: string(body),
		Header: []string{"Content-Type: application/json", "Github-Public-Key-Identifier: " + keyID,
			"Github-Public-Key-Signature: " + base64.StdEncoding.EncodeToString(signature)}})
}

// TestLeakOnThreeNodes reports a token in the format of GitHub's secret scanning partner program.
// When the report is answered, within the 30 s that GitHub waits, no node accepts the token.
func TestLeakOnThreeNodes(t *testing.T) {
	s := newSigner(t)
	f := gate.StartFleet(t, gate.FleetConfig{Nodes: 3, Config: gate.Config{
		APIKeys: "leak_keys " + s.file,
		Site: "api_key {\npublic /apikeys/*\n}\napi_keys_admin\n" +
			"reverse_proxy {$GATE_UPSTREAM}"}})
	first := f.Nodes[0]
	first.Namespace(t, "acme", gate.JSON{"on_leak": "revoke"})
	k := first.Mint(t, gate.JSON{"name": "CI", "namespace": "acme", "access": "read_only"})
	status := func(g *gate.Gate, token gate.Token) int {
		return g.Get(t, "/", token).Status
	}
	for i, g := range f.Nodes { // so that each node has it cached
		if got := status(g, k.Token); got != 403 && got != 200 {
			t.Fatalf("node %d answers %d with a live key", i, got)
		}
	}
	if r := s.report(f.Nodes[1], k.Token, true); r.Status != 401 {
		t.Errorf("a bad signature: %v", r)
	}
	if r := s.report(f.Nodes[1], "ak_not_a_token", false); r.Status != 200 {
		t.Errorf("a token of nobody: %v", r)
	}
	began := time.Now()
	r := s.report(f.Nodes[1], k.Token, false)
	took := time.Since(began)
	for i, g := range f.Nodes {
		if got := status(g, k.Token); got != 401 {
			t.Errorf("node %d answers %d with a leaked key", i, got)
		}
	}
	var labels []gate.JSON
	sum := sha256.Sum256([]byte(k.Token))
	if err := json.Unmarshal(r.Body, &labels); err != nil || r.Status != 200 || len(labels) != 1 ||
		labels[0]["label"] != "true_positive" ||
		labels[0]["token_type"] != "mycompany_api_token" ||
		labels[0]["token_hash"] != hex.EncodeToString(sum[:]) {
		t.Errorf("%v: %v", r, err)
	}
	if took > 30*time.Second {
		t.Errorf("answered after %v", took)
	}
	if shown := f.Nodes[2].Show(t, k.ID); shown["status"] != "revoked" {
		t.Errorf("the key is %v", shown["status"])
	}
	rows, ok := first.Call(t, "GET", "/audit?action=key.leaked", nil).JSON()["items"].([]any)
	if !ok || len(rows) != 1 {
		t.Fatalf("rows %v", rows)
	}
	after, _ := rows[0].(gate.JSON)["after"].(gate.JSON)
	if leak, _ := after["leak"].(gate.JSON); leak["signed"] != true ||
		leak["url"] == "" || leak["action"] != "revoke" {
		t.Errorf("row %v", rows[0])
	}
	t.Logf("answered after %v", took)
}
