package faults

import (
	"encoding/binary"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"

	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

func everyWay(a *arena) {
	ways := map[string]func(key) gate.Response{
		"revoke":     func(k key) gate.Response { return a.revoke(0, k) },
		"inactivate": func(k key) gate.Response { return a.activate(0, k, false) },
		"rotate":     func(k key) gate.Response { _, r := a.rotate(0, k); return r },
		"narrow":     func(k key) gate.Response { return a.narrow(0, k) },
	}
	for way, take := range ways {
		k := a.mint(0)
		a.warm(k)
		var open []*events
		for i := range a.Nodes {
			open = append(open, a.listen(i, k))
		}
		a.complete(take(k))
		back := now()
		for i, e := range open {
			if way == "narrow" {
				a.want(a.post(i, k) == 403 && a.get(i, k) == 200, "node %d: narrowed to reading", i)
				e.hangUp()
				continue
			}
			a.want(a.settled(i, k) == 401, "node %d: %s", i, way)
			a.want(!e.outlives(back), "node %d: %s: the stream continues", i, way)
		}
		if way == "inactivate" {
			a.complete(a.activate(0, k, true))
			a.warm(k)
		}
		a.complete(a.revoke(0, k))
		a.attempt(0, "delete", "DELETE", "/keys/"+k.ID, nil, nil, k.all())
		for i := range a.Nodes {
			a.want(a.settled(i, k) == 401, "node %d: a deleted key", i)
		}
	}
}

// overtaken revokes a key while node 1 is held on its way to keep it.
func overtaken(a *arena, point string) { overtakenAfter(a, point, func() {}) }

// overtakenAfter does something else too, just before node 1 begins to read and just before it goes
// on.
func overtakenAfter(a *arena, point string, do func()) {
	k := a.mint(0)
	a.psqlUntil("the node knows of the key",
		"SELECT coalesce(max(acked), 0) >= (SELECT revision FROM head) FROM nodes WHERE "+a.is(1))
	do()
	a.hold(1, point)
	read := background(func() { a.get(1, k) })
	a.held(1, point, read)
	a.complete(a.revoke(0, k))
	do()
	a.release(1, point)
	<-read
	a.want(a.settled(1, k) == 401, "the revoked key is not refused")
}

// takenForDead: node 1's acknowledgements are lost while it holds a lease, so that node 0 gives it
// up.
func takenForDead(a *arena) {
	k := a.mint(0)
	a.warm(k)
	node := fmt.Sprintf("incarnation = '%s'", a.incarnation(1))
	a.psql(`CREATE FUNCTION lose() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
		CREATE TRIGGER lose BEFORE UPDATE OF beats ON nodes FOR EACH ROW WHEN (NEW.` + node + `) EXECUTE FUNCTION lose()`)
	time.Sleep(a.lease * 3 / 4) // it is silent, and its lease goes on
	a.hold(1, "renew.reply")
	a.held(1, "renew.reply")
	a.psqlUntil("the node is given up",
		"SELECT NOT EXISTS (SELECT 1 FROM nodes WHERE "+node+" AND state = 'active')")
	a.cut(1)
	a.release(1, "renew.reply")
	a.complete(a.revoke(0, k))
	a.want(!a.useFor(a.lease/4, 1, k), "the node that was given up still accepts")
	a.psql("DROP TRIGGER lose ON nodes; DROP FUNCTION lose()")
	a.HealNode(1)
	a.eventually(1, k, 401)
}

// pausedNode: what lies in a stopped process's sockets is judged by the time at which it goes on.
func pausedNode(a *arena) {
	k, live := a.mint(0), a.mint(0)
	a.warm(k)
	a.warm(live)
	e := a.listen(1, k)
	goesOn := a.fault(1, "stopped", stopped)
	a.Nodes[1].Pause(a.t)
	a.complete(a.revoke(0, k))
	var sent, answered sync.WaitGroup
	for range 30 {
		sent.Add(1)
		answered.Go(func() {
			var once sync.Once
			got := a.use(1, k, "GET", func() { once.Do(sent.Done) })
			once.Do(sent.Done)
			a.want(got == 401 || got == 503, "a request that lay in a socket: %d", got)
		})
	}
	sent.Wait()
	goesOn()
	a.Nodes[1].Resume()
	answered.Wait()
	a.want(!e.outlives(now()+int64(10*time.Second)), "the stream continues")
	a.eventually(1, live, 200)
	a.want(a.settled(1, k) == 401, "the revoked key")
}

// isolated: a revoke says which node it waits for, and until when; that node accepts no longer than
// its lease.
func isolated(a *arena) {
	k, live := a.mint(0), a.mint(0)
	a.warm(k)
	a.warm(live)
	e := a.listen(1, k)
	isBack := a.fault(1, "cut off", storeAway)
	a.until("a node that is cut off goes on with what it has cached", func() bool {
		a.Edge(1, gate.Database).Hang()
		a.Edge(1, gate.Cache).Hang()
		if a.get(1, live) == 200 {
			return true
		}
		a.HealNode(1) // a busy machine had let the lease lapse
		a.eventually(1, live, 200)
		return false
	})
	r := a.revokeIn(10*time.Millisecond, 0, k)
	a.want(r.Status == 202, "a revoke that does not wait long enough: %v", r)
	if propagation, _ := r.JSON()["propagation"].(gate.JSON); propagation != nil {
		pending, _ := propagation["pending"].([]any)
		a.want(len(pending) == 1, "it waits for %v", propagation)
	}
	a.complete(a.revoke(0, k))
	a.want(!e.outlives(now()+int64(10*time.Second)), "the stream continues")
	a.want(a.get(1, k) == 503 && a.get(1, live) == 503,
		"after its lease a node that is cut off accepts")
	a.HealNode(1)
	isBack()
	a.eventually(1, live, 200)
	a.want(a.settled(1, k) == 401, "the revoked key, when the node is back")
}

func databaseAway(a *arena) {
	k, unknown, dying := a.mint(0), a.mint(0), a.mint(0)
	a.warm(k)
	a.warm(dying)
	if err := a.Postgres.Halt(); err != nil {
		a.t.Fatal(err)
	}
	a.want(a.get(1, k) == 200, "a cached key")
	a.redis("FLUSHALL")
	a.want(a.get(1, unknown) == 503, "a key that nobody has cached")
	junk := a.Nodes[1].Get(a.t, "/v1/items/1", "ak_not_a_token").Status
	a.want(junk == 401, "what is no token: %d", junk)
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
	a.complete(a.revoke(0, dying))
	a.want(a.settled(1, dying) == 401, "the revoke that was repeated")
}

// restored: the database goes back in time. Nothing of the time that is lost may live on in a
// cache.
func restored(a *arena) {
	old := a.mint(0)
	a.warm(old)
	restore := a.backUp()
	for i := range a.Nodes {
		a.eventually(i, old, 200)
	}
	lost := a.mint(0)
	a.warm(lost)
	a.complete(a.activate(0, a.mint(0), false))
	forgotten := a.taken("restore", lost)
	restore()
	for range 3 { // other changes take the place of those that are lost
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

// cacheAway: whatever becomes of Redis, no client notices and a revoke takes no longer.
func cacheAway(a *arena) {
	edges := func(do func(*gate.Edge)) func() {
		return func() {
			for i := range a.Nodes {
				do(a.Edge(i, gate.Cache))
			}
		}
	}
	troubles := []struct {
		name        string
		begin, over func()
	}{
		{"cut off", edges((*gate.Edge).Cut), edges((*gate.Edge).Heal)},
		{"a black hole", edges((*gate.Edge).Hang), edges((*gate.Edge).Heal)},
		{"reset", edges((*gate.Edge).Reset), edges((*gate.Edge).Heal)},
		{"slow", edges(func(e *gate.Edge) { e.Slow(time.Second) }), edges((*gate.Edge).Heal)},
		{"killed", a.Redis.Kill, a.Redis.Run},
		{"stopped", a.Redis.Stop, a.Redis.Continue},
	}
	for _, trouble := range troubles {
		before := a.mint(0)
		a.warm(before)
		trouble.begin()
		k := a.mint(0)
		for i := range a.Nodes {
			a.want(a.get(i, before) == 200 && a.get(i, k) == 200, "node %d, Redis %s", i,
				trouble.name)
		}
		a.complete(a.revoke(0, k))
		a.complete(a.revoke(1, before))
		for i := range a.Nodes {
			a.want(a.settled(i, before) == 401 && a.settled(i, k) == 401,
				"node %d, Redis %s: a revoked key", i, trouble.name)
		}
		trouble.over()
	}
}

// cut takes node i's way to the database.
func (a *arena) cut(i int) { a.Edge(i, gate.Database).Cut() }

// reload gives node i another configuration that means nearly the same.
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

// eventually waits until a key is answered a status.
func (a *arena) eventually(node int, k key, status int) {
	a.t.Helper()
	var got int
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if got = a.get(node, k); got == status {
			return
		}
	}
	a.want(false, "node %d still answers %d, not %d", node, got, status)
}

// settled returns the first answer of a node that is not 503, which a node may give while it looks
// for a database that was broken.
func (a *arena) settled(node int, k key) (status int) {
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if status = a.get(node, k); status != 503 {
			break
		}
	}
	return status
}

// taken records that something other than a node takes a key's access, from now until the returned
// function is called.
func (a *arena) taken(by string, k key) (done func()) {
	c := Change{Call: now(), What: by, Takes: k.all(), Done: true}
	return func() {
		c.Return = now()
		a.change(c)
	}
}

func (a *arena) psqlUntil(what, condition string) {
	a.t.Helper()
	a.until(what, func() bool { return a.psql(condition) == "t" })
}

// until is gate.Until with more patience.
func (a *arena) until(what string, true func() bool) {
	a.t.Helper()
	for end := time.Now().Add(patience); !true(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			a.t.Fatalf("after %v still not: %s", patience, what)
		}
	}
}

