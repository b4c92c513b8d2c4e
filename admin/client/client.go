// Package client calls the REST interface from Go. `caddy apikeys` and the console are built on it.
// It imports the standard library, the wire types in
// [github.com/caddy-apikeys/caddy-apikeys/admin/api], and package keystore for [Derive], which needs
// no server. It knows neither Caddy nor the store.
//
// Create a [Client] with [New]. Its methods are the operations of the REST interface, one file for
// each kind of object. The All methods iterate over whole lists. A refused request returns an
// [*Error]; its documentation says after which statuses nothing was changed. After any other error
// the result is unknown: a change may or may not have been made.
//
// Start with call.go to change how requests are sent, and with keys.go to add an operation.
package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
)

// A Client calls one server. It is safe for concurrent use. The context of a method is its only
// timeout.
type Client struct {
	base   string // the URL before /apikeys/
	origin string // the Origin header, which Caddy's admin endpoint may require; empty: not sent
	token  string
	http   http.Client
}

// An Option changes the client that [New] returns.
type Option func(*Client)

// WithToken sends the token of a member or a key, which a site with `api_keys_admin` requires.
// [New] refuses to send it unencrypted to another machine.
func WithToken(token string) Option { return func(c *Client) { c.token = token } }

// WithTransport replaces the HTTP transport, for other root certificates or a proxy.
func WithTransport(t http.RoundTripper) Option { return func(c *Client) { c.http.Transport = t } }

// New returns a client for a site, "https://keys.example.com", or for Caddy's admin endpoint,
// "http://localhost:2019" or "unix//run/caddy/admin.sock". It does not connect.
func New(address string, options ...Option) (*Client, error) {
	c := new(Client)
	// The API never redirects. Following a redirect could send a body to another server.
	c.http.CheckRedirect = func(*http.Request, []*http.Request) error {
		return http.ErrUseLastResponse
	}
	for _, o := range options {
		o(c)
	}
	if socket, ok := strings.CutPrefix(address, "unix/"); ok {
		// The admin endpoint accepts this host over a socket. Like caddy.AdminAPIRequest, the
		// client sends no origin.
		c.base = "http://127.0.0.1"
		if c.http.Transport == nil {
			dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, "unix", socket)
			}
			c.http.Transport = &http.Transport{DialContext: dial}
		}
		return c, nil
	}

	u, err := url.Parse(address)
	switch {
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "":
		// The error does not repeat the address, which may contain a password.
		return nil, errors.New("the server's address must be a URL such as https://keys.example.com")
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return nil, errors.New("the server's address must consist of scheme, host and path")
	case c.token != "" && u.Scheme == "http" && !isLoopback(u.Hostname()):
		return nil, fmt.Errorf("a token is not sent to %s unencrypted: use https", u.Host)
	}
	c.base = strings.TrimRight(u.String(), "/")
	if c.token == "" {
		c.origin = u.Scheme + "://" + u.Host
		if c.http.Transport == nil {
			c.http.Transport = &http.Transport{} // no proxy for the admin endpoint
		}
	}
	return c, nil
}

func isLoopback(host string) bool {
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.IsLoopback() || host == "localhost"
}
