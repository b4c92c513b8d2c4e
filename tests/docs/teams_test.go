package docs

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

const teamsPage = "docs/recipes/teams.md"

// team creates a group and returns its id.
func team(t *testing.T, g *gate.Gate, name string, permissions ...string) string {
	t.Helper()
	r := g.Call(t, "POST", "/members", gate.JSON{"name": "Team " + name, "kind": "group",
		"login": name, "grants": []gate.JSON{{"namespace": "*", "permissions": permissions}}})
	id, _ := r.JSON()["id"].(string)
	if id == "" {
		t.Fatalf("creating a group: %v", r)
	}
	return id
}

// siteOf returns the body of the site in a Caddyfile.
func siteOf(t *testing.T, config string) string {
	t.Helper()
	_, body, found := strings.Cut(config, "\nkeys.example.com {\n")
	body, closed := strings.CutSuffix(strings.TrimSpace(body), "\n}")
	if !found || !closed {
		t.Fatal("the recipe has no site keys.example.com")
	}
	return strings.Replace(body, "\tlog {\n\t\tformat api_keys\n\t}\n", "", 1)
}

// A provider keeps the claims of a person in a cookie that it signs, and tells Caddy the email and
// the groups, as oauth2-proxy does with the claims of an ID token.
type provider struct{ secret []byte }

func (p *provider) sign(claims string) string {
	mac := hmac.New(sha256.New, p.secret)
	mac.Write([]byte(claims))
	return claims + "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// cookie returns the cookie of somebody who has signed in.
func (p *provider) cookie(email string, groups ...string) string {
	text, _ := json.Marshal(map[string]any{"email": email, "groups": groups})
	return "Cookie: _oauth2_proxy=" + p.sign(base64.RawURLEncoding.EncodeToString(text))
}

func (p *provider) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/oauth2/sign_in":
		_, _ = w.Write([]byte("Sign in"))
		return
	case "/oauth2/auth":
	default:
		w.WriteHeader(http.StatusNotFound)
		return
	}
	cookie, err := r.Cookie("_oauth2_proxy")
	var claims struct {
		Email  string
		Groups []string
	}
	if err == nil {
		text, _, _ := strings.Cut(cookie.Value, ".")
		plain, _ := base64.RawURLEncoding.DecodeString(text)
		if !hmac.Equal([]byte(p.sign(text)), []byte(cookie.Value)) {
			err = http.ErrNoCookie
		} else {
			err = json.Unmarshal(plain, &claims)
		}
	}
	if err != nil {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	w.Header().Set("X-Auth-Request-Email", claims.Email)
	if len(claims.Groups) > 0 {
		w.Header().Set("X-Auth-Request-Groups", strings.Join(claims.Groups, ","))
	}
	w.WriteHeader(http.StatusAccepted)
}

