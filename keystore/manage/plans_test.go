package manage_test

import (
	"strings"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest/fleet"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/node"
)

// perMinute returns a rate limit without a larger burst. 0 stands for none.
func perMinute(n int64) keystore.Limits {
	if n == 0 {
		return keystore.Limits{}
	}
	return keystore.Limits{Rate: keystore.RateLimit{Requests: n, Per: time.Minute, Burst: n}}
}

// TestRulesOfAuthorityForLimits tries rules 6, 11 and 14 of docs/authority.md for plans and limits
// as different callers.
func TestRulesOfAuthorityForLimits(t *testing.T) {
	type attempt func(w *world, who manage.Caller) error
	plan := func(ns, name string, n int64) attempt {
		return func(w *world, who manage.Caller) error {
			_, err := w.CreatePlan(ctx, who,
				keystore.Plan{Namespace: ns, Name: name, Limits: perMinute(n)})
			return err
		}
	}
	editPlan := func(ns, name string, n int64) attempt {
		return func(w *world, who manage.Caller) error {
			l := perMinute(n)
			return second3(w.EditPlan(ctx, who, keystore.PlanID{Namespace: ns, Name: name},
				manage.PlanPatch{Limits: manage.LimitsPatch{Rate: &l.Rate}},
				manage.ChangeOptions{}))
		}
	}
	deletePlan := func(ns, name string) attempt {
		return func(w *world, who manage.Caller) error {
			return second3(w.DeletePlan(ctx, who, keystore.PlanID{Namespace: ns, Name: name},
				manage.ChangeOptions{}))
		}
	}
	findPlan := func(ns, name string) attempt {
		return func(w *world, who manage.Caller) error {
			_, err := w.FindPlan(ctx, who, keystore.PlanID{Namespace: ns, Name: name})
			return err
		}
	}
	mint := func(home, plan string, n int64) attempt {
		return func(w *world, who manage.Caller) error {
			_, _, err := w.MintKey(ctx, who, manage.KeySpec{Namespace: home,
				Grants: roleGrants(w, home+"=read"),
				Limits: keystore.KeyLimits{Limits: perMinute(n), Plan: plan}}, nil)
			return err
		}
	}
	edit := func(name string, patch manage.KeyPatch) attempt {
		return func(w *world, who manage.Caller) error {
			return second3(w.EditKey(ctx, who, w.ids[name], patch, manage.ChangeOptions{}))
		}
	}
	limit := func(name string, n int64) attempt {
		l := perMinute(n)
		return edit(name, manage.KeyPatch{Limits: manage.LimitsPatch{Rate: &l.Rate}})
	}
	onPlan := func(name, plan string) attempt { return edit(name, manage.KeyPatch{Plan: &plan}) }
	patch := func(id string, p manage.NamespacePatch) attempt {
		return func(w *world, who manage.Caller) error {
			return second3(w.EditNamespace(ctx, who, id, p, manage.ChangeOptions{}))
		}
	}
	limitNamespace := func(id string, n int64) attempt {
		l := perMinute(n)
		return patch(id, manage.NamespacePatch{Limits: manage.LimitsPatch{Rate: &l.Rate}})
	}
	defaultPlan := func(id, plan string) attempt {
		return patch(id, manage.NamespacePatch{DefaultPlan: &plan})
	}
	move := func(id, parent string) attempt {
		return patch(id, manage.NamespacePatch{Parent: &parent})
	}
	createNamespace := func(parent, plan string, n int64) attempt {
		return func(w *world, who manage.Caller) error {
			_, err := w.CreateNamespace(ctx, who, keystore.Namespace{ID: "new", Parent: parent,
				DefaultPlan: plan, Limits: perMinute(n)})
			return err
		}
	}
	after := func(first, then attempt) attempt { // the first by root
		return func(w *world, who manage.Caller) error {
			if err := first(w, fleet.Root); err != nil {
				return err
			}
			return then(w, who)
		}
	}
	unlimited := edit("slow", manage.KeyPatch{
		Limits: manage.LimitsPatch{Rate: &keystore.RateLimit{Unlimited: true}}})
	shadow := perMinute(5)
	shadow.Rate.Shadow = true
	open := copies(t, func(w *world) {
		for _, p := range []keystore.Plan{
			{Namespace: "*", Name: "free"},
			{Namespace: "acme", Name: "gold", Limits: perMinute(100)},
			{Namespace: "acme", Name: "spare", Limits: perMinute(2)},
			{Namespace: "acme", Name: "unused", Limits: perMinute(2)},
		} {
			if _, err := w.CreatePlan(ctx, fleet.Root, p); err != nil {
				t.Fatal(err)
			}
		}
		w.limitedKey("fast", keystore.KeyLimits{})
		w.limitedKey("slow", keystore.KeyLimits{Limits: perMinute(10)})
		w.limitedKey("golden", keystore.KeyLimits{Plan: "gold"})
		w.limitedKey("spared", keystore.KeyLimits{Plan: "spare"})
	}, "acme", "app<acme", "other")
	for _, c := range []struct {
		what, grants string // of the caller; "key " makes it a key with 10 requests a minute
		try          attempt
		want         string // see fleet.Code
	}{
		{"a plan", "acme=admin.plans:create", plan("acme", "new", 5), "ok"},
		{"a plan by a developer", "acme=@developer", plan("acme", "new", 5), "ok"},
		{"a plan by a viewer", "acme=@viewer", plan("acme", "new", 5), "insufficient_permission"},
		{"a plan of another namespace", "acme=*,admin:*", plan("app", "new", 5),
			"insufficient_permission"},
		{"a shared plan", "acme=*,admin:*", plan("*", "new", 5), "insufficient_permission"},
		{"a shared plan, by a caller with a grant in *", "*=admin.plans:create",
			plan("*", "new", 5), "ok"},
		{"a plan with the name of a shared one", "acme=admin:*", plan("acme", "Free", 5), "exists"},
		{"a shared plan with the name of another", "*=admin:*", plan("*", "GOLD", 5), "exists"},
		{"a plan with the name of one elsewhere", "*=admin:*", plan("app", "gold", 5), "ok"},
		{"raise a plan", "acme=admin.plans:update", editPlan("acme", "gold", 500), "ok"},
		{"edit a plan that the caller may only read", "acme=admin:read",
			editPlan("acme", "gold", 5), "insufficient_permission"},
		{"edit a shared plan", "acme=admin:*", editPlan("*", "free", 5),
			"insufficient_permission"},
		{"edit a plan that the caller may not read", "app=admin:*", editPlan("acme", "gold", 5),
			"not_found"},
		{"delete a plan that the caller may not read", "app=admin:*", deletePlan("acme", "gold"),
			"not_found"},
		{"find a plan that the caller may not read", "app=admin:*", findPlan("acme", "gold"),
			"not_found"},
		{"find a shared plan", "acme=admin.plans:read", findPlan("*", "free"), "ok"},
		{"find a plan without the permission", "acme=*,admin.keys:*", findPlan("acme", "gold"),
			"insufficient_permission"},
		{"delete a plan", "acme=admin.plans:delete", deletePlan("acme", "unused"), "ok"},
		{"delete the plan of a key", "acme=admin.plans:delete", deletePlan("acme", "gold"),
			"in_use"},
		{"delete the shared plan of a key", "*=admin.plans:delete", after(onPlan("slow", "free"),
			deletePlan("*", "free")), "in_use"},
		{"delete a default plan", "*=admin.plans:delete", after(defaultPlan("app", "free"),
			deletePlan("*", "free")), "in_use"},

		{"mint with a plan", "acme=read,admin.keys:*", mint("acme", "gold", 0), "ok"},
		{"mint with a shared plan", "acme=read,admin.keys:*", mint("acme", "free", 0), "ok"},
		{"mint with a plan of another namespace", "app=read,admin.keys:*", mint("app", "gold", 0),
			"invalid_fields"},
		{"mint with a limit that is not valid", "acme=read,admin.keys:*", mint("acme", "", -1),
			"invalid_fields"},
		{"edit to a plan that does not exist", "acme=*,admin.keys:*", onPlan("slow", "none"),
			"invalid_fields"},

		{"rule 6: lower a key", "acme=admin.keys:*", limit("slow", 5), "ok"},
		{"rule 6: limit a key without limits", "acme=admin.keys:*", limit("fast", 5), "ok"},
		{"rule 6: raise a key", "acme=admin.keys:*", limit("slow", 11), "exceeds_caller"},
		{"rule 6: raise a key with its permissions", "acme=read,admin.keys:*", limit("slow", 11),
			"ok"},
		{"rule 6: remove the limit", "acme=admin.keys:*", limit("slow", 0), "exceeds_caller"},
		{"rule 6: remove the limit, with a lower plan", "acme=admin.keys:*",
			after(onPlan("slow", "spare"), limit("slow", 0)), "ok"},
		{"rule 6: unlimited", "acme=admin.keys:*", unlimited, "exceeds_caller"},
		{"rule 6: only count", "acme=admin.keys:*",
			edit("slow", manage.KeyPatch{Limits: manage.LimitsPatch{Rate: &shadow.Rate}}),
			"exceeds_caller"},
		{"rule 6: give a higher plan", "acme=admin.keys:*", onPlan("spared", "gold"),
			"exceeds_caller"},
		{"rule 6: remove the plan", "acme=admin.keys:*", onPlan("spared", ""), "exceeds_caller"},
		{"rule 6: remove the plan, with a lower default plan", "acme=admin.keys:*",
			after(defaultPlan("acme", "spare"), onPlan("golden", "")), "ok"},
		{"rule 6: give a lower plan", "acme=admin.keys:*", onPlan("golden", "spare"), "ok"},

		{"rule 11: a key mints one without limits", "key acme=read,admin.keys:*",
			mint("acme", "", 0), "exceeds_caller"},
		{"rule 11: a key mints one with its own limit", "key acme=read,admin.keys:*",
			mint("acme", "", 10), "ok"},
		{"rule 11: a key mints one with a higher limit", "key acme=read,admin.keys:*",
			mint("acme", "", 11), "exceeds_caller"},
		{"rule 11: a key mints one with a lower plan", "key acme=read,admin.keys:*",
			mint("acme", "spare", 0), "ok"},
		{"rule 11: a key mints one with a lower default plan", "key acme=read,admin.keys:*",
			after(defaultPlan("acme", "spare"), mint("acme", "", 0)), "ok"},
		{"rule 11: a key mints one with a higher plan", "key acme=read,admin.keys:*",
			mint("acme", "gold", 0), "exceeds_caller"},
		{"rule 11: a key raises another", "key acme=read,admin.keys:*", limit("slow", 11),
			"exceeds_caller"},
		{"rule 11: a key raises another up to its own limit", "key acme=read,admin.keys:*",
			after(limit("slow", 5), limit("slow", 10)), "ok"},
		{"rule 11: a key lowers a faster one", "key acme=read,admin.keys:*", limit("golden", 50),
			"ok"},
		{"rule 11: a key rotates a faster one", "key acme=read,admin.keys:*",
			func(w *world, who manage.Caller) error {
				_, _, _, err := w.RotateKey(ctx, who, w.ids["fast"], 0, manage.ChangeOptions{})
				return err
			}, "exceeds_caller"},
		{"rule 11: a key creates a higher plan", "key acme=admin.plans:*", plan("acme", "new", 11),
			"exceeds_caller"},
		{"rule 11: a key creates a plan with its own limit", "key acme=admin.plans:*",
			plan("acme", "new", 10), "ok"},
		{"rule 11: a key raises a plan", "key acme=admin.plans:*", editPlan("acme", "spare", 11),
			"exceeds_caller"},
		{"rule 11: a key sets a higher default plan", "key *=admin.namespaces:*",
			defaultPlan("acme", "gold"), "exceeds_caller"},
		{"rule 11: a key sets a lower default plan", "key *=admin.namespaces:*",
			defaultPlan("acme", "spare"), "ok"},
		{"rule 11: a key removes the default plan", "key *=admin.namespaces:*",
			after(defaultPlan("acme", "spare"), defaultPlan("acme", "")), "exceeds_caller"},
		{"rule 11: a key raises its namespace", "key *=admin.namespaces:*",
			after(limitNamespace("acme", 5), limitNamespace("acme", 11)), "exceeds_caller"},

		{"rule 14: limit a namespace, by its own administrator", "acme=*,admin:*",
			limitNamespace("acme", 5), "insufficient_permission"},
		{"rule 14: the same, with the permission in *", "*=admin.namespaces:update",
			limitNamespace("acme", 5), "ok"},
		{"rule 14: a default plan, by the administrator of the namespace", "acme=*,admin:*",
			defaultPlan("acme", "gold"), "insufficient_permission"},
		{"rule 14: limit a child, by its own administrator", "app=*,admin:*",
			limitNamespace("app", 5), "insufficient_permission"},
		{"rule 14: limit a child, by the administrator of the parent", "acme+=*,admin:*",
			limitNamespace("app", 5), "ok"},
		{"rule 14: the same limit again, by the administrator of the namespace", "acme=*,admin:*",
			after(limitNamespace("acme", 5), limitNamespace("acme", 5)), "ok"},
		{"rule 14: create a namespace with limits", "acme=admin.namespaces:create",
			createNamespace("acme", "free", 5), "ok"},
		{"rule 14: create a namespace with a plan of its parent", "acme=admin.namespaces:create",
			createNamespace("acme", "gold", 5), "invalid_fields"},
		{"rule 14: a default plan of another namespace", "*=admin.namespaces:update",
			defaultPlan("app", "gold"), "invalid_fields"},
		{"rule 14: move a namespace with limits",
			"other=*,admin:* acme=admin.namespaces:create",
			after(limitNamespace("other", 5), move("other", "acme")), "insufficient_permission"},
		{"rule 14: move a namespace with a default plan",
			"other=*,admin:* acme=admin.namespaces:create",
			after(defaultPlan("other", "free"), move("other", "acme")), "insufficient_permission"},
		{"rule 14: the same, with the permission in *",
			"*=admin.namespaces:update other=*,admin:* acme=admin.namespaces:create",
			after(defaultPlan("other", "free"), move("other", "acme")), "ok"},
	} {
		t.Run(c.what, func(t *testing.T) {
			w := open(t)
			var who manage.Caller
			if grants, isKey := strings.CutPrefix(c.grants, "key "); isKey {
				key, token, err := w.MintKey(ctx, fleet.Root, manage.KeySpec{Namespace: "acme",
					Grants: roleGrants(w, grants),
					Limits: keystore.KeyLimits{Limits: perMinute(10)}}, nil)
				if err != nil || key.Limits != perMinute(10) {
					t.Fatal(key, err)
				}
				who = w.keyCaller(token.Reveal())
			} else {
				who = w.member("who", c.grants)
			}
			if got := fleet.Code(c.try(w, who)); got != c.want {
				t.Errorf("with %s: %s, want %s", c.grants, got, c.want)
			}
		})
	}
}

