//go:build unix

package sqldb

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest"
)

// TestRandomUsage: see keystoretest.RandomUsage. A roll-up has several parts, even with few rows.
func TestRandomUsage(t *testing.T) {
	eachUsageDatabase(t, func(t *testing.T, newStore func(*testing.T) keystoretest.Store) {
		if err := randomUsage(t, newStore, 0, nil); err != nil {
			t.Error(err)
		}
	})
}

// TestUsageAblations: without any one of these parts, usage is counted wrongly.
func TestUsageAblations(t *testing.T) {
	for name, ablate := range map[string]func(*DB) keystore.Database{
		"no batch number":          func(d *DB) keystore.Database { return &unnumbered{DB: d} },
		"roll-up without its mark": func(d *DB) keystore.Database { return &unmarked{DB: d} },
	} {
		t.Run(name, func(t *testing.T) {
			eachUsageDatabase(t, func(t *testing.T, newStore func(*testing.T) keystoretest.Store) {
				for seed := range uint64(5) {
					if err := randomUsage(t, newStore, seed, ablate); err != nil {
						t.Log(err)
						return
					}
				}
				t.Error("no history shows that this part is needed")
			})
		})
	}
}

func eachUsageDatabase(
	t *testing.T, f func(t *testing.T, newStore func(*testing.T) keystoretest.Store),
) {
	t.Run("SQLite", func(t *testing.T) {
		f(t, func(t *testing.T) keystoretest.Store { return newSQLite(t) })
	})
	t.Run("PostgreSQL", func(t *testing.T) {
		f(t, func(t *testing.T) keystoretest.Store { return newPostgresStore(t) })
	})
}

// randomUsage runs a random history.
func randomUsage(
	t *testing.T, newStore func(*testing.T) keystoretest.Store, seed uint64,
	ablate func(*DB) keystore.Database,
) error {
	t.Helper()
	var handles [2]keystore.Database
	s := newStore(t)
	for i := range handles {
		db := s.Open(t).(*closeOnce)
		defer db.Close()
		db.rollUpRows = 8
		handles[i] = db
		if ablate != nil {
			handles[i] = ablate(db.DB)
		}
	}
	return keystoretest.RandomUsage(handles, seed)
}

// unnumbered ignores the numbers of batches.
type unnumbered struct {
	*DB
	n int
}

func (u *unnumbered) AddUsage(ctx context.Context, b keystore.UsageBatch) error {
	u.n++
	b.Writer = fmt.Sprintf("%s %p %d", b.Writer, u, u.n)
	return u.DB.AddUsage(ctx, b)
}

// unmarked loses the mark of its third roll-up, like a process that commits the rows and ends before
// it writes the mark.
type unmarked struct {
	*DB
	calls int
}

func (u *unmarked) MaintainUsage(
	ctx context.Context, kept keystore.UsageKept,
) (more bool, err error) {
	var mark string
	const row = "FROM usage_state WHERE name = 'marks'"
	if err := u.readers.QueryRowContext(ctx, "SELECT value "+row).Scan(&mark); err != nil {
		return false, err
	}
	if more, err = u.DB.MaintainUsage(ctx, kept); err != nil || !more {
		return more, err
	}
	if u.calls++; u.calls == 3 {
		err = u.exec(ctx, u.writer, "", "UPDATE usage_state SET value = ? WHERE name = 'marks'",
			mark)
	}
	return more, err
}

