package keystoretest

import (
	"fmt"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

var (
	never  = time.Time{}
	atOnce = time.Unix(0, 0).UTC()
)

// expiries returns the expiry of each secret in the log after a revision, taken from its last
// change, and the other kinds of changes. It checks that the log has no gaps, is in order and names
// the owners.
func expiries(
	t *testing.T, db keystore.Database, after keystore.Revision,
) (last map[keystore.Digest]time.Time, others map[keystore.ChangeKind]bool) {
	t.Helper()
	upTo := head(t, db)
	changes, err := db.Changes(ctx, after, upTo)
	must(t, err)
	last, others = map[keystore.Digest]time.Time{}, map[keystore.ChangeKind]bool{}
	r := after
	for _, c := range changes {
		if c.Revision != r && c.Revision != r+1 {
			t.Fatalf("revision %d follows %d", c.Revision, r)
		}
		r = c.Revision
		switch c.Kind {
		case keystore.ChangeKey:
			if c.Digest.IsZero() {
				continue
			}
			last[c.Digest] = c.Ends
			k, _, err := db.KeyByDigest(ctx, c.Digest)
			must(t, err)
			if k != nil && c.Owner != k.Owner {
				t.Fatalf("the log has the owner %q of key %s, want %q", c.Owner, k.ID, k.Owner)
			}
		case keystore.ChangePolicy, keystore.ChangeNew:
			others[c.Kind] = true
		default:
			t.Fatalf("kind %q", c.Kind)
		}
	}
	if r != upTo {
		t.Fatalf("the log ends at %d, the head is %d", r, upTo)
	}
	return last, others
}

func wantExpiries(t *testing.T, got, want map[keystore.Digest]time.Time) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%d secrets in the log, want %d", len(got), len(want))
	}
	for d, at := range want {
		if was, ok := got[d]; !ok || !was.Equal(at) || was.IsZero() != at.IsZero() {
			t.Fatalf("a secret expires at %v (in the log: %v), want %v", was, ok, at)
		}
	}
}

