package caddymodule

import (
	"net/http"
	"strings"

	"github.com/caddy-apikeys/caddy-apikeys/caddymodule/route"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// The values of Handler.Forwarded.
const (
	forwardedPlain = "plain"
	forwardedNginx = "nginx"
)

// serveForwarded decides on the request that a proxy describes, and answers the proxy.
func (h *Handler) serveForwarded(c *call) error {
	c.untracked = true // the proxy runs the request itself
	outcome := h.authorizeForwarded(c)
	h.conclude(c, outcome)
	h.announceLimits(c)
	header := c.w.Header()
	switch {
	case outcome.Refuses():
		return h.refuseForwarded(c, outcome)
	case outcome == keystore.OK:
		c.request.identify(header, h.rules)
	}
	header["Cache-Control"] = []string{"no-store"}
	c.w.WriteHeader(http.StatusNoContent)
	return nil
}

// authorizeForwarded reads the method and target from the headers of a trusted proxy and decides on
// them.
func (h *Handler) authorizeForwarded(c *call) keystore.Outcome {
	if !c.request.trusted {
		return keystore.UntrustedProxy
	}
	method, uri := c.r.Header["X-Forwarded-Method"], c.r.Header["X-Forwarded-Uri"]
	if len(method) != 1 || len(uri) != 1 {
		return keystore.BadTarget
	}
	c.method = method[0]
	if !h.readForwarded(c, uri[0]) {
		return keystore.BadTarget
	}
	return h.app.abuse.judge(c, h.authorize(c))
}

// readForwarded sets the target of a call. It reports whether the target is canonical.
func (h *Handler) readForwarded(c *call, uri string) bool {
	c.path, c.query, _ = strings.Cut(uri, "?")
	return route.IsOneURI(uri) && route.CanonicalPath(c.path, h.rules.encodedSlash)
}

// refuseForwarded is refuse for a proxy. With `forwarded nginx`, the proxy understands only 401 and
// 403, as nginx's auth_request does, so other refusals become 403.
func (h *Handler) refuseForwarded(c *call, outcome keystore.Outcome) error {
	if h.Forwarded == forwardedNginx {
		c.w.Header()["X-Apikey-Code"] = []string{outcome.Code()}
		if status := outcome.Status(); status != http.StatusUnauthorized &&
			status != http.StatusForbidden {
			c.status = http.StatusForbidden
		}
	}
	return h.refuse(c)
}
