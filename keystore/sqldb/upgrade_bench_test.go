//go:build unix

package sqldb

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pressly/goose/v3"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest/postgrestest"
)

const (
	// formerSchema is the version of the schema before derived tokens.
	formerSchema = 8
	// firstFormer is the id of the first key of fillFormer. The others follow.
	firstFormer = 100_000_000_000
)

// BenchmarkUpgrade measures each migration after formerSchema with a hundred thousand keys, or as
// many as APIKEYS_BENCH_KEYS, which all expire, and how long it takes to record their deriving keys
// afterwards. Meanwhile a node of the former release looks up keys and creates and revokes others.
func BenchmarkUpgrade(b *testing.B) {
	for name, empty := range map[string]func(b *testing.B) (node func() *DB){
		"SQLite": func(b *testing.B) func() *DB {
			path := filepath.Join(b.TempDir(), "keys.db")
			return func() *DB {
				d := newDB(sqliteDialect)
				d.writer = d.openSQLite(path, 1, "busy_timeout(0)", "synchronous(FULL)",
					"journal_mode(WAL)", "cache_size("+writerCache+")")
				d.readers = d.openSQLite(path, 1, "busy_timeout(1000)", "query_only(1)")
				d.uses = d.writer
				return d
			}
		},
		"PostgreSQL": func(b *testing.B) func() *DB {
			server := postgrestest.StartFor(b, "fsync=on", "full_page_writes=on",
				"shared_buffers=256MB")
			p, err := newPostgres(server.URL(server.Schema(b)))
			if err != nil {
				b.Fatal(err)
			}
			return func() *DB {
				d := newDB(postgresDialect)
				d.postgres, d.writer, d.readers = p, openPostgres(p, 1), openPostgres(p, 1)
				d.uses = openPostgres(p, 1)
				return d
			}
		},
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				node := empty(b)
				former, upgraded := node(), node()
				fillFormer(b, former)
				b.StartTimer()
				benchUpgrade(b, former, upgraded)
				for _, d := range []*DB{former, upgraded} {
					d.readers.Close()
					d.uses.Close()
					d.writer.Close()
				}
			}
		})
	}
}

// benchUpgrade runs the migrations on the node upgraded while the other one works.
func benchUpgrade(b *testing.B, former, upgraded *DB) {
	b.Helper()
	p, err := upgraded.migrator()
	if err != nil {
		b.Fatal(err)
	}
	created := benchKeys
	// step runs f while the former node works, and logs how long all of that takes.
	step := func(f func() (name string, err error)) (more bool) {
		lookups := repeat(b, func(ctx context.Context) error {
			var id string
			return former.readers.QueryRowContext(ctx, former.bind(formerLookup),
				formerDigest(rand.IntN(benchKeys))).Scan(&id)
		})
		changes := repeat(b, func(ctx context.Context) error {
			created++
			return former.write(ctx, func(t *tx) error {
				if err := t.insertFormer(created-1, created); err != nil {
					return err
				}
				id := strconv.Itoa(firstFormer + created - 1)
				return t.RevokeKeys(map[string]string{id: ""}, "root")
			})
		})
		begun := time.Now()
		name, err := f()
		took := time.Since(begun)
		lookup, change := lookups(), changes()
		if errors.Is(err, goose.ErrNoNextVersion) {
			return false
		}
		if err != nil {
			b.Fatal(err)
		}
		b.Logf("%s, %d keys: %v; longest lookup of the former release %v, longest change %v",
			name, benchKeys, took, lookup, change)
		return true
	}
	for step(func() (string, error) {
		var result *goose.MigrationResult
		err := upgraded.retryBusy(b.Context(), func() (err error) {
			result, err = p.UpByOne(b.Context())
			return err
		})
		if err != nil {
			return "", err
		}
		return filepath.Base(result.Source.Path), nil
	}) {
	}
	// A node with 2,500 first uses per second records so many at a time.
	const atOnce = 10_000
	step(func() (string, error) {
		for part := range slices.Chunk(rand.Perm(benchKeys), atOnce) {
			keys := make(map[keystore.Digest]keystore.DerivingKey, len(part))
			for _, n := range part {
				keys[keystore.Digest(formerDigest(n))] = keystore.DerivingKey{
					Public: keystore.PublicKey(benchDigest(n)), Prefix: "ak"}
			}
			if err := upgraded.RecordDeriving(b.Context(), keys); err != nil {
				return "", err
			}
		}
		return "recording all deriving keys", nil
	})
}

