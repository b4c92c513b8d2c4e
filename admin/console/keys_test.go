package console_test

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/html"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
)

var tokens = regexp.MustCompile(`ak_[0-9A-Za-z]{58}`)

// fill returns the fields of the form that posts to its own address, as a browser would send them,
// with changes given as alternating names and values. The value "-" removes a field.
func (a answer) fill(changes ...string) []string {
	a.t.Helper()
	changed := make(map[string][]string)
	for i := 0; i < len(changes); i += 2 {
		changed[changes[i]] = append(changed[changes[i]], changes[i+1])
	}
	var fields []string
	var form *html.Node
	each(a.Doc, func(n *html.Node) {
		if n.Data == "form" && attr(n, "method") == "post" &&
			attr(n, "action") == a.At.RequestURI() {
			form = n
		}
	})
	if form == nil {
		a.t.Fatalf("%s has no form: %s", a.At, a.Text)
	}
	add := func(name, value string) {
		if _, other := changed[name]; !other && name != "" {
			fields = append(fields, name, value)
		}
	}
	each(form, func(n *html.Node) {
		if has(n, "disabled") {
			return
		}
		switch n.Data {
		case "textarea":
			add(attr(n, "name"), textOf(n))
		case "select":
			value, chosen := "", false
			each(n, func(o *html.Node) {
				if o.Data == "option" && (!chosen || has(o, "selected")) {
					value, chosen = attr(o, "value"), true
				}
			})
			add(attr(n, "name"), value)
		case "input":
			if t := attr(n, "type"); t != "checkbox" && t != "radio" || has(n, "checked") {
				add(attr(n, "name"), attr(n, "value"))
			}
		}
	})
	for name, values := range changed {
		for _, value := range values {
			if value != "-" {
				fields = append(fields, name, value)
			}
		}
	}
	return fields
}

// submit fills in the form of a page and sends it.
func (p *person) submit(path string, changes ...string) answer {
	p.t.Helper()
	return p.post(path, p.get(path).want(200).fill(changes...)...)
}

// createKey creates a key on the page and returns its id and token.
func (p *person) createKey(changes ...string) (id, token string) {
	p.t.Helper()
	a := p.submit("/apikeys/keys/new", changes...).want(201, "It will not be shown again")
	token = tokens.FindString(a.Text)
	if token == "" {
		p.t.Fatalf("no token: %s", a.Text)
	}
	return token[3:15], token
}

