package faults

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

func TestOracle(t *testing.T) {
	const a, other Access = "k read", "other read"
	give := func(call, back int64) Change {
		return Change{Call: call, Return: back, Gives: []Access{a}, Done: true}
	}
	take := func(call, back int64) Change {
		return Change{Call: call, Return: back, Takes: []Access{a}, Done: true}
	}
	undone := func(c Change) Change {
		c.Done = false
		return c
	}
	minted := give(0, 10)
	revoked := take(100, 200)
	request := func(send, recv int64, status int) Request {
		return Request{Send: send, Recv: recv, Access: a, Node: 1, Status: status}
	}
	broken := func(node int, begin, end int64, e Excuses) Fault {
		return Fault{Begin: begin, End: end, Node: node, Excuses: e}
	}
	tests := []struct {
		name string
		History
		want []Kind
	}{
		{"nothing", History{}, nil},
		{"before it is minted, anything",
			History{Changes: []Change{minted},
				Requests: []Request{request(5, 20, 401), request(9, 30, 200)}}, nil},
		{"live and used", History{Changes: []Change{minted},
			Requests: []Request{request(10, 20, 200), request(50, 60, 204)}}, nil},
		{"live and refused", History{Changes: []Change{minted},
			Requests: []Request{request(10, 20, 401)}}, []Kind{Refused}},
		{"live and refused, in a fault",
			History{Changes: []Change{minted}, Requests: []Request{request(10, 20, 403)},
				Faults: []Fault{broken(-1, 0, 0, nodeAway)}}, []Kind{Refused}},
		{"a refusal that a revoke overtakes",
			History{Changes: []Change{minted, revoked}, Requests: []Request{request(50, 101, 401)}},
			nil},
		{"a refusal just before a revoke",
			History{Changes: []Change{minted, revoked}, Requests: []Request{request(50, 100, 401)}},
			[]Kind{Refused}},
		{"during a revoke, anything", History{Changes: []Change{minted, revoked},
			Requests: []Request{request(150, 160, 200), request(150, 160, 401),
				request(199, 300, 200)}}, nil},
		{"accepted after a revoke", History{Changes: []Change{minted, revoked},
			Requests: []Request{request(200, 210, 200)}}, []Kind{Accepted}},
		{"accepted long after", History{Changes: []Change{minted, revoked},
			Requests: []Request{request(9000, 9001, 299)},
			Faults:   []Fault{broken(1, 0, 0, stopped)}}, []Kind{Accepted}},
		{"another key", History{Changes: []Change{minted, revoked},
			Requests: []Request{{Send: 200, Recv: 210, Access: other, Status: 200}}}, nil},
		{"refused after a revoke", History{Changes: []Change{minted, revoked},
			Requests: []Request{request(200, 210, 401), request(200, 210, 503),
				request(200, 210, 0)}}, nil},
		{"after a revoke that is not complete, anything",
			History{Changes: []Change{minted, undone(revoked)},
				Requests: []Request{request(300, 310, 200), request(300, 310, 401)}}, nil},
		{"the second revoke is complete",
			History{Changes: []Change{take(300, 400), minted, undone(revoked)},
				Requests: []Request{request(350, 500, 200), request(400, 500, 200)}},
			[]Kind{Accepted}},
		{"given again", History{Changes: []Change{minted, revoked, give(300, 400)},
			Requests: []Request{request(250, 300, 200), request(250, 301, 200),
				request(300, 310, 200), request(410, 420, 200), request(410, 420, 401),
				request(350, 420, 401)}}, []Kind{Accepted, Refused}},
		{"given again, not surely", History{Changes: []Change{minted, revoked,
			undone(give(300, 400))},
			Requests: []Request{request(500, 510, 200), request(500, 510, 401)}}, nil},
		{"taken twice", History{Changes: []Change{minted, revoked, take(300, 400)},
			Requests: []Request{request(250, 260, 200), request(350, 360, 200),
				request(500, 510, 200)}}, []Kind{Accepted, Accepted, Accepted}},

		{"503 when all is well", History{Changes: []Change{minted},
			Requests: []Request{request(20, 30, 503)}}, []Kind{Unavailable}},
		{"no answer when all is well",
			History{Changes: []Change{minted}, Requests: []Request{request(20, 30, 0)}},
			[]Kind{Unavailable}},
		{"in a fault", History{Changes: []Change{minted},
			Requests: []Request{request(20, 30, 503), request(20, 30, 0)},
			Faults:   []Fault{broken(1, 15, 18, nodeAway)}}, nil},
		{"a fault on the way", History{Changes: []Change{minted},
			Requests: []Request{request(20, 30, 503)},
			Faults:   []Fault{broken(1, 25, 26, storeAway)}}, nil},
		{"settled", History{Changes: []Change{minted}, Requests: []Request{request(29, 30, 503)},
			Faults: []Fault{broken(1, 15, 18, nodeAway)}}, []Kind{Unavailable}},
		{"before the fault", History{Changes: []Change{minted},
			Requests: []Request{request(20, 30, 503)},
			Faults:   []Fault{broken(1, 31, 40, storeAway)}}, []Kind{Unavailable}},
		{"another node's fault", History{Changes: []Change{minted},
			Requests: []Request{request(20, 30, 503)},
			Faults:   []Fault{broken(2, 15, 40, nodeAway)}}, []Kind{Unavailable}},
		{"a fault of all", History{Changes: []Change{minted},
			Requests: []Request{request(20, 30, 503)},
			Faults:   []Fault{broken(-1, 15, 40, nodeAway), broken(1, 1, 2, nodeAway)}}, nil},
		{"the store's fault is no reason not to answer",
			History{Changes: []Change{minted}, Requests: []Request{request(20, 30, 0)},
				Faults: []Fault{broken(1, 15, 40, storeAway)}}, []Kind{Unavailable}},
		{"a reload is no reason for a 503",
			History{Changes: []Change{minted},
				Requests: []Request{request(20, 30, 0), request(20, 30, 503)},
				Faults:   []Fault{broken(1, 15, 40, reloading)}}, []Kind{Unavailable}},
		{"a fault without excuse", History{Changes: []Change{minted},
			Requests: []Request{request(20, 30, 503)}, Faults: []Fault{broken(1, 15, 40, nothing)}},
			[]Kind{Unavailable}},
		{"a long fault with a short one in it",
			History{Changes: []Change{minted}, Requests: []Request{request(70, 71, 503)},
				Faults: []Fault{broken(1, 15, 90, storeAway), broken(1, 20, 30, storeAway)}}, nil},

		{"a stream that is cut", History{Changes: []Change{minted, revoked},
			Streams: []Stream{{Open: 20, Last: 200, Access: a, Node: 1}}}, nil},
		{"a stream that goes on", History{Changes: []Change{minted, revoked},
			Streams: []Stream{{Open: 20, Last: 201, Access: a, Node: 1}}}, []Kind{Outlived}},
		{"a stream opened during the revoke",
			History{Changes: []Change{minted, revoked},
				Streams: []Stream{{Open: 150, Last: 201, Access: a, Node: 1}}}, []Kind{Outlived}},
		{"the revoke is not complete",
			History{Changes: []Change{minted, undone(revoked)},
				Streams: []Stream{{Open: 20, Last: 300, Access: a, Node: 1}}}, nil},
		{"a stream of the key's second life",
			History{Changes: []Change{minted, revoked, give(300, 310)},
				Streams: []Stream{{Open: 320, Last: 400, Access: a, Node: 1}}}, nil},
		{"cut by a stopped process when it goes on",
			History{Changes: []Change{minted, revoked},
				Streams: []Stream{{Open: 20, Last: 305, Access: a, Node: 1}},
				Faults:  []Fault{broken(1, 50, 300, stopped)}}, nil},
		{"not even then", History{Changes: []Change{minted, revoked},
			Streams: []Stream{{Open: 20, Last: 306, Access: a, Node: 1}},
			Faults:  []Fault{broken(1, 50, 300, stopped)}}, []Kind{Outlived}},
		{"stopped before", History{Changes: []Change{minted, revoked},
			Streams: []Stream{{Open: 20, Last: 201, Access: a, Node: 1}},
			Faults:  []Fault{broken(1, 50, 99, stopped)}}, []Kind{Outlived}},
		{"cut by a process that is cut off, when its lease is over",
			History{Changes: []Change{minted, revoked},
				Streams: []Stream{{Open: 20, Last: 205, Access: a, Node: 1}},
				Faults:  []Fault{broken(1, 50, 300, storeAway)}}, nil},
		{"not then", History{Changes: []Change{minted, revoked},
			Streams: []Stream{{Open: 20, Last: 206, Access: a, Node: 1}},
			Faults:  []Fault{broken(1, 50, 300, storeAway)}}, []Kind{Outlived}},
		{"without Redis", History{Changes: []Change{minted, revoked},
			Streams: []Stream{{Open: 20, Last: 201, Access: a, Node: 1}},
			Faults:  []Fault{broken(1, 50, 300, nothing)}}, []Kind{Outlived}},
	}
	for _, test := range tests {
		var got []Kind
		for _, v := range test.Check(Settling{Node: 10, Cut: 5}) {
			got = append(got, v.Kind)
		}
		if !slices.Equal(got, test.want) {
			t.Errorf("%s: want %v, got %v", test.name, test.want, got)
		}
	}
}

// TestOracleTakesNoLongerThanItSays checks that judging the history of a quarter of an hour takes
// no longer than O(n log n).
func TestOracleTakesNoLongerThanItSays(t *testing.T) {
	const n = 100_000
	h := &History{}
	for i := range int64(n) {
		access := Access(fmt.Sprint(i % 1000))
		h.Changes = append(h.Changes, Change{Call: 10 * i, Return: 10*i + 5, Done: true})
		if c := &h.Changes[i]; i/1000%2 == 0 {
			c.Gives = []Access{access}
		} else {
			c.Takes = []Access{access}
		}
		send := rand.Int64N(10 * n)
		h.Requests = append(h.Requests,
			Request{Send: send, Recv: send + 5, Access: access, Node: int(i % 3), Status: 503})
		h.Faults = append(h.Faults, Fault{Begin: send, End: send + 5, Node: int(i % 3),
			Excuses: storeAway})
	}
	begun := time.Now()
	if found := h.Check(Settling{}); len(found) > 0 {
		t.Errorf("%d violations, such as %v", len(found), found[0])
	}
	// This takes about a second. With a quadratic algorithm, it would take half an hour.
	if took := time.Since(begun); took > time.Minute {
		t.Errorf("took %v", took)
	}
}
