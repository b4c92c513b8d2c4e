package keystore_test

import (
	"fmt"
	"testing"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// TestImportDuringALoad: what is read before an import that names no credential is not kept after
// it.
func TestImportDuringALoad(t *testing.T) {
	d := newDeployment(t)
	a, _ := d.node(keystore.Settings{})
	b, f := d.node(keystore.Settings{})
	specs := func(kind string) (list []keystore.ImportSpec) {
		for i := range 200 {
			list = append(list,
				keystore.ImportSpec{KeySpec: keystore.KeySpec{Home: &keystore.Grant{Permissions: read}}, Line: i + 1, Token: fmt.Sprintf("sk.live/%s-%d", kind, i)})
		}
		return list
	}
	bring := func(list []keystore.ImportSpec) {
		t.Helper()
		if n, refused, err := a.ImportKeys(ctx, root, list, false, ""); err != nil ||
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
	f.holding.Store(&hold)
	answered := make(chan keystore.Outcome)
	go func() { answered <- ask(b, token) }()
	<-reading
	f.holding.Store(nil)
	bring(list)
	close(release)
	want(t, "who asked before", <-answered, keystore.Unknown)
	want(t, "who asks after", ask(b, token), keystore.OK)
}
