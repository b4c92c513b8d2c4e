package faults

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest/postgrestest"
	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

var long = flag.Bool("faults.long", false,
	"run all scenarios, and each ablation in all of its scenarios")

// A scenario injects one fault at the moment when it matters. Node 0 makes the changes; the fault
// is on node 1.
type scenario struct {
	name string
	run  func(*arena)
	// ablation is the part of the protocol without which the scenario must fail; "" is none.
	ablation string
	nodes    int             // 0 means 2
	lease    time.Duration   // 0 means 4 s
	leases   []time.Duration // leases of the first nodes, if they differ from lease
	clocks   []string        // rates of the node clocks; "" is the machine's rate
	own      bool            // use a PostgreSQL that the scenario may break
	clock    bool            // use a PostgreSQL whose clock the scenario may set
	file     bool            // use one SQLite file instead of PostgreSQL and Redis
	long     bool            // run only with -faults.long
}

// TestScenarios checks that the promise holds in each scenario.
func TestScenarios(t *testing.T) {
	for _, s := range scenarios {
		if s.long && !*long {
			continue
		}
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			for _, v := range play(t, s, "") {
				t.Error(v)
			}
		})
	}
}

// TestAblations checks that, without each part of the protocol, a scenario finds an accepted
// request or a stream that continues. Without -faults.long, each ablation runs in its first
// scenario only.
func TestAblations(t *testing.T) {
	tried := map[string]bool{}
	for _, s := range scenarios {
		if s.ablation == "" || tried[s.ablation] && !*long || s.long && !*long {
			continue
		}
		tried[s.ablation] = true
		t.Run(s.ablation+" in "+s.name, func(t *testing.T) {
			t.Parallel()
			for attempt := range 5 { // a busy machine can miss the moment
				caught := false
				t.Run(fmt.Sprint(attempt), func(t *testing.T) {
					for _, v := range play(t, s, s.ablation) {
						caught = caught || v.Kind == Accepted || v.Kind == Outlived
					}
				})
				if caught {
					return
				}
			}
			t.Error("the scenario does not detect that this part of the protocol is missing")
		})
	}
}

func play(t *testing.T, s scenario, ablation string) []Violation {
	t.Helper()
	var server *postgrestest.Server
	switch {
	case s.file:
	case s.clock:
		server = postgresWithClock(t)
	case !s.own:
		server = postgres.For(t)
	}
	a := newArena(t, setting{
		nodes: max(s.nodes, 2), lease: cmp.Or(s.lease, 4*time.Second), leases: s.leases,
		clocks: s.clocks, ablation: ablation, postgres: server, file: s.file, binary: withFaults,
		cacheQuery: "?timeout=1s", // a node that finds Redis slow on a busy machine does without it
	})
	a.fault(allNodes, "the scenario itself checks availability",
		Excuses{Unavailable: true, NoAnswer: true})
	s.run(a)
	a.Heal()
	return a.finish(Settling{Cut: 10 * time.Second})
}

// longestWait returns the longest time that a revoke waits for a silent node (docs/protocol.md,
// rule 7).
func longestWait(lease time.Duration) time.Duration { return lease * 101 / 99 }

// longerLease gives node 1 a longer lease than node 0.
var longerLease = []time.Duration{4 * time.Second, 18 * time.Second}

