package sqldb

import (
	"context"
	"fmt"
	"slices"
	"strconv"
)

// A clause is a part of a query with its arguments.
type clause struct {
	sql  string
	args []any
}

// always is a condition that every row meets.
var always = clause{sql: "1 = 1"}

// and returns the condition that both conditions hold.
func (c clause) and(other clause) clause { return c.join(" AND ", other) }

// within puts a clause between two texts.
func (c clause) within(before, after string) clause {
	return clause{before + c.sql + after, c.args}
}

// join puts another clause after this one, with a text between them.
func (c clause) join(by string, other clause) clause {
	return clause{c.sql + by + other.sql, slices.Concat(c.args, other.args)}
}

// joined joins clauses, with a text between them.
func joined(by string, list []clause) (all clause) {
	for i, c := range list {
		if i > 0 {
			all.sql += by
		}
		all = all.join("", c)
	}
	return all
}

// An accessPath finds the rows that meet one condition of a filter through an index.
type accessPath struct {
	ids clause // query for their ids, answered from an index
	// ordered are queries that together find all rows, each from an index in the order of pages. It
	// is empty if there is no such index.
	ordered []clause
	extra   clause // query for a few more ids that ordered does not find; empty: none
	// filter is the condition itself, for queries that take another path. A || in it keeps SQLite
	// from using this path's index.
	filter clause
}

// choose picks the most selective access path; any other could scan every row that matches one
// condition to find the few that match all. If all paths lead to more than maxScan rows, it picks
// the first that has the order of pages, or -1 if none has. rest is the condition of the other
// paths. bounded reports whether the picked path leads to at most maxScan rows. choose counts the
// rows of a single path only if count is set or the path does not have the order of pages.
func (d *DB) choose(
	ctx context.Context, paths []accessPath, count bool,
) (picked int, rest clause, bounded bool, err error) {
	picked = slices.IndexFunc(paths, func(p accessPath) bool { return len(p.ordered) > 0 })
	if len(paths) > 1 || len(paths) == 1 && (picked < 0 || count) {
		selective, err := d.mostSelective(ctx, paths)
		if err != nil {
			return 0, clause{}, false, err
		}
		if bounded = selective >= 0; bounded {
			picked = selective
		}
	}
	rest = always
	for i, p := range paths {
		if i != picked {
			rest = rest.and(p.filter)
		}
	}
	return picked, rest, bounded, nil
}

// mostSelective returns the index of the access path that leads to the fewest rows, or -1 if all
// lead to more than maxScan.
func (d *DB) mostSelective(ctx context.Context, paths []accessPath) (int, error) {
	counts := make([]clause, len(paths))
	for i, p := range paths {
		counts[i] = p.ids.join(" LIMIT ?", clause{args: []any{d.maxScan + 1}}).
			within("SELECT "+strconv.Itoa(i)+", count(*) FROM (", ") AS path")
	}
	all := joined(" UNION ALL ", counts)
	least, err := list(d.read(ctx), func(scan func(...any) error) (least [2]int, err error) {
		return least, scan(&least[0], &least[1])
	}, all.sql+" ORDER BY 2, 1 LIMIT 1", all.args...)
	if err != nil || least[0][1] > d.maxScan {
		return -1, err
	}
	return least[0][0], nil
}

// joinIDs returns a join of a query for a few ids, as a table named ids, with the tables in rows.
// rows includes the join condition.
func (d *DB) joinIDs(ids clause, rows string) clause {
	return clause{fmt.Sprintf(d.distinctIDs, ids.sql) + " ids CROSS JOIN " + rows, ids.args}
}
