package faults

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"
)

// Step is one fault of a run's schedule.
type Step struct {
	At   time.Duration // from the start of the run
	For  time.Duration // until it is over; 0: it is over at once
	What string
	Node int // -1: none
}

func (s Step) String() string {
	text := fmt.Sprintf("%7.2fs %s", s.At.Seconds(), s.What)
	if s.Node >= 0 {
		text += fmt.Sprintf(" node %d", s.Node)
	}
	if s.For > 0 {
		text += fmt.Sprintf(" for %.2fs", s.For.Seconds())
	}
	return text
}

// A trouble is a kind of fault that a schedule can choose.
type trouble struct {
	what string
	// what it needs for itself: "node", "database way", "cache way", "postgres", "redis", "clock",
	// "settings", "work"
	of    string
	lasts bool
	often int
}

var troubles = []trouble{
	{"database connections are cut", "database way", true, 3},
	{"database connections hang", "database way", true, 3},
	{"database replies are lost", "database way", true, 3},
	{"database connections are reset", "database way", true, 2},
	{"database is slow", "database way", true, 2},
	{"Redis connections are cut", "cache way", true, 1},
	{"Redis connections hang", "cache way", true, 1},
	{"Redis connections are reset", "cache way", true, 1},
	{"Redis is slow", "cache way", true, 1},
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

// Plan is the schedule that a seed stands for: faults come one to three at a time, most of them
// shorter than a lease and some longer, and after every third such group all is well for a while.
// Nodes join until there are two more than at the start.
func Plan(seed uint64, duration time.Duration, nodes int, lease, calm time.Duration) []Step {
	random := rand.New(rand.NewPCG(seed, 0))
	between := func(a,
		b time.Duration) time.Duration {
		return a + time.Duration(random.Int64N(int64(b-a)))
	}
	var bag []trouble
	for _, t := range troubles {
		bag = append(bag, slices.Repeat([]trouble{t}, t.often)...)
	}
	var steps []Step
	most := nodes + 2
	for at, group := lease/2, 1; ; group++ {
		end, joining := at, 0
		busy := map[string]bool{}
		for range 1 + random.IntN(3) {
			t := bag[random.IntN(len(bag))]
			s := Step{At: at + between(0, lease), What: t.what, Node: -1}
			if t.lasts {
				s.For = between(lease/10, lease)
				if random.IntN(3) == 0 {
					s.For *= 3
				}
			}
			needs := t.of
			switch t.of {
			case "node", "database way", "cache way":
				s.Node = random.IntN(nodes)
				needs = fmt.Sprint(t.of, s.Node)
			}
			if busy[needs] || t.what == "a node joins" && nodes+joining == most {
				continue
			}
			if t.what == "a node joins" {
				joining++
			}
			busy[needs] = true
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
