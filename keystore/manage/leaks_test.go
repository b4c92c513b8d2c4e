package manage_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest/fleet"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/node"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/sqldb"
)

// A counted database counts transactions that hold the write lock.
type counted struct {
	keystore.Database
	updates atomic.Int64
}

func (c *counted) Update(
	ctx context.Context, f func(keystore.Tx) error,
) (keystore.Revision, error) {
	c.updates.Add(1)
	return c.Database.Update(ctx, f)
}

// openCounted opens a node that counts its transactions.
func openCounted(t *testing.T, d fleet.Fleet) (*manage.Keystore, *counted) {
	t.Helper()
	db, err := sqldb.OpenSQLite(ctx, d.Path)
	if err != nil {
		t.Fatal(err)
	}
	c := &counted{Database: db}
	k, err := fleet.Open(ctx, c, node.Settings{}, fleet.Observer{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = k.Close() })
	return k, c
}

func setOnLeak(t *testing.T, k *manage.Keystore, action keystore.LeakAction) {
	t.Helper()
	if _, _, err := k.EditNamespace(ctx, fleet.Root, keystore.DefaultNamespace,
		manage.NamespacePatch{OnLeak: &action}, manage.ChangeOptions{}); err != nil {
		t.Fatal(err)
	}
}

// TestLeaksHoldNoLock reports the token of a live key again and again. Nobody who has it may
// keep other changes waiting.
func TestLeaksHoldNoLock(t *testing.T) {
	for _, c := range []struct {
		name           string
		action         keystore.LeakAction
		others, signed bool  // reports with other URLs, signed reports
		most           int64 // with some of the node's own
	}{
		{"other URLs", keystore.LeakNotify, true, false, 25},
		{"other URLs, signed", keystore.LeakNotify, true, true, 25},
		{"inactive", keystore.LeakInactivate, false, false, 5},
		{"inactive, other URLs", keystore.LeakInactivate, true, false, 25},
		{"revoked", keystore.LeakRevoke, true, false, 5},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				k, db := openCounted(t, fleet.New(t))
				setOnLeak(t, k, c.action)
				_, token := fleet.Mint(t, k, manage.KeySpec{})
				before := db.updates.Load()
				for i := range 150 {
					url := "https://x/"
					if c.others {
						url += fmt.Sprint(i)
					}
					_, _, err := k.ReportLeaks(ctx, manage.Anonymous(fmt.Sprint("10.0.0.", i)),
						c.signed, []manage.LeakReport{{Token: token, URL: url}})
					if err != nil {
						t.Fatal(err)
					}
				}
				if n := db.updates.Load() - before; n > c.most {
					t.Errorf("%d transactions, want at most %d", n, c.most)
				}
			})
		})
	}
}

// TestRepeatedLeakWaits repeats a report while another node still accepts the token. A complete
// answer says that no node accepts it, so each report must wait, however and by whichever node the
// token was revoked, made inactive or rotated.
func TestRepeatedLeakWaits(t *testing.T) {
	for _, end := range []string{"revoke", "inactivate", "rotate"} {
		t.Run(end, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := fleet.New(t)
				a, _ := d.Node(node.Settings{})
				b, faulty := d.Node(node.Settings{})
				other := a
				if end == "inactivate" {
					other, _ = d.Node(node.Settings{})
				}
				action := keystore.LeakAction(end)
				if end == "rotate" {
					action = keystore.LeakRevoke
				}
				setOnLeak(t, a, action)
				key, token := fleet.Mint(t, a, manage.KeySpec{})
				report := func(k *manage.Keystore) (complete bool) {
					known, p, err := k.ReportLeaks(ctx, manage.Anonymous("x"), false,
						[]manage.LeakReport{{Token: token}})
					if err != nil || !known[0] {
						t.Error(known, err)
					}
					if got := fleet.Ask(b, token); p.Complete && got == keystore.OK {
						t.Errorf("%s: complete, but another node accepts the token", end)
					}
					return p.Complete
				}
				for range 2 {
					time.Sleep(10 * time.Second)
					if got := fleet.Ask(b, token); got != keystore.OK {
						t.Fatal(got)
					}
					faulty.Mute.Store(true)
					go func() {
						if end != "rotate" {
							report(other)
						} else if _, _, _, err := other.RotateKey(ctx, fleet.Root, key.ID, 0,
							manage.ChangeOptions{}); err != nil {
							t.Error(err)
						}
					}()
					for fleet.Ask(a, token) == keystore.OK {
						time.Sleep(50 * time.Millisecond)
					}
					for tries := 0; !report(a); tries++ {
						if tries == 3 {
							t.Fatalf("%s: never complete", end)
						}
					}
					faulty.Mute.Store(false)
					if end != "inactivate" {
						break // for good
					}
					report(a)
					if _, _, err := a.EditKey(ctx, fleet.Root, key.ID, manage.KeyPatch{Active: new(true)},
						manage.ChangeOptions{}); err != nil {
						t.Fatal(err)
					}
				}
			})
		})
	}
}

