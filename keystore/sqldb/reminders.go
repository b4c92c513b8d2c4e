package sqldb

import (
	"context"
	"database/sql"
	"errors"
	"strconv"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// unusedPage is the number of keys that one call of UnusedKeys examines.
const unusedPage = 5000

// ReminderPositions implements [keystore.Database].
func (d *DB) ReminderPositions(
	ctx context.Context,
) (map[time.Duration]keystore.ExpiryPosition, error) {
	positions := make(map[time.Duration]keystore.ExpiryPosition)
	_, err := list(d.read(ctx), func(scan func(...any) error) (none struct{}, err error) {
		var before int64
		var p keystore.ExpiryPosition
		err = scan(&before, timeTo{&p.ExpiresAt}, &p.ID)
		positions[time.Duration(before)*time.Microsecond] = p
		return none, err
	}, "SELECT before, expires_at, key_id FROM reminders WHERE "+d.current)
	return positions, d.fail(ctx, "reading reminders", err)
}

// ExpiringKeys implements [keystore.Database].
func (d *DB) ExpiringKeys(
	ctx context.Context, after keystore.ExpiryPosition, until time.Time, limit int,
) ([]keystore.ExpiryPosition, error) {
	keys, err := list(d.read(ctx), func(scan func(...any) error) (
		p keystore.ExpiryPosition, err error,
	) {
		return p, scan(timeTo{&p.ExpiresAt}, &p.ID)
	}, "SELECT k.expires_at, k.id FROM keys k WHERE k.expires_at IS NOT NULL AND k.revoked_at IS "+
		"NULL AND k.personal = 0 AND k.expires_at <= ? AND (k.expires_at, k.id) > (?, ?) AND "+
		d.current+" ORDER BY k.expires_at, k.id LIMIT ?",
		until.UnixMicro(), after.ExpiresAt.UnixMicro(), after.ID, limit)
	return keys, d.fail(ctx, "searching for expiring keys", err)
}

// UnusedKeys implements [keystore.Database].
func (d *DB) UnusedKeys(
	ctx context.Context, f keystore.UnusedFilter, cursor string,
) (keys []keystore.UnusedKey, next string, err error) {
	const operation = "searching for unused keys"
	o := byCreation
	where := clause{"k.created_at <= ? AND k.personal = 0 AND " + d.current,
		[]any{f.Since.UnixMicro()}}
	if cursor != "" {
		after, err := o.after(cursor)
		if err != nil {
			return nil, "", err
		}
		where = where.and(after)
	}
	last, err := list(d.read(ctx), func(scan func(...any) error) (k keystore.Key, err error) {
		return k, scan(timeTo{&k.CreatedAt}, &k.ID)
	}, "SELECT k.created_at, k.id FROM keys k WHERE "+where.sql+
		" ORDER BY k.created_at, k.id LIMIT 1 OFFSET "+strconv.Itoa(unusedPage-1), where.args...)
	if err != nil {
		return nil, "", d.fail(ctx, operation, err)
	}
	if len(last) > 0 {
		next = o.cursor(&last[0])
		upTo, err := o.upTo(next)
		if err != nil {
			return nil, "", err
		}
		where = where.and(upTo)
	}
	unreported := "(m.since IS NULL OR m.since < coalesce(u.used_at, k.created_at)"
	if f.Reported {
		unreported += " OR m.inactivated = 0"
	}
	where = where.and(ofStatus(keystore.KeyFilter{Status: keystore.StatusActive, Now: f.Now})).
		and(clause{"coalesce(u.used_at, k.created_at) <= ? AND " + unreported + ")",
			[]any{f.Since.UnixMicro()}})
	keys, err = list(d.read(ctx), func(scan func(...any) error) (u keystore.UnusedKey, err error) {
		return u, scan(textTo{&u.ID}, textTo{&u.Namespace}, timeTo{&u.Since},
			timeTo{&u.Reported.Since}, &u.Reported.Inactivated)
	}, "SELECT k.id, k.namespace, coalesce(u.used_at, k.created_at), m.since, "+
		"coalesce(m.inactivated, 0) FROM keys k LEFT JOIN last_uses u ON u.key_id = k.id LEFT JOIN "+
		"unused_keys m ON m.key_id = k.id WHERE "+where.sql+" ORDER BY k.created_at, k.id",
		where.args...)
	return keys, next, d.fail(ctx, operation, err)
}

func (t *tx) ReminderPosition(before time.Duration) (p keystore.ExpiryPosition, err error) {
	err = t.row("SELECT expires_at, key_id FROM reminders WHERE before = ?", before.Microseconds()).
		Scan(timeTo{&p.ExpiresAt}, &p.ID)
	if errors.Is(err, sql.ErrNoRows) {
		err = nil
	}
	return p, err
}

func (t *tx) SetReminderPosition(before time.Duration, p keystore.ExpiryPosition) error {
	_, err := t.exec(`INSERT INTO reminders (before, expires_at, key_id) VALUES (?, ?, ?)
		ON CONFLICT (before) DO UPDATE SET expires_at = excluded.expires_at,
		key_id = excluded.key_id`, before.Microseconds(), p.ExpiresAt.UnixMicro(), p.ID)
	return err
}

func (t *tx) ReportedUnused(ids []string) (map[string]keystore.UnusedReport, error) {
	array, err := t.db.array(ids)
	if err != nil {
		return nil, err
	}
	reports := make(map[string]keystore.UnusedReport)
	_, err = list(t.replanned, func(scan func(...any) error) (none struct{}, err error) {
		var id string
		var r keystore.UnusedReport
		err = scan(textTo{&id}, timeTo{&r.Since}, &r.Inactivated)
		reports[id] = r
		return none, err
	}, "SELECT key_id, since, inactivated FROM unused_keys WHERE key_id "+t.db.among, array)
	return reports, t.note(err)
}

func (t *tx) NoteUnused(reports map[string]keystore.UnusedReport) error {
	rows := make([][]any, 0, len(reports))
	for id, r := range reports {
		rows = append(rows, []any{t.db.text(id), r.Since.UnixMicro(), fromBool(r.Inactivated)})
	}
	list, err := fromJSON(rows)
	if err != nil {
		return err
	}
	_, err = t.exec("INSERT INTO unused_keys (key_id, since, inactivated) SELECT "+
		item(0, "text")+", "+item(1, "bigint")+", "+item(2, "bigint")+" FROM "+t.db.items+
		" r WHERE true ON CONFLICT (key_id) DO UPDATE SET since = excluded.since, inactivated = "+
		"excluded.inactivated", list)
	return err
}
