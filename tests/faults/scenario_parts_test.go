package faults

import (
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"

	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

// eachChange makes each change of a key that takes access away, while every node has the key
// cached and a stream open.
func eachChange(a *arena) {
	changes := map[string]func(key) gate.Response{
		"revoke":     func(k key) gate.Response { return a.revoke(0, k) },
		"inactivate": func(k key) gate.Response { return a.activate(0, k, false) },
		"rotate":     func(k key) gate.Response { _, r := a.rotate(0, k); return r },
		"narrow":     func(k key) gate.Response { return a.narrow(0, k) },
	}
	for change, take := range changes {
		k := a.mint(0)
		a.warm(k)
		var open []*events
		for i := range a.Nodes {
			open = append(open, a.listen(i, k))
		}
		a.complete(func() gate.Response { return take(k) })
		back := now()
		for i, e := range open {
			if change == "narrow" {
				a.want(a.settled(i, k) == 200 && a.post(i, k) == 403,
					"node %d: the key is not narrowed to reading", i)
				e.hangUp()
				continue
			}
			a.want(a.settled(i, k) == 401, "node %d: %s", i, change)
			a.want(!e.outlives(back), "node %d: %s: the stream continues", i, change)
		}
		if change == "inactivate" {
			a.complete(func() gate.Response { return a.activate(0, k, true) })
			a.warm(k)
		}
		a.mustRevoke(0, k)
		a.attempt(0, "delete", "DELETE", "/keys/"+k.ID, nil, nil, k.all())
		for i := range a.Nodes {
			a.want(a.settled(i, k) == 401, "node %d: a deleted key", i)
		}
	}
}

// overtaken revokes a key while node 1 is held at a point between reading and caching it.
func overtaken(a *arena, point string) { overtakenAfter(a, point, func() {}) }

// overtakenAfter is overtaken, and also calls do just before node 1 begins to read and just before
// it continues.
func overtakenAfter(a *arena, point string, do func()) {
	k := a.mintApplied()
	do()
	a.hold(1, point)
	read := background(func() { a.get(1, k) })
	a.held(1, point, read)
	a.mustRevoke(0, k)
	do()
	a.release(1, point)
	<-read
	a.want(a.settled(1, k) == 401, "the revoked key is not refused")
}

// declaredDead loses the acknowledgements of node 1 while it holds a lease, so that node 0 declares
// it dead.
func declaredDead(a *arena) {
	k := a.mint(0)
	a.warm(k)
	node := fmt.Sprintf("incarnation = '%s'", a.incarnation(1))
	a.psql(`CREATE FUNCTION lose() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
		CREATE TRIGGER lose BEFORE UPDATE OF beats ON nodes
			FOR EACH ROW WHEN (NEW.` + node + `) EXECUTE FUNCTION lose()`)
	time.Sleep(a.lease * 3 / 4) // the node is silent, and renews its lease
	a.hold(1, "renew.reply")
	a.held(1, "renew.reply")
	a.psqlUntil("the node is declared dead",
		"SELECT NOT EXISTS (SELECT 1 FROM nodes WHERE "+node+" AND state = 'active')")
	a.cut(1)
	a.release(1, "renew.reply")
	a.mustRevoke(0, k)
	a.want(!a.useFor(a.lease/4, 1, k), "the node that was declared dead accepts a revoked key")
	a.psql("DROP TRIGGER lose ON nodes; DROP FUNCTION lose()")
	a.HealNode(1)
	a.eventually(1, k, 401)
}

// pausedNode sends requests to a stopped process. It must judge them by the time at which it
// continues.
func pausedNode(a *arena) {
	k, live := a.mint(0), a.mint(0)
	a.warm(k)
	a.warm(live)
	e := a.listen(1, k)
	continues := a.fault(1, "stopped", stopped)
	a.Nodes[1].Pause(a.t)
	a.mustRevoke(0, k)
	var sent, answered sync.WaitGroup
	for range 30 {
		sent.Add(1)
		answered.Go(func() {
			var once sync.Once
			got := a.use(1, k, "GET", func() { once.Do(sent.Done) })
			once.Do(sent.Done)
			a.want(got == 401 || got == 503, "a request that waited in a socket: %d", got)
		})
	}
	sent.Wait()
	continues()
	a.Nodes[1].Resume()
	answered.Wait()
	a.want(!e.outlives(now()+int64(10*time.Second)), "the stream continues")
	a.eventually(1, live, 200)
	a.want(a.settled(1, k) == 401, "the revoked key")
}

// isolated cuts node 1 off from the stores. A revoke names the node that it waits for, and the node
// accepts keys no longer than its lease.
func isolated(a *arena) {
	k, live := a.mint(0), a.mint(0)
	a.warm(k)
	a.warm(live)
	e := a.listen(1, k)
	repaired := a.fault(1, "cut off", storeDown)
	a.until("a node that is cut off serves a cached key", func() bool {
		a.Edge(1, gate.Database).Hang()
		a.Edge(1, gate.Cache).Hang()
		if a.get(1, live) == 200 {
			return true
		}
		a.HealNode(1) // the lease had expired on a busy machine
		a.eventually(1, live, 200)
		return false
	})
	r := a.insist(func() gate.Response { return a.revokeIn(10*time.Millisecond, 0, k) })
	a.want(r.Status == 202, "a revoke that does not wait long enough: %v", r)
	if propagation, _ := r.JSON()["propagation"].(gate.JSON); propagation != nil {
		pending, _ := propagation["pending"].([]any)
		a.want(len(pending) == 1, "it waits for %v", propagation)
	}
	a.mustRevoke(0, k)
	a.want(!e.outlives(now()+int64(10*time.Second)), "the stream continues")
	a.want(a.get(1, k) == 503 && a.get(1, live) == 503,
		"a node that is cut off serves keys after its lease expired")
	a.HealNode(1)
	repaired()
	a.eventually(1, live, 200)
	a.want(a.settled(1, k) == 401, "the node accepts the revoked key when it is back")
}

// databaseUnavailable stops PostgreSQL until the leases have expired.
func databaseUnavailable(a *arena) {
	k, unknown, dying := a.mint(0), a.mint(0), a.mint(0)
	a.warm(k)
	a.warm(dying)
	if err := a.Postgres.Halt(); err != nil {
		a.t.Fatal(err)
	}
	a.want(a.settled(1, k) == 200, "a cached key")
	a.redis("FLUSHALL")
	a.want(a.get(1, unknown) == 503, "a key that no node has cached")
	junk := a.Nodes[1].Get(a.t, "/v1/items/1", "ak_not_a_token").Status
	a.want(junk == 401, "a malformed token: %d", junk)
	r := a.revoke(0, dying)
	a.want(r.Status == 503, "a revoke: %v", r)
	a.eventually(1, k, 503)
	if err := a.Postgres.Run(); err != nil {
		a.t.Fatal(err)
	}
	for i := range a.Nodes {
		for _, live := range []key{k, unknown} {
			a.eventually(i, live, 200)
		}
	}
	a.mustRevoke(0, dying)
	a.want(a.settled(1, dying) == 401, "the key is accepted after the repeated revoke")
}

// restored restores a backup. No cache may keep a record that was written after the backup.
func restored(a *arena) {
	old := a.mint(0)
	a.warm(old)
	restore := a.backUp()
	for i := range a.Nodes {
		a.eventually(i, old, 200)
	}
	lost := a.mint(0)
	a.warm(lost)
	a.complete(func() gate.Response { return a.activate(0, a.mint(0), false) })
	forgotten := a.taken("restore", lost)
	restore()
	for range 3 { // other changes get the revisions of the lost ones
		a.until("the database is back",
			func() bool { _, r := a.tryMint(0); return r.Status == 201 })
	}
	for i := range a.Nodes {
		a.eventually(i, old, 200)
		a.eventually(i, lost, 401)
	}
	forgotten()
	for i := range a.Nodes {
		a.get(i, lost)
	}
}

// cacheFaults breaks Redis in each way. No client may notice, and revokes complete.
func cacheFaults(a *arena) {
	edges := func(do func(*gate.Edge)) func() {
		return func() {
			for i := range a.Nodes {
				do(a.Edge(i, gate.Cache))
			}
		}
	}
	kinds := []struct {
		name          string
		begin, repair func()
	}{
		{"cut off", edges((*gate.Edge).Cut), edges((*gate.Edge).Heal)},
		{"a black hole", edges((*gate.Edge).Hang), edges((*gate.Edge).Heal)},
		{"reset", edges((*gate.Edge).Reset), edges((*gate.Edge).Heal)},
		{"slow", edges(func(e *gate.Edge) { e.Slow(time.Second) }), edges((*gate.Edge).Heal)},
		{"killed", a.Redis.Kill, a.Redis.Run},
		{"stopped", a.Redis.Stop, a.Redis.Continue},
	}
	for _, kind := range kinds {
		before := a.mint(0)
		a.warm(before)
		kind.begin()
		k := a.mint(0)
		for i := range a.Nodes {
			a.want(a.settled(i, before) == 200 && a.settled(i, k) == 200,
				"node %d, Redis %s", i, kind.name)
		}
		a.mustRevoke(0, k)
		a.mustRevoke(1, before)
		for i := range a.Nodes {
			a.want(a.settled(i, before) == 401 && a.settled(i, k) == 401,
				"node %d, Redis %s: a revoked key", i, kind.name)
		}
		kind.repair()
	}
}

// cut closes and refuses the connections from node i to the database.
func (a *arena) cut(i int) { a.Edge(i, gate.Database).Cut() }

// reload loads a configuration into node i that differs in the size of its cache.
func (a *arena) reload(i int) {
	a.t.Helper()
	g := a.Nodes[i]
	c := g.Config()
	c.APIKeys += fmt.Sprintf("local_cache %d\n", 100_000+a.serial.Add(1))
	a.write(g.Dir, "another.Caddyfile", c.Text())
	r := g.Caddy(a.t, "", "reload", "--adapter", "caddyfile", "--config",
		filepath.Join(g.Dir, "another.Caddyfile"), "--address", g.Admin)
	if r.Exit != 0 {
		a.t.Errorf("reload: %v", r)
	}
}

// eventually waits until requests with a key get a status.
func (a *arena) eventually(node int, k key, status int) {
	a.t.Helper()
	var got int
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if got = a.get(node, k); got == status {
			return
		}
	}
	a.want(false, "node %d still answers %d, want %d", node, got, status)
}

