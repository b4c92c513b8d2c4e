package manage_test

import (
	"fmt"
	"testing"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest/fleet"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/node"
)

// TestImportDuringLoad checks that a node does not cache that a credential is unknown if it is
// imported during the lookup. The change log does not name the credentials of an import.
func TestImportDuringLoad(t *testing.T) {
	d := fleet.New(t)
	a, _ := d.Node(node.Settings{})
	b, f := d.Node(node.Settings{})
	specs := func(kind string) (list []manage.ImportSpec) {
		for i := range 200 {
			spec := manage.KeySpec{Home: &keystore.Grant{Permissions: fleet.Read}}
			list = append(list, manage.ImportSpec{KeySpec: spec, Line: i + 1,
				Token: fmt.Sprintf("sk.live/%s-%d", kind, i)})
		}
		return list
	}
	importKeys := func(list []manage.ImportSpec) {
		t.Helper()
		if n, refused, err := a.ImportKeys(ctx, fleet.Root, list, false, nil); err != nil ||
			n != len(list) {
			t.Fatal(n, refused, err)
		}
	}
	importKeys(specs("first")) // so that nodes look up imported credentials
	list := specs("second")
	token := list[len(list)/2].Token

	reading, release := make(chan struct{}), make(chan struct{})
	hold := func() {
		close(reading)
		<-release
	}
	f.Holding.Store(&hold)
	answered := make(chan keystore.Outcome)
	go func() { answered <- fleet.Ask(b, token) }()
	<-reading
	f.Holding.Store(nil)
	importKeys(list)
	close(release)
	fleet.Want(t, "a lookup from before the import", <-answered, keystore.Unknown)
	fleet.Want(t, "a lookup after the import", fleet.Ask(b, token), keystore.OK)
}
