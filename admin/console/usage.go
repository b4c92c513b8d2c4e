package console

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
)

// A timeRange is a time whose usage a page shows. It ends now.
type timeRange struct {
	Value, Label string
	step         keystore.Period // whose default span the range is
}

// ranges are the choices of a page. The second one is the default, and the time of the charts in
// lists.
var ranges = []timeRange{
	{"24h", "24 hours", keystore.Hour}, {"30d", "30 days", keystore.Day},
	{"12m", "12 months", keystore.Month},
}

// chosenRange returns the range of the address. If there is no such range, it answers the request.
func (v *visit) chosenRange() (chosen timeRange, ok bool) {
	value := v.query("range")
	for _, r := range ranges {
		if value == r.Value || value == "" && r == ranges[1] {
			return r, true
		}
	}
	v.refuse(http.StatusUnprocessableEntity, "Invalid time",
		"The range must be 24h, 30d or 12m.")
	return chosen, false
}

// A usagePart is the part of a page that shows usage: the template "usage".
type usagePart struct {
	Range   timeRange
	Ranges  []timeRange
	Problem string // why there is no usage; empty: there is
	Chart   *chart
	Total   manage.UsageTally
}

// notCounted is the problem of usage that is off.
const notCounted = "Usage is off in the configuration: requests are not counted. Only the last " +
	"use of each key is known."

// usageOff reports whether requests are not counted.
func (v *visit) usageOff() bool { return v.keys.Settings().Usage.Off }

// usagePart reads usage. A failure is shown in the part, so that it does not break the page. For
// the quota, see newChart.
func (v *visit) usagePart(
	chosen timeRange, quota *api.Quota, read func(manage.UsageSpan) (*manage.Usage, error),
) *usagePart {
	p := &usagePart{Range: chosen, Ranges: ranges}
	if v.usageOff() {
		p.Problem = notCounted
		return p
	}
	u, err := read(manage.UsageSpan{Step: chosen.step})
	if err != nil {
		p.Problem = v.usageProblem(err)
		return p
	}
	p.Chart = newChart("usage", chosen.step, &u.Series[0], quota)
	p.Total = u.Series[0].Total
	return p
}

// usageProblem describes the failure of a read of usage. It logs a failure of the database.
func (v *visit) usageProblem(err error) string {
	if refusal, ok := errors.AsType[*keystore.Error](err); ok {
		return sentence(refusal.Error())
	}
	if !errors.Is(err, context.Canceled) {
		v.logger.Warn("usage cannot be shown", slog.String("page", v.r.URL.Path),
			slog.Any("error", err))
	}
	return "Usage cannot be read now. Reload the page later."
}

// A quotaUse is how much of a quota has been used in the current period.
type quotaUse struct {
	Quota *api.Quota
	Units int64
	// During is the period: "in 2026-11 (UTC)".
	During string
}

func newQuotaUse(quota *api.Quota, units int64, begin time.Time) quotaUse {
	per := keystore.Period(quota.Per)
	word := map[keystore.Period]string{keystore.Month: "in", keystore.Day: "on"}[per]
	return quotaUse{quota, units, fmt.Sprintf("%s %s (UTC)", cmp.Or(word, "since"),
		begin.Format(layouts[per].full))}
}

// Words describes the use: "80 of 100 units (80 %)".
func (u quotaUse) Words() string {
	return fmt.Sprintf("%s of %s (%d %%)", humanize.Comma(u.Units), counted(u.Quota.Requests, "unit"),
		int64(min(float64(u.Units)/float64(u.Quota.Requests)*100, 1e15)))
}

// High returns the units from which the quota is nearly used up.
func (u quotaUse) High() int64 { return int64(nearShare * float64(u.Quota.Requests)) }

// spent returns how much of its quota a key has spent. It returns nil for a key without a quota.
func (v *visit) spent(id string, quota *api.Quota) (*quotaUse, error) {
	if quota == nil {
		return nil, nil
	}
	per := keystore.Period(quota.Per)
	begin, end := per.Of(v.keys.Now())
	u, err := v.keys.KeyUsage(v.ctx, v.Caller, id,
		manage.UsageSpan{Step: per, From: begin, To: end})
	if err != nil {
		return nil, err
	}
	use := newQuotaUse(quota, u.Total.Units, begin)
	return &use, nil
}

// showsUsage reports whether lists show the visitor the usage of a key with this home and owner: one
// of its own keys, or of a namespace where it has the permission, as in the sums of the overview.
func (v *visit) showsUsage(namespace, owner string) bool {
	return v.owns(owner) || v.mayIn("admin.usage:read", namespace)
}

// sparks returns the charts of the keys of a list by their ids. It reads the usage of all keys at
// once. Keys without requests have none.
func (v *visit) sparks(keys []api.Key) map[string]*spark {
	var list []keystore.Key
	for _, k := range keys {
		if v.showsUsage(k.Namespace, k.Owner) {
			list = append(list, keystore.Key{ID: k.ID, Namespace: k.Namespace, Owner: k.Owner})
		}
	}
	if list == nil || v.usageOff() {
		return nil
	}
	usage, err := v.keys.KeysUsage(v.ctx, v.Caller, list, manage.UsageSpan{Step: ranges[1].step})
	if err != nil {
		v.usageProblem(err) // the list itself is complete
		return nil
	}
	all := make(map[string]*spark)
	for id, u := range usage {
		if u.Total.Requests > 0 {
			all[id] = newSpark(&u, ranges[1].Label)
		}
	}
	return all
}

// bytesWords returns a number of bytes: "1.5 MB".
func bytesWords(n int64) string {
	text := compact(float64(n))
	if digit := text[len(text)-1]; digit >= 'A' {
		return text[:len(text)-1] + " " + text[len(text)-1:] + "B"
	}
	return text + " bytes"
}

// responseWords returns the numbers of responses of the API by class: "1,200 with status 2xx, 3 with
// status 5xx".
func responseWords(t manage.UsageTally) string {
	var classes []string
	for i, n := range t.Status {
		if n > 0 {
			classes = append(classes, fmt.Sprintf("%s with status %dxx", humanize.Comma(n), i+1))
		}
	}
	return cmp.Or(strings.Join(classes, ", "), "None")
}
