package command

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

// maxPage is the largest page of the REST API.
const maxPage = 1000

func (k *keyObjects) listCommand() *cobra.Command {
	var f client.KeyFilter
	var limit int
	cmd := &cobra.Command{
		Use:   "list",
		Short: "Lists keys",
		Long: `
Lists keys, including revoked and expired ones, newest first unless sorted
otherwise. Without --limit all keys are listed; with it, --json has next_cursor,
which --cursor continues from. Sorting by a field other than created_at is
limited to ten thousand keys.`,
		Example: `  caddy apikeys keys list
  caddy apikeys keys list --namespace acme --status active
  caddy apikeys keys list --metadata team=erp
  caddy apikeys keys list --plan gold --limits
  caddy apikeys keys list --search billing --limit 20
  caddy apikeys keys list --namespace acme --sort last_used_at
  caddy apikeys keys list --namespace acme --limits
  caddy apikeys keys list --expiring 30d --sort expires_at
  caddy apikeys keys list --unused 90d
  caddy apikeys keys list --status expired --json | jq -r '.items[].id'`,
		Args: noArguments,
	}
	flags := cmd.Flags()
	flags.StringVar(&f.Namespace, "namespace", "",
		"Only keys of this `NAMESPACE`, or with a grant for it")
	flags.StringVar(&f.Home, "home", "", "Only keys of this `NAMESPACE`")
	flags.StringVar(&f.Status, "status", "",
		"Only keys with this `STATUS`: active, inactive, expired, revoked, owner_disabled for "+
			"active keys whose owner is disabled, or usable for active keys whose owner is enabled")
	flags.StringVar(&f.Owner, "owner", "", "Only keys owned by this `MEMBER`")
	flags.StringVar(&f.Role, "role", "", "Only keys with this `ROLE` in any namespace")
	flags.StringVar(&f.Plan, "plan", "",
		"Only keys that name this `PLAN`, without those that have it by default")
	flags.StringVar(&f.Expiring, "expiring", "",
		"Only keys that expire within this `DURATION`, such as 30d")
	flags.StringVar(&f.Unused, "unused", "",
		"Only keys not used for this `DURATION`, such as 90d; if never used, since their creation")
	flags.StringVar(&f.CreatedBy, "created-by", "",
		"Only keys created by the member or key with this `ID`")
	flags.StringVarP(&f.Text, "search", "q", "",
		"Only keys with this `TEXT` in their name, id or prefix")
	flags.StringVar(&f.Metadata, "metadata", "", "Only keys with `NAME=VALUE` in their metadata")
	flags.StringVar(&f.Sort, "sort", "",
		"Sort by `FIELD`: created_at, name, expires_at or last_used_at; a leading minus reverses "+
			"the order (default -created_at)")
	flags.StringVar(&f.Cursor, "cursor", "",
		"Continue from this `CURSOR` of an earlier list")
	limitFlag(cmd, &limit)
	k.limitsFlag(cmd)
	cmd.RunE = k.cli.run(func(ctx context.Context, _ []string) error {
		return k.listed(ctx, f.Cursor, limit,
			func(server *client.Client, ctx context.Context, cursor string, size int) (keys api.Keys,
				err error) {
				if f.Owner, err = ownerNamed(ctx, server, f.Owner); err != nil {
					return keys, err
				}
				f.Cursor, f.Limit = cursor, size
				return server.ListKeys(ctx, f)
			})
	})
	return cmd
}

// limitFlag adds --limit. Zero, which means all, is the default and cannot be given.
func limitFlag(cmd *cobra.Command, limit *int) {
	cmd.Flags().IntVar(limit, "limit", 0, "List at most `N` (default all)")
	cmd.PreRunE = func(cmd *cobra.Command, _ []string) error {
		if *limit < 1 && cmd.Flags().Changed("limit") {
			return fmt.Errorf("--limit %d must be at least 1; leave it out to list all", *limit)
		}
		return nil
	}
}

