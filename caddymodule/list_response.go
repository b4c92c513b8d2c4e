package caddymodule

import (
	"bufio"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"mime"
	"net"
	"net/http"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-apikeys/caddy-apikeys/caddymodule/jsonlist"
)

// A listResponse stands between the API's answer to a call of `list` and the client. Of a body, the
// client gets what went through the filter, and nothing else: so an error of the API keeps its
// status and headers, and gets another body.
//
// The filter reads, as a decompressor does, while the API's answer is written to us. It runs as a
// coroutine of whoever writes, so there is no other goroutine that could outlive the request or use
// the client's writer beside it.
type listResponse struct {
	http.ResponseWriter // the client's
	ctx                 context.Context
	request             *http.Request
	filter              jsonlist.Filter

	handlerHeader http.Header // what Header returns. Trailers end here.
	header        http.Header // of the API's answer
	status        int         // likewise; 0: none yet
	done          bool        // the client has its answer, whatever the API's body is
	sent          bool        // the client has the header at least
	writeFailed   bool        // the client takes no more
	err           error       // why the client cannot have the answer

	out    *bufio.Writer
	chunk  []byte // written to us, for the filter
	eof    bool   // no more will be
	resume func() (struct{}, bool)
	stop   func()
}

func newListResponse(w http.ResponseWriter, r *http.Request, f jsonlist.Filter) *listResponse {
	return &listResponse{ResponseWriter: w, ctx: r.Context(), request: r, filter: f,
		handlerHeader: w.Header().Clone()}
}

// serve has the answer made, and returns why the client cannot have it. err is next's, when there
// was no answer.
func (a *listResponse) serve(r *http.Request, next caddyhttp.Handler) (cause, err error) {
	defer func() {
		if a.stop != nil {
			a.stop()
		}
	}()
	defer func() {
		switch problem := recover(); {
		case problem == nil:
		case problem == http.ErrAbortHandler && a.status != 0: //nolint:errorlint // the value that it panics with
			// so does reverse_proxy say it, also when we have refused to take more
			a.fail(errors.New("it broke off"))
			cause = a.err
		default:
			panic(problem)
		}
	}()
	if err := next.ServeHTTP(a, r); err != nil {
		if !a.sent || a.done {
			return nil, err
		}
		a.fail(err)
	}
	a.finish()
	return a.err, nil
}

func (a *listResponse) fail(err error) {
	if a.err == nil && !a.done {
		a.err = err
	}
}

func (a *listResponse) finish() {
	switch {
	case a.err != nil || a.done:
	case a.status == 0:
		a.fail(errors.New("there is none"))
	default:
		a.eof = true
		a.resume()
		if a.err == nil {
			a.err = a.out.Flush()
		}
	}
}

// Header is http.ResponseWriter's.
func (a *listResponse) Header() http.Header { return a.handlerHeader }

// WriteHeader is http.ResponseWriter's. Informational answers are dropped.
func (a *listResponse) WriteHeader(status int) {
	if a.status != 0 || status < 200 && status != http.StatusSwitchingProtocols {
		return
	}
	a.status = status
	a.header = canonicalHeader(a.handlerHeader)
	switch {
	case status == http.StatusResetContent, status == http.StatusPartialContent, status == http.StatusIMUsed,
		status == http.StatusNotModified, status < 200, status > 599:
		a.fail(fmt.Errorf("its status is %d", status))
	case status == http.StatusNoContent, status >= 300:
		a.replaceBody()
	default:
		a.startBody()
	}
}

// startBody makes ready for a body.
func (a *listResponse) startBody() {
	zipped, err := checkJSON(a.header)
	switch {
	case err != nil:
		a.fail(err)
	case a.request.Method == http.MethodHead:
		a.send()
		a.done = true
	default:
		a.out = bufio.NewWriterSize(clientWriter{a}, 32<<10)
		a.resume, a.stop = iter.Pull(func(yield func(struct{}) bool) {
			next := func() ([]byte, error) { return a.next(yield) }
			if zipped {
				next = unzip(next)
			}
			if err := a.filter.Run(a.out, next); err != nil {
				a.fail(err)
			}
		})
	}
}

// next returns what was written to us, once there is something.
func (a *listResponse) next(yield func(struct{}) bool) ([]byte, error) {
	for len(a.chunk) == 0 {
		if a.eof {
			return nil, io.EOF
		}
		if !yield(struct{}{}) {
			return nil, context.Canceled // by stop
		}
	}
	chunk := a.chunk
	a.chunk = nil
	return chunk, a.ctx.Err() // writing would not tell when all elements go
}

func (a *listResponse) Write(p []byte) (int, error) {
	a.WriteHeader(http.StatusOK) // if there was none
	if a.err == nil && !a.done {
		a.chunk = p
		a.resume()
	}
	if a.err != nil {
		return 0, a.err
	}
	return len(p), nil
}

// FlushError is http.ResponseController's. What the filter holds back stays.
func (a *listResponse) FlushError() error {
	if a.out != nil && a.err == nil {
		if err := a.out.Flush(); err != nil {
			return err
		}
	}
	if !a.sent {
		return nil
	}
	return http.NewResponseController(a.ResponseWriter).Flush()
}

