package events

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest/fleet"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
)

// TestDelivers: one of the nodes delivers the changes of all nodes, in order and once.
func TestDelivers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, r := fleet.New(t), newReceiver()
		a := startNode(d, r, hook)
		time.Sleep(time.Second)
		b := startNode(d, r, hook)
		for i := range 5 {
			mint(t, a.keys, i)
			mint(t, b.keys, i)
		}
		time.Sleep(time.Second)
		wantAll(t, a.keys, r, 0)
		if n := len(r.types()); n != 10 {
			t.Errorf("%d deliveries of 10 events", n)
		}
		time.Sleep(saveInterval)
		s := status(t, b.keys)
		if s.Backlog != 0 || s.Position != 10 || s.Holder != a.keys.Incarnation() ||
			s.Node == "" || len(s.Deliveries) != 10 || s.Deliveries[0].Status != 200 {
			t.Errorf("%+v", s)
		}
		// A node that stops hands over at once.
		a.close()
		mint(t, b.keys, 6)
		time.Sleep(watchInterval + time.Second)
		wantAll(t, b.keys, r, 0)
		if n := len(r.types()); n != 11 {
			t.Errorf("%d deliveries of 11 events", n)
		}
	})
}

// TestTakeover: the node that delivers is stopped or cut off from the database. Another one takes
// over when the lease has expired, and when the first one continues, it sends nothing out of order.
func TestTakeover(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, r := fleet.New(t), newReceiver()
		a := startNode(d, r, hook)
		time.Sleep(time.Second)
		b := startNode(d, r, hook)
		mint(t, a.keys, 0)
		time.Sleep(saveInterval)

		// a hangs in the middle of a request, as if its process was stopped.
		frozen := make(chan struct{})
		stopped := true
		r.answering(func(*message) (int, error) {
			if stopped {
				stopped = false
				<-frozen
			}
			return 200, nil
		})
		for i := range 10 {
			mint(t, b.keys, i)
		}
		time.Sleep(leaseLength + 3*watchInterval)
		wantAll(t, b.keys, r, 0)
		if s := status(t, b.keys); s.Holder != b.keys.Incarnation() {
			t.Errorf("the holder is still the node that was stopped: %+v", s)
		}
		close(frozen)
		time.Sleep(time.Second)
		mint(t, a.keys, 11)
		time.Sleep(saveInterval)
		wantAll(t, b.keys, r, 0)
		if n := len(r.types()); n > 13 {
			t.Errorf("%d deliveries of 12 events", n)
		}
	})
}

// TestRejoined: a node that has lost the row of its webhook and has to join again, as after a
// failover, continues at once. The row is held by its own former incarnation.
func TestRejoined(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, r := fleet.New(t), newReceiver()
		n, db := nodeOnSlowDisk(d, r)
		former := n.keys.Incarnation()
		db.full.Store(true)
		d.Tamper("DELETE FROM nodes")
		time.Sleep(saveInterval)
		if n.keys.Incarnation() == former {
			t.Fatal("the node has not joined again")
		}
		db.full.Store(false)
		mint(t, n.keys, 0)
		time.Sleep(2 * watchInterval)
		wantAll(t, n.keys, r, 0)
	})
}

// nodeOnSlowDisk starts a node that delivers a webhook and waits until it does. The disk of its
// database can be made full.
func nodeOnSlowDisk(d fleet.Fleet, to *receiver) (testNode, *slowDisk) {
	d.Helper()
	db := &slowDisk{Database: openSQLite(d)}
	n := idleNodeOn(d, db)
	n.configure(to, hook)
	time.Sleep(time.Second)
	return n, db
}

// TestLostWebhook: a node that delivers a webhook cannot reach the database, which loses the row of
// the webhook meanwhile. The node continues where it was, and so does a node that watches it.
func TestLostWebhook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, r := fleet.New(t), newReceiver()
		n, db := nodeOnSlowDisk(d, r)
		mint(t, n.keys, 0)
		time.Sleep(2 * progressInterval)
		db.full.Store(true)
		time.Sleep(saveInterval)
		mint(t, n.keys, 1)
		mint(t, n.keys, 2)
		d.Tamper("DELETE FROM webhooks")
		db.full.Store(false)
		time.Sleep(2 * watchInterval)
		wantAll(t, n.keys, r, 0)

		other := startNode(d, r, hook)
		time.Sleep(watchInterval)
		n.close()
		d.Tamper("DELETE FROM webhooks")
		mint(t, other.keys, 3)
		time.Sleep(2 * watchInterval)
		wantAll(t, other.keys, r, 0)
	})
}

