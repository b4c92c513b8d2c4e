package keystoretest

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

func testAudits(t *testing.T, s Store) {
	db, other := ready(t, s), s.Open(t)
	var rows []*keystore.AuditRow
	for i, row := range []struct {
		actor, action, object string
		namespaces            []string
	}{
		{"root", "namespace.create", "a", []string{"a"}},
		{"m_1", "key.mint", "k1", []string{"a", "b"}},
		{"m_1", "key.mint", "k2", []string{"b"}},
		{"m_2", "key.revoke", "k1", []string{"b", "a", "b"}},
		{"root", "member.create", "m_1", nil},
		{"root", "member.create", "m_2", []string{}},
		{"root", "role.create", "*/x", []string{"*"}},
		{"m_1", "namespace.create", `c"`, []string{`c"`}},
	} {
		rows = append(rows, &keystore.AuditRow{Seq: int64(i + 1),
			At: start.Add(time.Duration(i) * time.Second), Actor: row.actor, From: "127.0.0.1",
			Action: row.action, Object: row.object, Namespaces: row.namespaces, After: "{}",
			Hash: digest(fmt.Sprint(i))})
	}
	rows[1].At = start.Add(6 * time.Second) // afterwards the clock was corrected
	update(t, db, func(tx keystore.Tx) error { return tx.AppendAudit(rows) })
	for _, row := range []struct {
		filter keystore.AuditFilter
		want   string
	}{
		{keystore.AuditFilter{}, "8 7 6 5 4 3 2 1"},
		{keystore.AuditFilter{Namespaces: []string{}}, ""},
		{keystore.AuditFilter{Namespaces: []string{"a"}}, "1"},
		{keystore.AuditFilter{Namespaces: []string{"A"}}, ""},
		{keystore.AuditFilter{Namespaces: []string{"b", "b"}}, "3"},
		{keystore.AuditFilter{Namespaces: []string{"a", "b", "nowhere"}}, "4 3 2 1"},
		{keystore.AuditFilter{Namespaces: []string{"*", `c"`}}, "8 7"},
		{keystore.AuditFilter{Namespace: "b"}, "4 3 2"},
		{keystore.AuditFilter{Namespace: "b", Object: "k1"}, "4 2"},
		{keystore.AuditFilter{Namespace: "nowhere"}, ""},
		{keystore.AuditFilter{Namespace: "b", Namespaces: []string{"b"}}, "3"},
		{keystore.AuditFilter{Namespace: "b", Namespaces: []string{"a"}}, ""},
		{keystore.AuditFilter{Namespace: "b", Namespaces: []string{}}, ""},
		{keystore.AuditFilter{Object: "k1", Namespaces: []string{"a"}}, ""},
		{keystore.AuditFilter{Object: "k1", Namespaces: []string{}}, ""},
		{keystore.AuditFilter{Namespaces: many("a", "b")}, "4 3 2 1"},
		{keystore.AuditFilter{Actor: "m_1"}, "8 3 2"},
		{keystore.AuditFilter{Action: "key.mint"}, "3 2"},
		{keystore.AuditFilter{Object: "k1"}, "4 2"},
		{keystore.AuditFilter{Actor: "m_1", Action: "key.mint", Object: "k1",
			Namespaces: []string{"b", "a"}}, "2"},
		{keystore.AuditFilter{Actor: "nobody"}, ""},
		{keystore.AuditFilter{From: start.Add(2 * time.Second), To: start.Add(5 * time.Second)},
			"5 4 3"},
		{keystore.AuditFilter{From: start.Add(6*time.Second + time.Microsecond)}, "8"},
		{keystore.AuditFilter{To: start.Add(time.Microsecond)}, "1"},
		{keystore.AuditFilter{From: start.Add(6 * time.Second)}, "8 7 2"},
		{keystore.AuditFilter{From: start.Add(6 * time.Second), To: start.Add(7 * time.Second),
			Namespace: "b"}, "2"},
		{keystore.AuditFilter{From: start.Add(time.Hour)}, ""},
		{keystore.AuditFilter{From: start.Add(5 * time.Second), To: start.Add(3 * time.Second)},
			""},
		{keystore.AuditFilter{Namespace: "b", Namespaces: []string{"b", "a"}, Actor: "m_1"}, "3 2"},
		{keystore.AuditFilter{Namespace: "b", Actor: "m_2", Action: "key.revoke"}, "4"},
		{keystore.AuditFilter{Namespaces: many("a", "b"), Actor: "m_1",
			To: start.Add(4 * time.Second)}, "3"},
	} {
		for _, limit := range []int{1, 2, 3, 100} {
			var got []string
			for cursor := ""; ; {
				page, next, err := other.Audits(ctx, row.filter, cursor, limit)
				must(t, err)
				if len(page) > limit || next != "" && len(page) == 0 {
					t.Fatalf("a page of %d rows, limit %d", len(page), limit)
				}
				for _, r := range page {
					got = append(got, fmt.Sprint(r.Seq))
					if want := rows[r.Seq-1]; !reflect.DeepEqual(&r, want) {
						t.Errorf("row %+v, want %+v", r, want)
					}
				}
				if cursor = next; next == "" {
					break
				}
			}
			if strings.Join(got, " ") != row.want {
				t.Errorf("%+v in pages of %d: %v, want %s", row.filter, limit, got, row.want)
			}
		}
	}
	_, _, err := db.Audits(ctx, keystore.AuditFilter{}, "not a cursor", 5)
	if e, ok := errors.AsType[*keystore.Error](err); !ok || e.Kind != keystore.KindInvalid {
		t.Errorf("a bad cursor: %v", err)
	}

	// chain returns the rows on all pages of the chain.
	chain := func(after int64) (got []*keystore.AuditRow, pages int) {
		t.Helper()
		for {
			page, err := other.AuditChain(ctx, after, 500)
			must(t, err)
			if len(page) == 0 {
				return got, pages
			}
			bytes := 0
			for i := range page {
				got = append(got, &page[i])
				if i > 0 && i < len(page)-1 {
					bytes += len(page[i].Before) + len(page[i].After)
				}
			}
			if bytes > 1<<20 || len(page) > 500 {
				t.Errorf("a page of %d rows and %d bytes", len(page), bytes)
			}
			after = page[len(page)-1].Seq
			pages++
		}
	}
	if got, _ := chain(0); !reflect.DeepEqual(got, rows) {
		t.Errorf("the chain %+v, want %+v", got, rows)
	}
	if got, _ := chain(7); !reflect.DeepEqual(got, rows[7:]) {
		t.Errorf("the chain after 7: %+v", got)
	}
	wide := strings.Repeat("ü", 1<<20)
	for i := range 3000 {
		row := &keystore.AuditRow{Seq: int64(len(rows) + 1), At: start, After: "{}"}
		if i%1000 == 0 {
			row.Before, row.After = wide, wide
		}
		rows = append(rows, row)
	}
	update(t, db, func(tx keystore.Tx) error { return tx.AppendAudit(rows[8:]) })
	if got, pages := chain(0); !reflect.DeepEqual(got, rows) || pages < 4 {
		t.Errorf("a long chain: %d rows in %d pages, want %d", len(got), pages, len(rows))
	}
	// A page has more than its first row, however large that row is: the caller may know that row
	// already.
	for _, limit := range []int{1, 2, 3} {
		if page, err := other.AuditChain(ctx, 8, limit); err != nil || len(page) != limit ||
			page[0].Seq != 9 {
			t.Errorf("%d rows of a page that begins with a large row, limit %d: %v", len(page),
				limit, err)
		}
	}
}

// many adds many namespaces that do not exist.
func many(namespaces ...string) []string {
	for i := range 400 {
		namespaces = append(namespaces, fmt.Sprint("nowhere", i))
	}
	return namespaces
}
