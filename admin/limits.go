package admin

import (
	"cmp"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
)

// showRate returns the wire type of a rate limit: nil for one that is not set.
func showRate(l keystore.RateLimit) *api.RateLimit {
	if l == (keystore.RateLimit{}) {
		return nil
	}
	return &api.RateLimit{Requests: l.Requests, Per: l.PerText(), Burst: l.Burst,
		Shadow: l.Shadow, Unlimited: l.Unlimited}
}

func showQuota(q keystore.Quota) *api.Quota {
	if q == (keystore.Quota{}) {
		return nil
	}
	return &api.Quota{Requests: q.Units, Per: string(q.Per), Shadow: q.Shadow,
		Unlimited: q.Unlimited}
}

// limits converts the limits of a request, either of which may be nil. The schema has checked each
// number.
func (f *fields) limits(rate *api.RateLimit, quota *api.Quota) keystore.Limits {
	return keystore.Limits{Rate: f.rate(rate), Quota: f.quota(quota)}
}

// limitsPatch converts the limits of a merge patch. null removes a limit. A key then has the limit
// of its plan.
func (f *fields) limitsPatch(
	rate api.Optional[api.RateLimit], quota api.Optional[api.Quota],
) (patch manage.LimitsPatch) {
	if rate.Sent {
		l := f.rate(rate.Value)
		patch.Rate = &l
	}
	if quota.Sent {
		q := f.quota(quota.Value)
		patch.Quota = &q
	}
	return patch
}

func (f *fields) rate(r *api.RateLimit) keystore.RateLimit {
	if r == nil {
		return keystore.RateLimit{}
	}
	if r.Unlimited {
		f.alone("rate_limit.", *r == api.RateLimit{Unlimited: true})
		return keystore.RateLimit{Unlimited: true}
	}
	f.positive("rate_limit.requests", r.Requests)
	l := keystore.RateLimit{Requests: r.Requests, Burst: cmp.Or(r.Burst, r.Requests),
		Shadow: r.Shadow}
	var err error
	if l.Per, err = time.ParseDuration(r.Per); err != nil || l.Per < keystore.MinPer ||
		l.Per > keystore.MaxPer || l.Per%time.Microsecond != 0 {
		f.add("rate_limit.per",
			"must be a duration from 1s to 24h, such as 1m, in whole microseconds")
	}
	return l
}

func (f *fields) quota(q *api.Quota) keystore.Quota {
	if q == nil {
		return keystore.Quota{}
	}
	if q.Unlimited {
		f.alone("quota.", *q == api.Quota{Unlimited: true})
		return keystore.Quota{Unlimited: true}
	}
	f.positive("quota.requests", q.Requests)
	if q.Per == "" {
		f.add("quota.per", "must be hour, day or month")
	}
	return keystore.Quota{Units: q.Requests, Per: keystore.Period(q.Per), Shadow: q.Shadow}
}

// positive checks the requests of a limit, which are zero if they are absent.
func (f *fields) positive(field string, n int64) {
	if n == 0 {
		f.add(field, "is required unless unlimited is true")
	}
}

// alone checks that unlimited is the only member of a limit. in is the prefix of the field name.
func (f *fields) alone(in string, ok bool) {
	if !ok {
		f.add(in+"unlimited", "must be the only member if it is true")
	}
}