// TestLeakAtSeveralPlaces: each place of a token in one report gets a row, and an old token does not
// hide the one that replaced it.
func TestLeakAtSeveralPlaces(t *testing.T) {
	k, _ := fleet.New(t).Node(node.Settings{})
	report := func(reports ...manage.LeakReport) {
		t.Helper()
		known, p, err := k.ReportLeaks(ctx, manage.Anonymous("x"), false, reports)
		if err != nil || !p.Complete || slices.Contains(known, false) {
			t.Fatal(known, p, err)
		}
	}
	key, token := fleet.Mint(t, k, manage.KeySpec{})
	places := make([]manage.LeakReport, 30)
	for i := range places {
		places[i] = manage.LeakReport{Token: token, URL: fmt.Sprint("https://x/", i/2)}
	}
	report(places...)
	if n := len(auditedAs(t, k, "key.leaked")); n != 15 {
		t.Errorf("%d rows about 15 places", n)
	}
	setOnLeak(t, k, keystore.LeakRevoke)
	_, next, _, err := k.RotateKey(ctx, fleet.Root, key.ID, 0, manage.ChangeOptions{})
	if err != nil {
		t.Fatal(err)
	}
	report(manage.LeakReport{Token: token}, manage.LeakReport{Token: next.Reveal()},
		manage.LeakReport{Token: next.Reveal(), URL: "y"})
	key, err = k.FindKey(ctx, fleet.Root, key.ID)
	if err != nil || key.RevokedAt.IsZero() || len(auditedAs(t, k, "key.leaked")) != 16 {
		t.Errorf("%+v %v", key, err)
	}
	// The token of a deleted key was a real one.
	if _, _, err := k.DeleteKey(ctx, fleet.Root, key.ID, manage.ChangeOptions{}); err != nil {
		t.Fatal(err)
	}
	report(manage.LeakReport{Token: next.Reveal()})
}

