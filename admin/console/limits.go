package console

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/dustin/go-humanize"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// The rules of a form for a rate limit or a quota.
const (
	noLimit   = "none" // of a key: the limit of its plan
	unlimited = "unlimited"
	limited   = "limit"
)

// limitRules are the rules for the limits of a plan or a namespace.
var limitRules = []choice{{Value: noLimit, Label: "No limit"}, {Value: limited, Label: "Limit"}}

// keyLimitRules are the rules for the limits of a key.
var keyLimitRules = []choice{{Value: noLimit, Label: "From the plan"},
	{Value: unlimited, Label: "No limit"}, {Value: limited, Label: "Limit"}}

var periods = []choice{{Value: string(keystore.Hour), Label: "Hour"},
	{Value: string(keystore.Day), Label: "Day"}, {Value: string(keystore.Month), Label: "Month"}}

// setLimits fills in the fields of limits, either of which may be nil.
func (f *form) setLimits(rate *api.RateLimit, quota *api.Quota) {
	set := func(field string, values map[string]string, rule string, shadow bool) {
		f.values.Set(field+"_rule", rule)
		for name, value := range values {
			f.values.Set(field+"."+name, value)
		}
		if shadow {
			f.values.Set(field+".shadow", "true")
		}
	}
	switch values := map[string]string{"per": "1s"}; {
	case rate == nil:
		set("rate_limit", values, noLimit, false)
	case rate.Unlimited:
		set("rate_limit", values, unlimited, false)
	default:
		values["requests"], values["per"] = strconv.FormatInt(rate.Requests, 10), rate.Per
		if rate.Burst != rate.Requests {
			values["burst"] = strconv.FormatInt(rate.Burst, 10)
		}
		set("rate_limit", values, limited, rate.Shadow)
	}
	switch values := map[string]string{"per": string(keystore.Month)}; {
	case quota == nil:
		set("quota", values, noLimit, false)
	case quota.Unlimited:
		set("quota", values, unlimited, false)
	default:
		values["requests"], values["per"] = strconv.FormatInt(quota.Requests, 10), quota.Per
		set("quota", values, limited, quota.Shadow)
	}
}

// rule returns the value of a field that must be one of some rules, or the first if the form lacks
// the field. An unknown rule is an error, because any default could permit more.
func (f *form) rule(field string, rules ...string) string {
	if !f.values.Has(field) {
		return rules[0]
	}
	rule := f.Value(field)
	if !slices.Contains(rules, rule) {
		f.wrong(field, "must be "+strings.Join(rules[:len(rules)-1], ", ")+" or "+
			rules[len(rules)-1])
	}
	return rule
}

// rateLimit returns the rate limit of a form, or nil for none or for one with errors.
func (f *form) rateLimit() *api.RateLimit {
	before := len(f.Errors)
	switch f.rule("rate_limit_rule", noLimit, unlimited, limited) {
	case unlimited:
		return &api.RateLimit{Unlimited: true}
	case limited:
		l := &api.RateLimit{Requests: f.number("rate_limit.requests"),
			Per:    strings.TrimSpace(f.Value("rate_limit.per")),
			Shadow: f.Has("rate_limit.shadow", "true")}
		if strings.TrimSpace(f.Value("rate_limit.burst")) != "" {
			l.Burst = f.number("rate_limit.burst")
		}
		if len(f.Errors) > before {
			return nil
		}
		return l
	}
	return nil
}

// quota returns the quota of a form, or nil for none or for one with errors.
func (f *form) quota() *api.Quota {
	switch f.rule("quota_rule", noLimit, unlimited, limited) {
	case unlimited:
		return &api.Quota{Unlimited: true}
	case limited:
		before := len(f.Errors)
		q := &api.Quota{Requests: f.number("quota.requests"), Per: f.Value("quota.per"),
			Shadow: f.Has("quota.shadow", "true")}
		if len(f.Errors) > before {
			return nil
		}
		return q
	}
	return nil
}

// number parses a positive number.
func (f *form) number(name string) int64 {
	n, err := strconv.ParseInt(strings.TrimSpace(f.Value(name)), 10, 64)
	if err != nil || n < 1 {
		f.wrong(name, "must be a whole number of at least 1")
	}
	return n
}

