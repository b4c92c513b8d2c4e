package sqldb

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// A usageSeries is one of two series of tables with the same counters.
type usageSeries struct {
	name string
	// subject are the columns that, with the bucket and the outcome, identify a row.
	subject [3]string
}

var (
	byKey   = usageSeries{"key", [3]string{"key_id", "namespace", "owner"}}
	byGroup = usageSeries{"group", [3]string{"namespace", "owner", "operation"}}
	// allSeries lists both.
	allSeries = []usageSeries{byKey, byGroup}
)

// subjectOf returns the values of the series' columns. Texts are as they are stored.
func (s *usageSeries) subjectOf(r *keystore.UsageRow) [3]string {
	if s.name == byKey.name {
		return [3]string{r.Key, r.Namespace, r.Owner}
	}
	return [3]string{r.Namespace, r.Owner, r.Operation}
}

// columns returns the names of the subject's columns.
func (s *usageSeries) columns() string { return strings.Join(s.subject[:], ", ") }

// compared is a condition that compares subjects, bytewise.
func (s *usageSeries) compared(operator string, to []string) clause {
	return clause{"(" + s.columns() + ") " + operator + " (?, ?, ?)", []any{to[0], to[1], to[2]}}
}

// A usageTable stands for two tables with buckets of one step, one table in each series. Buckets
// are minutes since 1970. A table holds the buckets within one bucket of the next longer step, so a
// table is rolled up into one bucket.
type usageTable struct {
	step  keystore.Period
	begin int64
}

// usageTableOf returns the table that holds the bucket that begins at a time.
func usageTableOf(step keystore.Period, bucket int64) usageTable {
	begin, _ := span(step, bucket)
	return usageTable{step, begin}
}

func (t usageTable) name(s *usageSeries) string {
	layout := map[keystore.Period]string{keystore.Minute: "2006010215", keystore.Hour: "20060102",
		keystore.Day: "200601", keystore.Month: "2006"}[t.step]
	return fmt.Sprintf("usage_%s_%s_%s", t.step, s.name, fromMinutes(t.begin).Format(layout))
}

func (t usageTable) end() int64 {
	_, end := span(t.step, t.begin)
	return end
}

// longer returns the step into which a step is rolled up, or an empty one for months.
func longer(step keystore.Period) keystore.Period {
	i := slices.Index(keystore.Periods, step) + 1
	if i == len(keystore.Periods) {
		return ""
	}
	return keystore.Periods[i]
}

// shorter returns the step from which a step is rolled up.
func shorter(step keystore.Period) keystore.Period {
	return keystore.Periods[slices.Index(keystore.Periods, step)-1]
}

// span returns the beginning and the end of a table with buckets of a step.
func span(step keystore.Period, at int64) (begin, end int64) {
	if wider := longer(step); wider != "" {
		return bucket(wider, at)
	}
	year := fromMinutes(at).Year()
	return toMinutes(time.Date(year, 1, 1, 0, 0, 0, 0, time.UTC)),
		toMinutes(time.Date(year+1, 1, 1, 0, 0, 0, 0, time.UTC))
}

// bucket returns the beginning and the end of a bucket.
func bucket(step keystore.Period, at int64) (begin, end int64) {
	from, to := step.Of(fromMinutes(at))
	return toMinutes(from), toMinutes(to)
}

func toMinutes(t time.Time) int64         { return t.Unix() / 60 }
func fromMinutes(minutes int64) time.Time { return time.Unix(60*minutes, 0).UTC() }

// counterColumns are in the order of counters. NULL is 0, because it takes no space.
var counterColumns = func() []string {
	list := []string{"requests", "units", "bytes_in", "bytes_out"}
	var counts keystore.UsageCounts
	for i := range counts.Status {
		list = append(list, fmt.Sprintf("status_%dxx", i+1))
	}
	for i := range counts.Latency {
		list = append(list, fmt.Sprintf("latency_%d", i+1))
	}
	return list
}()

// counters returns the fields of counts.
func counters(c *keystore.UsageCounts) []*int64 {
	list := []*int64{&c.Requests, &c.Units, &c.BytesIn, &c.BytesOut}
	for i := range c.Status {
		list = append(list, &c.Status[i])
	}
	for i := range c.Latency {
		list = append(list, &c.Latency[i])
	}
	return list
}

// eachCounter joins an expression for each counter by commas. In the format, % stands for the
// column.
func eachCounter(format string) string {
	var list []string
	for _, c := range counterColumns {
		list = append(list, strings.ReplaceAll(format, "%", c))
	}
	return strings.Join(list, ", ")
}

