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

// A ChangeOption applies to a change of an existing object.
type ChangeOption func(*request)

// IfVersion makes the change only if the object still has this version. Otherwise the server
// refuses it with status 412.
func IfVersion(version int64) ChangeOption {
	return func(r *request) { r.header("If-Match", `"`+strconv.FormatInt(version, 10)+`"`) }
}

// Wait sets how long the server waits until a change that reduces access is in force on every node.
// The default is 10 s. The context should allow more time.
func Wait(d time.Duration) ChangeOption {
	return func(r *request) { r.parameter("wait", d.String()) }
}

// A request is one call. Zero fields are not sent.
type request struct {
	method, path string
	query        url.Values
	headers      http.Header
	body         io.Reader
	contentType  string
	err          error // from encoding the body
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

// call sends a request and decodes the answer. The statuses listed in `also` are answers too, not
// refusals.
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

// do sends a request. It returns the answer if that is not a refusal and has the expected media
// type. The caller closes the body.
func (c *Client) do(
	ctx context.Context, r *request, expected string, also ...int,
) (*http.Response, error) {
	if r.err != nil {
		return nil, fmt.Errorf("encoding the request: %w", r.err)
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
		err = fmt.Errorf(
			"the answer to %s %s is %q, not %s: another service answers at this address",
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
