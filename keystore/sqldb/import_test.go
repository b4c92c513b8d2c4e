//go:build unix

package sqldb

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/node"
)

// A countingDB counts the loads and changes that a node reads.
type countingDB struct {
	keystore.Database
	loads, changes atomic.Int64
	before         atomic.Pointer[func(context.Context) error] // called before each change
	closing        sync.Once
}

// Close may be called twice, the second time at the end of the test.
func (c *countingDB) Close() (err error) {
	c.closing.Do(func() { err = c.Database.Close() })
	return err
}

func (c *countingDB) Update(
	ctx context.Context, change func(keystore.Tx) error,
) (keystore.Revision, error) {
	if before := c.before.Load(); before != nil {
		if err := (*before)(ctx); err != nil {
			return 0, err
		}
	}
	return c.Database.Update(ctx, change)
}

// step makes the database call f before each change, with the number of changes so far.
func (c *countingDB) step(f func(n int) error) {
	var n atomic.Int64
	before := func(context.Context) error { return f(int(n.Add(1))) }
	c.before.Store(&before)
}

// stepIn is step for changes with the context stepped. A node makes others in the background.
func (c *countingDB) stepIn(f func(n int) error) {
	n := 0
	before := func(ctx context.Context) error {
		if ctx.Value(steppedKey{}) == nil {
			return nil
		}
		n++
		return f(n)
	}
	c.before.Store(&before)
}

type steppedKey struct{}

var stepped = context.WithValue(context.Background(), steppedKey{}, true)

func (c *countingDB) KeyByDigest(
	ctx context.Context, d keystore.Digest,
) (*keystore.Key, keystore.Position, error) {
	c.loads.Add(1)
	return c.Database.KeyByDigest(ctx, d)
}

func (c *countingDB) Changes(
	ctx context.Context, after, upTo keystore.Revision,
) ([]keystore.Change, error) {
	list, err := c.Database.Changes(ctx, after, upTo)
	c.changes.Add(int64(len(list)))
	return list, err
}

// noMetrics ignores all metrics.
type noMetrics struct{}

func (noMetrics) LookedUp(node.Tier, time.Duration) {}
func (noMetrics) Propagated(time.Duration)          {}
func (noMetrics) UsageFlushed(time.Duration)        {}

// eachDatabase runs f for each kind of database, with a function that starts a node on it.
func eachDatabase[T testing.TB](
	t T, run func(name string, f func(T)) bool,
	f func(t T, node func() (*manage.Keystore, *countingDB)),
) {
	ctx := context.Background()
	for name, empty := range map[string]func(t T) (open func() (*DB, error)){
		"SQLite": func(t T) func() (*DB, error) {
			path := newSQLite(t).path
			return func() (*DB, error) { return OpenSQLite(ctx, path) }
		},
		"PostgreSQL": func(t T) func() (*DB, error) {
			s := postgresServer(t)
			url := s.URL(s.Schema(t))
			return func() (*DB, error) { return OpenPostgres(ctx, url) }
		},
	} {
		run(name, func(t T) {
			open := empty(t)
			f(t, func() (*manage.Keystore, *countingDB) {
				t.Helper()
				d, err := open()
				if err != nil {
					t.Fatal(err)
				}
				c := &countingDB{Database: d}
				k, err := manage.Open(ctx, c, nil, node.Settings{}, noMetrics{},
					slog.New(slog.DiscardHandler))
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { k.Close() })
				return k, c
			})
		})
	}
}

var importer = manage.Root("test")

// legacy returns n keys to import.
func legacy(kind string, n int) (specs []manage.ImportSpec) {
	for i := range n {
		specs = append(specs, manage.ImportSpec{Line: i + 1,
			Token: fmt.Sprintf("legacy-%s-%032d", kind, i), KeySpec: manage.KeySpec{
				Name: fmt.Sprint("key number ", i),
				Home: &keystore.Grant{Permissions: []keystore.Permission{{Action: "read"}}}}})
	}
	return specs
}

// TestImport: a credential that one node imports is valid on another at once, even if that node had
// cached it as unknown. Cached keys are not read again.
func TestImport(t *testing.T) {
	ctx := context.Background()
	eachDatabase(t, t.Run, func(t *testing.T, node func() (*manage.Keystore, *countingDB)) {
		many := legacy("many", 3000)
		a, _ := node()
		b, reads := node()
		imports := func(specs []manage.ImportSpec, partial bool) {
			t.Helper()
			n, refused, err := a.ImportKeys(ctx, importer, specs, partial, nil)
			if n != len(specs) {
				t.Fatal(n, refused, err)
			}
		}
		want := func(token string, want keystore.Outcome) {
			t.Helper()
			a, err := b.Lookup(ctx, token, time.Now())
			if err != nil || a.Outcome != want {
				t.Fatalf("%s: %v, %v, want %v", token, a.Outcome, err, want)
			}
		}
		warm := legacy("warm", 500)
		imports(warm, false)
		for _, s := range warm {
			want(s.Token, keystore.OK)
		}
		loads, changes := reads.loads.Load(), reads.changes.Load()
		imports(many, true)
		for _, s := range warm {
			want(s.Token, keystore.OK)
		}
		if more := reads.loads.Load() - loads; more > 0 {
			t.Errorf("%d of %d cached records were read again", more, len(warm))
		}
		if more := reads.changes.Load() - changes; more > int64(len(many)/20) {
			t.Errorf("%d changes were read for %d keys", more, len(many))
		}
		for i, s := range many {
			if i%97 == 0 {
				want(s.Token, keystore.OK)
			}
		}

		late := legacy("late", 200)
		for _, s := range late {
			want(s.Token, keystore.Unknown)
		}
		imports(late, false)
		for _, s := range late {
			want(s.Token, keystore.OK)
		}
	})
}

