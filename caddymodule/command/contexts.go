package command

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"
)

// A clientConfig is the configuration file of the command line.
type clientConfig struct {
	Current  string                   `json:"current,omitempty"` // name of a context
	Contexts map[string]clientContext `json:"contexts"`
}

// A clientContext names a server: the fields are the values of the flags with these names.
type clientContext struct {
	Server    string `json:"server,omitempty"`
	TokenFile string `json:"token_file,omitempty"`
	Address   string `json:"address,omitempty"`
}

// clientConfigPath returns the configuration file of the command line.
func clientConfigPath() (string, error) {
	dir, err := os.UserConfigDir()
	return filepath.Join(dir, "caddy-apikeys", "contexts.json"), err
}

// readClientConfig reads the configuration file of the command line. It need not exist.
func readClientConfig() (config clientConfig, err error) {
	path, err := clientConfigPath()
	if err != nil { // there is no home directory, so there are no contexts
		return config, nil //nolint:nilerr // see above
	}
	body, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return config, nil
	}
	if err == nil {
		err = json.Unmarshal(body, &config)
	}
	if err != nil {
		err = fmt.Errorf("reading the contexts in %s: %w", path, err)
	}
	return config, err
}

// write replaces the configuration file.
func (config clientConfig) write() error {
	path, err := clientConfigPath()
	if err != nil {
		return err
	}
	body, err := json.MarshalIndent(config, "", "  ")
	if err == nil {
		err = os.MkdirAll(filepath.Dir(path), 0o700)
	}
	if err == nil {
		err = replaceFile(path, func(f *os.File) error {
			_, err := f.Write(append(body, '\n'))
			return err
		})
	}
	return err
}

// replaceFile writes a file that only its owner can read, and puts it in the place of path if write
// succeeds.
func replaceFile(path string, write func(*os.File) error) error {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // fails after the rename
	err = write(f)
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

var errNoContext = fmt.Errorf("context %w", errNotFound)

// useContext takes the server from --context, from $APIKEYS_CONTEXT or from the current context of
// the configuration file.
func (c *cli) useContext() error {
	name := c.context
	if name == "" {
		name = os.Getenv("APIKEYS_CONTEXT")
	}
	config, err := readClientConfig()
	if err != nil {
		return err
	}
	if name == "" {
		name = config.Current
	}
	if name == "" {
		return nil
	}
	found, ok := config.Contexts[name]
	if !ok {
		return fmt.Errorf("%w: must be one of %s", errNoContext, joinedOr(config.names(), "none yet"))
	}
	c.server, c.address = found.Server, found.Address
	if c.tokenFile == "" {
		c.tokenFile = found.TokenFile
	}
	return nil
}

func (config clientConfig) names() []string { return slices.Sorted(maps.Keys(config.Contexts)) }

func (c *cli) contextsCommand() *cobra.Command {
	return group(&cobra.Command{
		Use:     "contexts",
		Aliases: []string{"context"},
		Short:   "Gives servers a name for --context",
		Long: `
A context is a server with a name. --context or $APIKEYS_CONTEXT selects one,
else the current context is used, which 'contexts use' sets. $APIKEYS_SERVER and
flags such as --server or --address win over $APIKEYS_CONTEXT and the current
context; --context wins over $APIKEYS_SERVER.

Contexts are stored in caddy-apikeys/contexts.json in the user's configuration
directory, which is $XDG_CONFIG_HOME or ~/.config on Linux. The file has the
names of files with tokens, and no token.`,
	}, c.listContextsCommand(), c.setContextCommand(),
		c.editContextsCommand("use", "Makes a context the current one",
			"Context %s is now the current one.",
			func(config *clientConfig, name string) { config.Current = name }),
		c.editContextsCommand("delete", "Deletes a context", "Deleted context %s.",
			func(config *clientConfig, name string) {
				delete(config.Contexts, name)
				if config.Current == name {
					config.Current = ""
				}
			}))
}

func (c *cli) listContextsCommand() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "Lists contexts; the current one is marked with *", Args: noArguments,
		Example: "  caddy apikeys contexts list",
		RunE: c.local(func(context.Context, []string) error {
			config, err := readClientConfig()
			switch {
			case err != nil:
				return err
			case c.json:
				return c.writeJSON(config)
			case len(config.Contexts) == 0:
				c.say("No results.")
				return nil
			}
			write, _ := tableOf(c, "NAME\tSERVER\tTOKEN FILE",
				func(name string) []string {
					found := config.Contexts[name]
					if name == config.Current {
						name += " *"
					}
					return []string{name, found.Server + found.Address, found.TokenFile}
				})
			return write(config.names())
		}),
	}
}

// local is [cli.run] for commands that use no server.
func (c *cli) local(
	f func(ctx context.Context, args []string) error,
) func(*cobra.Command, []string) error {
	run := c.run(f)
	return func(cmd *cobra.Command, args []string) error {
		c.noServer = true
		return run(cmd, args)
	}
}

func oneName(cmd *cobra.Command, args []string) error {
	if len(args) != 1 {
		return errors.New("give the name of one context: " + cmd.UseLine())
	}
	return nil
}

func (c *cli) setContextCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "set NAME",
		Short: "Creates or replaces a context",
		Long: `
Creates or replaces a context with the server that --server or --address names.
The first context becomes the current one.`,
		Example: `  caddy apikeys contexts set prod --server https://keys.example.com --token-file ~/.prod.token
  caddy apikeys contexts set here --address unix//run/caddy/admin.sock`,
		Args: oneName,
		RunE: c.local(func(_ context.Context, args []string) error {
			if (c.server == "") == (c.address == "") || c.config != "" {
				return errors.New("a context needs a server: give --server or --address")
			}
			if c.tokenFile != "" {
				var err error
				if c.tokenFile, err = filepath.Abs(c.tokenFile); err != nil {
					return err
				}
			}
			if _, err := c.endpoint(); err != nil {
				return err
			}
			config, err := readClientConfig()
			if err != nil {
				return err
			}
			if len(config.Contexts) == 0 {
				config = clientConfig{Current: args[0], Contexts: make(map[string]clientContext)}
			}
			config.Contexts[args[0]] = clientContext{Server: c.server, TokenFile: c.tokenFile,
				Address: c.address}
			if err := config.write(); err != nil {
				return err
			}
			c.say("Saved context %s. The current one is %s.", args[0],
				cmp.Or(config.Current, "none"))
			return nil
		}),
	}
}

func (c *cli) editContextsCommand(
	use, short, done string, edit func(config *clientConfig, name string),
) *cobra.Command {
	return &cobra.Command{
		Use: use + " NAME", Short: short, Args: oneName,
		Example: "  caddy apikeys contexts " + use + " prod",
		RunE: c.local(func(_ context.Context, args []string) error {
			config, err := readClientConfig()
			if err != nil {
				return err
			}
			if _, ok := config.Contexts[args[0]]; !ok {
				return fmt.Errorf("%w: must be one of %s", errNoContext,
					joinedOr(config.names(), "none yet"))
			}
			edit(&config, args[0])
			if err := config.write(); err != nil {
				return err
			}
			c.say(done, args[0])
			return nil
		}),
	}
}
