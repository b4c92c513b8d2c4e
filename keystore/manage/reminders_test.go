package manage_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest/fleet"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/node"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/sqldb"
)

// auditedAs returns the rows with an action, newest first.
func auditedAs(t *testing.T, k *manage.Keystore, action string) (all []keystore.AuditRow) {
	t.Helper()
	for cursor := ""; ; {
		rows, next, err := k.ListAudit(ctx, fleet.Root, keystore.AuditFilter{Action: action},
			cursor, 1000)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, rows...)
		if cursor = next; next == "" {
			return all
		}
	}
}

// TestExpiryReminders lets keys expire while nodes start and stop. Each reminder must be added once
// for the deployment, in time.
func TestExpiryReminders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		d := fleet.New(t)
		s := node.Settings{Reminders: node.ReminderSettings{
			Before: []time.Duration{time.Minute, 8 * time.Minute, 3 * time.Minute}}}
		open := func() *manage.Keystore {
			db, err := sqldb.OpenSQLite(ctx, d.Path)
			if err != nil {
				t.Fatal(err)
			}
			k, err := fleet.Open(ctx, db, s, fleet.Observer{})
			if err != nil {
				t.Fatal(err)
			}
			return k
		}
		end := func(k *manage.Keystore) {
			if err := k.Close(); err != nil {
				t.Fatal(err)
			}
		}
		first := open()
		second := open()
		mint := func(name string, in time.Duration, inactive bool) string {
			key, _ := fleet.Mint(t, first, manage.KeySpec{Name: name, ExpiresAt: began.Add(in),
				Inactive: inactive})
			return key.ID
		}
		names := make(map[string]string)
		want := make(map[string]bool)
		due := make(map[string]time.Time)
		expect := func(id, name string, in time.Duration, reminders ...string) {
			names[id] = name
			for _, r := range reminders {
				before := time.Duration(0)
				if r != "" {
					before, _ = time.ParseDuration(r)
				}
				want[name+" "+r] = true
				due[name+" "+r] = began.Add(in - before)
			}
		}
		// Many expire at the same time, as after an import.
		for i := range 250 {
			name := fmt.Sprint("many ", i)
			expect(mint(name, 12*time.Minute, false), name, 12*time.Minute, "8m", "3m", "1m", "")
		}
		const early = 10*time.Minute + 20*time.Second
		expect(mint("inactive", early, true), "inactive", early, "8m", "3m", "1m", "")
		// Created when the longest reminder was already due.
		expect(mint("short", 4*time.Minute, false), "short", 4*time.Minute, "3m", "1m", "")
		expect(mint("shorter", 30*time.Second, false), "shorter", 30*time.Second, "")
		expect(mint("never", 10*24*time.Hour, false), "never", 0)
		fleet.Revoke(t, first, mint("revoked", 12*time.Minute, false), 0)

		time.Sleep(5 * time.Minute)
		end(first) // the node that adds reminders
		time.Sleep(4 * time.Minute)
		third := open()
		end(second)
		end(third)
		time.Sleep(90 * time.Second) // no node is running: 'inactive' is due for 1m, then expires
		last, other := open(), open()
		defer end(other)
		defer end(last)
		time.Sleep(150 * time.Second)

		delete(want, "inactive 1m") // its reminder came too late
		got := make(map[string]bool)
		for _, action := range []string{"key.expiring", "key.expired"} {
			for _, row := range auditedAs(t, last, action) {
				var after struct {
					Reminder struct{ Before string }
				}
				if err := json.Unmarshal([]byte(row.After), &after); err != nil {
					t.Fatal(err)
				}
				r := strings.TrimSuffix(after.Reminder.Before, "0s")
				what := names[row.Object] + " " + r
				if got[what] || !want[what] || (r == "") != (action == "key.expired") {
					t.Errorf("%s of %q: given twice %v", action, what, got[what])
				}
				got[what] = true
				late := row.At.Sub(due[what])
				if late < 0 || late > 100*time.Second {
					t.Errorf("%s of %q came %v late", action, what, late)
				}
			}
		}
		for what := range want {
			if !got[what] {
				t.Errorf("%q was not given", what)
			}
		}
	})
}

