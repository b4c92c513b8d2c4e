package faults

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

// load creates, changes and revokes keys in a fleet, and sends requests with them to every node.
// Keys that are no longer valid stay in use for a while.
type load struct {
	*arena
	done chan struct{}
	work sync.WaitGroup

	mu         sync.Mutex
	live, dead []key // dead is in the order in which the keys became invalid
}

const (
	changers   = 4   // goroutines that change keys
	users      = 3   // goroutines that send requests, per node
	remembered = 50  // invalid keys that stay in use
	imported   = 500 // keys of one bulk import
)

func startLoad(a *arena) *load {
	l := &load{arena: a, done: make(chan struct{})}
	for range changers {
		l.work.Go(l.changeKeys)
	}
	l.work.Go(l.useAll)
	l.work.Go(l.watch)
	return l
}

// stop ends the load and waits for its requests.
func (l *load) stop() {
	close(l.done)
	l.work.Wait()
}

// changeKeys mints, changes and revokes one key after the other. Once a change is not complete, its
// outcome is unknown, and the key is only revoked.
func (l *load) changeKeys() {
	for !over(l.done) {
		k, r := l.tryMint(l.any())
		if r.Status != 201 {
			l.pause(200 * time.Millisecond)
			continue
		}
		l.add(k)
		for range rand.IntN(5) {
			l.pause(800 * time.Millisecond)
			var r gate.Response
			switch rand.IntN(4) {
			case 0, 1:
				if r = l.activate(l.any(), k, false); r.Complete() {
					l.pause(300 * time.Millisecond)
					r = l.activate(l.any(), k, true)
				}
			case 2:
				if k.narrowed {
					continue
				}
				r = l.narrow(l.any(), k)
				k.narrowed = true
			case 3:
				var next key
				if next, r = l.rotate(l.any(), k); next.ID != "" {
					l.dies(k)
					l.add(next)
					k = next
				}
			}
			if !r.Complete() {
				break
			}
		}
		l.pause(800 * time.Millisecond)
		for end := time.Now().Add(patience); !l.revoke(l.any(),
			k).Complete(); time.Sleep(100 * time.Millisecond) {
			if time.Now().After(end) {
				l.t.Errorf("a revoke is not complete after %v", patience)
				break
			}
		}
		l.dies(k)
		if rand.IntN(3) == 0 {
			l.attempt(l.any(), "delete", "DELETE", "/keys/"+k.ID, nil, nil, k.all())
		}
	}
}

// chaosSite lets a key create others.
const chaosSite = `handle /apikeys/* {
	api_keys_admin
}
handle {
	api_key
	reverse_proxy {$GATE_UPSTREAM}
}`

// bulk creates a key that imports hundreds of keys and mints a few, which are used. It exports the
// audit log and then revokes all these keys in one change.
func (l *load) bulk() {
	ctx, cancel := context.WithTimeout(l.t.Context(), patience)
	defer cancel()
	maker, r := l.create(l.any(), "mint", "/keys",
		gate.JSON{"name": "maker", "permissions": []string{"read", "write", "admin.keys:create"}},
		key{})
	if r.Status != 201 {
		l.pause(200 * time.Millisecond)
		return
	}
	takes := maker.all()
	for range 2 {
		c := Change{Call: now(), What: "mint by a key", Node: l.any()}
		r := l.by(ctx, maker, c.Node, "/keys", "application/json",
			`{"name":"child","access":"read_only"}`)
		c.Return, c.Status, c.Done = now(), r.Status, r.Status == 201
		if made, ok := r.Key(); ok {
			child := l.named(made, true)
			c.Gives = child.all()
			takes = append(takes, c.Gives...)
			l.add(child)
			defer l.dies(child)
		}
		l.change(c)
	}
	var lines strings.Builder
	for range imported {
		fmt.Fprintf(&lines,
			`{"name":"imported","access":"read_only","sha256":"%016x%016x%016x%016x"}`+"\n",
			rand.Uint64(), rand.Uint64(), rand.Uint64(), rand.Uint64())
	}
	l.by(ctx, maker, l.any(), "/keys/import", "application/x-ndjson", lines.String())
	g, _ := l.node(l.any())
	g.Try(ctx, "GET", "/audit/export", nil)
	revoke := func() gate.Response {
		return l.attempt(l.any(), "revoke with all keys that it created", "POST",
			"/keys/"+maker.ID+"/revoke"+wait,
			gate.JSON{"reason": "test", "made": true}, nil, takes)
	}
	for end := time.Now().Add(patience); !revoke().Complete(); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) {
			l.t.Errorf("revoking %d keys that a key created is not complete after %v", imported,
				patience)
			return
		}
	}
}

