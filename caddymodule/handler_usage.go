package caddymodule

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/node"
)

// countDecision counts a decision on a call with a known key in its usage (docs/usage.md). A request
// counts once: by the first handler that finds the key, when that handler returns, or as refused by
// a later handler. A refusal counts at once, and so does a decision for another proxy.
func (h *Handler) countDecision(c *call, outcome keystore.Outcome) {
	req := c.request
	first := !req.counted
	if h.forAdmin || c.record == nil || !first && !outcome.Refuses() {
		return
	}
	req.counted, req.countedAs, req.permission = true, outcome, c.permission
	if !first {
		return
	}
	if !outcome.Refuses() && h.Forwarded == "" {
		c.counts = !c.keys.Settings().Usage.Off
	} else {
		c.keys.CountUse(c.answer, node.Use{Operation: c.permission, Outcome: outcome,
			Units: req.units, Ended: c.now})
	}
	for i := range c.targets {
		if !outcome.Refuses() {
			c.keys.CountUse(c.answer,
				node.Use{Operation: c.targets[i].permission, Also: true, Ended: c.now})
		}
	}
}

// countEnd counts a call that has ended. err is that of the next handler. complete says that the
// handler has returned and that the call was not cut.
func (c *call) countEnd(err error, complete bool) {
	if !c.counts {
		return
	}
	req, now := c.request, time.Now()
	t := &req.transfer
	use := node.Use{Operation: req.permission, Outcome: req.countedAs, Units: req.units,
		Status: t.writer.status, BytesIn: t.body.n.Load(), BytesOut: t.writer.n.Load(),
		Took: now.Sub(c.now), Ended: now}
	gone := !complete || c.r.Context().Err() != nil
	switch {
	case use.Status == 0 && !gone:
		use.Status = statusOf(err)
	case use.Status == statusClientGone && gone:
		use.Status = 0
	}
	c.keys.CountUse(c.answer, use)
}

// statusClientGone is the status that Caddy's reverse_proxy notes for a client that has gone. No
// client receives it.
const statusClientGone = 499

// statusOf returns the status that Caddy sends if the handlers have returned without a response.
func statusOf(err error) int {
	if err == nil {
		return http.StatusOK
	}
	var e caddyhttp.HandlerError
	if errors.As(err, &e) && e.StatusCode != 0 {
		return e.StatusCode
	}
	return http.StatusInternalServerError
}

// A transfer counts the bytes of a request's body and of its response, or of a tunnel. Another
// goroutine may still copy bytes when the request ends.
type transfer struct {
	body   countingBody
	writer countingWriter
}

// wrap returns the writer for the next handler, and replaces the body of r. method is that of the
// client's request.
func (t *transfer) wrap(w http.ResponseWriter, r *http.Request, method string) http.ResponseWriter {
	if r.Body != nil && r.Body != http.NoBody {
		t.body.ReadCloser = r.Body
		r.Body = &t.body
	}
	t.writer.ResponseWriter, t.writer.body = w, &t.body
	t.writer.head = method == http.MethodHead
	return &t.writer
}

// A countingBody counts what is read from a request.
type countingBody struct {
	io.ReadCloser
	n atomic.Int64
}

// Read implements io.Reader.
func (b *countingBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.n.Add(int64(n))
	return n, err
}

// A countingWriter counts the body of a response and notes its status.
type countingWriter struct {
	caddyhttp.ResponseWriterWrapper
	body   *countingBody // counts what is read from a tunnel
	head   bool          // whether the server discards the body
	status int           // 0 before the final response
	n      atomic.Int64
}

// WriteHeader implements http.ResponseWriter.
func (w *countingWriter) WriteHeader(status int) {
	if status >= 200 || status == http.StatusSwitchingProtocols {
		w.begin(status)
	}
	w.ResponseWriterWrapper.WriteHeader(status)
}

// begin is called when the header of the final response is sent.
func (w *countingWriter) begin(status int) {
	if w.status == 0 {
		w.status = status
	}
}

// Write implements http.ResponseWriter.
func (w *countingWriter) Write(p []byte) (int, error) {
	w.begin(http.StatusOK)
	n, err := w.ResponseWriter.Write(p)
	w.sent(int64(n))
	return n, err
}

func (w *countingWriter) sent(n int64) {
	if !w.head {
		w.n.Add(n)
	}
}

// ReadFrom implements io.ReaderFrom, so that the server can use sendfile.
func (w *countingWriter) ReadFrom(r io.Reader) (int64, error) {
	w.begin(http.StatusOK)
	n, err := w.ResponseWriterWrapper.ReadFrom(r)
	w.sent(n)
	return n, err
}

// FlushError supports http.ResponseController.
func (w *countingWriter) FlushError() error {
	w.begin(http.StatusOK)
	return http.NewResponseController(w.ResponseWriter).Flush()
}

// Flush implements http.Flusher.
func (w *countingWriter) Flush() { _ = w.FlushError() }

// Hijack implements http.Hijacker.
func (w *countingWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buffered, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	counting := &countingConn{Conn: conn, in: &w.body.n, out: &w.n}
	buffered.Writer.Reset(counting)
	// The client may already have sent data. It stays in the buffer.
	n := buffered.Reader.Buffered()
	data, _ := buffered.Reader.Peek(n)
	counting.in.Add(int64(n))
	buffered.Reader.Reset(io.MultiReader(bytes.NewReader(bytes.Clone(data)), counting))
	_, _ = buffered.Reader.Peek(n)
	if half, ok := conn.(halfCloser); ok {
		return halfClosableConn{counting, half}, buffered, nil
	}
	return counting, buffered, nil
}

// A countingConn counts what passes through a tunnel.
type countingConn struct {
	net.Conn
	in, out *atomic.Int64
}

// Read implements net.Conn.
func (c *countingConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.in.Add(int64(n))
	return n, err
}

// Write implements net.Conn.
func (c *countingConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.out.Add(int64(n))
	return n, err
}

// A halfCloser is a connection whose two directions can end separately. reverse_proxy looks for the
// method.
type halfCloser interface{ CloseWrite() error }

type halfClosableConn struct {
	*countingConn
	halfCloser
}

var (
	_ http.Flusher  = (*countingWriter)(nil)
	_ http.Hijacker = (*countingWriter)(nil)
	_ http.Pusher   = (*countingWriter)(nil)
	_ io.ReaderFrom = (*countingWriter)(nil)
)
