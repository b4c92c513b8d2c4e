package command

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/spf13/cobra"

	"github.com/caddy-apikeys/caddy-apikeys/admin/client"
)

func (c *cli) deriveCommand() *cobra.Command {
	var caveats client.Caveats
	var expires string
	var ranges []string
	cmd := &cobra.Command{
		Use:   "derive --expires TIME",
		Short: "Derives a weaker, short-lived token from a key's token, offline",
		Long: `
Derives a token that has at most the permissions of a key, in fewer namespaces
or from fewer addresses, and expires. It works offline: the key's token is all
that it needs. The derived token stops working when the key does.

The key's token is read from --token-file, else from the terminal without echo,
else from standard input. Only the derived token is written to standard output.

A server refuses a token that expires later than its option 'derive max' allows:
by default, more than 24 hours from now. A permission that the key lacks has no
effect.`,
		Example: `  caddy apikeys derive --expires 15m < key.token
  caddy apikeys derive --expires 15m --permission orders:read --namespace acme \
      --note "nightly job" < key.token`,
		Args: noArguments,
	}
	flags := cmd.Flags()
	flags.StringVar(&expires, "expires", "",
		"Expiry `TIME`: 15m from now, or 2027-01-01T00:00:00Z")
	flags.StringSliceVar(&caveats.Permissions, "permission", nil,
		"`PERMISSION` to keep; may be repeated (default all of the key's)")
	flags.StringSliceVar(&caveats.Namespaces, "namespace", nil,
		"`NAMESPACE` in which the token is valid; may be repeated (default all of the key's)")
	flags.StringSliceVar(&ranges, "allow-ip", nil,
		"Address or `RANGE` (10.0.0.0/8) from which it may be used; may be repeated (default "+
			"those of the key)")
	flags.StringVar(&caveats.Note, "note", "", "`TEXT` for the access log of the server")
	cmd.RunE = c.local(func(ctx context.Context, _ []string) error {
		switch {
		case c.server != "":
			return errors.New("derive works offline: leave out --server")
		case expires == "":
			return errors.New("--expires is required, for example --expires 15m")
		}
		at, err := parseExpiry(expires, time.Now())
		if err != nil {
			return err
		}
		caveats.ExpiresAt = *at
		if caveats.AllowedIPs, err = parseRanges(ranges); err != nil {
			return err
		}
		token, err := c.readToken(ctx, c.tokenFile, "Token of the key")
		if err != nil {
			return err
		}
		derived, err := client.Derive(token, caveats)
		if err != nil {
			return err
		}
		if c.json {
			return c.writeJSON(struct {
				Token     string    `json:"token"`
				ExpiresAt time.Time `json:"expires_at"`
			}{derived, caveats.ExpiresAt})
		}
		_, err = fmt.Fprintln(c.out, derived)
		return err
	})
	return cmd
}

// parseRanges parses addresses and CIDR ranges. It returns nil if there are none.
func parseRanges(words []string) ([]netip.Prefix, error) {
	var list []netip.Prefix
	for _, word := range words {
		p, err := netip.ParsePrefix(word)
		if addr, err2 := netip.ParseAddr(word); err != nil && err2 == nil && addr.Zone() == "" {
			p, err = netip.PrefixFrom(addr, addr.BitLen()), nil
		}
		if err != nil {
			return nil, errors.New("--allow-ip must be an address or a range such as 10.0.0.0/8")
		}
		list = append(list, p)
	}
	return list, nil
}