func (a *arena) incarnation(i int) string {
	a.t.Helper()
	return a.psql("SELECT incarnation FROM nodes WHERE " + a.is(i))
}

// is selects node i's rows, whatever incarnation it is in.
func (a *arena) is(i int) string { return fmt.Sprintf("address LIKE '%%/%d'", a.Nodes[i].Pid()) }

// rejoin has node i given up, and waits until it has joined as another one.
func (a *arena) rejoin(i int) {
	a.t.Helper()
	former := a.incarnation(i)
	a.psql("UPDATE nodes SET state = 'fencing' WHERE incarnation = '" + former + "'")
	a.until("the node has joined anew", func() bool {
		now := a.incarnation(i)
		return now != "" && !strings.Contains(now, former)
	})
}

// transaction is one that an operator has open.
type transaction struct {
	a    *arena
	conn *pgx.Conn
}

// begin runs SQL in a transaction that commit ends.
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

// awaited returns when another one waits for what this one has locked.
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

// entry is what Redis holds of a key.
type entry struct{ name, value string }

// asOf is the entry with another revision: the bytes after the MAC.
func (e entry) asOf(r int64) string {
	b := []byte(e.value)
	binary.BigEndian.PutUint64(b[32:], uint64(r))
	return string(b)
}

// shared has node i put a key into Redis, and returns the entry. One key at a time.
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
	if err != nil && err != redis.Nil {
		a.t.Fatalf("redis: %v", err)
	}
	return answer
}
