package command

import (
	"context"
	"errors"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/admin/client"
)

func (c *cli) importCommand() *cobra.Command {
	var partial, showProgress bool
	cmd := &cobra.Command{
		Use:   "import [FILE]",
		Short: "Imports keys whose tokens another system created",
		Long: `
Imports existing keys from FILE or standard input, so that clients can keep their
tokens. Each key is a JSON object with the fields of a mint request and "token"
(8 to 512 visible ASCII characters) or "sha256" (of the token, 64 hex digits).
The input has one key per line, or all keys in one document {"keys":[…]}:

  {"name":"CI","namespace":"acme","access":"read_only","sha256":"9f86d0…"}
  {"name":"ERP","permissions":["orders:read"],"token":"old-token-of-erp"}
  {"name":"Shop","access":"read_only","sha256":"d4735e…","plan":"gold"}

Either all keys are imported or, if one is refused, none. With --partial, valid
keys are imported in batches and standard error lists the refused lines. The
exit status is 1 if any key was refused. An import may be repeated: keys that
exist are refused.

Without --partial, only root can import more than ten thousand keys at once.`,
		Example: `  caddy apikeys keys import keys.ndjson
  caddy apikeys keys import --partial < export.json`,
		Args: cobra.MaximumNArgs(1),
	}
	cmd.Flags().BoolVar(&partial, "partial", false,
		"Import the valid keys even if others are refused")
	cmd.Flags().BoolVar(&showProgress, "progress", false,
		"Report progress every second, even without a terminal")
	cmd.RunE = c.run(func(ctx context.Context, args []string) error {
		in := c.in
		if len(args) > 0 && args[0] != "-" {
			f, err := os.Open(args[0])
			if err != nil {
				return err
			}
			defer f.Close()
			in = f
		} else if c.server != "" && c.tokenFile == "" {
			return errors.New("standard input cannot have both the keys and the token for " +
				"--server: give --token-file")
		}
		server, err := c.connect(ctx)
		if err != nil {
			return err
		}
		p := c.newProgress(showProgress)
		defer p.end()
		if partial {
			return c.importSome(ctx, server, in, p)
		}
		return c.importAll(ctx, server, in, p)
	})
	return cmd
}

// importAll streams the input in one request, without a time limit.
func (c *cli) importAll(
	ctx context.Context, server *client.Client, in io.Reader, p *progress,
) error {
	input := newImportReader(in)
	done, err := server.ImportKeys(ctx, input.contentType(),
		&sending{Reader: input, progress: p, byLine: !input.document}, false, "")
	p.end()
	if err != nil {
		return err
	}
	return c.imported(done, len(done.Refused))
}

// importSome sends the input in batches and reports refused lines.
func (c *cli) importSome(
	ctx context.Context, server *client.Client, in io.Reader, p *progress,
) error {
	input := newImportReader(in)
	total := api.Imported{Created: []api.Created{}, Refused: []api.Refused{}}
	refused := 0
	for {
		batch, readErr := input.batch()
		if len(batch.lines) > 0 {
			done, err := c.importBatch(ctx, server, batch)
			if err != nil {
				p.say("Imported %d, refused %d, up to line %d.", total.Imported, refused,
					batch.lines[0]-1)
				return err
			}
			total.Imported += done.Imported
			refused += len(done.Refused)
			if c.json {
				total.Created = append(total.Created, done.Created...)
				total.Refused = append(total.Refused, done.Refused...)
			} else {
				for _, r := range done.Refused {
					p.say("line %d: %s", r.Line, r.Detail)
				}
			}
		}
		switch {
		case errors.Is(readErr, io.EOF):
			p.end()
			return c.imported(total, refused)
		case readErr != nil:
			p.say("Imported %d, refused %d, before the error.", total.Imported, refused)
			return readErr
		}
		p.tell(true, "%d lines read, %d imported, %d refused, %d/s …", input.line, total.Imported,
			refused, p.rate(total.Imported+refused))
	}
}

// importBatch sends a batch. The answer has the line numbers of the whole input.
func (c *cli) importBatch(
	ctx context.Context, server *client.Client, b *importBatch,
) (api.Imported, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	done, err := server.ImportKeys(ctx, api.NDJSON, &b.body, true, "")
	for i := range done.Created {
		if key := &done.Created[i]; 0 < key.Line && key.Line <= len(b.lines) {
			key.Line = b.lines[key.Line-1]
		}
	}
	for i := range done.Refused {
		if r := &done.Refused[i]; 0 < r.Line && r.Line <= len(b.lines) {
			r.Line = b.lines[r.Line-1]
		}
	}
	return done, err
}

// imported reports the result of an import. done lists the refused lines only if --json writes
// them.
func (c *cli) imported(done api.Imported, refused int) error {
	if c.json {
		if err := c.writeJSON(done); err != nil {
			return err
		}
	} else {
		c.say("Imported %d, refused %d.", done.Imported, refused)
	}
	if refused > 0 {
		return errFailed
	}
	return nil
}
