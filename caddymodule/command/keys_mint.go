package command

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/spf13/cobra"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

func (c *cli) mintCommand() *cobra.Command {
	var spec api.MintRequest
	var grants, newRoles, metadata []string
	var expires, idempotencyKey string
	var inactive bool
	var limits limitFlags
	cmd := &cobra.Command{
		Use:   "mint --name NAME",
		Short: "Creates a key and writes its token to standard output",
		Long: `
Creates a key. Only its token is written to standard output, and it is not shown
again. The key's id, expiry and a warning go to standard error. Treat the token
like a password: never commit it to version control, and rotate it regularly.

--access, --permission and --role set the key's permissions in its own
namespace, --grant those in others. A permission is *, read, write,
RESOURCE:read, RESOURCE:write, RESOURCE:OPERATION or RESOURCE:*; --access
read_only means read, --access read_write means read and write. In --grant,
@ROLE is a role, and NAMESPACE+ includes the namespace's children, present and
future.

--plan, --rate and --quota limit how many requests the key may send. Its own
limits replace those of its plan. Without --plan it has the default plan of its
namespace, if there is one.

The key's owner is --owner, else its creator or, if a key creates it, that
key's owner. The key never has more permissions than its owner.

The expiry cannot be changed. Without --expires the key is valid until it is
revoked.`,
		Example: `  TOKEN=$(caddy apikeys keys mint --name CI --access read_only)
  caddy apikeys keys mint --name ERP --namespace acme --permission orders:read \
      --permission orders:search --grant acme-eu=read_only --expires 90d
  caddy apikeys keys mint --name billing --namespace acme --role billing \
      --grant acme-eu+=read,@auditor --owner m_0hTz81Lk4fYQ
  caddy apikeys keys mint --name Reports --namespace acme --access read_only \
      --plan gold --quota 5000/day
  caddy apikeys keys mint --name cron --access read_write --allow-ip 10.0.0.0/8 \
      --metadata team=erp --json`,
		Args: noArguments,
	}
	flags := cmd.Flags()
	flags.StringVar(&spec.Name, "name", "", "`NAME` of the key")
	flags.StringVar(&spec.Namespace, "namespace", "",
		"The key's own `NAMESPACE` (default \"default\")")
	flags.StringVar(&spec.Access, "access", "",
		"`ACCESS` level in its own namespace: read_only or read_write")
	flags.StringSliceVar(&spec.Permissions, "permission", nil,
		"`PERMISSION` in its own namespace; may be repeated")
	flags.StringSliceVar(&spec.Roles, "role", nil, "`ROLE` in its own namespace; may be repeated")
	flags.StringArrayVar(&newRoles, "new-role", nil, newRoleUsage)
	flags.StringArrayVar(&grants, "grant", nil,
		"Grant in another namespace, `NAMESPACE=PERMISSION,@ROLE,...` or "+
			"NAMESPACE=read_only; may be repeated")
	flags.BoolVar(&spec.Connected, "connected", false,
		"Extend the key's own grant to its namespace's children, present and future")
	flags.StringVar(&spec.Owner, "owner", "",
		"Owner, a `MEMBER` (default the creator, or the owner of the creating key)")
	flags.StringVar(&spec.Plan, "plan", "", "`PLAN` of its namespace, or a shared one")
	limits.register(cmd, "the key")
	flags.StringVar(&expires, "expires", "", expiryUsage)
	c.tokenOutFlag(cmd)
	flags.StringSliceVar(&spec.AllowedIPs, "allow-ip", nil,
		"Address or `RANGE` (10.0.0.0/8) from which it may be used; may be repeated (default any)")
	flags.StringArrayVar(&metadata, "metadata", nil,
		"Metadata `NAME=VALUE`; may be repeated")
	flags.BoolVar(&inactive, "inactive", false,
		"Create it inactive: it is refused until it is activated")
	flags.StringVar(&idempotencyKey, "idempotency-key", "",
		"Any `TEXT`: repeating the command with it within 24 hours creates no second key")
	cmd.RunE = c.run(func(ctx context.Context, _ []string) (err error) {
		if spec.Name == "" {
			return errors.New("the key needs a name: give --name")
		}
		if spec.NewRoles, err = parseNewRoles(newRoles); err != nil {
			return err
		}
		if spec.Grants, err = parseGrants("grant", grants); err != nil {
			return err
		}
		if spec.ExpiresAt, err = parseExpiry(expires, time.Now()); err != nil {
			return err
		}
		if spec.Metadata, err = parseTexts("metadata", metadata); err != nil {
			return err
		}
		if spec.RateLimit, spec.Quota, err = limits.read(cmd); err != nil {
			return err
		}
		if inactive {
			spec.Active = new(bool)
		}
		server, err := c.connect(ctx)
		if err != nil {
			return err
		}
		if spec.Owner, err = ownerNamed(ctx, server, spec.Owner); err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(ctx, callTimeout)
		defer cancel()
		minted, err := server.MintKey(ctx, spec, idempotencyKey)
		if err != nil {
			return err
		}
		return c.showKeyToken(minted, minted.Token, minted.Key)
	})
	return cmd
}

