package keystore

import (
	"math"
	"net/netip"
	"slices"
	"testing"
	"time"
)

func TestKeyStatus(t *testing.T) {
	for _, test := range []struct {
		name string
		key  Key
		want Status
	}{
		{"active", Key{Active: true}, StatusActive},
		{"inactive", Key{}, StatusInactive},
		{"not yet expired", Key{Active: true, ExpiresAt: noon.Add(1)}, StatusActive},
		{"expired at this instant", Key{Active: true, ExpiresAt: noon}, StatusExpired},
		{"expired and inactive", Key{ExpiresAt: noon.Add(-1)}, StatusExpired},
		{"revoked and expired", Key{ExpiresAt: noon, RevokedAt: noon}, StatusRevoked},
	} {
		if got := test.key.Status(noon); got != test.want {
			t.Errorf("%s: %s, want %s", test.name, got, test.want)
		}
	}
}

// TestKeySecrets checks a key with a current secret, one that expires at noon, and an expired one.
func TestKeySecrets(t *testing.T) {
	k := Key{Secrets: []Secret{{Digest: Digest{1}}, {Digest: Digest{2}, ExpiresAt: noon},
		{Digest: Digest{3}, ExpiresAt: noon.Add(-time.Hour)}}}
	for _, test := range []struct {
		digest byte
		at     time.Time
		want   bool
	}{
		{1, noon, true}, {2, noon.Add(-1), true}, {2, noon, false}, {3, noon.Add(-1), false},
		{4, noon, false},
	} {
		if got := k.Accepts(Digest{test.digest}, test.at); got != test.want {
			t.Errorf("secret %d at %v: %v", test.digest, test.at, got)
		}
	}

	if got := k.Current(noon); got != &k.Secrets[0] {
		t.Errorf("the current secret is %+v", got)
	}
	k.Secrets = k.Secrets[1:]
	if got := k.Current(noon.Add(-1)); got != &k.Secrets[0] {
		t.Errorf("the current secret before noon is %+v", got)
	}
	if got := k.Current(noon); got != nil {
		t.Errorf("the current secret at noon is %+v", got)
	}
}

func TestKeyAccess(t *testing.T) {
	read, write := Permission{Action: "read"}, Permission{Action: "write"}
	for _, test := range []struct {
		name  string
		grant Grant
		want  Access
	}{
		{"read", Grant{Namespace: "acme", Permissions: []Permission{read}}, ReadOnly},
		{"both", Grant{Namespace: "acme", Permissions: []Permission{write, read}}, ReadWrite},
		{"write", Grant{Namespace: "acme", Permissions: []Permission{write}}, Custom},
		{"nothing", Grant{Namespace: "acme"}, Custom},
		{"a role too", Grant{Namespace: "acme", Permissions: []Permission{read},
			Roles: []string{"r"}}, Custom},
		{"elsewhere", Grant{Namespace: "other", Permissions: []Permission{read}}, Custom},
	} {
		k := Key{Namespace: "acme", Grants: []Grant{{Namespace: "*"}, test.grant}}
		if got := k.Access(); got != test.want {
			t.Errorf("%s: %s, want %s", test.name, got, test.want)
		}
		if test.want != Custom && AccessOf(NewSet(test.want.Permissions()...)) != test.want {
			t.Errorf("%s stands for %v", test.want, test.want.Permissions())
		}
	}
	if got := Custom.Permissions(); got != nil {
		t.Errorf("custom stands for %v", got)
	}
}

func TestKeyTouches(t *testing.T) {
	d := NewDirectory(&Policy{Members: []Member{{ID: "ada", Active: true,
		Grants: []Grant{{Namespace: "other"}}}}})
	grants := []Grant{{Namespace: "acme"}, {Namespace: "child"}}
	for _, test := range []struct {
		name string
		key  Key
		want []string
	}{
		{"a key", Key{Namespace: "acme", Owner: "ada", Grants: grants}, []string{"acme", "child"}},
		{"a member's token", Key{Namespace: "acme", Owner: "ada", Personal: true},
			[]string{"other"}},
		{"of a deleted member", Key{Namespace: "acme", Owner: "bob", Personal: true},
			[]string{"acme"}},
	} {
		if got := test.key.Touches(d); !slices.Equal(got, test.want) {
			t.Errorf("%s: %v, want %v", test.name, got, test.want)
		}
	}
}

func TestRecordExpiry(t *testing.T) {
	late := time.Date(2262, 4, 12, 0, 0, 0, 0, time.UTC) // too late for Unix nanoseconds
	for _, test := range []struct {
		name        string
		key, secret time.Time
		want        int64
	}{
		{"never", time.Time{}, time.Time{}, math.MaxInt64},
		{"with the key", noon, time.Time{}, noon.UnixNano()},
		{"with the secret", noon, noon.Add(-1), noon.UnixNano() - 1},
		{"too late to tell", late, late, math.MaxInt64},
		{"in the last second", time.Unix(lastSecond, 999_999_999), late, math.MaxInt64},
		{"just not too late", time.Unix(lastSecond-1, 999), late, (lastSecond-1)*1e9 + 999},
	} {
		r := NewRecord(&Key{ExpiresAt: test.key,
			Secrets: []Secret{{Digest: Digest{1}, ExpiresAt: test.secret}}}, Digest{1})
		if got := r.Expiry(); got != test.want {
			t.Errorf("%s: %d, want %d", test.name, got, test.want)
		}
	}
	if r := NewRecord(new(Key), Digest{1}); !r.RotatedOut() || r.Usable() {
		t.Error("a digest that the key does not have is usable")
	}
}

