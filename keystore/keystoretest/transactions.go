package keystoretest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

func testRollback(t *testing.T, s Store) {
	db := ready(t, s)
	at := insert(t, db, plain("k"))
	write := func(tx keystore.Tx) {
		must(t, insertKey(tx, plain("new")))
		must(t, tx.DeleteKey("k"))
		must(t, tx.InsertNamespace(&keystore.Namespace{ID: "n", CreatedAt: start}))
		must(t, tx.InsertRole(&keystore.Role{Namespace: "n", Name: "r", CreatedAt: start}))
		must(t, tx.InsertPlan(&keystore.Plan{Namespace: "n", Name: "p", CreatedAt: start}))
		must(t, tx.InsertMember(&keystore.Member{ID: "m", Login: "m", CreatedAt: start}))
		must(t, tx.AppendAudit([]*keystore.AuditRow{{Seq: 1, At: start}}))
		must(t, tx.Remember("caller", "key", "made", start))
	}
	refusal := errors.New("no")
	_, err := db.Update(ctx, func(tx keystore.Tx) error { write(tx); return refusal })
	if !errors.Is(err, refusal) {
		t.Fatalf("error %v, want %v", err, refusal)
	}
	func() {
		defer func() {
			if recover() == nil {
				t.Error("a panic was swallowed")
			}
		}()
		_, _ = db.Update(ctx, func(tx keystore.Tx) error { write(tx); panic("no") })
	}()
	if head(t, db) != at || lookup(t, db, digest("k")) != "k" {
		t.Fatal("a refused change has an effect")
	}
	update(t, db, func(tx keystore.Tx) error {
		if last, err := tx.LastAudit(); last != nil || err != nil {
			t.Fatal("an audit row exists", err)
		}
		if made, err := tx.Remembered("caller", "key", time.Time{}); made != "" || err != nil {
			t.Fatal("a value is stored", err)
		}
		write(tx) // fails if any of it exists
		return nil
	})
}

// testSerial increments the version of a key from two handles at the same time.
func testSerial(t *testing.T, s Store) {
	db := ready(t, s)
	handles := []keystore.Database{db, s.Open(t)}
	insert(t, db, plain("k"))
	from := head(t, db)
	const workers, each = 4, 15
	var mu sync.Mutex
	seen := map[keystore.Revision]bool{}
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for range each {
				r, err := handles[w%len(handles)].Update(ctx, func(tx keystore.Tx) error {
					now := tx.Now()
					if now != tx.Now() || now.Location() != time.UTC || now.Nanosecond()%1000 != 0 {
						t.Error("the time is not in UTC and microseconds, or it changes")
					}
					k, err := tx.Key("k")
					if err != nil {
						return err
					}
					k.Version++
					return tx.UpdateKey(k)
				})
				mu.Lock()
				if err != nil || seen[r] {
					t.Errorf("revision %d, twice %v, error %v", r, seen[r], err)
				}
				seen[r] = true
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	k, err := db.Key(ctx, "k")
	must(t, err)
	if k.Version != 1+workers*each {
		t.Fatalf("version %d, want %d: an update was lost", k.Version, 1+workers*each)
	}
	expiries(t, db, from)
}

// testWaiting: a change waits for another one until its context ends, and reads do not wait.
func testWaiting(t *testing.T, s Store) {
	db := ready(t, s)
	insert(t, db, plain("k"))
	at := head(t, db)
	for name, other := range map[string]keystore.Database{"same": db, "other": s.Open(t)} {
		inside, leave := make(chan struct{}), make(chan struct{})
		var wg sync.WaitGroup
		wg.Go(func() {
			_, err := db.Update(ctx, func(tx keystore.Tx) error {
				must(t, insertKey(tx, plain("slow "+name)))
				close(inside)
				<-leave
				return nil
			})
			if err != nil {
				t.Error(err)
			}
		})
		<-inside
		if lookup(t, other, digest("k")) != "k" || lookup(t, other, digest("slow "+name)) != "" ||
			head(t, other) != at {
			t.Error("an uncommitted change is visible")
		}
		short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
		began := time.Now()
		_, err := other.Update(short, func(keystore.Tx) error {
			t.Error("two changes at the same time")
			return nil
		})
		cancel()
		wantErr(t, err, context.DeadlineExceeded)
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("gave up after %v", took)
		}
		var waited atomic.Bool
		wg.Go(func() {
			_, err := other.Update(ctx, func(tx keystore.Tx) error {
				waited.Store(true)
				_, err := tx.Key("slow " + name)
				return err
			})
			if err != nil {
				t.Error("the waiting change:", err)
			}
		})
		if waited.Load() {
			t.Error("a change did not wait for another one")
		}
		close(leave)
		wg.Wait()
		at = head(t, db)
	}
}

