package keystoretest

import (
	"slices"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

func testNodes(t *testing.T, s Store) {
	db, other := ready(t, s), s.Open(t)
	nodes := func() []keystore.Node {
		t.Helper()
		list, err := other.Nodes(ctx)
		must(t, err)
		slices.SortFunc(list,
			func(a, b keystore.Node) int { return len(a.Incarnation) - len(b.Incarnation) })
		for i := range list {
			n := &list[i]
			if age := time.Since(n.Joined); age < -time.Minute || age > time.Minute ||
				n.Heard.Before(n.Joined) || n.Heard.Sub(n.Joined) > time.Minute {
				t.Errorf("%s joined at %s and was last seen at %s", n.Incarnation, n.Joined,
					n.Heard)
			}
			n.Joined, n.Heard = time.Time{}, time.Time{}
		}
		return list
	}
	renew := func(incarnation string) keystore.Head {
		t.Helper()
		h, err := other.Renew(ctx, incarnation, keystore.Position{})
		must(t, err)
		return h
	}
	if h := renew("one"); h.Node != keystore.NodeMissing || h.Nodes != 0 || len(nodes()) != 0 {
		t.Fatalf("before anyone joined: %+v", h)
	}
	epoch := renew("").Epoch
	one := keystore.Node{Incarnation: "one", Address: "host:1", Lease: 30 * time.Second,
		State: keystore.NodeActive, Epoch: epoch}
	second := keystore.Node{Incarnation: "second/../x", Address: "host:2", Lease: time.Minute,
		State: keystore.NodeActive, Epoch: epoch}
	must(t, db.Join(ctx, one))
	must(t, other.Join(ctx, second))
	want := func(list ...keystore.Node) {
		t.Helper()
		if got := nodes(); !slices.Equal(got, list) {
			t.Fatalf("nodes\n%+v, want\n%+v", got, list)
		}
	}
	want(one, second)
	if h := renew("one"); h.Node != keystore.NodeActive || h.Nodes != 2 {
		t.Fatalf("after joining: %+v", h)
	}

	newest := renew("one").Position
	must(t, db.Acknowledge(ctx, "one", newest))
	must(t, db.Acknowledge(ctx, "one", keystore.Position{}))
	one.Acknowledged, one.Beats = newest.Revision, 2
	want(one, second)
	must(t, db.Acknowledge(ctx, "one",
		keystore.Position{Revision: newest.Revision, Mark: "of another history"}))
	must(t, db.Acknowledge(ctx, "one",
		keystore.Position{Revision: newest.Revision + 1, Mark: "of another history"}))
	want(one, second)

	must(t, db.Fence(ctx, "one"))
	one.State = keystore.NodeFencing
	want(one, second)
	one.Lease = time.Hour
	must(t, db.SetLease(ctx, "one", one.Lease))
	must(t, db.SetLease(ctx, "nobody", time.Hour))
	want(one, second)
	// After another Join it is still fencing, and has the longer lease.
	must(t, db.Join(ctx, keystore.Node{Incarnation: "one", Lease: time.Minute}))
	want(one, second)
	one.Lease = 2 * time.Hour
	must(t, db.Join(ctx, keystore.Node{Incarnation: "one", Lease: one.Lease}))
	want(one, second)
	if h := renew("one"); h.Node != keystore.NodeFencing {
		t.Fatalf("after fencing: %+v", h)
	}
	// A caller may repeat a Join whose result it did not get.
	must(t, db.Join(ctx, keystore.Node{Incarnation: "one", Address: one.Address,
		Lease: time.Minute}))
	want(one, second)
	must(t, db.Confirm(ctx, "one"))
	must(t, db.Confirm(ctx, "nobody"))
	want(one, second)
	must(t, db.Acknowledge(ctx, "one", newest))
	one.Beats = 3
	want(one, second)

	must(t, other.Remove(ctx, "one")) // a process may remove the node of another
	want(second)
	if h := renew("one"); h.Node != keystore.NodeMissing || h.Nodes != 1 {
		t.Fatalf("after removing: %+v", h)
	}
	must(t, db.Remove(ctx, "one"))
	must(t, db.RemoveFenced(ctx, "one"))
	must(t, db.RemoveFenced(ctx, second.Incarnation)) // it is not fencing
	must(t, db.Fence(ctx, "one"))
	must(t, db.Acknowledge(ctx, "one", newest))
	must(t, db.Join(ctx, keystore.Node{Incarnation: "another"}))
	must(t, db.Remove(ctx, "another"))
	want(second)

	// NewEpoch gets nodes of another history. One of them has joined this history.
	again := keystore.Node{Incarnation: "joined again", Lease: time.Minute,
		State: keystore.NodeActive, Former: "former", Epoch: epoch}
	must(t, db.Join(ctx, again))
	lost := keystore.Node{Incarnation: "lost", Address: "host:3", Lease: time.Hour}
	must(t, db.NewEpoch(ctx, epoch,
		[]keystore.Node{lost, {Incarnation: again.Former},
			{Incarnation: second.Incarnation, Lease: 1}}))
	if h := renew(second.Incarnation); h.Epoch == epoch || h.Node != keystore.NodeActive {
		t.Errorf("with a new epoch: %+v", h)
	}
	lost.State, again.Former = keystore.NodeFencing, ""
	want(lost, second, again)
	must(t, other.NewEpoch(ctx, epoch, []keystore.Node{lost})) // another process was faster
	want(lost, second, again)
	must(t, other.RemoveFenced(ctx, lost.Incarnation))
	want(second, again)
}

// testTime: the latest time is stored, and no change has an earlier one.
func testTime(t *testing.T, s Store) {
	db, other := ready(t, s), s.Open(t)
	noted := func() time.Time {
		t.Helper()
		h, err := other.Renew(ctx, "nobody", keystore.Position{})
		must(t, err)
		return h.Noted
	}
	if at := noted(); !at.IsZero() {
		t.Errorf("the time in an empty database is %s", at)
	}
	later := time.Now().Add(time.Hour).UTC().Truncate(time.Microsecond)
	must(t, db.NoteTime(ctx, later))
	must(t, db.NoteTime(ctx, later.Add(-time.Minute)))
	if at := noted(); !at.Equal(later) {
		t.Errorf("%s, want %s", at, later)
	}
	update(t, db, func(tx keystore.Tx) error {
		if !tx.Now().Equal(later) {
			t.Errorf("a change at %s, want %s", tx.Now(), later)
		}
		return nil
	})
}

func testImported(t *testing.T, s Store) {
	db := ready(t, s)
	imported := func() bool {
		t.Helper()
		h, err := db.Renew(ctx, "nobody", keystore.Position{})
		must(t, err)
		return h.Imported
	}
	insert(t, db, plain("ours"))
	if imported() {
		t.Fatal("imported before any import")
	}
	k := plain("theirs")
	k.Secrets[0].Imported = true
	insert(t, db, k)
	if !imported() {
		t.Fatal("the import is not reported")
	}
	update(t, db, func(tx keystore.Tx) error { return tx.DeleteKey("theirs") })
	if !imported() {
		t.Fatal("the import was forgotten")
	}
}
