package caddymodule

import (
	"net/http"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/caddy-apikeys/caddy-apikeys/caddymodule/jsonlist"
)

// partialHeaders are request headers that ask for less than the whole list: for a part of it, for nothing
// if it has not changed, or for what has (RFC 9110 §13.1 and §14, RFC 3229); or for a tunnel
// instead.
var partialHeaders = []string{"Range", "If-Range", "If-Match", "If-None-Match", "If-Modified-Since",
	"If-Unmodified-Since", "A-Im", "Upgrade"}

// serveNext lets a call go on, and filters the answer if it is a list.
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
	// not c, which would be allocated for every call
	record, policy, need := c.record, c.policy, c.need
	a := newListResponse(w, r, jsonlist.Filter{Items: l.ItemsPath, ID: l.IDPath,
		Keep: func(id string) bool {
			return record != nil && record.Sees(policy, policy.Namespace(id), l.Kind, need)
		}})
	cause, err := a.serve(r, next)
	if cause == nil {
		return err
	}
	if !a.writeFailed && r.Context().Err() == nil {
		h.logger.Error("the API's answer to a call of `list` cannot be filtered, so the client "+
			"does not get it",
			zap.String("list", l.Method+" "+l.Path), zap.String("key", c.request.keyID()),
			zap.Error(cause))
	}
	switch {
	case a.sent: // in part: it must not look complete
		panic(http.ErrAbortHandler)
	case h.Preflight != nil:
		h.Preflight.allowOrigin(w.Header(), r.Header)
	}
	if h.Errors != "" {
		return caddyhttp.Error(http.StatusBadGateway, cause)
	}
	writeProblem(w, r, http.StatusBadGateway, unfilterable)
	return nil
}
