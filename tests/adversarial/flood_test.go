package adversarial

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"sync"
	"testing"

	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

// flood sends n requests over a few connections and returns the number of responses by status.
func flood(t *testing.T, g *gate.Gate, n int, token func(i int) string) map[int]int {
	t.Helper()
	client, url := g.Client(t, gate.HTTP1)
	client.Transport.(*http.Transport).MaxIdleConnsPerHost = 8
	var (
		mu       sync.Mutex
		statuses = map[int]int{}
		work     = make(chan int)
		senders  sync.WaitGroup
	)
	for range 8 {
		senders.Go(func() {
			for i := range work {
				r, _ := http.NewRequest("GET", url+"/v1/items/1", nil)
				r.Header.Set("Authorization", "Bearer "+token(i))
				response, err := client.Do(r)
				status := 0
				if err == nil {
					io.Copy(io.Discard, response.Body)
					response.Body.Close()
					status = response.StatusCode
				}
				mu.Lock()
				statuses[status]++
				mu.Unlock()
			}
		})
	}
	for i := range n {
		work <- i
	}
	close(work)
	senders.Wait()
	return statuses
}

func TestFloodReachesNoStore(t *testing.T) {
	t.Parallel()
	w := start(t, gate.Config{APIKey: operations})
	database := func() float64 {
		return w.Metric(t, "caddy_apikeys_lookups_total",
			"tier=database")
	}
	good := func() int { return w.Get(t, "/v1/items/1", gate.Token(w.tokens["R"])).Status }
	if good() != 200 {
		t.Fatal("the valid key is refused")
	}
	before := database()
	if before == 0 {
		t.Error("the metrics do not count the lookup for the first request of a key")
	}
	const n = 4000
	for what, token := range map[string]func(int) string{
		"random, valid checksum":   func(int) string { return forge("ak") },
		"random, invalid checksum": func(int) string { return forge("ak")[:60] + "0" },
		"random strings": func(int) string {
			return fmt.Sprintf("%x%x", rand.Uint64(),
				rand.Uint64())
		},
		"other prefixes": func(int) string { return forge("sk_live") },
		"member tokens":  func(int) string { return forge("akm") },
		"variants of a valid token": func(i int) string {
			return w.tokens["R"][:50] + fmt.Sprintf("%011d", i)
		},
	} {
		if got := flood(t, w.Gate, n, token); got[401] != n {
			t.Errorf("%s: want %d times 401, got %v", what, n, got)
		}
		if after := database(); after != before {
			t.Errorf("%s: %v lookups in the database", what, after-before)
		}
	}
	if good() != 200 || database() != before {
		t.Error("the flood evicted the valid key from the local cache")
	}
	if got := flood(t, w.Gate, n, func(int) string { return w.tokens["X"] }); got[401] != n {
		t.Errorf("a revoked key: %v", got)
	}
	if looked := database() - before; looked > 10 {
		t.Errorf("a revoked key: %v lookups in the database", looked)
	}
}

// TestFloodOfUnknown checks that the negative cache answers repeated unknown tokens. Once a
// deployment has imported keys, any string may be a token.
func TestFloodOfUnknown(t *testing.T) {
	t.Parallel()
	w := start(t, gate.Config{APIKey: operations})
	imported := "sk-legacy-0123456789abcdefghij"
	w.Import(t, gate.JSON{"name": "I", "permissions": []string{"items:read"}, "token": imported})
	before := w.Metric(t, "caddy_apikeys_lookups_total", "tier=database")
	const n = 2000
	if got := flood(t, w.Gate, n, func(i int) string {
		return fmt.Sprintf("sk-legacy-unknown-%d",
			i%20)
	}); got[401] != n {
		t.Errorf("want %d times 401, got %v", n, got)
	}
	if looked := w.Metric(t, "caddy_apikeys_lookups_total",
		"tier=database") - before; looked > n/4 {
		t.Errorf("%v lookups for 20 unknown tokens sent %d times", looked, n)
	}
	if got := flood(t, w.Gate, n, func(int) string { return forge("ak") }); got[401] != n {
		t.Errorf("forged: %v", got)
	}
	if r := w.Get(t, "/v1/items/1", gate.Token(imported)); r.Status != 200 {
		t.Errorf("the imported key after the flood: %v", r)
	}
}
