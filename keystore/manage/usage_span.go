package manage

import (
	"cmp"
	"slices"
	"strconv"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// A UsageSpan is the time of a read of usage and the length of its buckets. The zero value is the
// last 24 hours.
type UsageSpan struct {
	Step keystore.Period // default [keystore.Hour]
	// From is rounded down to the beginning of a bucket, and To up. To is exclusive and by default
	// now. By default, the span has 60 minutes, 24 hours, 30 days or 12 months, or less if less is
	// kept.
	From, To time.Time
}

// defaultBuckets is the number of buckets if From is not given.
var defaultBuckets = map[keystore.Period]int64{
	keystore.Minute: 60, keystore.Hour: 24, keystore.Day: 30, keystore.Month: 12,
}

// seconds is the length of the periods that always have the same length.
var seconds = map[keystore.Period]int64{
	keystore.Minute: 60, keystore.Hour: 60 * 60, keystore.Day: 24 * 60 * 60,
}

// ordinal returns the number of the period that contains t, which is not before 1970. Consecutive
// periods have consecutive numbers.
func ordinal(p keystore.Period, t time.Time) int64 {
	t = t.UTC()
	if p == keystore.Month {
		return int64(t.Year())*12 + int64(t.Month()) - 1
	}
	return t.Unix() / seconds[p]
}

// beginning returns the beginning of the period with a number.
func beginning(p keystore.Period, ordinal int64) time.Time {
	if p == keystore.Month {
		return time.Date(int(ordinal/12), time.Month(ordinal%12+1), 1, 0, 0, 0, 0, time.UTC)
	}
	return time.Unix(ordinal*seconds[p], 0).UTC()
}

// empty returns all buckets of a span, without requests.
func (s *UsageSpan) empty() []UsageBucket {
	first := ordinal(s.Step, s.From)
	buckets := make([]UsageBucket, ordinal(s.Step, s.To)-first)
	for i := range buckets {
		buckets[i].Begin = beginning(s.Step, first+int64(i))
	}
	return buckets
}

// usageSpan checks a span and returns it with every field set, in whole buckets. groups is the
// maximum number of groups.
func (p *fieldErrors) usageSpan(
	s UsageSpan, groups int, kept *keystore.UsageKept, now time.Time,
) UsageSpan {
	s.Step = cmp.Or(s.Step, keystore.Hour)
	if !slices.Contains(keystore.Periods, s.Step) {
		p.add("step", "must be minute, hour, day or month")
	}
	epoch := time.Unix(0, 0)
	for _, f := range []struct {
		name string
		at   time.Time
	}{{"from", s.From}, {"to", s.To}} {
		if !f.at.IsZero() && (f.at.Before(epoch) || f.at.After(lastTime)) {
			p.add(f.name, "must be in the years 1970 to 9999")
		}
	}
	if s.To.IsZero() {
		s.To = now
	}
	if !s.From.IsZero() && !s.From.Before(s.To) {
		p.add("from", "must be earlier than to, whose default is now")
	}
	if len(*p) > 0 {
		return s
	}
	end := ordinal(s.Step, s.To)
	if beginning(s.Step, end).Before(s.To) {
		end++
	}
	oldest := ordinal(s.Step, epoch) // zeros before it would be wrong
	if kept := kept.Of(s.Step); kept > 0 {
		oldest = ordinal(s.Step, now.Add(-kept))
	}
	begin := ordinal(s.Step, s.From)
	if s.From.IsZero() {
		begin = min(end-1, max(oldest, end-defaultBuckets[s.Step]))
	}
	switch buckets := end - begin; {
	case begin < oldest-1: // clients subtract the retention from their own clock
		p.add("from", "must be in the last %s, for which usage is kept by the %s: choose a later "+
			"time"+orCoarser(s.Step), daysText(kept.Of(s.Step)), s.Step)
	case buckets > maxUsageBuckets:
		p.add("from", "must be at most %d buckets before to, and is %d (by the %s): choose a "+
			"later time"+orCoarser(s.Step), maxUsageBuckets, buckets, s.Step)
	case buckets*int64(groups) > maxUsageItems:
		p.add("limit", "must be at most %d for %d buckets, because an answer has at most %d items: "+
			"choose fewer groups, a shorter time or a coarser step", maxUsageItems/buckets, buckets,
			maxUsageItems)
	}
	s.From, s.To = beginning(s.Step, begin), beginning(s.Step, end)
	return s
}

// orCoarser is advice for a step that is too fine.
func orCoarser(step keystore.Period) string {
	if step == keystore.Month {
		return ""
	}
	return " or a coarser step"
}

// daysText returns a duration of at least two hours in whole days or hours.
func daysText(d time.Duration) string {
	if d < 3*day || d%day != 0 {
		return strconv.FormatInt(int64(d/time.Hour), 10) + " hours"
	}
	return strconv.FormatInt(int64(d/day), 10) + " days"
}

// usageGroups checks the dimension of groups and their maximum number.
func (p *fieldErrors) usageGroups(by keystore.UsageGroup, limit int) {
	switch by {
	case "", keystore.ByKey, keystore.ByNamespace, keystore.ByOwner, keystore.ByOperation,
		ByOutcome:
	default:
		p.add("group_by", "must be key, namespace, owner, outcome or operation")
	}
	if limit < 1 || limit > maxUsageGroups {
		p.add("limit", "must be 1 to %d", maxUsageGroups)
	}
}
