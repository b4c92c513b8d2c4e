package caddymodule

import (
	"net/http"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/caddy-apikeys/caddy-apikeys/caddymodule/jsonlist"
)

// partialHeaders are request headers that ask for something other than the whole list: a range, a
// conditional response, a delta (RFC 9110 §13.1 and §14, RFC 3229) or a tunnel.
var partialHeaders = []string{"Range", "If-Range", "If-Match", "If-None-Match",
	"If-Modified-Since", "If-Unmodified-Since", "A-Im", "Upgrade"}

// serveNext passes a call on to the next handler and filters the response if it is a list.
func (h *Handler) serveNext(
	c *call, w http.ResponseWriter, r *http.Request, next caddyhttp.Handler,
) error {
	l := h.rules.lists.Find(c.method, c.path)
	if l == nil {
		return next.ServeHTTP(w, r)
	}
	for _, name := range partialHeaders {
		delete(r.Header, name)
	}
	r.Header["Accept-Encoding"] = []string{"identity"} // without it, Go's client asks for gzip
	// Capturing c would allocate it for every call.
	record, narrowing, policy, need := c.record, c.answer.Narrowing, c.policy, c.need
	a := newListResponse(w, r, jsonlist.Filter{Items: l.ItemsPath, ID: l.IDPath,
		Keep: func(id string) bool {
			if record == nil {
				return false
			}
			ns := policy.Namespace(id)
			return record.MaySee(policy, ns, l.Kind, need) && narrowing.Allows(ns, &need)
		}})
	cause, err := a.serve(r, next)
	if cause == nil {
		return err
	}
	if !a.writeFailed && r.Context().Err() == nil {
		h.logger.Error("API response to a list operation cannot be filtered; sending an error",
			zap.String("list", l.Method+" "+l.Path), zap.String("key", c.request.keyID()),
			zap.Error(cause))
	}
	switch {
	case a.sent: // an incomplete response must not look complete
		panic(http.ErrAbortHandler)
	case h.Preflight != nil:
		h.Preflight.allowOrigin(w.Header(), r.Header)
	}
	if h.Errors != "" {
		return caddyhttp.Error(http.StatusBadGateway, cause)
	}
	writeProblem(w, r, headerSetter{Header: w.Header()}, http.StatusBadGateway, unfilterable)
	return nil
}
