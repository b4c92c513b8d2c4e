package bench

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest/postgrestest"
	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

// durable has the settings of a PostgreSQL that flushes its writes to the disk, unlike in tests.
var durable = []string{"fsync=on", "full_page_writes=on", "shared_buffers=256MB",
	"shared_preload_libraries=pg_stat_statements"}

const aboutPostgres = "PostgreSQL has `fsync` and `full_page_writes` on, 256 MB of " +
	"`shared_buffers`, `pg_stat_statements`, and otherwise its defaults."

// tokenKey is the token key of the deployment. With it, the benchmark can create tokens and import
// them, since minting thousands of keys takes long.
var tokenKey = [32]byte{1}

// nodeCaddyfile is the Caddyfile of each node, with a placeholder for the options of the app.
const nodeCaddyfile = `{
	admin {$GATE_ADMIN}
	auto_https off
	default_bind 127.0.0.1
	log {
		level WARN
		format api_keys
	}
	api_keys {
		%s
		token_key {env.BENCH_TOKEN_KEY}
	}
}
http://:{$GATE_HTTP} {
	api_key {
		namespace home
	}
	reverse_proxy {$BENCH_UPSTREAM}
}
`

// node sets the configuration of a gate to that of a node with some options of the app.
func node(upstream, options string, c *gate.Config) {
	c.Caddyfile = fmt.Sprintf(nodeCaddyfile, options)
	c.Env = append(c.Env, "BENCH_UPSTREAM="+upstream,
		"BENCH_TOKEN_KEY="+hex.EncodeToString(tokenKey[:]))
}

// A fleet has nodes on a durable PostgreSQL, with or without Redis, without proxies.
type fleet struct {
	*gate.Fleet
	redis   *redis.Client // nil without Redis
	manager []manager     // by node
}

func startFleet(b *testing.B, nodes int, withRedis bool) fleet {
	b.Helper()
	upstream := startUpstream(b)
	return startFleetOf(b, gate.FleetConfig{Nodes: nodes, NoCache: !withRedis,
		Each: func(_ int, _ string, c *gate.Config) { node(upstream, c.APIKeys, c) }})
}

func startFleetOf(b *testing.B, c gate.FleetConfig) fleet {
	b.Helper()
	c.Direct, c.Postgres = true, postgrestest.StartFor(b, durable...)
	f := fleet{Fleet: gate.StartFleet(b, c)}
	if !c.NoCache {
		f.redis = redis.NewClient(&redis.Options{Addr: f.Redis.Addr()})
		b.Cleanup(func() { f.redis.Close() })
	}
	for _, g := range f.Nodes {
		f.manager = append(f.manager, manage(g))
	}
	f.query(b, "CREATE EXTENSION pg_stat_statements SCHEMA public")
	return f
}

func addr(g *gate.Gate) string { return strings.TrimPrefix(g.URL, "http://") }

func (f fleet) query(b *testing.B, query string) string {
	b.Helper()
	got, err := f.Postgres.Query(f.Schema, query)
	if err != nil {
		b.Fatal(err)
	}
	return got
}

func (f fleet) number(b *testing.B, query string) float64 {
	b.Helper()
	n, err := strconv.ParseFloat(f.query(b, query), 64)
	if err != nil {
		b.Fatalf("%s: %v", query, err)
	}
	return n
}

// statements returns the numbers of queries for a credential and of other statements, except those
// of the benchmark, since the last call or the start of PostgreSQL.
func (f fleet) statements(b *testing.B) (lookups, others float64) {
	b.Helper()
	counts := strings.Split(f.query(b, `
		SELECT coalesce(sum(calls) FILTER (WHERE lookup), 0) || ' ' ||
			coalesce(sum(calls) FILTER (WHERE NOT lookup), 0)
		FROM (SELECT calls, query LIKE '%secrets d ON d.digest%' AS lookup
			FROM public.pg_stat_statements
			WHERE query NOT LIKE '%pg_stat_statements%') AS s`), " ")
	f.query(b, "SELECT public.pg_stat_statements_reset()")
	var err error
	if lookups, err = strconv.ParseFloat(counts[0], 64); err == nil {
		others, err = strconv.ParseFloat(counts[1], 64)
	}
	if err != nil {
		b.Fatal(err)
	}
	return lookups, others
}