// TestRecordSet checks that the permissions of a record are those that its key and its owner have.
func TestRecordSet(t *testing.T) {
	d := NewDirectory(&Policy{Namespaces: []Namespace{{ID: "acme"}, {ID: "other"}},
		Members: []Member{{ID: "ada", Active: true, Grants: []Grant{{Namespace: "acme",
			Permissions: MustParsePermissions("read", "orders:*")}}}}})
	for _, test := range []struct{ owner, namespace, want string }{
		{RootMember, "acme", "orders:search,read,shop:write"},
		{"ada", "acme", "orders:search,read"},
		{RootMember, "other", ""}, {"ada", "other", ""}, {"eve", "acme", ""},
	} {
		r := NewRecord(&Key{Owner: test.owner, Grants: []Grant{{Namespace: "acme",
			Permissions: MustParsePermissions("read", "shop:write", "orders:search")}},
			Secrets: []Secret{{Digest: Digest{1}}}}, Digest{1})
		if got := r.Set(d, d.Namespace(test.namespace), nil).String(); got != test.want {
			t.Errorf("a key of %s in %s: %q, want %q", test.owner, test.namespace, got, test.want)
		}
	}
}

func TestRecordPersonal(t *testing.T) {
	for _, personal := range []bool{false, true} {
		r := NewRecord(&Key{Personal: personal, Secrets: []Secret{{Digest: Digest{1}}}}, Digest{1})
		if r.Personal() != personal {
			t.Errorf("a member's token: %v", r.Personal())
		}
	}
}

func TestSessionExpired(t *testing.T) {
	for _, test := range []struct {
		name          string
		created, used time.Duration // before noon
		want          bool
	}{
		{"new", 0, 0, false},
		{"almost idle", 2 * time.Hour, SessionIdle - 1, false},
		{"idle", 2 * time.Hour, SessionIdle, true},
		{"almost too long", SessionLife - 1, 0, false},
		{"too long", SessionLife, 0, true},
	} {
		s := Session{CreatedAt: noon.Add(-test.created), UsedAt: noon.Add(-test.used)}
		if got := s.Expired(noon); got != test.want {
			t.Errorf("%s: %v", test.name, got)
		}
	}
}

func TestRecordUsable(t *testing.T) {
	for _, test := range []struct {
		key  Key
		want bool
	}{
		{Key{Active: true}, true},
		{Key{Active: true, ExpiresAt: noon}, true},
		{Key{}, false},
		{Key{Active: true, RevokedAt: noon}, false},
		{Key{RevokedAt: noon}, false},
	} {
		test.key.Secrets = []Secret{{Digest: Digest{1}}}
		if got := NewRecord(&test.key, Digest{1}).Usable(); got != test.want {
			t.Errorf("%+v: %v", test.key, got)
		}
	}
}

func TestNoteUse(t *testing.T) {
	r, narrowing := new(Record), new(Narrowing)
	at := noon.UnixNano()
	for i, test := range []struct {
		now  int64
		want bool
	}{
		{at, true}, {at, false}, {at + 9, false}, {at + 10, true}, {at + 19, false}, {at + 25, true},
		{at + 30, false}, {at, false},
	} {
		if got := r.NoteUse(test.now, 10); got != test.want {
			t.Errorf("use %d: %v", i, got)
		}
		if got := narrowing.NoteUse(test.now, 10); got != test.want {
			t.Errorf("use %d of a derived token: %v", i, got)
		}
	}
	if (*Narrowing)(nil).NoteUse(at, 10) {
		t.Error("the use of a key is noted as that of a derived token")
	}
}

// TestMergeUses checks that the later use wins, and the later derived use, in any order.
func TestMergeUses(t *testing.T) {
	at := func(s int) time.Time { return noon.Add(time.Duration(s) * time.Second) }
	uses := []LastUse{
		{At: at(1), From: local.Addr(), Derived: DerivedUse{at(1), "one"}},
		{At: at(3), From: six.Addr()},
		{At: at(2), From: local.Addr(), Derived: DerivedUse{at(2), "two"}},
		{At: at(2), From: local.Addr()},
	}
	want := LastUse{at(3), six.Addr(), DerivedUse{at(2), "two"}}
	for i := range uses {
		var got LastUse
		for j := range uses {
			got.Merge(uses[(i+j)%len(uses)])
		}
		if got != want {
			t.Errorf("from %d: %+v, want %+v", i, got, want)
		}
	}
}

func TestRecordSize(t *testing.T) {
	least := NewRecord(new(Key), Digest{}).Size()
	full := NewRecord(&Key{ID: "0123456789", Name: "0123456789",
		AllowedIPs: []netip.Prefix{local, six}, Secrets: []Secret{{}},
		Metadata: map[string]string{"0123456789": "0123456789", "": ""}}, Digest{}).Size()
	if least < 300 || full != least+20+2*32+24 {
		t.Errorf("%d bytes at least, and %d", least, full)
	}
}
