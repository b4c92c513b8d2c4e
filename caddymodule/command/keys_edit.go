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
	var name, access, owner string
	var permissions, roles, newRoles, grants, addresses, metadata, dropped []string
	var connected, active, inactive, anyIP, noRoles bool
	var parts partFlags
	cmd := &cobra.Command{
		Use:   "edit ID",
		Short: "Changes a key's name, grants, owner, addresses or metadata, or makes it inactive",
		Long: `
Changes what the flags name and leaves the rest. --access, --permission, --role
and --connected replace that part of what the key may do in its own namespace
(--no-roles removes all roles), and --new-role adds to its roles; --grant
replaces all its grants, those of its own namespace too.

The --add and --remove flags add and remove single permissions, roles and
namespaces and leave the rest, so that two people can do so at the same time.
They cannot be combined with the other changes.

The expiry and the namespace never change, and a revoked key takes no change.

Exit status 3 means that the change is made and some node may still accept the
key as it was before; standard error says which, and until when.`,
		Example: `  caddy apikeys keys edit 4fYQ0hTz81Lk --name "CI, nightly" --access read_only
  caddy apikeys keys edit 4fYQ0hTz81Lk --inactive
  caddy apikeys keys edit 4fYQ0hTz81Lk --grant acme=read,orders:write --grant acme-eu=read
  caddy apikeys keys edit 4fYQ0hTz81Lk --add-permission orders:write --remove-role billing
  caddy apikeys keys edit 4fYQ0hTz81Lk --add-grant acme-us=read --remove-grant acme-eu
  caddy apikeys keys edit 4fYQ0hTz81Lk --metadata team=erp --drop-metadata ticket`,
	}
	flags := cmd.Flags()
	flags.StringVar(&name, "name", "", "A new `NAME`")
	flags.StringVar(&access, "access", "",
		"What it may do in its own namespace: an `ACCESS` level, read_only or read_write")
	flags.StringSliceVar(&permissions, "permission", nil,
		"The same as a `PERMISSION`; may be repeated")
	flags.StringSliceVar(&roles, "role", nil, "A `ROLE` it has there; may be repeated")
	flags.BoolVar(&noRoles, "no-roles", false, "Remove all roles that it has there")
	flags.StringArrayVar(&newRoles, "new-role", nil, newRoleUsage)
	flags.StringVar(&owner, "owner", "", "Another `MEMBER` to act for")
	flags.BoolVar(&connected, "connected", false,
		"Extend its own grant to its namespace's children; --connected=false takes that back")
	flags.StringArrayVar(&grants, "grant", nil,
		"`NAMESPACE=PERMISSION,@ROLE,...` or NAMESPACE=read_only: replaces all grants; may be "+
			"repeated")
	flags.StringSliceVar(&addresses, "allow-ip", nil,
		"An address or `RANGE` (10.0.0.0/8), in place of those it has; may be repeated")
	flags.BoolVar(&anyIP, "any-ip", false, "Let it be used from any address")
	flags.StringArrayVar(&metadata, "metadata", nil,
		"`NAME=VALUE` to add or replace; may be repeated")
	flags.StringArrayVar(&dropped, "drop-metadata", nil,
		"`NAME` of metadata to remove; may be repeated")
	flags.BoolVar(&active, "active", false, "Let an inactive key work again")
	flags.BoolVar(&inactive, "inactive", false, "Refuse the key until it is made active again")
	cmd.MarkFlagsMutuallyExclusive("active", "inactive")
	cmd.MarkFlagsMutuallyExclusive("allow-ip", "any-ip")
	cmd.MarkFlagsMutuallyExclusive("role", "no-roles")
	parts.register(cmd)
	read := func() (patch api.KeyPatch, err error) {
		patch = api.KeyPatch{
			Name: given(cmd, "name", name), Access: given(cmd, "access", access),
			Permissions: given(cmd, "permission", permissions),
			Roles:       given(cmd, "role", roles), Connected: given(cmd, "connected", connected),
			Owner:      given(cmd, "owner", owner),
			AllowedIPs: given(cmd, "allow-ip", addresses),
		}
		if anyIP {
			patch.AllowedIPs = api.Some([]string{})
		}
		if noRoles {
			patch.Roles = api.Some([]string{})
		}
		if active || inactive {
			patch.Active = api.Some(active)
		}
		list, err := parseGrants("grant", grants)
		if err != nil {
			return patch, err
		}
		patch.Grants = given(cmd, "grant", list)
		made, err := parseNewRoles(newRoles)
		if err != nil {
			return patch, err
		}
		patch.NewRoles = given(cmd, "new-role", made)
		patch.Metadata, err = textsPatch("metadata", metadata, dropped)
		return patch, err
	}
	return k.editingBy(cmd, "Changed", func() (editor[api.KeyChanged], error) {
		patch, err := read()
		if err != nil {
			return nil, err
		}
		edit, err := parts.edit()
		if err != nil {
			return nil, err
		}
		switch whole := patch != (api.KeyPatch{}); {
		case whole && parts.given():
			return nil,
				errors.New("--add and --remove flags cannot be combined with other changes: make " +
					"two edits")
		case whole:
			return func(server *client.Client, ctx context.Context, id string,
				options ...client.ChangeOption) (api.KeyChanged, error) {
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
		"A `PERMISSION` to add in its own namespace; may be repeated")
	flags.StringSliceVar(&f.removePermissions, "remove-permission", nil,
		"A `PERMISSION` to remove there; may be repeated")
	flags.StringSliceVar(&f.addRoles, "add-role", nil, "A `ROLE` to add there; may be repeated")
	flags.StringSliceVar(&f.removeRoles, "remove-role", nil,
		"A `ROLE` to remove there; may be repeated")
	flags.StringArrayVar(&f.addGrants, "add-grant", nil,
		"`NAMESPACE=PERMISSION,@ROLE,...` to add to what it has there; may be repeated")
	flags.StringArrayVar(&f.removeGrants, "remove-grant", nil,
		"`NAMESPACE` to remove it from, or NAMESPACE=PERMISSION,@ROLE,... to remove these there; "+
			"may be repeated")
}

func (f *partFlags) given() bool {
	return len(f.addPermissions)+len(f.removePermissions)+len(f.addRoles)+len(f.removeRoles)+len(f.addGrants)+len(f.removeGrants) > 0
}

// edit reads the flags. What has no namespace is in the key's own.
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

// textsPatch merges set into what is there, and removes dropped.
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
