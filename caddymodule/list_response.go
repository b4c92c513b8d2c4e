package caddymodule

import (
	"bufio"
	"compress/gzip"
	"context"
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

// A listResponse filters the API's response to a `list` operation on its way to the client. The
// client receives only the filter's output. An error response of the API therefore gets another
// body, with the same status and all headers that do not describe the body.
//
// The filter reads from its input while the API's response is written to the listResponse. It runs
// as a coroutine of the writing goroutine, so it cannot outlive the request or use the client's
// writer concurrently.
type listResponse struct {
	http.ResponseWriter // the client's
	ctx                 context.Context
	request             *http.Request
	filter              jsonlist.Filter

	handlerHeader http.Header // returned by Header; trailers added to it go no further
	header        http.Header // of the API's response
	status        int         // of the API's response; 0 before WriteHeader
	done          bool        // whether the client has a complete response
	sent          bool        // whether the client has the header
	writeFailed   bool        // whether a write to the client has failed
	err           error       // why the response cannot be filtered

	out    *bufio.Writer // to the client
	chunk  []byte        // input of the filter
	eof    bool          // whether chunk is the last one
	resume func() (struct{}, bool)
	stop   func()
}

func newListResponse(w http.ResponseWriter, r *http.Request, f jsonlist.Filter) *listResponse {
	return &listResponse{ResponseWriter: w, ctx: r.Context(), request: r, filter: f,
		handlerHeader: w.Header().Clone()}
}

// serve runs next and sends its filtered response to the client. cause says why the response could
// not be filtered. err is the error of next if there was no response.
func (a *listResponse) serve(r *http.Request, next caddyhttp.Handler) (cause, err error) {
	defer func() {
		if a.stop != nil {
			a.stop()
		}
	}()
	defer func() {
		switch problem := recover(); {
		case problem == nil:
		case problem == http.ErrAbortHandler && a.status != 0: //nolint:errorlint // a panic value
			// reverse_proxy panics if the upstream breaks off or Write returns an error.
			a.fail(errors.New("the response is incomplete"))
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

// fail sets the error unless there is one or the response is complete.
func (a *listResponse) fail(err error) {
	if a.err == nil && !a.done {
		a.err = err
	}
}

// finish runs the filter to its end.
func (a *listResponse) finish() {
	switch {
	case a.err != nil || a.done:
	case a.status == 0:
		a.fail(errors.New("there is no response"))
	default:
		a.eof = true
		a.resume()
		if a.err == nil {
			a.err = a.out.Flush()
		}
	}
}

// Header implements http.ResponseWriter.
func (a *listResponse) Header() http.Header { return a.handlerHeader }

// WriteHeader implements http.ResponseWriter. It drops informational responses.
func (a *listResponse) WriteHeader(status int) {
	if a.status != 0 || status < 200 && status != http.StatusSwitchingProtocols {
		return
	}
	a.status = status
	a.header = canonicalHeader(a.handlerHeader)
	switch {
	case status == http.StatusResetContent, status == http.StatusPartialContent,
		status == http.StatusIMUsed, status == http.StatusNotModified, status < 200, status > 599:
		a.fail(fmt.Errorf("unsupported status %d", status))
	case status == http.StatusNoContent, status >= 300:
		a.replaceBody()
	default:
		a.startBody()
	}
}

// startBody prepares the filter for a body.
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

// next returns the next chunk of the filter's input. It suspends the filter until there is one.
func (a *listResponse) next(yield func(struct{}) bool) ([]byte, error) {
	for len(a.chunk) == 0 {
		if a.eof {
			return nil, io.EOF
		}
		if !yield(struct{}{}) {
			return nil, context.Canceled // stop was called
		}
	}
	chunk := a.chunk
	a.chunk = nil
	return chunk, a.ctx.Err() // no write would fail if the filter removes all elements
}

// Write implements http.ResponseWriter.
func (a *listResponse) Write(p []byte) (int, error) {
	a.WriteHeader(http.StatusOK) // unless the handler has called it
	if a.err == nil && !a.done {
		a.chunk = p
		a.resume()
	}
	if a.err != nil {
		return 0, a.err
	}
	return len(p), nil
}

// FlushError supports http.ResponseController. It does not flush the filter's own buffer.
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

// Hijack fails: a hijacked response would bypass the filter.
func (a *listResponse) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return nil, nil, http.ErrNotSupported
}

// Unwrap supports http.ResponseController, for deadlines.
func (a *listResponse) Unwrap() http.ResponseWriter { return a.ResponseWriter }

// send sends the header of the API's response to the client.
func (a *listResponse) send() {
	a.setHeader()
	a.ResponseWriter.WriteHeader(a.status)
}

// replaceBody sends the API's response with another body, or without one.
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
		writeProblem(a.ResponseWriter, a.request, headerSetter{Header: a.ResponseWriter.Header()},
			a.status, marshal(newProblem(a.status, "upstream_error", "The API returned an error", "")))
	}
	a.done = true
}

// unfilterable is the body of the response if the API's own cannot be filtered.
var unfilterable = marshal(newProblem(http.StatusBadGateway, "unfilterable_answer",
	"The API's response cannot be filtered", ""))

// unfilteredHeaders are response headers that describe the unfiltered body, or with which a client
// or cache could request or reuse it (RFC 9110 §8, §14, RFC 9530, RFC 3229). A shared cache could
// serve one key's list to another.
var unfilteredHeaders = []string{
	"Content-Length", "Content-Encoding", "Content-Range", "Accept-Ranges", "Transfer-Encoding",
	"Trailer",
	"Etag", "Last-Modified", "Content-Md5", "Digest", "Content-Digest", "Repr-Digest", "Delta-Base",
	"Im",
	"Expires", "Age", "Surrogate-Control", "X-Accel-Expires",
}

// setHeader copies the headers of the API's response, except unfilteredHeaders, and forbids
// caching.
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

// A clientWriter receives the filter's output. It delays the header until the first write, because
// an error page is still possible before.
type clientWriter struct{ *listResponse }

func (c clientWriter) Write(p []byte) (int, error) {
	if !c.sent {
		c.send()
	}
	n, err := c.ResponseWriter.Write(p)
	c.writeFailed = c.writeFailed || err != nil
	return n, err
}

// canonicalHeader returns the same fields with canonical names.
func canonicalHeader(header http.Header) http.Header {
	canonical := make(http.Header, len(header))
	for name, values := range header {
		name = http.CanonicalHeaderKey(name)
		canonical[name] = append(canonical[name], values...)
	}
	return canonical
}

// checkJSON returns an error unless the header announces JSON in a supported encoding.
func checkJSON(header http.Header) (zipped bool, err error) {
	encodings := header["Content-Encoding"]
	switch {
	case len(encodings) == 0 || len(encodings) == 1 && strings.EqualFold(encodings[0], "identity"):
	case len(encodings) == 1 && slices.ContainsFunc([]string{"gzip", "x-gzip"},
		func(name string) bool { return strings.EqualFold(encodings[0], name) }):
		zipped = true
	default:
		return false, fmt.Errorf("unsupported Content-Encoding %.100q: must be gzip, or none as "+
			"requested", encodings)
	}
	types := header["Content-Type"]
	if len(types) != 1 {
		return false, fmt.Errorf("must have one Content-Type, not %d", len(types))
	}
	media, parameters, err := mime.ParseMediaType(types[0])
	charset, given := parameters["charset"]
	switch {
	case err != nil,
		media != "application/json" &&
			!(strings.HasPrefix(media, "application/") && strings.HasSuffix(media, "+json")),
		given && !strings.EqualFold(charset, "utf-8") && !strings.EqualFold(charset, "utf8"):
		return false, fmt.Errorf("unsupported Content-Type %.100q: must be application/json or "+
			"application/…+json in UTF-8", types[0])
	}
	return zipped, nil
}

// unzip returns a function that decompresses the chunks of next.
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

// A chunkReader is an io.Reader over chunks.
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
