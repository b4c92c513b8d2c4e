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
		cli: c, one: "key", argument: "ID", example: "4fYQ0hTz81Lk", id: keyID,
		said: func(k api.Key) string {
			return fmt.Sprintf("key %s (%s) in namespace %s", k.ID,
				k.Name, k.Namespace)
		},
		header: "ID\tNAME\tNAMESPACE\tACCESS\tSTATUS\tEXPIRES\tLAST USED",
		cells: func(k api.Key) []string {
			return []string{k.ID, k.Name, k.Namespace, k.Access, k.Status,
				momentOr(k.ExpiresAt, "never"), momentOr(k.LastUsedAt, "never")}
		},
		rows: keyRows,
		made: func(done api.KeyChanged) (api.Key, api.Propagation) {
			return done.Key,
				done.Propagation
		},
		find: (*client.Client).FindKey, edit: (*client.Client).EditKey,
		remove: (*client.Client).DeleteKey,
	}}
	return group(&cobra.Command{
		Use:   "keys",
		Short: "Mints, lists, edits, rotates and revokes keys",
	}, c.mintCommand(), k.listCommand(),
		k.showCommand("Shows all that is known of a key, but for its token",
			`  caddy apikeys keys show 4fYQ0hTz81Lk
  caddy apikeys keys show 4fYQ0hTz81Lk --json | jq .version`), k.editCommand(), k.revokeCommand(), c.rotateCommand(), c.importCommand(),
		k.deleteCommand("Takes a revoked key off the list", `
Deletes the record of a key that has been revoked. Its token stays refused for
good: no import can bring it back.`))
}

// patience is how long a call may take besides the wait that was asked for: minting waits for a
// node that is cut off until its lease has run out.
const patience = 2 * time.Minute

// keyID takes a key's id from the command line. A token put there by mistake is not repeated in the
// message.
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

// changeFlags are those of a change that may have to wait for other nodes.
type changeFlags struct {
	version int64
	wait    time.Duration
}

func (f *changeFlags) register(cmd *cobra.Command) {
	cmd.Flags().Int64Var(&f.version, "if-version", 0, "Change only what still has this `VERSION`")
	f.registerWait(cmd)
}

func (f *changeFlags) registerWait(cmd *cobra.Command) {
	cmd.Flags().DurationVar(&f.wait, "wait", 10*time.Second,
		"How long to wait for the change to be in force on every node")
}

func (f *changeFlags) options() []client.ChangeOption {
	options := []client.ChangeOption{client.Wait(f.wait)}
	if f.version != 0 {
		options = append(options, client.IfVersion(f.version))
	}
	return options
}

func (f *changeFlags) context(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, f.wait+patience)
}

func (c *cli) rotateCommand() *cobra.Command {
	var f changeFlags
	var grace string
	cmd := &cobra.Command{
		Use:   "rotate ID",
		Short: "Gives a key a new token",
		Long: `
Gives a key a new token, which is written to standard output, this once. The
present token dies after --grace, an older one at once; the key keeps its id,
name, grants and expiry.

Exit status 3 means that the new token is good and some node may still accept
the old one; standard error says which, and until when.`,
		Example: `  caddy apikeys keys rotate 4fYQ0hTz81Lk --grace 24h > token
  caddy apikeys keys rotate 4fYQ0hTz81Lk`,
		Args: oneID,
	}
	cmd.Flags().StringVar(&grace, "grace", "0s",
		"How `LONG` the present token stays good, at most 30d")
	f.register(cmd)
	cmd.RunE = c.run(func(ctx context.Context, args []string) error {
		id, err := keyID(args)
		if err != nil {
			return err
		}
		overlap, err := caddy.ParseDuration(grace)
		if err != nil {
			return fmt.Errorf("--grace %q is no duration such as 24h or 7d", grace)
		}
		server, err := c.connect(ctx)
		if err != nil {
			return err
		}
		ctx, cancel := f.context(ctx)
		defer cancel()
		done,
			err := server.RotateKey(ctx, id, api.RotateRequest{Grace: overlap.String()},
			f.options()...)
		if err != nil {
			return err
		}
		if err := c.showKeyToken(done, done.Token, done.Key); err != nil {
			return err
		}
		return c.propagated(done.Propagation)
	})
	return cmd
}

func (c *cli) showKeyToken(answer any, token string, k api.Key) error {
	about := fmt.Sprintf("Key %s (%s) in namespace %s, access %s, expires %s.", k.ID, k.Name,
		k.Namespace, k.Access, momentOr(k.ExpiresAt, "never"))
	return c.showToken(answer, token, "key "+k.ID, about, "rotate the key for another")
}
