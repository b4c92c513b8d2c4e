package keystoretest

import (
	"fmt"
	"maps"
	"testing"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// deriving returns a deriving key that depends on a text.
func deriving(s string) keystore.DerivingKey {
	return keystore.DerivingKey{Public: keystore.PublicKey(digest(s)), Prefix: "ak_" + s}
}

func testDeriving(t *testing.T, s Store) {
	db, other := ready(t, s), s.Open(t)
	want := func(name string, k keystore.DerivingKey) {
		t.Helper()
		got, err := other.DerivingKey(ctx, digest(name))
		must(t, err)
		if got != k {
			t.Errorf("%s: %+v, want %+v", name, got, k)
		}
	}
	record := func(keys map[keystore.Digest]keystore.DerivingKey) {
		t.Helper()
		left := maps.Clone(keys)
		must(t, db.RecordDeriving(ctx, left))
		if len(left) > 0 {
			t.Errorf("%d of %d keys are left", len(left), len(keys))
		}
	}
	minted := plain("minted")
	minted.Secrets[0].Deriving = deriving("minted")
	older := []*keystore.Key{minted}
	keys := make(map[keystore.Digest]keystore.DerivingKey)
	for i := range 1200 { // more than one batch
		name := fmt.Sprint("older", i)
		older = append(older, plain(name))
		keys[digest(name)] = deriving(name)
	}
	insert(t, db, older...)
	want("minted", deriving("minted"))
	want("older7", keystore.DerivingKey{})
	want("nobody", keystore.DerivingKey{})

	keys[digest("nobody")], keys[digest("minted")] = deriving("nobody"), deriving("another")
	record(keys)
	record(keys)
	want("older7", deriving("older7"))
	want("older1199", deriving("older1199"))
	want("nobody", keystore.DerivingKey{})
	want("minted", deriving("minted")) // it stays
	again := deriving("older8")
	for _, c := range []struct{ prefix, want string }{
		{" ak ", " ak "}, // a foreign prefix replaces one that is not
		{" ak bk ", " ak bk "},
		{" ak ", " ak bk "}, // foreign prefixes are kept
		{" bk ", " ak bk "},
		{" ck ", " ak bk ck "},
		{" ", " ak bk ck "},
		{" dk ak bk ck ek ", " ak bk ck dk ek "},
	} {
		again.Prefix = c.prefix
		record(map[keystore.Digest]keystore.DerivingKey{digest("older8"): again})
		again.Prefix = c.want
		want("older8", again)
	}
	another := again
	another.Public[0]++
	another.Prefix = " fk "
	record(map[keystore.Digest]keystore.DerivingKey{digest("older8"): another})
	want("older8", again)
	k, _, err := other.KeyByDigest(ctx, digest("older7"))
	must(t, err)
	if k.Secrets[0].Deriving != deriving("older7") {
		t.Errorf("KeyByDigest: %+v", k.Secrets)
	}

	// A rotation adds a deriving key, and at its end the former one is dropped.
	edit(t, db, "minted", func(k *keystore.Key) {
		next := secret("next")
		next.Deriving = deriving("next")
		k.Secrets = append([]keystore.Secret{next}, k.Secrets...)
	})
	want("minted", deriving("minted"))
	want("next", deriving("next"))
	edit(t, db, "minted", func(k *keystore.Key) { k.Secrets = k.Secrets[:1] })
	got, err := db.Key(ctx, "minted")
	must(t, err)
	dropped := "minted"
	if got.Secrets[0].Digest == digest("minted") {
		dropped = "next"
	}
	want(dropped, keystore.DerivingKey{})
	record(map[keystore.Digest]keystore.DerivingKey{digest(dropped): deriving(dropped)})
	want(dropped, keystore.DerivingKey{})

	update(t, db, func(tx keystore.Tx) error { return tx.DeleteKey("older7") })
	want("older7", keystore.DerivingKey{})
	want("older8", again)
}