func testCancelled(t *testing.T, s Store) {
	db := ready(t, s)
	at := insert(t, db, plain("k"))
	must(t, db.Join(ctx, keystore.Node{Incarnation: "i"}))
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	for name, call := range map[string]func() error{
		"Deployment": func() error { _, err := db.Deployment(cancelled, nil); return err },
		"Join":       func() error { return db.Join(cancelled, keystore.Node{Incarnation: "j"}) },
		"Renew": func() error {
			_, err := db.Renew(cancelled, "i", keystore.Position{})
			return err
		},
		"Acknowledge": func() error {
			return db.Acknowledge(cancelled, "i", keystore.Position{Revision: at})
		},
		"Nodes":        func() error { _, err := db.Nodes(cancelled); return err },
		"Fence":        func() error { return db.Fence(cancelled, "i") },
		"Remove":       func() error { return db.Remove(cancelled, "i") },
		"RemoveFenced": func() error { return db.RemoveFenced(cancelled, "i") },
		"Confirm":      func() error { return db.Confirm(cancelled, "i") },
		"Changes":      func() error { _, err := db.Changes(cancelled, 0, at); return err },
		"KeyByDigest": func() error {
			_, _, err := db.KeyByDigest(cancelled, digest("k"))
			return err
		},
		"Key": func() error { _, err := db.Key(cancelled, "k"); return err },
		"Keys": func() error {
			_, _, err := db.Keys(cancelled, keystore.KeyFilter{}, "", 1)
			return err
		},
		"CountKeys": func() error { _, err := db.CountKeys(cancelled); return err },
		"Policy":    func() error { _, err := db.Policy(cancelled, keystore.Nowhere); return err },
		"RenewPolicy": func() error {
			_, err := db.RenewPolicy(cancelled, keystore.Nowhere)
			return err
		},
		"Audits": func() error {
			_, _, err := db.Audits(cancelled, keystore.AuditFilter{}, "", 1)
			return err
		},
		"AuditChain": func() error { _, err := db.AuditChain(cancelled, 0, 1); return err },
		"RecordUse": func() error {
			return db.RecordUse(cancelled, map[string]keystore.LastUse{"k": {At: start}})
		},
		"RecordDeriving": func() error {
			return db.RecordDeriving(cancelled,
				map[keystore.Digest]keystore.DerivingKey{digest("k"): deriving("k")})
		},
		"Reserve": func() error {
			_, err := db.Reserve(cancelled, []keystore.Reservation{inMonth(
				keystore.Reservation{Quota: "q", Limit: 1})})
			return err
		},
		"NearQuotas": func() error { _, err := db.NearQuotas(cancelled, 0, 1); return err },
		"AddUsage": func() error {
			return db.AddUsage(cancelled, keystore.UsageBatch{Writer: "w", Number: 1})
		},
		"Usage": func() error {
			_, err := db.Usage(cancelled, keystore.UsageQuery{Step: keystore.Day})
			return err
		},
		"UsedOperations": func() error {
			_, err := db.UsedOperations(cancelled, []string{"k"})
			return err
		},
		"MaintainUsage": func() error {
			_, err := db.MaintainUsage(cancelled, keystore.UsageKept{})
			return err
		},
		"Update": func() error {
			_, err := db.Update(cancelled, func(tx keystore.Tx) error { return tx.DeleteKey("k") })
			return err
		},
	} {
		if err := call(); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// The context ends in the middle of a change, which ignores the errors.
	var many []*keystore.Key
	for i := range 50 {
		many = append(many, plain(fmt.Sprint("of many ", i)))
	}
	middle, cancel := context.WithCancel(ctx)
	defer cancel()
	_, err := db.Update(middle, func(tx keystore.Tx) error {
		must(t, insertKey(tx, plain("half")))
		cancel()
		_ = insertKey(tx, plain("other half"))
		_, _ = tx.InsertKeys(many) // must not write outside the transaction
		return nil
	})
	wantErr(t, err, context.Canceled)
	half, other := lookup(t, db, digest("half")), lookup(t, db, digest("other half"))
	if half != "" || other != "" || lookup(t, db, digest("of many 7")) != "" {
		t.Fatalf("half a change was committed: %q %q", half, other)
	}
	// The handle still works.
	edit(t, db, "k", func(*keystore.Key) {})
	if got := head(t, db); got != at+1 {
		t.Fatalf("the head went from %d to %d", at, got)
	}
}

// testLinearizable: every later call of any handle sees a committed change. A reader that sees a
// revision sees all before it.
func testLinearizable(t *testing.T, s Store) {
	db := ready(t, s)
	handles := []keystore.Database{db, s.Open(t), s.Open(t)}
	const writers, each = 3, 25
	var committed [writers * each]atomic.Int64
	var wg, readers sync.WaitGroup
	done := make(chan struct{})
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				n := w*each + i
				r, err := handles[w].Update(ctx, func(tx keystore.Tx) error {
					return insertKey(tx, plain(fmt.Sprint(n)))
				})
				if err != nil {
					t.Error(err)
					return
				}
				committed[n].Store(int64(r))
			}
		})
	}
	for _, db := range handles {
		readers.Go(func() {
			var last keystore.Revision
			for {
				select {
				case <-done:
					return
				default:
				}
				n := rand.IntN(len(committed))
				at := keystore.Revision(committed[n].Load())
				k, asOf, err := db.KeyByDigest(ctx, digest(fmt.Sprint(n)))
				if err != nil || at != 0 && (k == nil || asOf.Revision < at) ||
					asOf.Revision < last {
					t.Errorf("key %d, committed at %d: found %v at %d, after %d: %v", n, at,
						k != nil, asOf.Revision, last, err)
					return
				}
				last = asOf.Revision
				h, err := db.Renew(ctx, "nobody", keystore.Position{})
				if err != nil || h.Revision < last {
					t.Errorf("head %d after %d: %v", h.Revision, last, err)
					return
				}
				if _, err := db.Changes(ctx, max(0, h.Revision-20), h.Revision); err != nil {
					t.Error(err)
					return
				}
				if _, _, err := db.Keys(ctx, keystore.KeyFilter{}, "", 5); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	close(done)
	readers.Wait()
	expiries(t, db, 0)
}
