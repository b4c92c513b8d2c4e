package command

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/admin/client"
)

// objects has the commands of one kind of object. T is an object of the REST API, P a patch of it,
// and C the answer to a change.
type objects[T any, P comparable, C any] struct {
	cli      *cli   // not embedded: each kind would get a copy of each of its methods
	noun     string // "key"
	argument string // placeholder of an id in the help
	example  string // an id

	// id returns the id from the command line. Its error does not repeat it: it may be a token.
	id       func(args []string) (string, error)
	naming   *naming[T]     // finds ids by other words; nil: only id does
	tokens   bool           // whether `-` is a token on standard input
	describe func(T) string // the object in a sentence: `namespace acme`
	header   string         // of the list
	cells    func(T) []string
	limits   func(T) string      // the column that --limits adds to the list; nil: no such flag
	rows     func(T) [][2]string // names and values that show prints
	// rowsFrom is like rows, and reads other objects; nil: rows.
	rowsFrom func(context.Context, *client.Client, T) [][2]string
	// limitsOf returns the object's own limits and its version; nil: the kind has none.
	limitsOf func(T) (rate *api.RateLimit, quota *api.Quota, version int64)
	changes  func(C) (T, api.Propagation) // the object after a change, and its propagation

	find   func(*client.Client, context.Context, string) (T, error)
	edit   func(*client.Client, context.Context, string, P, ...client.ChangeOption) (C, error)
	remove func(*client.Client, context.Context, string, ...client.ChangeOption) (C, error)

	showLimits bool // --limits
}

// listCommand returns a command that lists objects without a filter.
func (o *objects[T, P, C]) listCommand(
	short, examples string,
	list func(*client.Client, context.Context, string, int) (api.Page[T], error),
) *cobra.Command {
	var limit int
	cmd := &cobra.Command{Use: "list", Short: short, Example: examples, Args: noArguments}
	limitFlag(cmd, &limit)
	if o.limits != nil {
		o.limitsFlag(cmd)
	}
	cmd.RunE = o.cli.run(func(ctx context.Context, _ []string) error {
		return o.listed(ctx, "", limit, list)
	})
	return cmd
}

func (o *objects[T, P, C]) limitsFlag(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&o.showLimits, "limits", false, "Add a column with their own plan and limits")
}

// listed writes the list, page by page.
func (o *objects[T, P, C]) listed(
	ctx context.Context, cursor string, limit int,
	list func(*client.Client, context.Context, string, int) (api.Page[T], error),
) error {
	server, err := o.cli.connect(ctx)
	if err != nil {
		return err
	}
	header, cells := o.header, o.cells
	if o.showLimits {
		header += "\tLIMITS"
		cells = func(t T) []string { return append(o.cells(t), o.limits(t)) }
	}
	return listPages(o.cli, cursor, limit, header,
		func(cursor string, size int) (api.Page[T], error) {
			ctx, cancel := context.WithTimeout(ctx, callTimeout)
			defer cancel()
			return list(server, ctx, cursor, size)
		}, cells)
}

func (o *objects[T, P, C]) showCommand(short, examples string) *cobra.Command {
	return &cobra.Command{
		Use: "show " + o.argument + "...", Short: short, Args: someIDs,
		Example: examples,
		RunE: o.cli.run(func(ctx context.Context, args []string) error {
			server, ids, err := o.chosen(ctx, args)
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(ctx, callTimeout)
			defer cancel()
			var found []T
			for i, id := range ids {
				t, err := o.find(server, ctx, id)
				if err != nil {
					return argument(args, i, err)
				}
				found = append(found, t)
			}
			switch {
			case o.cli.output == outputID:
				return writeIDs(o.cli, found)
			case o.cli.json && len(found) == 1:
				return o.cli.writeJSON(found[0])
			case o.cli.json:
				return o.cli.writeJSON(map[string][]T{"items": found})
			}
			for i, t := range found {
				if i > 0 {
					fmt.Fprintln(o.cli.out)
				}
				if err := o.shown(ctx, server, t); err != nil {
					return err
				}
			}
			return nil
		}),
	}
}