// TestThousandChanges: everything arrives in order while nodes come and go and the receiver fails.
func TestThousandChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, r := fleet.New(t), newReceiver()
		random := rand.New(rand.NewPCG(1, 2))
		r.answering(func(*message) (int, error) {
			r.mu.Lock()
			defer r.mu.Unlock()
			switch random.IntN(200) {
			case 0:
				return 500, fmt.Errorf("answered 500")
			case 1:
				time.Sleep(sendTimeout)
				return 0, errDown
			}
			return 200, nil
		})
		writer := startNode(d, r, hook)
		node := startNode(d, r, hook)
		time.Sleep(time.Second) // a webhook begins with the events after its first row
		for i := range 1000 {
			mint(t, writer.keys, i)
			if i%100 == 99 {
				node.close()
				node = startNode(d, r, hook)
			}
			if i%150 == 149 { // the node that delivers loses its row, as after a long stop
				d.Tamper("UPDATE webhooks SET holder = 'another', beat = beat + 1")
			}
		}
		for range 100 {
			if status(t, writer.keys).Backlog == 0 {
				break
			}
			time.Sleep(time.Minute)
		}
		wantAll(t, writer.keys, r, 0)
	})
}

// A slowDisk counts the transactions that save webhooks, each of which takes a while. They may fail
// or hang.
type slowDisk struct {
	keystore.Database
	saves atomic.Int64
	full  atomic.Bool
	hangs atomic.Bool
}

func (s *slowDisk) SaveWebhooks(
	ctx context.Context, list []keystore.Webhook,
) ([]string, error) {
	s.saves.Add(1)
	time.Sleep(20 * time.Millisecond)
	if s.hangs.Load() {
		<-ctx.Done()
	}
	if s.full.Load() {
		return nil, errors.New("no space left on device")
	}
	return s.Database.SaveWebhooks(ctx, list)
}

// TestSaves: many webhooks that proceed at the same time take few transactions. With SQLite, a
// revoke waits for each.
func TestSaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, r := fleet.New(t), newReceiver()
		db := &slowDisk{Database: openSQLite(d)}
		n := idleNodeOn(d, db)
		var hooks []Webhook
		for i := range MaxWebhooks {
			w := hook
			w.Shown = fmt.Sprint("https://example.com/", i)
			hooks = append(hooks, w)
		}
		n.configure(r, hooks...)
		time.Sleep(5 * time.Second)
		before := db.saves.Load()
		mint(t, n.keys, 0)
		time.Sleep(2 * time.Second)
		if got := len(r.types()); got != MaxWebhooks {
			t.Errorf("%d deliveries to %d webhooks", got, MaxWebhooks)
		}
		if got := db.saves.Load() - before; got > 10 {
			t.Errorf("%d transactions saved %d webhooks", got, MaxWebhooks)
		}
		if list, err := n.keys.ListWebhooks(t.Context(), fleet.Root); err != nil ||
			len(list) != MaxWebhooks || slices.ContainsFunc(list,
			func(w manage.WebhookStatus) bool { return w.Position != 1 }) {
			t.Errorf("saved %d webhooks: %+v, %v", len(list), list[0], err)
		}

		db.full.Store(true)
		time.Sleep(saveInterval)
		before = db.saves.Load()
		time.Sleep(time.Minute)
		if got := db.saves.Load() - before; got > 300 {
			t.Errorf("%d transactions in a minute in which all fail", got)
		}
		db.full.Store(false)
		mint(t, n.keys, 1)
		time.Sleep(2 * watchInterval)
		if got := len(r.types()); got != 2*MaxWebhooks {
			t.Errorf("%d deliveries of 2 events to %d webhooks", got, MaxWebhooks)
		}
	})
}

// TestSavesOfTwo: of two deliveries of one webhook that save at the same time, only one gets the
// row.
func TestSavesOfTwo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := idleNode(fleet.New(t))
		n.saver.turn <- struct{}{}
		saved := make(chan bool)
		for _, holder := range []string{"a", "b"} {
			go func() { saved <- n.saver.save(&keystore.Webhook{ID: "wh", Holder: holder}) }()
		}
		synctest.Wait() // both wait for their turn
		<-n.saver.turn
		if a, b := <-saved, <-saved; a == b {
			t.Errorf("saved %v and %v", a, b)
		}
	})
}

