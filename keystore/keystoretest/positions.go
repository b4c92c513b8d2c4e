package keystoretest

import (
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// testPositions: a node learns whether its position is in the history of this database.
func testPositions(t *testing.T, s Store) {
	db, other := ready(t, s), s.Open(t)
	head := func(at keystore.Position) keystore.Head {
		t.Helper()
		h, err := other.Renew(ctx, "nobody", at)
		must(t, err)
		return h
	}
	first := head(keystore.Position{})
	if first.Mark == "" || first.Diverged {
		t.Fatalf("at the beginning: %+v", first)
	}
	if age := time.Since(first.Now); age < -time.Minute || age > time.Minute {
		t.Errorf("the database's clock says %s", first.Now)
	}
	update(t, db,
		func(tx keystore.Tx) error {
			return tx.InsertNamespace(&keystore.Namespace{ID: "n", CreatedAt: start})
		})
	second := head(first.Position)
	if second.Revision <= first.Revision || second.Mark == first.Mark || second.Diverged {
		t.Errorf("after a change: %+v, before %+v", second, first)
	}
	for _, c := range []struct {
		what     string
		at       keystore.Position
		diverged bool
	}{
		{"the same", second.Position, false},
		{"another mark at the head", keystore.Position{Revision: second.Revision, Mark: first.Mark},
			true},
		{"another mark before", keystore.Position{Revision: first.Revision, Mark: second.Mark},
			true},
		{"beyond the head", keystore.Position{Revision: second.Revision + 1, Mark: second.Mark},
			true},
		{"before the log begins", keystore.Position{Revision: 0, Mark: "gone"}, false},
	} {
		if h := head(c.at); h.Diverged != c.diverged || h.Position != second.Position {
			t.Errorf("%s: %+v", c.what, h)
		}
	}

	must(t, db.NewEpoch(ctx, "not this one", nil))
	if h := head(second.Position); h.Epoch != first.Epoch {
		t.Error("the epoch was replaced although it was not the expected one")
	}
	must(t, db.NewEpoch(ctx, first.Epoch, nil))
	third := head(second.Position)
	if third.Epoch == first.Epoch || third.Epoch == "" || third.Position != second.Position ||
		third.Diverged {
		t.Errorf("with a new epoch: %+v, before %+v", third, second)
	}
	if d, err := other.Deployment(ctx, nil); err != nil || d.Epoch != third.Epoch {
		t.Errorf("the deployment: %v, %v", d.Epoch, err)
	}
}
