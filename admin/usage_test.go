package admin_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/admin"
	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
)

// usageStart is the minute of the first request that addUsage adds.
var usageStart = time.Now().UTC().Truncate(24 * time.Hour).Add(-22*time.Hour - 30*time.Minute)

// addUsage adds requests with a key of the namespace default, at usageStart and an hour later.
func addUsage(t testing.TB, d *testAPI, key string) {
	t.Helper()
	row := func(after time.Duration, o keystore.Outcome, c keystore.UsageCounts) keystore.UsageRow {
		return keystore.UsageRow{Begin: usageStart.Add(after), Key: key, Namespace: "default",
			Owner: "root", Operation: "orders:read", Outcome: o, UsageCounts: c}
	}
	err := d.keys.Database().AddUsage(t.Context(),
		keystore.UsageBatch{Writer: keystore.NewID(), Number: 1, Rows: []keystore.UsageRow{
			row(0, keystore.OK, keystore.UsageCounts{Requests: 12, Units: 24,
				Status: [5]int64{0, 11, 0, 0, 1}, BytesIn: 1000, BytesOut: 20000,
				Latency: [6]int64{9, 2, 0, 0, 0, 1}}),
			row(0, keystore.Limited, keystore.UsageCounts{Requests: 3}),
			row(time.Hour, keystore.Exhausted, keystore.UsageCounts{Requests: 2}),
			row(time.Hour, keystore.Forbidden, keystore.UsageCounts{Requests: 1}),
		}})
	if err != nil {
		t.Fatal(err)
	}
}