var scenarios = []scenario{
	{name: "each change that takes access away", nodes: 3, run: eachChange},
	{name: "derived tokens die with their key", nodes: 3, run: derivedTokens},
	{name: "derived tokens without a database", run: derivedWithoutDatabase},
	{name: "a revoke during a stream", ablation: "no-cut", run: func(a *arena) {
		k := a.mint(0)
		e := a.listen(1, k)
		a.mustRevoke(0, k)
		a.want(!e.outlives(now()), "the stream continues")
		e.hangUp()
	}},

	// A revoke overtakes a read.
	{name: "a revoke during a database read", ablation: "no-fill-token",
		run: func(a *arena) { overtaken(a, "load.read") }},
	{name: "a revoke during a Redis read", run: func(a *arena) {
		k := a.mint(0)
		a.shared(0, k)
		a.hold(1, "shared.read")
		read := background(func() { a.get(1, k) })
		a.held(1, "shared.read")
		a.mustRevoke(0, k)
		a.release(1, "shared.read")
		<-read
		a.want(a.settled(1, k) == 401, "the revoked key is not refused")
	}},
	{name: "a revoke just before a key is cached", ablation: "check-then-insert",
		run: func(a *arena) { overtaken(a, "load.insert") }},
	{name: "a revoke and two reloads during a database read", ablation: "reload-resets",
		run: func(a *arena) {
			overtakenAfter(a, "load.read", func() { a.reload(1) })
		}},
	{name: "a key is cached while a revoke is applied", ablation: "bump-after-unlock",
		run: func(a *arena) {
			k := a.mintApplied()
			a.hold(1, "load.read")
			a.hold(1, "invalidate")
			read := background(func() { a.get(1, k) })
			a.held(1, "load.read")
			revoked := background(func() { a.mustRevoke(0, k) })
			a.held(1, "invalidate", revoked)
			a.release(1, "load.read")
			<-read
			a.release(1, "invalidate")
			<-revoked
			a.want(a.settled(1, k) == 401, "the revoked key is not refused")
		}},
	{name: "a request joins a read that began before the revoke", ablation: "join-any-flight",
		run: func(a *arena) {
			k := a.mintApplied()
			a.hold(1, "load.read")
			read := background(func() { a.get(1, k) })
			a.held(1, "load.read")
			a.mustRevoke(0, k)
			const misses = "caddy_apikeys_lookups_total"
			before := a.Nodes[1].Metric(a.t, misses)
			var got int
			joined := background(func() { got = a.get(1, k) })
			for end := time.Now().Add(patience); a.Nodes[1].Metric(a.t, misses) == before &&
				time.Now().Before(end); {
				time.Sleep(time.Millisecond)
			}
			a.release(1, "load.read")
			<-read
			<-joined
			a.want(got == 401, "the request that came after the revoke: %d", got)
		}},

	// Redis entries.
	{name: "a stale Redis entry", ablation: "shared-without-asof", run: func(a *arena) {
		k := a.mint(0)
		entry := a.shared(0, k)
		a.mustRevoke(0, k)
		a.want(a.settled(1, k) == 401, "with the old entry still in Redis")
		a.redis("SET", entry.name, entry.value)
		a.want(a.settled(1, k) == 401, "with the old entry put back")
		a.redis("FLUSHALL")
		a.want(a.settled(1, k) == 401, "with an empty Redis")
	}},
	{name: "a forged Redis entry", ablation: "no-mac", run: func(a *arena) {
		k, other := a.mint(0), a.mint(0)
		entry, others := a.shared(0, k), a.shared(0, other)
		a.mustRevoke(0, k)
		a.redis("SET", entry.name, entry.asOf(a.revision()))
		a.want(a.settled(1, k) == 401, "with an entry that claims to be new")
		a.complete(func() gate.Response { return a.activate(0, other, false) })
		a.redis("SET", others.name, entry.asOf(a.revision()))
		a.want(a.settled(1, other) == 401, "with another key's entry")
	}},

	// Leases and clocks.
	{name: "a lease renewal with a late reply", ablation: "lease-from-reply", run: func(a *arena) {
		k := a.mint(0)
		a.warm(k)
		a.hold(1, "renew.reply")
		a.held(1, "renew.reply")
		a.cut(1)
		a.mustRevoke(0, k)
		a.release(1, "renew.reply")
		a.want(!a.useFor(a.lease/2, 1, k), "the node serves cached keys after its lease expired")
	}},
	{name: "clocks run at different rates", ablation: "no-drift-margin", lease: 45 * time.Second,
		clocks: []string{"1.01", "0.99"}, run: func(a *arena) {
			k := a.mint(0)
			a.warm(k)
			before := a.revision()
			a.hold(1, "renew.reply")
			a.held(1, "renew.reply")
			revoked := background(func() { a.mustRevoke(0, k) })
			a.revisionAfter(before)
			a.cut(1)
			a.release(1, "renew.reply")
			<-revoked
			a.want(!a.useFor(a.lease/10, 1, k), "the slow clock is trusted too long")
		}},
	{name: "a node is stopped while it applies a revoke", ablation: "ack-before-purge",
		run: func(a *arena) {
			k := a.mint(0)
			a.warm(k)
			a.hold(1, "apply")
			revoked := background(func() { a.mustRevoke(0, k) })
			a.held(1, "apply")
			<-revoked
			a.want(!a.useFor(a.lease/4, 1, k),
				"the revoke did not wait for the node that is applying it")
			a.release(1, "apply")
			a.eventually(1, k, 401)
		}},
	{name: "a node reads a revoke late and is stopped while it applies it",
		ablation: "lease-before-apply", run: func(a *arena) {
			k := a.mint(0)
			a.warm(k)
			a.hold(1, "apply")
			a.cut(1)
			before := a.revision()
			revoked := background(func() { a.mustRevoke(0, k) })
			a.revisionAfter(before)
			time.Sleep(a.lease / 2)
			a.HealNode(1)
			a.held(1, "apply")
			<-revoked
			a.want(!a.useFor(a.lease/4, 1, k),
				"the revoke did not wait for the node that is applying it")
			a.release(1, "apply")
			a.eventually(1, k, 401)
		}},
	{name: "a cached clock stands still", ablation: "cached-clock", run: func(a *arena) {
		k := a.mint(0)
		a.warm(k)
		a.hold(1, "tick")
		a.cut(1)
		a.mustRevoke(0, k)
		a.want(!a.useFor(a.lease/4, 1, k), "the lease does not expire")
		a.release(1, "tick")
	}},

	// The nodes that a revoke waits for.
	{name: "a node joins before the revoke commits", nodes: 3, ablation: "members-before-commit",
		run: func(a *arena) {
			k := a.mint(0)
			a.warm(k)
			stalled := a.begin("SELECT FROM head FOR UPDATE")
			revoked := background(func() { a.mustRevoke(0, k) })
			stalled.awaited()
			a.rejoin(2)
			a.eventually(2, k, 200)
			a.cut(2)
			stalled.commit()
			<-revoked
			a.want(!a.useFor(a.lease/4, 2, k), "the revoke did not wait for the node that joined")
		}},
	{name: "a node starts during a revoke", run: func(a *arena) {
		k := a.mint(0)
		a.warm(k)
		a.hold(0, "committed")
		revoked := background(func() { a.mustRevoke(0, k) })
		a.held(0, "committed")
		a.join()
		got := a.get(2, k)
		a.want(got == 401, "the new node, after the commit: %d", got)
		a.release(0, "committed")
		<-revoked
		a.useFor(100*time.Millisecond, 2, k)
	}},
	{name: "a node cannot acknowledge a revoke", run: func(a *arena) {
		k, live := a.mint(0), a.mint(0)
		a.warm(k)
		a.warm(live)
		a.hold(1, "acknowledge")
		a.held(1, "acknowledge")
		r := a.insist(func() gate.Response { return a.revokeIn(a.lease/10, 0, k) })
		a.want(r.Status == 202, "a revoke that did not wait: %v", r)
		a.mustRevoke(0, k)
		a.want(!a.useFor(a.lease/4, 1, k), "the revoked key is accepted")
		a.release(1, "acknowledge")
		a.eventually(1, live, 200)
		a.eventually(1, k, 401)
	}},
	{name: "a live node is declared dead", ablation: "remove-without-wait", run: declaredDead},
	{name: "a node is killed", nodes: 3, run: func(a *arena) {
		k, later := a.mint(0), a.mint(0)
		a.warm(k)
		a.Nodes[1].Kill()
		begun := time.Now()
		a.mustRevoke(0, k)
		a.want(time.Since(begun) < longestWait(a.lease)+patience/4,
			"the revoke waited %v for a dead node", time.Since(begun))
		a.psqlUntil("the dead node is removed", "SELECT count(*) = 2 FROM nodes")
		r := a.insist(func() gate.Response { return a.revokeIn(a.lease/2, 0, later) })
		a.want(r.Complete(), "a revoke after that: %v", r)
		a.Nodes[1].Start(a.t)
		a.want(a.settled(1, k) == 401 && a.settled(1, later) == 401,
			"the restarted node accepts a revoked key")
	}},
	{name: "the revoking node dies after the commit", run: func(a *arena) {
		k := a.mint(0)
		a.warm(k)
		a.hold(0, "committed")
		lost := background(func() { a.revoke(0, k) })
		a.held(0, "committed")
		a.Nodes[0].Kill()
		<-lost
		a.eventually(1, k, 401)
		a.mustRevoke(1, k)
		a.release(0, "committed")
		a.Nodes[0].Start(a.t)
		a.want(a.settled(0, k) == 401, "the restarted node accepts the key that it revoked")
	}},
	{name: "two revokes, the first stalls before its commit", run: func(a *arena) {
		k, second := a.mint(0), a.mint(0)
		a.warm(k)
		a.warm(second)
		taken := a.taken("SQL by hand", k)
		first := a.begin("UPDATE keys SET revoked_at = created_at, revoked_by = 'psql' " +
			"WHERE id = '" + k.ID + "'")
		revoked := background(func() { a.mustRevoke(0, second) })
		first.awaited()
		first.commit()
		<-revoked // at a later revision, so a node that applied it has applied the first revoke
		taken()
		for i := range a.Nodes {
			a.get(i, second)
			a.want(a.settled(i, k) == 401, "node %d: the first revoke", i)
		}
	}},
	{name: "a manual SQL update", run: func(a *arena) {
		k := a.mint(0)
		a.warm(k)
		taken := a.taken("SQL by hand", k)
		a.psql("UPDATE keys SET active = 0, version = version + 1 WHERE id = '" + k.ID + "'")
		for i := range a.Nodes {
			a.eventually(i, k, 401)
		}
		taken()
		for i := range a.Nodes {
			a.get(i, k)
		}
	}},
	{name: "notifications are lost", run: func(a *arena) { // so that only polling helps
		k := a.mint(0)
		a.warm(k)
		stop := make(chan struct{})
		deaf := background(func() {
			for !over(stop) {
				a.psql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query = " +
					"'LISTEN apikeys_' || '" + a.Schema + "'::regnamespace::oid")
			}
		})
		a.mustRevoke(0, k)
		a.want(a.settled(1, k) == 401, "the node has not read the revoke")
		close(stop)
		<-deaf
	}},
	{name: "the change log is truncated", run: func(a *arena) {
		k, live := a.mint(0), a.mint(0)
		a.warm(k)
		a.warm(live)
		a.cut(1)
		a.mustRevoke(0, k)
		a.mint(0)
		a.psql("DELETE FROM change_log")
		a.HealNode(1)
		a.eventually(1, k, 401)
		a.eventually(1, live, 200)
	}},

	// Nodes and databases that become unavailable and come back.
	{name: "a node is stopped with requests in its sockets", run: pausedNode},
	{name: "a node is cut off from PostgreSQL and Redis", lease: 6 * time.Second, run: isolated},
	{name: "PostgreSQL is unavailable", own: true, lease: 10 * time.Second,
		run: databaseUnavailable},
	{name: "PostgreSQL is restored from a backup", own: true, run: restored},
	{name: "a connection leads to a standby", own: true, run: func(a *arena) {
		k, live := a.mint(0), a.mint(0)
		a.warm(k)
		a.warm(live)
		a.Edge(1, gate.Database).LeadTo(a.Postgres.Standby(a.t).Address())
		a.eventually(1, live, 503)
		a.mustRevoke(0, k)
		a.want(!a.useFor(a.lease/4, 1, k), "the node takes a lease from a standby")
		a.Edge(1, gate.Database).LeadTo(a.Postgres.Address())
		a.eventually(1, live, 200)
		a.want(a.settled(1, k) == 401, "the revoked key")
	}},

	// The database clock, failovers and restores.
	{name: "the database clock is set an hour ahead and back", ablation: "rate-shortens-wait",
		clock: true, leases: longerLease, run: clockSet(time.Hour, 0)},
	{name: "the database clock is set ahead and behind", ablation: "rate-shortens-wait",
		long: true, clock: true, leases: longerLease,
		run: clockSet(2*time.Second, -30*time.Second)},
	{name: "the synchronous standby is unavailable", own: true, run: standbyUnavailable},
	{name: "a join that no standby received", own: true, lease: 8 * time.Second,
		run: joinUnacknowledged},
	{name: "a former primary has not noticed the failover", ablation: "silence-without-write",
		own:   true,
		lease: 6 * time.Second, run: formerPrimary},
	{name: "a failover loses a change that was read before it was applied",
		ablation: "newer-than-applied", own: true, lease: 12 * time.Second, run: newerThanApplied},
	{name: "Redis holds an entry of a lost change", own: true, lease: 12 * time.Second,
		run: sharedFromLostHistory},
	{name: "a backup without a node that is cut off", ablation: "forget-readers",
		own: true, lease: 12 * time.Second, run: forgottenByRestore(true)},
	{name: "a backup without a node that reconnects", ablation: "forget-readers", long: true,
		own:   true,
		lease: 12 * time.Second, run: forgottenByRestore(false)},
	{name: "a failover loses a node", own: true, lease: 12 * time.Second,
		run: forgottenByFailover(func(*arena) {})},
	{name: "a failover loses a node and a change", ablation: "forget-readers", long: true,
		own: true, lease: 12 * time.Second, run: forgottenByFailover(func(a *arena) { a.mint(0) })},
	{name: "synchronous_commit is turned off", own: true, run: synchronousCommitOff},

	// One SQLite file.
	{name: "a backup replaces the SQLite file", file: true,
		run: filesReplaced(func(file, backup string) error {
			return errors.Join(os.Rename(backup, file), os.Remove(file+"-wal"),
				os.Remove(file+"-shm"))
		})},
	{name: "the WAL and index files are removed", file: true,
		run: filesReplaced(func(file, _ string) error {
			return errors.Join(os.Remove(file+"-wal"), os.Remove(file+"-shm"))
		})},
	{name: "the SQLite file is deleted", file: true,
		run: filesReplaced(func(file, _ string) error { return os.Remove(file) })},
	{name: "a copy replaces the lock file of a stopped node", file: true, lease: 8 * time.Second,
		run: lockFileCopied},

	{name: "Redis is unavailable, hangs, resets connections, is slow, restarts empty",
		run: cacheFaults},
	{name: "a clock runs 15 percent slow", long: true, clocks: []string{"", "0.85"},
		run: func(a *arena) {
			k := a.mint(0)
			a.eventually(1, k, 503)
			a.want(a.settled(0, k) == 200, "the other node does not serve")
		}},
}
