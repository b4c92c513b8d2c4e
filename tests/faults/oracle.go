package faults

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"time"
)

// Settling is how long the effects of a fault may last after its end.
type Settling struct {
	// Node is the time that a node may take to serve again after a store, a connection or its
	// process is back.
	Node time.Duration
	// Cut is the time that a process may take to cut its streams after its lease expired or, if it
	// was stopped then, after it continued.
	Cut time.Duration
}

// Kind is the kind of a Violation.
type Kind string

// The rules that a history can break.
const (
	// Accepted is a successful request that was sent after every node had lost the access.
	Accepted Kind = "accepted"
	// Outlived is a stream that continued after every node had lost the access.
	Outlived Kind = "outlived"
	// Refused is a request of a valid key with a response other than success and 503.
	Refused Kind = "refused"
	// Unavailable is a request of a valid key without a response or with 503, although its node and
	// the stores were healthy.
	Unavailable Kind = "unavailable"
)

// Violation is one broken rule.
type Violation struct {
	Kind Kind
	What string
}

func (v Violation) String() string { return string(v.Kind) + ": " + v.What }

// Check returns the violations of the promise, in O(n log n). It checks a regular register: while a
// change is in progress, either response is correct.
func (h *History) Check(s Settling) []Violation {
	o := newOracle(h, s)
	var found []Violation
	for _, r := range h.Requests {
		if v, broken := o.request(r); broken {
			found = append(found, v)
		}
	}
	for _, st := range h.Streams {
		if v, broken := o.stream(st); broken {
			found = append(found, v)
		}
	}
	return found
}

type oracle struct {
	settling   Settling
	dead, live map[Access]spans
	takes      map[Access][]Change // complete changes, sorted by Return

	// Spans by node; each includes the faults of all nodes.
	unavailable, noAnswer, lateCut, stopped map[int]spans
}

const (
	allNodes = -1
	never    = math.MaxInt64 / 2
)

func newOracle(h *History, s Settling) *oracle {
	o := &oracle{
		settling: s,
		dead:     map[Access]spans{}, live: map[Access]spans{}, takes: map[Access][]Change{},
		unavailable: map[int]spans{}, noAnswer: map[int]spans{}, lateCut: map[int]spans{},
		stopped: map[int]spans{},
	}
	o.judgeChanges(h.Changes)
	o.judgeFaults(h.Faults)
	return o
}

// judgeChanges determines when each access was certainly taken away, and when it was certainly
// given.
func (o *oracle) judgeChanges(changes []Change) {
	// The latest first.
	changes = slices.SortedFunc(slices.Values(changes),
		func(a, b Change) int { return cmp.Compare(b.Call, a.Call) })
	nextGive, nextTake := map[Access]int64{}, map[Access]int64{}
	for _, c := range changes {
		for _, a := range c.Takes {
			if c.Done {
				o.dead[a] = append(o.dead[a], span{c.Return, or(nextGive, a)})
				o.takes[a] = append(o.takes[a], c)
			}
			nextTake[a] = c.Call
		}
		for _, a := range c.Gives {
			if c.Done {
				o.live[a] = append(o.live[a], span{c.Return, or(nextTake, a)})
			}
			nextGive[a] = c.Call
		}
	}
	for _, all := range []map[Access]spans{o.dead, o.live} {
		for _, spans := range all {
			slices.SortFunc(spans, func(x, y span) int { return cmp.Compare(x.begin, y.begin) })
		}
	}
	for _, takes := range o.takes {
		slices.SortFunc(takes, func(x, y Change) int { return cmp.Compare(x.Return, y.Return) })
	}
}

func or(next map[Access]int64, a Access) int64 {
	if t, there := next[a]; there {
		return t
	}
	return never
}

