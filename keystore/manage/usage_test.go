package manage_test

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest/fleet"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/node"
)

// add adds rows as usage.
func (w *world) add(rows ...keystore.UsageRow) {
	w.Helper()
	for part := range slices.Chunk(rows, keystore.MaxUsageRows) {
		err := w.Database().AddUsage(ctx,
			keystore.UsageBatch{Writer: keystore.NewID(), Number: 1, Rows: part})
		if err != nil {
			w.Fatal(err)
		}
	}
}

// usageRow returns a row of n requests with a key. Allowed requests cost a unit each.
func usageRow(
	begin time.Time, key *keystore.Key, operation string, o keystore.Outcome, n int64,
) keystore.UsageRow {
	r := keystore.UsageRow{Begin: begin, Key: key.ID, Namespace: key.Namespace, Owner: key.Owner,
		Operation: operation, Outcome: o}
	r.Requests = n
	if o == keystore.OK {
		r.Units, r.BytesOut = n, 100*n
		r.Status[1], r.Latency[0] = n, n
	}
	return r
}

// TestUsageSpans checks which buckets a span has, and which spans are refused.
func TestUsageSpans(t *testing.T) {
	w, _ := fleet.New(t).Node(node.Settings{Usage: node.UsageSettings{Kept: &keystore.UsageKept{}}})
	at := func(text string) time.Time {
		if text == "" {
			return time.Time{}
		}
		when, err := time.Parse(time.RFC3339, text)
		if err != nil {
			t.Fatal(err)
		}
		return when
	}
	for _, row := range []struct {
		step     keystore.Period
		from, to string
		limit    int    // with groups; 0 for none
		want     string // the first and the last bucket and their number, or the errors
	}{
		{"minute", "2024-02-28T23:58:30Z", "2024-02-29T00:01:00Z", 0,
			"2024-02-28T23:58:00Z 2024-02-29T00:00:00Z 3"},
		{"", "2024-02-28T23:58:30Z", "2024-02-29T00:01:00Z", 0,
			"2024-02-28T23:00:00Z 2024-02-29T00:00:00Z 2"},
		{"hour", "2024-03-10T01:00:00+01:00", "2024-03-10T02:00:00+01:00", 0,
			"2024-03-10T00:00:00Z 2024-03-10T00:00:00Z 1"},
		{"day", "2024-02-28T00:00:00Z", "2024-03-01T00:00:00.000001Z", 0,
			"2024-02-28T00:00:00Z 2024-03-01T00:00:00Z 3"},
		{"day", "2023-02-28T00:00:00Z", "2023-03-01T00:00:00Z", 0,
			"2023-02-28T00:00:00Z 2023-02-28T00:00:00Z 1"},
		{"day", "2023-12-31T23:30:00-01:00", "2024-01-01T00:45:00Z", 0,
			"2024-01-01T00:00:00Z 2024-01-01T00:00:00Z 1"},
		{"month", "2024-01-31T23:59:59Z", "2024-03-01T00:00:00Z", 0,
			"2024-01-01T00:00:00Z 2024-02-01T00:00:00Z 2"},
		{"month", "2023-12-31T23:59:59Z", "2024-03-01T00:00:01Z", 0,
			"2023-12-01T00:00:00Z 2024-03-01T00:00:00Z 4"},
		{"month", "1970-01-01T00:00:00Z", "1970-01-01T00:00:01Z", 0,
			"1970-01-01T00:00:00Z 1970-01-01T00:00:00Z 1"},
		{"month", "9999-12-31T00:00:00Z", "9999-12-31T23:59:59Z", 0,
			"9999-12-01T00:00:00Z 9999-12-01T00:00:00Z 1"},
		// defaults
		{"minute", "", "2024-03-01T00:00:00Z", 0, "2024-02-29T23:00:00Z 2024-02-29T23:59:00Z 60"},
		{"hour", "", "2024-03-01T00:30:00Z", 0, "2024-02-29T01:00:00Z 2024-03-01T00:00:00Z 24"},
		{"day", "", "2024-03-01T00:30:00Z", 0, "2024-02-01T00:00:00Z 2024-03-01T00:00:00Z 30"},
		{"month", "", "2024-03-01T00:00:00Z", 0, "2023-03-01T00:00:00Z 2024-02-01T00:00:00Z 12"},
		{"month", "", "1970-02-01T00:00:00Z", 0, "1970-01-01T00:00:00Z 1970-01-01T00:00:00Z 1"},
		// the largest answers
		{"minute", "2024-01-01T00:00:00Z", "2024-01-07T22:40:00Z", 0,
			"2024-01-01T00:00:00Z 2024-01-07T22:39:00Z 10000"},
		{"minute", "2024-01-01T00:00:00Z", "2024-01-07T22:40:01Z", 0, "from: must be at most 10000"},
		{"month", "1970-01-01T00:00:00Z", "9999-01-01T00:00:00Z", 0, "from: must be at most 10000"},
		{"day", "2024-01-01T00:00:00Z", "2024-04-10T00:00:00Z", 1000, "ok"},
		{"day", "2024-01-01T00:00:00Z", "2024-04-11T00:00:00Z", 1000,
			"limit: must be at most 990 for 101 buckets"},
		{"day", "2024-01-01T00:00:00Z", "2024-04-11T00:00:00Z", 1001, "limit: must be 1 to 1000"},
		{"day", "2024-01-01T00:00:00Z", "2024-04-11T00:00:00Z", -1, "limit: must be 1 to 1000"},
		// mistakes
		{"week", "", "", 0, "step: must be minute, hour, day or month"},
		{"", "2024-01-01T00:00:00Z", "2024-01-01T00:00:00Z", 0, "from: must be earlier than to"},
		{"", "2124-01-01T00:00:00Z", "", 0, "from: must be earlier than to, whose default is now"},
		{"", "1969-12-31T23:59:59Z", "2024-01-01T00:00:00Z", 0,
			"from: must be in the years 1970 to 9999"},
		{"", "", "9999-12-31T23:59:59-01:00", 0, "to: must be in the years 1970 to 9999"},
		{"year", "1969-12-31T23:59:59Z", "9999-12-31T23:59:59-01:00", 1001,
			"limit: must be 1 to 1000; step: must be minute, hour, day or month; " +
				"from: must be in the years 1970 to 9999; to: must be in the years 1970 to 9999"},
	} {
		f := manage.UsageFilter{Limit: row.limit,
			UsageSpan: manage.UsageSpan{Step: row.step, From: at(row.from), To: at(row.to)}}
		if row.limit != 0 {
			f.By = keystore.ByKey
		}
		u, err := w.Usage(ctx, fleet.Root, f)
		got := "ok"
		switch {
		case err != nil:
			got = err.Error()
		case row.limit == 0:
			buckets := u.Series[0].Buckets
			got = fmt.Sprint(buckets[0].Begin.Format(time.RFC3339), " ",
				buckets[len(buckets)-1].Begin.Format(time.RFC3339), " ", len(buckets))
			for i := range buckets[1:] {
				if _, end := u.Step.Of(buckets[i].Begin); !end.Equal(buckets[i+1].Begin) {
					t.Errorf("%+v: bucket %d is not followed by the next", row, i)
				}
			}
		}
		if !strings.HasPrefix(got, row.want) {
			t.Errorf("%s from %s to %s: %s, want %s", row.step, row.from, row.to, got, row.want)
		}
	}
	if _, err := w.Usage(ctx, fleet.Root, manage.UsageFilter{By: "color"}); fleet.Code(err) !=
		"invalid_fields" {
		t.Errorf("an unknown dimension: %v", err)
	}
	u, err := w.Usage(ctx, fleet.Root, manage.UsageFilter{})
	if err != nil || len(u.Series) != 1 || len(u.Series[0].Buckets) != 24 ||
		!u.To.After(time.Now()) || u.Total.Requests != 0 {
		t.Errorf("the default: %+v, %v", u, err)
	}
	u, err = w.Usage(ctx, fleet.Root, manage.UsageFilter{By: keystore.ByOwner})
	if err != nil || len(u.Series) != 0 {
		t.Errorf("groups without requests: %+v, %v", u, err)
	}
}