const newRoleUsage = "Role to create in its own namespace and assign to it, " +
	"`NAME=PERMISSION,...`; may be repeated"

// parseGrants parses NAMESPACE=PERMISSION,…. An access level may replace the permissions, and @NAME
// is a role. A plus after the namespace includes its children. Errors name the flag.
func parseGrants(flag string, words []string) ([]api.GrantRequest, error) {
	var grants []api.GrantRequest
	for _, word := range words {
		namespace, list, ok := strings.Cut(word, "=")
		namespace, connected := strings.CutSuffix(namespace, "+")
		if !ok || namespace == "" || list == "" {
			return nil, fmt.Errorf("--%s %q must be NAMESPACE=PERMISSION,PERMISSION,@ROLE", flag,
				word)
		}
		g := api.GrantRequest{Namespace: namespace, Connected: connected}
		for one := range strings.SplitSeq(list, ",") {
			if role, ok := strings.CutPrefix(one, "@"); ok {
				g.Roles = append(g.Roles, role)
			} else {
				g.Permissions = append(g.Permissions, one)
			}
		}
		if len(g.Permissions) == 1 {
			if a := keystore.Access(g.Permissions[0]); a == keystore.ReadOnly ||
				a == keystore.ReadWrite {
				g.Access, g.Permissions = string(a), nil
			}
		}
		if slices.ContainsFunc(grants,
			func(other api.GrantRequest) bool { return other.Namespace == namespace }) {
			return nil, fmt.Errorf("--%s names the namespace %q twice: put all its permissions in "+
				"one", flag, namespace)
		}
		grants = append(grants, g)
	}
	return grants, nil
}

// parseNewRoles parses NAME=PERMISSION,….
func parseNewRoles(words []string) ([]api.NewRole, error) {
	var roles []api.NewRole
	for _, word := range words {
		name, list, ok := strings.Cut(word, "=")
		if !ok || name == "" || list == "" {
			return nil, fmt.Errorf("--new-role %q must be NAME=PERMISSION,PERMISSION", word)
		}
		roles = append(roles, api.NewRole{Name: name, Permissions: strings.Split(list, ",")})
	}
	return roles, nil
}

const expiryUsage = "Expiry `TIME`: 2027-01-01 or 2027-01-01T00:00:00Z in UTC, or 720h, 90d or 1y " +
	"from now"

// parseExpiry parses a time, or a duration from now. It returns nil for an empty word.
func parseExpiry(word string, now time.Time) (*time.Time, error) {
	if word == "" {
		return nil, nil
	}
	at, ok := parseTime(word, now, 1)
	at = at.UTC().Truncate(time.Second)
	switch {
	case !ok:
		return nil, fmt.Errorf("--expires %q must be a time such as 2027-01-01T00:00:00Z or "+
			"2027-01-01, or a duration such as 720h, 90d or 1y", word)
	case !at.After(now):
		return nil, errors.New("--expires " + word + " must be in the future")
	}
	return &at, nil
}

// parseTime parses a time, a date, which begins at midnight UTC, or a duration such as 24h, 90d or
// 1y from now. With the direction -1, durations lead to the past.
func parseTime(word string, now time.Time, direction int) (time.Time, bool) {
	for _, layout := range []string{time.RFC3339, time.DateOnly} {
		if at, err := time.Parse(layout, word); err == nil {
			return at, true
		}
	}
	if count, ok := strings.CutSuffix(word, "y"); ok {
		if years, err := strconv.Atoi(count); err == nil && years >= 0 && years <= 1000 {
			return now.AddDate(direction*years, 0, 0), true
		}
	}
	d, err := caddy.ParseDuration(word)
	return now.Add(time.Duration(direction) * d), err == nil
}

func parseTexts(flag string, words []string) (map[string]string, error) {
	if len(words) == 0 {
		return nil, nil
	}
	m := make(map[string]string, len(words))
	for _, word := range words {
		name, value, ok := strings.Cut(word, "=")
		if !ok || name == "" {
			return nil, fmt.Errorf("--%s %q must be NAME=VALUE", flag, word)
		}
		m[name] = value
	}
	return m, nil
}
