package console

import (
	"bytes"
	"io"
	"net/http"

	"github.com/caddy-apikeys/caddy-apikeys/admin"
	"github.com/caddy-apikeys/caddy-apikeys/admin/client"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
)

// inProcess is a transport that calls the REST interface directly, as one caller.
type inProcess struct {
	api    http.Handler
	caller manage.Caller
}

// clientFor returns a client of the REST interface that acts as a visitor.
func (c *Console) clientFor(caller manage.Caller) *client.Client {
	calls, err := client.New("http://localhost", client.WithTransport(inProcess{c.api, caller}))
	if err != nil {
		panic(err) // the address is a constant
	}
	return calls
}

// RoundTrip implements http.RoundTripper.
func (p inProcess) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.WithContext(admin.WithCaller(r.Context(), p.caller))
	if r.Body == nil {
		r.Body = http.NoBody
	}
	w := answer{header: make(http.Header)}
	p.api.ServeHTTP(&w, r)
	return &http.Response{
		StatusCode: max(w.status, http.StatusOK), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: w.header, Body: io.NopCloser(&w.body), ContentLength: int64(w.body.Len()),
		Request: r,
	}, nil
}

// answer records a response.
type answer struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (a *answer) Header() http.Header         { return a.header }
func (a *answer) Write(b []byte) (int, error) { return a.body.Write(b) }
func (a *answer) WriteHeader(status int) {
	if a.status == 0 {
		a.status = status
	}
}