// TestUsageKept checks that a span is refused if a part of its usage has been deleted.
func TestUsageKept(t *testing.T) {
	w := newWorld(t)
	const day = 24 * time.Hour
	for step, row := range map[keystore.Period]struct {
		kept time.Duration
		want string
	}{
		keystore.Minute: {48 * time.Hour, "in the last 48 hours"},
		keystore.Hour:   {35 * day, "in the last 35 days"},
		keystore.Day:    {400 * day, "in the last 400 days"},
	} {
		f := manage.UsageFilter{UsageSpan: manage.UsageSpan{Step: step,
			From: time.Now().Add(-row.kept)}}
		if _, err := w.Usage(ctx, fleet.Root, f); err != nil {
			t.Errorf("all that is kept by the %s: %v", step, err)
		}
		f.From = f.From.Add(-2 * day)
		if _, err := w.Usage(ctx, fleet.Root, f); err == nil ||
			!strings.Contains(err.Error(), row.want) {
			t.Errorf("more than is kept by the %s: %v, want %s", step, err, row.want)
		}
	}
	short, _ := fleet.New(t).Node(node.Settings{Usage: node.UsageSettings{
		Kept: &keystore.UsageKept{Hours: 3 * time.Hour}}})
	u, err := short.Usage(ctx, fleet.Root, manage.UsageFilter{})
	if err != nil || len(u.Series[0].Buckets) != 4 {
		t.Errorf("the default if less is kept: %+v, %v", u, err)
	}
	past := manage.UsageSpan{To: time.Now().AddDate(0, 0, -1)}
	if _, err := short.Usage(ctx, fleet.Root, manage.UsageFilter{UsageSpan: past}); fleet.Code(err) !=
		"invalid_fields" {
		t.Errorf("a time of which nothing is kept: %v", err)
	}
	f := manage.UsageFilter{UsageSpan: manage.UsageSpan{Step: keystore.Month,
		From: time.Now().AddDate(-30, 0, 0)}}
	if _, err := w.Usage(ctx, fleet.Root, f); err != nil {
		t.Errorf("months, which are kept forever: %v", err)
	}
}

