package sqldb

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

const (
	// rollUpDelay is the time after the end of a bucket at which it can be rolled up. Later
	// usage is added to the bucket and to the longer ones that already contain it.
	rollUpDelay = 2 * time.Minute
	// rollUpRows is about how many rows one call rolls up. A revoke may wait for it.
	rollUpRows = 2000
	// batchesKept is how long the number of a writer's last batch is kept after the batch.
	batchesKept = 30 * 24 * time.Hour
	// maxForgottenWriters is the maximum number of writers that one call forgets.
	maxForgottenWriters = 1000
)

// MaintainUsage implements [keystore.Database]. A call is one transaction. It rolls up a part of one
// bucket, or drops a table.
func (d *DB) MaintainUsage(
	ctx context.Context, kept keystore.UsageKept,
) (more bool, err error) {
	err = d.inBackground(ctx, d.usage, func(t *tx) (err error) {
		more, err = t.maintainUsage(kept)
		return err
	})
	if errors.Is(err, errTableInUse) { // the next call tries again
		return false, nil
	}
	return more, d.fail(ctx, "rolling up usage", err)
}

var errTableInUse = errors.New("a table is in use")

func (t *tx) maintainUsage(kept keystore.UsageKept) (more bool, err error) {
	free, err := list(t.query, scanText,
		"SELECT name FROM usage_state WHERE name = 'maintainer'"+t.db.skipLocked)
	if err != nil || len(free) == 0 {
		return false, t.note(err)
	}
	marks, tables, err := usageState(t.query, t.db.lockUsage)
	if err != nil {
		return false, t.note(err)
	}
	before, err := fromJSON(marks)
	if err != nil {
		return false, err
	}
	if more, err = t.rollUp(&marks, tables); err != nil {
		return false, err
	}
	if !more {
		if more, err = t.dropUsage(&marks, tables, kept); err != nil {
			return false, err
		}
	}
	if !more {
		if err := t.forgetWriters(); err != nil {
			return false, err
		}
	}
	after, err := fromJSON(marks)
	if err != nil || after == before {
		return more, err
	}
	_, err = t.exec("UPDATE usage_state SET value = ? WHERE name = 'marks'", after)
	return more, err
}

// rollUp rolls up a part of the first bucket that is not rolled up. It reports whether there was
// one.
func (t *tx) rollUp(marks *usageMarks, tables []usageTable) (bool, error) {
	for _, step := range keystore.Periods[1:] {
		for _, s := range allSeries {
			from, mark := shorter(step), marks.of(&s, step)
			limit := toMinutes(t.noted.Add(-rollUpDelay))
			if from != keystore.Minute {
				limit = min(limit, marks.of(&s, from).Bucket)
			}
			limit, _ = bucket(step, limit)
			i := slices.IndexFunc(tables, func(table usageTable) bool {
				return table.step == from && table.begin >= mark.Bucket
			})
			if i >= 0 && tables[i].begin < limit {
				return true, t.rollUpPart(tables[i], &s, step, marks, tables)
			}
			if limit > mark.Bucket { // nothing was counted until then
				marks.set(&s, step, usageMark{Bucket: limit})
			}
		}
	}
	return false, nil
}

// rollUpPart adds a part of a table to the bucket of the next longer step.
func (t *tx) rollUpPart(
	table usageTable, s *usageSeries, step keystore.Period, marks *usageMarks, tables []usageTable,
) error {
	rows, next := always, marks.of(s, step)
	if next.Bucket != table.begin {
		next = usageMark{Bucket: table.begin}
	}
	if len(next.After) > 0 {
		rows = s.compared(">", next.After)
	}
	if err := t.findPart(table, s, rows, &next); err != nil {
		return err
	}
	if next.Bucket == table.begin {
		rows = rows.and(s.compared("<=", next.After))
	}
	into := usageTableOf(step, table.begin)
	if into.begin >= marks.Dropped[step] {
		if !slices.Contains(tables, into) {
			if err := t.createUsageTable(into); err != nil {
				return err
			}
		}
		if table.step == keystore.Minute {
			rows = clause{sql: "begins IN (" + minutes(table.begin, table.end()) + ")"}.and(rows)
		}
		sums := rows.within("INSERT INTO "+into.name(s)+" ("+s.columns()+", begins, outcome, "+
			eachCounter("%")+") SELECT "+s.columns()+", CAST(? AS integer), outcome, "+
			eachCounter(t.db.sumOfUsage())+" FROM "+table.name(s)+" WHERE ",
			" GROUP BY "+s.columns()+", outcome"+onUsageConflict(into.name(s), s))
		if _, err := t.exec(sums.sql, append([]any{table.begin}, sums.args...)...); err != nil {
			return err
		}
	}
	marks.set(s, step, next)
	return nil
}

