package adversarial

import (
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

// A deriver creates JWTs from a token, valid and invalid ones, without our code (docs/derived.md,
// "Format").
type deriver struct {
	key ed25519.PrivateKey
	kid string
}

func newDeriver(t testing.TB, token string) deriver {
	t.Helper()
	seed, err := hkdf.Key(sha256.New, []byte(token), nil, "caddy-apikeys/derive/1", 32)
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256([]byte(token))
	return deriver{ed25519.NewKeyFromSeed(seed), b64(digest[:])}
}

func b64[T string | []byte](s T) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }

func (d deriver) header() string { return `{"alg":"EdDSA","typ":"ak+jwt","kid":"` + d.kid + `"}` }

func (d deriver) sign(header, claims string) string {
	signed := b64(header) + "." + b64(claims)
	return signed + "." + b64(ed25519.Sign(d.key, []byte(signed)))
}

func claimsUntil(life time.Duration, more string) string {
	return fmt.Sprintf(`{"exp":%d%s}`, time.Now().Add(life).Unix(), more)
}

// TestDerivedTokens tries the attacks of RFC 8725 on a running Caddy, with the public key that an
// attacker may know. All invalid tokens get the answer of a mistyped key.
func TestDerivedTokens(t *testing.T) {
	t.Parallel()
	w := start(t, gate.Config{Site: `
		api_key {
			from bearer
			from query token
			from cookie token
			public /apikeys/*
		}
		api_keys_admin
		reverse_proxy {$GATE_UPSTREAM}`})
	key := w.mint(t, "K", gate.JSON{"access": "read_write"})
	admin := w.mint(t, "Admin", gate.JSON{"grants": []gate.JSON{{"namespace": "*",
		"permissions": []string{"*", "admin:*"}}}})
	d, other := newDeriver(t, string(key.Token)), newDeriver(t, w.tokens["A"])
	public := []byte(d.key.Public().(ed25519.PublicKey))
	ok := claimsUntil(time.Minute, "")
	send := func(token string) gate.Response {
		gate.Watch(token)
		return w.Get(t, "/v1/items/1", gate.Token(token))
	}
	mistyped := send(forge("ak"))
	for range 2 {
		if r := send(d.sign(d.header(), ok)); r.Status != 200 {
			t.Fatalf("a derived token: %v", r)
		}
	}
	with := func(more string) string {
		return strings.TrimSuffix(d.header(), "}") + "," + more + "}"
	}
	mac := func(header string) string {
		signed := b64(header) + "." + b64(ok)
		h := hmac.New(sha256.New, public)
		h.Write([]byte(signed))
		return signed + "." + b64(h.Sum(nil))
	}
	alg := func(name string) string { return strings.Replace(d.header(), "EdDSA", name, 1) }
	good := d.sign(d.header(), ok)
	parts := strings.Split(good, ".")
	nobody, child := newDeriver(t, "nobody's token"), newDeriver(t, good)
	scopes := claimsUntil(time.Minute, `,"scope":"read","scope":"*"`)
	later := claimsUntil(time.Hour, fmt.Sprintf(`,"nbf":%d`, time.Now().Unix()+600))
	for what, token := range map[string]string{
		"alg none":                            b64(alg("none")) + "." + parts[1] + ".",
		"alg none with a signature":           d.sign(alg("none"), ok),
		"HS256 with the public key as secret": mac(alg("HS256")),
		"HMAC instead of EdDSA":               mac(d.header()),
		"an embedded key": other.sign(with(`"jwk":{"kty":"OKP","crv":"Ed25519","x":"`+
			b64([]byte(other.key.Public().(ed25519.PublicKey)))+`"}`), ok),
		"a key at an address":       d.sign(with(`"jku":"http://127.0.0.1/jwks"`), ok),
		"a certificate":             d.sign(with(`"x5u":"http://127.0.0.1/x5u"`), ok),
		"crit":                      d.sign(with(`"crit":["exp"]`), ok),
		"an unencoded payload":      d.sign(with(`"b64":false`), ok),
		"a nested JWT":              d.sign(with(`"cty":"JWT"`), good),
		"a compressed payload":      d.sign(with(`"zip":"DEF"`), ok),
		"two of a name":             d.sign(d.header(), scopes),
		"an unknown claim":          d.sign(d.header(), claimsUntil(time.Minute, `,"aud":"api"`)),
		"another key's signature":   other.sign(d.header(), ok),
		"another key's kid":         d.sign(other.header(), ok),
		"an unknown kid":            nobody.sign(nobody.header(), ok),
		"padding":                   good + "==",
		"another claim":             parts[0] + "." + b64(claimsUntil(time.Hour, "")) + "." + parts[2],
		"no signature":              parts[0] + "." + parts[1] + ".",
		"valid for too long":        d.sign(d.header(), claimsUntil(48*time.Hour, "")),
		"not valid yet":             d.sign(d.header(), later),
		"8 KB of nothing":           "eyJ" + strings.Repeat("A", 8000),
		"deeply nested claims":      d.sign(d.header(), strings.Repeat("[", 2000)),
		"a derived token's child":   child.sign(child.header(), ok),
		"a path instead of the kid": d.sign(strings.Replace(d.header(), d.kid, "/dev/null", 1), ok),
	} {
		if r := send(token); r.Status != 401 || string(r.Body) != string(mistyped.Body) ||
			r.Header.Get("Www-Authenticate") != mistyped.Header.Get("Www-Authenticate") {
			t.Errorf("%s: %v", what, r)
		}
	}
	if r := send(d.sign(d.header(), claimsUntil(-time.Minute, ""))); r.Code() != "key_expired" {
		t.Errorf("expired: %v", r)
	}
	if r := w.Send(t, "POST", "/v1/items/1", gate.Token(d.sign(d.header(),
		claimsUntil(time.Minute, `,"scope":"read"`))), ""); r.Code() != "insufficient_permission" {
		t.Errorf("beyond the scope: %v", r)
	}
	if r := w.Do(t, gate.Request{Target: "/v1/items/1?token=" + good}); r.Status != 200 {
		t.Errorf("in the query: %v", r)
	}
	if r := w.Do(t, gate.Request{Target: "/v1/items/1",
		Header: []string{"Cookie: token=" + good}}); r.Code() != "invalid_key" {
		t.Errorf("in a cookie: %v", r)
	}

	// Nothing of the management is open to derived tokens, except reading who they are.
	a := newDeriver(t, string(admin.Token))
	boss := gate.Token(a.sign(a.header(), claimsUntil(time.Minute, `,"ns":["default"]`)))
	gate.Watch(string(boss))
	for _, call := range []string{"GET /keys", "POST /keys", "GET /self/usage", "GET /audit",
		"POST /self/revoke", "GET /permissions", "POST /verify", "DELETE /self", "POST /self"} {
		method, path, _ := strings.Cut(call, " ")
		if r := w.Send(t, method, "/apikeys/v1"+path, boss, "{}"); r.Code() != "invalid_key" {
			t.Errorf("%s: %v", call, r)
		}
	}
	self := w.Get(t, "/apikeys/v1/self", boss)
	permissions, _ := self.JSON()["permissions"].(map[string]any)
	if self.Status != 200 || len(permissions) != 1 || permissions["default"] == nil {
		t.Errorf("GET /self: %v", self)
	}
	// The access log has the note of every request whose token is genuine.
	noted := d.sign(d.header(), claimsUntil(time.Minute, `,"scope":"read","note":"nightly job"`))
	send(noted)
	w.Send(t, "POST", "/v1/items/1", gate.Token(noted), "")
	w.Get(t, "/apikeys/v1/self", gate.Token(noted))
	w.Revoke(t, key.ID)
	if r := send(good); r.Code() != "key_revoked" {
		t.Errorf("after the revoke: %v", r)
	}
	send(noted)
	for _, request := range [][3]string{{"GET", "/v1/items/1", "ok"},
		{"POST", "/v1/items/1", "forbidden"}, {"GET", "/apikeys/v1/self", "ok"},
		{"GET", "/v1/items/1", "revoked"}} {
		line := regexp.MustCompile(fmt.Sprintf(`"method":"%s",.*"uri":"%s",.*"api_key_id":"%s",.*`+
			`"api_key_note":"nightly job","api_key_outcome":"%s"`, request[0], request[1], key.ID,
			request[2]))
		gate.Until(t, fmt.Sprint("a line of ", request),
			func() bool { return line.MatchString(w.AccessLog()) })
	}
	if log := w.AccessLog() + w.Output(); strings.Contains(log, parts[2]) {
		t.Error("a log has a derived token")
	}
}

