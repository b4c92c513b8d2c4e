package command

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"golang.org/x/term"

	"github.com/caddy-apikeys/caddy-apikeys/admin/client"
	"github.com/caddy-apikeys/caddy-apikeys/caddymodule/redact"
)

// connect returns a client for whatever the flags name. With --server and no --token-file it reads
// the first line of standard input.
func (c *cli) connect(ctx context.Context) (*client.Client, error) {
	if c.server != "" {
		if c.address != "" || c.config != "" || c.adapter != "" {
			return nil, errors.New("--server is given instead of --address, --config and " +
				"--adapter, not beside them")
		}
		if _, err := client.New(c.server); err != nil {
			return nil, err
		}
		c.where = c.server
		token, err := c.readToken(ctx, c.tokenFile, "Token for "+c.server)
		if err != nil {
			return nil, err
		}
		return client.New(c.server, client.WithToken(token))
	}
	address, err := c.adminAddress()
	if err != nil {
		return nil, err
	}
	if redact.Argument(address) != address {
		return nil, errors.New("the admin endpoint's address must be host:port or unix//path, " +
			"without scheme, user and password")
	}
	c.where = "Caddy's admin endpoint at " + address
	parsed, err := caddy.ParseNetworkAddress(address)
	switch {
	case err != nil:
		return nil, fmt.Errorf("the admin endpoint's address %q: %w", address, err)
	case parsed.IsUnixNetwork():
		path, _, _ := strings.Cut(parsed.Host, "|") // after it come the permissions of the socket
		return client.New("unix/" + path)
	case parsed.IsFdNetwork() || parsed.PortRangeSize() != 1:
		return nil, fmt.Errorf("the admin endpoint's address %q is none that can be connected to: "+
			"give --address", address)
	}
	return client.New("http://" + parsed.JoinHostPort(0))
}

// adminAddress finds the admin endpoint as `caddy reload` does, without its log lines.
func (c *cli) adminAddress() (string, error) {
	if path, ok := strings.CutPrefix(c.address, "unix:/"); ok {
		return "unix//" + path, nil
	}
	if c.address != "" {
		return c.address, nil
	}
	config, err := c.loadConfig()
	if err != nil {
		return "", err
	}
	var admin struct {
		Admin caddy.AdminConfig `json:"admin"`
	}
	if config != nil {
		if err := json.Unmarshal(config, &admin); err != nil {
			return "", fmt.Errorf("looking for the admin endpoint in the configuration: %w", err)
		}
	}
	if admin.Admin.Disabled {
		return "", errors.New("the configuration turns Caddy's admin endpoint off: give --server " +
			"with the URL of a site that has api_keys_admin")
	}
	if admin.Admin.Listen == "" {
		return caddy.DefaultAdminListen, nil // from $CADDY_ADMIN, if that is set
	}
	address, err := caddy.NewReplacer().ReplaceOrErr(admin.Admin.Listen, true, true)
	if err != nil {
		return "", fmt.Errorf("the admin endpoint's address in the configuration: %w; give "+
			"--address", err)
	}
	return address, nil
}

// loadConfig returns the configuration that --config names, or the Caddyfile that lies here, as
// JSON; nil without one.
func (c *cli) loadConfig() ([]byte, error) {
	file, adapter := c.config, c.adapter
	if file == "" {
		if adapter != "" {
			return nil, errors.New("--adapter needs --config")
		}
		file = "Caddyfile"
	}
	body, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) && c.config == "" {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the configuration for the admin endpoint's address: %w; "+
			"--address does without", err)
	}
	name := strings.ToLower(filepath.Base(file))
	if adapter == "" && filepath.Ext(name) != ".json" &&
		(strings.HasPrefix(name, "caddyfile") || filepath.Ext(name) == ".caddyfile") {
		adapter = "caddyfile"
	}
	if adapter == "" {
		return body, nil
	}
	a := caddyconfig.GetAdapter(adapter)
	if a == nil {
		return nil, fmt.Errorf("there is no config adapter %q", adapter)
	}
	config, _, err := a.Adapt(body, map[string]any{"filename": file})
	if err != nil {
		return nil, fmt.Errorf("adapting %s for the admin endpoint's address: %w; --address does "+
			"without", file, err)
	}
	return config, nil
}

// maxToken is more than the longest credential, 512 characters, and short enough to notice the
// wrong file.
const maxToken = 4096

// readToken reads one line from file, or without one from standard input; on a terminal it asks,
// and nothing is echoed.
func (c *cli) readToken(ctx context.Context, file, prompt string) (string, error) {
	in, from := c.in, "standard input"
	if file != "" {
		f, err := os.Open(file)
		if err != nil {
			return "", fmt.Errorf("reading the token: %w", err)
		}
		defer f.Close()
		in, from = f, file
	}
	var line string
	if fd, ok := terminal(in); ok {
		var err error
		if line, err = c.readHidden(ctx, fd, prompt); err != nil {
			return "", fmt.Errorf("reading the token from the terminal: %w", err)
		}
	} else {
		var err error
		if line, err = bufio.NewReader(io.LimitReader(in, maxToken)).ReadString('\n'); err != nil &&
			err != io.EOF {
			return "", fmt.Errorf("reading the token from %s: %w", from, err)
		}
	}
	token := strings.TrimSpace(line)
	if token == "" {
		return "", fmt.Errorf("there is no token on the first line of %s", from)
	}
	if len(line) >= maxToken || strings.ContainsFunc(token,
		func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		return "", fmt.Errorf("the first line of %s is no token", from)
	}
	return token, nil
}

// readHidden asks for a line that the terminal does not show.
func (c *cli) readHidden(ctx context.Context, fd int, prompt string) (string, error) {
	shown, err := term.GetState(fd)
	if err != nil {
		return "", err
	}
	fmt.Fprint(c.err, prompt, ": ")
	defer fmt.Fprintln(c.err)
	line, err := typed(ctx, func() (string, error) {
		b, err := term.ReadPassword(fd)
		return string(b), err
	})
	if ctx.Err() != nil {
		_ = term.Restore(fd, shown) // ReadPassword, which would do it, still waits
	}
	return line, err
}

// typed waits for what someone types, or for Ctrl-C.
func typed(ctx context.Context, read func() (string, error)) (string, error) {
	type answer struct {
		line string
		err  error
	}
	answers := make(chan answer, 1)
	go func() {
		line, err := read()
		answers <- answer{line, err}
	}()
	select {
	case a := <-answers:
		return a.line, a.err
	case <-ctx.Done():
		return "", errors.New("interrupted: nothing was changed")
	}
}

// terminal reports whether someone sits at a stream, and its descriptor.
func terminal(stream any) (fd int, ok bool) {
	f, ok := stream.(*os.File)
	if !ok {
		return 0, false
	}
	fd = int(f.Fd())
	return fd, term.IsTerminal(fd)
}
