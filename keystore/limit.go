package keystore

import (
	"cmp"
	"fmt"
	"slices"
	"time"
	"unique"
)

// A RateLimit bounds the number of admitted requests: in any time t, at most Burst +
// t·Requests/Per. The zero value means that the limit is not set: in a key, the plan decides
// (docs/limits.md).
type RateLimit struct {
	Requests int64         // 1 to MaxRate
	Per      time.Duration // MinPer to MaxPer, in whole microseconds
	Burst    int64         // requests that may come at once, 1 to MaxRate
	// Shadow counts and reports requests beyond the limit, and admits them.
	Shadow bool
	// Unlimited means that there is no limit, even if the plan has one. The other fields are then
	// zero.
	Unlimited bool
}

// A Quota bounds the units that are spent in each calendar period. The zero value means that the
// quota is not set: in a key, the plan decides.
type Quota struct {
	Units  int64  `json:"requests,omitempty"` // 1 to MaxQuota
	Per    Period `json:"per,omitempty"`
	Shadow bool   `json:"shadow,omitempty"` // as in RateLimit
	// Unlimited means that there is no quota, even if the plan has one. The other fields are then
	// zero.
	Unlimited bool `json:"unlimited,omitempty"`
}

// Bounds of [RateLimit] and [Quota]. They keep the arithmetic of [Meter] within 64 bits.
const (
	MaxRate  = 100_000_000
	MinPer   = time.Second
	MaxPer   = 24 * time.Hour
	MaxQuota = 999_999_999_999_999 // the largest integer of a structured field (RFC 9651 §3.3.1)
)

// MaxUnits is the largest sum of units. An API may report such large costs that their sum has more
// than 64 bits.
const MaxUnits = 1 << 62

// AddUnits returns the sum of two numbers of units, at most [MaxUnits]. b must be between 0
// and MaxUnits; a can be any number.
func AddUnits(a, b int64) int64 { return min(a, MaxUnits-b) + b }

// Limits are the limits of a key, a plan or a namespace. They are comparable.
type Limits struct {
	Rate  RateLimit
	Quota Quota
}

// KeyLimits are the limits that a key's own row sets.
type KeyLimits struct {
	Limits
	Plan string // the name of a plan, or empty for the home namespace's DefaultPlan
}

// Over resolves the limits of a key: it returns l, with the limits of its plan in place of those
// that are not set. In the result, the zero value means no limit, and Unlimited is replaced by it.
func (l Limits) Over(plan Limits) Limits {
	if l.Rate == (RateLimit{}) {
		l.Rate = plan.Rate
	}
	if l.Quota == (Quota{}) {
		l.Quota = plan.Quota
	}
	if l.Rate.Unlimited {
		l.Rate = RateLimit{}
	}
	if l.Quota.Unlimited {
		l.Quota = Quota{}
	}
	return l
}

// Defect returns the reason why the limit is not valid, or the empty string.
func (l RateLimit) Defect() string {
	switch {
	case l == RateLimit{}:
		return ""
	case l.Unlimited && l != RateLimit{Unlimited: true}:
		return "unlimited must be the only member if it is true"
	case l.Unlimited:
		return ""
	case l.Requests < 1 || l.Requests > MaxRate:
		return fmt.Sprintf("requests must be 1 to %d", MaxRate)
	case l.Burst < 1 || l.Burst > MaxRate:
		return fmt.Sprintf("burst must be 1 to %d", MaxRate)
	case l.Per < MinPer || l.Per > MaxPer || l.Per%time.Microsecond != 0:
		return "per must be a duration from 1s to 24h, in whole microseconds"
	}
	return ""
}

// Defect returns the reason why the quota is not valid, or the empty string.
func (q Quota) Defect() string {
	switch {
	case q == Quota{}:
		return ""
	case q.Unlimited && q != Quota{Unlimited: true}:
		return "unlimited must be the only member if it is true"
	case q.Unlimited:
		return ""
	case q.Units < 1 || q.Units > MaxQuota:
		return fmt.Sprintf("requests must be 1 to %d", int64(MaxQuota))
	case !q.Per.valid():
		return "per must be hour, day or month"
	}
	return ""
}

// Covers reports whether l admits everything that other admits. Both must be resolved, by
// [Limits.Over] or [Directory.LimitsOf]: the zero value means no limit.
func (l Limits) Covers(other Limits) bool {
	return l.Rate.covers(other.Rate) && l.Quota.covers(other.Quota)
}

