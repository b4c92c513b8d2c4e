package command

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/spf13/cobra"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/admin/client"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// limitFlags are the flags of a rate limit and a quota.
type limitFlags struct {
	rate, quota             string
	burst                   int64
	shadowRate, shadowQuota bool
	noRate, noQuota         bool // of edits
}

// register adds the flags. whose names the keys to which the limits apply, in the help texts: "each
// key".
func (f *limitFlags) register(cmd *cobra.Command, whose string) {
	flags := cmd.Flags()
	flags.StringVar(&f.rate, "rate", "",
		"Rate limit of "+whose+", `REQUESTS/DURATION` such as 100/1s, or unlimited")
	flags.Int64Var(&f.burst, "burst", 0,
		"Allow `N` requests at once (default the REQUESTS of --rate)")
	flags.BoolVar(&f.shadowRate, "shadow-rate", false,
		"Only count the requests beyond the rate limit")
	flags.StringVar(&f.quota, "quota", "",
		"Quota of "+whose+", `UNITS/PERIOD` such as 100000/month, or unlimited")
	flags.BoolVar(&f.shadowQuota, "shadow-quota", false,
		"Only count the requests beyond the quota")
}

// registerRemovals adds the flags of edits that remove a limit. instead ends their help texts.
func (f *limitFlags) registerRemovals(cmd *cobra.Command, instead string) {
	cmd.Flags().BoolVar(&f.noRate, "no-rate", false, "Remove the rate limit"+instead)
	cmd.Flags().BoolVar(&f.noQuota, "no-quota", false, "Remove the quota"+instead)
	for _, set := range []string{"rate", "burst", "shadow-rate"} {
		cmd.MarkFlagsMutuallyExclusive(set, "no-rate")
	}
	for _, set := range []string{"quota", "shadow-quota"} {
		cmd.MarkFlagsMutuallyExclusive(set, "no-quota")
	}
}

// read returns the limits that the flags describe, nil for one that they do not set.
func (f *limitFlags) read(cmd *cobra.Command) (*api.RateLimit, *api.Quota, error) {
	rate, err := f.readRate(cmd.Flags().Changed("burst"))
	if err != nil {
		return nil, nil, err
	}
	quota, err := f.readQuota()
	return rate, quota, err
}

const unlimited = "unlimited"

func (f *limitFlags) readRate(burst bool) (*api.RateLimit, error) {
	switch {
	case f.rate == unlimited && (burst || f.shadowRate):
		return nil, errors.New("--rate unlimited excludes --burst and --shadow-rate")
	case f.rate == "" && (burst || f.shadowRate):
		return nil, errors.New("--burst and --shadow-rate require --rate REQUESTS/DURATION, " +
			"such as --rate 100/1s")
	case f.rate == "":
		return nil, nil
	case f.rate == unlimited:
		return &api.RateLimit{Unlimited: true}, nil
	case burst && f.burst < 1:
		return nil, fmt.Errorf("--burst %d must be at least 1", f.burst)
	}
	n, per, err := parseLimit(f.rate)
	duration, err2 := caddy.ParseDuration(per)
	if errors.Join(err, err2) != nil {
		return nil, fmt.Errorf("--rate %q must be REQUESTS/DURATION such as 100/1s, or unlimited",
			f.rate)
	}
	return &api.RateLimit{Requests: n, Per: keystore.RateLimit{Per: duration}.PerText(),
		Burst: f.burst, Shadow: f.shadowRate}, nil
}

func (f *limitFlags) readQuota() (*api.Quota, error) {
	switch {
	case f.quota == unlimited && f.shadowQuota:
		return nil, errors.New("--quota unlimited excludes --shadow-quota")
	case f.quota == "" && f.shadowQuota:
		return nil, errors.New("--shadow-quota requires --quota UNITS/PERIOD, such as --quota " +
			"100000/month")
	case f.quota == "":
		return nil, nil
	case f.quota == unlimited:
		return &api.Quota{Unlimited: true}, nil
	}
	n, per, err := parseLimit(f.quota)
	if err != nil || (keystore.Quota{Units: 1, Per: keystore.Period(per)}).Defect() != "" {
		return nil, fmt.Errorf("--quota %q must be UNITS/hour, UNITS/day or UNITS/month, or "+
			"unlimited", f.quota)
	}
	return &api.Quota{Requests: n, Per: per, Shadow: f.shadowQuota}, nil
}

// parseLimit parses a positive number, and returns the text after the slash.
func parseLimit(word string) (n int64, per string, err error) {
	number, per, _ := strings.Cut(word, "/")
	n, err = strconv.ParseInt(number, 10, 64)
	if err == nil && n < 1 {
		err = strconv.ErrRange
	}
	return n, per, err
}