// TestMemberTokenHasNoLimits checks that a default plan does not limit the plans that a member
// creates with its token.
func TestMemberTokenHasNoLimits(t *testing.T) {
	w := newWorld(t)
	w.member("ada", "default=*,admin:*")
	gold := keystore.Plan{Namespace: "default", Name: "gold", Limits: perMinute(10)}
	if _, err := w.CreatePlan(ctx, fleet.Root, gold); err != nil {
		t.Fatal(err)
	}
	if _, _, err := w.EditNamespace(ctx, fleet.Root, "default",
		manage.NamespacePatch{DefaultPlan: &gold.Name}, manage.ChangeOptions{}); err != nil {
		t.Fatal(err)
	}
	_, token, _, err := w.NewMemberToken(ctx, fleet.Root, w.ids["ada"], manage.TokenSpec{},
		manage.ChangeOptions{})
	if err != nil {
		t.Fatal(err)
	}
	a, err := w.LookupMember(ctx, token.Reveal(), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	higher := keystore.Plan{Namespace: "default", Name: "platinum", Limits: perMinute(20)}
	if _, err := w.CreatePlan(ctx, manage.MemberCaller(a.Record, "test"), higher); err != nil {
		t.Error(err)
	}
}

// limitedKey creates a key with acme=read that root owns.
func (w *world) limitedKey(name string, l keystore.KeyLimits) {
	w.Helper()
	key, _, err := w.MintKey(ctx, fleet.Root,
		manage.KeySpec{Namespace: "acme", Grants: roleGrants(w, "acme=read"), Limits: l}, nil)
	if err != nil {
		w.Fatal(err)
	}
	w.ids[name] = key.ID
}

// TestLimitsOnEveryNode checks that a change of a plan, a namespace's default plan or a key is in
// force on every node when it returns.
func TestLimitsOnEveryNode(t *testing.T) {
	d := fleet.New(t)
	a, _ := d.Node(node.Settings{})
	b, _ := d.Node(node.Settings{})
	w := &world{TB: t, Keystore: a, ids: map[string]string{}}
	none := ""
	id := keystore.PlanID{Namespace: "default", Name: "gold"}
	if _, err := a.CreatePlan(ctx, fleet.Root, keystore.Plan{Namespace: id.Namespace,
		Name: id.Name, Limits: perMinute(1)}); err != nil {
		t.Fatal(err)
	}
	key, token := w.key(fleet.Root, "default", "default=read")
	rate := func(n int64) manage.LimitsPatch {
		l := perMinute(n)
		return manage.LimitsPatch{Rate: &l.Rate}
	}
	o := manage.ChangeOptions{}
	for _, step := range []struct {
		what           string
		do             func() error
		key, namespace int64
	}{
		{"unchanged", func() error { return nil }, 0, 0},
		{"a default plan", func() error {
			return second3(a.EditNamespace(ctx, fleet.Root, "default",
				manage.NamespacePatch{DefaultPlan: &id.Name, Limits: rate(50)}, o))
		}, 1, 50},
		{"the plan is raised", func() error {
			return second3(a.EditPlan(ctx, fleet.Root, id, manage.PlanPatch{Limits: rate(2)}, o))
		}, 2, 50},
		{"the key has a limit", func() error {
			return second3(a.EditKey(ctx, fleet.Root, key.ID, manage.KeyPatch{Limits: rate(3)}, o))
		}, 3, 50},
		{"the key is unlimited", func() error {
			return second3(a.EditKey(ctx, fleet.Root, key.ID, manage.KeyPatch{Limits: manage.
				LimitsPatch{Rate: &keystore.RateLimit{Unlimited: true}}}, o))
		}, 0, 50},
		{"the key names the plan", func() error {
			return second3(a.EditKey(ctx, fleet.Root, key.ID,
				manage.KeyPatch{Limits: rate(0), Plan: &id.Name}, o))
		}, 2, 50},
		{"no default plan", func() error {
			return second3(a.EditNamespace(ctx, fleet.Root, "default",
				manage.NamespacePatch{DefaultPlan: &none, Limits: rate(0)}, o))
		}, 2, 0},
	} {
		if err := step.do(); err != nil {
			t.Fatalf("%s: %v", step.what, err)
		}
		for name, k := range map[string]*manage.Keystore{"here": a, "there": b} {
			answer, err := k.Lookup(ctx, token, time.Now())
			if err != nil || answer.Record == nil {
				t.Fatalf("%s: %v, %v", step.what, answer.Outcome, err)
			}
			own, shared := k.Policy().LimitsOf(answer.Record)
			if own != perMinute(step.key) || shared != perMinute(step.namespace) {
				t.Errorf("%s, %s: %+v and %+v", step.what, name, own, shared)
			}
		}
	}
}

// TestUnreadableLimits checks that an edit replaces unreadable limits only as a whole.
func TestUnreadableLimits(t *testing.T) {
	w := newWorld(t, "acme")
	id := keystore.PlanID{Namespace: "acme", Name: "gold"}
	if _, err := w.CreatePlan(ctx, fleet.Root, keystore.Plan{Namespace: id.Namespace,
		Name: id.Name, Limits: perMinute(1)}); err != nil {
		t.Fatal(err)
	}
	w.fleet.Tamper(`UPDATE plans SET rate_limit = '{"requests":-1}'`)
	p, err := w.FindPlan(ctx, fleet.Root, id)
	if err != nil || p.Unreadable == "" {
		t.Fatalf("%+v, %v", p, err)
	}
	l := perMinute(1)
	for _, c := range []struct {
		patch manage.LimitsPatch
		want  string
	}{
		{manage.LimitsPatch{}, "invalid_fields"},
		{manage.LimitsPatch{Rate: &l.Rate}, "invalid_fields"},
		{manage.LimitsPatch{Quota: &l.Quota}, "invalid_fields"},
		{manage.LimitsPatch{Rate: &l.Rate, Quota: &l.Quota}, "ok"},
	} {
		_, _, err := w.EditPlan(ctx, fleet.Root, id, manage.PlanPatch{Limits: c.patch},
			manage.ChangeOptions{})
		if got := fleet.Code(err); got != c.want {
			t.Errorf("%+v: %s, want %s", c.patch, got, c.want)
		}
	}
	if p, err := w.FindPlan(ctx, fleet.Root, id); err != nil || p.Unreadable != "" ||
		p.Limits != l {
		t.Errorf("repaired: %+v, %v", p, err)
	}

	w.fleet.Tamper(`UPDATE namespaces SET quota = '{"requests":1,"per":"week"}' WHERE id = 'acme'`)
	whole := manage.LimitsPatch{Rate: &l.Rate, Quota: &l.Quota}
	for _, c := range []struct {
		patch manage.NamespacePatch
		want  string
	}{
		{manage.NamespacePatch{Name: new(string)}, "invalid_fields"},
		{manage.NamespacePatch{Reach: new([]string), KeyRoles: new([]string)}, "invalid_fields"},
		{manage.NamespacePatch{Limits: whole}, "ok"},
	} {
		_, _, err := w.EditNamespace(ctx, fleet.Root, "acme", c.patch, manage.ChangeOptions{})
		if got := fleet.Code(err); got != c.want {
			t.Errorf("%+v: %s, want %s", c.patch, got, c.want)
		}
	}
	if ns, err := w.FindNamespace(ctx, fleet.Root, "acme"); err != nil || ns.Unreadable != "" ||
		ns.Limits != l {
		t.Errorf("repaired: %+v, %v", ns, err)
	}
}
