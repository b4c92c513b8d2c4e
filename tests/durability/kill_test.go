// Package durability kills, stops and reloads the gate under load, fills its disk and makes its
// database unavailable, and checks that acknowledged changes persist.
package durability

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

func TestMain(m *testing.M) { gate.Main(m) }

// A ledger has the expected response to requests with each token, according to the gate's responses
// to changes.
type ledger struct {
	sync.Mutex
	answers map[gate.Token]string // "" for 2xx, or the code of the refusal
	full    chan struct{}         // closed when the ledger has enough entries
	room    int
}

func newLedger(room int) *ledger {
	return &ledger{answers: map[gate.Token]string{}, full: make(chan struct{}), room: room}
}

func (l *ledger) note(token gate.Token, code string) {
	l.Lock()
	defer l.Unlock()
	l.answers[token] = code
	if l.room--; l.room == 0 {
		close(l.full)
	}
}

// doubt removes a token whose change was in progress when the gate died: either response is
// correct.
func (l *ledger) doubt(token gate.Token) {
	l.Lock()
	defer l.Unlock()
	delete(l.answers, token)
}

// check sends a request with each token.
func (l *ledger) check(t *testing.T, g *gate.Gate) {
	t.Helper()
	client, url := g.Client(t, gate.HTTP1)
	for token, code := range l.answers {
		got := gate.Ask(t.Context(), client, url+"/", token)
		if code == "" && got.Status != 200 || code != "" &&
			(got.Status != 401 || got.Code() != code) {
			t.Fatalf("want code %q, got %v; Caddy's output:\n%s", code, got,
				gate.Redact(g.Output()))
		}
	}
}

// change mints keys and then revokes, rotates or keeps them, until the gate is killed.
func (l *ledger) change(ctx context.Context, g *gate.Gate) error {
	for {
		minted := g.Try(ctx, "POST", "/keys", gate.JSON{"name": "k", "access": "read_only"})
		k, ok := minted.Key()
		switch {
		case minted.Err != nil:
			return nil
		case !ok:
			return fmt.Errorf("minting: %v", minted)
		}
		l.note(k.Token, "")
		switch rand.IntN(3) {
		case 0:
			l.doubt(k.Token)
			revoked := g.Try(ctx, "POST", "/keys/"+k.ID+"/revoke", gate.JSON{})
			switch {
			case revoked.Err != nil:
				return nil
			case !revoked.Complete():
				return fmt.Errorf("revoking: %v", revoked)
			}
			l.note(k.Token, "key_revoked")
		case 1:
			l.doubt(k.Token)
			rotated := g.Try(ctx, "POST", "/keys/"+k.ID+"/rotate", gate.JSON{"grace": "0s"})
			next, ok := rotated.Key()
			switch {
			case rotated.Err != nil:
				return nil
			case !ok:
				return fmt.Errorf("rotating: %v", rotated)
			}
			l.note(k.Token, "invalid_key")
			l.note(next.Token, "")
		}
	}
}

// TestKill checks that changes that returned 2xx survive kill -9, and that a killed node does not
// delay a revoke.
func TestKill(t *testing.T) {
	t.Parallel()
	g := gate.Start(t, gate.Config{})
	all := newLedger(0)
	rounds := 0
	for end := time.Now().Add(25 * time.Second); time.Now().Before(end) && rounds < 12; rounds++ {
		now := newLedger(1 + rand.IntN(30))
		var workers sync.WaitGroup
		failed := make(chan error, 4)
		for range cap(failed) {
			workers.Go(func() {
				if err := now.change(t.Context(), g); err != nil {
					failed <- err
				}
			})
		}
		select {
		case <-now.full:
		case <-time.After(20 * time.Second):
			t.Errorf("%d changes are missing after 20 s", now.room)
		}
		// Requests in progress are then in any state.
		time.Sleep(time.Duration(rand.IntN(5000)) * time.Microsecond)
		g.Kill()
		workers.Wait()
		select {
		case err := <-failed:
			t.Fatal(err)
		default:
		}
		g.Start(t)

		first := g.Mint(t, gate.JSON{"name": "first", "access": "read_only"})
		begun := time.Now()
		if revoked := g.Try(t.Context(), "POST", "/keys/"+first.ID+"/revoke?wait=10s",
			gate.JSON{}); !revoked.Complete() || time.Since(begun) > 5*time.Second {
			t.Fatalf("the first revoke after a kill took %s: %v", time.Since(begun), revoked)
		}
		now.note(first.Token, "key_revoked")
		now.check(t, g)
		for token, code := range now.answers {
			all.note(token, code)
		}
	}
	all.check(t, g)
	if nodes := g.Metric(t, "caddy_apikeys_nodes"); nodes != 1 {
		t.Errorf("one node that was killed repeatedly is listed as %v nodes", nodes)
	}
	t.Logf("%d kills, %d tokens checked", rounds, len(all.answers))
}

// statusOf sends one request and returns the status.
func statusOf(t *testing.T, client *http.Client, g *gate.Gate, token gate.Token) int {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	return gate.Ask(ctx, client, g.URL+"/", token).Status
}
