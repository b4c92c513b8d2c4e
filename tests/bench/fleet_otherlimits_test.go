package bench

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

// withRateLimit is the environment variable with the path of a Caddy that has the plugin
// caddy-ratelimit. Without it, that plugin is not measured.
const withRateLimit = "CADDY_WITH_RATE_LIMIT"

// otherLimits measures limits of other programs under the load of benchmarkLimits, spread over all
// nodes.
func otherLimits(b *testing.B) string {
	var t strings.Builder
	t.WriteString("The clients use all nodes. The fixed window is a counter in Redis for each " +
		"second, which the nodes increment with each request. caddy-ratelimit runs with " +
		"`distributed` and its defaults: the nodes exchange their counts through a common " +
		"directory every 5 s.\n\n" +
		"| nodes | limit | fixed window | caddy-ratelimit |\n|--:|--:|--:|--:|\n")
	for _, nodes := range limitNodes {
		for _, rate := range limitRates {
			peer := "not measured"
			if binary := os.Getenv(withRateLimit); binary != "" {
				peer = accuracy(b, rateLimitCaddys(b, binary, nodes, rate), rate)
			}
			fmt.Fprintf(&t, "| %d | %d/s | %s | %s |\n", nodes, rate,
				accuracy(b, fixedWindows(b, nodes, rate), rate), peer)
		}
	}
	return t.String()
}

// accuracy returns the admitted requests divided by the allowed ones.
func accuracy(b *testing.B, nodes []string, rate int) string {
	b.Helper()
	admitted, _, took := limitedLoad(b, nodes, "any")
	return fmt.Sprintf("%.2f", float64(admitted)/allowedIn(took, rate))
}

// fixedWindows starts servers that share one counter in Redis for each second.
func fixedWindows(b *testing.B, nodes, rate int) []string {
	b.Helper()
	client := redis.NewClient(&redis.Options{Addr: startRedis(b)})
	b.Cleanup(func() { client.Close() })
	limited := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		key := fmt.Sprint("window:", time.Now().Unix())
		var count *redis.IntCmd
		_, err := client.Pipelined(r.Context(), func(p redis.Pipeliner) error {
			count = p.Incr(r.Context(), key)
			p.Expire(r.Context(), key, 2*time.Second)
			return nil
		})
		switch {
		case err != nil:
			w.WriteHeader(http.StatusServiceUnavailable)
		case count.Val() > int64(rate):
			w.WriteHeader(http.StatusTooManyRequests)
		}
	})
	list := make([]string, nodes)
	for i := range list {
		server := httptest.NewServer(limited)
		b.Cleanup(server.Close)
		list[i] = server.URL
	}
	return list
}

// rateLimitCaddys starts Caddys with caddy-ratelimit that share a directory.
func rateLimitCaddys(b *testing.B, binary string, nodes, rate int) []string {
	b.Helper()
	shared := b.TempDir()
	list := make([]string, nodes)
	for i := range list {
		g := gate.Start(b, gate.Config{Binary: binary, Caddyfile: fmt.Sprintf(`{
	admin {$GATE_ADMIN}
	auto_https off
	default_bind 127.0.0.1
	order rate_limit before respond
}
http://:{$GATE_HTTP} {
	rate_limit {
		zone keys {
			key    {header.Authorization}
			window 1s
			events %d
		}
		distributed
		storage file_system %s
	}
	respond 200
}
`, rate, shared)})
		list[i] = g.URL
	}
	return list
}
