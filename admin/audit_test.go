package admin_test

import (
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
)

func TestAudit(t *testing.T) {
	d := open(t)
	d.call(t, root, "POST", "/namespaces", `{"id":"acme"}`).into(t, 201, new(api.Namespace))
	key := d.mint(t, root, `{"name":"CI","namespace":"acme","access":"read_only"}`)
	d.call(t, root, "PATCH", "/keys/"+key.Key.ID, `{"name":"b"}`).into(t, 200, new(api.KeyChanged))
	d.call(t, root, "POST", "/members", `{"name":"Ada"}`).into(t, 201, new(api.Member))
	d.mint(t, root, `{"name":"other","access":"read_only"}`)

	list := func(c manage.Caller, query string) (actions []string, rows []api.AuditRow) {
		t.Helper()
		var l api.AuditRows
		d.call(t, c, "GET", "/audit"+query, nil).into(t, 200, &l)
		for _, r := range l.Items {
			actions = append(actions, r.Action)
		}
		return actions, l.Items
	}
	all, rows := list(root, "")
	if want := []string{"key.mint", "member.create", "key.edit", "key.mint",
		"namespace.create"}; !slices.Equal(all, want) {
		t.Fatalf("%v, want %v", all, want)
	}
	edit := rows[2]
	var before, after struct{ Name string }
	if json.Unmarshal(edit.Before, &before) != nil || json.Unmarshal(edit.After, &after) != nil ||
		before.Name != "CI" || after.Name != "b" ||
		edit.Seq != 3 || edit.Actor != "root" || edit.Address != "192.0.2.1" ||
		edit.Object != key.Key.ID || !slices.Equal(edit.Namespaces, []string{"acme"}) ||
		len(edit.Hash) != 64 || time.Since(edit.At).Abs() > time.Minute {
		t.Errorf("%+v", edit)
	}
	var minted struct {
		Grants []struct{ Permissions []string }
	}
	if err := json.Unmarshal(rows[3].After, &minted); err != nil || len(minted.Grants) != 1 ||
		!slices.Equal(minted.Grants[0].Permissions, []string{"read"}) {
		t.Errorf("permissions are not a list as in the API: %s %v", rows[3].After, err)
	}
	if string(rows[4].Before) != "null" {
		t.Errorf("before a creation: %s, want null", rows[4].Before)
	}
	at := func(i int) string { return rows[i].At.Format(time.RFC3339Nano) }
	for query, want := range map[string]int{
		"?actor=root": 5, "?actor=m_1": 0, "?action=key.mint": 2, "?object=" + key.Key.ID: 2,
		"?action=key.mint&object=" + key.Key.ID: 1,
		"?from=" + at(2):                        3, "?to=" + at(2): 2,
		"?from=" + at(3) + "&to=" + at(1): 2, "?limit=3": 3,
	} {
		if got, _ := list(root, query); len(got) != want {
			t.Errorf("%s: %v, want %d", query, got, want)
		}
	}
	_, acme := d.member(t, `{"name":"x","grants":[{"namespace":"acme","roles":["viewer"]}]}`)
	if got, _ := list(acme, "?object="+rows[0].Object); len(got) != 0 {
		t.Errorf("changes in another namespace are visible: %v", got)
	}

	var v api.AuditVerdict
	d.call(t, root, "GET", "/audit/verify", nil).into(t, 200, &v)
	_, newest := list(root, "?limit=1")
	if !v.Intact || v.Rows != newest[0].Seq || v.Last != newest[0].Hash {
		t.Errorf("%+v, want %+v", v, newest[0])
	}
	export := d.call(t, root, "GET", "/audit/export", nil)
	lines := strings.Split(strings.TrimSuffix(export.text, "\n"), "\n")
	if export.status != 200 || export.header.Get("Content-Type") != api.NDJSON ||
		int64(len(lines)) != v.Rows {
		t.Fatalf("%d %v: %s", export.status, export.header, export.text)
	}
	for i, line := range lines {
		var r api.AuditRow
		if err := json.Unmarshal([]byte(line), &r); err != nil || r.Seq != int64(i+1) {
			t.Errorf("line %d: %v: %s", i, err, line)
		}
		if i == 2 && !reflect.DeepEqual(r, edit) {
			t.Errorf("exported %+v, want %+v", r, edit)
		}
	}
}