// repeat calls f again and again until stop is called, which returns the longest duration.
func repeat(b *testing.B, f func(context.Context) error) (stop func() (longest time.Duration)) {
	begun, stopped, longest := make(chan bool), make(chan bool), make(chan time.Duration)
	go func() {
		var most time.Duration
		for n := 0; ; n++ {
			select {
			case <-stopped:
				longest <- most
				return
			default:
			}
			start := time.Now()
			if err := f(b.Context()); err != nil {
				b.Error(err)
			}
			most = max(most, time.Since(start))
			if n == 0 {
				close(begun)
			}
		}
	}()
	<-begun
	return func() time.Duration {
		close(stopped)
		return <-longest
	}
}

// fillFormer creates formerSchema and benchKeys keys.
func fillFormer(b *testing.B, d *DB) {
	b.Helper()
	p, err := d.migrator()
	if err != nil {
		b.Fatal(err)
	}
	if _, err := p.UpTo(b.Context(), formerSchema); err != nil {
		b.Fatal(err)
	}
	if err := d.write(b.Context(), func(t *tx) error {
		if d.beginMany != "" {
			t.many = true
			if _, err := t.sql.ExecContext(t.ctx, d.beginMany); err != nil {
				return err
			}
		}
		if err := t.insertFormer(0, benchKeys); err != nil || d.endMany == "" {
			return err
		}
		_, err := t.exec(d.endMany)
		return err
	}); err != nil {
		b.Fatal(err)
	}
	if d.analyze != "" {
		if _, err := d.writer.ExecContext(b.Context(), "VACUUM ANALYZE"); err != nil {
			b.Fatal(err)
		}
	}
}

// insertFormer adds the keys with numbers n, where from ≤ n < to.
func (t *tx) insertFormer(from, to int) error {
	numbers := "WITH RECURSIVE numbers (n) AS (SELECT CAST(? AS " + t.db.bigint +
		") UNION ALL SELECT n + 1 FROM numbers WHERE n + 1 < ?) "
	first, end := firstFormer+from, firstFormer+to
	if _, err := t.exec(numbers+`INSERT INTO keys (id, prefix, name, namespace, grants, owner,
			created_by, active, created_at, expires_at, revoked_by, revoke_reason, allowed_ips,
			metadata, version)
		SELECT CAST(n AS text), 'ak', 'key number ' || n, 'default',
			'[{"namespace":"default","permissions":["read"],"roles":[],"connected":false}]', 'root',
			'root', 1, n, 4102444800000000 + n, '', '', '[]', '{}', 1 FROM numbers`,
		first, end); err != nil {
		return err
	}
	_, err := t.exec(numbers+`INSERT INTO secrets (digest, key_id, created_at)
		SELECT `+t.db.fromHex("'"+formerZeros+"' || n")+`, CAST(n AS text), n FROM numbers`, first,
		end)
	return err
}

// formerZeros are the first digits of a digest in hexadecimal. The id of its key follows.
var formerZeros = strings.Repeat("0", 52)

// formerDigest returns the digest of a key with a number.
func formerDigest(number int) []byte {
	d, err := hex.DecodeString(fmt.Sprint(formerZeros, firstFormer+number))
	if err != nil {
		panic(err) // the id has twelve digits
	}
	return d
}

// formerLookup reads a key as the former release does.
const formerLookup = `SELECT k.id FROM head h
	LEFT JOIN secrets d ON d.digest = ? AND (d.import_id IS NULL
		OR NOT EXISTS (SELECT 1 FROM imports i WHERE i.id = d.import_id))
	LEFT JOIN keys k ON k.id = d.key_id
	LEFT JOIN key_limits l ON l.key_id = k.id
	LEFT JOIN last_uses u ON u.key_id = k.id
	LEFT JOIN secrets s ON s.key_id = k.id AND s.dropped = 0`
