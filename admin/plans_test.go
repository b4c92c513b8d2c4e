package admin_test

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
)

func TestPlan(t *testing.T) {
	d := open(t)
	d.call(t, root, "POST", "/namespaces", `{"id":"acme"}`).into(t, 201, new(api.Namespace))
	var plan api.Plan
	a := d.call(t, root, "POST", "/plans",
		`{"namespace":"acme","name":"gold","rate_limit":{"requests":100,"per":"60s","burst":200},
			"quota":{"requests":100000,"per":"month","shadow":true}}`)
	a.into(t, 201, &plan)
	want := api.Plan{Namespace: "acme", Name: "gold",
		RateLimit: &api.RateLimit{Requests: 100, Per: "1m", Burst: 200},
		Quota:     &api.Quota{Requests: 100_000, Per: "month", Shadow: true},
		CreatedAt: plan.CreatedAt, Version: 1}
	if !reflect.DeepEqual(plan, want) || plan.CreatedAt.IsZero() || a.header.Get("ETag") != `"1"` ||
		a.header.Get("Location") != api.Prefix+"/plans/acme/gold" {
		t.Errorf("got %+v, want %+v", plan, want)
	}
	a = d.call(t, root, "GET", "/plans/acme/gold", nil)
	if a.into(t, 200, &plan); !reflect.DeepEqual(plan, want) || a.header.Get("ETag") != `"1"` {
		t.Errorf("read as %s", a.text)
	}
	if a := d.call(t, root, "GET", "/plans/acme/gold", nil, "If-None-Match",
		`"1"`); a.status != 304 {
		t.Errorf("If-None-Match: %d", a.status)
	}
	for _, test := range []struct{ patch, rate, quota, description string }{
		{`{}`, `{"requests":100,"per":"1m","burst":200}`,
			`{"requests":100000,"per":"month","shadow":true}`, ""},
		{`{"namespace":"acme","name":"gold","description":"For resellers"}`,
			`{"requests":100,"per":"1m","burst":200}`,
			`{"requests":100000,"per":"month","shadow":true}`, "For resellers"},
		{`{"rate_limit":{"requests":5,"per":"1h30m0s"}}`,
			`{"requests":5,"per":"1h30m","burst":5}`,
			`{"requests":100000,"per":"month","shadow":true}`, "For resellers"},
		{`{"quota":null,"description":null}`, `{"requests":5,"per":"1h30m","burst":5}`, `null`, ""},
		{`{"rate_limit":{"unlimited":true,"shadow":false}}`, `{"unlimited":true}`, `null`, ""},
		{`{"rate_limit":null,"quota":{"requests":1,"per":"hour"}}`, `null`,
			`{"requests":1,"per":"hour"}`, ""},
	} {
		var done api.PlanChanged
		d.call(t, root, "PATCH", "/plans/acme/gold", test.patch, "If-Match",
			fmt.Sprintf("%q", text(t, plan.Version))).into(t, 200, &done)
		plan = api.Plan{}
		d.call(t, root, "GET", "/plans/acme/gold", nil).into(t, 200, &plan)
		if !done.Propagation.Complete || !reflect.DeepEqual(done.Plan, plan) ||
			text(t, plan.RateLimit) != test.rate || text(t, plan.Quota) != test.quota ||
			plan.Description != test.description {
			t.Errorf("%s: %s", test.patch, text(t, done))
		}
	}
	if a := d.call(t, root, "GET", "/audit?limit=1&action=plan.edit&object=gold&namespace=acme",
		nil); !strings.Contains(a.text, `"rate_limit":{"unlimited":true}`) ||
		!strings.Contains(a.text, `"quota":{"requests":1,"per":"hour"}`) {
		t.Errorf("audit log: %s", a.text)
	}
	var done api.PlanChanged
	d.call(t, root, "DELETE", "/plans/acme/gold", nil).into(t, 200, &done)
	if done.Plan.Name != "gold" || !done.Propagation.Complete {
		t.Errorf("deleted: %+v", done)
	}
	if p := d.call(t, root, "GET", "/plans/acme/gold", nil).problem(t); p.Status != 404 {
		t.Errorf("after deleting: %+v", p)
	}
}