// settled returns the first status other than 503, which a node may answer until it has reconnected
// to the database.
func (a *arena) settled(node int, k key) (status int) {
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if status = a.get(node, k); status != 503 {
			break
		}
	}
	return status
}

// taken records that something other than a node takes the access of a key away, between now and
// the call of the returned function.
func (a *arena) taken(by string, k key) (done func()) {
	c := Change{Call: now(), What: by, Takes: k.all(), Done: true}
	return func() {
		c.Return = now()
		a.change(c)
	}
}

func (a *arena) psqlUntil(what, condition string) {
	a.t.Helper()
	a.untilEvery(50*time.Millisecond, what, // each psql is a process
		func() bool { return a.psql(condition) == "t" })
}

// until is gate.Until with a longer limit.
func (a *arena) until(what string, true func() bool) {
	a.t.Helper()
	a.untilEvery(10*time.Millisecond, what, true)
}

func (a *arena) untilEvery(interval time.Duration, what string, true func() bool) {
	a.t.Helper()
	for end := time.Now().Add(patience); !true(); time.Sleep(interval) {
		if time.Now().After(end) {
			a.t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

func (a *arena) incarnation(i int) string {
	a.t.Helper()
	return a.psql("SELECT incarnation FROM nodes WHERE " + a.is(i))
}

// is returns the SQL condition for the rows of all incarnations of node i.
func (a *arena) is(i int) string { return fmt.Sprintf("address LIKE '%%/%d'", a.Nodes[i].Pid()) }

// rejoin declares node i dead and waits until it has joined as another incarnation.
func (a *arena) rejoin(i int) {
	a.t.Helper()
	former := a.incarnation(i)
	a.psql("UPDATE nodes SET state = 'fencing' WHERE incarnation = '" + former + "'")
	a.until("the node has joined again", func() bool {
		now := a.incarnation(i)
		return now != "" && !strings.Contains(now, former)
	})
}

// transaction is an open transaction of the database operator.
type transaction struct {
	a    *arena
	conn *pgx.Conn
}

// begin runs SQL in a transaction and leaves it open.
func (a *arena) begin(sql string) transaction {
	a.t.Helper()
	ctx := a.t.Context()
	conn, err := pgx.Connect(ctx, a.Postgres.URL(a.Schema))
	if err == nil {
		_, err = conn.Exec(ctx, "BEGIN; "+sql)
	}
	if err != nil {
		a.t.Fatal(err)
	}
	return transaction{a, conn}
}

// awaited returns when another transaction waits for the locks of this one.
func (tx transaction) awaited() {
	tx.a.t.Helper()
	tx.a.psqlUntil("a change waits for the lock",
		fmt.Sprintf("SELECT EXISTS (SELECT 1 FROM pg_stat_activity WHERE %d = "+
			"ANY(pg_blocking_pids(pid)))", tx.conn.PgConn().PID()))
}

func (tx transaction) commit() {
	tx.a.t.Helper()
	ctx := tx.a.t.Context()
	if _, err := tx.conn.Exec(ctx, "COMMIT"); err != nil {
		tx.a.t.Fatal(err)
	}
	tx.conn.Close(ctx)
}

// entry is the Redis entry of a key.
type entry struct{ name, value string }

// asOf returns the value with another revision, which follows the MAC.
func (e entry) asOf(r int64) string {
	b := []byte(e.value)
	binary.BigEndian.PutUint64(b[32:], uint64(r))
	return string(b)
}

// shared empties Redis, makes node i write a key to it, and returns the entry.
func (a *arena) shared(i int, k key) entry {
	a.t.Helper()
	a.redis("FLUSHALL")
	if got := a.get(i, k); got != 200 {
		a.t.Fatalf("a new key: %d", got)
	}
	var e entry
	a.until("the key is in Redis", func() bool {
		names, _ := a.redis("KEYS", "*").([]any)
		if len(names) != 1 {
			return false
		}
		e.name = names[0].(string)
		e.value, _ = a.redis("GET", e.name).(string)
		return e.value != ""
	})
	return e
}

func (a *arena) redis(args ...any) any {
	a.t.Helper()
	client := redis.NewClient(&redis.Options{Addr: a.Redis.Addr(), Protocol: 2})
	defer client.Close()
	answer, err := client.Do(a.t.Context(), args...).Result()
	if err != nil && !errors.Is(err, redis.Nil) {
		a.t.Fatalf("redis: %v", err)
	}
	return answer
}