// testChanges checks the log after each kind of change. Key k has the secret `new`, without expiry,
// and `old`, which expires in an hour. Key m expires in two hours.
func testChanges(t *testing.T, s Store) {
	in := func(hours int) time.Time { return start.Add(time.Duration(hours) * time.Hour) }
	old := keystore.Secret{Digest: digest("old"), CreatedAt: start.Add(-time.Second),
		ExpiresAt: in(1)}
	k, m := plain("k"), plain("m")
	k.Owner, k.Secrets = "m_1", []keystore.Secret{secret("new"), old}
	m.ExpiresAt = in(2)
	m.Secrets = []keystore.Secret{
		{Digest: digest("m later"), CreatedAt: start.Add(time.Second), ExpiresAt: in(3)},
		{Digest: digest("m sooner"), CreatedAt: start, ExpiresAt: in(1)},
	}
	db := ready(t, s)
	other := s.Open(t)
	after := head(t, db)
	if at := insert(t, db, &keystore.Key{ID: "none", Namespace: "default", CreatedAt: start,
		Version: 1}); at != after {
		t.Fatalf("a key without secrets moved the head from %d to %d", after, at)
	}
	type want = map[keystore.Digest]time.Time
	for _, step := range []struct {
		name   string
		change func(keystore.Tx) error
		want   want
		policy bool
	}{
		{"mint", func(tx keystore.Tx) error { return insertKey(tx, k) },
			want{digest("new"): never, digest("old"): in(1)}, false},
		{"mint with expiry", func(tx keystore.Tx) error { return insertKey(tx, m) },
			want{digest("m later"): in(2), digest("m sooner"): in(1)}, false},
		{"edit", change("k", func(k *keystore.Key) { k.Name = "edited" }),
			want{digest("new"): never, digest("old"): in(1)}, false},
		{"transfer", change("k", func(k *keystore.Key) { k.Owner = "m_2" }),
			want{digest("new"): never, digest("old"): in(1)}, false},
		{"edit the plan of a key", change("k", func(k *keystore.Key) { k.Plan = "p" }),
			want{digest("new"): never, digest("old"): in(1)}, false},
		{"edit with expiry", change("m", func(k *keystore.Key) { k.Grants = nil }),
			want{digest("m later"): in(2), digest("m sooner"): in(1)}, false},
		{"deactivate", change("k", func(k *keystore.Key) { k.Active = false }),
			want{digest("new"): atOnce, digest("old"): atOnce}, false},
		{"activate", change("k", func(k *keystore.Key) { k.Active = true }),
			want{digest("new"): never, digest("old"): in(1)}, false},
		{"rotate with grace and drop the oldest", change("k", func(k *keystore.Key) {
			k.Secrets[0].ExpiresAt = in(5)
			k.Secrets = []keystore.Secret{secret("newest"), k.Secrets[0]}
		}), want{digest("newest"): never, digest("new"): in(5), digest("old"): atOnce}, false},
		{"rotate without grace and deactivate", change("k", func(k *keystore.Key) {
			k.Active = false
			k.Secrets = []keystore.Secret{secret("last")}
		}), want{digest("last"): atOnce, digest("newest"): atOnce, digest("new"): atOnce}, false},
		{"edit without secret", change("none", func(k *keystore.Key) { k.Name = "edited" }), want{},
			false},
		{"revoke", change("m", func(k *keystore.Key) { k.RevokedAt = start }),
			want{digest("m later"): atOnce, digest("m sooner"): atOnce}, false},
		{"delete", func(tx keystore.Tx) error { return tx.DeleteKey("m") },
			want{digest("m later"): atOnce, digest("m sooner"): atOnce}, false},
		{"delete without secret", func(tx keystore.Tx) error { return tx.DeleteKey("none") },
			want{}, false},
		{"namespace",
			func(tx keystore.Tx) error {
				return tx.InsertNamespace(&keystore.Namespace{ID: "n", CreatedAt: start})
			}, want{}, true},
		{"edit namespace", func(tx keystore.Tx) error {
			return tx.UpdateNamespace(&keystore.Namespace{ID: "n", Name: "N", CreatedAt: start})
		}, want{}, true},
		{"role", func(tx keystore.Tx) error {
			return tx.InsertRole(&keystore.Role{Namespace: "n", Name: "r", CreatedAt: start})
		}, want{}, true},
		{"edit role", func(tx keystore.Tx) error {
			return tx.UpdateRole(&keystore.Role{Namespace: "n", Name: "r", Version: 2})
		}, want{}, true},
		{"delete role",
			func(tx keystore.Tx) error {
				return tx.DeleteRole(keystore.RoleID{Namespace: "n", Name: "r"})
			}, want{}, true},
		{"plan", func(tx keystore.Tx) error {
			return tx.InsertPlan(&keystore.Plan{Namespace: "n", Name: "p", CreatedAt: start})
		}, want{}, true},
		{"edit plan", func(tx keystore.Tx) error {
			return tx.UpdatePlan(&keystore.Plan{Namespace: "n", Name: "p", Version: 2})
		}, want{}, true},
		{"delete plan",
			func(tx keystore.Tx) error {
				return tx.DeletePlan(keystore.PlanID{Namespace: "n", Name: "p"})
			}, want{}, true},
		{"member", func(tx keystore.Tx) error {
			return tx.InsertMember(&keystore.Member{ID: "m", CreatedAt: start})
		}, want{}, true},
		{"edit member", func(tx keystore.Tx) error {
			return tx.UpdateMember(&keystore.Member{ID: "m", Name: "M", CreatedAt: start})
		}, want{}, true},
		{"delete member", func(tx keystore.Tx) error { return tx.DeleteMember("m") }, want{}, true},
		{"delete namespace", func(tx keystore.Tx) error { return tx.DeleteNamespace("n") }, want{},
			true},
	} {
		after = head(t, db)
		at := update(t, db, step.change)
		if at <= after || at != head(t, other) {
			t.Fatalf("%s: the head went from %d to %d", step.name, after, at)
		}
		t.Run(step.name, func(t *testing.T) {
			got, others := expiries(t, other, after)
			wantExpiries(t, got, step.want)
			if others[keystore.ChangePolicy] != step.policy || others[keystore.ChangeNew] {
				t.Fatalf("also changed: %v", others)
			}
		})
	}
	at := head(t, db)
	if got, err := db.Changes(ctx, at, at); err != nil || len(got) != 0 {
		t.Fatalf("without a change: %v, %v", got, err)
	}
	// Changes returns the requested part of the log.
	got, err := db.Changes(ctx, 2, 3)
	must(t, err)
	for _, c := range got {
		if c.Revision != 3 {
			t.Fatalf("revision %d in (2, 3]", c.Revision)
		}
	}
	if len(got) == 0 {
		t.Fatal("nothing in (2, 3]")
	}
}

