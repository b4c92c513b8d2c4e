package node

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// A modelRequest is a running request, and what must have happened to it.
type modelRequest struct {
	Running
	digest    keystore.Digest
	owner     string
	expires   int64
	cuts      int
	wantsCuts int // 0 or 1
}

// A runningModel has the running requests of a node, in no order.
type runningModel struct {
	*Node
	random   *rand.Rand
	now      int64
	requests []*modelRequest // those that have entered and not left
}

// TestRunningRequestsAgreeWithModel compares running requests in two shards with a list over random
// operations. Each operation must cut the requests that it concerns, and no others.
func TestRunningRequestsAgreeWithModel(t *testing.T) {
	for seed := range uint64(50 / fewer) {
		m := runningModel{&Node{cache: newLocalCache(1, 1<<20)}, rand.New(rand.NewPCG(seed, 1)),
			1000, nil}
		for range 300 {
			m.step()
			var digests []keystore.Digest
			for _, r := range m.requests {
				if r.cuts != r.wantsCuts {
					t.Fatalf("seed %d: a request was cut %d times, want %d", seed, r.cuts,
						r.wantsCuts)
				}
				if r.cuts == 0 && !slices.Contains(digests, r.digest) {
					digests = append(digests, r.digest)
				}
			}
			found := m.cache.runningDigests()
			if len(found) != len(digests) {
				t.Fatalf("seed %d: %d keys have running requests, want %d", seed, len(found),
					len(digests))
			}
		}
	}
}

// step does one random operation.
func (m *runningModel) step() {
	var d keystore.Digest // one of six in two shards
	d[0], d[20] = byte(m.random.IntN(2)), byte(m.random.IntN(3))
	switch m.random.IntN(20) {
	default:
		m.enter(d)
	case 0, 1, 2, 3, 4, 5, 6:
		if len(m.requests) > 0 {
			i := m.random.IntN(len(m.requests))
			m.Leave(&m.requests[i].Running)
			m.requests = slices.Delete(m.requests, i, i+1)
		}
	case 7, 8, 9:
		m.now += int64(m.random.IntN(20))
		m.cut(func(r *modelRequest) bool { return r.expires <= m.now })
		m.cache.cutExpired(m.now)
	case 10, 11, 12:
		owner, expires := []string{"m_ada", "m_bob"}[m.random.IntN(2)], m.expiry()
		m.cut(func(r *modelRequest) bool {
			if r.digest == d {
				r.owner, r.expires = owner, expires
			}
			return r.digest == d && expires <= m.now
		})
		s := m.cache.shard(&d)
		s.mu.Lock()
		s.update(&d, owner, expires, m.now)
		s.mu.Unlock()
	case 13:
		m.cut(func(r *modelRequest) bool { return r.owner == "m_ada" })
		m.cache.cutDisabled(keystore.NewDirectory(new(keystore.Policy)).With(&keystore.Policy{
			Members: []keystore.Member{{ID: "m_ada"}, {ID: "m_bob", Active: true}},
		}, nil))
	case 14:
		if m.random.IntN(4) == 0 {
			m.cut(func(*modelRequest) bool { return true })
			m.cache.cutAll()
		}
	}
}

func (m *runningModel) enter(d keystore.Digest) {
	r := &modelRequest{digest: d, owner: "m_ada", expires: max(m.expiry(), m.now+1)}
	if m.random.IntN(2) == 0 {
		r.owner = "m_bob"
	}
	r.Cut = func() { r.cuts++ }
	key := &keystore.Key{Owner: r.owner, Secrets: []keystore.Secret{{Digest: d}}}
	if r.expires != keystore.Never {
		key.ExpiresAt = time.Unix(0, r.expires)
	}
	record, generation := keystore.NewRecord(key, d), m.cache.shard(&d).generation.Load()
	if m.Enter(Answer{Record: record, generation: generation}, &r.Running) {
		m.requests = append(m.requests, r)
	}
}

// expiry returns a time, often one that has passed or never comes.
func (m *runningModel) expiry() int64 {
	switch m.random.IntN(4) {
	case 0:
		return 0
	case 1:
		return m.now + int64(m.random.IntN(40))
	}
	return keystore.Never
}

// cut notes the requests that must be cut now.
func (m *runningModel) cut(concerns func(*modelRequest) bool) {
	for _, r := range m.requests {
		if r.wantsCuts == 0 && concerns(r) {
			r.wantsCuts = 1
		}
	}
}
