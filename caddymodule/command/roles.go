package command

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/admin/client"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

type roleObjects struct {
	objects[api.Role, api.RolePatch, api.RoleChanged]
}

func (c *cli) rolesCommand() *cobra.Command {
	r := &roleObjects{objects[api.Role, api.RolePatch, api.RoleChanged]{
		cli: c, noun: "role", argument: "NAMESPACE/NAME", example: "acme/billing", id: roleID,
		describe: func(r api.Role) string { return shareableText("role", r.Namespace, r.Name) },
		header:   "NAMESPACE\tNAME\tPERMISSIONS\tCREATED",
		cells: func(r api.Role) []string {
			return []string{r.Namespace, r.Name, strings.Join(r.Permissions, ", "),
				timeOr(r.CreatedAt, "built in")}
		},
		rows: func(r api.Role) [][2]string {
			rows := [][2]string{{"Name", r.Name}, {"Namespace", r.Namespace}}
			if r.Description != "" {
				rows = append(rows, [2]string{"Description", r.Description})
			}
			return append(rows, [2]string{"Permissions", strings.Join(r.Permissions, ", ")},
				[2]string{"Created", timeOr(r.CreatedAt, "built in")},
				[2]string{"Version", strconv.FormatInt(r.Version, 10)})
		},
		changes: func(done api.RoleChanged) (api.Role, api.Propagation) {
			return done.Role, done.Propagation
		},
		find:   findByName((*client.Client).FindRole),
		edit:   editByName((*client.Client).EditRole),
		remove: removeByName((*client.Client).DeleteRole),
	}}
	return group(&cobra.Command{
		Use:     "roles",
		Aliases: []string{"role"},
		Short:   "Lists, creates, edits and deletes roles",
		Long: `
A role is a named set of permissions. It belongs to one namespace, in which keys
and members can have it: acme/billing. A name without a namespace, or */NAME, is
a shared role: keys and members can have it in every namespace. Changes of a
role apply to all keys and members that have it.

client-admin, developer and viewer are shared, built in, and meant for members.`,
	}, r.listCommand("Lists roles, newest first and built-in roles last", `  caddy apikeys roles list
  caddy apikeys roles list --json | jq -r '.items[] | select(.namespace == "acme").name'`,
		(*client.Client).ListRoles),
		r.showCommand("Shows a role",
			"  caddy apikeys roles show acme/billing\n  caddy apikeys roles show viewer"),
		r.createCommand(), r.editCommand(),
		r.deleteCommand("Deletes an unused role", `
Deletes a role that no key and no member has and that no namespace requires.
Built-in roles cannot be deleted.`))
}

// roleID returns a role's NAMESPACE/NAME from the command line.
func roleID(args []string) (string, error) { return shareableID("role", args[0]) }

// shareableID returns the NAMESPACE/NAME of a role or plan. Without a namespace it is shared.
func shareableID(noun, word string) (string, error) {
	namespace, name, ok := strings.Cut(word, "/")
	if !ok {
		namespace, name = client.Shared, namespace
	}
	if namespace != client.Shared && !keystore.ValidNamespaceID(namespace) ||
		!keystore.ValidName(name) {
		return "", fmt.Errorf("a %s must be NAMESPACE/NAME, or NAME for a shared one; each is 1 "+
			"to 64 letters, digits, '.', '_', '~' and '-', beginning with a letter or digit", noun)
	}
	return namespace + "/" + name, nil
}

// findByName, editByName and removeByName turn a method of the client, which takes the namespace
// and the name, into a function that takes the id NAMESPACE/NAME.
func findByName[T any](
	find func(server *client.Client, ctx context.Context, namespace, name string) (T, error),
) func(*client.Client, context.Context, string) (T, error) {
	return func(server *client.Client, ctx context.Context, id string) (T, error) {
		namespace, name, _ := strings.Cut(id, "/")
		return find(server, ctx, namespace, name)
	}
}

