package manage_test

import (
	"encoding/json"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest/fleet"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/node"
)

// TestRevokedKeysSayWhy checks what a revoked key and the keys that it created say about the
// revoke, also if they are revoked later than the key.
func TestRevokedKeysSayWhy(t *testing.T) {
	for name, first := range map[string]bool{"at once": true, "later": false} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			key, token := w.key(fleet.Root, "default", "default=read,admin.keys:create")
			child, _ := w.key(w.keyCaller(token), "default", "default=read")
			if !first {
				fleet.Revoke(t, w.Keystore, key.ID, 0)
			}
			revoked, p, err := w.RevokeKey(ctx, fleet.Root, key.ID, "leaked", true,
				manage.ChangeOptions{})
			if err != nil || !p.Complete || p.Revision != w.Applied() || revoked.ID != key.ID {
				t.Fatalf("%+v, %+v, %v", revoked, p, err)
			}
			ids := []string{child.ID}
			if first {
				ids = append(ids, key.ID)
			}
			for _, id := range ids {
				k, err := w.FindKey(ctx, fleet.Root, id)
				if err != nil {
					t.Fatal(err)
				}
				if k.RevokedAt.IsZero() || k.RevokedBy != keystore.RootMember ||
					k.RevokeReason != "leaked" || k.Version != 2 {
					t.Errorf("%+v", k)
				}
				rows, _, err := w.ListAudit(ctx, fleet.Root, keystore.AuditFilter{Object: id}, "", 9)
				if err != nil || len(rows) != 2 || rows[0].Action != "key.revoke" {
					t.Errorf("the audit log: %+v, %v", rows, err)
				}
				var after struct {
					RevokedAt    time.Time `json:"revoked_at"`
					RevokeReason string    `json:"revoke_reason"`
					Active       bool
					Version      int64
				}
				if err := json.Unmarshal([]byte(rows[0].After), &after); err != nil ||
					!after.RevokedAt.Equal(k.RevokedAt) || after.RevokeReason != "leaked" ||
					after.Active || after.Version != 2 {
					t.Errorf("the audit log shows %s, %v", rows[0].After, err)
				}
			}
			again, p, err := w.RevokeKey(ctx, fleet.Root, key.ID, "again", true,
				manage.ChangeOptions{})
			if err != nil || !p.Complete || again.RevokeReason == "again" {
				t.Errorf("again: %+v, %+v, %v", again, p, err)
			}
		})
	}
	w := newWorld(t)
	key, _ := w.key(fleet.Root, "default", "default=read")
	if _, _, err := w.RevokeKey(ctx, fleet.Root, key.ID, strings.Repeat("x", 1001), false,
		manage.ChangeOptions{}); invalidFields(err) != "reason" {
		t.Errorf("a reason of 1001 characters: %v", err)
	}
}

// TestRevokeWithoutPermission checks that a key may revoke itself, and a member the keys that it
// owns, but nothing else without a permission.
func TestRevokeWithoutPermission(t *testing.T) {
	w := newWorld(t)
	ada := w.member("ada", "default=read")
	own, _, err := w.MintKey(ctx, fleet.Root, manage.KeySpec{Owner: ada.Member(),
		Grants: roleGrants(t, "default=read")}, nil)
	if err != nil {
		t.Fatal(err)
	}
	_, personal, _, err := w.NewMemberToken(ctx, fleet.Root, ada.Member(), manage.TokenSpec{},
		manage.ChangeOptions{})
	if err != nil {
		t.Fatal(err)
	}
	self, token := w.key(fleet.Root, "default", "default=read")
	other, _ := w.key(fleet.Root, "default", "default=read")
	for _, c := range []struct {
		what string
		who  manage.Caller
		id   string
		want string
	}{
		{"a key of another by a member", ada, other.ID, "insufficient_permission"},
		{"its token by a member", ada, personal.ID(), "insufficient_permission"},
		{"its key by a member", ada, own.ID, "ok"},
		{"another key by a key", w.keyCaller(token), other.ID, "insufficient_permission"},
		{"an unknown key by a key", w.keyCaller(token), keystore.NewID(),
			"insufficient_permission"},
		{"itself by a key", w.keyCaller(token), self.ID, "ok"},
		{"a member's token by root", fleet.Root, personal.ID(), "not_found"},
	} {
		if _, _, err := w.RevokeKey(ctx, c.who, c.id, "", false,
			manage.ChangeOptions{}); fleet.Code(err) != c.want {
			t.Errorf("%s: %v, want %s", c.what, err, c.want)
		}
	}
}

// TestRepeatedRevokeWaitsNoLonger checks that a repeated revoke waits for a silent node's lease as
// counted from the first revoke.
func TestRepeatedRevokeWaitsNoLonger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := fleet.New(t)
		a, _ := d.Node(node.Settings{})
		_, fb := d.Node(node.Settings{Lease: 20 * time.Second})
		key, _ := fleet.Mint(t, a, manage.KeySpec{})
		fb.Mute.Store(true)
		begun := time.Now()
		if p := fleet.Revoke(t, a, key.ID, -1); p.Complete {
			t.Fatalf("%+v", p)
		}
		time.Sleep(15 * time.Second)
		if p := fleet.Revoke(t, a, key.ID, time.Minute); !p.Complete ||
			time.Since(begun) > 22*time.Second {
			t.Errorf("took %v: %+v", time.Since(begun), p)
		}
		fb.Mute.Store(false)
	})
}

// TestRotatedSecrets checks the secrets of a rotated key that does not expire.
func TestRotatedSecrets(t *testing.T) {
	w := newWorld(t)
	key, _ := w.key(fleet.Root, "default", "default=read")
	w.Configure(node.Settings{TokenPrefixes: []string{"new", keystore.DefaultPrefix}})
	rotate := func(grace time.Duration) ([]keystore.Secret, string) {
		t.Helper()
		_, token, _, err := w.RotateKey(ctx, fleet.Root, key.ID, grace, manage.ChangeOptions{})
		if err != nil {
			t.Fatal(err)
		}
		k, err := w.FindKey(ctx, fleet.Root, key.ID)
		if err != nil {
			t.Fatal(err)
		}
		if token.Prefix() != "new" || k.Prefix != "new" {
			t.Errorf("the token has prefix %s, and the key has %s", token.Prefix(), k.Prefix)
		}
		return k.Secrets, token.Reveal()
	}
	near := func(at, want time.Time) bool { return at.Sub(want).Abs() < time.Minute }
	secrets, _ := rotate(time.Hour)
	if len(secrets) != 2 || !secrets[0].ExpiresAt.IsZero() ||
		!near(secrets[1].ExpiresAt, w.Now().Add(time.Hour)) {
		t.Errorf("with a grace period: %+v", secrets)
	}
	secrets, second := rotate(0)
	if len(secrets) != 1 || !secrets[0].ExpiresAt.IsZero() {
		t.Errorf("without a grace period: %+v", secrets)
	}
	secrets, _ = rotate(manage.MaxGrace)
	if len(secrets) != 2 || !near(secrets[1].ExpiresAt, w.Now().Add(manage.MaxGrace)) {
		t.Errorf("with the longest grace period: %+v", secrets)
	}
	fleet.Want(t, "the previous token", fleet.Ask(w.Keystore, second), keystore.OK)
}
