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
		{"any response before the mint",
			History{Changes: []Change{minted},
				Requests: []Request{request(5, 20, 401), request(9, 30, 200)}}, nil},
		{"a valid key, accepted", History{Changes: []Change{minted},
			Requests: []Request{request(10, 20, 200), request(50, 60, 204)}}, nil},
		{"a valid key, refused", History{Changes: []Change{minted},
			Requests: []Request{request(10, 20, 401)}}, []Kind{Refused}},
		{"a valid key, refused during a fault",
			History{Changes: []Change{minted}, Requests: []Request{request(10, 20, 403)},
				Faults: []Fault{broken(-1, 0, 0, nodeDown)}}, []Kind{Refused}},
		{"a refusal during a revoke",
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
		{"any response after an incomplete revoke",
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
		{"given again, incomplete", History{Changes: []Change{minted, revoked,
			undone(give(300, 400))},
			Requests: []Request{request(500, 510, 200), request(500, 510, 401)}}, nil},
		{"taken twice", History{Changes: []Change{minted, revoked, take(300, 400)},
			Requests: []Request{request(250, 260, 200), request(350, 360, 200),
				request(500, 510, 200)}}, []Kind{Accepted, Accepted, Accepted}},

		{"503 without a fault", History{Changes: []Change{minted},
			Requests: []Request{request(20, 30, 503)}}, []Kind{Unavailable}},
		{"no response without a fault",
			History{Changes: []Change{minted}, Requests: []Request{request(20, 30, 0)}},
			[]Kind{Unavailable}},
		{"during a fault", History{Changes: []Change{minted},
			Requests: []Request{request(20, 30, 503), request(20, 30, 0)},
			Faults:   []Fault{broken(1, 15, 18, nodeDown)}}, nil},
		{"a fault during the request", History{Changes: []Change{minted},
			Requests: []Request{request(20, 30, 503)},
			Faults:   []Fault{broken(1, 25, 26, storeDown)}}, nil},
		{"settled", History{Changes: []Change{minted}, Requests: []Request{request(29, 30, 503)},
			Faults: []Fault{broken(1, 15, 18, nodeDown)}}, []Kind{Unavailable}},
		{"before the fault", History{Changes: []Change{minted},
			Requests: []Request{request(20, 30, 503)},
			Faults:   []Fault{broken(1, 31, 40, storeDown)}}, []Kind{Unavailable}},
		{"another node's fault", History{Changes: []Change{minted},
			Requests: []Request{request(20, 30, 503)},
			Faults:   []Fault{broken(2, 15, 40, nodeDown)}}, []Kind{Unavailable}},
		{"a fault of all nodes", History{Changes: []Change{minted},
			Requests: []Request{request(20, 30, 503)},
			Faults:   []Fault{broken(-1, 15, 40, nodeDown), broken(1, 1, 2, nodeDown)}}, nil},
		{"a store fault excuses a missing response, which a lease that expires has cut",
			History{Changes: []Change{minted}, Requests: []Request{request(20, 30, 0)},
				Faults: []Fault{broken(1, 15, 40, storeDown)}}, nil},
		{"a fault that no lease notices does not excuse a missing response",
			History{Changes: []Change{minted}, Requests: []Request{request(20, 30, 0)},
				Faults: []Fault{broken(1, 15, 40, nothing)}}, []Kind{Unavailable}},
		{"a reload does not excuse a 503",
			History{Changes: []Change{minted},
				Requests: []Request{request(20, 30, 0), request(20, 30, 503)},
				Faults:   []Fault{broken(1, 15, 40, reloading)}}, []Kind{Unavailable}},
		{"a fault that excuses nothing", History{Changes: []Change{minted},
			Requests: []Request{request(20, 30, 503)}, Faults: []Fault{broken(1, 15, 40, nothing)}},
			[]Kind{Unavailable}},
		{"a short fault within a long one",
			History{Changes: []Change{minted}, Requests: []Request{request(70, 71, 503)},
				Faults: []Fault{broken(1, 15, 90, storeDown), broken(1, 20, 30, storeDown)}}, nil},

		{"a stream that is cut", History{Changes: []Change{minted, revoked},
			Streams: []Stream{{Open: 20, Last: 200, Access: a, Node: 1}}}, nil},
		{"a stream that continues", History{Changes: []Change{minted, revoked},
			Streams: []Stream{{Open: 20, Last: 201, Access: a, Node: 1}}}, []Kind{Outlived}},
		{"a stream opened during the revoke",
			History{Changes: []Change{minted, revoked},
				Streams: []Stream{{Open: 150, Last: 201, Access: a, Node: 1}}}, []Kind{Outlived}},
		{"a stream after an incomplete revoke",
			History{Changes: []Change{minted, undone(revoked)},
				Streams: []Stream{{Open: 20, Last: 300, Access: a, Node: 1}}}, nil},
		{"a stream opened after the access is given again",
			History{Changes: []Change{minted, revoked, give(300, 310)},
				Streams: []Stream{{Open: 320, Last: 400, Access: a, Node: 1}}}, nil},
		{"cut by a stopped process when it continues",
			History{Changes: []Change{minted, revoked},
				Streams: []Stream{{Open: 20, Last: 305, Access: a, Node: 1}},
				Faults:  []Fault{broken(1, 50, 300, stopped)}}, nil},
		{"cut too long after the process continues", History{Changes: []Change{minted, revoked},
			Streams: []Stream{{Open: 20, Last: 306, Access: a, Node: 1}},
			Faults:  []Fault{broken(1, 50, 300, stopped)}}, []Kind{Outlived}},
		{"stopped before the revoke", History{Changes: []Change{minted, revoked},
			Streams: []Stream{{Open: 20, Last: 201, Access: a, Node: 1}},
			Faults:  []Fault{broken(1, 50, 99, stopped)}}, []Kind{Outlived}},
		{"cut by an isolated process when its lease expires",
			History{Changes: []Change{minted, revoked},
				Streams: []Stream{{Open: 20, Last: 205, Access: a, Node: 1}},
				Faults:  []Fault{broken(1, 50, 300, storeDown)}}, nil},
		{"cut too long after the lease expires", History{Changes: []Change{minted, revoked},
			Streams: []Stream{{Open: 20, Last: 206, Access: a, Node: 1}},
			Faults:  []Fault{broken(1, 50, 300, storeDown)}}, []Kind{Outlived}},
		{"a Redis fault does not excuse a stream", History{Changes: []Change{minted, revoked},
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

// TestCheckIsNotQuadratic checks a history as long as that of a quarter of an hour.
func TestCheckIsNotQuadratic(t *testing.T) {
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
			Excuses: storeDown})
	}
	begun := time.Now()
	if found := h.Check(Settling{}); len(found) > 0 {
		t.Errorf("%d violations, such as %v", len(found), found[0])
	}
	// This takes about a second. A quadratic algorithm would take half an hour.
	if took := time.Since(begun); took > time.Minute {
		t.Errorf("took %v", took)
	}
}
