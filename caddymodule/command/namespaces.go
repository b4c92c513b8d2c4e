package command

import (
	"context"
	"errors"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/admin/client"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

type namespaceObjects struct {
	objects[api.Namespace, api.NamespacePatch, api.NamespaceChanged]
}

func (c *cli) namespacesCommand() *cobra.Command {
	n := &namespaceObjects{objects[api.Namespace, api.NamespacePatch, api.NamespaceChanged]{
		cli: c, one: "namespace", argument: "ID", example: "acme", id: namespaceID,
		said:   func(n api.Namespace) string { return "namespace " + n.ID },
		header: "ID\tKIND\tNAME\tEDIT POLICY\tPARENT\tCREATED",
		cells: func(n api.Namespace) []string {
			return []string{n.ID, n.Kind, n.Name, n.EditPolicy, textOr(n.Parent, ""),
				moment(n.CreatedAt)}
		},
		rows: namespaceRows,
		made: func(done api.NamespaceChanged) (api.Namespace, api.Propagation) {
			return done.Namespace, done.Propagation
		},
		find: (*client.Client).FindNamespace, edit: (*client.Client).EditNamespace,
		remove: (*client.Client).DeleteNamespace,
	}}
	return group(&cobra.Command{
		Use:     "namespaces",
		Aliases: []string{"namespace"},
		Short:   "Lists, creates, edits and deletes namespaces",
		Long: `
A namespace is what a key is good for: a tenant, an account, a workspace. The
namespace "default" is there from the start; any other must be created before
keys can be made in it and before requests to it are let in.`,
	}, n.listCommand("Lists namespaces, newest first", `  caddy apikeys namespaces list
  caddy apikeys namespaces list --json | jq -r '.items[].id'`, (*client.Client).ListNamespaces),
		n.showCommand("Shows a namespace", `  caddy apikeys namespaces show acme`),
		n.createCommand(), n.editCommand(),
		n.deleteCommand("Deletes an empty namespace", `
Deletes a namespace that has no child and no role, that no key lives in and
that no grant names. The namespace "default" stays.`))
}

// namespaceID takes a namespace's id from the command line.
func namespaceID(args []string) (string, error) {
	if !keystore.ValidNamespaceID(args[0]) {
		return "", errors.New("a namespace's id is a letter or digit and at most 63 more of " +
			"these, '.', '_', '~' and '-'; home is reserved")
	}
	return args[0], nil
}

func namespaceRows(n api.Namespace) [][2]string {
	rows := [][2]string{
		{"Id", n.ID}, {"Kind", n.Kind}, {"Parent", textOr(n.Parent, "none")}, {"Name", n.Name},
		{"Edit policy", n.EditPolicy},
		{"Reach", joinedOr(n.Reach, "none")}, {"Key roles", joinedOr(n.KeyRoles, "any")},
		{"Token prefix", textOr(n.TokenPrefix, "the deployment's first")},
		{"Child prefix", textOr(n.ChildPrefix, "none")},
		{"Created", moment(n.CreatedAt)}, {"Version", strconv.FormatInt(n.Version, 10)},
	}
	return rows
}

// A namespaceFlags are what namespaces create and edit have in common.
type namespaceFlags struct {
	name, policy, parent, prefix, childPrefix string
	reach, keyRoles                           []string
}

func (f *namespaceFlags) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.name, "name", "", "Its `NAME`, for people")
	mayBeEmpty(flags, "name")
	flags.StringVar(&f.policy, "edit-policy", "",
		"`POLICY`: free, or grow_only: no edit may take anything from its keys")
	flags.StringVar(&f.parent, "parent", "", "The `NAMESPACE` it lies in")
	flags.StringSliceVar(&f.reach, "reach", nil,
		"A `KIND` of namespaces below it in which what its keys may do here counts too; may be "+
			"repeated")
	flags.StringSliceVar(&f.keyRoles, "key-role", nil,
		"A `ROLE` that its keys have, exactly those given; may be repeated; * alone: at least one")
	flags.StringVar(&f.prefix, "token-prefix", "",
		"The `PREFIX` of its keys' tokens, one that the configuration accepts")
	flags.StringVar(&f.childPrefix, "child-prefix", "",
		"The `PREFIX` that the ids of namespaces below it must begin with")
}

