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

// AdminRoute serves the management API on Caddy's admin endpoint, under `/apikeys/v1/`. Every
// client of the admin endpoint acts as the member `root`, which has all permissions.
type AdminRoute struct{}

// CaddyModule returns the Caddy module information.
func (AdminRoute) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "admin.api.api_keys",
		New: func() caddy.Module { return new(AdminRoute) },
	}
}

// Provision registers the metrics. The admin endpoint serves the metrics of its own config, whose
// apps may never be provisioned.
func (*AdminRoute) Provision(ctx caddy.Context) error {
	return registerMetrics(ctx.GetMetricsRegistry())
}

// Routes implements caddy.AdminRouter.
func (*AdminRoute) Routes() []caddy.AdminRoute {
	return []caddy.AdminRoute{{Pattern: "/apikeys/",
		Handler: caddy.AdminHandlerFunc(serveAdminRoute)}}
}

// serveAdminRoute never returns an error, because Caddy would not write it as a problem document.
func serveAdminRoute(w http.ResponseWriter, r *http.Request) error {
	app := runningApp()
	if app == nil {
		return refusal{
			outcome: keystore.Unavailable,
			detail: "No key store is running: Caddy is still starting, or its configuration does " +
				"not use " + appName + ".",
		}.write(w, r)
	}
	// The admin server's ReadTimeout of 10 s would cut off a long import or a revoke that waits
	// longer.
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{})
	app.manage(w, r, manage.Root(peerAddress(r)))
	return nil
}

// manage serves the management API to an authenticated caller. It must not be called before Start.
// The API refuses cross-origin changes itself.
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

// peerAddress returns the address of the client's end of the connection, for the audit log.
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