func (o *oracle) judgeFaults(faults []Fault) {
	nodes := map[int]bool{allNodes: true}
	for _, f := range faults {
		nodes[f.Node] = true
	}
	for node := range nodes {
		var unavailable, noAnswer, lateCut, stopped spans
		for _, f := range faults {
			if f.Node != node && f.Node != allNodes {
				continue
			}
			s := span{f.Begin, f.End}
			if s.end == 0 {
				s.end = never
			}
			settled := span{s.begin, s.end + int64(o.settling.Node)}
			if f.Excuses.Unavailable {
				unavailable = append(unavailable, settled)
			}
			if f.Excuses.NoAnswer {
				noAnswer = append(noAnswer, settled)
			}
			if f.Excuses.LateCut {
				lateCut = append(lateCut, s)
			}
			if f.Excuses.Stopped {
				stopped = append(stopped, s)
			}
		}
		o.unavailable[node], o.noAnswer[node] = unavailable.merge(), noAnswer.merge()
		o.lateCut[node], o.stopped[node] = lateCut.merge(), stopped.merge()
	}
}

// of returns the spans of a node, or those of all nodes if it had no fault of its own.
func (o *oracle) of(all map[int]spans, node int) spans {
	if s, there := all[node]; there {
		return s
	}
	return all[allNodes]
}

func (o *oracle) request(r Request) (Violation, bool) {
	success := r.Status >= 200 && r.Status < 300
	if dead, in := o.dead[r.Access].at(r.Send); in && success && r.Recv <= dead.end {
		return Violation{Accepted,
			fmt.Sprintf("%s by node %d, sent %v after every node had lost the access, answered %d",
				r.Access, r.Node, time.Duration(r.Send-dead.begin), r.Status)}, true
	}
	live, in := o.live[r.Access].at(r.Send)
	if !in || r.Recv > live.end || success {
		return Violation{}, false
	}
	excuses := o.unavailable
	switch r.Status {
	case 0:
		excuses = o.noAnswer
	case 503:
	default:
		return Violation{Refused,
			fmt.Sprintf("%s by node %d, answered %d; every node had the access for %v", r.Access,
				r.Node, r.Status, time.Duration(r.Send-live.begin))}, true
	}
	if o.of(excuses, r.Node).overlap(r.Send, r.Recv) {
		return Violation{}, false
	}
	return Violation{Unavailable,
		fmt.Sprintf("%s by node %d at %d, answered %d after %v without a fault", r.Access,
			r.Node, r.Send, r.Status, time.Duration(r.Recv-r.Send))}, true
}

// stream judges a stream by the first change that took its access away while it was open.
func (o *oracle) stream(s Stream) (Violation, bool) {
	takes := o.takes[s.Access]
	i, _ := slices.BinarySearchFunc(takes, s.Open,
		func(c Change, t int64) int { return cmp.Compare(c.Return, t) })
	if i == len(takes) {
		return Violation{}, false
	}
	take := takes[i]
	end := take.Return
	if o.of(o.lateCut, s.Node).overlap(take.Call, take.Return) {
		end += int64(o.settling.Cut)
	}
	if stop, stopped := o.of(o.stopped, s.Node).at(take.Return); stopped && stop.end >= take.Call {
		end = max(take.Return, stop.end) + int64(o.settling.Cut)
	}
	if s.Last <= end {
		return Violation{}, false
	}
	return Violation{Outlived,
		fmt.Sprintf("%s through node %d, opened at %d: an event was sent %v after every node had "+
			"lost the access",
			s.Access, s.Node, s.Open, time.Duration(s.Last-take.Return))}, true
}

type span struct{ begin, end int64 }

// spans are sorted by begin.
type spans []span

// at returns the last span that begins at or before t. It may have ended before t.
func (s spans) at(t int64) (span, bool) {
	i, found := slices.BinarySearchFunc(s, t,
		func(x span, t int64) int { return cmp.Compare(x.begin, t) })
	for found && i+1 < len(s) && s[i+1].begin == t {
		i++
	}
	if !found {
		i--
	}
	if i < 0 {
		return span{}, false
	}
	return s[i], true
}

// merge sorts the spans and joins those that overlap.
func (s spans) merge() (merged spans) {
	slices.SortFunc(s, func(x, y span) int { return cmp.Compare(x.begin, y.begin) })
	for _, x := range s {
		if n := len(merged); n > 0 && x.begin <= merged[n-1].end {
			merged[n-1].end = max(merged[n-1].end, x.end)
		} else {
			merged = append(merged, x)
		}
	}
	return merged
}

// overlap reports whether one of the spans, which must be disjoint, overlaps the time from begin to
// end.
func (s spans) overlap(begin, end int64) bool {
	last, in := s.at(end)
	return in && last.end >= begin
}
