package keystore

import (
	"encoding/json"
	"testing"
	"time"
)

// TestLimitJSON checks the JSON of limits in both directions.
func TestLimitJSON(t *testing.T) {
	for _, c := range []struct {
		limits Limits
		rate   string
		quota  string
	}{
		{Limits{}, `{}`, `{}`},
		{Limits{RateLimit{Unlimited: true}, Quota{Unlimited: true}}, `{"unlimited":true}`,
			`{"unlimited":true}`},
		{Limits{RateLimit{Requests: 100, Per: time.Second, Burst: 200, Shadow: true},
			Quota{Units: 7, Per: Month, Shadow: true}},
			`{"requests":100,"per":"1s","burst":200,"shadow":true}`,
			`{"requests":7,"per":"month","shadow":true}`},
		{Limits{RateLimit{Requests: 1, Per: 24 * time.Hour, Burst: 1}, Quota{Units: 1, Per: Day}},
			`{"requests":1,"per":"24h","burst":1}`, `{"requests":1,"per":"day"}`},
	} {
		rate, err := json.Marshal(c.limits.Rate)
		if err != nil || string(rate) != c.rate {
			t.Errorf("%+v: %s, %v", c.limits.Rate, rate, err)
		}
		quota, err := json.Marshal(c.limits.Quota)
		if err != nil || string(quota) != c.quota {
			t.Errorf("%+v: %s, %v", c.limits.Quota, quota, err)
		}
		var back Limits
		if err := json.Unmarshal(rate, &back.Rate); err != nil {
			t.Error(err)
		}
		if err := json.Unmarshal(quota, &back.Quota); err != nil {
			t.Error(err)
		}
		if back != c.limits {
			t.Errorf("%+v, want %+v", back, c.limits)
		}
	}
	var l RateLimit
	if err := json.Unmarshal([]byte(`{"requests":5,"per":"1m"}`), &l); err != nil || l.Burst != 5 {
		t.Errorf("the default of burst: %+v, %v", l, err)
	}
	if err := json.Unmarshal([]byte(`{"requests":5,"per":"soon"}`), &l); err == nil {
		t.Error("a duration that cannot be parsed is accepted")
	}
}

func TestPerText(t *testing.T) {
	for _, text := range []string{"1s", "1.5s", "1m", "1m30s", "10m", "10s", "1h", "20h", "1h30m",
		"1h0m1s", "24h"} {
		per, err := time.ParseDuration(text)
		if err != nil {
			t.Fatal(err)
		}
		if got := (RateLimit{Per: per}).PerText(); got != text {
			t.Errorf("%s, want %s", got, text)
		}
	}
}
