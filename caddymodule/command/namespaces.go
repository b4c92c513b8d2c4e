package command

import (
	"context"
	"errors"
	"strconv"
	"strings"

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
		cli: c, noun: "namespace", argument: "ID", example: "acme", id: namespaceID,
		describe: func(n api.Namespace) string { return "namespace " + n.ID },
		header:   "ID\tKIND\tNAME\tEDIT POLICY\tPARENT\tCREATED",
		cells: func(n api.Namespace) []string {
			return []string{n.ID, n.Kind, n.Name, n.EditPolicy, textOr(n.Parent, ""),
				timeText(n.CreatedAt)}
		},
		limits: func(n api.Namespace) string {
			return limitsText(n.DefaultPlan, n.RateLimit, n.Quota, "none")
		},
		rows: namespaceRows,
		limitsOf: func(n api.Namespace) (*api.RateLimit, *api.Quota, int64) {
			return n.RateLimit, n.Quota, n.Version
		},
		changes: func(done api.NamespaceChanged) (api.Namespace, api.Propagation) {
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
A namespace is a tenant, an account or a workspace in which a key is valid. The
namespace "default" always exists. Any other must be created before keys can be
created in it and before requests to it are accepted.`,
	}, n.listCommand("Lists namespaces, newest first", `  caddy apikeys namespaces list
  caddy apikeys namespaces list --limits
  caddy apikeys namespaces list --json | jq -r '.items[].id'`, (*client.Client).ListNamespaces),
		n.showCommand("Shows a namespace", `  caddy apikeys namespaces show acme`),
		n.createCommand(), n.editCommand(),
		n.deleteCommand("Deletes an empty namespace", `
Deletes a namespace that has no children, roles, plans or keys and that no grant
names. The namespace "default" cannot be deleted.`))
}

// namespaceID returns a namespace's id from the command line.
func namespaceID(args []string) (string, error) {
	if !keystore.ValidNamespaceID(args[0]) {
		return "", errors.New("a namespace's id must be 1 to 64 letters, digits, '.', '_', '~' " +
			"and '-', beginning with a letter or digit; home is reserved")
	}
	return args[0], nil
}

func namespaceRows(n api.Namespace) [][2]string {
	rows := [][2]string{
		{"Id", n.ID}, {"Kind", n.Kind}, {"Parent", textOr(n.Parent, "none")}, {"Name", n.Name},
		{"Edit policy", n.EditPolicy},
		{"Reach", joinedOr(n.Reach, "none")}, {"Key roles", joinedOr(n.KeyRoles, "any")},
		{"Token prefix", textOr(n.TokenPrefix, "the first of the configuration")},
		{"Child prefix", textOr(n.ChildPrefix, "none")},
		{"Rate limit", rateText(n.RateLimit, unreadableOr("none", n.Unreadable, "rate_limit"))},
		{"Quota", quotaText(n.Quota, unreadableOr("none", n.Unreadable, "quota"))},
		{"Default plan", textOr(n.DefaultPlan, "none")},
		{"Max lifetime", textOr(n.MaxLifetime, "none")}, {"Idle", idleText(n.Idle)},
		{"On leak", n.OnLeak},
		{"Created", timeText(n.CreatedAt)}, {"Version", strconv.FormatInt(n.Version, 10)},
	}
	if n.Unreadable != "" {
		rows = append(rows, [2]string{"Unreadable", n.Unreadable})
	}
	return rows
}

func idleText(r *api.IdleRule) string {
	if r == nil {
		return "the deployment decides"
	}
	return r.Then + " after " + r.After
}

// namespaceFlags are the flags that namespaces create and edit share.
type namespaceFlags struct {
	name, policy, parent, prefix, childPrefix, plan string
	maxLifetime, idle, onLeak                       string
	reach, keyRoles                                 []string
	limits                                          limitFlags
}

// idleRule returns the rule of --idle, or nil without the flag.
func (f *namespaceFlags) idleRule() (*api.IdleRule, error) {
	if f.idle == "" {
		return nil, nil
	}
	after, then, ok := strings.Cut(f.idle, "=")
	if !ok {
		return nil, errors.New("--idle must be TIME=notify or TIME=inactivate, such as " +
			"90d=inactivate")
	}
	return &api.IdleRule{After: after, Then: then}, nil
}

func (f *namespaceFlags) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.name, "name", "", "Display `NAME`")
	mayBeEmpty(flags, "name")
	flags.StringVar(&f.policy, "edit-policy", "",
		"`POLICY`: free, or grow_only, under which no edit removes permissions from its keys")
	flags.StringVar(&f.parent, "parent", "", "Parent `NAMESPACE`")
	flags.StringSliceVar(&f.reach, "reach", nil,
		"`KIND` of descendants in which keys' data permissions here apply too; may be repeated")
	flags.StringSliceVar(&f.keyRoles, "key-role", nil,
		"`ROLE` that its keys must have, and no other; may be repeated; * alone: at least one role")
	flags.StringVar(&f.prefix, "token-prefix", "",
		"`PREFIX` of its keys' tokens, which the configuration must accept")
	flags.StringVar(&f.childPrefix, "child-prefix", "",
		"`PREFIX` that the ids of its new descendants must have")
	f.limits.register(cmd, "all its keys together")
	flags.StringVar(&f.plan, "default-plan", "", "`PLAN` of its keys without a plan of their own")
	flags.StringVar(&f.maxLifetime, "max-lifetime", "",
		"`TIME`, such as 90d, within which its new keys must expire")
	flags.StringVar(&f.idle, "idle", "",
		"`TIME=ACTION` for its unused keys: notify or inactivate, such as 90d=inactivate")
	flags.StringVar(&f.onLeak, "on-leak", "",
		"`ACTION` for its keys whose token is reported as leaked: notify, inactivate or revoke")
}

func (n *namespaceObjects) createCommand() *cobra.Command {
	var f namespaceFlags
	var kind string
	cmd := &cobra.Command{
		Use:   "create ID",
		Short: "Creates a namespace",
		Long: `
Creates a namespace. Its id appears in requests and keys. The id and the kind, a
word of your choice, cannot be changed.`,
		Example: `  caddy apikeys namespaces create acme --kind account --name "Acme Inc."
  caddy apikeys namespaces create acme-eu --kind workspace --parent acme`,
		Args: oneID,
	}
	cmd.Flags().StringVar(&kind, "kind", "",
		"`KIND` of the namespace, such as account or workspace")
	mayBeEmpty(cmd.Flags(), "kind")
	f.register(cmd)
	cmd.RunE = n.cli.run(func(ctx context.Context, args []string) error {
		id, err := namespaceID(args)
		if err != nil {
			return err
		}
		spec := api.NamespaceRequest{ID: id, Kind: kind,
			Parent: given(cmd, "parent", f.parent).Value, Name: f.name, EditPolicy: f.policy,
			Reach: f.reach, KeyRoles: f.keyRoles, TokenPrefix: f.prefix,
			ChildPrefix: f.childPrefix, DefaultPlan: f.plan, MaxLifetime: f.maxLifetime,
			OnLeak: f.onLeak}
		if spec.Idle, err = f.idleRule(); err != nil {
			return err
		}
		if spec.RateLimit, spec.Quota, err = f.limits.read(cmd); err != nil {
			return err
		}
		return n.created(ctx, func(server *client.Client, ctx context.Context) (api.Namespace,
			error) {
			return server.CreateNamespace(ctx, spec)
		})
	})
	return cmd
}

func (n *namespaceObjects) editCommand() *cobra.Command {
	var f namespaceFlags
	var noParent, noReach, anyRoles, noPrefix, noChildPrefix, noPlan, noMax, noIdle bool
	cmd := &cobra.Command{
		Use:   "edit ID",
		Short: "Changes a namespace's name, parent, limits or rules for its keys",
		Long: `
Changes what the flags name and keeps the rest. --no-parent, --no-reach,
--any-key-roles, --no-token-prefix, --no-child-prefix, --no-rate, --no-quota,
--no-default-plan, --no-max-lifetime and --no-idle remove a setting. --rate
replaces the whole rate limit, with its burst, and --quota the quota. --burst,
--shadow-rate and --shadow-quota alone change only that part of the current
limit.

Exit status 3 means that the change is committed and some nodes may not have
applied it yet; standard error names them and says until when.`,
		Example: `  caddy apikeys namespaces edit acme --name "Acme Corporation"
  caddy apikeys namespaces edit acme --edit-policy grow_only --if-version 3
  caddy apikeys namespaces edit acme --default-plan gold --quota 1000000/month
  caddy apikeys namespaces edit acme --max-lifetime 90d --idle 90d=inactivate
  caddy apikeys namespaces edit acme --on-leak revoke`,
	}
	f.register(cmd)
	flags := cmd.Flags()
	flags.BoolVar(&noParent, "no-parent", false, "Remove it from its parent")
	flags.BoolVar(&noReach, "no-reach", false, "Remove all kinds of --reach")
	flags.BoolVar(&anyRoles, "any-key-roles", false, "Allow its keys any roles, or none")
	flags.BoolVar(&noPrefix, "no-token-prefix", false, "Use the first prefix of the configuration")
	flags.BoolVar(&noChildPrefix, "no-child-prefix", false, "Remove the child prefix")
	f.limits.registerRemovals(cmd, "")
	flags.BoolVar(&noPlan, "no-default-plan", false, "Remove the default plan")
	flags.BoolVar(&noMax, "no-max-lifetime", false, "Let its new keys expire at any time, or never")
	flags.BoolVar(&noIdle, "no-idle", false, "Let the deployment decide about its unused keys")
	for with, without := range map[string]string{
		"parent": "no-parent", "reach": "no-reach", "key-role": "any-key-roles",
		"token-prefix": "no-token-prefix",
		"child-prefix": "no-child-prefix", "default-plan": "no-default-plan",
		"max-lifetime": "no-max-lifetime", "idle": "no-idle",
	} {
		cmd.MarkFlagsMutuallyExclusive(with, without)
	}
	return n.editing(cmd, "Changed", func(current currentLimits) (
		patch api.NamespacePatch, err error,
	) {
		patch = api.NamespacePatch{
			Name: given(cmd, "name", f.name), EditPolicy: given(cmd, "edit-policy", f.policy),
			Parent: given(cmd, "parent", f.parent),
			Reach:  given(cmd, "reach", f.reach), KeyRoles: given(cmd, "key-role", f.keyRoles),
			TokenPrefix: given(cmd, "token-prefix", f.prefix),
			ChildPrefix: given(cmd, "child-prefix", f.childPrefix),
			DefaultPlan: given(cmd, "default-plan", f.plan),
			MaxLifetime: given(cmd, "max-lifetime", f.maxLifetime),
			OnLeak:      given(cmd, "on-leak", f.onLeak),
		}
		rule, err := f.idleRule()
		if err != nil {
			return patch, err
		}
		if rule != nil {
			patch.Idle = api.Some(*rule)
		}
		if noMax {
			patch.MaxLifetime = api.Null[string]()
		}
		if noIdle {
			patch.Idle = api.Null[api.IdleRule]()
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
		if noPlan {
			patch.DefaultPlan = api.Null[string]()
		}
		patch.RateLimit, patch.Quota, err = f.limits.patch(cmd, current)
		return patch, err
	})
}