// TestLeakedTextsHoldNoToken reports a token with texts that contain it, or most of it. Neither the
// audit log nor the reason of the revoke may hold it.
func TestLeakedTextsHoldNoToken(t *testing.T) {
	k, _ := fleet.New(t).Node(node.Settings{})
	setOnLeak(t, k, keystore.LeakRevoke)
	_, other := fleet.Mint(t, k, manage.KeySpec{})
	encoded := func(m string) string { return strings.Replace(m, "_", "%5F", 1) }
	texts := map[string]func(token string) string{
		"plain":        func(m string) string { return "https://x/" + m },
		"encoded":      func(m string) string { return "https://x/" + encoded(m) },
		"beside wrong": func(m string) string { return "%zz" + encoded(m) },
		"twice":        func(m string) string { return strings.Replace(m, "_", "%255f", 1) },
		"often":        func(m string) string { return "%" + strings.Repeat("25", 50) + "5F" + m[:3] },
		"hidden":       func(m string) string { return m[:10] + "\u200b" + m[10:] },
		"joined":       func(m string) string { return m[:10] + "\u034f\ufe0f" + m[10:] },
		"hidden, encoded": func(m string) string {
			return encoded(m)[:12] + "%E2%80%8B" + m[10:]
		},
		"cut": func(m string) string {
			return strings.Repeat("a", 2000-len(m)+1) + m
		},
		"without prefix": func(m string) string { return m[3:] },
		"begun":          func(m string) string { return m[:len(m)-2] },
		"in lines":       func(m string) string { return m[:20] + "\n" + m[20:] },
		"another":        func(string) string { return "https://x/?a=%zz&t=" + encoded(other) },
	}
	for name, text := range texts {
		key, token := fleet.Mint(t, k, manage.KeySpec{})
		s := text(token)
		if _, _, err := k.ReportLeaks(ctx, manage.Anonymous("x"), true,
			[]manage.LeakReport{{Token: token, URL: s, Source: s, Type: s}}); err != nil {
			t.Fatal(err)
		}
		key, err := k.FindKey(ctx, fleet.Root, key.ID)
		if err != nil || key.RevokeReason != "leaked: (withheld, because it contains a token)" {
			t.Errorf("%s: reason %q %v", name, key.RevokeReason, err)
		}
	}
	for _, row := range auditedAs(t, k, "key.leaked") {
		if strings.Count(row.After, "(withheld") != 3 {
			t.Errorf("row %s", row.After)
		}
	}
	key, token := fleet.Mint(t, k, manage.KeySpec{})
	const place = "https://github.com/acme/app/blob/8f0cb3d5c7a1/config/production.yml?plain=1#L%20"
	if _, _, err := k.ReportLeaks(ctx, manage.Anonymous("x"), true,
		[]manage.LeakReport{{Token: token, URL: place}}); err != nil {
		t.Fatal(err)
	}
	if key, err := k.FindKey(ctx, fleet.Root, key.ID); err != nil ||
		key.RevokeReason != "leaked: "+place {
		t.Errorf("harmless text: %+v %v", key, err)
	}
}

// TestLeakLimits: nobody can use up what others may report, and junk leaves room for signed
// reports.
func TestLeakLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, _ := fleet.New(t).Node(node.Settings{})
		report := func(from string, signed bool, r ...manage.LeakReport) error {
			_, _, err := k.ReportLeaks(ctx, manage.Anonymous(from), signed, r)
			return err
		}
		junk := make([]manage.LeakReport, manage.MaxLeaks)
		for i := range junk {
			junk[i].Token = fmt.Sprint("junk-credential-", i)
		}
		limited := false
		for i := range 3 { // one client has as many addresses as it likes
			err := report(fmt.Sprint("2001:db8::", i), false, junk...)
			limited = limited || err != nil
		}
		guess := manage.LeakReport{Token: "plain-words"}
		if !limited || report("2001:db8::9", false, guess) == nil {
			t.Error("guesses are not limited")
		}
		for from, signed := range map[string]bool{"2001:db8:0:1::": false, "192.0.2.1": false,
			"2001:db8::1": true} {
			if err := report(from, signed, guess); err != nil {
				t.Errorf("%s, signed %v: %v", from, signed, err)
			}
		}

		_, token := fleet.Mint(t, k, manage.KeySpec{})
		for i := range 50 {
			if err := report("192.0.2.1", false, manage.LeakReport{Token: token,
				URL: fmt.Sprint("junk", i)}); err != nil {
				t.Fatal(err)
			}
		}
		if err := report("192.0.2.1", true, manage.LeakReport{Token: token,
			URL: "junk1"}); err != nil {
			t.Fatal(err)
		}
		rows := auditedAs(t, k, "key.leaked")
		if len(rows) != 21 || !strings.Contains(rows[0].After, `"signed":true`) {
			t.Errorf("%d rows, the last %+v", len(rows), rows[:min(1, len(rows))])
		}
	})
}
