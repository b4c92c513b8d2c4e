//go:build unix

package sqldb

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
)

// bulk is the number of keys that the tests import: three slices, the last of which is not full.
const bulk = 1100

func mintOne(
	t testing.TB, k *manage.Keystore, permissions ...keystore.Permission,
) (*keystore.Key, string) {
	t.Helper()
	key, token, err := k.MintKey(context.Background(), importer,
		manage.KeySpec{Home: &keystore.Grant{Permissions: permissions}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return key, token.Reveal()
}

// creator mints a key that may create others, and returns it as a caller.
func creator(t testing.TB, k *manage.Keystore) (manage.Caller, *keystore.Key, string) {
	t.Helper()
	key, token := mintOne(t, k, keystore.Permission{Resource: "admin.keys", Action: "create"},
		keystore.Permission{Action: "read"})
	a, err := k.Lookup(context.Background(), token, time.Now())
	if err != nil || a.Outcome != keystore.OK {
		t.Fatal(a.Outcome, err)
	}
	return manage.KeyCaller(a.Record, "test"), key, token
}

// revokeAt revokes a key and requires a complete propagation.
func revokeAt(t testing.TB, k *manage.Keystore, id string, created bool) {
	t.Helper()
	_, p, err := k.RevokeKey(context.Background(), importer, id, "", created,
		manage.ChangeOptions{Wait: time.Minute})
	if err != nil || !p.Complete {
		t.Fatalf("revoking: %+v, %v", p, err)
	}
}

// wantOutcome checks the outcome of a read with a credential.
func wantOutcome(t testing.TB, k *manage.Keystore, token string, want keystore.Outcome) {
	t.Helper()
	a, err := k.Lookup(context.Background(), token, time.Now())
	got := a.Outcome
	if got == keystore.Malformed {
		got = keystore.Unknown // the format is accepted only after an import
	}
	if got == keystore.OK {
		got = keystore.Decide(a.Record,
			&keystore.Request{Now: a.Now, Policy: k.Policy(),
				Namespace: k.Policy().Namespace("default")})
	}
	if err != nil || got != want {
		t.Fatalf("%s: %v, %v, want %v", token, got, err, want)
	}
}

// activeBy returns the number of keys created by a caller that are not revoked.
func activeBy(t testing.TB, k *manage.Keystore, id string) (active int) {
	t.Helper()
	for cursor := ""; ; {
		keys, next, err := k.ListKeys(context.Background(), importer,
			keystore.KeyFilter{CreatedBy: id}, cursor, 1000)
		if err != nil {
			t.Fatal(err)
		}
		for _, key := range keys {
			if key.RevokedAt.IsZero() {
				active++
			}
		}
		if cursor = next; next == "" {
			return active
		}
	}
}

// TestRevokeDuringImport: between any two steps of an atomic import, a revoke completes on the same
// node and on another. No imported credential is valid before all are.
func TestRevokeDuringImport(t *testing.T) {
	eachDatabase(t, t.Run, func(t *testing.T, node func() (*manage.Keystore, *countingDB)) {
		a, steps := node()
		b, _ := node()
		specs := legacy("whole", bulk)
		busy, count := false, 0
		steps.stepIn(func(int) error {
			if busy { // this change is the revoke itself
				return nil
			}
			busy = true
			count++
			for _, k := range []*manage.Keystore{a, b} {
				key, token := mintOne(t, b, keystore.Permission{Action: "read"})
				wantOutcome(t, k, token, keystore.OK)
				revokeAt(t, k, key.ID, false)
				wantOutcome(t, a, token, keystore.Revoked)
				wantOutcome(t, b, token, keystore.Revoked)
				wantOutcome(t, k, specs[0].Token, keystore.Unknown)
				wantOutcome(t, k, specs[bulk-1].Token, keystore.Unknown)
			}
			busy = false
			return nil
		})
		n, refused, err := a.ImportKeys(stepped, importer, specs, false, nil)
		if n != bulk || len(refused) > 0 || err != nil {
			t.Fatal(n, refused, err)
		}
		steps.before.Store(nil)
		if count < 1+(bulk+importedAtOnce-1)/importedAtOnce {
			t.Errorf("%d keys were imported in only %d steps: other changes wait too long", bulk,
				count)
		}
		for _, s := range specs {
			wantOutcome(t, a, s.Token, keystore.OK)
			wantOutcome(t, b, s.Token, keystore.OK)
		}
		if v, err := a.VerifyAudit(context.Background(), importer); err != nil || v.Wrong != 0 ||
			v.Rows < bulk {
			t.Errorf("%+v, %v", v, err)
		}
	})
}

// importedAtOnce is the highest number of keys for which a revoke may have to wait.
const importedAtOnce = 700

// TestRevokeDuringManyImports: a leaked key that constantly imports from many clients is revoked
// together with all keys that it created.
func TestRevokeDuringManyImports(t *testing.T) {
	eachDatabase(t, t.Run, func(t *testing.T, node func() (*manage.Keystore, *countingDB)) {
		a, steps := node()
		b, _ := node()
		leaked, key, token := creator(t, a)
		var last atomic.Int64
		steps.step(func(n int) error {
			last.Store(int64(n))
			return nil
		})
		var importing sync.WaitGroup
		for client := range 6 {
			importing.Go(func() {
				for round := 0; ; round++ {
					_, _, err := a.ImportKeys(context.Background(), leaked,
						legacy(fmt.Sprint(client, "-", round), bulk), round%2 == 0, nil)
					if err != nil {
						return
					}
				}
			})
		}
		for last.Load() < 10 { // all imports are running
			time.Sleep(time.Millisecond)
		}
		revokeAt(t, a, key.ID, true)
		importing.Wait() // the running imports are refused
		if active := activeBy(t, b, key.ID); active > 0 {
			t.Errorf("%d keys that the leaked key created are not revoked", active)
		}
		wantOutcome(t, b, token, keystore.Revoked)
	})
}

// TestImportByRevokedKey: a key that is revoked during its import imports nothing, and others can
// import the credentials.
func TestImportByRevokedKey(t *testing.T) {
	eachDatabase(t, t.Run, func(t *testing.T, node func() (*manage.Keystore, *countingDB)) {
		for when := range 3 {
			a, steps := node()
			b, _ := node()
			leaked, key, _ := creator(t, a)
			specs := legacy(fmt.Sprint("late", when), bulk)
			steps.stepIn(func(n int) error {
				// before the first slice, before the last one, and before the publication
				if n == []int{2, 4, 5}[when] {
					revokeAt(t, b, key.ID, false)
				}
				return nil
			})
			n, _, err := a.ImportKeys(stepped, leaked, specs, false, nil)
			steps.before.Store(nil)
			var refused *keystore.Error
			if n != 0 || !errors.As(err, &refused) || refused.Kind != keystore.KindForbidden {
				t.Fatalf("%d: imported %d, %v", when, n, err)
			}
			for _, s := range []int{0, bulk / 2, bulk - 1} {
				wantOutcome(t, b, specs[s].Token, keystore.Unknown)
			}
			if active := activeBy(t, b, key.ID); active > 0 {
				t.Errorf("%d: %d keys are left", when, active)
			}
			again, no, err := b.ImportKeys(context.Background(), importer, specs, false, nil)
			if again != bulk {
				t.Fatal(again, len(no), err)
			}
			wantOutcome(t, a, specs[0].Token, keystore.OK)
		}
	})
}

// TestImportByNarrowedKey: an import fails if the importing key loses, during the import, a
// permission that it gives.
func TestImportByNarrowedKey(t *testing.T) {
	eachDatabase(t, t.Run, func(t *testing.T, node func() (*manage.Keystore, *countingDB)) {
		a, steps := node()
		b, _ := node()
		caller, key, _ := creator(t, a)
		specs := legacy("narrow", bulk)
		steps.stepIn(func(n int) error {
			if n == 5 { // all keys are stored, and none is valid yet
				only := []keystore.Grant{{Namespace: "default",
					Permissions: []keystore.Permission{{Resource: "admin.keys", Action: "create"}}}}
				if _, _, err := b.EditKey(context.Background(), importer, key.ID,
					manage.KeyPatch{Grants: &only},
					manage.ChangeOptions{Wait: time.Minute}); err != nil {
					return err
				}
			}
			return nil
		})
		n, refused, err := a.ImportKeys(stepped, caller, specs, false, nil)
		steps.before.Store(nil)
		if n != 0 || err == nil && len(refused) == 0 {
			t.Fatal(n, len(refused), err)
		}
		wantOutcome(t, a, specs[0].Token, keystore.Unknown)
		if active := activeBy(t, b, key.ID); active > 0 {
			t.Errorf("%d keys are left", active)
		}
	})
}

// TestRefusedImportWritesNothing: an error in the last line is found before the first line is
// written.
func TestRefusedImportWritesNothing(t *testing.T) {
	eachDatabase(t, t.Run, func(t *testing.T, node func() (*manage.Keystore, *countingDB)) {
		k, _ := node()
		specs := legacy("wrong", bulk)
		specs[bulk-1].Token, specs[bulk-2].Token = specs[0].Token, "short"
		before, err := k.VerifyAudit(context.Background(), importer)
		if err != nil {
			t.Fatal(err)
		}
		n, refused, err := k.ImportKeys(context.Background(), importer, specs, false, nil)
		if n != 0 || len(refused) != 2 || err != nil {
			t.Fatal(n, refused, err)
		}
		if after, err := k.VerifyAudit(context.Background(), importer); err != nil ||
			after.Rows != before.Rows {
			t.Errorf("%d rows of the audit log, want %d, %v", after.Rows, before.Rows, err)
		}
	})
}

// TestImportByDeadNode: the keys that a dead node leaves are not valid, are removed, and can be
// imported again.
func TestImportByDeadNode(t *testing.T) {
	eachDatabase(t, t.Run, func(t *testing.T, node func() (*manage.Keystore, *countingDB)) {
		ctx := context.Background()
		a, steps := node()
		b, _ := node()
		leaked, key, _ := creator(t, a)
		unavailable := errors.New("the database is unavailable")
		specs := legacy("dies", bulk)
		steps.step(func(n int) error {
			if n >= 4 { // two slices are stored
				return unavailable
			}
			return nil
		})
		if n, _, err := a.ImportKeys(ctx, leaked, specs, false, nil); n != 0 || err == nil {
			t.Fatal(n, err)
		}
		if err := a.Close(); err != nil {
			t.Fatal(err)
		}
		for _, s := range []int{0, bulk - 1} {
			wantOutcome(t, b, specs[s].Token, keystore.Unknown)
		}
		c, _ := node() // it removes the remaining keys
		for activeBy(t, c, key.ID) > 0 {
			time.Sleep(10 * time.Millisecond)
		}
		for {
			n, refused, err := b.ImportKeys(ctx, importer, specs, false, nil)
			if err != nil {
				t.Fatal(err)
			}
			if n == bulk {
				break
			}
			if refused[0].Code != "already_used" { // the last keys are being removed
				t.Fatal(refused[0])
			}
		}
		wantOutcome(t, c, specs[0].Token, keystore.OK)
		if v, err := b.VerifyAudit(ctx, importer); err != nil || v.Wrong != 0 {
			t.Errorf("%+v, %v", v, err)
		}
	})
}

// TestImportsAreBounded: if too many imports run, further ones fail with KindBusy.
func TestImportsAreBounded(t *testing.T) {
	k, steps := func() (k *manage.Keystore, c *countingDB) {
		eachDatabase(t, func(name string, f func(*testing.T)) bool {
			if name == "SQLite" {
				f(t)
			}
			return true
		}, func(t *testing.T, node func() (*manage.Keystore, *countingDB)) { k, c = node() })
		return k, c
	}()
	release := make(chan struct{})
	steps.step(func(int) error { <-release; return nil })
	const imports = 64 // more than the limit
	results := make(chan error, imports)
	for i := range imports {
		go func() {
			_, _, err := k.ImportKeys(context.Background(), importer,
				legacy(fmt.Sprint("bounded", i), 1), false, nil)
			results <- err
		}()
	}
	var busy *keystore.Error
	if err := <-results; !errors.As(err, &busy) || busy.Kind != keystore.KindBusy {
		t.Errorf("%v", err)
	}
	close(release)
	done := 0
	for range imports - 1 {
		if err := <-results; err == nil {
			done++
		}
	}
	if done == 0 {
		t.Error("no import succeeded")
	}
}

// TestRevokeCreatedKeys: a key is revoked at once. The keys that it created are revoked in steps,
// between which other changes run. After a failure, the rest can be revoked. A cancelled caller does
// not stop the revoke.
func TestRevokeCreatedKeys(t *testing.T) {
	eachDatabase(t, t.Run, func(t *testing.T, node func() (*manage.Keystore, *countingDB)) {
		a, steps := node()
		b, _ := node()
		parent, key, token := creator(t, a)
		importKeys := func(c manage.Caller, kind string, n int) []manage.ImportSpec {
			specs := legacy(kind, n)
			done, refused, err := a.ImportKeys(context.Background(), c, specs, true, nil)
			if done != n {
				t.Fatal(done, refused, err)
			}
			return specs
		}
		children := importKeys(parent, "child", bulk)
		child, childToken, err := a.MintKey(context.Background(), parent,
			manage.KeySpec{Home: &keystore.Grant{Permissions: []keystore.Permission{
				{Resource: "admin.keys", Action: "create"}, {Action: "read"}}}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := a.Lookup(context.Background(), childToken.Reveal(), time.Now())
		if err != nil {
			t.Fatal(err)
		}
		grandchildren := importKeys(manage.KeyCaller(answer.Record, "test"), "grandchild", 3)
		wantOutcome(t, b, children[bulk-1].Token, keystore.OK)

		unavailable := errors.New("the database is unavailable")
		steps.stepIn(func(n int) error {
			if n == 4 {
				return unavailable
			}
			return nil
		})
		if _, _, err := a.RevokeKey(stepped, importer, key.ID, "leaked", true,
			manage.ChangeOptions{}); err == nil {
			t.Fatal("a failure was not reported")
		}
		wantOutcome(t, b, token, keystore.Revoked)

		ctx, cancel := context.WithCancel(stepped)
		busy, count := false, 0
		steps.stepIn(func(int) error {
			if busy {
				return nil
			}
			busy = true
			if count++; count == 2 {
				cancel()
			}
			other, token := mintOne(t, b, keystore.Permission{Action: "read"})
			revokeAt(t, a, other.ID, false)
			wantOutcome(t, b, token, keystore.Revoked)
			busy = false
			return nil
		})
		_, p, err := a.RevokeKey(ctx, importer, key.ID, "leaked", true,
			manage.ChangeOptions{Wait: time.Minute})
		steps.before.Store(nil)
		if err != nil || !p.Complete {
			t.Fatalf("%+v, %v", p, err)
		}
		if count < 3 || count > 20 {
			t.Errorf("%d steps for %d keys", count, bulk)
		}
		for _, s := range append(children, grandchildren...) {
			wantOutcome(t, b, s.Token, keystore.Revoked)
		}
		wantOutcome(t, b, childToken.Reveal(), keystore.Revoked)
		if active := activeBy(t, b, key.ID) + activeBy(t, b, child.ID); active > 0 {
			t.Errorf("%d keys are not revoked", active)
		}
		if v, err := b.VerifyAudit(context.Background(), importer); err != nil || v.Wrong != 0 {
			t.Errorf("%+v, %v", v, err)
		}
	})
}