// TestTeamsWithOpenIDConnect runs the recipe with a program that behaves like oauth2-proxy.
func TestTeamsWithOpenIDConnect(t *testing.T) {
	t.Parallel()
	p := &provider{[]byte("cookie secret")}
	server := httptest.NewServer(p)
	defer server.Close()
	g := gate.Start(t, gate.Config{Site: replace(t,
		siteOf(t, block(t, teamsPage, "## OpenID Connect", "caddyfile")),
		"localhost:4180", server.Listener.Addr().String())})
	ops := team(t, g, "ops", "read", "write", "admin.keys:*")
	dev := team(t, g, "dev", "read", "admin.keys:create")
	mint := func(access string, headers ...string) gate.Response {
		return g.Do(t, gate.Request{Method: "POST", Target: "/apikeys/v1/keys",
			Header: append(headers, "Content-Type: application/json"),
			Body:   `{"name": "CI", "access": "` + access + `"}`})
	}
	owner := func(r gate.Response) any {
		key, _ := r.JSON()["key"].(gate.JSON)
		return key["owner"]
	}
	eve := "eve@example.com"
	if r := mint("read_only", p.cookie(eve, "ops")); r.Status != 201 || owner(r) != ops {
		t.Errorf("in ops: %v", r)
	}
	if r := mint("read_write", p.cookie(eve, "ops", "dev", "other")); r.Status != 201 ||
		owner(r) != ops {
		t.Errorf("only ops has write: %v", r)
	}
	r := mint("read_only", p.cookie(eve, "dev"))
	if r.Status != 201 || owner(r) != dev {
		t.Errorf("after leaving ops: %v", r)
	}
	if r := mint("read_write", p.cookie(eve, "dev")); r.Code() != "exceeds_caller" {
		t.Errorf("dev cannot write: %v", r)
	}
	if r := mint("read_only", p.cookie(eve, "ops", "dev")); r.Status != 422 ||
		!strings.Contains(string(r.Body), dev) {
		t.Errorf("both have read: %v", r)
	}
	// The key outlives the membership, and works as long as the group does.
	token, _ := key(t, mint("read_only", p.cookie(eve, "dev")))
	if r := g.Call(t, "POST", "/verify", gate.JSON{"token": token}); r.JSON()["outcome"] != "ok" {
		t.Errorf("the key: %v", r)
	}
	audit := g.Call(t, "GET", "/audit?action=key.mint", nil)
	if !strings.Contains(string(audit.Body), `"actor":"`+eve+` via `+dev+`"`) {
		t.Errorf("the audit log names neither person nor group: %v", audit)
	}

	spoofed := []string{"X-Auth-Request-Email: " + eve, "X-Auth-Request-Groups: ops"}
	if r := mint("read_only", spoofed...); r.Status != 302 ||
		!strings.HasPrefix(r.Header.Get("Location"), "/oauth2/sign_in?rd=https://") {
		t.Errorf("headers without a session: %v", r)
	}
	if r := mint("read_only", append(spoofed, p.cookie(eve))...); r.Status != 403 {
		t.Errorf("the groups of the client: %v", r)
	}
	if r := mint("read_write", append(spoofed, p.cookie(eve, "dev"))...); r.Status != 403 {
		t.Errorf("the groups of the client beside its own: %v", r)
	}
	forged := strings.Replace(p.cookie(eve, "dev"), ".", "x.", 1)
	if r := mint("read_only", forged); r.Status != 302 {
		t.Errorf("a forged session: %v", r)
	}
	if r := g.Do(t, gate.Request{Target: "/oauth2/sign_in"}); r.Status != 200 {
		t.Errorf("the sign-in page: %v", r)
	}
	if r := g.Do(t, gate.Request{Target: "/apikeys/keys", Header: []string{p.cookie(eve,
		"dev")}}); r.Status != 200 || !strings.Contains(string(r.Body), "Team dev") {
		t.Errorf("the console: %d", r.Status)
	}
}

// key returns the token of a new key and its id.
func key(t *testing.T, r gate.Response) (token, id string) {
	t.Helper()
	token, _ = r.JSON()["token"].(string)
	fields, _ := r.JSON()["key"].(gate.JSON)
	id, _ = fields["id"].(string)
	if token == "" {
		t.Fatalf("no token: %v", r)
	}
	gate.Watch(token)
	return token, id
}

// TestTeamsWithBasicAuth runs the recipe that adds groups to users of basic_auth.
func TestTeamsWithBasicAuth(t *testing.T) {
	t.Parallel()
	const password = "$2a$04$.J9JRYKrUue6irXnxtPajOWiEV/xEMClKnYOmpqzXHcumLE5SqOvS" // of "secret"
	config := replace(t, siteOf(t, block(t, teamsPage, "## Without an identity provider",
		"caddyfile")), "$2a$14$Zkx19XLiW6VYouLHR5NmfOFU0z2GTNmpkT/5qqR7hx4IjWJPDhjvG", password,
		"pat "+password, "pat "+password+"\n\t\tzoe "+password)
	g := gate.Start(t, gate.Config{Site: config})
	ops, dev := team(t, g, "ops", "admin:read"), team(t, g, "dev", "read")
	for user, want := range map[string][]string{"eve": {ops, dev}, "pat": {dev}, "zoe": nil} {
		r := g.Do(t, gate.Request{Target: "/apikeys/v1/self", Header: []string{
			"Remote-Groups: ops", "Authorization: Basic " +
				base64.StdEncoding.EncodeToString([]byte(user+":secret"))}})
		groups, _ := r.JSON()["groups"].([]any)
		if len(groups) != len(want) || (r.Status == 200) != (want != nil) {
			t.Errorf("%s: %v", user, r)
		}
		for _, id := range want {
			if !strings.Contains(string(r.Body), id) {
				t.Errorf("%s lacks %s: %v", user, id, r)
			}
		}
	}
}