// roundTrips returns how many commands for a record Redis has answered.
func (f fleet) roundTrips(b *testing.B) float64 {
	b.Helper()
	if f.redis == nil {
		return 0
	}
	stats, err := f.redis.Info(context.Background(), "commandstats").Result()
	if err != nil {
		b.Fatal(err)
	}
	_, calls, found := strings.Cut(stats, "cmdstat_getrange:calls=")
	if !found {
		return 0
	}
	calls, _, _ = strings.Cut(calls, ",")
	n, err := strconv.ParseFloat(calls, 64)
	if err != nil {
		b.Fatal(err)
	}
	return n
}

// traffic sends rate requests per second with the tokens to each of some nodes. It returns the
// function that ends it and returns the results. A status other than 200 fails the benchmark.
func traffic(
	b *testing.B, nodes []*gate.Gate, tokens []string, conns, rate int,
) (end func() sample) {
	stop := make(chan struct{})
	results := make(chan sample, len(nodes))
	for _, g := range nodes {
		go func() {
			got, err := load{addr: addr(g), tokens: tokens, status: "200", conns: conns, rate: rate,
				length: 10 * time.Minute, stop: stop}.run()
			if err != nil {
				b.Errorf("traffic: %v", err)
			}
			results <- got
		}()
	}
	return func() sample {
		close(stop)
		var all sample
		for range nodes {
			one := <-results
			all.took = max(all.took, one.took)
			all.latencies = append(all.latencies, one.latencies...)
		}
		slices.Sort(all.latencies)
		return all
	}
}

// askAll sends one request with each token to a node.
func askAll(b *testing.B, g *gate.Gate, tokens []string, conns int) sample {
	b.Helper()
	return mustRun(b, load{addr: addr(g), tokens: tokens, once: true, status: "200", conns: conns,
		length: time.Hour})
}

// newTokens creates tokens of the deployment, without creating keys.
func newTokens(n int) []string {
	tokens, key := make([]string, n), keystore.NewTokenKey(tokenKey)
	for i := range tokens {
		tokens[i] = key.Generate(keystore.DefaultPrefix, keystore.NewID()).Reveal()
	}
	return tokens
}

// A manager calls the management API over one connection. It does not watch the tokens in
// responses.
type manager struct {
	http *http.Client
	url  string
}

func manage(g *gate.Gate) manager {
	return manager{&http.Client{}, "http://" + g.Admin + "/apikeys/v1"}
}

// call decodes the response into to, and fails the benchmark unless the status is the expected one.
func (m manager) call(b *testing.B, method, path string, body []byte, status int, to any) {
	b.Helper()
	r, err := http.NewRequestWithContext(b.Context(), method, m.url+path, bytes.NewReader(body))
	if err != nil {
		b.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	if strings.HasSuffix(path, "/import") {
		r.Header.Set("Content-Type", "application/x-ndjson")
	}
	answer, err := m.http.Do(r)
	if err != nil {
		b.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode != status {
		b.Fatalf("%s %s: %s %v\n%s", method, path, answer.Status, err, gate.Redact(string(text)))
	}
	if err := json.Unmarshal(text, to); err != nil {
		b.Fatal(err)
	}
}

// mint creates a key that may read in the default namespace.
func (m manager) mint(b *testing.B) (id, token string) {
	b.Helper()
	var made struct {
		Token string
		Key   struct{ ID string }
	}
	m.call(b, "POST", "/keys", []byte(`{"name":"bench","access":"read_only"}`), 201, &made)
	return made.Key.ID, made.Token
}

// importAll creates a key for each token.
func (m manager) importAll(b *testing.B, tokens []string) {
	b.Helper()
	var body bytes.Buffer
	for _, token := range tokens {
		fmt.Fprintf(&body, `{"name":"bench","access":"read_only","token":"%s"}`+"\n", token)
	}
	var done struct{ Imported int }
	m.call(b, "POST", "/keys/import", body.Bytes(), 201, &done)
	if done.Imported != len(tokens) {
		b.Fatalf("imported %d of %d", done.Imported, len(tokens))
	}
}

// grouped formats a number with separators: 1,000,000.
func grouped(n int) string {
	digits := strconv.Itoa(n)
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}
