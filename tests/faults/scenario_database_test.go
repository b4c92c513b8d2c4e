package faults

import (
	"errors"
	"os/exec"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest/postgrestest"
	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

// clockSet sets the database clock to each time ahead, while node 1 is cut off from the database
// and has a longer lease than node 0. No revoke may complete before that lease has certainly
// expired.
func clockSet(ahead ...time.Duration) func(*arena) {
	return func(a *arena) {
		live := a.mint(0)
		a.warm(live)
		var keys []key
		for range 40 {
			k := a.mint(0)
			a.want(a.settled(1, k) == 200, "a new key")
			keys = append(keys, k)
		}
		a.cut(1)
		for i, d := range ahead {
			if i > 0 {
				// Node 0 compares its clock with the database clock once per lease.
				time.Sleep(a.lease * 5 / 4)
			}
			a.setClock(d)
		}
		for _, k := range keys {
			a.want(a.settled(0, live) == 200,
				"a node does not serve after the database clock was set")
			if a.revokeIn(10*time.Millisecond, 0, k).Complete() && a.useFor(a.lease/2, 1, k) {
				break
			}
			if a.get(1, live) == 503 {
				break
			}
			time.Sleep(a.lease / 10)
		}
		a.mustRevoke(0, keys[0])
		a.get(1, keys[0])
		a.HealNode(1)
		a.eventually(1, live, 200)
		a.want(a.settled(1, keys[0]) == 401, "the revoked key")
	}
}

func (a *arena) setClock(ahead time.Duration) {
	if err := a.database().SetClock(ahead); err != nil {
		a.t.Error(err)
	}
}

// joinUnacknowledged makes node 1 join while the synchronous standby receives nothing, so that a
// failover loses the node's row.
func joinUnacknowledged(a *arena) {
	standby := a.Postgres.SynchronousStandby(a.t)
	k, live := a.mint(0), a.mint(0)
	a.warm(k)
	former := a.incarnation(1)
	a.Nodes[1].Pause(a.t)
	a.psqlUntil("the stopped node is removed",
		"SELECT NOT EXISTS (SELECT 1 FROM nodes WHERE incarnation = '"+former+"')")
	a.detach(standby)
	a.Nodes[1].Resume()
	a.useFor(a.lease*3/4, 1, k) // if the node takes a lease, it now has the key cached
	a.cut(1)
	a.failOver(standby, 0)
	a.mustRevoke(0, k)
	a.useFor(a.lease/4, 1, k)
	a.follow(standby, 1)
	a.eventually(1, live, 200)
	a.want(a.settled(1, k) == 401, "the revoked key")
}

// standbyUnavailable detaches the synchronous standby. Nodes that have joined continue to serve
// keys, and no revoke completes.
func standbyUnavailable(a *arena) {
	standby := a.Postgres.SynchronousStandby(a.t)
	k, live := a.mint(0), a.mint(0)
	a.warm(k)
	a.warm(live)
	var uncached []key
	for range 10 {
		uncached = append(uncached, a.mint(0))
	}
	a.detach(standby)
	for _, other := range uncached {
		a.redis("FLUSHALL")
		for i := range a.Nodes {
			cached, loaded := a.get(i, live), a.get(i, other)
			a.want(cached == 200 && loaded == 200,
				"node %d answers %d for a cached key and %d for one that it must load", i, cached,
				loaded)
		}
		time.Sleep(a.lease / 4)
	}
	r := a.revokeIn(time.Second, 0, k)
	a.want(!r.Complete(), "a revoke that the standby has not received: %v", r)
	if err := standby.Attach(); err != nil {
		a.t.Fatal(err)
	}
	a.mustRevoke(0, k)
	for i := range a.Nodes {
		a.want(a.settled(i, k) == 401, "node %d: the revoked key", i)
		a.want(a.settled(i, live) == 200, "node %d: a live key", i)
	}
}

// formerPrimary stalls the connections of node 1 to the primary until a standby has replaced it.
// Afterwards node 1 reaches only the former primary, which still answers reads.
func formerPrimary(a *arena) {
	former := a.Postgres
	standby := former.SynchronousStandby(a.t)
	k, live := a.mint(0), a.mint(0)
	a.warm(k)
	a.received(standby)
	a.Edge(1, gate.Database).Hang()
	if err := standby.Promote(); err != nil {
		a.t.Fatal(err)
	}
	a.mu.Lock()
	a.Postgres = standby
	a.mu.Unlock()
	a.Edge(0, gate.Database).LeadTo(standby.Address())
	a.mustRevoke(0, k)
	a.Edge(1, gate.Database).Heal()
	a.want(!a.useFor(2*a.lease, 1, k), "a node takes a lease from a former primary")
	if err := former.Halt(); err != nil {
		a.t.Fatal(err)
	}
	a.follow(standby, 1)
	a.eventually(1, live, 200)
	a.want(a.settled(1, k) == 401, "the revoked key")
}

// newerThanApplied makes node 1 read a key at a revision that it has not applied, and loses that
// revision in a failover.
func newerThanApplied(a *arena) {
	standby := a.Postgres.Standby(a.t)
	k, live := a.mint(0), a.mint(0)
	a.warm(live)
	a.complete(func() gate.Response { return a.activate(0, k, false) })
	a.received(standby)
	a.detach(standby)
	for i := range a.Nodes {
		a.hold(i, "renew.reply")
	}
	for i := range a.Nodes {
		a.held(i, "renew.reply")
	}
	a.activatedByHand(k)
	got := a.get(1, k)
	a.failOver(standby, 0, 1)
	for i := range a.Nodes {
		a.release(i, "renew.reply")
	}
	for i := range a.Nodes {
		a.eventually(i, live, 200)
	}
	a.change(Change{Call: now(), Return: now(), What: "the failover lost the activation",
		Takes: k.all(), Done: true})
	a.want(!a.useFor(a.lease/4, 1, k),
		"the node, which answered %d before the failover, serves the lost record", got)
	a.want(a.settled(1, live) == 200, "a live key")
}

// sharedFromLostHistory makes node 1 apply a change that a failover loses, write the key to Redis
// and die. No other node has seen the history of that Redis entry.
func sharedFromLostHistory(a *arena) {
	standby := a.Postgres.Standby(a.t)
	k, live := a.mint(0), a.mint(0)
	a.warm(live)
	a.complete(func() gate.Response { return a.activate(0, k, false) })
	a.received(standby)
	a.detach(standby)
	a.hold(0, "renew.reply")
	a.held(0, "renew.reply")
	a.activatedByHand(k)
	a.psqlUntil("the other node has applied the change",
		"SELECT acked = (SELECT revision FROM head) FROM nodes WHERE "+a.is(1))
	a.shared(1, k)
	a.Nodes[1].Kill()
	lost := a.taken("failover", k)
	a.failOver(standby, 0)
	a.release(0, "renew.reply")
	for range 3 { // other changes get the revision of the lost one
		a.until("the database is back",
			func() bool { _, r := a.tryMint(0); return r.Status == 201 })
	}
	lost()
	a.want(!a.useFor(a.lease/4, 0, k), "the node trusts a Redis entry of the lost history")
	a.follow(standby, 1)
	a.Nodes[1].Start(a.t)
	a.eventually(1, live, 200)
	a.want(a.settled(1, k) == 401, "the inactive key")
}

// forgottenByRestore restores a backup from before node 2 joined.
func forgottenByRestore(cutOff bool) func(*arena) {
	return func(a *arena) {
		live := a.mint(0)
		var keys []key
		for range 20 {
			keys = append(keys, a.mint(0))
		}
		restore := a.backUp()
		a.eventually(0, live, 200)
		a.join()
		for _, k := range append(keys, live) {
			a.eventually(2, k, 200)
		}
		a.mint(0)
		if cutOff {
			a.cut(2)
		} else {
			// so that the node needs some time to reconnect
			a.Edge(2, gate.Database).Slow(500 * time.Millisecond)
		}
		restore()
		for _, k := range keys {
			a.until("the revoke is committed", func() bool {
				r := a.revokeIn(10*time.Millisecond, 0, k)
				a.get(2, k)
				return r.Status == 200 || r.Status == 202
			})
		}
		for _, k := range keys {
			a.useFor(50*time.Millisecond, 2, k)
		}
		a.mustRevoke(0, keys[0])
		a.want(!a.useFor(a.lease/4, 2, keys[0]),
			"a node that is not in the backup accepts a revoked key")
		a.HealNode(2)
		a.eventually(2, live, 200)
		a.want(a.settled(2, keys[0]) == 401, "the revoked key")
	}
}

// forgottenByFailover makes node 2 join after the asynchronous standby stopped receiving, and lets
// the standby take over. The failover also loses the changes that lost makes.
func forgottenByFailover(lost func(*arena)) func(*arena) {
	return func(a *arena) {
		standby := a.Postgres.Standby(a.t)
		k, live := a.mint(0), a.mint(0)
		a.received(standby)
		a.detach(standby)
		a.join()
		a.eventually(2, k, 200)
		a.eventually(2, live, 200)
		lost(a)
		a.psqlUntil("the other nodes have read the rows", "SELECT min(beats) > 0 FROM nodes")
		a.cut(2)
		a.failOver(standby, 0, 1)
		a.mustRevoke(0, k)
		a.want(!a.useFor(a.lease/4, 2, k),
			"a node that the new primary does not know accepts a revoked key")
		a.follow(standby, 2)
		a.eventually(2, live, 200)
		a.want(a.settled(2, k) == 401, "the revoked key")
	}
}

// synchronousCommitOff turns synchronous_commit off while nodes run, and crashes the server after a
// change has returned.
func synchronousCommitOff(a *arena) {
	live := a.mint(0)
	// so that the crash loses everything that was not flushed
	if err := a.Postgres.Set("wal_writer_delay", "10s"); err != nil {
		a.t.Fatal(err)
	}
	reconnect := "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = " +
		"'client backend' AND pid <> pg_backend_pid()"
	for _, way := range []struct{ what, off, on string }{
		{"for the user", "ALTER ROLE CURRENT_USER SET synchronous_commit = off",
			"ALTER ROLE CURRENT_USER RESET synchronous_commit"},
		{"for the database", "ALTER DATABASE postgres SET synchronous_commit = off",
			"ALTER DATABASE postgres RESET synchronous_commit"},
		{"for the server", "", ""},
	} {
		var k key
		a.until("a key is minted", func() bool {
			var r gate.Response
			k, r = a.tryMint(0)
			return r.Status == 201
		})
		for i := range a.Nodes {
			a.eventually(i, k, 200)
		}
		if way.off == "" {
			if err := a.Postgres.Set("synchronous_commit", "off"); err != nil {
				a.t.Fatal(err)
			}
		} else {
			a.psql("SET synchronous_commit = on; " + way.off)
			a.psql(reconnect)
		}
		// While the setting is off, a node may refuse changes or flush each one itself.
		var r gate.Response
		for end := time.Now().Add(a.lease); !r.Complete() &&
			time.Now().Before(end); time.Sleep(a.lease / 20) {
			r = a.activate(0, k, false)
		}
		if err := errors.Join(a.Postgres.Halt(), a.Postgres.Run()); err != nil {
			a.t.Fatal(err)
		}
		if way.on == "" {
			if err := a.Postgres.Set("synchronous_commit", "on"); err != nil {
				a.t.Fatal(err)
			}
		} else {
			a.psql("SET synchronous_commit = on; " + way.on)
			a.psql(reconnect)
		}
		for i := range a.Nodes {
			a.eventually(i, live, 200)
		}
		if r.Complete() {
			for i := range a.Nodes {
				a.want(a.settled(i, k) == 401,
					"node %d: off %s, a crash loses an acknowledged change", i, way.what)
			}
		}
	}
}

func (a *arena) detach(standby *postgrestest.Server) {
	a.t.Helper()
	if err := standby.Detach(); err != nil {
		a.t.Fatal(err)
	}
}

// received waits until a standby has replayed everything that was committed.
func (a *arena) received(standby *postgrestest.Server) {
	a.t.Helper()
	a.until("the standby has caught up", func() bool {
		at, err := standby.Query("", "SELECT coalesce(pg_last_wal_replay_lsn() >= '"+
			a.psql("SELECT pg_current_wal_lsn()")+"', false)")
		if err != nil {
			a.t.Fatal(err)
		}
		return at == "t"
	})
}

// failOver crashes the primary, promotes a standby and connects some nodes to it.
func (a *arena) failOver(standby *postgrestest.Server, nodes ...int) {
	a.t.Helper()
	if err := a.Postgres.Halt(); err != nil {
		a.t.Fatal(err)
	}
	if err := standby.Promote(); err != nil {
		a.t.Fatal(err)
	}
	a.mu.Lock()
	a.Postgres = standby
	a.mu.Unlock()
	for _, i := range nodes {
		a.Edge(i, gate.Database).LeadTo(standby.Address())
	}
}

// follow repairs all connections of node i and connects it to another PostgreSQL server.
func (a *arena) follow(server *postgrestest.Server, i int) {
	a.Edge(i, gate.Database).LeadTo(server.Address())
	a.HealNode(i)
}

// activatedByHand activates a key with SQL. The history holds it as a change with an unknown
// outcome.
func (a *arena) activatedByHand(k key) {
	a.t.Helper()
	c := Change{Call: now(), What: "SQL by hand", Gives: k.all()}
	a.psql("UPDATE keys SET active = 1, version = version + 1 WHERE id = '" + k.ID + "'")
	c.Return = now()
	a.change(c)
}

// backUp halts the database to copy it, and returns the function that restores the copy.
func (a *arena) backUp() (restore func()) {
	a.t.Helper()
	data, err := a.Postgres.Query("", "SHOW data_directory")
	if err != nil {
		a.t.Fatal(err)
	}
	backup := data + ".backup" // removed with the server's directory
	halted := func(do ...[]string) {
		a.t.Helper()
		if err := a.Postgres.Halt(); err != nil {
			a.t.Fatal(err)
		}
		for _, command := range do {
			if out, err := exec.Command(command[0], command[1:]...).CombinedOutput(); err != nil {
				a.t.Fatalf("%v: %v: %s", command, err, out)
			}
		}
		if err := a.Postgres.Run(); err != nil {
			a.t.Fatal(err)
		}
	}
	halted([]string{"cp", "-a", data, backup})
	return func() { halted([]string{"rm", "-rf", data}, []string{"mv", backup, data}) }
}
