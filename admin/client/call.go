package client

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
)

// A ChangeOption goes with a change of something that exists.
type ChangeOption func(*request)

// IfVersion makes a change only when the object still has this version; else the refusal's status
// is 412.
func IfVersion(version int64) ChangeOption {
	return func(r *request) { r.header("If-Match", `"`+strconv.FormatInt(version, 10)+`"`) }
}

// Wait sets how long the server waits for a change that takes access away to be in force on every
// node. Without it, 10 s. The context should allow more.
func Wait(d time.Duration) ChangeOption {
	return func(r *request) { r.parameter("wait", d.String()) }
}

// A request is one call: what is zero is not sent.
type request struct {
	method, path string
	query        url.Values
	headers      http.Header
	body         io.Reader
	contentType  string
	err          error // the body cannot be written
}

func (r *request) header(name, value string) {
	if r.headers == nil {
		r.headers = make(http.Header)
	}
	r.headers.Set(name, value)
}

func (r *request) parameter(name, value string) {
	if r.query == nil {
		r.query = make(url.Values)
	}
	if value != "" {
		r.query.Set(name, value)
	}
}

func get(path string) *request { return &request{method: http.MethodGet, path: path} }

func send(method, path string, body any, options ...ChangeOption) *request {
	r := &request{method: method, path: path}
	if body != nil {
		b, err := json.Marshal(body)
		r.body, r.contentType, r.err = bytes.NewReader(b), api.JSON, err
	}
	for _, o := range options {
		o(r)
	}
	return r
}

// call makes a request and reads the answer. A status that is in also is an answer too, not a
// refusal.
func call[T any](ctx context.Context, c *Client, r *request, also ...int) (answer T, err error) {
	resp, err := c.do(ctx, r, api.JSON, also...)
	if err != nil {
		return answer, err
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		return answer, fmt.Errorf("reading the answer to %s %s: %w", r.method, r.path, err)
	}
	return answer, nil
}

// do makes a request, and returns an answer that is no refusal and of the media type expected.
func (c *Client) do(
	ctx context.Context, r *request, expected string, also ...int,
) (*http.Response, error) {
	if r.err != nil {
		return nil, fmt.Errorf("writing the request: %w", r.err)
	}
	target := c.base + r.path
	if len(r.query) > 0 {
		target += "?" + r.query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, r.method, target, r.body)
	if err != nil {
		return nil, err
	}
	for name, values := range r.headers {
		req.Header[name] = values
	}
	if c.origin != "" {
		req.Header.Set("Origin", c.origin)
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	if r.contentType != "" {
		req.Header.Set("Content-Type", r.contentType)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	t := mediaType(resp)
	switch {
	case refused(resp, also):
		err = readError(resp)
	case t != expected:
		err = fmt.Errorf("the answer to %s %s is %q, not %s: something else answers there",
			r.method, r.path, t, expected)
	default:
		return resp, nil
	}
	resp.Body.Close()
	return nil, err
}

func refused(resp *http.Response, also []int) bool {
	for _, status := range also {
		if resp.StatusCode == status && mediaType(resp) == api.JSON {
			return false
		}
	}
	return resp.StatusCode < 200 || resp.StatusCode > 299
}
