package limits

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest/freeport"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest/postgrestest"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest/redistest"
	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

// A stack is some Caddys and the stores that they share.
type stack struct {
	nodes []*gate.Gate
	fleet *gate.Fleet       // nil with SQLite
	redis *redistest.Server // nil without one
	edge  *gate.Edge        // from all nodes to redis

	failed []float64 // bookings that had failed before the last load
}

// sqliteStack starts Caddys that share one SQLite file.
func sqliteStack(t *testing.T, nodes int) *stack {
	t.Helper()
	s := &stack{}
	for i := range nodes {
		var c gate.Config
		if i > 0 {
			c.DataOf = s.nodes[0]
		}
		s.nodes = append(s.nodes, gate.Start(t, c))
	}
	return s
}

// lease is short, so that the end of a killed node is soon known.
const lease = 5 * time.Second

// postgresStack starts Caddys that share PostgreSQL and, if the URL of a cache is not empty, Redis.
func postgresStack(t *testing.T, nodes int, cache string) *stack {
	t.Helper()
	return stackOn(t, postgres.For(t), nodes, cache)
}

func stackOn(t *testing.T, server *postgrestest.Server, nodes int, cache string) *stack {
	t.Helper()
	c := gate.FleetConfig{Nodes: nodes, Postgres: server, NoCache: true, Lease: lease}
	if cache != "" {
		c.Config.APIKeys = "cache redis " + cache
	}
	f := gate.StartFleet(t, c)
	return &stack{nodes: f.Nodes, fleet: f}
}

// timeout makes Caddy wait for Redis for as long as it can, because a busy machine is not a fault of
// Redis.
const timeout = "timeout=1s"

// threeWithRedis starts three nodes with Redis.
func threeWithRedis(t *testing.T) *stack {
	t.Helper()
	return threeWithRedisOn(t, postgres.For(t))
}

func threeWithRedisOn(t *testing.T, server *postgrestest.Server) *stack {
	t.Helper()
	r := redistest.Start(t)
	edge := gate.NewEdge(t, "all nodes to Redis", r.Addr())
	s := stackOn(t, server, 3, "redis://"+edge.Address()+"?"+timeout)
	s.redis, s.edge = r, edge
	return s
}

// threeWithSentinel starts three nodes with a Redis that they find with Sentinel. Its replica takes
// over when it has not answered for the given time.
func threeWithSentinel(t *testing.T, down time.Duration) *stack {
	t.Helper()
	r := redistest.Start(t)
	redistest.Start(t, fmt.Sprintf("replicaof 127.0.0.1 %d", r.Port()))
	sentinel := redistest.New(t, "port {port}",
		fmt.Sprintf("sentinel monitor limits 127.0.0.1 %d 1", r.Port()),
		fmt.Sprintf("sentinel down-after-milliseconds limits %d", down.Milliseconds()),
		"sentinel failover-timeout limits 3000")
	sentinel.Args, sentinel.Ready = []string{"--sentinel"}, "+slave slave"
	sentinel.Run()
	s := postgresStack(t, 3, "redis-sentinel://"+sentinel.Addr()+"/limits?"+timeout)
	s.redis = r
	return s
}

// threeWithCluster starts three nodes with a Redis Cluster of three servers.
func threeWithCluster(t *testing.T) *stack {
	t.Helper()
	var clients []*redis.Client
	var servers []*redistest.Server
	for i := range 3 {
		bus := freeport.For(t)
		r := redistest.Start(t, "cluster-enabled yes", fmt.Sprint("cluster-port ", bus),
			"cluster-node-timeout 60000")
		c := redis.NewClient(&redis.Options{Addr: r.Addr(), Protocol: 2})
		t.Cleanup(func() { c.Close() })
		if err := c.ClusterAddSlotsRange(t.Context(), []int{0, 5461, 10923}[i],
			[]int{5460, 10922, 16383}[i]).Err(); err != nil {
			t.Fatal(err)
		}
		if servers = append(servers, r); i == 0 {
			clients = append(clients, c)
			continue
		}
		if err := clients[0].Do(t.Context(), "CLUSTER", "MEET", "127.0.0.1", r.Port(),
			bus).Err(); err != nil {
			t.Fatal(err)
		}
		clients = append(clients, c)
	}
	for _, c := range clients {
		gate.Until(t, "the Cluster works", func() bool {
			info := c.ClusterInfo(t.Context()).Val()
			return strings.Contains(info, "cluster_state:ok") &&
				strings.Contains(info, "cluster_known_nodes:3") &&
				strings.Contains(info, "cluster_slots_assigned:16384")
		})
	}
	s := postgresStack(t, 3, "redis://"+servers[0].Addr()+"?cluster=true&"+timeout)
	// All limits of a deployment are on the same server.
	k := limitedKey(t, s.nodes[0], gate.JSON{"rate_limit": daily(100)})
	gate.Until(t, "a server of the Cluster has the limit", func() bool {
		s.nodes[0].Get(t, "/", k.Token)
		for i, c := range clients {
			if len(c.Keys(t.Context(), "*"+k.ID).Val()) > 0 {
				s.redis = servers[i]
			}
		}
		return s.redis != nil
	})
	return s
}

func threeWithoutRedis(t *testing.T) *stack {
	t.Helper()
	return postgresStack(t, 3, "")
}

func (s *stack) redisClient() *redis.Client {
	return redis.NewClient(&redis.Options{Addr: s.redis.Addr(), Protocol: 2})
}

// forget deletes everything in Redis.
func (s *stack) forget(t *testing.T) {
	t.Helper()
	client := s.redisClient()
	defer client.Close()
	if err := client.FlushAll(context.Background()).Err(); err != nil {
		t.Fatal(err)
	}
}

// limitedKeyWhileDead creates a key with limits while a node is dead. Unlike limitedKey, it makes
// no change that would wait for that node.
func limitedKeyWhileDead(t *testing.T, g *gate.Gate, limits gate.JSON) gate.Key {
	t.Helper()
	spec := gate.JSON{"name": "k", "access": "read_only"}
	for name, value := range limits {
		spec[name] = value
	}
	return g.Mint(t, spec)
}
