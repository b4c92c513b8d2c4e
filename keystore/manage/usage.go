package manage

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

const (
	maxUsageBuckets    = 10_000
	maxUsageItems      = 100_000 // buckets of all groups
	defaultUsageGroups = 20
	maxUsageGroups     = 1000
)

// ByOutcome groups usage by outcome. The database does not know this dimension: its sums are by
// outcome anyway.
const ByOutcome keystore.UsageGroup = "outcome"

// A UsageFilter selects usage. Its zero value selects the last 24 hours of all keys.
type UsageFilter struct {
	UsageSpan
	Namespace string              // home of the keys; empty selects any
	By        keystore.UsageGroup // empty for one group
	Limit     int                 // groups, those with the most requests: 1 to 1000, default 20
}

// A Usage is the usage that a read selects.
type Usage struct {
	UsageSpan // with every field set, in whole buckets
	// Series has one element if the usage is not grouped. Otherwise it has the groups with
	// requests, those with the most requests first.
	Series []UsageSeries
	Total  UsageTally // of all series
}

// A UsageSeries is the usage of one group over time.
type UsageSeries struct {
	Group   string        // empty if the usage is not grouped
	Buckets []UsageBucket // every bucket of the span, also those without requests
	Total   UsageTally
}

// A UsageBucket is the usage of one group in one bucket of time.
type UsageBucket struct {
	Begin time.Time
	UsageTally
}

// A UsageTally is a sum over all outcomes.
type UsageTally struct {
	keystore.UsageCounts
	Outcomes [keystore.NumOutcomes]int64 // requests by outcome
}

func (t *UsageTally) add(o keystore.Outcome, c *keystore.UsageCounts) {
	t.Add(c)
	t.Outcomes[o] += c.Requests
}

// Allowed returns the number of requests that were passed on.
func (t *UsageTally) Allowed() (n int64) {
	for o, requests := range t.Outcomes {
		if !keystore.Outcome(o).Refuses() {
			n += requests
		}
	}
	return n
}

// Denied returns the number of requests that were refused.
func (t *UsageTally) Denied() int64 { return t.Requests - t.Allowed() }

// Usage returns the usage that a filter selects. It covers the keys whose home is a namespace in
// which the caller has `admin.usage:read`, and those that the calling member owned at the time of
// the request.
func (k *Keystore) Usage(ctx context.Context, c Caller, f UsageFilter) (*Usage, error) {
	ctx, auth, done, err := k.beginLongRead(ctx, c)
	if err != nil {
		return nil, err
	}
	defer done()
	if err := auth.requireAnywhere(adminUsage, "read"); err != nil && len(auth.members) == 0 {
		return nil, err
	}
	q := keystore.UsageQuery{Home: f.Namespace, By: f.By, Limit: f.Limit}
	if list, all := auth.readable(adminUsage); !all {
		q.Namespaces, q.OrOwners = list, auth.members
	}
	return k.usage(ctx, q, f.UsageSpan)
}

// KeyUsage returns the usage of a key that the caller may read.
func (k *Keystore) KeyUsage(
	ctx context.Context, c Caller, id string, span UsageSpan,
) (*Usage, error) {
	ctx, auth, done, err := k.beginLongRead(ctx, c)
	if err != nil {
		return nil, err
	}
	defer done()
	if _, err := k.findKey(ctx, auth, id); err != nil {
		return nil, err
	}
	return k.usage(ctx, keystore.UsageQuery{Keys: []string{id}}, span)
}

// SelfUsage returns the usage of the calling key. A member has none: see [Keystore.Usage].
func (k *Keystore) SelfUsage(ctx context.Context, c Caller, span UsageSpan) (*Usage, error) {
	ctx, auth, done, err := k.beginLongRead(ctx, c)
	if err != nil {
		return nil, err
	}
	defer done()
	if auth.keyGrants == nil {
		return nil, &keystore.Error{Kind: keystore.KindConflict, Code: "no_key",
			Detail: "the caller is a member, not a key, and its own requests are not counted; " +
				"GET /usage has the usage of its keys"}
	}
	return k.usage(ctx, keystore.UsageQuery{Keys: []string{auth.credential}}, span)
}