// TestUsageGroups checks sums, totals and the order of groups.
func TestUsageGroups(t *testing.T) {
	w := newWorld(t, "acme")
	a, _ := w.key(fleet.Root, "acme", "acme=read")
	b, _ := w.key(fleet.Root, "acme", "acme=read")
	now := time.Now().UTC().Truncate(time.Hour)
	w.add(
		usageRow(now.Add(-2*time.Hour), a, "read", keystore.OK, 10),
		usageRow(now.Add(-2*time.Hour), a, "read", keystore.Limited, 3),
		usageRow(now.Add(-time.Hour), a, "orders:read", keystore.OK, 1),
		usageRow(now.Add(-time.Hour+time.Minute), b, "read", keystore.Limited, 20),
		usageRow(now.Add(-time.Hour), b, "orders:read", keystore.Forbidden, 2),
		usageRow(now, b, "read", keystore.OK, 1000), // after To
	)
	span := manage.UsageSpan{From: now.Add(-3 * time.Hour), To: now}
	for _, row := range []struct {
		by    keystore.UsageGroup
		limit int
		want  string // group: requests in each hour
	}{
		{"", 0, ": 0 13 23; total 36 allowed 11"},
		{keystore.ByKey, 0, b.ID + ": 0 0 22, " + a.ID + ": 0 13 1; total 36 allowed 11"},
		{keystore.ByKey, 1, b.ID + ": 0 0 22; total 22 allowed 0"},
		{keystore.ByNamespace, 0, "acme: 0 13 23; total 36 allowed 11"},
		{keystore.ByOwner, 0, "root: 0 13 23; total 36 allowed 11"},
		{keystore.ByOperation, 0, "read: 0 13 20, orders:read: 0 0 3; total 36 allowed 11"},
		{manage.ByOutcome, 0, "limited: 0 3 20, ok: 0 10 1, forbidden: 0 0 2; total 36 allowed 11"},
		{manage.ByOutcome, 2, "limited: 0 3 20, ok: 0 10 1; total 34 allowed 11"},
	} {
		u, err := w.Usage(ctx, fleet.Root, manage.UsageFilter{UsageSpan: span, By: row.by,
			Limit: row.limit})
		if err != nil {
			t.Fatal(err)
		}
		if got := usageText(u); got != row.want {
			t.Errorf("by %q, at most %d: %s\nwant %s", row.by, row.limit, got, row.want)
		}
		if u.Total.BytesOut != 1100 && row.limit != 1 || u.Total.Denied()+u.Total.Allowed() !=
			u.Total.Requests {
			t.Errorf("by %q: %+v", row.by, u.Total)
		}
	}
	series, err := w.KeysUsage(ctx, fleet.Root, []keystore.Key{*a, *b, {ID: "unused"}}, span)
	if err != nil || len(series) != 3 || series[b.ID].Total.Requests != 22 ||
		len(series["unused"].Buckets) != 3 || series["unused"].Group != "unused" {
		t.Errorf("a page of keys: %+v, %v", series, err)
	}
	if series, err := w.KeysUsage(ctx, fleet.Root, nil, span); err != nil || len(series) != 0 {
		t.Errorf("an empty page: %+v, %v", series, err)
	}
}

