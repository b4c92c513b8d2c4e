package gate

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest/postgrestest"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest/redistest"
)

// FleetConfig configures a fleet. The zero value is one node with its own PostgreSQL and Redis, and
// a proxy on each connection to them.
type FleetConfig struct {
	Nodes  int           // number of Caddys; 0 means 1
	Config Config        // of each node; `database`, `cache` and `lease` precede its APIKeys
	Lease  time.Duration // 0 means the product's default

	// Each changes the configuration of node i, such as its Env; nil changes nothing. The test may
	// keep files for that node in dir.
	Each func(i int, dir string, c *Config)

	// Postgres is a server to share with others, in a schema of the fleet; nil starts a server.
	Postgres   *postgrestest.Server
	NoCache    bool   // use no Redis
	CacheQuery string // ends the URL of Redis, such as "?timeout=1s"
	Direct     bool   // use no proxies and no Edge, for measurements
}

// Fleet is several Caddys that share one PostgreSQL and one Redis. A proxy between each Caddy and
// each of its stores can break that connection alone:
//
//	f := gate.StartFleet(t, gate.FleetConfig{Nodes: 3, Lease: 5 * time.Second})
//	k := f.Nodes[0].Mint(t, gate.JSON{"name": "CI", "access": "read_only"})
//	f.Nodes[2].Get(t, "/v1/items/1", k.Token)    // 200, and cached
//	f.Edge(2, gate.Database).Hang()              // node 2 gets no more data from the database
//	f.Nodes[0].Revoke(t, k.ID)                   // waits until node 2's lease has certainly expired
//	f.Nodes[2].Get(t, "/v1/items/1", k.Token)    // not 200
//	f.Heal()
//
// Tests can also break the servers with Postgres.Halt and Run, Redis.Stop, Continue, Kill and Run,
// and Nodes[i].Pause, Resume, Kill and Start.
type Fleet struct {
	Nodes    []*Gate
	Postgres *postgrestest.Server
	Redis    *redistest.Server // nil if FleetConfig.NoCache
	Schema   string            // the fleet's schema in Postgres

	config FleetConfig
	dir    string
	edges  [][]*Edge // by node and Store
}

// StartFleet starts the stores, then one node after the other, and returns when all nodes serve.
// The fleet stops when the test ends.
func StartFleet(t testing.TB, c FleetConfig) *Fleet {
	t.Helper()
	f := &Fleet{config: c, dir: t.TempDir(), Postgres: c.Postgres}
	if f.Postgres == nil {
		f.Postgres = postgrestest.StartFor(t)
	}
	f.Schema = f.Postgres.Schema(t)
	if !c.NoCache {
		f.Redis = redistest.Start(t)
	}
	for range max(1, c.Nodes) {
		f.Join(t)
	}
	return f
}

// Join starts one more node. Only the test's goroutine may call it.
func (f *Fleet) Join(t testing.TB) *Gate {
	t.Helper()
	i := len(f.edges)
	addresses := []string{Database: f.Postgres.Address(), Cache: ""}
	if f.Redis != nil {
		addresses[Cache] = f.Redis.Addr()
	}
	edges := make([]*Edge, len(addresses))
	if !f.config.Direct {
		for store, address := range addresses {
			if address != "" {
				edges[store] = NewEdge(t, fmt.Sprintf("node %d to %v", i, Store(store)), address)
				addresses[store] = edges[store].Address()
			}
		}
	}
	f.edges = append(f.edges, edges)

	config := f.config.Config
	options := "database postgres {env.FLEET_DATABASE}\n"
	config.Env = append([]string{"FLEET_DATABASE=" + f.Postgres.URL(f.Schema, addresses[Database])},
		config.Env...)
	if f.Redis != nil {
		options += "cache redis redis://" + addresses[Cache] + f.config.CacheQuery + "\n"
	}
	if f.config.Lease != 0 {
		options += fmt.Sprintf("lease %v\n", f.config.Lease)
	}
	config.APIKeys = options + config.APIKeys
	if f.config.Each != nil {
		dir := filepath.Join(f.dir, fmt.Sprint(i))
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		f.config.Each(i, dir, &config)
	}
	g := Start(t, config)
	f.Nodes = append(f.Nodes, g)
	return g
}

// Edge returns the connection from node i to a store.
func (f *Fleet) Edge(i int, s Store) *Edge { return f.edges[i][s] }

// Isolate cuts node i off from all stores.
func (f *Fleet) Isolate(i int) { f.onEach(i, (*Edge).Cut) }

// HealNode repairs all connections of node i.
func (f *Fleet) HealNode(i int) { f.onEach(i, (*Edge).Heal) }

// Heal repairs all connections.
func (f *Fleet) Heal() {
	for i := range f.edges {
		f.HealNode(i)
	}
}

func (f *Fleet) onEach(i int, do func(*Edge)) {
	for _, e := range f.edges[i] {
		if e != nil {
			do(e)
		}
	}
}