// findPart moves a mark beyond the next part of its bucket, which is among the rows that meet a
// condition. A part has about rollUpRows rows.
func (t *tx) findPart(table usageTable, s *usageSeries, rows clause, mark *usageMark) error {
	query := func(c clause) ([][]string, error) {
		found, err := list(t.query, func(scan func(...any) error) ([]string, error) {
			subject := make([]string, len(s.subject))
			return subject, scan(&subject[0], &subject[1], &subject[2])
		}, c.sql, c.args...)
		return found, t.note(err)
	}
	from := " FROM " + table.name(s) + " WHERE "
	rest, err := query(rows.within("SELECT "+s.columns()+from,
		" LIMIT 1 OFFSET "+strconv.Itoa(t.db.rollUpRows)))
	if err != nil {
		return err
	}
	if len(rest) == 0 {
		*mark = usageMark{Bucket: table.end()}
		return nil
	}
	parts, nth := []clause{rows}, t.db.rollUpRows
	if table.step == keystore.Minute {
		if mark.Minutes == 0 {
			if mark.Minutes, err = t.countMinutes(table, s); err != nil {
				return err
			}
		}
		// The rows of each minute are in the order of their subjects.
		parts, nth = nil, nth/mark.Minutes
		for m := table.begin; m < table.end(); m++ {
			parts = append(parts, clause{"begins = ?", []any{m}}.and(rows))
		}
	}
	for i := range parts {
		parts[i] = parts[i].within("SELECT * FROM (SELECT "+s.columns()+from,
			" ORDER BY "+s.columns()+" LIMIT 1 OFFSET "+strconv.Itoa(nth)+") p")
	}
	ends, err := query(joined(" UNION ALL ", parts).within("SELECT "+s.columns()+" FROM (",
		") u ORDER BY "+s.columns()+" LIMIT 1"))
	if err != nil {
		return err
	}
	if len(ends) == 0 {
		*mark = usageMark{Bucket: table.end()}
	} else {
		mark.After = ends[0]
	}
	return nil
}

// countMinutes returns how many minutes of a table have rows.
func (t *tx) countMinutes(table usageTable, s *usageSeries) (n int, err error) {
	var each []clause
	for m := table.begin; m < table.end(); m++ {
		each = append(each, clause{"SELECT 1 AS one WHERE EXISTS (SELECT 1 FROM " + table.name(s) +
			" WHERE begins = ?)", []any{m}})
	}
	all := joined(" UNION ALL ", each).within("SELECT count(*) FROM (", ") u")
	err = t.row(all.sql, all.args...).Scan(&n)
	return max(1, n), err
}

// dropUsage drops the oldest table that is not kept any more and is rolled up completely, or a part
// of it. It reports whether there was such a table. After the first call for a table, no process
// reads or writes the table.
func (t *tx) dropUsage(
	marks *usageMarks, tables []usageTable, kept keystore.UsageKept,
) (bool, error) {
	if doomed := marks.Doomed; doomed != nil {
		empty, err := t.dropTables(usageTable{doomed.Step, doomed.Begin})
		if empty {
			marks.Doomed = nil
		}
		return true, err
	}
	for _, table := range tables {
		age, wider := kept.Of(table.step), longer(table.step)
		if age == 0 || table.end() > toMinutes(t.noted.Add(-age)) ||
			wider != "" && slices.ContainsFunc(allSeries, func(s usageSeries) bool {
				return marks.of(&s, wider).Bucket < table.end()
			}) {
			continue
		}
		if marks.Dropped == nil {
			marks.Dropped = make(map[keystore.Period]int64)
		}
		marks.Dropped[table.step] = max(marks.Dropped[table.step], table.end())
		marks.Doomed = &doomedTable{table.step, table.begin}
		_, err := t.exec("DELETE FROM usage_tables WHERE step = ? AND begins = ?",
			string(table.step), table.begin)
		return true, err
	}
	return false, nil
}

// dropTables drops a table in both series. It returns false if it has only made them smaller.
func (t *tx) dropTables(table usageTable) (bool, error) {
	for _, s := range allSeries {
		if t.db.slowDrop {
			key := primaryKey(table.step, &s)
			n, err := t.exec("DELETE FROM "+table.name(&s)+" WHERE ("+key+") <= (SELECT "+key+
				" FROM "+table.name(&s)+" ORDER BY "+key+" LIMIT 1 OFFSET ?)", t.db.rollUpRows)
			if err != nil || n > 0 {
				return false, err
			}
		}
	}
	if t.db.impatient != "" {
		// AddUsage waits while DROP TABLE waits for readers.
		if _, err := t.exec(t.db.impatient); err != nil {
			return false, err
		}
	}
	for _, s := range allSeries {
		_, err := t.exec("DROP TABLE " + table.name(&s))
		if t.db.sqlState(err) == lockNotAvailable {
			return false, errTableInUse
		}
		if err != nil {
			return false, err
		}
	}
	return true, nil
}

// forgetWriters deletes the numbers of writers whose last batch is old.
func (t *tx) forgetWriters() error {
	_, err := t.exec("DELETE FROM usage_batches WHERE writer IN (SELECT writer FROM usage_batches "+
		"WHERE at < ? LIMIT ?)", t.noted.Add(-batchesKept).UnixMicro(), maxForgottenWriters)
	return err
}