// TestUsageRests: many short transactions of usage leave the write lock of SQLite to other
// processes, as a single long one does.
func TestUsageRests(t *testing.T) {
	d := newSQLite(t).Open(t).(*closeOnce)
	began := time.Now()
	for range 3 {
		if err := d.inBackground(t.Context(), d.usage, func(*tx) error {
			time.Sleep(d.rest / 2)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	if took := time.Since(began); took < d.rest/2*3+d.rest {
		t.Errorf("three transactions took %v, so the process has not rested for %v", took, d.rest)
	}
}

// TestChangesGoFirst: a change of keys waits for the transaction of usage that is running, and for
// none of those that wait.
func TestChangesGoFirst(t *testing.T) {
	d := newSQLite(t).Open(t).(*closeOnce)
	order, running, end := make(chan string, 10), make(chan bool), make(chan bool)
	var work sync.WaitGroup
	var first sync.Once
	for range 5 {
		work.Go(func() {
			if err := d.inBackground(t.Context(), d.usage, func(*tx) error {
				order <- "usage"
				first.Do(func() {
					running <- true
					<-end
				})
				return nil
			}); err != nil {
				t.Error(err)
			}
		})
	}
	<-running
	work.Go(func() {
		if _, err := d.Update(t.Context(), func(keystore.Tx) error {
			order <- "change"
			return nil
		}); err != nil {
			t.Error(err)
		}
	})
	for d.background.changes.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	close(end)
	work.Wait()
	if first, second := <-order, <-order; first != "usage" || second != "change" {
		t.Errorf("%s came before %s, want usage before change", first, second)
	}
}

// TestPostgresUsageApart: nothing else waits for a transaction of usage, and that transaction waits
// for no change.
func TestPostgresUsageApart(t *testing.T) {
	s := newPostgresStore(t)
	d, other := openOnce(t, s.URL(s.schema)), openOnce(t, s.URL(s.schema))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	change := func(d *closeOnce) error {
		_, err := d.Update(ctx, func(tx keystore.Tx) error {
			return insertKey(tx, &keystore.Key{ID: fmt.Sprintf("%p", d), CreatedAt: tx.Now()})
		})
		return err
	}
	add := func(d *closeOnce) error {
		return d.AddUsage(ctx, keystore.UsageBatch{Writer: fmt.Sprintf("%p", d), Number: 1,
			Rows: []keystore.UsageRow{{Begin: time.Now(), Key: "k"}}})
	}
	if err := d.inBackground(ctx, d.usage, func(t *tx) error {
		if _, _, err := usageState(t.query, d.lockUsage); err != nil {
			return err
		}
		return errors.Join(change(d), change(other),
			other.RecordUse(ctx, map[string]keystore.LastUse{fmt.Sprintf("%p", d): {At: t.now}}))
	}); err != nil {
		t.Error(err)
	}
	if _, err := d.Update(ctx, func(keystore.Tx) error {
		_, err := other.MaintainUsage(ctx, keystore.DefaultUsageKept)
		return errors.Join(add(d), add(other), err)
	}); err != nil {
		t.Error(err)
	}
}

// TestPostgresDropInUse: a table that someone reads is dropped later.
func TestPostgresDropInUse(t *testing.T) {
	s := newPostgresStore(t)
	d := openOnce(t, s.URL(s.schema))
	begin := time.Now().Add(-3 * time.Hour)
	if err := d.NoteTime(t.Context(), time.Now()); err != nil {
		t.Fatal(err)
	}
	if err := d.AddUsage(t.Context(), keystore.UsageBatch{Writer: "w", Number: 1,
		Rows: []keystore.UsageRow{{Begin: begin, Key: "k",
			UsageCounts: keystore.UsageCounts{Requests: 1}}}}); err != nil {
		t.Fatal(err)
	}
	table := usageTableOf(keystore.Minute, toMinutes(begin)).name(&byGroup)
	reader, err := d.bulk.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Rollback()
	if _, err := reader.ExecContext(t.Context(), "SELECT * FROM "+table); err != nil {
		t.Fatal(err)
	}
	maintain := func() {
		t.Helper()
		for more := true; more; {
			var err error
			if more, err = d.MaintainUsage(t.Context(),
				keystore.UsageKept{Minutes: time.Hour}); err != nil {
				t.Fatal(err)
			}
		}
	}
	exists := func() bool {
		_, err := d.readers.ExecContext(t.Context(), "SELECT 1 FROM "+table)
		return err == nil
	}
	maintain()
	if !exists() {
		t.Error("the table is dropped while it is read")
	}
	if err := reader.Rollback(); err != nil {
		t.Fatal(err)
	}
	maintain()
	if exists() {
		t.Error("the table remains")
	}
	sums, err := d.Usage(t.Context(), keystore.UsageQuery{Step: keystore.Month})
	if err != nil || len(sums) != 1 || sums[0].Requests != 1 {
		t.Errorf("%+v %v", sums, err)
	}
}