func (l RateLimit) covers(other RateLimit) bool {
	if l == (RateLimit{}) || l.Shadow {
		return true
	}
	if other == (RateLimit{}) || other.Shadow || other.Burst > l.Burst {
		return false
	}
	// Both sides are at most 1e8 · 8.64e10 < 2^63.
	return other.Requests*l.Per.Microseconds() <= l.Requests*other.Per.Microseconds()
}

func (q Quota) covers(other Quota) bool {
	if q == (Quota{}) || q.Shadow {
		return true
	}
	return other != Quota{} && !other.Shadow && other.Units <= q.Units &&
		!other.Per.shorter(q.Per)
}

// A Period is a calendar period, in UTC.
type Period string

// Periods.
const (
	Minute Period = "minute" // of usage, not of quotas
	Hour   Period = "hour"
	Day    Period = "day"
	Month  Period = "month"
)

// Periods lists every [Period], the shortest first.
var Periods = []Period{Minute, Hour, Day, Month}

// valid reports whether a quota may have the period.
func (p Period) valid() bool { return p != Minute && slices.Contains(Periods, p) }

func (p Period) shorter(other Period) bool {
	return slices.Index(Periods, p) < slices.Index(Periods, other)
}

// Of returns the beginning and the end of the period that contains t, in UTC.
func (p Period) Of(t time.Time) (begin, end time.Time) {
	t = t.UTC()
	switch p {
	case Minute:
		begin = t.Truncate(time.Minute)
		return begin, begin.Add(time.Minute)
	case Hour:
		begin = t.Truncate(time.Hour)
		return begin, begin.Add(time.Hour)
	case Day:
		begin = time.Date(t.Year(), t.Month(), t.Day(), 0, 0, 0, 0, time.UTC)
		return begin, begin.AddDate(0, 0, 1)
	}
	begin = time.Date(t.Year(), t.Month(), 1, 0, 0, 0, 0, time.UTC)
	return begin, begin.AddDate(0, 1, 0)
}

// LimitsOf returns the limits that apply to requests with a record's key: those of the key, and
// those of its home namespace, which all keys with this home share. In both, a zero RateLimit or
// Quota means no limit.
func (d *Directory) LimitsOf(r *Record) (key, namespace Limits) {
	if !d.Limits(r) {
		return key, namespace
	}
	key, namespace, _ = d.limitsOf(r.Namespace, r.keyLimits())
	return key, namespace
}

// Limits reports whether a limit may apply to requests with a record's key.
func (d *Directory) Limits(r *Record) bool {
	return (d.limited || r.limits != unique.Handle[KeyLimits]{}) && !r.personal
}

func (r *Record) keyLimits() (l KeyLimits) {
	if r.limits != (unique.Handle[KeyLimits]{}) {
		l = r.limits.Value()
	}
	return l
}

// LimitsDefect returns the reason why the limits of a record's key are not known, or the empty
// string: its plan does not exist or cannot be read, or the limits of its home namespace cannot be
// read. Only SQL can cause it. Requests with the key are then [Unavailable].
func (d *Directory) LimitsDefect(r *Record) string {
	_, _, defect := d.limitsOf(r.Namespace, r.keyLimits())
	return defect
}

// KeyLimits returns the limits that apply to a key with these settings in a home namespace.
//
// If they are not known, it returns the smallest limits, so that a caller with this key cannot give
// higher ones.
func (d *Directory) KeyLimits(home string, l KeyLimits) Limits {
	key, _, defect := d.limitsOf(home, l)
	if defect != "" {
		return Limits{RateLimit{Requests: 1, Per: MaxPer, Burst: 1}, Quota{Units: 1, Per: Month}}
	}
	return key
}

// limitsOf resolves the limits of a key and of its home namespace. If they are not known, it returns
// those that can be read, and the reason.
func (d *Directory) limitsOf(home string, l KeyLimits) (key, namespace Limits, defect string) {
	name := l.Plan
	if ns := d.namespaces[home]; ns != nil {
		namespace = ns.Limits.Over(Limits{})
		name = cmp.Or(name, ns.DefaultPlan)
		if ns.LimitsUnreadable {
			defect = fmt.Sprintf("limits of namespace %s: %s", ns.ID, ns.Unreadable)
		}
	}
	var plan Limits
	switch p := d.PlanFor(home, name); {
	case p != nil:
		plan = p.Limits
		if p.Unreadable != "" {
			defect = cmp.Or(defect,
				fmt.Sprintf("plan %s of namespace %s: %s", p.Name, p.Namespace, p.Unreadable))
		}
	case name != "":
		defect = cmp.Or(defect, fmt.Sprintf("plan %s of namespace %s does not exist", name, home))
	}
	return l.Over(plan), namespace, defect
}