// shown writes the names and values of an object.
func (o *objects[T, P, C]) shown(ctx context.Context, server *client.Client, t T) error {
	rows := o.rows
	if o.rowsFrom != nil {
		rows = func(t T) [][2]string { return o.rowsFrom(ctx, server, t) }
	}
	table := o.cli.columns()
	for _, r := range rows(t) {
		row(table, r[0], r[1])
	}
	return table.Flush()
}

// created creates an object and reports it.
func (o *objects[T, P, C]) created(
	ctx context.Context, create func(*client.Client, context.Context) (T, error),
) error {
	server, err := o.cli.connect(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	t, err := create(server, ctx)
	if err != nil {
		return err
	}
	switch {
	case o.cli.json:
		return o.cli.writeJSON(t)
	case o.cli.output == outputID:
		return writeIDs(o.cli, []T{t})
	}
	o.cli.say("Created %s.", o.describe(t))
	return nil
}

var errNothingToChange = errors.New("nothing to change: see --help for the flags")

// An editor changes the object with an id.
type editor[C any] func(*client.Client, context.Context, string, ...client.ChangeOption) (C, error)

// currentLimits returns the own limits of the object that a command edits. The edit is then refused
// if the object changes meanwhile.
type currentLimits func() (*api.RateLimit, *api.Quota, error)

// editing makes cmd apply the patch that read builds from the flags.
func (o *objects[T, P, C]) editing(
	cmd *cobra.Command, verb string, read func(currentLimits) (P, error),
) *cobra.Command {
	return o.editingBy(cmd, verb, func(current currentLimits) (editor[C], error) {
		patch, err := read(current)
		var none P
		if err == nil && patch == none {
			err = errNothingToChange
		}
		return func(server *client.Client, ctx context.Context, id string,
			options ...client.ChangeOption) (C, error) {
			return o.edit(server, ctx, id, patch, options...)
		}, err
	})
}

// editingBy makes cmd run the editor that read builds from the flags.
func (o *objects[T, P, C]) editingBy(
	cmd *cobra.Command, verb string, read func(currentLimits) (editor[C], error),
) *cobra.Command {
	var f changeFlags
	f.register(cmd)
	cmd.Args = oneID
	cmd.RunE = o.cli.run(func(ctx context.Context, args []string) error {
		for _, word := range args {
			if err := o.check(word); err != nil {
				return err
			}
		}
		var server *client.Client
		var ids []string
		edit, err := read(func() (rate *api.RateLimit, quota *api.Quota, err error) {
			if server, ids, err = o.chosen(ctx, args); err != nil {
				return nil, nil, err
			}
			ctx, cancel := context.WithTimeout(ctx, callTimeout)
			defer cancel()
			t, err := o.find(server, ctx, ids[0])
			if err != nil {
				return nil, nil, err
			}
			rate, quota, version := o.limitsOf(t)
			f.version = cmp.Or(f.version, version)
			return rate, quota, nil
		})
		if err != nil {
			return err
		}
		if server == nil {
			if server, ids, err = o.chosen(ctx, args); err != nil {
				return err
			}
		}
		return o.changeEach(ids, verb, func(id string) (C, error) {
			ctx, cancel := f.context(ctx)
			defer cancel()
			return edit(server, ctx, id, f.options()...)
		})
	})
	return cmd
}

func (o *objects[T, P, C]) deleteCommand(short, long string) *cobra.Command {
	var f changeFlags
	var yes bool
	cmd := &cobra.Command{
		Use: "delete " + o.argument + "...", Short: short, Long: long, Args: someIDs,
		Example: fmt.Sprintf("  caddy apikeys %ss delete %s --yes", o.noun, o.example),
	}
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "Do not ask for confirmation")
	f.register(cmd)
	cmd.RunE = o.cli.run(func(ctx context.Context, args []string) error {
		server, ids, err := o.chosen(ctx, args)
		if err != nil {
			return err
		}
		if err := o.confirmed(ctx, server, yes, "Delete %s?", ids); err != nil {
			return err
		}
		return o.changeEach(ids, "Deleted", func(id string) (C, error) {
			ctx, cancel := f.context(ctx)
			defer cancel()
			return o.remove(server, ctx, id, f.options()...)
		})
	})
	return cmd
}

