package caddymodule

import (
	"context"
	"errors"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/admin/client"
)

func (c *cli) importCommand() *cobra.Command {
	var partial bool
	cmd := &cobra.Command{
		Use:   "import [FILE]",
		Short: "Adds keys whose tokens were made elsewhere",
		Long: `
Adds keys that clients already have, from FILE or standard input, so that they
need not change theirs. Each key is what mint takes, as JSON, with "token" (8 to
512 visible ASCII characters) or "sha256" (of the token, 64 hex digits); one a
line, or all in one document {"keys":[…]}:

  {"name":"CI","namespace":"acme","access":"read_only","sha256":"9f86d0…"}
  {"name":"ERP","permissions":["orders:read"],"token":"old-token-of-erp"}

All keys are added or, when one is refused, none. With --partial those that can
be are added, in batches; what is refused is listed on standard error, line by
line. The exit status is 1 when any was refused. An import may be repeated: what
is there already is refused.`,
		Example: `  caddy apikeys keys import keys.ndjson
  caddy apikeys keys import --partial < export.json`,
		Args: cobra.MaximumNArgs(1),
	}
	cmd.Flags().BoolVar(&partial, "partial", false, "Add those that can be, also when others are refused")
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
			return errors.New("standard input cannot have both the keys and the token for --server: give --token-file")
		}
		server, err := c.connect(ctx)
		if err != nil {
			return err
		}
		if partial {
			return c.importSome(ctx, server, in)
		}
		return c.importAll(ctx, server, in)
	})
	return cmd
}

// importAll sends everything in one request, as it is read. It may take as long as it takes.
func (c *cli) importAll(ctx context.Context, server *client.Client, in io.Reader) error {
	input := newImportReader(in)
	progress := &progressReader{Reader: input, tell: func(n int64) { c.say("sent %.1f MiB …", float64(n)/(1<<20)) }}
	done, err := server.ImportKeys(ctx, input.contentType(), progress, false, "")
	if err != nil {
		return err
	}
	return c.imported(done)
}

// importSome sends batches. The line numbers of refusals become those of the whole input.
func (c *cli) importSome(ctx context.Context, server *client.Client, in io.Reader) error {
	input := newImportReader(in)
	total := api.Imported{Refused: []api.Refused{}}
	said := time.Now()
	for {
		batch, readErr := input.batch()
		if len(batch.lines) > 0 {
			if err := c.importBatch(ctx, server, batch, &total); err != nil {
				c.say("Imported %d, refused %d, up to line %d.", total.Imported, len(total.Refused), batch.lines[0]-1)
				return err
			}
		}
		switch {
		case readErr == io.EOF:
			return c.imported(total)
		case readErr != nil:
			c.say("Imported %d, refused %d, up to what could not be read.", total.Imported, len(total.Refused))
			return readErr
		case time.Since(said) > time.Second:
			said = time.Now()
			c.say("imported %d, refused %d …", total.Imported, len(total.Refused))
		}
	}
}

func (c *cli) importBatch(ctx context.Context, server *client.Client, b *importBatch, total *api.Imported) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	done, err := server.ImportKeys(ctx, api.NDJSON, &b.body, true, "")
	if err != nil {
		return err
	}
	total.Imported += done.Imported
	for _, r := range done.Refused {
		if 0 < r.Line && r.Line <= len(b.lines) {
			r.Line = b.lines[r.Line-1]
		}
		total.Refused = append(total.Refused, r)
		if !c.json {
			c.say("line %d: %s", r.Line, r.Detail)
		}
	}
	return nil
}

// imported says how an import ended.
func (c *cli) imported(done api.Imported) error {
	if c.json {
		if err := c.writeJSON(done); err != nil {
			return err
		}
	} else {
		c.say("Imported %d, refused %d.", done.Imported, len(done.Refused))
	}
	if len(done.Refused) > 0 {
		return errFailed
	}
	return nil
}
