package command

import (
	"context"
	"errors"
	"fmt"
	"time"
	"unicode"

	"github.com/caddyserver/caddy/v2"
	"github.com/spf13/cobra"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/admin/client"
	"github.com/caddy-apikeys/caddy-apikeys/caddymodule/internal/ascii"
)

type keyObjects struct {
	objects[api.Key, api.KeyPatch, api.KeyChanged]
}

func (c *cli) keysCommand() *cobra.Command {
	k := &keyObjects{objects[api.Key, api.KeyPatch, api.KeyChanged]{
		cli: c, noun: "key", argument: "ID", example: "4fYQ0hTz81Lk", id: keyID,
		naming: keyNaming, tokens: true,
		describe: func(k api.Key) string {
			return fmt.Sprintf("key %s (%s) in namespace %s", k.ID, k.Name, k.Namespace)
		},
		header: "ID\tNAME\tNAMESPACE\tACCESS\tSTATUS\tEXPIRES\tLAST USED",
		cells: func(k api.Key) []string {
			return []string{k.ID, k.Name, k.Namespace, k.Access, k.EffectiveStatus(),
				timeOr(k.ExpiresAt, "never"), timeOr(k.LastUsedAt, "never")}
		},
		limits: func(k api.Key) string {
			return limitsText(k.Plan, k.RateLimit, k.Quota, "default")
		},
		rowsFrom: keyRows,
		limitsOf: func(k api.Key) (*api.RateLimit, *api.Quota, int64) {
			return k.RateLimit, k.Quota, k.Version
		},
		changes: func(done api.KeyChanged) (api.Key, api.Propagation) {
			return done.Key, done.Propagation
		},
		find: (*client.Client).FindKey, edit: (*client.Client).EditKey,
		remove: (*client.Client).DeleteKey,
	}}
	return group(&cobra.Command{
		Use:     "keys",
		Aliases: []string{"key"},
		Short:   "Mints, lists, edits, rotates and revokes keys",
	}, c.mintCommand(), k.listCommand(),
		k.showCommand("Shows a key without its token, and the limits that apply to it",
			`  caddy apikeys keys show 4fYQ0hTz81Lk
  caddy apikeys keys show CI
  caddy apikeys keys show - < token
  caddy apikeys keys show 4fYQ0hTz81Lk --json | jq .version`),
		k.editCommand(), k.revokeCommand(), k.rotateCommand(), c.importCommand(),
		k.deleteCommand("Deletes a revoked key", `
Deletes the record of a revoked key. Its token remains refused permanently: it
cannot be imported again.`))
}

// callTimeout is how long a call may take in addition to --wait. It is long because a call may wait
// for an unreachable node.
const callTimeout = 2 * time.Minute

// keyID returns a key's id from the command line. The error does not repeat the argument: it may be
// a token.
func keyID(args []string) (string, error) {
	id := args[0]
	for _, r := range id {
		if r > unicode.MaxASCII || !ascii.IsAlphanumeric(byte(r)) {
			id = ""
		}
	}
	if len(id) != 12 {
		return "", errors.New("a key's id is 12 letters and digits, as `caddy apikeys keys list` " +
			"shows it; if that was a token, others may have seen it: rotate the key")
	}
	return id, nil
}

// changeFlags are the flags of a change that waits for other nodes.
type changeFlags struct {
	version int64
	wait    time.Duration
}

func (f *changeFlags) register(cmd *cobra.Command) {
	cmd.Flags().Int64Var(&f.version, "if-version", 0,
		"Change it only if it still has this `VERSION`")
	f.registerWait(cmd)
}

func (f *changeFlags) registerWait(cmd *cobra.Command) {
	cmd.Flags().DurationVar(&f.wait, "wait", 10*time.Second,
		"How long to wait until every node has applied the change")
}

func (f *changeFlags) options() []client.ChangeOption {
	options := []client.ChangeOption{client.Wait(f.wait)}
	if f.version != 0 {
		options = append(options, client.IfVersion(f.version))
	}
	return options
}

func (f *changeFlags) context(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, f.wait+callTimeout)
}

func (k *keyObjects) rotateCommand() *cobra.Command {
	var f changeFlags
	var grace string
	cmd := &cobra.Command{
		Use:   "rotate ID",
		Short: "Rotates the token of a key",
		Long: `
Rotates the token of a key. The new token is written to standard output and is
not shown again. The current token stays valid for --grace; an older one is
revoked at once. The key keeps its id, name, grants and expiry.

Exit status 3 means that the new token is valid and some nodes may still accept
the old one; standard error names them and says until when.`,
		Example: `  caddy apikeys keys rotate 4fYQ0hTz81Lk --grace 24h > token
  caddy apikeys keys rotate CI --out ci-new.token`,
		Args: oneID,
	}
	cmd.Flags().StringVar(&grace, "grace", "0s",
		"`DURATION` for which the current token stays valid, at most 30d")
	f.register(cmd)
	k.cli.tokenOutFlag(cmd)
	cmd.RunE = k.cli.run(func(ctx context.Context, args []string) error {
		overlap, err := caddy.ParseDuration(grace)
		if err != nil {
			return fmt.Errorf("--grace %q must be a duration such as 24h or 7d", grace)
		}
		server, ids, err := k.chosen(ctx, args)
		if err != nil {
			return err
		}
		ctx, cancel := f.context(ctx)
		defer cancel()
		done, err := server.RotateKey(ctx, ids[0], api.RotateRequest{Grace: overlap.String()},
			f.options()...)
		if err != nil {
			return err
		}
		if err := k.cli.showKeyToken(done, done.Token, done.Key); err != nil {
			return err
		}
		return k.cli.propagated(done.Propagation)
	})
	return cmd
}

func (c *cli) showKeyToken(answer any, token string, k api.Key) error {
	about := fmt.Sprintf("Key %s (%s) in namespace %s, access %s, expires %s.", k.ID, k.Name,
		k.Namespace, k.Access, timeOr(k.ExpiresAt, "never"))
	err := c.showToken(answer, token, "key "+k.ID, about, "rotate the key to get a new one")
	if err == nil && c.output == outputID {
		err = writeIDs(c, []api.Key{k})
	}
	return err
}
