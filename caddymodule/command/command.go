// Package command implements `caddy apikeys`, the command line. It calls the REST interface of a
// running Caddy through admin/client. It knows the Caddy modules only through [Modules], which
// doctor needs. Start reading at [Register]; each file has the commands that it is named after.
package command

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
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

If the admin endpoint is off, --server or $APIKEYS_SERVER names a site with the
api_keys_admin handler. Authenticate with the token of a member, or of a key
with admin permissions. The token is read from --token-file or
$APIKEYS_TOKEN_FILE, else from the terminal or standard input. It is sent over
https, or unencrypted to this machine only. 'caddy apikeys contexts' gives
servers a name for --context.

No flag accepts a token: other users of the machine can read command lines.
mint, rotate and members token write only the new token to standard output, so
that it can be piped. Messages go to standard error.

With --json, the response of the REST API is written to standard output as one
JSON document, and an error to standard error as another. --output id writes
only ids. Tables are cut to the width of the terminal; --output wide shows all.

Keys and members are named by their id, by a unique beginning of it of at least
4 characters, or by their name.

Exit status:

    0  done
    1  failed or refused for another reason, or the answer is no
    3  committed, but not yet confirmed by every node
    4  not found
    5  access denied: the token is invalid or lacks a permission, or you may not
       open the socket
    6  no answer: unreachable or busy, or the database is unavailable
    7  conflict: it exists, is in use or has changed`,
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
			flags.StringVar(&c.context, "context", "",
				"`NAME` of a server in the configuration file: see 'caddy apikeys contexts'")
			flags.BoolVar(&c.json, "json", false, "Write the result as JSON")
			flags.StringVarP(&c.output, "output", "o", "",
				"`FORMAT` of the result: table, wide, json or id (default table)")
			group(cmd, c.keysCommand(), c.namespacesCommand(), c.rolesCommand(), c.plansCommand(),
				c.membersCommand(), c.usageCommand(), c.auditCommand(), c.nodesCommand(),
				c.verifyCommand(), c.deriveCommand(), c.scannerRulesCommand(), c.doctorCommand(),
				c.contextsCommand(), c.versionCommand())
			c.prepare(cmd)
			cmd.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
				err = flagError(err)
				if cmd.HasSubCommands() { // the flag may be one of a misspelt subcommand
					err = cmp.Or(unknownCommand(cmd, cmd.Flags().Args()), err)
				}
				return c.failure(cmd, err)
			})
		},
	})
}

// cli is one run of `caddy apikeys`.
type cli struct {
	modules                  Modules
	address, config, adapter string
	server, tokenFile        string
	context                  string // name of a server in the configuration file
	json                     bool
	output                   string // table, wide, json or id; empty: table
	tokenOut                 string // file for the new token; empty: standard output
	noServer                 bool   // the command uses no server

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
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) > 1 { // after `help`
			sub, rest, _ := cmd.Find(args[1:])
			if sub.HasSubCommands() && len(rest) > 0 {
				return unknownCommand(sub, rest)
			}
			cmd = sub
		}
		return cmd.Help()
	}
	cmd.AddCommand(commands...)
	return cmd
}

// mayBeEmpty lets a flag have an empty value; see refuseEmpty.
func mayBeEmpty(flags *pflag.FlagSet, name string) {
	_ = flags.SetAnnotation(name, "empty", nil)
}

// prepare adds to cmd and its subcommands what they all share: the short aliases, values for the
// completion of the shell, errors in JSON, and flags that refuse an empty value. An unset shell
// variable would otherwise select the default or clear a list.
func (c *cli) prepare(cmd *cobra.Command) {
	for _, flags := range []*pflag.FlagSet{cmd.Flags(), cmd.PersistentFlags()} {
		flags.VisitAll(func(f *pflag.Flag) {
			_, may := f.Annotations["empty"]
			if kind := f.Value.Type(); !may && strings.HasPrefix(kind, "string") {
				f.Value, f.DefValue = notEmpty{f.Value}, strings.TrimPrefix(f.DefValue, "[]")
			}
			f.Usage = forManual(f.Usage)
			if values := c.completion(cmd, f.Name); values != nil {
				_ = cmd.RegisterFlagCompletionFunc(f.Name, values)
			}
		})
	}
	cmd.Long = forManual(cmd.Long)
	if alias, ok := aliases[cmd.Name()]; ok {
		cmd.Aliases = append(cmd.Aliases, alias)
	}
	cmd.SuggestFor = synonyms[cmd.Name()]
	if !cmd.HasSubCommands() && cmd.Name() != "import" { // which reads a file
		cmd.ValidArgsFunction = c.arguments(cmd)
	}
	if check := cmd.Args; check != nil {
		cmd.Args = func(cmd *cobra.Command, args []string) error {
			return c.failure(cmd, check(cmd, args))
		}
	}
	before := cmd.PreRunE
	cmd.PreRunE = func(cmd *cobra.Command, args []string) error {
		if before != nil {
			if err := before(cmd, args); err != nil {
				return c.failure(cmd, err)
			}
		}
		return c.failure(cmd, cmd.ValidateFlagGroups()) // which cobra would report as text
	}
	for _, sub := range cmd.Commands() {
		c.prepare(sub)
		// cobra looks for the subcommand before it knows the flags of the subcommand. It would take
		// the word after a flag without a value, as in `keys --yes revoke ID`, for its value.
		sub.Flags().VisitAll(func(f *pflag.Flag) {
			if f.NoOptDefVal == "" || f.Name == "help" || cmd.Flags().Lookup(f.Name) != nil {
				return
			}
			cmd.Flags().AddFlag(&pflag.Flag{Name: f.Name, Shorthand: f.Shorthand, Hidden: true,
				Value: new(ignored), NoOptDefVal: f.NoOptDefVal})
		})
	}
}

// forManual escapes the asterisks of a text for `caddy manpage`, which takes it for Markdown.
func forManual(text string) string {
	if len(os.Args) > 1 && os.Args[1] == "manpage" {
		text = strings.ReplaceAll(text, "*", `\*`)
	}
	return text
}

// aliases are the short names of subcommands, wherever these are.
var aliases = map[string]string{"list": "ls", "delete": "rm", "show": "get", "mint": "create"}

// synonyms are words for subcommands that only get "did you mean".
var synonyms = map[string][]string{"mint": {"add", "new"}, "create": {"add", "new"},
	"delete": {"remove"}, "set": {"add", "create"}}

// ignored is the value of a flag that only tells cobra that the flag has none.
type ignored struct{}

func (*ignored) String() string   { return "" }
func (*ignored) Set(string) error { return nil }
func (*ignored) Type() string     { return "bool" }

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

// unknownCommand refuses arguments, except `help` and what follows it, and lists the subcommands. It
// does not repeat the argument: it may be a token.
func unknownCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 || args[0] == "help" {
		return nil
	}
	if near := suggestions(cmd, args[0]); len(near) > 0 {
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

// suggestions returns the subcommands that a word may have been meant for. Cobra knows misspelt and
// abbreviated names, but neither aliases nor the subcommands of groups.
func suggestions(cmd *cobra.Command, word string) []string {
	near := cmd.SuggestionsFor(word)
	for _, c := range cmd.Commands() {
		if slices.ContainsFunc(c.Aliases, func(a string) bool { return word == a+"s" }) &&
			!slices.Contains(near, c.Name()) {
			near = append(near, c.Name())
		}
	}
	if len(near) > 0 {
		return near
	}
	for _, group := range cmd.Commands() {
		for _, c := range group.Commands() {
			if c.Name() == word || c.HasAlias(word) {
				near = append(near, group.Name()+" "+c.Name())
			}
		}
	}
	return near
}

// oneID requires one argument, the ID of an object.
func oneID(cmd *cobra.Command, args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("give the ID of one %s: %s", strings.TrimSuffix(cmd.Parent().Name(), "s"),
			cmd.UseLine())
	}
	return nil
}

// noArguments refuses arguments. Unlike cobra.NoArgs, it does not repeat them: one may be a token.
func noArguments(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	example := ""
	if cmd.Flags().Lookup("name") != nil {
		example = ", such as --name"
	}
	return errors.New(cmd.CommandPath() + " accepts flags only" + example +
		"; tokens are read from standard input or a file")
}
