package manage_test

import (
	"fmt"
	"testing"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest/fleet"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
)

// owned creates a key that a member owns.
func (w *world) owned(owner, home, holds string) (*keystore.Key, string) {
	w.Helper()
	key, token, err := w.MintKey(ctx, fleet.Root, manage.KeySpec{Namespace: home,
		Owner: w.id(owner), Grants: roleGrants(w, holds)}, nil)
	if err != nil {
		w.Fatal(err)
	}
	return key, token.Reveal()
}

// owner returns the name of the member that owns a key.
func (w *world) owner(key *keystore.Key) string {
	w.Helper()
	k, err := w.FindKey(ctx, fleet.Root, key.ID)
	if err != nil {
		w.Fatal(err)
	}
	for name, id := range w.ids {
		if id == k.Owner {
			return name
		}
	}
	return k.Owner
}

// TestTransferKeys checks that a transfer gives the new owner all keys, also inactive ones, except
// revoked ones, and is written to the audit log.
func TestTransferKeys(t *testing.T) {
	w := newWorld(t, "acme", "eu")
	w.member("ada", "acme=read")
	w.member("ben", "acme=read eu=read")
	boss := w.member("boss", "*=*,admin:*")
	one, token := w.owned("ada", "default", "default=read acme=read")
	two, _ := w.owned("ada", "eu", "eu=read")
	revoked, _ := w.owned("ada", "acme", "acme=read")
	fleet.Revoke(t, w.Keystore, revoked.ID, 0)
	off := false
	if _, _, err := w.EditKey(ctx, fleet.Root, two.ID, manage.KeyPatch{Active: &off},
		manage.ChangeOptions{}); err != nil {
		t.Fatal(err)
	}
	fleet.Want(t, "before", fleet.Ask(w.Keystore, token), keystore.Forbidden)
	if _, _, _, err := w.TransferKeys(ctx, boss, w.id("ada"), w.id("ben"),
		manage.ChangeOptions{IfVersion: 7}); fleet.Code(err) != "version_mismatch" {
		t.Errorf("at another version: %v", err)
	}
	m, n, p, err := w.TransferKeys(ctx, boss, w.id("ada"), w.id("ben"), manage.ChangeOptions{})
	if err != nil || n != 2 || !p.Complete || m.ID != w.id("ada") {
		t.Fatalf("%+v, %d, %+v, %v", m, n, p, err)
	}
	for key, want := range map[*keystore.Key]string{one: "ben", two: "ben", revoked: "ada"} {
		if got := w.owner(key); got != want {
			t.Errorf("%s owns %s, want %s", got, key.ID, want)
		}
	}
	if k, err := w.FindKey(ctx, fleet.Root, two.ID); err != nil || k.Active || k.Version != 3 {
		t.Errorf("%+v, %v", k, err)
	}
	rows, _, err := w.ListAudit(ctx, fleet.Root,
		keystore.AuditFilter{Action: "key.edit", Object: one.ID}, "", 10)
	if err != nil || len(rows) != 1 || rows[0].Actor != boss.Member() {
		t.Errorf("audit: %+v, %v", rows, err)
	}
	if v, err := w.VerifyAudit(ctx, fleet.Root); err != nil || v.Wrong != 0 {
		t.Errorf("audit: %+v, %v", v, err)
	}
	// a repeat changes nothing
	if _, n, p, err := w.TransferKeys(ctx, boss, w.id("ada"), w.id("ben"),
		manage.ChangeOptions{}); n != 0 || !p.Complete || err != nil {
		t.Errorf("repeated: %d, %+v, %v", n, p, err)
	}
	if _, _, err := w.DeleteMember(ctx, boss, w.id("ada"), manage.ChangeOptions{}); err != nil {
		t.Errorf("deleting a member without keys: %v", err)
	}
}

