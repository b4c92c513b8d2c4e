package sqldb

import (
	"encoding/json"
	"errors"
	"strings"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// A rateJSON is a rate limit in a column `rate_limit`.
type rateJSON struct {
	Requests  int64  `json:"requests,omitempty"`
	Per       string `json:"per,omitempty"`
	Burst     int64  `json:"burst,omitempty"` // 0: as many as Requests
	Shadow    bool   `json:"shadow,omitempty"`
	Unlimited bool   `json:"unlimited,omitempty"`
}

// A quotaJSON is a quota in a column `quota`.
type quotaJSON struct {
	Requests  int64           `json:"requests,omitempty"`
	Per       keystore.Period `json:"per,omitempty"`
	Shadow    bool            `json:"shadow,omitempty"`
	Unlimited bool            `json:"unlimited,omitempty"`
}

// fromLimits returns the values of the columns `rate_limit` and `quota`: JSON, or NULL for a zero
// value.
func fromLimits(l keystore.Limits) (rate, quota any, err error) {
	if r := l.Rate; r != (keystore.RateLimit{}) {
		row := rateJSON{r.Requests, "", r.Burst, r.Shadow, r.Unlimited}
		if r.Per != 0 {
			row.Per = shortest(r.Per)
		}
		if rate, err = fromJSON(row); err != nil {
			return nil, nil, err
		}
	}
	if q := l.Quota; q != (keystore.Quota{}) {
		quota, err = fromJSON(quotaJSON{q.Units, q.Per, q.Shadow, q.Unlimited})
	}
	return rate, quota, err
}

// shortest returns the shortest text of a duration: 1h instead of 1h0m0s.
func shortest(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// toLimits is the reverse of fromLimits. It reads NULL as the empty string. With an error, it
// returns those limits that can be read.
func toLimits(rate, quota string) (keystore.Limits, error) {
	r, rateErr := toRate(rate)
	q, quotaErr := toQuota(quota)
	return keystore.Limits{Rate: r, Quota: q}, errors.Join(rateErr, quotaErr)
}

func toRate(text string) (l keystore.RateLimit, err error) {
	if text == "" {
		return l, nil
	}
	var row rateJSON
	if err = json.Unmarshal([]byte(text), &row); err == nil && row.Per != "" {
		l.Per, err = time.ParseDuration(row.Per)
	}
	if err != nil {
		return keystore.RateLimit{}, defect("rate_limit", err.Error())
	}
	l.Requests, l.Burst, l.Shadow, l.Unlimited = row.Requests, row.Burst, row.Shadow, row.Unlimited
	if l.Burst == 0 {
		l.Burst = l.Requests
	}
	if reason := l.Defect(); reason != "" || l == (keystore.RateLimit{}) {
		return keystore.RateLimit{}, defect("rate_limit", reason)
	}
	return l, nil
}

func toQuota(text string) (q keystore.Quota, err error) {
	if text == "" {
		return q, nil
	}
	var row quotaJSON
	if err := json.Unmarshal([]byte(text), &row); err != nil {
		return q, defect("quota", err.Error())
	}
	q = keystore.Quota{Units: row.Requests, Per: row.Per, Shadow: row.Shadow,
		Unlimited: row.Unlimited}
	if reason := q.Defect(); reason != "" || q == (keystore.Quota{}) {
		return keystore.Quota{}, defect("quota", reason)
	}
	return q, nil
}

func defect(column, reason string) error {
	if reason == "" {
		reason = "must not be empty: NULL leaves it to the plan"
	}
	return errors.New(column + ": " + reason)
}
