package sqldb

import (
	"context"
	"fmt"
	"slices"
	"strconv"
)

// A clause is a piece of a query, with the arguments for the places in it.
type clause struct {
	sql  string
	args []any
}

// every is the condition that all fit.
var every = clause{sql: "1 = 1"}

// and is the condition that both hold.
func (c clause) and(other clause) clause { return c.join(" AND ", other) }

// within is a clause between two texts.
func (c clause) within(before, after string) clause {
	return clause{before + c.sql + after, c.args}
}

func (c clause) join(by string, other clause) clause {
	return clause{c.sql + by + other.sql, slices.Concat(c.args, other.args)}
}

// joined are some clauses, each with a text before the next.
func joined(by string, list []clause) (all clause) {
	for i, c := range list {
		if i > 0 {
			all.sql += by
		}
		all = all.join("", c)
	}
	return all
}

// A way leads to the rows that fulfil one condition of a filter.
type way struct {
	ids clause // query for them, which an index answers
	// by which together all of them are found, each by an index that has them in the order of
	// pages; none: there is no such index
	ordered []clause
	also    clause // beside ordered, query for a few ids more; empty: none
	// the condition, where another way is taken: a || in it keeps SQLite to the index of that one
	filter clause
}

// choose takes the way that leads to the fewest rows: by another, a page might have to go through
// all that fulfils the one condition to find what fulfils this one too. Where all lead to more than
// may be looked through, it is the first that has the order of pages, -1 if none has. rest is the
// condition that the other ways leave. few says that the way leads to no more than may be looked
// through; a single one is only counted if count says so.
func (d *DB) choose(
	ctx context.Context, ways []way, count bool,
) (taken int, rest clause, few bool, err error) {
	taken = slices.IndexFunc(ways, func(w way) bool { return len(w.ordered) > 0 })
	if len(ways) > 1 || len(ways) == 1 && (taken < 0 || count) {
		rare, err := d.rarest(ctx, ways)
		if err != nil {
			return 0, clause{}, false, err
		}
		if few = rare >= 0; few {
			taken = rare
		}
	}
	rest = every
	for i, w := range ways {
		if i != taken {
			rest = rest.and(w.filter)
		}
	}
	return taken, rest, few, nil
}

// rarest is the way that leads to the fewest rows, -1 if all lead to more than may be looked
// through.
func (d *DB) rarest(ctx context.Context, ways []way) (int, error) {
	counts := make([]clause, len(ways))
	for i, w := range ways {
		counts[i] = w.ids.join(" LIMIT ?",
			clause{args: []any{d.lookedThrough + 1}}).within("SELECT "+strconv.Itoa(i)+
			", count(*) FROM (", ") AS w")
	}
	all := joined(" UNION ALL ", counts)
	least, err := list(d.read(ctx), func(scan func(...any) error) (least [2]int, err error) {
		return least, scan(&least[0], &least[1])
	}, all.sql+" ORDER BY 2, 1 LIMIT 1", all.args...)
	if err != nil || least[0][1] > d.lookedThrough {
		return -1, err
	}
	return least[0][0], nil
}

// through is a FROM with a condition: rows by a query for ids that finds few.
func (d *DB) through(ids clause, rows string) clause {
	return clause{fmt.Sprintf(d.few, ids.sql) + " few CROSS JOIN " + rows, ids.args}
}