// BenchmarkImport imports a hundred thousand keys, or as many as APIKEYS_BENCH_KEYS, in batches,
// while a second node follows the changes.
func BenchmarkImport(b *testing.B) {
	eachDatabase(b, b.Run, func(b *testing.B, node func() (*manage.Keystore, *countingDB)) {
		k, _ := node()
		node()
		n := 0
		for b.Loop() {
			n++
			specs := legacy(fmt.Sprint(n), benchKeys)
			if done, refused, err := k.ImportKeys(context.Background(), importer, specs, true,
				nil); done != len(specs) {
				b.Fatal(done, len(refused), err)
			}
		}
		b.ReportMetric(float64(n*benchKeys)/b.Elapsed().Seconds(), "keys/s")
	})
}

// TestManualBulkInsert: the change log covers all rows that one manual statement adds, however
// many, whether keys or secrets come first.
func TestManualBulkInsert(t *testing.T) {
	ctx := context.Background()
	const numbers = "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < %d) "
	const keys = `INSERT INTO keys (id, prefix, name, namespace, grants, owner, created_by, active,
			created_at, revoked_by, revoke_reason, allowed_ips, metadata, version)
		SELECT '%[1]d-' || n, '', '', 'default', '[{"namespace":"other"}]', 'root', 'root', 1,
			n, '', '', '[]', '{}', 1 FROM n`
	for name, open := range map[string]func() (d *DB, exec func(string) error, digest string){
		"SQLite": func() (*DB, func(string) error, string) {
			s := newSQLite(t)
			return s.Open(t).(*closeOnce).DB, s.Exec, "unhex(printf('%%032x%%032x', %d, n))"
		},
		"PostgreSQL": func() (*DB, func(string) error, string) {
			s := newPostgresStore(t)
			return s.Open(t).(*closeOnce).DB, s.Exec, "decode(lpad(to_hex(%d), 32, '0') || " +
				"lpad(to_hex(n), 32, '0'), 'hex')"
		},
	} {
		t.Run(name, func(t *testing.T) {
			d, exec, digest := open()
			if _, err := d.Deployment(ctx, nil); err != nil {
				t.Fatal(err)
			}
			number := func(query string) (n int) {
				t.Helper()
				if err := d.readers.QueryRow(query).Scan(&n); err != nil {
					t.Fatal(err)
				}
				return n
			}
			for round, n := range []int{1, 50, 300} {
				for _, keysFirst := range []bool{true, false} {
					round := 2*round + map[bool]int{true: 1}[keysFirst]
					first := fmt.Sprintf(numbers, n) + fmt.Sprintf(keys, round)
					then := fmt.Sprintf(numbers, n) +
						fmt.Sprintf("INSERT INTO secrets (digest, key_id, created_at) SELECT "+
							digest+", '%[1]d-' || n, n FROM n", round)
					if !keysFirst {
						first, then = then, first
					}
					if err := exec(first); err != nil {
						t.Fatal(err)
					}
					before := number("SELECT revision FROM head")
					if err := exec(then); err != nil {
						t.Fatal(err)
					}
					changes, err := d.Changes(ctx, keystore.Revision(before),
						keystore.Revision(number("SELECT revision FROM head")))
					if err != nil {
						t.Fatal(err)
					}
					logged := map[keystore.Digest]bool{}
					added := false
					for _, c := range changes {
						logged[c.Digest] = true
						added = added || c.Kind == keystore.ChangeNew
					}
					for i := range n {
						var digest keystore.Digest
						digest[15], digest[30], digest[31] = byte(round), byte((i+1)>>8), byte(i+1)
						if !added && !logged[digest] {
							t.Fatalf("%d of each, keys first %v: secret %d is not in the log", n,
								keysFirst, i+1)
						}
						if i%10 > 0 && i < n-1 {
							continue
						}
						if k, _, err := d.KeyByDigest(ctx, digest); err != nil || k == nil ||
							k.ID != fmt.Sprintf("%d-%d", round, i+1) {
							t.Fatalf("secret %d authenticates as %v, %v", i+1, k, err)
						}
					}
					if noted := number("SELECT count(*) FROM granted WHERE key_id LIKE '" +
						fmt.Sprint(round) + "-%'"); noted != n {
						t.Errorf("the table granted has %d rows, want %d", noted, n)
					}
				}
			}
		})
	}
}