// changed reports the result of a change.
func (o *objects[T, P, C]) changed(done C, verb string) error {
	t, p := o.changes(done)
	if o.cli.json {
		if err := o.cli.writeJSON(done); err != nil {
			return err
		}
	} else {
		o.cli.say("%s %s.", verb, o.describe(t))
	}
	if o.cli.output == outputID {
		if err := writeIDs(o.cli, []T{t}); err != nil {
			return err
		}
	}
	return o.cli.propagated(p)
}

// showToken writes the answer with --json, or else only the token: to the file of --out or to
// standard output. Without --json, standard error gets the text in about. If writing the token
// fails, the error names its owner and the remedy.
func (c *cli) showToken(answer any, token, owner, about, remedy string) error {
	var err error
	switch {
	case c.json:
		err = c.writeJSON(answer)
	case c.tokenOut != "":
		c.say("%s", about)
		var f *os.File
		if f, err = openNew(c.tokenOut); err == nil {
			_, err = fmt.Fprintln(f, token)
			info, statErr := f.Stat()
			err = errors.Join(err, f.Close())
			if err != nil && statErr == nil && info.Mode().IsRegular() {
				_ = os.Remove(c.tokenOut) // the remedy writes another token to it
			}
		}
		if err == nil {
			c.say("The token is in %s and is not shown again. Keep it like a password.", c.tokenOut)
		}
	default:
		c.say("%s", about)
		c.say("The token is not shown again. Keep it like a password.")
		_, err = fmt.Fprintln(c.out, token)
	}
	if err != nil {
		return fmt.Errorf("writing the token of %s, which is lost: %w; %s", owner, err, remedy)
	}
	return nil
}

// tokenOutFlag adds --out to a command that creates a token.
func (c *cli) tokenOutFlag(cmd *cobra.Command) {
	cmd.Flags().StringVar(&c.tokenOut, "out", "",
		"Write the token to this new `FILE`, which only its owner can read, not to standard output")
	cmd.PreRunE = func(*cobra.Command, []string) error {
		switch {
		case c.tokenOut == "" && c.output == outputID:
			return errors.New("--output id does not show the token: give --out FILE for it, or " +
				"--json for both")
		case c.tokenOut == "":
			return nil
		case c.json || c.output == outputJSON:
			return errors.New("give --out or --json, not both")
		}
		// Now, because a token that cannot be written is lost.
		info, err := os.Stat(c.tokenOut)
		switch {
		case err == nil && info.IsDir():
			return fmt.Errorf("--out: %s is a directory", c.tokenOut)
		case err == nil && !info.Mode().IsRegular():
			return nil // a device or pipe
		}
		probe, err := openNew(c.tokenOut)
		if err != nil {
			return fmt.Errorf("--out: %w", err)
		}
		probe.Close()
		return os.Remove(c.tokenOut)
	}
}

// openNew creates a file that only its owner can read. It does not replace a file, which may have
// the only copy of another token. It opens a device or pipe as it is.
func openNew(path string) (*os.File, error) {
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		return os.OpenFile(path, os.O_WRONLY, 0)
	}
	return os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
}

// given returns a field of a patch, which is set if the flag is.
func given[T any](cmd *cobra.Command, flag string, value T) api.Optional[T] {
	if !cmd.Flags().Changed(flag) {
		return api.Optional[T]{}
	}
	return api.Some(value)
}

func joinedOr(list []string, none string) string {
	if len(list) == 0 {
		return none
	}
	return strings.Join(list, ", ")
}

func textOr(s *string, none string) string {
	if s == nil {
		return none
	}
	return *s
}
