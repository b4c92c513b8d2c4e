package manage_test

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest/fleet"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
)

// TestVisibleMembers checks which members, and which of their grants, a caller may read
// (docs/authority.md, rule 10).
func TestVisibleMembers(t *testing.T) {
	w := newWorld(t, "acme", "other")
	w.member("bob", "acme=read")
	w.member("both", "acme=read other=read")
	w.member("elsewhere", "other=read")
	w.member("nothing", "")
	const all = "bob[acme] both[acme other] elsewhere[other] nothing[]"
	for _, c := range []struct{ grants, want string }{
		{"*=admin.members:read", all + " who[*]"},
		{"acme=admin.members:read", "bob[acme] both[acme] nothing[] who[acme]"},
		{"acme=admin.members:read other=read",
			"bob[acme] both[acme] nothing[] who[acme other]"}, // a member may read itself
		{"acme=read", "who[acme]"},
		{"key *=admin.members:read", all},
		{"key acme=read", "insufficient_permission"},
	} {
		grants, isKey := strings.CutPrefix(c.grants, "key ")
		var who manage.Caller
		id := ""
		if isKey {
			who = w.keyCaller(second(w.key(fleet.Root, "acme", grants)))
		} else {
			who = w.member("who", grants)
			id = who.Member()
		}
		list, err := w.ListMembers(ctx, who)
		var words []string
		for _, m := range list {
			var in []string
			for _, g := range m.Grants {
				in = append(in, g.Namespace)
			}
			words = append(words, fmt.Sprint(m.Name, in))
			if found, err := w.FindMember(ctx, who, m.ID); err != nil || found.ID != m.ID {
				t.Errorf("%s: finding %s: %v", c.grants, m.Name, err)
			}
		}
		slices.Sort(words)
		got := strings.Join(words, " ")
		if err != nil {
			got = fleet.Code(err)
		}
		if got != c.want {
			t.Errorf("with %s: %s, want %s", c.grants, got, c.want)
		}
		if !isKey {
			_, hidden := w.FindMember(ctx, who, w.ids["elsewhere"])
			if wide := strings.HasPrefix(c.grants, "*"); wide != (hidden == nil) ||
				!wide && fleet.Code(hidden) != "not_found" {
				t.Errorf("with %s: finding a member of another namespace: %v", c.grants, hidden)
			}
			if _, _, err := w.DeleteMember(ctx, fleet.Root, id,
				manage.ChangeOptions{}); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestMemberFields checks that new and edited members have the fields of the request, and that a
// refusal names the invalid field.
func TestMemberFields(t *testing.T) {
	w := newWorld(t, "acme")
	w.role("acme", "clerk", "read")
	w.member("ada", "")
	long := strings.Repeat("é", 201)
	for field, m := range map[string]keystore.Member{
		"kind":                       {Name: "x", Kind: "robot"},
		"name":                       {},
		"name, too long":             {Name: long},
		"login":                      {Name: "x", Login: long},
		"labels.team":                {Name: "x", Labels: map[string]string{"team": "a\x00"}},
		"grants[0].namespace":        {Name: "x", Grants: roleGrants(t, "nowhere=read")},
		"grants[1].namespace, twice": {Name: "x", Grants: roleGrants(t, "acme=read acme=write")},
		"grants[0].roles":            {Name: "x", Grants: roleGrants(t, "acme=@none")},
	} {
		name, _, _ := strings.Cut(field, ",")
		_, created := w.CreateMember(ctx, fleet.Root, m)
		patch := manage.MemberPatch{Name: &m.Name, Kind: &m.Kind, Login: &m.Login,
			Grants: &m.Grants, Labels: map[string]*string{}}
		for label, value := range m.Labels {
			patch.Labels[label] = &value
		}
		_, _, edited := w.EditMember(ctx, fleet.Root, w.ids["ada"], patch, manage.ChangeOptions{})
		for what, err := range map[string]error{"create": created, "edit": edited} {
			if got := invalidFields(err); got != name {
				t.Errorf("%s, %s: invalid fields %q (%v)", field, what, got, err)
			}
		}
	}
	if _, err := w.CreateMember(ctx, fleet.Root,
		keystore.Member{Name: "x", Login: "ada"}); fleet.Code(err) != "exists" {
		t.Errorf("a login that another member has: %v", err)
	}

	m, err := w.CreateMember(ctx, fleet.Root, keystore.Member{Name: "Bob", Login: "bob",
		Grants: roleGrants(t, "acme=write,read,@clerk"), Labels: map[string]string{"a": "1", "b": "2"}})
	if err != nil {
		t.Fatal(err)
	}
	if !m.Active || m.Kind != keystore.Person || m.Version != 1 ||
		m.CreatedBy != keystore.RootMember || m.CreatedAt.IsZero() {
		t.Errorf("created %+v", m)
	}
	name, login, kind, off := "Rob", "rob", keystore.Service, false
	grants := roleGrants(t, "acme=read")
	value := "3"
	for i, step := range []struct {
		patch  manage.MemberPatch
		expect func(*keystore.Member)
	}{
		{manage.MemberPatch{Name: &name}, func(m *keystore.Member) { m.Name = name }},
		{manage.MemberPatch{Kind: &kind}, func(m *keystore.Member) { m.Kind = kind }},
		{manage.MemberPatch{Login: &login}, func(m *keystore.Member) { m.Login = login }},
		{manage.MemberPatch{Grants: &grants}, func(m *keystore.Member) { m.Grants = grants }},
		{manage.MemberPatch{Labels: map[string]*string{"a": nil, "c": &value}},
			func(m *keystore.Member) { m.Labels = map[string]string{"b": "2", "c": "3"} }},
		{manage.MemberPatch{ClearLabels: true, Labels: map[string]*string{"a": &value}},
			func(m *keystore.Member) { m.Labels = map[string]string{"a": "3"} }},
		{manage.MemberPatch{ClearLabels: true},
			func(m *keystore.Member) { m.Labels = nil }},
		{manage.MemberPatch{Active: &off}, func(m *keystore.Member) { m.Active = false }},
	} {
		want := *m
		step.expect(&want)
		want.Version++
		edited, p, err := w.EditMember(ctx, fleet.Root, m.ID, step.patch, manage.ChangeOptions{})
		if err != nil || !p.Complete {
			t.Fatalf("step %d: %+v, %v", i, p, err)
		}
		found, err := w.FindMember(ctx, fleet.Root, m.ID)
		if err != nil {
			t.Fatal(err)
		}
		for what, got := range map[string]*keystore.Member{"returned": edited, "stored": found} {
			if got.Name != want.Name || got.Kind != want.Kind || got.Login != want.Login ||
				got.Active != want.Active || got.Version != want.Version ||
				!maps.Equal(got.Labels, want.Labels) ||
				fmt.Sprint(got.Grants) != fmt.Sprint(want.Grants) {
				t.Errorf("step %d, %s: %+v, want %+v", i, what, got, want)
			}
		}
		m = found
	}
	if _, _, err := w.EditMember(ctx, fleet.Root, m.ID, manage.MemberPatch{Name: &name},
		manage.ChangeOptions{IfVersion: 1}); fleet.Code(err) != "version_mismatch" {
		t.Errorf("an edit at another version: %v", err)
	}
}

// invalidFields returns the names of the fields that a refusal names.
func invalidFields(err error) string {
	e, is := errors.AsType[*keystore.Error](err)
	if !is || e.Kind != keystore.KindInvalid {
		return ""
	}
	var names []string
	for _, f := range e.Fields {
		names = append(names, f.Field)
	}
	return strings.Join(names, " ")
}

// TestDeleteMember checks that a member is deleted with its token, but not while it owns keys.
func TestDeleteMember(t *testing.T) {
	w := newWorld(t, "acme")
	ada := w.member("ada", "acme=read,admin.keys:create").Member()
	key, _, err := w.MintKey(ctx, fleet.Root, manage.KeySpec{Namespace: "acme", Owner: ada,
		Grants: roleGrants(t, "acme=read")}, nil)
	if err != nil {
		t.Fatal(err)
	}
	_, token, _, err := w.NewMemberToken(ctx, fleet.Root, ada, manage.TokenSpec{},
		manage.ChangeOptions{})
	if err != nil {
		t.Fatal(err)
	}
	outcome := func() keystore.Outcome {
		t.Helper()
		a, err := w.LookupMember(ctx, token.Reveal(), time.Now())
		if err != nil {
			t.Fatal(err)
		}
		if a.Record == nil {
			return a.Outcome
		}
		return keystore.Decide(a.Record, &keystore.Request{Now: a.Now, Policy: w.Policy()})
	}
	fleet.Want(t, "before", outcome(), keystore.Forbidden) // a token itself has no grants
	if _, _, err := w.DeleteMember(ctx, fleet.Root, ada,
		manage.ChangeOptions{}); fleet.Code(err) != "in_use" {
		t.Errorf("a member that owns a key: %v", err)
	}
	fleet.Revoke(t, w.Keystore, key.ID, 0)
	m, p, err := w.DeleteMember(ctx, fleet.Root, ada, manage.ChangeOptions{})
	if err != nil || !p.Complete || m.ID != ada || len(m.Grants) != 1 {
		t.Errorf("deleted %+v, %+v, %v", m, p, err)
	}
	fleet.Want(t, "its token", outcome(), keystore.Revoked)
	if _, err := w.FindMember(ctx, fleet.Root, ada); fleet.Code(err) != "not_found" {
		t.Errorf("finding it: %v", err)
	}
}

// TestMemberTokens checks the fields of a member's token, and which new token somebody with a
// leaked one can get (docs/authority.md, rule 11).
func TestMemberTokens(t *testing.T) {
	w := newWorld(t, "acme")
	ada := w.member("ada", "acme=read,admin:*")
	inside := []netip.Prefix{netip.MustParsePrefix("10.1.2.3/8")}
	expiry := w.Now().Add(time.Hour)
	mint := func(
		who manage.Caller, id string, spec manage.TokenSpec, o manage.ChangeOptions,
	) (manage.Caller, error) {
		t.Helper()
		m, token, p, err := w.NewMemberToken(ctx, who, id, spec, o)
		if err != nil {
			return manage.Caller{}, err
		}
		if m.ID != id || !p.Complete {
			t.Errorf("%+v, %+v", m, p)
		}
		a, err := w.LookupMember(ctx, token.Reveal(), time.Now())
		if err != nil || a.Record == nil {
			t.Fatal(a.Outcome, err)
		}
		return manage.MemberCaller(a.Record, "test"), nil
	}
	for field, spec := range map[string]manage.TokenSpec{
		"allowed_ips[0]": {AllowedIPs: []netip.Prefix{{}}},
		"expires_at":     {ExpiresAt: w.Now().Add(-time.Second)},
	} {
		if _, err := mint(fleet.Root, ada.Member(), spec,
			manage.ChangeOptions{}); invalidFields(err) != field {
			t.Errorf("%s: %v", field, err)
		}
	}
	before, err := w.FindMember(ctx, fleet.Root, ada.Member())
	if err != nil {
		t.Fatal(err)
	}
	limited := manage.TokenSpec{ExpiresAt: expiry, AllowedIPs: inside}
	at := manage.ChangeOptions{IfVersion: before.Version}
	leaked, err := mint(fleet.Root, ada.Member(), limited, at)
	if err != nil {
		t.Fatal(err)
	}
	if key, err := w.FindKey(ctx, ada, leaked.Credential()); err != nil ||
		key.AllowedIPs[0].String() != "10.0.0.0/8" {
		t.Errorf("the token is stored as %+v, %v", key, err)
	}
	if _, err := mint(fleet.Root, ada.Member(), limited,
		at); fleet.Code(err) != "version_mismatch" {
		t.Errorf("a repeated request creates another token: %v", err)
	}
	for _, c := range []struct {
		what string
		spec manage.TokenSpec
		want string
	}{
		{"without limits", manage.TokenSpec{}, "exceeds_caller"},
		{"later", manage.TokenSpec{ExpiresAt: expiry.Add(time.Second), AllowedIPs: inside},
			"exceeds_caller"},
		{"from other addresses", manage.TokenSpec{ExpiresAt: expiry}, "exceeds_caller"},
		{"with the same limits", limited, "ok"},
	} {
		next, err := mint(leaked, ada.Member(), c.spec, manage.ChangeOptions{})
		if got := fleet.Code(err); got != c.want {
			t.Errorf("%s: %s, want %s", c.what, got, c.want)
		}
		if err == nil {
			leaked = next
		}
	}
	// The limits are those of the credential, not of the member.
	bob := w.member("bob", "acme=read")
	if _, err := mint(leaked, bob.Member(), manage.TokenSpec{}, manage.ChangeOptions{}); err != nil {
		t.Errorf("a token for another member: %v", err)
	}
	if _, err := mint(ada, ada.Member(), manage.TokenSpec{}, manage.ChangeOptions{}); err != nil {
		t.Errorf("with the login in place of a token: %v", err)
	}
	if _, _, err := w.EditMember(ctx, leaked, ada.Member(), manage.MemberPatch{},
		manage.ChangeOptions{}); fleet.Code(err) != "key_revoked" {
		t.Errorf("the replaced token is accepted: %v", err)
	}
}

// TestMemberEditPermissions checks which edits of a member require permissions in which of its
// namespaces, and what the caller learns from the answer (docs/authority.md, rules 7 and 10).
func TestMemberEditPermissions(t *testing.T) {
	w := newWorld(t, "acme", "other")
	w.role("acme", "clerk", "read")
	both := w.member("both", "acme=read other=read").Member()
	idle := w.member("idle", "acme=write").Member()
	off, on, text, kind := false, true, "x", keystore.Service
	if _, _, err := w.EditMember(ctx, fleet.Root, idle, manage.MemberPatch{Active: &off},
		manage.ChangeOptions{}); err != nil {
		t.Fatal(err)
	}
	grants := func(text string) manage.MemberPatch {
		g := roleGrants(t, text)
		return manage.MemberPatch{Grants: &g}
	}
	const onlyAcme = "acme=*,admin:*"
	const readsAcme = "acme=*,admin.members:read other=*,admin:*"
	for _, c := range []struct {
		grants string // of the caller
		id     string
		patch  manage.MemberPatch
		want   string
	}{
		{onlyAcme, both, manage.MemberPatch{Name: &text}, "insufficient_permission"},
		{onlyAcme, both, manage.MemberPatch{Kind: &kind}, "insufficient_permission"},
		{onlyAcme, both, manage.MemberPatch{Login: &text}, "insufficient_permission"},
		{onlyAcme, both, manage.MemberPatch{Active: &off}, "insufficient_permission"},
		{onlyAcme, both, manage.MemberPatch{Labels: map[string]*string{"a": &text}},
			"insufficient_permission"},
		{onlyAcme, both, manage.MemberPatch{ClearLabels: true}, "insufficient_permission"},
		{onlyAcme, both, grants("acme=write"), "ok"},
		{readsAcme, both, grants("acme=write other=read"), "insufficient_permission"},
		{readsAcme, both, grants("acme=read,@clerk other=read"), "insufficient_permission"},
		{readsAcme, both, grants("acme+=read other=read"), "insufficient_permission"},
		{readsAcme, both, grants("other=read"), "insufficient_permission"},
		{readsAcme, both, grants("acme=read other=write"), "ok"},
		{readsAcme, both, grants("acme=read"), "ok"},
		{"acme=read,admin:*", idle, manage.MemberPatch{Name: &text}, "ok"},
		{"acme=read,admin:*", idle, manage.MemberPatch{Active: &on}, "exceeds_caller"},
		{"acme=read,admin:*", idle, manage.MemberPatch{Login: &text}, "exceeds_caller"},
		{"acme=*,admin:*", idle, manage.MemberPatch{Active: &on}, "ok"},
	} {
		who := w.member("who", c.grants)
		_, _, err := w.EditMember(ctx, who, c.id, c.patch, manage.ChangeOptions{})
		if got := fleet.Code(err); got != c.want {
			t.Errorf("with %s, %+v: %s, want %s", c.grants, c.patch, got, c.want)
		}
		reset := roleGrants(t, "acme=read other=read")
		if _, _, err := w.EditMember(ctx, fleet.Root, both, manage.MemberPatch{Grants: &reset},
			manage.ChangeOptions{}); err != nil {
			t.Fatal(err)
		}
		if _, _, err := w.DeleteMember(ctx, fleet.Root, who.Member(),
			manage.ChangeOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	who := w.member("who", onlyAcme)
	none := []keystore.Grant{}
	m, _, err := w.EditMember(ctx, who, both, manage.MemberPatch{Grants: &none},
		manage.ChangeOptions{})
	if err != nil || m.ID != both || m.Name != "both" || len(m.Grants) != 0 || m.Version == 0 {
		t.Errorf("without the last grant that the caller may read: %+v, %v", m, err)
	}
	if m, err := w.FindMember(ctx, fleet.Root, both); err != nil ||
		grantsText(m.Grants) != "other=read" {
		t.Errorf("it has %+v, %v", m, err)
	}
	wide := w.member("wide", "acme=read other=read").Member()
	deleter := w.member("deleter", "acme=admin:* other=admin.members:delete")
	if m, _, err := w.DeleteMember(ctx, deleter, wide, manage.ChangeOptions{}); err != nil ||
		grantsText(m.Grants) != "acme=read" {
		t.Errorf("deleted by a caller that may read one grant: %+v, %v", m, err)
	}
}

// TestKeysForMembersWithoutGrants checks that acting for a member without grants requires the
// permission to update members somewhere.
func TestKeysForMembersWithoutGrants(t *testing.T) {
	w := newWorld(t, "acme")
	nothing := w.member("nothing", "").Member()
	for grants, want := range map[string]string{
		"acme=*,admin.keys:create":                                         "exceeds_caller",
		"acme=*,admin.keys:create,admin.members:read":                      "insufficient_permission",
		"acme=*,admin.keys:create,admin.members:read,admin.members:update": "ok",
	} {
		who := w.member("who "+grants, grants)
		if _, _, err := w.MintKey(ctx, who, manage.KeySpec{Namespace: "acme", Owner: nothing,
			Grants: roleGrants(t, "acme=read")}, nil); fleet.Code(err) != want {
			t.Errorf("with %s: %v, want %s", grants, err, want)
		}
	}
}

// TestSignInAsOwner checks that a token, a login and enabling a member require admin.members:update
// in the home namespaces of the keys that the member owns and that are not revoked, because they let
// somebody read and revoke these keys (docs/authority.md, rule 7).
func TestSignInAsOwner(t *testing.T) {
	w := newWorld(t, "acme", "eu")
	idle, bob := w.member("idle", "").Member(), w.member("bob", "acme=read").Member()
	team, err := w.CreateMember(ctx, fleet.Root, keystore.Member{Name: "team", Kind: keystore.Group})
	if err != nil {
		t.Fatal(err)
	}
	gone := w.member("gone", "").Member()
	here := w.member("here", "acme=read").Member()
	key := func(owner, home string) string {
		key, _, err := w.MintKey(ctx, fleet.Root, manage.KeySpec{Namespace: home, Owner: owner,
			Grants: roleGrants(t, "acme=read")}, nil)
		if err != nil {
			t.Fatal(err)
		}
		return key.ID
	}
	for _, owner := range []string{idle, bob, team.ID} {
		key(owner, "acme")
		key(owner, "eu")
	}
	key(here, "acme")
	revoked := key(gone, "eu")
	if _, _, err := w.RevokeKey(ctx, fleet.Root, revoked, "", false,
		manage.ChangeOptions{}); err != nil {
		t.Fatal(err)
	}
	set := func(who manage.Caller, id string, patch manage.MemberPatch) error {
		_, _, err := w.EditMember(ctx, who, id, patch, manage.ChangeOptions{})
		return err
	}
	off, on, login := false, true, 0
	attempts := map[string]func(manage.Caller, string) error{
		"a token": func(who manage.Caller, id string) error {
			_, _, _, err := w.NewMemberToken(ctx, who, id, manage.TokenSpec{},
				manage.ChangeOptions{})
			return err
		},
		"a login": func(who manage.Caller, id string) error {
			login++
			name := fmt.Sprint("login ", login)
			return set(who, id, manage.MemberPatch{Login: &name})
		},
		"enabling": func(who manage.Caller, id string) error {
			if err := set(who, id, manage.MemberPatch{Active: &off}); err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := set(fleet.Root, id, manage.MemberPatch{Active: &on}); err != nil {
					t.Fatal(err)
				}
			}()
			return set(who, id, manage.MemberPatch{Active: &on})
		},
	}
	const acme = "acme=*,admin:* "
	for grants, want := range map[string]string{
		acme:                                "exceeds_caller",
		acme + "eu=*,admin.keys:*":          "exceeds_caller",
		acme + "eu=admin.members:update":    "ok",
		acme + "*=admin.members:update":     "ok",
		"acme=*,admin:* eu=admin.members:*": "ok",
	} {
		who := w.member("who "+grants, grants)
		for what, attempt := range attempts {
			for name, id := range map[string]string{"idle": idle, "bob": bob, "team": team.ID,
				"gone": gone, "here": here} {
				want := want
				switch {
				case name == "team" && what == "a token":
					want = "no_token"
				case name == "gone" || name == "here": // it owns no key of eu that is not revoked
					want = "ok"
				}
				err := attempt(who, id)
				if fleet.Code(err) != want {
					t.Errorf("%s for %s with %s: %v, want %s", what, name, grants, err, want)
				}
				if err != nil && !strings.Contains(grants, "eu=") &&
					strings.Contains(err.Error(), `"eu"`) {
					t.Errorf("the refusal names the namespace of a key: %v", err)
				}
			}
		}
		if _, _, err := w.MintKey(ctx, who, manage.KeySpec{Namespace: "acme", Owner: bob,
			Grants: roleGrants(t, "acme=read")}, nil); err != nil {
			t.Errorf("a key for a member that owns keys elsewhere, with %s: %v", grants, err)
		}
	}
	own := w.member("own", "acme=admin.members:update")
	key(own.Member(), "eu")
	for _, what := range []string{"a token", "a login"} {
		if err := attempts[what](own, own.Member()); err != nil {
			t.Errorf("%s of its own: %v", what, err)
		}
	}
}
