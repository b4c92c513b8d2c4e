// Package client manages API keys, and who manages them, over REST, as `caddy apikeys` does. It
// needs nothing but the standard library and the shapes in
// [github.com/caddy-apikeys/caddy-apikeys/admin/api].
//
// A refusal is an [*Error]. Any other error means that no answer came: a change may or may not have
// been made.
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

// A Client speaks to one server. It is safe for concurrent use. A method takes as long as its
// context allows.
type Client struct {
	base   string // all of a URL that comes before /apikeys/
	origin string // what Caddy's admin endpoint may insist on; empty: not sent
	token  string
	http   http.Client
}

// An Option changes how [New] makes a client.
type Option func(*Client)

// WithToken sends a member's token, or a key's, which a site with `api_keys_admin` needs. [New]
// refuses to send it in clear to another machine.
func WithToken(token string) Option { return func(c *Client) { c.token = token } }

// WithTransport replaces how requests travel: for other roots of trust, or a proxy.
func WithTransport(t http.RoundTripper) Option { return func(c *Client) { c.http.Transport = t } }

// New returns a client for a site, "https://keys.example.com", or for Caddy's admin endpoint,
// "http://localhost:2019" or "unix//run/caddy/admin.sock". It does not connect.
func New(address string, options ...Option) (*Client, error) {
	c := new(Client)
	// The API never redirects, and following a redirect could carry a body to elsewhere.
	c.http.CheckRedirect = func(*http.Request,
		[]*http.Request) error {
		return http.ErrUseLastResponse
	}
	for _, o := range options {
		o(c)
	}
	if socket, ok := strings.CutPrefix(address, "unix/"); ok {
		// The admin endpoint lets in this host over a socket. No origin: caddy.AdminAPIRequest
		// sends none either.
		c.base = "http://127.0.0.1"
		if c.http.Transport == nil {
			c.http.Transport = &http.Transport{DialContext: func(ctx context.Context, _,
				_ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, "unix", socket)
			}}
		}
		return c, nil
	}

	u, err := url.Parse(address)
	switch {
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "":
		// the address may hold a password
		return nil, errors.New("the server's address is not one like https://keys.example.com")
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return nil, errors.New("the server's address has more than scheme, host and path")
	case c.token != "" && u.Scheme == "http" && !isLoopback(u.Hostname()):
		return nil, fmt.Errorf("a token is not sent to %s in clear: use https", u.Host)
	}
	c.base = strings.TrimRight(u.String(), "/")
	if c.token == "" {
		c.origin = u.Scheme + "://" + u.Host
		if c.http.Transport == nil {
			c.http.Transport = &http.Transport{} // no proxy between here and the admin endpoint
		}
	}
	return c, nil
}

func isLoopback(host string) bool {
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.IsLoopback() || host == "localhost"
}
