package caddymodule

import (
	"bytes"
	"log/slog"
	"net/http"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// fakeRateLimit stands for the handler of caddy-ratelimit.
type fakeRateLimit struct {
	Key string `json:"key,omitempty"`
}

func init() {
	caddy.RegisterModule(fakeRateLimit{})
	httpcaddyfile.RegisterHandlerDirective("rate_limit",
		func(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
			h.Next()
			f := new(fakeRateLimit)
			if !h.Args(&f.Key) {
				return nil, h.ArgErr()
			}
			return f, nil
		})
	// as caddy-ratelimit does
	httpcaddyfile.RegisterDirectiveOrder("rate_limit", httpcaddyfile.Before, "basic_auth")
}

func (fakeRateLimit) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: rateLimitModule,
		New: func() caddy.Module { return new(fakeRateLimit) }}
}

func (fakeRateLimit) ServeHTTP(
	w http.ResponseWriter, r *http.Request, next caddyhttp.Handler,
) error {
	return next.ServeHTTP(w, r)
}

func TestOrderOfRateLimit(t *testing.T) {
	g := newInstance(t)
	for _, test := range []struct {
		name, options, site string
		warns               bool
	}{
		{"the default order", "", "api_key\nrate_limit {http.api_key.id}", true},
		{"the user", "", "api_key\nrate_limit {http.auth.user.id}", true},
		{"a part of the key", "", "api_key\nrate_limit {remote_host}:{http.api_key.owner}", true},
		{"another key", "", "api_key\nrate_limit {remote_host}", false},
		{"ordered", "order rate_limit after api_key\n", "api_key\nrate_limit {http.api_key.id}",
			false},
		{"a route", "", "route {\napi_key\nrate_limit {http.api_key.id}\n}", false},
		{"a route, wrong", "", "route {\nrate_limit {http.api_key.id}\napi_key\n}", true},
		{"another site", "", "api_key\n}\nhttp://b.test {\nimport common\nroute {\n" +
			"rate_limit {http.api_key.id}\napi_key\n}", true},
		{"another handle", "", "handle /a {\napi_key\n}\nhandle {\nroute {\n" +
			"rate_limit {http.api_key.id}\napi_key\n}\n}", true},
		{"a named route", "", "invoke limited\napi_key", false},
	} {
		named := ""
		if strings.Contains(test.site, "invoke") {
			named = "&(limited) {\nroute {\napi_key\nrate_limit {http.api_key.id}\n}\n}\n"
		}
		g.loadCaddyfile(strings.Replace(ruleOptions, "{\n", "{\n"+test.options, 1) + named +
			"http://a.test {\nimport common\n" + test.site + "\n}")
		app := runningApp()
		var logged bytes.Buffer
		app.logger = slog.New(slog.NewTextHandler(&logged, nil))
		app.warnOfOrder()
		if warned := strings.Contains(logged.String(), "rate_limit runs before api_key"); warned !=
			test.warns {
			t.Errorf("%s: warned %v: %s", test.name, warned, &logged)
		}
	}
}
