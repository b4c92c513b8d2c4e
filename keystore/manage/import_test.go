package manage_test

import (
	"fmt"
	"testing"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest/fleet"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/node"
)

// TestImportDuringALoad: what is read before an import that names no credential is not kept after
// it.
func TestImportDuringALoad(t *testing.T) {
	d := fleet.New(t)
	a, _ := d.Node(node.Settings{})
	b, f := d.Node(node.Settings{})
	specs := func(kind string) (list []manage.ImportSpec) {
		for i := range 200 {
			list = append(list,
				manage.ImportSpec{KeySpec: manage.KeySpec{Home: &keystore.Grant{Permissions: fleet.Read}}, Line: i + 1, Token: fmt.Sprintf("sk.live/%s-%d", kind, i)})
		}
		return list
	}
	bring := func(list []manage.ImportSpec) {
		t.Helper()
		if n, refused, err := a.ImportKeys(ctx, fleet.Root, list, false, nil); err != nil ||
			n != len(list) {
			t.Fatal(n, refused, err)
		}
	}
	bring(specs("first")) // so that such credentials are looked up at all
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
	bring(list)
	close(release)
	fleet.Want(t, "who asked before", <-answered, keystore.Unknown)
	fleet.Want(t, "who asks after", fleet.Ask(b, token), keystore.OK)
}