// by calls the management API of the site with a key.
func (l *load) by(
	ctx context.Context, k key, node int, path, contentType, body string,
) gate.Response {
	g, client := l.node(node)
	request, err := http.NewRequestWithContext(ctx, "POST", g.URL+"/apikeys/v1"+path,
		strings.NewReader(body))
	if err != nil {
		l.t.Error(err)
		return gate.Response{Err: err}
	}
	request.Header.Set("Authorization", "Bearer "+string(k.Token))
	request.Header.Set("Content-Type", contentType)
	answer, err := client.Do(request)
	if err != nil {
		return gate.Response{Err: err}
	}
	defer answer.Body.Close()
	got := gate.Response{Status: answer.StatusCode, Header: answer.Header}
	if got.Body, got.Err = io.ReadAll(answer.Body); got.Err != nil {
		got.Status = 0
	}
	gate.WatchTokensIn(string(got.Body))
	return got
}

// useAll starts users for every node, including those that join.
func (l *load) useAll() {
	for node := 0; ; node++ {
		for node == l.count() && !over(l.done) {
			l.pause(50 * time.Millisecond)
		}
		if over(l.done) {
			return
		}
		for range users {
			l.work.Go(func() { l.useNode(node) })
		}
		l.work.Go(func() { l.listenTo(node) })
	}
}

func (l *load) useNode(node int) {
	for !over(l.done) {
		l.pause(80 * time.Millisecond)
		k, ok := l.pick()
		if !ok {
			continue
		}
		if rand.IntN(3) == 0 {
			l.post(node, k)
		} else {
			l.get(node, k)
		}
	}
}

func (l *load) listenTo(node int) {
	for !over(l.done) {
		l.pause(100 * time.Millisecond)
		k, ok := l.pick()
		if !ok {
			continue
		}
		e := l.listen(node, k)
		select {
		case <-e.ended:
		case <-l.done:
		case <-time.After(time.Duration(rand.IntN(8000)) * time.Millisecond):
		}
		e.hangUp()
		<-e.ended
	}
}

// watch records when the machine or PostgreSQL is slow, which is no fault of the product. A node that
// continues has two leases to get a lease again. It executes several statements for that, so the test
// allows less than a tenth of a lease for a statement and the pause before it.
func (l *load) watch() {
	most := l.lease * 3 / 40
	var conn *pgx.Conn
	last := now()
	for !over(l.done) {
		ctx, cancel := context.WithTimeout(l.t.Context(), 10*time.Second)
		var err error
		if conn == nil {
			conn, err = pgx.Connect(ctx, l.database().URL(l.Schema))
		}
		if err == nil {
			_, err = conn.Exec(ctx, "UPDATE deployment SET one = one WHERE false")
		}
		if err != nil && conn != nil {
			conn.Close(ctx)
			conn = nil
		}
		if now()-last > int64(most) {
			l.stall(last, "the machine or PostgreSQL is slow")
		}
		if err == nil {
			last = now()
		}
		cancel()
		l.pause(100 * time.Millisecond)
	}
	if conn != nil {
		conn.Close(context.Background())
	}
}

// pause sleeps for a random time of less than d, or until the load ends.
func (l *load) pause(d time.Duration) {
	select {
	case <-l.done:
	case <-time.After(time.Duration(rand.Int64N(int64(d)))):
	}
}

func (l *load) any() int { return rand.IntN(l.count()) }

func (l *load) add(k key) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.live = append(l.live, k)
}

func (l *load) dies(k key) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.live = slices.DeleteFunc(l.live, func(other key) bool { return other.read == k.read })
	l.dead = append(l.dead, k)
	if len(l.dead) > remembered {
		l.dead = l.dead[1:]
	}
}

// pick returns a random key, a valid one twice as often as an invalid one. Two of three times, its
// token is a new one that was derived from the key's own.
func (l *load) pick() (key, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	from := l.live
	if len(l.dead) > 0 && (len(from) == 0 || rand.IntN(3) == 0) {
		from = l.dead
	}
	if len(from) == 0 {
		return key{}, false
	}
	k := from[rand.IntN(len(from))]
	if rand.IntN(3) > 0 {
		k = l.derive(k)
	}
	return k, true
}

// keys returns the valid keys and those that became invalid last.
func (l *load) keys() []key {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Concat(l.live, l.dead)
}
