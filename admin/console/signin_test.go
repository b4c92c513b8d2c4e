package console_test

import (
	"errors"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/admin/console"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
)

func TestSignIn(t *testing.T) {
	s := open(t)
	id, token := s.member(t, "Ada", "*=@client-admin")
	p := s.person(t)

	a := p.get("/apikeys/keys?status=active").want(200, "Member token")
	if next, _ := a.field("next"); a.At.Path != "/apikeys/sign-in" ||
		next != "/apikeys/keys?status=active" {
		t.Fatalf("led to %s, and then to %q", a.At, next)
	}
	a = p.signIn("akm_"+token[5:]).want(422, "not the token of a member")
	if strings.Contains(a.Text, token[5:]) {
		t.Fatal("the page repeats what was typed")
	}
	_, key, err := s.keys.MintKey(ctx, root,
		manage.KeySpec{Name: "k",
			Home: &keystore.Grant{Permissions: []keystore.Permission{{Resource: "admin",
				Action: "*"}}}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	p.signIn(key.Reveal()).want(422, "Keys are for programs")
	derived, err := keystore.Derive(key.Reveal(),
		keystore.Caveats{ExpiresAt: time.Now().Add(time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	p.signIn(derived).want(422)
	p.get("/apikeys/keys").want(200, "Member token")

	a = p.post("/apikeys/sign-in", "token", " "+token+"\n", "next",
		"/apikeys/keys?status=active").want(200, "<h1>Keys</h1>", "Ada")
	if a.At.RequestURI() != "/apikeys/keys?status=active" {
		t.Errorf("led to %s", a.At)
	}
	if p.get("/apikeys/sign-in?next=/apikeys/keys").At.Path != "/apikeys/keys" {
		t.Error("a signed-in visitor is asked to sign in")
	}
	p.post("/apikeys/sign-out").want(200, "Member token")
	p.signIn("secret-token:"+token).want(200, "<h1>Keys</h1>") // RFC 8959
	p.post("/apikeys/sign-out").want(200, "Member token")
	p.get("/apikeys/keys").want(200, "Member token")

	// Revoking a member's token signs out its sessions.
	for name, revoke := range map[string]func(){
		"another token": func() {
			_, secret, _, err := s.keys.NewMemberToken(ctx, root, id, manage.TokenSpec{},
				manage.ChangeOptions{})
			if err != nil {
				t.Fatal(err)
			}
			token = secret.Reveal()
		},
		"disabled": func() {
			active := false
			if _, _, err := s.keys.EditMember(ctx, root, id, manage.MemberPatch{Active: &active},
				manage.ChangeOptions{}); err != nil {
				t.Fatal(err)
			}
		},
	} {
		active := true
		if _, _, err := s.keys.EditMember(ctx, root, id, manage.MemberPatch{Active: &active},
			manage.ChangeOptions{}); err != nil {
			t.Fatal(err)
		}
		p.signIn(token).want(200, "<h1>Keys</h1>")
		revoke()
		if a := p.get("/apikeys/keys"); a.At.Path != "/apikeys/sign-in" {
			t.Errorf("%s: still at %s", name, a.At)
		}
	}
	if strings.Contains(s.log.String(), token[8:]) {
		t.Error("the log holds the token")
	}
}

// TestCookie checks that only the console receives the session, and that scripts cannot read it.
func TestCookie(t *testing.T) {
	s := open(t)
	_, token := s.member(t, "Ada")
	p := s.person(t)
	p.http.CheckRedirect = func(*http.Request, []*http.Request) error {
		return http.ErrUseLastResponse
	}
	form := strings.NewReader(url.Values{"token": {token}}.Encode())
	r, _ := http.NewRequest("POST", s.URL+"/apikeys/sign-in", form)
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := p.http.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	got := resp.Header.Get("Set-Cookie")
	if resp.StatusCode != 303 || !strings.HasPrefix(got, console.PlainCookie+"=") ||
		!strings.HasSuffix(got, "; Path=/apikeys/; Max-Age=43200; HttpOnly; SameSite=Strict") {
		t.Errorf("%d %s", resp.StatusCode, got)
	}
	if strings.Contains(got, token) {
		t.Error("the cookie is the token")
	}
}

func TestNext(t *testing.T) {
	s := open(t)
	_, token := s.member(t, "Ada")
	r, _ := http.NewRequest("POST", s.URL+"/apikeys/keys/123456789012/active", nil)
	r.Header.Set("Referer", s.URL+"/apikeys/keys/123456789012?namespace=acme")
	if next, _ := s.person(t).do(r).want(200,
		"Member token").field("next"); next != "/apikeys/keys/123456789012?namespace=acme" {
		t.Errorf("a form that was sent after the session leads to %s", next)
	}
	for _, next := range []string{"", "https://evil.example/apikeys/",
		"//evil.example/apikeys/keys", "/\\evil.example", "/apikeys/..\\x",
		"/apikeys/../elsewhere", "/apikeys/%2e%2E/elsewhere", "/elsewhere", "javascript:alert(1)",
		"apikeys/keys", "%zz"} {
		p := s.person(t)
		if a := p.post("/apikeys/sign-in", "token", token, "next",
			next); a.At.Path != "/apikeys/keys" ||
			a.At.Host != strings.TrimPrefix(s.URL, "http://") {
			t.Errorf("%q led to %s", next, a.At)
		}
	}
}

// TestSessionExpires checks the idle and the total lifetime of a session, and that its use is
// recorded.
func TestSessionExpires(t *testing.T) {
	s := open(t)
	_, token := s.member(t, "Ada")
	p := s.person(t)
	at, _ := url.Parse(s.URL + "/apikeys/")
	for _, test := range []struct {
		name          string
		created, used time.Duration // ago
		expired       bool
		recorded      bool // whether the visit is recorded as a use
	}{
		{name: "new"},
		{name: "used a while ago", created: 11 * time.Hour, used: 55 * time.Minute, recorded: true},
		{name: "idle", created: 2 * time.Hour, used: time.Hour, expired: true},
		{name: "old", created: 12 * time.Hour, expired: true},
	} {
		secret, err := s.keys.OpenSession(ctx, &keystore.Record{Digest: keystore.DigestOf(token)})
		if err != nil {
			t.Fatal(err)
		}
		now := s.keys.Now()
		session := keystore.Session{ID: keystore.DigestOf(secret), Token: keystore.DigestOf(token),
			CreatedAt: now.Add(-test.created), UsedAt: now.Add(-test.used)}
		if err := errors.Join(s.db.DeleteSession(ctx, session.ID),
			s.db.InsertSession(ctx, session)); err != nil {
			t.Fatal(err)
		}
		p.http.Jar.SetCookies(at, []*http.Cookie{{Name: console.PlainCookie, Value: secret,
			Path: "/apikeys/"}})
		if a := p.get("/apikeys/keys"); test.expired != (a.At.Path == "/apikeys/sign-in") {
			t.Errorf("%s: at %s", test.name, a.At)
		} else if test.expired {
			a.want(200, "Your session has ended")
		}
		left, err := s.db.Session(ctx, session.ID)
		if err != nil {
			t.Fatal(err)
		}
		if recorded := left.UsedAt.After(session.UsedAt); recorded != test.recorded {
			t.Errorf("%s: the use was recorded: %t", test.name, recorded)
		}
	}
	for _, wrong := range []string{"x", strings.Repeat("x", 43), strings.Repeat("x", 4000)} {
		p.http.Jar.SetCookies(at, []*http.Cookie{{Name: console.PlainCookie, Value: wrong,
			Path: "/apikeys/"}})
		if a := p.get("/apikeys/keys"); a.At.Path != "/apikeys/sign-in" {
			t.Errorf("%d characters: at %s", len(wrong), a.At)
		}
	}
}

func TestGuesses(t *testing.T) {
	s := open(t)
	_, token := s.member(t, "Ada")
	p := s.person(t)
	for i := 0; ; i++ {
		if a := p.signIn("akm_wrong"); a.Status == 429 {
			a.want(429, "too many wrong tokens")
			if a.Header.Get("Retry-After") == "" || i < 10 {
				t.Errorf("after %d guesses: %v", i, a.Header)
			}
			break
		} else if a.want(422); i > 100 {
			t.Fatal("a hundred guesses")
		}
	}
	p.signIn("akm_wrong").want(429)
	p.signIn(token).want(200, "Sign out") // a member that shares the address can sign in
}

func TestTrusted(t *testing.T) {
	s := open(t)
	s.trusted = "ada"
	p := s.person(t)
	p.get("/apikeys/keys").want(403, "no enabled member has your login")
	if _, err := s.keys.CreateMember(ctx, root,
		keystore.Member{Name: "Ada", Login: "ada"}); err != nil {
		t.Fatal(err)
	}
	p.get("/apikeys/keys").want(200, "<h1>Keys</h1>", "Ada")
	p.post("/apikeys/sign-out").want(409, "Sign out where you signed in")
	_, token := s.member(t, "Grace")
	p.signIn(token).want(200, "<h1>Keys</h1>", "Ada").lacks("Grace")
	if at, _ := url.Parse(s.URL + "/apikeys/"); len(p.http.Jar.Cookies(at)) > 0 {
		t.Error("a visitor that the server has authenticated has a session")
	}
}

// TestCrossSiteRequests checks that requests from other sites are refused.
func TestCrossSiteRequests(t *testing.T) {
	s := open(t)
	_, token := s.member(t, "Ada")
	p := s.person(t)
	p.signIn(token).want(200)
	for _, header := range [][2]string{{"Sec-Fetch-Site", "cross-site"},
		{"Sec-Fetch-Site", "same-site"}, {"Origin", "https://evil.example"}, {"Origin", "null"}} {
		for _, path := range []string{"/apikeys/sign-out", "/apikeys/sign-in",
			"/apikeys/keys/new"} {
			r, _ := http.NewRequest("POST", s.URL+path, strings.NewReader("token="+token))
			r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			r.Header.Set(header[0], header[1])
			p.do(r).want(403, "another site")
		}
	}
	p.get("/apikeys/keys").want(200, "<h1>Keys</h1>")
}

// TestLinkFromAnotherSite follows a link from another site. The browser does not send a Strict
// cookie with it, but does so when the page redirects.
func TestLinkFromAnotherSite(t *testing.T) {
	s := open(t)
	p := s.person(t)
	r, _ := http.NewRequest("GET", s.URL+`/apikeys/keys?q=%22%3E%3Cscript%3E`, nil)
	r.Header.Set("Sec-Fetch-Site", "cross-site")
	r.Header.Set("Sec-Fetch-Mode", "navigate")
	p.do(r).want(200,
		`<meta http-equiv="refresh" content="0; url=/apikeys/keys?q=%22%3E%3Cscript%3E">`)
}
