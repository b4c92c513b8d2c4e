package redact

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// proxiedRequest returns a request as Caddy's reverse proxy sends it to the API.
func proxiedRequest(headers map[string]string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "http://api.example.com/v1/orders/4711?page=2", nil)
	r.RemoteAddr = "192.0.2.7:51234"
	for name, value := range map[string]string{"User-Agent": "", "Via": "1.1 Caddy",
		"X-Forwarded-For": "192.0.2.7", "X-Forwarded-Proto": "https",
		"X-Forwarded-Host": "api.example.com"} {
		r.Header.Set(name, value)
	}
	for name, value := range headers {
		r.Header.Set(name, value)
	}
	return r.WithContext(context.WithValue(r.Context(), caddyhttp.VarsCtxKey,
		map[string]any{caddyhttp.ClientIPVarKey: "192.0.2.7"}))
}

var (
	browserHeaders = map[string]string{
		"Accept":          "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
		"Accept-Encoding": "gzip, deflate, br", "Accept-Language": "en-GB,en;q=0.7",
		"User-Agent":     "Mozilla/5.0 (X11; Linux x86_64; rv:139.0) Gecko/20100101 Firefox/139.0",
		"Referer":        "https://app.example.com/orders",
		"Sec-Fetch-Mode": "cors", "Sec-Fetch-Site": "same-site", "Sec-Fetch-Dest": "empty",
		"Cache-Control": "no-cache", "Content-Type": "application/json",
	}
	identityHeaders = map[string]string{
		"X-Apikey-Id": "3f9aB2c8D1eF", "X-Apikey-Namespace": "acme/orders",
		"X-Apikey-Name": "order import", "X-Apikey-Grants": "acme/orders: read, write",
		"X-Apikey-Expires": "2027-01-01T00:00:00Z",
	}
)

// BenchmarkUnwrittenLogger derives the logger that Caddy's reverse proxy derives for each request
// to log it at level DEBUG, which is disabled.
func BenchmarkUnwrittenLogger(b *testing.B) {
	declareAll(b)
	for _, request := range []struct {
		name    string
		headers map[string]string
	}{{"wrk", nil}, {"browser", browserHeaders}, {"identity", identityHeaders}} {
		r := proxiedRequest(request.headers)
		for _, encoder := range []struct {
			name    string
			encoder zapcore.Encoder
		}{{"json", newJSONEncoder(b)}, {"api_keys", newLogEncoder(b, "")}} {
			b.Run(fmt.Sprintf("%s/%s", request.name, encoder.name), func(b *testing.B) {
				logger := zap.New(zapcore.NewCore(encoder.encoder, zapcore.AddSync(io.Discard),
					zapcore.InfoLevel))
				b.ReportAllocs()
				for b.Loop() {
					logger.With(zap.String("upstream", "127.0.0.1:9000"),
						zap.Duration("duration", time.Millisecond),
						zap.Object("request", caddyhttp.LoggableHTTPRequest{Request: r}))
				}
			})
		}
	}
}
