package keystoretest

import (
	"encoding/hex"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

func testWebhooks(t *testing.T, s Store) {
	db, other := ready(t, s), s.Open(t)
	began := time.Now()
	check := func(want ...keystore.Webhook) {
		t.Helper()
		got, err := other.Webhooks(ctx, "")
		must(t, err)
		for i := range got {
			if at := got[i].SavedAt; at.Before(began.Add(-time.Minute)) ||
				at.After(time.Now().Add(time.Minute)) {
				t.Errorf("webhook %s was saved at %v", got[i].ID, at)
			}
			got[i].SavedAt = time.Time{}
		}
		if len(got)+len(want) > 0 && !reflect.DeepEqual(got, want) {
			t.Fatalf("webhooks %+v, want %+v", got, want)
		}
	}
	check()
	a := keystore.Webhook{ID: "a", Holder: "node", Position: 1 << 40,
		WebhookState: keystore.WebhookState{URL: "https://a.example", Events: []string{"key.*"},
			Namespaces: []string{"acme"}, Attempts: 3, RetryAt: start,
			StoppedAt: start,
			Deliveries: []keystore.WebhookDelivery{{Event: "evt_1", Type: "key.created", At: start,
				Status: 500, Took: time.Second, Error: "answered 500"}}}}
	b := keystore.Webhook{ID: "b"}
	save := func(db keystore.Database, want string, list ...keystore.Webhook) {
		t.Helper()
		saved, err := db.SaveWebhooks(ctx, list)
		must(t, err)
		slices.Sort(saved)
		if got := strings.Join(saved, " "); got != want {
			t.Errorf("saved %q, want %q", got, want)
		}
	}
	save(db, "b", b)
	save(db, "a", a, b)
	save(other, "", a)
	a.Beat, b.Beat = 1, 1
	check(a, b)
	if got, err := db.Webhooks(ctx, "b"); err != nil || len(got) != 1 || got[0].ID != "b" {
		t.Errorf("webhook b: %+v, %v", got, err)
	}
	if got, err := db.Webhooks(ctx, "missing"); err != nil || len(got) != 0 {
		t.Errorf("a missing webhook: %+v, %v", got, err)
	}

	// Of two writers with the same knowledge, one succeeds.
	a.Holder, a.Position = "another node", 2
	save(other, "a", a)
	late := a
	late.Position, b.Position = 1, 3
	save(db, "b", late, b, keystore.Webhook{ID: "missing", Beat: 1})
	a.Beat++
	b.Beat++
	check(a, b)

	// A replay is noticed by the next writer, and lasts until then.
	update(t, db, func(tx keystore.Tx) error {
		wantErr(t, tx.ReplayWebhook("missing", 0), keystore.ErrNotFound)
		return tx.ReplayWebhook("a", 7)
	})
	save(other, "", a)
	after := int64(7)
	a.Replay = &after
	a.Beat++
	check(a, b)
	a.Position = 7
	save(other, "a", a)
	a.Replay = nil
	a.Beat++
	check(a, b)

	// A position in rows that the database does not have is not saved.
	update(t, db, func(tx keystore.Tx) error {
		return tx.AppendAudit([]*keystore.AuditRow{{Seq: 1, Hash: keystore.Digest{1}}})
	})
	of := func(position int64, hash byte) keystore.Webhook {
		next := a
		next.Position = position
		next.Hash = hex.EncodeToString(append([]byte{hash}, make([]byte, 31)...))
		return next
	}
	save(other, "", of(1, 2))
	save(other, "", of(2, 1))
	save(other, "", keystore.Webhook{ID: "new", Position: 2, WebhookState: of(2, 1).WebhookState})
	save(other, "a", of(7, 2)) // the position that it has
	a = of(1, 1)
	a.Beat++
	save(other, "a", a)
	a.Beat++
	check(a, b)

	must(t, db.ForgetWebhook(ctx, "a", a.Beat-1))
	must(t, db.ForgetWebhook(ctx, "missing", 1))
	check(a, b)
	must(t, db.ForgetWebhook(ctx, "a", a.Beat))
	check(b)
}

func testAuditAt(t *testing.T, s Store) {
	db := ready(t, s)
	at := func(when time.Time, want int64) {
		t.Helper()
		if got, err := db.AuditAt(ctx, when); err != nil || got != want {
			t.Errorf("the first row at %v: %d, %v, want %d", when, got, err, want)
		}
	}
	at(start, 0)
	var rows []*keystore.AuditRow
	for i := range 3 {
		rows = append(rows, &keystore.AuditRow{Seq: int64(i + 1),
			At: start.Add(time.Duration(i) * time.Second), After: "{}"})
	}
	update(t, db, func(tx keystore.Tx) error { return tx.AppendAudit(rows) })
	at(start.Add(-time.Hour), 1)
	at(start, 1)
	at(start.Add(time.Microsecond), 2)
	at(start.Add(2*time.Second), 3)
	at(start.Add(3*time.Second), 0)
}

func testQuotaThresholds(t *testing.T, s Store) {
	db := ready(t, s)
	now := time.Now().UTC()
	day := now.Truncate(24 * time.Hour)
	long := now.AddDate(0, -1, 0)
	must(t, db.NoteTime(ctx, now))
	note := func(tx keystore.Tx, want string, list ...keystore.QuotaThreshold) {
		t.Helper()
		news, err := tx.NoteQuotaThresholds(list)
		must(t, err)
		slices.Sort(news)
		if got := strings.Join(news, " "); got != want {
			t.Errorf("new thresholds of %q, want %q", got, want)
		}
	}
	of := func(quota string, begin time.Time, percent int) keystore.QuotaThreshold {
		return keystore.QuotaThreshold{Quota: quota, Begin: begin, End: begin.Add(24 * time.Hour),
			Percent: percent}
	}
	update(t, db, func(tx keystore.Tx) error {
		note(tx, "a", of("a", day, 80))
		note(tx, "b", of("a", day, 80), of("b", day, 100))
		note(tx, "a", of("a", day, 100), of("b", day, 80))
		note(tx, "old", of("old", long, 80))
		return nil
	})
	update(t, db, func(tx keystore.Tx) error {
		note(tx, "a", of("a", day.Add(24*time.Hour), 80), of("b", day, 100))
		note(tx, "old", of("old", long, 80)) // forgotten, because the period ended long ago
		return nil
	})
}
