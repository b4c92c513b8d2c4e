package node_test

import (
	"strings"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest/fleet"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/node"
)

// TestForgedTokensCountInNoTier checks that forged tokens are not looked up. Credentials that may
// have been imported are looked up after the first import.
func TestForgedTokensCountInNoTier(t *testing.T) {
	k, _ := fleet.New(t).Node(node.Settings{})
	_, token := fleet.Mint(t, k, manage.KeySpec{})
	forged := strings.TrimSuffix(token, token[len(token)-1:]) + "0"
	if forged == token {
		forged = strings.TrimSuffix(token, "0") + "1"
	}
	outcome := func(credential string) keystore.Outcome {
		t.Helper()
		a, err := k.Lookup(ctx, credential, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		return a.Outcome
	}
	before := k.Stats().Lookups
	impossible := []string{
		forged, "ak_", "ak_too-short-for-a-token", "akm_" + token[3:],
		strings.Repeat("é", 20), "with a space in it", "",
	}
	for _, credential := range append(impossible, "nobody-has-imported-anything") {
		if o := outcome(credential); o != keystore.Malformed {
			t.Errorf("%q is %v", credential, o)
		}
	}
	if now := k.Stats().Lookups; now != before {
		t.Errorf("forged tokens are counted: %v, before %v", now, before)
	}

	if _, _, err := k.ImportKeys(ctx, fleet.Root, []manage.ImportSpec{{
		KeySpec: manage.KeySpec{Home: &keystore.Grant{Permissions: fleet.Read}},
		Token:   "imported-0123456789",
	}}, false, nil); err != nil {
		t.Fatal(err)
	}
	before = k.Stats().Lookups
	for _, credential := range impossible {
		if o := outcome(credential); o != keystore.Malformed {
			t.Errorf("%q is %v", credential, o)
		}
	}
	if now := k.Stats().Lookups; now != before {
		t.Errorf("forged tokens are counted after an import: %v, before %v", now, before)
	}
	fleet.Want(t, "not imported", outcome("not-imported-0123456789"), keystore.Unknown)
	fleet.Want(t, "not imported, again", outcome("not-imported-0123456789"), keystore.Unknown)
	before[node.TierLocal][node.Miss]++
	before[node.TierNegative][node.Miss]++
	before[node.TierDatabase][node.Miss]++
	before[node.TierNegative][node.Hit]++
	if now := k.Stats().Lookups; now != before {
		t.Errorf("lookups of a credential that may have been imported: %v, want %v", now, before)
	}
}
