package faults

import (
	"cmp"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest/postgrestest"
	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

// faults injects the faults of a plan.
type faults struct {
	*arena
	random  *rand.Rand
	old     map[string]string // former Redis entries
	standby *postgrestest.Server
	load    *load
	work    sync.WaitGroup // goroutines that may outlast their step

	resetSettings func() error // of the server; nil if they have never been changed
}

type event struct {
	at   time.Duration
	what string
	do   func()
}

// events returns the beginnings and ends of a plan's steps in chronological order.
func (f *faults) events(plan []Step) []event {
	var all []event
	for _, s := range plan {
		end := func() {}
		all = append(all, event{s.At, s.String(), func() { end = f.begin(s) }})
		if s.For > 0 {
			all = append(all, event{s.At + s.For, "over: " + s.What, func() { end() }})
		} else {
			last := &all[len(all)-1]
			last.do = func() { f.begin(s)() }
		}
	}
	slices.SortStableFunc(all, func(a, b event) int { return cmp.Compare(a.at, b.at) })
	return all
}

// begin injects the fault of a step and returns the function that repairs it.
func (f *faults) begin(s Step) (end func()) {
	connection := func(store gate.Store, e Excuses, do func(*gate.Edge)) func() {
		over := f.fault(s.Node, s.What, e)
		edge := f.Edge(s.Node, store)
		do(edge)
		return func() {
			edge.Heal()
			over()
		}
	}
	broken := func(node int, e Excuses, begin, end func()) func() {
		over := f.fault(node, s.What, e)
		begin()
		return func() {
			end()
			over()
		}
	}
	slow := func(e *gate.Edge) { e.Slow(time.Duration(50+f.random.IntN(1000)) * time.Millisecond) }
	nop := func() {}
	switch s.What {
	case "database connections are cut":
		return connection(gate.Database, storeDown, (*gate.Edge).Cut)
	case "database connections hang":
		return connection(gate.Database, storeDown, (*gate.Edge).Hang)
	case "database replies are lost":
		return connection(gate.Database, storeDown, (*gate.Edge).HangReplies)
	case "database connections are reset":
		return connection(gate.Database, storeDown, (*gate.Edge).Reset)
	case "database is slow":
		return connection(gate.Database, storeDown, slow)
	case "Redis connections are cut":
		return connection(gate.Cache, nothing, (*gate.Edge).Cut)
	case "Redis connections hang":
		return connection(gate.Cache, nothing, (*gate.Edge).Hang)
	case "Redis connections are reset":
		return connection(gate.Cache, nothing, (*gate.Edge).Reset)
	case "Redis is slow":
		return connection(gate.Cache, nothing, slow)
	case "a node is stopped":
		return broken(s.Node, stopped, func() { f.Nodes[s.Node].Pause(f.t) },
			f.Nodes[s.Node].Resume)
	case "a node is killed":
		return broken(s.Node, nodeDown, f.Nodes[s.Node].Kill,
			func() { f.allowStart(); f.Nodes[s.Node].Start(f.t) })
	case "a node is restarted":
		return broken(s.Node, nodeDown, func() { f.allowStart(); f.Nodes[s.Node].Restart(f.t) },
			nop)
	case "a node is reloaded":
		return broken(s.Node, reloading, func() { f.reload(s.Node) }, nop)
	case "a node joins":
		return broken(len(f.Nodes), nodeDown, func() { f.allowStart(); f.join() }, nop)
	case "Redis is flushed":
		return broken(allNodes, nothing, func() { f.redis("FLUSHALL") }, nop)
	case "Redis is unavailable":
		return broken(allNodes, nothing, f.Redis.Kill, f.Redis.Run)
	case "Redis is stopped":
		return broken(allNodes, nothing, f.Redis.Stop, f.Redis.Continue)
	case "Redis entries are rolled back":
		return broken(allNodes, nothing, f.rollBack, nop)
	case "Redis entries are forged":
		return broken(allNodes, nothing, f.forge, nop)
	case "PostgreSQL crashes":
		return broken(allNodes, storeDown, func() { f.halt(); f.run() }, nop)
	case "PostgreSQL is unavailable":
		return broken(allNodes, storeDown, f.halt, f.run)
	case "the database fails over":
		return broken(allNodes, storeDown, f.switchOver, nop)
	case "the standby is unavailable":
		return broken(allNodes, noStandby, func() { f.must(f.standby.Detach()) },
			func() { f.must(f.standby.Attach()) })
	case "the database clock is set":
		return f.setClockAgain(s.What)
	case "synchronous_commit is changed":
		return f.changeSettings(s.What)
	case "bulk work":
		return f.workInBulk(s.What)
	}
	f.t.Fatalf("there is no fault %q", s.What)
	return nil
}

func (f *faults) must(err error) {
	f.t.Helper()
	if err != nil {
		f.t.Fatal(err)
	}
}

func (f *faults) halt() { f.must(f.Postgres.Halt()) }
func (f *faults) run()  { f.must(f.Postgres.Run()) }

// switchOver promotes the synchronous standby and gives it a standby.
func (f *faults) switchOver() {
	var nodes []int
	for i := range f.Nodes {
		nodes = append(nodes, i)
	}
	f.failOver(f.standby, nodes...)
	f.standby = f.Postgres.SynchronousStandby(f.t)
}

// setClockAgain repeatedly sets the database clock ahead and behind, by a little, as NTP does, or
// by a lot, as operators do.
func (f *faults) setClockAgain(what string) (end func()) {
	repaired := f.fault(allNodes, what, nothing)
	random := rand.New(rand.NewPCG(f.random.Uint64(), 0))
	done := make(chan struct{})
	f.work.Go(func() {
		defer repaired()
		for !over(done) {
			most := []time.Duration{time.Second, 10 * time.Second, time.Minute,
				2 * time.Hour}[random.IntN(4)]
			f.setClock(time.Duration(random.Int64N(2*int64(most))) - most)
			select {
			case <-done:
			case <-time.After(500*time.Millisecond + time.Duration(random.Int64N(int64(f.lease)))):
			}
		}
		f.setClock(0)
	})
	return func() { close(done) }
}

// changeSettings sets synchronous_commit to off or local for the server, for the user or for the
// database. Only the first affects sessions that have begun.
func (f *faults) changeSettings(what string) (end func()) {
	repaired := f.fault(allNodes, what, nothing)
	value := []string{"off", "local"}[f.random.IntN(2)]
	object := []string{"SYSTEM", "ROLE CURRENT_USER", "DATABASE postgres"}[f.random.IntN(3)]
	alter := func(to string) error {
		statement := "ALTER " + object + to
		if object != "SYSTEM" { // ALTER SYSTEM commits nothing and does not wait for the standby
			statement = "SET synchronous_commit = local; " + statement
		}
		server := f.database()
		return errors.Join(server.Exec("", statement), server.Exec("", "SELECT pg_reload_conf()"))
	}
	if err := alter(" SET synchronous_commit = " + value); err != nil {
		f.t.Logf("the database is down, so synchronous_commit stays as it is: %v", err)
	}
	reset := func() error { return alter(" RESET synchronous_commit") }
	f.resetSettings = reset
	return func() {
		f.work.Go(func() {
			defer repaired()
			for end := time.Now().Add(patience); ; time.Sleep(100 * time.Millisecond) {
				err := reset()
				if err == nil {
					return
				}
				if time.Now().After(end) {
					f.t.Error(err)
					return
				}
			}
		})
	}
}

// allowStart ends a change of synchronous_commit early, because Caddy does not start with it. While
// the database is down, Caddy starts without it.
func (f *faults) allowStart() {
	if f.resetSettings == nil {
		return
	}
	if err := f.resetSettings(); err != nil {
		f.t.Logf("the database is down, so synchronous_commit is not reset: %v", err)
	}
}

// workInBulk imports, exports and revokes hundreds of keys until end is called.
func (f *faults) workInBulk(what string) (end func()) {
	finished := f.fault(allNodes, what, nothing)
	done := make(chan struct{})
	f.work.Go(func() {
		defer finished()
		for !over(done) {
			f.load.bulk()
		}
	})
	return func() { close(done) }
}

// rollBack restores the Redis entries that the previous call saved, and saves the current ones.
func (f *faults) rollBack() {
	held := f.entries()
	f.put(f.old)
	f.old = held
}

// forge gives most entries a later revision, stores some of them under another key, and cuts some
// short.
func (f *faults) forge() {
	held, forged := f.entries(), map[string]string{}
	names := make([]string, 0, len(held))
	for name := range held {
		names = append(names, name)
	}
	slices.Sort(names)
	for i, name := range names {
		value := []byte(held[names[(i+f.random.IntN(2))%len(names)]])
		if len(value) >= 40 && f.random.IntN(4) > 0 {
			binary.BigEndian.PutUint64(value[32:],
				binary.BigEndian.Uint64(value[32:])+uint64(f.random.IntN(500)))
		}
		if f.random.IntN(10) == 0 {
			value = value[:f.random.IntN(len(value))]
		}
		forged[name] = string(value)
	}
	f.put(forged)
}

func (f *faults) client() *redis.Client {
	return redis.NewClient(&redis.Options{Addr: f.Redis.Addr(), Protocol: 2})
}

func (f *faults) entries() map[string]string {
	client := f.client()
	defer client.Close()
	ctx := f.t.Context()
	held := map[string]string{}
	names, err := client.Keys(ctx, "*").Result()
	if err != nil {
		f.t.Error(err)
	}
	for _, name := range names {
		if value, err := client.Get(ctx, name).Result(); err == nil && value != "" {
			held[name] = value
		}
	}
	return held
}

func (f *faults) put(entries map[string]string) {
	client := f.client()
	defer client.Close()
	for name, value := range entries {
		if err := client.Set(f.t.Context(), name, value, 0).Err(); err != nil {
			f.t.Error(err)
		}
	}
}
