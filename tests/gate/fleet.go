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

// FleetConfig says what a fleet is made of. The zero value is one node, a PostgreSQL and a Redis of
// its own, and a proxy on each way to them.
type FleetConfig struct {
	Nodes  int           // how many Caddys; 0 is 1
	Config Config        // of each; `database`, `cache` and `lease` are put before its APIKeys
	Lease  time.Duration // 0 is the product's default

	// Each changes the configuration of node i, such as its Env; nil changes nothing. Dir is where
	// the test may keep files for that node.
	Each func(i int, dir string, c *Config)

	// shared with others, in a schema of the fleet's own; nil: a server of its own
	Postgres *postgrestest.Server
	NoCache  bool // no Redis: misses go to the database
	Direct   bool // no proxies, for measurements: Edge cannot be used
}

// Fleet is several Caddys that share one PostgreSQL and one Redis. Between each Caddy and each of
// its stores is a proxy, so that every way can be broken by itself:
//
//	f := gate.StartFleet(t, gate.FleetConfig{Nodes: 3, Lease: 5 * time.Second})
//	k := f.Nodes[0].Mint(t, gate.JSON{"name": "CI", "access": "read_only"})
//	f.Nodes[2].Get(t, "/v1/items/1", k.Token)    // 200, and cached
//	f.Edge(2, gate.Database).Hang()              // node 2 hears nothing more of the database
//	f.Nodes[0].Revoke(t, k.ID)                   // waits until node 2's lease has surely run out
//	f.Nodes[2].Get(t, "/v1/items/1", k.Token)    // not 200
//	f.Heal()
//
// The servers themselves are at hand too: Postgres.Halt and Run, Redis.Stop, Continue, Kill and
// Run, Nodes[i].Pause, Resume, Kill and Start.
type Fleet struct {
	Nodes    []*Gate
	Postgres *postgrestest.Server
	Redis    *redistest.Server // nil if FleetConfig.NoCache
	Schema   string            // the fleet's in Postgres

	config FleetConfig
	dir    string
	edges  [][]*Edge // by node and Store
}

// StartFleet starts the stores, then one node after the other, and returns when all serve. The
// fleet ends with the test.
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

// Join starts one more node. The test's goroutine calls it.
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
		options += "cache redis redis://" + addresses[Cache] + "\n"
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

// Edge is the way from node i to a store.
func (f *Fleet) Edge(i int, s Store) *Edge { return f.edges[i][s] }

// Isolate cuts node i from all stores.
func (f *Fleet) Isolate(i int) { f.onEach(i, (*Edge).Cut) }

// HealNode makes all ways from node i good.
func (f *Fleet) HealNode(i int) { f.onEach(i, (*Edge).Heal) }

// Heal makes all ways good.
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