// change returns a transaction that edits a key.
func change(id string, f func(*keystore.Key)) func(keystore.Tx) error {
	return func(tx keystore.Tx) error {
		k, err := tx.Key(id)
		if err != nil {
			return err
		}
		f(k)
		k.Version++
		return tx.UpdateKey(k)
	}
}

// testManualChanges: the log contains manual changes in SQL.
func testManualChanges(t *testing.T, s Store) {
	db := ready(t, s)
	a, b := plain("a"), plain("b")
	a.ExpiresAt = start.Add(time.Hour)
	insert(t, db, a, b)
	update(t, db,
		func(tx keystore.Tx) error {
			return tx.InsertNamespace(&keystore.Namespace{ID: "n", CreatedAt: start})
		})
	known := policy(t, db).At
	expiry := start.Add(time.Hour)
	micros := func(at time.Time) string { return fmt.Sprint(at.UnixMicro()) }
	type want = map[keystore.Digest]time.Time
	for _, step := range []struct {
		statement string
		rows      keystore.Revision // changed rows: each may take its own revision
		want      want
		policy    bool
	}{
		{"UPDATE keys SET name = 'by hand'", 2, want{digest("a"): expiry, digest("b"): never},
			false},
		{"UPDATE keys SET expires_at = " + micros(start) + " WHERE id = 'a'", 1,
			want{digest("a"): start}, false},
		{"UPDATE secrets SET ends_at = " + micros(expiry) + " WHERE key_id = 'b'", 1,
			want{digest("b"): expiry}, false},
		{"UPDATE keys SET revoked_at = " + micros(start) + " WHERE id = 'b'", 1,
			want{digest("b"): atOnce}, false},
		{"UPDATE keys SET name = 'nobody' WHERE id = 'nobody'", 0, want{}, false},
		{"DELETE FROM keys WHERE id = 'a'", 2, want{digest("a"): atOnce}, false},
		{"UPDATE namespaces SET name = 'by hand'", 2, want{}, true},
		{"DELETE FROM namespaces WHERE id = 'n'", 1, want{}, true},
		{"INSERT INTO roles (namespace, name, permissions, created_at, version) " +
			"VALUES ('n', 'r', '[\"read\"]', 1, 1), ('n', 's', '[]', 1, 1)", 2, want{}, true},
		{"UPDATE roles SET permissions = '[\"write\"]' WHERE name = 'r'", 1, want{}, true},
		{"UPDATE roles SET permissions = '[]' WHERE name = 'nobody'", 0, want{}, false},
		{"DELETE FROM roles", 2, want{}, true},
		{"INSERT INTO key_limits (key_id, namespace, plan) VALUES ('b', 'default', 'p')", 1,
			want{digest("b"): atOnce}, false},
		{"UPDATE key_limits SET rate_limit = '{\"unlimited\":true}'", 1,
			want{digest("b"): atOnce}, false},
		{"UPDATE key_limits SET plan = '' WHERE key_id = 'nobody'", 0, want{}, false},
		{"DELETE FROM key_limits", 1, want{digest("b"): atOnce}, false},
		{"INSERT INTO plans (namespace, name, description, created_at, version) " +
			"VALUES ('n', 'p', '', 1, 1), ('n', 'q', '', 1, 1)", 2, want{}, true},
		{"UPDATE plans SET quota = '{\"unlimited\":true}' WHERE name = 'p'", 1, want{}, true},
		{"UPDATE plans SET version = 2 WHERE name = 'nobody'", 0, want{}, false},
		{"DELETE FROM plans", 2, want{}, true},
		{"INSERT INTO members (id, name, kind, login, grants, active, created_at, created_by, " +
			"version) VALUES ('m', 'M', '', 'login', " +
			"'[{\"namespace\":\"n\",\"roles\":[\"r\"]}]', 1, 1, '', 1)", 1, want{}, true},
		{"UPDATE members SET active = 0", 1, want{}, true},
		{"DELETE FROM members", 1, want{}, true},
	} {
		after := head(t, db)
		must(t, s.Exec(step.statement))
		got, others := expiries(t, db, after)
		t.Run(step.statement, func(t *testing.T) {
			wantExpiries(t, got, step.want)
			if others[keystore.ChangePolicy] != step.policy || others[keystore.ChangeNew] {
				t.Fatalf("also changed: %v", others)
			}
			switch p, err := db.Policy(ctx, known); {
			case err != nil || (p != nil) != step.policy:
				t.Fatalf("policy %+v, %v", p, err)
			case p != nil:
				known = p.At
				if p.Revision != known.Revision || known != position(t, db) {
					t.Fatalf("the policy is of %d at %v, the head is at %v", p.Revision, known,
						position(t, db))
				}
			}
			if moved := head(t, db) - after; moved > step.rows || step.rows > 0 && moved < 1 {
				t.Fatalf("the head went from %d to %d", after, after+moved)
			}
		})
	}
	if lookup(t, db, digest("a")) != "" {
		t.Fatal("a manually deleted key is found")
	}
	update(t, db, func(tx keystore.Tx) error {
		wantErr(t, insertKey(tx, plain("a")), keystore.ErrSpent)
		return nil
	})
}

