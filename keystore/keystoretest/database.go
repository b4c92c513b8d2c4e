// Package keystoretest contains the conformance suites of the interfaces of package keystore. Every
// implementation runs them: see [TestDatabase], [TestSharedCache] and
// [TestSharedRates].
package keystoretest

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// A Store is a database that several processes can open.
type Store interface {
	// Open opens the database like another process. It is closed at the end of the test, unless the
	// test closes it.
	Open(t *testing.T) keystore.Database
	// Exec runs a statement as an operator does, without the program.
	Exec(statement string) error
}

// TestDatabase tests the contract of [keystore.Database], sentence by sentence. newStore returns an
// empty store.
func TestDatabase(t *testing.T, newStore func(t *testing.T) Store) {
	for _, test := range databaseTests {
		t.Run(test.name, func(t *testing.T) { test.run(t, newStore(t)) })
	}
	t.Run("TokenKey", func(t *testing.T) { testTokenKey(t, newStore) })
}

var databaseTests = []struct {
	name string
	run  func(*testing.T, Store)
}{
	{"Deployment", testDeployment},
	{"Key", testKey},
	{"InsertKeys", testInsertKeys},
	{"Rotated", testRotated},
	{"Missing", testMissing},
	{"Spent", testSpent},
	{"ReturnedValues", testReturnedValues},
	{"Changes", testChanges},
	{"ManualChanges", testManualChanges},
	{"Unreadable", testUnreadable},
	{"Irreversible", testIrreversible},
	{"NoRevision", testNoRevision},
	{"Truncated", testTruncated},
	{"Changed", testChanged},
	{"Rollback", testRollback},
	{"Serial", testSerial},
	{"Waiting", testWaiting},
	{"Cancelled", testCancelled},
	{"LastUse", testLastUse},
	{"LastAddress", testLastAddress},
	{"LastDerived", testLastDerived},
	{"Deriving", testDeriving},
	{"Nodes", testNodes},
	{"Positions", testPositions},
	{"Time", testTime},
	{"Imported", testImported},
	{"Abandoned", testAbandoned},
	{"Policy", testPolicy},
	{"PolicySnapshot", testPolicySnapshot},
	{"PolicyChanges", testPolicyChanges},
	{"PolicyTruncated", testPolicyTruncated},
	{"KeyCounts", testKeyCounts},
	{"KeysHolding", testKeysHolding},
	{"Personal", testPersonal},
	{"OwnedHomes", testOwnedHomes},
	{"NamespaceInUse", testNamespaceInUse},
	{"FormerNamespaces", testFormerNamespaces},
	{"Limits", testLimits},
	{"Plans", testPlans},
	{"PlanInUse", testPlanInUse},
	{"UnreadableLimits", testUnreadableLimits},
	{"Reserve", testReserve},
	{"ReserveMany", testReserveMany},
	{"ReserveCancelled", testReserveCancelled},
	{"ReserveForgets", testReserveForgets},
	{"ReserveClock", testReserveClock},
	{"NearQuotas", testNearQuotas},
	{"QuotaThresholds", testQuotaThresholds},
	{"Usage", testUsage},
	{"HugeUsage", testHugeUsage},
	{"UsageBatches", testUsageBatches},
	{"UsageFilters", testUsageFilters},
	{"UsageLimit", testUsageLimit},
	{"UsageDropped", testUsageDropped},
	{"UsedOperations", testUsedOperations},
	{"Audit", testAudit},
	{"Audits", testAudits},
	{"Remembered", testRemembered},
	{"Sessions", testSessions},
	{"Reminders", testReminders},
	{"Webhooks", testWebhooks},
	{"AuditAt", testAuditAt},
	{"Filters", testFilters},
	{"Orders", testOrders},
	{"Text", testText},
	{"Metadata", testMetadata},
	{"Pages", testPages},
	{"Count", testCount},
	{"CountPrefixes", testCountPrefixes},
	{"KeysCreatedBy", testKeysCreatedBy},
	{"SetOwner and InactivateKeys", testSetAll},
	{"Reopen", testReopen},
	{"Linearizable", testLinearizable},
	{"RandomChanges", testRandomChanges},
	{"ReserveTogether", testReserveTogether},
	{"UsageRolledUp", testUsageRolledUp},
	{"UsageInterrupted", testUsageInterrupted},
	{"UsageTogether", testUsageTogether},
	{"RandomUsage", testRandomUsage},
	{"PageBytes", testPageBytes},
}

var (
	ctx   = context.Background()
	start = time.Date(2026, 3, 1, 12, 0, 0, 123456000, time.UTC)
)

// ready opens a store and prepares its deployment.
func ready(t *testing.T, s Store) keystore.Database {
	t.Helper()
	db := s.Open(t)
	_, err := db.Deployment(ctx, nil)
	must(t, err)
	return db
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantErr(t *testing.T, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Fatalf("error %v, want %v", got, want)
	}
}

func update(t *testing.T, db keystore.Database, change func(keystore.Tx) error) keystore.Revision {
	t.Helper()
	r, err := db.Update(ctx, change)
	must(t, err)
	return r
}

