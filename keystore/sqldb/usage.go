package sqldb

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// AddUsage implements [keystore.Database].
func (d *DB) AddUsage(ctx context.Context, b keystore.UsageBatch) error {
	if len(b.Rows) > keystore.MaxUsageRows {
		return fmt.Errorf("adding usage: a batch must contain at most %d rows",
			keystore.MaxUsageRows)
	}
	for {
		var missing []usageTable
		err := d.inBackground(ctx, d.usage, func(t *tx) (err error) {
			missing, err = t.addUsage(&b)
			if err == nil && len(missing) > 0 {
				err = errNoUsageTable
			}
			return err
		})
		if errors.Is(err, errNoUsageTable) {
			if err = d.createUsageTables(ctx, missing); err == nil {
				continue
			}
		}
		return d.fail(ctx, "adding usage", err)
	}
}

var errNoUsageTable = errors.New("a table of usage does not exist")

// createUsageTables creates missing tables. It blocks AddUsage in all processes, so each table is
// created once.
func (d *DB) createUsageTables(ctx context.Context, tables []usageTable) error {
	return d.inBackground(ctx, d.usage, func(t *tx) error {
		marks, existing, err := usageState(t.query, d.lockUsage)
		if err != nil {
			return t.note(err)
		}
		for _, table := range tables {
			// It may have been created, rolled up and dropped meanwhile.
			if table.begin >= marks.Dropped[table.step] && !slices.Contains(existing, table) {
				if err := t.createUsageTable(table); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

func (t *tx) createUsageTable(table usageTable) error {
	for _, s := range allSeries {
		if _, err := t.exec(t.db.createUsage(table, &s)); err != nil {
			return err
		}
	}
	_, err := t.exec("INSERT INTO usage_tables (step, begins) VALUES (?, ?)", string(table.step),
		table.begin)
	return err
}

// addUsage adds a batch, unless it was added before. If tables are missing, it returns them, and
// the transaction must not be committed.
func (t *tx) addUsage(b *keystore.UsageBatch) (missing []usageTable, err error) {
	// Shared, because a roll-up must not move the marks before this transaction ends.
	marks, tables, err := usageState(t.query, t.db.shareUsage)
	if err != nil {
		return nil, t.note(err)
	}
	fresh, err := t.nextBatch(b)
	if err != nil || !fresh {
		return nil, err
	}
	// All transactions write the tables, and the rows in them, in the same order, so that no two can
	// deadlock.
	for _, s := range allSeries {
		added := t.usageOf(b, &s, &marks)
		for _, table := range slices.SortedFunc(maps.Keys(added), compareTables) {
			if !slices.Contains(tables, table) {
				if !slices.Contains(missing, table) {
					missing = append(missing, table)
				}
				continue
			}
			if err := t.insertUsage(table.name(&s), &s, added[table]); err != nil {
				return nil, err
			}
		}
	}
	if len(missing) > 0 {
		return missing, nil
	}
	return nil, t.insertOperations(b)
}

// nextBatch takes the number of a batch. It returns false if the batch was added before. Even then
// it writes the row: the commit that added it may be on this server alone.
func (t *tx) nextBatch(b *keystore.UsageBatch) (fresh bool, err error) {
	now := t.now.UnixMicro()
	if _, err := t.exec(`INSERT INTO usage_batches (writer, number, at) VALUES (?, 0, ?)
		ON CONFLICT (writer) DO UPDATE SET at = excluded.at`, b.Writer, now); err != nil {
		return false, err
	}
	n, err := t.exec("UPDATE usage_batches SET number = ? WHERE writer = ? AND number < ?", b.Number,
		b.Writer, b.Number)
	return n > 0, err
}

// A usageRowKey identifies a row in one series.
type usageRowKey struct {
	begin   int64
	subject [3]string
	outcome keystore.Outcome
}

type usageCounts map[usageRowKey]*keystore.UsageCounts

// usageOf returns what a batch adds to the tables of a series: to the minutes, and to each longer
// step into which the minute is already rolled up.
func (t *tx) usageOf(
	b *keystore.UsageBatch, s *usageSeries, marks *usageMarks,
) map[usageTable]usageCounts {
	added := make(map[usageTable]usageCounts)
	for i := range b.Rows {
		r := &b.Rows[i]
		if r.UsageCounts == (keystore.UsageCounts{}) {
			continue // the row only notes its operation: see keystore.UsageBatch
		}
		key := usageRowKey{toMinutes(r.Begin), s.subjectOf(r), r.Outcome}
		for i := range key.subject {
			key.subject[i] = t.db.text(key.subject[i])
		}
		for step := keystore.Minute; step != ""; step = longer(step) {
			if key.begin, _ = bucket(step, key.begin); step != keystore.Minute &&
				!marks.of(s, step).rolled(key.begin, key.subject) {
				break
			}
			table := usageTableOf(step, key.begin)
			if table.begin < marks.Dropped[step] {
				continue
			}
			if added[table] == nil {
				added[table] = make(usageCounts)
			}
			if added[table][key] == nil {
				added[table][key] = new(keystore.UsageCounts)
			}
			added[table][key].Add(&r.UsageCounts)
		}
	}
	return added
}

func compareTables(a, b usageTable) int {
	return cmp.Or(strings.Compare(string(a.step), string(b.step)), cmp.Compare(a.begin, b.begin))
}

func compareRowKeys(a, b usageRowKey) int {
	return cmp.Or(cmp.Compare(a.begin, b.begin), slices.Compare(a.subject[:], b.subject[:]),
		cmp.Compare(a.outcome, b.outcome))
}

// insertUsage adds counts to a table.
func (t *tx) insertUsage(table string, s *usageSeries, counts usageCounts) error {
	rows := make([][]any, 0, len(counts))
	for _, key := range slices.SortedFunc(maps.Keys(counts), compareRowKeys) {
		row := []any{key.begin, key.subject[0], key.subject[1], key.subject[2],
			key.outcome.String()}
		for _, n := range counters(counts[key]) {
			if *n == 0 {
				row = append(row, nil)
			} else {
				row = append(row, *n)
			}
		}
		rows = append(rows, row)
	}
	insert := "INSERT INTO " + table + " (begins, " + s.columns() + ", outcome, " +
		eachCounter("%") + ") "
	if t.db.prepares { // faster than decoding JSON
		insert += "VALUES (" + strings.Repeat("?, ", len(rows[0])-1) + "?)" +
			onUsageConflict(table, s)
		for _, row := range rows {
			if _, err := t.exec(insert, row...); err != nil {
				return err
			}
		}
		return nil
	}
	array, err := fromJSON(rows)
	if err != nil {
		return err
	}
	_, err = t.exec(insert+"SELECT "+usageItem+" FROM "+t.db.items+" r WHERE true"+
		onUsageConflict(table, s), array)
	return err
}

// insertOperations notes the operations that a batch has used.
func (t *tx) insertOperations(b *keystore.UsageBatch) error {
	last := make(map[[2]string]int64)
	for i := range b.Rows {
		r := &b.Rows[i]
		if r.Outcome.Refuses() {
			continue
		}
		day, _ := bucket(keystore.Day, toMinutes(r.Begin))
		used := [2]string{t.db.text(r.Key), t.db.text(r.Operation)}
		last[used] = max(last[used], day)
	}
	rows := make([][3]any, 0, len(last))
	for _, used := range slices.SortedFunc(maps.Keys(last), func(a, b [2]string) int {
		return slices.Compare(a[:], b[:])
	}) {
		rows = append(rows, [3]any{used[0], used[1], last[used]})
	}
	array, err := fromJSON(rows)
	if err != nil {
		return err
	}
	// A late batch may be about keys that were deleted. Nobody would delete its rows.
	key, operation := item(0, "text"), item(1, "text")
	_, err = t.exec("INSERT INTO usage_operations (key_id, operation, day) SELECT "+key+", "+
		operation+", "+item(2, "integer")+" FROM "+t.db.items+" r "+
		"WHERE EXISTS (SELECT 1 FROM keys k WHERE k.id = "+key+") ORDER BY "+key+", "+operation+
		" ON CONFLICT (key_id, operation) DO UPDATE SET day = excluded.day "+
		"WHERE excluded.day > usage_operations.day", array)
	return err
}

// usageItem are the columns of a JSON array r in the order of insertUsage.
var usageItem = func() string {
	list := []string{item(0, "integer")}
	for i := 1; i <= 4; i++ {
		list = append(list, item(i, "text"))
	}
	for i := range counterColumns {
		list = append(list, item(5+i, "bigint"))
	}
	return strings.Join(list, ", ")
}()

// item is an expression for an item of a JSON array r.
func item(i int, kind string) string {
	return fmt.Sprintf("CAST(r.value ->> %d AS %s)", i, kind)
}
