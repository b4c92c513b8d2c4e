package command

import (
	"context"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
)

func (c *cli) nodesCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "nodes",
		Short: "Lists the nodes: the Caddy processes on the database",
		Long: `
Lists the Caddy processes of the deployment, oldest first. The state of a node is

  active    healthy
  silent    not seen for the length of its lease: it was stopped, has crashed
            or cannot reach the database. Another node removes it soon.
  fencing   being removed. If it is still running, it must join again before
            it accepts a key. Otherwise its row is deleted once its lease has
            certainly expired.

BEHIND is the number of changes that a node has not applied yet, LEASE how long
a revoke may have to wait for it. The node that answers is marked with *.`,
		Example: `  caddy apikeys nodes
  caddy apikeys nodes --json | jq -r '.items[] | select(.state != "active").address'`,
		Args: noArguments,
		RunE: c.run(func(ctx context.Context, _ []string) error {
			server, err := c.connect(ctx)
			if err != nil {
				return err
			}
			return listPages(c, "", 0, "NODE\tSTATE\tREVISION\tBEHIND\tLEASE\tJOINED\tLAST SEEN",
				func(string, int) (api.Nodes, error) {
					ctx, cancel := context.WithTimeout(ctx, callTimeout)
					defer cancel()
					return server.ListNodes(ctx)
				},
				func(n api.Node) []string {
					name := n.Address
					if n.Self {
						name += " *"
					}
					return []string{
						name, n.State, strconv.FormatInt(n.Revision, 10),
						strconv.FormatInt(n.Behind, 10),
						(time.Duration(n.LeaseMS) * time.Millisecond).String(), timeText(n.JoinedAt),
						timeText(n.HeardAt),
					}
				})
		}),
	}
}
