// Package command implements `caddy apikeys`, the command line. It calls the REST interface of a
// running Caddy through admin/client. It knows the Caddy modules only through [Modules], which
// doctor needs. Start reading at [Register]; each file has the commands that it is named after.
package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// Register adds the command `apikeys` to Caddy. It panics if it is called twice.
func Register(modules Modules) {
	caddycmd.RegisterCommand(caddycmd.Command{
		Name:  "apikeys",
		Short: "Manages the API keys and members of a running Caddy",
		Long: `
Mints, lists, edits, rotates and revokes the keys that the api_key handler
accepts, while Caddy is running.

The command connects to Caddy's admin endpoint. It finds the address as
'caddy reload' does: --address, else the configuration that --config names
or a Caddyfile in the working directory, else $CADDY_ADMIN, else
localhost:2019. Unix sockets work too: --address unix//run/caddy/admin.sock

If the admin endpoint is off, --server names a site with the api_keys_admin
handler. Authenticate with the token of a member, or of a key with admin
permissions. The token is read from --token-file, else from the terminal or
standard input. It is sent over https, or unencrypted to this machine only.

No flag accepts a token: other users of the machine can read command lines.
mint, rotate and members token write only the new token to standard output, so
that it can be piped. Messages go to standard error.

With --json, the response of the REST API is written to standard output as one
JSON document.

Exit status: 0 done, 1 failed or refused, 3 committed, but not yet confirmed by
every node.`,
		CobraFunc: func(cmd *cobra.Command) {
			c := &cli{modules: modules}
			cmd.Use = "apikeys"
			cmd.Example = `  TOKEN=$(caddy apikeys keys mint --name CI --access read_only)
  caddy apikeys keys list --namespace acme
  caddy apikeys keys revoke 4fYQ0hTz81Lk --reason "leaked"
  caddy apikeys doctor`
			flags := cmd.PersistentFlags()
			flags.StringVar(&c.address, "address", "",
				"`ADDRESS` of Caddy's admin endpoint: host:port or unix//path")
			flags.StringVarP(&c.config, "config", "c", "",
				"Configuration `FILE` with the address of the admin endpoint")
			flags.StringVarP(&c.adapter, "adapter", "a", "", "Config `ADAPTER` for --config")
			flags.StringVar(&c.server, "server", "",
				"`URL` of a site with api_keys_admin, instead of the admin endpoint")
			flags.StringVar(&c.tokenFile, "token-file", "",
				"`FILE` with the token for --server, instead of standard input")
			flags.BoolVar(&c.json, "json", false, "Write the result as JSON")
			group(cmd, c.keysCommand(), c.namespacesCommand(), c.rolesCommand(), c.plansCommand(),
				c.membersCommand(), c.usageCommand(), c.auditCommand(), c.nodesCommand(),
				c.verifyCommand(), c.scannerRulesCommand(), c.doctorCommand())
			refuseEmpty(cmd)
			cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return flagError(err) })
		},
	})
}

// cli is one run of `caddy apikeys`.
type cli struct {
	modules                  Modules
	address, config, adapter string
	server, tokenFile        string
	json                     bool

	in       io.Reader
	out, err io.Writer // results, and messages
	where    string    // the endpoint, for messages
}

// group makes cmd a command that only has subcommands. Without Args, cobra would show the help and
// succeed for a misspelt subcommand.
func group(cmd *cobra.Command, commands ...*cobra.Command) *cobra.Command {
	// cobra sets its default only for commands without Args.
	cmd.SuggestionsMinimumDistance = 2
	cmd.Args = unknownCommand
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	cmd.AddCommand(commands...)
	return cmd
}

// mayBeEmpty lets a flag have an empty value; see refuseEmpty.
func mayBeEmpty(flags *pflag.FlagSet, name string) {
	_ = flags.SetAnnotation(name, "empty", nil)
}