// Hijack is http.ResponseController's.
func (a *listResponse) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return nil, nil, http.ErrNotSupported
}

// Unwrap is http.ResponseController's, for deadlines.
func (a *listResponse) Unwrap() http.ResponseWriter { return a.ResponseWriter }

// send gives the client the header of the API's answer.
func (a *listResponse) send() {
	a.setHeader()
	a.ResponseWriter.WriteHeader(a.status)
}

// replaceBody gives the client the API's answer with another body, or without one.
func (a *listResponse) replaceBody() {
	for name := range a.header {
		if strings.HasPrefix(name, "Content-") {
			delete(a.header, name)
		}
	}
	if a.status < 400 {
		a.send()
	} else {
		a.setHeader()
		body, _ := json.Marshal(newProblem(a.status, "upstream_error",
			"The API answered with an error", ""))
		writeProblem(a.ResponseWriter, a.request, a.status, body)
	}
	a.done = true
}

// unfilterable is the body of an answer that has no other.
var unfilterable, _ = json.Marshal(newProblem(http.StatusBadGateway, "unfilterable_answer",
	"The API's answer cannot be filtered", ""))

// unfilteredHeaders are response headers that are about the body as the API sent it, or let a client or a
// cache ask for it by other means (RFC 9110 §8, §14, RFC 9530, RFC 3229). Who caches for several
// keys would give one what another may see.
var unfilteredHeaders = []string{
	"Content-Length", "Content-Encoding", "Content-Range", "Accept-Ranges", "Transfer-Encoding",
	"Trailer",
	"Etag", "Last-Modified", "Content-Md5", "Digest", "Content-Digest", "Repr-Digest", "Delta-Base",
	"Im",
	"Expires", "Age", "Surrogate-Control", "X-Accel-Expires",
}

func (a *listResponse) setHeader() {
	header := a.ResponseWriter.Header()
	clear(header)
	maps.Copy(header, a.header)
	for _, name := range unfilteredHeaders {
		delete(header, name)
	}
	maps.DeleteFunc(header, func(name string, _ []string) bool {
		// RFC 9213
		return strings.HasSuffix(name, "Cache-Control") ||
			strings.HasPrefix(name, http.TrailerPrefix)
	})
	header["Cache-Control"] = []string{"no-store"}
	a.sent = true
}

// A clientWriter is where the filter's output goes. The header waits for it: without any, there can
// be another answer.
type clientWriter struct{ *listResponse }

func (c clientWriter) Write(p []byte) (int, error) {
	if !c.sent {
		c.send()
	}
	n, err := c.ResponseWriter.Write(p)
	c.writeFailed = c.writeFailed || err != nil
	return n, err
}

// canonicalHeader has the same fields under canonical names.
func canonicalHeader(header http.Header) http.Header {
	canonical := make(http.Header, len(header))
	for name, values := range header {
		name = http.CanonicalHeaderKey(name)
		canonical[name] = append(canonical[name], values...)
	}
	return canonical
}

// checkJSON reports whether a header promises JSON, in an encoding that can be read.
func checkJSON(header http.Header) (zipped bool, err error) {
	encodings := header["Content-Encoding"]
	switch {
	case len(encodings) == 0 || len(encodings) == 1 && strings.EqualFold(encodings[0], "identity"):
	case len(encodings) == 1 && slices.ContainsFunc([]string{"gzip", "x-gzip"},
		func(name string) bool { return strings.EqualFold(encodings[0], name) }):
		zipped = true
	default:
		return false, fmt.Errorf("its Content-Encoding is %.100q: only gzip can be read, and it "+
			"was asked for none", encodings)
	}
	types := header["Content-Type"]
	if len(types) != 1 {
		return false, fmt.Errorf("it has %d Content-Types", len(types))
	}
	media, parameters, err := mime.ParseMediaType(types[0])
	charset, given := parameters["charset"]
	switch {
	case err != nil,
		media != "application/json" &&
			!(strings.HasPrefix(media, "application/") && strings.HasSuffix(media, "+json")),
		given && !strings.EqualFold(charset, "utf-8") && !strings.EqualFold(charset, "utf8"):
		return false, fmt.Errorf("its Content-Type is %.100q: only application/json and "+
			"application/…+json in UTF-8 can be read", types[0])
	}
	return zipped, nil
}

// unzip turns compressed chunks into plain ones.
func unzip(next func() ([]byte, error)) func() ([]byte, error) {
	var reader *gzip.Reader
	buffer := make([]byte, 32<<10)
	return func() ([]byte, error) {
		var err error
		if reader == nil {
			if reader, err = gzip.NewReader(&chunkReader{next: next}); err != nil {
				return nil, err
			}
		}
		for {
			n, err := reader.Read(buffer)
			if n > 0 {
				return buffer[:n], nil
			}
			if err != nil {
				return nil, err
			}
		}
	}
}

// A chunkReader reads chunks as one.
type chunkReader struct {
	next func() ([]byte, error)
	rest []byte
}

func (r *chunkReader) Read(p []byte) (n int, err error) {
	if len(r.rest) == 0 {
		if r.rest, err = r.next(); err != nil {
			return 0, err
		}
	}
	n = copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}
