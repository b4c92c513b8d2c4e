package command

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/admin/client"
)

const (
	// firstWait is the longest wait of the first request. It is short, so that pending nodes are
	// reported soon.
	firstWait = 2 * time.Second
	// longWait is the longest wait that the REST API accepts.
	longWait = 5 * time.Minute
	// pollPause is the pause between two requests, in case the server does not wait.
	pollPause = 100 * time.Millisecond
)

func (k *keyObjects) revokeCommand() *cobra.Command {
	var f changeFlags
	var why api.RevokeRequest
	var yes bool
	cmd := &cobra.Command{
		Use:   "revoke ID...",
		Short: "Revokes a key permanently, on every node",
		Long: `
Revokes keys permanently and ends their running requests. Repeating the command
is harmless. Exit status 0 means that no node accepts the keys any more.

The ID - stands for the key of a token on standard input, which nobody else
sees. Use it for a token that has leaked, even one that was rotated since.

An unreachable node delays the revoke, at most until its lease expires. After
--wait the command exits with status 3: the key is revoked, but some nodes may
still accept it; standard error names them and says until when.`,
		Example: `  caddy apikeys keys revoke 4fYQ0hTz81Lk --reason "left the company"
  caddy apikeys keys revoke 4fYQ0hTz81Lk --yes --wait 1m
  caddy apikeys keys revoke "CI, nightly" 7wNF --yes
  caddy apikeys keys revoke - --yes --reason "leaked" < token
  caddy apikeys keys revoke 4fYQ0hTz81Lk --made   # and every key that it created`,
		Args: someIDs,
	}
	flags := cmd.Flags()
	flags.StringVar(&why.Reason, "reason", "", "`TEXT` to store with the key")
	flags.BoolVar(&why.Made, "made", false, "Also revoke every key that this one created")
	flags.BoolVarP(&yes, "yes", "y", false, "Do not ask for confirmation")
	f.register(cmd)
	cmd.RunE = k.cli.run(func(ctx context.Context, args []string) error {
		server, ids, err := k.chosen(ctx, args)
		if err != nil {
			return err
		}
		if err := k.confirmed(ctx, server, yes, "Revoke %s permanently?", ids); err != nil {
			return err
		}
		return k.changeEach(ids, "Revoked", func(id string) (api.KeyChanged, error) {
			return k.cli.revoke(ctx, server, id, why, f)
		})
	})
	return cmd
}

// revoke repeats the request until every node has applied it or --wait has passed. Meanwhile it
// reports the pending nodes. Requests after the first have the longest possible wait, because the
// server may count a silent node's lease from the start of each request.
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
	round.version = 0 // the revoke has changed it
	for reported := ""; !done.Propagation.Complete; {
		round.wait = min(time.Until(deadline), longWait)
		if round.wait <= 0 {
			return done, nil
		}
		reported = c.sayPending(done.Propagation, reported)
		pause(ctx, pollPause)
		again, err := c.revokeOnce(ctx, server, id, why, round)
		if err != nil {
			c.report(err)
			return done, nil // the last answer remains true: revoked, with pending nodes
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

// sayPending reports the pending nodes, unless the report would be the same as the last one. It
// returns the report.
func (c *cli) sayPending(p api.Propagation, last string) string {
	text := "Revoked; waiting for"
	for _, n := range p.Pending {
		text += " node " + n.Node
	}
	if text != last {
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