// text returns a value as JSON.
func text(t testing.TB, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestListPlans(t *testing.T) {
	d := open(t)
	d.call(t, root, "POST", "/namespaces", `{"id":"acme"}`).into(t, 201, new(api.Namespace))
	for _, body := range []string{`{"namespace":"*","name":"free"}`,
		`{"namespace":"acme","name":"gold"}`, `{"namespace":"default","name":"gold"}`,
		`{"namespace":"acme","name":"silver"}`} {
		d.call(t, root, "POST", "/plans", body).into(t, 201, new(api.Plan))
	}
	for filter, want := range map[string][]string{
		"":                {"acme/silver", "default/gold", "acme/gold", "*/free"},
		"&namespace=acme": {"acme/silver", "acme/gold"}, "&namespace=*": {"*/free"},
		"&namespace=other": nil,
	} {
		var names []string
		for query := "limit=1" + filter; query != ""; {
			var list api.Plans
			d.call(t, root, "GET", "/plans?"+query, nil).into(t, 200, &list)
			query = ""
			for _, p := range list.Items {
				names = append(names, p.Namespace+"/"+p.Name)
			}
			if list.NextCursor != nil {
				query = "limit=1" + filter + "&cursor=" + *list.NextCursor
			}
		}
		if !slices.Equal(names, want) {
			t.Errorf("%s: %v, want %v", filter, names, want)
		}
	}
	// A member of acme sees the plans there and the shared ones.
	_, ada := d.member(t,
		`{"name":"Ada","grants":[{"namespace":"acme","permissions":["admin.plans:read"]}]}`)
	var list api.Plans
	d.call(t, ada, "GET", "/plans", nil).into(t, 200, &list)
	if len(list.Items) != 3 {
		t.Errorf("a member of acme sees %+v", list.Items)
	}
	for path, status := range map[string]int{"/plans/acme/gold": 200, "/plans/*/free": 200,
		"/plans/default/gold": 404} {
		if a := d.call(t, ada, "GET", path, nil); a.status != status {
			t.Errorf("a member of acme reads %s: %d %s", path, a.status, a.text)
		}
	}
}

// TestKeyLimits checks the limits and the plan of a key in all operations that set or show them.
func TestKeyLimits(t *testing.T) {
	d := open(t)
	d.call(t, root, "POST", "/namespaces", `{"id":"acme"}`).into(t, 201, new(api.Namespace))
	d.call(t, root, "POST", "/plans", `{"namespace":"acme","name":"gold"}`).into(t, 201,
		new(api.Plan))
	d.call(t, root, "POST", "/plans", `{"namespace":"*","name":"free"}`).into(t, 201,
		new(api.Plan))
	key := d.mint(t, root, `{"name":"CI","namespace":"acme","access":"read_only","plan":"gold",
		"rate_limit":{"requests":10,"per":"1000ms"},"quota":{"unlimited":true}}`)
	d.mint(t, root, `{"name":"CI","namespace":"acme","access":"read_only"}`)
	for query, want := range map[string]string{"gold": key.Key.ID, "free": "",
		"gold&home=acme": key.Key.ID, "gold&home=default": ""} {
		var list api.Keys
		d.call(t, root, "GET", "/keys?plan="+query, nil).into(t, 200, &list)
		if len(list.Items) > 1 || want != "" != (len(list.Items) == 1) ||
			want != "" && list.Items[0].ID != want {
			t.Errorf("keys with plan %s: %+v", query, list.Items)
		}
	}
	for plan, want := range map[string]string{
		"acme/gold": `without its namespace: \"gold\"`, "*/free": `without its namespace: \"free\"`,
		"default/gold": "keys cannot have plans of other namespaces"} {
		if p := d.call(t, root, "PATCH", "/keys/"+key.Key.ID, fmt.Sprintf(`{"plan":%q}`, plan)); p.
			status != 422 || !strings.Contains(p.text, want) {
			t.Errorf("plan %s: %d %s", plan, p.status, p.text)
		}
	}
	if p := d.call(t, root, "PATCH", "/keys/"+key.Key.ID, `{"rate_limit":{"requests":100000001,
		"per":"1s"},"quota":{"requests":1000000000000000,"per":"day"}}`); !strings.Contains(p.text,
		"must be 100000000 or less") || !strings.Contains(p.text,
		"must be 999999999999999 or less") {
		t.Errorf("large numbers: %s", p.text)
	}
	const rate, quota = `{"requests":10,"per":"1s","burst":10}`, `{"unlimited":true}`
	path := "/keys/" + key.Key.ID
	for _, test := range []struct{ patch, rate, quota, plan string }{
		{`{"name":"CI"}`, rate, quota, `"gold"`},
		{`{"rate_limit":{"requests":20,"per":"2s","burst":1,"shadow":true}}`,
			`{"requests":20,"per":"2s","burst":1,"shadow":true}`, quota, `"gold"`},
		{`{"rate_limit":null,"plan":"free"}`, `null`, quota, `"free"`},
		{`{"quota":{"requests":7,"per":"day"},"plan":null}`, `null`, `{"requests":7,"per":"day"}`,
			`null`},
		{`{"quota":null}`, `null`, `null`, `null`},
		{`{"rate_limit":{"requests":10,"per":"1s"},"quota":{"unlimited":true},"plan":"gold"}`,
			rate, quota, `"gold"`},
	} {
		var done api.KeyChanged
		d.call(t, root, "PATCH", path, test.patch).into(t, 200, &done)
		var k api.Key
		d.call(t, root, "GET", path, nil).into(t, 200, &k)
		if got := []string{text(t, k.RateLimit), text(t, k.Quota), text(t, k.Plan)}; !slices.Equal(
			got, []string{test.rate, test.quota, test.plan}) ||
			text(t, k) != text(t, done.Key) {
			t.Errorf("%s: %s", test.patch, text(t, done))
		}
	}
	check := func(what, got string) {
		t.Helper()
		for _, field := range []string{`"rate_limit":` + rate, `"quota":` + quota,
			`"plan":"gold"`} {
			if !strings.Contains(got, field) {
				t.Errorf("%s: no %s in %s", what, field, got)
			}
		}
	}
	check("audit", d.call(t, root, "GET", "/audit?limit=1&action=key.edit", nil).text)
	var rotated api.KeyChanged
	a := d.call(t, root, "POST", path+"/rotate", nil)
	a.into(t, 200, &rotated)
	check("rotate", a.text)
	check("list", d.call(t, root, "GET", "/keys", nil).text)
	check("verify", d.call(t, root, "POST", "/verify", api.VerifyRequest{Token: rotated.Token}).text)
	check("self", d.call(t, d.caller(t, rotated.Token), "GET", "/self", nil).text)
	lines := `{"name":"a","namespace":"acme","access":"read_only","token":"credential-1",
		"rate_limit":{"requests":10,"per":"1s"},"quota":{"unlimited":true},"plan":"gold"}`
	var imported api.Imported
	d.call(t, root, "POST", "/keys/import", strings.ReplaceAll(lines, "\n", ""), "Content-Type",
		api.NDJSON).into(t, 201, &imported)
	check("import", d.call(t, root, "GET", "/keys/"+imported.Created[0].ID, nil).text)

	// Keys in any status keep the plan in use.
	d.call(t, root, "PATCH", path, `{"plan":"free"}`).into(t, 200, new(api.KeyChanged))
	d.call(t, root, "POST", "/keys/"+imported.Created[0].ID+"/revoke", nil).into(t, 200,
		new(api.KeyChanged))
	if p := d.call(t, root, "DELETE", "/plans/acme/gold", nil).problem(t); p.Code != "in_use" {
		t.Errorf("the plan of a revoked key: %+v", p)
	}
	d.call(t, root, "DELETE", "/keys/"+imported.Created[0].ID, nil).into(t, 200,
		new(api.KeyChanged))
	d.call(t, root, "DELETE", "/plans/acme/gold", nil).into(t, 200, new(api.PlanChanged))
	if p := d.call(t, root, "DELETE", "/plans/*/free", nil).problem(t); p.Code != "in_use" {
		t.Errorf("a shared plan: %+v", p)
	}
}

func TestNamespaceLimits(t *testing.T) {
	d := open(t)
	d.call(t, root, "POST", "/plans", `{"namespace":"*","name":"free"}`).into(t, 201,
		new(api.Plan))
	var ns api.Namespace
	d.call(t, root, "POST", "/namespaces", `{"id":"acme","rate_limit":{"requests":10,"per":"1s"},
		"quota":{"requests":5,"per":"month"},"default_plan":"free"}`).into(t, 201, &ns)
	const rate, quota = `{"requests":10,"per":"1s","burst":10}`, `{"requests":5,"per":"month"}`
	for _, test := range []struct{ patch, rate, quota, plan string }{
		{`{"name":"Acme"}`, rate, quota, `"free"`},
		{`{"rate_limit":{"unlimited":true},"id":"acme"}`, `{"unlimited":true}`, quota, `"free"`},
		{`{"rate_limit":null,"default_plan":null}`, `null`, quota, `null`},
		{`{"rate_limit":{"requests":10,"per":"1s"},"quota":null,"default_plan":"free"}`, rate,
			`null`, `"free"`},
	} {
		var done api.NamespaceChanged
		d.call(t, root, "PATCH", "/namespaces/acme", test.patch).into(t, 200, &done)
		ns = api.Namespace{}
		d.call(t, root, "GET", "/namespaces/acme", nil).into(t, 200, &ns)
		if got := []string{text(t, ns.RateLimit), text(t, ns.Quota),
			text(t, ns.DefaultPlan)}; !slices.Equal(got,
			[]string{test.rate, test.quota, test.plan}) || text(t, ns) != text(t, done.Namespace) {
			t.Errorf("%s: %s", test.patch, text(t, done))
		}
	}
	if a := d.call(t, root, "GET", "/audit?limit=1&action=namespace.edit", nil); !strings.Contains(
		a.text, `"rate_limit":`+rate) || !strings.Contains(a.text, `"default_plan":"free"`) {
		t.Errorf("audit log: %s", a.text)
	}
	if p := d.call(t, root, "DELETE", "/plans/*/free", nil).problem(t); p.Code != "in_use" ||
		!strings.Contains(p.Detail, "acme") {
		t.Errorf("the default plan: %+v", p)
	}
	d.call(t, root, "POST", "/plans", `{"namespace":"acme","name":"gold"}`).into(t, 201,
		new(api.Plan))
	if p := d.call(t, root, "DELETE", "/namespaces/acme", nil).problem(t); p.Code != "in_use" ||
		!strings.Contains(p.Detail, "gold") {
		t.Errorf("a namespace with a plan: %+v", p)
	}
}
