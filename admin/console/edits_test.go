package console_test

import (
	"fmt"
	"testing"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// TestConflicts checks for all kinds of objects that an edit keeps the changes of two people, and
// asks which value to take if both have changed the same field. TestConflict does it for keys.
func TestConflicts(t *testing.T) {
	s := open(t)
	namespaces(t, s, keystore.Namespace{ID: "acme"}, keystore.Namespace{ID: "eu"})
	for _, in := range []string{"acme", "eu"} {
		roles(t, s, keystore.Role{Namespace: in, Name: "gold",
			Permissions: permissions(t, "orders:read")})
	}
	plan(t, s, "acme", "gold", keystore.Limits{})
	carl, _ := s.member(t, "Carl", "acme=@viewer", "eu=@viewer")
	ada := s.signedIn(t, "Ada", "*=@client-admin")
	ben := s.signedIn(t, "Ben", "*=@client-admin")
	for _, test := range []struct {
		kind, path, both string   // the name of the field that both change
		adas, bens       []string // what only one of them changes
		taken            string   // the label of the fields that only Ben changes
	}{
		{"role", "roles/acme/gold", "description", nil,
			[]string{"permissions_more", "orders:read\norders:write"}, "Permissions"},
		{"plan", "plans/acme/gold", "description",
			[]string{"rate_limit_rule", "limit", "rate_limit.requests", "5"},
			[]string{"quota_rule", "limit", "quota.requests", "7"}, "Quota"},
		{"namespace", "namespaces/acme", "name", []string{"on_leak", "revoke"},
			[]string{"max_lifetime", "90d", "key_roles_rule", "exactly", "key_roles", "viewer"},
			"Roles of keys, Maximum lifetime"},
		{"member", "members/" + carl, "name", []string{"login", "carl"},
			[]string{"grants[0].permissions", "orders:read"}, "Access"},
	} {
		edit := "/apikeys/" + test.path + "/edit"
		form := ada.get(edit).fill(append(test.adas, test.both, "Adas")...)
		ben.submit(edit, append(test.bens, test.both, "Bens")...).want(200, "Changes saved")
		ben.submit("/apikeys/roles/eu/gold/edit", "description", "Not for "+test.kind).want(200)

		a := ada.post(edit, form...).want(412,
			"Someone changed this "+test.kind+" while you were editing",
			"You had not changed "+test.taken, "by <bdi>Ben</bdi>", "Keep mine",
			"<bdi>Adas</bdi>", "Take theirs", "<bdi>Bens</bdi>").lacks("Not for")
		check := func(a answer, both string) {
			t.Helper()
			want := append(append([]string{test.both, both}, test.adas...), test.bens...)
			for i := 0; i < len(want); i += 2 {
				if got, _ := a.field(want[i]); got != want[i+1] {
					t.Errorf("%s: %s is %q, want %q", test.kind, want[i], got, want[i+1])
				}
			}
		}
		check(a, "Adas")
		ada.post(edit, a.fill("take:"+test.both, "theirs")...).want(200, "Changes saved")
		check(ada.get(edit), "Bens")
	}

	// The access of a member is one field, regardless of the order of its namespaces.
	edit := "/apikeys/members/" + carl + "/edit"
	form := ada.get(edit).fill("grants[1].permissions", "refunds:read")
	removed := ben.submit(edit, "remove", "0").want(200)
	ben.post(edit, removed.fill()...).want(200, "Changes saved")
	a := ada.post(edit, form...).want(412, "<bdi>orders:read, role viewer in acme; "+
		"refunds:read, role viewer in eu</bdi>", "<bdi>role viewer in eu</bdi>")
	ada.post(edit, a.fill("take:grants", "theirs")...).want(200, "Changes saved")
	if m := s.findMember(t, carl); len(m.Grants) != 1 || len(m.Grants[0].Permissions) > 0 {
		t.Errorf("Carl has %v", m.Grants)
	}

	// Add and Remove take effect even if someone else has changed the member meanwhile.
	for _, test := range []struct {
		button, bens []string
		want         string // the namespaces and permissions in the form
	}{
		{[]string{"add", "grant"}, []string{"name", "Karl"}, "[eu ][ ]"},
		{[]string{"add", "grant"}, []string{"grants[0].permissions", "orders:read"}, "[eu orders:read][ ]"},
		{[]string{"remove", "0"}, []string{"name", "Carl"}, ""},
	} {
		form := ada.get(edit).fill(test.button...)
		ben.submit(edit, test.bens...).want(200, "Changes saved")
		a := ada.post(edit, form...).want(412, "Someone changed this member")
		got := ""
		for i := range 3 {
			at := fmt.Sprintf("grants[%d].", i)
			if namespace, ok := a.field(at + "namespace"); ok {
				permissions, _ := a.field(at + "permissions")
				got += fmt.Sprintf("[%s %s]", namespace, permissions)
			}
		}
		if got != test.want {
			t.Errorf("%v after %v: %q, want %q", test.button, test.bens, got, test.want)
		}
	}

	// A new token changes nothing that the form shows.
	form = ada.get(edit).fill("name", "Charles")
	s.endSession(t, carl)
	ada.post(edit, form...).want(200, "Changes saved", "Charles")
}
