package limits

import (
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

// TestStreamsOfAllProtocols sends many requests at the same time over HTTP/1.1, HTTP/2 and HTTP/3.
// Together they get exactly the quota. If clients cancel them, no more than that reach the API.
func TestStreamsOfAllProtocols(t *testing.T) {
	t.Parallel()
	const quota = 150
	g := gate.Start(t, gate.Config{HTTP3: true})
	for name, cancelled := range map[string]bool{"answered": false, "cancelled": true} {
		k := limitedKey(t, g, gate.JSON{"rate_limit": daily(200), "quota": monthly(quota)})
		g.Upstream.Take()
		var admitted atomic.Int64
		var requests sync.WaitGroup
		for _, p := range []gate.Protocol{gate.HTTP1, gate.HTTP2, gate.HTTP3} {
			client, url := g.Client(t, p)
			for range quota {
				requests.Go(func() {
					ctx, cancel := context.WithCancel(t.Context())
					defer cancel()
					if cancelled {
						time.AfterFunc(rand.N(time.Second), cancel)
					}
					if gate.Ask(ctx, client, url+"/v1/items/1", k.Token).Status == 200 {
						admitted.Add(1)
					}
				})
			}
		}
		requests.Wait()
		if !cancelled && admitted.Load() != quota {
			t.Errorf("%d requests admitted, want %d", admitted.Load(), quota)
		}
		time.Sleep(time.Second) // for requests on their way
		if n := len(g.Upstream.Take()); n > quota {
			t.Errorf("%s: %d requests reached the API, of a quota of %d", name, n, quota)
		}
	}
}