// TestUsage checks the answers about usage in each format.
func TestUsage(t *testing.T) {
	d := open(t)
	key := d.mint(t, root, readOnly)
	addUsage(t, d, key.Key.ID)
	const counts = `"allowed":12,"denied":{"limited":3},"units":24,"status":{"2xx":11,"5xx":1},` +
		`"bytes_in":1000,"bytes_out":20000,"latency":{"10ms":9,"50ms":2,"more":1}`
	const none = `"units":0,"status":{},"bytes_in":0,"bytes_out":0,"latency":{}`
	first := usageStart.Truncate(time.Hour)
	at := func(hours int) string {
		return first.Add(time.Duration(hours) * time.Hour).Format(time.RFC3339)
	}
	const head = "start,key,namespace,owner,outcome,operation,allowed,denied,units,bytes_in," +
		"bytes_out,status_1xx,status_2xx,status_3xx,status_4xx,status_5xx,latency_10ms," +
		"latency_50ms,latency_250ms,latency_1s,latency_5s,latency_more,denied_revoked," +
		"denied_expired,denied_inactive,denied_owner_disabled,denied_rotated,denied_address," +
		"denied_early,denied_forbidden,denied_limited,denied_exhausted,denied_unavailable\n"
	span := "from=" + at(0) + "&to=" + at(2)
	ofKey := "/keys/" + key.Key.ID + "/usage?"
	items := []string{`{"start":"` + at(0) + `",` + counts + `}`,
		`{"start":"` + at(1) + `","allowed":0,"denied":{"exhausted":2,"forbidden":1},` + none + `}`}
	const total = `"total":{"allowed":12,"denied":{"exhausted":2,"forbidden":1,"limited":3},` +
		`"units":24,"status":{"2xx":11,"5xx":1},"bytes_in":1000,"bytes_out":20000,` +
		`"latency":{"10ms":9,"50ms":2,"more":1}}`
	empty := `{"start":"` + at(-1) + `","allowed":0,"denied":{},` + none + `}`
	rows := at(0) + ",,,,,,12,3,24,1000,20000,0,11,0,0,1,9,2,0,0,0,1,0,0,0,0,0,0,0,0,3,0,0\n" +
		at(1) + ",,,,,,0,3,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,1,0,2,0\n"
	for _, row := range []struct{ path, accept, want string }{
		{ofKey + span, "", `{"items":[` + strings.Join(items, ",") + `],` + total + `}`},
		{"/usage?" + span, "application/xml", `{"items":[` + strings.Join(items, ",") + `],` +
			total + `}`},
		{ofKey + span, "text/csv", head + rows},
		{ofKey + span, "text/*, application/x-ndjson;q=0.9", head + rows},
		{ofKey + span, "application/x-ndjson", strings.Join(items, "\n") + "\n"},
		{ofKey + "from=" + at(-1) + "&to=" + at(1), "application/x-ndjson", empty + "\n" + items[0] +
			"\n"},
		{"/usage?namespace=nowhere&from=" + at(-1) + "&to=" + at(0), "application/json",
			`{"items":[` + empty + `],"total":{"allowed":0,"denied":{},` + none + `}}`},
		{"/usage?group_by=key&namespace=nowhere&" + span, "",
			`{"items":[],"total":{"allowed":0,"denied":{},` + none + `}}`},
		{"/usage?group_by=key&namespace=nowhere&" + span, "text/csv", head},
		{"/usage?group_by=key&namespace=nowhere&" + span, "application/x-ndjson", ""},
		{"/usage?group_by=key&limit=1&from=" + at(0) + "&to=" + at(1), "application/x-ndjson",
			`{"start":"` + at(0) + `","key":"` + key.Key.ID + `",` + counts + "}\n"},
		{"/usage?group_by=namespace&from=" + at(0) + "&to=" + at(1), "text/csv",
			head + strings.Replace(rows[:strings.Index(rows, "\n")+1], ",,,,,,", ",,default,,,,", 1)},
		{"/usage?group_by=owner&from=" + at(0) + "&to=" + at(1), "application/x-ndjson",
			`{"start":"` + at(0) + `","owner":"root",` + counts + "}\n"},
		{"/usage?group_by=operation&from=" + at(0) + "&to=" + at(1), "application/x-ndjson",
			`{"start":"` + at(0) + `","operation":"orders:read",` + counts + "}\n"},
		{"/usage?group_by=outcome&limit=2&step=month&" + span, "application/x-ndjson",
			`{"start":"` + usageStart.Format("2006-01") + `-01T00:00:00Z","outcome":"ok",` +
				strings.Replace(counts, `"limited":3`, "", 1) + "}\n" +
				`{"start":"` + usageStart.Format("2006-01") + `-01T00:00:00Z","outcome":"limited",` +
				`"allowed":0,"denied":{"limited":3},` + none + "}\n"},
	} {
		a := d.call(t, root, "GET", row.path, nil, "Accept", row.accept)
		got := a.text
		if strings.HasPrefix(got, `{"items"`) { // white space does not matter
			got = compact(t, got)
		}
		if a.status != 200 || got != row.want || a.header.Get("Vary") != "Accept" {
			t.Errorf("%s as %s: %d\n%s\nwant\n%s", row.path, row.accept, a.status, got, row.want)
		}
	}
	a := d.call(t, d.caller(t, key.Token), "GET", "/self/usage?"+span, nil)
	if a.status != 200 || compact(t, a.text) != `{"items":[`+strings.Join(items, ",")+`],`+total+`}` {
		t.Errorf("a key about itself: %d %s", a.status, a.text)
	}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		d.ServeHTTP(w, r.WithContext(admin.WithCaller(r.Context(), root)))
	}))
	defer s.Close()
	resp, err := http.Head(s.URL + api.Prefix + ofKey + span)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != api.JSON {
		t.Errorf("HEAD: %d %v", resp.StatusCode, resp.Header)
	}
	var u api.Usage
	d.call(t, root, "GET", ofKey+"step=month", nil).into(t, 200, &u)
	if len(u.Items) != 12 || u.Total.Allowed != 12 {
		t.Errorf("the default of months: %+v", u)
	}
}

