package admin_test

import (
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
)

// TestConditions checks If-Match and If-None-Match, which are lists of strong and weak tags (RFC
// 9110 §13.1). Caddy's `encode` adds the coding to a tag.
func TestConditions(t *testing.T) {
	d := open(t)
	for _, test := range []struct {
		lines []string
		// the status of a change with If-Match, and of a read with If-None-Match
		changed, shown int
	}{
		{[]string{`"1"`}, 200, 304},
		{[]string{`*`}, 200, 304},
		{[]string{` * `}, 200, 304},
		{[]string{`"zzz", "1"`}, 200, 304},
		{[]string{`"zzz","1"`}, 200, 304},
		{[]string{`"zzz"`, `"1"`}, 200, 304},
		{[]string{`"a,b" , , "1"`}, 200, 304},
		{[]string{`"1-gzip"`}, 200, 304},
		{[]string{`"1-zstd", "7"`}, 200, 304},
		{[]string{`W/"7", "1-br"`}, 200, 304},
		{[]string{`W/"1"`}, 412, 304},
		{[]string{`W/"1-gzip"`}, 412, 304},
		{[]string{`"2"`}, 412, 200},
		{[]string{`"2", "3"`}, 412, 200},
		{[]string{`"2-gzip"`}, 412, 200},
		{[]string{`"11"`}, 412, 200},
		{[]string{`"01"`}, 412, 200},
		{[]string{`"+1"`}, 412, 200},
		{[]string{`1`}, 412, 200},
		{[]string{`"1`}, 412, 200},
		{[]string{`w/"1"`}, 412, 200},
		{[]string{`"*"`}, 412, 200},
		{[]string{`"9223372036854775808"`}, 412, 200},
	} {
		t.Run(strings.Join(test.lines, "|"), func(t *testing.T) {
			path := api.Prefix + "/keys/" + d.mint(t, root, readOnly).Key.ID
			r := httptest.NewRequest("GET", path, nil)
			r.Header["If-None-Match"] = test.lines
			if a := d.send(t, root, r); a.status != test.shown || a.header.Get("ETag") != `"1"` ||
				a.status == 304 && a.text != "" {
				t.Errorf("If-None-Match: %d %s", a.status, a.text)
			}
			for _, line := range test.lines {
				r = httptest.NewRequest("PATCH", path, strings.NewReader(`{"name":"b"}`))
				r.Header.Set("Content-Type", api.JSON)
				r.Header.Set("If-None-Match", line)
				if a := d.send(t, root, r); a.status != 412 {
					t.Errorf("a change with If-None-Match: %d %s", a.status, a.text)
				}
			}
			r = httptest.NewRequest("PATCH", path, strings.NewReader(`{"name":"b"}`))
			r.Header.Set("Content-Type", api.JSON)
			r.Header["If-Match"] = test.lines
			if a := d.send(t, root, r); a.status != test.changed {
				t.Errorf("If-Match: %d %s", a.status, a.text)
			}
		})
	}
}