// TestCloseWhileSaving: while the database hangs, closing a node waits for one call at most,
// because revokes on other nodes wait for its lease.
func TestCloseWhileSaving(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, r := fleet.New(t), newReceiver()
		db := &slowDisk{Database: openSQLite(d)}
		n := idleNodeOn(d, db)
		n.configure(r, hook)
		time.Sleep(progressInterval / 2)
		second := hook
		second.Shown = "https://example.com/other"
		n.configure(r, second)
		time.Sleep(progressInterval / 4)
		db.hangs.Store(true)
		mint(t, n.keys, 0)
		time.Sleep(progressInterval) // the second one waits while the first one is saved
		began := time.Now()
		n.close()
		if took := time.Since(began); took > storeTimeout {
			t.Errorf("closing a node took %v", took)
		}
	})
}

// TestOutageOfADay drives a delivery by hand through a day in which the receiver is down.
func TestOutageOfADay(t *testing.T) {
	d, r := fleet.New(t), newReceiver()
	n := idleNode(d)
	now := time.Now()
	n.now = func() time.Time { return now }
	n.clock = n.now
	one := &delivery{Dispatcher: n.Dispatcher, hook: hook, id: hook.ID(), send: r.send}
	drive := func(until time.Time) {
		before := len(r.types())
		for now.Before(until) && (one.dirty || len(r.types()) < before+20) {
			wait := one.step(t.Context())
			if left := one.untilRetry(); left > time.Hour && one.row.Attempts > 0 {
				wait = left - time.Minute // the process was stopped meanwhile
			}
			now = now.Add(wait)
		}
	}
	drive(now.Add(time.Second))
	attempts := 0
	r.answering(func(*message) (int, error) { attempts++; return 0, errDown })
	for i := range 20 {
		mint(t, n.keys, i)
	}
	began := now
	drive(began.Add(24 * time.Hour))
	if attempts < 7 || attempts > 9 {
		t.Errorf("%d attempts in a day", attempts)
	}
	if s := status(t, n.keys); s.Backlog != 20 || s.Attempts != attempts ||
		len(s.Deliveries) != attempts || s.Deliveries[0].Error != "connection refused" ||
		s.RetryAt.Sub(now) > 10*time.Hour {
		t.Errorf("%+v", s)
	}
	r.answering(nil)
	drive(now.Add(12 * time.Hour))
	wantAll(t, n.keys, r, 0)
	if s := status(t, n.keys); s.Backlog != 0 || s.Attempts != 0 || !s.RetryAt.IsZero() {
		t.Errorf("%+v", s)
	}

	// The clock of the database is set back by a month while an event waits for its next attempt.
	r.answering(func(*message) (int, error) { return 0, errDown })
	mint(t, n.keys, 20)
	drive(now.Add(time.Second))
	n.clock = func() time.Time { return now.AddDate(0, -1, 0) }
	one.dueFor = time.Time{} // as for a node that takes over
	r.answering(nil)
	drive(now.Add(10 * time.Second))
	wantAll(t, n.keys, r, 0)
	if apart := now.Sub(r.at).Abs(); apart > time.Minute { // receivers refuse five minutes
		t.Errorf("the signature has a time that is %v off", apart)
	}
}

// TestGone: 410 stops a webhook for good, and a replay restarts it. Other webhooks and nodes are
// not affected.
func TestGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, r, other := fleet.New(t), newReceiver(), newReceiver()
		n := startNode(d, r, hook)
		second := hook
		second.Shown = "https://example.com/other"
		n.configure(other, second)
		time.Sleep(time.Second)
		calls := 0
		r.answering(func(*message) (int, error) { calls++; return 410, fmt.Errorf("answered 410") })
		mint(t, n.keys, 0)
		mint(t, n.keys, 1)
		time.Sleep(10 * time.Minute)
		if calls != 1 {
			t.Errorf("%d calls of a receiver that is gone", calls)
		}
		wantAll(t, n.keys, other, 0)
		r.answering(nil)
		rows := audit(t, n.keys)
		if _, err := n.keys.ReplayWebhook(t.Context(), fleet.Root, hook.ID(),
			manage.ReplayFrom{Event: rows[1].EventID()}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * saveInterval)
		wantAll(t, n.keys, r, 1)
		if got := n.Results(); got[Gone] != 1 || got[Failed] != 0 || got[Delivered] != 5 {
			t.Errorf("results %v", got)
		}
	})
}

