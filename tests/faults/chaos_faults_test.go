package faults

import (
	"cmp"
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

// faults makes the faults of a plan.
type faults struct {
	*arena
	random *rand.Rand
	old    map[string]string // what Redis held some time ago
}

type event struct {
	at   time.Duration
	what string
	do   func()
}

// events are the beginnings and ends of a plan's steps, in their order.
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

// begin breaks what a step says, and returns what repairs it.
func (f *faults) begin(s Step) (end func()) {
	way := func(store gate.Store, e Excuses, do func(*gate.Edge)) func() {
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
	case "database cut":
		return way(gate.Database, storeAway, (*gate.Edge).Cut)
	case "database hangs":
		return way(gate.Database, storeAway, (*gate.Edge).Hang)
	case "database's answers are lost":
		return way(gate.Database, storeAway, (*gate.Edge).HangReplies)
	case "database connections are reset":
		return way(gate.Database, storeAway, (*gate.Edge).Reset)
	case "database is slow":
		return way(gate.Database, storeAway, slow)
	case "redis cut":
		return way(gate.Cache, nothing, (*gate.Edge).Cut)
	case "redis hangs":
		return way(gate.Cache, nothing, (*gate.Edge).Hang)
	case "redis connections are reset":
		return way(gate.Cache, nothing, (*gate.Edge).Reset)
	case "redis is slow":
		return way(gate.Cache, nothing, slow)
	case "stopped":
		return broken(s.Node, stopped, func() { f.Nodes[s.Node].Pause(f.t) }, f.Nodes[s.Node].Resume)
	case "killed":
		return broken(s.Node, nodeAway, f.Nodes[s.Node].Kill, func() { f.Nodes[s.Node].Start(f.t) })
	case "restarted":
		return broken(s.Node, nodeAway, func() { f.Nodes[s.Node].Restart(f.t) }, nop)
	case "reloaded":
		return broken(s.Node, reloading, func() { f.reload(s.Node) }, nop)
	case "joins":
		return broken(len(f.Nodes), nodeAway, f.join, nop)
	case "redis is flushed":
		return broken(allNodes, nothing, func() { f.redis("FLUSHALL") }, nop)
	case "redis is dead":
		return broken(allNodes, nothing, f.Redis.Kill, f.Redis.Run)
	case "redis stands still":
		return broken(allNodes, nothing, f.Redis.Stop, f.Redis.Continue)
	case "redis goes back in time":
		return broken(allNodes, nothing, f.goBack, nop)
	case "redis is forged":
		return broken(allNodes, nothing, f.forge, nop)
	case "postgres crashes":
		return broken(allNodes, storeAway, func() { f.halt(); f.run() }, nop)
	case "postgres is down":
		return broken(allNodes, storeAway, f.halt, f.run)
	}
	f.t.Fatalf("there is no fault %q", s.What)
	return nil
}

func (f *faults) halt() {
	if err := f.Postgres.Halt(); err != nil {
		f.t.Fatal(err)
	}
}

func (f *faults) run() {
	if err := f.Postgres.Run(); err != nil {
		f.t.Fatal(err)
	}
}

// goBack puts what Redis held the last time into it.
func (f *faults) goBack() {
	held := f.entries()
	f.put(f.old)
	f.old = held
}

// forge makes most entries claim to be new, some of them in another's place.
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
			binary.BigEndian.PutUint64(value[32:], binary.BigEndian.Uint64(value[32:])+uint64(f.random.IntN(500)))
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