// testUnreadable: an invalid value in a row is refused or affects only that key. Nodes continue to
// follow the changes.
func testUnreadable(t *testing.T, s Store) {
	db := ready(t, s)
	insert(t, db, plain("a"), plain("b"))
	for _, set := range []string{
		"keys SET grants = 'none'", "keys SET grants = '[1]'",
		"keys SET allowed_ips = '[\"everywhere\"]'", "keys SET metadata = '[1]'",
		"keys SET expires_at = 'tomorrow'", "keys SET revoked_at = 'today'",
		"keys SET version = 'next'",
	} {
		if s.Exec("UPDATE "+set+" WHERE id = 'a'") != nil {
			continue
		}
		if k, _, err := db.KeyByDigest(ctx, digest("a")); err == nil || k != nil {
			t.Errorf("%s: read as %+v, %v", set, k, err)
		}
	}
	for _, statement := range []string{
		"UPDATE secrets SET ends_at = 'tomorrow' WHERE key_id = 'a'",
		"UPDATE namespaces SET created_at = 'yesterday'", "UPDATE namespaces SET version = 'next'",
	} {
		if s.Exec(statement) == nil {
			t.Errorf("%s: succeeded", statement)
		}
	}
	if _, err := db.Changes(ctx, 0, head(t, db)); err != nil {
		t.Error(err)
	}
	update(t, db, func(tx keystore.Tx) error {
		must(t, tx.InsertNamespace(&keystore.Namespace{ID: "a", Reach: []string{"app"}}))
		must(t, tx.InsertRole(&keystore.Role{Namespace: "a", Name: "r",
			Permissions: permissions("read")}))
		return tx.InsertMember(&keystore.Member{ID: "m_1", Active: true,
			Grants: []keystore.Grant{{Namespace: "a", Permissions: permissions("read")}}})
	})
	for _, statement := range []string{
		"UPDATE namespaces SET reach = '[1]' WHERE id = 'a'",
		"UPDATE roles SET permissions = '[\"read\",\"no such word\"]'",
		"UPDATE members SET grants = '[{\"namespace\":\"a\",\"permissions\":[\"no:such word\"]}]'",
	} {
		must(t, s.Exec(statement))
	}
	p := policy(t, db)
	for object, got := range map[string]struct {
		reason string
		grants int
	}{
		"namespace": {p.Namespaces[1].Unreadable, len(p.Namespaces[1].Reach)},
		"role":      {p.Roles[0].Unreadable, len(p.Roles[0].Permissions)},
		"member":    {p.Members[0].Unreadable, len(p.Members[0].Grants)},
	} {
		if got.reason == "" || got.grants > 0 {
			t.Errorf("an unreadable %s: %+v", object, got)
		}
	}
	if p.Namespaces[0].Unreadable != "" {
		t.Errorf("the other namespace: %+v", p.Namespaces[0])
	}
	if got := lookup(t, db, digest("b")); got != "b" {
		t.Errorf("the other key is %q", got)
	}
}

// testIrreversible: a revoked key stays revoked, and a dropped secret stays dropped. SQL statements
// that would undo it fail.
func testIrreversible(t *testing.T, s Store) {
	db := ready(t, s)
	k := plain("k")
	k.RevokedAt = start
	dropped := plain("d")
	insert(t, db, k, dropped)
	edit(t, db, "d", func(k *keystore.Key) { k.Secrets = nil })
	for _, statement := range []string{
		"UPDATE keys SET revoked_at = NULL WHERE id = 'k'",
		"UPDATE keys SET id = 'other' WHERE id = 'k'",
		"UPDATE secrets SET dropped = 0 WHERE key_id = 'd'",
		"UPDATE secrets SET key_id = 'k' WHERE key_id = 'd'",
		"DELETE FROM secrets",
	} {
		if s.Exec(statement) == nil {
			t.Errorf("%s: succeeded", statement)
		}
	}
	_, err := db.Update(ctx, change("k", func(k *keystore.Key) { k.RevokedAt = never }))
	if err == nil {
		t.Error("a revoked key is active again")
	}
}

