package admin_test

import (
	"context"
	"strings"
	"testing"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest/fleet"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/sqldb"
)

// TestOldTextsWithTokens checks that a key with a token in its name and metadata, stored before
// these were refused, can be deactivated, renamed and revoked.
func TestOldTextsWithTokens(t *testing.T) {
	db, err := sqldb.OpenSQLite(context.Background(), fleet.File(t))
	if err != nil {
		t.Fatal(err)
	}
	d := openOn(t, db)
	m := d.mint(t, root, readOnly)
	var ada api.Member
	d.call(t, root, "POST", "/members", `{"name":"Ada"}`).into(t, 201, &ada)
	if _, err := db.Update(t.Context(), func(tx keystore.Tx) error {
		k, err := tx.Key(m.Key.ID)
		if err != nil {
			return err
		}
		k.Name, k.Metadata = "was "+m.Token, map[string]string{"a": m.Token, m.Token: "b"}
		policy, err := tx.Policy(keystore.Nowhere)
		if err != nil {
			return err
		}
		for i := range policy.Members {
			policy.Members[i].Name = m.Token
			if err := tx.UpdateMember(&policy.Members[i]); err != nil {
				return err
			}
		}
		return tx.UpdateKey(k)
	}); err != nil {
		t.Fatal(err)
	}
	key := "/keys/" + m.Key.ID
	d.call(t, root, "PATCH", key, `{"active":false}`).into(t, 200, new(api.KeyChanged))
	d.call(t, root, "PATCH", "/members/"+ada.ID, `{"active":false}`).into(t, 200,
		new(api.MemberChanged))
	if p := d.call(t, root, "PATCH", key,
		`{"metadata":{"c":"`+m.Token+`"}}`).problem(t); p.Status != 422 {
		t.Errorf("%+v", p)
	}
	var done api.KeyChanged
	d.call(t, root, "PATCH", key, `{"name":"CI","metadata":null}`).into(t, 200, &done)
	if done.Key.Name != "CI" || len(done.Key.Metadata) > 0 {
		t.Errorf("%+v", done.Key)
	}
	if p := d.call(t, root, "POST", key+"/revoke",
		`{"reason":"leaked `+m.Token+`"}`).problem(t); p.Status != 422 ||
		strings.Contains(p.Error(), m.Token) {
		t.Errorf("%+v", p)
	}
	d.call(t, root, "POST", key+"/revoke", `{"reason":"leaked"}`).into(t, 200, new(api.KeyChanged))
}