// KeysUsage returns the usage of keys by their ids, for a page of a list: keys come from
// [Keystore.ListKeys], at most 1000. Keys that the caller may not read are left out.
func (k *Keystore) KeysUsage(
	ctx context.Context, c Caller, keys []keystore.Key, span UsageSpan,
) (map[string]UsageSeries, error) {
	ctx, auth, done, err := k.beginLongRead(ctx, c)
	if err != nil {
		return nil, err
	}
	defer done()
	q := keystore.UsageQuery{By: keystore.ByKey, Keys: make([]string, 0, len(keys))}
	for i := range keys {
		if auth.mayReadKey(keys[i].ID, keys[i].Namespace, keys[i].Owner) {
			q.Keys = append(q.Keys, keys[i].ID)
		}
	}
	q.Limit = max(1, len(q.Keys))
	u, err := k.usage(ctx, q, span)
	if err != nil {
		return nil, err
	}
	series := make(map[string]UsageSeries, len(q.Keys))
	for _, s := range u.Series {
		series[s.Group] = s
	}
	for _, id := range q.Keys {
		if _, used := series[id]; !used {
			series[id] = UsageSeries{Group: id, Buckets: u.empty()}
		}
	}
	return series, nil
}

// usage checks the span and the groups of a query and runs it.
func (k *Keystore) usage(
	ctx context.Context, q keystore.UsageQuery, span UsageSpan,
) (*Usage, error) {
	var p fieldErrors
	if q.By == "" {
		q.Limit = 1
	}
	q.Limit = cmp.Or(q.Limit, defaultUsageGroups)
	p.usageGroups(q.By, q.Limit)
	u := &Usage{UsageSpan: p.usageSpan(span, q.Limit, k.Settings().Usage.Kept, k.Now())}
	if err := p.err(); err != nil {
		return nil, err
	}
	q.Step, q.From, q.To = u.Step, u.From, u.To
	groups, by := q.Limit, q.By
	if by == "" || by == ByOutcome {
		q.By, q.Limit = "", 0
	}
	sums, err := k.Database().Usage(ctx, q)
	switch {
	case err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded):
		return nil, &keystore.Error{Kind: keystore.KindBusy, Code: "too_slow",
			Detail: "the database did not sum this usage in time: choose a shorter time, a coarser " +
				"step or a namespace, or try again later"}
	case err != nil:
		return nil, k.RefusalOr("reading usage", err)
	}
	u.fill(sums, by, groups)
	return u, nil
}

// fill adds the sums of the database. It keeps the groups with the most requests, at most limit.
func (u *Usage) fill(sums []keystore.UsageSum, by keystore.UsageGroup, limit int) {
	groups := make(map[string]int)
	if by == "" {
		u.Series = []UsageSeries{{}}
		groups[""] = 0
	}
	group := func(s *keystore.UsageSum) string {
		if by == ByOutcome {
			return s.Outcome.String()
		}
		return s.Group
	}
	for i := range sums {
		s := &sums[i]
		g, known := groups[group(s)]
		if !known {
			g = len(u.Series)
			groups[group(s)] = g
			u.Series = append(u.Series, UsageSeries{Group: group(s)})
		}
		u.Series[g].Total.add(s.Outcome, &s.UsageCounts)
	}
	slices.SortFunc(u.Series, func(a, b UsageSeries) int {
		return cmp.Or(cmp.Compare(b.Total.Requests, a.Total.Requests),
			cmp.Compare(a.Group, b.Group))
	})
	u.Series = u.Series[:min(len(u.Series), limit)]
	clear(groups)
	for i := range u.Series {
		groups[u.Series[i].Group] = i
		u.Series[i].Buckets = u.empty()
	}
	first := ordinal(u.Step, u.From)
	for i := range sums {
		s := &sums[i]
		if g, shown := groups[group(s)]; shown {
			u.Series[g].Buckets[ordinal(u.Step, s.Begin)-first].add(s.Outcome, &s.UsageCounts)
			u.Total.add(s.Outcome, &s.UsageCounts)
		}
	}
}
