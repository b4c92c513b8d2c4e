package node

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// TestSweepKeepsFractions checks that the bucket of a rate limit is not removed while a request is
// in use for less than a microsecond.
func TestSweepKeepsFractions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limit := keystore.RateLimit{Requests: keystore.MaxRate, Per: time.Minute, Burst: 3}
		f := newLimitedFleet(t, 1, keystore.Limits{Rate: limit}, 1)
		f.store.gone.Store(true)
		f.request(f.nodes[0], 1)
		f.nodes[0].sweep()
		f.together(3, f.nodes[0])
		if n := len(f.admitted); n != 3 {
			t.Errorf("%d requests admitted at once of %d", n, limit.Burst)
		}
		f.close()
	})
}
