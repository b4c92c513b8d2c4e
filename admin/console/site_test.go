package console_test

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/admin"
	"github.com/caddy-apikeys/caddy-apikeys/admin/console"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest/fleet"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/node"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/sqldb"
	"golang.org/x/net/html"
)

var (
	ctx  = context.Background()
	root = manage.Root("192.0.2.1")
)

// noMetrics ignores all metrics.
type noMetrics struct{}

func (noMetrics) LookedUp(node.Tier, time.Duration) {}
func (noMetrics) Propagated(time.Duration)          {}
func (noMetrics) UsageFlushed(time.Duration)        {}

// A site is a console with its own key store and a minimal server.
type site struct {
	*httptest.Server
	db      keystore.Database
	keys    *manage.Keystore
	api     *admin.API
	console *console.Console
	log     bytes.Buffer
	trusted string   // the login that the server has authenticated; empty: sessions
	groups  []string // the names of the groups of that user
	apart   bool     // the API is at another address
}

func open(t testing.TB) *site {
	t.Helper()
	return openWith(t, node.Settings{})
}

func openWith(t testing.TB, settings node.Settings) *site {
	t.Helper()
	db, err := sqldb.OpenSQLite(ctx, fleet.File(t))
	if err != nil {
		t.Fatal(err)
	}
	return openOn(t, db, settings)
}

func openOn(t testing.TB, db keystore.Database, settings node.Settings) *site {
	t.Helper()
	s := &site{db: db}
	var err error
	s.keys, err = manage.Open(ctx, s.db, nil, settings, noMetrics{},
		slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.keys.Close() })
	logger := slog.New(slog.NewTextHandler(&s.log, nil))
	s.api = admin.New(s.keys, logger)
	s.api.Declare(nil)
	s.console = console.New(s.keys, s.api, logger)
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

// ServeHTTP authenticates visitors.
func (s *site) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	now := time.Now()
	who := console.Visitor{Address: "192.0.2.7", Session: console.SessionOf(r, false),
		Outcome: keystore.Public, Beside: !s.apart}
	judge := func(a node.Answer, err error) (*keystore.Record, keystore.Outcome) {
		switch {
		case err != nil:
			return nil, keystore.Unavailable
		case a.Record == nil:
			return nil, a.Outcome
		}
		policy := s.keys.Policy()
		o := keystore.Decide(a.Record,
			&keystore.Request{Now: a.Now, Policy: policy,
				Namespace: policy.Namespace(keystore.DefaultNamespace),
				Need:      keystore.Need{Class: keystore.Read}})
		if o == keystore.Forbidden { // a member's token has no permissions of its own
			o = keystore.OK
		}
		return a.Record, o
	}
	who.SignIn = func(token string) (*keystore.Record, keystore.Outcome) {
		if keystore.HasTokenPrefix(token, keystore.MemberPrefix) {
			return judge(s.keys.LookupMember(r.Context(), token, now))
		}
		return judge(s.keys.Lookup(r.Context(), token, now))
	}
	switch {
	case s.trusted != "":
		who.Trusted = true
		who.Caller, _ = s.keys.CallerByLogin(r.Context(), s.trusted, s.groups, who.Address, now)
	case who.Session != "":
		record, outcome := judge(s.keys.LookupSession(r.Context(), who.Session, now))
		if who.Outcome = outcome; outcome == keystore.OK {
			who.Caller = manage.MemberCaller(record, who.Address)
		}
	}
	s.console.ServeHTTP(w, r, who)
}

// member creates a member and its token. Each grant is "namespace=@role" or
// "namespace=permission,…".
func (s *site) member(t testing.TB, name string, grants ...string) (id, token string) {
	t.Helper()
	m := keystore.Member{Name: name}
	for _, text := range grants {
		namespace, words, _ := strings.Cut(text, "=")
		g := keystore.Grant{Namespace: namespace}
		for word := range strings.SplitSeq(words, ",") {
			if role, ok := strings.CutPrefix(word, "@"); ok {
				g.Roles = append(g.Roles, role)
				continue
			}
			p, err := keystore.ParsePermission(word)
			if err != nil {
				t.Fatal(err)
			}
			g.Permissions = append(g.Permissions, p)
		}
		m.Grants = append(m.Grants, g)
	}
	created, err := s.keys.CreateMember(ctx, root, m)
	if err != nil {
		t.Fatal(err)
	}
	_, secret, _, err := s.keys.NewMemberToken(ctx, root, created.ID, manage.TokenSpec{},
		manage.ChangeOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return created.ID, secret.Reveal()
}

// A person is a browser without scripts.
type person struct {
	t    testing.TB
	site *site
	http http.Client
}

func (s *site) person(t testing.TB) *person {
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	return &person{t: t, site: s, http: http.Client{Jar: jar}}
}

// signedIn returns a person that has signed in as a new member.
func (s *site) signedIn(t testing.TB, name string, grants ...string) *person {
	t.Helper()
	p := s.person(t)
	_, token := s.member(t, name, grants...)
	p.signIn(token).want(200)
	return p
}

func (p *person) signIn(token string) answer {
	p.t.Helper()
	return p.post("/apikeys/sign-in", "token", token)
}

// An answer is a page, after redirects.
type answer struct {
	t      testing.TB
	Status int
	Header http.Header
	Text   string
	At     *url.URL
	Doc    *html.Node
}

func (p *person) get(path string) answer {
	p.t.Helper()
	r, err := http.NewRequest("GET", p.site.URL+path, nil)
	if err != nil {
		p.t.Fatal(err)
	}
	return p.do(r)
}

// post sends a form, given as alternating names and values.
func (p *person) post(path string, fields ...string) answer {
	p.t.Helper()
	form := make(url.Values)
	for i := 0; i < len(fields); i += 2 {
		form.Add(fields[i], fields[i+1])
	}
	r, err := http.NewRequest("POST", p.site.URL+path, strings.NewReader(form.Encode()))
	if err != nil {
		p.t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("Sec-Fetch-Site", "same-origin")
	return p.do(r)
}

// do sends a request and checks the rules for every page.
func (p *person) do(r *http.Request) answer {
	p.t.Helper()
	resp, err := p.http.Do(r)
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	a := answer{t: p.t, Status: resp.StatusCode, Header: resp.Header, Text: string(text),
		At: resp.Request.URL}
	a.check()
	return a
}

// want stops the test unless the page has this status and contains the texts.
func (a answer) want(status int, texts ...string) answer {
	a.t.Helper()
	if a.Status != status {
		a.t.Fatalf("%s: %d, want %d: %s", a.At, a.Status, status, a.Text)
	}
	for _, text := range texts {
		if !strings.Contains(a.Text, text) {
			a.t.Fatalf("%s has no %q: %s", a.At, text, a.Text)
		}
	}
	return a
}

// lacks fails the test if the page contains one of the texts.
func (a answer) lacks(texts ...string) answer {
	a.t.Helper()
	for _, text := range texts {
		if strings.Contains(a.Text, text) {
			a.t.Errorf("%s has %q", a.At, text)
		}
	}
	return a
}
