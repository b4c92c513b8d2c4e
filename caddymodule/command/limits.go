package command

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/spf13/cobra"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// limitFlags are the flags of a rate limit and a quota.
type limitFlags struct {
	rate, quota             string
	burst                   int64
	shadowRate, shadowQuota bool
	noRate, noQuota         bool // of edits
}

// register adds the flags. whose names the keys that the limits apply to, such as "each key".
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
	cmd.MarkFlagsMutuallyExclusive("rate", "no-rate")
	cmd.MarkFlagsMutuallyExclusive("quota", "no-quota")
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
	case (f.rate == "" || f.rate == unlimited) && (burst || f.shadowRate):
		return nil, errors.New("--burst and --shadow-rate require --rate REQUESTS/DURATION, which " +
			"replaces the whole limit")
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
	case (f.quota == "" || f.quota == unlimited) && f.shadowQuota:
		return nil, errors.New("--shadow-quota requires --quota UNITS/PERIOD, which replaces the " +
			"whole quota")
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

// patch returns the fields of a patch that the flags set.
func (f *limitFlags) patch(cmd *cobra.Command) (
	rate api.Optional[api.RateLimit], quota api.Optional[api.Quota], err error,
) {
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
