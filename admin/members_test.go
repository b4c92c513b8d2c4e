package admin_test

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
)

// TestMember creates, edits, disables and deletes a member and checks the answers.
func TestMember(t *testing.T) {
	d := open(t)
	d.call(t, root, "POST", "/namespaces", `{"id":"acme"}`).into(t, 201, new(api.Namespace))
	var got map[string]any
	a := d.call(t, root, "POST", "/members",
		`{"name":"Ada","grants":[{"namespace":"acme","roles":["developer"]}]}`)
	a.into(t, 201, &got)
	id, _ := got["id"].(string)
	if !strings.HasPrefix(id, "m_") || got["created_at"] == nil {
		t.Errorf("created: %s", a.text)
	}
	delete(got, "id")
	delete(got, "created_at")
	if want := map[string]any{
		"name": "Ada", "kind": "person", "login": nil, "active": true, "created_by": "root",
		"version": 1.0, "labels": map[string]any{},
		"grants": []any{map[string]any{"namespace": "acme", "permissions": []any{},
			"roles": []any{"developer"}, "connected": false}},
	}; !reflect.DeepEqual(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
	path := "/members/" + id
	if a.header.Get("ETag") != `"1"` || a.header.Get("Location") != api.Prefix+path {
		t.Errorf("headers: %v", a.header)
	}

	var first, second api.MemberChanged
	d.call(t, root, "POST", path+"/token", nil, "If-Match", `"1"`).into(t, 200, &first)
	if p := d.call(t, root, "POST", path+"/token", nil, "If-Match",
		`"1"`).problem(t); p.Status != 412 || first.Member.Version != 2 {
		t.Errorf("a second token with the first version: %+v", p)
	}
	d.call(t, root, "POST", path+"/token", `{"expires_at":"2037-01-01T00:00:00Z"}`).into(t, 200,
		&second)
	if !strings.HasPrefix(first.Token, "akm_") || first.Token == second.Token ||
		!second.Propagation.Complete || second.Member.ID != id {
		t.Error("the second token is not a new one")
	}
	// Forbidden: a member token is not valid for the API
	for token, want := range map[string]keystore.Outcome{first.Token: keystore.Revoked,
		second.Token: keystore.Forbidden} {
		answer, err := d.keys.LookupMember(t.Context(), token, time.Now())
		if err != nil || answer.Record == nil {
			t.Fatal(err, answer.Outcome)
		}
		q := keystore.Request{Now: answer.Now, Policy: d.keys.Policy(),
			Namespace: d.keys.Policy().Namespace("default")}
		if got := keystore.Decide(answer.Record, &q); got != want {
			t.Errorf("%v, want %v", got, want)
		}
	}
	for _, path := range []string{path, "/members", "/audit", "/keys"} {
		if a := d.call(t, root, "GET", path, nil); a.status != 200 ||
			strings.Contains(a.text, first.Token) || strings.Contains(a.text, second.Token) {
			t.Errorf("%s: %d, or shows a token", path, a.status)
		}
	}

	var edited api.MemberChanged
	d.call(t, root, "PATCH", path,
		`{"name":"Ada L.","kind":"service","login":"ada",
			"grants":[{"namespace":"*","access":"read_only"}],"active":false}`,
		"If-Match", `"3"`).into(t, 200, &edited)
	if m := edited.Member; m.Name != "Ada L." || m.Kind != "service" || *m.Login != "ada" ||
		m.Active || m.Version != 4 || len(m.Grants) != 1 || m.Grants[0].Namespace != "*" ||
		edited.Token != "" {
		t.Errorf("edited: %+v", m)
	}
	d.call(t, root, "PATCH", path, `{"kind":null,"login":null,"grants":null,"active":null}`).into(t,
		200, &edited)
	if m := edited.Member; m.Kind != "person" || m.Login != nil || !m.Active || len(m.Grants) != 0 {
		t.Errorf("back to the defaults: %+v", m)
	}
	key := d.mint(t, root, `{"name":"CI","access":"read_only","owner":"`+id+`"}`)
	if p := d.call(t, root, "DELETE", path, nil).problem(t); p.Status != 409 || p.Code != "in_use" {
		t.Errorf("with a key: %+v", p)
	}
	d.call(t, root, "PATCH", "/keys/"+key.Key.ID, `{"owner":"root"}`).into(t, 200,
		new(api.KeyChanged))
	d.call(t, root, "DELETE", path, nil).into(t, 200, &edited)
	d.call(t, root, "GET", path, nil).problem(t)
}

// TestMemberCallers checks what members with different permissions may do.
func TestMemberCallers(t *testing.T) {
	d := open(t)
	d.call(t, root, "POST", "/namespaces", `{"id":"acme"}`).into(t, 201, new(api.Namespace))
	callers, ids := map[string]manage.Caller{}, map[string]string{}
	for name, grants := range map[string]string{
		"nobody": `[]`, "viewer": `[{"namespace":"acme","roles":["viewer"]}]`,
		"developer": `[{"namespace":"acme","roles":["developer"]}]`,
		"admin":     `[{"namespace":"*","roles":["client-admin"]}]`,
	} {
		m, c := d.member(t, `{"name":"`+name+`","grants":`+grants+`}`)
		callers[name], ids[name] = c, m.ID
	}
	keyed := d.mint(t, root, `{"name":"key","permissions":["*","admin:*"]}`)
	callers["key"] = d.caller(t, keyed.Token)
	for _, test := range []struct {
		who, method, path, body string
		status                  int
		code, needed            string
	}{
		{"nobody", "GET", "/keys", "", 200, "", ""}, // its own
		{"nobody", "GET", "/members/{nobody}", "", 200, "", ""},
		{"nobody", "GET", "/members/{viewer}", "", 404, "not_found", ""},
		{"nobody", "GET", "/roles", "", 403, "insufficient_permission", "admin.roles:read"},
		{"nobody", "GET", "/namespaces", "", 403, "insufficient_permission",
			"admin.namespaces:read"},
		{"nobody", "GET", "/audit", "", 403, "insufficient_permission", "admin.audit:read"},
		{"nobody", "POST", "/members/{nobody}/token", "", 403, "insufficient_permission",
			"admin.members:update"},
		{"nobody", "GET", "/prefixes", "", 403, "insufficient_permission", "admin.keys:read"},
		{"nobody", "GET", "/permissions", "", 403, "insufficient_permission", "admin.keys:read"},
		{"viewer", "GET", "/permissions", "", 200, "", ""},
		{"viewer", "GET", "/roles/*/viewer", "", 200, "", ""},
		{"viewer", "GET", "/members/{developer}", "", 200, "", ""},
		{"viewer", "GET", "/audit", "", 200, "", ""},
		{"viewer", "GET", "/audit/verify", "", 403, "insufficient_permission", "admin.audit:read"},
		{"viewer", "GET", "/audit/export", "", 403, "insufficient_permission", "admin.audit:read"},
		{"viewer", "POST", "/keys", `{"name":"x","namespace":"acme","access":"read_only"}`, 403,
			"insufficient_permission", "admin.keys:create"},
		{"viewer", "POST", "/roles", `{"namespace":"acme","name":"a","permissions":["read"]}`, 403,
			"insufficient_permission", "admin.roles:create"},
		{"viewer", "POST", "/members", `{"name":"x"}`, 403, "insufficient_permission",
			"admin.members:create"},
		{"viewer", "DELETE", "/namespaces/acme", "", 403, "insufficient_permission",
			"admin.namespaces:delete"},
		{"developer", "POST", "/keys", `{"name":"x","namespace":"acme","access":"read_write"}`, 201,
			"", ""},
		{"developer", "POST", "/keys", `{"name":"x","access":"read_write"}`, 403,
			"insufficient_permission", "admin.keys:create"},
		{"developer", "POST", "/roles", `{"namespace":"acme","name":"a","permissions":["read"]}`,
			201, "", ""},
		{"developer", "POST", "/roles", `{"namespace":"acme","name":"b","permissions":["admin:*"]}`,
			403, "exceeds_caller", ""},
		{"developer", "POST", "/members/{viewer}/token", "", 403, "insufficient_permission",
			"admin.members:update"},
		{"admin", "POST", "/members/{developer}/token", "", 200, "", ""},
		{"admin", "GET", "/audit/verify", "", 200, "", ""},
		{"key", "POST", "/members", `{"name":"x"}`, 403, "insufficient_permission", ""},
		{"key", "POST", "/members/{viewer}/token", "", 403, "insufficient_permission", ""},
		{"viewer", "POST", "/self/revoke", "", 409, "no_key", ""},
	} {
		path := test.path
		for name, id := range ids {
			path = strings.ReplaceAll(path, "{"+name+"}", id)
		}
		var body any
		if test.body != "" {
			body = test.body
		}
		a := d.call(t, callers[test.who], test.method, path, body)
		if a.status != test.status {
			t.Errorf("%s: %s %s: %d, want %d: %s", test.who, test.method, test.path, a.status,
				test.status, a.text)
			continue
		}
		if test.code != "" {
			if p := a.problem(t); p.Code != test.code || p.Needed != test.needed {
				t.Errorf("%s: %s %s: %s, want %s %s", test.who, test.method, test.path, a.text,
					test.code, test.needed)
			}
		}
	}

	var self api.Self
	d.call(t, callers["developer"], "GET", "/self", nil).into(t, 200, &self)
	if *self.Member != ids["developer"] || self.Key == nil || self.Key.Owner != ids["developer"] {
		t.Errorf("self: %+v", self)
	}
	if want := map[string][]string{"acme": {"*", "admin.keys:*", "admin.plans:*", "admin.roles:*",
		"admin:read"}}; !reflect.DeepEqual(self.Permissions, want) {
		t.Errorf("permissions %v, want %v", self.Permissions, want)
	}
	// A key has no permission that its owner lacks.
	bound := d.mint(t, root,
		`{"name":"x","namespace":"acme","permissions":["*","admin.keys:read"],"owner":"`+
			ids["viewer"]+`"}`)
	d.call(t, d.caller(t, bound.Token), "GET", "/self", nil).into(t, 200, &self)
	want := map[string][]string{"acme": {"admin.keys:read"}}
	if !reflect.DeepEqual(self.Permissions, want) {
		t.Errorf("permissions of a key whose owner is a viewer %v, want %v", self.Permissions, want)
	}
}

// TestTransfer transfers the keys of a member to another member over REST.
func TestTransfer(t *testing.T) {
	d := open(t)
	member := func(name string) (m api.Member) {
		t.Helper()
		d.call(t, root, "POST", "/members",
			`{"name":"`+name+`","grants":[{"namespace":"default","permissions":["read"]}]}`).
			into(t, 201, &m)
		return m
	}
	ada, ben := member("Ada"), member("Ben")
	key := d.mint(t, root, `{"name":"CI","access":"read_only","owner":"`+ada.ID+`"}`).Key
	var done api.MemberChanged
	for _, want := range []int{1, 0} {
		d.call(t, root, "POST", "/members/"+ada.ID+"/transfer", `{"to":"`+ben.ID+`"}`).into(t, 200,
			&done)
		if done.Transferred == nil || *done.Transferred != want || done.Member.ID != ada.ID ||
			!done.Propagation.Complete {
			t.Errorf("%+v, want %d keys", done, want)
		}
	}
	d.call(t, root, "GET", "/keys/"+key.ID, nil).into(t, 200, &key)
	if key.Owner != ben.ID {
		t.Errorf("the key belongs to %s", key.Owner)
	}
	for body, field := range map[string]string{`{}`: "to", `{"to":""}`: "to",
		`{"to":"` + ben.ID + `"}`: "to", `{"to":"m_000000000000"}`: "to"} {
		if p := d.call(t, root, "POST", "/members/"+ben.ID+"/transfer", body).problem(t); p.Status !=
			422 || len(p.Errors) != 1 || p.Errors[0].Field != field {
			t.Errorf("%s: %+v", body, p)
		}
	}
}

func TestMemberLabels(t *testing.T) {
	d := open(t)
	var m api.Member
	d.call(t, root, "POST", "/members", `{"name":"Ada","labels":{"team":"erp","":"x"}}`).problem(t)
	d.call(t, root, "POST", "/members", `{"name":"Ada","labels":{"team":"erp","site":"b"}}`).into(t,
		201, &m)
	path := "/members/" + m.ID
	for _, test := range []struct {
		patch string
		want  map[string]string
	}{
		{`{}`, map[string]string{"team": "erp", "site": "b"}},
		{`{"labels":{"team":"web","site":null,"c":""}}`, map[string]string{"team": "web", "c": ""}},
		{`{"name":"Ada L."}`, map[string]string{"team": "web", "c": ""}},
		{`{"labels":null}`, map[string]string{}},
		{`{"labels":{"a":"1"}}`, map[string]string{"a": "1"}},
	} {
		var got api.MemberChanged
		d.call(t, root, "PATCH", path, test.patch).into(t, 200, &got)
		var found api.Member
		d.call(t, root, "GET", path, nil).into(t, 200, &found)
		if !reflect.DeepEqual(got.Member.Labels, test.want) ||
			!reflect.DeepEqual(found.Labels, test.want) {
			t.Errorf("%s: %v and %v, want %v", test.patch, got.Member.Labels, found.Labels,
				test.want)
		}
	}
	for patch, field := range map[string]string{
		`{"labels":{"a":"` + strings.Repeat("x", 4097) + `"}}`:       "labels.a",
		`{"labels":{"a\n":"x"}}`:                                     "labels",
		`{"labels":{"b":"\u0000"}}`:                                  "labels.b",
		`{"labels":{"":"x"}}`:                                        "labels",
		`{"labels":{"a":1}}`:                                         "labels.a",
		`{"labels":["a"]}`:                                           "labels",
		`{"labels":{"a":"` + d.mint(t, root, readOnly).Token + `"}}`: "labels.a",
	} {
		if p := d.call(t, root, "PATCH", path, patch).problem(t); p.Status != 422 ||
			len(p.Errors) == 0 || p.Errors[0].Field != field {
			t.Errorf("%.40s: %+v, want %s", patch, p, field)
		}
	}
	a := d.call(t, root, "GET", "/audit?limit=1&action=member.edit&object="+m.ID, nil)
	if !strings.Contains(a.text, `"labels":{"a":"1"}`) {
		t.Errorf("audit log: %s", a.text)
	}
}