// TestReplay: a replay and a test end the wait for the next attempt, and a test event reaches a
// webhook whatever its filters are.
func TestReplay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, r := fleet.New(t), newReceiver()
		filtered := hook
		filtered.Events, filtered.Namespaces = []string{"key.revoked"}, []string{"default"}
		n := startNode(d, r, filtered)
		b := startNode(d, r, filtered)
		time.Sleep(time.Second)
		r.answering(func(*message) (int, error) { return 0, errDown })
		key := mint(t, n.keys, 0)
		fleet.Revoke(t, n.keys, key.ID, 0)
		time.Sleep(6 * time.Minute)
		if s := status(t, n.keys); s.Attempts != 3 {
			t.Fatalf("%+v", s)
		}
		r.answering(nil)
		if _, err := b.keys.TestWebhook(t.Context(), fleet.Root, hook.ID()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * saveInterval)
		if got := r.types(); !slices.Equal(got, []string{"key.revoked", "webhook.test"}) {
			t.Fatalf("received %v", got)
		}
		if _, err := b.keys.ReplayWebhook(t.Context(), fleet.Root, hook.ID(),
			manage.ReplayFrom{At: time.Now().Add(-2 * time.Hour)}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * saveInterval)
		if got := r.types(); !slices.Equal(got,
			[]string{"key.revoked", "webhook.test", "key.revoked", "webhook.test"}) {
			t.Errorf("received %v", got)
		}
	})
}

// TestConfigure: a webhook whose secret changes continues where it was, and so does one that is
// removed and comes back within a week. After that, its row is deleted.
func TestConfigure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, r := fleet.New(t), newReceiver()
		n := startNode(d, r, hook)
		time.Sleep(time.Second) // a webhook begins with the events after its first row
		mint(t, n.keys, 0)
		time.Sleep(2 * progressInterval)
		changed := hook
		changed.Secrets = []string{testSecret, testSecret}
		n.configure(r, changed)
		mint(t, n.keys, 1)
		time.Sleep(2 * progressInterval)
		n.Configure(nil)
		time.Sleep(time.Second)
		mint(t, n.keys, 2)
		if s := status(t, n.keys); s.Holder != "" || s.Backlog != 1 {
			t.Errorf("%+v", s)
		}
		n.configure(r, hook)
		time.Sleep(2 * progressInterval)
		if got := len(r.types()); got != 3 {
			t.Errorf("%d deliveries of 3 events", got)
		}
		wantAll(t, n.keys, r, 0)
	})
}

// TestLostRows: a failover loses rows of the audit log that were delivered or filtered out. The rows
// that take their place are delivered.
func TestLostRows(t *testing.T) {
	for _, test := range []struct {
		fresh    int           // rows after the failover
		later    time.Duration // after it
		unsaved  bool          // the node has not saved its progress in the lost rows
		outage   bool          // the node has lost the row of the webhook meanwhile
		moved    bool          // another node delivers afterwards
		filtered bool          // the webhook wants only the rows after the failover
	}{
		{fresh: 1, later: 2 * pollInterval}, {fresh: 1}, {fresh: 2}, {fresh: 3},
		{fresh: 1, unsaved: true, later: 2 * pollInterval}, {fresh: 1, unsaved: true},
		{fresh: 2, unsaved: true}, {fresh: 3, unsaved: true}, {fresh: 1, outage: true},
		{fresh: 3, outage: true}, {fresh: 3, moved: true}, {fresh: 1, filtered: true},
		{fresh: 3, filtered: true}, {fresh: 1, unsaved: true, filtered: true},
		{fresh: 3, unsaved: true, filtered: true}, {fresh: 2, outage: true, filtered: true},
		{fresh: 2, moved: true, filtered: true},
	} {
		synctest.Test(t, func(t *testing.T) {
			d, r := fleet.New(t), newReceiver()
			db := &slowDisk{Database: openSQLite(d)}
			n, writer := idleNodeOn(d, db), idleNode(d)
			wants, until := hook, 2*progressInterval
			if test.filtered {
				wants.Events = []string{"member.*"}
			}
			if test.unsaved {
				until = progressInterval / 3
			}
			n.configure(r, wants)
			time.Sleep(2 * progressInterval)
			mint(t, n.keys, 0)
			time.Sleep(until)
			d.Tamper("CREATE TABLE standby AS SELECT * FROM webhooks")
			mint(t, n.keys, 1)
			mint(t, n.keys, 2)
			time.Sleep(until)
			want := r.firsts()
			if test.outage {
				db.full.Store(true)
				time.Sleep(2 * saveInterval)
			}
			if test.moved {
				n.close()
			}
			loseRows(d, "DELETE FROM webhooks", "INSERT INTO webhooks SELECT * FROM standby")
			time.Sleep(test.later)
			for i := range test.fresh {
				if _, err := writer.keys.CreateMember(t.Context(), fleet.Root,
					keystore.Member{Name: fmt.Sprint("member ", i)}); err != nil {
					t.Fatal(err)
				}
			}
			db.full.Store(false)
			if test.moved {
				writer.configure(r, wants)
			}
			time.Sleep(leaseLength + 2*watchInterval + 2*pollInterval)
			for _, row := range audit(t, writer.keys)[1:] {
				want = append(want, row.EventID())
			}
			if got := r.firsts(); !slices.Equal(got, want) {
				t.Errorf("%+v: received\n%v, want\n%v", test, got, want)
			}
		})
	}
}

