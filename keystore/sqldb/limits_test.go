package sqldb

import (
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// TestLimitTexts: the columns contain the same form of a limit each time, and other forms can be
// read.
func TestLimitTexts(t *testing.T) {
	rate := func(requests int64, per time.Duration, burst int64) keystore.Limits {
		return keystore.Limits{Rate: keystore.RateLimit{Requests: requests, Per: per, Burst: burst}}
	}
	quota := func(units int64, per keystore.Period) keystore.Limits {
		return keystore.Limits{Quota: keystore.Quota{Units: units, Per: per}}
	}
	shadow := quota(7, keystore.Hour)
	shadow.Quota.Shadow = true
	for _, row := range []struct {
		limits      keystore.Limits
		rate, quota string
		same        [2]string // other texts of the same limits
	}{
		{keystore.Limits{}, "", "", [2]string{}},
		{rate(100, time.Second, 200), `{"requests":100,"per":"1s","burst":200}`, "",
			[2]string{`{"burst":200,"per":"1000ms","requests":100,"unlimited":false}`}},
		{rate(5, time.Minute, 5), `{"requests":5,"per":"1m","burst":5}`, "",
			[2]string{` { "requests": 5, "per": "60s", "of_a_later_release": 1 } `}},
		{rate(5, 90*time.Minute, 1), `{"requests":5,"per":"1h30m","burst":1}`, "",
			[2]string{`{"requests":5,"per":"1h30m0s","burst":1}`}},
		{rate(5, time.Hour+10*time.Second, 1), `{"requests":5,"per":"1h0m10s","burst":1}`, "",
			[2]string{`{"requests":5,"per":"1h10s","burst":1}`}},
		{rate(1, 24*time.Hour, 1), `{"requests":1,"per":"24h","burst":1}`, "",
			[2]string{`{"requests":1,"per":"1440m"}`}},
		{rate(1, 20*time.Minute, 1), `{"requests":1,"per":"20m","burst":1}`, "",
			[2]string{`{"requests":1,"per":"1200s"}`}},
		{rate(1, 10*time.Hour, 1), `{"requests":1,"per":"10h","burst":1}`, "",
			[2]string{`{"requests":1,"per":"10h0m"}`}},
		{rate(1, time.Second+time.Microsecond, 1),
			`{"requests":1,"per":"1.000001s","burst":1}`, "",
			[2]string{`{"requests":1,"per":"1000.001ms"}`}},
		{quota(keystore.MaxQuota, keystore.Month), "",
			`{"requests":999999999999999,"per":"month"}`,
			[2]string{"", `{"per":"month","requests":999999999999999,"shadow":false}`}},
		{shadow, "", `{"requests":7,"per":"hour","shadow":true}`,
			[2]string{"", `{"requests":7,"per":"hour","shadow":true}`}},
		{keystore.Limits{Rate: keystore.RateLimit{Unlimited: true},
			Quota: keystore.Quota{Unlimited: true}}, `{"unlimited":true}`, `{"unlimited":true}`,
			[2]string{`{"unlimited":true,"shadow":false}`, `{"unlimited":true,"requests":0}`}},
	} {
		columns := [2]string{}
		rate, quota, err := fromLimits(row.limits)
		if err != nil {
			t.Fatal(err)
		}
		for i, column := range []any{rate, quota} {
			if err := (textTo{&columns[i]}).Scan(column); err != nil {
				t.Fatal(err)
			}
		}
		if columns != [2]string{row.rate, row.quota} {
			t.Errorf("%+v is stored as %q", row.limits, columns)
		}
		for _, texts := range [][2]string{columns, row.same} {
			if got, err := toLimits(texts[0], texts[1]); got != row.limits || err != nil {
				t.Errorf("%q is read as %+v, %v, want %+v", texts, got, err, row.limits)
			}
		}
	}
	for _, text := range []string{
		`{}`, `[1]`, `5`, `null`, `{"requests":"5","per":"1s"}`, `{"requests":5}`,
		`{"requests":5,"per":"second"}`, `{"requests":5,"per":"1ms"}`,
		`{"requests":5,"per":"25h"}`, `{"requests":5,"per":"1.0000001s"}`,
		`{"requests":0,"per":"1s"}`, `{"requests":5,"per":"1s","burst":-1}`,
		`{"requests":200000000,"per":"1s"}`, `{"requests":5,"per":"1s","unlimited":true}`,
		`{"unlimited":false}`, `{"shadow":true}`, `{"requests":5,"per":"day"}`, `{`,
	} {
		if got, err := toLimits(text, ""); err == nil || got != (keystore.Limits{}) {
			t.Errorf("the rate limit %s is read as %+v", text, got)
		}
	}
	for _, text := range []string{
		`{}`, `[1]`, `null`, `{"requests":5,"per":"week"}`, `{"requests":5,"per":"1h"}`,
		`{"requests":-5,"per":"day"}`, `{"requests":5.5,"per":"day"}`, `{"per":"day"}`,
		`{"requests":1000000000000001,"per":"day"}`, `{"unlimited":true,"shadow":true}`,
		`{"shadow":true}`, `{`,
	} {
		if got, err := toLimits("", text); err == nil || got != (keystore.Limits{}) {
			t.Errorf("the quota %s is read as %+v", text, got)
		}
	}
}