// listPages writes all pages, or their first limit items, as they arrive, so that a million rows
// need no memory.
func listPages[T any](
	c *cli, cursor string, limit int, header string,
	list func(cursor string, size int) (api.Page[T], error), cells func(T) []string,
) error {
	write, end := tableOf(c, header, cells)
	if c.json {
		write, end = documentOf[T](c)
	}
	listed := 0
	var next *string
	pages := client.Pages(cursor, func(cursor string) (api.Page[T], error) {
		size := maxPage
		if limit > 0 {
			size = min(size, limit-listed)
		}
		return list(cursor, size)
	})
	for page, err := range pages {
		if err != nil {
			return err
		}
		if err := write(page.Items); err != nil {
			return err
		}
		listed, next = listed+len(page.Items), page.NextCursor
		if listed == limit {
			break
		}
	}
	return end(listed, next)
}

// tableOf returns functions that write a list as a table, or as ids. Each page is aligned by itself.
func tableOf[T any](
	c *cli, header string, cells func(T) []string,
) (write func([]T) error, end func(int, *string) error) {
	heading := strings.Split(header, "\t")
	return func(items []T) error {
			if c.output == outputID {
				return writeIDs(c, items)
			}
			var rows [][]string
			if heading != nil && len(items) > 0 {
				rows, heading = append(rows, heading), nil
			}
			for _, item := range items {
				rows = append(rows, cells(item))
			}
			return c.writeTable(rows)
		}, func(listed int, next *string) error {
			switch {
			case listed == 0:
				c.say("No results.")
			case next != nil:
				c.say("There are more results: --limit is reached.")
			}
			return nil
		}
}

// documentOf returns functions that write a list as one JSON document, which has the shape of a
// page of the REST API and the items of all pages.
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

func keyRows(ctx context.Context, server *client.Client, k api.Key) [][2]string {
	rows := [][2]string{{"Id", k.ID}, {"Name", k.Name}, {"Token", k.Prefix},
		{"Status", k.EffectiveStatus()}, {"Namespace", k.Namespace}, {"Access", k.Access}}
	add := func(name, value string) { rows = append(rows, [2]string{name, value}) }
	for _, g := range k.Grants {
		add("Grant", grantText(g))
	}
	rows = append(rows, effectiveLimits(ctx, server, k)...)
	add("Owner", k.Owner)
	add("Created", timeText(k.CreatedAt)+" by "+k.CreatedBy)
	add("Expires", timeOr(k.ExpiresAt, "never"))
	if k.RevokedAt != nil {
		add("Revoked", timeText(*k.RevokedAt)+by(k.RevokedBy))
		k.Secrets = nil // none is valid until the expiry any more
	}
	if k.RevokeReason != nil && *k.RevokeReason != "" {
		add("Reason", *k.RevokeReason)
	}
	last := timeOr(k.LastUsedAt, "never")
	if k.LastUsedFrom != nil {
		last += " from " + *k.LastUsedFrom
	}
	add("Last used", last)
	if k.DerivedUsedAt != nil {
		derived := timeText(*k.DerivedUsedAt)
		if k.DerivedNote != nil {
			derived += ", note: " + *k.DerivedNote
		}
		add("Derived use", derived)
	}
	for _, s := range k.Secrets {
		add("Secret", "created "+timeText(s.CreatedAt)+", valid until "+
			timeOr(s.ExpiresAt, "the key expires"))
	}
	if len(k.AllowedIPs) > 0 {
		add("Addresses", strings.Join(k.AllowedIPs, ", "))
	}
	for _, name := range slices.Sorted(maps.Keys(k.Metadata)) {
		add("Metadata", name+"="+k.Metadata[name])
	}
	add("Version", strconv.FormatInt(k.Version, 10))
	return rows
}

func by(who *string) string {
	if who == nil {
		return ""
	}
	return " by " + *who
}

func grantText(g api.Grant) string {
	var parts []string
	if len(g.Permissions) > 0 {
		parts = append(parts, strings.Join(g.Permissions, ", "))
	}
	if len(g.Roles) > 0 {
		parts = append(parts, "roles "+strings.Join(g.Roles, ", "))
	}
	if g.Connected {
		parts = append(parts, "connected")
	}
	return g.Namespace + ": " + strings.Join(parts, "; ")
}
