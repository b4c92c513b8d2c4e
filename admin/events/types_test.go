package events

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest/fleet"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
)

// TestEvents makes one change of each kind and reads the events.
func TestEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, r := fleet.New(t), newReceiver()
		n := startNode(d, r, hook)
		time.Sleep(time.Second)
		k, ctx := n.keys, t.Context()
		want := []string{}
		did := func(types string, err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
			want = append(want, strings.Fields(types)...)
		}
		_, err := k.CreateNamespace(ctx, fleet.Root, keystore.Namespace{ID: "acme"})
		did("namespace.created", err)
		key, token := fleet.Mint(t, k, manage.KeySpec{Name: "CI", Namespace: "acme",
			Metadata: map[string]string{"team": "a"}})
		did("key.created", nil)
		var o manage.ChangeOptions
		off, on, name := false, true, "CI 2"
		_, _, err = k.EditKey(ctx, fleet.Root, key.ID, manage.KeyPatch{Active: &off}, o)
		did("key.inactivated", err)
		_, _, err = k.EditKey(ctx, fleet.Root, key.ID, manage.KeyPatch{Active: &on}, o)
		did("key.activated", err)
		_, _, err = k.EditKey(ctx, fleet.Root, key.ID, manage.KeyPatch{Name: &name}, o)
		did("key.edited", err)
		_, rotated, _, err := k.RotateKey(ctx, fleet.Root, key.ID, 0, o)
		did("key.rotated", err)
		_, _, err = k.ReportLeaks(ctx, manage.Anonymous("192.0.2.7"), false,
			[]manage.LeakReport{{Token: rotated.Reveal(), URL: "https://example.com/paste"}})
		did("key.leaked", err)
		time.Sleep(time.Second)
		var leak struct{ URL, Action string }
		if err := json.Unmarshal(r.last(t).Data["leak"], &leak); err != nil ||
			leak.URL != "https://example.com/paste" || leak.Action != "notify" {
			t.Errorf("leak %+v: %v", leak, err)
		}
		_, _, err = k.RevokeKey(ctx, fleet.Root, key.ID, "left the company", false, o)
		did("key.revoked", err)
		time.Sleep(time.Second)

		var shown api.Key
		e := r.last(t)
		var actor api.EventActor
		var namespace, reason string
		for name, into := range map[string]any{"key": &shown, "actor": &actor,
			"namespace": &namespace, "reason": &reason} {
			if err := json.Unmarshal(e.Data[name], into); err != nil {
				t.Errorf("%s: %v in %s", name, err, e.Data[name])
			}
		}
		if e.Type != "key.revoked" || namespace != "acme" || reason != "left the company" ||
			actor != (api.EventActor{ID: "root", Name: "root", Address: "test"}) ||
			time.Since(e.Timestamp) > time.Minute {
			t.Errorf("%+v", e)
		}
		stored, err := k.FindKey(ctx, fleet.Root, key.ID)
		if err != nil {
			t.Fatal(err)
		}
		rest := n.render.api.ShowKey(stored, k.Now())
		got, _ := json.Marshal(shown)
		wanted, _ := json.Marshal(rest)
		if string(got) != string(wanted) {
			t.Errorf("the key of the event is\n%s\nand of REST\n%s", got, wanted)
		}

		_, _, err = k.DeleteKey(ctx, fleet.Root, key.ID, o)
		did("key.deleted", err)
		m, err := k.CreateMember(ctx, fleet.Root, keystore.Member{Name: "Ada"})
		did("member.created", err)
		_, _, _, err = k.NewMemberToken(ctx, fleet.Root, m.ID, manage.TokenSpec{}, o)
		did("member.token_created", err)
		_, _, err = k.EditMember(ctx, fleet.Root, m.ID, manage.MemberPatch{Active: &off}, o)
		did("member.disabled", err)
		_, _, err = k.EditMember(ctx, fleet.Root, m.ID, manage.MemberPatch{Active: &on}, o)
		did("member.enabled", err)
		role, err := k.CreateRole(ctx, fleet.Root, keystore.Role{Namespace: "acme", Name: "r",
			Permissions: fleet.Read})
		did("role.created", err)
		_, _, err = k.DeleteRole(ctx, fleet.Root, keystore.RoleID{Namespace: "acme", Name: role.Name}, o)
		did("role.deleted", err)
		time.Sleep(time.Second)
		if got := r.types(); !slices.Equal(got, want) {
			t.Errorf("events\n%v, want\n%v", got, want)
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		for _, m := range r.messages {
			noSecrets(t, string(m.body), token)
			noSecrets(t, string(m.body), rotated.Reveal())
		}
	})
}