// createUsage returns the statement that creates a table.
func (d *DB) createUsage(table usageTable, s *usageSeries) string {
	var columns strings.Builder
	for _, c := range s.subject {
		columns.WriteString(c + " TEXT" + d.bytewise + " NOT NULL, ")
	}
	options := d.usageTable
	if table.step == keystore.Minute {
		options = d.usageMinutes
	}
	return "CREATE TABLE " + table.name(s) + " (" + columns.String() +
		"begins INTEGER NOT NULL, outcome TEXT" + d.bytewise + " NOT NULL, " +
		eachCounter("% "+d.bigint) + ", PRIMARY KEY (" + primaryKey(table.step, s) + "))" + options
}

// primaryKey returns the columns of the primary key, in the order of the table: minutes are in the
// order in which they are written, others in the order in which the history of a key is read.
func primaryKey(step keystore.Period, s *usageSeries) string {
	if step == keystore.Minute {
		return "begins, " + s.columns() + ", outcome"
	}
	return s.columns() + ", begins, outcome"
}

// onUsageConflict is the end of an INSERT into a table of usage: it adds the counts of a new row to
// those of an existing one, up to maxUnits.
func onUsageConflict(table string, s *usageSeries) string {
	t := table + ".%"
	return " ON CONFLICT (" + s.columns() + ", begins, outcome) DO UPDATE SET " +
		eachCounter("% = CASE WHEN "+t+" > "+maxUnits+" - excluded.% THEN "+maxUnits+
			" ELSE coalesce("+t+" + excluded.%, "+t+", excluded.%) END")
}

// sumOfUsage is an expression for the sum of a counter, at most maxUnits. It is NULL for 0.
func (d *dialect) sumOfUsage() string {
	sum := d.total + "(%)"
	return "CAST(CASE WHEN " + sum + " > " + maxUnits + " THEN " + maxUnits + " ELSE nullif(" + sum +
		", 0) END AS bigint)"
}

var maxUnits = strconv.FormatInt(keystore.MaxUnits, 10)

// usageMarks is the row 'marks' of usage_state.
type usageMarks struct {
	// Rolled is how far each series is rolled up, by the names of the series and the step.
	Rolled map[string]map[keystore.Period]usageMark `json:"rolled,omitempty"`
	// Dropped is the end of the newest dropped table of each step. Older rows are not stored again.
	Dropped map[keystore.Period]int64 `json:"dropped,omitempty"`
	// Doomed is the table that is being dropped.
	Doomed *doomedTable `json:"doomed,omitempty"`
}

type doomedTable struct {
	Step  keystore.Period `json:"step"`
	Begin int64           `json:"begin"`
}

// A usageMark says which rows of a shorter step are in the tables of a step.
type usageMark struct {
	// Bucket is the first bucket that is not rolled up completely.
	Bucket int64 `json:"bucket"`
	// After is the last subject of Bucket that is rolled up. Empty: none.
	After []string `json:"after,omitempty"`
	// Minutes is how many minutes of Bucket had rows when its roll-up began. Zero: not known.
	Minutes int `json:"minutes,omitempty"`
}

func (m *usageMarks) of(s *usageSeries, step keystore.Period) usageMark {
	return m.Rolled[s.name][step]
}

func (m *usageMarks) set(s *usageSeries, step keystore.Period, mark usageMark) {
	if m.Rolled == nil {
		m.Rolled = make(map[string]map[keystore.Period]usageMark)
	}
	if m.Rolled[s.name] == nil {
		m.Rolled[s.name] = make(map[keystore.Period]usageMark)
	}
	m.Rolled[s.name][step] = mark
}

// rolled reports whether rows of a bucket's shorter step are rolled up into it.
func (m usageMark) rolled(bucket int64, subject [3]string) bool {
	return bucket < m.Bucket ||
		bucket == m.Bucket && len(m.After) > 0 && slices.Compare(subject[:], m.After) <= 0
}

// usageState reads the marks and the tables with a query each.
func usageState(q querier, lock string) (m usageMarks, tables []usageTable, err error) {
	texts, err := list(q, scanText, "SELECT value FROM usage_state WHERE name = 'marks'"+lock)
	if err != nil {
		return m, nil, err
	}
	if len(texts) == 0 {
		return m, nil, fmt.Errorf("the table usage_state has no row named marks")
	}
	if err := json.Unmarshal([]byte(texts[0]), &m); err != nil {
		return m, nil, unreadable("the marks of usage", err)
	}
	tables, err = list(q, func(scan func(...any) error) (t usageTable, err error) {
		return t, scan(&t.step, &t.begin)
	}, "SELECT step, begins FROM usage_tables ORDER BY begins")
	return m, tables, err
}
