package manage_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest/fleet"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
)

// TestMaxLifetime: the rule binds wherever keys are created, and does not change keys that exist.
func TestMaxLifetime(t *testing.T) {
	k := fleet.WithNamespaces(t, "acme", "other")
	old, _ := fleet.Mint(t, k, manage.KeySpec{Namespace: "acme"})
	most := 90 * 24 * time.Hour
	edit := func(p manage.NamespacePatch) error {
		_, _, err := k.EditNamespace(ctx, fleet.Root, "acme", p, manage.ChangeOptions{})
		return err
	}
	if err := edit(manage.NamespacePatch{MaxLifetime: &most}); err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	for _, c := range []struct {
		name, namespace string
		expires         time.Time
		ok              bool
	}{
		{"never", "acme", time.Time{}, false},
		{"within", "acme", now.Add(most), true},
		{"a day later", "acme", now.Add(most + 24*time.Hour), false},
		{"elsewhere", "other", time.Time{}, true},
	} {
		spec := manage.KeySpec{Name: c.name, Namespace: c.namespace, ExpiresAt: c.expires,
			Home: &keystore.Grant{Permissions: fleet.Read}}
		_, _, err := k.MintKey(ctx, fleet.Root, spec, nil)
		refused, _ := errors.AsType[*keystore.Error](err)
		if (err == nil) != c.ok || err != nil && (refused == nil || len(refused.Fields) != 1 ||
			refused.Fields[0].Field != "expires_at" ||
			!strings.Contains(refused.Fields[0].Detail, "90d")) {
			t.Errorf("%s: %v", c.name, err)
		}
		_, refusals, err := k.ImportKeys(ctx, fleet.Root, []manage.ImportSpec{{KeySpec: spec,
			Line: 1, Token: "token-" + strings.ReplaceAll(c.name, " ", "-")}}, false, nil)
		if err != nil || (len(refusals) == 0) != c.ok {
			t.Errorf("import, %s: %v %v", c.name, refusals, err)
		}
	}
	active := false
	for range 2 {
		if _, _, err := k.EditKey(ctx, fleet.Root, old.ID, manage.KeyPatch{Active: &active},
			manage.ChangeOptions{}); err != nil {
			t.Fatal(err)
		}
		active = true
	}
	rotated, _, _, err := k.RotateKey(ctx, fleet.Root, old.ID, 0, manage.ChangeOptions{})
	if err != nil || !rotated.ExpiresAt.IsZero() {
		t.Errorf("an old key: %+v %v", rotated, err)
	}
	none := time.Duration(0)
	if err := edit(manage.NamespacePatch{MaxLifetime: &none}); err != nil {
		t.Fatal(err)
	}
	fleet.Mint(t, k, manage.KeySpec{Namespace: "acme"})

	short, leak := time.Millisecond, keystore.LeakAction("x")
	for name, p := range map[string]manage.NamespacePatch{
		"max_lifetime": {MaxLifetime: &short},
		"idle.after":   {Idle: &keystore.IdleRule{Then: keystore.IdleNotify}},
		"idle.then":    {Idle: &keystore.IdleRule{After: time.Hour}},
		"on_leak":      {OnLeak: &leak},
	} {
		refused, _ := errors.AsType[*keystore.Error](edit(p))
		if refused == nil || len(refused.Fields) != 1 || refused.Fields[0].Field != name {
			t.Errorf("%s: %v", name, refused)
		}
	}
}
