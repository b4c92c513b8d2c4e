package command

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

func (c *cli) verifyCommand() *cobra.Command {
	var q api.VerifyRequest
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Shows how a request with a given token would be answered",
		Long: `
Reads a token and decides as the handler would. With --path, the handlers of the
running configuration determine the namespace and permission that a request with
this method and path needs; --host is required if the handlers of several sites
decide differently. Otherwise --namespace and --permission name them. Without
these flags the outcome only says whether the key is valid. --client-ip checks
the key's addresses too.

The outcome, one word such as ok, unknown, expired or forbidden, goes to
standard output, the rest to standard error. The exit status is 0 if the request
would be accepted, as with ok and public, and 1 otherwise.

The token is read from --token-file, else from the terminal without echo, else
from standard input. With --server, --token-file has the token for the server,
and the token to verify is read from the terminal or standard input.`,
		Example: `  caddy apikeys verify < token
  caddy apikeys verify --method POST --path /v1/orders < token
  caddy apikeys verify --namespace acme --permission orders:write --token-file token`,
		Args: noArguments,
	}
	cmd.Flags().StringVar(&q.Namespace, "namespace", "",
		"`NAMESPACE` that the request accesses (default the key's own)")
	cmd.Flags().StringVar(&q.Permission, "permission", "",
		"`PERMISSION` that the request needs: read, write, orders:read, orders:search "+
			"(default read with --namespace, else none)")
	cmd.Flags().StringVar(&q.Method, "method", "",
		"`METHOD` of the request, with --path (default GET)")
	cmd.Flags().StringVar(&q.Path, "path", "",
		"`PATH` of the request, with its query if it has one")
	cmd.Flags().StringVar(&q.Host, "host", "",
		"`HOST` of the request, with --path")
	cmd.Flags().StringVar(&q.ClientIP, "client-ip", "",
		"`ADDRESS` of the client (default one that the key allows)")
	cmd.RunE = c.run(func(ctx context.Context, _ []string) error {
		file := c.tokenFile
		if c.server != "" {
			if file == "" {
				return errors.New("with --server, --token-file must have the token for the server; " +
					"standard input has the token to verify")
			}
			file = ""
		}
		server, err := c.connect(ctx)
		if err != nil {
			return err
		}
		if q.Token, err = c.readToken(ctx, file, "Token to verify"); err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(ctx, callTimeout)
		defer cancel()
		verdict, err := server.Verify(ctx, q)
		if err != nil {
			return err
		}
		err = c.showVerdict(verdict)
		if advice := memberTokenAdvice(q.Token); advice != "" && !c.json {
			c.say("%s", advice)
		}
		return err
	})
	return cmd
}

// memberTokenAdvice returns what to do with the token of a member, or "" for other tokens.
func memberTokenAdvice(text string) string {
	token, err := keystore.ParseToken(keystore.TrimSecretToken(text))
	if err != nil || token.Prefix() != keystore.MemberPrefix {
		return ""
	}
	return "It has the form of a member's token, which is not an API key. For its owner, see " +
		"`caddy apikeys audit list --json --object " + token.ID() + "`; `caddy apikeys members " +
		"token OWNER` replaces the token."
}

func (c *cli) showVerdict(v api.Verdict) error {
	var err error
	if c.json {
		err = c.writeJSON(v)
	} else {
		_, err = fmt.Fprintln(c.out, printable(v.Outcome))
		switch {
		case v.Outcome == keystore.Public.String():
			c.say("This request needs no key.")
		case v.Key == nil:
		case v.Outcome == keystore.Rotated.String():
			c.say("It was a token of key %s (%s) in namespace %s until a rotation.",
				v.Key.ID, v.Key.Name, v.Key.Namespace)
		default:
			c.say("It is a token of key %s (%s) in namespace %s.", v.Key.ID, v.Key.Name,
				v.Key.Namespace)
		}
		if v.Code != nil {
			c.say("The request would be answered with %d %s.", v.Status, *v.Code)
		}
		if v.Needed != nil && v.Outcome == keystore.Forbidden.String() {
			in := ""
			if v.Namespace != "" {
				in = " in namespace " + v.Namespace
			}
			c.say("Permission %s%s is required.", *v.Needed, in)
		}
	}
	if err == nil && v.Code != nil {
		return errFailed
	}
	return err
}