// TestTransferIsAllOrNothing checks that a transfer is refused, and changes nothing, unless the
// caller may give each key to the new owner.
func TestTransferIsAllOrNothing(t *testing.T) {
	w := newWorld(t, "acme", "eu")
	w.member("ada", "acme=read eu=read")
	w.member("ben", "acme=read")
	w.member("off", "acme=read")
	w.member("high", "acme=write")
	off := false
	if _, _, err := w.EditMember(ctx, fleet.Root, w.id("off"), manage.MemberPatch{Active: &off},
		manage.ChangeOptions{}); err != nil {
		t.Fatal(err)
	}
	one, _ := w.owned("ada", "acme", "acme=read")
	two, _ := w.owned("ada", "eu", "eu=read")
	key, _ := fleet.Caller(t, w.Keystore, manage.KeySpec{Home: &keystore.Grant{
		Permissions: permissions(t, "*,admin:*")}})
	const manager = "admin.keys:update,admin.members:read,admin.members:update"
	for _, test := range []struct{ name, holds, from, to, want string }{
		{"root", "", "ada", "ada", "invalid_fields"},
		{"root", "", "ada", "nobody", "invalid_fields"},
		{"root", "", "ada", "off", "invalid_fields"},
		{"root", "", "nobody", "ben", "not_found"},
		{"a key", "", "ada", "ben", "insufficient_permission"},
		{"no permission", "acme=*", "ada", "ben", "insufficient_permission"},
		{"who sees no members", "acme=*,admin.keys:update eu=*,admin.keys:update", "ada", "ben",
			"not_found"},
		{"who updates keys in acme", "acme=*," + manager + " eu=*,admin.members:update", "ada",
			"ben", "insufficient_permission"},
		{"who lacks read in eu", "acme=*," + manager + " eu=write," + manager, "ada", "ben",
			"exceeds_caller"},
		{"who does not act for the new owner", "acme=read," + manager + " eu=*," + manager, "ada",
			"high", "exceeds_caller"},
		{"who gives keys to root", "*=*,admin:*", "ada", "root", "exceeds_caller"},
	} {
		c := fleet.Root
		switch {
		case test.name == "a key":
			c = key
		case test.holds != "":
			c = w.member(test.name, test.holds)
		}
		_, n, _, err := w.TransferKeys(ctx, c, w.id(test.from), w.id(test.to),
			manage.ChangeOptions{})
		if fleet.Code(err) != test.want || n != 0 {
			t.Errorf("%s, from %s to %s: %d, %v", test.name, test.from, test.to, n, err)
		}
	}
	if w.owner(one) != "ada" || w.owner(two) != "ada" {
		t.Error("a refused transfer has changed a key")
	}
	allowed := w.member("enough", "acme=*,"+manager+" eu=*,"+manager)
	if _, n, _, err := w.TransferKeys(ctx, allowed, w.id("ada"), w.id("ben"),
		manage.ChangeOptions{}); n != 2 || err != nil {
		t.Errorf("with all permissions: %d, %v", n, err)
	}
}

// TestTransferInBatches transfers more keys than fit into one transaction. None changes if the last
// one may not be given.
func TestTransferInBatches(t *testing.T) {
	w := newWorld(t, "acme", "eu")
	w.member("ada", "acme=read eu=read")
	w.member("ben", "acme=read")
	const manager = "admin.keys:update,admin.members:read,admin.members:update"
	c := w.member("who lacks read in eu", "acme=*,"+manager+" eu=write,"+manager)
	const many = 1100
	specs := make([]manage.ImportSpec, many)
	for i := range specs {
		home := "acme"
		if i == many-1 {
			home = "eu"
		}
		specs[i] = manage.ImportSpec{Line: i + 1, Token: fmt.Sprintf("credential-%d", i),
			KeySpec: manage.KeySpec{Namespace: home, Owner: w.id("ada"),
				Home: &keystore.Grant{Permissions: fleet.Read}}}
	}
	if n, refused, err := w.ImportKeys(ctx, fleet.Root, specs, false, nil); n != many || err != nil {
		t.Fatal(n, refused, err)
	}
	_, n, _, err := w.TransferKeys(ctx, c, w.id("ada"), w.id("ben"), manage.ChangeOptions{})
	if fleet.Code(err) != "exceeds_caller" || n != 0 || w.count("ben") != 0 {
		t.Errorf("one key may not be given: %d of %d, %v", n, w.count("ben"), err)
	}
	_, n, p, err := w.TransferKeys(ctx, fleet.Root, w.id("ada"), w.id("ben"),
		manage.ChangeOptions{})
	if n != many || err != nil || !p.Complete || w.count("ben") != many || w.count("ada") != 0 {
		t.Errorf("%d, %+v, %v; then %d and %d", n, p, err, w.count("ada"), w.count("ben"))
	}
}

// count returns the number of keys that a member owns and that are not revoked.
func (w *world) count(owner string) (n int64) {
	w.Helper()
	if _, err := w.Database().Update(ctx, func(tx keystore.Tx) (err error) {
		n, err = tx.KeysOwnedBy(w.id(owner))
		return err
	}); err != nil {
		w.Fatal(err)
	}
	return n
}
