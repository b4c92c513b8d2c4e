package caddymodule

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/admin"
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
		"Requests that api_key decided, by the namespace they touched and the outcome.",
		"namespace", "outcome")
	lookupsDesc = metricDesc("lookups_total",
		"Look-ups of credentials, by where it was looked and what came of it.", "tier", "result")
	keysDesc        = metricDesc("keys", "Keys in the database.", "status")
	otherPrefixDesc = metricDesc("unaccepted_prefix_keys",
		"Live keys that are refused because token_prefix does not accept the prefix of their token.")
	cachedDesc   = metricDesc("local_cache_entries", "Keys in this process's memory.")
	capacityUsed = metricDesc("capacity_used",
		"Amount of a capped resource. For the scopes namespace and owner, that of the largest one.",
		"resource", "scope")
	capacityLimit   = metricDesc("capacity_limit", "Cap of a resource.", "resource", "scope")
	cachedBytesDesc = metricDesc("local_cache_bytes", "Approximate memory that these keys take.")
	memoryDesc      = metricDesc("request_memory_bytes",
		"Memory that requests to the management interface use for bodies and lists.")
	memoryLimitDesc = metricDesc("request_memory_limit_bytes",
		"Limit of the memory that requests to the management interface may use together.")
	leaseDesc = metricDesc("lease_remaining_seconds",
		"How much longer this node may trust what it has cached; 0 when the lease has lapsed.")
	revisionDesc = metricDesc("revision",
		"The last change of the database that this node has applied.")
	nodesDesc       = metricDesc("nodes", "Nodes registered in the database.", "state")
	storeErrorsDesc = metricDesc("store_errors_total", "Calls to a store that failed.", "store")
)

// appMetrics reads the running app when it is scraped. Each config has a registry of its own, and
// the admin server's /metrics serves that of the last config even if it did not come up: whichever
// registry it is, it shows the one state there is.
type appMetrics struct{}

// registerMetrics adds the metrics to the registry of a config, if they are not there already.
func registerMetrics(registry *prometheus.Registry) error {
	err := registry.Register(appMetrics{})
	if errors.As(err, new(prometheus.AlreadyRegisteredError)) {
		return nil
	}
	return err
}

// Describe is part of prometheus.Collector.
func (appMetrics) Describe(ch chan<- *prometheus.Desc) {
	for _, desc := range []*prometheus.Desc{requestsDesc, lookupsDesc, keysDesc, otherPrefixDesc,
		cachedDesc, cachedBytesDesc, memoryDesc, memoryLimitDesc, capacityUsed, capacityLimit, leaseDesc, revisionDesc, nodesDesc, storeErrorsDesc} {
		ch <- desc
	}
	empty := newStoreMetrics()
	empty.lookupSeconds.Describe(ch)
	empty.propagationSeconds.Describe(ch)
}

// Collect is part of prometheus.Collector.
func (appMetrics) Collect(ch chan<- prometheus.Metric) {
	app := runningApp()
	if app == nil {
		return
	}
	if s := app.store.Load(); s != nil {
		s.metrics.collect(ch)
		return
	}
	// What alerts look at; the rest comes with the store.
	ch <- prometheus.MustNewConstMetric(leaseDesc, prometheus.GaugeValue, 0)
	ch <- prometheus.MustNewConstMetric(storeErrorsDesc, prometheus.CounterValue,
		float64(app.opening.failed.Load()), node.TierDatabase.String())
}

// storeMetrics measures one open store. It outlives a reload, and with it the counters.
type storeMetrics struct {
	keys               *manage.Keystore
	api                *admin.API
	lookupSeconds      *prometheus.HistogramVec
	propagationSeconds prometheus.Histogram
	census             census
}

func newStoreMetrics() *storeMetrics {
	return &storeMetrics{
		lookupSeconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: metricsPrefix + "lookup_duration_seconds",
			Help: "How long stores took to look a credential up.",
			Buckets: []float64{.00005, .0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1,
				.25, .5, 1, 2.5, 5},
		}, []string{"tier"}),
		propagationSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: metricsPrefix + "propagation_seconds",
			Help: "How long changes that take access away took from their commit until they " +
				"were in force on every node.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10,
				30, 60},
		}),
	}
}

// LookedUp is part of node.Observer.
func (m *storeMetrics) LookedUp(t node.Tier, took time.Duration) {
	m.lookupSeconds.WithLabelValues(t.String()).Observe(took.Seconds())
}

// Propagated is part of node.Observer.
func (m *storeMetrics) Propagated(took time.Duration) {
	m.propagationSeconds.Observe(took.Seconds())
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

// close ends what is running in the background.
func (m *storeMetrics) close() { m.census.close() }

const (
	censusInterval = 5 * time.Second        // at most that often is the database asked
	censusTimeout  = 2 * time.Second        // after which it counts as away
	censusPatience = 500 * time.Millisecond // which the scrape that began it waits for it
)

// A census counts what only the database knows, without making scrapes wait for it or letting them
// flood it.
type census struct {
	mu     sync.Mutex
	counts *censusCounts // nil: the database could not be asked
	taken  time.Time     // when the last one began
	taking chan struct{} // closed at its end; nil: none is on its way
	cancel context.CancelFunc
	closed bool
}

type censusCounts struct {
	keys    map[keystore.Status]int64
	refused int64 // by their prefix; negative: unknown
	nodes   map[keystore.NodeState]int
	uses    []keystore.CapacityUse // of keys
}

// A counted is what a census asks.
type counted interface {
	CountKeys(ctx context.Context) (map[keystore.Status]int64, error)
	CountRefused(ctx context.Context) (int64, error)
	CountNodes(ctx context.Context) (map[keystore.NodeState]int, error)
	CapacityOfKeys(ctx context.Context) ([]keystore.CapacityUse, error)
}

// latest returns the counts, which are up to censusInterval old, or older while the database does
// not answer; nil when it could not be asked.
func (c *census) latest(db counted) *censusCounts {
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
		case <-time.After(censusPatience):
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.counts
}

func (c *census) take(ctx context.Context, db counted) {
	counts := new(censusCounts)
	var err error
	if counts.keys, err = db.CountKeys(ctx); err == nil {
		counts.nodes, err = db.CountNodes(ctx)
	}
	if err == nil {
		counts.uses, err = db.CapacityOfKeys(ctx)
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
