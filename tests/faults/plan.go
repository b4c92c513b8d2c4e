package faults

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"
)

// Step is one fault of a schedule.
type Step struct {
	At   time.Duration // from the start of the run
	For  time.Duration // duration of the fault; 0 if it is over at once
	What string
	Node int // -1 if the fault has no node
}

func (s Step) String() string {
	text := fmt.Sprintf("%7.2fs %s", s.At.Seconds(), s.What)
	if s.Node >= 0 {
		text += fmt.Sprintf(" (node %d)", s.Node)
	}
	if s.For > 0 {
		text += fmt.Sprintf(" for %.2fs", s.For.Seconds())
	}
	return text
}

// A faultKind is a kind of fault that a schedule can choose.
type faultKind struct {
	what string
	// resource is the thing that the fault breaks. Two faults of a group never break the same one.
	// "node", "database connection" and "cache connection" are those of one node.
	resource string
	lasts    bool
	weight   int // how often it is chosen, relative to the others
}

var faultKinds = []faultKind{
	{"database connections are cut", "database connection", true, 3},
	{"database connections hang", "database connection", true, 3},
	{"database replies are lost", "database connection", true, 3},
	{"database connections are reset", "database connection", true, 2},
	{"database is slow", "database connection", true, 2},
	{"Redis connections are cut", "cache connection", true, 1},
	{"Redis connections hang", "cache connection", true, 1},
	{"Redis connections are reset", "cache connection", true, 1},
	{"Redis is slow", "cache connection", true, 1},
	{"a node is stopped", "node", true, 4},
	{"a node is killed", "node", true, 3},
	{"a node is restarted", "node", false, 1},
	{"a node is reloaded", "node", false, 3},
	{"a node joins", "", false, 1},
	{"Redis is flushed", "redis", false, 1},
	{"Redis is unavailable", "redis", true, 1},
	{"Redis is stopped", "redis", true, 1},
	{"Redis entries are rolled back", "redis", false, 3},
	{"Redis entries are forged", "redis", false, 3},
	{"PostgreSQL crashes", "postgres", false, 1},
	{"PostgreSQL is unavailable", "postgres", true, 1},
	{"the database fails over", "postgres", false, 2},
	{"the standby is unavailable", "postgres", true, 2},
	{"the database clock is set", "clock", true, 4},
	{"synchronous_commit is changed", "settings", true, 2},
	{"bulk work", "work", true, 2},
}

// Plan returns the schedule of a seed. Faults come in groups of one to three; most are shorter than
// a lease and some are longer. After every third group, nothing is broken for the duration calm.
// The run begins with the given number of nodes, and at most two more join.
func Plan(seed uint64, duration time.Duration, nodes int, lease, calm time.Duration) []Step {
	random := rand.New(rand.NewPCG(seed, 0))
	between := func(a, b time.Duration) time.Duration {
		return a + time.Duration(random.Int64N(int64(b-a)))
	}
	var weighted []faultKind
	for _, k := range faultKinds {
		weighted = append(weighted, slices.Repeat([]faultKind{k}, k.weight)...)
	}
	var steps []Step
	most := nodes + 2
	for at, group := lease/2, 1; ; group++ {
		end, joining := at, 0
		busy := map[string]bool{}
		for range 1 + random.IntN(3) {
			kind := weighted[random.IntN(len(weighted))]
			s := Step{At: at + between(0, lease), What: kind.what, Node: -1}
			if kind.lasts {
				s.For = between(lease/10, lease)
				if random.IntN(3) == 0 {
					s.For *= 3
				}
			}
			resource := kind.resource
			switch kind.resource {
			case "node", "database connection", "cache connection":
				s.Node = random.IntN(nodes)
				resource = fmt.Sprint(kind.resource, s.Node)
			}
			if busy[resource] || kind.what == "a node joins" && nodes+joining == most {
				continue
			}
			if kind.what == "a node joins" {
				joining++
			}
			busy[resource] = true
			steps = append(steps, s)
			end = max(end, s.At+s.For)
		}
		nodes += joining
		if at = end; group%3 == 0 {
			at += calm
		}
		if at > duration {
			break
		}
	}
	slices.SortStableFunc(steps, func(a, b Step) int { return cmp.Compare(a.At, b.At) })
	return steps
}
