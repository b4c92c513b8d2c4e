package sqldb

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

const (
	// quotaKept is the time after the end of a period in which its units can still be granted.
	quotaKept = 24 * time.Hour
	// quotaMargin is the additional time for which the row is kept, so that no older transaction
	// can create it again.
	quotaMargin = time.Hour
	// maxForgotten is the maximum number of rows of old periods that one call of Reserve deletes.
	maxForgotten = 1000
	// maxForgottenThresholds is the maximum number of thresholds of old periods that are deleted for
	// each new one.
	maxForgottenThresholds = 3
	// forgetInterval is the time between two searches for rows of old periods.
	forgetInterval = time.Minute
)

// Reserve implements [keystore.Database]. It does not retry: units that are returned twice would be
// granted twice.
func (d *DB) Reserve(
	ctx context.Context, reservations []keystore.Reservation,
) ([]keystore.QuotaGrant, error) {
	grants := make([]keystore.QuotaGrant, len(reservations))
	if len(reservations) == 0 {
		return grants, nil
	}
	err := d.transact(ctx, d.quotas, d.beginApart, func(t *tx) error {
		if err := t.forgetQuotas(); err != nil {
			return err
		}
		return t.reserve(reservations, grants)
	})
	if err != nil {
		return nil, d.fail(ctx, "reserving units of quotas", err)
	}
	return grants, nil
}

// reserve creates missing rows and then locks all rows. Every transaction does both in the same
// order, so that no two can deadlock.
func (t *tx) reserve(reservations []keystore.Reservation, grants []keystore.QuotaGrant) error {
	list := make([][4]any, 0, len(reservations)) // quota, begins, ends and the index
	for i := range reservations {
		r := &reservations[i]
		if r.End.Before(t.noted.Add(-quotaKept)) {
			// The row may be deleted, and a new one would grant all units again.
			grants[i].Total = r.Limit
			continue
		}
		list = append(list,
			[4]any{t.db.text(r.Quota), r.Begin.UnixMicro(), r.End.UnixMicro(), i})
	}
	slices.SortFunc(list, func(a, b [4]any) int {
		return cmp.Or(cmp.Compare(a[0].(string), b[0].(string)),
			cmp.Compare(a[1].(int64), b[1].(int64)))
	})
	array, err := fromJSON(list)
	if err != nil {
		return err
	}
	quota, begins := item(0, "text"), item(1, "bigint")
	if _, err := t.exec("INSERT INTO quota_grants (quota, begins, ends, granted) SELECT "+quota+
		", "+begins+", "+item(2, "bigint")+", 0 FROM "+t.db.items+
		" r WHERE true ON CONFLICT DO NOTHING", array); err != nil {
		return err
	}
	locked, err := t.query("SELECT "+quota+", "+begins+", "+item(3, "bigint")+", "+
		"q.granted, q.units FROM "+t.db.items+" r CROSS JOIN quota_grants q WHERE q.quota = "+quota+
		" AND q.begins = "+begins+" ORDER BY q.quota, q.begins"+t.db.lockQuotas, array)
	if err != nil {
		return err
	}
	defer locked.Close()
	var changed [][4]any // quota, begins, granted and units
	for locked.Next() {
		var name string
		var begin, i, granted, units int64
		if err := locked.Scan(&name, &begin, &i, &granted, &units); err != nil {
			return t.note(err)
		}
		grants[i] = reservations[i].Grant(granted)
		if grants[i].Total != granted || reservations[i].Limit != units {
			changed = append(changed,
				[4]any{name, begin, grants[i].Total, reservations[i].Limit})
		}
	}
	if err := locked.Err(); err != nil || len(changed) == 0 {
		return t.note(err)
	}
	if array, err = fromJSON(changed); err != nil {
		return err
	}
	_, err = t.exec("UPDATE quota_grants SET granted = "+item(2, "bigint")+", units = "+
		item(3, "bigint")+" FROM "+t.db.items+" r WHERE quota = "+quota+
		" AND begins = "+begins, array)
	return err
}

// NearQuotas implements [keystore.Database].
func (d *DB) NearQuotas(
	ctx context.Context, share float64, limit int,
) ([]keystore.QuotaUse, error) {
	uses, err := list(d.read(ctx), func(scan func(...any) error) (u keystore.QuotaUse, err error) {
		return u, scan(&u.Quota, timeTo{&u.Begin}, timeTo{&u.End}, &u.Units, &u.Granted)
	}, "SELECT q.quota, q.begins, q.ends, q.units, q.granted FROM quota_grants q, "+
		"(SELECT max(at) AS now FROM (SELECT "+d.clock+" AS at UNION ALL "+
		"SELECT coalesce(noted, 0) FROM clock) c) n WHERE q.ends > n.now AND q.begins <= n.now "+
		"AND q.units > 0 AND q.granted >= q.units * CAST(? AS double precision) AND "+d.current+
		" ORDER BY q.granted * 1.0 / q.units DESC, q.quota, q.begins LIMIT ?", d.clockArg(), share,
		limit)
	return uses, d.fail(ctx, "reading used quotas", err)
}

// forgetQuotas deletes rows of periods that ended long ago, once in forgetInterval.
func (t *tx) forgetQuotas() error {
	if time.Now().UnixNano() < t.db.forgetAt.Load() {
		return nil
	}
	n, err := t.exec("DELETE FROM quota_grants WHERE (quota, begins) IN (SELECT quota, begins "+
		"FROM quota_grants WHERE ends < ? ORDER BY ends LIMIT ?"+t.db.skipLocked+")",
		t.noted.Add(-quotaKept-quotaMargin).UnixMicro(), maxForgotten)
	if err == nil && n < maxForgotten { // else the next call continues
		t.db.forgetAt.Store(time.Now().Add(forgetInterval).UnixNano())
	}
	return err
}

func (t *tx) NoteQuotaThresholds(thresholds []keystore.QuotaThreshold) ([]string, error) {
	if _, err := t.exec("DELETE FROM quota_thresholds WHERE (quota, begins) IN (SELECT quota, "+
		"begins FROM quota_thresholds WHERE ends < ? ORDER BY ends LIMIT ?)",
		t.noted.Add(-quotaKept-quotaMargin).UnixMicro(),
		maxForgottenThresholds*len(thresholds)); err != nil {
		return nil, err
	}
	rows := make([][]any, len(thresholds))
	for i, q := range thresholds {
		rows[i] = []any{t.db.text(q.Quota), q.Begin.UnixMicro(), q.End.UnixMicro(), q.Percent}
	}
	object, err := fromJSON(rows)
	if err != nil {
		return nil, err
	}
	news, err := list(t.query, scanText, "INSERT INTO quota_thresholds (quota, begins, ends, "+
		"percent) SELECT "+item(0, "text")+", "+item(1, "bigint")+", "+item(2, "bigint")+", "+
		item(3, "integer")+" FROM "+t.db.items+" r WHERE true ON CONFLICT (quota, begins) DO "+
		"UPDATE SET percent = excluded.percent WHERE quota_thresholds.percent < "+
		"excluded.percent RETURNING quota", object)
	return news, t.note(err)
}
