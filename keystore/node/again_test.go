package node_test

import (
	"context"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest/fleet"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/node"
)

// TestLookupAgain checks that a lookup without the credential is as current as one with it.
func TestLookupAgain(t *testing.T) {
	k, _ := fleet.New(t).Node(node.Settings{})
	_, token := fleet.Mint(t, k, manage.KeySpec{Name: "K"})
	const imported = "imported-0123456789"
	if _, _, err := k.ImportKeys(context.Background(), fleet.Root, []manage.ImportSpec{{
		KeySpec: manage.KeySpec{Name: "imported", Home: &keystore.Grant{Permissions: fleet.Read}},
		Token:   imported,
	}}, false, nil); err != nil {
		t.Fatal(err)
	}
	for _, credential := range []string{token, imported} {
		first, err := k.Lookup(context.Background(), credential, time.Now())
		if err != nil || first.Record == nil {
			t.Fatal(first.Outcome, err)
		}
		again := func() node.Answer {
			t.Helper()
			a, err := k.LookupAgain(context.Background(), first.Record, nil, time.Now())
			if err != nil || a.Record == nil {
				t.Fatal(a.Outcome, err)
			}
			return a
		}
		before := again()
		if before.Record != first.Record {
			t.Error("another record")
		}
		if _, _, err := k.RevokeKey(context.Background(), fleet.Root, first.Record.KeyID, "test",
			false, manage.ChangeOptions{}); err != nil {
			t.Fatal(err)
		}
		if k.Enter(before, &node.Running{Cut: func() {}}) {
			t.Error("a revoked key's request enters")
		}
		if o := keystore.Decide(again().Record,
			&keystore.Request{Now: time.Now().UnixNano(), Policy: k.Policy(),
				Namespace: k.Policy().Namespace("default")}); o != keystore.Revoked {
			t.Errorf("after the revoke: %s", o)
		}
	}
}
