package admin_test

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/admin"
	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
)

// TestShape checks every field of a minted key.
func TestShape(t *testing.T) {
	d := open(t)
	var got map[string]any
	a := d.call(t, root, "POST", "/keys", `{"name":"CI","access":"read_only"}`)
	a.into(t, http.StatusCreated, &got)
	token, key := got["token"].(string), got["key"].(map[string]any)
	id := key["id"].(string)
	for _, name := range []string{"id", "created_at", "version"} {
		if key[name] == nil {
			t.Errorf("no %s", name)
		}
	}
	createdAt := key["created_at"]
	delete(key, "id")
	delete(key, "created_at")
	var want map[string]any
	if err := json.Unmarshal(fmt.Appendf(nil, `{
		"name":"CI","namespace":"default","prefix":"ak_%s…","access":"read_only",
		"grants":[{"namespace":"default","permissions":["read"],"roles":[],"connected":false}],
		"owner":"root","status":"active","active":true,"owner_disabled":false,
		"created_by":"root","expires_at":null,
		"revoked_at":null,"revoked_by":null,"revoke_reason":null,"last_used_at":null,
		"last_used_from":null,"derived_used_at":null,"derived_note":null,
		"secrets":[{"created_at":%q,"expires_at":null}],"allowed_ips":[],"rate_limit":null,
		"quota":null,"plan":null,"metadata":{},"version":1}`, id[:8], createdAt), &want); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(key, want) {
		t.Errorf("got  %v\nwant %v", key, want)
	}
	if !strings.HasPrefix(token, "ak_"+id) {
		t.Error("the token does not contain the key's id")
	}
	if a.header.Get("Cache-Control") != "no-store" || a.header.Get("ETag") != `"1"` ||
		a.header.Get("Location") != "/apikeys/v1/keys/"+id {
		t.Errorf("headers: %v", a.header)
	}
	for _, path := range []string{"/keys/" + id, "/keys"} {
		if a := d.call(t, root, "GET", path, nil); strings.Contains(a.text, token) ||
			a.status != 200 {
			t.Errorf("%s: %d, or shows the token again", path, a.status)
		}
	}
}

