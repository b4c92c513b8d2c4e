package sqldb

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// fromLimits returns the values of the columns `rate_limit` and `quota`: JSON, or NULL for a zero
// value.
func fromLimits(l keystore.Limits) (rate, quota any, err error) {
	if l.Rate != (keystore.RateLimit{}) {
		if rate, err = fromJSON(l.Rate); err != nil {
			return nil, nil, err
		}
	}
	if l.Quota != (keystore.Quota{}) {
		quota, err = fromJSON(l.Quota)
	}
	return rate, quota, err
}

// toLimits is the reverse of fromLimits. It reads NULL as the empty string. With an error, it
// returns those limits that can be read.
func toLimits(rate, quota string) (l keystore.Limits, err error) {
	err = errors.Join(toLimit("rate_limit", rate, &l.Rate), toLimit("quota", quota, &l.Quota))
	return l, err
}

// toLimit reads the JSON of a limit. After an error, the limit is zero.
func toLimit[L interface {
	comparable
	Defect() string
}](column, text string, into *L) error {
	if text == "" {
		return nil
	}
	var limit, zero L
	if err := json.Unmarshal([]byte(text), &limit); err != nil {
		return fmt.Errorf("%s: %w", column, err)
	}
	switch reason := limit.Defect(); {
	case reason != "":
		return errors.New(column + ": " + reason)
	case limit == zero:
		return errors.New(column + ": must not be empty: NULL leaves it to the plan")
	}
	*into = limit
	return nil
}
