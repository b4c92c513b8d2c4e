package caddymodule

import (
	"context"
	"database/sql"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/node"
)

// gather returns the metrics of an app. The pedantic registry refuses metrics that do not match
// their descriptions.
func gather(t *testing.T, app *App) map[string][]string {
	t.Helper()
	families, err := app.ctx.GetMetricsRegistry().Gather()
	if err != nil {
		t.Fatal(err)
	}
	found := make(map[string][]string)
	for _, family := range families {
		name, ours := strings.CutPrefix(family.GetName(), metricsPrefix)
		if !ours {
			continue
		}
		for _, metric := range family.GetMetric() {
			var labels []string
			for _, label := range metric.GetLabel() {
				labels = append(labels, label.GetName()+"="+label.GetValue())
			}
			found[name] = append(found[name], strings.Join(labels, ","))
		}
	}
	return found
}

func TestMetricsNamesAndLabels(t *testing.T) {
	g := newInstance(t)
	g.load(g.config(sqlite(g.path("keys.db"), nil)))
	token := g.mint(nil)
	app := runningApp()
	keys := app.Keystore()
	lookup(t, keys, token)
	keys.Count(keys.Policy().Namespace("default"), nil, keystore.Forbidden)
	keys.Count(nil, nil, keystore.Missing)

	found := gather(t, app)
	for name, want := range map[string][]string{
		"requests_total": {"namespace=default,outcome=forbidden"},
		"lookups_total": {"result=hit,tier=local", "result=miss,tier=negative",
			"result=hit,tier=redis", "result=error,tier=database"},
		"lookup_duration_seconds": nil,
		"keys": {"status=active", "status=expired", "status=inactive",
			"status=revoked"},
		"unaccepted_prefix_keys":     {""},
		"local_cache_entries":        {""},
		"local_cache_bytes":          {""},
		"request_memory_bytes":       {""},
		"request_memory_limit_bytes": {""},
		"capacity_used": {"resource=roles,scope=deployment",
			"resource=directory_bytes,scope=namespace", "resource=keys,scope=owner"},
		"capacity_limit": {"resource=members,scope=deployment",
			"resource=namespaces,scope=namespace", "resource=keys,scope=namespace"},
		"lease_remaining_seconds": {""},
		"revision":                {""},
		"propagation_seconds":     {""},
		"nodes":                   {"state=active", "state=fencing"},
		"store_errors_total":      {"store=database", "store=redis"},
		"limit_decisions_total": {"limit=rate,result=ok", "limit=quota,result=refused",
			"limit=namespace-rate,result=shadow", "limit=namespace-quota,result=ok"},
		"limit_degraded":     {""},
		"limit_grants_total": {"result=ok", "result=error"},

		"usage_flush_seconds":      {""},
		"usage_pending_rows":       {""},
		"usage_dropped_rows_total": {""},
		"usage_batches_total":      {"result=ok", "result=error"},
		// webhook_backlog has a value only if there is a webhook: see TestWebhooks
		"webhook_deliveries_total": {"result=delivered", "result=failed", "result=gone"},
	} {
		for _, labels := range want {
			if !slices.Contains(found[name], labels) {
				t.Errorf("%s{%s} is missing; there is %q", name, labels, found[name])
			}
		}
		delete(found, name)
	}
	if len(found) > 0 {
		t.Errorf("undocumented metrics: %v", found)
	}
}

// TestDurations checks that observed durations reach the histograms.
func TestDurations(t *testing.T) {
	g := newInstance(t)
	g.load(g.config(sqlite(g.path("keys.db"), nil)))
	observer := runningApp().store.Load().metrics
	observer.LookedUp(node.TierRedis, 2*time.Second)
	observer.Propagated(3 * time.Second)
	observer.UsageFlushed(4 * time.Second)
	_, metrics := g.do("GET", "admin", "/metrics", "")
	for _, want := range []string{`caddy_apikeys_lookup_duration_seconds_sum{tier="redis"} 2`,
		`caddy_apikeys_propagation_seconds_sum 3`, `caddy_apikeys_usage_flush_seconds_sum 4`} {
		if !strings.Contains(metrics, want+"\n") {
			t.Errorf("the metrics have no %s", want)
		}
	}
}

