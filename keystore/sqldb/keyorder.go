package sqldb

import (
	"encoding/base64"
	"math"
	"strconv"
	"strings"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// An order is the order of pages: by place, then by id.
type order struct {
	place   string                  // expression for the sort value of a key k with last_uses u
	value   func(*keystore.Key) any // the sort value, an int64 or a string
	name    string                  // in cursors; empty: none
	down    bool
	indexed bool
}

var byCreation = order{place: "k.created_at",
	value: func(k *keystore.Key) any { return k.CreatedAt.UnixMicro() }, indexed: true}

// orders are ascending. A key without expiry sorts after all others, a key that was never used
// before them.
var orders = map[string]order{
	"":           byCreation,
	"created_at": byCreation,
	"name": {name: "name", place: "lower(k.name)",
		value: func(k *keystore.Key) any { return lower(k.Name) }},
	"expires_at": {name: "expires_at",
		place: "coalesce(k.expires_at, " + strconv.FormatInt(math.MaxInt64, 10) + ")",
		value: func(k *keystore.Key) any {
			if k.ExpiresAt.IsZero() {
				return int64(math.MaxInt64)
			}
			return k.ExpiresAt.UnixMicro()
		}},
	"last_used_at": {name: "last_used_at", place: "coalesce(u.used_at, -1)",
		value: func(k *keystore.Key) any {
			if k.LastUsedAt.IsZero() {
				return int64(-1)
			}
			return k.LastUsedAt.UnixMicro()
		}},
}

func orderOf(s keystore.KeySort) (order, error) {
	word, down := strings.CutPrefix(string(s), "-")
	o, ok := orders[word]
	if !ok || string(s) == "-" {
		return o, invalid("sort", "must be created_at, name, expires_at or last_used_at, "+
			"with or without a leading minus")
	}
	o.down = down || s == keystore.NewestFirst
	return o, nil
}

// by returns the ORDER BY of this order.
func (o *order) by(place, id string) string {
	direction := ""
	if o.down {
		direction = " DESC"
	}
	return " ORDER BY " + place + direction + ", " + id + direction
}

// cursor returns the position of a key in this order.
func (o *order) cursor(k *keystore.Key) string {
	var value string
	switch v := o.value(k).(type) {
	case int64:
		value = strconv.FormatInt(v, 10)
	case string:
		// A URL needs no escaping for it.
		value = base64.RawURLEncoding.EncodeToString([]byte(v))
	}
	if o.name != "" {
		value = o.name + "." + value
	}
	return value + "_" + k.ID
}

// after returns the condition that a key comes after a cursor.
func (o *order) after(cursor string) (clause, error) {
	if o.down {
		return o.compared("<", cursor)
	}
	return o.compared(">", cursor)
}

// upTo returns the condition that a key comes before a cursor or is at it.
func (o *order) upTo(cursor string) (clause, error) {
	if o.down {
		return o.compared(">=", cursor)
	}
	return o.compared("<=", cursor)
}

// compared returns the condition that the position of a key has this relation to a cursor.
func (o *order) compared(relation, cursor string) (clause, error) {
	if o.name != "" {
		rest, ok := strings.CutPrefix(cursor, o.name+".")
		if !ok {
			return clause{}, badCursor()
		}
		cursor = rest
	}
	var word, id string
	if i := strings.LastIndexByte(cursor, '_'); i >= 0 { // base64 may contain '_' too
		word, id = cursor[:i], cursor[i+1:]
	}
	var value any
	var err error
	switch o.value(new(keystore.Key)).(type) {
	case int64:
		value, err = strconv.ParseInt(word, 10, 64)
	case string:
		var b []byte
		b, err = base64.RawURLEncoding.DecodeString(word)
		value = string(b)
	}
	if err != nil || id == "" {
		return clause{}, badCursor()
	}
	return clause{"(" + o.place + ", k.id) " + relation + " (?, ?)", []any{value, id}}, nil
}

// lower converts ASCII letters only, like the databases: SQLite's function knows no others, and
// neither does PostgreSQL's for a column with the collation "C".
func lower(s string) string {
	b := []byte(s)
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return string(b)
}

// union returns the sort values and ids of the keys in all parts that meet a condition. Each part
// has its own order and limit, because otherwise PostgreSQL would read it completely.
func (o *order) union(parts []clause, where clause, page string, bound int) clause {
	pages := make([]clause, len(parts))
	for i, p := range parts {
		p = p.and(where)
		pages[i] = clause{"SELECT place, id FROM (SELECT " + o.place + " AS place, k.id FROM " +
			p.sql + o.by("1", "2") + page + ") AS part", append(p.args, bound)}
	}
	return joined(" UNION ", pages)
}
