package caddymodule

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/node"
)

// A runningRequest is a request on its way to the upstream, which is cut when its key stops being
// alive.
type runningRequest struct {
	node.Running
	w      http.ResponseWriter
	http1  bool // the connection is the request's own
	ctx    context.Context
	cancel context.CancelFunc // of ctx, only for what else could outlive the cut
	writer *cutWriter         // HTTP/3 only
}

var runningRequests = sync.Pool{New: func() any {
	run := new(runningRequest)
	run.Cut = run.cut
	return run
}}

// follow returns a runningRequest for r, ready to be cut.
func newRunningRequest(w http.ResponseWriter, r *http.Request) *runningRequest {
	run := runningRequests.Get().(*runningRequest)
	run.w, run.ctx, run.http1 = w, r.Context(), r.ProtoMajor == 1
	if r.Header["Upgrade"] != nil || r.ProtoMajor > 2 {
		// A tunnel lives on while the upstream is silent, unless the context ends.
		run.ctx, run.cancel = context.WithCancel(run.ctx)
	}
	if r.ProtoMajor > 2 {
		run.writer = &cutWriter{ResponseWriter: w}
	}
	return run
}

// follow returns what the next handler is to be called with.
func (run *runningRequest) wrap(
	w http.ResponseWriter, r *http.Request,
) (http.ResponseWriter, *http.Request) {
	if run.writer != nil {
		w = run.writer
	}
	if run.cancel != nil {
		r = r.WithContext(splitContext{r.Context(), run.ctx})
	}
	return w, r
}

// finish is called when the next handler has returned. A stream that was cut must not look
// complete.
func (run *runningRequest) finish() {
	if run.writer != nil && run.writer.cut.Load() {
		panic(http.ErrAbortHandler) // resets it
	}
}

// splitContext has the values of one context, which may have changed since the other was derived from
// it, and the end of the other.
type splitContext struct {
	context.Context
	end context.Context
}

func (c splitContext) Done() <-chan struct{} { return c.end.Done() }
func (c splitContext) Err() error            { return c.end.Err() }

// leave ends what follow began, once the request has been entered.
func (run *runningRequest) leave(keys *manage.Keystore) {
	keys.Leave(&run.Running)
	run.release()
}

func (run *runningRequest) release() {
	if run.cancel != nil {
		run.cancel()
	}
	run.w, run.ctx, run.cancel, run.writer = nil, nil, nil, nil
	runningRequests.Put(run)
}

// cut ends the request for the client: an HTTP/1 connection is closed, an HTTP/2 stream reset.
// Handler and upstream end by that, or by the context.
//
// It goes past Caddy's own writers. Their idle timeouts set a deadline before each write, which
// would put one of ours off by a minute, and may be called from the handler's goroutine only.
func (run *runningRequest) cut() {
	if run.writer != nil {
		run.writer.cut.Store(true)
	}
	if conn, ok := run.ctx.Value(connKey{}).(net.Conn); ok && run.http1 {
		closeNow(conn)
	} else {
		past := time.Unix(1, 0)
		control := http.NewResponseController(innermost(run.w))
		_ = control.SetWriteDeadline(past) // resets the stream
		_ = control.SetReadDeadline(past)
	}
	if run.cancel != nil {
		run.cancel()
	}
}

func innermost(w http.ResponseWriter) http.ResponseWriter {
	for {
		wrapper, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			return w
		}
		w = wrapper.Unwrap()
	}
}

// cutWriter refuses to write once its request is cut. An HTTP/3 stream has no reset that another
// goroutine may cause through net/http's interfaces, only deadlines, which Caddy's idle timeout
// puts off at the next write.
type cutWriter struct {
	http.ResponseWriter
	cut atomic.Bool
}

func (d *cutWriter) Write(p []byte) (int, error) {
	if d.cut.Load() {
		return 0, http.ErrAbortHandler
	}
	return d.ResponseWriter.Write(p)
}

// Unwrap is for http.ResponseController.
func (d *cutWriter) Unwrap() http.ResponseWriter { return d.ResponseWriter }

// connKey is the context key of the connection that a request came on.
type connKey struct{}

// withConn is for caddyhttp.Server.RegisterConnContext. Each handler of the server registers it.
func withConn(ctx context.Context, conn net.Conn) context.Context {
	if ctx.Value(connKey{}) != nil {
		return ctx
	}
	return context.WithValue(ctx, connKey{}, conn)
}

// closeNow closes a connection without waiting for anyone. Closing TLS would first say goodbye, for
// up to 5 s.
func closeNow(conn net.Conn) {
	if secure, ok := conn.(*tls.Conn); ok {
		conn = secure.NetConn()
	}
	switch conn.(type) {
	case *net.TCPConn, *net.UnixConn:
		_ = conn.Close()
	default: // of a listener wrapper: who knows
		_ = conn.SetDeadline(time.Unix(1, 0))
		go func() { _ = conn.Close() }()
	}
}
