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

// A runningRequest is a request that has been passed on. It is cut when its key is no longer valid.
type runningRequest struct {
	node.Running
	w      http.ResponseWriter
	http1  bool // the connection serves only this request
	ctx    context.Context
	cancel context.CancelFunc // of ctx; only if the request could outlive the cut otherwise
	writer *cutWriter         // HTTP/3 only
}

var runningRequests = sync.Pool{New: func() any {
	run := new(runningRequest)
	run.Cut = run.cut
	return run
}}

// newRunningRequest returns a runningRequest for r. The caller ends it with leave or release.
func newRunningRequest(w http.ResponseWriter, r *http.Request) *runningRequest {
	run := runningRequests.Get().(*runningRequest)
	run.w, run.ctx, run.http1 = w, r.Context(), r.ProtoMajor == 1
	if r.Header["Upgrade"] != nil || r.ProtoMajor > 2 {
		// While the upstream is silent, only a canceled context ends a tunnel.
		run.ctx, run.cancel = context.WithCancel(run.ctx)
	}
	if r.ProtoMajor > 2 {
		run.writer = &cutWriter{ResponseWriter: w}
	}
	return run
}

// wrap returns the arguments for the next handler.
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

// finish must be called when the next handler has returned. It resets a stream that was cut, which
// would look complete otherwise.
func (run *runningRequest) finish() {
	if run.writer != nil && run.writer.cut.Load() {
		panic(http.ErrAbortHandler)
	}
}

// splitContext has the values of the embedded context and the cancellation of another. The other
// was derived earlier, so it lacks values that have been added since.
type splitContext struct {
	context.Context
	cancellation context.Context
}

func (c splitContext) Done() <-chan struct{} { return c.cancellation.Done() }
func (c splitContext) Err() error            { return c.cancellation.Err() }

// leave unregisters an entered request and releases it. It reports whether the request was cut.
func (run *runningRequest) leave(keys *manage.Keystore) (cut bool) {
	cut = keys.Leave(&run.Running)
	run.release()
	return cut
}

func (run *runningRequest) release() {
	if run.cancel != nil {
		run.cancel()
	}
	run.w, run.ctx, run.cancel, run.writer = nil, nil, nil, nil
	runningRequests.Put(run)
}

// cut ends the request for the client: it closes an HTTP/1 connection and resets an HTTP/2 stream.
// The handler and the upstream notice that, or the canceled context.
//
// It bypasses Caddy's own writers. They may be used only by the handler's goroutine, and their idle
// timeouts set a deadline before each write, which would delay ours by a minute.
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

// innermost returns the server's own writer.
func innermost(w http.ResponseWriter) http.ResponseWriter {
	for {
		wrapper, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			return w
		}
		w = wrapper.Unwrap()
	}
}

// cutWriter fails writes once its request is cut. Through net/http's interfaces, another goroutine
// cannot reset an HTTP/3 stream. It can only set deadlines, which Caddy's idle timeout extends at
// the next write.
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

// Unwrap supports http.ResponseController.
func (d *cutWriter) Unwrap() http.ResponseWriter { return d.ResponseWriter }

// connKey is the context key of a request's connection.
type connKey struct{}

// withConn adds the connection to the context, for caddyhttp.Server.RegisterConnContext. Each
// handler of the server registers it, so it may be called more than once.
func withConn(ctx context.Context, conn net.Conn) context.Context {
	if ctx.Value(connKey{}) != nil {
		return ctx
	}
	return context.WithValue(ctx, connKey{}, conn)
}

// closeNow closes a connection without waiting. Closing a tls.Conn would first send an alert, which
// may take 5 s.
func closeNow(conn net.Conn) {
	if secure, ok := conn.(*tls.Conn); ok {
		conn = secure.NetConn()
	}
	switch conn.(type) {
	case *net.TCPConn, *net.UnixConn:
		_ = conn.Close()
	default: // a listener wrapper's connection, whose Close may block
		_ = conn.SetDeadline(time.Unix(1, 0))
		go func() { _ = conn.Close() }()
	}
}