// TestOtherActions: rows that other versions write become events, whatever they contain.
func TestOtherActions(t *testing.T) {
	d := fleet.New(t)
	n := idleNode(d)
	key := mint(t, n.keys, 0)
	rows := audit(t, n.keys)
	text := rows[0].After
	for _, test := range []struct {
		row  keystore.AuditRow
		kind string
		data string // names
	}{
		{keystore.AuditRow{Action: "key.expiring", Object: key.ID,
			After: text[:len(text)-1] + `,"reminder":{"before":"30d"}}`}, "key.expiring",
			"actor key namespace reminder"},
		{keystore.AuditRow{Action: "group.frob", Object: "g", After: `{"id":"g"}`}, "group.frob",
			"actor group"},
		{keystore.AuditRow{Action: "key.edit", Object: key.ID, Before: "{}",
			After: `{"grants":[{"namespace":"a","permissions":"read,write"}]}`}, "key.edited",
			"actor key"},
		{keystore.AuditRow{Action: "x"}, "x", "actor"},
	} {
		e, _, err := n.render.event(t.Context(), &test.row)
		if err != nil || e.Type != test.kind {
			t.Errorf("%s: %+v, %v", test.row.Action, e, err)
		}
		var names []string
		for name := range e.Data {
			names = append(names, name)
		}
		slices.Sort(names)
		if got := strings.Join(names, " "); got != test.data {
			t.Errorf("%s has %s, want %s", test.row.Action, got, test.data)
		}
	}
	for _, bad := range []string{"{", "[]", "1"} {
		if _, _, err := n.render.event(t.Context(),
			&keystore.AuditRow{Action: "key.edit", After: bad}); err == nil {
			t.Errorf("%s was read", bad)
		}
	}
}

// TestThresholds: each threshold of a quota is one event in a period, whatever nodes see it.
func TestThresholds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, r := fleet.New(t), newReceiver()
		a := startNode(d, r, hook)
		b := startNode(d, r, hook)
		_, token := fleet.Mint(t, a.keys, manage.KeySpec{Name: "limited",
			Limits: keystore.KeyLimits{Limits: keystore.Limits{
				Quota: keystore.Quota{Units: 100, Per: keystore.Day}}}})
		time.Sleep(time.Second)
		for i := range 110 {
			k := []*manage.Keystore{a.keys, b.keys}[i%2]
			answer, err := k.Lookup(t.Context(), token, time.Now())
			if err != nil || answer.Outcome != keystore.OK {
				t.Fatal(answer.Outcome, err)
			}
			_, _ = k.Charge(t.Context(), answer, k.Policy(), 1)
			if i%20 == 0 {
				time.Sleep(6 * time.Second)
			}
		}
		time.Sleep(time.Minute)
		want := []string{"key.created", "quota.threshold", "quota.threshold"}
		if got := r.types(); !slices.Equal(got, want) {
			t.Fatalf("events %v, want %v", got, want)
		}
		e := r.last(t)
		if string(e.Data["percent"]) != "100" || string(e.Data["used"]) != "100" ||
			e.Data["key"] == nil || string(e.Data["quota"]) != `{"requests":100,"per":"day"}` {
			t.Errorf("%s", e.Data)
		}
	})
}

func TestPatterns(t *testing.T) {
	for pattern, valid := range map[string]bool{"*": true, "key.*": true, "key.revoked": true,
		"quota.threshold": true, "member.token_created": true, "": false, "key": false,
		"keys.*": false, "key.": false, "key.*d": false, "key.Revoked": false, "**": false} {
		if validPattern(pattern) != valid {
			t.Errorf("%q is valid: %v, want %v", pattern, !valid, valid)
		}
	}
	for _, test := range []struct {
		patterns, kind string
		want           bool
	}{
		{"", "key.created", true}, {"*", "key.created", true}, {"key.*", "key.created", true},
		{"key.*", "keys.x", false}, {"role.* key.created", "key.created", true},
		{"key.created", "key.created_by", false},
	} {
		if matches(strings.Fields(test.patterns), test.kind) != test.want {
			t.Errorf("%q matches %s: %v, want %v", test.patterns, test.kind, !test.want, test.want)
		}
	}
}
