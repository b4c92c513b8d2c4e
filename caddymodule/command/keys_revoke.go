package command

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/admin/client"
)

const (
	firstWait = 2 * time.Second        // of the first request, so that who is pending is said soon
	longWait  = 5 * time.Minute        // the longest that REST takes
	pollPause = 100 * time.Millisecond // between two requests
)

func (k *keyObjects) revokeCommand() *cobra.Command {
	var f changeFlags
	var why api.RevokeRequest
	var yes bool
	cmd := &cobra.Command{
		Use:   "revoke ID",
		Short: "Ends a key for good, on every node",
		Long: `
Revokes a key: final, and repeating it is harmless. The requests that it has
running are cut. When the command ends with status 0, no node anywhere accepts
the key any more.

A node that cannot be reached holds this up, at longest until its lease has run
out: which nodes are pending, and until when, goes to standard error. After
--wait the command ends with status 3: the key is revoked, and those nodes
refuse it from the time named on at the latest.`,
		Example: `  caddy apikeys keys revoke 4fYQ0hTz81Lk --reason "left the company"
  caddy apikeys keys revoke 4fYQ0hTz81Lk --yes --wait 1m
  caddy apikeys keys revoke 4fYQ0hTz81Lk --made   # and every key that it made`,
		Args: oneID,
	}
	flags := cmd.Flags()
	flags.StringVar(&why.Reason, "reason", "", "`WHY`, for people; kept with the key")
	flags.BoolVar(&why.Made, "made", false, "Also revoke every key that this one made")
	flags.BoolVarP(&yes, "yes", "y", false, "Do not ask")
	f.register(cmd)
	cmd.RunE = k.run(func(ctx context.Context, args []string) error {
		id, err := keyID(args)
		if err != nil {
			return err
		}
		server, err := k.connect(ctx)
		if err != nil {
			return err
		}
		if err := k.confirm(ctx, yes, "Revoke key %s for good?", id); err != nil {
			return err
		}
		done, err := k.revoke(ctx, server, id, why, f)
		if err != nil {
			return err
		}
		return k.changed(done, "Revoked")
	})
	return cmd
}

// revoke repeats itself until the revoke is in force everywhere or --wait is over, and says who is
// pending meanwhile. After the first, its requests are as long as can be: the server counts a
// silent node's lease from the beginning of each.
func (c *cli) revoke(
	ctx context.Context, server *client.Client, id string, why api.RevokeRequest, f changeFlags,
) (api.KeyChanged, error) {
	deadline := time.Now().Add(f.wait)
	round := f
	round.wait = min(f.wait, firstWait)
	done, err := c.revokeOnce(ctx, server, id, why, round)
	if err != nil {
		return done, err
	}
	round.version = 0 // the revoke itself has changed it
	for said := ""; !done.Propagation.Complete; {
		round.wait = min(time.Until(deadline), longWait)
		if round.wait <= 0 {
			return done, nil
		}
		said = c.sayPending(done.Propagation, said)
		pause(ctx, pollPause) // the server waits; this is for one that does not
		again, err := c.revokeOnce(ctx, server, id, why, round)
		if err != nil {
			c.report(err)
			return done, nil // what is known stands: revoked, and pending
		}
		done = again
	}
	return done, nil
}

func (c *cli) revokeOnce(
	ctx context.Context, server *client.Client, id string, why api.RevokeRequest, f changeFlags,
) (api.KeyChanged, error) {
	ctx, cancel := f.context(ctx)
	defer cancel()
	return server.RevokeKey(ctx, id, why, f.options()...)
}

// sayPending names the nodes that are waited for, unless that is what was said last.
func (c *cli) sayPending(p api.Propagation, said string) string {
	text := "Revoked; waiting for"
	for _, n := range p.Pending {
		text += " node " + n.Node
	}
	if text != said {
		c.say("%s", text)
	}
	return text
}

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}