// TestRemindersOnSteppedClock sets the clock of the database ahead and back, as an administrator or
// a failover to another machine does. Each reminder must be added once.
func TestRemindersOnSteppedClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := fleet.New(t)
		s := node.Settings{Reminders: node.ReminderSettings{
			Before: []time.Duration{2 * time.Minute}}}
		k, first := d.Node(s)
		_, second := d.Node(s)
		const keys = 20
		for i := range keys {
			fleet.Mint(t, k, manage.KeySpec{
				ExpiresAt: time.Now().Add(3*time.Minute + time.Duration(i)*10*time.Second)})
		}
		for i := range 18 {
			ahead := []time.Duration{0, time.Minute, -30 * time.Second}[i%3]
			first.Ahead.Store(int64(ahead))
			second.Ahead.Store(int64(ahead))
			time.Sleep(25 * time.Second)
		}
		for _, action := range []string{"key.expiring", "key.expired"} {
			given := make(map[string]int)
			for _, row := range auditedAs(t, k, action) {
				if given[row.Object]++; given[row.Object] > 1 {
					t.Errorf("%s of one key was given %d times", action, given[row.Object])
				}
			}
			if len(given) != keys {
				t.Errorf("%s was given for %d of %d keys", action, len(given), keys)
			}
		}
	})
}

// TestRemindersAfterClockReset lets nodes run while the database's clock is a year ahead, and resets
// it as docs/operations.md says. Keys that are created afterwards must get their reminders.
func TestRemindersAfterClockReset(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := fleet.New(t)
		s := node.Settings{Reminders: node.ReminderSettings{
			Before: []time.Duration{2 * time.Minute}}}
		const year = 365 * 24 * time.Hour
		db, err := sqldb.OpenSQLite(ctx, d.Path)
		if err != nil {
			t.Fatal(err)
		}
		ahead := &fleet.Faulty{Database: db}
		ahead.Ahead.Store(int64(year))
		wrong, err := fleet.Open(ctx, ahead, s, fleet.Observer{})
		if err != nil {
			t.Fatal(err)
		}
		fleet.Mint(t, wrong, manage.KeySpec{ExpiresAt: time.Now().Add(year + 3*time.Minute)})
		time.Sleep(4 * time.Minute)
		if rows := auditedAs(t, wrong, "key.expired"); len(rows) != 1 {
			t.Fatalf("%d rows while the clock is ahead", len(rows))
		}
		if err := wrong.Close(); err != nil {
			t.Fatal(err)
		}
		d.Tamper("UPDATE clock SET noted = NULL")
		k, _ := d.Node(s)
		time.Sleep(time.Minute)
		key, _ := fleet.Mint(t, k, manage.KeySpec{ExpiresAt: time.Now().Add(3 * time.Minute)})
		time.Sleep(4 * time.Minute)
		for _, action := range []string{"key.expiring", "key.expired"} {
			rows := auditedAs(t, k, action)
			if len(rows) != 2 || rows[0].Object != key.ID {
				t.Errorf("%s: %+v", action, rows)
			}
		}
	})
}

// TestUnusedElsewhere lets the keys of one namespace count as unused after a short time. The
// searches for them must not take the write lock for unused keys of other namespaces.
func TestUnusedElsewhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, db := openCounted(t, fleet.New(t))
		for range 5 {
			fleet.Mint(t, k, manage.KeySpec{})
		}
		updates := func() int64 {
			before := db.updates.Load()
			time.Sleep(10 * time.Minute)
			return db.updates.Load() - before
		}
		own := updates()
		if _, err := k.CreateNamespace(ctx, fleet.Root, keystore.Namespace{ID: "tenant",
			Lifecycle: keystore.Lifecycle{Idle: keystore.IdleRule{After: time.Second,
				Then: keystore.IdleNotify}}}); err != nil {
			t.Fatal(err)
		}
		key, _ := fleet.Mint(t, k, manage.KeySpec{Namespace: "tenant"})
		if n := updates(); n > own+5 {
			t.Errorf("%d transactions in 10 minutes, %d without the namespace", n, own)
		}
		if rows := auditedAs(t, k, "key.unused"); len(rows) != 1 || rows[0].Object != key.ID {
			t.Errorf("rows %+v", rows)
		}
	})
}

