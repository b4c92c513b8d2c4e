package command

import (
	"context"
	"errors"
	"strings"

	"github.com/spf13/cobra"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/admin/client"
)

func (k *keyObjects) editCommand() *cobra.Command {
	var name, access, owner, plan string
	var permissions, roles, newRoles, grants, addresses, metadata, dropped []string
	var connected, active, inactive, anyIP, noRoles, noPlan bool
	var parts partFlags
	var limits limitFlags
	cmd := &cobra.Command{
		Use:   "edit ID",
		Short: "Changes a key's name, grants, limits, owner, addresses, metadata or status",
		Long: `
Changes what the flags name and keeps the rest. --access, --permission, --role
and --connected replace that part of the key's grant in its own namespace
(--no-roles removes all roles), and --new-role adds to its roles. --grant
replaces all its grants, including that of its own namespace.

The --add and --remove flags add and remove single permissions, roles and
namespaces and keep the rest, so that two people can use them at the same time.
They cannot be combined with other changes.

--rate replaces the whole rate limit, with its burst, and --quota the quota.
--burst, --shadow-rate and --shadow-quota alone change only that part of the
key's own limit; --shadow-rate=false enforces it.
--no-rate and --no-quota remove its own limits, so that those of its plan apply;
unlimited means no limit, whatever the plan says.

The expiry and the namespace never change, and a revoked key cannot be changed.

Exit status 3 means that the change is committed and some nodes may still accept
the key as it was; standard error names them and says until when.`,
		Example: `  caddy apikeys keys edit 4fYQ0hTz81Lk --name "CI, nightly" --access read_only
  caddy apikeys keys edit 4fYQ0hTz81Lk --inactive
  caddy apikeys keys edit 4fYQ0hTz81Lk --grant acme=read,orders:write --grant acme-eu=read
  caddy apikeys keys edit 4fYQ0hTz81Lk --add-permission orders:write --remove-role billing
  caddy apikeys keys edit 4fYQ0hTz81Lk --add-grant acme-us=read --remove-grant acme-eu
  caddy apikeys keys edit 4fYQ0hTz81Lk --plan gold --rate 20/1s --quota unlimited
  caddy apikeys keys edit 4fYQ0hTz81Lk --metadata team=erp --drop-metadata ticket`,
	}
	flags := cmd.Flags()
	flags.StringVar(&name, "name", "", "New `NAME`")
	flags.StringVar(&access, "access", "",
		"`ACCESS` level in its own namespace: read_only or read_write")
	flags.StringSliceVar(&permissions, "permission", nil,
		"`PERMISSION` in its own namespace; may be repeated")
	flags.StringSliceVar(&roles, "role", nil, "`ROLE` in its own namespace; may be repeated")
	flags.BoolVar(&noRoles, "no-roles", false, "Remove all its roles in its own namespace")
	flags.StringArrayVar(&newRoles, "new-role", nil, newRoleUsage)
	flags.StringVar(&plan, "plan", "", "New `PLAN`, of its namespace or a shared one")
	flags.BoolVar(&noPlan, "no-plan", false, "Use the default plan of its namespace")
	limits.register(cmd, "the key")
	limits.registerRemovals(cmd, ": that of its plan applies")
	flags.StringVar(&owner, "owner", "", "New owner, a `MEMBER`")
	flags.BoolVar(&connected, "connected", false,
		"Extend its own grant to its namespace's children; --connected=false undoes this")
	flags.StringArrayVar(&grants, "grant", nil,
		"`NAMESPACE=PERMISSION,@ROLE,...` or NAMESPACE=read_only: replaces all grants; may be "+
			"repeated")
	flags.StringSliceVar(&addresses, "allow-ip", nil,
		"Address or `RANGE` (10.0.0.0/8) that replaces the current ones; may be repeated")
	flags.BoolVar(&anyIP, "any-ip", false, "Allow it from any address")
	flags.StringArrayVar(&metadata, "metadata", nil,
		"`NAME=VALUE` to add or replace; may be repeated")
	flags.StringArrayVar(&dropped, "drop-metadata", nil,
		"`NAME` of metadata to remove; may be repeated")
	flags.BoolVar(&active, "active", false, "Activate an inactive key")
	flags.BoolVar(&inactive, "inactive", false, "Refuse the key until it is activated")
	cmd.MarkFlagsMutuallyExclusive("active", "inactive")
	cmd.MarkFlagsMutuallyExclusive("allow-ip", "any-ip")
	cmd.MarkFlagsMutuallyExclusive("role", "no-roles")
	cmd.MarkFlagsMutuallyExclusive("plan", "no-plan")
	parts.register(cmd)
	read := func(current currentLimits) (patch api.KeyPatch, err error) {
		patch = api.KeyPatch{
			Name: given(cmd, "name", name), Access: given(cmd, "access", access),
			Permissions: given(cmd, "permission", permissions),
			Roles:       given(cmd, "role", roles), Connected: given(cmd, "connected", connected),
			Owner:      given(cmd, "owner", owner),
			Plan:       given(cmd, "plan", plan),
			AllowedIPs: given(cmd, "allow-ip", addresses),
		}
		if anyIP {
			patch.AllowedIPs = api.Some([]string{})
		}
		if noRoles {
			patch.Roles = api.Some([]string{})
		}
		if noPlan {
			patch.Plan = api.Null[string]()
		}
		if active || inactive {
			patch.Active = api.Some(active)
		}
		list, err := parseGrants("grant", grants)
		if err != nil {
			return patch, err
		}
		patch.Grants = given(cmd, "grant", list)
		created, err := parseNewRoles(newRoles)
		if err != nil {
			return patch, err
		}
		patch.NewRoles = given(cmd, "new-role", created)
		if patch.RateLimit, patch.Quota, err = limits.patch(cmd, current); err != nil {
			return patch, err
		}
		patch.Metadata, err = textsPatch("metadata", metadata, dropped)
		return patch, err
	}
	return k.editingBy(cmd, "Changed", func(current currentLimits) (
		editor[api.KeyChanged], error,
	) {
		patch, err := read(current)
		if err != nil {
			return nil, err
		}
		edit, err := parts.edit()
		if err != nil {
			return nil, err
		}
		switch whole := patch != (api.KeyPatch{}); {
		case whole && parts.given():
			return nil, errors.New("--add and --remove flags cannot be combined with other " +
				"changes: use two edits")
		case whole:
			return func(server *client.Client, ctx context.Context, id string,
				options ...client.ChangeOption) (done api.KeyChanged, err error) {
				if patch.Owner.Value != nil {
					if *patch.Owner.Value, err = ownerNamed(ctx, server, owner); err != nil {
						return done, err
					}
				}
				return k.edit(server, ctx, id, patch, options...)
			}, nil
		case parts.given():
			return func(server *client.Client, ctx context.Context, id string,
				options ...client.ChangeOption) (api.KeyChanged, error) {
				return server.EditGrants(ctx, id, edit, options...)
			}, nil
		}
		return nil, errNothingToChange
	})
}

