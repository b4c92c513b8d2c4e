package command

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/admin/client"
)

func (c *cli) auditCommand() *cobra.Command {
	return group(&cobra.Command{
		Use:   "audit",
		Short: "Lists, verifies and exports the audit log",
		Long: `
Every change of a key, namespace, role, plan or member adds a row to the audit
log: who changed it, when, from which address, and its state before and after.
Each row has a hash over itself and the row before it, with which 'audit verify'
finds rows that were changed, removed or reordered.`,
	}, c.listAuditCommand(), c.verifyAuditCommand(), c.exportAuditCommand())
}

func (c *cli) listAuditCommand() *cobra.Command {
	var f client.AuditFilter
	var from, to string
	var limit int
	cmd := &cobra.Command{
		Use:   "list",
		Short: "Lists changes, newest first",
		Long: `
Lists changes, newest first. --json includes the state of the objects before and
after. Without --limit all changes are listed; with it, --json has next_cursor,
which --cursor continues from.`,
		Example: `  caddy apikeys audit list --from 24h
  caddy apikeys audit list --object 4fYQ0hTz81Lk --json | jq '.items[] | {at, before, after}'
  caddy apikeys audit list --action member.edit --from 2026-01-01T00:00:00Z`,
		Args: noArguments,
	}
	flags := cmd.Flags()
	flags.StringVar(&f.Namespace, "namespace", "", "Only changes that touch this `NAMESPACE`")
	flags.StringVar(&f.Actor, "actor", "", "Only changes by the member or key with this `ID`")
	flags.StringVar(&f.Action, "action", "", "Only this `ACTION`, such as key.mint or role.edit")
	flags.StringVar(&f.Object, "object", "", "Only changes of the object with this `ID`")
	flags.StringVar(&from, "from", "",
		"Only since this `TIME`: 2026-01-01 or 2026-01-01T00:00:00Z, or 24h or 90d ago")
	flags.StringVar(&to, "to", "", "Only before this `TIME`")
	flags.StringVar(&f.Cursor, "cursor", "",
		"Continue from this `CURSOR` of an earlier list")
	limitFlag(cmd, &limit)
	cmd.RunE = c.run(func(ctx context.Context, _ []string) (err error) {
		now := time.Now()
		if f.From, err = parsePast("from", from, now); err != nil {
			return err
		}
		if f.To, err = parsePast("to", to, now); err != nil {
			return err
		}
		server, err := c.connect(ctx)
		if err != nil {
			return err
		}
		return listPages(c, f.Cursor, limit, "SEQ\tAT\tWHO\tFROM\tACTION\tOBJECT\tNAMESPACES",
			func(cursor string, size int) (api.AuditRows, error) {
				f.Cursor, f.Limit = cursor, size
				ctx, cancel := context.WithTimeout(ctx, callTimeout)
				defer cancel()
				return server.ListAudit(ctx, f)
			},
			func(r api.AuditRow) []string {
				return []string{strconv.FormatInt(r.Seq, 10), timeText(r.At), r.Actor, r.Address,
					r.Action, r.Object, strings.Join(r.Namespaces, ", ")}
			})
	})
	return cmd
}

// parsePast parses a time, or a duration before now. It returns the zero time for an empty word.
func parsePast(flag, word string, now time.Time) (time.Time, error) {
	if word == "" {
		return time.Time{}, nil
	}
	at, ok := parseTime(word, now, -1)
	if !ok || strings.HasPrefix(word, "-") {
		return time.Time{}, fmt.Errorf("--%s %q must be a time such as 2026-01-01T00:00:00Z or "+
			"2026-01-01, or a duration before now such as 24h or 90d", flag, word)
	}
	return at, nil
}

func (c *cli) verifyAuditCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "verify",
		Short: "Verifies that nobody has changed the audit log",
		Long: `
Recomputes the hash of every row. Exit status 0 means that no row was changed,
removed or reordered. With status 1, standard error names the row.

Rows removed from the end leave no trace: keep the number of rows and the last
hash elsewhere, and compare them.`,
		Example: `  caddy apikeys audit verify
  caddy apikeys audit verify --json | jq -r .last`,
		Args: noArguments,
		RunE: c.run(func(ctx context.Context, _ []string) error {
			server, err := c.connect(ctx)
			if err != nil {
				return err
			}
			v, err := server.VerifyAudit(ctx)
			if err != nil {
				return err
			}
			if c.json {
				err = c.writeJSON(v)
			} else {
				table := c.columns()
				row(table, "Verified rows", strconv.FormatInt(v.Rows, 10))
				row(table, "Last hash", v.Last)
				err = table.Flush()
			}
			if err == nil && !v.Intact {
				return fmt.Errorf("the audit log has been changed: %s", v.Cause)
			}
			return err
		}),
	}
}

func (c *cli) exportAuditCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "export",
		Short: "Writes the whole audit log to standard output, oldest first",
		Long: `
Writes the whole audit log, one JSON document per line, oldest first. Its hashes
reveal later changes of the rows in the database.`,
		Example: `  caddy apikeys audit export > audit.ndjson`,
		Args:    noArguments,
		RunE: c.run(func(ctx context.Context, _ []string) error {
			server, err := c.connect(ctx)
			if err != nil {
				return err
			}
			return server.ExportAudit(ctx, c.out)
		}),
	}
}
