package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/spf13/cobra"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

func (c *cli) mintCommand() *cobra.Command {
	var spec api.MintRequest
	var grants, metadata []string
	var expires, remember string
	var inactive bool
	cmd := &cobra.Command{
		Use:   "mint --name NAME",
		Short: "Makes a key and writes its token to standard output",
		Long: `
Makes a key. Its token is the only thing written to standard output, this once
and never again; the key's id, expiry and a warning go to standard error.

--access or --permission say what the key may do in its own namespace, --grant
what it may do in others. A permission is *, read, write, RESOURCE:read,
RESOURCE:write, RESOURCE:OPERATION or RESOURCE:*; --access read_only means
read, --access read_write means read and write.

The expiry can never be changed. Without --expires the key is good until it is
revoked.`,
		Example: `  TOKEN=$(caddy apikeys keys mint --name CI --access read_only)
  caddy apikeys keys mint --name ERP --namespace acme --permission orders:read \
      --permission orders:search --grant acme-eu=read_only --expires 90d
  caddy apikeys keys mint --name cron --access read_write --allow-ip 10.0.0.0/8 \
      --metadata team=erp --json`,
		Args: noArguments,
	}
	flags := cmd.Flags()
	flags.StringVar(&spec.Name, "name", "", "What the key is for, for people: a `NAME`")
	flags.StringVar(&spec.Namespace, "namespace", "", "The key's own `NAMESPACE` (default \"default\")")
	flags.StringVar(&spec.Access, "access", "", "What it may do there: an `ACCESS` level, read_only or read_write")
	flags.StringSliceVar(&spec.Permissions, "permission", nil, "The same as a `PERMISSION`; may be repeated")
	flags.StringArrayVar(&grants, "grant", nil, "What it may do in another namespace, `NAMESPACE=PERMISSION,...` or NAMESPACE=read_only; may be repeated")
	flags.BoolVar(&spec.Connected, "connected", false, "Extend the key's own grant to its namespace's children, present and future")
	flags.StringVar(&expires, "expires", "", "`WHEN` it expires: 2027-01-01T00:00:00Z, or from now on 720h, 90d")
	flags.StringSliceVar(&spec.AllowedIPs, "allow-ip", nil, "An address or `RANGE` (10.0.0.0/8) it may be used from; may be repeated (default any)")
	flags.StringArrayVar(&metadata, "metadata", nil, "`NAME=VALUE` to keep with the key; may be repeated")
	flags.BoolVar(&inactive, "inactive", false, "Make it inactive: it is refused until it is made active")
	flags.StringVar(&remember, "idempotency-key", "", "Any `WORD` of yours: a repeat with it within 24 hours makes no second key")
	cmd.RunE = c.run(func(ctx context.Context, _ []string) (err error) {
		switch {
		case spec.Name == "":
			return errors.New("the key needs a name: give --name")
		case spec.Access == "" && len(spec.Permissions) == 0 && len(grants) == 0:
			return errors.New("the key may do nothing: give --access, --permission or --grant")
		}
		if spec.Grants, err = parseGrants(grants); err != nil {
			return err
		}
		if spec.ExpiresAt, err = parseExpiry(expires, time.Now()); err != nil {
			return err
		}
		if spec.Metadata, err = parseMetadata(metadata); err != nil {
			return err
		}
		if inactive {
			spec.Active = new(bool)
		}
		server, err := c.connect(ctx)
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		made, err := server.MintKey(ctx, spec, remember)
		if err != nil {
			return err
		}
		return c.showToken(made, made.Token, made.Key)
	})
	return cmd
}

// parseGrants reads NAMESPACE=PERMISSION,… where the name of an access level may stand for permissions.
func parseGrants(words []string) ([]api.GrantRequest, error) {
	var grants []api.GrantRequest
	for _, word := range words {
		namespace, list, ok := strings.Cut(word, "=")
		if !ok || namespace == "" || list == "" {
			return nil, fmt.Errorf("--grant %q is not NAMESPACE=PERMISSION,PERMISSION", word)
		}
		g := api.GrantRequest{Namespace: namespace}
		if a := keystore.Access(list); a == keystore.ReadOnly || a == keystore.ReadWrite {
			g.Access = list
		} else {
			g.Permissions = strings.Split(list, ",")
		}
		if slices.ContainsFunc(grants, func(other api.GrantRequest) bool { return other.Namespace == namespace }) {
			return nil, fmt.Errorf("--grant names the namespace %q twice: put all its permissions in one", namespace)
		}
		grants = append(grants, g)
	}
	return grants, nil
}

// parseExpiry reads a time, or a duration from now; nil for the empty word.
func parseExpiry(word string, now time.Time) (*time.Time, error) {
	if word == "" {
		return nil, nil
	}
	at, err := time.Parse(time.RFC3339, word)
	if err != nil {
		d, err := caddy.ParseDuration(word)
		if err != nil {
			return nil, fmt.Errorf("--expires %q is neither a time such as 2027-01-01T00:00:00Z nor a duration such as 720h or 90d", word)
		}
		at = now.Add(d).UTC().Truncate(time.Second)
	}
	if !at.After(now) {
		return nil, errors.New("--expires " + word + " is not in the future")
	}
	return &at, nil
}

func parseMetadata(words []string) (map[string]string, error) {
	if len(words) == 0 {
		return nil, nil
	}
	m := make(map[string]string, len(words))
	for _, word := range words {
		name, value, ok := strings.Cut(word, "=")
		if !ok || name == "" {
			return nil, fmt.Errorf("--metadata %q is not NAME=VALUE", word)
		}
		m[name] = value
	}
	return m, nil
}