// usageText returns the requests of a usage with steps of any length.
func usageText(u *manage.Usage) string {
	var groups []string
	for _, s := range u.Series {
		text := s.Group + ":"
		for _, b := range s.Buckets {
			text += fmt.Sprintf(" %d", b.Requests)
		}
		groups = append(groups, text)
	}
	return fmt.Sprintf("%s; total %d allowed %d", strings.Join(groups, ", "), u.Total.Requests,
		u.Total.Allowed())
}

// TestUsageOfOneKey checks who may read the usage of a key.
func TestUsageOfOneKey(t *testing.T) {
	w := newWorld(t, "acme", "other")
	ada := w.member("ada", "acme=read")
	bob := w.member("bob", "acme=admin.usage:read other=admin:read")
	key, token := fleet.Mint(t, w.Keystore, manage.KeySpec{Namespace: "acme", Owner: w.ids["ada"]})
	reader := w.keyCaller(second(w.key(fleet.Root, "other", "acme=admin.keys:read")))
	stranger := w.keyCaller(second(w.key(fleet.Root, "other", "other=admin.keys:read")))
	now := time.Now().UTC().Truncate(time.Minute)
	w.add(usageRow(now, key, "read", keystore.OK, 7))
	for _, row := range []struct {
		name string
		who  manage.Caller
		want string
	}{
		{"root", fleet.Root, "7"}, {"its owner", ada, "7"},
		{"a member that may read only usage", bob, "not_found"},
		{"a key that may read it", reader, "7"}, {"a key that may not", stranger, "not_found"},
		{"itself", w.keyCaller(token), "7"},
		{"nobody", manage.Caller{}, "insufficient_permission"},
	} {
		u, err := w.KeyUsage(ctx, row.who, key.ID, manage.UsageSpan{})
		got := fleet.Code(err)
		if err == nil {
			got = fmt.Sprint(u.Total.Requests)
		}
		if got != row.want {
			t.Errorf("%s: %s, want %s", row.name, got, row.want)
		}
	}
	if u, err := w.SelfUsage(ctx, w.keyCaller(token), manage.UsageSpan{}); err != nil ||
		u.Total.Requests != 7 {
		t.Errorf("the key itself: %+v, %v", u, err)
	}
	for _, c := range []manage.Caller{fleet.Root, ada} {
		if _, err := w.SelfUsage(ctx, c, manage.UsageSpan{}); fleet.Code(err) != "no_key" {
			t.Errorf("a member without a key: %v", err)
		}
	}
	if _, err := w.KeyUsage(ctx, fleet.Root, "aaaaaaaaaaaa", manage.UsageSpan{}); fleet.Code(err) !=
		"not_found" {
		t.Errorf("an unknown key: %v", err)
	}
	series, err := w.KeysUsage(ctx, bob, []keystore.Key{*key}, manage.UsageSpan{})
	if err != nil || len(series) != 0 {
		t.Errorf("a page with a key that the caller may not read: %+v, %v", series, err)
	}
}

// TestRandomUsageVisibility adds random usage and checks that each caller's sums are those of the
// rows that a model allows: with any grouping and namespace, and also after keys have moved to
// other owners and have been deleted.
func TestRandomUsageVisibility(t *testing.T) {
	for seed := range uint64(4) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { randomUsage(t, rand.New(rand.NewPCG(seed, 14))) })
	}
}