// patch returns the fields of a patch that the flags set. Without --rate, the flags --burst and
// --shadow-rate change the current rate limit; likewise --shadow-quota.
func (f *limitFlags) patch(cmd *cobra.Command, current currentLimits) (
	rate api.Optional[api.RateLimit], quota api.Optional[api.Quota], err error,
) {
	changed := cmd.Flags().Changed
	editsRate := f.rate == "" && !f.noRate && (changed("burst") || changed("shadow-rate"))
	editsQuota := f.quota == "" && !f.noQuota && changed("shadow-quota")
	if editsRate || editsQuota {
		oldRate, oldQuota, err := current()
		if err != nil {
			return rate, quota, err
		}
		if editsRate {
			if oldRate == nil || oldRate.Unlimited {
				return rate, quota, errors.New("it has no rate limit of its own that --burst and " +
					"--shadow-rate could change: add --rate REQUESTS/DURATION, such as --rate " +
					"100/1s")
			}
			f.rate = fmt.Sprintf("%d/%s", oldRate.Requests, oldRate.Per)
			if !changed("burst") {
				f.burst = oldRate.Burst
			}
			if !changed("shadow-rate") {
				f.shadowRate = oldRate.Shadow
			}
		}
		if editsQuota {
			if oldQuota == nil || oldQuota.Unlimited {
				return rate, quota, errors.New("it has no quota of its own that --shadow-quota " +
					"could change: add --quota UNITS/PERIOD, such as --quota 100000/month")
			}
			f.quota = fmt.Sprintf("%d/%s", oldQuota.Requests, oldQuota.Per)
		}
	}
	newRate, newQuota, err := f.read(cmd)
	return replacing(newRate, f.noRate), replacing(newQuota, f.noQuota), err
}

// replacing returns a field of a patch: value, null if remove is true, or absent if value is nil.
func replacing[T any](value *T, remove bool) api.Optional[T] {
	return api.Optional[T]{Sent: value != nil || remove, Value: value}
}

// rateText returns a rate limit in the syntax of --rate, or none if l is nil.
func rateText(l *api.RateLimit, none string) string {
	switch {
	case l == nil:
		return none
	case l.Unlimited:
		return unlimited
	}
	text := fmt.Sprintf("%d/%s", l.Requests, l.Per)
	if l.Burst != l.Requests {
		text += fmt.Sprintf(", burst %d", l.Burst)
	}
	return text + shadowText(l.Shadow)
}

// quotaText returns a quota in the syntax of --quota, or none if q is nil.
func quotaText(q *api.Quota, none string) string {
	switch {
	case q == nil:
		return none
	case q.Unlimited:
		return unlimited
	}
	return fmt.Sprintf("%d/%s", q.Requests, q.Per) + shadowText(q.Shadow)
}

// unreadableOr returns the text of a limit that is not set: none, or `unreadable` if defect names
// it. defect is the Unreadable of the object, and field the name of the limit in JSON.
func unreadableOr(none, defect, field string) string {
	if strings.Contains(defect, field+":") {
		return "unreadable"
	}
	return none
}

// effectiveLimits returns the rows of the limits that apply to a key. They say if a limit comes
// from a plan or the namespace, as far as the caller may read these.
func effectiveLimits(
	ctx context.Context, server *client.Client, k api.Key,
) (rows [][2]string) {
	add := func(name, value string) { rows = append(rows, [2]string{name, value}) }
	ns, err := server.FindNamespace(ctx, k.Namespace)
	known := err == nil
	name := k.Plan
	if name == nil {
		name = ns.DefaultPlan
	}
	rate, quota := "", "" // those of the plan
	switch {
	case name != nil:
		text := *name
		if k.Plan == nil {
			text += " (default of the namespace)"
		}
		add("Plan", text)
		p, err := server.FindPlan(ctx, k.Namespace, *name)
		if err != nil {
			p, err = server.FindPlan(ctx, client.Shared, *name)
		}
		if rate, quota = "unknown", "unknown"; err == nil {
			rate, quota = planRate(p), planQuota(p)
		}
		from := fmt.Sprintf(" (plan %s)", *name)
		rate, quota = rate+from, quota+from
	case known:
		rate, quota = "none", "none"
	}
	if rate = rateText(k.RateLimit, rate); rate != "" {
		add("Rate limit", rate)
	}
	if quota = quotaText(k.Quota, quota); quota != "" {
		add("Quota", quota)
	}
	const shared = " (shared by all keys of the namespace)"
	if rate = rateText(ns.RateLimit, unreadableOr("", ns.Unreadable, "rate_limit")); rate != "" {
		add("Namespace rate limit", rate+shared)
	}
	if quota = quotaText(ns.Quota, unreadableOr("", ns.Unreadable, "quota")); quota != "" {
		add("Namespace quota", quota+shared)
	}
	return rows
}

func shadowText(shadow bool) string {
	if shadow {
		return ", shadow"
	}
	return ""
}

// limitsText returns a plan and limits in one cell of a table, or none if nothing is set.
func limitsText(plan *string, rate *api.RateLimit, quota *api.Quota, none string) string {
	var parts []string
	if plan != nil {
		parts = append(parts, "plan "+*plan)
	}
	if rate != nil {
		parts = append(parts, "rate "+rateText(rate, ""))
	}
	if quota != nil {
		parts = append(parts, "quota "+quotaText(quota, ""))
	}
	if len(parts) == 0 {
		return none
	}
	return strings.Join(parts, "; ")
}
