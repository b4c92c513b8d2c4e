package keystoretest

import (
	"strings"
	"sync"
	"testing"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

func testDeployment(t *testing.T, s Store) {
	const processes = 6
	var all [processes]keystore.Deployment
	var errs [processes]error
	var wg sync.WaitGroup
	for i := range all {
		db := s.Open(t)
		wg.Go(func() { all[i], errs[i] = db.Deployment(ctx, nil) })
	}
	wg.Wait()
	for i := range all {
		must(t, errs[i])
		if all[i] != all[0] {
			t.Fatal("two processes that started at the same time got different deployments")
		}
	}
	if all[0].Epoch == "" || all[0].TokenKey == [32]byte{} {
		t.Fatal("no epoch or no token key")
	}
	db := s.Open(t)
	list := policy(t, db).Namespaces
	if len(list) != 1 || list[0].ID != keystore.DefaultNamespace || list[0].Version != 1 ||
		list[0].CreatedAt.IsZero() {
		t.Fatalf("namespaces at the start: %+v", list)
	}
	h, err := db.Renew(ctx, "nobody", keystore.Position{})
	must(t, err)
	if h.Epoch != all[0].Epoch || h.Revision == 0 {
		t.Fatalf("head %+v", h)
	}
	before := h.Revision
	_, err = db.Deployment(ctx, nil)
	must(t, err)
	if head(t, db) != before {
		t.Fatal("the second call changed something")
	}
}

func testTokenKey(t *testing.T, newStore func(*testing.T) Store) {
	a, b := [32]byte{1}, [32]byte{2}
	for _, row := range []struct {
		name          string
		first, second *[32]byte
		used          bool // a key is created in between
		ok            bool
	}{
		{"generated", nil, nil, true, true},
		{"configured", &a, &a, true, true},
		{"generated, then configured", nil, &a, true, false},
		{"configured, then generated", &a, nil, true, false},
		{"another", &a, &b, true, false},
		{"generated, then configured, unused", nil, &a, false, true},
		{"configured, then generated, unused", &a, nil, false, true},
		{"another, unused", &a, &b, false, true},
	} {
		t.Run(row.name, func(t *testing.T) {
			s := newStore(t)
			db := s.Open(t)
			first, err := db.Deployment(ctx, row.first)
			must(t, err)
			if row.first != nil && first.TokenKey != *row.first {
				t.Fatal("not the configured key")
			}
			if row.used {
				// A deleted key counts too: clients may still send its token.
				insert(t, db, plain("k"))
				update(t, db, func(tx keystore.Tx) error { return tx.DeleteKey("k") })
			}
			second, err := s.Open(t).Deployment(ctx, row.second)
			if !row.ok {
				wantErr(t, err, keystore.ErrTokenKey)
				if !strings.Contains(err.Error(), "token_key") {
					t.Fatalf("%q does not say what to do", err)
				}
				return
			}
			must(t, err)
			if row.second != nil && second.TokenKey != *row.second ||
				second.TokenKey == [32]byte{} || second.Epoch != first.Epoch {
				t.Fatal("wrong token key or epoch")
			}
			again, err := s.Open(t).Deployment(ctx, row.second)
			must(t, err)
			if again != second {
				t.Fatal("the same call returns another deployment")
			}
		})
	}
	t.Run("generated, then the same configured", func(t *testing.T) {
		db := ready(t, newStore(t))
		generated, err := db.Deployment(ctx, nil)
		must(t, err)
		insert(t, db, plain("k"))
		configured, err := db.Deployment(ctx, &generated.TokenKey)
		must(t, err)
		if configured != generated {
			t.Fatal("different deployments")
		}
	})
	t.Run("a running process keeps its key", func(t *testing.T) {
		s := newStore(t)
		db := ready(t, s)
		must(t, db.Join(ctx, keystore.Node{Incarnation: "running"}))
		_, err := s.Open(t).Deployment(ctx, &a)
		wantErr(t, err, keystore.ErrTokenKey)
	})
}
