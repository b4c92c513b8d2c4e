//go:build unix

package sqldb

import (
	"context"
	"fmt"
	"testing"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest"
)

// usageSeeds is the number of random histories in each database.
const usageSeeds = 5

// TestRandomUsage: see keystoretest.RandomUsage. A roll-up has several parts, even with few rows.
func TestRandomUsage(t *testing.T) {
	eachUsageDatabase(t, func(t *testing.T, newStore func(*testing.T) keystoretest.Store) {
		for seed := range uint64(usageSeeds) {
			if err := randomUsage(t, newStore, seed, nil); err != nil {
				t.Error(err)
			}
		}
	})
}

// TestUsageAblations: without its parts, usage counts wrongly.
func TestUsageAblations(t *testing.T) {
	for name, ablate := range map[string]func(*DB) keystore.Database{
		"no batch number":          func(d *DB) keystore.Database { return &unnumbered{DB: d} },
		"roll-up without its mark": func(d *DB) keystore.Database { return &unmarked{DB: d} },
	} {
		t.Run(name, func(t *testing.T) {
			eachUsageDatabase(t, func(t *testing.T, newStore func(*testing.T) keystoretest.Store) {
				for seed := range uint64(usageSeeds) {
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
		err = u.exec(ctx, u.writer, "", "UPDATE usage_state SET value = ? WHERE name = 'marks'", mark)
	}
	return more, err
}