// TestMetricsOfInvalidNamespaces checks that a manually written namespace id which is not a valid
// label causes no panic and grants no access.
func TestMetricsOfInvalidNamespaces(t *testing.T) {
	g := newInstance(t)
	g.load(g.config(sqlite(g.path("keys.db"), nil)))
	token := g.mint(nil)
	app := runningApp()
	keys := app.Keystore()
	db, err := sql.Open("sqlite", "file:"+g.path("keys.db")+
		"?_pragma=busy_timeout(10000)&_txlock=immediate")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	ids := map[string]string{
		"\xff":                      "X'FF'",
		"a\r\nX-Apikey-Owner: root": "X'610D0A582D4170696B65792D4F776E65723A20726F6F74'", "": "X''",
	}
	const others = "kind, parent, name, edit_policy, reach, key_roles, token_prefix, created_at, " +
		"version"
	for _, id := range ids {
		if _, err := db.Exec("INSERT INTO namespaces (id, " + others + ") SELECT CAST(" + id +
			" AS TEXT), " +
			others + " FROM namespaces WHERE id = 'default'"); err != nil {
			t.Fatal(err)
		}
	}
	if h := keys.Health(t.Context()); h.Problem != "" {
		t.Fatal(h.Problem)
	}
	for id := range ids {
		ns := keys.Policy().Namespace(id)
		if ns == nil || ns.Unreadable == "" {
			t.Fatalf("%q: %+v", id, ns)
		}
		keys.Count(ns, nil, keystore.Forbidden)
	}
	if found := gather(t, app)["requests_total"]; !slices.Contains(found,
		"namespace=_other,outcome=forbidden") {
		t.Errorf("counts: %q", found)
	}
	if o := lookup(t, keys, token); o != keystore.OK {
		t.Errorf("a key of another namespace is %v", o)
	}
	for _, path := range []string{"namespaces", "namespaces?limit=1"} {
		status, answer := g.do("GET", "admin", "/apikeys/v1/"+path, "")
		if status != 200 || !strings.Contains(answer, "no namespace can have this id") {
			t.Errorf("%s: %d %s", path, status, answer)
		}
	}
}

func TestMetricsWithoutStore(t *testing.T) {
	registry := prometheus.NewPedanticRegistry()
	for range 2 { // the app and the admin endpoint both register them
		if err := registerMetrics(registry); err != nil {
			t.Fatal(err)
		}
	}
	if families, err := registry.Gather(); err != nil || len(families) != 0 {
		t.Errorf("%v, %v", families, err)
	}
}

// fakeDatabase is a censusStore that counts its queries.
type fakeDatabase struct {
	asked        atomic.Int64
	hangs, fails atomic.Bool
}

func (f *fakeDatabase) CountKeys(ctx context.Context) (map[keystore.Status]int64, error) {
	asked := f.asked.Add(1)
	if f.hangs.Load() {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if f.fails.Load() {
		return nil, errors.New("disk full")
	}
	return map[keystore.Status]int64{keystore.StatusActive: asked}, nil
}

func (*fakeDatabase) CapacityOfKeys(context.Context) ([]keystore.CapacityUse, error) {
	return nil, nil
}
func (*fakeDatabase) WebhookBacklogs(context.Context) (map[string]int64, error) {
	return nil, nil
}

func (f *fakeDatabase) CountRefused(context.Context) (int64, error) { return 0, nil }

func (f *fakeDatabase) CountNodes(context.Context) (map[keystore.NodeState]int, error) {
	return map[keystore.NodeState]int{keystore.NodeActive: 1}, nil
}

func TestCensus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c census
		db := new(fakeDatabase)
		active := func() int64 {
			began := time.Now()
			counts := c.latest(db)
			if time.Since(began) > censusWait {
				t.Errorf("a scrape waited for %s", time.Since(began))
			}
			if counts == nil {
				return -1
			}
			return counts.keys[keystore.StatusActive]
		}
		expect := func(name string, want, queries int64) {
			t.Helper()
			if got := active(); got != want || db.asked.Load() != queries {
				t.Errorf("%s: %d keys, the database was queried %d times; want %d and %d",
					name, got, db.asked.Load(), want, queries)
			}
		}
		expect("the first scrape", 1, 1)
		expect("a second scrape immediately", 1, 1)
		time.Sleep(censusInterval)
		expect("a later scrape", 2, 2)
		time.Sleep(censusInterval)
		db.hangs.Store(true)
		expect("while the database does not respond", 2, 3)
		expect("another scrape, which does not wait", 2, 3)
		time.Sleep(censusTimeout)
		expect("after the timeout", -1, 3)
		time.Sleep(censusInterval)
		db.hangs.Store(false)
		db.fails.Store(true)
		expect("after an error", -1, 4)
		time.Sleep(censusInterval)
		db.fails.Store(false)
		expect("after recovery", 5, 5)
		time.Sleep(censusInterval)
		db.hangs.Store(true)
		go c.latest(db)
		synctest.Wait()
		began := time.Now()
		c.close()
		if time.Since(began) != 0 {
			t.Error("close waited for a database that does not respond")
		}
		time.Sleep(censusInterval)
		expect("after close", -1, 6)
	})
}