func editByName[P, C any](
	edit func(server *client.Client, ctx context.Context, namespace, name string, patch P,
		options ...client.ChangeOption) (C, error),
) func(*client.Client, context.Context, string, P, ...client.ChangeOption) (C, error) {
	return func(server *client.Client, ctx context.Context, id string, patch P,
		options ...client.ChangeOption) (C, error) {
		namespace, name, _ := strings.Cut(id, "/")
		return edit(server, ctx, namespace, name, patch, options...)
	}
}

func removeByName[C any](
	remove func(server *client.Client, ctx context.Context, namespace, name string,
		options ...client.ChangeOption) (C, error),
) func(*client.Client, context.Context, string, ...client.ChangeOption) (C, error) {
	return func(server *client.Client, ctx context.Context, id string,
		options ...client.ChangeOption) (C, error) {
		namespace, name, _ := strings.Cut(id, "/")
		return remove(server, ctx, namespace, name, options...)
	}
}

func shareableText(noun, namespace, name string) string {
	if namespace == client.Shared {
		return "shared " + noun + " " + name + " (for all namespaces)"
	}
	return noun + " " + name + " of namespace " + namespace
}

func permissionsFlag(cmd *cobra.Command, list *[]string) {
	cmd.Flags().StringSliceVar(list, "permission", nil, "`PERMISSION` of the role; may be repeated")
}

func descriptionFlag(cmd *cobra.Command, text *string) {
	cmd.Flags().StringVar(text, "description", "", "Description `TEXT`")
}

func (r *roleObjects) createCommand() *cobra.Command {
	var permissions []string
	var description string
	cmd := &cobra.Command{
		Use:   "create NAMESPACE/NAME --permission PERMISSION",
		Short: "Creates a role",
		Example: `  caddy apikeys roles create acme/billing --permission orders:read,invoices:*
  caddy apikeys roles create support --permission read --description "For the help desk"
  caddy apikeys roles create auditor --permission read --permission admin.audit:read`,
		Args: oneID,
	}
	permissionsFlag(cmd, &permissions)
	descriptionFlag(cmd, &description)
	cmd.RunE = r.cli.run(func(ctx context.Context, args []string) error {
		id, err := roleID(args)
		if err != nil {
			return err
		}
		if len(permissions) == 0 {
			return errors.New("the role needs a permission: give --permission")
		}
		namespace, name, _ := strings.Cut(id, "/")
		spec := api.RoleRequest{Namespace: namespace, Name: name, Description: description,
			Permissions: permissions}
		return r.created(ctx, func(server *client.Client, ctx context.Context) (api.Role, error) {
			return server.CreateRole(ctx, spec)
		})
	})
	return cmd
}

func (r *roleObjects) editCommand() *cobra.Command {
	var permissions []string
	var description string
	var noDescription bool
	cmd := &cobra.Command{
		Use:   "edit NAMESPACE/NAME",
		Short: "Changes a role's permissions or description",
		Long: `
Changes what the flags name and keeps the rest. --permission replaces all
permissions of the role, for every key and member that has it. Exit status 0
means that every node has applied the change. Exit status 3 means that the
change is committed and some nodes may not have applied it yet; standard error
names them and says until when.`,
		Example: `  caddy apikeys roles edit acme/billing --permission orders:read
  caddy apikeys roles edit acme/billing --description "Reads invoices"`,
	}
	permissionsFlag(cmd, &permissions)
	descriptionFlag(cmd, &description)
	cmd.Flags().BoolVar(&noDescription, "no-description", false, "Remove the description")
	cmd.MarkFlagsMutuallyExclusive("description", "no-description")
	return r.editing(cmd, "Changed", func(currentLimits) (api.RolePatch, error) {
		patch := api.RolePatch{Permissions: given(cmd, "permission", permissions),
			Description: given(cmd, "description", description)}
		if noDescription {
			patch.Description = api.Null[string]()
		}
		return patch, nil
	})
}
