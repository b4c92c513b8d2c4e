package manage_test

import (
	"crypto/sha256"
	"encoding/json"
	"strings"
	"testing"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest/fleet"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/node"
)

// TestEveryChangeIsAudited checks that each change writes one row whose hash follows from the
// previous row as documented, and that the row contains no part of a token.
func TestEveryChangeIsAudited(t *testing.T) {
	k, f := fleet.New(t).Node(node.Settings{})
	var previous keystore.AuditRow
	lastRow := func() (row keystore.AuditRow) {
		if _, err := f.Update(ctx, func(tx keystore.Tx) error {
			last, err := tx.LastAudit()
			if last != nil {
				row = *last
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
		return row
	}
	var token keystore.Token
	key, member := new(keystore.Key), new(keystore.Member)
	role := keystore.RoleID{Namespace: "default", Name: "clerk"}
	name := "renamed"
	for _, step := range []struct {
		action string
		do     func() error
	}{
		{"namespace.create", func() error {
			_, err := k.CreateNamespace(ctx, fleet.Root, keystore.Namespace{ID: "acme"})
			return err
		}},
		{"namespace.edit", func() error {
			_, _, err := k.EditNamespace(ctx, fleet.Root, "acme",
				manage.NamespacePatch{Name: &name},
				manage.ChangeOptions{})
			return err
		}},
		{"namespace.delete", func() error {
			_, _, err := k.DeleteNamespace(ctx, fleet.Root, "acme", manage.ChangeOptions{})
			return err
		}},
		{"role.create", func() error {
			_, err := k.CreateRole(ctx, fleet.Root, keystore.Role{Namespace: role.Namespace,
				Name: role.Name, Permissions: fleet.Read})
			return err
		}},
		{"role.edit", func() error {
			_, _, err := k.EditRole(ctx, fleet.Root, role, manage.RolePatch{
				Permissions: []keystore.Permission{{Action: "write"}}}, manage.ChangeOptions{})
			return err
		}},
		{"role.delete", func() error {
			_, _, err := k.DeleteRole(ctx, fleet.Root, role, manage.ChangeOptions{})
			return err
		}},
		{"member.create", func() (err error) {
			member, err = k.CreateMember(ctx, fleet.Root, keystore.Member{Name: "Ada"})
			return err
		}},
		{"member.edit", func() error {
			_, _, err := k.EditMember(ctx, fleet.Root, member.ID, manage.MemberPatch{Name: &name},
				manage.ChangeOptions{})
			return err
		}},
		{"member.token", func() (err error) {
			_, token, _, err = k.NewMemberToken(ctx, fleet.Root, member.ID, manage.TokenSpec{},
				manage.ChangeOptions{})
			return err
		}},
		{"key.mint", func() (err error) {
			key, token, err = k.MintKey(ctx, fleet.Root,
				manage.KeySpec{Home: &keystore.Grant{Permissions: fleet.Read}}, nil)
			return err
		}},
		{"key.edit", func() error {
			_, _, err := k.EditKey(ctx, fleet.Root, key.ID, manage.KeyPatch{Name: &name},
				manage.ChangeOptions{})
			return err
		}},
		{"key.rotate", func() (err error) {
			_, token, _, err = k.RotateKey(ctx, fleet.Root, key.ID, 0, manage.ChangeOptions{})
			return err
		}},
		{"key.revoke", func() error {
			_, _, err := k.RevokeKey(ctx, fleet.Root, key.ID, "leaked", false,
				manage.ChangeOptions{})
			return err
		}},
		{"key.delete", func() error {
			_, _, err := k.DeleteKey(ctx, fleet.Root, key.ID, manage.ChangeOptions{})
			return err
		}},
		{"key.import", func() error {
			_, _, err := k.ImportKeys(ctx, fleet.Root, []manage.ImportSpec{{Token: "legacy/token",
				KeySpec: manage.KeySpec{Home: &keystore.Grant{Permissions: fleet.Read}}}}, false, nil)
			return err
		}},
	} {
		if err := step.do(); err != nil {
			t.Fatalf("%s: %v", step.action, err)
		}
		row := lastRow()
		if row.Action != step.action || row.Actor != keystore.RootMember || row.From != "test" ||
			row.Seq != previous.Seq+1 {
			t.Errorf("%s wrote %+v", step.action, row)
		}
		fields, err := json.Marshal([]any{row.Seq, row.At.UnixMicro(), row.Actor, row.From,
			row.Action, row.Object, row.Namespaces, row.Before, row.After})
		if err != nil {
			t.Fatal(err)
		}
		if row.Hash != sha256.Sum256(append(previous.Hash[:], fields...)) {
			t.Errorf("%s: the chain is broken", step.action)
		}
		if secret := token.Reveal(); secret != "" &&
			strings.Contains(string(fields), secret[len("ak_")+keystore.TokenIDLen:][:10]) {
			t.Errorf("%s: the row contains the token", step.action)
		}
		previous = row
	}
	if _, _, err := k.MintKey(ctx, fleet.Root, manage.KeySpec{}, nil); err == nil {
		t.Fatal("a key without permissions was created")
	}
	if _, _, err := k.MintKey(ctx, manage.Caller{},
		manage.KeySpec{Home: &keystore.Grant{Permissions: fleet.Read}},
		nil); fleet.Code(err) != "insufficient_permission" {
		t.Errorf("the zero caller creates a key: %v", err)
	}
	if row := lastRow(); row.Seq != previous.Seq {
		t.Errorf("a refused change wrote %+v", row)
	}
}
