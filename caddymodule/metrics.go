package caddymodule

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/admin"
	"github.com/caddy-apikeys/caddy-apikeys/admin/events"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/node"
	"github.com/prometheus/client_golang/prometheus"
)

const metricsPrefix = "caddy_apikeys_"

func metricDesc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(metricsPrefix+name, help, labels, nil)
}

var (
	requestsDesc = metricDesc("requests_total",
		"Requests decided by api_key or api_keys_admin, by namespace and outcome.",
		"namespace", "outcome")
	lookupsDesc = metricDesc("lookups_total",
		"Credential lookups by cache tier and result.", "tier", "result")
	keysDesc        = metricDesc("keys", "Keys in the database by status.", "status")
	otherPrefixDesc = metricDesc("unaccepted_prefix_keys",
		"Live keys that are refused because token_prefix does not accept their prefix.")
	cachedDesc   = metricDesc("local_cache_entries", "Keys in the local cache of this process.")
	capacityUsed = metricDesc("capacity_used",
		"Current use of a capped resource; for the scopes namespace and owner, the highest of all.",
		"resource", "scope")
	capacityLimit   = metricDesc("capacity_limit", "Cap of a resource.", "resource", "scope")
	cachedBytesDesc = metricDesc("local_cache_bytes", "Approximate memory of the local cache.")
	memoryDesc      = metricDesc("request_memory_bytes",
		"Memory in use by requests to the management interface for bodies and lists.")
	memoryLimitDesc = metricDesc("request_memory_limit_bytes",
		"Memory limit of all requests to the management interface together.")
	leaseDesc = metricDesc("lease_remaining_seconds",
		"Time for which this node may still use its caches; 0 after the lease has expired.")
	revisionDesc = metricDesc("revision",
		"Revision of the last database change that this node has applied.")
	nodesDesc       = metricDesc("nodes", "Nodes registered in the database.", "state")
	storeErrorsDesc = metricDesc("store_errors_total", "Failed calls to a store.", "store")
	limitsDesc      = metricDesc("limit_decisions_total",
		"Decisions of rate limits and quotas on requests, by limit and result.", "limit", "result")
	degradedDesc = metricDesc("limit_degraded",
		"Whether this node uses its share of each rate limit because the shared store is "+
			"unavailable.")
	grantsDesc = metricDesc("limit_grants_total",
		"Calls to the shared store for grants of rate limits, by result.", "result")
	usagePendingDesc = metricDesc("usage_pending_rows",
		"Rows of usage that the last flush could not write.")
	usageDroppedDesc = metricDesc("usage_dropped_rows_total",
		"Rows of usage that were dropped because the database was unavailable for too long.")
	webhookBacklogDesc = metricDesc("webhook_backlog",
		"Rows of the audit log that a webhook has not processed, by its stored position.",
		"webhook")
	webhookDeliveriesDesc = metricDesc("webhook_deliveries_total",
		"Attempts of this node to deliver an event to a webhook, by result.", "result")
	usageBatchesDesc = metricDesc("usage_batches_total",
		"Batches of usage that were sent to the database, by result.", "result")
)

// appMetrics reads the running app at each scrape. Each config has its own registry, and the admin
// server serves that of the last config even if the config failed. Reading at scrape time makes
// every registry show the same state.
type appMetrics struct{}

// registerMetrics registers the metrics with the registry of a config. It may be called again.
func registerMetrics(registry *prometheus.Registry) error {
	err := registry.Register(appMetrics{})
	if errors.As(err, new(prometheus.AlreadyRegisteredError)) {
		return nil
	}
	return err
}

// Describe implements prometheus.Collector.
func (appMetrics) Describe(ch chan<- *prometheus.Desc) {
	for _, desc := range []*prometheus.Desc{requestsDesc, lookupsDesc, keysDesc, otherPrefixDesc,
		cachedDesc, cachedBytesDesc, memoryDesc, memoryLimitDesc, capacityUsed, capacityLimit,
		leaseDesc, revisionDesc, nodesDesc, storeErrorsDesc, limitsDesc, degradedDesc,
		grantsDesc, usagePendingDesc, usageDroppedDesc, usageBatchesDesc, webhookBacklogDesc,
		webhookDeliveriesDesc} {
		ch <- desc
	}
	empty := newStoreMetrics()
	empty.lookupSeconds.Describe(ch)
	empty.propagationSeconds.Describe(ch)
	empty.usageFlushSeconds.Describe(ch)
}

