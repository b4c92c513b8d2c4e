package sqldb

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// insertSecret adds a key and returns the digest of its secret.
func insertSecret(t testing.TB, d *DB) (digest keystore.Digest) {
	t.Helper()
	if _, err := d.Update(t.Context(), func(tx keystore.Tx) error {
		k := benchKey(1, tx.Now())
		digest = k.Secrets[0].Digest
		_, err := tx.InsertKeys([]*keystore.Key{k})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return digest
}

// benchKey returns key number n. One key in a hundred is revoked, one inactive, and one expired.
// Half of the keys are in the default namespace. The others have a role and are spread over
// 1999 namespaces.
func benchKey(n int, now time.Time) *keystore.Key {
	namespace := keystore.DefaultNamespace
	if n%2 == 1 {
		namespace = fmt.Sprint("ns", n%1999)
	}
	k := &keystore.Key{
		ID: fmt.Sprintf("%012d", n*7919%1_000_000_000_039), Prefix: "ak",
		Name: fmt.Sprint("key number ", n), Namespace: namespace, Owner: fmt.Sprint("m_", n%100),
		CreatedBy: keystore.RootMember, Active: n%100 != 1, CreatedAt: now, Version: 1,
		Secrets: []keystore.Secret{{Digest: benchDigest(n), CreatedAt: now}},
		Grants: []keystore.Grant{{Namespace: namespace,
			Permissions: []keystore.Permission{{Action: "read"}, {Action: "write"}}}},
	}
	if n%2 == 1 {
		k.Grants[0].Roles = []string{"member"}
	}
	if n%10_000 == 17 {
		k.Grants = append(k.Grants, keystore.Grant{Namespace: keystore.DefaultNamespace,
			Roles: []string{"rare"}, Connected: true})
	}
	switch n % 100 {
	case 2:
		k.RevokedAt = now
	case 3:
		k.ExpiresAt = now.Add(-time.Hour)
	case 4, 5, 6, 7:
		k.ExpiresAt = now.Add(time.Hour)
	}
	return k
}

func benchDigest(n int) keystore.Digest {
	return keystore.DigestOf(string(binary.BigEndian.AppendUint64(nil, uint64(n))))
}

// fill returns a database with keys 0 to n-1 of benchKey.
func fill(tb testing.TB, n int) *DB {
	tb.Helper()
	ctx := context.Background()
	d, err := OpenSQLite(ctx, newSQLite(tb).path)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { d.Close() })
	if _, err := d.Deployment(ctx, nil); err != nil {
		tb.Fatal(err)
	}
	for from := 0; from < n; from += 10_000 {
		_, err := d.Update(ctx, func(tx keystore.Tx) error {
			var keys []*keystore.Key
			for i := from; i < min(n, from+10_000); i++ {
				keys = append(keys, benchKey(i, tx.Now()))
			}
			refused, err := tx.InsertKeys(keys)
			if len(refused) > 0 {
				tb.Error("refused: ", refused)
			}
			return err
		})
		if err != nil {
			tb.Fatal(err)
		}
	}
	return d
}

// insertKey inserts one key. It returns the error if the key is refused.
func insertKey(tx keystore.Tx, k *keystore.Key) error {
	refused, err := tx.InsertKeys([]*keystore.Key{k})
	if err != nil {
		return err
	}
	return refused[0]
}

// BenchmarkKeys measures calls with a hundred thousand keys, or as many as APIKEYS_BENCH_KEYS.
func BenchmarkKeys(b *testing.B) {
	n := benchKeys
	ctx, cancel := context.WithTimeout(context.Background(), time.Hour) // like that of callers
	defer cancel()
	began := time.Now()
	d := fill(b, n)
	b.Logf("%d keys inserted, %v each", n, time.Since(began)/time.Duration(n))

	b.Run("KeyByDigest", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if k, _, err := d.KeyByDigest(ctx, benchDigest(rand.IntN(n))); k == nil || err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("KeyByDigest/unknown", func(b *testing.B) {
		for b.Loop() {
			k, _, err := d.KeyByDigest(ctx, benchDigest(n+rand.IntN(n)))
			if k != nil || err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("Renew", func(b *testing.B) {
		for b.Loop() {
			if _, err := d.Renew(ctx, "nobody", keystore.Position{}); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("CountKeys", func(b *testing.B) {
		for b.Loop() {
			if _, err := d.CountKeys(ctx); err != nil {
				b.Fatal(err)
			}
		}
	})
	few := []string{"ns1", "ns3", "ns5", "ns7", "ns9"}
	for _, list := range []struct {
		name string
		f    keystore.KeyFilter
	}{
		{"all", keystore.KeyFilter{}},
		{"namespace", keystore.KeyFilter{Namespaces: []string{keystore.DefaultNamespace}}},
		{"small namespace", keystore.KeyFilter{Namespaces: few[:1]}},
		{"empty namespace", keystore.KeyFilter{Namespaces: []string{"nowhere"}}},
		{"5 namespaces", keystore.KeyFilter{Namespaces: few}},
		{"2 namespaces, one big", keystore.KeyFilter{Namespaces: []string{"ns1",
			keystore.DefaultNamespace}}},
		{"active", keystore.KeyFilter{Status: keystore.StatusActive}},
		{"revoked", keystore.KeyFilter{Status: keystore.StatusRevoked}},
		{"expired", keystore.KeyFilter{Status: keystore.StatusExpired}},
		{"inactive", keystore.KeyFilter{Status: keystore.StatusInactive}},
		{"revoked in namespace", keystore.KeyFilter{Status: keystore.StatusRevoked,
			Namespaces: []string{keystore.DefaultNamespace}}},
		{"inactive in namespace, none",
			keystore.KeyFilter{Status: keystore.StatusInactive,
				Namespaces: []string{keystore.DefaultNamespace}}},
		{"owner", keystore.KeyFilter{Owner: "m_5"}},
		{"owner, none", keystore.KeyFilter{Owner: "nobody"}},
		{"text, many", keystore.KeyFilter{Text: "number 5"}},
		{"text, none", keystore.KeyFilter{Text: "xyz"}},
		{"role", keystore.KeyFilter{Role: "member"}},
		{"role, few", keystore.KeyFilter{Role: "rare"}},
		{"role, none", keystore.KeyFilter{Role: "billing"}},
		{"visible", keystore.KeyFilter{Visible: few, OrOwners: []string{"m_5"}}},
		{"visible, none", keystore.KeyFilter{Visible: []string{}, OrOwners: []string{"nobody"}}},
	} {
		list.f.Now = time.Now()
		b.Run("page/"+list.name, func(b *testing.B) {
			for b.Loop() {
				if _, _, err := d.Keys(ctx, list.f, "", 100); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	b.Run("Policy", func(b *testing.B) {
		h, err := d.Renew(ctx, "nobody", keystore.Position{})
		if err != nil {
			b.Fatal(err)
		}
		for b.Loop() {
			if p, err := d.Policy(ctx, h.Position); p != nil || err != nil {
				b.Fatal(p, err)
			}
		}
	})
	for name, ask := range map[string]func(keystore.Tx) error{
		"KeysOwnedBy": func(tx keystore.Tx) error { _, err := tx.KeysOwnedBy("m_5"); return err },
		"OwnedHomes":  func(tx keystore.Tx) error { _, err := tx.OwnedHomes("m_5"); return err },
		"PersonalKey": func(tx keystore.Tx) error { _, err := tx.PersonalKey("m_5"); return err },
		"RoleHeld": func(tx keystore.Tx) error {
			_, err := tx.RoleHeld(keystore.RoleID{Namespace: keystore.AnyNamespace, Name: "member"})
			return err
		},
		"RoleHeld/local": func(tx keystore.Tx) error {
			_, err := tx.RoleHeld(keystore.RoleID{Namespace: "ns1", Name: "member"})
			return err
		},
		"KeysHolding": func(tx keystore.Tx) error {
			n := 0
			return tx.KeysHolding(keystore.RoleID{Namespace: keystore.AnyNamespace, Name: "member"},
				few, func(*keystore.Key) bool { n++; return n < 10 })
		},
		"KeysHolding/none": func(tx keystore.Tx) error {
			return tx.KeysHolding(keystore.RoleID{Namespace: keystore.AnyNamespace, Name: "member"},
				[]string{keystore.DefaultNamespace}, func(*keystore.Key) bool { return true })
		},
	} {
		b.Run("Tx/"+name, func(b *testing.B) {
			_, err := d.Update(ctx, func(tx keystore.Tx) error {
				for b.Loop() {
					if err := ask(tx); err != nil {
						return err
					}
				}
				return nil
			})
			if err != nil {
				b.Fatal(err)
			}
		})
	}
	next := n
	b.Run("Update/insert", func(b *testing.B) {
		for b.Loop() {
			_, err := d.Update(ctx, func(tx keystore.Tx) error {
				next++
				return insertKey(tx, benchKey(next, tx.Now()))
			})
			if err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("Acknowledge", func(b *testing.B) {
		if err := d.Join(ctx, keystore.Node{Incarnation: "i"}); err != nil {
			b.Fatal(err)
		}
		for b.Loop() {
			if err := d.Acknowledge(ctx, "i", keystore.Position{Revision: 1}); err != nil {
				b.Fatal(err)
			}
		}
	})
	for _, n := range []int{1, 1000} {
		b.Run(fmt.Sprint("Reserve/", n), func(b *testing.B) {
			begin, end := keystore.Month.Of(time.Now())
			list := make([]keystore.Reservation, n)
			for i := range list {
				list[i] = keystore.Reservation{Quota: fmt.Sprint("k:", i), Begin: begin, End: end,
					Limit: keystore.MaxQuota, Want: 1}
			}
			for b.Loop() {
				if _, err := d.Reserve(ctx, list); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

var benchKeys = func() int {
	if n, err := strconv.Atoi(os.Getenv("APIKEYS_BENCH_KEYS")); err == nil {
		return n
	}
	return 100_000
}()
