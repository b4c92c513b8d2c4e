package console_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
	"golang.org/x/net/html"
)

// ownedKey creates a key that a member owns.
func ownedKey(t *testing.T, s *site, owner, namespace, name string) *keystore.Key {
	t.Helper()
	k, _, err := s.keys.MintKey(ctx, root, manage.KeySpec{Name: name, Namespace: namespace,
		Owner: owner, Home: &keystore.Grant{Permissions: permissions(t, "read")}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// TestDisableMember checks that the page says how many keys stop, and that it requires the name.
func TestDisableMember(t *testing.T) {
	s := open(t)
	namespaces(t, s, keystore.Namespace{ID: "acme"})
	p := s.signedIn(t, "Ada", "*=@client-admin")
	ben, _ := s.member(t, "Ben  B.", "acme=read")
	at := "/apikeys/members/" + ben
	p.get(at+"/disable").want(200, ">0 active keys</strong>").lacks("/transfer")
	for i := range 12 {
		ownedKey(t, s, ben, "acme", fmt.Sprint("Worker ", i))
	}
	a := p.get(at+"/disable").want(200, ">12 active keys</strong>", "Worker 11",
		"Type <code><bdi>Ben  B.</bdi></code> to confirm", "Show all active keys")
	if strings.Contains(a.Text, "Worker 1<") {
		t.Error("the page lists more than ten keys")
	}
	p.post(at+"/disable").want(422, "Type the name")
	p.post(at+"/disable", "confirm", "Ben").want(422, `value="Ben"`)
	if m := s.findMember(t, ben); !m.Active {
		t.Error("the member was disabled without its name")
	}
	// a browser shows two spaces as one
	p.post(at+"/disable", "confirm", "ben b.").want(200, "disabled")
	if m := s.findMember(t, ben); m.Active {
		t.Error("the member was not disabled")
	}
	viewer := s.signedIn(t, "Vera", "*=@viewer", "acme=admin.members:update")
	other, _ := s.member(t, "Cleo", "*=read")
	viewer.get("/apikeys/members/"+other+"/disable").want(403, "requires admin.members:update")
	viewer.get("/apikeys/members/" + ben).want(200).lacks("/transfer")
}

// TestMemberWithKeysElsewhere checks that a token and enabling are offered only to visitors that update
// members in the home namespace of the member's key.
func TestMemberWithKeysElsewhere(t *testing.T) {
	s := open(t)
	namespaces(t, s, keystore.Namespace{ID: "acme"}, keystore.Namespace{ID: "eu"})
	eve, _ := s.member(t, "Eve")
	ownedKey(t, s, eve, "eu", "One")
	off := false
	if _, _, err := s.keys.EditMember(ctx, root, eve, manage.MemberPatch{Active: &off},
		manage.ChangeOptions{}); err != nil {
		t.Fatal(err)
	}
	at := "/apikeys/members/" + eve
	one := s.signedIn(t, "Ada", "acme=@client-admin")
	one.get(at).want(200, at+"/edit").lacks(at+"/token", at+"/enable")
	one.post(at+"/token", "version", "3", "expires", "never").want(403, "home namespace of each key")
	both := s.signedIn(t, "Ben", "acme=@client-admin", "eu=admin.members:update")
	both.get(at).want(200, at+"/token", at+"/enable")
}

// TestTransferKeys transfers the keys of a member to another member.
func TestTransferKeys(t *testing.T) {
	s := open(t)
	namespaces(t, s, keystore.Namespace{ID: "acme"}, keystore.Namespace{ID: "eu"})
	p := s.signedIn(t, "Ada", "*=@client-admin")
	ben, _ := s.member(t, "Ben", "acme=read")
	cleo, _ := s.member(t, "Cleo", "acme=read", "eu=read")
	one, two := ownedKey(t, s, ben, "acme", "One"), ownedKey(t, s, ben, "eu", "Two")
	at := "/apikeys/members/" + ben
	p.get(at).want(200, at+"/transfer")
	p.get(at+"/transfer").want(200, "2 keys that you may see", `<option value="`+cleo+`">Cleo`).lacks(`value="` + ben + `"`)
	p.submit(at+"/transfer").want(422, "Choose a member")
	p.post(at+"/transfer", "to", "m_000000000000").want(422, "does not exist")
	p.submit(at+"/transfer", "to", cleo).want(200, "2 keys transferred to Cleo")
	for _, k := range []*keystore.Key{one, two} {
		if got := s.key(t, k.ID); got.Owner != cleo {
			t.Errorf("%s belongs to %s", k.Name, got.Owner)
		}
	}
	p.submit(at+"/transfer", "to", cleo).want(200, "No keys to transfer")
	p.get("/apikeys/members/"+cleo).want(200, "One", "Two")

	// if one key may not be given, none is transferred
	eve := s.signedIn(t, "Eve", "acme=@client-admin", "eu=admin.members:read,admin.keys:read")
	eve.post("/apikeys/members/"+cleo+"/transfer", "to", ben).want(403)
	if s.key(t, one.ID).Owner != cleo {
		t.Error("some keys were transferred")
	}
}

// TestInvisibleNames checks that an object whose name has no visible character can be opened from
// every list.
func TestInvisibleNames(t *testing.T) {
	s := open(t)
	namespaces(t, s, keystore.Namespace{ID: "acme"})
	p := s.signedIn(t, "Ada", "*=@client-admin")
	ben, _ := s.member(t, "Ben", "acme=read")
	k := ownedKey(t, s, ben, "acme", "One")
	for _, name := range []string{"", " ", "\u200b", "\u2800"} {
		if _, err := s.db.Update(ctx, func(tx keystore.Tx) error {
			key, err := tx.Key(k.ID)
			if err != nil {
				return err
			}
			member := *s.keys.Policy().Member(ben)
			key.Name, member.Name = name, name
			key.Version++
			member.Version++
			if err := tx.UpdateMember(&member); err != nil {
				return err
			}
			return tx.UpdateKey(key)
		}); err != nil {
			t.Fatal(err)
		}
		key, member := "/apikeys/keys/"+k.ID, "/apikeys/members/"+ben
		for path, link := range map[string]string{
			"/apikeys/keys": key, key + "/edit": key, key + "/revoke": key, key + "/rotate": key,
			member: key, member + "/disable": key, member + "/delete": key,
			"/apikeys/hygiene": key, "/apikeys/members": member, member + "/edit": member,
			member + "/token": member, member + "/transfer": member,
			"/apikeys/namespaces/acme": member, "/apikeys/namespaces/acme/delete": member,
		} {
			a := p.get(path).want(200)
			form := strings.Count(path, "/") > 3
			if switches := strings.Contains(a.Text, `id="switch"`); switches == form {
				t.Errorf("%s has the switcher of namespaces, which would leave a form: %t", path, switches)
			}
			text := ""
			each(a.Doc, func(n *html.Node) {
				if attr(n, "href") == link {
					text = textOf(n)
				}
			})
			if !keystore.HasGlyph(text) {
				t.Errorf("%q: %s links to %s with %q", name, path, link, text)
			}
		}
	}
	// other fields can be changed, and the key revoked
	at := "/apikeys/keys/" + k.ID
	p.submit(at+"/edit", "metadata", "team=erp").want(200, "Changes saved")
	p.submit(at+"/revoke", "confirm", "revoke").want(200, "Key revoked")
	p.submit("/apikeys/members/"+ben+"/disable", "confirm", ben).want(200, "disabled")
	for _, path := range []string{"/apikeys/members/new", "/apikeys/members/" + ben + "/edit"} {
		p.submit(path, "name", "a\u202eb", "grants[0].namespace", "acme", "grants[0].permissions",
			"read").want(422, "invisible character U&#43;202E")
	}
}