// Collect implements prometheus.Collector.
func (appMetrics) Collect(ch chan<- prometheus.Metric) {
	app := runningApp()
	if app == nil {
		return
	}
	if s := app.store.Load(); s != nil {
		s.metrics.collect(ch)
		return
	}
	// Alerts use these two. The other metrics need the store.
	ch <- prometheus.MustNewConstMetric(leaseDesc, prometheus.GaugeValue, 0)
	ch <- prometheus.MustNewConstMetric(storeErrorsDesc, prometheus.CounterValue,
		float64(app.opening.failed.Load()), node.TierDatabase.String())
}

// storeMetrics are the metrics of one open store. Their counters survive a reload.
type storeMetrics struct {
	keys               *manage.Keystore
	api                *admin.API
	events             *events.Dispatcher
	lookupSeconds      *prometheus.HistogramVec
	propagationSeconds prometheus.Histogram
	usageFlushSeconds  prometheus.Histogram
	census             census
}

func newStoreMetrics() *storeMetrics {
	return &storeMetrics{
		lookupSeconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: metricsPrefix + "lookup_duration_seconds",
			Help: "Duration of credential lookups in stores.",
			Buckets: []float64{.00005, .0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1,
				.25, .5, 1, 2.5, 5},
		}, []string{"tier"}),
		propagationSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: metricsPrefix + "propagation_seconds",
			Help: "Time from the commit of a change that removes access until every node has " +
				"applied it.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10,
				30, 60},
		}),
		usageFlushSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    metricsPrefix + "usage_flush_seconds",
			Help:    "Duration of writing counted usage to the database.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
		}),
	}
}

// LookedUp implements node.Observer.
func (m *storeMetrics) LookedUp(t node.Tier, took time.Duration) {
	m.lookupSeconds.WithLabelValues(t.String()).Observe(took.Seconds())
}

// Propagated implements node.Observer.
func (m *storeMetrics) Propagated(took time.Duration) {
	m.propagationSeconds.Observe(took.Seconds())
}

// UsageFlushed implements node.Observer.
func (m *storeMetrics) UsageFlushed(took time.Duration) {
	m.usageFlushSeconds.Observe(took.Seconds())
}

func (m *storeMetrics) collect(ch chan<- prometheus.Metric) {
	gauge := func(desc *prometheus.Desc, value float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value, labels...)
	}
	counter := func(desc *prometheus.Desc, value uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(desc, prometheus.CounterValue, float64(value),
			labels...)
	}
	m.keys.RequestCounts(func(namespace string, o keystore.Outcome, n uint64) {
		counter(requestsDesc, n, namespace, o.String())
	})
	stats := m.keys.Stats()
	for _, tier := range []node.Tier{node.TierLocal, node.TierNegative,
		node.TierRedis, node.TierDatabase} {
		for result := range node.LookupResult(node.NumLookupResults) {
			counter(lookupsDesc, stats.Lookups[tier][result], tier.String(), result.String())
		}
	}
	counter(storeErrorsDesc, stats.StoreErrors, node.TierDatabase.String())
	counter(storeErrorsDesc, sharedCacheErrors.Load(), node.TierRedis.String())
	m.lookupSeconds.Collect(ch)
	m.propagationSeconds.Collect(ch)
	m.collectLimits(counter, gauge)
	m.usageFlushSeconds.Collect(ch)
	usage := m.keys.UsageStats()
	gauge(usagePendingDesc, float64(usage.Pending))
	counter(usageDroppedDesc, usage.Dropped)
	counter(usageBatchesDesc, usage.Written, "ok")
	counter(usageBatchesDesc, usage.Failed, "error")

	for result, n := range m.events.Results() {
		counter(webhookDeliveriesDesc, n, events.Result(result).String())
	}
	health := m.keys.Gauges()
	gauge(cachedDesc, float64(health.CachedRecords))
	gauge(cachedBytesDesc, float64(health.CachedBytes))
	used, most := m.api.Memory()
	gauge(memoryDesc, float64(used))
	gauge(memoryLimitDesc, float64(most))
	gauge(leaseDesc, health.LeaseRemaining.Seconds())
	gauge(revisionDesc, float64(health.Revision))

	uses := m.keys.CapacityUses()
	counts := m.census.latest(m.keys)
	if counts != nil {
		uses = append(uses, counts.uses...)
	}
	for _, use := range uses {
		gauge(capacityUsed, float64(use.Used), use.Resource, use.Scope)
		gauge(capacityLimit, float64(use.Cap), use.Resource, use.Scope)
	}
	if counts != nil {
		for id, rows := range counts.backlogs {
			gauge(webhookBacklogDesc, float64(rows), id)
		}
		for _, status := range keystore.Statuses {
			gauge(keysDesc, float64(counts.keys[status]), string(status))
		}
		if counts.refused >= 0 {
			gauge(otherPrefixDesc, float64(counts.refused))
		}
		for _, state := range []keystore.NodeState{keystore.NodeActive, keystore.NodeFencing} {
			gauge(nodesDesc, float64(counts.nodes[state]), string(state))
		}
	}
}