func TestMint(t *testing.T) {
	d := open(t)
	d.call(t, root, "POST", "/namespaces", `{"id":"acme"}`).into(t, 201, new(api.Namespace))
	d.call(t, root, "POST", "/namespaces", `{"id":"acme-eu"}`).into(t, 201, new(api.Namespace))
	got := d.mint(t, root, `{
		"name":"ERP","namespace":"acme","permissions":["orders:read","orders:read"],
		"connected":true,"grants":[{"namespace":"acme-eu","access":"read_write"},
			{"namespace":"*","permissions":["admin.keys:read"]}],
		"expires_at":"2037-01-01T02:00:00+02:00",
		"allowed_ips":["10.1.2.3/8","192.0.2.7","::ffff:198.51.100.0/120","2001:db8::/32"],
		"owner":"root","metadata":{"team":"erp"},"active":false,"rate_limit":null,"quota":null,
		"plan":null,"roles":[],"new_roles":[]}`).Key
	want := api.Key{
		// see TestShape
		ID: got.ID, CreatedAt: got.CreatedAt, Secrets: got.Secrets, Prefix: got.Prefix,
		Name: "ERP", Namespace: "acme", Access: "custom", Owner: "root", CreatedBy: "root",
		Status: "inactive", Version: 1,
		Grants: []api.Grant{
			{Namespace: "acme", Permissions: []string{"orders:read"}, Roles: []string{},
				Connected: true},
			{Namespace: "acme-eu", Permissions: []string{"read", "write"}, Roles: []string{}},
			{Namespace: "*", Permissions: []string{"admin.keys:read"}, Roles: []string{}},
		},
		ExpiresAt:  ptr(time.Date(2037, 1, 1, 0, 0, 0, 0, time.UTC)),
		AllowedIPs: []string{"10.0.0.0/8", "192.0.2.7/32", "198.51.100.0/24", "2001:db8::/32"},
		Metadata:   map[string]string{"team": "erp"},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func ptr[T any](v T) *T { return &v }

func TestIdempotencyKey(t *testing.T) {
	d := open(t)
	var m api.Minted
	d.call(t, root, "POST", "/keys", readOnly, "Idempotency-Key", "once").into(t, 201, &m)
	a := d.call(t, root, "POST", "/keys", readOnly, "Idempotency-Key", "once")
	if p := a.problem(t); p.Status != 409 || p.Code != "already_made" || p.ID != m.Key.ID ||
		strings.Contains(a.text, m.Token) {
		t.Errorf("a repeat: %s", a.text)
	}
	d.call(t, root, "POST", "/keys", readOnly, "Idempotency-Key", "twice").into(t, 201, &m)

	other := d.caller(t, d.mint(t, root,
		`{"name":"other","permissions":["admin.keys:create","read"]}`).Token)
	d.call(t, other, "POST", "/keys", readOnly, "Idempotency-Key", "once").into(t, 201, &m)

	// A person whose groups change between the request and its repeat.
	for _, name := range []string{"ops", "qa"} {
		d.call(t, root, "POST", "/members", `{"kind":"group","name":"x","login":"`+name+`",
			"grants":[{"namespace":"default","permissions":["read","admin.keys:create"]}]}`).into(t,
			201, new(api.Member))
	}
	signIn := func(login string, groups ...string) manage.Caller {
		c, err := d.keys.CallerByLogin(t.Context(), login, groups, "192.0.2.1", time.Now())
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	d.call(t, signIn("eve", "ops"), "POST", "/keys", readOnly, "Idempotency-Key", "once").into(t, 201,
		&m)
	a = d.call(t, signIn("eve", "ops", "qa"), "POST", "/keys", readOnly, "Idempotency-Key", "once")
	if p := a.problem(t); p.Code != "already_made" || p.ID != m.Key.ID {
		t.Errorf("a repeat in another group: %s", a.text)
	}
	d.call(t, signIn("pat", "ops"), "POST", "/keys", readOnly, "Idempotency-Key", "once").into(t, 201,
		&m)
}

// TestEdit applies a sequence of merge patches to one key.
func TestEdit(t *testing.T) {
	d := open(t)
	d.call(t, root, "POST", "/namespaces", `{"id":"acme"}`).into(t, 201, new(api.Namespace))
	key := d.mint(t, root,
		`{"name":"a","access":"read_only","metadata":{"a":"1","b":"2"},
			"allowed_ips":["10.0.0.0/8"],"expires_at":"2037-01-01T00:00:00Z"}`).Key
	home := func(permissions ...string) []api.Grant {
		return []api.Grant{{Namespace: "default", Permissions: permissions, Roles: []string{}}}
	}
	for i, test := range []struct {
		patch string
		want  func(k *api.Key)
	}{
		{`{}`, func(*api.Key) {}},
		{`{"name":"b"}`, func(k *api.Key) { k.Name = "b" }},
		{`{"access":"read_write"}`,
			func(k *api.Key) { k.Access, k.Grants = "read_write", home("read", "write") }},
		{`{"permissions":["orders:read"]}`,
			func(k *api.Key) { k.Access, k.Grants = "custom", home("orders:read") }},
		{`{"access":"custom"}`, func(*api.Key) {}},
		{`{"access":"custom","permissions":["read"]}`,
			func(k *api.Key) { k.Access, k.Grants = "read_only", home("read") }},
		{`{"connected":true}`, func(k *api.Key) { k.Grants[0].Connected = true }},
		{`{"connected":null}`, func(k *api.Key) { k.Grants[0].Connected = false }},
		{`{"grants":[{"namespace":"acme","access":"read_only"}]}`, func(k *api.Key) {
			k.Access, k.Grants = "custom", []api.Grant{{Namespace: "acme",
				Permissions: []string{"read"}, Roles: []string{}}}
		}},
		{`{"permissions":["read"]}`, func(k *api.Key) {
			k.Access, k.Grants = "read_only", append(home("read"), k.Grants...)
		}},
		{`{"metadata":{"a":null,"c":"3"}}`,
			func(k *api.Key) { k.Metadata = map[string]string{"b": "2", "c": "3"} }},
		{`{"metadata":null}`, func(k *api.Key) { k.Metadata = map[string]string{} }},
		{`{"metadata":{"a":null}}`, func(*api.Key) {}},
		{`{"allowed_ips":["192.0.2.1"]}`,
			func(k *api.Key) { k.AllowedIPs = []string{"192.0.2.1/32"} }},
		{`{"allowed_ips":null}`, func(k *api.Key) { k.AllowedIPs = []string{} }},
		{`{"active":false}`, func(k *api.Key) { k.Active, k.Status = false, "inactive" }},
		{`{"active":null}`, func(k *api.Key) { k.Active, k.Status = true, "active" }},
		{`{"expires_at":"2037-01-01T01:00:00+01:00"}`, func(*api.Key) {}},
		{`{"owner":"root","rate_limit":null,"quota":null,"plan":null,"roles":null,"new_roles":null}`,
			func(*api.Key) {}},
	} {
		t.Run(test.patch, func(t *testing.T) {
			contentType := []string{api.JSON, api.MergePatch,
				"application/json; charset=UTF-8"}[i%3]
			var got api.KeyChanged
			a := d.call(t, root, "PATCH", "/keys/"+key.ID, test.patch, "Content-Type", contentType,
				"If-Match", fmt.Sprintf(`"%d"`, key.Version))
			a.into(t, 200, &got)
			test.want(&key)
			key.Version++
			if !reflect.DeepEqual(got.Key, key) {
				t.Errorf("got  %+v\nwant %+v", got.Key, key)
			}
			if a.header.Get("ETag") != fmt.Sprintf(`"%d"`, key.Version) || got.Token != "" ||
				!got.Propagation.Complete {
				t.Errorf("%v %s", a.header, a.text)
			}
		})
	}
}

func TestPropagation(t *testing.T) {
	d := open(t)
	m := d.mint(t, root, readOnly)
	var got struct {
		Propagation map[string]any `json:"propagation"`
	}
	d.call(t, root, "POST", "/keys/"+m.Key.ID+"/revoke?wait=0s", nil).into(t, 200, &got)
	if names := slices.Sorted(maps.Keys(got.Propagation)); !slices.Equal(names,
		[]string{"acknowledged", "complete", "ms", "nodes", "pending", "revision"}) {
		t.Errorf("fields: %v", names)
	}
	if p := got.Propagation; p["complete"] != true || p["nodes"] != 1.0 ||
		p["acknowledged"] != 1.0 || !reflect.DeepEqual(p["pending"], []any{}) {
		t.Errorf("propagation: %v", p)
	}
}

// TestKeyLifecycle rotates, revokes and deletes a key and checks after each step which tokens are
// valid.
func TestKeyLifecycle(t *testing.T) {
	d := open(t)
	m := d.mint(t, root, readOnly)
	path := "/keys/" + m.Key.ID
	is := func(token, outcome string, status int, code any) {
		t.Helper()
		var got map[string]any
		a := d.call(t, root, "POST", "/verify",
			map[string]string{"token": token, "namespace": "default", "permission": "read"})
		a.into(t, 200, &got)
		if got["outcome"] != outcome || got["status"] != float64(status) || got["code"] != code ||
			got["needed"] != "read" {
			t.Errorf("verify: %s, want %s %d %v", a.text, outcome, status, code)
		}
		if strings.Contains(a.text, token) {
			t.Error("the answer repeats the token")
		}
		if known := outcome != "unknown" && outcome != "malformed"; (got["key"] != nil) != known {
			t.Errorf("key shown for %s: %v", outcome, got["key"])
		}
	}
	is(m.Token, "ok", 200, nil)
	is("secret-token:"+m.Token, "ok", 200, nil)
	is("nonsense", "malformed", 401, "invalid_key")
	is(m.Token[:len(m.Token)-1]+"!", "malformed", 401, "invalid_key")

	var second, third api.KeyChanged
	a := d.call(t, root, "POST", path+"/rotate", `{"grace":"1h"}`)
	a.into(t, 200, &second)
	if second.Key.ID != m.Key.ID || second.Token == "" || second.Token == m.Token ||
		len(second.Key.Secrets) != 2 || a.header.Get("Cache-Control") != "no-store" {
		t.Errorf("rotated with grace: %s", a.text)
	}
	is(m.Token, "ok", 200, nil)
	is(second.Token, "ok", 200, nil)
	d.call(t, root, "POST", path+"/rotate", nil).into(t, 200, &third)
	if len(third.Key.Secrets) != 1 {
		t.Errorf("rotated without grace: %+v", third.Key)
	}
	is(m.Token, "rotated", 401, "invalid_key")
	is(second.Token, "rotated", 401, "invalid_key")
	is(third.Token, "ok", 200, nil)

	d.call(t, root, "PATCH", path, `{"active":false}`).into(t, 200, new(api.KeyChanged))
	is(third.Token, "inactive", 401, "key_inactive")

	var revoked, again api.KeyChanged
	d.call(t, root, "POST", path+"/revoke", `{"reason":"left the company"}`).into(t, 200, &revoked)
	k := revoked.Key
	if k.Status != "revoked" || k.Active || k.RevokedAt == nil || k.RevokedBy == nil ||
		*k.RevokedBy != "root" || k.RevokeReason == nil || *k.RevokeReason != "left the company" {
		t.Errorf("revoked: %+v", k)
	}
	d.call(t, root, "POST", path+"/revoke", `{"reason":"again"}`).into(t, 200, &again)
	if !reflect.DeepEqual(again.Key, revoked.Key) {
		t.Errorf("revoking again changed it: %+v", again.Key)
	}
	is(third.Token, "revoked", 401, "key_revoked")

	var list api.Keys
	d.call(t, root, "GET", "/keys?status=revoked", nil).into(t, 200, &list)
	if len(list.Items) != 1 || list.Items[0].ID != k.ID {
		t.Errorf("the revoked key is not listed: %+v", list)
	}
	d.call(t, root, "DELETE", path, nil).into(t, 200, new(api.KeyChanged))
	if a := d.call(t, root, "GET", path, nil); a.status != 404 {
		t.Errorf("deleted: %s", a.text)
	}
	is(third.Token, "unknown", 401, "invalid_key")
}

// TestIfMatch checks that only one of several concurrent changes of the same version succeeds.
func TestIfMatch(t *testing.T) {
	d := open(t)
	path := "/keys/" + d.mint(t, root, readOnly).Key.ID
	statuses := make(chan int)
	for i := range 8 {
		go func() {
			statuses <- d.call(t, root, "PATCH", path, fmt.Sprintf(`{"name":"by %d"}`, i),
				"If-Match", `"1"`).status
		}()
	}
	got := map[int]int{}
	for range 8 {
		got[<-statuses]++
	}
	if got[200] != 1 || got[412] != 7 {
		t.Errorf("statuses %v, want one 200 and seven 412", got)
	}
	d.call(t, root, "PATCH", path, `{"name":"any"}`, "If-Match", "*").into(t, 200,
		new(api.KeyChanged))
}

func TestList(t *testing.T) {
	d := open(t)
	d.call(t, root, "POST", "/namespaces", `{"id":"acme"}`).into(t, 201, new(api.Namespace))
	var all []string                          // newest first
	long := strings.Repeat("\U0001F3FF", 195) // as long as a name can be
	for i := range 7 {
		ns := []string{"default", "acme"}[i%2]
		all = append([]string{d.mint(t, root,
			fmt.Sprintf(`{"name":"key %d%s","namespace":%q,"access":"read_only","active":%t}`, i,
				long, ns, i != 3)).Key.ID}, all...)
	}
	pick := func(at ...int) (ids []string) {
		for _, i := range at {
			ids = append(ids, all[i])
		}
		return ids
	}
	for query, want := range map[string][]string{
		"":                            all,
		"?limit=1000":                 all,
		"?limit=3":                    all,
		"?limit=7":                    all,
		"?limit=1&namespace=acme":     pick(1, 3, 5),
		"?namespace=nowhere":          nil,
		"?status=inactive":            pick(3),
		"?status=expired":             nil,
		"?status=active&limit=2":      pick(0, 1, 2, 4, 5, 6),
		"?owner=root&created_by=root": all,
		"?owner=nobody":               nil,
		"?created_by=nobody":          nil,
		"?role=any":                   nil,
		"?plan=any":                   nil,
		"?q=KEY%204":                  pick(2),
		"?sort=name&limit=1":          pick(6, 5, 4, 3, 2, 1, 0),
		"?sort=-name&limit=2":         all,
		"?q=%25":                      nil,
		"?q=" + all[5]:                pick(5),
	} {
		var got []string
		for cursor := ""; ; {
			path := "/keys" + query
			if cursor != "" {
				path += map[bool]string{true: "?", false: "&"}[query == ""] + "cursor=" + cursor
			}
			var list api.Keys
			d.call(t, root, "GET", path, nil).into(t, 200, &list)
			for _, k := range list.Items {
				got = append(got, k.ID)
			}
			if list.NextCursor == nil {
				break
			}
			cursor = *list.NextCursor
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", query, got, want)
		}
	}
	if a := d.call(t, root, "GET", "/keys?status=expired",
		nil); strings.TrimSpace(a.text) != `{"items":[],"next_cursor":null}` {
		t.Errorf("an empty list: %s", a.text)
	}
}

// TestDisabledOwner checks that a key shows that its owner is disabled, and that lists find it, as
// requests with it are refused.
func TestDisabledOwner(t *testing.T) {
	d := open(t)
	ada, _ := d.member(t, `{"name":"Ada","grants":[{"namespace":"*","permissions":["*"]}]}`)
	ben, _ := d.member(t, `{"name":"Ben","grants":[{"namespace":"*","permissions":["*"]}]}`)
	ids := make(map[string]string)
	for name, fields := range map[string]string{
		"ada's": `"owner":"` + ada.ID + `"`, "ada's inactive": `"active":false,"owner":"` +
			ada.ID + `"`, "ben's": `"owner":"` + ben.ID + `"`, "root's": `"active":true`,
	} {
		ids[name] = d.mint(t, root,
			`{"name":"`+name+`","access":"read_only",`+fields+`}`).Key.ID
	}
	list := func(query string) string {
		t.Helper()
		var found api.Keys
		d.call(t, root, "GET", "/keys?sort=name&status="+query, nil).into(t, 200, &found)
		var names []string
		for _, k := range found.Items {
			name := k.Name
			if k.OwnerDisabled {
				name += " (" + k.Status + ")"
			}
			names = append(names, name)
		}
		return strings.Join(names, ", ")
	}
	if got := list("owner_disabled"); got != "" {
		t.Errorf("before: %s", got)
	}
	d.call(t, root, "PATCH", "/members/"+ada.ID, `{"active":false}`).into(t, 200,
		new(api.MemberChanged))
	for query, want := range map[string]string{
		"owner_disabled":                    "ada's (active)",
		"active":                            "ada's (active), ben's, root's",
		"usable":                            "ben's, root's",
		"usable&owner=" + ada.ID:            "",
		"usable&q=BEN&namespace=default":    "ben's",
		"inactive":                          "ada's inactive (inactive)",
		"owner_disabled&owner=" + ada.ID:    "ada's (active)",
		"owner_disabled&owner=" + ben.ID:    "",
		"owner_disabled&q=ADA":              "ada's (active)",
		"owner_disabled&namespace=default":  "ada's (active)",
		"owner_disabled&namespace=nowhere":  "",
		"owner_disabled&home=default&q=ben": "",
	} {
		if got := list(query); got != want {
			t.Errorf("%s: %q, want %q", query, got, want)
		}
	}
	var shown api.Key
	d.call(t, root, "GET", "/keys/"+ids["ada's"], nil).into(t, 200, &shown)
	if !shown.OwnerDisabled || shown.Status != "active" || !shown.Active {
		t.Errorf("%+v", shown)
	}
	d.call(t, root, "PATCH", "/members/"+ada.ID, `{"active":true}`).into(t, 200,
		new(api.MemberChanged))
	if got := list("owner_disabled"); got != "" {
		t.Errorf("enabled again: %s", got)
	}
}

func TestNamespaces(t *testing.T) {
	d := open(t)
	var got map[string]any
	a := d.call(t, root, "POST", "/namespaces",
		`{"id":"acme","kind":"account","parent":null,"name":"Acme Inc.","edit_policy":"free","reach":[]}`)
	a.into(t, 201, &got)
	createdAt, _ := time.Parse(time.RFC3339, got["created_at"].(string))
	if time.Since(createdAt).Abs() > time.Minute {
		t.Errorf("created_at %v", got["created_at"])
	}
	delete(got, "created_at")
	if want := map[string]any{"id": "acme", "kind": "account", "parent": nil, "name": "Acme Inc.",
		"edit_policy": "free", "reach": []any{}, "key_roles": []any{}, "token_prefix": nil,
		"child_prefix": nil, "rate_limit": nil, "quota": nil, "default_plan": nil,
		"max_lifetime": nil, "idle": nil, "on_leak": "notify",
		"version": 1.0}; !reflect.DeepEqual(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
	if a.header.Get("ETag") != `"1"` || a.header.Get("Location") != "/apikeys/v1/namespaces/acme" {
		t.Errorf("headers: %v", a.header)
	}
	var edited api.NamespaceChanged
	d.call(t, root, "PATCH", "/namespaces/acme",
		`{"id":"acme","kind":"account","parent":null,"name":"Acme","edit_policy":"grow_only","reach":null}`,
		"If-Match", `"1"`).into(t, 200, &edited)
	if n := edited.Namespace; n.Name != "Acme" || n.EditPolicy != "grow_only" || n.Version != 2 ||
		!edited.Propagation.Complete {
		t.Errorf("edited: %+v", edited)
	}
	d.call(t, root, "PATCH", "/namespaces/acme", `{"name":null,"edit_policy":null}`).into(t, 200,
		&edited)
	if n := edited.Namespace; n.Name != "" || n.EditPolicy != "free" {
		t.Errorf("back to the defaults: %+v", n)
	}
	for i := range 4 {
		d.call(t, root, "POST", "/namespaces", fmt.Sprintf(`{"id":"ns~%d"}`, i)).into(t, 201,
			new(api.Namespace))
	}
	var ids []string
	for path := "/namespaces?limit=2"; path != ""; {
		var list api.Namespaces
		d.call(t, root, "GET", path, nil).into(t, 200, &list)
		path = ""
		for _, n := range list.Items {
			ids = append(ids, n.ID)
		}
		if list.NextCursor != nil {
			path = "/namespaces?limit=2&cursor=" + *list.NextCursor
			// The namespace in the cursor may be deleted.
			d.call(t, root, "DELETE", "/namespaces/"+ids[len(ids)-1], nil).into(t, 200, &edited)
		}
	}
	if want := []string{"ns~3", "ns~2", "ns~1", "ns~0", "acme", "default"}; !slices.Equal(ids,
		want) {
		t.Errorf("listed %v, want %v", ids, want)
	}
	d.call(t, root, "GET", "/namespaces/default", nil).into(t, 200, new(api.Namespace))
}

// TestHead checks on a real server that HEAD gets the status and the headers of GET.
func TestHead(t *testing.T) {
	d := open(t)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		d.ServeHTTP(w, r.WithContext(admin.WithCaller(r.Context(), root)))
	}))
	defer server.Close()
	m := d.mint(t, root, readOnly)
	for _, path := range []string{"/keys", "/keys/" + m.Key.ID, "/namespaces", "/self", "/health",
		"/docs", "/openapi.json", "/keys/aaaaaaaaaaaa", "/nothing"} {
		head, err := http.Head(server.URL + api.Prefix + path)
		if err != nil {
			t.Fatal(err)
		}
		head.Body.Close()
		get, err := http.Get(server.URL + api.Prefix + path)
		if err != nil {
			t.Fatal(err)
		}
		get.Body.Close()
		if head.StatusCode != get.StatusCode ||
			head.Header.Get("Content-Type") != get.Header.Get("Content-Type") ||
			head.Header.Get("ETag") != get.Header.Get("ETag") {
			t.Errorf("HEAD %s: %d %v, GET: %d %v", path, head.StatusCode, head.Header,
				get.StatusCode, get.Header)
		}
	}
}

// TestActiveAgreesWithStatus checks that active is false for every key that is refused.
func TestActiveAgreesWithStatus(t *testing.T) {
	d := open(t)
	soon := time.Now().Add(2 * time.Second) // minting takes time on a busy machine
	k := d.mint(t, root, `{"name":"CI","access":"read_only","expires_at":"`+
		soon.UTC().Format(time.RFC3339Nano)+`"}`).Key
	time.Sleep(time.Until(soon)) // the event is the time itself
	for deadline := time.Now().Add(time.Minute); k.Status != "expired"; {
		if k.Active != (k.Status == "active") {
			t.Fatalf("%s, and active is %v", k.Status, k.Active)
		}
		if time.Now().After(deadline) {
			t.Fatal("the key never expires")
		}
		d.call(t, root, "GET", "/keys/"+k.ID, nil).into(t, 200, &k)
	}
	if k.Active {
		t.Error("an expired key is shown as active")
	}
	k = d.mint(t, root, `{"name":"CI","access":"read_only"}`).Key
	var done api.KeyChanged
	d.call(t, root, "POST", "/keys/"+k.ID+"/revoke", nil).into(t, 200, &done)
	if done.Key.Active || !k.Active {
		t.Errorf("active is %v before and %v after a revoke", k.Active, done.Key.Active)
	}
	var rows api.AuditRows
	d.call(t, root, "GET", "/audit?action=key.revoke", nil).into(t, 200, &rows)
	var after struct{ Active bool }
	if err := json.Unmarshal(rows.Items[0].After, &after); err != nil || after.Active {
		t.Errorf("the audit log calls a revoked key active: %s %v", rows.Items[0].After, err)
	}
}

// TestListByNamespace checks that namespace finds keys with a grant there as well, that home finds
// keys with that home namespace, and that a slash at the end of the path is ignored.
func TestListByNamespace(t *testing.T) {
	d := open(t)
	for _, id := range []string{"acme", "eu"} {
		d.call(t, root, "POST", "/namespaces", `{"id":"`+id+`"}`).into(t, 201, new(api.Namespace))
	}
	d.mint(t, root, `{"name":"home","namespace":"eu","access":"read_only"}`)
	d.mint(t, root,
		`{"name":"both","namespace":"eu","access":"read_only",
			"grants":[{"namespace":"acme","access":"read_only"}]}`)
	d.mint(t, root,
		`{"name":"granted","namespace":"acme","access":"read_only",
			"grants":[{"namespace":"eu","access":"read_only"}]}`)
	d.mint(t, root,
		`{"name":"everywhere","namespace":"acme","grants":[{"namespace":"*","access":"read_only"}]}`)
	for query, want := range map[string]string{
		"?namespace=eu": "granted both home", "?home=eu": "both home",
		"?namespace=acme": "everywhere granted both", "?namespace=acme&home=eu": "both",
		"?namespace=eu&sort=name": "both granted home", "?namespace=eu&q=gran": "granted",
		"/?home=eu": "both home", "?namespace=eu&limit=1": "granted",
	} {
		var list api.Keys
		d.call(t, root, "GET", "/keys"+query, nil).into(t, 200, &list)
		var got []string
		for _, k := range list.Items {
			got = append(got, k.Name)
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s: %v, want %s", query, got, want)
		}
	}
}

// TestVerifyPath checks that the ruling of a handler decides first, then the key, and that the
// first of several handlers that refuses decides.
func TestVerifyPath(t *testing.T) {
	d := open(t)
	d.call(t, root, "POST", "/namespaces", `{"id":"acme"}`).into(t, 201, new(api.Namespace))
	reader := d.mint(t, root,
		`{"name":"reader","permissions":["read"],"allowed_ips":["10.0.0.0/8"]}`).Token
	read := keystore.Need{Class: keystore.Read}
	write := keystore.Need{Class: keystore.Write, Resource: "orders"}
	var asked admin.Request
	for name, test := range map[string]struct {
		rulings  []admin.Ruling
		fields   string
		outcome  string
		status   int
		needed   string
		in       string
		showsKey bool
	}{
		"allowed": {[]admin.Ruling{{Need: read}}, ``, "ok", 200, "read", "default", true},
		"another address": {[]admin.Ruling{{Need: read}}, `,"client_ip":"192.0.2.1"`, "address",
			403, "read", "default", true},
		"missing permission": {[]admin.Ruling{{Need: write}}, ``, "forbidden", 403, "orders:write",
			"default", true},
		"another namespace": {[]admin.Ruling{{Namespace: "acme", Need: read}}, ``, "forbidden", 403,
			"read", "acme", true},
		"nonexistent namespace": {[]admin.Ruling{{Namespace: "gone", Need: read}}, ``, "forbidden", 403,
			"read", "gone", true},
		"token as namespace": {[]admin.Ruling{{Namespace: reader, Need: read}}, ``, "forbidden", 403,
			"read", "", true},
		"undeclared": {[]admin.Ruling{{Need: keystore.Need{Class: keystore.Read,
			Undeclared: true}}}, ``, "forbidden", 403, "", "default", true},
		"bad target": {[]admin.Ruling{{Outcome: keystore.BadTarget}}, ``, "bad_target", 400, "", "",
			false},
		"method": {[]admin.Ruling{{Outcome: keystore.Method}}, ``, "method", 405, "", "", false},
		"public": {[]admin.Ruling{{Outcome: keystore.Public, Namespace: "default"}}, ``, "public",
			200, "", "", false},
		"public, then refused": {[]admin.Ruling{{Outcome: keystore.Public}, {Need: write},
			{Need: read}},
			``, "forbidden", 403, "orders:write", "default", true},
	} {
		t.Run(name, func(t *testing.T) {
			d.RuleBy(func(q admin.Request) ([]admin.Ruling, error) {
				asked = q
				return test.rulings, nil
			})
			a := d.call(t, root, "POST", "/verify",
				`{"token":"`+reader+`","path":"/x?y=1","host":"a.test"`+test.fields+`}`)
			var v api.Verdict
			a.into(t, 200, &v)
			needed := ""
			if v.Needed != nil {
				needed = *v.Needed
			}
			if v.Outcome != test.outcome || v.Status != test.status || needed != test.needed ||
				v.Namespace != test.in || (v.Key != nil) != test.showsKey {
				t.Errorf("%s %d, needed %q in %q, key %v", v.Outcome, v.Status, needed, v.Namespace,
					v.Key != nil)
			}
			if asked.Method != "GET" || asked.Target != "/x?y=1" || asked.Host != "a.test" ||
				asked.Token != reader {
				t.Errorf("the handlers were asked about %s %s on %s", asked.Method, asked.Target,
					asked.Host)
			}
		})
	}
	for _, test := range []struct{ fields, wrong string }{
		{`"path":"/x","permission":"read"`, "permission"},
		{`"path":"/x","namespace":"acme"`, "namespace"},
		{`"method":"GET"`, "method"},
		{`"host":"a.test"`, "host"},
		{`"method":"GET","permission":"read"`, "method"},
		{`"path":""`, "path"},
	} {
		p := d.call(t, root, "POST", "/verify", `{"token":"x",`+test.fields+`}`).problem(t)
		if p.Status != 422 || len(p.Errors) == 0 || p.Errors[0].Field != test.wrong {
			t.Errorf("%s: %+v", test.fields, p)
		}
	}
	bare := &testAPI{API: admin.New(d.keys, slog.New(slog.DiscardHandler)), keys: d.keys}
	if p := bare.call(t, root, "POST", "/verify",
		`{"token":"x","path":"/"}`).problem(t); p.Status != 503 {
		t.Errorf("before RuleBy: %+v", p)
	}
	nobody := d.mint(t, root, `{"name":"nobody","permissions":["read"]}`).Token
	if p := d.call(t, d.caller(t, nobody), "POST", "/verify",
		`{"token":"x","path":"/"}`).problem(t); p.Status != 403 || p.Needed != "admin.keys:read" {
		t.Errorf("without admin.keys:read: %+v", p)
	}
}

// TestVerifyPermissionAndAddress checks that a permission is required only if one or a namespace is
// given, and that the address is checked only if it is given.
func TestVerifyPermissionAndAddress(t *testing.T) {
	d := open(t)
	token := d.mint(t, root,
		`{"name":"writer","permissions":["write"],"allowed_ips":["10.0.0.0/8","2001:db8::/32"]}`).Token
	for _, test := range []struct{ fields, outcome, needed string }{
		{``, "ok", ""},
		{`,"namespace":"default"`, "forbidden", "read"},
		{`,"permission":"read"`, "forbidden", "read"},
		{`,"permission":"write"`, "ok", "write"},
		{`,"client_ip":"10.1.2.3"`, "ok", ""},
		{`,"client_ip":"::ffff:10.1.2.3"`, "ok", ""},
		{`,"client_ip":"192.0.2.1"`, "address", ""},
		{`,"permission":"write","client_ip":"2001:db8::1"`, "ok", "write"},
	} {
		var v api.Verdict
		d.call(t, root, "POST", "/verify", `{"token":"`+token+`"`+test.fields+`}`).into(t, 200, &v)
		needed := ""
		if v.Needed != nil {
			needed = *v.Needed
		}
		if v.Outcome != test.outcome || needed != test.needed {
			t.Errorf("%s: %s, needed %q", test.fields, v.Outcome, needed)
		}
	}
	for _, wrong := range []string{"", "10.0.0.0/8", "localhost"} {
		if p := d.call(t, root, "POST", "/verify",
			`{"token":"`+token+`","client_ip":"`+wrong+`"}`).problem(t); p.Status != 422 {
			t.Errorf("%q: %+v", wrong, p)
		}
	}
}

func TestListByMetadata(t *testing.T) {
	d := open(t)
	erp := d.mint(t, root,
		`{"name":"a","access":"read_only","metadata":{"team":"erp","site":"a=b"}}`).Key.ID
	d.mint(t, root, `{"name":"b","access":"read_only","metadata":{"team":"ERP","site":""}}`)
	for query, want := range map[string]string{
		"?metadata=team=erp":                          "a",
		"?metadata=team%3Derp&status=active&limit=1":  "a",
		"?metadata=team=erp&q=no%20such":              "",
		"?metadata=site=a=b&sort=name":                "a",
		"?metadata=site=":                             "b",
		"?metadata=team=er":                           "",
		"?metadata=name=a":                            "",
		"?metadata=team=erp&namespace=default&home=x": "",
	} {
		var list api.Keys
		d.call(t, root, "GET", "/keys"+query, nil).into(t, 200, &list)
		got := ""
		for _, k := range list.Items {
			got += k.Name
		}
		if got != want {
			t.Errorf("%s: %q, want %q", query, got, want)
		}
	}
	for _, query := range []string{"?metadata=", "?metadata=team", "?metadata==erp",
		"?metadata=a=b&metadata=c=d", "?metadata=a=%00"} {
		if p := d.call(t, root, "GET", "/keys"+query, nil).problem(t); p.Status != 422 ||
			len(p.Errors) == 0 || p.Errors[0].Field != "metadata" {
			t.Errorf("%s: %+v", query, p)
		}
	}
	if p := d.call(t, root, "PATCH", "/keys/"+erp,
		`{"metadata":{"a\u0000":"b"}}`).problem(t); p.Status != 422 ||
		p.Errors[0].Field != "metadata" {
		t.Errorf("a name with a zero byte: %+v", p)
	}
}