// rateChange returns the field of a patch that changes a rate limit to that of the form. It is
// absent if the form has no rate limit or an equal one: setting limits may require permissions.
func (f *form) rateChange(old *api.RateLimit) (patch api.Optional[api.RateLimit]) {
	l := f.rateLimit()
	same := l == nil && old == nil
	if l != nil && old != nil {
		all := *l
		all.Burst = cmp.Or(all.Burst, all.Requests)
		same = all == *old
	}
	if f.values.Has("rate_limit_rule") && !same {
		patch.Sent, patch.Value = true, l
	}
	return patch
}

// quotaChange is like rateChange, for a quota.
func (f *form) quotaChange(old *api.Quota) (patch api.Optional[api.Quota]) {
	q := f.quota()
	same := q == nil && old == nil || q != nil && old != nil && *q == *old
	if f.values.Has("quota_rule") && !same {
		patch.Sent, patch.Value = true, q
	}
	return patch
}

// planChange returns the field of a patch that changes the name of a plan to that in a field of the
// form, absent as in rateChange.
func (f *form) planChange(field string, old *string) (patch api.Optional[string]) {
	name := strings.TrimSpace(f.Value(field))
	if !f.values.Has(field) || old == nil && name == "" || old != nil && *old == name {
		return patch
	}
	if name == "" {
		return api.Null[string]()
	}
	return api.Some(name)
}

// bounds returns limits without those that are unlimited, which for a plan or a namespace is the
// same as none.
func bounds(rate *api.RateLimit, quota *api.Quota) (*api.RateLimit, *api.Quota) {
	if rate != nil && rate.Unlimited {
		rate = nil
	}
	if quota != nil && quota.Unlimited {
		quota = nil
	}
	return rate, quota
}

// limitsAsShown returns the wire types of limits as they apply: nil for one that has no limit.
func limitsAsShown(l keystore.Limits) (rate *api.RateLimit, quota *api.Quota) {
	if r := l.Rate; r != (keystore.RateLimit{}) {
		rate = &api.RateLimit{Requests: r.Requests, Per: r.PerText(), Burst: r.Burst,
			Shadow: r.Shadow}
	}
	if q := l.Quota; q != (keystore.Quota{}) {
		quota = &api.Quota{Requests: q.Units, Per: string(q.Per), Shadow: q.Shadow}
	}
	return rate, quota
}

// rateWords describes a rate limit, which may be nil.
func rateWords(l *api.RateLimit) string {
	if l == nil || l.Unlimited {
		return "No limit"
	}
	per := durationWords(l.Per)
	if unit, ok := strings.CutPrefix(per, "1 "); ok && !strings.Contains(unit, " ") {
		per = unit
	}
	text := fmt.Sprintf("%s per %s", counted(l.Requests, "request"), per)
	if burst := cmp.Or(l.Burst, l.Requests); burst != l.Requests {
		text += fmt.Sprintf(", burst %s", humanize.Comma(burst))
	}
	return text + shadowWords(l.Shadow)
}

// quotaWords describes a quota, which may be nil.
func quotaWords(q *api.Quota) string {
	if q == nil || q.Unlimited {
		return "No limit"
	}
	return fmt.Sprintf("%s per %s", counted(q.Requests, "unit"), q.Per) + shadowWords(q.Shadow)
}

func shadowWords(shadow bool) string {
	if shadow {
		return ", counted but not enforced"
	}
	return ""
}

func counted(n int64, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return humanize.Comma(n) + " " + noun + "s"
}

// planWords describes the limits of a plan.
func planWords(p api.Plan) string {
	switch rate, quota := rateWords(p.RateLimit), quotaWords(p.Quota); {
	case rate == quota: // neither
		return "no limits"
	case rate == quotaWords(nil):
		return quota
	case quota == quotaWords(nil):
		return rate
	default:
		return rate + "; " + quota
	}
}

// plans returns the plans that the visitor may read.
func (v *visit) plans() []api.Plan {
	if v.readablePlans == nil {
		// fails if the visitor may read none
		v.readablePlans, _ = collect(v.api.AllPlans(v.ctx, ""))
	}
	return v.readablePlans
}

// planChoices returns the plans that keys of a namespace can name, as far as the visitor may know
// them. An empty namespace stands for a new one. none is the label of no plan, and current a plan
// that is always offered.
func (v *visit) planChoices(namespace, none, current string) []choice {
	var list []choice
	for _, p := range v.plans() {
		if p.Namespace == namespace || p.Namespace == keystore.AnyNamespace {
			list = append(list, choice{Value: p.Name, Label: p.Name,
				Hint: p.Name + ": " + planWords(p) + "."})
		}
	}
	slices.SortFunc(list, compareChoices)
	return offer(append([]choice{{Label: none}}, list...), current)
}
