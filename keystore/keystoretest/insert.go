package keystoretest

import (
	"errors"
	"fmt"
	"maps"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// testInsertKeys: InsertKeys inserts or refuses each of several keys as if one after the other.
func testInsertKeys(t *testing.T, s Store) {
	db := ready(t, s)
	other := s.Open(t)
	gone, dropped := plain("gone"), plain("dropped")
	insert(t, db, plain("taken"), gone, dropped)
	edit(t, db, "dropped", func(k *keystore.Key) { k.Secrets = nil })
	update(t, db, func(tx keystore.Tx) error { return tx.DeleteKey("gone") })

	for _, n := range []int{0, 5, 50, 120} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			name := func(s string) string { return fmt.Sprint(s, " of ", n) }
			with := func(id string, secrets ...string) *keystore.Key {
				k := full(name(id))
				k.RevokedAt, k.Active, k.ExpiresAt = never, true, never
				k.Secrets = nil
				for i, s := range secrets {
					k.Secrets = append(k.Secrets, keystore.Secret{Digest: digest(s),
						CreatedAt: start.Add(-time.Duration(i) * time.Second),
						ExpiresAt: start.Add(time.Duration(i) * time.Hour)})
				}
				return k
			}
			taken := with("", name("not used by one refused"))
			taken.ID = "taken"
			cases := []struct {
				key *keystore.Key
				err error
			}{
				{taken, keystore.ErrExists},
				{with("spent", name("first")), nil},
				{with("spent again", "dropped", name("second")), keystore.ErrSpent},
				{with("spent again", "gone"), keystore.ErrSpent},
				{with("spent again", name("first")), keystore.ErrSpent},
				{with("spent again", name("twice"), name("twice")), keystore.ErrSpent},
				{with("spent again", name("second"), name("not used by one refused")), nil},
				{with("spent", name("third")), keystore.ErrExists},
				{with("spent", "gone"), keystore.ErrExists},
				{with("none"), nil},
			}
			var keys, kept []*keystore.Key
			want := map[int]error{}
			logged := map[keystore.Digest]time.Time{}
			add := func(k *keystore.Key, err error) {
				if err != nil {
					want[len(keys)] = err
				} else {
					kept = append(kept, k)
					for _, s := range k.Secrets {
						logged[s.Digest] = s.ExpiresAt
					}
				}
				keys = append(keys, k)
			}
			for i := range n {
				add(with(fmt.Sprint("key ", i), name(fmt.Sprint("secret ", i))), nil)
				if i%7 == 3 && len(cases) > 0 {
					add(cases[0].key, cases[0].err)
					cases = cases[1:]
				}
			}
			for _, c := range cases {
				add(c.key, c.err)
			}

			refusal := errors.New("no")
			_, err := db.Update(ctx, func(tx keystore.Tx) error {
				if _, err := tx.InsertKeys(keys); err != nil {
					return err
				}
				return refusal
			})
			wantErr(t, err, refusal)
			after := head(t, db)
			var refused map[int]error
			at := update(t, db, func(tx keystore.Tx) (err error) {
				refused, err = tx.InsertKeys(keys)
				return err
			})
			if !maps.EqualFunc(refused, want, errors.Is) {
				t.Fatalf("refused %v, want %v", refused, want)
			}
			for i, k := range kept {
				if i > 20 && i < len(kept)-20 && i%10 > 0 {
					continue
				}
				got, err := other.Key(ctx, k.ID)
				must(t, err)
				wantKey(t, got, k)
				for _, s := range k.Secrets {
					if got := lookup(t, other, s.Digest); got != k.ID {
						t.Fatalf("a secret of %s authenticates as %q", k.ID, got)
					}
				}
			}
			for _, refused := range []string{"third", "twice"} {
				if id := lookup(t, db, digest(name(refused))); id != "" {
					t.Fatalf("a secret of a refused key authenticates as %s", id)
				}
			}
			got, others := expiries(t, other, after)
			if others[keystore.ChangeNew] {
				if n < 100 {
					t.Errorf("the log does not name %d secrets", n)
				}
			} else {
				wantExpiries(t, got, logged)
			}
			if limit := keystore.Revision(len(logged)); at <= after || at > after+limit {
				t.Errorf("the head went from %d to %d", after, at)
			}

			// The log names later secrets, in the same transaction and in the next.
			after = at
			update(t, db, func(tx keystore.Tx) error {
				must(t, insertKey(tx, plain(name("next"))))
				return change(name("none"),
					func(k *keystore.Key) {
						k.Secrets = []keystore.Secret{secret(name("late"))}
					})(tx)
			})
			got, others = expiries(t, other, after)
			wantExpiries(t, got, map[keystore.Digest]time.Time{digest(name("next")): never,
				digest(name("late")): never})
			if len(others) > 0 {
				t.Errorf("also changed: %v", others)
			}
		})
	}

	// The log must not grow with the number of keys.
	after := head(t, db)
	var many []*keystore.Key
	for i := range 400 {
		many = append(many, plain(fmt.Sprint("many ", i)))
	}
	at := insert(t, db, many...)
	changes, err := other.Changes(ctx, after, at)
	must(t, err)
	if len(changes) > 10 {
		t.Errorf("%d changes for 400 keys", len(changes))
	}
	if _, others := expiries(t, other, after); !others[keystore.ChangeNew] {
		t.Error("the log does not say that there are new credentials")
	}
}

// testAbandoned: an abandoned import lasts until RemoveAbandoned has removed its keys, because
// their secrets would become valid.
func testAbandoned(t *testing.T, s Store) {
	db := ready(t, s)
	keys := []*keystore.Key{plain("k1"), plain("k2"), plain("k3")}
	update(t, db, func(tx keystore.Tx) error {
		id, err := tx.BeginImport("i", keystore.RootMember)
		must(t, err)
		for _, k := range keys {
			k.CreatedAt = tx.Now()
		}
		refused, err := tx.StageKeys(id, keys)
		must(t, err)
		if len(refused) > 0 {
			t.Fatalf("refused: %v", refused)
		}
		return tx.AbandonImports(id, time.Time{})
	})
	for left := len(keys); left >= 0; left-- {
		update(t, db, func(tx keystore.Tx) error {
			changed, err := tx.ChangedAbandoned(10)
			if len(changed) > 0 {
				t.Errorf("%d keys are left: %v changed", left, changed)
			}
			return err
		})
		for _, k := range keys {
			found, _, err := db.KeyByDigest(ctx, digest(k.ID))
			must(t, err)
			if found != nil {
				t.Errorf("%d keys are left: the secret of %s is valid", left, k.ID)
			}
		}
		update(t, db, func(tx keystore.Tx) error {
			removed, err := tx.RemoveAbandoned(1)
			if len(removed) != min(left, 1) {
				t.Errorf("%d keys are left: %d were removed", left, len(removed))
			}
			return err
		})
	}
}
