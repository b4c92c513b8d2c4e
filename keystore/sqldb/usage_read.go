package sqldb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// outcomesByName has every outcome by its name in the tables.
var outcomesByName = func() map[string]keystore.Outcome {
	m := make(map[string]keystore.Outcome, keystore.NumOutcomes)
	for o := range keystore.Outcome(keystore.NumOutcomes) {
		m[o.String()] = o
	}
	return m
}()

// groupColumns are expressions for the groups of a query.
var groupColumns = map[keystore.UsageGroup]string{
	"": "CAST('' AS text)", keystore.ByKey: "key_id", keystore.ByNamespace: "namespace",
	keystore.ByOwner: "owner", keystore.ByOperation: "operation",
}

// maxTables is the maximum number of tables in one UNION ALL. SQLite allows 500.
const maxTables = 400

// Usage implements [keystore.Database]. Usage that is not rolled up yet is computed from shorter
// steps.
func (d *DB) Usage(ctx context.Context, q keystore.UsageQuery) ([]keystore.UsageSum, error) {
	const operation = "reading usage"
	switch {
	case !slices.Contains(keystore.Periods, q.Step):
		return nil, fmt.Errorf("%s: %q is not a step", operation, q.Step)
	case groupColumns[q.By] == "":
		return nil, fmt.Errorf("%s: usage is not kept by %q", operation, q.By)
	case q.By == keystore.ByOperation && q.Keys != nil:
		return nil, errors.New(operation + ": usage of single keys is not kept by operation")
	case q.Keys != nil && len(q.Keys) == 0,
		q.Namespaces != nil && len(q.Namespaces) == 0 && len(q.OrOwners) == 0:
		return nil, nil
	}
	var sums []keystore.UsageSum
	for attempt := 1; ; attempt++ {
		err := d.retryLost(ctx, func() (err error) {
			sums, err = d.readUsage(ctx, q)
			return err
		})
		// In PostgreSQL a table may be dropped between two queries.
		if d.sqlState(err) != undefinedTable || attempt == 3 {
			return sums, d.fail(ctx, operation, err)
		}
	}
}

func (d *DB) readUsage(
	ctx context.Context, q keystore.UsageQuery,
) ([]keystore.UsageSum, error) {
	options := sql.TxOptions{Isolation: sql.LevelRepeatableRead, ReadOnly: true}
	snapshot, err := d.bulk.BeginTx(ctx, &options)
	if err != nil {
		return nil, err
	}
	defer snapshot.Rollback()
	query := func(query string, args ...any) (*sql.Rows, error) {
		return snapshot.QueryContext(ctx, d.bind(query), append(slices.Clip(d.replan),
			d.texts(args)...)...)
	}
	marks, tables, err := usageState(query, " AND "+d.current)
	if err != nil {
		return nil, err
	}
	s, where, err := d.selectedUsage(&q)
	if err != nil {
		return nil, err
	}
	group := groupColumns[q.By]
	if q.Limit > 0 && q.By != "" {
		parts := usageParts(&q, s, &marks, tables, where, group+" AS g, requests AS n")
		if len(parts) == 0 {
			return nil, nil
		}
		most := unionOf(parts).within("SELECT g FROM (",
			") u GROUP BY g ORDER BY coalesce(sum(n), 0) DESC, g LIMIT ?")
		groups, err := list(query, scanText, most.sql, append(most.args, q.Limit)...)
		if err != nil {
			return nil, err
		}
		array, err := d.array(groups)
		if err != nil {
			return nil, err
		}
		where = where.and(clause{group + " " + d.among, []any{array}})
	}
	parts := usageParts(&q, s, &marks, tables, where,
		group+" AS g, BUCKET AS b, outcome, "+eachCounter("%"))
	if len(parts) == 0 {
		return nil, nil
	}
	all := unionOf(parts).within("SELECT g, b, outcome, "+
		eachCounter("coalesce("+d.sumOfUsage()+", 0)")+" FROM (",
		") u GROUP BY g, b, outcome ORDER BY g, b, outcome")
	return list(query, scanUsageSum, all.sql, all.args...)
}

func scanUsageSum(scan func(...any) error) (sum keystore.UsageSum, err error) {
	var begin int64
	var outcome string
	into := []any{&sum.Group, &begin, &outcome}
	for _, n := range counters(&sum.UsageCounts) {
		into = append(into, n)
	}
	if err := scan(into...); err != nil {
		return sum, err
	}
	o, known := outcomesByName[outcome]
	if !known {
		return sum, fmt.Errorf("unknown outcome %q, written by a later release: upgrade this node",
			outcome)
	}
	sum.Outcome, sum.Begin = o, fromMinutes(begin)
	return sum, nil
}