func (n *namespaceObjects) createCommand() *cobra.Command {
	var f namespaceFlags
	var kind string
	cmd := &cobra.Command{
		Use:   "create ID",
		Short: "Creates a namespace",
		Long: `
Creates a namespace. Its id stands in requests and in keys and never changes;
nor does its kind, a word of yours for what it stands for.`,
		Example: `  caddy apikeys namespaces create acme --kind account --name "Acme Inc."
  caddy apikeys namespaces create acme-eu --kind workspace --parent acme`,
		Args: oneID,
	}
	cmd.Flags().StringVar(&kind, "kind", "", "`WHAT` it stands for: account, workspace, …")
	mayBeEmpty(cmd.Flags(), "kind")
	f.register(cmd)
	cmd.RunE = n.run(func(ctx context.Context, args []string) error {
		id, err := namespaceID(args)
		if err != nil {
			return err
		}
		spec := api.NamespaceRequest{ID: id, Kind: kind,
			Parent: given(cmd, "parent", f.parent).Value, Name: f.name, EditPolicy: f.policy,
			Reach: f.reach, KeyRoles: f.keyRoles, TokenPrefix: f.prefix,
			ChildPrefix: f.childPrefix}
		return n.created(ctx, func(server *client.Client, ctx context.Context) (api.Namespace,
			error) {
			return server.CreateNamespace(ctx, spec)
		})
	})
	return cmd
}

func (n *namespaceObjects) editCommand() *cobra.Command {
	var f namespaceFlags
	var noParent, noReach, anyRoles, noPrefix, noChildPrefix bool
	cmd := &cobra.Command{
		Use:   "edit ID",
		Short: "Changes a namespace's name, parent, or what holds for its keys",
		Long: `
Changes what the flags name and leaves the rest. --no-parent, --no-reach,
--any-key-roles, --no-token-prefix and --no-child-prefix remove something.

Exit status 3 means that the change is made and some node may still go by what
was before; standard error says which, and until when.`,
		Example: `  caddy apikeys namespaces edit acme --name "Acme Corporation"
  caddy apikeys namespaces edit acme --edit-policy grow_only --if-version 3`,
	}
	f.register(cmd)
	flags := cmd.Flags()
	flags.BoolVar(&noParent, "no-parent", false, "Remove it from its parent")
	flags.BoolVar(&noReach, "no-reach", false, "Limit the grants of its keys to this namespace")
	flags.BoolVar(&anyRoles, "any-key-roles", false, "Let its keys have any roles or none")
	flags.BoolVar(&noPrefix, "no-token-prefix", false, "Use the deployment's first prefix")
	flags.BoolVar(&noChildPrefix, "no-child-prefix", false, "Allow any ids for namespaces below it")
	for with, without := range map[string]string{
		"parent": "no-parent", "reach": "no-reach", "key-role": "any-key-roles",
		"token-prefix": "no-token-prefix",
		"child-prefix": "no-child-prefix",
	} {
		cmd.MarkFlagsMutuallyExclusive(with, without)
	}
	return n.editing(cmd, "Changed", func() (api.NamespacePatch, error) {
		patch := api.NamespacePatch{
			Name: given(cmd, "name", f.name), EditPolicy: given(cmd, "edit-policy", f.policy),
			Parent: given(cmd, "parent", f.parent),
			Reach:  given(cmd, "reach", f.reach), KeyRoles: given(cmd, "key-role", f.keyRoles),
			TokenPrefix: given(cmd, "token-prefix", f.prefix),
			ChildPrefix: given(cmd, "child-prefix", f.childPrefix),
		}
		if noParent {
			patch.Parent = api.Null[string]()
		}
		if noReach {
			patch.Reach = api.Null[[]string]()
		}
		if anyRoles {
			patch.KeyRoles = api.Null[[]string]()
		}
		if noPrefix {
			patch.TokenPrefix = api.Null[string]()
		}
		if noChildPrefix {
			patch.ChildPrefix = api.Null[string]()
		}
		return patch, nil
	})
}
