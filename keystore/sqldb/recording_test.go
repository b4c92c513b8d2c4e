//go:build unix

package sqldb

import (
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest/postgrestest"
)

// TestPostgresRecordsInBatches: recording the uses or deriving keys of thousands of keys takes few
// round trips.
func TestPostgresRecordsInBatches(t *testing.T) {
	s := newPostgresStore(t)
	address, trips := countTrips(t, s.Server)
	d := openOnce(t, s.Server.URL(s.schema, address))
	const n = 3000 // three batches
	uses := make(map[string]keystore.LastUse)
	keys := make(map[keystore.Digest]keystore.DerivingKey)
	for i := range n {
		uses[fmt.Sprint(i)] = keystore.LastUse{At: time.Now()}
		keys[benchDigest(i)] = keystore.DerivingKey{Public: keystore.PublicKey{1}}
	}
	for name, record := range map[string]func(context.Context) error{
		"RecordUse":      func(ctx context.Context) error { return d.RecordUse(ctx, uses) },
		"RecordDeriving": func(ctx context.Context) error { return d.RecordDeriving(ctx, keys) },
	} {
		before := trips.Load()
		if err := record(t.Context()); err != nil {
			t.Fatal(name, err)
		}
		if took := trips.Load() - before; took < 3 || took > 50 {
			t.Errorf("%s: %d round trips", name, took)
		}
	}
}

// countTrips returns the address of a proxy for the server, and how often the direction of the
// traffic has turned towards the server.
func countTrips(t *testing.T, s *postgrestest.Server) (address string, trips *atomic.Int64) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	trips = new(atomic.Int64)
	go func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", s.Address())
			if err != nil {
				client.Close()
				continue
			}
			answered := new(atomic.Bool)
			answered.Store(true)
			go func() {
				defer server.Close()
				_, _ = io.Copy(writerFunc(func(b []byte) (int, error) {
					if answered.Swap(false) {
						trips.Add(1)
					}
					return server.Write(b)
				}), client)
			}()
			go func() {
				defer client.Close()
				_, _ = io.Copy(writerFunc(func(b []byte) (int, error) {
					answered.Store(true)
					return client.Write(b)
				}), server)
			}()
		}
	}()
	return l.Addr().String(), trips
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

// TestPostgresRecordingContinues: after a failure, the next recording begins where the last one
// ended, so that a slow database gets everything in the end.
func TestPostgresRecordingContinues(t *testing.T) {
	s := newPostgresStore(t)
	d := openOnce(t, s.URL(s.schema))
	if _, err := d.Deployment(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	const n = 1500 // two batches
	keys := make(map[keystore.Digest]keystore.DerivingKey)
	var last keystore.Digest
	if _, err := d.Update(t.Context(), func(tx keystore.Tx) error {
		var list []*keystore.Key
		for i := range n {
			k := benchKey(i, tx.Now())
			list = append(list, k)
			digest := k.Secrets[0].Digest
			keys[digest] = keystore.DerivingKey{Public: keystore.PublicKey(digest)}
			if string(digest[:]) > string(last[:]) {
				last = digest
			}
		}
		_, err := tx.InsertKeys(list)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	// The second batch waits for another transaction.
	other, err := d.writer.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Rollback()
	if _, err := other.Exec("INSERT INTO deriving_keys (digest, public_key, prefix) VALUES " +
		"(decode('" + hex.EncodeToString(last[:]) + "', 'hex'), " +
		"decode(repeat('00', 32), 'hex'), '')"); err != nil {
		t.Fatal(err)
	}
	count := func() (stored int) {
		if err := d.readers.QueryRow("SELECT count(*) FROM deriving_keys").
			Scan(&stored); err != nil {
			t.Error(err)
		}
		return stored
	}
	var pid, waiting int
	if err := other.QueryRow("SELECT pg_backend_pid()").Scan(&pid); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	recorded := make(chan error)
	go func() { recorded <- d.RecordDeriving(ctx, keys) }()
	for ; waiting == 0; time.Sleep(time.Millisecond) {
		if err := d.readers.QueryRow("SELECT count(*) FROM pg_stat_activity WHERE "+
			"$1 = ANY(pg_blocking_pids(pid))", pid).Scan(&waiting); err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	if err := <-recorded; err == nil {
		t.Error("recorded while another transaction holds a row")
	}
	if len(keys) != n-1000 {
		t.Errorf("%d keys are left", len(keys))
	}
	if err := other.Rollback(); err != nil {
		t.Fatal(err)
	}
	if err := d.RecordDeriving(t.Context(), keys); err != nil || len(keys) > 0 || count() != n {
		t.Errorf("%d keys are left, %d stored: %v", len(keys), count(), err)
	}
}

// TestPostgresRecordsOnlyChanges: recording a deriving key that adds nothing new does not write its
// row again.
func TestPostgresRecordsOnlyChanges(t *testing.T) {
	s := newPostgresStore(t)
	d := openOnce(t, s.URL(s.schema))
	if _, err := d.Deployment(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	digest := insertSecret(t, d.DB)
	record := func(prefix string) (place string) {
		t.Helper()
		if err := d.RecordDeriving(t.Context(), map[keystore.Digest]keystore.DerivingKey{
			digest: {Public: keystore.PublicKey{1}, Prefix: prefix}}); err != nil {
			t.Fatal(err)
		}
		if err := d.readers.QueryRow("SELECT ctid FROM deriving_keys").Scan(&place); err != nil {
			t.Fatal(err)
		}
		return place
	}
	for _, prefixes := range [][2]string{{"ak", "ak"}, {" ak bk ", " ak bk "}, {" ak bk ", " bk "}} {
		before := record(prefixes[0])
		if after := record(prefixes[1]); after != before {
			t.Errorf("%q after %q is written", prefixes[1], prefixes[0])
		}
	}
}