// partFlags add and remove parts of a key's grants.
type partFlags struct {
	addPermissions, removePermissions, addRoles, removeRoles, addGrants, removeGrants []string
}

func (f *partFlags) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringSliceVar(&f.addPermissions, "add-permission", nil,
		"`PERMISSION` to add in its own namespace; may be repeated")
	flags.StringSliceVar(&f.removePermissions, "remove-permission", nil,
		"`PERMISSION` to remove there; may be repeated")
	flags.StringSliceVar(&f.addRoles, "add-role", nil, "`ROLE` to add there; may be repeated")
	flags.StringSliceVar(&f.removeRoles, "remove-role", nil,
		"`ROLE` to remove there; may be repeated")
	flags.StringArrayVar(&f.addGrants, "add-grant", nil,
		"`NAMESPACE=PERMISSION,@ROLE,...` to add; may be repeated")
	flags.StringArrayVar(&f.removeGrants, "remove-grant", nil,
		"`NAMESPACE` whose grant to remove, or NAMESPACE=PERMISSION,@ROLE,... to remove a part of "+
			"it; may be repeated")
}

func (f *partFlags) given() bool {
	return len(f.addPermissions)+len(f.removePermissions)+len(f.addRoles)+len(f.removeRoles)+
		len(f.addGrants)+len(f.removeGrants) > 0
}

// edit returns the change that the flags describe. Flags without a namespace apply to the key's
// own namespace.
func (f *partFlags) edit() (e api.GrantEdit, err error) {
	if len(f.addPermissions)+len(f.addRoles) > 0 {
		e.Add = []api.GrantPart{{Permissions: f.addPermissions, Roles: f.addRoles}}
	}
	if len(f.removePermissions)+len(f.removeRoles) > 0 {
		e.Remove = []api.GrantPart{{Permissions: f.removePermissions, Roles: f.removeRoles}}
	}
	add, err := parseGrants("add-grant", f.addGrants)
	if err != nil {
		return e, err
	}
	var parts []string
	for _, word := range f.removeGrants {
		if strings.Contains(word, "=") {
			parts = append(parts, word)
		} else {
			e.RemoveNamespaces = append(e.RemoveNamespaces, word)
		}
	}
	remove, err := parseGrants("remove-grant", parts)
	for _, g := range add {
		e.Add = append(e.Add, api.GrantPart(g))
	}
	for _, g := range remove {
		e.Remove = append(e.Remove, api.GrantPart(g))
	}
	return e, err
}

// textsPatch returns a patch that adds or replaces set and removes dropped.
func textsPatch(
	flag string, set, dropped []string,
) (patch api.Optional[map[string]*string], err error) {
	values, err := parseTexts(flag, set)
	if err != nil || len(values)+len(dropped) == 0 {
		return patch, err
	}
	merged := make(map[string]*string, len(values)+len(dropped))
	for _, name := range dropped {
		merged[name] = nil
	}
	for name, value := range values {
		merged[name] = &value
	}
	return api.Some(merged), nil
}
