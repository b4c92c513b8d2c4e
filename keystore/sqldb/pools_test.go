//go:build unix

package sqldb

import (
	"context"
	"database/sql"
	"errors"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
)

// TestPools: while all connections for bulk reads are in use, other bulk reads wait, and nothing
// else does.
func TestPools(t *testing.T) {
	eachDatabase(t, t.Run, func(t *testing.T, node func() (*manage.Keystore, *countingDB)) {
		_, c := node()
		d := c.Database.(*DB)
		for range bulkReaders {
			conn, err := d.bulk.Conn(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
		}
		for name, call := range map[string]func(context.Context) error{
			"KeyByDigest": func(ctx context.Context) error {
				_, _, err := d.KeyByDigest(ctx, keystore.Digest{})
				return err
			},
			"Session": func(ctx context.Context) error {
				_, err := d.Session(ctx, keystore.Digest{})
				return ignore(err, keystore.ErrNotFound)
			},
			"UseSession": func(ctx context.Context) error {
				return d.UseSession(ctx, keystore.Digest{}, time.Now())
			},
			"RecordUse": func(ctx context.Context) error {
				return d.RecordUse(ctx, map[string]keystore.LastUse{"k": {At: time.Now()}})
			},
			"RecordDeriving": func(ctx context.Context) error {
				return d.RecordDeriving(ctx,
					map[keystore.Digest]keystore.DerivingKey{{1}: {Prefix: "ak"}})
			},
			"Reserve": func(ctx context.Context) error {
				_, err := d.Reserve(ctx, []keystore.Reservation{{Quota: "q", End: time.Now()}})
				return err
			},
			"AddUsage": func(ctx context.Context) error {
				return d.AddUsage(ctx, keystore.UsageBatch{Writer: "w", Number: 1,
					Rows: []keystore.UsageRow{{Begin: time.Now(), Key: "k"}}})
			},
			"MaintainUsage": func(ctx context.Context) error {
				_, err := d.MaintainUsage(ctx, keystore.DefaultUsageKept)
				return err
			},
			"Renew": func(ctx context.Context) error {
				_, err := d.Renew(ctx, "i", keystore.Position{})
				return err
			},
			"RenewPolicy": func(ctx context.Context) error {
				_, err := d.RenewPolicy(ctx, keystore.Nowhere)
				return err
			},
			"Changes": func(ctx context.Context) error {
				_, err := d.Changes(ctx, 0, 0)
				return err
			},
			"Acknowledge": func(ctx context.Context) error {
				return d.Acknowledge(ctx, "i", keystore.Position{})
			},
			"Nodes": func(ctx context.Context) error { _, err := d.Nodes(ctx); return err },
			"Update": func(ctx context.Context) error {
				_, err := d.Update(ctx, func(tx keystore.Tx) error {
					_, err := tx.Policy(keystore.Nowhere)
					return err
				})
				return err
			},
		} {
			if err := call(t.Context()); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		for name, call := range map[string]func(context.Context) error{
			"Key": func(ctx context.Context) error { _, err := d.Key(ctx, "k"); return err },
			"Keys": func(ctx context.Context) error {
				_, _, err := d.Keys(ctx, keystore.KeyFilter{Text: "a", Owner: "b"}, "", 1)
				return err
			},
			"CountMatching": func(ctx context.Context) error {
				_, _, err := d.CountMatching(ctx, keystore.KeyFilter{Owner: "b"}, 1)
				return err
			},
			"CountKeys": func(ctx context.Context) error {
				_, err := d.CountKeys(ctx)
				return err
			},
			"Usage": func(ctx context.Context) error {
				_, err := d.Usage(ctx, keystore.UsageQuery{Step: keystore.Day})
				return err
			},
			"UsedOperations": func(ctx context.Context) error {
				_, err := d.UsedOperations(ctx, []string{"k"})
				return err
			},
			"NearQuotas": func(ctx context.Context) error {
				_, err := d.NearQuotas(ctx, 0, 1)
				return err
			},
			"Policy": func(ctx context.Context) error {
				_, err := d.Policy(ctx, keystore.Nowhere)
				return err
			},
			"Audits": func(ctx context.Context) error {
				_, _, err := d.Audits(ctx, keystore.AuditFilter{}, "", 1)
				return err
			},
			"AuditChain": func(ctx context.Context) error {
				_, err := d.AuditChain(ctx, 0, 500)
				return err
			},
		} {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
			if err := call(ctx); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s: %v", name, err)
			}
			cancel()
		}
	})
}

func ignore(err, ignored error) error {
	if errors.Is(err, ignored) {
		return nil
	}
	return err
}

// TestQueryContext: the end of the context stops a query, even one that takes long to find its first
// row.
func TestQueryContext(t *testing.T) {
	eachDatabase(t, t.Run, func(t *testing.T, node func() (*manage.Keystore, *countingDB)) {
		_, c := node()
		d := c.Database.(*DB)
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		_, err := list(d.read(ctx), func(scan func(...any) error) (n sql.NullInt64, err error) {
			return n, scan(&n)
		},
			"WITH RECURSIVE endless(n) AS (SELECT 1 UNION ALL SELECT 1 - n FROM endless) SELECT "+
				"count(*) FROM endless")
		if err == nil || ctx.Err() == nil {
			t.Fatal(err)
		}
		for range bulkReaders { // no connection is lost
			if _, err := d.CountKeys(t.Context()); err != nil {
				t.Error(err)
			}
		}
	})
}