// TestUsedKeyStaysActive uses a key just within the time after which it is inactivated. Its last
// use reaches the database a few seconds later.
func TestUsedKeyStaysActive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, _ := fleet.New(t).Node(node.Settings{})
		rule := keystore.IdleRule{After: keystore.MinInactivate - time.Second,
			Then: keystore.IdleInactivate}
		if _, _, err := k.EditNamespace(ctx, fleet.Root, keystore.DefaultNamespace,
			manage.NamespacePatch{Idle: &rule}, manage.ChangeOptions{}); err == nil {
			t.Error("a time below the minimum is valid")
		}
		rule.After = 5 * time.Second
		if err := k.SetIdle(ctx, keystore.DefaultNamespace, rule); err != nil {
			t.Fatal(err)
		}
		_, token := fleet.Mint(t, k, manage.KeySpec{})
		for i := range 30 {
			a, err := k.Lookup(ctx, token, time.Now())
			if got := fleet.Ask(k, token); err != nil || got != keystore.OK {
				t.Fatalf("after %d times: %v %v", i, got, err)
			}
			k.Used(a.Record, nil, time.Now().UnixNano(), client)
			time.Sleep(4 * time.Second)
		}
		time.Sleep(2 * time.Minute)
		if got := fleet.Ask(k, token); got != keystore.Inactive {
			t.Errorf("unused: %v", got)
		}
	})
}

// TestUnusedReminders checks that each key that nobody uses is reported once, and is inactivated if
// its namespace says so.
func TestUnusedReminders(t *testing.T) {
	const unit = 30 * time.Second
	synctest.Test(t, func(t *testing.T) {
		d := fleet.New(t)
		s := node.Settings{Reminders: node.ReminderSettings{Unused: 20 * unit}}
		k, _ := d.Node(s)
		d.Node(s)
		for _, ns := range []keystore.Namespace{
			{ID: "ends"},
			{ID: "later", Lifecycle: keystore.Lifecycle{Idle: keystore.IdleRule{
				After: 50 * unit, Then: keystore.IdleNotify}}},
		} {
			if _, err := k.CreateNamespace(ctx, fleet.Root, ns); err != nil {
				t.Fatal(err)
			}
		}
		if err := k.SetIdle(ctx, "ends", keystore.IdleRule{After: 10 * unit,
			Then: keystore.IdleInactivate}); err != nil {
			t.Fatal(err)
		}
		keys := make(map[string]*keystore.Key)
		for _, name := range []string{"default", "ends", "later", "used", "off"} {
			namespace := name
			if name == "used" || name == "off" {
				namespace = keystore.DefaultNamespace
			}
			keys[name], _ = fleet.Mint(t, k, manage.KeySpec{Name: name,
				Namespace: namespace, Inactive: name == "off"})
		}
		edit := func(name string, active bool) {
			t.Helper()
			if _, _, err := k.EditKey(ctx, fleet.Root, keys[name].ID,
				manage.KeyPatch{Active: &active}, manage.ChangeOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		check := func(when string, want map[string]int, active bool) {
			t.Helper()
			got := make(map[string]int)
			for _, row := range auditedAs(t, k, "key.unused") {
				for name, key := range keys {
					if key.ID == row.Object {
						got[name]++
					}
				}
			}
			if fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("%s: reported %v, want %v", when, got, want)
			}
			key, err := k.FindKey(ctx, fleet.Root, keys["ends"].ID)
			if err != nil || key.Active != active {
				t.Errorf("%s: %+v %v", when, key, err)
			}
		}
		time.Sleep(9 * unit)
		check("9 units", map[string]int{}, true)
		time.Sleep(4 * unit) // two of them for last uses that arrive late
		check("13 units", map[string]int{"ends": 1}, false)
		// A key that was activated although it is unused stays active.
		edit("ends", true)
		time.Sleep(10 * unit)
		check("23 units", map[string]int{"ends": 1, "default": 1, "used": 1}, true)
		time.Sleep(20 * unit)
		check("43 units", map[string]int{"ends": 1, "default": 1, "used": 1}, true)
		// After a use, the time begins again.
		d.Tamper(fmt.Sprintf(
			"INSERT INTO last_uses (key_id, used_at) VALUES ('%s', %d), ('%s', %d)", keys["used"].ID, time.Now().UnixMicro(), keys["ends"].ID, time.Now().UnixMicro()))
		time.Sleep(13 * unit)
		check("56 units", map[string]int{"ends": 2, "default": 1, "used": 1, "later": 1}, false)
		time.Sleep(10 * unit)
		check("66 units", map[string]int{"ends": 2, "default": 1, "used": 2, "later": 1}, false)
		if rows := auditedAs(t, k, "key.edit"); len(rows) != 3 {
			t.Errorf("%d edits", len(rows))
		}
	})
}