func compact(t *testing.T, text string) string {
	t.Helper()
	var v json.RawMessage
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestUsagePermissions checks who may call the operations. The key store's tests check which keys
// the sums include.
func TestUsagePermissions(t *testing.T) {
	d := open(t)
	key := d.mint(t, root, readOnly)
	addUsage(t, d, key.Key.ID)
	_, viewer := d.member(t, `{"name":"Vi","grants":[{"namespace":"default","roles":["viewer"]}]}`)
	_, nobody := d.member(t, `{"name":"No"}`)
	plain := d.caller(t, key.Token)
	counter := d.caller(t, d.mint(t, root,
		`{"name":"count","permissions":["admin.usage:read"]}`).Token)
	month := "step=month"
	for _, row := range []struct {
		name string
		who  manage.Caller
		path string
		want string // the allowed requests, or the code
	}{
		{"viewer", viewer, "/usage?" + month, "12"},
		{"viewer", viewer, "/keys/" + key.Key.ID + "/usage?" + month, "12"},
		{"a member without grants", nobody, "/usage?" + month, "0"},
		{"a member without grants", nobody, "/keys/" + key.Key.ID + "/usage", "not_found"},
		{"a member without a key", nobody, "/self/usage", "no_key"},
		{"a key without permission", plain, "/usage", "insufficient_permission"},
		{"a key without permission", plain, "/keys/" + key.Key.ID + "/usage",
			"insufficient_permission"},
		{"a key without permission", plain, "/self/usage?" + month, "12"},
		{"a key that may read usage", counter, "/usage?" + month, "12"},
		{"a key that may read usage", counter, "/keys/" + key.Key.ID + "/usage",
			"insufficient_permission"},
		{"nobody", manage.Caller{}, "/usage", "missing_key"},
	} {
		a := d.call(t, row.who, "GET", row.path, nil)
		got := ""
		if a.status == 200 {
			var u api.Usage
			a.into(t, 200, &u)
			got = fmt.Sprint(u.Total.Allowed)
		} else {
			got = a.problem(t).Code
		}
		if got != row.want {
			t.Errorf("%s, %s: %s, want %s", row.name, row.path, got, row.want)
		}
	}
}

// TestUsageMemory checks that the memory of a large answer is counted and returned.
func TestUsageMemory(t *testing.T) {
	d := open(t)
	d.SetMemory(512 << 10)
	end := time.Now().UTC().Truncate(time.Hour)
	large := "/usage?step=minute&from=" + end.Add(-47*time.Hour).Format(time.RFC3339) + "&to=" +
		end.Format(time.RFC3339)
	p := d.call(t, root, "GET", large, nil).problem(t)
	if p.Status != 413 || p.Code != "too_large" {
		t.Errorf("%+v", p)
	}
	d.SetMemory(64 << 20)
	a := d.call(t, root, "GET", large, nil, "Accept", api.NDJSON)
	if n := strings.Count(a.text, "\n"); a.status != 200 || n != 47*60 {
		t.Errorf("%d, %d lines", a.status, n)
	}
	if used, _ := d.Memory(); used != 0 {
		t.Errorf("%d bytes are in use afterwards", used)
	}
}

// TestLastUse checks that a key shows from where it was used last.
func TestLastUse(t *testing.T) {
	d := open(t)
	k := d.mint(t, root, readOnly).Key
	if k.LastUsedAt != nil || k.LastUsedFrom != nil {
		t.Errorf("a new key: %v, %v", k.LastUsedAt, k.LastUsedFrom)
	}
	at := time.Now().UTC().Truncate(time.Microsecond)
	err := d.keys.Database().RecordUse(t.Context(),
		map[string]keystore.LastUse{k.ID: {At: at, From: netip.MustParseAddr("2001:db8::1")}})
	if err != nil {
		t.Fatal(err)
	}
	d.call(t, root, "GET", "/keys/"+k.ID, nil).into(t, 200, &k)
	if k.LastUsedAt == nil || !k.LastUsedAt.Equal(at) || k.LastUsedFrom == nil ||
		*k.LastUsedFrom != "2001:db8::1" || k.DerivedUsedAt != nil || k.DerivedNote != nil {
		t.Errorf("%+v", k)
	}
	for i, note := range []string{"nightly <b>job</b>", ""} {
		at := at.Add(time.Duration(i+1) * time.Second)
		err := d.keys.Database().RecordUse(t.Context(), map[string]keystore.LastUse{
			k.ID: {At: at, Derived: keystore.DerivedUse{At: at, Note: note}}})
		if err != nil {
			t.Fatal(err)
		}
		d.call(t, root, "GET", "/keys/"+k.ID, nil).into(t, 200, &k)
		if k.DerivedUsedAt == nil || !k.DerivedUsedAt.Equal(at) ||
			(k.DerivedNote == nil) != (note == "") || note != "" && *k.DerivedNote != note {
			t.Errorf("with the note %q: %v, %v", note, k.DerivedUsedAt, k.DerivedNote)
		}
	}
}
