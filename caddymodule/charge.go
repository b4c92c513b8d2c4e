package caddymodule

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
	"golang.org/x/net/http/httpguts"

	"github.com/caddy-apikeys/caddy-apikeys/caddymodule/redact"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/node"
)

// checkCharge checks the option `charge` and returns the header's canonical name.
func (h *Handler) checkCharge() (name string, err error) {
	switch {
	case h.Charge == "":
		return "", nil
	case !httpguts.ValidHeaderFieldName(h.Charge):
		return "", fmt.Errorf("charge: %q is not a valid header name", redact.Argument(h.Charge))
	case slices.Contains(unchargeable, http.CanonicalHeaderKey(h.Charge)):
		return "", fmt.Errorf("charge %s: charge removes the header, which has a meaning of its "+
			"own: let the API report its costs in another one, such as X-Usage-Units", h.Charge)
	case h.Forwarded != "":
		return "", errors.New("charge cannot be combined with forwarded: the API's responses do " +
			"not pass this handler")
	}
	return http.CanonicalHeaderKey(h.Charge), nil
}

// unchargeable are response headers that never contain a cost: those about the connection (RFC 9110
// §7.6.1), the content or the response.
var unchargeable = []string{
	"Connection", "Keep-Alive", "Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade",
	"Content-Encoding", "Content-Length", "Content-Range", "Content-Type",
	"Age", "Cache-Control", "Date", "Etag", "Location", "Retry-After", "Set-Cookie", "Vary",
	"Www-Authenticate", "Ratelimit", "Ratelimit-Policy",
}

// A charger is the next handler of a handler with the option `charge`. It removes the header in
// which the API reports the total cost of the request, and charges it.
type charger struct {
	next    caddyhttp.Handler
	name    string // of the header
	logger  *zap.Logger
	request *request

	// These identify the limits to charge. answer.Record is nil if the request has no key.
	keys   *manage.Keystore
	answer node.Answer
}

// chargeNext returns the next handler for a call that is passed on.
func (h *Handler) chargeNext(c *call, next caddyhttp.Handler) caddyhttp.Handler {
	if h.rules.charge == "" {
		return next
	}
	return &charger{next: next, name: h.rules.charge, logger: h.logger, request: c.request,
		keys: c.keys, answer: c.answer}
}

// ServeHTTP implements caddyhttp.Handler.
func (n *charger) ServeHTTP(w http.ResponseWriter, r *http.Request) error {
	cw := &chargeWriter{ResponseWriterWrapper: caddyhttp.ResponseWriterWrapper{ResponseWriter: w},
		of: n}
	before := n.proxied()
	err := n.next.ServeHTTP(cw, r)
	// There may be a trailer, or no call of WriteHeader.
	cw.charge(n.name)
	cw.charge(http.TrailerPrefix + n.name)
	// The header of the proxy's response may not have got here: `handle_response` may have replaced
	// the response, or another handler may have removed the header.
	if !cw.charged {
		if after := n.proxied(); after != before {
			cw.chargeFirst([]string{after})
		}
	}
	return err
}

// proxied returns the header of the last response that a reverse proxy has received for the
// request.
func (n *charger) proxied() string {
	if n.request.repl == nil {
		return ""
	}
	value, _ := n.request.repl.GetString("http.reverse_proxy.header." + n.name)
	return value
}

// A chargeWriter removes the header from the response before it is sent.
type chargeWriter struct {
	caddyhttp.ResponseWriterWrapper
	of      *charger
	begun   bool // whether the header of the final response was sent
	charged bool
}

// charge removes a header and charges its units, unless another header was charged before.
func (w *chargeWriter) charge(name string) { w.chargeFirst(w.remove(name)) }

// chargeFirst charges the first valid number of units, unless a header was charged before.
func (w *chargeWriter) chargeFirst(values []string) {
	if w.charged {
		return
	}
	for _, line := range values {
		for value := range strings.SplitSeq(line, ",") {
			value = strings.Trim(value, " \t")
			units, err := strconv.ParseUint(value, 10, 64)
			if err == nil && units <= maxCharge {
				w.charged = true
				w.of.chargeTo(int64(units))
				return
			}
			w.of.logger.Debug("ignoring invalid number of units in a response header",
				zap.String("header", w.of.name), zap.String("value", fmt.Sprintf("%.100s", value)))
		}
	}
}

// maxCharge is the maximum number of units that a response can charge.
const maxCharge = 1_000_000_000_000

// remove removes a header from the response and returns its values.
func (w *chargeWriter) remove(name string) []string {
	header := w.Header()
	values := header[name]
	delete(header, name)
	return values
}

// chargeTo charges units, less those that were charged before.
func (n *charger) chargeTo(units int64) {
	if more := units - n.request.units; more > 0 && n.answer.Record != nil {
		n.request.units = units
		n.keys.ChargeMore(n.answer, more)
	}
}

// begin is called before the header of the final response is sent.
func (w *chargeWriter) begin() {
	if !w.begun {
		w.begun = true
		w.charge(w.of.name)
	}
}

// WriteHeader implements http.ResponseWriter. An informational response charges nothing.
func (w *chargeWriter) WriteHeader(status int) {
	if status < 200 && status != http.StatusSwitchingProtocols {
		w.remove(w.of.name)
	} else {
		w.begin()
	}
	w.ResponseWriterWrapper.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (w *chargeWriter) Write(p []byte) (int, error) {
	w.begin()
	return w.ResponseWriterWrapper.Write(p)
}

// ReadFrom implements io.ReaderFrom.
func (w *chargeWriter) ReadFrom(r io.Reader) (int64, error) {
	w.begin()
	return w.ResponseWriterWrapper.ReadFrom(r)
}

// FlushError supports http.ResponseController.
func (w *chargeWriter) FlushError() error {
	w.begin()
	return http.NewResponseController(w.ResponseWriter).Flush()
}

// Flush implements http.Flusher.
func (w *chargeWriter) Flush() { _ = w.FlushError() }

// Hijack implements http.Hijacker.
func (w *chargeWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	w.begin()
	return http.NewResponseController(w.ResponseWriter).Hijack()
}
