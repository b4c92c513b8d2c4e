package console_test

import (
	"net/url"
	"testing"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
)

func (s *site) group(t testing.TB, name, login string, grants ...keystore.Grant) string {
	t.Helper()
	m, err := s.keys.CreateMember(ctx, root, keystore.Member{Name: name, Kind: keystore.Group,
		Login: login, Grants: grants})
	if err != nil {
		t.Fatal(err)
	}
	return m.ID
}

func roleIn(namespace string, roles ...string) keystore.Grant {
	return keystore.Grant{Namespace: namespace, Roles: roles}
}

// TestGroups creates and edits a group as a member.
func TestGroups(t *testing.T) {
	s := open(t)
	p := s.signedIn(t, "Ada", "*=@client-admin")
	a := p.submit("/apikeys/members/new", "name", "Operations", "kind", "group", "login", "ops",
		"grants[0].namespace", "default", "grants[0].roles", "developer").
		want(200, "Member Operations created", "the group ops", "Login", "Group").
		lacks("Create token")
	page := a.At.Path
	a = p.get(page+"/edit").want(200, `type="hidden" name="kind" value="group"`,
		"The name of the group in trust_groups").lacks(`value="person"`)
	p.post(page+"/edit", a.fill("name", "Ops", "login", "operations")...).
		want(200, "Changes saved", "operations")
	p.get("/apikeys/members").want(200, "Ops", `data-label="Kind">Group<`, `data-label="Kind">Person<`)
	p.post(page+"/token", "version", "2", "expires", "never").want(409, "A group has no token")
}

// TestActingForGroups uses the console as a person that is no member.
func TestActingForGroups(t *testing.T) {
	s := open(t)
	namespaces(t, s, keystore.Namespace{ID: "acme", Name: "Acme"})
	ops := s.group(t, "Operations", "ops", roleIn("acme", "developer"), roleIn("default", "developer"))
	s.trusted, s.groups = "eve@example.com", []string{"ops"}
	p := s.person(t)
	p.get("/apikeys/account").want(200, "eve@<wbr>example.<wbr>com", "for <bdi>Operations</bdi>",
		"Access of <bdi>Operations</bdi>").lacks("Sign out everywhere", "You have no token")

	// One group: nothing to choose.
	id, _ := p.createKey("name", "First")
	if k := s.key(t, id); k.Owner != ops || k.CreatedBy != "eve@example.com via "+ops {
		t.Errorf("the key belongs to %s, created by %q", k.Owner, k.CreatedBy)
	}
	p.get("/apikeys/keys/"+id).want(200, "by <bdi>eve@<wbr>example.<wbr>com via Operations</bdi>")
	p.get("/apikeys/keys?owner="+ops).want(200, "<h1><bdi>Keys of Operations</bdi></h1>", "First",
		"<title>Keys of Operations")
	p.get("/apikeys/keys").want(200, "Keys of <bdi>Operations</bdi>").lacks("My keys")
	p.get("/apikeys/audit").want(200, "eve@<wbr>example.<wbr>com via Operations")
	p.get("/apikeys/audit?actor="+url.QueryEscape("eve@example.com via "+ops)).
		want(200, "Key created", "selected>eve@example.com via Operations<")

	// Two groups that have the permissions: one of them must be chosen.
	dev := s.group(t, "Developers", "dev", roleIn("acme", "developer"))
	s.groups = []string{"ops", "dev"}
	p.get("/apikeys/account").want(200, "for 2 groups", "Access of <bdi>Developers</bdi>")
	form := p.get("/apikeys/keys/new?namespace=acme").want(200, "The group that has these permissions",
		">Developers", ">Operations")
	p.post("/apikeys/keys/new", form.fill("name", "Second", "again", "")...).
		want(422, "Developers ("+dev+")", "Operations ("+ops+")")
	p.post("/apikeys/keys/new", form.fill("name", "Second", "owner", dev, "again", "")...).want(201)
	keys, _, err := s.keys.ListKeys(ctx, root, keystore.KeyFilter{Owner: dev}, "", 10)
	if err != nil || len(keys) != 1 || keys[0].Name != "Second" {
		t.Errorf("%v, %v", keys, err)
	}
	// Only one of them has the permissions.
	form = p.get("/apikeys/keys/new?namespace=default")
	p.post("/apikeys/keys/new", form.fill("name", "Third", "again", "")...).want(201)
	if keys, _, _ := s.keys.ListKeys(ctx, root, keystore.KeyFilter{Text: "Third"}, "",
		10); len(keys) != 1 || keys[0].Owner != ops {
		t.Errorf("the key belongs to %+v", keys)
	}

	// Leaving the groups, and disabling one, takes effect with the next request.
	s.groups = []string{"ops"}
	p.get("/apikeys/keys?namespace=acme&owner=" + dev).want(200).lacks("Keys of <bdi>Developers")
	if _, _, err := s.keys.EditMember(ctx, root, ops, manage.MemberPatch{Active: new(false)},
		manage.ChangeOptions{}); err != nil {
		t.Fatal(err)
	}
	p.get("/apikeys/keys").want(403, "No member matches your login")
}