func randomUsage(t *testing.T, r *rand.Rand) {
	w := newWorld(t, "n0", "n1<n0", "n2", "gone")
	spaces := []string{"n0", "n1", "n2", "gone"}
	one := func(list ...string) string { return list[r.IntN(len(list))] }
	// A caller sees the namespaces in sees. A key sees only those that its owner sees too.
	type caller struct {
		who    manage.Caller
		member string
		sees   map[string]bool // "*" stands for all, also deleted ones
	}
	// grants returns random grants, and the namespaces in which they give admin.usage:read.
	grants := func() (text string, sees map[string]bool) {
		sees = make(map[string]bool)
		var words []string
		for _, ns := range []string{"n0", "n1", "n2", "*"} {
			if r.IntN(3) > 0 || ns == "*" && r.IntN(3) > 0 {
				continue
			}
			p := one("admin.usage:read", "admin:read", "admin:*", "admin.keys:read", "*", "read",
				"admin.usage:*")
			gives := p != "admin.keys:read" && p != "*" && p != "read"
			if ns == "n0" && r.IntN(2) == 0 {
				words = append(words, "n0+="+p)
				sees["n1"] = sees["n1"] || gives
			} else {
				words = append(words, ns+"="+p)
			}
			sees[ns] = sees[ns] || gives
		}
		if len(words) == 0 {
			words = []string{"n2=read"}
		}
		return strings.Join(words, " "), sees
	}
	callers := []caller{{who: fleet.Root, member: "root", sees: map[string]bool{"*": true}}}
	var owners []string
	for i := range 4 {
		text, sees := grants()
		c := w.member(fmt.Sprint("m", i), text)
		callers = append(callers, caller{c, c.Member(), sees})
		owners = append(owners, c.Member())
	}
	for range 3 {
		text, sees := grants()
		c := w.keyCaller(second(w.key(fleet.Root, "n2", text)))
		callers = append(callers, caller{who: c, sees: sees})
	}
	owners = append(owners, "root")
	var keys []*keystore.Key
	for range 6 {
		key, _ := w.key(fleet.Root, one(spaces...), "n2=read")
		key.Owner = one(owners...) // at the time of the requests
		keys = append(keys, key)
	}
	keys = append(keys, &keystore.Key{ID: "deletedkey00", Namespace: "gone", Owner: owners[0]})
	end := time.Now().UTC().Truncate(time.Hour)
	var rows []keystore.UsageRow
	seen := make(map[string]bool)
	for range 300 {
		row := usageRow(end.Add(-time.Duration(1+r.IntN(5*60))*time.Minute),
			keys[r.IntN(len(keys))], one("read", "orders:read", "orders:search"),
			[]keystore.Outcome{keystore.OK, keystore.Limited, keystore.Revoked}[r.IntN(3)],
			1+r.Int64N(9))
		if r.IntN(5) == 0 {
			row.Owner = one(owners...) // an earlier owner
		}
		id := fmt.Sprint(row.Begin, row.Key, row.Owner, row.Operation, row.Outcome)
		if !seen[id] {
			seen[id] = true
			rows = append(rows, row)
		}
	}
	w.add(rows...)
	for _, k := range keys { // no key of gone is left
		if k.Namespace == "gone" && k.ID != "deletedkey00" {
			_, _, err := w.RevokeKey(ctx, fleet.Root, k.ID, "", false, manage.ChangeOptions{})
			if err == nil {
				_, _, err = w.DeleteKey(ctx, fleet.Root, k.ID, manage.ChangeOptions{})
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, _, err := w.DeleteNamespace(ctx, fleet.Root, "gone", manage.ChangeOptions{}); err != nil {
		t.Fatal(err)
	}

	for i, c := range callers {
		anywhere := c.member != ""
		for _, sees := range c.sees {
			anywhere = anywhere || sees
		}
		for _, by := range []keystore.UsageGroup{"", keystore.ByKey, keystore.ByNamespace,
			keystore.ByOwner, keystore.ByOperation, manage.ByOutcome} {
			for _, ns := range append(spaces, "", "nowhere") {
				want := make(map[string]int64)
				for _, row := range rows {
					visible := c.sees["*"] || c.sees[row.Namespace] ||
						c.member != "" && row.Owner == c.member
					if visible && (ns == "" || row.Namespace == ns) {
						want[groupOf(by, &row)+row.Begin.Truncate(time.Hour).Format(" 15")] +=
							row.Requests
					}
				}
				u, err := w.Usage(ctx, c.who, manage.UsageFilter{Namespace: ns, By: by, Limit: 1000,
					UsageSpan: manage.UsageSpan{From: end.Add(-5 * time.Hour), To: end}})
				if !anywhere {
					if fleet.Code(err) != "insufficient_permission" {
						t.Fatalf("caller %d, who may read nothing: %v", i, err)
					}
					continue
				}
				if err != nil {
					t.Fatal(err)
				}
				got := make(map[string]int64)
				var total int64
				for _, s := range u.Series {
					for _, b := range s.Buckets {
						total += b.Requests
						if b.Requests > 0 {
							got[s.Group+b.Begin.Format(" 15")] = b.Requests
						}
					}
				}
				if !maps.Equal(got, want) || total != u.Total.Requests {
					t.Fatalf("caller %d sees %v, by %q in %q: %v, want %v, total %d", i, c.sees, by,
						ns, got, want, u.Total.Requests)
				}
			}
		}
	}
}

func groupOf(by keystore.UsageGroup, r *keystore.UsageRow) string {
	switch by {
	case keystore.ByKey:
		return r.Key
	case keystore.ByNamespace:
		return r.Namespace
	case keystore.ByOwner:
		return r.Owner
	case keystore.ByOperation:
		return r.Operation
	case manage.ByOutcome:
		return r.Outcome.String()
	}
	return ""
}

// TestSlowUsage checks that a read which takes too long says how to ask for less.
func TestSlowUsage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, db := nodeWithReads(fleet.New(t))
		db.usage = func(ctx context.Context) error {
			<-ctx.Done()
			return ctx.Err()
		}
		begin := time.Now()
		_, err := k.Usage(ctx, fleet.Root, manage.UsageFilter{})
		if fleet.Code(err) != "too_slow" || !strings.Contains(err.Error(), "coarser step") ||
			time.Since(begin) > 11*time.Second {
			t.Errorf("after %s: %v", time.Since(begin), err)
		}
		db.usage = func(context.Context) error { return fleet.ErrCut }
		if _, err = k.Usage(ctx, fleet.Root, manage.UsageFilter{}); err == nil ||
			fleet.Code(err) == "too_slow" {
			t.Errorf("without a database: %v", err)
		}
	})
}