func (m *storeMetrics) collectLimits(
	counter func(desc *prometheus.Desc, value uint64, labels ...string),
	gauge func(desc *prometheus.Desc, value float64, labels ...string),
) {
	limits := m.keys.LimitStats()
	for l := range node.LimitName(node.NumLimits) {
		for result := range node.LimitResult(node.NumLimitResults) {
			counter(limitsDesc, limits.Decisions[l][result], l.String(), result.String())
		}
	}
	for result := range node.GrantResult(node.NumGrantResults) {
		counter(grantsDesc, limits.Grants[result], result.String())
	}
	degraded := 0.0
	if limits.Degraded {
		degraded = 1
	}
	gauge(degradedDesc, degraded)
}

// close stops a running census.
func (m *storeMetrics) close() { m.census.close() }

const (
	censusInterval = 5 * time.Second        // minimum time between two rounds of queries
	censusTimeout  = 2 * time.Second        // maximum duration of a round
	censusWait     = 500 * time.Millisecond // how long the scrape that starts a round waits
)

// A census counts rows of the database for scrapes, in the background and at most once per
// censusInterval. The zero value is ready to use.
type census struct {
	mu     sync.Mutex
	counts *censusCounts // nil before the first round and after a failed one
	taken  time.Time     // when the last round started
	taking chan struct{} // closed at the end of the running round; nil if there is none
	cancel context.CancelFunc
	closed bool
}

// censusCounts are the results of a round.
type censusCounts struct {
	keys    map[keystore.Status]int64
	refused int64 // live keys whose prefix is not accepted; negative if unknown
	nodes   map[keystore.NodeState]int
	uses    []keystore.CapacityUse // of the caps on keys
	// backlogs are the rows of the audit log that webhooks have not processed, by id.
	backlogs map[string]int64
}

// A censusStore runs the queries of a census.
type censusStore interface {
	CountKeys(ctx context.Context) (map[keystore.Status]int64, error)
	CountRefused(ctx context.Context) (int64, error)
	CountNodes(ctx context.Context) (map[keystore.NodeState]int, error)
	CapacityOfKeys(ctx context.Context) ([]keystore.CapacityUse, error)
	WebhookBacklogs(ctx context.Context) (map[string]int64, error)
}

// latest returns the latest counts, or nil if the last round failed. It starts a round if the last
// one is older than censusInterval, and waits for it for at most censusWait.
func (c *census) latest(db censusStore) *censusCounts {
	c.mu.Lock()
	var taking chan struct{}
	if !c.closed && c.taking == nil && time.Since(c.taken) >= censusInterval {
		ctx, cancel := context.WithTimeout(context.Background(), censusTimeout)
		c.taken, c.taking, c.cancel = time.Now(), make(chan struct{}), cancel
		taking = c.taking
		go c.take(ctx, db)
	}
	c.mu.Unlock()
	if taking != nil {
		select {
		case <-taking:
		case <-time.After(censusWait):
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.counts
}

// take runs a round of queries.
func (c *census) take(ctx context.Context, db censusStore) {
	counts := new(censusCounts)
	var err error
	if counts.keys, err = db.CountKeys(ctx); err == nil {
		counts.nodes, err = db.CountNodes(ctx)
	}
	if err == nil {
		counts.uses, err = db.CapacityOfKeys(ctx)
	}
	if err == nil {
		counts.backlogs, err = db.WebhookBacklogs(ctx)
	}
	if err != nil {
		counts = nil
	} else if counts.refused, err = db.CountRefused(ctx); err != nil {
		counts.refused = -1
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cancel()
	c.counts = counts
	close(c.taking)
	c.taking = nil
}

// close cancels the running round and waits for its end. Later calls of latest start none.
func (c *census) close() {
	c.mu.Lock()
	c.closed = true
	taking := c.taking
	if taking != nil {
		c.cancel()
	}
	c.mu.Unlock()
	if taking != nil {
		<-taking
	}
}