// selectedUsage returns the series that answers a query, and the condition on its rows.
func (d *DB) selectedUsage(q *keystore.UsageQuery) (s *usageSeries, where clause, err error) {
	s, where = &byGroup, always
	if q.Keys != nil || q.By == keystore.ByKey {
		s = &byKey
	}
	if q.Keys != nil {
		array, err := d.array(q.Keys)
		if err != nil {
			return nil, clause{}, err
		}
		where = where.and(clause{"key_id " + d.among, []any{array}})
	}
	if q.Home != "" {
		where = where.and(clause{"namespace = ?", []any{q.Home}})
	}
	if q.Namespaces != nil {
		array, err := d.array(q.Namespaces)
		if err != nil {
			return nil, clause{}, err
		}
		seen := clause{"namespace " + d.among, []any{array}}
		if len(q.OrOwners) > 0 {
			array, err := d.array(q.OrOwners)
			if err != nil {
				return nil, clause{}, err
			}
			seen = seen.join(" OR ", clause{"owner " + d.among, []any{array}}).within("(", ")")
		}
		where = where.and(seen)
	}
	return s, where, nil
}

// usageParts returns SQL queries, one for each table that has rows for q. In columns, BUCKET stands
// for the beginning of the bucket.
func usageParts(
	q *keystore.UsageQuery, s *usageSeries, marks *usageMarks, tables []usageTable, where clause,
	columns string,
) (parts []clause) {
	from, to := int64(0), int64(math.MaxInt32)
	if !q.From.IsZero() {
		from = toMinutes(q.From)
	}
	if !q.To.IsZero() {
		to = toMinutes(q.To)
	}
	depth := slices.Index(keystore.Periods, q.Step)
	for _, table := range tables {
		first, part := from, where
		switch i := slices.Index(keystore.Periods, table.step); {
		case i > depth:
			continue
		case i < depth: // rows that are not rolled up
			mark := marks.of(s, longer(table.step))
			if table.begin < mark.Bucket {
				continue
			}
			if table.begin == mark.Bucket && len(mark.After) > 0 {
				part = part.and(s.compared(">", mark.After))
			}
		}
		first, last := max(first, table.begin), min(to, table.end())
		if first >= last {
			continue
		}
		begin := "begins"
		if table.step != q.Step {
			at, _ := bucket(q.Step, table.begin)
			begin = strconv.FormatInt(at, 10)
		}
		part = part.and(bucketsOf(table, first, last, q.Keys != nil))
		parts = append(parts, part.within("SELECT "+strings.Replace(columns, "BUCKET", begin, 1)+
			" FROM "+table.name(s)+" WHERE ", ""))
	}
	return parts
}

// bucketsOf is the condition that a row's bucket begins in a range. If each is set, it lists the
// minutes, at most 60: they come first in the index, so a search for keys has to name each.
func bucketsOf(table usageTable, first, last int64, each bool) clause {
	switch {
	case first <= table.begin && last >= table.end() && !(each && table.step == keystore.Minute):
		return always
	case !each || table.step != keystore.Minute:
		return clause{"begins >= ? AND begins < ?", []any{first, last}}
	}
	return clause{sql: "begins IN (" + minutes(first, last) + ")"}
}

// minutes returns the minutes from first to last, without last, as an SQL list.
func minutes(first, last int64) string {
	var list []string
	for m := first; m < last; m++ {
		list = append(list, strconv.FormatInt(m, 10))
	}
	return strings.Join(list, ", ")
}

// unionOf joins queries with UNION ALL. SQLite limits how many one UNION ALL can have.
func unionOf(parts []clause) clause {
	if len(parts) <= maxTables {
		return joined(" UNION ALL ", parts)
	}
	var chunks []clause
	for chunk := range slices.Chunk(parts, maxTables) {
		chunks = append(chunks, joined(" UNION ALL ", chunk).within("SELECT * FROM (", ") c"))
	}
	return joined(" UNION ALL ", chunks)
}

// UsedOperations implements [keystore.Database].
func (d *DB) UsedOperations(
	ctx context.Context, keys []string,
) (map[string]map[string]time.Time, error) {
	const operation = "reading the operations of keys"
	used := make(map[string]map[string]time.Time)
	array, err := d.array(keys)
	if err != nil {
		return nil, err
	}
	rows, err := d.read(ctx)("SELECT key_id, operation, day FROM usage_operations WHERE key_id "+
		d.among+" AND "+d.current, array)
	if err != nil {
		return nil, d.fail(ctx, operation, err)
	}
	defer rows.Close()
	for rows.Next() {
		var key, name string
		var day int64
		if err := rows.Scan(&key, &name, &day); err != nil {
			return nil, d.fail(ctx, operation, err)
		}
		if used[key] == nil {
			used[key] = make(map[string]time.Time)
		}
		used[key][name] = fromMinutes(day)
	}
	return used, d.fail(ctx, operation, rows.Err())
}