func (s *site) key(t testing.TB, id string) *keystore.Key {
	t.Helper()
	k, err := s.keys.FindKey(ctx, root, id)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// accepts reports whether a token is accepted.
func (s *site) accepts(t testing.TB, token string) bool {
	t.Helper()
	a, err := s.keys.Lookup(ctx, token, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if a.Record == nil {
		return false
	}
	policy := s.keys.Policy()
	o := keystore.Decide(a.Record,
		&keystore.Request{Now: a.Now, Policy: policy,
			Namespace: policy.Namespace(a.Record.Namespace),
			Need:      keystore.Need{Class: keystore.Read}})
	return o == keystore.OK || o == keystore.Forbidden
}

func grantsOf(k *keystore.Key) string {
	var b strings.Builder
	for _, g := range k.Grants {
		fmt.Fprintf(&b, "%s %v %v", g.Namespace, g.Permissions, g.Roles)
		if g.Connected {
			b.WriteString(" connected")
		}
		b.WriteString("; ")
	}
	return strings.TrimSuffix(b.String(), "; ")
}

func namespaces(t testing.TB, s *site, list ...keystore.Namespace) {
	t.Helper()
	for _, ns := range list {
		if _, err := s.keys.CreateNamespace(ctx, root, ns); err != nil {
			t.Fatal(err)
		}
	}
}

func TestList(t *testing.T) {
	s := open(t)
	namespaces(t, s, keystore.Namespace{ID: "acme"})
	p := s.signedIn(t, "Ada", "*=@client-admin")
	p.get("/apikeys/keys").want(200, "First steps", "Create key")
	p.get("/apikeys/keys?q=x").want(200, "No keys match")
	var specs []manage.ImportSpec
	for i := range 70 {
		spec := manage.KeySpec{Name: fmt.Sprintf("Worker %03d", i),
			Home:     &keystore.Grant{Permissions: []keystore.Permission{{Action: "read"}}},
			Inactive: i%10 == 1}
		if i == 42 {
			spec.Namespace = "acme"
		}
		specs = append(specs, manage.ImportSpec{KeySpec: spec,
			Token: fmt.Sprintf("credential-%03d", i), Line: i})
	}
	if n, refused, err := s.keys.ImportKeys(ctx, root, specs, false, nil); n != len(specs) ||
		err != nil {
		t.Fatal(n, refused, err)
	}
	var seen []string
	a := p.get("/apikeys/keys?status=active&namespace=default&q=worker")
	for range 10 {
		seen = append(seen, a.want(200).rows()...)
		next := ""
		each(a.Doc, func(n *html.Node) {
			if attr(n, "rel") == "next" {
				next = attr(n, "href")
			}
		})
		if next == "" {
			break
		}
		a = p.get(next)
	}
	if once := slices.Compact(slices.Sorted(slices.Values(seen))); len(seen) != 62 ||
		len(once) != 62 {
		t.Errorf("%d: %v", len(seen), seen)
	}
	p.get("/apikeys/keys?namespace=acme").want(200, "Worker 042").lacks("Worker 041")
	if n := len(p.get("/apikeys/keys").rows()); n != 50 {
		t.Errorf("a page of %d keys, want 50", n)
	}
	for sort, want := range map[string]string{
		"": "descending Created", "created_at": "ascending Created", "name": "ascending Name",
		"-name": "descending Name", "expires_at": "ascending Expires",
		"-last_used_at": "descending Last used",
	} {
		var heads []string
		a := p.get("/apikeys/keys?namespace=default&q=worker&sort=" + sort).want(200)
		each(a.Doc, func(n *html.Node) {
			if by := attr(n, "aria-sort"); by != "" {
				heads = append(heads, by+" "+textOf(n))
			}
		})
		if len(heads) != 1 || strings.Join(strings.Fields(heads[0]), " ") != want {
			t.Errorf("sorted by %q: %q, want %s", sort, heads, want)
		}
	}
	a = p.get("/apikeys/keys?q=worker")
	for _, want := range []string{"Worker 000", "Worker 069"} { // ascending first, then descending
		a = p.get(link(a, "Name"))
		if first := a.want(200).rows()[0]; first != want {
			t.Errorf("by name: %s is the first, want %s", first, want)
		}
	}
	if first := p.get(link(a, "Next page")).want(200).rows()[0]; first != "Worker 019" {
		t.Errorf("the second page by name begins with %s", first)
	}
	p.createKey("name", "My own")
	own := p.get("/apikeys/keys")
	mine := link(own, "My keys")
	if a := p.get(mine+"&q=own").want(200, "My own"); link(a, "Clear filters") != mine {
		t.Errorf("My keys: Clear filters leads to %s", link(a, "Clear filters"))
	}
	if a := p.get("/apikeys/keys?namespace=acme&owner=root&sort=name&cursor=").want(200,
		"Worker 042"); link(a, "Clear filters") != "/apikeys/keys?namespace=acme&sort=name" {
		t.Errorf("keys of another owner: Clear filters leads to %s", link(a, "Clear filters"))
	} else if owner, exists := a.field("owner"); owner != "root" || !exists ||
		strings.Count(a.Text, `<input type="hidden" name="sort" value="name">`) != 1 {
		t.Error("the switcher does not keep the filters")
	}
	p.get(mine+"&namespace=acme").want(200, "Keys that act for you in namespace <bdi>acme</bdi>")
	p.get(mine).want(200, "My own", "Revoke").lacks("Worker")
	p.get("/apikeys/keys?namespace=no%20such").want(422)
	p.get("/apikeys/keys?namespace=acne").want(200, "Namespace not found",
		"Show all keys").lacks("/apikeys/keys/new")
}

// link returns the address of the last link with a text, or an empty string.
func link(a answer, text string) (href string) {
	each(a.Doc, func(n *html.Node) {
		if n.Data == "a" && strings.TrimSpace(textOf(n)) == text {
			href = attr(n, "href")
		}
	})
	return href
}

// rows returns the names in the rows of a list.
func (a answer) rows() (names []string) {
	each(a.Doc, func(n *html.Node) {
		if n.Data == "th" && attr(n, "scope") == "row" {
			each(n, func(n *html.Node) {
				if n.Data == "bdi" {
					names = append(names, textOf(n))
				}
			})
		}
	})
	return names
}

// TestEscapedNames checks that every page escapes names.
func TestEscapedNames(t *testing.T) {
	s := open(t)
	for _, name := range []string{
		`<script>alert(1)</script>`, `"><img src=x onerror=alert(1)>{{.}}&amp;`,
		strings.Repeat("W", 200), strings.Repeat("<b>", 66), "يوم evil 日本語 b",
		"javascript:alert(1)",
	} {
		p := s.signedIn(t, name, "*=@client-admin")
		id, _ := p.createKey("name", name, "metadata", "x="+name)
		for _, path := range []string{"/apikeys/keys", "/apikeys/keys/" + id,
			"/apikeys/keys/" + id + "/edit", "/apikeys/keys/" + id + "/rotate", "/apikeys/keys/" +
				id + "/revoke", "/apikeys/keys/new"} {
			a := p.get(path).want(200, html.EscapeString(strings.ReplaceAll(name, `"`,
				"")[:1])).lacks("<script>alert", "<img src=x", "<b><b>")
			if strings.Contains(path, id) && !strings.Contains(textOf(a.Doc), name) {
				t.Errorf("%s does not show %q", path, name)
			}
		}
		p.post("/apikeys/keys/"+id+"/edit",
			p.get("/apikeys/keys/"+id+"/edit").fill("reason", name)...).want(200)
		if got := s.key(t, id).Name; got != name {
			t.Errorf("%q became %q", name, got)
		}
		p.submit("/apikeys/keys/"+id+"/revoke", "confirm", "revoke", "reason", name).want(200)
	}
}
