package durability

import (
	"context"
	"net/http"
	"net/http/httptrace"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

// two starts two Caddys on one SQLite file.
func two(t *testing.T, c gate.Config) [2]*gate.Gate {
	t.Helper()
	first := gate.Start(t, c)
	c.DataOf = first
	return [2]*gate.Gate{first, gate.Start(t, c)}
}

// A credential is a token that a change makes invalid.
type credential struct {
	token gate.Token
	// removing and removed say whether a change that removes access has begun and is complete.
	removing, removed atomic.Bool
}

// watch sends requests with the credentials in turn. A request that was sent after the change was
// complete must not get 2xx. One that was answered before the change began must get 2xx.
func watch(
	ctx context.Context, t *testing.T, client *http.Client, g *gate.Gate,
	credentials ...*atomic.Pointer[credential],
) (asked int) {
	for ; ctx.Err() == nil; asked++ {
		c := credentials[asked%len(credentials)].Load()
		mustFail := c.removed.Load()
		got := gate.Ask(ctx, client, g.URL+"/", c.token)
		switch {
		case ctx.Err() != nil:
		case mustFail && got.Status/100 == 2:
			t.Errorf("%d for a request sent after the change was complete", got.Status)
		case !mustFail && !c.removing.Load() && got.Status/100 != 2:
			t.Errorf("a valid key: %v", got)
		}
	}
	return asked
}

// removals are the changes that remove access.
var removals = []struct {
	name, method, path string
	body               gate.JSON
}{
	{"revoke", "POST", "/revoke", gate.JSON{"reason": "test"}},
	{"rotate", "POST", "/rotate", gate.JSON{"grace": "0s"}},
	{"inactivate", "PATCH", "", gate.JSON{"active": false}},
	{"narrow", "PATCH", "", gate.JSON{"permissions": []string{"orders:read"}}},
	{"other addresses", "PATCH", "", gate.JSON{"allowed_ips": []string{"192.0.2.1"}}},
}

// TestTwoProcesses checks that a key is valid on both processes as soon as it is minted, and on
// neither once a change that removes access is complete.
func TestTwoProcesses(t *testing.T) {
	t.Parallel()
	gates := two(t, gate.Config{})
	client, _ := gates[0].Client(t, gate.HTTP1)
	forever := &credential{token: gates[0].Mint(t,
		gate.JSON{"name": "live", "access": "read_only"}).Token}
	var live, current atomic.Pointer[credential]
	live.Store(forever)
	current.Store(forever)

	ctx, cancel := context.WithCancel(t.Context())
	var watchers sync.WaitGroup
	var asked atomic.Int64
	for _, g := range gates {
		watchers.Go(func() { asked.Add(int64(watch(ctx, t, client, g, &current, &live))) })
	}
	defer watchers.Wait()
	defer cancel()

	var slowest time.Duration
	changes := 0
	for end := time.Now().Add(15 * time.Second); time.Now().Before(end) && changes < 100 &&
		!t.Failed(); changes++ {
		removal := removals[changes%len(removals)]
		on, other := gates[changes/2%2], gates[(changes/2+1)%2]
		k := on.Mint(t, gate.JSON{"name": removal.name, "access": "read_only"})
		for _, g := range []*gate.Gate{other, on} {
			if got := statusOf(t, client, g, k.Token); got != 200 {
				t.Fatalf("change %d: a new key: %d", changes, got)
			}
		}
		c := &credential{token: k.Token}
		current.Store(c)
		for range 3 { // make the node cache the key
			statusOf(t, client, other, k.Token)
		}
		c.removing.Store(true)
		begun := time.Now()
		answer := on.Try(ctx, removal.method, "/keys/"+k.ID+removal.path, removal.body)
		slowest = max(slowest, time.Since(begun))
		if !answer.Complete() {
			t.Fatalf("%s: %v", removal.name, answer)
		}
		c.removed.Store(true)
		for _, g := range []*gate.Gate{other, on} {
			if got := statusOf(t, client, g, k.Token); got/100 == 2 {
				t.Fatalf("the key was accepted after %s was complete", removal.name)
			}
		}
	}
	cancel()
	watchers.Wait()
	t.Logf("%d changes, the slowest took %s; %d requests meanwhile", changes, slowest, asked.Load())
	if slowest > 5*time.Second {
		t.Errorf("a change took %s with two healthy processes", slowest)
	}
}

// TestStoppedProcess checks that a stopped process delays a revoke until its lease has certainly
// expired, and does not accept the revoked key when it continues.
func TestStoppedProcess(t *testing.T) {
	t.Parallel()
	gates := two(t, gate.Config{APIKeys: "lease 3s"})
	on, stopped := gates[0], gates[1]
	client, _ := on.Client(t, gate.HTTP1)
	live := on.Mint(t, gate.JSON{"name": "live", "access": "read_only"})
	for round := range 3 {
		k := on.Mint(t, gate.JSON{"name": "to be revoked", "access": "read_only"})
		for _, token := range []gate.Token{k.Token, live.Token} {
			if got := statusOf(t, client, stopped, token); got != 200 {
				t.Fatalf("round %d: before the stop: %d", round, got)
			}
		}
		pauseAtRest(t, stopped)

		begun := time.Now()
		revoke := func(wait string) (gate.Response, gate.JSON) {
			answer := on.Try(t.Context(), "POST", "/keys/"+k.ID+"/revoke?wait="+wait, gate.JSON{})
			propagation, _ := answer.JSON()["propagation"].(gate.JSON)
			return answer, propagation
		}
		answer, propagation := revoke("1s")
		pending, _ := propagation["pending"].([]any)
		if answer.Status != 202 || propagation["complete"] != false || len(pending) == 0 ||
			time.Since(begun) > 2900*time.Millisecond {
			t.Fatalf("round %d: one process is stopped: want 202 after a second with its name, "+
				"got %v after %s", round, answer, time.Since(begun))
		}
		who, _ := pending[0].(gate.JSON)
		until, err := time.Parse(time.RFC3339Nano, who["until"].(string))
		if err != nil || until.Before(begun.Add(2900*time.Millisecond)) ||
			until.After(begun.Add(5*time.Second)) || who["node"] == "" {
			t.Errorf("round %d: pending %v, %v; the lease is 3s, the revoke began at %s", round,
				who, err, begun)
		}
		// The running process refuses the revoked key and accepts the other.
		if got := statusOf(t, client, on, k.Token); got != 401 {
			t.Errorf("round %d: on the process that revoked: %d", round, got)
		}
		if got := statusOf(t, client, on, live.Token); got != 200 {
			t.Errorf("round %d: a valid key while the other process is stopped: %d", round, got)
		}
		answer, _ = revoke("20s")
		if took := time.Since(begun); !answer.Complete() || took < 3*time.Second ||
			took > 10*time.Second {
			t.Fatalf("round %d: after %s: %v", round, took, answer)
		}

		// These requests arrive before the process continues. It must not answer from its cache.
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		const requests = 32
		sent, answers := make(chan struct{}, 2*requests), make(chan gate.Response)
		trace := &httptrace.ClientTrace{WroteRequest: func(httptrace.WroteRequestInfo) {
			sent <- struct{}{}
		}}
		for range requests {
			go func() {
				answers <- gate.Ask(httptrace.WithClientTrace(ctx, trace), client,
					stopped.URL+"/", k.Token)
			}()
		}
		for range requests {
			<-sent
		}
		stopped.Resume()
		if got := statusOf(t, client, stopped, live.Token); got != 200 {
			t.Errorf("round %d: a valid key after the process continued: %d", round, got)
		}
		for range requests {
			if got := <-answers; got.Status != 401 || got.Code() != "key_revoked" {
				t.Errorf("round %d: a key revoked while the process was stopped: %v", round, got)
			}
		}
		cancel()
	}
}

// TestRejoinedProcess checks that a process that was fenced while it was stopped joins again when
// it continues, and that its former incarnation delays nothing.
func TestRejoinedProcess(t *testing.T) {
	t.Parallel()
	gates := two(t, gate.Config{APIKeys: "lease 10s"})
	on, stopped := gates[0], gates[1]
	client, _ := on.Client(t, gate.HTTP1)
	db := openDatabase(t, filepath.Join(stopped.Data, "apikeys.db"))
	pauseAtRest(t, stopped)
	gate.Until(t, "the process is fenced", func() bool {
		var n int
		if err := db.conn.QueryRowContext(t.Context(),
			"SELECT count(*) FROM nodes WHERE state = 'fencing'").Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n == 1
	})
	stopped.Resume()
	k := on.Mint(t, gate.JSON{"name": "after", "access": "read_only"})
	if got := statusOf(t, client, stopped, k.Token); got != 200 {
		t.Errorf("a key minted afterwards: %d", got)
	}
	begun := time.Now()
	if answer := on.Try(t.Context(), "POST", "/keys/"+k.ID+"/revoke",
		gate.JSON{}); !answer.Complete() || time.Since(begun) > 3*time.Second {
		t.Errorf("a revoke with two healthy processes took %s: %v", time.Since(begun), answer)
	}
	if got := statusOf(t, client, stopped, k.Token); got != 401 {
		t.Errorf("a key revoked afterwards: %d", got)
	}
}

// pauseAtRest stops a process between two writes. A process that is stopped within a transaction
// locks the database for all others (see TestLockedDatabase).
func pauseAtRest(t *testing.T, g *gate.Gate) {
	t.Helper()
	db := openDatabase(t, filepath.Join(g.Data, "apikeys.db"))
	gate.Until(t, "the process was stopped between two writes", func() bool {
		g.Pause(t)
		if err := db.lock(); err != nil {
			g.Resume()
			return false
		}
		db.unlock(t)
		return true
	})
}