func testNoRevision(t *testing.T, s Store) {
	db := ready(t, s)
	at := insert(t, db, plain("k"))
	must(t, db.RecordUse(ctx, map[string]keystore.LastUse{"k": {At: start}}))
	must(t, db.RecordDeriving(ctx,
		map[keystore.Digest]keystore.DerivingKey{digest("k"): deriving("k")}))
	reserve(t, db, keystore.Reservation{Quota: "q", Limit: 1, Want: 1})
	must(t, db.AddUsage(ctx, keystore.UsageBatch{Writer: "w", Number: 1,
		Rows: []keystore.UsageRow{requests(time.Now().AddDate(0, -2, 0), "k", "n", "o", "", 1)}}))
	for more := true; more; {
		var err error
		more, err = db.MaintainUsage(ctx, keystore.UsageKept{Minutes: time.Hour})
		must(t, err)
	}
	must(t, db.Join(ctx, keystore.Node{Incarnation: "i"}))
	must(t, db.Acknowledge(ctx, "i", keystore.Position{Revision: at}))
	must(t, db.Fence(ctx, "i"))
	must(t, db.Remove(ctx, "i"))
	must(t, db.InsertSession(ctx, keystore.Session{ID: digest("session"), Token: digest("k"),
		CreatedAt: start, UsedAt: start}))
	must(t, db.UseSession(ctx, digest("session"), start.Add(time.Second)))
	must(t, db.DeleteSession(ctx, digest("session")))
	_, err := db.SaveWebhooks(ctx, []keystore.Webhook{{ID: "w"}})
	must(t, err)
	got := update(t, db, func(tx keystore.Tx) error {
		must(t, tx.ReplayWebhook("w", keystore.ReplayHere))
		return tx.Remember("caller", "key", "made", start)
	})
	if got != at || head(t, db) != at {
		t.Fatalf("the head went from %d to %d", at, got)
	}
}

func testTruncated(t *testing.T, s Store) {
	db := ready(t, s)
	for _, id := range []string{"a", "b", "c"} {
		insert(t, db, plain(id))
	}
	at := head(t, db)
	must(t, s.Exec("DELETE FROM change_log WHERE revision <= 2"))
	for after := range keystore.Revision(2) {
		_, err := db.Changes(ctx, after, at)
		wantErr(t, err, keystore.ErrTruncated)
	}
	for after := keystore.Revision(2); after < at; after++ {
		got, err := db.Changes(ctx, after, at)
		must(t, err)
		if len(got) == 0 || got[0].Revision != after+1 {
			t.Fatalf("after %d: %v", after, got)
		}
	}
	// A node that is ahead of a restored database must notice that it is not up to date.
	_, err := db.Changes(ctx, at, at+1)
	wantErr(t, err, keystore.ErrTruncated)
	must(t, s.Exec("DELETE FROM change_log"))
	_, err = db.Changes(ctx, at-1, at)
	wantErr(t, err, keystore.ErrTruncated)
}

// drain waits until a handle has reported all earlier changes.
func drain(db keystore.Database) {
	for {
		select {
		case <-db.Changed():
		case <-time.After(300 * time.Millisecond):
			return
		}
	}
}

func testChanged(t *testing.T, s Store) {
	db := ready(t, s)
	other := s.Open(t)
	insert(t, db, plain("k"))
	drain(other)
	drain(db)
	// Most reports must come within 100 ms. On a slow machine, they may take longer, by four times
	// the time that the edit took.
	const rounds = 9
	late := 0
	for range rounds {
		asked := time.Now()
		edit(t, db, "k", func(*keystore.Key) {})
		began := time.Now()
		limit := 100*time.Millisecond + 4*began.Sub(asked)
		for _, db := range []keystore.Database{db, other} {
			select {
			case <-db.Changed():
			case <-time.After(10 * time.Second):
				t.Fatal("a change is not reported")
			}
		}
		if time.Since(began) > limit {
			late++
		}
	}
	if late > rounds/2 {
		t.Fatalf("%d of %d changes were reported late", late, rounds)
	}
	drain(other)
	must(t, s.Exec("UPDATE keys SET name = 'by hand'"))
	select {
	case <-other.Changed():
	case <-time.After(10 * time.Second):
		t.Fatal("a manual change is not reported")
	}
	must(t, other.Close())
	for range 2 { // a value may have been pending
		if _, open := <-other.Changed(); !open {
			return
		}
	}
	t.Fatal("Close does not close the channel")
}