// refuseEmpty makes the flags of cmd and of its subcommands refuse an empty value. An unset shell
// variable would otherwise select the default or clear a list.
func refuseEmpty(cmd *cobra.Command) {
	for _, flags := range []*pflag.FlagSet{cmd.Flags(), cmd.PersistentFlags()} {
		flags.VisitAll(func(f *pflag.Flag) {
			_, may := f.Annotations["empty"]
			if kind := f.Value.Type(); !may && strings.HasPrefix(kind, "string") {
				f.Value, f.DefValue = notEmpty{f.Value}, strings.TrimPrefix(f.DefValue, "[]")
			}
		})
	}
	for _, c := range cmd.Commands() {
		refuseEmpty(c)
	}
}

// flagError returns err without the value of the flag: it may be a token.
func flagError(err error) error {
	invalid, ok := errors.AsType[*pflag.InvalidValueError](err)
	if !ok && keystore.ContainsToken(err.Error()) {
		return errors.New("unknown flag; see --help")
	}
	if !ok {
		return err
	}
	flag := invalid.GetFlag()
	if _, ok := flag.Value.(notEmpty); ok {
		return fmt.Errorf("--%s %w", flag.Name, errors.Unwrap(invalid))
	}
	return fmt.Errorf("--%s must be a valid %s", flag.Name, flag.Value.Type())
}

// notEmpty is the value of a flag that refuses empty words, also in a list, and tokens.
type notEmpty struct{ pflag.Value }

func (v notEmpty) Set(s string) error {
	words := []string{s}
	if v.Type() == "stringSlice" {
		words = strings.Split(s, ",")
	}
	for _, word := range words {
		if strings.TrimSpace(word) == "" {
			return errors.New("must not be empty; leave the flag out instead")
		}
	}
	if keystore.ContainsToken(s) {
		return errors.New("must not contain a token; others may have seen it: rotate its key")
	}
	return v.Value.Set(s)
}

// errFailed ends the command with status 1 after the command has reported the failure itself.
var errFailed = errors.New("failed")

// errPending ends the command with status 3: the change is committed, but not every node has
// confirmed it.
var errPending = errors.New("not yet in force on every node")

const exitPending = 3

// run makes f a command's RunE. Errors go to standard error as text, not through Caddy's logger.
func (c *cli) run(
	f func(ctx context.Context, args []string) error,
) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		c.in, c.out, c.err = cmd.InOrStdin(), cmd.OutOrStdout(), cmd.ErrOrStderr()
		cmd.SilenceErrors = true
		ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt)
		defer stop()
		err := f(ctx, args)
		switch {
		case errors.Is(err, errPending):
			// Only this wrapper makes Caddy's main exit with a status other than 1.
			pending := func(caddycmd.Flags) (int, error) { return exitPending, nil }
			return caddycmd.WrapCommandFuncForCobra(pending)(cmd, nil)
		case err != nil && !errors.Is(err, errFailed):
			c.report(err)
		}
		return err
	}
}

// unknownCommand refuses arguments and lists the subcommands. It does not repeat the argument: it
// may be a token.
func unknownCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		return fmt.Errorf("unknown subcommand of %s; did you mean %s?", cmd.CommandPath(),
			strings.Join(near, " or "))
	}
	var names []string
	for _, c := range cmd.Commands() {
		names = append(names, c.Name())
	}
	return fmt.Errorf("unknown subcommand of %s: must be one of %s", cmd.CommandPath(),
		strings.Join(names, ", "))
}

// oneID requires one argument, the ID of an object.
func oneID(cmd *cobra.Command, args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("give the ID of one %s: %s", strings.TrimSuffix(cmd.Parent().Name(), "s"),
			cmd.UseLine())
	}
	return nil
}

// noArguments does not repeat the argument as cobra.NoArgs does: it may be a token.
func noArguments(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return errors.New(cmd.CommandPath() +
			" accepts flags only; tokens are read from standard input or a file")
	}
	return nil
}
