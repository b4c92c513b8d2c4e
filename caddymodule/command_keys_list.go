package caddymodule

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/admin/client"
)

// maxPage is the most that REST gives at once.
const maxPage = 1000

func (c *cli) listKeysCommand() *cobra.Command {
	var f client.KeyFilter
	var limit int
	cmd := &cobra.Command{
		Use:   "list",
		Short: "Lists keys, newest first",
		Long: `
Lists keys, newest first, revoked and expired ones too. Without --limit all of
them are listed, page by page; with it, --json has next_cursor to go on from
with --cursor.`,
		Example: `  caddy apikeys keys list
  caddy apikeys keys list --namespace acme --status active
  caddy apikeys keys list --search billing --limit 20
  caddy apikeys keys list --status expired --json | jq -r '.items[].id'`,
		Args: noArguments,
	}
	flags := cmd.Flags()
	flags.StringVar(&f.Namespace, "namespace", "", "Only keys of this `NAMESPACE`")
	flags.StringVar(&f.Status, "status", "", "Only keys of this `STATUS`: active, inactive, expired or revoked")
	flags.StringVar(&f.Owner, "owner", "", "Only keys that act for this `MEMBER`")
	flags.StringVar(&f.CreatedBy, "created-by", "", "Only keys that the member or key of this `ID` made")
	flags.StringVarP(&f.Text, "search", "q", "", "Only keys with this `TEXT` in their name or id")
	flags.StringVar(&f.Cursor, "cursor", "", "Go on from this `CURSOR`, where an earlier list ended")
	limitFlag(cmd, &limit)
	cmd.RunE = c.run(func(ctx context.Context, _ []string) error {
		server, err := c.connect(ctx)
		if err != nil {
			return err
		}
		return list(c, f.Cursor, limit, "ID\tNAME\tNAMESPACE\tACCESS\tSTATUS\tEXPIRES\tLAST USED",
			func(cursor string, size int) ([]api.Key, *string, error) {
				f.Cursor, f.Limit = cursor, size
				ctx, cancel := context.WithTimeout(ctx, patience)
				defer cancel()
				page, err := server.ListKeys(ctx, f)
				return page.Items, page.NextCursor, err
			},
			func(k api.Key) []string {
				return []string{k.ID, k.Name, k.Namespace, k.Access, k.Status, momentOr(k.ExpiresAt, "never"), momentOr(k.LastUsedAt, "never")}
			})
	})
	return cmd
}

// limitFlag adds --limit. Zero, which means all, cannot be given.
func limitFlag(cmd *cobra.Command, limit *int) {
	cmd.Flags().IntVar(limit, "limit", 0, "List at most this `MANY` (default all)")
	cmd.PreRunE = func(cmd *cobra.Command, _ []string) error {
		if *limit < 1 && cmd.Flags().Changed("limit") {
			return fmt.Errorf("--limit %d: give 1 or more, or leave it out for all", *limit)
		}
		return nil
	}
}

// list writes all pages, or the first limit items of them, as they come: a million rows need no memory.
func list[T any](c *cli, cursor string, limit int, header string, page func(cursor string, size int) ([]T, *string, error), cells func(T) []string) error {
	write, end := tableOf(c, header, cells)
	if c.json {
		write, end = documentOf[T](c)
	}
	for listed := 0; ; {
		size := maxPage
		if limit > 0 {
			size = min(size, limit-listed)
		}
		items, next, err := page(cursor, size)
		if err != nil {
			return err
		}
		if err := write(items); err != nil {
			return err
		}
		listed += len(items)
		if next == nil || listed == limit {
			return end(listed, next)
		}
		cursor = *next
	}
}

// tableOf aligns each page by itself.
func tableOf[T any](c *cli, header string, cells func(T) []string) (write func([]T) error, end func(int, *string) error) {
	return func(items []T) error {
			table := c.columns()
			if header != "" && len(items) > 0 {
				fmt.Fprintln(table, header)
				header = ""
			}
			for _, item := range items {
				row(table, cells(item)...)
			}
			return table.Flush()
		}, func(listed int, next *string) error {
			switch {
			case listed == 0:
				c.say("There are none.")
			case next != nil:
				c.say("There are more: --limit is reached.")
			}
			return nil
		}
}

// documentOf writes what REST answers for one page, with the items of all of them.
func documentOf[T any](c *cli) (write func([]T) error, end func(int, *string) error) {
	before := `{"items":[`
	e := json.NewEncoder(c.out)
	e.SetEscapeHTML(false)
	return func(items []T) error {
			for _, item := range items {
				fmt.Fprint(c.out, before)
				before = ","
				if err := e.Encode(item); err != nil {
					return err
				}
			}
			return nil
		}, func(listed int, next *string) error {
			if listed == 0 {
				fmt.Fprint(c.out, before)
			}
			fmt.Fprint(c.out, `],"next_cursor":`)
			if err := e.Encode(next); err != nil {
				return err
			}
			_, err := fmt.Fprintln(c.out, "}")
			return err
		}
}

func (c *cli) showKeyCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "show ID",
		Short: "Shows all that is known of a key, but for its token",
		Example: `  caddy apikeys keys show 4fYQ0hTz81Lk
  caddy apikeys keys show 4fYQ0hTz81Lk --json | jq .version`,
		Args: oneID,
		RunE: c.run(func(ctx context.Context, args []string) error {
			id, err := keyID(args)
			if err != nil {
				return err
			}
			server, err := c.connect(ctx)
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(ctx, patience)
			defer cancel()
			k, err := server.FindKey(ctx, id)
			if err != nil {
				return err
			}
			if c.json {
				return c.writeJSON(k)
			}
			return c.showKey(k)
		}),
	}
}

func (c *cli) showKey(k api.Key) error {
	table := c.columns()
	row(table, "Id", k.ID)
	row(table, "Name", k.Name)
	row(table, "Token", k.Prefix)
	row(table, "Status", k.Status)
	row(table, "Namespace", k.Namespace)
	row(table, "Access", k.Access)
	for _, g := range k.Grants {
		row(table, "Grant", grantText(g))
	}
	row(table, "Owner", k.Owner)
	row(table, "Created", moment(k.CreatedAt)+" by "+k.CreatedBy)
	row(table, "Expires", momentOr(k.ExpiresAt, "never"))
	if k.RevokedAt != nil {
		row(table, "Revoked", moment(*k.RevokedAt)+by(k.RevokedBy))
	}
	if k.RevokeReason != nil && *k.RevokeReason != "" {
		row(table, "Reason", *k.RevokeReason)
	}
	row(table, "Last used", momentOr(k.LastUsedAt, "never"))
	for _, s := range k.Secrets {
		row(table, "Secret", "made "+moment(s.CreatedAt)+", good until "+momentOr(s.ExpiresAt, "the key's end"))
	}
	if len(k.AllowedIPs) > 0 {
		row(table, "Addresses", strings.Join(k.AllowedIPs, ", "))
	}
	for _, name := range slices.Sorted(maps.Keys(k.Metadata)) {
		row(table, "Metadata", name+"="+k.Metadata[name])
	}
	row(table, "Version", strconv.FormatInt(k.Version, 10))
	return table.Flush()
}

func by(who *string) string {
	if who == nil {
		return ""
	}
	return " by " + *who
}

func grantText(g api.Grant) string {
	text := g.Namespace + ": " + strings.Join(g.Permissions, ", ")
	if len(g.Roles) > 0 {
		text += "; roles " + strings.Join(g.Roles, ", ")
	}
	if g.Connected {
		text += "; connected"
	}
	return text
}