func insert(t *testing.T, db keystore.Database, keys ...*keystore.Key) keystore.Revision {
	t.Helper()
	return update(t, db, func(tx keystore.Tx) error {
		refused, err := tx.InsertKeys(keys)
		if len(refused) > 0 {
			return fmt.Errorf("inserting %d keys: %v", len(keys), refused)
		}
		return err
	})
}

// insertKey inserts one key. It returns the error if the key is refused.
func insertKey(tx keystore.Tx, k *keystore.Key) error {
	refused, err := tx.InsertKeys([]*keystore.Key{k})
	if err != nil {
		return err
	}
	return refused[0]
}

// edit changes a key through the transaction.
func edit(
	t *testing.T, db keystore.Database, id string, change func(*keystore.Key),
) keystore.Revision {
	t.Helper()
	return update(t, db, func(tx keystore.Tx) error {
		k, err := tx.Key(id)
		if err != nil {
			return err
		}
		change(k)
		k.Version++
		return tx.UpdateKey(k)
	})
}

func head(t *testing.T, db keystore.Database) keystore.Revision {
	t.Helper()
	return position(t, db).Revision
}

func position(t *testing.T, db keystore.Database) keystore.Position {
	t.Helper()
	h, err := db.Renew(ctx, "nobody", keystore.Position{})
	must(t, err)
	return h.Position
}

func digest(s string) keystore.Digest { return keystore.DigestOf("credential " + s) }

func secret(s string) keystore.Secret {
	return keystore.Secret{Digest: digest(s), CreatedAt: start}
}

// plain returns a key with one secret, named after the id.
func plain(id string) *keystore.Key {
	return &keystore.Key{
		ID: id, Prefix: "ak", Name: "key " + id, Namespace: keystore.DefaultNamespace,
		Owner: keystore.RootMember, CreatedBy: keystore.RootMember,
		Grants: []keystore.Grant{{Namespace: keystore.DefaultNamespace,
			Permissions: []keystore.Permission{{Action: "read"}}}},
		Active: true, CreatedAt: start, Version: 1, Secrets: []keystore.Secret{secret(id)},
	}
}

// full returns a key with a value in every field.
func full(id string) *keystore.Key {
	return &keystore.Key{
		ID: id, Prefix: "ak_live", Name: "Ünïcode % _ * \x01 '\"", Namespace: "acme",
		Owner: "m_1", CreatedBy: "k_1", Active: false, CreatedAt: start,
		Grants: []keystore.Grant{
			{Namespace: "acme", Permissions: []keystore.Permission{{Action: "read"},
				{Resource: "orders", Action: "search"}}, Roles: []string{"billing", "x"},
				Connected: true},
			{Namespace: keystore.AnyNamespace, Permissions: []keystore.Permission{{Action: "*"}}},
		},
		ExpiresAt: start.Add(time.Hour), RevokedAt: start.Add(time.Minute), RevokedBy: "root",
		RevokeReason: "leaked\n",
		Secrets: []keystore.Secret{
			{Digest: digest(id + " new"), CreatedAt: start.Add(time.Second), Imported: true},
			{Digest: digest(id + " old"), CreatedAt: start, ExpiresAt: start.Add(time.Minute),
				Deriving: deriving(id)},
		},
		AllowedIPs: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"),
			netip.MustParsePrefix("2001:db8::/32")},
		KeyLimits: keystore.KeyLimits{Limits: keystore.Limits{
			Rate:  keystore.RateLimit{Requests: 100, Per: 90 * time.Minute, Burst: 200, Shadow: true},
			Quota: keystore.Quota{Units: keystore.MaxQuota, Per: keystore.Month, Shadow: true},
		}, Plan: "gold"},
		Metadata: map[string]string{"team": "erp", "": "empty", "ü": "\u2028"}, Version: 7,
	}
}

// normal replaces empty slices and maps by nil.
func normal(k keystore.Key) keystore.Key {
	if len(k.Grants) == 0 {
		k.Grants = nil
	}
	if len(k.Secrets) == 0 {
		k.Secrets = nil
	}
	if len(k.AllowedIPs) == 0 {
		k.AllowedIPs = nil
	}
	if len(k.Metadata) == 0 {
		k.Metadata = nil
	}
	return k
}

func wantKey(t *testing.T, got, want *keystore.Key) {
	t.Helper()
	if got == nil {
		t.Fatalf("no key, want %s", want.ID)
	}
	if g, w := normal(*got), normal(*want); !reflect.DeepEqual(g, w) {
		t.Fatalf("key\n%+v, want\n%+v", g, w)
	}
}

// lookup returns the id of the key that has a secret with this digest, or an empty string.
func lookup(t *testing.T, db keystore.Database, d keystore.Digest) string {
	t.Helper()
	k, _, err := db.KeyByDigest(ctx, d)
	must(t, err)
	if k == nil || !slices.ContainsFunc(k.Secrets,
		func(s keystore.Secret) bool { return s.Digest == d }) {
		return ""
	}
	return k.ID
}
