package caddymodule

import (
	"net"
	"net/http"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/admin"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
	"github.com/caddyserver/caddy/v2"
)

func init() {
	caddy.RegisterModule(AdminRoute{})
}

// AdminRoute serves the management of API keys on Caddy's admin endpoint, under `/apikeys/v1/`.
// Whoever may use the admin endpoint acts as the member `root`, who may do everything.
type AdminRoute struct{}

// CaddyModule returns the Caddy module information.
func (AdminRoute) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "admin.api.api_keys",
		New: func() caddy.Module { return new(AdminRoute) },
	}
}

// Provision registers the metrics: the admin endpoint serves those of its own config, whose apps
// may never be provisioned.
func (*AdminRoute) Provision(ctx caddy.Context) error {
	return registerMetrics(ctx.GetMetricsRegistry())
}

// Routes is part of caddy.AdminRouter.
func (*AdminRoute) Routes() []caddy.AdminRoute {
	return []caddy.AdminRoute{{Pattern: "/apikeys/",
		Handler: caddy.AdminHandlerFunc(serveAdminRoute)}}
}

// serveAdminRoute never returns an error: what Caddy would make of it is no problem document.
func serveAdminRoute(w http.ResponseWriter, r *http.Request) error {
	app := runningApp()
	if app == nil {
		return refusal{
			outcome: keystore.Unavailable,
			detail: "No key store is running: Caddy is still starting, or its configuration does " +
				"not use " + appName + ".",
		}.write(w, r)
	}
	// The admin server's ReadTimeout of 10 s would end a long import, and a revoke that waits for
	// longer than that.
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{})
	app.manage(w, r, manage.Root(peerAddress(r)))
	return nil
}

// manage serves the management API, after Start, to a caller that a door has let in. The API
// refuses cross-origin changes itself.
func (a *App) manage(w http.ResponseWriter, r *http.Request, caller manage.Caller) {
	var api *admin.API
	if s := a.store.Load(); s != nil {
		api = s.api
	} else {
		api = a.opening.api
	}
	ctx := admin.WithCaller(r.Context(), caller)
	if id := requestID(r); id != "" {
		ctx = admin.WithRequestID(ctx, id)
	}
	api.ServeHTTP(w, r.WithContext(ctx))
}

// peerAddress is who is at the other end of the connection, for the audit log.
func peerAddress(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return "unix socket" // which has no addresses
	}
	return host
}

var (
	_ caddy.AdminRouter = (*AdminRoute)(nil)
	_ caddy.Provisioner = (*AdminRoute)(nil)
)
