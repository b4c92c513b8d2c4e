package console_test

import (
	"strings"
	"testing"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"golang.org/x/net/html"
)

func plan(t testing.TB, s *site, namespace, name string, l keystore.Limits) {
	t.Helper()
	if _, err := s.keys.CreatePlan(ctx, root, keystore.Plan{Namespace: namespace, Name: name,
		Limits: l}); err != nil {
		t.Fatal(err)
	}
}

func TestPlans(t *testing.T) {
	s := open(t)
	namespaces(t, s, keystore.Namespace{ID: "acme", Name: "Acme"})
	p := s.signedIn(t, "Ada", "*=@client-admin")
	p.get("/apikeys/plans").want(200, "No plans", "/apikeys/plans/new")

	// Each error is next to its field, and the form keeps its values.
	fields := []string{"name", "go ld", "namespace", "acme", "rate_limit_rule", "limit",
		"rate_limit.requests", "many", "rate_limit.per", "1w", "rate_limit.burst", "0",
		"quota_rule", "limit", "quota.requests", "", "quota.per", "day", "quota.shadow", "true"}
	a := p.submit("/apikeys/plans/new", fields...).want(422,
		`id="f-rate_limit.requests-error">Must be a whole number`,
		`id="f-rate_limit.burst-error">Must be a whole number`,
		`id="f-quota.requests-error">Must be a whole number`,
		`<a href="#f-quota.requests">Quota units</a>`)
	for i := 0; i < len(fields); i += 2 {
		if got, _ := a.field(fields[i]); got != fields[i+1] {
			t.Errorf("%s is %q, want %q", fields[i], got, fields[i+1])
		}
	}
	p.submit("/apikeys/plans/new", "name", "gold", "namespace", "acme", "rate_limit.requests", "5",
		"rate_limit.per", "1w").want(422, `id="f-rate_limit.per-error">Must be a duration from 1s`)
	a = p.submit("/apikeys/plans/new", "name", "gold", "namespace", "acme", "description",
		"<b>Pays</b>", "rate_limit.requests", "1000", "rate_limit.per", "1m", "rate_limit.burst",
		"2000", "rate_limit.shadow", "true").want(200, "Plan gold created",
		"&lt;b&gt;Pays", "1,000 requests per minute, burst 2,000, counted but not enforced", "No limit")
	if a.At.Path != "/apikeys/plans/acme/gold" {
		t.Errorf("led to %s", a.At)
	}
	p.submit("/apikeys/plans/new", "name", "gold", "namespace", "acme", "rate_limit_rule",
		"none").want(409, "exists")
	p.submit("/apikeys/plans/new", "name", "free", "namespace", "*", "rate_limit_rule", "none",
		"quota_rule", "limit", "quota.requests", "1", "quota.per", "day").want(200, "Shared",
		"1 unit per day")

	edit := p.get("/apikeys/plans/acme/gold/edit").want(200)
	for name, want := range map[string]string{"rate_limit_rule": "limit", "quota_rule": "none",
		"rate_limit.requests": "1000", "rate_limit.per": "1m", "rate_limit.burst": "2000",
		"rate_limit.shadow": "true", "description": "<b>Pays</b>"} {
		if got, _ := edit.field(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	form := edit.fill("rate_limit.burst", "", "rate_limit.shadow", "-", "quota_rule", "limit",
		"quota.requests", "5000")
	p.post("/apikeys/plans/acme/gold/edit", form...).want(200, "Changes saved",
		"Applied on all servers (1 of 1)", "1,000 requests per minute<", "5,000 units per month")
	p.submit("/apikeys/plans/acme/gold/edit", "rate_limit_rule", "none").want(200)
	stored := s.keys.Policy().Plan(keystore.PlanID{Namespace: "acme", Name: "gold"})
	if stored.Rate != (keystore.RateLimit{}) ||
		stored.Quota != (keystore.Quota{Units: 5000, Per: keystore.Month}) {
		t.Errorf("stored %+v", stored.Limits)
	}

	p.get("/apikeys/plans?q=GOLD").want(200, ">gold<", "5,000 units").lacks(">free<")
	p.get("/apikeys/plans?q=nonesuch").want(200, "No matching plans")
	p.get("/apikeys/plans?namespace=default").want(200, ">free<").lacks(">gold<")
	p.get("/apikeys/audit").want(200, "Plan created", "Plan edited", "/apikeys/plans/acme/gold")
	p.get("/apikeys/namespaces/acme").want(200, "/apikeys/plans/acme/gold")
	p.get("/apikeys/namespaces/acme/delete").want(200, "Cannot be deleted yet", "gold")

	p.submit("/apikeys/namespaces/acme/edit", "default_plan", "gold").want(200, "Changes saved")
	p.get("/apikeys/plans/acme/gold").want(200, "Default plan of namespace")
	p.get("/apikeys/plans/acme/gold/delete").want(200, "Cannot be deleted yet").lacks(`<button class="danger"`)
	p.post("/apikeys/plans/acme/gold/delete").want(409, "in use")
	p.submit("/apikeys/namespaces/acme/edit", "default_plan", "").want(200, "Changes saved")
	p.submit("/apikeys/plans/acme/gold/delete").want(200, "Plan gold deleted")
	p.get("/apikeys/plans/acme/gold").want(404)
}

func TestKeyLimits(t *testing.T) {
	s := open(t)
	plan(t, s, "default", "gold", keystore.Limits{
		Rate:  keystore.RateLimit{Requests: 100, Per: keystore.MinPer, Burst: 100},
		Quota: keystore.Quota{Units: 100_000, Per: keystore.Month}})
	plan(t, s, "*", "free", keystore.Limits{Quota: keystore.Quota{Units: 1, Per: keystore.Hour}})
	p := s.signedIn(t, "Ada", "*=@client-admin")
	p.get("/apikeys/keys/new").want(200, "Default of the namespace<", "From the plan",
		`data-hint="gold: 100 requests per second; 100,000 units per month."`,
		`data-hint="free: 1 unit per hour."`, ">free</option>")
	id, _ := p.createKey("name", "Limited", "plan", "gold", "quota_rule", "unlimited")
	at := "/apikeys/keys/" + id
	stored := func() keystore.KeyLimits { return s.key(t, id).KeyLimits }
	want := keystore.KeyLimits{Plan: "gold",
		Limits: keystore.Limits{Quota: keystore.Quota{Unlimited: true}}}
	if got := stored(); got != want {
		t.Errorf("stored %+v, want %+v", got, want)
	}
	p.get(at).want(200, `<a href="/apikeys/plans/default/gold">gold</a>`,
		`100 requests per second <span class="muted">(from the plan)</span>`,
		`<dd><span class="muted">No limit</span></dd>`)
	p.get("/apikeys/plans/default/gold").want(200, ">Limited<")
	p.get("/apikeys/keys?plan=gold").want(200, "Limited", "Clear filters")
	p.get("/apikeys/keys?plan=free").want(200, "No keys match").lacks("Limited")

	// An edit of something else keeps the limits.
	p.submit(at+"/edit", "name", "Renamed").want(200, "Renamed")
	if got := stored(); got != want {
		t.Errorf("stored %+v, want %+v", got, want)
	}
	p.submit(at+"/edit", "rate_limit_rule", "limit", "rate_limit.requests", "x").want(422,
		`id="f-rate_limit.requests-error"`, "<details class=\"card\" open>")
	p.submit(at+"/edit", "plan", "free", "quota_rule", "none", "rate_limit_rule", "limit",
		"rate_limit.requests", "20", "rate_limit.per", "1h").want(200, "20 requests per hour<",
		`1 unit per hour <span class="muted">(from the plan)</span>`)
	p.submit(at+"/edit", "plan", "", "rate_limit_rule", "none").want(200, "No limit")
	if got := stored(); got != (keystore.KeyLimits{}) {
		t.Errorf("stored %+v", got)
	}
	p.submit("/apikeys/namespaces/default/edit", "default_plan", "gold").want(200)
	p.get(at).want(200, "(default of the namespace)", "100,000 units per month")
	p.get("/apikeys/keys/new").want(200, "Default of the namespace: gold<")

	// A visitor that may not list plans types their names.
	typist := s.signedIn(t, "Typist", "default=admin.keys:create,admin.keys:read,read")
	typist.get("/apikeys/keys/new").want(200, "You may not list the plans")
	typed, _ := typist.createKey("name", "Typed", "access", "read_only", "plan", "free")
	if got := s.key(t, typed).Plan; got != "free" {
		t.Errorf("the plan is %q", got)
	}
	typist.get("/apikeys/keys/"+typed).want(200, "<bdi>free</bdi>").lacks("/plans/")
	typist.submit("/apikeys/keys/new", "name", "x", "access", "read_only", "plan", "gone").want(422,
		`id="f-plan-error"`, "does not exist")
}

// TestNamespaceLimits checks that only visitors that manage the parent are offered the limits of a
// namespace.
func TestNamespaceLimits(t *testing.T) {
	s := open(t)
	namespaces(t, s, keystore.Namespace{ID: "org"}, keystore.Namespace{ID: "acme", Parent: "org"})
	plan(t, s, "acme", "gold", keystore.Limits{})
	plan(t, s, "*", "free", keystore.Limits{})
	above := s.signedIn(t, "Above",
		"org=@client-admin", "acme=@client-admin")
	tenant := s.signedIn(t, "Tenant", "acme=@client-admin")
	options := func(a answer) (list []string) {
		each(a.Doc, func(n *html.Node) {
			if n.Data == "option" && attr(n.Parent, "name") == "default_plan" {
				list = append(list, attr(n, "value"))
			}
		})
		return list
	}
	const at = "/apikeys/namespaces/acme"
	if got := strings.Join(options(above.get(at+"/edit")), ","); got != ",free,gold" {
		t.Errorf("offered plans: %s", got)
	}
	above.submit(at+"/edit", "rate_limit_rule", "limit", "rate_limit.requests", "50",
		"rate_limit.per", "1s", "quota_rule", "limit", "quota.requests", "7", "quota.per", "day",
		"default_plan", "gold").want(200, "50 requests per second", "7 units per day",
		"<bdi>gold</bdi>")
	limits := keystore.Limits{Rate: keystore.RateLimit{Requests: 50, Per: keystore.MinPer, Burst: 50},
		Quota: keystore.Quota{Units: 7, Per: keystore.Day}}
	unchanged := func() {
		t.Helper()
		if ns := s.keys.Policy().Namespace("acme"); ns.Limits != limits || ns.DefaultPlan != "gold" {
			t.Errorf("%+v with the default plan %q", ns.Limits, ns.DefaultPlan)
		}
	}
	unchanged()
	above.submit(at+"/edit", "name", "Acme").want(200, "Changes saved")
	unchanged()
	tenant.get(at).want(200, "50 requests per second")
	tenant.get(at+"/edit").want(200).lacks("rate_limit_rule", `name="default_plan`)
	tenant.submit(at+"/edit", "name", "Mine").want(200, "Changes saved")
	unchanged()
	tenant.post(at+"/edit", "version", "4", "edit_policy", "free", "parent", "org",
		"quota_rule", "none").want(403, "in the namespace&#39;s parent")
	unchanged()
	above.submit(at+"/edit", "quota_rule", "none", "default_plan", "").want(200)
	if ns := s.keys.Policy().Namespace("acme"); ns.Quota != (keystore.Quota{}) ||
		ns.Rate != limits.Rate || ns.DefaultPlan != "" {
		t.Errorf("%+v with the default plan %q", ns.Limits, ns.DefaultPlan)
	}
	above.submit("/apikeys/namespaces/new", "id", "acme-eu", "parent", "acme", "default_plan",
		"free", "quota_rule", "limit", "quota.requests", "1000000", "quota.per",
		"month").want(200, "Namespace acme-eu created")
	if ns := s.keys.Policy().Namespace("acme-eu"); ns.DefaultPlan != "free" ||
		ns.Quota != (keystore.Quota{Units: 1_000_000, Per: keystore.Month}) {
		t.Errorf("%+v with the default plan %q", ns.Limits, ns.DefaultPlan)
	}
}