// TestChangedLog: somebody deletes rows of the audit log. Webhooks continue with later rows.
func TestChangedLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, r := fleet.New(t), newReceiver()
		n := startNode(d, r, hook)
		time.Sleep(time.Second)
		for i := range 3 {
			mint(t, n.keys, i)
		}
		time.Sleep(2 * progressInterval)
		loseRows(d)
		time.Sleep(2 * pollInterval)
		mint(t, n.keys, 3)
		time.Sleep(2 * pollInterval)
		if got := r.firsts(); len(got) != 4 || got[3] != audit(t, n.keys)[1].EventID() {
			t.Errorf("received %v", got)
		}
	})
}

// TestDeletedRows: somebody deletes rows at the position of a webhook and before it, but not all later
// ones. It continues with those, and a replay may begin with the first row that is left.
func TestDeletedRows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, r := fleet.New(t), newReceiver()
		db := &slowDisk{Database: openSQLite(d)}
		n, writer := startNode(d, r, hook), idleNodeOn(d, db)
		time.Sleep(time.Second)
		mint(t, n.keys, 0)
		mint(t, n.keys, 1)
		time.Sleep(2 * progressInterval)
		n.close()
		for i := range 4 {
			mint(t, writer.keys, 2+i)
		}
		d.Tamper("DROP TRIGGER audit_delete", "DELETE FROM audit WHERE seq IN (2, 3)")
		writer.configure(r, hook)
		time.Sleep(2 * pollInterval)
		rows := audit(t, writer.keys)
		if got := r.firsts(); len(got) != 5 || got[2] != rows[1].EventID() ||
			got[4] != rows[3].EventID() {
			t.Errorf("received %v", got)
		}
		time.Sleep(saveInterval)
		if saves := db.saves.Load(); saves > 10 {
			t.Errorf("%d saves", saves)
		}

		d.Tamper("DELETE FROM audit WHERE seq <= 4")
		if _, err := writer.keys.ReplayWebhook(t.Context(), fleet.Root, hook.ID(),
			manage.ReplayFrom{Event: rows[2].EventID()}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * saveInterval)
		// The replay is the third event. It may have arrived before it took effect.
		if got := len(r.types()); got < 5+3 || got > 5+4 {
			t.Errorf("%d deliveries", got)
		}
		if s := status(t, writer.keys); s.Backlog != 0 {
			t.Errorf("%+v", s)
		}
	})
}

// loseRows deletes the rows of the audit log but the first, and runs more statements.
func loseRows(d fleet.Fleet, statements ...string) {
	d.Helper()
	d.Tamper(append(statements, "DROP TRIGGER audit_delete", "DROP TRIGGER touched_delete",
		"DELETE FROM audit WHERE seq > 1", "DELETE FROM touched WHERE seq > 1")...)
}

// TestBounded: a webhook with a large backlog holds only one page of it in memory.
func TestBounded(t *testing.T) {
	d, r := fleet.New(t), newReceiver()
	n := idleNode(d)
	one := &delivery{Dispatcher: n.Dispatcher, hook: hook, id: hook.ID(), send: r.send}
	one.step(t.Context())
	if _, err := n.keys.Database().Update(t.Context(), func(tx keystore.Tx) error {
		for i := range int64(200) {
			if err := tx.AppendAudit([]*keystore.AuditRow{{Seq: i + 1, Action: "key.expiring",
				After: `{"name":"` + strings.Repeat("x", 10_000) + `"}`}}); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	r.answering(func(*message) (int, error) { return 0, errDown })
	for range 3 {
		one.step(t.Context())
	}
	var size int64
	for i := range one.buffer {
		size += one.buffer[i].Size()
	}
	if len(one.buffer) == 0 || len(one.buffer) > 500 || size > 1<<20 {
		t.Errorf("%d rows of %d bytes in memory", len(one.buffer), size)
	}
}