// TestHygiene checks which findings keys have.
func TestHygiene(t *testing.T) {
	w := newWorld(t, "acme", "other")
	w.role("acme", "billing", "bills:read,bills:pay")
	const day = 24 * time.Hour
	now := time.Now().UTC()
	soon, late := now.Add(29*day), now.Add(365*day)
	off := false
	w.member("ada", "acme=read")
	if _, _, err := w.EditMember(ctx, fleet.Root, w.ids["ada"], manage.MemberPatch{Active: &off},
		manage.ChangeOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		name       string
		spec       manage.KeySpec
		grants     string
		age, used  time.Duration // used: since the last use, 0 for never
		operations map[string]time.Duration
		want       string
	}{
		{"new", manage.KeySpec{ExpiresAt: late}, "acme=read", day - time.Hour, 0, nil, ""},
		{"never", manage.KeySpec{ExpiresAt: late}, "acme=read", day, 0, nil, "never_used"},
		{"forever", manage.KeySpec{}, "acme=read", 0, time.Hour, nil, "never_expires"},
		{"expires", manage.KeySpec{ExpiresAt: soon}, "acme=read", 0, time.Hour, nil,
			"expires_soon"},
		{"fine", manage.KeySpec{ExpiresAt: late}, "acme=read", 400 * day, 29 * day, nil, ""},
		{"idle", manage.KeySpec{ExpiresAt: late}, "acme=read", 400 * day, 31 * day, nil,
			"unused_30_days"},
		{"long idle", manage.KeySpec{ExpiresAt: late}, "acme=read", 400 * day, 91 * day, nil,
			"unused_30_days unused_90_days"},
		{"orphan", manage.KeySpec{ExpiresAt: late, Owner: w.ids["ada"]}, "acme=read", 0, time.Hour,
			nil, "owner_disabled"},
		{"wide", manage.KeySpec{ExpiresAt: late}, "acme=orders:read,orders:search,admin.keys:read",
			400 * day, day, map[string]time.Duration{"orders:read": day, "orders:search": 92 * day},
			"unused_permissions orders:search"},
		{"roles", manage.KeySpec{ExpiresAt: late}, "acme=write,@billing other=x:*",
			400 * day, day, map[string]time.Duration{"bills:read": day, "write": 89 * day},
			"unused_permissions bills:pay,x:*"},
		// A named operation may be one that writes, so write may have allowed it.
		{"class", manage.KeySpec{ExpiresAt: late}, "acme=read,write,orders:*",
			400 * day, day, map[string]time.Duration{"orders:find": day}, ""},
		{"too new", manage.KeySpec{ExpiresAt: late}, "acme=orders:read,orders:search",
			89 * day, day, map[string]time.Duration{"orders:read": day}, ""},
		{"counted too recently", manage.KeySpec{ExpiresAt: late}, "acme=orders:read,orders:search",
			400 * day, day, map[string]time.Duration{"orders:read": 60 * day}, ""},
		{"not counted now", manage.KeySpec{ExpiresAt: late}, "acme=orders:read", 400 * day, day,
			map[string]time.Duration{"orders:read": 130 * day}, ""},
		{"revoked", manage.KeySpec{}, "acme=read", 0, 0, nil, ""},
	} {
		row.spec.Name, row.spec.Namespace = row.name, "acme"
		row.spec.Grants = roleGrants(t, row.grants)
		key, _, err := w.MintKey(ctx, fleet.Root, row.spec, nil)
		if err != nil {
			t.Fatal(err)
		}
		w.fleet.Tamper(fmt.Sprintf("UPDATE keys SET created_at = %d WHERE id = '%s'",
			now.Add(-row.age).UnixMicro(), key.ID))
		if row.used > 0 {
			err := w.Database().RecordUse(ctx,
				map[string]keystore.LastUse{key.ID: {At: now.Add(-row.used)}})
			if err != nil {
				t.Fatal(err)
			}
		}
		for operation, ago := range row.operations {
			w.add(usageRow(now.Add(-ago).Truncate(time.Minute), key, operation, keystore.OK, 1))
		}
		if len(row.operations) > 0 && row.name != "counted too recently" {
			w.add(usageRow(now.Add(-125*day).Truncate(time.Minute), key, "read", keystore.OK, 1))
		}
		if row.name == "revoked" {
			fleet.Revoke(t, w.Keystore, key.ID, 0)
		}
		list, _, err := w.Hygiene(ctx, fleet.Root, manage.HygieneFilter{Namespace: "acme"}, "", 1000)
		if err != nil {
			t.Fatal(err)
		}
		var got string
		for _, h := range list {
			if h.ID != key.ID {
				continue
			}
			var words []string
			for _, f := range h.Findings {
				words = append(words, string(f))
			}
			if len(h.Unused) > 0 {
				words = append(words, keystore.NewSet(h.Unused...).String())
			}
			got = strings.Join(words, " ")
		}
		if got != row.want {
			t.Errorf("%s: %q, want %q", row.name, got, row.want)
		}
		w.ids[row.name] = key.ID
	}
	for _, f := range manage.Findings {
		var found []string
		for cursor, pages := "", 0; pages == 0 || cursor != ""; pages++ {
			list, next, err := w.Hygiene(ctx, fleet.Root, manage.HygieneFilter{Finding: f}, cursor, 2)
			if err != nil || pages > 100 {
				t.Fatalf("%d pages: %v", pages, err)
			}
			for _, h := range list {
				found = append(found, h.Name)
			}
			cursor = next
		}
		want := map[manage.Finding]string{manage.NeverUsed: "never",
			manage.Unused30Days: "idle, long idle", manage.Unused90Days: "long idle",
			manage.NeverExpires: "forever", manage.ExpiresSoon: "expires",
			manage.DisabledOwner: "orphan", manage.UnusedPermissions: "roles, wide"}[f]
		if slices.SortFunc(found, cmp.Compare[string]); strings.Join(found, ", ") != want {
			t.Errorf("%s: %q, want %q", f, found, want)
		}
	}
	if _, _, err := w.Hygiene(ctx, fleet.Root, manage.HygieneFilter{Finding: "x"}, "",
		1); fleet.Code(err) != "invalid_fields" {
		t.Errorf("an unknown finding: %v", err)
	}
	bob := w.member("bob", "other=admin.keys:read")
	if list, _, err := w.Hygiene(ctx, bob, manage.HygieneFilter{}, "", 1000); err != nil ||
		len(list) > 0 {
		t.Errorf("keys that the caller may not read: %v, %v", list, err)
	}
	stranger := w.keyCaller(second(w.key(fleet.Root, "other", "other=read")))
	if _, _, err := w.Hygiene(ctx, stranger, manage.HygieneFilter{}, "", 1000); fleet.Code(err) !=
		"insufficient_permission" {
		t.Errorf("a key that may read none: %v", err)
	}
}
