package bench

import (
	"bufio"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

// manyKeys is the number of keys: BENCH_KEYS, or a million.
var manyKeys = numberFrom("BENCH_KEYS", 1_000_000)

const (
	mints      = 1000
	askers     = 8
	hotLength  = 10 * time.Second
	lists      = 15
	namespaces = 100

	// More keys than importedAtOnce are imported in batches, because Caddy keeps an import in its
	// memory until it is complete.
	importedAtOnce = 2_000_000
	// asked is the maximum number of random keys that requests use.
	asked = 1_000_000

	inactiveEach = 100 // one of 100 keys is inactive
)

// benchmarkKeys measures one Caddy with a very large number of keys in one of the databases.
func benchmarkKeys(b *testing.B, postgres bool) {
	var g *gate.Gate
	var f fleet
	// The shards of the cache do not get equal numbers of keys.
	limit := fmt.Sprintf("local_cache %d", manyKeys*3/2+10_000)
	if postgres {
		upstream := startUpstream(b)
		f = startFleetOf(b, gate.FleetConfig{NoCache: true,
			Each: func(_ int, _ string, c *gate.Config) {
				node(upstream, c.APIKeys+limit, c)
				c.Caddyfile += consoleSite
			}})
		g = f.Nodes[0]
	} else {
		var c gate.Config
		node(startUpstream(b), limit, &c)
		c.Caddyfile += consoleSite
		g = gate.Start(b, c)
	}
	m := manage(g)
	for i := range namespaces {
		m.call(b, "POST", "/namespaces",
			fmt.Appendf(nil, `{"id":"ns%d","kind":"tenant","name":"ns%d"}`, i, i), 201, new(any))
	}

	var t strings.Builder
	row := func(what, format string, args ...any) {
		fmt.Fprintf(&t, "| %s | %s |\n", what, fmt.Sprintf(format, args...))
	}
	t.WriteString("One Caddy.")
	if postgres {
		t.WriteString(" " + aboutPostgres)
	}
	t.WriteString("\n\n| what | measured |\n|---|---|\n")

	few := m.mintSome(b)
	tokens := newTokens(manyKeys)
	file := writeKeys(b, tokens)
	var plain, described []string
	for i, token := range tokens {
		switch {
		case i%inactiveEach == 0:
		case hasMetadata(i):
			described = append(described, token)
		default:
			plain = append(plain, token)
		}
	}
	for _, list := range []*[]string{&plain, &described} {
		rand.Shuffle(len(*list), func(i, j int) { (*list)[i], (*list)[j] = (*list)[j], (*list)[i] })
		*list = (*list)[:min(len(*list), asked/2)]
	}
	live := slices.Concat(plain, described)
	rand.Shuffle(len(live), func(i, j int) { live[i], live[j] = live[j], live[i] })
	walBefore := 0.0
	if postgres {
		walBefore = f.number(b, "SELECT pg_current_wal_lsn() - '0/0'")
	}
	command := []string{"keys", "import"}
	if manyKeys > importedAtOnce {
		command = append(command, "--partial")
	}
	begin := time.Now()
	if r := g.APIKeys(b, "", append(command, file)...); r.Exit != 0 {
		b.Fatalf("import: %v", r)
	}
	took := time.Since(begin)
	os.Remove(file)
	row("import of one file, `caddy apikeys "+strings.Join(command, " ")+"`",
		"%.0f keys per second, %v in total", float64(manyKeys)/took.Seconds(),
		took.Round(100*time.Millisecond))
	row("resident memory of Caddy afterwards, maximum until then", "%.0f MB, %.0f MB",
		megabytes(b, g, "VmRSS"), megabytes(b, g, "VmHWM"))
	if postgres {
		row("write-ahead log of the import", "%.0f MB",
			(f.number(b, "SELECT pg_current_wal_lsn() - '0/0'")-walBefore)/1e6)
		row("database on disk, after `CHECKPOINT`", "%.0f MB",
			f.number(b, "SELECT pg_database_size('postgres')")/1e6)
		row("largest tables: rows + indexes", "%s",
			f.query(b,
				"CHECKPOINT; SELECT string_agg(format('`%s` %s + %s MB', relname, "+
					"round(pg_table_size(oid) / 1e6), round(pg_indexes_size(oid) / 1e6)), ', ' "+
					"ORDER BY pg_total_relation_size(oid) DESC)\n"+
					"FROM (SELECT * FROM pg_class WHERE relkind = 'r' AND relnamespace = "+
					"current_schema()::regnamespace ORDER BY pg_total_relation_size(oid) DESC "+
					"LIMIT 4) AS c"))
		row("`pg_wal`", "%.0f MB", f.number(b, "SELECT sum(size) FROM pg_ls_waldir()")/1e6)
	} else {
		row("`apikeys.db`, its `-wal` file", "%.0f MB, %.0f MB",
			size(filepath.Join(g.Data, "apikeys.db")),
			size(filepath.Join(g.Data, "apikeys.db-wal")))
	}
	many := m.mintSome(b)
	row(fmt.Sprintf("%d keys created one after the other over REST, with few keys in the database",
		mints),
		"%.0f per second, p50 %v, p99 %v", few.perSecond(), tens(quantile(few.latencies, 0.5)),
		tens(quantile(few.latencies, 0.99)))
	row("the same with all keys in the database", "%.0f per second, p50 %v, p99 %v",
		many.perSecond(),
		tens(quantile(many.latencies, 0.5)), tens(quantile(many.latencies, 0.99)))

	plainCaddy := startCaddy(b, stock, startUpstream(b))
	starts := func(what string, g *gate.Gate, addr string) time.Duration {
		took := coldStarts(b, g, addr, described[0])
		row(what, "p50 %v, longest %v of %d", tens(quantile(took, 0.5)), tens(took[len(took)-1]),
			len(took))
		return quantile(took, 0.5)
	}
	starts("first answer of a stock Caddy, from the start of the process", plainCaddy.Gate,
		plainCaddy.sites["proxy"])
	first := starts("the same with `api_key` and all keys in the database", g, addr(g))
	report.bar(fmt.Sprintf("first answer after a cold start with %s keys, p50", grouped(manyKeys)),
		"≤ 200 ms", tens(first).String(), first <= 200*time.Millisecond)
	heap := func() float64 {
		g.CollectGarbage(b)
		return g.Metric(b, "go_memstats_heap_alloc_bytes")
	}
	emptyHeap, emptyResident := heap(), megabytes(b, g, "VmRSS")
	one := askAll(b, g, plain[:min(2000, len(plain)/10)], 1)
	row("first request with a key after a restart, over one connection", "p50 %v, p99 %v",
		tens(quantile(one.latencies, 0.5)), tens(quantile(one.latencies, 0.99)))
	cold := askAll(b, g, plain, askers)
	plainHeap := heap()
	rest := askAll(b, g, described, askers)
	describedHeap := heap()
	cold.took += rest.took
	cold.latencies = slices.Sorted(slices.Values(slices.Concat(cold.latencies, rest.latencies)))
	row(fmt.Sprintf("first requests with %s active keys in random order over %d connections",
		grouped(len(live)), askers), "%.0f per second, p50 %v, p99 %v, longest %v",
		cold.perSecond(),
		tens(quantile(cold.latencies, 0.5)), tens(quantile(cold.latencies, 0.99)),
		tens(cold.latencies[len(cold.latencies)-1]))
	if cached := g.Metric(b, "caddy_apikeys_local_cache_entries"); cached < float64(len(live)) {
		b.Fatalf("%v of %d keys are cached", cached, len(live))
	}
	aKey := (plainHeap - emptyHeap) / float64(len(plain))
	aDescribedKey := (describedHeap - plainHeap) / float64(len(described))
	row("heap with these cached, minus that with an empty cache",
		"%.0f MB; %.0f bytes per key, %.0f per key with one pair of metadata",
		(describedHeap-emptyHeap)/1e6, aKey, aDescribedKey)
	report.bar("heap per cached key without metadata, all of Caddy", "≤ 400 bytes",
		fmt.Sprintf("%.0f", aKey), aKey <= 400)
	report.bar("the same with one pair of metadata", "≤ 400 bytes",
		fmt.Sprintf("%.0f", aDescribedKey), aDescribedKey <= 400)
	row("resident memory with an empty cache, and with these", "%.0f MB, %.0f MB",
		emptyResident, megabytes(b, g, "VmRSS"))
	hot := mustRun(b, load{addr: addr(g), tokens: live, status: "200", conns: askers,
		length: hotLength})
	row(fmt.Sprintf("requests with cached keys, as fast as possible over %d connections", askers),
		"%.0f per second, p50 %v, p99 %v", hot.perSecond(), tens(quantile(hot.latencies, 0.5)),
		tens(quantile(hot.latencies, 0.99)))
	calm := mustRun(b, load{addr: addr(g), tokens: live, status: "200", conns: askers, rate: 500,
		length: hotLength})
	row("requests with cached keys, 500 per second", "p50 %v, p99 %v",
		tens(quantile(calm.latencies, 0.5)), tens(quantile(calm.latencies, 0.99)))

	fmt.Fprintf(&t,
		"\nPages of 100 keys of `GET /keys`, newest first, %d calls each, or one call if it takes "+
			"longer than a second. Half of the keys are in `default`, the others in %d namespaces. "+
			"One in a hundred is inactive, and one in a hundred expires.\n\n| filter | keys on "+
			"the page | p50 | "+
			"longest |\n|---|--:|--:|--:|\n", lists, namespaces)
	for _, filter := range []string{
		"", "namespace=default", "namespace=ns7", "namespace=nowhere", "status=active",
		"status=inactive", "status=revoked", "status=expired",
		"namespace=default&status=inactive", "namespace=ns7&status=revoked",
		"namespace=default&status=expired", "owner=root", "owner=nobody",
		"owner=root&status=inactive",
		"created_by=root", "role=nobody", "sort=created_at", "namespace=ns7&sort=name",
		"namespace=ns7&sort=expires_at", "q=number+77", "namespace=ns7&q=nowhere", "q=nowhere",
	} {
		times, page := timed(func() string { return m.page(b, filter) })
		name := "none"
		if filter != "" {
			name = "`" + filter + "`"
		}
		fmt.Fprintf(&t, "| %s | %s | %v | %v |\n", name, page, tens(quantile(times, 0.5)),
			tens(times[len(times)-1]))
	}
	t.WriteString(benchmarkConsole(b, g, m))
	report.section("Measured", t.String())
	b.ReportMetric(0, "ns/op")
}

// page returns the number of keys on the first page of a list, or why the list failed.
func (m manager) page(b *testing.B, filter string) string {
	b.Helper()
	answer, err := m.http.Get(m.url + "/keys?limit=100&" + filter)
	if err != nil {
		b.Fatal(err)
	}
	defer answer.Body.Close()
	var found struct{ Items []any }
	if err := json.NewDecoder(answer.Body).Decode(&found); err != nil {
		b.Fatal(err)
	}
	if answer.StatusCode != 200 {
		return "**" + answer.Status + "**"
	}
	return fmt.Sprint(len(found.Items))
}

// mintSome measures mints, one after the other.
func (m manager) mintSome(b *testing.B) sample {
	b.Helper()
	var s sample
	start := time.Now()
	for range mints {
		begin := time.Now()
		m.mint(b)
		s.latencies = append(s.latencies, time.Since(begin))
	}
	s.took = time.Since(start)
	slices.Sort(s.latencies)
	return s
}

// hasMetadata reports whether a key has metadata, as half of the keys of each namespace do.
func hasMetadata(i int) bool { return i/(2*namespaces)%2 == 1 }

// writeKeys writes the input of `caddy apikeys keys import`.
func writeKeys(b *testing.B, tokens []string) string {
	b.Helper()
	f, err := os.Create(filepath.Join(b.TempDir(), "keys.ndjson"))
	if err != nil {
		b.Fatal(err)
	}
	w := bufio.NewWriter(f)
	for i, token := range tokens {
		namespace, more := keystore.DefaultNamespace, ""
		if i%2 == 1 {
			namespace = fmt.Sprint("ns", i/2%namespaces)
		}
		switch i % inactiveEach {
		case 0:
			more = `,"active":false`
		case 1:
			more = `,"expires_at":"2100-01-01T00:00:00Z"`
		}
		if hasMetadata(i) {
			more += fmt.Sprintf(`,"metadata":{"team":"t%d"}`, i%50)
		}
		fmt.Fprintf(w,
			`{"name":"key number %d","namespace":"%s","access":"read_only","token":"%s"%s}`+"\n", i,
			namespace, token, more)
	}
	if err := w.Flush(); err != nil {
		b.Fatal(err)
	}
	if err := f.Close(); err != nil {
		b.Fatal(err)
	}
	return f.Name()
}

// coldStarts restarts Caddy several times. It returns the sorted times from a start to the first
// response to a request with a token.
func coldStarts(b *testing.B, g *gate.Gate, addr, token string) []time.Duration {
	b.Helper()
	var took []time.Duration
	for range 5 {
		g.Stop(b)
		begin := time.Now()
		g.Start(b)
		mustRun(b, load{addr: addr, header: bearer(token), status: "200", conns: 1, rate: 1,
			length: time.Millisecond})
		took = append(took, time.Since(begin))
	}
	slices.Sort(took)
	return took
}

func size(file string) float64 {
	info, err := os.Stat(file)
	if err != nil {
		return 0
	}
	return float64(info.Size()) / 1e6
}
