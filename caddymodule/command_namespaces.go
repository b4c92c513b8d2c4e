package caddymodule

import (
	"context"
	"errors"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

func (c *cli) namespacesCommand() *cobra.Command {
	return group(&cobra.Command{
		Use:     "namespaces",
		Aliases: []string{"namespace"},
		Short:   "Lists, creates, edits and deletes namespaces",
		Long: `
A namespace is what a key is good for: a tenant, an account, a workspace. The
namespace "default" is there from the start; any other must be created before
keys can be made in it and before requests to it are let in.`,
	}, c.listNamespacesCommand(), c.showNamespaceCommand(), c.createNamespaceCommand(), c.editNamespaceCommand(), c.deleteNamespaceCommand())
}

// namespaceID takes a namespace's id from the command line.
func namespaceID(args []string) (string, error) {
	if !keystore.ValidNamespaceID(args[0]) {
		return "", errors.New("a namespace's id is a letter or digit and at most 63 more of these, '.', '_', '~' and '-'; home is reserved")
	}
	return args[0], nil
}

func (c *cli) listNamespacesCommand() *cobra.Command {
	var limit int
	cmd := &cobra.Command{
		Use:   "list",
		Short: "Lists namespaces, newest first",
		Example: `  caddy apikeys namespaces list
  caddy apikeys namespaces list --json | jq -r '.items[].id'`,
		Args: noArguments,
	}
	limitFlag(cmd, &limit)
	cmd.RunE = c.run(func(ctx context.Context, _ []string) error {
		server, err := c.connect(ctx)
		if err != nil {
			return err
		}
		return list(c, "", limit, "ID\tKIND\tNAME\tEDIT POLICY\tCREATED",
			func(cursor string, size int) ([]api.Namespace, *string, error) {
				ctx, cancel := context.WithTimeout(ctx, patience)
				defer cancel()
				page, err := server.ListNamespaces(ctx, cursor, size)
				return page.Items, page.NextCursor, err
			},
			func(n api.Namespace) []string {
				return []string{n.ID, n.Kind, n.Name, n.EditPolicy, moment(n.CreatedAt)}
			})
	})
	return cmd
}

func (c *cli) showNamespaceCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "show ID",
		Short:   "Shows a namespace",
		Example: `  caddy apikeys namespaces show acme`,
		Args:    oneID,
		RunE: c.run(func(ctx context.Context, args []string) error {
			id, err := namespaceID(args)
			if err != nil {
				return err
			}
			server, err := c.connect(ctx)
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(ctx, patience)
			defer cancel()
			n, err := server.FindNamespace(ctx, id)
			if err != nil {
				return err
			}
			return c.showNamespace(n)
		}),
	}
}

func (c *cli) showNamespace(n api.Namespace) error {
	if c.json {
		return c.writeJSON(n)
	}
	table := c.columns()
	row(table, "Id", n.ID)
	row(table, "Kind", n.Kind)
	row(table, "Name", n.Name)
	row(table, "Edit policy", n.EditPolicy)
	row(table, "Created", moment(n.CreatedAt))
	row(table, "Version", strconv.FormatInt(n.Version, 10))
	return table.Flush()
}

const editPolicyUsage = "`POLICY`: free, or grow_only: no edit may take anything from its keys"

func (c *cli) createNamespaceCommand() *cobra.Command {
	var spec api.NamespaceRequest
	cmd := &cobra.Command{
		Use:   "create ID",
		Short: "Creates a namespace",
		Long: `
Creates a namespace. Its id stands in requests and in keys and never changes;
nor does its kind, a word of yours for what it stands for.`,
		Example: `  caddy apikeys namespaces create acme --kind account --name "Acme Inc."`,
		Args:    oneID,
	}
	flags := cmd.Flags()
	flags.StringVar(&spec.Kind, "kind", "", "`WHAT` it stands for: account, workspace, …")
	flags.StringVar(&spec.Name, "name", "", "Its `NAME`, for people")
	flags.StringVar(&spec.EditPolicy, "edit-policy", "", editPolicyUsage)
	cmd.RunE = c.run(func(ctx context.Context, args []string) (err error) {
		if spec.ID, err = namespaceID(args); err != nil {
			return err
		}
		server, err := c.connect(ctx)
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		n, err := server.CreateNamespace(ctx, spec)
		if err != nil {
			return err
		}
		if c.json {
			return c.writeJSON(n)
		}
		c.say("Created namespace %s.", n.ID)
		return nil
	})
	return cmd
}

func (c *cli) editNamespaceCommand() *cobra.Command {
	var f changeFlags
	var name, policy string
	cmd := &cobra.Command{
		Use:   "edit ID",
		Short: "Changes a namespace's name or edit policy",
		Example: `  caddy apikeys namespaces edit acme --name "Acme Corporation"
  caddy apikeys namespaces edit acme --edit-policy grow_only --if-version 3`,
		Args: oneID,
	}
	flags := cmd.Flags()
	flags.StringVar(&name, "name", "", "A new `NAME`")
	flags.StringVar(&policy, "edit-policy", "", editPolicyUsage)
	f.register(cmd)
	cmd.RunE = c.run(func(ctx context.Context, args []string) error {
		id, err := namespaceID(args)
		if err != nil {
			return err
		}
		var patch api.NamespacePatch
		if flags.Changed("name") {
			patch.Name = api.Some(name)
		}
		if flags.Changed("edit-policy") {
			patch.EditPolicy = api.Some(policy)
		}
		if patch == (api.NamespacePatch{}) {
			return errors.New("nothing to change: give --name or --edit-policy")
		}
		server, err := c.connect(ctx)
		if err != nil {
			return err
		}
		ctx, cancel := f.context(ctx)
		defer cancel()
		done, err := server.EditNamespace(ctx, id, patch, f.options()...)
		if err != nil {
			return err
		}
		return c.changedNamespace(done, "Changed")
	})
	return cmd
}

func (c *cli) deleteNamespaceCommand() *cobra.Command {
	var f changeFlags
	var yes bool
	cmd := &cobra.Command{
		Use:   "delete ID",
		Short: "Deletes an empty namespace",
		Long: `
Deletes a namespace that no key lives in and no grant names. The namespace
"default" stays.`,
		Example: `  caddy apikeys namespaces delete acme --yes`,
		Args:    oneID,
	}
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "Do not ask")
	f.register(cmd)
	cmd.RunE = c.run(func(ctx context.Context, args []string) error {
		id, err := namespaceID(args)
		if err != nil {
			return err
		}
		server, err := c.connect(ctx)
		if err != nil {
			return err
		}
		if err := c.confirm(ctx, yes, "Delete namespace %s?", id); err != nil {
			return err
		}
		ctx, cancel := f.context(ctx)
		defer cancel()
		done, err := server.DeleteNamespace(ctx, id, f.options()...)
		if err != nil {
			return err
		}
		return c.changedNamespace(done, "Deleted")
	})
	return cmd
}

// changedNamespace ends a command that changed a namespace.
func (c *cli) changedNamespace(done api.NamespaceChanged, verb string) error {
	if c.json {
		if err := c.writeJSON(done); err != nil {
			return err
		}
	} else {
		c.say("%s namespace %s.", verb, done.Namespace.ID)
	}
	return c.propagated(done.Propagation)
}