// libraryAccepts reports whether an independent library accepts a JWT, with a strict reading of its
// claims.
func libraryAccepts(jwt string, public ed25519.PublicKey) bool {
	signed, err := jose.ParseSignedCompact(jwt, []jose.SignatureAlgorithm{jose.EdDSA})
	if err != nil {
		return false
	}
	payload, err := signed.Verify(public)
	var claims map[string]any
	return err == nil && json.Unmarshal(payload, &claims) == nil
}

func weAccept(jwt string, token string) bool {
	d, err := keystore.ParseDerived(jwt)
	public := keystore.NewDerivingKey(token, "").Public
	return err == nil && d.Parent == keystore.DigestOf(token) && d.Verify(&public) != nil
}

// TestDerivedAgainstLibrary: whatever an independent JWT library refuses, we refuse, for the vectors
// and for random changes of them, before and after signing.
func TestDerivedAgainstLibrary(t *testing.T) {
	t.Parallel()
	root, err := gate.Root()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(root + "/docs/derived-vectors.json")
	var file struct {
		Vectors []struct{ Name, Token, JWT, Verdict string }
	}
	if err == nil {
		err = json.Unmarshal(text, &file)
	}
	if err != nil || len(file.Vectors) < 150 {
		t.Fatal(len(file.Vectors), err)
	}
	accepted := 0
	check := func(what, jwt, token string) {
		t.Helper()
		if !weAccept(jwt, token) {
			return
		}
		accepted++
		if !libraryAccepts(jwt, newDeriver(t, token).key.Public().(ed25519.PublicKey)) {
			t.Errorf("%s: we accept what the library refuses: %q", what, jwt)
		}
	}
	seed := rand.Uint64()
	rng := rand.New(rand.NewPCG(seed, 0))
	pieces := []string{`"`, `{`, `}`, `[`, `]`, `,`, `:`, `\`, `\u0065`, ` `, "\x00", "\xff", "é",
		`null`, `1`, `-`, `.`, `0`, `"exp":1`, `"alg":"none"`, `"crit":[]`, `=`, `_`, `+`, `A`}
	change := func(s string) string {
		i := rng.IntN(len(s) + 1)
		j := min(len(s), i+rng.IntN(3))
		return s[:i] + pieces[rng.IntN(len(pieces))] + s[j:]
	}
	for _, v := range file.Vectors {
		check(v.Name, v.JWT, v.Token)
		if v.Verdict == "ok" && !weAccept(v.JWT, v.Token) {
			t.Errorf("%s: refused", v.Name)
		}
		d := newDeriver(t, v.Token)
		parts := strings.Split(v.JWT, ".")
		if len(parts) != 3 || len(v.JWT) > 5000 {
			continue
		}
		header, _ := base64.RawURLEncoding.DecodeString(parts[0])
		claims, _ := base64.RawURLEncoding.DecodeString(parts[1])
		for range 10 {
			check("a changed "+v.Name, change(v.JWT), v.Token)
			check("a changed header of "+v.Name, d.sign(change(string(header)), string(claims)),
				v.Token)
			check("changed claims of "+v.Name, d.sign(string(header), change(string(claims))),
				v.Token)
		}
	}
	if accepted < 30 {
		t.Errorf("only %d were accepted", accepted)
	}
	if t.Failed() {
		t.Logf("seed %d", seed)
	}
}
