package command

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"golang.org/x/term"

	"github.com/caddy-apikeys/caddy-apikeys/admin/client"
	"github.com/caddy-apikeys/caddy-apikeys/caddymodule/redact"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// settle completes the flags with the environment and the configuration file. A flag that names a
// server wins over both, and the environment over the file.
func (c *cli) settle() error {
	switch c.output {
	case "", outputTable, outputWide, outputID:
		if c.json && c.output != "" {
			return errors.New("give --json or --output, not both")
		}
	case outputJSON:
		c.json = true
	default:
		return errors.New("--output must be table, wide, json or id")
	}
	if c.noServer {
		return nil
	}
	if c.server == "" && c.address == "" && c.config == "" && c.adapter == "" && c.context == "" {
		c.server = os.Getenv("APIKEYS_SERVER")
	}
	if c.server == "" && c.address == "" && c.config == "" && c.adapter == "" {
		if err := c.useContext(); err != nil {
			return err
		}
	} else if c.context != "" {
		return errors.New("--context names a server: give no other flag that does")
	}
	if c.server != "" && c.tokenFile == "" {
		c.tokenFile = os.Getenv("APIKEYS_TOKEN_FILE")
	}
	return nil
}

// Values of --output.
const (
	outputTable = "table"
	outputWide  = "wide"
	outputJSON  = "json"
	outputID    = "id"
)

// connect returns a client for the endpoint that the flags name. With --server and without
// --token-file it reads the token from the first line of standard input.
func (c *cli) connect(ctx context.Context) (*client.Client, error) {
	endpoint, err := c.endpoint()
	switch {
	case err != nil:
		return nil, err
	case c.server == "":
		return client.New(endpoint)
	}
	token, err := c.readToken(ctx, c.tokenFile, "Token for "+c.server)
	if err != nil {
		return nil, err
	}
	return client.New(endpoint, client.WithToken(token))
}

// endpoint returns the address that the flags name, as [client.New] accepts it.
func (c *cli) endpoint() (string, error) {
	if c.server != "" {
		if c.address != "" || c.config != "" || c.adapter != "" {
			return "", errors.New("--server replaces --address, --config and --adapter: give only " +
				"one kind")
		}
		c.where = c.server
		_, err := client.New(c.server)
		return c.server, err
	}
	address, err := c.adminAddress()
	if err != nil {
		return "", err
	}
	if redact.Argument(address) != address {
		return "", errors.New("the admin endpoint's address must be host:port or unix//path, " +
			"without scheme, user or password")
	}
	c.where = "Caddy's admin endpoint at " + address
	parsed, err := caddy.ParseNetworkAddress(address)
	switch {
	case err != nil:
		return "", fmt.Errorf("the admin endpoint's address %q: %w", address, err)
	case parsed.IsUnixNetwork():
		path, _, _ := strings.Cut(parsed.Host, "|") // the socket's permissions follow
		return "unix/" + path, nil
	case parsed.IsFdNetwork() || parsed.PortRangeSize() != 1:
		return "", fmt.Errorf("the admin endpoint's address %q cannot be connected to: "+
			"give --address", address)
	}
	return "http://" + parsed.JoinHostPort(0), nil
}

// adminAddress finds the admin endpoint as `caddy reload` does, without its log lines.
func (c *cli) adminAddress() (string, error) {
	if path, ok := strings.CutPrefix(c.address, "unix:/"); ok {
		return "unix//" + path, nil
	}
	if c.address != "" {
		return c.address, nil
	}
	file, err := c.configFile()
	if err != nil {
		return "", err
	}
	admin, err := file.admin()
	if err != nil {
		return "", fmt.Errorf("%w; or give --address", err)
	}
	if admin.Disabled {
		return "", errors.New("the configuration disables Caddy's admin endpoint: give --server " +
			"with the URL of a site that has api_keys_admin")
	}
	if admin.Listen == "" {
		return caddy.DefaultAdminListen, nil // from $CADDY_ADMIN, if that is set
	}
	address, err := caddy.NewReplacer().ReplaceOrErr(admin.Listen, true, true)
	if err != nil {
		return "", fmt.Errorf("the admin endpoint's address in the configuration: %w; give "+
			"--address", err)
	}
	return address, nil
}

// maxToken bounds the line of a token, in bytes. It is more than the longest derived token, and short
// enough to detect the wrong file.
const maxToken = 2 * keystore.MaxDerivedLen

// readToken reads a token from the first line of file or, if file is empty, of standard input. On a
// terminal it prompts and does not echo.
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
		return "", fmt.Errorf("the first line of %s is empty: it must be a token", from)
	}
	if len(line) >= maxToken || strings.ContainsFunc(token,
		func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		return "", fmt.Errorf("the first line of %s is not a token", from)
	}
	return token, nil
}

// readHidden prompts for a line that the terminal does not echo.
func (c *cli) readHidden(ctx context.Context, fd int, prompt string) (string, error) {
	shown, err := term.GetState(fd)
	if err != nil {
		return "", err
	}
	fmt.Fprint(c.err, prompt, ": ")
	defer fmt.Fprintln(c.err)
	line, err := interruptible(ctx, func() (string, error) {
		b, err := term.ReadPassword(fd)
		return string(b), err
	})
	if ctx.Err() != nil {
		_ = term.Restore(fd, shown) // ReadPassword would do it but is still waiting
	}
	return line, err
}

// interruptible calls read and returns its result, or an error if ctx ends first, as it does on
// Ctrl-C. A read that is still waiting is abandoned.
func interruptible(ctx context.Context, read func() (string, error)) (string, error) {
	type result struct {
		line string
		err  error
	}
	results := make(chan result, 1)
	go func() {
		line, err := read()
		results <- result{line, err}
	}()
	select {
	case r := <-results:
		return r.line, r.err
	case <-ctx.Done():
		return "", errors.New("interrupted: nothing was changed")
	}
}

// terminal returns the descriptor of a stream and reports whether it is a terminal.
func terminal(stream any) (fd int, ok bool) {
	f, ok := stream.(*os.File)
	if !ok {
		return 0, false
	}
	fd = int(f.Fd())
	return fd, term.IsTerminal(fd)
}
